"""Synthetic dermatoscope pictures of skin lesions.

Skin is a pale ground on which blood and melanin absorb light. A lesion has more or less of both, in
patches of several colours, within a ragged border. Hair, rulers, gel bubbles, marker ink and the
dark corners of the instrument lie on top.
"""

import cv2
import numpy as np

from .drawing import blend, edge, encoded, oval, smooth_noise, soften

# Absorption of red, green and blue light.
BLOOD, MELANIN = np.float32([0.25, 1.0, 0.85]), np.float32([0.75, 1.15, 1.6])
GROUND = np.float32([0.97, 0.88, 0.82])  # colour of skin without blood and melanin
DEEP = np.float32([0.36, 0.41, 0.52])  # melanin deep below the surface looks blue
DARK_HAIR, FAIR_HAIR = np.float32([0.13, 0.09, 0.07]), np.float32([0.75, 0.62, 0.45])


# Hospital -> least and greatest brightness, tint in red, green and blue, gamma, blur in pixels and
# noise in grey values.
CAMERAS = {
    "first": ([0.75, 0.95, 0.92, 0.85, 0.9, 0.4, 2], [1.12, 1.05, 1.02, 1.1, 1.1, 1.1, 6]),
    # Cold light, and a camera that is darker, steeper, less sharp and noisier.
    "second": ([0.7, 0.82, 0.9, 1.0, 1.2, 1.0, 5], [1.05, 0.95, 1.02, 1.25, 1.7, 1.9, 12]),
}
# Hospital -> least and greatest blood of the skin, and how often hair, ruler, ink, bubbles and the
# instrument's round view are seen.
VISITS = {
    "first": ((0.1, 0.4), (0.55, 0.3, 0.2, 0.3, 0.4)),
    "second": ((0.3, 0.8), (0.75, 0.1, 0.5, 0.6, 0.9)),
}


def binary_case(
    i: int, rng: np.random.Generator, hospital: str = "first"
) -> dict[str, bytes | np.ndarray]:
    """Files of phantom number `i`: a JPEG of a lesion and its mask, (H, W) uint8 of 0 and 255.

    `images/lesion_0001.jpg` has sides of 240 to 320 pixels; `masks/lesion_0001_mask.png` is of the
    same size. Of 12 cases, two show one to four spots of 10 to 60 pixels each, and one shows
    healthy skin: its mask is there, and empty.
    """
    skin = _Skin(rng)
    # Decided by i, so that small sets hold healthy skin, and pale, brown and small lesions.
    healthy, small = i % 12 == 10, i % 12 in (4, 7)
    pale = i % 4 == 2 and not healthy
    mask, depth = _spots(skin, rng) if small else _lesion(skin, rng)
    if healthy:
        mask, depth = mask & False, np.full_like(depth, -1)
    # Around a pale lesion the skin has to be dark enough for the lesion to be seen.
    tone = rng.uniform(0.7, 1.3) if pale else rng.choice([0.15, 0.4, 0.75], p=[0.45, 0.35, 0.2])
    melanin = tone * rng.uniform(0.8, 1.25)
    melanin = melanin * (1 + 0.12 * skin.clouds(rng, 6) + 0.1 * skin.clouds(rng, 40))
    blood = rng.uniform(*VISITS[hospital][0]) * (
        1 + 0.25 * skin.clouds(rng, 4) + 0.1 * skin.clouds(rng, 25)
    )
    lesion = _pale_lesion if pale else _brown_lesion
    more_melanin, more_blood, blue = lesion(skin, rng, depth)
    if small:
        more_melanin = more_melanin + rng.uniform(0.5, 1.0) * edge(depth, 0.008)
    melanin, blood = (melanin + more_melanin).clip(0.03), (blood + more_blood).clip(0)
    # Freckles are as dark as a lesion, so that a threshold alone cannot find it; fainter where the
    # lesions are as small.
    freckles = edge(skin.clouds(rng, 18) - rng.uniform(1.1, 1.8), 0.3) * (depth < 0)
    melanin = melanin + (0.1 if small else 0.4) * freckles
    colour = GROUND * np.exp(-BLOOD * blood[..., None] - MELANIN * melanin[..., None])
    colour = blend(colour, DEEP * rng.uniform(0.7, 1.1), blue)
    hairy, *marks, tube = VISITS[hospital][1]
    if rng.random() < hairy:
        hair = DARK_HAIR if rng.random() < 0.8 else FAIR_HAIR
        colour = blend(colour, hair, 0.85 * _hair(skin, rng))
    colour = _marks(skin, rng, colour, marks)
    picture = _expose(skin, rng, colour, mask, CAMERAS[hospital], tube)
    name = f"lesion_{i + 1:04d}"
    return {
        f"images/{name}.jpg": encoded(picture, "JPEG", quality=90),
        f"masks/{name}_mask.png": np.uint8(255 * mask),
    }


class _Skin:
    """The frame of a picture of random size, with coordinates.

    The origin is the middle of the lesion, and lengths are shares of the picture's shorter side.

    Attributes:
        size: (height, width) in pixels; `short` is the shorter of them.
        middle: x and y of the origin in pixels.
        x, y: coordinates of every pixel, (H, W) float32.
        radius: distance from the middle of the picture, (H, W); 1 in its corners.
    """

    def __init__(self, rng):
        self.size = height, width = tuple(int(side) for side in rng.integers(240, 321, 2))
        self.short = min(self.size)
        self.middle = np.array([width, height]) * rng.uniform(0.42, 0.58, 2)
        columns, rows = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        self.x = (columns - self.middle[0]) / self.short
        self.y = (rows - self.middle[1]) / self.short
        corner = np.hypot(columns - width / 2, rows - height / 2)
        self.radius = corner / np.hypot(width / 2, height / 2)

    def clouds(self, rng, cells):
        """Smooth noise (H, W), about -1..1, with `cells` bumps along the shorter side."""
        rows, columns = (max(2, round(cells * side / self.short)) for side in self.size)
        return smooth_noise(rng, (rows, columns), self.size)

    def oval(self, x, y, a, b, angle=0.0):
        """Depth (H, W) below the rim of an ellipse with half axes a and b, negative outside."""
        return oval(self.x - x, self.y - y, a, b, angle)

    def strokes(self, width, curves):
        """Lines (H, W), 0..1, of `width` pixels through points x, y in pixels."""
        layer = np.zeros(self.size, np.uint8)
        # With shift=4 OpenCV counts in 1/16 pixel.
        points = [np.int32(np.round(curve * 16)) for curve in curves]
        cv2.polylines(layer, points, False, 255, width, cv2.LINE_AA, 4)
        return layer.astype(np.float32) / 255

    def soft(self, layer, sigma):
        """A layer blurred by `sigma`, a share of the shorter side."""
        return soften(layer, sigma * self.short)


def _lesion(skin, rng):
    """Mask (H, W) bool of a lesion, and the depth (H, W) below its rim, negative outside.

    Its shape is the union of one to three ovals, with a ragged border.
    """
    size = rng.uniform(0.13, 0.42)
    depth = skin.oval(0, 0, *(size * rng.uniform([0.8, 0.65], [1.1, 1.0])), rng.uniform(0, 3))
    for _ in range(rng.integers(0, 3)):
        angle, reach = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 0.7)
        lobe = size * rng.uniform(0.4, 0.7, 2)
        x, y = reach * np.cos(angle), reach * np.sin(angle)
        depth = np.maximum(depth, skin.oval(x, y, *lobe, angle))
    ragged = rng.uniform(0.1, 0.5) * skin.clouds(rng, 8)
    ragged = ragged + rng.uniform(0.02, 0.2) * skin.clouds(rng, 22)
    depth = depth + size * 0.4 * ragged
    mask = _outline(depth > 0)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    return mask > 0, (inside - outside) / skin.short


def _spots(skin, rng):
    """As `_lesion`, for one to four spots of 10 to 60 pixels each, apart from each other."""
    depth = np.full(skin.size, -1, np.float32)
    angle, n = rng.uniform(0, 2 * np.pi), int(rng.integers(1, 5))
    for k in range(n):
        radius, shape = np.sqrt(rng.uniform(15, 54) / np.pi) / skin.short, rng.uniform(0.75, 1.3)
        reach, heading = rng.uniform(0.06, 0.3), angle + 2 * np.pi * (k + 0.3 * rng.random()) / n
        x, y = reach * np.cos(heading), reach * np.sin(heading)
        spot = skin.oval(x, y, radius * shape, radius / shape, rng.uniform(0, 3))
        depth = np.maximum(depth, spot)
    return depth > 0, depth


