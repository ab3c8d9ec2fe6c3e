"""What the numbers in label maps mean: the column `label_numbers` of a case table.

- "": what `cfg.label_map` says; where that is empty, they are the class numbers.
- "class": class numbers, whatever `cfg.label_map` says.
- a table as JSON, `{"1": 2}`: number in the file -> class, of every number that the files may hold.
  It was made from names: those of `dataset.json` or of the label table in a file's header.
- "exact": the mask was corrected in the notebook (`annotate.merge`, `case_io.EXACT`).

Names decide before numbers do, and a `label_map` that the user set decides before both. Nothing is
concluded from the numbers themselves, but for one thing: label maps as pictures are documented to
hold class numbers, and some that hold larger ones do not.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import presets
from ..errors import DataError, listed
from ..formats import images, legends, segments, volumes
from ..tables import IGNORE

# So many label files are read to find out whether they hold class numbers.
_SAMPLED_FILES = 8
# Words for the same thing in the names of structures.
_WORDS = {
    "l": "left",
    "r": "right",
    "kidneys": "kidney",
    "lungs": "lung",
    "rv": "right ventricle",
    "rvc": "right ventricle",
    "lv": "left ventricle",
    "lvc": "left ventricle",
    "myo": "myocardium",
    "mlv": "myocardium",
    "lvm": "myocardium",
    "tumor": "tumour",
}


def of_files(labels: Iterable[str | Path], cfg: Any, documented: bool = False) -> str:
    """The cell `label_numbers` of label files that lie in one folder.

    Args:
        documented: True where their layout is documented to hold class numbers. A preset's own
            `label_map` does not apply to it then.

    Raises:
        DataError: names beside the files contradict `cfg.class_names`.
    """
    paths = [str(path) for path in labels]
    preset = presets.PRESETS[cfg.preset].full
    default = preset.get("label_map", {})
    reads_numbers = cfg.mask_encoding in ("auto", "index")
    by_user = cfg.label_map != default
    # Several overlapping classes have a mask file each, and no label map.
    if not paths or not reads_numbers or by_user or cfg.task == "multilabel":
        return ""
    if segments.kind_of(paths[0]):
        return ""  # `of_segments` reads each file by itself
    legend = legends.of_data_set(paths[0])
    if legend is None and volumes.is_volume(paths[0]):
        legend = legends.in_header(paths[0])
    if legend is not None:
        return _by_names(legend, cfg)
    if cfg.task != "multiclass" or not default:
        return ""
    if cfg.class_names != preset["class_names"]:
        return "class"  # the preset's table has the numbers of its own classes
    if documented and not _has_larger_numbers(paths, cfg):
        return "class"
    return ""


class OfSegments(NamedTuple):
    """What the names of the segments of one file mean.

    Attributes:
        cell: `label_numbers`, a table of all segments; "" where `label_map` decides.
        classes: the classes that have a segment; all where `label_map` decides.
        problem: why the file cannot be used; "" where it can.
        note: which classes it does not name.
    """

    cell: str
    classes: tuple[str, ...]
    problem: str = ""
    note: str = ""


def of_segments(labels: str | Path, cfg: Any) -> OfSegments:
    """The classes of a file of named segments, see `formats.segments`.

    Segments and classes are matched by the words of their names. The only segment of a file is the
    only class of a binary task, whatever it is called. Classes count from 1, also for a multilabel
    task; segments of no class are background.
    """
    structures = tuple(cfg.structures.values())
    if cfg.label_map and cfg.label_map != presets.PRESETS[cfg.preset].full.get("label_map", {}):
        return OfSegments("", structures)
    try:
        named = segments.segments(labels)
    except DataError as error:
        return OfSegments("", structures, problem=str(error))
    by_name: dict[str, tuple[int, ...]] = {}
    for segment in named:
        key = words(segment.name)
        by_name[key] = (*by_name.get(key, ()), segment.number)
    table = {str(segment.number): 0 for segment in named}
    present = []
    for k, name in enumerate(structures, start=1):
        own = by_name.get(words(name)) or _united(name, by_name)
        if cfg.task == "binary" and len(named) == 1:
            own = (named[0].number,)
        table |= dict.fromkeys(map(str, own), k)
        present += [name] if own else []
    names = listed([segment.name for segment in named], most=12)
    missing = [name for name in structures if name not in present]
    if not present:
        wanted = ", ".join(structures)
        return OfSegments(
            json.dumps(table),
            structures,
            problem=f"{labels}: its segments are {names}; none is {wanted}: set class_names to "
            'names of these, or label_map, with the class of each number, such as {"'
            f'{named[0].number}": 1}}',
        )
    note = ""
    if missing:
        note = f"{', '.join(missing)} not among its segments ({names}), so not annotated"
    return OfSegments(json.dumps(table), tuple(present), note=note)


def notes(cells: Iterable[str], cfg: Any) -> list[str]:
    """Notes on how the numbers of a case table are read, where `label_map` does not say so."""
    texts = []
    for cell in dict.fromkeys(cells):
        if cell == "class":
            texts.append(
                f"labels: numbers 0 to {cfg.n_classes - 1} are taken as class numbers, not as "
                "TotalSegmentator's (label_map)"
            )
        elif cell:
            offset = 0 if cfg.task == "multiclass" else 1
            table = {number: label for number, label in json.loads(cell).items() if label}
            labels = [
                f"{number} {'ignored' if label == IGNORE else cfg.class_names[label - offset]}"
                for number, label in table.items()
            ]
            if labels:
                texts.append(
                    f"labels: numbers by their names beside the data: {listed(labels, most=12)}"
                )
    return texts


def _by_names(legend: legends.Legend, cfg: Any) -> str:
    """The table of a legend whose names are those of the classes.

    A class may consist of several structures, as the bowel does (`volumes.CLASS_OF_MASK_FILE`).

    Raises:
        DataError: a class has no name there, or two classes share a number.
    """
    has_background = cfg.task == "multiclass"
    by_name = {words(name): numbers for name, numbers in legend.numbers.items()}
    table = {str(number): 0 for numbers in legend.numbers.values() for number in numbers}
    missing, shared = [], {}
    for label, name in enumerate(cfg.class_names, 0 if has_background else 1):
        if has_background and label == 0:
            continue
        numbers = by_name.get(words(name)) or _united(name, by_name)
        if not numbers:
            missing.append(name)
        for number in numbers:
            shared.setdefault(number, []).append(name)
            table[str(number)] = label
    if not has_background and missing:
        return ""  # the one class may have any name
    names = [name for name in legend.numbers if words(name) != words(legends.BACKGROUND)]
    if missing:
        raise DataError(_names_differ(legend, names, missing, cfg))
    overlapping = [(number, classes) for number, classes in shared.items() if len(classes) > 1]
    if overlapping:
        number, classes = overlapping[0]
        raise DataError(
            f"{legend.source}: the label {number} belongs to {' and '.join(classes)}, which "
            "overlap, but a label map has one class a pixel; set label_map, with the class of "
            'each number, such as {"1": 1, "2": 2}'
        )
    if legend.ignored is not None:
        table[str(legend.ignored)] = IGNORE
    return json.dumps(table)


def _names_differ(legend: legends.Legend, names: list[str], missing: list[str], cfg: Any) -> str:
    """The error message for classes that the names of the data do not have."""
    labels = [f"{'/'.join(map(str, legend.numbers[name]))} {name}" for name in names]
    common = [name for name in cfg.class_names[1:] if name not in missing]
    proposal = (legends.BACKGROUND, *(common or [re.sub(r"\W+", "_", name) for name in names[:12]]))
    return (
        f"{legend.source}: its labels are {listed(labels, most=12)}; class_names has "
        f"{', '.join(missing)}, which it does not label; set class_names={proposal}, or "
        "label_map, with the class of each number, such as "
        f'{{"{legend.numbers[names[0]][0] if names else 1}": 1}}'
    )


def _united(name: str, by_name: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The numbers of a class that consists of several structures; () where one of them is missing.

    The union would be too small without it.
    """
    parts = [part for part, of_class in volumes.CLASS_OF_MASK_FILE.items() if of_class == name]
    numbers = [by_name.get(words(part), ()) for part in parts]
    return sum(numbers, ()) if parts and all(numbers) else ()


