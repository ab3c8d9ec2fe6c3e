"""Every figure of the series, in one style: a class has the same colour everywhere.

Used in all notebooks; the figures of an evaluation are explained in `07_evaluation`.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import config, files, measurements, tables
from .curves import HistogramROC, thin
from .formats import stacks
from .tables import IGNORE

# The palette of Okabe and Ito, which colour-blind readers can tell apart. Its first colour is the
# easiest to see on grey images.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442")
ORANGE, SKY_BLUE, GREEN, PURPLE, BLUE, VERMILION, YELLOW = COLOURS
PART_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
MISSED, EXTRA = BLUE, VERMILION
IGNORED = (120, 0, 0)  # dark red


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
    if mask.ndim == 2:
        n_classes = int(mask[mask != IGNORE].max(initial=0))
        planes = [mask == number for number in range(1, n_classes + 1)]
    else:
        planes = mask == 1
    for number, plane in enumerate(planes):
        colour = rgb(COLOURS[number % len(COLOURS)]).astype(np.float32)
        result[plane] = (1 - opacity) * result[plane] + opacity * colour
    return np.rint(result).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W, 3): the first three channels, or the first one as grey."""
    planes = image.reshape(*image.shape[:2], -1)
    return planes[..., :3] if planes.shape[2] >= 3 else np.repeat(planes[..., :1], 3, axis=2)


