"""The command line: every command as the documentation writes it, its files, and its errors."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from seglib import config, hosts, phantoms, tables, training
from seglib.commands.arguments import FIELD_ALIASES, SECTIONS, WITHOUT_VALUE
from seglib.commands.table import PREDICTION
from seglib.inference import OPTIONS
from tests.helpers import command, error_of, read_picture, write_picture

ROOT = Path(__file__).resolve().parents[1]
# Added to the documented commands, which stay as they are: seconds instead of hours.
TINY = "--epochs 1 --base_channels 4 --depth 2 --image_size 32 --precision fp32 --device cpu"
TINY += " --bootstrap 20"
WEIGHTS = "--model_path checkpoints/best_model.pth"
LESION = "data/test/images/lesion_0001.jpg"


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1.0


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder after `prepare` and `train` as documented: IMAGES, MASKS, data/, checkpoints/.

    data/test/ holds three images that were not trained on.
    """
    folder = tmp_path_factory.mktemp("work")
    phantoms.write("binary", folder / "raw", n=8, seed=0)
    phantoms.write("binary", folder / "other", n=3, seed=5)
    shutil.move(folder / "raw" / "images", folder / "IMAGES")
    shutil.move(folder / "raw" / "masks", folder / "MASKS")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert command("prepare --source_images IMAGES --source_masks MASKS --output data/") == 0
        assert command(f"train --data_dir data/ --epochs 50 --batch_size 8 {TINY}") == 0
    finally:
        os.chdir(before)
    for kind in ("images", "masks"):
        shutil.copytree(folder / "other" / kind, folder / "data" / "test" / kind)
    return folder


