"""One scan a system: a raw tree becomes the case table, one row an image. Taught in `01_data_preparation`.

Columns: case, patient, split ("" where the tree has none), image, one mask column a class (files joined by `|` are
united, empty = no mask exists) and finding. `cases.attrs["notes"]` lists what the scan could not place.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from . import hosts
from .errors import ConfigError, DataError
from .images import SUFFIXES, UNION

MASK_SUFFIXES = ("", "_mask", "_segmentation", "_masks", "_seg", "-mask")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def scan(cfg) -> pd.DataFrame:
    """The case table of the data that `cfg` names, or that `hosts.find_data` finds for it.

    Raises:
        DataError: no tree of this system found (says where it looked and what is there), or no image in it.
    """
    scanners: dict[str, Callable] = {"lung": scan_lung, "binary": scan_binary}
    if cfg.preset not in scanners:
        raise ConfigError(f"preset: {cfg.preset!r} has no scan yet; this version reads {', '.join(scanners)}")
    root = hosts.find_data(cfg) if cfg.local else hosts.wait_for_data(cfg)
    if root is None:
        raise DataError(hosts.explain_missing(cfg))
    cases = scanners[cfg.preset](root, cfg.class_names[0])
    if cases.empty:
        raise DataError(f"{root}: no image found; expected files ending in {', '.join(SUFFIXES)}")
    return cases


def scan_lung(root: str | Path, class_name: str = "lung") -> pd.DataFrame:
    """Chest X-rays: the Montgomery tree, the Shenzhen tree, or both below one root, as one table.

    The finding is the last character of the stem: `_0` normal, `_1` tuberculosis. Left and right masks are united.
    """
    root, tables, notes = Path(root), [], []
    for folder in _folders(root, depth=3):
        for images, masks in (
            ("CXR_png", "ManualMask"),
            ("images", "."),
            ("img", "mask"),
            ("CXR_png", "masks"),
            ("CXR_png", "mask"),
        ):
            sides = [folder / masks / side for side in ("leftMask", "rightMask")]
            if not (folder / images).is_dir():
                continue
            if all(side.is_dir() for side in sides):
                tables.append(_pair(folder / images, sides, class_name))
                break
            if masks in ("mask", "masks") and (folder / masks).is_dir():
                tables.append(_pair(folder / images, [folder / masks], class_name))
                break
    if not tables:
        raise DataError(
            f"{root}: no chest X-rays; expected MontgomerySet/CXR_png with ManualMask/leftMask and rightMask, or img "
            f"with mask (Shenzhen); found {_contents(root)}"
        )
    for table in tables:
        notes += table.attrs["notes"]
    cases = pd.concat(tables, ignore_index=True)
    ending = cases["case"].str.extract(r"_([01])$")[0]
    cases["finding"] = ending.map({"0": "normal", "1": "tuberculosis"}).fillna("")
    cases["patient"] = cases["case"].str.replace(r"_[01]$", "", regex=True)
    cases.attrs["notes"] = notes
    return cases


def scan_binary(root: str | Path, class_name: str = "structure") -> pd.DataFrame:
    """Any images with masks: `images` + `masks`, the same below train / val / test, Carvana or ISIC, by folder name.

    Masks match by stem, also with a suffix such as `_mask` or `_segmentation`. Every image counts as a patient of its
    own; where several show one patient, set `cases["patient"]` before the split.
    """
    root = Path(root)
    pairs = [(folder, "") for folder in [root]] + [
        (folder, SPLITS[folder.name.lower()]) for folder in _folders(root, depth=1) if folder.name.lower() in SPLITS
    ]
    tables = []
    for folder, split in pairs:
        for images, masks in (("images", "masks"), ("train", "train_masks"), ("ISIC*_Input", "ISIC*_GroundTruth")):
            found = [sorted(f for f in folder.glob(name) if f.is_dir()) for name in (images, masks)]
            if all(found):
                tables.append(_pair(found[0][0], [found[1][0]], class_name).assign(split=split))
                break
    if not tables:
        raise DataError(f"{root}: no pair of folders images and masks; found {_contents(root)}")
    cases = pd.concat(tables, ignore_index=True)
    cases.attrs["notes"] = [note for table in tables for note in table.attrs["notes"]]
    return cases


def _pair(images: Path, masks: Iterable[Path], class_name: str) -> pd.DataFrame:
    """The table of one images folder; a mask is matched by stem in every one of the folders `masks`."""
    files, notes = _pictures(images), []
    by_folder = [_pictures(folder) for folder in masks]
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
        rows.append({"case": stem, "patient": stem, "split": "", "image": str(path), class_name: UNION.join(cell)})
    for found in by_folder:
        notes += [
            f"{p.parent.name}/{p.name}: mask without an image" for s, p in found.items() if (id(found), s) not in used
        ]
    cases = pd.DataFrame(rows, columns=["case", "patient", "split", "image", class_name])
    cases.attrs["notes"] = notes
    return cases


def _pictures(folder: Path) -> dict[str, Path]:
    """Stem -> file of all pictures in a folder, in natural order (2 before 10)."""
    found: dict[str, Path] = {}
    files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    for file in sorted(files, key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name)]):
        if UNION in str(file):
            raise DataError(f"{file}: the character {UNION!r} separates mask files; rename the file or its folder")
        if file.stem in found:
            raise DataError(f"{file}: {found[file.stem].name} has the same name before the suffix; keep one of the two")
        found[file.stem] = file.resolve()
    return found


def _folders(root: Path, depth: int) -> list[Path]:
    """`root` and the folders down to `depth` below it, without hidden ones."""
    level, found = [root], [root]
    for _ in range(depth):
        level = [f for parent in level for f in sorted(parent.iterdir()) if f.is_dir() and not f.name.startswith(".")]
        found += level
    return found


def _contents(root: Path) -> str:
    names = sorted(f.name + ("/" if f.is_dir() else "") for f in root.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "an empty folder"
