"""Scores of images and volumes: every number computed a second way."""

import monai.metrics
import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from scipy import ndimage

from seglib import config, data, evaluation, layouts, metrics, prepare
from seglib.formats import images, volumes
from seglib.inference import Predictor
from tests.evaluations import COLUMNS, greys, loaders_of, report_on
from tests.helpers import (
    FakePredictor,
    all_in,
    blurred,
    cardiac_config,
    hand_store,
    label_store,
    labelled,
    perfect,
)


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


# ---- volumes


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
