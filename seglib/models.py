"""Networks in plain torch: they know no file and no config object. Taught in `04_lung_segmentation`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from . import tables
from .errors import ConfigError


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution, batch norm, ReLU. (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None):
        mid = mid_channels or out_channels
        super().__init__(
            nn.Conv2d(in_channels, mid, 3, padding=1, bias=False),  # batch norm brings the bias
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class AttentionGate(nn.Module):
    """Additive attention (Oktay et al., arXiv 1804.03999): the deep features weigh every pixel of the skip connection.

    skip (N, skip_channels, H, W) and deep (N, deep_channels, H, W) -> the skip times coefficients between 0 and 1. The
    paper weighs on the coarse grid and enlarges the coefficients; here the deep features are enlarged already.
    """

    def __init__(self, skip_channels: int, deep_channels: int):
        super().__init__()
        mid = max(1, skip_channels // 2)
        self.skip = nn.Conv2d(
            skip_channels, mid, 1, bias=False
        )  # the other term of the sum brings the bias
        self.deep = nn.Conv2d(deep_channels, mid, 1)
        self.score = nn.Conv2d(mid, 1, 1)

    def coefficients(self, skip: Tensor, deep: Tensor) -> Tensor:
        """(N, 1, H, W), between 0 and 1: how much of each pixel of the skip passes."""
        return torch.sigmoid(self.score(F.relu(self.skip(skip) + self.deep(deep))))

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        return skip * self.coefficients(skip, deep)


class Up(nn.Module):
    """Double the size of the deep features, join the skip connection (gated, if asked), convolve twice.

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
        self.gate = (
            AttentionGate(skip_channels, in_channels if bilinear else in_channels // 2)
            if attention
            else None
        )
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(
                in_channels + skip_channels, out_channels, (in_channels + skip_channels) // 2
            )
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.conv = DoubleConv(in_channels // 2 + skip_channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.up(deep)
        rows, columns = skip.shape[-2] - deep.shape[-2], skip.shape[-1] - deep.shape[-1]
        if rows or columns:  # an odd side lost a row or column when it was pooled
            deep = F.pad(deep, (0, columns, 0, rows), mode="replicate")
        if self.gate is not None:
            skip = self.gate(skip, deep)
        return self.conv(torch.cat([skip, deep], dim=1))


class UNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) with padded convolutions and batch norm.

    (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W); any H, W of at least 2 ** depth.
    With base_channels=64 and depth=4 it has 31.0 million parameters, with bilinear=True 17.3 million.

    Args:
        in_channels: 1 for grey, 3 for RGB.
        n_classes: logits a pixel.
        base_channels: channels of the first level; every pooling doubles them.
        depth: number of 2x2 max poolings.
        bilinear: upsample bilinearly instead of by a learned 2x2 transposed convolution.
        attention: gate the skip connections, see `AttentionGate`.
        checkpointing: keep the result of every block alone, and compute what lies between once more in the backward
            pass (Chen et al., arXiv 1604.06174): the same gradients in less memory and somewhat more time.
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
    ):
        super().__init__()
        self.checkpointing = checkpointing
        channels = [
            base_channels * 2**level for level in range(depth + 1)
        ]  # 64, 128, 256, 512, 1024
        halve = (
            2 if bilinear else 1
        )  # bilinear upsampling does not halve the channels, so the level below does
        channels[-1] //= halve
        self.first = DoubleConv(in_channels, channels[0])
        self.down = nn.ModuleList(DoubleConv(channels[i], channels[i + 1]) for i in range(depth))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList()
        deep = channels[-1]
        for level in reversed(range(depth)):
            out = channels[level] // (halve if level else 1)
            self.up.append(Up(deep, channels[level], out, bilinear, attention))
            deep = out
        self.head = nn.Conv2d(deep, n_classes, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features of every level, the deepest last."""
        features = [self._run(self.first, image)]  # (N, 64, H, W)
        for block in self.down:
            features.append(self._run(block, self.pool(features[-1])))  # (N, 128, H/2, W/2) ...
        return features

    def forward(self, image: Tensor) -> Tensor:
        features = self.encode(image)
        deep = features.pop()
        for block in self.up:
            deep = self._run(block, deep, features.pop())
        return self.head(deep)  # (N, n_classes, H, W)

    def _run(self, block: nn.Module, *features: Tensor) -> Tensor:
        if not (self.checkpointing and self.training):
            return block(*features)
        contexts = (
            contextlib.nullcontext(),
            _without_running_means(block),
        )  # of the first time, and of the second
        return checkpoint(block, *features, use_reentrant=False, context_fn=lambda: contexts)


@contextlib.contextmanager
def _without_running_means(block: nn.Module) -> Iterator[None]:
    """Batch norm counts every batch once, also where it is computed twice."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, n) in zip(norms, kept):
            norm.momentum, norm.num_batches_tracked = momentum, n


def _conv(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ASPP(nn.Module):
    """Atrous Spatial Pyramid Pooling (Chen et al., DeepLabv3, arXiv 1706.05587): one place seen at several scales.

    A 1x1 convolution, a dilated 3x3 convolution a rate and the mean of the whole image, side by side; a 1x1 convolution
    joins them. (N, in_channels, h, w) -> (N, out_channels, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        dilated = [_conv(in_channels, out_channels, 3, rate) for rate in rates]
        self.local = nn.ModuleList([_conv(in_channels, out_channels, 1), *dilated])
        # No batch norm: it would see one value a channel and image, so in a batch of one nothing but its own mean.
        self.pooled = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(inplace=True))
        self.project = _conv((len(rates) + 2) * out_channels, out_channels, 1)

    def forward(self, deep: Tensor) -> Tensor:
        branches = [branch(deep) for branch in self.local]
        pooled = self.pooled(deep.mean(dim=(2, 3), keepdim=True))  # (N, out_channels, 1, 1)
        branches.append(pooled.expand(-1, -1, *deep.shape[2:]))
        return self.project(torch.cat(branches, dim=1))


class ASPPNet(UNet):
    """Encoder, ASPP on its deepest features (stride 16), bilinear decoder with skip connections.

    It is the bilinear `UNet` of depth 4 with an `ASPP` at its bottom, so that the two can be compared.
    (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W); any H, W of at least 16. Training on a batch of one
    image needs a side of 32, as batch norm needs more than the one deepest pixel.
    With in_channels=1, n_classes=4 and base_channels=32 it has 6.5 million parameters.

    Args:
        in_channels: 1 for grey, 3 for RGB.
        n_classes: logits a pixel.
        base_channels: channels of the first level; every pooling doubles them, the last keeps them.
        aspp_rates: dilations in pixels of the deepest features; a rate at or above their side acts as a 1x1 convolution.
        attention, checkpointing: see `UNet`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 4,
        base_channels: int = 32,
        aspp_rates: tuple[int, ...] = (6, 12, 18),
        attention: bool = False,
        checkpointing: bool = False,
    ):
        super().__init__(in_channels, n_classes, base_channels, 4, True, attention, checkpointing)
        self.aspp = ASPP(8 * base_channels, 8 * base_channels, aspp_rates)

    def encode(self, image: Tensor) -> list[Tensor]:
        *features, deep = super().encode(image)
        return [*features, self.aspp(deep)]  # (N, 256, H/16, W/16)


def build(architecture: str = "unet", **settings: Any) -> nn.Module:
    """The network of that name in `tables.ARCHITECTURES`: `build("unet", in_channels=1, n_classes=1)`.

    Args:
        settings: fields of `Config` by their names, and `n_classes`; those that this network has no parameter for are
            left out.

    Raises:
        ValueError: a name that is not in the table.
        ConfigError: a setting that asks for a part which this network does not have.
        DataError: see `encoders.smp_unet`.
    """
    if architecture not in tables.ARCHITECTURES:
        known = ", ".join(tables.ARCHITECTURES)
        raise ValueError(f"architecture: {architecture!r} cannot be built; choose from {known}")
    entry = tables.ARCHITECTURES[architecture]
    for name in ("attention", "checkpointing"):
        if settings.get(name) and name not in tables.parameters(entry.build):
            raise ConfigError(
                f"{name}: {architecture} does not have it; use the architecture unet or aspp"
            )
    return tables.call(entry.build, settings)


def init_output_bias(model: nn.Module, shares: np.ndarray, task: str) -> None:
    """Set the output's bias so that the untrained network gives every class about its share of the pixels.

    Small structures otherwise cost the first epochs: the network learns little until it calls everything background
    (Lin et al., Focal Loss, ICCV 2017, section 4.1).

    Args:
        shares: (classes,) of the pixels, 0..1, as `SegmentationDataset.class_shares` gives them; a class whose share is
            not a number keeps the bias it has.
        task: "multiclass" for a softmax; a sigmoid otherwise.
    """
    head = model.head if hasattr(model, "head") else model.segmentation_head[0]
    share = torch.from_numpy(np.clip(shares, 1e-4, 1 - 1e-4))
    bias = share.log() if task == "multiclass" else share.logit()
    with torch.no_grad():
        head.bias.copy_(torch.where(bias.isnan(), head.bias.double(), bias))


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
    """How much each pixel of the input moves one pixel of the output: mean size of the gradient over `n` noise images.

    Returns (H, W) float32, 1 at the strongest pixel and exactly 0 where nothing arrives. The network's weights and mode
    stay as they are.

    Args:
        size: input size, one side or (height, width).
        layer: a part of the network by its dotted name; all branches of a list together (`"aspp.local"` are those of
            `ASPPNet` without the image mean, which sees everything); the logits by default.
        pixel: (row, column) in that part's output; its centre by default.

    Raises:
        ValueError: the network has no such layer.
    """
    try:
        part = model.get_submodule(layer)
    except AttributeError as error:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"layer: {layer!r} is not in this network; its parts are {names}"
        ) from error
    outputs: list[Tensor] = []
    parts = list(part) if isinstance(part, nn.ModuleList) else [part]
    hooks = [
        p.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for p in parts
    ]
    training, stem = model.training, next(model.parameters())
    shape = (n, stem.shape[1], *((size, size) if isinstance(size, int) else size))
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(stem).requires_grad_()
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
