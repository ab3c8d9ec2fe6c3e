"""Run and part of the data -> report: counts once, scores and 95 % intervals from them. Taught in `04` and `07`."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from . import bootstrap, curves, data, hosts, memory, metrics, plots, prepare, tables
from .curves import HistogramROC
from .errors import DataError
from .formats import images
from .inference import OPTIONS, Predictor, class_mask
from .report import Report as Report
from .report import compare as compare

COUNTS = ["tp", "fp", "fn", "tn"]
FOUND = ("value", "low", "high", "n")


@memory.keep_freed_memory()
def evaluate(
    run, loader, grid: str = "store", distances: bool = True, part: str | None = None
) -> Report:
    """Score a run (or a `Predictor`) on one part of the data, batch by batch; predictions are never all held at once.

    Args:
        run: a `Run`, whose best weights are used, or a `Predictor`, for example of `tuned`.
        loader: one of `data.loaders(...)`.
        grid: "store" scores at the size of the store; "original" maps the probabilities back to the size of the files,
            reads the truth again and uses the true spacing where the case table has one.
        distances: also HD95, average surface distance and NSD (tolerance 2 pixels, or mm where the spacing is known).
        part: what the report calls this part of the data; by default what it is.

    Raises:
        DataError: the part is empty, the data is of other classes, or the network's output is not a number.
    """
    if grid not in ("store", "original"):
        raise DataError(f"grid: {grid!r} is not allowed; expected 'store' or 'original'")
    predictor, dataset = _checked(run, loader)
    cfg = predictor.config
    rows: list[dict[str, Any]] = []
    pixels = _Pixels(cfg)
    batches = DataLoader(
        dataset, loader.batch_size, num_workers=loader.num_workers
    )  # every image once, in order
    threads = min(hosts.n_cores(), 8)
    with ThreadPoolExecutor(threads) as pool:
        for batch in hosts.progress(batches, desc=f"evaluate {dataset.part}", leave=False):
            prob, numbers = (
                predictor.probabilities(batch["image"]).cpu().numpy(),
                batch["index"].tolist(),
            )
            for start in range(
                0, len(prob), threads
            ):  # X-rays of 20 million pixels: a few in memory, not a batch
                some = slice(
                    start, start + threads
                )  # read by one thread: it remembers the volume of the last slice
                planes = [
                    _planes(n, p, dataset, predictor, grid)
                    for n, p in zip(numbers[some], prob[some])
                ]
                scored = pool.map(
                    lambda n, p: _score(n, *p, dataset, cfg, grid, distances), numbers[some], planes
                )
                for number, found in zip(numbers[some], planes):  # while the scores are computed
                    pixels.add(dataset.cases.iloc[number], dataset.annotated[number], *found)
                rows += [row for image in scored for row in image]
    per_image = pd.DataFrame(rows)
    about = _about(run, predictor, dataset, grid, per_image, part)
    title = (
        f"{cfg.preset}: {about['part']}, {about['images']} images of {about['patients']} patients"
    )
    per_volume = _volumes(per_image)
    tables = ((per_image, "per image"), (per_volume, "per volume"))
    summary = pd.concat(
        [*(_summarise(t, how, cfg) for t, how in tables if len(t)), pixels.summary(per_image)]
    )
    summary["grid"] = grid
    return Report(
        title,
        per_image,
        per_volume,
        summary.reset_index(drop=True),
        about,
        pixels.curves,
        pixels.confusion(per_image),
        getattr(run, "history", None),
        _Examples(dataset, predictor),
    )


def tuned(run, loader, metric: str = "dice") -> Predictor:
    """The best weights of a run with the temperature and the thresholds that suit `loader`: the validation part.

    The temperature has the least log loss, the threshold of each class the highest pooled `metric` (not for
    multiclass, where the likeliest class wins). Reports of the result say on what they were chosen.

    Raises:
        DataError: the loader's part is the test part, is empty, or is of other classes.
    """
    predictor, dataset = _checked(run, loader)
    predictor = copy.copy(predictor)
    if dataset.part == "test":
        raise DataError(
            "tuned: the test part must not choose anything; give the validation part, batches['val']"
        )
    cfg = predictor.config
    temperature, pixels = curves.Temperature(cfg.task), _Pixels(cfg)
    for batch in hosts.progress(
        DataLoader(dataset, loader.batch_size), desc=f"tune on {dataset.part}", leave=False
    ):
        logits = predictor.logits(batch["image"]).cpu()
        temperature.update(logits, batch["mask"])
        for number, prob in zip(
            batch["index"].tolist(), metrics.probabilities(logits, cfg.task).numpy()
        ):
            truth = dataset.pixels(number)[1]
            pixels.add(
                dataset.cases.iloc[number], dataset.annotated[number], prob, truth, prob > 0.5
            )
    predictor.temperature = temperature.value()
    where = f"on the part {dataset.part!r}, {len(dataset)} images"
    predictor.chosen = {
        "temperature": f"{predictor.temperature:.3f}, of the least log loss {where}"
    }
    if cfg.task != "multiclass":
        best = np.array([curve.best_threshold(metric) for curve in pixels.curves.values()])
        best = np.clip(np.where(np.isfinite(best), best, cfg.threshold), 1e-6, 1 - 1e-6)
        odds = (
            np.log(best / (1 - best)) / predictor.temperature
        )  # the temperature moves the scores, not their order
        predictor.thresholds = tuple((1 / (1 + np.exp(-odds))).tolist())
        values = ", ".join(f"{value:.3f}" for value in predictor.thresholds)
        predictor.chosen["threshold"] = f"{values}, of the highest pooled {metric} {where}"
    return predictor


def _checked(run, loader) -> tuple[Predictor, Any]:
    """The predictor of a run, and the data of a loader without augmentation; raises where they do not fit."""
    dataset = loader.dataset
    if not len(dataset):
        raise DataError(
            f"the part {dataset.part!r} has no image; set test_split or val_split and prepare the data again"
        )
    predictor = run
    if not hasattr(run, "probabilities"):
        predictor = Predictor.load(run.best, model=getattr(run, "model", None))
    if tuple(predictor.config.class_names) != dataset.class_names:
        raise DataError(
            f"the network knows {', '.join(predictor.config.class_names)}, the data has "
            f"{', '.join(dataset.class_names)}; evaluate a run on the data of its own system"
        )
    return predictor, dataset.plain()


def _about(
    run, predictor: Predictor, dataset, grid: str, per_image: pd.DataFrame, part: str | None
) -> dict[str, Any]:
    """What the report says of itself; adds the column `seen` to `per_image` where the weights tell their images."""
    part = part or ("validation, used for model choice" if dataset.part == "val" else dataset.part)
    about = {
        "part": part,
        "grid": grid,
        "threshold": predictor.config.threshold,
        **predictor.chosen,
        "distances_in": _unit(dataset.cases, grid),
        "images": int(per_image["case"].nunique()),
        "patients": int(per_image["patient"].nunique()),
        "precision": getattr(predictor, "precision", "fp32"),
        "weights": getattr(run, "best", Path("in memory")).name,
    }
    if predictor.config.task == "multiclass":
        about["threshold"] = "none, the likeliest class"
    about |= {option: value for option in OPTIONS if (value := getattr(predictor, option, False))}
    if predictor.tta and not predictor.flips:
        about["tta"] = "none, no flip in the training augmentation"
    if predictor.trained_on is None:
        return {**about, "seen_in_training": "unknown, the weights do not say"}
    hashes = dataset.cases.set_index("case")["sha256"].str.slice(0, 16)
    per_image["seen"] = per_image["case"].map(hashes).isin(set(predictor.trained_on))
    n = per_image.loc[per_image["seen"], "case"].nunique()
    about["seen_in_training"] = (
        f"{n} of {len(hashes)} images (column seen of per_image.csv)"
        if n
        else f"none of {len(hashes)} images"
    )
    new = per_image[~per_image["seen"] & per_image["annotated"]]
    if n and len(new):
        about["seen_in_training"] += (
            f"; Dice of the {new['case'].nunique()} others {new['dice'].mean():.4f}"
        )
    return about


class _Pixels:
    """All pixels of a part, class against the rest, added up image by image: 13 MB a class and 7 kB a patient."""

    def __init__(self, cfg):
        self.cfg, self.first = cfg, int(cfg.task == "multiclass")  # the background has no curve
        self.curves = {name: HistogramROC() for name in cfg.class_names[self.first :]}
        self.patients: dict[Any, np.ndarray] = {}
        self.matrix = np.zeros((cfg.n_classes, cfg.n_classes), np.int64)

    def add(
        self, case, annotated: np.ndarray, prob: np.ndarray, truth: np.ndarray, pred: np.ndarray
    ) -> None:
        """`prob` and `pred` (K, H, W), `truth` (H, W, 1) of class numbers or (H, W, K)."""
        rough = self.patients.setdefault(
            case["patient"], np.zeros((len(self.curves), 2, curves.COARSE), np.int32)
        )
        for number, (name, curve) in enumerate(self.curves.items()):
            k = number + self.first
            if not annotated[k]:
                continue
            target = truth[..., k if self.cfg.task == "multilabel" else 0]
            if self.first:
                target = np.where(target == images.IGNORE, images.IGNORE, target == k).astype(
                    np.uint8
                )
            try:
                curve.update(prob[k], target)
            except ValueError as error:
                raise DataError(
                    f"{case['case']}, class {name}: the network's output is no probability ({error}); look at the "
                    "run's history: were its weights saved after the loss had become NaN?"
                ) from error
            rough[number] += curves.coarse(prob[k], target)
        if self.first:
            known = truth[..., 0] != images.IGNORE
            pairs = (
                truth[..., 0][known].astype(np.int64) * len(self.matrix)
                + pred.argmax(axis=0)[known]
            )
            self.matrix += np.bincount(pairs, minlength=self.matrix.size).reshape(self.matrix.shape)

    def confusion(self, per_image: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Pixels by truth and prediction: of all classes, or of each where they may overlap."""
        if self.first:
            names = list(self.cfg.class_names)
            return {"pixels": pd.DataFrame(self.matrix, names, names)}
        sums = per_image.groupby("class")[COUNTS].sum().astype(np.int64)
        found = {}
        for name in self.cfg.class_names:
            tp, fp, fn, tn = sums.loc[name]
            labels = [f"not {name}", name]
            found[name] = pd.DataFrame([[tn, fp], [fn, tp]], labels, labels)
        return found

    def summary(self, per_image: pd.DataFrame) -> pd.DataFrame:
        """Rows of the summary with the average `pixels`: what is computed from scores, not from decisions."""
        kinds = {
            "auc": HistogramROC.auc,
            "average_precision": HistogramROC.average_precision,
            "brier": HistogramROC.brier,
            "log_loss": HistogramROC.log_loss,
            "ece": HistogramROC.ece,
        }
        values = {m: [of(curve) for curve in self.curves.values()] for m, of in kinds.items()}
        reach = bootstrap.curve_intervals(
            np.stack(list(self.patients.values())), self.cfg.bootstrap, self.cfg.seed
        )
        rows = []
        for number, name in enumerate([*self.curves, "mean"]):
            table = per_image if name == "mean" else per_image[per_image["class"] == name]
            scored = table[table["annotated"]]
            counted = {
                "n": scored["case"].nunique(),
                "n_empty": int((scored["n_true"] == 0).sum()),
                "n_missing": int((~table["annotated"]).sum()),
            }
            for metric, each in values.items():
                known = [value for value in each if np.isfinite(value)]
                value = each[number] if number < len(each) else np.mean(known) if known else np.nan
                low, high = reach[metric][number] if metric in reach else (np.nan, np.nan)
                top = np.inf if metric == "log_loss" else 1.0
                ends = np.clip([value + low, value + high], 0, top)
                found = {"value": value, "low": ends[0], "high": ends[1]}
                rows.append(
                    {"class": name, "metric": metric, "average": "pixels", **found, **counted}
                )
        return pd.DataFrame(rows)


