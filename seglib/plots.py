"""Every figure of the series, in one style: a class has the same colour everywhere.

Figures are at least `hosts.FIGURE_WIDTH` inches wide. Masks are drawn as outlines with a light
tint, so that the anatomy below them stays visible. Used in all notebooks; the figures of an
evaluation are explained in `07_evaluation`.
"""

import contextlib
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import config, files, hosts, measurements, tables
from .curves import HistogramROC, thin
from .formats import stacks
from .tables import IGNORE

# The palette of Okabe and Ito, which colour-blind readers can tell apart. Its first colours are
# those that are easy to see on grey images, on skin and on the fundus alike.
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
SKY_BLUE, ORANGE, GREEN, PURPLE, YELLOW, BLUE, VERMILION = COLOURS
PART_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
# Errors have colours that no class has. They are drawn on the image in dark grey.
MISSED, EXTRA = "#FFFFFF", "#FF0033"
DIMMED = 0.45
IGNORED = (120, 0, 0)  # dark red
LINE = "#000000"  # beside outlines, so that they are seen on any ground
FINE = 400  # pixels: pictures of fewer are enlarged before outlines are drawn
TINT = 0.15  # opacity of a class inside its outline


def rgb(colour: str) -> np.ndarray:
    """ "#E69F00" -> (3,) uint8."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.4) -> np.ndarray:
    """The image with its mask in the class colours, (H, W, 3) uint8.

    Args:
        image: (H, W) or (H, W, C) uint8, see `as_rgb`.
        mask: (H, W) of 0 and class numbers, or (K, H, W) of 0/1; 255 is not coloured.
    """
    result = as_rgb(image).astype(np.float32)
    for number, plane in enumerate(class_planes(mask)):
        colour = rgb(COLOURS[number % len(COLOURS)]).astype(np.float32)
        result[plane] = (1 - opacity) * result[plane] + opacity * colour
    return np.rint(result).astype(np.uint8)


def outline(image: np.ndarray, mask: np.ndarray, tint: float = TINT) -> np.ndarray:
    """The image with the outlines of its mask in the class colours.

    A small picture is enlarged by a whole factor, so that outlines are thin. A dark line on both
    sides makes them visible on skin, on the fundus and on grey.

    Args:
        image, mask: as for `overlay`.
        tint: opacity of the class colour inside.

    Returns:
        (f * H, f * W, 3) uint8, where f is the factor.
    """
    factor = max(1, round(FINE / min(image.shape[:2])))
    picture = enlarged(overlay(image, mask, tint), factor)
    width = max(2, round(min(picture.shape[:2]) / 200))
    for number, plane in enumerate(class_planes(mask)):
        if plane.any():
            _draw_outline(picture, enlarged(plane, factor), COLOURS[number % len(COLOURS)], width)
    return picture


def enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of (H, W) or (H, W, C) as a square of `factor` times `factor`."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _draw_outline(picture: np.ndarray, plane: np.ndarray, colour: str, width: int) -> None:
    """Draw the inner edge of a plane into a picture, with a thin dark line on both sides."""
    inside = plane.astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    at_border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    outer = cv2.dilate(inside, cross)
    inner = cv2.erode(inside, cross, iterations=width, **at_border)
    innermost = cv2.erode(inner, cross, **at_border)
    picture[(outer > inside) | (inner > innermost)] = rgb(LINE)
    picture[inside > inner] = rgb(colour)


def class_planes(mask: np.ndarray) -> list[np.ndarray]:
    """A plane (H, W) of bool for each class of a mask as `overlay` takes it."""
    if mask.ndim == 3:
        return list(mask == 1)
    n_classes = int(mask[mask != IGNORE].max(initial=0))
    return [mask == number for number in range(1, n_classes + 1)]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W, 3): the first three channels, or the first one as grey."""
    planes = image.reshape(*image.shape[:2], -1)
    return planes[..., :3] if planes.shape[2] >= 3 else np.repeat(planes[..., :1], 3, axis=2)


