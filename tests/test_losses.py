"""Losses against torch, MONAI, segmentation-models-pytorch, torchvision and numbers computed by
hand."""

import math

import monai.losses
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from seglib import losses
from seglib.errors import TrainingError

SIGMOID = [
    ("bce", {}),
    ("weighted_bce", {}),
    ("weighted_bce", {"missing_normalisation": "plain"}),
    ("dice", {}),
]
SIGMOID += [
    ("combined", {}),
    ("combined", {"missing_normalisation": "plain", "loss_weights": (0.3, 0.7)}),
]
SOFTMAX = [("cross_entropy", {}), ("dice_focal", {}), ("dice_focal", {"focal_gamma": 0.0})]


def sigmoid_batch(seed, n=2, k=3, side=6, ignored=0.0, missing=0.0):
    """Logits, target of 0, 1 and 255, and annotated, for the sigmoid tasks.

    Args:
        ignored: share of the pixels that are padding.
        missing: share of the masks that do not exist.
    """
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, side, side, generator=g)
    target = torch.randint(0, 2, (n, k, side, side), generator=g).to(torch.uint8)
    padding = torch.rand(n, 1, side, side, generator=g) < ignored
    annotated = torch.rand(n, k, generator=g) >= missing
    target[(padding | ~annotated[:, :, None, None]).expand_as(target)] = 255
    return logits, target, annotated


def softmax_batch(seed, n=2, k=4, side=6, ignored=0.0):
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, k, (n, side, side), generator=g).to(torch.uint8)
    target[torch.rand(n, side, side, generator=g) < ignored] = 255
    return (
        2 * torch.randn(n, k, side, side, generator=g),
        target,
        torch.ones(n, k, dtype=torch.bool),
    )


# ---- binary cross-entropy


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "bce"},
        {"name": "weighted_bce"},
        {"name": "weighted_bce", "missing_weight": 0.5},
        {"name": "weighted_bce", "missing_weight": 1.0, "missing_normalisation": "plain"},
    ],
)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 3))
@settings(max_examples=10)
def test_bce_is_torchs_where_no_mask_is_missing(fields, seed, k):
    logits, target, annotated = sigmoid_batch(seed, k=k)
    expected = nn.BCEWithLogitsLoss()(logits, target.float())
    torch.testing.assert_close(losses.build(**fields)(logits, target, annotated), expected)


# Two pixels and two classes; the second class has no mask. The loss of a pixel is
# softplus(z) - z * y. Class 1: logit 0 on truth 1 gives ln 2, logit ln 3 on truth 0 gives ln 4.
# Class 2, taken as empty: logit ln 3 gives ln 4, logit 0 gives ln 2.
ANNOTATED_SUM = math.log(2) + math.log(4)
MISSING_SUM = math.log(4) + math.log(2)
HAND = [
    (0.0, "annotated", ANNOTATED_SUM / 2),
    (0.5, "annotated", (ANNOTATED_SUM + 0.5 * MISSING_SUM) / 3),
    (1.0, "annotated", (ANNOTATED_SUM + MISSING_SUM) / 4),
    (0.0, "plain", ANNOTATED_SUM / 4),
    (0.5, "plain", (ANNOTATED_SUM + 0.5 * MISSING_SUM) / 4),
    (1.0, "plain", (ANNOTATED_SUM + MISSING_SUM) / 4),
]


