"""`fit`: the training loop on Accelerate, with checkpoints, resume and history. Taught in `04_lung_segmentation`."""

import math
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader

from . import hosts, losses, memory, metrics, models, plots, presets, runs, updates
from .errors import DataError, SeglibError
from .runs import Run

BY_STEP = ("cosine", "onecycle", "linear")  # schedules that are stepped after every update
SMALL_VALIDATION = (
    50  # with fewer validation images the monitor is smoothed over epochs: single values swing
)


class TrainingError(SeglibError, ArithmeticError):
    """The loss is no longer a number."""


@memory.keep_freed_memory()  # a frame of its own in the call stack: warnings below count it
def fit(
    cfg, batches: dict[str, DataLoader], resume: bool = False, folder: str | Path | None = None
) -> Run:
    """Train the network of `cfg` on `batches["train"]`, choose the best weights on `batches["val"]`.

    Writes into the run folder: the best weights (`cfg.checkpoint_name`), `final_model.pth`, `checkpoint_epoch_N.pth`
    every `save_every` epochs, `history.csv`, `config.json`, `run.json`, `training_history.png` (palm:
    `training_progress.png`), `sample_predictions.png`, and `last.ckpt` to resume from. An old run there is renamed
    aside.

    Args:
        folder: the run folder, `work_dir/<preset>` by default.
        resume: go on after the last finished epoch of the run in that folder, with bit-identical weights on a CPU as
            if it had never stopped; starts anew where there is none.

    Raises:
        DataError: no training images. TrainingError: the loss became NaN or infinite (names the cases). ConfigError:
            the run to resume was begun with settings that this config contradicts.
    """
    cfg = cfg.replace()  # a copy: edits of the caller's config during training change nothing
    if not len(batches["train"].dataset):
        raise DataError("the training part is empty; lower val_split or test_split, or add images")
    folder = Path(folder) if folder else runs.folder_of(cfg)
    checkpoint = runs.load_checkpoint(folder) if resume else None
    if checkpoint:
        runs.check_resumable(
            checkpoint, cfg, len(batches["train"].dataset), cfg.scheduler in BY_STEP
        )
    info = _agree(_probe(cfg, batches) if checkpoint is None else _here(checkpoint["info"], cfg))
    if PartialState().is_main_process:
        if checkpoint is None:
            runs.move_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(cfg, info)
    seed_everything(cfg.seed)
    model = runs.network(cfg, pretrained=checkpoint is None and not cfg.init_from)
    if cfg.init_from and checkpoint is None:
        runs.load_weights(cfg.init_from, model)
    elif cfg.class_prior and checkpoint is None:
        models.init_output_bias(model, batches["train"].dataset.class_shares(), cfg.task)
    info["parameters"] = models.n_parameters(model)
    if checkpoint is None and hasattr(model, "encoder_origin"):
        info["encoder_weights"] = f"file {cfg.init_from}" if cfg.init_from else model.encoder_origin
    if cfg.sync_batch_norm:
        model = _synchronised(model, accelerator)
    model = model.to(memory_format=torch.channels_last)  # what oneDNN and tensor cores work on
    optimizer = _optimizer(cfg, model)
    # The batches of an update wait on the host: on the device there is room for one.
    model, optimizer, train, val = accelerator.prepare(
        model,
        optimizer,
        batches["train"],
        batches["val"],
        device_placement=[True, True, False, True],
    )
    if accelerator.num_processes > 1:
        model.broadcast_buffers = (
            False  # those of the first process would win; see `_average_buffers`
        )
    network = accelerator.unwrap_model(model)  # its weights are saved under plain names
    scheduler = _scheduler(
        cfg, optimizer.optimizer, -(-len(train) // cfg.accumulate), len(batches["val"].dataset)
    )
    loss_of = losses.build(cfg.loss, **cfg.settings)
    forward = _compiled(model, accelerator.device) if cfg.compile else model
    gradients = updates.GradientAccumulator(forward, loss_of, accelerator)

    state: dict[str, Any] = {
        "epoch": 0,
        "history": [],
        "best": None,
        "smoothed": None,
        "since_best": 0,
        "seconds": 0.0,
    }
    if checkpoint:
        state = _restore(checkpoint, network, optimizer, scheduler, accelerator)
    run = Run(folder, cfg, pd.DataFrame(state["history"]), info)
    bar = hosts.progress(
        total=cfg.epochs * len(train),
        initial=state["epoch"] * len(train),
        desc=cfg.preset,
        leave=False,
        **({} if accelerator.is_main_process else {"disable": True}),
    )
    live = plots.LiveCurves(hosts.in_notebook())
    start = time.perf_counter() - state["seconds"]
    try:
        while state["epoch"] < cfg.epochs and not (
            cfg.early_stopping and state["since_best"] >= cfg.patience
        ):
            begun = time.perf_counter()
            row = {"epoch": state["epoch"] + 1, "lr": optimizer.param_groups[0]["lr"]}
            row |= _train_epoch(
                gradients, train, state["epoch"], optimizer, scheduler, accelerator, cfg, bar
            )
            _average_buffers(network, accelerator)
            row |= _validate(forward, val, loss_of, accelerator, cfg)
            _choose(row, state, cfg, len(batches["val"].dataset))
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(row["monitor"])
            row["seconds"] = time.perf_counter() - begun
            state["history"].append(row)
            state["epoch"] += 1
            state["seconds"] = info["seconds"] = time.perf_counter() - start
            run.history = pd.DataFrame(state["history"])
            if accelerator.is_main_process:
                _save(run, network, optimizer, scheduler, accelerator, state)
            live.update(run.history)
            bar.set_postfix_str(
                f"epoch {row['epoch']}/{cfg.epochs} loss {row['train_loss']:.4f} {cfg.monitor} {row[cfg.monitor]:.4f}"
            )
    except KeyboardInterrupt:
        kept = (
            f"all up to epoch {state['epoch']} is kept"
            if state["epoch"]
            else "no epoch was finished"
        )
        print(
            f"stopped in epoch {state['epoch'] + 1}: {kept} in {folder}; fit(cfg, batches, resume=True) goes on"
        )
        raise
    finally:
        bar.close()
        live.close()
    if accelerator.is_main_process:
        runs.save_weights(
            folder / "final_model.pth",
            network,
            cfg,
            epoch=state["epoch"],
            trained_on=info["trained_on"],
        )
        if not run.best.is_file():  # no epoch had a score to choose by
            run.history.loc[run.history.index[-1], "best"] = True
            run.save()
            runs.save_weights(
                run.best, network, cfg, epoch=state["epoch"], trained_on=info["trained_on"]
            )
        curves = presets.PRESETS[cfg.preset].curves
        plots.save(plots.training_curves(run.history), folder / curves)
        _draw_samples(
            run, network, batches["val" if len(batches["val"].dataset) else "train"].dataset.plain()
        )
    accelerator.wait_for_everyone()
    return run


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _probe(cfg, batches: dict[str, DataLoader]) -> dict[str, Any]:
    """What is decided by looking at the machine; kept with the run, so that a resumed run decides the same."""
    device = hosts.choose_device(cfg.device)
    info = {
        "device": device,
        "precision": hosts.choose_precision(device, cfg.precision),
        "seconds": 0.0,
    }
    if device == "cpu" and cfg.precision == "auto":
        info["precision_probe"] = hosts.measure_cpu()
    info |= {
        "threads": torch.get_num_threads(),
        "workers": batches["train"].num_workers,
        "versions": hosts.describe(),
    }
    info["images"] = {part: len(loader.dataset) for part, loader in batches.items()}
    seen = pd.concat([batches[part].dataset.cases["sha256"] for part in ("train", "val")])
    info["trained_on"] = sorted(
        set(seen.str.slice(0, 16))
    )  # so that a later evaluation can tell what is new
    return info


def processes(device: str) -> PartialState:
    """The processes of this training, as torchrun or `accelerate launch` began them; one without these."""
    AcceleratorState._reset_state(
        True
    )  # its choices are kept for the process; a second fit may want others
    return PartialState(cpu=device == "cpu")


def _agree(info: dict[str, Any]) -> dict[str, Any]:
    """What the first process has found, on all processes of this training."""
    if processes(info["device"]).num_processes == 1:
        return info
    found = [info]
    broadcast_object_list(found)
    return found[0]


def _here(info: dict[str, Any], cfg) -> dict[str, Any]:
    """What a run to be resumed was begun with; device and precision anew where this machine has another device."""
    if (device := hosts.choose_device(cfg.device)) == info["device"]:
        return info
    precision = hosts.choose_precision(device, cfg.precision)
    warnings.warn(
        f"resumed on {device} in {precision}, begun on {info['device']} in {info['precision']}",
        stacklevel=4,
    )
    return {**info, "device": device, "precision": precision}


def _accelerator(cfg, info: dict[str, Any]) -> Accelerator:
    torch.backends.cudnn.benchmark = cfg.cudnn_benchmark
    precision = {"fp32": "no"}.get(info["precision"], info["precision"])
    return Accelerator(mixed_precision=precision, cpu=info["device"] == "cpu")


def _optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), cfg.lr, momentum=0.9, nesterov=True, weight_decay=cfg.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.optimizer]
    return kind(
        model.parameters(),
        cfg.lr,
        weight_decay=cfg.weight_decay,
        fused=not torch.backends.mps.is_available(),
    )


