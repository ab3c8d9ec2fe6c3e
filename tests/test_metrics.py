"""Metrics against scikit-learn, torchmetrics, smp and MONAI, and the rules for empty masks."""

import math
import warnings

import cv2
import monai.metrics
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from seglib import curves, metrics, tables
from seglib.tables import Metric

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@st.composite
def mask_pairs(draw):
    """Prediction and truth, bool of one shape; now and then empty or full."""
    shape = draw(SHAPES)
    random = hnp.arrays(bool, shape)
    masks = (
        random | random | random | st.just(np.zeros(shape, bool)) | st.just(np.ones(shape, bool))
    )
    return draw(masks), draw(masks)


def score(pred, truth):
    return {name: float(v) for name, v in metrics.ratios(**metrics.counts(pred, truth)).items()}


# ---- counts and ratios


@given(mask_pairs())
def test_counts_are_scikit_learns(pair):
    pred, truth = pair
    matrix = sklearn.metrics.confusion_matrix(truth.ravel(), pred.ravel(), labels=[False, True])
    tn, fp, fn, tp = matrix.ravel()
    assert metrics.counts(pred, truth) == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


@given(mask_pairs(), st.data())
def test_pixels_that_are_not_valid_do_not_count(pair, data):
    pred, truth = pair
    valid = data.draw(hnp.arrays(bool, pred.shape))
    count = metrics.counts(pred, truth, valid)
    assert sum(count.values()) == valid.sum()
    assert count == metrics.counts(pred ^ ~valid, truth, valid)
    assert count == metrics.counts(pred, truth ^ ~valid, valid)
    assert count == metrics.counts(pred[valid], truth[valid])


def test_counts_refuse_two_grids():
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        metrics.counts(np.zeros((4, 4)), np.zeros((4, 5)))


@given(mask_pairs())
def test_ratios_are_scikit_learns(pair):
    pred, truth = pair
    masks = truth.ravel(), pred.ravel()
    nan = {"zero_division": np.nan}
    dice = sklearn.metrics.f1_score(*masks, zero_division=1.0)
    expected = {
        "dice": dice,
        "iou": sklearn.metrics.jaccard_score(*masks, zero_division=1.0),
        "precision": sklearn.metrics.precision_score(*masks, **nan),
        "recall": sklearn.metrics.recall_score(*masks, **nan),
        "f1": dice,
        "specificity": sklearn.metrics.recall_score(*masks, pos_label=False, **nan),
        "accuracy": sklearn.metrics.accuracy_score(*masks),
    }
    assert score(pred, truth) == pytest.approx(expected, nan_ok=True)


@given(mask_pairs())
def test_ratios_are_monais_and_smps(pair):
    """All three can be asked to call two empty masks a perfect match, as here."""
    pred, truth = (torch.from_numpy(mask)[None, None] for mask in pair)
    ours = score(*pair)
    dice = monai.metrics.compute_dice(pred, truth, ignore_empty=False)
    iou = monai.metrics.compute_iou(pred.float(), truth.float(), ignore_empty=False)
    assert (ours["dice"], ours["iou"]) == pytest.approx((dice.item(), iou.item()))
    stats = smp.metrics.get_stats(pred.long(), truth.long(), mode="binary")
    imagewise = {"reduction": "micro-imagewise", "zero_division": 1.0}
    smp_names = {"dice": "f1_score", "iou": "iou_score"}
    for name, value in ours.items():
        theirs = getattr(smp.metrics, smp_names.get(name, name), None)
        if theirs and not math.isnan(value):  # where 0/0 is NaN here, smp takes a number to choose
            assert value == pytest.approx(theirs(*stats, **imagewise).item())


@given(mask_pairs(), st.data())
def test_counts_and_specificity_are_torchmetrics_with_ignored_pixels(pair, data):
    pred, truth = pair
    valid = data.draw(hnp.arrays(bool, pred.shape))
    masks = torch.from_numpy(pred).long(), torch.from_numpy(np.where(valid, truth, 255)).long()
    tp, fp, tn, fn, _ = tm.binary_stat_scores(*masks, ignore_index=255).tolist()
    count = metrics.counts(pred, truth, valid)
    assert count == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    if tn + fp:
        theirs = tm.binary_specificity(*masks, ignore_index=255).item()
        assert float(metrics.ratios(**count)["specificity"]) == pytest.approx(theirs)


def test_ratios_of_arrays_are_the_ratios_of_their_elements():
    table = np.random.default_rng(0).integers(0, 3, (4, 6, 5))
    whole = metrics.ratios(*table)
    assert list(whole) == metrics.names("counts")
    for row, column in np.ndindex(6, 5):
        single = metrics.ratios(*table[:, row, column])
        for name, values in whole.items():
            np.testing.assert_array_equal(values[row, column], single[name])


