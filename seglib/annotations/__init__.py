"""Annotation files of labelling tools, read and written.

`read` finds out which tool wrote a file or a folder, `draw` makes masks of what it says. All
formats share the classes and the coordinates of `shapes`.
"""

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, grouped, listed
from ..formats.legends import CLASSES_CSV
from ..tables import SPLITS
from . import coco, cvat, geojson, imagej, labelme, roboflow, sources, via, yolo
from .drawing import draw as draw
from .shapes import Annotated as Annotated
from .shapes import Annotations as Annotations
from .shapes import Shape as Shape

FORMATS = (
    "LabelMe, COCO, CVAT for images 1.1, VIA, YOLO segmentation, Roboflow, GeoJSON (QuPath) or "
    "ImageJ ROIs"
)
SUFFIXES = (".json", ".geojson", ".xml", ".csv", ".txt", *imagej.SUFFIXES)
# Folders beside the images in which annotation files usually lie.
_FOLDERS_BESIDE = (
    "annotations",
    "annotation",
    "annots",
    "ann",
    "labels",
    "json",
    "jsons",
    "labelme",
    "geojson",
    "rois",
    "roi",
)
_LOOKED_AT = 20  # files of a folder that `find` opens
_START = 10_000  # bytes of a file that tell its format, where it is no JSON

# What opens a file: the format's name, and a function that reads it.
_Opened = tuple[str, Callable[[], Annotations]]


def read(
    path: str | Path, nested: str | None = None, class_attribute: str | None = None
) -> Annotations:
    """The annotations in a file, or in all files of a folder and of the folders in it.

    Args:
        nested: of COCO, what a polygon inside another polygon of its annotation is: "holes" or
            "filled"; None: what the area of the annotation says.
        class_attribute: of VIA, the region attribute that holds the class; None: the only one, or
            the one with a usual name.

    Raises:
        DataError: no annotation file, files of several tools, a damaged file, or one that
            contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, nested, class_attribute)
    sources.content(path)
    if path.suffix.lower() == ".txt":
        raise DataError(
            f"{path}: a text file; of YOLO, give the folder with all text files and data.yaml"
        )
    opened = _opened(path, nested, class_attribute)
    if opened is None:
        raise DataError(f"{path}: none of the annotation files that are read: {FORMATS}")
    return opened[1]()


def find(images: str | Path) -> Path | None:
    """Annotation files among the images of a folder or beside that folder; None for none.

    Returns:
        The folder that holds them, or the one file beside the folder of the images.

    Raises:
        DataError: several files beside the folder.
    """
    images = Path(images).absolute()
    beside = [images.parent / name for name in _FOLDERS_BESIDE]
    for folder in (images, *(folder for folder in beside if folder.is_dir())):
        if folder == images or folder.name != images.name:
            candidates = _sampled(_files(folder))
            if any(_is_annotation(file) for file in candidates):
                return folder
    files = [file for file in _files(images.parent, depth=0) if _is_annotation(file)]
    if len(files) > 1:
        names = listed(file.name for file in files)
        raise DataError(
            f"{images.parent}: several annotation files ({names}); give the one that is meant as "
            "--annotations"
        )
    return files[0] if files else None


# ---- files


def _opened(path: Path, nested: str | None, class_attribute: str | None) -> _Opened | None:
    """The format of a file and what reads it; None for a file of another kind.

    Raises:
        DataError: it cannot be read, so that its format is not known.
    """
    suffix = path.suffix.lower()
    if suffix in (".json", ".geojson"):
        document = sources.parsed_json(path)
        readers: dict[Any, Callable[[], Annotations]] = {
            labelme: lambda: labelme.read(path, document),
            coco: lambda: coco.read(path, document, nested),
            via: lambda: via.read(path, document, class_attribute),
            geojson: lambda: geojson.read(path, document),
        }
        module = next((module for module in readers if module.fits(document)), None)
        return (module.NAME, readers[module]) if module else None
    if suffix == ".csv":
        if path.name == CLASSES_CSV:
            return roboflow.NAME, lambda: roboflow.read(path)
        if via.fits_csv(_start(path)):
            return via.NAME, lambda: via.read_csv(path, class_attribute)
    if suffix == ".xml":
        return cvat.NAME, lambda: cvat.read(path)
    if suffix == ".roi" or (suffix == ".zip" and _has_rois(path)):
        return imagej.NAME, lambda: imagej.read(path)
    return None


def _is_annotation(path: Path) -> bool:
    """Whether a file is of a format that is read."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return path.stat().st_size > 0 and yolo.is_label_file(path)
    if suffix == ".xml" and "<annotations" not in _start(path):
        return False
    if path.stat().st_size > sources.MOST_BYTES:
        return False
    try:
        return _opened(path, None, None) is not None
    except DataError:
        return False


