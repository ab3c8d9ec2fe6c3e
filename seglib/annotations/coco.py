"""COCO: one JSON file for many images, with polygons or run-length encoded masks.

Defined by cocodataset.org (format-data) and the COCO API: `images`, `categories`, and `annotations`
with `segmentation`: a list of polygons [x1, y1, x2, y2, ...], or an RLE object. By that definition
the polygons of one annotation are united, and holes are possible in RLE only; but many programs
write the outlines of holes as further polygons. The `area` of an annotation tells which is meant.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, listed
from . import rle, shapes, sources
from .shapes import Annotated, Annotations, Bitmap, Part, Ring, Shape

NAME = "COCO"
MOST_RINGS = 5000  # of one annotation
MOST_NESTED_POINTS = 300_000  # of rings that may lie inside others, counted for each of those
HOLES, FILLED = "holes", "filled"
NESTED = (HOLES, FILLED)  # what a ring inside another ring of its annotation means


def fits(document: Any) -> bool:
    """Whether a JSON document is one of this format."""
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        return False
    return "images" in document or "categories" in document


def read(path: Path, document: Any, nested: str | None = None) -> Annotations:
    """The shapes of all images in one file.

    Args:
        nested: what a ring inside another ring of the same annotation is, "holes" or "filled";
            None: what `area` says.

    Raises:
        DataError: an entry is missing or contradicts another, or nested rings are not clear.
    """
    names, colours = _categories(path, document.get("categories"))
    images = _images(path, document.get("images"))
    reader = _Reader(path, names, nested)
    by_image: dict[Hashable, list[_Entry]] = {key: [] for key in images}
    for number, entry in enumerate(document["annotations"], start=1):
        key, drawn = reader.entry(entry, number, images)
        if drawn is not None:
            by_image[key].append(drawn)
    is_hole = reader.decide()
    result = []
    for key, image in images.items():
        of_image = tuple(entry.shape(is_hole(entry)) for entry in by_image[key])
        result.append(Annotated(*image, shapes=of_image, source=path))
    class_names = tuple(dict.fromkeys(names.values()))
    return Annotations(result, class_names, colours, NAME, reader.notes)


def _categories(
    path: Path, entries: Any
) -> tuple[dict[Hashable, str], dict[str, tuple[int, int, int]]]:
    """Id -> name, and name -> colour."""
    names: dict[Hashable, str] = {}
    colours: dict[str, tuple[int, int, int]] = {}
    for number, entry in enumerate(_objects(entries, f"{path}: categories"), start=1):
        where = f"{path}: category {number}"
        key = _key(entry.get("id"), where)
        if key in names:
            raise DataError(
                f"{where}: its id {key!r} is that of another category, too; expected "
                "an id for each: export the file again"
            )
        names[key] = shapes.text_of(entry.get("name"), where, "name")
        colour = shapes.colour_of(entry.get("color"))
        if colour:
            colours[names[key]] = colour
    return names, colours


def _images(path: Path, entries: Any) -> dict[Hashable, tuple[str, int | None, int | None]]:
    """Id -> name, height and width."""
    images: dict[Hashable, tuple[str, int | None, int | None]] = {}
    names: dict[str, Hashable] = {}
    for number, entry in enumerate(_objects(entries, f"{path}: images"), start=1):
        where = f"{path}: image {number}"
        key = _key(entry.get("id"), where)
        name = sources.image_name(entry.get("file_name"), where)
        if key in images or name in names:
            what = f"id {key!r}" if key in images else f"file_name {name!r}"
            raise DataError(
                f"{where}: its {what} is that of another image, too; expected each image once: "
                "export the file again"
            )
        height = sources.size_of(entry.get("height"), f"{where}: height")
        width = sources.size_of(entry.get("width"), f"{where}: width")
        images[key], names[name] = (name, height, width), key
    return images


def _objects(entries: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{where}: {entries!r:.40}; expected a list of objects: export it again")
    return entries


def _key(value: Any, where: str) -> Hashable:
    """An id: a whole number, or a text."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise DataError(f"{where}: its id is {value!r:.40}; expected a number")


