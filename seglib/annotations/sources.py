"""Annotation files opened without trust: no code, no entities, no more memory than a limit."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from ..errors import DataError, first_line

MOST_BYTES = 400_000_000  # of one annotation file
MOST_MEMORY = 2_000_000_000  # of the objects of one JSON file, as estimated before it is parsed
MOST_FILES = 200_000  # of a folder
MOST_UNPACKED = 500_000_000  # bytes of all entries of a ZIP file
_CONTAINER_BYTES, _VALUE_BYTES = 90, 40  # what a list or object, and a value in it, take at least


def content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: no such file, empty, or larger than an annotation file can be.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; expected an annotation file")
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); export or copy it again")
    if n_bytes > MOST_BYTES:
        raise DataError(
            f"{path}: {n_bytes / 1e6:.0f} MB; expected an annotation file of at most "
            f"{MOST_BYTES / 1e6:.0f} MB: export it in several parts"
        )
    return path.read_bytes()


def text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        DataError: as `content`, or of another encoding.
    """
    raw = content(path)
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a text file in UTF-8 (byte {error.start + 1}); save it in that encoding"
        ) from error


def parsed_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: as `text`, no JSON, or its objects would take more than `MOST_MEMORY`.
    """
    document = text(path)
    n_containers = document.count("[") + document.count("{")
    n_values = document.count(",") + document.count(":")
    memory = n_containers * _CONTAINER_BYTES + n_values * _VALUE_BYTES
    if memory > MOST_MEMORY:
        raise DataError(
            f"{path}: {n_containers} lists and objects, which would take {memory / 1e9:.1f} GB of "
            f"memory; expected at most {MOST_MEMORY / 1e9:.1f} GB: export it in several parts"
        )
    try:
        return json.loads(document)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path}: not readable as JSON ({first_line(error)}); it is damaged or cut short: "
            "export it again"
        ) from error


def parse_xml(
    path: Path,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    characters: Callable[[str], None],
) -> None:
    """Read an XML file element by element; a document type, which can define entities, is refused.

    Raises:
        DataError: as `content`, or no well-formed XML.
    """
    raw = content(path)
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters

    def refuse(*_: Any) -> None:
        raise DataError(
            f"{path}: it has a document type (<!DOCTYPE ...>), which annotation tools do not "
            "write and which can blow up the memory; expected a file as it was exported"
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not readable as XML ({first_line(error)}); it is damaged or cut short: "
            "export it again"
        ) from error


def entries(path: Path, suffix: str, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of the entries of a ZIP file that end in `suffix`; nothing is unpacked.

    Raises:
        DataError: no ZIP file, a damaged one, or entries that grow beyond the limits.
    """
    content(path)
    left = MOST_UNPACKED
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename
                if not name.lower().endswith(suffix) or name.startswith("__MACOSX/"):
                    continue
                with archive.open(entry) as file:
                    # The size in the header may be a lie.
                    unpacked = file.read(most_bytes + 1)
                left -= len(unpacked)
                if len(unpacked) > most_bytes or left < 0:
                    raise DataError(
                        f"{path}: its entry {name!r:.80} grows to more than {most_bytes / 1e6:g} "
                        f"MB, or all to more than {MOST_UNPACKED / 1e6:g} MB; expected small "
                        f"{suffix} files"
                    )
                yield name, unpacked
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, bz2 and lzma raise a dozen kinds
        raise DataError(
            f"{path}: not readable as a ZIP file ({first_line(error)}); it is damaged, cut short "
            "or encrypted: export it again"
        ) from error


def whole_number(value: Any, where: str, most: float = math.inf) -> int:
    """A whole number from 0 that a file may also write as 3.0 or "3".

    Raises:
        DataError: it is none, or larger than `most`.
    """
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not (0 <= number <= min(most, 2.0**53) and number.is_integer()):
        limit = f" up to {most:g}" if most < math.inf else ""
        raise DataError(f"{where} is {value!r:.40}; expected a whole number from 0{limit}")
    return int(number)


def size_of(value: Any, where: str) -> int | None:
    """A height or width in pixels; None where the file does not say it."""
    if value is None or value == "":
        return None
    number = whole_number(value, where, most=1e6)
    if number == 0:
        raise DataError(f"{where} is 0; expected a number of pixels")
    return number


def image_name(value: Any, where: str) -> str:
    """The name of an image, with "/" between folders.

    Raises:
        DataError: it is no text, or empty.
    """
    name = value.replace("\\", "/").strip() if isinstance(value, str) else ""
    if not name or "\0" in name:
        raise DataError(f"{where}: its image is {value!r:.60}; expected the name of a file")
    return name
