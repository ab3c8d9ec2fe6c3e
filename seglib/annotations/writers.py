"""Masks written for labelling tools: as COCO or LabelMe, so that they can be corrected there.

Each connected component of a class becomes one annotation. Neither format has polygons with holes;
a ring goes to each hole over a bridge and back (`outlines.joined`), which all tools show and draw
as a hole. Coordinates, sizes and masks are those of the picture as viewers show it, turned by its
EXIF or TIFF tag. Defined by cocodataset.org (format-data) and labelme's own files, version 5.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import ConfigError, DataError
from ..formats import codecs
from ..tables import ANNOTATION_FORMS
from . import outlines, rle
from .outlines import Component
from .shapes import IGNORED

COCO_FILE = "annotations.json"
DECIMALS = 2  # of coordinates in a file
LABELME_VERSION = "5.5.0"
SEGMENTATIONS = ("polygons", "rle", "uncompressed_rle")
_LABELS = {IGNORED: "__ignore__"}
Planes = Mapping[str, np.ndarray]  # class -> its mask (H, W) bool; classes may overlap


class Coco:
    """One COCO file for the masks of many pictures.

    Args:
        path: the file, or a folder that receives `annotations.json`.
        root: the folder of all pictures, to which the names of their files are relative; None: the
            names are without folders.
        class_names: the classes without a background; they become the categories 1, 2, ...
        segmentation: "polygons"; "rle", compressed run lengths; or "uncompressed_rle".
        tolerance: of polygons, see `outlines.part_of`.

    Raises:
        ConfigError: no such segmentation, or a tolerance that is negative or no number.
        DataError: the file exists already.
    """

    def __init__(
        self,
        path: str | Path,
        class_names: Sequence[str],
        segmentation: str = "polygons",
        tolerance: float = outlines.EXACT,
        root: str | Path | None = None,
    ):
        if segmentation not in SEGMENTATIONS:
            raise ConfigError(
                f"segmentation: {segmentation!r} is not allowed; expected "
                f"{', '.join(SEGMENTATIONS)}"
            )
        path = Path(path)
        self.path = path if path.suffix == ".json" else path / COCO_FILE
        _refuse_existing(self.path)
        self.root = root
        outlines.check(tolerance)
        self.category_of = {name: number for number, name in enumerate(class_names, start=1)}
        self.segmentation = segmentation
        self.tolerance = tolerance
        self.pictures: dict[str, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def add(self, image: str | Path, planes: Planes, orientation: int = 1, name: str = "") -> None:
        """The masks of one picture.

        Args:
            image: the path of its file.
            planes: as the pixels of the picture are stored.
            orientation: the tag by which viewers turn the picture, see `images.exif_orientation`.
            name: not used; another writer names its file by it.

        Raises:
            DataError: masks of different sizes, or a picture that was added before.
        """
        file = Path(image).name
        if self.root is not None:
            file = _relative(Path(image), Path(self.root))
        if file in self.pictures:
            raise DataError(f"{file}: added twice to {self.path}; expected each picture once")
        shape, turned = _turned(file, planes, orientation)
        entries = [
            {
                "category_id": self._category(class_name),
                "segmentation": self._segmentation(component, shape),
                "area": component.n_pixels,
                "bbox": _box(component),
                "iscrowd": 0,
            }
            for class_name, plane in turned.items()
            for component in outlines.components(plane)
        ]
        self.pictures[file] = (shape, entries)

    def _category(self, class_name: str) -> int:
        """The number of a class; one that is not listed, such as ignored pixels, comes last."""
        return self.category_of.setdefault(class_name, len(self.category_of) + 1)

    def _segmentation(self, component: Component, shape: tuple[int, int]) -> Any:
        if self.segmentation == "polygons":
            ring = outlines.joined(outlines.part_of(component, self.tolerance))
            return [ring.round(DECIMALS).ravel().tolist()]
        height, width = shape
        runs = rle.encode(component.inside, component.top, component.left, height, width)
        counts = rle.compress(runs) if self.segmentation == "rle" else runs
        return {"size": [height, width], "counts": counts}

    def save(self) -> Path:
        """Write the file, with the pictures by name; returns its path."""
        document: dict[str, Any] = {
            "info": {"description": "masks exported by seglib"},
            "licenses": [],
            "images": [],
            "annotations": [],
            "categories": [
                {"id": number, "name": name, "supercategory": ""}
                for name, number in self.category_of.items()
            ],
        }
        for number, file in enumerate(sorted(self.pictures), start=1):
            (height, width), entries = self.pictures[file]
            picture = {"id": number, "file_name": file, "height": height, "width": width}
            document["images"].append(picture)
            for entry in entries:
                identity = {"id": len(document["annotations"]) + 1, "image_id": number}
                document["annotations"].append(identity | entry)
        return files.write_text(self.path, json.dumps(document, ensure_ascii=False))


class LabelMe:
    """A LabelMe file for each picture.

    Args:
        folder: receives the files.
        tolerance: of polygons, see `outlines.part_of`.
    """

    def __init__(self, folder: str | Path, tolerance: float = outlines.EXACT):
        outlines.check(tolerance)
        self.folder = Path(folder)
        self.tolerance = tolerance

    def add(self, image: str | Path, planes: Planes, orientation: int = 1, name: str = "") -> Path:
        """Write the file of one picture.

        Args:
            image: the path of its file, which LabelMe opens.
            planes, orientation: as for `Coco.add`.
            name: of the file, by default that of the image, without a suffix.

        Raises:
            DataError: masks of different sizes, or the file exists already.
        """
        image = Path(image)
        path = self.folder / f"{name or image.stem}.json"
        _refuse_existing(path)
        (height, width), turned = _turned(image.name, planes, orientation)
        shapes = [
            {
                "label": _LABELS.get(class_name, class_name),
                "points": self._points(component),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for class_name, plane in turned.items()
            for component in outlines.components(plane)
        ]
        document = {
            "version": LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _relative(image, self.folder),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        return files.write_text(path, json.dumps(document, ensure_ascii=False, indent=1))

    def _points(self, component: Component) -> list[list[float]]:
        ring = outlines.joined(outlines.part_of(component, self.tolerance))
        return ring.round(DECIMALS).tolist()

    def save(self) -> Path:
        """The folder; all files are written already."""
        return self.folder


def writer(
    form: str,
    folder: str | Path,
    class_names: Sequence[str],
    tolerance: float = outlines.EXACT,
    root: str | Path | None = None,
) -> Coco | LabelMe:
    """The writer of one of `tables.ANNOTATION_FORMS`; see `Coco` and `LabelMe`.

    Raises:
        ConfigError: no such form, or a tolerance that is negative or no number.
        DataError: the file of COCO exists already.
    """
    if form not in ANNOTATION_FORMS:
        raise ConfigError(
            f"annotations: {form!r} is not allowed; expected {', '.join(ANNOTATION_FORMS)}"
        )
    if form == "labelme":
        return LabelMe(folder, tolerance)
    return Coco(folder, class_names, ANNOTATION_FORMS[form], tolerance, root)


def _refuse_existing(path: Path) -> None:
    """Refuse to overwrite a file that somebody may have corrected by hand."""
    if path.exists():
        raise DataError(
            f"{path}: exists already, and may hold corrections made by hand; give another folder, "
            "or move the file away"
        )


def _turned(
    image: str, planes: Planes, orientation: int
) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Height and width of a picture, and its masks as bool, as viewers show it."""
    turned = {
        name: codecs.TURN.get(orientation, codecs.TURN[1])(np.asarray(plane, bool))
        for name, plane in planes.items()
    }
    sizes = {plane.shape for plane in turned.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        raise DataError(
            f"{image}: masks of {sorted(sizes)} pixels; expected one mask (height, width) or more, "
            "all of the picture's size"
        )
    return sizes.pop(), turned


def _box(component: Component) -> list[int]:
    """Left, top, width and height."""
    height, width = component.inside.shape
    return [component.left, component.top, width, height]


def _relative(image: Path, folder: Path) -> str:
    """The path of an image as LabelMe finds it from a folder."""
    try:
        path = os.path.relpath(image.absolute(), folder.absolute())
    except ValueError:  # another drive on Windows
        path = str(image.absolute())
    return path.replace(os.sep, "/")
