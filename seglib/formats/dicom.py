"""Read a DICOM series: choose its files, order and place its slices, decode their values.

A series is a folder with one file for each slice. What can go wrong:

- File names and InstanceNumber need not follow the anatomy; only ImagePositionPatient does.
- SliceThickness is not the distance between slices.
- A folder may hold localizers, reports, several series, or the same slice twice.
- Stored numbers become values (CT: Hounsfield units, HU) by a slope and an intercept that may
  differ from slice to slice. In MONOCHROME1 high numbers are dark.
- Headers may be wrong about signs and bits.

`volumes` turns a series to the usual display. Taught in `03_rsna_finetuning`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from . import orientation
from .orientation import Grid

# Beginning of a transfer syntax UID (the compression) -> package with a decoder for pydicom.
DECODERS = {
    "1.2.840.10008.1.2.4.9": "pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg-openjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.8": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",  # RLE
    "1.2.840.10008.1.2.4.5": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG
    "1.2.840.10008.1.2.4.7": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG lossless
}
# Files that may lie beside the slices: skipped where they are not DICOM. Any other file that is
# not DICOM counts as a damaged slice.
OTHER_SUFFIXES = """.txt .csv .json .xml .html .md .pdf .png .jpg .jpeg .gif .nii .gz .zip .db .ini
    .log .py .npy .yaml .xlsx""".split()
OTHER_NAMES = ("DICOMDIR", "LICENSE", "README")
# Numeric attribute -> how many numbers it must hold where it is present.
NUMBERS = {
    "PixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    **dict.fromkeys(
        """Rows Columns NumberOfFrames SamplesPerPixel InstanceNumber SliceThickness
        SpacingBetweenSlices RescaleSlope RescaleIntercept BitsAllocated BitsStored HighBit
        PixelRepresentation""".split(),
        1,
    ),
}
SAME_POSITION_MM = 0.01  # slices at most this far apart count as being at the same position
# DICOM coordinates grow to the left and to the back; those of NIfTI and of `Grid` to the right and
# to the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Series(NamedTuple):
    """What the headers of a series say, its slices in the order of their positions.

    Attributes:
        files: one for each slice.
        shape: (slices, rows, columns).
        affine: (4, 4), index (slice, row, column) -> mm to the right, anterior, superior; None
            where a position is missing.
        spacing_mm: distance between slices, rows and columns; None where unknown.
        notes: what is odd, and what was done about it.
    """

    files: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    notes: tuple[str, ...]


class _SliceFile(NamedTuple):
    """The path and the header of one image file."""

    path: Path
    header: Any

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def pixel_spacing(self) -> np.ndarray:
        """Distance between rows and between columns in mm; empty where the header has none."""
        return _floats(self.header.get("PixelSpacing"))

    @property
    def position(self) -> np.ndarray:
        """(x, y, z) in mm of the centre of the first pixel; empty where the header has none."""
        return _floats(self.header.get("ImagePositionPatient"))

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors along a row and along a column, (6,); empty where the header has none."""
        return _floats(self.header.get("ImageOrientationPatient"))

    @property
    def is_placed(self) -> bool:
        return len(self.position) == 3 and len(self.directions) == 6


class _PixelFormat(NamedTuple):
    """How the stored numbers are encoded, according to the header."""

    signed: int
    bits_allocated: int
    bits_stored: int
    high_bit: int | None


