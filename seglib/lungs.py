"""Measures of the lungs in a chest X-ray: area, asymmetry, opacity and texture by zone.

Right and left are the patient's: the right lung lies on the left of the image.
Taught in `09_tb_two_step`.
"""

import cv2
import numpy as np
from scipy import ndimage

from . import metrics
from .errors import DataError

ZONES = ("upper", "middle", "lower")
SIDES = ("right", "left")


def sides(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The right and the left lung of a mask (H, W) bool.

    The mask is cut in the middle third of the image, at the column with the fewest lung pixels; of
    several such columns, at the most central.
    """
    width = mask.shape[1]
    columns = np.arange(width // 3, width - width // 3)
    n_lung = mask.sum(axis=0)[columns]
    off_centre = np.abs(columns - width / 2)
    cut = columns[np.lexsort((off_centre, n_lung))[0]]
    right, left = mask.copy(), mask.copy()
    right[:, cut:] = left[:, :cut] = False
    return right, left


def zones(lung: np.ndarray) -> list[np.ndarray]:
    """Upper, middle and lower third of the height of one lung (H, W) bool, as three masks."""
    rows = np.flatnonzero(lung.any(axis=1))
    if not len(rows):
        return [lung] * 3
    edges = np.linspace(rows[0], rows[-1] + 1, 4).round().astype(int)
    third_of_row = np.searchsorted(edges, np.arange(len(lung)), side="right")[:, None]
    return [lung & (third_of_row == third) for third in (1, 2, 3)]


def measures(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float] | None = None,
    smallest: float = 0.001,
) -> dict[str, float]:
    """Measures of the lungs in one X-ray.

    Grey values are scaled so that the 2nd percentile of the lungs is 0 and the 98th percentile of
    the image is 1, which removes differences of exposure and contrast. Opacity is the mean of the
    scaled values. Fine and coarse texture are the standard deviation of details whose size is about
    1/100 (vessels, small nodules) and 1/25 (infiltrates) of the image's height.

    Args:
        image: (H, W) uint8, lungs dark.
        mask: (H, W) bool. A mask that is true everywhere measures the whole image in the same
            zones.
        spacing: mm per pixel (row, column). Areas are in mm²; without it, shares of the image.
        smallest: a lung that covers a smaller share of the image than this counts as not found.

    Returns:
        area_right, area_left, asymmetry (0 = equal, 1 = one lung only), height_asymmetry; for every
        side and zone opacity, fine and coarse; and `difference_<zone>_<measure>`, the absolute
        difference of right and left. NaN where a zone is empty or its lung was not found.

    Raises:
        DataError: image and mask are not two arrays (H, W) of one shape.
    """
    if image.ndim != 2 or image.shape != mask.shape:
        raise DataError(
            f"measures: image {image.shape} and mask {mask.shape}; "
            "expected one shape (height, width)"
        )
    mask = mask.astype(bool)
    pixel_area = spacing[0] * spacing[1] if spacing else 1 / mask.size
    lungs = dict(zip(SIDES, sides(mask)))
    area = {side: np.count_nonzero(lung) * pixel_area for side, lung in lungs.items()}
    height = {side: np.count_nonzero(lung.any(axis=1)) for side, lung in lungs.items()}
    values = {f"area_{side}": area[side] for side in SIDES}
    values |= {"asymmetry": _asymmetry(area), "height_asymmetry": _asymmetry(height)}

    planes = _opacity_and_texture(image, mask)
    for side, lung in lungs.items():
        is_large_enough = np.count_nonzero(lung) >= smallest * mask.size
        for zone_name, zone in zip(ZONES, zones(lung)):
            for name, plane in planes.items():
                value = np.nan
                if is_large_enough and zone.any():
                    value = plane[zone].mean() if name == "opacity" else plane[zone].std()
                values[f"{side}_{zone_name}_{name}"] = value
    for zone_name in ZONES:
        for name in planes:
            right, left = (values[f"{side}_{zone_name}_{name}"] for side in SIDES)
            values[f"difference_{zone_name}_{name}"] = abs(right - left)
    return {name: float(value) for name, value in values.items()}


def _asymmetry(sizes: dict[str, float]) -> float:
    total = sizes["right"] + sizes["left"]
    return abs(sizes["right"] - sizes["left"]) / total if total else np.nan


def _opacity_and_texture(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Scaled grey values, fine details and coarse details, (H, W) float32.

    Details are differences of blurred images. Only lung pixels are blurred, so that heart and chest
    wall do not influence them.
    """
    if not mask.any():
        return dict.fromkeys(("opacity", "fine", "coarse"), np.zeros(image.shape, np.float32))
    low, high = np.percentile(image[mask], 2), np.percentile(image, 98)
    grey = (image.astype(np.float32) - low) / max(high - low, 1)
    unit = len(image) / 100  # so that the details scale with the image
    sharp, smooth, smoothest = (_blur_inside(grey, mask, sigma * unit) for sigma in (0.25, 1, 4))
    return {"opacity": grey, "fine": sharp - smooth, "coarse": smooth - smoothest}


def _blur_inside(grey: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur in which only the pixels of the mask have a weight."""
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    total = cv2.GaussianBlur(np.where(mask, grey, np.float32(0)), (0, 0), sigma)
    return total / np.maximum(weight, 1e-6)


def region(image: np.ndarray, mask: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """The image (H, W) cropped to the lungs, black outside of them.

    Holes in the mask are filled, so that a dense opacity that the segmentation left out stays
    visible.

    Args:
        margin: kept around the box of the lungs, a share of the image's height and width.

    Raises:
        DataError: the mask is empty.
    """
    if not mask.any():
        raise DataError("region: the lung mask is empty; look at the segmentation of this image")
    filled = ndimage.binary_fill_holes(mask)
    box = []
    for side, size in zip(metrics.box_of(filled), image.shape):
        edge = round(margin * size)
        box.append(slice(max(0, side.start - edge), side.stop + edge))
    return np.where(filled, image, 0)[tuple(box)].astype(image.dtype)
