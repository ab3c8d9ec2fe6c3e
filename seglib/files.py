"""Write files completely or not at all; open weights without running code; compare file names."""

import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, first_line

SAFETENSORS = ".safetensors"  # suffix of weights in the format of that name
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | Path, before: Path | None = None) -> Iterator[Path]:
    """A hidden temporary file beside `path` to write to, which becomes `path` at the end.

    If the block succeeds, the file is flushed to the disk and renamed; if it fails, the file is
    removed and an old one at `path` stays. Missing folders are made.

    Args:
        before: the old file is renamed to this, instead of being replaced.

    Raises:
        DataError: the disk is full; says how much is free.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays the same, because writers choose the format by it.
    partial = path.with_name(f".partial_{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        if before and path.exists():
            os.replace(path, before)
        os.replace(partial, path)
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        if _is_disk_full(error, partial, free):
            raise DataError(
                f"{path}: not written, the disk is full ({free / 1e6:.1f} MB free); what was there "
                "before is kept: free some space, or choose a folder on another disk"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _is_disk_full(error: Exception, partial: Path, free: int) -> bool:
    """Whether a write failed because of the disk; `free` are the bytes left on it."""
    if getattr(error, "errno", None) in DISK_FULL:
        return True
    # torch's own writer hides the reason. We call a disk full that has less space left than the
    # file already takes.
    written = partial.stat().st_size if partial.exists() else 0
    return isinstance(error, RuntimeError) and free <= max(written, 1 << 16)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file completely or not at all; it ends with a new line."""
    with replacing(path) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    return Path(path)


def load_safely(path: str | Path) -> Any:
    """`torch.load` that never runs code from the file; a `.safetensors` file as its tensors.

    Raises:
        DataError: no such file, or one that is damaged or asks to run code; says which.
    """
    import torch  # slow to import, and a command that only prints its help does not need it

    if Path(path).is_dir():
        raise DataError(f"{path}: a folder; give the weights file in it, such as best_model.pth")
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    if Path(path).suffix == SAFETENSORS:
        return _load_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, from pickle, zip and its own code
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        if asked_for:
            reason = f"it asks for {asked_for[1]}, which could run code"
        else:
            reason = first_line(error).split(" In PyTorch")[0]
        raise DataError(
            f"{path}: refused to load: {reason}; "
            "expected a complete file of tensors and plain values only"
        ) from error


def _load_safetensors(path: str | Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: refused to load: {first_line(error)}; expected a complete safetensors file"
        ) from error


def state_differences(expected: dict[str, Any], state: dict[str, Any]) -> list[str]:
    """How a state_dict differs from a network's own, as text: names, then the first two shapes."""
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    differences = []
    if missing:
        differences.append(f"{len(missing)} missing ({missing[0]} …)")
    if unknown:
        differences.append(f"{len(unknown)} unknown ({unknown[0]} …)")
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    return differences + shapes[:2]


def folded(name: str) -> str:
    """A form of a name that is the same in upper and lower case and for all forms of accents."""
    return unicodedata.normalize("NFC", name).casefold().strip()
