"""Read a DICOM series: order its slices and say where they lie.

A series is a folder with one file for each slice. What can go wrong:

- File names and InstanceNumber need not follow the anatomy; only ImagePositionPatient does.
- SliceThickness is not the distance between slices.
- A folder may hold localizers, reports, several series, or the same slice twice.
- Slices may be missing, uneven, sheared or shifted against each other.

`dicom_headers` chooses the files, `dicom_values` decodes their pixels, `volumes` turns a series to
the usual display. Taught in `03_rsna_finetuning`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from . import dicom_headers, orientation
from .dicom_headers import SliceFile
from .orientation import Grid

SAME_POSITION_MM = 0.01  # slices at most this far apart count as being at the same position
# How far slices may lie beside an even grid, as shares of the slice distance: noted above the
# first; above the second no single distance describes them, and sizes in mm are unknown.
NOTED_UNEVENNESS, LARGEST_UNEVENNESS = 0.05, 0.25
# What may tell two images at one position apart, the likeliest first.
DISTINGUISHING = (
    *"""ImageType EchoTime EchoNumbers InversionTime FlipAngle DiffusionBValue
    DiffusionGradientOrientation""".split(),
    *dicom_headers.PRIVATE,
    *"""TemporalPositionIdentifier TriggerTime AcquisitionNumber ConvolutionKernel KVP RescaleSlope
    RescaleIntercept AcquisitionTime ContentTime""".split(),
)
# Attributes that give the distance of pixels elsewhere than in the patient, and where.
OTHER_SPACINGS = {
    "ImagerPixelSpacing": "at the detector, which magnifies",
    "NominalScannedPixelSpacing": "on the scanned film",
}
# DICOM coordinates grow to the left and to the back; those of NIfTI and of `Grid` to the right and
# to the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Series(NamedTuple):
    """What the headers of a series say, its slices in the order of their positions.

    Attributes:
        files: one for each slice.
        shape: (slices, rows, columns).
        affine: (4, 4), index (slice, row, column) -> mm to the right, anterior, superior; None
            where there are no positions.
        spacing_mm: distance between slices, rows and columns; None where unknown. The slice
            distance is the one of the affine, along the normal of the slices.
        notes: what is odd, and what was done about it.
        spacing_note: why the spacing of an image without a position is unknown.
    """

    files: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    notes: tuple[str, ...]
    spacing_note: str = ""


def open_series(source: str | Path | Iterable[str | Path], series: str | None = None) -> Series:
    """The one series of a folder (or of a list of files), from headers only.

    Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient;
    InstanceNumber, which often runs the other way or is wrong, counts only where no slice has a
    position. The slice distance is computed from the positions; where slices are missing or
    unevenly spaced, sizes in mm are unknown. Files that are not images (DICOMDIR, reports, text),
    localizers and projections are skipped, a second copy of a slice is dropped, and missing slices
    are named in `notes`.

    Args:
        series: SeriesInstanceUID to read where there are several.

    Raises:
        DataError: no image, a damaged file, several series, two images at one position, slices of
            different sizes or orientations, images that are no grey slices (colours, palettes,
            multi-frame), or slices whose order is not told.
    """
    paths = dicom_headers.paths_of(source)
    # What error messages name: the folder, also for a list of files.
    if isinstance(source, str | Path):
        where = source
    else:
        where = paths[0].parent if paths else "no files"
    notes: list[str] = []
    slices = dicom_headers.read(where, paths, series, notes)
    first = slices[0].header
    affine, spacing_note = None, ""
    if any(file.is_placed for file in slices):
        _check_placed(slices)
        slices, affine, spacing_mm = _order_by_position(slices, notes)
    elif len(slices) > 1:
        slices, spacing_mm = _order_by_number(where, slices, notes)
    else:
        spacing_mm = None
        spacing_note = f"an image without a position: sizes in mm are unknown{_elsewhere(first)}"
    shape = (len(slices), int(first.Rows), int(first.Columns))
    files = tuple(str(file.path) for file in slices)
    return Series(files, shape, affine, spacing_mm, tuple(notes), spacing_note)


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
        spacing_note=series.spacing_note,
    )


# ---- slices without positions


def _order_by_number(
    where: str | Path, slices: list[SliceFile], notes: list[str]
) -> tuple[list[SliceFile], tuple[float, float, float] | None]:
    """Slices without positions in the order of InstanceNumber, and their spacing.

    Raises:
        DataError: a number is missing or occurs twice, so that the order is not told.
    """
    numbers = [file.header.get("InstanceNumber") for file in slices]
    advice = "restore them, or convert the series to NIfTI with a program that knows the order"
    without = [file.name for file, number in zip(slices, numbers) if number in (None, "")]
    if without:
        raise DataError(
            f"{where}: the order of the slices is not told: no ImagePositionPatient, and "
            f"{len(without)} of {len(slices)} files, such as {without[0]}, have no InstanceNumber; "
            f"{advice}"
        )
    by_number = {int(number): file for number, file in zip(numbers, slices)}
    if len(by_number) < len(slices):
        twice = sorted(n for n in by_number if numbers.count(n) > 1)[0]
        names = [file.name for file, number in zip(slices, numbers) if number == twice]
        raise DataError(
            f"{where}: the order of the slices is not told: no ImagePositionPatient, and "
            f"{', '.join(names[:3])} have the same InstanceNumber {twice}; {advice}"
        )
    ordered = [by_number[number] for number in sorted(by_number)]
    notes.append(
        "no positions: slices ordered by InstanceNumber, orientation unknown; "
        "look whether the feet come first"
    )
    first = slices[0]
    distance = float(first.header.get("SpacingBetweenSlices") or 0)
    n_missing = max(by_number) - min(by_number) + 1 - len(ordered)
    if n_missing:
        notes.append(
            f"{n_missing} numbers between InstanceNumber {min(by_number)} and {max(by_number)} are "
            "missing: slices may be missing, sizes in mm are unknown"
        )
        distance = 0.0
    if distance < 0:
        notes.append(f"SpacingBetweenSlices is {distance:g}: the slice distance is unknown")
    if not len(first.pixel_spacing):
        notes.append(_no_pixel_spacing(first))
    return ordered, orientation.known_spacing((max(distance, 0.0), *first.pixel_spacing))


def _no_pixel_spacing(file: SliceFile) -> str:
    spacing = dicom_headers.floats(file.header.get("PixelSpacing"))
    name = f"PixelSpacing is {spacing.tolist()}" if len(spacing) else "no PixelSpacing"
    return f"{name}: sizes in mm are unknown{_elsewhere(file.header)}"


def _elsewhere(header) -> str:
    """Where the header gives a pixel spacing that is not the one in the patient; or ""."""
    for name, place in OTHER_SPACINGS.items():
        spacing = dicom_headers.floats(header.get(name))
        if len(spacing):
            return f" ({name}, {spacing[0]:g} x {spacing[1]:g} mm, is measured {place})"
    return ""


# ---- slices with positions


def _check_placed(slices: list[SliceFile]) -> None:
    """Refuse a series in which some slices have a position and others do not."""
    without = [file for file in slices if not file.is_placed]
    if without:
        names = ("ImagePositionPatient", "ImageOrientationPatient")
        missing = [name for name in names if not without[0].header.get(name)]
        raise DataError(
            f"{without[0].path}: no {' and '.join(missing)}, as in {len(without)} of {len(slices)} "
            "slices; expected a position in each: restore it, or take the files out of the folder"
        )


def _order_by_position(
    slices: list[SliceFile], notes: list[str]
) -> tuple[list[SliceFile], np.ndarray, tuple[float, float, float] | None]:
    """Slices in the order of their positions; affine of (slice, row, column) in RAS; spacing."""
    first = slices[0]
    _check_parallel(slices)
    along_row, along_column = _unit_vectors(first, notes)
    normal = np.cross(along_row, along_column)
    slices = _order_along(normal, slices, notes)
    if len(slices) > 1:
        step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
        distance = _slice_distance(slices, step, normal, notes)
    else:
        distance = max(float(first.header.get("SliceThickness") or 0), 0.0)
        step = normal * (distance or 1.0)
        notes.append(
            "one slice: its thickness stands for the slice distance"
            if distance
            else "one slice without SliceThickness: sizes in mm are unknown"
        )
    row_mm, column_mm = 1.0, 1.0
    if len(first.pixel_spacing):
        row_mm, column_mm = first.pixel_spacing
    else:
        notes.append(_no_pixel_spacing(first))
    # The columns of the affine are the steps in mm from one slice, row and column to the next. The
    # next row lies further down a column, and the next column further along a row.
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = along_row * column_mm
    affine[:3, 3] = slices[0].position
    spacing_mm = orientation.known_spacing((distance, *first.pixel_spacing))
    if spacing_mm is None and distance and len(first.pixel_spacing):
        size = " x ".join(f"{mm:g}" for mm in (distance, row_mm, column_mm))
        notes.append(f"voxels of {size} mm cannot be: sizes in mm are unknown")
    return slices, _LPS_TO_RAS @ affine, spacing_mm


def _check_parallel(slices: list[SliceFile]) -> None:
    reference = slices[0]
    for file in slices:
        # Writers round the direction cosines; 0.01 is about half a degree.
        if np.abs(file.directions - reference.directions).max() > 1e-2:
            raise DataError(
                f"{file.path}: oriented differently from {reference.name}; slices of two stacks in "
                "one series: give each stack its folder"
            )


def _unit_vectors(file: SliceFile, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The directions along a row and along a column, each of length 1.

    Raises:
        DataError: they are not at right angles, or have no length.
    """
    along_row, along_column = file.directions[:3], file.directions[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if min(lengths) > 0:
        along_row, along_column = along_row / lengths[0], along_column / lengths[1]
    if min(lengths) == 0 or abs(along_row @ along_column) > 1e-2:
        raise DataError(
            f"{file.path}: ImageOrientationPatient is {file.directions.tolist()}; expected two "
            "vectors of length 1 at right angles: correct the header"
        )
    if max(abs(length - 1) for length in lengths) > 1e-2:
        notes.append(
            f"ImageOrientationPatient has vectors of length {lengths[0]:.3g} and "
            f"{lengths[1]:.3g}; only their directions are used"
        )
    return along_row, along_column


def _order_along(normal: np.ndarray, slices: list[SliceFile], notes: list[str]) -> list[SliceFile]:
    """The slices in the order of their positions along the normal, without second copies.

    Raises:
        DataError: two different images at one position.
    """
    heights = np.array([file.position @ normal for file in slices])
    ordered: list[SliceFile] = []
    last_height = -np.inf
    for i in np.argsort(heights, kind="stable"):
        if heights[i] - last_height > SAME_POSITION_MM:
            ordered.append(slices[i])
            last_height = heights[i]
        elif _same_image(slices[i], ordered[-1]):
            notes.append(f"{slices[i].name}: a second copy of {ordered[-1].name}, dropped")
        else:
            reason = dicom_headers.difference((ordered[-1], slices[i]), DISTINGUISHING)
            raise DataError(
                f"{slices[i].path}: another image at the position of {ordered[-1].name} "
                f"({heights[i]:.2f} mm); two phases, echoes or reconstructions in one series "
                f"({reason or 'only their pixels differ'}): separate them"
            )
    return ordered


def _same_image(file: SliceFile, other: SliceFile) -> bool:
    """Whether two files hold the same stored numbers with the same meaning."""
    import pydicom

    meaning = ("RescaleSlope", "RescaleIntercept", "PhotometricInterpretation")
    if dicom_headers.difference((file, other), meaning):
        return False
    pixels, other_pixels = [pydicom.dcmread(f.path).get("PixelData") for f in (file, other)]
    return pixels == other_pixels


def _slice_distance(
    slices: list[SliceFile], step: np.ndarray, normal: np.ndarray, notes: list[str]
) -> float:
    """The distance between slices in mm along their normal; 0 where no single one describes them.

    Args:
        step: mean shift from one slice to the next, (3,) in mm.
    """
    positions = np.array([file.position for file in slices])
    distances = np.diff(positions @ normal)
    distance, usual = float(step @ normal), float(np.median(distances))
    for i in np.flatnonzero(distances > 1.5 * usual):
        n_missing = round(distances[i] / usual) - 1
        gap = "1 slice is" if n_missing == 1 else f"{n_missing} slices are"
        notes.append(
            f"{gap} missing between {slices[i].name} and {slices[i + 1].name} "
            f"({distances[i]:g} mm, else {usual:g})"
        )
    beside = positions - positions[0] - np.arange(len(slices))[:, None] * step
    along = np.abs(beside @ normal).max()
    _note_shifts(slices[0], step, beside - np.outer(beside @ normal, normal), distance, notes)
    extent = f"{distances.min():g} to {distances.max():g} mm"
    uneven = distances.max() > 1.5 * usual or distances.min() < 0.75 * usual
    if uneven or along > LARGEST_UNEVENNESS * distance:
        notes.append(
            f"uneven slice distances: {extent}; volumes in mL are unknown, and on an even grid "
            f"(as in NIfTI) slices lie up to {along:.1f} mm beside their place"
        )
        return 0.0
    if along > NOTED_UNEVENNESS * distance:
        notes.append(
            f"slice distances vary: {extent}; their mean, {distance:g}, is used, and slices lie up "
            f"to {along:.2g} mm beside their place"
        )
    return distance


def _note_shifts(
    first: SliceFile, step: np.ndarray, sideways: np.ndarray, distance: float, notes: list[str]
) -> None:
    """Name a stack that is sheared, or whose slices are shifted against each other in their plane.

    Args:
        sideways: (slices, 3), what each slice deviates in its plane from an even stack, mm.
    """
    angle = np.degrees(np.arccos(np.clip(distance / np.linalg.norm(step), -1, 1)))
    if angle > 0.5:
        notes.append(
            f"the stack is sheared by {angle:.1f} degrees (a tilted gantry): slices are not "
            "straightened, the slice distance is that along their normal"
        )
    largest = np.linalg.norm(sideways, axis=1).max()
    pixel_mm = min(first.pixel_spacing, default=distance)
    if largest > pixel_mm:
        notes.append(
            f"slices are shifted against each other in their plane by up to {largest:.1f} mm; a "
            "result in one affine (as NIfTI) lies that far beside them"
        )
