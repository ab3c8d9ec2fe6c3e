"""Networks in plain torch, without files or config objects. Taught in `02_palm_training`."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from . import tables
from .errors import ConfigError

# Stems: the sides of the blocks of pixels that the first convolution sees as one, see `UNet`.
STEMS = {"full": 1, "space_to_depth": 2}


class DoubleConv(nn.Sequential):
    """3x3 convolution, batch norm and ReLU, twice.

    (N, in_channels, H, W) -> (N, out_channels, H, W), with `mid_channels` in between (by default
    `out_channels`).
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None):
        mid = mid_channels or out_channels
        super().__init__(
            # No bias: batch norm subtracts the mean, and adds a bias of its own.
            nn.Conv2d(in_channels, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class AttentionGate(nn.Module):
    """Additive attention (Oktay et al., arXiv 1804.03999) on a skip connection.

    skip (N, skip_channels, H, W) and deep (N, deep_channels, H, W) -> the skip features, each pixel
    multiplied by a coefficient between 0 and 1. The paper computes the coefficients on the coarse
    grid and enlarges them; here the deep features are enlarged first.
    """

    def __init__(self, skip_channels: int, deep_channels: int):
        super().__init__()
        mid = max(1, skip_channels // 2)
        self.skip = nn.Conv2d(skip_channels, mid, 1, bias=False)  # one bias for the sum is enough
        self.deep = nn.Conv2d(deep_channels, mid, 1)
        self.score = nn.Conv2d(mid, 1, 1)

    def coefficients(self, skip: Tensor, deep: Tensor) -> Tensor:
        """(N, 1, H, W) float32 between 0 and 1: the factor of each pixel of the skip features."""
        return torch.sigmoid(self.score(F.relu(self.skip(skip) + self.deep(deep))))

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        return skip * self.coefficients(skip, deep)


class Up(nn.Module):
    """Enlarge the deep features, concatenate the skip features (gated on request), convolve.

    (N, in_channels, h, w) and (N, skip_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        bilinear: bool,
        attention: bool = False,
    ):
        super().__init__()
        enlarged = in_channels if bilinear else in_channels // 2
        joined = enlarged + skip_channels
        self.gate = AttentionGate(skip_channels, enlarged) if attention else None
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(joined, out_channels, joined // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, enlarged, 2, stride=2)
            self.conv = DoubleConv(joined, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.up(deep)
        rows, columns = skip.shape[-2] - deep.shape[-2], skip.shape[-1] - deep.shape[-1]
        if rows or columns:  # pooling drops the last row or column of an odd side
            deep = F.pad(deep, (0, columns, 0, rows), mode="replicate")
        if self.gate is not None:
            skip = self.gate(skip, deep)
        return self.conv(torch.cat([skip, deep], dim=1))


class UNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) with padded convolutions and batch norm.

    (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W); any H, W of at least 2 ** depth.
    With base_channels=64 and depth=4 it has 31.0 million parameters (bilinear=True: 17.3 million).

    Args:
        in_channels: 1 for grey, 3 for RGB.
        n_classes: logits per pixel.
        base_channels: channels of the first level; every pooling doubles them.
        depth: number of 2x2 max poolings.
        bilinear: upsample bilinearly instead of by a learned 2x2 transposed convolution.
        attention: gate the skip connections, see `AttentionGate`.
        stem: "space_to_depth" moves each block of 2x2 pixels into the channels (Shi et al., CVPR
            2016), so that every level computes at half the sides; the head gives four logits per
            class, which are moved back to the four pixels. Nothing is averaged away. Odd sides are
            padded by one pixel, and the sides must be at least 2 ** (depth + 1).
        deep_supervision: in training mode the network returns a list of logits: after the full
            ones those of a 1x1 convolution on every coarser level of the decoder, the finest first
            (Lee et al., AISTATS 2015), for the weighted loss of `losses.mean_of_levels`. In
            evaluation mode it returns one tensor as ever, and these convolutions do not run.
        checkpointing: keep only the output of every block, and compute the rest a second time in
            the backward pass (Chen et al., arXiv 1604.06174): the same gradients with less memory
            and somewhat more time.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 1,
        base_channels: int = 64,
        depth: int = 4,
        bilinear: bool = False,
        attention: bool = False,
        checkpointing: bool = False,
        stem: str = "full",
        deep_supervision: bool = False,
    ):
        super().__init__()
        if deep_supervision and depth == 1:
            raise ConfigError(
                "deep_supervision: a network of depth 1 has no coarser level in its decoder; set a "
                "larger depth, or deep_supervision to False"
            )
        if stem not in STEMS:
            raise ValueError(f"stem: {stem!r} is unknown; choose from {', '.join(STEMS)}")
        self.in_channels = in_channels
        self.block = STEMS[stem]
        self.logits_per_class = self.block**2
        self.checkpointing = checkpointing
        channels = [base_channels * 2**level for level in range(depth + 1)]  # 64, 128, ..., 1024
        # Bilinear upsampling keeps the number of channels, so the level below has to halve it.
        divisor = 2 if bilinear else 1
        channels[-1] //= divisor
        self.first = DoubleConv(in_channels * self.block**2, channels[0])
        self.down = nn.ModuleList(DoubleConv(channels[i], channels[i + 1]) for i in range(depth))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList()
        self.auxiliary = nn.ModuleList()  # heads of the decoder's levels, the coarsest first
        deep = channels[-1]
        for level in reversed(range(depth)):
            out = channels[level] // (divisor if level else 1)
            self.up.append(Up(deep, channels[level], out, bilinear, attention))
            deep = out
            if deep_supervision and level:
                self.auxiliary.append(nn.Conv2d(out, n_classes, 1))
        self.head = nn.Conv2d(deep, n_classes * self.logits_per_class, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features of every level, the deepest last."""
        features = [self._run(self.first, self._blocks_to_channels(image))]  # (N, 64, H, W)
        for block in self.down:
            features.append(self._run(block, self.pool(features[-1])))  # (N, 128, H/2, W/2) ...
        return features

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features = self.encode(image)
        deep = features.pop()
        coarse_logits: list[Tensor] = []
        for number, block in enumerate(self.up):
            deep = self._run(block, deep, features.pop())
            if self.training and number < len(self.auxiliary):
                coarse_logits.insert(0, self.auxiliary[number](deep))
        height, width = image.shape[-2:]
        logits = self._channels_to_blocks(self.head(deep), height, width)  # (N, n_classes, H, W)
        return [logits, *coarse_logits] if coarse_logits else logits

    def _blocks_to_channels(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 C, H/2, W/2) with the stem "space_to_depth"."""
        if self.block == 1:
            return image
        height, width = image.shape[-2:]
        rows, columns = -height % self.block, -width % self.block
        if rows or columns:
            image = F.pad(image, (0, columns, 0, rows), mode="replicate")
        return F.pixel_unshuffle(image, self.block)

    def _channels_to_blocks(self, logits: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `_blocks_to_channels`: (N, 4 K, H/2, W/2) -> (N, K, H, W)."""
        if self.block == 1:
            return logits
        return F.pixel_shuffle(logits, self.block)[..., :height, :width]

    def _run(self, block: nn.Module, *features: Tensor) -> Tensor:
        if not (self.checkpointing and self.training):
            return block(*features)
        # Contexts of the forward pass, and of the second computation in the backward pass.
        contexts = contextlib.nullcontext(), _frozen_running_means(block)
        return checkpoint(block, *features, use_reentrant=False, context_fn=lambda: contexts)


@contextlib.contextmanager
def _frozen_running_means(block: nn.Module) -> Iterator[None]:
    """Keep the running means of batch norm while a block is computed for the second time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, n_batches) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, n_batches


def _conv(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ASPP(nn.Module):
    """Atrous Spatial Pyramid Pooling (Chen et al., DeepLabv3, arXiv 1706.05587).

    It looks at each place at several scales: a 1x1 convolution, a dilated 3x3 convolution for each
    rate and the mean of the whole image, side by side; a last 1x1 convolution joins them.
    (N, in_channels, h, w) -> (N, out_channels, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        dilated = [_conv(in_channels, out_channels, 3, rate) for rate in rates]
        self.local = nn.ModuleList([_conv(in_channels, out_channels, 1), *dilated])
        # No batch norm: the mean is one value per channel, which a batch of one cannot normalise.
        self.pooled = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(inplace=True))
        self.project = _conv((len(rates) + 2) * out_channels, out_channels, 1)

    def forward(self, deep: Tensor) -> Tensor:
        branches = [branch(deep) for branch in self.local]
        pooled = self.pooled(deep.mean(dim=(2, 3), keepdim=True))  # (N, out_channels, 1, 1)
        branches.append(pooled.expand(-1, -1, *deep.shape[2:]))
        return self.project(torch.cat(branches, dim=1))


class ASPPNet(UNet):
    """Encoder, ASPP on its deepest features (stride 16), bilinear decoder with skip connections.

    It is the bilinear `UNet` of depth 4 with an `ASPP` at its bottom, so that the two can be
    compared.
    (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W); any H, W of at least 16. To train
    on a batch of one image, a side must be 32 or more: batch norm needs more than one pixel in the
    deepest features.
    With in_channels=1, n_classes=4 and base_channels=32 it has 6.5 million parameters.

    Args:
        in_channels: 1 for grey, 3 for RGB.
        n_classes: logits per pixel.
        base_channels: channels of the first level; every pooling doubles them, the last keeps them.
        aspp_rates: dilations in pixels of the deepest features. Where a rate is at least their
            side, that branch acts as a 1x1 convolution.
        attention, checkpointing, stem, deep_supervision: see `UNet`; with the stem
            "space_to_depth" the deepest features have stride 32, and the sides above are twice as
            large.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 4,
        base_channels: int = 32,
        aspp_rates: tuple[int, ...] = (6, 12, 18),
        attention: bool = False,
        checkpointing: bool = False,
        stem: str = "full",
        deep_supervision: bool = False,
    ):
        super().__init__(
            in_channels=in_channels,
            n_classes=n_classes,
            base_channels=base_channels,
            depth=4,
            bilinear=True,
            attention=attention,
            checkpointing=checkpointing,
            stem=stem,
            deep_supervision=deep_supervision,
        )
        self.aspp = ASPP(8 * base_channels, 8 * base_channels, aspp_rates)

    def encode(self, image: Tensor) -> list[Tensor]:
        *features, deep = super().encode(image)
        return [*features, self.aspp(deep)]  # (N, 256, H/16, W/16)


class Ensemble(nn.Module):
    """The mean of the probabilities of several networks, as one network.

    Images (N, C, H, W) -> logits of the mean probability (N, n_classes, H, W) float32: its
    log-odds, or for `multiclass` its logarithm. Sigmoid or softmax give the mean back, so that
    whatever acts on logits, such as a temperature, acts on the mean.
    """

    def __init__(self, networks: Sequence[nn.Module], task: str):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        # Sums of probabilities from their logarithms: exact also where a probability is near 0.
        if self.task == "multiclass":
            total = self._log_of_sum(image, lambda logits: F.log_softmax(logits, dim=1))
            return total - math.log(len(self.networks))
        both = self._log_of_sum(
            image, lambda logits: torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)])
        )
        return both[0] - both[1]

    def _log_of_sum(self, image: Tensor, log_probabilities: Callable[[Tensor], Tensor]) -> Tensor:
        """The logarithm of the sum of the networks' probabilities, one network after the other."""
        first, *others = self.networks
        total = log_probabilities(first(image).float())
        for network in others:
            total = torch.logaddexp(total, log_probabilities(network(image).float()))
        return total


def build(architecture: str = "unet", strict: bool = True, **settings: Any) -> nn.Module:
    """A network of `tables.ARCHITECTURES` by its name: `build("unet", in_channels=1, n_classes=1)`.

    Args:
        settings: fields of `Config` by their names, and `n_classes`. The network receives those
            that its parameters name.
        strict: refuse a setting that asks for a part which this network does not have. False to
            load existing weights: the setting made no difference to their training.

    Raises:
        ValueError: a name that is not in the table.
        ConfigError: a setting asks for a part that only other networks of the table have.
        DataError: see `encoders.smp_unet`.
    """
    if architecture not in tables.ARCHITECTURES:
        choices = ", ".join(tables.ARCHITECTURES)
        raise ValueError(f"architecture: {architecture!r} cannot be built; choose from {choices}")
    if strict:
        _check_parts(architecture, settings)
    return tables.call(tables.ARCHITECTURES[architecture].build, settings)


def _check_parts(architecture: str, settings: dict[str, Any]) -> None:
    """Raise `ConfigError` where a switch is on that only other networks of the table have."""
    parameters = {
        name: tables.parameters(network.build) for name, network in tables.ARCHITECTURES.items()
    }
    for setting, value in settings.items():
        is_on = value is True or (setting == "stem" and value != "full")
        if not is_on or setting in parameters[architecture]:
            continue
        owners = [name for name, names in parameters.items() if setting in names]
        if owners:
            raise ConfigError(
                f"{setting}: {architecture} does not have it; "
                f"use the architecture {' or '.join(owners)}"
            )


def init_output_bias(model: nn.Module, shares: np.ndarray, task: str) -> None:
    """Set the output's bias so that the untrained network predicts each class at about its share.

    Otherwise small structures cost the first epochs, in which the network only learns to predict
    background everywhere (Lin et al., Focal Loss, ICCV 2017, section 4.1).

    Args:
        shares: (classes,) share of the pixels of each class, 0..1, as
            `SegmentationDataset.class_shares` returns them; where it is NaN the bias stays.
        task: "multiclass" for a softmax; a sigmoid otherwise.

    Raises:
        ConfigError: see `output_layer`.
    """
    share = torch.from_numpy(np.clip(shares, 1e-4, 1 - 1e-4))
    prior = share.log() if task == "multiclass" else share.logit()
    for layer in (output_layer(model, len(shares)), *getattr(model, "auxiliary", ())):
        # Several logits of one class stand side by side, see `UNet._channels_to_blocks`.
        start = prior.repeat_interleave(len(layer.bias) // len(prior)).to(layer.bias.device)
        with torch.no_grad():
            layer.bias.copy_(torch.where(start.isnan(), layer.bias.double(), start))


def output_layer(model: nn.Module, n_classes: int) -> nn.Module:
    """The layer that computes the logits: the last convolution or linear layer that runs.

    Raises:
        ConfigError: that layer has no bias, or another number of outputs than `n_classes` (with
            the stem "space_to_depth" four times as many).
    """
    layers = _layers_as_they_run(model)
    last = layers[-1] if layers else None
    n_outputs = getattr(last, "out_channels", getattr(last, "out_features", 0))
    expected = n_classes * getattr(model, "logits_per_class", 1)
    if n_outputs != expected or last.bias is None:
        raise ConfigError(
            f"class_prior: the last layer of {type(model).__name__} is {last}; expected a "
            f"convolution or linear layer with {expected} outputs and a bias; set class_prior to "
            "False, or give the network such a layer"
        )
    return last


def input_layer(model: nn.Module) -> nn.Module | None:
    """The first convolution or linear layer that runs; None where there is none."""
    return next(iter(_layers_as_they_run(model)), None)


@torch.no_grad()
def _layers_as_they_run(model: nn.Module) -> list[nn.Module]:
    """Convolutions and linear layers in the order in which they run on an image.

    The order is found by running a copy on torch's `meta` device, which neither stores nor computes
    values. If the network cannot run there, it is the order in which the layers were defined.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    convolutions = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    possible = [layer.in_channels for layer in convolutions]
    possible.insert(0, getattr(model, "in_channels", possible[0] if possible else 1))
    for in_channels in dict.fromkeys(possible):
        order: list[nn.Module] = []
        try:
            meta_model = copy.deepcopy(model).to("meta").eval()
            for name, layer in layers.items():
                meta_model.get_submodule(name).register_forward_hook(
                    lambda *_, layer=layer, order=order: order.append(layer)
                )
            meta_model(torch.empty(1, in_channels, 256, 256, device="meta"))
        except Exception:  # a network of the user's own may fail in any way
            continue
        return order
    return list(layers.values())


def n_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def receptive_field(
    model: nn.Module,
    size: int | tuple[int, int],
    layer: str = "",
    pixel: tuple[int, int] | None = None,
    n: int = 4,
) -> np.ndarray:
    """How strongly each pixel of the input influences one pixel of the output.

    It is the mean magnitude of the gradient over `n` images of noise. The network's weights and
    mode stay as they are. Used in `05_cardiac_aspp`.

    Args:
        size: input size, one side or (height, width).
        layer: dotted name of the layer whose output is meant; by default the logits. A list of
            branches is taken together: `"aspp.local"` of an `ASPPNet` is all branches except the
            mean of the image, which sees everything.
        pixel: (row, column) in the output of that layer; by default its centre.

    Returns:
        (H, W) float32, 1 at the strongest pixel and exactly 0 where the input has no influence.

    Raises:
        ValueError: the network has no such layer.
    """
    try:
        target = model.get_submodule(layer)
    except AttributeError as error:
        names = ", ".join(name for name, _ in model.named_children())
        message = f"layer: {layer!r} is not in this network; its parts are {names}"
        raise ValueError(message) from error
    outputs: list[Tensor] = []
    branches = list(target) if isinstance(target, nn.ModuleList) else [target]
    hooks = [
        branch.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for branch in branches
    ]
    height, width = (size, size) if isinstance(size, int) else size
    first = next(model.parameters())  # the weight of the first convolution
    in_channels = getattr(model, "in_channels", first.shape[1])
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(n, in_channels, height, width, generator=noise).to(first).requires_grad_()
    training = model.training
    try:
        with torch.enable_grad():
            model.eval()(image)
            row, column = pixel or (outputs[0].shape[-2] // 2, outputs[0].shape[-1] // 2)
            total = sum(output[..., row, column].sum() for output in outputs)
        gradient = torch.autograd.grad(total, image)[0]  # (n, C, H, W)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    field = gradient.abs().sum(dim=(0, 1)).float().cpu().numpy()
    return field / max(float(field.max()), np.finfo(np.float32).tiny)
