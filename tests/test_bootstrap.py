"""Intervals: coverage by simulation, values by hand, SciPy and scikit-learn, undefined cases."""

import math
import re
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

from seglib import bootstrap
from tests import coverage as simulated


def coverage(draw, estimate, truth, sets=400):
    """Share of simulated data sets whose interval holds the truth."""
    rng = np.random.default_rng(7)
    n_covered = 0
    for number in range(sets):
        result = estimate(*draw(rng), resamples=200, seed=number)
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
    unlimited = (-math.inf, math.inf)
    same = bootstrap.interval(b - a, groups, resamples=8000, limits=unlimited)
    assert tuple(result[name] for name in ("value", "low", "high", "n")) == pytest.approx(same)
    ratios, means = [], []
    for _ in range(2000):
        drawn = rng.integers(0, 25, 25)
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        means.append((b - a)[rows].mean())
        sums = np.bincount(groups, b - a - (b - a).mean())[drawn]
        ratios.append(sums.mean() / scipy.stats.sem(sums))
    error = scipy.stats.sem(np.bincount(groups, b - a - (b - a).mean())) * 25 / len(a)
    farthest = np.percentile(ratios, (97.5, 2.5))
    student = scipy.stats.t.ppf(0.975, 20)  # the effective number is a little below 25
    expected = result["value"] - error * np.clip(farthest, (student, -99), (99, -student))
    assert result["value"] == pytest.approx((b - a).mean())
    assert (result["low"], result["high"]) == pytest.approx(expected, abs=1.5e-3)
    assert result["better"] == pytest.approx(np.mean(np.array(means) > 0), abs=0.02)
    swapped = bootstrap.paired(b, a, groups, resamples=8000)
    assert (swapped["low"], swapped["high"]) == pytest.approx((-result["high"], -result["low"]))
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
def test_auc_interval_is_the_jackknife_of_scikit_learn(ties):
    rng = np.random.default_rng(1)
    groups, shared = patients(rng, 40)
    labels = (rng.random(40) < 0.4)[groups]
    scores = rng.normal(0, 1, len(groups)) + labels + 0.3 * shared
    scores = np.round(scores) if ties else scores
    value, low, high, n = bootstrap.auc_interval(scores, labels, groups, resamples=6000)
    assert value == pytest.approx(sk.roc_auc_score(labels, scores)) and n == len(groups)
    without = [sk.roc_auc_score(labels[groups != g], scores[groups != g]) for g in range(40)]
    error = math.sqrt(39 / 40 * np.sum((without - np.mean(without)) ** 2))
    logit, spread = np.log(value / (1 - value)), error / (value * (1 - value))
    shortest = scipy.special.expit(logit + spread * np.array([-1, 1]) * scipy.stats.norm.ppf(0.975))
    assert low < shortest[0] and high > shortest[1]
    assert (low, high) == pytest.approx(shortest, abs=0.04)
    same_order = bootstrap.paired_auc(scores, 2 * scores + 1, labels, groups)
    assert same_order["value"] == 0 and same_order["better"] == 0.5
    assert math.isnan(same_order["low"]) and math.isnan(same_order["high"])
    reversed_order = bootstrap.paired_auc(
        np.append(scores, np.nan), np.append(-scores, 0), np.append(labels, 1), [*groups, 0]
    )
    assert reversed_order["value"] == pytest.approx(1 - 2 * value)
    assert (reversed_order["n"], reversed_order["n_left_out"]) == (n, 1)


def test_aucs_without_one_in_blocks_are_the_same():
    rng = np.random.default_rng(2)
    n = 6000
    scores, labels, groups = rng.random(n), rng.random(n) < 0.5, np.arange(n) % 1500
    _, without_one, _ = bootstrap._aucs_without_one([scores], labels, groups)  # three blocks
    for group in (0, 600, 1499):
        rest = groups != group
        expected = sk.roc_auc_score(labels[rest], scores[rest])
        assert without_one[0, group] == pytest.approx(expected)


