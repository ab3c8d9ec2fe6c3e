"""Read the image and the masks of one row of the case table, from picture files or volumes.

Here too, the facts of a case are computed that `checks` needs: hashes, notes, and warnings.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import DataError
from .formats import channels, codecs, images, mask_pixels, segments, stacks, volumes

# How programs may mirror or turn masks by mistake: name -> the same done to an array. The last four
# keep the size of a square only.
TURNS = {
    "as they are": lambda a: a,
    "mirrored left to right": lambda a: a[:, ::-1],
    "upside down": lambda a: a[::-1],
    "turned by 180 degrees": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "turned by 90 degrees": np.rot90,
    "turned by -90 degrees": lambda a: np.rot90(a, -1),
    "transposed and turned by 180 degrees": lambda a: a[::-1, ::-1].T,
}
N_EDGE_CELLS = 24  # of the frame's sides, in the grid by which `edge_agreement` tells chance


# A cell of the column `label_numbers`: the mask files of this row hold the class numbers themselves
# and 255 = ignored, as `corrections` writes them, whatever the config says about other mask files.
EXACT = "exact"
EXACT_DECODING = "class numbers of a corrected mask"


def check_table(cases: pd.DataFrame, columns: Iterable[str], use: str) -> None:
    """Refuse a case table that cannot be used, such as "to prepare".

    Raises:
        DataError: a column is missing, there are no rows, or a name occurs twice.
    """
    for column in columns:
        if column not in cases:
            raise DataError(f"case table: no column {column!r}; found {list(cases.columns)}")
    if cases.empty:
        raise DataError(f"case table: no rows; nothing {use}")
    twice = cases["case"][cases["case"].duplicated()]
    if len(twice):
        raise DataError(f"case table: {twice.iloc[0]!r} occurs twice; names must differ")


def read_image(case: Any, cfg) -> np.ndarray:
    """The image of a case, (H, W, input_channels) uint8, in its original size.

    A slice of a volume is windowed by `window_level` and `window_width`, or clipped to the
    `percentiles` of its whole volume. It comes with the `context_slices` on either side of it, see
    `stacks.image`.
    """
    if not volumes.is_volume(case["image"]):
        return read_picture(case["image"], cfg)
    volume = stacks.read_8_bit(case["image"], cfg)
    return stacks.image(volume.voxels, _slice_number(case, volume.voxels), cfg)


def read_picture(cell: str | Path, cfg) -> np.ndarray:
    """A picture (H, W, in_channels) uint8; one of several files has a channel of each.

    Raises:
        DataError: the config wants neighbouring slices, which a picture does not have; or the files
            differ in their size, or in number from the channels.
    """
    if cfg.context_slices:
        raise DataError(
            f"{cell}: a picture has no slices beside it, which context_slices="
            f"{cfg.context_slices} asks for; set context_slices=0, or give volumes"
        )
    files = channels.files(cell)
    if len(files) == 1:
        return images.read_image(files[0], cfg.in_channels, cfg.percentiles)
    if len(files) != cfg.in_channels:
        raise DataError(
            f"{files[0]}: {len(files)} channels, but the network takes {cfg.in_channels}; set "
            f"in_channels={len(files)}, or channel_names to those that are meant"
        )
    planes = [images.read_image(file, 1, cfg.percentiles) for file in files]
    for file, plane in zip(files, planes):
        if plane.shape != planes[0].shape:
            raise DataError(
                f"{file}: {plane.shape[0]}x{plane.shape[1]} pixels, but the first channel of its "
                f"case has {planes[0].shape[0]}x{planes[0].shape[1]}; make all of one size"
            )
    return np.concatenate(planes, axis=-1)


def notes_of(case: Any, cfg) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was odd about the volume of a case: in its headers, and in its values.

    Both are empty for a picture.
    """
    if not volumes.is_volume(case["image"]):
        return (), ()
    volume = stacks.read_8_bit(case["image"], cfg)
    return volume.grid.notes, volume.decoding_notes


