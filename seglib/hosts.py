"""Where the code runs and what it finds there: host, data, weights, device, precision.

Data is found by the files and folders that mark its layout, because Kaggle has moved its mounts
before. Devices and precisions are tried, because a GPU that is "available" may fail to run
anything. Taught in `00_start_here`.
"""

import contextlib
import fnmatch
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import presets, tables
from .errors import ConfigError, DataError

KAGGLE_INPUT, KAGGLE_WORKING = Path("/kaggle/input"), Path("/kaggle/working")
COLAB_CONTENT, COLAB_DRIVE = Path("/content"), Path("/content/drive/MyDrive")
# What a container may use, in Linux.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPU_INFO = Path("/proc/cpuinfo")
# The names that torch and Linux give to the instructions of CPUs that multiply in bf16.
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "svebf16"}
PHANTOM = "PHANTOM.txt"  # marks a synthetic tree, see `phantoms.write`
MAX_FOLDERS = 5000  # how many folders are searched below one root
MAX_SUBFOLDERS = 2000  # more subfolders than this must be cases: they are not searched
MAX_ENTRIES = 10_000  # how many entries of one folder are read, files included
# Figures of the notebooks: inches, and pixels an inch. `plots` uses them, and `setup` sets them for
# the figures that a notebook draws itself.
FIGURE_WIDTH, FIGURE_DPI = 9, 120
DEVICES = ("cuda", "mps", "cpu")  # in the order in which "auto" tries them
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
# Answers of this process to questions that take time, or need to be put only once.
_probed: dict[Any, Any] = {}


class Tree(NamedTuple):
    """A folder of raw data, and the names in `tables.LAYOUTS` of the layouts that it may have."""

    folder: Path
    layouts: tuple[str, ...]


class Place(NamedTuple):
    """A folder that is searched down to `depth` levels; `named` says that the user set it."""

    folder: Path
    depth: int
    named: bool = False


# ---- where the code runs


