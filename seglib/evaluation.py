"""Evaluate a run on a part of the data: scores with 95 % intervals. Taught in `04` and `07`."""

import copy
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from . import case_io, curves, data, hosts, measurements, memory, metrics, plots, summary, tables
from .curves import HistogramROC
from .errors import DataError
from .formats import channels, images, orientation, stacks
from .inference import OPTIONS, Predictor, class_mask, class_plane
from .measurements import UNIT
from .report import LONGEST_DISTANCE
from .report import Report as Report
from .report import compare as compare
from .summary import COUNTS
from .tables import IGNORE

IDENTITY = ["case", "patient", "volume", "slice", "class", "annotated"]
COMPONENTS = [f"components_{name}" for name in ("true", "pred", "found", "false")]
_DIAGONAL = "diagonal"  # of the frame of an image: a score that is in no table
SPACING = ("spacing_slice_mm", "spacing_row_mm", "spacing_col_mm")


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
    predictor, dataset = _checked(run, loader)
    networks = _Networks([predictor], np.zeros(len(dataset), int))
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
        _, dataset = _checked(predictor, loader)
    fold_of = dict(zip(dataset.cases["patient"], fold.tolist()))
    if [fold_of[patient] for patient in dataset.cases["patient"]] != fold.tolist():
        raise DataError("fold: a patient is in two folds; a network would score whom it has seen")
    networks = _Networks(list(predictors), fold)
    part = f"out-of-fold, {len(predictors)} folds by patient"
    report = _report(networks, dataset, loader, grid, distances, part)
    for table in (report.per_image, report.per_volume):
        table["fold"] = table["patient"].map(fold_of)
    return report


class _Networks(NamedTuple):
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


def _report(
    networks: _Networks, dataset, loader, grid: str, distances: bool, part: str | None
) -> Report:
    """The report of `evaluate` and `out_of_fold`, without the history of a run."""
    if grid not in ("store", "original"):
        raise DataError(f"grid: {grid!r} is not allowed; expected 'store' or 'original'")
    cfg = networks.predictors[0].config
    scorer = _Scorer(networks.predictors[0], dataset, grid, distances)
    with memory.keep_freed_memory(), ThreadPoolExecutor(scorer.threads) as pool:
        for predictor, order in networks.orders(scorer.order):
            for numbers, prob in _batches(predictor, dataset, loader, order):
                scorer.add(pool, numbers, prob)
    per_image = scorer.per_image()
    per_volume = scorer.per_volume(per_image)
    seen = _seen_in_training(per_image, networks, dataset)
    if seen is not None:
        per_image["seen"] = seen
    about = _about(networks, dataset, (per_image, per_volume), grid, part)
    absent = summary.absent_classes(per_image)
    title = (
        f"{cfg.preset}: {about['part']}, {about['images']} images of {about['patients']} patients"
    )
    longest = _longest_distances(scorer.scores)
    if longest:  # rounded up, so that no distance is longer
        diagonal = longest.get(measurements.unit_of(per_image), math.inf)
        about[LONGEST_DISTANCE] = math.ceil(100 * diagonal) / 100
    summaries = [summary.of_table(per_image, "per image", cfg, absent, longest)]
    if len(per_volume):
        longest = _longest_distances(scorer.volume_scores)
        summaries.append(summary.of_table(per_volume, "per volume", cfg, absent, longest))
    summaries.append(scorer.pixels.summary(per_image))
    scores = pd.concat(summaries, ignore_index=True).assign(grid=grid)
    return Report(
        title=title,
        per_image=per_image,
        per_volume=per_volume,
        summary=scores,
        about=about,
        notes=[*summary.notes(per_image, scores, absent), *_notes_of_data(dataset)],
        curves=scorer.pixels.curves,
        confusion=scorer.pixels.confusion(per_image),
        examples=_Examples(dataset, networks),
    )


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
    predictor, dataset = _checked(run, loader)
    predictor = copy.copy(predictor)
    if dataset.part == "test":
        raise DataError(
            "tuned: the test part must not choose anything; "
            "give the validation part, batches['val']"
        )
    cfg = predictor.config
    predictor.temperature = 1.0
    predictor.temperature = _best_temperature(predictor, dataset, loader)
    where = f"on the part {dataset.part!r}, {len(dataset)} images"
    temperature_text = f"{predictor.temperature:.3f}, of the least log loss {where}"
    predictor.chosen = {"temperature": temperature_text}
    if cfg.task != "multiclass":
        predictor.thresholds = _best_thresholds(predictor, dataset, loader, metric)
        values = ", ".join(f"{value:.3f}" for value in predictor.thresholds)
        predictor.chosen["threshold"] = f"{values}, of the best pooled {metric} {where}"
    return predictor


