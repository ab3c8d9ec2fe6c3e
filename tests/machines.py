"""Imitated machines: trees of data without images, and a GPU that is not there.

Their fixtures (`machine`, `kaggle`, `colab`, `torch`) stand in `conftest`.
"""

import types
from pathlib import Path

from seglib import config


def settings(preset="lung", data_root=None, **changes):
    """The config of a hosted notebook: data is waited for, runs go where they survive."""
    return config.preset(preset, "smoke", data_root=data_root, local=False, **changes)


def plant(root, *files):
    """Write empty-looking files below `root`; returns it."""
    for file in files:
        path = Path(root, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return Path(root)


def montgomery(root):
    return plant(
        root, "MontgomerySet/CXR_png/MCUCXR_0001_0.png", "MontgomerySet/ManualMask/leftMask/a.png"
    )


def gpu(monkeypatch, torch, name="Tesla T4", capability=(7, 5)):
    """A CUDA device that torch sees; its kernels fail unless `_kernel` is replaced too."""
    properties = types.SimpleNamespace(
        name=name, major=capability[0], minor=capability[1], total_memory=16 * 2**30
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *a: properties)
