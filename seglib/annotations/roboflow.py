"""Roboflow's semantic masks: `x_mask.png` beside `x.jpg`, and `_classes.csv` with the numbers.

The lines of `_classes.csv` are `Pixel Value, Class`. (Roboflow's COCO export is read by `coco`.)
"""

import csv
from pathlib import Path

import numpy as np

from ..errors import DataError, listed
from ..formats import images
from ..formats.legends import CLASSES_CSV
from . import shapes, sources
from .shapes import Annotated, Annotations, Shape

NAME = "Roboflow masks"
SUFFIX = "_mask.png"


def read(legend: Path) -> Annotations:
    """The masks in the folder of a `_classes.csv`, each class of a mask as one shape.

    Raises:
        DataError: a line or a mask is none that Roboflow writes, or a number has no name.
    """
    names = _names(legend)
    result = []
    for path in sorted(legend.parent.glob(f"*{SUFFIX}")):
        pixels, mode, _ = images.read_pixels(path)
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise DataError(
                f"{path}: a mask of mode {mode}; expected one number a pixel, as {CLASSES_CSV} "
                "beside it has them: export the masks again"
            )
        numbers = [int(number) for number in np.unique(pixels)]
        unknown = [number for number in numbers if number not in names]
        if unknown:
            raise DataError(
                f"{path}: it holds the number {listed(unknown)}, which {legend.name} does not "
                "name; correct the list"
            )
        drawn = [
            Shape(names[k], bitmap=shapes.bitmap_of(pixels == k), name=f"number {k}")
            for k in numbers
            if names[k] != shapes.BACKGROUND
        ]
        image = path.name.removesuffix(SUFFIX)
        height, width = pixels.shape
        result.append(Annotated(image, height, width, tuple(drawn), path, turned=False))
    in_order = (names[k] for k in sorted(names) if names[k] != shapes.BACKGROUND)
    return Annotations(result, tuple(dict.fromkeys(in_order)), {}, NAME)


def _names(legend: Path) -> dict[int, str]:
    """Number -> name of a `_classes.csv`."""
    names: dict[int, str] = {}
    rows = list(csv.reader(sources.text(legend).splitlines()))
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{legend}: line {line}"
        if len(row) < 2:
            raise DataError(f"{where} is {','.join(row)!r:.60}; expected a number and a name")
        number = sources.whole_number(row[0].strip(), f"{where}: the number", most=255)
        name = shapes.text_of(row[1], where, "class")
        names[number] = shapes.BACKGROUND if name.lower() == shapes.BACKGROUND else name
    if not names:
        raise DataError(f"{legend}: no class in it; expected lines such as 1,disc")
    return names
