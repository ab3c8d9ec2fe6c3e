"""Every figure of the series, in one look: a class has the same colour everywhere. See `04_lung_segmentation`."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import files
from .curves import HistogramROC, thin
from .formats.images import IGNORE

# Okabe and Ito's palette, told apart by colour-blind readers; on grey images the first is the easiest to see
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442")
TRUTH, PREDICTION = "#009E73", "#D55E00"
PART_COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}


def rgb(colour: str) -> np.ndarray:
    """ "#E69F00" -> (3,) uint8."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.4) -> np.ndarray:
    """The image with its mask in the class colours, (H, W, 3) uint8.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8.
        mask: (H, W) of 0 and class numbers, or (K, H, W) of 0/1; 255 is shown as it is.
    """
    picture = np.repeat(
        image.reshape(*image.shape[:2], -1),
        3 if image.ndim == 2 or image.shape[2] == 1 else 1,
        axis=2,
    )
    planes = (
        [mask == number for number in range(1, int(mask[mask != IGNORE].max(initial=0)) + 1)]
        if mask.ndim == 2
        else mask == 1
    )
    result = picture.astype(np.float32)
    for number, plane in enumerate(planes):
        colour = rgb(COLOURS[number % len(COLOURS)]).astype(np.float32)
        result[plane] = (1 - opacity) * result[plane] + opacity * colour
    return np.rint(result).astype(np.uint8)


def grid(
    pictures: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 4, side: float = 2.4
) -> Figure:
    """Pictures (H, W), (H, W, 1) or (H, W, 3) uint8 side by side, `side` inches each."""
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns, (side + 0.25) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, pictures, [*titles, *[""] * len(pictures)]):
        axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


def store_samples(store, part: str = "train", n: int = 8) -> Figure:
    """The first images of one part of a store with their masks."""
    pictures, masks = store.open()
    cases = store.cases[store.cases["split"] == part].head(n)
    shown = [overlay(pictures[row], flat(masks[row])) for row in cases["row"]]
    return grid(shown, list(cases["case"]))


def batch_samples(batch: dict, mean: Sequence[float], std: Sequence[float], n: int = 4) -> Figure:
    """What the network is given: images of a batch, normalisation undone, with their masks; ignored pixels dark red."""
    shown = []
    for image, mask in zip(batch["image"][:n].numpy(), batch["mask"][:n].numpy()):
        pixels = np.clip(image.transpose(1, 2, 0) * np.array(std) + np.array(mean), 0, 1)
        planes = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
        picture = overlay(np.rint(pixels * 255).astype(np.uint8), planes)
        picture[np.atleast_3d(mask.T).min(axis=2).T == IGNORE] = (120, 0, 0)
        shown.append(picture)
    return grid(shown)


