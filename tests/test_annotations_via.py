"""Files of VIA, versions 1, 2 and 3, as JSON and as CSV."""

import csv
import json
import math

import numpy as np
import pytest

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "disc", "cup")
POLYGON = {"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [2, 2, 12, 12]}
RECTANGLE = {"name": "rect", "x": 16, "y": 4, "width": 4, "height": 5}
ELLIPSE = {"name": "ellipse", "cx": 24, "cy": 14, "rx": 4, "ry": 2, "theta": math.pi / 2}
REGIONS = [(POLYGON, "disc"), (RECTANGLE, "cup"), (ELLIPSE, "cup")]


def region(shape, name, attribute="class"):
    return {"shape_attributes": shape, "region_attributes": {attribute: name}}


def version_2(regions, filename="eye.png"):
    entry = {"filename": filename, "size": 12, "regions": regions, "file_attributes": {}}
    return {"_via_settings": {}, "_via_img_metadata": {f"{filename}12": entry}}


def version_1():
    regions = {str(k): region(*pair) for k, pair in enumerate(REGIONS)}
    return {"eye.png12": {"filename": "eye.png", "size": 12, "regions": regions}}


def version_3():
    xy = [[7, 2, 2, 12, 2, 12, 12, 2, 12], [2, 16, 4, 4, 5], [4, 24, 14, 2, 4]]
    return {
        "project": {"pname": "eyes"},
        "config": {},
        "attribute": {"1": {"aname": "class", "type": 3, "options": {"0": "disc", "1": "cup"}}},
        "file": {"5": {"fid": "5", "fname": "eye.png", "type": 2, "loc": 1, "src": ""}},
        "view": {"2": {"fid_list": ["5"]}},
        "metadata": {
            f"2_{k}": {"vid": "2", "flg": 0, "z": [], "xy": values, "av": {"1": str(min(k, 1))}}
            for k, values in enumerate(xy)
        },
    }


def write_csv(path):
    columns = "filename,file_size,file_attributes,region_count,region_id,"
    columns += "region_shape_attributes,region_attributes"
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns.split(","))
        for k, (shape, name) in enumerate(REGIONS):
            cells = [json.dumps(shape), json.dumps({"class": name})]
            rows.writerow(["eye.png", 12, "{}", 3, k, *cells])
        rows.writerow(["none.png", 12, "{}", 0, 0, "{}", "{}"])


def write_csv_3(path):
    head = [
        "# Exported using VGG Image Annotator",
        '# ATTRIBUTES = {"1": "class"}',
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,"
        "metadata",
    ]
    with open(path, "w", newline="") as file:
        file.write("\n".join(head) + "\n")
        for key, entry in version_3()["metadata"].items():
            name = {"1": ("disc", "cup")[int(entry["av"]["1"])]}
            cells = [json.dumps(["eye.png"]), 0, "[]", json.dumps(entry["xy"]), json.dumps(name)]
            csv.writer(file).writerow([key, *cells])


def read(tmp_path, content, **options):
    path = tmp_path / "via.json"
    path.write_text(json.dumps(content))
    return annotations.read(path, **options)


def check(result):
    image = result.images[0]
    mask = annotations.draw(image, 20, 30, CLASSES, "multiclass")
    rows, columns = np.mgrid[10:20, 20:30] + 0.5
    upright = ((columns - 24) / 2) ** 2 + ((rows - 14) / 4) ** 2 < 1
    assert (mask == 1).sum() == 100 and (mask[4:9, 16:20] == 2).all()
    np.testing.assert_array_equal(mask[10:, 20:] == 2, upright)
    assert result.class_names == ("cup", "disc") and image.image == "eye.png" and image.turned


