"""Hosts are imitated by folders; no test needs Kaggle, Colab, a GPU or the network."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell

from seglib import config, hosts, tables
from seglib.errors import ConfigError, DataError

REPOSITORY = Path(__file__).resolve().parents[1]


def settings(preset="lung", data_root=None, **changes):
    """The config of a hosted notebook: data is waited for, runs go where they survive."""
    return config.preset(preset, "smoke", data_root=data_root, local=False, **changes)


def plant(root, *files):
    """Write empty-looking files below `root`; returns it."""
    for file in files:
        path = Path(root, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return Path(root)


def montgomery(root):
    return plant(
        root, "MontgomerySet/CXR_png/MCUCXR_0001_0.png", "MontgomerySet/ManualMask/leftMask/a.png"
    )


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A local machine without data: every root lies, still missing, under tmp_path/machine."""
    root = tmp_path / "machine"
    for name, folder in (
        ("KAGGLE_INPUT", "kaggle/input"),
        ("KAGGLE_WORKING", "kaggle/working"),
        ("COLAB_CONTENT", "content"),
        ("COLAB_DRIVE", "content/drive/MyDrive"),
    ):
        monkeypatch.setattr(hosts, name, root / folder)
    for name in [n for n in os.environ if n.startswith(("KAGGLE_", "COLAB_", "SEGLIB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(hosts, "_probed", {})
    monkeypatch.setattr(hosts, "__file__", str(root / "repo/seglib/hosts.py"))
    here = root / "repo/notebooks"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return root


@pytest.fixture
def kaggle(machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    hosts.KAGGLE_INPUT.mkdir(parents=True)
    return hosts.KAGGLE_INPUT


@pytest.fixture
def colab(machine, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")
    hosts.COLAB_CONTENT.mkdir(parents=True)
    return hosts.COLAB_CONTENT


# Which host


def test_host_local(machine):
    assert hosts.host() == "local"


def test_host_kaggle_by_variable_and_by_folder(machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_URL_BASE", "https://www.kaggle.com")
    assert hosts.host() == "kaggle"
    monkeypatch.delenv("KAGGLE_URL_BASE")
    hosts.KAGGLE_INPUT.mkdir(parents=True)
    assert hosts.host() == "kaggle"


def test_host_colab_even_with_a_kaggle_mount(colab, monkeypatch):
    assert hosts.host() == "colab"
    hosts.KAGGLE_INPUT.mkdir(parents=True)
    assert hosts.host() == "colab"
    # Kaggle's image is built on Colab's and may keep its variables.
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert hosts.host() == "kaggle"


def test_in_notebook(monkeypatch):
    assert not hosts.in_notebook()

    class ZMQInteractiveShell:
        pass

    class Shell(ZMQInteractiveShell):
        """Colab's."""

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=Shell))
    assert hosts.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not hosts.in_notebook()


# Finding data


@pytest.mark.parametrize(
    "mount", ["montgomery", "datasets/someone/montgomery", "datasets/someone/m/archive/v1"]
)
def test_kaggle_layouts(kaggle, mount):
    plant(kaggle / "datasets/another/weights", "best_model.pth")
    tree = montgomery(kaggle / mount)
    assert hosts.find_data(settings()) == tree


def test_colab_content_and_drive(colab):
    montgomery(hosts.COLAB_DRIVE / "medical/lungs")
    assert hosts.find_data(settings()) == hosts.COLAB_DRIVE / "medical/lungs"
    tree = montgomery(colab / "unpacked")
    assert hosts.find_data(settings()) == tree


def test_colab_without_drive(colab):
    assert hosts.find_data(settings()) is None
    assert f"{hosts.COLAB_DRIVE} (3 levels): does not exist" in hosts.explain_missing(settings())


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


def test_hidden_and_macosx_folders_are_not_searched(tmp_path):
    montgomery(tmp_path / "set/__MACOSX")
    montgomery(tmp_path / "set/.trash")
    assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) is None


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


# Awkward disks


def test_symlink_loop_ends(tmp_path):
    root = tmp_path / "set"
    (root / "a/b").mkdir(parents=True)
    try:
        (root / "a/b/loop").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    assert len(list(hosts._walk(root, 50, False))) == 3
    tree = montgomery(tmp_path / "elsewhere")
    (root / "link").symlink_to(tree, target_is_directory=True)
    assert hosts.find_data(settings(data_root=str(root))) == root / "link"


def test_unreadable_folder_is_skipped(tmp_path, monkeypatch):
    tree = montgomery(tmp_path / "set/b")
    locked = montgomery(tmp_path / "set/a")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).is_relative_to(locked):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) == tree
    assert hosts._contents(locked, 3) == "empty, or not readable"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_folder_without_permission_is_skipped(tmp_path):
    tree = montgomery(tmp_path / "set/b")
    locked = montgomery(tmp_path / "set/a")
    locked.chmod(0)
    try:
        assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) == tree
    finally:
        locked.chmod(0o700)


