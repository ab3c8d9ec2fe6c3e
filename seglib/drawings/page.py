"""The white page of a drawing and the marks on it. All coordinates are inches."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

WIDTH = 10.0  # inches of every drawing: 1000 pixels
DPI = 100
INK, GREY, PALE = "#222222", "#6b6b6b", "#eeeeee"


def blank(height: float) -> tuple[Figure, Axes]:
    """A white figure of the common width whose coordinates are inches from its lower left."""
    figure = plt.figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="none")
    axis = figure.add_axes((0, 0, 1, 1), facecolor="white")
    axis.set(xlim=(0, WIDTH), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def box(axis: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A feature map or a card, centred at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=INK, lw=0.8))


def arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = INK,
    style: str = "-",
) -> None:
    """An arrow between two places; `style` as matplotlib has line styles."""
    patch = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=11,
        color=colour,
        lw=1.4,
        linestyle=style,
        shrinkA=2,
        shrinkB=2,
    )
    axis.add_patch(patch)


def text(axis: Axes, x: float, y: float, text: str, size: float = 9.5, **options: Any) -> None:
    """Text that is centred at (x, y) unless `options` of matplotlib say otherwise."""
    options = {"ha": "center", "va": "center", "color": INK, **options}
    axis.text(x, y, text, fontsize=size, **options)


def times(numbers: Sequence[int]) -> str:
    """(64, 256, 256) -> "64 × 256 × 256"."""
    return " × ".join(map(str, numbers))
