"""The command line: every command as the documentation writes it, what it leaves on disk, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from seglib import config, hosts, phantoms, training
from seglib.__main__ import PREDICTION, main
from seglib.errors import DataError
from seglib.inference import OPTIONS
from seglib.layouts import convert

ROOT = Path(__file__).resolve().parents[1]
# Behind the words of the documentation, which stay as they are: seconds instead of hours.
TINY = "--epochs 1 --base_channels 4 --depth 2 --image_size 32 --precision fp32 --device cpu --bootstrap 20"


def call(line, *rest):
    """Exit status of one command line; `rest` are words that hold spaces."""
    return main([*line.split(), *map(str, rest)])


def fails(capsys, line, *rest):
    """The one message of a command line that must end with status 2."""
    capsys.readouterr()
    assert call(line, *rest) == 2
    message = capsys.readouterr().err
    assert message.startswith("seglib: ") and "Traceback" not in message
    return message


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1.0


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder after `prepare` and `train` as documented: IMAGES, MASKS, data/, checkpoints/; data/test/ is new."""
    folder = tmp_path_factory.mktemp("work")
    phantoms.write("binary", folder / "raw", n=8, seed=0)
    phantoms.write("binary", folder / "other", n=3, seed=5)
    shutil.move(folder / "raw" / "images", folder / "IMAGES")
    shutil.move(folder / "raw" / "masks", folder / "MASKS")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert call("prepare --source_images IMAGES --source_masks MASKS --output data/") == 0
        assert call(f"train --data_dir data/ --epochs 50 --batch_size 8 {TINY}") == 0
    finally:
        os.chdir(before)
    shutil.copytree(folder / "other" / "images", folder / "data" / "test" / "images")
    shutil.copytree(folder / "other" / "masks", folder / "data" / "test" / "masks")
    return folder


