"""The errors a user can cause. A message names the file or field, what was found and expected, and what to do."""


class SeglibError(Exception):
    """Base of all errors that this package raises on purpose; the command line prints them without a traceback."""


class ConfigError(SeglibError, ValueError):
    """A setting has an unknown name, or a value of the wrong type or range."""


class DataError(SeglibError, ValueError):
    """A file or a data set is missing, unreadable, or not what its place in the tree promises."""