def _best_temperature(predictor: Predictor, dataset, loader) -> float:
    temperature = curves.Temperature(predictor.config.task)
    batches = data.whole_frames(dataset, loader, list(range(len(dataset))))
    for batch in hosts.progress(batches, desc=f"temperature on {dataset.part}", leave=False):
        temperature.update(predictor.log_odds(batch["image"]).cpu(), batch["mask"])
    return temperature.value()


def _best_thresholds(predictor: Predictor, dataset, loader, metric: str) -> tuple[float, ...]:
    """The threshold of each class, at the predictor's temperature; that of the config where a class
    has no positive or no negative pixel."""
    pixels = _Pixels(predictor)
    for numbers, prob in _batches(predictor, dataset, loader, list(range(len(dataset)))):
        for number, prob_of_image in zip(numbers, prob):
            truth = plots.flat(dataset.pixels(number)[1])
            pixels.add_probabilities(_Image(dataset, number, truth, mask=None), prob_of_image)
    best = np.array([curve.best_threshold(metric) for curve in pixels.curves.values()])
    best = np.where(np.isfinite(best), best, predictor.config.threshold)
    return tuple(np.clip(best, 1e-6, 1 - 1e-6).tolist())


def _checked(run, loader) -> tuple[Predictor, Any]:
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


