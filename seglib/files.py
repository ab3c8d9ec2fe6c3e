"""Files that are whole under their name or not there, and weights files opened without running code."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | Path, before: Path | None = None) -> Iterator[Path]:
    """A hidden temporary name beside `path` to write to: flushed to the disk and renamed when the block ends well,
    removed otherwise. Folders are made; an old file stays until then, and becomes `before` where that is given.

    Raises:
        DataError: the disk is full; says how much is free.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".partial_{path.name}"
    )  # the suffix stays: writers choose the format by it
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        if before and path.exists():
            os.replace(path, before)
        os.replace(partial, path)
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        written = partial.stat().st_size if partial.exists() else 0
        # torch's own writer hides the reason; a disk that has less left than the file already took is full
        if getattr(error, "errno", None) in FULL or (
            isinstance(error, RuntimeError) and free <= max(written, 1 << 16)
        ):
            raise DataError(
                f"{path}: not written, the disk is full ({free / 1e6:.1f} MB free); what was there before is kept: "
                "free some space, or choose a folder on another disk"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """A text file, whole or not at all; ends with a new line."""
    with replacing(path) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    return Path(path)


def load_safely(path: str | Path) -> Any:
    """`torch.load` that never runs code from the file, with an error that says what is wrong."""
    import torch  # heavy: a command line that only prints its help does without

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, from pickle, zip and its own code
        asked = re.search(r"GLOBAL (\S+)", str(error))
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = (
            f"it asks for {asked[1]}, which could run code"
            if asked
            else lines[0].split(" In PyTorch")[0][:200]
        )
        raise DataError(
            f"{path}: refused to load: {reason}; expected a complete file of tensors and plain values only"
        ) from error
