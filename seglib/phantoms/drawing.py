"""What all painters share: soft edges, mixed colours, smooth noise, rotated coordinates."""

import cv2
import numpy as np


def edge(depth: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Share of a shape, 0 outside to 1 inside, from the depth below its rim.

    `width` is that of the rim, in the unit of `depth`.
    """
    return np.clip(depth / width + 0.5, 0, 1)


def blend(under: np.ndarray, over: np.ndarray | float, share: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) or values (H, W), mixed by a share (H, W) of `over`."""
    share = share[..., None] if under.ndim == 3 else share
    return under + (over - under) * share


def smooth_noise(
    rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Noise of `size` (H, W) float32, about -1..1, with `cells` (rows, columns) of bumps."""
    coarse = rng.normal(0, 0.5, cells).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in axes that are turned by an angle in radians, from x towards y."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def soften(layer: np.ndarray, sigma: float) -> np.ndarray:
    """A layer blurred by a Gaussian of `sigma` pixels."""
    return cv2.GaussianBlur(layer, (0, 0), sigma)
