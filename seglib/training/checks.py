"""What is checked before a training, so that nothing is written where it cannot succeed."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import models, tables, updates
from ..errors import ConfigError, DataError
from ..formats import channels


def check_arguments(model: Any, loss: Any) -> None:
    """Refuse a class in place of an object, and an object that is not a network or a loss."""
    for name, value in (("model", model), ("loss", loss)):
        if inspect.isclass(value):
            raise ConfigError(
                f"{name}: {value.__name__} is a class; give an object, {value.__name__}()"
            )
    if model is not None and not isinstance(model, nn.Module):
        raise ConfigError(f"model: {type(model).__name__} is no network; expected an nn.Module")
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss: {loss!r} cannot be called; expected a function loss(logits, target, annotated)"
            " that returns a scalar tensor"
        )


def with_channels(cfg, dataset) -> Any:
    """The config with the names of the data's channels, which are stored with the weights.

    Raises:
        ConfigError: it names others, or the store was prepared for another input.
    """
    if len(dataset) and dataset.n_channels != cfg.input_channels:
        raise ConfigError(
            f"in_channels: the store has images of {dataset.n_channels} channels, the network "
            f"takes {cfg.input_channels} (in_channels={cfg.in_channels}, "
            f"context_slices={cfg.context_slices}); prepare the data with this config"
        )
    names = dataset.channels
    if not names:
        return cfg
    if cfg.channels and not channels.agree(cfg.channels, names):
        raise ConfigError(
            f"channel_names: {', '.join(cfg.channels)}, but the store was prepared with "
            f"{', '.join(names)}; prepare the data with this config"
        )
    return cfg if cfg.channels else cfg.replace(channel_names=names)


def check_images(cfg, batches: dict[str, DataLoader]) -> None:
    """Refuse an empty training part; the error says in which parts the patients are."""
    if len(batches["train"].dataset):
        return
    patients = [
        f"{batches[part].dataset.cases['patient'].nunique()} {part}" for part in ("val", "test")
    ]
    raise DataError(
        f"the training part is empty: with val_split={cfg.val_split:g} and "
        f"test_split={cfg.test_split:g} the patients are {' and '.join(patients)}; lower "
        "val_split or test_split, or add images"
    )


@torch.no_grad()
def check_shape(model: nn.Module, cfg) -> None:
    """Refuse a network whose output is not (1, n_classes, H, W) for one black image (H, W).

    The network computes in evaluation mode, so that batch norm keeps its running means. `fit` seeds
    the random numbers afterwards.
    """
    name = type(model).__name__
    if not models.n_parameters(model):
        raise ConfigError(f"model: {name} has no parameter to train")
    sides = cfg.network_height_width
    image = torch.zeros(1, cfg.input_channels, *sides)
    expected = (1, cfg.n_classes, *sides)
    modes = [(module, module.training) for module in model.modules()]
    try:
        logits = model.eval()(image.to(next(model.parameters()).device))
    except Exception as error:  # whatever the caller's network raises
        raise ConfigError(
            f"model: {name} fails on an image of shape {tuple(image.shape)}, the in_channels and "
            f"image_size of the config: {error}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != expected:
        raise ConfigError(
            f"model: {name} turns an image of shape {tuple(image.shape)} into {shape}; expected "
            f"logits of shape {expected}, a channel for each of {', '.join(cfg.class_names)}, "
            "before sigmoid or softmax"
        )


def check_network(network: nn.Module, cfg, loader: DataLoader) -> None:
    """Refuse images, patches or batches that are too small for the network.

    Tried with a copy of it on torch's `meta` device, which computes no values.
    """
    n, batch_size = len(loader.dataset), loader.batch_size
    last = 0 if loader.drop_last else n % batch_size
    has_batch_of_one = 1 in (min(n, batch_size), last)
    sides = cfg.network_height_width
    try:
        meta_network = copy.deepcopy(network).to("meta")
        # Batch norm needs more than one value per channel in training only.
        meta_network.train(has_batch_of_one)
        meta_network(torch.empty(1, cfg.input_channels, *sides, device="meta"))
    except Exception as error:  # a network may also fail because it does not run on `meta`
        if not updates.is_of_batch_norm(error):
            check_shape(network, cfg)
            return
        reason = f"batch_size={batch_size}" if n > 1 else "one training image"
        name = "patch_size" if cfg.patch_size else "image_size"
        has_depth = tables.ARCHITECTURES[cfg.architecture].poolings == "depth"
        depth = f" (depth={cfg.depth})" if has_depth else ""
        raise ConfigError(
            f"batch_size: with {reason} a batch has one image, and of its {sides[0]}x{sides[1]} "
            f"pixels a single one is left at the deepest level of the network{depth}, which batch "
            "norm cannot normalise; "
            + ("add images, or set" if n == 1 else "set a batch_size of 2 or more,")
            + f" a larger {name} or a network that is less deep"
        ) from error
