"""The export of a data set and its split to nnU-Net's raw layout, read back by the same layout."""

import json

import nibabel
import numpy as np
import pytest

from seglib import config, layouts, nnunet, prepare
from seglib.__main__ import main
from seglib.errors import DataError
from seglib.formats import images
from tests.helpers import save_nifti

NAMES = ("T2", "ADC")


def write_tree(root, n=6):
    """The Decathlon's form: volumes with a fourth axis; every patient has two."""
    for number in range(n):
        rng = np.random.default_rng(number)
        voxels = rng.integers(-500, 1500, (8, 10, 3, 2)).astype(np.int16)
        labels = (voxels[..., 0] > 900).astype(np.uint8)
        affine = np.diag([0.8, 1.2, 5.0, 1.0])
        for name, array in (("imagesTr", voxels), ("labelsTr", labels)):
            path = root / name / f"p{number // 2}_visit{number % 2}.nii.gz"
            save_nifti(nibabel.Nifti1Image(array, affine), path)
    content = {"modality": dict(enumerate(NAMES)), "labels": {"background": 0, "lesion": 1}}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def make(root, tmp_path, **settings):
    fixed = dict(class_names=("background", "lesion"), label_map={}, image_size=(10, 8))
    fixed |= dict(resize="none", channel_names=NAMES, patch_size=None)
    fixed |= dict(work_dir=str(tmp_path / "work"), test_split=0.3, val_split=0.5)
    return config.preset("cardiac", "smoke", data_root=str(root), **{**fixed, **settings})


def build(cfg):
    return prepare.build(layouts.scan(cfg), cfg)


