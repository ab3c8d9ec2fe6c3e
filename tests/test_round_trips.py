"""Masks of every real set come back pixel by pixel from every format that we write."""

import numpy as np
import pytest

from seglib import phantoms
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


def test_a_set_is_counted_and_its_result_is_kept(tmp_path, monkeypatch):
    ring = np.hypot(*np.mgrid[-12:12, -15:15]) % 9 < 5
    sets = [("a", {"x": ring}), ("b", {"x": ring & False}), ("c", {"x": ring, "y": ring})]
    monkeypatch.setattr(round_trips, "masks_of", lambda data, name: sets)
    monkeypatch.setattr(round_trips, "KEPT", tmp_path / "kept")
    figures = round_trips.kept("s", round_trips.of_set, tmp_path, "s")
    assert (figures["images"], figures["label maps"], figures["farther than 1"]) == (2, 1, 0)
    assert figures["components"] == 15 and figures["holes"] == 3
    assert {n for key, n in figures.items() if "changed" in key} == {0}
    monkeypatch.setattr(round_trips, "of_set", None)  # is not called again
    assert round_trips.kept("s", round_trips.of_set, tmp_path, "s") == figures
    raw = {"images": 9, "pixels changed": 4}
    assert round_trips.row("s", figures, raw).startswith("| s | 2 | 1 | 9 | 15 | 3 | 4 |")


def test_pictures_go_through_nnunet(tmp_path, monkeypatch):
    root = phantoms.write("binary", tmp_path / "set", n=6)
    monkeypatch.setitem(round_trips.STORES, "set", ("binary", {"class_names": ("lesion",)}))
    assert round_trips.through_nnunet(root.parent, "set") == {"images": 6, "pixels changed": 0}


def test_the_page_has_the_place_of_the_table():
    page = round_trips.PAGE.read_text(encoding="utf-8")
    assert page.index(round_trips.BEGIN) < page.index("| acdc |") < page.index(round_trips.END)
