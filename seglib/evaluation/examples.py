"""Images of a report with truth and prediction, for figures."""

import numpy as np
import torch

from .. import data, plots
from ..formats import stacks
from .image import order_of, volume_of
from .networks import Networks


class Examples:
    """Images of a part at the size of the store, with truth and prediction, computed on demand."""

    def __init__(self, dataset, networks: Networks):
        self.dataset, self.networks, self.task = dataset, networks, dataset.task

    def __call__(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, C), truth and prediction as `plots.overlay` takes masks.

        A slice is cleaned with its whole volume, so all slices of the volume are predicted.
        """
        image, truth, prob = self.probabilities(case)
        cases, predictor = self.dataset.cases, self.networks.of(self._number(case))
        volume = volume_of(cases[cases["case"] == case].iloc[0])
        if volume is None or not predictor.cleans:
            return image, truth, predictor.mask(prob)
        names = [
            cases["case"].iloc[number]
            for number in order_of(cases)
            if volume_of(cases.iloc[number]) == volume
        ]
        masks = [predictor.raw_mask(self.probabilities(name)[2]) for name in names]
        cleaned = predictor.cleaned(np.stack(masks, axis=-3))
        return image, truth, cleaned[..., names.index(case), :, :]

    def probabilities(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with probabilities (K, H, W) instead of the prediction."""
        number = self._number(case)
        predictor = self.networks.of(number)
        image, mask = self.dataset.pixels(number)
        batch = torch.from_numpy(data.normalise(image, predictor.table))[None]
        prob = predictor.probabilities(batch)[0].cpu().numpy()
        return stacks.shown(image, predictor.config), plots.flat(mask), prob

    def _number(self, case: str) -> int:
        """The position of a case in the dataset."""
        return int(np.flatnonzero(self.dataset.cases["case"] == case)[0])
