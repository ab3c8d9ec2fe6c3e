"""The networks of a report, and the images that each of them scores."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import data, hosts
from ..errors import DataError
from ..formats import channels, stacks
from ..inference import Predictor


class Networks(NamedTuple):
    """The predictors of a report, all of the same settings, and which of them scores each image.

    `of_row` (n,) int: for each image of the dataset its position in `predictors`.
    """

    predictors: list[Predictor]
    of_row: np.ndarray

    def of(self, number: int) -> Predictor:
        """The predictor of one image of the dataset."""
        return self.predictors[self.of_row[number]]

    def orders(self, order: list[int]) -> Iterator[tuple[Predictor, list[int]]]:
        """Each predictor with its images, in this order of all images."""
        for position, predictor in enumerate(self.predictors):
            yield predictor, [number for number in order if self.of_row[number] == position]


def checked(run, loader) -> tuple[Predictor, Any]:
    """The predictor of a run, and the dataset of a loader without augmentation; `DataError` if
    they do not fit together."""
    dataset = loader.dataset
    if not len(dataset):
        raise DataError(
            f"the part {dataset.part!r} has no image; set test_split or val_split and prepare the "
            "data again, or, where there are too few patients to spare any, evaluate on other data"
        )
    predictor = run
    if not hasattr(run, "probabilities"):
        predictor = Predictor.load(run.best, model=getattr(run, "model", None))
    if tuple(predictor.config.class_names) != dataset.class_names:
        raise DataError(
            f"the network knows {', '.join(predictor.config.class_names)}, the data has "
            f"{', '.join(dataset.class_names)}; evaluate a run on the data of its own system"
        )
    if not channels.agree(predictor.config.channels, dataset.channels):
        takes, has = (", ".join(names) for names in (predictor.config.channels, dataset.channels))
        raise DataError(
            f"the network takes the channels {takes or 'of one volume'}, the data has "
            f"{has or 'one volume a case'}; prepare it with the config of the network "
            "(predictor.config)"
        )
    if dataset.n_channels != predictor.config.input_channels:
        raise DataError(
            f"the network takes {predictor.config.input_channels} channels "
            f"({stacks.description(predictor.config)}), the store has {dataset.n_channels}; "
            "prepare the data with the config of the network (predictor.config)"
        )
    return predictor, dataset.plain()


def predicted_batches(
    predictor: Predictor, dataset, loader, order: list[int]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Every image once, in this order: positions in the dataset, and probabilities (N, K, H, W)."""
    batches = data.whole_frames(dataset, loader, order)
    for batch in hosts.progress(batches, desc=f"evaluate {dataset.part}", leave=False):
        yield batch["index"].tolist(), predictor.probabilities(batch["image"]).cpu().numpy()
