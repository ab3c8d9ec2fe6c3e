"""GeoJSON as QuPath exports it."""

import json

import numpy as np
import pytest

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "Tumor", "Stroma")


def ring(left, top, side):
    corners = [(0, 0), (side, 0), (side, side), (0, side), (0, 0)]
    return [[left + x, top + y] for x, y in corners]


def feature(kind, coordinates, classification=None):
    geometry = {"type": kind, "coordinates": coordinates}
    properties = {"objectType": "annotation"}
    if classification:
        properties["classification"] = classification
    return {"type": "Feature", "id": "1-2", "geometry": geometry, "properties": properties}


TUMOR = {"name": "Tumor", "color": [200, 0, 0]}
PARTS = [
    feature("Polygon", [ring(0, 0, 10), ring(2, 2, 4)], TUMOR),
    feature(
        "MultiPolygon",
        [[ring(12, 0, 6)], [ring(20, 10, 8), ring(22, 12, 2)]],
        {"name": "Stroma", "colorRGB": -6895466},
    ),
]


def read(tmp_path, content, name="slide.tif.geojson"):
    (tmp_path / name).write_text(json.dumps(content))
    return annotations.read(tmp_path / name)


def mask_of(result):
    return annotations.draw(result.images[0], 20, 30, CLASSES, "multiclass")


@pytest.mark.parametrize(
    "content",
    [PARTS, {"type": "FeatureCollection", "features": PARTS}],
    ids=["list", "collection"],
)
def test_polygons_with_holes_and_parts(tmp_path, content):
    result = read(tmp_path, content)
    mask = mask_of(result)
    assert [(mask == k).sum() for k in (1, 2)] == [100 - 16, 36 + 64 - 4]
    assert not mask[2:6, 2:6].any() and not mask[12:14, 22:24].any()
    assert result.class_names == ("Stroma", "Tumor")
    assert result.colours == {"Tumor": (200, 0, 0), "Stroma": (150, 200, 150)}
    image = result.images[0]
    assert image.image == "slide.tif" and image.turned is False and image.height is None


def test_classes_that_are_none(tmp_path):
    square = [ring(0, 0, 5)]
    content = [
        feature("Polygon", square, {"name": "Region*"}),
        feature("Polygon", [ring(10, 10, 5)], {"name": "Ignore*"}),
        feature("Polygon", square),
        feature("LineString", square[0], TUMOR),
        feature("Polygon", square, {"names": ["Tumor", "Positive"]}),
    ]
    result = read(tmp_path, content)
    names = [shape.class_name for shape in result.images[0].shapes]
    assert names == ["ignore", "structure", "Tumor: Positive"]
    assert "left out: Region* (1), LineString (1)" in result.notes[0]
    assert (mask_of(result)[10:15, 10:15] == 255).all()


def test_a_single_feature_with_a_height(tmp_path):
    points = [[*point, 0.0] for point in ring(0, 0, 10)]
    result = read(tmp_path, feature("Polygon", [points], TUMOR))
    assert mask_of(result).sum() == 100
    np.testing.assert_array_equal(result.images[0].shapes[0].parts[0][0][2], [10, 10])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (3, "its geometry is None"),
        (feature("Curve", []), "a geometry of type 'Curve'"),
        (feature("Polygon", 3), "a geometry of type 'Polygon'"),
        (feature("Polygon", []), "its coordinates are"),
        (feature("Polygon", [[[1, 2], 3]]), "pairs of numbers"),
        (feature("MultiPolygon", [ring(0, 0, 5)]), "pairs of numbers"),
        (feature("Polygon", [ring(0, 0, 1e300)]), "a coordinate is 1e"),
        (feature("Polygon", [ring(0, 0, 5)], {"name": ""}), "its classification is None"),
        (feature("Polygon", [ring(0, 0, 5)], 3.5), "its classification is 3.5"),
    ],
)
def test_wrong_features_are_named(tmp_path, wrong, message):
    with pytest.raises(DataError, match=f"feature 6: .*{message}"):
        read(tmp_path, [*PARTS, *PARTS, PARTS[0], wrong])
