"""One clean execution of the series: `make notebooks`.

    python -m tests.course [--only 04 [05 ...]]

Copies the repository without data, runs and environment to a temporary folder, and executes there
the lessons in order, two at a time (see `AFTER`), so that each starts from what earlier ones left
and the first from an empty `runs/`; then the solutions. Outputs are kept as they are committed, and
the measured minutes are written into the README's table of notebooks. The first failure stops it.
`--only` executes only these lessons and their solutions; nothing else should run beside it, or the
minutes are wrong.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat

from tests import run_notebook

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- minutes: written by make notebooks -->", "<!-- end of minutes -->"
# The lessons that one starts from, because they left it a training or share its folder of data. Two
# others may run at once, each with one thread.
AFTER = {"01": ("00",), "04": ("01",), "07": ("02",), "08": ("03", "04", "05"), "09": ("04", "08")}
AT_ONCE = 2
# What is not copied: phantoms are to be used, and no earlier run.
LEFT_BEHIND = (".*", "runs", "shared", "__pycache__", "*.egg-info", "_build", "build")


def lessons(folder: Path = ROOT / "notebooks") -> list[Path]:
    """The lessons of the series in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def copy_repository(target: Path) -> Path:
    """A copy without data, runs and environment; returns the folder."""
    ignored = shutil.ignore_patterns(*LEFT_BEHIND)

    def left_behind(folder: str, names: list[str]) -> set[str]:
        is_data = Path(folder) == ROOT / "data"
        return {name for name in names if is_data and name != "README.md"} | ignored(folder, names)

    return Path(shutil.copytree(ROOT, target, ignore=left_behind))


def execute(relative: Path, scratch: Path) -> float | None:
    """Run one notebook of the copy and keep its outputs; minutes, or None if it failed."""
    source = scratch / relative
    notebook, problem = run_notebook.run(source, source)
    if problem:
        failed = ROOT / "runs" / f"{relative.stem}.executed.ipynb"
        failed.parent.mkdir(exist_ok=True)
        shutil.copy(source, failed)
        print(f"{relative}: failed; executed up to there: {failed.relative_to(ROOT)}\n{problem}")
        return None
    shutil.copy(source, ROOT / relative)
    minutes = notebook.metadata["seglib"]["minutes"]
    print(f"{relative}: {minutes:.1f} min, {source.stat().st_size / 1e3:.0f} kB", flush=True)
    return minutes


def execute_all(notebooks: list[Path], scratch: Path) -> dict[str, float] | None:
    """Run notebooks of the copy in order, two at a time; stem -> minutes, or None for a failure."""
    running: dict[str, Future] = {}

    def execute_when_ready(relative: Path) -> float | None:
        earlier = AFTER.get(relative.stem[:2], ())
        wait(running[number] for number in earlier if number in running)
        has_failed = any(one.done() and one.result() is None for one in list(running.values()))
        return None if has_failed else execute(relative, scratch)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for relative in notebooks:
            running[relative.stem[:2]] = pool.submit(execute_when_ready, relative)
    minutes = {path.stem: running[path.stem[:2]].result() for path in notebooks}
    return None if None in minutes.values() else minutes


def write_minutes(readme: str, minutes: dict[str, float]) -> str:
    """The README with new numbers in the column "minutes" of its table of notebooks.

    The table lies between the lines `BEGIN` and `END`; its rows link `notebooks/<stem>.ipynb`.
    Rows of lessons that `minutes` (stem -> minutes) lacks stay as they are, and so does a README
    without these lines.

    Raises:
        ValueError: if the table has no column named "minutes", or no row of a lesson.
    """
    if BEGIN not in readme:
        return readme
    before, _, rest = readme.partition(BEGIN)
    table, end, after = rest.partition(END)
    lines = table.splitlines(keepends=True)
    header = next((_cells(line) for line in lines if line.startswith("|")), [])
    if not end or "minutes" not in header:
        raise ValueError(f'README: no table with a column "minutes" between {BEGIN} and {END}')
    column, written = header.index("minutes"), set()
    for number, line in enumerate(lines):
        link = re.search(r"notebooks/(\w+)\.ipynb", line)
        if link and link[1] in minutes:
            cells = _cells(line)
            cells[column] = shown(minutes[link[1]])
            lines[number] = f"| {' | '.join(cells)} |\n"
            written.add(link[1])
    if set(minutes) - written:
        raise ValueError(f"README: the table has no row of {', '.join(set(minutes) - written)}")
    return f"{before}{BEGIN}{''.join(lines)}{END}{after}"


def shown(minutes: float) -> str:
    """Minutes as the README shows them: 0.6, 2.4."""
    return f"{max(minutes, 0.1):.1f}"


def _cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main(words: list[str] | None = None) -> int:
    """0 if all lessons and solutions ran and their claims hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.course", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers of lessons")
    only = parser.parse_args(words).only
    chosen = [path for path in lessons() if not only or path.stem[:2] in only]
    if not chosen:
        parser.error(f"no lesson is numbered {' or '.join(only)}")
    for name in ("SEGLIB_DATA", "SEGLIB_SMOKE"):
        os.environ.pop(name, None)
    # The last digits of a training depend on the number of threads: the same on every machine.
    os.environ["OMP_NUM_THREADS"] = "1"
    solutions = [path.parent / "solutions" / path.name for path in chosen]
    with tempfile.TemporaryDirectory(prefix="seglib-course-") as folder:
        scratch = copy_repository(Path(folder) / "seglib-course")
        start = time.perf_counter()
        minutes = execute_all([path.relative_to(ROOT) for path in chosen], scratch)
        if minutes is None:
            return 1
        spent = (time.perf_counter() - start) / 60
        print(f"all lessons: {sum(minutes.values()):.1f} min, done after {spent:.1f}", flush=True)
        README.write_text(write_minutes(README.read_text("utf-8"), minutes), "utf-8")
        existing = [path.relative_to(ROOT) for path in solutions if path.is_file()]
        return 0 if execute_all(existing, scratch) is not None else 1


def stored_minutes(path: Path) -> float | None:
    """The minutes that the last execution of a notebook took; None if it does not say."""
    return nbformat.read(path, as_version=4).metadata.get("seglib", {}).get("minutes")


if __name__ == "__main__":
    sys.exit(main())
