"""Cleaned masks: components, holes, classes that overlap or not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from seglib.inference import clean
from tests.predictors import predictor

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))


@given(MASKS, st.integers(0, 12), st.booleans())
def test_cleaning_keeps_large_components_and_nothing_else(mask, min_size, fill):
    cleaned = clean(mask, min_size, fill)
    components, n = ndimage.label(mask)
    large = [components == k for k in range(1, n + 1) if (components == k).sum() >= min_size]
    expected = np.logical_or.reduce(large) if large else np.zeros_like(mask)
    expected = ndimage.binary_fill_holes(expected) if fill else expected
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(clean(cleaned, min_size, fill), cleaned)  # once is enough


@given(MASKS, st.integers(0, 12), st.booleans())
def test_largest_keeps_one_component(mask, min_size, fill):
    cleaned = clean(mask, min_size, keep_largest_component=True)
    components, n = ndimage.label(mask)
    sizes = [(components == k).sum() for k in range(1, n + 1)]
    expected = np.zeros_like(mask)
    if n and max(sizes) >= min_size:
        expected = components == 1 + int(np.argmax(sizes))
    np.testing.assert_array_equal(cleaned, expected)
    filled = ndimage.binary_fill_holes(expected) if fill else expected
    np.testing.assert_array_equal(clean(mask, min_size, fill, keep_largest_component=True), filled)


def test_largest_is_of_every_class_but_the_background():
    model = predictor("cardiac")
    prob = np.zeros((4, 20, 20), np.float32)
    prob[0] = 0.5
    prob[1, 2:8, 2:8] = prob[1, 12, 2:4] = 0.9
    prob[2, 10:13, 10:13] = prob[2, 4, 4] = 0.95  # a speck inside class 1, which is then neither
    prob[0, :, 9] = 0.99
    model.keep_largest_component = True
    labels = model.mask(prob)
    assert (
        labels[12, 2] == 0
        and labels[4, 4] == 0
        and (labels == 1).sum() == 35
        and (labels == 2).sum() == 9
    )
    model.keep_largest_component = False
    assert (model.mask(prob) == 1).sum() == 37 and model.mask(prob)[4, 4] == 2


def test_cleaning_of_classes_leaves_one_class_a_pixel():
    model = predictor("cardiac")
    prob = np.zeros((4, 20, 20), np.float32)
    prob[0] = 0.5
    prob[1, 2:8, 2:8] = 0.9  # a ring of class 1 around a hole, in which a pixel of class 2 lies
    prob[1, 4:6, 4:6] = 0
    prob[2, 4, 4] = 0.8
    prob[3, 15, 15] = 0.9  # a speck
    model.fill_holes = True
    labels = model.mask(prob)
    assert labels[4, 4] == 2 and labels[5, 5] == 1 and labels[15, 15] == 3
    model.min_component_size = 4
    labels = model.mask(prob)
    assert labels[15, 15] == 0 and labels[2, 2] == 1
    model.min_component_size, model.fill_holes = 0, False
    assert model.mask(prob)[5, 5] == 0 and model.mask(prob)[15, 15] == 3


def test_cleaning_of_overlapping_classes_is_by_class():
    model = predictor("palm")
    prob = np.zeros((3, 12, 12), np.float32)
    prob[0, 1:6, 1:6] = prob[1, 1, 1] = 0.9
    model.min_component_size = 3
    assert model.mask(prob).sum(axis=(1, 2)).tolist() == [25, 0, 0]
