"""Exercises of lesson 09: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from seglib import exercises
from seglib.exercises import lesson_09


def screening(scores, labels, wanted):
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    at = int(np.argmax(tpr >= wanted))
    return thresholds[at], 1 - fpr[at]


def above_only(scores, labels, wanted):
    threshold = screening(scores, labels, wanted)[0]
    return threshold, (scores[labels == 0] <= threshold).mean()


def lowest(scores, labels, wanted):
    return scores.min(), 0.0


def p_value(scores, labels, orders):
    aucs = [roc_auc_score(labels[order], scores) for order in orders]
    far = abs(roc_auc_score(labels, scores) - 0.5) - 1e-9
    return (1 + sum(abs(auc - 0.5) >= far for auc in aucs)) / (1 + len(aucs))


def one_sided(scores, labels, orders):
    aucs = [roc_auc_score(labels[order], scores) for order in orders]
    far = abs(roc_auc_score(labels, scores) - 0.5) - 1e-9
    if roc_auc_score(labels, scores) < 0.5:
        return (1 + sum(auc >= roc_auc_score(labels, scores) for auc in aucs)) / (1 + len(aucs))
    return (1 + sum(abs(auc - 0.5) >= far for auc in aucs)) / (1 + len(aucs))


def without_one(scores, labels, orders):
    return p_value(scores, labels, orders) - 1 / (1 + len(orders))


@pytest.mark.parametrize(
    "number, answer", [("09.1", {"a", "b", "d", "f"}), ("09.2", screening), ("09.3", p_value)]
)
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("09.1", {"a", "b", "f"}, "learn like any other fit"),
        ("09.1", "abdf", "list"),
        ("09.2", lowest, "from the highest down"),
        ("09.2", above_only, "positive, and that holds"),
        ("09.2", lambda *arguments: screening(*arguments)[0], "shape"),
        ("09.3", one_sided, "below one half"),
        ("09.3", without_one, "1 is added"),
        ("09.3", lambda scores, labels: 0.5, "failed"),
    ],
)
def test_usual_mistakes(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict


def test_reference_answers_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], (25, 15)))
    scores = np.round(labels + rng.normal(0, 1, 40), 1)  # with ties
    assert lesson_09._auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    for wanted in (0.2, 0.8, 1.0):
        ours = lesson_09._screening(scores, labels, wanted)
        assert ours == pytest.approx(screening(scores, labels, wanted))