def read_mask(case: Any, name: str, cfg, inverted: bool) -> mask_pixels.Mask:
    """The mask of one class of a case, (H, W) of 0 and 1, and 255 = ignored.

    For a volume the mask files are NIfTI label maps, which are united.

    Args:
        name: the class, and its column in the case table.
        inverted: True where 0 is the structure in the file.
    """
    files = case[name].split(mask_pixels.UNION)
    if is_exact(case):
        return mask_pixels.Mask(read_exact(case[name], 1), EXACT_DECODING)
    if not volumes.is_volume(files[0]) and not segments.kind_of(files[0]):
        return mask_pixels.read_mask(
            case[name], cfg.mask_encoding, inverted, *_label_map(case, cfg)
        )
    planes, drawn = [], []
    for path in files:
        if segments.kind_of(path):
            planes.append(_segment_plane(path, name, case, cfg))
            continue
        labels = volumes.read_labels(_first_channel(case), path, cfg)
        plane, number = _structure(path, _slice(case, labels), int(labels.max()), case, cfg)
        planes.append(plane)
        if number:
            drawn.append((os.path.basename(os.path.dirname(path)), 0, number))
    pixels = mask_pixels.unite(planes, inverted)
    return mask_pixels.Mask(pixels, "label numbers", drawn=tuple(drawn))


def is_exact(case: Any) -> bool:
    """Whether the mask files of a case hold plain class numbers, see `EXACT`."""
    return case.get("label_numbers", "") == EXACT


def read_exact(path: str | Path, largest: int) -> np.ndarray:
    """A mask file that `corrections` has written: (H, W) uint8 of class numbers, 255 = ignored.

    Raises:
        DataError: it cannot be read, is no grey picture of 8 bits, or holds a number above
            `largest`.
    """
    pixels, mode, _ = images.read_pixels(path)
    if mode != "L" or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: a picture of mode {mode}; expected the corrected mask as it was saved, grey "
            "with 8 bits: save it in the editor again"
        )
    numbers = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    wrong = [number for number in numbers.tolist() if largest < number < images.IGNORE]
    if wrong:
        raise DataError(
            f"{path}: numbers {wrong[:8]} of no class; expected 0 to {largest}, and 255 = ignored: "
            "save it in the editor again"
        )
    return pixels.copy()  # Pillow's array is read-only


def read_truth(
    case: Any, cfg, inverted: dict[str, bool], shape: tuple[int, int]
) -> tuple[np.ndarray, list[bool], list[str], list[tuple[bool, bool]]]:
    """The masks of a case in their original size.

    Args:
        inverted: class -> whether 0 is its structure; a class that is not named is not inverted.
        shape: (height, width) to use where no class has a mask.

    Returns:
        - masks, (H, W, K) uint8, all `IGNORE` for a class without a mask;
        - for each class whether it is annotated;
        - for each of the K planes how it was decoded, "" without a mask;
        - for each plane whether it looks inverted, and whether its negative does.

    Raises:
        DataError: a mask that cannot be read, or masks of different sizes.
    """
    masks, planes = read_masks(case, cfg, inverted, shape)
    annotated = [mask is not None for mask in masks]
    if cfg.task == "multiclass":
        annotated = _annotated(case, cfg)
    decodings = [mask.decoding if mask else "" for mask in masks]
    return planes, annotated, decodings, [inverted_flags(mask) for mask in masks]


def read_masks(
    case: Any, cfg, inverted: dict[str, bool], shape: tuple[int, int]
) -> tuple[list[mask_pixels.Mask | None], np.ndarray]:
    """The masks of a case as they were decoded, None without a file, and as one array (H, W, K).

    Arguments and errors are those of `read_truth`.
    """
    if cfg.task == "multiclass":
        mask = _read_label_map(case, cfg)
        return [mask], mask.pixels[..., None]
    masks: list[mask_pixels.Mask | None] = []
    for name in cfg.class_names:
        has_mask = bool(case[name])
        masks.append(read_mask(case, name, cfg, inverted.get(name, False)) if has_mask else None)
    shapes = {mask.pixels.shape for mask in masks if mask}
    if len(shapes) > 1:
        sizes = ", ".join(
            f"{case[name]} {'x'.join(map(str, mask.pixels.shape))}"
            for name, mask in zip(cfg.class_names, masks)
            if mask
        )
        raise DataError(
            f"{case['case']}: its masks have different sizes {sorted(shapes)}; "
            f"expected one for all classes: {sizes}"
        )
    blank = np.full(shapes.pop() if shapes else shape, images.IGNORE, np.uint8)
    return masks, np.stack([mask.pixels if mask else blank for mask in masks], axis=-1)


