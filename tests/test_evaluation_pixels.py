"""Curves and confusion of all pixels, computed a second way by scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics as sk

from seglib import bootstrap, curves, data, evaluation, tables
from seglib.errors import DataError
from tests.evaluations import pixels_of, report_of
from tests.helpers import (
    PALM_CLASSES,
    FakePredictor,
    all_in,
    blurred,
    cardiac_config,
    label_store,
    labelled,
)

pytestmark = pytest.mark.usefixtures("no_warnings")


def test_scores_of_pixels_are_scikit_learns(palm):
    report = report_of(palm)
    summary = report.summary[report.summary["average"] == "pixels"].set_index(["class", "metric"])
    for k, name in enumerate(PALM_CLASSES):
        prob, truth, _ = pixels_of(palm, k)
        value = summary["value"][name]
        bound = report.curves[name].bound()
        assert (
            value["auc"] == pytest.approx(sk.roc_auc_score(truth, prob), abs=bound) and bound < 1e-5
        )
        assert value["average_precision"] == pytest.approx(
            sk.average_precision_score(truth, prob), abs=1e-5
        )
        assert value["brier"] == pytest.approx(sk.brier_score_loss(truth, prob), abs=1e-6)
        assert value["log_loss"] == pytest.approx(sk.log_loss(truth, prob.astype(float)), abs=1e-5)
        rows = report.per_image[(report.per_image["class"] == name) & report.per_image["annotated"]]
        assert summary.loc[(name, "auc"), "n"] == len(rows)
    areas = summary["value"].xs("auc", level=1)
    assert areas["mean"] == pytest.approx(areas[list(PALM_CLASSES)].mean())


def test_intervals_of_pixel_scores_are_those_of_patients(palm):
    """From scikit-learn's scores without one patient each, of the pixels themselves."""
    report = report_of(palm, bootstrap=400)
    summary = report.summary[report.summary["average"] == "pixels"].set_index(["class", "metric"])
    for k, name in enumerate(PALM_CLASSES):
        prob, truth, patients = pixels_of(palm, k)
        for metric, of in (
            ("auc", sk.roc_auc_score),
            ("average_precision", sk.average_precision_score),
            ("brier", sk.brier_score_loss),
        ):
            row, names = summary.loc[(name, metric)], np.unique(patients)
            if len(names) < 5:
                assert np.isnan(row["low"]) and row["no_interval"].startswith(f"{len(names)} pat")
                continue
            without = np.array([of(truth[patients != p], prob[patients != p]) for p in names])
            sizes = [np.sum(patients == p) for p in names]
            effective = bootstrap._effective_number(sizes)
            value, limits = of(truth, prob), bootstrap.limits_of(metric)
            expected = bootstrap._interval(value, without, effective, limits, 400, 0)
            assert (row["low"], row["high"]) == pytest.approx(expected[:2], abs=0.004), (
                name,
                metric,
            )
            assert row["no_interval"] == "" and row["low"] < value < row["high"]


def test_a_metric_of_histograms_is_one_entry_with_an_interval(palm, monkeypatch):
    def best_dice(curve):
        return float(np.max(curve.sweep()["dice"]))

    monkeypatch.setitem(tables.METRICS, "best_dice", tables.Metric(best_dice, "histogram"))
    summary = report_of(palm).summary
    rows = summary[summary["metric"].isin(["best_dice", "ece"])].set_index(["class", "metric"])
    for name in ("atrophy", "disc"):
        for metric in ("best_dice", "ece"):
            row = rows.loc[(name, metric)]
            assert 0 <= row["low"] < row["value"] < row["high"] <= 1


def test_coarse_counts_are_a_histogram():
    rng = np.random.default_rng(0)
    prob, target = (
        rng.random(50_000).astype(np.float32),
        rng.integers(0, 2, 50_000).astype(np.uint8),
    )
    prob[:6] = [0, 1, 0.5, 1e-7, 1 - 1e-7, 0.25]
    target[::7] = 255
    negative, positive = curves.coarse(prob, target)
    assert (negative.sum(), positive.sum()) == ((target == 0).sum(), (target == 1).sum())
    scores = curves.CoarseROC(np.ones((2, curves.COARSE)))._middle()[0]
    coarse = curves.CoarseROC([negative, positive])
    fine = curves.HistogramROC().update(prob, target)
    for name in ("auc", "average_precision", "brier", "log_loss", "ece"):
        assert getattr(coarse, name)() == pytest.approx(getattr(fine, name)(), abs=2e-3)
    assert (
        len(scores) == len(negative)
        and (np.diff(scores) > 0).all()
        and 0 <= scores[0]
        and scores[-1] <= 1
    )
    for score in (
        1e-4,
        0.03,
        0.3,
        0.5,
        0.7,
        0.97,
        0.9999,
    ):  # a bin's middle is within 3 % of the odds
        one = curves.coarse(np.full(5, score, np.float32), np.ones(5, np.uint8))[1]
        middle = scores[one.argmax()]
        assert (
            middle / (1 - middle) == pytest.approx(score / (1 - score), rel=0.04) and one.sum() == 5
        )


def test_confusion_is_scikit_learns(palm, tmp_path):
    report = report_of(palm)
    assert list(report.confusion) == list(PALM_CLASSES)
    for k, name in enumerate(PALM_CLASSES):
        prob, truth, _ = pixels_of(palm, k)
        assert (report.confusion[name].to_numpy() == sk.confusion_matrix(truth, prob >= 0.5)).all()
    cfg = cardiac_config()
    store = label_store(tmp_path / "hearts", cfg)
    fake = FakePredictor(cfg, lambda pixels: np.roll(labelled(pixels), 3, axis=-1))
    report = evaluation.evaluate(fake, data.loaders(all_in(store, "test"), cfg)["test"])
    pictures, masks = store.open()
    pred = np.stack(
        [fake.respond(p.transpose(2, 0, 1)[None].astype(float))[0].argmax(0) for p in pictures]
    )
    known = masks[..., 0] != 255
    expected = sk.confusion_matrix(masks[..., 0][known], pred[known], labels=range(cfg.n_classes))
    assert (report.confusion["pixels"].to_numpy() == expected).all()
    assert list(report.confusion["pixels"]) == list(cfg.class_names)


def test_scores_that_are_no_numbers_are_named(palm):
    with pytest.raises(DataError, match="case0, class .*no probability.*NaN"):
        report_of(palm, say=lambda pixels: blurred(pixels) * np.nan)
