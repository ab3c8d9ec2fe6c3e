"""Finding data and weights on every host, waiting for them, and the messages without them."""

import os
import threading
import time

import pytest

from seglib import hosts, tables
from seglib.errors import ConfigError, DataError
from tests.machines import montgomery, plant, settings

pytestmark = pytest.mark.usefixtures("machine")


# Finding data


@pytest.mark.parametrize(
    "mount", ["montgomery", "datasets/someone/montgomery", "datasets/someone/m/archive/v1"]
)
def test_kaggle_layouts(kaggle, mount):
    plant(kaggle / "datasets/another/weights", "best_model.pth")
    tree = montgomery(kaggle / mount)
    assert hosts.find_data(settings()) == tree


def test_colab_content_and_drive(colab):
    montgomery(hosts.mounts.COLAB_DRIVE / "medical/lungs")
    assert hosts.find_data(settings()) == hosts.mounts.COLAB_DRIVE / "medical/lungs"
    tree = montgomery(colab / "unpacked")
    assert hosts.find_data(settings()) == tree


def test_colab_without_drive(colab):
    assert hosts.find_data(settings()) is None
    assert f"{hosts.mounts.COLAB_DRIVE} (3 levels): does not exist" in hosts.explain_missing(
        settings()
    )


def test_local_data_folder_seen_from_notebooks(machine, monkeypatch):
    tree = montgomery(machine / "repo/data/lung")
    assert hosts.find_data(settings()) == tree
    monkeypatch.chdir(machine.parent)
    assert hosts.find_data(settings()) == tree  # by the place of the package


def test_environment_variable_comes_before_data(machine, monkeypatch):
    montgomery(machine / "repo/data/lung")
    tree = montgomery(machine / "disk/sets/montgomery")
    monkeypatch.setenv("SEGLIB_DATA", str(machine / "disk"))
    assert hosts.find_data(settings()) == tree


@pytest.mark.parametrize("levels", [0, 1, 2, 3, 4])
def test_data_root_up_to_three_levels_above(tmp_path, levels):
    tree = montgomery(tmp_path / "w/x/y/z")
    # z is the tree; its parents hold it at the given depth.
    root = [tree, *tree.parents][levels]
    assert hosts.find_data(settings(data_root=str(root))) == (tree if levels < 4 else None)


def test_data_root_is_the_only_place(tmp_path, machine, monkeypatch):
    montgomery(machine / "repo/data")
    monkeypatch.setenv("SEGLIB_DATA", str(machine / "repo/data"))
    (tmp_path / "empty").mkdir()
    assert hosts.find_data(settings(data_root=str(tmp_path / "empty"))) is None
    assert hosts.find_data(settings(data_root=str(tmp_path / "nowhere"))) is None


def test_relative_data_root_gives_an_absolute_path(machine):
    montgomery(machine / "repo/notebooks/here")
    found = hosts.find_data(settings(data_root="here"))
    assert found.is_absolute() and found.samefile("here")


@pytest.mark.parametrize(
    "preset, files, tree",
    [
        ("lung", ["MontgomerySet/CXR_png/a.png"], "."),
        ("lung", ["only/CXR_png/a.png", "only/ManualMask/leftMask/a.png"], "only"),
        ("lung", ["img/CHNCXR_0001_0.png", "mask/CHNCXR_0001_0_mask.png"], "."),
        (
            "lung",
            ["Lung Segmentation/CXR_png/MCU.png", "Lung Segmentation/masks/MCU.png"],
            "Lung Segmentation",
        ),
        ("lung", ["images/a.png", "leftMask/a.png", "rightMask/a.png"], "."),
        ("lung", ["images/a.png", "masks/a.png"], "."),
        ("palm", ["x/patient001/patient001_frame01_gt.nii.gz"], "x"),
        ("lung", ["x/s1/ct.nii.gz", "x/s1/segmentations/liver.nii.gz"], "x"),
        ("rsna", ["x/a_ct.nii.gz", "x/a_seg.nii.gz", "y/b_ct.nii.gz", "y/b_seg.nii.gz"], "."),
        ("cardiac", ["x/imagesTr/a_0000.nii.gz", "x/labelsTr/a.nii.gz"], "x"),
        ("palm", ["PALM/Training/Images/P1.jpg", "PALM/Training/Disc Masks/P1.bmp"], "."),
        ("palm", ["x/Training/Images/P1.jpg", "x/Training/Lesion Masks/Atrophy/P1.bmp"], "x"),
        ("palm", ["PALM/Training/Images/P1.jpg"], None),
        ("rsna", ["train_images/1/2/3.dcm", "segmentations/2.nii"], "."),
        ("rsna", ["png/images/1_2_3.png", "png/labels/1_2_3.png"], "png"),
        ("cardiac", ["patient001/patient001_frame01_gt.nii.gz"], "."),
        ("cardiac", ["acdc/training/patient001/patient001_frame01_gt.nii.gz"], "acdc"),
        ("cardiac", ["testing/patient101/patient101_frame01.nii.gz"], None),
        ("cardiac", ["train/images/a.png", "train/masks/a.png"], "."),
        ("binary", ["images/a.jpg", "masks/a.png"], "."),
        ("binary", ["train/a.jpg", "train_masks/a_mask.gif"], "."),
        (
            "binary",
            ["ISIC2018_Task1_Input/a.jpg", "ISIC2018_Task1_GroundTruth/a_segmentation.png"],
            ".",
        ),
        ("binary", ["images/.DS_Store", "masks/.DS_Store"], None),
    ],
)
def test_markers(tmp_path, preset, files, tree):
    root = plant(tmp_path / "set", *files)
    assert hosts.find_data(settings(preset, str(root))) == (root / tree if tree else None)


