"""What a drawing of a U-shaped network says: channels and sizes at each level, and the legend."""

from typing import NamedTuple

from torch import nn

from .. import models
from . import page
from .passages import Record, Shape, encoder_stages, first_conv, kernel, skip_channels


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
        legend: (kind of mark, its meaning), the kinds are those of the legend in `u_shaped`.
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


def of_own_network(recorded: Record) -> Plan:
    """The plan of a `models.UNet` or `models.ASPPNet`."""
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
    entry, leaving = "", f"{kernel(model.head)} convolution"
    if model.block > 1:
        blocks = f"{model.block} × {model.block} pixels"
        entry = f"blocks of {blocks} become channels:\n{page.times(recorded.inputs('first')[0])}"
        leaving += f":\n{page.times(recorded.output('head'))},\nthen channels to\n{blocks}"
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
    twice = f"two {kernel(first_conv(model.first))} convolutions with batch norm and ReLU"
    pool = f"{model.pool.kernel_size} × {model.pool.kernel_size} max pooling"
    enlarge = model.up[0].up
    if isinstance(enlarge, nn.ConvTranspose2d):
        upward = f"{kernel(enlarge)} transposed convolution"
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


def of_smp_network(recorded: Record) -> Plan:
    """The plan of a U-Net on an encoder of smp, whose parameters are counted part by part."""
    model = recorded.model
    features = [shape for shape, _ in encoder_stages(recorded)]
    n_blocks = len(model.decoder.blocks)
    deepest = Level(features[-1][1:], features[-1][0])
    levels = []
    for number in reversed(range(n_blocks)):  # the finest first
        block = f"decoder.blocks.{number}"
        decoder, *sides = recorded.output(block)
        skip = skip_channels(recorded, block)
        encoder = next((c for c, *at in features[:-1] if at == sides), 0)
        deep = recorded.inputs(block)[0][0]
        levels.append(Level(tuple(sides), encoder, deep, skip, decoder))
    encoder, decoder = models.n_parameters(model.encoder), models.n_parameters(model.decoder)
    n_head = models.n_parameters(model.segmentation_head)
    kinds = f"{encoder:,} in the encoder, {decoder:,} in the decoder, {n_head:,} in the head"
    origin = getattr(model, "encoder_origin", "")
    name = getattr(model, "name", "an encoder").removeprefix("u-")
    enlarge = getattr(model.decoder.blocks[0], "interpolation_mode", "nearest")
    decoder_kernel = kernel(first_conv(model.decoder))
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
        image=recorded.inputs("")[0],
        logits=recorded.output(""),
        levels=[*levels, deepest],
        entry="",
        exit=f"{kernel(first_conv(model.segmentation_head))} convolution",
        legend=legend,
    )
