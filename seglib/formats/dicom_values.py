"""The values of DICOM slices: pixels decoded, corrected, rescaled, without their padding.

Stored numbers become values (CT: Hounsfield units, HU) by a slope and an intercept that may differ
from slice to slice, or by a table. In MONOCHROME1 high values are shown dark. Headers may be wrong
about signs and bits. Padding, the frame that scanners put around the patient, is no value at all.

`dicom_headers` has refused what holds no grey values. Taught in `03_rsna_finetuning`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from . import dicom_headers

# Beginning of a transfer syntax UID (the compression) -> package with a decoder for pydicom.
DECODERS = {
    "1.2.840.10008.1.2.4.9": "pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg-openjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.8": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",  # RLE
    "1.2.840.10008.1.2.4.5": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG
    "1.2.840.10008.1.2.4.7": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG lossless
}
# Modalities whose values have a unit, HU and Bq/mL. In MONOCHROME1 they are shown the other way
# round, but mean the same.
WITH_UNIT = ("CT", "PT")
# RescaleType of values that are Hounsfield units; where it is missing, the standard means HU.
HOUNSFIELD = ("", "HU", "HU_MOD")
_FLOATS = ("FloatPixelData", "DoubleFloatPixelData")


class _PixelFormat(NamedTuple):
    """How the stored numbers are encoded, according to the header."""

    signed: int
    bits_allocated: int
    bits_stored: int
    high_bit: int | None

    @property
    def shift(self) -> int:
        """How many bits lie below the lowest bit of a number."""
        return 0 if self.high_bit is None else self.high_bit + 1 - self.bits_stored


def read(files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The values of the files' pixels, (files, rows, columns) int16 or float32, and notes.

    Stored numbers become values by RescaleSlope and RescaleIntercept (CT: HU) or the Modality LUT;
    MONOCHROME1 is inverted so that higher is brighter, but for CT and PET, whose values have a
    unit. Display settings (VOI LUT, windows) are not applied. Numbers that contradict their header
    are corrected where the whole series proves it, see `_corrected`. Padding (PixelPaddingValue)
    becomes the smallest value of the patient, so that it takes no part in any scaling. The notes
    say so.

    Raises:
        DataError: a file is damaged, or no decoder for its compression is installed (names the
            package).
    """
    headers, planes = zip(*(_decode(Path(file)) for file in files))
    formats = [
        _PixelFormat(int(h.PixelRepresentation), h.BitsAllocated, h.BitsStored, h.get("HighBit"))
        for h in headers
    ]
    values: list[Any] = [None] * len(planes)
    padding = np.zeros((len(planes), *planes[0].shape), bool)
    notes = []
    # A series may mix pixel formats; what proves a header wrong holds for one format only.
    for pixel_format in dict.fromkeys(formats):
        members = [i for i, other in enumerate(formats) if other == pixel_format]
        raw = np.stack([planes[i] for i in members])
        own_headers = [headers[i] for i in members]
        numbers, padding[members], own_notes = _numbers(raw, own_headers, pixel_format)
        notes += own_notes
        for i, plane in zip(members, numbers):
            values[i] = _rescaled(files[i], plane, headers[i], pixel_format.bits_stored)
    array = np.stack(values)
    if padding.any():
        smallest = array[~padding].min()
        array[padding] = smallest
        notes.append(
            f"PixelPaddingValue ({padding.mean():.1%} of the pixels) is no part of the patient: "
            f"set to the smallest value of the patient, {smallest:g}"
        )
    return array, notes + _notes_on_scale(headers)


def read_labels(files: Sequence[str]) -> np.ndarray:
    """The label numbers of a series whose pixels are labels, (files, rows, columns) int64.

    The stored numbers are the labels. Where a slope and an intercept turn all of them into numbers
    that are not negative, those count, as programs may store a label map as values of CT. Padding,
    windows and other settings of the display are left aside: 0 is the background.

    Raises:
        DataError: as `read`.
    """
    headers, planes = zip(*(_decode(Path(file)) for file in files))
    stored = np.stack([plane.astype(np.int64) for plane in planes])
    scales = [
        (_number(h.get("RescaleSlope"), 1), _number(h.get("RescaleIntercept"), 0)) for h in headers
    ]
    scaled = np.stack([plane * slope + start for plane, (slope, start) in zip(stored, scales)])
    is_label_map = scaled.min() >= 0 and (scaled == np.rint(scaled)).all()
    return np.rint(scaled).astype(np.int64) if is_label_map else stored


