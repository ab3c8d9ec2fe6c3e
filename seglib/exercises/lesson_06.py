"""Exercises of lesson 06: your own images."""

import numpy as np

from . import answers
from .answers import exercise

TASKS = {"a": "multiclass", "b": "multilabel", "c": "binary"}
TASK_HINTS = {
    "a": "How many classes can one pixel of such a file belong to, and how many are there?",
    "b": "What is a pixel of the cup: cup, disc, or both?",
    "c": "How many structures are there beside the background?",
}


@exercise("06.1")
def tasks_of_masks(answer) -> str | None:
    """Which task is it?"""
    if not isinstance(answer, dict) or set(answer) != set(TASKS):
        return "The answer has to be a dictionary with the keys a, b and c."
    for letter, task in TASKS.items():
        hint = answers.choice(answer[letter], task, TASKS.values(), TASK_HINTS[letter])
        if hint:
            return f"{letter}: {hint}"
    return None


@exercise("06.2")
def end_of_training(answer) -> str | None:
    """Early stopping"""
    rng = np.random.default_rng(62)
    cases = [([0.1, 0.2, 0.3, 0.4], 2), ([0.5, 0.4, 0.3, 0.2, 0.9], 2), ([0.3, 0.3, 0.3], 1)]
    cases += [(rng.random(20).round(1).tolist(), int(rng.integers(1, 6))) for _ in range(50)]
    hint = "Keep the best value so far, and count the epochs since it was reached."
    hints = (
        "Where the Dice rises in every epoch, training goes on to the last one; epochs count from "
        "1.",
        "Epochs 2 and 3 are not better than epoch 1, so with patience 2 training ends after "
        "epoch 3.",
        "An epoch that is only equal to the best one is not better.",
    )
    return answers.function(answer, _last_epoch, cases, hint, hints=hints)


@exercise("06.3")
def twice_as_many(answer) -> str | None:
    """Would twice as many masks help?"""
    sizes, dice = [4, 8, 20, 40, 90], [0.2, 0.55, 0.70, 0.76, 0.79]
    cases = [(sizes, dice), ([5, 10, 20], [0.5, 0.6, 0.65])]
    hint = "Doubling n adds 1 to its logarithm to base 2. What does the line gain over one unit?"
    mistakes = {
        _slope: "This line goes through all points. Use the last three.",
        lambda n, d: np.polyfit(np.log(n[-3:]), d[-3:], 1)[0]: (
            "Nearly: this is the gain when n grows by the factor e."
        ),
        lambda n, d: np.polyfit(n[-3:], d[-3:], 1)[0]: (
            "This line is fitted against n itself. Use its logarithm to base 2."
        ),
    }
    return answers.function(
        answer, lambda n, d: _slope(n[-3:], d[-3:]), cases, hint, mistakes=mistakes
    )


def _last_epoch(val_dice: list[float], patience: int) -> int:
    best, best_epoch = -np.inf, 0
    for epoch, value in enumerate(val_dice, start=1):
        if value > best:
            best, best_epoch = value, epoch
        elif epoch - best_epoch >= patience:
            return epoch
    return len(val_dice)


def _slope(sizes: list[int], dice: list[float]) -> float:
    return float(np.polyfit(np.log2(sizes), dice, 1)[0])
