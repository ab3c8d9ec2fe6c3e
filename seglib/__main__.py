"""The command line: `python -m seglib --help`. Its commands make the calls that a notebook makes.

The table `COMMANDS` lists every command with its options. Nothing heavy is imported before a
command runs, so that help and errors in the arguments come at once.
"""

import argparse
import contextlib
import io
import json
import math
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import config, fields, presets
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
        args.function(args)
        return 0
    except (SeglibError, OSError) as error:
        print(f"seglib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seglib: stopped", file=sys.stderr)
        return 130


def phantoms(args: argparse.Namespace) -> None:
    """Write a synthetic data set in the tree of a real one."""
    from . import phantoms

    output = args.output or Path("data", "phantoms", args.name)
    folder = phantoms.write(args.name, output, args.n, args.seed)
    print(f"{folder}: {args.n} synthetic images")
    print(f"next: python -m seglib train --preset {args.name} --data_dir {folder}")


def prepare(args: argparse.Namespace) -> None:
    """Bring another layout into images/ + masks/, or check and resize a preset's data."""
    if args.source_images or args.source_masks:
        return _convert(args)
    store = _store(_config(args))
    if args.export:
        print(f"exported to {store.export_png(args.export)}")


def stores(args: argparse.Namespace) -> None:
    """List the stores of prepared pixels; --prune removes those that are of no use any more."""
    from . import hosts, stores

    print(stores.report(hosts.run_root(_config(args)), args.prune))


def train(args: argparse.Namespace) -> None:
    """Train a network and keep its best weights."""
    from . import data, hosts, training

    cfg = _config(args)
    state = training.processes(hosts.choose_device(cfg.device))
    output = sys.stdout if state.is_main_process else io.StringIO()
    with state.main_process_first(), contextlib.redirect_stdout(output):
        store = _store(cfg)
    batches = data.loaders(store, cfg)
    folder = Path(args.checkpoint_dir or _run_folder(cfg))
    run = training.fit(cfg, batches, resume=args.resume, folder=folder)
    best = run.history[run.history["best"].astype(bool)].iloc[-1]
    score = "no validation images"
    if len(batches["val"].dataset):
        score = f"{cfg.monitor} {best[cfg.monitor]:.4f}"
    epoch = f"epoch {best['epoch']:.0f} of {len(run.history)}"
    state.print(f"best weights: {run.best} ({epoch}, {score})")


def evaluate(args: argparse.Namespace) -> None:
    """Score weights on all cases of --data_dir, or on the test part of their own data."""
    from . import data, evaluation

    predictor, weights = _predictor(args)
    cfg, part = predictor.config, None
    if hasattr(args, "data_root"):  # options of settings are absent unless the user gave them
        cfg = cfg.replace(test_split=1.0, val_split=0.0, keep_split=False)
        part = "all cases given"
    batches = data.loaders(_store(cfg), cfg)
    loader = batches["test"] if len(batches["test"].dataset) else batches["val"]
    report = evaluation.evaluate(predictor, loader, grid="original", part=part)
    report.about["weights"] = str(weights)
    print(report.text())
    print(f"report: {report.save(args.output_dir)}")


def predict(args: argparse.Namespace) -> None:
    """Write masks of an image or of a folder of images."""
    from .formats import volumes

    if bool(args.image_path) == bool(args.image_dir) or (args.mask_path and args.image_dir):
        raise ConfigError(
            "give --image_path FILE (and --mask_path FILE, where there is a truth), "
            "or --image_dir FOLDER"
        )
    if args.dicom_seg and not (args.image_path and Path(args.image_path).is_dir()):
        raise ConfigError("dicom_seg: give the folder of one DICOM series as --image_path")
    predictor, _ = _predictor(args)
    failures: list[str] = []
    if args.image_dir:
        failures = _predict_folder(predictor, args)
    elif volumes.is_volume(args.image_path):
        volume = predictor.predict_volume(args.image_path, args.output_dir, dicom=args.dicom_seg)
        _print_millilitres(Path(args.image_path).name, volume.millilitres)
    else:
        _predict_image(predictor, Path(args.image_path), args)
    print(f"results in {args.output_dir}")
    if failures:
        raise DataError("\n".join(["not predicted:", *failures]))


