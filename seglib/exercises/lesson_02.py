"""Exercises of lesson 02: pixel classification and the U-Net."""

import numpy as np

from . import answers
from .answers import exercise


@exercise("02.1")
def confident_mistake(answer) -> str | None:
    """A confident mistake"""
    right = _confident_mistake(logit=-2.0, truth=1)
    hint = (
        "First the sigmoid of the logit; then minus the natural logarithm of the probability that "
        "the truth got; then the probability minus the truth, which is negative here."
    )
    mistakes = {
        _confident_mistake(logit=-2.0, truth=0): (
            "This is the pixel of the background, y = 0. Here the pixel belongs to the disc."
        ),
        (*right[:2], -right[2]): (
            "The slope has the wrong sign: the loss falls when the logit grows."
        ),
    }
    return answers.array(answer, right, hint, tolerance=0.006, mistakes=mistakes)


@exercise("02.2")
def number_of_weights(answer) -> str | None:
    """How many weights?"""
    rng = np.random.default_rng(22)
    cases = [(3, 8), (8, 16), *(tuple(pair) for pair in rng.integers(1, 99, (4, 2)).tolist())]
    hint = (
        "Write down the shapes: the first convolution goes from n_in to n_out channels, the second "
        "from n_out to n_out, and each is followed by a batch normalisation of n_out channels."
    )
    mistakes = {
        _without_norm: (
            "The convolutions are right. Each batch normalisation has two numbers for a channel."
        )
    }
    return answers.function(answer, _n_weights, cases, hint, mistakes=mistakes)


@exercise("02.3")
def between(answer) -> str | None:
    """In between: the best probability for any missing weight"""
    rng = np.random.default_rng(23)
    cases = [(0.5, 1.0), (0.9, 0.0), (0.0, 1.0)]
    cases += [tuple(pair) for pair in rng.uniform(0, 1, (5, 2)).tolist()]
    hint = (
        "In a disc, the loss is -(1 - s) ln p where the mask was drawn, and with weight m it is "
        "-s m ln(1 - p) where it was not. At which p is the slope of their sum zero?"
    )
    mistakes = {
        _straight_line: (
            "Right for m = 1 and for m = 0. In between, look for the p at which the slope is zero."
        )
    }
    return answers.function(answer, _best_probability, cases, hint, mistakes=mistakes)


def _confident_mistake(logit: float, truth: int) -> tuple[float, float, float]:
    """Probability, cross-entropy and its slope."""
    p = 1 / (1 + np.exp(-logit))
    return float(p), float(-np.log(p if truth else 1 - p)), float(p - truth)


def _n_weights(n_in: int, n_out: int) -> int:
    return _without_norm(n_in, n_out) + 2 * 2 * n_out


def _without_norm(n_in: int, n_out: int) -> int:
    return 9 * n_in * n_out + 9 * n_out * n_out


def _best_probability(s: float, m: float) -> float:
    return (1 - s) / (1 - s + s * m)


def _straight_line(s: float, m: float) -> float:
    return 1 - s * m