def test_few_groups_are_student_and_many_equal_ones_the_normal_interval():
    """The ends are never closer than Student's t, and reach it for symmetric scores."""
    scores = np.random.default_rng(3).normal(10, 1, 400)
    result = bootstrap.interval(scores, np.arange(400), resamples=8000)
    error = scipy.stats.sem(scores)
    expected = scipy.stats.t.interval(0.95, 399, scores.mean(), error)
    assert result[1:3] == pytest.approx(expected, abs=0.1 * error)
    few = scores[:6]
    low, high = bootstrap.interval(few, np.arange(6))[1:3]
    student = scipy.stats.t.interval(0.95, 5, few.mean(), scipy.stats.sem(few))
    assert low <= student[0] + 1e-9 and high >= student[1] - 1e-9


# ---- coverage


QUICK = (
    "Dice, Beta(8, 2)",
    "Dice near 1, Beta(30, 1.5)",
    "rare, 50 % are 1, 20 % are 0",
    "1 to 4 images a patient",
    "pooled Dice, similar sizes",
)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("n", [8, 20])
def test_intervals_of_few_patients_cover(name, n):
    """93 to 98 %, with two standard errors of 400 sets on either side."""
    share, _, with_interval = simulated.coverage(simulated.POPULATIONS[name], n, 400, 200)
    assert 0.91 <= share <= 0.99 and with_interval == 1


def test_the_percentile_bootstrap_would_not_cover():
    shares = simulated.compared(simulated.POPULATIONS["Dice, Beta(8, 2)"], 8)
    assert shares["percentile"] < 0.9 < shares["here"]


# ---- no interval


@pytest.mark.parametrize("n", range(5))
def test_fewer_than_five_patients_have_no_interval(n):
    values, groups = np.linspace(0.5, 0.9, n), np.arange(n)
    of_mean = bootstrap.mean_estimate(values, groups)
    table = np.tile([5, 1, 2, 90], (n, 1)) + np.arange(n)[:, None]
    of_counts = bootstrap.pooled_estimate([table], [groups], "dice")
    difference, reason = bootstrap.compared(values, values**2, groups)
    for ends in (of_mean[1:3], of_counts[1:3], (difference["low"], difference["high"])):
        assert all(math.isnan(end) for end in ends)
    assert math.isnan(difference["better"])
    if n:
        words = "1 patient," if n == 1 else f"{n} patients, at least 5 are needed"
        for text in (of_mean.reason, of_counts.reason, reason):
            assert text.startswith(words)


def test_five_images_of_four_patients_are_four_patients():
    values, groups = np.linspace(0.5, 0.9, 8), np.arange(8) % 4
    assert bootstrap.mean_estimate(values, groups).reason.startswith("4 patients")
    assert math.isfinite(bootstrap.interval(values, np.arange(8) % 5)[1])


@pytest.mark.parametrize("value", [0.0, 0.6, 1.0])
def test_equal_scores_are_not_certain(value):
    """What nobody was seen to have may be missed: 1 - p of the patients, p ** n = 0.025."""
    mean, low, high, _ = bootstrap.interval(np.full(10, value), np.arange(10))
    seen = 0.025 ** (1 / 10)  # the exact lower limit of 10 successes of 10 (Clopper and Pearson)
    exact = scipy.stats.binomtest(10, 10).proportion_ci(method="exact").low
    assert seen == pytest.approx(exact)
    ends = (seen * value, seen * value + 1 - seen)
    assert mean == pytest.approx(value) and (low, high) == pytest.approx(ends)


@pytest.mark.parametrize("successes", [1, 4, 9])
def test_no_end_lies_beyond_clopper_and_pearson(successes):
    """For 0 and 1 the safe ends are exact; their percentiles are simulated."""
    values = (np.arange(10) < successes).astype(float)
    ends = bootstrap._safe_ends(values, 10.0, (0.0, 1.0), 200_000, 0)
    exact = scipy.stats.binomtest(successes, 10).proportion_ci(method="exact")
    assert ends == pytest.approx((exact.low, exact.high), abs=0.003)


def test_one_failure_among_many_does_not_send_the_end_far_away():
    """44 scores about 0.95 and one 0: at most 1 patient in 8 can be expected to fail."""
    values = np.append(0.95 + 0.01 * np.sin(np.arange(44)), 0.0)
    mean, low, high, _ = bootstrap.interval(values, np.arange(45))
    most = scipy.stats.binomtest(1, 45).proportion_ci(method="exact").high
    assert 0.95 * (1 - most) - 0.02 < low < mean < high < 0.96


