"""Exercises of lesson 07: the hint that belongs to each usual mistake."""

import pytest

from seglib.exercises import check


def precision(sensitivity, specificity, share):
    true_positive = sensitivity * share
    return true_positive / (true_positive + (1 - specificity) * (1 - share))


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda a, b, share: a / (a + 1 - b), "depend on the share"),
        (lambda a, b, share: a * share / (a * share + b * (1 - share)), "left alone"),
        (lambda a, b, share: a * share / (a * share + 1 - b), "one pixel out of all"),
    ],
)
def test_hints_of_the_precision(answer, words):
    assert check("07.2", precision)
    assert words in check("07.2", answer).text
