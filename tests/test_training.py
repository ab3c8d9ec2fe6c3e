"""`fit`: that it learns, what it writes, which epoch it keeps, and that an interrupted run goes on as if it had not."""

import copy
import hashlib
import json
import math
import os
import pickle
import random
import shutil
import time
import types

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from torch import nn

from seglib import (
    config,
    data,
    layouts,
    losses,
    metrics,
    models,
    plots,
    prepare,
    runs,
    training,
)
from seglib.errors import ConfigError, DataError, SeglibError
from tests.helpers import hand_store, multilabel_store

TINY = dict(
    base_channels=2,
    depth=2,
    epochs=2,
    batch_size=4,
    precision="fp32",
    device="cpu",
    num_workers=0,
    augment={},
)
TIMES = ["seconds", "images_per_second", "waiting"]


@pytest.fixture(scope="module")
def prepared(lung_tree, tmp_path_factory):
    """(store, cfg) of 12 training and 4 validation phantoms of 64 x 64 pixels."""
    work = tmp_path_factory.mktemp("prepared")
    cfg = config.preset(
        "lung", "smoke", data_root=str(lung_tree), work_dir=str(work), test_split=0, val_split=4
    )
    return prepare.build(layouts.scan(cfg), cfg), cfg


@pytest.fixture
def setting(prepared, tmp_path):
    """A function: cfg with `overrides` and its loaders; the run goes to a folder of its own, `under` tmp_path."""
    store, cfg = prepared

    def make(under="work", **overrides):
        made = cfg.replace(
            **{**TINY, "scheduler": "none", "work_dir": str(tmp_path / under), **overrides}
        )
        return made, data.loaders(store, made)

    return make


@pytest.fixture
def figures():
    """For the tests that want the curves drawn."""


@pytest.fixture(autouse=True)
def curves(request, monkeypatch):
    """Drawing takes half of the time of a tiny run: left out where no test looks."""
    if "figures" not in request.fixturenames and "learned" not in request.fixturenames:
        monkeypatch.setattr(plots, "training_curves", lambda history: None)
        monkeypatch.setattr(plots, "predictions", lambda rows: None)
        monkeypatch.setattr(plots, "save", lambda figure, path: None)


def scores(*rows):
    """A stand-in for `_validate` that gives these (val_loss, val_dice) one after the other, then the last for ever."""
    left = list(rows)

    def validate(*args):
        loss, dice = left.pop(0) if len(left) > 1 else left[0]
        return {"val_loss": loss, "val_dice": dice, "val_accuracy": 0.9}

    return validate


def convolution(channels=1):
    """The smallest network, without batch norm: always with the same weights."""
    network = nn.Conv2d(channels, channels, 5, padding=2)
    network.load_state_dict(
        {
            "weight": torch.linspace(-0.1, 0.2, network.weight.numel()).reshape_as(network.weight),
            "bias": torch.zeros(channels),
        }
    )
    return network


def weights(path):
    return torch.load(path)


@pytest.fixture
def no_steps(monkeypatch):
    """For tests of what is decided between epochs: no training takes place."""
    monkeypatch.setattr(training, "_train_epoch", lambda *a: {"train_loss": 1.0, "grad_norm": 1.0})


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def about(path):
    return json.loads(path.with_suffix(".json").read_text())


# ---- learning


@pytest.fixture(scope="module")
def learned(prepared, tmp_path_factory):
    store, cfg = prepared
    fields = dict(
        base_channels=8, depth=3, epochs=10, batch_size=2, lr=5e-3, precision="fp32", device="cpu"
    )
    cfg = cfg.replace(**fields, work_dir=str(tmp_path_factory.mktemp("learned")), save_every=1)
    return training.fit(cfg, data.loaders(store, cfg))


def test_it_learns_more_than_where_lungs_usually_are(learned, prepared):
    """The baseline: the best threshold, chosen on validation itself, of the mean training mask."""
    store, _ = prepared
    masks = store.open()[1][..., 0] == 1
    rows = {
        part: store.cases[store.cases["split"] == part]["row"].to_numpy()
        for part in ("train", "val")
    }
    mean = masks[rows["train"]].mean(axis=0)
    dice = lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())  # noqa: E731
    constant = max(
        np.mean([dice(mean > t, masks[v]) for v in rows["val"]])
        for t in np.linspace(0.05, 0.95, 19)
    )
    history = learned.history
    assert constant > 0.8  # or it would be no baseline
    assert 1 - history["val_dice"].iloc[-1] < 0.6 * (1 - constant)
    assert history["val_dice"].iloc[0] < constant
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert history["val_loss"].iloc[-1] < 0.6 * history["val_loss"].iloc[0]


def test_history_is_what_the_kept_weights_score(learned, prepared):
    """Loss, Dice and accuracy of every epoch's checkpoint, computed again by torch and scikit-learn."""
    store, _ = prepared
    cfg = learned.config
    batch = next(iter(data.loaders(store, cfg.replace(batch_size=4))["val"]))
    truth = batch["mask"].numpy() == 1
    for row in learned.history.iloc[[0, 4, 9]].itertuples():
        network = runs.network(cfg)
        network.load_state_dict(weights(learned.folder / f"checkpoint_epoch_{row.epoch}.pth"))
        with torch.inference_mode():
            logits = network.eval()(batch["image"])
        pred = logits.numpy() >= 0
        dice = [sklearn.metrics.f1_score(t.ravel(), p.ravel()) for t, p in zip(truth, pred)]
        assert row.val_dice == pytest.approx(np.mean(dice), abs=1e-6)
        assert row.val_accuracy == pytest.approx((pred == truth).mean(), abs=1e-6)
        loss_of = losses.build(cfg.loss, cfg.task, loss_weights=cfg.loss_weights)
        loss = np.mean(
            [loss_of(logits[i : i + 1], batch["mask"][i : i + 1]).item() for i in range(4)]
        )
        assert row.val_loss == pytest.approx(loss, abs=1e-5)


