"""GeoJSON as QuPath exports it: a file for each image, named after it.

Defined by RFC 7946 and docs.qupath.org: features with a Polygon (outline, then its holes) or a
MultiPolygon, in pixels of the full image, whose class is `properties.classification`. QuPath does
not turn images by their EXIF tag. A class whose name ends in * is none that is painted: "Ignore*"
marks pixels to be ignored, "Region*" and others are left out.
"""

from pathlib import Path
from typing import Any

from ..errors import DataError, listed
from . import shapes, sources
from .shapes import Annotated, Annotations, Part, Shape

NAME = "GeoJSON"
_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString")


def fits(document: Any) -> bool:
    """Whether a JSON document is one of this format."""
    features = document if isinstance(document, list) else [document]
    kinds = [feature.get("type") if isinstance(feature, dict) else None for feature in features[:5]]
    return bool(kinds) and all(kind in ("Feature", "FeatureCollection") for kind in kinds)


def read(path: Path, document: Any) -> Annotations:
    """The shapes of one file. Its image is the one whose name the file has.

    Raises:
        DataError: a feature is none that QuPath writes.
    """
    if isinstance(document, dict):
        document = document.get("features") if "features" in document else [document]
    if not isinstance(document, list):
        raise DataError(f"{path}: its features are {document!r:.40}; expected a list")
    drawn: list[Shape] = []
    colours: dict[str, tuple[int, int, int]] = {}
    left_out: dict[str, int] = {}
    for number, feature in enumerate(document, start=1):
        name = f"feature {number}"
        where = f"{path}: {name}"
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        if not isinstance(geometry, dict):
            raise DataError(f"{where}: its geometry is {geometry!r:.40}; expected an object")
        kind = str(geometry.get("type"))
        class_name, colour = _class(feature, where)
        if class_name.endswith("*"):
            kind = class_name
            class_name = shapes.IGNORED if class_name == "Ignore*" else ""
        if not class_name or kind in _GEOMETRIES:
            left_out[kind] = left_out.get(kind, 0) + 1
            continue
        if colour:
            colours[class_name] = colour
        drawn.append(Shape(class_name, _parts(geometry, where), name=name))
    image = Annotated(
        # QuPath's own name for an export ends in .geojson; the image's suffix may stand before it.
        image=sources.image_name(path.name.removesuffix(path.suffix), str(path)),
        height=None,
        width=None,
        shapes=tuple(drawn),
        source=path,
        turned=False,
    )
    notes = ()
    if left_out:
        kinds = listed(f"{kind} ({n})" for kind, n in left_out.items())
        notes = (f"{path.name}: left out: {kinds}",)
    return Annotations([image], shapes.alphabetical([image]), colours, NAME, notes)


def _class(feature: dict[str, Any], where: str) -> tuple[str, tuple[int, int, int] | None]:
    """Name and colour of the class of a feature; `shapes.UNNAMED` where it has none."""
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    said = properties.get("classification")
    if isinstance(said, dict):
        names = said.get("names")
        name = said.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
        colour = shapes.colour_of(said.get("color", said.get("colorRGB")))
        return shapes.text_of(name, where, "classification"), colour
    if said is None or said == "":
        return shapes.UNNAMED, None
    return shapes.text_of(said, where, "classification"), None


def _parts(geometry: dict[str, Any], where: str) -> tuple[Part, ...]:
    """The parts of a Polygon or a MultiPolygon."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        parts: tuple[Part, ...] = ()
        for part in geometry["geometries"]:
            # Collections in collections are not written by any program.
            if not isinstance(part, dict) or part.get("type") not in ("Polygon", "MultiPolygon"):
                raise DataError(f"{where}: a part is {part!r:.40}; expected a Polygon")
            parts += _parts(part, where)
        return parts
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(coordinates, list):
        raise DataError(
            f"{where}: a geometry of type {kind!r:.40}; expected a Polygon or a MultiPolygon"
        )
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not all(isinstance(polygon, list) and polygon for polygon in polygons) or not polygons:
        raise DataError(f"{where}: its coordinates are {coordinates!r:.40}; expected rings")
    return tuple(tuple(_ring(points, where) for points in polygon) for polygon in polygons)


def _ring(points: Any, where: str) -> shapes.Ring:
    """A ring; a third coordinate, the height above the plane, is cut off."""
    if isinstance(points, list) and all(isinstance(p, list) and len(p) >= 2 for p in points):
        points = [point[:2] for point in points]
    return shapes.ring(points, where)
