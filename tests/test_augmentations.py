"""Random changes of images and masks: strengths, borders, what they must leave alone."""

import colorsys
import io
import pickle
import warnings

import numpy as np
import pytest
from monai.transforms import AdjustContrast
from PIL import Image
from scipy import ndimage

from seglib import augmentations, config, tables
from seglib.errors import ConfigError

PARAMETERS = {
    "copy_paste": {"structures": 2, "softness": 1.0},
    "rotate": {"limit": 30},
    "affine": {"scale": [0.8, 1.2], "translate": 0.1, "rotate": 30},
    "grid_distortion": {"limit": 0.5},
    "elastic": {"strength": 0.04, "points": 4},
    "shading": {"strength": 0.5, "points": 3},
    "blur": {"sigma": [1, 2]},
    "low_resolution": {"scale": [0.3, 0.6]},
    "gauss_noise": {"std": 0.2},
    "brightness_contrast": {"brightness": 0.4, "contrast": 0.4},
    "gamma": {"exponent": [0.5, 2]},
    "intensity_curve": {"strength": 0.8, "per_channel": 0.3},
    "colour": {"hue": 0.1, "saturation": 0.5},
    "sharpness": {"amount": [1, 2]},
    "jpeg": {"quality": [20, 40]},
    "coarse_dropout": {"holes": 3, "size": 0.2, "fill": 0},
}
NOTHING = {
    "rotate": {"limit": 0},
    "affine": {"scale": [1, 1], "translate": 0, "rotate": 0},
    "elastic": {"strength": 0},
    "shading": {"strength": 0},
    "blur": {"sigma": [0.1, 0.1]},
    "low_resolution": {"scale": [1, 1]},
    "gauss_noise": {"std": 0.0},
    "brightness_contrast": {"brightness": 0, "contrast": 0},
    "gamma": {"exponent": [1, 1]},
    "intensity_curve": {"strength": 0},
    "colour": {"hue": 0, "saturation": 0},
    "sharpness": {"amount": [0, 0]},
}
# The others are done by the data set.
OF_ONE_IMAGE = [name for name, entry in tables.AUGMENTATIONS.items() if not entry.second_image]
EXACT = ("hflip", "vflip", "rot90")  # pixels change their place only
MOVES = (*EXACT, "rotate", "affine", "grid_distortion", "elastic")


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
    assert tables.parameters(entry.build) == ("p", *entry.parameters)
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


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
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


# ---- ranges, channels and sides


def extremes():
    """(name, parameters) at both ends of each range."""
    for name, entry in tables.AUGMENTATIONS.items():
        for parameter, ends in entry.ranges.items():
            for end in ends:
                if np.isfinite(end):
                    yield name, {parameter: [end, end] if parameter in entry.pairs else end}


@pytest.mark.parametrize("name, parameters", list(extremes()))
def test_what_the_config_allows_works(name, parameters):
    augment = {name: {**parameters, "p": 1.0}}
    config.preset("binary", augment=augment)
    image, masks = scene(16)
    for seed in range(3):
        changed, planes = apply(augment, image, masks, seed)
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert {plane.shape for plane in planes} == {(16, 16)}


def test_every_number_has_a_range():
    """Without one, what albumentations does not take would be an error in the middle of a run."""
    for name, entry in tables.AUGMENTATIONS.items():
        assert {*entry.ranges, "fill"} >= set(entry.parameters), name


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 17, 2), (32, 20, 3), (33, 33, 5), (16, 16, 16)])
def test_all_shapes_and_channels(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mask = image[..., 0] // 128
    for name, entry in tables.AUGMENTATIONS.items():
        if entry.channels not in (None, shape[2]) or (name == "rot90" and shape[0] != shape[1]):
            continue
        changed, (plane,) = apply({name: 1.0}, image, [mask])
        assert changed.shape == shape and plane.shape == shape[:2], name
        assert changed.dtype == plane.dtype == np.uint8, name


@pytest.mark.parametrize("kind", tables.AUGMENTATION_SETS)
def test_the_sets_are_reproducible_and_keep_the_masks_apart(kind):
    augment = tables.AUGMENTATION_SETS[kind]
    image, masks = scene()
    results = [apply(augment, image, masks, seed) for seed in (0, 0, *range(1, 20))]
    assert np.array_equal(results[0][0], results[1][0])
    assert len({changed.tobytes() for changed, _ in results}) > 15
    for _, planes in results:
        assert all(set(np.unique(plane)) <= {0, 1, 255} for plane in planes)
        assert (planes[2] == 255).all()


def test_the_pipeline_of_a_set_goes_to_loader_processes():
    """Where processes are spawned, as on Windows, data sets are pickled."""
    image, masks = scene()
    augment = dict.fromkeys(tables.AUGMENTATIONS, 1.0)
    pipelines = [augmentations.pipeline(augment)]
    pipelines.append(pickle.loads(pickle.dumps(pipelines[0])))
    results = []
    for pipeline in pipelines:
        pipeline.set_random_seed(3)
        results.append(pipeline(image=image, masks=masks))
    assert np.array_equal(results[0]["image"], results[1]["image"])


# ---- what each of our own transforms does


def ramp(n_channels=1):
    """Every grey value, (16, 16, C)."""
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), n_channels, axis=2)


