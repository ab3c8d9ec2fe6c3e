"""The checks of lesson 03: right answers, and the hint for each usual mistake."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seglib.exercises import check


def mirror(mask):
    result = np.fliplr(mask)
    return np.where(result == 3, 4, np.where(result == 4, 3, result))


def lossy(mask):
    result = np.fliplr(mask).copy()
    result[result == 3] = 4
    result[result == 4] = 3
    return result


def test_focal_factor_is_that_of_torch():
    logits = torch.tensor([[0.0, np.log(4.0)]])  # softmax: 0.2 and 0.8
    entropy = F.cross_entropy(logits, torch.tensor([1]))
    focal = (1 - torch.exp(-entropy)) ** 2 * entropy
    assert check("03.1", float(entropy / focal))
    assert check("03.1", 25)


@pytest.mark.parametrize(
    "answer, words",
    [(0.04, "weight"), (5, "exponent"), (1.5625, "1 - p"), (7, "logarithm"), ("25", "number")],
)
def test_hints_of_the_factor(answer, words):
    verdict = check("03.1", answer)
    assert not verdict and words in verdict.text


def test_loss_of_parts():
    assert check("03.2", lambda losses, sizes: np.dot(losses, sizes) / sum(sizes))
    assert "one image" in check("03.2", lambda losses, sizes: np.mean(losses)).text
    assert "between" in check("03.2", lambda losses, sizes: sum(losses)).text
    assert "failed" in check("03.2", lambda losses: 0).text


@pytest.mark.parametrize(
    "answer, words",
    [
        (np.fliplr, "old name"),
        (lambda mask: np.fliplr(mirror(mask)), "not mirrored"),
        (lambda mask: mirror(mask)[::-1, ::-1], "columns"),
        (lossy, "lost"),
        (lambda mask: mask, "change places"),
        (lambda mask: mirror(mask)[:, 1:], "shape"),
        (3, "function"),
        (None, "function"),
    ],
)
def test_hints_of_the_mirror(answer, words):
    verdict = check("03.3", answer)
    assert not verdict and words in verdict.text


def test_mirror():
    assert check("03.3", mirror)
    assert "no answer yet" in check("03.3", ...).text