def _start(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(_START).decode("utf-8", "replace")


def _has_rois(path: Path) -> bool:
    """Whether a ZIP file holds ROIs; True for a damaged one, so that its reader says so."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(".roi") for name in archive.namelist())
    except Exception:
        return True


# ---- folders


def _files(folder: Path, depth: int = 6) -> Iterator[Path]:
    """The files in a folder whose suffix is one of `SUFFIXES`, by name, down to a depth.

    Raises:
        DataError: more of them than any data set has.
    """
    n_files = 0
    for place, folders, names in os.walk(folder):
        level = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name[0] not in "._" and level < depth)
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            n_files += 1
            if n_files > sources.MOST_FILES:
                raise DataError(
                    f"{folder}: more than {sources.MOST_FILES} files; give the folder that holds "
                    "the annotations only"
                )
            yield Path(place) / name


def _sampled(files: Iterator[Path]) -> list[Path]:
    """The first files of each suffix, as pictures may lie among many text files."""
    sample: dict[str, list[Path]] = {}
    for file in files:
        of_suffix = sample.setdefault(file.suffix.lower(), [])
        if len(of_suffix) < _LOOKED_AT:
            of_suffix.append(file)
    return [file for of_suffix in sample.values() for file in of_suffix]


def _read_folder(folder: Path, nested: str | None, class_attribute: str | None) -> Annotations:
    by_format: dict[str, list[Annotations]] = {}
    label_files = []
    others = []
    for path in _files(folder):
        if path.suffix.lower() == ".txt":
            label_files.append(path)
            continue
        is_other = path.suffix.lower() == ".xml" and not _is_annotation(path)
        opened = None if is_other else _opened(path, nested, class_attribute)
        if opened is None:
            others.append(path.name)
        else:
            part = _with_split(opened[1](), folder, path)
            by_format.setdefault(opened[0], []).append(part)
    labels = _yolo(folder, label_files)
    if labels:
        by_format[yolo.NAME] = [labels]
    if len(by_format) > 1:
        examples = ", ".join(
            f"{name} ({parts[0].images[0].source.name if parts[0].images else 'no image'})"
            for name, parts in by_format.items()
        )
        raise DataError(
            f"{folder}: annotations of several tools: {examples}; give the file or the folder of "
            "the one that is meant"
        )
    if not by_format:
        what = f"; found {listed(others, 5)}" if others else ""
        raise DataError(f"{folder}: no annotation files in it; expected {FORMATS}{what}")
    return _merged(next(iter(by_format.values())))


def _yolo(folder: Path, files: list[Path]) -> Annotations | None:
    """The text files of a folder that are labels, with the names that lie there or above."""
    names_file = next(filter(None, map(yolo.data_file, _with_parents(folder))), None)
    files = [path for path in files if path != names_file]
    has_content = [path for path in files if path.stat().st_size]
    labels = [path for path in has_content if yolo.is_label_file(path)]
    if not labels:
        return None
    places = {path.parent for path in labels}
    # Where the names of the classes lie, all text files in the folders of labels are labels.
    wrong = [path for path in has_content if path.parent in places and path not in set(labels)]
    if names_file and wrong and any(place.name == "labels" for place in places):
        labels += wrong  # their reader says what is wrong
    empty = [path for path in files if not path.stat().st_size and path.parent in places]
    return yolo.read(folder, sorted([*labels, *empty]), names_file)


def _with_parents(folder: Path) -> list[Path]:
    """A folder, and the two above it."""
    return [folder.absolute(), *folder.absolute().parents[:2]]


def _with_split(part: Annotations, folder: Path, path: Path) -> Annotations:
    """The part of the split that the folders or the words of a file's name say."""
    relative = path.relative_to(folder)
    tokens = [*(name.lower() for name in relative.parts[:-1])]
    tokens += re.split(r"[^a-z]+", path.stem.lower())
    split = next((SPLITS[token] for token in tokens if token in SPLITS), "")
    images = [
        dataclasses.replace(image, split=split) if split and not image.split else image
        for image in part.images
    ]
    return dataclasses.replace(part, images=images)


def _merged(parts: list[Annotations]) -> Annotations:
    """The annotations of several files of one format."""
    images = [image for part in parts for image in part.images]
    names = [name for part in parts for name in part.class_names]
    if parts[0].format in (labelme.NAME, geojson.NAME, imagej.NAME, via.NAME):
        names.sort()  # these have no list of classes
    colours = {name: colour for part in parts for name, colour in part.colours.items()}
    notes = grouped(note for part in parts for note in part.notes)
    return Annotations(images, tuple(dict.fromkeys(names)), colours, parts[0].format, tuple(notes))