@pytest.fixture
def here(work, monkeypatch):
    """`work` as the current folder, and the only place where data and weights are looked for."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(hosts, "_homes", lambda: [work])
    return work


# ---- system 5, as written


def test_prepare_makes_the_documented_tree(work):
    assert sorted(p.name for p in (work / "data" / "images").iterdir()) == sorted(
        os.listdir(work / "IMAGES")
    )
    for mask in (work / "data" / "masks").iterdir():
        assert set(np.unique(pixels(mask))) == {0, 255}
        assert np.array_equal(pixels(mask), pixels(work / "MASKS" / f"{mask.stem}_mask.png"))


def test_train_leaves_the_documented_files(work):
    folder = work / "checkpoints"
    assert {"best_model.pth", "final_model.pth", "training_history.png", "config.json"} <= set(
        os.listdir(folder)
    )
    about = json.loads((folder / "best_model.json").read_text())
    assert about["config"]["preset"] == "binary" and about["config"]["batch_size"] == 8
    assert about["config"]["epochs"] == 1  # the later of two wins
    torch.load(folder / "best_model.pth", weights_only=True)


def test_train_with_every_documented_option(here, capsys):
    line = "train --data_dir data/ --epochs 100 --batch_size 16 --lr 0.0001 --loss combined --scheduler --image_size 256"
    line += f" --val_split 0.2 {TINY} --checkpoint_dir other_run --save_every 1 --bilinear"
    assert call(line) == 0
    cfg = json.loads(Path("other_run/config.json").read_text())
    assert (cfg["scheduler"], cfg["lr"], cfg["loss"], cfg["bilinear"]) == (
        "plateau",
        1e-4,
        "combined",
        True,
    )
    assert Path("other_run/checkpoint_epoch_1.pth").is_file()
    assert str(Path("other_run/best_model.pth")) in capsys.readouterr().out
    # resume goes on in that folder
    assert call(line + " --epochs 2 --resume") == 0
    assert pd.read_csv("other_run/history.csv")["epoch"].tolist() == [1, 2]
    assert not Path("other_run.1").exists()


def test_evaluate_marks_what_was_seen_in_training(here, capsys):
    assert (
        call("evaluate --model_path checkpoints/best_model.pth --data_dir data/ --bootstrap 20")
        == 0
    )
    assert "all cases given, 11 images" in capsys.readouterr().out
    table = pd.read_csv("evaluation_results/per_image.csv")
    about = json.loads(Path("evaluation_results/evaluation_report.json").read_text())
    assert table.groupby("seen").size().to_dict() == {False: 3, True: 8}
    assert about["part"] == "all cases given" and about["seen_in_training"].startswith(
        "8 of 11 images"
    )
    assert Path("evaluation_results/evaluation_report.txt").is_file()


@pytest.mark.parametrize(
    "options", ["", " --tta_rotation 15 --keep_largest_component --fill_holes"]
)
def test_evaluate_agrees_with_the_masks_that_inference_writes(here, options):
    line = "evaluate --model_path checkpoints/best_model.pth --data_dir data/test/ --batch_size 16 "
    assert call(line + "--output_dir evaluation_results/ --precision fp32" + options) == 0
    about = json.loads(Path("evaluation_results/evaluation_report.json").read_text())
    told = {name: about[name] for name in OPTIONS if name in about}
    assert told == (
        {"tta_rotation": 15, "keep_largest_component": True, "fill_holes": True} if options else {}
    )
    scores = pd.read_csv("evaluation_results/per_image.csv").set_index("case")["dice"]
    line = "inference --model_path checkpoints/best_model.pth --image_dir data/test/images --output_dir predictions/ "
    assert call(line + "--save_overlay --threshold 0.5 --precision fp32" + options) == 0
    assert len(scores) == 3
    for name, score in scores.items():
        pred, image = pixels(f"predictions/{name}_mask.png"), pixels(f"data/test/images/{name}.jpg")
        assert pred.shape == image.shape[:2] and set(np.unique(pred)) <= {0, 255}
        assert dice(pred > 0, pixels(f"data/test/masks/{name}_mask.png") > 0) == pytest.approx(
            score, abs=1e-6
        )
        assert pixels(f"predictions/{name}_overlay.png").shape == image.shape
        assert Path(f"predictions/{name}_visualization.png").is_file()


def test_compare_two_reports(here, capsys):
    for name, threshold in (("low", 0.3), ("high", 0.6)):
        line = f"evaluate --model_path checkpoints/best_model.pth --data_dir data/test/ --output_dir {name} "
        assert call(line + f"--threshold {threshold} --bootstrap 20") == 0
    capsys.readouterr()
    assert call("compare low high/evaluation_report.json") == 0
    out = capsys.readouterr().out
    a, b = (pd.read_csv(f"{name}/per_image.csv")["dice"].mean() for name in ("low", "high"))
    words = out.splitlines()[1].split()
    assert [float(word) for word in words[1:4]] == pytest.approx([a, b, b - a], abs=1e-4) and words[
        -2
    ] == "3"
    assert call("compare low nowhere") == 2 and "no report here" in capsys.readouterr().err
    assert call("compare low high --metric beauty") == 2 and "beauty" in capsys.readouterr().err


def test_export_writes_what_it_checked(here, tmp_path, capsys):
    line = f"export --model_path checkpoints/best_model.pth --output_dir {tmp_path}/out --kaggle someone"
    assert call(line) == 0
    out = capsys.readouterr().out
    assert (
        "best_model.onnx: " in out
        and "best_model.pt2: " in out
        and "kaggle datasets create -p" in out
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["best_model.onnx", "best_model.pt2", "kaggle"]
    assert (
        "someone/seglib-checkpoints"
        in (tmp_path / "out" / "kaggle" / "dataset-metadata.json").read_text()
    )
    assert call(f"export --model_path nowhere.pth --output_dir {tmp_path}/more") == 2
    assert "nowhere.pth" in capsys.readouterr().err


def test_options_of_inference(here):
    line = "inference --model_path checkpoints/best_model.pth --image_path data/test/images/lesion_0001.jpg --output_dir "
    options = {
        "plain": "",
        "flipped": "--tta",
        "turned": "--tta_rotation 15",
        "tiles": "--tiled",
        "clean": "--min_component_size 100000",
        "one": "--keep_largest_component",
        "filled": "--fill_holes",
    }
    found = {}
    for name, option in options.items():
        assert call(f"{line} {name} --precision fp32 {option}") == 0
        found[name] = pixels(f"{name}/lesion_0001_mask.png")
    assert ndimage.label(found["one"])[1] <= 1 and (found["one"] <= found["plain"]).all()
    assert not found["clean"].any() and (found["filled"] >= found["plain"]).all()
    assert {mask.shape for mask in found.values()} == {found["plain"].shape}


def test_volumes_are_predicted_too(here, tmp_path, capsys):
    import nibabel

    array = np.random.default_rng(0).integers(0, 900, (30, 28, 6), np.int16)
    (tmp_path / "scans").mkdir()
    for name in ("a.nii.gz", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 2, 8, 1])), tmp_path / "scans" / name)
    line = f"predict --model_path checkpoints/best_model.pth --output_dir {tmp_path}/out"
    assert call(f"{line} --image_dir {tmp_path}/scans") == 0
    assert "a.nii.gz: structure " in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "out")) == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert nibabel.load(tmp_path / "out" / "b_mask.nii.gz").shape == array.shape
    (tmp_path / "scans" / "c.nii.gz").write_bytes(b"nothing")
    assert (
        call(f"{line} --image_path {tmp_path}/scans/c.nii.gz") == 2
        and "c.nii.gz" in capsys.readouterr().err
    )


def test_a_dicom_series_gives_a_dicom_segmentation_where_asked(here, tmp_path, capsys):
    pytest.importorskip("highdicom")
    tree = phantoms.write("rsna", tmp_path / "ct", n=1)
    series = next((tree / "train_images").glob("*/*"))
    line = (
        f"predict --model_path checkpoints/best_model.pth --output_dir {tmp_path}/out --dicom_seg"
    )
    assert call(f"{line} --image_path {series}") == 0
    assert sorted(os.listdir(tmp_path / "out")) == [
        f"{series.name}_mask.dcm",
        f"{series.name}_mask.nii.gz",
    ]
    assert call(f"{line} --image_dir {tmp_path}") == 2 and "dicom_seg" in capsys.readouterr().err


def test_weights_that_do_not_list_their_images_say_so(here, tmp_path):
    for suffix in (".pth", ".json"):
        shutil.copy(f"checkpoints/best_model{suffix}", tmp_path)
    about = json.loads((tmp_path / "best_model.json").read_text())
    del about["trained_on"]
    (tmp_path / "best_model.json").write_text(json.dumps(about))
    assert (
        call(
            f"evaluate --data_dir data/test --output_dir {tmp_path} --model_path {tmp_path}/best_model.pth"
        )
        == 0
    )
    assert (
        "unknown"
        in json.loads((tmp_path / "evaluation_report.json").read_text())["seen_in_training"]
    )


def test_inference_on_one_image_as_written(here, capsys):
    shutil.copy("data/test/images/lesion_0001.jpg", "sample.jpg")
    shutil.copy("data/test/masks/lesion_0001_mask.png", "sample_mask.png")
    line = "inference --model_path checkpoints/best_model.pth --image_path sample.jpg"
    shutil.rmtree("predictions", ignore_errors=True)
    assert call(line) == 0
    assert sorted(os.listdir("predictions")) == ["sample_mask.png", "sample_visualization.png"]
    narrow = pixels("predictions/sample_visualization.png").shape[1]
    capsys.readouterr()
    assert call(line + " --mask_path sample_mask.png --save_overlay --show_probability") == 0
    assert (
        pixels("predictions/sample_visualization.png").shape[1] > narrow
    )  # truth and probability beside the rest
    expected = dice(pixels("predictions/sample_mask.png") > 0, pixels("sample_mask.png") > 0)
    assert (
        f"structure: Dice {expected:.4f}, IoU {expected / (2 - expected):.4f}"
        in capsys.readouterr().out
    )


def test_the_threshold_decides(here):
    line = "predict --image_path data/test/images/lesion_0001.jpg --model_path checkpoints/best_model.pth"
    assert (
        call(f"{line} --threshold 0 --output_dir all")
        == call(f"{line} --threshold 1 --output_dir none")
        == 0
    )
    assert (pixels("all/lesion_0001_mask.png") == 255).all() and not pixels(
        "none/lesion_0001_mask.png"
    ).any()


def test_without_a_model_the_newest_best_weights_are_taken(here, capsys):
    shutil.copytree("checkpoints", "runs/older")
    os.utime("runs/older/best_model.pth", (0, 0))
    for newest in ("checkpoints", "runs/older"):
        assert (
            call("predict --image_path data/test/images/lesion_0001.jpg --output_dir newest") == 0
        )
        assert f"weights: {here / newest / 'best_model.pth'}," in capsys.readouterr().out
        os.utime("runs/older/best_model.pth")
    shutil.rmtree("runs/older")


def test_a_bad_file_of_a_folder_is_named_and_the_rest_is_done(here, tmp_path, capsys):
    shutil.copytree("data/test/images", tmp_path / "in")
    (tmp_path / "in" / "torn.jpg").write_bytes(b"")
    line = f"predict --model_path checkpoints/best_model.pth --image_dir {tmp_path}/in --output_dir {tmp_path}/out"
    assert "torn.jpg: the file is empty" in fails(capsys, line)
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 3


def test_pictures_of_one_stem_keep_apart(here, tmp_path):
    shutil.copy("data/test/images/lesion_0001.jpg", tmp_path / "a.jpg")
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    line = f"predict --model_path checkpoints/best_model.pth --image_dir {tmp_path} --output_dir {tmp_path}/out"
    assert call(line) == 0
    assert {p.name for p in (tmp_path / "out").glob("*_mask.png")} == {
        "a_jpg_mask.png",
        "a_png_mask.png",
    }


# ---- system 3, as written


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Ten patients in ACDC's tree: three rings of rising brightness are the three classes."""
    folder, random = tmp_path_factory.mktemp("hearts"), np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :36]
    for number in range(1, 11):
        radius = np.hypot(rows - 18 - number % 4, columns - 18)
        labels = np.select([radius < 5, radius < 9, radius < 13], [3, 2, 1], 0).astype(np.uint8)[
            ..., None
        ]
        labels = np.repeat(labels, 3, axis=2)
        volume = labels * 200 + random.integers(0, 100, labels.shape)
        name = f"patient{number:03d}"
        (folder / "data" / "acdc" / name).mkdir(parents=True)
        for suffix, array in (("", volume), ("_gt", labels)):
            image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.5, 1.5, 10, 1]))
            nibabel.save(image, folder / "data" / "acdc" / name / f"{name}_frame01{suffix}.nii.gz")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "settings.cfg", folder / "notebooks")
    return folder


