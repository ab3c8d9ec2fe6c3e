"""Exercises of lesson 06: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest

from seglib import exercises

TASKS = {"a": "multiclass", "b": "multilabel", "c": "binary"}


def last_epoch(val_dice, patience, least=1e-9):
    best, best_epoch = -1.0, 0
    for epoch, dice in enumerate(val_dice, start=1):
        if dice >= best + least:
            best, best_epoch = dice, epoch
        elif epoch - best_epoch >= patience:
            return epoch
    return len(val_dice)


def gain_of_doubling(sizes, dice, last=3, scale=np.log2):
    return np.polyfit(scale(np.asarray(sizes[-last:], float)), dice[-last:], 1)[0]


@pytest.mark.parametrize(
    "number, answer", [("06.1", TASKS), ("06.2", last_epoch), ("06.3", gain_of_doubling)]
)
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("06.1", ["multiclass", "multilabel", "binary"], "keys a, b and c"),
        ("06.1", TASKS | {"a": "multilabel"}, "a: How many classes"),
        ("06.1", TASKS | {"b": "multiclass"}, "b: What is a pixel of the cup"),
        ("06.1", TASKS | {"c": "two classes"}, "has to be one of"),
        ("06.2", lambda dice, patience: last_epoch(dice, patience) - 1, "from 1"),
        ("06.2", lambda dice, patience: last_epoch(dice, patience + 1), "patience 2"),
        ("06.2", lambda dice, patience: last_epoch(dice, patience, 0), "only equal"),
        ("06.2", lambda dice, patience: None, "return"),
        ("06.3", lambda n, dice: gain_of_doubling(n, dice, 9), "last three"),
        ("06.3", lambda n, dice: gain_of_doubling(n, dice, scale=np.log), "factor e"),
        ("06.3", lambda n, dice: gain_of_doubling(n, dice, scale=np.array), "against n itself"),
        ("06.3", lambda n, dice: 0.5, "adds 1"),
    ],
)
def test_usual_mistakes(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict
