"""Patches: where they are cut out, what their augmentation needs, and the tiles of validation."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seglib import augmentations, config, data, patches
from tests.helpers import PALM_CLASSES, hand_store

SIDES = st.tuples(st.integers(8, 40), st.integers(8, 40))


@st.composite
def layouts(draw):
    """(frame, box of the image in it, sides of a patch)."""
    frame = draw(SIDES)
    box = [draw(st.integers(1, side)) for side in frame]
    corner = [draw(st.integers(0, side - length)) for side, length in zip(frame, box)]
    sides = tuple(draw(st.integers(1, side)) for side in frame)
    return frame, (*corner, *box), sides


def overlap(start, side, box_start, length):
    return min(start + side, box_start + length) - max(start, box_start)


# ---- centres


@given(layouts(), st.integers(0, 1000))
def test_patches_have_no_padding_where_they_could_have_pixels(layout, seed):
    frame, box, sides = layout
    rng = np.random.default_rng(seed)
    row, column = box[0] + box[2] // 2, box[1] + box[3] // 2
    of_classes = {1: np.array([row * frame[1] + column], np.int32)}
    for positions in ({}, of_classes):
        for _ in range(10):
            corner = patches.draw(positions, box, frame, sides, rng)
            for axis in range(2):
                assert 0 <= corner[axis] <= frame[axis] - sides[axis]
                covered = overlap(corner[axis], sides[axis], box[axis], box[axis + 2])
                assert covered == min(sides[axis], box[axis + 2])


def test_a_rare_class_is_seen_as_often_as_a_common_one():
    """A dot of class 2 beside a square of class 1 that has 900 times as many pixels."""
    mask = np.zeros((128, 128, 1), np.uint8)
    mask[10:40, 10:40] = 1
    mask[100, 110] = 2
    mask[64:, :20] = 255
    of_classes = patches.positions(mask, "multiclass", seed=0)
    assert set(of_classes) == {1, 2} and len(of_classes[1]) == patches.N_POSITIONS
    rng = np.random.default_rng(0)
    seen = np.zeros(3)
    for _ in range(1000):
        top, left = patches.draw(of_classes, (0, 0, 128, 128), (128, 128), (16, 16), rng)
        part = mask[top : top + 16, left : left + 16]
        seen += [not np.isin([1, 2], part).any(), (part == 1).any(), (part == 2).any()]
    half = 1000 * patches.FOREGROUND / 2
    assert abs(seen[2] - half) < 50  # hardly ever by chance
    assert half - 50 < seen[1] < half + 120


def test_the_positions_are_pixels_of_their_class():
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (40, 30, 3))
    mask[..., 1] = 0
    of_classes = patches.positions(mask, "multilabel", seed=3)
    assert set(of_classes) == {0, 2}
    for k, flat in of_classes.items():
        assert (mask[..., k].ravel()[flat] == 1).all()
    again = patches.positions(mask, "multilabel", seed=3)
    np.testing.assert_array_equal(of_classes[0], again[0])
    assert (patches.positions(mask, "multilabel", seed=4)[0] != again[0]).any()
    assert patches.positions(mask * 0, "binary", seed=0) == {}


@given(layouts(), st.integers(-30, 30), st.integers(-30, 30))
def test_a_part_beyond_the_frame_is_filled_up(layout, top, left):
    frame, _, sides = layout
    pixels = np.random.default_rng(0).integers(0, 200, (*frame, 2), np.uint8)
    padded = np.pad(pixels, ((80, 80), (80, 80), (0, 0)), constant_values=255)
    expected = padded[80 + top : 80 + top + sides[0], 80 + left : 80 + left + sides[1]]
    np.testing.assert_array_equal(patches.cut(pixels, top, left, sides, 255), expected)


# ---- what augmentation needs

MOVING = [
    {"rotate": {"limit": 45, "p": 1.0}},
    {"rotate": {"limit": 180, "p": 1.0}},
    {"rot90": 1.0},
    {"affine": {"scale": [0.6, 1.5], "translate": 0.05, "rotate": 30, "p": 1.0}},
    {"affine": {"scale": [0.8, 1.0], "translate": 0.1, "rotate": 0, "p": 1.0}, "rot90": 1.0},
    {"hflip": 1.0, "rotate": {"limit": 20, "p": 1.0}, "affine": {"p": 1.0}},
    {"elastic": {"strength": 0.03, "p": 1.0}},
]


@pytest.mark.parametrize("augment", MOVING, ids=str)
@pytest.mark.parametrize("sides", [(48, 48), (32, 64)])
def test_augmentation_brings_no_border_into_a_patch(augment, sides):
    region = patches.region(augment, sides, (1000, 1000))
    assert all(outer >= inner for outer, inner in zip(region, sides))
    assert all((outer - inner) % 2 == 0 for outer, inner in zip(region, sides))
    pipeline = augmentations.pipeline(augment, sides)
    white, mask = np.full((*region, 1), 255, np.uint8), np.ones(region, np.uint8)
    for seed in range(40):
        pipeline.set_random_seed(seed)
        changed = pipeline(image=white, masks=[mask])
        assert changed["image"].shape[:2] == sides and changed["masks"][0].shape == sides
        assert changed["image"].min() == 255 and changed["masks"][0].max() == 1


def test_a_region_is_not_much_larger_than_needed():
    """By the bounding box of the turned patch, which OpenCV computes."""
    corners = cv2.boxPoints(((0, 0), (96, 96), 30))
    needed = np.ptp(corners, axis=0)[0]
    region = patches.region({"rotate": {"limit": 30, "p": 0.1}}, (96, 96), (500, 500))
    assert needed <= region[0] <= needed + 5
    assert patches.region({"hflip": 0.5, "rotate": 0.0}, (96, 80), (500, 500)) == (96, 80)
    tiny = {"affine": {"scale": [0.01, 1.0], "p": 1.0}}
    assert patches.region(tiny, (96, 80), (200, 300)) == (600, 600)  # nothing lies farther away


# ---- the data set


def patch_config(**changes):
    values = {"image_size": (64, 96), "patch_size": (32, 32), "augment": {}, **changes}
    return config.preset("cardiac", "smoke", **values)


@pytest.fixture
def store(tmp_path):
    """Six label maps (64, 96); the image tells the class."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (6, 64, 96, 1), np.uint8)
    splits = ["train"] * 4 + ["val"] * 2
    return hand_store(tmp_path / "store", masks * 60, masks, splits, ("labels",))