def test_commands_of_the_cardiac_system(hearts, monkeypatch, capsys):
    monkeypatch.chdir(hearts)
    monkeypatch.setattr(hosts, "_homes", lambda: [hearts])
    assert call(f"train --config notebooks/settings.cfg {TINY}") == 0
    assert Path("runs/cardiac/best_model.pth").is_file()
    capsys.readouterr()
    assert call("evaluate --config notebooks/settings.cfg") == 0
    shown = capsys.readouterr().out
    assert "cardiac: test, 6 images of 2 patients" in shown
    assert {"accuracy", "iou", "dice"} <= set(shown.split())
    assert "seen_in_training: none of 6 images" in shown

    picture = np.clip(
        nibabel.load("data/acdc/patient001/patient001_frame01.nii.gz").get_fdata()[..., 1] / 3,
        0,
        255,
    )
    write(hearts / "P.png", picture.astype(np.uint8))
    assert (
        call(
            "synthesize --input_image P.png --output_dir D --model_path runs/cardiac/best_model.pth"
        )
        == 0
    )
    mask = pixels("D/P_mask.png")
    assert mask.shape == (40, 36) and mask.max() <= 3
    for line in ("--config notebooks/settings.cfg", ""):
        assert call(f"synthesize --input_image P.png --output_dir again {line}") == 0
        assert np.array_equal(pixels("again/P_mask.png"), mask)


