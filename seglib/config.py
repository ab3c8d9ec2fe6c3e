"""One `Config` dataclass, its five presets in three sizes; override, check, save, load. Taught in `00_start_here`."""

import dataclasses
import json
import math
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import files
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


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and range; mutable defaults are copied for each object."""
    metadata = {"help": help, "low": low, "high": high}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Config:
    """Every setting of a system. A wrong name, type or value raises `ConfigError` at the line that sets it.

    Make one with `preset("lung", epochs=20)`, change it in any later cell (`cfg.epochs = 5`), keep it with
    `cfg.save("run.json")`. Strings are used for choices, so that a reloaded module keeps working with old objects.
    """

    preset: Literal["palm", "rsna", "cardiac", "lung", "binary"] = _setting(
        "binary", "which of the five systems"
    )
    size: Literal["full", "small", "smoke"] = _setting(
        "full", "full = as published, small = a laptop, smoke = seconds"
    )
    task: Literal["binary", "multilabel", "multiclass"] = _setting(
        "binary", "sigmoid of one, sigmoid of many, softmax"
    )
    class_names: tuple[str, ...] = _setting(
        ("structure",), "one name a class; multiclass starts with the background"
    )
    # data
    data_root: str | None = _setting(
        None, "folder of the raw data; none = searched for, see hosts.find_data"
    )
    work_dir: str = _setting("runs", "folder that receives stores and runs")
    local: bool = _setting(
        True, "False on Kaggle and Colab: wait for the mounted data, keep runs where they survive"
    )
    image_size: int | tuple[int, int] = _setting(
        256, "pixels, one side or (height, width)", 8, 8192
    )
    resize: Literal["letterbox", "stretch"] = _setting(
        "letterbox", "keep the aspect ratio and pad, or squeeze"
    )
    in_channels: int = _setting(3, "channels of the network's input", 1, 16)
    mask_encoding: Literal["auto", "threshold", "index"] | dict[str, int] = _setting(
        "auto", 'how mask files hold classes; or a table of colours, {"255,0,0": 1}'
    )
    mask_inverted: bool | Literal["auto"] = _setting(
        "auto", "True where 0 is the structure; auto = found out by class"
    )
    label_map: dict[str, int] = _setting(
        {}, "label number in the file -> class number; empty = as they are", 0, 65535
    )
    slice_axis: int | None = _setting(
        None, "axis of a volume along which slices are cut; none = by spacing", 0, 2
    )
    window_level: float | None = _setting(None, "CT window centre, HU")
    window_width: float | None = _setting(None, "CT window width, HU", 1)
    percentiles: tuple[float, float] | None = _setting(
        None, "intensities are clipped to these percentiles", 0, 100
    )
    mean: tuple[float, ...] = _setting(IMAGENET_MEAN, "per channel, of images scaled to 0..1")
    std: tuple[float, ...] = _setting(IMAGENET_STD, "per channel, of images scaled to 0..1", 1e-6)
    val_split: float = _setting(
        0.2, "validation part of what the test leaves: a share up to 1, else patients", 0
    )
    test_split: float = _setting(
        0.0, "test part, taken first: a share up to 1, else a count of patients", 0
    )
    keep_split: bool = _setting(True, "keep the split that the tree itself has")
    augment: dict[str, Any] = _setting({}, "augmentation -> probability, or parameters with 'p'")
    crop: float = _setting(
        1.0, "share of the frame's sides in the pieces that training sees, see data.piece", 0.1, 1
    )
    # network
    architecture: Literal["unet", "smp_unet", "aspp"] = _setting(
        "unet", "own U-Net, smp's U-Net, own ASPP network"
    )
    encoder: str = _setting("tu-tf_mobilenetv3_large_100", "encoder of smp_unet, by its smp name")
    encoder_weights: str = _setting("none", "imagenet, none, or the path of a weights file")
    base_channels: int = _setting(
        64, "channels of the first level, doubled at each pooling", 1, 512
    )
    depth: int = _setting(4, "number of poolings", 1, 8)
    bilinear: bool = _setting(False, "upsample bilinearly instead of by transposed convolution")
    aspp_rates: tuple[int, ...] = _setting((6, 12, 18), "dilations of the ASPP branches", 1, 64)
    attention: bool = _setting(False, "attention gates on the skip connections")
    class_prior: bool = _setting(
        False, "start the output's bias at the classes' shares of the training masks"
    )
    init_from: str | None = _setting(None, "weights file to start from")
    # loss and optimisation
    loss: Literal["bce", "dice", "combined", "weighted_bce", "dice_focal", "cross_entropy"] = (
        _setting("bce", "loss")
    )
    loss_weights: tuple[float, float] = _setting(
        (0.5, 0.5), "weights of the two parts of combined and dice_focal", 0
    )
    focal_gamma: float = _setting(2.0, "focusing exponent of the focal loss", 0, 10)
    missing_weight: float = _setting(
        0.0, "weight of a class without a mask: 0 = ignored, 1 = treated as empty", 0, 1
    )
    missing_normalisation: Literal["annotated", "plain"] = _setting(
        "annotated", "divide by the weights, or plain mean"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = _setting("adam", "optimiser")
    lr: float = _setting(1e-3, "learning rate (the peak, for onecycle and linear)", 1e-8, 10)
    weight_decay: float = _setting(0.0, "weight decay", 0, 1)
    scheduler: Literal["none", "cosine", "plateau", "onecycle", "linear"] = _setting(
        "none", "learning-rate schedule"
    )
    epochs: int = _setting(50, "passes over the training part", 1, 100_000)
    batch_size: int = _setting(8, "images a step and process", 1, 4096)
    accumulate: int = _setting(1, "steps whose gradients are added up before an update", 1, 4096)
    clip: float = _setting(0.0, "largest gradient norm, 0 = not clipped", 0)
    monitor: Literal["val_loss", "val_dice"] = _setting("val_dice", "what chooses the best weights")
    early_stopping: bool = _setting(
        False, "stop when the monitor has not improved for `patience` epochs"
    )
    patience: int = _setting(15, "epochs without improvement before stopping", 1)
    save_every: int = _setting(0, "epochs between checkpoint_epoch_N.pth files, 0 = none", 0)
    checkpoint_name: str = _setting("best_model.pth", "file name of the best weights")
    # machine
    num_workers: int | Literal["auto"] = _setting(
        "auto", "loader processes, never more than the machine has cores", 0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto", "arithmetic of the network; auto = by probing"
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = _setting(
        "auto", "auto = the first that runs a tiny kernel"
    )
    checkpointing: bool = _setting(
        False, "compute features twice instead of keeping them: less memory, slower"
    )
    sync_batch_norm: bool = _setting(
        False, "batch norm over the images of all processes; GPUs only"
    )
    compile: bool = _setting(
        False, "torch.compile the network; worth its warm-up on long GPU runs only"
    )
    cudnn_benchmark: bool = _setting(True, "let cuDNN try its algorithms at fixed sizes")
    seed: int = _setting(0, "seed of split, initial weights, order and augmentation", 0)
    # scoring
    threshold: float = _setting(0.5, "probability from which a pixel belongs to the class", 0, 1)
    bootstrap: int = _setting(2000, "resamples of the 95 % intervals", 10)

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
        allowed = (
            ("dice_focal", "cross_entropy")
            if self.task == "multiclass"
            else ("bce", "dice", "combined", "weighted_bce")
        )
        if self.loss not in allowed:
            raise ConfigError(
                f"loss: {self.loss!r} does not fit the task {self.task!r}; choose from {', '.join(allowed)}"
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

_FLIPS = {"hflip": 0.5, "vflip": 0.5}

FULL: dict[str, dict[str, Any]] = {
    "palm": dict(
        task="multilabel",
        class_names=("atrophy", "detachment", "disc"),
        image_size=256,
        in_channels=3,
        augment={**_FLIPS, "rot90": 0.5},
        loss="weighted_bce",
        optimizer="adam",
        lr=1e-4,
        batch_size=16,
        epochs=100,
        monitor="val_loss",
    ),
    "rsna": dict(
        task="multiclass",
        class_names=("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel"),
        image_size=512,
        in_channels=3,
        window_level=50.0,
        window_width=400.0,
        val_split=0.1,
        mask_encoding="index",
        mask_inverted=False,
        label_map={"5": 1, "1": 2, "3": 3, "2": 4, "18": 5, "19": 5, "20": 5},
        augment={
            **_FLIPS,
            "rotate": {"limit": 45, "p": 0.5},
            "grid_distortion": 0.3,
            "coarse_dropout": 0.2,
        },
        architecture="smp_unet",
        encoder_weights="imagenet",
        loss="dice_focal",
        optimizer="adamw",
        lr=1e-3,
        scheduler="cosine",
        epochs=30,
        batch_size=32,
        accumulate=16,
        num_workers=16,
        checkpoint_name="best_model_512.pth",
    ),
    "cardiac": dict(
        task="multiclass",
        class_names=("background", "right_ventricle", "myocardium", "left_ventricle"),
        image_size=256,
        in_channels=1,
        mean=(0.5,),
        std=(0.25,),
        percentiles=(0.5, 99.5),
        mask_encoding="index",
        mask_inverted=False,
        test_split=0.2,
        val_split=0.25,
        architecture="aspp",
        base_channels=32,
        augment={
            **_FLIPS,
            "affine": {"scale": [0.8, 1.2], "translate": 0.0, "rotate": 30, "p": 0.8},
            "brightness_contrast": {
                "brightness": 0.2,
                "contrast": 0.4,
                "p": 0.7,
            },  # coils shade every patient anew
        },
        loss="cross_entropy",
        optimizer="adam",
        lr=1e-3,
        batch_size=16,
        epochs=50,
        monitor="val_loss",
    ),
    "lung": dict(
        task="binary",
        class_names=("lung",),
        image_size=512,
        resize="stretch",
        in_channels=1,
        mean=(0.5,),
        std=(0.25,),
        test_split=50,
        augment={"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}},
        loss="bce",
        optimizer="adam",
        lr=1e-4,
        batch_size=16,
        epochs=50,
    ),
    "binary": dict(
        task="binary",
        class_names=("structure",),
        image_size=256,
        in_channels=3,
        loss="combined",
        optimizer="adam",
        lr=1e-3,
        weight_decay=1e-4,
        batch_size=8,
        epochs=50,
        early_stopping=True,
        patience=15,
        save_every=10,
        augment={
            **_FLIPS,
            "rot90": 0.5,
            "affine": {"scale": [0.9, 1.1], "translate": 0.05, "rotate": 15, "p": 0.5},
            "brightness_contrast": 0.3,
            "gauss_noise": 0.2,
        },
    ),
}

# A laptop's few minutes: smaller pictures and networks; every change against FULL is listed here.
SMALL: dict[str, dict[str, Any]] = {
    "palm": dict(
        base_channels=8,
        depth=5,
        loss="combined",
        lr=2e-3,
        scheduler="onecycle",
        batch_size=4,
        epochs=80,
        clip=1.0,
    ),
    "rsna": dict(
        image_size=256,
        epochs=20,
        batch_size=8,
        accumulate=2,
        scheduler="onecycle",
        clip=1.0,
        num_workers="auto",
    ),
    "cardiac": dict(
        image_size=128,
        base_channels=16,
        aspp_rates=(1, 2, 3),
        loss="dice_focal",
        lr=3e-3,
        scheduler="linear",
        batch_size=8,
        epochs=30,
        clip=1.0,
        crop=0.75,
        class_prior=True,
        augment={  # no flips: hearts lie one way; wider, as patients are few
            "affine": {"scale": [0.7, 1.3], "translate": 0.05, "rotate": 45, "p": 1.0},
            "brightness_contrast": {"brightness": 0.3, "contrast": 0.5, "p": 0.9},
        },
    ),
    "lung": dict(
        image_size=256,
        base_channels=8,
        depth=5,
        loss="combined",
        lr=2e-3,
        scheduler="onecycle",
        batch_size=4,
        epochs=28,
        clip=1.0,
        augment={"rotate": {"limit": 10, "p": 0.3}},  # flips take more epochs than these
    ),
    "binary": dict(
        base_channels=8,
        depth=5,
        lr=2e-3,
        scheduler="onecycle",
        early_stopping=False,
        batch_size=4,
        epochs=80,
        clip=1.0,
    ),
}

# Seconds: only to see that every step runs; the scores mean nothing.
_SMOKE = dict(
    image_size=64,
    base_channels=4,
    depth=3,
    epochs=2,
    batch_size=4,
    accumulate=1,
    bootstrap=200,
    num_workers=0,
    encoder_weights="none",
)
SMOKE: dict[str, dict[str, Any]] = {name: {**SMALL[name], **_SMOKE} for name in FULL}

# The phases of the RSNA system: preset("rsna", **RSNA_PHASES["refined"], init_from=first.best)
RSNA_PHASES: dict[str, dict[str, Any]] = {
    "initial": dict(
        lr=1e-3, epochs=30, batch_size=32, accumulate=16, checkpoint_name="best_model_512.pth"
    ),
    "refined": dict(
        lr=5e-5,
        epochs=10,
        batch_size=64,
        accumulate=1,
        checkpoint_name="best_mobilenet_rsna_refined.pth",
    ),
    "base": dict(
        lr=1e-3, epochs=30, batch_size=32, accumulate=1, checkpoint_name="best_mobilenet.pth"
    ),
}


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
    values = {
        **FULL[name],
        **({} if size == "full" else {"small": SMALL, "smoke": SMOKE}[size][name]),
        **overrides,
    }
    return Config(**{**values, "preset": name, "size": size}).validate()


def load(path: str | Path, **overrides: Any) -> Config:
    """Read a config from `.json`, `.toml` or `.cfg` (INI with any of the sections data, training, model, config).

    Fields that the file does not name keep the values of its `preset` (and `size`).
    """
    path = Path(path)
    values = {**read(path, FIELDS, _HINTS), **overrides}
    if "preset" not in values:
        raise ConfigError(
            f"{path.name}: no 'preset'; add a line such as  preset = lung  ({', '.join(FULL)})"
        )
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
    if fitting is INVALID:
        choices = [
            c
            for part in parts(hint)
            if typing.get_origin(part) is Literal
            for c in typing.get_args(part)
        ]
        near = nearest(value, choices) if isinstance(value, str) else ""
        raise ConfigError(
            f"{name}: {value!r} is not allowed{near}; expected {describe_type(hint)} ({meta['help']})"
        )
    numbers = (
        fitting.values()
        if isinstance(fitting, dict)
        else fitting
        if isinstance(fitting, tuple)
        else (fitting,)
    )
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        low, high = meta["low"], meta["high"]
        if (
            not math.isfinite(number)
            or (low is not None and number < low)
            or (high is not None and number > high)
        ):
            limits = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
            raise ConfigError(
                f"{name}: {number!r} is out of range; expected {limits} ({meta['help']})"
            )
    if name == "augment":
        _check_augment(fitting)
    if name in ("label_map", "mask_encoding") and isinstance(fitting, dict):
        _check_table(name, fitting)
    return fitting


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
