"""Multi-page TIFF files turned into volumes, or into a picture for each page.

Whether the pages of a file are slices of one volume or pictures of their own, such as the fields of
a slide or the frames of a film, does not stand in the file: the user says it.
"""

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
import tifffile

from .. import files
from ..errors import DataError, first_line, listed
from ..formats import tiff
from . import pairing

Pages = Literal["volume", "pictures"]
_SUFFIXES = (".tif", ".tiff")
_PAGE_AXES = "ZTIQ"  # letters of tifffile: depth, time, image, unknown
_MAX_RATIO = 1100  # no compression of TIFF makes pixels smaller by more than about this factor
_WHITE_IS_ZERO, _PALETTE = 0, 3


class Split(NamedTuple):
    """What `split` wrote: the numbers of files read and written, and what was left out."""

    n_stacks: int
    n_written: int
    notes: list[str]


def split(source: str | Path, masks: str | Path | None, output: str | Path, pages: Pages) -> Split:
    """The TIFF files of a folder as `output/images`, and those of their masks beside it.

    Args:
        source: a folder of TIFF files.
        masks: a folder of TIFF files of the same names, also with `_mask` or the like; they hold 0
            and the numbers of classes, in as many pages. None: there are none.
        pages: "volume": NIfTI, with masks in `labels`; "pictures": a TIFF file a page,
            `a_0001.tif`, with masks in `masks`.

    Raises:
        DataError: no TIFF file, one that is damaged or has several channels, masks of another size,
            or `output` holds files already.
    """
    source, output = Path(source), Path(output)
    stacks = _stacks(source)
    mask_of, notes = _masks_of(stacks, masks)
    target = output / ("labels" if pages == "volume" else "masks")
    for folder in (output / "images", target):
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"{folder}: holds files already; choose another --output")
    n_written = 0
    for stem, path in stacks.items():
        array, spacing = read(path)
        own = mask_of.get(stem)
        if own:
            labels, _ = read(own, is_mask=True)
            if labels.shape != array.shape[:3]:
                raise DataError(
                    f"{own}: pages x rows x columns are {_size(labels)}, but {_size(array)} in "
                    f"{path}; a mask needs the size of its image"
                )
            n_written += _write(labels, spacing, target, stem, pages)
        n_written += _write(array, spacing, output / "images", stem, pages)
    return Split(len(stacks), n_written, notes)


