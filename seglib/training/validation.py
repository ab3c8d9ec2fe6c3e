"""The scores of the validation part after an epoch, and which epoch is the best."""

import math
from typing import Any

import numpy as np
import torch

from .. import metrics
from .state import Training, TrainingState

# With fewer validation images the monitor is smoothed over epochs, as single values jump.
SMALL_VALIDATION = 50


@torch.no_grad()
def validate(training: Training) -> dict[str, float]:
    """Mean loss, mean Dice and pixel accuracy of the validation part, over all processes."""
    cfg, accelerator = training.cfg, training.accelerator
    training.model.eval()
    gathered: dict[str, list] = {"loss": [], "counts": [], "annotated": [], "index": []}
    for batch in training.val:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        logits = training.model(image)  # (N, K, H, W)
        loss = training.loss(logits, batch["mask"], batch["annotated"])
        prob = metrics.probabilities(logits, cfg.task)
        pred = metrics.to_one_hot(prob, cfg.task, cfg.threshold)
        counts = metrics.batch_counts(pred, batch["mask"], cfg.task)  # (N, K, 4): tp, fp, fn, tn
        # One row per image or tile, as `gather_for_metrics` drops those that only fill up the last
        # batch.
        of_batch = (loss.repeat(len(image)), counts, batch["annotated"], batch["index"])
        for values, tensor in zip(gathered.values(), accelerator.gather_for_metrics(of_batch)):
            values.append(tensor.cpu().numpy())
    if not gathered["loss"]:
        return dict.fromkeys(("val_loss", "val_dice"), math.nan) | {"val_accuracy": 0.0}
    loss, counts, annotated, index = (np.concatenate(values) for values in gathered.values())
    counts, annotated = _sum_tiles(counts, annotated, index)
    return {
        "val_loss": float(loss.astype(np.float64).mean()),
        "val_dice": _mean_dice(counts, annotated, cfg.task),
        "val_accuracy": _accuracy(counts, annotated, cfg.task),
    }


def _sum_tiles(
    counts: np.ndarray, annotated: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same with one row per image: the sum of the counts of its tiles.

    Args:
        counts: (N, K, 4); annotated: (N, K); index: (N,), the image of each row.
    """
    _, first, image = np.unique(index, return_index=True, return_inverse=True)
    of_images = np.zeros((len(first), *counts.shape[1:]), counts.dtype)
    np.add.at(of_images, image, counts)
    return of_images, annotated[first]


def _mean_dice(counts: np.ndarray, annotated: np.ndarray, task: str) -> float:
    """Mean over images of the mean Dice of the annotated classes, without the background.

    Args:
        counts: (N, K, 4), true and false positives, false and true negatives.
        annotated: (N, K) bool.
    """
    first = 1 if task == "multiclass" else 0
    dice = metrics.ratios(*np.moveaxis(counts, -1, 0))["dice"][:, first:]  # (N, K)
    of_images = [
        row[has_mask].mean() for row, has_mask in zip(dice, annotated[:, first:]) if has_mask.any()
    ]
    return float(np.mean(of_images)) if of_images else math.nan


def _accuracy(counts: np.ndarray, annotated: np.ndarray, task: str) -> float:
    """The share of pixels that are classified correctly: in the one class that a pixel has
    (multiclass), or in each annotated class."""
    if task == "multiclass":
        right = counts[..., 0]
        n_pixels = counts[:, 0].sum()  # every class has counted the same pixels
    else:
        right = counts[..., 0] + counts[..., 3]
        n_pixels = (counts.sum(axis=-1) * annotated).sum()
    return float((right * annotated).sum() / max(n_pixels, 1))


def compare_with_best(row: dict[str, Any], state: TrainingState, cfg, n_val: int) -> None:
    """Add to the row the monitor, smoothed where the validation part is small, and whether this
    epoch is the best so far; update the state.

    Without validation images the monitor is the training loss, which stops a training early but
    chooses no epoch: the last one counts as the best.
    """
    value = row[cfg.monitor] if n_val else row["train_loss"]
    is_number = math.isfinite(value)
    if 0 < n_val < SMALL_VALIDATION and state.smoothed is not None and is_number:
        value = 0.5 * state.smoothed + 0.5 * value  # exponential moving average
    if is_number:
        state.smoothed = value
    row["monitor"] = value
    sign = 1 if higher_is_better(cfg, n_val) else -1
    is_better = is_number and (state.best is None or sign * value > sign * state.best)
    row["best"] = is_better if n_val else is_number
    if is_better:
        state.best, state.since_best = value, 0
    else:
        state.since_best += 1


def higher_is_better(cfg, n_val: int) -> bool:
    """Whether a larger monitor is better; without validation images it is the training loss."""
    return cfg.monitor == "val_dice" and n_val > 0
