"""Drawings of U-shaped networks: where each feature map and arrow of a plan stands on the page."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from .. import models
from ..plots import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION
from . import page, plans
from .passages import record
from .plans import Level, Plan

ENCODER, DECODER, DOWN, UP = SKY_BLUE, ORANGE, VERMILION, BLUE
ROW, TOP = 0.92, 0.65  # height of a level, and of the title


def unet(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> Figure:
    """The package's own U-Net, also with an ASPP block at its bottom: channels, sizes and skip
    connections as an image of this size meets them.

    Args:
        model: a `models.UNet` or `models.ASPPNet` with any settings.
        size: of the image, one side or (height, width).

    Raises:
        ValueError: another network, or one that cannot take an image of this size.
    """
    if not isinstance(model, models.UNet):
        raise ValueError(
            f"model: {type(model).__name__} is not a U-Net of seglib.models; expected UNet or "
            "ASPPNet, or draw a network of smp with drawings.mobilenet_unet"
        )
    return _draw_u(plans.of_own_network(record(model, size)))


def mobilenet_unet(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> Figure:
    """A U-Net on an encoder of smp, such as MobileNetV3: what the encoder hands to the decoder.

    Args:
        model: what `encoders.smp_unet` returns.
        size: of the image, one side or (height, width).

    Raises:
        ValueError: another network, or one that cannot take an image of this size.
    """
    if not (hasattr(model, "encoder") and hasattr(getattr(model, "decoder", None), "blocks")):
        raise ValueError(
            f"model: {type(model).__name__} has no encoder and decoder of smp; expected what "
            "encoders.smp_unet returns, or draw an own U-Net with drawings.unet"
        )
    return _draw_u(plans.of_smp_network(record(model, size)))


class _Places(NamedTuple):
    """Where the parts of a U stand: for each level its height on the page, its encoder, what is
    concatenated, and its decoder; and the height of a feature map.
    """

    rows: list[float]
    encoders: list[float]
    joined: list[float]
    decoders: list[float]
    heights: list[float]

    def below(self, x: float, level: int) -> tuple[float, float]:
        """Where an arrow leaves the lower edge of a feature map."""
        return x, self.rows[level] - self.heights[level] / 2

    def above(self, x: float, level: int) -> tuple[float, float]:
        """Where an arrow ends above the number over a feature map."""
        return x, self.rows[level] + self.heights[level] / 2 + 0.22


def _places(levels: list[Level], top: float) -> _Places:
    n = len(levels)
    margin, apart = 1.45, 1.25
    spread = min(0.62, (page.WIDTH / 2 - 2.95) / max(n - 2, 1))
    rows = [top - ROW * (level + 1.5) for level in range(n)]
    encoders = [margin + spread * level for level in range(n)]
    decoders = [page.WIDTH - x for x in encoders]
    joined = [x - apart for x in decoders]
    encoders[-1] = (encoders[n - 2] + joined[n - 2]) / 2
    finest = np.log2(max(2, *levels[0].size))
    heights = [0.2 + 0.34 * float(np.log2(max(level.size)) / finest) for level in levels]
    return _Places(rows, encoders, joined, decoders, heights)


def _draw_u(plan: Plan) -> Figure:
    """The figure of a U-shaped network."""
    legend_height = 0.27 * ((len(plan.legend) + 1) // 2) + 0.15
    height = TOP + ROW * (len(plan.levels) + 1) + legend_height
    figure, axis = page.blank(height)
    page.text(axis, page.WIDTH / 2, height - 0.38, plan.title, 12, weight="bold", linespacing=1.5)
    places = _places(plan.levels, height - TOP)
    _draw_ends(axis, plan, places)
    for number in range(len(plan.levels) - 1):
        _draw_level(axis, plan, places, number)
    _draw_bottom(axis, plan, places)
    _legend(axis, plan.legend, legend_height - 0.1)
    return figure


def _width(channels: int) -> float:
    """The width of a feature map on the page; 0 for no channels."""
    return 0.10 + 0.045 * float(np.log2(channels)) if channels else 0.0


def _draw_map(axis: Axes, x: float, y: float, height: float, channels: int, colour: str) -> float:
    """A feature map with its channels above it; returns its width."""
    width = _width(channels)
    page.box(axis, x, y, width, height, colour)
    page.text(axis, x, y + height / 2 + 0.11, str(channels), 10)
    return width


def _draw_ends(axis: Axes, plan: Plan, places: _Places) -> None:
    """The image and the logits, above the finest level."""
    left, right, y = places.encoders[0], places.decoders[0], places.rows[0] + ROW
    height = places.heights[0]
    page.box(axis, left, y, 0.14, height, page.PALE)
    page.text(axis, left + 0.16, y, f"image\n{page.times(plan.image)}", ha="left", weight="bold")
    page.box(axis, right, y, 0.14, height, GREEN)
    page.text(
        axis, right - 0.16, y, f"logits\n{page.times(plan.logits)}", ha="right", weight="bold"
    )
    start = (left, y - height / 2)
    first = 0 if plan.levels[0].encoder else 1
    page.arrow(
        axis, start, places.above(places.encoders[first], first), DOWN if first else page.INK
    )
    page.arrow(axis, places.above(right, 0), (right, y - height / 2), page.INK)
    page.text(axis, left + 0.24, y - 0.44, plan.entry, 8.5, ha="left")
    page.text(axis, right + 0.18, y - 0.3, plan.exit, 8.5, ha="left")


def _draw_level(axis: Axes, plan: Plan, places: _Places, number: int) -> None:
    """Encoder, skip connection, concatenation and decoder of one level, and the arrow down."""
    level, y, height = plan.levels[number], places.rows[number], places.heights[number]
    encoder, decoder, sides = (
        places.encoders[number],
        places.decoders[number],
        page.times(level.size),
    )
    # What is concatenated: skip features on the left, enlarged deep features on the right.
    widths = [_width(level.skip), _width(level.deep)]
    start = places.joined[number] - sum(widths) / 2
    for width, offset, colour in zip(widths, (0.0, widths[0]), (ENCODER, DECODER)):
        if width:
            page.box(axis, start + offset + width / 2, y, width, height, colour)
    both = f"{level.skip} + {level.deep}" if level.skip else str(level.deep)
    page.text(axis, places.joined[number], y + height / 2 + 0.11, both, 10)
    if level.encoder:
        width = _draw_map(axis, encoder, y, height, level.encoder, ENCODER)
        page.text(axis, encoder - width / 2 - 0.08, y, sides, 9, ha="right")
        end = places.below(encoder, number)
        page.arrow(axis, end, places.above(places.encoders[number + 1], number + 1), DOWN)
        if level.skip:
            page.arrow(axis, (encoder + width / 2, y), (start, y), page.GREY, (0, (4, 2)))
        if plan.gated:
            page.text(
                axis, start - 0.35, y, "gate", 8, bbox={"fc": "white", "ec": page.GREY, "pad": 2}
            )
    width = _draw_map(axis, decoder, y, height, level.decoder, DECODER)
    page.arrow(axis, (start + sum(widths), y), (decoder - width / 2, y))
    page.text(axis, decoder + width / 2 + 0.08, y, sides, 9, ha="left")
    if number:  # up to the deep part of the concatenation above
        page.arrow(axis, (decoder, y + height / 2 + 0.2), _up_target(plan, places, number - 1), UP)
    if level.coarse:
        x = decoder + width / 2 + 1.15
        _draw_map(axis, x, y, height, level.coarse, GREEN)
        page.arrow(axis, (x - 0.36, y), (x - 0.09, y))


def _up_target(plan: Plan, places: _Places, number: int) -> tuple[float, float]:
    """The lower edge of the enlarged deep features of a level."""
    level = plan.levels[number]
    return places.below(places.joined[number] + _width(level.skip) / 2, number)


def _draw_bottom(axis: Axes, plan: Plan, places: _Places) -> None:
    """The deepest features, the block after them if there is one, and the first arrow up."""
    level, x, y, height = plan.levels[-1], places.encoders[-1], places.rows[-1], places.heights[-1]
    width = _draw_map(axis, x, y, height, level.encoder, ENCODER)
    page.text(axis, x - width / 2 - 0.08, y, page.times(level.size), 9, ha="right")
    if plan.bottom is not None:
        name, channels = plan.bottom
        after = _draw_map(axis, x + 1.2, y, height, channels, PURPLE)
        page.text(axis, x + 1.2 + after / 2 + 0.08, y, name, 9.5, ha="left", weight="bold")
        page.arrow(axis, (x + width / 2, y), (x + 1.2 - after / 2, y))
        x = x + 1.2
    target = _up_target(plan, places, len(plan.levels) - 2)
    page.arrow(axis, (x + 0.1, y + height / 2 + 0.2), target, UP)


def _legend(axis: Axes, marks: list[tuple[str, str]], top: float) -> None:
    """Marks and their meanings in two columns, from `top` downwards."""
    colours = {"encoder": ENCODER, "decoder": DECODER, "logits": GREEN, "coarse": GREEN}
    colours |= {"bottom": PURPLE, "down": DOWN, "up": UP, "skip": page.GREY}
    for number, (kind, meaning) in enumerate(marks):
        x, y = 0.3 + 5.1 * (number % 2), top - 0.27 * (number // 2) - 0.1
        if kind in ("down", "up", "skip"):
            style = (0, (4, 2)) if kind == "skip" else "-"
            page.arrow(axis, (x - 0.12, y), (x + 0.22, y), colours[kind], style)
        else:
            page.box(axis, x + 0.05, y, 0.2, 0.16, colours[kind])
        page.text(axis, x + 0.3, y, meaning, 8.5, ha="left")
