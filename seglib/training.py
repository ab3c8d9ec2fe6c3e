"""`fit`: the training loop on Accelerate, with checkpoints, resume and history. Taught in
`04_lung_segmentation`."""

import copy
import inspect
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from . import (
    config,
    data,
    hosts,
    losses,
    memory,
    metrics,
    models,
    plots,
    presets,
    runs,
    tables,
    transfer,
    updates,
    zoo,
)
from .errors import ConfigError, DataError, TrainingError, first_line
from .formats import channels, stacks
from .runs import Run

BY_STEP = ("cosine", "onecycle", "linear")  # schedules that are stepped after every update
# With fewer validation images the monitor is smoothed over epochs, as single values jump.
SMALL_VALIDATION = 50
SAMPLES = 4  # images in sample_predictions.png
OWN = {"model": "network", "loss": "loss"}  # arguments of `fit` -> where `Run.info` names them


@dataclass
class TrainingState:
    """What one epoch hands on to the next, besides the weights; saved in `last.ckpt`."""

    epoch: int = 0  # number of finished epochs
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None  # monitor of the best epoch
    smoothed: float | None = None  # monitor, smoothed where the validation part is small
    since_best: int = 0  # epochs since the best one
    seconds: float = 0.0
    n_splits: int = 0  # how often micro-batches were halved for lack of memory


