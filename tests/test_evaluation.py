"""Reports: every number computed a second way, and what must never count (padding, missing masks)
does not.
"""

import copy
import json
import math
import shutil
import warnings

import monai.metrics
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from PIL import Image
from scipy import ndimage

from seglib import (
    bootstrap,
    config,
    data,
    evaluation,
    layouts,
    metrics,
    phantoms,
    plots,
    prepare,
    runs,
    summary,
    tables,
    training,
)
from seglib.errors import DataError, SeglibError
from seglib.formats import images, volumes
from seglib.inference import Predictor
from tests.helpers import (
    PALM_CLASSES,
    FakePredictor,
    all_in,
    blurred,
    cardiac_config,
    hand_store,
    label_store,
    labelled,
    perfect,
)

COLUMNS = "case patient volume slice class annotated n_true n_pred tp fp fn tn".split()
COLUMNS += "dice iou precision recall f1 specificity accuracy bce hd95 assd nsd".split()
COLUMNS += ["distance_unit"]
SUMMARY = "class metric average value low high n n_empty n_missing unit no_interval grid".split()


def expect_scores(row, pred, truth, valid, prob, distances=True):
    """Check one row of `per_image` against scikit-learn, MONAI's definition of distances being
    tested elsewhere.
    """
    args = (truth[valid], pred[valid])
    tn, fp, fn, tp = sklearn.metrics.confusion_matrix(*args, labels=[False, True]).ravel()
    assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (tp, fp, fn, tn)
    assert (row["n_true"], row["n_pred"]) == (truth[valid].sum(), pred[valid].sum())
    assert (
        row["dice"]
        == row["f1"]
        == pytest.approx(sklearn.metrics.f1_score(*args, zero_division=1.0))
    )
    assert row["iou"] == pytest.approx(sklearn.metrics.jaccard_score(*args, zero_division=1.0))
    nan = {"zero_division": np.nan}
    assert row["precision"] == pytest.approx(
        sklearn.metrics.precision_score(*args, **nan), nan_ok=True
    )
    assert row["recall"] == pytest.approx(sklearn.metrics.recall_score(*args, **nan), nan_ok=True)
    assert row["specificity"] == pytest.approx(tn / (tn + fp) if tn + fp else np.nan, nan_ok=True)
    assert row["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(*args))
    assert row["bce"] == pytest.approx(
        sklearn.metrics.log_loss(truth[valid], prob[valid], labels=[False, True])
    )
    if distances:
        expected = metrics.surface_distances(pred & valid, truth & valid)
        assert dict(row[list(expected)]) == pytest.approx(expected)


# ---- per image


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


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_every_number_is_scikit_learns(palm, batch_size):
    cfg, store, _ = palm
    cfg = cfg.replace(batch_size=batch_size, threshold=0.4)
    fake, (pictures, masks) = FakePredictor(cfg, blurred), store.open()
    report = evaluation.evaluate(fake, data.loaders(all_in(store, "test"), cfg)["test"])
    assert len(report.per_image) == 9 * 3
    for place, (_, row) in enumerate(report.per_image.iterrows()):
        image, k = divmod(place, 3)
        truth, valid = masks[image, ..., k] == 1, masks[image, ..., k] != 255
        assert row["annotated"] == valid.any()
        if not valid.any():
            assert row[COLUMNS[6:-1]].isna().all()
            continue
        assert valid.sum() == 48 * 64  # the padding above and below is left out
        prob = blurred(pictures[image].transpose(2, 0, 1)[None].astype(float))[0, k].astype(
            np.float32
        )
        expect_scores(row, prob >= 0.4, truth, valid, prob)
    scored = report.per_image[report.per_image["annotated"]]
    assert 0.3 < scored["dice"].mean() < 0.95 and scored["hd95"].min() > 1


def test_a_perfect_predictor_is_perfect(palm):
    cfg, store, _ = palm
    report = evaluation.evaluate(
        FakePredictor(cfg, perfect), data.loaders(all_in(store, "test"), cfg)["test"]
    )
    scored = report.per_image[report.per_image["annotated"]]
    for metric in ("dice", "iou", "precision", "recall", "f1", "specificity", "accuracy", "nsd"):
        assert (scored[metric] == 1).all(), metric
    assert (scored[["hd95", "assd", "fp", "fn"]] == 0).all(axis=None)
    assert scored["bce"].to_numpy() == pytest.approx(-np.log(0.99), rel=1e-4)
    perfect_rows = report.summary[report.summary["metric"] == "dice"]
    assert (perfect_rows["value"] == 1).all()
    of_all = perfect_rows.set_index(["class", "average"]).loc[("disc", "per image")]
    assert of_all["high"] == 1 and of_all["low"] == pytest.approx(0.025 ** (1 / 8))  # 8 patients


def test_padding_never_counts(palm):
    """A prediction in the padding of the letterbox changes no count, score or distance."""
    cfg, store, _ = palm

    def spilled(pixels):
        prob = blurred(pixels)
        prob[..., :8, :] = prob[..., -8:, :] = 0.97
        return prob

    loader = data.loaders(all_in(store, "test"), cfg)["test"]
    clean, other = (
        evaluation.evaluate(FakePredictor(cfg, say), loader) for say in (blurred, spilled)
    )
    pd.testing.assert_frame_equal(clean.per_image, other.per_image)
    pd.testing.assert_frame_equal(clean.summary, other.summary)


def test_the_diagonal_is_that_of_the_image_not_of_its_frame(palm):
    """An empty prediction is as far away as the image is large: 48 x 64 pixels here, the padding is
    none of it.
    """
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, lambda pixels: 0 * pixels), batches["test"])
    scored = report.per_image[report.per_image["annotated"]]
    assert (scored["n_pred"] == 0).all() and (scored["n_true"] > 0).all()
    assert scored["hd95"].to_numpy() == pytest.approx(80.0) and scored[
        "assd"
    ].to_numpy() == pytest.approx(80.0)


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