def test_history_has_a_row_an_epoch(learned):
    columns = {"epoch", "lr", "train_loss", "grad_norm", "val_loss", "val_dice", "val_accuracy"}
    assert columns | {"monitor", "best", "seconds"} <= set(learned.history)
    assert list(learned.history["epoch"]) == list(range(1, 11))
    assert np.isfinite(learned.history.drop(columns="best").to_numpy()).all()


def test_train_loss_is_the_mean_over_images(setting):
    """12 images in batches of 5, 5 and 2, each with a loss of its size: (25 + 25 + 4) / 12."""

    def number_of_images(logits, target, annotated):
        return 0 * logits.sum() + len(logits)

    run = training.fit(*setting(batch_size=5, epochs=1), loss=number_of_images)
    assert run.history["train_loss"].iloc[0] == pytest.approx(54 / 12)


def test_a_seed_is_a_run(setting):
    first, again, other = (
        training.fit(*setting(str(i), seed=seed)) for i, seed in enumerate((1, 1, 2))
    )
    final = [weights(run.folder / "final_model.pth") for run in (first, again, other)]
    assert same(final[0], final[1]) and not same(final[0], final[2])


def test_multilabel_scores_annotated_classes_only(tmp_path):
    """Validation case 5 has no mask at all, case 6 lacks one: the Dice is the mean of the other two of case 6."""
    store = multilabel_store(tmp_path / "store")
    cfg = config.preset("palm", "smoke", **{**TINY, "batch_size": 2}, work_dir=str(tmp_path))
    run = training.fit(cfg, data.loaders(store, cfg))
    network = runs.network(cfg)
    network.load_state_dict(weights(run.folder / "final_model.pth"))
    item = data.loaders(store, cfg)["val"].dataset[1]
    with torch.inference_mode():
        pred = network.eval()(item["image"][None])[0] >= 0
    known = item["mask"] != 255
    found = [(pred[k][known[k]].numpy(), item["mask"][k][known[k]].numpy() == 1) for k in (0, 2)]
    expected = np.mean(
        [sklearn.metrics.f1_score(truth, guess, zero_division=1.0) for guess, truth in found]
    )
    last = run.history.iloc[-1]
    assert last["val_dice"] == pytest.approx(expected, abs=1e-6)
    assert last["val_accuracy"] == pytest.approx(
        np.mean([guess == truth for guess, truth in found]), abs=1e-6
    )


