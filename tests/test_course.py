"""Truth of the lessons: claims, numbers, figures and alt texts, and outputs no older than code.

`make notebooks` executes the lessons and stores what is compared here.
"""

import base64
import contextlib
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests import claims, course, notebook_code, notebook_figures, numbers_in_text, run_notebook

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {
    path.stem: json.loads(path.read_text("utf-8")).get("rows", [])
    for path in (ROOT / "tests" / "results").glob("*.json")
}
MIN_WIDTH = 900  # pixels
FEW_COLOURS = 64  # a figure of fewer was reduced to a palette

lessons = pytest.mark.parametrize("path", course.lessons(), ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def cells_of(path, kind):
    """(index, cell) of the code or markdown cells."""
    return [(i, cell) for i, cell in enumerate(read(path).cells) if cell.cell_type == kind]


# ---- what holds for each lesson


@lessons
def test_claims_of_the_text_hold(path):
    problems, n_claims = [], 0
    for index, cell in cells_of(path, "markdown"):
        statements = cell.metadata.get("claims", [])
        n_claims += len(statements)
        lines = claims.failures(statements, cell.metadata.get("values", {}))
        problems += [f"cell {index}: {line}" for line in lines]
    assert not problems, "\n".join(problems)
    assert n_claims, "the text of a lesson claims something"


@lessons
def test_outputs_show_the_numbers_of_the_text(path):
    problems = numbers_in_text.uncovered(read(path), RESULTS)
    assert not problems, "\n".join(problems)


@lessons
def test_each_figure_has_an_alt_text(path):
    problems = alt_problems(read(path))
    assert not problems, "\n".join(problems)


@lessons
def test_figures_are_wide_and_in_full_colour(path):
    problems = figure_problems(read(path))
    assert not problems, "\n".join(problems)


@lessons
def test_no_output_is_older_than_its_code(path):
    notebook = read(path)
    executed = notebook.metadata.get("seglib", {}).get("code")
    assert executed == notebook_code.code_hash(notebook, path.stem), (
        "cells or modules of seglib changed after the execution: run `make notebooks`"
    )


def alt_problems(notebook):
    """A line for each figure without an alt text, or with another one than its cell says."""
    problems = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            pictures = re.findall(r"!\[([^\]]*)\]\(", cell.source)
            problems += [f"cell {index}: a picture without text" for alt in pictures if not alt]
            continue
        texts = list(cell.metadata.get("alt", []))
        figures = list(notebook_figures.images_of(cell))
        if len(texts) != len(figures):
            problems.append(f"cell {index}: {len(figures)} figures, {len(texts)} alt texts")
        problems += [f"cell {index}: {text!r} says little" for text in texts if len(text) < 20]
        shown = [output.metadata.get(kind, {}).get("alt") for output, kind in figures]
        if len(texts) == len(figures) and shown != texts:
            problems.append(f"cell {index}: the outputs have other alt texts than the cell")
    return problems


def figure_problems(notebook):
    """A line for each figure that is narrow, or was reduced to a palette."""
    problems = []
    for index, cell in enumerate(notebook.cells):
        for output, kind in notebook_figures.images_of(cell):
            picture = notebook_figures.opened(output, kind)
            if picture.width < MIN_WIDTH:
                problems.append(f"cell {index}: a figure is {picture.width} pixels wide")
            few = picture.convert("RGB").getcolors(FEW_COLOURS)
            if picture.mode == "P" or few:
                problems.append(f"cell {index}: a figure with a palette")
    return problems


# ---- the tools themselves


def test_claims_by_hand():
    values = {"loss": 0.03, "n": 3, "name": "a", "ok": True}
    true = ["loss < 0.1", "0 < loss < n", "name == 'a'", "ok", "abs(loss - 0.03) < 1e-9 and n == 3"]
    assert claims.failures(true, values) == []
    assert claims.failures(["loss > 0.1"], values) == ["false: loss > 0.1 (loss = 0.03)"]
    assert claims.variables_of(true) == ["loss", "n", "name", "ok"]
    for claim in (
        "1 > 0",
        "missing > 1",
        "table.mean() > 0",
        "loss[0] > 1",
        "loss",
        "loss <",
        "f(n)",
    ):
        assert len(claims.failures([claim], values)) == 1, claim


def figure(width, height=300, colours=None, noisy=False):
    """The output of a cell with a picture of random blocks, or of noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3) if noisy else (height // 20, width // 20, 3))
    picture = Image.fromarray(pixels.astype(np.uint8)).resize((width, height), 0)
    if colours:
        picture = picture.quantize(colours)
    content = io.BytesIO()
    picture.save(content, "PNG")
    data = {"image/png": base64.b64encode(content.getvalue()).decode(), "text/plain": "<Figure>"}
    return nbformat.v4.new_output("display_data", data=data)


def notebook_with(*outputs, **metadata):
    cell = nbformat.v4.new_code_cell("draw()", metadata=metadata, outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[cell])


def test_figures_are_kept_wide_and_in_full_colour_with_their_texts():
    texts = ["blocks in many colours", "noise, as in a photograph"]
    notebook = notebook_with(figure(1000), figure(1500, noisy=True), alt=texts)
    (cell,) = notebook.cells
    notebook_figures.tidy(cell)
    kinds = [kind for _, kind in notebook_figures.images_of(cell)]
    assert kinds == ["image/png", "image/jpeg"]  # a drawing and a photograph
    sizes = [notebook_figures.opened(*pair).size for pair in notebook_figures.images_of(cell)]
    assert sizes == [(1000, 300), (1200, 240)]
    assert [o.metadata[kind]["alt"] for o, kind in notebook_figures.images_of(cell)] == texts
    assert alt_problems(notebook) == figure_problems(notebook) == []
    again = json.dumps(cell)
    notebook_figures.tidy(cell)  # a JPEG is not compressed once more
    assert json.dumps(cell) == again


def test_progress_bars_are_no_output_of_a_saved_notebook():
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "scan:   0%|    | 0/3"}
    table = nbformat.v4.new_output("execute_result", {"text/plain": "share 50%"}, execution_count=1)
    notebook = notebook_with(nbformat.v4.new_output("display_data", widget), table)
    run_notebook.tidy(notebook)
    assert notebook.cells[0].outputs == [table]


def test_printed_text_is_saved_in_one_piece():
    def text(words, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=words)

    table = nbformat.v4.new_output("display_data", {"text/plain": "a table"})
    notebook = notebook_with(text("a\n"), text("bar", "stderr"), text("b\n"), table, text("c\n"))
    run_notebook.tidy(notebook)
    assert notebook.cells[0].outputs == [text("a\nb\n"), table, text("c\n")]


def test_narrow_figures_palettes_and_missing_texts_are_refused():
    assert "800 pixels wide" in figure_problems(notebook_with(figure(800)))[0]
    assert "palette" in figure_problems(notebook_with(figure(1000, colours=256)))[0]
    reduced = figure(1000, colours=40)
    picture = notebook_figures.opened(reduced, "image/png").convert("RGB")
    content = io.BytesIO()
    picture.save(content, "PNG")
    reduced.data["image/png"] = base64.b64encode(content.getvalue()).decode()
    assert "palette" in figure_problems(notebook_with(reduced))[0]
    assert "1 figures, 0 alt" in alt_problems(notebook_with(figure(1000)))[0]
    assert "says little" in alt_problems(notebook_with(figure(1000), alt=["a figure"]))[0]
    unlike = notebook_with(figure(1000), alt=["a text that no output has"])
    assert "other alt texts" in alt_problems(unlike)[0]


CELL = '''
"""What it does."""
from seglib import metrics  # for the Dice

%matplotlib inline
def f(x):
    """Twice."""
    return 2 * x
'''


def hash_of(source, stem="42_none"):
    return notebook_code.code_hash(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), stem
    )


def test_the_hash_of_the_code_sees_code_only():
    same = CELL.replace("# for the Dice", "").replace('"""Twice."""', '"""2x."""')
    assert hash_of(CELL) == hash_of(same.replace("2 * x", "(2 *\n        x)"))
    assert hash_of(CELL) != hash_of(CELL.replace("2 * x", "3 * x"))
    assert hash_of(CELL) != hash_of(CELL.replace("metrics", "losses"))
    assert hash_of("x = 1") != hash_of("x = 1.0")


def test_the_hash_of_the_code_sees_the_modules_below(monkeypatch):
    reached = notebook_code.reached({"metrics"})
    assert {"metrics", "tables", "__init__"} <= reached and "training" not in reached
    # `tables` names the losses as "losses:..."; some modules are imported inside functions.
    assert {"losses", "augmentations", "formats.images"} <= notebook_code.reached({"training"})
    before, meaning = hash_of(CELL), notebook_code._module_meaning
    for edited, is_same in (("training", True), ("tables", False), ("metrics", False)):

        def after_the_edit(name, edited=edited):
            return "Module()" if name == edited else meaning(name)

        monkeypatch.setattr(notebook_code, "_module_meaning", after_the_edit)
        assert (hash_of(CELL) == before) == is_same, edited


def test_the_runner_stores_values_and_texts(tmp_path, monkeypatch):
    monkeypatch.delenv("SEGLIB_SMOKE", raising=False)
    source = "import numpy as np\nloss, n, text = np.float32(0.03), 3, 'a'"
    draw = (
        "import matplotlib.pyplot as plt\nplt.figure(figsize=(12, 3)).add_subplot().plot([1, 2]);"
    )
    texts = ["a line that rises from 1 to 2"]
    words = nbformat.v4.new_markdown_cell
    cells = [
        words("**What do we see?**", metadata={"values": {"old": 1}}),
        nbformat.v4.new_code_cell(source),
        words("It is small.", metadata={"claims": ["loss < 0.1", "text == 'a'"]}),
        nbformat.v4.new_code_cell(draw, metadata={"alt": texts}),
        words("There are many.", metadata={"claims": ["n > 5", "unknown > 1"]}),
        words("No.", metadata={"claims": ["np > 1"]}),
        nbformat.v4.new_code_cell("n"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    notebook, problem = run_notebook.run(tmp_path / "n.ipynb", tmp_path / "copy.ipynb")
    values = [cell.metadata.get("values") for cell in notebook.cells]
    assert values == [None, None, {"loss": 0.03, "text": "a"}, None, {}, {}, None]
    assert [cell.get("execution_count") for cell in notebook.cells][1::2] == [1, 2, None]
    assert notebook.cells[-1].outputs[0].execution_count == 3
    assert "cell 4: variable unknown: NameError" in problem and "cell 5" in problem
    assert alt_problems(notebook) == [] and figure_problems(notebook) == []
    assert notebook.metadata.seglib.code == notebook_code.code_hash(notebook, "n")


README = f"""# Title

| minutes | other |
|---|---|
| 9 | notebooks/00_start_here.ipynb |

{course.BEGIN}
| lesson | minutes | what you learn |
|---|---|---|
| [00 Start](notebooks/00_start_here.ipynb) | 9 | all of it |
| [02 PALM](notebooks/02_palm_training.ipynb) |  | masks |
{course.END}

The end.
"""


def test_minutes_are_written_between_the_markers():
    text = course.write_minutes(README, {"00_start_here": 0.62, "02_palm_training": 3.04})
    assert "| [00 Start](notebooks/00_start_here.ipynb) | 0.6 | all of it |\n" in text
    assert "| [02 PALM](notebooks/02_palm_training.ipynb) | 3.0 | masks |\n" in text
    assert "| 9 | notebooks/00_start_here.ipynb |" in text and text.endswith("The end.\n")
    assert len(text.splitlines()) == len(README.splitlines())
    assert course.write_minutes(text, {"00_start_here": 0.01}).count("| 3.0 |") == 1
    assert course.write_minutes("No table.", {"00_start_here": 1.0}) == "No table."
    with pytest.raises(ValueError, match="04_lungs"):
        course.write_minutes(README, {"04_lungs": 1.0})
    with pytest.raises(ValueError, match="minutes"):
        course.write_minutes(README.replace("| minutes | what", "| time | what"), {})


def test_the_readme_has_a_row_for_the_minutes_of_each_lesson():
    readme = course.README.read_text("utf-8")
    text = course.write_minutes(readme, {path.stem: 98.76 for path in course.lessons()})
    assert text.count("| 98.8 |") == len(course.lessons())


def test_the_copy_holds_no_run_and_no_data(tmp_path, monkeypatch):
    for name in ("seglib/a.py", "runs/x.pth", "notebooks/runs/x.pth", "data/README.md", ".git/x"):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    (tmp_path / "home/data/montgomery").mkdir()
    monkeypatch.setattr(course, "ROOT", tmp_path / "home")
    copy = course.copy_repository(tmp_path / "copy")
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert files == {"seglib/a.py", "data/README.md"}
    assert not (copy / "data/montgomery").exists()


def quick_run(source, copy):
    """What `run_notebook.run` does, for cells without outputs, in this process."""
    notebook, problem = read(source), ""
    with contextlib.chdir(source.parent):
        try:
            exec(notebook.cells[0].source, {})
            notebook.cells[0].execution_count = 1
        except AssertionError as error:
            problem = repr(error)
    notebook.metadata["seglib"] = {"code": "0", "minutes": 0.5}
    nbformat.write(notebook, copy)
    return notebook, problem


def test_a_lesson_waits_for_those_whose_trainings_it_takes_up():
    for path in course.lessons():
        code = "".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
        taken_up = set(re.findall(r"lesson_(\d\d)", code)) - {path.stem[:2]}
        assert taken_up <= set(course.AFTER.get(path.stem[:2], ())), path.stem
    assert all(number > max(earlier) for number, earlier in course.AFTER.items())


def test_the_series_is_executed_in_order_and_stops_at_a_failure(tmp_path, monkeypatch, capsys):
    home, first = tmp_path / "home", "from pathlib import Path\nPath('runs').mkdir()\n"
    (home / "notebooks/solutions").mkdir(parents=True)
    sources = {
        "00_a": first + "Path('runs/a').touch()",  # fails if there are runs already
        "01_b": "from pathlib import Path\nassert Path('runs/a').exists()",
        "solutions/01_b": "from pathlib import Path\nassert Path('../runs/a').exists()",
    }
    for stem, source in sources.items():
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), home / f"notebooks/{stem}.ipynb")
    (home / "README.md").write_text("No table yet.")
    (home / "notebooks/runs").mkdir()  # the user's own
    monkeypatch.setattr(course, "ROOT", home)
    monkeypatch.setattr(course, "README", home / "README.md")
    monkeypatch.setattr(course, "lessons", lambda: sorted((home / "notebooks").glob("*.ipynb")))
    monkeypatch.setattr(run_notebook, "run", quick_run)
    assert course.main([]) == 0
    assert not any((home / "notebooks/runs").iterdir()) and not (home / "runs").exists()
    for stem in sources:
        assert read(home / f"notebooks/{stem}.ipynb").cells[0].execution_count == 1
    assert course.stored_minutes(home / "notebooks/01_b.ipynb") == 0.5
    assert "all lessons: 1.0 min, done after " in capsys.readouterr().out
    assert course.main(["--only", "01"]) == 1  # without the run of the first one
    assert "01_b.ipynb: failed" in capsys.readouterr().out
    assert (home / "runs/01_b.executed.ipynb").is_file()
