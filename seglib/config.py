"""One `Config` dataclass with every setting of a system: make, check, change, save, load.

The values of the five systems are in `presets`. Taught in `00_start_here`.
"""

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import fields, files, presets, tables
from .errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What naming an encoder decides, unless these fields are named as well: see `_choose`.
OF_ENCODER = ("architecture", "encoder_weights", "mean", "std")
# Parts that only some networks have. A preset's own are left out where the user names a network
# without them.
PARTS = ("encoder", "bilinear", "attention", "stem", "deep_supervision", "checkpointing")

# The loss of a task, where the preset's own does not fit it and the user names none.
LOSS_OF_TASK = {"binary": "combined", "multilabel": "combined", "multiclass": "dice_focal"}
# What the classes of a network are: a saved config has decided it, even where it is the preset's.
OF_CLASSES = ("task", "class_names", "mask_encoding", "label_map")

LARGEST = 2**63 - 1  # of torch's integers

# What a setting can affect; it may affect several of these.
AFFECTS = {
    "store": "the pixels and masks of the store",
    "split": "which part (train, val, test) a patient is in",
    "network": "the network: its input, its layers, its output",
    "run": "how the network is trained",
    "updates": "how many updates of the weights an epoch has, or a training in all",
    "use": "how a trained network is used and scored: an option of evaluate and predict",
    "place": "folders and device: always those of this machine, never those of the weights",
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
    """A field with its help text, its range and what it affects: every list of fields is derived.

    Args:
        affects: words of `AFFECTS`, separated by spaces.
        low, high: the range of a number, or of every number of a list or table.
        choices: returns the allowed names, where they are the keys of a table.
        resume: what happens where a run is resumed with another value: it is refused (`fixed`),
            used with a warning (`told`), or used without one (`free`). By default `fixed` for
            what affects the network, `free` for what affects only use and place, else `told`.
            What affects updates is `fixed` as well where the schedule counts updates.
    """
    names = set(affects.split())
    if not names or not names <= set(AFFECTS):
        raise ValueError(f"affects: {affects!r}; choose from {', '.join(AFFECTS)}")
    if resume is None and "network" in names:
        resume = "fixed"
    elif resume is None:
        resume = "free" if names <= {"use", "place"} else "told"
    metadata = {
        "help": help,
        "affects": frozenset(names),
        "low": low,
        "high": high,
        "choices": choices,
        "resume": resume,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


Sides = int | tuple[int, int]  # one side, or (height, width)


@dataclass
class Config:
    """Every setting of a system. A wrong name, type or value raises `ConfigError` where it is set.

    Make one with `preset("lung", epochs=20)`, change it in any later cell (`cfg.epochs = 5`), keep
    it with `cfg.save("run.json")`. Choices are strings, so that old objects keep working after a
    module was reloaded.
    """

    preset: str = _setting(
        "binary", "the system", "run", choices=lambda: presets.PRESETS, resume="fixed"
    )
    size: Literal["full", "medium", "small", "smoke"] = _setting(
        "full",
        "full = as published; on two cores: medium = 20 minutes, small = 5, smoke = seconds",
        "run",
        resume="free",
    )
    task: Literal["binary", "multilabel", "multiclass"] = _setting(
        "binary", "sigmoid of one, sigmoid of many, softmax", "store network"
    )
    class_names: tuple[str, ...] = _setting(
        ("structure",), "one name per class; multiclass starts with the background", "store network"
    )

    # Where the data lies
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
        True, "False on Kaggle, Colab: wait for mounted data, keep runs where they survive", "place"
    )

    # Images
    image_size: Sides = _setting(256, "pixels, one side or (height, width)", "store", 8, 16384)
    resize: Literal["letterbox", "stretch", "none"] = _setting(
        "letterbox", "keep the aspect ratio and pad, squeeze, or pad without scaling", "store"
    )
    in_channels: int = _setting(
        3, "channels of an image; volumes: the sequences of a case", "store network", 1, 16
    )
    channel_names: tuple[str, ...] | None = _setting(
        None,
        "the channels of a case in their order, by their names in dataset.json or in the names of "
        "the files; none = all that there are",
        "network",
    )
    context_slices: int = _setting(
        0,
        "slices on either side of a slice of a volume that the network sees as well (2.5-D)",
        "store network",
        0,
        7,
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
        IMAGENET_MEAN, "mean of each channel, of images from 0 to 1", "run"
    )
    std: tuple[float, ...] = _setting(
        IMAGENET_STD, "standard deviation of each channel, of images from 0 to 1", "run", 1e-6
    )

    # Masks
    mask_encoding: Literal["auto", "threshold", "index"] | dict[str, int] = _setting(
        "auto", 'how mask files hold classes; or a table of colours, {"255,0,0": 1}', "store use"
    )
    mask_inverted: bool | Literal["auto"] = _setting(
        "auto", "True where 0 is the structure; auto = detected class by class", "store use"
    )
    label_map: dict[str, int] = _setting(
        {}, "label number in the file -> class number; empty = as they are", "store use", 0, 65535
    )

    # Split by patient
    val_split: float = _setting(
        0.2, "validation part of what the test leaves: a share up to 1, else patients", "split", 0
    )
    test_split: float = _setting(
        0.0, "test part, taken first: a share up to 1, else a count of patients", "split", 0
    )
    keep_split: bool = _setting(True, "keep the split that the tree itself has", "split")
    split_seed: int = _setting(
        0,
        "seed of the split: who is trained on, who is tested",
        "split",
        0,
        LARGEST,
        resume="fixed",
    )

    patient_pattern: str | None = _setting(
        None, "regular expression with a group `patient`, for names; none = judged", "split use"
    )
    patient_table: str | None = _setting(
        None, "CSV file with the columns case and patient; none = patients by name", "split use"
    )

    # What training sees
    patch_size: Sides | None = _setting(
        None, "pixels of the patches that training sees; none = whole frames", "run", 8, 16384
    )
    patches_per_image: int = _setting(
        1, "patches that are cut out of every image in an epoch", "run updates", 1, 10_000
    )
    augment: dict[str, Any] = _setting(
        {},
        "name -> probability, or parameters with 'p'; or a set by its name, such as robust, the "
        "set of the preset's kind of picture",
        "run",
    )

    # Network
    architecture: str = _setting(
        "unet", "the kind of network", "network", choices=lambda: tables.ARCHITECTURES
    )
    encoder: str = _setting(
        "tu-tf_mobilenetv3_large_100",
        "encoder by its smp name; naming one implies smp_unet with ImageNet weights",
        "network",
    )
    encoder_weights: str = _setting(
        "none", "imagenet, none, or the path of a weights file", "run", resume="free"
    )
    base_channels: int = _setting(
        64, "channels of the first level, doubled at each pooling", "network", 1, 512
    )
    depth: int = _setting(4, "number of poolings", "network", 1, 8)
    bilinear: bool = _setting(False, "bilinear upsampling, not transposed convolution", "network")
    aspp_rates: tuple[int, ...] = _setting(
        (6, 12, 18), "dilations of the ASPP branches", "network", 1, 64
    )
    attention: bool = _setting(False, "attention gates on the skip connections", "network")
    stem: Literal["full", "space_to_depth"] = _setting(
        "full",
        "space_to_depth = 2x2 pixels become channels, and the network computes at half the sides",
        "network",
    )
    deep_supervision: bool = _setting(
        False, "heads on all levels of the decoder share the loss: 1, 1/2, 1/4, ...", "network"
    )
    class_prior: bool = _setting(
        False, "start the output's bias at the classes' shares of the training masks", "run"
    )
    init_from: str | None = _setting(
        None, "weights to start from: a file, or a network of the zoo", "run", resume="free"
    )

    # Loss
    loss: str = _setting("bce", "what is minimised", "run", choices=lambda: tables.LOSSES)
    loss_weights: tuple[float, float] = _setting(
        (0.5, 0.5), "weights of the two losses that combined and dice_focal add up", "run", 0
    )
    focal_gamma: float = _setting(2.0, "focusing exponent of the focal loss", "run", 0, 10)
    missing_weight: float = _setting(
        0.0, "weight of a class without a mask: 0 = ignored, 1 = as if empty", "store run", 0, 1
    )
    missing_normalisation: Literal["annotated", "plain"] = _setting(
        "annotated", "divide by the weights, or plain mean", "run"
    )

    # Optimisation
    optimizer: Literal["adam", "adamw", "sgd"] = _setting(
        "adam", "rule of the updates", "run", resume="fixed"
    )
    lr: float = _setting(
        1e-3, "learning rate (the peak, for onecycle and linear)", "run", 1e-8, 10, resume="fixed"
    )
    weight_decay: float = _setting(
        0.0, "weight decay of the optimizer", "run", 0, 1, resume="fixed"
    )
    scheduler: Literal["none", "cosine", "plateau", "onecycle", "linear"] = _setting(
        "none", "learning-rate schedule", "run", resume="fixed"
    )
    epochs: int = _setting(
        50, "passes over the training part", "run updates", 1, 100_000, resume="free"
    )
    batch_size: int = _setting(8, "images per step and process", "run updates use", 1, 4096)
    accumulate: int = _setting(1, "steps whose gradients make one update", "run updates", 1, 4096)
    clip: float = _setting(0.0, "largest gradient norm, 0 = not clipped", "run", 0)
    seed: int = _setting(
        0,
        "seed of the initial weights, the order and the augmentation",
        "run",
        0,
        LARGEST,
        resume="fixed",
    )

    # Which weights are kept, and when training ends
    monitor: Literal["val_loss", "val_dice"] = _setting(
        "val_dice", "what chooses the best weights", "run", resume="fixed"
    )
    early_stopping: bool = _setting(
        False, "stop after `patience` epochs without a better monitor", "run", resume="free"
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

    # Machine
    num_workers: int | Literal["auto"] = _setting(
        "auto", "loader processes, never more than the machine has cores", "place", 0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto", "arithmetic of the network; auto = what suits the device", "place"
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = _setting(
        "auto", "auto = the first that runs a tiny kernel", "place"
    )
    checkpointing: bool = _setting(
        False, "compute features twice instead of keeping them: less memory", "run", resume="free"
    )
    sync_batch_norm: bool = _setting(
        False, "batch norm over the images of all processes; GPUs only", "run"
    )
    compile: bool = _setting(
        False, "torch.compile the network; pays on long GPU runs only", "run", resume="free"
    )
    cudnn_benchmark: bool = _setting(
        True, "let cuDNN try its algorithms at fixed sizes", "run", resume="free"
    )

    # Scoring
    threshold: float = _setting(
        0.5, "probability from which a pixel belongs to the class", "run use", 0, 1
    )
    bootstrap: int = _setting(2000, "resamples of the 95 % intervals", "use", 10)

    def __setattr__(self, name: str, value: Any) -> None:
        value = check(name, value)
        if name == "augment" and isinstance(value, str):
            value = check(name, _augmentation_set(self, value))
        object.__setattr__(self, name, value)
        if "_chosen" in vars(self):  # not while a new config gets its values
            _choose(self, [name])

    # Not a field: the names of the fields that the user has set, and not a preset.
    _chosen = frozenset()

    def __post_init__(self) -> None:
        _choose(self, ())

    @property
    def chosen(self) -> frozenset[str]:
        """The fields that the user has set, here or in a file, and not the preset."""
        return frozenset(self._chosen)

    @property
    def n_classes(self) -> int:
        """Channels of the network's output."""
        return len(self.class_names)

    @property
    def structures(self) -> dict[int, str]:
        """Index of a class in the network's output -> its name, without a multiclass background."""
        first = 1 if self.task == "multiclass" else 0
        return dict(enumerate(self.class_names[first:], start=first))

    @property
    def mask_columns(self) -> list[str]:
        """The columns of a case table that name mask files: `labels`, or one for each class."""
        return ["labels"] if self.task == "multiclass" else list(self.class_names)

    @property
    def height_width(self) -> tuple[int, int]:
        """`image_size` as (height, width) in pixels."""
        return _height_width(self.image_size)

    @property
    def patch_height_width(self) -> tuple[int, int] | None:
        """`patch_size` as (height, width) in pixels; None where training sees whole frames."""
        return None if self.patch_size is None else _height_width(self.patch_size)

    @property
    def network_height_width(self) -> tuple[int, int]:
        """(height, width) in pixels of what the network sees at once: a patch, or the frame."""
        return self.patch_height_width or self.height_width

    @property
    def channels(self) -> tuple[str, ...]:
        """`channel_names`; () where the channels have no names, such as those of colours."""
        return self.channel_names or ()

    @property
    def input_channels(self) -> int:
        """Channels of the network's input: those of an image, for each slice that it sees."""
        return self.in_channels * (2 * self.context_slices + 1)

    @property
    def settings(self) -> dict[str, Any]:
        """Every field by its name, and `n_classes`: what losses and networks are built from.

        `in_channels` is the number of channels that a network takes, `input_channels`.
        """
        values = {name: getattr(self, name) for name in FIELDS}
        return {**values, "n_classes": self.n_classes, "in_channels": self.input_channels}

    def validate(self) -> "Config":
        """Check every field, and whether the fields fit together.

        Returns:
            The config itself, so that calls can be chained.

        Raises:
            ConfigError: names the fields that do not fit together.
        """
        for name in FIELDS:  # again, as dictionaries can be changed in place
            check(name, getattr(self, name))
        _check_classes(self)
        _check_class_numbers(self)
        _check_image(self)
        _check_patches(self)
        _check_augment_fits(self)
        _check_checkpoint_name(self.checkpoint_name)
        _check_encoder(self, "encoder" in self._chosen)
        if self.patient_pattern and self.patient_table:
            raise ConfigError(
                "patient_pattern and patient_table are both set; set one of the two to none"
            )
        if self.val_split == 1 and self.test_split < 1:
            raise ConfigError(
                "val_split: 1 leaves nothing to train on; give a share below 1, "
                "or a count of patients"
            )
        return self

    def replace(self, **changes: Any) -> "Config":
        """A copy with changes: `cfg.replace(seed=1)`."""
        check_names(changes)
        changed = dataclasses.replace(self, **changes)
        _choose(changed, [*self._chosen, *changes])
        return changed.validate()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (lists for tuples), as saved to JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: str | Path) -> Path:
        """Write the config; the suffix decides the form: `.json`, `.toml` or `.cfg`."""
        path = Path(path)
        return files.write_text(path, fields.dump(self.to_dict(), path.suffix))


FIELDS = {setting.name: setting for setting in dataclasses.fields(Config)}
_HINTS = typing.get_type_hints(Config)

# Columns of the case table, which no class may be called.
RESERVED = set(
    """case patient split image labels row volume slice finding phase height width sha256
    annotated label_numbers channels problem
    spacing_row_mm spacing_col_mm spacing_slice_mm""".split()
)


def fields_that(affect: str) -> tuple[str, ...]:
    """The fields that affect one of `AFFECTS`, in their order: `fields_that("store")`."""
    return tuple(name for name, f in FIELDS.items() if affect in f.metadata["affects"])


def pick_size(otherwise: str = "full") -> str:
    """The size where none is named: `smoke` while `SEGLIB_SMOKE=1` (tests), else `otherwise`."""
    return "smoke" if os.environ.get("SEGLIB_SMOKE", "") not in ("", "0") else otherwise


def preset(name: str, size: str | None = None, **overrides: Any) -> Config:
    """The `Config` of one system.

    Naming an `encoder` is enough for a pretrained one, here, in a file, on the command line and in
    `cfg.encoder = ...`: it implies the architecture smp_unet, the encoder weights imagenet and, for
    3 channels, ImageNet's mean and std. Fields that are named as well, before or after, win. Where
    an `image_size` is named that the preset's patches exceed, training sees whole frames.

    Args:
        name: palm, rsna, cardiac, lung, binary, or another key of `presets.PRESETS`.
        size: full (the numbers of the system), medium (at most 20 minutes on a laptop's two
            cores), small (at most 5) or smoke (seconds); by default full, or smoke while
            `SEGLIB_SMOKE=1`.
        overrides: any field; these values win over those of the preset.

    Raises:
        ConfigError: unknown preset, size or field (names the nearest one), or a value of the wrong
            type or range.
    """
    return _make(name, size, overrides, chosen=overrides)


def _make(
    name: str, size: str | None, overrides: Mapping[str, Any], chosen: Iterable[str]
) -> Config:
    """`preset`, where the user has chosen only some of the overrides."""
    check("preset", name)
    size = check("size", size or pick_size())
    check_names(overrides)
    overrides = {name: check(name, value) for name, value in overrides.items()}
    values = presets.PRESETS[name].settings(size)
    values |= _channels_implied({**values, **overrides}, overrides)
    values |= overrides
    cfg = Config(**{**values, "preset": name, "size": size})
    _choose(cfg, chosen)
    return cfg.validate()


def _choose(cfg: Config, names: Iterable[str]) -> None:
    """Note the names of fields that the user has set, and set those that they decide."""
    chosen = cfg._chosen | set(names)
    object.__setattr__(cfg, "_chosen", chosen)
    implied = _channels_implied(vars(cfg), chosen)
    for name in implied.keys() - chosen:
        object.__setattr__(cfg, name, implied[name])
    if "encoder" in chosen:
        implied["encoder_weights"] = "imagenet"
        if "architecture" not in chosen and not _takes_encoder(cfg.architecture):
            object.__setattr__(cfg, "architecture", "smp_unet")
        if cfg.in_channels == 3:
            implied |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if chosen & {"encoder", "architecture"}:
        parameters = tables.parameters(tables.ARCHITECTURES[cfg.architecture].build)
        implied |= {name: FIELDS[name].default for name in PARTS if name not in parameters}
    if "image_size" in chosen and _patch_exceeds_frame(cfg):
        implied["patch_size"] = None  # that of a preset is for the preset's own frame
    if "class_names" in chosen and "task" not in chosen and len(cfg.class_names) > 1:
        implied |= _task_of_names(cfg)
    task = implied.get("task", cfg.task)
    if chosen & {"task", "class_names"} and task not in tables.LOSSES[cfg.loss].tasks:
        implied["loss"] = LOSS_OF_TASK[task]
    for name in implied.keys() - chosen:
        object.__setattr__(cfg, name, implied[name])


def _task_of_names(cfg: Config) -> dict[str, str]:
    """The task of several classes in the preset binary, which takes any data.

    Classes that exclude each other begin with the background, and those that may overlap have none.
    `layouts.scan` sees in the data which of both it holds.
    """
    if cfg.preset != "binary":
        return {}
    return {"task": "multiclass" if cfg.class_names[0] == "background" else "multilabel"}


def _channels_implied(values: Mapping[str, Any], chosen: Collection[str]) -> dict[str, Any]:
    """What naming the channels, or slices beside a slice, decides unless it is named as well.

    Neighbouring slices are grey: a preset's three channels of colour become one. A mean and a std
    of other channels become a single number.
    """
    n_names = len(values.get("channel_names") or ())
    has_context = "context_slices" in chosen and values.get("context_slices")
    if not has_context and not ("channel_names" in chosen and n_names > 1):
        return {}
    in_channels = values.get("in_channels", FIELDS["in_channels"].default)
    if "in_channels" not in chosen:
        in_channels = n_names if n_names > 1 else 1
    implied: dict[str, Any] = {"in_channels": in_channels}
    for name in ("mean", "std"):
        numbers = values.get(name, FIELDS[name].default)
        if len(numbers) not in (1, in_channels):
            implied[name] = (round(sum(numbers) / len(numbers), 3),)
    augment = values.get("augment")
    if isinstance(augment, Mapping):
        colours = {name for name, entry in tables.AUGMENTATIONS.items() if entry.channels}
        implied["augment"] = {k: value for k, value in augment.items() if k not in colours}
    return implied


def _patch_exceeds_frame(cfg: Config) -> bool:
    patch = cfg.patch_height_width
    return patch is not None and any(n > side for n, side in zip(patch, cfg.height_width))


def _takes_encoder(architecture: str) -> bool:
    return "encoder" in tables.parameters(tables.ARCHITECTURES[architecture].build)


def load(path: str | Path, **overrides: Any) -> Config:
    """A config from a `.json`, `.toml` or `.cfg` file.

    Fields that the file leaves out have the values of its `preset` and `size`.

    Raises:
        ConfigError: no such file, not readable, no `preset` in it, or a value as in `preset`.
    """
    path = Path(path)
    in_file = fields.read(path, _HINTS)
    values = {**in_file, **overrides}
    if "preset" not in values:
        names = ", ".join(presets.PRESETS)
        raise ConfigError(f"{path.name}: no 'preset'; add a line such as  preset = lung  ({names})")
    chosen = {*OF_CLASSES, *overrides} if _is_saved(in_file) else values
    cfg = from_dict(values, chosen)
    # In a saved file another encoder beside a network without one was written by hand.
    _check_encoder(cfg, cfg.encoder != FIELDS["encoder"].default)
    return cfg


def _is_saved(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of `Config.save`, which names every field: nobody chose them."""
    return {"encoder", *OF_ENCODER} <= set(values)


def names_in(path: str | Path) -> set[str]:
    """The fields that a config file sets itself; the others have the values of its preset."""
    return set(fields.read(Path(path), _HINTS))


def from_dict(values: Mapping[str, Any], chosen: Iterable[str] | None = None) -> Config:
    """The config of saved values, which hold at least `preset`; older versions' values also fit.

    Before version 0.2 `seed` also decided the split, and `crop` was the share of the frame that
    training saw.

    Args:
        chosen: the fields that count as named by the user; by default all, or none where the values
            are those of a saved config.
    """
    values = dict(values)
    if chosen is None:
        chosen = OF_CLASSES if _is_saved(values) else values
    chosen = set(chosen) & set(FIELDS) - {"preset", "size"}
    if "crop" in values:
        share = values.pop("crop")
        sides = _height_width(values.get("image_size", 256))
        patch = [max(min(side, 32), int(side * share) // 32 * 32) for side in sides]
        values["patch_size"] = patch if share < 1 else None
        values.setdefault("split_seed", values.get("seed", 0))
    return _make(values.pop("preset"), values.pop("size", None), values, chosen)


def check_names(names: Iterable[str]) -> None:
    """Raise `ConfigError` for a name that is no field, with the nearest one that is."""
    for name in names:
        if name not in FIELDS:
            near = fields.nearest(name, FIELDS)
            raise ConfigError(f"unknown setting {name!r}{near}; config.Config lists all of them")


def check(name: str, value: Any) -> Any:
    """The value of field `name` in its standard form.

    The name of a set of augmentations stays a name: which set "robust" is depends on the preset.

    Raises:
        ConfigError: no such field, or a value of the wrong type, choice or range.
    """
    check_names([name])
    if name == "augment" and isinstance(value, str):
        return _check_set_name(value)
    coerced = fields.coerce(value, _HINTS[name])
    metadata = FIELDS[name].metadata
    if coerced is fields.INVALID or (metadata["choices"] and coerced not in choices_of(name)):
        near = fields.nearest(value, choices_of(name)) if isinstance(value, str) else ""
        raise ConfigError(
            f"{name}: {value!r} is not allowed{near}; "
            f"expected {describe(name)} ({metadata['help']})"
        )
    _check_range(name, coerced)
    if name == "augment":
        _check_augment(coerced)
    if name in ("label_map", "mask_encoding") and isinstance(coerced, dict):
        _check_table(name, coerced)
    if name == "patient_pattern" and coerced is not None:
        _check_pattern(coerced)
    return coerced


def parse(name: str, text: str) -> Any:
    """The checked value of field `name` that `text`, of a command line, stands for."""
    check_names([name])
    return check(name, fields.from_text(text, _HINTS[name]))


def choices_of(name: str) -> tuple[str, ...]:
    """The texts that field `name` chooses from, by its type or a table; empty if it takes any."""
    choices = FIELDS[name].metadata["choices"]
    if choices:
        return tuple(choices())
    names: list[str] = []
    for hint in fields.alternatives(_HINTS[name]):
        if typing.get_origin(hint) is Literal:
            names += typing.get_args(hint)
    return tuple(names)


def describe(name: str) -> str:
    """What field `name` takes, in words, for an error message and the command line's help."""
    if FIELDS[name].metadata["choices"]:
        return " | ".join(map(repr, choices_of(name)))
    return fields.describe_type(_HINTS[name])


def _height_width(sides: Any) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def _check_pattern(pattern: str) -> None:
    """Raise `ConfigError` where this is no regular expression, or one without group `patient`."""
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ConfigError(
            f"patient_pattern: {pattern!r} is no regular expression ({error}); expected one such "
            "as '(?P<patient>[^_]+)_'"
        ) from error
    if "patient" not in groups:
        raise ConfigError(
            f"patient_pattern: {pattern!r} has no group called patient; expected one such as "
            "'(?P<patient>[^_]+)_'"
        )


def _check_range(name: str, value: Any) -> None:
    """Raise `ConfigError` where a number, or one of a list or table of numbers, is out of range."""
    metadata = FIELDS[name].metadata
    low, high = metadata["low"], metadata["high"]
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
                f"{name}: {number!r} is out of range; expected {limits} ({metadata['help']})"
            )


def _check_table(name: str, table: dict[str, int]) -> None:
    """Raise `ConfigError` for a wrong key or class number of `mask_encoding` or `label_map`."""
    n_numbers, largest, kind = 1, 65535, "a label number such as '5'"
    if name == "mask_encoding":
        n_numbers, largest, kind = 3, 255, "a colour such as '255,0,0'"
    for key, value in table.items():
        numbers = [text.strip() for text in key.split(",")]
        fits = all(number.isdecimal() and int(number) <= largest for number in numbers)
        if len(numbers) != n_numbers or not fits:
            raise ConfigError(f"{name}: {key!r} is not allowed as a key; expected {kind}")
        if not 0 <= value <= 255:
            raise ConfigError(
                f"{name}: {value} of {key!r} is out of range; expected a class number from 0 to 255"
            )


def _check_set_name(name: str) -> str:
    """The name of a set of augmentations; `ConfigError` where there is none of that name."""
    names = ("robust", *tables.AUGMENTATION_SETS)
    if name not in names:
        near = fields.nearest(name, names)
        raise ConfigError(
            f"augment: {name!r} is no set of augmentations{near}; choose from {', '.join(names)}, "
            "or give a table {name: probability}, {} for none"
        )
    return name


def _augmentation_set(cfg: Config, name: str) -> dict[str, Any]:
    """The set of this name without what does not suit the config.

    That is, flips where a class name says left or right, turns by 90 degrees where frames are not
    square, and what needs another number of channels.
    """
    if name == "robust":
        name = presets.PRESETS[cfg.preset].picture
    if name not in tables.AUGMENTATION_SETS:
        raise ConfigError(
            f"augment: the preset {cfg.preset!r} has no set 'robust', as its kind of picture is "
            f"{name!r}; choose from {', '.join(tables.AUGMENTATION_SETS)}"
        )
    unsuitable = set()
    if names_a_side(cfg.class_names):
        unsuitable |= {"hflip", "vflip"}
    height, width = cfg.network_height_width
    if height != width:
        unsuitable.add("rot90")
    for member, augmentation in tables.AUGMENTATIONS.items():
        if augmentation.channels not in (None, cfg.input_channels) or (
            augmentation.channels and _shows_sequences(cfg)
        ):
            unsuitable.add(member)
    chosen = tables.AUGMENTATION_SETS[name]
    return {member: value for member, value in chosen.items() if member not in unsuitable}


def names_a_side(class_names: Iterable[str]) -> bool:
    """Whether a class is the left or the right one of two, so that images must not be mirrored."""
    return any(_SIDE.search(name) for name in class_names)


# "left" or "right" as a word of a name: left_lung, LungRight, RIGHT, but not cleft or leftover.
_SIDE = re.compile(
    r"(?<![a-z])(?:left|right)(?![a-z])|(?:Left|Right)(?![a-z])|(?<![A-Z])(?:LEFT|RIGHT)(?![A-Z])"
)


def _check_augment(augment: dict[str, Any]) -> None:
    """Raise `ConfigError` for an unknown augmentation, or a wrong parameter of one."""
    for name, value in augment.items():
        if name not in tables.AUGMENTATIONS:
            near = fields.nearest(name, tables.AUGMENTATIONS)
            raise ConfigError(f"augment: unknown augmentation {name!r}{near}")
        parameters = value if isinstance(value, dict) else {"p": value}
        p = parameters.get("p", 1.0)
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ConfigError(
                f"augment: the probability of {name!r} is {p!r}; expected a number from 0 to 1"
            )
        augmentation = tables.AUGMENTATIONS[name]
        allowed = ("p", *augmentation.parameters)
        for parameter, setting in parameters.items():
            if parameter not in allowed:
                raise ConfigError(
                    f"augment: {name!r} has no parameter {parameter!r}; it takes {allowed}"
                )
            limits = augmentation.ranges.get(parameter, (-math.inf, math.inf))
            is_pair = parameter in augmentation.pairs
            expected = _expected_instead(parameter, setting, is_pair, *limits)
            if expected:
                raise ConfigError(
                    f"augment: {parameter!r} of {name!r} is {setting!r}; expected {expected}"
                )


def _expected_instead(parameter: str, value: Any, is_pair: bool, low: float, high: float) -> str:
    """What a parameter of an augmentation takes; empty if `value` is allowed."""
    if parameter == "fill":
        return "" if value in (0, "random_uniform") else "0 or 'random_uniform'"
    expected = "two numbers" if is_pair else "a number"
    if (low, high) != (-math.inf, math.inf):
        expected += f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
    if is_pair:
        expected += ", the lower one first"
    numbers = value if is_pair else [value]
    if not isinstance(numbers, (list, tuple)) or len(numbers) != (2 if is_pair else 1):
        return expected
    if not all(type(v) in (int, float) and low <= v <= high for v in numbers):  # NaN is refused too
        return expected
    return "" if all(math.isfinite(v) for v in numbers) and numbers[0] <= numbers[-1] else expected


def _check_classes(cfg: Config) -> None:
    """Raise `ConfigError` where class names, task and loss do not fit together."""
    names = cfg.class_names
    if len(set(names)) < len(names):
        raise ConfigError(f"class_names: {names} repeat a name; give each class its own")
    taken = sorted(RESERVED & set(names))
    if taken:
        raise ConfigError(
            f"class_names: {taken[0]!r} is a column of the case table; choose another name"
        )
    if (cfg.task == "binary") != (len(names) == 1):
        raise ConfigError(
            f"class_names: {len(names)} names for the task {cfg.task!r}; "
            "binary takes one name, the other tasks two or more"
        )
    if cfg.task not in tables.LOSSES[cfg.loss].tasks:
        fitting = [name for name, loss in tables.LOSSES.items() if cfg.task in loss.tasks]
        raise ConfigError(
            f"loss: {cfg.loss!r} does not fit the task {cfg.task!r}; "
            f"choose from {', '.join(fitting)}"
        )


def _check_class_numbers(cfg: Config) -> None:
    """Raise `ConfigError` for more classes than a label map holds, or for a number of no class."""
    is_multiclass = cfg.task == "multiclass"
    n_classes = cfg.n_classes if is_multiclass else 2  # each mask holds 0 and 1
    if n_classes > tables.IGNORE:
        raise ConfigError(
            f"class_names: {n_classes} classes, but a label map has the numbers 0 to 254, as 255 "
            "marks ignored pixels; name at most 255, with the background"
        )
    if cfg.task == "multilabel":
        return  # it has no label maps
    of_preset = presets.PRESETS[cfg.preset].full.get("label_map")
    for name in ("mask_encoding", "label_map"):
        table = getattr(cfg, name)
        # The table of a preset has the numbers of its own classes.
        if not isinstance(table, dict) or (name == "label_map" and table == of_preset):
            continue
        for key, number in table.items():
            if number >= n_classes and number != tables.IGNORE:
                classes = ", ".join(f"{k} {n}" for k, n in enumerate(cfg.class_names))
                if not is_multiclass:
                    classes = "0 no, 1 yes"
                raise ConfigError(
                    f"{name}: {number} of {key!r} is no class of the task {cfg.task!r} "
                    f"({classes}; 255 ignored); correct it, or class_names"
                )


def _check_image(cfg: Config) -> None:
    """Raise `ConfigError` where the settings of an image's channels and intensities disagree."""
    for name in ("mean", "std"):
        n_values = len(getattr(cfg, name))
        if n_values not in (1, cfg.in_channels):
            raise ConfigError(
                f"{name}: {n_values} values for in_channels={cfg.in_channels}; "
                "give one, or one per channel"
            )
    names = cfg.channels
    if len({name.casefold() for name in names}) < len(names):
        raise ConfigError(f"channel_names: {names} repeat a name; name each channel once")
    if len(names) > 1 and len(names) != cfg.in_channels:
        raise ConfigError(
            f"channel_names: {len(names)} names ({', '.join(names)}) for "
            f"in_channels={cfg.in_channels}; set in_channels={len(names)}"
        )
    if (cfg.window_level is None) != (cfg.window_width is None):
        raise ConfigError("window_level and window_width belong together: set both, or neither")
    if cfg.percentiles and cfg.percentiles[0] >= cfg.percentiles[1]:
        raise ConfigError(f"percentiles: {cfg.percentiles} must rise")


def _check_encoder(cfg: Config, is_named: bool) -> None:
    """Raise `ConfigError` where an encoder is named, and a network without one."""
    if is_named and not _takes_encoder(cfg.architecture):
        raise ConfigError(
            f"encoder: {cfg.encoder!r} is set, but the architecture {cfg.architecture!r} has no "
            "such encoder; leave the architecture out, or name no encoder"
        )


def _check_checkpoint_name(name: str) -> None:
    """Raise `ConfigError` for a name that another file of the run has, or that is none."""
    file_name = Path(name).name
    is_taken = file_name == "final_model.pth" or file_name.startswith("checkpoint_epoch_")
    is_taken |= Path(file_name).suffix in (".json", ".csv", ".png", ".ckpt")
    if is_taken or not Path(file_name).suffix:
        raise ConfigError(
            f"checkpoint_name: {name!r} is not allowed; expected the name of a file that ends in "
            ".pth, other than final_model.pth and checkpoint_epoch_N.pth"
        )


def _check_patches(cfg: Config) -> None:
    """Raise `ConfigError` for patches larger than the frame, or their number without a size."""
    if _patch_exceeds_frame(cfg):
        raise ConfigError(
            f"patch_size: {cfg.patch_size} is larger than image_size {cfg.image_size}; "
            "give at most that, or none for whole frames"
        )
    if not cfg.patch_size and cfg.patches_per_image > 1:
        raise ConfigError(
            f"patches_per_image: {cfg.patches_per_image} patches of whole frames are all alike; "
            "set patch_size as well, or leave it at 1"
        )


def _check_augment_fits(cfg: Config) -> None:
    """Raise `ConfigError` for augmentations that do not suit the images' sides or channels."""
    height, width = cfg.network_height_width
    if "rot90" in cfg.augment and height != width:
        raise ConfigError(
            f"augment: rot90 turns a frame of {height}x{width} on its side; it needs a square "
            "image_size, or a square patch_size; leave it out otherwise"
        )
    if _shows_sequences(cfg):
        for name in cfg.augment:
            if tables.AUGMENTATIONS[name].channels:
                raise ConfigError(
                    f"augment: {name!r} changes colours, and the channels are "
                    "sequences or slices (channel_names, context_slices); leave it out"
                )
    check_channels(cfg.augment, cfg.input_channels)


def _shows_sequences(cfg: Config) -> bool:
    """Whether the channels are sequences or slices of a volume, and no colours."""
    return bool(cfg.context_slices) or len(cfg.channels) > 1


def check_channels(augment: Iterable[str], in_channels: int) -> None:
    """Raise `ConfigError` for an augmentation of images with another number of channels."""
    for name in augment:
        n_channels = tables.AUGMENTATIONS[name].channels
        if n_channels not in (None, in_channels):
            raise ConfigError(
                f"augment: {name!r} changes images of {n_channels} channels, and in_channels is "
                f"{in_channels}; leave it out, or set in_channels={n_channels}"
            )