def grid(
    pictures: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 4, side: float = 2.4
) -> Figure:
    """Pictures (H, W) or (H, W, C) uint8 side by side, `side` inches each; see `as_rgb`."""
    rows = math.ceil(len(pictures) / columns)
    columns = min(columns, len(pictures))
    size = (side * columns, (side + 0.25) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    padded_titles = itertools.chain(titles, itertools.repeat(""))
    for axis, picture, title in zip(axes.flat, pictures, padded_titles):
        axis.imshow(as_rgb(picture), vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


def store_samples(store, part: str = "train", n: int = 8) -> Figure:
    """The first images of one part of a store with their masks."""
    pictures, masks = store.open()
    cases = store.cases[store.cases["split"] == part].head(n)
    cfg = config.from_dict(store.info["config"]) if "config" in store.info else None
    overlays = [
        overlay(stacks.shown(pictures[row], cfg) if cfg else pictures[row], flat(masks[row]))
        for row in cases["row"]
    ]
    return grid(overlays, list(cases["case"]))


def batch_samples(batch: dict, mean: Sequence[float], std: Sequence[float], n: int = 4) -> Figure:
    """The network's input: images of a batch with their masks, after the normalisation is undone.

    Pixels that are ignored in every class are dark red.
    """
    pictures = []
    for image, mask in zip(batch["image"][:n].numpy(), batch["mask"][:n].numpy()):
        tiles = len(image) // len(mean), len(image) // len(std)  # a mean for each slice, or one
        pixels = image.transpose(1, 2, 0) * np.tile(std, tiles[1]) + np.tile(mean, tiles[0])
        pixels = np.clip(pixels, 0, 1)
        pixels = np.rint(pixels * 255).astype(np.uint8)
        if mask.ndim == 2:
            mask = mask[None]
        pictures.append(_overlay_and_ignored(pixels, mask[0] if len(mask) == 1 else mask))
    return grid(pictures)


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
        pictures += [_overlay_and_ignored(*pair) for pair in pairs]
        titles += ["as it is", name, *[""] * (n - 1)]
    return grid(pictures, titles, columns=n + 1, side=1.8)


def _overlay_and_ignored(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`overlay`, with pixels that are ignored in every class in dark red."""
    picture = overlay(image, mask)
    planes = mask.reshape(-1, *mask.shape[-2:])
    picture[(planes == IGNORE).all(axis=0)] = IGNORED
    return picture


def flat(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W, K) of a store as `overlay` takes it: (H, W) where K is 1, else (K, H, W)."""
    return mask[..., 0] if mask.shape[-1] == 1 else mask.transpose(2, 0, 1)


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss of training and validation, validation Dice and accuracy by epoch.

    The dashed line marks the epoch with the best weights.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
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
    figure, axis = plt.subplots(figsize=(6.5, 0.9 + 0.8 * len(names)))
    common = {"data": values, "x": metric, "y": "class", "order": names, "ax": axis}
    sns.boxplot(**common, color="0.92", showfliers=False, width=0.5)
    colours = {"hue": "class", "hue_order": names, "palette": list(COLOURS[: len(names)])}
    with _same_numbers_each_time():  # points are scattered at random, so that all can be seen
        sns.stripplot(**common, **colours, size=4, legend=False)
    counts = values.groupby("class")[metric].count()
    axis.set_yticks(range(len(names)), [f"{name} (n={counts[name]})" for name in names])
    unit = measurements.unit_of(values) if measurements.is_distance(metric) else ""
    axis.set(xlabel=f"{metric} of an image{', ' if unit else ''}{unit}", ylabel="")
    return _finished(figure)


def metrics_summary(summary: pd.DataFrame) -> Figure:
    """Every metric of counts by image (or volume), of each class and their mean, with intervals."""
    average = "per volume" if (summary["average"] == "per volume").any() else "per image"
    names = _count_metrics()
    table = summary[(summary["average"] == average) & summary["metric"].isin(names)]
    classes = list(dict.fromkeys(table["class"]))
    classes = classes[:1] if len(classes) == 2 else classes  # the mean of one class is that class
    figure, axis = plt.subplots(figsize=(7, 1 + 0.13 * len(names) * (len(classes) + 1)))
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
    size = (side * len(matrices) + 0.6, side)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, squeeze=False)
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
    figure.tight_layout()
    return figure


def roc_curves(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """True against false positive rate of every class; on the right, only the first per cent.

    `labels`: class -> text for the legend, such as its AUC with the interval.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
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
    figure, axis = plt.subplots(figsize=(5.5, 3.8))
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
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


def _finished(figure: Figure) -> Figure:
    """The figure in a tight layout, without the upper and right line around each plot."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def _legend(axis) -> None:
    """Add a legend, unless nothing was drawn."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def predictions(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], side: float = 2.3
) -> Figure:
    """A row for each case: input, truth, prediction and their difference.

    The difference shows false negatives in blue and false positives in vermilion.

    Args:
        rows: (title, image (H, W, C) uint8, truth, prediction), masks as `overlay` takes them.
    """
    size = (side * 4, (side + 0.1) * len(rows))
    figure, axes = plt.subplots(len(rows), 4, figsize=size, squeeze=False)
    for row, (title, image, truth, pred) in zip(axes, rows):
        panels = {
            "input": as_rgb(image),
            "truth": overlay(image, truth),
            "prediction": overlay(image, pred),
            "missed / too much": _difference(image, truth, pred),
        }
        for axis, (name, picture) in zip(row, panels.items()):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            if axis.get_subplotspec().is_first_row():
                axis.set_title(name, fontsize=9)
        row[0].set_ylabel(title, fontsize=8)
    figure.tight_layout()
    return figure


def _difference(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """The image with its missed and extra pixels coloured; ignored pixels are never wrong."""
    wrong = (truth != pred) & (truth != IGNORE)
    missed, extra = wrong & (truth > 0), wrong & (pred > 0)
    if truth.ndim == 3:
        missed, extra = missed.any(axis=0), extra.any(axis=0)
    picture = as_rgb(image).copy()
    picture[missed] = rgb(MISSED)
    picture[extra] = rgb(EXTRA)
    return picture


def bland_altman(true: pd.Series, predicted: pd.Series, unit: str) -> Figure:
    """Predicted against true measurement; on the right, their difference over their mean.

    The lines on the right are the bias and the 95 % limits of agreement (Bland and Altman), as in
    `measurements.bland_altman`. Pairs with a NaN are left out.
    """
    pairs = pd.concat([true, predicted], axis=1).dropna().to_numpy(float)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
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
        figure.savefig(partial, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)
    return Path(path)
