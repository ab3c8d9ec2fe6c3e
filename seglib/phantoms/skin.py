"""Synthetic dermatoscope pictures of skin lesions.

Skin is a pale ground that blood and melanin tint; a lesion has more or less of either, in patches of several colours,
behind a ragged border. Hair, rulers, gel bubbles, marker ink and the instrument's dark corners lie on top.
"""

import io

import cv2
import numpy as np
from PIL import Image

# Absorption of red, green and blue light.
BLOOD, MELANIN = np.float32([0.25, 1.0, 0.85]), np.float32([0.75, 1.15, 1.6])
GROUND, DEEP = (
    np.float32([0.97, 0.88, 0.82]),
    np.float32([0.36, 0.41, 0.52]),
)  # bare skin; melanin deep below looks blue


class _Skin:
    """A picture of random size. Lengths are shares of its shorter side; the lesion's middle is the origin."""

    def __init__(self, rng):
        self.size = height, width = tuple(int(s) for s in rng.integers(240, 321, 2))
        self.short = min(self.size)
        self.middle = np.array([width, height]) * rng.uniform(0.42, 0.58, 2)
        columns, rows = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        self.x, self.y = (
            (columns - self.middle[0]) / self.short,
            (rows - self.middle[1]) / self.short,
        )
        corner = np.hypot(columns - width / 2, rows - height / 2)
        self.out = corner / np.hypot(width / 2, height / 2)  # 1 in the corners

    def clouds(self, rng, cells):
        """Smooth noise (H, W), about -1..1, with so many bumps along the shorter side."""
        shape = [max(2, round(cells * side / self.short)) for side in self.size]
        return cv2.resize(
            rng.normal(0, 0.5, shape).astype(np.float32),
            self.size[::-1],
            interpolation=cv2.INTER_CUBIC,
        )

    def oval(self, x, y, a, b, turn=0.0):
        """Depth below the rim of an ellipse, negative outside."""
        u, v = self.x - x, self.y - y
        u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        return np.float32((1 - np.hypot(u / a, v / b)) * np.sqrt(a * b))

    def strokes(self, width, curves):
        """Lines (H, W), 0..1, through points x, y in pixels."""
        layer = np.zeros(self.size, np.uint8)
        points = [np.int32(np.round(curve * 16)) for curve in curves]
        # With shift=4 OpenCV counts in 1/16 pixel.
        cv2.polylines(layer, points, False, 255, width, cv2.LINE_AA, 4)
        return layer.astype(np.float32) / 255

    def soft(self, layer, sigma):
        return cv2.GaussianBlur(layer, (0, 0), sigma * self.short)


def _edge(depth, width):
    """0 outside, 1 inside, with a rim of this width."""
    return np.clip(depth / width + 0.5, 0, 1)


def _blend(under, over, share):
    """Colours (H, W, 3) mixed by a share (H, W)."""
    return under + (over - under) * share[..., None]


def _lesion(skin, rng):
    """Mask (H, W) bool, and depth below its rim: up to three ovals that grew together, with a ragged border."""
    size = rng.uniform(0.13, 0.42)
    depth = skin.oval(0, 0, *(size * rng.uniform([0.8, 0.65], [1.1, 1.0])), rng.uniform(0, 3))
    for _ in range(rng.integers(0, 3)):
        angle, reach = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 0.7)
        lobe = size * rng.uniform(0.4, 0.7, 2)
        depth = np.maximum(
            depth, skin.oval(reach * np.cos(angle), reach * np.sin(angle), *lobe, angle)
        )
    ragged = rng.uniform(0.1, 0.5) * skin.clouds(rng, 8) + rng.uniform(0.02, 0.2) * skin.clouds(
        rng, 22
    )
    depth = depth + size * 0.4 * ragged
    # One piece without holes, as an expert outlines it.
    _, labels = cv2.connectedComponents(np.uint8(depth > 0), connectivity=4)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    outline, _ = cv2.findContours(
        np.uint8(labels == largest), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    mask = cv2.drawContours(np.zeros(skin.size, np.uint8), outline, -1, 1, cv2.FILLED)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3) - cv2.distanceTransform(
        1 - mask, cv2.DIST_L2, 3
    )
    return mask > 0, inside / skin.short


