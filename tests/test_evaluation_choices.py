"""Temperature and thresholds, chosen on the validation part."""

import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
import torch

from seglib import config, data, evaluation
from seglib.errors import DataError
from seglib.inference import Predictor
from tests.evaluations import pixels_of, rare_store
from tests.helpers import FakePredictor, all_in, blurred


@pytest.mark.usefixtures("no_warnings")
def test_tuned_chooses_on_validation_and_says_so(palm):
    cfg, store, _ = palm
    loader = data.loaders(all_in(store, "val"), cfg)["val"]

    def sure(pixels):  # four times too sure, and too high
        odds = 4 * (np.log(blurred(pixels) / (1 - blurred(pixels))) + 1)
        return 1 / (1 + np.exp(-odds))

    plain = FakePredictor(cfg, sure)
    predictor = evaluation.tuned(plain, loader)
    assert predictor.temperature > 2 and len(predictor.thresholds) == 3
    for k in range(3):
        prob, truth, _ = pixels_of(palm, k, sure)
        odds = np.log(np.clip(prob.astype(float), 1e-7, 1 - 1e-7))
        odds -= np.log1p(-np.clip(prob.astype(float), 1e-7, 1 - 1e-7))
        scaled = 1 / (1 + np.exp(-odds / predictor.temperature))
        best = max(sklearn.metrics.f1_score(truth, prob >= t) for t in np.linspace(0.02, 0.98, 49))
        assert sklearn.metrics.f1_score(truth, scaled >= predictor.thresholds[k]) >= best - 1e-9
    report = evaluation.evaluate(predictor, loader)
    assert (
        "on the part 'val', 9 images" in report.about["threshold"] and "temperature" in report.about
    )
    assert plain.temperature == 1 and plain.thresholds is None and not plain.chosen


@pytest.mark.usefixtures("no_warnings")
def test_temperature_of_a_run_is_the_minimum(palm):
    cfg, store, _ = palm
    loader = data.loaders(all_in(store, "val"), cfg)["val"]
    fake = FakePredictor(
        cfg, lambda pixels: 1 / (1 + np.exp(-3 * np.log(blurred(pixels) / (1 - blurred(pixels)))))
    )
    logits = (
        torch.cat([fake.logits(batch["image"]) for batch in loader])[..., ::4, ::4]
        .numpy()
        .astype(float)
    )
    target = torch.cat([batch["mask"] for batch in loader])[..., ::4, ::4].numpy()
    known = target != 255

    def loss(t):
        z = logits[known] / t
        return np.mean(np.logaddexp(0, z) - z * target[known])

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.2, 7), method="bounded").x
    assert evaluation.tuned(fake, loader).temperature == pytest.approx(best, rel=0.03)


@pytest.mark.usefixtures("no_warnings")
def test_the_test_part_chooses_nothing(palm):
    cfg, store, _ = palm
    with pytest.raises(DataError, match="test part must not choose"):
        evaluation.tuned(
            FakePredictor(cfg, blurred), data.loaders(all_in(store, "test"), cfg)["test"]
        )


def lopsided(cfg, **options):
    """A predictor whose views differ: it answers to what lies on the right of a pixel."""
    network = torch.nn.Conv2d(1, 1, 5, padding=2)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[..., 3:] = 0.8
        network.bias.fill_(-1.0)
    predictor = Predictor(network, cfg, "cpu", "fp32")
    for name, value in options.items():
        setattr(predictor, name, value)
    return predictor


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"tta_rotation": 20.0}])
def test_thresholds_are_chosen_on_the_views_that_are_used(tmp_path, options):
    cfg = config.preset("lung", "smoke", augment={"hflip": 0.5, "rotate": 0.5})
    store = rare_store(tmp_path, 6, 6)
    store.cases["split"] = "val"
    loader = data.loaders(store, cfg)["val"]
    predictor = evaluation.tuned(lopsided(cfg, **options), loader)
    assert predictor.temperature != 1
    dataset = loader.dataset.plain()
    rows = [dataset[k]["image"][None] for k in range(len(dataset))]
    prob = np.stack([predictor.probabilities(image).numpy()[0, 0] for image in rows])
    truth = store.open()[1][..., 0] == 1
    scores = sklearn.metrics.f1_score
    levels = np.quantile(prob, np.linspace(0, 1, 100))
    best = max(scores(truth.ravel(), prob.ravel() >= p) for p in levels)
    chosen = scores(truth.ravel(), prob.ravel() >= predictor.thresholds[0])
    assert chosen >= best - 1e-4


def test_tuned_halves_a_batch_that_does_not_fit_into_memory(tmp_path):
    cfg = config.preset("lung", "smoke", augment={"hflip": 0.5}, batch_size=4)
    store = rare_store(tmp_path, 6, 6)
    store.cases["split"] = "val"
    loader = data.loaders(store, cfg)["val"]
    expected = evaluation.tuned(lopsided(cfg), loader)
    predictor = lopsided(cfg)
    network, sizes = predictor.model, []

    class TooLarge(torch.nn.Module):
        def forward(self, batch):
            sizes.append(len(batch))
            if len(batch) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return network(batch)

    predictor.model = TooLarge()
    result = evaluation.tuned(predictor, loader)
    assert result.temperature == pytest.approx(expected.temperature)
    assert result.thresholds == pytest.approx(expected.thresholds) and {4, 2, 1} <= set(sizes)
