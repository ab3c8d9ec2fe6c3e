"""Pictures: reading, resizing and writing. Taught in `01_data_preparation`.

`codecs` reads the files, and `mask_pixels` decodes masks. Images always become RGB or grey, and
sizes are always (height, width).
What can go wrong:

- The numbers of a palette image are not the colours that one sees.
- Of 12 or 16 bits a viewer shows only the upper 8.
- Viewers turn a picture by its orientation tag (EXIF or TIFF). Here the pixels of every format are
  used as they are stored, those of masks too, and a note says so (`notes_of`).
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .. import files
from ..errors import DataError
from ..tables import IGNORE
from . import codecs

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey, ITU-R BT.601


class FrameError(DataError):
    """An image of `size` (height, width) is larger than a frame into which it must fit unscaled."""

    def __init__(self, size: tuple[int, int], frame: tuple[int, int]):
        super().__init__(
            f"its {size[0]}x{size[1]} pixels do not fit into image_size {frame[0]}x{frame[1]} "
            "(height x width), and resize='none' does not scale; set image_size to at least "
            f"({size[0]}, {size[1]}), or resize='letterbox'"
        )
        self.size = size


def read_pixels(path: str | Path) -> tuple[np.ndarray, str, np.ndarray | None]:
    """The pixels of a picture file, the mode, and the palette: see `codecs.read`."""
    return codecs.read(path)


def exif_orientation(path: str | Path) -> int:
    """How a viewer turns the picture before it shows it, by its EXIF or TIFF tag, 1 to 8.

    1: not at all; 3: upside down; 5 to 8: on its side. `read_pixels` never turns the pixels.
    """
    return codecs.header(path).orientation


def notes_of(path: str | Path) -> tuple[str, ...]:
    """What is odd about a picture file, and what was done about it; empty for most files.

    Raises:
        DataError: as `read_pixels`.
    """
    return codecs.header(path).notes


def pixel_mm(path: str | Path) -> tuple[float, float] | None:
    """Height and width of a pixel in mm: see `codecs.pixel_mm`."""
    return codecs.pixel_mm(path)


def read_image(
    path: str | Path, channels: int = 3, percentiles: tuple[float, float] | None = None
) -> np.ndarray:
    """An image as (H, W, channels) uint8, RGB order.

    Palettes become colours, transparency is dropped, more than 8 bits are scaled (`to_uint8`), and
    channels are repeated or made grey (`as_channels`).

    Raises:
        DataError: unreadable, or it cannot have that many channels.
    """
    pixels, mode, palette = read_pixels(path)
    if mode == "P":
        pixels = palette[pixels]
    elif mode == "1":
        pixels = pixels.astype(np.uint8) * 255
    elif mode == "LA":
        pixels = pixels[..., 0]
    elif mode == "RGBA":
        pixels = pixels[..., :3]
    try:
        return as_channels(to_uint8(pixels, percentiles), channels)
    except DataError as error:  # those functions do not know the file's name
        raise DataError(f"{path}: {error}") from error


def to_uint8(image: np.ndarray, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """8-bit pixels, scaled linearly from the image's percentiles to 0..255.

    Without percentiles uint8 stays as it is, and anything else (12- and 16-bit X-rays, floats) is
    scaled from its smallest and largest value. NaN becomes black.

    Raises:
        DataError: no value is finite.
    """
    if image.dtype == np.uint8 and percentiles is None:
        return image
    if image.dtype == np.float16:  # too coarse to compute with
        image = image.astype(np.float32)
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    if finite.size == 0:
        raise DataError(
            "the image holds no finite number; nothing can be shown or learned from it: "
            "export it again"
        )
    low, high = np.percentile(finite, percentiles or (0, 100))
    # In 32 bits, integers beyond 2**24 that differ would become equal.
    is_large = image.dtype.itemsize >= 4 and image.dtype != np.float32
    numbers = image.astype(np.float64 if is_large else np.float32)
    scaled = (np.nan_to_num(numbers, nan=low) - low) / max(high - low, 1e-12)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 as (H, W, channels).

    Grey is repeated, colour is made grey (`LUMA`), transparency is dropped.

    Raises:
        DataError: the image has another number of channels than the network takes.
    """
    if image.ndim == 2:
        image = image[..., None]
    n_channels = image.shape[2]
    if n_channels == channels:
        return image
    if n_channels == 1:
        return np.repeat(image, channels, axis=2)
    if n_channels in (2, 4):  # the last one is transparency
        return as_channels(image[..., :-1], channels)
    if n_channels == 3 and channels == 1:
        grey = np.rint(image @ np.array(LUMA, np.float32)).astype(np.uint8)
        return grey[..., None]
    raise DataError(
        f"the image has {n_channels} channels, the network takes {channels}; "
        f"set in_channels={n_channels}"
    )


