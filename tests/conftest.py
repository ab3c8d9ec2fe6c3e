"""What all tests share: a clean environment, the phantom tree, and the real data where there is
some.
"""

import functools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "agg"  # before any test file imports matplotlib

from seglib import config, data, hosts, layouts, phantoms, plots, prepare, runs, training
from seglib.report import Report
from tests import helpers, predictors

REPOSITORY = Path(__file__).resolve().parents[1]
# Read once: the fixture `machine` clears the variables of seglib.
TEST_DATA = Path(os.environ.get("SEGLIB_TEST_DATA") or REPOSITORY / "../shared/data").resolve()

# The same examples in every run, so that a failure can be repeated; no deadline, because the
# machine is shared.
settings.register_profile("seglib", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("seglib")
torch.set_num_threads(1)  # networks of a few channels: threads cost more than they bring


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No variable of the caller's shell decides a test."""
    for name in ("SEGLIB_SMOKE", "SEGLIB_DATA", "SEGLIB_ZOO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGLIB_PROGRESS", "0")
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def test_data():
    """The folder of the real test data; the test is skipped where there is none."""
    if not TEST_DATA.is_dir():
        pytest.skip(f"no real data: {TEST_DATA} is missing; set SEGLIB_TEST_DATA")
    return TEST_DATA


@pytest.fixture(scope="session")
def real(test_data):
    """A function: the folder of one real set by its name, `real("montgomery")`; skips where that
    set is missing.
    """

    def folder(name):
        if not (test_data / name).is_dir():
            pytest.skip(f"no real data: {test_data / name} is missing")
        return test_data / name

    return folder


@pytest.fixture(scope="session")
def lung_tree(tmp_path_factory):
    """A Montgomery tree of 16 phantoms, read only: a test that damages files copies it
    (`shutil.copytree`) first.
    """
    return phantoms.write("lung", tmp_path_factory.mktemp("lung") / "tree", n=16, seed=0)


@pytest.fixture(scope="session")
def lung_store(lung_tree, tmp_path_factory):
    """(store, cfg) of 12 training and 4 validation phantoms of 64 x 64 pixels; read only."""
    work = tmp_path_factory.mktemp("lung_store")
    network = dict(stem="full", augment={"rotate": {"limit": 10, "p": 0.3}})
    data_and_split = dict(data_root=str(lung_tree), work_dir=str(work), test_split=0, val_split=4)
    cfg = config.preset("lung", "smoke", **network, **data_and_split)
    return prepare.build(layouts.scan(cfg), cfg), cfg


@pytest.fixture(scope="session")
def lung_run(lung_tree, tmp_path_factory):
    """(run, store) of a short training on letterboxed phantoms; 5 test images of 5 sizes.

    Read only.
    """
    work = tmp_path_factory.mktemp("work")
    cfg = config.preset(
        "lung", "smoke", data_root=str(lung_tree), work_dir=str(work), test_split=5, val_split=3
    )
    fields = dict(
        resize="letterbox",
        epochs=12,  # enough for connected lungs, whose overlap both grids agree about
        lr=1e-2,
        batch_size=2,
        precision="fp32",
        device="cpu",
        augment={},
    )
    cfg = cfg.replace(**fields)
    store = prepare.build(layouts.scan(cfg), cfg)
    return training.fit(cfg, data.loaders(store, cfg)), store


@pytest.fixture(scope="session")
def heart_store(tmp_path_factory):
    """(cfg, store): the two volumes of a patient of the cardiac phantom, in the test part.

    Read only.
    """
    work = tmp_path_factory.mktemp("hearts")
    tree = phantoms.write("cardiac", work / "tree", n=1)
    fields = {"val_split": 0.0, "test_split": 1.0, "architecture": "unet", "patch_size": None}
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tree), work_dir=str(work / "work"), **fields
    )
    return cfg, prepare.build(layouts.scan(cfg), cfg)


@pytest.fixture
def tiny(lung_store, tmp_path):
    """A function: config and loaders of a training of a second, `tiny(epochs=3)`.

    The run goes to a folder of its own, by default `tmp_path/work`.
    """
    store, cfg = lung_store

    def make(folder="work", **changes):
        fields = {
            **helpers.TINY,
            "scheduler": "none",
            "work_dir": str(tmp_path / folder),
            **changes,
        }
        tiny_cfg = cfg.replace(**fields)
        return tiny_cfg, data.loaders(store, tiny_cfg)

    return make


