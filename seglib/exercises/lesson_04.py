"""Exercises of lesson 04: lungs and domain shift."""

import numpy as np

from . import answers
from .answers import exercise


@exercise("04.1")
def mirrored(answer) -> str | None:
    """Which pictures may be mirrored?"""
    hint = (
        "Image and mask are mirrored together, so the mask still fits. Ask for each task: does the "
        "name of each class still say where its pixels lie?"
    )
    return answers.choices(answer, "ace", "abcde", hint)


@exercise("04.2")
def noise(answer) -> str | None:
    """Noise of a lower dose"""
    rng = np.random.default_rng(42)
    grey = rng.integers(100, 150, (5, 7), dtype=np.uint8)
    bright = rng.integers(240, 256, (6, 4), dtype=np.uint8)
    hint = (
        "Draw the noise as the exercise says and multiply it by 255, because `std` is a share of "
        "the full range. Round the sum to the nearest whole number; a conversion to uint8 alone "
        "cuts the decimals off."
    )
    clip = "Grey values below 0 and above 255 have to be clipped before the conversion to uint8."
    cases = [(grey, 0.05, 3), (bright, 0.2, 4)]
    problem = answers.function(answer, _noisy, cases, hint, hints=(hint, clip))
    if problem is None and np.asarray(answer(grey, 0.05, 3)).dtype != np.uint8:
        return "The values are right, but they have to be of the type uint8."
    return problem


@exercise("04.3")
def price_of_the_other_hospital(answer) -> str | None:
    """The price of the other hospital"""
    rng = np.random.default_rng(43)
    own, other = rng.beta(30, 3, 24), rng.beta(20, 3, 37)  # both are needed for the interval
    result = np.asarray(answers.called(answer, own, other, 0), dtype=float)
    if result.shape != (3,):
        return "The function has to return three numbers: (difference, low, high)."
    difference, low, high = result
    problem = answers.number(
        difference,
        own.mean() - other.mean(),
        "The first number is the mean of `own` minus the mean of `other`.",
    )
    if problem:
        return problem
    lower, upper = _ends(own, other)
    # An end from 2,000 resamples has a standard error of 1.6 % of the width of the interval.
    if max(abs(low - lower), abs(high - upper)) < 0.06 * (upper - lower):
        return None
    if high - low < 0.9 * (upper - lower):
        return (
            "The interval is too narrow. Are the patients of both hospitals drawn anew in each "
            "resample, and are the ends the 2.5th and the 97.5th percentile?"
        )
    return "The ends differ from those of 2,000 resamples. Is each hospital drawn by itself?"


def _noisy(image: np.ndarray, std: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, std, image.shape)
    return np.clip(np.rint(image + 255 * noise), 0, 255).astype(np.uint8)


def _ends(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """2.5th and 97.5th percentile of the difference of means over many resamples."""
    rng = np.random.default_rng(0)
    means = [rng.choice(each, (20_000, len(each))).mean(axis=1) for each in (own, other)]
    return np.percentile(means[0] - means[1], (2.5, 97.5))
