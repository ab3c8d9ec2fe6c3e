"""Opening weights files of strangers: nothing in them is ever executed."""

import re
from pathlib import Path
from typing import Any

import torch

from .errors import DataError


def load_safely(path: str | Path) -> Any:
    """`torch.load` that never runs code from the file, with an error that says what is wrong."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, from pickle, zip and its own code
        asked = re.search(r"GLOBAL (\S+)", str(error))
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"it asks for {asked[1]}, which could run code" if asked else lines[0].split(" In PyTorch")[0][:200]
        raise DataError(
            f"{path}: refused to load: {reason}; expected a complete file of tensors and plain values only"
        ) from error
