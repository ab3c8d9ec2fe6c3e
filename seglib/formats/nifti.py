"""Read a NIfTI file, its header as a grid and its bytes as voxels, and write masks as NIfTI.

What can go wrong:

- The voxels are stored numbers, which a slope and an intercept turn into values.
- The header says twice where the voxels lie (qform and sform), or not at all; then the affine is a
  guess of nibabel.
- The spacing stands in the affine and in `pixdim`, whose default 1 looks like a measurement.
- The unit may be metres or micrometres.
- A file that was cut short can still open.

`volumes` turns an image to the usual display. Taught in `03_rsna_finetuning` and
`08_inference_and_deployment`.
"""

import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import DataError
from . import orientation
from .orientation import Grid

NO_SPACING = "spacing unknown: 1 x 1 x 1 without a geometry in the header"
MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}  # any other unit, or none, counts as millimetres
_MAX_GZIP_RATIO = 1032  # gzip compresses nothing by more than this factor
_MARGIN_BYTES = 1 << 20  # a file may hold this much more than its voxels: extensions, padding


def open_file(path: str | Path) -> Any:
    """The `nibabel` image of a NIfTI file with three axes; `load` reads its voxels.

    Raises:
        DataError: no such file, not NIfTI, cut short, not three-dimensional, or in colour.
    """
    import nibabel

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        image = nibabel.load(path)
        _check_size(path, image)
        # A last axis of length 1 (a single time point or channel) adds nothing to the volume. To
        # drop it, nibabel reads the voxels already here.
        while len(image.shape) > 3 and image.shape[-1] == 1:
            image = image.slicer[..., 0]
        _forget_unknown_units(image.header)
    except DataError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise errors of their own
        raise DataError(
            f"{path}: not a NIfTI file, or damaged ({type(error).__name__}: {error}); copy it again"
        ) from error
    if len(image.shape) != 3 or 0 in image.shape:
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: {len(image.shape)}-D image of {shape}; expected one volume of three axes: "
            "split it first"
        )
    if image.get_data_dtype().kind not in "iufb":
        raise DataError(
            f"{path}: voxels of type {image.get_data_dtype()}; expected one number a voxel"
        )
    return image


def read_grid(
    path: str | Path, image: Any, slice_axis: int | None = None, canonical: bool = True
) -> Grid:
    """The grid of an opened file; the arguments are those of `volumes.read_nifti`."""
    oriented = is_oriented(image)
    if oriented:
        distances = np.linalg.norm(image.affine[:3, :3], axis=0)
    else:  # without a valid affine the voxel sizes in `pixdim` may still be right
        distances = np.abs(np.array(image.header.get_zooms()[:3], np.float64))
    if canonical:
        display = orientation.radiological(path, image.affine, slice_axis)
    else:
        orientation.nearest_axes(path, image.affine)  # refuses an affine that is no geometry
        display = _as_acquired(distances, slice_axis)
    spacing_mm = None
    spacing = orientation.known_spacing(distances, stated=oriented)
    if spacing is not None:
        unit = MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
        ordered = orientation.in_display_order(spacing, display)
        spacing_mm = tuple(distance * unit for distance in ordered)
    return Grid(
        path=str(path),
        shape=orientation.in_display_order(image.shape, display),
        spacing_mm=spacing_mm,
        orientation=display,
        affine=image.affine,
        oriented=oriented,
        spacing_note="" if spacing_mm else NO_SPACING,
    )


def load(path: str | Path, image: Any) -> np.ndarray:
    """The voxels of an opened file in its own axes, scaled by its header.

    Raises:
        DataError: cut short, damaged, or longer than its header says.
    """
    whole = image
    try:
        if str(path).lower().endswith(".gz"):
            whole = type(image).from_bytes(_unpacked(path, declared_bytes(image)))
        # `open_file` has dropped last axes of length 1, which the bytes still have.
        return np.asanyarray(whole.dataobj).reshape(image.shape)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: cut short or damaged ({type(error).__name__}: {error}); copy it again"
        ) from error


