"""Scores from counts: true and false positives and negatives once, everything else reduced from them.

The rules for empty masks are those of the table in the README: empty truth and empty prediction is a Dice of 1, a
score whose fraction is 0/0 is not a number and left out, a mask that does not exist is never scored. Taught in `04`.
"""

import math

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from .curves import HistogramROC as HistogramROC

IGNORE = 255
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
RATIOS = ("dice", "iou", "precision", "recall", "f1", "specificity", "accuracy")
LESS_IS_BETTER = ("bce", "hd95", "assd")


def counts(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, int]:
    """tp, fp, fn, tn of one class: `pred` and `truth` bool of one shape; pixels outside `valid` do not count.

    Raises:
        ValueError: the shapes differ.
    """
    pred, truth = np.asarray(pred, bool), np.asarray(truth, bool)
    if pred.shape != truth.shape:
        raise ValueError(
            f"prediction is {pred.shape} but truth is {truth.shape}; bring both to one grid first"
        )
    if valid is not None:
        pred, truth = pred[valid], truth[valid]
    tp = int(np.count_nonzero(pred & truth))
    n_pred, n_true = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
    return {"tp": tp, "fp": n_pred - tp, "fn": n_true - tp, "tn": truth.size - n_pred - n_true + tp}


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Logits (N, K, H, W) -> float32 probabilities of the same shape: softmax for multiclass, else sigmoid."""
    return logits.float().softmax(dim=1) if task == "multiclass" else logits.float().sigmoid()


def to_one_hot(prob: Tensor, task: str, threshold: float | Tensor = 0.5) -> Tensor:
    """Probabilities (N, K, H, W) -> bool of the same shape: the likeliest class, or every class from its threshold."""
    if task != "multiclass":
        return prob >= threshold
    return torch.zeros_like(prob, dtype=torch.bool).scatter_(
        1, prob.argmax(dim=1, keepdim=True), True
    )


def to_label_map(chosen: Tensor, task: str) -> np.ndarray:
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
    right = np.maximum(
        np.where(truth, prob, 1 - prob), 1e-7
    )  # 1 - prob is exact in float32 above 0.5
    return (
        float(np.maximum(-np.log(right), 1e-7).mean(dtype=np.float64))
        if prob.size
        else float("nan")
    )


def surface_distances(
    pred: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...] | None = None,
    tolerance: float = 2.0,
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
    box = box_of(pred | truth)  # holds both boundaries: the distances stay exact and cost far less
    there, back = _nearest(*(_boundary(mask[box]) for mask in (pred, truth)), spacing)
    return {
        "hd95": max(_percentile(there, 95), _percentile(back, 95)),
        "assd": float((there.sum() + back.sum()) / (there.size + back.size)),
        "nsd": float(
            ((there <= tolerance).sum() + (back <= tolerance).sum()) / (there.size + back.size)
        ),
    }


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask which is not empty."""
    box = ()
    for axis in range(mask.ndim):  # each axis looks only into what the ones before have left
        held = np.flatnonzero(mask[box].any(axis=tuple(set(range(mask.ndim)) - {axis})))
        box += (slice(held[0], held[-1] + 1),)
    return box


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The mask minus its erosion by a cross; what lies outside of the array is not mask."""
    if mask.ndim != 2:
        return mask & ~ndimage.binary_erosion(mask)
    pixels = np.ascontiguousarray(mask).view(
        np.uint8
    )  # OpenCV is fifty times faster, but only in 2-D
    return mask & ~cv2.erode(pixels, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(
        bool
    )


def _nearest(
    first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel of a bool mask the distance to the nearest of another, and back; by the fastest exact way."""
    shape, found = first.shape, [np.flatnonzero(mask) for mask in (first, second)]
    points = [np.stack(np.unravel_index(flat, shape), axis=1) for flat in found]
    pairs, diagonal = len(points[0]) * len(points[1]), float(np.linalg.norm(shape))
    if (
        set(spacing) == {1.0} and pairs < 4_000_000 and diagonal < 4096
    ):  # squares stay whole numbers below 2 ** 24
        return _nearest_of_all(*points, shape)
    if 10 * sum(map(len, points)) < first.size:  # few points: a tree is faster than a map
        there, back = (
            cKDTree(points[a] * spacing, balanced_tree=False).query(points[1 - a] * spacing)[0]
            for a in (1, 0)
        )
        return there, back
    far = [ndimage.distance_transform_edt(~mask, sampling=spacing) for mask in (first, second)]
    return far[1].ravel()[found[0]], far[0].ravel()[found[1]]


def _nearest_of_all(
    a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same for points (n, axes) of whole numbers: |a|^2 + |b|^2 - 2ab of all pairs, as one matrix product."""
    a, b = ((points - np.array(shape) // 2).astype(np.float32) for points in (a, b))
    left = np.column_stack([a, (a * a).sum(axis=1), np.ones(len(a), np.float32)])
    right = np.vstack([-2 * b.T, np.ones(len(b), np.float32), (b * b).sum(axis=1)])
    there, back = np.empty(len(a), np.float32), np.full(len(b), np.inf, np.float32)
    for start in range(0, len(a), 64):  # few rows at a time stay in the processor's cache
        square = left[start : start + 64] @ right
        square.min(axis=1, out=there[start : start + 64])
        np.minimum(back, square.min(axis=0), out=back)
    return np.sqrt(there, dtype=np.float64), np.sqrt(back, dtype=np.float64)


def _percentile(values: np.ndarray, percent: float) -> float:
    """As `np.percentile` (linear between ranks), at a tenth of its fixed cost."""
    rank = percent / 100 * (len(values) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + (rank - low) * (ordered[high] - ordered[low]))
