"""Write masks as a DICOM Segmentation, which viewers and archives show on top of its series.

`dicom_seg_labels` reads such files.

The object refers to each slice of its series by UID and says where its frames lie, so that nothing
has to be resampled. For each class and slice it stores one frame with one bit for each pixel. A
class is called a "segment" and has a code of the SNOMED CT vocabulary that says which organ it is.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, files
from ..errors import ConfigError, DataError
from .orientation import Grid

# Class name -> code and meaning in SNOMED CT. A side, "left" or "right", has a code of its own.
SNOMED_CODES = {
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
ANATOMY = ("91723000", "Anatomical Structure")
TISSUE = ("85756007", "Tissue")
# Attributes of the slices that a Segmentation refers to or copies: none may be missing.
REQUIRED = """StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID FrameOfReferenceUID
    Modality PixelSpacing ImagePositionPatient ImageOrientationPatient""".split()
# Attributes of type 2: they must be present in a DICOM file, but may be empty.
TYPE_2 = """PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime
    AccessionNumber""".split()


def write(
    path: str | Path, masks: dict[str, np.ndarray], grid: Grid, about: str = "seglib"
) -> Path:
    """Masks as a binary DICOM Segmentation over the DICOM series that `grid` describes.

    A class is a segment: its number 1, 2, ... is its place in `masks`, its label the class name.
    Segments may overlap. Frames without a pixel of the class are left out, unless all masks are
    empty. Patient and study are copied from the series.

    Args:
        masks: class name -> bool (S, H, W) as displayed, in the shape of `grid`.
        grid: of a DICOM series with positions, for example `VolumePrediction.grid`.
        about: SeriesDescription and ContentDescription, at most 64 characters.

    Raises:
        ConfigError: highdicom is missing.
        DataError: no masks, or masks of another shape; `grid` does not describe a DICOM series with
            positions; a file of the series is gone, or lacks one of `REQUIRED`; highdicom refuses a
            value. No file is written then.
    """
    if not grid.files or not grid.oriented:
        kind = "a series without slice positions" if grid.files else "not a DICOM series"
        raise DataError(
            f"{grid.path}: {kind}; a DICOM Segmentation needs a placed series: write NIfTI instead"
        )
    if not masks:
        raise DataError(f"{path}: no masks; expected at least one class")
    segmentation = _segmentation(path, masks, grid, about)
    with files.replacing(path) as partial:
        segmentation.save_as(partial)
    return Path(path)


def _segmentation(path: str | Path, masks: dict[str, np.ndarray], grid: Grid, about: str) -> Any:
    """The Segmentation object, in memory; `path` is for messages."""
    try:
        import highdicom
    except ImportError as error:
        raise ConfigError(f"{path}: {error.name} is missing; run  pip install highdicom") from error
    # (slice, row, column, class), as the series stores its slices
    pixels = np.stack([grid.restore(mask) for mask in masks.values()], axis=-1)
    headers = [_header(file) for file in grid.files]
    _complete(headers, grid)
    content = _fingerprint(headers, pixels, [*masks, about])
    try:
        with warnings.catch_warnings():
            # The warning would print the patient's name, because names such as ANON-17 look odd.
            unusual_name = "The string .* unlikely to represent the intended person name"
            warnings.filterwarnings("ignore", unusual_name)
            segmentation = highdicom.seg.Segmentation(
                headers,
                pixels,
                "BINARY",
                [_segment(number, name) for number, name in enumerate(masks, 1)],
                series_instance_uid=_uid("series", content),
                series_number=100 + int(headers[0].get("SeriesNumber") or 0),
                sop_instance_uid=_uid("instance", content),
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
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = _uid("dimensions", content)
    return segmentation


def _fingerprint(headers: list[Any], pixels: np.ndarray, texts: list[str]) -> str:
    """A checksum of all that a Segmentation says.

    Its UIDs come from this, so that an archive takes the same result, sent twice, for one object.
    """
    slices = [str(header.SOPInstanceUID) for header in headers]
    digest = hashlib.sha256(
        "\n".join([__version__, *slices, *texts, *map(str, pixels.shape)]).encode()
    )
    digest.update(np.packbits(pixels.astype(bool)).tobytes())
    return digest.hexdigest()


def _uid(purpose: str, content: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[purpose, content])


def _header(file: str) -> Any:
    """The header of a slice, which must have everything that a Segmentation refers to."""
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        missing = ", ".join(name for name in REQUIRED if not header.get(name))
    except Exception as error:  # on damaged headers pydicom raises errors of many kinds
        raise DataError(
            f"{file}: not readable ({type(error).__name__}: {error}), though the series was read: "
            "a Segmentation refers to each of its files; put it back"
        ) from error
    if "PixelSpacing" not in missing and not all(mm > 0 for mm in header.PixelSpacing):
        missing = f"valid PixelSpacing (it is {list(map(float, header.PixelSpacing))})"
    if missing:
        raise DataError(
            f"{file}: no {missing}; a DICOM Segmentation refers to it: restore it, or write NIfTI "
            "instead"
        )
    return header


def _complete(headers: list[Any], grid: Grid) -> None:
    """Fill in what highdicom always reads although it may be missing; no file is changed."""
    first = headers[0]
    for name in TYPE_2:
        first.setdefault(name, "")
    if not (first.get("SliceThickness") or 0) > 0:
        if grid.spacing_mm is None:
            raise DataError(
                f"{grid.path}: no SliceThickness, and the slice distance is unknown; a DICOM "
                "Segmentation says how thick its frames are: restore SliceThickness, or write "
                "NIfTI instead"
            )
        # The file's axis 0 counts slices; `spacing_mm` is in the order of the displayed axes.
        first.SliceThickness = grid.spacing_mm[int(grid.orientation[0, 0])]
    # highdicom wants equal directions; `dicom` has refused those that differ by more than rounding.
    for header in headers:
        header.ImageOrientationPatient = first.ImageOrientationPatient


def _segment(number: int, name: str) -> Any:
    """The description of one segment with the codes of its organ.

    "left_kidney" is a kidney with the modifier left; a name without a code is called tissue.
    """
    from highdicom import AlgorithmIdentificationSequence, seg, sr

    parts = name.lower().replace("_", " ").split()
    # In "left ventricle" the side belongs to the name of the organ and is no modifier.
    sides = []
    if " ".join(parts) not in SNOMED_CODES:
        sides = [part for part in parts if part in SIDES]
    organ = " ".join(part for part in parts if part not in sides)
    if organ in SNOMED_CODES:
        codes = [ANATOMY, SNOMED_CODES[organ], *(SIDES[side] for side in sides)]
    else:
        codes = [TISSUE, TISSUE]
    category, kind, *modifiers = [sr.CodedConcept(code, "SCT", text) for code, text in codes]
    family = sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    algorithm = AlgorithmIdentificationSequence("seglib", family, __version__)
    segment = seg.SegmentDescription(number, name, category, kind, "AUTOMATIC", algorithm)
    if modifiers:
        kind_item = segment.SegmentedPropertyTypeCodeSequence[0]
        kind_item.SegmentedPropertyTypeModifierCodeSequence = modifiers
    return segment