def test_empty_truths_are_scored_by_the_rules_and_counted(tmp_path):
    """Two images without the structure: one stays empty (1), one has a false positive (0)."""
    masks = np.zeros((3, 64, 64, 1), np.uint8)
    masks[2, 10:30, 10:30] = 1
    pictures = np.where(masks == 1, 200, 40).astype(np.uint8)
    pictures[1, 5, 5] = 200  # the false positive
    store = hand_store(tmp_path / "store", pictures, masks, ["test"] * 3, ("lung",))
    cfg = config.preset("lung", "smoke", augment={})
    report = evaluation.evaluate(FakePredictor(cfg, perfect), data.loaders(store, cfg)["test"])
    diagonal = 64 * np.sqrt(2)
    assert report.per_image["dice"].tolist() == [1, 0, 1]
    assert report.per_image["hd95"].tolist() == pytest.approx([0, diagonal, 0])
    assert (
        report.per_image["recall"].tolist()[2] == 1
        and report.per_image["recall"].isna().tolist()[:2] == [True] * 2
    )
    rows = report.summary[
        (report.summary["class"] == "lung") & (report.summary["average"] == "per image")
    ]
    rows = rows.set_index("metric")
    assert rows.loc["dice", ["value", "n", "n_empty"]].tolist() == [pytest.approx(2 / 3), 3, 2]
    assert rows.loc["recall", ["value", "n", "n_empty"]].tolist() == [1, 1, 2]
    assert rows.loc["precision", ["value", "n"]].tolist() == [0.5, 2]


def test_distances_may_be_left_out(palm):
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, blurred), batches["test"], distances=False)
    assert list(report.per_image) == COLUMNS and report.per_image[
        ["hd95", "assd", "nsd"]
    ].isna().all(axis=None)
    assert not set(report.summary["metric"]) & {"hd95", "assd", "nsd"} and "dice" in set(
        report.summary["metric"]
    )


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


def test_intervals_of_distances_end_at_the_diagonal():
    """Six patients, of whom one is missed: on a logarithmic scale the interval would be endless."""
    distances = [3.0, 4.0, 2.5, 5.0, 3.5, 181.0]
    table = pd.DataFrame({"case": list("abcdef"), "patient": list("abcdef"), "class": "disc"})
    table = table.assign(
        annotated=True, hd95=distances, assd=distances, nsd=0.7, n_true=9, dice=0.5
    )
    table = table.assign(**dict.fromkeys(("tp", "fp", "fn", "tn"), 9), distance_unit="mm")
    table = table.assign(**metrics.ratios(9, 9, 9, 9))
    cfg = config.Config(bootstrap=500)
    ends = {}
    for longest in ({"mm": 181.0}, {"pixels": 9.0}, None):
        rows = summary.of_table(table, "per image", cfg, longest=longest)
        rows = rows[rows["class"] == "disc"].set_index("metric")
        ends[str(longest)] = rows.loc["hd95", ["low", "high"]].tolist()
        assert rows.loc["nsd", "high"] <= 1  # it has a limit of its own
    limited, of_other_unit, unlimited = ends.values()
    assert 0 < limited[0] < 33 < limited[1] <= 181
    assert unlimited[1] > 181 and of_other_unit == unlimited


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


