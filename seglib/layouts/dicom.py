"""DICOM as archives export it: folders of patients, studies and series, labels among them.

A series has the labels (DICOM SEG or RTSTRUCT) that refer to it by its UID, wherever they lie.
Those of several files, such as one for each structure, are united.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from .. import hosts
from ..errors import DataError
from ..formats import channels, dicom_folders, segments
from . import pairing, patients
from .volumes import Row, case_table, half_pairs, volume_rows


def scan_dicom(root: str | Path, cfg: Any) -> pd.DataFrame:
    """The series below a folder that a DICOM SEG or an RTSTRUCT refers to.

    Patients are told apart by PatientID, or by the first folder below `root` where it is missing.

    Raises:
        DataError: no series with labels, or a task that needs other masks.
    """
    root = Path(root)
    content = dicom_folders.read(root)
    labels_of: dict[str, list[Path]] = {}
    unreadable = []
    for path in content.segments:
        try:
            for uid in segments.referenced_series(path):
                labels_of.setdefault(uid, []).append(path)
        except DataError as error:
            unreadable.append(f"left out: {error}")
    rows: list[Row] = []
    notes: list[str] = unreadable
    with_labels = [series for series in content.series if series.uid in labels_of]
    names: set[str] = set()
    for series in hosts.progress(with_labels, desc="scan", leave=False):
        files = labels_of[series.uid]
        inside = series.path.relative_to(root) if series.path != root else Path(root.name)
        name = "_".join(inside.parts).replace("#", "_")
        names.add(name)
        patient = series.patient or inside.parts[0]
        labels = channels.join(files)
        rows += volume_rows(name, patient, series.path, labels, cfg, notes)
    uids = {series.uid for series in content.series}
    notes += half_pairs(
        [series.path for series in content.series if series.uid not in labels_of],
        [file for uid, files in labels_of.items() if uid not in uids for file in files],
    )
    if not rows:
        raise DataError(
            f"{root}: {len(content.series)} DICOM series and {len(content.segments)} files of "
            "labels (DICOM SEG, RTSTRUCT), but none refers to a series here; "
            f"found {pairing.contents(root)}" + "".join(f"; {note}" for note in notes[:3])
        )
    return patients.stated(case_table(rows, notes, cfg), "by PatientID")