def test_all_versions_say_the_same(tmp_path):
    check(read(tmp_path, version_1()))
    check(read(tmp_path, version_2([region(*pair) for pair in REGIONS])))
    check(read(tmp_path, version_3()))
    write_csv(tmp_path / "via.csv")
    result = annotations.read(tmp_path / "via.csv")
    check(result)
    assert result.images[1].image == "none.png" and not result.images[1].shapes
    write_csv_3(tmp_path / "via3.csv")
    check(annotations.read(tmp_path / "via3.csv"))


def test_lines_are_left_out_and_rectangles_noted(tmp_path):
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    result = read(tmp_path, version_2([region(line, "disc"), region(RECTANGLE, "disc")]))
    notes = "\n".join(result.notes)
    assert "left out: polyline (1)" in notes and "1 rectangles" in notes


def test_the_attribute_of_the_class(tmp_path):
    regions = [region(POLYGON, "disc", attribute="organ")]
    assert read(tmp_path, version_2(regions)).class_names == ("disc",)
    regions[0]["region_attributes"] |= {"sure": "no", "side": "left"}
    with pytest.raises(DataError, match="organ, side, sure, .*--class_attribute organ"):
        read(tmp_path, version_2(regions))
    assert read(tmp_path, version_2(regions), class_attribute="side").class_names == ("left",)
    with pytest.raises(DataError, match="no region has the attribute 'x'; they have organ"):
        read(tmp_path, version_2(regions), class_attribute="x")
    regions[0]["region_attributes"]["Type"] = {"disc": True, "cup": False}  # a check box
    assert read(tmp_path, version_2(regions)).class_names == ("disc",)
    regions[0]["region_attributes"]["Type"]["cup"] = True
    with pytest.raises(DataError, match="region 1: it has the classes disc, cup; expected one"):
        read(tmp_path, version_2(regions))
    regions = [{"shape_attributes": POLYGON, "region_attributes": {}}]
    assert read(tmp_path, version_2(regions)).class_names == ("structure",)
    with pytest.raises(DataError, match="region 1: its class is None"):
        read(tmp_path, version_2([*regions, region(POLYGON, "disc")]))


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"name": "polygon", "all_points_x": [1], "all_points_y": [1, 2]}, "lists of one length"),
        ({"name": "polygon", "all_points_x": ["a"], "all_points_y": [1]}, "pairs of numbers"),
        ({"name": "rect", "x": 1}, "its y is None"),
        ({"name": "circle", "cx": 1, "cy": 2, "r": 1e9}, "a coordinate is 1e"),
        ({"name": "ellipse", "cx": 1, "cy": 2, "rx": 2, "ry": True}, "a coordinate is nan"),
        ({"name": "star"}, "a shape 'star'"),
        (None, "shape_attributes None"),
    ],
)
def test_wrong_regions_are_named(tmp_path, shape, message):
    with pytest.raises(DataError, match=f"eye.png, region 1: .*{message}"):
        read(tmp_path, version_2([region(shape, "disc")]))


def test_wrong_entries_are_named(tmp_path):
    content = version_3()
    content["metadata"]["2_0"]["vid"] = "9"
    with pytest.raises(DataError, match="its vid is '9', which no view has"):
        read(tmp_path, content)
    content = version_3()
    content["view"]["2"]["fid_list"] = ["7"]
    with pytest.raises(DataError, match="file '7' is None"):
        read(tmp_path, content)
    content = version_3()
    content["metadata"]["2_0"]["xy"] = [7, 1, 2, 3]
    with pytest.raises(DataError, match="lists of one length"):
        read(tmp_path, content)
    content = version_2([])
    content["_via_img_metadata"]["other"] = content["_via_img_metadata"]["eye.png12"]
    with pytest.raises(DataError, match="eye.png is listed twice"):
        read(tmp_path, content)
    write_csv(tmp_path / "via.csv")
    text = (tmp_path / "via.csv").read_text()
    (tmp_path / "via.csv").write_text(text.replace('""polygon""', '""polygon'))
    with pytest.raises(DataError, match="line 2: .* is not JSON"):
        annotations.read(tmp_path / "via.csv")
