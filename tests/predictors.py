"""Predictors of small networks, and images for them: what the tests of `inference` share."""

import numpy as np
import torch
from torch import nn

from seglib import config, runs
from seglib.inference import Predictor

TASKS = {
    "binary": ("lung", {}),
    "multilabel": ("palm", {}),
    "multiclass": ("cardiac", {"architecture": "unet", "percentiles": None}),
}


def config_of(task, **overrides):
    name, fields = TASKS[task]
    values = {"base_channels": 4, "depth": 2, "augment": {}, "patch_size": None, "stem": "full"}
    return config.preset(name, "smoke", **{**values, **fields, **overrides})


def predictor_of(task, **overrides):
    """A network with random weights; its batch norms are not the identity, all classes occur."""
    cfg = config_of(task, **overrides)
    torch.manual_seed(0)
    network = runs.network(cfg)
    noise = torch.randn(4, cfg.in_channels, *cfg.height_width)
    with torch.no_grad():
        logits = network(noise)
        spread = 2 / logits.std(dim=(0, 2, 3))
        network.head.weight *= spread[:, None, None, None]
        network.head.bias.copy_((network.head.bias - logits.mean(dim=(0, 2, 3))) * spread)
    return Predictor(network, cfg, device="cpu", precision="fp32")


def bright(cfg, **options):
    """An untrained network: class k is where channel k (or grey) is brighter than the mean."""
    network = nn.Conv2d(cfg.in_channels, cfg.n_classes, 1)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.zero_()
        for k in range(cfg.n_classes):
            network.weight[k, min(k, cfg.in_channels - 1)] = 8
    return network


def load(path):
    """The predictor of a weights file, on the CPU and in full precision."""
    return Predictor.load(path, device="cpu", precision="fp32")


GREY = np.random.default_rng(0).integers(0, 256, (50, 61), np.uint8)


def ellipse(height, width):
    """A bright ellipse, off the centre, on a dark image (H, W) uint8; and its mask."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows / height - 0.4) / 0.25) ** 2 + ((columns / width - 0.6) / 0.3) ** 2 < 1
    return np.where(mask, 220, 20).astype(np.uint8), mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


class Gradient(torch.nn.Module):
    """Logits that depend on the place within a tile, so that tiles show."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        ramp = torch.linspace(-1, 1, image.shape[-1])
        return image.mean(1, keepdim=True) + ramp + self.bias


def patch_predictor(**changes):
    """Of `Gradient`, as if trained by patches of 32 pixels in frames of 64 x 96."""
    values = {"image_size": (64, 96), "patch_size": 32, "augment": {}, **changes}
    return Predictor(Gradient(), config.preset("lung", "smoke", **values), "cpu", "fp32")


class Convolutions(torch.nn.Module):
    """A network that sees `reach` pixels in every direction, and is not symmetric."""

    def __init__(self, channels=1, classes=1, reach=2):
        super().__init__()
        torch.manual_seed(0)
        kernel = 1 if reach == 0 else 3
        sizes = [channels, *[4] * (max(reach, 1) - 1), classes]
        self.layers = torch.nn.Sequential(
            *(torch.nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b in zip(sizes, sizes[1:]))
        )

    def forward(self, image):
        return 3 * self.layers(image)


def predictor(preset="lung", reach=2, **changes):
    """Of `Convolutions`."""
    cfg = config.preset(preset, "smoke", **changes)
    return Predictor(Convolutions(cfg.in_channels, cfg.n_classes, reach), cfg, "cpu", "fp32")


def noise(shape, seed=0):
    """An image of random pixels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
