"""Exports against PyTorch, and a Kaggle data set that is found again on a fake mount."""

import builtins
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from seglib import (
    config,
    data,
    evaluation,
    export,
    hosts,
    layouts,
    prepare,
    presets,
    runs,
)
from seglib.errors import ConfigError, DataError
from seglib.inference import Predictor


def weights_of(folder, preset, size="smoke", scores=None, **changes):
    """A weights file of a network with random weights."""
    cfg = config.preset(preset, size, **changes)
    torch.manual_seed(0)
    network = runs.network(cfg)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # not the identity
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return runs.save_weights(
        folder / "best_model.pth",
        network,
        cfg,
        scores=scores or {"val_dice": 0.5},
        trained_on=["a", "b"],
    )


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_onnx_equals_pytorch(tmp_path, preset):
    import onnxruntime

    weights = weights_of(tmp_path, preset)
    done = export.to_onnx(weights, tmp_path / "out" / "model.onnx")
    assert (
        done.difference <= 1e-4
        and done.megabytes == (tmp_path / "out" / "model.onnx").stat().st_size / 1e6
    )
    assert (
        done.ms > 0
        and done.torch_ms > 0
        and [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]
    )
    predictor = Predictor.load(weights, "cpu", "fp32")
    cfg = predictor.config
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (5, cfg.in_channels, *cfg.network_height_width))
        .astype(np.float32)
        / 255
    )
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    prob = session.run(None, {"image": image})[0]  # another batch than it was made with
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (cfg.mean, cfg.std))
    expected = predictor.probabilities(torch.from_numpy((image - mean) / std)).numpy()
    np.testing.assert_allclose(prob, expected, atol=1e-4)
    assert prob.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_onnx_equals_pytorch_at_full_size(tmp_path, preset):
    done = export.to_onnx(
        weights_of(tmp_path, preset, "full", encoder_weights="none"), tmp_path / "model.onnx"
    )
    assert done.difference <= 1e-4
    times = f"{done.ms:.0f} ms, PyTorch {done.torch_ms:.0f} ms"
    print(f"{preset}: {done.megabytes:.0f} MB, {times}, {done.difference:.0e}")


@pytest.mark.parametrize("sides", [64, (65, 67)])
def test_blocks_of_pixels_are_exported(tmp_path, sides):
    """PixelUnshuffle and PixelShuffle, and the padding and cropping of odd sides."""
    weights = weights_of(tmp_path, "lung", image_size=sides, stem="space_to_depth")
    done = export.to_onnx(weights, tmp_path / "model.onnx")
    assert done.difference <= 1e-4


