"""Whole reports: their tables and means, what is missing, and what is written."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import bootstrap, config, data, evaluation, summary, tables
from seglib.errors import DataError
from tests.evaluations import COLUMNS, loaders_of, nothing, rare_store, report_on
from tests.helpers import PALM_CLASSES, FakePredictor, all_in, blurred, hand_store, perfect

SUMMARY = "class metric average value low high n n_empty n_missing unit no_interval grid".split()

# ---- rows


def test_columns_are_those_of_the_design(palm):
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, blurred), batches["test"])
    assert list(report.per_image) == COLUMNS
    assert list(report.summary) == SUMMARY
    assert list(zip(report.per_image["case"], report.per_image["class"])) == [
        (case, name) for case in ("case7", "case8") for name in PALM_CLASSES
    ]
    assert report.per_image["patient"].tolist() == ["p7"] * 3 + ["p8"] * 3
    assert report.per_volume.empty and set(report.summary["grid"]) == {"store"}


def test_missing_masks_are_left_out_and_counted(palm):
    cfg, store, _ = palm
    report = evaluation.evaluate(
        FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    missing = {"atrophy": 2, "detachment": 6, "disc": 1, "mean": 9}
    for name, count in missing.items():
        rows = report.summary[report.summary["class"] == name]
        assert set(rows["n_missing"]) == {count}
        per_image = rows[(rows["metric"] == "dice") & (rows["average"] == "per image")]
        # case 5 has no mask at all, so 8 images have some class to average
        assert per_image["n"].item() == (8 if name == "mean" else 9 - count)
    assert "n_missing" in report.text()


def test_a_class_that_is_missing_everywhere_is_still_reported_as_missing(palm):
    """The number left out is printed, all the more where it is all of them."""
    cfg, store, _ = palm
    store.cases = store.cases.assign(detachment="", split="test")
    report = evaluation.evaluate(FakePredictor(cfg, blurred), data.loaders(store, cfg)["test"])
    rows = report.summary[report.summary["class"] == "detachment"]
    assert (
        len(rows)
        and set(rows["n_missing"]) == {9}
        and set(rows["n"]) == {0}
        and rows["value"].isna().all()
    )


def test_a_part_without_any_mask_gives_a_report_of_nothing(palm):
    cfg, store, _ = palm
    store.cases = store.cases[store.cases["case"] == "case5"].assign(split="test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluation.evaluate(FakePredictor(cfg, blurred), data.loaders(store, cfg)["test"])
    assert list(report.summary) == SUMMARY and not report.summary["value"].notna().any()
    assert len(report.per_image) == 3 and report.table() is not None and report.text()


# ---- summary


def test_summary_is_reduced_from_the_rows(palm):
    cfg, store, _ = palm
    store.cases["patient"] = list("aabbccdde")
    report = evaluation.evaluate(
        FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    for name in PALM_CLASSES:
        rows = report.per_image[(report.per_image["class"] == name) & report.per_image["annotated"]]
        summary = report.summary[report.summary["class"] == name].set_index(["metric", "average"])
        longest = np.hypot(*cfg.height_width)
        for metric in ("dice", "bce", "hd95", "nsd"):
            found = summary.loc[(metric, "per image")]
            expected = bootstrap.interval(
                rows[metric],
                rows["patient"],
                cfg.bootstrap,
                cfg.seed,
                bootstrap.limits_of(metric, longest if metric == "hd95" else math.inf),
            )
            values = found[["value", "low", "high", "n"]].tolist()
            # The diagonal, without padding, differs between the images of this store.
            rel = 0.05 if metric == "hd95" else 1e-6
            assert values == pytest.approx(list(expected), rel, nan_ok=True)
            assert found["value"] == pytest.approx(rows[metric].mean())
            if rows["patient"].nunique() < 5:
                assert found["no_interval"].startswith(f"{rows['patient'].nunique()} patients")
            else:
                assert found["low"] < found["value"] < found["high"]
        tp, fp, fn, tn = rows[["tp", "fp", "fn", "tn"]].sum()
        assert summary.loc[("dice", "pooled"), "value"] == pytest.approx(
            2 * tp / (2 * tp + fp + fn)
        )
        assert summary.loc[("accuracy", "pooled"), "value"] == pytest.approx(
            (tp + tn) / (tp + fp + fn + tn)
        )
        assert ("hd95", "pooled") not in summary.index and ("bce", "pooled") not in summary.index
    scored = report.per_image[report.per_image["annotated"]]
    mean = report.summary[
        (report.summary["class"] == "mean") & (report.summary["metric"] == "dice")
    ]
    assert mean["average"].tolist() == ["per image"]
    assert mean["value"].item() == pytest.approx(scored.groupby("case")["dice"].mean().mean())


def test_one_patient_has_no_interval(palm):
    cfg, store, _ = palm
    store.cases["patient"] = "one"
    report = evaluation.evaluate(
        FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    assert (
        report.summary[["low", "high"]].isna().all(axis=None)
        and report.summary["value"].notna().all()
    )


# ---- metrics of one's own


@pytest.mark.usefixtures("no_warnings")
def test_a_metric_of_counts_is_one_entry(palm, monkeypatch, tmp_path):
    """It is a column by image, a row of the summary, in the JSON, and compared."""
    cfg, store, _ = palm

    def miss_rate(tp, fp, fn, tn):
        return fn / np.maximum(tp + fn, 1)

    entry = tables.Metric(miss_rate, "counts", best=0.0, worst=1.0)
    monkeypatch.setitem(tables.METRICS, "miss_rate", entry)
    loader = data.loaders(all_in(store, "test"), cfg)["test"]
    reports = [evaluation.evaluate(FakePredictor(cfg, say), loader) for say in (blurred, perfect)]
    scored = reports[0].per_image[reports[0].per_image["annotated"]]
    assert scored["miss_rate"].to_numpy() == pytest.approx(1 - scored["recall"].to_numpy())
    averages = reports[0].summary.query("metric == 'miss_rate'").groupby("class")["average"]
    assert averages.get_group("disc").tolist() == ["per image", "pooled"]
    worst = reports[0].worst(1, "miss_rate")["miss_rate"].item()
    assert worst == scored["miss_rate"].max()
    check_saved_and_compared(reports, "miss_rate", tmp_path)


@pytest.mark.usefixtures("no_warnings")
def test_a_metric_of_distances_is_one_entry(palm, monkeypatch, tmp_path):
    cfg, store, _ = palm

    def largest(distances):
        return float(max(distances.to_truth.max(), distances.to_pred.max()))

    entry = tables.Metric(largest, "distances", best=0.0, worst=math.inf)
    monkeypatch.setitem(tables.METRICS, "hausdorff", entry)
    loader = data.loaders(all_in(store, "test"), cfg)["test"]
    reports = [evaluation.evaluate(FakePredictor(cfg, say), loader) for say in (blurred, perfect)]
    scored = reports[0].per_image[reports[0].per_image["annotated"]]
    assert (scored["hausdorff"] >= scored["hd95"]).all() and scored["hausdorff"].max() > 1
    assert set(reports[0].summary.query("metric == 'hausdorff'")["average"]) == {"per image"}
    check_saved_and_compared(reports, "hausdorff", tmp_path)


def check_saved_and_compared(reports, metric, folder):
    """The JSON of two reports holds the metric; `compare` finds the second, perfect one better."""
    paths = [report.save(folder / str(k)) for k, report in enumerate(reports)]
    saved = json.loads((paths[0] / "evaluation_report.json").read_text())
    assert metric in saved["per_image"]["columns"]
    assert metric in {row["metric"] for row in saved["summary"]}
    row = evaluation.compare(*paths, metric=metric).set_index("class").loc["mean"]
    assert row["difference"] < 0 and row["better"] == 1


# ---- runs and errors


def test_validation_agrees_with_the_history(lung_run):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["val"])
    kept = run.history[run.history["best"]].iloc[-1]
    assert report.table("dice")["value"].item() == pytest.approx(kept["val_dice"], abs=1e-4)
    assert report.table("accuracy")["value"].item() == pytest.approx(kept["val_accuracy"], abs=0.01)


def test_an_unknown_grid_is_an_error(palm):
    cfg, _, batches = palm
    with pytest.raises(DataError, match="'finest'.*'store' or 'original'"):
        evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"], grid="finest")


# ---- the report's methods


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_save_writes_its_files(lung_run, tmp_path):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["test"])
    folder = report.save(tmp_path / "deep" / "results")
    pictures = ["metrics_distribution.png", "sample_predictions.png", "worst_cases.png"]
    texts = ["evaluation_report.txt", "evaluation_report.json", "per_image.csv"]
    assert set(pictures + texts) <= {p.name for p in folder.iterdir()}
    assert all(Image.open(folder / name).size[0] > 200 for name in pictures)
    # An empty cell of a number is NaN, such as the precision where nothing is predicted.
    numbers = report.per_image.select_dtypes("number").columns
    reloaded = pd.read_csv(
        folder / "per_image.csv", keep_default_na=False, na_values=dict.fromkeys(numbers, [""])
    )
    pd.testing.assert_frame_equal(reloaded, report.per_image, check_dtype=False)
    text = (folder / "evaluation_report.txt").read_text()
    assert text.startswith(report.title) and "95 % bootstrap" in text and "patients" in text


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_the_json_is_json_and_complete(palm, tmp_path):
    """NaN is no JSON: one patient alone has no interval, and other programs must still read the
    file.
    """
    cfg, store, _ = palm
    store.cases["patient"] = "one"
    report = evaluation.evaluate(
        FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    folder = report.save(tmp_path / "results")

    def refuse(constant):
        raise ValueError(constant)

    found = json.loads((folder / "evaluation_report.json").read_text(), parse_constant=refuse)
    assert found["title"] == report.title and found["grid"] == "store" and found["threshold"] == 0.5
    table = pd.DataFrame(found["summary"])
    assert list(table) == SUMMARY and len(table) == len(report.summary)
    np.testing.assert_allclose(table["value"].astype(float), report.summary["value"].astype(float))
    assert table["low"].isna().all()


def test_table_takes_metrics_in_the_order_they_are_named(palm):
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, blurred), batches["test"])
    table = report.table("hd95", "dice", of="disc")
    assert list(table) == ["metric", "average", "value", "low", "high", "n", "n_empty", "n_missing"]
    assert list(table["metric"]) == ["hd95", "dice", "dice"] and list(table["average"]) == [
        "per image"
    ] * 2 + ["pooled"]
    assert list(dict.fromkeys(report.table()["metric"])) == ["dice", "iou", "accuracy", "bce"]


def test_worst_is_worst_first(palm):
    cfg, store, _ = palm
    report = evaluation.evaluate(
        FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    scored = report.per_image[report.per_image["annotated"]]
    assert report.worst(3)["dice"].tolist() == sorted(scored["dice"])[:3]
    assert report.worst(2, "hd95")["hd95"].tolist() == sorted(scored["hd95"])[:-3:-1]
    assert report.worst(2, "bce")["bce"].tolist() == sorted(scored["bce"])[:-3:-1]
    assert report.worst(100)["annotated"].all()


# ---- what a reader must know before the numbers


@pytest.mark.usefixtures("without_report_figures")
def test_an_empty_prediction_cannot_look_good(tmp_path):
    """Half of the truths are empty: the mean Dice is 0.5, and what it hides is said first."""
    report = report_on(rare_store(tmp_path), nothing)
    values = report.summary.set_index(["class", "metric", "average"])["value"]
    for name in ("lung", "mean"):
        assert values[name, "dice", "per image"] == 0.5
        assert values[name, "dice", "pooled"] == 0
        assert values[name, "dice", "per image, present"] == 0
        assert values[name, "hd95", "per image, present"] == pytest.approx(64 * np.sqrt(2))
    table = report.table("dice")
    assert list(table["average"]) == ["per image", "pooled", "per image, present"]
    (note,) = report.notes
    assert note.startswith("lung: 6 of 12 truths are empty")
    assert "6 images with the structure 0.000, of all images 0.500" in note
    assert "pooled 0.000; found in 0 of 6 images with it, predicted in 0 of 6 without" in note
    assert report.text().index(note) < report.text().index("precision")
    assert note in (report.save(tmp_path / "out") / "report.html").read_text()


def test_without_empty_truths_there_are_no_more_rows(tmp_path):
    report = report_on(rare_store(tmp_path, n_present=12), perfect)
    assert not report.notes and list(report.table("dice")["average"]) == ["per image"]


@pytest.mark.parametrize("n_false", [0, 2])
def test_a_class_that_no_truth_contains_has_no_dice(tmp_path, n_false):
    """It was 1 wherever nothing was predicted, and raised the mean of the others."""
    masks = np.zeros((6, 64, 64, 3), np.uint8)
    masks[:, 20:40, 20:40, 2] = 1
    pictures = np.where(masks == 1, 200, 40).astype(np.uint8)
    pictures[:, 20:40, 20:30, 2] = 40  # half of the disc is missed: Dice 2/3
    pictures[:n_false, 5:9, 5:9, 0] = 200  # false atrophy
    store = hand_store(tmp_path, pictures, masks, ["test"] * 6, PALM_CLASSES)
    cfg = config.preset("palm", "smoke", augment={})
    report = evaluation.evaluate(FakePredictor(cfg, perfect), data.loaders(store, cfg)["test"])
    rows = report.summary.set_index(["class", "metric", "average"])
    for metric in ("dice", "iou", "f1", "hd95", "assd", "nsd"):
        row = rows.loc[("atrophy", metric, "per image")]
        assert np.isnan(row["value"]) and row["no_interval"] == summary.ABSENT
        assert row["n_empty"] == 6
        of_disc = rows.loc[("disc", metric, "per image"), "value"]
        assert rows.loc[("mean", metric, "per image"), "value"] == pytest.approx(of_disc)
    assert rows.loc[("mean", "dice", "per image"), "value"] == pytest.approx(2 / 3)
    assert rows.loc[("atrophy", "specificity", "per image"), "value"] > 0.99
    brier = rows.loc[("disc", "brier", "pixels"), "value"]
    assert rows.loc[("mean", "brier", "pixels"), "value"] == pytest.approx(brier)
    notes = [note for note in report.notes if note.startswith("atrophy")]
    assert len(notes) == 1 and f"predicted in {n_false} of them (false positives)" in notes[0]
    detection = report.detection().set_index("class")
    assert detection.loc["atrophy", "fp"] == n_false
    compared = evaluation.compare(report, report).set_index("class")
    assert np.isnan(compared.loc["atrophy", "a"]) and compared.loc["mean", "a"] == 2 / 3


# ---- few patients


@pytest.mark.usefixtures("without_report_figures")
def test_the_report_says_why_there_is_no_interval(tmp_path):
    report = report_on(rare_store(tmp_path, 3, 3), perfect)
    assert report.summary[["low", "high"]].isna().all(axis=None)
    reason = "no interval: 3 patients, at least 5 are needed"
    assert f"\n{reason} (" in report.text() and "NaN" not in report.text()
    page = (report.save(tmp_path / "out") / "report.html").read_text()
    assert page.count(reason) == 1
    row = evaluation.compare(report, report).iloc[-1]
    assert np.isnan(row["low"]) and np.isnan(row["better"]) and row["n"] == 3
    assert row["no_interval"] == reason.removeprefix("no interval: ")
