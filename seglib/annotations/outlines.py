"""The outlines of a mask: polygons with holes that follow its edge and change none of its pixels.

The outline runs midway between the centres of the pixels inside and outside (marching squares,
Lorensen and Cline 1987), and is then simplified by Douglas and Peucker (1973). No centre is nearer
to it than 0.35 pixels, so that a simplification by less than that moves no pixel to another side.
The COCO API (`rleFrPoly` of pycocotools) rounds corners, and then the points of edges, to a fifth
of a pixel; this moves an edge by up to 0.2 pixels in x or y, so that less than 0.15 remain.
Pixels that share an edge form one component, as in `inference.clean`. Coordinates are those of
`shapes`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import measure

from ..errors import ConfigError
from .shapes import Part, Ring

# The tolerance at which no pixel changes, in programs that round to a fifth of a pixel too.
EXACT = 0.1


class Component(NamedTuple):
    """One connected component of a mask: `inside` (h, w) bool from row `top`, column `left` on."""

    top: int
    left: int
    inside: np.ndarray

    @property
    def n_pixels(self) -> int:
        return int(np.count_nonzero(self.inside))


def components(mask: np.ndarray) -> Iterator[Component]:
    """The connected components of a mask (H, W), from the top down."""
    labels, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = box
        yield Component(rows.start, columns.start, labels[box] == number)


def check(tolerance: float) -> None:
    """Raise `ConfigError` for a tolerance that is negative or no number."""
    if not 0 <= tolerance < math.inf:
        raise ConfigError(f"tolerance: {tolerance} is not allowed; expected 0 pixels or more")


def part_of(component: Component, tolerance: float = EXACT) -> Part:
    """The outline of a component, followed by its holes.

    Args:
        tolerance: by how many pixels the outline may move for fewer corners. Up to 0.1 the polygons
            cover exactly the pixels of the mask; 0 keeps every corner. Rings that would vanish, as
            those of single pixels, stay exact.

    Raises:
        ConfigError: as `check`.
    """
    check(tolerance)
    framed = np.pad(component.inside, 1).astype(np.uint8)
    contours = measure.find_contours(framed, 0.5, fully_connected="low")
    # Of (row, column) with pixel centres at whole numbers, in a frame of one pixel.
    offset = (component.left - 0.5, component.top - 0.5)
    contours.sort(key=lambda contour: -np.ptp(contour[:, 1]))  # no hole is as wide as the outline
    return tuple(_simplified(contour[:, ::-1], tolerance) + offset for contour in contours)


def _simplified(contour: np.ndarray, tolerance: float) -> Ring:
    """A closed contour, whose last point repeats the first one, as a ring with fewer corners."""
    for limit in (tolerance, min(tolerance, EXACT)):
        ring = measure.approximate_polygon(contour, limit)[:-1]
        if len(ring) >= 3:
            break
    return ring


def joined(part: Part) -> Ring:
    """A polygon with holes as one ring, for formats whose polygons have none.

    The ring visits each hole over a bridge, which it crosses a second time on its way back, so that
    the ring covers the same pixels. Bridges run to the left of a hole and lie inside the structure.
    """
    outline, *holes = part
    for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
        leftmost = int(hole[:, 0].argmin())
        around = np.roll(hole, -leftmost, axis=0)
        corner, at = _bridge(outline, around[0])
        detour = [corner, *around, around[0], corner]
        outline = np.concatenate([outline[: at + 1], detour, outline[at + 1 :]])
    return outline


def _bridge(ring: Ring, point: np.ndarray) -> tuple[np.ndarray, int]:
    """Where a bridge from a point to the left meets a ring, and behind which corner of the ring."""
    x, y = point
    start, end = ring, np.roll(ring, -1, axis=0)
    crossing = np.flatnonzero((start[:, 1] <= y) != (end[:, 1] <= y))
    first, last = start[crossing], end[crossing]
    share = (y - first[:, 1]) / (last[:, 1] - first[:, 1])
    crossed = first[:, 0] + share * (last[:, 0] - first[:, 0])
    to_the_left = crossed <= x
    if not to_the_left.any():  # a coarse tolerance may move a hole over the outline
        nearest = int(((ring - point) ** 2).sum(axis=1).argmin())
        return ring[nearest], nearest
    best = int(np.where(to_the_left, crossed, -np.inf).argmax())
    return np.array([crossed[best], y]), int(crossing[best])