def content(case: dict, image: np.ndarray) -> tuple[str, str]:
    """Two hashes of a case: of its file, and of its pixels (H, W, C), without other slices.

    Equal images have the same second hash, even if they were saved in different formats. For a
    slice of a volume, whose file holds many slices, both hashes are of the pixels.
    """
    in_volume = volumes.is_volume(case["image"])
    # Uniform slices (such as air) are equal without being copies: their names make them differ.
    salt = case["case"] if in_volume and image.min() == image.max() else ""
    pixels = hashlib.sha256(f"{image.shape}{salt}".encode() + image.tobytes()).hexdigest()
    if in_volume:
        return pixels, pixels
    hashes = [images.sha256(file) for file in channels.files(case["image"])]
    sha256 = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return sha256, pixels


def edge_agreement(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How well the edges of the masks lie on edges of the image, for each way of `TURNS`.

    Args:
        image: (H, W, C) uint8; masks: (H, W, K) uint8.

    Returns:
        (2, len(TURNS)): sums of image gradients along the masks' edges, and the variances of their
        differences from the first sum; both can be added over the slices of a volume. Zeros where
        there is too little to compare. A variance is the sum of squared differences in the cells of
        a grid, as neighbouring pixels of an edge often lie on one edge of the image.
    """
    step = max(1, min(image.shape[:2]) // 128)  # a coarse grid is faster and shows organs as well
    grey = image[::step, ::step].mean(axis=2, dtype=np.float32)
    planes = masks[::step, ::step]
    result = np.zeros((2, len(TURNS)))
    if min(grey.shape) < 8:
        return result
    # An edge: a pixel whose class differs from that of its neighbour below or to the right.
    down = planes[1:, :-1] != planes[:-1, :-1]
    across = planes[:-1, 1:] != planes[:-1, :-1]
    edge = (down | across).any(axis=2)
    if edge.sum() < 20:
        return result
    rows, columns = (np.arange(side) * N_EDGE_CELLS // side for side in edge.shape)
    cells = np.where(edge, rows[:, None] * N_EDGE_CELLS + columns + 1, 0)  # 0: no edge
    gradient = np.hypot(*np.gradient(grey))
    # The steepest 5 % of the pixels count equally, so that a single bright rim does not decide.
    gradient = np.minimum(gradient, np.percentile(gradient, 95))[:-1, :-1]
    by_cell = np.zeros((len(TURNS), N_EDGE_CELLS**2 + 1))
    for k, transform in enumerate(TURNS.values()):
        turned = transform(cells)
        if turned.shape == gradient.shape:
            by_cell[k] = np.bincount(turned.ravel(), gradient.ravel(), by_cell.shape[1])
    by_cell = by_cell[:, 1:]
    result[0] = by_cell.sum(axis=1)
    result[1] = ((by_cell - by_cell[0]) ** 2).sum(axis=1)
    return result


def warnings_of(case: dict, cfg, image: np.ndarray, masks: np.ndarray) -> dict[str, str]:
    """Warnings about pixels that may be right but usually are a mistake.

    Args:
        image: (H, W, C) uint8; masks: (H, W, K) uint8.

    Returns:
        Warning -> name of the file that it is about. For a volume, `checks` takes up a warning only
        where all slices have it.
    """
    warnings = {}
    in_volume = volumes.is_volume(case["image"])
    if image.min() == image.max():
        # The voxels of a volume are windowed by now, so that their value would tell nothing.
        alike = "all voxels are alike" if in_volume else f"every pixel is {image.min()}"
        warnings[f"{alike}: nothing can be seen; export it again"] = case["image"]
    if in_volume and not is_exact(case):
        warnings |= _notes_of_labels(case, cfg)
    elif not in_volume:
        warnings |= _notes_of_pictures(case, cfg)
    if cfg.task == "multiclass":
        warning = _warning_of_labels(case, cfg, masks)
        if warning:
            warnings[warning] = case["labels"]
    return {text: os.path.basename(channels.first_file(path)) for text, path in warnings.items()}


def _notes_of_labels(case: dict, cfg) -> dict[str, str]:
    """Note -> path, for what is odd about the place of a volume's labels."""
    paths = [path for column in cfg.mask_columns for path in _mask_files(case, column)]
    notes: dict[str, str] = {}
    for path in paths:
        texts = volumes.notes_on_labels(_first_channel(case), path, cfg)
        if segments.kind_of(path):
            class_of = _class_of_segments(path, case, cfg)
            texts += volumes.read_segments(_first_channel(case), path, cfg, class_of).notes
        for text in texts:
            notes.setdefault(text, path)
    return notes


def _mask_files(case: dict, column: str) -> list[str]:
    """The mask files that a cell of the case table names."""
    return [path for path in (case.get(column) or "").split(mask_pixels.UNION) if path]


def _notes_of_pictures(case: dict, cfg) -> dict[str, str]:
    """Note -> path, for what is odd about the picture files of a case.

    A note that image and mask share is given for the image alone.
    """
    masks = [path for column in cfg.mask_columns for path in _mask_files(case, column)]
    masks = [path for path in masks if os.path.isfile(path)]
    image = channels.first_file(case["image"])
    header = codecs.header(image)
    notes = dict.fromkeys(header.notes, image)
    for path in masks:
        of_mask = codecs.header(path)
        for text in of_mask.notes:
            if not text.endswith(codecs.OF_IMAGES):
                notes.setdefault(text, path)
        if of_mask.orientation != header.orientation:
            text = (
                f"its orientation tag is {of_mask.orientation} and that of its image is "
                f"{header.orientation} (1: not turned), so viewers show them differently; here "
                "both are used as they are stored: check that they lie on each other, and save "
                "both without the tag"
            )
            notes.setdefault(text, path)
    return notes


def _warning_of_labels(case: dict, cfg, masks: np.ndarray) -> str:
    """A warning where label numbers seem to be shifted by one, else "".

    Only where all classes are annotated, since otherwise much of the mask is ignored on purpose.
    """
    annotated = str(case.get("annotated", ",".join(cfg.class_names))).split(",")
    if not set(annotated) >= set(cfg.class_names):
        return ""
    valid = masks != images.IGNORE
    if valid.mean() < 0.5:
        return (
            "more than half of it is 255, which is ignored; if that is the background, are its "
            "numbers shifted by one? Correct them, or set label_map"
        )
    if volumes.is_volume(case["image"]) and (masks[valid] > 0).all():
        return (
            "no background (0) anywhere; are its numbers shifted by one? "
            "Correct them, or set label_map"
        )
    return ""


def _read_label_map(case: Any, cfg) -> mask_pixels.Mask:
    """The class numbers (H, W) of a case; pixels of classes that are not annotated are ignored."""
    if not case["labels"]:
        raise DataError(
            f"{case['case']}: no label map; a multiclass image without labels cannot be used"
        )
    mask = _read_labels(case, cfg)
    if "annotated" in case:
        # A pixel of a class that is not annotated may belong to any of those, so it is ignored.
        annotated = np.flatnonzero(_annotated(case, cfg))
        mask.pixels[~np.isin(mask.pixels, annotated)] = images.IGNORE
    return mask


def _annotated(case: Any, cfg) -> list[bool]:
    """For each class of a label map whether it is annotated in this case; by default all are."""
    if "annotated" not in case:
        return [True] * cfg.n_classes
    names = str(case["annotated"]).split(",")
    return [name in names for name in cfg.class_names]


def _structure(
    path: str, plane: np.ndarray, largest: int, case: Any, cfg
) -> tuple[np.ndarray, int]:
    """One slice of a label map as 0 and 1, and the one number that the file has beside 0.

    That number is 0 where a setting says which numbers are meant, or in a slice without any.

    Args:
        largest: the largest number in its volume.

    Raises:
        DataError: there are several numbers, and no setting says which are the structure.
    """
    label_map, complete = _label_map(case, cfg)
    if label_map:
        return mask_pixels.map_numbers(path, plane, 2, label_map, complete).pixels, 0
    foreground = plane > 0
    if cfg.mask_encoding in ("index", "threshold"):
        return foreground.astype(np.uint8), 0
    if (plane[foreground] == largest).all():
        return foreground.astype(np.uint8), largest if foreground.any() else 0
    raise DataError(
        f"{path}: several label numbers up to {largest}, but the mask of one class has one; set "
        f"label_map, for example {{'{largest}': 1}}, or mask_encoding='index', which takes all "
        "numbers above 0"
    )


def _class_of_segments(path: str, case: Any, cfg) -> dict[int, int]:
    """Number of a segment -> class, from 1, of a file of named segments.

    Raises:
        DataError: neither names nor a setting say which segments are meant.
    """
    table, _ = _label_map(case, cfg)
    if table:
        return {int(number): label for number, label in table.items()}
    named = segments.segments(path)
    takes_all = len(named) == 1 or cfg.mask_encoding in ("index", "threshold")
    if cfg.task == "binary" and takes_all:
        return {segment.number: 1 for segment in named}
    if cfg.task == "multiclass" and all(segment.number < cfg.n_classes for segment in named):
        return {segment.number: segment.number for segment in named}
    names = ", ".join(f"{segment.number} {segment.name}" for segment in named[:12])
    raise DataError(
        f"{path}: its segments are {names}; set label_map, with the class of each number, such as "
        f'{{"{named[0].number}": 1}}'
    )


def _segment_plane(path: str, name: str, case: Any, cfg) -> np.ndarray:
    """The mask (H, W) of one class in one slice of a file of named segments."""
    class_of = _class_of_segments(path, case, cfg)
    planes = volumes.read_segments(_first_channel(case), path, cfg, class_of)
    position = cfg.class_names.index(name)
    return (_slice(case, planes.bits) >> position & 1).astype(np.uint8)


def _label_map(case: Any, cfg) -> tuple[dict[str, int], bool]:
    """Number in the file -> class, {} where both are the same; and whether it names all numbers.

    The cell `label_numbers` says where it comes from: see `layouts.numbers`.
    """
    cell = case.get("label_numbers", "")
    if cell == "class":
        return {}, False
    if cell:
        return json.loads(cell), True
    if cfg.task != "multiclass" and not set(cfg.label_map.values()) <= {0, 1, images.IGNORE}:
        # The table of a preset for several classes cannot tell which structure a mask shows. Masks
        # of pictures are read without it; those of volumes are refused by `_structure`.
        if not volumes.is_volume(case["image"]):
            return {}, False
    return cfg.label_map, False


def _read_labels(case: Any, cfg) -> mask_pixels.Mask:
    """The label map of a case as class numbers (H, W)."""
    if is_exact(case):
        return mask_pixels.Mask(read_exact(case["labels"], cfg.n_classes - 1), EXACT_DECODING)
    label_map, complete = _label_map(case, cfg)
    path, n_classes = case["labels"], cfg.n_classes
    if not volumes.is_volume(case["image"]):
        return mask_pixels.read_labels(path, cfg.mask_encoding, n_classes, label_map, complete)
    if segments.kind_of(path):
        class_of = _class_of_segments(path, case, cfg)
        planes = volumes.read_segments(_first_channel(case), path, cfg, class_of)
        if planes.clash:
            raise DataError(planes.clash)
        return mask_pixels.Mask(_slice(case, planes.labels).copy(), "named segments")
    labels = volumes.read_labels(_first_channel(case), path, cfg)
    plane = _slice(case, labels)
    if volumes.is_organ_folder(path):
        # A copy, because cached volumes are read-only and the caller may change the pixels.
        return mask_pixels.Mask(plane.copy(), "a mask file an organ")
    if cfg.mask_encoding == "threshold" and n_classes == 2:
        return mask_pixels.Mask((plane > 0).astype(np.uint8), "above 0")
    # The whole volume decides what 255 means in its slices; most volumes have none.
    of_volume = labels if n_classes == 2 and (plane == images.IGNORE).any() else None
    return mask_pixels.map_numbers(path, plane, n_classes, label_map, complete, of_volume)


def _first_channel(case: Any) -> str:
    """The channel of a case on whose grid its labels lie."""
    return channels.split(case["image"])[0]


def _slice(case: Any, volume: np.ndarray) -> np.ndarray:
    """The slice (H, W) of a volume (S, H, W) that the case is."""
    return volume[_slice_number(case, volume)]


def _slice_number(case: Any, volume: np.ndarray) -> int:
    """The number of the slice of a volume (S, ...) that the case is.

    Raises:
        DataError: the cell `slice` holds no number of a slice.
    """
    number = str(case["slice"])
    if not number.isdigit() or int(number) >= len(volume):
        raise DataError(
            f"{case['case']}: no slice {case['slice']!r} in {case['image']}, "
            f"which has {len(volume)}; scan it again"
        )
    return int(number)


def inverted_flags(mask: mask_pixels.Mask | None) -> tuple[bool, bool]:
    """Whether a mask, and its negative, look inverted."""
    # What a corrected mask holds is certain, so that it does not vote.
    if mask is None or mask.decoding == EXACT_DECODING:
        return False, False
    return mask.looks_inverted, mask_pixels.looks_inverted(1 - mask.pixels)
