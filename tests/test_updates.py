"""One update of several micro-batches: exact sums, a memory that is too small, and losses whose
parts cannot be added."""

import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglib import config, data, losses, runs, training, updates
from seglib.errors import ConfigError, TrainingError
from tests.helpers import TINY, convolution, multilabel_store, same_weights, stop_after

pytestmark = pytest.mark.usefixtures("without_figures")


def plain_loss(logits, target, annotated):
    """A loss without `total`."""
    return F.binary_cross_entropy_with_logits(logits, target.float())


class SmallCard(nn.Module):
    """A network in whose memory `room` images fit, from its second forward pass in training on."""

    def __init__(self, room, layer=None):
        super().__init__()
        self.layer = layer or convolution()
        self.room, self.sizes = room, []

    def forward(self, image):
        if self.training:
            self.sizes.append(len(image))
            if len(image) > self.room and len(self.sizes) > 1:
                raise torch.OutOfMemoryError("no more")
        return self.layer(image)


class TwoLevels(nn.Module):
    """A network without batch norm whose levels are supervised."""

    def __init__(self, channels=1):
        super().__init__()
        self.fine, self.coarse = convolution(channels), convolution(channels)

    def forward(self, image):
        fine = self.fine(image)
        return [fine, self.coarse(F.avg_pool2d(image, 4))] if self.training else fine


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (1, 4), (4, 3)])
def test_accumulated_steps_are_one_large_batch(tiny, batch_size, accumulate):
    """Without batch norm, which sees single batches, the update is that of all their images."""

    def trained(name, **sizes):
        cfg, batches = tiny(name, loss="bce", optimizer="sgd", lr=0.1, epochs=2, **sizes)
        run = training.fit(cfg, batches, model=convolution())
        return torch.load(run.folder / "final_model.pth")

    large = trained("large", batch_size=batch_size * accumulate)
    small = trained("small", batch_size=batch_size, accumulate=accumulate)
    other = trained("other", batch_size=batch_size)
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)  # sums in another order
    assert (other["weight"] - large["weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("network", [convolution, TwoLevels])
@pytest.mark.parametrize("loss", ["combined", "weighted_bce"])
def test_accumulation_is_exact_where_masks_are_missing(tmp_path, loss, network):
    """The denominator is that of the whole update; the mean of the means of its parts is wrong."""
    store = multilabel_store(tmp_path / "store", n=10)
    fields = {**TINY, "loss": loss, "optimizer": "sgd", "lr": 0.1, "scheduler": "none", "seed": 3}

    def trained(name, batch_size, accumulate):
        sizes = {"batch_size": batch_size, "accumulate": accumulate}
        cfg = config.preset("palm", "smoke", **fields | sizes, work_dir=str(tmp_path / name))
        run = training.fit(cfg, data.loaders(store, cfg), model=network(3))
        state = torch.load(run.folder / "final_model.pth")
        return torch.cat([value.flatten() for value in state.values()]), run.history["train_loss"]

    large, large_loss = trained("large", 6, 1)
    for name, batch_size, accumulate in (("small", 1, 6), ("halves", 3, 2)):
        weight, train_loss = trained(name, batch_size, accumulate)
        torch.testing.assert_close(weight, large, rtol=1e-4, atol=1e-5)  # sums in another order
        np.testing.assert_allclose(train_loss, large_loss, rtol=1e-5)
    assert (trained("means", 1, 1)[0] - large).abs().max() > 1e-3


@pytest.mark.parametrize("layer", [convolution, TwoLevels])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_update(tiny, layer):
    """The weights are those of a machine with room for all; the gradients of the failed attempt, in
    which one of two micro-batches was computed, do not count."""
    fields = dict(batch_size=4, accumulate=2, optimizer="sgd", lr=0.1, loss="combined", epochs=1)
    roomy, network, hopeless = (SmallCard(room, layer()) for room in (4, 1, 0))
    training.fit(*tiny("roomy", **fields), model=roomy)
    with pytest.warns(UserWarning, match="micro-batches are halved"):
        training.fit(*tiny("cramped", **fields), model=network)
    assert roomy.sizes == [4, 4, 4]
    assert network.sizes == [4, 4, 2, *[1] * 12]
    torch.testing.assert_close(network.state_dict(), roomy.state_dict(), rtol=1e-4, atol=1e-6)
    words = "micro-batch of 1 x 64x64 pixels; lower patch_size, image_size or base_channels"
    with pytest.raises(TrainingError, match=words), pytest.warns(UserWarning):
        training.fit(*tiny("hopeless", **fields), model=hopeless)


class SmallDeepCard(SmallCard):
    """Its batch norm sees one value per channel and image."""

    def __init__(self, room):
        super().__init__(room)
        self.norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1))

    def forward(self, image):
        return super().forward(image) + self.norm(image)


def test_images_that_batch_norm_needs_together_are_not_split_without_a_word(tiny):
    words = "out of memory: micro-batches were halved down to one image.*batch norm.*; lower base"
    with pytest.raises(TrainingError, match=words), pytest.warns(UserWarning):
        training.fit(*tiny(batch_size=4, loss="bce"), model=SmallDeepCard(room=1))


