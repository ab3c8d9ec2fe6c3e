"""Read a NIfTI file, its header as a grid and its bytes as voxels, and write masks as NIfTI.

What can go wrong:

- The voxels are stored numbers, which a slope and an intercept turn into values.
- The header says twice where the voxels lie (qform and sform), or not at all; then the affine is a
  guess of nibabel. Where the two differ, the sform counts here, as in nibabel.
- The spacing stands in the affine and in `pixdim`, whose default 1 looks like a measurement.
- The unit may be metres or micrometres.
- The axes may be left-handed, which those of a DICOM series never are: dcm2niix reverses its rows.
- A file that was cut short can still open.
- A name may say `.nii.gz` of a file that is not compressed, or have no suffix at all.

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
from . import channels, orientation, signatures
from .orientation import Grid

SUFFIXES = (".nii", ".nii.gz")
NO_SPACING = "spacing unknown: 1 x 1 x 1 without a geometry in the header"
UNKNOWN_SIZES = "voxel sizes in mm are unknown"  # description of a mask without a unit
MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}  # any other unit, or none, counts as millimetres
# Fields of a header that a mask takes from its image: where the voxels lie, and what it is about.
GEOMETRY = """qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z
    srow_x srow_y srow_z xyzt_units dim_info descrip""".split()
_MAX_GZIP_RATIO = 1032  # gzip compresses nothing by more than this factor
_MARGIN_BYTES = 1 << 20  # a file may hold this much more than its voxels: extensions, padding
# Words in what `signatures` calls a file that is a volume after all, or stands for one.
_CONVERTIBLE = ("volume", "pointer", "archive", "DICOM", "HTML", "zeros", "shortcut", "alias")
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 and Analyze have 348
_GZIP = b"\x1f\x8b"
# qform and sform agree if their voxels have the same sizes up to 1 %, and lie at most half a voxel
# apart.
_MAX_SIZE_ERROR = 0.01
_MAX_APART_VOXELS = 0.5


def open_file(path: str | Path) -> Any:
    """The `nibabel` image of a NIfTI file with three axes; `load` reads its voxels.

    What the file is, and whether it is compressed, is judged by its content. `image.extra` holds
    "compressed", "n_bytes" (the size of the unpacked file that its header declares), "pixdim" (the
    voxel sizes as they are in the file; nibabel corrects them, 0 to 1) and "notes".

    Args:
        path: a file; of one with a fourth axis, `::` and the number of a volume, see `channels`.

    Raises:
        DataError: no such file, not NIfTI, cut short, not three-dimensional, or in colour.
    """
    path, number = channels.file_of(path), channels.number_of(path)
    start, compressed = _beginning(path)
    image_class = _image_class(path, start)
    try:
        header_class = image_class.header_class
        header = header_class(start[: header_class.template_dtype.itemsize], check=False)
        n_bytes = declared_bytes(header)
        _check_size(path, header, n_bytes, compressed)
        image = _opened(path, image_class, compressed, n_bytes)
        _forget_unknown_units(image.header)
    except DataError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise errors of their own
        raise DataError(
            f"{path}: a damaged NIfTI file ({type(error).__name__}: {error}); "
            "expected a valid header: write it anew"
        ) from error
    image.extra |= {
        "compressed": compressed,
        "n_bytes": n_bytes,
        "pixdim": np.array(header["pixdim"][1:4], np.float64),
        "notes": _notes_on_name(path, compressed),
    }
    if number is not None:
        image = _volume_of(path, image, number)
    _check_kind(path, image)
    return _without_last_axes(image)


def n_volumes(path: str | Path) -> int:
    """The length of the fourth axis of a file, 1 where it has none; only its header is read.

    Raises:
        DataError: no such file, or not NIfTI.
    """
    start, _ = _beginning(path)
    header_class = _image_class(path, start).header_class
    header = header_class(start[: header_class.template_dtype.itemsize], check=False)
    longer = [length for length in header.get_data_shape()[3:] if length != 1]
    return int(longer[0]) if len(longer) == 1 else 1


def read_grid(
    path: str | Path, image: Any, slice_axis: int | None = None, canonical: bool = True
) -> Grid:
    """The grid of an opened file; the arguments are those of `volumes.read_nifti`."""
    unit_mm, affine = _unit_mm(image), affine_mm(image)
    oriented = is_oriented(image)
    sizes = _stated_sizes(image, oriented)
    # Without a valid affine the sizes in `pixdim`, as nibabel corrects them, are used.
    distances = np.abs(np.array(image.header.get_zooms()[:3], np.float64))
    display, notes = orientation.display_of(
        path, affine, oriented, distances, slice_axis, canonical
    )
    disagreement, spacing_note = _disagreement(image)
    spacing_mm = None
    spacing = orientation.known_spacing(sizes, stated=oriented, unit_mm=unit_mm)
    if spacing is None:
        spacing_note = spacing_note or _why_unknown(sizes, unit_mm)
    elif not spacing_note:
        spacing_mm = orientation.displayed_spacing(spacing, affine, oriented, display)
    return Grid(
        path=str(path),
        shape=orientation.in_display_order(image.shape, display),
        spacing_mm=spacing_mm,
        orientation=display,
        affine=affine,
        oriented=oriented,
        notes=(*image.extra.get("notes", ()), *notes, *disagreement),
        spacing_note=spacing_note,
    )


def load(path: str | Path, image: Any) -> np.ndarray:
    """The voxels of an opened file in its own axes, scaled by its header.

    Raises:
        DataError: cut short, damaged, or longer than its header says.
    """
    whole = image
    try:
        number = image.extra.get("number")
        if image.extra["compressed"]:
            content = _unpacked(channels.file_of(path), image.extra["n_bytes"])
            whole = type(image).from_bytes(content)
        elif number is not None:
            whole = image.extra["whole"]
        voxels = whole.dataobj if number is None else whole.dataobj[..., number]
        # `open_file` has dropped last axes of length 1, which the bytes still have.
        return np.asanyarray(voxels).reshape(image.shape)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: {_damage(error)}") from error


def declared_bytes(header: Any) -> int:
    """The size of a file that holds what this header, as it is in the file, declares.

    It is computed before anything is allocated, because a damaged header may declare any size.
    """
    # As float64, because the product of a damaged shape may overflow an integer.
    n_voxels = int(np.prod(header.get_data_shape(), dtype=np.float64))
    return int(header["vox_offset"]) + n_voxels * header.get_data_dtype().itemsize


def affine_mm(image: Any) -> np.ndarray:
    """(4, 4): index in the file's axes -> mm, whatever the unit of the header."""
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _unit_mm(image)
    return affine


