"""How a setting's value is fitted to its type hint, read from text and from files; `config` builds on it."""

import ast
import configparser
import copy
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError

INVALID = NotImplemented  # what `fit` answers for a value that does not fit; the same object after a reload


def parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union hint."""
    return (
        typing.get_args(hint)
        if typing.get_origin(hint) in (types.UnionType, typing.Union)
        else (hint,)
    )


def coerce(value: Any, hint: Any) -> Any:
    """`value` in the form that `hint` asks for (lists become tuples, whole numbers floats), or `INVALID`."""
    if isinstance(value, Path):
        value = str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # numpy scalars would not load again under torch's safe loading
    for part in parts(hint):
        origin, args = typing.get_origin(part), typing.get_args(part)
        if origin is Literal and isinstance(value, str) and value in args:
            return value
        if origin is tuple and isinstance(value, (list, tuple)):
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            fitted = [coerce(v, k) for v, k in zip(value, kinds)]
            if value and len(kinds) == len(value) and not any(f is INVALID for f in fitted):
                return tuple(fitted)
        if origin is dict and isinstance(value, dict):
            fitted = {
                _key(k): copy.deepcopy(v) if args[1] is Any else coerce(v, args[1])
                for k, v in value.items()
            }
            if not any(f is INVALID for f in fitted.values()):
                return fitted
        if (
            part is Any
            or (part is types.NoneType and value is None)
            or (part in (str, bool) and type(value) is part)
        ):
            return value
        if part is int and type(value) is int:
            return value
        if part is float and type(value) in (int, float):
            return float(value)
    return INVALID


def _key(key: Any) -> str:
    """Dictionary keys as JSON has them; a colour (255, 0, 0) becomes "255,0,0"."""
    return ",".join(str(int(k)) for k in key) if isinstance(key, (tuple, list)) else str(key)


def nearest(name: Any, names: Any) -> str:
    """`; did you mean 'x'?` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe_type(hint: Any) -> str:
    """The type hint in words for an error message."""
    found = []
    for part in parts(hint):
        origin, args = typing.get_origin(part), typing.get_args(part)
        if origin is Literal:
            found.append(" | ".join(repr(a) for a in args))
        elif origin is tuple:
            found.append(
                f"a list of {args[0].__name__}" if args[-1] is Ellipsis else f"{len(args)} numbers"
            )
        else:
            found.append(
                "none" if part is types.NoneType else "a table" if origin is dict else part.__name__
            )
    return " or ".join(found)


def from_text(text: str, hint: Any) -> Any:
    """What `text` (a command line, an INI file) means for a setting of this type; the text itself where unsure."""
    text = text.strip()
    if text.lower() in ("none", "") and coerce(None, hint) is not INVALID:
        return None
    if coerce(text, hint) is not INVALID:
        return text
    if (
        text.lower() in ("true", "yes", "on", "false", "no", "off")
        and coerce(True, hint) is not INVALID
    ):
        return text.lower() in ("true", "yes", "on")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(value, str) and "," in value:
        return tuple(part.strip() for part in value.split(","))
    return (
        (value,)
        if coerce(value, hint) is INVALID and coerce((value,), hint) is not INVALID
        else value
    )


def read(path: Path, names: Any, hints: dict[str, Any]) -> dict[str, Any]:
    """The settings in a `.json`, `.toml` or `.cfg` file as a dict; `names` are the fields, `hints` their types."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; expected a .json, .toml or .cfg file")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ConfigError(
                    f"{path.name}: found a {type(values).__name__}; expected an object of settings"
                )
            return values
        if path.suffix == ".toml":
            return _from_toml(text, hints)
        if path.suffix in (".cfg", ".ini"):
            return _from_ini(path.name, text, hints)
    except (ValueError, configparser.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path.name}: not readable as a config: {error}") from error
    raise ConfigError(
        f"{path.name}: a config is a .json, .toml or .cfg file, not {path.suffix or 'without suffix'!r}"
    )


def _from_toml(text: str, hints: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tomllib.loads(text).items():
        flat.update(value if isinstance(value, dict) and key not in hints else {key: value})
    # TOML has no null: "none" stands for it where the field may be None.
    return {
        k: None if v == "none" and k in hints and coerce(None, hints[k]) is None else v
        for k, v in flat.items()
    }


def _from_ini(name: str, text: str, hints: dict[str, Any]) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # field names are case-sensitive
    parser.read_string(text, source=name)
    values: dict[str, Any] = {}
    for section in parser.sections():
        if section not in ("data", "training", "model", "config"):
            raise ConfigError(
                f"{name}: unknown section [{section}]; expected [data], [training] or [model]"
            )
        for key, value in parser[section].items():
            values[key] = from_text(value, hints[key]) if key in hints else value
    return values


def dump(values: dict[str, Any], suffix: str) -> str:
    """The text of a config file with these plain values; None is left out except in JSON."""
    if suffix == ".json":
        return json.dumps(values, indent=2) + "\n"
    if suffix not in (".toml", ".cfg"):
        raise ConfigError(
            f"a config is saved as .json, .toml or .cfg, not {suffix or 'without suffix'!r}"
        )
    lines = [
        f"{name} = {_literal('none' if value is None else value, suffix)}"
        for name, value in values.items()
    ]
    return "\n".join(lines if suffix == ".toml" else ["[config]", *lines]) + "\n"


def _literal(value: Any, suffix: str) -> str:
    if isinstance(value, dict) and suffix == ".toml":
        return (
            "{"
            + ", ".join(f"{_literal(k, suffix)} = {_literal(v, suffix)}" for k, v in value.items())
            + "}"
        )
    return (
        value
        if suffix == ".cfg" and isinstance(value, str)
        else json.dumps(value, ensure_ascii=suffix != ".toml")
    )
