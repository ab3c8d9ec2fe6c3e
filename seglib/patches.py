"""Patches: where training cuts them out of a frame, and the tiles that validation scores.

Nothing here reads a whole frame of images: a patch and the surroundings that its augmentation needs
are cut out of the memory-mapped store before anything else is done. Used by `data`.
"""

import inspect
import math
from typing import Any, NamedTuple

import numpy as np

from . import tables

FOREGROUND = 0.7  # share of the patches that are centred near a pixel of a structure
# Pixels of each class that are remembered of each image, to centre patches near one of them.
N_POSITIONS = 500

Sides = tuple[int, int]  # (height, width)
Box = tuple[int, int, int, int]  # top, left, height, width


class Tile(NamedTuple):
    """A tile of an image that validation scores.

    Its first `rows` and `columns` also belong to the tiles before it and must not count again.
    """

    index: int
    top: int
    left: int
    rows: int
    columns: int


# ---- where patches lie


def positions(mask: np.ndarray, task: str, seed: int) -> dict[int, np.ndarray]:
    """Class -> flat positions of up to `N_POSITIONS` of its pixels, (n,) int32.

    Classes that the mask (H, W, K) does not have are left out, and so are background and ignored
    pixels. The positions are drawn uniformly, by `seed` alone.
    """
    rng = np.random.default_rng([seed, 0])
    of_classes: dict[int, np.ndarray] = {}
    if task == "multiclass":
        plane = mask[..., 0].ravel()
        structure = np.flatnonzero((plane > 0) & (plane != tables.IGNORE))
        numbers = plane[structure]
        of_classes = {int(k): structure[numbers == k] for k in np.unique(numbers)}
    else:
        for k in range(mask.shape[-1]):
            of_classes[k] = np.flatnonzero(mask[..., k] == 1)
    return {
        k: flat[rng.integers(len(flat), size=min(len(flat), N_POSITIONS))].astype(np.int32)
        for k, flat in of_classes.items()
        if len(flat)
    }


