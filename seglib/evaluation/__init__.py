"""Evaluate a run on a part of the data: scores with 95 % intervals. Taught in `04` and `07`.

The rooms, in the order in which a report needs them:

- `networks`: which network scores which image, and batches of probabilities;
- `image`, `distances`, `pixels`, `scorer`: the scores of images, volumes and all pixels;
- `header`: what a report says about its data and weights;
- `examples`: images with truth and prediction, for its figures;
- `choices`: the temperature and the thresholds that suit the validation part.

`report` holds the tables that come out, and `summary` their means.
"""

import copy
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from .. import measurements, memory, summary
from ..errors import DataError
from ..inference import Predictor
from ..report import LONGEST_DISTANCE, Report, compare
from . import choices, header
from .distances import SPACING, longest_distances
from .examples import Examples
from .header import MAX_NOTES
from .networks import Networks, checked, predicted_batches
from .scorer import COMPONENTS, IDENTITY, Scorer

__all__ = [
    "COMPONENTS",
    "IDENTITY",
    "MAX_NOTES",
    "SPACING",
    "Report",
    "compare",
    "evaluate",
    "out_of_fold",
    "tuned",
]


def evaluate(
    run, loader, grid: str = "store", distances: bool = True, part: str | None = None
) -> Report:
    """Score a run (or a `Predictor`) on one part of the data, batch by batch.

    A row of `per_image` scores one picture or one slice: counts, probabilities, and distances
    within the slice. A row of `per_volume` scores one volume: the summed counts of its slices,
    distances in three dimensions, and connected components (`metrics.components`). If the predictor
    removes connected components or fills holes, it does so picture by picture, but for volumes as a
    whole, as `Predictor.predict_volume` does; slices that this part lacks are skipped. Memory holds
    the predictions of one batch and the masks of one volume, never more.

    Args:
        run: a `Run`, whose best weights are used, or a `Predictor`, for example of `tuned`.
        loader: one of `data.loaders(...)`.
        grid: "store" scores at the size of the store; "original" maps the probabilities back to the
            size of the files, reads the truth again and uses the true spacing where the case table
            has one.
        distances: also the metrics of distances, such as HD95 (tolerance of the surface Dice: 2
            pixels, or mm where the spacing is known).
        part: the name of this part of the data in the report; by default that of the dataset.

    Raises:
        DataError: the part is empty, the data is of other classes, or the network's output is not a
            number.
    """
    predictor, dataset = checked(run, loader)
    networks = Networks([predictor], np.zeros(len(dataset), int))
    report = _report(networks, dataset, loader, grid, distances, part)
    report.history = getattr(run, "history", None)
    return report


def out_of_fold(
    predictors: Sequence[Predictor],
    loader,
    fold: Sequence[int],
    grid: str = "store",
    distances: bool = True,
) -> Report:
    """Score every image by the network that was trained without the fold of its patient.

    The report is that of `evaluate` on all images together. `per_image` and `per_volume` have the
    additional column `fold`.

    Args:
        predictors: one for each fold, all of the same settings.
        loader: all images of all folds, in any of the parts of `data.loaders`.
        fold: for each image of the loader's dataset the position in `predictors`.
        grid, distances: as for `evaluate`.

    Raises:
        DataError: as for `evaluate`; or a patient is in two folds.
    """
    fold = np.asarray(fold)
    for predictor in predictors:
        _, dataset = checked(predictor, loader)
    fold_of = dict(zip(dataset.cases["patient"], fold.tolist()))
    if [fold_of[patient] for patient in dataset.cases["patient"]] != fold.tolist():
        raise DataError("fold: a patient is in two folds; a network would score whom it has seen")
    networks = Networks(list(predictors), fold)
    part = f"out-of-fold, {len(predictors)} folds by patient"
    report = _report(networks, dataset, loader, grid, distances, part)
    for table in (report.per_image, report.per_volume):
        table["fold"] = table["patient"].map(fold_of)
    return report


def tuned(run, loader, metric: str = "dice") -> Predictor:
    """The best weights of a run with the temperature and thresholds that suit the validation part.

    The temperature has the least log loss, the threshold of each class the best pooled `metric`
    (not for multiclass, where the likeliest class wins). Both are chosen on what the predictor will
    use: with `tta` or `tta_rotation`, on the mean of its views. Reports of this predictor name the
    data that they were chosen on.

    Args:
        run: a `Run`, whose best weights are used, or a `Predictor`.
        loader: of the validation part, `batches["val"]`.
        metric: a metric of counts, see `tables.METRICS`.

    Raises:
        DataError: the loader's part is the test part, is empty, or is of other classes.
    """
    predictor, dataset = checked(run, loader)
    predictor = copy.copy(predictor)
    if dataset.part == "test":
        raise DataError(
            "tuned: the test part must not choose anything; "
            "give the validation part, batches['val']"
        )
    cfg = predictor.config
    predictor.temperature = 1.0
    predictor.temperature = choices.best_temperature(predictor, dataset, loader)
    where = f"on the part {dataset.part!r}, {len(dataset)} images"
    temperature_text = f"{predictor.temperature:.3f}, of the least log loss {where}"
    predictor.chosen = {"temperature": temperature_text}
    if cfg.task != "multiclass":
        predictor.thresholds = choices.best_thresholds(predictor, dataset, loader, metric)
        values = ", ".join(f"{value:.3f}" for value in predictor.thresholds)
        predictor.chosen["threshold"] = f"{values}, of the best pooled {metric} {where}"
    return predictor


def _report(
    networks: Networks, dataset, loader, grid: str, distances: bool, part: str | None
) -> Report:
    """The report of `evaluate` and `out_of_fold`, without the history of a run."""
    if grid not in ("store", "original"):
        raise DataError(f"grid: {grid!r} is not allowed; expected 'store' or 'original'")
    cfg = networks.predictors[0].config
    scorer = Scorer(networks.predictors[0], dataset, grid, distances)
    with memory.keep_freed_memory(), ThreadPoolExecutor(scorer.threads) as pool:
        for predictor, order in networks.orders(scorer.order):
            for numbers, prob in predicted_batches(predictor, dataset, loader, order):
                scorer.add(pool, numbers, prob)
    per_image = scorer.per_image()
    per_volume = scorer.per_volume(per_image)
    seen = header.seen_in_training(per_image, networks, dataset)
    if seen is not None:
        per_image["seen"] = seen
    about = header.about_report(networks, dataset, (per_image, per_volume), grid, part)
    absent = summary.absent_classes(per_image)
    title = (
        f"{cfg.preset}: {about['part']}, {about['images']} images of {about['patients']} patients"
    )
    longest = longest_distances(scorer.scores)
    if longest:  # rounded up, so that no distance is longer
        diagonal = longest.get(measurements.unit_of(per_image), math.inf)
        about[LONGEST_DISTANCE] = math.ceil(100 * diagonal) / 100
    summaries = [summary.of_table(per_image, "per image", cfg, absent, longest)]
    if len(per_volume):
        longest = longest_distances(scorer.volume_scores)
        summaries.append(summary.of_table(per_volume, "per volume", cfg, absent, longest))
    summaries.append(scorer.pixels.summary(per_image))
    scores = pd.concat(summaries, ignore_index=True).assign(grid=grid)
    return Report(
        title=title,
        per_image=per_image,
        per_volume=per_volume,
        summary=scores,
        about=about,
        notes=[*summary.notes(per_image, scores, absent), *header.notes_of_data(dataset)],
        curves=scorer.pixels.curves,
        confusion=scorer.pixels.confusion(per_image),
        examples=Examples(dataset, networks),
    )
