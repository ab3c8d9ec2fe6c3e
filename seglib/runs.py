"""The files of a run: weights, the description beside them, history, and the checkpoint to resume.

Weights are a plain `state_dict` that `torch.load` opens with its safe default; `<name>.json` beside
them says how to rebuild the network. Every file is written under a temporary name and renamed.
"""

import contextlib
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from . import config, files, hosts, models, tables
from .errors import ConfigError, DataError, listed
from .files import load_safely
from .formats import images

# Checkpoints after the last epoch and the one before it. If the last one is damaged, only one
# epoch is lost.
LAST, BEFORE = "last.ckpt", "before.ckpt"
# A cross-validation has the first file in its folder, and the second in that of each finished run.
FOLDS, FOLD = "folds.json", "fold.json"
# A folder without any of these was not written by a training, and is never renamed.
FILES_OF_RUNS = ("config.json", "*.pth", "*.ckpt", "folds.csv", ".partial_*")
EARLIER = "earlier_weights"  # the key of a description that holds that of the weights before


@dataclass
class Run:
    """A finished or interrupted training.

    Attributes:
        folder: where its files lie.
        config: its settings.
        history: one row per epoch.
        info: device, precision, versions, seconds and numbers of images; `network` and `loss` are
            the names of those that were passed to `fit`, None for those of the config.
        model: the network that was passed to `fit`, None for the config's. It is not saved.
    """

    folder: Path
    config: config.Config
    history: pd.DataFrame
    info: dict[str, Any]
    model: torch.nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> Path:
        """The weights that the monitor chose."""
        return self.folder / self.config.checkpoint_name

    @classmethod
    def load(cls, folder: str | Path, model: torch.nn.Module | None = None) -> "Run":
        """A run from its folder, for example to evaluate it in another notebook.

        Args:
            model: a network of the class that was passed to `fit`, if one was. Its weights do not
                matter, as evaluation loads the best ones.

        Raises:
            DataError: there is no run in this folder, or its files are damaged.
        """
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise DataError(
                f"{folder}: no run here (run.json is missing); "
                "training.fit makes one in work_dir/<preset>"
            )
        try:
            info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            history = pd.read_csv(folder / "history.csv")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder}: run.json or history.csv is damaged ({error}); copy the folder again"
            ) from error
        cfg = config.load(folder / "config.json")
        return cls(folder=folder, config=cfg, history=history, info=info, model=model)

    def save(self) -> None:
        """Write config, history and info into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(self.folder / "config.json", json.dumps(self.config.to_dict(), indent=2))
        files.write_text(self.folder / "history.csv", self.history.to_csv(index=False))
        files.write_text(self.folder / "run.json", json.dumps(self.info, indent=2))


def folder_of(cfg) -> Path:
    """`work_dir/<preset>`, where the run of this config lies."""
    return Path(hosts.run_root(cfg)) / cfg.preset


def move_aside(folder: Path) -> Path | None:
    """Rename an old run to `<folder>.1`, `.2`, ... so that a new one never overwrites it; returns
    the new name.

    Raises:
        ConfigError: a file, or a folder of something else, such as images.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: a file; give a folder for the run")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not any(path for pattern in FILES_OF_RUNS for path in folder.glob(pattern)):
        names = listed(sorted(path.name for path in folder.iterdir()))
        raise ConfigError(
            f"{folder}: holds no run but {names}; give a new or an empty folder for the run"
        )
    number = 1
    while folder.with_name(f"{folder.name}.{number}").exists():
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.{number}"))


def folds_folder(run_folder: Path) -> Path:
    """Where the cross-validation lies whose single run would lie in `run_folder`."""
    return run_folder.with_name(f"{run_folder.name}_folds")


def cross_validation_of(weights: Path) -> Path | None:
    """The folder of the cross-validation that a weights file belongs to; None for other weights."""
    folder = weights.parent.parent
    return folder if (folder / FOLDS).is_file() else None


def fold_folder(folder: Path, fold: int, seed: int) -> Path:
    """The run folder of one fold and one seed in the folder of a cross-validation."""
    return folder / f"fold_{fold}_seed_{seed}"