@pytest.mark.parametrize(("weight", "normalisation", "expected"), HAND)
def test_weighted_bce_by_hand(weight, normalisation, expected):
    logits = torch.tensor([[[[0.0, math.log(3)]], [[math.log(3), 0.0]]]])  # (1, 2, 1, 2)
    target = torch.tensor([[[[1, 0]], [[255, 255]]]], dtype=torch.uint8)
    loss = losses.MaskedBCE(weight, normalisation)(logits, target, torch.tensor([[True, False]]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("weight", "normalisation"), [(w, n) for w, n, _ in HAND])
def test_padding_has_no_weight_even_where_masks_are_missing(weight, normalisation):
    """A third pixel of padding changes only the number of pixels that the plain mean divides by."""
    logits = torch.tensor([[[[0.0, math.log(3), 9.0]], [[math.log(3), 0.0, 9.0]]]])
    target = torch.tensor([[[[1, 0, 255]], [[255, 255, 255]]]], dtype=torch.uint8)
    annotated = torch.tensor([[True, False]])
    loss = losses.MaskedBCE(weight, normalisation)
    padded, without = (
        loss(logits, target, annotated),
        loss(logits[..., :2], target[..., :2], annotated),
    )
    shrunk = 4 / 6 if normalisation == "plain" else 1.0
    assert padded.item() == pytest.approx(without.item() * shrunk, rel=1e-6)


def test_annotated_normalisation_keeps_the_loss_while_masks_go_missing():
    """Same logits and truth for every class. Only the plain form shrinks with missing masks."""
    logits, target, _ = sigmoid_batch(3, n=1, k=1)
    logits, target = logits.repeat(1, 3, 1, 1), target.repeat(1, 3, 1, 1)
    seen = {"annotated": [], "plain": []}
    for missing in range(3):
        masks, annotated = target.clone(), torch.ones(1, 3, dtype=torch.bool)
        masks[:, :missing], annotated[:, :missing] = 255, False
        for normalisation, values in seen.items():
            values.append(losses.MaskedBCE(0.0, normalisation)(logits, masks, annotated).item())
    assert seen["annotated"] == pytest.approx([seen["annotated"][0]] * 3, rel=1e-6)
    assert seen["plain"] == pytest.approx(
        [seen["plain"][0] * left for left in (1, 2 / 3, 1 / 3)], rel=1e-6
    )


@pytest.mark.parametrize("normalisation", ["annotated", "plain"])
def test_weight_one_means_no_mask_is_an_empty_mask(normalisation):
    logits, target, annotated = sigmoid_batch(5, missing=0.5)
    assert not annotated.all() and annotated.any(dim=1).all()
    empty = torch.where(target == 255, 0, target)
    loss = losses.MaskedBCE(1.0, normalisation)(logits, target, annotated)
    torch.testing.assert_close(loss, nn.BCEWithLogitsLoss()(logits, empty.float()))


@pytest.mark.parametrize(("name", "fields"), SIGMOID)
def test_a_batch_without_any_mask_is_zero_and_teaches_nothing(name, fields):
    logits, target, annotated = sigmoid_batch(1, missing=1.1)
    assert (target == 255).all() and not annotated.any()
    logits.requires_grad_()
    loss = losses.build(name, "multilabel", **fields)(logits, target, annotated)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("name", "fields"), SOFTMAX)
def test_a_label_map_that_is_all_ignored_is_zero(name, fields):
    logits, target, annotated = softmax_batch(1, ignored=1.1)
    logits.requires_grad_()
    loss = losses.build(name, "multiclass", **fields)(logits, target, annotated)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


# ---- what is ignored is ignored


@pytest.mark.parametrize(("name", "fields"), SIGMOID)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 3),
    ignored=st.floats(0.1, 0.9),
    missing=st.floats(0.1, 0.9),
)
@settings(max_examples=15)
def test_predictions_without_truth_change_nothing(name, fields, seed, k, ignored, missing):
    logits, target, annotated = sigmoid_batch(seed, k=k, ignored=ignored, missing=missing)
    loss_of = losses.build(name, "multilabel", **fields)
    logits.requires_grad_()
    loss = loss_of(logits, target, annotated)
    loss.backward()
    unknown = target == 255
    other = torch.where(
        unknown,
        50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)),
        logits,
    )
    assert torch.equal(loss_of(other, target, annotated), loss)
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).all()


@pytest.mark.parametrize(("name", "fields"), SOFTMAX)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 5), ignored=st.floats(0.1, 0.9))
@settings(max_examples=15)
def test_predictions_under_ignored_labels_change_nothing(name, fields, seed, k, ignored):
    logits, target, annotated = softmax_batch(seed, k=k, ignored=ignored)
    loss_of = losses.build(name, "multiclass", **fields)
    logits.requires_grad_()
    loss = loss_of(logits, target, annotated)
    loss.backward()
    unknown = (target == 255)[:, None].expand_as(logits)
    other = torch.where(
        unknown,
        50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)),
        logits,
    )
    assert torch.equal(loss_of(other, target, annotated), loss)
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).all()


# ---- Dice


