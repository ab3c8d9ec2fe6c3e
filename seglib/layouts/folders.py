"""Folders of images and masks of equal names, pictures or volumes, as case tables.

`scan_images_masks` takes every picture as a case and a patient of its own (layouts `images_masks`
and `train_val`); `scan_slices` reads from the names of pictures which slice of which volume they
show (layout `slices`). `scan_volume_pairs` takes volumes and labels that share one folder (layout
`volume_pairs`).
"""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from .. import tables
from ..errors import DataError
from ..formats import channels, mask_names, volumes
from . import numbers, pairing, patients, sequences
from .cases import case_rows
from .volumes import (
    Row,
    case_table,
    half_pairs,
    nifti_files,
    segment_files,
    volume_rows,
    with_patients,
)

# Names of single slices; the first pattern that fits counts. Copies of the Decathlon put a running
# number of the slice first.
SLICE_NAMES = (
    r"(?P<slice>\d+)_(?P<volume>[a-z]+_\d+)",  # 10019_spleen_3: slice 10019 of volume spleen_3
    r"(?P<volume>.+)_(?P<slice>\d+)",  # 10004_21057_7: slice 7 of volume 10004_21057
)


def scan_images_masks(root: str | Path, cfg: Any) -> pd.DataFrame:
    """`images` with `masks` (or `labels`), at the root and below `train`, `val` and `test`.

    Masks match by stem, also with a suffix such as `_mask` or `_segmentation`. Each image has one
    mask file, or, for a network with several overlapping classes, one for each class in
    `masks/<class>`. Patients are told apart by the names, see `patients.by_names`.

    Raises:
        DataError: no such folders, or a task that needs other masks.
    """
    root = Path(root)
    folders = pairing.folders(root, depth=1)
    folders = [folder for folder in folders if folder == root or _split_of(folder, root)]
    rows, notes = _rows(folders, root, cfg, slice_names=False)
    naming = patients.by_names(row["patient"] for row in rows)
    # Images of train, val and test may share their names: put the part before them.
    if len({row["case"] for row in rows}) < len(rows):
        # Where each name is a patient of its own, the parts count anew, and 1 is another patient.
        columns = ("case", "volume") if naming.how else ("case", "volume", "patient")
        for row in rows:
            names = [name for name in columns if row.get(name)]
            row |= {name: f"{row['split']}_{row[name]}" for name in names}
    return with_patients(case_table(rows, notes, cfg))


def scan_slices(root: str | Path, cfg: Any) -> pd.DataFrame:
    """Slices as pictures: `images` with `labels` (or `masks`), at the root or one level below.

    The name tells volume and number of a slice, see `SLICE_NAMES`; volumes tell the patient:
    `<patient>_<series>_<slice>.png`, `<case>_<slice>.png` or `<slice>_<organ>_<case>.jpg`. The
    numbers in label maps are class numbers, as the RSNA competition has them (1 liver, 2 spleen
    ...), unless larger ones occur: see `numbers`.

    Raises:
        DataError: no such folders, two slices of one name, or a task that needs other masks.
    """
    root = Path(root)
    rows, notes = _rows(pairing.folders(root, depth=1), root, cfg, slice_names=True)
    # Where the names say nothing, a folder for each patient may.
    in_folders = [f"{row['folder']}/{row['patient']}" for row in rows]
    if not patients.by_names(row["patient"] for row in rows).how:
        if all(row["folder"] for row in rows) and patients.by_names(in_folders).how:
            rows = [{**row, "patient": name} for row, name in zip(rows, in_folders)]
    names = [row.get("volume") for row in rows if not volumes.is_volume(row["image"])]
    if len(names) > 1 and names[0] and len(set(names)) == 1:
        notes.append(
            f"patients: all {len(names)} pictures were taken for slices of one volume, "
            f"{names[0]!r}, so that no patient is left for a test; if each is of a patient of "
            'its own, set layout = "images_masks"'
        )
    return with_patients(case_table(rows, notes, cfg))


def scan_volume_pairs(root: str | Path, cfg: Any) -> pd.DataFrame:
    """Volumes and labels in one folder whose names differ in a word: `image_1` with `label_1`.

    Other words are those of `mask_names.by_words`, such as img, volume and mask, seg, segmentation.
    Instead, a folder for each case may hold `image.nii.gz` with `label.nii.gz`, see `cases`.
    Patients are told apart by the names, see `patients.by_names`.

    Raises:
        DataError: no such files, two volumes of one name, or a task that needs other masks.
    """
    root = Path(root)
    notes: list[str] = []
    rows = _pairs_by_words(root, cfg, notes) or case_rows(root, cfg, notes)
    if not rows:
        raise DataError(
            f"{root}: no volume has labels; expected names that differ in one word only, such as "
            f"image_1.nii.gz and label_1.nii.gz (not label_001); found {pairing.contents(root)}; "
            "rename them"
        )
    return patients.judged(case_table(rows, notes, cfg))


