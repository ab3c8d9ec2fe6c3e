"""The folders under `work_dir/stores`: write them whole, find, list and remove them.

A store holds the pixels of cases, prepared with certain settings. It does not say which part
(train, val, test) a case is in: `prepare` computes that anew at every call.
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .errors import DataError
from .formats import channels

VERSION = 4  # raise it when the format of stores changes: older ones are then left to `prune`
ARRAYS = ("images", "masks")
# A folder without any of these files is not a store, and `prune` must not touch it.
FILES = {"store.json", "facts.json", "cases.csv", "images.npy", "masks.npy"}
LARGE = 500_000_000  # bytes of a store from which on its size is said before it is written
IN_USE = ("", "being written", "not a store")  # the states that `prune` leaves alone


class Saved(NamedTuple):
    """What a store holds besides its pixels.

    Attributes:
        folder: that of the store.
        info: the content of `store.json`.
        facts: key of a case -> its facts, in the order of the rows of the arrays.
    """

    folder: Path
    info: dict[str, Any]
    facts: dict[str, dict[str, Any]]


class FrameBytes(NamedTuple):
    """What one frame takes: in the store on `disk`, and in `memory` while it is scored."""

    disk: int
    memory: int


def frame_bytes(sides: tuple[int, int], channels: int, planes: int) -> FrameBytes:
    """The bytes of a frame (height, width) with so many channels and mask planes."""
    n_pixels = sides[0] * sides[1]
    # float32 pixels twice, the sum of the tiles, probabilities, their copies for the metrics, and
    # those at the size of the file, for grid="original".
    of_pixel = 9 * channels + 16 * planes + 75
    return FrameBytes(n_pixels * (channels + planes), n_pixels * of_pixel)


def check_room(root: Path, n_bytes: int) -> int:
    """The free bytes of the disk of a folder that holds stores, which need not exist yet.

    Raises:
        DataError: they are fewer than `n_bytes`.
    """
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise DataError(
            f"{root}: no room for the store: it takes {n_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB "
            "are free; free some, lower image_size, or set work_dir to another disk"
        )
    return free


def digest(*texts: str) -> str:
    """The SHA-256 of several texts, in hexadecimal digits."""
    # "\0" between them, because ("ab", "c") and ("a", "bc") must differ. "surrogateescape" accepts
    # paths that are not valid UTF-8.
    return hashlib.sha256("\0".join(texts).encode(errors="surrogateescape")).hexdigest()


def folder_for(root: Path, name: str, keys: Iterable[str]) -> Path:
    """The folder of the store that holds exactly the cases with these keys, in any order."""
    return root / f"{name}-{digest(*sorted(keys))[:12]}"


def holding(root: Path, name: str, keys: list[str]) -> Iterator[Saved]:
    """The stores of this name that hold the cases with these keys, the exact one first."""
    others = sorted(root.glob(f"{glob.escape(name)}-*"))
    for folder in dict.fromkeys([folder_for(root, name, keys), *others]):
        with contextlib.suppress(DataError):
            info = read_info(folder)
            # The count excludes most stores before their large `facts.json` is read.
            if info["n_images"] >= len(keys):
                saved = read(folder)
                if saved.facts.keys() >= set(keys):
                    yield saved


def open_arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of a store, memory-mapped read-only.

    Raises:
        DataError: a file is missing or shorter than it says.
    """
    try:
        return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: its pixels cannot be read ({error}); prepare.build makes them anew"
        ) from error


def read_info(folder: Path) -> dict[str, Any]:
    """The `store.json` of a store of this version.

    Raises:
        DataError: the file is missing, unreadable, or of another version.
    """
    try:
        info = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        version = info["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a store ({error}); prepare.build makes one") from error
    if version != VERSION:
        raise DataError(
            f"{folder}: a store of version {version}, here it is {VERSION}; "
            "prepare.build makes a new one"
        )
    return info


def read(folder: Path) -> Saved:
    """A store, checked to be whole; its pixels are not read.

    Raises:
        DataError: it is no store of this version, or a file of it is missing or damaged.
    """
    info = read_info(folder)
    open_arrays(folder)
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a store ({error}); prepare.build makes one") from error
    return Saved(folder, info, facts)


def mark_used(folder: Path) -> None:
    """Set the time that `listing` shows as the last use."""
    with contextlib.suppress(OSError):  # a folder that is mounted read-only can still be used
        (folder / "last_used").touch()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A hidden folder to write a store to, which is renamed to `folder` when the block succeeds.

    A process that is killed therefore leaves no incomplete store under that name. Where another
    process has finished the same store meanwhile, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        # `_is_being_written` asks for this process later.
        (partial / "writer").write_text(f"{platform.node()} {os.getpid()}", encoding="utf-8")
        yield partial
        (partial / "writer").unlink()
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                os.replace(partial, folder)
            except OSError:
                if not _is_whole(folder):  # else another process was faster
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def allocate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped uint8 array of zeros whose space on the disk is reserved at once.

    Otherwise a disk that fills up later would kill the process without an error message.

    Raises:
        DataError: there is not enough room; says how much is needed and how much is free.
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    try:
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise DataError(
            f"{path.parent.parent}: no room for the store: {path.name} takes "
            f"{array.nbytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free ({error}); free some, "
            "lower image_size, or set work_dir to another disk"
        ) from error
    return array


