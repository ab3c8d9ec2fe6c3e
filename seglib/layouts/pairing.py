"""List folders, pair images with their masks by name, and name the mask columns for a task."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..errors import DataError, listed
from ..files import folded
from ..formats import dicom_pictures, inputs, mask_names, segments, signatures, volumes
from ..formats.images import SUFFIXES
from ..formats.mask_pixels import UNION

MASK_SUFFIXES = ("", "_mask", "_segmentation", "_masks", "_seg", "-mask")


class Masks(NamedTuple):
    """Which mask files belong to which image.

    Attributes:
        of_image: name of the image -> its mask files, of which several are parts of one mask.
        unclear: name of the image -> why its mask is not clear.
        without_image: the other files.
    """

    of_image: dict[str, list[Path]]
    unclear: dict[str, str]
    without_image: list[Path]


def pair(
    images: Path,
    mask_folders: Iterable[Path],
    column: str,
    all_masked: bool = True,
    suffixes: Iterable[str] = MASK_SUFFIXES,
    image_files: Mapping[str, Path] | None = None,
) -> pd.DataFrame:
    """The case table of one folder of pictures; `column` receives the mask files.

    In each of `mask_folders`, `masks_by_image` finds the files of an image. Those of several
    folders are united; where one folder lacks its file, the cell is empty. `attrs["notes"]` lists
    what could not be paired. Where the mask of an image is not clear, the cell is empty, and the
    column `problem` says why. `all_masked`: images without a mask are noted. `suffixes`: what may
    follow the image's name; with unusual ones, files with others are those of other classes.
    `image_files`: name of a case -> its picture, by default all of the folder by their stems.
    """
    image_files = pictures(images) if image_files is None else image_files
    mask_folders = list(mask_folders)
    is_usual = suffixes is MASK_SUFFIXES
    folders = [
        masks_by_image(image_files, pictures(folder), suffixes, others_matter=is_usual)
        for folder in mask_folders
    ]
    rows, notes, incomplete, unclear = [], [], [], []
    for stem, image in image_files.items():
        groups = [masks.of_image[stem] for masks in folders if stem in masks.of_image]
        problem = next((masks.unclear[stem] for masks in folders if stem in masks.unclear), "")
        if problem:
            unclear.append(f"{image.name}: {problem}")
        elif 0 < len(groups) < len(folders):
            notes.append(
                f"{image.name}: only {len(groups)} of its {len(folders)} masks exist "
                f"({groups[0][0].parent.name})"
            )
            incomplete.append(stem)
        # With an incomplete union, a part of the structure would be background.
        if len(groups) < len(folders):
            groups = []
        files = [str(file) for group in groups for file in group]
        row = {"case": stem, "patient": stem, "split": "", "image": str(image)}
        rows.append({**row, column: UNION.join(files), "problem": problem})
    alone = [row["case"] for row in rows if folders and not (row[column] or row["problem"])]
    without_mask = [image_files[case] for case in alone if case not in incomplete]
    if all_masked and len(without_mask) == len(rows):
        problem = _no_pairs(folders, mask_folders)
        rows = [{**row, "problem": problem} for row in rows]
    if unclear:
        notes.append(f"images of which no mask is used: {len(unclear)}, such as {unclear[0]}")
    notes += _united(folders)
    if all_masked:
        notes += halves(without_mask, "image without a mask", "images without a mask")
    notes += _without_image(folders if is_usual else [], without_mask)
    notes += [note for folder in (images, *mask_folders) for note in other_kinds(folder)]
    columns = ["case", "patient", "split", "image", column]
    has_problems = any(row["problem"] for row in rows)
    cases = pd.DataFrame(rows, columns=[*columns, "problem"] if has_problems else columns)
    cases.attrs["notes"] = notes
    return cases


def masks_by_image(
    images: Iterable[str],
    masks: Mapping[str, Path],
    suffixes: Iterable[str] = MASK_SUFFIXES,
    others_matter: bool = True,
) -> Masks:
    """Which mask files belong to which image, by their names.

    A mask is called as its image, with one of `suffixes`; upper and lower case, the form of accents
    and spaces at the end do not matter. Files that differ only in a number behind it are parts of
    one mask. Where other files begin with the name of an image that has a mask, such as those of a
    second reader, it is not clear which of them is the mask.

    Args:
        images: the names of the images, without the suffix of the format.
        masks: name without the suffix of the format -> file.
        others_matter: whether a file with another suffix makes the mask of its image unclear.
    """
    owners = mask_names.Owners(images)
    owner_of = {name: owners.of(name) for name in masks}
    whole_names = {image for image, rest in owner_of.values() if not rest}
    # Image -> suffix -> its files; the image's name alone has the suffix "".
    groups: dict[str, dict[str, list[Path]]] = {}
    without_image = []
    for name, file in masks.items():
        image, rest = owner_of[name]
        suffix = _suffix(rest, suffixes)
        # A mask image_3 alone, or beside images called so, is that of another image.
        is_another = rest and not suffix and (image not in whole_names or owners.numbered(image))
        if image is None or is_another:
            without_image.append(file)
        else:
            groups.setdefault(image, {}).setdefault(suffix, []).append(file)
    of_image, unclear = {}, {}
    for image, by_suffix in groups.items():
        usual = [suffix for suffix in by_suffix if suffix in suffixes]
        files = [file for group in by_suffix.values() for file in group]
        if len(usual) == 1 and (len(by_suffix) == 1 or not others_matter):
            of_image[image] = by_suffix.pop(usual[0])
            without_image += [file for group in by_suffix.values() for file in group]
        elif others_matter:
            unclear[image] = _unclear(files) if usual else _unusual(files, list(by_suffix))
        else:
            without_image += files
    return Masks(of_image, unclear, without_image)


def advice_on_one_folder(folder: Path) -> str:
    """What to do with a folder in which images and their masks lie side by side; "" for others.

    Such as Image_01L.jpg with Image_01L_1stHO.png and Image_01L_2ndHO.png of CHASE_DB1: where the
    masks are of several readers, the user has to choose one.
    """
    stems = [file.stem for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    owners = mask_names.Owners(stems)
    counts = Counter(
        mask_names.without_number(rest)
        for image, rest in (owners.of(s, whole=False) for s in stems)
        if image
    )
    # Names that go on with a number alone are further images: case_1 and case_1_2.
    by_number = sorted((-n, suffix) for suffix, n in counts.items() if suffix)
    if not by_number or -4 * by_number[0][0] < len(stems):
        return ""
    kinds = ", ".join(f"{suffix} ({-n} files)" for n, suffix in by_number[:4])
    choice = by_number[0][1]
    which = " (choose one of them, such as one reader)" if len(by_number) > 1 else ""
    return (
        f"{folder}: images and masks share this folder, and masks end in {kinds}: bring them into "
        f"images + masks{which}, then set data_root to OUTPUT: python -m seglib prepare "
        f"--source_images {shlex.quote(str(folder))} --mask_suffix {choice} --output OUTPUT (in "
        "Python: from seglib.layouts import convert; convert.to_images_and_masks("
        f"{str(folder)!r}, None, OUTPUT, mask_suffix={choice!r}))"
    )


def halves(files: Iterable[Path], one: str, many: str) -> list[str]:
    """A note that counts the files whose other half is missing, and names the first three."""
    names = [f"{file.parent.name}/{file.name}" for file in files]
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]}: {one}"]
    return [f"{listed(names)}: {len(names)} {many}"]


def other_kinds(folder: Path) -> list[str]:
    """A note for each kind of image files that are left out, because they are not read here."""
    readable = (*SUFFIXES, *volumes.SUFFIXES)
    by_kind: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir(), key=_natural_order):
        is_hidden = file.name.startswith(".")
        if is_hidden or file.name.lower().endswith(readable) or not file.is_file():
            continue
        kind = inputs.kind_of_image(file)
        if kind and not segments.kind_of(file) and not dicom_pictures.is_picture(file):
            by_kind.setdefault(kind, []).append(file)
    notes = []
    for kind, files in by_kind.items():
        reason = f"left out, {kind}: {signatures.advice_for(kind)}"
        notes += halves(files, reason, f"files {reason}")
    return notes


def _without_image(folders: Iterable[Masks], images_alone: list[Path]) -> list[str]:
    """Notes on masks without an image."""
    notes = []
    for masks in folders:
        notes += halves(masks.without_image, "mask without an image", "masks without an image")
        notes += _other_zeros(masks.without_image, images_alone)
    return notes


def _no_pairs(folders: list[Masks], mask_folders: list[Path]) -> str:
    """Why none of the images has a mask; "" where there is no mask at all."""
    files = [file for masks in folders for file in masks.without_image]
    if files:
        usual = ", ".join(filter(None, MASK_SUFFIXES))
        return (
            f"no image has a mask of its name; found {halves(files, 'one mask', 'masks')[0]}, "
            f"expected the image's name alone or with {usual}; rename them"
        )
    below = [f"{folder.name}/{sub.name}" for folder in mask_folders for sub in subfolders(folder)]
    if below:
        return (
            f"no mask lies in {mask_folders[0].name} itself; found the folders "
            f"{listed(below)}; set class_names to the names of those that are classes, or move the "
            "masks up"
        )
    return ""


def _suffix(rest: str, suffixes: Iterable[str]) -> str:
    """The one of `suffixes` that `rest` is, also with a number behind it; else `rest` itself."""
    texts = (folded(rest), folded(mask_names.without_number(rest)))
    return next((suffix for suffix in suffixes if folded(suffix) in texts), rest)


def _unclear(files: list[Path]) -> str:
    """Why the mask of an image is not clear."""
    names = ", ".join(file.name for file in files)
    return (
        f"which file is its mask is not clear: {names}; move the others away, or write the masks "
        "anew by prepare --source_images ... --mask_suffix with what follows the image's name"
    )


def _unusual(files: list[Path], suffixes: list[str]) -> str:
    """Why none of the files that begin with an image's name is taken for its mask."""
    names = ", ".join(file.name for file in files)
    usual = ", ".join(filter(None, MASK_SUFFIXES))
    return (
        f"no mask of its name; found {names}, expected the image's name alone or with {usual}; "
        f"rename them, or write images and masks anew by prepare --source_images ... --mask_suffix "
        f"{suffixes[0]}"
    )