def test_large_counts_do_not_overflow():
    tp = 3 * 10**9
    assert metrics.ratios(tp, tp, 0, tp)["dice"] == pytest.approx(2 / 3)
    large = np.int32([2**30, 2**30])
    assert metrics.ratios(large, large, 0, 0)["dice"] == pytest.approx([2 / 3, 2 / 3])


# ---- the rules for empty masks

EMPTY, SOME, OTHER = np.zeros((3, 30, 40), bool)  # a frame of 30 x 40 has a diagonal of 50
SOME[5:10, 5:15] = True
OTHER[5:10, 10:20] = True
NAN, TOTAL, DIAGONAL = float("nan"), 30 * 40, 50.0

# case: prediction, truth; Dice (and F1), IoU, precision, recall, specificity, accuracy
RULES = {
    "both empty": (EMPTY, EMPTY, 1, 1, NAN, NAN, 1, 1),
    "truth empty": (SOME, EMPTY, 0, 0, 0, NAN, 1 - 50 / TOTAL, 1 - 50 / TOTAL),
    "prediction empty": (EMPTY, SOME, 0, 0, NAN, 0, 1, 1 - 50 / TOTAL),
    "overlap": (OTHER, SOME, 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1 - 25 / (TOTAL - 50), 1 - 50 / TOTAL),
    "all full": (~EMPTY, ~EMPTY, 1, 1, 1, 1, NAN, 1),
}
DISTANCES = {
    "both empty": {"hd95": 0, "assd": 0, "nsd": 1},
    "truth empty": {"hd95": DIAGONAL, "assd": DIAGONAL, "nsd": 0},
    "prediction empty": {"hd95": DIAGONAL, "assd": DIAGONAL, "nsd": 0},
}


@pytest.mark.parametrize("case", RULES)
def test_the_rules_for_empty_masks(case):
    pred, truth, dice, iou, precision, recall, specificity, accuracy = RULES[case]
    expected = {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "f1": dice}
    expected |= {"specificity": specificity, "accuracy": accuracy}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 0/0 is decided, not stumbled over
        assert score(pred, truth) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("case", DISTANCES)
def test_the_rules_for_distances_to_empty_masks(case):
    pred, truth, *_ = RULES[case]
    expected = DISTANCES[case]
    assert metrics.surface_distances(pred, truth) == expected
    in_mm = metrics.surface_distances(pred, truth, spacing=(4.0, 3.0))  # 120 mm x 120 mm
    diagonal = 120 * math.sqrt(2) if expected["hd95"] else 0
    assert in_mm == pytest.approx({"hd95": diagonal, "assd": diagonal, "nsd": expected["nsd"]})


# ---- probabilities, decisions, counts of a batch


def test_probabilities_are_float32_sigmoid_or_softmax():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(metrics.probabilities(logits, "multilabel"), torch.sigmoid(logits))
    assert torch.equal(metrics.probabilities(logits, "multiclass"), torch.softmax(logits, 1))
    assert metrics.probabilities(logits.bfloat16(), "binary").dtype == torch.float32


def test_to_one_hot_takes_the_threshold_itself_and_the_likeliest_class():
    prob = torch.tensor([0.2, 0.5, 0.500001, 0.9]).reshape(1, 1, 2, 2)
    assert metrics.to_one_hot(prob, "binary").tolist() == [[[[False, True], [True, True]]]]
    assert metrics.to_one_hot(prob, "multilabel", 0.9).sum() == 1
    prob = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    chosen = metrics.to_one_hot(prob, "multiclass", threshold=0.99)
    assert chosen.dtype == torch.bool and (chosen.sum(1) == 1).all()
    assert torch.equal(chosen.int().argmax(1), prob.argmax(1))
    tied = metrics.to_one_hot(torch.full((1, 3, 1, 1), 1 / 3), "multiclass")
    assert tied.flatten().tolist() == [True, False, False]


@given(
    seed=st.integers(0, 9999),
    n=st.integers(1, 3),
    k=st.integers(1, 4),
    ignored=st.sampled_from([0.0, 0.3, 1.1]),
)
def test_batch_counts_are_the_counts_of_each_image_and_class(seed, n, k, ignored):
    rng = np.random.default_rng(seed)
    pred = rng.random((n, k, 5, 7)) < 0.5
    target = rng.integers(0, 2, pred.shape).astype(np.uint8)
    target[rng.random(pred.shape) < ignored] = 255
    batch = metrics.batch_counts(torch.from_numpy(pred), torch.from_numpy(target), "multilabel")
    assert batch.shape == (n, k, 4) and batch.dtype == torch.int64
    for i, c in np.ndindex(n, k):
        expected = metrics.counts(pred[i, c], target[i, c] == 1, target[i, c] != 255)
        assert batch[i, c].tolist() == list(expected.values())


