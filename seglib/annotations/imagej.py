"""ImageJ and Fiji: ROI files (.roi), and ROI sets of the ROI Manager (a ZIP file of them).

Defined by ImageJ's RoiDecoder, read here by roifile. A set belongs to the image whose name it has,
also with "RoiSet" before or behind it. The class of a ROI is its name without the number at the
end; names of numbers only, as the ROI Manager gives them, are no classes.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import roifile

from ..errors import DataError, first_line, listed
from . import shapes, sources
from .shapes import Annotated, Annotations, Part, Shape

NAME = "ImageJ"
SUFFIXES = (".roi", ".zip")
_MOST_BYTES = 20_000_000  # of one ROI
_AREAS = {"POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED"}
# Names that programs make up.
_GENERATED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}", re.IGNORECASE)
_SET = re.compile(r"[-_. ]*roi[-_. ]?sets?[-_. ]*|[-_. ]*rois?$", re.IGNORECASE)


def read(path: Path) -> Annotations:
    """The shapes of a ROI file, or of a set.

    Raises:
        DataError: no ROI in it, a damaged one, or ROIs on several slices of a stack.
    """
    drawn, left_out, slices, colours = [], {}, {}, {}
    for name, content in _files(path):
        where = f"{path}: {name}"
        try:
            roi = _decoded(content)
            rings = [np.array(ring, np.float64) for ring in _rings(roi)]
        except Exception as error:  # roifile raises whatever struct, numpy and enum do
            raise DataError(
                f"{where}: not readable as a ROI of ImageJ ({first_line(error)}); save it again"
            ) from error
        kind = roi.roitype.name
        if kind not in _AREAS or not rings or roi.subtype in (1, 2, 4):  # text, arrow, image
            left_out[kind] = left_out.get(kind, 0) + 1
            continue
        position = (roi.position, roi.c_position, roi.z_position, roi.t_position)
        slices.setdefault(tuple(max(0, number) for number in position), name)
        part: Part = tuple(shapes.ring(ring, where) for ring in rings)
        class_name = _class(roi.name or Path(name).stem, roi.group)
        colour = roi.stroke_color if any(roi.stroke_color[1:]) else None
        if colour:
            colours[class_name] = (colour[1], colour[2], colour[3])
        # Its rings are those of a path with the even-odd rule, also where they are several.
        drawn.append(Shape(class_name, (part,), name=name))
    if len(slices) > 1:
        raise DataError(
            f"{path}: its ROIs lie on different slices or channels of a stack ("
            f"{listed(slices.values())}); expected those of one image: save a set for each slice, "
            "and the slices as images"
        )
    if not drawn and not left_out:
        raise DataError(f"{path}: no ROI in it; expected files ending in .roi")
    stem = _SET.sub("", path.stem) or path.stem
    image = Annotated(stem, None, None, tuple(drawn), path, turned=False)
    notes = []
    if left_out:
        kinds = listed(f"{kind.lower()} ({n})" for kind, n in left_out.items())
        notes.append(f"{path.name}: ROIs without an area are left out: {kinds}")
    return Annotations([image], shapes.alphabetical([image]), colours, NAME, tuple(notes))


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each ROI."""
    if path.suffix.lower() == ".zip":
        yield from sources.entries(path, ".roi", _MOST_BYTES)
    else:
        content = sources.content(path)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: {len(content) / 1e6:.0f} MB; expected a small .roi file")
        yield path.name, content


def _decoded(content: bytes) -> roifile.ImagejRoi:
    """A ROI; what roifile only warns of, such as a name beyond the end of the file, is an error."""
    logger = logging.getLogger("roifile")
    warnings: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = warnings.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        roi = roifile.ImagejRoi.frombytes(content)
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
    if warnings:
        raise ValueError(warnings[0].getMessage())
    return roi


def _rings(roi: roifile.ImagejRoi) -> list[np.ndarray]:
    """The rings of a ROI, () for one without an area; coordinates of corners, as in `shapes`."""
    kind = roi.roitype.name
    if kind in ("RECT", "OVAL") and not roi.composite:
        left, top, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
        if roi.subpixelrect:
            left, top, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
        if kind == "RECT":
            return [shapes.rectangle(left, top, width, height)]
        centre = (left + width / 2, top + height / 2)
        return [shapes.ellipse(*centre, width / 2, height / 2)]
    return [ring for ring in roi.coordinates(multi=True) if len(ring)]


def _class(name: str, group: int) -> str:
    """The class of a ROI: the words of its name, else its group."""
    name = "" if _GENERATED.match(name) else name
    stem = re.sub(r"[-_. #(]*\d[-_\d. ()]*$", "", " ".join(name.split()))
    if stem:
        return stem
    return f"group {group}" if group > 0 else shapes.UNNAMED