@dataclass
class Training:
    """Everything that one training works with, as `_set_up` returns it."""

    cfg: config.Config
    run: Run
    state: TrainingState
    accelerator: Accelerator
    network: nn.Module  # saved under plain names
    model: nn.Module  # the network as Accelerate and torch.compile have wrapped it
    loss: Callable[..., Tensor]
    optimizer: Any
    scheduler: Any
    train: DataLoader
    val: DataLoader
    accumulate: updates.GradientAccumulator

    @property
    def n_val(self) -> int:
        """Number of validation images."""
        return len(self.val.dataset.cases)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained, or early stopping has waited long enough."""
        stops_early = self.cfg.early_stopping and self.state.since_best >= self.cfg.patience
        return self.state.epoch >= self.cfg.epochs or stops_early


def fit(
    cfg,
    batches: dict[str, DataLoader],
    model: nn.Module | None = None,
    loss: Callable[..., Tensor] | None = None,
    resume: bool = False,
    folder: str | Path | None = None,
) -> Run:
    """Train a network on `batches["train"]`, choose the best weights on `batches["val"]`.

    Writes into the run folder: the best weights (`cfg.checkpoint_name`), `final_model.pth`,
    `checkpoint_epoch_N.pth` every `save_every` epochs, `history.csv`, `config.json`, `run.json`,
    `training_history.png` (palm: `training_progress.png`), `sample_predictions.png`, and
    `last.ckpt` to resume from. An old run there is renamed aside.

    Args:
        model: a network of your own: images (N, C, H, W) float32 -> logits (N, n_classes, H, W).
            In training mode it may return a list of logits instead, the finest first, as `UNet`
            does with `deep_supervision`. It is trained in place, starts with the weights that it
            has (or those of `cfg.init_from`) and ends with the best ones. By default the one that
            `cfg` describes.
        loss: a loss of your own, `loss(logits, target, annotated)` -> scalar tensor, in place of
            `cfg.loss`; `losses` describes target and annotated. A loss derived from
            `losses.MaskedLoss` works with all settings; any other callable only with
            `accumulate=1`, one process, and batches that fit into the memory.
        resume: continue the run in that folder after its last finished epoch; on a CPU the weights
            are bit-identical to those of an uninterrupted run. Starts anew where there is no run.
            Pass `model` and `loss` again.
        folder: the run folder, `work_dir/<preset>` by default.

    Raises:
        DataError: no training images.
        ConfigError: the run to resume was begun with settings that this config contradicts, or with
            another network; the network's output has another shape; the loss does not allow
            several micro-batches or processes.
        TrainingError: the loss became NaN or infinite (names the cases), or has no gradient.
    """
    _check_arguments(model, loss)
    cfg = cfg.replace()  # a copy: edits of the caller's config during training change nothing
    cfg = _with_channels(cfg, batches["train"].dataset)
    with memory.keep_freed_memory(), _restoring_cudnn(), _restoring_forward(model):
        training = _set_up(cfg, batches, model, loss, resume, folder)
        device, precision = training.run.info["device"], training.run.info["precision"]
        with updates.depthwise_in_float32(training.network, device, precision):
            _run_epochs(training)
        return _finish(training)


def cross_validate(
    cfg,
    store,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    resume: bool = True,
):
    """Train on all folds but one, in turn, and score each patient by networks that never saw them.

    Args:
        store: of `prepare.build`; its pixels serve all folds, its split is not used.
        folds: their number; they are drawn by patient, with the same share of each finding.
        seeds: every fold is trained with each of them, and scored by the mean of its networks.
        folder: by default `work_dir/<preset>_folds`.
        resume: go on with what is there, if settings and cases are the same; False begins anew and
            renames the old folder aside.

    Returns:
        A `folds.CrossValidation`: `runs`, `table` (a row a fold and seed), `report` on all cases
        out-of-fold, and `predictor`, the mean of all networks.

    Raises:
        ConfigError: a cross-validation with other settings or cases is in the folder.
        DataError: fewer than two folds, or more than patients.
    """
    code = tables.load("folds:cross_validate")  # of a module that itself uses this one
    return code(cfg, store, folds, seeds, folder, resume)


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def processes(device: str) -> PartialState:
    """The processes of this training, as torchrun or `accelerate launch` started them; otherwise
    this process alone."""
    # Accelerate would keep the device and precision of an earlier `fit` in this process.
    AcceleratorState._reset_state(True)
    return PartialState(cpu=device == "cpu")


# ---- set up


def _set_up(
    cfg,
    batches: dict[str, DataLoader],
    model: nn.Module | None,
    loss: Callable | None,
    resume: bool,
    folder: str | Path | None,
) -> Training:
    """Check everything, make or load what is trained, and prepare the run folder."""
    if not len(batches["train"].dataset):
        raise DataError(_explain_empty(cfg, batches))
    folder = Path(folder) if folder else runs.folder_of(cfg)
    checkpoint = runs.load_checkpoint(folder) if resume else None
    info = _of_first_process(_run_info(cfg, batches, model, loss, checkpoint))
    accelerator = _accelerator(cfg, info)
    state = TrainingState(**checkpoint["state"]) if checkpoint else TrainingState()
    loss = losses.build(cfg.loss, **cfg.settings) if loss is None else loss
    updates.check_loss(loss, cfg.accumulate, accelerator.num_processes, state.n_splits)
    if model is not None:
        _check_output(model.to(accelerator.device), cfg, cfg.network_height_width)
    history = pd.DataFrame(state.history)
    run = Run(folder=folder, config=cfg, history=history, info=info, model=model)

    seed_everything(cfg.seed)
    training = _prepare(run, batches, loss, state, accelerator, new=checkpoint is None)
    # Only now, as what is refused must leave an old run in its place; `init_from` may lie there.
    if accelerator.is_main_process:
        if checkpoint is None:
            runs.move_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
    if checkpoint:
        _restore(training, checkpoint)
    return training


def _with_channels(cfg, dataset) -> Any:
    """The config with the names of the data's channels, which are stored with the weights.

    Raises:
        ConfigError: it names others, or the store was prepared for another input.
    """
    if len(dataset) and dataset.n_channels != cfg.input_channels:
        raise ConfigError(
            f"in_channels: the store has images of {dataset.n_channels} channels, the network "
            f"takes {cfg.input_channels} (in_channels={cfg.in_channels}, "
            f"context_slices={cfg.context_slices}); prepare the data with this config"
        )
    names = dataset.channels
    if not names:
        return cfg
    if cfg.channels and not channels.agree(cfg.channels, names):
        raise ConfigError(
            f"channel_names: {', '.join(cfg.channels)}, but the store was prepared with "
            f"{', '.join(names)}; prepare the data with this config"
        )
    return cfg if cfg.channels else cfg.replace(channel_names=names)


def _explain_empty(cfg, batches: dict[str, DataLoader]) -> str:
    """Text of the error where no image is left for training: where they all are."""
    patients = [
        f"{batches[part].dataset.cases['patient'].nunique()} {part}" for part in ("val", "test")
    ]
    return (
        f"the training part is empty: with val_split={cfg.val_split:g} and "
        f"test_split={cfg.test_split:g} the patients are {' and '.join(patients)}; lower "
        "val_split or test_split, or add images"
    )


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
    _check_network(network, cfg, batches["train"])
    if cfg.sync_batch_norm:
        network = _synchronised(network, accelerator)
    network = network.to(memory_format=torch.channels_last)  # for oneDNN and tensor cores
    if isinstance(loss, nn.Module):
        loss = loss.to(accelerator.device)
    # The batches of an update stay on the host, as the device may have room for one only.
    model, optimizer, train, val = accelerator.prepare(
        network,
        _optimizer(cfg, network),
        batches["train"],
        data.for_validation(batches, cfg),
        device_placement=[True, True, False, True],
    )
    if accelerator.num_processes > 1:
        # `_average_buffers` averages them; DDP would overwrite them with those of one process.
        model.broadcast_buffers = False
    n_updates = math.ceil(len(train) / cfg.accumulate)
    scheduler = _scheduler(cfg, optimizer.optimizer, n_updates, len(batches["val"].dataset.cases))
    network = accelerator.unwrap_model(model)
    if cfg.compile:
        model = _compiled(model, accelerator.device)
    return Training(
        cfg=cfg,
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


def _check_arguments(model: Any, loss: Any) -> None:
    """Refuse a class in place of an object, and an object that is not a network or a loss."""
    for name, value in (("model", model), ("loss", loss)):
        if inspect.isclass(value):
            raise ConfigError(
                f"{name}: {value.__name__} is a class; give an object, {value.__name__}()"
            )
    if model is not None and not isinstance(model, nn.Module):
        raise ConfigError(f"model: {type(model).__name__} is no network; expected an nn.Module")
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss: {loss!r} cannot be called; expected a function loss(logits, target, annotated)"
            " that returns a scalar tensor"
        )


@torch.no_grad()
def _check_output(model: nn.Module, cfg, sides: tuple[int, int]) -> None:
    """Refuse a network whose output is not (1, n_classes, H, W) for one black image (H, W).

    The network computes in evaluation mode, so that batch norm keeps its running means. `fit` seeds
    the random numbers afterwards.
    """
    name = type(model).__name__
    if not models.n_parameters(model):
        raise ConfigError(f"model: {name} has no parameter to train")
    image = torch.zeros(1, cfg.input_channels, *sides)
    expected = (1, cfg.n_classes, *sides)
    modes = [(module, module.training) for module in model.modules()]
    try:
        logits = model.eval()(image.to(next(model.parameters()).device))
    except Exception as error:  # whatever the caller's network raises
        raise ConfigError(
            f"model: {name} fails on an image of shape {tuple(image.shape)}, the in_channels and "
            f"image_size of the config: {error}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != expected:
        raise ConfigError(
            f"model: {name} turns an image of shape {tuple(image.shape)} into {shape}; expected "
            f"logits of shape {expected}, a channel for each of {', '.join(cfg.class_names)}, "
            "before sigmoid or softmax"
        )


def _check_network(network: nn.Module, cfg, loader: DataLoader) -> None:
    """Refuse images, patches or batches that are too small for the network.

    Tried with a copy of it on torch's `meta` device, which computes no values.
    """
    n, batch_size = len(loader.dataset), loader.batch_size
    last = 0 if loader.drop_last else n % batch_size
    has_batch_of_one = 1 in (min(n, batch_size), last)
    sides = cfg.network_height_width
    try:
        meta_network = copy.deepcopy(network).to("meta")
        # Batch norm needs more than one value per channel in training only.
        meta_network.train(has_batch_of_one)
        meta_network(torch.empty(1, cfg.input_channels, *sides, device="meta"))
    except Exception as error:  # a network may also fail because it does not run on `meta`
        if not updates.is_of_batch_norm(error):
            _check_output(network, cfg, sides)
            return
        reason = f"batch_size={batch_size}" if n > 1 else "one training image"
        name = "patch_size" if cfg.patch_size else "image_size"
        has_depth = tables.ARCHITECTURES[cfg.architecture].poolings == "depth"
        depth = f" (depth={cfg.depth})" if has_depth else ""
        raise ConfigError(
            f"batch_size: with {reason} a batch has one image, and of its {sides[0]}x{sides[1]} "
            f"pixels a single one is left at the deepest level of the network{depth}, which batch "
            "norm cannot normalise; "
            + ("add images, or set" if n == 1 else "set a batch_size of 2 or more,")
            + f" a larger {name} or a network that is less deep"
        ) from error


def _run_info(
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


def _of_first_process(info: dict[str, Any]) -> dict[str, Any]:
    """The `info` of the first process, so that all processes use the same device and precision."""
    if processes(info["device"]).num_processes == 1:
        return info
    objects = [info]
    broadcast_object_list(objects)
    return objects[0]


def _accelerator(cfg, info: dict[str, Any]) -> Accelerator:
    """The `Accelerator` for the device and precision of a run."""
    torch.backends.cudnn.benchmark = cfg.cudnn_benchmark
    precision = {"fp32": "no"}.get(info["precision"], info["precision"])
    return Accelerator(mixed_precision=precision, cpu=info["device"] == "cpu")


@contextmanager
def _restoring_cudnn() -> Iterator[None]:
    """Reset the choice of algorithms by timing, so that predictions after a training on a GPU do
    not depend on the clock."""
    before = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _restoring_forward(model: nn.Module | None) -> Iterator[None]:
    """Remove from the caller's network what Accelerate sets on it: the autocast around its forward,
    and a mark that would make a second `fit` leave the autocast out."""
    if model is None:
        yield
        return
    attributes = vars(model)
    before = dict(attributes)
    try:
        yield
    finally:
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            attributes.pop(name, None)
            if name in before:
                attributes[name] = before[name]


def _optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    settings = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.optimizer]
    fused = not torch.backends.mps.is_available()
    return optimizer(model.parameters(), fused=fused, **settings)


def _scheduler(cfg, optimizer: torch.optim.Optimizer, n_updates: int, n_val: int) -> Any:
    """The learning-rate schedule: None, plateau (stepped after every epoch), or one that is stepped
    after every update; `n_updates` is their number in an epoch."""
    total = cfg.epochs * n_updates
    if cfg.scheduler == "plateau":
        mode = "max" if _higher_is_better(cfg, n_val) else "min"
        patience = max(1, cfg.patience // 3)
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience)
    if cfg.scheduler == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    if cfg.scheduler == "onecycle":
        rise = _rise(0.2, total)
        return lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=total, pct_start=rise)
    if cfg.scheduler == "linear":
        # Straight lines: from a tenth of the peak, with half the rise of onecycle, down to zero.
        return lr_scheduler.OneCycleLR(
            optimizer,
            cfg.lr,
            total_steps=total,
            pct_start=_rise(0.1, total),
            div_factor=10,
            anneal_strategy="linear",
        )
    return None


def _rise(share: float, total: int) -> float:
    """The share of all updates in which the learning rate rises.

    Slightly larger where share * total is 1, because torch divides by share * total - 1.
    """
    return share + 0.05 if round(share * total, 6) == 1 else share


def _synchronised(model: nn.Module, accelerator) -> nn.Module:
    """The network with batch norm that normalises over the images of all processes."""
    if accelerator.num_processes == 1 or accelerator.device.type != "cuda":
        warnings.warn(
            "sync_batch_norm=True has no effect here: it takes several processes on GPUs",
            stacklevel=2,
        )
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The compiled network; itself where this machine cannot compile."""
    try:
        # A missing compiler is noticed at the first call only, so we compile something small.
        torch.compile(nn.ReLU())(torch.ones(8, device=device))
    except Exception as error:  # no compiler, no Triton, an unsupported Python
        warnings.warn(f"compile=True has no effect here: {first_line(error)}", stacklevel=2)
        return model
    return torch.compile(model)