def test_multiclass_accuracy_is_the_share_of_right_pixels(tmp_path):
    rng = np.random.default_rng(0)
    images, masks = (
        rng.integers(0, 256, (6, 32, 32, 1), np.uint8),
        rng.integers(0, 4, (6, 32, 32, 1), np.uint8),
    )
    masks[:, :4] = 255
    store = hand_store(tmp_path / "store", images, masks, ["train"] * 4 + ["val"] * 2, ("labels",))
    cfg = config.preset(
        "cardiac", "smoke", **TINY, architecture="unet", image_size=32, work_dir=str(tmp_path)
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    network = runs.network(cfg)
    network.load_state_dict(weights(run.folder / "final_model.pth"))
    batch = next(iter(data.loaders(store, cfg)["val"]))
    with torch.inference_mode():
        labels = network.eval()(batch["image"]).argmax(1)
    known = batch["mask"] != 255
    expected = (labels == batch["mask"])[known].float().mean().item()
    assert run.history["val_accuracy"].iloc[-1] == pytest.approx(expected, abs=1e-6)


# ---- files


def test_files_of_a_run(setting, figures):
    run = training.fit(*setting(epochs=4, save_every=2))
    made = ["best_model", "final_model", "checkpoint_epoch_2", "checkpoint_epoch_4"]
    others = {
        "history.csv",
        "run.json",
        "config.json",
        "training_history.png",
        "sample_predictions.png",
        "last.ckpt",
    }
    assert {p.name for p in run.folder.iterdir()} == {
        f"{m}.{s}" for m in made for s in ("pth", "json")
    } | others
    assert run.folder.name == "lung" and run.best == run.folder / "best_model.pth"
    assert (run.folder / "training_history.png").read_bytes().startswith(b"\x89PNG")
    assert same(
        weights(run.folder / "final_model.pth"), weights(run.folder / "checkpoint_epoch_4.pth")
    )


def test_the_name_of_the_best_weights_is_a_setting(setting):
    run = training.fit(*setting(checkpoint_name="best_model_512.pth", epochs=1))
    assert run.best.name == "best_model_512.pth" and run.best.is_file()
    assert not (run.folder / "best_model.pth").exists() and not list(
        run.folder.glob("checkpoint_*")
    )


def test_json_beside_weights_describes_them(learned):
    for path in learned.folder.glob("*.pth"):
        found = about(path)
        assert found["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found["config"] == learned.config.to_dict()
        assert (
            found["class_names"] == ["lung"] and found["mean"] == [0.5] and found["std"] == [0.25]
        )
        assert found["versions"]["torch"] == torch.__version__
    assert about(learned.folder / "final_model.pth")["epoch"] == 10


def test_run_info(learned):
    assert learned.info["device"] == "cpu" and learned.info["precision"] == "fp32"
    assert learned.info["images"] == {"train": 12, "val": 4, "test": 0}
    assert learned.info["parameters"] == models.n_parameters(runs.network(learned.config))
    assert (
        learned.info["seconds"] >= 0.99 * learned.history["seconds"].sum()
    )  # the epochs, and saving between them


def test_run_load_gives_the_run_back(learned):
    loaded = runs.Run.load(learned.folder)
    assert (loaded.folder, loaded.config, loaded.info) == (
        learned.folder,
        learned.config,
        learned.info,
    )
    pd.testing.assert_frame_equal(loaded.history, learned.history, check_exact=False, rtol=1e-12)
    assert loaded.best == learned.best
    with pytest.raises(DataError, match="no run here"):
        runs.Run.load(learned.folder / "elsewhere")


def test_a_second_fit_moves_the_first_aside(setting):
    contents = []
    for seed in (1, 2, 3):
        run = training.fit(*setting(seed=seed))
        contents.append({p.name: p.read_bytes() for p in run.folder.iterdir()})
    assert sorted(p.name for p in run.folder.parent.iterdir()) == ["lung", "lung.1", "lung.2"]
    for number, expected in zip((1, 2), contents):
        assert {
            p.name: p.read_bytes() for p in (run.folder.parent / f"lung.{number}").iterdir()
        } == expected


# ---- which epoch is kept


@pytest.mark.parametrize(
    ("monitor", "rows", "best"),
    [
        ("val_dice", [(1.0, 0.2), (0.9, 0.6), (0.1, 0.5), (0.0, 0.3)], 2),
        ("val_loss", [(1.0, 0.2), (0.5, 0.9), (0.4, 0.1), (0.6, 0.95)], 3),
        ("val_dice", [(1.0, 0.5)] * 4, 1),
    ],
)
def test_best_weights_are_those_of_the_best_epoch(setting, monkeypatch, monitor, rows, best):
    monkeypatch.setattr(training, "SMALL_VALIDATION", 0)  # no smoothing
    monkeypatch.setattr(training, "_validate", scores(*rows))
    run = training.fit(*setting(epochs=4, save_every=1, monitor=monitor))
    assert run.history.loc[run.history["best"], "epoch"].iloc[-1] == best
    assert about(run.best)["epoch"] == about(run.best)["scores"]["epoch"] == best
    assert about(run.best)["scores"][monitor] == rows[best - 1][monitor == "val_dice"]
    kept = [
        n
        for n in range(1, 5)
        if same(weights(run.best), weights(run.folder / f"checkpoint_epoch_{n}.pth"))
    ]
    assert kept == [best]


def test_few_validation_images_smooth_the_monitor(setting, monkeypatch, no_steps):
    """0.5, then halfway to each new value: 0.5, 0.7, 0.6, 0.75. The lucky 0.9 of epoch 2 does not win for ever."""
    monkeypatch.setattr(training, "_validate", scores((1, 0.5), (1, 0.9), (1, 0.5), (1, 0.9)))
    run = training.fit(*setting(epochs=4))
    assert list(run.history["monitor"]) == pytest.approx([0.5, 0.7, 0.6, 0.75])
    assert list(run.history["best"]) == [True, True, False, True]


@pytest.mark.parametrize("monitor", ["val_dice", "val_loss"])
def test_one_epoch_without_a_score_does_not_end_the_choice(setting, monkeypatch, no_steps, monitor):
    """A validation loss may overflow once in half precision; the better epochs after it must still be kept."""
    nan = float("nan")
    monkeypatch.setattr(
        training, "_validate", scores((nan, nan), (0.9, 0.5), (0.5, 0.7), (0.4, 0.8))
    )
    run = training.fit(*setting(epochs=4, monitor=monitor))
    assert run.history.loc[run.history["best"], "epoch"].iloc[-1] == 4


def test_validation_images_without_any_mask_still_leave_best_weights(tmp_path):
    """There is no Dice to choose by, but `run.best` is what every next step opens."""
    store = multilabel_store(tmp_path / "store")
    store.cases = store.cases[
        ~((store.cases["split"] == "val") & (store.cases["case"] != "case5"))
    ]  # no mask at all
    cfg = config.preset(
        "palm", "smoke", **{**TINY, "batch_size": 2}, work_dir=str(tmp_path), monitor="val_dice"
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    assert run.info["images"]["val"] == 1 and run.history["val_dice"].isna().all()
    assert run.best.is_file() and run.history["best"].any()


def test_early_stopping_waits_for_patience_epochs(setting, monkeypatch, no_steps):
    def made(**overrides):
        monkeypatch.setattr(training, "_validate", scores((1, 0.2), (1, 0.6), (1, 0.1)))
        return training.fit(*setting(epochs=9, patience=3, **overrides)).history

    assert len(made(early_stopping=True)) == 5  # best is epoch 2
    assert len(made(early_stopping=False)) == 9


def test_without_validation_images_the_training_loss_chooses(prepared, tmp_path):
    store = copy.copy(prepared[0])
    store.cases = store.cases.assign(split="train")
    cfg = prepared[1].replace(**TINY, work_dir=str(tmp_path), lr=1e-2)
    run = training.fit(cfg, data.loaders(store, cfg))
    assert run.info["images"] == {"train": 16, "val": 0, "test": 0}
    assert run.history["val_dice"].isna().all()
    assert list(run.history["monitor"]) == list(run.history["train_loss"])
    assert about(run.best)["epoch"] == run.history["train_loss"].idxmin() + 1
    assert runs.Run.load(run.folder).history["val_loss"].isna().all()


def test_json_is_json_without_validation_images(prepared, tmp_path):
    """NaN is no JSON: other programs refuse such a file."""
    store = copy.copy(prepared[0])
    store.cases = store.cases.assign(split="train")
    cfg = prepared[1].replace(**TINY, work_dir=str(tmp_path))
    run = training.fit(cfg, data.loaders(store, cfg))

    def refuse(constant):
        raise ValueError(constant)

    for path in run.folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_plateau_without_validation_images_follows_the_training_loss(
    prepared, tmp_path, monkeypatch
):
    """The training loss falls all the time, so nothing is to be halved."""
    store = copy.copy(prepared[0])
    store.cases = store.cases.assign(split="train")
    cfg = prepared[1].replace(
        **{**TINY, "epochs": 6}, work_dir=str(tmp_path), scheduler="plateau", patience=3
    )
    falling = iter([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    monkeypatch.setattr(
        training, "_train_epoch", lambda *a: {"train_loss": next(falling), "grad_norm": 1.0}
    )
    run = training.fit(cfg, data.loaders(store, cfg))
    assert list(run.history["lr"]) == [cfg.lr] * 6


# ---- optimisers, schedules, accumulation


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_trains(setting, optimizer):
    cfg, batches = setting(optimizer=optimizer, epochs=3, lr=1e-2, weight_decay=1e-4)
    run = training.fit(cfg, batches)
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    group = runs.load_safely(run.folder / "last.ckpt")["optimizer"]["param_groups"][0]
    assert group["weight_decay"] == 1e-4 and ("betas" in group) == (optimizer != "sgd")


def test_class_prior_starts_new_networks_only(setting):
    """Steps of nothing: the weights that are left are those of the start."""
    cfg, batches = setting(class_prior=True, epochs=1, lr=1e-8)
    shares = batches["train"].dataset.class_shares()
    assert 0.02 < shares[0] < 0.5
    run = training.fit(cfg, batches)
    assert weights(run.best)["head.bias"].sigmoid().numpy() == pytest.approx(shares, abs=1e-3)
    plain = training.fit(*setting("plain", epochs=1, lr=1e-8))
    assert weights(plain.best)["head.bias"].sigmoid().numpy() != pytest.approx(shares, abs=1e-2)
    tuned = training.fit(
        *setting("tuned", class_prior=True, init_from=str(plain.best), epochs=1, lr=1e-8)
    )
    assert torch.allclose(
        weights(tuned.best)["head.bias"], weights(plain.best)["head.bias"], atol=1e-5
    )


def test_pieces_train_a_network_for_whole_frames(setting):
    cfg, batches = setting(patch_size=32, epochs=2)
    assert next(iter(batches["train"]))["image"].shape[2:] == (32, 32)
    run = training.fit(cfg, batches)
    assert len(run.history) == 2 and run.history["val_dice"].notna().all()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("scheduler", ["none", "cosine", "onecycle", "linear"])
def test_a_schedule_ends_with_the_last_update(setting, scheduler, accumulate):
    """12 images, batches of 3: 4 steps an epoch are 4, 2 or 2 updates (the last of 3 + 1 steps)."""
    run = training.fit(
        *setting(scheduler=scheduler, accumulate=accumulate, epochs=3, batch_size=3, lr=1e-2)
    )
    checkpoint = runs.load_safely(run.folder / "last.ckpt")
    updates = 3 * {1: 4, 2: 2, 3: 2}[accumulate]
    assert {int(state["step"]) for state in checkpoint["optimizer"]["state"].values()} == {updates}
    lrs, last = list(run.history["lr"]), checkpoint["optimizer"]["param_groups"][0]["lr"]
    if scheduler == "none":
        assert lrs == [1e-2] * 3 and last == 1e-2
        return
    assert checkpoint["scheduler"]["last_epoch"] == updates
    assert checkpoint["scheduler"].get("total_steps", updates) == updates
    if scheduler == "cosine":
        assert lrs == pytest.approx([1e-2 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)])
        assert last == pytest.approx(0, abs=1e-9)
    else:
        assert max(lrs) <= 1e-2
        if (
            scheduler == "onecycle" or updates > 10
        ):  # a tenth of fewer updates is no update: nothing rises
            assert lrs[0] == pytest.approx(
                1e-2 / {"onecycle": 25, "linear": 10}[scheduler]
            ) and lrs[0] < max(lrs)


@pytest.mark.parametrize(("scheduler", "peak"), [("onecycle", 1 / 5), ("linear", 1 / 10)])
def test_a_rising_schedule_reaches_its_peak_and_its_end(setting, monkeypatch, scheduler, peak):
    seen, original = [], torch.optim.lr_scheduler.OneCycleLR.step
    group = lambda self: self.optimizer.param_groups[0]["lr"]  # noqa: E731
    monkeypatch.setattr(
        torch.optim.lr_scheduler.OneCycleLR,
        "step",
        lambda s, *a: (seen.append(group(s)), original(s, *a))[1],
    )
    training.fit(*setting(scheduler=scheduler, epochs=5, batch_size=2, lr=1e-2))
    used = seen[1:]  # the first call is the constructor's
    assert len(used) == 5 * 6
    assert max(used) == pytest.approx(1e-2, rel=0.02) and used.index(max(used)) in (
        30 * peak - 1,
        30 * peak,
    )
    assert used[-1] < 1e-2 / 1000
    falls = np.diff(used[int(30 * peak) :])
    assert (falls < 0).all() and (np.ptp(falls) < 1e-9) == (scheduler == "linear")


@pytest.mark.parametrize("updates", range(1, 13))
@pytest.mark.parametrize("scheduler", ["onecycle", "linear"])
def test_a_rising_schedule_of_few_updates(updates, scheduler):
    cfg = config.preset("lung", "smoke", scheduler=scheduler, epochs=1, lr=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.lr)
    scheduler, used = training._scheduler(cfg, optimizer, updates, 1), []
    for _ in range(updates):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(used) < updates:
            scheduler.step()
    assert all(0 < lr <= 0.1 for lr in used) and (updates == 1 or used[-1] < 1e-4)


def test_plateau_halves_where_nothing_improves(setting, monkeypatch, no_steps):
    monkeypatch.setattr(training, "_validate", scores((1, 0.5)))
    run = training.fit(*setting(scheduler="plateau", patience=3, epochs=6, lr=1e-2))
    assert list(run.history["lr"]) == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3])
    rising = [(1 - 0.1 * i, 0.1 * i) for i in range(6)]
    for monitor in ("val_dice", "val_loss"):
        monkeypatch.setattr(training, "_validate", scores(*rising))
        run = training.fit(
            *setting(scheduler="plateau", patience=3, epochs=6, lr=1e-2, monitor=monitor)
        )
        assert list(run.history["lr"]) == [1e-2] * 6


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (1, 4), (4, 3)])
def test_accumulated_steps_are_one_large_batch(setting, batch_size, accumulate):
    """Without batch norm, which sees single batches, the update is that of the batch of all accumulated images."""

    def trained(name, **sizes):
        cfg, batches = setting(name, loss="bce", optimizer="sgd", lr=0.1, epochs=2, **sizes)
        return training.fit(cfg, batches, model=convolution())

    large = trained("large", batch_size=batch_size * accumulate)
    small = trained("small", batch_size=batch_size, accumulate=accumulate)
    other = trained("other", batch_size=batch_size)
    final = [weights(run.folder / "final_model.pth") for run in (large, small, other)]
    torch.testing.assert_close(final[1], final[0], rtol=1e-4, atol=1e-5)  # sums in another order
    assert (final[2]["weight"] - final[0]["weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("loss", ["combined", "weighted_bce"])
def test_accumulation_is_exact_where_masks_are_missing(tmp_path, loss):
    """The divisors of the loss are those of the whole update, not means of the means of its parts."""
    store, cfg = multilabel_store(tmp_path / "store", n=10), config.preset("palm", "smoke", seed=3)
    fields = {**TINY, "loss": loss, "optimizer": "sgd", "lr": 0.1, "scheduler": "none", "epochs": 2}
    final = {}
    for name, sizes in {"large": (6, 1), "small": (1, 6), "halves": (3, 2), "mean": (1, 1)}.items():
        made = cfg.replace(
            **{
                **fields,
                "batch_size": sizes[0],
                "accumulate": sizes[1],
                "work_dir": str(tmp_path / name),
            }
        )
        run = training.fit(made, data.loaders(store, made), model=convolution(3))
        final[name] = (weights(run.folder / "final_model.pth")["weight"], run.history["train_loss"])
    for name in ("small", "halves"):
        torch.testing.assert_close(
            final[name][0], final["large"][0], rtol=1e-4, atol=1e-5
        )  # sums in another order
        np.testing.assert_allclose(final[name][1], final["large"][1], rtol=1e-5)
    assert (final["mean"][0] - final["large"][0]).abs().max() > 1e-3


class SmallCard(nn.Conv2d):
    """A network in whose memory `room` images fit, after its first forward pass in training."""

    def __init__(self, room):
        super().__init__(1, 1, 5, padding=2)
        self.load_state_dict(convolution().state_dict())
        self.room, self.sizes = room, []

    def forward(self, image):
        if self.training:
            self.sizes.append(len(image))
            if len(image) > self.room and len(self.sizes) > 1:
                raise torch.OutOfMemoryError("no more")
        return super().forward(image)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_update(setting):
    """The weights are those of a machine with room for all; the gradients of the failed attempt, in
    which one of two micro-batches was computed, do not count."""
    fields = dict(batch_size=4, accumulate=2, optimizer="sgd", lr=0.1, loss="combined", epochs=1)
    roomy = training.fit(*setting("roomy", **fields), model=convolution())
    network = SmallCard(room=1)
    with pytest.warns(UserWarning, match="micro-batches are halved"):
        cramped = training.fit(*setting("cramped", **fields), model=network)
    assert network.sizes == [4, 4, 2, *[1] * 12]
    one, other = (weights(run.folder / "final_model.pth")["weight"] for run in (roomy, cramped))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning):
        training.fit(*setting("hopeless", **fields), model=SmallCard(room=0))


def test_compile_goes_on_without_a_compiler(setting, monkeypatch):
    plain = training.fit(*setting("plain", epochs=1))
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, **k: lambda x: (_ for _ in ()).throw(RuntimeError("no g++\nhere")),
    )
    with pytest.warns(UserWarning, match=r"compile=True has no effect here: no g\+\+$"):
        other = training.fit(*setting("other", epochs=1, compile=True))
    assert other.history["train_loss"].equals(plain.history["train_loss"])