@given(seed=st.integers(0, 10_000), k=st.integers(1, 3), ignored=st.sampled_from([0.0, 0.4]))
@settings(max_examples=15)
def test_dice_is_monais(seed, k, ignored):
    """MONAI averages over images and classes too; its smoothing of 1e-5 is set to our 1."""
    logits, target, annotated = sigmoid_batch(seed, k=k, ignored=ignored)
    known = (target != 255).float()
    prob = torch.sigmoid(logits) * known  # MONAI's own ignore_index takes no multichannel target
    expected = monai.losses.DiceLoss(smooth_nr=1.0, smooth_dr=1.0)(prob, (target == 1).float())
    torch.testing.assert_close(losses.DiceLoss("multilabel")(logits, target, annotated), expected)


@given(seed=st.integers(0, 10_000), k=st.integers(2, 5))
@settings(max_examples=15)
def test_multiclass_dice_is_monais_without_background(seed, k):
    logits, target, annotated = softmax_batch(seed, k=k)
    fields = {
        "softmax": True,
        "to_onehot_y": True,
        "include_background": False,
        "smooth_nr": 1.0,
        "smooth_dr": 1.0,
    }
    expected = monai.losses.DiceLoss(**fields)(logits, target[:, None].long())
    torch.testing.assert_close(losses.DiceLoss("multiclass")(logits, target, annotated), expected)


@given(seed=st.integers(0, 10_000), ignored=st.sampled_from([0.0, 0.4]))
@settings(max_examples=15)
def test_dice_is_smps_for_one_image(seed, ignored):
    """smp adds up a batch before it divides, so one image is compared; it halves the fraction, as
    Tversky does, so that its smooth=0.5 is our 1."""
    logits, target, annotated = sigmoid_batch(seed, n=1, k=1, ignored=ignored)
    if not (target == 1).any():
        target[..., 0, 0] = 1  # smp leaves empty truths out
    expected = smp.losses.DiceLoss("binary", smooth=0.5, ignore_index=255)(logits, target.long())
    torch.testing.assert_close(losses.DiceLoss("binary")(logits, target, annotated), expected)


@given(seed=st.integers(0, 10_000), ignored=st.sampled_from([0.0, 0.4]))
@settings(max_examples=15)
def test_multiclass_dice_is_smps_for_one_image(seed, ignored):
    logits, target, annotated = softmax_batch(seed, n=1, k=4, ignored=ignored)
    target[0, 0, :4] = torch.arange(4)
    theirs = smp.losses.DiceLoss("multiclass", classes=[1, 2, 3], smooth=0.5, ignore_index=255)
    torch.testing.assert_close(
        losses.DiceLoss("multiclass")(logits, target, annotated), theirs(logits, target.long())
    )


def test_dice_by_hand():
    """Probabilities 0.5 on four pixels, two of them true: 1 - (2 * 1 + 1) / (2 + 2 + 1) = 0.4."""
    target = torch.tensor([[[[1, 1], [0, 0]]]], dtype=torch.uint8)
    assert losses.DiceLoss()(torch.zeros(1, 1, 2, 2), target).item() == pytest.approx(0.4)


def test_dice_averages_images_and_annotated_classes_not_pixels():
    logits, target, annotated = sigmoid_batch(11, n=3, k=2)
    target[1, 0], annotated[1, 0] = 255, False
    one = [
        losses.DiceLoss("multilabel")(logits[n : n + 1, k : k + 1], target[n : n + 1, k : k + 1])
        for n in range(3)
        for k in range(2)
        if annotated[n, k]
    ]
    assert len(one) == 5
    torch.testing.assert_close(
        losses.DiceLoss("multilabel")(logits, target, annotated), torch.stack(one).mean()
    )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_empty_truth_still_punishes_false_positives(task):
    logits = torch.zeros(1, 1 if task == "binary" else 3, 16, 16, requires_grad=True)
    target = torch.zeros((1, 1, 16, 16) if task == "binary" else (1, 16, 16), dtype=torch.uint8)
    loss = losses.DiceLoss(task)(logits, target)
    loss.backward()
    foreground = logits.grad if task == "binary" else logits.grad[:, 1:]
    assert loss.item() > 0.9 and (foreground > 0).all()
    assert losses.DiceLoss(task)(logits.detach() + torch.tensor(-30.0), target).item() == (
        pytest.approx(0, abs=1e-6) if task == "binary" else pytest.approx(loss.item())
    )


def test_multiclass_dice_leaves_background_out():
    """A perfect background with a missed organ is a bad score, not a half good one."""
    target = torch.zeros(1, 20, 20, dtype=torch.uint8)
    target[:, :10, :10] = 1
    logits = torch.zeros(1, 2, 20, 20)
    logits[:, 0] = 30
    assert losses.DiceLoss("multiclass")(logits, target).item() > 0.98


