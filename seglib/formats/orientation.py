"""How the axes of a volume's file become slices, rows and columns, and where each voxel lies in mm.

A file may store the three axes of a patient in any order and direction: 48 ways, and oblique ones.
Its affine, a 4 x 4 matrix from voxel index to mm (right, anterior, superior), says which one it is.
The arithmetic is that of `nibabel.orientations`, whose term "orientation" is used here: an array
(3, 2) with a row for each axis of the file: the axis that it becomes, and 1, or -1 where it is
reversed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError

# Spacings outside this range are taken for a wrong header or a wrong unit. The smallest is that of
# light microscopy; no scanner has voxels larger than 100 mm.
MIN_SPACING_MM = 1e-4
MAX_SPACING_MM = 100.0
# Axes whose determinant is smaller by this share than the product of their lengths are oblique to
# each other; float32 headers of perpendicular axes differ by less.
_MAX_SHEAR = 1e-4
# Patient axis along which the slices are stacked (0 left-right, 1 back-front, 2 foot-head) ->
# directions in which slices, rows and columns are counted. Axial slices: from the feet up
# (Superior), rows to the back (Posterior), columns to the patient's Left.
RADIOLOGICAL = ("RIP", "AIL", "SPL")
AXIAL = 2
NO_ORIENTATION = (
    "orientation unknown: no geometry in the header, so that left and right, up and down, are only "
    "guessed; look at it, and correct the header"
)
ROWS_TURNED = (
    "rows read from the last to the first, as its axes are left-handed (dcm2niix stores them so): "
    "it is shown like its DICOM series"
)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie, and how its axes become slices, rows and columns.

    A NIfTI file has its own three axes; those of a DICOM series are (slice, row, column).

    Attributes:
        path: the file or folder, for error messages.
        shape: (slices, rows, columns) as displayed.
        spacing_mm: distance between slices, rows and columns; None where unknown (`known_spacing`).
            Their product is the volume of a voxel, also where the axes are not perpendicular.
        orientation: (3, 2), file axes -> displayed axes, as nibabel writes orientations.
        affine: (4, 4), index in the file's axes -> mm to the right, anterior, superior.
        oriented: False where the file does not say where its voxels lie; `affine` is a guess then.
        files: the files of a DICOM series, one for each slice, in their order.
        notes: what is odd about the headers, and what was done about it.
        spacing_note: why the spacing of a NIfTI file is unknown. It is not among `notes`, because
            in some collections no file has a spacing, and the case table shows that by empty cells.
    """

    path: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    orientation: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
    oriented: bool = True
    files: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    spacing_note: str = ""

    @property
    def file_shape(self) -> tuple[int, int, int]:
        """The shape of the array in the file's own axes."""
        return in_file_order(self.shape, self.orientation)

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in mL; NaN where the spacing is unknown."""
        return voxel_ml(self.spacing_mm)

    @property
    def displayed_affine(self) -> np.ndarray:
        """(4, 4): displayed index (slice, row, column) -> mm."""
        return self.affine @ index_map(self.orientation, self.file_shape)

    def display(self, array: np.ndarray) -> np.ndarray:
        """An array in the file's axes -> (S, H, W) as displayed; a view."""
        return reorient(array, self.orientation)

    def restore(self, array: np.ndarray) -> np.ndarray:
        """(S, H, W) as displayed -> the file's axes, a contiguous copy.

        `nibabel.Nifti1Image(grid.restore(mask), grid.affine)` lies exactly over its volume.

        Raises:
            DataError: the array has another shape than the grid.
        """
        if array.shape != self.shape:
            raise DataError(
                f"{self.path}: cannot lay an array {array.shape} over slices {self.shape}; "
                "they must agree"
            )
        return np.ascontiguousarray(reorient(array, inverse(self.orientation)))


def known_spacing(
    distances: Sequence[Any], stated: bool = True, unit_mm: float = 1.0
) -> tuple[float, float, float] | None:
    """The distances between voxels along the three axes where they are known, else None.

    Only this function decides it, so that no volume in mL is ever computed from a guess. Known are
    three finite numbers from `MIN_SPACING_MM` to `MAX_SPACING_MM`.

    Args:
        distances: as the header has them; fewer than three, or zeros, where it has none.
        stated: False where a 1 in the header may be a measurement or only the default.
        unit_mm: the unit of the distances in mm.

    Returns:
        The three distances in mm.
    """
    try:
        numbers = [float(distance) for distance in distances]
    except (TypeError, ValueError):  # an empty cell of a table, or a missing value
        return None
    # Programs that do not know the spacing write exactly 1 x 1 x 1.
    if len(numbers) != 3 or (not stated and numbers == [1, 1, 1]):
        return None
    spacing = tuple(number * unit_mm for number in numbers)
    # A comparison with NaN is false.
    if not all(MIN_SPACING_MM <= distance <= MAX_SPACING_MM for distance in spacing):
        return None
    return spacing


