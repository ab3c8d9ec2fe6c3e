"""Where the voxels of a volume lie, and how the axes of its file become slices, rows and columns."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError
from . import nifti
from .dicom import Series


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie, and how its axes become slices, rows and columns.

    `shape` (S, H, W) as displayed; `spacing_mm` in the same order, None where unknown; `axes` and `flips`: displayed
    axis i is axis `axes[i]` of the file, backwards where `flips[i]`; `affine` (4, 4): index in the file's axes -> mm to
    the right, anterior, superior; `oriented` is False where the file does not tell. A DICOM series has the axes
    (slice, row, column) and its `files` in that order; a NIfTI file its own.
    """

    path: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    affine: np.ndarray = field(repr=False)
    oriented: bool = True
    files: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def display(self, array: np.ndarray) -> np.ndarray:
        """An array in the file's axes -> (S, H, W) as displayed; a view."""
        return turned(array, self.axes, self.flips)

    def restore(self, array: np.ndarray) -> np.ndarray:
        """(S, H, W) as displayed -> the file's axes; `nibabel.Nifti1Image(grid.restore(mask), grid.affine)` fits."""
        if array.shape != self.shape:
            raise DataError(
                f"{self.path}: cannot lay an array {array.shape} over slices {self.shape}; they must agree"
            )
        array = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return np.ascontiguousarray(array.transpose(np.argsort(self.axes)))

    @property
    def displayed_affine(self) -> np.ndarray:
        """(4, 4): displayed index (slice, row, column) -> mm."""
        return self.affine @ index_map(self.axes, self.flips, self.shape)


def turned(array: np.ndarray, axes: Iterable[int], flips: Iterable[bool]) -> np.ndarray:
    """A view whose axis i is axis `axes[i]` of the array, backwards where `flips[i]`."""
    return array.transpose(tuple(axes))[
        tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    ]


def index_map(axes: Iterable[int], flips: Iterable[bool], shape: Iterable[int]) -> np.ndarray:
    """(4, 4): displayed index -> index in the file's axes."""
    turn = np.diag([0.0, 0.0, 0.0, 1.0])
    for i, (axis, flip, n) in enumerate(zip(axes, flips, shape)):
        turn[axis, i], turn[axis, 3] = (-1, n - 1) if flip else (1, 0)
    return turn


def orientation(path: Any, affine: np.ndarray) -> np.ndarray:
    """The axis of space and its sign for each axis of the file, (3, 2), as nibabel's `io_orientation`; `DataError`
    where the affine leads nowhere: not finite, or its axes do not span space."""
    import nibabel

    good = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    turns = nibabel.io_orientation(affine) if good else None
    if turns is None or np.isnan(turns).any():
        raise DataError(
            f"{path}: the affine is no geometry: {np.round(affine, 3).tolist()}; write a correct header"
        )
    return turns


def radiological(
    path: Any, affine: np.ndarray, slice_axis: int | None
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Axes and flips of the usual display: slices go up, forward or right, rows down or back, columns to the left."""
    turns = orientation(path, affine)
    of = {
        int(way): axis for axis, way in enumerate(turns[:, 0])
    }  # 0 left-right, 1 back-front, 2 foot-head
    cut = 2 if slice_axis is None else int(turns[slice_axis, 0])
    ways = (cut, *{2: (1, 0), 1: (2, 0), 0: (2, 1)}[cut])
    axes = tuple(of[way] for way in ways)
    return axes, tuple(bool(turns[axis, 1] != sign) for axis, sign in zip(axes, (1, -1, -1)))


def dicom_grid(path: Any, found: Series, slice_axis: int | None, canonical: bool) -> Grid:
    axes, flips = (0, 1, 2), (False, False, False)
    if canonical and found.affine is not None:
        axes, flips = radiological(path, found.affine, slice_axis)
    elif slice_axis:
        axes = (slice_axis, *(axis for axis in (0, 1, 2) if axis != slice_axis))
    affine = np.eye(4) if found.affine is None else found.affine
    spacing = found.spacing_mm and tuple(found.spacing_mm[axis] for axis in axes)
    shape = tuple(found.shape[axis] for axis in axes)
    return Grid(
        str(path),
        shape,
        spacing,
        axes,
        flips,
        affine,
        found.affine is not None,
        found.files,
        found.notes,
    )


def nifti_grid(path: Any, image: Any, slice_axis: int | None, canonical: bool) -> Grid:
    zooms = np.abs(np.array(image.header.get_zooms()[:3], np.float64))
    known_place, notes = nifti.oriented(image), []
    # Converters that lost the geometry leave an identity affine; the sizes in the header may still be right.
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0) if known_place else zooms
    unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    if canonical:
        axes, flips = radiological(path, image.affine, slice_axis)
    else:
        orientation(path, image.affine)  # to refuse what is none
        cut = (
            slice_axis
            if slice_axis is not None
            else int(np.flatnonzero(spacing >= spacing.max() * 0.999)[-1])
        )
        axes, flips = (cut, *(axis for axis in (2, 1, 0) if axis != cut)), (False, False, False)
    known = known_place or not (zooms == 1).all()
    if not known:
        notes.append("spacing unknown: 1 x 1 x 1 without a geometry in the header")
    shape = tuple(image.shape[axis] for axis in axes)
    sides = tuple(float(spacing[axis] * unit) for axis in axes) if known and spacing.all() else None
    return Grid(str(path), shape, sides, axes, flips, image.affine, known_place, (), tuple(notes))