def _restore(training: Training, checkpoint: dict[str, Any]) -> None:
    """Weights, optimizer, schedule, gradient scaler and random numbers of the last epoch."""
    runs.load_state(training.network, checkpoint["model"], runs.LAST)
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    if training.scheduler:
        training.scheduler.load_state_dict(checkpoint["scheduler"])
    scaler = training.accelerator.scaler
    if scaler and checkpoint["scaler"]:
        scaler.load_state_dict(checkpoint["scaler"])
    runs.set_random_state(checkpoint["random"])


# ---- run epochs


def _run_epochs(training: Training) -> None:
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
                _save(training)
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
    state, scheduler = training.state, training.scheduler
    begin = time.perf_counter()
    row = {"epoch": state.epoch + 1, "lr": training.optimizer.param_groups[0]["lr"]}
    row |= _train_epoch(training, bar)
    _average_buffers(training.network, training.accelerator)
    row |= _validate(training)
    _compare_with_best(row, state, training.cfg, training.n_val)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(row["monitor"])
    row["seconds"] = time.perf_counter() - begin
    return row


def _train_epoch(training: Training, bar) -> dict[str, float]:
    """One pass over the training part. Losses stay on the device until the end, so that no step
    waits for the host."""
    training.model.train()
    _set_epoch(training.train, training.state.epoch)
    begin = time.perf_counter()
    loader = updates.Waiting(training.train)
    epoch_updates = []
    for batches in updates.micro_batches(loader, training.cfg.accumulate):
        update, norm = _train_step(training, batches)
        epoch_updates.append(update)
        bar.update(len(batches))
    training.state.n_splits = training.accumulate.n_splits
    loss, n_images = _mean_loss(epoch_updates, training)
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


