"""What a run leaves on disk: weights, the description beside them, history, and the file to resume from.

Weights are a plain `state_dict` that `torch.load` opens with its safe default; `<name>.json` beside them says how to
rebuild the network. Every file is written under a temporary name and renamed.
"""

import hashlib
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import config, files, hosts, models
from .errors import ConfigError, DataError
from .files import load_safely

# The checkpoint after the last epoch, and the one before: a damaged last one costs an epoch only.
LAST, BEFORE = "last.ckpt", "before.ckpt"


@dataclass
class Run:
    """A finished or interrupted training: `folder`, `best` (path of the best weights), `history` (a row an epoch),
    `config`, and `info` (device, precision, versions, seconds, numbers of images)."""

    folder: Path
    config: config.Config
    history: pd.DataFrame
    info: dict[str, Any]

    @property
    def best(self) -> Path:
        """The weights that the monitor chose."""
        return self.folder / self.config.checkpoint_name

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """A run from its folder, for example to evaluate it in another notebook."""
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise DataError(
                f"{folder}: no run here (run.json is missing); training.fit makes one in work_dir/<preset>"
            )
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return cls(
            folder, config.load(folder / "config.json"), pd.read_csv(folder / "history.csv"), info
        )

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
    """Rename an old run to `<folder>.1`, `.2`, ... so that a new one never overwrites it; returns the new name."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    number = 1
    while folder.with_name(f"{folder.name}.{number}").exists():
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.{number}"))


def network(cfg, pretrained: bool = True) -> torch.nn.Module:
    """The network that a config describes, with fresh weights.

    Args:
        pretrained: False where other weights are loaded into it at once, so that no encoder weights are read or
            downloaded in vain.
    """
    settings = cfg.settings
    if not pretrained:
        settings["encoder_weights"] = "none"
    return models.build(**settings)


def save_weights(path: Path, model: torch.nn.Module, cfg, **facts: Any) -> Path:
    """Write `path` (state_dict only) and `<stem>.json`: config, classes, versions, facts, sha256 of the weights."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with files.replacing(path) as partial:
        torch.save(state, partial)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {
        "config": cfg.to_dict(),
        "class_names": list(cfg.class_names),
        "mean": list(cfg.mean),
        "std": list(cfg.std),
    }
    about |= {"versions": hosts.describe(), "weights_sha256": digest, **facts}
    files.write_text(path.with_suffix(".json"), json.dumps(about, indent=2, allow_nan=False))
    return path


def load_weights(path: str | Path, model: torch.nn.Module) -> torch.nn.Module:
    """Put the weights of a `.pth` file into a network. Nothing in the file is executed.

    Raises:
        DataError: missing or torn file, a file that holds more than tensors and plain values, or the weights of
            another network.
    """
    state = load_safely(path)
    return load_state(
        model, state.get("state_dict", state) if isinstance(state, dict) else state, str(path)
    )


def load_state(model: torch.nn.Module, state: Any, source: str) -> torch.nn.Module:
    """`load_state_dict` with a `DataError` that says how weights and network differ; `source` names the file."""
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise DataError(
            f"{source}: found no state_dict (name -> tensor); save one with torch.save(model.state_dict(), path)"
        )
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    details = [f"{len(missing)} missing ({missing[0]} …)"] if missing else []
    details += [f"{len(extra)} unknown ({extra[0]} …)"] if extra else []
    shapes = [(k, tuple(state[k].shape), tuple(v.shape)) for k, v in wanted.items() if k in state]
    details += [
        f"{k} is {found}, the network has {here}" for k, found, here in shapes if found != here
    ][:2]
    if details:
        raise DataError(
            f"{source}: weights of another network: {'; '.join(details)}; use the config that lies beside them, or the "
            "same architecture, base_channels, depth and classes"
        )
    model.load_state_dict(state)
    return model


