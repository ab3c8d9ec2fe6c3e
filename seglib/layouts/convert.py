"""Convert a data set to the folders `images` and `masks` that `folders.scan_images_masks` reads.

Masks of one structure become 0 and 255, those of several classes label maps of class numbers.
`data/README.md` names the data sets that need this.
"""

import filecmp
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import config, files, hosts, meanings, tables
from ..annotations import shapes
from ..errors import ConfigError, DataError, listed
from ..formats import images, legends, mask_names, mask_pixels
from ..tables import IGNORE
from . import class_values, pairing
from .classes import safe_name

# Formats that only this module reads: such images are written anew as PNG.
FOREIGN_SUFFIXES = (".webp", ".ppm", ".pgm", ".tga", ".jp2")


class Pairing(NamedTuple):
    """Which masks belong to which image.

    Attributes:
        pairs: name -> the image and the files of its mask.
        without_mask: file names of images without a mask.
        left_out: file names of masks without an image or with another suffix.
    """

    pairs: dict[str, tuple[Path, list[Path]]]
    without_mask: list[str]
    left_out: list[str]

    @property
    def united(self) -> list[str]:
        """The names of images with several mask files."""
        return [name for name, (_, mask_files) in self.pairs.items() if len(mask_files) > 1]


class Conversion(NamedTuple):
    """What `to_images_and_masks` did.

    Attributes:
        pairs: the number of pairs that are in the output now.
        without_mask, left_out, united: as in `Pairing`.
        decoded: how their masks were decoded -> how many of them.
        inverted: the number of masks that look inverted.
        problems: a message for each pair that was left out.
        class_names: the classes of the label maps that were written, with the background; () where
            the masks are 0 and 255.
        notes: what was concluded from all masks together, see `meanings`, and what is odd about
            files, each with the names of the first of them.
        has_ignored: whether a label map has pixels of 255 = ignored.
    """

    pairs: int
    without_mask: list[str]
    left_out: list[str]
    united: list[str]
    decoded: dict[str, int]
    inverted: int
    problems: list[str]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_ignored: bool = False

    def labels(self) -> dict[str, int]:
        """Name -> number in the label maps that were written."""
        labels = {name: number for number, name in enumerate(self.class_names)}
        return labels | ({shapes.IGNORED: IGNORE} if self.has_ignored else {})

    def text(self) -> str:
        """The summary in a few lines."""
        decoded = "; ".join(f"{decoding} ({n})" for decoding, n in self.decoded.items()) or "none"
        lines = [
            f"images with mask: {self.pairs}",
            f"images without mask, left out: {_examples(self.without_mask)}",
            f"masks without image, or of another suffix, left out: {_examples(self.left_out)}",
            f"images with several mask files, which were united: {_examples(self.united)}",
            f"masks decoded by: {decoded}",
        ]
        if self.class_names:
            numbers = ", ".join(f"{k} {name}" for k, name in enumerate(self.class_names))
            ignored = ", 255 ignored" if self.has_ignored else ""
            lines.append(f"masks written as label maps: {numbers}{ignored}")
        lines += [f"note: {note}" for note in self.notes]
        if self.inverted:
            lines.append(
                f"masks with a foreground border: {self.inverted}; if 0 is the structure, set "
                "mask_inverted"
            )
        return "\n".join(lines)


