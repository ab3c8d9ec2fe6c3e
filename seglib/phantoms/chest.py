"""Synthetic chest X-rays, drawn as a radiograph is made.

Every organ adds to the absorption along the beam, air reduces it, and one exposure curve turns the
sum into grey values. Shapes are given in *body coordinates*: x is -1 at the patient's right chest
wall (image left) and +1 at the left one, y is 0 at the lung apex and about 1 at the base.
"""

import cv2
import numpy as np

from .drawing import curve, smooth_noise, soften

# Hospital -> least and greatest gain, gamma, grey of air, grey of bone, noise, blur in body units.
EXPOSURES = {
    "first": ([1.1, 1.3, 0, 245, 2.5, 0.003], [1.8, 2.2, 12, 300, 7, 0.006]),
    # A digital detector that compresses the grey range, used at the bedside.
    "second": ([0.8, 0.5, 30, 165, 4, 0.005], [1.3, 0.9, 80, 225, 9, 0.01]),
}
# Hospital -> least and greatest size of the chest, as shares of width and height of the film, and
# thickness of the trunk.
PATIENTS = {
    "first": ([0.35, 0.58, 0.85], [0.425, 0.70, 1.3]),
    "second": ([0.29, 0.46, 0.95], [0.36, 0.58, 1.4]),
}


def lung_case(i: int, rng: np.random.Generator, hospital: str = "first") -> dict[str, np.ndarray]:
    """Files of phantom number `i` in the Montgomery tree: path -> (H, W) uint8.

    `MontgomerySet/CXR_png/MCUCXR_0001_0.png` has sides of 320 to 400 pixels; stems end in `_0`
    normal and `_1` tuberculosis by turns. Two masks of the same name hold 0 and 255, in
    `MontgomerySet/ManualMask/leftMask` and `rightMask`; the patient's right lung is at the
    image's left. The masks go on behind opacities and fluid.
    """
    # Every second case is sick, so that small sets and their parts hold both findings; now and then
    # heart and stomach are mirrored (situs inversus) or the spine is bent (scoliosis).
    film = _Film(rng, hospital, mirrored=i % 32 == 19, bent=i % 10 == 6)
    sick, shoulder = i % 2, rng.uniform(-0.12, 0.04)
    shapes = _lung_shapes(rng)
    right, left = (film.fill(np.r_[side, base]) > 0.5 for side, base in shapes)
    if film.side < 0:
        right, left = left, right
    lungs = np.float32(right | left)
    absorbed = _soft_tissue(film, rng, shapes, lungs, shoulder) + _bones(film, rng, shoulder)
    absorbed += _vessels(film, rng, lungs) + _opacities(film, rng, lungs, sick)
    absorbed += _fluid(film, rng, lungs, sick) + _devices(film, rng)
    name, masks = f"MCUCXR_{i + 1:04d}_{sick}.png", "MontgomerySet/ManualMask"
    return {
        f"MontgomerySet/CXR_png/{name}": _expose(film, rng, absorbed, lungs),
        f"{masks}/leftMask/{name}": np.uint8(255 * left),
        f"{masks}/rightMask/{name}": np.uint8(255 * right),
    }


