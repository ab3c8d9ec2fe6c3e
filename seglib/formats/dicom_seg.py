"""Masks as a DICOM Segmentation object, which viewers and archives lay over the series that it was made from."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, files
from ..errors import ConfigError, DataError
from . import orientation

# Class name -> code and meaning in SNOMED CT; "left" and "right" of other organs are codes of their own.
ORGANS = {
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "pancreas": ("15776009", "Pancreas"),
    "kidney": ("64033007", "Kidney"),
    "bowel": ("113276009", "Intestine"),
    "lung": ("39607008", "Lung"),
    "myocardium": ("74281007", "Myocardium"),
    "left ventricle": ("87878005", "Left ventricle"),
    "right ventricle": ("53085002", "Right ventricle"),
}
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
ANATOMY, TISSUE = ("91723000", "Anatomical Structure"), ("85756007", "Tissue")
NEEDED = """StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID FrameOfReferenceUID Modality PixelSpacing
    ImagePositionPatient ImageOrientationPatient""".split()
TYPE_2 = "PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber".split()


def write(
    path: str | Path, masks: dict[str, np.ndarray], grid: orientation.Grid, about: str = "seglib"
) -> Path:
    """Masks as a binary DICOM Segmentation, a segment a class, over the DICOM series that `grid` describes.

    Segments have the numbers 1, 2, ... in the order of `masks` and the class names as labels; they may overlap. Frames
    without a pixel of the class are left out, unless all masks are empty. Patient and study are those of the series.

    Args:
        masks: class name -> bool (S, H, W) as displayed, in the shape of `grid`.
        grid: of a DICOM series, with its positions, for example `VolumePrediction.grid`.
        about: SeriesDescription and ContentDescription, at most 64 characters.

    Raises:
        ConfigError: highdicom is missing.
        DataError: no masks, or of another shape; `grid` is not of a DICOM series with positions; a file of it is gone,
            or lacks what a Segmentation refers to; highdicom refuses a value. No file is left.
    """
    try:
        import highdicom
    except ImportError as error:
        raise ConfigError(f"{path}: {error.name} is missing; run  pip install highdicom") from error
    if not grid.files or not grid.oriented:
        found = "a series without slice positions" if grid.files else "not a DICOM series"
        raise DataError(
            f"{grid.path}: {found}; a DICOM Segmentation needs a placed series: write NIfTI instead"
        )
    if not masks:
        raise DataError(f"{path}: no masks; expected at least one class")
    pixels = np.stack(
        [grid.restore(mask) for mask in masks.values()], axis=-1
    )  # (slice, row, column, class)
    headers = [_header(file) for file in grid.files]
    try:
        with warnings.catch_warnings():  # of names like ANON-17, which it prints
            warnings.filterwarnings(
                "ignore", "The string .* unlikely to represent the intended person name"
            )
            made = highdicom.seg.Segmentation(
                _filled(headers, grid),
                pixels,
                "BINARY",
                [_segment(*item) for item in enumerate(masks, 1)],
                series_instance_uid=highdicom.UID(),
                series_number=100 + int(headers[0].get("SeriesNumber") or 0),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="seglib",
                manufacturer_model_name="seglib",
                software_versions=__version__,
                device_serial_number="0",
                content_description=about,
                series_description=about,
                specific_character_set="ISO_IR 192",
            )
    except Exception as error:  # highdicom raises errors of many kinds
        problem = f"cannot be described as a DICOM Segmentation ({type(error).__name__}: {error})"
        raise DataError(
            f"{grid.path}: {problem}; correct that value, or write NIfTI instead"
        ) from error
    with files.replacing(path) as partial:
        made.save_as(partial)
    return Path(path)


def _header(file: str) -> Any:
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        lacking = ", ".join(name for name in NEEDED if not header.get(name))
    except Exception as error:  # pydicom raises what its parser stumbles over
        raise DataError(
            f"{file}: not readable ({type(error).__name__}: {error}); copy it again"
        ) from error
    if lacking:
        raise DataError(
            f"{file}: no {lacking}; a DICOM Segmentation refers to it: restore it, or write NIfTI instead"
        )
    return header


def _filled(headers: list[Any], grid: orientation.Grid) -> list[Any]:
    """The headers with what highdicom reads from the first one, even where it may be absent or empty."""
    first = headers[0]
    for name in TYPE_2:
        first.setdefault(name, "")
    first.SliceThickness = first.get("SliceThickness") or grid.spacing_mm[grid.axes.index(0)]
    for header in (
        headers
    ):  # highdicom wants equal numbers; `dicoms` refuses more than a difference of rounding
        header.ImageOrientationPatient = first.ImageOrientationPatient
    return headers


def _segment(number: int, name: str) -> Any:
    """The description of one segment, with the codes of its organ: "left_kidney" is a kidney with the modifier left."""
    from highdicom import AlgorithmIdentificationSequence, seg, sr

    words = name.lower().replace("_", " ").split()
    sides = [] if " ".join(words) in ORGANS else [word for word in words if word in SIDES]
    organ = ORGANS.get(" ".join(word for word in words if word not in sides))
    category, kind, *modifiers = [
        sr.CodedConcept(code, "SCT", meaning)
        for code, meaning in (
            (ANATOMY, organ, *(SIDES[side] for side in sides)) if organ else (TISSUE, TISSUE)
        )
    ]
    family = sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    algorithm = AlgorithmIdentificationSequence("seglib", family, __version__)
    segment = seg.SegmentDescription(number, name, category, kind, "AUTOMATIC", algorithm)
    if modifiers:
        segment.SegmentedPropertyTypeCodeSequence[
            0
        ].SegmentedPropertyTypeModifierCodeSequence = modifiers
    return segment