def to_images_and_masks(
    source_images: str | Path,
    source_masks: str | Path | None,
    output: str | Path,
    image_suffix: str = "",
    mask_suffix: str | None = None,
    encoding: str | dict[str, int] = "auto",
    inverted: bool = False,
    class_names: Iterable[str] = (),
    label_map: dict[str, int] | None = None,
) -> Conversion:
    """Write `output/images/<name>` (copied unchanged) and `output/masks/<name>.png`.

    Masks are 0 and 255. With two or more `class_names`, a table with several class numbers, or
    masks that show several classes by themselves, they are label maps that hold the class numbers,
    and `output/dataset.json` has the names. Images in formats that training does not read become
    PNG. Orientation tags are kept, of masks too.

    A pair that cannot be read, or whose target already has another content, is left out and named
    in `problems`; nothing is ever overwritten.

    Args:
        source_images: folder of the images, or of folders `<name>/images` with one image each.
        source_masks: folder of the masks; None: that of the images. For folders `<name>/images`,
            the mask is the union of all files in `<name>/masks` below it.
        image_suffix: what follows the name in image files: "_image", or ".jpg" to take files of
            one format.
        mask_suffix: the same for masks; None: what the names of all masks share. Masks that differ
            only in a number behind it are united.
        encoding, inverted, label_map: how masks are read, see `mask_pixels.read_mask` and
            `mask_pixels.read_labels`.
        class_names: with the background first; by default class_1, class_2 ... for a table. Where
            nothing says how masks are read, their values and the lists beside them do.

    Raises:
        DataError: a folder is missing, which mask belongs to which image is not clear, or the masks
            together may hold several classes and no setting says which.
        ConfigError: the settings do not fit together.
    """
    output = Path(output)
    names = tuple(class_names)
    cfg = _settings(encoding, inverted, names, label_map or {})
    paired = _pair(
        Path(source_images), Path(source_masks or source_images), image_suffix, mask_suffix
    )
    if encoding == "auto" and not (inverted or label_map or len(cfg.class_names) == 1 and names):
        cfg = _understood(paired, Path(source_masks or source_images), names) or cfg
    # All masks are decoded before the first is written, because only together they show whether
    # their values are those of one structure.
    facts = in_threads(lambda name: _facts(*paired.pairs[name], cfg), paired.pairs)
    problems, notes = _judge(paired, facts, cfg)
    usable = {name: pair for name, pair in paired.pairs.items() if name not in problems}
    problems |= _write_pairs(usable, output, cfg)
    conversion = _summary(paired, facts, problems, notes, cfg)
    if conversion.pairs and conversion.class_names:
        write_names(output, {"labels": conversion.labels(), "task": cfg.task})
    return conversion


def _summary(
    paired: Pairing,
    facts: list[dict[str, Any]],
    problems: dict[str, str],
    notes: tuple[str, ...],
    cfg: config.Config,
) -> Conversion:
    """What was done with the pairs; `problems` has the reason for each that was left out."""
    written = [fact for name, fact in zip(paired.pairs, facts) if name not in problems]
    return Conversion(
        pairs=len(written),
        without_mask=paired.without_mask,
        left_out=paired.left_out,
        united=paired.united,
        decoded=dict(Counter(fact["masks"][0]["decoding"] for fact in written)),
        inverted=sum(fact["looks_inverted"] for fact in written),
        problems=[problems[name] for name in paired.pairs if name in problems],
        class_names=cfg.class_names if cfg.task == "multiclass" else (),
        notes=(*notes, *_notes_on_files(written)),
        has_ignored=any(fact["has_ignored"] for fact in written),
    )


def _notes_on_files(facts: Iterable[dict[str, Any]]) -> list[str]:
    """The notes on files, each with the names of the first of them."""
    names: dict[str, list[str]] = {}  # note -> files
    for file_name, note in (pair for fact in facts for pair in fact["notes"]):
        names.setdefault(note, []).append(file_name)
    return [f"{_examples(of_note)}: {note}" for note, of_note in names.items()]


def _write_pairs(
    pairs: dict[str, tuple[Path, list[Path]]], output: Path, cfg: config.Config
) -> dict[str, str]:
    """Write images and masks; name -> reason, of the pairs for which it could not be done."""
    # An earlier image of the same name may have another suffix: it would become a second case.
    earlier = {file.stem: file.name for file in (output / "images").glob("*")}
    reasons = in_threads(
        lambda name: _write_pair(name, pairs[name], output, earlier.get(name), cfg), pairs
    )
    return {name: reason for name, reason in zip(pairs, reasons) if reason}


def _write_pair(
    name: str, pair: tuple[Path, list[Path]], output: Path, earlier: str | None, cfg: config.Config
) -> str:
    """Write image and mask of a pair; the reason why it could not be done, "" where it was."""
    image, mask_files = pair
    try:
        pixels = _read(mask_files, cfg).pixels
        write_image(image, output / "images", name, earlier)
        scale = 1 if cfg.task == "multiclass" else 255
        tag = images.exif_orientation(mask_files[0])
        write_png(output / "masks" / f"{name}.png", pixels * np.uint8(scale), tag)
    except DataError as error:
        return str(error)
    return ""