@pytest.fixture
def here(work, monkeypatch):
    """`work` as the current folder, and the only place where data and weights are looked for."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(hosts.finding, "_homes", lambda: [work])
    return work


# The commands of binary, as written


def test_prepare_makes_the_documented_tree(work):
    images = sorted(os.listdir(work / "data" / "images"))
    assert images == sorted(os.listdir(work / "IMAGES"))
    for mask in (work / "data" / "masks").iterdir():
        pixels = read_picture(mask)
        assert set(np.unique(pixels)) == {0, 255}
        assert np.array_equal(pixels, read_picture(work / "MASKS" / f"{mask.stem}_mask.png"))


def test_train_leaves_the_documented_files(work):
    folder = work / "checkpoints"
    documented = {"best_model.pth", "final_model.pth", "training_history.png", "config.json"}
    assert documented <= set(os.listdir(folder))
    about = json.loads((folder / "best_model.json").read_text())
    assert (about["config"]["preset"], about["config"]["batch_size"]) == ("binary", 8)
    assert about["config"]["epochs"] == 1, "the later of two options wins"
    torch.load(folder / "best_model.pth", weights_only=True)


def test_train_with_every_documented_option(here, capsys):
    line = "train --data_dir data/ --epochs 100 --batch_size 16 --lr 0.0001 --loss combined "
    line += f"--scheduler --image_size 256 --val_split 0.2 {TINY} "
    line += "--checkpoint_dir other_run --save_every 1 --bilinear"
    assert command(line) == 0
    cfg = json.loads(Path("other_run/config.json").read_text())
    assert (cfg["scheduler"], cfg["lr"]) == ("plateau", 1e-4)
    assert (cfg["loss"], cfg["bilinear"]) == ("combined", True)
    assert Path("other_run/checkpoint_epoch_1.pth").is_file()
    assert str(Path("other_run/best_model.pth")) in capsys.readouterr().out
    assert command(line + " --epochs 2 --resume") == 0
    assert pd.read_csv("other_run/history.csv")["epoch"].tolist() == [1, 2]
    assert not Path("other_run.1").exists(), "a resumed run goes on in its folder"


def test_evaluate_marks_what_was_seen_in_training(here, capsys):
    assert command(f"evaluate {WEIGHTS} --data_dir data/ --bootstrap 20") == 0
    assert "all cases given, 11 images" in capsys.readouterr().out
    table = pd.read_csv("evaluation_results/per_image.csv")
    assert table.groupby("seen").size().to_dict() == {False: 5, True: 6}
    about = json.loads(Path("evaluation_results/evaluation_report.json").read_text())
    assert about["part"] == "all cases given"
    assert about["seen_in_training"].startswith("6 of 11 images")
    assert Path("evaluation_results/evaluation_report.txt").is_file()


@pytest.mark.parametrize(
    "options", ["", " --tta_rotation 15 --keep_largest_component --fill_holes"]
)
def test_evaluate_agrees_with_the_masks_that_inference_writes(here, options):
    line = f"evaluate {WEIGHTS} --data_dir data/test/ --batch_size 16 "
    line += "--output_dir evaluation_results/ --precision fp32"
    assert command(line + options) == 0
    about = json.loads(Path("evaluation_results/evaluation_report.json").read_text())
    expected = {}
    if options:
        expected = {"tta_rotation": 15, "keep_largest_component": True, "fill_holes": True}
    assert {name: about[name] for name in OPTIONS if name in about} == expected

    line = f"inference {WEIGHTS} --image_dir data/test/images --output_dir predictions/ "
    line += "--save_overlay --threshold 0.5 --precision fp32"
    assert command(line + options) == 0
    scores = pd.read_csv("evaluation_results/per_image.csv").set_index("case")["dice"]
    assert len(scores) == 3
    for name, score in scores.items():
        image = read_picture(f"data/test/images/{name}.jpg")
        truth = read_picture(f"data/test/masks/{name}_mask.png")
        mask = read_picture(f"predictions/{name}_mask.png")
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        assert dice(mask > 0, truth > 0) == pytest.approx(score, abs=1e-6)
        assert read_picture(f"predictions/{name}_overlay.png").shape == image.shape
        assert Path(f"predictions/{name}_visualization.png").is_file()


def test_compare_two_reports(here, capsys):
    for name, threshold in (("low", 0.3), ("high", 0.6)):
        line = f"evaluate {WEIGHTS} --data_dir data/test/ --output_dir {name}"
        assert command(f"{line} --threshold {threshold} --bootstrap 20") == 0
    capsys.readouterr()
    assert command("compare low high/evaluation_report.json") == 0
    output = capsys.readouterr().out
    row = output.splitlines()[1].split()
    assert (
        "\nno interval: 3 patients, at least 5 are needed (" in output
        and "nan" not in output.lower()
    )
    low, high = (pd.read_csv(f"{name}/per_image.csv")["dice"].mean() for name in ("low", "high"))
    assert [float(cell) for cell in row[1:4]] == pytest.approx([low, high, high - low], abs=1e-4)
    assert row[-2] == "3"
    assert "n_left_out: images not scored in both" in output
    assert "no report here" in error_of(capsys, "compare low nowhere")
    assert "beauty" in error_of(capsys, "compare low high --metric beauty")


def test_export_writes_what_it_checked(here, tmp_path, capsys):
    output = tmp_path / "out"
    assert command(f"export {WEIGHTS} --output_dir {output} --kaggle someone") == 0
    shown = capsys.readouterr().out
    for text in ("best_model.onnx: ", "best_model.pt2: ", "kaggle datasets create -p"):
        assert text in shown
    assert sorted(os.listdir(output)) == ["best_model.onnx", "best_model.pt2", "kaggle"]
    metadata = (output / "kaggle" / "dataset-metadata.json").read_text()
    assert "someone/seglib-checkpoints" in metadata
    assert "nowhere.pth" in error_of(
        capsys, f"export --model_path nowhere.pth --output_dir {output}"
    )


def test_inference_on_one_image_as_written(here, capsys):
    shutil.copy(LESION, "sample.jpg")
    shutil.copy("data/test/masks/lesion_0001_mask.png", "sample_mask.png")
    line = f"inference {WEIGHTS} --image_path sample.jpg"
    shutil.rmtree("predictions", ignore_errors=True)
    assert command(line) == 0
    assert sorted(os.listdir("predictions")) == ["sample_mask.png", "sample_visualization.png"]
    two_panels = read_picture("predictions/sample_visualization.png").shape[1]
    capsys.readouterr()
    assert command(line + " --mask_path sample_mask.png --save_overlay --show_probability") == 0
    four_panels = read_picture("predictions/sample_visualization.png").shape[1]
    assert four_panels > two_panels
    mask, truth = read_picture("predictions/sample_mask.png"), read_picture("sample_mask.png")
    expected = dice(mask > 0, truth > 0)
    scores = f"structure: Dice {expected:.4f}, IoU {expected / (2 - expected):.4f}"
    assert scores in capsys.readouterr().out


def test_options_of_inference(here):
    options = {
        "plain": "",
        "flipped": "--tta",
        "turned": "--tta_rotation 15",
        "tiles": "--tiled",
        "without_small": "--min_component_size 100000",
        "largest": "--keep_largest_component",
        "filled": "--fill_holes",
        "all": "--threshold 0",
        "none": "--threshold 1",
    }
    masks = {}
    for name, option in options.items():
        line = f"inference {WEIGHTS} --image_path {LESION} --output_dir {name} --precision fp32"
        assert command(f"{line} {option}") == 0
        masks[name] = read_picture(f"{name}/lesion_0001_mask.png")
    assert {mask.shape for mask in masks.values()} == {masks["plain"].shape}
    assert ndimage.label(masks["largest"])[1] <= 1
    assert (masks["largest"] <= masks["plain"]).all()
    assert not masks["without_small"].any()
    assert (masks["filled"] >= masks["plain"]).all()
    assert (masks["all"] == 255).all()
    assert not masks["none"].any()


def test_predictions_are_written_for_labelling_tools(here, tmp_path, capsys):
    line = f"predict {WEIGHTS} --output_dir {tmp_path}"
    assert command(f"{line}/one --image_path {LESION} --annotations coco_rle") == 0
    assert f"annotations: {tmp_path}/one/annotations.json" in capsys.readouterr().out
    document = json.loads((tmp_path / "one" / "annotations.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["lesion_0001.jpg"]
    assert document["categories"][0]["name"] == "structure"
    mask = read_picture(tmp_path / "one" / "lesion_0001_mask.png")
    assert sum(entry["area"] for entry in document["annotations"]) == (mask == 255).sum()
    folder = f"--image_dir {here}/data/test/images --annotations labelme --outline_tolerance 2"
    assert command(f"{line}/all {folder}") == 0
    assert len(list((tmp_path / "all").glob("lesion_*.json"))) == 3
    assert "exists already" in error_of(capsys, f"{line}/all {folder}")


def test_volumes_are_predicted_too(here, tmp_path, capsys):
    array = np.random.default_rng(0).integers(0, 900, (30, 28, 6), np.int16)
    scans, output = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a.nii.gz", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 2, 8, 1])), scans / name)
    line = f"predict {WEIGHTS} --output_dir {output}"
    assert command(f"{line} --image_dir {scans}") == 0
    assert "a.nii.gz: structure " in capsys.readouterr().out
    assert sorted(os.listdir(output)) == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert nibabel.load(output / "b_mask.nii.gz").shape == array.shape
    (scans / "c.nii.gz").write_bytes(b"nothing")
    assert "c.nii.gz" in error_of(capsys, f"{line} --image_path {scans}/c.nii.gz")


def test_a_dicom_series_gives_a_dicom_segmentation_where_asked(here, tmp_path, capsys):
    pytest.importorskip("highdicom")
    tree = phantoms.write("rsna", tmp_path / "ct", n=1)
    series = next((tree / "train_images").glob("*/*"))
    line = f"predict {WEIGHTS} --output_dir {tmp_path}/out --dicom_seg"
    assert command(f"{line} --image_path {series}") == 0
    written = sorted(os.listdir(tmp_path / "out"))
    assert written == [f"{series.name}_mask.dcm", f"{series.name}_mask.nii.gz"]
    assert "dicom_seg" in error_of(capsys, f"{line} --image_dir {tmp_path}")


def test_weights_that_do_not_list_their_images_say_so(here, tmp_path):
    for suffix in (".pth", ".json"):
        shutil.copy(f"checkpoints/best_model{suffix}", tmp_path)
    about = json.loads((tmp_path / "best_model.json").read_text())
    del about["trained_on"]
    (tmp_path / "best_model.json").write_text(json.dumps(about))
    line = f"evaluate --data_dir data/test --model_path {tmp_path}/best_model.pth"
    assert command(f"{line} --output_dir {tmp_path}") == 0
    report = json.loads((tmp_path / "evaluation_report.json").read_text())
    assert "unknown" in report["seen_in_training"]


def test_without_a_model_the_newest_best_weights_are_taken(here, capsys):
    shutil.copytree("checkpoints", "runs/older")
    os.utime("runs/older/best_model.pth", (0, 0))
    for newest in ("checkpoints", "runs/older"):
        assert command(f"predict --image_path {LESION} --output_dir newest") == 0
        assert f"weights: {here / newest / 'best_model.pth'}," in capsys.readouterr().out
        os.utime("runs/older/best_model.pth")
    shutil.rmtree("runs/older")


def test_a_bad_file_of_a_folder_is_named_and_the_rest_is_done(here, tmp_path, capsys):
    shutil.copytree("data/test/images", tmp_path / "in")
    (tmp_path / "in" / "torn.jpg").write_bytes(b"")
    line = f"predict {WEIGHTS} --image_dir {tmp_path}/in --output_dir {tmp_path}/out"
    assert "torn.jpg: the file is empty" in error_of(capsys, line)
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 3


def test_own_data_gets_a_test_part_that_evaluate_scores(here, capsys):
    """8 patients: 2 are tested; evaluate without --data_dir scores those alone."""
    for kind in ("images", "masks"):
        shutil.copytree(here / "data" / kind, here / "mine" / kind)
    line = f"train --data_dir mine {TINY} --checkpoint_dir mine_run"
    assert command(line) == 0
    assert "2 of 8 patients are the test part" in capsys.readouterr().out
    weights = "--model_path mine_run/best_model.pth"
    assert command(f"evaluate {weights} --bootstrap 20 --output_dir test_only") == 0
    shown = capsys.readouterr().out
    assert "binary: test, 2 images of 2 patients" in shown and "WARNING" not in shown
    assert command(f"train --data_dir mine {TINY} --checkpoint_dir of_all --test_split 0") == 0
    cfg = json.loads(Path("of_all/config.json").read_text())
    assert cfg["test_split"] == 0
    capsys.readouterr()
    assert command(f"train --data_dir mine {TINY} --checkpoint_dir of_all --resume --epochs 2") == 0
    cfg = json.loads(Path("of_all/config.json").read_text())
    assert cfg["test_split"] == 0, "a resumed run keeps its own split"


def test_scores_of_training_images_are_warned_of(here, capsys):
    assert command(f"evaluate {WEIGHTS} --data_dir data/ --bootstrap 20") == 0
    last = capsys.readouterr().out.splitlines()[-3:]
    assert all(line.startswith("WARNING: ") for line in last)
    assert "trained on 6 of these 11 images" in last[0]
    assert "the 5 other images" in last[1] and "without --data_dir" in last[2]


def test_flips_that_were_not_trained_are_told_and_named_ones_are_used(here, tmp_path, capsys):
    shutil.copytree("checkpoints", tmp_path / "run")
    about = json.loads((tmp_path / "run" / "best_model.json").read_text())
    about["config"]["augment"] = {}
    (tmp_path / "run" / "best_model.json").write_text(json.dumps(about))
    line = (
        f"evaluate --model_path {tmp_path}/run/best_model.pth --data_dir data/test --bootstrap 20"
    )
    dice = {}
    for flips in ("", "--tta", "--tta hflip"):
        assert command(f"{line} {flips} --output_dir {tmp_path}/out --precision fp32") == 0
        shown = capsys.readouterr().out
        assert ("tta has no effect" in shown and "hflip,vflip" in shown) == (flips == "--tta")
        report = json.loads((tmp_path / "out" / "evaluation_report.json").read_text())
        assert report.get("tta") is not True
        dice[flips] = [row[-1] for row in report["per_image"]["data"]], report.get("tta")
    assert dice["--tta hflip"][1] == "hflip"
    scores = pd.read_csv(tmp_path / "out" / "per_image.csv")["bce"]
    assert command(f"{line} --output_dir {tmp_path}/plain --precision fp32") == 0
    assert not np.allclose(scores, pd.read_csv(tmp_path / "plain" / "per_image.csv")["bce"])
    assert "hflip,vflip" in error_of(capsys, f"{line} --tta rot90")


def test_notes_on_files_are_printed_below_their_names(here, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    array = np.random.default_rng(0).integers(0, 900, (12, 10, 4), np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 1, 1])), scans / "a.nii.gz")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "bcdef":
        Image.open(LESION).save(scans / f"{name}.jpg", exif=exif)
    (scans / "README.md").write_text("no image")
    line = f"predict {WEIGHTS} --output_dir {tmp_path}/out"
    assert command(f"{line} --image_dir {scans}") == 0
    shown = capsys.readouterr().out
    assert "nan" not in shown and "a.nii.gz: no mL, as" in shown
    assert "\n  spacing unknown" in shown
    assert shown.count("orientation 6") == 1 and "5 files, such as b.jpg: EXIF" in shown
    assert "no images: README.md" in shown
    assert command(f"{line} --image_path {scans}/b.jpg") == 0
    assert "b.jpg:\n  EXIF orientation 6" in capsys.readouterr().out
    (scans / "v.nrrd").write_bytes(b"NRRD0004\ntype: uchar\n\n")
    assert "v.nrrd: a damaged header of NRRD" in error_of(capsys, f"{line} --image_dir {scans}")
    assert "--image_dir" in error_of(capsys, f"{line} --image_path {scans}")


def test_weights_of_a_notebook_are_found_from_the_root(here, tmp_path, monkeypatch, capsys):
    shutil.copytree("checkpoints", tmp_path / "notebooks" / "runs" / "binary")
    sample = (here / LESION).absolute()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts.finding, "_homes", lambda: [tmp_path])
    for preset in ("", "--preset binary"):
        assert command(f"predict --image_path {sample} --output_dir out {preset}") == 0
        assert "notebooks/runs/binary/best_model.pth" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "notebooks")
    assert "notebooks/runs" in error_of(capsys, f"predict --image_path {sample}")


def test_weights_of_another_preset_are_refused(here, capsys):
    line = f"predict {WEIGHTS} --preset lung --image_path {LESION}"
    assert "trained as 'binary'" in error_of(capsys, line)


def test_pictures_of_one_stem_keep_apart(here, tmp_path):
    shutil.copy(LESION, tmp_path / "a.jpg")
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    assert command(f"predict {WEIGHTS} --image_dir {tmp_path} --output_dir {tmp_path}/out") == 0
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert masks == {"a_jpg_mask.png", "a_png_mask.png"}


def test_masks_of_images_are_named_and_not_predicted(here, tmp_path, capsys):
    shutil.copy(LESION, tmp_path / "a.jpg")
    (tmp_path / "notes.txt").touch()
    for name in ("a_hand.png", "a_mask.png"):
        Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / name)
    assert command(f"predict {WEIGHTS} --image_dir {tmp_path} --output_dir {tmp_path}/out") == 0
    output = capsys.readouterr().out
    assert "2 masks of these images, by their names or values" in output
    assert "a_hand.png, a_mask.png; where one is an image, give it as --image_path" in output
    assert "no images: notes.txt" in output
    assert [path.name for path in (tmp_path / "out").glob("*_mask.png")] == ["a_mask.png"]


# The commands of cardiac, as written


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Ten patients in ACDC's tree: three rings of rising brightness are the three classes."""
    folder, random = tmp_path_factory.mktemp("hearts"), np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :36]
    for number in range(1, 11):
        radius = np.hypot(rows - 18 - number % 4, columns - 18)
        rings = np.select([radius < 5, radius < 9, radius < 13], [3, 2, 1], 0)
        labels = np.repeat(rings[..., None], 3, axis=2)
        volume = labels * 200 + random.integers(0, 100, labels.shape)
        name = f"patient{number:03d}"
        patient = folder / "data" / "acdc" / name
        patient.mkdir(parents=True)
        for suffix, array in (("", volume), ("_gt", labels)):
            image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.5, 1.5, 10, 1]))
            nibabel.save(image, patient / f"{name}_frame01{suffix}.nii.gz")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "settings.cfg", folder / "notebooks")
    return folder


