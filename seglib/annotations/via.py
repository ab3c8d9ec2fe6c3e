"""VIA, the VGG Image Annotator: a JSON or CSV file for many images, of version 1, 2 or 3.

Defined by its source at gitlab.com/vgg/via. Versions 1 and 2 list regions with `shape_attributes`
and `region_attributes`; version 3 has `metadata` whose `xy` begins with the number of a shape. The
class of a region is the value of one of its attributes. Browsers turn images by their EXIF tag.
"""

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, first_line, listed
from . import shapes, sources
from .shapes import Annotated, Annotations, Ring, Shape

NAME = "VIA"
# Names of attributes that hold the class where a region has several.
_CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category", "object", "structure")
_HEADER = "region_shape_attributes"  # a column of versions 1 and 2
_HEADER_3 = "spatial_coordinates"  # a column of version 3
_SHAPES_3 = {2: "rect", 3: "circle", 4: "ellipse", 7: "polygon"}
_OTHERS_3 = {1: "point", 5: "line", 6: "polyline", 8: "extreme rectangle", 9: "extreme circle"}
# Shapes without an area.
_LINES = ("point", "line", "polyline")


class _Region(NamedTuple):
    """A region as a file has it: its image, its shape and its attributes."""

    image: str
    kind: str
    values: dict[str, Any]
    attributes: dict[str, Any]
    where: str


def fits(document: Any) -> bool:
    """Whether a JSON document is one of this format."""
    if not isinstance(document, dict):
        return False
    if "_via_img_metadata" in document or {"metadata", "file", "view"} <= set(document):
        return True
    first = next(iter(document.values()), None)
    return isinstance(first, dict) and {"filename", "regions"} <= set(first)


def fits_csv(text: str) -> bool:
    """Whether the beginning of a CSV file is that of this format."""
    return _HEADER in text or _HEADER_3 in text


def read(path: Path, document: Any, attribute: str | None = None) -> Annotations:
    """The shapes of a JSON file.

    Args:
        attribute: the region attribute that holds the class; None: the only one, or one with a
            name such as "class" or "label".

    Raises:
        DataError: an entry is none that VIA writes, or which attribute holds the class is not
            clear.
    """
    if "_via_img_metadata" not in document and "metadata" in document:
        images, regions = _of_version_3(path, document)
    else:
        entries = document.get("_via_img_metadata", document)
        images, regions = _of_version_2(path, entries)
    return _annotations(path, images, regions, attribute)


def read_csv(path: Path, attribute: str | None = None) -> Annotations:
    """`read` for a CSV file."""
    text = sources.text(path)
    if _HEADER_3 in text[:10_000]:
        images, regions = _of_csv_3(path, text)
    else:
        images, regions = _of_csv_2(path, text)
    return _annotations(path, images, regions, attribute)


def _annotations(
    path: Path, images: Iterable[str], regions: list[_Region], attribute: str | None
) -> Annotations:
    left_out: dict[str, int] = {}
    n_rectangles = 0
    areas = []
    for region in regions:
        if region.kind in _LINES:
            left_out[region.kind] = left_out.get(region.kind, 0) + 1
        else:
            areas.append(region)
            n_rectangles += region.kind == "rect"
    attribute = _class_attribute(path, areas, attribute)
    drawn: dict[str, list[Shape]] = {name: [] for name in images}
    for region in areas:
        of_image = drawn[region.image]
        name = f"region {len(of_image) + 1}"
        of_image.append(Shape(_class(region, attribute), ((_ring(region),),), name=name))
    result = [
        Annotated(name, None, None, tuple(of_image), path, turned=True)
        for name, of_image in drawn.items()
    ]
    notes = []
    if left_out:
        kinds = listed(f"{kind} ({n})" for kind, n in left_out.items())
        notes.append(f"{path.name}: regions without an area are left out: {kinds}")
    if n_rectangles:
        notes.append(f"{path.name}: {shapes.boxes_note(n_rectangles)}")
    return Annotations(result, shapes.alphabetical(result), {}, NAME, tuple(notes))


