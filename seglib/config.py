"""One `Config` dataclass, its five presets in three sizes; override, check, save, load. Taught in `00_start_here`."""

import dataclasses
import json
import math
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import files, presets, tables
from .errors import ConfigError
from .fields import INVALID, coerce, describe_type, dump, from_text, nearest, parts, read

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# name of an augmentation -> the parameters it takes beside its probability "p"
AUGMENTATIONS = {
    "hflip": (),
    "vflip": (),
    "rot90": (),
    "rotate": ("limit",),
    "affine": ("scale", "translate", "rotate"),
    "brightness_contrast": ("brightness", "contrast"),
    "gauss_noise": ("std",),
    "grid_distortion": ("limit",),
    "coarse_dropout": ("holes", "size", "fill"),
}


def _setting(
    default: Any,
    help: str,
    affects: str,
    low: float | None = None,
    high: float | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    resume: Literal["fixed", "told", "free"] | None = None,
) -> Any:
    """A field with its help text and range, and what it affects. Every list of fields is derived from this.

    Args:
        affects: words of `AFFECTS`, separated by spaces.
        low, high: the range of a number, or of every number of a list.
        choices: returns the names that a text may be, where they are the keys of a table.
        resume: what happens where a run is resumed with another value: it is refused (`fixed`), told (`told`) or
            taken (`free`). By default a field that affects the network is fixed, one that affects only use and
            place is free, and any other is told.
    """
    words = set(affects.split())
    if not words <= set(AFFECTS):
        raise ValueError(f"affects: {affects!r}; choose from {', '.join(AFFECTS)}")
    if resume is None:
        resume = "fixed" if "network" in words else "free" if words <= {"use", "place"} else "told"
    metadata = {
        "help": help,
        "affects": frozenset(words),
        "low": low,
        "high": high,
        "choices": choices,
        "resume": resume,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# What a setting can affect. A field may affect several of these.
AFFECTS = {
    "store": "the pixels and masks of the store",
    "split": "which part (train, val, test) a patient is in",
    "network": "the network: its input, its layers, its output",
    "run": "how the network is trained",
    "use": "how a trained network is used and scored: an option of evaluate and predict",
    "place": "where things lie and what computes: always those of here, never those of the weights",
}


@dataclass
class Config:
    """Every setting of a system. A wrong name, type or value raises `ConfigError` at the line that sets it.

    Make one with `preset("lung", epochs=20)`, change it in any later cell (`cfg.epochs = 5`), keep it with
    `cfg.save("run.json")`. Strings are used for choices, so that a reloaded module keeps working with old objects.
    """

    preset: str = _setting(
        "binary", "which of the systems", "run", choices=lambda: presets.PRESETS, resume="fixed"
    )
    size: Literal["full", "small", "smoke"] = _setting(
        "full", "full = as published, small = a laptop, smoke = seconds", "run", resume="free"
    )
    task: Literal["binary", "multilabel", "multiclass"] = _setting(
        "binary", "sigmoid of one, sigmoid of many, softmax", "store network"
    )
    class_names: tuple[str, ...] = _setting(
        ("structure",), "one name a class; multiclass starts with the background", "store network"
    )
    # data
    data_root: str | None = _setting(
        None, "folder of the raw data; none = searched for, see hosts.find_data", "use"
    )
    layout: str = _setting(
        "auto",
        "how the raw data lies in its folders; auto = by the names of folders and files",
        "use",
        choices=lambda: ("auto", *tables.LAYOUTS),
    )
    work_dir: str = _setting("runs", "folder that receives stores and runs", "place")
    local: bool = _setting(
        True,
        "False on Kaggle and Colab: wait for the mounted data, keep runs where they survive",
        "place",
    )
    image_size: int | tuple[int, int] = _setting(
        256, "pixels, one side or (height, width)", "store", 8, 8192
    )
    resize: Literal["letterbox", "stretch"] = _setting(
        "letterbox", "keep the aspect ratio and pad, or squeeze", "store"
    )
    in_channels: int = _setting(3, "channels of the network's input", "store network", 1, 16)
    mask_encoding: Literal["auto", "threshold", "index"] | dict[str, int] = _setting(
        "auto", 'how mask files hold classes; or a table of colours, {"255,0,0": 1}', "store use"
    )
    mask_inverted: bool | Literal["auto"] = _setting(
        "auto", "True where 0 is the structure; auto = found out by class", "store use"
    )
    label_map: dict[str, int] = _setting(
        {}, "label number in the file -> class number; empty = as they are", "store use", 0, 65535
    )
    slice_axis: int | None = _setting(
        None, "axis of a volume along which slices are cut; none = by spacing", "store use", 0, 2
    )
    window_level: float | None = _setting(None, "CT window centre, HU", "store")
    window_width: float | None = _setting(None, "CT window width, HU", "store", 1)
    percentiles: tuple[float, float] | None = _setting(
        None, "intensities are clipped to these percentiles", "store", 0, 100
    )
    mean: tuple[float, ...] = _setting(
        IMAGENET_MEAN, "per channel, of images scaled to 0..1", "run"
    )
    std: tuple[float, ...] = _setting(
        IMAGENET_STD, "per channel, of images scaled to 0..1", "run", 1e-6
    )
    val_split: float = _setting(
        0.2, "validation part of what the test leaves: a share up to 1, else patients", "split", 0
    )
    test_split: float = _setting(
        0.0, "test part, taken first: a share up to 1, else a count of patients", "split", 0
    )
    keep_split: bool = _setting(True, "keep the split that the tree itself has", "split")
    split_seed: int = _setting(0, "seed of the split: who is trained on, who is tested", "split", 0)
    augment: dict[str, Any] = _setting(
        {}, "augmentation -> probability, or parameters with 'p'", "run"
    )
    patch_size: int | tuple[int, int] | None = _setting(
        None, "pixels of the patches that training sees; none = whole frames", "run", 8, 8192
    )
    # network
    architecture: str = _setting(
        "unet",
        "own U-Net, own ASPP network, smp's U-Net",
        "network",
        choices=lambda: tables.ARCHITECTURES,
    )
    encoder: str = _setting(
        "tu-tf_mobilenetv3_large_100", "encoder of smp_unet, by its smp name", "network"
    )
    encoder_weights: str = _setting(
        "none", "imagenet, none, or the path of a weights file", "run", resume="free"
    )
    base_channels: int = _setting(
        64, "channels of the first level, doubled at each pooling", "network", 1, 512
    )
    depth: int = _setting(4, "number of poolings", "network", 1, 8)
    bilinear: bool = _setting(
        False, "upsample bilinearly instead of by transposed convolution", "network"
    )
    aspp_rates: tuple[int, ...] = _setting(
        (6, 12, 18), "dilations of the ASPP branches", "network", 1, 64
    )
    attention: bool = _setting(False, "attention gates on the skip connections", "network")
    class_prior: bool = _setting(
        False, "start the output's bias at the classes' shares of the training masks", "run"
    )
    init_from: str | None = _setting(None, "weights file to start from", "run", resume="free")
    # loss and optimisation
    loss: str = _setting("bce", "loss", "run", choices=lambda: tables.LOSSES)
    loss_weights: tuple[float, float] = _setting(
        (0.5, 0.5), "weights of the two parts of combined and dice_focal", "run", 0
    )
    focal_gamma: float = _setting(2.0, "focusing exponent of the focal loss", "run", 0, 10)
    missing_weight: float = _setting(
        0.0,
        "weight of a class without a mask: 0 = ignored, 1 = treated as empty",
        "store run",
        0,
        1,
    )
    missing_normalisation: Literal["annotated", "plain"] = _setting(
        "annotated", "divide by the weights, or plain mean", "run"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = _setting(
        "adam", "optimiser", "run", resume="fixed"
    )
    lr: float = _setting(
        1e-3, "learning rate (the peak, for onecycle and linear)", "run", 1e-8, 10, resume="fixed"
    )
    weight_decay: float = _setting(0.0, "weight decay", "run", 0, 1, resume="fixed")
    scheduler: Literal["none", "cosine", "plateau", "onecycle", "linear"] = _setting(
        "none", "learning-rate schedule", "run", resume="fixed"
    )
    epochs: int = _setting(50, "passes over the training part", "run", 1, 100_000, resume="free")
    batch_size: int = _setting(8, "images a step and process", "run use", 1, 4096)
    accumulate: int = _setting(
        1, "steps whose gradients are added up before an update", "run", 1, 4096
    )
    clip: float = _setting(0.0, "largest gradient norm, 0 = not clipped", "run", 0)
    monitor: Literal["val_loss", "val_dice"] = _setting(
        "val_dice", "what chooses the best weights", "run", resume="fixed"
    )
    early_stopping: bool = _setting(
        False,
        "stop when the monitor has not improved for `patience` epochs",
        "run",
        resume="free",
    )
    patience: int = _setting(
        15, "epochs without improvement before stopping", "run", 1, resume="free"
    )
    save_every: int = _setting(
        0, "epochs between checkpoint_epoch_N.pth files, 0 = none", "run", 0, resume="free"
    )
    checkpoint_name: str = _setting(
        "best_model.pth", "file name of the best weights", "run", resume="fixed"
    )
    seed: int = _setting(
        0, "seed of the initial weights, the order and the augmentation", "run", 0, resume="fixed"
    )
    # machine
    num_workers: int | Literal["auto"] = _setting(
        "auto", "loader processes, never more than the machine has cores", "place", 0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto", "arithmetic of the network; auto = by probing", "place"
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = _setting(
        "auto", "auto = the first that runs a tiny kernel", "place"
    )
    checkpointing: bool = _setting(
        False,
        "compute features twice instead of keeping them: less memory, slower",
        "run",
        resume="free",
    )
    sync_batch_norm: bool = _setting(
        False, "batch norm over the images of all processes; GPUs only", "run"
    )
    compile: bool = _setting(
        False,
        "torch.compile the network; worth its warm-up on long GPU runs only",
        "run",
        resume="free",
    )
    cudnn_benchmark: bool = _setting(
        True, "let cuDNN try its algorithms at fixed sizes", "run", resume="free"
    )
    # scoring
    threshold: float = _setting(
        0.5, "probability from which a pixel belongs to the class", "run use", 0, 1
    )
    bootstrap: int = _setting(2000, "resamples of the 95 % intervals", "use", 10)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, check(name, value))

    @property
    def n_classes(self) -> int:
        """Channels of the network's output."""
        return len(self.class_names)

    @property
    def height_width(self) -> tuple[int, int]:
        """`image_size` as (height, width) in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @property
    def patch_height_width(self) -> tuple[int, int] | None:
        """`patch_size` as (height, width) in pixels; None where training sees whole frames."""
        return (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size

    @property
    def settings(self) -> dict[str, Any]:
        """Every field by its name, and `n_classes`: what losses and networks are built from."""
        return {**{name: getattr(self, name) for name in FIELDS}, "n_classes": self.n_classes}

    def validate(self) -> "Config":
        """Check what only several fields together can break; returns the config, so that calls can be chained."""
        for name in FIELDS:  # dictionaries can be changed in place
            check(name, getattr(self, name))
        n = self.n_classes
        if len(set(self.class_names)) < n or RESERVED & set(self.class_names):
            raise ConfigError(
                f"class_names: {self.class_names} repeat a name or use a column of the case table"
            )
        if self.percentiles and self.percentiles[0] >= self.percentiles[1]:
            raise ConfigError(f"percentiles: {self.percentiles} must rise")
        if (self.task == "binary") != (n == 1):
            raise ConfigError(
                f"class_names: {n} names for the task {self.task!r}; binary takes one name, the other tasks two or more"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.in_channels):
                found = len(getattr(self, name))
                raise ConfigError(
                    f"{name}: {found} values for in_channels={self.in_channels}; give one or one a channel"
                )
        if (self.window_level is None) != (self.window_width is None):
            raise ConfigError("window_level and window_width belong together: set both, or neither")
        if self.task not in tables.LOSSES[self.loss].tasks:
            fitting = [name for name, loss in tables.LOSSES.items() if self.task in loss.tasks]
            raise ConfigError(
                f"loss: {self.loss!r} does not fit the task {self.task!r}; "
                f"choose from {', '.join(fitting)}"
            )
        if self.patch_size and any(
            p > s for p, s in zip(self.patch_height_width, self.height_width)
        ):
            raise ConfigError(
                f"patch_size: {self.patch_size} is larger than image_size {self.image_size}; "
                "give at most that, or none for whole frames"
            )
        if "rot90" in self.augment and self.height_width[0] != self.height_width[1]:
            raise ConfigError(
                "augment: rot90 turns a frame of {}x{} on its side; it needs a square image_size".format(
                    *self.height_width
                )
            )
        if (
            self.val_split <= 1
            and self.test_split <= 1
            and self.val_split == 1
            and self.test_split < 1
        ):
            raise ConfigError(
                "val_split: 1 leaves nothing to train on; give a share below 1 or a count of patients"
            )
        return self

    def replace(self, **changes: Any) -> "Config":
        """A copy with changes: `cfg.replace(seed=1)`."""
        known(changes)
        return dataclasses.replace(self, **changes).validate()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (lists for tuples), as saved to JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: str | Path) -> Path:
        """Write the config; the suffix decides the form: `.json`, `.toml` or `.cfg`."""
        path = Path(path)
        text = dump(self.to_dict(), path.suffix)
        return files.write_text(path, text)


# columns of the case table, which no class may be called
RESERVED = set(
    "case patient split image labels row volume slice finding phase height width sha256 annotated".split()
)
FIELDS = {f.name: f for f in dataclasses.fields(Config)}
_HINTS = typing.get_type_hints(Config)


def pick_size(otherwise: str = "full") -> str:
    """The size to use where none is named: `smoke` while `SEGLIB_SMOKE=1` (tests), else `otherwise`."""
    return "smoke" if os.environ.get("SEGLIB_SMOKE", "") not in ("", "0") else otherwise


def preset(name: str, size: str | None = None, **overrides: Any) -> Config:
    """The `Config` of one of the five systems.

    Args:
        name: palm, rsna, cardiac, lung or binary.
        size: full (the numbers of the system), small (a laptop's few minutes) or smoke (seconds);
            by default full, or smoke while `SEGLIB_SMOKE=1`.
        overrides: any field; what is given here wins over the preset.

    Raises:
        ConfigError: unknown preset, size or field (names the nearest), or a value of the wrong type or range.
    """
    check("preset", name)
    size = check("size", size or pick_size())
    known(overrides)
    values = {**presets.PRESETS[name].settings(size), **overrides}
    return Config(**{**values, "preset": name, "size": size}).validate()


def load(path: str | Path, **overrides: Any) -> Config:
    """A config from a `.json`, `.toml` or `.cfg` file; what it leaves out has the values of its `preset` and `size`.

    Raises:
        ConfigError: no such file, not readable, no `preset` in it, or a value as `preset` refuses it.
    """
    path = Path(path)
    values = {**read(path, FIELDS, _HINTS), **overrides}
    if "preset" not in values:
        known = ", ".join(presets.PRESETS)
        raise ConfigError(f"{path.name}: no 'preset'; add a line such as  preset = lung  ({known})")
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> Config:
    """The config of saved values, which hold at least `preset`; also of those that an older version saved.

    Before version 0.2 `seed` also decided the split, and `crop` was the share of the frame that training saw.
    """
    values = dict(values)
    if "crop" in values:
        share = values.pop("crop")
        size = values.get("image_size", 256)
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        patch = [max(min(side, 32), int(side * share) // 32 * 32) for side in sides]
        values["patch_size"] = patch if share < 1 else None
        values.setdefault("split_seed", values.get("seed", 0))
    return preset(values.pop("preset"), values.pop("size", None), **values)


def known(names: Any) -> None:
    """Raise `ConfigError` for a name that is no field, with the nearest one that is."""
    for name in names:
        if name not in FIELDS:
            raise ConfigError(
                f"unknown setting {name!r}{nearest(name, FIELDS)}; config.Config lists all of them"
            )


def check(name: str, value: Any) -> Any:
    """The value of field `name`, checked against its type, choices and range, and put into its standard form."""
    known([name])
    hint, meta = _HINTS[name], FIELDS[name].metadata
    fitting = coerce(value, hint)
    if fitting is INVALID or (meta["choices"] and fitting not in choices_of(name)):
        near = nearest(value, choices_of(name)) if isinstance(value, str) else ""
        raise ConfigError(
            f"{name}: {value!r} is not allowed{near}; expected {describe(name)} ({meta['help']})"
        )
    _check_range(name, fitting)
    if name == "augment":
        _check_augment(fitting)
    if name in ("label_map", "mask_encoding") and isinstance(fitting, dict):
        _check_table(name, fitting)
    return fitting


def choices_of(name: str) -> tuple[str, ...]:
    """The texts that field `name` chooses from, by its type or by a table; none where it takes any."""
    choices = FIELDS[name].metadata["choices"]
    if choices:
        return tuple(choices())
    literals = (part for part in parts(_HINTS[name]) if typing.get_origin(part) is Literal)
    return tuple(choice for literal in literals for choice in typing.get_args(literal))


def describe(name: str) -> str:
    """What field `name` takes, for an error message and the command line's help."""
    if FIELDS[name].metadata["choices"]:
        return " | ".join(map(repr, choices_of(name)))
    return describe_type(_HINTS[name])


def fields_that(affect: str) -> tuple[str, ...]:
    """The fields that affect one of `AFFECTS`, in their order: `fields_that("store")`."""
    return tuple(name for name, f in FIELDS.items() if affect in f.metadata["affects"])


def _check_range(name: str, value: Any) -> None:
    """Raise `ConfigError` where a number, or one of a list or table of numbers, is out of range."""
    meta = FIELDS[name].metadata
    low, high = meta["low"], meta["high"]
    if isinstance(value, dict):
        value = tuple(value.values())
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        below = low is not None and number < low
        above = high is not None and number > high
        if below or above or not math.isfinite(number):
            limits = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
            raise ConfigError(
                f"{name}: {number!r} is out of range; expected {limits} ({meta['help']})"
            )


def parse(name: str, text: str) -> Any:
    """The checked value that `text` (a command line) means for field `name`."""
    known([name])
    return check(name, from_text(text, _HINTS[name]))


def _check_table(name: str, table: dict[str, int]) -> None:
    for key, value in table.items():
        parts, wanted = key.split(","), 3 if name == "mask_encoding" else 1
        limit = 256 if wanted == 3 else 65536
        if len(parts) != wanted or not all(p.strip().isdigit() and int(p) < limit for p in parts):
            kind = "a colour such as '255,0,0'" if wanted == 3 else "a label number such as '5'"
            raise ConfigError(f"{name}: {key!r} is not allowed as a key; expected {kind}")
        if not 0 <= value <= 255:
            raise ConfigError(
                f"{name}: {value} of {key!r} is out of range; expected a class number from 0 to 255"
            )


def _check_augment(augment: dict[str, Any]) -> None:
    for name, value in augment.items():
        if name not in AUGMENTATIONS:
            raise ConfigError(
                f"augment: unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}"
            )
        options = value if isinstance(value, dict) else {"p": value}
        for key in set(options) - {"p", *AUGMENTATIONS[name]}:
            raise ConfigError(
                f"augment: {name!r} has no parameter {key!r}; it takes {('p', *AUGMENTATIONS[name])}"
            )
        for key in set(options) - {"p", "fill"}:
            numbers = options[key] if key == "scale" else [options[key]]
            fits = isinstance(numbers, (list, tuple)) and len(numbers) == (
                2 if key == "scale" else 1
            )
            if not fits or not all(type(v) in (int, float) and math.isfinite(v) for v in numbers):
                wanted = "two numbers" if key == "scale" else "a number"
                raise ConfigError(
                    f"augment: {key!r} of {name!r} is {options[key]!r}; expected {wanted}"
                )
        if options.get("fill", 0) not in (0, "random_uniform"):
            raise ConfigError(
                f"augment: 'fill' of {name!r} is {options['fill']!r}; expected 0 or 'random_uniform'"
            )
        p = options.get("p", 1.0)
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ConfigError(
                f"augment: the probability of {name!r} is {p!r}; expected a number from 0 to 1"
            )
