"""Scores of masks: count true and false positives and negatives once, compute the scores from them.

`tables.METRICS` names every score. The rules for empty masks are those of `docs/scoring.md`: Dice
is 1 where truth and prediction are both empty; a score whose fraction is 0/0 is NaN and left out of
means; a mask that does not exist is never scored. Taught in `04_lung_segmentation` and
`07_evaluation`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from . import tables
from .curves import HistogramROC as HistogramROC
from .curves import divide
from .tables import IGNORE

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def names(*sources: str) -> list[str]:
    """The metrics of these sources (by default of all), in the order of `tables.METRICS`."""
    entries = tables.METRICS.items()
    return [name for name, metric in entries if not sources or metric.source in sources]


def less_is_better(name: str) -> bool:
    """Whether a column of `Report.per_image` is a metric whose best value is its lowest."""
    return name in tables.METRICS and tables.METRICS[name].less_is_better


def rewards_absence(name: str) -> bool:
    """Whether a metric is at its best where truth and prediction are both empty, as Dice is."""
    entry = tables.METRICS.get(name)
    if entry is None or entry.source != "counts":
        return name in names("distances")
    with np.errstate(all="ignore"):
        score = tables.load(entry.compute)(*np.zeros((4, 1)))
    return bool(np.isfinite(score).all())


# ---- counts


def counts(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, int]:
    """True and false positives and negatives of one class: tp, fp, fn, tn.

    Args:
        pred, truth: bool, of one shape.
        valid: bool of that shape; pixels outside do not count.

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


def batch_counts(pred: Tensor, target: Tensor, task: str) -> Tensor:
    """(N, K, 4) int64 tp, fp, fn, tn of each image and class, on the device of its arguments.

    Args:
        pred: (N, K, H, W) bool.
        target: as the losses take it, (N, K, H, W), or (N, H, W) for multiclass; 255 = ignored.
    """
    if task == "multiclass":
        valid = (target != IGNORE)[:, None]
        truth = target[:, None] == torch.arange(pred.shape[1], device=target.device)[:, None, None]
    else:
        valid, truth = target != IGNORE, target == 1
    pred, truth = pred & valid, truth & valid
    tp, n_pred, n_true = (mask.sum((2, 3)) for mask in (pred & truth, pred, truth))
    n_valid = valid.sum((2, 3)).expand_as(tp)
    return torch.stack([tp, n_pred - tp, n_true - tp, n_valid - n_pred - n_true + tp], dim=-1)


def ratios(tp, fp, fn, tn) -> dict[str, np.ndarray]:
    """Every metric of counts, such as Dice and IoU, from numbers or arrays of one shape."""
    return tables.scores("counts", *(np.asarray(count, np.float64) for count in (tp, fp, fn, tn)))


def dice(tp, fp, fn, tn) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), also called F1; 1 where both masks are empty."""
    return divide(2 * tp, 2 * tp + fp + fn, empty=1.0)


def iou(tp, fp, fn, tn) -> np.ndarray:
    """Intersection over union, TP / (TP + FP + FN); 1 where both masks are empty."""
    return divide(tp, tp + fp + fn, empty=1.0)


def precision(tp, fp, fn, tn) -> np.ndarray:
    """Share of the predicted pixels that are right; NaN where nothing was predicted."""
    return divide(tp, tp + fp, empty=np.nan)


def recall(tp, fp, fn, tn) -> np.ndarray:
    """Share of the true pixels that were predicted; NaN where the truth is empty."""
    return divide(tp, tp + fn, empty=np.nan)


def specificity(tp, fp, fn, tn) -> np.ndarray:
    """Share of the pixels outside the truth that were not predicted; NaN if there are none."""
    return divide(tn, tn + fp, empty=np.nan)


def accuracy(tp, fp, fn, tn) -> np.ndarray:
    """Share of the pixels that are right; NaN where no pixel counts."""
    return divide(tp + tn, tp + fp + fn + tn, empty=np.nan)


# ---- probabilities


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Logits (N, K, H, W) -> float32 probabilities: softmax for multiclass, else sigmoid."""
    return logits.float().softmax(dim=1) if task == "multiclass" else logits.float().sigmoid()