def weights_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The weights files that a path means: itself, each of several paths, or the best weights of
    all runs of a cross-validation, by its folder.

    Raises:
        DataError: no path, a folder of something else, or a cross-validation that is not finished.
    """
    if not isinstance(source, (str, Path)):
        if not source:
            raise DataError("no weights file is given; expected one or several")
        return [path for part in source for path in weights_files(part)]
    folder = Path(source)
    if not folder.is_dir():
        return [folder]
    try:
        plan = json.loads((folder / FOLDS).read_text(encoding="utf-8"))
        name = plan["config"]["checkpoint_name"]
        runs = [(fold, seed) for seed in plan["seeds"] for fold in range(plan["folds"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: a folder without a whole {FOLDS}; give the weights file in it, such as "
            "best_model.pth, or the folder that training.cross_validate has written"
        ) from error
    folders = [fold_folder(folder, fold, seed) for fold, seed in runs]
    unfinished = [path.name for path in folders if not (path / FOLD).is_file()]
    if unfinished:
        raise DataError(
            f"{folder}: {len(unfinished)} of {len(folders)} trainings of this cross-validation are "
            f"not finished ({listed(unfinished)}); go on with it, or give single weights files"
        )
    return [path / name for path in folders]


def network(cfg, pretrained: bool = True, strict: bool = True) -> torch.nn.Module:
    """The network that a config describes, with fresh weights.

    Args:
        pretrained: False where other weights are loaded into it at once, so that no encoder weights
            are read or downloaded in vain.
        strict: see `models.build`.

    Raises:
        ConfigError: images or patches are smaller than the network's poolings allow, its weights
            take more memory than there is, or as in `models.build`.
    """
    _check_sides(cfg)
    settings = cfg.settings
    if not pretrained:
        settings["encoder_weights"] = "none"
    _check_memory(cfg.architecture, settings)
    return models.build(strict=strict, **settings)


def _check_memory(architecture: str, settings: dict[str, Any]) -> None:
    """Refuse a network whose weights alone take more than the memory of this machine.

    Building it would make the system end this process, without a message.
    """
    parameters = tables.parameters(tables.ARCHITECTURES[architecture].build)
    if "base_channels" not in parameters:
        return
    # torch's `meta` device knows the shapes of the weights and does not store them.
    with torch.device("meta"):
        n_bytes = 4 * models.n_parameters(models.build(strict=False, **settings))
    available = hosts.memory_bytes()
    if available and n_bytes > available:
        raise ConfigError(
            f"base_channels: the weights of this network take {n_bytes / 2**30:.0f} GB, this "
            f"machine has {available / 2**30:.0f} GB; set a smaller base_channels (now "
            f"{settings['base_channels']}) or a smaller depth"
        )


def _check_sides(cfg) -> None:
    """Refuse images or patches of which the poolings would leave less than a pixel."""
    poolings = tables.ARCHITECTURES[cfg.architecture].poolings
    remedy = "or choose another architecture"
    if isinstance(poolings, str):
        remedy = f"or a smaller {poolings}"
        poolings = getattr(cfg, poolings)
    if cfg.stem != "full":
        poolings += 1
    for name, sides in (("image_size", cfg.height_width), ("patch_size", cfg.patch_height_width)):
        if sides and min(sides) < 2**poolings:
            raise ConfigError(
                f"{name}: {getattr(cfg, name)} is too small for {cfg.architecture}, which halves "
                f"the image {poolings} times; set sides of at least {2**poolings}, {remedy}"
            )


def save_weights(path: Path, model: torch.nn.Module, cfg, **facts: Any) -> Path:
    """Write `path` (state_dict only) and `<stem>.json`: config, classes, versions, sha256 of the
    weights, and `facts`, such as epoch and scores.

    A process may be killed between the two files. The JSON is therefore written first, and holds
    the description of the earlier weights as well until the new ones have replaced them: at every
    moment `describe_weights` finds the one that belongs to the weights.

    In the JSON, `precision` is null unless `facts` name that of the training, and `network` and
    `loss` unless they name those that were passed to `fit`.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return save_state(path, state, cfg, **facts)