def test_a_part_that_chose_the_model_is_called_so(hearts, monkeypatch, capsys):
    monkeypatch.chdir(hearts)
    monkeypatch.setattr(hosts, "_homes", lambda: [hearts])
    line = "--config notebooks/settings.cfg --work_dir no_test"
    assert call(f"train {line} {TINY} --test_split 0") == 0
    assert call(f"evaluate {line}") == 0
    assert "cardiac: validation, used for model choice," in capsys.readouterr().out


def test_the_sample_settings_are_the_full_cardiac_preset():
    found = config.load(ROOT / "notebooks" / "settings.cfg").to_dict()
    assert found == config.preset("cardiac", "full").to_dict()


# ---- prepare


def folders(tmp_path, mask_name, n=4, size=(9, 12), same=False, suffix=".png"):
    """(images, masks, masks as arrays) of `n` random pictures; `mask_name` makes a mask's stem of an image's."""
    random, arrays = np.random.default_rng(0), {}
    source, truth = tmp_path / "in", tmp_path / ("in" if same else "truth")
    for number in range(1, n + 1):
        write(source / f"case_{number}.jpg", random.integers(0, 256, (*size, 3), np.uint8))
        arrays[f"case_{number}"] = random.random(size) < 0.4
        write(
            truth / f"{mask_name(f'case_{number}')}{suffix}",
            arrays[f"case_{number}"].astype(np.uint8) * 255,
        )
    return source, truth, arrays