def _empty_file(_figure, path):
    """What `plots.save` does and returns, without drawing: reports read the file again."""
    Path(path).write_bytes(b"")
    return Path(path)


@pytest.fixture
def without_figures(monkeypatch):
    """Drawing takes half of the time of a tiny training: left out where no test looks."""
    monkeypatch.setattr(plots, "training_curves", lambda history: None)
    monkeypatch.setattr(plots, "predictions", lambda rows, **options: None)
    monkeypatch.setattr(plots, "save", _empty_file)


@pytest.fixture
def without_report_figures(monkeypatch):
    """Figures take most of the time of `Report.save`."""
    monkeypatch.setattr(Report, "figures", lambda report: iter(()))


@pytest.fixture
def lung_cfg(lung_tree, tmp_path):
    """The lung preset in its smoke size on `lung_tree`; stores and runs go to `tmp_path/work`."""
    return config.preset("lung", "smoke", data_root=str(lung_tree), work_dir=str(tmp_path / "work"))


@pytest.fixture
def stack():
    """Stored numbers (S, H, W) of 12 bits, all slices different."""
    return np.random.default_rng(0).integers(0, 4096, (5, 8, 6))


@pytest.fixture(scope="session")
def ct(real):
    """The folder of the real CT with its labels."""
    return real("totalsegmentator_ct")


@pytest.fixture
def palm(tmp_path):
    """(cfg, store, loaders) of nine images of three classes, with missing masks and a letterbox."""
    cfg = config.preset("palm", "smoke", augment={}, batch_size=2)
    store = helpers.multilabel_store(tmp_path / "store")
    return cfg, store, data.loaders(store, cfg)


@pytest.fixture
def no_warnings():
    """A warning is an error; figures are drawn and closed. For files that use `usefixtures`."""
    import matplotlib.pyplot as plt
    from matplotlib import MatplotlibDeprecationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # seaborn 0.13 with matplotlib 3.11; hidden from users by Python's own filters
        warnings.filterwarnings("ignore", category=MatplotlibDeprecationWarning, module="seaborn")
        yield
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A local machine without data: every root lies, still missing, under tmp_path/machine."""
    root = tmp_path / "machine"
    for name, folder in (
        ("KAGGLE_INPUT", "kaggle/input"),
        ("KAGGLE_WORKING", "kaggle/working"),
        ("COLAB_CONTENT", "content"),
        ("COLAB_DRIVE", "content/drive/MyDrive"),
    ):
        monkeypatch.setattr(hosts.mounts, name, root / folder)
    for name in [n for n in os.environ if n.startswith(("KAGGLE_", "COLAB_", "SEGLIB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(hosts.devices, "_working", {})
    for room, name in (
        (hosts.mounts, "_warn_without_drive"),
        (hosts.precision, "_bf16_agrees_with_fp32"),
    ):  # without what they remember
        monkeypatch.setattr(room, name, functools.cache(getattr(room, name).__wrapped__))
    package = root / "repo/seglib/hosts"
    monkeypatch.setattr(hosts.finding, "__file__", str(package / "finding.py"))
    here = root / "repo/notebooks"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return root


@pytest.fixture
def kaggle(machine, monkeypatch):
    """The folder of inputs on an imitated Kaggle."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    hosts.mounts.KAGGLE_INPUT.mkdir(parents=True)
    return hosts.mounts.KAGGLE_INPUT


@pytest.fixture
def colab(machine, monkeypatch):
    """The folder /content of an imitated Colab."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")
    hosts.mounts.COLAB_CONTENT.mkdir(parents=True)
    return hosts.mounts.COLAB_CONTENT


@pytest.fixture(name="torch")
def torch_without_gpu(monkeypatch):
    """torch on a machine without a GPU, whatever the real one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return torch


def pytest_terminal_summary(terminalreporter):
    """Say without -rs that tests on real data did not run."""
    skipped = [
        r for r in terminalreporter.stats.get("skipped", []) if "no real data" in str(r.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"NOT TESTED ON REAL DATA: {len(skipped)} tests skipped; {TEST_DATA}", yellow=True
        )


@pytest.fixture
def bright_weights(tmp_path, monkeypatch):
    """A function: the path of weights of the bright network, beside their JSON."""
    monkeypatch.setattr(runs, "network", predictors.bright)

    def save(task="binary", **overrides):
        cfg = predictors.config_of(task, **overrides)
        path = tmp_path / "weights" / "best_model.pth"
        return runs.save_weights(path, predictors.bright(cfg), cfg)

    return save
