"""Volumes (NIfTI, NRRD, MetaImage, DICOM) as displayed slices, and labels on the same grid.

CT is shown as radiologists do: slices from feet to head, the patient's right at the image's left,
anterior up. Short-axis MRI is never reoriented: its slices are shown as they were acquired.
An image and its labels may store their axes in different orders and directions, so arrays of equal
shape need not match voxel by voxel: only the affines of both files tell (`align`).
`nifti`, `simpleitk` and `dicom` read the files, `orientation` reorders the axes. Taught in
`03_rsna_finetuning`.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from . import (
    channels,
    dicom,
    dicom_headers,
    dicom_pictures,
    dicom_values,
    images,
    mask_pixels,
    nifti,
    orientation,
    segments,
    signatures,
    simpleitk,
    slicer,
)
from .orientation import Grid

SUFFIXES = (*nifti.SUFFIXES, *simpleitk.SUFFIXES)
# TotalSegmentator's name of a mask file -> class of the RSNA system. The mask of a class is the
# union of its files.
CLASS_OF_MASK_FILE = {
    "liver": "liver",
    "spleen": "spleen",
    "kidney_left": "left_kidney",
    "kidney_right": "right_kidney",
    "colon": "bowel",
    "small_bowel": "bowel",
    "duodenum": "bowel",
}
# How the notes begin that say that a window in HU does not fit a volume: `checks` looks for both.
NOT_IN_HU, OTHER_MODALITY = "not in Hounsfield units", "Modality "
FOR_MRI = "window_level=None, window_width=None, percentiles=(0.5, 99.5)"  # settings without HU
_MAX_OTHERS = 5  # so many files of a folder are looked at to find one of DICOM
_CACHE_SIZE = 4  # results that each thread keeps: image and labels of two volumes


@dataclass(frozen=True)
class Volume:
    """The voxels of a volume as displayed, and the grid on which they lie.

    Attributes:
        voxels: (S, H, W); int16 or float32 values (CT: HU), uint8 from `read_8_bit`.
        grid: shape, spacing and axes; `grid.notes` say what is odd about the headers.
        decoding_notes: what was odd about the values, and what was done about it.
    """

    voxels: np.ndarray = field(repr=False)
    grid: Grid
    decoding_notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance between slices, rows and columns in mm; None where unknown."""
        return self.grid.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): index in the file's own axes -> mm, as the header has it."""
        return self.grid.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that was odd in the file, and what was done about it."""
        spacing = (self.grid.spacing_note,) if self.grid.spacing_note else ()
        return (*self.grid.notes, *spacing, *self.decoding_notes)

    def restore(self, array: np.ndarray) -> np.ndarray:
        """A result (S, H, W) as displayed -> the file's own axes."""
        return self.grid.restore(array)


def is_volume(path: str | Path) -> bool:
    """Whether the path is the file of a volume, or a folder, which may hold a DICOM series.

    A file without a suffix of its own is judged by its content. A folder whose name ends like that
    of a picture, such as `scan.png`, does not count. Of several channels, the first one decides.
    """
    path = channels.first_file(path)
    is_picture = str(path).lower().endswith(images.SUFFIXES)
    is_file = simpleitk.is_named_so(path) or is_nifti(path) or dicom_pictures.is_slice(path)
    return is_file or (not is_picture and dicom_headers.split_series(path)[0].is_dir())


def is_series(path: str | Path) -> bool:
    """Whether a path is a folder whose files are those of a DICOM series.

    A folder with pictures or NIfTI files is none, such as one with a mask file for each organ.
    """
    if dicom_headers.split_series(path)[1]:
        return True
    if not Path(path).is_dir():
        return False
    files = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name.lower()
            if name.endswith((*SUFFIXES, *images.SUFFIXES)):
                return False
            if not name.startswith(".") and not name.endswith(tuple(dicom_headers.OTHER_SUFFIXES)):
                files.append(entry.path)
    # A LICENSE or the like may come first.
    first = (file for file in sorted(files)[:_MAX_OTHERS] if os.path.isfile(file))
    return any(
        signatures.kind_of(file) == "a DICOM file"
        and not segments.kind_of(file)
        and not dicom_pictures.is_picture(file)
        for file in first
    )


