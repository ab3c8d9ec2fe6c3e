"""What the values in mask files mean, judged from all files together.

A single file cannot tell a class from a way of drawing: a mask of 0 and 128, or a red one, is
decoded alone as what it shows. Beside others of 255, or green ones, it is probably another class.
Nothing is merged or guessed here: what differs is set aside or refused, and what can be read in two
ways is asked for. Taught in `01_data_preparation`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import presets
from .errors import DataError, listed
from .formats import volumes
from .formats.mask_pixels import AMBIGUOUS, LARGEST_NUMBER, UNION, WHITES_ARE_A_CLASS, Mask, Value
from .tables import IGNORE

# Up to this share of the masks of a class may differ from the others and be set aside; where more
# differ, it is not clear which of them are meant.
MAX_SET_ASIDE = 0.1
# JPEG and resizing change the values of a mask by less than this.
TOLERANCE = 32


@dataclass
class Meaning:
    """What was concluded.

    Attributes:
        notes: sentences for the report.
        undecided: questions that the config must answer before a training.
        set_aside: (case, file, reason) of the cases that cannot be used.
    """

    notes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    set_aside: list[tuple[str, str, str]] = field(default_factory=list)


def judge(cases: pd.DataFrame, facts: list[dict[str, Any]], cfg) -> Meaning:
    """Compare what the mask files of all cases hold.

    Args:
        cases: the case table.
        facts: one dict for each of its rows, as `prepare` saves them.

    Raises:
        DataError: the files contradict each other, or the setting by which they were read.
    """
    meaning = Meaning()
    if cfg.task != "multiclass":
        for k, name in enumerate(cfg.class_names):
            _judge_drawings(_drawings(cases, facts, k, name), name, meaning)
        return meaning
    maps = _label_maps(cases, facts)
    _judge_numbering(maps, cfg)
    meaning.undecided += _questions_on_numbering(maps, cfg)
    _judge_255(maps, cfg, meaning)
    meaning.notes += _notes_on_background(maps, cfg)
    return meaning


def facts_of(mask: Mask | None, plane: np.ndarray) -> dict[str, Any]:
    """The facts of a mask that `judge` needs; None: there is no file.

    Args:
        plane: (H, W) uint8, what was made of the mask: 0 and 1, or class numbers; 255 = ignored.
    """
    present = np.flatnonzero(np.bincount(plane.ravel(), minlength=256))
    numbers = mask.numbers if mask and mask.numbers else {}
    return {
        "decoding": mask.decoding if mask else "",
        "classes": [int(number) for number in present if number not in (0, IGNORE)],
        "numbers": {str(number): count for number, count in numbers.items()},
        "drawn": mask.drawn if mask else (),
    }


# ---- masks of one class: how the structure is drawn


class Drawing(NamedTuple):
    """How a mask file shows its structure, as `mask_pixels.Mask.drawn`; `value` None: ambiguous."""

    case: str
    path: str
    folder: str
    value: Any


def _drawings(cases: pd.DataFrame, facts: list[dict[str, Any]], k: int, name: str) -> list[Drawing]:
    """How the files of a class are drawn: one entry a case and folder of its files."""
    drawings = []
    for case, cell, fact in zip(cases["case"], cases[name], facts):
        if "problem" in fact:
            if cell and AMBIGUOUS in fact["problem"]:
                drawings.append(Drawing(case, fact["file"], Path(fact["file"]).parent.name, None))
            continue
        paths = {Path(path).parent.name: path for path in cell.split(UNION)}
        for folder, background, structure in fact["masks"][k]["drawn"]:
            structure, background = _plain(structure), _plain(background)
            value = structure if background == 0 else (background, structure)
            drawings.append(Drawing(case, paths.get(folder, cell), folder, value))
    return drawings


def _plain(value: Any) -> Value:
    """A value from the facts: colours are lists there, because they were saved as JSON."""
    return tuple(value) if isinstance(value, list) else value


def _judge_drawings(drawings: list[Drawing], name: str, meaning: Meaning) -> None:
    """Set aside or refuse the masks of a class that are drawn otherwise than the rest.

    Files of different folders are not compared: such as leftMask and rightMask, they are united on
    purpose.
    """
    for folder in dict.fromkeys(drawing.folder for drawing in drawings):
        of_folder = [drawing for drawing in drawings if drawing.folder == folder]
        groups = _grouped(drawing for drawing in of_folder if drawing.value is not None)
        if len(groups) < 2:
            continue
        main, *others = groups
        values = [group[0].value for group in groups]
        if len(groups) == 2 and any(map(_is_true, values)) and any(map(_is_colour, values)):
            meaning.notes.append(
                f"{name}: {_count(main, 'masks')} and {_count(others[0], 'masks')} are read as the "
                f"same structure; if they are two classes, set mask_encoding={_table(groups, 0)}"
            )
            continue
        advice = _advice(groups)
        if sum(map(len, groups[1:])) > MAX_SET_ASIDE * len(of_folder) or (
            len(main) < (1 - MAX_SET_ASIDE) * len(of_folder)
        ):
            counts = ", ".join(_count(group, "masks") for group in groups[:5])
            raise DataError(
                f"{others[0][0].path}: the masks of {name!r} show their structure in different "
                f"values: {counts}; they may be different classes, which must not be merged "
                f"unasked; {advice}"
            )
        for drawing in [drawing for group in others for drawing in group]:
            text = (
                f"{drawing.path}: its structure is {_shown(drawing.value)}, but that of most masks "
                f"of {name!r} is {_shown(main[0].value)}; is it another class? {advice}"
            )
            meaning.set_aside.append((drawing.case, drawing.path, text))


def _grouped(drawings: Iterable[Drawing]) -> list[list[Drawing]]:
    """Drawings of one value together, the largest group first."""
    groups: list[list[Drawing]] = []
    for drawing in drawings:
        for group in groups:
            if _same(group[0].value, drawing.value):
                group.append(drawing)
                break
        else:
            groups.append([drawing])
    return sorted(groups, key=len, reverse=True)


def _same(first: Any, second: Any) -> bool:
    """Whether two values mean the same: equal, both "true", or alike where one is an estimate."""
    if _is_true(first) and _is_true(second):
        return True
    first, second = _flat(first), _flat(second)
    if first == second:
        return True
    numbers = [*_numbers(first), *_numbers(second)]
    if len(_numbers(first)) != len(_numbers(second)):
        return False
    is_estimate = any(isinstance(number, float) for number in numbers) and max(numbers) > 40
    distances = [abs(a - b) for a, b in zip(_numbers(first), _numbers(second))]
    return is_estimate and max(distances) < TOLERANCE


def _is_true(value: Any) -> bool:
    """Whether a value is 1 or white, the two usual ways to write that a pixel belongs to it."""
    is_bright = isinstance(value, float) and value > 255 - TOLERANCE
    return not isinstance(value, tuple) and (value in (1, 255) or is_bright)


def _is_colour(value: Any) -> bool:
    """Whether a value is a colour on black, and not a pair of background and structure."""
    return isinstance(value, tuple) and len(value) == 3


def _flat(value: Any) -> Any:
    """A pair of background and structure as one tuple."""
    if isinstance(value, tuple) and len(value) == 2:
        return tuple(number for part in value for number in _numbers(part))
    return value


def _numbers(value: Any) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return f"{_shown(value[1])} on {_shown(value[0])}"
    if isinstance(value, tuple):
        return f"({', '.join(f'{number:g}' for number in value)})"
    return f"{value:g}"


def _count(group: list[Drawing], noun: str) -> str:
    """ "12 masks of 255 (such as a.png)" """
    example = Path(group[0].path).name
    return f"{len(group)} {noun} of {_shown(group[0].value)} (such as {example})"


def _advice(groups: list[list[Drawing]]) -> str:
    """The lines of config that say which values are the structure."""
    if any(volumes.is_volume(drawing.path) for group in groups for drawing in group[:1]):
        number = _shown(groups[0][0].value)
        return (
            f"set label_map={{'{number}': 1}} to take the number {number} alone, or "
            "mask_encoding='index' to take all numbers above 0 as the structure"
        )
    if any(isinstance(group[0].value, tuple) for group in groups):
        names = _numbered_names(len(groups[:4]))
        return (
            f"set mask_encoding={_table(groups, 1)} if all of them are the structure (the number 0 "
            f"makes a colour background); for several classes set class_names={names} and "
            f"mask_encoding={_table(groups, None)}"
        )
    number = _shown(groups[0][0].value)
    largest = max(group[0].value for group in groups)
    classes = f"class_names={_numbered_names(int(largest))}"  # the numbers of all masks
    if largest > LARGEST_NUMBER:
        table = {_shown(group[0].value): k for k, group in enumerate(groups[:4], start=1)}
        classes = f"class_names={_numbered_names(len(table))} and label_map={json.dumps(table)}"
    return (
        "set mask_encoding='index' to take every number above 0 as the structure, or "
        f"label_map={{'{number}': 1}} to take {number} alone; for several classes set {classes}"
    )


def _numbered_names(n: int) -> tuple[str, ...]:
    """Names for n classes and their background."""
    return ("background", *(f"class_{k}" for k in range(1, n + 1)))


def _table(groups: list[list[Drawing]], other: int | None) -> str:
    """A `mask_encoding` table in which the first colour is the structure.

    Args:
        other: the number of the other colours; None: each is a class of its own.
    """
    table = {}
    for number, group in enumerate(groups[:4]):
        value = group[0].value
        structure = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        colour = structure if isinstance(structure, tuple) else (structure,) * 3
        own = number + 1 if other is None else other
        table[",".join(f"{round(part)}" for part in colour)] = own if number else 1
    return json.dumps(table)


# ---- label maps: what their numbers mean


class LabelMap(NamedTuple):
    """The numbers in one file, which holds one case or all slices of a volume.

    Attributes:
        cases: the cases that it belongs to.
        origin: the cell `label_numbers`, see `layouts.numbers`.
        numbers: number -> how many pixels have it.
        classes: the class numbers that were made of them.
        whites_are_a_class: whether 255 was read as the second class.
        usable: whether all of it could be decoded.
    """

    path: str
    cases: list[str]
    origin: str
    numbers: dict[int, int]
    classes: set[int]
    whites_are_a_class: bool
    usable: bool


def _label_maps(cases: pd.DataFrame, facts: list[dict[str, Any]]) -> list[LabelMap]:
    """The label maps whose numbers were read, one entry a file."""
    origins = cases["label_numbers"] if "label_numbers" in cases else [""] * len(cases)
    maps: dict[str, LabelMap] = {}
    for case, path, origin, fact in zip(cases["case"], cases["labels"], origins, facts):
        usable = "problem" not in fact
        mask = fact["masks"][0] if usable else {"numbers": fact.get("numbers", {}), "classes": []}
        if not mask["numbers"]:
            continue
        empty = LabelMap(path, [], origin, {}, set(), False, True)
        file = maps.get(path, empty)
        for number, count in mask["numbers"].items():
            file.numbers[int(number)] = file.numbers.get(int(number), 0) + count
        file.cases.append(case)
        file.classes.update(mask["classes"])
        whites = usable and mask["decoding"].startswith(WHITES_ARE_A_CLASS)
        maps[path] = file._replace(
            whites_are_a_class=file.whites_are_a_class or whites,
            usable=file.usable and usable,
        )
    return list(maps.values())


def _labels_in(maps: list[LabelMap]) -> set[int]:
    """The numbers in the maps, without 0 and 255."""
    return set().union(*(file.numbers for file in maps)) - {0, IGNORE}


def uses_preset_map(cfg) -> bool:
    """Whether the `label_map` of the preset stands for its classes, unchanged by the user.

    It translates the numbers of one source of the preset's data; other sources of the same data
    have class numbers.
    """
    full = presets.PRESETS[cfg.preset].full
    default = full.get("label_map")
    return bool(
        default
        and cfg.label_map == default
        and cfg.class_names == full["class_names"]
        and cfg.mask_encoding in ("auto", "index")
    )


def _judge_numbering(maps: list[LabelMap], cfg) -> None:
    """Refuse numbers that do not fit the reading that was chosen for them.

    Raises:
        DataError: names the two lines of config, one of which is right.
    """
    if not uses_preset_map(cfg):
        return
    as_classes = [file for file in maps if file.origin == "class"]
    larger = {n for n in _labels_in(as_classes) if n >= cfg.n_classes and str(n) in cfg.label_map}
    by_map = [file for file in maps if file.origin == ""]
    numbers = _labels_in(by_map)
    in_range = bool(numbers) and max(numbers) < cfg.n_classes
    unnamed = {number for number in numbers if str(number) not in cfg.label_map}
    if larger:
        example = next(file for file in as_classes if larger & file.numbers.keys())
        raise _two_readings(
            example.path, _labels_in(as_classes), cfg, "its numbers are no class numbers"
        )
    if in_range and unnamed:
        raise _two_readings(
            by_map[0].path,
            numbers,
            cfg,
            f"label_map does not name {listed(sorted(unnamed), most=8)}",
        )


def _questions_on_numbering(maps: list[LabelMap], cfg) -> list[str]:
    """What must be asked where all numbers can be class numbers or those of the preset's map."""
    if not uses_preset_map(cfg):
        return []
    questions = []
    for origin in ("", "class"):
        files = [file for file in maps if file.origin == origin]
        numbers = _labels_in(files)
        # RSNA's own tree of DICOM series has class numbers; those of pictures are class numbers
        # where every class occurs.
        if origin == "class":
            files = [file for file in files if not volumes.is_volume(file.path)]
            numbers = _labels_in(files)
            if numbers >= set(range(1, cfg.n_classes)):
                continue
        named = all(str(number) in cfg.label_map for number in numbers)
        if numbers and named and max(numbers) < cfg.n_classes:
            read = "label_map" if origin == "" else "class numbers"
            questions.append(
                str(_two_readings(files[0].path, numbers, cfg, f"read as {read} for now"))
            )
    return questions