def _united(folders: list[Masks]) -> list[str]:
    """A note on images that have several mask files in one folder."""
    groups = [files for masks in folders for files in masks.of_image.values() if len(files) > 1]
    if not groups:
        return []
    names = ", ".join(file.name for file in groups[0])
    n_images = "1 image" if len(groups) == 1 else f"{len(groups)} images"
    return [f"{n_images} with several numbered mask files, which are united: {names}"]


def _other_zeros(masks: list[Path], images: list[Path]) -> list[str]:
    """A note on masks whose names differ from those of images only in zeros before a number."""
    by_number = {_without_zeros(image.stem): image for image in images}
    for mask in masks:
        stem = _without_zeros(mask.stem)
        key = next((stem[: -len(end)] for end in MASK_SUFFIXES[1:] if stem.endswith(end)), stem)
        if key in by_number:
            image = by_number[key]
            return [
                f"{mask.name} was not taken for the mask of {image.name}: their numbers have not "
                "the same zeros in front; rename one kind of files where they belong together"
            ]
    return []


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", folded(name))


def suffixes_of(class_name: str) -> tuple[str, ...]:
    """What may follow an image's name in the names of a class's masks: _disc, _disc_mask."""
    endings = ["", *(word for word in MASK_SUFFIXES if word)]
    return (
        *(f"{separator}{class_name}{word}" for separator in "_- ." for word in endings),
        *(f"{word}{separator}{class_name}" for separator in "_-" for word in endings if word),
    )


