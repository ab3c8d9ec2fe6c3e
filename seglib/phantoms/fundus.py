"""Synthetic photographs of the back of the eye, drawn by following the light.

The white sclera reflects it. The blood of the choroid, pigment and the vessels of the retina absorb
it, each with its own colour. Where there is atrophy, the bare sclera shows; a detached retina
covers it like a veil. Shapes are given in *eye coordinates*: the optic disc is the origin, the
fovea lies at x = 1, y points down.
"""

import cv2
import numpy as np

from .drawing import blend, curve, edge, encoded, oval, smooth_noise, soften

SIZES = ((308, 320), (288, 288), (288, 288))  # PALM: 2056 x 2124 and 1444 x 1444, made small
# Absorption of red, green and blue light; below, the colours of what reflects it.
BLOOD, PIGMENT = np.float32([0.28, 1.35, 1.7]), np.float32([0.8, 1.15, 1.5])
SCLERA, FAT = np.float32([1.0, 0.92, 0.72]), np.float32([1.0, 0.88, 0.52])


# Hospital -> least and greatest brightness, gamma, noise in grey values, blur in eye coordinates,
# and tint in red, green and blue.
CAMERAS = {
    "first": (
        [0.65, 0.75, 1.5, 0.002, 0.9, 0.85, 0.6],
        [1.15, 1.1, 5, 0.009, 1.05, 1.1, 1.1],
    ),
    # A hand-held camera: darker, less sharp, noisier, with a bluer lamp.
    "second": ([0.7, 1.1, 4, 0.008, 0.7, 0.95, 1.1], [1.0, 1.6, 9, 0.018, 0.85, 1.2, 1.6]),
}
# Hospital -> least and greatest pigment of the choroid, and radius of the field of view as a share
# of the photograph's height.
PATIENTS = {"first": ((0.15, 0.6), (0.492, 0.52)), "second": ((0.4, 1.0), (0.42, 0.47))}


def palm_case(i: int, rng: np.random.Generator, hospital: str = "first") -> dict[str, bytes]:
    """Files of phantom number `i` in PALM's tree: path -> a whole file.

    A JPEG photograph, `PALM/Training/Images/P0001.jpg` or in `Validation`, whose name begins with
    its finding, N, H or P; and up to three BMP masks of the same name in `Lesion Masks/Atrophy`,
    `Lesion Masks/Detachment` and `Disc Masks`. The masks are inverted like those of PALM
    (0 = structure, 255 = background). A lesion that is absent has an empty mask, 255 everywhere.
    Some masks have no file, as in PALM, whether the structure is there or not: nobody drew them.
    Some eyes have two to five patches of atrophy only, of more than 100 pixels each, so that they
    can still be seen when the photograph is made three times smaller.
    """
    # All decided by i, so that small sets hold every finding, lesion and missing file.
    photo, finding = _Photo(rng, SIZES[i % 3], hospital), "PPNPH"[i % 5]
    colour, masks = _eye(photo, rng, finding, detached=i % 5 == 0, patches=i % 10 == 8)
    missing = {
        "Disc Masks": i % 9 == 5,
        "Lesion Masks/Atrophy": i % 7 == 1,
        "Lesion Masks/Detachment": i % 4 == 2,
    }
    part, name = "Validation" if i % 4 == 3 else "Training", f"{finding}{i + 1:04d}"
    photograph = encoded(_expose(photo, rng, colour), "JPEG", quality=90)
    files = {f"PALM/{part}/Images/{name}.jpg": photograph}
    for folder, mask in masks.items():
        if not missing.get(folder):
            inverted = np.where(mask & (photo.field < 1), 0, 255).astype(np.uint8)
            files[f"PALM/{part}/{folder}/{name}.bmp"] = encoded(inverted, "BMP")
    return files