def test_equal_distances_have_no_interval():
    result = bootstrap.mean_estimate(np.full(9, 2.5), np.arange(9), limits=(0, math.inf))
    assert math.isnan(result.low) and result.reason == "all patients have the same value"
    equal = bootstrap.paired(np.zeros(9), np.full(9, 0.1), np.arange(9))
    assert math.isnan(equal["low"]) and equal["better"] == 1


def test_a_value_outside_of_its_range_has_no_interval_and_says_so():
    result = bootstrap.mean_estimate([0.5, 3, 4, 2, 1], np.arange(5), limits=(0, 1))
    assert math.isnan(result.low) and "2.1 lies outside the range 0 to 1" in result.reason


def test_intervals_stay_in_the_range_of_the_score():
    rng = np.random.default_rng(0)
    for n in (5, 6, 8, 30):
        for _ in range(40):
            values = np.clip(rng.choice([0, 1, 0.97, 0.5], n) + rng.normal(0, 0.01, n), 0, 1)
            mean, low, high, _ = bootstrap.interval(values, np.arange(n), 200)
            assert 0 <= low <= mean <= high <= 1
            low, high = bootstrap.interval(40 * values, np.arange(n), 200, 0, (0, math.inf))[1:3]
            assert 0 <= low <= high


def test_one_patient_of_most_images_counts_for_little():
    """Nine patients of one image and one of a hundred say less than ten of eleven images."""
    values = np.random.default_rng(0).beta(8, 2, 109)
    lopsided = np.append(np.arange(9), np.full(100, 9))
    even = np.arange(109) % 10
    widths = [
        np.diff(bootstrap.interval(values, groups)[1:3]).item() for groups in (lopsided, even)
    ]
    assert widths[0] > 2 * widths[1]


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
        one_positive = bootstrap.auc_interval(range(9), [0] * 8 + [1], range(9))
        assert one_positive[0] == 1 and math.isnan(one_positive[1])
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
    values = np.array([0.1, np.nan, 0.5, 0.9, np.nan, 0.4, 0.6])
    patients = np.array(["a", "a", "b", "c", "d", "e", "f"])
    whole = bootstrap.interval(values, patients, seed=3)
    rows = [0, 2, 3, 5, 6]
    assert whole == bootstrap.interval(values[rows], patients[rows], seed=3)
    assert whole[0] == pytest.approx(0.5) and whole[3] == 5
    assert 0 <= whole[1] < 0.5 < whole[2] <= 1


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


def span(rows, digits=0):
    """The smallest and the largest number of a table, as text."""
    return [f"{round(float(end), digits):g}" for end in (np.min(rows), np.max(rows))]


def test_the_page_says_what_its_table_shows():
    page = simulated.PAGE.read_text(encoding="utf-8")
    table = page.split("<!-- coverage -->")[1].split("<!-- end of coverage -->")[0]
    cells = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    held = {row[0]: np.array([float(cell.split()[0]) for cell in row[2:]]) for row in cells}
    assert list(held) == list(simulated.POPULATIONS)  # columns: n = 5, 8, 10, 20, 50, 100
    failures, aucs, shares, ones, missed = (
        np.array([held.pop(name) for name in list(held) if re.match(pattern, name)])
        for pattern in ("Dice, .* are 0", "AUC", "1 in", "rare", "distance, 10")
    )
    failures, missed = 100 - failures, 100 - missed[0]
    few, (lowest, highest) = span(failures[0][1:4]), span(list(held.values()), 1)
    text = " ".join(page.split())
    for sentence in (
        f"in {' to '.join(span(missed[:3]))} % up to n = 10, in {missed[3]:.0f} % at 20 and in "
        f"{missed[4]:.0f} % at 50",
        f"in {failures[0][0]:.0f} % of the samples at n = 5, in {few[0]} to {few[1]} % at 8 to 20, "
        f"and still in {failures[0][4]:.0f} % at 50",
        f"misses in {' to '.join(span(failures[1][:3]))} % up to n = 10",
        f"an AUC holds the truth in {' to '.join(span(aucs[:, :4]))} %",
        f"of scores of 0 and 1 in {' to '.join(span(shares[:, :4]))} %",
        f"At 50 patients it is {' to '.join(span([*aucs[:, 4], *shares[:, 4]]))} %",
        f"scores are 1, it is {' to '.join(span(ones[:, :3]))} % up to n = 10",
        f"All other rows lie between {lowest} and {highest} %.",
    ):
        assert sentence in text
