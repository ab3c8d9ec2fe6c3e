"""Classes that have a mask folder or a mask file of their own: they may overlap."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import meanings, tables
from ..errors import DataError, listed
from ..formats import (
    legends,
    mask_names,
    mask_pixels,
    mask_values,
    nifti,
    segments,
    volumes,
)
from ..formats.slicer import Segment
from . import named, numbers, pairing, remembered
from .classes import (
    MOST_CLASSES,
    MOST_PICTURES,
    SHARE,
    Classes,
    Reading,
    safe_name,
    spread,
    two_readings,
)

MOST_COMPARED = 8  # so many images show whether two classes overlap
MOST_FOLDERS = 8  # so many folders with a file for each organ are read
# The file that keeps the sizes of structures in masks, and its first line.
_KEPT, _FORM = "mask_sizes.txt", "pixels of masks, form 1"
# The same for the masks that are compared in pairs.
_KEPT_PAIRS, _FORM_OF_PAIRS = "mask_pairs.txt", "pixels of pairs of masks, form 1"
# Two masks of an image that agree by this Dice, none inside the other, are of two readers.
READERS_AGREE, INSIDE = 0.7, 0.97


# ---- a folder of volumes with a file for each organ


def of_organs(folders: Iterable[str], cfg: Any) -> Classes | None:
    """The classes of label folders that hold a volume for each organ, as TotalSegmentator's do.

    They exclude each other where no voxel of the first folders belongs to two of them.
    """
    paths = list(dict.fromkeys(folders))
    files: dict[str, list[str]] = {}
    for folder in paths:
        for file in sorted(Path(folder).glob("*.nii*")):
            files.setdefault(nifti.stem(file), []).append(folder)
    names = tuple(files)
    if not names or "class_names" in cfg.chosen or len(names) > MOST_CLASSES:
        return None
    pixels, n_voxels, overlaps = Counter(), 0, False
    for folder in paths[:MOST_FOLDERS]:
        of_organ = volumes.organ_files(folder, names)
        planes = {name: volumes.read_numbers(own[0]) > 0 for name, own in of_organ.items()}
        if len({plane.shape for plane in planes.values()}) > 1:
            return None  # preparation says which of them differs
        overlaps |= bool((np.sum(list(planes.values()), axis=0, dtype=np.int32) > 1).any())
        pixels.update({name: int(plane.sum()) for name, plane in planes.items()})
        n_voxels += next(iter(planes.values())).size
    rows = [
        {
            "class": name,
            "in the files": f"{name}.nii*",
            "volumes": len(files[name]),
            SHARE: pixels[name] / max(n_voxels, 1),
        }
        for name in names
    ]
    about, settings = _overlapping_or_not(names, overlaps, "a file an organ")
    n_read = min(len(paths), MOST_FOLDERS)
    return Classes(about, settings, pd.DataFrame(rows), n_read, len(paths))


def of_segments(image_of: Mapping[str, str], cfg: Any) -> Classes | None:
    """The classes of files of named segments, such as those of 3D Slicer; see `formats.segments`.

    Args:
        image_of: file of segments -> its volume.
    """
    if "class_names" in cfg.chosen:
        return None
    try:
        of_file = {path: segments.segments(path) for path in image_of}
    except DataError:
        return None  # preparation says what is wrong with which file
    # Files may spell a name differently: the first spelling names the class.
    spellings: dict[str, str] = {}
    for segment in itertools.chain(*of_file.values()):
        spellings.setdefault(numbers.words(segment.name), safe_name(segment.name))
    spellings.pop(legends.BACKGROUND, None)
    if not spellings:
        return None
    names, keys = tuple(spellings.values()), list(spellings)
    of_path = {path: _numbers_by_words(own, keys) for path, own in of_file.items()}
    voxels, n_voxels, overlaps = Counter(), 0, False
    for path in list(of_file)[:MOST_FOLDERS]:
        class_of = of_path[path]
        try:
            grid = volumes.read_grid(image_of[path], **volumes.options(cfg))
            bits = segments.read(grid, path, class_of).bits
        except DataError:
            continue
        n_voxels += bits.size
        sums = np.zeros(bits.shape, np.uint8)
        for k, name in enumerate(names[: 8 * bits.itemsize]):
            own = (bits >> bits.dtype.type(k)) & bits.dtype.type(1) == 1
            sums += own
            voxels[name] += int(own.sum())
        overlaps |= bool((sums > 1).any())
    rows = [
        {
            "class": name,
            "in the files": "a segment",
            "volumes": sum(k in class_of.values() for class_of in of_path.values()),
            SHARE: voxels[name] / max(n_voxels, 1),
        }
        for k, name in enumerate(names, start=1)
    ]
    about, settings = _overlapping_or_not(names, overlaps, "named segments")
    n_read = min(len(of_file), MOST_FOLDERS)
    return Classes(about, settings, pd.DataFrame(rows), n_read, len(of_file))


def _numbers_by_words(named_segments: Iterable[Segment], keys: list[str]) -> dict[int, int]:
    """Number of a segment -> its class from 1, by the words of its name; others are left out."""
    key_of = {segment.number: numbers.words(segment.name) for segment in named_segments}
    return {number: keys.index(key) + 1 for number, key in key_of.items() if key in keys}


def _overlapping_or_not(
    names: tuple[str, ...], overlaps: bool, how: str
) -> tuple[str, dict[str, Any]]:
    """The words and the settings of classes of which it is known whether they overlap."""
    if len(names) == 1:
        return "one structure", {"class_names": names}
    if overlaps:
        settings = {"task": "multilabel", "class_names": names}
        return f"{len(names)} classes that overlap, {how}", settings
    settings = {"task": "multiclass", "class_names": (legends.BACKGROUND, *names)}
    return f"{len(names)} classes that exclude each other, {how}", settings


# ---- a mask folder or a mask file for each class


def of_files(root: Path, cfg: Any) -> Classes | None:
    """The classes of pictures with a mask folder or a mask file a class; None without such.

    Raises:
        DataError: the folders may hold the masks of several readers, or the masks can be read in
            two ways.
    """
    masks: dict[str, dict[Path, list[Path]]]
    for find, where in ((_by_folder, "a mask folder a class"), (_by_suffix, "a mask file a class")):
        masks = {}
        for folder, mask_folder in _pairs(root):
            for name, of_image in find(pairing.pictures(folder), mask_folder).items():
                masks.setdefault(name, {}).update(of_image)
        if masks:
            return _of_several_files(masks, cfg, root, where)
    return None


def of_names(root: Path, cfg: Any) -> Classes | None:
    """The classes of pictures whose masks only their names tell, see `named`; None without names.

    Raises:
        DataError: as `of_files`.
    """
    masks: dict[str, dict[Path, list[Path]]] = {}
    for part in named.parts(root):
        for name, of_image in part.masks.items():
            files = {part.images[stem]: paths for stem, paths in of_image.items()}
            masks.setdefault(name, {}).update(files)
    if not masks or "" in masks:
        return None
    return _of_several_files(masks, cfg, root, "a mask file a class")


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """The pairs of folders of images and masks at the root and one level below."""
    return [
        (folder / images_name, folder / masks_name)
        for folder in pairing.folders(root, depth=1)
        for images_name, masks_name in tables.PAIRS_OF_FOLDERS
        if (folder / images_name).is_dir() and (folder / masks_name).is_dir()
    ]


def _by_folder(pictures: dict[str, Path], folder: Path) -> dict[str, dict[Path, list[Path]]]:
    """Class -> image -> its masks, of the folders in a mask folder that hold masks of images."""
    if pairing.masks_by_image(pictures, pairing.pictures(folder)).of_image:
        return {}
    result = {}
    for sub in pairing.subfolders(folder):
        of_image = pairing.masks_by_image(pictures, pairing.pictures(sub)).of_image
        if of_image:
            result[sub.name] = {pictures[stem]: masks for stem, masks in of_image.items()}
    return result


def _by_suffix(pictures: dict[str, Path], folder: Path) -> dict[str, dict[Path, list[Path]]]:
    """Class -> image -> its masks, of masks whose names go on with the class: x_disc, x_cup.

    {} where masks have one of the usual endings, or where a class has masks of few images.
    """
    owners, masks = mask_names.Owners(pictures), pairing.pictures(folder)
    by_suffix: dict[str, dict[Path, list[Path]]] = {}
    for stem, mask in masks.items():
        image, suffix = owners.of(stem)
        if image is None:
            continue
        if not pairing.class_of_suffix(suffix):
            return {}
        by_suffix.setdefault(suffix, {}).setdefault(pictures[image], []).append(mask)
    # Numbers tell apart classes where most images have them all, else the objects of a class.
    n_most = max((len(of_image) for of_image in by_suffix.values()), default=0)
    if any(len(of_image) < n_most / 4 for of_image in by_suffix.values()):
        by_suffix = _without_numbers(by_suffix)
    result: dict[str, dict[Path, list[Path]]] = {}
    for suffix, of_image in by_suffix.items():
        name = pairing.class_of_suffix(suffix)
        if name in result or len(by_suffix) > MOST_CLASSES:
            return {}
        result[name] = of_image
    return result


def _without_numbers(
    by_suffix: dict[str, dict[Path, list[Path]]],
) -> dict[str, dict[Path, list[Path]]]:
    """The masks by their suffixes without the numbers behind them."""
    united: dict[str, dict[Path, list[Path]]] = {}
    for suffix, of_image in by_suffix.items():
        own = united.setdefault(mask_names.without_number(suffix), {})
        for image, masks in of_image.items():
            own.setdefault(image, []).extend(masks)
    return united


def _of_several_files(
    masks: dict[str, dict[Path, list[Path]]], cfg: Any, root: Path, where: str
) -> Classes | None:
    """The classes of masks that each have their own files."""
    chosen = cfg.class_names if "class_names" in cfg.chosen else ()
    names = tuple(chosen or (name for name in masks))
    if chosen and not {name.lower() for name in chosen} <= {name.lower() for name in masks}:
        return None  # the layout says which folder is missing
    if len(names) > MOST_CLASSES:
        return None
    of_class = {name.lower(): of_image for name, of_image in masks.items()}
    settings: dict[str, Any] = {"task": "multilabel", "class_names": names}
    if len(names) == 1:
        settings["task"] = "binary"
    n_masks = sum(len(files) for of_image in masks.values() for files in of_image.values())
    shown, n_read = [], 0
    for name in names:
        files = of_class[name.lower()]
        cells = [mask_pixels.UNION.join(map(str, paths)) for paths in files.values()]
        sizes = _sizes(spread(cells, MOST_PICTURES), cfg)
        read = [size for size in sizes if size]
        if len(read) < (1 - meanings.MAX_SET_ASIDE) * len(sizes):
            _ask_how_to_cut(root, settings, cells, cfg)
            return None
        n_read += len(read)
        n_own, n_pixels = np.sum(read, axis=0, dtype=np.int64) if read else (0, 0)
        share = n_own / max(n_pixels, 1)
        first = next(iter(files.values()))[0]
        has_own_folder = first.parent.name.lower() == name.lower()
        place = first.parent.name if has_own_folder else f"*{name}*{first.suffix}"
        shown.append({"class": name, "in the files": place, "images": len(files), SHARE: share})
    notes = _notes_on_pairs({name: of_class[name.lower()] for name in names}, cfg, root)
    about = f"{len(names)} classes that may overlap, {where}" if len(names) > 1 else "one structure"
    return Classes(about, settings, pd.DataFrame(shown), n_read, n_masks, notes)


def _sizes(cells: list[str], cfg: Any) -> list[tuple[int, int] | None]:
    """Of each mask the pixels of its class, and all of its pixels; None where it is unreadable.

    Those of many masks are remembered for the next scan.
    """

    def read(key: tuple[str, str]) -> tuple[int, int] | None:
        plane = _read_one(key[0], cfg)
        return None if plane is None else (int((plane == 1).sum()), plane.size)

    how = repr((cfg.mask_encoding, cfg.label_map))
    masks_of = {(cell, how): cell for cell in cells}
    return list(remembered.results(masks_of, read, cfg, _KEPT, _FORM).values())


def _read_one(cell: str, cfg: Any) -> np.ndarray | None:
    """The mask of one class, (H, W) of 0 and 1; None where it cannot be read."""
    try:
        return mask_pixels.read_mask(cell, cfg.mask_encoding, False, cfg.label_map).pixels
    except (DataError, OSError):
        return None


def _ask_how_to_cut(root: Path, settings: dict[str, Any], cells: list[str], cfg: Any) -> None:
    """Raise `DataError` where the masks of a class are drawn in greys."""
    if cfg.mask_encoding != "auto":
        return
    values = [mask_values.read(path) for path in cells[0].split(mask_pixels.UNION)]
    greys = sorted({v for file in values for v in file.counts if isinstance(v, int)})
    if len(greys) < 3:
        return
    raise two_readings(
        root,
        f"{Path(cells[0]).name} is drawn in the grey values {listed(greys, most=8)}",
        Reading("the structure is half and more", {**settings, "mask_encoding": "threshold"}),
        Reading("the structure is all above 0", {**settings, "mask_encoding": "index"}),
    )


def _overlap(
    first: dict[Path, list[Path]], second: dict[Path, list[Path]], cfg: Any
) -> tuple[int, int, int]:
    """Pixels of both of two classes, of the first and of the second, in some images that have both.

    Of many masks, the numbers are remembered for the next scan.
    """

    def read(key: tuple[str, str, str]) -> tuple[int, int, int] | None:
        one, two = (_read_one(cell, cfg) for cell in key[:2])
        if one is None or two is None or one.shape != two.shape:
            return None
        return int(((one == 1) & (two == 1)).sum()), int((one == 1).sum()), int((two == 1).sum())

    how = repr((cfg.mask_encoding, cfg.label_map))
    masks_of = {}
    for image in [image for image in first if image in second][:MOST_COMPARED]:
        cells = tuple(mask_pixels.UNION.join(map(str, masks[image])) for masks in (first, second))
        masks_of[*cells, how] = mask_pixels.UNION.join(cells)
    keep = max(len(first), len(second)) >= remembered.KEPT_FROM
    counts = remembered.results(masks_of, read, cfg, _KEPT_PAIRS, _FORM_OF_PAIRS, keep)
    both, n_first, n_second = np.sum([(0, 0, 0), *filter(None, counts.values())], axis=0)
    return both, n_first, n_second


def _notes_on_pairs(
    masks: dict[str, dict[Path, list[Path]]], cfg: Any, root: Path
) -> tuple[str, ...]:
    """Which class lies inside which other one.

    Raises:
        DataError: two classes are so alike that they may be one, drawn by two readers.
    """
    notes = []
    for first, second in itertools.combinations(masks, 2):
        both, n_first, n_second = _overlap(masks[first], masks[second], cfg)
        if both and both >= INSIDE * min(n_first, n_second):
            inner, outer = (first, second) if n_first < n_second else (second, first)
            notes.append(f"{inner} lies inside {outer}: each pixel may belong to both")
        elif both and 2 * both / (n_first + n_second) > READERS_AGREE:
            raise two_readings(
                root,
                f"the masks of {first} and {second} are alike (Dice "
                f"{2 * both / (n_first + n_second):.2f}), as those of two readers are",
                Reading("two classes", {"task": "multilabel", "class_names": tuple(masks)}),
                Reading(f"one structure, drawn by {first}", {"class_names": (first,)}),
            )
    return tuple(notes)
