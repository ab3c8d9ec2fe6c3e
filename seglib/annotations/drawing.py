"""Shapes of an annotation file -> masks.

A pixel belongs to a polygon where its centre lies inside an odd number of its rings (the even-odd
rule). A centre exactly on an edge belongs to the polygon on the right or below, so that polygons
with a common edge neither overlap nor leave a gap.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..tables import IGNORE
from . import shapes
from .shapes import Annotated, Bitmap, Part, Shape

_CHUNK = 1_000_000  # crossings of edges and rows that are computed at once
_CROSSING = 20  # what a crossing costs, in pixels
# Pixels of all shapes of one image, with what their crossings cost. An image of 12 million pixels
# may have 300 shapes that fill all of it, or millions of small ones.
MOST_WORK = 4_000_000_000
_OUTSIDE = 0.5  # pixels by which a shape may reach over the border before that is counted


class Region(NamedTuple):
    """Pixels of a shape: `inside` (h, w) bool is the part of the image from row `top`, column
    `left` on."""

    top: int
    left: int
    inside: np.ndarray

    def of(self, mask: np.ndarray) -> np.ndarray:
        """The view of a mask (H, W, ...) in which this region lies."""
        height, width = self.inside.shape
        return mask[self.top : self.top + height, self.left : self.left + width]


class Drawing(NamedTuple):
    """The mask of an image, and how its shapes lie.

    Attributes:
        mask: as of `draw`.
        pixels: class -> number of pixels that its shapes paint, again where another class was
            painted over them in between.
        contested: (class below, class above) -> number of pixels that shapes of both cover.
        clipped: the number of shapes that reach over the border of the image.
        outside: the number of shapes that lie wholly outside.
        too_thin: the number of shapes in the image that cover the centre of no pixel.
        n_shapes: the number of shapes of these classes.
    """

    mask: np.ndarray
    pixels: Counter
    contested: Counter
    clipped: int
    outside: int
    too_thin: int
    n_shapes: int


def draw(
    annotated: Annotated, height: int, width: int, class_names: tuple[str, ...], task: str
) -> np.ndarray:
    """The mask of one image.

    Args:
        height, width: of the image that the coordinates belong to.
        class_names: as in a config: for "multiclass" with the background first. Shapes of other
            classes are left out.
        task: "binary", "multiclass" or "multilabel".

    Returns:
        uint8: (H, W) of 0 and 1 for binary; (H, W) class numbers for multiclass, where later shapes
        lie above earlier ones; (H, W, classes) of 0 and 1 for multilabel. 255 where a shape says
        that pixels are to be ignored.

    Raises:
        DataError: the file says another size, a bitmap does not fit into the image, or the shapes
            are too many and too large.
    """
    return drawn(annotated, height, width, class_names, task).mask


def drawn(
    annotated: Annotated, height: int, width: int, class_names: tuple[str, ...], task: str
) -> Drawing:
    """`draw`, with numbers on how the shapes lie: where they overlap, and outside the image."""
    _check_size(annotated, height, width)
    offset = 0 if task == "multiclass" else 1
    number_of = {name: k for k, name in enumerate(class_names, offset)}
    number_of |= {shapes.BACKGROUND: 0, shapes.IGNORED: IGNORE}
    name_of = {number: name for name, number in number_of.items()}
    labels = np.zeros((height, width), np.uint8)
    planes = None
    if task == "multilabel":
        planes = np.zeros((height, width, len(class_names)), np.uint8)
    counts: Counter = Counter()
    pixels: Counter = Counter()
    contested: Counter = Counter()
    scale = (width, height) if annotated.relative else (1, 1)
    budget = [MOST_WORK]
    for shape in annotated.shapes:
        number = number_of.get(shape.class_name)
        if number is None:
            continue
        where = f"{annotated.source}: {annotated.image}: {shape.name}"
        box = _box(shape, scale)
        regions = _regions(shape, scale, height, width, where, budget)
        counts += _place(box, regions, height, width)
        for region in regions:
            below = region.of(labels)
            covered = np.bincount(below[region.inside], minlength=256)
            pixels[shape.class_name] += int(covered.sum() - covered[number])
            for other in np.flatnonzero(covered):
                if number not in (0, IGNORE) and other not in (0, IGNORE, number):
                    contested[name_of[int(other)], shape.class_name] += int(covered[other])
            below[region.inside] = number
            if planes is not None:
                _paint_plane(region.of(planes), region.inside, number)
    mask = labels if planes is None else planes
    return Drawing(
        mask,
        pixels,
        contested,
        counts["clipped"],
        counts["outside"],
        counts["too_thin"],
        counts["shapes"],
    )


def _paint_plane(planes: np.ndarray, inside: np.ndarray, number: int) -> None:
    """Paint a shape into (h, w, classes): its own plane, or all of them."""
    if number in (0, IGNORE):
        planes[inside] = number
    else:
        planes[..., number - 1][inside] = 1


def _check_size(annotated: Annotated, height: int, width: int) -> None:
    said = (annotated.height, annotated.width)
    if not annotated.relative and None not in said and said != (height, width):
        raise DataError(
            f"{annotated.source}: {annotated.image}: annotated at {said[0]}x{said[1]}, but the "
            f"image is {height}x{width} (height x width); expected the image that was annotated: "
            "use that one, or annotate this one"
        )


def _box(shape: Shape, scale: tuple[int, int]) -> np.ndarray:
    """Left, top, right and bottom of a shape."""
    if shape.bitmap is not None:
        bitmap = shape.bitmap
        right, bottom = bitmap.left + bitmap.width, bitmap.top + bitmap.height
        return np.array([bitmap.left, bitmap.top, right, bottom], float)
    corners = np.concatenate([ring for part in shape.parts for ring in part]) * scale
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _place(box: np.ndarray, regions: list[Region], height: int, width: int) -> Counter:
    """The counts of one shape in `Drawing`."""
    left, top, right, bottom = box
    result = Counter(shapes=1)
    is_outside = right <= 0 or bottom <= 0 or left >= width or top >= height
    if is_outside:
        result["outside"] = 1
    elif min(left, top, width - right, height - bottom) < -_OUTSIDE:
        result["clipped"] = 1
    if not is_outside and not any(region.inside.any() for region in regions):
        result["too_thin"] = 1
    return result


def _regions(
    shape: Shape, scale: tuple[int, int], height: int, width: int, where: str, budget: list[int]
) -> list[Region]:
    """The pixels of a shape; what they cost is taken from `budget[0]`."""
    if shape.bitmap is not None:
        regions = [_decoded(shape.bitmap, height, width, where)]
        budget[0] -= regions[0].inside.size
    else:
        regions = []
        for part in shape.parts:
            rings = tuple(ring * scale for ring in part) if scale != (1, 1) else part
            regions.append(_filled(rings, height, width, budget))
    if budget[0] < 0:
        raise DataError(
            f"{where}: the shapes of this image take more than {MOST_WORK:.0e} steps to draw: too "
            "many large ones lie on top of each other, or an outline is too jagged; expected "
            "structures of an image: export them anew"
        )
    return regions


def _filled(part: Part, height: int, width: int, budget: list[int]) -> Region:
    """The pixels whose centres lie inside an odd number of rings.

    Each edge toggles, in each row whose centre line it crosses, all pixels to the right of the
    crossing.
    """
    corners = np.concatenate(part)
    size = (width, height)
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, size).astype(int)
    # One column more takes the crossings to the right of the box.
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
    budget[0] -= toggles.size
    following = np.concatenate([np.roll(ring, -1, axis=0) for ring in part])
    # From the upper end, so that an edge that two polygons share is computed alike in both.
    goes_down = (corners[:, 1] <= following[:, 1])[:, None]
    start, end = np.where(goes_down, corners, following), np.where(goes_down, following, corners)
    first = np.clip(np.ceil(start[:, 1] - 0.5), top, bottom).astype(int)
    stop = np.clip(np.ceil(end[:, 1] - 0.5), top, bottom).astype(int)
    n_rows = stop - first
    budget[0] -= _CROSSING * int(n_rows.sum())
    if budget[0] < 0:
        return Region(top, left, np.zeros((0, 0), bool))
    crossing = np.flatnonzero(n_rows)
    chunk = np.cumsum(n_rows[crossing]) // _CHUNK
    for edges in np.split(crossing, np.flatnonzero(np.diff(chunk)) + 1):
        counts = n_rows[edges]
        begins = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(first[edges] - begins, counts)
        right_of, below = np.repeat((end - start)[edges], counts, axis=0).T
        from_x, from_y = np.repeat(start[edges], counts, axis=0).T
        x = from_x + (rows + 0.5 - from_y) * right_of / below
        columns = np.clip(np.ceil(x - 0.5), left, right).astype(int)
        np.add.at(toggles, (rows - top, columns - left), 1)  # only odd or even matters
    np.cumsum(toggles, axis=1, dtype=np.uint8, out=toggles)
    return Region(top, left, (toggles[:, :-1] & 1).astype(bool))


def _decoded(bitmap: Bitmap, height: int, width: int, where: str) -> Region:
    """The pixels of a bitmap; empty columns (rows) at its ends are left out.

    Raises:
        DataError: its box does not lie in the image, or its runs do not fill it.
    """
    top, left = bitmap.top, bitmap.left
    bottom, right = top + bitmap.height, left + bitmap.width
    if min(top, left, bitmap.height, bitmap.width) < 0 or bottom > height or right > width:
        raise DataError(
            f"{where}: a mask of {bitmap.height}x{bitmap.width} pixels from row {top}, column "
            f"{left} on, but the image is {height}x{width} (height x width); it is of another "
            "image"
        )
    runs = bitmap.runs
    n_pixels = bitmap.height * bitmap.width
    # Each run first: the sum of huge ones overflows, and may then look right.
    if ((runs < 0) | (runs > n_pixels)).any() or int(runs.sum()) != n_pixels:
        raise DataError(
            f"{where}: runs of {sum(runs.tolist())} pixels for a mask of "
            f"{bitmap.height}x{bitmap.width}; the text is cut short or of another image"
        )
    ends = np.cumsum(runs)
    line = bitmap.height if bitmap.by_columns else bitmap.width
    inside = np.flatnonzero(runs[1::2]) * 2 + 1
    if not len(inside):
        return Region(top, left, np.zeros((0, 0), bool))
    first = int(ends[inside[0] - 1]) // line
    last = -(-int(ends[inside[-1]]) // line)
    # Runs are cut to the lines from `first` up to `last`.
    cut = np.diff(np.clip(ends, first * line, last * line), prepend=first * line)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, cut).reshape(-1, line)
    if bitmap.by_columns:
        return Region(top, left + first, pixels.T)
    return Region(top + first, left, pixels)
