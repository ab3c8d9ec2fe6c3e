"""Label files that hold named segments: `.seg.nrrd`, DICOM SEG and RTSTRUCT, on their volume.

Segments may overlap. Which number belongs to which class is decided elsewhere (`layouts.numbers`);
here the segments of some numbers become planes of a mask. A path may be several files, joined as
channels are (`a.dcm::b.dcm`): it stands for the segments of all, numbered one file after the other.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, first_line, listed
from . import (
    channels,
    dicom_headers,
    dicom_seg_labels,
    orientation,
    rtstruct,
    signatures,
    simpleitk,
    slicer,
)
from .orientation import Grid
from .slicer import Segment

SLICER, SEG, RTSTRUCT = "a segmentation of 3D Slicer", "a DICOM Segmentation", "a DICOM RTSTRUCT"
_KINDS = {**dict.fromkeys(dicom_seg_labels.UIDS, SEG), **dict.fromkeys(rtstruct.UIDS, RTSTRUCT)}
_OTHER_SUFFIXES = (".nii", ".gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".mha")


_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)


class Planes(NamedTuple):
    """The segments of a file on the slices of its volume.

    Attributes:
        bits: (S, H, W) unsigned; bit k - 1 is the mask of class k, up to 64.
        labels: (S, H, W) class numbers, 0 elsewhere; where segments of different classes overlap,
            that of the later segment.
        notes: what was left out, and how many voxels two classes share.
        clash: which files give a voxel to different classes, so that `labels` cannot be used; ""
            for none.
    """

    bits: np.ndarray
    labels: np.ndarray
    notes: tuple[str, ...]
    clash: str = ""


def kind_of(path: str | Path) -> str:
    """`SLICER`, `SEG` or `RTSTRUCT`; "" for any other path. Of several files, that of the first."""
    path = channels.first_file(path)
    name = str(path).lower()
    if name.endswith(_OTHER_SUFFIXES):
        return ""
    try:
        status = os.stat(path)
    except OSError:
        return SLICER if name.endswith(slicer.SUFFIX) else ""
    return _kind(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _kind(path: str, _size: int, _time: int) -> str:
    name = path.lower()
    if name.endswith(slicer.SUFFIX):
        return SLICER
    if name.endswith(simpleitk.NRRD_SUFFIXES):
        try:
            fields = simpleitk.read_header(path).fields
        except DataError:
            return ""
        return SLICER if "Segment0_ID" in fields or "Segment0_Name" in fields else ""
    if os.path.isdir(path) or signatures.kind_of(path) != "a DICOM file":
        return ""
    return _KINDS.get(dicom_headers.sop_class(path), "")


def segments(path: str | Path) -> tuple[Segment, ...]:
    """The segments of a file, in its order; only headers are read.

    Raises:
        DataError: none, the file is damaged, or two files have a segment of one name.
    """
    parts = channels.files(path)
    if len(parts) > 1:
        return _of_several_files(parts)
    kind = kind_of(path)
    if kind == SLICER:
        header = simpleitk.read_header(path)
        try:
            result = slicer.segments(header.fields)
        except ValueError as error:
            raise DataError(f"{path}: a damaged list of segments ({first_line(error)})") from error
    else:
        data = _opened(path, stop_before_pixels=True)
        reader = rtstruct if kind == RTSTRUCT else dicom_seg_labels
        with _named_errors(path):
            result = reader.segments(path, data)
    if not result:
        raise DataError(f"{path}: {kind} without any segment; expected at least one")
    return result


def read(grid: Grid, path: str | Path, class_of: Mapping[int, int]) -> Planes:
    """The segments of a file as displayed on the slices of `grid`.

    Args:
        class_of: number of a segment -> its class, from 1; segments that it lacks, and those of
            class 0, are left out.

    Raises:
        DataError: the file is damaged, or does not lie on the volume.
    """
    if not grid.oriented:
        raise DataError(
            f"{path}: {kind_of(path)} says where its segments lie, but the volume {grid.path} does "
            "not; restore the positions of the volume"
        )
    classes = {number: k for number, k in class_of.items() if 0 < k < 256}
    in_bits = [k for k in classes.values() if k <= 64]
    dtype = next(kind for kind in _UNSIGNED if max(in_bits, default=1) <= np.iinfo(kind).bits)
    bits = np.zeros(grid.shape, dtype)
    labels = np.zeros(grid.shape, np.uint8)
    notes: list[str] = []
    shared: Counter = Counter()
    for segment, mask in _masks(grid, path, classes, notes):
        k = classes[segment.number]
        below = np.bincount(labels[mask], minlength=256)
        for other in np.flatnonzero(below):
            if other not in (0, k):
                shared[int(other), k] += int(below[other])
        labels[mask] = k
        if k in in_bits:
            bits[mask] |= dtype(1 << (k - 1))
    names = {classes[s.number]: s.name for s in segments(path) if s.number in classes}
    texts = {
        pair: f"{n} voxels belong to {names[pair[0]]} and {names[pair[1]]}"
        for pair, n in shared.items()
    }
    notes += texts.values()
    return Planes(bits, labels, tuple(notes), _clash(path, classes, texts))


def _of_several_files(parts: list[str]) -> tuple[Segment, ...]:
    """The segments of several files, numbered one file after the other."""
    result: list[Segment] = []
    file_of: dict[str, str] = {}
    for part, offset, own in _numbered(parts):
        of_this_file = {}
        for segment in own:
            name = segment.name.casefold().strip()
            if name in file_of:
                raise DataError(
                    f"{part}: a segment {segment.name}, as in {file_of[name]}, of the same "
                    "volume; which of them is meant is not clear: move one file away"
                )
            of_this_file[name] = part
            result.append(segment._replace(number=segment.number + offset))
        file_of |= of_this_file
    return tuple(result)


def _numbered(parts: list[str]) -> Iterator[tuple[str, int, tuple[Segment, ...]]]:
    """Each of several files, what is added to the numbers of its segments, and its segments."""
    offset = 0
    for part in parts:
        own = segments(part)
        yield part, offset, own
        offset += max(segment.number for segment in own)


def _clash(
    path: str | Path, classes: Mapping[int, int], texts: Mapping[tuple[int, int], str]
) -> str:
    """Which of several files give a voxel to different classes; "" for none, and for one file.

    Args:
        texts: two classes -> how many voxels they share.
    """
    parts = channels.files(path)
    if len(parts) < 2:
        return ""
    files_of: dict[int, set[str]] = {}
    for part, offset, own in _numbered(parts):
        for segment in own:
            files_of.setdefault(classes.get(segment.number + offset, 0), set()).add(part)
    for (low, high), text in texts.items():
        if files_of[low] != files_of[high]:
            names = " and ".join(sorted(files_of[low] | files_of[high]))
            return f"{names}: {text}, which exclude each other; correct one, or move it away"
    return ""


def referenced_series(path: str | Path) -> list[str]:
    """The SeriesInstanceUID of the series that a DICOM file of segments refers to; () of others."""
    kind = kind_of(path)
    if kind not in (SEG, RTSTRUCT):
        return []
    data = _opened(path, stop_before_pixels=True)
    with _named_errors(path):
        reader = rtstruct if kind == RTSTRUCT else dicom_seg_labels
        return list(reader.referenced_series(data))


def _masks(
    grid: Grid, path: str | Path, classes: Mapping[int, int], notes: list[str]
) -> Iterator[tuple[Segment, np.ndarray]]:
    """The segments of some numbers, in the order of the file, and their masks."""
    parts = channels.files(path)
    if len(parts) > 1:
        for part, offset, _ in _numbered(parts):
            own = {number - offset: k for number, k in classes.items()}
            for segment, mask in _masks(grid, part, own, notes):
                yield segment._replace(number=segment.number + offset), mask
        return
    chosen = [segment for segment in segments(path) if segment.number in classes]
    kind = kind_of(path)
    if kind == SLICER:
        yield from _of_slicer(grid, path, chosen)
        return
    data = _opened(path)
    _check_space(grid, path, data)
    with _named_errors(path):
        if kind == SEG:
            yield from _of_frames(grid, path, data, chosen, notes)
            return
        for segment in chosen:
            structure = rtstruct.structure(path, data, segment, grid)
            notes += structure.notes
            yield segment, structure.mask
        empty = rtstruct.without_area(data)
        if empty:
            notes.append(f"structures without an area are left out: {listed(empty)}")


def _of_slicer(
    grid: Grid, path: str | Path, chosen: list[Segment]
) -> Iterator[tuple[Segment, np.ndarray]]:
    """Slicer may store only the box around the segments, so each plane is laid on the volume."""
    header = simpleitk.read_header(path)
    affine, is_oriented = simpleitk.affine_mm(path, header)
    if not is_oriented:
        raise DataError(f"{path}: does not say where its voxels lie; export it anew")
    layers = simpleitk.load_layers(path, header)
    for segment in chosen:
        if not 0 <= segment.layer < layers.shape[3]:
            raise DataError(
                f"{path}: {segment.name} is in layer {segment.layer}, but there are "
                f"{layers.shape[3]}; save it anew"
            )
        stored = layers[..., segment.layer] == segment.value
        mask = np.zeros(grid.shape, bool)
        n_outside = 0
        # A plane for each z: its rows are y and its columns x.
        for z in range(stored.shape[2]):
            plane = affine @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, z], [0, 0, 1]])
            n_outside += orientation.place(grid, mask, stored[:, :, z].T, plane, path)
        _check_outside(path, segment, n_outside, grid)
        yield segment, mask


def _of_frames(
    grid: Grid, path: str | Path, data: Any, chosen: list[Segment], notes: list[str]
) -> Iterator[tuple[Segment, np.ndarray]]:
    """The frames of a DICOM Segmentation, segment by segment."""
    if dicom_seg_labels.is_shares(data):
        notes.append("shares of 0 to 1: those from one half on count")
    for segment in chosen:
        mask = np.zeros(grid.shape, bool)
        n_outside = 0
        for frame in dicom_seg_labels.frames(path, data, segment.number):
            n_outside += orientation.place(grid, mask, frame.pixels, frame.affine, path)
        _check_outside(path, segment, n_outside, grid)
        yield segment, mask


def _check_outside(path: str | Path, segment: Segment, n_outside: int, grid: Grid) -> None:
    if n_outside:
        raise DataError(
            f"{path}: {n_outside} voxels of {segment.name} lie outside the volume {grid.path}; it "
            "belongs to another one, or must be cut to this one"
        )


def _check_space(grid: Grid, path: str | Path, data: Any) -> None:
    """Refuse segments that were drawn in another space than that of a DICOM series."""
    if not grid.files:
        return
    own = str(data.get("FrameOfReferenceUID") or "")
    frames = data.get("ReferencedFrameOfReferenceSequence") or []
    spaces = {own, *(str(item.get("FrameOfReferenceUID") or "") for item in frames)} - {""}
    of_series = dicom_headers.text_of(grid.files[0], "FrameOfReferenceUID")
    if spaces and of_series and of_series not in spaces:
        raise DataError(
            f"{path}: drawn in another space (FrameOfReferenceUID) than {grid.path}; it belongs to "
            "another series: give the one that it was drawn on"
        )


def _opened(path: str | Path, stop_before_pixels: bool = False) -> Any:
    """A DICOM file.

    Raises:
        DataError: it is damaged.
    """
    import pydicom

    with _named_errors(path):
        # Old programs write structure sets without meta information (`force`).
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)


class _named_errors:
    """Turn what pydicom raises on damaged values, which is of many kinds, into a `DataError`."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            advice = dicom_headers.advice(Path(self.path), "export it anew")
            raise DataError(
                f"{self.path}: damaged ({type(error).__name__}: {first_line(error)}); {advice}"
            ) from error
