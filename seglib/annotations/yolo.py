"""YOLO segmentation: a text file for each image, with a line for each outline.

Defined by docs.ultralytics.com: `class x1 y1 x2 y2 ...` with coordinates as shares of width and
height. The images lie in `images`, the text files in `labels` at the same place, and `data.yaml`
above them names the classes (`classes.txt` in exports of Label Studio).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import DataError, first_line
from ..tables import SPLITS
from . import shapes, sources
from .shapes import Annotated, Annotations, Shape

NAME = "YOLO"
_MOST_YAML_BYTES = 1_000_000
_MOST_CLASSES = 10_000


def data_file(folder: Path) -> Path | None:
    """The file in a folder that names the classes; None where there is none."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    files = [file for file in files if file.is_file() and _names_in(file) is not None]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{folder}: {names} name classes; keep the one that belongs to the labels")
    lists = [folder / name for name in ("classes.txt", "obj.names") if (folder / name).is_file()]
    return files[0] if files else next(iter(lists), None)


def read(folder: Path, label_files: list[Path], names_file: Path | None) -> Annotations:
    """The shapes of all label files of a folder.

    Raises:
        DataError: a line is none of this format, a class has no name, or all lines are boxes.
    """
    names = class_names(names_file) if names_file else {}
    images, n_boxes, n_shapes = [], 0, 0
    for path in label_files:
        drawn = []
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            label, numbers = _parsed(line, where)
            if len(numbers) == 4:
                n_boxes += 1
                continue
            n_shapes += 1
            if names_file and label not in names:
                raise DataError(
                    f"{where}: class {label}, which {names_file} does not name; it names "
                    f"{', '.join(map(str, names)) or 'none'}"
                )
            name = names.setdefault(label, f"class_{label}")
            ring = shapes.ring(np.reshape(numbers, (-1, 2)), where)
            drawn.append(Shape(name, ((ring,),), name=f"line {number}"))
        images.append(_annotated(path, folder, tuple(drawn)))
    notes = []
    if n_boxes and not n_shapes:
        raise DataError(
            f"{folder}: all {n_boxes} lines are boxes (class, centre, width, height); expected "
            "outlines: export them for YOLO segmentation"
        )
    if n_boxes:
        notes.append(f"{NAME}: {n_boxes} boxes without an outline are left out")
    if not names_file and n_shapes:
        notes.append(
            f"{NAME}: no data.yaml or classes.txt names the classes; they are called "
            f"{', '.join(sorted(names.values()))}"
        )
    in_order = tuple(dict.fromkeys(names[label] for label in sorted(names)))
    return Annotations(images, in_order, {}, NAME, tuple(notes))


def is_label_file(path: Path) -> bool:
    """Whether the first lines of a text file are of this format, or it is empty."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(20_000).splitlines()[:3]
        for line in filter(str.strip, lines[:2]):
            _parsed(line, str(path), cut=len(lines) < 2)
    except (OSError, ValueError):
        return False
    return True


def class_names(path: Path) -> dict[int, str]:
    """Number -> name of a `data.yaml`, or of a list with a name a line.

    Raises:
        DataError: no names in it.
    """
    if path.suffix.lower() in (".txt", ".names"):
        lines = [line for line in sources.text(path).splitlines() if line.strip()]
        return {k: shapes.text_of(line, f"{path}: line {k + 1}") for k, line in enumerate(lines)}
    names = _names_in(path)
    if names is None:
        raise DataError(f"{path}: no names in it; expected names: [first, second]")
    return names


def _names_in(path: Path) -> dict[int, str] | None:
    """Number -> name in a YAML file; None where it has no `names`."""
    if path.stat().st_size > _MOST_YAML_BYTES:
        return None
    text = sources.text(path) if path.stat().st_size else ""
    try:
        # An alias may repeat what it names, many times over.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise DataError(f"{path}: aliases (*name) in it; write the names out")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not readable as YAML ({first_line(error)}); correct it"
        ) from error
    names: Any = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or len(names) > _MOST_CLASSES:
        return None
    return {
        sources.whole_number(number, f"{path}: a class number"): shapes.text_of(
            name, f"{path}: class {number}", "name"
        )
        for number, name in names.items()
    }


def _parsed(line: str, where: str, cut: bool = False) -> tuple[int, list[float]]:
    """Class number and coordinates of a line.

    Args:
        cut: whether the end of the line may be missing.
    """
    label, *values = line.split()
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    is_outline = len(numbers) == 4 or (len(numbers) >= 6 and (cut or len(numbers) % 2 == 0))
    if not label.isdecimal() or not is_outline:
        raise DataError(
            f"{where}: {line.strip()!r:.60}; expected a class number and pairs of coordinates"
        )
    # Outlines may reach over the border a little; pixels would be far above 1.
    if not all(math.isfinite(number) and -1 <= number <= 2 for number in numbers):
        raise DataError(
            f"{where}: coordinates from {min(numbers):g} to {max(numbers):g}; expected shares of "
            "width and height, 0 to 1: export the labels again"
        )
    return int(label), numbers


def _annotated(path: Path, folder: Path, drawn: tuple[Shape, ...]) -> Annotated:
    """The image of a label file: without a suffix, and in `images` where that is in `labels`."""
    parts = list(path.relative_to(folder).with_suffix("").parts)
    split = next((SPLITS[part.lower()] for part in parts[:-1] if part.lower() in SPLITS), "")
    parts = ["images" if part == "labels" else part for part in parts[:-1]] + parts[-1:]
    return Annotated(
        "/".join(parts), None, None, drawn, path, relative=True, turned=True, split=split
    )


def _lines(path: Path) -> list[str]:
    """The lines of a label file, which is empty for an image without a structure."""
    return sources.text(path).splitlines() if path.stat().st_size else []
