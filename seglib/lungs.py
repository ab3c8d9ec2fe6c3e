"""What is measured on a chest X-ray once its lungs are known: area, asymmetry, opacity, texture by zone.

Taught in `09_tb_two_step`. Right and left are the patient's: the right lung lies at the image's left.
"""

import cv2
import numpy as np
from scipy import ndimage

from . import metrics
from .errors import DataError

ZONES = ("upper", "middle", "lower")
SIDES = ("right", "left")


def sides(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The right and the left lung of a mask (H, W) bool: cut where the fewest lung pixels lie, near the middle."""
    width = mask.shape[1]
    columns = np.arange(width // 3, width - width // 3)
    lung, off = mask.sum(axis=0)[columns], np.abs(columns - width / 2)
    cut = columns[np.lexsort((off, lung))[0]]
    right, left = mask.copy(), mask.copy()
    right[:, cut:] = left[:, :cut] = False
    return right, left


def zones(lung: np.ndarray) -> list[np.ndarray]:
    """Upper, middle and lower third of one lung (H, W) bool, by its height; three empty masks of an empty one."""
    rows = np.flatnonzero(lung.any(axis=1))
    if not len(rows):
        return [lung] * 3
    edges = np.linspace(rows[0], rows[-1] + 1, 4).round().astype(int)
    place = np.searchsorted(edges, np.arange(len(lung)), side="right")[:, None]
    return [lung & (place == third) for third in (1, 2, 3)]


def measures(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float] | None = None,
    smallest: float = 0.001,
) -> dict[str, float]:
    """Measures of the lungs in one X-ray.

    Grey values are scaled so that the lungs' 2nd percentile is 0 and the image's 98th is 1: exposure and contrast of
    the film cancel. Opacity is the mean of that scale, fine and coarse texture the standard deviation of details of
    about 1/100 and 1/25 of the image's height (vessels and small nodules; infiltrates).

    Args:
        image: (H, W) uint8, lungs dark.
        mask: (H, W) bool. All true measures the whole image by the same zones.
        spacing: mm a pixel (row, column); areas are in mm², without it in shares of the image.
        smallest: a lung of a smaller share of the image counts as not found: its zones are NaN.

    Returns:
        area_right, area_left, asymmetry (0 equal, 1 one lung only), height_asymmetry; for every side and zone opacity,
        fine and coarse; and `difference_<zone>_<what>`, right against left without sign. NaN what cannot be measured.

    Raises:
        DataError: image and mask are not two arrays (H, W) of one shape.
    """
    if image.ndim != 2 or image.shape != mask.shape:
        raise DataError(
            f"measures: image {image.shape} and mask {mask.shape}; expected one shape (height, width)"
        )
    mask = mask.astype(bool)
    pixel = spacing[0] * spacing[1] if spacing else 1 / mask.size
    lungs = dict(zip(SIDES, sides(mask)))
    area = {side: np.count_nonzero(lung) * pixel for side, lung in lungs.items()}
    height = {side: np.count_nonzero(lung.any(axis=1)) for side, lung in lungs.items()}
    found = {f"area_{side}": area[side] for side in SIDES}
    found |= {"asymmetry": _asymmetry(area), "height_asymmetry": _asymmetry(height)}

    shown = _looks(image, mask)
    for side, lung in lungs.items():
        there = np.count_nonzero(lung) >= smallest * mask.size
        for zone, part in zip(ZONES, zones(lung)):
            for name, plane in shown.items():
                of = np.mean if name == "opacity" else np.std
                found[f"{side}_{zone}_{name}"] = of(plane[part]) if there and part.any() else np.nan
    for zone in ZONES:
        for name in shown:
            right, left = (found[f"{side}_{zone}_{name}"] for side in SIDES)
            found[f"difference_{zone}_{name}"] = abs(right - left)
    return {name: float(value) for name, value in found.items()}


def _asymmetry(of: dict[str, float]) -> float:
    total = of["right"] + of["left"]
    return abs(of["right"] - of["left"]) / total if total else np.nan


def _looks(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Opacity and two bands of detail, (H, W) float32. Blurs take only lung pixels, so that ribs' and the heart's
    edges outside of the mask leave no trace."""
    if not mask.any():
        return dict.fromkeys(("opacity", "fine", "coarse"), np.zeros(image.shape, np.float32))
    low, high = np.percentile(image[mask], 2), np.percentile(image, 98)
    grey = (image.astype(np.float32) - low) / max(high - low, 1)
    unit = len(image) / 100
    slight, middle, strong = (_blur_inside(grey, mask, sigma * unit) for sigma in (0.25, 1, 4))
    return {"opacity": grey, "fine": slight - middle, "coarse": middle - strong}


def _blur_inside(grey: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    return cv2.GaussianBlur(np.where(mask, grey, np.float32(0)), (0, 0), sigma) / np.maximum(
        weight, 1e-6
    )


def region(image: np.ndarray, mask: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """The lungs alone: the image (H, W) cropped to their box and a margin (share of the image), black outside of them.

    Holes are kept open only where they touch the outside: a dense opacity that the mask leaves out stays visible.

    Raises:
        DataError: the mask is empty; there is nothing to look at.
    """
    if not mask.any():
        raise DataError("region: the lung mask is empty; look at the segmentation of this image")
    filled = ndimage.binary_fill_holes(mask)
    edges = [round(margin * n) for n in image.shape]
    box = tuple(
        slice(max(0, b.start - edge), b.stop + edge)
        for b, edge in zip(metrics.box_of(filled), edges)
    )
    return np.where(filled, image, 0)[box].astype(image.dtype)
