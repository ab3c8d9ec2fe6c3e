"""The command line: `python -m seglib --help`. Its commands make the calls that a notebook makes.

The table `COMMANDS` lists every command with its options. Nothing heavy is imported before a
command runs, so that help and errors in the arguments come at once.
"""

import argparse
import ast
import contextlib
import io
import json
import math
import re
import shlex
import sys
import typing
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import config, effects, fields, presets, tables
from .errors import ConfigError, DataError, SeglibError

# The settings that evaluate and predict take: folders and device, and how a network is used.
PLACE = config.fields_that("place")
USE = (*PLACE, *config.fields_that("use"))


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 2 a mistake or bad data (one message), 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parse([_with_underscores(argument) for argument in argv])
        effects.refuse(args.function.__name__, args.given, args)
        args.function(args)
        return 0
    except (SeglibError, OSError) as error:
        print(f"seglib: {error}", file=sys.stderr)
        is_told = "on the command line" in str(error)
        options = "" if is_told else _options_named_in(str(error))
        if options:
            print(f"seglib: on the command line: {options}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seglib: stopped", file=sys.stderr)
        return 130


def phantoms(args: argparse.Namespace) -> None:
    """Write a synthetic data set in the tree of a real one."""
    from . import phantoms

    output = args.output or Path("data", "phantoms", args.name)
    folder = phantoms.write(args.name, output, args.n, args.seed, args.hospital)
    print(f"{folder}: {args.n} synthetic images")
    print(f"next: python -m seglib train --preset {args.name} --data_dir {folder}")


def prepare(args: argparse.Namespace) -> None:
    """Bring another layout into images/ + masks/, or check and resize a preset's data."""
    if args.source_images or args.source_masks or args.annotations:
        return _convert(args)
    cfg = _config(args)
    store, cfg = _store(cfg, wants_test_part=_wants_test_part(cfg, args))
    _check_effects(args, cfg, store.cases)
    if args.export:
        _export(store, args)
    if args.export_nnunet:
        from . import nnunet

        target = nnunet.export(store, args.export_nnunet, cfg, args.folds)
        print(f"exported to {target}")
        print(nnunet.advice(target))


def _export(store, args: argparse.Namespace) -> None:
    """Write a prepared data set as pictures, or its masks for labelling tools."""
    from . import labelling

    if args.form == "png":
        print(f"exported to {store.export_png(args.export)}")
        return
    exported = labelling.export(store, args.export, args.form, args.outline_tolerance)
    for note in exported.notes:
        print(f"NOTE: {note}")
    print(f"masks of {exported.n_images} images exported to {exported.path}")
    print(f"names of images are relative to {exported.root}")


def stores(args: argparse.Namespace) -> None:
    """List the stores of prepared pixels; --prune removes those that are of no use any more."""
    from . import hosts, stores

    print(stores.report(hosts.run_root(_config(args)), args.prune))


def train(args: argparse.Namespace) -> None:
    """Train a network and keep its best weights."""
    from . import data, hosts, training

    cfg = _config(args)
    if args.folds is not None:
        return _cross_validate(args, cfg)
    folder = Path(args.checkpoint_dir or _run_folder(cfg))
    begun = folder / "config.json"
    goes_on = args.resume and "test_split" not in args.given and begun.is_file()
    if goes_on:
        cfg = cfg.replace(test_split=config.load(begun).test_split)
    state = training.processes(hosts.choose_device(cfg.device))
    output = sys.stdout if state.is_main_process else io.StringIO()
    with state.main_process_first(), contextlib.redirect_stdout(output):
        wants_test_part = not goes_on and _wants_test_part(cfg, args)
        store, cfg = _store(cfg, wants_test_part)
        _check_effects(args, cfg, store.cases)
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
    from . import data, evaluation, zoo

    predictor, weights = _predictor(args)
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
    store, _ = _store(cfg)
    batches = data.loaders(store, cfg)
    loader = batches["test"] if len(batches["test"].dataset) else batches["val"]
    report = evaluation.evaluate(predictor, loader, grid="original", part=part)
    report.about["weights"] = weights
    print(report.text())
    print(f"report: {report.save(args.output_dir)}")
    _check_effects(args, cfg, loader.dataset.cases, predictor)
    _warn_of_training_images(report, predictor)


def predict(args: argparse.Namespace) -> None:
    """Write masks of an image or of a folder of images, and a table of their measures."""
    from . import regions

    if bool(args.image_path) == bool(args.image_dir):
        raise ConfigError(
            "give --image_path FILE (and --mask_path FILE, where there is a truth), "
            "or --image_dir FOLDER"
        )
    if args.table:
        regions.check_target(args.table)
    _measuring(args)  # refuses what cannot be, before anything is loaded
    with contextlib.ExitStack() as until_done:
        _unfold_pages(args, until_done)
        _predict(args)


def _unfold_pages(args: argparse.Namespace, until_done: contextlib.ExitStack) -> None:
    """Put the pages of a multi-page TIFF in the place of the file, for as long as they are used."""
    from .layouts import stacks

    if not args.tiff_pages:
        return
    unfolded = str(until_done.enter_context(stacks.unfolded(args.image_path, args.tiff_pages)))
    is_volume = args.tiff_pages == "volume"
    args.image_path, args.image_dir = (unfolded, None) if is_volume else (None, unfolded)