def export(args: argparse.Namespace) -> None:
    """Write weights as ONNX and torch.export, each checked against PyTorch; a folder for Kaggle."""
    from . import export

    weights = Path(args.model_path) if args.model_path else _find_weights("best*.pth")
    folder = Path(args.output_dir)
    print(f"weights: {weights}")
    for write, suffix in ((export.to_onnx, ".onnx"), (export.to_program, ".pt2")):
        exported = write(weights, folder / f"{weights.stem}{suffix}")
        print(
            f"{exported.path}: {exported.megabytes:.1f} MB, "
            f"{exported.ms:.1f} ms an image (PyTorch {exported.torch_ms:.1f} ms), "
            f"differs by at most {exported.difference:.1e}"
        )
    if args.kaggle:
        title = args.title or f"seglib {weights.parent.name}"
        data_set = export.kaggle_folder(weights, folder / "kaggle", args.kaggle, title)
        print(f"{data_set}: next  kaggle datasets create -p {data_set}")


def compare(args: argparse.Namespace) -> None:
    """Compare two saved reports, image by image: is the second better, and how sure is that?"""
    from .report import compare

    table = compare(args.first, args.second, args.metric)
    print(table.round(4).to_string(index=False))
    print(
        f"difference: second minus first, mean {args.metric} of the same images, "
        "with its 95 % interval over patients"
    )
    print("better: share of the bootstrap resamples in which the second is better")


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
    if "image_size" in texts:
        texts["image_size"] = re.sub(r"(?<=\d)x(?=\d)", ",", texts["image_size"])  # 256x320
    return {name: config.parse(name, text) for name, text in texts.items()}


def _store(cfg: config.Config):
    """Scan and prepare the data of a config; prints the report of its checks."""
    from . import layouts, prepare

    store = prepare.build(layouts.scan(cfg), cfg)
    print(store.report)
    for row in store.report.problems.itertuples():
        print(f"{row.problem}: {row.action}")
    parts = ", ".join(f"{n} {part}" for part, n in store.cases["split"].value_counts().items())
    print(f"store: {store.folder} ({parts})")
    return store


def _convert(args: argparse.Namespace) -> None:
    """Bring pictures and masks of another layout into images/ + masks/."""
    from .layouts import convert

    if not args.source_images or not args.output:
        raise ConfigError(
            "give --source_images and --output (and --source_masks, where they lie elsewhere)"
        )
    settings = _settings(args)
    conversion = convert.to_images_and_masks(
        args.source_images,
        args.source_masks,
        args.output,
        image_suffix=args.image_suffix or "",
        mask_suffix=args.mask_suffix,
        encoding=settings.get("mask_encoding", "auto"),
        inverted=settings.get("mask_inverted") is True,
    )
    print(conversion.text())
    problems = conversion.problems
    if problems:
        title = f"{len(problems)} images were left out, such as:"
        raise DataError("\n".join([title, *problems[:5]]))
    print(f"next: python -m seglib train --data_dir {args.output}")


def _run_folder(cfg: config.Config) -> Path:
    """The preset's own run folder, such as `checkpoints` for binary; else `work_dir/<preset>`."""
    from . import hosts, runs

    folder = presets.PRESETS[cfg.preset].run_folder
    if folder and cfg.work_dir == config.FIELDS["work_dir"].default:
        return Path(hosts.run_root(cfg.replace(work_dir=folder)))
    return runs.folder_of(cfg)


def _find_weights(name: str, roots: Any = None) -> Path:
    """The newest weights of that name or pattern, below `roots` or where runs usually lie."""
    from . import hosts

    weights = hosts.find_model(name, roots)
    if weights is None:
        missing = hosts.explain_missing_model(name, roots)
        raise DataError(f"{missing}; train first, or give --model_path")
    return weights


def _predictor(args: argparse.Namespace):
    """The `Predictor` of the arguments, and the path of its weights.

    The weights are those of --model_path, of the run that --config or --preset means, or the newest
    best ones. Settings of use and place are taken from the arguments, then from --config; without
    it, those of use are as trained, and those of place have this machine's defaults.
    """
    from . import inference

    settings = _settings(args)
    places = {name: settings[name] for name in ("work_dir", "local") if name in settings}
    if args.config:
        base = config.load(args.config, **places)
    else:
        base = config.preset(settings.get("preset", "binary"), **places)

    if args.model_path:
        weights = Path(args.model_path)
    elif args.config or "preset" in settings:
        folder = _run_folder(base)
        # Notebooks run in the folder notebooks/, so that their runs lie below it.
        weights = _find_weights(base.checkpoint_name, [folder, Path("notebooks") / folder])
    else:
        weights = _find_weights("best*.pth", places.get("work_dir"))

    changes = {name: getattr(base, name) for name in (USE if args.config else PLACE)}
    changes |= {name: value for name, value in settings.items() if name in USE}
    predictor = inference.Predictor.load(weights, changes["device"], changes["precision"])
    predictor.config = predictor.config.replace(**changes)
    for option in inference.OPTIONS:
        setattr(predictor, option, getattr(args, option))
    machine = f"on {predictor.device} in {predictor.precision}"
    print(f"weights: {weights}, {predictor.config.preset}, {machine}")
    return predictor, weights


