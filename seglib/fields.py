"""Values of settings: coerced to a type hint, read from text and from files.

`config` builds on it. Nothing here knows which settings there are.
"""

import ast
import configparser
import copy
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError

# What `coerce` returns for a value of the wrong type. A singleton of Python, so that it is still
# the same object after this module was reloaded.
INVALID = NotImplemented

TRUTH_VALUES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other hint is its own only alternative."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def coerce(value: Any, hint: Any) -> Any:
    """`value` in the form of `hint`, or `INVALID` where it has another type.

    Lists become tuples; whole numbers become floats where a float is expected; paths and the keys
    of dictionaries become strings; numpy scalars become Python's numbers. Nothing is guessed: "5"
    is not an int, and 1 is not a bool.
    """
    if isinstance(value, Path):
        value = str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # torch's safe loading would refuse a numpy scalar in a checkpoint
    for alternative in alternatives(hint):
        coerced = _coerce_to(value, alternative)
        if coerced is not INVALID:
            return coerced
    return INVALID


def _coerce_to(value: Any, hint: Any) -> Any:
    """`coerce` for a hint that is not a union."""
    origin = typing.get_origin(hint)
    if hint is float and type(value) in (int, float):
        return _as_float(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _coerce_tuple(value, typing.get_args(hint))
    if origin is dict and isinstance(value, dict):
        return _coerce_dict(value, typing.get_args(hint)[1])
    if origin is Literal:
        fits = isinstance(value, str) and value in typing.get_args(hint)
    elif hint is types.NoneType:
        fits = value is None
    else:
        fits = hint is Any or type(value) is hint
    return value if fits else INVALID


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _coerce_tuple(values: list | tuple, hints: tuple[Any, ...]) -> Any:
    """For the hints (int, int) exactly two values, for (int, ...) one or more."""
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(values)
    if not values or len(values) != len(hints):
        return INVALID
    coerced = tuple(coerce(value, hint) for value, hint in zip(values, hints))
    return INVALID if any(value is INVALID for value in coerced) else coerced


def _coerce_dict(values: dict, hint: Any) -> Any:
    """A copy with strings as keys, as JSON has them; a colour (255, 0, 0) becomes "255,0,0"."""
    coerced = {}
    for key, value in values.items():
        name = ",".join(map(str, key)) if isinstance(key, (list, tuple)) else str(key)
        coerced[name] = copy.deepcopy(value) if hint is Any else coerce(value, hint)
    return INVALID if any(value is INVALID for value in coerced.values()) else coerced


def nearest(name: Any, names: Iterable[Any]) -> str:
    """`; did you mean 'x'?` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe_type(hint: Any) -> str:
    """A type hint in words, for an error message: `"a list of float or none"`."""
    return " or ".join(_describe_alternative(alternative) for alternative in alternatives(hint))


def _describe_alternative(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {arguments[0].__name__}"
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if origin is dict:
        return "a table"
    return "none" if hint is types.NoneType else hint.__name__


def from_text(text: str, hint: Any) -> Any:
    """The value of this type that `text` stands for, in a command line or an INI file.

    Text that stands for no value of this type is returned as it is, for `coerce` to refuse.
    """
    text = text.strip()
    word = text.lower()
    if word in ("none", "") and coerce(None, hint) is not INVALID:
        return None
    if coerce(text, hint) is not INVALID:
        return text
    if word in TRUTH_VALUES and coerce(True, hint) is not INVALID:
        return TRUTH_VALUES[word]
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(value, str) and "," in value:
        return tuple(part.strip() for part in value.split(","))
    if coerce(value, hint) is INVALID and coerce((value,), hint) is not INVALID:
        return (value,)
    return value


def read(path: Path, hints: dict[str, Any]) -> dict[str, Any]:
    """The settings in a `.json`, `.toml` or `.cfg` file; `hints` are the types of all settings.

    Raises:
        ConfigError: no such file, an unknown suffix, or a file that cannot be parsed.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; expected a .json, .toml or .cfg file")
    parsers = {".json": _from_json, ".toml": _from_toml, ".cfg": _from_ini, ".ini": _from_ini}
    if path.suffix not in parsers:
        suffix = path.suffix or "without suffix"
        raise ConfigError(f"{path.name}: a config is a .json, .toml or .cfg file, not {suffix!r}")
    try:
        return parsers[path.suffix](path.name, path.read_text(encoding="utf-8"), hints)
    except ConfigError:
        raise
    except (ValueError, configparser.Error) as error:
        raise ConfigError(f"{path.name}: not readable as a config: {error}") from error


def _from_json(file_name: str, text: str, hints: dict[str, Any]) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{file_name}: found a {kind}; expected an object of settings")
    return values


def _from_toml(file_name: str, text: str, hints: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tomllib.loads(text).items():
        is_section = isinstance(value, dict) and key not in hints
        values |= value if is_section else {key: value}
    for key, value in values.items():
        # TOML has no null: "none" stands for it where the setting may be None.
        if value == "none" and key in hints and coerce(None, hints[key]) is None:
            values[key] = None
    return values


def _from_ini(file_name: str, text: str, hints: dict[str, Any]) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # keep the case of names
    parser.read_string(text, source=file_name)
    values: dict[str, Any] = {}
    for section in parser.sections():
        if section not in ("data", "training", "model", "config"):
            raise ConfigError(
                f"{file_name}: unknown section [{section}]; expected [data], [training] or [model]"
            )
        for key, value in parser[section].items():
            values[key] = from_text(value, hints[key]) if key in hints else value
    return values


def dump(values: dict[str, Any], suffix: str) -> str:
    """The text of a config file with these plain values; TOML and INI write None as "none".

    Raises:
        ConfigError: a suffix other than `.json`, `.toml` and `.cfg`.
    """
    if suffix == ".json":
        return json.dumps(values, indent=2) + "\n"
    if suffix not in (".toml", ".cfg"):
        suffix = suffix or "without suffix"
        raise ConfigError(f"a config is saved as .json, .toml or .cfg, not {suffix!r}")
    lines = []
    for name, value in values.items():
        value = "none" if value is None else value
        if suffix == ".toml":
            text = _toml(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{name} = {text}\n")
    return "".join(lines if suffix == ".toml" else ["[config]\n", *lines])


def _toml(value: Any) -> str:
    """A value as TOML writes it: as JSON does, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
