"""Tables of scores to means with intervals, and what a reader has to know about them.

Two rules keep a mean honest. A class that no truth of the part contains has no Dice, because an
empty prediction would score 1 everywhere: it is NaN, and the mean is that of the other classes.
Distances in mm and in pixels are never averaged together. Taught in `07_evaluation`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import bootstrap, measurements, metrics, tables
from .bootstrap import Estimate

COUNTS = ["tp", "fp", "fn", "tn"]
COLUMNS = "class metric average value low high n n_empty n_missing unit no_interval".split()
ABSENT = "no truth of this part contains the class"
PRESENT = ", present"  # ending of the averages over the images whose truth is not empty


def absent_classes(per_image: pd.DataFrame) -> list[str]:
    """The classes that have masks in this part, all of them empty."""
    scored = per_image[per_image["annotated"]]
    n_true = scored.groupby("class", sort=False)["n_true"].sum()
    return list(n_true.index[n_true == 0])


def n_empty_and_missing(table: pd.DataFrame) -> dict[str, int]:
    """How many rows of a table have an empty truth, and how many have no mask."""
    scored = table[table["annotated"]]
    return {
        "n_empty": int((scored["n_true"] == 0).sum()),
        "n_missing": int((~table["annotated"]).sum()),
    }


def of_table(
    table: pd.DataFrame,
    average: str,
    cfg: Any,
    absent: Sequence[str] = (),
    longest: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The long summary of one table of scores: each class and their mean.

    Every metric is averaged over rows. Those of counts are also computed from the summed counts of
    all images ("pooled"). Where some truths are empty, metrics that reward an empty prediction of
    them are also averaged over the other rows ("per image, present"). A class without any mask
    keeps its rows, with n = 0, which shows that its masks are missing.

    Args:
        table: `per_image` or `per_volume`.
        average: "per image" or "per volume".
        absent: of `absent_classes`.
        longest: unit -> the longest distance that is possible, the diagonal of the largest frame.
    """
    rows = []
    for name in [*dict.fromkeys(table["class"]), "mean"]:
        of_class = table if name == "mean" else table[table["class"] == name]
        numbers = n_empty_and_missing(of_class)
        scored = of_class[of_class["annotated"]]
        if name == "mean":
            scored = scored[~scored["class"].isin(absent)]
        unit_of_distances = measurements.unit_of(scored)
        for metric in _metrics_of(table):
            unit, limits = "", bootstrap.limits_of(metric)
            if measurements.is_distance(metric):
                unit = unit_of_distances
                limits = bootstrap.limits_of(metric, (longest or {}).get(unit, math.inf))
            if name in absent and metrics.rewards_absence(metric):
                estimates = [(average, Estimate(np.nan, np.nan, np.nan, 0, ABSENT))]
            else:
                estimates = _estimates(scored, metric, average, cfg, name == "mean", limits)
            for kind, estimate in estimates:
                row = {"class": name, "metric": metric, "average": kind, "unit": unit}
                row |= {**estimate._asdict(), **numbers}
                row["no_interval"] = row.pop("reason")
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _estimates(
    scored: pd.DataFrame,
    metric: str,
    average: str,
    cfg: Any,
    over_classes: bool,
    limits: bootstrap.Limits,
) -> Iterator[tuple[str, Estimate]]:
    """The averages of a metric over the annotated rows of one class, or of all (`over_classes`)."""
    yield average, _mean(scored, metric, average, cfg, limits)
    present = scored[scored["n_true"] > 0]
    some_empty = 0 < len(present) < len(scored)
    if tables.METRICS[metric].source == "counts" and average == "per image":
        # Over one class always; over all of them where the mean alone would mislead.
        if not over_classes or some_empty:
            yield "pooled", _pooled(scored, metric, cfg)
    if some_empty and metrics.rewards_absence(metric):
        yield average + PRESENT, _mean(present, metric, average, cfg, limits)


def _mean(
    scored: pd.DataFrame, metric: str, average: str, cfg: Any, limits: bootstrap.Limits
) -> Estimate:
    """Mean over images or volumes; first over the classes of each."""
    unit = "case" if average == "per image" else "volume"
    scored = measurements.rows_in_unit(scored, metric)
    values = scored.groupby([unit, "patient"], sort=False)[metric].mean().reset_index()
    return bootstrap.mean_estimate(
        values[metric], values["patient"], cfg.bootstrap, cfg.seed, limits
    )


def _pooled(scored: pd.DataFrame, metric: str, cfg: Any) -> Estimate:
    of_classes = [table for _, table in scored.groupby("class", sort=False)]
    counts = [table[COUNTS].to_numpy(float) for table in of_classes]
    patients = [table["patient"].to_numpy() for table in of_classes]
    estimate = bootstrap.pooled_estimate(counts, patients, metric, cfg.bootstrap, cfg.seed)
    return estimate._replace(n=scored["case"].nunique())


