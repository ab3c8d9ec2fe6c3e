"""Losses on logits that know which masks exist and which pixels count. Plain torch. Taught in `04_lung_segmentation`.

All take logits (N, K, H, W), a target and `annotated` (N, K) bool. The target is (N, K, H, W) of 0, 1 and 255 for the
sigmoid tasks, (N, H, W) of class numbers and 255 for softmax. 255 = ignored: a pixel of padding, or of a mask that
does not exist.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import tables

IGNORE = 255


class MaskedLoss(nn.Module):
    """A sum over what counts, divided by how much counts. The divisor, `total`, depends on the target alone: where a
    batch comes in pieces, on several processes or one after the other, the totals of all pieces are added up first, and
    the losses of the pieces add up to the loss of the whole batch."""

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        """How much each pixel, or each image and class, counts."""
        raise NotImplementedError

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The weighted loss before the division."""
        raise NotImplementedError

    def divisor(self, weight: Tensor) -> Tensor:
        """How much counts in all, a number."""
        return weight.sum()

    def total(self, target: Tensor, annotated: Tensor) -> Tensor:
        """The divisor of a batch, without its logits."""
        return self.divisor(self.weight(target, annotated))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        annotated: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; with `total`, this batch's share in the loss of a larger one."""
        if annotated is None:
            annotated = logits.new_ones(logits.shape[:2], dtype=torch.bool)
        weight = self.weight(target, annotated)
        total = self.divisor(weight) if total is None else total
        return self.summed(logits, target, weight) / total.clamp(min=1e-6)


class MaskedBCE(MaskedLoss):
    """Binary cross-entropy with logits where each (image, class) counts only as far as its mask is known.

    A class with a mask has weight 1. A class whose mask is missing has `missing_weight` and an empty target: 0 ignores
    it, 1 says "no mask means no lesion". `normalisation="annotated"` divides by the sum of the weights, so that the
    annotated classes keep their loss however many masks are missing; `"plain"` takes the mean over all pixels of the
    weighted loss, which shrinks with every missing mask. Without missing masks both equal
    `nn.BCEWithLogitsLoss()`.
    """

    def __init__(self, missing_weight: float = 0.0, normalisation: str = "annotated"):
        super().__init__()
        self.missing_weight, self.normalisation = missing_weight, normalisation

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        known = target != IGNORE  # (N, K, H, W)
        weight = known.to(torch.float32)
        if self.missing_weight > 0:
            inside = known.any(dim=1, keepdim=True)  # padding is unknown in every class
            inside = (
                inside | ~inside.flatten(1).any(dim=1)[:, None, None, None]
            )  # no mask at all: nothing tells
            weight = torch.where(~annotated[:, :, None, None], inside * self.missing_weight, weight)
        return weight

    def divisor(self, weight: Tensor) -> Tensor:
        plain = self.normalisation == "plain"
        return torch.tensor(float(weight.numel()), device=weight.device) if plain else weight.sum()

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits.float(), (target == 1).float(), weight, reduction="sum"
        )


class DiceLoss(MaskedLoss):
    """1 - soft Dice of each image and class, averaged over those that have a mask (Milletari et al., 3DV 2016).

    `smooth` stands above and below the fraction, so that an empty truth still punishes false positives. For softmax
    tasks the probabilities are compared with the one-hot truth and the background is left out.
    """

    def __init__(self, task: str = "binary", smooth: float = 1.0):
        super().__init__()
        self.task, self.smooth = task, smooth

    def _known(self, target: Tensor) -> Tensor:
        return (
            (target != IGNORE)[:, None] if self.task == "multiclass" else target != IGNORE
        )  # (N, 1 or K, H, W)

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        annotated = annotated[:, 1:] if self.task == "multiclass" else annotated
        return self._known(target).flatten(2).any(dim=2) * annotated.float()  # (N, K)

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        if self.task == "multiclass":
            prob = logits.float().softmax(dim=1)[:, 1:]
            truth = F.one_hot(
                torch.where(target == IGNORE, 0, target).long(), logits.shape[1]
            ).movedim(-1, 1)[:, 1:]
        else:
            prob, truth = logits.float().sigmoid(), target == 1
        known = self._known(target)
        prob, truth = prob * known, truth * known
        overlap = (prob * truth).sum(dim=(2, 3))  # (N, K)
        total = prob.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        loss = 1 - (2 * overlap + self.smooth) / (total + self.smooth)
        return (loss * weight).sum()


class FocalLoss(MaskedLoss):
    """Softmax cross-entropy times (1 - p) ** gamma, p the probability of the true class (Lin et al., ICCV 2017)."""

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        return (target != IGNORE).float()

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        entropy = F.cross_entropy(
            logits.float(), target.long(), ignore_index=IGNORE, reduction="none"
        )  # (N, H, W)
        wrong = (-torch.expm1(-entropy)).clamp(
            min=1e-6
        )  # 1 - p; at 0 a power below 1 has no gradient
        return (wrong**self.gamma * entropy * weight).sum()


class CrossEntropy(FocalLoss):
    """Mean cross-entropy over the pixels that count: the focal loss without focus."""

    def __init__(self):
        super().__init__(gamma=0.0)


class WeightedSum(nn.Module):
    """A weighted sum of two losses; its `total` is that of both, (2,)."""

    def __init__(
        self, first: MaskedLoss, second: MaskedLoss, weights: tuple[float, float] = (0.5, 0.5)
    ):
        super().__init__()
        self.first, self.second, self.weights = first, second, weights

    def total(self, target: Tensor, annotated: Tensor) -> Tensor:
        return torch.stack(
            [self.first.total(target, annotated), self.second.total(target, annotated)]
        )

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        annotated: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        of = (None, None) if total is None else total
        first, second = (
            loss(logits, target, annotated, t) for loss, t in zip((self.first, self.second), of)
        )
        return self.weights[0] * first + self.weights[1] * second


def bce() -> nn.Module:
    """Binary cross-entropy; classes without a mask are ignored."""
    return MaskedBCE()


def weighted_bce(
    missing_weight: float = 0.0, missing_normalisation: str = "annotated"
) -> nn.Module:
    """Binary cross-entropy in which a missing mask counts with `missing_weight`."""
    return MaskedBCE(missing_weight, missing_normalisation)


def combined(
    task: str = "binary",
    loss_weights: tuple[float, float] = (0.5, 0.5),
    missing_weight: float = 0.0,
    missing_normalisation: str = "annotated",
) -> nn.Module:
    """Binary cross-entropy plus Dice loss, weighted."""
    bce = MaskedBCE(missing_weight, missing_normalisation)
    return WeightedSum(bce, DiceLoss(task), loss_weights)


def dice_focal(
    task: str = "multiclass",
    loss_weights: tuple[float, float] = (0.5, 0.5),
    focal_gamma: float = 2.0,
) -> nn.Module:
    """Dice loss plus focal loss, weighted."""
    return WeightedSum(DiceLoss(task), FocalLoss(focal_gamma), loss_weights)


def build(name: str, task: str = "binary", **settings: Any) -> Callable:
    """The loss of that name in `tables.LOSSES`: `build("combined", "binary", loss_weights=(1, 1))`.

    Args:
        task: binary, multilabel or multiclass.
        settings: fields of `Config` by their names; those that this loss has no parameter for are left out.

    Raises:
        ValueError: a name that is not in the table.
    """
    if name not in tables.LOSSES:
        raise ValueError(f"loss: {name!r} is unknown; choose from {', '.join(tables.LOSSES)}")
    return tables.call(tables.LOSSES[name].build, {**settings, "task": task})