def test_multiclass_dice_leaves_classes_without_annotation_out():
    logits, target, annotated = softmax_batch(2, n=1, k=4)
    annotated[0, 2] = False
    separate = [
        monai.losses.DiceLoss(smooth_nr=1.0, smooth_dr=1.0)(
            logits.softmax(1)[:, k : k + 1], (target == k)[:, None].float()
        )
        for k in (1, 3)
    ]
    loss = losses.DiceLoss("multiclass")(logits, target, annotated)
    torch.testing.assert_close(loss, torch.stack(separate).mean())


# ---- cross-entropy and focal


@given(seed=st.integers(0, 10_000), k=st.integers(2, 5), ignored=st.sampled_from([0.0, 0.4]))
@settings(max_examples=15)
def test_cross_entropy_is_torchs(seed, k, ignored):
    logits, target, annotated = softmax_batch(seed, k=k, ignored=ignored)
    expected = nn.CrossEntropyLoss(ignore_index=255)(logits, target.long())
    torch.testing.assert_close(losses.CrossEntropy()(logits, target, annotated), expected)


@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.0, 1.0, 2.0, 5.0]))
@settings(max_examples=15)
def test_focal_of_two_classes_is_the_sigmoid_form(seed, gamma):
    """Softmax over logits (0, z) is the sigmoid of z, which torchvision and smp compute."""
    logits, target, _ = sigmoid_batch(seed, k=1)
    pair = torch.cat([torch.zeros_like(logits), logits], dim=1)
    loss = losses.FocalLoss(gamma)(pair, target[:, 0])
    theirs = torchvision.ops.sigmoid_focal_loss(
        logits, target.float(), alpha=-1, gamma=gamma, reduction="mean"
    )
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    theirs = smp.losses.FocalLoss("binary", gamma=gamma)(logits, target)
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(2, 5),
    gamma=st.floats(0, 5),
    ignored=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=20)
def test_focal_by_its_formula(seed, k, gamma, ignored):
    logits, target, annotated = softmax_batch(seed, k=k, ignored=ignored)
    known = target != 255
    p = (
        logits.double()
        .softmax(1)
        .gather(1, torch.where(known, target, 0).long()[:, None])[:, 0][known]
    )
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    torch.testing.assert_close(losses.FocalLoss(gamma)(logits, target, annotated), expected.float())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 10.0])
def test_focal_gradient_is_a_number_for_every_gamma_a_config_allows(gamma):
    """Ignored pixels and pixels that the network is sure of have an entropy of exactly 0."""
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 0, 0, 0] = 200.0  # sure and right
    target = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    logits.requires_grad_()
    losses.FocalLoss(gamma)(logits, target).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 2] == 0).all() and (logits.grad[..., 1] != 0).all()


# ---- all of them

EVERY = [(n, "multilabel", f) for n, f in SIGMOID] + [(n, "multiclass", f) for n, f in SOFTMAX]


def batch_of(task, **options):
    return (
        softmax_batch(4, ignored=0.2, **options)
        if task == "multiclass"
        else sigmoid_batch(4, ignored=0.2, **options)
    )


@pytest.mark.parametrize(("name", "task", "fields"), EVERY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_give_a_float32_loss(name, task, fields, dtype):
    logits, target, annotated = batch_of(task)
    half = logits.to(dtype).requires_grad_()
    loss = losses.build(name, task, **fields)(half, target, annotated)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and half.grad.isfinite().all()
    assert loss.item() == pytest.approx(
        losses.build(name, task, **fields)(half.float(), target, annotated).item()
    )


@pytest.mark.parametrize(("name", "task", "fields"), EVERY)
@pytest.mark.parametrize("scale", [1e2, 1e4, 3e38])
def test_extreme_logits_stay_finite(name, task, fields, scale):
    logits, target, annotated = batch_of(task)
    logits = (logits.sign() * scale / logits.numel()).requires_grad_()
    loss = losses.build(name, task, **fields)(logits, target, annotated)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "task", "fields"), EVERY)