@pytest.fixture
def at_hearts(hearts, monkeypatch):
    """`hearts` as the current folder, and the only place where data and weights are looked for."""
    monkeypatch.chdir(hearts)
    monkeypatch.setattr(hosts.finding, "_homes", lambda: [hearts])
    return hearts


def test_commands_of_the_cardiac_system(at_hearts, capsys):
    assert command(f"train --config notebooks/settings.cfg {TINY}") == 0
    assert Path("runs/cardiac/best_model.pth").is_file()
    capsys.readouterr()
    assert command("evaluate --config notebooks/settings.cfg") == 0
    shown = capsys.readouterr().out
    assert "cardiac: test, 6 images of 2 patients" in shown
    assert {"accuracy", "iou", "dice"} <= set(shown.split())
    assert "seen_in_training: none of 6 images" in shown

    volume = nibabel.load("data/acdc/patient001/patient001_frame01.nii.gz").get_fdata()
    picture = np.clip(volume[..., 1] / 3, 0, 255).astype(np.uint8)
    write_picture(at_hearts / "P.png", picture)
    line = "synthesize --input_image P.png"
    assert command(f"{line} --output_dir D --model_path runs/cardiac/best_model.pth") == 0
    mask = read_picture("D/P_mask.png")
    assert mask.shape == (40, 36)
    assert mask.max() <= 3
    for option in ("--config notebooks/settings.cfg", ""):
        assert command(f"{line} --output_dir again {option}") == 0
        assert np.array_equal(read_picture("again/P_mask.png"), mask)


