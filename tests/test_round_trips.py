"""Masks of every real set come back pixel by pixel from every format that we write."""

import numpy as np
import pytest

from tests import round_trips


@pytest.mark.parametrize("name", round_trips.SETS)
def test_real_masks_come_back_from_every_format(real, tmp_path, name):
    cases = round_trips.masks_of(real(name).parent, name)
    first = next(planes for _, planes in cases if any(plane.any() for plane in planes.values()))
    differing = round_trips.compare(first, tmp_path)
    assert set(differing.values()) == {0}, differing
    assert "COCO polygons" in differing and "LabelMe" in differing


def test_the_boundary_distance_is_that_of_the_farthest_pixel():
    first, second = np.zeros((2, 20, 30), bool)
    first[5:10, 5:10] = second[5:10, 5:13] = True
    assert round_trips.boundary_distance(first, second) == 3
    assert round_trips.boundary_distance(first, first) == 0
    assert round_trips.boundary_distance(first, ~(first | True)) == float("inf")
