"""The set-up cell, and the way from data to a mask, on imitated hosts: Kaggle, Colab, servers.

Every host is a folder with its mounts, and a real kernel (or a plain script) started in it that
sees neither this repository nor the network. The files `test_hosts*` test the steps one by one.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from seglib import hosts
from tests.sources import MODULES, ROOT, imports

FIRST = ROOT / "notebooks" / "00_start_here.ipynb"
# What Colab and Kaggle both bring, by their published package lists of 2026.
BROUGHT = set(
    "PIL accelerate albumentations cv2 google huggingface_hub IPython ipywidgets matplotlib nibabel"
    " numpy pandas safetensors scipy seaborn skimage sklearn timm torch torchvision tqdm traitlets"
    " yaml".split()
)

OFFLINE = f"""
import os, socket, sys

sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if os.path.realpath(path or ".") != {str(ROOT)!r}]

def refuse(*args, **kwargs):
    raise OSError(101, "Network is unreachable")

def connect_locally(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse()

connect = socket.socket.connect
socket.getaddrinfo, socket.socket.connect = refuse, connect_locally
"""
ROOTS = ("KAGGLE_INPUT", "KAGGLE_WORKING", "COLAB_CONTENT", "COLAB_DRIVE")
PATH = "from pathlib import Path"
FAILING_GPU = """
import types, torch
name = "Tesla P100-PCIE-16GB"
properties = types.SimpleNamespace(name=name, major=6, minor=0, total_memory=2**34)
torch.cuda.is_available, torch.cuda.current_device = lambda: True, lambda: 0
torch.cuda.get_device_properties = lambda *args: properties
# Else torch's optimisers would ask the driver.
torch.accelerator.current_accelerator = lambda *args, **kwargs: None
kernel = hosts.devices._kernel

def no_kernel_image(device):
    if device == "cuda":
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
    kernel(device)

hosts.devices._kernel = no_kernel_image
torch.cuda.get_rng_state_all = lambda: no_kernel_image("cuda")
"""
WAY = """
import json
import torch
torch.set_num_threads(1)
from seglib import config, data, inference, layouts, phantoms, plots, prepare, training

hosts.offer_drive()  # again, now that the imitated mounts are known
cfg = config.preset("lung", local=hosts.host() == "local", epochs=1, num_workers="auto")
real = phantoms.data_or_phantoms(cfg, n=8)
cases = layouts.scan(cfg)
store = prepare.build(cases, cfg)
plots.store_samples(store, "train", n=2)
batches = data.loaders(store, cfg)
run = training.fit(cfg, batches)
mask = inference.Predictor.load(run.best).predict_file(cases["image"].iloc[0]).mask
plots.training_curves(run.history)
facts = {"host": hosts.host(), "seglib": hosts.__file__, "real": real, "data": cfg.data_root}
facts |= {"runs": str(run.folder.parent), "mask": mask.shape, "cores": hosts.n_cores()}
facts |= {"device": run.info["device"], "workers": run.info["workers"]}
print(json.dumps(facts))
"""

# The part of the way that needs no torch.
LOOK = """
import json
from seglib import config

cfg = config.preset("lung", local=hosts.host() == "local")
facts = {"host": hosts.host(), "seglib": hosts.__file__, "runs": hosts.run_root(cfg)}
facts["data"] = str(hosts.find_data(cfg))
print(json.dumps(facts))
"""


def setup_cell(address=""):
    """The set-up cell of the notebooks after `make address`, or as it is before."""
    write = runpy.run_path(str(ROOT / ".ci" / "address.py"))["notebook"]
    text = write(FIRST.read_text(encoding="utf-8"), address, FIRST.stem)
    return "".join(json.loads(text)["cells"][2]["source"])


class Host:
    """A machine below `root`; notebooks start in the folder `here`."""

    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch, self.before, self.after = root, monkeypatch, OFFLINE, ""
        self.tools, self.calls = root / "tools", root / "calls"
        self.tools.mkdir(parents=True)
        prefixes = ("KAGGLE_", "COLAB_", "SEGLIB_", "JUPYTER_", "PYTHON", "MPL")
        for name in list(os.environ):
            if name.startswith(prefixes) or name in ("DISPLAY", "WAYLAND_DISPLAY"):
                monkeypatch.delenv(name)
        self.env(SEGLIB_SMOKE="1", PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(self.tools))
        self.env(HOME=str(self.folder("home")))
        self.env(PATH=f"{self.tools}{os.pathsep}{os.environ['PATH']}")
        # No network: pip and git end as they do there, and their calls are kept.
        note = f"import sys\nopen({str(self.calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        note += "sys.exit(1)\n"
        (self.folder("tools/pip") / "__init__.py").touch()
        (self.tools / "pip" / "__main__.py").write_text(note)
        (self.tools / "git").write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\nexit 128\n')
        (self.tools / "git").chmod(0o755)
        self.here = self.folder("here")

    def env(self, **variables):
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def folder(self, name):
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def origin(self):
        """A bare copy of this repository to clone from; the real git replaces the fake one."""
        (self.tools / "git").unlink()
        bare = self.root / "origin.git"
        subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(bare)], check=True)
        return bare

    def package(self, name):
        """A copy of the repository's package, as a data set or a clone holds it."""
        return shutil.copytree(
            ROOT / "seglib",
            self.root / name / "seglib",
            ignore=shutil.ignore_patterns("__pycache__"),
        )

    def notebook(self, *cells, address=""):
        """Run the set-up cell and others in a kernel; returns what the last one printed."""
        setup = setup_cell(address)
        assert '"/kaggle/input"' in setup
        setup = setup.replace('"/kaggle/input"', repr(str(self.root / "kaggle" / "input")))
        paths = {name: str(getattr(hosts.mounts, name)).lstrip("/") for name in ROOTS}
        places = {name: str(self.root / path) for name, path in paths.items()}
        roots = [f"hosts.mounts.{name} = Path({path!r})" for name, path in places.items()]
        sources = [self.before, setup, "\n".join([PATH, *roots, self.after]), *cells]
        self.ran = nbformat.v4.new_notebook()
        self.ran.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        where = {"metadata": {"path": str(self.here)}}
        NotebookClient(self.ran, timeout=120, resources=where).execute()
        return self.said(-1)

    def said(self, cell, name="stdout"):
        return "".join(o.text for o in self.ran.cells[cell].outputs if o.get("name") == name)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path / "machine", monkeypatch)