def options(cfg) -> dict[str, Any]:
    """The arguments of `read` for a config: a window in HU means CT, shown in the usual display."""
    return {"slice_axis": cfg.slice_axis, "canonical": cfg.window_level is not None}


def read(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Volume:
    """A volume: see `read_nifti`, `read_dicom` and, for NRRD and MetaImage, `simpleitk`.

    The arguments and the errors are those of `read_nifti`.
    """
    if simpleitk.is_named_so(path):
        grid = simpleitk.read_grid(path, slice_axis, canonical)
        return _displayed(path, grid, simpleitk.load(path))
    if is_nifti(path):
        return read_nifti(path, slice_axis, canonical)
    _check_kind(path)
    return read_dicom(path, slice_axis=slice_axis, canonical=canonical)


def read_grid(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Grid:
    """Only the `Grid` of a volume: headers are read, pixels are not."""
    if simpleitk.is_named_so(path):
        return simpleitk.read_grid(path, slice_axis, canonical)
    if is_nifti(path):
        return nifti.read_grid(path, nifti.open_file(path), slice_axis, canonical)
    _check_kind(path)
    opened = dicom.open_series(*dicom_headers.split_series(path))
    return dicom.read_grid(path, opened, slice_axis, canonical)


def read_nifti(path: str | Path, slice_axis: int | None = None, canonical: bool = True) -> Volume:
    """A three-dimensional NIfTI file, values scaled by its header.

    A spacing of exactly 1 x 1 x 1 without an orientation counts as unknown, because programs that
    do not know the spacing write it. Voxels that are not finite become the minimum.

    Args:
        slice_axis: the file's axis (0, 1, 2) along which the slices are stacked. By default the
            one nearest to foot-head for `canonical`, else the axis of the largest spacing (the
            last of several equal ones).
        canonical: True: the usual display, or the closest one where the axes are oblique. False:
            nothing is reversed; rows are the later and columns the earlier of the other two axes,
            as SimpleITK shows them.

    Raises:
        DataError: no such file, cut short, not three-dimensional, colours, or an affine that is no
            geometry.
    """
    image = nifti.open_file(path)
    grid = nifti.read_grid(path, image, slice_axis, canonical)
    return _displayed(path, grid, nifti.load(path, image))


def _displayed(path: str | Path, grid: Grid, array: np.ndarray) -> Volume:
    """The volume of an array in the file's own axes: int16 where its values fit, else float32."""
    array, notes = _finite(path, array)
    fits = array.dtype.kind in "iub" and array.min() >= -32768 and array.max() <= 32767
    array = array.astype(np.int16 if fits else np.float32, copy=False)
    return Volume(np.ascontiguousarray(grid.display(array)), grid, notes)


def read_dicom(
    source: str | Path | Iterable[str | Path],
    series: str | None = None,
    slice_axis: int | None = None,
    canonical: bool = True,
) -> Volume:
    """The one DICOM series of a folder or a list of files, as values (CT: HU).

    See `dicom.open_series` for the order of the slices and `dicom_values.read` for corrections.

    Args:
        series: SeriesInstanceUID to read where there are several.
        slice_axis: the axis along which the slices are stacked, 0 to 2 for (slice, row, column) of
            the series.
        canonical: as in `read_nifti`; False keeps rows and columns as they are stored.

    Raises:
        DataError: several series, a damaged file, two images at one position, or no decoder (names
            the package).
    """
    if series is None and isinstance(source, str | Path):
        opened = dicom.open_series(*dicom_headers.split_series(source))
    else:
        opened = dicom.open_series(source, series)
    path = source if isinstance(source, str | Path) else opened.files[0]
    grid = dicom.read_grid(path, opened, slice_axis, canonical)
    array, notes = dicom_values.read(opened.files)
    return Volume(np.ascontiguousarray(grid.display(array)), grid, tuple(notes))


def read_numbers(path: str | Path) -> np.ndarray:
    """The numbers of a label file, or of a DICOM series of labels, in its own axes.

    Those of a NIfTI file are scaled by its header; see `dicom_values.read_labels` for DICOM.
    """
    if simpleitk.is_named_so(path):
        return simpleitk.load(path)
    if is_series(path):
        opened = dicom.open_series(*dicom_headers.split_series(path))
        return dicom_values.read_labels(opened.files)
    return nifti.load(path, nifti.open_file(path))


def is_nifti(path: str | Path) -> bool:
    """Whether a file is NIfTI by its name or, without a suffix that is known, by its content."""
    path = channels.file_of(path)
    name = str(path).lower()
    if name.endswith((*SUFFIXES, *images.SUFFIXES)):
        return name.endswith(nifti.SUFFIXES)
    return Path(path).is_file() and (signatures.kind_of(path) or "").startswith("a NIfTI volume")


def _check_kind(path: str | Path) -> None:
    """Refuse a single file that is not DICOM by what it is."""
    if Path(path).is_file() and signatures.kind_of(path) != "a DICOM file":
        raise nifti.refusal(path)


def _finite(path: str | Path, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array with its finite minimum in place of NaN and infinite values, and a note on that."""
    if array.dtype.kind != "f":
        return array, ()
    finite = np.isfinite(array)
    n_wrong = int(array.size - finite.sum())
    if n_wrong == array.size:
        raise DataError(f"{path}: no voxel is a finite number; nothing can be learned from it")
    if not n_wrong:
        return array, ()
    low = array[finite].min()
    note = f"{n_wrong} voxels are not finite numbers; set to the minimum, {low:g}"
    return np.where(finite, array, low), (note,)


# ---- masks as files


def mask_suffix(source: str | Path) -> str:
    """How the name of a mask ends that is written in the format of its volume."""
    name = str(source).lower()
    if name.endswith(simpleitk.NRRD_SUFFIXES):
        return "_mask" + slicer.SUFFIX
    return "_mask.mha" if name.endswith(simpleitk.META_SUFFIXES) else "_mask.nii.gz"


def with_ending(path: Path, ending: str) -> Path:
    """`a_mask.nii.gz` with the ending "_liver" is `a_mask_liver.nii.gz`."""
    suffixes = (slicer.SUFFIX, *sorted(SUFFIXES, key=len, reverse=True))
    suffix = next(end for end in suffixes if path.name.lower().endswith(end))
    return path.with_name(path.name[: -len(suffix)] + ending + path.name[-len(suffix) :])


def write_mask(
    path: Path,
    mask: np.ndarray,
    grid: Grid,
    source: str | Path,
    segments: Sequence[slicer.Segment],
) -> Path:
    """A mask (S, H, W) uint8 as displayed as a file with the geometry of its volume.

    Args:
        path: its suffix says the format: NIfTI, NRRD or MetaImage. A header (.nhdr, .mhd) becomes
            one file (.nrrd, .mha). A failed write leaves no file.
        source: the volume that was segmented; of the same format, its header is copied.
        segments: the numbers in the mask with their names and colours, which NRRD stores.
    """
    array, name = grid.restore(mask), path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return nifti.write(path, array, grid, source if is_nifti(source) else None)
    if name.endswith(simpleitk.META_SUFFIXES):
        return simpleitk.write(path.with_suffix(".mha"), array, grid, source)
    fields = slicer.fields(segments, array.shape)
    return simpleitk.write(path.with_suffix(".nrrd"), array, grid, source, fields)


# ---- labels


def read_labels_like(
    volume: Volume | Grid, labels: str | Path | dict[str, Any], class_names: tuple[str, ...] = ()
) -> np.ndarray:
    """Labels (S, H, W) on the displayed slices of a volume, uint8 or int32.

    The affines of both files say which voxels belong together, so a label map may be stored in
    any orientation. A label file without orientation (identity affine, or no qform and sform) is
    taken to have the same axes as its NIfTI volume.

    Args:
        labels: a label map (its numbers are returned): a NIfTI file, or the folder of a DICOM
            series. Or one mask file for each class: a dict class -> path(s), or a folder, whose
            files `organ_files` finds. Masks become class numbers: the place in `class_names`, or
            1, 2, 3 … in the order of the dict. Where masks overlap, the later class wins.
        class_names: with the background first; for a folder by default the classes of
            `CLASS_OF_MASK_FILE`.

    Raises:
        DataError: another size, more than half a voxel off, no whole numbers, or unreadable.
    """
    grid = volume.grid if isinstance(volume, Volume) else volume
    if isinstance(labels, dict):
        mask_files = labels
    elif is_organ_folder(labels):
        if not class_names:
            class_names = ("background", *dict.fromkeys(CLASS_OF_MASK_FILE.values()))
        mask_files = organ_files(labels, class_names)
    else:
        return _read_label_map(grid, labels)
    if not mask_files:
        raise DataError(
            f"{labels}: no mask file of {', '.join(class_names[1:])}; "
            "expected names such as liver.nii.gz"
        )
    label_map = np.zeros(grid.shape, np.uint8)
    for position, (name, paths) in enumerate(mask_files.items(), 1):
        number = class_names.index(name) if class_names else position
        for path in [paths] if isinstance(paths, str | Path) else paths:
            label_map[_read_label_map(grid, path) > 0] = number
    return label_map


def is_organ_folder(labels: str | Path) -> bool:
    """Whether labels are a folder with one mask file for each organ, and not a DICOM series."""
    return Path(labels).is_dir() and not is_series(labels)


def organ_files(folder: str | Path, class_names: Iterable[str]) -> dict[str, list[Path]]:
    """Class -> its mask files in a folder: `<class>.nii.gz`, or those of `CLASS_OF_MASK_FILE`.

    A class is left out where one of its files is missing: the union would be too small.
    """
    files = sorted(Path(folder).glob("*"))
    files = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    paths = {nifti.stem(file): file for file in files}
    mask_files = {}
    for name in class_names:
        parts = [part for part, class_name in CLASS_OF_MASK_FILE.items() if class_name == name]
        if name in paths:
            mask_files[name] = [paths[name]]
        elif parts and all(part in paths for part in parts):
            mask_files[name] = [paths[part] for part in parts]
    return mask_files


def align(grid: Grid, path: str | Path) -> np.ndarray:
    """How the axes of a label file become the displayed axes of `grid`; only headers are read.

    Returns:
        An orientation (3, 2) for `orientation.reorient`.

    Raises:
        DataError: the two grids do not coincide.
    """
    file_shape, affine, is_oriented = _geometry(path)
    if not grid.oriented or not is_oriented:
        return _align_by_shape(grid, path, file_shape)
    orientation.nearest_axes(path, affine)  # refuses an affine that is no geometry
    # Displayed index -> index in the label file. Where the grids coincide, this is a reordering of
    # the axes, up to rounding.
    to_labels = np.linalg.solve(affine, grid.displayed_affine)
    display = orientation.inverse(orientation.nearest_axes(path, to_labels))
    shape = orientation.in_display_order(file_shape, display)
    # Two displayed axes with the same nearest label axis: turned by 45 degrees or more.
    label_axes = np.abs(to_labels[:3, :3]).argmax(axis=0)
    oblique = len(set(label_axes.tolist())) < 3
    if shape != grid.shape or oblique:
        size = f"{_size(file_shape)}, turned obliquely" if oblique else _size(shape)
        raise DataError(
            f"{path}: labels of {size} (slices x rows x columns) for a volume of "
            f"{_size(grid.shape)} ({Path(grid.path).name}); make both on one grid"
        )
    # Both maps are affine, so they differ most at one of the eight corners of the volume.
    difference = to_labels - orientation.index_map(display, file_shape)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape) - 1)
    offsets = difference @ np.column_stack([corners, np.ones(8)]).T
    largest = np.abs(offsets[:3]).max()
    if largest > 0.5:
        advice = "make both on one grid"
        if grid.spacing_mm is None:
            advice = "the volume has no PixelSpacing: correct its headers"
        raise DataError(
            f"{path}: lies up to {largest:.1f} voxels beside its volume {Path(grid.path).name}, "
            f"by their affines; {advice}"
        )
    return display


def _geometry(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray, bool]:
    """Of a label file or series: its shape, its affine in mm, and whether it says where it lies."""
    if is_series(path):
        series = dicom.open_series(*dicom_headers.split_series(path))
        affine = np.eye(4) if series.affine is None else series.affine
        return series.shape, affine, series.affine is not None
    if simpleitk.is_named_so(path):
        header = simpleitk.read_header(path)
        return header.shape, *simpleitk.affine_mm(path, header)
    image = nifti.open_file(path)
    return image.shape, nifti.affine_mm(image), nifti.is_oriented(image)


def _align_by_shape(grid: Grid, path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels without an affine are taken to have the axes of a NIfTI volume of the same shape.

    Two DICOM series without positions have the order of their InstanceNumber.
    """
    without_positions = bool(grid.files) and is_series(path) and not grid.oriented
    if (grid.files and not without_positions) or shape != grid.file_shape:
        reason = f"and its volume is {_size(grid.file_shape)}"
        if grid.files and not without_positions:
            reason = "a DICOM series cannot be matched without it"
        raise DataError(
            f"{path}: {_size(shape)} voxels without orientation, {reason}; "
            "write the volume's affine to it"
        )
    return grid.orientation


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _read_label_map(grid: Grid, path: str | Path) -> np.ndarray:
    """The numbers of a label file (S, H, W) on the displayed slices of `grid`."""
    if segments.kind_of(path):
        return _segment_numbers(grid, path)
    display = align(grid, path)
    numbers = mask_pixels.whole_numbers(path, read_numbers(path))
    if numbers.min() < 0:
        raise DataError(f"{path}: label {numbers.min():g} is negative; expected 0, 1, 2 …")
    dtype = np.uint8 if numbers.max() < 256 else np.int32
    return np.ascontiguousarray(orientation.reorient(numbers, display)).astype(dtype)


def _segment_numbers(grid: Grid, path: str | Path) -> np.ndarray:
    """A file of named segments as a label map; where they overlap, the later one counts."""
    numbers = [segment.number for segment in segments.segments(path)]
    if len(numbers) > 255:
        raise DataError(f"{path}: {len(numbers)} segments; expected 255 at most: name some classes")
    planes = segments.read(grid, path, {number: k for k, number in enumerate(numbers, start=1)})
    return np.array([0, *numbers], np.int32)[planes.labels]


def read_segments(
    path: str | Path, labels: str | Path, cfg, class_of: Mapping[int, int]
) -> segments.Planes:
    """`segments.read` for the volume at `path`, displayed as `cfg` says.

    Each thread caches its last few results, so they are read-only.
    """

    def convert() -> segments.Planes:
        planes = segments.read(read_grid(path, **options(cfg)), labels, class_of)
        planes.bits.flags.writeable = planes.labels.flags.writeable = False
        return planes

    files = (str(path), stamp(path), str(labels), stamp(labels))
    settings = (*sorted(class_of.items()), *options(cfg).values())
    return _cache.get(("segments", files, settings), convert)


def lies_on(grid: Grid, labels: str | Path) -> bool:
    """Whether a label file, or a file of named segments, lies on the grid of a volume."""
    try:
        if segments.kind_of(labels):
            first = segments.segments(labels)[0]
            segments.read(grid, labels, {first.number: 1})
        else:
            align(grid, labels)
    except DataError:
        return False
    return True


# ---- eight bits


def window(voxels: np.ndarray, level: float, width: float) -> np.ndarray:
    """(S, H, W) uint8: `level` - `width` / 2 becomes 0, `level` + `width` / 2 becomes 255.

    Values between them are scaled linearly, values outside are clipped.
    """
    low = np.float32(level - width / 2)
    scale = np.float32(255 / width)
    shown = np.empty(voxels.shape, np.uint8)
    # Slice by slice, because the whole volume as float32 would need four times the memory.
    for i, plane in enumerate(voxels):
        shown[i] = np.rint(np.clip((plane.astype(np.float32) - low) * scale, 0, 255))
    return shown


def clip_percentiles(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: the `low` percentile of the whole volume becomes 0, the `high` one 255, linearly."""
    bottom, top = np.percentile(voxels, (low, high))
    return window(voxels, (bottom + top) / 2, max(top - bottom, 1e-6))


def not_in_hu(voxels: np.ndarray, level: float, width: float) -> tuple[str, ...]:
    """A note on the values of a CT that cannot be Hounsfield units (HU), else ().

    In HU, air is -1000, fat -100, soft tissue 0 to 100, and only bone and metal lie above 300. A
    part of a scan may lack air, but soft tissue must lie where it should.

    Args:
        voxels: (S, H, W) values before the window.
        level, width: of the window, for which too many values may be too bright.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:  # `case_io` tells of images without any contrast
        return ()
    text = _what_instead_of_hu(voxels, low, high, level + width / 2)
    if not text:
        return ()
    return (
        f"{NOT_IN_HU}, it seems: {text}. The window expects air at -1000, water at 0 "
        "and bone above 300: convert the file (DICOM: RescaleSlope and RescaleIntercept), or set "
        f"{FOR_MRI} where it is no CT, such as MRI",
    )


def _no_ct(grid: Grid) -> tuple[str, ...]:
    """A note on a DICOM series of another modality than CT, for which a window in HU is wrong."""
    modality = dicom_headers.modality(grid.files[0]) if grid.files else ""
    if modality in ("", "CT"):
        return ()
    return (
        f"{OTHER_MODALITY}{modality}, but the window is one of CT, in Hounsfield units: expected "
        f"CT; look whether it is the right series, or set {FOR_MRI}",
    )


def is_in_hu(volume: Volume, cfg) -> bool:
    """Whether the values of a volume from `read` are Hounsfield units.

    They are those of a CT, by the Modality of a DICOM series, else by the window of `cfg`; unless
    the values themselves speak against it (`not_in_hu`).
    """
    modality = dicom_headers.modality(volume.grid.files[0]) if volume.grid.files else ""
    is_ct = modality == "CT" if modality else cfg.window_level is not None
    level, width = 40, 400  # of soft tissue
    if cfg.window_level is not None:
        level, width = cfg.window_level, cfg.window_width
    return is_ct and not not_in_hu(volume.voxels, level, width)


def _what_instead_of_hu(voxels: np.ndarray, low: float, high: float, white: float) -> str:
    """What the values are, if they are no HU; `white` is the upper end of the window."""
    extent = f"values from {low:g} to {high:g}"
    if max(-low, high) <= 20:  # the noise of a CT alone is wider
        return f"{extent}, so they were scaled or standardised"
    # Up to a million voxels show the shares well enough. An odd step does not follow the columns.
    sample = voxels.ravel()[:: voxels.size // 1_000_000 * 2 + 1]

    def share(above: float, up_to: float) -> float:
        return float(((sample > above) & (sample <= up_to)).mean())

    if low >= 0 and 200 <= high <= 255 and share(-1, 0) > 0.05:
        return f"{extent}, {share(-1, 0):.0%} of them 0, so they are a picture of 8 bits"
    has_air, bright = share(-np.inf, -250) > 0.001, share(500, np.inf)
    # MRI has as much between its dark and its bright tissues; shifted CT has only lung there.
    is_soft_tissue = share(850, 1350) > max(bright / 2, share(100, 500))
    if not has_air and bright > 0.02 and is_soft_tissue:
        return (
            f"{extent}, without air but {bright:.0%} above 500, most of that about 1000, so they "
            "were shifted by about 1024 (the intercept was lost)"
        )
    # Many files have one value below air outside the field of view: the lowest.
    too_low = float(((sample < -1300) & (sample > low)).mean())
    if too_low > 0.02:
        return f"{extent}, {too_low:.0%} far below air"
    # A narrow window ends below tissue with contrast agent.
    limit = max(white, 300)
    saturated = share(limit, np.inf)
    if saturated > (0.5 if has_air else 0.25):
        return f"{extent}, {saturated:.0%} of them above {limit:g}"
    if low >= 0 and share(300, np.inf) > 0.05:
        return (
            f"{extent}, none below 0, where air and fat lie, and {share(300, np.inf):.0%} above 300"
        )
    if low < -1300 and share(-200, 300) < 0.005:
        return f"{extent}, without soft tissue, so they were shifted (the intercept counted twice?)"
    return ""


def read_8_bit(path: str | Path, cfg) -> Volume:
    """A volume with uint8 voxels, by the window of `cfg`, or its percentiles where it has none.

    Each thread caches its last few volumes, so their voxels are read-only.

    Raises:
        DataError: as `read`.
    """

    return cached(path, cfg, lambda: convert_to_8_bit(path, cfg))


def convert_to_8_bit(path: str | Path, cfg) -> Volume:
    """`read_8_bit` without its cache."""
    volume = read(path, **options(cfg))
    notes = volume.decoding_notes
    if cfg.window_level is not None:
        voxels = window(volume.voxels, cfg.window_level, cfg.window_width)
        notes += _no_ct(volume.grid)
        notes += not_in_hu(volume.voxels, cfg.window_level, cfg.window_width)
    else:
        voxels = clip_percentiles(volume.voxels, *(cfg.percentiles or (0, 100)))
    voxels.flags.writeable = False
    return Volume(voxels, volume.grid, notes)


def cached(path: str | Path, cfg, convert: Callable[[], Volume]) -> Volume:
    """The result of `convert` for a volume or several channels, kept for the next slice."""
    settings = (cfg.window_level, cfg.window_width, cfg.percentiles, *options(cfg).values())
    return _cache.get(("image", str(path), stamp(path), settings), convert)


def read_labels(path: str | Path, labels: str | Path, cfg) -> np.ndarray:
    """`read_labels_like` for the volume at `path`, displayed as `cfg` says.

    Each thread caches its last few label maps, so they are read-only.
    """

    def convert() -> np.ndarray:
        grid = read_grid(path, **options(cfg))
        label_map = read_labels_like(grid, labels, cfg.class_names)
        label_map.flags.writeable = False
        return label_map

    files = (str(path), stamp(path), str(labels), stamp(labels))
    return _cache.get(("labels", files, cfg.class_names, *options(cfg).values()), convert)


def notes_on_labels(path: str | Path, labels: str | Path, cfg) -> tuple[str, ...]:
    """What is odd about the place of labels (a file, or a folder of masks) on their volume.

    Raises:
        DataError: a file is unreadable.
    """

    def convert() -> tuple[str, ...]:
        grid = read_grid(path, **options(cfg))
        paths = [Path(labels)]
        if is_series(labels):
            paths = []
        elif paths[0].is_dir():
            files_of = organ_files(labels, cfg.class_names)
            paths = [path for files in files_of.values() for path in files]
        return tuple(dict.fromkeys(note for path in paths for note in _notes_on_place(grid, path)))

    settings = (cfg.class_names, *options(cfg).values())
    return _notes.get((str(path), stamp(path), str(labels), stamp(labels), *settings), convert)


def _notes_on_place(grid: Grid, path: str | Path) -> list[str]:
    """Notes on one label file; those on the volume itself are in `Grid.notes`."""
    if segments.kind_of(path):
        return []  # `read_segments` has those on the segments
    if simpleitk.is_named_so(path):
        notes, is_oriented = [], _geometry(path)[2]
    else:
        image = nifti.open_file(path)
        notes, is_oriented = nifti.notes_on_place(image), nifti.is_oriented(image)
    if grid.oriented and not is_oriented:
        notes.append(
            "labels without a geometry in their header: their axes are taken to be those of their "
            "volume; look that they lie on it, and copy its header to them"
        )
    elif is_oriented and not grid.oriented:
        notes.append(
            "only the labels say where their voxels lie: their axes are taken to be those of the "
            "volume; look that they lie on it, and copy their header to the volume"
        )
    return notes


def stamp(path: str | Path) -> tuple[Any, ...]:
    """Name, size and time of a file, of all files in a folder, or of the files of all channels.

    It changes when the content does; () where nothing exists at the path.
    """
    paths = channels.files(path)
    if len(paths) > 1:
        return tuple(entry for channel in paths for entry in stamp(channel))
    path = dicom_headers.split_series(paths[0])[0]
    if os.path.isdir(path):
        with os.scandir(path) as entries:  # one call for a folder of a thousand slices
            files = sorted((entry.name, entry.stat()) for entry in entries)
    elif os.path.exists(path):
        files = [(str(path), os.stat(path))]
    else:
        files = []
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in files)


class _Cache(threading.local):
    """The last few results of a thread, because cases ask for their volume slice by slice.

    It changes only the speed: a key holds everything that a result depends on. Errors are kept
    too, so that a damaged volume is not decoded again for each of its slices. Each thread has a
    cache of its own, so that threads cannot displace each other's volumes.
    """

    def __init__(self):
        self.results: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, compute: Callable[[], Any]) -> Any:
        if key not in self.results:
            try:
                self.results[key] = compute(), ""
            except DataError as error:
                # Only the message: the traceback of an error holds the arrays of its functions.
                self.results[key] = None, str(error)
            while len(self.results) > _CACHE_SIZE:
                self.results.popitem(last=False)
        self.results.move_to_end(key)
        result, problem = self.results[key]
        if problem:
            raise DataError(problem)
        return result


_cache = _Cache()
_notes = _Cache()  # apart, so that they do not displace pixels
