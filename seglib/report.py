"""Reports: tables, figures, text, JSON and HTML; comparison of two reports. Taught in `07`."""

import base64
import html
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import bootstrap, files, measurements, metrics, plots, summary, tables
from .curves import HistogramROC
from .errors import DataError

JSON = "evaluation_report.json"
LONGEST_DISTANCE = "longest_possible_distance"  # in the header: the diagonal of the largest frame
LEGEND = (
    "low and high: 95 % bootstrap interval over patients; n: images (or volumes) scored; "
    "n_empty: with an empty truth; n_missing: without a mask, not scored; present: images (or "
    "volumes) whose truth is not empty; pooled: counts of all images together."
)


@dataclass
class Report:
    """The scores of one part of the data.

    Attributes:
        per_image: one row per image and class, with counts and every metric of one image.
        per_volume: one row per volume and class: the summed counts of its slices, the metrics of
            these sums, distances in three dimensions, and the numbers of connected components, see
            `metrics.components`. Empty for 2-D images.
        summary: long table with class, metric, average, value, low, high (95 % bootstrap over
            patients), n, n_empty, n_missing, unit (of distances), no_interval (why low and high are
            NaN), grid; the class `mean` averages the classes that occur in the truth.
        about: header of the report: part, grid, threshold, weights and so on.
        notes: what a reader must know before the scores, such as images seen in training, classes
            without any truth, and what was noted about the data; the gravest first.
        curves: class -> histogram of the probabilities of all pixels.
        confusion: pixels by truth (rows) and prediction (columns); one table if classes exclude one
            another, else one for each class.
        history: of the run, where there is one.
        examples: case name -> (image, truth, prediction), computed on demand.
    """

    title: str
    per_image: pd.DataFrame
    per_volume: pd.DataFrame
    summary: pd.DataFrame
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    curves: dict[str, HistogramROC] = field(repr=False, default_factory=dict)
    confusion: dict[str, pd.DataFrame] = field(repr=False, default_factory=dict)
    history: pd.DataFrame | None = field(repr=False, default=None)
    examples: Any = field(repr=False, default=None)

    def table(self, *names: str, of: str = "mean") -> pd.DataFrame:
        """The chosen scores of one class as a small table: `report.table("dice", "accuracy")`."""
        names = names or ("dice", "iou", "accuracy", "bce")
        rows = self.summary[(self.summary["class"] == of) & self.summary["metric"].isin(names)]
        rows = rows.sort_values("metric", key=lambda m: m.map(names.index), kind="stable")
        columns = ["metric", "average", "value", "low", "high", "n", "n_empty", "n_missing"]
        return rows[columns].round(4).reset_index(drop=True)

    def worst(self, n: int = 4, metric: str = "dice") -> pd.DataFrame:
        """The rows of `per_image` with the worst values of a metric, the worst first."""
        scored = self.per_image[self.per_image["annotated"]]
        return scored.sort_values(metric, ascending=not metrics.less_is_better(metric)).head(n)

    def detection(self) -> pd.DataFrame:
        """Confusion in images instead of pixels: is a class present, and was any of it predicted?

        One row per class: class, tp, fp, fn, tn (images), sensitivity, specificity (NaN if there is
        no image to compute it from).
        """
        scored = self.per_image[self.per_image["annotated"]]
        rows = []
        for name, table in scored.groupby("class", sort=False):
            count = metrics.counts(table["n_pred"] > 0, table["n_true"] > 0)
            ratios = metrics.ratios(**count)
            sensitivity, specificity = float(ratios["recall"]), float(ratios["specificity"])
            rows.append([name, *count.values(), sensitivity, specificity])
        columns = ["class", "tp", "fp", "fn", "tn", "sensitivity", "specificity"]
        return pd.DataFrame(rows, columns=columns)

    def show(self, cases: pd.DataFrame) -> Figure:
        """Figure of input, truth, prediction and difference for these rows of `per_image`."""
        rows = cases[cases["annotated"]].drop_duplicates("case")
        pictures = [
            (f"{case}\n{name}: Dice {dice:.3f}", *self.examples(case))
            for case, name, dice in zip(rows["case"], rows["class"], rows["dice"])
        ]
        return plots.predictions(pictures, classes=list(self.per_image["class"].unique()))

    def labels(self, metric: str) -> dict[str, str]:
        """Class -> value and interval of a metric of pixels, for a legend."""
        of_pixels = self.summary["average"] == "pixels"
        rows = self.summary[(self.summary["metric"] == metric) & of_pixels]
        return {row["class"]: _value_and_interval(row) for _, row in rows.iterrows()}

    def figures(self) -> Iterator[tuple[str, str, Figure]]:
        """File name, caption and figure, one by one; figures without data are left out."""
        yield from self._figures_of_scores()
        yield from self._figures_of_pixels()
        if self.history is not None and len(self.history):
            yield "training_curves", "Training", plots.training_curves(self.history)
        yield from self._figures_of_images()

    def _figures_of_scores(self) -> Iterator[tuple[str, str, Figure]]:
        caption = "Scores with their 95 % intervals over patients"
        yield "metrics_summary", caption, plots.metrics_summary(self.summary)
        if self.per_image["annotated"].any():
            figure = plots.scores_by_image(self.per_image)
            yield "metrics_distribution", "Dice of every image", figure

    def _figures_of_pixels(self) -> Iterator[tuple[str, str, Figure]]:
        if self.confusion:
            caption = "Pixels by truth (rows) and prediction (columns): share of the row, number"
            yield "confusion_matrix", caption, plots.confusion(self.confusion)
        if not self.curves:
            return
        caption = "ROC over pixels, one class against the rest, with the area under it"
        yield "roc_curves", caption, plots.roc_curves(self.curves, self.labels("auc"))
        caption = "Precision and recall over pixels, with average precision"
        figure = plots.pr_curves(self.curves, self.labels("average_precision"))
        yield "pr_curves", caption, figure
        caption = "Calibration: observed against predicted, with the expected calibration error"
        yield "calibration", caption, plots.calibration(self.curves, self.labels("ece"))

    def _figures_of_images(self) -> Iterator[tuple[str, str, Figure]]:
        scored = self.per_image[self.per_image["annotated"]]
        if self.examples is None or scored.empty:
            return
        first = scored.drop_duplicates("case").head(4)
        yield "sample_predictions", "The first images", self.show(first)
        yield "worst_cases", "The images with the lowest Dice", self.show(self.worst())

    def text(self) -> str:
        """The report as plain text."""
        lines = [self.title, "=" * len(self.title), ""]
        lines += [f"! {note}" for note in self.notes]
        lines += [""] if self.notes else []
        lines += [f"{name}: {value}" for name, value in self.about.items()]
        lines += ["", _shown(self.summary).to_string(index=False, na_rep=""), LEGEND]
        lines += ["pixels: of all pixels together"]
        lines += [*summary.missing_intervals(self.summary), ""]
        lines += ["images in which a class is present, and in which it was predicted:"]
        lines += [self.detection().round(4).to_string(index=False, na_rep=""), ""]
        for name, table in self.confusion.items():
            lines += [f"{name}, by truth (rows) and prediction (columns):", table.to_string(), ""]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write the report into a folder; returns the folder.

        evaluation_report.txt and .json, per_image.csv, every one of `figures` as PNG, and
        report.html, which contains all of it and needs no other file and no internet.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "evaluation_report.txt", self.text())
        files.write_text(folder / JSON, json.dumps(self._json(), indent=1, allow_nan=False))
        files.write_text(folder / "per_image.csv", self.per_image.to_csv(index=False))
        pictures = []
        for name, caption, figure in self.figures():
            path = plots.save(figure, folder / f"{name}.png")
            pictures.append((caption, path.read_bytes()))
        files.write_text(folder / "report.html", _page(self, pictures))
        return folder

    def _json(self) -> dict[str, Any]:
        """What is saved as JSON: plain values, NaN as null."""
        identity = ["case", "patient", "class", "annotated", "n_true"]
        scores = metrics.names("counts", "probabilities", "distances")
        extra = (measurements.UNIT, "seen", "fold")
        columns = [name for name in (*identity, *scores, *extra) if name in self.per_image]
        confusion = {
            name: json.loads(table.to_json(orient="split"))
            for name, table in self.confusion.items()
        }
        per_image = self.per_image[columns].to_json(orient="split", index=False)
        return {
            "title": self.title,
            **self.about,
            "notes": self.notes,
            "summary": json.loads(self.summary.to_json(orient="records")),
            "detection": json.loads(self.detection().to_json(orient="records")),
            "confusion": confusion,
            "per_image": json.loads(per_image),
        }


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """A summary as it is printed: rounded, without what is said once below it."""
    return table.round(4).drop(columns=["grid", "no_interval"])


