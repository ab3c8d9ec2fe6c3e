"""Tiles of images that are larger than what the network sees at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from seglib import tiles


@given(st.integers(1, 400), st.integers(8, 130), st.floats(0.3, 0.9))
def test_tiles_cover_a_side_and_overlap_enough(length, tile, overlap):
    tile = min(tile, length)
    starts = tiles.starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == length - tile
    steps = np.diff(starts)
    assert (steps <= tile * (1 - overlap) + 1).all() and (steps > 0).all()


@given(st.integers(9, 90), st.integers(9, 90), st.integers(8, 40), st.floats(0.3, 0.9))
def test_pixelwise_results_are_those_of_the_whole(height, width, tile, overlap):
    batch = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    blended = tiles.blend(batch, (tile, tile), lambda part: part * 2 - 1, overlap, batch_size=3)
    torch.testing.assert_close(blended, batch * 2 - 1)


@pytest.mark.parametrize("frame, sides", [((96, 160), (64, 64)), ((128, 64), (64, 32))])
def test_the_blend_is_that_of_monai(frame, sides):
    """Of a network that sees far beyond its tiles, so that every weight matters.

    MONAI's weights do not depend on the place of a tile. Ours differ at the image's own edge, where
    a single tile counts: there any weight but 0 gives the same.
    """
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 31, padding=15)
    batch = torch.rand(2, 2, *frame)
    ramps = [np.clip(np.arange(n) + 1 - n // 8, 1e-6, None) for n in sides]
    weights = np.outer(*(np.minimum(ramp, ramp[::-1]) for ramp in ramps))
    with torch.no_grad():
        blended = tiles.blend(batch, sides, network, overlap=0.5)
        expected = sliding_window_inference(
            batch, sides, 4, network, overlap=0.5, roi_weight_map=torch.from_numpy(weights).float()
        )
    torch.testing.assert_close(blended, expected, atol=1e-4, rtol=0)


def test_an_image_smaller_than_a_tile_is_computed_as_it_is():
    sizes = []
    batch = torch.rand(1, 1, 20, 50)
    blended = tiles.blend(batch, (32, 32), lambda part: sizes.append(part.shape[-2:]) or part)
    torch.testing.assert_close(blended, batch)
    assert set(sizes) == {(20, 32)}


def test_no_more_tiles_at_once_than_asked_for():
    sizes = []
    batch = torch.rand(3, 1, 64, 64)
    tiles.blend(batch, (32, 32), lambda part: sizes.append(len(part)) or part, batch_size=4)
    assert max(sizes) == 4 and sum(sizes) == 27
