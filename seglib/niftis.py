"""A NIfTI file: its header, and its voxels with the check that nibabel leaves out. `volumes` lays it out."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


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
    except Exception as error:  # nibabel, gzip and zlib raise errors of their own
        raise DataError(f"{path}: not a NIfTI file, or damaged ({type(error).__name__}: {error})") from error
    while len(image.shape) > 3 and image.shape[-1] == 1:
        image = image.slicer[..., 0]
    if len(image.shape) != 3 or 0 in image.shape:
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: {len(image.shape)}-D image of {shape}; expected one volume of three axes: split it first"
        )
    if image.get_data_dtype().kind not in "iufb":
        raise DataError(f"{path}: voxels of type {image.get_data_dtype()}; expected one number a voxel")
    return image


def load(path: str | Path, image: Any) -> np.ndarray:
    """The voxels of an opened file in its own axes, scaled by its header; `DataError` where it is cut or damaged."""
    whole = image
    try:
        if str(path).lower().endswith(".gz"):
            with gzip.open(path) as file:  # to the end: nibabel stops before the check sum, which finds damage
                whole = type(image).from_bytes(file.read())
        return np.asanyarray(whole.dataobj).reshape(image.shape)
    except Exception as error:
        raise DataError(f"{path}: cut short or damaged ({type(error).__name__}: {error}); copy it again") from error


def oriented(image: Any) -> bool:
    """Whether the header tells where the voxels lie."""
    coded = any(int(image.header.get(code, 0)) > 0 for code in ("qform_code", "sform_code"))
    return coded and not np.array_equal(image.affine, np.eye(4))