def test_sync_batch_norm_says_where_it_has_no_effect(setting):
    with pytest.warns(UserWarning, match="sync_batch_norm=True has no effect here"):
        training.fit(*setting(sync_batch_norm=True, epochs=1))


def test_sync_batch_norm_of_several_gpus():
    """Under the same names, so that its weights are those of any other run."""
    network = models.UNet(1, 1, base_channels=2, depth=2)
    gpus = types.SimpleNamespace(num_processes=2, device=torch.device("cuda"))
    changed = training._synchronised(network, gpus)
    kinds = {type(part) for part in changed.modules()}
    assert torch.nn.SyncBatchNorm in kinds and torch.nn.BatchNorm2d not in kinds
    assert list(changed.state_dict()) == list(
        models.UNet(1, 1, base_channels=2, depth=2).state_dict()
    )


def test_checkpointing_trains_the_same_weights(setting):
    one, other = (
        training.fit(*setting(name, epochs=2, checkpointing=value))
        for name, value in (("a", False), ("b", True))
    )
    for name, value in weights(one.folder / "final_model.pth").items():
        assert torch.equal(value, weights(other.folder / "final_model.pth")[name]), name


def test_waiting_is_the_share_of_the_loader(setting, monkeypatch):
    cfg, batches = setting(epochs=1)
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


