"""What a run leaves on disk: weights, the description beside them, history, and the file to resume from.

Weights are a plain `state_dict` that `torch.load` opens with its safe default; `<name>.json` beside them says how to
rebuild the network. Every file is written under a temporary name and renamed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import config, files, hosts, models
from .errors import DataError
from .weights import load_safely


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
            raise DataError(f"{folder}: no run here (run.json is missing); training.fit makes one in work_dir/<preset>")
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return cls(folder, config.load(folder / "config.json"), pd.read_csv(folder / "history.csv"), info)

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
    """The network that a config describes, with fresh weights; `pretrained=False` where others are loaded into it at
    once, so that no encoder weights are read or downloaded in vain."""
    names = ("base_channels", "depth", "bilinear", "encoder", "aspp_rates", "attention", "checkpointing")
    fields = {name: getattr(cfg, name) for name in names}
    fields["encoder_weights"] = cfg.encoder_weights if pretrained else "none"
    return models.build(cfg.architecture, in_channels=cfg.in_channels, n_classes=cfg.n_classes, **fields)


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
    return fill(model, state.get("state_dict", state) if isinstance(state, dict) else state, str(path))


def fill(model: torch.nn.Module, state: Any, source: str) -> torch.nn.Module:
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
    details += [f"{k} is {found}, the network has {here}" for k, found, here in shapes if found != here][:2]
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
        raise DataError(f"{path}: no such weights file; training writes best_model.pth into work_dir/<preset>")
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
        raise DataError(f"{about}: not the description of weights ({error}); copy it again from the run") from error
    return found
