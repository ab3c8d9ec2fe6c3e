"""The channels of a case as one volume, and a slice with its neighbours as one image.

The channels of a case are volumes on one grid (`channels` says which files they are). With
`context_slices = k` the network sees the k slices on either side of a slice as well. Both become
channels of one image: slice by slice from below to above, and of each slice all sequences.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from . import channels, images, orientation, volumes
from .volumes import Volume


def read_8_bit(cell: str | Path, cfg) -> Volume:
    """The volume of a cell of the case table with uint8 voxels; read-only.

    Its voxels are (S, H, W), or (S, H, W, C) for several channels. Each channel has its own
    percentiles. The grid is that of the first channel, onto whose axes the others are turned.

    Raises:
        DataError: a channel cannot be read, or lies on another grid than the first one.
    """
    parts = channels.split(cell)
    if len(parts) == 1:
        return volumes.read_8_bit(parts[0], cfg)
    return volumes.cached(cell, cfg, lambda: _stacked(parts, cfg))


def _stacked(parts: list[str], cfg) -> Volume:
    first = volumes.convert_to_8_bit(parts[0], cfg)
    voxels = np.empty((*first.voxels.shape, len(parts)), np.uint8)
    voxels[..., 0] = first.voxels
    notes = list(first.decoding_notes)
    for place, part in enumerate(parts[1:], start=1):
        channel = volumes.convert_to_8_bit(part, cfg)
        voxels[..., place] = _on_grid(channel, part, first.grid)
        own = [note for note in channel.grid.notes if note not in first.grid.notes]
        notes += [f"{_name(part)}: {note}" for note in (*own, *channel.decoding_notes)]
    flat = [_name(part) for place, part in enumerate(parts) if _is_flat(voxels[..., place])]
    if 0 < len(flat) < len(parts):
        notes.append(f"nothing can be seen in {', '.join(flat)}: all voxels are alike")
    voxels.flags.writeable = False
    return Volume(voxels, first.grid, tuple(dict.fromkeys(notes)))


class Sequences(NamedTuple):
    """The channels of a case with the values of their files, each (S, H, W), on one grid."""

    voxels: list[np.ndarray]
    grid: orientation.Grid


def read(parts: list[str], cfg) -> Sequences:
    """The channels of a case in the values of their files, on the grid of the first one.

    Raises:
        DataError: as `read_8_bit`.
    """
    first, *others = [volumes.read(part, **volumes.options(cfg)) for part in parts]
    on_grid = [_on_grid(channel, part, first.grid) for channel, part in zip(others, parts[1:])]
    return Sequences([first.voxels, *on_grid], first.grid)


def _name(part: str) -> str:
    """The name of a channel's file, with the number of its volume along a fourth axis."""
    return Path(part).name


def _is_flat(voxels: np.ndarray) -> bool:
    return bool(voxels.min() == voxels.max())


def _on_grid(channel: Volume, part: str, grid: orientation.Grid) -> np.ndarray:
    """The voxels (S, H, W) of a channel on the displayed slices of the first channel."""
    try:
        display = volumes.align(grid, part)
    except DataError as error:
        raise DataError(
            f"{part}: a channel on another grid than the first one, {_name(grid.path)} ({error}); "
            "resample all sequences of a case to one grid"
        ) from error
    return orientation.reorient(channel.restore(channel.voxels), display)


def image(voxels: np.ndarray, number: int, cfg) -> np.ndarray:
    """One slice of a volume as the network sees it: (H, W, `cfg.input_channels`) uint8.

    Beyond the first and the last slice these are repeated.

    Args:
        voxels: (S, H, W) or (S, H, W, C), of `read_8_bit`.
        number: of the slice, from 0.

    Raises:
        DataError: the volume has another number of channels than `cfg.in_channels`.
    """
    reach = cfg.context_slices
    numbers = np.clip(np.arange(number - reach, number + reach + 1), 0, len(voxels) - 1)
    if voxels.ndim == 3:  # grey, which is repeated where a network takes colours
        return np.concatenate([images.as_channels(voxels[k], cfg.in_channels) for k in numbers], -1)
    if voxels.shape[3] != cfg.in_channels:
        raise DataError(
            f"{voxels.shape[3]} channels, but the network takes {cfg.in_channels}; set "
            f"in_channels={voxels.shape[3]}, or channel_names to those that are meant"
        )
    return np.concatenate([voxels[k] for k in numbers], axis=-1)


def centre(picture: np.ndarray, cfg) -> np.ndarray:
    """The slice itself (H, W, in_channels) of an image with its neighbours."""
    start = cfg.context_slices * cfg.in_channels
    return picture[..., start : start + cfg.in_channels]


def shown(picture: np.ndarray, cfg) -> np.ndarray:
    """What a figure shows of an image of the store: the slice itself, and its first sequence."""
    picture = centre(picture, cfg)
    return picture[..., :1] if len(cfg.channels) > 1 else picture


def description(cfg) -> str:
    """The channels of a network's input in words, in their order."""
    names = cfg.channels if len(cfg.channels) > 1 else ()
    text = ", ".join(names) or f"{cfg.in_channels} of the image"
    if not cfg.context_slices:
        return text
    reach = range(-cfg.context_slices, cfg.context_slices + 1)
    offsets = ", ".join(f"{offset:+d}" if offset else "0" for offset in reach)
    return f"{text}; of each of the slices {offsets}"