class _Film:
    """A blank film of random size on which shapes in body coordinates are drawn.

    Layers are (H, W) float32, 0..1. Curves are (points, 2), x and y.

    Attributes:
        hospital: "first" or "second".
        size: (height, width) in pixels.
        bend, side, rotation, scale, centre: from body coordinates to pixels. `bend` is how far the
            spine leaves the middle, and `side` is -1 where the body is mirrored.
        thick: thickness of the trunk, about 1.
    """

    def __init__(self, rng, hospital, mirrored, bent):
        self.hospital, self.side = hospital, -1 if mirrored else 1
        self.bend = float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.08) if bent else 0)
        self.size = height, width = tuple(int(side) for side in rng.integers(320, 401, 2))
        angle = np.deg2rad(rng.uniform(-3.5, 3.5))
        self.rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        # Narrow enough that the lungs stay inside the frame.
        *share, self.thick = rng.uniform(*PATIENTS[hospital])
        self.scale = np.array([width, height]) * share * (1 - abs(self.bend))
        self.centre = np.array([width, height]) * rng.uniform([0.48, 0.42], [0.52, 0.49])

    def draw(self, paint, curves, *options):
        """A layer with curves, drawn by `paint`, OpenCV's function for polygons or lines."""
        layer = np.zeros(self.size, np.uint8)
        for points in curves:
            x, y = np.transpose(points)
            x = self.side * (x + self.bend * np.sin(5 * (y - 0.1)))
            places = np.stack([x, y - 0.5], 1)
            column_row = places * self.scale @ self.rotation + self.centre
            # With shift=4 OpenCV counts in 1/16 pixel; whole pixels would give thin bones steps.
            paint(layer, [np.int32(np.round(column_row * 16))], *options, cv2.LINE_AA, 4)
        return layer.astype(np.float32) / 255

    def fill(self, *curves):
        """The area within curves."""
        return self.draw(cv2.fillPoly, curves, 255)

    def stroke(self, width, *curves):
        """Lines along curves, of a width in body units."""
        return self.draw(cv2.polylines, curves, False, 255, max(1, round(width * self.scale[0])))

    def bone(self, width, *curves):
        """Tubes with a brighter rim, the cortex."""
        marrow = 0.5 * self.stroke(0.6 * width, *curves)
        return self.soft(self.stroke(width, *curves) - marrow, 0.008)

    def soft(self, layer, sigma):
        """A layer blurred by `sigma` body units."""
        return soften(layer, sigma * self.scale[0])

    def depth(self, layer, reach):
        """0 at the rim of a shape, rising like a ball's thickness to 1 at `reach` body units."""
        inside = cv2.distanceTransform(np.uint8(layer > 0.5), cv2.DIST_L2, 3)
        inside = inside / (reach * self.scale[0])
        return np.sqrt(1 - (1 - np.minimum(inside, 1)) ** 2)

    def clouds(self, rng, cells):
        """Smooth noise, about -1..1, with `cells` bumps across the film."""
        return smooth_noise(rng, (cells, cells), self.size)


def _curve(*points):
    """Smooth curve (60, 2) through control points x, y."""
    return curve(np.array(points), 60, ends="natural")


def _oval(x, y, a, b, bumps=(), stop=2 * np.pi):
    """Closed curve (30, 2): an ellipse, made irregular by `bumps`; `stop` = pi: its upper half."""
    t = np.linspace(0, stop, 30)
    r = 1 + sum(bump * np.cos(k * t + 20 * bump) for k, bump in enumerate(bumps, 2))
    return np.stack([x + a * r * np.cos(t), y - b * r * np.sin(t)], 1)


def _lung_shapes(rng):
    """Two curves, side and base, of the patient's right and then of the left lung.

    The side runs from the heart over the apex to the flank.
    """
    apex, upper, dome, angle = rng.uniform([0.34, 0.78, 0.76, 0.97], [0.46, 0.88, 0.86, 1.07])
    neck, knob, atrium, heart = rng.uniform([0.13, 0.17, 0.17, 0.36], [0.18, 0.27, 0.26, 0.54])
    lower = dome + rng.uniform(0.02, 0.07)  # the heart pushes the left dome down
    right = [(atrium, dome + 0.06), (atrium + 0.03, dome - 0.1), (0.19, 0.45), (neck + 0.02, 0.25)]
    left = [(heart, lower + 0.05), (heart, lower - 0.1), (0.66 * heart, 0.52)]
    left += [(0.2, 0.38), (knob, 0.24)]
    shapes = []
    # Sometimes one lung has shrunk, and its half of the diaphragm stands higher.
    raised = rng.uniform(0.06, 0.16) * rng.permutation([1, 0]) * (rng.random() < 0.2)
    for sign, medial, top, rise in ((-1, right, dome, raised[0]), (1, left, lower, raised[1])):
        medial = [(x, y - rise * (k < 2)) for k, (x, y) in enumerate(medial)]
        top -= rise
        tip, wall, end = rng.uniform([-0.02, 0.94, angle - 0.04], [0.03, 1.01, angle + 0.04])
        over = [(neck, 0.12), (neck + 0.06, 0.03 + tip), (apex, tip)]
        over += [(0.8 * upper, 0.09), (upper, 0.26)]
        side = _curve(*medial, *over, (0.97 * wall, 0.6), (wall, end))
        crest = (0.7, top + 0.02), (0.5 + medial[0][0] / 5, top)
        base = _curve((wall, end), (0.88, (top + end) / 2), *crest, medial[0])
        shapes.append((side * [sign, 1], base * [sign, 1]))
    return shapes


