"""A hash of the code that made a notebook's outputs: its cells and what they import of seglib.

Comments, docstrings and layout don't count, so that an edit of them does not make outputs old.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import sources

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Fields that differ between versions of Python or say nothing about what the code does.
WITHOUT_MEANING = {"ctx", "kind", "type_comment", "type_ignores"}
# Tables name code as "module:function", see `seglib.tables`.
REFERENCE = re.compile(r"([a-z_]\w*(?:\.\w+)*):\w+")


def code_hash(notebook: Any, stem: str) -> str:
    """16 hexadecimal digits for the code of an nbformat notebook and the modules it reaches.

    `stem` is the file's name without suffix; its first two digits name the lesson's exercises.
    """
    trees = [parsed(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    digest = hashlib.sha256()
    for tree in trees:
        digest.update(meaning(tree).encode())
    for name in sorted(reached(modules_of(trees) | {f"exercises.lesson_{stem[:2]}"})):
        digest.update(f"{name}\n{_module_meaning(name)}\n".encode())
    return digest.hexdigest()[:16]


def parsed(source: str) -> ast.Module:
    """The syntax tree of a code cell; lines of magic (`%`, `!`) become strings."""
    lines = [
        f"{line[: len(line) - len(line.lstrip())]}{line.strip()!r}"
        if line.lstrip().startswith(("%", "!"))
        else line
        for line in source.splitlines()
    ]
    return ast.parse("\n".join(lines))


def meaning(node: Any) -> str:
    """What the code does, as text: the syntax tree without positions, docstrings, comments.

    `ast.dump` would do, but its text differs between versions of Python.
    """
    if isinstance(node, list):
        return "[" + ",".join(map(meaning, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={meaning(value)}"
        for name, value in _fields(node)
        if name not in WITHOUT_MEANING and value is not None and value != []
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Name and value of the fields of a node; its docstring is left out."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            value = value[1:]
        yield name, value


def modules_of(trees: list[ast.Module]) -> set[str]:
    """The modules of seglib that cells import, without `seglib.`."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("seglib.") for name in names if name.startswith("seglib.")}
    return {name if name in sources.MODULES else name.rpartition(".")[0] for name in ours}


def reached(names: set[str]) -> set[str]:
    """These modules of seglib and all that they import, directly or through others."""
    waiting, done = {name for name in names if name in sources.MODULES}, set()
    while waiting:
        name = waiting.pop()
        done.add(name)
        waiting |= _below(name) - done
    return done


@functools.cache
def _below(name: str) -> set[str]:
    """Modules that a module imports or names in a string "module:function", and its packages."""
    path = sources.MODULES[name]
    strings = [node.value for node in ast.walk(sources.tree(path)) if _is_string(node)]
    named = {match[1] for match in map(REFERENCE.fullmatch, strings) if match}
    parents = {name.rpartition(".")[0]} if "." in name else {"__init__"}
    return (sources.imports(path)[0] | named | parents) & set(sources.MODULES)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@functools.cache
def _module_meaning(name: str) -> str:
    path: Path = sources.MODULES[name]
    return meaning(sources.tree(path))
