"""Random changes of images and masks: strengths, borders, what they must leave alone."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from seglib import augmentations, config, tables
from seglib.errors import ConfigError

PARAMETERS = {
    "rotate": {"limit": 30},
    "affine": {"scale": [0.8, 1.2], "translate": 0.1, "rotate": 30},
    "brightness_contrast": {"brightness": 0.4, "contrast": 0.4},
    "gauss_noise": {"std": 0.2},
    "grid_distortion": {"limit": 0.5},
    "coarse_dropout": {"holes": 3, "size": 0.2, "fill": 0},
}
NOTHING = {
    "rotate": {"limit": 0},
    "affine": {"scale": [1, 1], "translate": 0, "rotate": 0},
    "brightness_contrast": {"brightness": 0, "contrast": 0},
    "gauss_noise": {"std": 0.0},
}
EXACT = ("hflip", "vflip", "rot90")  # pixels change their place only
MOVES = (*EXACT, "rotate", "affine", "grid_distortion")


def scene(side=64):
    """A noisy image (H, W, 3) and masks (H, W): two shapes, one that is missing; padding above."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    masks = [((rows - 20) ** 2 + (columns - 24) ** 2 < 90), (rows > 30) & (columns > 40), rows >= 0]
    masks = [mask.astype(np.uint8) for mask in masks]
    masks[2][:] = 255
    for mask in masks:
        mask[:6] = 255
    return rng.integers(30, 226, (side, side, 3), np.uint8), masks


def apply(augment, image, masks, seed=0):
    pipeline = augmentations.pipeline(augment)
    pipeline.set_random_seed(seed)
    changed = pipeline(image=image, masks=list(masks))
    return changed["image"], changed["masks"]


@pytest.mark.parametrize("name", tables.AUGMENTATIONS)
def test_the_table_names_the_parameters_of_its_functions(name):
    entry = tables.AUGMENTATIONS[name]
    assert tables.parameters(entry.build) == ("albumentations", "p", *entry.parameters)
    assert tuple(PARAMETERS.get(name, ())) == entry.parameters, "PARAMETERS must not fall behind"


def test_an_augmentation_of_ones_own(monkeypatch):
    """One entry of the table, plus its code: the settings' check and the loaders know it."""

    def posterise(albumentations, p, bits=4):
        return albumentations.Posterize(num_bits=bits, p=p)

    entry = tables.Augmentation(posterise, ("bits",))
    monkeypatch.setitem(tables.AUGMENTATIONS, "posterise", entry)
    cfg = config.preset("binary", augment={"posterise": {"bits": 1}})
    image, masks = scene()
    changed, planes = apply(cfg.augment, image, masks)
    assert set(np.unique(changed)) == {0, 128}
    assert all(np.array_equal(plane, mask) for plane, mask in zip(planes, masks))
    with pytest.raises(ConfigError, match="'posterise' has no parameter 'bit'"):
        config.preset("binary", augment={"posterise": {"bit": 1}})


@pytest.mark.parametrize("name", tables.AUGMENTATIONS)
@pytest.mark.parametrize("given", [False, True])
def test_every_augmentation_works_without_warnings(name, given):
    """A misspelt argument is only a warning in albumentations."""
    image, masks = scene()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {**PARAMETERS.get(name, {}), "p": 1.0} if given else 1.0
        config.preset("binary", augment={name: options})
        results = [
            apply({name: options}, image.copy(), [m.copy() for m in masks], seed)
            for seed in range(8)
        ]
    assert any(not np.array_equal(image, changed) for changed, _ in results)
    for changed, planes in results:
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert all(
            p.shape == (64, 64) and p.dtype == np.uint8 and set(np.unique(p)) <= {0, 1, 255}
            for p in planes
        )
        assert (
            planes[2] == 255
        ).all()  # a missing mask stays missing: no rotation makes truth out of it
        if name not in MOVES:
            assert all(np.array_equal(plane, mask) for plane, mask in zip(planes, masks))


@pytest.mark.parametrize("name", NOTHING)
def test_parameters_reach_the_transform(name):
    """With its strengths at zero a transform changes nothing; with those of PARAMETERS it does."""
    image, masks = scene()
    for seed in range(4):
        changed, planes = apply({name: {**NOTHING[name], "p": 1.0}}, image, masks, seed)
        np.testing.assert_array_equal(changed, image)
        assert all(np.array_equal(plane, mask) for plane, mask in zip(planes, masks))


def test_probability_zero_changes_nothing():
    image, masks = scene()
    changed, planes = apply(dict.fromkeys(tables.AUGMENTATIONS, 0.0), image, masks)
    assert np.array_equal(changed, image) and all(
        np.array_equal(a, b) for a, b in zip(planes, masks)
    )


