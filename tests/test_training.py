"""`fit`: that it learns, which epoch it keeps, that an interrupted run continues to the same bits,
and that it takes networks and losses of the reader's own."""

import copy
import json
import math
import random
import types

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from torch import nn

from seglib import config, data, encoders, hosts, inference, losses, models, runs, training
from seglib.errors import ConfigError, DataError, SeglibError, TrainingError
from tests.helpers import (
    TINY,
    convolution,
    hand_store,
    multilabel_store,
    same_weights,
    stop_after,
)

pytestmark = pytest.mark.usefixtures("without_figures")

TIMES = ["seconds", "images_per_second", "waiting"]


def scores(*rows):
    """A stand-in for `validate`: these (val_loss, val_dice) in turn, then the last for ever."""
    left = list(rows)

    def validate(*args):
        loss, dice = left.pop(0) if len(left) > 1 else left[0]
        return {"val_loss": loss, "val_dice": dice, "val_accuracy": 0.9}

    return validate


@pytest.fixture
def no_steps(monkeypatch):
    """For tests of what is decided between epochs: no training takes place."""
    monkeypatch.setattr(
        training.loop, "_train_epoch", lambda *a: {"train_loss": 1.0, "grad_norm": 1.0}
    )


# ---- learning


@pytest.fixture(scope="module")
def learned(lung_store, tmp_path_factory):
    store, cfg = lung_store
    fields = dict(
        base_channels=8, depth=3, epochs=24, batch_size=2, lr=5e-3, precision="fp32", device="cpu"
    )
    cfg = cfg.replace(**fields, work_dir=str(tmp_path_factory.mktemp("learned")), save_every=1)
    return training.fit(cfg, data.loaders(store, cfg))


def test_it_learns_more_than_where_lungs_usually_are(learned, lung_store):
    """The baseline: the best threshold, chosen on validation itself, of the mean training mask."""
    store, _ = lung_store
    masks = store.open()[1][..., 0] == 1
    rows = {
        part: store.cases[store.cases["split"] == part]["row"].to_numpy()
        for part in ("train", "val")
    }
    mean = masks[rows["train"]].mean(axis=0)

    def score(pred):
        return np.mean([sklearn.metrics.f1_score(masks[row].ravel(), pred) for row in rows["val"]])

    constant = max(score((mean > t).ravel()) for t in np.linspace(0.05, 0.95, 19))
    history = learned.history
    assert constant > 0.8  # or it would be no baseline
    assert 1 - history["val_dice"].iloc[-1] < 0.6 * (1 - constant)
    assert history["val_dice"].iloc[0] < constant
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert history["val_loss"].iloc[-1] < 0.6 * history["val_loss"].iloc[0]


def test_history_is_what_the_kept_weights_score(learned, lung_store):
    """Loss, Dice and accuracy of checkpoints, computed again by torch and scikit-learn."""
    store, _ = lung_store
    cfg = learned.config
    batch = next(iter(data.loaders(store, cfg.replace(batch_size=4))["val"]))
    truth = batch["mask"].numpy() == 1
    for row in learned.history.iloc[[0, 4, 23]].itertuples():
        network = runs.network(cfg)
        network.load_state_dict(torch.load(learned.folder / f"checkpoint_epoch_{row.epoch}.pth"))
        with torch.inference_mode():
            logits = network.eval()(batch["image"])
        pred = logits.numpy() >= 0
        dice = [sklearn.metrics.f1_score(t.ravel(), p.ravel()) for t, p in zip(truth, pred)]
        assert row.val_dice == pytest.approx(np.mean(dice), abs=1e-6)
        assert row.val_accuracy == pytest.approx((pred == truth).mean(), abs=1e-6)
        loss = losses.build(cfg.loss, cfg.task, loss_weights=cfg.loss_weights)
        pairs = zip(logits.split(1), batch["mask"].split(1))
        mean = np.mean([loss(*pair).item() for pair in pairs])
        assert row.val_loss == pytest.approx(mean, abs=1e-5)


def test_history_has_a_row_an_epoch(learned):
    columns = {"epoch", "lr", "train_loss", "grad_norm", "val_loss", "val_dice", "val_accuracy"}
    assert columns | {"monitor", "best", "seconds"} <= set(learned.history)
    assert list(learned.history["epoch"]) == list(range(1, 25))
    assert np.isfinite(learned.history.drop(columns="best").to_numpy()).all()


def test_train_loss_is_the_mean_over_images(tiny):
    """12 images in batches of 5, 5 and 2, each with a loss of its size: (25 + 25 + 4) / 12."""

    def number_of_images(logits, target, annotated):
        return 0 * logits.sum() + len(logits)

    run = training.fit(*tiny(batch_size=5, epochs=1), loss=number_of_images)
    assert run.history["train_loss"].iloc[0] == pytest.approx(54 / 12)


def test_a_seed_is_a_run(tiny):
    trained = [training.fit(*tiny(str(i), seed=seed)) for i, seed in enumerate((1, 1, 2))]
    first, again, other = (torch.load(run.folder / "final_model.pth") for run in trained)
    assert same_weights(first, again) and not same_weights(first, other)


def test_multilabel_scores_annotated_classes_only(tmp_path):
    """Validation case 5 has no mask, case 6 lacks one: the Dice is the mean of the other two."""
    store = multilabel_store(tmp_path / "store")
    cfg = config.preset("palm", "smoke", **{**TINY, "batch_size": 2}, work_dir=str(tmp_path))
    run = training.fit(cfg, data.loaders(store, cfg))
    network = runs.network(cfg)
    network.load_state_dict(torch.load(run.folder / "final_model.pth"))
    item = data.loaders(store, cfg)["val"].dataset[1]
    with torch.inference_mode():
        pred = network.eval()(item["image"][None])[0] >= 0
    dice, right = [], []
    for k in (0, 2):
        counts = item["mask"][k] != 255
        truth, guess = item["mask"][k][counts].numpy() == 1, pred[k][counts].numpy()
        dice.append(sklearn.metrics.f1_score(truth, guess, zero_division=1.0))
        right.append(guess == truth)
    last = run.history.iloc[-1]
    assert last["val_dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert last["val_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def test_multiclass_accuracy_is_the_share_of_right_pixels(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 1), np.uint8)
    masks = rng.integers(0, 4, (6, 32, 32, 1), np.uint8)
    masks[:, :4] = 255
    store = hand_store(tmp_path / "store", images, masks, ["train"] * 4 + ["val"] * 2, ("labels",))
    cfg = config.preset(
        "cardiac", "smoke", **TINY, architecture="unet", image_size=32, work_dir=str(tmp_path)
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    network = runs.network(cfg)
    network.load_state_dict(torch.load(run.folder / "final_model.pth"))
    batch = next(iter(data.loaders(store, cfg)["val"]))
    with torch.inference_mode():
        labels = network.eval()(batch["image"]).argmax(1)
    counts = batch["mask"] != 255
    expected = (labels == batch["mask"])[counts].float().mean().item()
    assert run.history["val_accuracy"].iloc[-1] == pytest.approx(expected, abs=1e-6)


def test_run_info(learned):
    assert learned.info["device"] == "cpu" and learned.info["precision"] == "fp32"
    assert learned.info["images"] == {"train": 12, "val": 4, "test": 0}
    assert learned.info["parameters"] == models.n_parameters(runs.network(learned.config))
    # The epochs, and saving between them.
    assert learned.info["seconds"] >= 0.99 * learned.history["seconds"].sum()


# ---- which epoch is kept


@pytest.mark.parametrize(
    ("monitor", "rows", "best"),
    [
        ("val_dice", [(1.0, 0.2), (0.9, 0.6), (0.1, 0.5), (0.0, 0.3)], 2),
        ("val_loss", [(1.0, 0.2), (0.5, 0.9), (0.4, 0.1), (0.6, 0.95)], 3),
        ("val_dice", [(1.0, 0.5)] * 4, 1),
    ],
)
def test_best_weights_are_those_of_the_best_epoch(tiny, monkeypatch, monitor, rows, best):
    monkeypatch.setattr(training.validation, "SMALL_VALIDATION", 0)  # no smoothing
    monkeypatch.setattr(training.validation, "validate", scores(*rows))
    run = training.fit(*tiny(epochs=4, save_every=1, monitor=monitor))
    assert run.history.loc[run.history["best"], "epoch"].iloc[-1] == best
    facts = runs.describe_weights(run.best)
    assert facts["epoch"] == facts["scores"]["epoch"] == best
    assert facts["scores"][monitor] == rows[best - 1][monitor == "val_dice"]
    chosen = torch.load(run.best)
    epochs = {n: torch.load(run.folder / f"checkpoint_epoch_{n}.pth") for n in range(1, 5)}
    assert [n for n, state in epochs.items() if same_weights(chosen, state)] == [best]


def test_few_validation_images_smooth_the_monitor(tiny, monkeypatch, no_steps):
    """0.5, then halfway to each new value. The lucky 0.9 of epoch 2 does not win for ever."""
    monkeypatch.setattr(
        training.validation, "validate", scores((1, 0.5), (1, 0.9), (1, 0.5), (1, 0.9))
    )
    run = training.fit(*tiny(epochs=4))
    assert list(run.history["monitor"]) == pytest.approx([0.5, 0.7, 0.6, 0.75])
    assert list(run.history["best"]) == [True, True, False, True]


@pytest.mark.parametrize("monitor", ["val_dice", "val_loss"])
def test_one_epoch_without_a_score_does_not_end_the_choice(tiny, monkeypatch, no_steps, monitor):
    """A loss may overflow once in half precision; better epochs after it must still be kept."""
    nan = float("nan")
    monkeypatch.setattr(
        training.validation, "validate", scores((nan, nan), (0.9, 0.5), (0.5, 0.7), (0.4, 0.8))
    )
    run = training.fit(*tiny(epochs=4, monitor=monitor))
    assert run.history.loc[run.history["best"], "epoch"].iloc[-1] == 4


def test_validation_images_without_any_mask_still_leave_best_weights(tmp_path):
    """There is no Dice to choose by, but `run.best` is what every next step opens."""
    store = multilabel_store(tmp_path / "store")
    cases = store.cases
    store.cases = cases[(cases["split"] != "val") | (cases["case"] == "case5")]  # it has no mask
    cfg = config.preset(
        "palm", "smoke", **{**TINY, "batch_size": 2}, work_dir=str(tmp_path), monitor="val_dice"
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    assert run.info["images"]["val"] == 1 and run.history["val_dice"].isna().all()
    assert run.best.is_file() and run.history["best"].any()


def test_early_stopping_waits_for_patience_epochs(tiny, monkeypatch, no_steps):
    for early_stopping, n_epochs in ((True, 5), (False, 9)):  # the best epoch is the second
        monkeypatch.setattr(training.validation, "validate", scores((1, 0.2), (1, 0.6), (1, 0.1)))
        run = training.fit(*tiny(epochs=9, patience=3, early_stopping=early_stopping))
        assert len(run.history) == n_epochs


def test_without_validation_images_the_last_epoch_is_kept(lung_store, tmp_path, monkeypatch):
    """Not that of the lowest training loss, which depends on the draw of the augmentation."""
    losses_of_epochs = iter([1.0, 0.4, 0.6])
    row = {"grad_norm": 1.0}
    monkeypatch.setattr(
        training.loop, "_train_epoch", lambda *a: {"train_loss": next(losses_of_epochs), **row}
    )
    store = copy.copy(lung_store[0])
    store.cases = store.cases.assign(split="train")
    cfg = lung_store[1].replace(**{**TINY, "epochs": 3}, work_dir=str(tmp_path))
    run = training.fit(cfg, data.loaders(store, cfg))
    assert run.info["images"] == {"train": 16, "val": 0, "test": 0}
    assert run.history["val_dice"].isna().all()
    assert list(run.history["monitor"]) == list(run.history["train_loss"])
    assert runs.describe_weights(run.best)["epoch"] == 3
    assert runs.Run.load(run.folder).history["val_loss"].isna().all()


def test_plateau_without_validation_images_follows_the_training_loss(
    lung_store, tmp_path, monkeypatch
):
    """The training loss falls all the time, so nothing is to be halved."""
    store = copy.copy(lung_store[0])
    store.cases = store.cases.assign(split="train")
    cfg = lung_store[1].replace(
        **{**TINY, "epochs": 6}, work_dir=str(tmp_path), scheduler="plateau", patience=3
    )
    falling = iter([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    monkeypatch.setattr(
        training.loop, "_train_epoch", lambda *a: {"train_loss": next(falling), "grad_norm": 1.0}
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    assert list(run.history["lr"]) == [cfg.lr] * 6


# ---- optimizers and schedules


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_trains(tiny, optimizer):
    cfg, batches = tiny(optimizer=optimizer, epochs=3, lr=1e-2, weight_decay=1e-4)
    run = training.fit(cfg, batches)
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    group = torch.load(run.folder / "last.ckpt")["optimizer"]["param_groups"][0]
    assert group["weight_decay"] == 1e-4 and ("betas" in group) == (optimizer != "sgd")


def test_class_prior_starts_new_networks_only(tiny):
    """The steps are so small that the final weights are those of the start."""

    def bias(run):
        return torch.load(run.best)["head.bias"]

    cfg, batches = tiny(class_prior=True, epochs=1, lr=1e-8)
    shares = batches["train"].dataset.class_shares()
    assert 0.02 < shares[0] < 0.5
    run = training.fit(cfg, batches)
    assert bias(run).sigmoid().numpy() == pytest.approx(shares, abs=1e-3)
    plain = training.fit(*tiny("plain", epochs=1, lr=1e-8))
    assert bias(plain).sigmoid().numpy() != pytest.approx(shares, abs=1e-2)
    start = dict(class_prior=True, init_from=str(plain.best))
    tuned = training.fit(*tiny("tuned", epochs=1, lr=1e-8, **start))
    assert torch.allclose(bias(tuned), bias(plain), atol=1e-5)


def test_the_loss_of_an_epoch_is_that_of_all_levels(tiny):
    """Written by hand for one batch of all images: the weights 1, 1/2 and 1/4 over their sum."""
    fields = dict(deep_supervision=True, depth=3, epochs=1, batch_size=12, loss="combined")
    cfg, batches = tiny(**fields, lr=1e-8, augment={})
    run = training.fit(cfg, batches)
    training.seed_everything(cfg.seed)
    network = runs.network(cfg)
    batch = next(iter(data.loaders(batches["train"].dataset.store, cfg)["train"]))
    levels = [
        nn.functional.interpolate(level, (64, 64), mode="bilinear")
        for level in network(batch["image"])
    ]
    loss = losses.combined()
    first, second, third = (loss(level, batch["mask"]).item() for level in levels)
    expected = (first + second / 2 + third / 4) / 1.75
    assert run.history["train_loss"].iloc[0] == pytest.approx(expected, rel=1e-5)
    assert abs(first - expected) > 1e-4


def test_deep_supervision_trains_predicts_and_resumes(tiny, monkeypatch):
    fields = dict(deep_supervision=True, depth=3, epochs=3, accumulate=2, stem="space_to_depth")
    cfg, batches = tiny("straight", **fields)
    straight = training.fit(cfg, batches)
    stop_after(1, monkeypatch, *tiny("cut", **fields))
    assert_same_run(straight, training.fit(*tiny("cut", **fields), resume=True))
    predictor = inference.Predictor.load(straight.best)
    image, truth = batches["val"].dataset.pixels(0)
    assert predictor.predict(image).mask.shape == truth.shape[:2]
    with pytest.raises(ConfigError, match="deep_supervision: this run was begun with"):
        training.fit(*tiny("cut", **fields | {"deep_supervision": False}), resume=True)


def test_patches_train_a_network_for_whole_frames(tiny):
    cfg, batches = tiny(patch_size=32, epochs=2)
    assert next(iter(batches["train"]))["image"].shape[2:] == (32, 32)
    run = training.fit(cfg, batches)
    assert len(run.history) == 2 and run.history["val_dice"].notna().all()


def test_counts_of_tiles_add_up_to_those_of_their_image():
    """The Dice of the sums is not the mean of the tiles' Dice."""
    counts = np.array([[[4, 0, 2, 8]], [[0, 6, 0, 4]], [[5, 0, 0, 1]]])
    annotated = np.ones((3, 1), bool)
    summed, of_images = training.validation._sum_tiles(counts, annotated, np.array([1, 1, 0]))
    np.testing.assert_array_equal(summed, [[[5, 0, 0, 1]], [[4, 6, 2, 12]]])
    assert training.validation._mean_dice(summed, of_images, "binary") == pytest.approx(
        (1 + 8 / 16) / 2
    )


def test_a_resumed_run_of_patches_is_the_uninterrupted_one(tiny, monkeypatch):
    options = {"patch_size": 32, "patches_per_image": 3, "epochs": 3, "augment": {"rotate": 0.5}}
    straight = training.fit(*tiny("straight", **options))
    stop_after(2, monkeypatch, *tiny("cut", **options))
    cfg, batches = tiny("cut", **options)
    assert len(batches["train"].dataset) == 3 * len(batches["train"].dataset.cases)
    assert_same_run(straight, training.fit(cfg, batches, resume=True))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("scheduler", ["none", "cosine", "onecycle", "linear"])
def test_a_schedule_ends_with_the_last_update(tiny, scheduler, accumulate):
    """12 images, batches of 3: 4 steps an epoch are 4, 2 or 2 updates (the last of 3 + 1 steps)."""
    sizes = dict(accumulate=accumulate, epochs=3, batch_size=3)
    run = training.fit(*tiny(scheduler=scheduler, lr=1e-2, **sizes))
    checkpoint = torch.load(run.folder / "last.ckpt")
    n_updates = 3 * {1: 4, 2: 2, 3: 2}[accumulate]
    steps = {int(state["step"]) for state in checkpoint["optimizer"]["state"].values()}
    assert steps == {n_updates}
    lrs, last = list(run.history["lr"]), checkpoint["optimizer"]["param_groups"][0]["lr"]
    if scheduler == "none":
        assert lrs == [1e-2] * 3 and last == 1e-2
        return
    assert checkpoint["scheduler"]["last_epoch"] == n_updates
    assert checkpoint["scheduler"].get("total_steps", n_updates) == n_updates
    if scheduler == "cosine":
        assert lrs == pytest.approx([1e-2 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)])
        assert last == pytest.approx(0, abs=1e-9)
    else:
        assert max(lrs) <= 1e-2
        # A tenth of fewer than ten updates is no update, so nothing rises.
        if scheduler == "onecycle" or n_updates > 10:
            assert lrs[0] == pytest.approx(1e-2 / {"onecycle": 25, "linear": 10}[scheduler])
            assert lrs[0] < max(lrs)


@pytest.mark.parametrize(("scheduler", "peak"), [("onecycle", 1 / 5), ("linear", 1 / 10)])
def test_a_rising_schedule_reaches_its_peak_and_its_end(tiny, monkeypatch, scheduler, peak):
    lrs, step = [], torch.optim.lr_scheduler.OneCycleLR.step

    def record(self, *arguments):
        lrs.append(self.optimizer.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.lr_scheduler.OneCycleLR, "step", record)
    training.fit(*tiny(scheduler=scheduler, epochs=5, batch_size=2, lr=1e-2))
    del lrs[0]  # the first call is the constructor's
    assert len(lrs) == 5 * 6
    assert max(lrs) == pytest.approx(1e-2, rel=0.02)
    assert lrs.index(max(lrs)) in (30 * peak - 1, 30 * peak)
    assert lrs[-1] < 1e-2 / 1000
    falls = np.diff(lrs[int(30 * peak) :])
    assert (falls < 0).all() and (np.ptp(falls) < 1e-9) == (scheduler == "linear")


@pytest.mark.parametrize("scheduler", ["onecycle", "linear"])
def test_a_rising_schedule_of_few_updates(scheduler):
    cfg = config.preset("lung", "smoke", scheduler=scheduler, epochs=1, lr=0.1)
    for n_updates in range(1, 13):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.lr)
        schedule, lrs = training.optimizer.build_scheduler(cfg, optimizer, n_updates, 1), []
        for step in range(n_updates):
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step < n_updates - 1:
                schedule.step()
        assert all(0 < lr <= 0.1 for lr in lrs), n_updates
        assert n_updates == 1 or lrs[-1] < 1e-4


def test_plateau_halves_where_nothing_improves(tiny, monkeypatch, no_steps):
    monkeypatch.setattr(training.validation, "validate", scores((1, 0.5)))
    run = training.fit(*tiny(scheduler="plateau", patience=3, epochs=6, lr=1e-2))
    assert list(run.history["lr"]) == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3])
    rising = [(1 - 0.1 * i, 0.1 * i) for i in range(6)]
    for monitor in ("val_dice", "val_loss"):
        monkeypatch.setattr(training.validation, "validate", scores(*rising))
        fields = dict(scheduler="plateau", patience=3, epochs=6, lr=1e-2, monitor=monitor)
        run = training.fit(*tiny(**fields))
        assert list(run.history["lr"]) == [1e-2] * 6


def test_compile_goes_on_without_a_compiler(tiny, monkeypatch):
    plain = training.fit(*tiny("plain", epochs=1))

    def without_compiler(image):
        raise RuntimeError("no g++\nhere")

    monkeypatch.setattr(torch, "compile", lambda network, **options: without_compiler)
    with pytest.warns(UserWarning, match=r"compile=True has no effect here: no g\+\+$"):
        other = training.fit(*tiny("other", epochs=1, compile=True))
    assert other.history["train_loss"].equals(plain.history["train_loss"])


def test_sync_batch_norm_says_where_it_has_no_effect(tiny):
    with pytest.warns(UserWarning, match="sync_batch_norm=True has no effect here"):
        training.fit(*tiny(sync_batch_norm=True, epochs=1))


def test_sync_batch_norm_of_several_gpus():
    """Under the same names, so that its weights are those of any other run."""
    network = models.UNet(1, 1, base_channels=2, depth=2)
    gpus = types.SimpleNamespace(num_processes=2, device=torch.device("cuda"))
    changed = training.machine.synchronised(network, gpus)
    kinds = {type(part) for part in changed.modules()}
    assert torch.nn.SyncBatchNorm in kinds and torch.nn.BatchNorm2d not in kinds
    assert list(changed.state_dict()) == list(models.UNet(1, 1, 2, 2).state_dict())


def test_checkpointing_trains_the_same_weights(tiny):
    plain = training.fit(*tiny("plain", checkpointing=False))
    less_memory = training.fit(*tiny("less memory", checkpointing=True))
    assert same_weights(
        *(torch.load(run.folder / "final_model.pth") for run in (plain, less_memory))
    )


def test_clip_limits_the_update(tiny):
    moved = []
    start = convolution().weight.detach()
    for clip in (0.0, 1e-3):
        cfg, batches = tiny(optimizer="sgd", lr=1.0, epochs=1, clip=clip, batch_size=12, loss="bce")
        run = training.fit(cfg, batches, model=convolution())
        moved.append((torch.load(run.folder / "final_model.pth")["weight"] - start).norm().item())
        assert run.history["grad_norm"].iloc[0] > 0.01  # as it was before it was clipped
    # one step of SGD with Nesterov momentum 0.9 moves by 1.9 times the gradient
    assert moved[0] > 0.02 and moved[1] <= 1.9e-3 * (1 + 1e-3)


# ---- networks and losses of the reader's own


class TwoLevels(nn.Module):
    """A network with dropout and batch norm: what a check before the training could disturb."""

    def __init__(self, n_classes=1):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2)
        )
        self.up = nn.Conv2d(5, n_classes, 3, padding=1)

    def forward(self, image):
        half = self.down(nn.functional.max_pool2d(image, 2))
        whole = nn.functional.interpolate(half, scale_factor=2)
        return self.up(torch.cat([image, whole], dim=1))