def test_volumes_are_scored_from_the_counts_of_their_slices(tmp_path):
    rng = np.random.default_rng(0)
    masks = (rng.random((6, 64, 64, 1)) < rng.uniform(0.05, 0.6, (6, 1, 1, 1))).astype(np.uint8)
    pictures = np.where(rng.random(masks.shape) < 0.2, 1 - masks, masks) * np.uint8(200)
    columns = {"volume": ["v1", "v1", "v1", "v2", "v2", "v2"], "slice": [0, 1, 2, 0, 1, 2]}
    store = hand_store(tmp_path / "store", pictures, masks, ["test"] * 6, ("lung",), **columns)
    store.cases["patient"] = ["a"] * 3 + ["b"] * 3
    cfg = config.preset("lung", "smoke", augment={})
    report = evaluation.evaluate(FakePredictor(cfg, perfect), data.loaders(store, cfg)["test"])
    assert report.per_image["slice"].tolist() == [0, 1, 2] * 2
    assert report.per_volume[["volume", "patient", "class"]].to_numpy().tolist() == [
        ["v1", "a", "lung"],
        ["v2", "b", "lung"],
    ]
    for volume, rows in report.per_image.groupby("volume"):
        found = report.per_volume.set_index("volume").loc[volume]
        tp, fp, fn, tn = rows[["tp", "fp", "fn", "tn"]].sum()
        assert (found["tp"], found["n_true"], found["n_pred"]) == (tp, tp + fn, tp + fp)
        assert found["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert found["dice"] != pytest.approx(rows["dice"].mean(), abs=1e-4)
    summary = report.summary[report.summary["average"] == "per volume"].set_index(
        ["class", "metric"]
    )
    assert summary.loc[("lung", "dice"), "value"] == pytest.approx(report.per_volume["dice"].mean())
    assert summary.loc[("lung", "dice"), "n"] == 2


# ---- volumes in three dimensions


def greys(pixels):
    """Softmax of the class whose grey value is nearest, of a smoothed slice: with many specks."""
    smooth = ndimage.gaussian_filter(pixels, (0, 0, 1, 1))
    likelihood = np.exp(-np.abs(smooth - 70 * np.arange(4).reshape(-1, 1, 1)) / 8)
    return likelihood / likelihood.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def heart_store(tmp_path_factory):
    """(cfg, store): the two volumes of a patient of the cardiac phantom, in the test part."""
    work = tmp_path_factory.mktemp("hearts")
    tree = phantoms.write("cardiac", work / "tree", n=1)
    fields = {"val_split": 0.0, "test_split": 1.0, "architecture": "unet", "patch_size": None}
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tree), work_dir=str(work / "work"), **fields
    )
    return cfg, prepare.build(layouts.scan(cfg), cfg)


OPTIONS = [
    {},
    {"keep_largest_component": True},
    {"min_component_size": 12, "fill_holes": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "largest", "size and holes"])
def test_volumes_are_scored_as_predict_volume_writes_them(heart_store, options):
    """Masks of `predict_volume`, labels of the files, distances in 3-D with the true spacing."""
    cfg, store = heart_store
    predictor = FakePredictor(cfg, greys)
    for name, value in options.items():
        setattr(predictor, name, value)
    report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"], grid="original")
    assert report.about["distances_of_volumes_in"] == report.about["distances_in"] == "mm"
    cases = store.cases.drop_duplicates("volume").set_index("volume")
    rows = report.per_volume.set_index(["volume", "class"])
    assert len(rows) == 3 * len(cases) and len(cases) == 2
    for volume, case in cases.iterrows():
        prediction = predictor.predict_volume(case["image"])
        labels = volumes.read_labels_like(prediction.grid, case["labels"])
        for k, name in predictor.config.structures.items():
            row, pred, truth = rows.loc[(volume, name)], prediction.mask == k, labels == k
            counts = (pred.sum(), truth.sum(), (pred & truth).sum())
            assert tuple(row[["n_pred", "n_true", "tp"]]) == counts
            expected = metrics.surface_distances(pred, truth, prediction.grid.spacing_mm)
            assert dict(row[list(expected)]) == pytest.approx(expected)
    summary = report.summary.set_index(["class", "metric", "average"])["value"]
    assert summary["mean", "hd95", "per volume"] == pytest.approx(report.per_volume["hd95"].mean())