def to_one_hot(prob: Tensor, task: str, threshold: float | Tensor = 0.5) -> Tensor:
    """Probabilities (N, K, H, W) -> bool: the likeliest class, or each class from its threshold."""
    if task != "multiclass":
        return prob >= threshold
    winner = prob.argmax(dim=1, keepdim=True)
    return torch.zeros_like(prob, dtype=torch.bool).scatter_(1, winner, True)


def to_label_map(one_hot: Tensor, task: str) -> np.ndarray:
    """One image of `to_one_hot`, (K, H, W) bool -> uint8 mask.

    (H, W) of class numbers for multiclass, (K, H, W) of 0/1 for multilabel, (H, W) of 0/1 for
    binary.
    """
    if task == "multiclass":
        mask = one_hot.int().argmax(dim=0)
    else:
        mask = one_hot if task == "multilabel" else one_hot[0]
    return mask.cpu().numpy().astype(np.uint8)


def probability_scores(
    prob: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None
) -> dict[str, float]:
    """Every metric of probabilities in [0, 1] and a bool truth; only pixels in `valid` count."""
    return tables.scores("probabilities", prob, truth, valid)


def bce(prob: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Mean binary cross-entropy in nats, with probabilities kept 1e-7 away from 0 and 1."""
    if valid is not None:
        prob, truth = prob[valid], truth[valid]
    if not prob.size:
        return float("nan")
    likelihood = np.where(truth, prob, 1 - prob)  # 1 - prob is exact in float32 above 0.5
    losses = -np.log(np.maximum(likelihood, 1e-7))
    # The loss at a likelihood of 1 - 1e-7 is 1e-7.
    return float(np.maximum(losses, 1e-7).mean(dtype=np.float64))


# ---- connected components


def components(pred: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """How many connected components two masks have, and how many of them meet.

    Voxels that share a face (pixels that share an edge) are connected.

    Args:
        pred, truth: bool of one shape, 2-D or 3-D.

    Returns:
        components_true, components_pred; components_found: components of the truth of which at
        least one voxel was predicted; components_false: components of the prediction without any
        voxel of the truth.
    """
    (labels_true, n_true), (labels_pred, n_pred) = (ndimage.label(mask) for mask in (truth, pred))
    both = pred & truth
    return {
        "components_true": n_true,
        "components_pred": n_pred,
        "components_found": len(np.unique(labels_true[both])),
        "components_false": n_pred - len(np.unique(labels_pred[both])),
    }


# ---- distances


class SurfaceDistances(NamedTuple):
    """Distances between the boundaries of two masks, in the unit of the spacing.

    `to_truth` (n,) float64: from each boundary pixel of the prediction to the nearest of the truth;
    `to_pred`: the other way. The surface Dice counts distances up to `tolerance` as right.
    """

    to_truth: np.ndarray
    to_pred: np.ndarray
    tolerance: float

    @property
    def n(self) -> int:
        """Number of boundary pixels of both masks."""
        return self.to_truth.size + self.to_pred.size


def hd95(distances: SurfaceDistances) -> float:
    """95th percentile of the Hausdorff distance: the larger of the two directed percentiles."""
    return max(_percentile(distances.to_truth, 95), _percentile(distances.to_pred, 95))


def assd(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean over the boundary pixels of both masks."""
    return float((distances.to_truth.sum() + distances.to_pred.sum()) / distances.n)


def nsd(distances: SurfaceDistances) -> float:
    """Surface Dice: share of both boundaries that lies within the tolerance of the other one."""
    close = [side <= distances.tolerance for side in (distances.to_truth, distances.to_pred)]
    return float((close[0].sum() + close[1].sum()) / distances.n)


def surface_distances(
    pred: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...] | None = None,
    tolerance: float = 2.0,
    longest: float | None = None,
) -> dict[str, float]:
    """Every metric of distances: HD95, average symmetric surface distance, surface Dice (NSD).

    The boundary is the mask minus its erosion by a cross (the frame's edge counts as outside). Both
    masks empty: the best value of each metric. One empty: its worst, which for distances is the
    diagonal of the frame.

    Args:
        pred, truth: bool of one shape, 2-D or 3-D.
        spacing: size of a pixel along each axis; 1 without it.
        tolerance: of the surface Dice, in the unit of the spacing.
        longest: the diagonal of the frame, where it is known.
    """
    spacing = tuple(spacing or (1.0,) * pred.ndim)
    entries = {name: tables.METRICS[name] for name in names("distances")}
    if not pred.any() and not truth.any():
        return {name: metric.best for name, metric in entries.items()}
    if not pred.any() or not truth.any():
        longest = diagonal(pred.shape, spacing) if longest is None else longest
        return {name: min(metric.worst, longest) for name, metric in entries.items()}
    box = box_of(pred | truth)  # holds both boundaries: exact, and far less work than the frame
    boundaries = [_boundary(mask[box]) for mask in (pred, truth)]
    return tables.scores("distances", SurfaceDistances(*_nearest(*boundaries, spacing), tolerance))


