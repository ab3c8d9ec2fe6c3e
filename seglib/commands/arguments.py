"""From the words of a command line to its command, settings and options, and the help texts."""

import argparse
import json
import re
import typing
from typing import Any

from .. import config, fields
from ..errors import ConfigError
from . import parts
from .table import COMMANDS, Command

SECTIONS = {  # the first field of a group of the help -> its title
    "preset": "system",
    "data_root": "data",
    "architecture": "network",
    "loss": "loss and optimisation",
    "num_workers": "machine",
    "threshold": "scoring",
}

FIELD_ALIASES = {"data_root": ("--data_dir",)}

WITHOUT_VALUE = {"scheduler": "plateau", "save_every": "10"}  # `--scheduler` alone means plateau


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ours: one message, without the long usage."""

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of one command line; `function` is the function of its command.

    Raises:
        ConfigError: an argument that the command does not have; names the nearest one.
    """
    argv = [_with_underscores(argument) for argument in argv]
    cfg = _named_config(argv) if {"-h", "--help"} & set(argv) else config.Config()
    parser = Parser(
        prog="python -m seglib", description="Medical image segmentation, from raw images to masks."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        _add_command(subparsers, command, cfg)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        subparser = subparsers.choices[args.command]
        options = re.findall(r"--\w+", subparser.format_help())
        near = fields.nearest(name, options) if name.startswith("-") else ""
        if name.removeprefix("--") in _field_options():
            near = ": a setting that has no effect there"
        raise ConfigError(f"{args.command} takes no {name!r}{near}; see {subparser.prog} --help")
    args.given = _given(args)
    return args


def _given(args: argparse.Namespace) -> list[str]:
    """The options, as names without dashes, that the user gave with another value than the default.

    Options of settings are absent from `args` unless the user gave them.
    """
    command = next(command for command in COMMANDS if command.function is args.function)
    names = [name for name in config.FIELDS if hasattr(args, name)]
    for option, arguments in command.options.items():
        name = option.split()[0].lstrip("-")
        flag_default = False if arguments.get("action") else None
        if getattr(args, name) != arguments.get("default", flag_default):
            names.append(name)
    return names


def _field_options() -> set[str]:
    """The names of all settings, as options without their dashes."""
    aliases = (name.lstrip("-") for names in FIELD_ALIASES.values() for name in names)
    return {*config.FIELDS, *aliases}


def _with_underscores(argument: str) -> str:
    """`--batch-size=4` as `--batch_size=4`; a value stays as it is."""
    return re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), argument)


def _named_config(argv: list[str]) -> config.Config:
    """The config that --preset, --size and --config mean, wherever they stand in the line."""
    parser = Parser(prog="python -m seglib", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for name in ("preset", "size"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    return parts.config_of(parser.parse_known_args(argv)[0])


def _add_command(subparsers, command: Command, cfg: config.Config) -> None:
    """The parser of one command; the help of its settings shows the values of `cfg`."""
    about = (command.function.__doc__ or "").rstrip(".")
    description = about
    if len(command.fields) == len(config.FIELDS):
        description += f". The defaults below: --preset {cfg.preset} --size {cfg.size}"
    parser = subparsers.add_parser(
        command.function.__name__,
        aliases=command.aliases,
        help=about,
        description=description,
        allow_abbrev=False,
    )
    parser.set_defaults(function=command.function)
    positionals = [name.upper() for name in command.options if not name.startswith("-")]
    parser.usage = " ".join([parser.prog, *positionals, "[options]"])
    for names, arguments in command.options.items():
        parser.add_argument(*names.split(), **arguments)
    if command.fields:
        _add_fields(parser, command.fields, cfg)


def _add_fields(parser: Parser, names: tuple[str, ...], cfg: config.Config) -> None:
    """--config, and an option for each of these fields of `Config`, in the sections of the help."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings from .cfg, .toml or .json; options given here win",
    )
    values = cfg.to_dict()
    group: Any = parser
    for name in config.FIELDS:
        if name in SECTIONS:
            group = parser.add_argument_group(SECTIONS[name])
        if name in names:
            # Commands that take only some of the fields use a network that is trained already.
            as_trained = len(names) < len(config.FIELDS) and name not in parts.PLACE
            _add_field(group, name, "as trained" if as_trained else as_text(values[name]))


def _add_field(group: Any, name: str, default: str) -> None:
    """The option of one field of `Config`; `parts.settings_of` parses its text later."""
    kind = config.describe(name)
    alone = WITHOUT_VALUE.get(name)  # the value of the option given without one
    if "bool" in kind:
        kind, alone = kind.replace("bool", "yes | no"), "yes"
    optional_value: dict[str, Any] = {}
    if alone:
        kind += f", alone: {alone}"
        optional_value = {"nargs": "?", "const": alone}
    text = f"{config.FIELDS[name].metadata['help']} ({kind}; default {default})"
    group.add_argument(
        f"--{name}",
        *FIELD_ALIASES.get(name, ()),
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
        **optional_value,
    )


def as_text(value: Any) -> str:
    """A value as a command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value)
