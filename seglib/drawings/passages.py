"""What passes through a network: the feature maps of one image, without their values."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from .. import models

Shape = tuple[int, ...]  # (channels, height, width)


class Passage(NamedTuple):
    """One call of one module.

    Attributes:
        name: dotted name of the module in its network; empty for the network itself.
        inputs, outputs: the tensors, on the device `meta`: shapes without values.
    """

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Record(NamedTuple):
    """Every passage of one image through a network, in the order in which the modules finished."""

    model: nn.Module
    passages: list[Passage]

    def output(self, name: str) -> Shape:
        """(channels, height, width) of the last output of a module."""
        return _shape(self._last(name).outputs[0])

    def inputs(self, name: str) -> list[Shape]:
        """(channels, height, width) of what went into a module the last time."""
        return [_shape(tensor) for tensor in self._last(name).inputs]

    def ran(self, name: str) -> bool:
        """Whether the module was called."""
        return any(passage.name == name for passage in self.passages)

    def _last(self, name: str) -> Passage:
        return next(passage for passage in reversed(self.passages) if passage.name == name)


def record(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> Record:
    """Send one image through a copy of the network that computes shapes only.

    Args:
        size: of the image, one side or (height, width). The channels are those that the network
            takes.

    Raises:
        ValueError: the network cannot take an image of this size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    without_values = copy.deepcopy(model).to("meta")
    # The heads of deep supervision run in training mode only.
    without_values.train(bool(getattr(model, "auxiliary", ())))
    if hasattr(without_values, "checkpointing"):
        without_values.checkpointing = False
    passages: list[Passage] = []

    def remember(name: str):
        def hook(_module, args, kwargs, output):
            passages.append(Passage(name, list(_tensors((args, kwargs))), list(_tensors(output))))

        return hook

    for name, module in without_values.named_modules():
        module.register_forward_hook(remember(name), with_kwargs=True)
    image = torch.empty(2, _in_channels(model), height, width, device="meta")
    try:
        with torch.no_grad():
            without_values(image)
    except RuntimeError as error:
        message = f"size: {type(model).__name__} cannot take an image of {height} x {width} pixels"
        raise ValueError(f"{message} ({error})") from error
    return Record(model, passages)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The feature maps (N, C, H, W) in nested arguments or outputs."""
    if isinstance(value, Tensor):
        if value.ndim == 4:
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape[1:])


def _in_channels(model: nn.Module) -> int:
    """What the network takes: its own attribute, else that of the first convolution."""
    if hasattr(model, "in_channels"):
        return model.in_channels
    first = models.input_layer(model)
    return getattr(first, "in_channels", 1)


def shape_table(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> pd.DataFrame:
    """What each part of a network returns for one image.

    Args:
        size: of the image, one side or (height, width).

    Returns:
        A row for the image, one for each part in the order in which the parts run, and one for the
        logits. Columns: `part` (its dotted name in the network), `skip` (channels that arrive over
        a skip connection, else 0), `channels`, `height`, `width` of what it returns, and
        `parameters`, whose sum is `models.n_parameters(model)`.

    Raises:
        ValueError: the network cannot take an image of this size.
    """
    recorded = record(model, size)
    rows = [("image", 0, *recorded.inputs("")[0], 0)]
    for name, skip, shape, parameters in _parts(recorded):
        rows.append((name, skip, *shape, parameters))
    rows.append(("logits", 0, *recorded.output(""), 0))
    return pd.DataFrame(rows, columns=["part", "skip", "channels", "height", "width", "parameters"])


def _parts(recorded: Record) -> list[tuple[str, int, Shape, int]]:
    """(name, channels over a skip connection, output shape, parameters) of each part that ran."""
    if hasattr(recorded.model, "encoder") and hasattr(recorded.model, "decoder"):
        names = [f"decoder.blocks.{i}" for i in range(len(recorded.model.decoder.blocks))]
        parts = [
            (f"encoder, stage {number}", 0, shape, parameters)
            for number, (shape, parameters) in enumerate(encoder_stages(recorded), 1)
        ]
        names.append("segmentation_head")
    else:
        children = recorded.model.named_children()
        names = [name for child, module in children for name in _expanded(child, module)]
        first_pass = [passage.name for passage in recorded.passages]
        names = sorted(filter(recorded.ran, names), key=first_pass.index)
        parts = []
    for name in names:
        module = recorded.model.get_submodule(name)
        parameters = models.n_parameters(module)
        if parameters:
            skip = skip_channels(recorded, name)
            parts.append((name, skip, recorded.output(name), parameters))
    return parts


def _expanded(name: str, module: nn.Module) -> list[str]:
    """The module itself, or the items of a list of modules."""
    if isinstance(module, nn.ModuleList):
        return [f"{name}.{number}" for number in range(len(module))]
    return [name]


def skip_channels(recorded: Record, name: str) -> int:
    """Channels of the second input of a block of a decoder."""
    inputs = recorded.inputs(name)
    return inputs[1][0] if len(inputs) > 1 else 0


def encoder_stages(recorded: Record) -> list[tuple[Shape, int]]:
    """(shape, parameters) of each feature map that an encoder of smp hands to the decoder.

    A parameter belongs to the first feature map that was finished after its module had run.
    """
    encoder = next(passage for passage in recorded.passages if passage.name == "encoder")
    modules = dict(recorded.model.named_modules())
    stages, start = [], 0
    for feature in encoder.outputs[1:]:  # the first one is the image itself
        # The last module that returns this tensor, other than the encoder, which returns all.
        makers = [
            number
            for number, passage in enumerate(recorded.passages)
            if len(passage.outputs) == 1 and passage.outputs[0] is feature
        ]
        end = max(makers, default=start - 1) + 1
        parameters = [
            parameter.numel()
            for passage in recorded.passages[start:end]
            for parameter in modules[passage.name].parameters(recurse=False)
            if parameter.requires_grad
        ]
        stages.append((_shape(feature), sum(parameters)))
        start = end
    return stages


def first_conv(module: nn.Module) -> nn.Conv2d:
    """The first convolution in a module, in the order in which its parts were defined."""
    return next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


def kernel(layer: nn.Conv2d | nn.ConvTranspose2d) -> str:
    """The size of a kernel as text, such as "3 × 3"."""
    return " × ".join(map(str, layer.kernel_size))
