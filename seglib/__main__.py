"""The command line: `python -m seglib --help`. Arguments become a `Config` and the calls that the notebooks make.

Nothing heavy is imported before a command runs, so that help and errors in the arguments come at once.
"""

import argparse
import contextlib
import io
import json
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import config, fields, presets
from .errors import ConfigError, DataError, SeglibError

SECTIONS = {  # the first field of a group of the help -> its title
    "preset": "system",
    "data_root": "data",
    "architecture": "network",
    "loss": "loss and optimisation",
    "num_workers": "machine",
    "threshold": "scoring",
}
ALIASES = {"data_root": ["--data_dir"]}
BARE = {
    "scheduler": "plateau",
    "save_every": "10",
}  # what an option without a value means; "yes" for truth values
# What may differ between training and use: where things lie and run, how masks are read, how scores are made.
PLACE = config.fields_that("place")
USE = (*PLACE, *config.fields_that("use"))


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ours: one message, without the long usage."""

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 a mistake or bad data (one message), 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [re.sub(r"^--[\w-]+", lambda m: m[0][:2] + m[0][2:].replace("-", "_"), a) for a in argv]
    try:
        args = _parse(argv)
        args.run(args)
        return 0
    except (SeglibError, OSError) as error:
        print(f"seglib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seglib: stopped", file=sys.stderr)
        return 130


def phantoms(args: argparse.Namespace) -> None:
    """Write a synthetic data set."""
    from . import phantoms

    folder = phantoms.write(
        args.name, args.output or Path("data", "phantoms", args.name), args.n, args.seed
    )
    print(
        f"{folder}: {args.n} synthetic images\nnext: python -m seglib train --preset {args.name} --data_dir {folder}"
    )


def prepare(args: argparse.Namespace) -> None:
    """Bring another layout into images/ + masks/, or check and resize the data of a preset."""
    if args.source_images or args.source_masks:
        return _bring(args)
    store = _store(_config(args))
    if args.export:
        print(f"exported to {store.export_png(args.export)}")


def train(args: argparse.Namespace) -> None:
    """Train a network and keep its best weights."""
    from . import data, hosts, training

    cfg = _config(args)
    state = training.processes(hosts.choose_device(cfg.device))
    with (
        state.main_process_first(),
        contextlib.redirect_stdout(sys.stdout if state.is_main_process else io.StringIO()),
    ):
        store = _store(cfg)
    batches = data.loaders(store, cfg)
    run = training.fit(
        cfg, batches, resume=args.resume, folder=_run_folder(cfg, args.checkpoint_dir)
    )
    best = run.history[run.history["best"].astype(bool)].iloc[-1]
    score = (
        f"{cfg.monitor} {best[cfg.monitor]:.4f}"
        if len(batches["val"].dataset)
        else "no validation images"
    )
    state.print(
        f"best weights: {run.best} (epoch {best['epoch']:.0f} of {len(run.history)}, {score})"
    )


def evaluate(args: argparse.Namespace) -> None:
    """Score weights: on all cases of --data_dir, else on the test part of the data that they were trained on."""
    from . import data, evaluation

    predictor, weights = _predictor(args)
    cfg = predictor.config
    if hasattr(args, "data_root"):
        cfg = cfg.replace(test_split=1.0, val_split=0.0, keep_split=False)
    batches = data.loaders(_store(cfg), cfg)
    loader = batches["test"] if len(batches["test"].dataset) else batches["val"]
    part = "all cases given" if hasattr(args, "data_root") else None
    report = evaluation.evaluate(predictor, loader, grid="original", part=part)
    report.about["weights"] = str(weights)
    print(report.text())
    print(f"report: {report.save(args.output_dir)}")


def export(args: argparse.Namespace) -> None:
    """ONNX, torch.export, and a folder for Kaggle, of weights."""
    from . import export, hosts

    weights = Path(args.model_path) if args.model_path else hosts.find_model("best*.pth")
    if weights is None:
        raise DataError("no weights best*.pth found; train first, or give --model_path")
    folder = Path(args.output_dir)
    print(f"weights: {weights}")
    for write, name in (
        (export.to_onnx, f"{weights.stem}.onnx"),
        (export.to_program, f"{weights.stem}.pt2"),
    ):
        done = write(weights, folder / name)
        print(
            f"{done.path}: {done.megabytes:.1f} MB, {done.ms:.1f} ms an image (PyTorch {done.torch_ms:.1f} ms), "
            f"differs by at most {done.difference:.1e}"
        )
    if args.kaggle:
        made = export.kaggle_folder(
            weights, folder / "kaggle", args.kaggle, args.title or f"seglib {weights.parent.name}"
        )
        print(f"{made}: next  kaggle datasets create -p {made}")


def compare(args: argparse.Namespace) -> None:
    """Is the second report better than the first on the same images, by how much, how sure?"""
    from .report import compare

    table = compare(args.first, args.second, args.metric)
    print(table.round(4).to_string(index=False))
    print(
        f"difference: second minus first, mean {args.metric} of the same images, with its 95 % interval over patients"
    )
    print("better: share of redrawn patients for which the second is better")


def predict(args: argparse.Namespace) -> None:
    """Masks of new images."""
    from .formats import volumes

    if bool(args.image_path) == bool(args.image_dir) or (args.mask_path and args.image_dir):
        raise ConfigError(
            "give --image_path FILE (and --mask_path FILE, where there is a truth), or --image_dir FOLDER"
        )
    if args.dicom_seg and not (args.image_path and Path(args.image_path).is_dir()):
        raise ConfigError("dicom_seg: give the folder of one DICOM series as --image_path")
    predictor, _ = _predictor(args)
    millilitres, failed = {}, {}
    if args.image_dir:
        found = predictor.predict_folder(
            args.image_dir,
            args.output_dir,
            args.save_overlay,
            True,
            args.show_probability,
            args.tiled,
        )
        millilitres, failed = found["millilitres"], found["failed"]
        print(f"{len(found['done'])} of {len(found['done']) + len(failed)} images predicted")
    elif volumes.is_volume(args.image_path):
        millilitres[Path(args.image_path).name] = predictor.predict_volume(
            args.image_path, args.output_dir, dicom=args.dicom_seg
        ).millilitres
    else:
        _predict_one(predictor, Path(args.image_path), args)
    for name, sizes in millilitres.items():
        words = ", ".join(f"{organ} {ml:.1f} mL" for organ, ml in sizes.items() if ml == ml)
        print(f"{name}: {words or 'spacing unknown, so no mL'}")
    print(f"results in {args.output_dir}")
    if failed:
        raise DataError("\n".join(["not predicted:", *failed.values()]))


def _predict_one(predictor, file: Path, args: argparse.Namespace) -> None:
    """Mask, overlay and panels of one image, and its scores where there is a truth."""
    image = predictor.read(file)
    prediction = (predictor.predict_tiled if args.tiled else predictor.predict)(image)
    truth = None
    if args.mask_path:
        truth = _truth(args.mask_path, file, predictor.config, prediction.mask.shape)
        _print_scores(prediction.mask, truth, predictor.config)
    predictor.write(
        prediction,
        image,
        args.output_dir,
        file.stem,
        args.save_overlay,
        True,
        args.show_probability,
        truth,
    )


def _truth(path: str, image: Path, cfg, shape: tuple[int, ...]):
    """The truth of one image, (H, W) uint8 as `plots.overlay` takes it."""
    from . import case_io

    if cfg.task == "multilabel":
        raise ConfigError("mask_path: one file cannot hold classes that overlap; use evaluate")
    column = "labels" if cfg.task == "multiclass" else cfg.class_names[0]
    case = {"case": image.stem, "image": str(image), column: path}
    truth, _, _, inverted_flags = case_io.read_truth(
        case, cfg, {column: cfg.mask_inverted is True}, shape
    )
    if cfg.mask_inverted == "auto" and inverted_flags[0][0]:
        raise DataError(
            f"{path}: its border is foreground, as where 0 is the structure; set --mask_inverted yes or no"
        )
    if truth.shape[:2] != shape:
        raise DataError(
            f"{path}: mask is {truth.shape[:2]} but its image is {shape} (height, width)"
        )
    return truth[..., 0]


def _print_scores(mask, truth, cfg) -> None:
    from . import metrics
    from .formats import images

    known = truth != images.IGNORE
    for number, name in enumerate(cfg.class_names, start=cfg.task != "multiclass"):
        if number:
            scores = metrics.ratios(**metrics.counts(mask == number, truth == number, known))
            print(f"{name}: Dice {scores['dice']:.4f}, IoU {scores['iou']:.4f}")


def _bring(args: argparse.Namespace) -> None:
    from .layouts import convert

    if not args.source_images or not args.output:
        raise ConfigError(
            "give --source_images and --output (and --source_masks, where they lie elsewhere)"
        )
    given = _given(args)
    suffixes = {"image_suffix": args.image_suffix, "mask_suffix": args.mask_suffix}
    reading = {
        "encoding": given.get("mask_encoding", "auto"),
        "inverted": given.get("mask_inverted") is True,
    }
    done = convert.to_images_and_masks(
        args.source_images, args.source_masks, args.output, **suffixes, **reading
    )
    print(done.text())
    if done.problems:
        raise DataError(
            "\n".join([f"{len(done.problems)} images were left out, such as:", *done.problems[:5]])
        )
    print(f"next: python -m seglib train --data_dir {args.output}")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Config` that were given, checked."""
    texts = {name: text for name, text in vars(args).items() if name in config.FIELDS}
    if "image_size" in texts:
        texts["image_size"] = re.sub(r"(?<=\d)x(?=\d)", ",", texts["image_size"])  # 256x320
    return {name: config.parse(name, text) for name, text in texts.items()}