@given(
    seed=st.integers(0, 9999),
    n=st.integers(1, 3),
    k=st.integers(2, 5),
    ignored=st.sampled_from([0.0, 0.3, 1.1]),
)
def test_batch_counts_of_label_maps(seed, n, k, ignored):
    rng = np.random.default_rng(seed)
    labels, target = rng.integers(0, k, (2, n, 5, 7)).astype(np.uint8)
    target[rng.random(target.shape) < ignored] = 255
    pred = torch.from_numpy(labels[:, None] == np.arange(k)[:, None, None])
    batch = metrics.batch_counts(pred, torch.from_numpy(target), "multiclass")
    for i, c in np.ndindex(n, k):
        expected = metrics.counts(labels[i] == c, target[i] == c, target[i] != 255)
        assert batch[i, c].tolist() == list(expected.values())
    if ignored < 1:
        maps = torch.from_numpy(labels).long(), torch.from_numpy(target).long()
        stats = smp.metrics.get_stats(*maps, "multiclass", 255, num_classes=k)
        # smp counts ignored pixels as true negatives, so only the first three agree.
        assert torch.equal(batch[..., :3], torch.stack(stats[:3], dim=-1))


@given(seed=st.integers(0, 9999), valid=st.booleans())
@settings(max_examples=20)
def test_bce_is_scikit_learns_log_loss(seed, valid):
    rng = np.random.default_rng(seed)
    prob, truth = rng.uniform(0.001, 0.999, (6, 7)), rng.random((6, 7)) < 0.4
    where = rng.random((6, 7)) < 0.7 if valid else np.ones((6, 7), bool)
    expected = sklearn.metrics.log_loss(truth[where], prob[where], labels=[False, True])
    assert metrics.bce(prob, truth, where if valid else None) == pytest.approx(expected, rel=1e-9)


def test_bce_of_certain_and_of_no_pixels():
    sure = np.array([[0.0, 1.0]], np.float32)
    assert metrics.bce(sure, np.array([[False, True]])) == pytest.approx(1e-7, rel=1e-3)
    assert metrics.bce(sure, np.array([[True, False]])) == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert math.isnan(metrics.bce(sure, sure > 0.5, np.zeros((1, 2), bool)))


# ---- distances


def blobs(seed, shape, level=0.5):
    """Smooth random shapes, sometimes touching the frame, never empty; large ones are smoother."""
    noise = np.random.default_rng(seed).normal(size=shape)
    noise = ndimage.gaussian_filter(noise, 2 if max(shape) < 100 else 25)
    return noise > np.quantile(noise, 1 - level)


def boundary_distances(pred, truth, spacing):
    """The definition, on the full frame: distances of all pairs of boundary points."""
    points = []
    for mask in (pred, truth):
        outside = np.pad(~mask, 1, constant_values=True)
        shifts = [np.roll(outside, s, axis) for axis in range(mask.ndim) for s in (-1, 1)]
        inner = np.logical_or.reduce(shifts)[(slice(1, -1),) * mask.ndim]
        points.append(np.argwhere(mask & inner) * np.asarray(spacing))
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((32, 41), None),
        ((32, 41), (0.75, 1.5)),
        ((190, 241), (0.75, 1.5)),  # so few boundary pixels that a tree is taken
        ((11, 24, 19), None),
        ((11, 24, 19), (2.5, 0.75, 1.25)),
    ],
)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
def test_distances_are_monais(shape, spacing, seed):
    pred, truth = blobs(seed, shape, 0.3), blobs(seed + 100, shape, 0.2)
    ours = metrics.surface_distances(pred, truth, spacing, tolerance=2.0)
    a, b = (torch.from_numpy(mask)[None, None] for mask in (pred, truth))
    common = {"include_background": True, "spacing": spacing}
    hd95 = monai.metrics.compute_hausdorff_distance(a, b, percentile=95, **common).item()
    assd = monai.metrics.compute_average_surface_distance(a, b, symmetric=True, **common).item()
    nsd = monai.metrics.compute_surface_dice(a, b, class_thresholds=[2.0], **common).item()
    assert ours == pytest.approx({"hd95": hd95, "assd": assd, "nsd": nsd}, rel=1e-6)
    assert hd95 > assd > 0 and 0 < nsd < 1