def host() -> str:
    """Name the machine: "kaggle", "colab" or "local"."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") or os.environ.get("KAGGLE_URL_BASE"):
        return "kaggle"
    # Asked before the folder /kaggle/input, which kagglehub makes on Colab too.
    if os.environ.get("COLAB_RELEASE_TAG") or "google.colab" in sys.modules:
        return "colab"
    return "kaggle" if KAGGLE_INPUT.is_dir() else "local"


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
        "seglib": getattr(sys.modules.get(__package__), "__version__", None),
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
        facts["gpu"] = _describe_gpu() if facts["device"] == "cuda" else None
    # The table has to show a broken installation of torch, not to fail because of it.
    except Exception as error:
        facts["device"] = f"unknown ({_short(error)})"
    return facts


# ---- raw data


def find_data(cfg: Any) -> Path | None:
    """The folder of a config's raw data, found by the markers of its layouts; None without one.

    If `cfg.data_root` is set, only that place is searched. Else, in this order: the environment
    variable `SEGLIB_DATA`; `data/` in the current folder, in the two above it and in the
    repository; Kaggle's inputs; Colab's /content and Drive. The tree is such a place or lies up to
    three levels below it (five on Kaggle). The shallowest wins, then the first by name. Synthetic
    trees count only in `cfg.data_root` and `SEGLIB_DATA`, and only where no real one lies there.

    `cfg.layout` names a layout of `tables.LAYOUTS`. With "auto" the usual layouts of the preset are
    looked for, and then, only in `cfg.data_root`, all others. Taught in `00_start_here`.
    """
    tree = find_tree(cfg)
    return tree and tree.folder


def find_tree(cfg: Any) -> Tree | None:
    """As `find_data`, but returns a `Tree`: the folder and the layouts that it may have.

    A layout that the config names, or that is usual for its preset, is the only one. Otherwise all
    layouts whose markers fit are returned.
    """
    preferred = _preferred(cfg)
    for names, kinds in _searches(cfg):
        for folder, depth, named in _data_places(cfg):
            for phantoms in (False, True) if named else (False,):
                tree = _search(folder, depth, names, kinds, phantoms)
                if tree and tree.layouts[0] in preferred:
                    return tree._replace(layouts=tree.layouts[:1])
                if tree:
                    return tree
    return None


def wait_for_data(cfg: Any, timeout: float = 120, every: float = 2.0) -> Path:
    """`find_data` for data that is mounted late: tries again every few seconds.

    Args:
        timeout: seconds to wait; 0: look only once.
        every: seconds between two tries.

    Raises:
        DataError: the time is over; the text is that of `explain_missing`.
    """
    return wait_for_tree(cfg, timeout, every).folder


def wait_for_tree(cfg: Any, timeout: float = 120, every: float = 2.0) -> Tree:
    """As `wait_for_data`, but returns a `Tree`."""
    deadline = time.monotonic() + timeout
    announced = False
    while (tree := find_tree(cfg)) is None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DataError(f"{explain_missing(cfg)} Waited {timeout:g} s.")
        if not announced:
            print(
                f"{cfg.preset}: no data yet; waiting up to {timeout:g} s for it to be mounted",
                flush=True,
            )
            announced = True
        time.sleep(min(max(every, 0.05), remaining))
    return tree


def explain_missing(cfg: Any) -> str:
    """Text for a `DataError`: what the config needs, where `find_data` looks, and what is there."""
    names = _preferred(cfg)
    kinds = ("markers", "shared_markers") if cfg.data_root else ("markers",)
    markers = [group for name in names for group in _markers(name, kinds)]
    alternatives = dict.fromkeys(" + ".join(group) for group in markers)
    lines = [
        f"{cfg.preset}: no data found. Expected a folder that holds {', or '.join(alternatives)}. "
        "Looked in:"
    ]
    lines += [
        f"  {folder.absolute()} ({depth} levels): {_contents(folder, depth)}"
        for folder, depth, _ in _data_places(cfg)
    ]
    if cfg.data_root and cfg.layout == "auto":
        others = ", ".join(name for name in tables.LAYOUTS if name not in names)
        lines.append(f"No other layout fits either ({others}).")
    advice = {
        "kaggle": "Attach the data set (Add Input, right of the notebook), or set cfg.data_root.",
        "colab": "Unpack the data below /content, mount Drive (hosts.offer_drive()), or set "
        "cfg.data_root.",
        "local": "Set cfg.data_root (--data_dir) or the environment variable SEGLIB_DATA to the "
        "tree or a folder above.",
    }[host()]
    lines.append(f"{advice} data/README.md says where the data comes from.")
    lines.append(
        "Pictures in another form, such as images and masks in one folder: python -m seglib "
        "prepare --source_images DIR --source_masks DIR --output DIR brings them into images + "
        "masks."
    )
    return "\n".join(lines)


# ---- runs and weights


def find_model(name: str, roots: Any = None) -> Path | None:
    """The newest weights file of this name or pattern; None without one.

    Args:
        name: such as "best_model.pth" or "lung*/*.pth". The path of an existing file, with its
            folder, is returned at once.
        roots: a folder or several, searched six levels deep. By default runs/, checkpoints/,
            checkpoints_folds/ and notebooks/runs/ (where `find_data` looks for data/), Kaggle's
            working and input folders, and Drive (three levels).
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute()
    pattern = str(name).replace(os.sep, "/")
    candidates = []
    for root, depth, _ in _model_places(roots):
        for folder in _walk(root, depth, phantoms=True):
            matches = _matches(folder, pattern, phantoms=True)
            candidates += [path for path in matches if os.path.isfile(path)]
    newest = max(candidates, key=os.path.getmtime, default=None)
    return newest and newest.absolute()


def explain_missing_model(name: str, roots: Any = None) -> str:
    """Text for a `DataError`: which weights `find_model` did not find, and where it looked."""
    folders = dict.fromkeys(str(place.folder.absolute()) for place in _model_places(roots))
    return f"no weights {name} found; looked in {', '.join(folders)}"


def work_dir(default: str = "runs") -> str:
    """The folder where runs outlive the session: Kaggle's output, Colab's Drive if it is mounted.

    On other machines it is `default`.
    """
    if host() == "local":
        return os.fspath(default)
    if host() == "kaggle":
        return os.path.join(KAGGLE_WORKING, default)
    if COLAB_DRIVE.is_dir():
        return os.path.join(COLAB_DRIVE / "seglib", default)
    folder = os.path.join(COLAB_CONTENT, default)
    if "no drive" not in _probed:  # several steps ask for the folder; one warning is enough
        print(f"Drive is not mounted: runs go to {folder}, and a disconnect loses them.")
    _probed["no drive"] = True
    return folder


