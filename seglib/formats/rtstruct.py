"""Read the structures of radiotherapy, a DICOM RT Structure Set (RTSTRUCT), as labels.

A structure is drawn as contours, each in the plane of one slice, by points in mm. A pixel belongs
to it where its centre lies inside an odd number of the contours of its slice, so that an inner
contour is a hole, or on a contour: programs that trace a mask lead the contour through the centres
of its outermost pixels.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..annotations import shapes
from ..annotations.drawing import draw
from ..errors import DataError
from .orientation import Grid
from .slicer import Segment

UIDS = ("1.2.840.10008.5.1.4.1.1.481.3",)
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ON_CONTOUR = 0.02  # pixels: coordinates are often rounded to 0.01 mm
_BESIDE_SLICE = 0.25  # a contour farther than this, in slices, beside a slice belongs to none
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Structure(NamedTuple):
    """One structure on the slices of a volume.

    Attributes:
        mask: bool (S, H, W) as displayed.
        notes: what was left out.
    """

    mask: np.ndarray
    notes: list[str]


def segments(path: str | Path, data: Any) -> tuple[Segment, ...]:
    """The structures of an opened file that have an area, in its order."""
    colours = {}
    for item in data.get("ROIContourSequence") or []:
        if _has_area(item):
            colour = item.get("ROIDisplayColor")
            is_colour = colour is not None and len(colour) == 3
            number = int(item.ReferencedROINumber)
            colours[number] = tuple(map(int, colour)) if is_colour else None
    result = [
        Segment(
            int(item.ROINumber),
            str(item.get("ROIName") or "").strip(),
            colours[int(item.ROINumber)],
        )
        for item in data.get("StructureSetROISequence") or []
        if int(item.ROINumber) in colours
    ]
    if len({segment.number for segment in result}) < len(result):
        raise DataError(f"{path}: two structures have one ROINumber; export it anew")
    return tuple(result)


def without_area(data: Any) -> list[str]:
    """The names of structures without a contour that encloses an area, such as points."""
    contours = data.get("ROIContourSequence") or []
    drawn = {int(item.ReferencedROINumber) for item in contours if _has_area(item)}
    items = data.get("StructureSetROISequence") or []
    return [str(item.get("ROIName")) for item in items if int(item.ROINumber) not in drawn]


def _has_area(item: Any) -> bool:
    contours = item.get("ContourSequence") or []
    return any(_type(contour) in _AREAS for contour in contours)


def _type(contour: Any) -> str:
    return str(contour.get("ContourGeometricType") or "").upper()


def structure(path: str | Path, data: Any, segment: Segment, grid: Grid) -> Structure:
    """The mask of one structure of an opened file.

    Raises:
        DataError: a contour that is damaged, lies between two slices or across them, or all of them
            lie outside the volume.
    """
    where = f"{path}: {segment.name}"
    contours = _contours(where, data, segment.number)
    by_slice: dict[int, list[np.ndarray]] = {}
    left_out: Counter = Counter()
    axis = None
    to_voxels = np.linalg.inv(grid.displayed_affine)
    for kind, points in contours:
        if kind not in _AREAS:
            left_out[kind] += 1
            continue
        voxels = points * _LPS_TO_RAS @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if axis is None:
            axis = int(np.ptp(voxels, axis=0).argmin()) if len(voxels) > 2 else 0
        number = _slice_of(where, voxels[:, axis], axis, grid)
        by_slice.setdefault(number, []).append(np.delete(voxels, axis, axis=1))
    axis = axis or 0
    mask = np.zeros(grid.shape, bool)
    planes = np.moveaxis(mask, axis, 0)
    outside = [number for number in by_slice if not 0 <= number < len(planes)]
    if by_slice and len(outside) == len(by_slice):
        raise DataError(
            f"{where}: all its contours lie outside the volume {grid.path}; it was drawn on "
            "another one"
        )
    for number in by_slice.keys() - set(outside):
        planes[number] |= _filled(where, by_slice[number], planes.shape[1:])
    notes = [f"{n} contours of type {kind} are no areas: left out" for kind, n in left_out.items()]
    if outside:
        notes.append(f"contours on {len(outside)} planes outside the volume are left out")
    inside = sorted(by_slice.keys() - set(outside))
    n_gaps = inside[-1] - inside[0] + 1 - len(inside) if inside else 0
    if n_gaps:
        notes.append(
            f"no contour on {n_gaps} slices between its first and its last one: empty there"
        )
    return Structure(mask, [f"{segment.name}: {note}" for note in notes])


def _contours(where: str, data: Any, number: int) -> Iterator[tuple[str, np.ndarray]]:
    """The type of each contour of a structure, and its points (n, 3) in mm."""
    for item in data.ROIContourSequence:
        if int(item.ReferencedROINumber) != number:
            continue
        for place, contour in enumerate(item.get("ContourSequence") or [], start=1):
            try:
                values = np.array(contour.ContourData, np.float64).reshape(-1, 3)
            except (AttributeError, ValueError, TypeError) as error:
                raise DataError(
                    f"{where}: contour {place} is not a list of points in space; export it anew"
                ) from error
            if not len(values) or not np.isfinite(values).all() or np.abs(values).max() > 1e6:
                raise DataError(
                    f"{where}: contour {place} has {len(values)} points, not all at finite "
                    "positions in mm; export it anew"
                )
            yield _type(contour), values


def _slice_of(where: str, positions: np.ndarray, axis: int, grid: Grid) -> int:
    """The slice in whose plane a contour lies."""
    number = round(float(positions.mean()))
    beside = float(np.abs(positions - number).max())
    if 0 <= number < grid.shape[axis] and beside > _BESIDE_SLICE:
        raise DataError(
            f"{where}: a contour lies {beside:.2f} slices beside slice {number} of {grid.path}; "
            "expected contours in the planes of the slices: it was drawn on another series, or "
            "must be made anew on this one"
        )
    return number


def _filled(where: str, contours: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) whose centres lie in an odd number of contours, or on one of them.

    Args:
        contours: corners (n, 2), row and column of a pixel's centre being whole numbers.
    """
    height, width = shape
    rings = tuple(corners[:, ::-1] + 0.5 for corners in contours if len(corners) > 2)
    mask = np.zeros(shape, bool)
    if rings:
        drawn = shapes.Shape("structure", (rings,), name=where)
        image = shapes.Annotated("slice", height, width, (drawn,), Path(where))
        mask = draw(image, height, width, ("structure",), "binary").astype(bool)
    for corners in contours:
        rows, columns = _on_contour(corners)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask[rows[inside], columns[inside]] = True
    return mask


