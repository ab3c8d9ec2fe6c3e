"""What the names in a config stand for: one table each for layouts, losses and networks.

An addition is one entry here, plus its code; the setting's check, the error messages and the command line's help
follow. A notebook cell may add an entry of its own, `tables.LOSSES["mine"] = tables.Loss(my_loss, ("binary",))`.
Code is named as `"module:function"`, so that this table loads nothing before it is used.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Layout(NamedTuple):
    """A form that a folder of raw data can have.

    `markers` are alternatives: a folder has this layout if it holds every name of one alternative (patterns such as
    `patient*/*_gt.nii*` are allowed). `scan` returns the case table, see `layouts.scan`; it receives what its
    parameters name of `root`, `cfg`, the settings, and `class_name` (the first one).
    """

    scan: str | Callable
    markers: tuple[tuple[str, ...], ...]


class Loss(NamedTuple):
    """A loss, and the tasks that it fits.

    `build` returns a callable `loss(logits, target, annotated)`; it receives the settings that its parameters name.
    """

    build: str | Callable
    tasks: tuple[str, ...]


class Architecture(NamedTuple):
    """A network: `build` returns an `nn.Module` and receives the settings that its parameters name."""

    build: str | Callable


LAYOUTS: dict[str, Layout] = {
    "chest": Layout(
        "layouts:scan_lung",
        (
            ("MontgomerySet/CXR_png",),
            ("CXR_png", "ManualMask"),
            ("img/CHNCXR_*", "mask"),
            ("CXR_png/CHNCXR_*",),
            ("CXR_png", "masks"),
            ("images", "leftMask", "rightMask"),
        ),
    ),
    "palm": Layout(
        "layouts:scan_palm",
        (
            ("Training/Images", "Training/* Masks"),
            ("PALM/Training/Images", "PALM/Training/* Masks"),
        ),
    ),
    "rsna": Layout(
        "layouts.volumes:scan_rsna", (("train_images", "segmentations"), ("images", "labels"))
    ),
    "acdc": Layout(
        "layouts.volumes:scan_cardiac",
        (
            ("patient*/*_gt.nii*",),
            ("training/patient*/*_gt.nii*",),
            ("train/images", "train/masks"),
        ),
    ),
    "pictures": Layout(
        "layouts:scan_binary",
        (
            ("images", "masks"),
            ("train/images", "train/masks"),
            ("train", "train_masks"),
            ("ISIC*_Input", "ISIC*_GroundTruth"),
        ),
    ),
}

LOSSES: dict[str, Loss] = {
    "bce": Loss("losses:bce", ("binary", "multilabel")),
    "weighted_bce": Loss("losses:weighted_bce", ("binary", "multilabel")),
    "dice": Loss("losses:DiceLoss", ("binary", "multilabel")),
    "combined": Loss("losses:combined", ("binary", "multilabel")),
    "cross_entropy": Loss("losses:CrossEntropy", ("multiclass",)),
    "dice_focal": Loss("losses:dice_focal", ("multiclass",)),
}

ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture("models:UNet"),
    "aspp": Architecture("models:ASPPNet"),
    "smp_unet": Architecture("encoders:smp_unet"),
}


def load(code: str | Callable) -> Callable:
    """The function or class of an entry: itself, or what `"module:name"` names below `seglib`."""
    if callable(code):
        return code
    module, _, name = code.partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def parameters(code: str | Callable) -> tuple[str, ...]:
    """The names of the settings that an entry's code takes."""
    return tuple(inspect.signature(load(code)).parameters)


def call(code: str | Callable, settings: Mapping[str, Any]) -> Any:
    """Call an entry's code with those of the settings that its parameters name."""
    given = {name: settings[name] for name in parameters(code) if name in settings}
    return load(code)(**given)
