"""What a prediction holds: its classes as masks of their own, their volumes, and cleaned masks."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..formats import orientation


class Prediction(NamedTuple):
    """The result for one image.

    `prob` (C, H, W) float32. `mask` uint8: (H, W) of 0 and 1 (binary) or of class numbers
    (multiclass), (C, H, W) of 0 and 1 (multilabel).
    """

    prob: np.ndarray
    mask: np.ndarray


class VolumePrediction(NamedTuple):
    """The result for one volume.

    `mask` uint8 as displayed, (S, H, W), or (C, S, H, W) for multilabel. `grid` brings it back into
    the file's axes. `millilitres` maps a class to its volume, NaN where the spacing is unknown.
    `notes` say what is odd about the file, and what was done about it.
    """

    mask: np.ndarray
    grid: orientation.Grid
    millilitres: dict[str, float]
    notes: tuple[str, ...] = ()


def class_plane(mask: np.ndarray, index: int, task: str) -> np.ndarray:
    """The plane of a mask that holds a class: its own if classes may overlap (multilabel)."""
    return mask[index] if task == "multilabel" else mask


def class_mask(mask: np.ndarray, index: int, task: str) -> np.ndarray:
    """Where the mask of a picture or a volume holds one class: bool (H, W) or (S, H, W).

    Args:
        mask: uint8 as in `Prediction` or `VolumePrediction`; 255 (ignored) is no class.
        index: position of the class in `class_names`.
    """
    return class_plane(mask, index, task) == (index if task == "multiclass" else 1)


def by_class(mask: np.ndarray, cfg) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the `class_mask` of each structure, one after the other."""
    for index, name in cfg.structures.items():
        yield name, class_mask(mask, index, cfg.task)


def millilitres(mask: np.ndarray, grid: orientation.Grid, cfg) -> dict[str, float]:
    """Class -> its volume in the mask of a volume, NaN where the spacing is unknown."""
    return {
        name: np.count_nonzero(of_class) * grid.voxel_ml for name, of_class in by_class(mask, cfg)
    }


def clean(
    mask: np.ndarray,
    min_component_size: int = 0,
    fill_holes: bool = False,
    keep_largest_component: bool = False,
) -> np.ndarray:
    """A bool mask (2-D or 3-D) without its small connected components, and with its holes filled.

    Pixels are connected by an edge, voxels by a face (4 and 6 neighbours).

    Args:
        min_component_size: components of fewer pixels or voxels are removed.
        fill_holes: what remains is filled after components were removed.
        keep_largest_component: only the largest component is kept; of equally large ones, the
            first.
    """
    if min_component_size > 1 or keep_largest_component:
        components, _ = ndimage.label(mask)
        sizes = np.bincount(components.ravel())
        sizes[0] = 0  # the background is not a component
        keep = sizes >= max(min_component_size, 1)
        if keep_largest_component:
            keep &= np.arange(len(sizes)) == sizes.argmax()
        mask = keep[components]
    return ndimage.binary_fill_holes(mask) if fill_holes else mask


def cleaned(mask: np.ndarray, cfg, **options) -> np.ndarray:
    """A mask of all classes, each cleaned by `clean` with its `options`.

    In a multiclass mask, removed pixels become background, and only background is filled.

    Args:
        mask: uint8 as in `Prediction` or `VolumePrediction`.
    """
    if cfg.task == "multilabel":
        return np.stack([clean(plane == 1, **options) for plane in mask]).astype(np.uint8)
    result = np.zeros_like(mask)
    for number in range(1, len(cfg.structures) + 1):
        plane = mask == number
        result[clean(plane, **options) & (plane | (mask == 0))] = number
    return result
