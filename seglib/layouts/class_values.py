"""Classes by the values in mask files: one structure, or several that exclude each other.

Names come from `dataset.json`, from the header of a volume, from `labelmap.txt` and `_classes.csv`,
else from the numbers and colours themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd

from .. import meanings
from ..errors import DataError, listed
from ..formats import images, legends, mask_pixels, mask_values, volumes
from ..formats.mask_values import Values
from ..tables import IGNORE
from . import remembered
from .classes import (
    MOST_CLASSES,
    MOST_PICTURES,
    MOST_VOLUMES,
    SHARE,
    Classes,
    Reading,
    as_arguments,
    safe_name,
    spread,
    two_readings,
)

# The file that keeps the values of masks, and its first line.
_KEPT, _FORM = "mask_values.txt", "values of masks, form 1"
_COLOUR_NAMES = {
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (0, 255, 255): "cyan",
    (255, 0, 255): "magenta",
    (255, 255, 255): "white",
}


class Shown(NamedTuple):
    """A class in the masks.

    Attributes:
        name: of the class.
        values: the numbers or colours of it, or the text of the table, such as a folder.
        n_files: how many files show it.
        n_pixels: how many pixels it has in them.
    """

    name: str
    values: tuple[Any, ...]
    n_files: int
    n_pixels: int


def of_masks(cells: Iterable[str], cfg: Any, root: str | Path) -> Classes | None:
    """The classes in the masks of images; None where nothing can be said.

    Then the config stays as it is, and preparation says what is wrong with which file.

    Args:
        cells: the mask files of each image, several joined by `|`.

    Raises:
        DataError: the masks can be read in two ways, or the lists beside them lack a value.
    """
    cell_of = {path: cell for cell in cells for path in cell.split(mask_pixels.UNION) if path}
    paths = list(cell_of)
    if not paths:
        return None
    sample = spread(paths, MOST_VOLUMES if volumes.is_volume(paths[0]) else MOST_PICTURES)
    values = [file for file in _values_of(sample, cfg) if file is not None]
    several = [file for file in values if not file.is_single]
    unclear = [file for file in several if not file.counts]
    are_many = len(unclear) > meanings.MAX_SET_ASIDE * len(values)
    if not values or len(unclear) == len(values) or (are_many and len(unclear) == 1):
        return None
    if are_many:
        raise DataError(_too_many_values(unclear, len(values)))
    look = Look(values, cell_of, cfg, Path(root))
    if len(several) > len(unclear) and not _are_odd(several, values):
        return look.classes()
    return look.one_structure()


def _too_many_values(unclear: list[Values], n_masks: int) -> str:
    """What to do where training would learn from the other masks alone."""
    path = unclear[0].path
    return (
        f"{path}: one of {len(unclear)} masks of {n_masks} with too many values for classes and no "
        "clear edge between dark and bright, as of JPEG files and of pictures that were scaled; "
        "write the masks anew from their source as PNG; those of one structure can be cut at half "
        "with mask_encoding='threshold'"
    )


def _are_odd(several: list[Values], values: list[Values]) -> bool:
    """Whether the few masks of several values are damaged ones of one structure.

    So are greys, and values that the other masks do not have: preparation sets them aside.
    """
    others = {value for file in values if file.is_single for value in file.counts}
    others -= {0, (0, 0, 0)}
    if len(several) > max(1, meanings.MAX_SET_ASIDE * len(values)) or len(values) < 5:
        return False
    present = {value for file in several for value in file.counts} - {0, (0, 0, 0)}
    are_greys = any(isinstance(v, int) and mask_pixels.LARGEST_NUMBER < v < 255 for v in present)
    return len(others) == 1 and (are_greys or not present & others)


def _values_of(paths: list[str], cfg: Any) -> list[Values | None]:
    """The values of masks; those of many are remembered for the next scan."""
    values = remembered.results(dict(zip(paths, paths)), _values, cfg, _KEPT, _FORM)
    return [Values(*of_mask) if of_mask else None for of_mask in values.values()]


def _values(path: str) -> tuple | None:
    """The `Values` of a mask; None where preparation will say why it cannot be read."""
    try:
        return tuple(mask_values.read(path))
    except (DataError, OSError):
        return None


class Look:
    """The values of all masks of a folder, in which classes are looked for."""

    def __init__(self, values: list[Values], cell_of: Mapping[str, str], cfg: Any, root: Path):
        self.values, self.cell_of, self.cfg, self.root = values, cell_of, cfg, root
        self.path = values[0].path
        self.of_volumes = volumes.is_volume(self.path)
        self.n_pixels = sum({cell_of[file.path]: file.n_pixels for file in values}.values())
        self.colour_names = legends.colours_beside(self.path)
        self.is_sample = len(values) < len(cell_of)
        self.notes: list[str] = []

    # -- one value in each file

    def one_structure(self) -> Classes | None:
        """The classes of masks that show one value each."""
        groups = self._groups()
        names = self._number_names()
        if len(groups) > 1 and (self._are_named(names) or len(self._chosen_names()) > 1):
            return self.classes()
        if len(groups) > 1:
            return None  # preparation sets odd masks aside, or asks: see `meanings`
        value = next(iter(groups), None)
        return self._one(value, groups.get(value, []), names)

    def _groups(self) -> dict[Any, list[Values]]:
        """Value of the structure -> its files; 1, 255 and white are all 255."""
        groups: dict[Any, list[Values]] = {}
        for file in self.values:
            value = file.structure
            if value is None:
                continue
            is_bright = not isinstance(value, tuple) and (value == 1 or value > 223)
            groups.setdefault(255 if is_bright and not self.of_volumes else value, []).append(file)
        return groups

    def _are_named(self, names: Mapping[int, str]) -> bool:
        """Whether a list beside the masks names all values."""
        values = self._structures()
        return {_key(value) for value in values} <= set(self.colour_names) or values <= set(names)

    def _one(self, value: Any, files: list[Values], names: Mapping[int, str]) -> Classes | None:
        """The table of masks that show one structure, with its name where a list has one."""
        names = {number: name for number, name in names.items() if name != legends.BACKGROUND}
        settings: dict[str, Any] = {}
        name = self.cfg.class_names[0]
        colour_name = self.colour_names.get(_key(value)) if value is not None else None
        number = 1 if value == 255 and any(1 in file.counts for file in files) else value
        if len(self.cfg.class_names) > 1:
            return None  # the user has named several: the layout says what is missing
        if colour_name and colour_name != legends.BACKGROUND and isinstance(value, tuple):
            name = safe_name(colour_name)
            settings = {"class_names": (name,), "mask_encoding": {_key(value): 1}}
        elif number in names:
            name, value = safe_name(names[number]), number
            settings = {"class_names": (name,)}
            self._note_absent(names, [number])
            if legends.of_data_set(self.path) is None and not self.of_volumes and number > 1:
                settings["label_map"] = {str(number): 1}
        elif len(names) == 1 and value == 255 and not self.of_volumes:
            # Black and white, whatever number the list gives to the one structure.
            name = safe_name(next(iter(names.values())))
            settings = {"class_names": (name,), "mask_encoding": "threshold"}
        elif names and value == 255 and not self.of_volumes:
            self.notes.append(
                f"a list beside the masks names {listed(names.values(), most=8)}; masks of black "
                "and white do not say which of them they show"
            )
        elif names and value is not None:
            return self._refuse_unnamed([value])
        n_images = len({self.cell_of[file.path] for file in files})
        shown = [Shown(name, (_key(value),) if value is not None else ("",), n_images, 0)]
        return self._result("one structure", settings, shown, self._pixels_of_one())

    def _pixels_of_one(self) -> int:
        """How many pixels belong to the structure of masks that show one."""
        n_pixels = 0
        for file in self.values:
            of_structure = file.counts.get(_as_stored(file), None)
            if of_structure is None and file.structure is not None:
                of_structure = int((mask_pixels.read_mask(file.path).pixels == 1).sum())
            n_pixels += of_structure or 0
        return n_pixels

    # -- several values in a file

    def classes(self) -> Classes | None:
        """The classes of masks of which some show several values."""
        exact = [file for file in self.values if file.counts]
        if len(exact) < (1 - meanings.MAX_SET_ASIDE) * len(self.values):
            return None
        has_colours = any(isinstance(v, tuple) for file in exact for v in file.counts)
        if has_colours or self._palettes_are_named(exact):
            return self._by_colour(exact)
        return self._by_number(exact)

    def _palettes_are_named(self, exact: list[Values]) -> bool:
        """Whether `labelmap.txt` names the colours of all palettes."""
        colours = {_key(value) for file in exact if file.palette for value in file.by_colour()}
        return bool(colours) and colours <= {"0,0,0", *self.colour_names}

    def _by_colour(self, exact: list[Values]) -> Classes | None:
        self.values = [file._replace(counts=file.by_colour()) for file in exact]
        colours = self._present() - {(0, 0, 0)}
        if len(colours) > mask_values.MOST_COLOURS:
            return None
        names = {}
        if self.colour_names:
            unnamed = [_key(colour) for colour in colours if _key(colour) not in self.colour_names]
            if unnamed:
                path = legends.beside(self.path, legends.LABELMAP)
                raise DataError(
                    f"{path}: it does not name the colours {listed(unnamed)} of the masks; add "
                    "lines such as name:255,0,0::, or move the file away"
                )
            names = {_colour(text): name for text, name in self.colour_names.items()}
            values = [colour for colour in names if colour in colours or self.is_sample]
            self._note_absent(names, values)
        else:
            values = sorted(colours)
        shown = self._shown(values, names)
        is_open = not names and not self._chosen_names()
        if len(self._structures()) > 1 and is_open and not self._is_together():
            raise two_readings(
                self.root,
                f"no mask shows two of the colours: {_counts(shown)}",
                self._as_classes(shown),
                self._as_one(shown),
            )
        return self._exclusive(shown, "by colour", bool(names))

    def _by_number(self, exact: list[Values]) -> Classes | None:
        self.values = exact
        names = self._number_names()
        numbers = self._present() - {0}
        if IGNORE in numbers and IGNORE not in names and min(numbers) <= mask_pixels.LARGEST_NUMBER:
            return self._with_255(numbers - {IGNORE}, names)
        return self._of_numbers(sorted(numbers), names)

    def _with_255(self, numbers: set[int], names: Mapping[int, str]) -> Classes | None:
        """Numbers beside 255, which is ignored; beside 1 alone it may be a class."""
        if len(numbers) > 1 or names:
            return self._of_numbers(sorted(numbers), names)
        number = str(numbers.pop())
        raise two_readings(
            self.root,
            f"255 beside {number} may be a border that is not annotated, or a class",
            Reading("one structure, 255 ignored", {"label_map": {number: 1, "255": IGNORE}}),
            Reading(
                "two classes",
                {
                    "class_names": (legends.BACKGROUND, f"class_{number}", "class_255"),
                    "label_map": {number: 1, "255": 2},
                },
            ),
        )

    def _of_numbers(self, numbers: list[int], names: Mapping[int, str]) -> Classes | None:
        if names:
            unnamed = [number for number in numbers if number not in names]
            if unnamed:
                return self._refuse_unnamed(unnamed)
            numbers = sorted(names) if self.is_sample else numbers
            self._note_absent(names, numbers)
        shown = self._shown(numbers, names)
        if not names and not self._chosen_names():
            self._ask_about_numbers(numbers, shown)
        return self._exclusive(shown, "by number", bool(names))

    def _refuse_unnamed(self, numbers: list[Any]) -> None:
        """Raise `DataError` for numbers that the list beside pictures lacks.

        Of volumes, preparation names the file and the list.
        """
        if self.of_volumes or not all(isinstance(number, int) for number in numbers):
            return
        path = self._legend().source if self._legend() else None
        raise DataError(
            f"{path or legends.beside(self.path, legends.CLASSES_CSV)}: it does not name the "
            f"numbers {listed(map(str, numbers))} of the masks in {Path(self.path).parent}; add "
            "them, move the file away, or say in label_map what they are"
        )

    def _ask_about_numbers(self, numbers: list[int], shown: list[Shown]) -> None:
        """Raise `DataError` where numbers without names may be no classes."""
        one = Reading("one structure, all above 0", {"mask_encoding": "index"})
        if not self.of_volumes and numbers[-1] > mask_pixels.LARGEST_NUMBER:
            half = Reading(
                "one structure, drawn in greys, cut at half (127 of 255)",
                {"mask_encoding": "threshold"},
            )
            greys = f"{len(numbers)} grey values ({listed(numbers, most=8)})"
            raise two_readings(
                self.root,
                f"{greys} may be one structure with soft edges, or classes",
                half,
                self._as_classes(shown),
            )
        if self._look_like_instances():
            raise two_readings(
                self.root,
                f"the numbers 1 to {numbers[-1]} may count the objects of one class in each image",
                one,
                self._as_classes(shown),
            )
        if not self._is_together():
            raise two_readings(
                self.root,
                f"no mask shows two of the numbers: {_counts(shown)}",
                self._as_classes(shown),
                one,
            )
        if len(numbers) > MOST_CLASSES:
            raise two_readings(
                self.root,
                f"there are {len(numbers)} numbers without names",
                one,
                self._as_classes(shown),
            )

    def _look_like_instances(self) -> bool:
        """Whether each file counts its objects from 1, as many as there are."""
        counted = [sorted(set(file.counts) - {0}) for file in self.values]
        counted = [numbers for numbers in counted if numbers]
        if any(numbers != list(range(1, len(numbers) + 1)) for numbers in counted):
            return False
        lengths = {len(numbers) for numbers in counted}
        if len(lengths) < 2 or max(lengths) < 3:
            return False
        if self.of_volumes:
            return True
        largest = sorted(self.values, key=lambda file: -len(file.counts))[:8]
        return all(_has_one_component_a_number(file.path) for file in largest)

    def _exclusive(self, shown: list[Shown], how: str, is_named: bool) -> Classes | None:
        """Classes that exclude each other, with the names of the user where there are some."""
        classes = {entry.name: None for entry in shown if entry.name != legends.BACKGROUND}
        names = tuple(classes)
        chosen = self._chosen_names()
        numbers = [value for entry in shown for value in entry.values]
        if chosen and not is_named and how == "by number" and max(numbers) <= len(chosen):
            shown = [entry._replace(name=chosen[entry.values[0] - 1]) for entry in shown]
            names = chosen
        elif chosen and not is_named:
            if len(chosen) != len(names) or how == "by colour":
                raise DataError(
                    f"{self.root}: class_names has {len(chosen)} classes without the background "
                    f"({', '.join(chosen)}), and the masks show {len(names)} values: "
                    f"{_counts(shown)}; say which is which: "
                    f"{as_arguments(self._settings(shown, self._padded(chosen, len(names))))}"
                )
            shown = [entry._replace(name=name) for entry, name in zip(shown, chosen)]
            names = chosen
        if chosen and is_named and (how == "by colour" or self._legend() is None):
            return self._of_chosen(shown, chosen, how)
        if chosen and is_named:
            names = chosen
        if len(names) == 1 and not chosen:
            return self._one_of_several(shown, names[0], how)
        settings = self._settings(shown, names)
        n_classes = f"{len(names)} classes that exclude each other, {how}"
        return self._result(n_classes, settings, shown)

    def _of_chosen(self, shown: list[Shown], chosen: tuple[str, ...], how: str) -> Classes:
        """Named values of which the user wants some classes; the others are background."""
        missing = [name for name in chosen if name not in {entry.name for entry in shown}]
        if missing:
            raise DataError(
                f"{self.root}: class_names has {', '.join(missing)}, but the masks show "
                f" {', '.join(entry.name for entry in shown)}; correct class_names"
            )
        table = {
            _key(value): (chosen.index(entry.name) + 1 if entry.name in chosen else 0)
            for entry in shown
            for value in entry.values
        }
        settings = {
            "task": "multiclass",
            "class_names": (legends.BACKGROUND, *chosen),
            "mask_encoding" if how == "by colour" else "label_map": table,
        }
        of_chosen = [entry for entry in shown if entry.name in chosen]
        return self._result(f"{len(chosen)} classes that exclude each other", settings, of_chosen)

    def _one_of_several(self, shown: list[Shown], name: str, how: str) -> Classes:
        """One class beside a background that is drawn in a colour or number of its own."""
        table = {_key(e.values[0]): int(e.name != legends.BACKGROUND) for e in shown}
        settings: dict[str, Any] = {"class_names": (name,)}
        if how == "by colour":
            settings["mask_encoding"] = table
        elif legends.of_data_set(self.path) is None:
            settings["label_map"] = table
        shown = [entry for entry in shown if entry.name == name]
        return self._result("one structure", settings, shown)

    def _settings(self, shown: list[Shown], names: tuple[str, ...]) -> dict[str, Any]:
        """The settings of classes that exclude each other, by their values."""
        order = {name: k for k, name in enumerate(names, start=1)}
        table, number = {}, 0
        for entry in shown:
            if entry.name == legends.BACKGROUND:
                table[_key(entry.values[0])] = 0
                continue
            number = order.get(entry.name, number + 1)
            for value in entry.values:
                table[_key(value)] = number
        settings: dict[str, Any] = {
            "task": "multiclass",
            "class_names": (legends.BACKGROUND, *names),
        }
        if any(isinstance(value, tuple) for entry in shown for value in entry.values):
            return {**settings, "mask_encoding": table}
        is_identity = all(key == str(number) for key, number in table.items())
        # Names of `dataset.json` and of headers are matched when the data is scanned.
        if is_identity or self._legend() is not None:
            return settings
        return {**settings, "label_map": table}

    def _chosen_names(self) -> tuple[str, ...]:
        """The class names of the user without the background; () where there are none."""
        if "class_names" not in self.cfg.chosen:
            return ()
        return tuple(name for name in self.cfg.class_names if name != legends.BACKGROUND)

    @staticmethod
    def _padded(names: tuple[str, ...], n: int) -> tuple[str, ...]:
        """Names for n classes: those of the user, then class_3, class_4 ..."""
        return (*names[:n], *(f"class_{k}" for k in range(len(names) + 1, n + 1)))

    # -- names and counts

    def _legend(self) -> legends.Legend | None:
        """The list of `dataset.json` or of the file's header."""
        legend = legends.of_data_set(self.path)
        if legend is None and self.of_volumes and not Path(self.path).is_dir():
            legend = legends.in_header(self.path)
        return legend

    def _number_names(self) -> dict[int, str]:
        """Number -> name, without 0, of the list beside the masks or in a header.

        Pixels that are not annotated count as background.
        """
        legend = self._legend()
        if legend is None:
            names = legends.numbers_beside(self.path)
        else:
            names = {n: name for name, numbers in legend.numbers.items() for n in numbers}
        names = {
            number: name
            for number, name in names.items()
            if number != 0 and name.strip().lower() != legends.BACKGROUND
        }
        if legend is not None and legend.ignored is not None:
            names[legend.ignored] = legends.BACKGROUND
        return names

    def _note_absent(self, names: Mapping[Any, str], values: Iterable[Any]) -> None:
        """Note the classes that a list names and no mask shows."""
        present = {names[value] for value in values} | {legends.BACKGROUND}
        absent = [name for name in dict.fromkeys(names.values()) if name not in present]
        if absent:
            self.notes.append(f"left out, as no mask shows it: {listed(absent, most=8)}")

    def _present(self) -> set[Any]:
        """All values in the files."""
        return set().union(*(file.counts for file in self.values))

    def _structures(self) -> set[Any]:
        return self._present() - {0, (0, 0, 0)}

    def _is_together(self) -> bool:
        """Whether a file shows several values beside the background."""
        return any(len(set(file.counts) - {0, (0, 0, 0), IGNORE}) > 1 for file in self.values)

    def _shown(self, values: list[Any], names: Mapping[Any, str]) -> list[Shown]:
        """The classes of values, in this order; values of one name are one class."""
        cells, pixels, of_name = defaultdict(set), Counter(), defaultdict(list)
        for value in values:
            name = names.get(value) or (
                _colour_name(value) if _is_colour(value) else f"class_{value}"
            )
            of_name[safe_name(name)].append(value)
        for file in self.values:
            for name, own in of_name.items():
                n_pixels = sum(file.counts.get(value, 0) for value in own)
                pixels[name] += n_pixels
                if n_pixels:
                    cells[name].add(self.cell_of[file.path])
        return [
            Shown(name, tuple(own), len(cells[name]), pixels[name]) for name, own in of_name.items()
        ]

    def _as_classes(self, shown: list[Shown]) -> Reading:
        """The reading as classes that exclude each other."""
        settings = self._settings(shown, tuple(entry.name for entry in shown))
        return Reading(f"{len(shown)} classes", settings)

    @staticmethod
    def _as_one(shown: list[Shown]) -> Reading:
        """The reading as one structure."""
        values = [value for entry in shown for value in entry.values]
        if any(_is_colour(value) for value in values):
            return Reading("one structure", {"mask_encoding": {_key(v): 1 for v in values}})
        return Reading("one structure, all above 0", {"mask_encoding": "index"})

    def _result(
        self, about: str, settings: dict[str, Any], shown: list[Shown], n_pixels: int | None = None
    ) -> Classes:
        """The result, with the table of its classes."""
        unit = "volumes" if self.of_volumes else "images"
        rows = [
            {
                "class": entry.name,
                "in the files": " and ".join(map(_key, entry.values)),
                unit: entry.n_files,
                SHARE: (entry.n_pixels if n_pixels is None else n_pixels) / max(self.n_pixels, 1),
            }
            for entry in shown
            if entry.name != legends.BACKGROUND
        ]
        folders = {Path(path).parent.name for path in next(iter(self.cell_of.values())).split("|")}
        if len(folders) > 1:
            united = " and ".join(sorted(folders))
            self.notes.append(f"the masks of {united} are united as one structure")
        table = pd.DataFrame(rows)
        return Classes(
            about, settings, table, len(self.values), len(self.cell_of), tuple(self.notes)
        )


