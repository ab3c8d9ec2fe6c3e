"""LabelMe files."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "disc", "cup")
SQUARE = [[2, 2], [12, 2], [12, 12], [2, 12]]


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def document(*entries):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(entries),
        "imagePath": "..\\pictures\\eye.png",
        "imageData": None,
        "imageHeight": 20,
        "imageWidth": 30,
    }


def shape(kind="polygon", points=SQUARE, label="disc", **fields):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **fields}


def read(tmp_path, *entries, **changes):
    path = tmp_path / "eye.json"
    path.write_text(json.dumps({**document(*entries), **changes}), encoding="utf-8-sig")
    return annotations.read(path)


def mask_of(result):
    return annotations.draw(result.images[0], 20, 30, CLASSES, "multiclass")


def test_outlines_rectangles_and_circles(tmp_path):
    result = read(
        tmp_path,
        shape(),
        shape("rectangle", [[20, 9], [16, 4]], "cup"),
        shape("circle", [[23, 13], [23, 17]], " cup "),
        shape("polygon", SQUARE, "__ignore__"),
    )
    mask = mask_of(result)
    assert result.class_names == ("cup", "disc", "ignore")
    assert result.images[0].image == "../pictures/eye.png" and result.images[0].turned
    assert (mask[2:12, 2:12] == 255).all()
    assert (mask[4:9, 16:20] == 2).all() and (mask == 2).sum() == 20 + 52  # pi 4**2 = 50.3
    assert "1 rectangles are filled" in result.notes[0]


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_masks_are_pixels_of_their_box(tmp_path, kind):
    pixels = np.random.default_rng(0).random((5, 7)) < 0.5
    entry = shape("mask", [[11, 4], [17, 8]], mask=png(pixels.astype(kind)))
    mask = mask_of(read(tmp_path, entry))
    np.testing.assert_array_equal(mask[4:9, 11:18], pixels)
    assert mask.sum() == pixels.sum()


def test_lines_and_slips_of_the_mouse_are_left_out(tmp_path):
    entries = [shape("line", SQUARE[:2]), shape("point", SQUARE[:1]), shape(points=SQUARE[:2])]
    result = read(tmp_path, *entries)
    assert "2 shapes without an area are left out (line, point)" in result.notes[0]
    assert len(result.images[0].shapes) == 1 and not mask_of(result).any()


@pytest.mark.parametrize(
    "entry, message",
    [
        ("disc", "shape 1 is 'disc'"),
        (shape(label=None), "its label is None"),
        (shape("star"), "shape_type 'star'"),
        (shape(points=[[1, 2], [3]]), "expected pairs of numbers"),
        (shape(points=7), "its points are 7"),
        (shape("circle", SQUARE), "expected two points for a circle"),
        (shape("mask", SQUARE[::2], mask="AAAA"), "its mask is no PNG picture"),
        (shape("mask", SQUARE[::2]), "its mask is no PNG picture"),
        (shape("mask", SQUARE[::2], mask=png(np.ones((3, 4), bool))), "3x4 pixels, .* 11x11"),
    ],
)
def test_wrong_entries_are_named(tmp_path, entry, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, entry)
    assert str(error.value).startswith(f"{tmp_path / 'eye.json'}: shape 1")


def test_a_picture_that_promises_too_many_pixels_takes_no_memory(tmp_path):
    head = base64.b64decode(png(np.ones((2, 2), bool)))
    bomb = head[:16] + (60000).to_bytes(4, "big") * 2 + head[24:]
    entry = shape("mask", [[0, 0], [1, 1]], mask=base64.b64encode(bomb).decode())
    with pytest.raises(DataError, match="no PNG picture|60000x60000"):
        read(tmp_path, entry)
