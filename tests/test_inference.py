"""`Predictor`: masks of the size of any input, and files under the promised names."""

import numpy as np
import pytest
import torch
from PIL import Image

from seglib import plots
from seglib.errors import DataError
from seglib.formats import images
from seglib.inference import Prediction
from tests.predictors import GREY, TASKS, ellipse, iou, load, predictor_of

# ---- arrays


ARRAYS = {
    "odd": GREY[:33, :47],
    "portrait": GREY[:, :21],
    "landscape": GREY[:9],
    "one row": GREY[:1],
    "larger than the network": np.tile(GREY, (4, 3)),
    "one channel": GREY[..., None],
    "grey and alpha": np.stack([GREY, GREY], -1),
    "RGB": np.stack([GREY] * 3, -1),
    "RGBA": np.stack([GREY] * 4, -1),
    "16 bit": GREY.astype(np.uint16) * 257,
    "signed": GREY.astype(np.int32) * 8 - 1024,
    "bool": GREY > 100,
    "float": GREY.astype(np.float32) / 255,
    "constant": np.full((40, 40), 7, np.uint16),
    "not contiguous": np.asfortranarray(np.stack([GREY] * 3, -1))[::2, ::-1],
}


@pytest.mark.parametrize("task", TASKS)
def test_the_result_has_the_size_of_the_input(task):
    predictor = predictor_of(task)
    for name, array in ARRAYS.items():
        given = array.copy()
        given.setflags(write=False)
        prob, mask = predictor.predict(given)
        size, classes = array.shape[:2], predictor.config.n_classes
        assert prob.shape == (classes, *size) and prob.dtype == np.float32, name
        assert prob.min() >= 0 and prob.max() <= 1 and np.isfinite(prob).all(), name
        assert (
            mask.shape == ((classes, *size) if task == "multilabel" else size)
            and mask.dtype == np.uint8
        ), name
        assert set(np.unique(mask)) <= set(range(classes if task == "multiclass" else 2)), name
        np.testing.assert_array_equal(given, array)


@pytest.mark.parametrize("task", TASKS)
def test_an_image_of_the_networks_size_is_the_plain_network(task):
    predictor = predictor_of(task)
    cfg = predictor.config
    image = np.random.default_rng(1).integers(0, 256, (64, 64, cfg.in_channels), np.uint8)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (cfg.mean, cfg.std))
    batch = torch.from_numpy((image.transpose(2, 0, 1) / np.float32(255) - mean) / std)[None]
    with torch.inference_mode():
        logits = predictor.model(batch)
    expected = logits.softmax(1)[0] if task == "multiclass" else logits.sigmoid()[0]
    prob, mask = predictor.predict(image)
    np.testing.assert_allclose(prob, expected.numpy(), atol=1e-6)
    found = {
        "binary": expected[0] >= 0.5,
        "multilabel": expected >= 0.5,
        "multiclass": expected.argmax(0),
    }[task]
    assert (mask != found.numpy()).mean() < 1e-3


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(200, 90), (75, 190), (64, 64), (40, 31), (301, 299)])
def test_masks_lie_where_the_structure_is(bright_weights, resize, size):
    """The way to the network's size and back keeps place and form in portrait and landscape."""
    image, truth = ellipse(*size)
    mask = load(bright_weights(resize=resize, image_size=(64, 96))).predict(image).mask
    assert iou(mask == 1, truth) > (0.88 if min(size) < 64 else 0.93)
    assert not iou(mask == 1, truth[::-1]) > 0.8 and not iou(mask == 1, truth[:, ::-1]) > 0.8


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_threshold_of_the_config_cuts(threshold):
    predictor = predictor_of("binary", threshold=threshold)
    prob, mask = predictor.predict(GREY)
    np.testing.assert_array_equal(mask, prob[0] >= threshold)


def test_prediction_is_a_named_pair():
    prediction = predictor_of("binary").predict(GREY)
    assert isinstance(prediction, Prediction) and prediction._fields == ("prob", "mask")