def _two_readings(path: str, numbers: Iterable[int], cfg, reason: str) -> DataError:
    """The error that says what numbers mean as class numbers, and by the preset's `label_map`."""
    numbers = sorted(numbers)
    names = cfg.class_names
    as_classes = [f"{n} {names[n]}" for n in numbers if n < cfg.n_classes]
    chosen = {str(n): cfg.label_map[str(n)] for n in numbers if str(n) in cfg.label_map}
    by_map = [f"{number} {names[label]}" for number, label in chosen.items()]
    return DataError(
        f"{path}: the label numbers {listed(numbers, most=8)} can mean two things ({reason}): "
        f"class numbers ({', '.join(as_classes[:6])}): set label_map={{}}; or TotalSegmentator's "
        f"({', '.join(by_map[:6])}): set label_map={json.dumps(chosen)}"
    )


def _judge_255(maps: list[LabelMap], cfg, meaning: Meaning) -> None:
    """Say what 255 was read as, and ask or refuse where it may mean something else.

    Raises:
        DataError: 255 is the class in some files, and 1 in others.
    """
    named = str(IGNORE) in cfg.label_map
    files = [file for file in maps if IGNORE in file.numbers and not _names_255(file, cfg)]
    if not files or named:
        return
    whites = [file for file in files if file.whites_are_a_class]
    if whites:
        ones = [file for file in maps if 1 in file.numbers]
        _judge_whites(whites, ones, cfg, meaning)
        return
    n_pixels = sum(sum(file.numbers.values()) for file in maps)
    share = sum(file.numbers[IGNORE] for file in files) / n_pixels
    where = f"{len(files)} of {len(maps)} label maps, {share:.2%} of all pixels"
    classes = set().union(*(file.classes for file in maps))
    missing = [name for k, name in enumerate(cfg.class_names) if k and k not in classes]
    example = Path(files[0].path).name
    if not missing:
        meaning.notes.append(f"{example}: 255 is ignored (in {where})")
        return
    numbers = {str(number): number for number in sorted(_labels_in(maps))}
    if cfg.label_map:
        numbers = dict(cfg.label_map)
    last = cfg.class_names.index(missing[-1])
    meaning.undecided.append(
        f"{files[0].path}: 255 can mean two things (in {where}): ignored, as it is read for now, "
        f"or {' or '.join(missing)}, which no mask contains: set "
        f"label_map={json.dumps({**numbers, '255': last})} if it is {missing[-1]}, or "
        f"label_map={json.dumps({**numbers, '255': IGNORE})} if it is to be ignored"
    )