def notes_on_place(image: Any) -> list[str]:
    """Notes on an opened file whose qform and sform put its voxels at different places."""
    return _disagreement(image)[0]


def is_oriented(image: Any) -> bool:
    """Whether the header says where the voxels lie.

    False for the grids that some programs write without knowing the position: see
    `orientation.is_default_grid`.
    """
    coded = any(int(image.header.get(code, 0)) > 0 for code in ("qform_code", "sform_code"))
    return coded and not orientation.is_default_grid(image.affine, image.shape[:3])


def stem(path: str | Path) -> str:
    """The name of a volume without `.nii.gz` or the like; the name of a folder as it is.

    `case.seg.nrrd`, the labels of `case.nrrd`, becomes `case_seg`.
    """
    name = re.sub(r"\.seg\.nrrd$", "_seg", Path(path).name, flags=re.IGNORECASE)
    return re.sub(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm)$", "", name, flags=re.IGNORECASE)


def write(
    path: Path,
    mask: np.ndarray,
    grid: Grid,
    source: str | Path | None,
    dtype: Any = np.uint8,
) -> Path:
    """A mask, or values of another `dtype`, in the file's own axes as NIfTI on this `grid`.

    Where the volume that was segmented is a NIfTI file, `source`, the fields of `GEOMETRY` and the
    voxel sizes are copied from its header, so that every program lays the mask over its image,
    whichever of qform and sform it goes by. The mask of any other volume (None) has millimetres
    where the spacing is known, and no unit where it is not. A failed write leaves no file.
    """
    import nibabel

    if source is not None:
        original = open_file(source)
        image = type(original)(mask.astype(dtype), original.affine)
        for name in GEOMETRY:
            image.header[name] = original.header[name]
        image.header["pixdim"][:4] = original.header["pixdim"][:4]  # the first is the side (qfac)
    else:
        image = _mask_of_grid(mask.astype(dtype), grid)
    image.header.set_slope_inter(1, 0)  # nibabel would write NaN, which some programs cannot read
    with files.replacing(path) as partial:
        nibabel.save(image, partial)
    return path


