"""Weights files to networks: what is loaded, what is refused, networks of one's own."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from seglib import runs
from seglib.errors import DataError, SeglibError
from seglib.inference import Predictor
from tests.predictors import GREY, TASKS, config_of, load, predictor_of


@pytest.mark.parametrize("task", TASKS)
def test_loading_gives_the_saved_network_back(tmp_path, task, monkeypatch):
    predictor = predictor_of(task, threshold=0.4)
    path = runs.save_weights(tmp_path / "weights.pth", predictor.model, predictor.config)
    monkeypatch.setenv("SEGLIB_SMOKE", "1")  # the size is that of the run, not of the moment
    loaded = load(path)
    assert loaded.config == predictor.config
    np.testing.assert_array_equal(loaded.predict(GREY).prob, predictor.predict(GREY).prob)
    np.testing.assert_array_equal(loaded.table, predictor.table)


def test_missing_files_are_named(bright_weights, tmp_path):
    path = bright_weights()
    with pytest.raises(DataError, match="none.pth: no such weights file"):
        load(tmp_path / "none.pth")
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"best_model\.json is missing"):
        load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"config": {}}', '{"config": {"preset": "lung"}}', "null"]
)
def test_a_torn_or_foreign_json_is_an_error_with_its_name(bright_weights, text):
    path = bright_weights()
    path.with_suffix(".json").write_text(text)
    with pytest.raises(SeglibError, match="best_model"):
        load(path)


def test_torn_weights_are_an_error_with_their_name(bright_weights):
    path = bright_weights()
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"best_model\.pth: refused to load"):
        load(path)


def test_weights_of_another_network_say_so(tmp_path):
    small, large = predictor_of("binary"), predictor_of("binary", base_channels=3)
    path = runs.save_weights(tmp_path / "weights.pth", small.model, small.config)
    runs.save_weights(tmp_path / "other.pth", large.model, large.config)
    description = json.loads((tmp_path / "other.json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"weights\.pth: weights\.json beside it describes other"):
        load(path)
    del description["weights_sha256"]
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"weights\.pth: weights of another network"):
        load(path)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_weights_that_run_code_are_refused(bright_weights, tmp_path):
    path, marker = bright_weights(), tmp_path / "marker"
    torch.save({"weight": Payload(marker)}, path)
    with pytest.raises(DataError, match="refused to load"):
        load(path)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DataError, match="refused to load"):
        load(path)
    assert not marker.exists()
    assert json.loads(path.with_suffix(".json").read_text())["config"]["preset"] == "lung"


# ---- networks of one's own


class Own(nn.Module):
    """What a reader writes in a notebook."""

    def __init__(self, width=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1)
        )

    def forward(self, image):
        return self.layers(image)


@pytest.fixture
def own_weights(tmp_path):
    """(path, network): weights of `Own`, as `fit` saves those of a network that it was given."""
    torch.manual_seed(3)
    model = Own()
    cfg = config_of("binary")
    return runs.save_weights(tmp_path / "own.pth", model, cfg, network="Own", loss=None), model


def test_an_own_network_is_loaded_into_a_copy(own_weights):
    path, trained = own_weights
    fresh = Own().train()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    predictor = Predictor.load(path, "cpu", "fp32", model=fresh)
    expected = Predictor(trained, predictor.config, "cpu", "fp32").predict(GREY)
    np.testing.assert_array_equal(predictor.predict(GREY).prob, expected.prob)
    assert predictor.model is not fresh and fresh.training
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_an_own_network_that_is_not_passed_is_named(own_weights):
    path, _ = own_weights
    with pytest.raises(
        DataError, match=r"own\.pth: .*network Own,.*'own\.pth', model=Own\(\.\.\.\)"
    ):
        load(path)


def test_an_own_network_of_another_form_is_refused(own_weights):
    path, _ = own_weights
    with pytest.raises(DataError, match=r"own\.pth: weights of another network"):
        Predictor.load(path, "cpu", "fp32", model=Own(width=5))
