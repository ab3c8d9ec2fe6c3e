"""Exercises of lesson 07: evaluation."""

import itertools

import numpy as np

from .. import metrics
from . import answers
from .answers import exercise

# Two patients: three images with a small lesion, and one image with a large one.
PATIENTS = np.array([0, 0, 0, 1])
TP, FP, FN = np.array([10, 10, 10, 90]), np.array([10, 10, 10, 10]), np.array([10, 10, 10, 10])


@exercise("07.1")
def averages(answer):
    """Three averages of one table"""
    right = _averages()
    hint = (
        "Compute the Dice of each row first. Then: the mean of all rows; the mean of the means of "
        "both patients; and for the last one sum tp, fp and fn before you compute one Dice."
    )
    other_order = "These are the three numbers, in another order: per image, per patient, pooled."
    mistakes = dict.fromkeys(itertools.permutations(right), other_order)
    return answers.array(answer, right, hint, tolerance=0.006, mistakes=mistakes)


def _averages() -> list[float]:
    dice = metrics.dice(TP, FP, FN, 0)
    of_patients = [dice[PATIENTS == patient].mean() for patient in np.unique(PATIENTS)]
    pooled = metrics.dice(TP.sum(), FP.sum(), FN.sum(), 0)
    return [float(dice.mean()), float(np.mean(of_patients)), float(pooled)]


@exercise("07.2")
def precision_from_rates(answer):
    """Precision from sensitivity, specificity and the share of the class"""
    cases = [(0.9, 0.9, 0.5), (0.9, 0.9, 0.01), (1.0, 0.5, 0.25)]
    rng = np.random.default_rng(72)
    cases += [tuple(rng.uniform([0.2, 0.5, 0.001], [1, 1, 0.6]).tolist()) for _ in range(5)]
    hint = (
        "Think of one pixel out of all: with which chance is it a true positive, and with which a "
        "false positive? Precision is the first divided by the sum of both."
    )
    mistakes = {
        _without_share: (
            "This does not depend on the share. Each rate counts within its own group of pixels, "
            "the class or the background: how many of all pixels does each group have?"
        ),
        _with_specificity: (
            "The specificity is the share of the background that was left alone. Which share of "
            "it was marked?"
        ),
    }
    return answers.function(answer, _precision, cases, hint, mistakes=mistakes)


def _precision(sensitivity: float, specificity: float, share: float) -> float:
    true_positive, false_positive = sensitivity * share, (1 - specificity) * (1 - share)
    return true_positive / (true_positive + false_positive)


def _without_share(sensitivity: float, specificity: float, share: float) -> float:
    return sensitivity / (sensitivity + 1 - specificity)


def _with_specificity(sensitivity: float, specificity: float, share: float) -> float:
    return _precision(sensitivity, 1 - specificity, share)


@exercise("07.3")
def bootstrap_of_patients(answer):
    """Means of resamples that draw patients, with all of their images"""
    rng = np.random.default_rng(73)
    cases = []
    for n_patients in (3, 5, 8):
        n_images = rng.integers(1, 5, n_patients)
        n_images[0] = 6  # so that the numbers of images differ in every case
        patients = rng.permutation(np.repeat(np.arange(n_patients), n_images))
        drawn = rng.integers(0, n_patients, (20, n_patients))
        cases.append((rng.uniform(0, 1, len(patients)), patients, drawn))
    hint = (
        "Take one row of `drawn`: collect the scores of all images of each patient in it, twice "
        "for a patient who is drawn twice, and return their mean. One mean for each row."
    )
    mistakes = {
        _means_of_means: (
            "This is the mean of the patients' means. The score of this exercise is the mean over "
            "images, so a patient with more images counts for more."
        )
    }
    return answers.function(answer, _means, cases, hint, mistakes=mistakes)


def _means(scores: np.ndarray, patients: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    sums, sizes = np.bincount(patients, scores), np.bincount(patients)
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)


def _means_of_means(scores: np.ndarray, patients: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (np.bincount(patients, scores) / np.bincount(patients))[drawn].mean(axis=1)