def _ring(region: _Region) -> Ring:
    values, where = region.values, region.where
    if region.kind == "polygon":
        x, y = values.get("all_points_x"), values.get("all_points_y")
        if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
            raise DataError(f"{where}: all_points_x and all_points_y must be lists of one length")
        return shapes.ring(list(zip(x, y)), where)
    if region.kind == "rect":
        return shapes.rectangle(*shapes.numbers(values, ("x", "y", "width", "height"), where))
    if region.kind == "circle":
        x, y, radius = shapes.numbers(values, ("cx", "cy", "r"), where)
        return shapes.ellipse(x, y, radius, radius)
    if region.kind == "ellipse":
        numbers = shapes.numbers(values, ("cx", "cy", "rx", "ry"), where)
        # VIA 2 writes the angle in radians.
        (theta,) = shapes.numbers({"theta": 0, **values}, ("theta",), where)
        return shapes.ellipse(*numbers, math.degrees(theta))
    raise DataError(
        f"{where}: a shape {region.kind!r:.40}; expected polygon, rect, circle or ellipse"
    )


# ---- classes


def _class_attribute(path: Path, regions: list[_Region], attribute: str | None) -> str | None:
    """The attribute that holds the class of all regions; None where they have none."""
    names = sorted({name for region in regions for name in region.attributes})
    if attribute is not None:
        if names and attribute not in names:
            raise DataError(
                f"{path}: no region has the attribute {attribute!r}; they have {listed(names, 8)}"
            )
        return attribute
    if len(names) <= 1:
        return next(iter(names), None)
    usual = [name for name in names if name.strip().lower() in _CLASS_ATTRIBUTES]
    if len(usual) == 1:
        return usual[0]
    raise DataError(
        f"{path}: the regions have the attributes {listed(names, 8)}, and which one is the class "
        f"is not clear; set --class_attribute {(usual or names)[0]}, or another one"
    )


def _class(region: _Region, attribute: str | None) -> str:
    if attribute is None:
        return shapes.UNNAMED
    value = region.attributes.get(attribute)
    if isinstance(value, dict):  # a check box: {"disc": true}
        checked = [name for name, is_checked in value.items() if is_checked is True]
        value = checked[0] if len(checked) == 1 else ", ".join(checked)
        if len(checked) > 1:
            raise DataError(f"{region.where}: it has the classes {value}; expected one")
    return shapes.text_of(value, region.where, attribute)


# ---- versions


def _of_version_2(path: Path, entries: Any) -> tuple[list[str], list[_Region]]:
    images: dict[str, None] = {}
    regions = []
    if not isinstance(entries, dict):
        raise DataError(f"{path}: {entries!r:.40}; expected an object with an entry an image")
    for number, entry in enumerate(entries.values(), start=1):
        where = f"{path}: image {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is {entry!r:.40}; expected an object")
        image = _new_image(entry.get("filename"), images, where)
        of_image = entry.get("regions") or []
        if isinstance(of_image, dict):  # version 1
            of_image = list(of_image.values())
        if not isinstance(of_image, list):
            raise DataError(f"{where}: its regions are {of_image!r:.40}; expected a list")
        for k, region in enumerate(of_image, start=1):
            name = f"{path}: {image}, region {k}"
            fields = region if isinstance(region, dict) else {}
            regions.append(
                _region(
                    image, fields.get("shape_attributes"), fields.get("region_attributes"), name
                )
            )
    return list(images), regions


def _of_csv_2(path: Path, text: str) -> tuple[list[str], list[_Region]]:
    images: dict[str, None] = {}
    regions = []
    for number, row in enumerate(_rows(path, text), start=2):
        where = f"{path}: line {number}"
        name = row.get("filename") or row.get("#filename")
        image = sources.image_name(name, where)
        images[image] = None
        values = _json_cell(row.get(_HEADER), where)
        if values:  # an image without a region has a line with an empty cell
            attributes = _json_cell(row.get("region_attributes"), where)
            regions.append(_region(image, values, attributes, where))
    return list(images), regions


