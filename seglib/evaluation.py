"""Run and part of the data -> report: counts once, scores and 95 % intervals from them. Taught in `04`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from . import data, hosts, images, metrics, plots, prepare, runs
from .errors import DataError
from .inference import Predictor

SCORES = (*metrics.RATIOS, "bce", "hd95", "assd", "nsd")
COUNTS = ["tp", "fp", "fn", "tn"]
FOUND = ("value", "low", "high", "n")


@dataclass
class Report:
    """The scores of one part of the data.

    `per_image`: a row an image and class, with counts and every score. `per_volume`: the same with the counts of a
    volume's slices added up (empty for 2-D images). `summary`: long table with class, metric, average, value, low,
    high (95 % bootstrap over patients), n, n_empty, n_missing, grid; the class `mean` averages the classes.
    """

    title: str
    per_image: pd.DataFrame
    per_volume: pd.DataFrame
    summary: pd.DataFrame
    about: dict[str, Any]
    examples: Any = field(repr=False, default=None)  # case name -> (image, truth, prediction), made on demand

    def table(self, *names: str, of: str = "mean") -> pd.DataFrame:
        """The chosen scores of one class as a small table: `report.table("dice", "accuracy", "bce")`."""
        names = names or ("dice", "iou", "accuracy", "bce")
        rows = self.summary[(self.summary["class"] == of) & self.summary["metric"].isin(names)]
        shown = rows[["metric", "average", "value", "low", "high", "n", "n_empty", "n_missing"]].round(4)
        return shown.sort_values("metric", key=lambda m: m.map(names.index), kind="stable").reset_index(drop=True)

    def worst(self, n: int = 4, metric: str = "dice") -> pd.DataFrame:
        """The images with the lowest (for distances and BCE: highest) score."""
        scored = self.per_image[self.per_image["annotated"]]
        return scored.sort_values(metric, ascending=metric not in ("bce", "hd95", "assd")).head(n)

    def show(self, cases: Any) -> Any:
        """Figure of input, truth, prediction and difference for these rows of `per_image`."""
        best = cases[cases["annotated"]].drop_duplicates("case")
        return plots.predictions([(f"{r.case}\nDice {r.dice:.3f}", *self.examples(r.case)) for r in best.itertuples()])

    def text(self) -> str:
        """The report as plain text."""
        lines = [self.title, "=" * len(self.title), ""]
        lines += [f"{name}: {value}" for name, value in self.about.items()]
        shown = self.summary.round(4).drop(columns="grid")
        return "\n".join(
            [*lines, "", shown.to_string(index=False), "", "low and high: 95 % bootstrap interval over patients", ""]
        )

    def save(self, folder: str | Path) -> Path:
        """Write evaluation_report.txt and .json, per_image.csv, metrics_distribution.png, sample_predictions.png and
        worst_cases.png."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_text(folder / "evaluation_report.txt", self.text())
        summary = json.loads(self.summary.to_json(orient="records"))
        runs.write_text(
            folder / "evaluation_report.json",
            json.dumps({"title": self.title, **self.about, "summary": summary}, indent=2),
        )
        self.per_image.to_csv(folder / "per_image.csv", index=False)
        plots.save(plots.scores_by_image(self.per_image), folder / "metrics_distribution.png")
        plots.save(self.show(self.per_image.head(4)), folder / "sample_predictions.png")
        plots.save(self.show(self.worst()), folder / "worst_cases.png")
        return folder


def evaluate(run, loader, grid: str = "store", distances: bool = True) -> Report:
    """Score a run (or a `Predictor`) on one part of the data, batch by batch; predictions are never all held at once.

    Args:
        run: a `Run`, whose best weights are used, or a `Predictor`.
        loader: one of `data.loaders(...)`.
        grid: "store" scores at the size of the store; "original" maps the probabilities back to the size of the files,
            reads the truth again and uses the true spacing where the case table has one.
        distances: also HD95, average surface distance and NSD (tolerance 2 pixels, or mm where the spacing is known).

    Raises:
        DataError: the part is empty.
    """
    if grid not in ("store", "original"):
        raise DataError(f"grid: {grid!r} is not allowed; expected 'store' or 'original'")
    dataset = loader.dataset
    if not len(dataset):
        raise DataError(
            f"the part {dataset.part!r} has no image; set test_split or val_split and prepare the data again"
        )
    predictor = run if hasattr(run, "probabilities") else Predictor.load(run.best)
    cfg, dataset = predictor.config, dataset.plain()
    if tuple(cfg.class_names) != dataset.class_names:
        raise DataError(
            f"the network knows {', '.join(cfg.class_names)}, the data has {', '.join(dataset.class_names)}; "
            "evaluate a run on the data of its own system"
        )
    rows: list[dict[str, Any]] = []
    batches = DataLoader(dataset, loader.batch_size, num_workers=loader.num_workers)  # every image once, in order
    for batch in hosts.progress(batches, desc=f"evaluate {dataset.part}", leave=False):
        prob = predictor.probabilities(batch["image"]).cpu()
        for number, plane in zip(batch["index"].tolist(), prob):
            rows += _score(number, plane.numpy(), dataset, predictor, grid, distances)
    per_image = pd.DataFrame(rows)
    per_volume = _volumes(per_image)
    part = "validation, used for model choice" if dataset.part == "val" else dataset.part
    about = {
        "part": part, "grid": grid, "threshold": cfg.threshold, "distances_in": _unit(dataset.cases, grid),
        "images": int(per_image["case"].nunique()), "patients": int(per_image["patient"].nunique()),
        "precision": getattr(predictor, "precision", "fp32"), "weights": getattr(run, "best", Path("in memory")).name,
    }  # fmt: skip
    title = f"{cfg.preset}: {part}, {about['images']} images of {about['patients']} patients"
    summary = pd.concat(
        [_summarise(t, how, cfg) for t, how in ((per_image, "per image"), (per_volume, "per volume")) if len(t)]
    )
    summary["grid"] = grid
    return Report(title, per_image, per_volume, summary.reset_index(drop=True), about, _Examples(dataset, predictor))


