"""The errors a user can cause: what is wrong in which file or setting, and what to do about it."""


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