def test_slices_in_any_order_are_put_together(heart_store):
    """The case table may be filtered and sorted by a reader: scores by image keep its order."""
    cfg, store = heart_store
    predictor = FakePredictor(cfg, greys)
    predictor.keep_largest_component = True
    loader = data.loaders(store, cfg)["test"]
    plain = evaluation.evaluate(predictor, loader)
    shuffled = copy.copy(store)
    shuffled.cases = store.cases.sample(frac=1, random_state=0).reset_index(drop=True)
    other = evaluation.evaluate(predictor, data.loaders(shuffled, cfg)["test"])
    assert list(dict.fromkeys(other.per_image["case"])) == list(shuffled.cases["case"])
    keys = ["case", "class"]
    pd.testing.assert_frame_equal(
        plain.per_image.sort_values(keys, ignore_index=True),
        other.per_image.sort_values(keys, ignore_index=True),
    )
    keys = ["volume", "class"]
    pd.testing.assert_frame_equal(
        plain.per_volume.sort_values(keys, ignore_index=True),
        other.per_volume.sort_values(keys, ignore_index=True),
    )
    assert plain.about["distances_of_volumes_in"] == "voxels of the store grid"


def test_examples_of_a_volume_are_cleaned_with_it(heart_store):
    """A figure shows the mask that was scored."""
    cfg, store = heart_store
    predictor = FakePredictor(cfg, greys)
    predictor.keep_largest_component = True
    report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"])
    for _, row in report.per_image.iloc[6:12].iterrows():
        _, truth, pred = report.examples(row["case"])
        k = cfg.class_names.index(row["class"])
        assert ((pred == k) & (truth != 255)).sum() == row["n_pred"]


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


# ---- multiclass


@pytest.mark.parametrize("grid", ["store", "original"])
def test_multiclass_has_no_background_rows(tmp_path, grid):
    cfg = cardiac_config()
    store = label_store(tmp_path, cfg)
    report = evaluation.evaluate(
        FakePredictor(cfg, labelled), data.loaders(store, cfg)["test"], grid=grid
    )
    assert list(dict.fromkeys(report.per_image["class"])) == list(cfg.class_names[1:])
    assert set(report.summary["class"]) == {*cfg.class_names[1:], "mean"}
    pixels = {"store": 48 * 64, "original": 60 * 80}[grid]  # 60 x 80 in a frame of 64 x 64
    assert (report.per_image[["tp", "fp", "fn", "tn"]].sum(axis=1) == pixels).all()
    assert report.per_image["dice"].min() > 0.85


@pytest.mark.parametrize("grid", ["store", "original"])
def test_classes_that_are_not_annotated_are_missing_on_both_grids(tmp_path, grid):
    cfg = cardiac_config()
    partly = ["background,right_ventricle"] * 2 + [",".join(cfg.class_names)] * 2
    store = label_store(tmp_path, cfg, annotated=partly)
    report = evaluation.evaluate(
        FakePredictor(cfg, labelled), data.loaders(store, cfg)["test"], grid=grid
    )
    assert report.per_image["annotated"].tolist() == [True, False, False] * 2 + [True] * 6
    rows = report.summary[report.summary["metric"] == "dice"].set_index(["class", "average"])
    assert rows.loc[("myocardium", "per image"), ["n", "n_missing"]].tolist() == [2, 2]


# ---- the original grid


@pytest.fixture(scope="module")
def lung_run(lung_tree, tmp_path_factory):
    """(run, store) of a short training on letterboxed phantoms; 5 test images of 5 sizes."""
    work = tmp_path_factory.mktemp("work")
    cfg = config.preset(
        "lung", "smoke", data_root=str(lung_tree), work_dir=str(work), test_split=5, val_split=3
    )
    fields = dict(
        resize="letterbox",
        epochs=12,  # enough for connected lungs, whose overlap both grids agree about
        lr=1e-2,
        batch_size=2,
        precision="fp32",
        device="cpu",
        augment={},
    )
    cfg = cfg.replace(**fields)
    store = prepare.build(layouts.scan(cfg), cfg)
    return training.fit(cfg, data.loaders(store, cfg)), store


def loaders_of(lung_run):
    run, store = lung_run
    return data.loaders(store, run.config)


def test_original_grid_is_predict_against_the_files(lung_run):
    """As a reader would check it: predict each file, read both masks, ask scikit-learn."""
    run, store = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["test"], grid="original")
    assert len(report.per_image) == 5 and set(report.summary["grid"]) == {"original"}
    predictor = Predictor.load(run.best, device="cpu", precision="fp32")
    for _, row in report.per_image.iterrows():
        case = store.cases.set_index("case").loc[row["case"]]
        truth = np.any([np.array(Image.open(path)) > 0 for path in case["lung"].split("|")], axis=0)
        prob, mask = predictor.predict_file(case["image"])
        assert truth.shape == mask.shape and min(truth.shape) >= 320
        expect_scores(row, mask == 1, truth, np.ones(truth.shape, bool), prob[0])
    assert (
        report.about["grid"] == "original"
        and report.about["distances_in"] == "pixels of the original grid"
    )