def squared(logits, target, annotated):
    """A loss of the reader's own: the mean square of the error of the probability."""
    return ((logits.sigmoid() - (target == 1).float()) ** 2).mean()


def two_levels():
    torch.manual_seed(5)
    return TwoLevels()


def test_an_own_network_is_the_one_of_the_config_built_elsewhere(tiny):
    """Nothing of the training depends on who has built the network: not the check of its output,
    not the random numbers of dropout and order."""
    cfg, batches = tiny(epochs=2)
    straight = training.fit(cfg, batches)
    training.seed_everything(cfg.seed)
    network = runs.network(cfg)
    own = training.fit(*tiny("own", epochs=2), model=network)
    first, second = (torch.load(run.folder / "final_model.pth") for run in (straight, own))
    assert same_weights(first, second)
    assert own.model is network and straight.model is None
    assert own.info["network"] == "UNet" and straight.info["network"] is None


def test_an_own_network_starts_with_its_weights_and_ends_with_the_best(tiny):
    network = two_levels()
    before = copy.deepcopy(network.state_dict())
    run = training.fit(*tiny(lr=1e-8, epochs=1, class_prior=True), model=network)
    for name, value in torch.load(run.best).items():
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    run = training.fit(*tiny("more", lr=0.05, epochs=4), model=network, loss=squared)
    assert same_weights(network.state_dict(), torch.load(run.best)) and not network.training
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]


