"""Annotation files of labelling tools, read and written.

`read` finds out which tool wrote a file or a folder; `drawing.draw` makes masks of its shapes. All
formats share the coordinates that `shapes` defines.
"""

from pathlib import Path

from ..errors import DataError
from . import labelme, sources
from .drawing import draw as draw
from .shapes import Annotated as Annotated
from .shapes import Annotations as Annotations
from .shapes import Shape as Shape

# Formats of JSON files; each module has NAME, `fits(document)` and `read(path, document)`.
_JSON = (labelme,)


def read(path: str | Path) -> Annotations:
    """The annotations in a file, or in all files of a folder.

    Raises:
        DataError: no annotation file, or one that is damaged or contradicts itself.
    """
    path = Path(path)
    document = sources.parsed_json(path)
    module = next((module for module in _JSON if module.fits(document)), None)
    if module is None:
        raise DataError(f"{path}: none of the formats {', '.join(m.NAME for m in _JSON)}")
    return module.read(path, document)