class _Entry:
    """An annotation whose rings are not yet told apart: outlines or holes."""

    def __init__(
        self,
        class_name: str,
        name: str,
        rings: list[Ring],
        bitmap: Bitmap | None,
        where: str,
    ):
        self.class_name = class_name
        self.name = name
        self.rings = rings
        self.bitmap = bitmap
        self.depth = _depths(rings, where)

    @property
    def is_nested(self) -> bool:
        return bool(self.depth.any())

    def says(self, area: Any) -> str | None:
        """What the area in the file says of nested rings; None where it does not tell."""
        if isinstance(area, bool) or not isinstance(area, int | float):
            return None
        sizes = np.array([_area(ring) for ring in self.rings])
        filled = sizes[self.depth == 0].sum()
        with_holes = (sizes * (-1.0) ** self.depth).sum()
        tolerance = (filled - with_holes) / 4
        for meaning, size in ((HOLES, with_holes), (FILLED, filled)):
            if abs(area - size) <= tolerance:
                return meaning
        return None

    def shape(self, has_holes: bool) -> Shape:
        if self.bitmap is not None:
            return Shape(self.class_name, bitmap=self.bitmap, name=self.name)
        parts: tuple[Part, ...] = tuple((ring,) for ring in self.rings)
        if has_holes and self.is_nested:
            parts = _with_holes(self.rings, self.depth)
        return Shape(self.class_name, parts, name=self.name)


class _Reader:
    """The annotations of one file, and what they say together of nested rings."""

    def __init__(self, path: Path, names: dict[Hashable, str], nested: str | None):
        self.path = path
        self.names = names
        self.nested = nested
        self.meanings: dict[_Entry, str | None] = {}
        self.n_boxes = self.n_entries = self.n_crowds = 0

    def entry(
        self, entry: Any, number: int, images: dict[Hashable, tuple[str, int | None, int | None]]
    ) -> tuple[Hashable, _Entry | None]:
        """The image of an annotation, and the annotation; None for a box without an outline."""
        where = f"{self.path}: annotation {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is {entry!r:.40}; expected an object")
        key = _known(entry.get("image_id"), images, f"{where}: image_id", "image")
        category = _known(entry.get("category_id"), self.names, f"{where}: category_id", "category")
        _, height, width = images[key]
        outline = entry.get("segmentation")
        self.n_entries += 1
        if not outline:
            self.n_boxes += 1
            return key, None
        rings, bitmap = [], None
        if isinstance(outline, list):
            rings = [_ring(numbers, where) for numbers in outline]
        else:
            bitmap = _bitmap(outline, height, width, where)
        if len(rings) > MOST_RINGS:
            raise DataError(f"{where}: {len(rings)} polygons; expected at most {MOST_RINGS}")
        result = _Entry(self.names[category], f"annotation {number}", rings, bitmap, where)
        if result.is_nested:
            self.meanings[result] = self.nested or result.says(entry.get("area"))
        self.n_crowds += entry.get("iscrowd") in (1, True)
        return key, result

    def decide(self) -> Any:
        """A function that tells whether the nested rings of an entry are holes."""
        said = set(self.meanings.values()) - {None}
        unclear = [entry for entry, meaning in self.meanings.items() if meaning is None]
        if unclear and len(said) != 1:
            raise DataError(
                f"{self.path}: {len(unclear)} annotations have a polygon inside another one, such "
                f"as {unclear[0].name}, and no area says what it is; set --nested holes (it is cut "
                "out, as many programs mean it) or --nested filled (it is united, as COCO defines "
                "it)"
            )
        general = said.pop() if len(said) == 1 else None
        return lambda entry: (self.meanings.get(entry) or general) == HOLES

    @property
    def notes(self) -> tuple[str, ...]:
        name, notes = self.path.name, []
        if self.n_entries and self.n_boxes == self.n_entries:
            raise DataError(
                f"{self.path}: all {self.n_boxes} annotations are boxes without an outline "
                "(segmentation is empty); expected outlines or masks: export those, or draw them"
            )
        if self.n_boxes:
            notes.append(f"{name}: {self.n_boxes} boxes without an outline are left out")
        if self.n_crowds:
            notes.append(f"{name}: {self.n_crowds} crowds (iscrowd) are drawn like other shapes")
        for meaning, text in ((HOLES, "cut out as a hole"), (FILLED, "united with it")):
            n = sum(said == meaning for said in self.meanings.values())
            if n:
                notes.append(
                    f"{name}: in {n} annotations a polygon lies inside another one; it is {text}"
                    + ("" if self.nested else ", as their area says")
                )
        return tuple(notes)


