"""Synthetic short-axis MRI of beating hearts.

The heart is drawn in polar coordinates around the long axis of its left ventricle. Every slice and
angle has the radii of cavity, muscle and right ventricle, scaled so that the labelled slices add up
to volumes that are typical of a disease group. Lengths are in mm; x grows to the image's right, y
down, z from base to apex; angle 0 points to the septum.
"""

import gzip

import cv2
import nibabel
import numpy as np

from .drawing import blend, edge, rotated, smooth_noise

GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
# Group -> ranges of: volume of the left ventricle at end diastole in mL, its ejection fraction,
# volume of the muscle in mL, volume of the right ventricle in mL, its ejection fraction.
RANGES = {
    "NOR": ((100, 150), (0.54, 0.66), (90, 125), (110, 160), (0.48, 0.6)),
    "DCM": ((190, 285), (0.19, 0.36), (140, 190), (120, 180), (0.3, 0.5)),
    "HCM": ((90, 135), (0.64, 0.75), (170, 230), (90, 140), (0.5, 0.65)),
    "MINF": ((140, 210), (0.29, 0.41), (110, 150), (110, 160), (0.4, 0.55)),
    "RV": ((90, 135), (0.52, 0.64), (85, 115), (190, 260), (0.22, 0.38)),
}
ANGLES = np.linspace(-np.pi, np.pi, 721)  # every half degree
# Signal of tissues, about 0..1.
AIR, LUNG, MUSCLE, LIVER, BLOOD, FAT = 0.01, 0.06, 0.23, 0.28, 0.85, 0.95


# Hospital -> least and greatest angle of the coil, its reach in mm, blur in pixels, noise, shading,
# and strength of the ghosts that the heart's motion leaves.
COILS = {
    "first": ([-0.5, 110, 0.6, 0.02, 0.05, 0], [0.7, 240, 1.0, 0.06, 0.25, 0.12]),
    "second": ([-2.5, 70, 0.9, 0.05, 0.2, 0.05], [2.5, 140, 1.5, 0.1, 0.45, 0.25]),
}
# Hospital -> least and greatest signal of muscle, and of the blood in the left and in the right
# ventricle; the second hospital's sequence shows less contrast.
TONES = {
    "first": ([0.21, 0.65, 0.55], [0.33, 0.98, 0.87]),
    "second": ([0.3, 0.55, 0.48], [0.42, 0.78, 0.72]),
}
# Hospital -> least and greatest distance between pixels in mm, and turn of the picture in radians.
GRIDS = {"first": ([1.45, -0.3], [1.7, 0.3]), "second": ([1.65, -0.6], [1.95, 0.6])}


def cardiac_case(i: int, rng: np.random.Generator, hospital: str = "first") -> dict[str, bytes]:
    """Files of phantom number `i` in ACDC's tree: path -> a whole file.

    `training/patient001/patient001_frame01.nii.gz` is the heart at end diastole, 8 to 10 slices of
    140 to 170 pixels of about 1.6 mm, 8 to 10 mm apart; a second frame is at end systole. Each has
    its labels, `_gt.nii.gz`: 1 right ventricle, 2 myocardium, 3 left ventricle. `Info.cfg` names
    frames and group; NOR, DCM, HCM, MINF and RV take turns.
    """
    # Decided by i, so that small sets hold all groups.
    group = GROUPS[i % len(GROUPS)]
    length = rng.uniform(83, 93) if group == "DCM" else rng.uniform(76, 92)
    scan = _Scan(rng, length, hospital)
    phases = _radii(scan, group, rng, length)
    _, radius, reach = phases[0].max((1, 2))
    look = _Look(scan, rng, length, radius, reach, hospital)
    n_frames, systole = int(rng.integers(25, 31)), int(rng.integers(8, 15))
    gain = np.exp(rng.uniform(4.6, 7))
    height, weight = (f"{size:.1f}" for size in rng.normal([170, 76], [9, 12]))
    patient = f"patient{i + 1:03d}"
    info = {
        "ED": 1,
        "ES": systole,
        "Group": group,
        "Height": height,
        "NbFrame": n_frames,
        "Weight": weight,
    }
    text = "".join(f"{key}: {value}\n" for key, value in info.items())
    files = {f"training/{patient}/Info.cfg": text.encode()}
    for frame, phase in zip((1, systole), phases):
        pictures, labels = zip(*(look.draw(phase, k) for k in range(len(scan.z))))
        name = f"training/{patient}/{patient}_frame{frame:02d}"
        signal = _expose(scan, rng, pictures, look.coil, gain)
        files[f"{name}.nii.gz"] = _nifti(signal, scan, np.int16)
        files[f"{name}_gt.nii.gz"] = _nifti(np.stack(labels), scan, np.uint8)
    return files


