"""A NIfTI file: its header, and its voxels with the check that nibabel leaves out. `volumes` lays it out."""

import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import DataError

_DENSEST = 1032  # gzip makes nothing smaller than by this factor
_MARGIN = 1 << 20  # bytes that a file may be off without a word: extensions, padding


def open_file(path: str | Path) -> Any:
    """A NIfTI image of three axes, by nibabel; only its header is read.

    Raises:
        DataError: no such file, not NIfTI, not three-dimensional, colours.
    """
    import nibabel

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        image = nibabel.load(path)
        _check_size(path, image)
        while len(image.shape) > 3 and image.shape[-1] == 1:
            image = image.slicer[..., 0]
        unit, time = int(image.header["xyzt_units"]) & 7, int(image.header["xyzt_units"]) >> 3
        if unit > 3 or time > 6:  # codes that the format does not know: as if nothing were said
            image.header["xyzt_units"] = unit if unit <= 3 else 0
    except DataError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise errors of their own
        raise DataError(
            f"{path}: not a NIfTI file, or damaged ({type(error).__name__}: {error}); copy it again"
        ) from error
    if len(image.shape) != 3 or 0 in image.shape:
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: {len(image.shape)}-D image of {shape}; expected one volume of three axes: split it first"
        )
    if image.get_data_dtype().kind not in "iufb":
        raise DataError(
            f"{path}: voxels of type {image.get_data_dtype()}; expected one number a voxel"
        )
    return image


def load(path: str | Path, image: Any) -> np.ndarray:
    """The voxels of an opened file in its own axes, scaled by its header; `DataError` where it is cut or damaged."""
    whole = image
    try:
        if str(path).lower().endswith(".gz"):
            with gzip.open(
                path
            ) as file:  # to the end: nibabel stops before the check sum, which finds damage
                content = file.read(declared(image) + _MARGIN)
                if file.read(1):  # may unpack to any size
                    raise DataError(
                        f"{path}: goes on behind the voxels that its header declares; write it anew"
                    )
            whole = type(image).from_bytes(content)
        return np.asanyarray(whole.dataobj).reshape(image.shape)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: cut short or damaged ({type(error).__name__}: {error}); copy it again"
        ) from error


def declared(image: Any) -> int:
    """The bytes that a file needs to hold what its header declares; taken before anything is allocated for them."""
    start = int(getattr(image.dataobj, "offset", 352))
    return (
        start + int(np.prod(image.shape, dtype=np.float64)) * image.header.get_data_dtype().itemsize
    )


def _check_size(path: str | Path, image: Any) -> None:
    """`DataError` where a file cannot hold what its header declares, so that nobody asks for that much memory."""
    most = os.path.getsize(path) * (_DENSEST if str(path).lower().endswith(".gz") else 1)
    if declared(image) > most + _MARGIN:
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: cut short or damaged: its header declares {shape} voxels, {declared(image) / 1e6:.0f} MB, and "
            f"the file of {os.path.getsize(path) / 1e6:.1f} MB cannot hold them; copy it again"
        )


def oriented(image: Any) -> bool:
    """Whether the header tells where the voxels lie."""
    coded = any(int(image.header.get(code, 0)) > 0 for code in ("qform_code", "sform_code"))
    return coded and not np.array_equal(image.affine, np.eye(4))


def stem(path: str | Path) -> str:
    """The name of a file without `.nii` or `.nii.gz`, or of a folder."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE)


def write(path: Path, array: np.ndarray, grid: Any, like: str | Path) -> Path:
    """A mask (uint8, in the file's own axes) as NIfTI with the geometry of `grid`, under a temporary name first.

    Where `like` is a NIfTI file, its unit and the codes of its affines are kept; a DICOM series gives millimetres.
    """
    import nibabel

    image = nibabel.Nifti1Image(array.astype(np.uint8), grid.affine)
    if Path(like).is_file():
        header = open_file(like).header
        image.header.set_xyzt_units(header.get_xyzt_units()[0])
        image.header.set_zooms(header.get_zooms()[:3])
        for code, set_form in (("qform_code", image.set_qform), ("sform_code", image.set_sform)):
            set_form(grid.affine, int(header.get(code, 0)))
    else:
        image.header.set_xyzt_units("mm")
    with files.replacing(path) as partial:
        nibabel.save(image, partial)
    return path