@pytest.mark.parametrize("name", MOVES)
def test_image_and_masks_move_together(name):
    """The image is drawn from the mask, so it must still show it afterwards.

    Exactly where pixels only change places, up to the interpolated rim elsewhere.
    """
    _, (mask, *_) = scene()
    mask[mask == 255] = 0
    image = np.repeat(200 * mask[..., None], 3, axis=2)
    moved = 0
    for seed in range(8):
        changed, (plane,) = apply(
            {name: {**PARAMETERS.get(name, {}), "p": 1.0}}, image, [mask], seed
        )
        shown, valid = changed[..., 0] > 100, plane != 255
        wrong = (shown != (plane == 1)) & valid
        assert not wrong.any() if name in EXACT else wrong.sum() <= 0.15 * mask.sum()
        moved += (plane != mask).sum() > 0.3 * mask.sum()
    assert moved


@pytest.mark.parametrize("name", ["rotate", "affine"])
def test_new_pixels_are_black_and_ignored(name):
    image, mask = np.full((64, 64, 3), 200, np.uint8), np.ones((64, 64), np.uint8)
    seen = 0
    for seed in range(6):
        changed, (plane,) = apply({name: {**PARAMETERS[name], "p": 1.0}}, image, [mask], seed)
        black = (changed == 0).all(axis=2)
        assert set(np.unique(plane)) <= {1, 255}
        assert (plane[black] == 255).all() and (changed[plane == 1] > 0).all()
        seen += black.sum() > 50
    assert seen >= 4


def test_grid_distortion_keeps_the_padding_in_all_planes():
    image, masks = scene()
    for mask in masks:
        mask[masks[0] != 255] %= 2  # the third class: there, and all foreground
    widths = set()
    for seed in range(6):
        _, planes = apply({"grid_distortion": {"limit": 0.5, "p": 1.0}}, image, masks, seed)
        padding = [plane == 255 for plane in planes]
        assert padding[0].any() and all(np.array_equal(p, padding[0]) for p in padding)
        assert (planes[2][~padding[0]] == 1).all()
        widths.add(int(padding[0].sum()))
    assert len(widths) > 1  # it did distort


def test_the_limit_of_grid_distortion_is_how_far_it_moves():
    """Its grid of limit 0 is no exact identity in albumentations: it loses the last row and column.

    Pixels at the rim of the mask may change too.
    """
    mask = np.uint8(np.hypot(*(np.mgrid[:64, :64] - 32)) < 20)
    rim = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=2)
    changed = {}
    for limit in (0, 0.3):
        planes = [
            apply({"grid_distortion": {"limit": limit, "p": 1.0}}, mask, [mask], seed)[1][0]
            for seed in range(4)
        ]
        changed[limit] = [((plane != mask) & ~rim)[:-1, :-1].sum() for plane in planes]
    assert not any(changed[0]) and all(changed[0.3]) and max(changed[0.3]) > 20


@pytest.mark.parametrize("fill", [None, 0, 250])
def test_dropout_hides_the_image_not_the_organ(fill):
    image, masks = scene()  # grey values of 30 to 225
    options = {"holes": 3, "size": 0.2, "p": 1.0} | ({} if fill is None else {"fill": fill})
    changed, planes = apply({"coarse_dropout": options}, image, masks, 1)
    hidden = (changed == (fill or 0)).all(axis=2)
    assert 0 < hidden.sum() <= 3 * (0.2 * 64 + 1) ** 2
    np.testing.assert_array_equal(changed[~hidden], image[~hidden])
    assert all(np.array_equal(a, b) for a, b in zip(planes, masks))


def test_strengths_stay_within_their_limits():
    dot, square = np.zeros((101, 101, 1), np.uint8), np.zeros((101, 101), np.uint8)
    dot[50, 90] = 255
    square[30:71, 30:71] = 1
    angles, sizes = [], []
    for seed in range(30):
        changed, _ = apply({"rotate": {"limit": 20, "p": 1.0}}, dot, [square], seed)
        row, column = np.unravel_index(changed[..., 0].argmax(), (101, 101))
        angles.append(np.degrees(np.arctan2(50 - row, column - 50)))
        _, (plane,) = apply({"affine": {"scale": [0.5, 0.8], "p": 1.0}}, dot, [square], seed)
        sizes.append(np.sqrt((plane == 1).sum()) / 41)
    assert -21 < min(angles) < -8 and 8 < max(angles) < 21
    assert 0.45 < min(sizes) < 0.62 and 0.68 < max(sizes) < 0.85


# ---- patches


def test_patches_hold_the_structure_more_often_than_chance():
    """Of patches of 32 pixels cut anywhere in a frame of 128, few hold a dot in its corner."""
    image, mask = np.zeros((128, 128, 1), np.uint8), np.zeros((128, 128), np.uint8)
    mask[:8] = 255  # padding must not draw patches
    mask[100, 110] = 1
    pipeline = augmentations.pipeline({}, (32, 32))
    pipeline.set_random_seed(0)
    unknown = np.full_like(mask, 255)  # a class without a mask hides none of the others
    held = [
        (pipeline(image=image, masks=[mask, unknown])["masks"][0] == 1).any() for _ in range(400)
    ]
    assert abs(np.mean(held) - augmentations.FOREGROUND) < 0.08
    assert pipeline(image=image, masks=[mask * 0])["masks"][0].shape == (
        32,
        32,
    )  # nothing there: anywhere