def _mean_loss(epoch_updates: list[updates.Update], training: Training) -> tuple[float, float]:
    """The mean loss over all images of an epoch, and their number, over all processes.

    Raises:
        TrainingError: the loss of some update is NaN or infinite.
    """
    accelerator = training.accelerator
    sums = torch.zeros(2, device=accelerator.device)
    for update in epoch_updates:
        loss = torch.stack(update.losses).sum()
        # The number is that of all processes, so each of them adds an equal share of it.
        n_here = update.n_images / accelerator.num_processes
        sums += torch.stack([loss * update.n_images, n_here])
    total, n_images = accelerator.reduce(sums, "sum").tolist()
    if not math.isfinite(total):
        _raise_not_finite(epoch_updates, training)
    return total / n_images, n_images


def _raise_not_finite(epoch_updates: list[updates.Update], training: Training) -> None:
    """Name the cases of the first update whose loss is not finite; the later ones only inherit its
    gradients."""
    accelerator, epoch = training.accelerator, training.state.epoch + 1
    cases = training.train.dataset.cases["case"]
    not_finite = [
        (step, loss, indices)
        for step, update in enumerate(epoch_updates, start=1)
        for loss, indices in zip(update.losses, update.indices)
        if not torch.isfinite(loss)
    ]
    first_here = not_finite[0][0] if not_finite else len(epoch_updates) + 1
    steps = accelerator.gather(torch.tensor([first_here], device=accelerator.device))
    first = int(steps.min())
    if first_here > first:
        raise TrainingError(
            f"the loss is no number in epoch {epoch}, step {first}; another process names the cases"
        )
    _, loss, indices = not_finite[0]
    names = ", ".join(cases.iloc[indices.tolist()])
    raise TrainingError(
        f"the loss is {loss.item()} in epoch {epoch}, step {first}, cases {names}; the weights of "
        "the epochs before are kept; look at these images, lower lr, or set clip=1.0 or "
        "precision='fp32'"
    )


