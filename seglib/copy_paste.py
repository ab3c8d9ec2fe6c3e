"""Lesion copy-paste: structures of another training image, pasted with soft edges. Used by `data`.

As in Ghiasi et al., Simple Copy-Paste, CVPR 2021, but of single connected components, which are
pasted where the target has background.
"""

from typing import NamedTuple

import cv2
import numpy as np

from .tables import IGNORE

TRIES = 20  # places that are tried before a structure is given up


class CopyPaste(NamedTuple):
    """The entry `copy_paste` of `cfg.augment`, which needs a second image.

    With probability `p`, up to `structures` connected components are pasted. Their edges fade over
    about `softness` pixels.
    """

    p: float
    structures: float = 3
    softness: float = 2.0


def paste(
    image: np.ndarray,
    mask: np.ndarray,
    donor: tuple[np.ndarray, np.ndarray],
    k: int,
    task: str,
    softness: float,
    rng: np.random.Generator,
) -> bool:
    """Paste the structure of class `k` in the middle of the donor; False where it does not fit.

    The structure is one connected component, turned and mirrored at random. It must lie within the
    donor, and its place must be background of every class, as far as the target is annotated.
    Pixels that are ignored in the target stay ignored.

    Args:
        image, mask: (H, W, C) and (H, W, K) uint8; changed in place.
        donor: image and mask around a pixel of class `k`, no larger than the target.
        k: class number (multiclass) or plane of the mask.
    """
    shape = _component(donor[1], k, task)
    if shape is None:
        return False
    soft = _softened(shape, softness)
    rows, columns = (slice(where.min(), where.max() + 1) for where in np.nonzero(soft > 0))
    turns, mirrored = rng.integers(4), rng.integers(2)

    def turned(pixels: np.ndarray) -> np.ndarray:
        pixels = np.rot90(pixels[rows, columns], turns)
        return pixels[:, ::-1] if mirrored else pixels

    shape, soft, donor_image, donor_mask = map(turned, (shape, soft, *donor))
    place = _free_place(mask, soft > 0, k, task, rng)
    if place is None:
        return False
    weight = soft[..., None]
    blended = weight * donor_image + (1 - weight) * image[place]
    image[place] = np.rint(blended).astype(np.uint8)
    target = mask[place]
    # What the donor does not know, such as a class without a mask, is unknown here as well.
    target[...] = np.where(shape[..., None] & (target != IGNORE), donor_mask, target)
    return True


def _component(mask: np.ndarray, k: int, task: str) -> np.ndarray | None:
    """(H, W) bool: the component of class `k` at the middle; None where it reaches the edge."""
    plane = mask[..., 0] == k if task == "multiclass" else mask[..., k] == 1
    _, labels = cv2.connectedComponents(plane.astype(np.uint8), connectivity=8)
    number = labels[plane.shape[0] // 2, plane.shape[1] // 2]
    shape = labels == number
    at_edge = shape[[0, -1]].any() or shape[:, [0, -1]].any()
    return None if number == 0 or at_edge else shape


def _softened(shape: np.ndarray, softness: float) -> np.ndarray:
    """(H, W) float32: 1 in the structure, falling to 0 around it within about `softness` pixels."""
    soft = shape.astype(np.float32)
    if softness > 0:
        blurred = cv2.GaussianBlur(soft, (0, 0), softness)
        soft = np.where(shape, 1, np.clip(2 * blurred, 0, 1)).astype(np.float32)
        soft[soft < 0.05] = 0
    return soft


def _free_place(
    mask: np.ndarray, covered: np.ndarray, k: int, task: str, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """A random place of the target where the covered pixels are background; None if none fits."""
    height, width = covered.shape
    limits = mask.shape[0] - height, mask.shape[1] - width
    if min(limits) < 0:
        return None
    for _ in range(TRIES):
        top, left = (int(rng.integers(limit + 1)) for limit in limits)
        place = slice(top, top + height), slice(left, left + width)
        pixels = mask[place][covered]  # (n, K)
        of_class = pixels[:, 0 if task == "multiclass" else k]
        if (of_class == 0).all() and ((pixels == 0) | (pixels == IGNORE)).all():
            return place
    return None
