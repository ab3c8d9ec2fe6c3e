"""Prints where new fields of `Config` arrive, as JSON; run by `test_config` on a copy of seglib.

The arguments are the names of the new fields, which are whole numbers with the default 1.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

from seglib import config, export, layouts, losses, phantoms, prepare, runs, tables
from seglib.commands import arguments as parsing
from seglib.commands import parts
from seglib.errors import ConfigError

NAMES = sys.argv[1:]
arrivals = {}


def network(in_channels, n_classes, new_network):
    arrivals["network"] = {"new_network": new_network}
    return torch.nn.Conv2d(in_channels, n_classes, 1)


def loss(new_run):
    arrivals["loss"] = {"new_run": new_run}
    return torch.nn.BCEWithLogitsLoss()


def resumed(name, by_step):
    """What `check_resumable` does where the new field `name` was changed."""
    checkpoint = {"config": cfg.to_dict(), "info": {"images": {"train": 4}}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            runs.check_resumable(checkpoint, cfg.replace(**{name: 3}), 4, by_step)
        except ConfigError:
            return "fixed"
    return "told" if caught else "free"


def store_of(changes):
    return prepare.build(cases, cfg.replace(**changes)).folder


def is_option(command, name):
    try:
        return getattr(parsing.parse([command, f"--{name}", "5"]), name) == "5"
    except ConfigError:
        return False


def predictor_config(*options):
    """The values of two fields in the config of the predictor that `evaluate` would use."""
    arguments = ["evaluate", "--model_path", str(weights), *options]
    predictor, _ = parts.predictor_of(parsing.parse(arguments))
    return {name: getattr(predictor.config, name) for name in ("new_use", "new_place")}


tables.ARCHITECTURES["mine"] = tables.Architecture(network)
tables.LOSSES["mine"] = tables.Loss(loss, ("binary",))
cfg = config.preset(
    "binary",
    "smoke",
    data_root=str(phantoms.write("binary", "tree", n=4)),
    architecture="mine",
    loss="mine",
    **dict.fromkeys(NAMES, 2),
)
cases = layouts.scan(cfg)
losses.build(cfg.loss, **cfg.settings)
weights = runs.save_weights(Path("best_model.pth"), runs.network(cfg), cfg)

unchanged = store_of({})
arrivals["stores_differ_by"] = [name for name in NAMES if store_of({name: 3}) != unchanged]
arrivals["resume"] = {name: resumed(name, by_step=False) for name in NAMES}
arrivals["resume_by_step"] = {name: resumed(name, by_step=True) for name in NAMES}
arrivals["options"] = {
    command: [name for name in NAMES if is_option(command, name)]
    for command in ("prepare", "train", "evaluate", "predict")
}
arrivals["as_trained"] = predictor_config()
arrivals["as_asked_for"] = predictor_config("--new_use", "5", "--new_place", "5")
arrivals["card"] = export.model_card(weights, runs.describe_weights(weights), "A card")
print(json.dumps(arrivals))