def _predict_folder(predictor, args: argparse.Namespace) -> list[str]:
    """Write masks of all files of a folder; returns the error messages of those that failed."""
    results = predictor.predict_folder(
        args.image_dir,
        args.output_dir,
        overlay=args.save_overlay,
        panels=True,
        probability=args.show_probability,
        tiled=args.tiled,
    )
    n_done, failed = len(results["done"]), results["failed"]
    print(f"{n_done} of {n_done + len(failed)} images predicted")
    for name, millilitres in results["millilitres"].items():
        _print_millilitres(name, millilitres)
    return list(failed.values())


def _predict_image(predictor, file: Path, args: argparse.Namespace) -> None:
    """Mask, overlay and panels of one image, and its scores where there is a truth."""
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


def _print_millilitres(file_name: str, millilitres: dict[str, float]) -> None:
    """The volumes of a file's structures; NaN where the spacing is unknown."""
    sizes = [f"{name} {ml:.1f} mL" for name, ml in millilitres.items() if not math.isnan(ml)]
    print(f"{file_name}: {', '.join(sizes) or 'spacing unknown, so no mL'}")


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


def _flag(text: str) -> dict[str, Any]:
    """An option without a value."""
    return {"action": "store_true", "help": text}


WEIGHTS = {"--model_path": _value("FILE", "weights (default the newest best ones)")}
PREDICTION = {  # the options of a predictor, `inference.OPTIONS`
    "--tta": _flag("mean over the flips that the network was trained with"),
    "--tta_rotation": _value("DEGREES", "mean with two views turned by so much", 0.0),
    "--min_component_size": _value("N", "remove connected components of fewer pixels", 0),
    "--keep_largest_component": _flag("keep the largest connected component of each class"),
    "--fill_holes": _flag("fill what a class encloses"),
}
COMMANDS = (
    Command(
        phantoms,
        options={
            "name": _value("NAME", f"a preset: {', '.join(presets.PRESETS)}"),
            "--output": _value("DIR", "receives the tree (default data/phantoms/NAME)"),
            "--n": _value("N", "number of images", 24),
            "--seed": _value("N", "seed of the images", 0),
        },
    ),
    Command(
        prepare,
        options={
            "--source_images": _value("DIR", "images, or folders NAME/images + NAME/masks"),
            "--source_masks": _value("DIR", "masks (default in the folder of the images)"),
            "--output": _value("DIR", "receives images/ and masks/"),
            "--image_suffix": _value("TEXT", "ending of image names, such as _image or .jpg"),
            "--mask_suffix": _value("TEXT", "ending of mask names, as _mask (default detected)"),
            "--export": _value("DIR", "without --source_images: the resized data as PNG"),
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
                "FILE", "one image, a NIfTI volume, or the folder of a DICOM series"
            ),
            "--image_dir": _value("DIR", "a folder of images or NIfTI volumes"),
            "--mask_path": _value("FILE", "the truth of the one image: prints Dice and IoU"),
            "--output_dir": _value("DIR", "receives the masks", "predictions"),
            "--save_overlay": _flag("also NAME_overlay.png"),
            "--dicom_seg": _flag("of a DICOM series also NAME_mask.dcm, a Segmentation"),
            "--tiled": _flag("pictures at their own resolution, in tiles of the trained size"),
            "--show_probability": _flag("the probabilities in NAME_visualization.png"),
            **PREDICTION,
        },
        fields=("preset", *USE),
    ),
    Command(
        export,
        options={
            **WEIGHTS,
            "--output_dir": _value("DIR", "receives the files", "exported"),
            "--kaggle": _value("NAME", "your Kaggle user name: also DIR/kaggle, to be published"),
            "--title": _value("TEXT", "of the Kaggle data set, 6 to 50 letters"),
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
        raise ConfigError(f"{args.command} takes no {name!r}{near}; see {subparser.prog} --help")
    return args


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


def _as_text(value: Any) -> str:
    """A value as a command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