def test_store_and_original_grid_agree_about_overlap_not_about_pixels(lung_run):
    run, _ = lung_run
    loader = loaders_of(lung_run)["test"]
    on_store, original = (
        evaluation.evaluate(run, loader, grid=grid).per_image for grid in ("store", "original")
    )
    assert (on_store["dice"] - original["dice"]).abs().max() < 0.03
    assert (original["hd95"] > 3 * on_store["hd95"]).all()
    inside = on_store[["tp", "fp", "fn", "tn"]].sum(axis=1)
    assert (inside < 64 * 64).any() and (inside > 32 * 64).all()


def test_distances_are_millimetres_where_the_spacing_is_known(lung_run):
    run, store = lung_run
    loader = loaders_of(lung_run)["test"]
    pixels = evaluation.evaluate(run, loader, grid="original")
    loader.dataset.cases = loader.dataset.cases.assign(spacing_row_mm=0.25, spacing_col_mm=0.25)
    in_mm = evaluation.evaluate(run, loader, grid="original")
    assert in_mm.about["distances_in"] == "mm"
    for metric in ("hd95", "assd"):
        assert in_mm.per_image[metric].to_numpy() == pytest.approx(
            0.25 * pixels.per_image[metric].to_numpy()
        )
    pd.testing.assert_frame_equal(in_mm.per_image[COLUMNS[:20]], pixels.per_image[COLUMNS[:20]])
    assert "pixels" in evaluation.evaluate(run, loader, grid="store").about["distances_in"]


def test_inverted_masks_are_turned_on_the_original_grid_too(tmp_path):
    for i in range(4):
        rows, columns = np.mgrid[: 50 + 10 * i, :70]
        inside = (rows - 25) ** 2 + (columns - 30) ** 2 < 200
        images.write_png(
            tmp_path / "tree" / "images" / f"{i}.png", np.where(inside, 220, 20).astype(np.uint8)
        )
        images.write_png(
            tmp_path / "tree" / "masks" / f"{i}.png", np.where(inside, 0, 255).astype(np.uint8)
        )
    cfg = config.preset(
        "binary",
        "smoke",
        data_root=str(tmp_path / "tree"),
        work_dir=str(tmp_path),
        val_split=0,
        test_split=1.0,
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    say = lambda pixels: perfect(pixels)[:, :1]  # noqa: E731
    for grid in ("store", "original"):
        report = evaluation.evaluate(
            FakePredictor(cfg, say), data.loaders(store, cfg)["test"], grid=grid
        )
        assert report.per_image["dice"].min() > 0.9 and len(report.per_image) == 4


# ---- runs, parts, titles, errors


def test_a_run_is_scored_with_its_best_weights(lung_run, tmp_path):
    run, _ = lung_run
    shutil.copytree(run.folder, tmp_path / "run")
    run = runs.Run.load(tmp_path / "run")
    runs.save_weights(
        run.folder / "final_model.pth", runs.network(run.config), run.config
    )  # no good any more
    loader = loaders_of(lung_run)["test"]
    report = evaluation.evaluate(run, loader)
    best = evaluation.evaluate(Predictor.load(run.best, "cpu", "fp32"), loader)
    pd.testing.assert_frame_equal(report.per_image, best.per_image)
    final = evaluation.evaluate(
        Predictor.load(run.folder / "final_model.pth", "cpu", "fp32"), loader
    )
    assert not report.per_image["dice"].equals(final.per_image["dice"])
    assert report.about["weights"] == "best_model.pth"


def test_validation_agrees_with_the_history(lung_run):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["val"])
    kept = run.history[run.history["best"]].iloc[-1]
    assert report.table("dice")["value"].item() == pytest.approx(kept["val_dice"], abs=1e-4)
    assert report.table("accuracy")["value"].item() == pytest.approx(kept["val_accuracy"], abs=0.01)


def test_a_run_is_scored_in_the_precision_of_its_training(lung_run):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["test"])
    assert report.about["precision"] == run.info["precision"] == "fp32"
    assert evaluation.tuned(run, loaders_of(lung_run)["val"]).precision == "fp32"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("test", "test, 5 images of 5 patients"),
        ("val", "validation, used for model choice, 3 images"),
    ],
)
def test_title_names_the_part(lung_run, part, words):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)[part])
    assert report.title.startswith(f"lung: {words}") and report.text().startswith(report.title)
    assert report.about["part"] == words.rsplit(",", 1)[0]


