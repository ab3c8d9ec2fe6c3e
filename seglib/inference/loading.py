"""Weights files to networks with their config; of several, whether their mean makes sense."""

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import config, runs, zoo
from ..errors import DataError

# What networks must have in common to be averaged: their classes, and the images they take.
ALIKE = (
    *("task", "class_names", "image_size", "resize", "in_channels", "mean", "std", "patch_size"),
    *("window_level", "window_width", "percentiles", "slice_axis", "threshold"),
    *("channel_names", "context_slices"),
)


class Weights(NamedTuple):
    """Networks that were read from weights files, and what their descriptions say.

    `trained_in` is the precision of their training, None where they differ; `trained_on`, `files`
    and `checksums` are those of a `Predictor`.
    """

    networks: list[torch.nn.Module]
    config: Any
    trained_in: str | None
    trained_on: list[str] | None
    files: tuple[Path, ...]
    checksums: tuple[str | None, ...]


def read(names: Sequence[str | Path], model: torch.nn.Module | None = None) -> Weights:
    """The networks of files, folders or names of the zoo, as `Predictor.load` takes them.

    Raises:
        DataError: as `Predictor.load`.
    """
    paths = runs.weights_files([zoo.resolve(name) for name in names])
    descriptions = [runs.describe_weights(file) for file in paths]
    configs = [config.from_dict(description["config"]) for description in descriptions]
    _check_alike(paths, configs)
    networks = [
        _network(file, description, cfg, model)
        for file, description, cfg in zip(paths, descriptions, configs)
    ]
    precisions = {description.get("precision") for description in descriptions}
    hashes = [description.get("trained_on") for description in descriptions]
    return Weights(
        networks=networks,
        config=configs[0],
        trained_in=precisions.pop() if len(precisions) == 1 else None,
        trained_on=None if None in hashes else sorted(set().union(*hashes)),
        files=tuple(paths),
        checksums=tuple(description.get("weights_sha256") for description in descriptions),
    )


def _check_alike(paths: Sequence[Path], configs: Sequence[Any]) -> None:
    """Refuse the mean of networks that have other classes, or take their images in another form,
    and a file that would count twice."""
    twice = [path for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: given twice, so that it would count twice in the mean")
    for path, cfg in zip(paths[1:], configs[1:]):
        for name in ALIKE:
            first, other = getattr(configs[0], name), getattr(cfg, name)
            if first != other:
                raise DataError(
                    f"{path}: {name} is {other!r}, but {first!r} in {paths[0]}; the networks of a "
                    f"mean must have the same {name}: leave one of them out"
                )


def _network(path: Path, description: dict[str, Any], cfg, model: torch.nn.Module | None):
    """The network of a weights file, with its weights; `model` as for `Predictor.load`."""
    own_network = description.get("network")
    if model is not None:
        model = copy.deepcopy(model)
    elif own_network:
        raise DataError(
            f"{path}: weights of the network {own_network}, which is not part of seglib; "
            f"define the class {own_network} and pass an instance built as for the training: "
            f"Predictor.load({path.name!r}, model={own_network}(...))"
        )
    else:
        model = runs.network(cfg, pretrained=False, strict=False)
    return runs.load_weights(path, model)
