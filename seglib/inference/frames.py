"""From an array of any size and number type to what the network sees: channels, frame, numbers."""

import math

import numpy as np

from .. import data, hosts
from ..errors import DataError
from ..formats import images, stacks


def to_pixels(image: np.ndarray, cfg) -> np.ndarray:
    """(H, W, channels of the network) uint8 of an array as `Predictor.predict` takes it."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "buif":
        raise DataError(
            f"predict: found an array {image.shape} of {image.dtype}; "
            "expected (H, W) or (H, W, C) numbers"
        )
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if cfg.context_slices or len(cfg.channels) > 1:
        return _sequences(image, cfg)
    if image.ndim == 3 and image.shape[2] in (2, 4) and image.shape[2] != cfg.in_channels:
        image = image[..., :-1]  # transparency must not influence the scaling to 8 bits
    return images.as_channels(images.to_uint8(image, cfg.percentiles), cfg.in_channels)


def _sequences(image: np.ndarray, cfg) -> np.ndarray:
    """(H, W, `input_channels`) uint8 of an array with the channels of a volume's slice.

    Each sequence is scaled to 8 bits on its own, where it has more.
    """
    if image.ndim != 3 or image.shape[2] != cfg.input_channels:
        raise DataError(
            f"predict: found an array {image.shape}; this network takes (H, W, "
            f"{cfg.input_channels}): {stacks.description(cfg)}; predict_volume reads them from "
            "files"
        )
    pixels = np.empty(image.shape, np.uint8)
    for number in range(cfg.in_channels):
        own = np.s_[..., number :: cfg.in_channels]
        pixels[own] = images.to_uint8(image[own], cfg.percentiles)
    return pixels


def of_image(sides: tuple[int, int], cfg) -> tuple[int, int]:
    """(height, width) of the frame in which the network sees an image, as in training.

    A network that was trained by patches without scaling takes an image as it is, padded where it
    is smaller than a patch.
    """
    if cfg.resize == "none" and cfg.patch_size:
        return at_least(sides, cfg.patch_height_width)
    return cfg.height_width


def at_least(shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int]:
    """(height, width), each at least that of `sides`."""
    return max(shape[0], sides[0]), max(shape[1], sides[1])


def exceeds_patch(sides: tuple[int, int], cfg) -> bool:
    """Whether images are larger than the patches that the network was trained with."""
    patch = cfg.patch_height_width
    return patch is not None and any(n > side for n, side in zip(sides, patch))


def check_memory(sides: tuple[int, int], frame: tuple[int, int], cfg) -> None:
    """Refuse an image that this machine cannot hold: the system would end this process.

    Args:
        sides, frame: (height, width) of the image, and of the frame that the network sees.
    """
    n_channels, classes = cfg.input_channels, cfg.n_classes
    # The normalised image and its probabilities, and those at the image's own size, float32.
    n_bytes = 4 * (math.prod(frame) * (n_channels + classes) + math.prod(sides) * classes)
    available = hosts.memory_bytes()
    if available and n_bytes > available:
        raise DataError(
            f"an image of {sides[0]}x{sides[1]} takes at least {n_bytes / 1e9:.1f} GB of "
            f"memory to predict, this machine has {available / 1e9:.1f} GB; cut it into parts"
        )


def network_input(pixels: np.ndarray, cfg, table: np.ndarray) -> np.ndarray:
    """An image (H, W, C) uint8 -> normalised (C, height, width) float32 of its frame.

    Args:
        table: of `data.normalisation_table`.

    Raises:
        DataError: the image is larger than the frame of a network that does not scale.
    """
    height, width = pixels.shape[:2]
    frame = of_image((height, width), cfg)
    try:
        fitted = images.fit_image(pixels, frame, cfg.resize)
    except images.FrameError as error:
        raise DataError(
            f"an image of {height}x{width} is larger than the frame of this network, which was "
            f"trained on whole images of image_size {frame[0]}x{frame[1]} without scaling; "
            "predict it by tiles (predict_tiled, --tiled), or train with patch_size"
        ) from error
    return data.normalise(fitted, table)