def test_the_training_part_is_scored_whole_and_without_augmentation(palm):
    """evaluate(run, batches["train"]) shows overfitting; flipped images beside unflipped truth show
    nothing.
    """
    cfg, store, _ = palm
    cfg = cfg.replace(augment={"hflip": 1.0, "vflip": 0.5}, batch_size=2)
    loader = data.loaders(store, cfg)["train"]
    assert len(loader.dataset) == 5  # one of them would be dropped from the batches of two
    report = evaluation.evaluate(FakePredictor(cfg, perfect), loader)
    assert sorted(set(report.per_image["case"])) == [f"case{i}" for i in range(5)]
    assert (report.per_image.loc[report.per_image["annotated"], "dice"] == 1).all()


def test_an_empty_part_is_an_error(palm):
    cfg, store, _ = palm
    batches = data.loaders(all_in(store, "val"), cfg)
    with pytest.raises(DataError, match="part 'test' has no image.*test_split"):
        evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"])


def test_an_unknown_grid_is_an_error(palm):
    cfg, _, batches = palm
    with pytest.raises(DataError, match="'finest'.*'store' or 'original'"):
        evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"], grid="finest")


def test_classes_of_another_system_are_an_error(palm):
    """Else the lung would silently be scored against the atrophy."""
    _, _, batches = palm
    lung = config.preset("lung", "smoke", in_channels=3)
    with pytest.raises(SeglibError, match="lung"):
        evaluation.evaluate(
            FakePredictor(lung, lambda pixels: perfect(pixels)[:, :1]), batches["test"]
        )


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


def test_show_draws_input_truth_prediction_and_difference(palm):
    cfg, store, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"])
    image, truth, pred = report.examples("case7")
    np.testing.assert_array_equal(image, store.open()[0][7])
    np.testing.assert_array_equal(truth, store.open()[1][7].transpose(2, 0, 1))
    np.testing.assert_array_equal(pred[truth != 255], truth[truth != 255])
    figure = report.show(report.per_image)
    assert len(figure.axes) == 2 * 4  # two images, not six rows
    assert figure.axes[0].get_ylabel().startswith("case7\natrophy: Dice 1.000")


# ---- what a reader must know before the numbers


@pytest.fixture
def without_report_figures(monkeypatch):
    """Figures take most of the time of `Report.save`."""
    monkeypatch.setattr(evaluation.Report, "figures", lambda report: iter(()))


def rare_store(folder, n=12, n_present=6, **columns):
    """One structure, bright in the picture, in `n_present` of n pictures."""
    masks = np.zeros((n, 64, 64, 1), np.uint8)
    masks[:n_present, 20:40, 20:40] = 1
    pictures = np.where(masks == 1, 200, 40).astype(np.uint8)
    return hand_store(folder, pictures, masks, ["test"] * n, ("lung",), **columns)


def report_on(store, say, **options):
    cfg = config.preset("lung", "smoke", augment={})
    return evaluation.evaluate(FakePredictor(cfg, say), data.loaders(store, cfg)["test"], **options)


def nothing(pixels):
    return 0 * pixels


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


@pytest.mark.usefixtures("without_report_figures")
def test_images_seen_in_training_are_the_first_line(tmp_path):
    store = rare_store(tmp_path, n_present=12)
    cfg = config.preset("lung", "smoke", augment={})
    predictor = FakePredictor(cfg, perfect)
    hashes = [f"{k:016x}" for k in range(12)]
    store.cases["sha256"] = [text + 48 * "0" for text in hashes]
    for trained_on, words in ((hashes, "ALL 12 IMAGES"), (hashes[:3], "3 OF 12 IMAGES")):
        predictor.trained_on = trained_on
        report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"])
        assert report.notes[0].startswith(f"{words} WERE SEEN IN TRAINING")
        assert report.text().splitlines()[3] == f"! {report.notes[0]}"
        folder = report.save(tmp_path / words.split()[0])
        assert "WERE SEEN IN TRAINING" in (folder / "report.html").read_text()
        assert json.loads((folder / "evaluation_report.json").read_text())["notes"] == report.notes
    predictor.trained_on = ["f" * 16]
    assert not evaluation.evaluate(predictor, data.loaders(store, cfg)["test"]).notes


