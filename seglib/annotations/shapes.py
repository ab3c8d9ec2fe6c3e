"""What an annotation file says, whatever tool wrote it: images with shapes, each of one class.

**Coordinates** are x (to the right) and y (down) in pixels, measured from the upper left corner of
the upper left pixel. The pixel in row r and column c covers the square from (c, r) to
(c + 1, r + 1), so that its centre is (c + 0.5, r + 0.5); an image of H x W pixels reaches from
(0, 0) to (W, H). The annotation tools read here all use this scale.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError

Ring = np.ndarray  # (n, 2) float64: x and y of the corners of a closed line
Part = tuple[Ring, ...]  # an outline and its holes; a pixel inside an odd number of rings is in it

BACKGROUND = "background"
IGNORED = "ignore"  # the class of pixels of which nothing is known
UNNAMED = "structure"  # the class of shapes for which the tool stores none
# Larger coordinates are no positions in an image, and their arithmetic would lose the pixel.
LARGEST_COORDINATE = 1e7
_CURVE_STEP = 0.02  # how far the polygon of an ellipse may lie beside it, in pixels


class Bitmap(NamedTuple):
    """The pixels of a shape, as run lengths.

    Attributes:
        runs: (n,) int64, lengths of runs, alternately outside and inside, beginning with outside.
        height, width: of the box that the runs fill.
        top, left: the box's upper left pixel in the image.
        by_columns: whether the runs go down the columns, as COCO has them, or along the rows.
    """

    runs: np.ndarray
    height: int
    width: int
    top: int = 0
    left: int = 0
    by_columns: bool = True


@dataclass(frozen=True, eq=False)
class Shape:
    """One structure in an image: polygons or a bitmap.

    Attributes:
        class_name: its class.
        parts: its polygons, each an outline with its holes; the shape is their union.
        bitmap: its pixels, where it has no polygons.
        name: what messages call it, such as "shape 3".
    """

    class_name: str
    parts: tuple[Part, ...] = ()
    bitmap: Bitmap | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Annotated:
    """The shapes of one image, in the order of the file: later ones lie above earlier ones.

    Attributes:
        image: the image's name as the file has it, with "/" between folders. It comes from a
            stranger: it is compared with names of files, and never opened.
        height, width: the image's size as the file says; None where it does not.
        shapes: () for an image that was looked at and shows no structure.
        source: the annotation file.
        relative: whether coordinates are shares of width and height, 0 to 1, instead of pixels.
        turned: whether the tool turned the image by its EXIF tag before it was annotated; None
            where tools of this format differ.
        split: "train", "val" or "test" where the tree says so.
    """

    image: str
    height: int | None
    width: int | None
    shapes: tuple[Shape, ...]
    source: Path
    relative: bool = False
    turned: bool | None = None
    split: str = ""


@dataclass(frozen=True, eq=False)
class Annotations:
    """All images of an annotation file, or of a folder of them.

    Attributes:
        images: in the order of the files.
        class_names: without a background; the order of the file's list, else alphabetical.
        colours: class -> (red, green, blue), where the file has colours.
        format: the name of the format, such as "COCO".
        notes: what was left out or concluded.
    """

    images: list[Annotated]
    class_names: tuple[str, ...]
    colours: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    format: str = ""
    notes: tuple[str, ...] = ()


# ---- from what files hold to shapes


def ring(points: Any, where: str) -> Ring:
    """Pairs of numbers as a ring. A closing point that repeats the first one is cut off.

    One or two points, as a slip of the mouse leaves them, are a ring that has no pixel.

    Args:
        points: a sequence of (x, y).
        where: file and shape, for the message.

    Raises:
        DataError: no pairs of numbers, or numbers that are no positions.
    """
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or not len(corners):
        raise DataError(f"{where}: its points are {points!r:.60}; expected pairs of numbers x, y")
    check_positions(corners, where)
    is_closed = len(corners) > 3 and (corners[0] == corners[-1]).all()
    return corners[:-1] if is_closed else corners


def check_positions(numbers: np.ndarray, where: str) -> None:
    """Raise `DataError` for numbers that cannot be positions or lengths in an image."""
    wrong = ~(np.abs(numbers) <= LARGEST_COORDINATE)  # true of NaN, too
    if wrong.any():
        raise DataError(
            f"{where}: a coordinate is {numbers[wrong].flat[0]:g}; expected a number of pixels up "
            f"to {LARGEST_COORDINATE:g}"
        )


def numbers(values: Any, names: Sequence[str], where: str) -> list[float]:
    """The named numbers of an object in a file, or of the attributes of an XML element.

    Raises:
        DataError: one is missing, no number, or no position.
    """
    result = []
    for name in names:
        value = values.get(name) if isinstance(values, Mapping) else None
        try:
            result.append(float("nan") if isinstance(value, bool) else float(value))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{where}: its {name} is {value!r:.40}; expected a number of pixels"
            ) from None
    check_positions(np.array(result), where)
    return result


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0) -> Ring:
    """The ring of a rectangle, turned clockwise about its centre."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float) + (x, y)
    return _rotated(corners, (x + width / 2, y + height / 2), degrees)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Ring:
    """The ring of an ellipse about (x, y), turned clockwise about its centre.

    Its polygon lies within 0.02 pixels of it, and has at least 32 corners.
    """
    radius = max(abs(radius_x), abs(radius_y))
    n_corners = math.ceil(math.pi / math.sqrt(2 * _CURVE_STEP / max(radius, 1)))
    angle = np.linspace(0, 2 * np.pi, min(max(32, n_corners), 10_000), endpoint=False)
    corners = np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)
    return _rotated(corners, (x, y), degrees)