def check(output, arrays):
    """The output holds exactly these masks, as 0 / 255, and an image of each name."""
    assert {p.stem for p in (output / "images").iterdir()} == {
        p.stem for p in (output / "masks").iterdir()
    }
    assert {p.name for p in (output / "masks").iterdir()} == {f"{name}.png" for name in arrays}
    for name, mask in arrays.items():
        assert np.array_equal(pixels(output / "masks" / f"{name}.png"), mask * np.uint8(255))


@pytest.mark.parametrize("ending", ["", "_mask", "_OD", "-gt", " seg"])
def test_the_suffix_of_masks_is_found_out(tmp_path, ending):
    # case_1 ... case_12: the mask of case_12 is not one of case_1
    source, truth, arrays = folders(tmp_path, lambda name: name + ending, n=12, suffix=".tif")
    assert (
        call(
            "prepare",
            "--source_images",
            source,
            "--source_masks",
            truth,
            "--output",
            tmp_path / "out",
        )
        == 0
    )
    check(tmp_path / "out", arrays)
    for image in source.iterdir():  # unchanged, byte for byte
        assert (tmp_path / "out" / "images" / image.name).read_bytes() == image.read_bytes()


def test_images_and_masks_in_one_folder(tmp_path, capsys):
    source, _, arrays = folders(tmp_path, lambda name: f"{name}_1stHO", same=True)
    line = ["--source_images", source, "--source_masks", source, "--output", tmp_path / "out"]
    assert call("prepare", *line) == 0
    check(tmp_path / "out", arrays)
    for name in arrays:  # a second observer makes it ambiguous
        write(source / f"{name}_2ndHO.png", np.zeros((9, 12), np.uint8))
    message = fails(capsys, "prepare", *line)
    assert "'_1stHO' (4)" in message and "'_2ndHO' (4)" in message and "mask_suffix" in message
    write(source / "alone.jpg", np.zeros((9, 12), np.uint8))
    done = convert.to_images_and_masks(source, None, tmp_path / "out", mask_suffix="_1stHO")
    assert (done.pairs, done.without_mask, len(done.left_out)) == (4, ["alone.jpg"], 4)
    check(tmp_path / "out", arrays)