def open_series(source: str | Path | Iterable[str | Path], series: str | None = None) -> Series:
    """The one series of a folder (or of a list of files), from headers only.

    Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient;
    InstanceNumber, which often runs the other way or is wrong, counts only where a position is
    missing. The slice distance is computed from the positions. Files that are not images
    (DICOMDIR, reports, text) and localizers are skipped, a second copy of a slice is dropped, and
    missing slices are named in `notes`.

    Args:
        series: SeriesInstanceUID to read where there are several.

    Raises:
        DataError: no image, a damaged file, several series, two images at one position, or slices
            of different sizes or orientations.
    """
    paths = _paths(source)
    # What error messages name: the folder, also for a list of files.
    if isinstance(source, str | Path):
        where = source
    else:
        where = paths[0].parent if paths else "no files"
    notes: list[str] = []
    slices = _read_headers(where, paths, notes)
    slices = _without_localizers(slices, notes)
    slices = _choose_series(where, slices, series)
    _check_alike(slices)
    first = slices[0].header
    if all(file.is_placed for file in slices):
        slices, affine, spacing_mm = _order_by_position(slices, notes)
    else:
        slices, affine, spacing_mm = _order_by_number(slices, notes)
    shape = (len(slices), int(first.Rows), int(first.Columns))
    files = tuple(str(file.path) for file in slices)
    return Series(files, shape, affine, spacing_mm, tuple(notes))


def read_grid(
    path: str | Path, series: Series, slice_axis: int | None = None, canonical: bool = True
) -> Grid:
    """The grid of an opened series; the arguments are those of `volumes.read_dicom`."""
    if canonical and series.affine is not None:
        display = orientation.radiological(path, series.affine, slice_axis)
    else:
        cut = slice_axis or 0
        first_axis, second_axis = [axis for axis in (0, 1, 2) if axis != cut]
        display = orientation.as_stored((cut, first_axis, second_axis))
    spacing_mm = None
    if series.spacing_mm is not None:
        spacing_mm = orientation.in_display_order(series.spacing_mm, display)
    return Grid(
        path=str(path),
        shape=orientation.in_display_order(series.shape, display),
        spacing_mm=spacing_mm,
        orientation=display,
        affine=np.eye(4) if series.affine is None else series.affine,
        oriented=series.affine is not None,
        files=series.files,
        notes=series.notes,
    )