def _score(
    number: int, prob: np.ndarray, dataset, predictor: Predictor, grid: str, distances: bool
) -> list[dict[str, Any]]:
    """One row a class for one image; `prob` (K, H, W) at the size of the store."""
    cfg, case = predictor.config, dataset.cases.iloc[number]
    if grid == "original":
        shape = (int(case["height"]), int(case["width"]))
        prob = images.unfit(prob, shape, cfg.resize)
        truth = prepare.read_truth(case, cfg, dataset.store.info["inverted"], shape)[0]
    else:
        truth = dataset.pixels(number)[1]
    annotated = dataset.annotated[number]
    pred = metrics.decide(torch.from_numpy(prob)[None], cfg.task, cfg.threshold)[0].numpy()
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
            row |= {"n_true": count["tp"] + count["fn"], "n_pred": count["tp"] + count["fp"], **count}
            row |= {metric: float(value) for metric, value in metrics.ratios(**count).items()}
            row["bce"] = metrics.bce(prob[k], plane, valid)
            if distances:
                box = _frame(valid)
                row |= metrics.surface_distances((pred[k] & valid)[box], (plane & valid)[box], spacing)
        rows.append({**dict.fromkeys(("n_true", "n_pred", *COUNTS, *SCORES), np.nan), **row})
    columns = ["case", "patient", "volume", "slice", "class", "annotated", "n_true", "n_pred", *COUNTS, *SCORES]
    return [{column: row[column] for column in columns} for row in rows]


def _frame(valid: np.ndarray) -> tuple[slice, slice]:
    """The image inside its padding: the diagonal that stands for a total miss is the image's, not the frame's."""
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _spacing(case) -> tuple[float, float] | None:
    spacing = [case.get(f"spacing_{axis}_mm", "") for axis in ("row", "col")]
    return None if "" in spacing or any(pd.isna(s) for s in spacing) else (float(spacing[0]), float(spacing[1]))


def _unit(cases: pd.DataFrame, grid: str) -> str:
    known = grid == "original" and "spacing_row_mm" in cases and (cases["spacing_row_mm"] != "").all()
    return "mm" if known else f"pixels of the {grid} grid"


def _volumes(per_image: pd.DataFrame) -> pd.DataFrame:
    """Counts of a volume's slices added up, and the ratios of the sums; no distances, which need the volume itself."""
    slices = per_image[(per_image["volume"] != "") & per_image["annotated"]]
    if slices.empty:
        return pd.DataFrame(columns=per_image.columns.drop("slice"))
    sums = slices.groupby(["volume", "patient", "class"], sort=False)[["n_true", "n_pred", *COUNTS]].sum().reset_index()
    return sums.assign(annotated=True, **metrics.ratios(*(sums[c] for c in COUNTS)))


def _summarise(table: pd.DataFrame, average: str, cfg) -> pd.DataFrame:
    """The long summary of one table of scores: each class and their mean, averaged over rows and pooled over pixels.

    A class without any mask keeps its rows, with n = 0, so that what is missing can be seen.
    """
    unit, rows = "case" if average == "per image" else "volume", []
    wanted = [m for m in SCORES if m in table and (m in metrics.RATIOS or table[m].notna().any())]
    for name in [*dict.fromkeys(table["class"]), "mean"]:
        of_class = table if name == "mean" else table[table["class"] == name]
        scored = of_class[of_class["annotated"]]
        counted = {"n_empty": int((scored["n_true"] == 0).sum()), "n_missing": int((~of_class["annotated"]).sum())}

        def add(metric, how, found, name=name, counted=counted):
            rows.append({"class": name, "metric": metric, "average": how, **dict(zip(FOUND, found)), **counted})

        for metric in wanted:
            values = scored.groupby([unit, "patient"], sort=False)[metric].mean().reset_index()  # "mean": over classes
            add(metric, average, metrics.interval(values[metric], values["patient"], cfg.bootstrap, cfg.seed))
            if average == "per image" and metric in metrics.RATIOS and name != "mean":
                counts = scored[COUNTS].to_numpy(float)
                add(
                    metric,
                    "pooled",
                    metrics.pooled_interval(counts, scored["patient"], metric, cfg.bootstrap, cfg.seed),
                )
    return pd.DataFrame(rows, columns=["class", "metric", "average", *FOUND, "n_empty", "n_missing"])


class _Examples:
    """case name -> (image, truth, prediction) at the size of the store, computed when a figure asks."""

    def __init__(self, dataset, predictor: Predictor):
        self.dataset, self.predictor = dataset, predictor

    def __call__(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number = int(np.flatnonzero(self.dataset.cases["case"] == case)[0])
        image, mask = self.dataset.pixels(number)
        batch = torch.from_numpy(data.normalise(image, self.predictor.table))[None]
        pred = self.predictor.mask(self.predictor.probabilities(batch)[0].cpu().numpy())
        return image, plots.flat(mask), pred