def class_of_suffix(suffix: str) -> str:
    """The class that the end of a mask's name stands for: `disc` of `_disc_mask`; "" for none."""
    key = folded(mask_names.without_number(suffix))
    if key in MASK_SUFFIXES:
        return ""
    name = mask_names.without_number(suffix)
    for word in sorted(filter(None, MASK_SUFFIXES), key=len, reverse=True):
        name = re.sub(f"^{word}(?=[-_])|{word}$", "", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=\w)(seg)?softmap$", "", name, flags=re.I).strip("-_. ")  # of Drishti-GS1


def pair_suffixes(images: Path, masks: Path, class_names: Iterable[str]) -> pd.DataFrame:
    """The case table of pictures whose masks have a file for each class: `x_disc`, `x_cup`."""
    return _side_by_side(
        {
            name: pair(images, [masks], name, all_masked=False, suffixes=suffixes_of(name))
            for name in class_names
        }
    )


def pair_classes(images: Path, folders: Mapping[str, Path | None]) -> pd.DataFrame:
    """The case table of pictures whose masks lie in one folder for each class.

    Args:
        folders: class -> folder of its masks; None: no mask exists.
    """
    return _side_by_side(
        {
            name: pair(images, [folder] if folder else [], name, all_masked=False)
            for name, folder in folders.items()
        }
    )


