"""What files beside a data set, and the headers of label maps, say about numbers and colours.

- `dataset.json` of nnU-Net and of the Medical Segmentation Decathlon: names of label numbers.
- The label table that TotalSegmentator and 3D Slicer write into the header of label maps.
- `labelmap.txt` of CVAT (names of colours) and `_classes.csv` of Roboflow (names of numbers).
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel

from ..errors import DataError
from . import simpleitk, slicer

DATASET_JSON, LABELMAP, CLASSES_CSV = "dataset.json", "labelmap.txt", "_classes.csv"
LEVELS = 3  # a legend lies in the folder of the labels, or up to two levels above it
MAX_BYTES = 20_000_000  # the largest dataset.json that is read: it lists every case of its set
MOST_COLOURS = 32  # a label map with more is not one of exact colours
BACKGROUND = "background"
_LABEL = re.compile(r'<Label\s[^>]*?Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))', re.S)


class Legend(NamedTuple):
    """The names of label numbers.

    Attributes:
        source: the file that says so.
        numbers: name -> its label numbers, with the background.
        ignored: the number of pixels that nothing is known about; None: there is none.
    """

    source: Path
    numbers: dict[str, tuple[int, ...]]
    ignored: int | None = None


def beside(labels: str | Path, name: str) -> Path | None:
    """The file of that name in the folder of a label file, or up to two levels above it."""
    for folder in list(Path(labels).absolute().parents)[:LEVELS]:
        if (folder / name).is_file():
            return folder / name
    return None


def of_data_set(labels: str | Path) -> Legend | None:
    """What the `dataset.json` beside a label file says; None where there is none with labels.

    Its labels are `{"1": "spleen"}` (the Decathlon, nnU-Net 1), `{"spleen": 1}` or
    `{"tumour": [1, 2]}` (nnU-Net 2, with "ignore" for pixels that are not annotated).

    Raises:
        DataError: the file cannot be read, or its labels have none of these forms.
    """
    path = beside(labels, DATASET_JSON)
    content = read_json(path) if path else None
    labels_of = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels_of, dict) or not labels_of:
        return None  # a file of that name of another program
    numbers: dict[str, tuple[int, ...]] = {}
    for key, value in labels_of.items():
        entry = _entry(key, value)
        if entry is None:
            raise DataError(
                f'{path}: its labels have the entry {key!r}: {value!r}; expected "1": "spleen", '
                '"spleen": 1 or "tumour": [1, 2]; correct it, or set label_map'
            )
        numbers[entry[0]] = (*numbers.get(entry[0], ()), *entry[1])
    ignored = numbers.pop("ignore", (None,))[0]
    return Legend(path, numbers, ignored)


def read_json(path: Path) -> Any:
    """The content of a `dataset.json`.

    Raises:
        DataError: it is too large, or cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size / 1e6:.0f} MB; expected a list of labels of at most "
            f"{MAX_BYTES / 1e6:.0f} MB; set label_map and rename the file"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not readable as JSON ({error}), and it may say what the label numbers mean; "
            "correct it, or set label_map"
        ) from error


def _entry(key: str, value: Any) -> tuple[str, tuple[int, ...]] | None:
    """Name and numbers of an entry of `labels`, whichever of both is its key; None for neither."""
    if isinstance(value, str):
        return (value, (int(key),)) if _is_number(key) else None
    numbers = value if isinstance(value, list) else [value]
    if numbers and all(type(number) is int and number >= 0 for number in numbers):
        return key, tuple(numbers)
    return None


def _is_number(text: str) -> bool:
    """Whether a text is a label number; longer ones would take Python minutes to convert."""
    return text.isdecimal() and len(text) < 10