def curves_of(augment, n=20, n_channels=1):
    """The new values of the grey values 0 to 255, (n, 256, C)."""
    mask = np.zeros((16, 16), np.uint8)
    results = [apply(augment, ramp(n_channels), [mask], seed)[0] for seed in range(n)]
    return np.array(results).reshape(n, 256, n_channels).astype(int)


def test_gamma_is_the_power_of_the_intensities():
    for exponent in (0.5, 1, 2.2):
        curves = curves_of({"gamma": {"exponent": [exponent, exponent]}}, 1)
        expected = AdjustContrast(exponent)(np.linspace(0, 1, 256)).numpy()
        np.testing.assert_allclose(curves[0, :, 0], 255 * expected, atol=0.501)
    middles = curves_of({"gamma": {"exponent": [0.5, 2]}}, 60)[:, 128, 0]
    exponents = np.log(middles / 255) / np.log(128 / 255)
    assert exponents.min() < 0.6 and exponents.max() > 1.7
    assert 0.3 < (exponents < 1).mean() < 0.7  # darker as often as brighter


def test_intensity_curves_rise_and_keep_black_and_white():
    curves = curves_of({"intensity_curve": {"strength": 0.8, "per_channel": 0.5}}, 40, 3)
    assert (np.diff(curves, axis=1) >= 0).all()
    assert (curves[:, 0] == 0).all() and (curves[:, 255] == 255).all()
    assert np.abs(np.diff(curves, n=2, axis=1)).max() <= 2  # smooth, up to rounding
    assert (curves[..., 0] != curves[..., 1]).any()
    shifts = {
        strength: np.abs(
            curves_of({"intensity_curve": {"strength": strength}}, 40)[..., 0] - np.arange(256)
        ).max()
        for strength in (0.2, 0.8)
    }
    assert 5 < shifts[0.2] < shifts[0.8]


def test_one_intensity_curve_serves_all_channels_by_default():
    """An image that is grey in three channels stays grey."""
    curves = curves_of({"intensity_curve": 1.0}, 5, 3)
    assert (curves == curves[..., :1]).all() and len({c.tobytes() for c in curves}) == 5


def test_colour_changes_hue_and_saturation_only_and_leaves_grey():
    grey = ramp(3)
    assert np.array_equal(apply({"colour": 1.0}, grey, [grey[..., 0]])[0], grey)
    image = np.full((8, 8, 3), (200, 80, 80), np.uint8)
    colours = [apply({"colour": 1.0}, image, [image[..., 0]], seed)[0][0, 0] for seed in range(30)]
    hues = [colorsys.rgb_to_hsv(*(c / 255)) for c in colours]
    turns = [(hue + 0.5) % 1 - 0.5 for hue, _, _ in hues]
    assert -0.06 < min(turns) < -0.02 and 0.02 < max(turns) < 0.06


def test_shading_is_a_smooth_factor_within_its_bounds():
    image = np.full((64, 96, 3), 100, np.uint8)
    fields = []
    for seed in range(20):
        changed, _ = apply({"shading": {"strength": 0.5}}, image, [image[..., 0]], seed)
        assert (changed == changed[..., :1]).all()
        fields.append(changed[..., 0].astype(int))
    fields = np.array(fields)
    assert 66 <= fields.min() < 75 and 140 < fields.max() <= 150
    # From 67 to 150 between points 16 pixels apart, where a cubic curve is 1.5 times as steep.
    assert max(np.abs(np.diff(fields, axis=axis)).max() for axis in (1, 2)) <= 8
    assert (fields.std(axis=(1, 2)) > 3).all()


