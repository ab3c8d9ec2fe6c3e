"""95 % intervals over patients, of one run and of the difference of two.

Patients are drawn, never pixels or slices, because images of one patient resemble one another.
Every interval here is a studentised bootstrap (Efron and Tibshirani 1993, chapter 12) of the
patients' jackknife pseudo-values, on the logit scale of a score that lies between two limits, on
the logarithmic scale of one that is only positive. The limits of a distance are 0 and the diagonal
of the frame: without the upper one, intervals of few patients would reach far beyond it. Quantiles
are never closer than those of Student's t, with the degrees of freedom of the effective number of
patients (Kish). One failure among many patients has resamples without it, whose small spread would
send an end far away: no end lies beyond the one that is safe for any distribution between the
limits (Gaffke 2005). How often the intervals cover the truth is measured in `docs/intervals.md`.
Taught in `07_evaluation`.

Fewer than `MIN_PATIENTS` patients have no interval: the ends are NaN.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from . import curves, metrics, tables
from .tables import MIN_PATIENTS

Limits = tuple[float, float]
UNLIMITED: Limits = (-math.inf, math.inf)
TAIL = 0.025  # on either side of a 95 % interval


class Interval(NamedTuple):
    """The ends of a 95 % interval; `reason` says why there is none where they are NaN."""

    low: float
    high: float
    reason: str = ""


class Estimate(NamedTuple):
    """A score, the ends of its interval, the number of rows, and why there is no interval."""

    value: float
    low: float
    high: float
    n: int
    reason: str


def interval(
    values: np.ndarray,
    groups: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    limits: Limits | None = None,
) -> tuple[float, float, float, int]:
    """Mean of the values and its 95 % interval over groups (patients): mean, low, high, n.

    Args:
        values: those that are NaN are left out and not counted in n.
        limits: the range of the score, to which the interval is confined; by default 0 to 1 if all
            values lie there, else none.

    Returns:
        low and high are NaN where the values give no interval; `mean_estimate` says why.
    """
    return mean_estimate(values, groups, resamples, seed, limits)[:4]


def mean_estimate(
    values, groups, resamples: int = 2000, seed: int = 0, limits: Limits | None = None
) -> Estimate:
    """The same as `interval`, with the reason where there is no interval."""
    values, groups = _complete_rows(values, groups)
    if limits is None:
        in_unit_range = len(values) and 0 <= values.min() and values.max() <= 1
        limits = (0.0, 1.0) if in_unit_range else UNLIMITED
    value, without_one, sizes = _means(values, groups)
    ends = _interval(value, without_one, _effective_number(sizes), limits, resamples, seed)
    return Estimate(value, *ends[:2], len(values), ends.reason)


def pooled_interval(
    table: np.ndarray, groups: np.ndarray, metric: str, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """A metric of the summed counts and its 95 % interval over groups: value, low, high, n.

    Args:
        table: (n, 4) counts tp, fp, fn, tn, a row for each image.
        metric: a name in `tables.METRICS` whose source is "counts".
    """
    return pooled_estimate([table], [groups], metric, resamples, seed)[:4]


def pooled_estimate(
    tables_of_classes: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    metric: str,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A metric of the summed counts of each class, averaged over the classes.

    Args:
        tables_of_classes: for each class (n, 4) counts as in `pooled_interval`.
        groups: for each class the groups of its rows. n counts the rows of all classes.
    """
    if not sum(map(len, groups)):
        return Estimate(math.nan, math.nan, math.nan, 0, "the score is undefined")
    names = np.unique(np.concatenate([np.asarray(column) for column in groups]))
    sums = np.zeros((len(names), len(groups), 4))
    for k, (table, column) in enumerate(zip(tables_of_classes, groups)):
        np.add.at(sums[:, k], np.searchsorted(names, column), np.asarray(table).reshape(-1, 4))
    total = sums.sum(axis=0)
    value = float(_mean_of_finite(metrics.ratios(*total.T)[metric]))
    without_one = _mean_of_finite(metrics.ratios(*np.moveaxis(total - sums, 2, 0))[metric])
    sizes = sums[..., :3].sum(axis=(1, 2))  # pixels of truth or prediction
    if not sizes.any():
        sizes = sums.sum(axis=(1, 2))
    effective = _effective_number(sizes)
    limits = limits_of(metric)
    ends = _interval(value, without_one, effective, limits, resamples, seed)
    return Estimate(value, *ends[:2], sum(map(len, tables_of_classes)), ends.reason)


