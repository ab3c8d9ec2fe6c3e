"""Probabilities of a batch as the mean over several views: flipped and rotated images."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

FLIP_AXES = {"hflip": 3, "vflip": 2}  # augmentation -> axis of a batch (N, C, H, W)
NO_FLIPS = (
    "tta has no effect: the network was trained without flips, so that there is nothing to "
    "average. Where a mirrored image of your data is as plausible as the original, name the flips: "
    "hflip, vflip or hflip,vflip"
)


def flip_names(text: str) -> str:
    """Names of flips, checked and in one form: "hflip", "vflip" or "hflip,vflip"."""
    names = {name.strip() for name in text.split(",")} - {""}
    unknown = sorted(names - set(FLIP_AXES))
    if unknown or not names:
        raise ConfigError(
            f"tta: {text!r} is not allowed; expected True, or flips: hflip, vflip or hflip,vflip"
        )
    return ",".join(name for name in FLIP_AXES if name in names)


def flipped_axes(names: Iterable[str]) -> list[tuple[int, ...]]:
    """The axes that each flipped view flips; other names than those of `FLIP_AXES` are ignored."""
    axes = [axis for name, axis in FLIP_AXES.items() if name in names]
    single = [(axis,) for axis in axes]
    return [*single, (2, 3)] if len(axes) == 2 else single


def mean(
    predict: Callable[[Tensor], Tensor],
    batch: Tensor,
    flips: Iterable[tuple[int, ...]],
    degrees: float,
    black: list[float],
) -> Tensor:
    """The mean of the probabilities of a batch, of its flips, and of two rotations.

    Args:
        predict: normalised images (N, C, H, W) -> probabilities (N, K, H, W).
        flips: axes of the batch for each flipped view.
        degrees: angle of the rotations to the left and to the right; 0 for none.
        black: as for `rotated`.
    """
    total = predict(batch)
    n_views: Any = 1  # a number, or (N, 1, H, W) where not every view saw every pixel
    for axes in flips:
        total = total + predict(batch.flip(axes)).flip(axes)
        n_views += 1
    for angle in (degrees, -degrees) if degrees else ():
        prob, coverage = rotated(predict, batch, angle, black)
        total, n_views = total + prob, n_views + coverage
    return total / n_views


def rotated(
    predict: Callable[[Tensor], Tensor], batch: Tensor, degrees: float, black: list[float]
) -> tuple[Tensor, Tensor]:
    """Probabilities of the rotated batch, rotated back; and their coverage (N, 1, H, W).

    Coverage is 0 to 1: corners leave the frame, so that a view covers some pixels partly or not at
    all. The probabilities are already multiplied by it.

    Args:
        black: the normalised value of black in each channel, which a rotation brings in.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional  # heavy

    bilinear = InterpolationMode.BILINEAR
    prob = predict(functional.rotate(batch, degrees, bilinear, fill=black))
    with_coverage = torch.cat([prob, torch.ones_like(prob[:, :1])], dim=1)
    back = functional.rotate(with_coverage, -degrees, bilinear, fill=0)
    return back[:, :-1], back[:, -1:]


def in_halves(compute: Callable[[Tensor], Tensor], batch: Tensor, device: str) -> Tensor:
    """`compute(batch)`; its halves one after the other where they do not fit together.

    Raises:
        DataError: the memory of the device is too small for a single image.
    """
    try:
        return compute(batch)
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            height, width = batch.shape[-2:]
            raise DataError(
                f"out of memory with one image of {height}x{width} pixels; end what else uses "
                f"the {device}, or set device='cpu'"
            ) from error
    # Outside `except`, so that the error no longer holds the tensors of the failed attempt.
    halves = batch.split(math.ceil(len(batch) / 2))
    return torch.cat([in_halves(compute, half, device) for half in halves])