def test_an_own_network_keeps_its_forward(tiny):
    """Accelerate wraps it for half precision; a second training must wrap it again."""
    losses_of = {}
    for precision in ("bf16", "fp32", "bf16"):
        network = two_levels()
        for name in ("first", "second"):
            cfg, batches = tiny(f"{precision} {name}", precision=precision, epochs=1)
            run = training.fit(cfg, batches, model=network)
            losses_of.setdefault((precision, name), run.history["train_loss"].iloc[0])
            assert not {"forward", "_is_accelerate_prepared"} & set(vars(network))
    assert losses_of["bf16", "second"] != losses_of["fp32", "second"]


@pytest.mark.parametrize("scheduler", ["none", "onecycle"])
def test_an_own_network_and_loss_resume_to_the_same_bits(tiny, monkeypatch, scheduler):
    fields = dict(epochs=4, scheduler=scheduler, augment={"hflip": 0.5}, lr=1e-2)
    straight = training.fit(*tiny("straight", **fields), model=two_levels(), loss=squared)
    own = dict(model=two_levels(), loss=squared)
    stop_after(2, monkeypatch, *tiny("cut", **fields), **own)
    own["model"] = TwoLevels()  # its weights do not matter, they are those of the checkpoint
    resumed = training.fit(*tiny("cut", **fields), **own, resume=True)
    for name in ("final_model.pth", "best_model.pth"):
        assert same_weights(torch.load(straight.folder / name), torch.load(resumed.folder / name))
    facts = runs.describe_weights(resumed.best)
    assert (facts["network"], facts["loss"]) == ("TwoLevels", "squared")
    assert runs.Run.load(resumed.folder).info["network"] == "TwoLevels"


