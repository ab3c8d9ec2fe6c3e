"""Single DICOM files as pictures: chest X-rays, mammograms, ultrasound, photographs.

Whether a DICOM file is a picture or a slice of a volume is told by its Modality. Grey values become
numbers where higher is brighter (`dicom_values.read`), colours RGB. Films and stacks of several
frames are refused.
"""

import functools
import os
from pathlib import Path

import numpy as np

from ..errors import DataError, first_line
from . import dicom_headers, dicom_values, orientation, signatures

SUFFIXES = ("", ".dcm", ".dicom", ".ima")  # DICOM files often have no suffix
# Modalities whose images are pictures of their own; those of others are slices of a volume.
MODALITIES = {
    *("CR", "DX", "MG", "RG", "IO", "PX", "XA", "RF", "US"),  # X-ray and ultrasound
    *("OP", "XC", "ES", "GM", "SM", "DMS", "SC", "OT"),  # photographs, endoscopes, screen shots
}


def is_picture(path: str | Path) -> bool:
    """Whether a path is a DICOM file that holds a picture, by its Modality."""
    return modality_of(path) in MODALITIES


def is_slice(path: str | Path) -> bool:
    """Whether a path is a DICOM file that holds a slice of a volume, such as one of a CT."""
    return modality_of(path) in ("CT", "MR", "PT", "NM")


def modality_of(path: str | Path) -> str:
    """The Modality of a DICOM file; "" of any other path."""
    if os.path.splitext(path)[1].lower() not in SUFFIXES:
        return ""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return _modality(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _modality(path: str, _size: int, _time: int) -> str:
    if os.path.isdir(path) or signatures.kind_of(path) != "a DICOM file":
        return ""
    try:
        return dicom_headers.modality(path)
    except Exception:  # pydicom raises many kinds on damaged files, which `read` reports
        return ""


def read(path: str | Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """The picture of a DICOM file: (H, W) of numbers or (H, W, 3) uint8, "L" or "RGB", and notes.

    Raises:
        DataError: damaged, several frames, or no decoder for its compression.
    """
    path = Path(path)
    if not is_picture(path):
        raise DataError(
            f"{path}: a DICOM file of Modality {modality_of(path) or 'missing'}, which is a slice "
            "of a volume; expected a picture: give the folder of its series"
        )
    header = dicom_headers.read_header(path)
    problem = dicom_headers.unlike_a_slice(header)
    if problem:
        raise DataError(f"{path}: {problem}")
    if int(header.get("SamplesPerPixel") or 1) > 1 or "PALETTE" in str(
        header.get("PhotometricInterpretation")
    ):
        return _colours(path), "RGB", ()
    array, notes = dicom_values.read([str(path)])
    return array[0], "L", tuple(notes)


def pixel_mm(path: str | Path) -> tuple[float, float] | None:
    """Height and width of a pixel in the patient in mm; None where the file does not tell.

    On the detector (ImagerPixelSpacing) an X-ray is larger than the patient. A PixelSpacing that
    only repeats it, without being calibrated, is not used.
    """
    header = dicom_headers.read_header(Path(path))
    in_patient, on_detector = (header.get(f"{of}PixelSpacing") for of in ("", "Imager"))
    if not in_patient or len(in_patient) != 2:
        return None
    if in_patient == on_detector and not header.get("PixelSpacingCalibrationType"):
        return None
    spacing = orientation.known_spacing([1, *in_patient])
    return spacing and spacing[1:]


def _colours(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, whichever way the colours are stored."""
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        data = pydicom.dcmread(path)
        pixels = pixel_array(data)  # YBR is converted to RGB
        if data.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, data)
    except Exception as error:  # pydicom and its decoders raise errors of many kinds
        advice = dicom_headers.advice(path, "the file is damaged: export it again")
        raise DataError(
            f"{path}: pixels not readable ({type(error).__name__}: {first_line(error)}); {advice}"
        ) from error
    if pixels.dtype == np.uint16:  # tables of colours have 16 bits
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"{path}: colours of type {pixels.dtype} and shape {pixels.shape}; expected RGB of 8 "
            "bits: save it as PNG"
        )
    return pixels
