"""Exercises: `check` tells right from wrong with a hint, and no answer raises an error."""

import importlib
import inspect
import math
import re
import sys

import nbformat
import numpy as np
import pytest
import torch

from seglib import exercises
from seglib.errors import DataError
from seglib.exercises import answers, classroom
from tests.sources import ROOT

LESSON = '''
from seglib.exercises import answers
from seglib.exercises.answers import exercise


@exercise("98.1")
def two_thirds(answer):
    """Dice of two masks.

    More text.
    """
    return answers.number(answer, 2 / 3, "Count the overlap twice.", 0.005)


@exercise("98.2")
def broken(answer):
    """Expects a dict"""
    return None if isinstance(answer, dict) and answer["right"] == 1 else "It is not right."
'''


def raises(*arguments):
    raise RuntimeError("on purpose")


BAD_ANSWERS = {
    "None": None,
    "text": "a text",
    "NaN": math.nan,
    "infinite": math.inf,
    "array": np.zeros((2000, 2000, 3)),
    "endless array": np.broadcast_to(0.5, (10**7, 10**7)),
    "tensor": torch.zeros(3, requires_grad=True),
    "list": [1, [2, 3]],
    "class": dict,
    "function": raises,
    "function of nothing": lambda: None,
}


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson 98 beside those of the package."""
    (tmp_path / "lesson_98.py").write_text(LESSON)
    monkeypatch.setattr(exercises, "__path__", [*exercises.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("seglib.exercises.lesson_98", None)


def test_right_wrong_and_not_yet(lesson):
    right = exercises.check("98.1", 0.67)
    assert right and right.right is True and repr(right) == "98.1: right."
    wrong = exercises.check("98.1", 0.5)
    assert not wrong and repr(wrong) == "98.1: not yet. Count the overlap twice."
    empty = exercises.check("98.1", ...)
    assert not empty and "no answer yet" in repr(empty)
    assert exercises.check("98.2", {"right": 1})


def test_an_unknown_number_lists_what_there_is(lesson):
    text = repr(exercises.check("98.4", 1))
    assert "98.1 (Dice of two masks)" in text and "98.2 (Expects a dict)" in text
    for number in ("77.1", 4.2, None, "", "os.path", "98", "answers.1"):
        verdict = exercises.check(number, 1)
        assert not verdict and f"no exercise {number}" in verdict.text
    assert "98" in repr(exercises.check("77.1", 1))


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_odd_answers_to_a_check_that_expects_another_type(lesson, name):
    for number in ("98.1", "98.2"):
        verdict = exercises.check(number, BAD_ANSWERS[name])
        assert not verdict and verdict.text.startswith(f"{number}: not yet. ")


@pytest.mark.parametrize(
    "answer", [2 / 3, np.float32(2 / 3), torch.tensor([2 / 3], requires_grad=True), [0.6667]]
)
def test_numbers_of_all_kinds_are_right(answer):
    assert answers.number(answer, 2 / 3, "no", 1e-3) is None


def test_hints_for_numbers():
    assert answers.number(0.665, 0.67, "no", 0.005) is None
    assert answers.number(0.66, 0.67, "no", 0.005) == "no"
    sides = {"too_low": "more", "too_high": "less"}
    assert answers.number(0, 1, "no", **sides) == "more"
    assert answers.number(2, 1, "no", **sides) == "less"
    assert "NaN" in answers.number(float("nan"), 1, "no")
    for answer, kind in (
        (True, "True or False"),
        (None, "return"),
        ("1", "a text"),
        ([1, 2], "a list of 2"),
        (np.ones((2, 3)), r"array of the shape \(2, 3\)"),
        (raises, "a function"),
    ):
        with pytest.raises(AssertionError, match=kind):
            raise AssertionError(answers.number(answer, 1, "no"))


def test_arrays():
    right = np.array([[0, 1], [1, 1]])
    assert answers.array(torch.tensor(right, dtype=torch.bfloat16), right, "no") is None
    assert answers.array(right.astype(bool), right, "no") is None
    assert answers.array([[0, 1], [1, 0]], right, "no") == "no"
    assert "shape (4,); expected (2, 2)" in answers.array([0, 1, 1, 1], right, "no")
    assert "array or a list of numbers" in answers.array("0111", right, "no")
    assert answers.array([np.nan, 1], [np.nan, 1], "no") is None


def test_choices():
    options = ["Sigmoid", "softmax"]
    assert answers.choice(" Softmax", "softmax", options, "no") is None
    assert answers.choice("sigmoid", "softmax", options, "no") == "no"
    assert '"Sigmoid", "softmax"' in answers.choice("tanh", "softmax", options, "no")
    assert '"Sigmoid", "softmax"' in answers.choice(1, "softmax", options, "no")
    assert answers.choices(["b", "A"], {"a", "b"}, "abc", "no") is None
    assert answers.choices({"b"}, {"a", "b"}, "abc", "no") == "no"
    assert '"d" cannot be chosen' in answers.choices({"d"}, {"a", "b"}, "abc", "no")
    assert 'some of "a"' in answers.choices("ab", {"a", "b"}, "abc", "no")


def test_functions():
    cases = [(np.array([1.0, 2.0]),), (np.array([3.0, 5.0]),)]

    def spoils_its_argument(values):
        values /= 2
        return values.sum()

    def half(values):
        return values.sum() / 2

    assert answers.function(spoils_its_argument, half, cases, "no") is None
    assert (
        answers.function(lambda values: torch.tensor(values).sum() / 2, half, cases, "no") is None
    )
    assert answers.function(np.mean, np.mean, cases, "no") is None
    assert answers.function(np.max, half, cases, "no") == "no"
    only_first = answers.function(lambda values: 1.5, half, cases, "no", hints=["a", "b"])
    assert only_first == "b"
    returns_nothing = answers.function(print, half, cases, "no")
    assert returns_nothing.startswith("What your function returns has to be")
    assert "failed in test 1 of 2: RuntimeError: on purpose" in answers.function(
        raises, half, cases, "no"
    )
    assert "without brackets" in answers.function(1.5, half, cases, "no")


# ---- the exercises of the lessons

CHECKS = {
    number: check
    for name in exercises.lessons()
    for number, check in exercises.of_lesson(name).items()
}


def test_every_lesson_has_a_module():
    assert exercises.lessons() == [f"{number:02}" for number in range(10)]


@pytest.mark.parametrize("lesson", exercises.lessons())
def test_a_lesson_has_three_exercises_with_titles_or_none_yet(lesson):
    checks = exercises.of_lesson(lesson)
    assert list(checks) == [f"{lesson}.{number}" for number in (1, 2, 3)][: len(checks)]
    assert len(checks) in (0, 3)
    assert all(3 <= len(answers.title_of(check)) <= 80 for check in checks.values())


def note_right_values(monkeypatch, module):
    """Texts of the right numbers and words that the checks of a lesson compare answers with."""
    rights = set()
    for name in ("number", "choice"):
        comparison = getattr(answers, name)

        def noting(answer, right, *args, comparison=comparison, **options):
            if isinstance(right, str):
                rights.add(right.lower())
            else:
                forms = ("{:.2f}", "{:.3f}", "{:.4g}", "{}")
                rights.update(form.format(float(right)).removesuffix(".0") for form in forms)
            return comparison(answer, right, *args, **options)

        monkeypatch.setattr(answers, name, noting)
        if getattr(module, name, None) is comparison:
            monkeypatch.setattr(module, name, noting)
    return rights


@pytest.mark.parametrize("number", CHECKS)
def test_odd_answers_get_a_hint_and_never_the_solution(number, capsys, monkeypatch):
    check = CHECKS[number]
    rights = note_right_values(monkeypatch, inspect.getmodule(inspect.unwrap(check)))
    odd = [check(answer) for answer in BAD_ANSWERS.values()]
    others = [check(answer) for answer in (0, 1, -3.7, 10**6, True, [0.25], lambda *args: 0)]
    assert exercises.check(number, ...).text.startswith(f"{number}: no answer yet")
    assert capsys.readouterr() == ("", ""), "a check prints nothing"
    assert None not in odd, dict(zip(BAD_ANSWERS, odd))
    assert others.count(None) <= 1, "0 or 1 may be right, not both"
    for hint in filter(None, odd + others):
        assert 10 <= len(hint) <= 400 and "Traceback" not in hint
        # Numbers of one digit, and the words that an answer may be chosen from, tell nothing.
        shown = set(re.findall(r"\d+\.\d+|\d{2,}", hint))
        if "has to be one of" not in hint:
            shown |= set(re.findall(r"[a-z-]+", hint.lower()))
        assert not shown & rights, f"the hint of {number} tells the solution: {hint}"


# ---- what a class answered


def answered(number, text):
    """A cell tagged `exercise`, with a text as its output or without one."""
    source = f'answer = 1\nexercises.check("{number}", answer)'
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["exercise"]})
    if text:
        data = {"text/plain": text}
        cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
    return cell


def test_the_verdicts_of_a_class(tmp_path, lesson):
    right, wrong = repr(exercises.check("98.1", 2 / 3)), repr(exercises.check("98.1", 1))
    empty = repr(exercises.check("98.2", ...))
    for student, texts in (("ada", (right, empty)), ("bob", (wrong, ""))):
        cells = [answered("98.1", texts[0]), answered("98.2", texts[1])]
        untagged = answered("98.3", "98.3: right.")
        untagged.metadata.tags = []
        (tmp_path / student).mkdir()
        notebook = nbformat.v4.new_notebook(cells=[*cells, untagged])
        nbformat.write(notebook, tmp_path / student / "98.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notes.ipynb")
    table = classroom.verdicts(tmp_path)
    assert table.to_dict("index") == {
        "ada/98.ipynb": {"98.1": "right", "98.2": "no answer yet"},
        "bob/98.ipynb": {"98.1": "not yet", "98.2": ""},
    }


def test_a_folder_without_answers_and_a_file_that_is_no_notebook(tmp_path):
    with pytest.raises(DataError, match="no notebook with cells tagged `exercise`"):
        classroom.verdicts(tmp_path)
    (tmp_path / "a.ipynb").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"a\.ipynb: is no notebook"):
        classroom.verdicts(tmp_path)


def test_the_example_for_teachers_works():
    page = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    (example,) = re.findall(
        r"```python\n(from seglib.exercises import answers\n.*?)```", page, re.S
    )
    names = {}
    exec(example, names)
    assert answers.title_of(names["dice_by_hand"]).startswith("Dice of two masks")
    assert names["dice_by_hand"](0.8) is None and names["dice_by_hand"](0.4)
    assert names["iou_from_dice"](lambda dice: dice / (2 - dice)) is None
    assert names["iou_from_dice"](lambda dice: dice / 2).startswith("Write both")


def test_typical_mistakes_have_hints_of_their_own():
    """Only for wrong answers of the right form, and before the general hint."""

    def number(answer, **options):
        return answers.number(answer, 2, "no", 0.1, mistakes={4: "twice", 2: "never"}, **options)

    assert number(2) is None and number(4.05) == "twice" and number(5) == "no"
    assert number(4, too_high="less") == "twice" and number(5, too_high="less") == "less"

    def array(answer):
        return answers.array(answer, [1, 2], "no", 0.1, mistakes={(2, 1): "order", (1,): "never"})

    assert array([1, 2]) is None and array(np.array([2, 1])) == "order" and array([3, 3]) == "no"
    assert "shape" in array([1])

    def function(answer, hints=()):
        cases, mistakes = [(1,), (2,), (3,)], {lambda x: x: "plain", lambda x: 2 * x: "doubled"}
        return answers.function(answer, lambda x: x * x, cases, "no", 1e-6, hints, mistakes)

    assert function(lambda x: x**2) is None and function(lambda x: 2 * x) == "doubled"
    assert function(lambda x: x, ["first", "second"]) == "plain"
    assert function(lambda x: x + 0.1, ["first"]) == "first" and function(lambda x: 0) == "no"
    assert "failed" in function(raises)


@pytest.mark.parametrize(
    "number", ["01.3", "03.2", "03.3", "04.2", "04.3", "05.2", "06.2", "06.3", "09.3"]
)
def test_what_the_function_of_an_answer_raises_is_told(number):
    text = exercises.check(number, raises).text
    assert "Your function failed" in text and "RuntimeError: on purpose" in text
    assert "cannot be checked" not in text


def test_a_function_that_has_to_return_one_number():
    def hint(result):
        return answers.function(lambda: result, lambda: 0.5, [()], "no")

    assert hint(np.array(0.5)) is None and hint(0.4) == "no"
    for result in (None, "0.5", [0.5, 0.5], np.ones(3)):
        assert "What your function returns has to be one number; this is" in hint(result)
