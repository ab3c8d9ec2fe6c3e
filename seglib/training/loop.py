"""The training loop: epochs, and in each of them the updates of the weights.

From the outside in: `run_epochs`, `_run_epoch`, `_train_epoch`, `_train_step`.
"""

import math
import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import hosts, plots, updates
from ..runs import Run
from . import epoch_loss, machine, saving, validation
from .optimizer import BY_STEP
from .state import Training, TrainingState


def run_epochs(training: Training) -> None:
    """Train, validate and save, epoch by epoch, until the training is over."""
    cfg, run, state = training.cfg, training.run, training.state
    bar = _progress_bar(training)
    live = plots.LiveCurves(hosts.in_notebook())
    start = time.perf_counter() - state.seconds
    try:
        while not training.is_over:
            row = _run_epoch(training, bar)
            state.history.append(row)
            state.epoch += 1
            state.seconds = run.info["seconds"] = time.perf_counter() - start
            run.history = pd.DataFrame(state.history)
            if training.accelerator.is_main_process:
                saving.save(training)
            live.update(run.history)
            bar.set_postfix_str(
                f"epoch {row['epoch']}/{cfg.epochs} loss {row['train_loss']:.4f} "
                f"{cfg.monitor} {row[cfg.monitor]:.4f}"
            )
    except KeyboardInterrupt:
        print(_stopped(run, state))
        raise
    finally:
        bar.close()
        live.close()


def _run_epoch(training: Training, bar) -> dict[str, Any]:
    """One epoch's row of the history."""
    state, cfg = training.state, training.cfg
    begin = time.perf_counter()
    row = {"epoch": state.epoch + 1, "lr": training.optimizer.param_groups[0]["lr"]}
    row |= _train_epoch(training, bar)
    machine.average_buffers(training.network, training.accelerator)
    row |= validation.validate(training)
    validation.compare_with_best(row, state, cfg, training.n_val)
    if cfg.scheduler == "plateau":
        training.scheduler.step(row["monitor"])
    row["seconds"] = time.perf_counter() - begin
    return row


def _train_epoch(training: Training, bar) -> dict[str, float]:
    """One pass over the training part. Losses stay on the device until the end, so that no step
    waits for the host."""
    training.model.train()
    machine.set_epoch(training.train, training.state.epoch)
    begin = time.perf_counter()
    loader = updates.Waiting(training.train)
    epoch_updates = []
    for batches in updates.micro_batches(loader, training.cfg.accumulate):
        update, norm = _train_step(training, batches)
        epoch_updates.append(update)
        bar.update(len(batches))
    training.state.n_splits = training.accumulate.n_splits
    loss, n_images = epoch_loss.mean_loss(epoch_updates, training)
    seconds = time.perf_counter() - begin
    return {
        "train_loss": loss,
        "grad_norm": float(norm),
        "images_per_second": n_images / seconds,
        "waiting": loader.seconds / seconds,
    }


def _train_step(training: Training, batches: list[updates.Batch]) -> tuple[updates.Update, Tensor]:
    """One update of the weights on `cfg.accumulate` micro-batches; returns also the norm of its
    gradient before clipping."""
    cfg, accelerator = training.cfg, training.accelerator

    def forward_backward(batch: updates.Batch, total: Tensor | None) -> Tensor:
        image = batch["image"].to(accelerator.device, non_blocking=True)
        logits = training.model(image.contiguous(memory_format=torch.channels_last))  # (N, K, H, W)
        loss = updates.share(training.loss, logits, batch, total)
        # Accelerate averages the gradients of the processes; we need their sum.
        accelerator.backward(loss * accelerator.num_processes)
        return loss.detach()

    update = training.accumulate(batches, forward_backward)
    norm = accelerator.clip_grad_norm_(training.model.parameters(), cfg.clip or math.inf)
    training.optimizer.step()
    if cfg.scheduler in BY_STEP and not accelerator.optimizer_step_was_skipped:
        training.scheduler.step()
    training.optimizer.zero_grad()
    return update, norm


def _progress_bar(training: Training):
    n_batches = len(training.train)
    hidden = {} if training.accelerator.is_main_process else {"disable": True}
    return hosts.progress(
        total=training.cfg.epochs * n_batches,
        initial=training.state.epoch * n_batches,
        desc=training.cfg.preset,
        leave=False,
        **hidden,
    )


def _stopped(run: Run, state: TrainingState) -> str:
    """The message after Ctrl-C: what is saved, and the call that continues."""
    saved = f"all up to epoch {state.epoch} is kept" if state.epoch else "no epoch was finished"
    names = (("model", "network"), ("loss", "loss"))  # arguments of `fit`, and keys of `Run.info`
    own = [f"{name}=..." for name, key in names if run.info[key]]
    call = ", ".join(["cfg", "batches", *own, "resume=True"])
    return f"stopped in epoch {state.epoch + 1}: {saved} in {run.folder}; fit({call}) goes on"