def _mask_of_grid(mask: np.ndarray, grid: Grid) -> Any:
    """The image of a mask that states no position and no size by a guess."""
    import nibabel

    image = nibabel.Nifti1Image(mask, grid.affine if grid.oriented else None)
    if grid.spacing_mm is None:
        image.header["descrip"] = UNKNOWN_SIZES
    else:
        image.header.set_xyzt_units("mm")
        if not grid.oriented:
            image.header.set_zooms(orientation.in_file_order(grid.spacing_mm, grid.orientation))
    if grid.oriented:
        image.set_sform(grid.affine, "scanner")
        # Some programs read only the qform, which cannot hold the shear of a tilted gantry.
        if orientation.is_perpendicular(grid.affine):
            image.set_qform(grid.affine, "scanner")
    return image


# ---- opening


def _beginning(path: str | Path) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked, and whether it is compressed.

    Raises:
        DataError: no such file, a link to nothing, or a compressed file that cannot be unpacked.
    """
    if not os.path.isfile(path):
        if os.path.islink(path):
            raise DataError(
                f"{path}: a link to {os.readlink(path)}, where no file is; fetch the data that it "
                "stands for (such as by git annex get, or dvc pull)"
            )
        raise DataError(f"{path}: no such file; check the path")
    with open(path, "rb") as file:
        start = file.read(_HEADER_BYTES)
    if not start.startswith(_GZIP):
        return start, False
    try:
        with gzip.open(path) as file:
            return file.read(_HEADER_BYTES), True
    except Exception as error:  # gzip and zlib raise errors of their own
        raise DataError(f"{path}: {_damage(error)}") from error


def _damage(error: Exception) -> str:
    """What is wrong with a file whose content cannot be read, and what to do."""
    text = " ".join(str(error).split())
    problem = f"({type(error).__name__}: {text})"
    # gzip ends a file early by the first, nibabel by the second.
    if isinstance(error, EOFError) or text.startswith("Expected "):
        return f"cut short or damaged {problem}; copy it again"
    if text.startswith("Not a gzipped file"):  # the file has begun as one
        return (
            "other bytes follow its compressed content: unpack it (gzip -d, which warns of them), "
            "and compress it anew"
        )
    return f"cut short or damaged {problem}; get it anew from where it comes from"


def _image_class(path: str | Path, start: bytes) -> Any:
    """The class of `nibabel` for a file that begins with these bytes.

    Raises:
        DataError: it is no NIfTI file.
    """
    import nibabel

    sizes = [int.from_bytes(start[:4], order) for order in ("little", "big")]
    if 348 in sizes and len(start) >= 348 and start[344:347] == b"n+1":
        return nibabel.Nifti1Image
    if 540 in sizes and len(start) >= 540 and start[4:7] == b"n+2":
        return nibabel.Nifti2Image
    if not start or any(size in sizes and len(start) < size for size in (348, 540)):
        raise DataError(
            f"{path}: cut short or damaged: it holds {len(start)} bytes, less than the header of "
            "a NIfTI file; copy it again"
        )
    raise refusal(path)


def refusal(path: str | Path) -> DataError:
    """The error that says what a file is that holds no volume which can be read."""
    expected = "expected a NIfTI file (.nii or .nii.gz) or the folder of a DICOM series"
    kind = signatures.kind_of(path)
    if kind is None:
        return DataError(f"{path}: neither NIfTI nor DICOM by its first bytes; {expected}")
    if any(word in kind for word in _CONVERTIBLE):
        return DataError(f"{path}: it is {kind}; {expected}: {signatures.advice_for(kind)}")
    return DataError(f"{path}: it is {kind}; {expected}: look whether it is the right file")


def _opened(path: str | Path, image_class: Any, compressed: bool, n_bytes: int) -> Any:
    """The image of a file, with voxels that are not read yet."""
    from nibabel.fileholders import FileHolder

    # nibabel unpacks a file or not by its suffix. Where that is wrong, it gets the content.
    if compressed == _named_compressed(path):
        return image_class.from_file_map({"image": FileHolder(str(path))})
    content = _unpacked(path, n_bytes) if compressed else Path(path).read_bytes()
    return image_class.from_bytes(content)


def _named_compressed(path: str | Path) -> bool:
    return str(path).lower().endswith(".gz")


def _notes_on_name(path: str | Path, compressed: bool) -> list[str]:
    """A note on a file whose suffix says that it is compressed, and it is not, or the reverse."""
    if compressed == _named_compressed(path):
        return []
    truth = "is compressed" if compressed else "is not compressed"
    name = Path(path).name
    return [f"{name} {truth}, against its suffix; other programs may not open it: rename it"]


def _volume_of(path: str | Path, image: Any, number: int) -> Any:
    """One volume of an image with a fourth axis; `load` reads its voxels.

    Raises:
        DataError: there is no such volume.
    """
    n_here = image.shape[-1] if len(image.shape) > 3 else 1
    if number >= n_here or any(length != 1 for length in image.shape[3:-1]):
        shape = "x".join(map(str, image.shape))
        raise DataError(
            f"{path}: no volume {number} in {shape}; expected a fourth axis of at least "
            f"{number + 1}; scan it again"
        )
    # A placeholder that takes no memory: all but the voxels is the same in every volume.
    dtype = image.get_data_dtype()
    voxels = np.broadcast_to(np.zeros((), dtype), image.shape[:3])
    volume = type(image)(voxels, image.affine, image.header, extra=dict(image.extra), dtype=dtype)
    volume.extra |= {"number": number, "whole": image}
    return volume


def _check_kind(path: str | Path, image: Any) -> None:
    """Refuse an image that is not one number at each point of a volume."""
    shape = "x".join(map(str, image.shape))
    if 3000 <= int(image.header["intent_code"]) < 3100:
        raise DataError(
            f"{path}: values on a surface (CIFTI) in a NIfTI file; expected one volume of three "
            "axes: look whether it is the right file"
        )
    if len(image.shape) < 3:
        raise DataError(
            f"{path}: {len(image.shape)}-D image of {shape}; expected one volume of three axes: "
            "save it as a picture (PNG), or with a third axis of length 1"
        )
    if any(length != 1 for length in image.shape[3:]) or 0 in image.shape:
        raise DataError(
            f"{path}: {len(image.shape)}-D image of {shape}; expected one volume of three axes: "
            "split it first"
        )
    if image.get_data_dtype().kind not in "iufb":
        raise DataError(
            f"{path}: voxels of type {image.get_data_dtype()}; expected one number a voxel"
        )


def _without_last_axes(image: Any) -> Any:
    """The image without last axes of length 1 (a single time point or channel)."""
    if len(image.shape) == 3:
        return image
    # Reshaping a proxy reads no voxel.
    voxels = image.dataobj.reshape(image.shape[:3])
    return type(image)(voxels, image.affine, image.header, extra=image.extra)


def _forget_unknown_units(header: Any) -> None:
    """Treat unit codes that the format does not define as if none were given."""
    space_unit, time_unit = int(header["xyzt_units"]) & 7, int(header["xyzt_units"]) >> 3
    if space_unit > 3:
        header["xyzt_units"] = 0
    elif time_unit > 6:
        header["xyzt_units"] = space_unit


# ---- what the header says


def _unit_mm(image: Any) -> float:
    return MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)


def _stated_sizes(image: Any, oriented: bool) -> np.ndarray:
    """The voxel sizes that the header states, in its unit; they need not be valid."""
    pixdim = np.asarray(image.extra.get("pixdim", image.header["pixdim"][1:4]), np.float64)
    if not oriented:  # the sizes in `pixdim` may still be right
        return pixdim
    # The qform takes its sizes from `pixdim`; nibabel has put 1 for those that are none.
    if int(image.header["sform_code"]) == 0 and not _are_sizes(pixdim):
        return pixdim
    return np.linalg.norm(image.affine[:3, :3], axis=0)


def _are_sizes(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers > 0).all())


def _why_unknown(sizes: np.ndarray, unit_mm: float) -> str:
    """Why these sizes of a voxel, in a unit, are no spacing."""
    if (sizes == 1).all():
        return NO_SPACING
    text = " x ".join(f"{size * unit_mm:g}" for size in sizes)
    return (
        f"spacing unknown: the header says {text} mm; expected {orientation.MIN_SPACING_MM:g} to "
        f"{orientation.MAX_SPACING_MM:g} mm: correct pixdim and its unit"
    )


def _disagreement(image: Any) -> tuple[list[str], str]:
    """Notes where qform and sform differ, and why the spacing is unknown then, else ""."""
    header, shape = image.header, image.shape[:3]
    sform, qform = _form(header.get_sform, shape), _form(header.get_qform, shape)
    if sform is None:
        return [], ""
    pixdim = np.asarray(image.extra.get("pixdim", header["pixdim"][1:4]), np.float64)
    spacing_note = ""
    # A `pixdim` of 1 x 1 x 1 without a qform is a default, and 0 states nothing.
    if _are_sizes(pixdim) and (qform is not None or (pixdim != 1).any()):
        sizes = np.linalg.norm(sform[:3, :3], axis=0)
        if not np.allclose(sizes, pixdim, rtol=_MAX_SIZE_ERROR, atol=0):
            by_sform, by_pixdim = (
                " x ".join(f"{size:.4g}" for size in values) for values in (sizes, pixdim)
            )
            spacing_note = (
                f"spacing unknown: a voxel has {by_sform} by the sform and {by_pixdim} by pixdim "
                "and the qform; correct the header"
            )
    if qform is None:
        return [], spacing_note
    return _notes_on_forms(sform, qform, shape), spacing_note


def _form(get: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The affine of the qform or the sform, where it says where the voxels lie, else None."""
    try:
        affine, code = get(coded=True)
    except Exception:  # nibabel raises errors of its own on a quaternion that is none
        return None
    if not code or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return None
    return None if orientation.is_default_grid(affine, shape) else affine


