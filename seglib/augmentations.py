"""The random changes of training images and their masks: `cfg.augment`. Taught in
`04_lung_segmentation`.

Only this module imports albumentations, which is slow to load: other modules import this one inside
the functions that need it.
"""

from typing import Any

import albumentations
import cv2

from . import tables
from .tables import IGNORE

FOREGROUND = 0.7  # share of the patches that must contain a pixel of a structure
# How transforms that move pixels fill the places that no pixel of the image moves to.
BORDER = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE}


def pipeline(augment: dict[str, Any], patch_size: tuple[int, int] | None = None):
    """The albumentations pipeline of `cfg.augment`, for uint8 images (H, W, C) and masks (H, W).

    New pixels at the border are black in the image and `IGNORE` in the masks. Masks keep their
    values (nearest neighbour). The transforms are listed in `tables.AUGMENTATIONS`.

    Args:
        patch_size: (height, width) of the patch that is cut out at the end. A share `FOREGROUND` of
            the patches must contain a pixel of a structure (as in nnU-Net, Isensee et al., Nature
            Methods 2021); the others lie anywhere.
    """
    transforms = []
    for name, value in augment.items():
        parameters = value if isinstance(value, dict) else {"p": value}
        settings = {"albumentations": albumentations, "p": 1.0, **parameters}
        transforms.append(tables.call(tables.AUGMENTATIONS[name].build, settings))
    if patch_size is not None:
        on_structure = albumentations.CropNonEmptyMaskIfExists(
            *patch_size, ignore_values=[IGNORE], p=1.0
        )
        anywhere = albumentations.RandomCrop(*patch_size, p=1.0)
        transforms.append(albumentations.OneOrOther(on_structure, anywhere, p=FOREGROUND))
    return albumentations.Compose(transforms)


# The transforms of `tables.AUGMENTATIONS`. The defaults are used for parameters that `cfg.augment`
# does not give.


def hflip(albumentations, p: float):
    """Mirrored left to right."""
    return albumentations.HorizontalFlip(p=p)


def vflip(albumentations, p: float):
    """Mirrored upside down."""
    return albumentations.VerticalFlip(p=p)


def rot90(albumentations, p: float):
    """Turned by 0, 90, 180 or 270 degrees."""
    return albumentations.RandomRotate90(p=p)


def rotate(albumentations, p: float, limit: float = 45):
    """Turned by up to `limit` degrees in either direction."""
    return albumentations.Rotate(limit=(-limit, limit), p=p, **BORDER)


def affine(
    albumentations,
    p: float,
    scale: tuple[float, float] = (0.9, 1.1),
    translate: float = 0.05,
    rotate: float = 15,
):
    """Scaled by a factor in `scale`, shifted by a share of the sides, and turned by degrees."""
    return albumentations.Affine(
        scale=tuple(scale),
        translate_percent=(-translate, translate),
        rotate=(-rotate, rotate),
        p=p,
        **BORDER,
    )


def brightness_contrast(albumentations, p: float, brightness: float = 0.2, contrast: float = 0.2):
    """Brighter or darker by a share of the full range, with more or less contrast."""
    return albumentations.RandomBrightnessContrast(
        (-brightness, brightness), (-contrast, contrast), p=p
    )


def gauss_noise(albumentations, p: float, std: float = 0.05):
    """Gaussian noise of a standard deviation up to `std` of the full range."""
    return albumentations.GaussNoise(std_range=(0.0, std), p=p)


def grid_distortion(albumentations, p: float, limit: float = 0.3):
    """Distorted between the points of a grid, each moved by up to `limit` of a cell."""
    return albumentations.GridDistortion(distort_limit=(-limit, limit), p=p, **BORDER)


def coarse_dropout(
    albumentations, p: float, holes: int = 4, size: float = 0.1, fill: int | str = 0
):
    """Up to `holes` rectangles hidden, each side up to a share `size` of the image's.

    The masks are not changed: the network has to find the structure behind the rectangles.
    """
    return albumentations.CoarseDropout(
        num_holes_range=(1, int(holes)),
        hole_height_range=(size / 2, size),
        hole_width_range=(size / 2, size),
        fill=fill,
        fill_mask=None,
        p=p,
    )
