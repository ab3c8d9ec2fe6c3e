"""Options of the command line that cannot act on what they are given: refused, or named in a line.

An option that is ignored silently looks like one that worked. `REFUSED` holds what the command line
alone shows; `WITHOUT_EFFECT` needs the data, or the config, which may come from a file or weights.
"""

from argparse import Namespace
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from . import config, hosts, tables
from .errors import ConfigError

# The settings on which a prepared store depends; `prepare` ignores all others.
PREPARE = {"preset", "size", "task", "class_names", "data_root", "layout", "work_dir", "local"}
PREPARE |= {"channel_names"}
PREPARE |= {*config.fields_that("store"), *config.fields_that("split")}
# The settings that are used where other people's folders are converted.
CONVERT = {"preset", "size", "mask_encoding", "mask_inverted", "class_names", "label_map"}
# Options of `prepare` that say how mask files are found and read.
OF_MASKS = ("image_suffix", "mask_suffix", "mask_encoding", "mask_inverted", "label_map")
# The settings of use and place that say how data sets are found and scored: predict has none.
OF_DATA_SETS = ("data_root", "layout", "patient_pattern", "patient_table")
OF_DATA_SETS += ("batch_size", "num_workers", "bootstrap")
PREDICT = (
    "preset",
    *(
        name
        for name in (*config.fields_that("place"), *config.fields_that("use"))
        if name not in OF_DATA_SETS
    ),
)


class Refused(NamedTuple):
    """Options of a command that need something else in the command line.

    `acts(args)` tells whether they can act; `reason` completes "--option: ...".
    """

    command: str
    options: Collection[str]
    acts: Callable[[Namespace], Any]
    reason: str


class Situation(NamedTuple):
    """What a command works with: the config in use, and the kinds of images that there are."""

    cfg: Any
    has_pictures: bool
    has_volumes: bool


class WithoutEffect(NamedTuple):
    """Options of some commands that act in some situations only; `reason` says why they do not."""

    commands: Collection[str]
    options: Collection[str]
    acts: Callable[[Situation], Any]
    reason: str


def _is_volume(args: Namespace) -> bool:
    from .formats import volumes

    return bool(args.image_path) and volumes.is_volume(args.image_path)


