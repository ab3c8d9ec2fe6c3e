"""Listing folders and pairing files by name, for every layout."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..errors import DataError
from ..formats.images import SUFFIXES, UNION

MASK_SUFFIXES = ("", "_mask", "_segmentation", "_masks", "_seg", "-mask")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def pair(images: Path, masks: Iterable[Path], class_name: str) -> pd.DataFrame:
    """The table of one images folder; a mask is matched by stem in every one of the folders `masks`."""
    files, notes = pictures(images), []
    by_folder = [pictures(folder) for folder in masks]
    rows, used = [], set()
    for stem, path in files.items():
        cell = []
        for found in by_folder:
            names = [stem + suffix for suffix in MASK_SUFFIXES if stem + suffix in found]
            used.update((id(found), name) for name in names[:1])
            cell += [str(found[name]) for name in names[:1]]
        if cell and len(cell) < len(by_folder):
            notes.append(
                f"{path.name}: only {len(cell)} of its {len(by_folder)} masks exist ({Path(cell[0]).parent.name})"
            )
            cell = []  # half a union would teach a wrong truth
        rows.append(
            {
                "case": stem,
                "patient": stem,
                "split": "",
                "image": str(path),
                class_name: UNION.join(cell),
            }
        )
    for found in by_folder:
        notes += [
            f"{p.parent.name}/{p.name}: mask without an image"
            for s, p in found.items()
            if (id(found), s) not in used
        ]
    cases = pd.DataFrame(rows, columns=["case", "patient", "split", "image", class_name])
    cases.attrs["notes"] = notes
    return cases


def pictures(folder: Path) -> dict[str, Path]:
    """Stem -> file of all pictures in a folder, in natural order (2 before 10)."""
    found: dict[str, Path] = {}
    files = [
        f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
    ]
    for file in sorted(
        files, key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name)]
    ):
        if UNION in str(file):
            raise DataError(
                f"{file}: the character {UNION!r} separates mask files; rename the file or its folder"
            )
        if not _is_text(file.name):
            raise DataError(
                f"{file.parent}: the name {ascii(file.name)} is not valid UTF-8; rename that file"
            )
        if file.stem in found:
            raise DataError(
                f"{file}: {found[file.stem].name} has the same name before the suffix; keep one of the two"
            )
        found[file.stem] = (
            file.resolve() if file.exists() else file.absolute()
        )  # a broken link keeps its name
    return found


def _is_text(name: str) -> bool:
    """Whether a table can hold the name; one of an old archive may be bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def folders(root: Path, depth: int) -> list[Path]:
    """`root` and the folders down to `depth` below it, without hidden ones."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with images and masks")
    level, found = [root], [root]
    for _ in range(depth):
        level = [
            f
            for parent in level
            for f in sorted(parent.iterdir())
            if f.is_dir() and not f.name.startswith(".")
        ]
        found += level
    return found


def contents(root: Path) -> str:
    """What lies in a folder, in words for an error message: eight names at most."""
    if not root.is_dir():
        return "no such folder"
    names = sorted(f.name + ("/" if f.is_dir() else "") for f in root.iterdir())
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        or "an empty folder"
    )
