"""Curves and calibration of all pixels from histograms of scores. Taught in `07_evaluation`."""

import numpy as np
import torch
from torch import Tensor

from . import tables
from .tables import IGNORE

CHUNK = 1 << 15  # pixels counted at once, so that temporary arrays stay in the cache
COARSE = 897  # bins of `coarse`
# Marks of eight neighbouring bins that have seen no score, or more than one; see `_only`.
EMPTY, MIXED = 65535, 65534

# A bin is a range of float32 bit patterns that differ in their last bits only. Below one half there
# are four ranges of scores, whose bins keep 11, 14, 17 and 15 bits of the mantissa. Above one half
# the bins are those of SHIFT - score, with 15 bits of the mantissa, which separate all float32
# scores above 1 - 2^-9.
SHIFT = 1 + 2**-9  # SHIFT - score is exact in float32 for a score of at least 0.5
_STARTS = [int(np.float32(start).view(np.int32)) for start in (0, 2**-24, 2**-18, 2**-14, 0.5)]
_DROPPED_BITS = [12, 9, 6, 8]
_SIZES = [(b - a) >> bits for a, b, bits in zip(_STARTS, _STARTS[1:], _DROPPED_BITS)]
_FIRST_BINS = np.cumsum([0, *_SIZES]).tolist()
_HALF = _FIRST_BINS[-1]  # the bin of 0.5
_TOP = int(np.float32(SHIFT - 0.5).view(np.int32)) >> 8
BINS = _HALF + _TOP - (int(np.float32(SHIFT - 1).view(np.int32)) >> 8) + 1


def _bins(prob: np.ndarray) -> np.ndarray:
    """Bins (int32) of float32 scores in [0, 1]; a larger score never has a smaller bin.

    Below one half the bin is a piecewise linear function of the float's bit pattern, with four
    segments. Their slopes rise from the first to the third (convex) and fall to the fourth
    (concave): taking the minimum of the last two and the maximum of all selects the right segment
    for every element without branching.
    """
    bits = np.minimum(prob, np.float32(0.5)).view(np.int32)
    first, second, third, bins = (
        (bits >> dropped) + (first_bin - (start >> dropped))
        for dropped, first_bin, start in zip(_DROPPED_BITS, _FIRST_BINS, _STARTS)
    )
    np.minimum(bins, third, out=bins)
    np.maximum(bins, second, out=bins)
    np.maximum(bins, first, out=bins)
    upper_bits = np.minimum(np.float32(SHIFT) - prob, np.float32(SHIFT - 0.5)).view(np.int32)
    bins += _TOP - (upper_bits >> 8)
    return bins


def _lowest(bins: np.ndarray) -> np.ndarray:
    """Bit patterns (int32) of the smallest float32 score of each bin."""
    segment = np.clip(np.searchsorted(_FIRST_BINS, bins, side="right") - 1, 0, 3)
    offset = (bins - np.take(_FIRST_BINS, segment)) << np.take(_DROPPED_BITS, segment)
    bits = np.take(_STARTS, segment) + offset
    high = bins > _HALF
    largest = (((_TOP + _HALF - bins[high]) << 8) + 255).astype(np.int32)  # of SHIFT - score
    score = SHIFT - largest.view(np.float32).astype(np.float64)
    rounded_up = np.ceil(score * 2**24) / 2**24
    bits[high] = rounded_up.astype(np.float32).view(np.int32)
    return bits.astype(np.int32)


def _flat(values) -> np.ndarray:
    """An array or tensor of any shape as a NumPy array (n,)."""
    if torch.is_tensor(values):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values).reshape(-1)


def divide(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """The quotient of numbers or of arrays of one shape; `empty` where the denominator is 0."""
    quotient = np.full(np.shape(denominator), empty)
    return np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)


# Scores of ascending bins: `negative` and `positive` (..., bins) are numbers of pixels, `score`
# (bins,) is the middle of each bin.


