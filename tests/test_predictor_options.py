"""What can be switched on a predictor: flips, tiles, cleaning, and batches that are too large."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from seglib import config
from seglib.errors import DataError
from seglib.inference import Predictor, clean, views


class Convolutions(torch.nn.Module):
    """A network that sees `reach` pixels in every direction, and is not symmetric."""

    def __init__(self, channels=1, classes=1, reach=2):
        super().__init__()
        torch.manual_seed(0)
        kernel = 1 if reach == 0 else 3
        sizes = [channels, *[4] * (max(reach, 1) - 1), classes]
        self.layers = torch.nn.Sequential(
            *(torch.nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b in zip(sizes, sizes[1:]))
        )

    def forward(self, image):
        return 3 * self.layers(image)


def predictor(preset="lung", reach=2, **changes):
    cfg = config.preset(preset, "smoke", **changes)
    return Predictor(Convolutions(cfg.in_channels, cfg.n_classes, reach), cfg, "cpu", "fp32")


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# ---- flips


@pytest.mark.parametrize(
    ("augment", "flips"),
    [
        ({"hflip": 0.5}, [(3,)]),
        ({"hflip": 0.5, "vflip": 0.5}, [(3,), (2,), (2, 3)]),
        ({"vflip": 1}, [(2,)]),
        ({}, []),
    ],
)
def test_tta_is_the_mean_over_the_flips_of_training(augment, flips):
    model = predictor(augment=augment)
    batch = torch.rand(2, 1, 24, 32)
    plain = model.probabilities(batch)
    expected = torch.stack(
        [plain, *(model.probabilities(batch.flip(axes)).flip(axes) for axes in flips)]
    ).mean(dim=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.tta = True
    assert ["tta has no effect" in str(warning.message) for warning in caught] == [True] * (
        not flips
    )
    torch.testing.assert_close(model.probabilities(batch), expected)
    assert bool(flips) != torch.equal(expected, plain)


# ---- turns


@pytest.mark.parametrize("shape", [(33, 33), (24, 40), (40, 25)])
def test_rotated_views_come_back_to_their_places(shape):
    """A network of single pixels gives the same for every view, but for interpolation."""
    model = predictor("cardiac", reach=0)
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    # A smooth image: interpolation changes next to nothing.
    batch = torch.stack([rows + columns, rows - columns])[:, None]
    plain = model.probabilities(batch)
    black = model.table[:, 0].tolist()
    rotated, coverage = views.rotated(model.probabilities, batch, 30, black)
    everywhere = coverage > 0.999
    assert 0.5 < everywhere.float().mean() < 1 and not coverage[..., 0, 0].any()
    inside = everywhere.expand_as(plain).clone()
    for axis in (2, 3):  # at the edge itself the interpolation mixes in what lies outside
        for end in (slice(0, 2), slice(-2, None)):
            inside.movedim(axis, 0)[end] = False
    torch.testing.assert_close(rotated[inside], plain[inside], atol=0.02, rtol=0)
    model.tta_rotation = 30
    torch.testing.assert_close(model.probabilities(batch).sum(dim=1), torch.ones(2, *shape))


def test_a_quarter_turn_is_exact_and_counts_with_the_flips():
    model = predictor(augment={"hflip": 0.5})
    batch = torch.rand(2, 1, 32, 32)

    def alone(images):
        return model.probabilities(images)

    quarter = [alone(batch.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in (1, 3)]
    expected = torch.stack([alone(batch), alone(batch.flip(3)).flip(3), *quarter]).mean(dim=0)
    model.tta, model.tta_rotation = True, 90
    torch.testing.assert_close(model.probabilities(batch), expected, atol=1e-5, rtol=0)


def test_what_a_turn_brings_in_is_black():
    model, seen = predictor(), []
    model.logits = lambda images: (
        seen.append(images) or torch.zeros(len(images), 1, *images.shape[2:])
    )
    model.tta_rotation = 45
    model.probabilities(torch.ones(1, 1, 16, 16))
    black = (0 - model.config.mean[0]) / model.config.std[0]
    assert [float(images[0, 0, 0, 0]) for images in seen] == pytest.approx([1, black, black])


# ---- memory


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model = predictor()
    batch = torch.rand(7, 1, 16, 16)
    whole, known, seen = model.probabilities(batch), Predictor.logits, []

    def small(self, images):
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known(self, images)

    monkeypatch.setattr(Predictor, "logits", small)
    torch.testing.assert_close(model.probabilities(batch), whole)
    assert seen[0] == 7 and max(n for n in seen if n <= 2) == 2
    monkeypatch.setattr(
        Predictor,
        "logits",
        lambda self, images: (_ for _ in ()).throw(torch.OutOfMemoryError("no")),
    )
    with pytest.raises(DataError, match="out of memory with one image of 16x16 pixels; end what"):
        model.probabilities(batch[:1])


# ---- tiles


@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (150, 201), (301, 77), (40, 200), (30, 20)])
@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.75])
def test_tiles_equal_the_whole_where_the_network_sees_no_farther(shape, overlap):
    model, image = predictor(reach=3), noise(shape)
    found = model.predict_tiled(image, overlap, batch_size=3)
    assert found.prob.shape == (1, *shape) and found.mask.shape == shape
    frame = [max(64, n) for n in shape]
    padded = np.zeros(frame)  # black, as in training
    top, left = ((outer - n) // 2 for outer, n in zip(frame, shape))
    padded[top : top + shape[0], left : left + shape[1]] = image / 255
    padded = torch.from_numpy((padded - 0.5) / 0.25).float()[None, None]
    whole = model.probabilities(padded)[0].numpy()
    whole = whole[:, top : top + shape[0], left : left + shape[1]]
    np.testing.assert_allclose(found.prob, whole, atol=1e-5)


def test_tiles_without_any_reach_are_pixels():
    model = predictor("cardiac", reach=0)
    image = noise((200, 170))
    both = model.predict_tiled(image), model.predict_tiled(image.T.copy())
    np.testing.assert_allclose(both[0].prob, both[1].prob.transpose(0, 2, 1), atol=1e-5)


@pytest.mark.parametrize("overlap", [0.2, 0.95, -1])
def test_tiles_that_leave_gaps_are_refused(overlap):
    with pytest.raises(DataError, match=r"expected 0\.3 to 0\.9"):
        predictor().predict_tiled(noise((100, 100)), overlap)


# ---- cleaning

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))


@given(MASKS, st.integers(0, 12), st.booleans())
def test_cleaning_keeps_large_components_and_nothing_else(mask, min_size, fill):
    cleaned = clean(mask, min_size, fill)
    components, n = ndimage.label(mask)
    large = [components == k for k in range(1, n + 1) if (components == k).sum() >= min_size]
    expected = np.logical_or.reduce(large) if large else np.zeros_like(mask)
    expected = ndimage.binary_fill_holes(expected) if fill else expected
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(clean(cleaned, min_size, fill), cleaned)  # once is enough


@given(MASKS, st.integers(0, 12), st.booleans())
def test_largest_keeps_one_component(mask, min_size, fill):
    cleaned = clean(mask, min_size, keep_largest_component=True)
    components, n = ndimage.label(mask)
    sizes = [(components == k).sum() for k in range(1, n + 1)]
    expected = np.zeros_like(mask)
    if n and max(sizes) >= min_size:
        expected = components == 1 + int(np.argmax(sizes))
    np.testing.assert_array_equal(cleaned, expected)
    filled = ndimage.binary_fill_holes(expected) if fill else expected
    np.testing.assert_array_equal(clean(mask, min_size, fill, keep_largest_component=True), filled)


def test_largest_is_of_every_class_but_the_background():
    model = predictor("cardiac")
    prob = np.zeros((4, 20, 20), np.float32)
    prob[0] = 0.5
    prob[1, 2:8, 2:8] = prob[1, 12, 2:4] = 0.9
    prob[2, 10:13, 10:13] = prob[2, 4, 4] = 0.95  # a speck inside class 1, which is then neither
    prob[0, :, 9] = 0.99
    model.keep_largest_component = True
    labels = model.mask(prob)
    assert (
        labels[12, 2] == 0
        and labels[4, 4] == 0
        and (labels == 1).sum() == 35
        and (labels == 2).sum() == 9
    )
    model.keep_largest_component = False
    assert (model.mask(prob) == 1).sum() == 37 and model.mask(prob)[4, 4] == 2


def test_cleaning_of_classes_leaves_one_class_a_pixel():
    model = predictor("cardiac")
    prob = np.zeros((4, 20, 20), np.float32)
    prob[0] = 0.5
    prob[1, 2:8, 2:8] = 0.9  # a ring of class 1 around a hole, in which a pixel of class 2 lies
    prob[1, 4:6, 4:6] = 0
    prob[2, 4, 4] = 0.8
    prob[3, 15, 15] = 0.9  # a speck
    model.fill_holes = True
    labels = model.mask(prob)
    assert labels[4, 4] == 2 and labels[5, 5] == 1 and labels[15, 15] == 3
    model.min_component_size = 4
    labels = model.mask(prob)
    assert labels[15, 15] == 0 and labels[2, 2] == 1
    model.min_component_size, model.fill_holes = 0, False
    assert model.mask(prob)[5, 5] == 0 and model.mask(prob)[15, 15] == 3


def test_cleaning_of_overlapping_classes_is_by_class():
    model = predictor("palm")
    prob = np.zeros((3, 12, 12), np.float32)
    prob[0, 1:6, 1:6] = prob[1, 1, 1] = 0.9
    model.min_component_size = 3
    assert model.mask(prob).sum(axis=(1, 2)).tolist() == [25, 0, 0]