def _uniform(rng, low, high, shape=None):
    """Uniform random numbers, float32 as the pictures are."""
    return np.float32(rng.uniform(low, high, shape))


class _Scan:
    """The grid of a random stack of slices, rotated and shifted; draws slices (H, W) float32.

    Attributes:
        size: (height, width) in pixels.
        pixel, gap: distance between pixels and between slices in mm.
        z: position of every slice along the long axis.
        x, y: coordinates of every pixel, (H, W) float32.
    """

    def __init__(self, rng, length, hospital):
        pixel, angle = rng.uniform(*GRIDS[hospital])
        self.size = height, width = tuple(int(side) for side in rng.integers(140, 171, 2))
        self.pixel = round(pixel, 3)
        self.gap = round(rng.uniform(max(8, length / 9.4), 10), 2)
        # About every third stack begins with a slice above the valves, which has no labels.
        self.z = self.gap * (np.arange(-(rng.random() < 0.35), int(length / self.gap + 0.5)) + 0.5)
        columns, rows = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        middle = np.array([width, height]) * rng.uniform([0.52, 0.44], [0.58, 0.52])
        x, y = (columns - middle[0]) * self.pixel, (rows - middle[1]) * self.pixel
        self.x, self.y = map(np.float32, rotated(x, y, angle))

    def clouds(self, rng, cells):
        """Smooth noise, about -1..1, with `cells` bumps across the slice."""
        return smooth_noise(rng, (cells, cells), self.size)

    def oval(self, x, y, a, b):
        """Depth in mm below the rim of an ellipse, negative outside."""
        across, down = (self.x - np.float32(x)) / a, (self.y - np.float32(y)) / b
        return np.float32(min(a, b)) * (1 - np.hypot(across, down))

    def put(self, under, value, depth, width=1.0):
        """`under` with `value` where the depth is positive, mixed along a rim of `width` pixels."""
        return blend(under, value, edge(depth, np.float32(width * self.pixel)))

    def vessel(self, under, value, *oval):
        """`under` with a bright oval in a thin dark wall."""
        depth = self.oval(*oval)
        return self.put(self.put(under, MUSCLE, depth + 2), value, depth, 2)


class _Look:
    """What a patient looks like in both phases: body, tone of the tissues, small structures.

    All random numbers are drawn here, so that both phases show the same patient.
    """

    def __init__(self, scan, rng, length, radius, reach, hospital):
        self.scan, self.length, self.radius = scan, length, radius
        self.body = _body(scan, rng, reach)
        self.angle, *self.tilt = _uniform(rng, [-0.1, -0.1, -0.1], [0.55, 0.1, 0.1])
        self.weave = np.float32(rng.normal(0, 0.5, (120, 12)))[np.arange(121) % 120]
        # Ovals (x, y, a, b) in radii of the heart: two atria, root of the aorta, pulmonary artery.
        chambers = [[4, 3, 8, 6], [-11, 3, 7, 8], [-3.5, -2, 4, 4], [-3, -9, 4.5, 3.5]]
        self.chambers = np.float32(chambers) * _uniform(rng, 0.075, 0.12, (4, 4))
        self.tone = _uniform(rng, *TONES[hospital])
        papillary = np.stack([rng.normal([1.9, -2.0], 0.25), rng.uniform(3.5, 7.5, 2)], 1)
        self.papillary = np.float32(papillary)
        self.coil = [*_uniform(rng, *COILS[hospital]), scan.clouds(rng, 3)]

    def draw(self, phase, k):
        """Picture and labels (H, W) of slice k; `phase` are the radii (3, slices, angles)."""
        scan, z = self.scan, np.float32(self.scan.z[k])
        if not phase[0, k].any():  # above the ventricles
            picture = _valves(scan, self.body[k], self.chambers, self.radius)
            return picture, np.zeros(scan.size, np.uint8)
        x, y = scan.x - self.tilt[0] * z, scan.y - self.tilt[1] * z
        angle = (np.arctan2(y, -x) - self.angle + np.pi) % (2 * np.pi)
        rho, index = np.hypot(x, y), np.int32(angle * np.float32(360 / np.pi))
        # Papillary muscles are attached to the wall neither at the base nor at the apex.
        papillary = self.papillary if 0.25 < z / self.length < 0.8 else ()
        radii = phase[:, k]
        return _heart(scan, self.body[k], rho, index, radii, papillary, self.weave, self.tone)