def flat(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W, K) of a store as `overlay` takes it: (H, W) where K is 1, else (K, H, W)."""
    return mask[..., 0] if mask.shape[-1] == 1 else mask.transpose(2, 0, 1)


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss of training and validation, validation Dice and accuracy, by epoch; the dashed line is the epoch kept."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for column, part in (("train_loss", "train"), ("val_loss", "val")):
        left.plot(history["epoch"], history[column], color=PART_COLOURS[part], label=part)
    left.set(xlabel="epoch", ylabel="loss")
    for column, label, style in (
        ("val_dice", "Dice", "-"),
        ("val_accuracy", "pixel accuracy", ":"),
    ):
        right.plot(history["epoch"], history[column], style, color=PART_COLOURS["val"], label=label)
    right.set(xlabel="epoch", ylabel="validation score", ylim=(None, 1))
    kept = history.loc[history["best"].astype(bool), "epoch"]
    for axis in (left, right):
        if len(kept):
            axis.axvline(
                kept.iloc[-1],
                color="0.6",
                linestyle="--",
                linewidth=1,
                label=f"best: epoch {kept.iloc[-1]:.0f}",
            )
        axis.legend(frameon=False, fontsize=8)
    return _finished(figure)


class LiveCurves:
    """The training curves, redrawn in place while a notebook trains; does nothing elsewhere."""

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
        """Leave one line in place of the figure; the notebook draws the final curves itself."""
        if self.handle is not None:
            from IPython.display import Markdown

            self.handle.update(Markdown("_Training finished._"))


def scores_by_image(per_image: pd.DataFrame, metric: str = "dice") -> Figure:
    """One point an image and a box a class, with n."""
    import seaborn as sns  # heavy: a second that training and prediction need not wait

    values = per_image[per_image["annotated"]]
    names = list(dict.fromkeys(values["class"]))
    figure, axis = plt.subplots(figsize=(6.5, 0.9 + 0.8 * len(names)))
    look = {"data": values, "x": metric, "y": "class", "order": names, "ax": axis}
    sns.boxplot(**look, color="0.92", showfliers=False, width=0.5)
    sns.stripplot(
        **look,
        hue="class",
        hue_order=names,
        palette=list(COLOURS[: len(names)]),
        size=4,
        legend=False,
    )
    counts = values.groupby("class")[metric].count()
    axis.set_yticks(range(len(names)), [f"{name} (n={counts[name]})" for name in names])
    axis.set(xlabel=f"{metric} of an image", ylabel="")
    return _finished(figure)


def metrics_summary(summary: pd.DataFrame) -> Figure:
    """Mean over the classes and every class: overlap scores by image (or volume) with their 95 % intervals."""
    average = "per volume" if (summary["average"] == "per volume").any() else "per image"
    names = ["dice", "iou", "precision", "recall", "specificity", "accuracy"]
    table = summary[(summary["average"] == average) & summary["metric"].isin(names)]
    classes = list(dict.fromkeys(table["class"]))
    classes = classes[:1] if len(classes) == 2 else classes  # the mean of one class is that class
    figure, axis = plt.subplots(figsize=(7, 1 + 0.13 * len(names) * (len(classes) + 1)))
    for number, name in enumerate(classes):
        rows = table[table["class"] == name].set_index("metric").reindex(names)
        place = np.arange(len(names)) + 0.8 * ((number + 0.5) / len(classes) - 0.5)
        colour = "0.3" if name == "mean" else COLOURS[number % len(COLOURS)]
        axis.hlines(place, rows["low"], rows["high"], color=colour, linewidth=1.5)
        axis.plot(
            rows["value"],
            place,
            "o",
            color=colour,
            markersize=4,
            label=f"{name} (n={rows['n'].max():.0f})",
        )
    axis.set(
        yticks=range(len(names)),
        yticklabels=names,
        xlabel=f"{average}, 95 % interval",
        xlim=(None, 1.005),
    )
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _finished(figure)


def confusion(tables: dict[str, pd.DataFrame]) -> Figure:
    """Pixels by truth (rows) and prediction (columns): colour and first number are the share of the row."""
    import seaborn as sns

    size = max(len(table) for table in tables.values())
    side = 1.4 + 0.9 * size
    figure, axes = plt.subplots(
        1, len(tables), figsize=(side * len(tables) + 0.6, side), squeeze=False
    )
    for axis, (name, table) in zip(axes[0], tables.items()):
        counts = table.to_numpy(float)
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        words = np.array([f"{s:.1%}\n{n:,.0f}" for s, n in zip(share.flat, counts.flat)]).reshape(
            counts.shape
        )
        look = {"vmin": 0, "vmax": 1, "cmap": "Blues", "cbar": False, "annot_kws": {"fontsize": 8}}
        sns.heatmap(share, annot=words, fmt="", ax=axis, square=True, **look)
        labels = [str(label).replace("_", "\n") for label in table.columns]
        axis.set_xticklabels(labels, rotation=0, fontsize=8)
        axis.set_yticklabels(labels, rotation=0, fontsize=8)
        axis.set(xlabel="prediction", ylabel="truth", title=name if len(tables) > 1 else "")
    figure.tight_layout()
    return figure


def roc_curves(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """True against false positive rate of every class; the second axis shows the first per cent of the first one.

    `labels` holds what the legend says of each class, beside its name.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        fpr, tpr, _ = curve.roc()
        if not np.isfinite(fpr).all() or not np.isfinite(tpr).all():
            continue  # one label only: there is no curve
        first = slice(0, np.searchsorted(fpr, 0.01) + 1)  # up to the first point beyond 1 %
        for axis, x, y in ((left, fpr, tpr), (right, fpr[first], tpr[first])):
            kept = thin(x, y)
            axis.plot(x[kept], y[kept], color=colour, label=f"{name}: {labels.get(name, '')}")
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    left.set(xlabel="false positive rate", ylabel="true positive rate", ylim=(0, 1.01))
    right.set(xlabel="false positive rate, up to 1 %", xlim=(0, 0.01), ylim=(0, 1.01))
    _legend(left)
    return _finished(figure)