def test_a_part_that_chose_the_model_is_called_so(at_hearts, capsys):
    line = "--config notebooks/settings.cfg --work_dir no_test"
    assert command(f"train {line} {TINY} --test_split 0") == 0
    assert command(f"evaluate {line}") == 0
    assert "cardiac: validation, used for model choice," in capsys.readouterr().out


def test_the_sample_settings_are_the_full_cardiac_preset():
    sample = config.load(ROOT / "notebooks" / "settings.cfg").to_dict()
    assert sample == config.preset("cardiac", "full").to_dict()


# The other commands


def test_prepare_of_a_preset_reports_and_exports(lung_tree, tmp_path, capsys):
    line = f"prepare --preset lung --size smoke --data_dir {lung_tree} --work_dir {tmp_path}"
    assert command(f"{line} --export {tmp_path}/png") == 0
    assert "images read" in capsys.readouterr().out
    assert len(list((tmp_path / "png").glob("*/images/*.png"))) == 16


def test_phantoms(tmp_path):
    assert command(f"phantoms lung --output {tmp_path}/command --n 2 --seed 3") == 0
    phantoms.write("lung", tmp_path / "call", n=2, seed=3)
    files = sorted(path.relative_to(tmp_path / "call") for path in (tmp_path / "call").rglob("*.*"))
    assert len([path for path in files if path.suffix == ".png"]) == 6
    for path in files:
        content = (tmp_path / "command" / path).read_bytes()
        assert content == (tmp_path / "call" / path).read_bytes()