def shown(batch, dataset):
    """The image that a mask of `store` has."""
    return torch.from_numpy(dataset.table[0])[batch["mask"].long() * 60]


def test_an_epoch_has_several_patches_of_each_image(store):
    cfg = patch_config(patches_per_image=5)
    loader = data.loaders(store, cfg)["train"]
    assert len(loader.dataset) == 20
    batches = list(loader)
    indices = torch.cat([batch["index"] for batch in batches]).tolist()
    assert sorted(indices) == sorted([*range(4)] * 5) and indices != sorted(indices)
    for batch in batches:
        assert batch["image"].shape == (len(batch["image"]), 1, 32, 32)
        assert torch.equal(batch["image"][:, 0], shown(batch, loader.dataset))


def test_a_patch_depends_on_seed_epoch_and_item_only(store):
    cfg = patch_config(patches_per_image=3, augment={"rotate": 1.0, "gauss_noise": 1.0})
    first, again = (data.loaders(store, cfg)["train"].dataset for _ in range(2))
    n = len(first)
    items = {number: first[number]["image"] for number in range(2 * n)}
    for number in reversed(items):
        assert torch.equal(items[number], again[number]["image"])
    images = torch.stack(list(items.values()))
    assert len(torch.unique(images.flatten(1), dim=0)) == 2 * n
    other = data.loaders(store, cfg.replace(seed=cfg.seed + 1))["train"].dataset
    assert not torch.equal(other[0]["image"], items[0])


def test_only_the_rows_of_a_patch_are_read(store, monkeypatch):
    """The frames themselves are never copied as a whole."""
    cfg = patch_config(augment={"rotate": 1.0, "gauss_noise": 1.0})
    dataset = data.loaders(store, cfg)["train"].dataset
    monkeypatch.setattr(dataset, "pixels", None)
    sizes, cut = [], patches.cut

    def recorded(frame, top, left, sides, fill):
        assert isinstance(frame, np.memmap)
        sizes.append(sides)
        return cut(frame, top, left, sides, fill)

    monkeypatch.setattr(patches, "cut", recorded)
    assert dataset[0]["image"].shape == (1, 32, 32)
    assert set(sizes) == {dataset.region} and dataset.region == (48, 48)