def _config(args: argparse.Namespace) -> config.Config:
    """The config file or the preset (binary by default), with what was given."""
    given = _given(args)
    if args.config:
        return config.load(args.config, **given)
    return config.preset(given.pop("preset", "binary"), given.pop("size", None), **given)


def _run_folder(cfg: config.Config, named: str | None = None) -> Path:
    """`--checkpoint_dir`, else `checkpoints` for binary, else `work_dir/<preset>`."""
    from . import hosts, runs

    if named:
        return Path(named)
    folder = presets.PRESETS[cfg.preset].run_folder
    if folder and cfg.work_dir == config.FIELDS["work_dir"].default:
        return Path(hosts.run_root(cfg.replace(work_dir=folder)))
    return runs.folder_of(cfg)


def _store(cfg: config.Config):
    """Scan and prepare; prints what was found."""
    from . import layouts, prepare

    store = prepare.build(layouts.scan(cfg), cfg)
    print(store.report)
    for row in store.report.problems.itertuples():
        print(f"{row.problem}: {row.action}")
    parts = ", ".join(f"{n} {part}" for part, n in store.cases["split"].value_counts().items())
    print(f"store: {store.folder} ({parts})")
    return store


def _predictor(args: argparse.Namespace):
    """The network of --model_path, or of the newest best weights, with what was given in its config; and its file.

    Without --config, place and machine are those of here, not those that it was trained with.
    """
    from . import hosts, inference

    given = _given(args)
    where = {name: given[name] for name in ("work_dir", "local") if name in given}
    base = (
        config.load(args.config, **where)
        if args.config
        else config.preset(given.get("preset", "binary"), **where)
    )
    path = args.model_path
    if not path:
        one = args.config or "preset" in given
        name, root = (
            (base.checkpoint_name, _run_folder(base))
            if one
            else ("best*.pth", where.get("work_dir"))
        )
        path = hosts.find_model(name, root)
        if path is None:
            raise DataError(
                f"no weights {name} found{f' in {root}' if root else ''}; train first, or give --model_path"
            )
    values = {name: getattr(base, name) for name in (USE if args.config else PLACE)}
    values |= {name: value for name, value in given.items() if name in USE}
    predictor = inference.Predictor.load(path, values["device"], values["precision"])
    predictor.config = predictor.config.replace(**values)
    for option in inference.OPTIONS:
        setattr(predictor, option, getattr(args, option))
    print(
        f"weights: {path}, {predictor.config.preset}, on {predictor.device} in {predictor.precision}"
    )
    return predictor, Path(path)