def _planes(
    number: int, prob: np.ndarray, dataset, predictor: Predictor, grid: str
) -> tuple[np.ndarray, ...]:
    """Probabilities (K, H, W), truth (H, W, 1 or K) and decisions (K, H, W) of one image on the grid of the report;
    `prob` comes at the size of the store."""
    cfg, case = predictor.config, dataset.cases.iloc[number]
    if grid == "original":
        shape = (int(case["height"]), int(case["width"]))
        prob = images.unfit(prob, shape, cfg.resize)
        truth = prepare.read_truth(case, cfg, dataset.store.info["inverted"], shape)[0]
    else:
        truth = dataset.pixels(number)[1]
    mask = predictor.mask(prob)
    pred = np.stack([class_mask(mask, k, cfg.task) for k in range(cfg.n_classes)])
    return prob, truth, pred


def _score(
    number: int,
    prob: np.ndarray,
    truth: np.ndarray,
    pred: np.ndarray,
    dataset,
    cfg,
    grid: str,
    distances: bool,
) -> list[dict[str, Any]]:
    """One row a class for one image."""
    case, annotated = dataset.cases.iloc[number], dataset.annotated[number]
    spacing = _spacing(case) if grid == "original" else None
    rows = []
    for k, name in enumerate(cfg.class_names):
        if cfg.task == "multiclass" and k == 0:
            continue
        plane = truth[..., 0] == k if cfg.task == "multiclass" else truth[..., k] == 1
        valid = (truth[..., 0] if cfg.task == "multiclass" else truth[..., k]) != images.IGNORE
        row = {
            "case": case["case"],
            "patient": case["patient"],
            "volume": case.get("volume", ""),
            "slice": case.get("slice", ""),
        }
        row |= {"class": name, "annotated": bool(annotated[k])}
        if annotated[k]:
            count = metrics.counts(pred[k], plane, valid)
            row |= {
                "n_true": count["tp"] + count["fn"],
                "n_pred": count["tp"] + count["fp"],
                **count,
            }
            row |= {metric: float(value) for metric, value in metrics.ratios(**count).items()}
            row["bce"] = metrics.bce(prob[k], plane, valid)
            if distances:
                box = _frame(valid)
                row |= metrics.surface_distances(
                    (pred[k] & valid)[box], (plane & valid)[box], spacing
                )
        rows.append({**dict.fromkeys(("n_true", "n_pred", *COUNTS, *_scores()), np.nan), **row})
    columns = [
        "case",
        "patient",
        "volume",
        "slice",
        "class",
        "annotated",
        "n_true",
        "n_pred",
        *COUNTS,
        *_scores(),
    ]
    return [{column: row[column] for column in columns} for row in rows]


