"""Structures of one training image that are pasted into another."""

import numpy as np
import pytest
import torch

from seglib import config, copy_paste, data
from tests.helpers import PALM_CLASSES, hand_store


def donor(k=0, planes=1, side=24):
    """Image of 200 and mask with a lesion in the middle, and another one beside it."""
    image, mask = np.full((side, side, 3), 90, np.uint8), np.zeros((side, side, planes), np.uint8)
    lesion = np.zeros((side, side), bool)
    lesion[10:15, 9:16] = lesion[8:10, 12] = True
    image[lesion] = 200
    mask[lesion, k] = 1
    mask[2:4, 2:4, k] = 1
    return image, mask, lesion


def target(side=64, planes=1):
    return np.full((side, side, 3), 40, np.uint8), np.zeros((side, side, planes), np.uint8)


def pasted(image, mask, source, k=0, task="binary", softness=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return copy_paste.paste(image, mask, source, k, task, softness, rng)


@pytest.mark.parametrize("seed", range(8))
def test_one_component_is_pasted_with_its_pixels(seed):
    source_image, source_mask, lesion = donor()
    image, mask = target()
    assert pasted(image, mask, (source_image, source_mask), seed=seed)
    assert (mask == 1).sum() == lesion.sum()  # the other structure of the donor stays there
    assert (image[mask[..., 0] == 1] == 200).all() and (image[mask[..., 0] == 0] == 40).all()


def test_edges_are_soft_and_the_mask_is_sharp():
    source_image, source_mask, lesion = donor()
    image, mask = target()
    assert pasted(image, mask, (source_image, source_mask), softness=1.5)
    inside = mask[..., 0] == 1
    assert inside.sum() == lesion.sum() and (image[inside] == 200).all()
    around = image[~inside]
    assert around.max() < 91 and (around > 41).sum() > 50  # the donor's surroundings, faded


def test_only_background_is_covered():
    """A free strip between a structure and ignored pixels is the only place."""
    source, n_pasted = donor()[:2], 0
    for seed in range(20):
        image, mask = target()
        mask[:30] = 1
        mask[45:] = 255
        before = mask.copy()
        if not pasted(image, mask, source, softness=1.0, seed=seed):
            continue
        n_pasted += 1
        new = (mask != before)[..., 0]
        assert new[30:45].sum() == (donor()[2]).sum() and not new[:30].any() and not new[45:].any()
        assert (image[:30] == 40).all() and (image[45:] == 40).all()
    assert n_pasted > 10


def test_nothing_is_pasted_where_no_place_is():
    image, mask = target()
    mask[...] = 255
    before = image.copy()
    assert not pasted(image, mask, donor()[:2])
    np.testing.assert_array_equal(image, before)
    assert (mask == 255).all()
    small = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8)
    assert not pasted(*small, donor()[:2])


def test_a_structure_that_is_cut_off_is_not_pasted():
    image, mask = target()
    source_image, source_mask, _ = donor()
    source_mask[12, :] = 1
    assert not pasted(image, mask, (source_image, source_mask))


def test_classes_without_a_mask_stay_ignored():
    """Of the target (plane 1) and of the donor (plane 2)."""
    source_image, source_mask, lesion = donor(planes=3)
    source_mask[..., 2] = 255
    image, mask = target(planes=3)
    mask[..., 1] = 255
    assert pasted(image, mask, (source_image, source_mask), task="multilabel")
    inside = mask[..., 0] == 1
    assert inside.sum() == lesion.sum()
    assert (mask[..., 1] == 255).all()
    assert (mask[inside, 2] == 255).all() and (mask[~inside, 2] == 0).all()


def test_a_label_map_gets_the_class_number():
    source_image, source_mask, lesion = donor()
    source_mask *= 2
    image, mask = target()
    mask[40:] = 1
    assert pasted(image, mask, (source_image, source_mask), k=2, task="multiclass")
    assert (mask == 2).sum() == lesion.sum() and (mask[40:] == 1).all()


# ---- in the data set


@pytest.fixture
def store(tmp_path):
    """Four images of dark background; only the first has lesions, disc is missing in the last."""
    masks = np.zeros((4, 96, 96, 3), np.uint8)
    for row, column in ((20, 30), (50, 60), (70, 20)):
        masks[0, row : row + 6, column : column + 5] = 1
    pictures = np.where(masks == 1, 200, 20).astype(np.uint8)
    splits = ["train"] * 3 + ["val"]
    return hand_store(tmp_path / "s", pictures, masks, splits, PALM_CLASSES, [(2, "disc")])


def dataset(store, **changes):
    values = {"image_size": 96, "augment": {"copy_paste": 1.0}, **changes}
    return data.loaders(store, config.preset("palm", "smoke", **values))["train"].dataset


@pytest.mark.parametrize("patch", [{}, {"patch_size": 48, "patches_per_image": 4}])
def test_images_without_lesions_get_some(store, patch):
    items = dataset(store, **patch)
    n_with = 0
    for number in range(3 * len(items)):
        item = items[number]
        lesion = item["mask"] == 1
        if item["index"] == 1 and lesion.any():
            n_with += 1
            shown = item["image"][0] > float(items.table[0, 110])
            assert torch.equal(shown, lesion.any(0))
        if item["index"] == 2:
            assert (item["mask"][2] == 255).all()
    assert n_with >= 1
    plain = items.plain()
    assert not (plain[1]["mask"] == 1).any()
    assert (dataset(store, augment={"copy_paste": 0.0}, **patch)[1]["mask"] != 1).all()


def test_what_is_pasted_depends_on_seed_epoch_and_item_only(store):
    first, again = dataset(store), dataset(store)
    numbers = range(4 * len(first))
    images = {number: first[number]["image"] for number in numbers}
    assert all(torch.equal(images[number], again[number]["image"]) for number in reversed(numbers))
    assert len({images[number].numpy().tobytes() for number in numbers}) > 4


def test_a_single_image_has_no_other(store):
    store.cases = store.cases.assign(split=["train", "val", "val", "val"])
    item = dataset(store)[0]
    assert (item["mask"] == 1).sum() == 3 * 3 * 30


def test_its_parameters_are_checked():
    with pytest.raises(config.ConfigError, match="'structures' of 'copy_paste' is 0"):
        config.preset("palm", augment={"copy_paste": {"structures": 0}})
