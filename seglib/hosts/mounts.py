"""Kaggle, Colab or a machine of one's own: the folders of each, and where runs are kept."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

KAGGLE_INPUT, KAGGLE_WORKING = Path("/kaggle/input"), Path("/kaggle/working")
COLAB_CONTENT, COLAB_DRIVE = Path("/content"), Path("/content/drive/MyDrive")


def host() -> str:
    """Name the machine: "kaggle", "colab" or "local"."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") or os.environ.get("KAGGLE_URL_BASE"):
        return "kaggle"
    # Asked before the folder /kaggle/input, which kagglehub makes on Colab too.
    if os.environ.get("COLAB_RELEASE_TAG") or "google.colab" in sys.modules:
        return "colab"
    return "kaggle" if KAGGLE_INPUT.is_dir() else "local"


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
    _warn_without_drive(folder)
    return folder


@functools.cache  # several steps ask for the folder; one warning is enough
def _warn_without_drive(folder: str) -> None:
    print(f"Drive is not mounted: runs go to {folder}, and a disconnect loses them.")


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
            f"Drive is not mounted: {short(error)}. SEGLIB_DRIVE=1 or 0 answers without a question."
        )
    return COLAB_DRIVE.is_dir()


def short(error: BaseException) -> str:
    """Class and first line of an error, for messages."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