def words(name: str) -> str:
    """The words of a name in a form in which `kidney_left` and `Left Kidney` are equal."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    parts = re.split(r"[\W_]+", name.casefold())
    spelt_out = " ".join(_WORDS.get(part, part) for part in parts)
    return " ".join(sorted(spelt_out.split()))


def _has_larger_numbers(paths: list[str], cfg: Any) -> bool:
    """Whether a sample of label files holds numbers that are no class numbers."""
    chosen = np.unique(np.linspace(0, len(paths) - 1, _SAMPLED_FILES).astype(int))
    if volumes.is_volume(paths[0]):
        chosen = chosen[:1]  # one volume shows nearly all numbers, and takes a second to read
    larger = labelled = 0
    for index in chosen:
        try:
            numbers = _numbers(paths[index])
        except DataError:
            continue  # preparation reports it
        foreground = (numbers > 0) & (numbers != IGNORE)
        labelled += int(foreground.sum())
        larger += int((foreground & (numbers >= cfg.n_classes)).sum())
    # Up to 1 % of larger numbers are taken as errors of single files, which are set aside later.
    return larger > labelled / 100


def _numbers(path: str) -> np.ndarray:
    """The numbers of a label map, a volume or a picture."""
    return volumes.read_numbers(path) if volumes.is_volume(path) else images.read_pixels(path)[0]
