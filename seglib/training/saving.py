"""What a training leaves on disk after every epoch and at its end, and how it is resumed."""

import math
from pathlib import Path
from typing import Any

import torch

from .. import metrics, plots, presets, runs, tables
from ..formats import stacks
from ..runs import Run
from .state import Training

SAMPLES = 4  # images in sample_predictions.png


def save(training: Training) -> None:
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


def restore(training: Training, checkpoint: dict[str, Any]) -> None:
    """Weights, optimizer, schedule, gradient scaler and random numbers of the last epoch."""
    runs.load_state(training.network, checkpoint["model"], runs.LAST)
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    if training.scheduler:
        training.scheduler.load_state_dict(checkpoint["scheduler"])
    scaler = training.accelerator.scaler
    if scaler and checkpoint["scaler"]:
        scaler.load_state_dict(checkpoint["scaler"])
    runs.set_random_state(checkpoint["random"])


def _save_weights(training: Training, path: Path, **facts: Any) -> None:
    run = training.run
    facts |= {name: run.info[name] for name in ("precision", "trained_on", "network", "loss")}
    runs.save_weights(path, training.network, run.config, epoch=training.state.epoch, **facts)


def _json_value(value: Any) -> Any:
    """A value that JSON can hold: NaN and infinity become null."""
    return value if isinstance(value, (bool, int)) or math.isfinite(value) else None


def finish(training: Training) -> Run:
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
        _draw_samples(training)
    training.accelerator.wait_for_everyone()
    return run


@torch.no_grad()
def _draw_samples(training: Training) -> None:
    """`sample_predictions.png`: the first images of a data set, their truth and the prediction.

    Of a data set of tiles, the tile of each image that shows most of the structures.
    """
    cfg, dataset = training.cfg, _shown(training)
    device = next(training.network.parameters()).device
    rows = []
    for number in _samples(dataset):
        index, image, mask = dataset.part_of_image(number)
        logits = training.network(dataset[number]["image"][None].to(device))
        prob = metrics.probabilities(logits, cfg.task)
        pred = metrics.to_one_hot(prob, cfg.task, cfg.threshold)[0]
        case = dataset.cases["case"].iloc[index]
        picture = stacks.shown(image, cfg)
        rows.append((case, picture, plots.flat(mask), metrics.to_label_map(pred, cfg.task)))
    figure = plots.predictions(rows, classes=cfg.class_names)
    plots.save(figure, training.run.folder / "sample_predictions.png")


def _shown(training: Training):
    """The data set whose images are drawn: validation, or training where there is none."""
    if training.n_val:
        return training.val.dataset
    dataset, patch = training.train.dataset, training.cfg.patch_height_width
    return dataset.plain() if patch is None else dataset.tiled(patch, n_tiles=SAMPLES)


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
