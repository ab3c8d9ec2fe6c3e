"""Build the site of lessons, glossary, how-tos, results and API: `make book`.

The pages are collected in `runs/book/source` in the folders that they have in the repository, so
that links between them stay as they are, and Sphinx writes `runs/book/html`. The start page is the
README. Links to files that are no page lead to the repository, if `make address` has written where
it lies.
"""

import ast
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "runs" / "book"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^)\s>]+)>?\)")
FIGURES = ("docs/*.jpg", "docs/*.png", "docs/*.svg", "docs/*.webp", "*.png", "*.jpg", "*.svg")
# Pages of docs/ that belong to the results; all others are how-tos.
RESULTS = ("results", "scoring", "intervals", "choices", "timings")


def pages(root: Path = ROOT) -> dict[str, list[str]]:
    """Heading of the table of contents -> paths of its pages, from the root."""
    names = sorted(path.stem for path in (root / "docs").glob("*.md"))
    results = [name for name in RESULTS if name in names]
    how_tos = [name for name in names if name not in results]
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    solutions = sorted((root / "notebooks" / "solutions").glob("*.ipynb"))
    contents = {
        "Lessons": [path.relative_to(root).as_posix() for path in lessons],
        "Glossary": ["notebooks/glossary.md"],
        "Results": [f"docs/{name}.md" for name in results],
        "How to": [f"docs/{name}.md" for name in how_tos] + ["data/README.md"],
        "Solutions": [path.relative_to(root).as_posix() for path in solutions],
    }
    present = {
        heading: [path for path in paths if (root / path).is_file()]
        for heading, paths in contents.items()
    }
    return {heading: paths for heading, paths in present.items() if paths}


def modules(root: Path = ROOT) -> dict[str, str]:
    """Public module -> the first paragraph of its docstring, on one line.

    These are the modules at the top level of the package, which notebooks import.
    """
    package = root / "seglib"
    paths = {path.stem: path for path in package.glob("[!_]*.py")}
    paths |= {path.parent.name: path for path in package.glob("[!_]*/__init__.py")}
    docstrings = {
        name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for name, path in sorted(paths.items())
    }
    return {name: " ".join(text.split("\n\n")[0].split()) for name, text in docstrings.items()}


def address(root: Path = ROOT) -> str:
    """Where the repository lies, as `make address` has written it; empty before that."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    line = re.search(r'^Repository = "(.+)"', text, re.MULTILINE)
    return line[1] if line else ""


def with_links(text: str, path: str, staged: set[str], root: Path = ROOT) -> str:
    """The page with every link to a file that is no page of the site changed: it leads to the
    repository, or is only its text where no address is set.

    Args:
        path: of the page, from the root.
        staged: paths of the pages of the site. The README among them is its start page.
    """
    folder = (root / path).parent

    def changed(match: re.Match) -> str:
        image, label, target = match.groups()
        file, hash_sign, anchor = target.partition("#")
        if image or not file or re.match(r"[a-z][a-z+.-]*:", target):
            return match[0]
        try:
            name = (folder / file).resolve().relative_to(root).as_posix()
        except ValueError:
            return label
        if name == "README.md" and name in staged:
            up = "../" * path.count("/")
            return f"[{label}]({up}index.md{hash_sign}{anchor})"
        if name in staged:
            return match[0]
        home = address(root)
        return f"[{label}]({home}/blob/main/{name}{hash_sign}{anchor})" if home else label

    return LINK.sub(changed, text)


def stage(target: Path, root: Path = ROOT) -> None:
    """Write the source tree of the site into an empty folder."""
    contents = pages(root)
    files = {path for paths in contents.values() for path in paths}
    staged = {*files, "README.md"}
    for pattern in FIGURES:
        for path in root.glob(pattern):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    for path in sorted(files):
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = (root / path).read_text(encoding="utf-8")
        convert = _notebook if path.endswith(".ipynb") else with_links
        copy.write_text(convert(text, path, staged, root), encoding="utf-8")
    _write_api(target / "api", modules(root))
    readme = with_links((root / "README.md").read_text(encoding="utf-8"), "README.md", staged, root)
    contents["API"] = ["api/index.md"]
    trees = "\n\n".join(_tree(heading, paths) for heading, paths in contents.items())
    (target / "index.md").write_text(f"{readme}\n\n{trees}\n", encoding="utf-8")


def _notebook(text: str, path: str, staged: set[str], root: Path) -> str:
    """A notebook whose links lead somewhere on the site."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = with_links("".join(cell["source"]), path, staged, root)
            cell["source"] = source.splitlines(True)
    return json.dumps(notebook, ensure_ascii=False)


def _tree(heading: str, paths: list[str]) -> str:
    entries = "\n".join(path.rpartition(".")[0] for path in paths)
    return f"```{{toctree}}\n:hidden:\n:caption: {heading}\n:maxdepth: 1\n\n{entries}\n```"


def _write_api(folder: Path, documented: dict[str, str]) -> None:
    """A page for each module, and a table of all of them."""
    folder.mkdir(parents=True)
    rows = "\n".join(f"| [`{name}`]({name}.md) | {text} |" for name, text in documented.items())
    tree = "\n".join(documented)
    (folder / "index.md").write_text(
        "# The package `seglib`\n\nNotebooks import these modules: `from seglib import config`.\n\n"
        f"| module | holds |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n",
        encoding="utf-8",
    )
    for name in documented:
        page = f"# `seglib.{name}`\n\n```{{eval-rst}}\n.. automodule:: seglib.{name}\n```\n"
        (folder / f"{name}.md").write_text(page, encoding="utf-8")


def build(target: Path = TARGET, options: Sequence[str] = ()) -> int:
    """Stage the pages in `target/source` and write the site to `target/html`.

    Args:
        options: more options of `sphinx-build`, such as `-W`.

    Returns:
        The exit status of Sphinx.
    """
    from sphinx.cmd.build import main as sphinx

    source, pages_folder = target / "source", target / "html"
    for folder in (source, pages_folder):
        shutil.rmtree(folder, ignore_errors=True)
    stage(source)
    folders = ["-c", str(Path(__file__).parent), "-d", str(target / "doctrees")]
    status = sphinx(["-q", *folders, *options, str(source), str(pages_folder)])
    if not status:
        (pages_folder / ".nojekyll").touch()  # GitHub Pages drops folders that begin with _
    return status


if __name__ == "__main__":
    failed = build(options=sys.argv[1:])
    if not failed:
        print(f"open {TARGET / 'html' / 'index.html'}")
    sys.exit(failed)
