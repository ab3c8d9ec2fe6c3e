"""Exercises of lesson 00: start here."""

import numpy as np

from .. import config, metrics, models
from . import answers

TRUTH = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
PRED = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], bool)


@answers.exercise("00.1")
def dice_by_hand(answer) -> str | None:
    """Dice by hand."""
    scores = {name: float(v) for name, v in metrics.ratios(**metrics.counts(PRED, TRUTH)).items()}
    formulas = "Look at the two formulas of section 2 again."
    mistakes = {
        scores["iou"]: f"That is the IoU, not Dice. {formulas}",
        scores["accuracy"]: f"That is the accuracy: it counts TN too. {formulas}",
        scores["dice"] / 2: (
            "The pixels that both masks share count twice, above the line and below it."
        ),
    }
    hint = "Count TP, FP and FN first; together with TN they must make 16 pixels."
    return answers.number(answer, scores["dice"], hint, tolerance=0.005, mistakes=mistakes)


@answers.exercise("00.2")
def iou_as_function(answer) -> str | None:
    """IoU as a function."""
    rng = np.random.default_rng(2)
    empty, full = np.zeros((3, 5), bool), np.ones((3, 5), bool)
    cases = [(TRUTH, PRED), (PRED, TRUTH), (full, full), (empty, full)]
    cases += [tuple(rng.random((2, 6, 4)) < share) for share in (0.2, 0.5, 0.8)]
    cases += [(empty, empty)]
    hint = "TP is the number of pixels in both masks; below the line stand those in either of them."
    hints = [hint] * (len(cases) - 1)
    hints += [
        "It is right where there is something to find. With two empty masks your function divides "
        "nothing by nothing; the prediction was perfect there."
    ]
    with np.errstate(all="ignore"):
        return answers.function(answer, _iou, cases, hint, hints=hints)


def _iou(truth: np.ndarray, pred: np.ndarray) -> float:
    return float(metrics.ratios(**metrics.counts(pred, truth))["iou"])


@answers.exercise("00.3")
def size_of_the_network(answer) -> str | None:
    """How large is the network?"""
    cfg = config.preset("lung", "small", base_channels=4)
    right = models.n_parameters(models.build(**cfg.settings))
    other = models.n_parameters(models.build(**cfg.settings | {"depth": 3}))
    mistakes = {other: "That is a network with one pooling fewer. Take every setting from `other`."}
    hint = "Build it as section 5 does, from the settings of `other` and not from those of `cfg`."
    return answers.number(answer, right, hint, mistakes=mistakes)
