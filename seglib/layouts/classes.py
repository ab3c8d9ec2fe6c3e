"""Which classes the masks of a folder show, where nobody has named them: the answer, in words.

The preset binary takes any data. Where the user has named neither classes nor a way to read masks,
`layouts.complete` looks at the masks and at the lists beside them: `class_values` at the numbers
and colours of masks, `class_files` at folders and files of single classes. What can be read in two
ways is never guessed: `two_readings` asks, with the settings of each. Taught in
`01_data_preparation`.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import config
from ..errors import DataError

# So many mask files are read, evenly spread; preparation reads all of them.
MOST_PICTURES, MOST_VOLUMES = 1000, 100
MOST_CLASSES = 40  # more than these need names
SHARE = "share of pixels"  # a column of the table


@dataclass(frozen=True)
class Classes:
    """What the masks of a folder show.

    Attributes:
        about: in words, such as "3 classes that exclude each other, by colour".
        settings: the fields of `Config` that say so; {} for one structure of the preset's own name.
        table: one row a class: class, in the files, images (or volumes), share of pixels.
        n_read, n_masks: how many of the mask files were read.
        notes: what else a reader should know.
    """

    about: str
    settings: dict[str, Any]
    table: pd.DataFrame
    n_read: int
    n_masks: int
    notes: tuple[str, ...] = ()

    def text(self, root: str | Path) -> str:
        """The table, and the line of config that says the same, to be corrected."""
        of_all = "" if self.n_read == self.n_masks else f" (of {self.n_masks})"
        table = self.table.assign(**{SHARE: [f"{share:.2%}" for share in self.table[SHARE]]})
        lines = [f"classes: {self.about}; {self.n_read} mask files read{of_all}"]
        lines += [f"  {line}" for line in table.to_string(index=False).splitlines()]
        lines += [f"  {note}" for note in self.notes]
        settings = self.settings or {"class_names": ("structure",)}
        arguments = f"data_root={_shown(root)!r}, {as_arguments(settings)}"
        lines += [
            "to name or read them otherwise, change this line:",
            f'  cfg = config.preset("binary", {arguments})',
            f"  or on the command line: {as_options(settings)}",
        ]
        return "\n".join(lines)


def _shown(root: str | Path) -> str:
    """The folder as it is shortest: as it was given, or from the working directory."""
    try:
        return min(str(root), os.path.relpath(root), key=len)
    except ValueError:  # on Windows, a folder of another drive
        return str(root)


class Reading(NamedTuple):
    """One of two ways to read masks: in words, and the settings that choose it."""

    text: str
    settings: dict[str, Any]


def are_open(cfg: Any) -> bool:
    """Whether the data may decide the classes: only the preset binary takes any, and the user has
    not named one structure, nor both classes and task.
    """
    if cfg.preset != "binary" or {"class_names", "task"} <= cfg.chosen:
        return False
    is_one = len(cfg.class_names) == 1
    return not (is_one and {"class_names", "task"} & cfg.chosen)


def as_arguments(settings: Mapping[str, Any]) -> str:
    """Settings as Python takes them; the task follows from the names, and is left out."""
    shown = {name: value for name, value in settings.items() if name != "task"}
    return ", ".join(
        f"{name}={json.dumps(value) if isinstance(value, dict) else repr(value)}"
        for name, value in shown.items()
    )


def as_options(settings: Mapping[str, Any]) -> str:
    """Settings as a shell takes them."""
    options = []
    for name, value in settings.items():
        if name == "task":
            continue
        text = json.dumps(value) if isinstance(value, dict) else value
        text = ",".join(value) if isinstance(value, tuple) else text
        options.append(f"--{name} {shlex.quote(text)}")
    return " ".join(options)


def two_readings(root: str | Path, reason: str, *readings: Reading) -> DataError:
    """The error that asks which reading is meant, with the settings of each."""
    lines = [f"{root}: the masks can be read in {len(readings)} ways, and {reason}; choose one:"]
    lines += [f"- {reading.text}: {as_arguments(reading.settings)}" for reading in readings]
    lines.append("on the command line:")
    lines += [f"- {reading.text}: {as_options(reading.settings)}" for reading in readings]
    return DataError("\n".join(lines))


def safe_name(name: str) -> str:
    """A name of a class that is also one of a folder and of a column of the case table."""
    name = re.sub(r"[^\w .+()-]+", "_", name).strip(" .")[:80] or "class"
    return f"{name}_class" if name in config.RESERVED else name


def spread(paths: list[str], most: int) -> list[str]:
    """At most so many of the paths, evenly spread."""
    chosen = np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
    return [paths[k] for k in chosen]
