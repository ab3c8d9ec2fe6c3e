"""Intervals: coverage by simulation, the same by hand and by scikit-learn, and undefined cases."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

from seglib import bootstrap


def coverage(draw, estimate, truth, sets=1500):
    """Share of simulated data sets whose interval holds the truth."""
    rng = np.random.default_rng(7)
    n_covered = 0
    for number in range(sets):
        result = estimate(*draw(rng), resamples=400, seed=number)
        low, high = (result["low"], result["high"]) if isinstance(result, dict) else result[1:3]
        n_covered += low <= truth <= high
    return n_covered / sets


def patients(rng, n=60):
    """The patient of each image, and what the images of a patient share."""
    groups = np.repeat(np.arange(n), rng.integers(1, 5, n))
    return groups, rng.normal(0, 1, n)[groups]


def test_paired_covers_the_mean_difference():
    def draw(rng):
        groups, shared = patients(rng)
        a = 0.7 + 0.1 * shared + rng.normal(0, 0.05, len(groups))
        difference = 0.02 + 0.03 * rng.normal(0, 1, 60)[groups] + rng.normal(0, 0.02, len(groups))
        return a, a + difference, groups

    assert 0.92 <= coverage(draw, bootstrap.paired, 0.02) <= 0.98


def test_auc_intervals_cover():
    def draw(rng):
        labels = rng.random(120) < 0.4
        sharp = rng.normal(0, 1, 120) + 1.5 * labels
        return sharp + rng.normal(0, 0.7, 120), sharp, labels, np.arange(120)

    def auc(variance):  # of two normals 1.5 apart
        return scipy.stats.norm.cdf(1.5 / math.sqrt(2 * variance))

    def of_b(a, b, labels, groups, **settings):
        return bootstrap.auc_interval(b, labels, groups, **settings)

    assert 0.92 <= coverage(draw, of_b, auc(1)) <= 0.98
    assert 0.92 <= coverage(draw, bootstrap.paired_auc, auc(1) - auc(1.49)) <= 0.98


def test_paired_is_the_bootstrap_by_hand():
    rng = np.random.default_rng(0)
    groups, shared = patients(rng, 25)
    a = 0.5 + 0.1 * shared
    b = a + rng.normal(0.01, 0.05, len(a))
    result = bootstrap.paired(a, b, groups, resamples=8000)
    same = bootstrap.interval(b - a, groups, resamples=8000)
    assert tuple(result[name] for name in ("value", "low", "high", "n")) == pytest.approx(same)
    drawn = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 25, 25)])
        drawn.append((b - a)[rows].mean())
    assert result["value"] == pytest.approx((b - a).mean())
    ends = np.percentile(drawn, (2.5, 97.5))
    assert (result["low"], result["high"]) == pytest.approx(ends, abs=1.5e-3)
    assert result["better"] == pytest.approx(np.mean(np.array(drawn) > 0), abs=0.02)
    swapped = bootstrap.paired(b, a, groups, resamples=8000)
    assert swapped["low"] == pytest.approx(-result["high"])
    assert swapped["better"] == pytest.approx(1 - result["better"])
    assert bootstrap.paired(a, a, groups)["better"] == 0.5
    assert bootstrap.paired(a, a + 0.1, groups)["better"] == 1


def test_paired_leaves_pairs_with_a_gap_out():
    a, b = np.array([0.1, np.nan, 0.5, 0.7, 0.2]), np.array([0.2, 0.9, np.nan, 0.6, 0.5])
    names = np.array(["x", "y", "z", "x", "w"])
    result = bootstrap.paired(a, b, names)
    rows = [0, 3, 4]
    assert result == {**bootstrap.paired(a[rows], b[rows], names[rows]), "n_left_out": 2}
    assert result["n"] == 3 and result["value"] == pytest.approx(0.1)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_interval_is_scikit_learn_on_resamples(ties):
    rng = np.random.default_rng(1)
    groups, shared = patients(rng, 40)
    labels = (rng.random(40) < 0.4)[groups]
    scores = rng.normal(0, 1, len(groups)) + labels + 0.3 * shared
    scores = np.round(scores) if ties else scores
    value, low, high, n = bootstrap.auc_interval(scores, labels, groups, resamples=6000)
    assert value == pytest.approx(sk.roc_auc_score(labels, scores)) and n == len(groups)
    drawn = []
    for _ in range(600):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 40, 40)])
        drawn.append(sk.roc_auc_score(labels[rows], scores[rows]))
    assert (low, high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.02)
    same_order = bootstrap.paired_auc(scores, 2 * scores + 1, labels, groups)
    assert same_order["value"] == same_order["low"] == same_order["high"] == 0
    assert same_order["better"] == 0.5
    reversed_order = bootstrap.paired_auc(
        np.append(scores, np.nan), np.append(-scores, 0), np.append(labels, 1), [*groups, 0]
    )
    assert reversed_order["value"] == pytest.approx(1 - 2 * value)
    assert (reversed_order["n"], reversed_order["n_left_out"]) == (n, 1)


def test_resamples_in_blocks_are_the_same():
    rng = np.random.default_rng(2)
    scores, labels, groups = rng.random(4000), rng.random(4000) < 0.5, np.arange(4000) % 50
    aucs = bootstrap._resampled_aucs([scores], labels, groups, 1200, 0)[1]  # more than one block
    group_of, weights = bootstrap._resample_weights(groups, 1200, 0)
    for row in (0, 600, 1199):
        expected = sk.roc_auc_score(labels, scores, sample_weight=weights[row, group_of])
        assert aucs[0, row] == pytest.approx(expected)


def test_comparisons_that_have_no_answer():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = bootstrap.paired([0.1, 0.2], [0.2, 0.4], ["x", "x"])
        assert one["value"] == pytest.approx(0.15)
        assert math.isnan(one["low"]) and math.isnan(one["better"])
        none = bootstrap.paired([np.nan], [0.2], ["x"])
        assert (none["n"], none["n_left_out"]) == (0, 1) and math.isnan(none["value"])
        value, low, high, n = bootstrap.auc_interval([0.1, 0.2], [1, 1], ["x", "y"])
        assert n == 2 and all(math.isnan(v) for v in (value, low, high))
        value, low, high, n = bootstrap.auc_interval([0.1, 0.2], [0, 1], ["x", "x"])
        assert (value, n) == (1, 2) and math.isnan(low) and math.isnan(high)
        assert math.isnan(bootstrap.paired_auc([], [], [], [])["value"])
    with pytest.raises(ValueError, match="expected one a row"):
        bootstrap.paired([0.1, 0.2], [0.1], ["x", "y"])
    with pytest.raises(ValueError, match="expected 0 and 1"):
        bootstrap.auc_interval([0.1, 0.2], [0, 2], ["x", "y"])


def test_interval_covers_the_mean_of_40_patients():
    def draw(rng):
        return rng.beta(8, 2, 40), np.arange(40)  # as Dice values lie: mean 0.8, skewed

    assert 0.90 <= coverage(draw, bootstrap.interval, 0.8) <= 0.98


def test_interval_covers_where_patients_have_many_correlated_images():
    def draw(rng):
        groups = np.repeat(np.arange(40), rng.integers(1, 6, 40))
        return rng.normal(0, 1, 40)[groups] + rng.normal(0, 0.2, len(groups)), groups

    assert 0.90 <= coverage(draw, bootstrap.interval, 0.0) <= 0.98

    def by_image(values, groups, **settings):
        return bootstrap.interval(values, np.arange(len(values)), **settings)

    assert coverage(draw, by_image, 0.0) < 0.85  # what is gained by drawing patients


def test_pooled_interval_covers_the_pooled_dice():
    def draw(rng):
        size = rng.integers(200, 2000, 40)
        tp = rng.binomial(size, rng.beta(8, 2, 40))
        return np.stack([tp, rng.poisson(0.1 * size), size - tp, 10 * size], axis=1), np.arange(40)

    truth = 2 * 0.8 / (2 * 0.8 + 0.1 + 0.2)  # of the expected counts, per true pixel

    def pooled(table, groups, **settings):
        return bootstrap.pooled_interval(table, groups, "dice", **settings)

    assert 0.90 <= coverage(draw, pooled, truth) <= 0.98


def test_equal_images_of_a_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    once = rng.beta(8, 2, 20)
    values, patients = np.repeat(once, 10), np.repeat(np.arange(20), 10)
    mean, low, high, n = bootstrap.interval(values, patients)
    assert (mean, n) == (pytest.approx(once.mean()), 200)
    assert (low, high) == pytest.approx(bootstrap.interval(once, np.arange(20))[1:3])
    _, naive_low, naive_high, _ = bootstrap.interval(values, np.arange(200))
    assert high - low > 2.5 * (naive_high - naive_low)  # sqrt(10) where images were patients

    wrong = 100 * (1 - once)
    counts = np.stack([100 * once, wrong, wrong, np.full(20, 900)], axis=1)
    table = np.repeat(counts, 10, axis=0)
    _, low, high, _ = bootstrap.pooled_interval(table, patients, "dice")
    _, naive_low, naive_high, _ = bootstrap.pooled_interval(table, np.arange(200), "dice")
    assert high - low > 2.5 * (naive_high - naive_low)


def test_interval_leaves_missing_values_out():
    values = np.array([0.1, np.nan, 0.5, 0.9, np.nan])
    patients = np.array(["a", "a", "b", "c", "d"])
    whole = bootstrap.interval(values, patients, seed=3)
    assert whole == bootstrap.interval(values[[0, 2, 3]], patients[[0, 2, 3]], seed=3)
    assert whole[0] == pytest.approx(0.5) and whole[3] == 3
    assert 0.1 <= whole[1] < 0.5 < whole[2] <= 0.9


def test_one_patient_has_a_value_but_no_interval():
    mean, low, high, n = bootstrap.interval([0.4, 0.6], ["a", "a"])
    assert (mean, n) == (0.5, 2) and math.isnan(low) and math.isnan(high)
    value, low, high, n = bootstrap.pooled_interval(
        [[3, 1, 1, 5], [3, 1, 1, 5]], ["a", "a"], "dice"
    )
    assert (value, n) == (0.75, 2) and math.isnan(low) and math.isnan(high)


def test_nothing_to_average_is_not_a_number():
    of_nan = bootstrap.interval([np.nan], ["a"])
    for result in (of_nan, bootstrap.interval([], []), bootstrap.pooled_interval([], [], "iou")):
        assert result[3] == 0 and all(math.isnan(value) for value in result[:3])


def test_a_ratio_that_no_resample_has_is_not_a_number_without_a_warning():
    """Nothing was predicted anywhere: no precision, whoever is drawn."""
    table = [[0, 0, 5, 20], [0, 0, 3, 20], [0, 0, 0, 20]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, low, high, n = bootstrap.pooled_interval(table, ["a", "b", "c"], "precision")
    assert n == 3 and math.isnan(value) and math.isnan(low) and math.isnan(high)


def test_intervals_repeat_by_seed():
    rng, patients = np.random.default_rng(1), np.arange(15)
    values, table = rng.random(15), rng.integers(1, 50, (15, 4))
    for interval, args in (
        (bootstrap.interval, (values, patients)),
        (bootstrap.pooled_interval, (table, patients, "iou")),
    ):
        first, again, other = (interval(*args, seed=seed) for seed in (5, 5, 6))
        assert first == again and first[1:3] != other[1:3]


def test_pooled_value_is_the_ratio_of_the_sums():
    table = np.random.default_rng(2).integers(0, 90, (12, 4))
    tp, fp, fn, tn = table.sum(axis=0)
    expected = {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp),
        "specificity": tn / (tn + fp),
    }
    for name, value in expected.items():
        pooled, low, high, n = bootstrap.pooled_interval(table, np.arange(12), name)
        assert pooled == pytest.approx(value) and low < pooled < high and n == 12
