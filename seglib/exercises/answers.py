"""What the checks of all lessons share: the decorator, and comparisons of values and functions.

Each comparison returns None for a right answer, else a hint that does not hold the right one. The
hint that says what to think about comes from the exercise; these add what is wrong with the type.
`mistakes` map typical wrong answers to hints of their own, which replace `hint` for these answers.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import first_line

_NONE: Mapping[Any, str] = MappingProxyType({})
MAX_ITEMS = 10**7  # answers are small; a longer one is a mistake and is not looked through


class FunctionFailed(Exception):
    """The answer is no function, or its function raised an error; the text is the hint."""


def exercise(number: str) -> Callable:
    """Decorator of a check `(answer) -> str | None`: the hint for a wrong answer, None for a right
    one. The first line of its docstring is the title of the exercise.

    Whatever the check raises becomes a hint too, because an answer may be of any type. What the
    answer's own function raises is told as such, where the check calls it by `called`.
    """

    def decorate(function: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
        @functools.wraps(function)
        def check(answer: Any) -> str | None:
            try:
                return function(answer)
            except FunctionFailed as failure:
                return str(failure)
            except Exception as error:
                return f"This answer cannot be checked ({_short(error)}). Is it of the right type?"

        check.exercise_number = number
        return check

    return decorate


def title_of(check: Callable) -> str:
    """The title of an exercise."""
    return (check.__doc__ or "no title").strip().splitlines()[0].rstrip(".")


def number(
    answer: Any,
    right: float,
    hint: str,
    tolerance: float = 0.0,
    too_low: str = "",
    too_high: str = "",
    mistakes: Mapping[float, str] = _NONE,
) -> str | None:
    """Compare an answer that has to be one number.

    Args:
        tolerance: absolute difference that is allowed, for answers that are rounded or measured.
        hint: for every other number; `too_low` and `too_high` replace it on their side.
    """
    value = _as_array(answer)
    if value is None or value.size != 1 or value.dtype.kind not in "iuf":
        return f"The answer has to be one number; this is {_kind(answer)}."
    value = float(value.reshape(()))
    if math.isnan(value):
        return "The answer is NaN, not a number: look for a division by zero or a missing value."
    if _close(value, right, tolerance):
        return None
    for wrong, own_hint in mistakes.items():
        if _close(value, wrong, tolerance):
            return own_hint
    return (too_low if value < right else too_high) or hint


def _close(value: float, other: float, tolerance: float) -> bool:
    # A little more than the tolerance, so that a rounded answer at its edge counts as right.
    return abs(value - other) <= tolerance + 1e-9 * max(1.0, abs(other))


def array(
    answer: Any,
    right: Any,
    hint: str,
    tolerance: float = 0.0,
    mistakes: Mapping[tuple, str] = _NONE,
) -> str | None:
    """Compare an answer that has to be an array, a tensor or a list with numbers or truth values.

    A wrong shape is named; NaN is right where it is expected.
    """
    right, value = np.asarray(right), _as_array(answer)
    what = "an array or a list of numbers" if right.ndim else "one number"
    if value is None or value.dtype.kind not in "biuf" or value.ndim > right.ndim == 0:
        return f"The answer has to be {what}; this is {_kind(answer)}."
    if value.shape != right.shape:
        return f"The answer has the shape {value.shape}; expected {right.shape}."
    if _all_close(value, right, tolerance):
        return None
    for wrong, own_hint in mistakes.items():
        if _all_close(value, wrong, tolerance):
            return own_hint
    return hint


def _all_close(value: np.ndarray, other: Any, tolerance: float) -> bool:
    value, other = value.astype(float), np.asarray(other, float)
    return value.shape == other.shape and np.allclose(value, other, 0, tolerance + 1e-9, True)


def choice(answer: Any, right: str, options: Iterable[str], hint: str) -> str | None:
    """Compare an answer that has to be one of several words; upper and lower case are the same."""
    names = list(options)
    if not isinstance(answer, str):
        return f"The answer has to be one of {_listed(names)}; this is {_kind(answer)}."
    if answer.strip().lower() not in [name.lower() for name in names]:
        return f"The answer has to be one of {_listed(names)}."
    return None if answer.strip().lower() == right.lower() else hint


def choices(answer: Any, right: Iterable[str], options: Iterable[str], hint: str) -> str | None:
    """Compare an answer that has to be a set or a list of words, in any order."""
    names, right = list(options), {name.lower() for name in right}
    is_list = isinstance(answer, list | tuple | set | frozenset)
    if not is_list or not all(isinstance(name, str) for name in answer):
        some = f"a set or list with some of {_listed(names)}"
        return f"The answer has to be {some}; it is {_kind(answer)}."
    chosen = {name.strip().lower() for name in answer}
    unknown = chosen - {name.lower() for name in names}
    if unknown:
        return f"{_listed(sorted(unknown))} cannot be chosen; there is {_listed(names)}."
    return None if chosen == right else hint


def function(
    answer: Any,
    reference: Callable,
    cases: Sequence[tuple],
    hint: str,
    tolerance: float = 1e-6,
    hints: Sequence[str] = (),
    mistakes: Mapping[Callable, str] = _NONE,
) -> str | None:
    """Compare an answer that has to be a function with `reference` on all cases.

    Args:
        cases: tuples of arguments; the function gets copies, so that it may change them.
        hint: where a result differs.
        hints: one a case, in place of `hint`, for cases that test something of their own.
        mistakes: functions that give a typical wrong answer -> the hint for answers that agree with
            them on all cases.
    """
    problem = _difference(answer, reference, cases, hint, tolerance, hints)
    if problem in (hint, *hints):
        for wrong, own_hint in mistakes.items():
            if _difference(answer, wrong, cases, hint, tolerance) is None:
                return own_hint
    return problem


def called(answer: Callable, *arguments: Any, where: str = "") -> Any:
    """What the function of an answer returns for copies of the arguments, which it may change.

    Raises:
        FunctionFailed: the answer is no function, or raised an error; `where` tells in which test.
    """
    if not callable(answer) or isinstance(answer, type):
        raise FunctionFailed(
            f"The answer has to be a function, without brackets behind it; this is {_kind(answer)}."
        )
    try:
        return answer(*copy.deepcopy(arguments))
    except Exception as error:
        raise FunctionFailed(f"Your function failed{where}: {_short(error)}.") from error


def _difference(
    answer: Any,
    reference: Callable,
    cases: Sequence[tuple],
    hint: str,
    tolerance: float,
    hints: Sequence[str] = (),
) -> str | None:
    """The hint for the first case in which a function differs from `reference`; None for none."""
    for position, arguments in enumerate(cases):
        expected = np.asarray(_as_array(reference(*copy.deepcopy(arguments))))
        try:
            result = called(answer, *arguments, where=f" in test {position + 1} of {len(cases)}")
        except FunctionFailed as failure:
            return str(failure)
        own_hint = hints[position] if position < len(hints) else hint
        problem = array(result, expected, own_hint, tolerance)
        if problem and problem != own_hint:
            problem = problem.replace("The answer", "What your function returns", 1)
        if problem:
            return problem
    return None


def _as_array(value: Any) -> np.ndarray | None:
    """A number, list, array or tensor as an array; None for everything else."""
    if hasattr(value, "detach"):  # a tensor, perhaps on a GPU or with a gradient
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    if value is None or isinstance(value, str | bytes | dict | set) or callable(value):
        return None
    try:
        result = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return None if result.size > MAX_ITEMS else result


def _kind(answer: Any) -> str:
    """What an answer is, for a hint."""
    if answer is None:
        return "None (is a `return` missing?)"
    if isinstance(answer, str):
        return "a text"
    if isinstance(answer, bool):
        return "True or False"
    shape = getattr(answer, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of the shape {tuple(shape)}"
    if isinstance(answer, list | tuple | set | dict):
        return f"a {type(answer).__name__} of {len(answer)}"
    return "a function" if callable(answer) else f"of the type {type(answer).__name__}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _short(error: BaseException) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {first_line(error)}"