def _notes_on_forms(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Notes on two affines of one file that do not put its voxels at one place."""
    import nibabel

    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    corners = np.column_stack([corners, np.ones(8)]).T
    apart = np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max()
    if apart <= _MAX_APART_VOXELS * np.linalg.norm(sform[:3, :3], axis=0).min():
        return []
    codes = ["".join(nibabel.aff2axcodes(affine)) for affine in (sform, qform)]
    turned = ""
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        turned = f", AND ARE MIRROR IMAGES ({codes[0]} and {codes[1]}): left may be right"
    elif codes[0] != codes[1]:
        turned = f", and are turned ({codes[0]} and {codes[1]}): left and right may be swapped"
    return [
        f"sform and qform put its voxels up to {apart:.4g} apart{turned}; the sform counts here, "
        "as in nibabel, while programs based on ITK may go by the qform; correct the header"
    ]


def _check_size(path: str | Path, header: Any, n_bytes: int, compressed: bool) -> None:
    """Refuse a file that cannot hold what its header declares, before the memory is asked for."""
    size = os.path.getsize(path)
    capacity = size * _MAX_GZIP_RATIO if compressed else size
    if n_bytes > capacity + _MARGIN_BYTES:
        shape = "x".join(map(str, header.get_data_shape()))
        raise DataError(
            f"{path}: cut short or damaged: its header declares {shape} voxels, "
            f"{n_bytes / 1e6:.0f} MB, and the file of {size / 1e6:.1f} MB cannot hold them; "
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
