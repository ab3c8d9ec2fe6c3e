"""Presets: the numbers of the five systems, four sizes, and what an entry more costs."""

import os
import subprocess
import sys

import numpy as np
import pytest

from seglib import config, presets, tables
from tests.helpers import copy_of_the_package

SIZES = ("full", "medium", "small", "smoke")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Copied by hand from systems.md, never from the code.
NUMBERS = {
    "palm": {
        "task": "multilabel",
        "class_names": ("atrophy", "detachment", "disc"),
        "image_size": 256,
        "resize": "letterbox",
        "in_channels": 3,
        **IMAGENET,
        "mask_inverted": "auto",
        "augment": {"hflip": 0.5, "vflip": 0.5, "rot90": 0.5},
        "architecture": "unet",
        "base_channels": 64,
        "depth": 4,
        "bilinear": False,
        "loss": "weighted_bce",
        "missing_weight": 0.0,
        "missing_normalisation": "annotated",
        "optimizer": "adam",
        "lr": 1e-4,
        "batch_size": 16,
        "epochs": 100,
        "monitor": "val_loss",
        "checkpoint_name": "best_model.pth",
        "device": "auto",
        "keep_split": True,
        "test_split": 0.0,
    },
    "rsna": {
        "task": "multiclass",
        "class_names": ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel"),
        "window_level": 50.0,
        "window_width": 400.0,
        "in_channels": 3,
        "image_size": 512,
        "val_split": 0.1,
        "test_split": 0.0,
        "label_map": {"5": 1, "1": 2, "3": 3, "2": 4, "18": 5, "19": 5, "20": 5},
        "architecture": "smp_unet",
        "encoder": "tu-tf_mobilenetv3_large_100",
        "encoder_weights": "imagenet",
        "loss": "dice_focal",
        "loss_weights": (0.5, 0.5),
        "focal_gamma": 2.0,
        "augment": {
            "hflip": 0.5,
            "vflip": 0.5,
            "rotate": {"limit": 45, "p": 0.5},
            "grid_distortion": 0.3,
            "coarse_dropout": 0.2,
        },
        "optimizer": "adamw",
        "lr": 1e-3,
        "scheduler": "cosine",
        "epochs": 30,
        "batch_size": 32,
        "accumulate": 16,
        "checkpoint_name": "best_model_512.pth",
        "cudnn_benchmark": True,
        "precision": "auto",
        "num_workers": 16,
    },
    "cardiac": {
        "task": "multiclass",
        "class_names": ("background", "right_ventricle", "myocardium", "left_ventricle"),
        "image_size": 256,
        "in_channels": 1,
        "percentiles": (0.5, 99.5),
        "architecture": "aspp",
        "aspp_rates": (6, 12, 18),
        "depth": 4,
        "loss": "cross_entropy",
        "optimizer": "adam",
        "lr": 1e-3,
        "batch_size": 16,
        "epochs": 50,
        "test_split": 0.2,
        "val_split": 0.25,
        "monitor": "val_loss",
        "attention": False,
        "slice_axis": None,
    },
    "lung": {
        "task": "binary",
        "class_names": ("lung",),
        "image_size": 512,
        "architecture": "unet",
        "loss": "bce",
        "optimizer": "adam",
        "lr": 1e-4,
        "batch_size": 16,
        "epochs": 50,
        "monitor": "val_dice",
        "test_split": 50.0,
        "val_split": 0.2,
        "augment": {"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}},
        "local": True,
    },
    "binary": {
        "task": "binary",
        "image_size": 256,
        "in_channels": 3,
        **IMAGENET,
        "architecture": "unet",
        "base_channels": 64,
        "depth": 4,
        "bilinear": False,
        "loss": "combined",
        "loss_weights": (0.5, 0.5),
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "batch_size": 8,
        "epochs": 50,
        "val_split": 0.2,
        "scheduler": "none",
        "early_stopping": True,
        "patience": 15,
        "monitor": "val_dice",
        "save_every": 10,
        "checkpoint_name": "best_model.pth",
        "threshold": 0.5,
        "encoder_weights": "none",
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_full_size_has_the_numbers_of_the_system(name):
    cfg = config.preset(name)
    assert (cfg.preset, cfg.size) == (name, "full")
    assert {field: getattr(cfg, field) for field in NUMBERS[name]} == NUMBERS[name]


def test_every_system_is_written_down_here():
    assert set(NUMBERS) == set(presets.PRESETS)


def test_augmentations_of_the_systems_that_leave_the_strength_open():
    cardiac = config.preset("cardiac").augment
    assert {"hflip", "vflip"} <= set(cardiac)
    assert cardiac["affine"]["rotate"] == 30
    assert tuple(cardiac["affine"]["scale"]) == (0.8, 1.2)
    binary = config.preset("binary").augment
    expected = {"hflip", "vflip", "rot90", "affine", "brightness_contrast", "gauss_noise"}
    assert set(binary) == expected
    assert {"scale", "translate", "rotate"} <= set(binary["affine"])


def test_cardiac_is_split_60_20_20():
    cfg = config.preset("cardiac")
    test = cfg.test_split
    val = (1 - test) * cfg.val_split
    assert (1 - test - val, val, test) == pytest.approx((0.6, 0.2, 0.2))


def test_phases_of_rsna():
    first = config.preset("rsna", **presets.RSNA_PHASES["initial"])
    assert (first.optimizer, first.lr, first.scheduler, first.epochs) == (
        "adamw",
        1e-3,
        "cosine",
        30,
    )
    assert (first.batch_size, first.accumulate) == (32, 16)
    assert first.checkpoint_name == "best_model_512.pth"
    second = config.preset("rsna", **presets.RSNA_PHASES["refined"], init_from="best_model_512.pth")
    assert (second.lr, second.epochs, second.batch_size, second.accumulate) == (5e-5, 10, 64, 1)
    assert second.checkpoint_name == "best_mobilenet_rsna_refined.pth"
    assert second.init_from == "best_model_512.pth"
    base = config.preset("rsna", **presets.RSNA_PHASES["base"])
    assert base.checkpoint_name == "best_mobilenet.pth"


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_smaller_size_changes_the_effort_only(name):
    full, medium, small, smoke = (config.preset(name, size) for size in SIZES)
    same = """task class_names in_channels mean std label_map mask_encoding architecture val_split
        test_split keep_split monitor checkpoint_name"""
    for cfg in (full, medium, small, smoke):
        assert cfg.validate() is cfg
        for field in same.split():
            assert getattr(cfg, field) == getattr(full, field), field
    for field in ("base_channels", "batch_size", "image_size"):
        assert getattr(full, field) >= getattr(small, field) >= getattr(smoke, field), field
    cost = [c.epochs * c.base_channels**2 * np.prod(c.height_width) for c in (full, small, smoke)]
    assert cost[0] > cost[1] > cost[2]
    assert small.epochs > smoke.epochs
    assert smoke.encoder_weights == "none", "a smoke run must not need the internet"


@pytest.mark.parametrize("name", presets.PRESETS)
def test_what_a_preset_names_exists(name):
    preset = presets.PRESETS[name]
    assert preset.layouts and set(preset.layouts) <= set(tables.LAYOUTS)
    assert callable(tables.load(preset.phantom))


def test_a_sixth_preset_is_one_entry(tmp_path):
    """Added to the text of a copy of the package; its data has a layout that exists."""
    package = copy_of_the_package(tmp_path)
    with open(package / "presets.py", "a") as file:
        file.write('PRESETS["femur"] = PRESETS["lung"]._replace(run_folder="femurs")\n')

    def command(line):
        words = [sys.executable, "-m", "seglib", *line.split()]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "femur" in command("phantoms --help").stdout
    shown = " ".join(command("train --preset femur --help").stdout.split())
    assert "The defaults below: --preset femur --size full" in shown
    assert "'binary' | 'femur'; default femur" in shown
    assert "did you mean 'femur'?" in command("train --preset femus").stderr
    assert "did you mean 'femur'?" in command("phantoms femus").stderr
    assert command("phantoms femur --n 8 --output tree").returncode == 0
    train = command("train --preset femur --size smoke --data_dir tree --epochs 1 --device cpu")
    assert train.returncode == 0, train.stderr
    assert (tmp_path / "femurs" / "best_model.pth").is_file()