def grid(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 4,
    side: float | None = None,
    classes: Sequence[str] = (),
) -> Figure:
    """Pictures (H, W) or (H, W, C) uint8 side by side; see `as_rgb`.

    Args:
        titles: one for each picture; long ones are broken into lines.
        columns: pictures in a row, at most.
        side: inches of a picture; by default they fill the width of the figure.
        classes: class names for a legend, as in `class_legend`.
    """
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    side = side or min(hosts.FIGURE_WIDTH / columns, 5)
    titles = [_broken(title, side) for title in titles]
    height = side * max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure, axes = _panels(rows, columns, side, height + _inches_of(titles))
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures):
        axis.imshow(as_rgb(picture), vmin=0, vmax=255)
    for axis, title in zip(axes.flat, titles):
        axis.set_title(title, fontsize=TITLE)
    return class_legend(figure, classes)


TITLE = 9  # points
# Metrics as axes name them, where it is not by the name of their column.
NAMES_OF_METRICS = {
    **{name: name.upper() for name in ("f1", "bce", "hd95", "assd", "nsd")},
    **{name: name.capitalize() for name in ("dice", "precision", "recall", "specificity")},
    "iou": "IoU",
    "accuracy": "Accuracy",
}


def _panels(rows: int, columns: int, side: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with rows of panels, `side` times `height` inches each, and their axes."""
    size = (max(side * columns, hosts.FIGURE_WIDTH), height * rows)
    options = {"squeeze": False, "layout": "constrained", "dpi": hosts.FIGURE_DPI}
    figure, axes = plt.subplots(rows, columns, figsize=size, **options)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return _full_width(figure), axes


def _full_width(figure: Figure) -> Figure:
    """Notebooks cut white margins off; a line that is not seen keeps the figure's width."""
    figure.add_artist(Line2D([0, 1], [0, 0], alpha=0))
    return figure


def _broken(title: str, side: float) -> str:
    """A title in lines that fit above a picture of `side` inches."""
    n_letters = max(8, int(side * 72 / (0.62 * TITLE)))
    lines = [textwrap.wrap(line, n_letters) or [""] for line in str(title).split("\n")]
    return "\n".join(line for parts in lines for line in parts)


def _inches_of(titles: Sequence[str]) -> float:
    """The height of the title with the most lines, with the space below it."""
    n_lines = max((title.count("\n") + 1 for title in titles if title), default=0)
    return (n_lines * 1.3 * TITLE + 9) / 72 if n_lines else 0


def class_legend(
    figure: Figure, classes: Sequence[str], marks: dict[str, str] | None = None
) -> Figure:
    """Add a legend below a figure: the colour of each class; returns the figure.

    Args:
        classes: names in their order; a first one that is called background has no colour.
        marks: further texts with the colour of each.
    """
    names = list(classes)[1:] if list(classes)[:1] == ["background"] else list(classes)
    entries = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    patches = [
        Patch(facecolor=colour, edgecolor="0.3", linewidth=0.6, label=name)
        for name, colour in (entries | (marks or {})).items()
    ]
    if patches:
        style = {"frameon": False, "fontsize": TITLE, "handlelength": 1.2}
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(len(patches), 8), **style
        )
    return figure


def store_samples(store, part: str = "train", n: int = 8) -> Figure:
    """The first images of one part of a store with their masks, and a legend of the classes.

    Classes without a mask are named in the title of the image.
    """
    pictures, masks = store.open()
    cases = store.cases[store.cases["split"] == part].head(n)
    cfg = config.from_dict(store.info["config"]) if "config" in store.info else None
    classes = store.info["class_names"]
    samples = [
        outline(stacks.shown(pictures[row], cfg) if cfg else pictures[row], flat(masks[row]))
        for row in cases["row"]
    ]
    titles = [
        "\n".join([case, *_missing(masks[row], classes)])
        for case, row in zip(cases["case"], cases["row"])
    ]
    return grid(samples, titles, classes=classes)