def diagonal(shape: Sequence[int], spacing: Sequence[float] | None = None) -> float:
    """The diagonal of a frame, in the unit of the spacing (1 without it): no distance in it is
    longer."""
    return float(np.linalg.norm(np.multiply(shape, spacing or 1.0)))


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask which is not empty."""
    box = ()
    for axis in range(mask.ndim):
        others = tuple(set(range(mask.ndim)) - {axis})
        filled = np.flatnonzero(mask[box].any(axis=others))  # `box` bounds the axes before this one
        box += (slice(filled[0], filled[-1] + 1),)
    return box


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The mask minus its erosion by a cross; what lies outside of the array is not mask."""
    if mask.ndim != 2:
        return mask & ~ndimage.binary_erosion(mask)
    pixels = np.ascontiguousarray(mask).view(np.uint8)  # OpenCV: fifty times faster, but only 2-D
    inside = cv2.erode(pixels, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & ~inside.view(bool)


def _nearest(
    first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from each pixel of a bool mask to the nearest of the other, and the other way.

    All three ways are exact; which is fastest depends on the number of pixels.
    """
    shape = first.shape
    flat_a, flat_b = np.flatnonzero(first), np.flatnonzero(second)
    a, b = (np.stack(np.unravel_index(flat, shape), axis=1) for flat in (flat_a, flat_b))
    few_pairs = len(a) * len(b) < 4_000_000
    small = float(np.linalg.norm(shape)) < 4096  # squared distances are exact below 2 ** 24
    if set(spacing) == {1.0} and few_pairs and small:
        return _nearest_of_all(a, b, shape)
    if 10 * (len(a) + len(b)) < first.size:
        a, b = a * spacing, b * spacing
        tree_a, tree_b = (cKDTree(points, balanced_tree=False) for points in (a, b))
        return tree_b.query(a)[0], tree_a.query(b)[0]
    to_first, to_second = (
        ndimage.distance_transform_edt(~mask, sampling=spacing) for mask in (first, second)
    )
    return to_second.ravel()[flat_a], to_first.ravel()[flat_b]


def _nearest_of_all(
    a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """`_nearest` for points (n, axes) of whole numbers and spacing 1, by comparing all pairs.

    The squared distances |a|^2 + |b|^2 - 2ab are one matrix product.
    """
    # Centred, as small numbers keep the squares exact in float32.
    a, b = ((points - np.array(shape) // 2).astype(np.float32) for points in (a, b))
    left = np.column_stack([a, (a * a).sum(axis=1), np.ones(len(a), np.float32)])
    right = np.vstack([-2 * b.T, np.ones(len(b), np.float32), (b * b).sum(axis=1)])
    to_b, to_a = np.empty(len(a), np.float32), np.full(len(b), np.inf, np.float32)
    for start in range(0, len(a), 64):  # few rows at a time stay in the processor's cache
        square = left[start : start + 64] @ right
        square.min(axis=1, out=to_b[start : start + 64])
        np.minimum(to_a, square.min(axis=0), out=to_a)
    return np.sqrt(to_b, dtype=np.float64), np.sqrt(to_a, dtype=np.float64)


def _percentile(values: np.ndarray, percent: float) -> float:
    """As `np.percentile` (linear between ranks), at a tenth of its fixed cost."""
    rank = percent / 100 * (len(values) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + (rank - low) * (ordered[high] - ordered[low]))
