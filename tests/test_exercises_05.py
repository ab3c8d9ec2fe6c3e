"""Exercises of lesson 05: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest

from seglib import exercises, metrics
from seglib.drawings import dilations
from seglib.exercises import lesson_05


def beat(ed, es, spacing_mm, number=3, percent=100):
    edv, esv = ((mask == number).sum() * np.prod(spacing_mm) / 1000 for mask in (ed, es))
    return edv - esv, percent * (edv - esv) / edv


def dice(truth, pred):
    counts = metrics.counts(np.asarray(pred) > 0, np.asarray(truth) > 0)
    return float(metrics.ratios(**counts)["dice"])


def both(truth, pred):
    return np.mean([dice(*pair) for pair in zip(truth, pred)]), dice(truth, pred)


def without_empty(truth, pred):
    pairs = [pair for pair in zip(truth, pred) if pair[0].any() or pair[1].any()]
    return np.mean([dice(*pair) for pair in pairs] or [1.0]), dice(truth, pred)


@pytest.mark.parametrize("number, answer", [("05.1", 768), ("05.2", beat), ("05.3", both)])
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("05.1", 48, "not that of the map"),
        ("05.1", 784, "smaller multiple"),
        ("05.2", lambda *arguments: beat(*arguments, number=2), "value 3"),
        ("05.2", lambda *arguments: beat(*arguments, percent=1), "percent"),
        ("05.2", lambda *arguments: beat(*arguments)[1], "shape"),
        ("05.3", lambda truth, pred: both(truth, pred)[::-1], "first number"),
        ("05.3", without_empty, "counts as 1"),
    ],
)
def test_usual_mistakes(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict


def test_taps_are_counted_as_in_the_drawing():
    for side, rate in ((4, 1), (16, 12), (16, 18), (48, 18)):
        taps = (
            dilations._taps_inside(3, rate, side) ** 2
        )  # of nine, the one in the middle is inside
        assert np.isclose(lesson_05._taps_inside(side, rate), (taps - 1) / 8)