def test_resume_wants_the_network_and_the_loss_of_the_run(tiny, monkeypatch, capsys):
    cfg, batches = tiny(epochs=3)
    stop_after(1, monkeypatch, cfg, batches, model=two_levels(), loss=squared)
    assert "fit(cfg, batches, model=..., loss=..., resume=True)" in capsys.readouterr().out
    refused = {
        r"model: .* TwoLevels; pass it again": dict(loss=squared),
        r"model: .* begun with TwoLevels, not with Conv2d": dict(model=convolution(), loss=squared),
        r"loss: .* squared; pass it again": dict(model=two_levels()),
    }
    for message, own in refused.items():
        with pytest.raises(ConfigError, match=message):
            training.fit(cfg, batches, **own, resume=True)
    with pytest.warns(UserWarning, match="changed settings: loss squared -> DiceLoss"):
        training.fit(cfg, batches, model=two_levels(), loss=losses.DiceLoss(), resume=True)
    stop_after(1, monkeypatch, *tiny("config", epochs=3))
    with pytest.raises(ConfigError, match="model: .* network of its config, not with TwoLevels"):
        training.fit(*tiny("config", epochs=3), model=two_levels(), resume=True)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"model": TwoLevels(3)},
            r"TwoLevels .* into \(1, 3, 64, 64\); expected .*\(1, 1, 64, 64\)",
        ),
        ({"model": nn.Conv2d(1, 1, 3)}, r"Conv2d .* into \(1, 1, 62, 62\)"),
        ({"model": nn.Conv2d(3, 1, 3)}, r"Conv2d fails on an image of shape \(1, 1, 64, 64\)"),
        ({"model": nn.LSTM(64, 64)}, "LSTM"),
        ({"model": nn.Sigmoid()}, "Sigmoid has no parameter"),
        ({"model": TwoLevels}, r"give an object, TwoLevels\(\)"),
        ({"model": squared}, "function is no network"),
        ({"loss": nn.BCEWithLogitsLoss}, r"give an object, BCEWithLogitsLoss\(\)"),
        ({"loss": "dice"}, "'dice' cannot be called"),
    ],
)
def test_what_is_no_network_or_loss_is_refused_before_anything_is_written(tiny, own, message):
    cfg, batches = tiny()
    with pytest.raises(ConfigError, match=message):
        training.fit(cfg, batches, **own)
    assert not runs.folder_of(cfg).exists()


# ---- resume


class Killed(Exception):
    pass


def assert_same_run(run, other):
    """The same history but for times, and the same weights, to the last bit."""
    histories = [r.history.drop(columns=TIMES, errors="ignore") for r in (run, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True, check_dtype=False)
    for name in ("final_model.pth", "best_model.pth"):
        assert same_weights(torch.load(run.folder / name), torch.load(other.folder / name))


@pytest.mark.parametrize("scheduler", ["none", "cosine", "plateau", "onecycle", "linear"])
def test_a_resumed_run_is_the_uninterrupted_one(tiny, monkeypatch, scheduler):
    """Same history and weights to the last bit: order, augmentation, optimizer, schedule go on."""
    fields = dict(scheduler=scheduler, epochs=4, accumulate=2, batch_size=3, lr=1e-2, patience=3)
    fields["augment"] = {"hflip": 0.5, "rotate": {"limit": 20, "p": 0.8}}
    fields |= dict(optimizer="adamw", weight_decay=1e-3)
    straight = training.fit(*tiny("straight", **fields))
    stop_after(2, monkeypatch, *tiny("cut", **fields))
    resumed = training.fit(*tiny("cut", **fields), resume=True)
    assert_same_run(straight, resumed)
    assert [path.name for path in resumed.folder.parent.iterdir()] == ["lung"]  # none moved aside
    saved = runs.Run.load(resumed.folder).history
    pd.testing.assert_frame_equal(saved, resumed.history, rtol=1e-12)


def test_a_run_killed_within_an_epoch_repeats_that_epoch(tiny, monkeypatch):
    straight = training.fit(*tiny("straight", epochs=3))
    validate = training.validation.validate

    def killed_in_the_third(session):
        if session.state.epoch == 2:
            raise Killed
        return validate(session)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.validation, "validate", killed_in_the_third)
        training.fit(*tiny("cut", epochs=3))
    resumed = training.fit(*tiny("cut", epochs=3), resume=True)
    assert_same_run(straight, resumed)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_is_stored_with_run_and_weights_and_used_again(tiny, monkeypatch, precision):
    """By a resumed run and by a predictor, whatever the rule would choose on this machine."""
    cfg, batches = tiny(epochs=2, precision=precision)
    stop_after(1, monkeypatch, cfg, batches)
    monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda: True)
    run = training.fit(cfg.replace(precision="auto"), batches, resume=True)
    assert run.info["precision"] == precision and len(run.history) == 2
    assert json.loads((run.folder / "run.json").read_text())["precision"] == precision
    for name in ("best_model.pth", "final_model.pth"):
        assert runs.describe_weights(run.folder / name)["precision"] == precision
    assert inference.Predictor.load(run.best, "cpu").precision == precision
    assert run.info["seconds"] >= run.history["seconds"].sum()  # of both parts of the run
    other = {"bf16": "fp32", "fp32": "bf16"}[precision]
    assert inference.Predictor.load(run.best, "cpu", other).precision == other


def test_weights_without_a_stored_precision_follow_the_rule(tiny, monkeypatch):
    """Those of older versions, and of a machine that has what this one lacks."""
    run = training.fit(*tiny(epochs=1, precision="bf16"))
    monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda: False)
    with pytest.warns(UserWarning, match="trained in bf16, .* computes in fp32 here, and masks"):
        assert inference.Predictor.load(run.best, "cpu").precision == "fp32"
    beside = run.best.with_suffix(".json")
    description = json.loads(beside.read_text())
    del description["precision"]
    beside.write_text(json.dumps(description))
    for has_bf16, precision in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert inference.Predictor.load(run.best, "cpu").precision == precision


def test_resume_in_another_precision_has_no_effect_and_says_so(tiny, monkeypatch):
    cfg, batches = tiny(epochs=2)
    stop_after(1, monkeypatch, cfg, batches)
    with pytest.warns(UserWarning, match="precision='bf16' has no effect: the run goes on in fp32"):
        run = training.fit(cfg.replace(precision="bf16"), batches, resume=True)
    assert run.info["precision"] == "fp32"


def test_resume_on_a_processor_that_emulates_the_precision_says_so(tiny, monkeypatch):
    cfg, batches = tiny(epochs=2, precision="bf16")
    stop_after(1, monkeypatch, cfg, batches)
    monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda: False)
    with pytest.warns(UserWarning, match="the run goes on in bf16, .* this cpu only emulates it"):
        run = training.fit(cfg, batches, resume=True)
    assert run.info["precision"] == "bf16" and len(run.history) == 2


def test_resume_where_there_is_nothing_starts_anew(tiny):
    cfg, batches = tiny()
    run = training.fit(cfg, batches, resume=True)
    assert list(run.history["epoch"]) == [1, 2] and run.best.is_file()


def test_resume_of_a_finished_run_trains_nothing(tiny):
    cfg, batches = tiny()
    first = training.fit(cfg, batches)
    names = ("best_model.pth", "final_model.pth")
    before = {name: torch.load(first.folder / name) for name in names}
    again = training.fit(cfg, batches, resume=True)
    # With its types: an epoch is a whole number.
    pd.testing.assert_frame_equal(again.history, first.history)
    for name in names:
        assert same_weights(torch.load(first.folder / name), before[name])
    longer = training.fit(cfg.replace(epochs=3), batches, resume=True)
    assert list(longer.history["epoch"]) == [1, 2, 3]
    pd.testing.assert_frame_equal(longer.history.head(2), first.history)


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle", "linear"])
def test_more_epochs_for_a_finished_schedule(tiny, scheduler):
    """A longer schedule goes on falling, or an error says that its length is fixed."""
    cfg, batches = tiny(scheduler=scheduler, epochs=3, lr=1e-2)
    training.fit(cfg, batches)
    try:
        run = training.fit(cfg.replace(epochs=6), batches, resume=True)
    except SeglibError as error:
        assert "epochs" in str(error)
        return
    lrs = list(run.history["lr"])
    assert len(lrs) == 6 and lrs[3:] == sorted(lrs[3:], reverse=True) and lrs[3] > 0


