"""The notebook contract: the same opening, short cells with a reason before each, exercises.

A lesson's cells stand in a fixed order, which docs/teaching.md describes for teachers.
"""

import base64
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
SOLUTIONS = {
    path.stem: nbformat.read(path, as_version=4)
    for path in sorted(FOLDER.glob("solutions/*.ipynb"))
}
PRIVATE = re.compile(r"(/(home|root|work|tmp|Users)/|[A-Z]:\\\\)")
ASSERTED = re.compile(
    r"assert_close\(|assert_allclose\(|assert_array_equal\(|^\s*assert .*==", re.M
)
LAST = ["## Summary", "## Exercises", "## References", "## Clean-up"]
SLIDES = {"slide", "subslide", "fragment", "skip", "notes", "-"}

notebooks = pytest.mark.parametrize("name", NOTEBOOKS)
solutions = pytest.mark.parametrize("name", SOLUTIONS)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts_of(cell):
    """Everything textual that a cell's outputs hold, one string an output."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )


def has_figure(cell):
    kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
    return any(kind.startswith("image/") for kind in kinds)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def prose(source):
    """The words of a markdown cell's running text: no formulas, headings, tables, lists, images."""
    skipped = ("#", "|", "-", "[!", "![", "**After this lesson", "**Before this lesson")
    source = re.sub(r"\$\$.*?\$\$|```.*?```", "", source, flags=re.DOTALL)
    lines = [
        line
        for line in source.splitlines()
        if not line.startswith(skipped) and not re.match(r"\d+\. ", line)
    ]
    return " ".join(lines).split()


def headings(notebook):
    """The lines that begin with `## ` outside of code."""
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    sources = [re.sub(r"```.*?```", "", source, flags=re.DOTALL) for source in markdown]
    return [line for source in sources for line in source.splitlines() if line.startswith("## ")]


# ---- every notebook


def test_there_are_notebooks_and_their_names_are_numbered():
    assert len(PATHS) >= 3
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in PATHS)


@pytest.mark.parametrize("notebook", [*NOTEBOOKS.values(), *SOLUTIONS.values()])
def test_the_set_up_cell_is_short_and_the_same_everywhere(notebook):
    text, setup = notebook.cells[1:3]
    first = next(iter(NOTEBOOKS.values())).cells
    assert (text.source, setup.source) == (first[1].source, first[2].source)
    assert text.source.startswith("## Set-up") and len(setup.source.splitlines()) <= 20
    assert setup.source.endswith("hosts.setup()") and not setup.outputs
    assert not any("offer_drive" in cell.source for cell in code(notebook)), "hosts.setup does it"


@notebooks
def test_one_cell_imports_and_shows_the_versions(name):
    cells = code(NOTEBOOKS[name])[1:]
    importing = [
        i for i, cell in enumerate(cells) if re.search(r"^from seglib import", cell.source, re.M)
    ]
    assert importing[0] == 0, "the cell after the set-up imports"
    assert re.search(r"hosts\.describe\(\)|__version__", cells[0].source), "no versions"
    others = [
        i
        for i, cell in enumerate(cells[:-3])
        if i and re.search(r"^(import|from) ", cell.source, re.M)
    ]
    assert not others, f"code cells {others} import too"  # the exercises at the end may