def _predict(args: argparse.Namespace) -> None:
    """`predict`, of arguments that were checked."""
    from .formats import inputs, volumes

    predictor, _ = _predictor(args)
    if inputs.holds_several_series(args.image_path):
        if args.dicom_seg or args.mask_path:
            raise ConfigError(
                f"{args.image_path}: several DICOM series, of which --dicom_seg and --mask_path "
                "take one; give the folder of that series"
            )
        args.image_dir = args.image_path
    if args.image_dir:
        problems = _predict_folder(predictor, args)
    else:
        problems = []
        inputs.refuse_pictures(args.image_path)
        is_volume = volumes.is_volume(args.image_path)
        write = _predict_volume if is_volume else _predict_image
        write(predictor, Path(args.image_path), args)
        now = effects.Situation(predictor.config, not is_volume, is_volume)
        _print_without_effect(args, now, predictor)
    print(f"results in {args.output_dir}")
    if problems:
        raise DataError("\n".join(["not predicted:", *problems]))


def zoo(args: argparse.Namespace) -> None:
    """List the networks that --model takes by a name; with NAME the model card of one."""
    from . import export, zoo

    if args.name:
        print(export.card_of(args.name))
        return
    networks = zoo.listing()
    if networks.empty:
        print(f"no networks in {' or '.join(map(str, zoo.folders()))}; make zoo trains some")
        return
    print(networks.to_string(index=False))
    print("next: python -m seglib predict --model NAME --image_path FILE")
    print("model card of a network: python -m seglib zoo NAME")


def export(args: argparse.Namespace) -> None:
    """Write weights as ONNX and torch.export, each checked against PyTorch; a folder for Kaggle."""
    from . import export, inference

    predictor = inference.Predictor.load(
        args.model_path or _find_weights("best*.pth"), device="cpu", precision="fp32"
    )
    folder = Path(args.output_dir)
    print(f"weights: {', '.join(map(str, predictor.files))}")
    if args.kaggle:
        export.file_of(predictor)  # refuses the mean of several networks at once
    name = predictor.weights.stem if predictor.weights else "ensemble"
    for write, suffix in ((export.to_onnx, ".onnx"), (export.to_program, ".pt2")):
        exported = write(predictor, folder / f"{name}{suffix}")
        print(
            f"{exported.path}: {exported.megabytes:.1f} MB, "
            f"{exported.ms:.1f} ms an image (PyTorch {exported.torch_ms:.1f} ms), "
            f"differs by at most {exported.difference:.1e}"
        )
    if args.kaggle:
        weights = export.file_of(predictor)
        title = args.title or f"seglib {weights.parent.name}"
        report = args.report or export.report_of(weights)
        data_set = export.kaggle_folder(weights, folder / "kaggle", args.kaggle, title, report)
        none = "none, as no report of evaluate on these weights was found; --report DIR names one"
        print(f"scores on the model card: {report or none}")
        print(f"{data_set}: next  kaggle datasets create -p {data_set}")


def compare(args: argparse.Namespace) -> None:
    """Compare two saved reports, image by image: is the second better, and how sure is that?"""
    from .report import compare

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


# ---- cross-validation


def _cross_validate(args: argparse.Namespace, cfg: config.Config) -> None:
    """Train all folds; write their table and the out-of-fold report into the folder of the runs."""
    from . import layouts, runs, training

    seeds = _seeds(args.seeds)
    layouts.complete(cfg)
    folder = args.checkpoint_dir or runs.folds_folder(_run_folder(cfg))
    # Without parts of its own, as the folds replace them.
    store, of_data = _store(cfg.replace(test_split=0.0, val_split=0.0))
    if of_data.channels != cfg.channels:
        cfg = cfg.replace(channel_names=of_data.channels)
    _check_effects(args, cfg, store.cases)
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
    from . import runs

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
    from . import folds, inference

    settings = {name: value for name, value in _settings(args).items() if name in USE}
    cfg = folds.config_of(folder).replace(**settings)
    store, _ = _store(cfg.replace(test_split=0.0, val_split=0.0))
    crossed = folds.load(folder, store, **settings)
    options = {name: getattr(args, name) for name in inference.OPTIONS}
    report = crossed.evaluate(grid="original", **options)
    _print_folds(crossed, report, args.output_dir)
    _check_effects(args, crossed.config, store.cases, crossed.predictor)


# ---- parts of the commands


