"""Pictures and masks that only their names bring together (layout `named`).

Where images and masks share a folder, as Roboflow writes them (`x.jpg`, `x_mask.png`), or where
each case or each class has a folder for its masks (Drishti-GS1, IDRiD): a mask is called as its
image, with or without something behind it. What follows the name, or else the folder, is the class.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .. import tables
from ..errors import DataError
from ..formats import mask_names
from ..formats.images import SUFFIXES
from ..formats.mask_pixels import UNION
from . import pairing, patients

MOST_FILES, MOST_LEVELS = 50_000, 7
# Words in the names of folders that hold images, and of those that hold masks but name no class.
_OF_IMAGES = frozenset("image images img imgs picture pictures photo photos original".split())
_OF_MASKS = frozenset(
    "mask masks msk msks label labels gt groundtruth groundtruths truth truths annotation "
    "annotations segmentation segmentations seg softmap softmaps all png jpg tif".split()
)
# Roboflow puts a hash behind the name of a picture, another one for each changed copy.
_ROBOFLOW = re.compile(r"(?P<source>.+?)(_(png|jpe?g|bmp|tiff?))?\.rf\.[0-9a-f]{8,}", re.I)


@dataclass
class Part:
    """The pictures of one part of the split.

    Attributes:
        split: train, val, test, or "".
        images: name -> file.
        masks: class -> name of the image -> its mask files; the class "" has no name.
    """

    split: str
    images: dict[str, Path]
    masks: dict[str, dict[str, list[Path]]] = field(default_factory=dict)


def scan_named(root: str | Path, cfg: Any) -> pd.DataFrame:
    """Pictures with masks that are called as they are, anywhere below the root.

    Patients are told apart by the names; the copies that Roboflow makes of a picture are one.

    Raises:
        DataError: no such pictures, or a task that needs other masks.
    """
    root = Path(root)
    tree = parts(root)
    if not tree:
        raise DataError(
            f"{root}: no picture has a mask of its name, in its folder or in another one; expected "
            f"such as x.jpg with x_mask.png; found {pairing.contents(root)}"
        )
    columns, names = cfg.mask_columns, {name for part in tree for name in part.masks}
    of_column = {column: _class_for(column, columns, names, root) for column in columns}
    rows = []
    for part in tree:
        for stem, image in part.images.items():
            masks = {
                column: UNION.join(str(path) for path in part.masks.get(name, {}).get(stem, ()))
                for column, name in of_column.items()
            }
            case = f"{part.split}_{stem}" if len(tree) > 1 else stem
            row = {"case": case, "patient": _source(stem), "split": part.split}
            rows.append({**row, "image": str(image), **masks})
    cases = pd.DataFrame(rows)
    if cfg.task == "multiclass":
        several = cases["labels"].str.contains(UNION, regex=False)
        if several.any():
            files = cases.loc[several, "labels"].iloc[0].replace(UNION, ", ")
            raise DataError(f"{root}: several label maps of one image: {files}; keep one of them")
    cases.attrs["notes"] = _notes(tree, set(of_column.values()))
    return patients.judged(cases)


def parts(root: Path) -> list[Part]:
    """The pictures below a folder and their masks; [] where no mask has the name of a picture."""
    by_split: dict[str, list[Path]] = {}
    for path in _pictures(root):
        folders = path.relative_to(root).parts[:-1]
        splits = [tables.SPLITS[name.lower()] for name in folders if name.lower() in tables.SPLITS]
        by_split.setdefault(splits[0] if splits else "", []).append(path)
    result = [_part(split, files, root) for split, files in sorted(by_split.items())]
    return result if any(part.masks for part in result) else []


def _pictures(root: Path) -> list[Path]:
    """All visible pictures below a folder, by name; [] where there are too many files."""
    result, n_files = [], 0
    for folder, subfolders, names in os.walk(root):
        level = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if level >= MOST_LEVELS:
            subfolders.clear()
        n_files += len(names)
        if n_files > MOST_FILES:
            return []
        visible = (name for name in sorted(names) if not name.startswith("."))
        result += [Path(folder, name) for name in visible if name.lower().endswith(SUFFIXES)]
    return [path for path in result if UNION not in str(path)]


def _part(split: str, files: list[Path], root: Path) -> Part:
    """The images and masks among the pictures of one part."""
    in_image_folders = [path for path in files if _words(path, root) & _OF_IMAGES]
    others = [path for path in files if not _words(path, root) & _OF_IMAGES]
    if not in_image_folders or not others:
        owners = mask_names.Owners(path.stem for path in files)
        others = [path for path in files if _owner(owners, path.stem, whole=False)[0]]
        in_image_folders = [path for path in files if path not in set(others)]
    images: dict[str, Path] = {}
    for path in in_image_folders:
        if path.stem in images:
            return Part(split, {})  # two pictures of one name: whose mask is meant?
        images[path.stem] = path
    part, owners = Part(split, images), mask_names.Owners(images)
    for path in others:
        image, suffix = _owner(owners, path.stem, whole=True)
        if image is not None:
            name = pairing.class_of_suffix(suffix) or _class_of_folders(path, image, root)
            part.masks.setdefault(name, {}).setdefault(image, []).append(path)
    return part


def _owner(owners: mask_names.Owners, stem: str, whole: bool) -> tuple[str | None, str]:
    """The image that a mask is called after, and what follows; case_2 is no mask of case."""
    image, suffix = owners.of(stem, whole=whole)
    is_number = bool(suffix) and not mask_names.without_number(suffix)
    return (None, "") if is_number else (image, suffix)


def _words(path: Path, root: Path) -> set[str]:
    """The words in the names of the folders of a file, below the root."""
    folders = path.relative_to(root).parts[:-1]
    return {word for name in folders for word in re.split(r"[\W_\d]+", name.lower()) if word}


def _class_of_folders(path: Path, image: str, root: Path) -> str:
    """The name of the nearest folder that says more than that it holds masks; "" for none."""
    for name in reversed(path.relative_to(root).parts[:-1]):
        name_words = {word for word in re.split(r"[\W_\d]+", name.lower()) if word}
        if not name_words or name == image or name_words & _OF_MASKS:
            continue
        if name.lower() not in tables.SPLITS:
            return name
    return ""


def _class_for(column: str, columns: list[str], names: set[str], root: Path) -> str:
    """The class in the files that a mask column stands for.

    Raises:
        DataError: there are several, and none is called so.
    """
    by_key = {name.lower(): name for name in names}
    if column.lower() in by_key:
        return by_key[column.lower()]
    if len(columns) == 1 and len(names) == 1:
        return next(iter(names))
    if len(columns) == 1 and "" in names:
        return ""
    raise DataError(
        f"{root}: no masks of {column!r}; found those of {', '.join(sorted(names)) or 'none'}; set "
        "class_names to some of these"
    )


def _source(stem: str) -> str:
    """The name of a picture without what Roboflow puts behind it."""
    match = _ROBOFLOW.fullmatch(stem)
    return match["source"] if match else stem


def _notes(tree: Iterable[Part], used: set[str]) -> list[str]:
    """Notes on images without masks, and on masks that are not used."""
    notes = []
    for part in tree:
        with_mask = {stem for of_image in part.masks.values() for stem in of_image}
        without = [path for stem, path in part.images.items() if stem not in with_mask]
        notes += pairing.halves(without, "image without a mask", "images without a mask")
        left_out = [
            path
            for name, of_image in part.masks.items()
            if name not in used
            for paths in of_image.values()
            for path in paths
        ]
        notes += pairing.halves(left_out, "mask of another class", "masks of other classes")
    return notes
