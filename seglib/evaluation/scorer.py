"""Scores of images and volumes, batch by batch."""

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from .. import case_io, data, hosts, metrics, plots
from ..formats import images
from ..inference import Predictor, class_mask
from ..measurements import UNIT
from ..summary import COUNTS
from .distances import SPACING, distance_scores, spacing_of
from .image import Image, clean_volume, order_of, same_size, valid_pixels, volume_of, volumes_of
from .pixels import Pixels

IDENTITY = ["case", "patient", "volume", "slice", "class", "annotated"]
COMPONENTS = [f"components_{name}" for name in ("true", "pred", "found", "false")]


class Scorer:
    """Scores pictures batch by batch, and a volume once all of its slices are predicted."""

    def __init__(self, predictor: Predictor, dataset, grid: str, distances: bool):
        self.predictor, self.dataset = predictor, dataset
        self.grid, self.distances = grid, distances
        self.task, self.structures = predictor.config.task, predictor.config.structures
        self.threads = min(hosts.n_cores(), 8)
        self.pixels = Pixels(predictor)
        self.order = order_of(dataset.cases)
        # Volume -> number of its slices that have not been predicted yet.
        self.n_missing = Counter(filter(None, volumes_of(dataset.cases)))
        self.slices: list[Image] = []  # the slices so far of the current volume
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

    def _open(self, number: int, prob: np.ndarray) -> tuple[Image, np.ndarray]:
        """An image on the grid of the report, and its probabilities (K, H, W) on that grid."""
        cfg, case = self.predictor.config, self.dataset.cases.iloc[number]
        if self.grid == "original":
            shape = (int(case["height"]), int(case["width"]))
            prob = images.unfit(prob, shape, cfg.resize)
            inverted = self.dataset.store.info["inverted"]
            truth = case_io.read_truth(case, cfg, inverted, shape)[0]
        else:
            truth = self.dataset.pixels(number)[1]
        decide = self.predictor.raw_mask if volume_of(case) else self.predictor.mask
        return Image(self.dataset, number, plots.flat(truth), decide(prob)), prob

    def _complete(self, opened: list[Image]) -> list[list[Image]]:
        """Groups to score: every picture, and the cleaned slices of every complete volume."""
        complete = []
        for image in opened:
            if image.volume is None:
                complete.append([image])
                continue
            self.slices.append(image)
            self.n_missing[image.volume] -= 1
            if not self.n_missing[image.volume]:
                clean_volume(self.predictor, self.slices)
                complete.append(self.slices)
                self.slices = []
        return complete

    def _annotated(self, image: Image) -> list[int]:
        return [k for k in self.structures if image.annotated[k]]

    def _mask_scores(self, image: Image, k: int) -> dict[str, float]:
        """Counts of one class of an image, and the metrics of counts and of distances."""
        truth, valid = class_mask(image.truth, k, self.task), valid_pixels(image, k, self.task)
        pred = class_mask(image.mask, k, self.task)
        count = metrics.counts(pred, truth, valid)
        scores = {"n_true": count["tp"] + count["fn"], "n_pred": count["tp"] + count["fp"], **count}
        scores |= {name: float(value) for name, value in metrics.ratios(**count).items()}
        if self.distances:
            spacing = self._spacing(image.case, SPACING[1:])
            scores |= distance_scores(pred, truth, valid, spacing)
            scores[UNIT] = "mm" if spacing else "pixels"
        return scores

    def _spacing(self, case: Any, columns: tuple[str, ...]) -> tuple[float, ...] | None:
        """Size of a pixel or voxel of the report's grid in mm; None where it is unknown."""
        return spacing_of(case, columns) if self.grid == "original" else None

    def _volume_scores(self, slices: list[Image], k: int) -> dict[str, Any]:
        """Scores of one class in three dimensions, from the slices where it is annotated."""
        slices = [image for image in slices if image.annotated[k]]
        if not slices or not same_size(slices):
            return {}
        pred = np.stack([class_mask(image.mask, k, self.task) for image in slices])
        truth = np.stack([class_mask(image.truth, k, self.task) for image in slices])
        valid = np.stack([valid_pixels(image, k, self.task) for image in slices])
        scores: dict[str, Any] = metrics.components(pred & valid, truth & valid)
        if self.distances:
            spacing = self._spacing(slices[0].case, SPACING)
            scores |= distance_scores(pred, truth, valid, spacing)
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


def _probability_scores(image: Image, prob: np.ndarray, k: int, task: str) -> dict[str, float]:
    truth = class_mask(image.truth, k, task)
    return metrics.probability_scores(prob, truth, valid_pixels(image, k, task))