def test_a_better_prediction_has_a_lower_loss(name, task, fields):
    logits, target, annotated = batch_of(task)
    truth = (
        F.one_hot(torch.where(target == 255, 0, target).long(), 4).movedim(-1, 1)
        if task == "multiclass"
        else target == 1
    )
    right = 8 * truth.float() - 4
    loss_of = losses.build(name, task, **fields)
    values = [
        loss_of(prediction, target, annotated).item()
        for prediction in (4 * right, right, 0 * right, -right)
    ]
    assert values == sorted(values) and values[0] < 0.1 * values[2] < 0.1 * values[3]


@pytest.mark.parametrize(("name", "task", "fields"), EVERY)
def test_order_of_images_does_not_matter(name, task, fields):
    logits, target, annotated = batch_of(task, n=4)
    loss_of, order = losses.build(name, task, **fields), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        loss_of(logits[order], target[order], annotated[order]), loss_of(logits, target, annotated)
    )


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 1.5), (0.0, 1.0)])
def test_combined_and_dice_focal_are_weighted_sums(weights):
    logits, target, annotated = sigmoid_batch(8, missing=0.3)
    bce = losses.MaskedBCE(0.25, "plain")(logits, target, annotated)
    dice = losses.DiceLoss("multilabel")(logits, target, annotated)
    built = losses.build(
        "combined",
        "multilabel",
        loss_weights=weights,
        missing_weight=0.25,
        missing_normalisation="plain",
    )
    torch.testing.assert_close(
        built(logits, target, annotated), weights[0] * bce + weights[1] * dice
    )

    logits, target, annotated = softmax_batch(8, ignored=0.3)
    dice = losses.DiceLoss("multiclass")(logits, target, annotated)
    focal = losses.FocalLoss(3.0)(logits, target, annotated)
    built = losses.build("dice_focal", "multiclass", loss_weights=weights, focal_gamma=3.0)
    torch.testing.assert_close(
        built(logits, target, annotated), weights[0] * dice + weights[1] * focal
    )


# ---- deep supervision


@pytest.mark.parametrize("loss", [losses.MaskedBCE(), losses.DiceLoss("multilabel")])
def test_the_loss_of_levels_is_the_sum_written_by_hand(loss):
    generator = torch.Generator().manual_seed(5)
    levels = [torch.randn(2, 2, side, side, generator=generator) for side in (8, 4, 2)]
    _, target, annotated = sigmoid_batch(seed=1, k=2, side=8, ignored=0.3)
    values = [loss(level, target, annotated) for level in losses.enlarged(levels)]
    two = torch.nn.Upsample(scale_factor=2, mode="bilinear")(levels[1])
    four = torch.nn.Upsample(scale_factor=4, mode="bilinear")(levels[2])
    parts = [loss(level, target, annotated) for level in (levels[0], two, four)]
    expected = parts[0] * 4 / 7 + parts[1] * 2 / 7 + parts[2] * 1 / 7
    torch.testing.assert_close(losses.mean_of_levels(values), expected)


def test_a_lesion_of_one_pixel_and_an_ignored_pixel_count_on_every_level():
    """Reduced by nearest neighbour, the lesion would be gone and the ignored pixel spread."""
    target = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    target[..., 3, 3], target[..., 0, 0] = 1, 255
    logits = torch.zeros(1, 1, 1, 1, requires_grad=True)
    (level,) = losses.enlarged([torch.zeros(1, 1, 8, 8), logits])[1:]
    losses.MaskedBCE()(level, target, torch.ones(1, 1, dtype=torch.bool)).backward()
    # 63 pixels count, one of them is a lesion: the mean of sigmoid(0) - truth.
    assert logits.grad.item() == pytest.approx(0.5 - 1 / 63)


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [{}, {}],
        [torch.zeros(1, 2, 4, 4), {}],
        [torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2)],
    ],
)
def test_levels_that_are_no_logits_are_named(levels):
    with pytest.raises(TrainingError, match="model: in training mode the network returned"):
        losses.enlarged(levels)


def test_bce_by_name_ignores_the_missing_weight():
    logits, target, annotated = sigmoid_batch(9, missing=0.5)
    plain, weighted = (
        losses.build(name, "multilabel", missing_weight=0.7) for name in ("bce", "weighted_bce")
    )
    assert plain(logits, target, annotated) == losses.MaskedBCE(0.0)(logits, target, annotated)
    assert weighted(logits, target, annotated) == losses.MaskedBCE(0.7)(logits, target, annotated)
    assert plain(logits, target, annotated) != weighted(logits, target, annotated)


def test_unknown_name_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'hinge'.*weighted_bce"):
        losses.build("hinge")