def test_clip_limits_the_update(setting):
    moved = []
    start = convolution().weight.detach()
    for clip in (0.0, 1e-3):
        cfg, batches = setting(
            optimizer="sgd", lr=1.0, epochs=1, clip=clip, batch_size=12, loss="bce"
        )
        run = training.fit(cfg, batches, model=convolution())
        moved.append((weights(run.folder / "final_model.pth")["weight"] - start).norm().item())
        assert run.history["grad_norm"].iloc[0] > 0.01  # as it was before it was clipped
    # one step of SGD with Nesterov momentum 0.9 moves by 1.9 times the gradient
    assert moved[0] > 0.02 and moved[1] <= 1.9e-3 * (1 + 1e-3)


# ---- resume


class Killed(Exception):
    pass


def interrupted_after(epochs, monkeypatch, *setting, **own):
    """Train, and be killed by the notebook's stop button right after `epochs` epochs were saved."""
    original = training._save

    def save(state):
        original(state)
        if state.state.epoch == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", save)
        with pytest.raises(KeyboardInterrupt):
            training.fit(*setting, **own)


@pytest.mark.parametrize("scheduler", ["none", "cosine", "plateau", "onecycle", "linear"])
def test_a_resumed_run_is_the_uninterrupted_one(setting, monkeypatch, scheduler):
    """Same history, same weights to the last bit: order, augmentation, optimiser, schedule and monitor all go on."""
    fields = dict(scheduler=scheduler, epochs=4, accumulate=2, batch_size=3, lr=1e-2, patience=3)
    fields |= dict(
        augment={"hflip": 0.5, "rotate": {"limit": 20, "p": 0.8}},
        optimizer="adamw",
        weight_decay=1e-3,
    )
    straight = training.fit(*setting("straight", **fields))
    interrupted_after(2, monkeypatch, *setting("cut", **fields))
    resumed = training.fit(*setting("cut", **fields), resume=True)
    compared = [run.history.drop(columns=TIMES, errors="ignore") for run in (straight, resumed)]
    pd.testing.assert_frame_equal(*compared, check_exact=True, check_dtype=False)
    for name in ("final_model.pth", "best_model.pth"):
        assert same(weights(straight.folder / name), weights(resumed.folder / name))
    assert sorted(p.name for p in resumed.folder.parent.iterdir()) == [
        "lung"
    ]  # nothing was moved aside
    pd.testing.assert_frame_equal(
        runs.Run.load(resumed.folder).history, resumed.history, rtol=1e-12
    )