def _as_stored(file: Values) -> Any:
    """The value of a file's one structure, where it has exactly one beside the background."""
    structures = [value for value in file.counts if value not in (0, (0, 0, 0))]
    return structures[0] if len(structures) == 1 and len(file.counts) == 2 else None


def _has_one_component_a_number(path: str) -> bool:
    """Whether each number above 0 of a label map is one connected component."""
    numbers = images.read_pixels(path)[0]
    if numbers.ndim == 3:
        numbers = numbers[..., 0]
    return all(
        cv2.connectedComponents((numbers == number).astype(np.uint8), connectivity=8)[0] == 2
        for number in np.unique(numbers)
        if number
    )


def _is_colour(value: Any) -> bool:
    return isinstance(value, tuple)


def _key(value: Any) -> str:
    """A value as the tables of the config have it: "2" or "255,0,0"."""
    if isinstance(value, tuple):
        return ",".join(
            f"{part:g}" if not isinstance(part, tuple) else _key(part) for part in value
        )
    return value if isinstance(value, str) else f"{value:g}"


def _colour(text: str) -> tuple[int, ...]:
    """The colour of a text such as "255,0,0"."""
    return tuple(int(part) for part in text.split(","))


def _counts(shown: list[Shown]) -> str:
    """ "green 0,255,0 (15), red 255,0,0 (7)": classes with their values and numbers of files."""
    return ", ".join(
        f"{entry.name} {' and '.join(map(_key, entry.values))} ({entry.n_files})"
        for entry in shown[:8]
    )


def _colour_name(colour: tuple[int, ...]) -> str:
    """A name for a colour: "red", or "colour_128_0_64" for one without a name."""
    return _COLOUR_NAMES.get(colour, "colour_" + "_".join(map(str, colour)))