def _scheduler(cfg, optimizer: torch.optim.Optimizer, updates: int, n_val: int) -> Any:
    """None, plateau (stepped by epoch) or a schedule stepped after every update; `updates` are those of an epoch."""
    schedules = torch.optim.lr_scheduler
    if cfg.scheduler == "plateau":
        mode = "max" if _higher(cfg, n_val) else "min"
        return schedules.ReduceLROnPlateau(
            optimizer, mode, factor=0.5, patience=max(1, cfg.patience // 3)
        )
    if cfg.scheduler == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=cfg.epochs * updates)
    if cfg.scheduler not in ("onecycle", "linear"):
        return None
    # The straight one starts at a tenth of the peak, rises for half as long and does not linger at its end.
    rising, form = (
        (0.2, {})
        if cfg.scheduler == "onecycle"
        else (0.1, {"div_factor": 10, "anneal_strategy": "linear"})
    )
    total = cfg.epochs * updates
    rising += 0.05 * (round(rising * total, 6) == 1)  # torch divides by rising * total - 1
    return schedules.OneCycleLR(optimizer, cfg.lr, total_steps=total, pct_start=rising, **form)


def _synchronised(model: nn.Module, accelerator) -> nn.Module:
    """Batch norm whose means are those of the micro-batches of all processes."""
    if accelerator.num_processes == 1 or accelerator.device.type != "cuda":
        warnings.warn(
            "sync_batch_norm=True has no effect here: it takes several processes on GPUs",
            stacklevel=4,
        )
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _compiled(model: nn.Module, device: torch.device) -> nn.Module:
    try:
        torch.compile(nn.ReLU())(
            torch.ones(8, device=device)
        )  # what is missing shows at the first call only
    except (
        Exception
    ) as error:  # no compiler, no Triton, an unsupported Python: training goes on without
        lines = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"compile=True has no effect here: {lines[0]}", stacklevel=4)
        return model
    return torch.compile(model)