def _known(key: Any, entries: dict[Hashable, Any], where: str, what: str) -> Hashable:
    """An id that one of the entries has."""
    if _key(key, where) not in entries:
        raise DataError(
            f"{where} is {key!r:.40}, which no {what} of the file has; it has "
            f"{listed(map(repr, entries), 5) or 'none'}: export it again, or correct the id"
        )
    return key


def _ring(numbers: Any, where: str) -> Ring:
    """The ring of a flat list of coordinates."""
    if not isinstance(numbers, list) or len(numbers) % 2:
        raise DataError(
            f"{where}: a polygon is {numbers!r:.60}; expected a list x1, y1, x2, y2, ..."
        )
    return shapes.ring(list(zip(numbers[::2], numbers[1::2])), where)


def _bitmap(outline: Any, height: int | None, width: int | None, where: str) -> Bitmap:
    """The bitmap of an RLE object; it is decoded when it is drawn."""
    size = outline.get("size") if isinstance(outline, dict) else None
    counts = outline.get("counts") if isinstance(outline, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        raise DataError(
            f"{where}: its segmentation is {outline!r:.60}; expected a list of polygons, or an "
            'object {"size": [height, width], "counts": ...}'
        )
    rows, columns = (sources.whole_number(side, f"{where}: RLE size", 1e6) for side in size)
    if None not in (height, width) and (rows, columns) != (height, width):
        raise DataError(
            f"{where}: an RLE of {rows}x{columns}, but its image is {height}x{width} (height x "
            "width); it belongs to another image"
        )
    try:
        runs = np.array(counts if isinstance(counts, list) else rle.decompress(counts))
    except (DataError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {error}") from error
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise DataError(f"{where}: its RLE is {counts!r:.60}; expected whole numbers from 0")
    return Bitmap(runs.astype(np.int64), rows, columns)


# ---- rings inside rings


def _area(ring: Ring) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _depths(rings: list[Ring], where: str) -> np.ndarray:
    """For each ring, in how many other rings it lies.

    Raises:
        DataError: so many may lie in each other that it would take minutes to find out.
    """
    depth = np.zeros(len(rings), int)
    if len(rings) < 2:
        return depth
    low = np.array([ring.min(axis=0) for ring in rings])
    high = np.array([ring.max(axis=0) for ring in rings])
    n_points = 0
    for k, ring in enumerate(rings):
        around = (low <= low[k]).all(axis=1) & (high >= high[k]).all(axis=1)
        around[k] = False
        n_points += len(ring) * int(around.sum())
        if n_points > MOST_NESTED_POINTS:
            raise DataError(
                f"{where}: {len(rings)} polygons, too many of them inside each other; expected "
                "outlines and holes of one structure: export it as RLE"
            )
        depth[k] = sum(_contains(rings[j], ring) for j in np.flatnonzero(around))
    return depth


def _contains(outer: Ring, inner: Ring) -> bool:
    """Whether all corners of a ring lie inside another one, and it is the smaller of the two.

    Corners on the outline itself do not decide, as those of a ring that only touches it.
    """
    if _area(inner) >= _area(outer):
        return False
    start, end = outer, np.roll(outer, -1, axis=0)
    for x, y in (inner + np.roll(inner, -1, axis=0)) / 2:
        crosses = (start[:, 1] <= y) != (end[:, 1] <= y)
        from_corner, edge = start[crosses], (end - start)[crosses]
        at = from_corner[:, 0] + (y - from_corner[:, 1]) * edge[:, 0] / edge[:, 1]
        if (at > x).sum() % 2 == 0:
            return False
    return True


def _with_holes(rings: list[Ring], depth: np.ndarray) -> tuple[Part, ...]:
    """The parts of nested rings: outlines at even depth, each with the holes one level deeper."""
    holes_of: dict[int, list[Ring]] = {int(k): [] for k in np.flatnonzero(depth % 2 == 0)}
    for k in np.flatnonzero(depth % 2 == 1):
        owners = [j for j in holes_of if depth[j] == depth[k] - 1 and _contains(rings[j], rings[k])]
        holes_of[owners[0]].append(rings[k])
    return tuple((rings[k], *holes) for k, holes in holes_of.items())
