"""A DICOM series: which files, in which order, where in the patient, with which values. `volumes` lays it out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError

# transfer syntax (its beginning) -> package that brings a decoder
DECODERS = {
    "1.2.840.10008.1.2.4.9": "pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg-openjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.8": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",  # RLE
    "1.2.840.10008.1.2.4.5": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG
    "1.2.840.10008.1.2.4.7": "pylibjpeg-libjpeg (GPL; the extra 'gpl')",  # JPEG lossless
}
FOREIGN = """.txt .csv .json .xml .html .md .pdf .png .jpg .jpeg .gif .nii .gz .zip .db .ini .log .py .npy .yaml .xlsx"""
NUMBERS = {  # attribute -> how many numbers it holds, where it is there
    "PixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    **dict.fromkeys(
        "Rows Columns NumberOfFrames SamplesPerPixel InstanceNumber SliceThickness SpacingBetweenSlices RescaleSlope "
        "RescaleIntercept BitsAllocated BitsStored HighBit PixelRepresentation".split(),
        1,
    ),
}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Series(NamedTuple):
    """`files` in the order of their positions; `shape` (slices, rows, columns); `affine` (4, 4) from such an index to
    mm (right, anterior, superior), None without positions; `spacing_mm` (slice, row, column) or None."""

    files: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    notes: tuple[str, ...]


def open_series(source: str | Path | Iterable[str | Path], series: str | None = None) -> Series:
    """The one series of a folder (or of a list of files), from headers only.

    Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient; InstanceNumber, which often
    runs the other way or is wrong, counts only where there is no position. The slice distance is that of the
    positions, not SliceThickness. Files that are no images (DICOMDIR, reports, text) and localizers are skipped; a
    second copy of a slice is dropped; missing slices are told in `notes`.

    Args:
        series: SeriesInstanceUID to read where there are several.

    Raises:
        DataError: no image, a damaged file, several series, two images at one position, sizes or orientations differ.
    """
    found, notes = [], []
    paths = _paths(source)
    for path in paths:
        header = _header(path)
        if header is not None:
            found.append((path, header))
    where = source if isinstance(source, str | Path) else paths[0].parent if paths else "no files"
    if not found:
        raise DataError(
            f"{where}: no DICOM image among {len(paths)} files; expected the files of one series"
        )
    if len(found) < len(paths):
        named = {path for path, _ in found}
        others = [path.name for path in paths if path not in named]
        notes.append(f"{len(others)} files are no images and were skipped: {', '.join(others[:3])}")
    plain = [
        (path, header)
        for path, header in found
        if "LOCALIZER" not in (header.get("ImageType") or ())
    ]
    if plain and len(plain) < len(found):
        notes.append(f"{len(found) - len(plain)} localizer images were skipped")
        found = plain
    found = _one_series(where, found, series)
    first = found[0][1]
    for path, header in found:
        if (
            int(header.get("NumberOfFrames") or 1) > 1
            or int(header.get("SamplesPerPixel") or 1) > 1
        ):
            raise DataError(
                f"{path}: a multi-frame or colour image; expected one grey slice a file: convert it first"
            )
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise DataError(
                f"{path}: {header.Rows}x{header.Columns} pixels but {found[0][0].name} has {first.Rows}x"
                f"{first.Columns}; one series must have one size: take the other slices out of the folder"
            )
        sides, usual = _sides(header), _sides(first)
        if len(sides) != len(usual) or not np.allclose(sides, usual, rtol=0.01):
            raise DataError(
                f"{path}: PixelSpacing {sides or 'missing'} but {found[0][0].name} has {usual or 'none'}; one series "
                "must have one: correct the header, or take the file out of the folder"
            )
    found, affine, spacing = _place(found, notes)
    shape = (len(found), int(first.Rows), int(first.Columns))
    return Series(tuple(str(path) for path, _ in found), shape, affine, spacing, tuple(notes))


def values(files: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """The values of the files' pixels, (files, rows, columns) int16 or float32, and notes on what was corrected.

    Stored numbers become values by RescaleSlope and RescaleIntercept (CT: HU); MONOCHROME1 is turned so that higher is
    brighter. Numbers that contradict their header are corrected where the whole series proves it, see `_corrected`.

    Raises:
        DataError: a file is damaged, or no decoder for its compression is installed (names the package).
    """
    headers, planes = zip(*(_decode(Path(file)) for file in files))
    kinds = [
        (int(h.PixelRepresentation), h.BitsAllocated, h.BitsStored, h.get("HighBit"))
        for h in headers
    ]
    result: list[Any] = [None] * len(planes)
    notes = []
    for kind in dict.fromkeys(kinds):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        stack, note = _corrected(
            np.stack([planes[i] for i in rows]), *kind, headers[rows[0]].get("Modality") == "CT"
        )
        notes += [note] if note else []
        for i, plane in zip(rows, stack):
            result[i] = _rescaled(plane, headers[i], stack.dtype.kind == "i", kind[2])
    if any(h.get("PhotometricInterpretation") == "MONOCHROME1" for h in headers):
        notes.append("MONOCHROME1: values inverted, so that higher is brighter")
    return np.stack(result), notes


def _paths(source: Any) -> list[Path]:
    if not isinstance(source, str | Path):
        return [Path(file) for file in source]
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such folder of DICOM files; check the path")
    files = [source] if source.is_file() else sorted(source.iterdir())
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def _header(path: Path) -> Any:
    """The header of an image file; None for a file that is none."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        kind = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
        for name in ("ImageType", "SeriesInstanceUID", "Modality", "PhotometricInterpretation"):
            header.get(name)  # pydicom converts a value, and fails, when it is first asked for it
    except pydicom.errors.InvalidDicomError as error:
        if path.suffix.lower() in FOREIGN.split() or path.name.upper() in (
            "DICOMDIR",
            "LICENSE",
            "README",
        ):
            return None
        raise DataError(
            f"{path}: not a DICOM file, or damaged (no DICM mark); remove it or copy it again"
        ) from error
    except Exception as error:  # pydicom raises what its parser stumbles over
        raise DataError(
            f"{path}: damaged DICOM header ({type(error).__name__}: {error}); copy it again"
        ) from error
    name = getattr(kind, "name", "")  # a damaged one may be a list
    if name.endswith("Storage") and "Image" not in name:
        return None
    _check_numbers(path, header)
    if not header.get("Rows") or not header.get("Columns"):
        raise DataError(
            f"{path}: {name or 'a DICOM file'} without rows or columns; it is cut short: copy it again"
        )
    return header


