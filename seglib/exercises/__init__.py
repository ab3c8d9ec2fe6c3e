"""Exercises of the lessons: `check("04.2", answer)` says whether an answer is right, or why not.

The exercises of lesson NN are the functions of `lesson_NN.py` that are decorated by
`answers.exercise`. A hint says what to look at again, never the solution; worked solutions stand in
`notebooks/solutions/`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from .answers import exercise, title_of

__all__ = ["Verdict", "check", "exercise", "lessons", "of_lesson"]


class Verdict(NamedTuple):
    """What `check` says about one answer; true where the answer is right, shown as its text."""

    number: str
    right: bool
    text: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.text


def check(number: str, answer: Any) -> Verdict:
    """Check the answer to an exercise.

    Args:
        number: such as "04.2", the second exercise of lesson 04.
        answer: what the exercise asks for: a value, or a function that is tried on several cases.
            `...` stands for an answer that is not there yet.

    Returns:
        A `Verdict`. An answer of a wrong type, or a function that fails, gets a hint as well; no
        error is raised. For an unknown number the text lists the exercises that there are.
    """
    number = str(number)
    lesson = number.partition(".")[0]
    exercises = of_lesson(lesson)
    if number not in exercises:
        return Verdict(number, False, _unknown(number, lesson, exercises))
    if answer is ...:
        text = f"{number}: no answer yet. Put yours in place of the three dots and run this cell."
        return Verdict(number, False, text)
    hint = exercises[number](answer)
    if hint is None:
        return Verdict(number, True, f"{number}: right.")
    return Verdict(number, False, f"{number}: not yet. {hint}")


def lessons() -> list[str]:
    """The numbers of the lessons that have a module of exercises, such as "04"."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name.removeprefix("lesson_") for name in names if name.startswith("lesson_"))


def of_lesson(lesson: str) -> dict[str, Callable[[Any], str | None]]:
    """The checks of a lesson such as "04": number -> function; empty for an unknown lesson."""
    if lesson not in lessons():
        return {}
    module = importlib.import_module(f"{__name__}.lesson_{lesson}")
    checks = [value for value in vars(module).values() if hasattr(value, "exercise_number")]
    return {check.exercise_number: check for check in checks}


def _unknown(number: str, lesson: str, exercises: dict[str, Callable]) -> str:
    """The text for a number that no exercise has."""
    if exercises:
        listed = ", ".join(f"{key} ({title_of(check)})" for key, check in exercises.items())
        return f"There is no exercise {number}. Lesson {lesson} has {listed}."
    listed = ", ".join(lessons())
    return f'There is no exercise {number}. Numbers look like "04.2"; the lessons are {listed}.'