def voxel_ml(spacing_mm: Sequence[Any] | None) -> float:
    """The volume of a voxel in mL; NaN where its spacing is unknown (`known_spacing`)."""
    spacing = None if spacing_mm is None else known_spacing(spacing_mm)
    return float("nan") if spacing is None else float(np.prod(spacing)) / 1000


def is_default_grid(affine: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether an affine is a placeholder of a program that knew neither spacing nor position.

    A placeholder has voxels of 1 x 1 x 1 along the axes of the patient, with the first, the last or
    the middle voxel of each axis at 0: the identity (nibabel), diag(-1, -1, 1) (SimpleITK), and
    both after axes were swapped or reversed. A scan that truly has 1 mm and lies just so cannot be
    told from them; one with any other position or rotation can.
    """
    steps, origin = affine[:3, :3], affine[:3, 3]
    size = np.abs(steps)
    if not np.allclose(np.sort(size, axis=0), np.sort(np.eye(3), axis=0), atol=1e-5):
        return False
    # Coordinates of the last voxel; `origin` has those of the first.
    last = origin + steps @ (np.asarray(shape) - 1)
    nearest_zero = np.abs([origin, last, (origin + last) / 2]).min(axis=0)
    return bool((nearest_zero < 1e-3).all())


def perpendicular_spacing(
    spacing: Sequence[float], affine: np.ndarray, slice_axis: int
) -> tuple[float, float, float]:
    """The spacing along a file's axes, with the distance between the planes of its slices.

    Where the axes are not perpendicular (a tilted gantry), the step from slice to slice is longer
    than the distance between their planes. With that distance the product of the spacing is the
    volume of a voxel, which is the determinant of the affine.
    """
    result = [float(distance) for distance in spacing]
    if not is_perpendicular(affine):
        result[slice_axis] *= _share_of_box(affine)
    return tuple(result)


def is_perpendicular(affine: np.ndarray) -> bool:
    """Whether the axes of an affine are at right angles, up to the rounding of headers."""
    return _share_of_box(affine) >= 1 - _MAX_SHEAR


def _share_of_box(affine: np.ndarray) -> float:
    """The volume of a voxel as a share of the box with the same sides; 1 at right angles."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    return float(abs(np.linalg.det(affine[:3, :3] / sides)))


# ---- orientations


def nearest_axes(path: Any, affine: np.ndarray) -> np.ndarray:
    """Array axes -> nearest axes of the space that the affine maps to, as an orientation (3, 2).

    For the affine of a file these are the patient's axes: right, anterior, superior.

    Raises:
        DataError: the affine is not finite, or its axes do not span space.
    """
    import nibabel

    # The determinant is the volume of a voxel: 0 where the three axes lie in one plane.
    orientation = None
    if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12:
        orientation = nibabel.io_orientation(affine)
    if orientation is None or np.isnan(orientation).any():
        raise DataError(
            f"{path}: the affine is no geometry: {np.round(affine, 3).tolist()}; "
            "write a correct header"
        )
    return orientation


def radiological(path: Any, affine: np.ndarray, slice_axis: int | None) -> np.ndarray:
    """File axes -> the usual display of CT, as an orientation (3, 2).

    Axial slices follow each other from the feet up and are seen from the feet: the patient's right
    is at the image's left.

    Args:
        slice_axis: the axis of the file along which the slices are stacked; None: the one nearest
            to foot-head.
    """
    from nibabel import orientations

    file_axes = nearest_axes(path, affine)
    # Column 0 of an orientation is the axis that a file axis becomes: here one of the patient's.
    patient_axis = AXIAL if slice_axis is None else int(file_axes[slice_axis, 0])
    display = orientations.axcodes2ornt(RADIOLOGICAL[patient_axis])
    return orientations.ornt_transform(file_axes, display)


def display_of(
    path: Any,
    affine: np.ndarray,
    oriented: bool,
    distances: np.ndarray,
    slice_axis: int | None,
    canonical: bool,
) -> tuple[np.ndarray, list[str]]:
    """How the axes of a file are displayed, an orientation (3, 2), and notes on it.

    Args:
        affine: index in the file's axes -> mm.
        oriented: whether the file says where its voxels lie; the affine is a guess where not.
        distances: between voxels along the file's axes, for a file that is not oriented.
        slice_axis, canonical: as for `volumes.read_nifti`.

    Raises:
        DataError: the affine is no geometry.
    """
    notes = [] if oriented else [NO_ORIENTATION]
    if canonical:
        return radiological(path, affine, slice_axis), notes
    nearest_axes(path, affine)  # refuses an affine that is no geometry
    left_handed = oriented and np.linalg.det(affine[:3, :3]) < 0
    if oriented:
        distances = np.linalg.norm(affine[:3, :3], axis=0)
    display = _as_acquired(distances, slice_axis, left_handed)
    return display, [ROWS_TURNED, *notes] if left_handed else notes


def displayed_spacing(
    spacing: Sequence[float], affine: np.ndarray, oriented: bool, display: np.ndarray
) -> tuple[float, float, float]:
    """The spacing along a file's axes -> that of slices, rows and columns as displayed."""
    if oriented:
        slices = int(np.argsort(display[:, 0])[0])
        spacing = perpendicular_spacing(spacing, affine, slices)
    return in_display_order(spacing, display)


def _as_acquired(distances: np.ndarray, slice_axis: int | None, left_handed: bool) -> np.ndarray:
    """The orientation (3, 2) with slices along `slice_axis`, as the scanner showed them.

    By default that is the axis of the largest spacing, the last of them where several are equal.
    Rows and columns are the later and the earlier of the other two axes, as SimpleITK shows them.

    The axes (column, row, slice) of a DICOM series are right-handed, and SimpleITK keeps them.
    dcm2niix reverses the rows, the second axis, which makes them left-handed: undone here.
    """
    if slice_axis is None:
        # 0.999: spacings that differ only by rounding are equal.
        slice_axis = int(np.flatnonzero(distances >= distances.max() * 0.999)[-1])
    row_axis, column_axis = [axis for axis in (2, 1, 0) if axis != slice_axis]
    display = as_stored((slice_axis, row_axis, column_axis))
    if left_handed:
        display[1, 1] = -1
    return display


def as_stored(file_axes: tuple[int, int, int]) -> np.ndarray:
    """The orientation (3, 2) that only reorders the axes of a file and reverses none.

    Args:
        file_axes: the axes of the file that become slices, rows and columns.
    """
    # argsort inverts a permutation: here it gives the new place of each file axis.
    return np.column_stack([np.argsort(file_axes), np.ones(3)])


def inverse(orientation: np.ndarray) -> np.ndarray:
    """The orientation that undoes another one."""
    from nibabel import orientations

    return orientations.ornt_transform(as_stored((0, 1, 2)), orientation)


def reorient(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """An array with its first three axes reordered and reversed; a view."""
    from nibabel import orientations

    return orientations.apply_orientation(array, orientation)


def index_map(orientation: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(4, 4): index in the reoriented array -> index in the original array of this `shape`."""
    from nibabel import orientations

    return orientations.inv_ornt_aff(orientation, shape)


def in_display_order(values: Any, orientation: np.ndarray) -> tuple:
    """A value for each axis of the file -> the same values for slices, rows and columns."""
    return tuple(values[axis] for axis in np.argsort(orientation[:, 0]))


def in_file_order(values: Any, orientation: np.ndarray) -> tuple:
    """Values for slices, rows and columns -> the same values for the axes of the file."""
    return tuple(values[int(axis)] for axis in orientation[:, 0])


def place(
    grid: Grid,
    target: np.ndarray,
    frame: np.ndarray,
    affine: np.ndarray,
    path: Any,
) -> int:
    """Unite a plane of a mask with the mask of a whole volume, on whose grid it lies.

    Args:
        target: bool (S, H, W) as displayed; changed in place.
        frame: bool (rows, columns).
        affine: (4, 3), index (row, column, 1) of the frame -> mm to the right, anterior, superior.
        path: names the file in errors.

    Returns:
        How many pixels of the frame lie outside the volume.

    Raises:
        DataError: the pixels of the frame do not lie on voxels of the volume.
    """
    to_voxels = np.linalg.solve(grid.displayed_affine, affine)[:3]
    row_step, column_step, start = to_voxels.T
    row_axis, column_axis = np.abs(row_step).argmax(), np.abs(column_step).argmax()
    slice_axis = 3 - row_axis - column_axis
    first = np.rint(start)
    steps = np.zeros((2, 3))
    steps[0, row_axis], steps[1, column_axis] = np.sign(
        [row_step[row_axis], column_step[column_axis]]
    )
    last = np.array(frame.shape) - 1
    # Both maps are affine, so they differ most at one of the four corners of the frame.
    corners = np.array(list(np.ndindex(2, 2))) * last
    offsets = corners @ (np.array([row_step, column_step]) - steps) + (start - first)
    if row_axis == column_axis or not np.abs(offsets).max() <= 0.5:
        largest = np.abs(offsets).max()
        raise DataError(
            f"{path}: its pixels lie up to {largest:.1f} voxels beside those of its volume "
            f"{grid.path}; it belongs to another one, or must be made anew on the grid of this one"
        )
    rows = (first[row_axis] + steps[0, row_axis] * np.arange(frame.shape[0])).astype(int)
    columns = (first[column_axis] + steps[1, column_axis] * np.arange(frame.shape[1])).astype(int)
    rows_inside = (rows >= 0) & (rows < target.shape[row_axis])
    columns_inside = (columns >= 0) & (columns < target.shape[column_axis])
    number, n_pixels = int(first[slice_axis]), int(frame.sum())
    if not 0 <= number < target.shape[slice_axis]:
        return n_pixels
    plane = np.moveaxis(target, (slice_axis, row_axis, column_axis), (0, 1, 2))[number]
    inside = frame[np.ix_(rows_inside, columns_inside)]
    plane[np.ix_(rows[rows_inside], columns[columns_inside])] |= inside
    return n_pixels - int(inside.sum())