def _pairs_by_words(folder: Path, cfg: Any, notes: list[str]) -> list[Row]:
    """The rows of the volumes in a folder that have labels there."""
    files = nifti_files(folder)
    pairs = mask_names.by_words(files, files)
    used = {name for own in pairs.values() for name in own}
    shared = {"label_numbers": numbers.of_files([files[name] for name in sorted(used)], cfg)}
    rows = []
    for name, own in pairs.items():
        columns = dict(shared)
        if len(own) > 1:
            names = ", ".join(files[label].name for label in own)
            columns["problem"] = f"which labels are its own is not clear: {names}; move others away"
        volume = folder.name if name.isalpha() else name
        rows += volume_rows(volume, volume, files[name], files[own[0]], cfg, notes, **columns)
    if pairs:
        others = [name for name in files if name not in pairs and name not in used]
        notes += half_pairs(
            [files[name] for name in others if not mask_names.names_labels(name)],
            [files[name] for name in others if mask_names.names_labels(name)],
        )
    return rows


def _rows(
    folders: list[Path], root: Path, cfg: Any, slice_names: bool
) -> tuple[list[Row], list[str]]:
    """The rows of all folders that hold a pair of `tables.PAIRS_OF_FOLDERS`, and notes."""
    rows, notes, has_pair = [], [], False
    for folder in folders:
        pairs = [(folder / images, folder / masks) for images, masks in tables.PAIRS_OF_FOLDERS]
        pairs = [(images, masks) for images, masks in pairs if images.is_dir() and masks.is_dir()]
        if not pairs:
            continue
        has_pair = True
        images, masks = pairs[0]
        split = _split_of(folder, root)
        cases = []
        if not volumes.is_series(images):
            cases += _pictures(images, masks, cfg, notes, slice_names)
        cases += _volumes(images, masks, cfg, notes, split)
        name = "" if folder == root else folder.name
        rows += [{**row, "split": split, "folder": name} for row in cases]
    if not has_pair:
        raise DataError(
            f"{root}: no pair of folders images and masks, or images and labels; "
            f"found {pairing.contents(root)}"
        )
    _refuse_a_folder_an_image(root, rows, cfg)
    return rows, notes


def _refuse_a_folder_an_image(root: Path, rows: list[Row], cfg: Any) -> None:
    """Raise `DataError` where no mask fits, and the root is one of many folders of an image each.

    The nuclei of the Data Science Bowl are published so: NAME/images/NAME.png, and a mask for each
    nucleus in NAME/masks.
    """
    names = [row["case"] for row in rows]
    has_mask = any(row.get(column) for row in rows for column in cfg.mask_columns)
    if names != [root.absolute().name] or has_mask:
        return
    above = root.absolute().parent
    n_alike = sum(
        (folder / "images").is_dir() and (folder / "masks").is_dir()
        for folder in pairing.subfolders(above)
    )
    if n_alike > 1:
        raise DataError(
            f"{root}: no mask has the name of an image, and it is one of {n_alike} folders with "
            "images and masks of their own; where each shows one image and a mask for each of its "
            "structures, unite them: python -m seglib prepare "
            f"--source_images {shlex.quote(str(above))} --output DIR, then train on DIR"
        )


def _split_of(folder: Path, root: Path) -> str:
    """The part of the split (train, val, test) that a folder is named after; "" for none."""
    return "" if folder == root else tables.SPLITS.get(folder.name.lower(), "")


def _pictures(
    images: Path, masks: Path, cfg: Any, notes: list[str], slice_names: bool
) -> list[Row]:
    """One row for each picture."""
    table = _paired(images, masks, cfg)
    notes += table.attrs["notes"]
    rows = table.to_dict("records")
    if cfg.task == "multiclass":
        label_files = [row["labels"] for row in rows if row["labels"]]
        shared = {
            "label_numbers": numbers.of_files(label_files, cfg, documented=True),
            "annotated": ",".join(cfg.class_names),
        }
        rows = [{**row, **shared} for row in rows]
    return [_with_slice(row) for row in rows] if slice_names else rows