def _notes_on_scale(headers: Sequence[Any]) -> list[str]:
    """What the headers say about the meaning of the values that a reader may not expect."""
    notes = []
    if any(_is_inverted(h) for h in headers):
        notes.append("MONOCHROME1: values inverted, so that higher is brighter")
    elif any(h.PhotometricInterpretation == "MONOCHROME1" for h in headers):
        notes.append("MONOCHROME1 (a setting of the display) not applied to values with a unit")
    if any(h.get("VOILUTSequence") for h in headers):
        notes.append("VOI LUT (a setting of the display) not applied")
    if any(h.get("RealWorldValueMappingSequence") for h in headers):
        notes.append(
            "RealWorldValueMappingSequence (such as SUV) not applied; the values are those of "
            "RescaleSlope and RescaleIntercept"
        )
    if headers[0].get("Modality") != "CT":
        return notes
    for name in ("RescaleSlope", "RescaleIntercept"):
        numbers = sorted({_number(h.get(name), 0) for h in headers})
        if len(numbers) > 1:
            notes.append(
                f"{name} differs between the slices of this CT ({numbers[0]:g} to "
                f"{numbers[-1]:g}): look whether all of them have the same contrast"
            )
    types = {str(h.get("RescaleType") or "") for h in headers}
    others = sorted(types - set(HOUNSFIELD))
    missing = [
        name
        for name in ("RescaleSlope", "RescaleIntercept")
        if headers[0].get(name) in (None, "") and not headers[0].get("ModalityLUTSequence")
    ]
    if others:
        notes.append(f"RescaleType {', '.join(others)}: the values may be no Hounsfield units")
    elif missing:
        notes.append(f"CT without {' and '.join(missing)}: the values may be no Hounsfield units")
    return notes


# ---- decoding


