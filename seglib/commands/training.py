"""The commands that train and score: train, evaluate, compare, and their cross-validations."""

import argparse
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from .. import config
from ..errors import ConfigError
from . import parts


def train(args: argparse.Namespace) -> None:
    """Train a network and keep its best weights."""
    from .. import data, hosts, training

    cfg = parts.config_of(args)
    if args.folds is not None:
        return _cross_validate(args, cfg)
    folder = Path(args.checkpoint_dir or parts.run_folder(cfg))
    begun = folder / "config.json"
    goes_on = args.resume and "test_split" not in args.given and begun.is_file()
    if goes_on:
        cfg = cfg.replace(test_split=config.load(begun).test_split)
    state = training.processes(hosts.choose_device(cfg.device))
    output = sys.stdout if state.is_main_process else io.StringIO()
    with state.main_process_first(), contextlib.redirect_stdout(output):
        wants_test_part = not goes_on and parts.wants_test_part(cfg, args)
        store, cfg = parts.store_of(cfg, wants_test_part)
        parts.print_without_effect_on(args, cfg, store.cases)
        _warn_of_a_long_training(cfg)
    batches = data.loaders(store, cfg)
    run = training.fit(cfg, batches, resume=args.resume, folder=folder)
    best = run.history[run.history["best"].astype(bool)].iloc[-1]
    score = "no validation images"
    if len(batches["val"].dataset):
        score = f"{cfg.monitor} {best[cfg.monitor]:.4f}"
    epoch = f"epoch {best['epoch']:.0f} of {len(run.history)}"
    state.print(f"best weights: {run.best} ({epoch}, {score})")
    if len(batches["test"].dataset):
        state.print(f"next: python -m seglib evaluate --model_path {run.best}")


def evaluate(args: argparse.Namespace) -> None:
    """Score weights on all cases of --data_dir, or on the test part of their own data."""
    from .. import data, evaluation, zoo

    predictor, weights = parts.predictor_of(args)
    cfg, part = predictor.config, None
    zoo_folders = zoo.folders()
    of_zoo = [path.stem for path in predictor.files if path.parent in zoo_folders]
    if of_zoo and cfg.data_root is None:
        raise ConfigError(
            f"data_dir: the network {of_zoo[0]} has no test part of its own; give "
            "--data_dir FOLDER with annotated images"
        )
    # Options of settings are absent unless the user gave them.
    is_other_data = bool(of_zoo) or hasattr(args, "data_root")
    cross_validation = None if is_other_data else _cross_validation_of(predictor)
    if cross_validation:
        return _evaluate_folds(cross_validation, args)
    if is_other_data:
        cfg = cfg.replace(test_split=1.0, val_split=0.0, keep_split=False)
        part = "all cases given"
    store, _ = parts.store_of(cfg)
    batches = data.loaders(store, cfg)
    loader = batches["test"] if len(batches["test"].dataset) else batches["val"]
    report = evaluation.evaluate(predictor, loader, grid="original", part=part)
    report.about["weights"] = weights
    print(report.text())
    print(f"report: {report.save(args.output_dir)}")
    parts.print_without_effect_on(args, cfg, loader.dataset.cases, predictor)
    _warn_of_training_images(report, predictor)


def compare(args: argparse.Namespace) -> None:
    """Compare two saved reports, image by image: is the second better, and how sure is that?"""
    from ..report import compare

    table = compare(args.first, args.second, args.metric)
    print(table.round(4).drop(columns="no_interval").to_string(index=False, na_rep=""))
    for reason, rows in table[table["no_interval"] != ""].groupby("no_interval", sort=False):
        print(f"no interval: {reason} ({', '.join(rows['class'])})")
    print(
        f"difference: second minus first, mean {args.metric} of the same images, "
        "with its 95 % interval over patients"
    )
    print("better: share of the bootstrap resamples in which the second is better")
    print("a, b: the means of the first and of the second; n_left_out: images not scored in both")