def _side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of the classes of one folder of pictures as one, with a column for each class."""
    # All tables have the same images; each adds the column of its class to the first one.
    cases = next(iter(tables.values()))
    # Where the mask of one class is not clear, the others are still good.
    cases = cases.drop(columns="problem", errors="ignore")
    cases = cases.assign(**{name: table[name] for name, table in tables.items()})
    cases.attrs["notes"] = [note for table in tables.values() for note in table.attrs["notes"]]
    return cases


def for_task(
    cases: pd.DataFrame, column: str, task: str, class_names: Iterable[str], source: Path
) -> pd.DataFrame:
    """Rename `column`, which holds one mask for each image, to the column that the task needs.

    Args:
        source: the folder that error messages name.

    Raises:
        DataError: one mask for each image is not what the task needs.
    """
    class_names = list(class_names)
    if task == "binary":
        return cases.rename(columns={column: class_names[0]})
    if task == "multilabel":
        raise DataError(
            f"{source}: one mask file an image, but a multilabel network needs a mask file a "
            f"class; expected a folder a class, such as {source / class_names[0]}, or set "
            "task='multiclass' with the background as first class"
        )
    # Left and right masks can be united as one structure, but not as a map of class numbers.
    united = cases[column].str.contains(UNION, regex=False)
    for row in cases.index[united]:
        paths = [Path(path) for path in cases.at[row, column].split(UNION)]
        names = ", ".join(path.name for path in paths)
        text = (
            f"several mask files an image ({names}), but a multiclass network needs one "
            "label map an image; set task='binary', or write the label maps"
        )
        if len({path.parent for path in paths}) > 1:
            raise DataError(f"{source}: {text}")
        cases.loc[row, [column, "problem"]] = ["", text]
    return cases.rename(columns={column: "labels"})


def pictures(folder: Path) -> dict[str, Path]:
    """Stem -> file of all pictures in a folder, in natural order (2 before 10).

    Raises:
        DataError: a name that the case table cannot hold, or two files of one stem.
    """
    files = [
        file
        for file in folder.iterdir()
        if not file.name.startswith(".")
        and (file.suffix.lower() in SUFFIXES or dicom_pictures.is_picture(file))
    ]
    by_stem: dict[str, Path] = {}
    for file in sorted(files, key=_natural_order):
        if UNION in str(file):
            raise DataError(
                f"{file}: the character {UNION!r} separates mask files; rename the file or its "
                "folder"
            )
        if not _is_text(file.name):
            raise DataError(
                f"{file.parent}: the name {ascii(file.name)} is not valid UTF-8; rename that file"
            )
        if file.stem in by_stem:
            raise DataError(
                f"{file}: {by_stem[file.stem].name} has the same name before the suffix; keep one "
                "of the two"
            )
        # A link keeps its own path: the name of its target need not have a suffix.
        by_stem[file.stem] = Path(os.path.abspath(file))
    return by_stem


def folders(root: Path, depth: int) -> list[Path]:
    """`root` and the visible folders down to `depth` levels below it."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with images and masks")
    level, result = [root], [root]
    for _ in range(depth):
        level = [folder for parent in level for folder in subfolders(parent)]
        result += level
    return result


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    return [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith(".")]


def contents(root: Path) -> str:
    """What lies in a folder, for an error message: eight names at most."""
    if not root.is_dir():
        return "no such folder"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    if not names:
        return "an empty folder"
    return listed(names, most=8)


def _natural_order(file: Path) -> list[int | str]:
    """A sort key that compares digits in names as numbers."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if part.isdigit() else part for part in parts]


def _is_text(name: str) -> bool:
    """Whether the name is valid UTF-8, as a table needs it; names in old archives may not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