def run_root(cfg: Any) -> str:
    """Folder of stores and runs: `cfg.work_dir`, or that of `work_dir` if `cfg.local` is False."""
    return cfg.work_dir if cfg.local else work_dir(cfg.work_dir)


def offer_drive() -> bool:
    """On Colab, offer to mount Google Drive; True if it is mounted then, always False elsewhere.

    `SEGLIB_DRIVE=1` or `0` answers without a question. A failure is printed, not raised.
    """
    if host() != "colab":
        return False
    if COLAB_DRIVE.is_dir():
        return True
    try:
        answer = os.environ.get("SEGLIB_DRIVE") or input(
            "Mount Google Drive, to keep the runs? [y/n] "
        )
        if answer.strip().lower() in ("1", "y", "yes"):
            from google.colab import drive

            drive.mount(str(COLAB_DRIVE.parent))
    # Colab, and IPython where nobody can answer the question, raise error classes of their own.
    except Exception as error:
        print(
            f"Drive is not mounted: {_short(error)}. "
            "SEGLIB_DRIVE=1 or 0 answers without a question."
        )
    return COLAB_DRIVE.is_dir()


# ---- cores, memory, device, precision


def memory_bytes() -> int | None:
    """The main memory of this machine, or its container's limit where that is lower.

    None where the system does not tell it, as on Windows.
    """
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # Without a limit there is no such file, or it says "max".
    with contextlib.suppress(OSError, ValueError):
        sizes.append(int(MEMORY_LIMIT.read_text()))
    return min(sizes, default=None)