def describe_weights(path: str | Path) -> dict[str, Any]:
    """The JSON beside a weights file: config, class names, versions and scores."""
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such weights file; training writes best_model.pth into work_dir/<preset>"
        )
    about = path.with_suffix(".json")
    if not about.is_file():
        raise DataError(
            f"{path}: {about.name} is missing beside it; it says how to rebuild the network: copy both files"
        )
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        if not {"preset", "size"} <= set(found["config"]):
            raise ValueError("its config names no preset and size")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{about}: not the description of weights ({error}); copy it again from the run"
        ) from error
    return found


# ---- going on with an interrupted training


def save_checkpoint(folder: Path, **state: Any) -> None:
    """Write the state after an epoch, with the generators of random numbers; the last one becomes the one before."""
    with files.replacing(folder / LAST, before=folder / BEFORE) as partial:
        torch.save({**state, "random": _random_state(state["info"]["device"])}, partial)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state to go on from, None where there is none; that of the epoch before where the last file is damaged.

    Raises:
        DataError: there is one, but neither it nor the one before can be loaded.
    """
    errors = []
    for path in (folder / LAST, folder / BEFORE):
        if not path.is_file():
            continue
        try:
            found = load_safely(path)
        except DataError as error:
            errors.append(error)
            continue
        if not isinstance(found, dict) or not {"model", "config", "random", "state"} <= set(found):
            raise DataError(
                f"{path}: not a state to resume from, or of an older version; start anew (init_from takes over weights)"
            )
        for error in errors:
            warnings.warn(f"{error}; the run goes on from {BEFORE}, an epoch earlier", stacklevel=4)
        return found
    if errors:
        raise errors[0]
    return None


def check_resumable(kept: dict[str, Any], cfg, n_images: int, by_step: bool) -> None:
    """Warn where config or images differ from those that the run was begun with.

    Args:
        by_step: the schedule counts updates, so that their number cannot change.

    Raises:
        ConfigError: they contradict the run.
    """
    begun, now = config.from_dict(kept["config"]).to_dict(), cfg.to_dict()
    changed = [name for name in now if begun[name] != now[name]]
    rules = {name: config.FIELDS[name].metadata["resume"] for name in changed}
    if by_step:
        rules |= dict.fromkeys(set(config.fields_that("updates")) & set(changed), "fixed")
    refused = [name for name in changed if rules[name] == "fixed"]
    if refused:
        values = ", ".join(f"{name}={begun[name]!r}" for name in refused)
        raise ConfigError(
            f"{', '.join(refused)}: this run was begun with {values}; resume with that, or start "
            "anew (init_from takes over weights)"
        )
    told = [f"{n} {begun[n]!r} -> {now[n]!r}" for n in changed if rules[n] == "told"]
    if told:
        warnings.warn(f"resumed with changed settings: {', '.join(told)}", stacklevel=4)
    were = kept["info"]["images"]["train"]
    if n_images != were:
        if by_step:
            raise ConfigError(
                f"this run was begun with {were} training images, now there are {n_images}; start anew"
            )
        warnings.warn(f"resumed with {n_images} training images instead of {were}", stacklevel=4)


def _random_state(device: str) -> dict[str, Any]:
    """The generators of torch, numpy and Python, as plain values and tensors."""
    numbers = np.random.get_state(legacy=False)
    kept = {
        "key": torch.from_numpy(numbers["state"]["key"].astype(np.int64)),
        "pos": int(numbers["state"]["pos"]),
    }
    kept |= {"gauss": float(numbers["gauss"]), "has_gauss": int(numbers["has_gauss"])}
    found = {"torch": torch.get_rng_state(), "numpy": kept, "python": random.getstate()}
    # A GPU that is there but was left out, because it fails, must not be asked.
    return found | ({"cuda": torch.cuda.get_rng_state_all()} if device == "cuda" else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators where `save_checkpoint` left them."""
    numbers = state["numpy"]
    key = {"key": numbers["key"].numpy().astype(np.uint32), "pos": numbers["pos"]}
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": key,
            **{n: numbers[n] for n in ("gauss", "has_gauss")},
        }
    )
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