def _scaled(inner, shape, volume, gap):
    """The outer radii `inner` + s * `shape` (slices, angles) of a ring that holds `volume` mL."""
    # The area of the ring is half the integral of (inner + s * shape)^2 - inner^2 over the angles,
    # a s^2 + b s, and 1 mL is 1000 mm^3: a quadratic equation for s.
    step = 2 * np.pi / (len(ANGLES) - 1)
    a, b = (step * term[:, 1:].sum() for term in (shape**2 / 2, inner * shape))
    return inner + shape * (np.sqrt(b**2 + 4 * a * volume * 1000 / gap) - b) / (2 * a)


def _bump(middle, width):
    """A bell over the angles, 1 at `middle`."""
    return np.exp(-(((ANGLES - middle + np.pi) % (2 * np.pi) - np.pi) ** 2) / width**2)


def _radii(scan, group, rng, length):
    """Radii of cavity, muscle and right ventricle, 0 where a slice holds none.

    Returns one array (3, slices, angles) float32 for end diastole and one for end systole.
    """
    left, fraction, muscle, right, right_fraction = (
        rng.uniform(*limits) for limits in RANGES[group]
    )
    # In systole the base moves towards the apex; less so in a dilated heart.
    sinks = (0, rng.uniform(2, 4) if group == "DCM" else rng.uniform(3, 9))
    waves = np.stack([np.arange(2, 6), rng.normal(0, 0.02, 4), rng.uniform(0, 2 * np.pi, 4)], 1)
    twist, scar_at = rng.uniform(-0.5, 0.5), rng.uniform(1, 4)
    span = rng.uniform(1.25, 1.45) + 0.1 * (group == "RV")
    end, lean, blunt = rng.uniform([0.78, -0.15, 0.7], [0.95, 0.25, 1.0])
    phases = []
    for systole, sink in enumerate(sinks):
        t = ((scan.z - sink) / (length - sink)).clip(0)[:, None]
        labelled = (t > 0) * np.ones_like(ANGLES)
        outline = 1 + sum(wave * np.cos(k * ANGLES + place + twist * t) for k, wave, place in waves)
        outline -= 0.22 * (group == "RV") * (1 - 0.5 * systole) * _bump(0, 0.8)
        cavity = labelled * outline * np.sqrt((1 - t**2.4).clip(0.015))
        cavity = _scaled(0 * cavity, cavity, left * (1 - systole * fraction), scan.gap)
        wall = labelled * (1 - 0.3 * t) * (1 + (0.7 * _bump(0.2, 1.0) if group == "HCM" else 0))
        if group == "MINF":  # the scar of an infarction is thin and does not thicken in systole
            wall = wall * (1 - (0.2 + 0.3 * systole) * _bump(scar_at, 0.8))
        outer = _scaled(cavity, wall, muscle, scan.gap)
        depth = (1 - (t / end).clip(0, 1) ** 1.7) ** 0.6
        arc = 1 - ((ANGLES - lean * (1 - t)) / (span * (1 - 0.3 * t))) ** 2
        crescent = labelled * (depth > 0.25) * depth * arc.clip(0) ** blunt
        other = _scaled(outer, crescent, right * (1 - systole * right_fraction), scan.gap)
        phases.append(np.float32([cavity, outer, other]))
    return phases