OF_EVERY_NETWORK = ("task", "class_names", "architecture", "channel_names", "context_slices")
OF_PICTURES = ("tiled", "save_overlay", "show_probability", "pixel_mm", "annotations")
REFUSED = (
    *(
        Refused(
            command,
            ["min_component_size"],
            lambda args: args.min_component_size > 1,
            "components of fewer pixels or voxels are removed; expected 2 or more",
        )
        for command in ("evaluate", "predict")
    ),
    *(
        Refused(
            command,
            ["tta_rotation"],
            lambda args: abs(args.tta_rotation) <= 180,  # False for NaN
            "degrees by which two views are turned; expected up to 180",
        )
        for command in ("evaluate", "predict")
    ),
    Refused(
        "predict",
        ["mask_path"],
        lambda args: args.image_path and not _is_volume(args),
        "the truth of one picture; score volumes and folders with evaluate",
    ),
    Refused(
        "predict",
        OF_PICTURES,
        lambda args: not _is_volume(args),
        "acts on pictures, and --image_path is a volume; leave it out",
    ),
    Refused(
        "predict",
        ["objects", "pixel_mm"],
        lambda args: args.table,
        "acts on the table of measures; give --table measures.csv as well",
    ),
    Refused(
        "predict",
        ["outline_tolerance"],
        lambda args: tables.ANNOTATION_FORMS.get(args.annotations) == "polygons",
        "acts on outlines; give --annotations coco or labelme as well",
    ),
    Refused(
        "prepare",
        ["form"],
        lambda args: args.export,
        "says in which form --export DIR is written; give that as well",
    ),
    Refused(
        "prepare",
        ["outline_tolerance"],
        lambda args: args.export and tables.ANNOTATION_FORMS.get(args.form) == "polygons",
        "acts on outlines; give --export DIR and --form coco or labelme as well",
    ),
    Refused(
        "predict",
        ["neck"],
        lambda args: args.objects,
        "says which objects are split; give --objects as well",
    ),
    Refused(
        "predict",
        ["dicom_seg"],
        lambda args: args.image_path and Path(args.image_path).is_dir(),
        "give the folder of one DICOM series as --image_path",
    ),
    Refused(
        "predict",
        ["tiff_pages"],
        lambda args: args.image_path and not args.mask_path,
        "is of one file; give it as --image_path, without --mask_path",
    ),
    Refused(
        "predict",
        ["slice_axis"],
        lambda args: not args.image_path or _is_volume(args),
        "cuts volumes into slices, and --image_path is a picture; leave it out",
    ),
    Refused(
        "predict",
        ["mask_encoding", "mask_inverted", "label_map"],
        lambda args: args.mask_path,
        "says how the file of --mask_path is read; give both, or none",
    ),
    Refused(
        "predict",
        ["work_dir", "local"],
        lambda args: not args.model_path,
        "says where weights are looked for, and --model_path names them; give one of the two",
    ),
    Refused(
        "train",
        ["seeds"],
        lambda args: args.folds is not None,
        "trains the folds of a cross-validation several times; give --folds N as well, or --seed N",
    ),
    Refused(
        "train",
        ["seed"],
        lambda args: args.folds is None,
        "the folds of --folds are trained with the seeds of --seeds; give that instead",
    ),
    Refused(
        "train",
        ["test_split"],
        lambda args: args.folds is None,
        "with --folds every fold is the test part once; leave it out",
    ),
    Refused(
        "prepare",
        [
            "source_masks",
            "annotations",
            "nested",
            "class_attribute",
            "tiff_pages",
            "output",
            "image_suffix",
            "mask_suffix",
        ],
        lambda args: args.source_images,
        "converts other people's folders; give --source_images as well",
    ),
    Refused(
        "prepare",
        ["source_masks", *OF_MASKS],
        lambda args: not args.annotations,
        "acts on mask files, and the masks are drawn from --annotations; leave one of both out",
    ),
    Refused(
        "prepare",
        ["preset", "size"],
        lambda args: not args.annotations,
        "has no effect where masks are drawn from --annotations; give it to train",
    ),
    Refused(
        "prepare",
        ["export"],
        lambda args: not args.source_images,
        "writes the resized data of --data_dir; with --source_images the images go to --output",
    ),
    Refused(
        "prepare",
        ["export_nnunet"],
        lambda args: not (args.source_images or args.annotations),
        "writes the data of --data_dir; convert first, then give --data_dir",
    ),
    Refused(
        "prepare",
        ["folds"],
        lambda args: args.export_nnunet,
        "is the split of --export_nnunet; give that as well, or train --folds N",
    ),
    Refused(
        "prepare",
        ["task"],
        lambda args: (
            not args.source_images
            or args.annotations
            or (args.task == "multiclass" and hasattr(args, "class_names"))
        ),
        "has no effect where --source_images are converted, other than multiclass together with "
        "--class_names background,NAME,NAME, or with --annotations; give it to train",
    ),
    Refused(
        "prepare",
        [name for name in config.FIELDS if name not in (*CONVERT, "task")],
        lambda args: not args.source_images,
        "has no effect where --source_images are converted; give it to train",
    ),
    Refused(
        "export",
        ["title", "report"],
        lambda args: args.kaggle,
        "goes into the Kaggle data set; give --kaggle YOUR_NAME as well",
    ),
)
WITHOUT_EFFECT = (
    WithoutEffect(
        ["train", "evaluate", "predict"],
        ["threshold"],
        lambda now: now.cfg.task != "multiclass",
        "the task is multiclass, where the likeliest class wins",
    ),
    WithoutEffect(
        ["prepare"],
        [name for name in config.FIELDS if name not in PREPARE],
        lambda now: False,
        "prepared pixels do not depend on it; give it to train or evaluate",
    ),
    WithoutEffect(
        ["train"],
        ["patience"],
        lambda now: now.cfg.early_stopping or now.cfg.scheduler == "plateau",
        "it needs --early_stopping or --scheduler plateau",
    ),
    WithoutEffect(
        ["train"],
        ["encoder_weights"],
        lambda now: _takes(tables.ARCHITECTURES[now.cfg.architecture], "encoder"),
        "this network has no pretrained encoder; --architecture smp_unet has one",
    ),
    WithoutEffect(
        ["train"],
        ["sync_batch_norm", "cudnn_benchmark"],
        lambda now: hosts.choose_device(now.cfg.device) == "cuda",
        "it acts on NVIDIA GPUs, and this training runs on none",
    ),
    WithoutEffect(
        ["prepare", "train", "evaluate", "predict"],
        ["slice_axis"],
        lambda now: now.has_volumes,
        "it acts on volumes, and there are only pictures",
    ),
    WithoutEffect(
        ["prepare", "train"],
        ["window_level", "window_width"],
        lambda now: now.has_volumes,
        "it acts on volumes, and there are only pictures",
    ),
    WithoutEffect(
        ["prepare", "train"],
        ["percentiles"],
        lambda now: now.has_pictures or now.cfg.window_level is None,
        "the window of --window_level is used instead",
    ),
    WithoutEffect(
        ["prepare", "train", "evaluate"],
        ["label_map"],
        lambda now: (
            now.cfg.mask_encoding in ("auto", "index")
            or (now.has_volumes and now.cfg.task != "multiclass")
        ),
        "--mask_encoding says already what the masks hold",
    ),
    WithoutEffect(
        ["prepare", "train", "evaluate"],
        ["mask_inverted"],
        lambda now: now.cfg.task != "multiclass",
        "label maps hold class numbers, not a structure and its background",
    ),
    WithoutEffect(
        ["predict"],
        OF_PICTURES,
        lambda now: now.has_pictures,
        "it acts on pictures, and there are only volumes",
    ),
)