def test_sharpness_is_unsharp_masking():
    image = scene()[0]
    changed, _ = apply({"sharpness": {"amount": [1.5, 1.5]}}, image, [image[..., 0]])
    blurred = ndimage.gaussian_filter(image.astype(float), (1, 1, 0), mode="mirror")
    reference = np.clip(image + 1.5 * (image - blurred), 0, 255)
    difference = np.abs(changed - reference)
    assert difference.max() <= 3 and difference.mean() < 0.7


def test_low_resolution_removes_detail_and_keeps_the_mean():
    rows, columns = np.mgrid[:64, :64]
    checkers = np.uint8(255 * ((rows + columns) % 2))[..., None]
    smooth = np.uint8(4 * rows)[..., None]
    augment = {"low_resolution": {"scale": [0.5, 0.5]}}
    mask = np.zeros((64, 64), np.uint8)
    changed = apply(augment, checkers, [mask])[0]
    assert np.ptp(changed) <= 1 and abs(changed.mean() - 127.5) < 1
    inner = apply(augment, smooth, [mask])[0][2:-2].astype(int) - smooth[2:-2]
    assert np.abs(inner).max() <= 1


def test_elastic_moves_by_its_strength():
    """The mean shift of a point is that of a normal distribution: the sides times the strength."""
    height, width = 120, 200
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 255)], axis=2)
    shifts = []
    for seed in range(60):
        changed, (plane,) = apply({"elastic": {"strength": 0.04}}, image, [rows], seed)
        inside = changed[60, 100, 2] == 255
        assert inside and plane[60, 100] == pytest.approx(changed[60, 100, 0], abs=1)
        shifts.append(changed[60, 100, :2] - np.array([60.0, 100.0]))
    spread = np.std(shifts, axis=0) / (height, width)
    assert 0.025 < spread[0] < 0.055 and 0.025 < spread[1] < 0.055
    assert (plane == 255).any()


def test_jpeg_is_that_of_the_file_format():
    image = np.repeat(scene()[0][..., :1], 1, axis=2)
    changed, _ = apply({"jpeg": {"quality": [30, 30]}}, image, [image[..., 0]])
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "JPEG", quality=30)
    decoded = np.asarray(Image.open(file)).astype(int)
    assert np.abs(changed[..., 0] - decoded).mean() < 1


# ---- examples


def test_examples_are_certain_alone_and_by_chance_together():
    image, masks = scene()
    augment = {"hflip": 0.001, "vflip": {"p": 0.001}, "gauss_noise": {"std": 0.2, "p": 0.001}}
    samples = augmentations.examples(image, np.stack(masks), augment, n=2, seed=1)
    assert list(samples) == [*augment, "together"] and {len(s) for s in samples.values()} == {2}
    for changed, planes in samples["hflip"]:
        assert np.array_equal(changed, image[:, ::-1])
        assert np.array_equal(planes, np.stack(masks)[:, :, ::-1])
    assert np.array_equal(samples["vflip"][0][0], image[::-1])
    noisy = [changed for changed, _ in samples["gauss_noise"]]
    assert not np.array_equal(*noisy) and not np.array_equal(noisy[0], image)
    assert np.array_equal(samples["together"][0][0], image)
    grey = augmentations.examples(image[..., 0], masks[0], {"hflip": 1.0})["hflip"][0]
    assert np.array_equal(grey[0], image[:, ::-1, 0]) and np.array_equal(grey[1], masks[0][:, ::-1])


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("xray", "'xray' is a name; give the table"),
        ({"gama": 1.0}, "unknown augmentation 'gama'"),
        ({"copy_paste": 0.5}, "'copy_paste' needs a second image; leave it out"),
        ({"gamma": 2}, "the probability of 'gamma' is 2"),
        ({"colour": 1.0}, "'colour' changes images of 3 channels"),
    ],
)
def test_examples_refuse_what_the_config_refuses(augment, words):
    image, masks = scene()
    with pytest.raises(ConfigError, match=words):
        augmentations.examples(image[..., 0], masks[0], augment)
