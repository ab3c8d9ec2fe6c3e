"""A data set and its split in nnU-Net's raw layout, so that both are trained on the same patients.

nnU-Net reads `nnUNet_raw/Dataset001_NAME` with `imagesTr`, `labelsTr` and `dataset.json`. It takes
the split from `splits_final.json`, which belongs into `nnUNet_preprocessed/Dataset001_NAME`.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import case_io, files, folds
from .errors import ConfigError, DataError
from .formats import channels, images, nifti, stacks, volumes

SPLITS = "splits_final.json"
_NAME = re.compile(r"Dataset\d{3}_\w+")
PARTS = {"test": ("imagesTs", "labelsTs")}  # the other parts go to imagesTr and labelsTr


class _Case(NamedTuple):
    """A volume or a picture: its name in the export, its row of the case table, and its part."""

    name: str
    row: dict[str, Any]
    part: str


def export(store: Any, folder: str | Path, cfg: Any, n_folds: int | None = None) -> Path:
    """Write the files of a store as a data set of nnU-Net, in their original size and values.

    Volumes become `.nii.gz` with their geometry (several channels on the grid of the first one),
    pictures `.png` of 8 bits. Label maps hold the class numbers; what is ignored gets nnU-Net's
    label `ignore`. The test part lies in `imagesTs` and `labelsTs`, which nnU-Net does not train.

    Args:
        store: of `prepare.build`; its split is written.
        folder: `nnUNet_raw`, which receives the next `DatasetNNN_<preset>`; or such a folder.
        n_folds: None writes one split, the train and val part of the store. A number writes the
            folds by which `training.cross_validate` scores, of all cases.

    Returns:
        The folder of the data set.

    Raises:
        DataError: the folder exists, classes overlap, pictures and volumes are mixed, or a file
            cannot be read.
        ConfigError: fewer than two folds, or more than there are patients.
    """
    target = _target(Path(folder), cfg)
    if n_folds is None:
        table = store.cases
        fold = None
    else:
        table, fold = folds.draw(cfg, store, n_folds)
        table = table.assign(split="train", fold=fold)
    cases = _cases(table)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".nnunet_", dir=target.parent) as scratch:
        partial = Path(scratch) / target.name
        has_ignored, names = False, []
        for case in cases:
            ignored, names = _write_case(case, partial, cfg, store.info["inverted"])
            has_ignored |= ignored
        description = _description(cases, names, has_ignored, cfg)
        files.write_text(partial / "dataset.json", json.dumps(description, indent=2))
        splits = _splits(cases, n_folds)
        files.write_text(partial / SPLITS, json.dumps(splits, indent=2))
        partial.rename(target)
    return target


def _target(folder: Path, cfg: Any) -> Path:
    """The folder of the data set, which must not exist."""
    if _NAME.fullmatch(folder.name):
        if folder.exists():
            raise DataError(
                f"{folder}: exists already; choose a new folder, nothing is overwritten"
            )
        return folder
    numbers = [int(path.name[7:10]) for path in folder.glob("Dataset[0-9][0-9][0-9]_*")]
    number = max(numbers, default=0) + 1
    if number > 999:
        raise DataError(f"{folder}: no number is left for another data set; choose another folder")
    return folder / f"Dataset{number:03d}_{cfg.preset}"


def _cases(table: pd.DataFrame) -> list[_Case]:
    """The cases of a table: one for each volume, and for each picture."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        in_volume = volumes.is_volume(row["image"])
        key = (row["patient"], row["volume"]) if in_volume else ("", row["case"])
        rows.setdefault(key, row)
    kinds = {volumes.is_volume(row["image"]) for row in rows.values()}
    if len(kinds) > 1:
        raise DataError(
            "nnunet: pictures and volumes in one data set, and nnU-Net takes one kind of file; "
            "filter the case table and export each kind"
        )
    names: dict[str, int] = {}
    cases = []
    for (_, name), row in rows.items():
        safe = re.sub(r"[^\w.-]+", "-", str(name))
        names[safe] = names.get(safe, 0) + 1
        unique = safe if names[safe] == 1 else f"{safe}-{names[safe]}"
        cases.append(_Case(unique, row, row["split"]))
    return cases


