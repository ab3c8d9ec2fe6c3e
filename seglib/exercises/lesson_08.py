"""Exercises of lesson 08: tiles, flipped views, and the order of corrections."""

import numpy as np
from scipy import special

from .. import tiles
from . import answers
from .answers import exercise


@exercise("08.1")
def tiles_of_a_photograph(answer) -> str | None:
    """How many tiles does a photograph need?"""
    rows, columns = (len(tiles.starts(side, 512, 0.5)) for side in (2848, 4288))
    return answers.number(
        answer,
        rows * columns,
        "The answer is a number of tiles.",
        too_low="These tiles do not cover the photograph with the overlap that is asked for. Each "
        "tile goes on by half a tile, the number along a side is rounded up, and the numbers of "
        "both sides are multiplied.",
        too_high="Fewer tiles are enough. Is the first tile counted once along each side?",
    )


@exercise("08.2")
def mirrored_view(answer) -> str | None:
    """A mirrored view where sides have names"""
    rng = np.random.default_rng(82)
    ramp = np.linspace(0, 1, 8)
    cases = [
        # Both classes alike on each side: every mistake with the image itself is seen.
        (lambda image: np.stack([image, image**2]), rng.random((5, 7))),
        # Class 0 is found at the right of a picture, class 1 at the left.
        (lambda image: np.stack([image * ramp, image * ramp[::-1]]), rng.random((6, 8))),
        (lambda image: np.stack([image * ramp, 0.3 * image]), rng.random((4, 8))),
    ]
    hint = (
        "Mirror the image from left to right, predict, and mirror the result back before the mean "
        "is taken. The width is the last axis of both."
    )
    swap = (
        "In a mirrored X-ray the left lung lies where the right one is expected. What does the "
        "network call it there, and what has to be done with the two planes of its answer?"
    )
    hints, mistakes = (hint, swap, swap), {_without_swap: swap}
    return answers.function(answer, _mean_of_two, cases, hint, hints=hints, mistakes=mistakes)


@exercise("08.3")
def order_of_corrections(answer) -> str | None:
    """Which case first?"""
    rng = np.random.default_rng(83)
    sharpness = np.array([3.0, 0.2, 8.0, 1.0, 20.0])[:, None, None]
    soft = special.expit(sharpness * rng.normal(0, 1, (5, 6, 7)))
    # Half of the pixels of the first case are certain: without NaN, it is still the first.
    certain = np.stack([[[0.0, 0.5], [1.0, 0.5]], np.full((2, 2), 0.9), np.full((2, 2), 0.95)])
    low = np.array([0.02, 0.6, 0.3])[:, None, None] * np.ones((3, 2, 2))
    hint = (
        "Compute the entropy of each pixel, take the mean over the pixels of a case, and return "
        "the numbers of the cases, the largest mean first."
    )
    zero = "A pixel with the probability 0 or 1 has the entropy 0, and not NaN."
    middle = "A probability of 0.3 is more doubtful than one of 0.02: doubt is largest at 0.5."
    cases = [(soft,), (low,), (certain,)]
    return answers.function(answer, _most_doubtful_first, cases, hint, hints=(hint, middle, zero))


def _mean_of_two(predict, image: np.ndarray) -> np.ndarray:
    mirrored = predict(image[:, ::-1])[::-1, :, ::-1]  # the classes change places too
    return (predict(image) + mirrored) / 2


def _without_swap(predict, image: np.ndarray) -> np.ndarray:
    """Mirrored in space, but each class stays in its plane."""
    return (predict(image) + predict(image[:, ::-1])[..., ::-1]) / 2


def _most_doubtful_first(prob: np.ndarray) -> np.ndarray:
    entropy = special.entr(prob) + special.entr(1 - prob)
    return np.argsort(-entropy.mean(axis=(1, 2)), kind="stable")