def _metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics of counts, and those others of which some row of the table has a value."""
    always = metrics.names("counts")
    names = metrics.names("counts", "probabilities", "distances")
    return [m for m in names if m in table and (m in always or table[m].notna().any())]


def of_curves(
    scores: pd.DataFrame, counts: np.ndarray, per_image: pd.DataFrame, cfg: Any
) -> pd.DataFrame:
    """The summary of the metrics of all pixels together (average `pixels`).

    Args:
        scores: a row for each class, a column for each metric of histograms.
        counts: (patients, classes, 2, bins) as `bootstrap.curve_intervals` takes them.
    """
    occurs = ~scores.index.isin(absent_classes(per_image))
    scores = scores.copy()
    scores.loc["mean"] = scores[occurs].mean()  # of the classes that have a value
    values = {metric: scores[metric].to_numpy() for metric in scores}
    intervals = bootstrap.curve_intervals(values, counts, occurs, cfg.bootstrap, cfg.seed)
    rows = []
    for place, name in enumerate(scores.index):
        table = per_image if name == "mean" else per_image[per_image["class"] == name]
        n = table.loc[table["annotated"], "case"].nunique()
        for metric in scores:
            low, high, reason = intervals[metric][place]
            row = {"class": name, "metric": metric, "average": "pixels"}
            row |= {"value": scores.loc[name, metric], "low": low, "high": high, "n": n}
            row |= {**n_empty_and_missing(table), "unit": "", "no_interval": reason}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


# ---- what a reader has to know


def notes(per_image: pd.DataFrame, summary: pd.DataFrame, absent: Sequence[str]) -> list[str]:
    """What the numbers of a report do not show by themselves, the gravest first."""
    return [*_seen(per_image), *_absent(per_image, absent), *_empty(per_image, summary)]


class Seen(NamedTuple):
    """How many of the scored images the network was trained with.

    Attributes:
        n_seen, n_images: of all images.
        n_new, dice_of_new: the annotated images that it had not seen, and their mean Dice.
    """

    n_seen: int
    n_images: int
    n_new: int
    dice_of_new: float


def seen_in_training(per_image: pd.DataFrame) -> Seen | None:
    """The images seen in training by the column `seen`; None where the table has none."""
    if "seen" not in per_image:
        return None
    new = per_image[~per_image["seen"] & per_image["annotated"]]
    return Seen(
        n_seen=per_image.loc[per_image["seen"], "case"].nunique(),
        n_images=per_image["case"].nunique(),
        n_new=new["case"].nunique(),
        dice_of_new=float(new["dice"].mean()),
    )


def _seen(per_image: pd.DataFrame) -> list[str]:
    seen = seen_in_training(per_image)
    if not seen or not seen.n_seen:
        return []
    total = seen.n_images
    which = f"ALL {total} IMAGES" if seen.n_seen == total else f"{seen.n_seen} OF {total} IMAGES"
    return [
        f"{which} WERE SEEN IN TRAINING: the scores show how well the network remembers them, not "
        "how well it does on new images. Score images that no training has seen: the test part of "
        "the training (without one, train anew with a test_split), or other data"
    ]


def _absent(per_image: pd.DataFrame, absent: Sequence[str]) -> list[str]:
    scored = per_image[per_image["annotated"]]
    lines = []
    for name in absent:
        rows = scored[scored["class"] == name]
        false_positives = int((rows["n_pred"] > 0).sum())
        lines.append(
            f"{name}: {ABSENT} ({len(rows)} images), so it has no Dice and is left out of the mean "
            f"over classes; it was predicted in {false_positives} of them (false positives)"
        )
    return lines


def _empty(per_image: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """For each class with some empty truths: the Dice with and without them, pooled, detection."""
    dice = summary[summary["metric"] == "dice"].set_index(["class", "average"])["value"]
    scored = per_image[per_image["annotated"]]
    lines = []
    for name, rows in scored.groupby("class", sort=False):
        present, predicted = rows["n_true"] > 0, rows["n_pred"] > 0
        if not 0 < present.sum() < len(rows):
            continue
        lines.append(
            f"{name}: {(~present).sum()} of {len(rows)} truths are empty, and an empty prediction "
            f"scores Dice 1 there. Dice of the {present.sum()} images with the structure "
            f"{dice[name, 'per image' + PRESENT]:.3f}, of all images {dice[name, 'per image']:.3f},"
            f" of all pixels pooled {dice[name, 'pooled']:.3f}; found in "
            f"{(present & predicted).sum()} of {present.sum()} images with it, predicted in "
            f"{(~present & predicted).sum()} of {(~present).sum()} without"
        )
    return lines


def missing_intervals(summary: pd.DataFrame) -> list[str]:
    """A line for each reason why scores of a summary have no interval."""
    rows = summary[summary["value"].notna() & (summary["no_interval"] != "")]
    lines = []
    for reason, of_reason in rows.groupby("no_interval", sort=False):
        classes = ", ".join(dict.fromkeys(of_reason["class"]))
        names = list(dict.fromkeys(of_reason["metric"]))
        which = ", ".join(names) if len(names) <= 4 else f"{len(names)} metrics"
        lines.append(f"no interval: {reason} ({which} of {classes})")
    return lines
