"""Random numbers, processes, precision and compiling: how a training adapts to its machine."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader

from ..errors import first_line


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def processes(device: str) -> PartialState:
    """The processes of this training, as torchrun or `accelerate launch` started them; otherwise
    this process alone."""
    # Accelerate would keep the device and precision of an earlier `fit` in this process.
    AcceleratorState._reset_state(True)
    return PartialState(cpu=device == "cpu")


def of_first_process(info: dict[str, Any]) -> dict[str, Any]:
    """The `info` of the first process, so that all processes use the same device and precision."""
    if processes(info["device"]).num_processes == 1:
        return info
    objects = [info]
    broadcast_object_list(objects)
    return objects[0]


def build_accelerator(cfg, info: dict[str, Any]) -> Accelerator:
    """The `Accelerator` for the device and precision of a run."""
    torch.backends.cudnn.benchmark = cfg.cudnn_benchmark
    precision = {"fp32": "no"}.get(info["precision"], info["precision"])
    return Accelerator(mixed_precision=precision, cpu=info["device"] == "cpu")


@contextmanager
def restoring_cudnn() -> Iterator[None]:
    """Reset the choice of algorithms by timing, so that predictions after a training on a GPU do
    not depend on the clock."""
    before = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def restoring_forward(model: nn.Module | None) -> Iterator[None]:
    """Remove from the caller's network what Accelerate sets on it: the autocast around its forward,
    and a mark that would make a second `fit` leave the autocast out."""
    if model is None:
        yield
        return
    attributes = vars(model)
    before = dict(attributes)
    try:
        yield
    finally:
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            attributes.pop(name, None)
            if name in before:
                attributes[name] = before[name]


def synchronised(model: nn.Module, accelerator) -> nn.Module:
    """The network with batch norm that normalises over the images of all processes."""
    if accelerator.num_processes == 1 or accelerator.device.type != "cuda":
        warnings.warn(
            "sync_batch_norm=True has no effect here: it takes several processes on GPUs",
            stacklevel=2,
        )
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The compiled network; itself where this machine cannot compile."""
    try:
        # A missing compiler is noticed at the first call only, so we compile something small.
        torch.compile(nn.ReLU())(torch.ones(8, device=device))
    except Exception as error:  # no compiler, no Triton, an unsupported Python
        warnings.warn(f"compile=True has no effect here: {first_line(error)}", stacklevel=2)
        return model
    return torch.compile(model)


def average_buffers(network: nn.Module, accelerator) -> None:
    """The same running means of batch norm on all processes: each has seen its own batches."""
    if accelerator.num_processes == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer, "mean"))


def set_epoch(loader: DataLoader, epoch: int) -> None:
    """Set the epoch of our sampler, which Accelerate has wrapped in samplers of its own."""
    # Accelerate counts passes from 0 in every process and passes that number on to the sampler.
    loader.iteration = epoch
    batch_sampler = loader.batch_sampler
    while not hasattr(batch_sampler, "sampler"):
        batch_sampler = batch_sampler.batch_sampler
    batch_sampler.sampler.set_epoch(epoch)
