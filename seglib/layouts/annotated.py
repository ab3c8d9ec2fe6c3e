"""Annotation files and their images -> the folders `images` and `masks` that training reads.

The masks are label maps where the classes exclude each other, and a folder for each class where
they overlap; `dataset.json` beside them names the classes. Taught in `data/README.md`.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import annotations, files
from ..annotations import coco, drawing, labelme, roboflow, shapes, via
from ..annotations.shapes import Annotated, Annotations
from ..errors import ConfigError, DataError, grouped, listed
from ..formats import codecs, images
from ..tables import IGNORE, SPLITS
from . import classes, convert

MOST_PICTURES = 500_000
# Classes whose shapes overlap by at most this share of the smaller one exclude each other: hand
# drawn neighbours do.
SLOP = 0.02
TASKS = ("binary", "multiclass", "multilabel")


class Prepared(NamedTuple):
    """What `to_images_and_masks` did.

    Attributes:
        n_images: the number of images that are in the output now.
        format: the name of the format of the annotations.
        task: "binary", "multiclass" or "multilabel".
        class_names: as a config takes them: with the background for multiclass.
        table: a line for each class: name, number of images, share of pixels.
        notes: what was concluded, and what was left out.
        problems: a message for each image that was left out.
        label_map: the setting by which training reads the masks; {} where it needs none.
    """

    n_images: int
    format: str
    task: str
    class_names: tuple[str, ...]
    table: tuple[str, ...]
    notes: tuple[str, ...]
    problems: list[str]
    label_map: dict[str, int]

    def text(self) -> str:
        """The summary in a few lines."""
        form = {
            "binary": "one structure, masks of 0 and 255",
            "multiclass": "classes that exclude each other, label maps",
            "multilabel": "classes that overlap, a folder of masks for each",
        }[self.task]
        lines = [f"{self.format}: {self.n_images} images written; {form}", *self.table]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


class _Case(NamedTuple):
    """An annotated image: its name in the output, its file, its part of the split, its shapes."""

    name: str
    file: Path
    split: str
    annotated: Annotated


class _Facts(NamedTuple):
    """What is known of a case before masks are written; `problem` is "" where it can be used."""

    drawn: drawing.Drawing | None = None
    n_pixels: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""


def to_images_and_masks(
    source_images: str | Path,
    source: str | Path,
    output: str | Path,
    class_names: Sequence[str] = (),
    task: str | None = None,
    nested: str | None = None,
    class_attribute: str | None = None,
) -> Prepared:
    """Write `output/images`, `output/masks` and `output/dataset.json`.

    Masks of one structure hold 0 and 255, those of several classes the class numbers. Classes that
    overlap have a folder each, `output/masks/<class>`. Where the tree of the annotations has parts
    (train, valid, test), they become folders of `output`. Pixels to be ignored are 255.

    An image that cannot be read, or that its annotations do not fit, is left out and named in
    `problems`; nothing is ever overwritten.

    Args:
        source_images: folder of the images, also in folders below it.
        source: the annotation file, or a folder of them.
        class_names: the classes to draw, in this order; by default those that have shapes.
        task: "multiclass" draws overlapping classes into one label map, later shapes above earlier
            ones; "multilabel" writes a folder a class; "binary" unites all classes.
        nested, class_attribute: see `annotations.read`.

    Raises:
        DataError: no annotations, none of an image in the folder, or unknown classes.
        ConfigError: an option that does not act on this format.
    """
    source_images, output = Path(source_images), Path(output)
    if not source_images.is_dir():
        raise DataError(f"{source_images}: no such folder; expected one with images")
    read = _read(source, nested, class_attribute)
    read, renamed = _with_clean_names(read)
    names, read, left_out = _chosen(read, tuple(class_names), task)
    cases, problems, notes = _cases(source_images, output, read)
    facts = dict(zip(cases, convert.in_threads(lambda case: _facts(case, names), cases)))
    usable = [case for case in cases if not facts[case].problem]
    task, overlaps = _task([facts[case] for case in usable], names, task)
    settings = _Settings(output, task, names, _has_ignored(read), _earlier(output))
    _write_names(settings, read.colours)
    results = convert.in_threads(lambda case: _write(case, settings), usable)
    reasons = [reason for reason, _ in results]
    problems += [facts[case].problem for case in cases if facts[case].problem]
    problems += list(filter(None, reasons))
    written = [facts[case] for case, reason in zip(usable, reasons) if not reason]
    return Prepared(
        n_images=len(written),
        format=read.format,
        task=task,
        class_names=(shapes.BACKGROUND, *names) if task == "multiclass" else names,
        table=_table([counts for reason, counts in results if not reason], written, names),
        notes=(*read.notes, *renamed, *left_out, *notes, *overlaps, *_notes(written, settings)),
        problems=problems,
        # In a mask of one structure, nothing else says that 255 is not the structure.
        label_map={"1": 1, "255": IGNORE} if settings.has_ignored and task != "multiclass" else {},
    )


def _read(source: str | Path, nested: str | None, class_attribute: str | None) -> Annotations:
    """The annotations; an option that does not act on their format is refused."""
    read = annotations.read(source, nested, class_attribute)
    for name, value, owner in (("nested", nested, coco), ("class_attribute", class_attribute, via)):
        if value and read.format != owner.NAME:
            raise ConfigError(
                f"{name}: acts on files of {owner.NAME}, and these are of {read.format}; leave it "
                "out"
            )
    return read


def _earlier(output: Path) -> dict[Path, str]:
    """Path without suffix -> name, of the images that are in the output already."""
    folders = [output / part / "images" for part in ("", *set(SPLITS.values()))]
    return {file.with_suffix(""): file.name for folder in folders for file in folder.glob("*")}


# ---- classes


def _with_clean_names(read: Annotations) -> tuple[Annotations, list[str]]:
    """The annotations with class names that a folder and a table can have, and notes.

    Names that differ only in upper and lower case are one class.
    """
    clean: dict[str, str] = {}
    by_folded: dict[str, str] = {}
    notes = []
    used = dict.fromkeys((*read.class_names, *shapes.alphabetical(read.images)))
    for name in used:
        is_background = files.folded(name).strip("_") == shapes.BACKGROUND
        usable = shapes.BACKGROUND if is_background else classes.safe_name(name)
        clean[name] = by_folded.setdefault(files.folded(usable), usable)
        if clean[name] != name and not is_background:
            notes.append(f"classes: {name!r} is written as {clean[name]!r}")
    class_names = dict.fromkeys(clean[name] for name in read.class_names)
    colours = {clean.get(name, name): colour for name, colour in read.colours.items()}
    return dataclasses.replace(
        read,
        images=[_renamed(image, clean) for image in read.images],
        class_names=tuple(name for name in class_names if name not in _SPECIAL),
        colours=colours,
    ), notes


_SPECIAL = (shapes.BACKGROUND, shapes.IGNORED)


def _renamed(image: Annotated, names: dict[str, str]) -> Annotated:
    renamed = (
        dataclasses.replace(shape, class_name=names[shape.class_name]) for shape in image.shapes
    )
    return dataclasses.replace(image, shapes=tuple(renamed))


def _chosen(
    read: Annotations, names: tuple[str, ...], task: str | None
) -> tuple[tuple[str, ...], Annotations, list[str]]:
    """The classes to draw without the background, the annotations in these classes, and notes.

    Raises:
        DataError: a class that the annotations do not have, or no class.
    """
    used = set(shapes.alphabetical(read.images)) - set(_SPECIAL)
    in_order = (*read.class_names, *sorted(used - set(read.class_names)))
    wanted = tuple(name for name in names if name != shapes.BACKGROUND)
    unknown = [name for name in wanted if name not in in_order]
    is_new_name = task == "binary" and len(wanted) == 1 and unknown
    if unknown and not is_new_name:
        raise DataError(
            f"class_names: {listed(unknown)}, which the annotations do not have; they have "
            f"{listed(in_order, 12) or 'none'}"
        )
    if not used:
        raise DataError(
            f"{read.format}: none of the {len(read.images)} annotated images has a shape with an "
            "area; expected outlines or masks"
        )
    drawn = tuple(name for name in in_order if name in used)
    if wanted and not is_new_name:
        drawn = wanted
    notes = []
    left_out = [name for name in in_order if name not in drawn]
    if left_out:
        reason = "not asked for" if wanted else "without a shape"
        notes.append(f"classes {reason}, left out: {listed(left_out, 12)}")
    if len(drawn) > IGNORE - 1:
        raise DataError(
            f"{read.format}: {len(drawn)} classes; a label map has numbers for 254: choose some "
            "with class_names"
        )
    if task in ("multiclass", "multilabel") and len(drawn) < 2:
        raise DataError(f"task: {task} needs two or more classes; there is {listed(drawn)}")
    if task != "binary" or len(drawn) == 1 and not is_new_name:
        return drawn, read, notes
    united = wanted[0] if len(wanted) == 1 else shapes.UNNAMED
    notes.append(f"classes united as {united!r}: {listed(drawn, 12)}")
    of_united = dict.fromkeys(drawn, united)
    new_names = {name: of_united.get(name, name) for name in (*in_order, *_SPECIAL)}
    united_images = [_renamed(image, new_names) for image in read.images]
    return (united,), dataclasses.replace(read, images=united_images), notes


def _has_ignored(read: Annotations) -> bool:
    return any(shape.class_name == shapes.IGNORED for i in read.images for shape in i.shapes)


def _task(facts: list[_Facts], names: tuple[str, ...], task: str | None) -> tuple[str, list[str]]:
    """The task that the shapes allow, and notes on classes that overlap."""
    if len(names) == 1:
        return "binary", []
    pixels: Counter = Counter()
    contested: Counter = Counter()
    for fact in facts:
        pixels.update(fact.drawn.pixels)
        contested.update(fact.drawn.contested)
    pairs: Counter = Counter()
    for (below, above), n in contested.items():
        pairs[tuple(sorted((below, above)))] += n
    shares = {pair: n / max(1, min(pixels[pair[0]], pixels[pair[1]])) for pair, n in pairs.items()}
    overlapping = [pair for pair, share in shares.items() if share > SLOP]
    notes = [
        f"{first} and {second} overlap in {pairs[first, second]} pixels "
        f"({shares[first, second]:.1%} of the smaller one)"
        for first, second in sorted(shares, key=shares.get, reverse=True)[:5]
    ]
    if task is None:
        task = "multilabel" if overlapping else "multiclass"
        if overlapping:
            notes.append(
                "overlapping classes keep all their pixels, in a folder of masks for each; for one "
                "label map, in which later shapes lie above earlier ones: --task multiclass"
            )
    if task == "multiclass" and pairs:
        notes.append("where classes overlap, the shape that comes later in the file lies above")
    return task, notes


# ---- which image


def _cases(root: Path, output: Path, read: Annotations) -> tuple[list[_Case], list[str], list[str]]:
    """The annotated images of a folder; problems, and notes on what has no partner.

    Raises:
        DataError: no annotated image is in the folder.
    """
    pictures = _Pictures(root, output, read.format)
    owner: dict[Path, Annotated] = {}
    missing: list[str] = []
    problems: list[str] = []
    twice: dict[Path, Annotated] = {}
    for annotated in read.images:
        file, reason = pictures.file_of(annotated)
        if reason:
            problems.append(reason)
        elif file is None:
            missing.append(annotated.image)
        elif file in owner:
            twice[file] = annotated
        else:
            owner[file] = annotated
    for file, annotated in twice.items():
        problems.append(
            f"{file}: annotated twice, in {owner.pop(file).source} and in {annotated.source} as "
            f"{annotated.image}; keep one of them"
        )
    if not owner and not problems:
        raise DataError(
            f"{root}: none of its {len(pictures.files)} images is annotated; the annotations are "
            f"of {listed(missing)}, the folder has {listed(f.name for f in pictures.files)}"
        )
    notes = []
    if missing:
        notes.append(f"annotated images that are not in {root.name}: {_counted(missing)}")
    bare = [file.name for file in pictures.files if file not in owner and file not in twice]
    if bare:
        notes.append(f"images without annotations, left out: {_counted(bare)}")
    cases = _named(owner, pictures.root)
    return cases, problems, notes


def _named(owner: dict[Path, Annotated], root: Path) -> list[_Case]:
    """The cases, with names that differ within each part of the split.

    Raises:
        DataError: two images have the same name before their suffixes.
    """
    split_of = _split_of(owner)
    stems = Counter((split_of[file], files.folded(file.stem)) for file in owner)
    cases = []
    for file, annotated in owner.items():
        name, part = file.stem, split_of[file]
        if stems[part, files.folded(name)] > 1:  # folders of patients, with equal names in each
            name = "_".join(file.relative_to(root).with_suffix("").parts)
        cases.append(_Case(name, file, part, annotated))
    names = Counter((case.split, files.folded(case.name)) for case in cases)
    clash = next((case for case in cases if names[case.split, files.folded(case.name)] > 1), None)
    if clash:
        raise DataError(f"{clash.file}: another image has its name, too; rename one of them")
    return cases


def _split_of(owner: dict[Path, Annotated]) -> dict[Path, str]:
    """Image -> its part of the split, where the tree has several; else ""."""
    parts = {file: annotated.split for file, annotated in owner.items()}
    is_split = all(parts.values()) and len(set(parts.values())) > 1
    return parts if is_split else dict.fromkeys(parts, "")


class _Pictures:
    """The pictures in a folder and below it, found by the names that annotation files give them."""

    def __init__(self, root: Path, output: Path, format_name: str):
        self.root = root.absolute()
        self.format_name = format_name
        self.files: list[Path] = []
        self.suffixes = (*images.SUFFIXES, *convert.FOREIGN_SUFFIXES)
        skipped = output.absolute()
        for place, folders, names in os.walk(self.root):
            folders[:] = [
                name
                for name in sorted(folders)
                if not name.startswith(".") and Path(place, name) != skipped
            ]
            for name in sorted(names):
                is_mask = format_name == roboflow.NAME and name.endswith(roboflow.SUFFIX)
                if (
                    name.lower().endswith(self.suffixes)
                    and not name.startswith(".")
                    and not is_mask
                ):
                    self.files.append(Path(place, name))
            if len(self.files) > MOST_PICTURES:
                raise DataError(f"{root}: more than {MOST_PICTURES} images; give a smaller folder")
        self.by_path: dict[str, list[Path]] = {}
        self.by_name: dict[str, list[Path]] = {}
        for file in self.files:
            relative = file.relative_to(self.root).as_posix()
            for key in {relative, relative.removesuffix(file.suffix)}:
                self.by_path.setdefault(files.folded(key), []).append(file)
            for key in {file.name, file.stem}:
                self.by_name.setdefault(files.folded(key), []).append(file)

    def file_of(self, annotated: Annotated) -> tuple[Path | None, str]:
        """The picture of an annotated image, and a reason where it is not clear.

        Names are only looked up among the pictures of the folder: a name such as "/etc/passwd"
        or "../x" leads nowhere else.
        """
        name = annotated.image
        for candidates in self._candidates(annotated):
            if len(candidates) == 1:
                return candidates[0], ""
            if candidates:
                alike = [_parts_alike(file, annotated) for file in candidates]
                if max(alike) > 1 and alike.count(max(alike)) == 1:
                    return candidates[alike.index(max(alike))], ""
                where = listed(file.relative_to(self.root).as_posix() for file in candidates)
                return None, f"{annotated.source}: {name}: several images have that name: {where}"
        return None, ""

    def _candidates(self, annotated: Annotated) -> Iterable[list[Path]]:
        """Lists of pictures that may be meant, the surest first."""
        name = annotated.image
        beside = os.path.normpath(annotated.source.absolute().parent / name)
        relative = os.path.relpath(beside, self.root).replace(os.sep, "/")
        for key in (relative, os.path.normpath(name).replace(os.sep, "/")):
            yield self.by_path.get(files.folded(key), [])
        last = name.rsplit("/", 1)[-1]
        yield self.by_name.get(files.folded(last), [])
        if last.lower().endswith(self.suffixes):  # it was saved again in another format
            yield self.by_name.get(files.folded(Path(last).stem), [])
        if self.format_name == labelme.NAME:  # it was renamed together with its file
            yield self.by_name.get(files.folded(annotated.source.stem), [])


def _parts_alike(file: Path, annotated: Annotated) -> int:
    """How many parts at the end of a path agree with the image's name in the file."""
    own = [files.folded(part) for part in (*file.parts[:-1], file.stem)][::-1]
    said = annotated.image.rsplit(".", 1)[0] if "." in annotated.image else annotated.image
    other = [files.folded(part) for part in said.split("/")][::-1]
    alike = 0
    for first, second in zip(own, other):
        if first != second:
            break
        alike += 1
    return alike