def test_a_run_killed_within_an_epoch_repeats_that_epoch(setting, monkeypatch):
    straight = training.fit(*setting("straight", epochs=3))
    original = training._validate

    def validate(*args):
        validate.calls += 1
        if validate.calls == 3:
            raise Killed
        return original(*args)

    validate.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "_validate", validate)
        with pytest.raises(Killed):
            training.fit(*setting("cut", epochs=3))
    resumed = training.fit(*setting("cut", epochs=3), resume=True)
    timeless = [run.history.drop(columns=TIMES, errors="ignore") for run in (straight, resumed)]
    pd.testing.assert_frame_equal(*timeless, check_exact=True, check_dtype=False)
    assert same(
        weights(straight.folder / "final_model.pth"), weights(resumed.folder / "final_model.pth")
    )


def test_resume_reuses_what_was_probed(setting, monkeypatch):
    cfg, batches = setting(epochs=2, precision="bf16")
    interrupted_after(1, monkeypatch, cfg, batches)

    def no_probing(*args):
        raise AssertionError("probed again")

    monkeypatch.setattr(training, "_inspect", no_probing)
    run = training.fit(cfg.replace(precision="auto"), batches, resume=True)
    assert run.info["precision"] == "bf16" and len(run.history) == 2
    assert 0 <= run.info["seconds"] - run.history["seconds"].sum() < 60  # both parts of the run


def test_resume_where_there_is_nothing_starts_anew(setting):
    cfg, batches = setting()
    run = training.fit(cfg, batches, resume=True)
    assert list(run.history["epoch"]) == [1, 2] and run.best.is_file()


def test_resume_of_a_finished_run_trains_nothing(setting):
    cfg, batches = setting()
    first = training.fit(cfg, batches)
    before = {name: weights(first.folder / name) for name in ("best_model.pth", "final_model.pth")}
    again = training.fit(cfg, batches, resume=True)
    pd.testing.assert_frame_equal(
        again.history, first.history
    )  # with its types: an epoch is a whole number
    assert all(same(weights(first.folder / name), state) for name, state in before.items())
    longer = training.fit(cfg.replace(epochs=3), batches, resume=True)
    assert list(longer.history["epoch"]) == [1, 2, 3]
    pd.testing.assert_frame_equal(longer.history.head(2), first.history)


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle", "linear"])
def test_more_epochs_for_a_finished_schedule(setting, scheduler):
    """A schedule is made for a number of epochs: a longer one goes on falling, or an error says what cannot be."""
    cfg, batches = setting(scheduler=scheduler, epochs=3, lr=1e-2)
    training.fit(cfg, batches)
    try:
        run = training.fit(cfg.replace(epochs=6), batches, resume=True)
    except SeglibError as error:
        assert "epochs" in str(error)
        return
    lrs = list(run.history["lr"])
    assert len(lrs) == 6 and lrs[3:] == sorted(lrs[3:], reverse=True) and lrs[3] > 0


@pytest.mark.parametrize("harm", ["torn", "empty", "overwritten"])
def test_a_damaged_last_state_falls_back_to_the_one_before(setting, monkeypatch, harm):
    """The epoch is trained again, to the same weights; two damaged files are an error that names the last."""
    fields = dict(epochs=3, scheduler="onecycle", augment={"hflip": 0.5})
    straight = training.fit(*setting("straight", **fields))
    cfg, batches = setting("cut", **fields)
    interrupted_after(2, monkeypatch, cfg, batches)
    folder = runs.folder_of(cfg)
    last = folder / "last.ckpt"
    whole = last.read_bytes()
    bad = {"torn": whole[: len(whole) // 2], "empty": b"", "overwritten": b"x" * len(whole)}[harm]
    damaged = setting("damaged", **fields)
    shutil.copytree(folder, runs.folder_of(damaged[0]))
    last.write_bytes(bad)
    with pytest.warns(
        UserWarning, match=r"last\.ckpt: refused to load.*before\.ckpt, an epoch earlier"
    ):
        resumed = training.fit(cfg, batches, resume=True)
    assert same(
        weights(straight.folder / "final_model.pth"), weights(resumed.folder / "final_model.pth")
    )
    for name in ("last.ckpt", "before.ckpt"):
        (runs.folder_of(damaged[0]) / name).write_bytes(bad)
    with pytest.raises(DataError, match=r"last\.ckpt"):
        training.fit(*damaged, resume=True)
    assert (runs.folder_of(damaged[0]) / "best_model.pth").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.5}, "lr: .*begun with lr=0.001"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"depth": 3}, "depth"),
        ({"batch_size": 6}, "batch_size: .*batch_size=4"),
        ({"epochs": 5}, "epochs: .*epochs=3"),
        ({"seed": 7}, "seed"),
    ],
)
def test_a_config_that_contradicts_the_run_is_refused(setting, monkeypatch, change, words):
    fields = dict(epochs=3, scheduler="onecycle", lr=1e-3)
    interrupted_after(1, monkeypatch, *setting(**fields))
    before = sorted(p.name for p in runs.folder_of(setting(**fields)[0]).iterdir())
    with pytest.raises(ConfigError, match=words):
        training.fit(*setting(**{**fields, **change}), resume=True)
    assert (
        sorted(p.name for p in runs.folder_of(setting(**fields)[0]).iterdir()) == before
    )  # nothing lost


