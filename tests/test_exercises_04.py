"""Exercises of lesson 04: wrong answers that come close are told from right ones."""

import numpy as np
import pytest

from seglib.exercises import check


def noisy(image, std, seed):
    noise = np.random.default_rng(seed).normal(0, std, image.shape)
    return np.clip(np.rint(image + 255 * noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda *arguments: noisy(*arguments).astype(float), "type uint8"),
        (lambda image, std, seed: noisy(image, std / 255, seed), "by 255"),
        (lambda image, std, seed: noisy(image, std, seed + 1), "as the exercise says"),
    ],
)
def test_hints_of_the_noise(answer, words):
    assert check("04.2", noisy)
    assert words in check("04.2", answer).text


def gap(own, other, seed, redrawn=("own", "other"), ends=(2.5, 97.5)):
    """The answer; of a hospital that is not redrawn every resample holds each patient once."""
    rng, means = np.random.default_rng(seed), []
    for name, dice in (("own", own), ("other", other)):
        again = rng.choice(dice, (2000, len(dice)))
        means.append(again.mean(axis=1) if name in redrawn else dice.mean())
    return own.mean() - other.mean(), *np.percentile(means[0] - means[1], ends)


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_needs_the_patients_of_both_hospitals(seed):
    assert check("04.3", lambda own, other, _: gap(own, other, seed))
    for name in ("own", "other"):
        answer = check("04.3", lambda own, other, _, name=name: gap(own, other, seed, (name,)))
        assert "both hospitals" in answer.text
    assert "percentile" in check("04.3", lambda a, b, _: gap(a, b, seed, ends=(5, 95))).text