def _batches(
    predictor: Predictor, dataset, loader, order: list[int]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Every image once, in this order: positions in the dataset, and probabilities (N, K, H, W)."""
    batches = data.whole_frames(dataset, loader, order)
    for batch in hosts.progress(batches, desc=f"evaluate {dataset.part}", leave=False):
        yield batch["index"].tolist(), predictor.probabilities(batch["image"]).cpu().numpy()


# ---- scores of images and volumes


@dataclass
class _Image:
    """A picture or a slice on the grid of the report.

    `truth` uint8 (H, W) or (K, H, W), 255 where it is unknown or padding; `mask` as in
    `Prediction`.
    """

    dataset: Any
    number: int
    truth: np.ndarray
    mask: np.ndarray | None

    @property
    def case(self) -> pd.Series:
        """The row of the case table."""
        return self.dataset.cases.iloc[self.number]

    @property
    def annotated(self) -> np.ndarray:
        """(K,) bool: the classes whose truth is known."""
        return self.dataset.annotated[self.number]

    @property
    def volume(self) -> tuple[str, str] | None:
        """Volume and patient, which name the volume that this is a slice of; None for a picture."""
        return _volume_of(self.case)


class _Scorer:
    """Scores pictures batch by batch, and a volume once all of its slices are predicted."""

    def __init__(self, predictor: Predictor, dataset, grid: str, distances: bool):
        self.predictor, self.dataset = predictor, dataset
        self.grid, self.distances = grid, distances
        self.task, self.structures = predictor.config.task, predictor.config.structures
        self.threads = min(hosts.n_cores(), 8)
        self.pixels = _Pixels(predictor)
        self.order = _order(dataset.cases)
        # Volume -> number of its slices that have not been predicted yet.
        self.n_missing = Counter(filter(None, _volumes(dataset.cases)))
        self.slices: list[_Image] = []  # the slices so far of the current volume
        # (number, class) and (volume, patient, class) -> metric -> score.
        self.scores: dict[tuple, dict[str, float]] = {}
        self.volume_scores: dict[tuple, dict[str, float]] = {}

    def add(self, pool: ThreadPoolExecutor, numbers: list[int], prob: np.ndarray) -> None:
        """Score the images of a batch; `prob` (N, K, H, W) has the size of the store."""
        # Some X-rays have 20 million pixels: a whole batch at that size may not fit into memory.
        n_at_once = self.threads
        if self.grid == "original":
            sizes = self.dataset.cases.iloc[numbers][["height", "width"]].astype(int)
            n_at_once = min(n_at_once, data.PIXELS_AT_ONCE // sizes.prod(axis=1).max())
        n_at_once = max(1, n_at_once)
        for start in range(0, len(numbers), n_at_once):
            chunk = slice(start, start + n_at_once)
            self._add_few(pool, numbers[chunk], prob[chunk])

    def _add_few(self, pool: ThreadPoolExecutor, numbers: list[int], prob: np.ndarray) -> None:
        # This thread alone reads files, as it keeps the volume of the last slice in memory.
        pairs = zip(numbers, prob)
        opened = [self._open(number, prob_of_image) for number, prob_of_image in pairs]
        complete = self._complete([image for image, _ in opened])
        jobs: list[tuple[dict, Any, Future]] = []
        for image, prob_of_image in opened:
            for k in self._annotated(image):
                job = pool.submit(_probability_scores, image, prob_of_image[k], k, self.task)
                jobs.append((self.scores, (image.number, k), job))
        for group in complete:
            for image in group:
                for k in self._annotated(image):
                    job = pool.submit(self._mask_scores, image, k)
                    jobs.append((self.scores, (image.number, k), job))
            if group[0].volume:
                for k, name in self.structures.items():
                    job = pool.submit(self._volume_scores, group, k)
                    jobs.append((self.volume_scores, (*group[0].volume, name), job))
        for image, prob_of_image in opened:  # while the threads compute
            self.pixels.add_probabilities(image, prob_of_image)
        for group in complete:
            for image in group:
                self.pixels.add_mask(image)
        for table, key, job in jobs:
            table.setdefault(key, {}).update(job.result())

    def _open(self, number: int, prob: np.ndarray) -> tuple[_Image, np.ndarray]:
        """An image on the grid of the report, and its probabilities (K, H, W) on that grid."""
        cfg, case = self.predictor.config, self.dataset.cases.iloc[number]
        if self.grid == "original":
            shape = (int(case["height"]), int(case["width"]))
            prob = images.unfit(prob, shape, cfg.resize)
            inverted = self.dataset.store.info["inverted"]
            truth = case_io.read_truth(case, cfg, inverted, shape)[0]
        else:
            truth = self.dataset.pixels(number)[1]
        decide = self.predictor.raw_mask if _volume_of(case) else self.predictor.mask
        return _Image(self.dataset, number, plots.flat(truth), decide(prob)), prob

    def _complete(self, opened: list[_Image]) -> list[list[_Image]]:
        """Groups to score: every picture, and the cleaned slices of every complete volume."""
        complete = []
        for image in opened:
            if image.volume is None:
                complete.append([image])
                continue
            self.slices.append(image)
            self.n_missing[image.volume] -= 1
            if not self.n_missing[image.volume]:
                _clean_volume(self.predictor, self.slices)
                complete.append(self.slices)
                self.slices = []
        return complete

    def _annotated(self, image: _Image) -> list[int]:
        return [k for k in self.structures if image.annotated[k]]

    def _mask_scores(self, image: _Image, k: int) -> dict[str, float]:
        """Counts of one class of an image, and the metrics of counts and of distances."""
        truth, valid = class_mask(image.truth, k, self.task), _valid(image, k, self.task)
        pred = class_mask(image.mask, k, self.task)
        count = metrics.counts(pred, truth, valid)
        scores = {"n_true": count["tp"] + count["fn"], "n_pred": count["tp"] + count["fp"], **count}
        scores |= {name: float(value) for name, value in metrics.ratios(**count).items()}
        if self.distances:
            spacing = self._spacing(image.case, SPACING[1:])
            scores |= _distances(pred, truth, valid, spacing)
            scores[UNIT] = "mm" if spacing else "pixels"
        return scores

    def _spacing(self, case: Any, columns: tuple[str, ...]) -> tuple[float, ...] | None:
        """Size of a pixel or voxel of the report's grid in mm; None where it is unknown."""
        return _spacing(case, columns) if self.grid == "original" else None

    def _volume_scores(self, slices: list[_Image], k: int) -> dict[str, Any]:
        """Scores of one class in three dimensions, from the slices where it is annotated."""
        slices = [image for image in slices if image.annotated[k]]
        if not slices or not _same_size(slices):
            return {}
        pred = np.stack([class_mask(image.mask, k, self.task) for image in slices])
        truth = np.stack([class_mask(image.truth, k, self.task) for image in slices])
        valid = np.stack([_valid(image, k, self.task) for image in slices])
        scores: dict[str, Any] = metrics.components(pred & valid, truth & valid)
        if self.distances:
            spacing = self._spacing(slices[0].case, SPACING)
            scores |= _distances(pred, truth, valid, spacing)
            scores[UNIT] = "mm" if spacing else "voxels"
        return scores

    def per_image(self) -> pd.DataFrame:
        """One row per image and class, in the order of the case table."""
        names = metrics.names("counts", "probabilities", "distances")
        columns = [*IDENTITY, "n_true", "n_pred", *COUNTS, *names, UNIT]
        missing = {**dict.fromkeys(columns, np.nan), UNIT: ""}
        rows = []
        for number in range(len(self.dataset)):
            case = self.dataset.cases.iloc[number]
            of_case = {name: case.get(name, "") for name in IDENTITY[:4]}
            for k, name in self.structures.items():
                annotated = bool(self.dataset.annotated[number][k])
                identity = {**of_case, "class": name, "annotated": annotated}
                scores = self.scores.get((number, k), {})
                rows.append({**missing, **identity, **scores})
        return pd.DataFrame(rows, columns=columns)

    def per_volume(self, per_image: pd.DataFrame) -> pd.DataFrame:
        """One row per volume and class: the summed counts of its slices, and scores in 3-D."""
        slices = per_image[(per_image["volume"] != "") & per_image["annotated"]]
        if slices.empty:
            return pd.DataFrame(columns=[*per_image.columns.drop("slice"), *COMPONENTS])
        groups = slices.groupby(["volume", "patient", "class"], sort=False)
        table = groups[["n_true", "n_pred", *COUNTS]].sum().reset_index()
        table = table.assign(annotated=True, **metrics.ratios(*(table[c] for c in COUNTS)))
        keys = zip(table["volume"], table["patient"], table["class"])
        of_volumes = [self.volume_scores.get(key, {}) for key in keys]
        for name in (*metrics.names("distances"), *COMPONENTS):
            table[name] = [scores.get(name, np.nan) for scores in of_volumes]
        table[UNIT] = [scores.get(UNIT, "") for scores in of_volumes]
        return table


def _volume_of(case: Any) -> tuple[str, str] | None:
    """Volume and patient of a row of the case table; None for a picture."""
    volume = case.get("volume", "")
    return (volume, case["patient"]) if volume else None


def _volumes(cases: pd.DataFrame) -> list[tuple[str, str] | None]:
    """`_volume_of` of every row."""
    return [_volume_of(case) for _, case in cases.iterrows()]


def _order(cases: pd.DataFrame) -> list[int]:
    """Positions of the cases in the order of the table, but with the slices of each volume together
    and in their own order."""
    groups: dict[Any, int] = {}
    keys = [volume or number for number, volume in enumerate(_volumes(cases))]
    group = [groups.setdefault(key, len(groups)) for key in keys]
    place = pd.to_numeric(cases.get("slice", pd.Series("", cases.index)), errors="coerce")
    return np.lexsort((place, group)).tolist()


def _clean_volume(predictor: Predictor, slices: list[_Image]) -> None:
    """Remove the components and fill the holes of a volume, as the predictor is set."""
    if not _same_size(slices):  # picture files of different sizes cannot be stacked to a volume
        for image in slices:
            image.mask = predictor.cleaned(image.mask)
        return
    volume = predictor.cleaned(np.stack([image.mask for image in slices], axis=-3))
    for place, image in enumerate(slices):
        image.mask = volume[..., place, :, :]


def _same_size(slices: list[_Image]) -> bool:
    return len({image.mask.shape for image in slices}) == 1


def _valid(image: _Image, k: int, task: str) -> np.ndarray:
    """(H, W) bool: where the truth of a class is known."""
    return class_plane(image.truth, k, task) != IGNORE


def _probability_scores(image: _Image, prob: np.ndarray, k: int, task: str) -> dict[str, float]:
    truth = class_mask(image.truth, k, task)
    return metrics.probability_scores(prob, truth, _valid(image, k, task))


def _distances(
    pred: np.ndarray, truth: np.ndarray, valid: np.ndarray, spacing: tuple[float, ...] | None
) -> dict[str, float]:
    """Metrics of distances in the box of the valid pixels, as padding would lengthen the diagonal
    that stands for a missing mask."""
    box = metrics.box_of(valid) if valid.any() else (slice(None),) * valid.ndim
    pred, truth = (pred & valid)[box], (truth & valid)[box]
    longest = metrics.diagonal(pred.shape, spacing)
    scores = metrics.surface_distances(pred, truth, spacing, longest=longest)
    return {**scores, _DIAGONAL: longest}


def _longest_distances(scores: Mapping[tuple, Mapping[str, Any]]) -> dict[str, float]:
    """Unit -> the longest diagonal of the frames that were scored in it."""
    longest: dict[str, float] = {}
    for score in scores.values():
        if _DIAGONAL in score:
            unit = score[UNIT]
            longest[unit] = max(longest.get(unit, 0.0), score[_DIAGONAL])
    return longest


def _spacing(case: Any, columns: tuple[str, ...]) -> tuple[float, ...] | None:
    """Size of a pixel or voxel along its axes in mm; None where one of them is unknown."""
    values = [case.get(column, "") for column in columns]
    # A picture has no distance between slices: one of its own stands for it.
    spacing = orientation.known_spacing(values if len(values) == 3 else [values[0], *values])
    return spacing and spacing[-len(columns) :]


# ---- the header of the report


def _about(
    networks: _Networks,
    dataset,
    scores: tuple[pd.DataFrame, pd.DataFrame],
    grid: str,
    part: str | None,
) -> dict[str, Any]:
    """Header of the report: data, grid and units, weights and how they were used.

    `scores` are `per_image` and `per_volume`.
    """
    per_image, per_volume = scores
    predictor = networks.predictors[0]  # the settings are those of all
    if part is None:
        part = "validation, used for model choice" if dataset.part == "val" else dataset.part
    about = {
        "part": part,
        "grid": grid,
        "threshold": predictor.config.threshold,
        **predictor.chosen,
        "distances_in": _unit_text(per_image, "case", grid, "images"),
    }
    if len(per_volume):
        about["distances_of_volumes_in"] = _unit_text(per_volume, "volume", grid, "volumes")
    about |= {
        "images": int(per_image["case"].nunique()),
        "patients": int(per_image["patient"].nunique()),
        "precision": predictor.precision,
        **_about_weights(networks.predictors),
    }
    if predictor.config.task == "multiclass":
        about["threshold"] = "none, the likeliest class"
    for option in OPTIONS:
        if getattr(predictor, option):
            about[option] = getattr(predictor, option)
    if predictor.tta and not predictor.flips:
        about["tta"] = "none, no flip in the training augmentation"
    about["seen_in_training"] = _seen_text(per_image)
    return about


def _about_weights(predictors: list[Predictor]) -> dict[str, str]:
    """Names and checksums of all weights files of a report."""
    paths = [path for predictor in predictors for path in predictor.files]
    checksums = [sha256 for predictor in predictors for sha256 in predictor.checksums]
    if not paths:
        return {"weights": "in memory"}
    names = [path.name for path in paths]
    if len(paths) > 1:  # of several, the name of the run tells them apart
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    about = {"weights": ", ".join(names)}
    if all(checksums):
        about["weights_sha256"] = ", ".join(sha256[:16] for sha256 in checksums)
    return about


def _seen_in_training(per_image: pd.DataFrame, networks: _Networks, dataset) -> pd.Series | None:
    """Whether the image of each row was in the training of the network that predicted it; None if
    that is unknown."""
    trained_on = [predictor.trained_on for predictor in networks.predictors]
    if None in trained_on:
        return None
    hash_sets = [set(hashes) for hashes in trained_on]
    hashes = dataset.cases["sha256"].str.slice(0, 16)
    seen = [sha256 in hash_sets[position] for sha256, position in zip(hashes, networks.of_row)]
    return per_image["case"].map(dict(zip(dataset.cases["case"], seen)))


def _seen_text(per_image: pd.DataFrame) -> str:
    seen = summary.seen_in_training(per_image)
    if seen is None:
        return "unknown, the weights do not say"
    if not seen.n_seen:
        return f"none of {seen.n_images} images"
    text = f"{seen.n_seen} of {seen.n_images} images (column seen of per_image.csv)"
    if seen.n_new:
        text += f"; Dice of the {seen.n_new} others {seen.dice_of_new:.4f}"
    return text


def _unit_text(table: pd.DataFrame, key: str, grid: str, things: str) -> str:
    """The unit of the mean distances, and what is left out of them because it has another unit."""
    scored = table[table[UNIT] != ""]
    if scored.empty:
        return "not computed"
    unit = measurements.unit_of(scored)
    others = scored[scored[UNIT] != unit]
    text = unit if unit == "mm" else f"{unit} of the {grid} grid"
    if others.empty:
        return text
    n, total = (len(rows.groupby([key, "patient"])) for rows in (others, scored))
    return (
        f"{text}; {n} of {total} {things} have no known spacing: their distances are in "
        f"{measurements.unit_of(others)} (column {UNIT}) and left out of the means"
    )


MAX_NOTES = 5  # of the data report, in a report of scores


def _notes_of_data(dataset) -> list[str]:
    """What the data report notes about the scored files, or about no file in particular."""
    scored, all_files = (_file_names(cases) for cases in (dataset.cases, dataset.store.cases))
    texts = []
    for text in dataset.store.report.notes:
        files = all_files.intersection(re.split(r": |, | and \d+ more", text))
        if files & scored or not (files or text.startswith("split:")):
            texts.append(f"data: {text}")
    if len(texts) > MAX_NOTES:
        more = len(texts) - MAX_NOTES
        texts = [*texts[:MAX_NOTES], f"data: {more} more notes in the data report (store.report)"]
    return texts


def _file_names(cases: pd.DataFrame) -> set[str]:
    """The names of all files in the cells of a case table."""
    cells = cases.select_dtypes(exclude="number").to_numpy().ravel()
    texts = [text for cell in cells if isinstance(cell, str) for text in cell.split(images.UNION)]
    return {Path(path).name for text in set(texts) for path in channels.files(text)}


# ---- pixels and summaries


class _Pixels:
    """Histograms and confusion matrix of all pixels of a part of the data, one class against the
    rest, added up image by image.

    They take 13 MB per class and 7 kB per patient, whatever the number of images.
    """

    def __init__(self, predictor: Predictor):
        self.cfg, self.structures = predictor.config, predictor.config.structures
        self.curves = {name: HistogramROC() for name in self.structures.values()}
        self.patients: dict[Any, np.ndarray] = {}  # patient -> coarse histogram, for the intervals
        self.matrix = np.zeros((self.cfg.n_classes, self.cfg.n_classes), np.int64)

    def add_probabilities(self, image: _Image, prob: np.ndarray) -> None:
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

    def add_mask(self, image: _Image) -> None:
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


class _Examples:
    """Images of a part at the size of the store, with truth and prediction, computed on demand."""

    def __init__(self, dataset, networks: _Networks):
        self.dataset, self.networks, self.task = dataset, networks, dataset.task

    def __call__(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, C), truth and prediction as `plots.overlay` takes masks.

        A slice is cleaned with its whole volume, so all slices of the volume are predicted.
        """
        image, truth, prob = self.probabilities(case)
        cases, predictor = self.dataset.cases, self.networks.of(self._number(case))
        volume = _volume_of(cases[cases["case"] == case].iloc[0])
        if volume is None or not predictor.cleans:
            return image, truth, predictor.mask(prob)
        names = [
            cases["case"].iloc[number]
            for number in _order(cases)
            if _volume_of(cases.iloc[number]) == volume
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