def _train_epoch(
    gradients, loader, epoch: int, optimizer, scheduler, accelerator, cfg, bar
) -> dict[str, float]:
    """One pass over the training part; sums stay on the device until the end, so that no step waits for the host."""
    gradients.model.train()
    _set_epoch(loader, epoch)
    begun, batches = time.perf_counter(), updates.Waiting(loader)
    each, sums, norm = (
        [],
        torch.zeros(2, device=accelerator.device),
        torch.zeros((), device=accelerator.device),
    )
    for update, of_update in enumerate(updates.micro_batches(batches, cfg.accumulate), start=1):
        pieces, found, n = gradients(of_update)
        norm = accelerator.clip_grad_norm_(gradients.model.parameters(), cfg.clip or float("inf"))
        optimizer.step()
        if cfg.scheduler in BY_STEP and not accelerator.optimizer_step_was_skipped:
            scheduler.step()
        optimizer.zero_grad()
        each += [(loss, piece["index"], update) for loss, piece in zip(found, pieces)]
        sums += torch.stack([torch.stack(found).sum() * n, n / accelerator.num_processes])
        bar.update(len(of_update))
    total = accelerator.reduce(sums, "sum").tolist()
    if not math.isfinite(total[0]):
        _raise_not_finite(each, epoch, loader.dataset.cases["case"], accelerator)
    seconds = time.perf_counter() - begun
    row = {
        "train_loss": total[0] / total[1],
        "grad_norm": float(norm),
        "images_per_second": total[1] / seconds,
    }
    return row | {"waiting": batches.seconds / seconds}


