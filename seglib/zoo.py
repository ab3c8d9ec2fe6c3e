"""Small trained networks that are called by a name, such as "lung", where a path is expected.

The package brings its own in the folder `weights`: of each `<name>.safetensors` (the weights,
mostly in half precision), `<name>.json` (see `runs.describe_weights`) and `<name>.md` (its model
card). The environment variable `SEGLIB_ZOO` may name another such folder, which is searched first.
`make zoo` trains those of the package; `save` writes any other network in the same form.
"""

import copy
import math
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from . import case_io, config, data, hosts, metrics, runs
from .errors import ConfigError, DataError, first_line
from .fields import nearest
from .files import SAFETENSORS
from .formats import images

FOLDER = Path(__file__).parent / "weights"
VARIABLE = "SEGLIB_ZOO"
NETWORKS = ("lung", "nuclei")  # those of the package

# By how much the stored weights may change the predictions of the network: the largest difference
# of a probability, and the share of pixels that go to another class. For trained lung networks both
# are far smaller (0.007 and below 0.01 %); single pixels of a contour differ most.
MOST_DIFFERENCE = 0.05
MOST_CHANGED = 0.001

# Settings that name files of the machine of the training. They are not part of a description.
PRIVATE = ("data_root", "patient_table", "init_from", *config.fields_that("place"))


@dataclass
class About:
    """What a model card tells beside the facts of the training. Everything is text for readers.

    Attributes:
        purpose: what the network segments, in which images.
        data: the images that it was trained on, and whom to cite.
        terms: licence or terms of these images.
        tests: scores on images that took no part in the training, one dict a figure with the keys
            `data`, `metric`, `value`, `n` and, for a 95 % interval, `low` and `high`. NaN stands
            for what there is not, as in the tables of a report.
        limits: where the network is known to fail, or was not tested.
        command: the command that trained it.
    """

    purpose: str = ""
    data: str = ""
    terms: str = ""
    tests: list[dict[str, Any]] = field(default_factory=list)
    limits: str = ""
    command: str = ""


def about_of(description: dict[str, Any]) -> About:
    """The `About` in a description; an empty one for weights that a training has written."""
    about = description.get("about") or {}
    return About(**{key: about[key] for key in About.__dataclass_fields__ if key in about})


# ---- find


def folders() -> list[Path]:
    """Where networks are looked for: the folder of `SEGLIB_ZOO`, where it is set, and `FOLDER`.

    Raises:
        ConfigError: the variable names no folder.
    """
    own = os.environ.get(VARIABLE)
    if not own:
        return [FOLDER]
    if not Path(own).is_dir():
        raise ConfigError(
            f"{VARIABLE}: {own!r} is no folder; set it to one that zoo.save wrote networks into, "
            "or unset it"
        )
    return [Path(own), FOLDER]


def paths() -> dict[str, Path]:
    """Name -> weights file of every network, in alphabetical order."""
    paths = {
        path.stem: path.with_suffix(SAFETENSORS)
        for folder in reversed(folders())
        for suffix in (SAFETENSORS, ".json")
        for path in folder.glob(f"*{suffix}")
    }
    return dict(sorted(paths.items()))


def listing() -> pd.DataFrame:
    """One row for each network: name, purpose, classes, megabytes, file.

    A network that cannot be used has the reason in place of its purpose.
    """
    rows = []
    for name, path in paths().items():
        row = {"name": name, "purpose": "", "classes": "", "mb": np.nan, "file": str(path)}
        try:
            description = _describe(name, path)
        except DataError as error:
            row["purpose"] = f"cannot be used: {first_line(error)}"
        else:
            row["purpose"] = about_of(description).purpose
            row["classes"] = ", ".join(description["class_names"])
            row["mb"] = round(path.stat().st_size / 1e6, 1)
        rows.append(row)
    return pd.DataFrame(rows, columns=["name", "purpose", "classes", "mb", "file"])


def advice() -> str:
    """The networks as options of the command line, with what they are for; "" without any."""
    rows = [f"--model {row.name} ({row.purpose})" for row in listing().itertuples(index=False)]
    return ", ".join(rows)


def is_name(weights: str | Path) -> bool:
    """Whether weights are named as those of the zoo are: a string without folder and suffix.

    A `Path` is always the path of a file.
    """
    return isinstance(weights, str) and re.fullmatch(r"\w[\w-]*", weights) is not None