def _write_case(
    case: _Case, target: Path, cfg: Any, inverted: dict[str, bool]
) -> tuple[bool, list[str]]:
    """Write one case; returns whether a pixel is ignored, and the names of its channels."""
    image_folder, label_folder = PARTS.get(case.part, ("imagesTr", "labelsTr"))
    for name in (image_folder, label_folder):
        (target / name).mkdir(parents=True, exist_ok=True)
    beginning = target / image_folder / case.name
    label_path = target / label_folder / case.name
    if not volumes.is_volume(case.row["image"]):
        pixels = case_io.read_picture(case.row["image"], cfg.replace(context_slices=0))
        names = _write_picture(beginning, pixels, case.row)
        labels = _labels(case.row, cfg, inverted, pixels.shape[:2])
        images.write_png(Path(f"{label_path}.png"), _with_ignored(labels, cfg))
        return bool((labels == images.IGNORE).any()), names
    parts = channels.split(case.row["image"])
    stack = stacks.read(parts, cfg)
    source = parts[0] if volumes.is_nifti(parts[0]) else None
    for place, voxels in enumerate(stack.voxels):
        path = Path(f"{beginning}_{place:04d}.nii.gz")
        nifti.write(path, stack.grid.restore(voxels), stack.grid, source, voxels.dtype)
    depth = stack.grid.shape[0]
    planes = [
        _labels({**case.row, "slice": number}, cfg, inverted, stack.grid.shape[1:])
        for number in range(depth)
    ]
    labels = np.stack(planes)
    restored = stack.grid.restore(_with_ignored(labels, cfg))
    nifti.write(Path(f"{label_path}.nii.gz"), restored, stack.grid, source)
    names = list(channels.names_of(case.row.get("channels", "")))
    if not names:
        names = ["CT" if cfg.window_level is not None else "image"]
    return bool((labels == images.IGNORE).any()), names


def _write_picture(beginning: Path, pixels: np.ndarray, row: dict[str, Any]) -> list[str]:
    """Write the channels of a picture: colours as one file, others as a file each."""
    names = list(channels.names_of(row.get("channels", "")))
    if pixels.shape[2] == 3 and not names:
        images.write_png(Path(f"{beginning}_0000.png"), pixels)
        return ["R", "G", "B"]
    for place in range(pixels.shape[2]):
        images.write_png(Path(f"{beginning}_{place:04d}.png"), pixels[..., place])
    return names or [f"channel {place}" for place in range(pixels.shape[2])]


def _labels(
    row: dict[str, Any], cfg: Any, inverted: dict[str, bool], shape: tuple[int, int]
) -> np.ndarray:
    """(H, W) uint8: the class numbers of a picture or slice, 255 where nothing is known.

    Raises:
        DataError: two classes overlap.
    """
    planes = case_io.read_masks(row, cfg, inverted, shape)[1]
    if planes.shape[2] == 1:
        return planes[..., 0]
    structure = planes == 1
    if (structure.sum(axis=2) > 1).any():
        raise DataError(
            f"{row['case']}: its classes {', '.join(cfg.class_names)} overlap, and a label map of "
            "nnU-Net has one class a pixel; export classes that exclude each other"
        )
    numbers = (structure * np.arange(1, planes.shape[2] + 1)).sum(axis=2).astype(np.uint8)
    unknown = (numbers == 0) & (planes == images.IGNORE).any(axis=2)
    return np.where(unknown, images.IGNORE, numbers).astype(np.uint8)


def _n_labels(cfg: Any) -> int:
    """The number of labels with the background, and so the number of `ignore`."""
    return cfg.n_classes if cfg.task == "multiclass" else cfg.n_classes + 1


def _with_ignored(labels: np.ndarray, cfg: Any) -> np.ndarray:
    """Labels with the number of nnU-Net's `ignore`, which follows those of the classes."""
    return np.where(labels == images.IGNORE, _n_labels(cfg), labels).astype(np.uint8)


def _description(cases: list[_Case], names: list[str], has_ignored: bool, cfg: Any) -> dict:
    """The content of `dataset.json`."""
    labels = {"background": 0}
    labels |= {name: k for k, name in enumerate(cfg.structures.values(), start=1)}
    if has_ignored:
        labels["ignore"] = _n_labels(cfg)
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": labels,
        "numTraining": sum(case.part != "test" for case in cases),
        "file_ending": ".nii.gz" if volumes.is_volume(cases[0].row["image"]) else ".png",
    }


def _splits(cases: list[_Case], n_folds: int | None) -> list[dict[str, list[str]]]:
    """The content of `splits_final.json`: the names to train and to validate on, for each fold."""
    if n_folds is None:
        parts = {
            part: [case.name for case in cases if case.part == part] for part in ("train", "val")
        }
        if not parts["train"] or not parts["val"]:
            raise ConfigError(
                "nnunet: a split needs images to train and to validate on; set val_split, or "
                "n_folds"
            )
        return [parts]
    return [
        {
            "train": [case.name for case in cases if case.row["fold"] != number],
            "val": [case.name for case in cases if case.row["fold"] == number],
        }
        for number in range(n_folds)
    ]


def advice(target: Path) -> str:
    """What to do with the export, in a sentence."""
    number = int(target.name[7:10])
    return (
        f"nnU-Net: set nnUNet_raw to {target.parent}, run nnUNetv2_plan_and_preprocess -d "
        f"{number}, copy {SPLITS} to nnUNet_preprocessed/{target.name}, then "
        f"nnUNetv2_train {number} 2d 0"
    )
