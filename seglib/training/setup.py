"""Everything that a training needs: network, optimizer, schedule and loaders, new or resumed."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from .. import data, losses, models, runs, transfer, updates, zoo
from ..runs import Run
from . import checks, machine, saving
from .info import run_info
from .optimizer import build_optimizer, build_scheduler
from .state import Training, TrainingState


def set_up(
    cfg,
    batches: dict[str, DataLoader],
    model: nn.Module | None,
    loss: Callable | None,
    resume: bool,
    folder: str | Path | None,
) -> Training:
    """Check everything, make or load what is trained, and prepare the run folder."""
    folder = Path(folder) if folder else runs.folder_of(cfg)
    checkpoint = runs.load_checkpoint(folder) if resume else None
    info = machine.of_first_process(run_info(cfg, batches, model, loss, checkpoint))
    accelerator = machine.build_accelerator(cfg, info)
    state = TrainingState(**checkpoint["state"]) if checkpoint else TrainingState()
    loss = losses.build(cfg.loss, **cfg.settings) if loss is None else loss
    updates.check_loss(loss, cfg.accumulate, accelerator.num_processes, state.n_splits)
    if model is not None:
        checks.check_shape(model.to(accelerator.device), cfg)
    history = pd.DataFrame(state.history)
    run = Run(folder=folder, config=cfg, history=history, info=info, model=model)

    machine.seed_everything(cfg.seed)
    training = _prepare(run, batches, loss, state, accelerator, new=checkpoint is None)
    # Only now, as what is refused must leave an old run in its place; `init_from` may lie there.
    if accelerator.is_main_process:
        if checkpoint is None:
            runs.move_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
    if checkpoint:
        saving.restore(training, checkpoint)
    return training


def _prepare(
    run: Run,
    batches: dict[str, DataLoader],
    loss: Callable,
    state: TrainingState,
    accelerator: Accelerator,
    new: bool,
) -> Training:
    """Network, optimizer, schedule and loaders, on the device and wrapped for it."""
    cfg = run.config
    network = _network(run, batches["train"].dataset, new)
    for line in run.info["start"] if new else ():
        accelerator.print(line)
    checks.check_network(network, cfg, batches["train"])
    if cfg.sync_batch_norm:
        network = machine.synchronised(network, accelerator)
    network = network.to(memory_format=torch.channels_last)  # for oneDNN and tensor cores
    if isinstance(loss, nn.Module):
        loss = loss.to(accelerator.device)
    # The batches of an update stay on the host, as the device may have room for one only.
    model, optimizer, train, val = accelerator.prepare(
        network,
        build_optimizer(cfg, network),
        batches["train"],
        data.for_validation(batches, cfg),
        device_placement=[True, True, False, True],
    )
    if accelerator.num_processes > 1:
        # The loop averages them; DDP would overwrite them with those of one process.
        model.broadcast_buffers = False
    n_updates = math.ceil(len(train) / cfg.accumulate)
    scheduler = build_scheduler(
        cfg, optimizer.optimizer, n_updates, len(batches["val"].dataset.cases)
    )
    network = accelerator.unwrap_model(model)
    if cfg.compile:
        model = machine.compiled(model, accelerator.device)
    return Training(
        run=run,
        state=state,
        accelerator=accelerator,
        network=network,
        model=model,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        train=train,
        val=val,
        accumulate=updates.GradientAccumulator(model, loss, accelerator, state.n_splits),
    )


def _network(run: Run, dataset, new: bool) -> nn.Module:
    """The network passed to `fit`, or that of the config; a new run's has its initial weights."""
    cfg, info = run.config, run.info
    network = run.model
    if network is None:
        network = runs.network(cfg, pretrained=new and not cfg.init_from, strict=new)
    info["parameters"] = models.n_parameters(network)
    if new:
        _start(run, network, dataset)
    return network


def _start(run: Run, network: nn.Module, dataset) -> None:
    """Give the network of a new run its initial weights; `run.info` tells which, `start` in words.

    A network that was passed to `fit` keeps those that it has, unless `init_from` names others.
    """
    cfg, info = run.config, run.info
    info["start"] = []
    has_new_output = True
    if cfg.init_from:
        start = transfer.start_from(zoo.resolve(cfg.init_from), network, cfg)
        info["init_from"] = start.to_dict()
        info["start"].append(str(start))
        has_new_output = start.has_new_output
    if has_new_output and cfg.class_prior and run.model is None:
        models.init_output_bias(network, dataset.class_shares(), cfg.task)
    if hasattr(network, "encoder_origin"):
        origin = f"file {cfg.init_from}" if cfg.init_from else network.encoder_origin
        info |= {"encoder": cfg.encoder, "encoder_weights": origin}
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (cfg.mean, cfg.std))
        info["start"].append(
            f"encoder {cfg.encoder}, weights: {origin}; images are normalised with mean {mean} "
            f"and std {std}"
        )