def _check_numbers(path: Path, header: Any) -> None:
    """What is computed with must be numbers, and as many as the standard says."""
    for name, wanted in NUMBERS.items():
        try:
            value = header.get(name)
            several = isinstance(value, Sequence) and not isinstance(value, str)
            parts = list(value) if several else [] if value in (None, "") else [value]
            good = np.isfinite([float(part) for part in parts]).all() and len(parts) in (0, wanted)
        except Exception:  # pydicom converts a value when it is first looked at
            value, good = "no number", False
        if not good:
            raise DataError(
                f"{path}: {name} is {value}; expected {wanted} finite; the header is damaged: copy it again"
            )


def _one_series(where: Any, found: list, series: str | None) -> list:
    groups: dict[str, list] = {}
    for path, header in found:
        groups.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append((path, header))
    listed = "; ".join(
        f"{uid or '(no number)'}: {len(members)} files, {members[0][1].get('SeriesDescription') or 'no description'}"
        for uid, members in groups.items()
    )
    if series is not None and series not in groups:
        raise DataError(f"{where}: no series {series!r}; found {listed}")
    if series is None and len(groups) > 1:
        raise DataError(
            f"{where}: {len(groups)} series, expected one; name one by series=, or give each its folder: {listed}"
        )
    return groups[series] if series is not None else found


def _place(
    found: list, notes: list[str]
) -> tuple[list, np.ndarray | None, tuple[float, float, float] | None]:
    """The files in order, the affine of (slice, row, column) and the spacing."""
    first = found[0][1]
    plane = _sides(first)
    turns = [np.array([float(v) for v in h.get("ImageOrientationPatient") or ()]) for _, h in found]
    spots = [np.array([float(v) for v in h.get("ImagePositionPatient") or ()]) for _, h in found]
    if len(found) > 1 and (any(len(t) != 6 for t in turns) or any(len(s) != 3 for s in spots)):
        notes.append(
            "no positions: slices ordered by InstanceNumber, orientation unknown; look whether the feet come first"
        )
        found = sorted(
            found, key=lambda item: (int(item[1].get("InstanceNumber") or 0), item[0].name)
        )
        gap = float(first.get("SpacingBetweenSlices") or 0)
        return found, None, (gap, *plane) if gap and plane else None
    if any(len(t) != 6 for t in turns) or any(len(s) != 3 for s in spots):
        return found, None, None
    for (path, _), turn in zip(found, turns):
        if np.abs(turn - turns[0]).max() > 1e-2:
            raise DataError(
                f"{path}: oriented differently from {found[0][0].name}; slices of two stacks in one series"
            )
    along_row, along_column = turns[0][:3], turns[0][3:]
    normal = np.cross(along_row, along_column)
    places = np.array([spot @ normal for spot in spots])
    order = np.argsort(places, kind="stable")
    kept = [order[0]]
    for i in order[1:]:
        if places[i] - places[kept[-1]] > 0.01:
            kept.append(i)
        elif _same_pixels(found[i][0], found[kept[-1]][0]):
            notes.append(f"{found[i][0].name}: a second copy of {found[kept[-1]][0].name}, dropped")
        else:
            raise DataError(
                f"{found[i][0]}: another image at the position of {found[kept[-1]][0].name} ({places[i]:.2f} mm); two "
                "phases or reconstructions in one series: separate them"
            )
    gaps = np.diff(places[kept])
    gap = float(np.median(gaps)) if len(gaps) else float(first.get("SliceThickness") or 0) or 1.0
    for i in np.flatnonzero(gaps > 1.5 * gap):
        before, after = found[kept[i]][0].name, found[kept[i + 1]][0].name
        notes.append(
            f"{round(gaps[i] / gap) - 1} slices are missing between {before} and {after} ({gaps[i]:g} mm, else {gap:g})"
        )
    if len(gaps) and gaps.min() < 0.75 * gap:
        notes.append(
            f"uneven slice distances: {gaps.min():g} to {gaps.max():g} mm; the middle one, {gap:g}, is used"
        )
    if len(kept) == 1:
        notes.append("one slice: its thickness stands for the slice distance")
    rows, columns = plane or (1.0, 1.0)
    affine = np.eye(4)
    step = (spots[kept[-1]] - spots[kept[0]]) / (len(kept) - 1) if len(kept) > 1 else normal * gap
    affine[:3] = np.stack([step, along_column * rows, along_row * columns, spots[kept[0]]], axis=1)
    if not plane:
        notes.append("no PixelSpacing: sizes in mm are unknown")
    return [found[i] for i in kept], _LPS_TO_RAS @ affine, (gap, rows, columns) if plane else None