def _soft_tissue(film, rng, shapes, lungs, shoulder):
    """Absorption (H, W) of trunk, arms, breasts, heart and belly, minus the air within them.

    Air fills lungs, windpipe and stomach.
    """
    (right, right_base), (left, left_base) = shapes
    pit, flank, bust = rng.uniform([0.35, 1.06, 0.0], [0.6, 1.2, 0.45])
    # The outline of the left half, from the neck over shoulder and arm down the flank.
    half = [(0.34, -0.9), (0.32, -0.3), (0.7, shoulder - 0.07), (1.4, shoulder)]
    half += [(2.4, 0.4), (2.4, 0.9), (1.55, 0.6), (1.2, pit)]
    half += [(flank + 0.06, 0.68), (flank + bust / 4, 0.85), (flank, 1.4), (1.4, 2)]
    body = film.soft(film.fill(np.r_[half, half[::-1] * np.array([-1, 1])]), 0.03)
    total = film.thick * film.depth(body, 0.6)
    belly = film.fill(np.r_[right_base, left_base[::-1], [(1.0, 2.5), (-1.0, 2.5)]])
    # Blurred widely, because the lung gets thinner towards the dome of the diaphragm.
    total += rng.uniform(0.7, 1.1) * film.soft(belly, 0.06) * body
    between = np.r_[right[: right[:, 1].argmin()], left[: left[:, 1].argmin()][::-1]]
    total += rng.uniform(0.05, 0.25) * film.soft(film.fill(between), 0.015)
    total += 0.2 * film.soft(film.fill(_oval(0.12, 0.72, 0.42, 0.3)) * (1 - lungs), 0.04)
    # Fat beside the heart and vessels before it hide parts of its border.
    pads = rng.uniform([0.2, 0.55, 0.06, 0.06], [0.55, 0.85, 0.14, 0.14], (4, 4))
    pads = [_oval(rng.choice([-0.7, 1]) * x, *pad) for x, *pad in pads]
    total += rng.uniform(0.05, 0.3) * film.soft(film.fill(*pads), 0.05)
    for x in rng.uniform([-0.7, 0.55], [-0.55, 0.7]):
        breast = film.fill(_oval(x, 0.74, 0.5, 0.28, rng.normal(0, 0.05, 2)))
        total += bust * film.depth(breast, 0.4) ** 2
    # The second, wide term is the air in front of and behind heart and diaphragm.
    air = film.soft(lungs, 0.01) * (0.4 + 0.2 * film.depth(lungs, 0.25))
    air = air + 0.5 * film.soft(lungs, 0.1)
    total -= rng.uniform(0.36, 0.75) * air
    total -= 0.25 * film.soft(film.stroke(0.13, [(0, -1), (0.01, 0.1), (0.04, 0.33)]), 0.015)
    x, y = left_base[38] + rng.uniform([-0.1, 0.1], [0.1, 0.2])
    gas = [_oval(x, y, *rng.uniform([0.1, 0.04], [0.26, 0.1]), rng.normal(0, 0.08, 2), np.pi)]
    spots = rng.normal([x, y + 0.1], 0.08, (rng.integers(5), 2))
    gas += [_oval(*spot, 0.06, 0.04, rng.normal(0, 0.1, 3)) for spot in spots]
    return total - rng.uniform(0.6, 1.4) * film.soft(film.fill(*gas) * belly, 0.012)