def n_cores() -> int:
    """CPU cores of this process: its affinity, or its container's quota where that is lower."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    # Without a quota there is no such file, or it says "max".
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def choose_device(cfg_device: str = "auto", again: bool = False) -> str:
    """The first of "cuda", "mps", "cpu" that runs a tiny convolution.

    The answer is remembered until `again=True`. A GPU that exists but fails is skipped with a
    warning.

    Raises:
        ConfigError: an unknown name, or a device that was asked for by name and does not work.
    """
    if cfg_device not in ("auto", *DEVICES):
        raise ConfigError(
            f"device={cfg_device!r} is unknown; choose 'auto', 'cuda', 'mps' or 'cpu'"
        )
    key = ("device", cfg_device)
    if key in _probed and not again:
        return _probed[key]
    for name in DEVICES if cfg_device == "auto" else (cfg_device,):
        exists, problem = _try(name)
        if not problem:
            _probed[key] = name
            return name
        if cfg_device != "auto":
            raise ConfigError(
                f"device={name!r}: {problem}; set device='auto' to use what works here"
            )
        if exists:
            warnings.warn(f"{name}: {problem}; going on without it", stacklevel=2)
    raise ConfigError(
        "device='auto': not even the CPU runs a small convolution; install torch again"
    )


def choose_precision(device: Any, cfg_precision: str = "auto", stored: str | None = None) -> str:
    """The arithmetic for a device ("cuda", "mps", "cpu"): "fp32", "bf16" or "fp16".

    "auto" is a rule on the hardware, never a timing, so that the same machine always chooses alike:
    on CUDA bf16 from compute capability 8.0, else fp16; on MPS fp32; on a CPU bf16 where `cpu_bf16`
    is true, else fp32.

    Args:
        stored: the precision that a network was trained in. "auto" takes it where the device
            computes in it without emulation; elsewhere a warning says what is taken instead.

    Raises:
        ConfigError: an unknown precision, or one that the device cannot do.
    """
    kind = str(device).split(":")[0]
    possible = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}.get(kind, ("fp32",))
    if cfg_precision not in ("auto", *possible):
        raise ConfigError(
            f"precision={cfg_precision!r}: {kind} takes 'auto' or {' or '.join(possible)}; "
            "set one of them"
        )
    if cfg_precision == "bf16" and kind == "cuda" and not in_hardware("cuda", "bf16"):
        warnings.warn(
            f"precision='bf16': {_describe_gpu()} emulates it, slowly; 'fp16' is faster",
            stacklevel=2,
        )
    if cfg_precision != "auto":
        return cfg_precision
    if stored in possible and in_hardware(kind, stored):
        return stored
    without_bf16 = "fp16" if kind == "cuda" else "fp32"
    chosen = "bf16" if in_hardware(kind, "bf16") else without_bf16
    if stored and stored != chosen:
        warnings.warn(
            f"the network was trained in {stored}, which this {kind} does not compute in hardware: "
            f"it computes in {chosen} here, and masks may differ in single pixels",
            stacklevel=2,
        )
    return chosen


def in_hardware(kind: str, precision: str) -> bool:
    """Whether a kind of device ("cuda", "mps", "cpu") computes in this precision without emulation.

    torch computes in bf16 on every CPU and every GPU, but where the instructions are missing it
    converts each number, which is many times slower than fp32.
    """
    if precision == "fp32":
        return True
    if kind == "cuda":
        import torch

        # torch.cuda.is_bf16_supported() is True on a T4 too, where bf16 is emulated.
        return precision == "fp16" or torch.cuda.get_device_capability()[0] >= 8
    return kind == "cpu" and precision == "bf16" and cpu_bf16()


def cpu_bf16() -> bool:
    """Whether this CPU has bf16 instructions that torch uses, and that compute correctly.

    The instructions are AVX512-BF16 and AMX-BF16 of x86 and the bf16 extensions of Arm. torch uses
    them by oneDNN only, which its builds for macOS lack. The answer is remembered.
    """
    import torch

    if "bf16" not in _probed:
        has_instructions = bool(BF16_INSTRUCTIONS & _cpu_features())
        _probed["bf16"] = (
            has_instructions and torch.backends.mkldnn.is_available() and _bf16_agrees_with_fp32()
        )
    return _probed["bf16"]


def _cpu_features() -> set[str]:
    """The names of this CPU's extensions; empty where neither torch nor the system lists them."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        with contextlib.suppress(RuntimeError):
            return {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    # Before torch had such a list: one function for x86, and Linux's own list of x86 and Arm.
    features = set()
    if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        features.add("avx512_bf16")
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                features |= set(line.partition(":")[2].split())
    return features


def _bf16_agrees_with_fp32() -> bool:
    """Whether convolutions on the CPU, and their gradients, are the same in bf16 as in fp32.

    Dilated and depthwise convolutions have kernels of their own, which were wrong in some versions
    of torch (pytorch#163347, #169688).
    """
    import torch

    generator = torch.Generator().manual_seed(0)  # torch's own random numbers stay as they are
    channels = 32
    for options in ({"padding": 1}, {"padding": 2, "dilation": 2}, {"padding": 1, "groups": 32}):
        with torch.inference_mode(False):
            image = torch.randn(2, channels, 16, 16, generator=generator, requires_grad=True)
            depth = channels // options.get("groups", 1)
            weight = torch.randn(channels, depth, 3, 3, generator=generator, requires_grad=True)
        try:
            expected = _convolution_and_gradients(image, weight, options, bf16=False)
            results = _convolution_and_gradients(image, weight, options, bf16=True)
        except RuntimeError:  # no such kernel
            return False
        for result, reference in zip(results, expected):
            # bf16 has 8 significant bits: each factor and each result is off by 0.4 % at most.
            if not torch.dist(result, reference) <= 0.01 * torch.linalg.vector_norm(reference):
                return False
    return True


def _convolution_and_gradients(image, weight, options: dict[str, int], bf16: bool) -> list:
    """The output of a convolution, and the gradients of image and weight, float32."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            output = torch.nn.functional.conv2d(image, weight, **options)
        gradients = torch.autograd.grad(output.float().square().sum(), [image, weight])
    return [output.detach().float(), *gradients]


def _describe_gpu() -> str:
    """Name, compute capability and memory of the current GPU."""
    import torch

    try:
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    except (RuntimeError, AssertionError):
        return "a GPU that does not answer"
    gigabytes = gpu.total_memory / 2**30
    return f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gigabytes:.1f} GB"


def _kernel(device: str) -> None:
    """Run a convolution and an addition on a device, and check the result.

    Reading it back waits for the device, which reports errors only later otherwise.

    Raises:
        RuntimeError: they do not run, or the result is wrong.
    """
    import torch

    image = torch.ones(1, 8, 16, 16, device=device)
    weight = torch.ones(8, 8, 3, 3, device=device)
    result = torch.nn.functional.conv2d(image, weight, padding=1) + image
    value = result[0, 0, 8, 8].item()
    if value != 73:
        raise RuntimeError(f"a convolution gave {value}, expected 73")


def _try(name: str) -> tuple[bool, str | None]:
    """Whether there is such a device, and the problem with it, or None where it works."""
    import torch

    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in available and not available[name]():
        return False, f"torch {torch.__version__} finds no such device"
    try:
        _kernel(name)
    except (RuntimeError, AssertionError) as error:
        device = _describe_gpu() if name == "cuda" else name
        problem = f"{device} is there, but a small convolution failed ({_short(error)})"
        if host() == "kaggle" and "capability 6.0" in problem:
            problem += "; choose T4 x2 in the accelerator menu, Kaggle's torch has dropped the P100"
        return True, problem
    return True, None


# ---- searching folders


def _preferred(cfg: Any) -> tuple[str, ...]:
    """The layout that the config names, or those that are usual for its preset."""
    return presets.PRESETS[cfg.preset].layouts if cfg.layout == "auto" else (cfg.layout,)


def _searches(cfg: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The searches in their order, each by names of layouts and the kinds of markers that count."""
    preferred = _preferred(cfg)
    if not cfg.data_root:
        return [(preferred, ("markers",))]
    searches = [(preferred, ("markers",)), (preferred, ("shared_markers", "nested_markers"))]
    if cfg.layout == "auto":
        others = tuple(name for name in tables.LAYOUTS if name not in preferred)
        searches.append((others, ("markers", "shared_markers")))
    return searches


def _markers(name: str, kinds: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The alternative sets of markers of a layout, of the kinds that count."""
    return [names for kind in kinds for names in getattr(tables.LAYOUTS[name], kind)]


def _search(
    root: Path, depth: int, names: tuple[str, ...], kinds: tuple[str, ...], phantoms: bool
) -> Tree | None:
    """The shallowest folder from `root` down that fits one of the layouts, with all that fit."""
    for folder in _walk(root, depth, phantoms):
        fitting = [name for name in names if _has_layout(folder, name, kinds, phantoms)]
        if fitting:
            return Tree(folder.absolute(), tuple(fitting))
    return None


def _has_layout(folder: Path, name: str, kinds: tuple[str, ...], phantoms: bool) -> bool:
    """Whether a folder holds every marker of at least one alternative."""
    return any(
        all(_holds(folder, marker, phantoms) for marker in markers)
        for markers in _markers(name, kinds)
    )


def _homes() -> list[Path]:
    """The current folder, two above it (notebooks run in notebooks/), and the repository."""
    here = Path.cwd()
    return list(dict.fromkeys([here, *list(here.parents)[:2], Path(__file__).resolve().parents[1]]))


def _data_places(cfg: Any) -> list[Place]:
    """The places where raw data is looked for, in their order."""
    user_folder = cfg.data_root or os.environ.get("SEGLIB_DATA")
    places = []
    if user_folder:
        places.append(Place(Path(user_folder).expanduser(), 5 if host() == "kaggle" else 3, True))
    if cfg.data_root:
        return places
    places += [Place(home / "data", 3) for home in _homes()]
    for name, mount in (
        ("kaggle", Place(KAGGLE_INPUT, 5)),
        ("colab", Place(COLAB_CONTENT, 3)),
        ("colab", Place(COLAB_DRIVE, 3)),
    ):
        if mount.folder.is_dir() or host() == name:
            places.append(mount)
    return places


def _model_places(roots: Any) -> list[Place]:
    """The places where weights are looked for."""
    if roots is not None:
        folders = [roots] if isinstance(roots, str | Path) else roots
        return [Place(Path(folder).expanduser(), 6) for folder in folders]
    folders = ("runs", "checkpoints", "checkpoints_folds", "notebooks/runs")
    places = [Place(home / folder, 6) for home in _homes() for folder in folders]
    places += [Place(KAGGLE_WORKING, 6), Place(KAGGLE_INPUT, 6)]
    return [*places, Place(COLAB_DRIVE / "seglib", 6), Place(COLAB_DRIVE, 3)]


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    """Visible entries of a folder, read lazily, `MAX_ENTRIES` at most; none if unreadable."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        # Zip files from a Mac hold a folder __MACOSX that repeats the tree with useless files.
        visible = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        yield from itertools.islice(visible, MAX_ENTRIES)


def _is_dir(entry: os.DirEntry) -> bool:
    """Like `entry.is_dir()`, but False instead of an error for a link that may not be followed."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _walk(root: Path, depth: int, phantoms: bool) -> Iterator[Path]:
    """`root` and the folders down to `depth` levels below it, by level, then by name.

    At most `MAX_FOLDERS`; synthetic trees are skipped unless `phantoms`.
    """
    seen, level = set(), [root]
    for levels_left in range(depth, -1, -1):
        below = []
        for folder in level:
            real = os.path.realpath(folder)  # links may lead round in circles
            synthetic = not phantoms and os.path.exists(folder / PHANTOM)
            if real in seen or synthetic or not os.path.isdir(real):
                continue
            if len(seen) == MAX_FOLDERS:
                return
            seen.add(real)
            yield folder
            if levels_left:
                below += _subfolders(folder)
        level = below


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; none where there are so many that they must be cases."""
    entries = list(_entries(folder))
    names = sorted(entry.name for entry in entries if _is_dir(entry))
    # The order of a folder's entries is arbitrary, so the first `MAX_ENTRIES` would be as well.
    if len(entries) == MAX_ENTRIES or len(names) > MAX_SUBFOLDERS:
        return []
    # Drive is slow to list, and it is one of the places itself.
    return [folder / name for name in names if folder / name != COLAB_DRIVE.parent]


def _matches(folder: Path, pattern: str, phantoms: bool) -> Iterator[Path]:
    """Paths below `folder` that match a relative pattern such as "train/patient*".

    Upper and lower case do not matter for names with a wildcard, since data sets mix them.
    """
    head, _, rest = pattern.partition("/")
    if any(character in head for character in "*?["):
        names = (entry.name for entry in _entries(folder))
        wildcards = head.lower()
        paths = (folder / name for name in names if fnmatch.fnmatchcase(_as_nifti(name), wildcards))
    else:
        paths = (path for path in [folder / head] if os.path.exists(path))
    for path in paths:
        if not phantoms and os.path.exists(path / PHANTOM):
            continue
        if rest:
            yield from _matches(path, rest, phantoms)
        else:
            yield path


def _as_nifti(name: str) -> str:
    """A name in lower case; that of a volume in another format as if it were NIfTI.

    So a marker such as `ct.nii*` stands for a volume in any format.
    """
    from .formats import nifti, simpleitk  # slow to import, and help needs neither

    name = name.lower()
    return f"{nifti.stem(name)}.nii" if name.endswith(simpleitk.SUFFIXES) else name


def _holds(folder: Path, pattern: str, phantoms: bool) -> bool:
    """True if a file matches, or a folder that is not empty.

    An empty folder does not count, because data that is still being mounted looks like one.
    """
    return any(
        os.path.isfile(path) or any(_entries(path)) for path in _matches(folder, pattern, phantoms)
    )


def _contents(root: Path, depth: int, most: int = 20) -> str:
    """What a folder holds, for messages: its entries, then deeper folders, `most` in all."""
    if not os.path.isdir(root):
        return "is a file, not a folder" if os.path.exists(root) else "does not exist"
    names = sorted(entry.name + "/" * _is_dir(entry) for entry in _entries(root))[: most + 1]
    # Folders directly below `root` are among its entries already.
    deeper = (
        f"{path.relative_to(root)}/"
        for path in _walk(root, depth, phantoms=True)
        if root in path.parents[1:]
    )
    names += itertools.islice(deeper, most + 1 - len(names))
    marked = [
        f"{name} (synthetic)" if os.path.exists(root / name / PHANTOM) else name
        for name in names[:most]
    ]
    if len(names) > most:
        marked.append("...")
    return ", ".join(marked) or "empty, or not readable"


def _short(error: BaseException) -> str:
    """Class and first line of an error, for messages."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