# ---- list and remove


def listing(work_dir: str | Path) -> pd.DataFrame:
    """The stores of a work folder, the most recently used one first.

    Columns: folder, preset, classes, image_size (height x width), n_images, mb, last_used and
    state, which is "" for a store that can be used, else "older version", "broken", "sources gone"
    (none of the images it was made from exists any more), "partial" (its process was stopped),
    "being written" or "not a store".
    """
    root = Path(work_dir) / "stores"
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    rows = [_describe(folder) for folder in folders]
    columns = ["folder", "preset", "classes", "image_size", "n_images", "mb", "last_used", "state"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("last_used", ascending=False, ignore_index=True)


def prune(work_dir: str | Path) -> pd.DataFrame:
    """Remove the stores that no call can use any more; returns their rows of `listing`."""
    stores = listing(work_dir)
    useless = stores[~stores["state"].isin(IN_USE)]
    # Only what really is gone counts: the rights or an open file may prevent a removal.
    removed = []
    for index, folder in useless["folder"].items():
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            removed.append(index)
    return useless.loc[removed].reset_index(drop=True)


def report(work_dir: str | Path, remove: bool = False) -> str:
    """What the command line prints: the stores, what was removed, and how much they occupy."""
    removed = prune(work_dir) if remove else None
    table = listing(work_dir)
    lines = []
    if len(table):
        names = [Path(folder).name for folder in table["folder"]]
        lines.append(table.assign(folder=names, mb=table["mb"].round(1)).to_string(index=False))
    if removed is not None:
        for store in removed.itertuples():
            lines.append(f"removed {store.folder} ({store.state}, {store.mb:.1f} MB)")
        lines.append(f"{_count(removed)} removed, {removed['mb'].sum():.1f} MB")
    lines.append(f"{_count(table)} in {Path(work_dir) / 'stores'}, {table['mb'].sum():.1f} MB")
    useless = table[~table["state"].isin(IN_USE)]
    if len(useless):
        lines.append(
            f"{len(useless)} of them ({useless['mb'].sum():.1f} MB) cannot be used any more: "
            f"python -m seglib stores --work_dir {work_dir} --prune"
        )
    return "\n".join(lines)


def _count(table: pd.DataFrame) -> str:
    return "1 store" if len(table) == 1 else f"{len(table)} stores"


def _is_whole(folder: Path) -> bool:
    """Whether a folder is a store that `read` accepts."""
    try:
        read(folder)
    except DataError:
        return False
    return True


def _describe(folder: Path) -> dict[str, Any]:
    """The row of `listing` of one folder; what an older or broken store lacks stays empty."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    newest = max((status.st_mtime for status in files), default=folder.stat().st_mtime)
    info: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        info = dict(json.loads((folder / "store.json").read_text(encoding="utf-8")))
    size = info.get("image_size", "")  # one number where images are square
    height_width = size if isinstance(size, list) else [size] * 2
    return {
        "folder": str(folder),
        "preset": info.get("preset", folder.name.strip(".").split("-")[0]),
        "classes": ", ".join(info.get("class_names", [])),
        "image_size": "x".join(map(str, height_width)) if size else "",
        "n_images": _n_images(folder),
        "mb": sum(status.st_size for status in files) / 1e6,
        "last_used": time.strftime("%Y-%m-%d %H:%M", time.localtime(newest)),
        "state": _state(folder, info),
    }


def _n_images(folder: Path) -> int:
    """The number of images of a store, 0 where its pixels cannot be read."""
    try:
        return len(open_arrays(folder)[0])
    except DataError:
        return 0


def _state(folder: Path, info: dict[str, Any]) -> str:
    """The cell `state` of `listing`."""
    if folder.name.endswith(".partial"):
        return "being written" if _is_being_written(folder) else "partial"
    if not FILES & set(os.listdir(folder)):
        return "not a store"
    if info.get("version", VERSION) != VERSION:
        return "older version"
    try:
        saved = read(folder)
    except DataError:
        return "broken"
    return "" if _has_a_source(saved) else "sources gone"


def _has_a_source(saved: Saved) -> bool:
    """Whether any of the images that the store was made from still exists."""
    try:
        cases = pd.read_csv(saved.folder / "cases.csv", usecols=["image"], dtype=str)
    except (OSError, ValueError):
        return False
    cells = cases["image"].dropna().unique()
    return any(os.path.exists(channels.first_file(cell)) for cell in cells)


def _is_being_written(folder: Path) -> bool:
    """Whether the process that writes a partial store still runs."""
    try:
        node, process = (folder / "writer").read_text(encoding="utf-8").rsplit(" ", 1)
        # On a shared disk, a process of another machine cannot be asked for: it gets a day.
        if node != platform.node():
            return time.time() - folder.stat().st_mtime < 24 * 3600
        if os.name != "posix":
            return False  # Windows does not remove the arrays while a process has them open
        os.kill(int(process), 0)  # signal 0 only asks whether the process exists
    except PermissionError:
        return True  # it exists and belongs to somebody else
    except (OSError, ValueError):
        return False
    return True
