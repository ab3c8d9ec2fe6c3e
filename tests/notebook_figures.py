"""Figures as notebooks are committed with them: full colour, small files, alt text."""

import base64
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

MAX_WIDTH = 1200  # a page shows no more
QUALITY = 82  # of JPEG: noise of phantoms and edges of text still look as in the PNG
# A JPEG is taken where it is so much smaller: then it is a photograph, not a drawing.
SMALLER = 0.7
KINDS = ("image/png", "image/jpeg")


def images_of(cell: Any) -> Iterator[tuple[Any, str]]:
    """(output, MIME type) of each picture among the outputs of a code cell."""
    for output in cell.get("outputs", []):
        for kind in KINDS:
            if kind in output.get("data", {}):
                yield output, kind


def opened(output: Any, kind: str) -> Image.Image:
    """The picture of an output, as its file holds it."""
    return Image.open(io.BytesIO(base64.b64decode(output.data[kind])))


def encode(picture: Image.Image) -> tuple[str, bytes]:
    """(MIME type, content): JPEG for photographs, PNG for drawings, each in full colour."""
    picture = picture.convert("RGB")
    picture.thumbnail((MAX_WIDTH, 10 * MAX_WIDTH), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=QUALITY, subsampling=0)
    if jpeg.tell() < SMALLER * png.tell():
        return "image/jpeg", jpeg.getvalue()
    return "image/png", png.getvalue()


def tidy(cell: Any) -> None:
    """Encode the figures of a code cell, and give each its text of the cell's `alt` metadata."""
    texts = list(cell.metadata.get("alt", []))
    for number, (output, kind) in enumerate(list(images_of(cell))):
        old = output.data.pop(kind)
        content = base64.b64decode(old)
        if kind == "image/png":
            kind, content = encode(Image.open(io.BytesIO(content)).convert("RGB"))
        output.data[kind] = base64.b64encode(content).decode()
        output.metadata = {name: v for name, v in output.metadata.items() if name not in KINDS}
        if number < len(texts):
            output.metadata[kind] = {"alt": texts[number]}
