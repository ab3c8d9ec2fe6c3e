"""The optimizer and the schedule of its learning rate."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from .validation import higher_is_better

BY_STEP = ("cosine", "onecycle", "linear")  # schedules that are stepped after every update


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    settings = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.optimizer]
    fused = not torch.backends.mps.is_available()
    return optimizer(model.parameters(), fused=fused, **settings)


def build_scheduler(cfg, optimizer: torch.optim.Optimizer, n_updates: int, n_val: int) -> Any:
    """The learning-rate schedule: None, plateau (stepped after every epoch), or one that is stepped
    after every update; `n_updates` is their number in an epoch."""
    total = cfg.epochs * n_updates
    if cfg.scheduler == "plateau":
        mode = "max" if higher_is_better(cfg, n_val) else "min"
        patience = max(1, cfg.patience // 3)
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience)
    if cfg.scheduler == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    if cfg.scheduler == "onecycle":
        rise = _rise(0.2, total)
        return lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=total, pct_start=rise)
    if cfg.scheduler == "linear":
        # Straight lines: from a tenth of the peak, with half the rise of onecycle, down to zero.
        return lr_scheduler.OneCycleLR(
            optimizer,
            cfg.lr,
            total_steps=total,
            pct_start=_rise(0.1, total),
            div_factor=10,
            anneal_strategy="linear",
        )
    return None


def _rise(share: float, total: int) -> float:
    """The share of all updates in which the learning rate rises.

    Slightly larger where share * total is 1, because torch divides by share * total - 1.
    """
    return share + 0.05 if round(share * total, 6) == 1 else share
