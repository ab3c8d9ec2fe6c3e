"""Drawings of ideas: the flow of data through the package, the split, the areas behind a score."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from .. import metrics
from ..plots import EXTRA, GREEN, MISSED, PART_COLOURS, SKY_BLUE
from . import page

PART_NAMES = {"train": "training", "val": "validation", "test": "test"}

# The seven calls of the series: what is called, the object that it returns, what that is.
CALLS = (
    ('config.preset("lung")', "cfg", "every setting of the system"),
    ("layouts.scan(cfg)", "case table", "one row an image, with its\nmask file and its patient"),
    ("prepare.build(cases, cfg)", "store", "checked and resized pixels,\nsplit by patient"),
    ("data.loaders(store, cfg)", "batches", "training, validation\nand test batches"),
    ("training.fit(cfg, batches)", "run", "best weights and the history\nof the training"),
    ('evaluation.evaluate(run,\nbatches["test"])', "report", "scores with intervals"),
    ("inference.Predictor\n.load(run.best)", "predictor", "new image in,\npredicted mask out"),
)


def data_flow() -> Figure:
    """The seven calls of the series, and the object that each of them hands to the next."""
    figure, axis = page.blank(4.3)
    columns, pitch, width = 4, 2.45, 2.15
    for number, (call, result, meaning) in enumerate(CALLS):
        row, column = divmod(number, columns)
        x, y = 0.18 + width / 2 + pitch * column, 3.45 - 2.1 * row
        corner = (x - width / 2, y - 0.78)
        style = "round,pad=0,rounding_size=0.08"
        axis.add_patch(
            FancyBboxPatch(corner, width, 1.4, boxstyle=style, fc="#f6f6f6", ec=page.GREY, lw=0.8)
        )
        page.text(axis, x, y + 0.35, call, 8.5, family="monospace", linespacing=1.3)
        page.box(axis, x, y - 0.12, 1.25, 0.3, SKY_BLUE)
        page.text(axis, x, y - 0.12, result, 10, weight="bold")
        page.text(axis, x, y - 0.52, meaning, 8.5)
        circle = {"boxstyle": "circle,pad=0.25", "fc": page.INK, "ec": page.INK}
        number_at = (corner[0] + 0.04, y + 0.6)
        page.text(axis, *number_at, str(number + 1), 8.5, color="white", weight="bold", bbox=circle)
        if number + 1 == len(CALLS):
            continue
        if column + 1 < columns:
            page.arrow(axis, (x + width / 2, y), (x + pitch - width / 2, y))
        else:
            down, first = y - 1.0, 0.18 + width / 2
            axis.plot([x, x, first], [y - 0.78, down, down], color=page.INK, lw=1.4)
            page.arrow(axis, (first, down + 0.01), (first, down - 0.42))
    return figure


def split(cases: pd.DataFrame) -> Figure:
    """Each patient as a column of squares, one an image, in the part that the patient is in.

    A patient in two parts is drawn in both, with a thick outline, and named as a leak.

    Args:
        cases: a case table with the columns `patient` and `split` (train, val or test), as
            `prepare.build(...).cases` has it.

    Raises:
        ValueError: a column is missing, or a case has no part yet.
    """
    missing = {"patient", "split"} - set(cases.columns)
    if missing or not set(cases["split"]) <= set(PART_NAMES):
        raise ValueError(
            "cases: expected the columns patient and split, with train, val or test in every row, "
            "as store.cases of prepare.build has them"
        )
    parts = {part: cases[cases["split"] == part] for part in PART_NAMES}
    images = {part: rows["patient"].value_counts(sort=False) for part, rows in parts.items()}
    leaks = cases.groupby("patient")["split"].nunique()
    leaks = set(leaks.index[leaks > 1])
    step, left = 0.16, 0.35
    per_line = int((page.WIDTH - 2 * left) // step)
    lines = {part: _lines(counts.to_dict(), per_line) for part, counts in images.items()}
    heights = {part: [min(max(n for _, n in line), 8) for line in lines[part]] for part in lines}
    height = 0.85 + sum(0.62 + sum(step * n + 0.08 for n in heights[part]) for part in lines)
    figure, axis = page.blank(height)
    y = height - 0.3
    page.text(axis, left, y, _split_title(cases, leaks), 12, ha="left", weight="bold")
    for part, name in PART_NAMES.items():
        y -= 0.42
        n_patients, n_images = images[part].size, len(parts[part])
        label = f"{name} part: {_count(n_patients, 'patient')}, {_count(n_images, 'image')}"
        page.box(axis, left + 0.07, y, 0.14, 0.14, PART_COLOURS[part])
        page.text(axis, left + 0.24, y, label, 10, ha="left", weight="bold")
        y -= 0.18
        for line, tallest in zip(lines[part], heights[part]):
            for number, (patient, n) in enumerate(line):
                place = (left + step * number, y)
                _draw_patient(axis, place, n, step, PART_COLOURS[part], patient in leaks)
            y -= step * tallest + 0.08
    note = "one column a patient, one square an image (at most 8 are drawn)"
    page.text(axis, left, 0.2, note, 8.5, ha="left", color=page.GREY)
    return figure


def _split_title(cases: pd.DataFrame, leaks: set) -> str:
    total = f"{_count(cases['patient'].nunique(), 'patient')}, {_count(len(cases), 'image')}"
    if not leaks:
        return f"Split by patient: {total}, nobody in two parts"
    verb = "is" if len(leaks) == 1 else "are"
    return f"{total}: {_count(len(leaks), 'patient')} {verb} in two parts"


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _lines(counts: dict[Any, int], per_line: int) -> list[list[tuple[Any, int]]]:
    """The patients with their numbers of images, in lines of the page."""
    items = list(counts.items())
    return [items[start : start + per_line] for start in range(0, len(items), per_line)]


def _draw_patient(
    axis: Axes, place: tuple[float, float], n: int, step: float, colour: str, leaks: bool
) -> None:
    side = step - 0.03
    for number in range(min(n, 8)):
        corner = (place[0], place[1] - step * number - side)
        axis.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor="none"))
    if leaks:
        height = step * min(n, 8)
        corner = (place[0] - 0.015, place[1] - height + 0.015)
        axis.add_patch(Rectangle(corner, step, height, fill=False, edgecolor=page.INK, lw=1.8))


def confusion_areas(truth: np.ndarray | None = None, pred: np.ndarray | None = None) -> Figure:
    """Ground truth and predicted mask of one picture: the four areas and the scores made of them.

    Args:
        truth, pred: (H, W) bool or 0 and 1, by default two overlapping discs on 60 x 80 pixels.

    Raises:
        ValueError: only one of the two masks, or masks of different shapes.
    """
    if (truth is None) != (pred is None):
        raise ValueError("confusion_areas: expected both masks, or none")
    if truth is None:
        rows, columns = np.mgrid[:60, :80]
        truth = (rows - 30) ** 2 + (columns - 32) ** 2 < 20**2
        pred = (rows - 30) ** 2 + (columns - 42) ** 2 < 18**2
    truth, pred = np.asarray(truth).astype(bool), np.asarray(pred).astype(bool)
    if truth.shape != pred.shape:
        raise ValueError(f"pred: {pred.shape} differs from truth: {truth.shape}")
    areas = {"TN": ~truth & ~pred, "TP": truth & pred, "FN": truth & ~pred, "FP": pred & ~truth}
    counts = {name: int(area.sum()) for name, area in areas.items()}
    figure, axis = page.blank(4.6)
    numbers = sum(number * area.astype(int) for number, area in enumerate(areas.values()))
    colours = dict(zip(areas, ("#e4e4e4", GREEN, MISSED, EXTRA)))
    picture = figure.add_axes((0.02, 0.04, 0.56, 0.92))
    picture.imshow(numbers, cmap=ListedColormap(list(colours.values())), vmin=-0.5, vmax=3.5)
    picture.contour(truth, [0.5], colors=page.INK, linewidths=1.8)
    picture.contour(pred, [0.5], colors=page.INK, linewidths=1.8, linestyles="dashed")
    picture.axis("off")
    for name, area in areas.items():
        if counts[name]:
            row, column = _inner_point(area)
            colour = "white" if name in ("FN", "TP", "FP") else page.INK
            place = {"ha": "center", "va": "center", "weight": "bold", "fontsize": 11}
            picture.text(column, row, f"{name}\n{counts[name]}", color=colour, **place)
    _draw_scores(axis, counts, colours)
    return figure


def _inner_point(area: np.ndarray) -> tuple[int, int]:
    """(row, column) of the pixel of an area that lies farthest from its edge."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


