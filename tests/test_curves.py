"""Curves from histograms against scikit-learn and torchmetrics, temperatures against scipy."""

import math
import pickle
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.calibration
import sklearn.metrics as sk
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seglib import curves, metrics
from seglib.curves import HistogramROC


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


# Kinds of scores that are hard to bin: functions of n random numbers (rng), logits and truth.
MAKERS = {
    "uniform": lambda rng, logits, truth: rng.random(len(logits)),
    "network": lambda rng, logits, truth: sigmoid(logits),
    "saturated": lambda rng, logits, truth: sigmoid(10 * logits),
    "0, 1 and next to 1": lambda rng, logits, truth: np.select(
        [logits < -2, logits < 0], [0, 1 - 1e-7], 1
    ),
    "constant": lambda rng, logits, truth: np.full(len(logits), 0.3),
    "two decimals": lambda rng, logits, truth: np.round(sigmoid(logits), 2),
    "8 bit": lambda rng, logits, truth: np.round(255 * sigmoid(logits)) / 255,
    "half precision": lambda rng, logits, truth: sigmoid(logits).astype(np.float16),
    "tiny": lambda rng, logits, truth: 1e-5 * rng.random(len(logits)),
    "around 1e-5": lambda rng, logits, truth: rng.normal(1e-5, 1e-6, len(logits)) + 1e-6 * truth,
    "tiny and tied": lambda rng, logits, truth: rng.integers(1, 9, len(logits)) * 1e-9,
    "rare": lambda rng, logits, truth: sigmoid(logits),
    "rare and tiny": lambda rng, logits, truth: 1e-5 * sigmoid(logits),
}
TIED = "0, 1 and next to 1|constant|two decimals|8 bit|half precision|tiny and tied".split("|")