def _value_and_interval(row: Any) -> str:
    if not np.isfinite(row["value"]):
        return "undefined"
    interval = f" ({row['low']:.3f}–{row['high']:.3f})" if np.isfinite(row["low"]) else ""
    return f"{row['value']:.3f}{interval}"


# ---- HTML

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
  color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-size: .9em }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1em }
dt { color: #666 } dd { margin: 0 }
figure { margin: 2em 0 } img { max-width: 100% } figcaption { color: #666; font-size: .9em }
.note { background: #fff3cd; border-left: 4px solid #d55e00; padding: .4em .8em; margin: .4em 0 }
"""


def _page(report: Report, pictures: list[tuple[str, bytes]]) -> str:
    """The whole report as one HTML page; `pictures` are captions and PNG files."""
    scores = _shown(report.summary)
    of_counts = [name for name in _headlines() if name in metrics.names("counts")]
    columns = ["case", "patient", "class", *of_counts, "n_true", "n_pred"]
    facts = [
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in report.about.items()
    ]
    sections = [f"<h1>{html.escape(report.title)}</h1>"]
    sections += [f"<p class='note'>{html.escape(note)}</p>" for note in report.notes]
    sections += [f"<dl>{''.join(facts)}</dl>"]
    sections += _section("Scores", scores[scores["metric"].isin(_headlines())], index=False)
    legend = [LEGEND, *summary.missing_intervals(report.summary)]
    sections += [f"<p>{html.escape(line)}</p>" for line in legend]
    sections += [_picture(*picture) for picture in pictures]
    sections += _section("Worst images", report.worst(10)[columns].round(4), index=False)
    detection = report.detection().round(4)
    sections += _section("Images in which a class is present", detection, index=False)
    for name, table in report.confusion.items():
        sections += _section(f"Confusion: {name}", table)
    everything = _table(scores, index=False)
    sections.append(f"<details><summary>All scores</summary>{everything}</details>")
    head = (
        f"<meta charset='utf-8'><title>{html.escape(report.title)}</title>"
        f"<link rel='icon' href='data:,'><style>{STYLE}</style>"
    )
    body = "".join(sections)
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>"


def _headlines() -> list[str]:
    """The few metrics at the top of a report."""
    return [name for name, metric in tables.METRICS.items() if metric.headline]


def _section(title: str, table: pd.DataFrame, **options: Any) -> list[str]:
    return [f"<h2>{html.escape(title)}</h2>", _table(table, **options)]


def _table(table: pd.DataFrame, **options: Any) -> str:
    return table.to_html(border=0, na_rep="–", escape=True, **options)


def _picture(caption: str, png: bytes) -> str:
    text, data = html.escape(caption), base64.b64encode(png).decode()
    image = f"<img alt='{text}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


# ---- saved reports, and the comparison of two reports


class SavedReport(NamedTuple):
    """What is read from a saved report: the table by image, the summary, and the header."""

    per_image: pd.DataFrame
    summary: pd.DataFrame
    about: dict[str, Any]


def read(source: Any) -> SavedReport:
    """A `Report`, its folder, or its `evaluation_report.json`.

    Raises:
        DataError: there is no report, or the file is not one.
    """
    if isinstance(source, Report):
        about = {"title": source.title, **source.about}
        return SavedReport(source.per_image, source.summary, about)
    path = Path(source) / JSON if Path(source).is_dir() else Path(source)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        per_image = pd.DataFrame(saved["per_image"]["data"], columns=saved["per_image"]["columns"])
        summary = pd.DataFrame(saved["summary"])
    except OSError as error:
        raise DataError(
            f"{path}: no report here; evaluate writes {JSON} into its output folder"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a report ({error}); expected the {JSON} that evaluate wrote"
        ) from error
    return SavedReport(per_image, summary, saved)


def compare(
    a: Any, b: Any, metric: str = "dice", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Is b better than a on the same images? Paired bootstrap over patients, by class and mean.

    Images are matched by their names. Images that only one of the reports has, and masks of a class
    that only one of them has, are left out and counted. A class that no truth of the common images
    contains has no Dice or distance, and the mean is that of the others.

    Args:
        a, b: reports, their folders, or their `evaluation_report.json`.
        metric: a column of `per_image`.

    Returns:
        class, a, b (means over the common images), difference (b minus a), low, high (its 95 %
        interval), better (share of the resamples in which b is better, which for distances and BCE
        means lower), n, n_left_out, no_interval (why there is no interval, else "").

    Raises:
        DataError: no such report, no common image, unknown metric, or the reports differ in their
            grid, unit of distances or truth: a class has more pixels of an image in one report than
            in the other. Reports saved before version 0.2 lack the number of true pixels, so that
            their truth is not checked.
    """
    first, second = read(a), read(b)
    pairs = _pairs(first, second, metric)
    absent = _absent(pairs) if metrics.rewards_absence(metric) else []
    occurring = pairs[~pairs["class"].isin(absent)]
    of_images = occurring.groupby(["case", "patient"], sort=False)[["a", "b"]].mean().reset_index()
    limits = _limits(first, second, metric)
    rows_a, rows_b = first.per_image, second.per_image
    n_images_of_one = len(set(rows_a["case"]) ^ set(rows_b["case"]))
    classes = dict.fromkeys(rows_a.loc[rows_a["class"].isin(pairs["class"]), "class"])
    rows = []
    for name in (*classes, "mean"):
        table = of_images if name == "mean" else occurring[occurring["class"] == name]
        comparison = _difference(table, metric, limits, resamples, seed)
        if name in absent:
            comparison["no_interval"] = summary.ABSENT
        comparison["n_left_out"] += n_images_of_one
        if name != "mean":
            comparison["n_left_out"] += _n_masks_of_one(rows_a, rows_b, name)
        rows.append({"class": name, **comparison})
    return pd.DataFrame(rows)


def _absent(pairs: pd.DataFrame) -> list[str]:
    """The classes that no truth of the common images contains."""
    # Reports of older versions do not tell the number of true pixels.
    return summary.absent_classes(pairs.assign(annotated=True)) if "n_true" in pairs else []


def _pairs(first: SavedReport, second: SavedReport, metric: str) -> pd.DataFrame:
    """Case, class, patient, number of true pixels (in reports that have it), and the scores a and b
    of the images that both reports score."""
    rows_a, rows_b = first.per_image, second.per_image
    names = metrics.names("counts", "probabilities", "distances")
    if metric not in rows_a or metric not in rows_b:
        raise DataError(
            f"metric: {metric!r} is not in both reports; choose from {', '.join(names)}"
        )
    grids = first.about.get("grid"), second.about.get("grid")
    if grids[0] != grids[1]:
        raise DataError(
            f"one report is of the grid {grids[0]!r}, the other of {grids[1]!r}; "
            "evaluate both alike"
        )
    units = [measurements.unit_of(rows) for rows in (rows_a, rows_b)]
    if measurements.is_distance(metric) and all(units) and units[0] != units[1]:
        raise DataError(
            f"{metric} is in {units[0]} in one report and in {units[1]} in the other; evaluate "
            "both on the same case table, so that the same spacings are known"
        )
    rows_a, rows_b = (
        measurements.rows_in_unit(rows[rows["annotated"]], metric) for rows in (rows_a, rows_b)
    )
    pairs = rows_a.merge(rows_b, on=["case", "class"], suffixes=("_a", "_b"))
    if pairs.empty:
        raise DataError(
            "the two reports have no image of an annotated class in common; "
            "evaluate both on the same data"
        )
    if {"n_true_a", "n_true_b"} <= set(pairs):
        _check_same_truth(pairs)
    names = {"patient_a": "patient", "n_true_a": "n_true", f"{metric}_a": "a", f"{metric}_b": "b"}
    columns = ["case", "class", *(name for name in names if name in pairs)]
    return pairs[columns].rename(columns=names)


def _check_same_truth(pairs: pd.DataFrame) -> None:
    different = pairs[pairs["n_true_a"] != pairs["n_true_b"]]
    if different.empty:
        return
    row = different.iloc[0]
    raise DataError(
        f"{row['case']}, class {row['class']}: the truth has {row['n_true_a']:.0f} pixels in one "
        f"report and {row['n_true_b']:.0f} in the other ({len(different)} of {len(pairs)} rows "
        "differ); evaluate both on the same masks, and with grid='original' where the image_size "
        "differs"
    )


def _limits(first: SavedReport, second: SavedReport, metric: str) -> bootstrap.Limits:
    """The range of a metric in both reports; that of a distance ends at the frame's diagonal."""
    if not measurements.is_distance(metric):
        return bootstrap.limits_of(metric)
    # Reports of older versions do not tell the diagonal.
    longest = min(saved.about.get(LONGEST_DISTANCE, math.inf) for saved in (first, second))
    return bootstrap.limits_of(metric, longest)


def _difference(
    pairs: pd.DataFrame, metric: str, limits: bootstrap.Limits, resamples: int, seed: int
) -> dict[str, Any]:
    """The numbers of one row of `compare`, from the columns a and b."""
    a, b = pairs["a"].to_numpy(float), pairs["b"].to_numpy(float)
    sign = -1 if metrics.less_is_better(metric) else 1
    gain, reason = bootstrap.compared(sign * a, sign * b, pairs["patient"], resamples, seed)
    largest = limits[1] - limits[0]
    low, high = np.clip(sorted((sign * gain["low"], sign * gain["high"])), -largest, largest)
    finite = np.isfinite(a) & np.isfinite(b)
    return {
        "a": a[finite].mean() if finite.any() else np.nan,
        "b": b[finite].mean() if finite.any() else np.nan,
        "difference": sign * gain["value"],
        "low": low,
        "high": high,
        "better": gain["better"],
        "n": gain["n"],
        "n_left_out": gain["n_left_out"],
        "no_interval": reason,
    }


def _n_masks_of_one(rows_a: pd.DataFrame, rows_b: pd.DataFrame, name: str) -> int:
    """How many images of both reports have a mask of this class in one of them only."""
    common = set(rows_a["case"]) & set(rows_b["case"])

    def annotated(rows: pd.DataFrame) -> set[str]:
        return set(rows.loc[(rows["class"] == name) & rows["annotated"], "case"])

    return len((annotated(rows_a) ^ annotated(rows_b)) & common)
