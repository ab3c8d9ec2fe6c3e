"""Exercises of lesson 01: data preparation."""

from collections.abc import Callable, Sequence

import numpy as np

from . import answers

SLOPE, INTERCEPT = 0.5, -500.0
AIR_HU, WATER_HU = -1000.0, 0.0


@answers.exercise("01.1")
def anchors_of_another_scanner(answer) -> str | None:
    """Anchors of another scanner."""
    right = tuple((hu - INTERCEPT) / SLOPE for hu in (WATER_HU, AIR_HU))
    hint = "Put each raw value into slope * raw + intercept: water must give 0, air -1000."
    reversed_formula = tuple(SLOPE * hu + INTERCEPT for hu in (WATER_HU, AIR_HU))
    mistakes = {
        right[::-1]: "Both values are right, but water comes first.",
        reversed_formula: (
            "You put the HU in the place of the raw value. Which of the two do you look for?"
        ),
    }
    return answers.array(answer, right, hint, mistakes=mistakes)


@answers.exercise("01.2")
def area_in_cm2(answer) -> str | None:
    """How large is it?"""
    rng = np.random.default_rng(12)
    square = np.ones((10, 10), np.uint8)
    cases = [(square, (1.0, 1.0)), (square, (2.5, 1.0)), (np.zeros((4, 6), np.uint8), (0.7, 0.7))]
    for _ in range(4):
        mask = (rng.random(rng.integers(5, 30, 2)) < 0.4).astype(np.uint8)
        cases.append((mask, tuple(rng.uniform(0.3, 3, 2).tolist())))
    cases.append((square.astype(bool), [0.5, 0.5]))
    hint = "The area of one pixel is the distance of the rows times that of the columns."
    first = "A hundred pixels of 1 mm by 1 mm are one cm². Which unit does your function return?"
    return answers.function(answer, _area_in_cm2, cases, hint, hints=[first])


def _area_in_cm2(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    return float((mask > 0).sum() * spacing_mm[0] * spacing_mm[1] / 100)


@answers.exercise("01.3")
def patients_in_several_parts(answer) -> str | None:
    """Find the leak."""
    rng = np.random.default_rng(13)
    tables = [
        (["P1", "P1", "P2", "P3", "P3", "P4"], ["train", "test", "train", "val", "val", "test"]),
        (["a", "b", "c"], ["train", "val", "test"]),
        (["b", "a", "a", "b"], ["train", "train", "val", "test"]),
    ]
    for n_patients in (3, 8, 20):
        names = [f"P{number:02d}" for number in rng.integers(n_patients, size=24)]
        tables.append((names, rng.choice(["train", "val", "test"], 24).tolist()))
    for patients, parts in tables:
        problem = _compared(answer, patients, parts)
        if problem:
            return problem
    return None


def _compared(answer: Callable, patients: list[str], parts: list[str]) -> str | None:
    """The hint for what a function returns for one table; None where it is right."""
    right = sorted(_in_several_parts(patients, parts))
    result = answers.called(answer, patients, parts)
    if result is None or isinstance(result, str | dict):
        return "Your function has to return a list of names (does a `return` lack?)."
    result = [str(name) for name in result]
    if result == right:
        return None
    if sorted(set(result)) == right:
        return "These are the right patients. Return each of them once, and the list sorted."
    if set(result) >= set(patients) - set(right) and not set(result) & set(right):
        return "These are the patients who are in one part only; the others were asked for."
    if set(result) > set(right):
        return (
            "Too many: a patient with several images in the same part is no leak. "
            "Count different parts, not images."
        )
    return "Patients are missing: compare all pairs of parts, also training with validation."


def _in_several_parts(patients: list[str], parts: list[str]) -> set[str]:
    parts_of: dict[str, set[str]] = {}
    for patient, part in zip(patients, parts):
        parts_of.setdefault(patient, set()).add(part)
    return {patient for patient, own in parts_of.items() if len(own) > 1}
