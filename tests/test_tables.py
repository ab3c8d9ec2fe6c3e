"""Tables: the code of every entry, the settings that it gets, and entries of one's own."""

import pytest
import torch

from seglib import config, losses, models, tables


@pytest.mark.parametrize("table", ["LAYOUTS", "LOSSES", "ARCHITECTURES", "METRICS"])
def test_the_code_of_every_entry_exists(table):
    for name, entry in getattr(tables, table).items():
        assert callable(tables.load(entry[0])), name


def test_code_gets_the_settings_that_its_parameters_name():
    def build(lr, n_classes, own=7):
        return lr, n_classes, own

    assert tables.parameters(build) == ("lr", "n_classes", "own")
    assert tables.call(build, {"lr": 0.1, "n_classes": 2, "epochs": 5}) == (0.1, 2, 7)
    settings = config.preset("lung", lr=0.5).settings
    assert tables.call(build, settings) == (0.5, 1, 7)


def test_a_loss_of_ones_own_is_one_entry(monkeypatch):
    def scaled(focal_gamma):
        return lambda logits, target, annotated: focal_gamma * logits.mean()

    monkeypatch.setitem(tables.LOSSES, "scaled", tables.Loss(scaled, ("binary",)))
    cfg = config.preset("lung", loss="scaled", focal_gamma=3.0)
    loss = losses.build(cfg.loss, **cfg.settings)
    assert loss(torch.ones(1, 1, 2, 2), None, None) == 3
    with pytest.raises(config.ConfigError, match="'scaled' does not fit the task 'multiclass'"):
        config.preset("cardiac", loss="scaled")


def test_a_network_of_ones_own_is_one_entry(monkeypatch):
    def points(in_channels, n_classes, depth):
        convolutions = [torch.nn.Conv2d(in_channels, in_channels, 1) for _ in range(depth)]
        return torch.nn.Sequential(*convolutions, torch.nn.Conv2d(in_channels, n_classes, 1))

    monkeypatch.setitem(tables.ARCHITECTURES, "points", tables.Architecture(points))
    cfg = config.preset("cardiac", architecture="points", depth=2)
    network = models.build(**cfg.settings)
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 4, 8, 8)
    assert len(network) == 3