def resolve(name_or_path: str | Path) -> Path:
    """The weights file of a network of the zoo, checked; any other path as it is.

    A bare name means the network of the zoo even where the current folder has a file or folder of
    this name, so that a line of code means the same everywhere; it then warns. `./lung` and
    `Path("lung")` mean the file.

    Raises:
        DataError: no such name (suggests the nearest), or the files of the network are incomplete
            or damaged.
    """
    if not is_name(name_or_path):
        return Path(name_or_path)
    name, networks = str(name_or_path), paths()
    here = Path(name)
    if name in networks:
        _describe(name, networks[name])
        if here.exists():
            kind = "folder" if here.is_dir() else "file"
            warnings.warn(
                f"{name}: the network {networks[name]} is used, because a name without folder and "
                f"suffix is one of the zoo; the {kind} {name} of the current folder is ./{name}",
                stacklevel=3,
            )
        return networks[name]
    if here.exists():
        return here
    names = f"the networks are {', '.join(networks)}" if networks else "there are no networks"
    raise DataError(
        f"{name}: no such weights file, and no network of this name in "
        f"{' or '.join(map(str, folders()))}{nearest(name, networks)}; {names}"
    )


def _describe(name: str, path: Path) -> dict[str, Any]:
    """The description of a network whose files are complete and undamaged."""
    remedy = "install the package again" if path.parent == FOLDER else "write it again (zoo.save)"
    try:
        description = runs.describe_weights(path)
    except DataError as error:
        raise DataError(f"{name}: this network cannot be used: {error}; {remedy}") from error
    if not description.get("weights_sha256"):
        raise DataError(f"{name}: {path.stem}.json lacks the weights_sha256; {remedy}")
    return description


# ---- write


def save(
    source: Any,
    name: str,
    folder: str | Path,
    pictures: Iterable[str | Path | np.ndarray],
    about: About | None = None,
) -> Path:
    """Write the network of a run or a predictor as `<name>.safetensors` and `<name>.json`.

    Kernels are stored in half precision; biases, batch norm and its running statistics, which may
    lie outside its range, stay in float32. Before anything is written, the stored weights must give
    the predictions of the network on `pictures`: no probability differs by more than
    `MOST_DIFFERENCE`, and at most the share `MOST_CHANGED` of the pixels changes its class. The
    description holds no path of this machine. `export.model_card` writes the model card.

    Args:
        source: a `Run`, whose best weights are taken, or a `Predictor`. Options of a predictor such
            as `tta` are not stored.
        name: letters, digits, `_` and `-`.
        pictures: real images of the kind that the network is for: files, or arrays as
            `Predictor.predict` takes them.
        about: what the model card shall tell.

    Returns:
        The weights file.

    Raises:
        ConfigError: such a name cannot be called, or there are no pictures.
        DataError: the weights do not fit into half precision, or several networks, thresholds or a
            temperature, which would be lost.
    """
    if not is_name(name):
        raise ConfigError(f"name: {name!r} is not allowed; expected letters, digits, _ and -")
    network, cfg, description = _network_of(source)
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    stored = {key: _stored(key, value) for key, value in state.items()}
    _check_predictions(network, stored, [_fitted(picture, cfg) for picture in pictures], cfg)
    versions = hosts.describe()
    facts = {key: description.get(key) for key in ("precision", "network", "loss", "epoch")}
    facts |= {"trained_on": description.get("trained_on"), "about": _as_json(about or About())}
    facts["scores"] = description.get("scores") or {}
    facts["versions"] = {key: versions[key] for key in ("python", "seglib", *hosts.PACKAGES)}
    return runs.save_state(
        Path(folder) / f"{name}{SAFETENSORS}", stored, _without_paths(cfg), **facts
    )


def _as_json(about: About) -> dict[str, Any]:
    """An `About` with plain numbers, and null for NaN."""
    required = {"data", "metric", "value", "n"}
    for row in about.tests:
        if not required <= set(row):
            raise ConfigError(
                f"about: a row of tests has the keys {', '.join(row)}; expected "
                "data, metric, value and n, and low and high for an interval"
            )
    plain = [{key: _plain(value) for key, value in row.items()} for row in about.tests]
    return asdict(about) | {"tests": plain}