def test_names_that_differ_in_format_only_and_names_with_an_image_suffix(tmp_path):
    source, _, arrays = folders(tmp_path / "a", lambda name: name, same=True)
    with pytest.raises(DataError, match="same name"):
        convert.to_images_and_masks(source, source, tmp_path / "out")
    assert convert.to_images_and_masks(source, source, tmp_path / "out", ".jpg", ".png").pairs == 4
    check(tmp_path / "out", arrays)
    source, truth, arrays = folders(tmp_path / "b", lambda name: f"{name}_label")
    for image in list(source.iterdir()):
        image.rename(image.with_name(f"{image.stem}_image.jpg"))
    assert (
        convert.to_images_and_masks(
            source, truth, tmp_path / "b" / "out", image_suffix="_image"
        ).pairs
        == 4
    )
    check(tmp_path / "b" / "out", arrays)


def test_instances_are_united(tmp_path, capsys):
    random, arrays = np.random.default_rng(1), {}
    for name in ("one", "two"):
        planes = random.random((3, 8, 10)) < 0.2
        write(
            tmp_path / "in" / name / "images" / f"{name}.png",
            random.integers(0, 256, (8, 10, 4), np.uint8),
        )
        for number, plane in enumerate(planes):
            write(tmp_path / "in" / name / "masks" / f"{number}.png", plane.astype(np.uint8) * 255)
        arrays[name] = planes.any(axis=0)
    write(tmp_path / "in" / "bare" / "images" / "bare.png", np.zeros((8, 10), np.uint8))
    assert call("prepare", "--source_images", tmp_path / "in", "--output", tmp_path / "out") == 0
    assert "images without mask, left out: 1 (bare)" in capsys.readouterr().out
    check(tmp_path / "out", arrays)


def test_nothing_is_overwritten(tmp_path, capsys):
    source, truth, arrays = folders(tmp_path, lambda name: name)
    line = [
        "prepare",
        "--source_images",
        source,
        "--source_masks",
        truth,
        "--output",
        tmp_path / "out",
    ]
    assert call(*line) == call(*line) == 0  # the same again changes nothing
    mask, image = (
        tmp_path / "out" / "masks" / "case_1.png",
        tmp_path / "out" / "images" / "case_2.jpg",
    )
    write(mask, np.zeros((9, 12), np.uint8))
    image.write_bytes(b"something else")
    (tmp_path / "out" / "images" / "case_3.jpg").rename(tmp_path / "out" / "images" / "case_3.bmp")
    message = fails(capsys, *line)
    assert (
        str(mask) in message
        and str(image) in message
        and "case_3.bmp" in message
        and "3 images" in message
    )
    assert not pixels(mask).any() and image.read_bytes() == b"something else"


def test_formats_that_training_does_not_read_become_png_without_loss(tmp_path):
    deep = np.arange(108, dtype=np.uint16).reshape(9, 12) * 600
    header = b"P5 12 9 65535\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "deep.pgm").write_bytes(header + deep.astype(">u2").tobytes())
    colour = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    write(tmp_path / "in" / "colour.ppm", colour)
    for name in ("deep", "colour"):
        write(tmp_path / "truth" / f"{name}.gif", (colour[..., 0] > 90).astype(np.uint8) * 255)
    assert (
        convert.to_images_and_masks(tmp_path / "in", tmp_path / "truth", tmp_path / "out").pairs
        == 2
    )
    assert np.array_equal(pixels(tmp_path / "out" / "images" / "deep.png"), deep)
    assert np.array_equal(pixels(tmp_path / "out" / "images" / "colour.png"), colour)


def test_masks_are_decoded_as_asked(tmp_path, capsys):
    source, truth, arrays = folders(tmp_path, lambda name: name)
    line = [
        "prepare",
        "--source_images",
        source,
        "--source_masks",
        truth,
        "--mask_inverted",
        "--output",
    ]
    assert call(*line, tmp_path / "out") == 0
    check(tmp_path / "out", {name: ~mask for name, mask in arrays.items()})
    write(truth / "case_1.png", np.arange(108, dtype=np.uint8).reshape(9, 12))
    assert "case_1.png: ambiguous mask" in fails(capsys, *line, tmp_path / "again")
    assert len(list((tmp_path / "again" / "masks").iterdir())) == 3  # the others are there
    assert call(*line, tmp_path / "third", "--mask_encoding", "threshold") == 0