def area(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (Mann-Whitney, ties count half); NaN where a label is absent."""
    below = np.cumsum(negative, -1) - negative / 2
    n_pairs = positive.sum(-1) * negative.sum(-1).astype(np.float64)
    return divide((positive * below).sum(-1), n_pairs)


def precision_area(negative: np.ndarray, positive: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Average precision.

    Where `spread`, (bins,) bool, is true, the pixels of a bin count as if in random order, else as
    tied. In random order a positive has half of the other pixels of its bin above it.
    """
    fp, tp = (np.cumsum(n[..., ::-1], -1)[..., ::-1] for n in (negative, positive))
    tp = tp - np.where(spread, (positive - 1) / 2, 0)
    fp = fp - np.where(spread, negative / 2, 0)
    return divide((positive * divide(tp, tp + fp, 0.0)).sum(-1), positive.sum(-1))


def squared_error(score: np.ndarray, negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Brier score: mean squared difference of score and truth."""
    total = (negative * score**2 + positive * (1 - score) ** 2).sum(-1)
    return divide(total, (negative + positive).sum(-1))


def cross_entropy(score: np.ndarray, negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Mean binary cross-entropy (nats); scores stay 1e-7 away from 0 and 1, as in `metrics.bce`."""
    score = np.clip(score, 1e-7, 1 - 1e-7)
    total = -(negative * np.log1p(-score) + positive * np.log(score)).sum(-1)
    return divide(total, (negative + positive).sum(-1))


def _checked(
    prob: np.ndarray, target: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the pixels that are not ignored, and whether each of them is positive."""
    counted = target != IGNORE if valid is None else valid & (target != IGNORE)
    if not counted.all():
        prob, target = prob[counted], target[counted]
    positive = target == 1
    if not (positive | (target == 0)).all():
        raise ValueError(
            f"targets: found {np.unique(target)[:9]}; expected 0, 1 and {IGNORE} = ignored"
        )
    # Both comparisons are false for NaN.
    if len(prob) and not (prob.min() >= 0 and prob.max() <= 1):
        nan, low, high = np.isnan(prob).sum(), np.fmin.reduce(prob), np.fmax.reduce(prob)
        raise ValueError(
            f"scores: found {nan} NaN, the rest {low:g} to {high:g}; expected [0, 1]; use sigmoid"
        )
    return prob, positive


class HistogramROC:
    """Scores of one class, counted in bins so fine that no pixel is needed again.

    Curves, AUC and calibration of any number of pixels come from 13 MB of counts. Scores are taken
    as float32; the bins follow its bit pattern and are finest at both ends of [0, 1]. The AUC is
    that of Mann and Whitney, ties count half. Every point of `roc` and `precision_recall` is exact.

    Attributes:
        counts: (BINS, 2) integers, negative and positive pixels of every bin, by rising score.
    """

    def __init__(self):
        self.counts = np.zeros((BINS, 2), np.int32)
        # For each group of eight neighbouring bins, the last 15 bits of the only score that it has
        # seen (else EMPTY or MIXED), so that pixels of one score are known to be tied.
        self._only = np.full(BINS // 8 + 1, EMPTY, np.uint16)
        self._n = 0

    def update(self, prob, target, valid=None) -> "HistogramROC":
        """Count pixels. Arrays or tensors of one shape, on any device.

        Args:
            prob: probabilities in [0, 1], any float type.
            target: bool, or 0, 1 and 255 (ignored).
            valid: bool; pixels outside are ignored, whatever their score.

        Raises:
            ValueError: the shapes differ, a score is NaN or outside [0, 1], or a target is none of
                0, 1, 255. Then no pixel is counted.
        """
        arrays = [array for array in (prob, target, valid) if array is not None]
        shapes = [tuple(np.shape(array)) for array in arrays]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"scores, target and valid have the shapes {shapes}; expected one shape"
            )
        prob, target = _flat(prob), _flat(target)
        if target.dtype == bool:
            target = target.view(np.uint8)  # bool is slow to compare with numbers
        valid = None if valid is None else _flat(valid).astype(bool)
        chunks = []
        for start in range(0, len(prob), CHUNK):
            part = slice(start, start + CHUNK)
            chunks.append(
                _checked(prob[part], target[part], None if valid is None else valid[part])
            )
        # Only now, so that an error in a later chunk leaves nothing of the earlier ones.
        for chunk in chunks:
            self._count(*chunk)
        return self

    def _count(self, prob: np.ndarray, positive: np.ndarray) -> None:
        """Count up to `CHUNK` pixels: their scores, and whether each is positive."""
        prob = prob.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
        bins = _bins(prob)
        self._reserve(len(bins))
        indices = (2 * bins + positive).astype(np.int64)
        np.add.at(self.counts.reshape(-1), indices, self.counts.dtype.type(1))
        self._note_single_scores(bins, prob)

    def _note_single_scores(self, bins: np.ndarray, prob: np.ndarray) -> None:
        """Mark the groups of eight bins that have seen one score, and those that have seen more.

        Groups that are known to be mixed are skipped; soon these are all.
        """
        groups = bins >> 3
        last_bits = (prob.view(np.int32) & 0x7FFF).astype(np.uint16)
        seen = self._only.take(groups)
        new = np.flatnonzero((seen != last_bits) & (seen != MIXED))
        groups, last_bits, empty = groups[new], last_bits[new], seen[new] == EMPTY
        self._only[groups[empty]] = last_bits[empty]
        self._only[groups[self._only[groups] != last_bits]] = MIXED

    def _reserve(self, n: int) -> None:
        """Change to 64-bit counts before `n` more pixels could overflow 32 bits."""
        self._n += n
        if self._n > np.iinfo(np.int32).max:
            self.counts = self.counts.astype(np.int64, copy=False)

    def merge(self, other: "HistogramROC") -> "HistogramROC":
        """Add the counts of another histogram, of another batch or process; returns self.

        A histogram can be pickled.
        """
        self._reserve(other._n)
        self.counts += other.counts
        same = (other._only == EMPTY) | (other._only == self._only)
        merged = np.where(same, self._only, MIXED)
        self._only = np.where(self._only == EMPTY, other._only, merged).astype(np.uint16)
        return self

    def _levels(self):
        """Of the bins in use, ascending: lowest and highest score, negative and positive pixels.

        Lowest and highest are equal where a bin has seen a single score.
        """
        bins = np.flatnonzero(self.counts[:, 0] | self.counts[:, 1])
        negative, positive = self.counts[bins].T.astype(np.int64)
        low, high = _lowest(bins), _lowest(bins + 1) - 1
        high[bins == BINS - 1] = low[bins == BINS - 1]  # the last bin holds 1.0 only
        only = self._only[bins >> 3]
        # The only score of a bin has the upper bits of the bin's lowest pattern, or the next ones.
        exact = (low & ~0x7FFF) | (only & 0x7FFF)
        exact += np.where(exact < low, 0x8000, 0).astype(np.int32)
        low, high = (np.where(only == MIXED, edge, exact).astype(np.int32) for edge in (low, high))
        return low.view(np.float32), high.view(np.float32), negative, positive

    def _middle(self):
        """Of the bins in use, ascending: middle score, negative and positive pixels."""
        low, high, negative, positive = self._levels()
        return (low.astype(np.float64) + high) / 2, negative, positive

    def auc(self) -> float:
        """Area under the ROC curve; NaN where there is no positive or no negative pixel."""
        return float(area(*self._levels()[2:]))

    def bound(self) -> float:
        """How far `auc` can be from the exact AUC of the float32 scores.

        It is half the share of the pairs that lie in one bin with different scores, plus 1e-12 for
        rounding; true ties cost nothing. It is below 1e-5 unless nearly all scores lie within a few
        per cent of one another.
        """
        low, high, negative, positive = self._levels()
        tied = (negative.astype(np.float64) * positive)[low < high].sum()
        return float(divide(tied / 2, float(positive.sum()) * negative.sum())) + 1e-12

    def roc(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """False positive rate, true positive rate and threshold of each point of the ROC curve.

        Thresholds fall from infinity; a pixel is positive where score >= threshold.
        """
        low, _, negative, positive = self._levels()
        rates = [np.append(0, np.cumsum(n[::-1])) for n in (negative, positive)]
        fpr, tpr = (divide(rate, np.full(len(rate), rate[-1])) for rate in rates)
        return fpr, tpr, np.append(np.inf, low[::-1])

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and threshold of each point of the precision-recall curve.

        Thresholds rise; as in scikit-learn a last point (1, 0) has none. Recall is NaN where there
        is no positive pixel.
        """
        low, _, negative, positive = self._levels()
        fp, tp = (np.cumsum(n[::-1])[::-1] for n in (negative, positive))
        recall = divide(tp, np.full(len(tp), positive.sum()))
        return np.append(divide(tp, tp + fp), 1), np.append(recall, 0), low

    def average_precision(self) -> float:
        """Sum of precision times the step in recall, as in scikit-learn; NaN without positives.

        Different scores of one bin count as if in random order: off by less than about 1e-5,
        usually 1e-7.
        """
        low, high, negative, positive = self._levels()
        return float(precision_area(negative, positive, low < high))

    def sweep(self, thresholds=None) -> dict[str, np.ndarray]:
        """Columns threshold, tp, fp, fn, tn and every metric of counts, pooled over all pixels.

        One row per threshold (0.01 to 0.99 by default), positive where score >= threshold. A
        threshold inside a bin is moved to the bin's lower end: by less than 2e-5, and not at all at
        0.5 or among tied scores.
        """
        if thresholds is None:
            thresholds = np.linspace(0.01, 0.99, 99)
        thresholds = np.asarray(thresholds, np.float64)
        _, high, negative, positive = self._levels()
        first = np.searchsorted(high, thresholds.astype(np.float32))
        fn, tn = (np.append(0, np.cumsum(n))[first] for n in (positive, negative))
        tp, fp = positive.sum() - fn, negative.sum() - tn
        columns = {"threshold": thresholds, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
        counts = (count.astype(np.float64) for count in (tp, fp, fn, tn))
        return columns | tables.scores("counts", *counts)

    def best_threshold(self, metric: str = "dice") -> float:
        """The threshold with the best pooled `metric` (of counts), midway between two scores.

        NaN where there is no positive or no negative pixel. Choose it on validation, never on test.
        """
        low, high, negative, positive = self._levels()
        if not (negative.any() and positive.any()):
            return float("nan")
        values = self.sweep(low)[metric]
        if tables.METRICS[metric].less_is_better:
            values = -values
        best = int(np.nanargmax(values))
        below = high[best - 1] if best else np.float32(0)
        middle = (low[best] + below) / 2
        return float(middle if middle > below else low[best])

    def brier(self) -> float:
        """Mean squared difference of score and truth, each bin at its middle.

        Off by 8e-6 at most, in practice by 1e-8.
        """
        return float(squared_error(*self._middle()))

    def log_loss(self) -> float:
        """Mean binary cross-entropy (nats), each bin at its middle."""
        return float(cross_entropy(*self._middle()))

    def reliability(self, n_bins: int = 15) -> dict[str, np.ndarray]:
        """Columns low, high, predicted (mean score), observed (share of positives) and n.

        There are `n_bins` rows of equal width. A score within 1e-5 of an edge may be counted in the
        next row.
        """
        score, negative, positive = self._middle()
        edges = np.linspace(0, 1, n_bins + 1)
        row = np.searchsorted(edges[1:-1], score)  # a score on an edge belongs below it
        total = negative + positive
        n = np.bincount(row, total, n_bins)
        predicted = divide(np.bincount(row, total * score, n_bins), n)
        observed = divide(np.bincount(row, positive, n_bins), n)
        columns = {"low": edges[:-1], "high": edges[1:]}
        return columns | {"predicted": predicted, "observed": observed, "n": n.astype(int)}

    def ece(self, n_bins: int = 15) -> float:
        """Expected calibration error: the mean over pixels of |observed - predicted|.

        Both are those of the pixel's row in `reliability`.
        """
        table = self.reliability(n_bins)
        gaps = np.abs(table["observed"] - table["predicted"])
        return float(divide(np.nansum(gaps * table["n"]), table["n"].sum()))


def coarse(prob: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, COARSE) negative and positive pixels in bins about 3 % wide in odds.

    Small enough to keep one histogram for each patient, from which `bootstrap.curve_intervals`
    draws. Arrays as `HistogramROC.update` takes them.
    """
    counted = target != IGNORE
    prob, positive = prob[counted], target[counted] == 1
    bins = (np.minimum(prob, 1 - prob).astype(np.float16).view(np.uint16) >> 5).astype(np.int32)
    bins = np.where(prob < 0.5, bins, COARSE - 1 - bins) + COARSE * positive
    return np.bincount(bins, minlength=2 * COARSE).reshape(2, COARSE)


def _coarse_edges() -> np.ndarray:
    """(COARSE + 1,) float32: the ends of the bins of `coarse`, ascending."""
    below_half = np.arange(COARSE // 2 + 1, dtype=np.uint16) << 5  # float16 patterns from 0 to 0.5
    below_half = below_half.view(np.float16).astype(np.float32)
    return np.concatenate([below_half, 1 - below_half[::-1]])


class CoarseROC(HistogramROC):
    """The curves of a histogram of `coarse`: the same scores, less exact, in a hundredth of the
    time.

    `counts`: (2, COARSE) negative and positive pixels.
    """

    def __init__(self, counts: np.ndarray):
        self.counts = np.asarray(counts, np.int64).T

    def update(self, prob, target, valid=None) -> "CoarseROC":
        raise NotImplementedError("a coarse histogram takes no pixels; add the counts of `coarse`")

    def merge(self, other: "HistogramROC") -> "CoarseROC":
        raise NotImplementedError("add the counts of `coarse` instead")

    def _levels(self):
        bins = np.flatnonzero(self.counts.any(axis=1))
        edges = _coarse_edges()
        return edges[bins], edges[bins + 1], *self.counts[bins].T


def thin(x: np.ndarray, y: np.ndarray, points: int = 1000) -> np.ndarray:
    """Indices of at most `points` points of the curve (x, y) for drawing: even steps, both ends."""
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    steps = np.searchsorted(length, np.linspace(0, length[-1], points - 1))
    return np.unique(np.append(steps, len(x) - 1))


class Temperature:
    """Temperature scaling (Guo et al. 2017): the T at which `logits / T` has the least log loss.

    The losses of 41 temperatures from 1/8 to 8 are added up batch by batch, on every `step`-th
    pixel of both axes; a parabola through the lowest three gives T. Choose it on validation, never
    on test.
    """

    def __init__(self, task: str, step: int = 4):
        self.task, self.step = task, step
        self.grid = 2 ** np.linspace(-3, 3, 41)
        self.losses, self.n = np.zeros(41), 0

    def update(self, logits: Tensor, target: Tensor) -> "Temperature":
        """Add a batch: `logits` (N, K, H, W), `target` as the losses take it, 255 = ignored.

        Averaged probabilities can take the place of logits as `prob.log()` (multiclass) or
        `prob.logit(1e-7)`.
        """
        logits = logits[..., :: self.step, :: self.step]
        target = target[..., :: self.step, :: self.step]
        counted = target != IGNORE
        if self.task == "multiclass":
            logits = logits.movedim(1, 0)[:, counted]  # (classes, pixels)
        else:
            logits = torch.stack([torch.zeros_like(logits[counted]), logits[counted]])
        logits, target = logits.float(), target[counted].long()
        of_truth = logits.gather(0, target[None]).double().sum().item()
        for number, t in enumerate(self.grid):
            normaliser = (logits / t).logsumexp(0).double().sum().item()
            self.losses[number] += normaliser - of_truth / t
        self.n += len(target)
        return self

    def value(self) -> float:
        """The best temperature, above 1 where the network is overconfident; 1 without any pixel."""
        if not self.n:
            return 1.0
        best = int(np.clip(self.losses.argmin(), 1, len(self.grid) - 2))
        lowest = self.losses[best - 1 : best + 2] / self.n
        square, slope, _ = np.polyfit([-1, 0, 1], lowest, 2)
        offset = np.clip(-slope / (2 * square), -1, 1) if square > 0 else 0.0
        return float(self.grid[best] * (self.grid[1] / self.grid[0]) ** offset)
