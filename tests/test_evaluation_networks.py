"""Which weights are scored, on which images, and what does not fit together."""

import shutil

import pandas as pd
import pytest

from seglib import config, data, evaluation, runs
from seglib.errors import DataError, SeglibError
from seglib.inference import Predictor
from tests.evaluations import loaders_of
from tests.helpers import FakePredictor, all_in, perfect


def test_a_run_is_scored_with_its_best_weights(lung_run, tmp_path):
    run, _ = lung_run
    shutil.copytree(run.folder, tmp_path / "run")
    run = runs.Run.load(tmp_path / "run")
    runs.save_weights(
        run.folder / "final_model.pth", runs.network(run.config), run.config
    )  # no good any more
    loader = loaders_of(lung_run)["test"]
    report = evaluation.evaluate(run, loader)
    best = evaluation.evaluate(Predictor.load(run.best, "cpu", "fp32"), loader)
    pd.testing.assert_frame_equal(report.per_image, best.per_image)
    final = evaluation.evaluate(
        Predictor.load(run.folder / "final_model.pth", "cpu", "fp32"), loader
    )
    assert not report.per_image["dice"].equals(final.per_image["dice"])
    assert report.about["weights"] == "best_model.pth"


def test_a_run_is_scored_in_the_precision_of_its_training(lung_run):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)["test"])
    assert report.about["precision"] == run.info["precision"] == "fp32"
    assert evaluation.tuned(run, loaders_of(lung_run)["val"]).precision == "fp32"


def test_the_training_part_is_scored_whole_and_without_augmentation(palm):
    """evaluate(run, batches["train"]) shows overfitting; flipped images beside unflipped truth show
    nothing.
    """
    cfg, store, _ = palm
    cfg = cfg.replace(augment={"hflip": 1.0, "vflip": 0.5}, batch_size=2)
    loader = data.loaders(store, cfg)["train"]
    assert len(loader.dataset) == 5  # one of them would be dropped from the batches of two
    report = evaluation.evaluate(FakePredictor(cfg, perfect), loader)
    assert sorted(set(report.per_image["case"])) == [f"case{i}" for i in range(5)]
    assert (report.per_image.loc[report.per_image["annotated"], "dice"] == 1).all()


def test_an_empty_part_is_an_error(palm):
    cfg, store, _ = palm
    batches = data.loaders(all_in(store, "val"), cfg)
    with pytest.raises(DataError, match="part 'test' has no image.*test_split"):
        evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"])


def test_classes_of_another_system_are_an_error(palm):
    """Else the lung would silently be scored against the atrophy."""
    _, _, batches = palm
    lung = config.preset("lung", "smoke", in_channels=3)
    with pytest.raises(SeglibError, match="lung"):
        evaluation.evaluate(
            FakePredictor(lung, lambda pixels: perfect(pixels)[:, :1]), batches["test"]
        )
