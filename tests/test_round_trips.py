"""Masks of every real set come back pixel by pixel from every format that we write."""

import itertools

import numpy as np
import pytest

from seglib.annotations import outlines
from tests import round_trips


@pytest.mark.parametrize("name", round_trips.SETS)
def test_real_masks_come_back_from_every_format(real, tmp_path, name, capsys):
    cases = round_trips.masks_of(real(name).parent, name)
    first = next(planes for _, planes in cases if any(plane.any() for plane in planes.values()))
    differing = round_trips.compare(first, tmp_path)
    assert set(differing.values()) == {0}, differing
    assert "COCO polygons" in differing and "LabelMe" in differing


@pytest.mark.parametrize("name", ["curvas_ct", "dsb2018_nuclei", "acdc"])
def test_coarser_outlines_stay_within_two_pixels(real, tmp_path, name):
    """The outline moves by 1 pixel at most, and the nearest boundary pixel by half of one more."""
    cases = itertools.islice(round_trips.masks_of(real(name).parent, name), 3)
    for _, planes in cases:
        if not planes:
            continue
        coarse = round_trips.by_annotations("coco", 1.0)(planes, tmp_path / str(len(planes)))
        for key, plane in planes.items():
            assert round_trips.boundary_distance(plane, coarse[key]) <= 2
        exact_corners = round_trips.corners(planes, outlines.EXACT)[2]
        assert round_trips.corners(planes, 1.0)[2] < 0.6 * exact_corners


def test_the_boundary_distance_is_that_of_the_farthest_pixel():
    first, second = np.zeros((2, 20, 30), bool)
    first[5:10, 5:10] = second[5:10, 5:13] = True
    assert round_trips.boundary_distance(first, second) == 3
    assert round_trips.boundary_distance(first, first) == 0
    assert round_trips.boundary_distance(first, ~(first | True)) == float("inf")
