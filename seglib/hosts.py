"""Where the code runs and what it finds there: host, data, weights, device, precision. See `00_start_here`.

Data is found by marker folders, because Kaggle has moved its mounts before. Devices and precisions are tried,
because a GPU that is "available" may run nothing.
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
from pathlib import Path

from . import presets, tables
from .errors import ConfigError, DataError

KAGGLE_INPUT, KAGGLE_WORKING = Path("/kaggle/input"), Path("/kaggle/working")
COLAB_CONTENT, COLAB_DRIVE = Path("/content"), Path("/content/drive/MyDrive")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
PHANTOM = "PHANTOM.txt"  # phantoms.write leaves it in a synthetic tree
MAX_FOLDERS, MAX_SUBFOLDERS, MAX_ENTRIES = (
    5000,
    2000,
    10_000,
)  # a root; a folder; a folder, files included
PACKAGES = """accelerate albumentations matplotlib numpy opencv-python-headless pandas pillow scikit-learn scipy
    torch torchvision""".split()
# Import name -> what pip installs, of the packages that Kaggle or Colab may lack. Both keep their own
# torch and numpy.
HOSTS_LACK = {
    "albumentations": "albumentations<=2.0.8",
    "accelerate": "accelerate",
    "cv2": "opencv-python-headless",
    "nibabel": "nibabel",
    "pydicom": "pydicom",
    "pylibjpeg": "pylibjpeg",
    "openjpeg": "pylibjpeg-openjpeg",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
_known = {}  # what this process has probed already


def host():
    """Name the machine: "kaggle", "colab" or "local"."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") or os.environ.get("KAGGLE_URL_BASE"):
        return "kaggle"
    # Before the look at folders: kagglehub mounts at /kaggle/input on Colab too.
    if os.environ.get("COLAB_RELEASE_TAG") or "google.colab" in sys.modules:
        return "colab"
    return "kaggle" if KAGGLE_INPUT.is_dir() else "local"


def in_notebook():
    """True in a Jupyter kernel (JupyterLab, Kaggle, Colab, nbmake), False in scripts and terminals."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # Colab's shell is a subclass.
    return any(base.__name__ == "ZMQInteractiveShell" for base in type(shell).__mro__)


def find_data(cfg):
    """Find the tree of `cfg.preset` by its `MARKERS`; returns its absolute path, or None.

    `cfg.data_root`, if given, is the only place. Else: environment variable `SEGLIB_DATA`; `data/` in the current
    folder, the two above it and the repository; Kaggle's inputs, old and new layout; Colab's /content and Drive. The
    tree is such a place or lies up to three levels below it (five on Kaggle); the shallowest wins, then the first by
    name. Synthetic trees count in `cfg.data_root` and `SEGLIB_DATA` only, after real ones. `ConfigError`: a preset
    without markers. Taught in `00_start_here`.
    """
    for root, depth, named in _roots(cfg):
        for phantoms in (False, True) if named else (False,):
            for folder in _walk(root, depth, phantoms):
                if any(all(_holds(folder, m, phantoms) for m in names) for names in _markers(cfg)):
                    return folder.absolute()
    return None


def _markers(cfg):
    """The alternatives of names by which the layouts are known that `cfg` may have."""
    names = presets.PRESETS[cfg.preset].layouts if cfg.layout == "auto" else (cfg.layout,)
    return [alternative for name in names for alternative in tables.LAYOUTS[name].markers]


def wait_for_data(cfg, timeout=120, every=2.0):
    """`find_data` for mounts that come late: looks each `every` seconds for `timeout` seconds (0 = one look).

    `DataError` with the text of `explain_missing` when the time is over.
    """
    deadline, told = time.monotonic() + timeout, False
    while (found := find_data(cfg)) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DataError(f"{explain_missing(cfg)} Waited {timeout:g} s.")
        if not told:
            print(
                f"{cfg.preset}: no data yet; waiting up to {timeout:g} s for it to be mounted",
                flush=True,
            )
            told = True
        time.sleep(min(max(every, 0.05), left))
    return found


def explain_missing(cfg):
    """Text for a `DataError`: what `cfg.preset` needs, where `find_data` looks, what is there, what to do."""
    needs = ", or ".join(" + ".join(names) for names in _markers(cfg))
    lines = [f"{cfg.preset}: no data found. Expected a folder that holds {needs}. Looked in:"]
    lines += [
        f"  {root.absolute()} ({n} levels): {_contents(root, n)}" for root, n, _ in _roots(cfg)
    ]
    advice = {
        "kaggle": "Attach the data set (Add Input, right of the notebook), or set cfg.data_root.",
        "colab": "Unpack the data below /content, mount Drive (hosts.offer_drive()), or set cfg.data_root.",
        "local": "Set cfg.data_root or the environment variable SEGLIB_DATA to the tree or a folder above.",
    }[host()]
    return "\n".join([*lines, f"{advice} data/README.md says where the data comes from."])


def find_model(name, roots=None):
    """Find a weights file by name or pattern ("best_model.pth", "lung*/*.pth"); returns its path, or None.

    Looks up to six levels below `roots`; by default runs/ and checkpoints/ (in the places of data/ for `find_data`),
    Kaggle's working and input folders, and Drive (three levels). The newest wins. A path is returned as it is.
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute()
    places = [
        (Path(root).expanduser(), 6)
        for root in ([roots] if isinstance(roots, str | Path) else roots or ())
    ]
    if roots is None:
        places = [(home / folder, 6) for home in _homes() for folder in ("runs", "checkpoints")]
        places += [
            (KAGGLE_WORKING, 6),
            (KAGGLE_INPUT, 6),
            (COLAB_DRIVE / "seglib", 6),
            (COLAB_DRIVE, 3),
        ]
    folders = (folder for root, depth in places for folder in _walk(root, depth, True))
    pattern = str(name).replace(os.sep, "/")
    paths = (
        path
        for folder in folders
        for path in _matches(folder, pattern, True)
        if os.path.isfile(path)
    )
    newest = max(paths, key=os.path.getmtime, default=None)
    return newest and newest.absolute()


