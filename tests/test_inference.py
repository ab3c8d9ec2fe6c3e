"""`Predictor`: masks of the size of any input, and files under the promised names."""

import json
import os
import pickle

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seglib import config, metrics, plots, runs
from seglib.errors import DataError, SeglibError
from seglib.formats import images
from seglib.inference import Prediction, Predictor

TASKS = {
    "binary": ("lung", {}),
    "multilabel": ("palm", {}),
    "multiclass": ("cardiac", {"architecture": "unet", "percentiles": None}),
}


def config_of(task, **overrides):
    name, fields = TASKS[task]
    values = {"base_channels": 4, "depth": 2, "augment": {}, "patch_size": None, "stem": "full"}
    return config.preset(name, "smoke", **{**values, **fields, **overrides})


def predictor_of(task, **overrides):
    """A network with random weights; its batch norms are not the identity, all classes occur."""
    cfg = config_of(task, **overrides)
    torch.manual_seed(0)
    network = runs.network(cfg)
    noise = torch.randn(4, cfg.in_channels, *cfg.height_width)
    with torch.no_grad():
        logits = network(noise)
        spread = 2 / logits.std(dim=(0, 2, 3))
        network.head.weight *= spread[:, None, None, None]
        network.head.bias.copy_((network.head.bias - logits.mean(dim=(0, 2, 3))) * spread)
    return Predictor(network, cfg, device="cpu", precision="fp32")


def bright(cfg, **options):
    """An untrained network: class k is where channel k (or grey) is brighter than the mean."""
    network = nn.Conv2d(cfg.in_channels, cfg.n_classes, 1)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.zero_()
        for k in range(cfg.n_classes):
            network.weight[k, min(k, cfg.in_channels - 1)] = 8
    return network


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A function: the path of weights of the bright network, beside their JSON."""
    monkeypatch.setattr(runs, "network", bright)

    def save(task="binary", **overrides):
        cfg = config_of(task, **overrides)
        return runs.save_weights(tmp_path / "weights" / "best_model.pth", bright(cfg), cfg)

    return save


def load(path):
    return Predictor.load(path, device="cpu", precision="fp32")


def ellipse(height, width):
    """A bright ellipse, off the centre, on a dark image (H, W) uint8; and its mask."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows / height - 0.4) / 0.25) ** 2 + ((columns / width - 0.6) / 0.3) ** 2 < 1
    return np.where(mask, 220, 20).astype(np.uint8), mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# ---- arrays

GREY = np.random.default_rng(0).integers(0, 256, (50, 61), np.uint8)
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
def test_masks_lie_where_the_structure_is(saved, resize, size):
    """The way to the network's size and back keeps place and form in portrait and landscape."""
    image, truth = ellipse(*size)
    mask = load(saved(resize=resize, image_size=(64, 96))).predict(image).mask
    assert iou(mask == 1, truth) > (0.88 if min(size) < 64 else 0.93)
    assert not iou(mask == 1, truth[::-1]) > 0.8 and not iou(mask == 1, truth[:, ::-1]) > 0.8


def test_number_types_of_one_picture_agree(saved):
    image, truth = ellipse(64, 64)
    image[0, 0], image[0, 1] = (
        0,
        255,
    )  # the whole range, so that stretching to 8 bit is the identity
    predictor = load(saved())
    prob = predictor.predict(image).prob
    for other in (image.astype(np.uint16) * 257, image.astype(np.float64) / 255, image[..., None]):
        np.testing.assert_allclose(predictor.predict(other).prob, prob, atol=0.02)
    np.testing.assert_array_equal(predictor.predict(truth).mask, truth)
    np.testing.assert_array_equal(
        predictor.predict(truth.astype(np.uint8) * 255).prob, predictor.predict(truth).prob
    )


def test_channels_are_rgb(saved):
    """Class k of this network is channel k."""
    image = np.zeros((64, 64, 3), np.uint8)
    for k in range(3):
        image[20 * k : 20 * k + 20, :, k] = 255
    mask = load(saved("multilabel")).predict(image).mask
    np.testing.assert_array_equal(mask.transpose(1, 2, 0) * 255, image)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_transparency_changes_nothing(saved, kind):
    """With or without alpha, of any number type, the prediction is the same."""
    rng = np.random.default_rng(0)
    colours = (
        rng.random((64, 64, 3)) * 0.5 * (1 if kind == np.float32 else np.iinfo(kind).max)
    ).astype(kind)
    alpha = np.full((64, 64, 1), 1 if kind == np.float32 else np.iinfo(kind).max, kind)
    predictor = load(saved("multilabel"))
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
def test_what_is_no_image_is_an_error(saved, array):
    with pytest.raises(DataError, match="predict: found|channels"):
        load(saved()).predict(array)


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