def draw(
    of_classes: dict[int, np.ndarray],
    box: Box,
    frame: Sides,
    sides: Sides,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Where a patch starts (top, left).

    A share `FOREGROUND` of the patches is centred near a pixel of a class, which is drawn uniformly
    from those that the image has, so that rare classes are seen as often as common ones; at most a
    quarter of the patch lies between that pixel and the centre. The others lie anywhere. No patch
    has padding where it could have a pixel of the image.

    Args:
        of_classes: as `positions` returns it.
        box: where the image lies in its frame.
        frame, sides: (height, width) of the frame, and of a patch, which is no larger.
    """
    centre = None
    if of_classes and rng.random() < FOREGROUND:
        classes = sorted(of_classes)
        flat = rng.choice(of_classes[classes[rng.integers(len(classes))]])
        centre = np.unravel_index(int(flat), frame)
    corner = []
    for axis in range(2):
        low, high = _range(box[axis], box[axis + 2], frame[axis], sides[axis])
        if centre is None:
            start = rng.integers(low, high + 1)
        else:
            quarter = sides[axis] // 4
            start = centre[axis] - sides[axis] // 2 + rng.integers(-quarter, quarter + 1)
        corner.append(int(np.clip(start, low, high)))
    return corner[0], corner[1]


def _range(start: int, length: int, frame: int, side: int) -> tuple[int, int]:
    """The first and the last place along an axis where a patch can start.

    It lies within the image, or has all of it where the image is smaller.
    """
    if length >= side:
        return start, start + length - side
    return max(0, start + length - side), min(frame - side, start)


def cut(frame: np.ndarray, top: int, left: int, sides: Sides, fill: int) -> np.ndarray:
    """A copy of a part of a frame (H, W, C), filled up where it reaches beyond the frame.

    Of a memory-mapped frame only the rows of the part are read.
    """
    part = np.full((*sides, frame.shape[2]), fill, frame.dtype)
    rows, columns = (
        slice(max(0, start), max(0, start + side)) for start, side in zip((top, left), sides)
    )
    source = frame[rows, columns]
    row, column = rows.start - top, columns.start - left
    part[row : row + source.shape[0], column : column + source.shape[1]] = source
    return part


# ---- what augmentation needs around a patch


def region(augment: dict[str, Any], sides: Sides, frame: Sides) -> Sides:
    """(height, width) of what must be cut out, so that augmentation brings no border into a patch.

    Each entry of `tables.AUGMENTATIONS` that moves pixels by more than a flip has a `region`. No
    side needs to be longer than twice the longest of the frame, as nothing lies farther away.
    """
    longest = 2 * max(frame)
    for name, value in reversed(augment.items()):
        entry = tables.AUGMENTATIONS[name]
        parameters = value if isinstance(value, dict) else {"p": value}
        if entry.region is None or parameters.get("p", 1.0) == 0:
            continue
        settings = {**_defaults(entry.build), **parameters, "height": sides[0], "width": sides[1]}
        needed = tables.call(entry.region, settings)
        # Two pixels more for the interpolation, and an even difference, so that the patch lies
        # exactly in the middle.
        grown = [min(math.ceil(side) + 2, longest) for side in needed]
        sides = tuple(max(side, g + (g - side) % 2) for side, g in zip(sides, grown))
    return sides


def _defaults(code: Any) -> dict[str, Any]:
    """The default values of the parameters of an entry's code."""
    parameters = inspect.signature(tables.load(code)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def square(height: float, width: float) -> tuple[float, float]:
    """What a turn by 90 degrees needs."""
    return max(height, width), max(height, width)


def rotated(height: float, width: float, limit: float) -> tuple[float, float]:
    """What a turn by up to `limit` degrees in either direction needs."""

    def extent(along: float, across: float) -> float:
        # along * cos(angle) + across * sin(angle) is largest at the angle of the diagonal.
        angle = min(math.radians(abs(limit)), math.atan2(across, along))
        return along * math.cos(angle) + across * math.sin(angle)

    return extent(height, width), extent(width, height)


def moved(
    height: float, width: float, scale: tuple[float, float], translate: float, rotate: float
) -> tuple[float, float]:
    """What a scaling by at least `scale[0]`, with a turn and a shift, needs.

    The shift is a share of the sides of the region itself, which therefore grows until it suffices;
    shifts by more than about a third of it would never suffice.
    """
    sides = height, width
    for _ in range(20):
        shifted = [side + 2 * abs(translate) * whole for side, whole in zip((height, width), sides)]
        sides = tuple(side / min(scale) for side in rotated(*shifted, rotate))
    return sides[0], sides[1]


def warped(height: float, width: float, strength: float) -> tuple[float, float]:
    """What shifts with a standard deviation of `strength` of the region's own sides need: three
    standard deviations on each side, but never more than nine tenths of the region."""
    share = 1 - min(6 * abs(strength), 0.9)
    return height / share, width / share


# ---- tiles of validation


def tiles(index: int, box: Box, frame: Sides, sides: Sides) -> list[Tile]:
    """Tiles that cover an image; together they count each of its pixels exactly once."""
    rows, columns = (
        list(_cover(box[axis], box[axis + 2], frame[axis], sides[axis])) for axis in range(2)
    )
    return [
        Tile(index, top, left, rows_before, columns_before)
        for top, rows_before in rows
        for left, columns_before in columns
    ]


def _cover(start: int, length: int, frame: int, side: int):
    """Starts of tiles along an axis, each with how much of it earlier tiles have covered."""
    low, high = _range(start, length, frame, side)
    covered = low
    while True:
        place = min(covered, high)
        yield place, covered - place
        covered = place + side
        if covered >= start + length:
            return


def choose(
    candidates: list[Tile], n: int, of_classes: dict[int, np.ndarray], frame: Sides, sides: Sides
) -> list[Tile]:
    """`n` of the tiles of an image, always the same: half of them with a structure.

    Small structures are in few tiles. Without those an image would score 1 or 0 by chance.
    """
    if len(candidates) <= n:
        return candidates
    rng = np.random.default_rng(candidates[0].index)
    shuffled = [candidates[number] for number in rng.permutation(len(candidates))]
    flat = np.concatenate([np.empty(0, np.int32), *of_classes.values()])
    rows, columns = np.unravel_index(flat, frame)

    def has_structure(tile: Tile) -> bool:
        inside = (tile.top <= rows) & (rows < tile.top + sides[0])
        inside &= (tile.left <= columns) & (columns < tile.left + sides[1])
        return bool(inside.any())

    structured = [tile for tile in shuffled if has_structure(tile)]
    chosen = structured[: math.ceil(n / 2)]
    rest = [tile for tile in shuffled if tile not in chosen]
    return chosen + rest[: n - len(chosen)]