def _raise_not_finite(each: list, epoch: int, names: pd.Series, accelerator) -> None:
    """Name the cases of the first update whose loss is no number; the next ones only inherit its gradients."""
    bad = [(update, loss, index) for loss, index, update in each if not torch.isfinite(loss)]
    first = torch.tensor([bad[0][0] if bad else len(each) + 1], device=accelerator.device)
    where = int(accelerator.gather(first).min())
    if not bad or bad[0][0] > where:
        raise TrainingError(
            f"the loss is no number in epoch {epoch + 1}, step {where}; another process names the cases"
        )
    cases = ", ".join(names.iloc[bad[0][2].tolist()])
    raise TrainingError(
        f"the loss is {bad[0][1].item()} in epoch {epoch + 1}, step {where}, cases {cases}; the weights of the epochs "
        "before are kept; look at these images, lower lr, or set clip=1.0 or precision='fp32'"
    )


def _average_buffers(network: nn.Module, accelerator) -> None:
    """The same running means of batch norm on all processes: each has seen its own batches."""
    for buffer in network.buffers():
        if accelerator.num_processes > 1 and buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer, "mean"))


@torch.no_grad()
def _validate(model, loader, loss_of, accelerator, cfg) -> dict[str, float]:
    """Mean loss, mean Dice (per image, annotated classes, no background) and pixel accuracy of the validation part."""
    model.eval()
    losses_seen, dices, pixels = [], [], torch.zeros(2, dtype=torch.float64)
    for batch in loader:
        logits = model(batch["image"].contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, batch["mask"], batch["annotated"]).repeat(
            len(logits)
        )  # one an image, to be gathered
        pred = metrics.to_one_hot(metrics.probabilities(logits, cfg.task), cfg.task, cfg.threshold)
        counts = metrics.batch_counts(pred, batch["mask"], cfg.task)
        loss, counts, annotated = accelerator.gather_for_metrics((loss, counts, batch["annotated"]))
        counts, annotated = counts.cpu().numpy(), annotated.cpu().numpy()
        first = 1 if cfg.task == "multiclass" else 0
        dice = metrics.ratios(*np.moveaxis(counts, -1, 0))["dice"][:, first:]
        dices += [
            row[known].mean() for row, known in zip(dice, annotated[:, first:]) if known.any()
        ]
        losses_seen += loss.tolist()
        right = (
            counts[..., :1] if cfg.task == "multiclass" else counts[..., [0, 3]]
        )  # of one class, or of each
        seen = counts[:, :1] if cfg.task == "multiclass" else counts * annotated[..., None]
        pixels += torch.tensor([(right.sum(-1) * annotated).sum(), seen.sum()], dtype=torch.float64)
    mean = lambda values: float(np.mean(values)) if len(values) else float("nan")  # noqa: E731
    return {
        "val_loss": mean(losses_seen),
        "val_dice": mean(dices),
        "val_accuracy": float(pixels[0] / pixels[1].clamp(min=1)),
    }


