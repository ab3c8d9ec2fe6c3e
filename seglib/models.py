"""Networks in plain torch: they know no file and no config object. Taught in `02` to `06`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class Up(nn.Module):
    """Double the size of the deep features, join the skip connection, convolve twice.

    (N, in_channels, h, w) and (N, skip_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels + skip_channels, out_channels, (in_channels + skip_channels) // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.conv = DoubleConv(in_channels // 2 + skip_channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.up(deep)
        rows, columns = skip.shape[-2] - deep.shape[-2], skip.shape[-1] - deep.shape[-1]
        if rows or columns:  # an odd side lost a row or column when it was pooled
            deep = F.pad(deep, (0, columns, 0, rows), mode="replicate")
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
    """

    def __init__(
        self, in_channels: int = 3, n_classes: int = 1, base_channels: int = 64, depth: int = 4, bilinear: bool = False
    ):
        super().__init__()
        channels = [base_channels * 2**level for level in range(depth + 1)]  # 64, 128, 256, 512, 1024
        halve = 2 if bilinear else 1  # bilinear upsampling does not halve the channels, so the level below does
        channels[-1] //= halve
        self.first = DoubleConv(in_channels, channels[0])
        self.down = nn.ModuleList(DoubleConv(channels[i], channels[i + 1]) for i in range(depth))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList()
        deep = channels[-1]
        for level in reversed(range(depth)):
            out = channels[level] // (halve if level else 1)
            self.up.append(Up(deep, channels[level], out, bilinear))
            deep = out
        self.head = nn.Conv2d(deep, n_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = [self.first(image)]  # (N, 64, H, W)
        for block in self.down:
            features.append(block(self.pool(features[-1])))  # (N, 128, H/2, W/2) ...
        deep = features.pop()
        for block in self.up:
            deep = block(deep, features.pop())
        return self.head(deep)  # (N, n_classes, H, W)


def build(architecture: str = "unet", *, in_channels: int, n_classes: int, **fields) -> nn.Module:
    """A network from plain values: `build("unet", in_channels=1, n_classes=1, base_channels=64)`.

    Raises:
        ValueError: an architecture that this module does not have.
    """
    if architecture == "unet":
        wanted = {name: fields[name] for name in ("base_channels", "depth", "bilinear") if name in fields}
        return UNet(in_channels, n_classes, **wanted)
    raise ValueError(f"architecture: {architecture!r} cannot be built; this version has 'unet'")


def n_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