def _rotated(corners: Ring, centre: tuple[float, float], degrees: float) -> Ring:
    if not degrees:
        return corners
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # y points down, so that this turns clockwise as seen on the screen.
    return (corners - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def bitmap_of(mask: np.ndarray, top: int = 0, left: int = 0) -> Bitmap:
    """The bitmap of a mask (H, W), whose runs go along the rows."""
    pixels = np.asarray(mask, bool).ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    first = [0, 0] if pixels.size and pixels[0] else [0]
    runs = np.diff(np.concatenate([first, changes, [pixels.size]]).astype(np.int64))
    return Bitmap(runs, *np.shape(mask), top, left, by_columns=False)


def text_of(value: Any, where: str, field_name: str = "label") -> str:
    """A class name of a file, without white space around it.

    Raises:
        DataError: it is no text, or empty.
    """
    name = " ".join(str(value).split()) if isinstance(value, str | int) else ""
    if not name or isinstance(value, bool):
        raise DataError(
            f"{where}: its {field_name} is {value!r:.40}; expected the name of a class: name it in "
            "the annotation tool"
        )
    return name


def alphabetical(images: Iterable[Annotated]) -> tuple[str, ...]:
    """The classes of the shapes of all images, by name."""
    return tuple(sorted({shape.class_name for image in images for shape in image.shapes}))


def colour_of(value: Any) -> tuple[int, int, int] | None:
    """A colour as files have it: [255, 0, 0], "#ff0000" or a signed number; None for others."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = int(value[1:], 16)
    if type(value) is int and abs(value) < 1 << 32:
        return (value >> 16 & 255, value >> 8 & 255, value & 255)
    is_triple = isinstance(value, list) and len(value) >= 3
    if is_triple and all(type(part) is int and 0 <= part <= 255 for part in value[:3]):
        return (value[0], value[1], value[2])
    return None


def boxes_note(n_boxes: int) -> str:
    """The note on rectangles, which are often boxes around structures."""
    return (
        f"{n_boxes} rectangles are filled completely; where they are boxes around structures, the "
        "masks are too large: draw outlines instead"
    )