def pr_curves(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """Precision against recall of every class; the dotted line is the class's share of pixels, which chance reaches."""
    figure, axis = plt.subplots(figsize=(5.5, 3.8))
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        if not curve.counts[:, 1].any():
            continue  # nothing to find: there is no recall
        precision, recall, _ = curve.precision_recall()
        kept = thin(recall, precision)
        axis.plot(
            recall[kept], precision[kept], color=colour, label=f"{name}: {labels.get(name, '')}"
        )
        axis.axhline(
            curve.counts[:, 1].sum() / curve.counts.sum(), color=colour, linestyle=":", linewidth=1
        )
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    _legend(axis)
    return _finished(figure)


def calibration(curves: dict[str, HistogramROC], labels: dict[str, str]) -> Figure:
    """Share of true pixels against mean score, in fifteen bins; right, how many pixels each bin holds (log scale)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for colour, (name, curve) in zip(COLOURS * len(curves), curves.items()):
        table = curve.reliability()
        left.plot(
            table["predicted"],
            table["observed"],
            "o-",
            color=colour,
            markersize=3,
            label=f"{name}: {labels.get(name, '')}",
        )
        right.stairs(table["n"], [*table["low"], 1], color=colour)
    left.set(xlabel="probability said", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="probability said", ylabel="pixels", yscale="symlog")
    _legend(left)
    return _finished(figure)


def _finished(figure: Figure) -> Figure:
    """The figure without the upper and right lines of its frames, closely packed."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def _legend(axis) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def predictions(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], side: float = 2.3
) -> Figure:
    """One row a case: input, truth, prediction, and where they differ (missed in blue, too much in vermilion).

    Args:
        rows: (title, image (H, W, C) uint8, truth, prediction), masks as `overlay` takes them.
    """
    columns = ("input", "truth", "prediction", "missed / too much")
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(side * 4, (side + 0.1) * len(rows)), squeeze=False
    )
    for line, (title, image, truth, pred) in zip(axes, rows):
        picture = overlay(image, np.zeros(image.shape[:2], np.uint8))
        difference = picture.copy()
        known = truth != IGNORE
        missed, extra = (truth > 0) & (truth != pred) & known, (pred > 0) & (truth != pred) & known
        if truth.ndim == 3:
            missed, extra = missed.any(axis=0), extra.any(axis=0)
        difference[missed], difference[extra] = rgb("#0072B2"), rgb(PREDICTION)
        for axis, shown, name in zip(
            line, (picture, overlay(image, truth), overlay(image, pred), difference), columns
        ):
            axis.imshow(shown)
            axis.set(xticks=[], yticks=[])
            if axis.get_subplotspec().is_first_row():
                axis.set_title(name, fontsize=9)
        line[0].set_ylabel(title, fontsize=8)
    figure.tight_layout()
    return figure


def bland_altman(true: pd.Series, predicted: pd.Series, unit: str) -> Figure:
    """Measured on the prediction against measured on the truth: each pair, and their difference over their mean with
    bias and 95 % limits of agreement (Bland and Altman). Pairs with a NaN are left out."""
    pairs = pd.concat([true, predicted], axis=1).dropna().to_numpy(float)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    left.scatter(*pairs.T, s=18, color=PREDICTION)
    ends = [pairs.min(), pairs.max()] if len(pairs) else [0, 1]
    left.plot(ends, ends, color="0.6", linewidth=1)
    left.set(xlabel=f"true, {unit}", ylabel=f"predicted, {unit}", title=f"n={len(pairs)}")
    error = pairs[:, 1] - pairs[:, 0]
    right.scatter(pairs.mean(axis=1), error, s=18, color=PREDICTION)
    if len(pairs) > 1:
        for value, style in zip(
            error.mean() + 1.96 * error.std(ddof=1) * np.array([0, -1, 1]), ("-", "--", "--")
        ):
            right.axhline(value, color="0.6", linestyle=style, linewidth=1)
    right.set(xlabel=f"mean of both, {unit}", ylabel=f"predicted - true, {unit}")
    return _finished(figure)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and close it."""
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)
    return Path(path)
