"""What the painters share: soft edges, mixed colours, noise, ovals, curves, encoded pictures.

A shape is drawn from its *depth*: for every pixel the distance below the shape's rim, positive
inside and negative outside. `edge` turns the depth into a soft mask.
"""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.interpolate import CubicSpline


def edge(depth: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """How much of each pixel a shape covers, from 0 outside to 1 inside.

    It rises linearly over a rim of this width, in the unit of `depth`, about depth 0.
    """
    return np.clip(depth / width + 0.5, 0, 1)


def blend(under: np.ndarray, over: np.ndarray | float, share: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) or values (H, W), mixed with a share (H, W) of `over`, 0 to 1."""
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


def oval(x: np.ndarray, y: np.ndarray, a: float, b: float, angle: float) -> np.ndarray:
    """Depth (H, W) float32 of an ellipse with half axes a and b about the origin of x and y."""
    u, v = rotated(x, y, angle)
    # Exact for a circle; for other ellipses close enough for a soft edge.
    return np.float32((1 - np.hypot(u / a, v / b)) * np.sqrt(a * b))


def curve(points: np.ndarray, n: int, ends: str = "not-a-knot") -> np.ndarray:
    """A smooth curve (n, 2) through points (k, 2); `ends` as `bc_type` of SciPy's CubicSpline."""
    # Chord lengths as parameter, so that the curve does not overshoot between distant points.
    t = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    return CubicSpline(t, points, bc_type=ends)(np.linspace(0, t[-1], n))


def soften(layer: np.ndarray, sigma: float) -> np.ndarray:
    """A layer blurred by a Gaussian of `sigma` pixels."""
    return cv2.GaussianBlur(layer, (0, 0), sigma)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of a kind that Pillow knows, such as "JPEG"."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