def _counted(names: list[str]) -> str:
    return f"{len(names)} ({listed(names)})"


# ---- masks


class _Settings(NamedTuple):
    """How all masks are written."""

    output: Path
    task: str
    names: tuple[str, ...]
    has_ignored: bool
    earlier: dict[Path, str]  # path without suffix -> name, of images that are there already


def _frame(case: _Case, stored: tuple[int, int]) -> tuple[tuple[int, int], int, str]:
    """The size in which shapes are drawn, the tag by which that is turned back, and a note.

    Args:
        stored: height and width of the pixels in the file.
    """
    annotated, orientation = case.annotated, images.exif_orientation(case.file)
    if orientation == 1:
        return stored, 1, ""
    turned = stored[::-1] if orientation >= 5 else stored
    said = (annotated.height, annotated.width)
    if None not in said and not annotated.relative and turned != stored:
        return (turned, orientation, "") if said != stored else (stored, 1, "")
    if annotated.turned is False:
        return stored, 1, ""
    note = ""
    if annotated.turned is None:
        note = (
            "its orientation tag turns the picture, and the annotations do not say whether they "
            "were made on the turned one; they are taken so, as viewers show it"
        )
    return turned, orientation, note


def _draw(case: _Case, names: tuple[str, ...], task: str, stored: tuple[int, int]) -> Any:
    """The `Drawing` of a case; its mask lies on the pixels as they are stored."""
    size, orientation, _ = _frame(case, stored)
    drawn = drawing.drawn(case.annotated, *size, names, task)
    return drawn._replace(mask=codecs.TURN_BACK[orientation](drawn.mask))


