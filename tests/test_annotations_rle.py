"""`seglib.annotations.rle`: the same runs and texts as pycocotools, and errors for broken ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as reference

from seglib.annotations import rle
from seglib.errors import DataError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = arrays.arrays(bool, SHAPES)


def blobs(shape, seed):
    """Random rectangles: long runs, whose differences are large and negative too."""
    rng, mask = np.random.default_rng(seed), np.zeros(shape, bool)
    for _ in range(rng.integers(0, 12)):
        top, left = rng.integers(0, shape)
        mask[top : top + rng.integers(1, shape[0]), left : left + rng.integers(1, shape[1])] ^= True
    return mask


@settings(deadline=None)
@given(MASKS)
def test_texts_and_masks_are_those_of_pycocotools(mask):
    check_with_reference(mask)


@pytest.mark.parametrize("seed", range(8))
def test_large_masks_are_those_of_pycocotools(seed):
    check_with_reference(blobs((700, 900), seed))


def check_with_reference(mask):
    height, width = mask.shape
    coded = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = rle.encode(mask)
    assert rle.compress(runs) == coded["counts"].decode()
    assert rle.decompress(coded["counts"]) == runs
    np.testing.assert_array_equal(rle.decode(runs, height, width), mask)
    for counts in (runs, coded["counts"], coded["counts"].decode()):
        again = rle.read({"size": [height, width], "counts": counts}, height, width)
        np.testing.assert_array_equal(again, mask)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_text_is_read_or_refused(text):
    """What is read has the runs that pycocotools reads, wherever they fit into the picture."""
    try:
        mask = rle.read({"size": [8, 8], "counts": text})
    except DataError:
        return
    np.testing.assert_array_equal(mask, reference.decode({"size": [8, 8], "counts": text}))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 4], "counts": [3, 4]}, "RLE of 7 pixels, but its size is 4x4 = 16"),
        ({"size": [4, 4], "counts": [20, -4]}, "a run of 20; expected a whole number from 0 to 16"),
        ({"size": [4, 4], "counts": [2.0, 14]}, "a run of 2.0; expected a whole number"),
        ({"size": [4, 4], "counts": [True, 15]}, "a run of True"),
        ({"size": [4, 4], "counts": [10**30]}, "a run of 10000"),
        ({"size": [4, 4], "counts": "0z"}, "character 2 is 'z'; expected '0' to 'o'"),
        ({"size": [4, 4], "counts": "0ä"}, "compressed RLE: character 2"),
        ({"size": [4, 4], "counts": "0o"}, "cut short within its last run"),
        ({"size": [4, 4], "counts": "oooooooo0"}, "a run of 9 characters; expected at most 7"),
        ({"size": [4, 4], "counts": "0O"}, "a run of -1;"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "a mask of 1000000x1000000 pixels"),
        ({"size": [0, 4], "counts": []}, "a mask of 0x4 pixels"),
        ({"size": [4], "counts": [16]}, "expected .*size"),
        ({"size": ["4", "4"], "counts": [16]}, "expected .*size"),
        ({"counts": [16]}, "expected .*size"),
        ([[1, 2, 3, 4]], "expected .*size"),
        (None, "expected .*size"),
    ],
)
def test_broken_objects_are_refused_with_the_reason(segmentation, message):
    with pytest.raises(DataError, match=message):
        rle.read(segmentation)


def test_the_size_of_another_image_is_refused():
    segmentation = {"size": [4, 5], "counts": [20]}
    assert not rle.read(segmentation, 4, 5).any()
    with pytest.raises(DataError, match="its size is 4x5, but the image is 5x4"):
        rle.read(segmentation, 5, 4)
