"""Tiles: predict images larger than what a network sees at once. Used by `inference`."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

OVERLAP = 0.5  # share of a tile that the next tile also covers


def blend(
    batch: Tensor,
    sides: tuple[int, int],
    compute: Callable[[Tensor], Tensor],
    overlap: float = OVERLAP,
    batch_size: int = 8,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Tensor:
    """Apply `compute` to overlapping tiles of images, and blend the results smoothly.

    The outer eighth of a tile, where the network sees padding instead of the image, is not used,
    except at the image's own edge. From there the weight of a tile rises towards its middle. If the
    network's receptive field reaches no farther than that eighth, the result equals that of the
    whole image.

    Args:
        batch: (N, C, H, W).
        sides: (height, width) of a tile; an image that is smaller gets smaller tiles.
        compute: tiles (n, C, height, width) -> (n, K, height, width).
        overlap: share of a tile that the next tile also covers, 0.3 to 0.9.
        batch_size: number of tiles that are computed at once.
        progress: wraps the range of tiles, for example in a progress bar.

    Returns:
        (N, K, H, W) float32 in the main memory.
    """
    height, width = batch.shape[-2:]
    sides = min(sides[0], height), min(sides[1], width)
    rows, columns = (starts(*pair, overlap) for pair in zip((height, width), sides))
    corners = [(n, top, left) for n in range(len(batch)) for top in rows for left in columns]
    weights_of_rows = {top: _fade(top, sides[0], height) for top in rows}
    weights_of_columns = {left: _fade(left, sides[1], width) for left in columns}
    total: Tensor | None = None
    for first in progress(range(0, len(corners), batch_size)):
        chunk = corners[first : first + batch_size]
        places = [(n, *_place(top, left, sides)) for n, top, left in chunk]
        results = compute(torch.stack([batch[n, :, r, c] for n, r, c in places])).float().cpu()
        if total is None:
            total = torch.zeros(len(batch), results.shape[1], height, width)
        for (n, top, left), (_, r, c), result in zip(chunk, places, results):
            weight = torch.outer(weights_of_rows[top], weights_of_columns[left])
            total[n, :, r, c] += weight * result
    # The weights of a tile are a product, so their sum over all tiles is one too.
    total /= _sum(weights_of_rows, height)[:, None]
    total /= _sum(weights_of_columns, width)
    return total


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles must start to cover a side evenly."""
    n = 1 + math.ceil((length - tile) / (tile * (1 - overlap)))
    places = torch.linspace(0, length - tile, n, dtype=torch.float64).round().int()
    return places.unique().tolist()  # steps of less than a pixel give the same place twice


def _place(top: int, left: int, sides: tuple[int, int]) -> tuple[slice, slice]:
    return slice(top, top + sides[0]), slice(left, left + sides[1])


def _fade(start: int, tile: int, length: int) -> Tensor:
    """Weights along one side of a tile: 0 in its outer eighth, then rising.

    At the image's own edge, where no other tile helps, the weight stays full.
    """
    ramp = (torch.arange(tile) + 1 - tile // 8).clamp(min=0).float()
    before, after = ramp, ramp.flip(0)
    if start == 0:
        before = torch.full_like(ramp, ramp[-1])
    if start + tile == length:
        after = torch.full_like(ramp, ramp[-1])
    return torch.minimum(before, after)


def _sum(weights: dict[int, Tensor], length: int) -> Tensor:
    """The sum of the weights of all tiles along one side."""
    total = torch.zeros(length)
    for start, weight in weights.items():
        total[start : start + len(weight)] += weight
    return total