def test_shallowest_then_first_by_name(tmp_path):
    root = tmp_path / "sets"
    for name in ("c", "b", "a/deep"):
        montgomery(root / name)
    assert hosts.find_data(settings(data_root=str(root))) == root / "b"


def test_a_layout_may_be_named(tmp_path):
    root = plant(tmp_path / "set", "images/a.png", "masks/a.png", "deep/train/a.jpg")
    plant(root, "deep/train_masks/a_mask.gif")
    assert hosts.find_data(settings("binary", str(root))) == root
    assert hosts.find_data(settings("binary", str(root), layout="carvana")) == root / "deep"
    assert hosts.find_data(settings("lung", str(root), layout="chest")) is None
    with pytest.raises(ConfigError, match="layout: 'carvanna' is not allowed.*'carvana'"):
        settings("binary", str(root), layout="carvanna")


def test_layouts_of_the_preset_come_first_and_others_count_in_data_root_only(machine, monkeypatch):
    data = plant(machine / "repo/data", "a/images/a.png", "a/masks/a.png")
    assert hosts.find_data(settings()) is None, "a neighbour's tree is not that of the lung preset"
    monkeypatch.setenv("SEGLIB_DATA", str(data))
    assert hosts.find_data(settings()) is None
    assert hosts.find_data(settings(data_root=str(data))) == data / "a"
    tree = montgomery(data / "deep/er")
    assert hosts.find_data(settings(data_root=str(data))) == tree
    # Shared markers count after those that tell a layout alone, and in data_root only.
    assert hosts.find_data(settings("rsna")) is None
    assert hosts.find_data(settings("rsna", str(data / "a"))) == data / "a"
    plant(data / "b", "images/1_1.png", "labels/1_1.png")
    assert hosts.find_data(settings("rsna", str(data))) == data / "b"


def test_a_layout_added_at_run_time_is_found(tmp_path, monkeypatch):
    root = plant(tmp_path / "set", "x/slides/a.png")
    assert hosts.find_data(settings(data_root=str(root))) is None
    monkeypatch.setitem(tables.LAYOUTS, "slides", tables.Layout(None, (("slides",),)))
    assert hosts.find_data(settings(data_root=str(root))) == root / "x"
    monkeypatch.setenv("SEGLIB_DATA", str(root))
    assert hosts.find_data(settings(layout="slides")) == root / "x"


# Synthetic trees


def test_phantoms_are_ignored_unless_named(machine, monkeypatch):
    tree = plant(montgomery(machine / "repo/data/phantoms/lung"), "PHANTOM.txt")
    assert hosts.find_data(settings()) is None
    assert "phantoms/lung/ (synthetic)" in hosts.explain_missing(settings())
    assert hosts.find_data(settings(data_root=str(tree))) == tree
    assert hosts.find_data(settings(data_root=str(tree.parents[1]))) == tree
    monkeypatch.setenv("SEGLIB_DATA", str(tree.parent))
    assert hosts.find_data(settings()) == tree


def test_real_data_wins_over_phantoms_beside_it(tmp_path):
    plant(montgomery(tmp_path / "sets/a"), "PHANTOM.txt")
    real = montgomery(tmp_path / "sets/b/deep")
    assert hosts.find_data(settings(data_root=str(tmp_path / "sets"))) == real


def test_a_phantom_is_no_part_of_a_real_tree(machine):
    plant(machine / "repo/data/train", "images/a.png", "masks/a.png", "PHANTOM.txt")
    assert hosts.find_data(settings("binary")) is None


# Missing and waiting


