"""NRRD and MetaImage (.mha, .mhd) volumes of 3D Slicer and ITK, read and written by SimpleITK.

What can go wrong:

- SimpleITK believes the header: it opens any file that `ElementDataFile` or `data file` names,
  asks for any memory, and does not check the checksum of compressed voxels. So the header is read
  here first, and only voxels in the file itself, or in a file beside it, are accepted.
- Its coordinates grow to the left and to the back (LPS), those of `Grid` to the right and to the
  front.
- A header without a geometry gets the identity, which looks like a measurement of 1 mm.
- A Slicer segmentation (`.seg.nrrd`) may cover only the box around its segments, and store
  segments that overlap as several layers: `segmentations` reads those.

`volumes` turns an image to the usual display. Taught in `03_rsna_finetuning`.
"""

import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import files
from ..errors import DataError, first_line
from . import orientation
from .orientation import Grid

NRRD_SUFFIXES, META_SUFFIXES = (".nrrd", ".nhdr"), (".mha", ".mhd")
SUFFIXES = (*NRRD_SUFFIXES, *META_SUFFIXES)
NO_SPACING = "spacing unknown: 1 x 1 x 1 without a geometry in the header"
# What a file is called whose voxels lie in a second file, which a single file replaces.
_ONE_FILE = "save the volume as one file (.nrrd, .mha or .nii.gz), for example with 3D Slicer"
_MAX_HEADER_BYTES = 4 << 20  # Slicer writes about 1 kB for a segment
_MAX_FIELD_LENGTH = 4000  # of MetaImage, whose reader has buffers of a fixed size
_MAX_GZIP_RATIO = 1032  # zlib compresses nothing by more than this factor
_BLOCK_BYTES = 1 << 20
_DATA_FILE = "elementdatafile"  # the last field of a MetaImage header
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM_PER_UNIT = {"": 1.0, "?": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001}
_PATIENT_SPACES = {
    *("right-anterior-superior", "ras", "left-anterior-superior", "las"),
    *("left-posterior-superior", "lps"),
}
# Number types of NRRD, as the names begin that its definition lists, and of MetaImage -> bytes.
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8"), 1),
    **dict.fromkeys(("uint8_t",), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16"), 2),
    **dict.fromkeys(("int16_t", "ushort", "unsigned short", "unsigned short int", "uint16"), 2),
    **dict.fromkeys(("uint16_t",), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int"), 4),
    **dict.fromkeys(("uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), 8),
    **dict.fromkeys(("signed long long int", "int64", "int64_t", "ulonglong", "uint64"), 8),
    **dict.fromkeys(("unsigned long long", "unsigned long long int", "uint64_t", "double"), 8),
}
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


class Header(NamedTuple):
    """The header of a file, checked against the size of the file.

    Attributes:
        fields: as in the file; names of NRRD in lower case, except those of key/value pairs (`:=`),
            such as `Segment0_Name`.
        shape: (x, y, z).
        n_layers: numbers for each voxel.
        item_bytes: of one number.
        voxels: the file that holds the voxels, and where they begin in it.
        compressed: whether they are compressed by zlib or gzip.
        has_place: whether the header says where the voxels lie.
        has_spacing: whether it says how far apart they are.
        unit_mm: the unit of its distances.
    """

    fields: dict[str, str]
    shape: tuple[int, int, int]
    n_layers: int
    item_bytes: int
    voxels: tuple[Path, int]
    compressed: bool
    has_place: bool
    has_spacing: bool
    unit_mm: float


def is_named_so(path: str | Path) -> bool:
    """Whether a file is NRRD or MetaImage by its suffix."""
    return str(path).lower().endswith(SUFFIXES)


def read_header(path: str | Path) -> Header:
    """The header of a NRRD or MetaImage file; no voxel is read.

    Raises:
        DataError: no such file, a damaged header, not three axes, a kind of encoding that is not
            read, voxels in another folder, or a file too small for what it declares.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; check the path")
    with open(path, "rb") as file:
        start = file.read(_MAX_HEADER_BYTES)
    is_nrrd = start.startswith(b"NRRD")
    try:
        header = (_nrrd_header if is_nrrd else _meta_header)(Path(path), start)
    except (ValueError, KeyError, OverflowError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        kind = "NRRD" if is_nrrd else "MetaImage"
        raise DataError(
            f"{path}: a damaged header of {kind} ({reason}); write the file anew"
        ) from error
    _check_size(path, header)
    return header


def read_grid(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Grid:
    """The grid of a file; the arguments are those of `volumes.read_nifti`."""
    header = read_header(path)
    affine, oriented = affine_mm(path, header)
    distances = np.linalg.norm(affine[:3, :3], axis=0)
    display, notes = orientation.display_of(
        path, affine, oriented, distances, slice_axis, canonical
    )
    spacing_mm, spacing_note = None, ""
    stated = header.has_spacing or oriented
    spacing = orientation.known_spacing(distances, stated=oriented) if stated else None
    if spacing is not None:
        spacing_mm = orientation.displayed_spacing(spacing, affine, oriented, display)
    elif (distances == 1).all():
        spacing_note = NO_SPACING
    else:
        sizes = " x ".join(f"{distance:g}" for distance in distances)
        spacing_note = (
            f"spacing unknown: the header says {sizes} mm; expected {orientation.MIN_SPACING_MM:g} "
            f"to {orientation.MAX_SPACING_MM:g} mm: correct it"
        )
    return Grid(
        path=str(path),
        shape=orientation.in_display_order(header.shape, display),
        spacing_mm=spacing_mm,
        orientation=display,
        affine=affine,
        oriented=oriented,
        notes=tuple(notes),
        spacing_note=spacing_note,
    )


def affine_mm(path: str | Path, header: Header) -> tuple[np.ndarray, bool]:
    """(4, 4): index (x, y, z) -> mm to the right, anterior, superior; and whether it is stated.

    Raises:
        DataError: SimpleITK refuses the header.
    """
    information = _information(path)
    size = information.GetSize()[:3]
    if tuple(size) != header.shape:
        raise DataError(
            f"{path}: its header is read in two ways, as {'x'.join(map(str, header.shape))} voxels "
            f"and as {'x'.join(map(str, size))}; write the file anew"
        )
    n_axes = information.GetDimension()
    direction = np.array(information.GetDirection()).reshape(n_axes, n_axes)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(information.GetSpacing()[:3])
    affine[:3, 3] = information.GetOrigin()[:3]
    affine = _LPS_TO_RAS @ affine
    affine[:3] *= header.unit_mm
    oriented = header.has_place and not orientation.is_default_grid(affine, header.shape)
    return affine, oriented


def load(path: str | Path, header: Header | None = None) -> np.ndarray:
    """The voxels in the file's own axes, (x, y, z).

    Raises:
        DataError: several numbers for each voxel, cut short, or damaged.
    """
    header = header or read_header(path)
    if header.n_layers > 1:
        raise DataError(
            f"{path}: {header.n_layers} numbers for each voxel; expected one: split it first, or, "
            "if it is a segmentation, give it as labels"
        )
    return load_layers(path, header)[..., 0]


def load_layers(path: str | Path, header: Header) -> np.ndarray:
    """The voxels (x, y, z, layer) in the file's own axes.

    Raises:
        DataError: cut short or damaged.
    """
    import SimpleITK

    if header.compressed:
        _check_compressed(path, header)
    try:
        image = SimpleITK.ReadImage(str(path))
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"{path}: cut short or damaged ({_reason(error)}); get it anew from where it comes from"
        ) from error
    array = SimpleITK.GetArrayFromImage(image)  # (z, y, x) or (z, y, x, layer)
    depth, height, width = header.shape[::-1]
    return array.reshape(depth, height, width, header.n_layers).transpose(2, 1, 0, 3)


def write(
    path: Path,
    mask: np.ndarray,
    grid: Grid,
    source: str | Path = "",
    fields: dict[str, str] | None = None,
) -> Path:
    """A mask (uint8, in the file's own axes) as NRRD or MetaImage, compressed, in one file.

    Args:
        path: its suffix, .nrrd or .mha, says the format.
        source: the volume that was segmented; where it is NRRD or MetaImage, its origin, spacing
            and directions are copied number by number. Else they are those of `grid`.
        fields: key -> value, which NRRD stores as they are.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask.astype(np.uint8).T))
    if is_named_so(source):
        original = _information(source)
        n_axes = original.GetDimension()
        direction = np.array(original.GetDirection()).reshape(n_axes, n_axes)[:3, :3]
        image.SetSpacing(original.GetSpacing()[:3])
        image.SetOrigin(original.GetOrigin()[:3])
        image.SetDirection(direction.ravel().tolist())
    elif grid.oriented:
        affine = _LPS_TO_RAS @ grid.affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    elif grid.spacing_mm is not None:
        image.SetSpacing(orientation.in_file_order(grid.spacing_mm, grid.orientation))
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    with files.replacing(path) as partial:
        SimpleITK.WriteImage(image, str(partial), useCompression=True)
    return path


# ---- headers


def _nrrd_header(path: Path, start: bytes) -> Header:
    """The header of a NRRD file, whose text ends with an empty line, or with the file."""
    end = re.search(rb"\r?\n\r?\n", start)
    text = start[: end.start()] if end else start
    fields = _nrrd_fields(text.decode("utf-8", "replace"))
    sizes = [int(word) for word in fields["sizes"].split()]
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
    if int(fields["dimension"]) != len(sizes) or len(kinds) != len(sizes):
        raise ValueError(f"dimension {fields['dimension']}, but sizes {fields['sizes']}")
    is_spatial = [kind in ("domain", "space", "???", "none") for kind in kinds]
    if len(directions) == len(sizes):
        is_spatial = [direction != "none" for direction in directions]
    shape = [size for size, spatial in zip(sizes, is_spatial) if spatial]
    layers = [size for size, spatial in zip(sizes, is_spatial) if not spatial]
    data_file = fields.get("data file", fields.get("datafile", ""))
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DataError(
            f"{path}: its voxels are stored as {encoding[:40]!r}; expected raw or gzip: {_ONE_FILE}"
        )
    skips = [int(fields.get(name, 0)) for name in ("line skip", "lineskip", "byte skip")]
    skips.append(int(fields.get("byteskip", 0)))
    if any(skips):
        raise DataError(f"{path}: its voxels begin later in their file than usual; {_ONE_FILE}")
    if data_file:
        voxels = _voxel_file(path, data_file), 0
    elif end:
        voxels = path, end.end()
    else:
        raise DataError(f"{path}: cut short: no voxels follow its header; copy it again")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) or {""}
    return Header(
        fields=fields,
        shape=_shape(path, shape),
        n_layers=_n_layers(path, layers),
        item_bytes=_NRRD_BYTES[fields["type"].lower()],
        voxels=voxels,
        compressed=encoding != "raw",
        has_place=bool(directions) and fields.get("space", "").lower() in _PATIENT_SPACES,
        has_spacing=bool(directions) or "spacings" in fields,
        unit_mm=_unit_mm(path, units),
    )


def _nrrd_fields(text: str) -> dict[str, str]:
    """Field -> value; the key of a pair `key:=value` keeps its upper and lower case."""
    fields = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        pair = re.match(r"([^:]+):=(.*)", line)
        field = re.match(r"([^:]+): ?(.*)", line)
        if pair:
            fields[pair[1]] = pair[2]
        elif field:
            fields[field[1].strip().lower()] = field[2].strip()
    return fields


def _meta_header(path: Path, start: bytes) -> Header:
    """The header of a MetaImage file, whose last line is `ElementDataFile`."""
    end = re.search(rb"(?mi)^[ \t]*ElementDataFile *[=:][^\n]*(\n|\Z)", start)
    if not end:
        raise DataError(
            f"{path}: cut short, or no MetaImage file: no ElementDataFile; copy it again"
        )
    fields = {}
    for line in start[: end.end()].decode("utf-8", "replace").splitlines():
        name, value = (*re.split("[=:]", line, maxsplit=1), "")[:2]
        if len(line) > _MAX_FIELD_LENGTH:
            raise ValueError(f"{name[:40].strip()} has {len(line)} characters")
        fields[name.strip()] = value.strip()
    n_axes = int(fields["NDims"])
    sizes = [int(word) for word in fields["DimSize"].split()]
    if len(sizes) != n_axes:
        raise ValueError(f"NDims {n_axes}, but DimSize {fields['DimSize']}")
    if fields.get("BinaryData", "True").lower() not in ("true", "1"):
        raise DataError(f"{path}: its voxels are stored as text; {_ONE_FILE}")
    if int(fields.get("HeaderSize", 0)):
        raise DataError(f"{path}: its voxels begin later in their file than usual; {_ONE_FILE}")
    data_file = next(text for name, text in fields.items() if name.lower() == _DATA_FILE)
    voxels = path, end.end()
    if data_file.lower() != "local":
        voxels = _voxel_file(path, data_file), 0
    matrix = {"TransformMatrix", "Rotation", "Orientation"} & set(fields)
    return Header(
        fields=fields,
        shape=_shape(path, sizes),
        n_layers=_n_layers(path, [int(fields.get("ElementNumberOfChannels", 1))]),
        item_bytes=_META_BYTES[fields["ElementType"].upper().removesuffix("_ARRAY")],
        voxels=voxels,
        compressed=fields.get("CompressedData", "False").lower() in ("true", "1"),
        has_place=bool(matrix),
        has_spacing="ElementSpacing" in fields,
        unit_mm=_unit_mm(path, {fields.get("DistanceUnits", "")}),
    )


def _voxel_file(path: Path, name: str) -> Path:
    """The file beside a header that holds its voxels.

    Raises:
        DataError: the header names a file in another folder, several files, or none that exists.
    """
    if name != os.path.basename(name) or "\\" in name or "%" in name or name.split()[0] == "LIST":
        raise DataError(
            f"{path}: its voxels are in {name[:80]!r}; expected one file beside it: {_ONE_FILE}"
        )
    voxels = path.with_name(name)
    if not voxels.is_file():
        raise DataError(
            f"{path}: {name[:80]}, which holds its voxels, is not beside it; copy both files"
        )
    return voxels


def _shape(path: Path, sizes: list[int]) -> tuple[int, int, int]:
    text = "x".join(map(str, sizes[:8]))
    if len(sizes) == 2:
        raise DataError(
            f"{path}: 2-D image of {text}; expected one volume of three axes: save it as a picture "
            "(PNG), or with a third axis of length 1"
        )
    if len(sizes) < 3 or min(sizes) < 1 or any(size != 1 for size in sizes[3:]) or len(sizes) > 4:
        raise DataError(
            f"{path}: {len(sizes)}-D image of {text}; expected one volume of three axes: split it "
            "first"
        )
    return sizes[0], sizes[1], sizes[2]


def _n_layers(path: Path, sizes: list[int]) -> int:
    if len(sizes) > 1 or any(size < 1 for size in sizes):
        raise DataError(
            f"{path}: {'x'.join(map(str, sizes[:8]))} numbers for each voxel; expected one: split "
            "it first"
        )
    return sizes[0] if sizes else 1


def _unit_mm(path: Path, units: set[str]) -> float:
    if len(units) > 1 or not units <= set(_MM_PER_UNIT):
        raise DataError(
            f"{path}: the unit of its distances is {', '.join(sorted(units))[:40]!r}; expected one "
            f"of {', '.join(filter(None, _MM_PER_UNIT))}: correct it"
        )
    return _MM_PER_UNIT[units.pop()]


# ---- voxels


def _n_bytes(header: Header) -> int:
    return math.prod(header.shape) * header.n_layers * header.item_bytes


def _check_size(path: str | Path, header: Header) -> None:
    """Refuse a file that cannot hold what its header declares, before the memory is asked for."""
    voxels, offset = header.voxels
    available = os.path.getsize(voxels) - offset
    capacity = available * _MAX_GZIP_RATIO if header.compressed else available
    if _n_bytes(header) > capacity:
        shape = "x".join(map(str, header.shape))
        raise DataError(
            f"{path}: cut short or damaged: its header declares {shape} voxels, "
            f"{_n_bytes(header)} bytes, and {max(available, 0)} bytes of "
            f"{voxels.name} cannot hold them; copy it again"
        )


def _check_compressed(path: str | Path, header: Header) -> None:
    """Unpack compressed voxels once, block by block, up to their checksum.

    SimpleITK stops before it, and so would read damaged voxels without a word.
    """
    voxels, offset = header.voxels
    expected, n_bytes = _n_bytes(header), 0
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes
    problem = ""
    try:
        with open(voxels, "rb") as file:
            file.seek(offset)
            block = file.read(_BLOCK_BYTES)
            while block and not decoder.eof and n_bytes <= expected:
                n_bytes += len(decoder.decompress(block, _BLOCK_BYTES))
                block = decoder.unconsumed_tail or file.read(_BLOCK_BYTES)
    except zlib.error as error:
        problem = first_line(error)
    if not problem and n_bytes != expected:
        problem = f"{n_bytes} bytes unpacked, its header declares {expected}"
    elif not problem and not decoder.eof:
        problem = "its end is missing"
    if problem:
        raise DataError(
            f"{path}: cut short or damaged ({problem}); get it anew from where it comes from"
        )


def _information(path: str | Path) -> Any:
    """What SimpleITK reads of a header."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(
            f"{path}: a damaged header ({_reason(error)}); write the file anew"
        ) from error
    return reader


def _reason(error: BaseException) -> str:
    """The last line of an error of ITK, which says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
