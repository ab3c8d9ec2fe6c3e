"""What a run records of its machine and data: `Run.info`."""

import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from .. import hosts, runs, tables, zoo
from .optimizer import BY_STEP


def run_info(
    cfg,
    batches: dict[str, DataLoader],
    model: nn.Module | None,
    loss: Callable | None,
    checkpoint: dict[str, Any] | None,
) -> dict[str, Any]:
    """`Run.info` of a new run, or of the one to resume, with the names of the caller's network
    and loss."""
    own = {
        "network": None if model is None else tables.name_of(model),
        "loss": None if loss is None else tables.name_of(loss),
    }
    if checkpoint is None:
        return _inspect(cfg, batches) | own
    by_step = cfg.scheduler in BY_STEP
    runs.check_resumable(checkpoint, cfg, len(batches["train"].dataset.cases), by_step, **own)
    return _on_this_machine(checkpoint["info"], cfg) | own


def _inspect(cfg, batches: dict[str, DataLoader]) -> dict[str, Any]:
    """What a run records of machine and data; a resumed run keeps it, to be computed alike."""
    device = hosts.choose_device(cfg.device)
    precision = hosts.choose_precision(device, cfg.precision)
    hashes = pd.concat([batches[part].dataset.cases["sha256"] for part in ("train", "val")])
    seen = set(hashes.str.slice(0, 16))
    if cfg.init_from:
        seen |= runs.trained_on(zoo.resolve(cfg.init_from))
    return {
        "device": device,
        "precision": precision,
        "seconds": 0.0,
        "threads": torch.get_num_threads(),
        "workers": batches["train"].num_workers,
        "versions": hosts.describe(),
        "images": {part: len(loader.dataset.cases) for part, loader in batches.items()},
        # So that an evaluation can mark the images that the weights have seen.
        "trained_on": sorted(seen),
    }


def _on_this_machine(info: dict[str, Any], cfg) -> dict[str, Any]:
    """The info of a run to be resumed; device and precision are new if the device has changed."""
    device, begun_in = hosts.choose_device(cfg.device), info["precision"]
    if device == info["device"]:
        if cfg.precision not in ("auto", begun_in):
            warnings.warn(
                f"precision={cfg.precision!r} has no effect: the run goes on in {begun_in}, in "
                "which it was begun",
                stacklevel=2,
            )
        if not hosts.in_hardware(device, begun_in):
            warnings.warn(
                f"the run goes on in {begun_in}, in which it was begun; this {device} only "
                "emulates it, which may be many times slower",
                stacklevel=2,
            )
        return info
    precision = hosts.choose_precision(device, cfg.precision)
    warnings.warn(
        f"resumed on {device} in {precision}, begun on {info['device']} in {info['precision']}",
        stacklevel=2,
    )
    return {**info, "device": device, "precision": precision}