def save_state(path: Path, state: dict[str, torch.Tensor], cfg, **facts: Any) -> Path:
    """What `save_weights` does, for a state_dict; the suffix of `path` decides the format."""
    description = {
        "config": cfg.to_dict(),
        "class_names": list(cfg.class_names),
        "mean": list(cfg.mean),
        "std": list(cfg.std),
        "precision": None,
        "network": None,
        "loss": None,
        "versions": hosts.describe(),
        **facts,
    }
    beside = path.with_suffix(".json")
    with files.replacing(path) as partial:
        if path.suffix == files.SAFETENSORS:
            partial.write_bytes(safetensors.torch.save(state))
        else:
            torch.save(state, partial)
        description["weights_sha256"] = images.sha256(partial)
        with contextlib.suppress(DataError):  # there may be no earlier weights
            description[EARLIER] = describe_weights(path)
        _write_json(beside, description)
    if description.pop(EARLIER, None):
        _write_json(beside, description)
    return path


def _write_json(path: Path, description: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(description, indent=2, allow_nan=False))


def load_weights(path: str | Path, model: torch.nn.Module) -> torch.nn.Module:
    """Load the weights of a `.pth` or `.safetensors` file into a network, in its own precision.

    Nothing in the file is executed.

    Raises:
        DataError: missing or torn file, a file that holds more than tensors and plain values, or
            the weights of another network.
    """
    return load_state(model, read_state(path), str(path))


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The state_dict in a weights file, as a dictionary of its own.

    Raises:
        DataError: missing or torn file, or one without a state_dict.
    """
    state = load_safely(path)
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise DataError(
            f"{path}: found no state_dict (name -> tensor); "
            "save one with torch.save(model.state_dict(), path)"
        )
    return dict(state)


def load_state(
    model: torch.nn.Module, state: dict[str, torch.Tensor], source: str
) -> torch.nn.Module:
    """`load_state_dict` with a `DataError` that says how weights and network differ; `source` names
    the file."""
    differences = files.state_differences(model.state_dict(), state)
    if differences:
        raise DataError(
            f"{source}: weights of another network: {'; '.join(differences)}; use the config that "
            "lies beside them, or the same architecture, base_channels, depth, stem and classes"
        )
    model.load_state_dict(state)
    return model


def describe_weights(path: str | Path) -> dict[str, Any]:
    """The JSON beside a weights file: config, class names, versions and scores.

    Raises:
        DataError: a file is missing or damaged, or the JSON describes other weights.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such weights file; training writes best_model.pth into work_dir/<preset>"
        )
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise DataError(
            f"{path}: {beside.name} is missing beside it; it says how to rebuild the network: "
            "copy both files"
        )
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
        if not {"preset", "size"} <= set(description["config"]):
            raise ValueError("its config names no preset and size")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{beside}: not the description of weights ({error}); copy it again from the run"
        ) from error
    sha256 = images.sha256(path)
    for candidate in (description, description.pop(EARLIER, {})):
        # Descriptions of other programs may lack the sha256 of the weights.
        if candidate and candidate.get("weights_sha256", sha256) == sha256:
            return candidate
    load_safely(path)  # a damaged file has an error of its own
    raise DataError(
        f"{path}: {beside.name} beside it describes other weights: their weights_sha256 begins "
        f"with {description['weights_sha256'][:12]}, that of this file with {sha256[:12]}; one of "
        "the two is damaged or of another run: copy both files from one run, or write weights that "
        "you have changed with runs.save_weights"
    )


def trained_on(path: str | Path) -> set[str]:
    """First 16 characters of the hashes of the images that weights have seen; empty where no JSON
    beside the file tells."""
    try:
        return set(describe_weights(path).get("trained_on") or ())
    except DataError:  # weights of other programs
        return set()


# ---- resume an interrupted training


def save_checkpoint(folder: Path, **state: Any) -> None:
    """Write the state after an epoch, with that of the random number generators; `LAST` becomes
    `BEFORE`."""
    with files.replacing(folder / LAST, before=folder / BEFORE) as partial:
        torch.save({**state, "random": _random_state(state["info"]["device"])}, partial)


