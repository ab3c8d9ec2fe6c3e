"""The errors a user can cause: what is wrong in which file or setting, and what to do about it.

Here too, how messages and notes list what they are about.
"""

from collections.abc import Iterable


class SeglibError(Exception):
    """Base of all errors that this package raises on purpose.

    The command line prints them without a traceback.
    """


class ConfigError(SeglibError, ValueError):
    """A setting has an unknown name, or a value of the wrong type or range."""


class DataError(SeglibError, ValueError):
    """A file or a data set is missing, unreadable, or of another kind than its place requires."""


class TrainingError(SeglibError, ArithmeticError):
    """A training cannot go on: the loss is not a finite number with a gradient, or the memory is
    too small."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; its class if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first names, and how many more there are: "a, b, c and 4 more"."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def grouped(notes: Iterable[str]) -> list[str]:
    """Notes "name: text" of one text as one note, which lists the first three names."""
    names: dict[tuple[str, str], list[str]] = {}  # colon and text behind the name -> names
    for note in notes:
        name, colon, text = note.partition(": ")
        names.setdefault((colon, text) if colon else ("", note), []).append(name)
    return [
        f"{listed(group)}{colon}{text}" if colon else text for (colon, text), group in names.items()
    ]