def test_a_run_goes_on_on_another_device_and_says_so(tiny, monkeypatch):
    """Begun on a GPU in fp16 with a gradient scaler, resumed where there is none."""
    stop_after(1, monkeypatch, *tiny(epochs=2))
    cfg, batches = tiny(epochs=2)
    path = runs.folder_of(cfg) / "last.ckpt"
    state = torch.load(path)
    state["info"] |= {"device": "cuda", "precision": "fp16"}
    state["scaler"] = {"scale": 65536.0}
    torch.save(state, path)
    with pytest.warns(UserWarning, match="resumed on cpu in fp32, begun on cuda in fp16"):
        run = training.fit(cfg, batches, resume=True)
    assert run.info["device"] == "cpu" and len(run.history) == 2 and run.best.is_file()


def test_every_generator_of_random_numbers_goes_on(tiny, monkeypatch):
    """A loss that draws from torch, numpy and Python sees the same numbers after a resume."""
    seen = []

    def noisy(logits, target, annotated):
        if torch.is_grad_enabled():
            seen.append((random.random(), np.random.standard_normal(), torch.rand(()).item()))
        return losses.MaskedBCE()(logits, target, annotated)

    training.fit(*tiny("straight", epochs=3), loss=noisy)
    straight, seen[:] = list(seen), []
    stop_after(1, monkeypatch, *tiny("cut", epochs=3), loss=noisy)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    training.fit(*tiny("cut", epochs=3), loss=noisy, resume=True)
    assert seen == straight and len(seen) == 9


def test_the_stop_button_leaves_a_usable_run(tiny, monkeypatch, capsys):
    cfg, batches = tiny(epochs=3)
    stop_after(2, monkeypatch, cfg, batches)
    folder = runs.folder_of(cfg)
    assert f"all up to epoch 2 is kept in {folder}" in capsys.readouterr().out
    run = runs.Run.load(folder)
    assert run.best.is_file() and len(run.history) == 2
    assert not list(folder.glob(".*partial"))


# ---- what goes wrong


class Poisoned(losses.DiceLoss):
    """A loss that is `value` for the second training batch of an epoch, from 1."""

    def __init__(self, epoch, value):
        super().__init__()
        self.bad_step, self.value = 3 * (epoch - 1) + 2, value
        self.step = 0

    def forward(self, *batch, **options):
        loss = super().forward(*batch, **options)
        if torch.is_grad_enabled():
            self.step += 1
            if self.step == self.bad_step:
                return loss * self.value
        return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_cases(tiny, value):
    cfg, batches = tiny(epochs=3, scheduler="onecycle")
    good = training.fit(*tiny("good", epochs=1))
    sampler = data.EpochSampler(12, cfg.seed, shuffle=True)
    sampler.set_epoch(1)
    rows = [index % 12 for index in sampler][4:8]
    cases = ", ".join(batches["train"].dataset.cases["case"].iloc[rows])
    with pytest.raises(TrainingError) as caught:
        training.fit(cfg, batches, loss=Poisoned(2, value))
    text = str(caught.value)
    assert "epoch 2, step 2" in text and f"cases {cases};" in text and "lr" in text
    assert isinstance(caught.value, SeglibError)
    folder = runs.folder_of(cfg)
    best = torch.load(folder / "best_model.pth")
    assert all(value.isfinite().all() for value in best.values())
    assert best.keys() == torch.load(good.best).keys()
    assert runs.describe_weights(folder / "best_model.pth")["epoch"] == 1
    assert len(runs.Run.load(folder).history) == 1
    # The images were looked at, and the training goes on.
    run = training.fit(cfg, batches, loss=Poisoned(epoch=9, value=1), resume=True)
    assert list(run.history["epoch"]) == [1, 2, 3] and np.isfinite(run.history["train_loss"]).all()


@pytest.mark.parametrize(
    ("network", "batch_size", "n", "words"),
    [
        (dict(depth=6), 1, 3, "with batch_size=1 .* 64x64 pixels .*depth=6.*; set a batch_size"),
        (dict(depth=6), 4, 1, "with one training image .*; add images, or set a larger image_size"),
        (dict(depth=4, patch_size=16), 1, 3, "16x16 pixels .*; .* a larger patch_size"),
        (dict(architecture="aspp", patch_size=16), 1, 3, "a network that is less deep"),
        (dict(depth=5, attention=True, bilinear=True, patch_size=32), 1, 3, "32x32 pixels"),
        (dict(encoder="resnet18", encoder_weights="none", patch_size=32), 1, 3, "32x32 pixels"),
    ],
)
def test_a_single_value_for_batch_norm_is_refused_before_the_training(
    tiny, lung_store, network, batch_size, n, words
):
    """torch would end the first step with "Expected more than 1 value per channel"."""
    cfg, batches = tiny()
    old = training.fit(cfg, batches)
    store = copy.copy(lung_store[0])
    store.cases = store.cases[store.cases["split"] == "train"].head(n)
    cfg = cfg.replace(batch_size=batch_size, **network)
    with pytest.raises(ConfigError, match=f"batch_size: .*{words}"):
        training.fit(cfg, data.loaders(store, cfg))
    assert old.best.is_file() and not old.folder.with_name("lung.1").exists()


@pytest.mark.parametrize(
    ("network", "batch_size"),
    [
        (dict(depth=5), 1),  # 2x2 pixels are left
        (dict(depth=6), 2),  # of 12 images
        (dict(depth=6), 11),  # the last batch of one is left out
        (dict(architecture="aspp", patch_size=(16, 32)), 1),
    ],
)
def test_two_values_for_batch_norm_are_enough(tiny, network, batch_size):
    run = training.fit(*tiny(batch_size=batch_size, epochs=1, base_channels=1, **network))
    assert math.isfinite(run.history["train_loss"].iloc[0])