# Arguments


def training_of(monkeypatch, line, *rest):
    """The config, the run folder and `resume` with which `train` calls `fit`."""
    arguments = {}

    def fit(cfg, batches, resume=False, folder=None):
        arguments.update(cfg=cfg, folder=Path(folder), resume=resume)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    store = types.SimpleNamespace(cases=pd.DataFrame({"case": ["a"]}))
    monkeypatch.setattr("seglib.commands.parts.store_of", lambda cfg, wants_test_part: (store, cfg))
    monkeypatch.setattr("seglib.data.loaders", lambda store, cfg: {})
    assert command(f"train {line}", *rest) == 130  # as after Ctrl-C
    return arguments["cfg"], arguments["folder"], arguments["resume"]


@pytest.mark.parametrize(
    "line, field, value",
    [
        ("--image_size 256x320 --augment {}", "image_size", (256, 320)),
        ("--image_size 256,320 --augment {}", "image_size", (256, 320)),
        ("--augment robust --preset lung", "augment", tables.AUGMENTATION_SETS["xray"]),
        ("--augment ultrasound", "augment", tables.AUGMENTATION_SETS["ultrasound"]),
        ("--augment {'blur':0.1}", "augment", {"blur": 0.1}),
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
        ("--size small", "base_channels", 16),
        ("--data_root elsewhere", "data_root", "elsewhere"),
        ("--data-dir a-b", "data_root", "a-b"),
    ],
)
def test_options_mean_fields(monkeypatch, line, field, value):
    assert getattr(training_of(monkeypatch, line)[0], field) == value


