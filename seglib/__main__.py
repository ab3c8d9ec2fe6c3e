"""The command line: `python -m seglib --help`. Its commands make the calls that a notebook makes.

The table `commands.table.COMMANDS` lists every command with its options. Nothing heavy is imported
before a command runs, so that help and errors in the arguments come at once.
"""

import ast
import contextlib
import re
import shlex
import sys

from . import config, effects
from .commands import arguments
from .errors import SeglibError


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 2 a mistake or bad data (one message), 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = arguments.parse(argv)
        effects.refuse(args.function.__name__, args.given, args)
        args.function(args)
        return 0
    except (SeglibError, OSError) as error:
        print(f"seglib: {error}", file=sys.stderr)
        is_told = "on the command line" in str(error)
        options = "" if is_told else _options_named_in(str(error))
        if options:
            print(f"seglib: on the command line: {options}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seglib: stopped", file=sys.stderr)
        return 130


def _options_named_in(message: str) -> str:
    """The settings that an error advises, such as task='multiclass', as a shell takes them."""
    ways = {}
    for part in message.split(";"):  # each part advises another way
        options = {}
        for name, text in re.findall(r"\b(\w+)=(\{[^}]*\}|\([^)]*\)|'[^']*'|[-\d.]+\d|None)", part):
            if name in config.FIELDS:
                with contextlib.suppress(ValueError, SyntaxError):
                    value = arguments.as_text(ast.literal_eval(text))
                    options[f"--{name} {shlex.quote(value)}"] = None
        ways[", ".join(options)] = None
    return ", or ".join(filter(None, ways))


if __name__ == "__main__":
    sys.exit(main())
