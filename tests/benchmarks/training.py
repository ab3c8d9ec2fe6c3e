"""One epoch of training through `fit`, beside the loop of a textbook with the same network, data and batches."""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from seglib import config, data, layouts, phantoms, prepare, runs, training
from tests.benchmarks.evaluation import by_turns

IMAGES, BATCH, SIDE = 12, 4, 256


def rows(rounds: int = 3) -> list[dict]:
    """Seconds an image with the 31 M U-Net at 256x256: all of the training part of an epoch, loading included."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = config.preset(
            "lung", "full", image_size=SIDE, base_channels=64, batch_size=BATCH, epochs=1, test_split=0.0,
            val_split=1 / (IMAGES + 1), work_dir=folder, num_workers=0,
        )  # fmt: skip
        cfg.data_root = str(phantoms.write("lung", Path(folder) / "phantoms", n=IMAGES + 1))
        batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
        speeds, precision = [], ""

        def ours():
            nonlocal precision
            run = training.fit(cfg, batches)
            precision = run.info["precision"]
            speeds.append(run.history["images_per_second"].iloc[0])

        peers = {
            "textbook loop, float32": partial(textbook, cfg, batches["train"].dataset, autocast=False),
            "textbook loop, autocast to bfloat16": partial(textbook, cfg, batches["train"].dataset, autocast=True),
        }
        seconds = by_turns({"ours": ours, **peers}, rounds)
    mine = 1 / statistics.median(speeds)  # of the epoch's training part; checking and saving are not in the peers'
    task = f"training, 31 M U-Net, {SIDE}x{SIDE}, batch {BATCH}, {precision}: an image in an epoch of fit"
    return [
        {"task": task, "seconds": mine, "peer": peer, "peer_seconds": seconds[peer] / IMAGES, "rounds": rounds}
        for peer in peers
    ]


def textbook(cfg, dataset, autocast: bool) -> None:
    """The usual loop: a shuffling loader, Adam, the loss's value read at every step."""
    network = runs.network(cfg).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg.lr)
    loss_of, total = nn.BCEWithLogitsLoss(), 0.0
    for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(network(batch["image"]), batch["mask"].float())
        loss.backward()
        optimizer.step()
        total += loss.item()