def drop_checkpoint_before(folder: Path) -> None:
    """Remove the second newest checkpoint of a finished run; the last one is enough to train more
    epochs."""
    (folder / BEFORE).unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state to resume from; None if there is none. If `LAST` is damaged, that of `BEFORE`.

    Raises:
        DataError: there are checkpoints, but none of them can be loaded.
    """
    errors = []
    for path in (folder / LAST, folder / BEFORE):
        if not path.is_file():
            continue
        try:
            checkpoint = load_safely(path)
        except DataError as error:
            errors.append(error)
            continue
        _check_checkpoint(checkpoint, path)
        for error in errors:
            warnings.warn(f"{error}; the run goes on from {BEFORE}, an epoch earlier", stacklevel=2)
        return checkpoint
    if errors:
        raise errors[0]
    return None


def _check_checkpoint(checkpoint: Any, path: Path) -> None:
    required = {"model", "config", "random", "state"}
    if not isinstance(checkpoint, dict) or not required <= set(checkpoint):
        raise DataError(
            f"{path}: not a state to resume from, or of an older version; "
            "start anew (init_from takes over weights)"
        )


def check_resumable(
    checkpoint: dict[str, Any],
    cfg,
    n_images: int,
    by_step: bool,
    network: str | None = None,
    loss: str | None = None,
) -> None:
    """Warn where config, images or loss differ from those that the run was begun with.

    Args:
        n_images: number of training images now.
        by_step: whether the schedule counts updates; if so, their number cannot change.
        network, loss: names of those that are passed to `fit` now, None for those of the config.

    Raises:
        ConfigError: a difference that the run cannot be resumed with.
    """
    _check_network(checkpoint["info"].get("network"), network)
    changes = _changed_settings(checkpoint, cfg, by_step)
    changes += _changed_loss(checkpoint["info"].get("loss"), loss)
    if changes:
        warnings.warn(f"resumed with changed settings: {', '.join(changes)}", stacklevel=2)
    n_before = checkpoint["info"]["images"]["train"]
    if n_images == n_before:
        return
    if by_step:
        raise ConfigError(
            f"this run was begun with {n_before} training images, now there are {n_images}; "
            "start anew"
        )
    warnings.warn(f"resumed with {n_images} training images instead of {n_before}", stacklevel=2)


def _check_network(before: str | None, now: str | None) -> None:
    """Refuse another class of network than that of the run; None is the network of the config."""
    if before == now:
        return
    if now is None:
        raise ConfigError(
            f"model: this run trains a network of your own, {before}; pass it again: "
            f"fit(cfg, batches, model={before}(...), resume=True)"
        )
    begun = "the network of its config" if before is None else before
    raise ConfigError(
        f"model: this run was begun with {begun}, not with {now}; resume with that, or start anew"
    )


def _changed_loss(before: str | None, now: str | None) -> list[str]:
    if before == now:
        return []
    if now is None:
        raise ConfigError(
            f"loss: this run trains with a loss of your own, {before}; pass it again: "
            f"fit(cfg, batches, loss={before}, resume=True)"
        )
    return [f"loss {before or 'of the config'} -> {now}"]


def _changed_settings(checkpoint: dict[str, Any], cfg, by_step: bool) -> list[str]:
    """The changes to warn of, `name old -> new`; raises `ConfigError` where one is not allowed."""
    before = config.from_dict(checkpoint["config"]).to_dict()
    now = cfg.to_dict()
    changed = [name for name in now if before[name] != now[name]]
    rules = {name: config.FIELDS[name].metadata["resume"] for name in changed}
    if by_step:
        rules |= dict.fromkeys(set(config.fields_that("updates")) & set(changed), "fixed")
    refused = [name for name in changed if rules[name] == "fixed"]
    if refused:
        values = ", ".join(f"{name}={before[name]!r}" for name in refused)
        raise ConfigError(
            f"{', '.join(refused)}: this run was begun with {values}; resume with that, or start "
            "anew (init_from takes over weights)"
        )
    return [
        f"{name} {before[name]!r} -> {now[name]!r}" for name in changed if rules[name] == "told"
    ]


def _random_state(device: str) -> dict[str, Any]:
    """The states of the generators of torch, numpy and Python, as plain values and tensors."""
    of_numpy = np.random.get_state(legacy=False)
    state = {
        "torch": torch.get_rng_state(),
        "numpy": {
            "key": torch.from_numpy(of_numpy["state"]["key"].astype(np.int64)),
            "pos": int(of_numpy["state"]["pos"]),
            "gauss": float(of_numpy["gauss"]),
            "has_gauss": int(of_numpy["has_gauss"]),
        },
        "python": random.getstate(),
    }
    if device == "cuda":  # a GPU that was not chosen may fail, so it is not asked
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to the states that `save_checkpoint` stored."""
    of_numpy = state["numpy"]
    key = of_numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": of_numpy["pos"]},
            "gauss": of_numpy["gauss"],
            "has_gauss": of_numpy["has_gauss"],
        }
    )
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