def declared_bytes(image: Any) -> int:
    """The size of a file that holds what this header declares.

    It is computed before anything is allocated, because a damaged header may declare any size.
    """
    start = int(getattr(image.dataobj, "offset", 352))  # 352 bytes: the usual header
    # As float64, because the product of a damaged shape may overflow an integer.
    n_voxels = int(np.prod(image.shape, dtype=np.float64))
    return start + n_voxels * image.header.get_data_dtype().itemsize


def is_oriented(image: Any) -> bool:
    """Whether the header says where the voxels lie.

    An identity affine counts as "not": it is what programs write that know no position.
    """
    coded = any(int(image.header.get(code, 0)) > 0 for code in ("qform_code", "sform_code"))
    return coded and not np.array_equal(image.affine, np.eye(4))


def stem(path: str | Path) -> str:
    """The name of a file without `.nii` or `.nii.gz`; the name of a folder as it is."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE)


def write(path: Path, mask: np.ndarray, grid: Grid, source: str | Path) -> Path:
    """A mask (uint8, in the file's own axes) as NIfTI with the geometry of `grid`.

    Where `source`, the volume that was segmented, is a NIfTI file, the mask gets its unit and the
    codes of its affines; a DICOM series has millimetres. A failed write leaves no file.
    """
    import nibabel

    image = nibabel.Nifti1Image(mask.astype(np.uint8), grid.affine)
    if Path(source).is_file():
        header = open_file(source).header
        image.header.set_xyzt_units(header.get_xyzt_units()[0])
        image.header.set_zooms(header.get_zooms()[:3])
        image.set_qform(grid.affine, int(header.get("qform_code", 0)))
        image.set_sform(grid.affine, int(header.get("sform_code", 0)))
    else:
        image.header.set_xyzt_units("mm")
    with files.replacing(path) as partial:
        nibabel.save(image, partial)
    return path


def _forget_unknown_units(header: Any) -> None:
    """Treat unit codes that the format does not define as if none were given."""
    space_unit, time_unit = int(header["xyzt_units"]) & 7, int(header["xyzt_units"]) >> 3
    if space_unit > 3:
        header["xyzt_units"] = 0
    elif time_unit > 6:
        header["xyzt_units"] = space_unit


def _as_acquired(distances: np.ndarray, slice_axis: int | None) -> np.ndarray:
    """The orientation (3, 2) with slices along `slice_axis`, and no axis reversed.

    By default that is the axis of the largest spacing, the last of them where several are equal.
    Rows and columns are the later and the earlier of the other two axes, as SimpleITK shows them.
    """
    if slice_axis is None:
        # 0.999: spacings that differ only by rounding are equal.
        slice_axis = int(np.flatnonzero(distances >= distances.max() * 0.999)[-1])
    row_axis, column_axis = [axis for axis in (2, 1, 0) if axis != slice_axis]
    return orientation.as_stored((slice_axis, row_axis, column_axis))


def _check_size(path: str | Path, image: Any) -> None:
    """Refuse a file that cannot hold what its header declares, before the memory is asked for."""
    size = os.path.getsize(path)
    capacity = size
    if str(path).lower().endswith(".gz"):
        capacity = size * _MAX_GZIP_RATIO
    declared = declared_bytes(image)
    if declared > capacity + _MARGIN_BYTES:
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: cut short or damaged: its header declares {shape} voxels, "
            f"{declared / 1e6:.0f} MB, and the file of {size / 1e6:.1f} MB cannot hold them; "
            "copy it again"
        )


def _unpacked(path: str | Path, n_bytes: int) -> bytes:
    """The content of a `.gz` file, read to its end.

    nibabel alone would stop before the checksum at the end, which reveals damage.
    """
    with gzip.open(path) as file:
        content = file.read(n_bytes + _MARGIN_BYTES)
        if file.read(1):  # a damaged or hostile file may unpack to any size
            raise DataError(
                f"{path}: goes on behind the voxels that its header declares; write it anew"
            )
    return content
