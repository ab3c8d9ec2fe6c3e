"""List folders, pair images with their masks by name, and name the mask columns for a task."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from ..errors import DataError
from ..formats.images import SUFFIXES, UNION

MASK_SUFFIXES = ("", "_mask", "_segmentation", "_masks", "_seg", "-mask")
# Name of a folder -> the part of the split that it holds.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def pair(images: Path, mask_folders: Iterable[Path], column: str) -> pd.DataFrame:
    """The case table of one folder of pictures; `column` receives the mask files.

    Each of `mask_folders` is searched for the image's stem, alone or with one of `MASK_SUFFIXES`.
    Masks from several folders are united; where one folder lacks its file, the cell is empty.
    `attrs["notes"]` lists what could not be paired.
    """
    image_files = pictures(images)
    masks_by_folder = [pictures(folder) for folder in mask_folders]
    rows, notes, used = [], [], set()
    for stem, image in image_files.items():
        masks = []
        for files in masks_by_folder:
            name = next((stem + suffix for suffix in MASK_SUFFIXES if stem + suffix in files), None)
            if name is not None:
                used.add(files[name])
                masks.append(files[name])
        if 0 < len(masks) < len(masks_by_folder):
            notes.append(
                f"{image.name}: only {len(masks)} of its {len(masks_by_folder)} masks exist "
                f"({masks[0].parent.name})"
            )
            masks = []  # with an incomplete union, a part of the structure would be background
        rows.append(
            {
                "case": stem,
                "patient": stem,
                "split": "",
                "image": str(image),
                column: UNION.join(map(str, masks)),
            }
        )
    for files in masks_by_folder:
        unused = [path for path in files.values() if path not in used]
        notes += [f"{path.parent.name}/{path.name}: mask without an image" for path in unused]
    cases = pd.DataFrame(rows, columns=["case", "patient", "split", "image", column])
    cases.attrs["notes"] = notes
    return cases


def pair_classes(images: Path, folders: Mapping[str, Path | None]) -> pd.DataFrame:
    """The case table of pictures whose masks lie in one folder for each class.

    Args:
        folders: class -> folder of its masks; None: no mask exists.
    """
    tables = {
        name: pair(images, [folder] if folder else [], name) for name, folder in folders.items()
    }
    # All tables have the same images; each adds the column of its class to the first one.
    cases = next(iter(tables.values()))
    cases = cases.assign(**{name: table[name] for name, table in tables.items()})
    cases.attrs["notes"] = [note for table in tables.values() for note in table.attrs["notes"]]
    return cases


def for_task(
    cases: pd.DataFrame, column: str, task: str, class_names: Iterable[str], source: Path
) -> pd.DataFrame:
    """Rename `column`, which holds one mask for each image, to the column that the task needs.

    Args:
        source: the folder that error messages name.

    Raises:
        DataError: one mask for each image is not what the task needs.
    """
    class_names = list(class_names)
    if task == "binary":
        return cases.rename(columns={column: class_names[0]})
    if task == "multilabel":
        raise DataError(
            f"{source}: one mask file an image, but a multilabel network needs a mask file a "
            f"class; expected a folder a class, such as {source / class_names[0]}, or set "
            "task='multiclass' with the background as first class"
        )
    # Left and right masks can be united as one structure, but not as a map of class numbers.
    united = cases[column].str.contains(UNION, regex=False)
    if united.any():
        names = ", ".join(Path(path).name for path in cases[column][united].iloc[0].split(UNION))
        raise DataError(
            f"{source}: several mask files an image ({names}), but a multiclass network needs one "
            "label map an image; set task='binary', or write the label maps"
        )
    return cases.rename(columns={column: "labels"})


def pictures(folder: Path) -> dict[str, Path]:
    """Stem -> file of all pictures in a folder, in natural order (2 before 10).

    Raises:
        DataError: a name that the case table cannot hold, or two files of one stem.
    """
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    by_stem: dict[str, Path] = {}
    for file in sorted(files, key=_natural_order):
        if UNION in str(file):
            raise DataError(
                f"{file}: the character {UNION!r} separates mask files; rename the file or its "
                "folder"
            )
        if not _is_text(file.name):
            raise DataError(
                f"{file.parent}: the name {ascii(file.name)} is not valid UTF-8; rename that file"
            )
        if file.stem in by_stem:
            raise DataError(
                f"{file}: {by_stem[file.stem].name} has the same name before the suffix; keep one "
                "of the two"
            )
        # A link keeps its own path: the name of its target need not have a suffix.
        by_stem[file.stem] = Path(os.path.abspath(file))
    return by_stem


def folders(root: Path, depth: int) -> list[Path]:
    """`root` and the visible folders down to `depth` levels below it."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with images and masks")
    level, result = [root], [root]
    for _ in range(depth):
        level = [folder for parent in level for folder in subfolders(parent)]
        result += level
    return result


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    return [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith(".")]


def contents(root: Path) -> str:
    """What lies in a folder, for an error message: eight names at most."""
    if not root.is_dir():
        return "no such folder"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    if not names:
        return "an empty folder"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _natural_order(file: Path) -> list[int | str]:
    """A sort key that compares digits in names as numbers."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if part.isdigit() else part for part in parts]


def _is_text(name: str) -> bool:
    """Whether the name is valid UTF-8, as a table needs it; names in old archives may not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
