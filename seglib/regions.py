"""Size, place and intensity of every structure or object in a mask, as rows of a table.

Everything is measured on the original grid: in the size, the axes and the values of the file.
Taught in `08_inference_and_deployment`.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from . import files
from .errors import ConfigError, DataError
from .formats import images, orientation, volumes

NECK = 0.8  # default of `split`; from 0.75 to 0.85 the objects of real nuclei hardly change
# Columns of a table of measures -> number type. Means of colours follow at the end.
COLUMNS = {
    "case": "object",
    "file": "object",
    "class": "object",
    "object": "Int64",
    "area_px": "Int64",
    "area_mm2": "float64",
    "volume_voxels": "Int64",
    "volume_ml": "float64",
    "components": "Int64",
    "largest_component_px": "Int64",
    "largest_component_mm2": "float64",
    "largest_component_voxels": "Int64",
    "largest_component_ml": "float64",
    "centroid_x_px": "float64",
    "centroid_y_px": "float64",
    "centroid_z_px": "float64",
    "centroid_right_mm": "float64",
    "centroid_anterior_mm": "float64",
    "centroid_superior_mm": "float64",
    "box_x_px": "Int64",
    "box_y_px": "Int64",
    "box_z_px": "Int64",
    "box_width_px": "Int64",
    "box_height_px": "Int64",
    "box_depth_px": "Int64",
    "intensity_unit": "object",
    "mean_intensity": "float64",
}
OF_OBJECTS = ("object",)  # columns of a table with one row an object only
OF_CLASSES = tuple(name for name in COLUMNS if name.startswith(("components", "largest")))
OF_PICTURES = tuple(name for name in COLUMNS if name.endswith(("area_px", "mm2", "component_px")))
OF_VOLUMES = (
    *("volume_voxels", "volume_ml", "largest_component_voxels", "largest_component_ml"),
    *("centroid_z_px", "centroid_right_mm", "centroid_anterior_mm", "centroid_superior_mm"),
    *("box_z_px", "box_depth_px"),
)
COLOURS = ("mean_red", "mean_green", "mean_blue")
HU, AS_STORED = "HU", "stored value"
START = b"\xef\xbb\xbfcase,file,class,"  # of every file with a table
# A spreadsheet takes a cell that begins so for a formula, the wide forms in some languages too.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


class Original(NamedTuple):
    """An image as it is in its file, to measure a mask on.

    Attributes:
        values: (H, W, C), or (S, H, W, C) as displayed, in the unit of the file.
        means: the column of the table for each of the C channels.
        unit: of the values, such as `HU`.
        spacing_mm: distance of rows and columns, or of slices, rows and columns; None: unknown.
        to_file: matrix from an index of `values` to the index (x, y) or (x, y, z) in the file, both
            homogeneous.
        to_patient: (4, 4), from an index of `values` to mm to the right, anterior, superior; None
            where the file does not say where its voxels lie.
    """

    values: np.ndarray
    means: tuple[str, ...]
    unit: str
    spacing_mm: tuple[float, ...] | None
    to_file: np.ndarray
    to_patient: np.ndarray | None = None


class Options(NamedTuple):
    """How `Predictor.measure` measures: see there. `options` checks them."""

    objects: bool = False
    neck: float = NECK
    pixel_mm: tuple[float, float] | None = None


def options(
    objects: bool = False,
    neck: float = NECK,
    pixel_mm: float | Sequence[float] | None = None,
) -> Options:
    """Checked options; one number as `pixel_mm` stands for both sides of a pixel.

    Raises:
        ConfigError: a value out of range.
    """
    if not 0 <= neck <= 1:  # also false for NaN
        raise ConfigError(f"neck: {neck!r} is not allowed; expected 0 to 1")
    if pixel_mm is None:
        return Options(objects, neck)
    sides = [pixel_mm, pixel_mm] if np.ndim(pixel_mm) == 0 else list(pixel_mm)
    pixel = orientation.known_spacing([1, *sides])
    if pixel is None:
        raise ConfigError(
            f"pixel_mm: {pixel_mm!r} is not allowed; expected the height and the width of a pixel "
            f"in mm, {orientation.MIN_SPACING_MM:g} to {orientation.MAX_SPACING_MM:g}, such as 0.2 "
            "or 0.2,0.25"
        )
    return Options(objects, neck, pixel[1:])


# ---- originals


def of_array(image: np.ndarray, pixel_mm: tuple[float, float] | None = None) -> Original:
    """An image (H, W) or (H, W, C) of numbers; three equal channels are one of grey.

    Args:
        pixel_mm: height and width of a pixel; None: unknown.
    """
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype == bool:
        values = values.astype(np.uint8)
    n_channels = values.shape[-1]
    if n_channels == 3 and (values == values[..., :1]).all():
        values, n_channels = values[..., :1], 1
    means = ("mean_intensity",) if n_channels == 1 else COLOURS
    if n_channels not in (1, 3):
        means = tuple(f"mean_channel_{number}" for number in range(1, n_channels + 1))
    to_file = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # (row, column) -> (x, y)
    return Original(values, means, AS_STORED, pixel_mm, to_file)


def of_picture(path: str | Path, pixel_mm: tuple[float, float] | None = None) -> Original:
    """A picture file, as `of_array`; palettes become colours, transparency is dropped.

    Args:
        pixel_mm: height and width of a pixel, for files that do not tell it.

    Raises:
        DataError: unreadable, or the file tells another size of a pixel.
    """
    of_file = images.pixel_mm(path)
    if of_file and pixel_mm and not np.allclose(of_file, pixel_mm, rtol=0.01, atol=0):
        raise DataError(
            f"{path}: a pixel of {of_file[0]:g} x {of_file[1]:g} mm by its file, and pixel_mm is "
            f"{pixel_mm[0]:g} x {pixel_mm[1]:g}; leave pixel_mm out, or correct the file"
        )
    pixels, mode, palette = images.read_pixels(path)
    if mode == "P":
        pixels = palette[pixels]
    elif mode == "LA":
        pixels = pixels[..., 0]
    elif mode == "RGBA":
        pixels = pixels[..., :3]
    return of_array(pixels, of_file or pixel_mm)


def of_volume(path: str | Path, cfg) -> Original:
    """A volume in the display of `cfg`, with the values of its file.

    The unit is HU where `cfg` has a window in HU and nothing speaks against it.

    Raises:
        DataError: as `volumes.read`.
    """
    volume = volumes.read(path, **volumes.options(cfg))
    grid = volume.grid
    to_file = orientation.index_map(grid.orientation, grid.file_shape)
    if grid.files:  # the axes of a DICOM series are slice, row, column
        to_file = to_file[[2, 1, 0, 3]]
    return Original(
        volume.voxels[..., None],
        ("mean_intensity",),
        HU if volumes.is_in_hu(volume, cfg) else AS_STORED,
        grid.spacing_mm,
        to_file,
        grid.displayed_affine if grid.oriented else None,
    )


# ---- objects


def split(
    mask: np.ndarray, neck: float = NECK, spacing_mm: Sequence[float] | None = None
) -> np.ndarray:
    """Objects of a mask, numbered from 1: touching ones are split at the neck between them.

    The distance of each pixel from the outside is largest in the middle of an object and small in
    a neck. A watershed splits two middles where the neck is narrower than `neck` times the
    narrower object, and at least one pixel narrower. Connected components (by an edge or a face)
    are never joined.

    Args:
        mask: bool, 2-D or 3-D.
        neck: 0 to 1; 0 splits nothing, so that objects are the connected components.
        spacing_mm: the sides of a pixel or voxel, where they differ; None: all alike.

    Returns:
        int32 of the same shape, 0 outside.
    """
    from skimage import morphology, segmentation

    labels = np.zeros(mask.shape, np.int32)
    box = _box_of(mask)
    if box is None:
        return labels
    # A frame of background, so that objects which the image cuts off have an outside there, too.
    inside = np.pad(mask[box], 1)
    cross = ndimage.generate_binary_structure(inside.ndim, 1)
    if neck == 0:
        objects, _ = ndimage.label(inside, cross)
    else:
        sides = None if spacing_mm is None else np.divide(spacing_mm, min(spacing_mm))
        distance = ndimage.distance_transform_edt(inside, sides)
        # Lowered middles flood the image under the distance. Where a lower one is reached by a
        # higher one, over a neck that is too wide, it is no maximum any more.
        lowered = np.minimum(neck * distance, distance - 1)
        seed = np.where(inside, np.maximum(lowered, 0.5), 0)  # so that each component has one
        flooded = morphology.reconstruction(seed, distance, footprint=cross)
        middles = morphology.local_maxima(flooded, connectivity=1) & inside
        markers, _ = ndimage.label(middles, cross)
        objects = segmentation.watershed(-distance, markers, connectivity=1, mask=inside)
    labels[box] = objects[(slice(1, -1),) * inside.ndim]
    return labels


def _box_of(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around a mask; None where it is empty."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else None


# ---- measures


def measure(
    masks: Iterable[tuple[str, np.ndarray]],
    original: Original,
    options: Options,
) -> pd.DataFrame:
    """The measures of every class of an image, or of every object of each class.

    Args:
        masks: name of a class and its bool mask (H, W) or (S, H, W), in the display of `original`.
        options: with `objects`, a row for each object of `split`, instead of one for each class.

    Returns:
        A row for each class, or for each object, with columns of `COLUMNS` (without `case` and
        `file`) and the means of the channels. What does not apply, or is unknown, is missing:
        volumes of pictures, areas of volumes, and mm where the spacing is unknown.

    Raises:
        DataError: a mask of another shape than the image.
    """
    rows: list[dict[str, Any]] = []
    for name, mask in masks:
        shape = original.values.shape[:-1]
        if mask.shape != shape:
            raise DataError(
                f"the mask of {name} is {mask.shape} and its image {shape}; expected one shape"
            )
        if options.objects:
            of_class = _rows_of(split(mask, options.neck, original.spacing_mm), original)
            rows += [
                {"class": name, "object": number} | row for number, row in enumerate(of_class, 1)
            ]
        else:
            rows.append({"class": name} | _of_class(mask, original))
    return table_of([pd.DataFrame(rows)], options.objects)


def table_of(parts: Sequence[pd.DataFrame], objects: bool = False) -> pd.DataFrame:
    """Tables of measures as one; columns of volumes, or of pictures, only where there are some."""
    rows = [row for part in parts for row in part.to_dict("records")]
    unused = set(OF_CLASSES if objects else OF_OBJECTS)
    for size, names in (("area_px", OF_PICTURES), ("volume_voxels", OF_VOLUMES)):
        if rows and not any(pd.notna(row.get(size)) for row in rows):
            unused |= set(names)
    columns = {name: kind for name, kind in COLUMNS.items() if name not in unused}
    for part in parts:
        columns |= {name: "float64" for name in part if name not in COLUMNS}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _of_class(mask: np.ndarray, original: Original) -> dict[str, Any]:
    """The measures of a class as a whole."""
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    largest = int(sizes.max(initial=0))
    rows = _rows_of(mask.astype(np.uint8), original)
    row = rows[0] if rows else _size(0, original.spacing_mm, mask.ndim)
    row["components"] = len(sizes)
    for name, value in _size(largest, original.spacing_mm, mask.ndim).items():
        row[f"largest_component_{name.partition('_')[2]}"] = value
    return row


def _size(n: int, spacing_mm: Sequence[float] | None, n_axes: int) -> dict[str, Any]:
    """Area of `n` pixels, or volume of `n` voxels."""
    unit = math.nan if spacing_mm is None else math.prod(spacing_mm)
    if n_axes == 2:
        return {"area_px": n, "area_mm2": n * unit}
    return {"volume_voxels": n, "volume_ml": n * unit / 1000}


def _rows_of(labels: np.ndarray, original: Original) -> list[dict[str, Any]]:
    """Size, place and means of every label."""
    from skimage import measure

    box = _box_of(labels > 0)
    if box is None:
        return []
    properties = ("area", "centroid", "bbox", "intensity_mean")
    table = pd.DataFrame(
        measure.regionprops_table(labels[box], original.values[box], properties=properties)
    )
    n_axes, corner = labels.ndim, np.array([axis.start for axis in box])
    rows = []
    for area, *numbers in table.itertuples(index=False):
        centroid, first, last, means = np.split(np.array(numbers), [n_axes, 2 * n_axes, 3 * n_axes])
        row = _size(int(area), original.spacing_mm, n_axes)
        row |= _place(centroid + corner, first + corner, last - 1 + corner, original)
        row |= {"intensity_unit": original.unit, **dict(zip(original.means, means))}
        rows.append(row)
    return rows


def _place(
    centroid: np.ndarray, first: np.ndarray, last: np.ndarray, original: Original
) -> dict[str, Any]:
    """Centroid and box in the axes of the file, and the centroid in the patient."""
    x, y, *z = (original.to_file @ [*centroid, 1])[:-1]
    row = {"centroid_x_px": x, "centroid_y_px": y, "centroid_z_px": z[0] if z else math.nan}
    if original.to_patient is not None:
        mm = (original.to_patient @ [*centroid, 1])[:3]
        names = ("centroid_right_mm", "centroid_anterior_mm", "centroid_superior_mm")
        row |= dict(zip(names, mm))
    corners = np.array([[*first, 1], [*last, 1]]) @ original.to_file.T
    low = np.rint(corners.min(axis=0)[:-1]).astype(int)
    high = np.rint(corners.max(axis=0)[:-1]).astype(int)
    row |= dict(zip(("box_x_px", "box_y_px", "box_z_px"), low.tolist()))
    sides = (high - low + 1).tolist()
    return row | dict(zip(("box_width_px", "box_height_px", "box_depth_px"), sides))


# ---- files


def check_table(path: str | Path | None, options: Options) -> None:
    """`check_target` of a table that may be wanted.

    Raises:
        ConfigError: also where there are options of a table without one.
    """
    if path is not None:
        check_target(path)
    elif options != Options():
        raise ConfigError(
            "table: objects, neck and pixel_mm act on the table of measures; give table, such as "
            "'measures.csv'"
        )


def check_target(path: str | Path) -> Path:
    """The file of a table that will be written; to be checked before anything is computed.

    Raises:
        ConfigError: it is a folder, lies in a file, does not end in .csv, or is a file of another
            kind, which is not replaced.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"table: {str(path)!r} is not allowed; expected a file ending in .csv")
    if path.is_dir():
        raise ConfigError(f"table: {str(path)!r} is a folder; expected a file ending in .csv")
    if any(parent.is_file() for parent in path.parents):
        raise ConfigError(f"table: {str(path)!r} lies in a file; expected a folder there")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            start = file.read(len(START))
        if start != START:
            raise ConfigError(
                f"table: {str(path)!r} exists and is no table of measures; choose another name"
            )
    return path


def save(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV in UTF-8 that spreadsheets open with its names as they are.

    A text that a spreadsheet would run as a formula, such as a file name that begins with "=", gets
    an apostrophe before it. Bytes of a file name that are no UTF-8 are written as backslash codes.
    """
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    safe = table.assign(**{name: table[name].map(_no_formula) for name in texts})
    path = check_target(path)
    with files.replacing(path) as partial:
        safe.to_csv(
            partial,
            index=False,
            encoding="utf-8-sig",  # without this mark Excel takes UTF-8 for another code
            errors="backslashreplace",
            lineterminator="\r\n",  # as RFC 4180 has it; names with either character are quoted
            float_format="%.10g",
        )
    return path


def _no_formula(text: Any) -> Any:
    """A text with an apostrophe before what a spreadsheet would run as a formula."""
    is_formula = isinstance(text, str) and text.lstrip(" ").startswith(FORMULA)
    return f"'{text}" if is_formula else text