def curve_intervals(
    values: dict[str, np.ndarray],
    counts: np.ndarray,
    in_mean: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, list[Interval]]:
    """95 % intervals over patients of metrics of all pixels, such as the AUC.

    Args:
        values: metric of the source "histogram" -> (classes + 1,) values of the classes and of
            their mean, from the fine histograms.
        counts: (patients, classes, 2, bins) of `curves.coarse`, summed over the images of each
            patient. They tell how much the values vary.
        in_mean: (classes,) bool, the classes that the mean is taken over.

    Returns:
        For each metric classes + 1 intervals.
    """
    n_classes = counts.shape[1]
    total = counts.sum(axis=0)
    scores = {name: np.full((len(counts), n_classes + 1), np.nan) for name in values}
    for row, of_patient in enumerate(counts):
        for k in range(n_classes):
            curve = curves.CoarseROC(total[k] - of_patient[k])
            for name, score in tables.scores("histogram", curve).items():
                scores[name][row, k] = score
    pixels = counts.sum(axis=(2, 3))
    pixels = np.column_stack([pixels, pixels[:, in_mean].sum(axis=1)])
    intervals = {}
    for name, without_one in scores.items():
        without_one[:, -1] = _mean_of_finite(without_one[:, :-1][:, in_mean])
        intervals[name] = []
        for k, value in enumerate(values[name]):
            scored = pixels[:, k] > 0  # a patient without a mask of a class is none of its patients
            effective, limits = _effective_number(pixels[:, k]), limits_of(name)
            ends = _interval(value, without_one[scored, k], effective, limits, resamples, seed)
            intervals[name].append(ends)
    return intervals


