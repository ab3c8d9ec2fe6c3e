"""Files of CVAT for images."""

import numpy as np
import pytest

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "disc", "cup")
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>eyes</name><labels>
<label><name>disc</name><color>#ff0080</color><attributes></attributes></label>
<label><name>cup</name><color>#00ff00</color></label></labels></task></meta>
"""
DISC = '<polygon label="disc" points="2.00,2.00;12.00,2.00;12.00,12.00;2.00,12.00" z_order="0"/>'


def read(tmp_path, *shapes, head=HEAD, image='id="0" name="a/eye.png" width="30" height="20"'):
    path = tmp_path / "annotations.xml"
    path.write_text(f"{head}<image {image}>{''.join(shapes)}</image></annotations>")
    return annotations.read(path)


def mask_of(result):
    return annotations.draw(result.images[0], 20, 30, CLASSES, "multiclass")


def test_areas_of_all_kinds(tmp_path):
    result = read(
        tmp_path,
        DISC,
        '<box label="cup" xtl="16" ytl="4" xbr="20" ybr="9"><attribute name="a">b</attribute>'
        "</box>",
        '<ellipse label="cup" cx="24" cy="14" rx="4" ry="2" rotation="90"/>',
        '<polyline label="cup" points="1,1;2,2"/><tag label="cup"/>',
    )
    mask = mask_of(result)
    assert (mask == 1).sum() == 100 and (mask[4:9, 16:20] == 2).all()
    rows, columns = np.mgrid[10:20, 20:30] + 0.5
    upright = ((columns - 24) / 2) ** 2 + ((rows - 14) / 4) ** 2 < 1
    np.testing.assert_array_equal(mask[10:, 20:] == 2, upright)
    assert result.class_names == CLASSES[1:]
    assert result.colours == {"disc": (255, 0, 128), "cup": (0, 255, 0)}
    notes = "\n".join(result.notes)
    assert "left out: polyline (1), tag (1)" in notes and "1 rectangles are filled" in notes
    assert result.images[0].image == "a/eye.png" and result.images[0].turned


def test_masks_run_along_the_rows_of_their_box(tmp_path):
    pixels = np.random.default_rng(0).random((5, 7)) < 0.5
    runs, previous = [0], False
    for value in pixels.ravel():
        if value != previous:
            runs.append(0)
        runs[-1] += 1
        previous = value
    rle = ", ".join(map(str, runs))
    result = read(
        tmp_path, f'<mask label="disc" rle="{rle}" left="11" top="4" width="7" height="5"/>'
    )
    mask = mask_of(result)
    np.testing.assert_array_equal(mask[4:9, 11:18], pixels)
    assert mask.sum() == pixels.sum()


def test_z_order_decides_what_lies_above(tmp_path):
    cup = '<polygon label="cup" points="4,4;8,4;8,8;4,8" z_order="{}"/>'
    assert (mask_of(read(tmp_path, cup.format(1), DISC)) == 2).sum() == 16
    assert (mask_of(read(tmp_path, cup.format(0), DISC)) == 2).sum() == 0
    assert (mask_of(read(tmp_path, DISC, cup.format(-1))) == 2).sum() == 0


def test_entities_are_not_expanded(tmp_path):
    levels = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 20))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "lol">{levels}]>'
    outside = '<!DOCTYPE x [<!ENTITY l19 SYSTEM "file:///etc/passwd">]>'
    for doctype in (bomb, outside):
        with pytest.raises(DataError, match="document type"):
            read(tmp_path, "&l19;", head=HEAD.replace("<annotations>", f"{doctype}<annotations>"))


@pytest.mark.parametrize(
    "shape, message",
    [
        ('<polygon label="disc" points="1,2;3"/>', "expected pairs of numbers"),
        ('<polygon label="disc"/>', "its points are"),
        ('<polygon points="1,2;3,4;5,6"/>', "its label is None"),
        ('<polygon label="disc" points="1,2;3,4;5,nan"/>', "a coordinate is nan"),
        ('<box label="disc" xtl="1"/>', "its ytl is None"),
        ('<ellipse label="disc" cx="1" cy="x" rx="1" ry="1"/>', "its cy is 'x'"),
        ('<mask label="disc" rle="4,a" left="0" top="0" width="2" height="2"/>', "its rle is"),
        ('<mask label="disc" rle="4" left="-1" top="0" width="2" height="2"/>', "left is '-1'"),
        ('<polygon label="disc" points="1,2;3,4;5,6" z_order="top"/>', "its z_order is 'top'"),
        ('<polygon label="disc" points="1,2;3,4;5,6">', "not readable as XML"),
    ],
)
def test_wrong_attributes_are_named(tmp_path, shape, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, shape)


def test_other_xml_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="CVAT for video"):
        read(tmp_path, head=HEAD + '<track id="0" label="disc"></track>')
    with pytest.raises(DataError, match="Pascal VOC"):
        read(tmp_path, head="<annotation><annotations>")
    with pytest.raises(DataError, match="50 deep"):
        read(tmp_path, head="<annotations>" * 100)
    with pytest.raises(DataError, match="its image is None"):
        read(tmp_path, image="")
    result = read(tmp_path, '<mask label="disc" rle="5" left="0" top="0" width="2" height="2"/>')
    with pytest.raises(DataError, match="shape 1: runs of 5 pixels for a mask of 2x2"):
        mask_of(result)