# ---- what the masks hold


def _settings(
    encoding: str | dict[str, int],
    inverted: bool,
    class_names: tuple[str, ...],
    label_map: dict[str, int],
) -> config.Config:
    """A config of one structure, or of several classes, by which the masks are read.

    Raises:
        ConfigError: the settings do not fit together.
    """
    table = encoding if isinstance(encoding, dict) else label_map
    numbers = [number for number in table.values() if number != IGNORE]
    if not class_names and max(numbers, default=0) > 1:
        class_names = ("background", *(f"class_{k}" for k in range(1, max(numbers) + 1)))
    fields = {"mask_encoding": encoding, "label_map": label_map}
    if class_names:
        fields["class_names"] = class_names
    if len(class_names) < 2:
        return config.preset("binary", mask_inverted=inverted, **fields)
    if inverted:
        raise ConfigError(
            f"mask_inverted: it is for masks of one structure, and class_names has "
            f"{len(class_names)} names; leave it out"
        )
    return config.preset("cardiac", **fields)


def _understood(paired: Pairing, masks: Path, class_names: tuple[str, ...]) -> config.Config | None:
    """The config by which masks of several classes are read; None where they show one structure.

    Args:
        class_names: those of the user, if any.

    Raises:
        DataError: the masks can be read in two ways, or the lists beside them lack a value.
    """
    cells = [mask_pixels.UNION.join(map(str, files)) for _, files in paired.pairs.values()]
    chosen = {"class_names": class_names} if class_names else {}
    understood = class_values.of_masks(cells, config.preset("binary", **chosen), masks)
    if understood is None or understood.settings.get("task") != "multiclass":
        return None
    names = understood.settings["class_names"]
    encoding = understood.settings.get("mask_encoding", "auto")
    label_map = understood.settings.get("label_map", {})
    legend = legends.of_data_set(cells[0].split(mask_pixels.UNION)[0])
    if encoding == "auto" and legend:
        label_map = _numbers_of(legend, names)
    return _settings(encoding, False, names, label_map)


def _numbers_of(legend: legends.Legend, names: tuple[str, ...]) -> dict[str, int]:
    """The `label_map` from the numbers of a list to those of class names.

    Raises:
        DataError: the list lacks a class.
    """
    numbers_of = {safe_name(name): numbers for name, numbers in legend.numbers.items()}
    unknown = [name for name in names[1:] if name not in numbers_of]
    if unknown:
        raise DataError(
            f"class_names: {listed(unknown)}, which {legend.source} does not have; it has "
            f"{listed(numbers_of)}; correct them, or say in label_map what the numbers are"
        )
    label_map = {
        str(number): k for k, name in enumerate(names) for number in numbers_of.get(name, ())
    }
    return label_map if legend.ignored is None else {**label_map, str(legend.ignored): IGNORE}


def _read(mask_files: list[Path], cfg: config.Config) -> mask_pixels.Mask:
    """The mask of a pair as 0 and 1, or class numbers.

    Raises:
        DataError: it cannot be read, or several files for a label map.
    """
    if cfg.task != "multiclass":
        cell, inverted = mask_pixels.UNION.join(map(str, mask_files)), cfg.mask_inverted is True
        mask = mask_pixels.read_mask(cell, cfg.mask_encoding, inverted, cfg.label_map)
        if (mask.pixels == IGNORE).any():
            raise DataError(
                f"{cell}: a mask of 0 and 255 cannot say that pixels are ignored; give class_names "
                "with the background first, so that label maps are written"
            )
        return mask
    if len(mask_files) > 1:
        raise DataError(
            f"{mask_files[0].parent}: {len(mask_files)} mask files for one image; a label map of "
            f"the classes {', '.join(cfg.class_names)} is made of one"
        )
    return mask_pixels.read_labels(
        str(mask_files[0]), cfg.mask_encoding, cfg.n_classes, cfg.label_map
    )


def _facts(image: Path, mask_files: list[Path], cfg: config.Config) -> dict[str, Any]:
    """What `meanings.judge` needs to know of the mask of a pair, or its `problem`.

    `notes` are pairs of a file's name and what is odd about the file.
    """
    try:
        mask = _read(mask_files, cfg)
        paths = (image, *mask_files)
        notes = [(path.name, note) for path in paths for note in images.notes_of(path)]
    except DataError as error:
        return {"problem": str(error), "file": str(mask_files[0])}
    return {
        "masks": [meanings.facts_of(mask, mask.pixels)],
        "notes": notes,
        "looks_inverted": mask.looks_inverted,
        "has_ignored": bool((mask.pixels == IGNORE).any()),
    }


def _judge(
    paired: Pairing, facts: list[dict[str, Any]], cfg: config.Config
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Name -> problem of the masks that cannot be used; and notes on what all masks mean together.

    Raises:
        DataError: they may hold several classes, and no setting says which.
    """
    column = "labels" if cfg.task == "multiclass" else cfg.class_names[0]
    cells = [mask_pixels.UNION.join(map(str, masks)) for _, masks in paired.pairs.values()]
    cases = pd.DataFrame({"case": list(paired.pairs), column: cells})
    meaning = meanings.judge(cases, facts, cfg)
    problems = {name: reason for name, _, reason in meaning.set_aside}
    for name, fact in zip(paired.pairs, facts):
        if "problem" in fact:
            problems[name] = fact["problem"]
    return problems, (*meaning.undecided, *meaning.notes)


def in_threads(function: Callable[[Any], Any], names: Iterable[Any]) -> list[Any]:
    """The results for all names; decoding and encoding release the interpreter lock."""
    names = list(names)
    with ThreadPoolExecutor(hosts.n_cores()) as pool:
        results = pool.map(function, names)
        return list(hosts.progress(results, total=len(names), desc="prepare", leave=False))


# ---- which mask belongs to which image


def has_masks(images_folder: str | Path) -> bool:
    """Whether a folder of images holds their masks as well, so that `to_images_and_masks` reads it
    without further settings.
    """
    try:
        return bool(_pair(Path(images_folder), Path(images_folder), "", None).pairs)
    except DataError:
        return False


def _pair(
    image_folder: Path, mask_folder: Path, image_suffix: str, mask_suffix: str | None
) -> Pairing:
    """The pairs, found by a folder for each case or by the names of files."""
    for folder, contents in ((image_folder, "images"), (mask_folder, "masks")):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected one with {contents}")
    if not _pictures(image_folder) and any(image_folder.glob("*/images")):
        return _pair_instances(image_folder, mask_folder)
    return _pair_by_name(image_folder, mask_folder, image_suffix, mask_suffix)


def _pair_instances(image_folder: Path, mask_folder: Path) -> Pairing:
    """Folders `<name>/images` with one image and `<name>/masks` with a file for each instance.

    This is the layout of the Data Science Bowl 2018.
    """
    pairs, without_mask = {}, []
    for folder in sorted(images_folder.parent for images_folder in image_folder.glob("*/images")):
        pictures = _pictures(folder / "images")
        masks_of_case = mask_folder / folder.name / "masks"
        masks = _pictures(masks_of_case) if masks_of_case.is_dir() else []
        if len(pictures) != 1:
            raise DataError(
                f"{folder / 'images'}: {len(pictures)} images; expected one, with its masks in "
                f"{masks_of_case}"
            )
        if masks:
            pairs[folder.name] = (pictures[0], masks)
        else:
            without_mask.append(folder.name)
    if not pairs:
        raise DataError(
            f"{mask_folder}: no <name>/masks with a picture in it; "
            f"found {pairing.contents(mask_folder)}"
        )
    return Pairing(pairs, without_mask, [])


def _pair_by_name(
    image_folder: Path, mask_folder: Path, image_suffix: str, mask_suffix: str | None
) -> Pairing:
    """Pairs of files with the same name once their suffixes are cut off.

    Where images and masks share a folder, a file that belongs to no pair is an image without a
    mask, unless its name begins with that of a pair.
    """
    same_folder = image_folder.resolve() == mask_folder.resolve()
    pictures, masks = _pictures(image_folder), _pictures(mask_folder)
    if not same_folder:
        _refuse_class_folders(image_folder, mask_folder)
    for folder, content in ((image_folder, pictures), (mask_folder, masks)):
        if not content:
            raise DataError(f"{folder}: no picture here; found {pairing.contents(folder)}")
    if mask_suffix is None:
        mask_suffix = _common_suffix(_by_name(pictures, image_suffix), masks, same_folder)
    ending, _, _ = mask_suffix.partition(".")
    masks_by_name = _masks_by_name(masks, mask_suffix)
    if same_folder:
        # Without an image suffix, the masks would otherwise count as images too.
        pictures = [file for file in pictures if file not in set(masks_by_name.values())]
    images_by_name = _by_name(pictures, image_suffix)
    matched = pairing.masks_by_image(
        images_by_name, masks_by_name, suffixes=[ending], others_matter=False
    )
    pairs = {
        name: (image, matched.of_image[name])
        for name, image in images_by_name.items()
        if name in matched.of_image
    }
    if not pairs:
        example = pictures[0].name if pictures else "none"
        raise DataError(
            f"{image_folder}: no image has a mask in {mask_folder}; expected masks called <name of "
            f"the image>{mask_suffix}, found images such as {example} and masks such as "
            f"{masks[0].name}; set image_suffix and mask_suffix to what follows the common name"
        )
    used = {file for image, mask_files in pairs.values() for file in (image, *mask_files)}
    unused_masks = [file.name for file in masks if file not in used]
    without_mask = [image.name for name, image in images_by_name.items() if name not in pairs]
    if same_folder:  # Image_01L_2ndHO.png is another mask of Image_01L, not an image
        owners = mask_names.Owners(pairs)
        without_mask = [name for name in without_mask if owners.of(Path(name).stem)[0] is None]
    left_out = [name for name in unused_masks if name not in without_mask]
    return Pairing(pairs, without_mask, left_out)


def _common_suffix(names: Iterable[str], masks: list[Path], same_folder: bool) -> str:
    """What follows the image's name in the names of all masks: "", "_mask", "_OD".

    Raises:
        DataError: there is none, or more than one.
    """
    owners, counts = mask_names.Owners(names), Counter()
    if same_folder:  # x_mask_1 belongs to x, not to x_mask
        owners = mask_names.Owners(name for name in names if not owners.of(name, whole=False)[0])
    for mask in masks:
        # In a shared folder the image of exactly that name is the file itself.
        owner, suffix = owners.of(mask.stem, whole=not same_folder)
        if owner is not None:
            counts[suffix] += 1
    # Where an image has several mask files, they are numbered.
    unnumbered = {mask_names.without_number(suffix) for suffix in counts}
    for candidates in (set(counts), unnumbered):
        if len(candidates) == 1 and (candidates != {""} or not same_folder):
            return candidates.pop()
    suffixes = ", ".join(f"{suffix!r} ({n})" for suffix, n in counts.most_common(5))
    suffixes = suffixes or f"names such as {masks[0].name}"
    raise DataError(
        f"{masks[0].parent}: which files are the masks is not clear: found {suffixes} behind the "
        "names of images; set mask_suffix, for example '_mask', or '.png' where only the format "
        "differs (image_suffix, if images have one)"
    )


def _masks_by_name(masks: list[Path], suffix: str) -> dict[str, Path]:
    """Name without the suffix of the format -> file, of masks that end in `suffix` or a number
    behind it.
    """
    ending, dot, kind = suffix.partition(".")
    by_name: dict[str, Path] = {}
    for path in masks:
        endings = (path.stem, mask_names.without_number(path.stem))
        has_ending = any(files.folded(e).endswith(files.folded(ending)) for e in endings)
        if not has_ending or (dot and path.suffix.lower() != f".{kind}".lower()):
            continue
        if path.stem in by_name:
            raise _same_name(path, by_name[path.stem])
        by_name[path.stem] = path
    return by_name


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    """Name -> file, for the files whose name ends in `suffix`, which is cut off.

    A suffix with a dot, such as "_mask.png", includes the suffix of the file format.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        full_name = path.name if "." in suffix else path.stem
        name = full_name.removesuffix(suffix)
        if not full_name.endswith(suffix) or not name:
            continue
        if name in by_name:
            raise _same_name(path, by_name[name])
        by_name[name] = path
    return by_name


def _same_name(path: Path, other: Path) -> DataError:
    return DataError(
        f"{path}: {other.name} has the same name before the suffix; name the files "
        f"to take by image_suffix and mask_suffix, for example {path.suffix!r}"
    )


def _refuse_class_folders(image_folder: Path, mask_folder: Path) -> None:
    """Raise `DataError` for masks in a folder a class; says which lines read them.

    Training reads such folders as they are, where the masks lie beside the images.
    """
    below = [folder for folder in pairing.subfolders(mask_folder) if _pictures(folder)]
    if not below:
        return
    names = listed((folder.name for folder in below), most=8)
    root = mask_folder.absolute().parent
    pair = (image_folder.name, mask_folder.name)
    if image_folder.absolute().parent == root and pair in tables.PAIRS_OF_FOLDERS:
        line = f"python -m seglib train --data_dir {shlex.quote(str(root))}"
        advice = f"training reads all of them as they are: {line}"
    else:
        advice = (
            "to train all of them, put the images into D/images and these folders into D/masks, "
            "then: python -m seglib train --data_dir D"
        )
    raise DataError(
        f"{mask_folder}: masks in folders ({names}), which may be one for each class; {advice}; "
        f"for one of them give its folder: --source_masks {shlex.quote(str(below[0]))}"
    )


def _pictures(folder: Path) -> list[Path]:
    """The visible pictures in a folder, by name."""
    suffixes = (*images.SUFFIXES, *FOREIGN_SUFFIXES)
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )


# ---- writing, without overwriting anything


def write_image(image: Path, folder: Path, name: str, earlier: str | None) -> None:
    """Copy an image, or write it as PNG where its format is foreign.

    `earlier` is the file with the same stem that is already in the folder.
    """
    foreign = image.suffix.lower() in FOREIGN_SUFFIXES
    target = folder / f"{name}{'.png' if foreign else image.suffix}"
    if earlier is not None and earlier != target.name:
        raise DataError(
            f"{target.with_name(earlier)}: there already, and {image.name} has the same name"
        )
    if foreign:
        write_png(target, _lossless_pixels(image), images.exif_orientation(image))
    elif not target.exists():
        with files.replacing(target) as partial:
            shutil.copyfile(image, partial)
    elif not filecmp.cmp(image, target, shallow=False):  # by content, not by size and time
        raise _is_taken(target, image.name)


def write_png(target: Path, pixels: np.ndarray, orientation: int) -> None:
    if not target.exists():
        images.write_png(target, pixels, orientation)
        return
    same_tag = images.exif_orientation(target) == orientation
    if not same_tag or not np.array_equal(images.read_pixels(target)[0], pixels):
        raise _is_taken(target, "what would be written")


def write_names(output: Path, content: dict[str, Any]) -> None:
    """Write `dataset.json`: the number of each class in the masks, as nnU-Net has it.

    Raises:
        DataError: there is one of other classes already.
    """
    target = output / legends.DATASET_JSON
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if target.exists() and target.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{target}: there already, and it names other classes; choose another output, or move "
            "the old one away"
        )
    files.write_text(target, text)


def _is_taken(target: Path, other: str) -> DataError:
    return DataError(
        f"{target}: there already, and it differs from {other}; move it away or choose another "
        "output"
    )


def _lossless_pixels(path: Path) -> np.ndarray:
    """Pixels in a form that PNG can hold: palettes as colours, whole numbers of 8 or 16 bits.

    Raises:
        DataError: other numbers.
    """
    pixels, mode, palette = images.read_pixels(path)
    if palette is not None:
        pixels = palette[pixels]
    if pixels.dtype not in (np.uint8, np.uint16, bool):
        raise DataError(
            f"{path}: its numbers are {pixels.dtype}, which a PNG file cannot hold; save it as TIFF"
        )
    if mode == "LA" and pixels.dtype == np.uint16:
        pixels = pixels[..., 0]
    return pixels


def _examples(names: list[str]) -> str:
    """The number of names, and the first three of them."""
    if not names:
        return "0"
    more = ", …" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"