def facts(said):
    return json.loads(said.strip().splitlines()[-1])


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "mount, cell",
    [("", LOOK), ("datasets/someone/", WAY), ("datasets/someone/zip/", LOOK)],
    ids=["old mounts", "new mounts", "a zip file in the new mounts"],
)
def test_kaggle_without_internet(host, lung_tree, mount, cell):
    """An attached copy of the package and attached data are found in both layouts of the mounts.

    The input stays as it is, and the GPU is one that Kaggle's torch has dropped.
    """
    inputs = host.folder("kaggle/input")
    host.package(f"kaggle/input/{mount}seglib-copy")
    shutil.copytree(
        lung_tree, inputs / f"{mount}lungs/archive", ignore=shutil.ignore_patterns(hosts.PHANTOM)
    )
    for path in (inputs, *inputs.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = listing(inputs)
    host.env(KAGGLE_KERNEL_RUN_TYPE="Interactive")
    host.here, host.after = host.folder("kaggle/working"), FAILING_GPU
    result = facts(host.notebook(cell))
    assert result["host"] == "kaggle" and result["seglib"].startswith(
        str(inputs / f"{mount}seglib-copy")
    )
    assert result["data"] == str(inputs / f"{mount}lungs/archive")
    assert result["runs"] == str(host.root / "kaggle/working/runs")
    if cell == WAY:
        assert result["real"] and (Path(result["runs"]) / "lung/best_model.pth").is_file()
        assert (result["device"], result["workers"]) == ("cpu", 0)
        assert "choose T4 x2 in the accelerator menu" in host.said(-1, "stderr")
    assert listing(inputs) == before and not host.calls.exists()


def test_a_host_with_nothing_says_what_to_do(host):
    """No address is known: nothing is cloned, and the message names the three ways out."""
    host.env(KAGGLE_KERNEL_RUN_TYPE="Interactive")
    with pytest.raises(CellExecutionError) as stopped:
        host.notebook()
    message = str(stopped.value)
    assert "No seglib at '': set SEGLIB_REPO, switch the internet on or attach it" in message
    assert not host.calls.exists()


def test_an_address_that_does_not_answer_is_named(host):
    with pytest.raises(CellExecutionError, match="No seglib at 'https://github.com/me/fork'"):
        host.notebook(address="https://github.com/me/fork")
    assert "clone --depth=1 https://github.com/me/fork" in host.calls.read_text()


@pytest.mark.parametrize("by_variable", [False, True], ids=["make address", "SEGLIB_REPO"])
def test_the_address_is_cloned(host, by_variable):
    """A host with nothing but the notebook; the environment variable comes before the address."""
    bare = host.origin()
    if by_variable:
        host.env(SEGLIB_REPO=str(bare))
    place = host.notebook(
        "print(hosts.__file__)", address="https://nobody.example/x" if by_variable else str(bare)
    )
    assert (host.here / "seglib-clone/seglib/hosts/__init__.py").samefile(place.strip())


@pytest.mark.parametrize("drive, cell", [(True, LOOK), (False, WAY)], ids=["drive", "no drive"])
def test_colab(host, drive, cell):
    """The repository is cloned; pip is asked for what Colab lacks, and lungs work without it."""
    bare = host.origin()
    host.env(COLAB_RELEASE_TAG="release-colab-external_2026", SEGLIB_DRIVE="0")
    host.here = host.folder("content")
    host.before += "sys.modules['pydicom'] = sys.modules['segmentation_models_pytorch'] = None\n"
    host.after = (
        "wait = hosts.wait_for_data\nhosts.wait_for_data = lambda cfg, timeout=0: wait(cfg, 0.1)\n"
    )
    if drive:
        host.folder("content/drive/MyDrive")
    result = facts(host.notebook(cell, address=str(bare)))
    assert result["host"] == "colab" and result["seglib"].startswith(
        str(host.here / "seglib-clone")
    )
    assert result["runs"] == str(host.here / ("drive/MyDrive/seglib/runs" if drive else "runs"))
    assert ("a disconnect loses them" in host.said(-1)) == (not drive)
    if cell == WAY:
        assert not result["real"] and "PHANTOMS" in host.said(-1)
        assert (Path(result["runs"]) / "lung/best_model.pth").is_file()
    lacking = "pydicom segmentation-models-pytorch"
    assert host.calls.read_text() == f"install -q {lacking}\n"
    assert f"Not installed: {lacking}" in host.said(1)


def test_a_server_with_hardly_anything(host):
    """No home to write to, no display, no ipywidgets, 64 cores, a GPU that fails."""
    host.package("repository")
    host.here = host.folder("repository/notebooks")
    host.env(HOME="/dev/null")
    host.before += "sys.modules['ipywidgets'] = None\n"
    host.after = FAILING_GPU + "hosts.n_cores = lambda: 64\n"
    result = facts(host.notebook(WAY))
    assert result["host"] == "local" and result["seglib"].startswith(str(host.root / "repository"))
    assert result["runs"] == "runs" and (host.here / "runs/lung/best_model.pth").is_file()
    assert (result["device"], result["workers"], result["cores"]) == ("cpu", 8, 64)
    assert "lung: 100%" in host.said(-1, "stderr")  # tqdm's bar of text
    assert any("image/png" in output.get("data", {}) for output in host.ran.cells[-1].outputs)
    assert not host.calls.exists()


def test_a_script_on_two_cores_without_a_display(host):
    """No notebook, so no inline figures: matplotlib has to find a backend that needs no screen."""
    host.package("repository")
    host.env(HOME="/dev/null", PYTHONPATH=str(host.root / "repository"))
    prelude = f"{OFFLINE}\nfrom seglib import hosts\nhosts.n_cores = lambda: 2\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + WAY], cwd=host.here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = facts(done.stdout)
    assert result["seglib"].startswith(str(host.root / "repository")) and (
        result["cores"],
        result["workers"],
    ) == (2, 0)
    assert (host.here / "runs/lung/training_history.png").is_file()


def test_the_set_up_cell_brings_what_hosts_lack():
    others = {name for path in MODULES.values() for name in imports(path)[1]}
    for path in FIRST.parent.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        others |= set(re.findall(r"^(?:import|from) (\w+)", code, re.M)) - {"seglib"}
    lacking = others - set(sys.stdlib_module_names) - BROUGHT
    assert lacking <= set(hosts.HOSTS_LACK)
    # Older images of both hosts lacked these.
    assert {"albumentations", "accelerate", "cv2"} <= set(hosts.HOSTS_LACK)