def _average_buffers(network: nn.Module, accelerator) -> None:
    """The same running means of batch norm on all processes: each has seen its own batches."""
    if accelerator.num_processes == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer, "mean"))


@torch.no_grad()
def _validate(training: Training) -> dict[str, float]:
    """Mean loss, mean Dice and pixel accuracy of the validation part, over all processes."""
    cfg, accelerator = training.cfg, training.accelerator
    training.model.eval()
    gathered: dict[str, list] = {"loss": [], "counts": [], "annotated": [], "index": []}
    for batch in training.val:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        logits = training.model(image)  # (N, K, H, W)
        loss = training.loss(logits, batch["mask"], batch["annotated"])
        prob = metrics.probabilities(logits, cfg.task)
        pred = metrics.to_one_hot(prob, cfg.task, cfg.threshold)
        counts = metrics.batch_counts(pred, batch["mask"], cfg.task)  # (N, K, 4): tp, fp, fn, tn
        # One row per image or tile, as `gather_for_metrics` drops those that only fill up the last
        # batch.
        of_batch = (loss.repeat(len(image)), counts, batch["annotated"], batch["index"])
        for values, tensor in zip(gathered.values(), accelerator.gather_for_metrics(of_batch)):
            values.append(tensor.cpu().numpy())
    if not gathered["loss"]:
        return dict.fromkeys(("val_loss", "val_dice"), math.nan) | {"val_accuracy": 0.0}
    loss, counts, annotated, index = (np.concatenate(values) for values in gathered.values())
    counts, annotated = _sum_tiles(counts, annotated, index)
    return {
        "val_loss": float(loss.astype(np.float64).mean()),
        "val_dice": _mean_dice(counts, annotated, cfg.task),
        "val_accuracy": _accuracy(counts, annotated, cfg.task),
    }


