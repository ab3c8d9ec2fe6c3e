"""The temperature and the thresholds that suit the validation part."""

import numpy as np

from .. import curves, data, hosts, plots
from ..inference import Predictor
from .image import Image
from .networks import predicted_batches
from .pixels import Pixels


def best_temperature(predictor: Predictor, dataset, loader) -> float:
    """The temperature of the least log loss."""
    temperature = curves.Temperature(predictor.config.task)
    batches = data.whole_frames(dataset, loader, list(range(len(dataset))))
    for batch in hosts.progress(batches, desc=f"temperature on {dataset.part}", leave=False):
        temperature.update(predictor.log_odds(batch["image"]).cpu(), batch["mask"])
    return temperature.value()


def best_thresholds(predictor: Predictor, dataset, loader, metric: str) -> tuple[float, ...]:
    """The threshold of each class, at the predictor's temperature; that of the config where a class
    has no positive or no negative pixel."""
    pixels = Pixels(predictor)
    for numbers, prob in predicted_batches(predictor, dataset, loader, list(range(len(dataset)))):
        for number, prob_of_image in zip(numbers, prob):
            truth = plots.flat(dataset.pixels(number)[1])
            pixels.add_probabilities(Image(dataset, number, truth, mask=None), prob_of_image)
    best = np.array([curve.best_threshold(metric) for curve in pixels.curves.values()])
    best = np.where(np.isfinite(best), best, predictor.config.threshold)
    return tuple(np.clip(best, 1e-6, 1 - 1e-6).tolist())