# ---- arguments


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m seglib", description="Medical image segmentation, from raw images to masks."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run, about: str, aliases: Iterable[str] = ()) -> Parser:
        sub = commands.add_parser(
            name, help=about, description=about, aliases=aliases, allow_abbrev=False
        )
        sub.usage = f"{sub.prog} [options]"
        sub.set_defaults(run=run)
        return sub

    shown = next(
        (b for a, b in zip(argv, argv[1:]) if a == "--preset" and b in presets.PRESETS), "binary"
    )
    add = command(
        "phantoms", phantoms, "write a synthetic data set in the tree of a real one"
    ).add_argument
    add("name", metavar="NAME", help="the preset whose tree it forms, such as lung")
    add("--output", metavar="DIR", help="default data/phantoms/NAME")
    add("--n", type=int, default=24, help="number of images (default 24)")
    add("--seed", type=int, default=0, help="default 0")

    sub = command(
        "prepare",
        prepare,
        "bring another layout into images/ + masks/, or check and resize a preset's data",
    )
    sub.add_argument(
        "--source_images", metavar="DIR", help="images, or folders NAME/images + NAME/masks"
    )
    sub.add_argument(
        "--source_masks", metavar="DIR", help="masks; default: in the folder of the images"
    )
    sub.add_argument("--output", metavar="DIR", help="receives images/ and masks/")
    sub.add_argument(
        "--image_suffix",
        default="",
        help="what follows the name in image files, such as _image or .jpg",
    )
    sub.add_argument(
        "--mask_suffix",
        help="what follows the name in mask files, such as _mask; default: found out",
    )
    sub.add_argument(
        "--export",
        metavar="DIR",
        help="without --source_images: the resized images and masks as PNG",
    )
    _add_fields(sub, config.FIELDS, shown)

    sub = command(
        "train",
        train,
        f"train a network (settings below: those of {shown}; others by --preset NAME --help)",
    )
    sub.add_argument(
        "--checkpoint_dir",
        metavar="DIR",
        help="run folder; default checkpoints, or work_dir/PRESET",
    )
    sub.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    _add_fields(sub, config.FIELDS, shown)

    sub = command(
        "evaluate",
        evaluate,
        "score weights on all cases of --data_dir, or on the test part of their own data",
    )
    sub.add_argument("--model_path", metavar="FILE", help="weights; default: the newest best ones")
    sub.add_argument(
        "--output_dir",
        metavar="DIR",
        default="evaluation_results",
        help="default evaluation_results",
    )
    _add_options(sub)
    _add_fields(sub, ("preset", *USE))

    sub = command(
        "export",
        export,
        "weights as ONNX and torch.export, each checked against PyTorch; a folder for Kaggle",
    )
    sub.add_argument("--model_path", metavar="FILE", help="weights; default: the newest best ones")
    sub.add_argument("--output_dir", metavar="DIR", default="exported", help="default exported")
    sub.add_argument(
        "--kaggle",
        metavar="NAME",
        help="your Kaggle user name: also DIR/kaggle, ready to be published",
    )
    sub.add_argument(
        "--title",
        help="title of the Kaggle data set, 6 to 50 letters; default: seglib and the run's name",
    )

    sub = command(
        "compare",
        compare,
        "two saved reports, image by image: is the second better, and how sure is that?",
    )
    sub.add_argument(
        "first", metavar="FIRST", help="output folder of evaluate, or its evaluation_report.json"
    )
    sub.add_argument("second", metavar="SECOND", help="another one, of the same images")
    sub.add_argument("--metric", default="dice", help="dice, iou, hd95, ... (default dice)")

    about = "masks of an image or of a folder of images"
    sub = command("predict", predict, about, aliases=("inference", "synthesize"))
    sub.add_argument("--model_path", metavar="FILE", help="weights; default: the newest best ones")
    sub.add_argument(
        "--image_path",
        "--input_image",
        metavar="FILE",
        help="one image, a NIfTI volume, or the folder of a DICOM series",
    )
    sub.add_argument("--image_dir", metavar="DIR", help="a folder of images or NIfTI volumes")
    sub.add_argument(
        "--mask_path", metavar="FILE", help="the truth of the one image: prints Dice and IoU"
    )
    sub.add_argument(
        "--output_dir", metavar="DIR", default="predictions", help="default predictions"
    )
    sub.add_argument("--save_overlay", action="store_true", help="also NAME_overlay.png")
    sub.add_argument(
        "--dicom_seg",
        action="store_true",
        help="of a DICOM series also NAME_mask.dcm, a Segmentation",
    )
    sub.add_argument(
        "--tiled",
        action="store_true",
        help="pictures at their own resolution, in tiles of the trained size",
    )
    sub.add_argument(
        "--show_probability",
        action="store_true",
        help="the probabilities in NAME_visualization.png",
    )
    _add_options(sub)
    _add_fields(sub, ("preset", *USE))

    args, unknown = parser.parse_known_args(argv)
    if unknown:
        found, options = unknown[0].split("=")[0], commands.choices[args.command].format_help()
        near = fields.nearest(found, re.findall(r"--\w+", options)) if found.startswith("-") else ""
        raise ConfigError(
            f"{args.command} takes no {found!r}{near}; see {parser.prog} {args.command} --help"
        )
    return args


