"""Volumes: NIfTI files and DICOM series as slices in the usual display, their labels on the same grid, and back.

CT is shown as radiologists do: slices from feet to head, the patient's right at the image's left, anterior up.
Short-axis MRI is never turned: its slices are cut as they were acquired.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from . import dicom, images, nifti
from .orientation import Grid, dicom_grid, index_map, nifti_grid, orientation, turned

SUFFIXES = (".nii", ".nii.gz")
# TotalSegmentator's name of a mask file -> class of the RSNA system; several files of one class are united
ORGANS = {
    "liver": "liver",
    "spleen": "spleen",
    "kidney_left": "left_kidney",
    "kidney_right": "right_kidney",
    "colon": "bowel",
    "small_bowel": "bowel",
    "duodenum": "bowel",
}
_CACHED = 4  # arrays that a thread keeps in memory: image and labels of two volumes


@dataclass(frozen=True)
class Volume:
    """`voxels` (S, H, W) int16 or float32 as displayed (CT: HU) and the `grid` that they lie on."""

    voxels: np.ndarray = field(repr=False)
    grid: Grid

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance of slices, rows and columns in mm, None where unknown."""
        return self.grid.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """Index in the file's own axes -> mm, as the header has it."""
        return self.grid.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found odd, and what was done."""
        return self.grid.notes

    def restore(self, array: np.ndarray) -> np.ndarray:
        """A result (S, H, W) in the file's own axes."""
        return self.grid.restore(array)


def is_volume(path: str | Path) -> bool:
    """Whether the path is a NIfTI file or a folder (of a DICOM series), not a picture (nor what is called like one)."""
    name = str(path).lower()
    return name.endswith(SUFFIXES) or (Path(path).is_dir() and not name.endswith(images.SUFFIXES))


def options(cfg) -> dict[str, Any]:
    """How a config wants volumes cut: a window in HU means CT, which is turned to the usual display."""
    return {"slice_axis": cfg.slice_axis, "canonical": cfg.window_level is not None}


