"""Exercises of lesson 01: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest

from seglib import exercises


def area(mask, spacing_mm):
    return np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1] / 100


def leaked(patients, parts):
    parts_of = {name: {b for a, b in zip(patients, parts) if a == name} for name in patients}
    return sorted(name for name, own in parts_of.items() if len(own) > 1)


def with_train_only(patients, parts):
    """Compares the test part with the training part, and forgets validation."""
    train, test = (
        {name for name, own in zip(patients, parts) if own == part} for part in ("train", "test")
    )
    return sorted(train & test)


@pytest.mark.parametrize(
    "number, answer",
    [
        ("01.1", (1000, -1000)),
        ("01.1", np.array([1000.0, -1000.0])),
        ("01.2", area),
        ("01.3", leaked),
        ("01.3", lambda patients, parts: np.array(leaked(patients, parts))),
    ],
)
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("01.1", (-1000, 1000), "water comes first"),
        ("01.1", (-500, -1000), "place of the raw value"),
        ("01.1", (1024, 24), "water must give 0"),
        ("01.1", 1000, "shape"),
        ("01.2", lambda mask, spacing_mm: 100 * area(mask, spacing_mm), "Which unit"),
        ("01.2", lambda mask, spacing_mm: mask.sum() * spacing_mm[0] ** 2 / 100, "distance of"),
        ("01.2", area(np.ones((2, 2)), (1, 1)), "function"),
        ("01.3", lambda patients, parts: None, "return"),
        ("01.3", lambda patients, parts: leaked(patients, parts)[::-1] * 2, "each of them once"),
        ("01.3", lambda a, b: sorted(set(a) - set(leaked(a, b))), "one part only"),
        ("01.3", lambda a, b: sorted({name for name in a if a.count(name) > 1}), "Too many"),
        ("01.3", with_train_only, "missing"),
        ("01.3", ["P1", "P3"], "function"),
    ],
)
def test_mistakes_have_their_hint(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict
