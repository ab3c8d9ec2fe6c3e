"""The random changes of training images and their masks: `cfg.augment`. Taught in
`04_lung_segmentation`; `docs/augmentation.md` shows each of them.

Only this module imports albumentations, which is slow to load: other modules import this one inside
the functions that need it.
"""

from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.augmentations.geometric.distortion import BaseDistortion

from . import config, tables
from .errors import ConfigError
from .tables import IGNORE

# How transforms that move pixels fill the places that no pixel of the image moves to.
BORDER = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE}


def pipeline(augment: dict[str, Any], patch_size: tuple[int, int] | None = None):
    """The albumentations pipeline of `cfg.augment`, for uint8 images (H, W, C) and masks (H, W).

    The changes are made in the order of `augment`. New pixels at the border are black in the image
    and `IGNORE` in the masks. Masks keep their values (nearest neighbour). The transforms are
    listed in `tables.AUGMENTATIONS`.

    Args:
        patch_size: (height, width) of the patch in the middle of the image. Transforms that need
            what lies around it (`tables.Augmentation.region`) act first, all others act on the
            patch alone.
    """
    moving, others = [], []
    for name, value in augment.items():
        parameters = value if isinstance(value, dict) else {"p": value}
        settings = {"albumentations": albumentations, "p": 1.0, **parameters}
        entry = tables.AUGMENTATIONS[name]
        if entry.second_image:
            continue  # `data` does it
        is_moving = patch_size is not None and entry.region is not None
        (moving if is_moving else others).append(tables.call(entry.build, settings))
    if patch_size is not None:
        moving.append(albumentations.CenterCrop(*patch_size, p=1.0))
    return albumentations.Compose([*moving, *others])


