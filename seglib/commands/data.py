"""The commands that write, convert and prepare data: phantoms, prepare, stores."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from .. import effects, presets
from ..errors import ConfigError, DataError
from . import parts


def phantoms(args: argparse.Namespace) -> None:
    """Write a synthetic data set in the tree of a real one."""
    from .. import phantoms

    output = args.output or Path("data", "phantoms", args.name)
    folder = phantoms.write(args.name, output, args.n, args.seed, args.hospital)
    print(f"{folder}: {args.n} synthetic cases")
    print(f"next: python -m seglib train --preset {args.name} --data_dir {folder}")


def prepare(args: argparse.Namespace) -> None:
    """Bring another layout into images/ + masks/, or check and resize a preset's data."""
    if args.source_images or args.source_masks or args.annotations:
        return _convert(args)
    cfg = parts.config_of(args)
    store, cfg = parts.store_of(cfg, wants_test_part=parts.wants_test_part(cfg, args))
    parts.print_without_effect_on(args, cfg, store.cases)
    if args.export:
        _export(store, args)
    if args.export_nnunet:
        from .. import nnunet

        target = nnunet.export(store, args.export_nnunet, cfg, args.folds)
        print(f"exported to {target}")
        print(nnunet.advice(target))


def _export(store, args: argparse.Namespace) -> None:
    """Write a prepared data set as pictures, or its masks for labelling tools."""
    from .. import labelling

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
    from .. import hosts, stores

    print(stores.report(hosts.run_root(parts.config_of(args)), args.prune))


def _convert(args: argparse.Namespace) -> None:
    """Bring pictures and masks of another layout into images/ + masks/."""
    from ..layouts import convert

    if not args.source_images or not args.output:
        raise ConfigError(
            "give --source_images and --output (and --source_masks or --annotations, where they "
            "lie elsewhere)"
        )
    if args.tiff_pages:
        return _split_stacks(args)
    settings = parts.settings_of(args)
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
    from ..layouts import stacks

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
    from .. import annotations
    from ..layouts import convert

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
    from ..layouts import annotated

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
