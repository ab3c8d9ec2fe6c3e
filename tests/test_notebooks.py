"""The notebook contract: the same opening, short cells with a reason before each, small outputs."""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
PRIVATE = re.compile(r"(/(home|root|work|tmp|Users)/|[A-Z]:\\\\)")

notebooks = pytest.mark.parametrize("name", NOTEBOOKS)


def code(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def texts_of(cell):
    """Everything textual that a cell's outputs hold, one string an output."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )


def prose(source):
    """The running text of a markdown cell: no headings, tables, lists, badges."""
    skipped = ("#", "|", "-", "[!", "**You will**")
    lines = [
        line
        for line in source.splitlines()
        if not line.startswith(skipped) and not re.match(r"\d+\. ", line)
    ]
    return " ".join(lines).split()


def test_there_are_notebooks_and_their_names_are_numbered():
    assert len(PATHS) >= 3
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in PATHS)


@notebooks
def test_opening(name):
    first, second, setup = NOTEBOOKS[name].cells[:3]
    lines = first.source.splitlines()
    assert lines[0].startswith(f"# {name[:2]} · ")
    bullets = [line for line in lines if line.startswith("- ")]
    assert "**You will**" in first.source and 1 <= len(bullets) <= 4
    assert second.source.startswith("## Set-up") and setup.cell_type == "code"


def test_the_set_up_cell_is_the_same_everywhere():
    assert len({notebook.cells[2].source for notebook in NOTEBOOKS.values()}) == 1


@notebooks
def test_one_import_cell_then_the_configuration(name):
    cells = code(name)[1:]
    importing = [
        i for i, cell in enumerate(cells) if re.search(r"^from seglib import", cell.source, re.M)
    ]
    assert importing[0] == 0, "the cell after the set-up imports"
    others = [
        i
        for i, cell in enumerate(cells[:-3])
        if i and re.search(r"^(import|from) ", cell.source, re.M)
    ]
    assert not others, f"code cells {others} import too"  # the exercises at the end may
    assert "config.preset(" in cells[1].source


@notebooks
def test_a_reason_stands_before_every_code_cell(name):
    cells = NOTEBOOKS[name].cells
    for before, cell in zip(cells, cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no text before: {cell.source[:60]!r}"
            assert 15 <= len(prose(before.source)) <= 60, (
                f"{len(prose(before.source))} words: {before.source[:60]!r}"
            )


@notebooks
def test_code_cells_are_short(name):
    cells = [cell.source.splitlines() for cell in code(name)]
    lengths = [len(lines) for lines in cells]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 9
    assert max(len(line) for lines in cells for line in lines) <= 100


@notebooks
def test_no_private_path_anywhere(name):
    for cell in NOTEBOOKS[name].cells:
        for text in (cell.source, *texts_of(cell)):
            assert not PRIVATE.search(text), PRIVATE.search(text)


@notebooks
def test_executed_in_order_without_errors(name):
    counts = [cell.execution_count for cell in code(name)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code(name):
        kinds = [(output.output_type, output.get("name")) for output in cell.outputs]
        assert not [kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"], (
            cell.source[:60]
        )


@notebooks
def test_outputs_are_small_and_come_from_phantoms(name):
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size <= 300 * 1024
    everything = [text for cell in code(name) for text in texts_of(cell)]
    assert max((text.count("\n") for text in everything if "<table" not in text), default=0) <= 100
    assert any("PHANTOMS" in text for text in everything) and not any(
        "REAL DATA" in text for text in everything
    )


@notebooks
def test_it_closes_with_exercises_and_a_clean_up(name):
    headings = [
        line
        for cell in NOTEBOOKS[name].cells
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert headings[-2:] == ["## What to try", "## Clean-up"]
    assert NOTEBOOKS[name].metadata.kernelspec.name == "python3"


def test_the_runner_of_make_run_prints_scores_and_reports_failures(tmp_path):
    runner = ROOT / "tests" / "run_notebook.py"
    for source, status, words in (
        ("print('Dice 0.9')", 0, "Dice 0.9"),
        ("1 / 0", 1, "ZeroDivisionError"),
    ):
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["scores"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
        command = [
            sys.executable,
            str(runner),
            str(tmp_path / "n.ipynb"),
            str(tmp_path / "copy.ipynb"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == status and words in done.stdout + done.stderr
        assert (tmp_path / "copy.ipynb").is_file()