def examples(
    image: np.ndarray, mask: np.ndarray, augment: dict[str, Any], n: int = 3, seed: int = 0
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """What each augmentation makes of an image, and, as `together`, all of them.

    `plots.augmentation_samples` shows them.

    Args:
        image: (H, W) or (H, W, C) uint8.
        mask: (H, W), or (K, H, W) for classes that may overlap, uint8.
        augment: as `cfg.augment`. Alone, each of them is certain; together they have their
            probabilities, as in training.
        n: changed images for each.

    Returns:
        name -> n pairs of image and mask in the forms that were given.

    Raises:
        ConfigError: no table, an unknown augmentation, a wrong parameter, an augmentation of
            colours for a grey image, or one that needs a second image.
    """
    augment = config.check("augment", augment)
    if isinstance(augment, str):
        raise ConfigError(f"augment: {augment!r} is a name; give the table, such as cfg.augment")
    config.check_channels(augment, image.reshape(*image.shape[:2], -1).shape[2])
    alone = {}
    for name, value in augment.items():
        if tables.AUGMENTATIONS[name].second_image:
            raise ConfigError(f"augment: {name!r} needs a second image; leave it out here")
        parameters = value if isinstance(value, dict) else {}
        alone[name] = {name: {**parameters, "p": 1.0}}
    changed = {}
    for name, chosen in {**alone, "together": augment}.items():
        transforms = pipeline(chosen)
        transforms.set_random_seed(seed)
        changed[name] = [_changed(transforms, image, mask) for _ in range(n)]
    return changed


def _changed(transforms, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask after a pipeline, in their own forms."""
    pixels = image.reshape(*image.shape[:2], -1)
    planes = list(mask.reshape(-1, *mask.shape[-2:]))
    result = transforms(image=pixels, masks=planes)
    new_image, new_mask = result["image"], np.stack(result["masks"])
    if image.ndim == 2:
        new_image = new_image[..., 0]
    return new_image, new_mask[0] if mask.ndim == 2 else new_mask


# The transforms of `tables.AUGMENTATIONS`. The defaults are used for parameters that `cfg.augment`
# does not give.

# ---- geometry: image and masks change together


def hflip(p: float):
    """Mirrored left to right."""
    return albumentations.HorizontalFlip(p=p)


def vflip(p: float):
    """Mirrored upside down."""
    return albumentations.VerticalFlip(p=p)


def rot90(p: float):
    """Turned by 0, 90, 180 or 270 degrees."""
    return albumentations.RandomRotate90(p=p)


def rotate(p: float, limit: float = 45):
    """Turned by up to `limit` degrees in either direction."""
    return albumentations.Rotate(limit=(-limit, limit), p=p, **BORDER)


def affine(
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


def grid_distortion(p: float, limit: float = 0.3):
    """Distorted between the points of a grid, each moved by up to `limit` of a cell."""
    return albumentations.GridDistortion(distort_limit=(-limit, limit), p=p, **BORDER)


def elastic(p: float, strength: float = 0.02, points: int = 5):
    """Warped smoothly, as soft tissue is; see `Elastic`."""
    return Elastic(strength, int(points), p)


class Elastic(BaseDistortion):
    """Shifts of the points of a coarse grid, interpolated smoothly to every pixel.

    The shifts are normally distributed with a standard deviation of `strength` of the sides, as in
    the first U-Net (Ronneberger et al., MICCAI 2015: 10 pixels of 512). A coarse grid is also much
    faster than the usual noise of full size that is then blurred.
    """

    def __init__(self, strength: float, points: int, p: float):
        super().__init__(cv2.INTER_LINEAR, cv2.INTER_NEAREST, "mask", p, **BORDER)
        self.strength, self.points = strength, points

    def get_params_dependent_on_data(self, params, data) -> dict[str, np.ndarray]:
        """Where each pixel of the result comes from, two arrays (H, W) float32."""
        height, width = params["shape"][:2]
        noise = self.random_generator.normal(0, self.strength, (2, self.points, self.points))
        shift_x, shift_y = (_enlarged(plane, height, width) for plane in noise)
        return {
            "map_x": np.arange(width, dtype=np.float32) + width * shift_x,
            "map_y": np.arange(height, dtype=np.float32)[:, None] + height * shift_y,
        }


# ---- intensities: the masks are not changed


def brightness_contrast(p: float, brightness: float = 0.2, contrast: float = 0.2):
    """Brighter or darker by a share of the full range, with more or less contrast."""
    return albumentations.RandomBrightnessContrast(
        (-brightness, brightness), (-contrast, contrast), p=p
    )


def gamma(p: float, exponent: tuple[float, float] = (0.7, 1.5)):
    """Intensities from 0 to 1 raised to an exponent in this range: middle greys get darker above 1
    and brighter below."""
    return Gamma(tuple(exponent), p)


def intensity_curve(p: float, strength: float = 0.4, per_channel: float = 0.0):
    """Intensities mapped by a random smooth curve that rises everywhere; see `IntensityCurve`."""
    return IntensityCurve(strength, per_channel, p)


def colour(p: float, hue: float = 0.05, saturation: float = 0.3):
    """Hue turned by up to a share `hue` of the colour circle, and saturation changed by up to a
    share; grey stays grey."""
    return albumentations.ColorJitter(
        brightness=(1, 1),
        contrast=(1, 1),
        saturation=(1 - saturation, 1 + saturation),
        hue=(-hue, hue),
        p=p,
    )


def shading(p: float, strength: float = 0.3, points: int = 4):
    """Multiplied by a smooth field; see `Shading`."""
    return Shading(strength, int(points), p)


def gauss_noise(p: float, std: float = 0.05):
    """Gaussian noise of a standard deviation up to `std` of the full range."""
    return albumentations.GaussNoise(std_range=(0.0, std), p=p)


def blur(p: float, sigma: tuple[float, float] = (0.25, 1.5)):
    """Blurred by a Gaussian with a standard deviation in this range, in pixels."""
    return albumentations.GaussianBlur(blur_limit=0, sigma_limit=tuple(sigma), p=p)


def sharpness(p: float, amount: tuple[float, float] = (0.3, 1.5)):
    """Sharpened: `amount` times the difference from the image blurred by one pixel is added."""
    return Sharpness(tuple(amount), p)


def low_resolution(p: float, scale: tuple[float, float] = (0.5, 1.0)):
    """Made smaller by a factor in this range, and as large as before again (as in nnU-Net)."""
    return LowResolution(tuple(scale), p)


def jpeg(p: float, quality: tuple[int, int] = (50, 95)):
    """Compressed as a JPEG file of this quality, from 1 to 100."""
    low, high = quality
    return albumentations.ImageCompression("jpeg", (int(low), int(high)), p=p)


def coarse_dropout(p: float, holes: int = 4, size: float = 0.1, fill: int | str = 0):
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


class Gamma(albumentations.ImageOnlyTransform):
    """A power of the intensities. albumentations' own rounds down, and so darkens at exponent 1."""

    def __init__(self, exponent: tuple[float, float], p: float):
        super().__init__(p=p)
        self.exponent = exponent

    def get_params(self) -> dict[str, np.ndarray]:
        """The table of the new values; the logarithm of the exponent is uniformly distributed."""
        exponent = np.exp(self.random_generator.uniform(*np.log(self.exponent)))
        return {"table": _bytes(np.linspace(0, 1, 256) ** exponent)}

    def apply(self, img: np.ndarray, table: np.ndarray, **params) -> np.ndarray:
        """(H, W, C) uint8, looked up in the table (256,) uint8."""
        return cv2.LUT(img, table).reshape(img.shape)


class IntensityCurve(albumentations.ImageOnlyTransform):
    """A random smooth curve from black to white that rises everywhere.

    Its slope varies by factors whose logarithm has the standard deviation `strength`. One curve
    serves all channels; `per_channel` is the standard deviation of what each channel adds to it.
    Unlike in Models Genesis (Zhou et al., Medical Image Analysis 2021), where the idea comes from,
    no curve falls: which of two tissues is brighter remains true.
    """

    KNOTS = 6  # intensities at which slopes are drawn, from black to white

    def __init__(self, strength: float, per_channel: float, p: float):
        super().__init__(p=p)
        self.strength, self.per_channel = strength, per_channel

    def get_params_dependent_on_data(self, params, data) -> dict[str, np.ndarray]:
        """The new values of all intensities, (C, 256) uint8."""
        shape = params["shape"]
        n_channels = shape[2] if len(shape) > 2 else 1
        slopes = self.random_generator.normal(0, self.strength, self.KNOTS)
        own = self.random_generator.normal(0, self.per_channel, (n_channels, self.KNOTS))
        levels, knots = np.arange(256), np.linspace(0, 255, self.KNOTS)
        rises = np.exp([np.interp(levels, knots, slopes + channel) for channel in own])
        curves = np.cumsum(rises, axis=1)
        curves -= curves[:, :1]
        return {"curves": _bytes(curves / curves[:, -1:])}

    def apply(self, img: np.ndarray, curves: np.ndarray, **params) -> np.ndarray:
        """(H, W, C) uint8, each channel mapped by its curve."""
        planes = [cv2.LUT(plane, curve) for plane, curve in zip(cv2.split(img), curves)]
        return cv2.merge(planes).reshape(img.shape)


class Shading(albumentations.ImageOnlyTransform):
    """Brightness that varies smoothly over the image, the same in all channels.

    Factors from `1 / (1 + strength)` to `1 + strength` at the points of a coarse grid are
    interpolated to every pixel: the bias field of an MR coil, the heel effect and the scatter grid
    of an X-ray tube, a lamp beside the middle of a photograph.
    """

    def __init__(self, strength: float, points: int, p: float):
        super().__init__(p=p)
        self.strength, self.points = strength, points

    def get_params_dependent_on_data(self, params, data) -> dict[str, np.ndarray]:
        """The field, (H, W) float32."""
        height, width = params["shape"][:2]
        exponents = self.random_generator.uniform(-1, 1, (self.points, self.points))
        highest = 1 + self.strength
        field = _enlarged(highest**exponents, height, width)
        return {"field": np.clip(field, 1 / highest, highest)}  # cubic curves overshoot

    def apply(self, img: np.ndarray, field: np.ndarray, **params) -> np.ndarray:
        """(H, W, C) uint8 times (H, W), rounded, at most 255."""
        planes = [cv2.multiply(plane, field, dtype=cv2.CV_8U) for plane in cv2.split(img)]
        return cv2.merge(planes).reshape(img.shape)


class Sharpness(albumentations.ImageOnlyTransform):
    """Unsharp masking. albumentations' own spoils images of one channel."""

    def __init__(self, amount: tuple[float, float], p: float):
        super().__init__(p=p)
        self.amount = amount

    def get_params(self) -> dict[str, float]:
        """How much is added."""
        return {"amount": self.random_generator.uniform(*self.amount)}

    def apply(self, img: np.ndarray, amount: float, **params) -> np.ndarray:
        """(H, W, C) uint8, from 0 to 255 as before."""
        blurred = cv2.GaussianBlur(img, (0, 0), 1.0).reshape(img.shape)
        return cv2.addWeighted(img, 1 + amount, blurred, -amount, 0).reshape(img.shape)


class LowResolution(albumentations.ImageOnlyTransform):
    """Smaller by area averaging, larger again by cubic interpolation.

    albumentations' own fails with more than four channels.
    """

    def __init__(self, scale: tuple[float, float], p: float):
        super().__init__(p=p)
        self.scale = scale

    def get_params(self) -> dict[str, float]:
        """The factor."""
        return {"scale": self.random_generator.uniform(*self.scale)}

    def apply(self, img: np.ndarray, scale: float, **params) -> np.ndarray:
        """(H, W, C) uint8, in the size that it had."""
        height, width = img.shape[:2]
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        planes = [
            cv2.resize(plane, small, interpolation=cv2.INTER_AREA) for plane in cv2.split(img)
        ]
        planes = [
            cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in planes
        ]
        return cv2.merge(planes).reshape(img.shape)


def _enlarged(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A few values, interpolated smoothly to (height, width) float32."""
    plane = plane.astype(np.float32)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC)


def _bytes(shares: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8, rounded."""
    return np.rint(255 * shares).astype(np.uint8)