def _body(scan, rng, reach):
    """Slices (S, H, W) float32 of what surrounds the heart: chest wall, lungs, belly.

    The heart extends `reach` to the image's left.
    """
    fat, wall, floor, rise = _uniform(rng, [6, 9, 50, 0.05], [17, 15, 60, 0.2])
    meal, gas, spread = _uniform(rng, [0.35, -20, 0.45], [0.8, 5, 0.75])
    x, y, wide, high = _uniform(rng, [-12, 8, 112, 118], [-2, 22, 125, 140])
    body = x + wide - reach - 1.5 * fat - wall, y, wide, high
    liver, stomach, aorta, spine = _uniform(
        rng,
        [[-50, 42, 66, 40], [44, 34, 34, 24], [52, 26, 9.5, 9.5], [84, 30, 20, 24]],
        [[-25, 56, 84, 52], [66, 48, 46, 34], [64, 40, 12.5, 12.5], [94, 46, 25, 30]],
    )
    veins = _uniform(rng, [-75, 8, 3, 3], [-5, 60, 8, 8], (5, 4))
    vessels = _uniform(rng, [15, -75, 1, 1], [90, 20, 4, 4], (16, 4))
    bumps, ribs, grain = scan.clouds(rng, 4), scan.clouds(rng, 14), scan.clouds(rng, 30)
    slices = []
    for z in np.float32(scan.z):
        depth = scan.oval(*body) + 7 * bumps
        picture = scan.put(np.full(scan.size, AIR, np.float32), FAT + 0.15 * grain, depth)
        # More fat in front, at the image's left.
        front = depth - fat * (1 + 0.5 * np.tanh(-scan.x / 60) + 0.3 * ribs)
        picture = scan.put(picture, MUSCLE + 0.6 * np.maximum(ribs, 0), front)
        inside = front - wall
        picture = scan.put(picture, LUNG + 0.5 * np.maximum(scan.clouds(rng, 45) - 0.9, 0), inside)
        for x, y, a, b in vessels:
            vessel = scan.oval(x, y + 0.3 * z * np.sign(x - 50), a, b)
            picture = scan.put(picture, 0.6 * BLOOD, vessel)
        # Fat behind the sternum.
        cushion = scan.oval(12 - reach, -10, 45, 55) + 16 * bumps + 8 * ribs
        picture = scan.put(picture, spread * FAT + 0.2 * grain, np.minimum(cushion, inside), 3)
        back = np.minimum(scan.oval(*spine), inside + 6)
        picture = scan.put(picture, MUSCLE + 0.35 * grain, back, 2)
        picture = scan.vessel(picture, BLOOD, aorta[0], aorta[1] + 0.1 * z, *aorta[2:])
        # The belly, below the diaphragm.
        top = floor - rise * z
        below = np.minimum(scan.y - top - (scan.x - 10) ** 2 / 500 + 4 * bumps, inside)
        picture = scan.put(picture, 0.75 * FAT + 0.3 * grain, below)
        x, y, a, b = stomach
        filled = np.minimum(scan.oval(x, top + y, a, b) + 4 * ribs, below - 3)
        picture = scan.put(picture, meal + 0.2 * ribs, filled)
        picture = scan.put(picture, AIR, np.minimum(filled, top + y + gas - scan.y))
        x, y, a, b = liver
        filled = np.minimum(scan.oval(x, top + y, a, b) + 4 * bumps, below - 2)
        picture = scan.put(picture, LIVER + 0.05 * grain, filled)
        for x, y, a, b in veins:
            vein = np.minimum(scan.oval(x + 0.2 * z, top + y, a, b), filled)
            picture = scan.put(picture, BLOOD, vein)
        slices.append(picture)
    return slices