class _Photo:
    """An empty round field; draws layers (H, W) float32 in eye coordinates.

    Attributes:
        hospital: "first" or "second".
        size: (height, width) in pixels.
        x, y: eye coordinates of every pixel, (H, W) float32.
        field: distance from the middle of the field, (H, W); 1 at its rim.
        radius: that of the field in pixels; scale: pixels from disc to fovea.
        rotation, aim, centre: from eye coordinates to pixels.
    """

    def __init__(self, rng, size, hospital):
        self.hospital, self.size = hospital, size
        height, width = size
        self.radius = height * rng.uniform(*PATIENTS[hospital][1])
        self.scale = self.radius * rng.uniform(0.56, 0.72)
        angle = np.deg2rad(rng.uniform(-8, 8))
        self.rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        # Left and right eyes are mirror images of each other.
        self.rotation = np.diag([rng.choice([-1.0, 1.0]), 1.0]) @ self.rotation
        # What is in the middle of the photograph: the macula or, less often, the disc.
        if rng.random() < 0.7:
            self.aim = rng.uniform([0.65, -0.15], [0.95, 0.15])
        else:
            self.aim = rng.uniform([0.05, -0.2], [0.4, 0.2])
        self.centre = np.array([width, height]) / 2
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) - self.centre
        self.field = np.float32(np.hypot(*pixels.transpose(2, 0, 1)) / self.radius)
        places = np.float32(pixels / self.scale @ self.rotation.T + self.aim)
        self.x, self.y = places.transpose(2, 0, 1)

    def stroke(self, width, *curves):
        """Lines (H, W), 0..1; lines thinner than a pixel become faint."""
        layer, pixels = np.zeros(self.size, np.uint8), width * self.scale
        for line in curves:
            column_row = (line - self.aim) @ self.rotation * self.scale + self.centre
            # With shift=4 OpenCV counts in 1/16 pixel.
            points = np.int32(np.round(column_row * 16))
            grey, thickness = int(255 * min(1, pixels)), max(1, round(pixels))
            cv2.polylines(layer, [points], False, grey, thickness, cv2.LINE_AA, 4)
        return layer.astype(np.float32) / 255

    def oval(self, x, y, a, b, angle=0.0):
        """Depth (H, W) below the rim of an ellipse with half axes a and b, negative outside."""
        return oval(self.x - x, self.y - y, a, b, angle)

    def glow(self, x, y, reach):
        """1 at a point, fading to about a third at `reach`."""
        return np.exp(-((self.x - x) ** 2 + (self.y - y) ** 2) / reach**2)

    def soft(self, layer, sigma):
        """A layer blurred by `sigma` in eye coordinates."""
        return soften(layer, sigma * self.scale)

    def clouds(self, rng, rows, columns=None):
        """Smooth noise, about -1..1, with so many rows and columns of bumps over the photo."""
        return smooth_noise(rng, (rows, columns or rows), self.size)