@notebooks
def test_a_reason_stands_before_every_code_cell(name):
    cells = NOTEBOOKS[name].cells
    for before, cell in zip(cells, cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no text before: {cell.source[:60]!r}"
            n_words = len(prose(before.source))
            assert 15 <= n_words <= 100, f"{n_words} words: {before.source[:60]!r}"


@pytest.mark.parametrize("notebook", [*NOTEBOOKS.values(), *SOLUTIONS.values()])
def test_code_cells_are_short(notebook):
    cells = [cell.source.splitlines() for cell in code(notebook)]
    assert max(map(len, cells)) <= 25
    assert max(len(line) for lines in cells for line in lines) <= 100


@notebooks
def test_most_code_cells_are_very_short(name):
    assert statistics.median(len(c.source.splitlines()) for c in code(NOTEBOOKS[name])) <= 9


@pytest.mark.parametrize("notebook", [*NOTEBOOKS.values(), *SOLUTIONS.values()])
def test_no_private_path_anywhere(notebook):
    for cell in notebook.cells:
        for text in (cell.source, *texts_of(cell)):
            assert not PRIVATE.search(text), PRIVATE.search(text)


@pytest.mark.parametrize("notebook", [*NOTEBOOKS.values(), *SOLUTIONS.values()])
def test_executed_in_order_without_errors(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code(notebook):
        kinds = [(output.output_type, output.get("name")) for output in cell.outputs]
        assert not [kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"], (
            cell.source[:60]
        )
    assert notebook.metadata.kernelspec.name == "python3"


@notebooks
def test_outputs_are_small_and_come_from_phantoms(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= 1e6
    everything = [text for cell in code(NOTEBOOKS[name]) for text in texts_of(cell)]
    assert max((text.count("\n") for text in everything if "<table" not in text), default=0) <= 100
    assert any("PHANTOMS" in text for text in everything) and not any(
        "REAL DATA" in text for text in everything
    )


# ---- lessons


@notebooks
def test_the_opening_asks_a_question_and_says_what_is_learnt(name):
    source = NOTEBOOKS[name].cells[0].source
    assert source.startswith(f"# {name[:2]} · ")
    question, _, goals = source.partition("**After this lesson you can**")
    assert 60 <= len(prose(question)) <= 120, f"{len(prose(question))} words of question"
    bullets = re.findall(r"^- .+", goals, re.M)
    assert 2 <= len(bullets) <= 4
    line = re.search(r"^\*\*Before this lesson:\*\* (.+) · \*\*Time:\*\* (.+)$", goals, re.M)
    assert line, "**Before this lesson:** [..](..) · **Time:** about N minutes on two CPU cores"
    assert re.fullmatch(r"about \d+ minutes? on two CPU cores\.?", line[2]), line[2]
    before = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", line[1])
    assert before or name.startswith("00"), "links to lessons"
    assert all((FOLDER / file).is_file() and file[:2] < name[:2] for file in before)


@notebooks
def test_something_is_seen_at_once(name):
    """After set-up and imports, one of the next three code cells shows a picture of the task."""
    assert any(has_figure(cell) for cell in code(NOTEBOOKS[name])[2:5])


@notebooks
def test_sections_are_numbered_and_the_end_is_the_same(name):
    titles = [title for title in headings(NOTEBOOKS[name])]
    assert titles[-4:] == LAST and titles[0] == "## Set-up"
    sections = [title for title in titles[1:-4] if not title.startswith("## Imports")]
    numbers = [re.match(r"## (\d+) · \S", title) for title in sections]
    assert [int(match[1]) if match else None for match in numbers] == [
        *range(1, len(sections) + 1)
    ], sections


def section(name, heading):
    """The cells from a heading up to the next one of its level."""
    cells = NOTEBOOKS[name].cells
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    start = next(i for i in starts if cells[i].source.splitlines()[0] == heading)
    end = next((i for i in starts if i > start), len(cells))
    return cells[start:end]


@notebooks
def test_summary_and_references(name):
    summary = [cell.source for cell in section(name, "## Summary") if cell.cell_type == "markdown"]
    tables = [cell for cell in section(name, "## Summary") if "<table" in str(list(texts_of(cell)))]
    assert "|---" in "".join(summary) or tables, "the summary holds a table"
    references = "".join(cell.source for cell in section(name, "## References"))
    assert re.search(r"\]\(https?://", references), "papers with links"


@notebooks
def test_figures_are_read(name):
    """At least half of the figures are followed at once by a text that says what they show."""
    cells = NOTEBOOKS[name].cells
    n_figures = read = 0
    for cell, after in zip(cells, cells[1:]):
        if cell.cell_type == "code" and has_figure(cell):
            n_figures += 1
            read += after.cell_type == "markdown" and after.source.startswith("**What do we see?**")
    assert n_figures >= 2 and read >= n_figures / 2, f"{read} of {n_figures} figures are read"
    readings = [cell.source for cell in cells if cell.source.startswith("**What do we see?**")]
    lengths = [len(source.split()) for source in readings]
    assert len(readings) >= 3 and 20 <= min(lengths) and max(lengths) <= 150, lengths


@notebooks
def test_the_idea_is_built_and_asserted_equal_to_the_package(name):
    assert any(ASSERTED.search(cell.source) for cell in code(NOTEBOOKS[name]))


@notebooks
def test_three_exercises_without_solutions(name):
    notebook, number = NOTEBOOKS[name], name[:2]
    cells = section(name, "## Exercises")
    parts = [cell for cell in cells if cell.source.startswith("### ")]
    titles = [part.source.splitlines()[0] for part in parts]
    assert len(titles) == 3
    for k, title in enumerate(titles, 1):
        assert title.startswith(f"### Exercise {number}.{k} · "), title
    exercises = tagged(notebook, "exercise")
    assert [cell for cell in cells if cell.cell_type == "code"] == exercises
    assert len(exercises) == 3 and not tagged(notebook, "solution")
    for k, cell in enumerate(exercises, 1):
        before = cells[cells.index(cell) - 1]
        assert before.source.startswith(f"### Exercise {number}.{k} · ")
        last = cell.source.splitlines()[-1]
        assert re.fullmatch(rf'exercises\.check\("{number}\.{k}", \w+\)', last), last
        assert re.search(r"^\w+ = \.\.\.", cell.source, re.M), "as committed: answer = ..."
        assert "no answer yet" in "".join(texts_of(cell))


@notebooks
def test_cells_are_marked_for_slides(name):
    for position, cell in enumerate(NOTEBOOKS[name].cells):
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "-")
        assert kind in SLIDES
        if 1 <= position <= 4:
            assert kind == "skip", "set-up and imports are no slides"
        elif re.match(r"##? ", cell.source) and cell.cell_type == "markdown":
            heading = cell.source.splitlines()[0]
            may_be = {"slide", "skip"} if heading in LAST[2:] else {"slide"}
            assert kind in may_be, f"a slide begins at {heading}"


@notebooks
def test_a_slide_has_two_code_cells_at_most(name):
    n_cells = 0
    for cell in NOTEBOOKS[name].cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "-")
        if kind in ("slide", "subslide"):
            n_cells = 0
        n_cells += cell.cell_type == "code" and kind != "skip"
        assert n_cells <= 2, f"a slide of three code cells: {cell.source[:60]}"


# ---- solutions


def test_each_lesson_has_solutions():
    assert set(SOLUTIONS) == set(NOTEBOOKS), "a solution has the name of its lesson"


@solutions
def test_every_solution_is_right(name):
    notebook, number = SOLUTIONS[name], name[:2]
    assert notebook.cells[0].source.startswith(f"# {number} · ")
    cells = tagged(notebook, "solution")
    checks = [re.findall(r'exercises\.check\("([\d.]+)", ', cell.source) for cell in cells]
    assert sum(checks, []) == [f"{number}.{k}" for k in (1, 2, 3)]
    for cell, numbers in zip(cells, checks):
        shown = "".join(texts_of(cell))
        assert all(f"{number}: right." in shown for number in numbers), shown
    assert (FOLDER / "solutions" / f"{name}.ipynb").stat().st_size <= 1e6


# ---- slides and the runner


def make_slides(cells, folder):
    """The deck that the command of `make slides` makes of a notebook."""
    command = ["make", "--no-print-directory", "-n", "slides"]  # `make test` runs this test
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    options = printed.stdout.replace("\\\n", " ").split("jupyter nbconvert")[-1].split()
    assert options[-1].startswith("notebooks/")
    options[options.index("--output-dir") + 1] = str(folder)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "deck.ipynb")
    command = [sys.executable, "-m", "nbconvert", *options[:-1], str(folder / "deck.ipynb")]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "docs" / "book")}
    subprocess.run(command, check=True, capture_output=True, env=env)
    return (folder / "deck.slides.html").read_text(encoding="utf-8")


@needs_make
def test_make_slides_leaves_out_what_is_marked_so(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("skipped_code")]
    cells += [nbformat.v4.new_code_cell(source) for source in ("shown_code", "hidden_code")]
    for cell, kind in zip(cells, ("slide", "skip", "-", "subslide")):
        cell.metadata.slideshow = {"slide_type": kind}
    cells[3].metadata.tags = ["hide-input"]
    deck = make_slides(cells, tmp_path)
    assert "Title" in deck and "shown_code" in deck and "reveal.js@" in deck
    assert "skipped_code" not in deck and "hidden_code" not in deck


@needs_make
def test_make_slides_keeps_alt_texts_and_links_between_lessons(tmp_path):
    links = "[one](01_data_preparation.ipynb#x) [docs](../docs/results.md) [web](https://a.org/b)"
    cells = [nbformat.v4.new_markdown_cell(links), nbformat.v4.new_code_cell("draw()")]
    for kind, alt in (("image/png", "Dice > 0.9"), ("image/jpeg", "two eyes")):
        metadata = {kind: {"alt": alt}}
        figure = nbformat.v4.new_output("display_data", {kind: "AAAA"}, metadata=metadata)
        cells[1].outputs.append(figure)
    deck = make_slides(cells, tmp_path)
    assert 'alt="Dice &gt; 0.9"' in deck and 'alt="two eyes"' in deck
    assert "No description" not in deck and ".ipynb" not in deck
    assert ".jp-OutputArea-output img { max-height: 560px" in deck
    broken = re.findall(r"linebreaks:\s*\{\s*automatic:\s*(\w+)", deck)
    assert broken[-1] == "false", "the last setting holds"
    assert 'href="01_data_preparation.slides.html"' in deck and 'href="https://a.org/b"' in deck
    assert "docs" in deck and 'href="../docs' not in deck  # in the repository, or only its text


@needs_make
def test_make_slides_takes_pictures_of_the_text_along(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs" / "here.png").write_bytes(b"pixels")
    text = "![a heart](../docs/here.png) ![an eye](../docs/gone.png)"
    deck = make_slides([nbformat.v4.new_markdown_cell(text)], tmp_path / "notebooks")
    pixels = base64.b64encode(b"pixels").decode()
    assert f'<img alt="a heart" src="data:image/png;base64,{pixels}"' in deck
    assert 'alt="an eye"' in deck  # a picture that is missing stops nothing


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