def _valves(scan, picture, chambers, size):
    """The picture with what lies above the ventricles: atria and the roots of two arteries.

    `chambers` are ovals in radii of the heart, which is `size`.
    """
    picture = scan.put(picture, 0.5 * FAT, scan.oval(-0.4 * size, 0, 1.6 * size, 1.3 * size), 5)
    for chamber in chambers * size:
        picture = scan.vessel(picture, 0.95 * BLOOD, *chamber)
    return picture


def _heart(scan, under, rho, index, radii, papillary, weave, tone):
    """Picture and labels (H, W) of one slice through the ventricles.

    Args:
        under: picture (H, W) of the body.
        rho, index: (H, W), for every pixel its distance from the axis and its index in `ANGLES`.
        radii: (3, angles), of cavity, muscle and right ventricle.
        papillary: angle and radius of each papillary muscle.
        weave: pattern of the trabeculae.
        tone: signal of muscle, and of the blood in the left and in the right ventricle.
    """
    cavity, outer, other = radii
    rim = other + 3.5 * np.minimum((other - outer) / 4, 1)
    halo = rim + 2 + 5 * _bump(1.3, 0.4) + 5 * _bump(-1.2, 0.4) + 2 * _bump(0, 1.2)
    inner, epi, free, rim, halo = (
        np.float32(curve)[index] for curve in (cavity, outer, other, rim, halo)
    )
    picture = scan.put(under, 0.85 * FAT, halo - rho, 2)
    picture = scan.put(picture, tone[0], rim - rho)

    def pattern(share):
        """The trabeculae at a share of the way from the axis to the wall."""
        return cv2.remap(weave, np.float32(share * 11), np.float32(index / 6), cv2.INTER_LINEAR)

    across = ((rho - epi) / np.maximum(free - epi, 1)).clip(0, 1)
    blood = tone[2] - 0.5 * np.maximum(pattern(0.7 * across) - 0.15 + 0.5 * np.abs(across - 0.4), 0)
    picture = scan.put(picture, blood, np.minimum(free - rho, rho - epi - 0.5))
    share = (rho / np.maximum(inner, 1)).clip(0, 1)
    blood = tone[1] - 0.8 * np.maximum(pattern(share) - 1.1 + share, 0) * (share > 0.5)
    picture = scan.put(picture, blood, inner - rho, 1.5)
    for angle, size in papillary:
        beside = np.float32(ANGLES - angle)[index]
        centre = np.float32(0.66 * np.interp(angle, ANGLES, cavity))
        muscle = size - np.hypot(rho * np.cos(beside) - centre, rho * np.sin(beside))
        picture = scan.put(picture, 1.15 * tone[0], np.minimum(muscle, inner - rho))
    # The areas contain each other, so that their sum is the label: 1 right ventricle, 2 muscle,
    # 3 left ventricle.
    return picture, np.uint8(rho < free) + (rho < epi) + (rho < inner)


def _expose(scan, rng, pictures, coil, gain):
    """Slices (S, H, W) -> int16: coil sensitivity, blur of the scan, Rician noise, gain."""
    side, reach, blur, noise, drift, ghost, clouds = coil
    light = np.exp(-(scan.x * np.cos(side) + scan.y * np.sin(side)) / reach + drift * clouds)
    signal = np.stack([cv2.GaussianBlur(picture * light, (0, 0), blur) for picture in pictures])
    # What moves appears again, faintly, a third of the picture above and below.
    step = signal.shape[1] // 3
    moving = signal * np.exp(-(scan.x**2 + scan.y**2) / 60**2)
    signal += ghost / 2 * (np.roll(moving, step, 1) + np.roll(moving, -step, 1))
    real, imaginary = noise * rng.standard_normal((2, *signal.shape), np.float32)
    return np.int16(np.minimum(gain * np.hypot(signal + real, imaginary), 32767))


def _nifti(array, scan, dtype):
    """Slices (S, H, W) -> bytes of a .nii.gz with the axes x, y, slice."""
    affine = np.diag([scan.pixel, scan.pixel, scan.gap, 1])
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 3, mtime=0)