def test_notes_on_scored_files_reach_the_report(tmp_path):
    store = rare_store(tmp_path, n_present=12)
    store.report.notes += [
        "3.png: turned by its EXIF orientation",
        "11.png: 16 bits were reduced to 8",
        "split: 12 patients to test",
        "the CT is not in HU",
    ]
    train = store.cases["case"].isin(["case11", "case10"])
    store.cases.loc[train, "split"] = "train"
    report = report_on(store, perfect)
    expected = ["data: 3.png: turned by its EXIF orientation", "data: the CT is not in HU"]
    assert report.notes == expected
    store.report.notes += [f"{k}.png: is odd" for k in range(9)]
    notes = report_on(store, perfect).notes
    assert len(notes) == 6 and notes[-1].startswith("data: 6 more notes")


# ---- units


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_millimetres_and_pixels_are_never_averaged_together(tmp_path):
    """Pictures whose spacing is unknown keep their pixels, and are left out of the mean in mm."""
    n = 12
    spacing = ["0.5"] * 7 + ["", "0", "-1", "nan", "inf"]
    columns = {"spacing_row_mm": spacing, "spacing_col_mm": spacing}
    tree = tmp_path / "tree"
    store = rare_store(tmp_path / "store", n, n, **columns)
    for k, case in enumerate(store.cases.index):
        path = tree / f"{k}.png"
        images.write_png(path, store.open()[1][k, ..., 0] * np.uint8(255))
        store.cases.loc[case, "lung"] = str(path)

    def shifted(pixels):
        return np.roll(perfect(pixels), 4, axis=-1)

    report = report_on(store, shifted, grid="original")
    rows = report.per_image
    assert list(rows["distance_unit"]) == ["mm"] * 7 + ["pixels"] * 5
    assert (rows["hd95"][:7] == 2).all() and (rows["hd95"][7:] == 4).all()
    rows_of = report.summary.set_index(["metric", "average", "class"])
    for name in ("lung", "mean"):
        row = rows_of.loc[("hd95", "per image", name)]
        assert (row["value"], row["n"], row["unit"]) == (2, 7, "mm")
        assert rows_of.loc[("dice", "per image", name), ["n", "unit"]].tolist() == [12, ""]
    assert report.about["distances_in"].startswith("mm; 5 of 12 images have no known spacing")
    figure = plots.scores_by_image(rows, "hd95")
    assert figure.axes[0].get_xlabel() == "HD95 of an image, mm"
    assert "n=7" in figure.axes[0].get_yticklabels()[0].get_text()

    store.cases = store.cases.assign(spacing_row_mm="", spacing_col_mm="")
    in_pixels = report_on(store, shifted, grid="original")
    assert in_pixels.about["distances_in"] == "pixels of the original grid"
    with pytest.raises(DataError, match="hd95 is in mm in one report and in pixels in the other"):
        evaluation.compare(report, in_pixels, "hd95")
    compared = evaluation.compare(report, report, "hd95").set_index("class")
    assert compared.loc["lung", ["a", "n"]].tolist() == [2, 7]


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("known", [True, False])
def test_volumes_are_scored_in_three_dimensions(tmp_path, known):
    """HD95, ASSD, NSD and components of each volume, anisotropic, by MONAI and SciPy."""
    rng = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(rng.normal(0, 1, (2, 8, 64, 64)), (0, 1, 4, 4)) > 0.04
    wrong = ndimage.gaussian_filter(rng.normal(0, 1, masks.shape), (0, 1, 3, 3)) > 0.12
    pred = masks ^ wrong
    spacing = (5.0, 0.7, 0.8) if known else None
    values = [*(spacing or ("", "", ""))]
    columns = {"volume": ["v0"] * 8 + ["v1"] * 8, "slice": [*range(8)] * 2}
    columns |= dict(zip(evaluation.SPACING, ([value] * 16 for value in values)))
    pictures = np.where(pred.reshape(16, 64, 64, 1), 200, 40).astype(np.uint8)
    truths = masks.reshape(16, 64, 64, 1).astype(np.uint8)
    store = hand_store(tmp_path, pictures, truths, ["test"] * 16, ("lung",), **columns)
    store.cases["patient"] = store.cases["volume"]
    for k, case in enumerate(store.cases.index):
        store.cases.loc[case, "lung"] = str(tmp_path / f"{k}.png")
        images.write_png(tmp_path / f"{k}.png", truths[k, ..., 0] * np.uint8(255))
    report = report_on(store, perfect, grid="original")
    rows = report.per_volume.set_index("volume")
    assert set(rows["distance_unit"]) == {"mm" if known else "voxels"}
    for k, volume in enumerate(("v0", "v1")):
        a, b = (torch.from_numpy(mask[k])[None, None] for mask in (pred, masks))
        common = {"include_background": True, "spacing": spacing}
        expected = (
            monai.metrics.compute_hausdorff_distance(a, b, percentile=95, **common),
            monai.metrics.compute_average_surface_distance(a, b, symmetric=True, **common),
            monai.metrics.compute_surface_dice(a, b, class_thresholds=[2.0], **common),
        )
        row = rows.loc[volume]
        scores = row[["hd95", "assd", "nsd"]].astype(float)
        assert list(scores) == pytest.approx([value.item() for value in expected], rel=1e-5)
        (true, n_true), (predicted, n_pred) = (ndimage.label(m[k]) for m in (masks, pred))
        found = [pred[k][true == number].any() for number in range(1, n_true + 1)]
        false = [not masks[k][predicted == number].any() for number in range(1, n_pred + 1)]
        counts = (n_true, n_pred, sum(found), sum(false))
        assert tuple(row[evaluation.COMPONENTS]) == counts and n_true > 2 and n_pred > 2


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