def _missing(mask: np.ndarray, classes: Sequence[str]) -> list[str]:
    """A line with the classes of a mask (H, W, K) that has no mask of them; [] if there is none."""
    if mask.shape[-1] != len(classes):
        return []
    names = [name for k, name in enumerate(classes) if (mask[..., k] == IGNORE).all()]
    return [f"no mask of {', '.join(names)}"] if names else []


def batch_samples(
    batch: dict,
    mean: Sequence[float],
    std: Sequence[float],
    n: int = 4,
    classes: Sequence[str] = (),
) -> Figure:
    """The network's input: images of a batch with their masks, after the normalisation is undone.

    Pixels that are ignored in every class are dark red. `classes`: names for a legend, such as
    `cfg.class_names`.
    """
    pictures, is_ignored = [], False
    for image, mask in zip(batch["image"][:n].numpy(), batch["mask"][:n].numpy()):
        tiles = len(image) // len(mean), len(image) // len(std)  # a mean for each slice, or one
        pixels = image.transpose(1, 2, 0) * np.tile(std, tiles[1]) + np.tile(mean, tiles[0])
        pixels = np.clip(pixels, 0, 1)
        pixels = np.rint(pixels * 255).astype(np.uint8)
        if mask.ndim == 2:
            mask = mask[None]
        is_ignored |= bool((mask == IGNORE).all(axis=0).any())
        pictures.append(_outline_and_ignored(pixels, mask[0] if len(mask) == 1 else mask))
    figure = grid(pictures)
    return class_legend(figure, classes, _ignored_mark(is_ignored))


def _ignored_mark(is_ignored: bool) -> dict[str, str]:
    """The entry of a legend for ignored pixels, where there are some."""
    return {"ignored": "#" + bytes(IGNORED).hex()} if is_ignored else {}


def augmentation_samples(
    image: np.ndarray, mask: np.ndarray, augment: dict, n: int = 3, seed: int = 0
) -> Figure:
    """What each augmentation does to an image with its mask: a row for each, and one for all of
    them together.

    The first column is the image as it is. Pixels that are ignored in every class are dark red.

    Args:
        image: (H, W) or (H, W, C) uint8.
        mask: (H, W) of class numbers, or (K, H, W) of 0/1; 255 is ignored.
        augment: as `cfg.augment`: a set such as `tables.AUGMENTATION_SETS["xray"]`, or
            `{"gamma": 1}`.
        n: changed images for each, all different.
    """
    from . import augmentations  # slow to load

    pictures, titles = [], []
    for name, samples in augmentations.examples(image, mask, augment, n, seed).items():
        pairs = [(image, mask), *samples]
        pictures += [_outline_and_ignored(*pair) for pair in pairs]
        titles += ["as it is", name, *[""] * (n - 1)]
    return grid(pictures, titles, columns=n + 1)


