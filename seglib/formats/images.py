"""Reading, decoding, resizing and writing pixels. Taught in `01_data_preparation`.

One library reads every picture (Pillow: it knows palettes, GIF and 16 bit, and refuses truncated files), so that
channels are always RGB and sizes are always (height, width).
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from .. import files
from ..errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
IGNORE = 255  # mask value of pixels that no loss, metric or curve may count
UNION = "|"  # a mask cell "left.png|right.png" means the union of both files


class Mask(NamedTuple):
    """A decoded mask: `pixels` (H, W) uint8 (0/1, or class numbers), `how` it was decoded, and whether 0 and 1
    look swapped (the frame's border is foreground)."""

    pixels: np.ndarray
    how: str
    looks_inverted: bool = False


def read_pixels(path: str | Path) -> tuple[np.ndarray, str, np.ndarray | None]:
    """The pixels as they are stored: (H, W) or (H, W, C), Pillow's mode, and the palette (256, 3) or None.

    Raises:
        DataError: no such file, empty file, not an image, truncated, several pictures, or too many pixels to be one.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {_why_no_file(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # a library may have switched this on for the whole process
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as picture:
            # A telephone's MPO holds a preview or a second eye behind its photograph.
            n_pictures = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if n_pictures > 1:
                raise DataError(
                    f"{path}: a file of {n_pictures} pictures (frames or pages); expected one: split it, a file each"
                )
            picture.load()
            palette = None
            if picture.mode == "P":
                flat = np.array(picture.getpalette("RGB"), np.uint8)
                palette = np.zeros((256, 3), np.uint8)
                palette[: len(flat) // 3] = flat.reshape(-1, 3)
            elif picture.mode in ("PA", "CMYK", "YCbCr", "LAB", "HSV"):
                picture = picture.convert("RGB")
            return np.asarray(picture), picture.mode, palette
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise errors of a dozen kinds
        raise DataError(
            f"{path}: not readable as an image ({type(error).__name__}: {error}); it may be cut short or be another "
            "format than its suffix says: copy it again, or open and save it anew"
        ) from error


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file; rename it, or put the file in its place"
    if path.is_symlink():
        return "a link that leads nowhere; copy the file itself"
    if os.path.lexists(path):
        return "not a plain file; copy the file itself"
    return "no such file; check the path and the spelling of its suffix"


def exif_orientation(path: str | Path) -> int:
    """How a viewer turns the picture before it shows it, by its EXIF tag: 1 not at all; 3 upside down; 5 to 8 on its
    side. Pixels are read as they are stored (but those of TIFF, which Pillow turns)."""
    with Image.open(path) as picture:
        value = 1 if picture.format == "TIFF" else picture.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def read_image(
    path: str | Path, channels: int = 3, percentiles: tuple[float, float] | None = None
) -> np.ndarray:
    """An image as (H, W, channels) uint8, RGB order. Palettes become colours, alpha is cut off, more than 8 bits are
    stretched (see `to_uint8`). Colour becomes grey by the luma weights 0.299, 0.587, 0.114 where channels is 1."""
    pixels, mode, palette = read_pixels(path)
    if mode == "P":
        pixels = palette[pixels]
    elif mode == "1":
        pixels = pixels.astype(np.uint8) * 255
    elif mode in ("LA", "RGBA"):
        pixels = pixels[..., 0] if mode == "LA" else pixels[..., :3]
    try:
        return as_channels(to_uint8(pixels, percentiles), channels)
    except DataError as error:  # those functions know no file
        raise DataError(f"{path}: {error}") from error


def to_uint8(image: np.ndarray, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """8-bit pixels. uint8 stays as it is unless percentiles are given; anything else (12- and 16-bit X-rays, floats)
    is stretched linearly from its percentiles (default its smallest and largest value) to 0..255."""
    if image.dtype == np.uint8 and percentiles is None:
        return image
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    if finite.size == 0:
        raise DataError(
            "the image holds no finite number; nothing can be shown or learned from it: export it again"
        )
    low, high = np.percentile(finite, percentiles or (0, 100))
    scaled = (np.nan_to_num(image.astype(np.float32), nan=low) - low) / max(high - low, 1e-12)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 as (H, W, channels): grey is repeated, colour is turned to grey."""
    image = image[..., None] if image.ndim == 2 else image
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if found in (2, 4):  # alpha last
        return as_channels(image[..., : found - 1], channels)
    if found == 3 and channels == 1:
        return np.rint(image @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)[
            ..., None
        ]
    raise DataError(
        f"the image has {found} channels, the network takes {channels}; set in_channels={found}"
    )


# ---- masks


def read_mask(paths: str, encoding: str | dict[str, int] = "auto", inverted: bool = False) -> Mask:
    """The mask of one class, (H, W) uint8 of 0 and 1; several files joined by `|` are united.

    Args:
        paths: one path, or several joined by `|`.
        encoding: auto (decodes what is unambiguous and says how), threshold (above 127), index (above 0), or a
            table of colours `{"255,0,0": 1}`.
        inverted: True where 0 is the structure.

    Raises:
        DataError: unreadable, ambiguous, or parts of different sizes.
    """
    parts = [_read_part(path, encoding) for path in paths.split(UNION)]
    shapes = {part.pixels.shape for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"{paths}: the parts of one mask have different sizes {sorted(shapes)}; they must agree"
        )
    pixels = np.bitwise_or.reduce([1 - part.pixels if inverted else part.pixels for part in parts])
    how = " + ".join(dict.fromkeys(part.how for part in parts))
    return Mask(pixels, how + (", inverted" if inverted else ""), looks_inverted(pixels))


def looks_inverted(pixels: np.ndarray) -> bool:
    """Whether the border of a 0/1 mask is foreground, as where 0 is the structure (which may fill most of it)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool(border.mean() > 0.8)


def read_labels(
    path: str, encoding: str | dict[str, int], n_classes: int, label_map: dict[str, int]
) -> Mask:
    """A label map, (H, W) uint8 of class numbers; 255 stays 255 = ignored.

    Args:
        encoding: auto or index (the numbers in the file), a table of colours `{"255,0,255": 3}`, or, where there is one
            class beside the background, threshold (above 127).
        label_map: number in the file -> class; numbers that it does not name become background. Empty: as they are.
    """
    if encoding == "threshold":
        if n_classes != 2:
            raise DataError(
                f"{path}: mask_encoding='threshold' tells two classes apart, and there are {n_classes}; set 'index' or "
                "a table of colours"
            )
        return Mask(_read_part(path, encoding).pixels, "threshold")
    pixels, mode, palette = read_pixels(path)
    if isinstance(encoding, dict):
        labels = _by_colour(path, pixels, palette, encoding)
        _check_numbers(path, labels, n_classes)
        return Mask(labels, "table of colours")
    if pixels.ndim == 3:
        if not (pixels[..., :3] == pixels[..., :1]).all():
            raise DataError(
                f"{path}: the labels are colours ({_colours(pixels)}); give mask_encoding a table such as "
                '{"0,255,255": 1}'
            )
        pixels = pixels[..., 0]
    return map_numbers(path, pixels, n_classes, label_map)


def map_numbers(path: str, numbers: np.ndarray, n_classes: int, label_map: dict[str, int]) -> Mask:
    """The numbers of a label map -> class numbers, as in `read_labels`; `path` names the file in errors."""
    labels = numbers.astype(np.int64)
    if label_map:
        table = {int(k): v for k, v in label_map.items()}
        numbers, inverse = np.unique(labels, return_inverse=True)
        classes = np.array([table.get(int(v), IGNORE if v == IGNORE else 0) for v in numbers])
        labels = classes[inverse].reshape(labels.shape)
    _check_numbers(path, labels, n_classes)
    return Mask(labels.astype(np.uint8), "label numbers" + (" by label_map" if label_map else ""))


def _check_numbers(path: str, labels: np.ndarray, n_classes: int) -> None:
    wrong = sorted(set(np.unique(labels).tolist()) - {*range(n_classes), IGNORE})
    if wrong:
        raise DataError(
            f"{path}: label numbers {wrong[:8]} are not among the classes 0..{n_classes - 1}; set label_map, "
            "for example {'200': 1}"
        )


def _read_part(path: str, encoding: str | dict[str, int]) -> Mask:
    pixels, mode, palette = read_pixels(path)
    if isinstance(encoding, dict):
        return Mask(
            (_by_colour(path, pixels, palette, encoding) > 0).astype(np.uint8), "table of colours"
        )
    if mode == "1":
        return Mask(pixels.astype(np.uint8), "1 bit")
    if encoding in ("threshold", "index"):
        if mode == "P" and encoding == "threshold":
            pixels = palette[pixels]
        grey = pixels.max(axis=2) if pixels.ndim == 3 and pixels.shape[2] in (1, 3) else pixels
        grey = pixels[..., :-1].max(axis=2) if grey.ndim == 3 else grey  # LA, RGBA: alpha last
        top = grey.max()
        limit = 127 if top > 1 else 0.5  # 0..255, or 0..1 in whole numbers or fractions
        return Mask(
            (grey > (0 if encoding == "index" else top / 2 if top > 255 else limit)).astype(
                np.uint8
            ),
            encoding,
        )
    if mode == "P":
        return _auto_palette(path, pixels, palette)
    if mode in ("LA", "RGBA"):
        alpha, pixels = pixels[..., -1], pixels[..., :-1]
        if alpha.min() != alpha.max():
            if (pixels != pixels[:1, :1]).any():
                raise _ambiguous(
                    path,
                    "both its colours and its transparency vary",
                    "save it without transparency",
                )
            return _auto_grey(path, alpha, "transparency, ")
    if pixels.ndim == 3:
        if (pixels == pixels[..., :1]).all():
            return _auto_grey(path, pixels[..., 0])
        return _auto_colour(path, pixels)
    return _auto_grey(path, pixels)


def _auto_palette(path: str, pixels: np.ndarray, palette: np.ndarray) -> Mask:
    present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    if len(present) > 2:
        if (palette[present] == palette[present][:, :1]).all():
            return _auto_grey(path, palette[pixels][..., 0], "grey palette, ")
        raise _ambiguous(
            path,
            f"a palette image with {len(present)} colours",
            "mask_encoding='index' takes every number above 0",
        )
    brightness = palette[present].astype(int).sum(axis=1)
    if len(present) == 2 and brightness[0] > brightness[1]:
        raise _ambiguous(
            path,
            f"its palette shows number {present[1]} darker than number {present[0]}",
            "mask_encoding='index'",
        )
    return Mask(
        (pixels > (present[0] if len(present) == 2 else 0)).astype(np.uint8), "palette index"
    )


def _auto_grey(path: str, grey: np.ndarray, prefix: str = "") -> Mask:
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise DataError(f"{path}: the mask holds values that are not numbers (NaN or infinite)")
    values = np.unique(grey)
    if len(values) <= 2:
        full = len(values) == 1 and values[0] > 0
        pixels = (grey > (0 if full or len(values) == 1 else values[0])).astype(np.uint8)
        return Mask(pixels, f"{prefix}values {'/'.join(f'{v:g}' for v in values)}")
    top = float(values[-1])
    if top <= 40:
        shown = ", ".join(f"{v:g}" for v in values[:8])
        raise _ambiguous(
            path,
            f"{len(values)} different values ({shown}…), as in a label map",
            "mask_encoding='index' takes all above 0",
        )
    scaled = grey.astype(np.float32) * (255 / top)
    between = (scaled >= 32) & (scaled < 224)
    thick = _inner(between).sum() / max(between.sum(), 1)
    if thick > 0.002:  # grey areas, not the grey rim that resizing or JPEG leaves
        raise _ambiguous(
            path,
            f"{between.mean():.0%} of its pixels are neither dark nor bright (soft mask or label map)",
            "mask_encoding='threshold' cuts at 127",
        )
    if len(values) <= 8 and sum(_inner(grey == v).any() for v in values) > 2:
        shown = ", ".join(f"{v:g}" for v in values)
        raise _ambiguous(
            path,
            f"areas of {len(values)} values ({shown})",
            "mask_encoding='index' takes all above 0",
        )
    return Mask((scaled > 127).astype(np.uint8), f"{prefix}grey edges, cut at 127")


def _auto_colour(path: str, pixels: np.ndarray) -> Mask:
    brightest = pixels.max(axis=2)
    strong = pixels[brightest > brightest.max() / 2].astype(np.float32)
    hues = strong / strong.max(axis=1, keepdims=True)
    one_hue = bool((np.abs(hues - np.median(hues, axis=0)) < 0.5).all())
    if one_hue and (brightest < brightest.max() / 8).any():
        return _auto_grey(path, brightest, "one colour on black, ")
    raise _ambiguous(
        path,
        f"several colours ({_colours(pixels)})",
        'mask_encoding={"255,0,0": 1} names the structure\'s',
    )


def _ambiguous(path: str, found: str, do: str) -> DataError:
    return DataError(
        f"{path}: ambiguous mask: found {found}; expected two values, or dark and bright with thin grey edges; {do}"
    )


def _inner(mask: np.ndarray) -> np.ndarray:
    """What is left of a mask after cutting 2 pixels from its rim."""
    for axis in (0, 1):
        mask = mask & np.roll(mask, 2, axis) & np.roll(mask, -2, axis)
    return mask


def _colours(pixels: np.ndarray) -> str:
    colours, counts = np.unique(pixels[..., :3].reshape(-1, 3), axis=0, return_counts=True)
    common = colours[np.argsort(-counts)][:5]
    return ", ".join(str(tuple(int(c) for c in colour)) for colour in common) + (
        "…" if len(colours) > 5 else ""
    )


def _by_colour(
    path: str, pixels: np.ndarray, palette: np.ndarray | None, table: dict[str, int]
) -> np.ndarray:
    if palette is not None:
        pixels = palette[pixels]
    pixels = as_channels(
        to_uint8(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels), 3
    )
    code = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    labels = np.full(code.shape, -1, np.int16)
    labels[code == 0] = 0  # black is background unless the table says otherwise
    for colour, number in table.items():
        red, green, blue = (int(part) for part in colour.split(","))
        labels[code == red * 65536 + green * 256 + blue] = number
    if (labels < 0).any():
        unknown = _colours(pixels[labels < 0][None])
        raise DataError(
            f"{path}: colours {unknown} are not in the mask_encoding table {list(table)}; add them"
        )
    return labels.astype(np.uint8)


# ---- geometry


def fit_box(
    original: tuple[int, int], size: tuple[int, int], how: str
) -> tuple[int, int, int, int]:
    """Where an image of `original` (height, width) lies in a frame of `size`: (top, left, height, width)."""
    if how == "stretch":
        return 0, 0, *size
    scale = min(size[0] / original[0], size[1] / original[1])
    height, width = (max(1, round(side * scale)) for side in original)
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def fit_image(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """(H, W, C) uint8 -> (*size, C): bilinear with antialiasing; a letterbox pads with black."""
    top, left, height, width = fit_box(image.shape[:2], size, how)
    planes = [
        _resample(image[..., c], (height, width), Image.Resampling.BILINEAR)
        for c in range(image.shape[2])
    ]
    frame = np.zeros((*size, image.shape[2]), np.uint8)
    frame[top : top + height, left : left + width] = np.stack(planes, axis=-1)
    return frame


def fit_mask(mask: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """(H, W) uint8 -> size: nearest neighbour; the padding of a letterbox is `IGNORE`."""
    top, left, height, width = fit_box(mask.shape, size, how)
    frame = np.full(size, IGNORE, np.uint8)
    frame[top : top + height, left : left + width] = _resample(
        mask, (height, width), Image.Resampling.NEAREST
    )
    return frame


def unfit(prob: np.ndarray, original: tuple[int, int], how: str) -> np.ndarray:
    """Probabilities (C, *size) float32 of the frame -> (C, *original): padding cut off, bilinear."""
    top, left, height, width = fit_box(original, prob.shape[1:], how)
    inside = prob[:, top : top + height, left : left + width].astype(np.float32)
    if inside.shape[1:] == tuple(original):
        return inside
    planes = [_resample(plane, original, Image.Resampling.BILINEAR) for plane in inside]
    return np.stack(planes)


def _resample(plane: np.ndarray, size: tuple[int, int], filter: Any) -> np.ndarray:
    if plane.shape == tuple(size):
        return plane
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(plane)).resize((size[1], size[0]), filter)
    )


# ---- writing


def write_png(path: str | Path, pixels: np.ndarray) -> Path:
    """(H, W), (H, W, 1) or (H, W, 3) uint8 as PNG, to a temporary name first, so that no half file stays behind."""
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    with files.replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")
    return Path(path)


def sha256(path: str | Path) -> str:
    """The hash of a file's content, which tells equal files under different names."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