def _frame(valid: np.ndarray) -> tuple[slice, slice]:
    """The image inside its padding: the diagonal that stands for a total miss is the image's, not the frame's."""
    return metrics.box_of(valid) if valid.any() else (slice(None), slice(None))


def _spacing(case) -> tuple[float, float] | None:
    spacing = [case.get(f"spacing_{axis}_mm", "") for axis in ("row", "col")]
    return (
        None
        if "" in spacing or any(pd.isna(s) for s in spacing)
        else (float(spacing[0]), float(spacing[1]))
    )


def _unit(cases: pd.DataFrame, grid: str) -> str:
    known = (
        grid == "original" and "spacing_row_mm" in cases and (cases["spacing_row_mm"] != "").all()
    )
    return "mm" if known else f"pixels of the {grid} grid"


def _volumes(per_image: pd.DataFrame) -> pd.DataFrame:
    """Counts of a volume's slices added up, and the ratios of the sums; no distances, which need the volume itself."""
    slices = per_image[(per_image["volume"] != "") & per_image["annotated"]]
    if slices.empty:
        return pd.DataFrame(columns=per_image.columns.drop("slice"))
    sums = (
        slices.groupby(["volume", "patient", "class"], sort=False)[["n_true", "n_pred", *COUNTS]]
        .sum()
        .reset_index()
    )
    return sums.assign(annotated=True, **metrics.ratios(*(sums[c] for c in COUNTS)))