def _sum_tiles(
    counts: np.ndarray, annotated: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same with one row per image: the sum of the counts of its tiles.

    Args:
        counts: (N, K, 4); annotated: (N, K); index: (N,), the image of each row.
    """
    _, first, image = np.unique(index, return_index=True, return_inverse=True)
    of_images = np.zeros((len(first), *counts.shape[1:]), counts.dtype)
    np.add.at(of_images, image, counts)
    return of_images, annotated[first]


def _mean_dice(counts: np.ndarray, annotated: np.ndarray, task: str) -> float:
    """Mean over images of the mean Dice of the annotated classes, without the background.

    Args:
        counts: (N, K, 4), true and false positives, false and true negatives.
        annotated: (N, K) bool.
    """
    first = 1 if task == "multiclass" else 0
    dice = metrics.ratios(*np.moveaxis(counts, -1, 0))["dice"][:, first:]  # (N, K)
    of_images = [
        row[has_mask].mean() for row, has_mask in zip(dice, annotated[:, first:]) if has_mask.any()
    ]
    return float(np.mean(of_images)) if of_images else math.nan


def _accuracy(counts: np.ndarray, annotated: np.ndarray, task: str) -> float:
    """The share of pixels that are classified correctly: in the one class that a pixel has
    (multiclass), or in each annotated class."""
    if task == "multiclass":
        right = counts[..., 0]
        n_pixels = counts[:, 0].sum()  # every class has counted the same pixels
    else:
        right = counts[..., 0] + counts[..., 3]
        n_pixels = (counts.sum(axis=-1) * annotated).sum()
    return float((right * annotated).sum() / max(n_pixels, 1))


def _compare_with_best(row: dict[str, Any], state: TrainingState, cfg, n_val: int) -> None:
    """Add to the row the monitor, smoothed where the validation part is small, and whether this
    epoch is the best so far; update the state.

    Without validation images the monitor is the training loss, which stops a training early but
    chooses no epoch: the last one counts as the best.
    """
    value = row[cfg.monitor] if n_val else row["train_loss"]
    is_number = math.isfinite(value)
    if 0 < n_val < SMALL_VALIDATION and state.smoothed is not None and is_number:
        value = 0.5 * state.smoothed + 0.5 * value  # exponential moving average
    if is_number:
        state.smoothed = value
    row["monitor"] = value
    is_better = is_number and _is_better(value, state.best, _higher_is_better(cfg, n_val))
    row["best"] = is_better if n_val else is_number
    if is_better:
        state.best, state.since_best = value, 0
    else:
        state.since_best += 1


def _is_better(value: float, best: float | None, higher: bool) -> bool:
    if best is None:
        return True
    return value > best if higher else value < best


def _higher_is_better(cfg, n_val: int) -> bool:
    """Whether a larger monitor is better; without validation images it is the training loss."""
    return cfg.monitor == "val_dice" and n_val > 0


def _set_epoch(loader: DataLoader, epoch: int) -> None:
    """Set the epoch of our sampler, which Accelerate has wrapped in samplers of its own."""
    # Accelerate counts passes from 0 in every process and passes that number on to the sampler.
    loader.iteration = epoch
    batch_sampler = loader.batch_sampler
    while not hasattr(batch_sampler, "sampler"):
        batch_sampler = batch_sampler.batch_sampler
    batch_sampler.sampler.set_epoch(epoch)


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
    own = [f"{name}=..." for name, key in OWN.items() if run.info[key]]
    call = ", ".join(["cfg", "batches", *own, "resume=True"])
    return f"stopped in epoch {state.epoch + 1}: {saved} in {run.folder}; fit({call}) goes on"


# ---- save and finish


def _save(training: Training) -> None:
    """Everything that an epoch leaves on disk."""
    run, state = training.run, training.state
    row = {name: _json_value(value) for name, value in state.history[-1].items()}
    if row["best"]:
        _save_weights(training, run.best, scores=row)
    every = run.config.save_every
    if every and state.epoch % every == 0:
        _save_weights(training, run.folder / f"checkpoint_epoch_{state.epoch}.pth", scores=row)
    run.save()
    scheduler, scaler = training.scheduler, training.accelerator.scaler
    runs.save_checkpoint(
        run.folder,
        model=training.network.state_dict(),
        optimizer=training.optimizer.state_dict(),
        scheduler=scheduler.state_dict() if scheduler else None,
        scaler=scaler.state_dict() if scaler else None,
        state=dict(vars(state)),
        info=run.info,
        config=run.config.to_dict(),
    )


def _save_weights(training: Training, path: Path, **facts: Any) -> None:
    run = training.run
    facts |= {name: run.info[name] for name in ("precision", "trained_on", "network", "loss")}
    runs.save_weights(path, training.network, run.config, epoch=training.state.epoch, **facts)


def _json_value(value: Any) -> Any:
    """A value that JSON can hold: NaN and infinity become null."""
    return value if isinstance(value, (bool, int)) or math.isfinite(value) else None


def _finish(training: Training) -> Run:
    """Write the final weights and the figures; the network then holds the best weights."""
    run = training.run
    if training.accelerator.is_main_process:
        _save_weights(training, run.folder / "final_model.pth")
        if not run.best.is_file():  # no epoch had a score to choose by
            run.history.loc[run.history.index[-1], "best"] = True
            run.save()
            _save_weights(training, run.best)
        runs.drop_checkpoint_before(run.folder)
        curves = presets.PRESETS[run.config.preset].curves
        plots.save(plots.training_curves(run.history), run.folder / curves)
        runs.load_weights(run.best, training.network).eval()
        _draw_samples(run, training.network, _shown(training))
    training.accelerator.wait_for_everyone()
    return run


def _shown(training: Training):
    """The data set whose images are drawn: validation, or training where there is none."""
    if training.n_val:
        return training.val.dataset
    dataset, patch = training.train.dataset, training.cfg.patch_height_width
    return dataset.plain() if patch is None else dataset.tiled(patch, n_tiles=SAMPLES)


@torch.no_grad()
def _draw_samples(run: Run, network: nn.Module, dataset) -> None:
    """`sample_predictions.png`: the first images of a data set, their truth and the prediction.

    Of a data set of tiles, the tile of each image that shows most of the structures.
    """
    task = run.config.task
    device = next(network.parameters()).device
    rows = []
    for number in _samples(dataset):
        index, image, mask = dataset.part_of_image(number)
        logits = network(dataset[number]["image"][None].to(device))
        prob = metrics.probabilities(logits, task)
        pred = metrics.to_one_hot(prob, task, run.config.threshold)[0]
        case = dataset.cases["case"].iloc[index]
        picture = stacks.shown(image, run.config)
        rows.append((case, picture, plots.flat(mask), metrics.to_label_map(pred, task)))
    figure = plots.predictions(rows, classes=run.config.class_names)
    plots.save(figure, run.folder / "sample_predictions.png")


def _samples(dataset) -> list[int]:
    """The items of the first images: whole frames, or of each image one tile."""
    if dataset.tiles is None:
        return list(range(min(SAMPLES, len(dataset))))

    def n_structure(number: int) -> int:
        mask = dataset.part_of_image(number)[2]
        return int(((mask > 0) & (mask != tables.IGNORE)).sum())

    of_images: dict[int, list[int]] = {}
    for number, tile in enumerate(dataset.tiles):
        of_images.setdefault(tile.index, []).append(number)
    return [max(numbers, key=n_structure) for numbers in list(of_images.values())[:SAMPLES]]