def _choose(row: dict[str, float], state: dict[str, Any], cfg, n_val: int) -> None:
    """Smooth the monitor where the validation part is small, and note whether this epoch is the best so far."""
    value = row[cfg.monitor] if n_val else row["train_loss"]
    if (
        n_val
        and n_val < SMALL_VALIDATION
        and state["smoothed"] is not None
        and math.isfinite(value)
    ):
        value = 0.5 * state["smoothed"] + 0.5 * value
    if math.isfinite(value):
        state["smoothed"] = value
    row["monitor"] = value
    better = state["best"] is None or (
        value > state["best"] if _higher(cfg, n_val) else value < state["best"]
    )
    better = better and math.isfinite(value)  # an epoch without a score chooses nothing
    row["best"] = better
    state["since_best"] = 0 if better else state["since_best"] + 1
    state["best"] = value if better else state["best"]


def _higher(cfg, n_val: int) -> bool:
    """Whether a larger monitor is better; without validation images the training loss is watched instead."""
    return cfg.monitor == "val_dice" and n_val > 0


def _save(run: Run, network, optimizer, scheduler, accelerator, state: dict[str, Any]) -> None:
    row = {name: _plain(value) for name, value in state["history"][-1].items()}
    facts = {"scores": row, "epoch": state["epoch"], "trained_on": run.info["trained_on"]}
    if row["best"]:
        runs.save_weights(run.best, network, run.config, **facts)
    if run.config.save_every and state["epoch"] % run.config.save_every == 0:
        runs.save_weights(
            run.folder / f"checkpoint_epoch_{state['epoch']}.pth", network, run.config, **facts
        )
    run.save()
    runs.save_checkpoint(
        run.folder,
        model=network.state_dict(),
        optimizer=optimizer.state_dict(),
        scheduler=scheduler.state_dict() if scheduler else None,
        scaler=accelerator.scaler.state_dict() if accelerator.scaler else None,
        state=state,
        info=run.info,
        config=run.config.to_dict(),
    )


@torch.no_grad()
def _draw_samples(run: Run, network, dataset, n: int = 4) -> None:
    """`sample_predictions.png`: the first images of a data set, their truth and what the best weights make of them."""
    runs.load_weights(run.best, network).eval()
    task, rows = run.config.task, []
    for number in range(min(n, len(dataset))):
        image, mask = dataset.pixels(number)
        logits = network(dataset[number]["image"][None].to(next(network.parameters()).device))
        pred = metrics.to_one_hot(metrics.probabilities(logits, task), task, run.config.threshold)[
            0
        ]
        rows.append(
            (
                dataset.cases["case"].iloc[number],
                image,
                plots.flat(mask),
                metrics.to_label_map(pred, task),
            )
        )
    plots.save(plots.predictions(rows), run.folder / "sample_predictions.png")


def _plain(value: Any) -> Any:
    """A value that JSON has: a number that is none becomes null."""
    return value if isinstance(value, (bool, int)) or math.isfinite(value) else None


def _restore(
    checkpoint: dict[str, Any], network, optimizer, scheduler, accelerator
) -> dict[str, Any]:
    runs.load_state(network, checkpoint["model"], runs.LAST)
    optimizer.load_state_dict(checkpoint["optimizer"])
    if scheduler:
        scheduler.load_state_dict(checkpoint["scheduler"])
    if accelerator.scaler and checkpoint["scaler"]:
        accelerator.scaler.load_state_dict(checkpoint["scaler"])
    runs.set_random_state(checkpoint["random"])
    return checkpoint["state"]


def _set_epoch(loader, epoch: int) -> None:
    """Tell our sampler the epoch, through whatever Accelerate has wrapped around it."""
    loader.iteration = (
        epoch  # Accelerate counts passes itself, from 0 in every process, and tells the sampler
    )
    batch_sampler = loader.batch_sampler
    while not hasattr(batch_sampler, "sampler"):
        batch_sampler = batch_sampler.batch_sampler
    batch_sampler.sampler.set_epoch(epoch)