def paired(a, b, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Is b better than a on the same images, by how much, and how sure is that?

    Args:
        a, b: scores of the images (more is better), in the same order; pairs with a NaN are left
            out.
        groups: the patient of each image.

    Returns:
        value (mean of b - a), low and high (95 % interval), better (share of resamples in which b
        has the higher mean; a tie counts half), n, n_left_out. low, high and better are NaN where
        there is no interval; `compared` says why.
    """
    return compared(a, b, groups, resamples, seed)[0]


def compared(a, b, groups, resamples: int = 2000, seed: int = 0) -> tuple[dict[str, float], str]:
    """The result of `paired`, and the reason where it has no interval."""
    total = len(a)
    a, b, groups = _complete_rows(a, b, groups)
    value, without_one, sizes = _means(b - a, groups)
    effective = _effective_number(sizes)
    return _comparison(value, without_one, effective, (len(a), total), resamples, seed)


def auc_interval(
    scores, labels, groups, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """AUC of images or patients and its 95 % interval over groups: value, low, high, n.

    `labels` are 0 or 1; rows with a NaN are left out. NaN where there is one label only.
    """
    scores, labels, groups = _complete_rows(scores, labels, groups)
    values, without_one, effective = _aucs_without_one([scores], labels, groups)
    ends = _interval(values[0], without_one[0], effective, (0.0, 1.0), resamples, seed)
    return float(values[0]), *ends[:2], len(labels)


def paired_auc(a, b, labels, groups, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """The same as `paired` for the AUCs of two columns of scores of the same images or patients."""
    total = len(a)
    a, b, labels, groups = _complete_rows(a, b, labels, groups)
    values, without_one, effective = _aucs_without_one([a, b], labels, groups)
    difference = without_one[1] - without_one[0]
    numbers = (len(labels), total)
    return _comparison(values[1] - values[0], difference, effective, numbers, resamples, seed)[0]


def limits_of(metric: str, longest: float = math.inf) -> Limits:
    """The range of a metric of `tables.METRICS`, lowest first; no limits for any other column.

    Args:
        longest: the upper limit of a metric that has none of its own, for a distance the diagonal
            of the frame.
    """
    if metric not in tables.METRICS:
        return UNLIMITED
    entry = tables.METRICS[metric]
    lowest, highest = sorted((entry.best, entry.worst))
    return lowest, longest if math.isinf(highest) else highest


# ---- the interval of any score, from its values without one group each


def _interval(
    value: float,
    without_one: np.ndarray,
    effective: float,
    limits: Limits,
    resamples: int,
    seed: int,
) -> Interval:
    """95 % interval of a score.

    Args:
        value: the score of all groups.
        without_one: (groups,) the score of all groups but one.
        effective: effective number of groups.
    """
    reason = _reason_for_none(value, without_one, limits)
    if reason:
        return Interval(math.nan, math.nan, reason)
    low, high = limits
    if _all_equal(without_one) or value in limits:
        if not math.isfinite(high - low):
            return Interval(math.nan, math.nan, "all patients have the same value")
        # Groups that nobody has seen may have any value in the range. Their share is below 1 - p
        # with 97.5 % confidence, as p ** n is the chance to miss them n times.
        seen = TAIL ** (1 / effective)
        return Interval(*(seen * value + (1 - seen) * end for end in limits))
    scale = _Scale(limits)
    pseudo = _pseudo_values(value, without_one)
    error = pseudo.std(ddof=1) / math.sqrt(len(pseudo))
    lower, upper = _quantiles(pseudo, error, scale, resamples, seed)
    student = float(stdtrit(max(effective - 1, 1), 1 - TAIL))
    middle, spread = scale.forward(value), error * scale.slope(value)
    ends = (middle - max(upper, student) * spread, middle - min(lower, -student) * spread)
    lowest, highest = _safe_ends(pseudo, effective, limits, resamples, seed)
    return Interval(
        max(float(scale.backward(ends[0])), lowest), min(float(scale.backward(ends[1])), highest)
    )


def _safe_ends(
    pseudo: np.ndarray, effective: float, limits: Limits, resamples: int, seed: int
) -> Limits:
    """Ends that are safe for any distribution between the limits, by Gaffke (2005).

    One more group, which nobody has seen, has the worst value that is possible, then the best. All
    groups get random weights; the ends are the 2.5th and the 97.5th percentile of their mean. For
    values of 0 and 1 they are those of Clopper and Pearson. Learned-Miller and Thomas (2019,
    arXiv:1905.06208) found no distribution for which they hold the truth too seldom; a proof for
    all is missing.
    """
    n = len(pseudo)
    weights = np.random.default_rng(seed).dirichlet([effective / n] * n + [1.0], resamples)
    seen, unseen = weights[:, :n] @ pseudo, weights[:, n]

    def end(limit: float, percent: float) -> float:
        if math.isinf(limit):
            return limit
        return float(np.percentile(seen + unseen * limit, percent))

    return end(limits[0], 100 * TAIL), end(limits[1], 100 * (1 - TAIL))


def _reason_for_none(value: float, without_one: np.ndarray, limits: Limits) -> str:
    """Why a score has no interval; empty where it has one, or where it has no value."""
    n = len(without_one)
    if not math.isfinite(value):
        return "the score is undefined"
    if n < MIN_PATIENTS:
        patients = "1 patient" if n == 1 else f"{n} patients"
        return f"{patients}, at least {MIN_PATIENTS} are needed"
    if not np.isfinite(without_one).all():
        return "without one of the patients the score is undefined"
    if not limits[0] <= value <= limits[1]:
        return f"{value:.4g} lies outside the range {limits[0]:g} to {limits[1]:g} of the metric"
    return ""


class _Scale:
    """The scale on which the error of a score is nearly symmetric, by the limits of the score.

    Logit between two limits, logarithm above a lower one, else the score itself.
    """

    def __init__(self, limits: Limits):
        self.low, self.high = limits

    def contains(self, x: np.ndarray) -> np.ndarray:
        return (x > self.low) & (x < self.high)

    def forward(self, x):
        if math.isinf(self.low):
            return x
        if math.isinf(self.high):
            return np.log(x - self.low)
        return np.log((x - self.low) / (self.high - x))

    def slope(self, x):
        """Derivative of `forward`."""
        if math.isinf(self.low):
            return np.ones_like(x)
        if math.isinf(self.high):
            return 1 / (x - self.low)
        return (self.high - self.low) / ((x - self.low) * (self.high - x))

    def backward(self, y):
        if math.isinf(self.low):
            return y
        if math.isinf(self.high):
            return self.low + np.exp(min(y, 700.0))
        return self.low + (self.high - self.low) / (1 + np.exp(-np.clip(y, -700.0, 700.0)))


def _pseudo_values(value: float, without_one: np.ndarray) -> np.ndarray:
    """What each group adds to a score (Tukey's jackknife), with the score as their mean."""
    return value + (len(without_one) - 1) * (without_one.mean() - without_one)


def _quantiles(
    pseudo: np.ndarray, error: float, scale: _Scale, resamples: int, seed: int
) -> tuple[float, float]:
    """2.5th and 97.5th percentile of (mean of a resample - mean) / its own standard error.

    Resamples without spread, or with a mean outside of the limits, have no such ratio and are left
    out; 0 and 0 where most are.
    """
    n = len(pseudo)
    weights = _resample_weights(n, resamples, seed)
    centred = pseudo - pseudo.mean()
    means = weights @ centred / n
    variances = np.maximum(weights @ centred**2 / n - means**2, 0) / (n - 1)
    values = pseudo.mean() + means
    usable = (np.sqrt(variances) > 1e-6 * error) & scale.contains(values)
    if usable.sum() < resamples / 4:
        return 0.0, 0.0
    values, errors = values[usable], np.sqrt(variances[usable])
    ratios = scale.forward(values) - scale.forward(pseudo.mean())
    ratios /= errors * scale.slope(values)
    lower, upper = np.percentile(ratios, (100 * TAIL, 100 * (1 - TAIL)))
    return float(lower), float(upper)


def _resample_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample drew each of n groups, (resamples, n) float64."""
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    drawn += np.arange(resamples)[:, None] * n  # so that one bincount counts each resample
    weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return weights.astype(np.float64)


def _all_equal(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, abs(values[0])))


def _comparison(
    value: float,
    without_one: np.ndarray,
    effective: float,
    numbers: tuple[int, int],
    resamples: int,
    seed: int,
) -> tuple[dict[str, float], str]:
    """The result of `compared`; `numbers`: of rows compared, and of all rows."""
    ends = _interval(value, without_one, effective, UNLIMITED, resamples, seed)
    better = math.nan
    if len(without_one) >= MIN_PATIENTS and np.isfinite(without_one).all():
        weights = _resample_weights(len(without_one), resamples, seed)
        pseudo = _pseudo_values(value, without_one)
        if _all_equal(without_one):
            pseudo = np.full(len(without_one), value)
        means = weights @ pseudo
        better = float(np.mean(means > 0) + np.mean(means == 0) / 2)
    result = {"value": float(value), "low": ends.low, "high": ends.high, "better": better}
    n, total = numbers
    return {**result, "n": n, "n_left_out": total - n}, ends.reason


# ---- scores of all groups, and of all groups but one


def _means(values: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean of the values, the means without one group each, and the sizes of the groups."""
    if not len(values):
        return math.nan, np.empty(0), np.empty(0)
    _, group_of = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group_of, values), np.bincount(group_of)
    without_one = curves.divide(values.sum() - sums, len(values) - sizes)
    return float(values.mean()), without_one, sizes


def _aucs_without_one(
    columns: list[np.ndarray], labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """AUCs of columns of scores (columns,), those without one group each (columns, groups), and the
    effective number of groups.

    It is twice the harmonic mean of the groups with a positive and those with a negative, as the
    rarer label limits what is known: 5 positives and 95 negatives say as much as 19 of both.
    """
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: found {np.unique(labels)[:9]}; expected 0 and 1")
    if not len(labels):
        return np.full(len(columns), np.nan), np.empty((len(columns), 0)), 0.0
    names, group_of = np.unique(groups, return_inverse=True)
    values = [_aucs(scores, labels, np.ones(len(labels))) for scores in columns]
    blocks = np.array_split(np.arange(len(names)), len(names) * len(labels) // 2**22 + 1)
    without_one = [
        [_aucs(scores, labels, (group_of != block[:, None]).astype(float)) for block in blocks]
        for scores in columns
    ]
    by_label = [
        _effective_number(np.bincount(group_of[labels == label], minlength=1)) for label in (0, 1)
    ]
    effective = 0.0
    if min(by_label) > 0:
        effective = 4 / sum(1 / number for number in by_label)
    return np.array(values), np.array([np.concatenate(aucs) for aucs in without_one]), effective


def _aucs(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC for each row of weights (..., n), ties count half; NaN where a row has one label only."""
    order = np.argsort(scores)
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # of equal scores
    by_label = [(weights * (labels == label))[..., order] for label in (0, 1)]
    negative, positive = (np.add.reduceat(column, starts, axis=-1) for column in by_label)
    return curves.area(negative, positive)


def _effective_number(sizes: np.ndarray) -> float:
    """How many groups of one size say as much as groups of these sizes (Kish 1965)."""
    sizes = np.asarray(sizes, np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


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
    """Mean of the finite values along the last axis; NaN where there is none."""
    finite = np.isfinite(values)
    total, n = np.where(finite, values, 0).sum(axis=-1), finite.sum(axis=-1)
    return curves.divide(total, n)
