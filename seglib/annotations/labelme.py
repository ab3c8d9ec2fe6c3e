"""LabelMe: a JSON file beside each image.

Defined by wkentaro/labelme: `imagePath`, `imageHeight`, `imageWidth`, and `shapes` with `label`,
`points` and `shape_type`. LabelMe turns an image by its EXIF tag before it shows it.
"""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, listed
from . import shapes, sources
from .shapes import Annotated, Annotations, Shape

NAME = "LabelMe"
# Labels of LabelMe's own label files for pixels of no class.
_SPECIAL = {"__ignore__": shapes.IGNORED, "_background_": shapes.BACKGROUND}
# Shapes without an area.
_LINES = ("line", "linestrip", "point", "points")


def fits(document: Any) -> bool:
    """Whether a JSON document is one of this format."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def read(path: Path, document: Any) -> Annotations:
    """The shapes of one file.

    Raises:
        DataError: an entry is missing, or is none that LabelMe writes.
    """
    left_out: list[str] = []
    n_rectangles = 0
    result = []
    for number, entry in enumerate(document["shapes"], start=1):
        name = f"shape {number}"
        where = f"{path}: {name}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is {entry!r:.40}; expected an object with label and points")
        kind = entry.get("shape_type") or "polygon"  # old versions write none
        if kind in _LINES:
            left_out.append(kind)
            continue
        label = shapes.text_of(entry.get("label"), where)
        drawn = _shape(kind, entry, where)
        n_rectangles += kind == "rectangle"
        result.append(Shape(_SPECIAL.get(label, label), *drawn, name=name))
    image = Annotated(
        image=sources.image_name(document.get("imagePath") or path.stem, str(path)),
        height=sources.size_of(document.get("imageHeight"), f"{path}: imageHeight"),
        width=sources.size_of(document.get("imageWidth"), f"{path}: imageWidth"),
        shapes=tuple(result),
        source=path,
        turned=True,
    )
    notes = []
    if left_out:
        kinds = listed(dict.fromkeys(left_out))
        notes.append(f"{path.name}: {len(left_out)} shapes without an area are left out ({kinds})")
    if n_rectangles:
        notes.append(f"{path.name}: {shapes.boxes_note(n_rectangles)}")
    return Annotations([image], shapes.alphabetical([image]), {}, NAME, tuple(notes))


def _shape(kind: str, entry: dict[str, Any], where: str) -> tuple[Any, Any]:
    """Parts and bitmap of a shape."""
    points = entry.get("points")
    if kind in ("polygon", "oriented_rectangle"):
        return ((shapes.ring(points, where),),), None
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(
            f"{where}: shape_type {kind!r:.40}; expected polygon, rectangle, circle or mask"
        )
    try:
        corners = np.array(points, np.float64).reshape(2, 2)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"{where}: its points are {points!r:.60}; expected two points for a {kind}"
        ) from None
    shapes.check_positions(corners, where)
    if kind == "mask":
        return (), _bitmap(entry.get("mask"), corners, where)
    first, second = corners
    if kind == "circle":
        radius = float(np.hypot(*(second - first)))
        return ((shapes.ellipse(*first, radius, radius),),), None
    return ((shapes.rectangle(*first, *(second - first)),),), None


def _bitmap(encoded: Any, corners: np.ndarray, where: str) -> shapes.Bitmap:
    """The bitmap of a mask: a PNG picture in base64, whose corners are its first and last pixel."""
    left, top, right, bottom = np.rint(corners).astype(int).ravel().tolist()
    size = (bottom - top + 1, right - left + 1)
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)), formats=["PNG"])
        if picture.size == size[::-1]:  # before the pixels take memory
            return shapes.bitmap_of(np.asarray(picture.convert("L")) > 0, top, left)
    except (TypeError, ValueError, binascii.Error, OSError, SyntaxError) as error:
        raise DataError(
            f"{where}: its mask is no PNG picture ({error}); export it again"
        ) from error
    raise DataError(
        f"{where}: its mask has {picture.size[1]}x{picture.size[0]} pixels, but its points span "
        f"{size[0]}x{size[1]} (height x width)"
    )
