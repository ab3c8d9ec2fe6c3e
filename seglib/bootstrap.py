"""95 % intervals by bootstrap over patients, of one run and of the difference of two.

Patients are drawn, never pixels or slices, because images of one patient resemble one another.
Every function returns percentile intervals, and takes the group (patient) of each value, the number
of resamples and the seed. With a single patient the interval is NaN. Taught in `07_evaluation`.
"""

import numpy as np

from . import curves, metrics


def interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean of the values and its 95 % interval over groups (patients): mean, low, high, n.

    Values that are NaN are left out and not counted in n.
    """
    zeros = np.zeros(len(values))
    difference = paired(zeros, values, groups, resamples, seed)
    return difference["value"], difference["low"], difference["high"], difference["n"]


def pooled_interval(
    table: np.ndarray, groups: np.ndarray, metric: str, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """A metric of the summed counts and its 95 % interval over groups: value, low, high, n.

    Args:
        table: (n, 4) counts tp, fp, fn, tn, a row for each image.
        metric: a name in `tables.METRICS` whose source is "counts".
    """
    table = np.asarray(table, np.float64)
    if not len(table):
        return float("nan"), float("nan"), float("nan"), 0
    group_of, weights = _resample_weights(groups, resamples, seed)
    sums = np.stack([np.bincount(group_of, column) for column in table.T], axis=1)  # (groups, 4)
    value = float(metrics.ratios(*table.sum(axis=0))[metric])
    resampled = metrics.ratios(*(weights @ sums).T)[metric]
    return value, *_percentile_interval(resampled), len(table)


def curve_intervals(
    counts: np.ndarray, resamples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """95 % intervals over patients of auc, average_precision, brier and log_loss of all pixels.

    Args:
        counts: (patients, classes, 2, bins) of `curves.coarse`, summed over the images of each
            patient.

    Returns:
        For each of the four metrics (classes + 1, 2) offsets: how far the interval's ends lie below
        and above the value. They are to be added to the exact value of the fine histogram. The last
        row is that of the mean over the classes that have a value.
    """
    _, weights = _resample_weights(np.arange(len(counts)), resamples, seed)
    score = curves.coarse_scores()
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    in_random_order = np.ones(len(score), bool)  # a coarse bin holds many different scores
    reductions = {
        "auc": curves.area,
        "average_precision": lambda n, p: curves.precision_area(n, p, in_random_order),
        "brier": lambda n, p: curves.squared_error(score, n, p),
        "log_loss": lambda n, p: curves.cross_entropy(score, n, p),
    }

    def reduce(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric of each resample: (resamples, classes + 1)."""
        sums = (weights @ flat).reshape(len(weights), *counts.shape[1:])
        negative, positive = np.moveaxis(sums, 2, 0)  # (resamples, classes, bins)
        values = {name: score_of(negative, positive) for name, score_of in reductions.items()}
        return {name: np.column_stack([v, _mean_of_finite(v)]) for name, v in values.items()}

    whole = reduce(np.ones((1, len(counts))))
    blocks = np.array_split(weights, len(weights) // 100 + 1)  # bounded memory
    reduced = [reduce(block) for block in blocks]
    offsets = {}
    for name in reductions:
        resampled = np.concatenate([block[name] for block in reduced])
        ends = np.array([_percentile_interval(column) for column in resampled.T])
        offsets[name] = ends - whole[name].T
    return offsets


def paired(a, b, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Is b better than a on the same images, by how much, and how sure is that?

    Args:
        a, b: scores of the images (more is better), in the same order; pairs with a NaN are left
            out.
        groups: the patient of each image.

    Returns:
        value (mean of b - a), low and high (95 % interval), better (share of resamples in which b
        has the higher mean; a tie counts half), n, n_left_out.
    """
    total = len(a)
    a, b, groups = _complete_rows(a, b, groups)
    if not len(a):
        return _comparison(np.nan, np.empty(0), 0, total)
    group_of, weights = _resample_weights(groups, resamples, seed)
    means = (weights @ np.bincount(group_of, b - a)) / (weights @ np.bincount(group_of))
    return _comparison((b - a).mean(), means, len(a), total)


def auc_interval(
    scores, labels, groups, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """AUC of images or patients and its 95 % interval over groups: value, low, high, n.

    `labels` are 0 or 1; rows with a NaN are left out. NaN where there is one label only.
    """
    scores, labels, groups = _complete_rows(scores, labels, groups)
    value, resampled = _resampled_aucs([scores], labels, groups, resamples, seed)
    low, high = _percentile_interval(resampled[0])
    return float(value[0]), low, high, len(labels)


def paired_auc(a, b, labels, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """The same as `paired` for the AUCs of two columns of scores of the same images or patients."""
    total = len(a)
    a, b, labels, groups = _complete_rows(a, b, labels, groups)
    values, resampled = _resampled_aucs([a, b], labels, groups, resamples, seed)
    return _comparison(values[1] - values[0], resampled[1] - resampled[0], len(labels), total)


def _resample_weights(
    groups: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The number of each value's group (n,), and how often each resample drew each group.

    The weights are (resamples, groups) float64. A single group has no resamples, as it does not
    show how groups differ.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    n = len(names)
    resamples = resamples if n > 1 else 0
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    drawn += np.arange(resamples)[:, None] * n  # so that one bincount counts each resample
    weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return group_of, weights.astype(np.float64)


def _complete_rows(*columns) -> list[np.ndarray]:
    """Columns of numbers, then the groups, without the rows in which a number is NaN."""
    *numbers, groups = (np.asarray(column) for column in columns)
    numbers = [column.astype(np.float64) for column in numbers]
    if len({column.shape for column in (*numbers, groups)}) > 1:
        lengths = [len(column) for column in columns]
        raise ValueError(f"values and groups have the lengths {lengths}; expected one a row")
    complete = np.logical_and.reduce([~np.isnan(column) for column in numbers])
    return [column[complete] for column in (*numbers, groups)]


def _mean_of_finite(values: np.ndarray) -> np.ndarray:
    """Mean of each row over its finite values; NaN where a row has none."""
    finite = np.isfinite(values)
    total, n = np.where(finite, values, 0).sum(axis=1), finite.sum(axis=1)
    return curves.divide(total, n)


def _percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the finite values; NaN where there are none."""
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.percentile(resampled, (2.5, 97.5)) if len(resampled) else (np.nan, np.nan)
    return float(low), float(high)


def _comparison(value: float, resampled: np.ndarray, n: int, total: int) -> dict[str, float]:
    """The result of `paired`, from the difference and those of the resamples."""
    low, high = _percentile_interval(resampled)
    resampled = resampled[np.isfinite(resampled)]
    better = np.nan
    if len(resampled):
        better = float(np.mean(resampled > 0) + np.mean(resampled == 0) / 2)
    result = {"value": float(value), "low": low, "high": high, "better": better}
    return {**result, "n": n, "n_left_out": total - n}


def _aucs(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC for each row of weights (..., n), ties count half; NaN where a row has one label only."""
    order = np.argsort(scores)
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # of equal scores
    by_label = [(weights * (labels == label))[..., order] for label in (0, 1)]
    negative, positive = (np.add.reduceat(column, starts, axis=-1) for column in by_label)
    return curves.area(negative, positive)


def _resampled_aucs(
    columns: list[np.ndarray], labels, groups, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUCs of columns of scores (columns,) and of the same resamples (columns, resamples)."""
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: found {np.unique(labels)[:9]}; expected 0 and 1")
    if not len(labels):
        return np.full(len(columns), np.nan), np.empty((len(columns), 0))
    values = [_aucs(scores, labels, np.ones(len(labels))) for scores in columns]
    group_of, weights = _resample_weights(groups, resamples, seed)
    blocks = np.array_split(weights, len(weights) * len(labels) // 2**22 + 1)  # bounded memory
    resampled = [
        np.concatenate([_aucs(scores, labels, block[:, group_of]) for block in blocks])
        for scores in columns
    ]
    return np.array(values), np.array(resampled)
