"""The command predict: masks, measures and annotations of images, volumes and folders."""

import argparse
import contextlib
import math
import re
from pathlib import Path
from typing import Any

from .. import config, effects
from ..errors import ConfigError, DataError, listed
from . import parts


def predict(args: argparse.Namespace) -> None:
    """Write masks of an image or of a folder of images, and a table of their measures."""
    from .. import regions

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
    from ..layouts import stacks

    if not args.tiff_pages:
        return
    unfolded = str(until_done.enter_context(stacks.unfolded(args.image_path, args.tiff_pages)))
    is_volume = args.tiff_pages == "volume"
    args.image_path, args.image_dir = (unfolded, None) if is_volume else (None, unfolded)


def _predict(args: argparse.Namespace) -> None:
    """`predict`, of arguments that were checked."""
    from ..formats import inputs, volumes

    predictor, _ = parts.predictor_of(args)
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
        parts.print_without_effect(args, now, predictor)
    print(f"results in {args.output_dir}")
    if problems:
        raise DataError("\n".join(["not predicted:", *problems]))


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
    masks = results["masks"]
    if masks:
        print(
            f"{len(masks)} masks of these images, by their names or values, are not predicted: "
            f"{listed(masks)}; where one is an image, give it as --image_path"
        )
    if results["no_image"]:
        print(f"no images: {listed(results['no_image'])}")
    if args.table:
        _print_table(results["measures"], n_done, args)
    if writer:
        print(f"annotations: {writer.save()}")
    n_volumes = len(results["millilitres"])
    now = effects.Situation(predictor.config, n_volumes < n_done, n_volumes > 0)
    parts.print_without_effect(args, now, predictor)
    return [*failed.values(), *(f"{name}: {reason}" for name, reason in left_out.items())]


def _predict_volume(predictor, path: Path, args: argparse.Namespace) -> None:
    """The mask of one volume; prints its millilitres, and what is odd about it."""
    volume = predictor.predict_volume(path, args.output_dir, dicom=args.dicom_seg)
    _print_results({path.name: volume.millilitres}, {path.name: volume.notes})
    _write_table(predictor, path, volume, args)


def _predict_image(predictor, file: Path, args: argparse.Namespace) -> None:
    """Mask, overlay and panels of one image, and its scores where there is a truth."""
    from ..formats import images

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
    from ..annotations import writers

    if not args.annotations:
        return None
    classes = list(predictor.config.structures.values())
    folder, tolerance = args.output_dir, args.outline_tolerance
    return writers.writer(args.annotations, folder, classes, tolerance, root)


def _measuring(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `Predictor.measure` among the arguments, checked."""
    from .. import regions

    pixel_mm: Any = args.pixel_mm
    with contextlib.suppress(TypeError, ValueError):  # not given, or no numbers: named below
        sides = [float(side) for side in re.split("[,x]", args.pixel_mm)]
        pixel_mm = sides[0] if len(sides) == 1 else sides
    return regions.options(args.objects, args.neck, pixel_mm)._asdict()


def _write_table(predictor, path: Path, prediction: Any, args: argparse.Namespace) -> None:
    """Write the measures of one image, where a table is asked for."""
    from .. import regions

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
    from .. import case_io

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
    from .. import metrics, tables

    annotated = truth != tables.IGNORE
    for number, name in enumerate(cfg.structures.values(), start=1):
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