def _facts(case: _Case, names: tuple[str, ...]) -> _Facts:
    """How the shapes of a case lie in its image."""
    try:
        stored = images.read_pixels(case.file)[0].shape[:2]
        note = _frame(case, stored)[2]
        notes = [*images.notes_of(case.file), *filter(None, [note])]
        drawn = _draw(case, (shapes.BACKGROUND, *names), "multiclass", stored)
    except DataError as error:
        return _Facts(problem=str(error))
    if case.annotated.height is None and drawn.outside > drawn.n_shapes / 2:
        return _Facts(
            problem=f"{case.file}: {drawn.outside} of {drawn.n_shapes} shapes lie outside its "
            f"{stored[0]}x{stored[1]} pixels (height x width); they were drawn on another image, "
            "or on a larger version: use that one"
        )
    noted = tuple(f"{case.file.name}: {note}" for note in notes)
    return _Facts(drawn._replace(mask=np.zeros(0)), stored[0] * stored[1], noted)


def _write(case: _Case, settings: _Settings) -> tuple[str, list[int]]:
    """Write image and masks of a case.

    Returns:
        The reason why it could not be done, "" where it was; and the pixels of each class.
    """
    folder = settings.output / case.split
    try:
        stored = images.read_pixels(case.file)[0].shape[:2]
        names = settings.names
        in_config = (shapes.BACKGROUND, *names) if settings.task == "multiclass" else names
        mask = _draw(case, in_config, settings.task, stored).mask
        earlier = settings.earlier.get(folder / "images" / case.name)
        convert.write_image(case.file, folder / "images", case.name, earlier)
        tag = images.exif_orientation(case.file)
        for place, plane in _planes(mask, settings):
            target = folder / "masks" / place / f"{case.name}.png"
            convert.write_png(target, plane, tag)
    except DataError as error:
        return str(error), []
    if settings.task == "multilabel":
        return "", [int((mask[..., k] == 1).sum()) for k in range(len(names))]
    return "", [int((mask == number).sum()) for number in range(1, len(names) + 1)]