def test_training_sees_patches_and_scores_see_whole_frames(store):
    loaders = data.loaders(store, patch_config(augment={"rotate": 1.0}))
    assert next(iter(loaders["train"]))["image"].shape == (4, 1, 32, 32)
    assert next(iter(loaders["val"]))["image"].shape == (2, 1, 64, 96)
    assert loaders["train"].dataset.plain()[0]["image"].shape == (1, 64, 96)
    assert len(loaders["train"].dataset.plain()) == 4


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(config.ConfigError, match="patches_per_image: 4 .* set patch_size"):
        patch_config(patch_size=None, patches_per_image=4)
    with pytest.raises(config.ConfigError, match="patch_size: .* larger than image_size"):
        patch_config(patch_size=65)
    with pytest.raises(config.ConfigError, match="rot90 .* square image_size, or a square patch"):
        patch_config(patch_size=None, augment={"rot90": 1.0})
    assert patch_config(augment={"rot90": 1.0}).patch_height_width == (32, 32)


# ---- tiles of validation


@given(layouts())
def test_tiles_count_every_pixel_once(layout):
    frame, (top, left, height, width), sides = layout
    counted = np.zeros(frame, int)
    for tile in patches.tiles(0, (top, left, height, width), frame, sides):
        part = counted[tile.top : tile.top + sides[0], tile.left : tile.left + sides[1]]
        assert part.shape == sides
        part[tile.rows :, tile.columns :] += 1
    assert (counted[top : top + height, left : left + width] == 1).all()
    assert counted.max() == 1


def test_few_tiles_of_an_image_are_half_with_its_structure():
    frame, sides = (320, 320), (32, 32)
    candidates = patches.tiles(0, (0, 0, *frame), frame, sides)
    dots = np.array([5 * 320 + 5, 100 * 320 + 300, 101 * 320 + 301, 300 * 320 + 2], np.int32)
    chosen = patches.choose(candidates, 6, {1: dots}, frame, sides)
    assert len(set(chosen)) == 6 and set(chosen) <= set(candidates)
    places = [(0, 0), (96, 288), (288, 0)]
    assert sorted((tile.top, tile.left) for tile in chosen[:3]) == places
    assert chosen == patches.choose(candidates, 6, {1: dots}, frame, sides)
    assert patches.choose(candidates, 100, {}, frame, sides) == candidates
    assert len(patches.choose(candidates, 7, {}, frame, sides)) == 7


@pytest.mark.parametrize("n_train, n_of_image", [(1, 1), (4, 3), (100, 6)])
def test_validation_costs_at_most_half_of_the_training(store, n_train, n_of_image):
    """An epoch of `n_train` patches; the two frames of validation have 6 tiles each."""
    cfg = patch_config()
    epoch = SimpleNamespace(dataset=range(n_train))
    loader = data.for_validation({**data.loaders(store, cfg), "train": epoch}, cfg)
    assert len(loader.dataset) == 2 * n_of_image
    batch = next(iter(loader))
    assert batch["image"].shape[1:] == (1, 32, 32)
    valid = batch["mask"] != 255
    assert torch.equal(batch["image"][:, 0][valid], shown(batch, loader.dataset)[valid])


def test_all_tiles_of_an_image_hold_what_its_frame_holds(tmp_path):
    """Frames whose sides are no multiples of the patch, and classes that may overlap."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (3, 50, 70, 3), np.uint8)
    splits = ["train", "val", "val"]
    store = hand_store(tmp_path / "s", masks * 9, masks, splits, PALM_CLASSES, [(1, "atrophy")])
    cfg = config.preset(
        "palm", "smoke", image_size=(50, 70), patch_size=32, patches_per_image=50, augment={}
    )
    loaders = data.loaders(store, cfg)
    dataset = data.for_validation(loaders, cfg).dataset
    plain = loaders["val"].dataset
    sums = np.zeros((2, 3, 3), int)
    for item in (dataset[number] for number in range(len(dataset))):
        values = [[(plane == v).sum() for v in (0, 1, 255)] for plane in item["mask"].numpy()]
        sums[item["index"]] += np.array(values)
    for index in range(2):
        mask = plain.pixels(index)[1]
        expected = [[(mask[..., k] == v).sum() for v in (0, 1)] for k in range(3)]
        np.testing.assert_array_equal(sums[index, :, :2], expected)