def _of_version_3(path: Path, document: dict[str, Any]) -> tuple[list[str], list[_Region]]:
    attributes = _object(document.get("attribute") or {}, f"{path}: attribute")
    files = _object(document.get("file"), f"{path}: file")
    views = _object(document.get("view"), f"{path}: view")
    names: dict[str, None] = {}
    image_of = {}
    for key, view in views.items():
        where = f"{path}: view {key}"
        ids = _object(view, where).get("fid_list")
        if not isinstance(ids, list) or len(ids) != 1:
            raise DataError(f"{where}: its fid_list is {ids!r:.40}; expected one file")
        file = _object(files.get(str(ids[0])), f"{path}: file {ids[0]!r:.20}")
        image_of[str(key)] = _new_image(file.get("fname"), names, where)
    regions = []
    for key, entry in _object(document.get("metadata"), f"{path}: metadata").items():
        where = f"{path}: metadata {key!r:.40}"
        fields = _object(entry, where)
        view_id = str(fields.get("vid"))
        if view_id not in image_of:
            raise DataError(f"{where}: its vid is {view_id!r:.40}, which no view has")
        if not fields.get("xy"):
            continue  # it describes the image as a whole
        kind, values = _shape_3(fields["xy"], where)
        said = _object(fields.get("av") or {}, where)
        named = dict(_attribute_3(number, value, attributes) for number, value in said.items())
        regions.append(_Region(image_of[view_id], kind, values, named, where))
    return list(names), regions


def _of_csv_3(path: Path, text: str) -> tuple[list[str], list[_Region]]:
    columns = ["metadata_id", "file_list", "flags", "temporal", _HEADER_3, "metadata"]
    attributes: dict[str, str] = {}
    lines = []
    for line in text.splitlines():
        if line.startswith("# ATTRIBUTES = "):
            attributes = _json_cell(line.partition(" = ")[2], f"{path}: ATTRIBUTES")
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    images: dict[str, None] = {}
    regions = []
    header = ",".join(columns)
    for number, row in enumerate(_rows(path, "\n".join([header, *lines])), start=1):
        where = f"{path}: row {number}"
        names = _json_cell(row.get("file_list"), where)
        if not isinstance(names, list) or len(names) != 1:
            raise DataError(f"{where}: its file_list is {names!r:.40}; expected one file")
        image = sources.image_name(names[0], where)
        images[image] = None
        numbers = _json_cell(row.get(_HEADER_3), where)
        if not numbers:
            continue
        kind, values = _shape_3(numbers, where)
        said = _object(_json_cell(row.get("metadata"), where) or {}, where)
        named = {str(attributes.get(key, key)): value for key, value in said.items()}
        regions.append(_Region(image, kind, values, named, where))
    return list(images), regions


def _region(image: str, values: Any, attributes: Any, where: str) -> _Region:
    """A region of version 1 or 2."""
    if not isinstance(values, dict) or not isinstance(attributes or {}, dict):
        raise DataError(
            f"{where}: shape_attributes {values!r:.40}; expected an object with the name of a shape"
        )
    return _Region(image, str(values.get("name")), values, attributes or {}, where)


def _shape_3(numbers: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Kind and values of a list of version 3, under the names that versions 1 and 2 use."""
    if not isinstance(numbers, list) or not numbers or type(numbers[0]) is not int:
        raise DataError(f"{where}: its shape is {numbers!r:.40}; expected [number, x, y, ...]")
    number, *rest = numbers
    kind = _SHAPES_3.get(number) or _OTHERS_3.get(number, str(number))
    if kind == "polygon":
        return kind, {"all_points_x": rest[::2], "all_points_y": rest[1::2]}
    names = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    return kind, dict(zip(names.get(kind, ()), rest))


def _attribute_3(key: str, value: Any, attributes: dict[str, Any]) -> tuple[str, Any]:
    """Name and value of an attribute, whose options are numbered."""
    about = attributes.get(key)
    about = about if isinstance(about, dict) else {}
    options = about.get("options")
    options = options if isinstance(options, dict) else {}
    return str(about.get("aname") or key), options.get(str(value), value)


def _new_image(value: Any, images: dict[str, None], where: str) -> str:
    name = sources.image_name(value, where)
    if name in images:
        raise DataError(
            f"{where}: {name} is listed twice; VIA tells files of one name apart by their size, "
            "seglib cannot: rename one of them, and its entry"
        )
    images[name] = None
    return name


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {value!r:.40}; expected an object")
    return value


def _rows(path: Path, text: str) -> Iterable[dict[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise DataError(f"{path}: not readable as CSV ({first_line(error)})") from error


def _json_cell(cell: Any, where: str) -> Any:
    """The JSON value in a cell of a CSV file."""
    try:
        return json.loads(cell) if isinstance(cell, str) and cell.strip() else {}
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: {cell!r:.60} is not JSON ({first_line(error)}); export the file again"
        ) from error