def test_run_folders(monkeypatch):
    assert training_of(monkeypatch, "")[1:] == (Path("checkpoints"), False)
    assert training_of(monkeypatch, "--preset lung --resume")[1:] == (Path("runs/lung"), True)
    assert training_of(monkeypatch, "--work_dir elsewhere")[1] == Path("elsewhere/binary")
    assert training_of(monkeypatch, "--preset lung --checkpoint_dir here")[1] == Path("here")


def test_the_command_line_wins_over_the_file(monkeypatch, tmp_path):
    config.preset("palm", epochs=7, batch_size=3).save(tmp_path / "mine.toml")
    cfg = training_of(monkeypatch, "--epochs 9 --config", tmp_path / "mine.toml")[0]
    assert (cfg.preset, cfg.epochs, cfg.batch_size) == ("palm", 9, 3)


@pytest.mark.parametrize(
    "line, words",
    [
        ("trian", "invalid choice: 'trian'"),
        ("train --epoch 5", "takes no '--epoch'; did you mean '--epochs'"),
        ("train --augment robbust", "no set of augmentations; did you mean 'robust'"),
        ("train --augment {'blur':2}", "probability of 'blur' is 2"),
        ("predict --image_pth x.png", "did you mean '--image_path'"),
        ("predict x.png", "takes no 'x.png'"),
        ("predict --base_channels 4", "takes no '--base_channels'"),
        ("predict", "--image_path"),
        ("predict --image_path a.png --image_dir b", "--image_path"),
        ("train --lr fast", "lr: 'fast' is not allowed"),
        ("train --lr", "--lr"),
        ("train --preset lungs", "did you mean 'lung'"),
        ("train --preset lungs --help", "did you mean 'lung'"),
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
    monkeypatch.setattr(hosts.finding, "_homes", lambda: [tmp_path])
    message = error_of(capsys, line)
    assert words in message
    assert len(message.splitlines()) < 6


def test_an_output_that_cannot_be_written_is_one_message(here, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    line = f"predict {WEIGHTS} --image_path {LESION} --output_dir"
    assert str(tmp_path / "file") in error_of(capsys, line, tmp_path / "file" / "out")


def help_of(capsys, line):
    """The help that a command line prints, on one line."""
    with pytest.raises(SystemExit) as exit_:
        command(line)
    assert exit_.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_every_field(capsys):
    shown = help_of(capsys, "train --preset cardiac --help")
    for name, field in config.FIELDS.items():
        assert f"--{name} " in shown
        assert field.metadata["help"] in shown
    assert "(int; default 32)" in shown  # base_channels of cardiac


@pytest.mark.parametrize(
    "line", ["--preset=lung --help", "--help --preset lung", "--config mine.toml --help"]
)
def test_help_shows_the_values_of_the_preset_however_it_is_named(
    monkeypatch, tmp_path, capsys, line
):
    monkeypatch.chdir(tmp_path)
    config.preset("lung").save("mine.toml")
    shown = help_of(capsys, f"train {line}")
    assert "--preset lung --size full" in shown
    assert "(int or 2 numbers; default 512)" in shown  # image_size


def test_tables_of_the_command_line_name_fields_and_options():
    assert {*SECTIONS, *FIELD_ALIASES, *WITHOUT_VALUE} <= set(config.FIELDS)
    assert tuple(name.removeprefix("--") for name in PREDICTION) == OPTIONS


def process(*words, cwd):
    """A real process, after its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_as_a_process(tmp_path):
    line = "-m seglib phantoms binary --output tree --n 1"
    assert process(*line.split(), cwd=tmp_path).returncode == 0
    assert (tmp_path / "tree" / "images").is_dir()
    failed = process("-m", "seglib", "train", "--epoch", "5", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    message = "seglib: train takes no '--epoch'; did you mean '--epochs'?"
    assert failed.stderr == f"{message}; see python -m seglib train --help\n"


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys; from seglib.__main__ import main\n"
    code += "try: main(['train', '--help'])\n"
    code += "except SystemExit: assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    help_ = process("-c", code, cwd=tmp_path)
    assert help_.returncode == 0, help_.stderr
    assert "--epochs" in help_.stdout


def test_the_settings_that_an_error_advises_can_be_pasted(tmp_path, capsys):
    for name, colour in (("a", (0, 255, 0)), ("b", (255, 0, 0)), ("c", (255, 0, 0))):
        mask = np.zeros((40, 40, 3), np.uint8)
        mask[10:30, 10:30] = colour
        write_picture(tmp_path / f"images/{name}.png", mask // 2 + 9)
        write_picture(tmp_path / f"masks/{name}.png", mask)
    line = f"prepare --size smoke --data_dir {tmp_path} --work_dir {tmp_path / 'work'}"
    message = error_of(capsys, line)
    advised = re.search(r"on the command line: --mask_encoding '(.*?)', or --class_names", message)
    assert command(line, "--mask_encoding", advised[1]) == 0


def test_a_conversion_takes_the_task_that_its_classes_mean(tmp_path, capsys):
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:30], labels[22:30, 10:30] = 1, 2
    write_picture(tmp_path / "images/a.png", labels * 9 + 9)
    write_picture(tmp_path / "masks/a.png", labels)
    line = f"prepare --source_images {tmp_path / 'images'} --source_masks {tmp_path / 'masks'} "
    line += f"--output {tmp_path / 'own'} --task multiclass"
    assert "--class_names background,NAME" in error_of(capsys, line)
    assert command(f"{line} --class_names background,disc,cup") == 0