def _bones(film, rng, shoulder):
    """Absorption (H, W) of spine, ribs, clavicles, shoulder blades and upper arms."""
    levels = np.arange(-0.6, 1.6, 0.085)
    discs = film.stroke(0.02, *[np.array([(-0.12, y), (0.12, y)]) for y in levels])
    spine = film.soft(film.stroke(0.24, [(0, -1), (0, 2.5)]), 0.02) - 0.3 * film.soft(discs, 0.012)
    collar = [_curve((0.1, 0.1), (0.4, 0.05), (0.8, shoulder + 0.03), (1.25, shoulder + 0.06))]
    gap, sag, elbow = rng.uniform([0.088, 0.16, 0.4], [0.105, 0.26, 0.8])
    arm = [_curve((1.28, 0.05), (1.0, 0.15), (1.02, 0.4), (1.12, 0.56), (1.26, 0.3), (1.3, 0.07))]
    arm += [_curve((1.47, 0.24), (1.36, 0.15), (1.45, 0.09), (1.6, 0.14), (2.5, elbow))]
    behind, before = [], []  # the parts of the ribs behind and in front of the lungs
    for y in np.arange(0.0, 1.3, gap) + rng.uniform(0, gap / 2):
        wall, end = 1.01 - 2.2 * max(0.36 - y - sag / 2, 0) ** 2, y + sag
        flank = (0.95 * wall, y + 0.6 * sag), (wall, end), (0.96 * wall, end + 0.06)
        behind += [_curve((0.1, y), (0.4 * wall, y - 0.03), (0.8 * wall, y + 0.25 * sag), *flank)]
        front = (0.78 * wall, end + 0.12), (0.52, end + 0.16), (0.36, end + 0.15)
        before += [_curve(*flank[1:], *front)]
    for bones in (collar, arm, behind, before):
        bones += [bone * [-1, 1] for bone in bones]
    total = rng.uniform(0.3, 0.5) * spine + 0.16 * film.bone(0.05, *arm)
    total += rng.uniform(0.12, 0.22) * film.bone(0.07, *behind)
    total += rng.uniform(0.04, 0.12) * film.bone(0.08, *before)
    return total + rng.uniform(0.18, 0.3) * film.bone(0.085, *collar)


def _vessels(film, rng, lungs):
    """Absorption (H, W) of the lungs' vessels and fine texture.

    The vessels branch and thin out from the two hila.
    """
    hila = [(sign * rng.uniform(0.22, 0.3), rng.uniform(0.42, 0.5)) for sign in (-1, 1)]
    tips = [(hilum, heading) for hilum in hila for heading in rng.uniform(-1.6, 1.8, 8)]
    total = 0.2 * film.soft(film.fill(*[_oval(*hilum, 0.07, 0.1) for hilum in hila]), 0.05)
    for width in (0.045, 0.03, 0.02, 0.012):
        paths, branches = [], []
        for start, heading in tips:
            bends = heading + np.cumsum(rng.normal(0, 0.25, 8))
            steps = np.stack([np.sign(start[0]) * np.cos(bends), np.sin(bends)], 1)
            paths += [start + rng.uniform(0.015, 0.028) * np.cumsum(steps, 0)]
            # Two thinner vessels branch off somewhere along this one.
            for angle in rng.normal(0, 0.5, 2):
                branches.append((paths[-1][rng.integers(3, 8)], heading + angle))
        total += (0.05 + 2 * width) * film.soft(film.stroke(width, *paths), 0.006)
        tips = branches
    total = total + 0.04 * film.clouds(rng, 70) + 0.06 * film.clouds(rng, 30)
    return total * film.soft(lungs, 0.02)


def _opacities(film, rng, lungs, sick):
    """Absorption (H, W) of tuberculosis, or of a harmless spot.

    Patches, cavities and nodules lie mostly in the upper zones.
    """
    total = np.zeros(film.size, np.float32)
    for _ in range(rng.integers(1, 5) if sick else rng.integers(2)):
        # Some healthy lungs have a spot, so that a single bright dot does not give the finding.
        kind = rng.choice(["patch", "cavity", "nodules"]) if sick else "spot"
        x, y, radius, strength = rng.uniform([0.35, 0.1, 0.1, 0.1], [0.8, 0.4, 0.34, 0.5])
        x, y = x * rng.choice([-1, 1]), y + rng.choice([0, 0.35], p=[0.75, 0.25])
        shape = _oval(x, y, radius, 0.7 * radius, rng.normal(0, 0.12, 4))
        haze = np.clip(0.6 + film.clouds(rng, 16) + film.clouds(rng, 40), 0, 2)
        haze *= film.soft(film.fill(shape), 0.3 * radius)
        total += strength * haze * {"patch": 1.5, "cavity": 0.6, "nodules": 0.3, "spot": 0}[kind]
        if kind == "cavity":
            wall = film.stroke(0.035, 0.6 * shape + [0.4 * x, 0.4 * y])
            total += strength * film.soft(wall, 0.012)
        elif kind != "patch":
            spots = rng.normal([x, y], 0.6 * radius, (rng.integers(6, 25) if sick else 1, 2))
            dots = [_oval(*spot, *rng.uniform(0.01, 0.025, 2)) for spot in spots]
            total += strength * film.soft(film.fill(*dots), 0.008)
    return total * film.soft(lungs, 0.02)