def refuse(command: str, options: Collection[str], args: Namespace) -> None:
    """Raise `ConfigError` for the first of the user's options that cannot act in this line.

    Args:
        options: the names that the user gave, without dashes.
    """
    for rule in REFUSED:
        for name in rule.options:
            if rule.command == command and name in options and not rule.acts(args):
                raise ConfigError(f"{name}: {rule.reason}")


def without_effect(command: str, options: Collection[str], now: Situation) -> list[str]:
    """A line for each of the user's options that has no effect in this situation."""
    reasons = [
        (name, rule.reason)
        for rule in WITHOUT_EFFECT
        for name in rule.options
        if command in rule.commands and name in options and not rule.acts(now)
    ]
    if command == "train":
        reasons += _unused_settings(options, now.cfg)
    return [f"--{name} has no effect: {reason}" for name, reason in reasons]


def _unused_settings(options: Collection[str], cfg: Any) -> list[tuple[str, str]]:
    """Settings of networks and losses that those of the config do not take."""
    of_networks = [*config.fields_that("network")]
    of_losses = ["loss_weights", "focal_gamma", "missing_normalisation"]
    reasons = []
    for names, entry, text in (
        (of_networks, tables.ARCHITECTURES[cfg.architecture], f"architecture {cfg.architecture!r}"),
        (of_losses, tables.LOSSES[cfg.loss], f"loss {cfg.loss!r}"),
    ):
        reasons += [
            (name, f"the {text} has no such setting")
            for name in names
            if name in options and name not in OF_EVERY_NETWORK and not _takes(entry, name)
        ]
    return reasons


def _takes(entry: Any, name: str) -> bool:
    """Whether the code of an entry of `tables` takes a setting."""
    return name in tables.parameters(entry.build)