def _scores() -> list[str]:
    """The metrics of single images, asked anew each time: a cell may add an entry to the table."""
    return metrics.names("counts", "probabilities", "distances")


def _summarise(table: pd.DataFrame, average: str, cfg) -> pd.DataFrame:
    """The long summary of one table of scores: each class and their mean, averaged over rows and pooled over pixels.

    A class without any mask keeps its rows, with n = 0, so that what is missing can be seen.
    """
    unit, rows = "case" if average == "per image" else "volume", []
    wanted = [
        m
        for m in _scores()
        if m in table and (tables.METRICS[m].source == "counts" or table[m].notna().any())
    ]
    for name in [*dict.fromkeys(table["class"]), "mean"]:
        of_class = table if name == "mean" else table[table["class"] == name]
        scored = of_class[of_class["annotated"]]
        counted = {
            "n_empty": int((scored["n_true"] == 0).sum()),
            "n_missing": int((~of_class["annotated"]).sum()),
        }

        def add(metric, how, found, name=name, counted=counted):
            rows.append(
                {
                    "class": name,
                    "metric": metric,
                    "average": how,
                    **dict(zip(FOUND, found)),
                    **counted,
                }
            )

        for metric in wanted:
            values = (
                scored.groupby([unit, "patient"], sort=False)[metric].mean().reset_index()
            )  # "mean": over classes
            add(
                metric,
                average,
                bootstrap.interval(values[metric], values["patient"], cfg.bootstrap, cfg.seed),
            )
            if (
                average == "per image"
                and tables.METRICS[metric].source == "counts"
                and name != "mean"
            ):
                counts = scored[COUNTS].to_numpy(float)
                add(
                    metric,
                    "pooled",
                    bootstrap.pooled_interval(
                        counts, scored["patient"], metric, cfg.bootstrap, cfg.seed
                    ),
                )
    return pd.DataFrame(
        rows, columns=["class", "metric", "average", *FOUND, "n_empty", "n_missing"]
    )


class _Examples:
    """Images of a part at the size of the store, with what the network makes of them, computed when a figure asks."""

    def __init__(self, dataset, predictor: Predictor):
        self.dataset, self.predictor = dataset, predictor

    def __call__(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, C), truth and prediction as `plots.overlay` takes masks."""
        image, truth, prob = self.scores(case)
        return image, truth, self.predictor.mask(prob)

    def scores(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with probabilities (K, H, W) instead of the prediction."""
        number = int(np.flatnonzero(self.dataset.cases["case"] == case)[0])
        image, mask = self.dataset.pixels(number)
        batch = torch.from_numpy(data.normalise(image, self.predictor.table))[None]
        return image, plots.flat(mask), self.predictor.probabilities(batch)[0].cpu().numpy()