def test_what_else_changed_is_said(setting, monkeypatch, recwarn):
    interrupted_after(1, monkeypatch, *setting(epochs=3))
    with pytest.warns(UserWarning, match="augment .* -> .*hflip.*, loss 'combined' -> 'dice'"):
        training.fit(
            *setting(epochs=3, loss="dice", augment={"hflip": 0.5}, patience=3), resume=True
        )
    recwarn.clear()
    cfg, batches = setting(epochs=4, loss="dice", augment={"hflip": 0.5}, bootstrap=50)
    training.fit(cfg, batches, resume=True)
    assert not [w for w in recwarn if "changed settings" in str(w.message)]


def test_other_images_cannot_join_a_schedule_that_counts_updates(setting, monkeypatch):
    for scheduler in ("onecycle", "none"):
        cfg, batches = setting(scheduler, epochs=3, scheduler=scheduler)
        interrupted_after(1, monkeypatch, cfg, batches)
        fewer = data.loaders(batches["train"].dataset.store, cfg)
        dataset = fewer["train"].dataset
        dataset.cases, dataset.rows = dataset.cases.iloc[:8], dataset.rows[:8]
        fewer["train"].sampler.n = 8
        if scheduler == "onecycle":
            with pytest.raises(ConfigError, match="begun with 12 training images, now there are 8"):
                training.fit(cfg, fewer, resume=True)
        else:
            with pytest.warns(UserWarning, match="resumed with 8 training images instead of 12"):
                training.fit(cfg, fewer, resume=True)


def test_a_run_goes_on_on_another_device_and_says_so(setting, monkeypatch):
    """Begun on a GPU in fp16 with a gradient scaler, resumed where there is none."""
    interrupted_after(1, monkeypatch, *setting(epochs=2))
    cfg, batches = setting(epochs=2)
    path = runs.folder_of(cfg) / "last.ckpt"
    state = torch.load(path)
    state["info"] |= {"device": "cuda", "precision": "fp16"}
    state["scaler"] = {"scale": 65536.0}
    torch.save(state, path)
    with pytest.warns(UserWarning, match="resumed on cpu in fp32, begun on cuda in fp16"):
        run = training.fit(cfg, batches, resume=True)
    assert run.info["device"] == "cpu" and len(run.history) == 2 and run.best.is_file()


def test_every_generator_of_random_numbers_goes_on(setting, monkeypatch):
    """A loss of the reader's own that draws from torch, numpy and Python sees the same numbers after a resume."""
    seen = []

    def noisy(logits, target, annotated):
        if torch.is_grad_enabled():
            seen.append((random.random(), np.random.standard_normal(), torch.rand(()).item()))
        return losses.MaskedBCE()(logits, target, annotated)

    training.fit(*setting("straight", epochs=3), loss=noisy)
    straight, seen[:] = list(seen), []
    interrupted_after(1, monkeypatch, *setting("cut", epochs=3), loss=noisy)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    training.fit(*setting("cut", epochs=3), loss=noisy, resume=True)
    assert seen == straight and len(seen) == 9


def test_the_stop_button_leaves_a_usable_run(setting, monkeypatch, capsys):
    cfg, batches = setting(epochs=3)
    interrupted_after(2, monkeypatch, cfg, batches)
    folder = runs.folder_of(cfg)
    assert f"all up to epoch 2 is kept in {folder}" in capsys.readouterr().out
    run = runs.Run.load(folder)
    assert run.best.is_file() and len(run.history) == 2
    assert not list(folder.glob(".*partial"))


def test_resume_with_another_network_says_so(setting):
    cfg, batches = setting()
    training.fit(cfg, batches)
    with pytest.raises(SeglibError, match="base_channels|network"):
        training.fit(cfg.replace(base_channels=3, epochs=3), batches, resume=True)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_last_ckpt_that_runs_code_is_refused(setting, tmp_path):
    cfg, batches = setting()
    folder = runs.folder_of(cfg)
    folder.mkdir(parents=True)
    marker = tmp_path / "marker"
    (folder / "last.ckpt").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DataError, match="refused to load"):
        training.fit(cfg, batches, resume=True)
    assert not marker.exists()


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
def test_a_loss_that_is_no_number_names_its_cases(setting, value):
    cfg, batches = setting(epochs=3, scheduler="onecycle")
    good = training.fit(*setting("good", epochs=1))
    sampler = data.EpochSampler(12, cfg.seed, shuffle=True)
    sampler.set_epoch(1)
    named = batches["train"].dataset.cases["case"].iloc[[k % 12 for k in sampler][4:8]].tolist()
    with pytest.raises(training.TrainingError) as caught:
        training.fit(cfg, batches, loss=Poisoned(2, value))
    text = str(caught.value)
    assert "epoch 2, step 2" in text and f"cases {', '.join(named)};" in text and "lr" in text
    assert isinstance(caught.value, SeglibError)
    folder = runs.folder_of(cfg)
    kept = weights(folder / "best_model.pth")
    assert (
        all(v.isfinite().all() for v in kept.values())
        and about(folder / "best_model.pth")["epoch"] == 1
    )
    assert len(runs.Run.load(folder).history) == 1 and kept.keys() == weights(good.best).keys()
    # the images were looked at, and it goes on
    run = training.fit(cfg, batches, loss=losses.DiceLoss(), resume=True)
    assert list(run.history["epoch"]) == [1, 2, 3] and np.isfinite(run.history["train_loss"]).all()


def test_no_training_images(setting, prepared):
    store = copy.copy(prepared[0])
    store.cases = store.cases.assign(split="test")
    cfg, _ = setting()
    with pytest.raises(DataError, match="training part is empty.*val_split"):
        training.fit(cfg, data.loaders(store, cfg))
    assert not runs.folder_of(cfg).exists()