def _on_contour(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels whose centres lie on a closed line.

    They are where the line crosses the middle of a row at the middle of a column. Nearly horizontal
    edges are looked at column by column instead.
    """
    following = np.roll(corners, -1, axis=0)
    is_flat = np.abs(following - corners)[:, 0] < np.abs(following - corners)[:, 1]
    pixels = []
    for edges, turned in ((~is_flat, False), (is_flat, True)):
        start, end = corners[edges], following[edges]
        if turned:
            start, end = start[:, ::-1], end[:, ::-1]
        is_down = (start[:, 0] <= end[:, 0])[:, None]
        start, end = np.where(is_down, start, end), np.where(is_down, end, start)
        first = np.ceil(start[:, 0] - _ON_CONTOUR).astype(int)
        counts = np.floor(end[:, 0] + _ON_CONTOUR).astype(int) + 1 - first
        counts = np.maximum(counts, 0)
        edge = np.repeat(np.arange(len(counts)), counts)
        lines = first[edge] + np.arange(len(edge)) - (np.cumsum(counts) - counts)[edge]
        length = np.maximum(end[:, 0] - start[:, 0], 1e-12)
        share = np.clip((lines - start[edge, 0]) / length[edge], 0, 1)
        crossing = start[edge, 1] + share * (end - start)[edge, 1]
        places = np.rint(crossing).astype(int)
        is_on = np.abs(crossing - places) <= _ON_CONTOUR
        pair = np.column_stack([lines[is_on], places[is_on]])
        pixels.append(pair[:, ::-1] if turned else pair)
    rows, columns = np.concatenate(pixels).T
    return rows, columns


def referenced_series(data: Any) -> list[str]:
    """The SeriesInstanceUID of the series that an opened file was drawn on."""
    return [
        str(series.SeriesInstanceUID)
        for frame in data.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
        if series.get("SeriesInstanceUID")
    ]
