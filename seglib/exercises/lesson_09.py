"""Exercises of lesson 09: from masks to a finding."""

import numpy as np

from . import answers
from .answers import exercise


@exercise("09.1")
def inside_the_folds(answer) -> str | None:
    """Inside or outside the folds?"""
    hint = (
        "Ask of each step: would its result change if the held-out patients had other pictures or "
        "findings? If so, it has learnt from them. A step that treats each patient by itself has "
        "not. The training of a network and a choice by a score learn like any other fit."
    )
    return answers.choices(answer, "abdf", "abcdef", hint)


@exercise("09.2")
def threshold_for_screening(answer) -> str | None:
    """A threshold for screening"""
    rng = np.random.default_rng(92)
    labels = rng.permutation(np.repeat([0, 1], (30, 20)))
    clear = np.round(labels + rng.normal(0, 0.8, 50), 3)
    few = np.array([0.2, 0.7, 0.7, 0.4, 0.9, 0.4]), np.array([0, 1, 0, 1, 1, 0])
    cases = [(clear, labels, 0.9), (clear, labels, 0.5), (*few, 0.66), (*few, 1.0)]
    general = (
        "Try every score as a threshold, from the highest down, and stop at the first whose "
        "sensitivity reaches `wanted`. Then count the healthy patients *below* it."
    )
    ties = (
        "A patient whose score equals the threshold is positive, and that holds for healthy "
        "patients as well."
    )
    hints = (general, general, ties, ties)
    return answers.function(answer, _screening, cases, general, hints=hints)


@exercise("09.3")
def chance(answer) -> str | None:
    """Is it chance?"""
    rng = np.random.default_rng(93)
    labels = np.repeat([0, 1], (12, 9))
    orders = np.array([rng.permutation(len(labels)) for _ in range(99)])
    above = np.round(0.5 * labels + rng.normal(0, 0.6, len(labels)), 2)
    ties = np.round(above, 0)
    general = (
        "Count the rows whose AUC is as far from one half as the true one, or farther; 1 is added "
        "to this count and to the number of rows. A tie of two scores counts one half."
    )
    below = "An AUC below one half counts by its distance from one half, as one above does."
    cases = [(above, labels, orders), (-above, labels, orders), (ties, labels, orders)]
    return answers.function(answer, _p_value, cases, general, hints=(general, below, general))


def _screening(scores: np.ndarray, labels: np.ndarray, wanted: float) -> tuple[float, float]:
    """The highest score that as a threshold has the sensitivity `wanted`; and its specificity."""
    for threshold in np.unique(scores)[::-1]:
        positive = scores >= threshold
        if positive[labels == 1].mean() >= wanted:
            break
    return float(threshold), float(1 - positive[labels == 0].mean())


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    sick, healthy = scores[labels == 1][:, None], scores[labels == 0]
    return float(np.mean((sick > healthy) + 0.5 * (sick == healthy)))


def _p_value(scores: np.ndarray, labels: np.ndarray, orders: np.ndarray) -> float:
    """Share of permutations whose AUC is as far from one half; 1 is added to both counts."""
    distance = abs(_auc(scores, labels) - 0.5)
    others = np.array([abs(_auc(scores, labels[order]) - 0.5) for order in orders])
    n_as_far = np.count_nonzero(others >= distance - 1e-12)
    return (1 + n_as_far) / (1 + len(orders))