def _planes(mask: np.ndarray, settings: _Settings) -> list[tuple[str, np.ndarray]]:
    """Folder below `masks` and the picture to write there, for each mask of a case."""
    if settings.task == "multiclass":
        return [("", mask)]
    scale = np.uint8(1 if settings.has_ignored else 255)
    if settings.task == "binary":
        return [("", np.where(mask == 1, scale, mask))]
    planes = [np.where(mask[..., k] == 1, scale, mask[..., k]) for k in range(mask.shape[2])]
    return list(zip(settings.names, planes))


def _write_names(settings: _Settings, colours: dict[str, tuple[int, int, int]]) -> None:
    """Write `dataset.json`, with the colours of the annotation tool."""
    labels: dict[str, int] = {shapes.BACKGROUND: 0}
    labels |= {name: number for number, name in enumerate(settings.names, start=1)}
    if settings.task == "binary" and not settings.has_ignored:
        labels[settings.names[0]] = 255
    if settings.has_ignored:
        labels[shapes.IGNORED] = IGNORE
    content = {"labels": labels, "task": settings.task}
    own = {name: list(colours[name]) for name in settings.names if name in colours}
    if own:
        content["colors"] = own
    convert.write_names(settings.output, content)


# ---- what is told


def _table(counts: list[list[int]], facts: list[_Facts], names: tuple[str, ...]) -> tuple[str, ...]:
    """A line for each class; `counts` are the pixels of each class in the masks of each image."""
    n_pixels = max(1, sum(fact.n_pixels for fact in facts))
    lines = []
    for name, of_class in zip(names, np.reshape(counts, (-1, len(names))).T):
        share = of_class.sum() / n_pixels
        lines.append(f"  {name}: in {(of_class > 0).sum()} images, {share:.2%} of the pixels")
    return tuple(lines)


def _notes(facts: list[_Facts], settings: _Settings) -> list[str]:
    """What was odd about the shapes and the files."""
    notes = []
    totals = {
        "reach over the border of their image and are cut off": "clipped",
        "lie wholly outside their image and are left out": "outside",
        "are too thin to cover the centre of a pixel": "too_thin",
    }
    for text, name in totals.items():
        counts = [getattr(fact.drawn, name) for fact in facts]
        if any(counts):
            n_images = sum(n > 0 for n in counts)
            notes.append(f"{sum(counts)} shapes in {n_images} images {text}")
    n_empty = sum(not fact.drawn.n_shapes for fact in facts)
    if n_empty:
        notes.append(
            f"{n_empty} images are listed without a shape; they are taken for images without a "
            "structure: leave them out of the annotations where nobody has looked at them"
        )
    if settings.has_ignored:
        notes.append(f"pixels of the class {shapes.IGNORED!r} are 255, ignored in training")
    return [*notes, *grouped(note for fact in facts for note in fact.notes)]
