"""What each branch of an ASPP block sees of a feature map and of the image."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from .. import models
from ..plots import PURPLE, VERMILION
from . import page
from .passages import first_conv, kernel, record


class Branch(NamedTuple):
    """One branch of an ASPP block.

    Attributes:
        name: kernel and rate.
        rate: distance between the taps of the kernel in cells of the feature map; 0 for the mean.
        side: taps of the kernel along one side; 0 for the mean of the whole map.
        cells: side of the square that the kernel spans, in cells of the feature map.
        pixels: side of its receptive field in pixels of the image; 0 for the mean.
        inside: mean number of taps inside the map over all positions; outside there are zeros.
        channels: that it returns.
        parameters: number of its trainable values.
    """

    name: str
    rate: int
    side: int
    cells: int
    pixels: int
    inside: float
    channels: int
    parameters: int


def branches(model: models.ASPPNet, size: int | tuple[int, int] = (256, 256)) -> list[Branch]:
    """What each branch of the ASPP block of a network sees, for an image of this size.

    Raises:
        ValueError: a network without `models.ASPP`, or one that cannot take such an image.
    """
    if not isinstance(getattr(model, "aspp", None), models.ASPP):
        raise ValueError(f"model: {type(model).__name__} has no ASPP block; expected an ASPPNet")
    recorded = record(model, size)
    sides = recorded.inputs("aspp")[0][1:]
    field, stride = receptive_field_of_encoder(model)
    result = []
    for number, branch in enumerate(model.aspp.local):
        layer = first_conv(branch)
        side, rate = layer.kernel_size[0], layer.dilation[0]
        cells = rate * (side - 1) + 1
        name = f"{kernel(layer)}, rate {rate}" if side > 1 else kernel(layer)
        inside = float(np.prod([_taps_inside(side, rate, n) for n in sides]))
        channels = recorded.output(f"aspp.local.{number}")[0]
        pixels = field + (cells - 1) * stride
        n_values = models.n_parameters(branch)
        result.append(Branch(name, rate, side, cells, pixels, inside, channels, n_values))
    channels = recorded.output("aspp.pooled")[0]
    n_values = models.n_parameters(model.aspp.pooled)
    return [*result, Branch("mean of the map", 0, 0, 0, 0, 0.0, channels, n_values)]


def _taps_inside(side: int, rate: int, n: int) -> float:
    """Along one axis of n cells: how many taps of a kernel lie inside, on average."""
    offsets = rate * (np.arange(side) - side // 2)
    return float(np.clip(n - np.abs(offsets), 0, None).sum() / n)


def receptive_field_of_encoder(model: models.UNet) -> tuple[int, int]:
    """(side, stride) in pixels: what one value of the deepest features sees, and the distance
    between neighbouring values, from the kernels, dilations and strides of the layers.
    """
    side = stride = model.block
    for number, block in enumerate([model.first, *model.down]):
        if number:
            side += (model.pool.kernel_size - 1) * stride
            stride *= model.pool.stride
        for layer in block:
            if isinstance(layer, nn.Conv2d):
                side += (layer.kernel_size[0] - 1) * layer.dilation[0] * stride
                stride *= layer.stride[0]
    return side, stride


def aspp(model: models.ASPPNet, size: int | tuple[int, int] = (256, 256)) -> Figure:
    """The ASPP block of a network: the taps of each branch on the map of the deepest features,
    what it sees of the image, and how many of its taps fall outside the map.

    Args:
        model: a `models.ASPPNet`.
        size: of the image, one side or (height, width).

    Raises:
        ValueError: a network without `models.ASPP`, or one that cannot take such an image.
    """
    all_branches = branches(model, size)
    recorded = record(model, size)
    deep, output = recorded.inputs("aspp")[0], recorded.output("aspp")
    stride = receptive_field_of_encoder(model)[1]
    figure, axis = page.blank(5.5)
    image = page.times(recorded.inputs("")[0])
    title = f"ASPP on the deepest features, {page.times(deep)}"
    page.text(axis, page.WIDTH / 2, 5.25, title, 12, weight="bold")
    note = f"image {image}; one cell of the map stands for {stride} × {stride} pixels\n"
    note += "squares: taps of the kernel at the middle of the map; hollow ones meet zero padding"
    page.text(axis, page.WIDTH / 2, 4.82, note, 9, linespacing=1.5)
    n = len(all_branches)
    pitch = (page.WIDTH - 0.4) / n
    for number, branch in enumerate(all_branches):
        x = 0.2 + pitch * (number + 0.5)
        _draw_taps(axis, branch, deep[1:], (x, 3.4), min(pitch - 0.2, 2.0))
        page.text(axis, x, 4.37, branch.name, 10, weight="bold")
        page.text(axis, x, 2.4, _branch_text(branch), 8.5, va="top", linespacing=1.35)
        page.arrow(axis, (x, 1.52), (x, 1.2), page.GREY)
    joined = sum(branch.channels for branch in all_branches)
    page.box(axis, page.WIDTH / 2, 1.0, page.WIDTH - 1.0, 0.34, page.PALE)
    project = kernel(first_conv(model.aspp.project))
    parts = " + ".join(str(branch.channels) for branch in all_branches)
    page.text(axis, page.WIDTH / 2, 1.0, f"concatenated: {parts} = {joined} channels", 9.5)
    page.arrow(axis, (page.WIDTH / 2, 0.82), (page.WIDTH / 2, 0.52), page.INK)
    page.box(axis, page.WIDTH / 2, 0.34, 4.6, 0.34, PURPLE)
    page.text(axis, page.WIDTH / 2, 0.34, f"{project} convolution: {page.times(output)}", 9.5)
    return figure


def _branch_text(branch: Branch) -> str:
    if not branch.side:
        lines = ["sees the whole image", "one value a channel,", "repeated in every cell"]
    else:
        taps = branch.side**2
        lines = [f"spans {branch.cells} × {branch.cells} cells"]
        lines.append(f"sees {branch.pixels} × {branch.pixels} pixels")
        lines.append(f"taps inside, mean: {branch.inside:.1f} of {taps}")
    return "\n".join([*lines, f"{branch.parameters:,} parameters"])


def _draw_taps(
    axis: Axes, branch: Branch, sides: tuple[int, ...], centre: tuple[float, float], width: float
) -> None:
    """The map of the deepest features with the taps of one kernel, placed at its middle."""
    rows, columns = sides
    reach = branch.rate * (branch.side // 2)
    span = max(columns, rows, 2 * reach + 1) + 1
    cell = min(width, 1.7) / span
    middle = rows // 2, columns // 2
    left, top = centre[0] - cell * columns / 2, centre[1] + cell * rows / 2
    fill = PURPLE if not branch.side else "white"
    corner = (left, top - cell * rows)
    axis.add_patch(Rectangle(corner, cell * columns, cell * rows, fc=fill, ec=page.INK, lw=1.0))
    if cell > 0.03:
        lines = np.arange(1, max(rows, columns))
        axis.vlines(left + cell * lines[lines < columns], corner[1], top, color="0.8", lw=0.4)
        axis.hlines(top - cell * lines[lines < rows], left, left + cell * columns, "0.8", lw=0.4)
    steps = branch.rate * (np.arange(branch.side) - branch.side // 2)
    side = max(cell, 0.06)
    for row in middle[0] + steps:
        for column in middle[1] + steps:
            is_inside = 0 <= row < rows and 0 <= column < columns
            x, y = left + cell * (column + 0.5), top - cell * (row + 0.5)
            colour = VERMILION if is_inside else "white"
            place = (x - side / 2, y - side / 2)
            edge = page.INK if is_inside else page.GREY
            axis.add_patch(Rectangle(place, side, side, fc=colour, ec=edge, lw=0.8, zorder=3))
