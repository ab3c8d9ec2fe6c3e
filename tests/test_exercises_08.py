"""Exercises of lesson 08: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest

from seglib import exercises


def mean_of_two(predict, image):
    mirrored = np.flip(predict(np.fliplr(image)), axis=2)
    return 0.5 * predict(image) + 0.5 * mirrored[[1, 0]]


def without_swap(predict, image):
    return (predict(image) + np.flip(predict(np.fliplr(image)), axis=2)) / 2


def not_mirrored_back(predict, image):
    return (predict(image) + predict(np.fliplr(image))[[1, 0]]) / 2


def order(prob, sign=-1, empty=0.0):
    doubts = []
    for plane in prob:
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -plane * np.log2(plane) - (1 - plane) * np.log2(1 - plane)
        doubts.append(np.where(np.isnan(entropy), empty, entropy).mean())
    return np.argsort(sign * np.array(doubts), kind="stable")


def smallest_first(prob):
    return order(prob, sign=1)


def with_nan(prob):
    return order(prob, empty=np.nan)


@pytest.mark.parametrize(
    "number, answer", [("08.1", 11 * 16), ("08.2", mean_of_two), ("08.3", order)]
)
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("08.1", 6 * 9, "half a tile"),
        ("08.1", 10 * 15, "rounded up"),
        ("08.1", 12 * 17, "Fewer tiles"),
        ("08.2", without_swap, "two planes"),
        ("08.2", not_mirrored_back, "mirror the result back"),
        ("08.2", 3, "function"),
        ("08.3", smallest_first, "largest mean first"),
        ("08.3", with_nan, "not NaN"),
        ("08.3", lambda prob: np.argsort(prob.mean(axis=(1, 2))), ""),
    ],
)
def test_usual_mistakes(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict
