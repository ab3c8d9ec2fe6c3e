"""The test of the texts is tested: sentences that must pass, and sentences that must fail."""

import nbformat
import pytest

from tests import numbers_in_text

RESULTS = {
    "lung": [
        {
            "data": "Montgomery, 5 folds of 102 patients",
            "metric": "dice",
            "value": 0.97468,
            "n": 102,
        }
        | {"low": 0.96807, "high": 0.97868, "system": "lung"}
    ]
}
QUOTE = "lung | Montgomery, 5 folds of 102 patients | dice"


def seen(source):
    return [number.text for number in numbers_in_text.numbers(source)]


def problems(text, output="", code="pass", **metadata):
    """What is wrong with `text`, in a cell behind a code cell with this output."""
    cell = nbformat.v4.new_code_cell(code)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
    words = nbformat.v4.new_markdown_cell(text, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[cell, words])
    return numbers_in_text.uncovered(notebook, RESULTS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("The Dice is 0.97, of 20 cases.", ["0.97", "20"]),
        ("From 0.85–0.97, or 0.85-0.97.", ["0.85", "0.97", "0.85", "0.97"]),
        ("It falls by −0.05 to -1000 HU.", ["0.05", "1000"]),
        ("12 % of it, 3%, 5 per cent and 12.", ["12 %", "3%", "5 per cent"]),
        ("It has 487,397 parameters, or 0.5 M, or 31 million.", ["487,397", "0.5 M", "31 million"]),
        ("Sizes of 256x256 and 64 × 48.", ["256", "256", "64", "48"]),
        ("A rate of 1e-3 on ~20 images (n=38).", ["1e-3", "20", "38"]),
        ("| part | Dice |\n|---|---|\n| test | 0.912 |", ["0.912"]),
    ],
)
def test_numbers_that_are_seen(source, expected):
    assert seen(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "# A heading with 0.97 and 20 cases\n### 3.1 Another",
        "In code, `lr=0.001`, and\n```\n0.97\n```\n",
        "LaTeX: $\\lambda = 0.25$, and $$x = 20$$ and \\(y = 0.5\\).",
        "[Lesson 05, section 1.3](05_cardiac_aspp.ipynb) and ![20 pictures](a_20.png)",
        "Twelve or 12, and 3 classes, on 2 cores.",
        "HD95, U-Net3, bf16, COVID-19, the 95th percentile, torch 2.11.0, 95 % intervals, 16-bit.",
        "(Ronneberger et al., 2015), Yu and Koltun (2016), the nuclei of DSB 2018.",
        "See exercise 04.2.",
        "14. the fourteenth item of a list",
        "| field | value |\n|---|---|\n| `lr` | 0.001 |\n| `epochs` | 40 |",
        "A picture: <img src='a.png' width='900'>",
    ],
)
def test_what_is_no_number_of_the_text(source):
    assert seen(source) == []


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("The loss falls from 0.69 to 0.031.", "0.6931\n0.03149"),
        ("Dice of 0.970.", "dice  0.9699999"),
        ("12 % of the pixels.", "share 0.1234"),
        ("A share of 0.12.", "12.3%"),
        ("It is 1.9 M, that is 1,941,105.", "parameters: 1941105"),
        ("About 120 files, nearly 30 minutes.", "122\n28.7"),
        ("A drop of 0.05.", "-0.0512"),
        ("20 cases of 48.", "(20, 48)"),
    ],
)
def test_sentences_that_pass(text, output):
    assert problems(text, output) == []
    assert len(problems(text)) >= 1  # and not without the output


@pytest.mark.parametrize(
    ("text", "output", "missing"),
    [
        ("The loss falls to 0.04.", "0.0312", "0.04"),
        ("Dice of 0.970.", "0.9691", "0.970"),
        ("About two thirds: 67 %.", "0.72", "67 %"),
        ("Exactly 120 files.", "122", "120"),
        ("About 120 files.", "128", "120"),
        ("About 100 files.", "60", "100"),
        ("122,021 parameters.", "487397", "122,021"),
        ("1.9 M parameters.", "1.9", "1.9 M"),
        ("It is 0.25 better.", "HD0.25x 0.2", "0.25"),
    ],
)
def test_sentences_that_fail(text, output, missing):
    assert problems(text, output) == [f"cell 1: no output before it shows {missing}"]


def test_code_tables_and_values_of_claims_count_as_shown():
    assert problems("A learning rate of 0.001.", code="cfg.lr = 1e-3") == []
    assert problems("The ratio is 0.72.", values={"ratio": 0.7247}) == []
    table = nbformat.v4.new_code_cell("table")
    html = "<style>td {width: 0.31em}</style><td id='T_0.44'>0.9123</td>"
    table.outputs = [nbformat.v4.new_output("display_data", data={"text/html": html})]
    for text, n_problems in (("Dice 0.912.", 0), ("0.31", 1), ("0.44", 1)):
        words = nbformat.v4.new_markdown_cell(text)
        notebook = nbformat.v4.new_notebook(cells=[table, words])
        assert len(numbers_in_text.uncovered(notebook, {})) == n_problems, text


def test_only_what_stands_before_counts():
    cells = [nbformat.v4.new_markdown_cell("Dice 0.97."), nbformat.v4.new_code_cell("x = 0.97")]
    assert len(numbers_in_text.uncovered(nbformat.v4.new_notebook(cells=cells), {})) == 1
    assert not numbers_in_text.uncovered(nbformat.v4.new_notebook(cells=cells[::-1]), {})


def test_exercises_and_references_are_exempt():
    names = (
        "# 04 · Lungs",
        "## Exercises",
        "### Exercise 04.1 · A",
        "## References",
        "## Clean-up",
    )
    cells = [nbformat.v4.new_markdown_cell(f"{name}\n\nIt is 0.123.") for name in names]
    lines = numbers_in_text.uncovered(nbformat.v4.new_notebook(cells=cells), {})
    assert [line.split(":")[0] for line in lines] == ["cell 0", "cell 4"]


def test_quotes_are_rows_of_the_results():
    text = "On Montgomery the Dice is 0.975 (0.968–0.979) of 102 patients."
    assert problems(text, quotes=[QUOTE]) == []
    assert len(problems(text)) == 4
    assert "no row" in problems("It is good.", quotes=["lung | Montgomery | dice"])[0]
    assert "no row" in problems("It is good.", quotes=["lung"])[0]
    assert "no number" in problems("It is good.", quotes=[QUOTE])[0]
    assert problems("The Dice is 0.985.", quotes=[QUOTE])[-1].endswith("shows 0.985")


def test_given_numbers_have_a_reason_and_stand_in_the_text():
    text = "Air has −1000 HU; below 50 % a heart is weak."
    reasons = {"1000": "HU of air by definition", "50": "ejection fraction, ESC guideline 2021"}
    assert problems(text, given=reasons) == []
    assert problems(text, given={**reasons, "50 %": reasons["50"]}) == []
    assert "no reason" in problems("It is 0.7.", given={"0.7": " "})[0]
    assert (
        "not in the text" in problems("Water has 0.", given={"1000": "HU of air by definition"})[0]
    )