@pytest.mark.parametrize("name", ["chase_db1", "dsb2018_nuclei", "busi"])
def test_real_layouts(real, tmp_path, name):
    source = {"dsb2018_nuclei": "stage1_train", "busi": "images"}.get(name, "")
    line = ["prepare", "--source_images", real(name) / source, "--output", tmp_path / "out"]
    line += ["--source_masks", real(name) / "masks"] if name == "busi" else []
    assert call(*line, *(["--mask_suffix", "_1stHO"] if name == "chase_db1" else [])) == 0
    masks = sorted((tmp_path / "out" / "masks").iterdir())
    assert len(masks) == {"chase_db1": 20, "dsb2018_nuclei": 60, "busi": 22}[name]
    for mask in masks[:5]:
        pattern = {"chase_db1": f"{mask.stem}_1stHO.png", "busi": f"masks/{mask.name}"}
        files = real(name).glob(pattern.get(name, f"stage1_train/{mask.stem}/masks/*"))
        truth = np.any([np.atleast_3d(pixels(file)).max(axis=2) > 0 for file in files], axis=0)
        assert np.array_equal(pixels(mask), truth * np.uint8(255))


def test_prepare_of_a_preset_reports_and_exports(lung_tree, tmp_path, capsys):
    line = f"prepare --preset lung --size smoke --data_dir {lung_tree} --work_dir {tmp_path} --export {tmp_path}/png"
    assert call(line) == 0
    assert "images read" in capsys.readouterr().out
    assert len(list((tmp_path / "png").glob("*/images/*.png"))) == 16


def test_phantoms(tmp_path):
    assert call(f"phantoms lung --output {tmp_path}/cli --n 2 --seed 3") == 0
    phantoms.write("lung", tmp_path / "call", n=2, seed=3)
    one, other = (
        sorted(p.relative_to(f) for p in f.rglob("*.png"))
        for f in (tmp_path / "cli", tmp_path / "call")
    )
    assert one == other and len(one) == 6
    assert all(
        (tmp_path / "cli" / p).read_bytes() == (tmp_path / "call" / p).read_bytes() for p in one
    )


# ---- arguments


def config_of(monkeypatch, line, *rest):
    """The config and the run folder with which `train` would call `fit`."""
    found = {}

    def fit(cfg, batches, resume=False, folder=None):
        found.update(cfg=cfg, folder=Path(folder), resume=resume)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr("seglib.__main__._store", lambda cfg: None)
    monkeypatch.setattr("seglib.data.loaders", lambda store, cfg: {})
    assert call(f"train {line}", *rest) == 130  # Ctrl-C
    return found["cfg"], found["folder"], found["resume"]


@pytest.mark.parametrize(
    "line, field, value",
    [
        ("--image_size 256x320 --augment {}", "image_size", (256, 320)),
        ("--image_size 256,320 --augment {}", "image_size", (256, 320)),
        ("--batch-size=4", "batch_size", 4),
        ("--bilinear", "bilinear", True),
        ("--bilinear no", "bilinear", False),
        ("--early_stopping false", "early_stopping", False),
        ("--scheduler", "scheduler", "plateau"),
        ("--scheduler cosine", "scheduler", "cosine"),
        ("--mask_encoding {'255,0,0':1}", "mask_encoding", {"255,0,0": 1}),
        ("--class_names lesion", "class_names", ("lesion",)),
        ("--preset cardiac --aspp-rates 2,4", "aspp_rates", (2, 4)),
        ("--preset rsna --window_level -600", "window_level", -600.0),
        ("--size small", "base_channels", 8),
        ("--data_root elsewhere", "data_root", "elsewhere"),
    ],
)
def test_options_mean_fields(monkeypatch, line, field, value):
    assert getattr(config_of(monkeypatch, line)[0], field) == value