@given(st.data())
@settings(max_examples=30)
def test_distances_by_definition(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8))
    pred, truth = (data.draw(hnp.arrays(bool, shape)) for _ in range(2))
    spacing = tuple(data.draw(st.sampled_from([0.5, 1.0, 3.25])) for _ in shape)
    tolerance = data.draw(st.sampled_from([0.0, 1.0, 2.0]))
    ours = metrics.surface_distances(pred, truth, spacing, tolerance)
    swapped = metrics.surface_distances(truth, pred, spacing, tolerance)
    assert ours == pytest.approx(swapped, abs=1e-9)
    if not (pred.any() and truth.any()):
        return
    directed = boundary_distances(pred, truth, spacing)
    both = np.concatenate(directed)
    expected = {"hd95": max(np.percentile(side, 95) for side in directed)}
    expected |= {"assd": both.mean(), "nsd": (both <= tolerance).mean()}
    assert ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [9, 90, 700, 3000])
def test_each_way_to_the_nearest_pixel_gives_the_same(side):
    """In pixels all pairs are compared; in mm and for very large masks a tree or a map is used."""
    pred, truth = (np.zeros((side, side + 7), np.uint8) for _ in range(2))
    cv2.ellipse(pred, (side // 2, side // 2), (side // 3, side // 5), 20, 0, 360, 1, -1)
    cv2.ellipse(truth, (side // 2 + 2, side // 2 - 1), (side // 4, side // 4), 0, 0, 360, 1, -1)
    truth[0, 0] = truth[-1, -1] = 1
    pixels = metrics.surface_distances(pred > 0, truth > 0, tolerance=3)
    doubled = metrics.surface_distances(pred > 0, truth > 0, (2.0, 2.0), tolerance=6)
    expected = {"hd95": 2 * pixels["hd95"], "assd": 2 * pixels["assd"], "nsd": pixels["nsd"]}
    assert doubled == pytest.approx(expected)
    assert 0 < pixels["assd"] < pixels["hd95"]


@pytest.mark.parametrize("shape", [(24, 30), (9, 14, 12)])
def test_the_size_of_the_frame_does_not_change_distances(shape):
    """The same shapes in a much larger frame: cropping to the box of both masks is exact."""
    pred, truth = blobs(1, shape, 0.2), blobs(2, shape, 0.2)
    small = metrics.surface_distances(pred, truth)
    wide = [np.pad(mask, 40) for mask in (pred, truth)]
    far = [np.pad(mask, [(0, 77)] + [(5, 0)] * (mask.ndim - 1)) for mask in (pred, truth)]
    assert small == metrics.surface_distances(*wide) == metrics.surface_distances(*far)


def test_equal_masks_have_no_distance_and_far_ones_their_distance():
    mask = blobs(3, (20, 20))
    assert metrics.surface_distances(mask, mask, (0.3, 0.7)) == {"hd95": 0, "assd": 0, "nsd": 1}
    a, b = np.zeros((2, 200, 200), bool)
    a[0, 0] = b[30, 40] = True
    assert metrics.surface_distances(a, b) == {"hd95": 50, "assd": 50, "nsd": 0}
    assert metrics.surface_distances(a, b, (2.0, 0.5))["hd95"] == pytest.approx(math.hypot(60, 20))
    assert metrics.surface_distances(a, b, tolerance=50)["nsd"] == 1


def test_hd95_forgives_one_pixel_in_a_hundred():
    truth = np.zeros((60, 60), bool)
    truth[10:40, 10:40] = True
    pred = truth.copy()
    pred[55, 55] = True
    distances = metrics.surface_distances(pred, truth)
    expected = math.hypot(16, 16) / (116 + 117)
    assert distances["hd95"] == 0 and distances["assd"] == pytest.approx(expected)


# ---- additions to the table


def matthews(tp, fp, fn, tn):
    """Matthews correlation coefficient; 0 where its denominator is."""
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / np.sqrt(np.where(product > 0, product, 1))


def test_a_metric_of_counts_is_one_entry(monkeypatch):
    monkeypatch.setitem(tables.METRICS, "mcc", Metric(matthews, "counts", worst=-1.0))
    rng = np.random.default_rng(0)
    prob, truth = rng.random(500).astype(np.float32), rng.random(500) < 0.3
    pred = prob >= 0.4
    expected = sklearn.metrics.matthews_corrcoef(truth, pred)
    assert score(pred, truth)["mcc"] == pytest.approx(expected)
    assert metrics.names("counts")[-1] == "mcc" and not metrics.less_is_better("mcc")
    histogram = curves.HistogramROC().update(prob, truth)
    assert histogram.sweep([0.4])["mcc"] == pytest.approx([expected])
    threshold = np.float32(histogram.best_threshold("mcc"))
    best = max(sklearn.metrics.matthews_corrcoef(truth, prob >= p) for p in np.unique(prob))
    assert score(prob >= threshold, truth)["mcc"] == pytest.approx(best)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
def test_a_metric_of_distances_is_one_entry(monkeypatch):
    def hd100(distances):
        return max(distances.to_truth.max(), distances.to_pred.max())

    entry = Metric(hd100, "distances", best=0.0, worst=math.inf)
    monkeypatch.setitem(tables.METRICS, "hd100", entry)
    pred, truth = blobs(0, (32, 41), 0.3), blobs(1, (32, 41), 0.2)
    a, b = (torch.from_numpy(mask)[None, None] for mask in (pred, truth))
    theirs = monai.metrics.compute_hausdorff_distance(a, b, include_background=True).item()
    assert metrics.surface_distances(pred, truth)["hd100"] == pytest.approx(theirs)
    assert metrics.less_is_better("hd100") and "hd100" in metrics.names("distances")
    assert metrics.surface_distances(EMPTY, EMPTY)["hd100"] == 0
    assert metrics.surface_distances(EMPTY, SOME)["hd100"] == DIAGONAL


def test_which_metrics_are_better_when_less():
    names = [name for name in metrics.names() if metrics.less_is_better(name)]
    assert names == ["bce", "hd95", "assd", "brier", "log_loss", "ece"]
    assert not metrics.less_is_better("n_true")  # a column that is no metric


# ---- volumes


def solids():
    """Masks (9, 20, 24): usual ones, one voxel, in a corner, along the border, full, empty."""
    z, y, x = np.indices((9, 20, 24))
    solids = {
        "ball": ((z - 4) * 5) ** 2 + (y - 10) ** 2 + (x - 12) ** 2 < 60,
        "one voxel": (z == 4) & (y == 3) & (x == 5),
        "corner": z + y + x == 0,
        "first slice": z == 0,
        "border": (z < 4) & (y < 9),
        "edge": (z == 3) & (x == 0),
        "full": z >= 0,
        "specks": np.random.default_rng(0).random(z.shape) < 0.02,
    }
    return {**solids, "empty": np.zeros(z.shape, bool)}


@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.8), (1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_distances_of_volumes_are_monais_at_the_border_and_of_one_voxel(spacing):
    """Equal everywhere but where a mask is empty, of which MONAI has no number."""
    for pred, truth in ((p, t) for p in solids().values() for t in solids().values()):
        ours = metrics.surface_distances(pred, truth, spacing)
        if not (pred.any() and truth.any()):
            alike = pred.any() == truth.any()
            diagonal = float(np.linalg.norm(np.multiply(pred.shape, spacing)))
            expected = (0, 0, 1) if alike else (diagonal, diagonal, 0)
            assert tuple(ours.values()) == pytest.approx(expected)
            continue
        a, b = (torch.from_numpy(mask)[None, None] for mask in (pred, truth))
        common = {"include_background": True, "spacing": spacing}
        theirs = (
            monai.metrics.compute_hausdorff_distance(a, b, percentile=95, **common),
            monai.metrics.compute_average_surface_distance(a, b, symmetric=True, **common),
            monai.metrics.compute_surface_dice(a, b, class_thresholds=[2.0], **common),
        )
        expected = [value.item() for value in theirs]
        assert list(ours.values()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_components_are_counted_and_matched():
    """Against a flood fill over shared faces, and lesion by lesion."""
    for pred, truth in ((p, t) for p in solids().values() for t in solids().values()):
        result = metrics.components(pred, truth)
        true, predicted = (flood_filled(mask) for mask in (truth, pred))
        expected = {
            "components_true": len(true),
            "components_pred": len(predicted),
            "components_found": sum(any(pred[voxel] for voxel in lesion) for lesion in true),
            "components_false": sum(not any(truth[v] for v in lesion) for lesion in predicted),
        }
        assert result == expected


def flood_filled(mask):
    """The connected components of a mask, each a set of voxels."""
    left, components = set(map(tuple, np.argwhere(mask))), []
    while left:
        reached, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            reached.add(voxel)
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    other = (*voxel[:axis], voxel[axis] + step, *voxel[axis + 1 :])
                    if other in left:
                        left.remove(other)
                        border.append(other)
        components.append(reached)
    return components


def test_which_metrics_reward_an_empty_prediction_of_an_empty_truth():
    names = [name for name in metrics.names() if metrics.rewards_absence(name)]
    assert names == ["dice", "iou", "f1", "hd95", "assd", "nsd"]