def _outline_and_ignored(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`outline`, with pixels that are ignored in every class in dark red."""
    picture = outline(image, mask)
    planes = mask.reshape(-1, *mask.shape[-2:])
    ignored = (planes == IGNORE).all(axis=0)
    picture[enlarged(ignored, picture.shape[0] // ignored.shape[0])] = IGNORED
    return picture


def flat(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W, K) of a store as `overlay` takes it: (H, W) where K is 1, else (K, H, W)."""
    return mask[..., 0] if mask.shape[-1] == 1 else mask.transpose(2, 0, 1)


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss of training and validation, validation Dice and accuracy by epoch.

    The dashed line marks the epoch with the best weights.
    """
    figure, (left, right) = _plots(2, height=3.4)
    for column, part in (("train_loss", "train"), ("val_loss", "val")):
        left.plot(history["epoch"], history[column], color=PART_COLOURS[part], label=part)
    left.set(xlabel="epoch", ylabel="loss")
    scores = {"val_dice": ("Dice", "-"), "val_accuracy": ("pixel accuracy", ":")}
    for column, (label, style) in scores.items():
        right.plot(history["epoch"], history[column], style, color=PART_COLOURS["val"], label=label)
    right.set(xlabel="epoch", ylabel="validation score", ylim=(None, 1))
    best = history.loc[history["best"].astype(bool), "epoch"]
    for axis in (left, right):
        if len(best):
            epoch = best.iloc[-1]
            axis.axvline(epoch, label=f"best: epoch {epoch:.0f}", color="0.6", ls="--", lw=1)
        axis.legend(frameon=False, fontsize=8)
    return _finished(figure)


class LiveCurves:
    """The training curves, redrawn in place while a notebook trains; no effect elsewhere."""

    def __init__(self, active: bool):
        self.active, self.handle = active, None

    def update(self, history: pd.DataFrame) -> None:
        """Show the curves up to the last epoch."""
        if not self.active:
            return
        from IPython.display import display

        figure = training_curves(history)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)

    def close(self) -> None:
        """Replace the figure by one line of text; the notebook draws the final curves itself."""
        if self.handle is not None:
            from IPython.display import Markdown

            self.handle.update(Markdown("_Training finished._"))


@contextlib.contextmanager
def _same_numbers_each_time() -> Iterator[None]:
    """Seed the generator of numpy that seaborn uses, and put back its state afterwards."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def scores_by_image(per_image: pd.DataFrame, metric: str = "dice") -> Figure:
    """A point for each image and a box for each class, with n.

    Distances in another unit than that of the means (mm where it is known) are not drawn.
    """
    import seaborn as sns  # takes a second to import, which training and prediction do not need

    values = measurements.rows_in_unit(per_image[per_image["annotated"]], metric)
    names = list(dict.fromkeys(values["class"]))
    figure, (axis,) = _plots(1, height=0.9 + 0.8 * len(names))
    common = {"data": values, "x": metric, "y": "class", "order": names, "ax": axis}
    sns.boxplot(**common, color="0.92", showfliers=False, width=0.5)
    palette = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    colours = {"hue": "class", "hue_order": names, "palette": palette}
    with _same_numbers_each_time():  # points are scattered at random, so that all can be seen
        sns.stripplot(**common, **colours, size=4, legend=False)
    counts = values.groupby("class")[metric].count()
    axis.set_yticks(range(len(names)), [f"{name} (n={counts[name]})" for name in names])
    unit = measurements.unit_of(values) if measurements.is_distance(metric) else ""
    label = NAMES_OF_METRICS.get(metric, metric)
    axis.set(xlabel=f"{label} of an image{', ' if unit else ''}{unit}", ylabel="")
    return _finished(figure)


def metrics_summary(summary: pd.DataFrame) -> Figure:
    """Every metric of counts by image (or volume), of each class and their mean, with intervals."""
    average = "per volume" if (summary["average"] == "per volume").any() else "per image"
    names = _count_metrics()
    table = summary[(summary["average"] == average) & summary["metric"].isin(names)]
    classes = list(dict.fromkeys(table["class"]))
    classes = classes[:1] if len(classes) == 2 else classes  # the mean of one class is that class
    figure, (axis,) = _plots(1, height=1 + 0.13 * len(names) * (len(classes) + 1))
    for number, name in enumerate(classes):
        rows = table[table["class"] == name].set_index("metric").reindex(names)
        heights = np.arange(len(names)) + 0.8 * ((number + 0.5) / len(classes) - 0.5)
        colour = "0.3" if name == "mean" else COLOURS[number % len(COLOURS)]
        label = f"{name} (n={rows['n'].max():.0f})"
        axis.hlines(heights, rows["low"], rows["high"], color=colour, linewidth=1.5)
        axis.plot(rows["value"], heights, "o", color=colour, markersize=4, label=label)
    axis.set(yticks=range(len(names)), yticklabels=names)
    axis.set(xlabel=f"{average}, 95 % interval", xlim=(None, 1.005))
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _finished(figure)


def _count_metrics() -> list[str]:
    """The metrics of counts without synonyms: F1 is the Dice under another name."""
    name_of = {}
    for name, metric in tables.METRICS.items():
        if metric.source == "counts":
            name_of.setdefault(metric.compute, name)
    return list(name_of.values())


def confusion(matrices: dict[str, pd.DataFrame]) -> Figure:
    """Pixels by truth (rows) and prediction (columns).

    Colour and percentage are shares of the row.

    Args:
        matrices: title -> table of pixels, as `Report.confusion` holds them.
    """
    import seaborn as sns

    side = 1.4 + 0.9 * max(len(matrix) for matrix in matrices.values())
    size = (max(side * len(matrices) + 0.6, hosts.FIGURE_WIDTH), side)
    options = {"squeeze": False, "dpi": hosts.FIGURE_DPI, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(matrices), figsize=size, **options)
    style = {"vmin": 0, "vmax": 1, "cmap": "Blues", "cbar": False, "annot_kws": {"fontsize": 8}}
    for axis, (name, table) in zip(axes[0], matrices.items()):
        counts = table.to_numpy(float)
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        texts = [f"{s:.1%}\n{n:,.0f}" for s, n in zip(share.flat, counts.flat)]
        texts = np.array(texts).reshape(counts.shape)
        sns.heatmap(share, annot=texts, fmt="", ax=axis, square=True, **style)
        labels = [str(label).replace("_", "\n") for label in table.columns]
        axis.set_xticklabels(labels, rotation=0, fontsize=8)
        axis.set_yticklabels(labels, rotation=0, fontsize=8)
        axis.set(xlabel="prediction", ylabel="truth", title=name if len(matrices) > 1 else "")
    return _full_width(figure)


def roc_curves(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """True against false positive rate of every class; on the right, only the first per cent.

    `labels`: class -> text for the legend, such as its AUC with the interval.
    """
    figure, (left, right) = _plots(2, height=3.8)
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        fpr, tpr, _ = curve.roc()
        if not np.isfinite(fpr).all() or not np.isfinite(tpr).all():
            continue  # one label only: there is no curve
        n_first = np.searchsorted(fpr, 0.01) + 1  # up to the first point beyond 1 %
        for axis, x, y in ((left, fpr, tpr), (right, fpr[:n_first], tpr[:n_first])):
            points = thin(x, y)
            axis.plot(x[points], y[points], color=colour, label=f"{name}: {labels.get(name, '')}")
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    left.set(xlabel="false positive rate", ylabel="true positive rate", ylim=(0, 1.01))
    right.set(xlabel="false positive rate, up to 1 %", xlim=(0, 0.01), ylim=(0, 1.01))
    _legend(left)
    return _finished(figure)


def pr_curves(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """Precision against recall of every class.

    The dotted line is the precision of random scores, the class's share of the pixels. `labels` as
    in `roc_curves`.
    """
    figure, (axis,) = _plots(1, height=3.8)
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        if not curve.counts[:, 1].any():
            continue  # no positive pixel: there is no recall
        precision, recall, _ = curve.precision_recall()
        points = thin(recall, precision)
        label = f"{name}: {labels.get(name, '')}"
        axis.plot(recall[points], precision[points], color=colour, label=label)
        share = curve.counts[:, 1].sum() / curve.counts.sum()
        axis.axhline(share, color=colour, linestyle=":", linewidth=1)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    _legend(axis)
    return _finished(figure)


def calibration(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """Observed frequency against predicted probability in 15 bins; on the right, their pixels.

    `labels` as in `roc_curves`.
    """
    figure, (left, right) = _plots(2, height=3.8)
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        table = curve.reliability()
        label = f"{name}: {labels.get(name, '')}"
        left.plot(table["predicted"], table["observed"], "o-", color=colour, ms=3, label=label)
        right.stairs(table["n"], [*table["low"], 1], color=colour)
    left.set(xlabel="predicted probability", ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="predicted probability", ylabel="pixels", yscale="symlog")
    _legend(left)
    return _finished(figure)


def _plots(n: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with `n` plots beside each other, and their axes."""
    size = (hosts.FIGURE_WIDTH, height)
    figure, axes = plt.subplots(1, n, figsize=size, squeeze=False, dpi=hosts.FIGURE_DPI)
    return figure, axes[0]


def _finished(figure: Figure) -> Figure:
    """The figure in a tight layout, without the upper and right line around each plot."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _full_width(figure)


def _legend(axis) -> None:
    """Add a legend, unless nothing was drawn."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def predictions(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    side: float | None = None,
    classes: Sequence[str] = (),
) -> Figure:
    """A row for each case: input, truth, prediction and errors, with a legend.

    The errors lie on the image in dark grey: false negatives in white, false positives in red.

    Args:
        rows: (title, image (H, W, C) uint8, truth, prediction), masks as `overlay` takes them.
        side: inches of a picture; by default they fill the width of the figure.
        classes: class names for the legend, as in `class_legend`.
    """
    side = side or hosts.FIGURE_WIDTH / 4
    height = side * max((row[1].shape[0] / row[1].shape[1] for row in rows), default=1)
    figure, axes = _panels(len(rows), 4, side, height)
    for row, (title, image, truth, pred) in zip(axes, rows):
        panels = {
            "input": as_rgb(image),
            "truth": outline(image, truth),
            "prediction": outline(image, pred),
            "errors": _errors(image, truth, pred),
        }
        for axis, (name, picture) in zip(row, panels.items()):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            if axis.get_subplotspec().is_first_row():
                axis.set_title(name, fontsize=TITLE)
        row[0].set_ylabel(_broken(title, height), fontsize=TITLE)
    return class_legend(figure, classes, {"missed": MISSED, "too much": EXTRA})


def _errors(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """The image in dark grey with its missed and extra pixels; ignored pixels are never wrong."""
    wrong = (truth != pred) & (truth != IGNORE)
    missed, extra = wrong & (truth > 0), wrong & (pred > 0)
    if truth.ndim == 3:
        missed, extra = missed.any(axis=0), extra.any(axis=0)
    grey = DIMMED * as_rgb(image).mean(axis=2, keepdims=True)
    picture = np.repeat(np.rint(grey), 3, axis=2).astype(np.uint8)
    picture[missed] = rgb(MISSED)
    picture[extra] = rgb(EXTRA)
    return picture


def bland_altman(true: pd.Series, predicted: pd.Series, unit: str) -> Figure:
    """Predicted against true measurement; on the right, their difference over their mean.

    The lines on the right are the bias and the 95 % limits of agreement (Bland and Altman), as in
    `measurements.bland_altman`. Pairs with a NaN are left out.
    """
    pairs = pd.concat([true, predicted], axis=1).dropna().to_numpy(float)
    figure, (left, right) = _plots(2, height=3.6)
    left.scatter(pairs[:, 0], pairs[:, 1], s=18, color=VERMILION)
    ends = [pairs.min(), pairs.max()] if len(pairs) else [0, 1]
    left.plot(ends, ends, color="0.6", linewidth=1)
    left.set(xlabel=f"true, {unit}", ylabel=f"predicted, {unit}", title=f"n={len(pairs)}")
    error = pairs[:, 1] - pairs[:, 0]
    right.scatter(pairs.mean(axis=1), error, s=18, color=VERMILION)
    if len(pairs) > 1:
        agreement = measurements.bland_altman(true, predicted)
        right.axhline(agreement["bias"], color="0.6", linewidth=1)
        limits = (agreement["low"], agreement["high"])
        for limit in filter(math.isfinite, limits):  # few pairs have none
            right.axhline(limit, color="0.6", linestyle="--", linewidth=1)
    right.set(xlabel=f"mean of both, {unit}", ylabel=f"predicted - true, {unit}")
    return _finished(figure)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and close it."""
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=hosts.FIGURE_DPI, bbox_inches="tight", format="png")
    plt.close(figure)
    return Path(path)