def _sides(header: Any) -> list[float]:
    """Distance of rows and of columns in mm; empty where the header does not tell."""
    return [float(v) for v in header.get("PixelSpacing") or ()]


def _same_pixels(one: Path, other: Path) -> bool:
    import pydicom

    return pydicom.dcmread(one).get("PixelData") == pydicom.dcmread(other).get("PixelData")


def _decode(path: Path) -> tuple[Any, np.ndarray]:
    import pydicom
    from pydicom.pixels import get_decoder, pixel_array

    package = ""
    try:
        header = pydicom.dcmread(path)
        _check_numbers(path, header)
        syntax = header.file_meta.TransferSyntaxUID
        package = next(
            (DECODERS[s] for s in sorted(DECODERS, key=len, reverse=True) if syntax.startswith(s)),
            "",
        )
        if get_decoder(syntax).is_available:
            # Correcting unused bits slice by slice would break values above what BitsStored says: see _corrected.
            plane = pixel_array(header, raw=True, correct_unused_bits=False)
            del header.PixelData
            return header, plane
    except (DataError, KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # decoders raise errors of their own; one in Rust panics outside of Exception
        hint = (
            f"; if other files open, copy it again, else install {package}"
            if package
            else "; copy it again"
        )
        raise DataError(
            f"{path}: pixels not readable ({type(error).__name__}: {error}){hint}"
        ) from error
    raise DataError(
        f"{path}: no decoder for {syntax.name} is installed; pip install {package or 'a pydicom plugin'}"
    )


def _corrected(
    raw: np.ndarray, signed: int, allocated: int, stored: int, high: int | None, ct: bool
) -> tuple[np.ndarray, str]:
    """Stored numbers whose header is wrong about them, where the whole stack shows it, and a note.

    The widely copied fix for the RSNA data, (x << n) >> n with n = BitsAllocated - BitsStored, adds missing signs, but
    turns 3000 HU of a series with a too small BitsStored into -1096: so it is applied only to stacks that show no sign.
    """
    shift = 0 if high is None else high + 1 - stored
    if shift > 0 and raw.any() and not (raw & ((1 << shift) - 1)).any():
        return (
            raw >> shift,
            f"numbers stood {shift} bits too high (HighBit {high}, BitsStored {stored}): shifted",
        )
    low, top, half = int(raw.min()), int(raw.max()), 1 << (stored - 1)
    if signed and (low < -half or top >= half):
        if low >= 0 and top < 2 * half:
            return np.where(raw >= half, raw - 2 * half, raw).astype(
                raw.dtype
            ), f"signs of {stored}-bit numbers added"
        return (
            raw,
            f"numbers need more than the {stored} bits of the header (from {low} to {top}): taken as they are",
        )
    if (
        not signed
        and ct
        and allocated == 16
        and top >= 0xF000
        and not ((raw >= 0x8000) & (raw < 0xF000)).any()
    ):
        return raw.view(np.int16), "negative numbers in unsigned pixels: read as signed"
    if not signed and top >= 2 * half:
        return raw & (2 * half - 1), f"bits above the {stored} of the header (old overlays) removed"
    return raw, ""


def _rescaled(plane: np.ndarray, header: Any, signed: bool, stored: int) -> np.ndarray:
    plane = plane.astype(np.int32)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        plane = -1 - plane if signed else (1 << stored) - 1 - plane
    slope, intercept = (
        float(header.get(f"Rescale{n}") or d) for n, d in (("Slope", 1), ("Intercept", 0))
    )
    scaled = plane * slope + intercept  # float64
    whole = (
        slope.is_integer()
        and intercept.is_integer()
        and scaled.min() >= -32768
        and scaled.max() <= 32767
    )
    return scaled.astype(np.int16 if whole else np.float32)