def read(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Volume:
    """A NIfTI file or the folder of a DICOM series."""
    reader = read_nifti if str(path).lower().endswith(SUFFIXES) else read_dicom
    return reader(path, slice_axis=slice_axis, canonical=canonical)


def read_grid(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Grid:
    """Only the `Grid` of a volume: headers are read, pixels are not."""
    if str(path).lower().endswith(SUFFIXES):
        return nifti_grid(path, nifti.open_file(path), slice_axis, canonical)
    return dicom_grid(path, dicom.open_series(path), slice_axis, canonical)


def read_nifti(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Volume:
    """A three-dimensional NIfTI file, values scaled by its header.

    Args:
        slice_axis: the file's axis (0, 1, 2) to cut along. By default head-foot for `canonical`, else the axis of the
            largest spacing, the last where equal.
        canonical: turn to the usual display (the closest one, where the axes are oblique). False: nothing is flipped,
            rows are the later and columns the earlier of the other two axes, as SimpleITK shows them.

    A spacing of exactly 1 x 1 x 1 with an identity affine, or without a qform and sform, is what converters write that
    know none: it counts as unknown, so that no millilitres are invented. Voxels that are not finite become the minimum.

    Raises:
        DataError: no such file, cut short, not three-dimensional, colours, or an affine that is no geometry.
    """
    image = nifti.open_file(path)
    grid = nifti_grid(path, image, slice_axis, canonical)
    array, notes = nifti.load(path, image), list(grid.notes)
    wrong = int(array.size - np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
    if wrong == array.size:
        raise DataError(f"{path}: no voxel is a finite number; nothing can be learned from it")
    if wrong:
        low = array[np.isfinite(array)].min()
        array = np.where(np.isfinite(array), array, low)
        notes.append(f"{wrong} voxels are not finite numbers; set to the minimum, {low:g}")
    fits = array.dtype.kind in "iub" and array.min() >= -32768 and array.max() <= 32767
    array = grid.display(array.astype(np.int16 if fits else np.float32, copy=False))
    return Volume(np.ascontiguousarray(array), _with_notes(grid, notes))


def read_dicom(
    source: str | Path | Iterable[str | Path],
    series: str | None = None,
    slice_axis: int | None = None,
    canonical: bool = True,
) -> Volume:
    """The one DICOM series of a folder or a list of files, as values (CT: HU); see `dicom.open_series`.

    `canonical` as in `read_nifti`; False keeps rows and columns as they are stored. `slice_axis` counts the axes
    (slice, row, column) of the series.

    Raises:
        DataError: several series, a damaged file, two images at one position, no decoder (names the package).
    """
    found = dicom.open_series(source, series)
    grid = dicom_grid(
        source if isinstance(source, str | Path) else found.files[0], found, slice_axis, canonical
    )
    array, notes = dicom.values(found.files)
    return Volume(
        np.ascontiguousarray(grid.display(array)), _with_notes(grid, [*grid.notes, *notes])
    )


# ---- labels


def read_labels_like(
    volume: Volume | Grid, labels: str | Path | dict[str, Any], class_names: tuple[str, ...] = ()
) -> np.ndarray:
    """Labels (S, H, W) on the displayed slices of a volume, uint8 or int32.

    Args:
        labels: a NIfTI label map (its numbers are returned), or one mask file an organ: a dict class -> path(s), or a
            folder, whose files are found by `organ_files`. Masks become class numbers: the place in `class_names`,
            or 1, 2, 3 … in the order of the dict. Where masks overlap, the later class wins.
        class_names: with the background first; for a folder by default the classes of `ORGANS`.

    The axes are brought together by both affines, so a label map may be stored in any orientation. A file without
    orientation (identity affine, or no qform and sform) is taken to have the axes of its NIfTI volume.

    Raises:
        DataError: another size or more than half a voxel off, not whole numbers, unreadable.
    """
    grid = getattr(volume, "grid", volume)
    if not isinstance(labels, dict) and not Path(labels).is_dir():
        return _labels_on(grid, labels)
    class_names = class_names or (
        () if isinstance(labels, dict) else ("background", *dict.fromkeys(ORGANS.values()))
    )
    masks = labels if isinstance(labels, dict) else organ_files(labels, class_names)
    if not masks:
        raise DataError(
            f"{labels}: no mask file of {', '.join(class_names[1:])}; expected names such as liver.nii.gz"
        )
    result = np.zeros(grid.shape, np.uint8)
    for number, (name, paths) in enumerate(masks.items(), 1):
        for path in [paths] if isinstance(paths, str | Path) else paths:
            result[_labels_on(grid, path) > 0] = class_names.index(name) if class_names else number
    return result


def organ_files(folder: str | Path, class_names: Iterable[str]) -> dict[str, list[Path]]:
    """Class -> its mask files in a folder: `<class>.nii.gz`, or all the files that `ORGANS` names for it.

    A class of which only some files are there is left out: half a union would teach a wrong truth.
    """
    there = {
        file.name[: file.name.lower().index(".nii")]: file
        for file in sorted(Path(folder).glob("*.nii*"))
    }
    found = {}
    for name in class_names:
        parts = [organ for organ, of in ORGANS.items() if of == name]
        if name in there:
            found[name] = [there[name]]
        elif parts and all(part in there for part in parts):
            found[name] = [there[part] for part in parts]
    return found


def align(
    grid: Grid, path: str | Path
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], str]:
    """How the axes of a label file become the displayed axes of `grid`: (axes, flips, note), from headers only.

    Raises:
        DataError: the two grids do not coincide.
    """
    image = nifti.open_file(path)
    shape, affine = image.shape[:3], image.affine
    size = "{}x{}x{}".format
    if not grid.oriented or not nifti.oriented(image):
        own = tuple(np.array(grid.shape)[np.argsort(grid.axes)].tolist())
        if grid.files or shape != own:
            why = (
                "a DICOM series cannot be matched without it"
                if grid.files
                else f"and its volume is {size(*own)}"
            )
            raise DataError(
                f"{path}: {size(*shape)} voxels without orientation, {why}; write the volume's affine to it"
            )
        same = np.allclose(affine, grid.affine, atol=1e-3)
        return (
            grid.axes,
            grid.flips,
            "" if same else f"{Path(path).name}: no orientation; taken as that of its volume",
        )
    orientation(path, affine)  # to refuse what is none
    turn = np.linalg.solve(
        affine, grid.displayed_affine
    )  # displayed index -> index in the label file
    axes = tuple(np.abs(turn[:3, :3]).argmax(axis=0).tolist())
    flips = tuple(bool(turn[axis, i] < 0) for i, axis in enumerate(axes))
    if sorted(axes) != [0, 1, 2] or tuple(shape[axis] for axis in axes) != grid.shape:
        found = (
            size(*(shape[axis] for axis in axes))
            if sorted(axes) == [0, 1, 2]
            else f"{size(*shape)}, turned obliquely"
        )
        raise DataError(
            f"{path}: labels of {found} (slices x rows x columns) for a volume of {size(*grid.shape)} "
            f"({Path(grid.path).name}); make both on one grid"
        )
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]).T * np.array(
        [[n - 1] for n in (*grid.shape, 2)]
    )
    off = np.abs((turn - index_map(axes, flips, grid.shape)) @ corners)[:3].max()
    if off > 0.5:
        raise DataError(
            f"{path}: lies up to {off:.1f} voxels beside its volume {Path(grid.path).name}, by their affines; "
            + (
                "make both on one grid"
                if grid.spacing_mm
                else "the volume has no PixelSpacing: correct its headers"
            )
        )
    return axes, flips, ""


def read_numbers(path: str | Path) -> np.ndarray:
    """The numbers of a NIfTI file as they are stored, in its own axes."""
    return nifti.load(path, nifti.open_file(path))


def _labels_on(grid: Grid, path: str | Path) -> np.ndarray:
    axes, flips, _ = align(grid, path)
    array = read_numbers(path)
    if array.dtype.kind == "f":
        whole = np.empty(array.shape, np.int32)
        for i, plane in enumerate(array):
            if not np.isfinite(plane).all() or np.abs(np.rint(plane) - plane).max() > 1e-3:
                raise DataError(
                    f"{path}: labels are not whole numbers; were they resampled with interpolation?"
                )
            whole[i] = np.rint(plane)
        array = whole
    if array.min() < 0:
        raise DataError(f"{path}: label {array.min():g} is negative; expected 0, 1, 2 …")
    return np.ascontiguousarray(turned(array, axes, flips)).astype(
        np.uint8 if array.max() < 256 else np.int32
    )


# ---- eight bits


def window(voxels: np.ndarray, level: float, width: float) -> np.ndarray:
    """uint8: `level` - `width` / 2 becomes 0, `level` + `width` / 2 becomes 255, linearly between, clipped outside."""
    low, result = np.float32(level - width / 2), np.empty(voxels.shape, np.uint8)
    for i in range(
        len(voxels)
    ):  # a slice at a time: floats of a whole volume need four times its memory
        result[i] = np.rint(
            np.clip((voxels[i].astype(np.float32) - low) * np.float32(255 / width), 0, 255)
        )
    return result


def clip_percentiles(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: the `low` percentile of the whole volume becomes 0, the `high` one 255, linearly between."""
    bottom, top = np.percentile(voxels, (low, high))
    return window(voxels, (bottom + top) / 2, max(top - bottom, 1e-6))


# ---- a small memory: preparation asks slice by slice, a thread a volume


decoded: dict[str, tuple[str, ...]] = {}  # path -> notes on what `bytes_of` found odd and corrected


def bytes_of(
    path: str,
    level: float | None,
    width: float | None,
    percentiles: tuple[float, float] | None,
    **cut: Any,
) -> np.ndarray:
    """A volume as uint8 (S, H, W), by window (where there is a level) or percentiles; the last few are remembered."""

    def make() -> np.ndarray:
        volume = read(path, **cut)
        decoded[path], voxels = volume.notes, volume.voxels
        return (
            window(voxels, level, width)
            if level is not None
            else clip_percentiles(voxels, *(percentiles or (0, 100)))
        )

    return _remembered((path, stamp(path), level, width, percentiles, *cut.values()), make)


def labels_of(path: str, labels: str, class_names: tuple[str, ...], **cut: Any) -> np.ndarray:
    """`read_labels_like` for the volume at `path`; the last few are remembered."""
    key = (path, stamp(path), labels, stamp(labels), class_names, *cut.values())
    return _remembered(key, lambda: read_labels_like(read_grid(path, **cut), labels, class_names))


def stamp(path: str | Path) -> tuple[Any, ...]:
    """What changes when a file, or any file of a folder, changes: names, sizes and times."""
    if not os.path.isdir(path):
        found = [(str(path), os.stat(path))] if os.path.exists(path) else []
    else:
        with os.scandir(path) as entries:  # asked once a slice, of folders of a thousand slices
            found = sorted(
                ((entry.name, entry.stat()) for entry in entries), key=lambda item: item[0]
            )
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)


class _Memory(threading.local):
    """Key -> array or error of the volumes that this thread asked for last; no thread can push out another's."""

    def __init__(self):
        self.known: OrderedDict[Any, np.ndarray | ValueError] = OrderedDict()


_memory = _Memory()


def _remembered(key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The value for a key, made once while it is remembered; a file that cannot be read is remembered too."""
    known = _memory.known
    if key not in known:
        try:
            known[key] = make()
        except ValueError as error:
            known[key] = error
        while len(known) > _CACHED:
            known.popitem(last=False)
    known.move_to_end(key)
    if isinstance(known[key], ValueError):
        raise known[key]
    return known[key]


def _with_notes(grid: Grid, notes: Iterable[str]) -> Grid:
    return Grid(**{**grid.__dict__, "notes": tuple(notes)})
