"""95 % intervals by bootstrap over patients, of one run and of the difference of two. Taught in `07_evaluation`.

Patients, never pixels or slices, are drawn: those of one patient resemble one another.
"""

import numpy as np

from . import curves
from .metrics import ratios


def interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean of the values and its 95 % percentile bootstrap interval over groups (patients): mean, low, high, n.

    Values that are not numbers are left out and not counted in n. One patient gives no interval (NaN).
    """
    found = paired(np.zeros(len(values)), values, groups, resamples, seed)
    return found["value"], found["low"], found["high"], found["n"]


def pooled_interval(
    table: np.ndarray, groups: np.ndarray, metric: str, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """A ratio of the summed counts and its 95 % percentile bootstrap interval over groups: value, low, high, n.

    Args:
        table: (n, 4) counts tp, fp, fn, tn, a row an image.
        metric: a name in `METRICS` whose source is the counts.
    """
    table = np.asarray(table, np.float64)
    if not len(table):
        return float("nan"), float("nan"), float("nan"), 0
    inverse, drawn = _resample_weights(groups, resamples, seed)
    sums = np.stack([np.bincount(inverse, column) for column in table.T], axis=1)  # (patients, 4)
    value, found = float(ratios(*table.sum(axis=0))[metric]), ratios(*(drawn @ sums).T)[metric]
    return value, *_ends(found), len(table)


def curve_intervals(
    counts: np.ndarray, resamples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """95 % intervals over patients of what is computed from pixels: auc, average_precision, brier, log_loss.

    Args:
        counts: (patients, classes, 2, bins) of `curves.coarse`, summed over the images of each patient.

    Returns:
        (classes + 1, 2) for each: how far below and above the value the interval reaches, to be added to the exact
        value of the fine histogram; the last row is of the mean of the classes that have a value.
    """
    _, drawn = _resample_weights(np.arange(len(counts)), resamples, seed)
    score, flat = curves.coarse_scores(), counts.reshape(len(counts), -1).astype(np.float64)
    spread = np.ones(len(score), bool)
    kinds = {
        "auc": curves.area,
        "average_precision": lambda n, p: curves.precision_area(n, p, spread),
        "brier": lambda n, p: curves.squared_error(score, n, p),
        "log_loss": lambda n, p: curves.cross_entropy(score, n, p),
    }

    def reduce(weights: np.ndarray) -> dict[str, np.ndarray]:
        negative, positive = np.moveaxis(
            (weights @ flat).reshape(len(weights), *counts.shape[1:]), 2, 0
        )
        each = {name: of(negative, positive) for name, of in kinds.items()}  # (resamples, classes)
        return {name: np.column_stack([values, _mean(values)]) for name, values in each.items()}

    whole = reduce(np.ones((1, len(counts))))
    parts = [
        reduce(part) for part in np.array_split(drawn, len(drawn) // 100 + 1)
    ]  # bounded memory
    found = {name: np.concatenate([part[name] for part in parts]) for name in kinds}
    return {n: np.array([_ends(column) for column in found[n].T]) - whole[n].T for n in kinds}


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of each row over what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    total = known.sum(axis=1)
    return np.divide(
        np.where(known, values, 0).sum(axis=1),
        total,
        out=np.full(len(values), np.nan),
        where=total > 0,
    )


def _resample_weights(
    groups: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Number of each value's group, and how often each resample drew each group: (n,), (resamples, groups).

    One group gives no resample: nothing is known of how others would differ.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    resamples = resamples if len(names) > 1 else 0
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    drawn += np.arange(resamples)[:, None] * len(names)
    times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return inverse, times.astype(np.float64)


def _columns(*columns) -> list[np.ndarray]:
    """Equally long arrays: columns of numbers, then groups; without the rows in which a number is NaN."""
    *numbers, groups = (np.asarray(column) for column in columns)
    numbers = [column.astype(np.float64) for column in numbers]
    if len({column.shape for column in (*numbers, groups)}) > 1:
        raise ValueError(
            f"values and groups have the lengths {[len(c) for c in columns]}; expected one a row"
        )
    there = np.logical_and.reduce([~np.isnan(column) for column in numbers])
    return [column[there] for column in (*numbers, groups)]


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)


def _compare(value: float, drawn: np.ndarray, n: int, total: int) -> dict[str, float]:
    low, high = _ends(drawn)
    drawn = drawn[np.isfinite(drawn)]
    better = (np.mean(drawn > 0) + np.mean(drawn == 0) / 2) if len(drawn) else np.nan
    found = {"value": value, "low": low, "high": high, "better": better}
    return {
        **{name: float(number) for name, number in found.items()},
        "n": n,
        "n_left_out": total - n,
    }


def paired(a, b, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Is b better than a on the same images, by how much, how sure: paired bootstrap over groups (patients).

    Args:
        a, b: scores of the images (more is better), in the same order; pairs with a NaN are left out.
        groups: the patient of each image.

    Returns:
        value (mean of b - a), low and high (95 % percentile interval), better (share of resamples in which b has the
        higher mean; a tie counts half), n, n_left_out. One patient gives no interval (NaN).
    """
    total = len(a)
    a, b, groups = _columns(a, b, groups)
    if not len(a):
        return _compare(np.nan, np.empty(0), 0, total)
    inverse, drawn = _resample_weights(groups, resamples, seed)
    means = (drawn @ np.bincount(inverse, b - a)) / (drawn @ np.bincount(inverse))
    return _compare((b - a).mean(), means, len(a), total)


def _aucs(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC of each row of weights (..., n) with mid-ranks for ties; NaN where a row has one label only."""
    order = np.argsort(scores)
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))
    sides = [(weights * (labels == side))[..., order] for side in (0, 1)]
    return curves.area(*(np.add.reduceat(side, starts, axis=-1) for side in sides))


def _auc_draws(
    scores: list[np.ndarray], labels, groups, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUCs of some columns of scores, and of the same resamples of each: (columns,), (columns, resamples)."""
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: found {np.unique(labels)[:9]}; expected 0 and 1")
    if not len(labels):
        return np.full(len(scores), np.nan), np.empty((len(scores), 0))
    values = [_aucs(column, labels, np.ones(len(labels))) for column in scores]
    inverse, drawn = _resample_weights(groups, resamples, seed)
    blocks = np.array_split(drawn, len(drawn) * len(labels) // 2**22 + 1)  # bounded memory
    found = [
        np.concatenate([_aucs(column, labels, part[:, inverse]) for part in blocks])
        for column in scores
    ]
    return np.array(values), np.array(found)


def auc_interval(
    scores, labels, groups, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """AUC of images or patients and its 95 % percentile bootstrap interval over groups: value, low, high, n.

    `labels` 0 or 1; rows with a NaN are left out. NaN where one label only; one patient gives no interval.
    """
    scores, labels, groups = _columns(scores, labels, groups)
    value, drawn = _auc_draws([scores], labels, groups, resamples, seed)
    found = _compare(value[0], drawn[0], len(labels), len(labels))
    return found["value"], found["low"], found["high"], found["n"]


def paired_auc(a, b, labels, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """The same as `paired` for the AUCs of two columns of scores for the same images or patients."""
    total = len(a)
    a, b, labels, groups = _columns(a, b, labels, groups)
    values, drawn = _auc_draws([a, b], labels, groups, resamples, seed)
    return _compare(values[1] - values[0], drawn[1] - drawn[0], len(labels), total)
