"""Exercises of lesson 05: ASPP, ejection fraction, averages over slices and volumes."""

import numpy as np

from . import answers
from .answers import exercise


@exercise("05.1")
def image_for_the_rates(answer) -> str | None:
    """How large must the image be?"""
    right = next(side for side in range(16, 4096, 16) if _taps_inside(side // 16, 18) >= 0.5)
    return answers.number(
        answer,
        right,
        "The answer is a number of pixels, not of cells of the map.",
        too_low="On a map of this image less than half of the outer taps of rate 18 lie inside. "
        "Is it the side of the image in pixels, at stride 16, and not that of the map?",
        too_high="A smaller multiple of 16 is enough. Try the sides one after the other.",
    )


@exercise("05.2")
def heart_beat(answer) -> str | None:
    """Stroke volume and ejection fraction"""
    rng = np.random.default_rng(52)
    cases = []
    for spacing in ((10.0, 1.5, 1.5), (8.0, 1.25, 1.6), (5.0, 2.0, 1.0)):
        # ES has fewer voxels of the left ventricle than ED, and more of the other classes.
        ed = rng.choice(4, (6, 12, 10), p=(0.3, 0.1, 0.2, 0.4)).astype(np.uint8)
        es = rng.choice(4, (6, 12, 10), p=(0.4, 0.2, 0.2, 0.2)).astype(np.uint8)
        cases.append((ed, es, spacing))
    hint = (
        "Count the voxels with the value 3 alone. The volume of a voxel is the product of its "
        "three sides in mm; 1000 mm³ are 1 mL. The fraction is in percent of the EDV. The order "
        "is stroke volume, ejection fraction."
    )
    return answers.function(answer, _heart_beat, cases, hint, tolerance=1e-3)


@exercise("05.3")
def two_dice(answer) -> str | None:
    """Two averages of the Dice"""
    rng = np.random.default_rng(53)
    truth = rng.integers(0, 2, (4, 6, 5))
    pred = np.where(rng.random(truth.shape) < 0.8, truth, 1 - truth)
    empty_in_both = truth.copy(), pred.copy()
    for mask in empty_in_both:
        mask[1] = 0
    missed = truth.copy(), pred.copy()
    missed[0][2], missed[1][2] = np.eye(6, 5, dtype=int), 0
    nothing = np.zeros((2, 4, 4), int)
    cases = [(truth, pred), empty_in_both, missed, (nothing, nothing)]
    hint = (
        "For the first number compute the Dice of each slice, then their mean. For the second add "
        "up the pixels of all slices first and divide once."
    )
    empty = "A slice without a pixel in either mask counts as 1 in the mean over slices."
    absent = "A slice whose pixels are all missed has the Dice 0 and counts in the mean."
    no_pixel = "Where both volumes are empty, both numbers are 1, not NaN."
    hints = (hint, empty, absent, no_pixel)
    return answers.function(answer, _two_dice, cases, hint, hints=hints)


def _taps_inside(side: int, rate: int) -> float:
    """Share of the eight outer taps of a 3x3 kernel inside a map of `side` cells."""
    places = np.arange(side)
    steps = (-rate, 0, rate)
    inside = {step: (places + step >= 0) & (places + step < side) for step in steps}
    pairs = [(a, b) for a in steps for b in steps if (a, b) != (0, 0)]
    return float(np.mean([np.outer(inside[a], inside[b]).mean() for a, b in pairs]))


def _heart_beat(ed: np.ndarray, es: np.ndarray, spacing_mm: tuple) -> tuple[float, float]:
    edv, esv = ((mask == 3).sum() * np.prod(spacing_mm) / 1000 for mask in (ed, es))
    return edv - esv, 100 * (edv - esv) / edv


def _dice(truth: np.ndarray, pred: np.ndarray) -> float:
    total = truth.sum() + pred.sum()
    return float(2 * (truth * pred).sum() / total) if total else 1.0


def _two_dice(truth: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    by_slice = [_dice(*pair) for pair in zip(truth, pred)]
    return float(np.mean(by_slice)), _dice(truth, pred)