def _fluid(film, rng, lungs, sick):
    """Absorption (H, W) of fluid beside one lung, in some patients.

    It rises towards the flank; the lung behind it can hardly be seen.
    """
    if rng.random() > (0.4 if sick else 0.08):
        return 0
    level, strength = rng.uniform([0.55, 0.2], [0.95, 0.7])
    sign, rise = rng.choice([-1, 1]), rng.uniform(0.1, 0.3)
    top = _curve((0, level), (0.35, level + 0.02), (0.75, level - 0.3 * rise), (1.1, level - rise))
    pool = film.fill(np.r_[top, [(1.1, 2), (0, 2)]] * [sign, 1])
    return strength * film.soft(pool, rng.uniform(0.02, 0.06)) * film.soft(lungs, 0.02)


def _devices(film, rng):
    """Absorption (H, W) of catheters, of the leads on the skin, and of pacemakers."""
    lines = []
    if rng.random() < 0.2:  # electrodes with their leads
        for x, y in rng.uniform([-0.8, 0.1], [0.8, 1.0], (3, 2)):
            lines += [_oval(x, y, 0.035, 0.035), _curve((x, y), (0.6 * x, y + 0.25), (0.1, 1.6))]
    if rng.random() < 0.12:  # a catheter from below the collar bone to the heart
        lines.append(_curve((-0.75, 0.1), (-0.3, 0.06), (-0.14, 0.25), (-0.12, 0.5)))
    total = 0.35 * film.stroke(0.016, *lines) if lines else np.zeros(film.size, np.float32)
    if rng.random() < 0.06:
        x, y = rng.uniform([0.6, 0.12], [0.75, 0.25])
        lead = _curve((x, y), (0.35, 0.08), (0.02, 0.3), (0.25, 0.75))
        total += 0.6 * film.fill(_oval(x, y, 0.13, 0.11)) + 0.4 * film.stroke(0.02, lead)
    return film.soft(total, 0.006)


def _expose(film, rng, absorbed, lungs):
    """Absorption (H, W) -> film (H, W) uint8: blur, exposure, noise, labels, edges of the beam."""
    height, width = film.size
    absorbed = np.maximum(absorbed + 0.15 * film.clouds(rng, 4), 0)
    # Exponential absorption. Exposure differs between films, so that no single threshold fits all.
    gain, gamma, base, peak, grain, blur = rng.uniform(*EXPOSURES[film.hospital])
    absorbed = film.soft(absorbed, blur)
    grey = base + peak * (1 - np.exp(-gain * absorbed)) ** gamma
    grey = grey + grain * rng.normal(size=film.size)
    grey = grey.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        _label(film, grey, int(height * rng.integers(3, 7) // 100))
    # The black edges of the beam never cut a lung.
    left, top, wide, high = cv2.boundingRect(np.uint8(lungs))
    free = np.array([left, top, width - left - wide, height - top - high]) - 6
    cut = np.int32(free.clip(0) * rng.uniform(0, 1, 4) * (rng.random(4) < [0.35, 0.15, 0.35, 0.6]))
    beam = np.zeros(film.size, bool)
    beam[cut[1] : height - cut[3], cut[0] : width - cut[2]] = True
    # Beside the beam a film is left black; a detector may show it white.
    border = rng.uniform(0, 8) if film.hospital == "first" else rng.choice([5, 245])
    return np.where(beam, grey, np.uint8(border))


def _label(film, grey, y):
    """Draw the hospital's side markers on a film (H, W) uint8, `y` pixels below its upper edge."""
    width, font = film.size[1], cv2.FONT_HERSHEY_SIMPLEX
    if film.hospital == "second":
        cv2.putText(grey, "L", (width * 9 // 10, y + 22), font, 0.8, 255, 2, cv2.LINE_AA)
        cv2.putText(grey, "AP SUPINE", (8, y + 12), font, 0.35, 230, 1, cv2.LINE_AA)
        return
    x = width * 85 // 100
    grey[y : y + 16, x : x + 27] = 250
    cv2.putText(grey, "PA", (x + 3, y + 12), font, 0.45, 10, 1, cv2.LINE_AA)
    cv2.putText(grey, "R", (width // 20, y + 15), font, 0.5, 200, 1, cv2.LINE_AA)