def test_the_callers_config_may_change_afterwards(setting):
    cfg, batches = setting(augment={"rotate": {"limit": 10, "p": 0.5}}, epochs=1)
    run = training.fit(cfg, batches)
    cfg.epochs, cfg.class_names, cfg.threshold = 99, ("other",), 0.9
    cfg.augment["rotate"]["limit"] = 80
    cfg.augment["vflip"] = 1.0
    assert (run.config.epochs, run.config.class_names, run.config.threshold) == (1, ("lung",), 0.5)
    assert run.config.augment == {"rotate": {"limit": 10, "p": 0.5}}


def test_the_callers_config_may_change_while_it_trains(setting, monkeypatch):
    cfg, batches = setting(epochs=2)
    validate = scores((1, 0.5))

    def edit(*args):
        cfg.epochs = 7
        return validate(*args)

    monkeypatch.setattr(training, "_validate", edit)
    assert len(training.fit(cfg, batches).history) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_of_a_cpu(setting, precision):
    run = training.fit(*setting(precision=precision, epochs=3, lr=1e-2))
    assert run.info["precision"] == precision
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    kept = weights(run.best)
    assert {v.dtype for v in kept.values()} == {
        torch.float32,
        torch.int64,
    }  # the counter of batch norm


def test_precisions_differ_and_a_second_fit_may_choose_another(setting):
    """Accelerate keeps its choice for the whole process; each fit must get what its config says."""
    found = [
        training.fit(*setting(precision=p)).history["train_loss"].iloc[-1]
        for p in ("fp32", "bf16", "fp32")
    ]
    assert found[0] == found[2] != found[1] and found[1] == pytest.approx(found[0], rel=0.05)


def test_half_precision_needs_a_gpu(setting):
    with pytest.raises(ConfigError, match="fp16"):
        training.fit(*setting(precision="fp16"))


# ---- weights


class Payload:
    """Unpickled carelessly it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_init_from_starts_with_those_weights(setting, learned):
    fields = dict(init_from=str(learned.best), base_channels=8, depth=3, lr=1e-8, epochs=1)
    run = training.fit(*setting(**fields))
    given, found = weights(learned.best), weights(run.folder / "final_model.pth")
    for name in (n for n in given if n.endswith("weight")):
        torch.testing.assert_close(found[name], given[name], rtol=0, atol=1e-6)
    assert run.history["train_loss"].iloc[0] < learned.history["train_loss"].iloc[2]
    with pytest.raises(DataError, match="another network"):
        training.fit(*setting(**{**fields, "depth": 2}))


def test_weights_open_with_plain_torch_and_hold_tensors_only(learned):
    state = torch.load(learned.best)
    assert isinstance(state, dict) and all(
        type(v) is torch.Tensor and v.device.type == "cpu" for v in state.values()
    )
    network = models.UNet(1, 1, base_channels=8, depth=3)
    network.load_state_dict(state)
    assert same(
        runs.load_weights(learned.best, models.UNet(1, 1, 8, 3)).state_dict(), network.state_dict()
    )


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_weights_file_that_runs_code_is_refused(tmp_path, protocol):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    network = models.UNet(1, 1, 2, 2)
    torch.save({**network.state_dict(), "extra": Payload(marker)}, path, pickle_protocol=protocol)
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload is live
    marker.unlink()
    with pytest.raises(DataError, match="refused to load"):
        runs.load_weights(path, network)
    path.write_bytes(pickle.dumps(Payload(marker), protocol))
    with pytest.raises(DataError, match="refused to load"):
        runs.load_weights(path, network)
    assert not marker.exists()


def test_torn_missing_and_foreign_weights(tmp_path, learned):
    network = models.UNet(1, 1, base_channels=8, depth=3)
    before = copy.deepcopy(network.state_dict())
    whole, torn = learned.best.read_bytes(), tmp_path / "torn.pth"
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        torn.write_bytes(whole[:size])
        with pytest.raises(DataError, match="torn.pth"):
            runs.load_weights(torn, network)
    with pytest.raises(DataError, match="no such file"):
        runs.load_weights(tmp_path / "none.pth", network)
    foreign = {
        r"down\.3\.0\.weight": models.UNet(1, 1, 8, 4),
        r"unknown": models.UNet(1, 1, 8, 4),
        r"first\.0\.weight is \(4, 1, 3, 3\), the network has \(8, 1, 3, 3\)": models.UNet(
            1, 1, 4, 3
        ),
        r"head\.weight is \(3, 8, 1, 1\)": models.UNet(1, 3, 8, 3),
    }
    for found, other in foreign.items():
        torch.save(other.state_dict(), tmp_path / "other.pth")
        with pytest.raises(DataError, match=rf"another network.*{found}.*base_channels"):
            runs.load_weights(tmp_path / "other.pth", network)
    torch.save(models.UNet(1, 1, 8, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"another network.*missing \(down\.2"):
        runs.load_weights(tmp_path / "other.pth", network)
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(DataError, match="no state_dict"):
        runs.load_weights(tmp_path / "list.pth", network)
    assert same(network.state_dict(), before)  # no half-loaded network


def test_weights_wrapped_in_a_dict_are_taken(tmp_path, learned):
    torch.save({"state_dict": weights(learned.best), "epoch": 3}, tmp_path / "wrapped.pth")
    network = runs.load_weights(tmp_path / "wrapped.pth", models.UNet(1, 1, 8, 3))
    assert same(network.state_dict(), weights(learned.best))


def test_threshold_of_the_config_decides_the_validation_dice(setting):
    low, high = (training.fit(*setting(threshold=t, epochs=1)).history for t in (0.0, 1.0))
    assert low["val_loss"].iloc[0] == high["val_loss"].iloc[0]
    assert low["val_accuracy"].iloc[0] == pytest.approx(1 - high["val_accuracy"].iloc[0])
    assert high["val_dice"].iloc[0] == 0 < low["val_dice"].iloc[0]
    assert metrics.ratios(1, 1, 0, 0)["dice"] > 0