def test_explain_missing_names_what_is_mounted(kaggle):
    plant(kaggle / "datasets/someone/other-set/archive", "a.csv")
    plant(kaggle, *[f"set{i:02d}/a.csv" for i in range(30)])
    text = hosts.explain_missing(settings())
    assert "MontgomerySet/CXR_png, or CXR_png + ManualMask" in text and "Add Input" in text
    listed = next(line for line in text.splitlines() if str(kaggle) in line)
    assert "datasets/, set00/" in listed and listed.endswith("...") and listed.count(", ") == 20


def test_explain_missing_looks_into_the_new_layout(kaggle):
    plant(kaggle / "datasets/someone/other-set", "a.csv")
    assert "datasets/someone/other-set/" in hosts.explain_missing(settings())


def test_explain_missing_for_a_file_and_for_nothing(tmp_path):
    archive = plant(tmp_path, "montgomery.zip") / "montgomery.zip"
    assert "is a file, not a folder" in hosts.explain_missing(settings(data_root=str(archive)))
    assert "montgomery.zip" in hosts.explain_missing(settings(data_root=str(tmp_path)))
    text = hosts.explain_missing(settings(data_root=str(tmp_path / "nowhere")))
    assert "nowhere (3 levels): does not exist" in text and "SEGLIB_DATA" in text


def test_wait_gives_up_in_time_and_says_so_once(kaggle, capsys):
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"(?s)lung: no data found.*Waited 0\.2 s"):
        hosts.wait_for_data(settings(), timeout=0.2, every=0.05)
    assert 0.2 <= time.monotonic() - begin < 2
    assert capsys.readouterr().out.count("waiting") == 1


def test_wait_zero_is_one_look(kaggle, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("slept"))
    with pytest.raises(DataError):
        hosts.wait_for_data(settings(), timeout=0)
    tree = montgomery(kaggle / "m")
    assert hosts.wait_for_data(settings(), timeout=0) == tree
    assert not capsys.readouterr().out


def test_wait_looks_a_bounded_number_of_times(kaggle, monkeypatch):
    clock, naps = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds):
        naps.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(DataError):
        hosts.wait_for_data(settings(), timeout=5, every=2)
    assert naps == [2, 2, 1]


def test_wait_finds_data_that_appears(kaggle):
    timer = threading.Timer(0.15, montgomery, [kaggle / "datasets/someone/late"])
    timer.start()
    try:
        assert (
            hosts.wait_for_data(settings(), timeout=5, every=0.05)
            == kaggle / "datasets/someone/late"
        )
    finally:
        timer.join()


# Models


def test_find_model_newest_wins(kaggle):
    paths = [
        hosts.mounts.KAGGLE_WORKING / "runs/lung/best_model.pth",
        kaggle / "old-model/best_model.pth",
        kaggle / "datasets/me/model/lung/v1/best_model.pth",
    ]
    for age, path in enumerate(paths):
        plant(path.parent, path.name)
        os.utime(path, (1e9 - age, 1e9 - age))
    assert hosts.find_model("best_model.pth") == paths[0]
    os.utime(paths[2], (2e9, 2e9))
    assert hosts.find_model("best_model.pth") == paths[2]
    assert hosts.find_model("lung/best_*.pth") == paths[0]
    assert hosts.find_model("other.pth") is None


def test_find_model_looks_where_notebooks_write_and_says_where(machine, monkeypatch):
    monkeypatch.chdir(machine / "repo")
    text = hosts.explain_missing_model("best*.pth")
    for folder in (
        "repo/runs",
        "repo/checkpoints",
        "repo/checkpoints_folds",
        "repo/notebooks/runs",
    ):
        assert str(machine / folder) in text
    weights = plant(machine / "repo/notebooks/runs/lung", "best_model.pth") / "best_model.pth"
    assert hosts.find_model("best*.pth") == weights
    text = hosts.explain_missing_model("x.pth", machine / "elsewhere")
    assert text == f"no weights x.pth found; looked in {machine / 'elsewhere'}"


def test_find_model_in_local_runs_given_roots_and_drive(machine, colab):
    local = plant(machine / "repo/runs/lung", "best_model.pth") / "best_model.pth"
    assert hosts.find_model("*.pth") == local
    assert hosts.find_model(str(local)) == local
    assert hosts.find_model("*.pth", roots=[colab]) is None
    assert hosts.find_model("*.pth", roots=machine) == local
    drive = plant(hosts.mounts.COLAB_DRIVE / "seglib/runs/palm", "final.pth") / "final.pth"
    assert hosts.find_model("final.pth") == drive


def test_find_model_by_a_pattern_of_windows(machine, monkeypatch):
    path = plant(machine / "repo/runs/lung", "best_model.pth") / "best_model.pth"
    monkeypatch.setattr(os, "sep", "\\")
    assert hosts.find_model(r"lung*\best_model.pth") == path
