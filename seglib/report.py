"""What an evaluation found: tables, figures, text, JSON and one HTML page; and two reports compared. Taught in `07`."""

import base64
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import bootstrap, files, metrics, plots
from .curves import HistogramROC
from .errors import DataError

JSON = "evaluation_report.json"
KEPT = (
    "case",
    "patient",
    "class",
    "annotated",
    *metrics.names("counts", "probabilities", "distances"),
)  # by image, in the JSON


@dataclass
class Report:
    """The scores of one part of the data.

    `per_image`: a row an image and class, with counts and every score. `per_volume`: the same with the counts of a
    volume's slices added up (empty for 2-D images). `summary`: long table with class, metric, average, value, low,
    high (95 % bootstrap over patients), n, n_empty, n_missing, grid; the class `mean` averages the classes. `curves`:
    the pixels' scores of every class. `confusion`: pixels by truth (rows) and prediction (columns), one table where
    classes exclude one another, else one a class. `history`: of the run, where there is one.
    """

    title: str
    per_image: pd.DataFrame
    per_volume: pd.DataFrame
    summary: pd.DataFrame
    about: dict[str, Any]
    curves: dict[str, HistogramROC] = field(repr=False, default_factory=dict)
    confusion: dict[str, pd.DataFrame] = field(repr=False, default_factory=dict)
    history: pd.DataFrame | None = field(repr=False, default=None)
    examples: Any = field(
        repr=False, default=None
    )  # case name -> (image, truth, prediction), made on demand

    def table(self, *names: str, of: str = "mean") -> pd.DataFrame:
        """The chosen scores of one class as a small table: `report.table("dice", "accuracy", "bce")`."""
        names = names or ("dice", "iou", "accuracy", "bce")
        rows = self.summary[(self.summary["class"] == of) & self.summary["metric"].isin(names)]
        shown = rows[
            ["metric", "average", "value", "low", "high", "n", "n_empty", "n_missing"]
        ].round(4)
        return shown.sort_values(
            "metric", key=lambda m: m.map(names.index), kind="stable"
        ).reset_index(drop=True)

    def worst(self, n: int = 4, metric: str = "dice") -> pd.DataFrame:
        """The images with the lowest (for distances and BCE: highest) score."""
        scored = self.per_image[self.per_image["annotated"]]
        return scored.sort_values(metric, ascending=not metrics.less_is_better(metric)).head(n)

    def detection(self) -> pd.DataFrame:
        """Confusion in images instead of pixels: is the class there, and was any pixel of it predicted?

        A row a class: class, tp, fp, fn, tn (images), sensitivity, specificity (NaN where there is no such image).
        """
        scored, rows = self.per_image[self.per_image["annotated"]], []
        for name, table in scored.groupby("class", sort=False):
            count = metrics.counts(table["n_pred"] > 0, table["n_true"] > 0)
            found = metrics.ratios(**count)
            ratios = {
                "sensitivity": float(found["recall"]),
                "specificity": float(found["specificity"]),
            }
            rows.append({"class": name, **count, **ratios})
        return pd.DataFrame(
            rows, columns=["class", "tp", "fp", "fn", "tn", "sensitivity", "specificity"]
        )

    def show(self, cases: pd.DataFrame) -> Figure:
        """Figure of input, truth, prediction and difference for these rows of `per_image`."""
        best = cases[cases["annotated"]].drop_duplicates("case")
        return plots.predictions(
            [(f"{r.case}\nDice {r.dice:.3f}", *self.examples(r.case)) for r in best.itertuples()]
        )

    def labels(self, metric: str) -> dict[str, str]:
        """Class -> value and interval of a score of pixels, for a legend."""
        rows = self.summary[
            (self.summary["metric"] == metric) & (self.summary["average"] == "pixels")
        ]
        return {r["class"]: _with_interval(r) for _, r in rows.iterrows()}

    def figures(self) -> Iterator[tuple[str, str, Figure]]:
        """File name, caption and figure, one after the other; what there is no data for is left out."""
        scored = self.per_image[self.per_image["annotated"]]
        yield (
            "metrics_summary",
            "Scores with their 95 % intervals over patients",
            plots.metrics_summary(self.summary),
        )
        if len(scored):
            yield (
                "metrics_distribution",
                "Dice of every image",
                plots.scores_by_image(self.per_image),
            )
        if self.confusion:
            caption = (
                "Pixels by truth (rows) and prediction (columns): share of the row, and number"
            )
            yield "confusion_matrix", caption, plots.confusion(self.confusion)
        if self.curves:
            roc = plots.roc_curves(self.curves, self.labels("auc"))
            yield (
                "roc_curves",
                "ROC over pixels, one class against the rest, with the area under it",
                roc,
            )
            pr = plots.pr_curves(self.curves, self.labels("average_precision"))
            yield "pr_curves", "Precision and recall over pixels, with average precision", pr
            calibration = plots.calibration(self.curves, self.labels("ece"))
            yield (
                "calibration",
                "Are the probabilities true? With the expected calibration error",
                calibration,
            )
        if self.history is not None and len(self.history):
            yield "training_curves", "Training", plots.training_curves(self.history)
        if self.examples is not None and len(scored):
            yield (
                "sample_predictions",
                "The first images",
                self.show(scored.drop_duplicates("case").head(4)),
            )
            yield "worst_cases", "The images with the lowest Dice", self.show(self.worst())

    def text(self) -> str:
        """The report as plain text."""
        lines = [self.title, "=" * len(self.title), ""]
        lines += [f"{name}: {value}" for name, value in self.about.items()]
        lines += ["", self.summary.round(4).drop(columns="grid").to_string(index=False)]
        lines += [
            "low and high: 95 % bootstrap interval over patients; pixels: of all pixels together",
            "",
        ]
        lines += ["images in which a class is there, and in which it was predicted:"]
        lines += [self.detection().round(4).to_string(index=False), ""]
        for name, table in self.confusion.items():
            lines += [f"{name}, by truth (rows) and prediction (columns):", table.to_string(), ""]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write evaluation_report.txt and .json, per_image.csv, every one of `figures` as PNG, and report.html with all
        of it, which needs no other file and no network."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "evaluation_report.txt", self.text())
        files.write_text(folder / JSON, json.dumps(self._json(), indent=1, allow_nan=False))
        files.write_text(folder / "per_image.csv", self.per_image.to_csv(index=False))
        pictures = []
        for name, caption, figure in self.figures():
            path = plots.save(figure, folder / f"{name}.png")
            pictures.append((caption, base64.b64encode(path.read_bytes()).decode()))
        files.write_text(folder / "report.html", self._html(pictures))
        return folder

    def _json(self) -> dict[str, Any]:
        def records(table: pd.DataFrame) -> Any:
            return json.loads(table.to_json(orient="records"))

        parts = {"summary": records(self.summary), "detection": records(self.detection())}
        tables = {
            name: json.loads(table.to_json(orient="split"))
            for name, table in self.confusion.items()
        }
        columns = [name for name in (*KEPT, "seen") if name in self.per_image]
        return {
            "title": self.title,
            **self.about,
            **parts,
            "confusion": tables,
            "per_image": json.loads(self.per_image[columns].to_json(orient="split", index=False)),
        }

    def _html(self, pictures: list[tuple[str, str]]) -> str:
        def table(data: pd.DataFrame, **options: Any) -> str:
            return data.to_html(border=0, na_rep="–", escape=True, **options)

        title = html.escape(self.title)
        about = "".join(
            f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>"
            for k, v in self.about.items()
        )
        shown = self.summary.round(4).drop(columns="grid")
        main = shown[shown["metric"].isin(["dice", "iou", "hd95", "nsd", "auc"])]
        worst = self.worst(10)[
            ["case", "patient", "class", "dice", "iou", "n_true", "n_pred"]
        ].round(4)
        body = [
            f"<h1>{title}</h1><dl>{about}</dl>",
            f"<h2>Scores</h2>{table(main, index=False)}",
            "<p>low and high: 95 % bootstrap interval over patients; n: images (or volumes) scored; n_empty: with an "
            "empty truth; n_missing: without a mask, not scored.</p>",
            *(
                f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,{data}'>"
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                for caption, data in pictures
            ),
            f"<h2>Worst images</h2>{table(worst, index=False)}",
            f"<h2>Images in which a class is there</h2>{table(self.detection().round(4), index=False)}",
            *(
                f"<h2>Confusion: {html.escape(name)}</h2>{table(found)}"
                for name, found in self.confusion.items()
            ),
            f"<details><summary>All scores</summary>{table(shown, index=False)}</details>",
        ]
        return (
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><link rel='icon' "
            f"href='data:,'><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
        )


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-size: .9em }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1em } dt { color: #666 } dd { margin: 0 }
figure { margin: 2em 0 } img { max-width: 100% } figcaption { color: #666; font-size: .9em }
"""


def _with_interval(row: Any) -> str:
    if not np.isfinite(row["value"]):
        return "undefined"
    interval = f" ({row['low']:.3f}–{row['high']:.3f})" if np.isfinite(row["low"]) else ""
    return f"{row['value']:.3f}{interval}"


def compare(
    a: Any, b: Any, metric: str = "dice", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Is b better than a on the same images? Paired bootstrap over patients, class by class and for their mean.

    Args:
        a, b: reports, their folders, or their `evaluation_report.json`; images are matched by their names.
        metric: a column of `per_image`.

    Returns:
        class, a, b (means over the common images), difference (of b: more is better; for distances and BCE less is),
        low, high (95 % interval), better (how sure: share of resamples in which b is better), n, n_left_out.

    Raises:
        DataError: no such report, no common image, unknown metric, or another grid or truth.
    """
    (one, about), (other, beside) = _load(a), _load(b)
    if metric not in one or metric not in other:
        raise DataError(
            f"metric: {metric!r} is not in both reports; choose from {', '.join(KEPT[4:])}"
        )
    if about.get("grid") != beside.get("grid"):
        raise DataError(
            f"one report is of the grid {about.get('grid')!r}, the other of {beside.get('grid')!r}; "
            "evaluate both alike"
        )
    both = one[one["annotated"]].merge(
        other[other["annotated"]], on=["case", "class"], suffixes=("_a", "_b")
    )
    if both.empty:
        raise DataError(
            "the two reports have no image of an annotated class in common; evaluate both on the same data"
        )
    sign, rows = -1 if metrics.less_is_better(metric) else 1, []
    means = (
        both.groupby(["case", "patient_a"], sort=False)[[f"{metric}_a", f"{metric}_b"]]
        .mean()
        .reset_index()
    )
    names = dict.fromkeys(one.loc[one["class"].isin(both["class"]), "class"])
    tables = {**{name: both[both["class"] == name] for name in names}, "mean": means}
    left = len(set(one["case"]) ^ set(other["case"]))
    for name, table in tables.items():
        old, new = (table[f"{metric}_{which}"].to_numpy(float) for which in "ab")
        found = bootstrap.paired(sign * old, sign * new, table["patient_a"], resamples, seed)
        known = np.isfinite(old) & np.isfinite(new)
        values = {
            "a": old[known].mean() if known.any() else np.nan,
            "b": new[known].mean() if known.any() else np.nan,
        }
        ends = {"low": found["low"], "high": found["high"]}
        ends = ends if sign > 0 else {"low": -found["high"], "high": -found["low"]}
        rows.append(
            {
                "class": name,
                **values,
                "difference": sign * found["value"],
                **ends,
                "better": found["better"],
                "n": found["n"],
                "n_left_out": found["n_left_out"] + left,
            }
        )
    return pd.DataFrame(rows)


def _load(source: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows by image of a report, a folder or a JSON file, and what the report says of itself."""
    if isinstance(source, Report):
        return source.per_image, source.about
    path = Path(source) / JSON if Path(source).is_dir() else Path(source)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(found["per_image"]["data"], columns=found["per_image"]["columns"])
    except OSError as error:
        raise DataError(
            f"{path}: no report here; evaluate writes {JSON} into its output folder"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a report ({error}); expected the {JSON} that evaluate wrote"
        ) from error
    return table, found
