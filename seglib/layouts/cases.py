"""A folder for each case, with its volume, or one for each sequence, beside the labels.

- ITK-SNAP: `case01/image.nii.gz` with `case01/segmentation.nii.gz`;
- BraTS: `case01/case01_flair.nii.gz`, `case01_t1.nii.gz` ... with `case01/case01_seg.nii.gz`.

Several volumes of a case are its channels, in the order of `channel_names`, or by their names.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import DataError
from ..files import folded
from ..formats import channels
from . import numbers, pairing, patients, sequences
from .volumes import Row, case_table, half_pairs, nifti_files, volume_rows

# The end of the name of a label file, and what stands before it.
_WORD = r"(?:(?P<beginning>.*)[-_. ])?(?:segmentation|label|mask|seg|gt)s?"
_LABELS = re.compile(_WORD)
# Beside the labels, such a file is another version of them: segmentation_old, seg2.
_MORE_LABELS = re.compile(_WORD + r"(?:[-_. ].*|\d+)")


class _Folder(NamedTuple):
    """The content of one folder: sequence -> its file, and the label files."""

    path: Path
    images: dict[str, Path]
    labels: list[Path]


def scan_cases(root: str | Path, cfg: Any) -> pd.DataFrame:
    """A folder for each case: see the module. Patients are told apart by the folders' names.

    Raises:
        DataError: no such folders, or `channel_names` has a sequence that no case has.
    """
    root, notes = Path(root), []
    rows = case_rows(root, cfg, notes)
    if not rows:
        raise DataError(
            f"{root}: no folder of a case; expected such as case01/image.nii.gz with "
            f"case01/segmentation.nii.gz; found {pairing.contents(root)}"
        )
    return patients.judged(case_table(rows, notes, cfg))


def case_rows(root: Path, cfg: Any, notes: list[str]) -> list[Row]:
    """The rows of all folders of a case; notes are appended to `notes`."""
    content = [_content(folder) for folder in pairing.subfolders(root)]
    folders = [folder for folder in content if folder.images and folder.labels]
    names = _names(folders, cfg, root)
    label_files = [folder.labels[0] for folder in folders]
    shared = {"label_numbers": numbers.of_files(label_files, cfg)}
    rows = []
    for folder in folders:
        if names:
            present = [folder.images[name] for name in names if name in folder.images]
            cell = channels.join(present or folder.images.values())
            columns = {"channels": channels.SEPARATOR.join(names) if len(names) > 1 else ""}
        else:
            case = sequences.single(*folder.images.values(), cfg)
            cell, columns = case.cell, case.columns
        problem = _problem(folder, names)
        if problem:
            columns = {**columns, "problem": problem}
        name = folder.path.name
        rows += volume_rows(name, name, cell, folder.labels[0], cfg, notes, **shared, **columns)
    if folders:
        alone = [folder for folder in content if not (folder.images and folder.labels)]
        notes += half_pairs(
            [file for folder in alone for file in folder.images.values()],
            [file for folder in alone for file in folder.labels],
        )
    return rows


def _content(folder: Path) -> _Folder:
    """Which files of a folder are labels, and which sequences the others show."""
    files = nifti_files(folder)
    matches = {name: _LABELS.fullmatch(folded(name)) for name in files}
    if any(matches.values()):
        matches = {
            name: match or _MORE_LABELS.fullmatch(folded(name)) for name, match in matches.items()
        }
    labels = [files[name] for name, match in matches.items() if match]
    beginnings = {match["beginning"] or "" for match in matches.values() if match}
    images = {}
    for name, path in files.items():
        if not matches[name]:
            images[folded(_sequence(name, beginnings))] = path
    return _Folder(folder, images, labels)


def _sequence(name: str, beginnings: set[str]) -> str:
    """The name of a volume without the name of the case, which its labels begin with."""
    for beginning in beginnings:
        if beginning and folded(name).startswith(beginning):
            return name[len(beginning) :].strip("-_. ") or "image"
    return name


def _names(folders: list[_Folder], cfg: Any, root: Path) -> tuple[str, ...]:
    """The names of the sequences in the order of the channels; () where a case has one volume."""
    if max((len(folder.images) for folder in folders), default=1) < 2:
        return ()
    names = sorted({name for folder in folders for name in folder.images})
    return tuple(names[place] for place in channels.order(cfg.channels, names, root))


def _problem(folder: _Folder, names: tuple[str, ...]) -> str:
    """Why the case of a folder cannot be used, "" if it can."""
    if len(folder.labels) > 1:
        labels = ", ".join(path.name for path in folder.labels)
        return f"which labels are its own is not clear: {labels}; move others away"
    missing = [name for name in names if name not in folder.images]
    return f"its sequence {', '.join(missing)} is missing; add the file" if missing else ""
