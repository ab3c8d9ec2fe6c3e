"""Tiles of a predictor, and batches: precision, and images one by one."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from seglib import metrics
from seglib.errors import DataError
from seglib.inference import Predictor
from tests.predictors import GREY, noise, patch_predictor, predictor, predictor_of


def test_bf16_is_close_and_gives_float32():
    full = predictor_of("multiclass")
    half = Predictor(full.model, full.config, device="cpu", precision="bf16")
    a, b = full.predict(GREY).prob, half.predict(GREY).prob
    assert b.dtype == np.float32 and not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.05)


def test_probabilities_of_a_batch_are_those_of_its_images():
    predictor = predictor_of("multilabel")
    batch = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = predictor.probabilities(batch)
    assert whole.shape == (3, 3, 64, 64) and whole.dtype == torch.float32
    for k in range(3):
        torch.testing.assert_close(
            predictor.probabilities(batch[k : k + 1])[0], whole[k], rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(
        predictor.mask(whole[0].numpy()),
        metrics.to_one_hot(whole, "multilabel")[0].numpy().astype(np.uint8),
    )


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


# ---- networks trained by patches


def test_a_network_trained_by_patches_sees_patches_only(monkeypatch):
    sizes = []
    model = patch_predictor()
    monkeypatch.setattr(
        model.model, "forward", lambda image: sizes.append(image.shape) or image * 3
    )
    batch = torch.rand(3, 1, 64, 96)
    torch.testing.assert_close(model.probabilities(batch), torch.sigmoid(batch * 3))
    model.predict(np.zeros((150, 400), np.uint8))
    model.predict_tiled(np.zeros((150, 400), np.uint8))
    assert {tuple(size[-2:]) for size in sizes} == {(32, 32)}
    assert max(size[0] for size in sizes) <= max(8, model.config.batch_size)


def test_tiles_are_those_of_monai():
    """An image of two and a half tiles, whose starts MONAI chooses as we do."""
    model = patch_predictor(image_size=(32, 80))
    batch = torch.rand(1, 1, 32, 80)
    ramp = np.clip(np.arange(32) + 1 - 4, 1e-6, None)
    weights = torch.from_numpy(np.outer(np.ones(32), np.minimum(ramp, ramp[::-1]))).float()
    expected = sliding_window_inference(
        batch, (32, 32), 1, lambda part: torch.sigmoid(model.logits(part)), 0.5,
        roi_weight_map=weights,
    )  # fmt: skip
    torch.testing.assert_close(model.probabilities(batch), expected, atol=1e-4, rtol=0)


def test_log_odds_of_tiles_are_those_of_their_blend():
    model = patch_predictor()
    batch = torch.rand(2, 1, 64, 96)
    odds = model.log_odds(batch)
    torch.testing.assert_close(torch.sigmoid(odds), model.probabilities(batch))