def test_predicting_changes_nothing_in_the_network():
    predictor = predictor_of("binary")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    first, again = predictor.predict(GREY), predictor.predict(GREY)
    np.testing.assert_array_equal(first.prob, again.prob)
    assert all(
        torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items()
    )
    assert not predictor.model.training


# ---- files


def test_predict_file_writes_mask_and_overlay(bright_weights, tmp_path):
    image, truth = ellipse(80, 50)
    path, out = tmp_path / "in" / "case 1.png", tmp_path / "out" / "deep"
    images.write_png(path, image)
    predictor = load(bright_weights())
    prediction = predictor.predict_file(path, out, overlay=True)
    assert sorted(p.name for p in out.iterdir()) == ["case 1_mask.png", "case 1_overlay.png"]
    np.testing.assert_array_equal(prediction.prob, predictor.predict(image).prob)
    with Image.open(out / "case 1_mask.png") as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), 255 * prediction.mask)
    with Image.open(out / "case 1_overlay.png") as picture:
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.array(picture), plots.overlay(image, prediction.mask))
    assert iou(prediction.mask == 1, truth) > 0.9


def test_predict_file_writes_only_what_is_asked_for(bright_weights, tmp_path):
    images.write_png(tmp_path / "in" / "a.png", GREY)
    predictor = load(bright_weights())
    assert predictor.predict_file(tmp_path / "in" / "a.png").mask.shape == GREY.shape
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "weights"]
    predictor.predict_file(str(tmp_path / "in" / "a.png"), str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_mask.png"]


def test_a_multilabel_file_has_a_mask_a_class(bright_weights, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images.write_png(tmp_path / "eye.png", image)
    prediction = load(bright_weights("multilabel")).predict_file(
        tmp_path / "eye.png", tmp_path / "out", overlay=True
    )
    assert prediction.mask.shape == (3, 64, 64)
    names = [f"eye_{name}_mask.png" for name in ("atrophy", "detachment", "disc")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*names, "eye_overlay.png"]
    )
    for name, plane in zip(names, prediction.mask):
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / name)), 255 * plane)


def test_a_multiclass_file_holds_class_numbers(tmp_path):
    images.write_png(tmp_path / "heart.png", GREY)
    prediction = predictor_of("multiclass").predict_file(tmp_path / "heart.png", tmp_path / "out")
    np.testing.assert_array_equal(
        np.array(Image.open(tmp_path / "out" / "heart_mask.png")), prediction.mask
    )
    assert prediction.mask.max() > 1


def test_a_file_is_read_as_its_array(bright_weights, tmp_path):
    """16 bit, palette and transparency: from the file as from the array."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (64, 64, 4), np.uint8)
    predictor = load(bright_weights("multilabel"))
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(
        predictor.predict_file(tmp_path / "rgba.png").prob, predictor.predict(colours[..., :3]).prob
    )
    deep = rng.integers(0, 4096, (64, 64)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        predictor.predict_file(tmp_path / "deep.png").prob, predictor.predict(deep).prob
    )
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        predictor.predict_file(tmp_path / "palette.png").prob,
        predictor.predict(np.array(palette.convert("RGB"))).prob,
    )


def test_a_large_x_ray_of_16_bits_keeps_its_size(bright_weights, tmp_path):
    image, truth = ellipse(5000, 4000)
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "large.png")
    predictor = load(bright_weights())
    prediction = predictor.predict_file(tmp_path / "large.png", tmp_path / "out")
    assert prediction.prob.shape == (1, 5000, 4000) and prediction.prob.dtype == np.float32
    assert iou(prediction.mask == 1, truth) > 0.9
    with Image.open(tmp_path / "out" / "large_mask.png") as picture:
        assert picture.size == (4000, 5000)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "head only"]
)
def test_what_is_no_picture_is_named(bright_weights, tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png"):
        load(bright_weights()).predict_file(tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()
