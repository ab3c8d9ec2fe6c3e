"""Read a DICOM Segmentation as labels: of `dicom_seg`, highdicom, dcmqi, 3D Slicer and others.

It is one file of many frames. Each frame is a plane of one segment and says where it lies; frames
without any pixel of their segment are usually left out. The pixels are single bits (BINARY), shares
(FRACTIONAL) or numbers of segments (LABELMAP).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, first_line
from . import dicom_headers
from .slicer import Segment

UIDS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Frame(NamedTuple):
    """A plane of one segment.

    Attributes:
        pixels: bool (rows, columns).
        affine: (4, 3), index (row, column, 1) -> mm to the right, anterior, superior.
    """

    pixels: np.ndarray
    affine: np.ndarray


def segments(path: str | Path, data: Any) -> tuple[Segment, ...]:
    """The segments of an opened file, in its order.

    Raises:
        DataError: none, or two of one number.
    """
    items = data.get("SegmentSequence") or []
    result = tuple(
        Segment(int(item.SegmentNumber), str(item.get("SegmentLabel") or "").strip())
        for item in items
        if int(item.SegmentNumber)  # 0 is the background of a LABELMAP
    )
    if not result or len({segment.number for segment in result}) < len(result):
        raise DataError(
            f"{path}: a DICOM Segmentation {'without segments' if not result else 'with two '}"
            f"{'segments of one number' if result else ''}; export it anew"
        )
    return result


def frames(path: str | Path, data: Any, segment: int) -> Iterator[Frame]:
    """The frames of one segment of an opened file; only these are decoded, or all of a LABELMAP.

    Raises:
        DataError: the pixels are cut short or cannot be decoded, or a frame does not say of which
            segment it is, or where it lies.
    """
    rows, columns = int(data.Rows), int(data.Columns)
    groups = data.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != int(data.get("NumberOfFrames") or 1) or not rows or not columns:
        raise DataError(
            f"{path}: {data.get('NumberOfFrames')} frames of {rows}x{columns} pixels, but "
            f"{len(groups)} are described; the file is damaged: export it anew"
        )
    numbers = {described.number for described in segments(path, data)}
    places = [_place(path, data, index) for index in range(len(groups))]
    for index, (number, _) in enumerate(places):
        _check_described(path, index, {number} - {None}, numbers)
    indices = [index for index, (number, _) in enumerate(places) if number in (segment, None)]
    for index, pixels in zip(indices, _pixels(path, data, len(groups), indices)):
        number, affine = places[index]
        if number is None:
            _check_described(path, index, set(np.unique(pixels).tolist()) - {0}, numbers)
            pixels = pixels == segment
        yield Frame(pixels > 0, affine)


def _place(path: str | Path, data: Any, index: int) -> tuple[int | None, np.ndarray]:
    """The segment of a frame, None in a LABELMAP, and its affine."""
    group = data.PerFrameFunctionalGroupsSequence[index]
    shared = (data.get("SharedFunctionalGroupsSequence") or [{}])[0]
    try:
        affine = _affine(group, shared)
        if data.SegmentationType == "LABELMAP":
            return None, affine
        identification = _item(group, shared, "SegmentIdentificationSequence")
        return int(identification.ReferencedSegmentNumber), affine
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: frame {index + 1} does not say of which segment it is, or where it lies "
            f"({first_line(error)}); export it anew"
        ) from error


def _check_described(path: str | Path, index: int, of_frame: set, numbers: set[int]) -> None:
    """Refuse a frame of segments that the file does not describe."""
    for number in sorted(of_frame - numbers):
        raise DataError(
            f"{path}: frame {index + 1} is of segment {number}, which is not described; "
            "export it anew"
        )


def _item(group: Any, shared: Any, name: str) -> Any:
    """An attribute of a frame, or the one that all frames share."""
    items = group.get(name) or shared.get(name)
    if not items:
        raise KeyError(name)
    return items[0]


def _affine(group: Any, shared: Any) -> np.ndarray:
    position = _item(group, shared, "PlanePositionSequence").ImagePositionPatient
    directions = _item(group, shared, "PlaneOrientationSequence").ImageOrientationPatient
    spacing = _item(group, shared, "PixelMeasuresSequence").PixelSpacing
    along_row, along_column = dicom_headers.floats(directions).reshape(2, 3)
    between_rows, between_columns = dicom_headers.floats(spacing)
    affine = np.zeros((4, 3))
    affine[:3, 0] = along_column * between_rows
    affine[:3, 1] = along_row * between_columns
    affine[:, 2] = [*dicom_headers.floats(position), 1]
    if not np.isfinite(affine).all():
        raise ValueError("a position is no number")
    return _LPS_TO_RAS @ affine


def _pixels(
    path: str | Path, data: Any, n_frames: int, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """The pixels of some frames: bool, or the numbers of a LABELMAP."""
    from pydicom import pixels

    kind = data.get("SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise DataError(
            f"{path}: SegmentationType {kind!r}; expected BINARY, FRACTIONAL or LABELMAP"
        )
    size = int(data.Rows) * int(data.Columns)
    if int(data.BitsAllocated) == 1:
        yield from _bits(path, data, n_frames, size, indices)
        return
    if not indices:
        return
    half = int(data.get("MaximumFractionalValue") or 255) / 2
    try:
        for frame in pixels.iter_pixels(data, raw=True, indices=indices):
            yield frame >= half if kind == "FRACTIONAL" else frame
    except Exception as error:  # pydicom and its decoders raise errors of many kinds
        raise DataError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}: {first_line(error)}); "
            "copy it again"
        ) from error


def _bits(
    path: str | Path, data: Any, n_frames: int, size: int, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Some frames of single bits, which follow each other without a gap."""
    packed = data.get("PixelData") or b""
    if len(packed) * 8 < n_frames * size:
        raise DataError(
            f"{path}: cut short or compressed: {n_frames} frames of {size} bits, but "
            f"{len(packed)} bytes of pixels; copy it again, or save it uncompressed"
        )
    for start in (index * size for index in indices):
        content = np.frombuffer(packed[start // 8 : (start + size + 7) // 8], np.uint8)
        bits = np.unpackbits(content, bitorder="little")[start % 8 :][:size]
        yield bits.reshape(int(data.Rows), int(data.Columns)).astype(bool)


def is_shares(data: Any) -> bool:
    """Whether an opened file holds shares of 0 to 1, of which those from one half on count."""
    return data.get("SegmentationType") == "FRACTIONAL"


def referenced_series(data: Any) -> Sequence[str]:
    """The SeriesInstanceUID of the series that an opened file refers to."""
    items = data.get("ReferencedSeriesSequence") or []
    return [str(item.SeriesInstanceUID) for item in items if item.get("SeriesInstanceUID")]