def _add_options(parser: Parser) -> None:
    """`inference.OPTIONS`: how a trained network is used."""
    add = parser.add_argument
    add("--tta", action="store_true", help="mean over the flips that the network was trained with")
    add(
        "--tta_rotation",
        type=float,
        default=0.0,
        metavar="DEGREES",
        help="mean with two views turned by so much",
    )
    add(
        "--min_component_size",
        type=int,
        default=0,
        metavar="N",
        help="remove connected components of fewer than N pixels",
    )
    add(
        "--keep_largest_component",
        action="store_true",
        help="keep only the largest connected component of every class",
    )
    add("--fill_holes", action="store_true", help="fill what a class encloses")


def _add_fields(parser: Parser, names: Iterable[str], preset: str | None = None) -> None:
    """An option a field of `Config`; the help shows the defaults of a preset, or that the weights decide."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings from .cfg, .toml or .json; options given here win",
    )
    hints, values = (
        typing.get_type_hints(config.Config),
        config.preset(preset or "binary").to_dict(),
    )
    group = parser
    for name, field in config.FIELDS.items():
        if name in SECTIONS:
            group = parser.add_argument_group(SECTIONS[name])
        if name not in names:
            continue
        bare = "yes" if bool in fields.parts(hints[name]) else BARE.get(name)
        kind = config.describe(name).replace("bool", "yes | no") + (
            f", alone: {bare}" if bare else ""
        )
        default = json.dumps(values[name]) if preset or name in PLACE else "as trained"
        default = {"null": "none", "true": "yes", "false": "no"}.get(default, default.strip('"'))
        text = f"{field.metadata['help']} ({kind}; default {default})".replace("%", "%%")
        form = {"nargs": "?", "const": bare} if bare else {}
        group.add_argument(
            f"--{name}",
            *ALIASES.get(name, []),
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=text,
            **form,
        )


if __name__ == "__main__":
    sys.exit(main())