def work_dir(default="runs"):
    """Folder (str) where runs survive: Kaggle's output, Colab's Drive if mounted; `default` elsewhere."""
    base = {"local": "", "kaggle": KAGGLE_WORKING, "colab": COLAB_DRIVE / "seglib"}[host()]
    if host() == "colab" and not COLAB_DRIVE.is_dir():
        base = COLAB_CONTENT
        if "no drive" not in _known:  # several steps ask; once said is enough
            print(
                f"Drive is not mounted: runs go to {base / default}, and a disconnect loses them."
            )
        _known["no drive"] = True
    return os.path.join(base, default)


def run_root(cfg):
    """Folder (str) of stores and runs: `cfg.work_dir`, or where runs survive if `cfg.local` is False."""
    return cfg.work_dir if cfg.local else work_dir(cfg.work_dir)


def offer_drive():
    """On Colab, offer to mount Google Drive; True if it is mounted then, always False elsewhere.

    `SEGLIB_DRIVE=1` or `0` answers without a question. A failure is printed, not raised.
    """
    if host() != "colab" or COLAB_DRIVE.is_dir():
        return host() == "colab"
    try:
        answer = os.environ.get("SEGLIB_DRIVE") or input(
            "Mount Google Drive, to keep the runs? [y/n] "
        )
        if answer.strip().lower() in ("1", "y", "yes"):
            from google.colab import drive

            drive.mount(str(COLAB_DRIVE.parent))
    # Colab, and IPython where nobody can answer, raise classes of their own.
    except Exception as error:
        print(
            f"Drive is not mounted: {_short(error)}. SEGLIB_DRIVE=1 or 0 answers without a question."
        )
    return COLAB_DRIVE.is_dir()


def install_missing():
    """Install what the host lacks of the packages in `HOSTS_LACK`; the set-up cell of every notebook calls it.

    Where pip fails, a line names what is missing, and nothing is raised: most cells need only a part of it.
    """
    lacking = [name for name in HOSTS_LACK if importlib.util.find_spec(name) is None]
    if not lacking:
        return
    packages = [HOSTS_LACK[name] for name in lacking]
    if subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages]).returncode:
        print(
            "Not installed:",
            *packages,
            "- some cells will need them: switch the internet on and run this one again",
        )
    importlib.invalidate_caches()


def choose_device(cfg_device="auto", again=False):
    """The first of "cuda", "mps", "cpu" that runs a tiny convolution; remembered until `again=True`.

    A GPU that is there but fails is left out with a warning. `ConfigError`: an unknown name, or a device that
    was asked for by name and does not work.
    """
    if cfg_device not in ("auto", "cuda", "mps", "cpu"):
        raise ConfigError(
            f"device={cfg_device!r} is unknown; choose 'auto', 'cuda', 'mps' or 'cpu'"
        )
    key = ("device", cfg_device)
    if key in _known and not again:
        return _known[key]
    for name in ("cuda", "mps", "cpu") if cfg_device == "auto" else (cfg_device,):
        found, problem = _try(name)
        if not problem:
            _known[key] = name
            return name
        if cfg_device != "auto":
            raise ConfigError(
                f"device={name!r}: {problem}; set device='auto' to use what works here"
            )
        if found:
            warnings.warn(f"{name}: {problem}; going on without it", stacklevel=2)
    raise ConfigError(
        "device='auto': not even the CPU runs a small convolution; install torch again"
    )


def choose_precision(device, cfg_precision="auto"):
    """The arithmetic for a device ("cuda", "mps", "cpu"): "fp32", "bf16" or "fp16".

    "auto": on CUDA bf16 from compute capability 8.0, else fp16; on MPS fp32; on a CPU bf16 if `measure_cpu`
    finds it at least 10 % faster, else fp32. `ConfigError`: unknown, or more than the device can do.
    """
    kind = str(device).split(":")[0]
    able = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}.get(kind, ("fp32",))
    if cfg_precision not in ("auto", *able):
        raise ConfigError(
            f"precision={cfg_precision!r}: {kind} takes 'auto' or {' or '.join(able)}; set one of them"
        )
    if kind == "cuda" and cfg_precision in ("auto", "bf16"):
        import torch

        # torch.cuda.is_bf16_supported() is True on a T4 too, where bf16 is emulated.
        native = torch.cuda.get_device_capability()[0] >= 8
        if cfg_precision == "bf16" and not native:
            warnings.warn(
                f"precision='bf16': {_gpu()} emulates it, slowly; 'fp16' is faster", stacklevel=2
            )
        return "bf16" if native or cfg_precision == "bf16" else "fp16"
    if cfg_precision != "auto":
        return cfg_precision
    figures = measure_cpu() if kind == "cpu" else {}
    return "bf16" if figures.get("bf16") and figures["bf16"] <= 0.9 * figures["fp32"] else "fp32"


def measure_cpu(channels=32, size=64, batch=2, repeats=5, again=False):
    """Time a training step of two 3x3 convolutions on the CPU; remembered until `again=True`.

    Returns "fp32" and "bf16" in seconds a step (best of `repeats`; bf16 None where it does not run) and the
    settings. It stops after about a second and leaves torch's random numbers as they were.
    """
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    settings = {
        "channels": channels,
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
    }
    key = ("cpu", *settings.values())
    if key in _known and not again:
        return dict(_known[key])
    with torch.random.fork_rng(devices=[]):
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        net = nn.Sequential(
            *(part for conv in convs for part in (conv, nn.BatchNorm2d(channels), nn.ReLU()))
        )
        image = torch.rand(batch, channels, size, size).to(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)

    def step(name):
        begin = time.perf_counter()
        with (
            torch.enable_grad(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "bf16"),
        ):
            loss = net(image).float().mean()
        loss.backward()
        return time.perf_counter() - begin

    begin, best = time.perf_counter(), {"fp32": float("inf"), "bf16": None}
    step("fp32")
    # The first step of each only warms up, and shows whether bf16 runs.
    with contextlib.suppress(RuntimeError):
        step("bf16")
        best["bf16"] = float("inf")
    for _ in range(repeats):
        # In turns, so that another program's load falls on both.
        best = {name: seconds and min(seconds, step(name)) for name, seconds in best.items()}
        # Emulated bf16 may be a hundred times slower: one round shows it as well.
        if time.perf_counter() - begin > 1:
            break
    _known[key] = {**best, **settings}
    return dict(_known[key])


def describe():
    """What results depend on beside code and data: a flat dict of str, int, float or None, fit for JSON."""
    found = {
        "host": host(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    found |= {
        "seglib": getattr(sys.modules.get(__package__), "__version__", None),
        "cores": n_cores(),
    }
    found |= dict.fromkeys(["threads", "memory_gb", "device", "gpu", *PACKAGES])
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        found["memory_gb"] = round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        )
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    try:
        import torch

        found["torch"], found["threads"] = str(torch.__version__), torch.get_num_threads()
        found["device"] = choose_device()
        found["gpu"] = _gpu() if found["device"] == "cuda" else None
    # A broken installation is just what this table has to show.
    except Exception as error:
        found["device"] = f"unknown ({_short(error)})"
    return found


def n_cores():
    """CPU cores this process may use: its affinity, or its container's quota where that is lower."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: "max"
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def progress(iterable=None, **kw):
    """A tqdm bar, as a widget where the notebook can show one; `SEGLIB_PROGRESS=0` turns it off."""
    from tqdm import tqdm as bar

    if in_notebook():
        # tqdm.auto raises or warns where ipywidgets is missing.
        with contextlib.suppress(ImportError):
            import ipywidgets  # noqa: F401
            from tqdm.auto import tqdm as bar
    if os.environ.get("SEGLIB_PROGRESS") == "0":
        kw["disable"] = True
    return bar(iterable, **kw)


def _homes():
    """The current folder, two above it (notebooks run in notebooks/) and the repository, each once."""
    here = Path.cwd()
    return list(dict.fromkeys([here, *list(here.parents)[:2], Path(__file__).resolve().parents[1]]))


def _roots(cfg):
    """Places to search: (folder, levels below it, whether the user named it)."""
    named = cfg.data_root or os.environ.get("SEGLIB_DATA")
    roots = [(Path(named).expanduser(), 5 if host() == "kaggle" else 3, True)] if named else []
    if cfg.data_root:
        return roots
    roots += [(home / "data", 3, False) for home in _homes()]
    mounts = [("kaggle", KAGGLE_INPUT, 5), ("colab", COLAB_CONTENT, 3), ("colab", COLAB_DRIVE, 3)]
    return roots + [
        (root, depth, False) for name, root, depth in mounts if root.is_dir() or host() == name
    ]


def _entries(folder):
    """Visible entries of a folder, read lazily, `MAX_ENTRIES` at most; none where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        # __MACOSX, from zip files, repeats a tree with useless files.
        visible = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        yield from itertools.islice(visible, MAX_ENTRIES)


def _is_dir(entry):
    """Like `entry.is_dir()`, but False instead of an error for a link that may not be followed."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _walk(root, depth, phantoms):
    """The folder `root` and those up to `depth` levels below, by level and name, at most `MAX_FOLDERS`."""
    seen, level = set(), [root]
    for left in range(depth, -1, -1):
        below = []
        for folder in level:
            real = os.path.realpath(folder)  # ends the circles that links can form
            if (
                real in seen
                or not os.path.isdir(real)
                or (not phantoms and os.path.exists(folder / PHANTOM))
            ):
                continue
            if len(seen) == MAX_FOLDERS:
                return
            seen.add(real)
            yield folder
            entries = list(_entries(folder)) if left else []
            names = sorted(entry.name for entry in entries if _is_dir(entry))
            # So many are images or cases, and which of them a cut list holds would depend on the disk.
            if len(entries) < MAX_ENTRIES and len(names) <= MAX_SUBFOLDERS:
                # Drive is slow to list, and a root of its own.
                below += [folder / name for name in names if folder / name != COLAB_DRIVE.parent]
        level = below


def _matches(folder, pattern, phantoms):
    """Paths below `folder` that match a relative pattern such as "train/patient*"."""
    head, _, rest = pattern.partition("/")
    paths = [folder / head] if os.path.exists(folder / head) else ()
    if any(c in head for c in "*?["):
        paths = (
            folder / entry.name
            for entry in _entries(folder)
            if fnmatch.fnmatchcase(entry.name, head)
        )
    for path in paths:
        if phantoms or not os.path.exists(path / PHANTOM):
            yield from _matches(path, rest, phantoms) if rest else [path]


def _holds(folder, pattern, phantoms):
    """True if a file or a folder that is not empty matches; a mount may start as an empty folder."""
    return any(
        os.path.isfile(path) or any(_entries(path)) for path in _matches(folder, pattern, phantoms)
    )


def _contents(root, depth, most=20):
    """What lies in a root, in words: its entries, then deeper folders, `most` in all."""
    if not os.path.isdir(root):
        return "is a file, not a folder" if os.path.exists(root) else "does not exist"
    names = sorted(entry.name + "/" * _is_dir(entry) for entry in _entries(root))[: most + 1]
    deeper = (
        f"{path.relative_to(root)}/"
        for path in _walk(root, depth, True)
        if root in path.parents[1:]
    )
    names += itertools.islice(deeper, most + 1 - len(names))
    said = [name + " (synthetic)" * os.path.exists(root / name / PHANTOM) for name in names[:most]]
    return ", ".join(said + ["..."] * (len(names) > most)) or "empty, or not readable"


def _short(error):
    """Class and first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _gpu():
    """Name, compute capability and memory of the current GPU, in words."""
    import torch

    try:
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.1f} GB"
    except (RuntimeError, AssertionError):
        return "a GPU that does not answer"


def _kernel(device):
    """Run a convolution and an addition on a device, and read the result back, which waits for both."""
    import torch

    image, weight = torch.ones(1, 8, 16, 16, device=device), torch.ones(8, 8, 3, 3, device=device)
    value = (torch.nn.functional.conv2d(image, weight, padding=1) + image)[0, 0, 8, 8].item()
    if value != 73:
        raise RuntimeError(f"a convolution gave {value}, expected 73")


def _try(name):
    """Try a device: (whether there is one, None or what is wrong with it in words)."""
    import torch

    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in there and not there[name]():
        return False, f"torch {torch.__version__} finds no such device"
    try:
        _kernel(name)
    except (RuntimeError, AssertionError) as error:
        problem = f"{_gpu() if name == 'cuda' else name} is there, but a small convolution failed ({_short(error)})"
        if host() == "kaggle" and "capability 6.0" in problem:
            problem += "; choose T4 x2 in the accelerator menu, Kaggle's torch has dropped the P100"
        return True, problem
    return True, None