def test_run_folders(monkeypatch):
    assert config_of(monkeypatch, "")[1:] == (Path("checkpoints"), False)
    assert config_of(monkeypatch, "--preset lung --resume")[1:] == (Path("runs/lung"), True)
    assert config_of(monkeypatch, "--work_dir elsewhere")[1] == Path("elsewhere/binary")
    assert config_of(monkeypatch, "--preset lung --checkpoint_dir here")[1] == Path("here")


def test_the_command_line_wins_over_the_file(monkeypatch, tmp_path):
    config.preset("palm", epochs=7, batch_size=3).save(tmp_path / "mine.toml")
    cfg = config_of(monkeypatch, "--epochs 9 --config", tmp_path / "mine.toml")[0]
    assert (cfg.preset, cfg.epochs, cfg.batch_size) == ("palm", 9, 3)


@pytest.mark.parametrize(
    "line, words",
    [
        ("trian", "invalid choice: 'trian'"),
        ("train --epoch 5", "takes no '--epoch'; did you mean '--epochs'"),
        ("predict --image_pth x.png", "did you mean '--image_path'"),
        ("predict x.png", "takes no 'x.png'"),
        ("predict --base_channels 4", "takes no '--base_channels'"),
        ("predict", "--image_path"),
        ("predict --image_path a.png --image_dir b", "--image_path"),
        ("train --lr fast", "lr: 'fast' is not allowed"),
        ("train --lr", "--lr"),
        ("train --preset lungs", "did you mean 'lung'"),
        ("train --config none.cfg", "no such config file"),
        ("train --data_dir nowhere", "nowhere"),
        ("train --loss cross_entropy", "does not fit the task"),
        ("evaluate --model_path nowhere.pth", "nowhere.pth: no such weights file"),
        ("predict --image_path a.png --work_dir nowhere", "no weights best*.pth found"),
        ("prepare --source_images nowhere --output out", "nowhere: no such folder"),
        ("prepare --source_masks nowhere", "--source_images"),
        ("phantoms lugn --output x", "did you mean 'lung'"),
        ("phantoms lung --n many", "invalid int value"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts, "_homes", lambda: [tmp_path])
    message = fails(capsys, line)
    assert words in message and len(message.splitlines()) < 6


def test_an_output_that_cannot_be_written_is_one_message(here, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    line = "predict --model_path checkpoints/best_model.pth --image_path data/test/images/lesion_0001.jpg --output_dir"
    assert str(tmp_path / "file") in fails(capsys, line, tmp_path / "file" / "out")


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit) as done:
        call("train --preset cardiac --help")
    assert done.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in config.FIELDS.items():
        assert f"--{name} " in shown and field.metadata["help"] in shown
    assert "(int; default 32)" in shown  # base_channels of the preset that was named


@pytest.mark.parametrize(
    "line", ["--preset=lung --help", "--help --preset lung", "--config mine.toml --help"]
)
def test_help_shows_the_values_of_the_preset_however_it_is_named(
    monkeypatch, tmp_path, capsys, line
):
    monkeypatch.chdir(tmp_path)
    config.preset("lung").save("mine.toml")
    with pytest.raises(SystemExit):
        call(f"train {line}")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--preset lung --size full" in shown
    assert "(int or 2 numbers; default 512)" in shown  # image_size


def test_options_of_prediction_are_those_of_a_predictor():
    assert tuple(name.removeprefix("--") for name in PREDICTION) == OPTIONS


def process(*words, cwd):
    """A real process; returns it when it is done."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_as_a_process(tmp_path):
    done = process(
        "-m", "seglib", "phantoms", "binary", "--output", "tree", "--n", "1", cwd=tmp_path
    )
    assert done.returncode == 0 and (tmp_path / "tree" / "images").is_dir()
    done = process("-m", "seglib", "train", "--epoch", "5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "seglib: train takes no '--epoch'; did you mean '--epochs'?; see python -m seglib train --help\n"
    )
    code = "import sys; from seglib.__main__ import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    done = process("-c", code, cwd=tmp_path)
    assert done.returncode == 0 and "evaluate" in done.stdout
