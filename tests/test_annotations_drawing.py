"""Shapes of annotation files become masks: which pixels, which class, and what is counted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib import annotations
from seglib.annotations import drawing, shapes
from seglib.errors import DataError

ROWS, COLUMNS = np.mgrid[:20, :30]
CLASSES = ("background", "disc", "cup")


def annotated(*shapes_of_image, **fields):
    size = {"height": 20, "width": 30}
    return annotations.Annotated(
        **{"image": "eye.png", **size, **fields}, shapes=shapes_of_image, source=Path("a.json")
    )


def square(name, left, top, side):
    return annotations.Shape(name, ((shapes.rectangle(left, top, side, side),),), name="shape 1")


def centres_inside(rings):
    """Which pixel centres lie inside an odd number of rings, edge by edge of the definition."""
    inside = np.zeros(ROWS.shape, bool)
    x, y = COLUMNS + 0.5, ROWS + 0.5
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0)):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            if y0 != y1:
                passes = (y0 <= y) & (y < y1)
                inside ^= passes & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
    return inside


corner = st.tuples(st.integers(-20, 140), st.integers(-20, 100))
outline = st.lists(corner, min_size=3, max_size=9)


@given(st.lists(outline, min_size=1, max_size=3))
def test_a_polygon_has_the_pixels_whose_centres_lie_inside(outlines):
    rings = tuple(np.array(points, float) / 4 for points in outlines)
    shape = annotations.Shape("disc", (rings,))
    mask = annotations.draw(annotated(shape), 20, 30, ("disc",), "binary")
    np.testing.assert_array_equal(mask, centres_inside(rings))


@given(st.lists(corner, min_size=4, max_size=4))
def test_neighbours_share_no_pixel_and_leave_no_gap(points):
    """Two triangles with a common edge: what belongs to one of them belongs to the whole."""
    ring = np.array(points, float) / 4

    def mask(corners):
        shape = annotations.Shape("disc", ((ring[corners],),))
        return annotations.draw(annotated(shape), 20, 30, ("disc",), "binary")

    np.testing.assert_array_equal(mask([0, 1, 2]) ^ mask([0, 2, 3]), mask([0, 1, 2, 3]))


def test_later_shapes_lie_above_and_the_contest_is_counted():
    image = annotated(square("disc", 2, 2, 10), square("cup", 8, 8, 10))
    drawn = drawing.drawn(image, 20, 30, CLASSES, "multiclass")
    assert drawn.mask[3, 3] == 1 and drawn.mask[9, 9] == drawn.mask[15, 15] == 2
    assert drawn.contested == {("disc", "cup"): 16}
    assert drawn.pixels == {"disc": 100, "cup": 100}
    planes = annotations.draw(image, 20, 30, CLASSES[1:], "multilabel")
    assert planes.shape == (20, 30, 2) and planes.sum(axis=(0, 1)).tolist() == [100, 100]


def test_background_erases_and_ignored_pixels_are_255():
    image = annotated(square("disc", 0, 0, 10), square("background", 0, 0, 5))
    image = annotated(*image.shapes, square("ignore", 5, 5, 5))
    for task, names in (("multiclass", CLASSES), ("binary", ("disc",)), ("multilabel", ("disc",))):
        mask = annotations.draw(image, 20, 30, names, task).reshape(20, 30)
        assert mask[1, 1] == 0 and mask[1, 7] == 1 and mask[7, 7] == 255, task


def test_shapes_outside_are_clipped_and_counted():
    line = annotations.Shape("disc", ((np.array([[3.6, 0], [3.9, 0], [3.9, 9]]),),))
    image = annotated(square("disc", -5, -5, 10), square("disc", 40, 40, 9), line)
    drawn = drawing.drawn(image, 20, 30, ("disc",), "binary")
    assert drawn.mask.sum() == 25
    assert (drawn.clipped, drawn.outside, drawn.too_thin, drawn.n_shapes) == (1, 1, 1, 3)


def test_shares_of_the_image_are_scaled():
    shape = annotations.Shape("disc", ((np.array([[0, 0], [0.5, 0], [0.5, 1], [0, 1]]),),))
    image = annotated(shape, relative=True, height=None, width=None)
    assert annotations.draw(image, 20, 30, ("disc",), "binary").sum() == 20 * 15


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_bitmaps_keep_their_pixels(seed, by_columns):
    random = np.random.default_rng(seed)
    pixels = random.random((7, 9)) < random.choice([0, 0.1, 0.5, 1])
    bitmap = shapes.bitmap_of(pixels, top=4, left=6)
    if by_columns:
        turned = shapes.bitmap_of(pixels.T)
        bitmap = shapes.Bitmap(turned.runs, 7, 9, 4, 6, by_columns=True)
    image = annotated(annotations.Shape("disc", bitmap=bitmap))
    mask = annotations.draw(image, 20, 30, ("disc",), "binary")
    assert np.array_equal(mask[4:11, 6:15], pixels) and mask.sum() == pixels.sum()


def test_another_size_is_refused():
    with pytest.raises(DataError, match="annotated at 20x30, but the image is 30x20"):
        annotations.draw(annotated(), 30, 20, ("disc",), "binary")
    bitmap = shapes.bitmap_of(np.ones((20, 31)))
    with pytest.raises(DataError, match="a mask of 20x31 pixels .* the image is 20x30"):
        annotations.draw(
            annotated(annotations.Shape("disc", bitmap=bitmap)), 20, 30, ("disc",), "binary"
        )
    bitmap = shapes.Bitmap(np.array([3, 10**12]), 20, 30)
    with pytest.raises(DataError, match="runs of 1000000000003 pixels"):
        annotations.draw(
            annotated(annotations.Shape("disc", bitmap=bitmap)), 20, 30, ("disc",), "binary"
        )


def test_work_is_limited(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_WORK", 20_000)
    annotations.draw(annotated(*[square("disc", 0, 0, 20)] * 10), 20, 30, ("disc",), "binary")
    with pytest.raises(DataError, match="too many large ones lie on top of each other"):
        annotations.draw(annotated(*[square("disc", 0, 0, 20)] * 20), 20, 30, ("disc",), "binary")