# ---- files


def test_predict_file_writes_mask_and_overlay(saved, tmp_path):
    image, truth = ellipse(80, 50)
    path, out = tmp_path / "in" / "case 1.png", tmp_path / "out" / "deep"
    images.write_png(path, image)
    predictor = load(saved())
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


def test_predict_file_writes_only_what_is_asked_for(saved, tmp_path):
    images.write_png(tmp_path / "in" / "a.png", GREY)
    predictor = load(saved())
    assert predictor.predict_file(tmp_path / "in" / "a.png").mask.shape == GREY.shape
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "weights"]
    predictor.predict_file(str(tmp_path / "in" / "a.png"), str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_mask.png"]


def test_a_multilabel_file_has_a_mask_a_class(saved, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images.write_png(tmp_path / "eye.png", image)
    prediction = load(saved("multilabel")).predict_file(
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


def test_a_file_is_read_as_its_array(saved, tmp_path):
    """16 bit, palette and transparency: from the file as from the array."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (64, 64, 4), np.uint8)
    predictor = load(saved("multilabel"))
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


def test_a_large_x_ray_of_16_bits_keeps_its_size(saved, tmp_path):
    image, truth = ellipse(5000, 4000)
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "large.png")
    predictor = load(saved())
    prediction = predictor.predict_file(tmp_path / "large.png", tmp_path / "out")
    assert prediction.prob.shape == (1, 5000, 4000) and prediction.prob.dtype == np.float32
    assert iou(prediction.mask == 1, truth) > 0.9
    with Image.open(tmp_path / "out" / "large_mask.png") as picture:
        assert picture.size == (4000, 5000)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "head only"]
)
def test_what_is_no_picture_is_named(saved, tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png"):
        load(saved()).predict_file(tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_file_stops_nothing(saved, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png", "d.png"):
        images.write_png(folder / name, GREY)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "c.JPG").write_text("no picture")
    (folder / "notes.txt").write_text("left alone")
    result = load(saved()).predict_folder(folder, out, overlay=True)
    assert result["done"] == ["a.png", "d.png"] and sorted(result["failed"]) == ["b.png", "c.JPG"]
    assert all(str(folder / name) in reason for name, reason in result["failed"].items())
    assert sorted(p.name for p in out.iterdir()) == [
        f"{s}_{k}.png" for s in "ad" for k in ("mask", "overlay")
    ]


def test_pictures_of_one_stem_do_not_overwrite_one_another(saved, tmp_path):
    """a.png and a.bmp are two pictures: two masks, or one of them is reported."""
    images.write_png(tmp_path / "in" / "a.png", ellipse(40, 40)[0])
    Image.fromarray(ellipse(50, 50)[0]).save(tmp_path / "in" / "a.bmp")
    result = load(saved()).predict_folder(tmp_path / "in", tmp_path / "out")
    assert len(result["done"]) + len(result["failed"]) == 2
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(result["done"])


def test_a_folder_is_predicted_as_its_files_are(saved, tmp_path):
    """More pictures than are read ahead, a volume, panels and overlays: as file by file."""
    rng, folder = np.random.default_rng(5), tmp_path / "in"
    for number in range(12):
        images.write_png(
            folder / f"{number:02d}.png", rng.integers(0, 256, (40, 30 + number), np.uint8)
        )
    volume = rng.integers(0, 900, (30, 28, 5), np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2, 2, 8, 1])), folder / "05b.nii.gz")
    predictor = load(saved())
    result = predictor.predict_folder(
        folder, tmp_path / "all", overlay=True, panels=True, probability=True
    )
    assert not result["failed"] and result["done"] == sorted(os.listdir(folder))
    assert result["millilitres"] == {
        "05b.nii.gz": predictor.predict_volume(folder / "05b.nii.gz", tmp_path / "one").millilitres
    }
    for file in folder.glob("*.png"):
        predictor.predict_file(file, tmp_path / "one", overlay=True, panels=True, probability=True)
    assert (
        sorted(os.listdir(tmp_path / "all")) == sorted(os.listdir(tmp_path / "one"))
        and len(result["done"]) == 13
    )
    for name in os.listdir(tmp_path / "one"):
        if not name.endswith(".gz"):
            assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_folder_that_cannot_be_written_stops_with_its_name(saved, tmp_path):
    for number in range(9):
        images.write_png(tmp_path / "in" / f"{number}.png", GREY)
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="out"):
        load(saved()).predict_folder(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_pictures_is_an_error(saved, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match=rf"{name}: no picture or volume here.*\.png"):
        load(saved()).predict_folder(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- loading


@pytest.mark.parametrize("task", TASKS)
def test_loading_gives_the_saved_network_back(tmp_path, task, monkeypatch):
    predictor = predictor_of(task, threshold=0.4)
    path = runs.save_weights(tmp_path / "weights.pth", predictor.model, predictor.config)
    monkeypatch.setenv("SEGLIB_SMOKE", "1")  # the size is that of the run, not of the moment
    loaded = load(path)
    assert loaded.config == predictor.config
    np.testing.assert_array_equal(loaded.predict(GREY).prob, predictor.predict(GREY).prob)
    np.testing.assert_array_equal(loaded.table, predictor.table)


def test_missing_files_are_named(saved, tmp_path):
    path = saved()
    with pytest.raises(DataError, match="none.pth: no such weights file"):
        load(tmp_path / "none.pth")
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"best_model\.json is missing"):
        load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"config": {}}', '{"config": {"preset": "lung"}}', "null"]
)
def test_a_torn_or_foreign_json_is_an_error_with_its_name(saved, text):
    path = saved()
    path.with_suffix(".json").write_text(text)
    with pytest.raises(SeglibError, match="best_model"):
        load(path)


def test_torn_weights_are_an_error_with_their_name(saved):
    path = saved()
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"best_model\.pth: refused to load"):
        load(path)


def test_weights_of_another_network_say_so(tmp_path):
    small, large = predictor_of("binary"), predictor_of("binary", base_channels=3)
    path = runs.save_weights(tmp_path / "weights.pth", small.model, small.config)
    runs.save_weights(tmp_path / "other.pth", large.model, large.config)
    description = json.loads((tmp_path / "other.json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"weights\.pth: weights\.json beside it describes other"):
        load(path)
    del description["weights_sha256"]
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"weights\.pth: weights of another network"):
        load(path)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_weights_that_run_code_are_refused(saved, tmp_path):
    path, marker = saved(), tmp_path / "marker"
    torch.save({"weight": Payload(marker)}, path)
    with pytest.raises(DataError, match="refused to load"):
        load(path)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DataError, match="refused to load"):
        load(path)
    assert not marker.exists()
    assert json.loads(path.with_suffix(".json").read_text())["config"]["preset"] == "lung"


# ---- networks of one's own


class Own(nn.Module):
    """What a reader writes in a notebook."""

    def __init__(self, width=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1)
        )

    def forward(self, image):
        return self.layers(image)


@pytest.fixture
def own_weights(tmp_path):
    """(path, network): weights of `Own`, as `fit` saves those of a network that it was given."""
    torch.manual_seed(3)
    model = Own()
    cfg = config_of("binary")
    return runs.save_weights(tmp_path / "own.pth", model, cfg, network="Own", loss=None), model


def test_an_own_network_is_loaded_into_a_copy(own_weights):
    path, trained = own_weights
    fresh = Own().train()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    predictor = Predictor.load(path, "cpu", "fp32", model=fresh)
    expected = Predictor(trained, predictor.config, "cpu", "fp32").predict(GREY)
    np.testing.assert_array_equal(predictor.predict(GREY).prob, expected.prob)
    assert predictor.model is not fresh and fresh.training
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_an_own_network_that_is_not_passed_is_named(own_weights):
    path, _ = own_weights
    with pytest.raises(
        DataError, match=r"own\.pth: .*network Own,.*'own\.pth', model=Own\(\.\.\.\)"
    ):
        load(path)


def test_an_own_network_of_another_form_is_refused(own_weights):
    path, _ = own_weights
    with pytest.raises(DataError, match=r"own\.pth: weights of another network"):
        Predictor.load(path, "cpu", "fp32", model=Own(width=5))


# ---- networks trained by patches


class Gradient(torch.nn.Module):
    """Logits that depend on the place within a tile, so that tiles show."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        ramp = torch.linspace(-1, 1, image.shape[-1])
        return image.mean(1, keepdim=True) + ramp + self.bias


def patch_predictor(**changes):
    values = {"image_size": (64, 96), "patch_size": 32, "augment": {}, **changes}
    return Predictor(Gradient(), config.preset("lung", "smoke", **values), "cpu", "fp32")


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
    from monai.inferers import sliding_window_inference

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