def _config(args: argparse.Namespace) -> config.Config:
    """The config file or the preset (binary by default), with the settings of the arguments."""
    settings = _settings(args)
    if args.config:
        return config.load(args.config, **settings)
    name = settings.pop("preset", config.FIELDS["preset"].default)
    size = settings.pop("size", None)
    return config.preset(name, size, **settings)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Config` among the arguments, checked."""
    texts = {name: text for name, text in vars(args).items() if name in config.FIELDS}
    for name in ("image_size", "patch_size"):
        if name in texts:
            texts[name] = re.sub(r"(?<=\d)x(?=\d)", ",", texts[name])  # 256x320
    return {name: config.parse(name, text) for name, text in texts.items()}


def _store(cfg: config.Config, wants_test_part: bool = False) -> tuple[Any, config.Config]:
    """Scan and prepare the data of a config; prints the report of its checks.

    Args:
        wants_test_part: set patients aside for a test, as many as suit the data.

    Returns:
        The store, and the config, which then has the `test_split` that was chosen.
    """
    from . import layouts, prepare

    cases = layouts.scan(cfg)
    cfg = _with_channels(cfg, cases)
    store, note = prepare.build(cases, cfg), ""
    if wants_test_part:
        test_split, note = prepare.test_split_for(store, cfg)
        cfg = cfg.replace(test_split=test_split)
        store = store.split(cfg)
    print(store.report)
    for row in store.report.problems.itertuples():
        print(f"{row.problem}: {row.action}")
    parts = ", ".join(f"{n} {part}" for part, n in store.cases["split"].value_counts().items())
    print(f"store: {store.folder} ({parts})")
    if note:
        print(note)
    return store, cfg


def _with_channels(cfg: config.Config, cases: Any) -> config.Config:
    """The config with the channels of the data, where the user has not said which ones to take."""
    from .formats import channels

    cells = list(filter(None, cases["channels"])) if "channels" in cases else []
    if not cells or cfg.channels or "in_channels" in cfg.chosen:
        return cfg
    names = channels.names_of(cells[0])
    print(f"channels: {', '.join(names)}, as the data has them (--channel_names takes others)")
    return cfg.replace(channel_names=names)


def _wants_test_part(cfg: config.Config, args: argparse.Namespace) -> bool:
    """Whether nobody has decided how many patients are tested: the user, a file, or the preset."""
    decided = set(args.given) | (config.names_in(args.config) if args.config else set())
    return cfg.test_split == 0 and "test_split" not in decided


def _check_effects(
    args: argparse.Namespace, cfg: config.Config, cases: Any, predictor: Any = None
) -> None:
    """Print a line for each option that has no effect on these cases."""
    is_slice = [bool(name) for name in cases["volume"]] if "volume" in cases else [False]
    now = effects.Situation(cfg, not all(is_slice), any(is_slice))
    _print_without_effect(args, now, predictor)


def _print_without_effect(args: argparse.Namespace, now: effects.Situation, predictor: Any) -> None:
    """Print a line for each option that has no effect in this situation."""
    from . import inference

    lines = effects.without_effect(args.function.__name__, args.given, now)
    if predictor and predictor.tta and not predictor.flips:
        lines.append(inference.NO_FLIPS)
    for line in lines:
        print(f"NOTE: {line}")


def _warn_of_a_long_training(cfg: config.Config) -> None:
    """Say before a training in the full size on a CPU that it is not meant for one."""
    from . import hosts

    if cfg.size == "full" and hosts.choose_device(cfg.device) == "cpu":
        print(
            "NOTE: size full is meant for a GPU; on a CPU it takes hours, even for few images. "
            "--size small trains on a laptop in minutes"
        )


def _warn_of_training_images(report: Any, predictor: Any) -> None:
    """Say how many of the scored images the network was trained on, and what to do about it."""
    from . import runs
    from .summary import seen_in_training

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


def _convert(args: argparse.Namespace) -> None:
    """Bring pictures and masks of another layout into images/ + masks/."""
    from .layouts import convert

    if not args.source_images or not args.output:
        raise ConfigError(
            "give --source_images and --output (and --source_masks or --annotations, where they "
            "lie elsewhere)"
        )
    if args.tiff_pages:
        return _split_stacks(args)
    settings = _settings(args)
    source = _annotations_of(args)
    if source:
        return _draw_annotations(args, source, settings)
    for name in ("nested", "class_attribute"):
        if name in args.given:
            raise ConfigError(f"{name}: acts on annotations; give --annotations as well")
    conversion = convert.to_images_and_masks(
        args.source_images,
        args.source_masks,
        args.output,
        image_suffix=args.image_suffix or "",
        mask_suffix=args.mask_suffix,
        encoding=settings.get("mask_encoding", "auto"),
        inverted=settings.get("mask_inverted") is True,
        class_names=settings.get("class_names", ()),
        label_map=settings.get("label_map"),
    )
    print(conversion.text())
    problems = conversion.problems
    if problems:
        title = f"{len(problems)} images were left out, such as:"
        raise DataError("\n".join([title, *problems[:5]]))
    options = _options_after(conversion, settings)
    output = shlex.quote(str(args.output))
    print(" ".join(["next: python -m seglib train", *options, "--data_dir", output]))


def _split_stacks(args: argparse.Namespace) -> None:
    """Write multi-page TIFF files as volumes, or as a picture for each page."""
    from .layouts import stacks

    others = ("annotations", "image_suffix", "mask_suffix", "mask_encoding", "mask_inverted")
    for name in (*others, "label_map", "class_names", "nested", "class_attribute"):
        if name in args.given:
            raise ConfigError(
                f"{name}: has no effect with --tiff_pages, which keeps all numbers as they are; "
                "give it to train"
            )
    written = stacks.split(args.source_images, args.source_masks, args.output, args.tiff_pages)
    for note in written.notes:
        print(f"NOTE: {note}")
    print(f"{written.n_stacks} TIFF files read, {written.n_written} files written: {args.output}")


def _annotations_of(args: argparse.Namespace) -> Any:
    """The annotations to draw: those of --annotations, or those beside the images; else None.

    Raises:
        ConfigError: there are masks as well as annotations, and none of both is named.
    """
    from . import annotations
    from .layouts import convert

    if args.annotations or {"source_masks", *effects.OF_MASKS} & set(args.given):
        return args.annotations
    source = annotations.find(args.source_images)
    if source and convert.has_masks(args.source_images):
        raise ConfigError(
            f"{args.source_images}: there are masks as well as annotation files; say which are "
            f"meant: --source_masks {shlex.quote(args.source_images)} or --annotations "
            f"{shlex.quote(str(source))}"
        )
    return source


def _draw_annotations(args: argparse.Namespace, source: Any, settings: dict[str, Any]) -> None:
    """Write images and masks of annotation files."""
    from .layouts import annotated

    print(f"annotations: {source}")
    prepared = annotated.to_images_and_masks(
        args.source_images,
        source,
        args.output,
        class_names=settings.get("class_names", ()),
        task=settings.get("task"),
        nested=args.nested,
        class_attribute=args.class_attribute,
    )
    print(prepared.text())
    if prepared.problems:
        title = f"{len(prepared.problems)} images were left out, such as:"
        raise DataError("\n".join([title, *prepared.problems[:5]]))
    options = f" --label_map {shlex.quote(json.dumps(prepared.label_map))}"
    more = options if prepared.label_map else ""
    print(f"next: python -m seglib train --data_dir {shlex.quote(str(args.output))}{more}")


def _options_after(conversion, settings: dict[str, Any]) -> list[str]:
    """The options by which `train` reads the folders that `prepare` has written.

    Args:
        conversion: the `layouts.convert.Conversion`.
        settings: those of the command line.
    """
    preset = settings.get("preset")
    names = conversion.class_names or settings.get("class_names", ())
    if conversion.class_names and (
        preset is None or presets.PRESETS[preset].full["task"] != "multiclass"
    ):
        preset = "cardiac"
    options = ["--preset", preset] if preset else []
    if names:
        options += ["--class_names", shlex.quote(",".join(names))]
    label_map = {}
    if conversion.has_ignored:
        label_map = {str(k): k for k in (*range(1, len(names)), 255)}
    # A preset's own table would take the class numbers for those of another source.
    if label_map or (conversion.class_names and "label_map" in presets.PRESETS[preset].full):
        options += ["--label_map", shlex.quote(json.dumps(label_map))]
    return options


def _run_folder(cfg: config.Config) -> Path:
    """The preset's own run folder, such as `checkpoints` for binary; else `work_dir/<preset>`."""
    from . import hosts, runs

    folder = presets.PRESETS[cfg.preset].run_folder
    if folder and cfg.work_dir == config.FIELDS["work_dir"].default:
        return Path(hosts.run_root(cfg.replace(work_dir=folder)))
    return runs.folder_of(cfg)


def _find_weights(name: str, roots: Any = None) -> Path:
    """The newest weights of that name or pattern, below `roots` or where runs usually lie."""
    from . import hosts, zoo

    weights = hosts.find_model(name, roots)
    if weights is None:
        missing = hosts.explain_missing_model(name, roots)
        networks = zoo.advice()
        choice = f", or take a network of the zoo: {networks}" if networks else ""
        raise DataError(f"{missing}; train first, or give --model_path{choice}")
    return weights


def _predictor(args: argparse.Namespace):
    """The `Predictor` of the arguments, and the paths of its weights as text.

    The weights are those of --model_path, of the run that --config or --preset means, or the newest
    best ones. Settings of use and place are taken from the arguments, then from --config; without
    it, those of use are as trained, and those of place have this machine's defaults.
    """
    from . import inference, runs

    settings = _settings(args)
    places = {name: settings[name] for name in ("work_dir", "local") if name in settings}
    if args.config:
        base = config.load(args.config, **places)
    else:
        base = config.preset(settings.get("preset", "binary"), **places)

    if args.model_path:
        weights: Any = args.model_path
    elif args.config or "preset" in settings:
        folders = dict.fromkeys([_run_folder(base), runs.folder_of(base)])
        folders |= dict.fromkeys(map(runs.folds_folder, folders))
        # Notebooks run in the folder notebooks/, so that their runs lie below it.
        roots = [*folders, *(Path("notebooks") / folder for folder in folders)]
        weights = _find_weights(base.checkpoint_name, roots)
    else:
        weights = _find_weights("best*.pth", places.get("work_dir"))
    if not args.model_path:
        weights = runs.cross_validation_of(weights) or weights  # the mean of all its networks

    changes = {name: getattr(base, name) for name in (USE if args.config else PLACE)}
    changes |= {name: value for name, value in settings.items() if name in USE}
    predictor = inference.Predictor.load(weights, changes["device"], changes["precision"])
    predictor.config = predictor.config.replace(**changes)
    names = ", ".join(map(str, predictor.files))
    if "preset" in settings and predictor.config.preset != base.preset:
        raise ConfigError(
            f"preset: {base.preset!r}, but {names} were trained as "
            f"{predictor.config.preset!r}; leave --preset out, weights know theirs"
        )
    with warnings.catch_warnings():
        # Printed at the end, where it is seen; see `_print_without_effect`.
        warnings.filterwarnings("ignore", "tta has no effect")
        for option in inference.OPTIONS:
            setattr(predictor, option, getattr(args, option))
    machine = f"on {predictor.device} in {predictor.precision}"
    print(f"weights: {names}, {predictor.config.preset}, {machine}")
    return predictor, names


def _predict_folder(predictor, args: argparse.Namespace) -> list[str]:
    """Write masks of all files of a folder; returns why files failed or were left out."""
    writer = _annotation_writer(predictor, args, args.image_dir)
    results = predictor.predict_folder(
        args.image_dir,
        args.output_dir,
        overlay=args.save_overlay,
        panels=True,
        probability=args.show_probability,
        tiled=args.tiled,
        table=args.table,
        writer=writer,
        **_measuring(args),
    )
    failed, left_out = results["failed"], results["left_out"]
    n_done = len(results["done"])
    print(f"{n_done} of {n_done + len(failed) + len(left_out)} images predicted")
    _print_results(results["millilitres"], results["notes"])
    if results["no_image"]:
        names = ", ".join(results["no_image"][:5])
        print(f"{len(results['no_image'])} others are no images, such as {names}")
    if args.table:
        _print_table(results["measures"], n_done, args)
    if writer:
        print(f"annotations: {writer.save()}")
    n_volumes = len(results["millilitres"])
    now = effects.Situation(predictor.config, n_volumes < n_done, n_volumes > 0)
    _print_without_effect(args, now, predictor)
    return [*failed.values(), *(f"{name}: {reason}" for name, reason in left_out.items())]


def _predict_volume(predictor, path: Path, args: argparse.Namespace) -> None:
    """The mask of one volume; prints its millilitres, and what is odd about it."""
    volume = predictor.predict_volume(path, args.output_dir, dicom=args.dicom_seg)
    _print_results({path.name: volume.millilitres}, {path.name: volume.notes})
    _write_table(predictor, path, volume, args)


def _predict_image(predictor, file: Path, args: argparse.Namespace) -> None:
    """Mask, overlay and panels of one image, and its scores where there is a truth."""
    from .formats import images

    writer = _annotation_writer(predictor, args, file.parent)
    image = predictor.read(file)
    prediction = predictor.predict_tiled(image) if args.tiled else predictor.predict(image)
    truth = None
    if args.mask_path:
        truth = _read_truth(args.mask_path, file, predictor.config, prediction.mask.shape)
        _print_scores(prediction.mask, truth, predictor.config)
    predictor.write(
        prediction,
        image,
        args.output_dir,
        file.stem,
        overlay=args.save_overlay,
        panels=True,
        probability=args.show_probability,
        truth=truth,
    )
    _print_results({}, {file.name: images.notes_of(file)})
    _write_table(predictor, file, prediction, args)
    if writer:
        predictor.outline(writer, file, prediction)
        print(f"annotations: {writer.save()}")


def _annotation_writer(predictor, args: argparse.Namespace, root: str | Path):
    """The writer of --annotations for pictures of a folder; None without the option."""
    from .annotations import writers

    if not args.annotations:
        return None
    classes = list(predictor.structures.values())
    folder, tolerance = args.output_dir, args.outline_tolerance
    return writers.writer(args.annotations, folder, classes, tolerance, root)


def _measuring(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `Predictor.measure` among the arguments, checked."""
    from . import regions

    pixel_mm: Any = args.pixel_mm
    with contextlib.suppress(TypeError, ValueError):  # not given, or no numbers: named below
        sides = [float(side) for side in re.split("[,x]", args.pixel_mm)]
        pixel_mm = sides[0] if len(sides) == 1 else sides
    return regions.options(args.objects, args.neck, pixel_mm)._asdict()


def _write_table(predictor, path: Path, prediction: Any, args: argparse.Namespace) -> None:
    """Write the measures of one image, where a table is asked for."""
    from . import regions

    if args.table:
        measures = predictor.measure(path, prediction, **_measuring(args))
        regions.save(measures, args.table)
        _print_table(measures, 1, args)


def _print_table(measures: Any, n_images: int, args: argparse.Namespace) -> None:
    """Say what a table of measures holds."""
    rows = f"{len(measures)} rows, one for each image and class"
    if args.objects:
        rows = f"{len(measures)} objects in {measures['case'].nunique()} of {n_images} images"
    print(f"{args.table}: {rows}")


def _read_truth(path: str, image: Path, cfg: config.Config, shape: tuple[int, ...]):
    """The truth of one image, (H, W) uint8 as `plots.overlay` takes it."""
    from . import case_io

    if cfg.task == "multilabel":
        raise ConfigError("mask_path: one file cannot hold classes that overlap; use evaluate")
    column = "labels" if cfg.task == "multiclass" else cfg.class_names[0]
    case = {"case": image.stem, "image": str(image), column: path}
    inverted = {column: cfg.mask_inverted is True}
    truth, _, _, inverted_flags = case_io.read_truth(case, cfg, inverted, shape)
    looks_inverted, _ = inverted_flags[0]
    if cfg.mask_inverted == "auto" and looks_inverted:
        raise DataError(
            f"{path}: its border is foreground, as where 0 is the structure; "
            "set --mask_inverted yes or no"
        )
    if truth.shape[:2] != shape:
        raise DataError(
            f"{path}: mask is {truth.shape[:2]} but its image is {shape} (height, width)"
        )
    return truth[..., 0]


def _print_scores(mask, truth, cfg: config.Config) -> None:
    """Dice and IoU of each structure of a mask, (H, W) of class numbers as `truth`."""
    from . import metrics, tables

    structures = cfg.class_names[1:] if cfg.task == "multiclass" else cfg.class_names
    annotated = truth != tables.IGNORE
    for number, name in enumerate(structures, start=1):
        scores = metrics.ratios(**metrics.counts(mask == number, truth == number, annotated))
        print(f"{name}: Dice {scores['dice']:.4f}, IoU {scores['iou']:.4f}")


def _print_results(
    millilitres: dict[str, dict[str, float]], notes: dict[str, tuple[str, ...]]
) -> None:
    """Print the volumes of structures, and the notes below the name of each file.

    A note that more than three files have is printed once, with their number.
    """
    files_of: dict[str, list[str]] = {}
    for name, texts in notes.items():
        for text in dict.fromkeys(texts):
            files_of.setdefault(text, []).append(name)
    for name in dict.fromkeys([*millilitres, *notes]):
        own = [text for text, names in files_of.items() if name in names and len(names) <= 3]
        if name in millilitres:
            print(f"{name}: {_sizes(millilitres[name])}")
        elif own:
            print(f"{name}:")
        for text in own:
            print(f"  {text}")
    for text, names in files_of.items():
        if len(names) > 3:
            print(f"{len(names)} files, such as {names[0]}: {text}")


def _sizes(millilitres: dict[str, float]) -> str:
    """The volumes of the structures of a file, which are NaN where the voxel size is unknown."""
    sizes = [f"{name} {ml:.1f} mL" for name, ml in millilitres.items() if not math.isnan(ml)]
    return ", ".join(sizes) or "no mL, as the size of its voxels is unknown"


# ---- arguments


class Command(NamedTuple):
    """One command; its name and its help are those of `function`.

    `options`: the names of an option, separated by spaces, -> arguments of `add_argument`.
    `fields`: the settings of `Config` that are options as well.
    """

    function: Callable[[argparse.Namespace], None]
    options: dict[str, dict[str, Any]]
    fields: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _value(metavar: str, text: str, default: Any = None) -> dict[str, Any]:
    """An option with a value, of the type of its default; the help text ends with the default."""
    if default is None:
        return {"metavar": metavar, "help": text}
    text += f" (default {default})"
    return {"metavar": metavar, "help": text, "default": default, "type": type(default)}


def _choice(metavar: str, choices: Iterable[str], text: str, default: Any = None) -> dict[str, Any]:
    """An option with one of several values."""
    return {**_value(metavar, text, default), "choices": list(choices)}


def _flag(text: str) -> dict[str, Any]:
    """An option without a value."""
    return {"action": "store_true", "help": text}


WEIGHTS = {
    "--model_path --model": {
        "metavar": "FILE|NAME",
        "nargs": "+",
        "help": "weights, or a network of the zoo such as lung (default the newest best ones); "
        "several, or the folder of train --folds: the mean of these networks",
    }
}
TIFF_PAGES = {
    "metavar": "MEANING",
    "choices": ("volume", "pictures"),
    "help": "the pages of a multi-page TIFF are slices of a volume, or pictures of their own "
    "(default: such files are refused)",
}
PREDICTION = {  # the options of a predictor, `inference.OPTIONS`
    "--tta": {
        "metavar": "FLIPS",
        "nargs": "?",
        "const": True,
        "default": False,
        "help": "mean over flipped views: alone, the flips that the network was trained with; "
        "or hflip, vflip or hflip,vflip, where a mirrored image of your data is as plausible",
    },
    "--tta_rotation": _value("DEGREES", "mean with two views turned by so much", 0.0),
    "--min_component_size": _value("N", "remove connected components of fewer pixels or voxels", 0),
    "--keep_largest_component": _flag("keep the largest connected component of each class"),
    "--fill_holes": _flag("fill what a class encloses"),
}
OUTLINE_TOLERANCE = _value(
    "PIXELS", "by which outlines may move for fewer corners; up to 0.1 no pixel changes", 0.1
)
COMMANDS = (
    Command(
        phantoms,
        options={
            "name": _value("NAME", f"a preset: {', '.join(presets.PRESETS)}"),
            "--output": _value("DIR", "receives the tree (default data/phantoms/NAME)"),
            "--n": _value("N", "number of images", 24),
            "--seed": _value("N", "seed of the images", 0),
            "--hospital": _value("NAME", "first, or second: other patients and devices", "first"),
        },
    ),
    Command(
        prepare,
        options={
            "--source_images": _value("DIR", "images, or folders NAME/images + NAME/masks"),
            "--source_masks": _value("DIR", "masks (default in the folder of the images)"),
            "--annotations": _value(
                "PATH",
                "annotation file, or a folder of them: LabelMe, COCO, CVAT, VIA, YOLO, Roboflow, "
                "GeoJSON, ImageJ (default those beside the images)",
            ),
            "--tiff_pages": TIFF_PAGES,
            "--nested": {
                "metavar": "MEANING",
                "choices": ("holes", "filled"),
                "help": "with --annotations of COCO: a polygon inside another one of its "
                "annotation is one of its holes, or filled (default what their area says)",
            },
            "--class_attribute": _value(
                "NAME", "with --annotations of VIA: the attribute that holds the class"
            ),
            "--output": _value("DIR", "receives images/ and masks/"),
            "--image_suffix": _value("TEXT", "ending of image names, such as _image or .jpg"),
            "--mask_suffix": _value("TEXT", "ending of mask names, as _mask (default detected)"),
            "--export": _value("DIR", "without --source_images: receives the data, see --form"),
            "--export_nnunet": _value(
                "DIR", "nnUNet_raw: receives the data and its split as a data set of nnU-Net"
            ),
            "--folds": {
                "metavar": "N",
                "type": int,
                "help": "of --export_nnunet: the split of train --folds N, not train and val alone",
            },
            "--form": _choice(
                "FORM",
                ("png", *tables.ANNOTATION_FORMS),
                "of --export: png, resized images and masks; or the masks at their own size for "
                "labelling tools: labelme, coco (outlines), coco_rle, coco_uncompressed_rle",
                "png",
            ),
            "--outline_tolerance": OUTLINE_TOLERANCE,
        },
        fields=tuple(config.FIELDS),
    ),
    Command(
        stores,
        options={
            "--prune": _flag(
                "remove those of older versions, broken or unfinished ones, and "
                "those whose images are gone"
            ),
        },
        fields=("work_dir", "local"),
    ),
    Command(
        train,
        options={
            "--checkpoint_dir": _value(
                "DIR", "run folder (default checkpoints for binary, else work_dir/PRESET)"
            ),
            "--resume": _flag("go on after the last finished epoch"),
            "--folds": {
                "metavar": "N",
                "type": int,
                "help": "cross-validation: N trainings, each scored on the patients that it never "
                "saw (default run folder checkpoints_folds for binary, else work_dir/PRESET_folds)",
            },
            "--seeds": _value("N,N", "with --folds: train every fold with each seed", "0"),
        },
        fields=tuple(config.FIELDS),
    ),
    Command(
        evaluate,
        options={
            **WEIGHTS,
            "--output_dir": _value("DIR", "receives the report", "evaluation_results"),
            **PREDICTION,
        },
        fields=("preset", *USE),
    ),
    Command(
        predict,
        aliases=("inference", "synthesize"),
        options={
            **WEIGHTS,
            "--image_path --input_image": _value(
                "FILE",
                "one image, a volume (NIfTI, NRRD, MetaImage), or the folder of a DICOM series",
            ),
            "--image_dir": _value("DIR", "a folder of images or volumes"),
            "--tiff_pages": TIFF_PAGES,
            "--mask_path": _value("FILE", "the truth of the one picture: prints Dice and IoU"),
            "--output_dir": _value("DIR", "receives the masks", "predictions"),
            "--save_overlay": _flag("of pictures also NAME_overlay.png"),
            "--dicom_seg": _flag("of a DICOM series also NAME_mask.dcm, a Segmentation"),
            "--tiled": _flag("pictures at their own resolution, in tiles of the trained size"),
            "--show_probability": _flag("the probabilities in NAME_visualization.png of pictures"),
            "--annotations": _choice(
                "FORM",
                tables.ANNOTATION_FORMS,
                "of pictures also outlines that LabelMe (labelme, a file a picture) or COCO tools "
                "(coco, one file; coco_rle and coco_uncompressed_rle: masks) open for correction",
            ),
            "--outline_tolerance": OUTLINE_TOLERANCE,
            "--table": _value(
                "FILE.csv", "measures of each image and class: area, volume, place, mean intensity"
            ),
            "--objects": _flag(
                "in the table one row an object (nuclei, lesions): those that touch are split at "
                "the neck between them, by a watershed of the distance from the outside"
            ),
            "--neck": _value(
                "SHARE",
                "with --objects: split where the neck is narrower than this share of the narrower "
                "object; 0 splits only what does not touch",
                0.8,
            ),
            "--pixel_mm": _value(
                "MM", "of pictures in the table: height,width of a pixel, or one number for both"
            ),
            **PREDICTION,
        },
        fields=effects.PREDICT,
    ),
    Command(
        zoo,
        options={
            "name": {"metavar": "NAME", "nargs": "?", "help": "a network: prints its model card"},
        },
    ),
    Command(
        export,
        options={
            **WEIGHTS,
            "--output_dir": _value("DIR", "receives the files", "exported"),
            "--kaggle": _value("NAME", "your Kaggle user name: also DIR/kaggle, to be published"),
            "--title": _value("TEXT", "of the Kaggle data set, 6 to 50 letters"),
            "--report": _value(
                "DIR",
                "output folder of evaluate, for the scores on the model card (default: evaluation "
                "or evaluation_results, beside the weights or here, if of these weights)",
            ),
        },
    ),
    Command(
        compare,
        options={
            "first": _value("FIRST", "output folder of evaluate, or its evaluation_report.json"),
            "second": _value("SECOND", "another one, of the same images"),
            "--metric": _value("NAME", "dice, iou, hd95, ...", "dice"),
        },
    ),
)
SECTIONS = {  # the first field of a group of the help -> its title
    "preset": "system",
    "data_root": "data",
    "architecture": "network",
    "loss": "loss and optimisation",
    "num_workers": "machine",
    "threshold": "scoring",
}
FIELD_ALIASES = {"data_root": ("--data_dir",)}
WITHOUT_VALUE = {"scheduler": "plateau", "save_every": "10"}  # `--scheduler` alone means plateau


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ours: one message, without the long usage."""

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of one command line; `function` is the function of its command.

    Raises:
        ConfigError: an argument that the command does not have; names the nearest one.
    """
    cfg = _named_config(argv) if {"-h", "--help"} & set(argv) else config.Config()
    parser = Parser(
        prog="python -m seglib", description="Medical image segmentation, from raw images to masks."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        _add_command(subparsers, command, cfg)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        subparser = subparsers.choices[args.command]
        options = re.findall(r"--\w+", subparser.format_help())
        near = fields.nearest(name, options) if name.startswith("-") else ""
        if name.removeprefix("--") in _field_options():
            near = ": a setting that has no effect there"
        raise ConfigError(f"{args.command} takes no {name!r}{near}; see {subparser.prog} --help")
    args.given = _given(args)
    return args


def _given(args: argparse.Namespace) -> list[str]:
    """The options, as names without dashes, that the user gave with another value than the default.

    Options of settings are absent from `args` unless the user gave them.
    """
    command = next(command for command in COMMANDS if command.function is args.function)
    names = [name for name in config.FIELDS if hasattr(args, name)]
    for option, arguments in command.options.items():
        name = option.split()[0].lstrip("-")
        flag_default = False if arguments.get("action") else None
        if getattr(args, name) != arguments.get("default", flag_default):
            names.append(name)
    return names


def _field_options() -> set[str]:
    """The names of all settings, as options without their dashes."""
    aliases = (name.lstrip("-") for names in FIELD_ALIASES.values() for name in names)
    return {*config.FIELDS, *aliases}


def _with_underscores(argument: str) -> str:
    """`--batch-size=4` as `--batch_size=4`; a value stays as it is."""
    return re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), argument)


def _named_config(argv: list[str]) -> config.Config:
    """The config that --preset, --size and --config mean, wherever they stand in the line."""
    parser = Parser(prog="python -m seglib", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for name in ("preset", "size"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    return _config(parser.parse_known_args(argv)[0])


def _add_command(subparsers, command: Command, cfg: config.Config) -> None:
    """The parser of one command; the help of its settings shows the values of `cfg`."""
    about = (command.function.__doc__ or "").rstrip(".")
    description = about
    if len(command.fields) == len(config.FIELDS):
        description += f". The defaults below: --preset {cfg.preset} --size {cfg.size}"
    parser = subparsers.add_parser(
        command.function.__name__,
        aliases=command.aliases,
        help=about,
        description=description,
        allow_abbrev=False,
    )
    parser.set_defaults(function=command.function)
    positionals = [name.upper() for name in command.options if not name.startswith("-")]
    parser.usage = " ".join([parser.prog, *positionals, "[options]"])
    for names, arguments in command.options.items():
        parser.add_argument(*names.split(), **arguments)
    if command.fields:
        _add_fields(parser, command.fields, cfg)


def _add_fields(parser: Parser, names: tuple[str, ...], cfg: config.Config) -> None:
    """--config, and an option for each of these fields of `Config`, in the sections of the help."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings from .cfg, .toml or .json; options given here win",
    )
    values = cfg.to_dict()
    group: Any = parser
    for name in config.FIELDS:
        if name in SECTIONS:
            group = parser.add_argument_group(SECTIONS[name])
        if name in names:
            # Commands that take only some of the fields use a network that is trained already.
            as_trained = len(names) < len(config.FIELDS) and name not in PLACE
            _add_field(group, name, "as trained" if as_trained else _as_text(values[name]))


def _add_field(group: Any, name: str, default: str) -> None:
    """The option of one field of `Config`; its text is parsed and checked later, by `_settings`."""
    kind = config.describe(name)
    alone = WITHOUT_VALUE.get(name)  # the value of the option given without one
    if "bool" in kind:
        kind, alone = kind.replace("bool", "yes | no"), "yes"
    optional_value: dict[str, Any] = {}
    if alone:
        kind += f", alone: {alone}"
        optional_value = {"nargs": "?", "const": alone}
    text = f"{config.FIELDS[name].metadata['help']} ({kind}; default {default})"
    group.add_argument(
        f"--{name}",
        *FIELD_ALIASES.get(name, ()),
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
        **optional_value,
    )


def _options_named_in(message: str) -> str:
    """The settings that an error advises, such as task='multiclass', as a shell takes them."""
    ways = {}
    for part in message.split(";"):  # each part advises another way
        options = {}
        for name, text in re.findall(r"\b(\w+)=(\{[^}]*\}|\([^)]*\)|'[^']*'|[-\d.]+\d|None)", part):
            if name in config.FIELDS:
                with contextlib.suppress(ValueError, SyntaxError):
                    value = _as_text(ast.literal_eval(text))
                    options[f"--{name} {shlex.quote(value)}"] = None
        ways[", ".join(options)] = None
    return ", or ".join(filter(None, ways))


def _as_text(value: Any) -> str:
    """A value as a command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