@pytest.mark.parametrize("preset", ["cardiac", "lung"])
def test_program_needs_no_seglib_and_equals_pytorch(tmp_path, preset):
    done = export.to_program(weights_of(tmp_path, preset), tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    cfg = config.preset(preset, "smoke")
    assert module(torch.rand(4, cfg.in_channels, *cfg.network_height_width)).shape == (
        4,
        cfg.n_classes,
        *cfg.network_height_width,
    )
    assert done.difference <= 1e-4


def test_a_wrong_export_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LIMIT", -1.0)
    with pytest.raises(DataError, match="differ from PyTorch's"):
        export.to_program(weights_of(tmp_path, "lung"), tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    known = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match="pip install onnx"):
        export.to_onnx(weights_of(tmp_path, "lung"), tmp_path / "model.onnx")


def test_a_kaggle_data_set_is_found_on_its_mount(tmp_path, monkeypatch):
    weights = weights_of(tmp_path, "lung")
    folder = export.kaggle_folder(weights, tmp_path / "made", "someone", "Lung U-Net, small")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "best_model.json",
        "best_model.pth",
        "dataset-metadata.json",
    ]
    metadata = json.loads((folder / "dataset-metadata.json").read_text())
    assert metadata == {
        "title": "Lung U-Net, small",
        "id": "someone/lung-u-net-small",
        "licenses": [{"name": "other"}],
    }
    card = (folder / "README.md").read_text()
    assert "No test is reported" in card and "lung" in card and "not for diagnosis" in card
    mount = tmp_path / "kaggle" / "input" / "datasets" / "someone" / "lung-u-net-small"
    mount.parent.mkdir(parents=True)
    folder.rename(mount)
    monkeypatch.setattr(hosts.mounts, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")
    monkeypatch.chdir(mount)
    found = hosts.find_model("best_model.pth", tmp_path / "kaggle" / "input")
    assert found == (mount / "best_model.pth").absolute()
    image = np.zeros((50, 40), np.uint8)
    assert (
        Predictor.load(found).predict(image).mask == Predictor.load(weights).predict(image).mask
    ).all()


@pytest.mark.parametrize(
    ("owner", "title"),
    [("", "Lung U-Net"), ("me", "short"), ("me", "x" * 51), ("a b", "Lung U-Net")],
)
def test_what_kaggle_refuses_is_refused(tmp_path, owner, title):
    with pytest.raises(ConfigError, match="Kaggle wants"):
        export.kaggle_folder(weights_of(tmp_path, "lung"), tmp_path / "made", owner, title)
    assert not (tmp_path / "made").exists()


def test_nothing_is_overwritten(tmp_path):
    weights = weights_of(tmp_path, "lung")
    (tmp_path / "made").mkdir()
    with pytest.raises(DataError, match="exists already"):
        export.kaggle_folder(weights, tmp_path / "made", "me", "Lung U-Net")
    with pytest.raises(DataError, match="no such weights"):
        export.kaggle_folder(tmp_path / "none.pth", tmp_path / "new", "me", "Lung U-Net")


def test_the_same_weights_give_the_same_file(tmp_path):
    weights = weights_of(tmp_path, "lung")
    first, second = (export.to_program(weights, tmp_path / n / "m.pt2").path for n in "ab")
    assert first.read_bytes() == second.read_bytes()


# ---- the model card


def row_of(card, name):
    return next(line for line in card.splitlines() if line.startswith(f"| {name} |"))


PARTS = "attention False, stem space_to_depth, deep_supervision False"


@pytest.mark.parametrize(
    "preset, network",
    [
        ("rsna", "smp_unet, encoder tu-tf_mobilenetv3_large_100"),
        ("lung", f"unet, base_channels 4, depth 3, bilinear False, {PARTS}"),
        ("cardiac", f"aspp, base_channels 4, aspp_rates [1, 2, 3], {PARTS}"),
    ],
)
def test_the_card_names_the_settings_that_the_network_takes(tmp_path, preset, network):
    weights = weights_of(tmp_path, preset)
    description = runs.describe_weights(weights)
    card = export.model_card(weights, description, "A card")
    assert row_of(card, "network") == f"| network | {network} |"
    assert "| 0.500 |" in row_of(card, "validation Dice of the epoch kept")
    assert "| unknown |" in row_of(card, "arithmetic of the training")
    card = export.model_card(weights, {**description, "precision": "bf16"}, "A card")
    assert "| bf16 |" in row_of(card, "arithmetic of the training")


def evaluated_weights(tmp_path, lung_cfg):
    """(weights, report): an untrained network, and its scores on all phantoms."""
    cfg = lung_cfg.replace(val_split=0.0, test_split=1.0)
    weights = weights_of(tmp_path / "run", "lung", scores={"val_dice": 0.9658579601740509})
    store = prepare.build(layouts.scan(cfg), cfg)
    predictor = Predictor.load(weights, "cpu", "fp32")
    report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"])
    report.about["weights"] = str(weights)
    return weights, report


@pytest.mark.usefixtures("no_warnings")
def test_the_card_quotes_the_report_beside_the_weights(tmp_path, lung_cfg):
    weights, report = evaluated_weights(tmp_path, lung_cfg)
    report.save(weights.parent / "evaluation")
    folder = export.kaggle_folder(weights, tmp_path / "kaggle", "me", "Lung U-Net")
    card = (folder / "README.md").read_text()
    dice = report.table("dice", of="lung").set_index("average")["value"]["per image"]
    assert f"| lung | dice | per image | {dice:.3f} |" in card and "No test" not in card
    assert report.title in card and not re.search(r"\d\.\d{4}", card)
    description = runs.describe_weights(weights)
    assert export.model_card(weights, description, "Lung U-Net", report) == card

    weights_of(weights.parent, "lung", base_channels=5)  # as a resumed run leaves other weights
    again = export.kaggle_folder(weights, tmp_path / "again", "me", "Lung U-Net")
    assert "No test is reported" in (again / "README.md").read_text()


def test_a_report_of_an_older_version_counts_where_it_is_newer_than_the_weights(tmp_path, lung_cfg):
    weights, report = evaluated_weights(tmp_path, lung_cfg)
    del report.about["weights_sha256"]
    path = report.save(weights.parent / "evaluation") / "evaluation_report.json"
    assert export.report_of(weights) == path
    later = path.stat().st_mtime + 10
    os.utime(weights, (later, later))
    assert export.report_of(weights) is None


def test_the_report_that_evaluate_leaves_in_the_current_folder_is_found(
    tmp_path, lung_cfg, monkeypatch
):
    weights, report = evaluated_weights(tmp_path, lung_cfg)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export.report_of(weights) is None
    report.save("evaluation_results")
    assert export.report_of(weights) == Path("evaluation_results/evaluation_report.json")


def test_the_card_has_no_number_where_there_is_no_interval(tmp_path, lung_cfg):
    weights, report = evaluated_weights(tmp_path, lung_cfg)
    report.summary.loc[report.summary["metric"] == "iou", ["low", "high"]] = math.nan
    report.save(weights.parent / "evaluation")
    card = export.model_card(weights, runs.describe_weights(weights), "A card", report)
    assert "nan" not in card.lower()
    cells = [line.split(" | ") for line in card.splitlines() if " | iou | per image" in line]
    assert cells and all(cell[4] == "–" for cell in cells)


@pytest.mark.parametrize(
    "part, seen, words",
    [
        ("test", False, None),
        ("test", None, "not known whether"),
        ("all cases given", True, "trained on 2 of these 16 images"),
        ("validation, used for model choice", False, "chose the weights"),
    ],
)
def test_the_card_says_what_makes_scores_too_good(tmp_path, lung_cfg, part, seen, words):
    weights, report = evaluated_weights(tmp_path, lung_cfg)
    report.about["part"] = part
    if seen is None:
        report.per_image = report.per_image.drop(columns="seen", errors="ignore")
    else:
        report.per_image["seen"] = [seen, seen] + [False] * (len(report.per_image) - 2)
    report.save(tmp_path / "saved")
    card = export.model_card(weights, runs.describe_weights(weights), "A card", tmp_path / "saved")
    section = card.split("## Scores")[1].split("## Use")[0]
    if words is None:
        assert "too good" not in section and "known" not in section
    else:
        assert words in section


# ---- networks of one's own, and predictors


class Own(torch.nn.Module):
    """What a reader writes in a notebook."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        return self.layer(image)


def test_an_own_network_is_exported_and_named_in_its_card(tmp_path):
    torch.manual_seed(0)
    cfg = config.preset("lung", "smoke")
    weights = runs.save_weights(tmp_path / "best_model.pth", Own(), cfg, network="Own")
    export.to_program(weights, tmp_path / "model.pt2", model=Own())
    with pytest.raises(DataError, match="network Own"):
        export.to_program(weights, tmp_path / "again.pt2")
    folder = export.kaggle_folder(weights, tmp_path / "kaggle", "me", "Lung network")
    card = (folder / "README.md").read_text()
    assert "| Own, of the notebook" in row_of(card, "network") and ", model=Own(...))" in card


def test_a_predictor_is_exported_as_it_is(tmp_path):
    """With its temperature; its own network stays where it is."""
    predictor = Predictor.load(weights_of(tmp_path, "lung"), "cpu", "fp32")
    predictor.temperature = 3.0
    export.to_program(predictor, tmp_path / "model.pt2")
    image = torch.rand(1, 1, *predictor.config.height_width)
    prob = torch.export.load(tmp_path / "model.pt2").module()(image)
    mean, std = predictor.config.mean[0], predictor.config.std[0]
    torch.testing.assert_close(prob, predictor.probabilities((image - mean) / std))
    folder = export.kaggle_folder(predictor, tmp_path / "kaggle", "me", "Lung U-Net")
    assert (folder / "best_model.pth").is_file()
    in_memory = Predictor(predictor.model, predictor.config, "cpu", "fp32")
    with pytest.raises(DataError, match="made in memory"):
        export.kaggle_folder(in_memory, tmp_path / "other", "me", "Lung U-Net")
