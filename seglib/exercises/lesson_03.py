"""Exercises of lesson 03: several classes, fine-tuning."""

from collections.abc import Sequence

import numpy as np

from . import answers

LEFT_KIDNEY, RIGHT_KIDNEY = 3, 4


@answers.exercise("03.1")
def factor_of_the_focal_loss(answer) -> str | None:
    """How much lighter does an easy pixel become?"""
    probability, gamma = 0.8, 2
    weight = (1 - probability) ** gamma
    mistakes = {
        weight: (
            "This is the weight of the pixel. The question is by which factor its loss becomes "
            "smaller: compare the loss before and after."
        ),
        1 / (1 - probability): "Nearly: gamma is an exponent, and it is 2 here.",
        probability**-gamma: (
            "The weight is made of 1 - p, the probability that the pixel does not get, not of p."
        ),
    }
    hint = "Divide the cross-entropy by the focal loss; the logarithm cancels out."
    return answers.number(answer, 1 / weight, hint, 0.01, mistakes=mistakes)


@answers.exercise("03.2")
def loss_of_unequal_parts(answer) -> str | None:
    """The last micro-batch is smaller"""
    rng = np.random.default_rng(32)
    cases = [([0.5, 1.0], [1, 1]), ([1.0, 4.0], [3, 1]), ([0.7], [5])]
    for n_parts in (3, 4, 16):
        sizes = rng.integers(1, 33, n_parts).tolist()
        cases.append((rng.uniform(0.1, 2, n_parts).tolist(), sizes))
    hint = (
        "Parts with more images must count more: how much should a part with one image count "
        "beside a part with three? And divide by the number of images, not of parts."
    )
    first = "Two parts of one image each: the loss of both together lies between the two."
    return answers.function(answer, _loss_of_parts, cases, hint, hints=[first])


def _loss_of_parts(losses: Sequence[float], sizes: Sequence[int]) -> float:
    return float(np.average(losses, weights=sizes))


@answers.exercise("03.3")
def mirror_with_sides(answer) -> str | None:
    """A mirror that knows left from right"""
    rng = np.random.default_rng(33)
    small = np.uint8([[0, 3, 4, 4], [1, 3, 0, 255]])
    cases = [(small,), (np.uint8([[1, 2, 5, 0]]),)]
    cases += [(rng.choice([0, 1, 2, 3, 4, 5, 255], (7, 9)).astype(np.uint8),) for _ in range(4)]
    hint = "The labels differ. Mirror the columns, then let classes 3 and 4 change places."
    hint = _common_mistake(np.asarray(answers.called(answer, small)), small) or hint
    return answers.function(answer, _mirror, cases, hint)


def _common_mistake(result: np.ndarray, mask: np.ndarray) -> str:
    """The hint for a usual mistake in the mirror of a small mask; "" where it is none of these."""
    if np.array_equal(result, mask[:, ::-1]):
        return "The mask is mirrored, but each kidney still has its old name."
    if np.array_equal(result, _swapped(mask)):
        return "The names are exchanged, but the mask is not mirrored."
    if np.array_equal(result, _mirror(mask)[::-1, ::-1]):
        return "This mirror exchanges top and bottom. Left and right are the columns."
    kidneys = {int(label) for label in np.unique(result)} & {LEFT_KIDNEY, RIGHT_KIDNEY}
    if len(kidneys) == 1:
        return (
            "One of the kidneys is lost. After the first of two assignments both have the same "
            "number: remember where each of them was before you change anything."
        )
    return ""


def _swapped(mask: np.ndarray) -> np.ndarray:
    """The label map with the names of the kidneys exchanged."""
    table = np.arange(256, dtype=np.uint8)
    table[[LEFT_KIDNEY, RIGHT_KIDNEY]] = RIGHT_KIDNEY, LEFT_KIDNEY
    return table[mask]


def _mirror(mask: np.ndarray) -> np.ndarray:
    return _swapped(mask)[:, ::-1]