def in_header(labels: str | Path) -> Legend | None:
    """The label table in the header of a label map; None where it has none.

    TotalSegmentator writes one into NIfTI files, 3D Slicer into NRRD files.
    """
    if simpleitk.is_named_so(labels):
        return _of_segments(labels)
    try:
        extensions = nibabel.load(labels).header.extensions
    except Exception:  # not readable: preparation says why
        return None
    numbers: dict[str, tuple[int, ...]] = {}
    for extension in extensions:
        content = extension.get_content()
        text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
        for number, name, plain in _LABEL.findall(text if "LabelTable" in text else ""):
            name = (name or plain).strip()
            numbers[name] = (*numbers.get(name, ()), int(number))
    return Legend(Path(labels), {BACKGROUND: (0,), **numbers}) if numbers else None


def _of_segments(labels: str | Path) -> Legend | None:
    try:
        segments = slicer.segments(simpleitk.read_header(labels).fields)
    except ValueError:  # not readable: preparation says why
        return None
    numbers: dict[str, tuple[int, ...]] = {}
    for segment in segments:
        numbers[segment.name] = (*numbers.get(segment.name, ()), segment.number)
    return Legend(Path(labels), {BACKGROUND: (0,), **numbers}) if numbers else None


def colour_advice(labels: str | Path, present: Sequence[Sequence[int]] = ()) -> str:
    """The setting that reads label maps of colours; from a `labelmap.txt` beside them, if any.

    Args:
        present: the colours in the file, (red, green, blue).
    """
    path = beside(labels, LABELMAP)
    colours = colours_beside(labels)
    if colours:
        names = [name for name in colours.values() if name != BACKGROUND]
        table = {colour: names.index(name) + 1 for colour, name in colours.items() if name in names}
        return (
            f"{path} names them: set class_names={(BACKGROUND, *names)} and "
            f"mask_encoding={json.dumps(table)}"
        )
    table = {"0,255,255": 1}
    if len(present) <= MOST_COLOURS:  # more are those of JPEG or interpolation
        names = [",".join(map(str, colour)) for colour in present if any(colour)]
        table = {name: number for number, name in enumerate(names, start=1)} or table
    return (
        f"set mask_encoding={json.dumps(table)}, with the number in class_names of each colour "
        "(0: background)" + numbers_advice(labels)
    )


def numbers_advice(labels: str | Path) -> str:
    """What the lists beside a label map call its numbers, as the end of a message; "" for none."""
    path = beside(labels, CLASSES_CSV)
    names = {str(number): name for number, name in numbers_beside(labels).items()}
    if not names:
        path = beside(labels, DATASET_JSON)
        legend = of_data_set(labels) if path else None
        numbers = legend.numbers if legend else {}
        names = {str(number): name for name, all_of in numbers.items() for number in all_of}
    if not names:
        return ""
    listed = ", ".join(f"{number} {name}" for number, name in list(names.items())[:8])
    return f"; {path} names the numbers {listed}"


def numbers_beside(labels: str | Path) -> dict[int, str]:
    """Number -> name, of the `_classes.csv` beside a label file; {} where there is none.

    Its lines are `1, polyp`, below the headings `Pixel Value, Class`.
    """
    path = beside(labels, CLASSES_CSV)
    rows = csv.reader(_text(path).splitlines()) if path else ()
    cells = [(row[0].strip(), row[1].strip()) for row in rows if len(row) > 1]
    return {int(number): name for number, name in cells if _is_number(number) and name}


def colours_beside(labels: str | Path) -> dict[str, str]:
    """ "red,green,blue" -> name, of the `labelmap.txt` beside a label file; {} without one.

    Its lines are `name:255,0,0:parts:actions`.
    """
    path = beside(labels, LABELMAP)
    if path is None:
        return {}
    colours = {}
    for line in _text(path).splitlines():
        name, _, rest = line.partition(":")
        colour = rest.split(":")[0].replace(" ", "")
        if not line.startswith("#") and re.fullmatch(r"\d{1,3},\d{1,3},\d{1,3}", colour):
            colours[colour] = name.strip()
    return colours


def _text(path: Path) -> str:
    """The beginning of a text file."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read(100_000)
