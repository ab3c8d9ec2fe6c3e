"""Arrays of any kind to what the network sees: channels, number types, frames, memory."""

import numpy as np
import pytest
from PIL import Image

from seglib.errors import DataError
from tests.predictors import ellipse, load, patch_predictor


def test_number_types_of_one_picture_agree(bright_weights):
    image, truth = ellipse(64, 64)
    image[0, 0], image[0, 1] = (
        0,
        255,
    )  # the whole range, so that stretching to 8 bit is the identity
    predictor = load(bright_weights())
    prob = predictor.predict(image).prob
    for other in (image.astype(np.uint16) * 257, image.astype(np.float64) / 255, image[..., None]):
        np.testing.assert_allclose(predictor.predict(other).prob, prob, atol=0.02)
    np.testing.assert_array_equal(predictor.predict(truth).mask, truth)
    np.testing.assert_array_equal(
        predictor.predict(truth.astype(np.uint8) * 255).prob, predictor.predict(truth).prob
    )


def test_channels_are_rgb(bright_weights):
    """Class k of this network is channel k."""
    image = np.zeros((64, 64, 3), np.uint8)
    for k in range(3):
        image[20 * k : 20 * k + 20, :, k] = 255
    mask = load(bright_weights("multilabel")).predict(image).mask
    np.testing.assert_array_equal(mask.transpose(1, 2, 0) * 255, image)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_transparency_changes_nothing(bright_weights, kind):
    """With or without alpha, of any number type, the prediction is the same."""
    rng = np.random.default_rng(0)
    colours = (
        rng.random((64, 64, 3)) * 0.5 * (1 if kind == np.float32 else np.iinfo(kind).max)
    ).astype(kind)
    alpha = np.full((64, 64, 1), 1 if kind == np.float32 else np.iinfo(kind).max, kind)
    predictor = load(bright_weights("multilabel"))
    with_alpha = predictor.predict(np.concatenate([colours, alpha], -1))
    np.testing.assert_array_equal(with_alpha.prob, predictor.predict(colours).prob)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5)),
        np.zeros(7),
        np.zeros((2, 8, 8, 3)),
        np.array([["a", "b"]]),
        np.zeros((8, 8, 5), np.uint8),
    ],
)
def test_what_is_no_image_is_an_error(bright_weights, array):
    with pytest.raises(DataError, match="predict: found|channels"):
        load(bright_weights()).predict(array)


@pytest.mark.parametrize("shape", [(20, 25), (32, 32), (300, 170), (20, 100)])
def test_without_scaling_an_image_of_any_size_is_predicted_as_it_is(shape):
    model = patch_predictor(resize="none")
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    prediction = model.predict(pixels)
    assert prediction.prob.shape == (1, *shape)
    np.testing.assert_allclose(prediction.prob, model.predict_tiled(pixels).prob, atol=1e-6)


@pytest.mark.parametrize(
    "changes, n_bytes",
    [
        # Grey and one class: 4 bytes each of the image and of the probabilities, in the frame ...
        ({"resize": "letterbox"}, 8 * 64 * 96 + 4 * 100 * 200),
        # ... which is the image itself without scaling.
        ({"resize": "none"}, 12 * 100 * 200),
    ],
)
def test_an_image_that_the_memory_cannot_hold_is_refused(monkeypatch, tmp_path, changes, n_bytes):
    model = patch_predictor(**changes)
    image = np.zeros((100, 200), np.uint8)
    monkeypatch.setattr("seglib.hosts.memory_bytes", lambda: n_bytes)
    assert model.predict(image).mask.shape == (100, 200)
    monkeypatch.setattr("seglib.hosts.memory_bytes", lambda: n_bytes - 1)
    with pytest.raises(DataError, match="an image of 100x200 takes at least .* cut it into parts"):
        model.predict(image)
    with pytest.raises(DataError, match="100x200"):
        model.predict_tiled(np.zeros((100, 200), np.uint8))
    Image.fromarray(image).save(tmp_path / "large.png")
    Image.fromarray(image[:9, :9]).save(tmp_path / "small.png")
    result = model.predict_folder(tmp_path, tmp_path / "out")
    assert result["done"] == ["small.png"] and "100x200" in result["failed"]["large.png"]


def test_without_scaling_and_patches_an_image_must_fit_the_frame():
    model = patch_predictor(resize="none", patch_size=None)
    assert model.predict(np.zeros((50, 96), np.uint8)).mask.shape == (50, 96)
    with pytest.raises(DataError, match="65x20 is larger than the frame .*predict_tiled"):
        model.predict(np.zeros((65, 20), np.uint8))