@contextlib.contextmanager
def unfolded(path: str | Path, pages: Pages) -> Iterator[Path]:
    """One TIFF file as a volume, or as a folder with a picture for each page; removed at the end.

    Raises:
        DataError: it is damaged, has several channels, or is a stack in colour for a volume.
    """
    array, spacing = read(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        _write(array, spacing, Path(folder), Path(path).stem, pages)
        yield next(Path(folder).iterdir()) if pages == "volume" else Path(folder)


def read(path: Path, is_mask: bool = False) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """The pages of a TIFF file, (S, H, W) or (S, H, W, 3), and the spacing of voxels in mm.

    The spacing (slices, rows, columns) is that of ImageJ and OME-TIFF; None where unknown.

    Raises:
        DataError: as `split`.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = [one for one in file.series if one.size]
            problem = _unlike_a_stack(path, file, series, is_mask)
            if problem:
                raise DataError(f"{path}: {problem}")
            array = series[0].asarray()
            is_colour = "S" in series[0].axes
            if series[0].pages[0].photometric == _WHITE_IS_ZERO and array.dtype.kind in "bu":
                array = ~array if array.dtype == bool else np.iinfo(array.dtype).max - array
            distance = _slice_distance(file)
    except DataError:
        raise
    except Exception as error:  # tifffile raises errors of many kinds on damaged files
        raise DataError(
            f"{path}: not readable as TIFF ({type(error).__name__}: {first_line(error)}); copy or "
            "export it again"
        ) from error
    sides = array.shape[-3:] if is_colour else array.shape[-2:]
    array = array.reshape(-1, *sides)
    pixel = tiff.pixel_mm(path)
    spacing = (distance, *pixel) if distance and pixel else None
    return array, spacing


def _stacks(folder: Path) -> dict[str, Path]:
    """Stem -> TIFF file of a folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of TIFF files")
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise DataError(f"{folder}: no TIFF file; found {pairing.contents(folder)}")
    stems = {path.stem: path for path in paths}
    if len(stems) < len(paths):
        raise DataError(f"{folder}: two files have the same name before .tif and .tiff; rename one")
    return stems


def _masks_of(
    stacks: dict[str, Path], folder: str | Path | None
) -> tuple[dict[str, Path], list[str]]:
    """Stem of an image -> its mask, and notes on those without a partner."""
    if folder is None:
        return {}, []
    masks = _stacks(Path(folder))
    mask_of = {}
    for stem in stacks:
        own = [masks[stem + end] for end in pairing.MASK_SUFFIXES if stem + end in masks]
        if len(own) > 1:
            raise DataError(f"{stacks[stem]}: several masks ({listed(own)}); keep one of them")
        if own:
            mask_of[stem] = own[0]
    alone = [path for path in masks.values() if path not in mask_of.values()]
    notes = [f"{path.name}: no mask of its name" for s, path in stacks.items() if s not in mask_of]
    return mask_of, [*notes, *(f"{path.name}: a mask without an image" for path in alone)]


def _unlike_a_stack(path: Path, file: Any, series: list[Any], is_mask: bool) -> str:
    """Why a file is not one stack of pages of one kind, and what to do; "" where it is."""
    if not series:
        return "no picture in it; export it again"
    if len(series) > 1:
        sizes = listed("x".join(map(str, one.shape)) for one in series)
        return f"its pages differ ({sizes}); split it into files of one size each"
    first = series[0]
    n_bytes = path.stat().st_size
    # Where the pages follow each other without a gap, `dataoffset` is the first one's.
    ends = [(first.dataoffset or 0) + (first.nbytes if first.dataoffset else 0)]
    for page in first.pages:
        if page is not None:
            ends += [start + n for start, n in zip(page.dataoffsets, page.databytecounts)]
    if max(ends) > n_bytes or len(ends) == 1 or _next_page(file):
        return "cut short: its end is missing; copy it again"
    if first.size * first.dtype.itemsize > n_bytes * _MAX_RATIO:
        return f"declares {first.shape} pixels, which its size cannot hold; export it again"
    lengths = dict(zip(first.axes, first.shape))
    others = [axis for axis, n in lengths.items() if n > 1 and axis not in "YXS"]
    if "C" in others or len(others) > 1 or any(axis not in _PAGE_AXES for axis in others):
        return (
            f"axes {first.axes} of {first.shape}: several channels, or time as well as depth; "
            "expected one axis of pages: split the others first"
        )
    is_colour = lengths.get("S", 1) > 1
    if is_colour and (is_mask or lengths["S"] != 3):
        return f"{lengths['S']} numbers for each pixel; expected {'one' if is_mask else '1 or 3'}"
    if first.pages[0].photometric == _PALETTE and not is_mask:
        return "a palette of colours; save it as RGB or grey"
    if first.dtype.kind not in "buif":
        return f"numbers of type {first.dtype}; save it with whole or real numbers"
    return ""


def _next_page(file: Any) -> int:
    """Where the last page that was found says that another one lies; 0 at a true end.

    tifffile only logs that a page is missing.
    """
    form, handle, last = file.tiff, file.filehandle, file.pages[-1]
    handle.seek(last.offset)
    n_tags = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    handle.seek(last.offset + form.tagnosize + n_tags * form.tagsize)
    return struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]


def _slice_distance(file: Any) -> float:
    """The distance of slices in mm that ImageJ or OME-TIFF write; 0 where unknown."""
    if file.ome_metadata:
        return tiff.ome_size(file.ome_metadata, "Z")
    metadata = file.imagej_metadata or {}
    unit_mm = tiff.UNITS_MM.get(str(metadata.get("unit")), 0)
    spacing = metadata.get("spacing", 0)
    return float(spacing) * unit_mm if isinstance(spacing, int | float) else 0


def _write(
    array: np.ndarray, spacing: tuple[float, ...] | None, folder: Path, stem: str, pages: Pages
) -> int:
    """One stack as a volume, or as a file a page; returns the number of files."""
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if pages == "pictures":
        for number, page in enumerate(array, start=1):
            with files.replacing(folder / f"{stem}_{number:04d}.tif") as partial:
                kind = "rgb" if page.ndim == 3 else "minisblack"
                tifffile.imwrite(partial, page, photometric=kind, compression="zlib")
        return len(array)
    if array.ndim == 4:
        raise DataError(f"{stem}: a stack in colour is no volume; choose --tiff_pages pictures")
    if array.dtype.itemsize > 4:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), None)
    if spacing:
        image.header.set_xyzt_units("mm")
        image.header.set_zooms(spacing[::-1])
    with files.replacing(folder / f"{stem}.nii.gz") as partial:
        nibabel.save(image, partial)
    return 1


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[:3]))
