"""Write the address of the repository: `make address REPO=https://github.com/YOU/FORK`.

pyproject.toml gets it under `[project.urls]`, and the set-up cell of notebooks and solutions clones
from it. For an address on GitHub the README and the notebooks also get badges that open a notebook
on Colab and on Kaggle. Another call replaces the address; an empty one removes it and the badges.
Needs only the standard library.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = '# Repository = "https://github.com/YOU/FORK" # written by make address REPO=...'
COLAB = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
KAGGLE = "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
GOALS = re.compile(r"^\*\*(After this lesson you can|You will)\*\*", re.MULTILINE)
SETUP = re.compile(r'^(address = os\.environ\.get\("SEGLIB_REPO", )".*?"', re.MULTILINE)


def badges(address: str, notebook: str) -> str:
    """The two badges of a notebook; empty unless the address is on GitHub, where the hosts look."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        return ""
    page = f"{address}/blob/main/notebooks/{notebook}.ipynb"
    on_colab = page.replace("https://github.com", "https://colab.research.google.com/github")
    return f"{COLAB}({on_colab}) {KAGGLE}(https://kaggle.com/kernels/welcome?src={page})"


def project(text: str, address: str) -> str:
    """pyproject.toml with the address, or with a comment in its place."""
    line = f'Repository = "{address}"' if address else PLACEHOLDER
    return re.sub(r"^(# )?Repository = .*$", lambda match: line, text, count=1, flags=re.MULTILINE)


def readme(text: str, address: str) -> str:
    """The README with or without the column of badges in its table of notebooks."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("| notebook |"))
    with_badges = bool(badges(address, "any"))
    for i in range(start, len(lines)):
        if not lines[i].startswith("|"):
            break
        cells = lines[i].split("|")[1:4]
        name = re.search(r"notebooks/(\w+)\.ipynb", cells[0])
        if with_badges and name:
            cells.append(f" {badges(address, name[1])} ")
        elif with_badges:
            cells.append(" open " if i == start else "---")
        lines[i] = "|".join(["", *cells, ""])
    return "\n".join(lines)


def notebook(text: str, address: str, name: str = "") -> str:
    """A notebook with the address in its set-up cell, and its badges before the list of its goals.

    Without a name, as for solutions, there are no badges.
    """
    content = json.loads(text)
    opening, setup = content["cells"][0], content["cells"][2]
    page = re.sub(r"\[!\[Open in Colab\].*\n\n", "", "".join(opening["source"]))
    if name and badges(address, name):
        page = GOALS.sub(lambda goals: f"{badges(address, name)}\n\n{goals[0]}", page, count=1)
    code = SETUP.sub(lambda start: f'{start[1]}"{address}"', "".join(setup["source"]))
    opening["source"], setup["source"] = page.splitlines(True), code.splitlines(True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write(root: Path, address: str) -> None:
    """Write the address into all files below `root`."""
    folder = root / "notebooks"
    for path in sorted([*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")]):
        name = "" if path.parent.name == "solutions" else path.stem
        text = notebook(path.read_text(encoding="utf-8"), address, name)
        path.write_text(text, encoding="utf-8")
    for name, change in (("README.md", readme), ("pyproject.toml", project)):
        path = root / name
        path.write_text(change(path.read_text(encoding="utf-8"), address), encoding="utf-8")


def main(argument: str) -> None:
    address = argument.strip().rstrip("/")
    if address.startswith("https://github.com/"):
        address = address.removesuffix(".git")
    if re.search(r"""["'\\\s]""", address):
        sys.exit(
            f"REPO={argument!r} is no address: expected something like https://github.com/YOU/FORK"
        )
    write(ROOT, address)
    print(f"address: {address or '(none)'}")
    if address and not badges(address, "any"):
        print("no badges: Colab and Kaggle open notebooks of https://github.com/OWNER/NAME only")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("make address REPO=https://github.com/YOU/FORK")
    main(sys.argv[1])