def _decode(path: Path) -> tuple[Any, np.ndarray]:
    """The header of a file without its pixels, and the stored numbers (rows, columns)."""
    import pydicom
    from pydicom.pixels import get_decoder, pixel_array

    package = ""
    try:
        header = pydicom.dcmread(path)
        dicom_headers.check_numbers(path, header)
        syntax = header.file_meta.get("TransferSyntaxUID")
        if not syntax or any(name in header for name in _FLOATS):
            raise DataError(f"{path}: {_no_integers(header)}")
        package = _decoder_package(syntax)
        if get_decoder(syntax).is_available:
            # Correcting unused bits slice by slice would break values above what BitsStored says:
            # `_corrected` decides from the whole series.
            plane = pixel_array(header, raw=True, correct_unused_bits=False)
            del header.PixelData
            return header, plane
    except (DataError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the panic of a decoder in Rust is not an `Exception`
        raise DataError(_not_decoded(path, error, package)) from error
    raise DataError(
        f"{path}: no decoder for {syntax.name} is installed; "
        f"pip install {package or 'a pydicom plugin'}"
    )


def _no_integers(header: Any) -> str:
    """What a file holds instead of pixels of whole numbers with a known encoding."""
    for name in _FLOATS:
        if name in header:
            return (
                f"{name}, pixels of floating-point numbers; expected whole numbers: convert it to "
                "NIfTI"
            )
    return "no TransferSyntaxUID, so how its pixels are encoded is unknown; correct the header"


def _not_decoded(path: Path, error: BaseException, package: str) -> str:
    """The error message for pixels that cannot be decoded."""
    # pydicom lists the error of each decoder on a line of its own, below a general one.
    lines = [line.strip() for line in str(error).splitlines()]
    reason = "; ".join(lines[1:] or lines)
    problem = f"{path}: pixels not readable ({type(error).__name__}: {reason})"
    otherwise = "the file is damaged: export it again from its archive"
    if package:
        otherwise = f"if other files open, it is damaged, else install {package}"
    return f"{problem}; {dicom_headers.advice(path, otherwise)}"


def _decoder_package(syntax: str) -> str:
    """The package that decodes a transfer syntax; "" for one that is not compressed."""
    beginnings = [beginning for beginning in DECODERS if syntax.startswith(beginning)]
    return DECODERS[max(beginnings, key=len)] if beginnings else ""


# ---- numbers


def _numbers(
    raw: np.ndarray, headers: Sequence[Any], pixel_format: _PixelFormat
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Stored numbers (n, rows, columns) corrected, where they are padding (bool), and notes."""
    notes = []
    if any(_has_overlay_in_pixels(header, pixel_format) for header in headers):
        raw = _lowest_bits(raw, pixel_format)
        notes.append(f"overlay in the bits above the {pixel_format.bits_stored} removed")
    is_ct = headers[0].get("Modality") == "CT"
    padding = _is_padding(raw, headers)
    if padding.all() or not padding.any():
        padding[:] = False
        numbers, note = _corrected(raw, pixel_format, is_ct)
    else:
        # Padding may need more bits than the header says: only the rest may prove it wrong.
        filled = np.where(padding, raw[~padding].min(), raw)
        numbers, note = _corrected(filled, pixel_format, is_ct)
    if note:
        notes.append(note)
    # Where signs are missing, the padding value is found only among the corrected numbers.
    padding |= _is_padding(numbers, headers)
    if padding.any() and _lies_inside(headers, numbers, padding):
        value = headers[0].PixelPaddingValue
        notes.append(f"PixelPaddingValue {value} lies among the values of the patient: left there")
        return _corrected(raw, pixel_format, is_ct)[0], np.zeros_like(padding), notes
    return numbers, padding, notes


def _has_overlay_in_pixels(header: Any, pixel_format: _PixelFormat) -> bool:
    """Whether the header says that an overlay lies in unused bits of the pixels."""
    for tag in header.keys():
        # The groups 6000, 6002, ... 60FF describe overlays; element 0102 is the bit of an overlay.
        if 0x6000 <= tag.group <= 0x60FF and tag.element == 0x0102:
            has_own_data = (tag.group, 0x3000) in header
            bits = dicom_headers.floats(header[tag].value)
            outside = (bits < pixel_format.shift) | (
                bits >= pixel_format.shift + pixel_format.bits_stored
            )
            if not has_own_data and outside.any():
                return True
    return False


def _lowest_bits(raw: np.ndarray, pixel_format: _PixelFormat) -> np.ndarray:
    """Only the bits that the header calls the number, with their sign."""
    bits = pixel_format.bits_stored
    numbers = (raw.astype(np.int64) >> pixel_format.shift) & ((1 << bits) - 1)
    if pixel_format.signed:
        numbers -= (numbers >= 1 << (bits - 1)) * (1 << bits)
    return (numbers << pixel_format.shift).astype(raw.dtype)


def _padding_limits(header: Any, dtype: np.dtype) -> np.ndarray | None:
    """The lowest and the highest number of padding, in the number type of the pixels.

    The header may write a negative number as an unsigned one and the other way round, so the
    conversion wraps around.
    """
    value = header.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    other = header.get("PixelPaddingRangeLimit")
    limits = [int(value), int(value if other in (None, "") else other)]
    return np.sort(np.array(limits, np.int64).astype(dtype))


def _is_padding(numbers: np.ndarray, headers: Sequence[Any]) -> np.ndarray:
    """Where stored numbers (n, rows, columns) are padding, bool."""
    padding = np.zeros(numbers.shape, bool)
    for i, header in enumerate(headers):
        limits = _padding_limits(header, numbers.dtype)
        if limits is not None:
            padding[i] = (numbers[i] >= limits[0]) & (numbers[i] <= limits[1])
    return padding


def _lies_inside(headers: Sequence[Any], numbers: np.ndarray, padding: np.ndarray) -> bool:
    """Whether the padding value lies between values of the patient, so that it may be one.

    Some writers put 0 there, which is water in signed CT.
    """
    patient = numbers[~padding]
    if not patient.size:
        return True
    limits = [_padding_limits(header, numbers.dtype) for header in headers]
    lowest, highest = np.array([pair for pair in limits if pair is not None]).T
    return bool(((lowest > patient.min()) & (highest < patient.max())).any())


def _corrected(raw: np.ndarray, pixel_format: _PixelFormat, is_ct: bool) -> tuple[np.ndarray, str]:
    """Stored numbers (n, rows, columns) corrected where they prove their header wrong, and a note.

    The widely copied fix for the RSNA data, (x << n) >> n with n = BitsAllocated - BitsStored, adds
    missing signs, but turns 3000 HU of a series whose BitsStored is too small into -1096. So signs
    are added only where no number of the series has one.
    """
    bits, shift = pixel_format.bits_stored, pixel_format.shift
    # Only empty bits below prove that the numbers still stand as high as HighBit says.
    if shift > 0 and raw.any() and not (raw & ((1 << shift) - 1)).any():
        return raw >> shift, (
            f"numbers stood {shift} bits too high (HighBit {pixel_format.high_bit}, "
            f"BitsStored {bits}): shifted"
        )
    if pixel_format.signed:
        return _with_signs(raw, bits)
    highest = int(raw.max())
    # Negative numbers that were written as unsigned ones lie near the top of 16 bits.
    if is_ct and pixel_format.bits_allocated == 16 and highest >= 0xF000:
        if not ((raw >= 0x8000) & (raw < 0xF000)).any():
            return raw.view(np.int16), "negative numbers in unsigned pixels: read as signed"
    if highest >= 1 << bits:
        mask = (1 << bits) - 1
        return raw & mask, f"bits above the {bits} of the header (old overlays) removed"
    return raw, ""


def _with_signs(raw: np.ndarray, bits: int) -> tuple[np.ndarray, str]:
    """Signed numbers of so many bits, with the signs that some writers leave out, and a note."""
    lowest, highest = int(raw.min()), int(raw.max())
    half = 1 << (bits - 1)
    if -half <= lowest and highest < half:
        return raw, ""
    if lowest >= 0 and highest < 2 * half:
        signed = np.where(raw >= half, raw - 2 * half, raw).astype(raw.dtype)
        return signed, f"signs of {bits}-bit numbers added"
    return raw, (
        f"numbers need more than the {bits} bits of the header (from {lowest} to {highest}): "
        "taken as they are"
    )


def _rescaled(path: str, plane: np.ndarray, header: Any, bits_stored: int) -> np.ndarray:
    """Stored numbers -> values: int16 where all are whole and fit, else float32."""
    signed = plane.dtype.kind == "i"
    plane = plane.astype(np.int64)
    is_inverted = _is_inverted(header)
    if header.get("ModalityLUTSequence"):
        scaled, whole = _looked_up(path, plane, header, is_inverted), True
    else:
        if is_inverted:
            # Inverting maps the range of signed or unsigned numbers onto itself.
            plane = -1 - plane if signed else (1 << bits_stored) - 1 - plane
        slope = _number(header.get("RescaleSlope"), 1)
        intercept = _number(header.get("RescaleIntercept"), 0)
        scaled = plane * slope + intercept  # float64
        whole = slope.is_integer() and intercept.is_integer()
    lowest, highest = float(scaled.min()), float(scaled.max())
    if max(-lowest, highest) > float(np.finfo(np.float32).max):
        raise DataError(
            f"{path}: RescaleSlope {header.get('RescaleSlope')} gives values up to {highest:g}, "
            "more than float32 holds; correct the header"
        )
    fits = lowest >= -32768 and highest <= 32767
    return scaled.astype(np.int16 if whole and fits else np.float32)


def _is_inverted(header: Any) -> bool:
    """Whether high numbers of an image mean dark, and are no measurement."""
    is_dark = header.PhotometricInterpretation == "MONOCHROME1"
    return is_dark and header.get("Modality") not in WITH_UNIT


def _number(value: Any, default: float) -> float:
    """An attribute as a number; the default where it is absent or empty."""
    return float(default if value in (None, "") else value)


def _looked_up(path: str, plane: np.ndarray, header: Any, is_inverted: bool) -> np.ndarray:
    """The values that the Modality LUT gives to stored numbers, uint8 or uint16."""
    from pydicom.pixels import apply_modality_lut

    try:
        scaled = apply_modality_lut(plane, header)
    except Exception as error:  # a damaged or unusual table raises errors of many kinds
        raise DataError(
            f"{path}: ModalityLUTSequence not usable ({type(error).__name__}: {error}); expected a "
            "table of 8 or 16 bits: correct it, or save the image with its values"
        ) from error
    return np.iinfo(scaled.dtype).max - scaled if is_inverted else scaled
