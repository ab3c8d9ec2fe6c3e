"""`seglib.annotations.outlines`: polygons that cover exactly the pixels of a mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_masks
from scipy import ndimage
from skimage import draw

from seglib.annotations import outlines
from seglib.errors import ConfigError

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16)))


def drawn(rings, shape):
    """The pixels inside an odd number of rings, by scikit-image."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        mask ^= draw.polygon2mask(shape, ring[:, ::-1] - 0.5)
    return mask


def drawn_by_coco(ring, shape):
    return coco_masks.decode(coco_masks.frPyObjects([ring.ravel().tolist()], *shape)[0]).astype(
        bool
    )


def parts_of(mask, tolerance=outlines.EXACT):
    return [outlines.part_of(component, tolerance) for component in outlines.components(mask)]


def smooth_mask(shape=(150, 200), seed=0, level=0.0):
    """Blobs with holes, some of them with blobs inside."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 3) > level


@settings(deadline=None)
@given(MASKS, st.sampled_from([0, outlines.EXACT]))
def test_polygons_cover_exactly_the_mask(mask, tolerance):
    parts = parts_of(mask, tolerance)
    n_holes = sum(len(part) - 1 for part in parts)
    background, n = ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))
    assert len(parts) == ndimage.label(mask)[1] and n_holes == n - 1
    together = np.zeros_like(mask)
    for part in parts:
        pixels = drawn(part, mask.shape)
        assert not (pixels & together).any()
        together |= pixels
        np.testing.assert_array_equal(drawn_by_coco(outlines.joined(part), mask.shape), pixels)
    np.testing.assert_array_equal(together, mask)


@pytest.mark.parametrize("seed", range(4))
def test_large_masks_survive_as_one_ring_each(seed):
    mask = smooth_mask(seed=seed, level=-0.02)
    parts = parts_of(mask)
    assert sum(len(part) > 2 for part in parts) > 0, "a mask with several holes in one component"
    together = np.zeros_like(mask)
    for part in parts:
        together |= drawn_by_coco(outlines.joined(part), mask.shape)
    np.testing.assert_array_equal(together, mask)
    corners = sum(len(ring) for part in parts for ring in part)
    every_corner = sum(len(ring) for part in parts_of(mask, 0) for ring in part)
    assert corners < 0.5 * every_corner


def test_the_coco_api_rounds_no_pixel_away():
    """Simplified by 0.3 pixels, its drawing of this mask lacks the pixel of row 5, column 9."""
    mask = np.zeros((7, 11), bool)
    mask[1, :5] = mask[2, 4:9] = mask[3, 8:10] = mask[5, 9:11] = True
    mask[:2, 6] = mask[4, 9] = mask[6, 10] = True
    (part,) = parts_of(mask)
    np.testing.assert_array_equal(drawn_by_coco(outlines.joined(part), mask.shape), mask)
    (coarse,) = parts_of(mask, 0.3)
    lost = mask & ~drawn_by_coco(outlines.joined(coarse), mask.shape)
    assert np.argwhere(lost).tolist() == [[5, 9]]


def test_bridges_lie_inside_the_structure():
    """Programs that draw the line of a polygon must not draw it through the background."""
    mask = smooth_mask(seed=5, level=-0.05)
    for component in outlines.components(mask):
        part = outlines.part_of(component)
        corners = {tuple(corner) for ring in part for corner in ring}
        ring = outlines.joined(part)
        for start, end in zip(ring, np.roll(ring, -1, axis=0)):
            if {tuple(start), tuple(end)} <= corners or (start == end).all():
                continue
            middle = (start + end) / 2
            row, column = np.floor(middle - 1e-9).astype(int)[::-1]
            assert start[1] != end[1] or mask[row, column]


def test_a_tolerance_moves_outlines_by_no_more():
    mask = smooth_mask(seed=2, level=0.05)
    exact, coarse = parts_of(mask, 0), parts_of(mask, 1.5)
    assert len(exact) == len(coarse)
    for before, after in zip(exact, coarse):
        assert len(before) == len(after) and all(len(ring) >= 3 for ring in after)
        for ring, simple in zip(before, after):
            assert distances(ring, simple).max() <= 1.5
    assert (
        sum(map(len, (r for p in coarse for r in p)))
        < sum(map(len, (r for p in exact for r in p))) / 4
    )


def distances(points, ring):
    """From points (n, 2) to the nearest place on a closed ring."""
    start, along = ring, np.roll(ring, -1, axis=0) - ring
    offset = points[:, None] - start
    share = (offset * along).sum(-1) / (along**2).sum(-1)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


def test_single_pixels_survive_a_coarse_tolerance():
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = mask[3, 4] = True
    (first,), (second,) = parts_of(mask, 3)
    assert drawn([first, second], mask.shape).sum() == 2


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_impossible_tolerances_are_refused(tolerance):
    component = next(outlines.components(np.ones((3, 3), bool)))
    with pytest.raises(ConfigError, match="tolerance: .*expected 0 pixels or more"):
        outlines.part_of(component, tolerance)