def test_a_resumed_run_splits_from_its_first_step_on(tiny, monkeypatch):
    """Its weights are bit-identical, although the memory would have room at first: sums of another
    order differ in their last bits."""
    fields = dict(epochs=3, batch_size=6, optimizer="sgd", lr=0.1)
    with pytest.warns(UserWarning, match="micro-batches are halved"):
        straight = training.fit(*tiny("straight", **fields), model=SmallCard(room=3))
    with pytest.warns(UserWarning, match="micro-batches are halved"):
        stop_after(1, monkeypatch, *tiny("cut", **fields), model=SmallCard(room=3))
    network = SmallCard(room=6)
    resumed = training.fit(*tiny("cut", **fields), model=network, resume=True)
    assert network.sizes == [3] * 8
    final = [torch.load(run.folder / "final_model.pth") for run in (straight, resumed)]
    assert same_weights(*final)


# ---- losses without a denominator


def test_a_loss_without_total_takes_one_micro_batch_of_one_process(tiny):
    cfg, batches = tiny(epochs=1)
    assert training.fit(cfg, batches, loss=plain_loss).history["train_loss"].notna().all()
    for accumulate, n_processes, words in ((2, 1, "accumulate=2.*accumulate=1"), (1, 2, "process")):
        with pytest.raises(ConfigError, match=f"plain_loss has no .*total.*{words}"):
            updates.check_loss(plain_loss, accumulate, n_processes, n_splits=0)
    cfg, batches = tiny("accumulated", accumulate=2)
    with pytest.raises(ConfigError, match="accumulate=2.*MaskedLoss"):
        training.fit(cfg, batches, loss=plain_loss)
    assert not runs.folder_of(cfg).exists()


def test_a_loss_without_total_cannot_be_split(tiny):
    cfg, batches = tiny(epochs=1)
    with pytest.raises(TrainingError, match="micro-batch of 4 images.*plain_loss.*batch_size"):
        training.fit(cfg, batches, model=SmallCard(room=2), loss=plain_loss)


def test_a_loss_derived_from_masked_loss_accumulates_exactly(tiny):
    class Brier(losses.MaskedLoss):
        def weight(self, target, annotated):
            return (target != 255).float()

        def summed(self, logits, target, weight):
            return (weight * (logits.sigmoid() - (target == 1).float()) ** 2).sum()

    large, small = convolution(), convolution()
    fields = dict(optimizer="sgd", lr=0.1)
    run = training.fit(*tiny("large", batch_size=6, **fields), model=large, loss=Brier())
    sizes = dict(batch_size=2, accumulate=3)
    training.fit(*tiny("small", **sizes, **fields), model=small, loss=Brier())
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-4, atol=1e-6)
    assert run.info["loss"] == "Brier"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda loss: loss.item(), "returned float; expected a tensor"),
        (lambda loss: loss.repeat(2), r"returned \(2,\); expected a tensor that is one number"),
        (lambda loss: loss.detach(), "has no gradient"),
        (lambda loss: loss * float("nan"), "the loss is nan in epoch 1, step 1, cases MCUCXR"),
    ],
)
def test_a_loss_that_cannot_be_trained_with_is_named(tiny, value, message):
    def bad_loss(logits, target, annotated):
        return value(plain_loss(logits, target, annotated))

    with pytest.raises(TrainingError, match=message):
        training.fit(*tiny(epochs=1), loss=bad_loss)


def test_waiting_is_the_share_of_the_loader(tiny, monkeypatch):
    cfg, batches = tiny(epochs=1)
    original = data.SegmentationDataset.__getitem__

    def slow(self, number):
        time.sleep(0.05)
        return original(self, number)

    quick = training.fit(cfg, batches).history["waiting"].iloc[0]
    monkeypatch.setattr(data.SegmentationDataset, "__getitem__", slow)
    row = training.fit(cfg, batches).history.iloc[0]
    n = len(batches["train"].dataset)
    assert 0 < quick < row["waiting"] < 1
    assert row["waiting"] * n / row["images_per_second"] >= 0.05 * n  # seconds


@pytest.mark.parametrize(
    ("device", "precision", "training_mode", "expected"),
    [
        ("cpu", "bf16", True, torch.float32),
        ("cpu", "bf16", False, torch.bfloat16),
        ("cpu", "fp32", True, torch.bfloat16),
        ("cuda", "bf16", True, torch.bfloat16),
    ],
)
def test_depthwise_convolutions_train_in_float32_on_a_cpu(
    device, precision, training_mode, expected
):
    types = {}
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    for number, layer in enumerate(network.train(training_mode)):
        # Registered before the hooks that are tested, so the type is that of the layer itself.
        layer.register_forward_hook(lambda m, i, output, n=number: types.update({n: output.dtype}))
    with (
        updates.depthwise_in_float32(network, device, precision),
        torch.autocast("cpu", torch.bfloat16),
    ):
        network(torch.randn(2, 3, 16, 16))
    assert types == {0: torch.bfloat16, 1: expected, 2: torch.bfloat16}
    assert len(network[1]._forward_hooks) == 1, "the hooks stay after the training"


def test_a_depthwise_network_learns_alike_in_bf16(tiny):
    def separable():
        torch.manual_seed(0)
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), depthwise, nn.Conv2d(8, 1, 1))

    results = {}
    for precision in ("fp32", "bf16"):
        cfg, batches = tiny(epochs=1, precision=precision)
        results[precision] = training.fit(cfg, batches, model=separable()).history
    losses_of = {name: history["train_loss"].iloc[0] for name, history in results.items()}
    assert losses_of["bf16"] == pytest.approx(losses_of["fp32"], rel=0.02)
