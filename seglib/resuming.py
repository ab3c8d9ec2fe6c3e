"""Going on with an interrupted training: what is kept after each epoch, and what may differ afterwards.

Two states are kept, so that a damaged last one costs an epoch and not the run. They hold tensors and plain values
only, and are opened without running code.
"""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import files
from .errors import ConfigError, DataError
from .weights import load_safely

LAST, BEFORE = "last.ckpt", "before.ckpt"  # the state after the last epoch, and after the one before
# Of a run that is resumed: what cannot change, and what may without a word.
FIXED = "preset task class_names in_channels architecture base_channels depth bilinear attention aspp_rates encoder "
FIXED += "optimizer lr weight_decay scheduler monitor seed checkpoint_name"
MAY_CHANGE = "work_dir local data_root num_workers device precision cudnn_benchmark compile checkpointing size epochs "
MAY_CHANGE += "save_every patience early_stopping bootstrap init_from encoder_weights"


def save(folder: Path, **state: Any) -> None:
    """Write the state after an epoch, with the generators of random numbers; the last one becomes the one before."""
    with files.replacing(folder / LAST, before=folder / BEFORE) as partial:
        torch.save({**state, "random": _random_state(state["info"]["device"])}, partial)


def load(folder: Path) -> dict[str, Any] | None:
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


def check(kept: dict[str, Any], cfg, n_images: int, by_step: bool) -> None:
    """Warn where config or images differ from those that the run was begun with.

    Args:
        by_step: the schedule counts updates, so that their number cannot change.

    Raises:
        ConfigError: they contradict the run.
    """
    before = kept["config"]
    changed = {name: (before[name], value) for name, value in cfg.to_dict().items() if before.get(name, value) != value}
    fixed = {*FIXED.split(), *("epochs batch_size accumulate".split() if by_step else ())}
    wrong = [name for name in changed if name in fixed]
    if wrong:
        begun = ", ".join(f"{name}={before[name]!r}" for name in wrong)
        raise ConfigError(
            f"{', '.join(wrong)}: this run was begun with {begun}; resume with that, or start anew (init_from takes "
            "over weights)"
        )
    told = [f"{name} {a!r} -> {b!r}" for name, (a, b) in changed.items() if name not in MAY_CHANGE.split()]
    if told:
        warnings.warn(f"resumed with changed settings: {', '.join(told)}", stacklevel=4)
    were = kept["info"]["images"]["train"]
    if n_images != were:
        if by_step:
            raise ConfigError(f"this run was begun with {were} training images, now there are {n_images}; start anew")
        warnings.warn(f"resumed with {n_images} training images instead of {were}", stacklevel=4)


def _random_state(device: str) -> dict[str, Any]:
    """The generators of torch, numpy and Python, as plain values and tensors."""
    numbers = np.random.get_state(legacy=False)
    kept = {"key": torch.from_numpy(numbers["state"]["key"].astype(np.int64)), "pos": int(numbers["state"]["pos"])}
    kept |= {"gauss": float(numbers["gauss"]), "has_gauss": int(numbers["has_gauss"])}
    found = {"torch": torch.get_rng_state(), "numpy": kept, "python": random.getstate()}
    # A GPU that is there but was left out, because it fails, must not be asked.
    return found | ({"cuda": torch.cuda.get_rng_state_all()} if device == "cuda" else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators where `save` found them."""
    numbers = state["numpy"]
    key = {"key": numbers["key"].numpy().astype(np.uint32), "pos": numbers["pos"]}
    np.random.set_state({"bit_generator": "MT19937", "state": key, **{n: numbers[n] for n in ("gauss", "has_gauss")}})
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
