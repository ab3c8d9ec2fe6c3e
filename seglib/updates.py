"""One update of the weights: its micro-batches, what counts in all of them, their gradients. Used by `training`."""

import contextlib
import itertools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Waiting:
    """Passes the batches of a loader on, and adds up the seconds in which nothing was there to compute with."""

    def __init__(self, loader):
        self.batches, self.seconds = iter(loader), 0.0

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, Any]:
        begun = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.perf_counter() - begun


def micro_batches(
    batches: Iterator[dict[str, Any]], accumulate: int
) -> Iterator[list[dict[str, Any]]]:
    """The batches of one update each; the last may be fewer."""
    while found := list(itertools.islice(batches, accumulate)):
        yield found


class GradientAccumulator:
    """Forward and backward of an update's batches. Their losses add up to that of one batch of all their images, on all
    processes; where one does not fit into the memory of a GPU, all are halved from then on."""

    def __init__(self, model: nn.Module, loss_of, accelerator):
        self.model, self.loss_of, self.accelerator = model, loss_of, accelerator
        self.n_splits = 0

    def __call__(
        self, batches: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Tensor], Tensor]:
        """The micro-batches that were used, the share of each in the loss, and the number of images everywhere."""
        while True:
            pieces = batches
            for _ in range(self.n_splits):
                pieces = [half for batch in pieces for half in _halves(batch)]
            try:
                pieces = [self._with_masks(piece) for piece in pieces]
                total, n = self._totals(pieces)
                return pieces, self._backward(pieces, total), n
            except torch.OutOfMemoryError:
                if (
                    self.accelerator.num_processes > 1
                    or max(len(piece["image"]) for piece in pieces) == 1
                ):
                    raise
                self.model.zero_grad()  # what was computed so far is incomplete
                self.n_splits += 1
                warnings.warn(
                    "out of memory: micro-batches are halved; batch norm sees fewer images",
                    stacklevel=5,
                )

    def _totals(self, batches: list[dict]) -> tuple[Tensor | None, Tensor]:
        """How much counts in all batches of an update on all processes, None where there is but one; and how many
        images that are."""
        device = self.accelerator.device
        n = torch.full((), float(sum(len(batch["image"]) for batch in batches)), device=device)
        if len(batches) == 1 and self.accelerator.num_processes == 1:
            return None, n
        total = sum(self.loss_of.total(batch["mask"], batch["annotated"]) for batch in batches)
        everywhere = self.accelerator.reduce(torch.cat([total.reshape(-1), n.reshape(1)]), "sum")
        return everywhere[:-1].reshape(total.shape), everywhere[-1]

    def _backward(self, batches: list[dict], total: Tensor | None) -> list[Tensor]:
        """The shares of the batches in the update's loss. The processes exchange gradients with the last of them."""
        accelerator, found = self.accelerator, []
        for number, batch in enumerate(batches, start=1):
            with (
                accelerator.no_sync(self.model)
                if number < len(batches)
                else contextlib.nullcontext()
            ):
                image = batch["image"].to(accelerator.device, non_blocking=True)
                logits = self.model(
                    image.contiguous(memory_format=torch.channels_last)
                )  # in the mixed precision
                loss = self.loss_of(
                    logits, batch["mask"], batch["annotated"], *(() if total is None else (total,))
                )
                accelerator.backward(
                    loss * accelerator.num_processes
                )  # gradients are averaged over the processes
            found.append(loss.detach())
        return found

    def _with_masks(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its masks on the device: all of an update count before the first image is there."""
        device = self.accelerator.device
        return {
            **batch,
            **{name: batch[name].to(device, non_blocking=True) for name in ("mask", "annotated")},
        }


def _halves(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    middle = -(-len(batch["image"]) // 2)
    return [
        dict(zip(batch, parts)) for parts in zip(*(value.split(middle) for value in batch.values()))
    ]