def test_folders_of_very_many_entries_are_not_descended(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "MAX_SUBFOLDERS", 3)
    monkeypatch.setattr(hosts, "MAX_ENTRIES", 6)
    cases = tmp_path / "set/cases"
    for i in range(3):
        montgomery(cases / f"{i}")
    assert hosts.find_data(settings(data_root=str(tmp_path))) == cases / "0"
    montgomery(cases / "3")
    assert hosts.find_data(settings(data_root=str(tmp_path))) is None
    files = plant(tmp_path / "set/files", *[f"{i}.png" for i in range(6)])
    montgomery(files / "0")
    assert hosts.find_data(settings(data_root=str(files))) is None


def test_number_of_folders_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "MAX_FOLDERS", 4)
    for i in range(9):
        (tmp_path / f"set/{i}").mkdir(parents=True)
    assert [path.name for path in hosts._walk(tmp_path / "set", 3, False)] == ["set", "0", "1", "2"]


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


# Models, and where runs go


def test_find_model_newest_wins(kaggle):
    paths = [
        hosts.KAGGLE_WORKING / "runs/lung/best_model.pth",
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
    drive = plant(hosts.COLAB_DRIVE / "seglib/runs/palm", "final.pth") / "final.pth"
    assert hosts.find_model("final.pth") == drive


def test_find_model_by_a_pattern_of_windows(machine, monkeypatch):
    path = plant(machine / "repo/runs/lung", "best_model.pth") / "best_model.pth"
    monkeypatch.setattr(os, "sep", "\\")
    assert hosts.find_model(r"lung*\best_model.pth") == path


def test_work_dir(machine, monkeypatch, capsys):
    assert hosts.work_dir() == "runs" and hosts.work_dir("elsewhere") == "elsewhere"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert hosts.work_dir() == str(hosts.KAGGLE_WORKING / "runs")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert not capsys.readouterr().out
    assert hosts.work_dir() == hosts.work_dir() == str(hosts.COLAB_CONTENT / "runs")
    assert capsys.readouterr().out.count("a disconnect loses them") == 1
    hosts.COLAB_DRIVE.mkdir(parents=True)
    assert hosts.work_dir() == str(hosts.COLAB_DRIVE / "seglib/runs") == hosts.run_root(settings())
    assert hosts.run_root(settings().replace(local=True)) == "runs"
    assert not capsys.readouterr().out


def test_setup_installs_reloads_and_offers_drive(monkeypatch, capsys):
    """Called twice: an extension that is loaded already says nothing, `autoreload` is on."""
    shell = InteractiveShell()
    calls = []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(hosts, "install_missing", lambda: calls.append("install"))
    monkeypatch.setattr(hosts, "offer_drive", lambda: calls.append("drive"))
    with matplotlib.rc_context():
        for _ in range(2):
            hosts.setup()
        settings = dict(matplotlib.rcParams)
    width = settings["figure.figsize"][0] * settings["figure.dpi"]
    assert width >= 1000 and settings["figure.autolayout"]
    assert calls == ["install", "drive"] * 2
    reloader = shell.magics_manager.registry["AutoreloadMagics"]._reloader
    assert reloader.enabled and reloader.check_all
    assert not capsys.readouterr().out


def test_setup_in_a_script(monkeypatch):
    """Without IPython, and with IPython imported but no shell running."""
    monkeypatch.setattr(hosts, "install_missing", lambda: None)
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    hosts.setup()
    monkeypatch.delitem(sys.modules, "IPython")
    hosts.setup()


def fake_drive(monkeypatch, mount):
    drive = types.SimpleNamespace(mount=mount)
    google = types.SimpleNamespace(colab=types.SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)


def test_offer_drive(colab, monkeypatch, capsys):
    mounted = []

    def mount(folder):
        mounted.append(folder)
        hosts.COLAB_DRIVE.mkdir(parents=True)

    fake_drive(monkeypatch, mount)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert not hosts.offer_drive() and not mounted
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    monkeypatch.setenv("SEGLIB_DRIVE", "0")
    assert not hosts.offer_drive() and not mounted
    monkeypatch.setenv("SEGLIB_DRIVE", "1")
    assert hosts.offer_drive() and mounted == [str(hosts.COLAB_DRIVE.parent)]
    assert hosts.offer_drive() and len(mounted) == 1  # mounted already
    assert not capsys.readouterr().out


def test_offer_drive_says_why_not(colab, monkeypatch, capsys):
    def nobody(question):
        raise EOFError

    def broken(folder):
        raise ValueError("mount failed\nmore")

    fake_drive(monkeypatch, broken)
    monkeypatch.setattr("builtins.input", nobody)
    assert not hosts.offer_drive()
    assert "EOFError" in capsys.readouterr().out
    monkeypatch.setenv("SEGLIB_DRIVE", "1")
    assert not hosts.offer_drive()
    assert "ValueError: mount failed." in capsys.readouterr().out


def test_offer_drive_elsewhere_is_silent(kaggle, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    hosts.COLAB_DRIVE.mkdir(parents=True)
    assert not hosts.offer_drive()
    assert not capsys.readouterr().out


# Device and precision


@pytest.fixture
def torch(monkeypatch):
    """torch on a machine without a GPU, whatever the real one has."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return torch


def gpu(monkeypatch, torch, name="Tesla T4", capability=(7, 5)):
    """A CUDA device that torch sees; its kernels fail unless `_kernel` is replaced too."""
    properties = types.SimpleNamespace(
        name=name, major=capability[0], minor=capability[1], total_memory=16 * 2**30
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *a: properties)


def no_kernel_image(device):
    if device != "cpu":
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCompile with"
        )


def test_cpu_runs_the_kernel(torch):
    hosts._kernel("cpu")
    assert hosts.choose_device() == "cpu" == hosts.choose_device("cpu")


def test_device_that_works(torch, monkeypatch):
    gpu(monkeypatch, torch)
    monkeypatch.setattr(hosts, "_kernel", lambda device: None)
    assert hosts.choose_device() == "cuda" == hosts.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hosts.choose_device() == "cuda"  # remembered
    assert hosts.choose_device(again=True) == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hosts.choose_device(again=True) == "mps"


def test_p100_on_kaggle_falls_back(torch, kaggle, monkeypatch):
    gpu(monkeypatch, torch, "Tesla P100-PCIE-16GB", (6, 0))
    monkeypatch.setattr(hosts, "_kernel", no_kernel_image)
    with pytest.warns(
        UserWarning, match=r"P100-PCIE-16GB, compute capability 6\.0.*no kernel image.*T4 x2"
    ):
        assert hosts.choose_device() == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hosts.choose_device() == "cpu"  # said once


def test_explicit_device_that_does_not_work(torch, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"device='cuda': torch \S+ finds no such device; set device='auto'"
    ):
        hosts.choose_device("cuda")
    gpu(monkeypatch, torch)
    monkeypatch.setattr(hosts, "_kernel", no_kernel_image)
    with pytest.raises(
        ConfigError, match=r"Tesla T4, compute capability 7\.5, 16\.0 GB is there, but a small"
    ):
        hosts.choose_device("cuda")
    with pytest.raises(ConfigError, match="'gpu' is unknown; choose 'auto'"):
        hosts.choose_device("gpu")


def test_wrong_arithmetic_is_a_failure(torch, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda image, weight, padding: image)
    with pytest.raises(RuntimeError, match="gave 2.0, expected 73"):
        hosts._kernel("cpu")


@pytest.mark.parametrize(
    "capability, precision",
    [
        ((6, 0), "fp16"),
        ((7, 0), "fp16"),
        ((7, 5), "fp16"),
        ((8, 0), "bf16"),
        ((8, 9), "bf16"),
        ((9, 0), "bf16"),
    ],
)
def test_precision_by_capability(torch, monkeypatch, capability, precision):
    gpu(monkeypatch, torch, capability=capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: True)
    assert hosts.choose_precision("cuda") == precision


class LikeTorch(types.SimpleNamespace):
    """`torch.cpu` of a version of torch that lists these features, or has no such list."""

    def __init__(self, **features):
        super().__init__()
        if features:
            self.get_capabilities = lambda: {"architecture": "x86_64", "cores": 2, **features}


@pytest.mark.parametrize(
    "features, precision",
    [
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"amx_tile": True, "amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"neon": True, "bf16": False, "sve_bf16": False}, "fp32"),
    ],
)
def test_cpu_precision_by_its_instructions(torch, monkeypatch, features, precision):
    monkeypatch.setattr(torch, "cpu", LikeTorch(**features))
    monkeypatch.setattr(hosts, "_bf16_agrees_with_fp32", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert hosts.choose_precision("cpu") == precision
    assert hosts.choose_precision("mps") == "fp32"


@pytest.mark.parametrize(
    "line, precision",
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 wbnoinvd", "bf16"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "fp32"),
        ("Features\t: fp asimd i8mm bf16 dgh", "bf16"),
        ("Features\t: fp asimd crc32", "fp32"),
        ("bugs\t\t: bf16", "fp32"),
        (None, "fp32"),
    ],
)
def test_cpu_precision_with_a_torch_that_lists_no_features(
    torch, monkeypatch, tmp_path, line, precision
):
    """Linux lists them itself; elsewhere nothing does, and fp32 is right everywhere."""
    monkeypatch.setattr(torch, "cpu", LikeTorch())
    monkeypatch.setattr(hosts, "CPU_INFO", tmp_path / "cpuinfo")
    if line:
        hosts.CPU_INFO.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(hosts, "_bf16_agrees_with_fp32", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert hosts.choose_precision("cpu") == precision


def test_cpu_without_onednn_computes_in_fp32(torch, monkeypatch):
    """Such as torch for macOS: its own bf16 kernels do not use the processor's instructions."""
    monkeypatch.setattr(torch, "cpu", LikeTorch(bf16=True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert hosts.choose_precision("cpu") == "fp32"


def bf16_cpu(torch, monkeypatch):
    """A CPU with the instructions, whatever the real one has; its kernels are the real ones."""
    monkeypatch.setattr(torch, "cpu", LikeTorch(avx512_bf16=True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def test_bf16_kernels_that_agree_are_used(torch, monkeypatch):
    """Also inside `inference_mode`, and without touching torch's random numbers."""
    bf16_cpu(torch, monkeypatch)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.inference_mode():
        assert hosts.choose_precision("cpu") == "bf16"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kernel", ["plain", "dilated", "depthwise"])
def test_bf16_kernels_with_wrong_results_are_not_used(torch, monkeypatch, kernel):
    """As torch had them for dilated and grouped convolutions."""
    convolve = torch.nn.functional.conv2d

    def wrong(image, weight, **options):
        output = convolve(image, weight, **options)
        of_this_kind = {"dilated": "dilation" in options, "depthwise": "groups" in options}
        of_this_kind["plain"] = not any(of_this_kind.values())
        return (
            output * 1.05 if torch.is_autocast_enabled("cpu") and of_this_kind[kernel] else output
        )

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    assert hosts.choose_precision("cpu") == "fp32"


def test_bf16_kernels_with_wrong_gradients_are_not_used(torch, monkeypatch):
    grad, factors = torch.autograd.grad, itertools.cycle([1, float("nan")])  # fp32, then bf16

    def wrong(output, inputs):
        factor = next(factors)
        return [gradient * factor for gradient in grad(output, inputs)]

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch.autograd, "grad", wrong)
    assert hosts.choose_precision("cpu") == "fp32"


def test_bf16_kernels_that_do_not_run_are_not_used(torch, monkeypatch):
    autocast = torch.autocast

    def refuse(device, dtype, enabled):
        if enabled:
            raise RuntimeError("mkldnn_bf16 path needs the cpu support avx512")
        return autocast(device, dtype=dtype, enabled=False)

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch, "autocast", refuse)
    assert hosts.choose_precision("cpu") == "fp32"


def test_the_clock_does_not_choose_the_precision(torch, monkeypatch):
    """Under any load the same machine chooses alike, so nothing may look at a clock."""
    for name in ("time", "perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, lambda name=name: pytest.fail(f"looked at {name}"))
    assert hosts.choose_precision("cpu") == hosts.choose_precision("cpu")


@pytest.mark.parametrize(
    "device, has_bf16, stored, precision",
    [
        ("cpu", True, "fp32", "fp32"),
        ("cpu", True, "bf16", "bf16"),
        ("cpu", False, "fp32", "fp32"),
        ("cuda", True, "fp32", "fp32"),
        ("cuda", True, "fp16", "fp16"),
        ("cuda", False, "fp16", "fp16"),
        ("mps", False, "fp32", "fp32"),
        ("cpu", True, None, "bf16"),
        ("cpu", False, None, "fp32"),
        ("cuda", False, None, "fp16"),
    ],
)
def test_stored_precision_is_used_again(torch, monkeypatch, device, has_bf16, stored, precision):
    gpu(monkeypatch, torch, capability=(8, 0) if has_bf16 else (7, 5))
    monkeypatch.setattr(hosts, "cpu_bf16", lambda: has_bf16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hosts.choose_precision(device, "auto", stored) == precision


@pytest.mark.parametrize(
    "device, has_bf16, stored, precision",
    [
        ("cpu", False, "bf16", "fp32"),
        ("cpu", True, "fp16", "bf16"),
        ("cuda", False, "bf16", "fp16"),
        ("mps", False, "bf16", "fp32"),
    ],
)
def test_stored_precision_that_the_device_lacks(
    torch, monkeypatch, device, has_bf16, stored, precision
):
    gpu(monkeypatch, torch, capability=(8, 0) if has_bf16 else (7, 5))
    monkeypatch.setattr(hosts, "cpu_bf16", lambda: has_bf16)
    words = f"trained in {stored}, which this {device} .* computes in {precision} here, and masks"
    with pytest.warns(UserWarning, match=words):
        assert hosts.choose_precision(device, "auto", stored) == precision
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the user asks for needs no advice
        assert hosts.choose_precision(device, "fp32", stored) == "fp32"


def test_explicit_precision_is_honoured(torch, monkeypatch):
    gpu(monkeypatch, torch)
    for device, names in (
        ("cuda", ("fp32", "fp16")),
        ("cpu", ("fp32", "bf16")),
        ("mps", ("fp32",)),
    ):
        assert [hosts.choose_precision(device, name) for name in names] == list(names)
    assert hosts.choose_precision(torch.device("cuda:1"), "fp16") == "fp16"
    with pytest.warns(UserWarning, match="Tesla T4, compute capability 7.5, 16.0 GB emulates it"):
        assert hosts.choose_precision("cuda", "bf16") == "bf16"


@pytest.mark.parametrize(
    "device, precision, able",
    [
        ("cpu", "fp16", "fp32 or bf16"),
        ("mps", "fp16", "fp32"),
        ("mps", "bf16", "fp32"),
        ("cuda", "int8", "fp32 or bf16 or fp16"),
    ],
)
def test_impossible_precision(device, precision, able):
    with pytest.raises(ConfigError, match=f"'{precision}': {device} takes 'auto' or {able}; set"):
        hosts.choose_precision(device, precision)


# The rest


def test_describe(torch, monkeypatch):
    table = hosts.describe()
    assert (
        table["host"] == "local"
        and table["device"] == "cpu"
        and table["torch"] == torch.__version__
    )
    assert table["cores"] >= 1 and table["threads"] >= 1
    assert all(value is None or type(value) in (str, int, float) for value in table.values())
    json.dumps(table)


def test_describe_survives_missing_and_broken_packages(monkeypatch):
    def missing(name):
        raise hosts.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(hosts.importlib.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "torch", None)
    table = hosts.describe()
    assert table["numpy"] is None and table["torch"] is None
    assert "ModuleNotFoundError" in table["device"]


@pytest.mark.parametrize(
    "quota, cores", [("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), (None, 8)]
)
def test_n_cores(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(hosts, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert hosts.n_cores() == cores


@pytest.mark.parametrize(
    "limit, expected", [("4000", 4000), ("9" * 19, 2**20), ("max", 2**20), (None, 2**20)]
)
def test_the_memory_is_at_most_the_containers(tmp_path, monkeypatch, limit, expected):
    sizes = {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**8}
    monkeypatch.setattr(os, "sysconf", sizes.get, raising=False)
    monkeypatch.setattr(hosts, "MEMORY_LIMIT", tmp_path / "memory.max")
    if limit:
        (tmp_path / "memory.max").write_text(limit + "\n")
    assert hosts.memory_bytes() == expected


def test_progress_without_ipywidgets(monkeypatch, capsys):
    import tqdm

    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bar = hosts.progress(range(3), desc="epoch")
    assert type(bar) is tqdm.tqdm and list(bar) == [0, 1, 2]
    assert "epoch: 100%" in capsys.readouterr().err


def test_progress_can_be_turned_off(monkeypatch, capsys):
    monkeypatch.setenv("SEGLIB_PROGRESS", "0")
    with hosts.progress(total=2) as bar:
        bar.update(2)
    assert list(hosts.progress([1])) == [1]
    assert not capsys.readouterr().err


def test_import_is_light():
    heavy = ("torch", "numpy", "tqdm")
    code = f"import seglib.hosts, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