def test_a_picture_too_small_for_an_encoder_is_refused(tiny):
    cfg, batches = tiny(encoder="vgg11", encoder_weights="none", image_size=(9, 40))
    with pytest.raises(
        ConfigError, match=r"fails on an image of shape \(1, 1, 9, 40\), .*image_size"
    ):
        training.fit(cfg, batches)


def test_an_encoder_is_one_field_and_the_run_says_what_it_starts_from(tiny, capsys, monkeypatch):
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "no connection in a test")
    cfg, batches = tiny(encoder="tu-mobilenetv3_small_050", epochs=1)
    with pytest.warns(UserWarning, match="THE ENCODER STARTS FROM RANDOM WEIGHTS"):
        run = training.fit(cfg, batches)
    origin = "random (asked for imagenet: no connection in a test)"
    assert run.info["encoder"] == "tu-mobilenetv3_small_050"
    assert run.info["encoder_weights"] == origin
    line = f"encoder tu-mobilenetv3_small_050, weights: {origin}; images are normalised with mean"
    assert capsys.readouterr().out.count(f"{line} 0.5 and std 0.25") == 1
    training.fit(cfg.replace(epochs=2), batches, resume=True)
    assert line not in capsys.readouterr().out  # it starts from its own weights
    assert inference.Predictor.load(run.best).config.replace(epochs=1) == cfg


def test_init_from_may_lie_in_the_folder_of_the_run(tiny):
    """The old run is renamed once its weights are read."""
    cfg, batches = tiny(epochs=1)
    run = training.fit(cfg, batches)
    again = training.fit(cfg.replace(init_from=str(run.best), lr=1e-8), batches)
    before, now = (
        torch.load(run.folder.with_name("lung.1") / "best_model.pth"),
        torch.load(again.best),
    )
    torch.testing.assert_close(now["head.weight"], before["head.weight"], rtol=0, atol=1e-6)


def test_cudnn_chooses_by_timing_during_the_training_only(tiny, monkeypatch):
    seen, validate = [], training.validation.validate

    def noted(session):
        seen.append(torch.backends.cudnn.benchmark)
        return validate(session)

    monkeypatch.setattr(training.validation, "validate", noted)
    training.fit(*tiny(epochs=1, cudnn_benchmark=True))
    assert seen == [True] and not torch.backends.cudnn.benchmark


def test_no_training_images(tiny, lung_store):
    store = copy.copy(lung_store[0])
    store.cases = store.cases.assign(split=["val"] * 6 + ["test"] * 10)
    cfg, _ = tiny(val_split=6, test_split=0.625)
    words = "training part is empty: with val_split=6 and test_split=0.625 the patients are 6 val"
    with pytest.raises(DataError, match=words):
        training.fit(cfg, data.loaders(store, cfg))
    assert not runs.folder_of(cfg).exists()


def test_the_callers_config_may_change_afterwards(tiny):
    cfg, batches = tiny(augment={"rotate": {"limit": 10, "p": 0.5}}, epochs=1)
    run = training.fit(cfg, batches)
    cfg.epochs, cfg.class_names, cfg.threshold = 99, ("other",), 0.9
    cfg.augment["rotate"]["limit"] = 80
    cfg.augment["vflip"] = 1.0
    assert (run.config.epochs, run.config.class_names, run.config.threshold) == (1, ("lung",), 0.5)
    assert run.config.augment == {"rotate": {"limit": 10, "p": 0.5}}


def test_the_callers_config_may_change_while_it_trains(tiny, monkeypatch):
    cfg, batches = tiny(epochs=2)
    validate = scores((1, 0.5))

    def edit(*args):
        cfg.epochs = 7
        return validate(*args)

    monkeypatch.setattr(training.validation, "validate", edit)
    assert len(training.fit(cfg, batches).history) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_of_a_cpu(tiny, precision):
    run = training.fit(*tiny(precision=precision, epochs=3, lr=1e-2))
    assert run.info["precision"] == precision
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    types = {value.dtype for value in torch.load(run.best).values()}
    assert types == {torch.float32, torch.int64}  # the latter is the counter of batch norm


def test_precisions_differ_and_a_second_fit_may_choose_another(tiny):
    """Accelerate keeps its choice for the whole process; each fit must get what its config says."""
    precisions = ("fp32", "bf16", "fp32")
    trained = [training.fit(*tiny(precision=precision)) for precision in precisions]
    fp32, bf16, again = (run.history["train_loss"].iloc[-1] for run in trained)
    assert fp32 == again != bf16
    assert bf16 == pytest.approx(fp32, rel=0.05)


def test_half_precision_needs_a_gpu(tiny):
    with pytest.raises(ConfigError, match="fp16"):
        training.fit(*tiny(precision="fp16"))


def test_init_from_starts_with_those_weights(tiny, learned):
    fields = dict(init_from=str(learned.best), base_channels=8, depth=3, lr=1e-8, epochs=1)
    run = training.fit(*tiny(**fields))
    start, end = torch.load(learned.best), torch.load(run.folder / "final_model.pth")
    for name in start:
        if name.endswith("weight"):
            torch.testing.assert_close(end[name], start[name], rtol=0, atol=1e-6)
    assert run.history["train_loss"].iloc[0] < learned.history["train_loss"].iloc[2]
    with pytest.raises(DataError, match="another network"):
        training.fit(*tiny(**{**fields, "depth": 2}))


def test_threshold_of_the_config_decides_the_validation_dice(tiny):
    low, high = (training.fit(*tiny(threshold=t, epochs=1)).history for t in (0.0, 1.0))
    assert low["val_loss"].iloc[0] == high["val_loss"].iloc[0]
    assert low["val_accuracy"].iloc[0] == pytest.approx(1 - high["val_accuracy"].iloc[0])
    assert high["val_dice"].iloc[0] == 0 < low["val_dice"].iloc[0]
