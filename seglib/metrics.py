"""Scores from counts: true and false positives and negatives once, everything else reduced from them.

The rules for empty masks are those of the table in the README: empty truth and empty prediction is a Dice of 1, a
score whose fraction is 0/0 is not a number and left out, a mask that does not exist is never scored. Taught in `04`.
"""

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from .curves import HistogramROC as HistogramROC

IGNORE = 255
RATIOS = ("dice", "iou", "precision", "recall", "f1", "specificity", "accuracy")
LESS_IS_BETTER = ("bce", "hd95", "assd")


def counts(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, int]:
    """tp, fp, fn, tn of one class: `pred` and `truth` bool of one shape; pixels outside `valid` do not count.

    Raises:
        ValueError: the shapes differ.
    """
    pred, truth = np.asarray(pred, bool), np.asarray(truth, bool)
    if pred.shape != truth.shape:
        raise ValueError(f"prediction is {pred.shape} but truth is {truth.shape}; bring both to one grid first")
    if valid is not None:
        pred, truth = pred[valid], truth[valid]
    tp = int(np.count_nonzero(pred & truth))
    n_pred, n_true = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
    return {"tp": tp, "fp": n_pred - tp, "fn": n_true - tp, "tn": truth.size - n_pred - n_true + tp}


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Logits (N, K, H, W) -> float32 probabilities of the same shape: softmax for multiclass, else sigmoid."""
    return logits.float().softmax(dim=1) if task == "multiclass" else logits.float().sigmoid()


def decide(prob: Tensor, task: str, threshold: float | Tensor = 0.5) -> Tensor:
    """Probabilities (N, K, H, W) -> bool of the same shape: the likeliest class, or every class from its threshold."""
    if task != "multiclass":
        return prob >= threshold
    return torch.zeros_like(prob, dtype=torch.bool).scatter_(1, prob.argmax(dim=1, keepdim=True), True)


def as_mask(chosen: Tensor, task: str) -> np.ndarray:
    """One image of `decide`, (K, H, W) bool -> uint8 mask: (H, W) of 0/1 or class numbers, (K, H, W) for multilabel."""
    if task == "multiclass":
        return chosen.int().argmax(dim=0).cpu().numpy().astype(np.uint8)
    return (chosen if task == "multilabel" else chosen[0]).cpu().numpy().astype(np.uint8)


def batch_counts(pred: Tensor, target: Tensor, task: str) -> Tensor:
    """(N, K, 4) int64 tp, fp, fn, tn of each image and class, on the device of its arguments.

    `pred` (N, K, H, W) bool; `target` as the losses take it: (N, K, H, W), or (N, H, W) for multiclass; 255 = ignored.
    """
    if task == "multiclass":
        known = (target != IGNORE)[:, None]
        truth = target[:, None] == torch.arange(pred.shape[1], device=target.device)[:, None, None]
    else:
        known, truth = target != IGNORE, target == 1
    found, truth = pred & known, truth & known
    tp, n_pred, n_true = ((found & truth).sum((2, 3)), found.sum((2, 3)), truth.sum((2, 3)))
    total = known.sum((2, 3)).expand_as(tp)
    return torch.stack([tp, n_pred - tp, n_true - tp, total - n_pred - n_true + tp], dim=-1)


def ratios(tp, fp, fn, tn) -> dict[str, np.ndarray]:
    """Dice, IoU, precision, recall, F1, specificity and accuracy from counts (numbers or arrays of one shape).

    Where truth and prediction are empty, Dice and IoU are 1; precision, recall and specificity at 0/0 are NaN. F1 is
    the harmonic mean of precision and recall, which is the Dice of the same counts.
    """
    tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))

    def divide(above, below, empty):
        return np.where(below > 0, above / np.where(below > 0, below, 1), empty)

    dice = divide(2 * tp, 2 * tp + fp + fn, 1.0)
    return {
        "dice": dice,
        "iou": divide(tp, tp + fp + fn, 1.0),
        "precision": divide(tp, tp + fp, np.nan),
        "recall": divide(tp, tp + fn, np.nan),
        "f1": dice,
        "specificity": divide(tn, tn + fp, np.nan),
        "accuracy": divide(tp + tn, tp + fp + fn + tn, np.nan),
    }


def bce(prob: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Mean binary cross-entropy (nats) against a bool truth; probabilities are kept 1e-7 away from 0 and 1."""
    if valid is not None:
        prob, truth = prob[valid], truth[valid]
    right = np.maximum(np.where(truth, prob, 1 - prob), 1e-7)  # 1 - prob is exact in float32 above 0.5
    return float(np.maximum(-np.log(right), 1e-7).mean(dtype=np.float64)) if prob.size else float("nan")


def surface_distances(
    pred: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...] | None = None, tolerance: float = 2.0
) -> dict[str, float]:
    """HD95, average symmetric surface distance and surface Dice (NSD) of two bool masks of one shape, 2-D or 3-D.

    The boundary is the mask minus its erosion by a cross (the frame's edge counts as outside). HD95 is the larger of
    the two directed 95th percentiles. Units are those of `spacing` (per axis), pixels without it; `tolerance` of the
    NSD is in the same unit. Both empty: 0, 0, 1. One empty: the diagonal of the frame, NSD 0.
    """
    spacing = tuple(spacing or (1.0,) * pred.ndim)
    if not pred.any() and not truth.any():
        return {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    if not pred.any() or not truth.any():
        diagonal = float(np.linalg.norm(np.array(pred.shape) * spacing))
        return {"hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    # the union's box holds both boundaries: the distances stay exact and cost far less
    axes = [np.flatnonzero((pred | truth).any(axis=tuple(set(range(pred.ndim)) - {axis}))) for axis in range(pred.ndim)]
    box = tuple(slice(found[0], found[-1] + 1) for found in axes)
    edges = [_boundary(mask[box]) for mask in (pred, truth)]
    if 10 * sum(np.count_nonzero(edge) for edge in edges) < edges[0].size:  # few points: a tree is faster than a map
        points = [np.argwhere(edge) * spacing for edge in edges]
        there, back = (cKDTree(points[a], balanced_tree=False).query(points[1 - a])[0] for a in (1, 0))
    else:
        far = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
        there, back = far[1][edges[0]], far[0][edges[1]]  # prediction -> truth, truth -> prediction
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd": float((there.sum() + back.sum()) / (there.size + back.size)),
        "nsd": float(((there <= tolerance).sum() + (back <= tolerance).sum()) / (there.size + back.size)),
    }


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The mask minus its erosion by a cross; what lies outside of the array is not mask."""
    middle = (slice(1, -1),) * mask.ndim
    inside = np.zeros_like(mask)
    inside[middle] = mask[middle]
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            inside[middle] &= mask[(*middle[:axis], side, *middle[axis + 1 :])]
    return mask & ~inside