def _plain(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _network_of(source: Any) -> tuple[nn.Module, config.Config, dict[str, Any]]:
    """A copy of the network in float32 on the CPU, its config and its description."""
    if hasattr(source, "best"):
        description = runs.describe_weights(source.best)
        cfg = config.from_dict(description["config"])
        network = copy.deepcopy(source.model)
        if network is None:
            network = runs.network(cfg, pretrained=False, strict=False)
        return runs.load_weights(source.best, network).cpu().eval(), cfg, description
    n_networks = len(getattr(source, "models", [source]))
    if n_networks > 1:
        raise DataError(f"source: an ensemble of {n_networks} networks; save one of them")
    if source.temperature != 1 or source.thresholds is not None:
        raise DataError(
            "source: this predictor has a temperature or thresholds, which weights do not hold; "
            "save the predictor as it was loaded, and set them after loading"
        )
    description = runs.describe_weights(source.weights) if source.weights else {}
    description = {"trained_on": source.trained_on, "precision": source.precision, **description}
    return copy.deepcopy(source.model).float().cpu().eval(), source.config, description


def _stored(name: str, value: Tensor) -> Tensor:
    """A tensor of a state_dict as it is stored; one that half precision cannot hold is refused."""
    if not value.is_floating_point():
        return value.clone()
    stored = value.half() if value.ndim > 1 else value.float().clone()
    if not torch.isfinite(stored).all():
        largest = value.abs().max().item()
        raise DataError(
            f"{name}: its largest weight is {largest:.4g}, half precision ends at 65504; train "
            "with a weight_decay or clip, or keep the .pth file of the run"
        )
    return stored.contiguous()


def _fitted(picture: str | Path | np.ndarray, cfg) -> np.ndarray:
    """A picture in the frame of the network, (H, W, C) uint8."""
    if isinstance(picture, str | Path):
        pixels = case_io.read_picture(picture, cfg)
    else:
        pixels = images.as_channels(
            images.to_uint8(np.asarray(picture), cfg.percentiles), cfg.input_channels
        )
    return images.fit_image(pixels, cfg.height_width, cfg.resize)


@torch.inference_mode()
def _check_predictions(
    network: nn.Module, stored: dict[str, Tensor], frames: list[np.ndarray], cfg
) -> None:
    """Refuse stored weights that change the predictions of the network on these frames."""
    if not frames:
        raise ConfigError(
            "pictures: none were passed; give some real images, on which the stored weights are "
            "compared with the network"
        )
    rounded = copy.deepcopy(network)
    rounded.load_state_dict(stored)
    table = data.normalisation_table(cfg.mean, cfg.std, cfg.input_channels)
    largest, n_changed, n_pixels = 0.0, 0, 0
    for frame in frames:
        for part in _parts(frame, cfg.patch_height_width or cfg.height_width):
            batch = torch.from_numpy(data.normalise(part, table))[None]
            first, second = (
                metrics.probabilities(model(batch).float(), cfg.task)
                for model in (network, rounded)
            )
            before, after = (
                metrics.to_one_hot(prob, cfg.task, cfg.threshold) for prob in (first, second)
            )
            largest = max(largest, (first - second).abs().max().item())
            n_changed += (before != after).any(dim=1).sum().item()
            n_pixels += before[0, 0].numel()
    share = n_changed / n_pixels
    if not (largest <= MOST_DIFFERENCE and share <= MOST_CHANGED):  # NaN is refused as well
        raise DataError(
            f"in half precision the network predicts otherwise: a probability differs by "
            f"{largest:.3g} (at most {MOST_DIFFERENCE:g} is allowed), and {share:.2%} of the "
            f"pixels change their class (at most {MOST_CHANGED:.1%}); keep the .pth file of the run"
        )


def _parts(frame: np.ndarray, sides: tuple[int, int]) -> list[np.ndarray]:
    """The frame itself, or the patches that lie side by side in it."""
    height, width = sides
    return [
        frame[row : row + height, column : column + width]
        for row in range(0, frame.shape[0] - height + 1, height)
        for column in range(0, frame.shape[1] - width + 1, width)
    ]


def _without_paths(cfg) -> config.Config:
    """The config without the settings that name files of this machine."""
    public = {name: getattr(config.Config(), name) for name in PRIVATE}
    if cfg.encoder_weights != "imagenet":
        public["encoder_weights"] = "none"
    return cfg.replace(**public)
