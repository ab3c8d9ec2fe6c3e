"""One update of the weights from several micro-batches of images. Used by `training`."""

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import losses, tables
from .errors import ConfigError, TrainingError

Batch = dict[str, Any]  # as `data.loaders` makes them: image, mask, annotated, index

HOW_TO_ADD_TOTAL = (
    "derive the loss from losses.MaskedLoss, whose method total gives its denominator"
)


class Update(NamedTuple):
    """One finished update of the weights.

    Attributes:
        indices: for each micro-batch, the positions of its images in the dataset.
        losses: for each micro-batch, its share in the loss of the update.
        n_images: of all micro-batches and processes, a scalar tensor.
    """

    indices: list[Tensor]
    losses: list[Tensor]
    n_images: Tensor


class Waiting:
    """Iterates over a loader and adds up the `seconds` that were spent waiting for batches."""

    def __init__(self, loader):
        self.batches = iter(loader)
        self.seconds = 0.0

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.perf_counter() - begin


def micro_batches(batches: Iterator[Batch], accumulate: int) -> Iterator[list[Batch]]:
    """The micro-batches of each update: `accumulate` of them, fewer at the end of the epoch."""
    while group := list(itertools.islice(batches, accumulate)):
        yield group


def check_loss(loss: Callable, accumulate: int, n_processes: int, n_splits: int) -> None:
    """Refuse a loss without `total` where the images of an update come in several micro-batches.

    Raises:
        ConfigError: says which setting causes it, and what the loss lacks.
    """
    if hasattr(loss, "total"):
        return
    if n_processes > 1:
        cause, remedy = f"{n_processes} processes", "train with one process"
    elif accumulate > 1:
        cause, remedy = f"accumulate={accumulate}", "set accumulate=1"
    elif n_splits > 0:
        cause, remedy = "micro-batches split for lack of memory", "start anew"
    else:
        return
    raise ConfigError(
        f"loss: {tables.name_of(loss)} has no method total(target, annotated), so its parts cannot "
        f"be added up exactly over the images of an update ({cause}); {HOW_TO_ADD_TOTAL}, "
        f"or {remedy}"
    )


def share(
    loss: Callable, logits: Tensor | Sequence[Tensor], batch: Batch, total: Tensor | None
) -> Tensor:
    """The loss of a micro-batch; with `total`, its share in the loss of the whole update.

    Args:
        logits: those of the network, or of a list of levels (deep supervision), whose losses are
            then averaged.

    Raises:
        TrainingError: the loss returned no scalar tensor, or one that has no gradient; or the
            network a list that does not hold logits.
    """
    options = {} if total is None else {"total": total}

    def of(level: Tensor) -> Tensor:
        return _checked(loss(level, batch["mask"], batch["annotated"], **options), loss)

    if isinstance(logits, list | tuple):
        return losses.mean_of_levels([of(level) for level in losses.enlarged(logits)])
    return of(logits)


def _checked(value: Any, loss: Callable) -> Tensor:
    """What a loss returned, where it is a scalar tensor with a gradient."""
    name = tables.name_of(loss)
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(
            f"loss: {name} returned {shape}; expected a tensor that is one number, such as the "
            "mean over all pixels that count"
        )
    if not value.requires_grad:
        raise TrainingError(
            f"loss: what {name} returned has no gradient; compute it from the logits with torch, "
            "without .item(), .detach(), .numpy() or a threshold"
        )
    return value


def is_of_batch_norm(error: Exception) -> bool:
    """Whether this is torch's refusal to normalise a single value per channel in training."""
    return isinstance(error, ValueError) and "more than 1 value per channel" in str(error)