# ---- choices


def lopsided(cfg, **options):
    """A predictor whose views differ: it answers to what lies on the right of a pixel."""
    network = torch.nn.Conv2d(1, 1, 5, padding=2)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[..., 3:] = 0.8
        network.bias.fill_(-1.0)
    predictor = Predictor(network, cfg, "cpu", "fp32")
    for name, value in options.items():
        setattr(predictor, name, value)
    return predictor


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"tta_rotation": 20.0}])
def test_thresholds_are_chosen_on_the_views_that_are_used(tmp_path, options):
    cfg = config.preset("lung", "smoke", augment={"hflip": 0.5, "rotate": 0.5})
    store = rare_store(tmp_path, 6, 6)
    store.cases["split"] = "val"
    loader = data.loaders(store, cfg)["val"]
    predictor = evaluation.tuned(lopsided(cfg, **options), loader)
    assert predictor.temperature != 1
    dataset = loader.dataset.plain()
    rows = [dataset[k]["image"][None] for k in range(len(dataset))]
    prob = np.stack([predictor.probabilities(image).numpy()[0, 0] for image in rows])
    truth = store.open()[1][..., 0] == 1
    scores = sklearn.metrics.f1_score
    levels = np.quantile(prob, np.linspace(0, 1, 100))
    best = max(scores(truth.ravel(), prob.ravel() >= p) for p in levels)
    chosen = scores(truth.ravel(), prob.ravel() >= predictor.thresholds[0])
    assert chosen >= best - 1e-4


def test_tuned_halves_a_batch_that_does_not_fit_into_memory(tmp_path):
    cfg = config.preset("lung", "smoke", augment={"hflip": 0.5}, batch_size=4)
    store = rare_store(tmp_path, 6, 6)
    store.cases["split"] = "val"
    loader = data.loaders(store, cfg)["val"]
    expected = evaluation.tuned(lopsided(cfg), loader)
    predictor = lopsided(cfg)
    network, sizes = predictor.model, []

    class TooLarge(torch.nn.Module):
        def forward(self, batch):
            sizes.append(len(batch))
            if len(batch) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return network(batch)

    predictor.model = TooLarge()
    result = evaluation.tuned(predictor, loader)
    assert result.temperature == pytest.approx(expected.temperature)
    assert result.thresholds == pytest.approx(expected.thresholds) and {4, 2, 1} <= set(sizes)


def test_a_class_whose_distances_are_in_pixels_is_not_said_to_be_in_mm():
    rows = [
        {"case": str(k), "patient": str(k), "class": name, "annotated": True, "n_true": 5}
        | {"tp": 4, "fp": k, "fn": 1, "tn": 90, "hd95": 1.0 + k, "distance_unit": unit}
        for name, unit in (("lung", "mm"), ("heart", "pixels"))
        for k in range(6)
    ]
    cfg, table = config.preset("lung", "smoke"), pd.DataFrame(rows).assign(dice=0.8)
    found = summary.of_table(table, "per image", cfg, longest={"mm": 7.0, "pixels": 90.0})
    found = found[found["metric"] == "hd95"].set_index("class")
    assert found["unit"].to_dict() == {"lung": "mm", "heart": "pixels", "mean": "mm"}


def test_the_diagonal_is_computed_once_for_an_image(monkeypatch):
    calls = []
    diagonal = metrics.diagonal
    monkeypatch.setattr(metrics, "diagonal", lambda *a: calls.append(a) or diagonal(*a))
    truth, nothing = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    scores = evaluation._distances(nothing, truth, np.ones((3, 4), bool), (2.0, 2.0))
    assert scores["hd95"] == scores["assd"] == 10 and len(calls) == 1