def values(files: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """The values of the files' pixels, (files, rows, columns) int16 or float32, and notes.

    Stored numbers become values by RescaleSlope and RescaleIntercept (CT: HU); MONOCHROME1 is
    inverted so that higher is brighter. Numbers that contradict their header are corrected where
    the whole series proves it, see `_corrected`; the notes say so.

    Raises:
        DataError: a file is damaged, or no decoder for its compression is installed (names the
            package).
    """
    headers, planes = zip(*(_decode(Path(file)) for file in files))
    formats = [
        _PixelFormat(int(h.PixelRepresentation), h.BitsAllocated, h.BitsStored, h.get("HighBit"))
        for h in headers
    ]
    rescaled: list[Any] = [None] * len(planes)
    notes = []
    # A series may mix pixel formats; what proves a header wrong holds for one format only.
    for pixel_format in dict.fromkeys(formats):
        members = [i for i, other in enumerate(formats) if other == pixel_format]
        raw = np.stack([planes[i] for i in members])
        is_ct = headers[members[0]].get("Modality") == "CT"
        numbers, note = _corrected(raw, pixel_format, is_ct)
        if note:
            notes.append(note)
        for i, plane in zip(members, numbers):
            rescaled[i] = _rescaled(plane, headers[i], pixel_format.bits_stored)
    if any(h.get("PhotometricInterpretation") == "MONOCHROME1" for h in headers):
        notes.append("MONOCHROME1: values inverted, so that higher is brighter")
    return np.stack(rescaled), notes


# ---- headers


def _paths(source: Any) -> list[Path]:
    if not isinstance(source, str | Path):
        return [Path(file) for file in source]
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such folder of DICOM files; check the path")
    files = [source] if source.is_file() else sorted(source.iterdir())
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def _read_headers(where: Any, paths: list[Path], notes: list[str]) -> list[_SliceFile]:
    headers = [(path, _header(path)) for path in paths]
    slices = [_SliceFile(path, header) for path, header in headers if header is not None]
    if not slices:
        raise DataError(
            f"{where}: no DICOM image among {len(paths)} files; expected the files of one series"
        )
    skipped = [path.name for path, header in headers if header is None]
    if skipped:
        notes.append(
            f"{len(skipped)} files are no images and were skipped: {', '.join(skipped[:3])}"
        )
    return slices


def _header(path: Path) -> Any:
    """The header of an image file; None for a file that does not hold an image.

    Raises:
        DataError: the file is damaged.
    """
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        sop_class = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
        # pydicom converts a value, and fails on a damaged one, when it is first asked for it.
        for name in ("ImageType", "SeriesInstanceUID", "Modality", "PhotometricInterpretation"):
            header.get(name)
    except pydicom.errors.InvalidDicomError as error:
        if path.suffix.lower() in OTHER_SUFFIXES or path.name.upper() in OTHER_NAMES:
            return None
        raise DataError(
            f"{path}: not a DICOM file, or damaged (no DICM mark); remove it or copy it again"
        ) from error
    except Exception as error:  # on damaged headers pydicom raises errors of many kinds
        raise DataError(
            f"{path}: damaged DICOM header ({type(error).__name__}: {error}); copy it again"
        ) from error
    kind = getattr(sop_class, "name", "")  # a damaged UID may be a list, which has no name
    # Reports and presentation states are stored as "... Storage" as well.
    if kind.endswith("Storage") and "Image" not in kind:
        return None
    _check_numbers(path, header)
    if not header.get("Rows") or not header.get("Columns"):
        raise DataError(
            f"{path}: {kind or 'a DICOM file'} without rows or columns; it is cut short: "
            "copy it again"
        )
    return header


def _check_numbers(path: Path, header: Any) -> None:
    """Refuse attributes that are not finite numbers, or not as many as the standard says."""
    for name, expected in NUMBERS.items():
        try:
            value = header.get(name)
            numbers = _floats(value)
            valid = len(numbers) in (0, expected) and np.isfinite(numbers).all()
        except Exception:  # the conversion of a damaged value fails in many ways
            value, valid = "no number", False
        if not valid:
            raise DataError(
                f"{path}: {name} is {value}; expected {expected} finite; the header is damaged: "
                "copy it again"
            )


def _floats(value: Any) -> np.ndarray:
    """The numbers of an attribute as an array; empty where it is absent or empty."""
    if value is None or value == "":
        return np.array([])
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return np.array([float(number) for number in (value if is_list else [value])])


def _without_localizers(slices: list[_SliceFile], notes: list[str]) -> list[_SliceFile]:
    """The images without localizers (overview scans), unless all of them are localizers."""
    others = [file for file in slices if "LOCALIZER" not in (file.header.get("ImageType") or ())]
    if not others or len(others) == len(slices):
        return slices
    notes.append(f"{len(slices) - len(others)} localizer images were skipped")
    return others


def _choose_series(where: Any, slices: list[_SliceFile], series: str | None) -> list[_SliceFile]:
    """The slices of the one series there is, or of the series that was asked for by its UID."""
    groups: dict[str, list[_SliceFile]] = {}
    for file in slices:
        groups.setdefault(str(file.header.get("SeriesInstanceUID") or ""), []).append(file)
    if series is None and len(groups) == 1:
        return slices
    if series in groups:
        return groups[series]
    listed = "; ".join(
        f"{uid or '(no number)'}: {len(members)} files, "
        f"{members[0].header.get('SeriesDescription') or 'no description'}"
        for uid, members in groups.items()
    )
    if series is not None:
        raise DataError(f"{where}: no series {series!r}; found {listed}")
    raise DataError(
        f"{where}: {len(groups)} series, expected one; name one by series=, or give each its "
        f"folder: {listed}"
    )


def _check_alike(slices: list[_SliceFile]) -> None:
    """Refuse slices that cannot form one array: several frames, colours, different sizes."""
    reference = slices[0]
    rows, columns = reference.header.Rows, reference.header.Columns
    for path, header in slices:
        n_frames = int(header.get("NumberOfFrames") or 1)
        n_samples = int(header.get("SamplesPerPixel") or 1)
        if n_frames > 1 or n_samples > 1:
            raise DataError(
                f"{path}: a multi-frame or colour image; expected one grey slice a file: "
                "convert it first"
            )
        if (header.Rows, header.Columns) != (rows, columns):
            raise DataError(
                f"{path}: {header.Rows}x{header.Columns} pixels but {reference.name} has "
                f"{rows}x{columns}; one series must have one size: take the other slices out of "
                "the folder"
            )
    for file in slices:
        own, usual = file.pixel_spacing, reference.pixel_spacing
        if len(own) != len(usual) or not np.allclose(own, usual, rtol=0.01):
            raise DataError(
                f"{file.path}: PixelSpacing {own.tolist() or 'missing'} but {reference.name} has "
                f"{usual.tolist() or 'none'}; one series must have one: correct the header, or "
                "take the file out of the folder"
            )


# ---- order and place


def _order_by_number(
    slices: list[_SliceFile], notes: list[str]
) -> tuple[list[_SliceFile], None, tuple[float, float, float] | None]:
    """Slices without positions in the order of InstanceNumber, and their spacing."""
    if len(slices) == 1:
        return slices, None, None
    notes.append(
        "no positions: slices ordered by InstanceNumber, orientation unknown; "
        "look whether the feet come first"
    )
    first = slices[0]
    distance = float(first.header.get("SpacingBetweenSlices") or 0)
    spacing_mm = orientation.known_spacing((distance, *first.pixel_spacing))

    def number_and_name(file: _SliceFile) -> tuple[int, str]:
        return int(file.header.get("InstanceNumber") or 0), file.name

    return sorted(slices, key=number_and_name), None, spacing_mm


def _order_by_position(
    slices: list[_SliceFile], notes: list[str]
) -> tuple[list[_SliceFile], np.ndarray, tuple[float, float, float] | None]:
    """Slices in the order of their positions; affine of (slice, row, column) in RAS; spacing."""
    first = slices[0]
    _check_parallel(slices)
    along_row, along_column = first.directions[:3], first.directions[3:]
    normal = np.cross(along_row, along_column)
    slices = _order_along(normal, slices, notes)
    if len(slices) > 1:
        distance = _slice_distance(slices, normal, notes)
        step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    else:
        distance = float(first.header.get("SliceThickness") or 0) or 1.0
        step = normal * distance
        notes.append("one slice: its thickness stands for the slice distance")
    row_mm, column_mm = 1.0, 1.0
    if len(first.pixel_spacing):
        row_mm, column_mm = first.pixel_spacing
    else:
        notes.append("no PixelSpacing: sizes in mm are unknown")
    # The columns of the affine are the steps in mm from one slice, row and column to the next. The
    # next row lies further down a column, and the next column further along a row.
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = along_row * column_mm
    affine[:3, 3] = slices[0].position
    spacing_mm = orientation.known_spacing((distance, *first.pixel_spacing))
    return slices, _LPS_TO_RAS @ affine, spacing_mm


def _check_parallel(slices: list[_SliceFile]) -> None:
    reference = slices[0]
    for file in slices:
        # Writers round the direction cosines; 0.01 is about half a degree.
        if np.abs(file.directions - reference.directions).max() > 1e-2:
            raise DataError(
                f"{file.path}: oriented differently from {reference.name}; slices of two stacks in "
                "one series"
            )


def _order_along(
    normal: np.ndarray, slices: list[_SliceFile], notes: list[str]
) -> list[_SliceFile]:
    """The slices in the order of their positions along the normal, without second copies.

    Raises:
        DataError: two different images at one position.
    """
    heights = np.array([file.position @ normal for file in slices])
    ordered: list[_SliceFile] = []
    last_height = -np.inf
    for i in np.argsort(heights, kind="stable"):
        if heights[i] - last_height > SAME_POSITION_MM:
            ordered.append(slices[i])
            last_height = heights[i]
        elif _same_pixels(slices[i].path, ordered[-1].path):
            notes.append(f"{slices[i].name}: a second copy of {ordered[-1].name}, dropped")
        else:
            raise DataError(
                f"{slices[i].path}: another image at the position of {ordered[-1].name} "
                f"({heights[i]:.2f} mm); two phases or reconstructions in one series: "
                "separate them"
            )
    return ordered


def _slice_distance(slices: list[_SliceFile], normal: np.ndarray, notes: list[str]) -> float:
    """The median distance between neighbouring slices in mm; notes name the gaps."""
    distances = np.diff([file.position @ normal for file in slices])
    usual = float(np.median(distances))
    for i in np.flatnonzero(distances > 1.5 * usual):
        n_missing = round(distances[i] / usual) - 1
        notes.append(
            f"{n_missing} slices are missing between {slices[i].name} and {slices[i + 1].name} "
            f"({distances[i]:g} mm, else {usual:g})"
        )
    if distances.min() < 0.75 * usual:
        notes.append(
            f"uneven slice distances: {distances.min():g} to {distances.max():g} mm; the middle "
            f"one, {usual:g}, is used"
        )
    return usual


def _same_pixels(path: Path, other: Path) -> bool:
    import pydicom

    return pydicom.dcmread(path).get("PixelData") == pydicom.dcmread(other).get("PixelData")


# ---- pixels


def _decode(path: Path) -> tuple[Any, np.ndarray]:
    """The header of a file without its pixels, and the stored numbers (rows, columns)."""
    import pydicom
    from pydicom.pixels import get_decoder, pixel_array

    package = ""
    try:
        header = pydicom.dcmread(path)
        _check_numbers(path, header)
        syntax = header.file_meta.TransferSyntaxUID
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
        advice = "copy it again"
        if package:
            advice = f"if other files open, copy it again, else install {package}"
        raise DataError(
            f"{path}: pixels not readable ({type(error).__name__}: {error}); {advice}"
        ) from error
    raise DataError(
        f"{path}: no decoder for {syntax.name} is installed; "
        f"pip install {package or 'a pydicom plugin'}"
    )


def _decoder_package(syntax: str) -> str:
    """The package that decodes a transfer syntax; "" for one that is not compressed."""
    beginnings = [beginning for beginning in DECODERS if syntax.startswith(beginning)]
    return DECODERS[max(beginnings, key=len)] if beginnings else ""


def _corrected(raw: np.ndarray, pixel_format: _PixelFormat, is_ct: bool) -> tuple[np.ndarray, str]:
    """Stored numbers (n, rows, columns) corrected where they prove their header wrong, and a note.

    The widely copied fix for the RSNA data, (x << n) >> n with n = BitsAllocated - BitsStored, adds
    missing signs, but turns 3000 HU of a series whose BitsStored is too small into -1096. So signs
    are added only where no number of the series has one.
    """
    bits = pixel_format.bits_stored
    shift = 0 if pixel_format.high_bit is None else pixel_format.high_bit + 1 - bits
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


def _rescaled(plane: np.ndarray, header: Any, bits_stored: int) -> np.ndarray:
    """Stored numbers -> values: int16 where all are whole and fit, else float32."""
    signed = plane.dtype.kind == "i"
    plane = plane.astype(np.int32)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        # Inverting maps the range of signed or unsigned numbers onto itself.
        plane = -1 - plane if signed else (1 << bits_stored) - 1 - plane
    slope = float(header.get("RescaleSlope") or 1)
    intercept = float(header.get("RescaleIntercept") or 0)
    scaled = plane * slope + intercept  # float64
    whole = slope.is_integer() and intercept.is_integer()
    fits = scaled.min() >= -32768 and scaled.max() <= 32767
    return scaled.astype(np.int16 if whole and fits else np.float32)