class GradientAccumulator:
    """Gradients of an update whose images come in several micro-batches.

    The losses of the micro-batches add up to the loss of one batch of all their images, on all
    processes. Where a micro-batch does not fit into the memory of a GPU, it and all later ones are
    halved; `n_splits` counts how often.
    """

    def __init__(self, model: nn.Module, loss: Callable, accelerator, n_splits: int = 0):
        self.model, self.loss, self.accelerator = model, loss, accelerator
        self.n_splits = n_splits

    def __call__(
        self, batches: list[Batch], forward_backward: Callable[[Batch, Tensor | None], Tensor]
    ) -> Update:
        """Accumulate the gradients of all `batches`.

        Args:
            forward_backward: called with a micro-batch and the denominator of the update's loss
                (None where this micro-batch is all of it); returns the micro-batch's share.

        Raises:
            TrainingError: the memory is too small, and this loss does not allow a split.
        """
        while True:
            smaller = self._split(batches)
            try:
                return self._accumulate(smaller, forward_backward)
            except torch.OutOfMemoryError as error:
                size = max(len(batch["image"]) for batch in smaller)
                # Several processes would have to agree on the split.
                if size == 1 or self.accelerator.num_processes > 1:
                    raise self._too_small(smaller[0]["image"], size) from error
                if not hasattr(self.loss, "total"):
                    raise self._cannot_split(size) from error
            except ValueError as error:
                if not (self.n_splits and is_of_batch_norm(error)):
                    raise
                raise TrainingError(
                    "out of memory: micro-batches were halved down to one image, of which a single "
                    "pixel is left at the deepest level of the network, so that batch norm cannot "
                    "normalise it; lower base_channels, or set a smaller depth or batch_size"
                ) from error
            # Outside `except`, so that the error no longer holds the tensors of the failed attempt.
            # The gradients so far are those of some of its micro-batches only.
            self.model.zero_grad()
            self.n_splits += 1
            warnings.warn(
                "out of memory: micro-batches are halved; batch norm sees fewer images",
                stacklevel=2,
            )

    def _accumulate(self, batches: list[Batch], forward_backward: Callable) -> Update:
        batches = [self._with_masks(batch) for batch in batches]
        total, n_images = self._totals(batches)
        losses = []
        for number, batch in enumerate(batches, start=1):
            # The processes exchange their gradients with the last micro-batch only.
            is_last = number == len(batches)
            exchange = contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model)
            with exchange:
                losses.append(forward_backward(batch, total))
        return Update([batch["index"] for batch in batches], losses, n_images)

    def _totals(self, batches: list[Batch]) -> tuple[Tensor | None, Tensor]:
        """The denominator of the loss and the number of images, over all micro-batches of all
        processes; the denominator is None if there is a single micro-batch in all."""
        device = self.accelerator.device
        n_here = float(sum(len(batch["image"]) for batch in batches))
        n_images = torch.full((), n_here, device=device)
        if len(batches) == 1 and self.accelerator.num_processes == 1:
            return None, n_images
        # A scalar, or (2,) for a weighted sum of two losses.
        total = sum(self.loss.total(batch["mask"], batch["annotated"]) for batch in batches)
        # One exchange between the processes for both: the denominator and the number of images.
        here = torch.cat([total.reshape(-1), n_images.reshape(1)])
        sums = self.accelerator.reduce(here, "sum")
        return sums[:-1].reshape(total.shape), sums[-1]

    def _split(self, batches: list[Batch]) -> list[Batch]:
        """The micro-batches, halved `n_splits` times."""
        for _ in range(self.n_splits):
            batches = [half for batch in batches for half in _halves(batch)]
        return batches

    def _with_masks(self, batch: Batch) -> Batch:
        """The batch with its masks on the device: `total` needs those of all micro-batches before
        the first image is computed."""
        device = self.accelerator.device
        masks = {name: batch[name].to(device, non_blocking=True) for name in ("mask", "annotated")}
        return {**batch, **masks}

    def _too_small(self, image: Tensor, size: int) -> TrainingError:
        height, width = image.shape[-2:]
        batch_size = "" if size == 1 else "batch_size, "
        return TrainingError(
            f"out of memory with a micro-batch of {size} x {height}x{width} pixels; lower "
            f"{batch_size}patch_size, image_size or base_channels, or set checkpointing=True"
        )

    def _cannot_split(self, size: int) -> TrainingError:
        return TrainingError(
            f"out of memory with a micro-batch of {size} images, which cannot be split: the loss "
            f"{tables.name_of(self.loss)} has no method total(target, annotated); lower "
            f"batch_size, or {HOW_TO_ADD_TOTAL}"
        )


def _halves(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A batch of tensors as two, the first half of its images and the second."""
    middle = math.ceil(len(batch["image"]) / 2)
    halves = zip(*(value.split(middle) for value in batch.values()))
    return [dict(zip(batch, values)) for values in halves]


@contextlib.contextmanager
def depthwise_in_float32(network: nn.Module, device: str, precision: str) -> Iterator[None]:
    """Compute depthwise convolutions in float32 while a network trains in bf16 on a CPU.

    Their backward pass in bf16 is five to ten times slower there: it took half of a training step
    of EfficientNet-Lite0. The other layers stay in bf16, and evaluation mode is not changed.
    """
    handles = []
    if device == "cpu" and precision == "bf16":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                handles.append(module.register_forward_pre_hook(_leave_autocast))
                handles.append(module.register_forward_hook(_enter_autocast))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leave_autocast(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if not module.training:
        return None
    torch.set_autocast_enabled("cpu", False)
    return (inputs[0].float(),)


def _enter_autocast(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if module.training:
        torch.set_autocast_enabled("cpu", True)
