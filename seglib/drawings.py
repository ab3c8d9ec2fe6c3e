"""Drawings of networks and ideas, made from the objects that they explain.

Shapes and channels are recorded while an image passes through the network, so a drawing always
shows the network at hand. Introduced in `00_start_here` (data flow, split, confusion areas),
`02_palm_training` (U-Net), `03_rsna_finetuning` (MobileNetV3) and `05_cardiac_aspp` (ASPP).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor, nn

from . import metrics, models
from .plots import BLUE, EXTRA, GREEN, MISSED, ORANGE, PART_COLOURS, PURPLE, SKY_BLUE, VERMILION

WIDTH = 10.0  # inches of every drawing: 1000 pixels
DPI = 100
INK, GREY, PALE = "#222222", "#6b6b6b", "#eeeeee"
PART_NAMES = {"train": "training", "val": "validation", "test": "test"}
Shape = tuple[int, ...]  # (channels, height, width)

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


# ---- what passes through a network


class Passage(NamedTuple):
    """One call of one module.

    Attributes:
        name: dotted name of the module in its network; empty for the network itself.
        inputs, outputs: the tensors, on the device `meta`: shapes without values.
    """

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Record(NamedTuple):
    """Every passage of one image through a network, in the order in which the modules finished."""

    model: nn.Module
    passages: list[Passage]

    def output(self, name: str) -> Shape:
        """(channels, height, width) of the last output of a module."""
        return _shape(self._last(name).outputs[0])

    def inputs(self, name: str) -> list[Shape]:
        """(channels, height, width) of what went into a module the last time."""
        return [_shape(tensor) for tensor in self._last(name).inputs]

    def ran(self, name: str) -> bool:
        """Whether the module was called."""
        return any(passage.name == name for passage in self.passages)

    def _last(self, name: str) -> Passage:
        return next(passage for passage in reversed(self.passages) if passage.name == name)


def record(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> Record:
    """Send one image through a copy of the network that computes shapes only.

    Args:
        size: of the image, one side or (height, width). The channels are those that the network
            takes.

    Raises:
        ValueError: the network cannot take an image of this size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    without_values = copy.deepcopy(model).to("meta")
    # The heads of deep supervision run in training mode only.
    without_values.train(bool(getattr(model, "auxiliary", ())))
    if hasattr(without_values, "checkpointing"):
        without_values.checkpointing = False
    passages: list[Passage] = []

    def remember(name: str):
        def hook(_module, args, kwargs, output):
            passages.append(Passage(name, list(_tensors((args, kwargs))), list(_tensors(output))))

        return hook

    for name, module in without_values.named_modules():
        module.register_forward_hook(remember(name), with_kwargs=True)
    image = torch.empty(2, _in_channels(model), height, width, device="meta")
    try:
        with torch.no_grad():
            without_values(image)
    except RuntimeError as error:
        message = f"size: {type(model).__name__} cannot take an image of {height} x {width} pixels"
        raise ValueError(f"{message} ({error})") from error
    return Record(model, passages)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The feature maps (N, C, H, W) in nested arguments or outputs."""
    if isinstance(value, Tensor):
        if value.ndim == 4:
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape[1:])


def _in_channels(model: nn.Module) -> int:
    """What the network takes: its own attribute, else that of the first convolution."""
    if hasattr(model, "in_channels"):
        return model.in_channels
    first = models.input_layer(model)
    return getattr(first, "in_channels", 1)


def shape_table(model: nn.Module, size: int | tuple[int, int] = (256, 256)) -> pd.DataFrame:
    """What each part of a network returns for one image.

    Args:
        size: of the image, one side or (height, width).

    Returns:
        A row for the image, one for each part in the order in which the parts run, and one for the
        logits. Columns: `part` (its dotted name in the network), `skip` (channels that arrive over
        a skip connection, else 0), `channels`, `height`, `width` of what it returns, and
        `parameters`, whose sum is `models.n_parameters(model)`.

    Raises:
        ValueError: the network cannot take an image of this size.
    """
    recorded = record(model, size)
    rows = [("image", 0, *recorded.inputs("")[0], 0)]
    for name, skip, shape, parameters in _parts(recorded):
        rows.append((name, skip, *shape, parameters))
    rows.append(("logits", 0, *recorded.output(""), 0))
    return pd.DataFrame(rows, columns=["part", "skip", "channels", "height", "width", "parameters"])


def _parts(recorded: Record) -> list[tuple[str, int, Shape, int]]:
    """(name, channels over a skip connection, output shape, parameters) of each part that ran."""
    if hasattr(recorded.model, "encoder") and hasattr(recorded.model, "decoder"):
        names = [f"decoder.blocks.{i}" for i in range(len(recorded.model.decoder.blocks))]
        parts = [
            (f"encoder, stage {number}", 0, shape, parameters)
            for number, (shape, parameters) in enumerate(_encoder_stages(recorded), 1)
        ]
        names.append("segmentation_head")
    else:
        children = recorded.model.named_children()
        names = [name for child, module in children for name in _expanded(child, module)]
        first_pass = [passage.name for passage in recorded.passages]
        names = sorted(filter(recorded.ran, names), key=first_pass.index)
        parts = []
    for name in names:
        module = recorded.model.get_submodule(name)
        parameters = models.n_parameters(module)
        if parameters:
            skip = _skip_channels(recorded, name)
            parts.append((name, skip, recorded.output(name), parameters))
    return parts


def _expanded(name: str, module: nn.Module) -> list[str]:
    """The module itself, or the items of a list of modules."""
    if isinstance(module, nn.ModuleList):
        return [f"{name}.{number}" for number in range(len(module))]
    return [name]


def _skip_channels(recorded: Record, name: str) -> int:
    """Channels of the second input of a block of a decoder."""
    inputs = recorded.inputs(name)
    return inputs[1][0] if len(inputs) > 1 else 0


def _encoder_stages(recorded: Record) -> list[tuple[Shape, int]]:
    """(shape, parameters) of each feature map that an encoder of smp hands to the decoder.

    A parameter belongs to the first feature map that was finished after its module had run.
    """
    encoder = next(passage for passage in recorded.passages if passage.name == "encoder")
    modules = dict(recorded.model.named_modules())
    stages, start = [], 0
    for feature in encoder.outputs[1:]:  # the first one is the image itself
        # The last module that returns this tensor, other than the encoder, which returns all.
        makers = [
            number
            for number, passage in enumerate(recorded.passages)
            if len(passage.outputs) == 1 and passage.outputs[0] is feature
        ]
        end = max(makers, default=start - 1) + 1
        parameters = [
            parameter.numel()
            for passage in recorded.passages[start:end]
            for parameter in modules[passage.name].parameters(recurse=False)
            if parameter.requires_grad
        ]
        stages.append((_shape(feature), sum(parameters)))
        start = end
    return stages


# ---- the U


class Level(NamedTuple):
    """One level of a U-shaped network, that is one size of feature maps.

    Attributes:
        size: (height, width) of the feature maps.
        encoder: channels that the encoder returns here; 0 where it has no features of this size.
        deep: channels of the enlarged deeper features; 0 at the lowest level, as the next three.
        skip: channels that come over the skip connection; 0 where there is none.
        decoder: channels that the decoder returns here.
        coarse: channels of the logits of deep supervision; 0 where there are none.
    """

    size: tuple[int, int]
    encoder: int
    deep: int = 0
    skip: int = 0
    decoder: int = 0
    coarse: int = 0


class Plan(NamedTuple):
    """What a drawing of a U-shaped network says.

    Attributes:
        title: name and number of parameters.
        image, logits: (channels, height, width).
        levels: the finest first.
        entry: what happens between image and first level, one line each.
        exit: the same between the last level and the logits.
        legend: (kind of mark, its meaning), see `_legend`.
        gated: the skip connections have attention gates.
        bottom: (name, channels) of a block after the deepest features, or None.
    """

    title: str
    image: Shape
    logits: Shape
    levels: list[Level]
    entry: str
    exit: str
    legend: list[tuple[str, str]]
    gated: bool = False
    bottom: tuple[str, int] | None = None


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
    return _draw_u(_own_plan(record(model, size)))


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
    return _draw_u(_smp_plan(record(model, size)))


def _own_plan(recorded: Record) -> Plan:
    model = recorded.model
    depth = len(model.down)
    names = ["first", *(f"down.{level}" for level in range(depth))]
    levels = []
    for level, name in enumerate(names):
        channels, *sides = recorded.output(name)
        if level == depth:
            levels.append(Level(tuple(sides), channels))
            continue
        block = f"up.{depth - 1 - level}"
        deep = recorded.output(f"{block}.up")[0]
        skip = recorded.inputs(block)[1][0]
        head = f"auxiliary.{depth - 1 - level}"
        coarse = recorded.output(head)[0] if recorded.ran(head) else 0
        decoder = recorded.output(block)[0]
        levels.append(Level(tuple(sides), channels, deep, skip, decoder, coarse))
    is_gated = model.up[0].gate is not None
    has_aspp = isinstance(model, models.ASPPNet)
    entry, leaving = "", f"{_kernel(model.head)} convolution"
    if model.block > 1:
        blocks = f"{model.block} × {model.block} pixels"
        entry = f"blocks of {blocks} become channels:\n{_times(recorded.inputs('first')[0])}"
        leaving += f":\n{_times(recorded.output('head'))},\nthen channels to\n{blocks}"
    name = "U-Net with ASPP" if has_aspp else "U-Net"
    return Plan(
        title=f"{name}: {models.n_parameters(model):,} parameters",
        image=recorded.inputs("")[0],
        logits=recorded.output(""),
        levels=levels,
        entry=entry,
        exit=leaving,
        legend=_own_legend(model, is_gated),
        gated=is_gated,
        bottom=("ASPP", recorded.output("aspp")[0]) if has_aspp else None,
    )


def _own_legend(model: models.UNet, is_gated: bool) -> list[tuple[str, str]]:
    """The marks of the drawing of an own U-Net, with the kernels that its layers have."""
    convolution = next(layer for layer in model.first if isinstance(layer, nn.Conv2d))
    twice = f"two {_kernel(convolution)} convolutions with batch norm and ReLU"
    pool = f"{model.pool.kernel_size} × {model.pool.kernel_size} max pooling"
    enlarge = model.up[0].up
    if isinstance(enlarge, nn.ConvTranspose2d):
        upward = f"{_kernel(enlarge)} transposed convolution"
    else:
        upward = f"{enlarge.mode} upsampling by {enlarge.scale_factor:g}"
    skips = "skip connection: encoder features are copied"
    legend = [
        ("encoder", f"encoder: {twice}"),
        ("decoder", "decoder: two more such convolutions"),
        ("down", pool),
        ("up", upward),
        ("skip", f"{skips}, through an attention gate" if is_gated else skips),
        ("logits", "logits: one number a pixel and class"),
    ]
    if isinstance(model, models.ASPPNet):
        legend.append(("bottom", "ASPP: several dilations side by side"))
    if len(model.auxiliary):
        legend.append(("coarse", "coarse logits of deep supervision, in training only"))
    return legend


def _smp_plan(recorded: Record) -> Plan:
    model = recorded.model
    image = recorded.inputs("")[0]
    features = [shape for shape, _ in _encoder_stages(recorded)]
    n_blocks = len(model.decoder.blocks)
    deepest = Level(features[-1][1:], features[-1][0])
    levels = []
    for number in reversed(range(n_blocks)):  # the finest first
        block = f"decoder.blocks.{number}"
        decoder, *sides = recorded.output(block)
        skip = _skip_channels(recorded, block)
        encoder = next((c for c, *at in features[:-1] if at == sides), 0)
        deep = recorded.inputs(block)[0][0]
        levels.append(Level(tuple(sides), encoder, deep, skip, decoder))
    head = next(layer for layer in model.segmentation_head if isinstance(layer, nn.Conv2d))
    encoder, decoder = models.n_parameters(model.encoder), models.n_parameters(model.decoder)
    n_head = models.n_parameters(model.segmentation_head)
    kinds = f"{encoder:,} in the encoder, {decoder:,} in the decoder, {n_head:,} in the head"
    origin = getattr(model, "encoder_origin", "")
    name = getattr(model, "name", "an encoder").removeprefix("u-")
    enlarge = getattr(model.decoder.blocks[0], "interpolation_mode", "nearest")
    decoder_kernel = _kernel(_first_conv(model.decoder))
    legend = [
        ("encoder", f"encoder{f' (weights: {origin})' if origin else ''}"),
        ("decoder", f"decoder: two {decoder_kernel} convolutions with batch norm and ReLU"),
        ("down", "a stage of the encoder halves the sides"),
        ("up", f"{enlarge} upsampling by 2"),
        ("skip", "skip connection: encoder features are copied"),
        ("logits", "logits: one number a pixel and class"),
    ]
    return Plan(
        title=f"U-Net on {name}: {models.n_parameters(model):,} parameters\n{kinds}",
        image=image,
        logits=recorded.output(""),
        levels=[*levels, deepest],
        entry="",
        exit=f"{_kernel(head)} convolution",
        legend=legend,
    )


def _first_conv(module: nn.Module) -> nn.Conv2d:
    return next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


def _kernel(layer: nn.Conv2d | nn.ConvTranspose2d) -> str:
    """ "3 × 3" """
    return " × ".join(map(str, layer.kernel_size))


def _times(numbers: Sequence[int]) -> str:
    """(64, 256, 256) -> "64 × 256 × 256"."""
    return " × ".join(map(str, numbers))


# ---- marks on the page: all coordinates are inches


def _page(height: float) -> tuple[Figure, Axes]:
    """A white figure of the common width whose coordinates are inches from its lower left."""
    figure = plt.figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="none")
    axis = figure.add_axes((0, 0, 1, 1), facecolor="white")
    axis.set(xlim=(0, WIDTH), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def _box(axis: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A feature map or a card, centred at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=INK, lw=0.8))


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = INK,
    style: str = "-",
) -> None:
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


def _text(axis: Axes, x: float, y: float, text: str, size: float = 9.5, **options: Any) -> None:
    options = {"ha": "center", "va": "center", "color": INK, **options}
    axis.text(x, y, text, fontsize=size, **options)


ENCODER, DECODER, DOWN, UP = SKY_BLUE, ORANGE, VERMILION, BLUE
ROW, TOP = 0.92, 0.65  # height of a level, and of the title


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
    spread = min(0.62, (WIDTH / 2 - 2.95) / max(n - 2, 1))
    rows = [top - ROW * (level + 1.5) for level in range(n)]
    encoders = [margin + spread * level for level in range(n)]
    decoders = [WIDTH - x for x in encoders]
    joined = [x - apart for x in decoders]
    encoders[-1] = (encoders[n - 2] + joined[n - 2]) / 2
    finest = np.log2(max(2, *levels[0].size))
    heights = [0.2 + 0.34 * float(np.log2(max(level.size)) / finest) for level in levels]
    return _Places(rows, encoders, joined, decoders, heights)


def _draw_u(plan: Plan) -> Figure:
    """The figure of a U-shaped network."""
    legend_height = 0.27 * ((len(plan.legend) + 1) // 2) + 0.15
    height = TOP + ROW * (len(plan.levels) + 1) + legend_height
    figure, axis = _page(height)
    _text(axis, WIDTH / 2, height - 0.38, plan.title, 12, weight="bold", linespacing=1.5)
    places = _places(plan.levels, height - TOP)
    _draw_ends(axis, plan, places)
    for number in range(len(plan.levels) - 1):
        _draw_level(axis, plan, places, number)
    _draw_bottom(axis, plan, places)
    _legend(axis, plan.legend, legend_height - 0.1)
    return figure


def _draw_map(axis: Axes, x: float, y: float, height: float, channels: int, colour: str) -> float:
    """A feature map with its channels above it; returns its width."""
    width = 0.10 + 0.045 * float(np.log2(max(channels, 1)))
    _box(axis, x, y, width, height, colour)
    _text(axis, x, y + height / 2 + 0.11, str(channels), 10)
    return width


def _draw_ends(axis: Axes, plan: Plan, places: _Places) -> None:
    """The image and the logits, above the finest level."""
    left, right, y = places.encoders[0], places.decoders[0], places.rows[0] + ROW
    height = places.heights[0]
    _box(axis, left, y, 0.14, height, PALE)
    _text(axis, left + 0.16, y, f"image\n{_times(plan.image)}", ha="left", weight="bold")
    _box(axis, right, y, 0.14, height, GREEN)
    _text(axis, right - 0.16, y, f"logits\n{_times(plan.logits)}", ha="right", weight="bold")
    start = (left, y - height / 2)
    first = 0 if plan.levels[0].encoder else 1
    _arrow(axis, start, places.above(places.encoders[first], first), DOWN if first else INK)
    _arrow(axis, places.above(right, 0), (right, y - height / 2), INK)
    _text(axis, left + 0.24, y - 0.44, plan.entry, 8.5, ha="left")
    _text(axis, right + 0.18, y - 0.3, plan.exit, 8.5, ha="left")


def _draw_level(axis: Axes, plan: Plan, places: _Places, number: int) -> None:
    """Encoder, skip connection, concatenation and decoder of one level, and the arrow down."""
    level, y, height = plan.levels[number], places.rows[number], places.heights[number]
    encoder, decoder, sides = places.encoders[number], places.decoders[number], _times(level.size)
    # What is concatenated: skip features on the left, enlarged deep features on the right.
    widths = [0.10 + 0.045 * float(np.log2(n)) if n else 0.0 for n in (level.skip, level.deep)]
    start = places.joined[number] - sum(widths) / 2
    for width, offset, colour in zip(widths, (0.0, widths[0]), (ENCODER, DECODER)):
        if width:
            _box(axis, start + offset + width / 2, y, width, height, colour)
    both = f"{level.skip} + {level.deep}" if level.skip else str(level.deep)
    _text(axis, places.joined[number], y + height / 2 + 0.11, both, 10)
    if level.encoder:
        width = _draw_map(axis, encoder, y, height, level.encoder, ENCODER)
        _text(axis, encoder - width / 2 - 0.08, y, sides, 9, ha="right")
        end = places.below(encoder, number)
        _arrow(axis, end, places.above(places.encoders[number + 1], number + 1), DOWN)
        if level.skip:
            _arrow(axis, (encoder + width / 2, y), (start, y), GREY, (0, (4, 2)))
        if plan.gated:
            _text(axis, start - 0.35, y, "gate", 8, bbox={"fc": "white", "ec": GREY, "pad": 2})
    width = _draw_map(axis, decoder, y, height, level.decoder, DECODER)
    _arrow(axis, (start + sum(widths), y), (decoder - width / 2, y))
    _text(axis, decoder + width / 2 + 0.08, y, sides, 9, ha="left")
    if number:  # up to the deep part of the concatenation above
        _arrow(axis, (decoder, y + height / 2 + 0.2), _up_target(plan, places, number - 1), UP)
    if level.coarse:
        x = decoder + width / 2 + 1.15
        _draw_map(axis, x, y, height, level.coarse, GREEN)
        _arrow(axis, (x - 0.36, y), (x - 0.09, y))


def _up_target(plan: Plan, places: _Places, number: int) -> tuple[float, float]:
    """The lower edge of the enlarged deep features of a level."""
    level = plan.levels[number]
    shift = 0.05 + 0.0225 * float(np.log2(level.skip)) if level.skip else 0.0
    return places.below(places.joined[number] + shift, number)


def _draw_bottom(axis: Axes, plan: Plan, places: _Places) -> None:
    """The deepest features, the block after them if there is one, and the first arrow up."""
    level, x, y, height = plan.levels[-1], places.encoders[-1], places.rows[-1], places.heights[-1]
    width = _draw_map(axis, x, y, height, level.encoder, ENCODER)
    _text(axis, x - width / 2 - 0.08, y, _times(level.size), 9, ha="right")
    if plan.bottom is not None:
        name, channels = plan.bottom
        after = _draw_map(axis, x + 1.2, y, height, channels, PURPLE)
        _text(axis, x + 1.2 + after / 2 + 0.08, y, name, 9.5, ha="left", weight="bold")
        _arrow(axis, (x + width / 2, y), (x + 1.2 - after / 2, y))
        x = x + 1.2
    target = _up_target(plan, places, len(plan.levels) - 2)
    _arrow(axis, (x + 0.1, y + height / 2 + 0.2), target, UP)


def _legend(axis: Axes, marks: list[tuple[str, str]], top: float) -> None:
    """Marks and their meanings in two columns, from `top` downwards."""
    colours = {"encoder": ENCODER, "decoder": DECODER, "logits": GREEN, "coarse": GREEN}
    colours |= {"bottom": PURPLE, "down": DOWN, "up": UP, "skip": GREY}
    for number, (kind, meaning) in enumerate(marks):
        x, y = 0.3 + 5.1 * (number % 2), top - 0.27 * (number // 2) - 0.1
        if kind in ("down", "up", "skip"):
            style = (0, (4, 2)) if kind == "skip" else "-"
            _arrow(axis, (x - 0.12, y), (x + 0.22, y), colours[kind], style)
        else:
            _box(axis, x + 0.05, y, 0.2, 0.16, colours[kind])
        _text(axis, x + 0.3, y, meaning, 8.5, ha="left")


# ---- ASPP


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
        layer = _first_conv(branch)
        side, rate = layer.kernel_size[0], layer.dilation[0]
        cells = rate * (side - 1) + 1
        name = f"{_kernel(layer)}, rate {rate}" if side > 1 else _kernel(layer)
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
    figure, axis = _page(5.5)
    image = _times(recorded.inputs("")[0])
    title = f"ASPP on the deepest features, {_times(deep)}"
    _text(axis, WIDTH / 2, 5.25, title, 12, weight="bold")
    note = f"image {image}; one cell of the map stands for {stride} × {stride} pixels\n"
    note += "squares: taps of the kernel at the middle of the map; hollow ones meet zero padding"
    _text(axis, WIDTH / 2, 4.82, note, 9, linespacing=1.5)
    n = len(all_branches)
    pitch = (WIDTH - 0.4) / n
    for number, branch in enumerate(all_branches):
        x = 0.2 + pitch * (number + 0.5)
        _draw_taps(axis, branch, deep[1:], (x, 3.4), min(pitch - 0.2, 2.0))
        _text(axis, x, 4.37, branch.name, 10, weight="bold")
        _text(axis, x, 2.4, _branch_text(branch), 8.5, va="top", linespacing=1.35)
        _arrow(axis, (x, 1.52), (x, 1.2), GREY)
    joined = sum(branch.channels for branch in all_branches)
    _box(axis, WIDTH / 2, 1.0, WIDTH - 1.0, 0.34, PALE)
    project = _kernel(_first_conv(model.aspp.project))
    parts = " + ".join(str(branch.channels) for branch in all_branches)
    _text(axis, WIDTH / 2, 1.0, f"concatenated: {parts} = {joined} channels", 9.5)
    _arrow(axis, (WIDTH / 2, 0.82), (WIDTH / 2, 0.52), INK)
    _box(axis, WIDTH / 2, 0.34, 4.6, 0.34, PURPLE)
    _text(axis, WIDTH / 2, 0.34, f"{project} convolution: {_times(output)}", 9.5)
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
    axis.add_patch(Rectangle(corner, cell * columns, cell * rows, fc=fill, ec=INK, lw=1.0))
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
            edge = INK if is_inside else GREY
            axis.add_patch(Rectangle(place, side, side, fc=colour, ec=edge, lw=0.8, zorder=3))


# ---- ideas


def data_flow() -> Figure:
    """The seven calls of the series, and the object that each of them hands to the next."""
    figure, axis = _page(4.3)
    columns, pitch, width = 4, 2.45, 2.15
    for number, (call, result, meaning) in enumerate(CALLS):
        row, column = divmod(number, columns)
        x, y = 0.18 + width / 2 + pitch * column, 3.45 - 2.1 * row
        corner = (x - width / 2, y - 0.78)
        style = "round,pad=0,rounding_size=0.08"
        axis.add_patch(
            FancyBboxPatch(corner, width, 1.4, boxstyle=style, fc="#f6f6f6", ec=GREY, lw=0.8)
        )
        _text(axis, x, y + 0.35, call, 8.5, family="monospace", linespacing=1.3)
        _box(axis, x, y - 0.12, 1.25, 0.3, SKY_BLUE)
        _text(axis, x, y - 0.12, result, 10, weight="bold")
        _text(axis, x, y - 0.52, meaning, 8.5)
        circle = {"boxstyle": "circle,pad=0.25", "fc": INK, "ec": INK}
        number_at = (corner[0] + 0.04, y + 0.6)
        _text(axis, *number_at, str(number + 1), 8.5, color="white", weight="bold", bbox=circle)
        if number + 1 == len(CALLS):
            continue
        if column + 1 < columns:
            _arrow(axis, (x + width / 2, y), (x + pitch - width / 2, y))
        else:
            down, first = y - 1.0, 0.18 + width / 2
            axis.plot([x, x, first], [y - 0.78, down, down], color=INK, lw=1.4)
            _arrow(axis, (first, down + 0.01), (first, down - 0.42))
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
    per_line = int((WIDTH - 2 * left) // step)
    lines = {part: _lines(counts.to_dict(), per_line) for part, counts in images.items()}
    heights = {part: [min(max(n for _, n in line), 8) for line in lines[part]] for part in lines}
    height = 0.85 + sum(0.62 + sum(step * n + 0.08 for n in heights[part]) for part in lines)
    figure, axis = _page(height)
    y = height - 0.3
    _text(axis, left, y, _split_title(cases, leaks), 12, ha="left", weight="bold")
    for part, name in PART_NAMES.items():
        y -= 0.42
        n_patients, n_images = images[part].size, len(parts[part])
        label = f"{name} part: {_count(n_patients, 'patient')}, {_count(n_images, 'image')}"
        _box(axis, left + 0.07, y, 0.14, 0.14, PART_COLOURS[part])
        _text(axis, left + 0.24, y, label, 10, ha="left", weight="bold")
        y -= 0.18
        for line, tallest in zip(lines[part], heights[part]):
            for number, (patient, n) in enumerate(line):
                place = (left + step * number, y)
                _draw_patient(axis, place, n, step, PART_COLOURS[part], patient in leaks)
            y -= step * tallest + 0.08
    note = "one column a patient, one square an image (at most 8 are drawn)"
    _text(axis, left, 0.2, note, 8.5, ha="left", color=GREY)
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
        axis.add_patch(Rectangle(corner, step, height, fill=False, edgecolor=INK, lw=1.8))


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
    figure, axis = _page(4.6)
    numbers = sum(number * area.astype(int) for number, area in enumerate(areas.values()))
    colours = dict(zip(areas, ("#e4e4e4", GREEN, MISSED, EXTRA)))
    picture = figure.add_axes((0.02, 0.04, 0.56, 0.92))
    picture.imshow(numbers, cmap=ListedColormap(list(colours.values())), vmin=-0.5, vmax=3.5)
    picture.contour(truth, [0.5], colors=INK, linewidths=1.8)
    picture.contour(pred, [0.5], colors=INK, linewidths=1.8, linestyles="dashed")
    picture.axis("off")
    for name, area in areas.items():
        if counts[name]:
            row, column = _inner_point(area)
            colour = "white" if name in ("FN", "TP", "FP") else INK
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
        _box(axis, x + 0.1, y, 0.2, 0.2, colours[name])
        _text(axis, x + 0.32, y, f"{name} = {counts[name]} pixels: {meaning}", 9.5, ha="left")
        y -= 0.3
    for meaning, style in (("ground truth", "-"), ("predicted mask", "--")):
        axis.plot([x, x + 0.22], [y, y], style, color=INK, lw=1.8)
        _text(axis, x + 0.32, y, meaning, 9.5, ha="left")
        y -= 0.3
    y -= 0.15
    for name, (metric, formula) in FORMULAS.items():
        value = float(metric(*(np.asarray(counts[key]) for key in ("TP", "FP", "FN", "TN"))))
        _text(axis, x, y, f"{name} = ${formula}$ = {value:.3f}", 10.5, ha="left")
        y -= 0.42
