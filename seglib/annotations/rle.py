"""Run-length encoding of masks as COCO defines it: numbers, or the same as a short text.

The runs of a mask go down its columns, from the left column to the right one. They alternate
between background and structure, beginning with background, so that the first run may be 0. The
compressed text of a run has groups of 5 bits, the lowest group first, with 48 added to make
printable characters; from the fourth run on the text holds the difference to the run two before.
Defined by the COCO API (`common/maskApi.c`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError

BITS = 5  # of a run in each character
MORE = 1 << BITS  # the bit that says: another character of this run follows
OFFSET = 48
MOST_CHARACTERS = 7  # of one run: 35 bits, more than any picture needs
MOST_PIXELS = 1 << 28  # of one mask: 16384 x 16384


def encode(
    mask: np.ndarray, top: int = 0, left: int = 0, height: int = 0, width: int = 0
) -> list[int]:
    """The runs of a mask (H, W); every value but 0 is structure.

    Args:
        top, left, height, width: where the mask is a box of a larger one, the row and column of its
            upper left pixel there, and the size of the larger one.
    """
    pixels = np.asarray(mask, bool)
    height, width = height or pixels.shape[0], width or pixels.shape[1]
    framed = np.pad(pixels.T, ((0, 0), (1, 1))).astype(np.int8)  # (columns, rows + 2)
    column, row = np.nonzero(np.diff(framed, axis=1))
    edges = (column + left) * height + row + top  # begin, end, begin, end, ...
    # A run that ends a column may go on in the next one.
    goes_on = edges[1:-1:2] == edges[2::2]
    keep = np.ones(len(edges), bool)
    keep[1:-1:2] = keep[2::2] = ~goes_on
    ends = np.concatenate([edges[keep], [height * width]])
    runs = np.diff(ends, prepend=0)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return runs.tolist()


def decode(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of its runs.

    Raises:
        DataError: the size is none, or too large for a mask; a run is no whole number from 0; or
            the runs do not have as many pixels as the mask.
    """
    _check_size(height, width)
    lengths = _whole_numbers(runs, height * width)
    n_pixels = int(lengths.sum())
    if n_pixels != height * width:
        raise DataError(
            f"RLE of {n_pixels} pixels, but its size is {height}x{width} = {height * width} "
            "(height x width); the size is that of another image, or the text is cut short"
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape((height, width), order="F")


def compress(runs: Sequence[int]) -> str:
    """The compressed text of runs."""
    numbers = np.asarray(runs, np.int64)
    differences = numbers.copy()
    differences[3:] -= numbers[1:-2]
    n_characters = np.ones(len(differences), int)
    for k in range(1, MOST_CHARACTERS):
        limit = 1 << (BITS * k - 1)
        n_characters += (differences < -limit) | (differences >= limit)
    owner = np.repeat(np.arange(len(differences)), n_characters)
    place = _places(n_characters)
    codes = (differences[owner] >> (BITS * place)) & (MORE - 1)
    codes |= np.where(place < n_characters[owner] - 1, MORE, 0)
    return (codes + OFFSET).astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str | bytes) -> list[int]:
    """The runs of a compressed text.

    Raises:
        DataError: a character that is none of this code, or a run that is cut short, too long or
            negative.
    """
    characters = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    codes = np.frombuffer(characters, np.uint8).astype(np.int64) - OFFSET
    if not len(codes):
        return []
    wrong = np.flatnonzero((codes < 0) | (codes >= 2 * MORE))
    if len(wrong):
        raise DataError(
            f"compressed RLE: character {wrong[0] + 1} is {chr(characters[wrong[0]])!r}; "
            "expected '0' to 'o'"
        )
    ends = np.flatnonzero(codes < MORE)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise DataError("compressed RLE: the text is cut short within its last run")
    n_characters = np.diff(ends, prepend=-1)
    if n_characters.max() > MOST_CHARACTERS:
        raise DataError(
            f"compressed RLE: a run of {n_characters.max()} characters; "
            f"expected at most {MOST_CHARACTERS}"
        )
    bits = (codes & (MORE - 1)) << (BITS * _places(n_characters))
    differences = np.add.reduceat(bits, ends - n_characters + 1)
    is_negative = (codes[ends] & (MORE >> 1)) > 0
    differences -= np.where(is_negative, np.int64(1) << (BITS * n_characters), 0)
    return _summed(differences)


def read(segmentation: Any, height: int | None = None, width: int | None = None) -> np.ndarray:
    """The mask (H, W) bool of an RLE object of COCO, `{"size": [H, W], "counts": ...}`.

    Args:
        segmentation: `counts` is a list of numbers, or a compressed text.
        height, width: of the image, where they are known.

    Raises:
        DataError: the object is none of this form, or of another size than the image.
    """
    fields = segmentation if isinstance(segmentation, dict) else {}
    size, counts = fields.get("size"), fields.get("counts")
    if not _is_size(size) or not isinstance(counts, list | str | bytes):
        raise DataError(
            'RLE: expected {"size": [height, width], "counts": a list of numbers or a text}'
        )
    if height is not None and list(size) != [height, width]:
        raise DataError(
            f"RLE: its size is {size[0]}x{size[1]}, but the image is {height}x{width} "
            "(height x width)"
        )
    _check_size(*size)
    return decode(counts if isinstance(counts, list) else decompress(counts), *size)


def _is_size(size: Any) -> bool:
    """Whether a value of a JSON file is [height, width]; true and false count as numbers there."""
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    return is_pair and all(type(side) is int for side in size)


def _check_size(height: int, width: int) -> None:
    """Refuse the size of a mask before any memory is taken for it."""
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise DataError(
            f"RLE: a mask of {height}x{width} pixels; expected 1 to {MOST_PIXELS} pixels in all"
        )


def _whole_numbers(runs: Sequence[int], n_pixels: int) -> np.ndarray:
    """Runs as an array, each of them 0 to the number of pixels."""
    wrong = next((run for run in runs if type(run) is not int or not 0 <= run <= n_pixels), None)
    if wrong is not None:
        raise DataError(
            f"RLE: a run of {wrong!r:.40}; expected a whole number from 0 to {n_pixels}"
        )
    return np.array(runs, np.int64)


def _places(n_characters: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run."""
    starts = np.cumsum(n_characters) - n_characters
    return np.arange(n_characters.sum()) - np.repeat(starts, n_characters)


def _summed(differences: np.ndarray) -> list[int]:
    """Runs from differences: the first run stands alone, then two running sums alternate."""
    runs = differences.copy()
    runs[1::2] = np.cumsum(differences[1::2])
    runs[2::2] = np.cumsum(differences[2::2])
    return runs.tolist()