def _names_255(file: LabelMap, cfg) -> bool:
    """Whether the list of labels beside the data names 255; a complete list names all."""
    return file.origin not in ("", "class")


def _judge_whites(whites: list[LabelMap], ones: list[LabelMap], cfg, meaning: Meaning) -> None:
    """Note that 255 is the second class in maps of 0 and 255, or refuse it beside maps of 1.

    Raises:
        DataError: too many of both to set one of them aside.
    """
    name = cfg.class_names[1]
    text = f"{len(whites)} label maps hold 0 and 255 (such as {Path(whites[0].path).name})"
    if not ones:
        meaning.notes.append(f"{text}: 255 is read as {name}")
        return
    beside_ones = sum(IGNORE in file.numbers for file in ones)
    advice = (
        'set label_map={"1": 1, "255": 1} if both are '
        f'{name}, or label_map={{"1": 1, "255": 255}} if 255 is to be ignored'
    )
    contrast = (
        f"and {len(ones)} hold 1 (such as {Path(ones[0].path).name}; {beside_ones} of them also "
        "255)"
    )
    smaller = min(whites, ones, key=len)
    if len(smaller) > MAX_SET_ASIDE * (len(whites) + len(ones)):
        raise DataError(f"{whites[0].path}: {text} {contrast}; {advice}")
    for file in smaller:
        reason = f"{file.path}: {text} {contrast}: what is 255 in it? {advice}"
        meaning.set_aside += [(case, file.path, reason) for case in file.cases]


def _notes_on_background(maps: list[LabelMap], cfg) -> list[str]:
    """A note on the numbers that became background because `label_map` does not name them."""
    files = [file for file in maps if file.origin == ""]
    unnamed = {number for number in _labels_in(files) if str(number) not in cfg.label_map}
    if not cfg.label_map or not unnamed:
        return []
    return [
        f"labels: the numbers {listed(sorted(unnamed), most=8)} are not in label_map and become "
        "background"
    ]
