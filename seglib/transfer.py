"""Weights to start from that were trained for other classes or other input channels.

Only the output layers, and the first convolution where 1 and 3 channels change places, may differ
from the network; every other difference is refused. Used by `training`.
"""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from . import models, runs
from .errors import ConfigError, DataError

OTHER_CHANNELS = {1: 3, 3: 1}  # grey and RGB, which can be turned into each other


class Start(NamedTuple):
    """What a network starts from.

    Attributes:
        file: the weights file.
        new_layers: the names of the layers that have fresh weights.
        has_new_output: whether the layer of the logits is one of them.
        notes: sentences on what differs between the weights and this training.
    """

    file: Path
    new_layers: list[str]
    has_new_output: bool
    notes: list[str]

    def __str__(self) -> str:
        new = ", ".join(self.new_layers)
        taken = f"all layers are taken, but new: {new}" if new else "all layers are taken"
        return "; ".join([f"init_from {self.file}: {taken}", *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `Run.info`."""
        return {**self._asdict(), "file": str(self.file)}


def start_from(path: Path, network: nn.Module, cfg) -> Start:
    """Load the weights of a file into a network, whose classes may be others.

    Where the number of classes differs, the output layers keep their fresh weights. Where 1 channel
    was trained and 3 are needed, or the other way round, the first convolution is adapted so that
    it answers to a grey picture as before.

    Raises:
        DataError: no such file, a damaged one, or any other difference; see `runs.load_state`.
    """
    state, notes = runs.read_state(path), []
    own = network.state_dict()
    output, *coarser = _output_layers(network, cfg.n_classes)
    new_layers = [
        layer for layer in (output, *coarser) if _is_new(layer, own, state, layer in coarser)
    ]
    for key, value in own.items():
        if _layer_of(key) in new_layers:
            state[key] = value
    left_out = [key for key in state if key.startswith("auxiliary.") and key not in own]
    for key in left_out:
        del state[key]
    if left_out:
        notes.append("the heads of deep supervision are left out")
    notes += _adapt_first_convolution(network, own, state, cfg.input_channels)
    runs.load_state(network, state, str(path))
    notes += _other_settings(path, cfg)
    return Start(path, new_layers, output in new_layers, notes)


def _layer_of(key: str) -> str:
    """The name of the layer that a parameter belongs to: `head` of `head.weight`."""
    return key.rpartition(".")[0]


def _output_layers(network: nn.Module, n_classes: int) -> list[str]:
    """The names of the layer of the logits, and of the heads of deep supervision.

    An empty name where the network is not of this package and does not tell its output.
    """
    try:
        output = models.output_layer(network, n_classes)
    except ConfigError:
        return [""]
    heads = [output, *getattr(network, "auxiliary", ())]
    names = {id(layer): name for name, layer in network.named_modules()}
    return [names[id(head)] for head in heads]


def _is_new(
    layer: str, own: dict[str, Tensor], state: dict[str, Tensor], may_be_missing: bool
) -> bool:
    """Whether an output layer cannot be taken, because it is for another number of classes."""
    keys = [key for key in own if _layer_of(key) == layer]
    if not layer or not all(key in state for key in keys):
        return may_be_missing and not any(key in state for key in keys)
    shapes = [(own[key].shape, state[key].shape) for key in keys]
    same_inputs = all(len(a) == len(b) and a[1:] == b[1:] for a, b in shapes)
    return same_inputs and any(a[0] != b[0] for a, b in shapes)


def _adapt_first_convolution(
    network: nn.Module, own: dict[str, Tensor], state: dict[str, Tensor], in_channels: int
) -> list[str]:
    """Adapt the first convolution in `state` to grey or RGB; returns a note where it was done.

    For grey the weights of the three channels are added up; for RGB each channel gets a third.
    """
    names = {id(layer): name for name, layer in network.named_modules()}
    key = f"{names.get(id(models.input_layer(network)))}.weight"
    if key not in own or key not in state or in_channels not in OTHER_CHANNELS:
        return []
    n_before = OTHER_CHANNELS[in_channels]
    weight, block = state[key], own[key].shape[1] // in_channels  # block: 4 pixels as channels
    expected = (own[key].shape[0], n_before * block, *own[key].shape[2:])
    if tuple(weight.shape) != expected:
        return []
    channels = weight.unflatten(1, (n_before, block)).float()  # (O, C, block, h, w)
    grey = channels.sum(dim=1, keepdim=True)
    state[key] = (grey.expand(-1, in_channels, -1, -1, -1) / in_channels).flatten(1, 2)
    return [f"{key} was adapted from {n_before} to {in_channels} input channels"]


def _other_settings(path: Path, cfg) -> list[str]:
    """Notes on classes, task and normalisation that the weights were trained with, where others."""
    description: dict[str, Any] = {}
    with contextlib.suppress(DataError):  # weights of other programs have no description
        description = runs.describe_weights(path)
    if not description:
        return ["the classes of these weights are unknown, as no description lies beside them"]
    before = description["config"]
    notes = []
    for name in ("class_names", "task"):
        now = getattr(cfg, name)
        now = list(now) if isinstance(now, tuple) else now
        if before.get(name, now) != now:
            verb = "were" if isinstance(now, list) else "was"
            notes.append(f"{name} {verb} {_words(before[name])}, here {_words(now)}")
    if before.get("in_channels") == cfg.in_channels:
        for name in ("mean", "std"):
            now = list(getattr(cfg, name))
            if before.get(name, now) != now:
                notes.append(f"{name} was {_words(before[name])}, here {_words(now)}")
    return notes


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