def _choroid(photo, rng):
    """The net (H, W) of choroidal vessels, 0..1.

    They run where smooth noise, stretched along the flow of blood, crosses zero.
    """
    # Shifting the pixels of the net by smooth noise bends its vessels.
    shift = 0.07 * photo.scale * np.stack([photo.clouds(rng, 9), photo.clouds(rng, 9)])
    rows, columns = np.indices(photo.size, np.float32)
    net = np.zeros(photo.size, np.float32)
    for bands, width in ((11, 0.22), (18, 0.3), (26, 0.3)):
        noise = photo.clouds(rng, bands, bands // 2)
        net = np.maximum(net, 1 - np.abs(noise) / width)
    bent = cv2.remap(
        net, columns + shift[0], rows + shift[1], cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
    )
    return np.clip(1.6 * bent, 0, 1)


def _arcade(rng, up, points):
    """A long vessel (70, 2) from the disc through points; `up` = -1 mirrors them upwards."""
    points = np.array([(0, 0), *points]) * [1, up]
    points[1:] += rng.normal(0, 0.035, points[1:].shape)
    return curve(points, 70) + 0.008 * np.sin(np.linspace(0, rng.uniform(20, 45), 70))[:, None]


def _vessels(photo, rng):
    """Blood (H, W) in the vessels of the retina.

    Two arteries and two veins leave the disc upwards and downwards, and branch three times.
    """
    total = np.zeros(photo.size, np.float32)
    for depth, width in ((0.75, 0.028), (0.5, 0.02)):  # veins, then arteries
        curves = []
        for up in (-1, 1):
            reach, bend, end = rng.uniform([0.5, 0.3, 0.2], [0.85, 0.5, 0.6])
            temporal = [(0.03, 0.2), (bend, 0.85 * reach), (1, reach)]
            temporal += [(1.7, 0.75 * reach), (2.8, end)]
            nasal = [(-0.03, 0.15), (-0.4, rng.uniform(0.4, 0.8)), (-1.3, rng.uniform(0.5, 1.6))]
            curves += [_arcade(rng, up, temporal), _arcade(rng, up, nasal)]
        for thinner in (1, 0.7, 0.45, 0.3):
            # Vessels taper: the whole line is thin, its first part thick.
            for share, part in ((1, 0.65), (0.5, 1)):
                lines = [line[: int(share * len(line))] for line in curves]
                layer = photo.stroke(width * thinner * part, *lines)
                total = np.maximum(total, depth * min(1, thinner + 0.3) * layer)
            curves = _branches(rng, np.repeat(curves, 4 if thinner == 1 else 2, axis=0))
    # The fovea has no vessels, and those on the disc look fainter.
    total = photo.soft(total, 0.006) * (1 - photo.glow(1, 0, 0.28))
    return total * (1 - 0.3 * photo.glow(0, 0, 0.2))


def _branches(rng, parents):
    """A branch (18, 2) of every parent vessel, which leaves somewhere on it.

    `parents` are (branches, points, 2); a vessel with several branches is repeated.
    """
    n, points = parents.shape[:2]
    forks = np.arange(n), rng.integers(points // 6, points - 2, n)
    x, y = (parents[forks[0], forks[1] + 1] - parents[forks]).T
    angles = rng.choice([-1, 1], (n, 1)) * rng.uniform(0.4, 0.9, (n, 1))
    bends = np.arctan2(y, x)[:, None] + angles + np.cumsum(rng.normal(0, 0.14, (n, 18)), 1)
    steps = np.stack([np.cos(bends), np.sin(bends)], -1)
    return parents[forks][:, None] + 0.035 * np.cumsum(steps, 1)


def _disc(photo, rng, myopic):
    """Depth (H, W) below the rim of the optic disc, and the share of its cup, 0..1."""
    a, b = rng.uniform([0.2, 0.225], [0.23, 0.26])
    angle = rng.normal(0, 0.15 + 0.25 * myopic)
    a *= 1 - rng.uniform(0, 0.3) * myopic  # a tilted disc looks narrow
    x, y = rng.uniform(0, 0.03), rng.normal(0, 0.01)
    cup = photo.oval(x, y, *(rng.uniform(0.35, 0.65) * np.array([a, b])), angle)
    return photo.oval(0, 0, a, b, angle) + 0.01 * photo.clouds(rng, 30), edge(cup, 0.06)


def _atrophy(photo, rng, finding, disc):
    """Depth (H, W) below the rim of atrophy.

    It is a crescent at the disc, and patches where myopia is pathological.
    """
    ragged = 0.045 * photo.clouds(rng, 15) + 0.025 * photo.clouds(rng, 40)
    size = rng.uniform(0.25, 0.33) if finding == "H" else rng.uniform(0.3, 0.58)
    lean = rng.normal(0, 0.5)
    x, y = (size - 0.1) * np.array([np.cos(lean), np.sin(lean)])
    a, b = size * rng.uniform(0.7, 0.95), size * rng.uniform(0.85, 1.15)
    depth = photo.oval(x, y, a, b, lean) + ragged
    for _ in range(rng.integers(0, 4) if finding == "P" else 0):
        x, y = rng.uniform([0.5, -0.6], [1.5, 0.6])
        a, b = rng.uniform(0.06, 0.24, 2)
        depth = np.maximum(depth, photo.oval(x, y, a, b, rng.uniform(0, 3)) + 1.6 * ragged)
    return np.minimum(depth, -disc)


def _patches(photo, rng):
    """As `_atrophy`, for two to five patches, away from disc and rim."""
    depth = np.full(photo.size, -1, np.float32)
    places = rng.permutation([(x, y) for x in (0.45, 0.75, 1.05) for y in (-0.35, 0, 0.35)])
    places = places + rng.uniform(-0.09, 0.09, places.shape)
    for place in places[: rng.integers(2, 6)]:
        radius = np.sqrt(rng.uniform(120, 500) / np.pi) / photo.scale
        shape = rng.uniform(0.75, 1.3)
        patch = photo.oval(*place, radius * shape, radius / shape, rng.uniform(0, 3))
        depth = np.maximum(depth, patch)
    return depth


def _detachment(photo, rng):
    """Depth (H, W) of a detached retina, and its folds (H, W), about -1..1.

    It fills the field from a wavy line to the rim.
    """
    towards = rng.uniform(-0.5, 0.5) + rng.choice([0, np.pi / 2, -np.pi / 2], p=[0.3, 0.5, 0.2])
    along = np.cos(towards) * photo.x + np.sin(towards) * photo.y
    across = np.cos(towards) * photo.y - np.sin(towards) * photo.x
    bulge = rng.uniform(-0.3, 0.4) * (across - rng.uniform(-0.3, 0.3)) ** 2
    far = np.cos(towards) * photo.aim[0] + np.sin(towards) * photo.aim[1]
    far = far + photo.radius / photo.scale
    line = max(0.35, far - rng.uniform(0.7, 1.15))
    depth = along - line - bulge + 0.1 * photo.clouds(rng, 6) + 0.02 * photo.clouds(rng, 25)
    phase = rng.uniform(8, 14) * (0.6 * along + rng.uniform(-0.6, 0.6) * across)
    phase = phase + 3 * photo.clouds(rng, 5)
    folds = 1 - 2 * np.abs(np.sin(phase / 2 + photo.clouds(rng, 9)))
    return depth, folds * np.clip(photo.clouds(rng, 5) + 0.7, 0, 1)


def _bright_spots(photo, rng, disc):
    """Share (H, W) of what is as bright as the disc: exudates, and myelinated nerve fibres."""
    dots = np.zeros(photo.size, np.float32)
    for _ in range(rng.integers(1, 4) if rng.random() < 0.25 else 0):
        x, y, spread = rng.uniform([0.4, -0.7, 0.05], [1.6, 0.7, 0.2])
        spots = rng.normal([x, y], spread, (rng.integers(4, 22), 2))
        widths = rng.choice([0.02, 0.035, 0.06], len(spots))
        for width in set(widths):
            # `stroke` draws a line of length 0 as a dot.
            lines = [np.array([spot, spot]) for spot in spots[widths == width]]
            dots = np.maximum(dots, photo.stroke(width, *lines))
    share = 0.9 * photo.soft(dots, 0.012)
    if rng.random() < 0.04:
        headings = rng.choice([-1, 1]) * rng.uniform(0.9, 1.7) + rng.uniform(-0.6, 0.6, 120)
        starts = 0.15 * np.stack([np.cos(headings), np.sin(headings)], 1)
        lengths = rng.uniform(1.5, 4, 120)
        lines = [np.array([start, length * start]) for start, length in zip(starts, lengths)]
        fibres = photo.stroke(0.01, *lines)
        fibres = 2.5 * photo.soft(fibres, 0.015) * photo.glow(0, 0, rng.uniform(0.35, 0.5))
        share = np.maximum(share, fibres.clip(0, 0.9) * (disc < 0.02))
    return share


def _expose(photo, rng, colour):
    """Reflected colour (H, W, 3) -> photograph (H, W, 3) uint8.

    Adds light, haze, reflexes, the camera and the black surround.
    """
    glow = rng.normal(0, 0.3, 2) + photo.aim
    light = 1 - rng.uniform(0.25, 0.75) * np.minimum(photo.field, 1) ** 2
    light = light + rng.uniform(0, 0.3) * photo.glow(*glow, 0.9)
    light *= 1 + 0.12 * photo.clouds(rng, 3)
    gain, gamma, grain, blur, *tint = rng.uniform(*CAMERAS[photo.hospital])
    colour = colour * np.float32(tint) * light[..., None]
    # Light scattered in lens and vitreous, greener than the fundus; more of it towards the rim.
    haze = rng.choice([0.02, 0.1, 0.3], p=[0.5, 0.35, 0.15]) * rng.uniform(0.7, 1.2)
    haze = haze * (0.6 + rng.uniform(0, 1.2) * photo.field**3) * (1 + 0.2 * photo.clouds(rng, 3))
    veil = np.float32(rng.uniform([0.35, 0.4, 0.3], [0.6, 0.55, 0.45]))
    colour = blend(colour, veil, np.clip(haze, 0, 0.6))
    if rng.random() < 0.3:  # a reflex of lid or lens: an arc at the rim
        x, y = photo.aim + photo.radius / photo.scale * rng.normal(0, 0.8, 2)
        reflex = photo.glow(x, y, rng.uniform(0.4, 0.9))
        reflex *= edge(photo.field - rng.uniform(0.8, 0.95) + 0.05 * photo.clouds(rng, 8), 0.15)
        colour = blend(colour, np.float32([1.0, 0.8, 0.55]), reflex)
    noise = rng.standard_normal((*photo.size, 3), np.float32)
    shot = 255 * np.clip(gain * photo.soft(colour, blur), 0, 1.05) ** gamma + grain * noise
    shot = shot * edge(1 - photo.field, 3 / photo.radius)[..., None] + rng.uniform(0, 4)
    return shot.clip(0, 255).astype(np.uint8)


def _eye(photo, rng, finding, detached, patches=False):
    """The eye's colour (H, W, 3) in even light, and the masks (H, W) bool of what it shows.

    The key of a mask is its folder in PALM. `patches`: atrophy is a few patches only.
    """
    myopic = finding != "N"
    disc, cup = _disc(photo, rng, myopic)
    net, texture = _choroid(photo, rng), photo.clouds(rng, 60) + photo.clouds(rng, 25)
    # How far the choroid shows through.
    thin = rng.uniform(0.4, 1) if myopic else rng.uniform(0, 0.4)
    blood = rng.uniform(0.65, 0.95) + 0.15 * thin * (net - 0.5) + 0.04 * texture
    pigment = rng.uniform(*PATIENTS[photo.hospital][0]) * (
        1 + 0.1 * texture + 0.2 * photo.clouds(rng, 5)
    )
    pigment = pigment - 0.6 * thin * (net - 0.7)
    pigment += rng.uniform(0.15, 0.5) * photo.glow(1, rng.uniform(0, 0.12), 0.2)
    empty = np.zeros(photo.size, bool)
    masks = {
        "Disc Masks": disc > 0,
        "Lesion Masks/Atrophy": empty,
        "Lesion Masks/Detachment": empty,
    }
    if myopic:
        depth = _patches(photo, rng) if patches else _atrophy(photo, rng, finding, disc)
        mottled = 1 + 0.35 * photo.clouds(rng, 12) + 0.25 * photo.clouds(rng, 45)
        bare = edge(depth, 0.015 if patches else rng.uniform(0.03, 0.08))
        bare = bare * (rng.uniform(0.75, 1) * mottled).clip(0.5, 1)
        blood = blend(blood, 0.05 + rng.uniform(0.25, 0.5) * net, bare)
        # Pigment heaps up at the rim.
        heaps = np.clip(photo.clouds(rng, 35) - 0.2, 0, 1) * np.exp(-((depth / 0.06) ** 2))
        pigment = blend(pigment, np.float32(0.02), bare) + rng.uniform(0.3, 1.6) * heaps
        if patches:  # a dark ring tells scars from exudates
            pigment += 1.2 * np.exp(-(((depth + 0.02) / 0.014) ** 2))
        masks["Lesion Masks/Atrophy"] = depth > 0
    # The nerve is paler in its cup and on the side of the fovea.
    tissue = rng.uniform(0.1, 0.32)
    nerve = tissue - 0.85 * tissue * cup - 0.3 * photo.x + 0.02 * texture
    blood = blend(blood, nerve, edge(disc, 0.025))
    pigment = blend(pigment, np.float32(rng.uniform(0, 0.1)), edge(disc, 0.025))
    absorbed = BLOOD * blood[..., None].clip(0) + PIGMENT * pigment[..., None].clip(0)
    colour = SCLERA * np.exp(-absorbed)
    if not patches:
        colour = blend(colour, FAT, _bright_spots(photo, rng, disc))
    if detached:
        depth, folds = _detachment(photo, rng)
        veil = np.float32(rng.uniform([0.5, 0.4, 0.3], [0.75, 0.62, 0.52]))
        veil = veil * (1 + 0.45 * folds)[..., None]
        rim = 0.25 * np.exp(-((depth / 0.03) ** 2)) - 0.3 * np.exp(-(((depth + 0.06) / 0.05) ** 2))
        colour = blend(colour, veil, rng.uniform(0.6, 0.85) * edge(depth, 0.06))
        colour = colour * (1 + rim)[..., None]
        # What lies behind the detached retina cannot be seen, and is not in the masks.
        masks = {folder: mask & (depth <= 0) for folder, mask in masks.items()}
        masks["Lesion Masks/Detachment"] = depth > 0
    return colour * np.exp(-BLOOD * _vessels(photo, rng)[..., None]), masks