def test_volumes_with_their_values_and_the_split_of_the_store(tmp_path):
    root = write_tree(tmp_path / "t")
    cfg = make(root, tmp_path, context_slices=1)
    store = build(cfg)
    target = nnunet.export(store, tmp_path / "nnUNet_raw", cfg)
    assert target == tmp_path / "nnUNet_raw" / "Dataset001_cardiac"
    description = json.loads((target / "dataset.json").read_text())
    assert description == {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    parts = dict(zip(store.cases["volume"], store.cases["split"]))
    (split,) = json.loads((target / "splits_final.json").read_text())
    assert {part: set(names) for part, names in split.items()} == {
        part: {volume for volume, own in parts.items() if own == part} for part in ("train", "val")
    }
    for volume, part in parts.items():
        ending = "s" if part == "test" else "r"
        original = nibabel.load(root / "imagesTr" / f"{volume}.nii.gz")
        for k in range(2):
            written = nibabel.load(target / f"imagesT{ending}" / f"{volume}_{k:04d}.nii.gz")
            np.testing.assert_array_equal(written.get_fdata(), original.get_fdata()[..., k])
            np.testing.assert_array_equal(written.affine, original.affine)
        labels = nibabel.load(target / f"labelsT{ending}" / f"{volume}.nii.gz")
        truth = nibabel.load(root / "labelsTr" / f"{volume}.nii.gz")
        np.testing.assert_array_equal(labels.get_fdata(), truth.get_fdata())
    again = make(target, tmp_path, test_split=0.0, context_slices=1)
    before, after = store, build(again)
    pixels = {case: before.open()[0][row] for case, row in before.cases[["case", "row"]].values}
    assert len(after.cases) == 12
    for case, row in after.cases[["case", "row"]].values:
        np.testing.assert_array_equal(after.open()[0][row], pixels[case])


def test_folds_are_those_of_a_cross_validation_by_patient(tmp_path):
    cfg = make(write_tree(tmp_path / "t"), tmp_path)
    target = nnunet.export(build(cfg), tmp_path / "Dataset007_mine", cfg, n_folds=3)
    assert target.name == "Dataset007_mine" and not (target / "imagesTs").exists()
    splits = json.loads((target / "splits_final.json").read_text())
    assert len(splits) == 3
    held_out = [name for split in splits for name in split["val"]]
    assert sorted(held_out) == sorted({name for split in splits for name in split["train"]})
    for split in splits:
        patients = [{name.split("_")[0] for name in split[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1]


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    cfg = make(write_tree(tmp_path / "t"), tmp_path)
    store = build(cfg)
    first = nnunet.export(store, tmp_path / "raw", cfg)
    assert nnunet.export(store, tmp_path / "raw", cfg).name == "Dataset002_cardiac"
    with pytest.raises(DataError, match="exists already"):
        nnunet.export(store, first, cfg)
    monkeypatch.setattr(nnunet, "_splits", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nnunet.export(store, tmp_path / "other", cfg)
    assert not list((tmp_path / "other").iterdir())


def write_pictures(root, n=4):
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        images.write_png(root / "images" / f"a{number}.png", pixels)
        images.write_png(root / "masks" / f"a{number}.png", (pixels[..., 0] > 200) * np.uint8(255))
    return root


def test_pictures(tmp_path):
    root = write_pictures(tmp_path / "t")
    settings = dict(image_size=32, resize="none", work_dir=str(tmp_path / "w"), val_split=0.5)
    cfg = config.preset(
        "binary", "smoke", data_root=str(root), class_names=("nucleus",), **settings
    )
    target = nnunet.export(build(cfg), tmp_path / "raw", cfg)
    description = json.loads((target / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert description["labels"] == {"background": 0, "nucleus": 1}
    assert description["file_ending"] == ".png"
    for path in sorted((root / "images").iterdir()):
        written = images.read_pixels(target / "imagesTr" / f"{path.stem}_0000.png")[0]
        np.testing.assert_array_equal(written, images.read_pixels(path)[0])
        labels = images.read_pixels(target / "labelsTr" / f"{path.stem}.png")[0]
        mask = images.read_pixels(root / "masks" / f"{path.stem}.png")[0]
        np.testing.assert_array_equal(labels, mask // 255)


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("ignored", [False, True])
def test_pictures_are_read_back_with_classes_channels_and_what_is_ignored(
    tmp_path, n_channels, ignored
):
    root = tmp_path / "t"
    for number in range(6):
        rng = np.random.default_rng(number)
        for k in range(n_channels if n_channels == 2 else 1):
            sides = (12, 14, 3) if n_channels == 3 else (12, 14)
            pixels = rng.integers(0, 256, sides, np.uint8)
            images.write_png(root / "imagesTr" / f"a{number}_{k:04d}.png", pixels)
        labels = rng.integers(0, 4 if ignored else 3, (12, 14)).astype(np.uint8)
        images.write_png(root / "labelsTr" / f"a{number}.png", labels)
    names = {1: ["grey"], 2: ["red", "far red"], 3: ["R", "G", "B"]}[n_channels]
    named = {"background": 0, "rim": 1, "core": 2, **({"ignore": 3} if ignored else {})}
    content = {"channel_names": dict(enumerate(names)), "labels": named, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(content))

    def read(folder):
        fixed = dict(
            image_size=(12, 14),
            resize="none",
            val_split=0.5,
            in_channels=n_channels,
            mean=(0.5,),
            std=(0.5,),
        )
        cfg = config.preset("binary", "smoke", data_root=str(folder), **fixed)
        cfg.work_dir = str(tmp_path / "w")
        cases = layouts.scan(cfg)
        assert cfg.class_names == ("background", "rim", "core")
        store = prepare.build(cases, cfg)
        rows = store.cases.set_index("case")["row"]
        arrays = store.open()
        return cfg, store, {case: (arrays[0][k], arrays[1][k]) for case, k in rows.items()}

    cfg, store, before = read(root)
    assert sorted(before) == [f"a{number}" for number in range(6)]
    for number in range(6):
        stored = images.read_pixels(root / "labelsTr" / f"a{number}.png")[0]
        np.testing.assert_array_equal(
            before[f"a{number}"][1][..., 0], np.where(stored == 3, 255, stored)
        )
    target = nnunet.export(store, tmp_path / "raw", cfg)
    after = read(target)[2]
    for case, (pixels, labels) in before.items():
        np.testing.assert_array_equal(after[case][0], pixels)
        np.testing.assert_array_equal(after[case][1], labels)


def test_a_picture_without_one_of_its_channels_is_set_aside(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "c_0000", "c_0001"):
        images.write_png(tmp_path / "imagesTr" / f"{name}.png", np.zeros((4, 5), np.uint8))
    for name in "abc":
        images.write_png(tmp_path / "labelsTr" / f"{name}.png", np.zeros((4, 5), np.uint8))
    cfg = config.preset("binary", "smoke", data_root=str(tmp_path), class_names=("cell",))
    problems = layouts.scan(cfg).set_index("case")["problem"]
    assert problems["b"] == "its channel 0001 (1) is missing; add the file"
    assert problems["a"] == problems["c"] == ""


def test_the_command(tmp_path, capsys):
    root = write_pictures(tmp_path / "t", n=6)
    line = ["prepare", "--data_dir", str(root), "--image_size", "32", "--resize", "none"]
    line += ["--work_dir", str(tmp_path / "w")]
    assert main([*line, "--export_nnunet", str(tmp_path / "raw"), "--folds", "2"]) == 0
    assert (
        "copy splits_final.json to nnUNet_preprocessed/Dataset001_binary" in capsys.readouterr().out
    )
    assert main([*line, "--folds", "2"]) == 2
    assert "folds: is the split of --export_nnunet" in capsys.readouterr().err