def _pigment(skin, rng, depth, kind):
    """Melanin and blood (H, W) that the lesion adds or takes, and the share of deep, blue melanin."""
    size = max(float(depth.max()), 0.05)
    inside = _edge(depth, rng.uniform(0.015, 0.3) * size + 0.008)
    patches = _edge(skin.clouds(rng, 5) + rng.uniform(-0.3, 0.2), 0.4)
    grain = skin.clouds(rng, 14)
    if kind == "pale":  # scarred, or without pigment: lighter than the skin, or pink
        melanin = -rng.uniform(0.35, 0.75) * inside * (1 + 0.2 * grain)
        blood = inside * (rng.uniform(-0.2, 0.25) + 0.25 * patches + 0.1 * grain)
        return melanin, blood, 0 * inside
    strength = rng.uniform(0.35, 1.3)
    # A brown net whose meshes widen to the rim, dots, darker and redder parts.
    net = 1 - np.minimum(1, np.abs(skin.clouds(rng, 30)) / 0.35)
    dots = _edge(skin.clouds(rng, 45) - rng.uniform(0.55, 0.9), 0.3) * _edge(
        skin.clouds(rng, 5), 0.3
    )
    melanin = strength * (
        0.55 + 0.2 * grain + rng.uniform(0.1, 0.9) * patches + rng.uniform(0, 0.35) * net
    )
    melanin += rng.uniform(0, 1.2) * dots
    if rng.random() < 0.35:  # a part that vanished
        melanin *= 1 - 0.85 * _edge(skin.clouds(rng, 4) - 0.2, 0.3)
    blood = rng.uniform(0, 0.35) + 0.4 * rng.random() * _edge(skin.clouds(rng, 4), 0.4)
    blue = _edge(skin.clouds(rng, 4) - 0.1, 0.5) * _edge(depth - 0.3 * size, 0.3 * size)
    blue *= (rng.random() < 0.2) * (0.7 + 0.25 * grain)
    return melanin * inside, blood * inside, blue


def _hair(skin, rng):
    """Share (H, W) of hairs that cover the skin; their width is 1 or 2 pixels."""
    height, width = skin.size
    cover, t = np.zeros(skin.size, np.float32), np.linspace(0, 1, 25)[:, None]
    flow = rng.uniform(0, 2 * np.pi)
    for thick in (1, 2):
        curves = []
        for _ in range(rng.integers(0, 16)):
            heading, bend = rng.normal(flow, 0.5), rng.normal(0, 0.25)
            ahead = np.array([np.cos(heading), np.sin(heading)])
            length = skin.short * rng.uniform(0.3, 1.2)
            start = rng.uniform(0, 1, 2) * [width, height] - ahead * length / 2
            curves.append(start + length * (t * ahead + bend * t**2 * ahead[::-1] * [-1, 1]))
        if curves:
            cover = np.maximum(cover, skin.strokes(thick, curves))
    return skin.soft(cover, 0.002)


