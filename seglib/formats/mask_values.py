"""Which values a mask file holds, and how many pixels have each: numbers, or colours.

Here nothing is decided about their meaning: `layouts.classes` compares the files of a data set.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from . import codecs, images, mask_pixels, volumes

# A file with more is no label map: JPEG, interpolation, or a picture.
MOST_NUMBERS, MOST_COLOURS = 64, 32

Colour = tuple[int, int, int]


class Values(NamedTuple):
    """The values of one mask file.

    Attributes:
        path: the file.
        counts: number or (red, green, blue) -> its pixels, with the background; empty where there
            are too many values for classes, or none that are exact.
        palette: number -> its colour, of a palette image.
        structure: of a file that shows one structure, the value that it has there; None: the file
            shows several, or none.
        is_single: whether the file shows one structure or is empty.
        n_pixels: the number of pixels or voxels.
    """

    path: str
    counts: dict[int | Colour, int]
    palette: dict[int, Colour]
    structure: mask_pixels.Value | None
    is_single: bool
    n_pixels: int

    def by_colour(self) -> dict[int | Colour, int]:
        """`counts` with the colours that a viewer shows in place of numbers."""
        counts: Counter[int | Colour] = Counter()
        for value, count in self.counts.items():
            colour = self.palette.get(value, value) if isinstance(value, int) else value
            counts[(colour,) * 3 if isinstance(colour, int) else colour] += count
        return dict(counts)


def read(path: str | Path) -> Values:
    """The values of a mask: a picture, a NIfTI file, or a DICOM series of labels.

    Raises:
        DataError: unreadable.
    """
    if volumes.is_volume(path):
        return _of_volume(str(path))
    pixels, mode, palette = images.read_pixels(path)
    if mode in ("LA", "RGBA") and pixels[..., -1].min() == pixels[..., -1].max():
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3) and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    counts: dict[int | Colour, int] = {}
    if not codecs.header(path).is_jpeg:
        counts = _counted(str(path), pixels, mode)
    structures = [value for value in counts if value not in (0, (0, 0, 0))]
    if palette is None and len(structures) < len(counts) <= 2:
        structure = (
            mask_pixels.normal(np.array(structures[0]), pixels.dtype) if structures else None
        )
        single: tuple[mask_pixels.Value | None, bool] = (structure, True)
    elif _are_small_and_255(counts):
        single = (None, False)
    else:
        single = _single(str(path))
    colours = {}
    if palette is not None:
        numbers = [number for number in counts if isinstance(number, int)]
        colours = {n: tuple(palette[n].tolist()) for n in numbers if n < len(palette)}
    return Values(str(path), counts, colours, *single, pixels.shape[0] * pixels.shape[1])


def _of_volume(path: str) -> Values:
    """The numbers of a label volume."""
    numbers = mask_pixels.whole_numbers(path, np.atleast_2d(volumes.read_numbers(path)))
    counts = _rising(numbers)
    structures = [number for number in counts if number != 0]
    structure = structures[0] if len(structures) == 1 else None
    return Values(path, counts, {}, structure, len(structures) < 2, numbers.size)


def _are_small_and_255(counts: dict[int | Colour, int]) -> bool:
    """Whether 255 stands beside class numbers: grey edges would have other values as well."""
    numbers = [value for value in counts if isinstance(value, int)]
    small = [number for number in numbers if 0 < number <= mask_pixels.LARGEST_NUMBER]
    others = set(numbers) - {0, 255, *small}
    return bool(small) and 255 in numbers and not others


def _single(path: str) -> tuple[mask_pixels.Value | None, bool]:
    """The value of the one structure in a picture; and whether it shows one, or none."""
    try:
        mask = mask_pixels.read_mask(path)
    except DataError:
        return None, False
    return (mask.drawn[0][2] if mask.drawn else None), True


def _counted(path: str, pixels: np.ndarray, mode: str) -> dict[int | Colour, int]:
    """How many pixels have each value of a picture, (H, W) or (H, W, C); {} for too many values."""
    if pixels.ndim == 3 and (pixels.shape[2] != 3 or pixels.dtype != np.uint8):
        return {}
    if pixels.ndim == 3:
        code = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        codes, counts = np.unique(code, return_counts=True)
        if len(codes) > MOST_COLOURS:
            return {}
        colours = [(c >> 16, c >> 8 & 255, c & 255) for c in codes.tolist()]
        return dict(zip(colours, counts.tolist()))
    try:
        numbers = mask_pixels.stored_numbers(path, pixels, mode)
    except DataError:  # fractions
        return {}
    return _rising(numbers)


def _rising(numbers: np.ndarray) -> dict[int | Colour, int]:
    """How often each number occurs, the smallest first; {} for too many, or negative ones."""
    present, counts = np.unique(numbers, return_counts=True)
    if len(present) > MOST_NUMBERS or present[0] < 0:
        return {}
    return dict(zip(map(int, present), counts.tolist()))