# ---- geometry


def fit_box(
    original: tuple[int, int], size: tuple[int, int], resize: str
) -> tuple[int, int, int, int]:
    """Where an image of `original` (height, width) lies after resizing to a frame of `size`.

    Args:
        resize: "stretch" fills the frame; "letterbox" keeps the aspect ratio of the image and
            centres it; "none" centres it without scaling.

    Returns:
        (top, left, height, width)

    Raises:
        FrameError: "none", and the image is larger than the frame.
    """
    if resize == "stretch":
        return 0, 0, *size
    if resize == "none":
        height, width = original
        if height > size[0] or width > size[1]:
            raise FrameError((height, width), size)
    else:
        scale = min(size[0] / original[0], size[1] / original[1])
        height, width = (max(1, round(side * scale)) for side in original)
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def fit_image(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """(H, W, C) uint8 -> (*size, C): bilinear with antialiasing; padding is black.

    Raises:
        FrameError: as `fit_box`.
    """
    top, left, height, width = fit_box(image.shape[:2], size, resize)
    frame = np.zeros((*size, image.shape[2]), np.uint8)
    for channel in range(image.shape[2]):
        plane = _resample(image[..., channel], (height, width), Image.Resampling.BILINEAR)
        frame[top : top + height, left : left + width, channel] = plane
    return frame


def fit_mask(mask: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """(H, W) uint8 -> size: nearest neighbour; padding is `IGNORE`."""
    top, left, height, width = fit_box(mask.shape, size, resize)
    frame = np.full(size, IGNORE, np.uint8)
    plane = _resample(mask, (height, width), Image.Resampling.NEAREST)
    frame[top : top + height, left : left + width] = plane
    return frame


def unfit(prob: np.ndarray, original: tuple[int, int], resize: str) -> np.ndarray:
    """Undo `fit_image` for probabilities: (C, *size) float32 -> (C, *original).

    Padding is cut off, the rest is resized bilinearly.
    """
    top, left, height, width = fit_box(original, prob.shape[1:], resize)
    inside = prob[:, top : top + height, left : left + width].astype(np.float32)
    if inside.shape[1:] == tuple(original):
        return inside
    return np.stack([_resample(plane, original, Image.Resampling.BILINEAR) for plane in inside])


def _resample(plane: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    if plane.shape == tuple(size):
        return plane
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.resize((size[1], size[0]), method))  # Pillow: (width, height)


# ---- writing


def write_png(path: str | Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    """Write a PNG file; a failed write leaves no file behind.

    Args:
        pixels: (H, W) or (H, W, 1 to 4), bool or uint8; uint16 for grey and RGB.
        orientation: the EXIF tag by which viewers turn the picture; 1: none is written.

    Raises:
        DataError: RGB of 16 bits with an orientation tag, which the encoder cannot write.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    options = {}
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if pixels.ndim == 3 and pixels.dtype == np.uint16:  # Pillow writes 8 bits of colours only
        if options:
            raise DataError(
                f"{path}: 16 bits a channel with orientation tag {orientation} cannot be kept in a "
                "PNG file; save the picture turned, without the tag"
            )
        _, encoded = cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
        with files.replacing(path) as partial:
            Path(partial).write_bytes(encoded.tobytes())
        return Path(path)
    with files.replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", **options)
    return Path(path)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content; equal files have the same, whatever their names are."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