def _outline(shape):
    """The largest connected component of a shape (H, W) bool with its holes filled, as uint8.

    An expert would outline a lesion in this way.
    """
    _, components = cv2.connectedComponents(np.uint8(shape), connectivity=4)
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    contours, _ = cv2.findContours(
        np.uint8(components == largest), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(np.zeros(shape.shape, np.uint8), contours, -1, 1, cv2.FILLED)


def _rim(skin, rng, depth):
    """What both kinds of lesion need: their size, and soft mask, patches and grain (H, W)."""
    size = max(float(depth.max()), 0.005)
    inside = edge(depth, rng.uniform(0.015, 0.3) * size + 0.008)
    patches = edge(skin.clouds(rng, 5) + rng.uniform(-0.3, 0.2), 0.4)
    return size, inside, patches, skin.clouds(rng, 14)


def _pale_lesion(skin, rng, depth):
    """As `_brown_lesion`, for a lesion that is scarred or has no pigment: pale or pink."""
    _, inside, patches, grain = _rim(skin, rng, depth)
    melanin = -rng.uniform(0.45, 0.85) * inside * (1 + 0.2 * grain)
    blood = inside * (rng.uniform(-0.2, 0.25) + 0.25 * patches + 0.1 * grain)
    return melanin, blood, 0 * inside


def _brown_lesion(skin, rng, depth):
    """Melanin and blood (H, W) that a lesion adds, and the share of deep, blue melanin."""
    size, inside, patches, grain = _rim(skin, rng, depth)
    strength = rng.uniform(0.5, 1.3)
    # A brown net, dots, and darker and redder parts.
    net = 1 - np.minimum(1, np.abs(skin.clouds(rng, 30)) / 0.35)
    dots = edge(skin.clouds(rng, 45) - rng.uniform(0.55, 0.9), 0.3)
    dots = dots * edge(skin.clouds(rng, 5), 0.3)
    melanin = 0.55 + 0.2 * grain + rng.uniform(0.1, 0.9) * patches + rng.uniform(0, 0.35) * net
    melanin = strength * melanin
    melanin += rng.uniform(0, 1.2) * dots
    if rng.random() < 0.2:  # a part of the lesion has faded
        melanin *= 1 - 0.85 * edge(skin.clouds(rng, 4) - 0.2, 0.3)
    blood = rng.uniform(0, 0.35) + 0.4 * rng.random() * edge(skin.clouds(rng, 4), 0.4)
    blue = edge(skin.clouds(rng, 4) - 0.1, 0.5) * edge(depth - 0.3 * size, 0.3 * size)
    blue *= (rng.random() < 0.2) * (0.7 + 0.25 * grain)
    return melanin * inside, blood * inside, blue


def _hair(skin, rng):
    """Share (H, W) of hairs that cover the skin; they are 1 or 2 pixels wide."""
    height, width = skin.size
    cover, t = np.zeros(skin.size, np.float32), np.linspace(0, 1, 25)[:, None]
    flow = rng.uniform(0, 2 * np.pi)
    for thickness in (1, 2):
        curves = []
        for _ in range(rng.integers(0, 14)):
            heading, bend = rng.normal(flow, 0.5), rng.normal(0, 0.25)
            direction = np.array([np.cos(heading), np.sin(heading)])
            sideways = direction[::-1] * [-1, 1]
            length = skin.short * rng.uniform(0.3, 1.2)
            start = rng.uniform(0, 1, 2) * [width, height] - direction * length / 2
            curves.append(start + length * (t * direction + bend * t**2 * sideways))
        if curves:
            cover = np.maximum(cover, skin.strokes(thickness, curves))
    return skin.soft(cover, 0.002)


def _marks(skin, rng, picture, shares):
    """The picture (H, W, 3) with ruler, ink and gel bubbles, in these shares of the cases."""
    if rng.random() < shares[0]:
        picture = blend(picture, np.float32(0.12), 0.8 * _ruler(skin, rng))
    if rng.random() < shares[1]:
        angle, t = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, 20)
        arc = np.stack([np.cos(angle + t), np.sin(angle + t)], 1)
        arc = arc * rng.uniform(0.42, 0.5) * skin.short
        ink = skin.soft(skin.strokes(8, [arc + skin.middle]), 0.006)
        picture = picture * (1 - ink[..., None] * np.float32([0.6, 0.75, 0.25]))
    if rng.random() < shares[2]:
        picture = blend(picture, np.float32(0.95), _bubbles(skin, rng))
    return picture


def _ruler(skin, rng):
    """The millimetre marks (H, W) of a ruler along the left or the upper edge."""
    places = np.arange(rng.uniform(3, 8), max(skin.size), rng.uniform(8, 13))
    ticks = [
        np.array([[0, place], [22 if k % 5 == 0 else 12, place]]) for k, place in enumerate(places)
    ]
    if rng.random() < 0.5:
        ticks = [tick[:, ::-1] for tick in ticks]
    return skin.strokes(1, ticks)


def _bubbles(skin, rng):
    """Rims (H, W) of bubbles in the gel between skin and instrument."""
    height, width = skin.size
    rings = np.zeros(skin.size, np.uint8)
    for _ in range(rng.integers(2, 10)):
        centre = tuple(int(coordinate) for coordinate in rng.uniform(0, [width, height]))
        cv2.circle(rings, centre, int(rng.integers(3, 14)), 255, 1, cv2.LINE_AA)
    return skin.soft(rings.astype(np.float32) / 255, 0.004)


def _expose(skin, rng, colour, mask, camera, often):
    """Reflected colour (H, W, 3) -> picture (H, W, 3) uint8: light, camera, dark corners.

    `camera` is one of `CAMERAS`; the instrument's round view is seen as `often`, 0 to 1.
    """
    slope = rng.normal(0, 0.15, 2)
    vignette = rng.uniform(0, 0.35) * skin.radius**2
    light = 1 + slope[0] * skin.x + slope[1] * skin.y - vignette
    gain, *tint, gamma, blur, grain = rng.uniform(*camera)
    colour = colour * np.float32(gain * np.array(tint)) * light[..., None]
    tube = 2.0  # radius of the instrument's round view; 2 lies outside the picture
    if rng.random() < often:  # where it is visible, it never cuts the lesion
        tube = max(rng.uniform(0.75, 0.95), skin.radius[mask].max(initial=0))
    colour = colour * np.clip((tube - skin.radius) / rng.uniform(0.02, 0.2) + 1, 0, 1)[..., None]
    shot = soften(colour, blur).clip(0) ** gamma
    shot = 255 * shot + grain * rng.standard_normal((*skin.size, 3), np.float32)
    return shot.clip(0, 255).astype(np.uint8)
