"""CVAT: one XML file for many images ("CVAT for images 1.1").

Defined by docs.cvat.ai (XML annotation format): `<image>` with `<polygon>`, `<mask>`, `<box>` and
`<ellipse>`. The runs of a mask go along the rows of its box, beginning with pixels outside. Shapes
of a higher `z_order` lie above others. CVAT turns images by their EXIF tag.
"""

from pathlib import Path

import numpy as np

from ..errors import DataError, listed
from ..tables import SPLITS
from . import shapes, sources
from .shapes import Annotated, Annotations, Bitmap, Part, Shape

NAME = "CVAT"
_AREAS = ("polygon", "mask", "box", "ellipse")
_OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")


def read(path: Path) -> Annotations:
    """The shapes of all images in one file.

    Raises:
        DataError: no CVAT file for images, or an attribute is missing or wrong.
    """
    reader = _Reader(path)
    sources.parse_xml(path, reader.start, reader.end, reader.characters)
    if not reader.images and not reader.labels:
        raise DataError(
            f"{path}: neither images nor labels in it; expected a file of CVAT for images 1.1"
        )
    used = {shape.class_name for image in reader.images for shape in image.shapes}
    unknown = sorted(used - set(reader.labels))
    names = (*reader.labels, *unknown)
    notes = []
    if reader.left_out:
        kinds = listed(f"{kind} ({n})" for kind, n in reader.left_out.items())
        notes.append(f"{path.name}: shapes without an area are left out: {kinds}")
    if reader.n_boxes:
        notes.append(f"{path.name}: {shapes.boxes_note(reader.n_boxes)}")
    return Annotations(reader.images, names, reader.colours, NAME, tuple(notes))


class _Reader:
    """What is told by the elements of a file, in their order."""

    def __init__(self, path: Path):
        self.path = path
        self.above: list[str] = []
        self.images: list[Annotated] = []
        self.labels: dict[str, None] = {}
        self.colours: dict[str, tuple[int, int, int]] = {}
        self.left_out: dict[str, int] = {}
        self.n_boxes = 0
        self.image: dict[str, str] = {}
        self.drawn: list[tuple[int, Shape]] = []
        self.text = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.above and name != "annotations":
            raise DataError(
                f"{self.path}: an XML file that begins with <{name[:40]}>; expected <annotations>, "
                "as CVAT writes it"
                + (" (this is Pascal VOC, which has boxes only)" if name == "annotation" else "")
            )
        if name == "track":
            raise DataError(
                f"{self.path}: a file of CVAT for video, which numbers frames and does not name "
                'images; export the task as "CVAT for images 1.1"'
            )
        if len(self.above) > 50:
            raise DataError(f"{self.path}: elements in elements, 50 deep; export it again")
        if name == "image":
            self.image, self.drawn = attributes, []
        elif self.above[-1:] == ["image"]:
            self._shape(name, attributes)
        self.above.append(name)
        self.text = ""

    def end(self, name: str) -> None:
        self.above.pop()
        if self.above[-2:] == ["labels", "label"] and name == "name":
            self.labels[shapes.text_of(self.text, f"{self.path}: a label", "name")] = None
        elif self.above[-2:] == ["labels", "label"] and name == "color" and self.labels:
            colour = shapes.colour_of(self.text.strip())
            if colour:
                self.colours[list(self.labels)[-1]] = colour
        elif name == "image":
            self._finish_image()

    def characters(self, text: str) -> None:
        if len(self.text) < 1000:
            self.text += text

    def _shape(self, kind: str, attributes: dict[str, str]) -> None:
        number = len(self.drawn) + 1
        where = f"{self.path}: {self.image.get('name', 'an image')!r:.80}, shape {number} ({kind})"
        if kind in _OTHERS:
            self.left_out[kind] = self.left_out.get(kind, 0) + 1
        if kind not in _AREAS:
            return
        label = shapes.text_of(attributes.get("label"), where)
        parts: tuple[Part, ...] = ()
        bitmap = None
        degrees = 0.0
        if "rotation" in attributes:
            (degrees,) = shapes.numbers(attributes, ("rotation",), where)
        if kind == "mask":
            bitmap = _bitmap(attributes, where)
        elif kind == "polygon":
            parts = ((shapes.ring(_points(attributes.get("points", "")), where),),)
        elif kind == "box":
            self.n_boxes += 1
            sides = shapes.numbers(attributes, ("xtl", "ytl", "xbr", "ybr"), where)
            left, top, right, bottom = sides
            parts = ((shapes.rectangle(left, top, right - left, bottom - top, degrees),),)
        else:
            ellipse = shapes.numbers(attributes, ("cx", "cy", "rx", "ry"), where)
            parts = ((shapes.ellipse(*ellipse, degrees),),)
        z_order = attributes.get("z_order", "0")
        try:
            order = int(z_order)
        except ValueError:
            raise DataError(
                f"{where}: its z_order is {z_order!r:.40}; expected a whole number"
            ) from None
        self.drawn.append((order, Shape(label, parts, bitmap, f"shape {number}")))

    def _finish_image(self) -> None:
        where = f"{self.path}: image {len(self.images) + 1}"
        in_order = sorted(self.drawn, key=lambda drawn: drawn[0])  # of one order, as in the file
        self.images.append(
            Annotated(
                image=sources.image_name(self.image.get("name"), where),
                height=sources.size_of(self.image.get("height"), f"{where}: height"),
                width=sources.size_of(self.image.get("width"), f"{where}: width"),
                shapes=tuple(shape for _, shape in in_order),
                source=self.path,
                turned=True,
                split=SPLITS.get(self.image.get("subset", "").lower(), ""),
            )
        )


def _points(text: str) -> list[list[str]]:
    """The pairs of "x,y;x,y"."""
    return [pair.split(",") for pair in text.split(";") if pair.strip()]


def _bitmap(attributes: dict[str, str], where: str) -> Bitmap:
    names = ("top", "left", "height", "width")
    box = [
        sources.whole_number(attributes.get(name), f"{where}: {name}", most=1e6) for name in names
    ]
    text = attributes.get("rle", "")
    try:
        runs = np.array([int(run) for run in text.split(",")], np.int64)
    except (ValueError, OverflowError):
        raise DataError(
            f"{where}: its rle is {text!r:.60}; expected whole numbers with commas between"
        ) from None
    top, left, height, width = box
    return Bitmap(runs, height, width, top, left, by_columns=False)
