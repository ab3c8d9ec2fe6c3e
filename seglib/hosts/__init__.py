"""Where the code runs, and what the set-up of a notebook does there. Taught in `00_start_here`.

What the machine has and holds stands in the rooms:

- `mounts`: Kaggle, Colab or local, their folders, and where runs are kept;
- `devices`, `precision`: cores, memory, the device and the arithmetic to compute with;
- `search`, `finding`: walking through folders; raw data by its layout, and weights by their name.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from .devices import (
    choose_device,
    describe_gpu,
    memory_bytes,
    n_cores,
)
from .finding import (
    Place,
    Tree,
    explain_missing,
    explain_missing_model,
    find_data,
    find_model,
    find_tree,
    wait_for_data,
    wait_for_tree,
)
from .mounts import (
    host,
    offer_drive,
    run_root,
    short,
    work_dir,
)
from .precision import choose_precision, cpu_bf16, in_hardware
from .search import PHANTOM

__all__ = [
    "FIGURE_DPI",
    "FIGURE_WIDTH",
    "HOSTS_LACK",
    "PACKAGES",
    "PHANTOM",
    "Place",
    "Tree",
    "choose_device",
    "choose_precision",
    "cpu_bf16",
    "describe",
    "explain_missing",
    "explain_missing_model",
    "find_data",
    "find_model",
    "find_tree",
    "host",
    "in_hardware",
    "in_notebook",
    "install_missing",
    "memory_bytes",
    "n_cores",
    "offer_drive",
    "progress",
    "run_root",
    "set_figure_size",
    "setup",
    "wait_for_data",
    "wait_for_tree",
    "work_dir",
]

# Figures of the notebooks: inches, and pixels an inch. `plots` uses them, and `setup` sets them for
# the figures that a notebook draws itself.
FIGURE_WIDTH, FIGURE_DPI = 9, 120
PACKAGES = (
    "accelerate",
    "albumentations",
    "matplotlib",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
)
# Packages that Kaggle or Colab may lack: import name -> what pip installs. Their own torch and
# numpy stay as they are.
HOSTS_LACK = {
    "albumentations": "albumentations<=2.0.8",
    "accelerate": "accelerate",
    "anywidget": "anywidget",
    "cv2": "opencv-python-headless",
    "highdicom": "highdicom",
    "nibabel": "nibabel",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "SimpleITK": "SimpleITK",
    "pydicom": "pydicom",
    "pylibjpeg": "pylibjpeg",
    "openjpeg": "pylibjpeg-openjpeg",
    "roifile": "roifile",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "tifffile": "tifffile",
}


def in_notebook() -> bool:
    """True in a Jupyter kernel (also Kaggle, Colab, nbmake), False in scripts and terminals."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # By the names of all base classes, because Colab's shell is a subclass.
    return any(base.__name__ == "ZMQInteractiveShell" for base in type(shell).__mro__)


def progress(iterable: Iterable | None = None, **options: Any) -> Any:
    """A tqdm bar over `iterable`, as a widget where the notebook can show one.

    `SEGLIB_PROGRESS=0` in the environment turns it off.
    """
    from tqdm import tqdm as bar

    if in_notebook():
        # Without ipywidgets tqdm.auto raises or warns; then the text bar stays.
        with contextlib.suppress(ImportError):
            import ipywidgets  # noqa: F401
            from tqdm.auto import tqdm as bar
    if os.environ.get("SEGLIB_PROGRESS") == "0":
        options["disable"] = True
    return bar(iterable, **options)


def setup() -> None:
    """Prepare the host for a notebook; the set-up cell of every notebook calls it.

    Installs the packages that Kaggle or Colab lack (`install_missing`), switches IPython's
    `autoreload` on, so that an edit of the package works without a restart of the kernel, sets the
    size of figures (`set_figure_size`), and on Colab offers to mount Drive (`offer_drive`). May be
    called again; outside of IPython nothing is reloaded. Taught in `00_start_here`.
    """
    install_missing()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        # Not by the magic %load_ext, which prints a line where it is loaded already.
        shell.extension_manager.load_extension("autoreload")
        shell.run_line_magic("autoreload", "2")
        set_figure_size()
    offer_drive()


def set_figure_size() -> None:
    """Give figures that a notebook draws itself the width and resolution of those of `plots`, and a
    layout that leaves no broad margins.
    """
    import matplotlib

    size = (FIGURE_WIDTH, 0.45 * FIGURE_WIDTH)
    sizes = {"figure.figsize": size, "figure.dpi": FIGURE_DPI, "figure.autolayout": True}
    matplotlib.rcParams.update(sizes)


def install_missing() -> None:
    """Install the packages of `HOSTS_LACK` that are missing.

    Where pip fails, a line is printed and nothing is raised, because most cells need only some of
    the packages.
    """
    missing = [name for name in HOSTS_LACK if importlib.util.find_spec(name) is None]
    if not missing:
        return
    packages = [HOSTS_LACK[name] for name in missing]
    if subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages]).returncode:
        print(
            "Not installed:",
            *packages,
            "- some cells will need them: switch the internet on and run this one again",
        )
    importlib.invalidate_caches()


def describe() -> dict[str, Any]:
    """What results depend on besides code and data: name -> str, int, float or None."""
    facts = {
        "host": host(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "seglib": getattr(sys.modules.get("seglib"), "__version__", None),
        "cores": n_cores(),
    }
    facts |= dict.fromkeys(["threads", "memory_gb", "device", "gpu", *PACKAGES])
    memory = memory_bytes()
    facts["memory_gb"] = memory and round(memory / 2**30, 1)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    try:
        import torch

        facts["torch"] = str(torch.__version__)
        facts["threads"] = torch.get_num_threads()
        facts["device"] = choose_device()
        facts["gpu"] = describe_gpu() if facts["device"] == "cuda" else None
    # The table has to show a broken installation of torch, not to fail because of it.
    except Exception as error:
        facts["device"] = f"unknown ({short(error)})"
    return facts