def scored(kind, n=200_000, seed=0):
    """Float32 scores of one kind, and their truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < (1e-4 if kind.startswith("rare") else 0.08)
    logits = rng.normal(-2, 2, n) + 2.5 * truth
    return MAKERS[kind](rng, logits, truth).clip(0, 1).astype(np.float32), truth


# the ends, the middle, neighbours in float32, and where the width of the bins changes
EDGES = [0.0, 2.0**-126, 2.0**-24, 2.0**-18, 1e-5, 0.3, 0.5, 1 - 2.0**-9, 1 - 2.0**-24, 1.0]
SCORE = st.sampled_from([float(np.float32(edge)) for edge in EDGES])
SCORE |= st.floats(0, 1, width=32, allow_subnormal=False)  # some processors round these to 0


@st.composite
def pixels(draw):
    """Scores and truth with both labels in it."""
    prob = draw(hnp.arrays(np.float32, st.integers(2, 60), elements=SCORE))
    truth = draw(hnp.arrays(bool, prob.shape))
    truth[:2] = False, True
    return prob, truth


# ---- bins


def test_bins_rise_with_the_score_and_can_be_inverted():
    bins = np.arange(curves.BINS)
    lowest = curves._lowest(bins)
    assert (np.diff(lowest) > 0).all() and lowest[0] == 0
    np.testing.assert_array_equal(curves._bins(lowest.view(np.float32)), bins)
    np.testing.assert_array_equal(curves._bins((lowest[1:] - 1).view(np.float32)), bins[:-1])
    assert np.diff(lowest[::8]).max() <= 2**15  # so 15 bits tell the scores of eight bins apart
    everything = HistogramROC().update(lowest.view(np.float32), bins % 2)
    assert (everything.counts.sum(axis=1) == 1).all()
    assert everything.counts.nbytes + everything._only.nbytes < 25e6


# ---- AUC and curves


@pytest.mark.parametrize("kind", MAKERS)
def test_hard_scores_agree_with_scikit_learn(kind):
    prob, truth = scored(kind)
    roc = HistogramROC().update(prob, truth)
    assert abs(roc.auc() - sk.roc_auc_score(truth, prob)) <= roc.bound() < 1e-5
    assert roc.bound() < 2e-12 if kind in TIED else roc.bound() > 1e-12
    # One rank at the top of the list of 16,000 positives is 6e-5.
    tolerance = 1e-5 if kind == "tiny" else 1e-6
    expected = sk.average_precision_score(truth, prob)
    assert roc.average_precision() == pytest.approx(expected, abs=tolerance)
    wide = prob.astype(np.float64)
    assert roc.brier() == pytest.approx(sk.brier_score_loss(truth, wide), abs=1e-7)
    clipped = np.clip(wide, 1e-7, 1 - 1e-7)
    assert roc.log_loss() == pytest.approx(sk.log_loss(truth, clipped), abs=1e-6)
    assert roc.log_loss() == pytest.approx(metrics.bce(prob, truth), abs=1e-6)


@given(pixels())
def test_few_scores_agree_with_scikit_learn(pair):
    prob, truth = pair
    roc = HistogramROC().update(prob, truth)
    assert abs(roc.auc() - sk.roc_auc_score(truth, prob)) <= roc.bound()
    if roc.bound() > 1e-12:  # different scores in one bin: only bounded
        return
    theirs = sk.roc_curve(truth, prob, drop_intermediate=False)
    for ours, other in zip(roc.roc(), theirs):
        np.testing.assert_allclose(ours, other, atol=1e-12)


@pytest.mark.parametrize("kind", TIED)
def test_curves_of_tied_scores_are_scikit_learns_point_by_point(kind):
    prob, truth = scored(kind, 20_000)
    roc = HistogramROC().update(prob, truth)
    for ours, theirs in zip(roc.roc(), sk.roc_curve(truth, prob, drop_intermediate=False)):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    for ours, theirs in zip(roc.precision_recall(), sk.precision_recall_curve(truth, prob)):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    expected = sk.average_precision_score(truth, prob)
    assert roc.average_precision() == pytest.approx(expected, abs=1e-12)


def test_every_point_of_a_curve_is_exact_at_its_threshold():
    prob, truth = scored("around 1e-5")
    roc = HistogramROC().update(prob, truth)
    fpr, tpr, thresholds = roc.roc()
    precision, recall, rising = roc.precision_recall()
    np.testing.assert_array_equal(rising[::-1], thresholds[1:])
    for place in range(0, len(rising), len(rising) // 20):
        chosen = prob >= rising[place]
        assert recall[place] == pytest.approx(chosen[truth].mean(), abs=1e-12)
        assert precision[place] == pytest.approx(truth[chosen].mean(), abs=1e-12)
        assert fpr[::-1][place] == pytest.approx(chosen[~truth].mean(), abs=1e-12)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1], precision[-1], recall[-1]) == (0, 0, 1, 1, 1, 0)


def test_torchmetrics_agrees():
    prob, truth = scored("8 bit", 20_000)
    roc = HistogramROC().update(prob, truth)
    scores, target = torch.from_numpy(prob), torch.from_numpy(truth).long()
    assert roc.auc() == pytest.approx(tm.binary_auroc(scores, target).item(), abs=1e-6)
    expected = tm.binary_average_precision(scores, target).item()
    assert roc.average_precision() == pytest.approx(expected, abs=1e-6)
    error = tm.binary_calibration_error(scores, target, n_bins=16).item()
    assert roc.ece(16) == pytest.approx(error, abs=1e-6)


@given(pixels(), st.integers(0, 9999))
def test_order_and_parts_do_not_matter(pair, seed):
    prob, truth = pair
    whole = HistogramROC().update(prob, truth)
    order = np.random.default_rng(seed).permutation(len(prob))
    halves = [HistogramROC().update(prob[half], truth[half]) for half in np.array_split(order, 2)]
    merged = halves[0].merge(pickle.loads(pickle.dumps(halves[1])))
    assert merged is halves[0]
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(merged._only, whole._only)


def test_more_than_one_chunk_and_many_updates_are_one():
    prob, truth = scored("network")
    whole = HistogramROC().update(prob, truth)
    parts = HistogramROC()
    for start in range(0, len(prob), 30_001):
        parts.update(prob[start : start + 30_001], truth[start : start + 30_001])
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert (parts.auc(), parts.bound(), parts.ece()) == (whole.auc(), whole.bound(), whole.ece())
    assert whole.counts.sum() == len(prob)


def test_counts_beyond_32_bits():
    roc = HistogramROC().update([0.2, 0.7], [0, 1])
    for _ in range(32):
        roc.merge(roc)
    assert roc.counts.sum() == 2**33 and roc.auc() == 1
    assert roc.brier() == pytest.approx((0.04 + 0.09) / 2)


@given(pixels())
def test_perfect_and_complement(pair):
    prob, truth = pair
    perfect = HistogramROC().update(truth.astype(np.float32), truth)
    assert perfect.auc() == perfect.average_precision() == 1
    assert perfect.brier() == perfect.ece() == 0
    ours, other = HistogramROC().update(prob, truth), HistogramROC().update(prob, ~truth)
    assert other.auc() == pytest.approx(1 - ours.auc(), abs=1e-12)


@given(pixels(), st.data())
def test_ignored_pixels_do_not_count(pair, data):
    prob, truth = pair
    valid = data.draw(hnp.arrays(bool, prob.shape))
    dirty = np.where(valid, prob, np.nan)
    expected = HistogramROC().update(prob[valid], truth[valid]).counts
    np.testing.assert_array_equal(HistogramROC().update(dirty, truth, valid).counts, expected)
    marked = np.where(valid, truth, 255).astype(np.uint8)
    np.testing.assert_array_equal(HistogramROC().update(dirty, marked).counts, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))],
)
def test_tensors_of_every_type_and_shape(dtype, device):
    prob, truth = (torch.from_numpy(a[:1200]) for a in scored("network"))
    prob = prob.to(dtype)
    expected = HistogramROC().update(prob.float().numpy(), truth.numpy())
    shaped = prob.reshape(2, 3, 200).transpose(0, 2).to(device)
    target = truth.reshape(2, 3, 200).transpose(0, 2).to(torch.uint8).to(device)
    for labels in (target, target.bool()):
        counts = HistogramROC().update(shaped, labels).counts
        np.testing.assert_array_equal(counts, expected.counts)


@pytest.mark.parametrize(
    ("prob", "target", "message"),
    [
        ([0.1, np.nan], [0, 1], "1 NaN, the rest 0.1 to 0.1"),
        ([np.nan, np.nan], [0, 1], "2 NaN"),
        ([-0.5, 0.5], [0, 1], "-0.5 to 0.5"),
        ([0.5, 3.0], [0, 1], r"0.5 to 3; expected \[0, 1\]"),
        ([0.5, np.inf], [0, 1], "0.5 to inf"),
        ([0.1, 0.2], [0, 2], r"\[0 2\]; expected 0, 1 and 255"),
        ([0.1, 0.2], [0.0, 0.5], "0.5"),
        ([0.1, 0.2], [[0], [1]], r"\(2,\), \(2, 1\)"),
    ],
)
def test_what_cannot_be_counted_is_named(prob, target, message):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("error")
        HistogramROC().update(np.array(prob, np.float32), np.array(target))


@pytest.mark.parametrize("wrong", [np.nan, 1.5])
def test_an_update_that_fails_counts_nothing(wrong):
    """The wrong score lies in the third chunk; the first two must not stay behind."""
    prob, truth = (np.tile(values, 3)[: 3 * curves.CHUNK] for values in scored("network"))
    roc = HistogramROC().update(prob[:1000], truth[:1000])
    before = roc.counts.copy(), roc.bound(), roc.auc()
    dirty = prob.copy()
    dirty[-1] = wrong
    with pytest.raises(ValueError, match="scores: found"):
        roc.update(dirty, truth)
    np.testing.assert_array_equal(roc.counts, before[0])
    assert (roc.bound(), roc.auc()) == before[1:]


def test_minus_zero_is_zero():
    assert HistogramROC().update([-0.0, 0.0], [0, 1]).bound() < 2e-12


@pytest.mark.parametrize("truth", [[], [0, 0, 0], [1, 1, 1]])
def test_one_label_or_no_pixel_is_not_a_number_without_a_warning(truth):
    roc = HistogramROC().update(np.linspace(0.2, 0.8, len(truth)), np.array(truth, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (roc.auc(), roc.bound(), roc.best_threshold()):
            assert math.isnan(value)
        fpr, tpr, thresholds = roc.roc()
        assert len(fpr) == len(tpr) == len(thresholds) == len(truth) + 1
        assert math.isnan(roc.average_precision()) == (1 not in truth)
        for value in (roc.brier(), roc.ece(), roc.log_loss()):
            assert math.isnan(value) == (not truth)
        assert roc.sweep()["tp"].max() == sum(truth) and len(roc.reliability(4)["n"]) == 4
        roc.precision_recall()


# ---- thresholds and calibration


@given(pixels(), st.lists(SCORE, min_size=1, max_size=5))
def test_sweep_is_the_ratios_of_the_counts(pair, thresholds):
    prob, truth = pair
    roc = HistogramROC().update(prob, truth)
    if roc.bound() > 1e-12:
        return
    table = roc.sweep(thresholds)
    for row, threshold in enumerate(thresholds):
        count = metrics.counts(prob >= np.float32(threshold), truth)
        assert {name: table[name][row] for name in count} == count
        for name, value in metrics.ratios(**count).items():
            assert table[name][row] == pytest.approx(float(value), nan_ok=True)


def test_sweep_of_mixed_bins_is_next_to_exact():
    prob, truth = scored("uniform")
    table = HistogramROC().update(prob, truth).sweep()
    assert len(table["threshold"]) == 99
    exact = [np.count_nonzero(prob >= np.float32(t)) for t in table["threshold"]]
    assert np.abs(table["tp"] + table["fp"] - exact).max() <= 10  # of 200,000: those of one bin
    assert (table["tp"] + table["fp"])[49] == exact[49]  # at 0.5 it is exact


@given(pixels(), st.sampled_from(["dice", "iou", "accuracy"]))
def test_best_threshold_is_the_best(pair, metric):
    prob, truth = pair
    roc = HistogramROC().update(prob, truth)
    best = roc.best_threshold(metric)

    def score(threshold):
        return float(metrics.ratios(**metrics.counts(prob >= threshold, truth))[metric])

    reached, highest = score(np.float32(best)), max(map(score, np.unique(prob)))
    if roc.bound() < 2e-12:
        assert reached == pytest.approx(highest)
    else:
        assert reached <= highest + 1e-12


def test_best_threshold_lies_in_the_middle_of_a_gap():
    roc = HistogramROC().update([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert roc.best_threshold() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "rows", "close"),
    [
        ("network", 16, 1e-6),
        ("network", 15, 5e-5),  # no bin ends exactly at the edges of the rows
        ("two decimals", 15, 1e-9),
        ("saturated", 15, 5e-5),
    ],
)
def test_reliability_is_scikit_learns_calibration_curve(kind, rows, close):
    prob, truth = scored(kind)
    roc = HistogramROC().update(prob, truth)
    table = roc.reliability(rows)
    observed, predicted = sklearn.calibration.calibration_curve(
        truth, prob.astype(np.float64), n_bins=rows
    )
    used = table["n"] > 0
    np.testing.assert_allclose(table["observed"][used], observed, atol=close)
    np.testing.assert_allclose(table["predicted"][used], predicted, atol=close)
    assert table["n"].sum() == len(prob)
    row = np.searchsorted(np.linspace(0, 1, 16)[1:-1], prob)
    differences = truth - prob.astype(np.float64)
    gaps = [abs(differences[row == number].sum()) for number in range(15)]
    assert roc.ece() == pytest.approx(sum(gaps) / len(prob), abs=1e-6)


def test_thin_keeps_the_ends_and_the_shape():
    fpr, tpr, _ = HistogramROC().update(*scored("network")).roc()
    kept = curves.thin(fpr, tpr, 500)
    assert len(kept) <= 500 and kept[0] == 0 and kept[-1] == len(fpr) - 1
    assert sk.auc(fpr[kept], tpr[kept]) == pytest.approx(sk.auc(fpr, tpr), abs=1e-4)
    assert curves.thin(np.array([0.0, 1.0]), np.array([0.0, 1.0])).tolist() == [0, 1]


# ---- temperature


@pytest.mark.parametrize("true", [0.5, 1.0, 2.7])
@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_temperature_is_the_minimum_of_the_log_loss(task, true):
    torch.manual_seed(0)
    k = 1 if task == "binary" else 3
    logits = 2 * torch.randn(2, k, 40, 40)  # calibrated; the network's are `true` times as large
    prob = metrics.probabilities(logits, task)
    if task == "multiclass":
        target = torch.multinomial(prob.movedim(1, -1).reshape(-1, k), 1).reshape(2, 40, 40)
        loss = torch.nn.functional.cross_entropy
    else:
        target = torch.bernoulli(prob)
        loss = torch.nn.functional.binary_cross_entropy_with_logits

    def log_loss(t):
        return loss(true * logits / t, target).item()

    best = scipy.optimize.minimize_scalar(log_loss, bounds=(0.1, 9)).x
    temperature = curves.Temperature(task, step=1)
    for image in range(2):
        temperature.update(true * logits[image, None], target[image, None])
    temperature.update(torch.randn(1, k, 40, 40), torch.full_like(target[:1], 255))
    assert temperature.value() == pytest.approx(best, rel=5e-3)
    assert temperature.value() == pytest.approx(true, rel=0.15)
    assert temperature.n == target.numel()
    of_prob = curves.Temperature(task, step=1)
    logged = prob.log() if task == "multiclass" else prob.logit(1e-7)
    of_prob.update(logged * true, target)
    assert of_prob.value() == pytest.approx(temperature.value(), rel=1e-3)


def test_temperature_of_nothing_of_certainty_and_of_a_step():
    assert curves.Temperature("binary").value() == 1
    logits = torch.tensor([[[[-1.0, 1.0]]]])
    certain = curves.Temperature("binary", step=1).update(logits, logits > 0)
    assert certain.value() == pytest.approx(1 / 8, rel=0.2)
    zeros = torch.zeros(1, 1, 9, 9)
    assert curves.Temperature("binary").update(zeros, zeros).n == 9
