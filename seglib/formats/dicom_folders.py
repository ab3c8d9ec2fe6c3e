"""DICOM files in folders of any depth: which series they form, and which files are labels of these.

Archives export a folder for each patient, with folders for studies and series in it, or all files
in one folder. A series that shares its folder with others is called `FOLDER#SeriesInstanceUID`.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import dicom_headers, dicom_pictures, segments, signatures

_DEPTH = 6  # patient, study, series and folders above them
_MAX_FILES = 200_000
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "PatientID"]


class Series(NamedTuple):
    """A series of slices.

    Attributes:
        path: its folder, or `FOLDER#UID` where the folder holds several.
        uid: SeriesInstanceUID.
        patient: PatientID, "" where it has none.
        n_files: how many slices it has.
    """

    path: Path
    uid: str
    patient: str
    n_files: int


class Content(NamedTuple):
    """The DICOM files below a folder.

    Attributes:
        series: the series of slices, without localizers; pictures such as X-rays are none.
        segments: the files of named segments (SEG, RTSTRUCT).
    """

    series: list[Series]
    segments: list[Path]


def read(root: str | Path, below: bool = True) -> Content:
    """The series and the files of segments in a folder, and in those below it."""
    series: list[Series] = []
    labels: list[Path] = []
    n_files = 0
    for folder, names in _folders(Path(root), below):
        n_files += len(names)
        if n_files > _MAX_FILES:
            break
        counts: Counter = Counter()
        patients: dict[str, str] = {}
        for name in names:
            path = folder / name
            if segments.kind_of(path) in (segments.SEG, segments.RTSTRUCT):
                labels.append(path)
                continue
            uid, patient = _series_of(path)
            if uid:
                counts[uid] += 1
                patients.setdefault(uid, patient)
        for uid, n_slices in counts.items():
            path = folder if len(counts) == 1 else folder.with_name(f"{folder.name}#{uid}")
            series.append(Series(path, uid, patients[uid], n_slices))
    return Content(series, labels)


def _folders(root: Path, below: bool) -> Iterator[tuple[Path, list[str]]]:
    """The visible folders, sorted, each with the names of the files that may be DICOM."""
    for folder, subfolders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if depth >= _DEPTH or not below:
            subfolders.clear()
        others = tuple(dicom_headers.OTHER_SUFFIXES)
        yield (
            Path(folder),
            sorted(
                name
                for name in files
                if not name.startswith(".")
                and not name.lower().endswith(others)
                and name.upper() not in dicom_headers.OTHER_NAMES
            ),
        )


def _series_of(path: Path) -> tuple[str, str]:
    """The series and the patient of a file with a slice; "" and "" for any other file."""
    import pydicom

    if signatures.kind_of(path) != "a DICOM file":
        return "", ""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        is_image = "Image" in getattr(header.get("SOPClassUID"), "name", "")
        is_slice = str(header.get("Modality") or "") not in dicom_pictures.MODALITIES
        if not is_image or not is_slice or dicom_headers.picture_kind(header):
            return "", ""
        uid, patient = header.get("SeriesInstanceUID"), header.get("PatientID")
        return str(uid or ""), str(patient or "").strip()
    except Exception:  # pydicom raises many kinds on damaged files, which `dicom` reports
        return "", ""
