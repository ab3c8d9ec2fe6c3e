"""The source files of seglib: their module names, and what they import."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def module_name(path: Path) -> str:
    """The module of a file without `seglib.`: `layouts` for seglib/layouts/__init__.py."""
    parts = path.relative_to(ROOT / "seglib").with_suffix("").parts
    is_package = parts[-1] == "__init__" and len(parts) > 1
    return ".".join(parts[:-1] if is_package else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "seglib").rglob("*.py"))}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(our modules, top names of others) that a file of seglib imports, wherever in the file."""
    ours, others = set(), set()
    for name in _imported_names(path):
        top, _, rest = name.partition(".")
        if top == "seglib":
            ours.add(rest if rest in MODULES else rest.rpartition(".")[0])
        else:
            others.add(top)
    return ours - {""}, others


def _imported_names(path: Path) -> list[str]:
    """Full dotted names, `seglib.formats.images` for `from ..formats import images`."""
    package = ["seglib", *path.relative_to(ROOT / "seglib").parts[:-1]]
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names