def _marks(skin, rng, picture):
    """Ruler, marker ink and gel bubbles on the picture (H, W, 3)."""
    height, width = skin.size
    if rng.random() < 0.3:  # millimetres along the left or the upper edge
        places = np.arange(rng.uniform(3, 8), max(height, width), rng.uniform(8, 13))
        ticks = [np.array([[0, at], [22 if k % 5 == 0 else 12, at]]) for k, at in enumerate(places)]
        ticks = [tick[:, ::-1] for tick in ticks] if rng.random() < 0.5 else ticks
        picture = _blend(picture, np.float32(0.12), 0.8 * skin.strokes(1, ticks))
    if rng.random() < 0.2:
        angle, t = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, 20)
        arc = (
            np.stack([np.cos(angle + t), np.sin(angle + t)], 1)
            * rng.uniform(0.42, 0.5)
            * skin.short
        )
        ink = skin.soft(skin.strokes(8, [arc + skin.middle]), 0.006)
        picture = picture * (1 - ink[..., None] * np.float32([0.6, 0.75, 0.25]))
    if rng.random() < 0.3:
        rings = np.zeros(skin.size, np.uint8)
        for _ in range(rng.integers(2, 10)):
            place = tuple(int(p) for p in rng.uniform(0, [width, height]))
            cv2.circle(rings, place, int(rng.integers(3, 14)), 255, 1, cv2.LINE_AA)
        picture = _blend(
            picture, np.float32(0.95), skin.soft(rings.astype(np.float32) / 255, 0.004)
        )
    return picture


def _expose(skin, rng, colour, mask):
    """Reflected colour (H, W, 3) -> picture (H, W, 3) uint8: light, camera, dark corners."""
    slope = rng.normal(0, 0.15, 2)
    light = 1 + slope[0] * skin.x + slope[1] * skin.y - rng.uniform(0, 0.35) * skin.out**2
    gain, tint = rng.uniform(0.75, 1.12), rng.uniform([0.95, 0.92, 0.85], [1.05, 1.02, 1.1])
    colour = colour * np.float32(gain * tint) * light[..., None]
    # The round view of the tube never cuts the lesion.
    tube = max(rng.uniform(0.75, 0.95), skin.out[mask].max()) if rng.random() < 0.4 else 2
    colour = colour * np.clip((tube - skin.out) / rng.uniform(0.02, 0.2) + 1, 0, 1)[..., None]
    shot = cv2.GaussianBlur(colour, (0, 0), rng.uniform(0.4, 1.1))
    shot = 255 * shot + rng.uniform(1, 4) * rng.standard_normal((*skin.size, 3), np.float32)
    return shot.clip(0, 255).astype(np.uint8)


def binary_case(i, rng):
    """Files of phantom number `i`: a JPEG picture (whole file) and its mask, (H, W) uint8 of 0 and 255."""
    skin = _Skin(rng)
    # Fixed by i, so that small sets hold both.
    kind = "pale" if i % 4 == 2 else "brown"
    mask, depth = _lesion(skin, rng)
    tone = (
        rng.uniform(0.7, 1.3)
        if kind == "pale"
        else rng.choice([0.15, 0.4, 0.75], p=[0.45, 0.35, 0.2])
    )
    melanin = (
        tone
        * rng.uniform(0.8, 1.25)
        * (1 + 0.12 * skin.clouds(rng, 6) + 0.1 * skin.clouds(rng, 40))
    )
    blood = rng.uniform(0.1, 0.4) * (1 + 0.25 * skin.clouds(rng, 4) + 0.1 * skin.clouds(rng, 25))
    more_melanin, more_blood, blue = _pigment(skin, rng, depth, kind)
    melanin, blood = (melanin + more_melanin).clip(0.03), (blood + more_blood).clip(0)
    # Freckles, which a threshold takes for the lesion.
    freckles = _edge(skin.clouds(rng, 18) - rng.uniform(0.8, 1.6), 0.3) * (depth < 0)
    melanin = melanin + 0.5 * freckles
    colour = GROUND * np.exp(-BLOOD * blood[..., None] - MELANIN * melanin[..., None])
    colour = _blend(colour, DEEP * rng.uniform(0.7, 1.1), blue)
    if rng.random() < 0.5:
        shade = (
            np.float32([0.13, 0.09, 0.07]) if rng.random() < 0.8 else np.float32([0.75, 0.62, 0.45])
        )
        colour = _blend(colour, shade, 0.85 * _hair(skin, rng))
    picture = _expose(skin, rng, _marks(skin, rng, colour), mask)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    name = f"lesion_{i + 1:04d}"
    return {f"images/{name}.jpg": buffer.getvalue(), f"masks/{name}_mask.png": np.uint8(255 * mask)}