def _paired(images: Path, masks: Path, cfg: Any) -> pd.DataFrame:
    """The table of the pictures with the mask columns of the task."""
    by_name = {folder.name.lower(): folder for folder in pairing.subfolders(masks)}
    by_class = {name: by_name.get(name.lower()) for name in cfg.class_names}
    if cfg.task != "multiclass" and any(by_class.values()):
        return pairing.pair_classes(images, by_class)
    if cfg.task == "multilabel" or "class_names" in cfg.chosen:
        table = pairing.pair_suffixes(images, masks, cfg.class_names)
        if cfg.task != "multiclass" and (table[list(cfg.class_names)] != "").any(axis=None):
            return table
    table = _numbered_pictures(images, masks, cfg)
    if table is None:
        table = pairing.pair(images, [masks], "mask")
    # Only volumes, whose rows `_volumes` adds.
    if table.empty and (nifti_files(images) or _series(images)):
        return table
    return pairing.for_task(table, "mask", cfg.task, cfg.class_names, masks)


def _numbered_pictures(images: Path, masks: Path, cfg: Any) -> pd.DataFrame | None:
    """The table of pictures that are numbered as nnU-Net's, `case_0000.png` with `case.png`.

    None where the names are others.
    """
    files, labels = pairing.pictures(images), pairing.pictures(masks)
    cases = sequences.of_pictures(files, labels, cfg)
    if not cases:
        return None
    by_number = channels.by_number(files)
    used = {name for case in cases for name in by_number[case].values()}
    image_files = {name: case.path for name, case in cases.items()}
    image_files |= {name: path for name, path in files.items() if name not in used}
    table = pairing.pair(images, [masks], "mask", image_files=image_files)
    columns = {name: {"image": case.cell, **case.columns} for name, case in cases.items()}
    rows = table.to_dict("records")
    result = pd.DataFrame([{**row, **columns.get(row["case"], {})} for row in rows]).fillna("")
    result["label_numbers"] = numbers.of_files(labels.values(), cfg)
    result.attrs["notes"] = table.attrs["notes"]
    return result


def _with_slice(row: Row) -> Row:
    """The row with volume and slice as the picture's name has them; else unchanged."""
    patterns = SLICE_NAMES if patients.names_an_organ(row["case"]) else SLICE_NAMES[1:]
    matches = (re.fullmatch(pattern, row["case"]) for pattern in patterns)
    match = next((match for match in matches if match), None)
    if match is None:
        return row
    volume, number = match["volume"], int(match["slice"])
    return {
        **row,
        "case": f"{volume}_{number:03d}",
        "patient": volume,
        "volume": volume,
        "slice": number,
    }


def _volumes(images: Path, masks: Path, cfg: Any, notes: list[str], split: str) -> list[Row]:
    """One row for each slice of the volumes, NIfTI or DICOM, that have labels of the same name."""
    labels = nifti_files(masks) | _series(masks) | segment_files(masks)
    cases = sequences.of_folder(nifti_files(images) | _series(images), labels, cfg)
    by_label = {name: case.path for name, case in cases.items()}
    if volumes.is_series(images) and (volumes.is_series(masks) or len(labels) == 1):
        # They belong together by any name.
        own = masks if volumes.is_series(masks) else next(iter(labels.values()))
        labels = dict.fromkeys(by_label, own)
    labels = _named_as_volumes(by_label, labels)
    shared = {"split": split, "label_numbers": numbers.of_files(labels.values(), cfg)}
    matched = pairing.masks_by_image(by_label, labels)
    rows, alone = [], []
    for key, path in by_label.items():
        case = cases[key]
        files, columns = matched.of_image.get(key, []), {**shared, **case.columns}
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            columns["problem"] = f"several label files ({names}) cannot be united; keep one of them"
        elif key in matched.unclear:
            columns["problem"] = matched.unclear[key]
            files = [masks]  # none of the files is read
        if files:
            rows += volume_rows(key, key, case.cell, files[0], cfg, notes, **columns)
        else:
            alone.append(path)
    notes += half_pairs(alone, matched.without_image)
    return rows


def _series(folder: Path) -> dict[str, Path]:
    """The DICOM series of a folder by name: the folder itself, or the folders in it."""
    if not volumes.is_series(folder):
        return {path.name: path for path in pairing.subfolders(folder) if volumes.is_series(path)}
    # Its slices begin with the name of the case: amos_0001_slice0060.dcm, amos_0001_slice0061.dcm.
    names = [path.stem for path in folder.iterdir() if not path.name.startswith(".")]
    shared = os.path.commonprefix(names)
    name = re.sub(r"[-_ ]*(slice|sl|image|img|im|i)?[-_ ]*\d*$", "", shared, flags=re.IGNORECASE)
    return {name or folder.name: folder}


def _named_as_volumes(files: dict[str, Path], labels: dict[str, Path]) -> dict[str, Path]:
    """The label files by the names of their volumes where only a word differs: label01 of img01."""
    volume_of = {
        own[0]: name
        for name, own in mask_names.by_words(files, labels).items()
        if len(own) == 1 and name not in labels
    }
    return {volume_of.get(name, name): path for name, path in labels.items()}
