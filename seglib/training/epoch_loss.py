"""The training loss of an epoch, or the cases where it is no number."""

import math

import torch

from .. import updates
from ..errors import TrainingError
from .state import Training


def mean_loss(epoch_updates: list[updates.Update], training: Training) -> tuple[float, float]:
    """The mean loss over all images of an epoch, and their number, over all processes.

    Raises:
        TrainingError: the loss of some update is NaN or infinite.
    """
    accelerator = training.accelerator
    sums = torch.zeros(2, device=accelerator.device)
    for update in epoch_updates:
        loss = torch.stack(update.losses).sum()
        # The number is that of all processes, so each of them adds an equal share of it.
        n_here = update.n_images / accelerator.num_processes
        sums += torch.stack([loss * update.n_images, n_here])
    total, n_images = accelerator.reduce(sums, "sum").tolist()
    if not math.isfinite(total):
        _raise_not_finite(epoch_updates, training)
    return total / n_images, n_images


def _raise_not_finite(epoch_updates: list[updates.Update], training: Training) -> None:
    """Name the cases of the first update whose loss is not finite; the later ones only inherit its
    gradients."""
    accelerator, epoch = training.accelerator, training.state.epoch + 1
    cases = training.train.dataset.cases["case"]
    not_finite = [
        (step, loss, indices)
        for step, update in enumerate(epoch_updates, start=1)
        for loss, indices in zip(update.losses, update.indices)
        if not torch.isfinite(loss)
    ]
    first_here = not_finite[0][0] if not_finite else len(epoch_updates) + 1
    steps = accelerator.gather(torch.tensor([first_here], device=accelerator.device))
    first = int(steps.min())
    if first_here > first:
        raise TrainingError(
            f"the loss is no number in epoch {epoch}, step {first}; another process names the cases"
        )
    _, loss, indices = not_finite[0]
    names = ", ".join(cases.iloc[indices.tolist()])
    raise TrainingError(
        f"the loss is {loss.item()} in epoch {epoch}, step {first}, cases {names}; the weights of "
        "the epochs before are kept; look at these images, lower lr, or set clip=1.0 or "
        "precision='fp32'"
    )