AREA_NAMES = {
    "TP": "true positives, in both masks",
    "FN": "false negatives, missed",
    "FP": "false positives, too much",
    "TN": "true negatives, in neither",
}
FORMULAS = {
    "Dice": (metrics.dice, r"2\,TP\ /\ (2\,TP + FP + FN)"),
    "IoU": (metrics.iou, r"TP\ /\ (TP + FP + FN)"),
    "precision": (metrics.precision, r"TP\ /\ (TP + FP)"),
    "recall": (metrics.recall, r"TP\ /\ (TP + FN)"),
}


def _draw_scores(axis: Axes, counts: dict[str, int], colours: dict[str, str]) -> None:
    """The legend of the areas and outlines, and the scores with their formulas."""
    x, y = 6.0, 4.25
    for name, meaning in AREA_NAMES.items():
        page.box(axis, x + 0.1, y, 0.2, 0.2, colours[name])
        page.text(axis, x + 0.32, y, f"{name} = {counts[name]} pixels: {meaning}", 9.5, ha="left")
        y -= 0.3
    for meaning, style in (("ground truth", "-"), ("predicted mask", "--")):
        axis.plot([x, x + 0.22], [y, y], style, color=page.INK, lw=1.8)
        page.text(axis, x + 0.32, y, meaning, 9.5, ha="left")
        y -= 0.3
    y -= 0.15
    for name, (metric, formula) in FORMULAS.items():
        value = float(metric(*(np.asarray(counts[key]) for key in ("TP", "FP", "FN", "TN"))))
        page.text(axis, x, y, f"{name} = ${formula}$ = {value:.3f}", 10.5, ha="left")
        y -= 0.42