def _cross_validate(args: argparse.Namespace, cfg: config.Config) -> None:
    """Train all folds; write their table and the out-of-fold report into the folder of the runs."""
    from .. import layouts, runs, training

    seeds = _seeds(args.seeds)
    layouts.complete(cfg)
    folder = args.checkpoint_dir or runs.folds_folder(parts.run_folder(cfg))
    # Without parts of its own, as the folds replace them.
    store, of_data = parts.store_of(cfg.replace(test_split=0.0, val_split=0.0))
    if of_data.channels != cfg.channels:
        cfg = cfg.replace(channel_names=of_data.channels)
    parts.print_without_effect_on(args, cfg, store.cases)
    _warn_of_a_long_training(cfg)
    crossed = training.cross_validate(cfg, store, args.folds, seeds, folder, args.resume)
    report = crossed.evaluate(grid="original")
    _print_folds(crossed, report, crossed.folder)
    print(f"next: python -m seglib predict --model_path {crossed.folder} --image_dir PICTURES")


def _seeds(text: str) -> list[int]:
    """The numbers of --seeds, such as 0,1."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: {text!r} is not allowed; expected numbers such as 0,1") from None


def _print_folds(crossed: Any, report: Any, folder: str | Path) -> None:
    """Print and save the table of a cross-validation, and a report of it."""
    print(report.text())
    print("each training on its own fold, at the size of the store and without further options:")
    print(crossed.table.round(4).to_string(index=False))
    print(f"report: {crossed.save(folder, report)}")


def _cross_validation_of(predictor: Any) -> Path | None:
    """The folder of the cross-validation that --model_path names; None for other weights.

    Raises:
        ConfigError: it names weights of single folds, whose data has no test part of its own.
    """
    from .. import runs

    of_folds = [path for path in predictor.files if runs.cross_validation_of(path)]
    if not of_folds:
        return None
    folder = runs.cross_validation_of(of_folds[0])
    if list(predictor.files) != runs.weights_files(folder):
        raise ConfigError(
            f"model_path: {of_folds[0]} is of one fold of a cross-validation; give its "
            f"folder, {folder}, to score every case by the networks that never saw its patient, or "
            "--data_dir FOLDER for other data"
        )
    return folder


def _evaluate_folds(folder: Path, args: argparse.Namespace) -> None:
    """Score every case of a cross-validation by the networks that never saw its patient."""
    from .. import folds, inference

    settings = {name: value for name, value in parts.settings_of(args).items() if name in parts.USE}
    cfg = folds.config_of(folder).replace(**settings)
    store, _ = parts.store_of(cfg.replace(test_split=0.0, val_split=0.0))
    crossed = folds.load(folder, store, **settings)
    options = {name: getattr(args, name) for name in inference.OPTIONS}
    report = crossed.evaluate(grid="original", **options)
    _print_folds(crossed, report, args.output_dir)
    parts.print_without_effect_on(args, crossed.config, store.cases, crossed.predictor)


def _warn_of_a_long_training(cfg: config.Config) -> None:
    """Say before a training in the full size on a CPU that it is not meant for one."""
    from .. import hosts

    if cfg.size == "full" and hosts.choose_device(cfg.device) == "cpu":
        print(
            "NOTE: size full is meant for a GPU; on a CPU it takes hours, even for few images. "
            "--size small trains on a laptop in minutes"
        )


def _warn_of_training_images(report: Any, predictor: Any) -> None:
    """Say how many of the scored images the network was trained on, and what to do about it."""
    from .. import runs
    from ..summary import seen_in_training

    seen = seen_in_training(report.per_image)
    if not seen or not seen.n_seen:
        return
    print(
        f"WARNING: the network was trained on {seen.n_seen} of these {seen.n_images} images, so "
        "that the scores above are too good and are no test."
    )
    if seen.n_new:
        print(f"WARNING: the {seen.n_new} other images have a mean Dice of {seen.dice_of_new:.3f}.")
    advice = "this training had no test part: train with --test_split 0.2, or score other images"
    if predictor.config.test_split:
        advice = "evaluate without --data_dir scores the test part of the training alone"
    folder = runs.cross_validation_of(predictor.files[0]) if predictor.files else None
    if folder:
        advice = f"evaluate --model_path {folder} without --data_dir scores every image by "
        advice += "the networks that never saw its patient"
    print(f"WARNING: {advice}.")
