"""Exercises of lesson 00: right answers, and the hint that belongs to each usual mistake."""

import numpy as np
import pytest

from seglib import exercises


def iou(truth, pred):
    union = (truth | pred).sum()
    return (truth & pred).sum() / union if union else 1.0


def n_weights(base, depth=4):
    """Of the small lung network, without the function that the check uses."""
    from seglib import config, models

    cfg = config.preset("lung", "small", base_channels=base, depth=depth)
    return sum(p.numel() for p in models.build(**cfg.settings).parameters())


@pytest.mark.parametrize(
    "number, answer",
    [("00.1", 0.8), ("00.1", 8 / 10), ("00.2", iou), ("00.3", n_weights(4))],
)
def test_right(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("00.1", 4 / 6, "IoU"),
        ("00.1", 14 / 16, "accuracy"),
        ("00.1", 4 / 10, "twice"),
        ("00.1", 0.3, "16 pixels"),
        ("00.2", lambda truth, pred: (truth & pred).sum() / (truth | pred).sum(), "two empty"),
        ("00.2", lambda truth, pred: 2 * iou(truth, pred) / (1 + iou(truth, pred)), "below the"),
        ("00.2", lambda truth, pred: np.float64(0.5), "TP is"),
        ("00.3", n_weights(8), "of `other`"),
        ("00.3", n_weights(4, depth=3), "pooling"),
    ],
)
def test_mistakes_have_their_hint(number, answer, words):
    verdict = exercises.check(number, answer)
    assert not verdict and words in verdict.text, verdict
