"""Cores, memory and the device that computes.

Devices are tried, because a GPU that is "available" may fail to run anything.
"""

import contextlib
import os
import warnings
from pathlib import Path

from ..errors import ConfigError
from . import mounts

# What a container may use, in Linux.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
DEVICES = ("cuda", "mps", "cpu")  # in the order in which "auto" tries them
# A setting -> the device that worked for it, because trying takes time.
_working: dict[str, str] = {}


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
    if cfg_device in _working and not again:
        return _working[cfg_device]
    for name in DEVICES if cfg_device == "auto" else (cfg_device,):
        exists, problem = _try(name)
        if not problem:
            _working[cfg_device] = name
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


def describe_gpu() -> str:
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
        device = describe_gpu() if name == "cuda" else name
        problem = f"{device} is there, but a small convolution failed ({mounts.short(error)})"
        if mounts.host() == "kaggle" and "capability 6.0" in problem:
            problem += "; choose T4 x2 in the accelerator menu, Kaggle's torch has dropped the P100"
        return True, problem
    return True, None
