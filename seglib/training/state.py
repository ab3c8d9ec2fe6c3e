"""What a training works with, and what one epoch hands on to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import config, updates
from ..runs import Run


@dataclass
class TrainingState:
    """What one epoch hands on to the next, besides the weights; saved in `last.ckpt`."""

    epoch: int = 0  # number of finished epochs
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None  # monitor of the best epoch
    smoothed: float | None = None  # monitor, smoothed where the validation part is small
    since_best: int = 0  # epochs since the best one
    seconds: float = 0.0
    n_splits: int = 0  # how often micro-batches were halved for lack of memory


@dataclass
class Training:
    """Everything that one training works with, as `setup.set_up` returns it."""

    run: Run
    state: TrainingState
    accelerator: Accelerator
    network: nn.Module  # saved under plain names
    model: nn.Module  # the network as Accelerate and torch.compile have wrapped it
    loss: Callable[..., Tensor]
    optimizer: Any
    scheduler: Any
    train: DataLoader
    val: DataLoader
    accumulate: updates.GradientAccumulator

    @property
    def cfg(self) -> config.Config:
        """The settings of the run."""
        return self.run.config

    @property
    def n_val(self) -> int:
        """Number of validation images."""
        return len(self.val.dataset.cases)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained, or early stopping has waited long enough."""
        stops_early = self.cfg.early_stopping and self.state.since_best >= self.cfg.patience
        return self.state.epoch >= self.cfg.epochs or stops_early
