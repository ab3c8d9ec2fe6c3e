"""Seconds of training until the lungs of real X-rays are found: our recipe beside that of a
textbook.
"""

import copy
import tempfile
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader

from seglib import config, data, evaluation, layouts, prepare, runs, training
from seglib.inference import Predictor
from tests import results

GOALS = (0.95, 0.97)
RECIPE = "textbook recipe: Adam 0.001, BCE, float32, no schedule, no augmentation"


def rows(root=results.REAL / "montgomery", limit: float = 400, **changes) -> list[dict]:
    """The first moment at which the Dice of the test images (mean per image, at the size of
    training) has each goal, and the whole training with its Dice at the size of the files.

    Network, data, split and machine are the same. The test part is only read off here: nothing is
    chosen by it.
    """
    if not root.is_dir():
        raise SystemExit(
            f"{root}: the real X-rays are not here; "
            "set SEGLIB_TEST_DATA to the folder with montgomery/"
        )
    with tempfile.TemporaryDirectory() as folder:
        cfg = config.preset(
            "lung", "small", data_root=str(root), work_dir=folder, save_every=1, **changes
        )
        batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
        run = training.fit(cfg, batches)
        clock = run.history["seconds"].cumsum()
        mine = {
            seconds: _dice(
                Predictor.load(run.folder / f"checkpoint_epoch_{epoch}.pth"), batches["test"]
            )
            for epoch, seconds in zip(run.history["epoch"], clock)
        }
        best = _dice(Predictor.load(run.best), batches["test"], "original")
        theirs = dict(textbook(cfg, batches, limit))
    n, timings = len(batches["test"].dataset), []
    words = f"of {n} test X-rays of Montgomery"
    for goal in GOALS:
        ours = _first(mine, goal)
        task = f"training with the small lung setting until the Dice {words} is {goal}"
        task += "" if ours else ": not reached"
        row = {"task": task, "seconds": ours or run.info["seconds"], "rounds": 1}
        reached = _first(theirs, goal)
        peer = (
            {"peer": RECIPE, "peer_seconds": reached}
            if reached
            else {"peer": f"{RECIPE}: not in {limit:.0f} s"}
        )
        timings.append({**row, **peer})
    task = f"all {cfg.epochs} epochs of it: Dice {best:.3f} {words} at the size of the files"
    return [*timings, {"task": task, "seconds": run.info["seconds"], "rounds": 1, "dice": best}]


def textbook(cfg, batches, limit: float) -> Iterator[tuple[float, float]]:
    """(seconds of training, Dice of the test part) after each epoch, until the last goal or the
    limit is reached.
    """
    training.seed_everything(cfg.seed)
    network, plain = runs.network(cfg), batches["train"].dataset.plain()
    optimizer, loss_of, spent, dice = (
        torch.optim.Adam(network.parameters()),
        nn.BCEWithLogitsLoss(),
        0.0,
        0.0,
    )
    while spent < limit and dice < max(GOALS):
        begun = time.perf_counter()
        network.train()
        for batch in DataLoader(plain, batch_size=cfg.batch_size, shuffle=True):
            optimizer.zero_grad()
            loss = loss_of(network(batch["image"]), batch["mask"].float())
            loss.backward()
            optimizer.step()
        spent += time.perf_counter() - begun
        dice = _dice(
            Predictor(copy.deepcopy(network), cfg), batches["test"]
        )  # which lays its network out anew
        yield spent, dice


def _dice(predictor: Predictor, loader, grid: str = "store") -> float:
    report = evaluation.evaluate(predictor, loader, grid=grid, distances=False)
    table = report.summary
    return float(
        table[(table["metric"] == "dice") & (table["average"] == "per image")]["value"].iloc[0]
    )


def _first(dices: dict[float, float], goal: float) -> float | None:
    return next((seconds for seconds, dice in dices.items() if dice >= goal), None)
