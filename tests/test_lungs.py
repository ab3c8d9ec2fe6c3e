"""Measures of lungs: by hand on drawn ones, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib import lungs
from seglib.errors import DataError


def two_lungs(height=120, width=160, right=(20, 70), left=(90, 140), rows=(30, 90)):
    mask = np.zeros((height, width), bool)
    mask[rows[0] : rows[1], slice(*right)] = mask[rows[0] : rows[1], slice(*left)] = True
    return mask


def film(mask, seed=0):
    """A grey film with darker lungs and noise, uint8."""
    noise = np.random.default_rng(seed).normal(0, 6, mask.shape)
    return np.clip(np.where(mask, 70, 180) + noise, 0, 255).astype(np.uint8)


def test_sides_and_zones_by_hand():
    mask = two_lungs(right=(20, 70), left=(90, 130))
    right, left = lungs.sides(mask)
    assert right[:, 20:70].any() and not right[:, 70:].any() and not left[:, :90].any()
    np.testing.assert_array_equal(right | left, mask)
    zones = lungs.zones(right)
    ends = [np.flatnonzero(zone.any(axis=1))[[0, -1]].tolist() for zone in zones]
    assert ends == [[30, 49], [50, 69], [70, 89]]
    np.testing.assert_array_equal(np.logical_or.reduce(zones), right)


def test_lungs_that_touch_are_cut_at_the_narrowest_place():
    mask = two_lungs()
    mask[55:60, 70:90] = True
    right, left = lungs.sides(mask)
    assert right.sum() == pytest.approx(left.sum(), abs=5 * 20) and right[:, :70].sum() == 60 * 50


def test_areas_and_asymmetry_by_hand():
    mask = two_lungs(right=(20, 70), left=(90, 120))
    values = lungs.measures(film(mask), mask)
    assert values["area_right"] == pytest.approx(60 * 50 / mask.size)
    assert values["asymmetry"] == pytest.approx((50 - 30) / 80) and values["height_asymmetry"] == 0
    in_mm = lungs.measures(film(mask), mask, spacing=(0.5, 2.0))
    assert in_mm["area_left"] == pytest.approx(60 * 30)
    assert in_mm["asymmetry"] == values["asymmetry"]


def test_an_opacity_is_found_in_its_zone():
    mask = two_lungs()
    clean = film(mask)
    ill = clean.astype(int)
    ill[32:48, 100:130] += 60  # the left upper zone
    before, after = lungs.measures(clean, mask), lungs.measures(ill.astype(np.uint8), mask)
    change = {name: after[name] - before[name] for name in before if name.endswith("_opacity")}
    assert max(change, key=change.get) in ("left_upper_opacity", "difference_upper_opacity")
    assert change["left_upper_opacity"] > 0.2 and abs(change["right_lower_opacity"]) < 0.05
    assert after["left_upper_coarse"] > 2 * before["left_upper_coarse"]


def test_texture_is_fine_or_coarse():
    mask = np.ones((200, 200), bool)
    rows = np.arange(200)[:, None] + np.zeros(200)
    fine = 68 + 120 * (rows // 2 % 2)  # stripes of two pixels, one per cent of the height
    coarse = 68 + 120 * (rows // 10 % 2)
    a, b = (lungs.measures(picture.astype(np.uint8), mask) for picture in (fine, coarse))
    assert a["right_middle_fine"] > 3 * a["right_middle_coarse"]
    assert b["right_middle_coarse"] > 3 * a["right_middle_coarse"]


@settings(max_examples=15)
@given(gain=st.floats(0.5, 1.2), offset=st.integers(0, 20))
def test_exposure_cancels(gain, offset):
    mask = two_lungs()
    picture = film(mask)
    changed = np.clip(picture * gain + offset, 0, 255).astype(np.uint8)
    if (changed == 255).any():
        return
    first, second = lungs.measures(picture, mask), lungs.measures(changed, mask)
    assert first == pytest.approx(second, abs=0.03)


def test_mirrored_films_swap_the_sides():
    mask = two_lungs(right=(20, 70), left=(92, 120))
    picture = film(mask)
    values = lungs.measures(picture, mask)
    mirrored = lungs.measures(picture[:, ::-1], mask[:, ::-1])
    for name, value in values.items():
        other = name.replace("right", "?").replace("left", "right").replace("?", "left")
        assert mirrored[other] == pytest.approx(value, abs=1e-6), name


def test_a_lung_that_was_not_found_is_not_measured():
    mask = two_lungs()
    mask[:, 80:] = False
    values = lungs.measures(film(mask), mask)
    assert values["asymmetry"] == 1 and np.isfinite(values["right_upper_opacity"])
    for name in ("left_upper_opacity", "difference_lower_fine"):
        assert np.isnan(values[name])
    empty = lungs.measures(film(mask), np.zeros_like(mask))
    assert empty["area_right"] == 0 and list(empty) == list(values)
    for name in ("asymmetry", "right_upper_fine"):
        assert np.isnan(empty[name])


def test_the_region_is_the_box_of_the_lungs_black_outside():
    mask = two_lungs()
    mask[50:60, 30:40] = False  # a dense spot that the mask leaves out
    picture = film(mask)
    region = lungs.region(picture, mask, margin=0)
    assert region.shape == (60, 120) and (region[:, 50:70] == 0).all()
    np.testing.assert_array_equal(region[:, :50], picture[30:90, 20:70])  # the hole is shown
    wide = lungs.region(picture, mask, margin=0.5)
    assert wide.shape == picture.shape  # the frame is the limit
    with pytest.raises(DataError, match="empty"):
        lungs.region(picture, np.zeros_like(mask))


def test_shapes_must_agree():
    with pytest.raises(DataError, match=r"\(120, 160\).*\(20, 20\)"):
        lungs.measures(np.zeros((120, 160), np.uint8), np.zeros((20, 20), bool))
