"""Writing a file so that it is either whole under its name, or not there."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    partial = path.with_name(f".partial_{path.name}")  # the suffix stays: writers choose the format by it
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
        if getattr(error, "errno", None) in FULL or (isinstance(error, RuntimeError) and free <= max(written, 1 << 16)):
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
