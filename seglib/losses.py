"""Losses on logits, for data in which masks may be missing and pixels may be ignored.

Plain torch. Taught in `02_palm_training`.

A loss is any callable `loss(logits, target, annotated)` that returns a scalar tensor:

- `logits` (N, K, H, W), K classes.
- `target` uint8: (N, K, H, W) of 0 and 1 for the sigmoid tasks (binary, multilabel), (N, H, W) of
  class numbers for softmax (multiclass). Pixels of 255 are ignored: padding, and masks that do not
  exist.
- `annotated` (N, K) bool: whether the image has a mask of that class.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import tables
from .errors import TrainingError
from .tables import IGNORE


class MaskedLoss(nn.Module):
    """Base class of losses that are a weighted mean: `sum(weight * loss) / sum(weight)`.

    The denominator depends on the target only, so it can be summed over all micro-batches and
    processes *before* the first backward pass; the partial losses then add up exactly to the loss
    of the whole batch. A loss of your own defines `weight` and `summed`:

        class Brier(losses.MaskedLoss):
            def weight(self, target, annotated):
                return (target != 255).float()

            def summed(self, logits, target, weight):
                return (weight * (logits.sigmoid() - (target == 1).float()) ** 2).sum()
    """

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        """How much each pixel, or each image and class, counts."""
        raise NotImplementedError

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The numerator: the weighted sum of the losses, a scalar."""
        raise NotImplementedError

    def divisor(self, weight: Tensor) -> Tensor:
        """The denominator, a scalar."""
        return weight.sum()

    def total(self, target: Tensor, annotated: Tensor) -> Tensor:
        """The denominator of a batch, computed without its logits."""
        return self.divisor(self.weight(target, annotated))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        annotated: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            annotated: by default every image has a mask of every class.
            total: the denominator of a larger batch that contains this one; the result is then
                this batch's share in the loss of the larger one.
        """
        if annotated is None:
            annotated = logits.new_ones(logits.shape[:2], dtype=torch.bool)
        weight = self.weight(target, annotated)
        if total is None:
            total = self.divisor(weight)
        return self.summed(logits, target, weight) / total.clamp(min=1e-6)


class MaskedBCE(MaskedLoss):
    """Binary cross-entropy with logits in which a missing mask counts with a weight of its own.

    A class with a mask has weight 1. A class whose mask is missing has `missing_weight` and an
    empty target: 0 ignores it, 1 means "no mask, no lesion". Without missing masks the loss equals
    `nn.BCEWithLogitsLoss()`.

    Args:
        missing_weight: from 0 to 1.
        normalisation: "annotated" divides by the sum of the weights, so that the annotated classes
            keep their loss however many masks are missing; "plain" takes the mean of the weighted
            loss over all pixels, which shrinks with every missing mask.
    """

    def __init__(self, missing_weight: float = 0.0, normalisation: str = "annotated"):
        super().__init__()
        self.missing_weight = missing_weight
        self.normalisation = normalisation

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        has_truth = target != IGNORE  # (N, K, H, W)
        weight = has_truth.float()
        if self.missing_weight == 0:
            return weight
        # Padding is where no class has a truth. In an image without any mask it cannot be told
        # from the picture, so the whole image counts as inside.
        inside = has_truth.any(dim=1, keepdim=True)  # (N, 1, H, W)
        no_mask_at_all = ~inside.flatten(1).any(dim=1)  # (N,)
        inside = inside | no_mask_at_all[:, None, None, None]
        is_missing = ~annotated[:, :, None, None]  # (N, K, 1, 1)
        return torch.where(is_missing, inside * self.missing_weight, weight)

    def divisor(self, weight: Tensor) -> Tensor:
        if self.normalisation == "plain":
            return torch.tensor(float(weight.numel()), device=weight.device)
        return weight.sum()

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        truth = (target == 1).float()
        return F.binary_cross_entropy_with_logits(logits.float(), truth, weight, reduction="sum")


class DiceLoss(MaskedLoss):
    """1 - soft Dice of each image and class, averaged over those that have a mask (Milletari et
    al., 3DV 2016).

    For the softmax task the probabilities are compared with the one-hot truth, and the background
    is left out.

    Args:
        task: binary, multilabel or multiclass.
        smooth: added to numerator and denominator, so that the loss of an empty truth still rises
            with the false positives.
    """

    def __init__(self, task: str = "binary", smooth: float = 1.0):
        super().__init__()
        self.task = task
        self.smooth = smooth

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        if self.task == "multiclass":
            annotated = annotated[:, 1:]
        has_truth = self._has_truth(target).flatten(2).any(dim=2)  # (N, 1 or K)
        return has_truth * annotated.float()  # (N, K)

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        if self.task == "multiclass":
            prob = logits.float().softmax(dim=1)[:, 1:]
            labels = torch.where(target == IGNORE, 0, target).long()
            truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:]
        else:
            prob = logits.float().sigmoid()
            truth = target == 1
        has_truth = self._has_truth(target)
        prob, truth = prob * has_truth, truth * has_truth  # (N, K, H, W)
        overlap = (prob * truth).sum(dim=(2, 3))  # (N, K)
        sizes = prob.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        loss = 1 - (2 * overlap + self.smooth) / (sizes + self.smooth)
        return (loss * weight).sum()

    def _has_truth(self, target: Tensor) -> Tensor:
        """(N, 1, H, W) bool for softmax, otherwise (N, K, H, W)."""
        has_truth = target != IGNORE
        return has_truth[:, None] if self.task == "multiclass" else has_truth


class FocalLoss(MaskedLoss):
    """Softmax cross-entropy times (1 - p) ** gamma, p the probability of the true class (Lin et
    al., ICCV 2017)."""

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def weight(self, target: Tensor, annotated: Tensor) -> Tensor:
        return (target != IGNORE).float()

    def summed(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        options = {"ignore_index": IGNORE, "reduction": "none"}
        entropy = F.cross_entropy(logits.float(), target.long(), **options)  # (N, H, W)
        # 1 - p, kept above 0: there the gradient of a power below 1 would be infinite.
        wrong = (-torch.expm1(-entropy)).clamp(min=1e-6)
        return (wrong**self.gamma * entropy * weight).sum()


class CrossEntropy(FocalLoss):
    """Mean cross-entropy over the pixels that count: the focal loss with gamma 0."""

    def __init__(self):
        super().__init__(gamma=0.0)


class WeightedSum(nn.Module):
    """A weighted sum of two losses; its `total` is (2,), the denominators of both."""

    def __init__(
        self, first: MaskedLoss, second: MaskedLoss, weights: tuple[float, float] = (0.5, 0.5)
    ):
        super().__init__()
        self.first, self.second = first, second
        self.weights = weights

    def total(self, target: Tensor, annotated: Tensor) -> Tensor:
        losses = (self.first, self.second)
        return torch.stack([loss.total(target, annotated) for loss in losses])

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        annotated: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        totals = (None, None) if total is None else total
        first = self.first(logits, target, annotated, totals[0])
        second = self.second(logits, target, annotated, totals[1])
        return self.weights[0] * first + self.weights[1] * second


# ---- deep supervision


def enlarged(levels: Sequence[Tensor]) -> list[Tensor]:
    """The logits of a decoder's levels, all enlarged bilinearly to the size of the first.

    The alternative, which nnU-Net takes, is to reduce the target by nearest neighbour. At a stride
    of 8 that drops most lesions of a few pixels, so that the coarse levels would learn to predict
    background there, and it drops or spreads ignored pixels. With enlarged logits every labelled
    pixel counts once on every level, ignored pixels count on none, and the denominator of a loss,
    which depends on the target alone, is that of all levels.

    Args:
        levels: (N, K, H, W), then coarser ones (N, K, h, w), as a network with `deep_supervision`
            returns them.

    Raises:
        TrainingError: a member is no tensor of this shape.
    """
    fit = [isinstance(level, Tensor) and level.ndim == 4 for level in levels]
    if not fit or not all(fit) or len({level.shape[:2] for level in levels}) > 1:
        shapes = [tuple(getattr(level, "shape", ())) or type(level).__name__ for level in levels]
        raise TrainingError(
            f"model: in training mode the network returned a list of {shapes}; expected logits "
            "(N, K, H, W), or a list of such logits, the finest first"
        )
    sides = levels[0].shape[-2:]
    coarser = [F.interpolate(level, sides, mode="bilinear") for level in levels[1:]]
    return [levels[0], *coarser]


def mean_of_levels(values: Sequence[Tensor]) -> Tensor:
    """The weighted mean of the losses of a decoder's levels, the finest first.

    The weights are 1, 1/2, 1/4, ... divided by their sum, as in nnU-Net (Isensee et al., Nature
    Methods 2021).
    """
    weights = [0.5**level for level in range(len(values))]
    return sum(weight * value for weight, value in zip(weights, values)) / sum(weights)


# ---- the entries of `tables.LOSSES`; their parameters are names of settings


def bce() -> MaskedLoss:
    """Binary cross-entropy; classes without a mask are ignored."""
    return MaskedBCE()


def weighted_bce(
    missing_weight: float = 0.0, missing_normalisation: str = "annotated"
) -> MaskedLoss:
    """Binary cross-entropy in which a missing mask counts with `missing_weight`."""
    return MaskedBCE(missing_weight, missing_normalisation)


def combined(
    task: str = "binary",
    loss_weights: tuple[float, float] = (0.5, 0.5),
    missing_weight: float = 0.0,
    missing_normalisation: str = "annotated",
) -> WeightedSum:
    """Binary cross-entropy plus Dice loss, weighted."""
    bce = MaskedBCE(missing_weight, missing_normalisation)
    return WeightedSum(bce, DiceLoss(task), loss_weights)


def dice_focal(
    task: str = "multiclass",
    loss_weights: tuple[float, float] = (0.5, 0.5),
    focal_gamma: float = 2.0,
) -> WeightedSum:
    """Dice loss plus focal loss, weighted."""
    return WeightedSum(DiceLoss(task), FocalLoss(focal_gamma), loss_weights)


def build(name: str, task: str = "binary", **settings: Any) -> Callable:
    """The loss of that name in `tables.LOSSES`: `build("combined", "binary", loss_weights=(1, 1))`.

    Args:
        task: binary, multilabel or multiclass.
        settings: fields of `Config` by their names; those that this loss does not take are
            ignored.

    Raises:
        ValueError: a name that is not in the table.
    """
    if name not in tables.LOSSES:
        raise ValueError(f"loss: {name!r} is unknown; choose from {', '.join(tables.LOSSES)}")
    return tables.call(tables.LOSSES[name].build, {**settings, "task": task})
