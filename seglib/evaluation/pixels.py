"""Curves and confusion matrix of all pixels, one image after the other."""

from typing import Any

import numpy as np
import pandas as pd

from .. import curves, summary, tables
from ..curves import HistogramROC
from ..errors import DataError
from ..inference import Predictor, class_plane
from ..summary import COUNTS
from ..tables import IGNORE
from .image import Image


class Pixels:
    """Histograms and confusion matrix of all pixels of a part of the data, one class against the
    rest, added up image by image.

    They take 13 MB per class and 7 kB per patient, whatever the number of images.
    """

    def __init__(self, predictor: Predictor):
        self.cfg, self.structures = predictor.config, predictor.config.structures
        self.curves = {name: HistogramROC() for name in self.structures.values()}
        self.patients: dict[Any, np.ndarray] = {}  # patient -> coarse histogram, for the intervals
        self.matrix = np.zeros((self.cfg.n_classes, self.cfg.n_classes), np.int64)

    def add_probabilities(self, image: Image, prob: np.ndarray) -> None:
        """Add the probabilities (K, H, W) of an image to the curves of its annotated classes."""
        case, task = image.case, self.cfg.task
        empty = np.zeros((len(self.curves), 2, curves.COARSE), np.int32)
        coarse = self.patients.setdefault(case["patient"], empty)
        for row, (k, name) in enumerate(self.structures.items()):
            if not image.annotated[k]:
                continue
            target = class_plane(image.truth, k, task)
            if task == "multiclass":
                of_class = (target == k).astype(np.uint8)
                target = np.where(target == IGNORE, np.uint8(IGNORE), of_class)
            try:
                self.curves[name].update(prob[k], target)
            except ValueError as error:
                raise DataError(
                    f"{case['case']}, class {name}: the network's output is no probability "
                    f"({error}); look at the run's history: were its weights saved after the loss "
                    "had become NaN?"
                ) from error
            coarse[row] += curves.coarse(prob[k], target)

    def add_mask(self, image: Image) -> None:
        """Add an image to the confusion matrix of classes that exclude one another."""
        if self.cfg.task != "multiclass":
            return
        valid = image.truth != IGNORE
        pairs = image.truth[valid].astype(np.int64) * len(self.matrix) + image.mask[valid]
        self.matrix += np.bincount(pairs, minlength=self.matrix.size).reshape(self.matrix.shape)

    def confusion(self, per_image: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Pixels by truth and prediction: one table, or one per class if classes may overlap."""
        if self.cfg.task == "multiclass":
            names = list(self.cfg.class_names)
            return {"pixels": pd.DataFrame(self.matrix, names, names)}
        sums = per_image.groupby("class")[COUNTS].sum().astype(np.int64)
        matrices = {}
        for name in self.cfg.class_names:
            tp, fp, fn, tn = sums.loc[name]
            labels = [f"not {name}", name]
            matrices[name] = pd.DataFrame([[tn, fp], [fn, tp]], labels, labels)
        return matrices

    def summary(self, per_image: pd.DataFrame) -> pd.DataFrame:
        """Rows of the summary with the average `pixels`: the metrics of histograms."""
        scores = pd.DataFrame(
            {name: tables.scores("histogram", curve) for name, curve in self.curves.items()}
        ).T
        counts = np.stack(list(self.patients.values()))
        return summary.of_curves(scores, counts, per_image, self.cfg)
