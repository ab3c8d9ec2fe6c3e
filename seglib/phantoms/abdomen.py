"""Synthetic CT of the abdomen as scanners write it: one DICOM file for each slice.

Organs are bent ovals and tubes; each leaves out the space of those drawn before it. Shapes are
given in *body coordinates*, mm in a patient of average size: x to the left, y to the back, z to the
head; the origin lies in front of the first lumbar vertebra.
"""

import io

import cv2
import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from .drawing import edge, soften

LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY, BOWEL = range(1, 6)
# HU of the tissues in each phase, the time since the contrast medium was injected.
TISSUES = ("liver", "spleen", "cortex", "medulla", "aorta", "veins", "muscle", "wall")
PHASES = {
    "portal venous": (108, 118, 185, 175, 150, 150, 66, 85),
    "arterial": (74, 112, 185, 85, 270, 75, 60, 100),
    "delayed": (88, 92, 140, 165, 105, 105, 66, 70),
    "native": (58, 50, 36, 34, 44, 42, 55, 42),
}
# Attributes that the standard requires but that may be empty.
EMPTY_TAGS = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
    "AcquisitionNumber",
    "PositionReferenceIndicator",
)
# Hospital -> least and greatest noise in HU, blur in pixels, and brightness of contrast medium
# against that of the phases above. The second hospital's tube has a lower voltage, which shows
# iodine brighter.
SCANNERS = {
    "first": ([18, 0.4, 0.85], [34, 0.6, 1.15]),
    "second": ([34, 0.8, 1.2], [60, 1.1, 1.5]),
}
# Hospital -> least and greatest fat under the skin and thickness of the muscle wall in mm, size of
# the patient, and greatest distance of pixels in mm.
PATIENTS = {
    "first": ([5, 9, 0.95], [30, 14, 1.05], 3.2),
    "second": ([20, 6, 0.92], [50, 11, 1.02], 3.6),
}
FAR = -60.0  # depth in mm of voxels so far outside a shape that it is not computed for them
RIM = 3.0  # mm over which one tissue blends into another


def rsna_case(i: int, rng: np.random.Generator, hospital: str = "first") -> dict[str, bytes]:
    """Files of phantom number `i` in RSNA's tree: path -> a whole file.

    One CT series a patient, `train_images/10004/21057/1.dcm`: 17 to 20 axial slices of 128 x 128
    pixels of 2.5 to 3.2 mm, 8 to 12 mm apart; plain, RLE and JPEG 2000 files take turns. Its label
    map is `segmentations/21057.nii`: 1 liver, 2 spleen, 3 left and 4 right kidney, 5 bowel.
    Of 16 patients, one has one kidney only; of 40, one has all organs on the other side (situs
    inversus). In the second hospital, pixels and patients are larger.
    """
    import nibabel

    # Decided by i, so that small sets hold every phase, and series that miss the top of the liver
    # or the lower poles of the kidneys.
    phase = list(PHASES)[i % 4] if i % 8 < 7 else "portal venous"
    scan = _Scan(rng, {2: -45, 4: 45}.get(i % 6, 0), hospital)
    noise, blur, iodine = rng.uniform(*SCANNERS[hospital]).tolist()
    native = np.array(PHASES["native"])
    values = native + (np.array(PHASES[phase]) - native) * iodine
    hu = dict(zip(TISSUES, (values * rng.normal(1, 0.08, len(TISSUES))).tolist()))
    hu["liver"] -= float(rng.choice([0, 15, 40], p=[0.5, 0.3, 0.2]))  # fat in the liver
    skin = _trunk(scan, rng, hu)
    _spine(scan, rng, hu)
    _kidneys(scan, rng, hu, single=i % 16 == 13)
    _upper_organs(scan, rng, hu)
    _bowel(scan, rng, hu)
    values = _expose(scan, rng, skin, noise, blur)
    if i % 40 == 27:  # mirrored as a whole, so that the kidney on the left is the left one
        values, labels = values[..., ::-1], scan.labels[..., ::-1]
        swap = np.uint8([0, LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, BOWEL])
        scan.labels = np.ascontiguousarray(swap[labels])
    gap, pixel, _ = spacing = scan.spacing.tolist()
    # Scanners measure z from a mark on the skin, so that it starts anywhere.
    corner = np.round(scan.origin[::-1] + [0, 0, rng.uniform(-900, 200)], 2).tolist()
    slices = _series(rng, i, values, spacing, corner, phase)
    affine = nibabel.affines.from_matvec(np.diag([pixel, pixel, gap]), corner)
    affine = np.diag([-1, -1, 1, 1]) @ affine  # DICOM counts to the left and back, NIfTI does not
    labels = nibabel.Nifti1Image(scan.labels.transpose(2, 1, 0), affine)
    labels = nibabel.as_closest_canonical(labels) if i % 2 else labels
    labels.set_qform(labels.affine, code="aligned")
    patient, series = 10004 + 17 * i, 21057 + 89 * i
    folder = f"train_images/{patient}/{series}"
    files = {f"{folder}/{number}.dcm": content for number, content in slices.items()}
    return {**files, f"segmentations/{series}.nii": labels.to_bytes()}


class _Scan:
    """A scan in which shapes are drawn; arrays are (S, H, W), slices upwards.

    Attributes:
        hu: values in Hounsfield units, float32, air at first.
        labels: class numbers, uint8.
        solid: depth in mm below the surface of what was drawn.
        x, y, z: body coordinates of every voxel in mm: to the left, backwards, upwards.
        shape, spacing, origin: those of the grid, in the order z, y, x.
        scale: size of the patient, 1 for the average.
        half: half the width and half the depth of the abdominal cavity in mm.
        fat, thick: thickness of the fat under the skin and of the muscle wall in mm.
    """

    def __init__(self, rng, shift, hospital):
        least, greatest, coarsest = PATIENTS[hospital]
        self.fat, self.thick, scale = rng.uniform(least, greatest).tolist()
        n = int(rng.integers(17, 21))
        self.half = rng.uniform([122, 82], [132, 92]).tolist()
        gap = round(float(np.clip(rng.uniform(190, 204) * scale / n, 8, 12)), 1)
        width = 2 * scale * (134 + self.fat + self.thick) + 24
        pixel = round(float(np.clip(width / 128, 2.5, coarsest)), 3)
        self.shape, self.spacing, self.scale = (n, 128, 128), np.array([gap, pixel, pixel]), scale
        self.origin = np.array([10 + shift - gap * (n - 1) / 2, *rng.normal([-60, -64], 2) * pixel])
        sides = [
            np.float32((np.arange(length) * step + start) / scale)
            for length, step, start in zip(self.shape, self.spacing, self.origin)
        ]
        z, y, x = np.meshgrid(*sides, indexing="ij")
        angle = np.deg2rad(rng.normal(0, 2.5))
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        x, y = x * cos - y * sin, y * cos + x * sin
        # The coordinates are bent instead of the organs: patients differ in shape, and organs still
        # do not overlap.
        self.x, self.y, self.z = (
            axis + 5 * self.clouds(rng, 4) + 1.5 * self.clouds(rng, 10) for axis in (x, y, z)
        )
        self.hu = np.full(self.shape, -1000, np.float32)
        self.solid = np.full(self.shape, FAR, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)

    def clouds(self, rng, cells):
        """Smooth noise (S, H, W), about -1..1.

        It has `cells` bumps across a slice and half as many along the body.
        """
        n, height, width = self.shape
        coarse = rng.normal(0, 0.5, (cells, cells, cells // 2 + 1)).astype(np.float32)
        planes = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        between = cv2.resize(np.eye(cells // 2 + 1, dtype=np.float32), (cells // 2 + 1, n))
        return np.ascontiguousarray((planes @ between.T).transpose(2, 0, 1))

    def around(self, centre, reach):
        """The box of voxels around a point, and their distances to it along x, y and z."""
        middle = (np.array(centre[::-1]) * self.scale - self.origin) / self.spacing
        extent = (np.broadcast_to(reach, 3)[::-1] * self.scale + 16) / self.spacing
        box = tuple(
            slice(max(0, int(low)), max(0, int(high) + 2))
            for low, high in zip(middle - extent, middle + extent)
        )
        axes = (self.x, self.y, self.z)
        return box, [axis[box] - float(place) for axis, place in zip(axes, centre)]

    def oval(self, centre, axes, power=2.0, angle=0.0):
        """Depth (S, H, W) in mm below the rim of a superellipsoid, negative outside.

        `axes` are its half axes, `power` 2 is an ellipsoid, more is squarer.
        """
        depth = np.full(self.shape, FAR, np.float32)
        box, (u, v, w) = self.around(centre, (max(axes[:2]), max(axes[:2]), axes[2]))
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        sides = u * cos + v * sin, v * cos - u * sin, w
        powers = sum(np.abs(side / float(axis)) ** power for side, axis in zip(sides, axes))
        depth[box] = (1 - powers ** (1 / power)) * float(np.sqrt(np.prod(np.sort(axes)[:2])))
        return depth

    def tube(self, path, radii):
        """Depth (S, H, W) of balls along a path (points, 3), and the index of the nearest ball."""
        depth, nearest = np.full(self.shape, FAR, np.float32), np.zeros(self.shape, np.int32)
        for k, (centre, radius) in enumerate(zip(path, np.broadcast_to(radii, len(path)))):
            box, (u, v, w) = self.around(centre, radius)
            below = float(radius) - np.sqrt(u * u + v * v + w * w)
            nearest[box][below > depth[box]] = k
            depth[box] = np.maximum(depth[box], below)
        return depth, nearest

    def put(self, depth, value, label=0, rim=0.0, over=False):
        """Draw a shape where nothing solid lies, or, with `over`, on top of everything.

        It becomes solid itself, with a margin of `rim` mm that later shapes leave free.
        """
        depth = depth if over else np.minimum(depth, -self.solid)
        for rows, *sides in ndimage.find_objects((depth > -20).view(np.uint8)):
            box = (slice(max(0, rows.start - 1), rows.stop + 1), *sides)
            inside, under = depth[box], self.hu[box]
            # Partial volume: within the thickness of a slice an oblique surface moves sideways.
            rise = np.minimum(np.abs(np.gradient(inside, axis=0)), np.float32(self.spacing[0]))
            share = edge(inside, np.float32(self.spacing[1]) + rise)
            under += share * (np.broadcast_to(value, self.shape)[box] - under)
            self.labels[box][inside > 0] = label
            self.solid[box] = np.maximum(self.solid[box], inside + rim)


def _path(points, step=6):
    """Smooth path (n, 3) through points x, y, z, a point about every `step` mm."""
    t = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    return CubicSpline(t, points)(np.linspace(0, t[-1], max(2, int(t[-1] / step))))


def _trunk(scan, rng, hu):
    """Skin, fat, muscles, ribs, lungs and heart; returns the depth below the skin."""
    x, y, z, grain = scan.x, scan.y, scan.z, scan.clouds(rng, 40)
    out = np.hypot(x, y) + 1
    squares = (np.abs(x) / scan.half[0]) ** 2.3 + (np.abs(y + 2) / scan.half[1]) ** 2.3
    wall = (out * (squares ** (-1 / 2.3) - 1)).clip(2 * FAR)  # depth in the cavity
    skin = wall + scan.thick + scan.fat * (1 + 0.002 * np.abs(x) * (y > 0))
    streaks = rng.uniform(0, 60) * np.maximum(scan.clouds(rng, 24), 0)
    scan.put(skin, 20, over=True)
    scan.put(skin - 3, -104 + 10 * grain, over=True)
    scan.put(wall + scan.thick, hu["muscle"] - streaks, over=True)
    scan.put(wall, -106 + 14 * grain, over=True)
    # Ribs slope down towards the front and end above the costal margin.
    height = (z - 0.7 * y + rng.uniform(0, 27)) / 27
    rib = np.minimum(5 - np.abs(height - np.rint(height)) * 27, 4.5 - np.abs(wall + 5))
    rib = np.minimum(np.minimum(rib, z + 0.95 * y - 5), np.hypot(x, y - 45) - 45)
    # The diaphragm: two domes, steep towards the flanks and the back, flatter between them and in
    # front.
    side, back = np.abs(x) - 60, y + 15
    side, back = np.maximum(side, -0.6 * side), np.maximum(back, -0.5 * back)
    dome = rng.normal(105, 3) - 0.08 * x - 0.0076 * (side**2 + back**2)
    above = np.minimum(z - dome, np.hypot(x, y - 30) - 36)
    lungs = np.minimum(wall, above)
    scan.put(lungs + 3, hu["muscle"], over=True)
    scan.put(lungs, -850 + 40 * grain + 700 * np.maximum(scan.clouds(rng, 30) - 0.7, 0), over=True)
    scan.put(rib, 480 - 50 * rib.clip(0) + 40 * grain, over=True)
    scan.put(scan.oval((22, -38, 126), (60, 46, 42), angle=0.5), hu["veins"], over=True)
    scan.solid = np.maximum(-wall, above)
    return skin


def _spine(scan, rng, hu):
    """Vertebrae with discs, the muscles beside them, aorta and vena cava."""
    flesh = hu["muscle"] - rng.uniform(40, 120) * np.maximum(scan.clouds(rng, 30) - 0.2, 0)
    muscles = ((34, 79, 0, 31, 20, 900), (64, 77, -70, 20, 10, 75), (35, 48, -105, 18, 22, 95))
    for x, *place, a, b, c in muscles:
        for sign in (-1, 1):
            scan.put(scan.oval((sign * x, *place), (a + 1.5, b + 1.5, c), 2.3), -80, over=True)
            scan.put(scan.oval((sign * x, *place), (a, b, c), 2.3), flesh, over=True)
    level = (scan.z / 33 + rng.uniform()) % 1
    bone, disc = rng.uniform(130, 230) + 35 * scan.clouds(rng, 40), level < 0.25
    arch = np.where(disc & (np.abs(scan.x) < 9), hu["muscle"], bone + 250)
    body = np.where(disc, rng.uniform(75, 105), bone)
    across = np.where(level > 0.75, bone + 150, flesh)
    parts = [(84, 4.5, 22, arch), (74, 40, 4.5, across), (66, 20, 14, arch)]
    parts += [(42, 23, 17, body + 250 * ~disc), (42, 20, 14, body), (65, 10, 8, 25)]
    for y, a, b, value in parts:
        scan.put(scan.oval((0, y, 0), (a, b, 900), 2.4), value, over=True)
    artery, vein = rng.uniform([8.5, 9], [11, 13])
    scan.put(scan.oval((rng.uniform(4, 14), 15, 0), (artery, artery, 900)), hu["aorta"], rim=1)
    scan.put(scan.oval((-22, 14, 0), (vein + 2, vein - 1, 900)), hu["veins"])
    for x, radius, vessel in ((4, 3.5, "aorta"), (-8, 5, "veins")):  # of the mesentery
        scan.put(scan.oval((x, -7, -35), (radius, radius, 45)), hu[vessel], rim=1)


def _kidneys(scan, rng, hu, single):
    """Cortex and medulla of the kidneys; the fat in their sinus is not labelled as kidney.

    A `single` kidney is larger than one of two.
    """
    sides = [(1, LEFT_KIDNEY, -8), (-1, RIGHT_KIDNEY, -22)]
    for sign, label, high in rng.permutation(sides)[:1].tolist() if single else sides:
        x, y, z, *axes = rng.normal([64, 38, high, 28, 25.5, 54], [2, 2, 5, 1.3, 1.3, 3])
        axes = np.array(axes) * (1.12 if single else rng.uniform(0.95, 1.06))
        angle = sign * rng.uniform(0.3, 0.9)  # the hilum faces forward and to the middle
        hilum = sign * (x - 15), y - 7, z
        depth = scan.oval((sign * x, y, z), axes, 2.3, angle)
        depth = np.minimum(depth, -scan.oval(hilum, (15, 9, 19), angle=angle))
        deep = edge(np.minimum(depth - 7, 4 * scan.clouds(rng, 26) + 2), RIM)
        value = hu["cortex"] + deep * (hu["medulla"] - hu["cortex"])
        cysts = rng.normal([sign * x, y, z], [16, 14, 30], (int(rng.choice([0, 0, 1, 3])), 3))
        for cyst in cysts:  # filled with water; they belong to the kidney
            share = edge(scan.oval(cyst, (radius := rng.uniform(5, 11), radius, radius)), RIM)
            value = value + share * (8 - value)
        scan.put(depth, value, label, rim=3)
        for target, radius, vessel in ((14, 4, "veins"), (22, 3, "aorta")):
            course = _path([hilum, (sign * 26, y - 18, z + 3), (sign * 14, target, z + 6)], 4)
            scan.put(scan.tube(course, radius)[0], hu[vessel])


def _liver(scan, rng, hu, grain):
    """Gall bladder and liver: two lobes with an oblique lower side, a fissure, and vessels."""
    *place, a, b, c = rng.normal([-48, -44, -4, 15, 19, 26], [5, 4, 6, 2, 2, 3])
    scan.put(scan.oval(place, (a, b, c), angle=0.5), rng.uniform(4, 22), rim=1)
    size, reach, slope, border = rng.uniform([0.88, 55, 0.55, -62], [0.99, 95, 0.8, -45])
    right = scan.oval((-64, -4, 28), size * np.array([74, 82, 88]), 2.3)
    left = scan.oval((5, -50, 60), (reach, 31 * size, 44 * size), angle=rng.uniform(-0.15, 0.15))
    under = scan.z - border - slope * (scan.x + 115) + 0.12 * scan.y + 8 * scan.clouds(rng, 7)
    # Room behind the liver for the right kidney and its fat.
    right = np.minimum(np.minimum(right, 0.8 * under), -scan.oval((-52, 58, -18), (42, 36, 66)))
    fissure = np.abs(scan.x + 22 - 0.2 * scan.y) + 0.6 * (scan.y + 50) + 0.5 * (scan.z - 15)
    gate = np.array([-25, -8, 32])
    ends = rng.uniform([-118, -70, -5], [20, 60, 95], (9, 3))
    branches = [_path([gate, (gate + end) / 2 + rng.normal(0, 9, 3), end]) for end in ends]
    radii = [np.linspace(rng.uniform(4, 7), 1.5, len(branch)) for branch in branches]
    vessels = edge(scan.tube(np.concatenate(branches), np.concatenate(radii))[0], RIM)
    value = hu["liver"] + 5 * grain + vessels * (hu["veins"] - hu["liver"])
    # Cysts and metastases; they belong to the liver.
    spots = rng.uniform([-115, -60, -10], [-10, 45, 90], (int(rng.choice([0, 0, 0, 2, 6])), 3))
    for spot in spots:
        share = edge(scan.oval(spot, (radius := rng.uniform(5, 16), radius, radius)), 3 * RIM)
        value = value + share * rng.uniform(0.4, 0.95) * (10 - value)
    scan.put(np.minimum(np.maximum(right, left), fissure), value, LIVER, rim=1.5)


def _upper_organs(scan, rng, hu):
    """Liver, spleen, pancreas and stomach."""
    grain = scan.clouds(rng, 50)
    _liver(scan, rng, hu, grain)
    x, y, z, *axes = rng.normal([98, 30, 52, 31, 52, 51], [3, 4, 6, 2, 3, 4])
    axes = np.array(axes) * rng.uniform(0.95, 1.2)
    depth = scan.oval((x, y, z), axes, 2.2, angle=rng.uniform(0.3, 0.6))
    # Soon after the injection the spleen takes up the contrast medium in stripes.
    stripes = (hu["aorta"] - hu["veins"]) * rng.uniform(0.1, 0.25) * scan.clouds(rng, 22)
    stripes = stripes.clip(-40, 40)
    depth = np.minimum(depth, -scan.oval((x - 42, y - 30, z - 4), (42, 36, 60)))
    scan.put(depth, hu["spleen"] + 5 * grain + stripes, SPLEEN, rim=1.5)
    pancreas = [(-30, -14, -12), (-12, -14, 0), (18, -16, 8), (50, 2, 18), (78, 10, 28)]
    course = _path(rng.normal(pancreas, 3))
    depth, _ = scan.tube(course, np.linspace(13, 8, len(course)))
    scan.put(depth - 2 * np.abs(grain), 0.8 * hu["liver"] + 20 * grain, rim=1)
    full = rng.uniform(0.75, 1.1)
    outlet = _path([(60, -35, 25), (40, -48, 5), (8, -46, 0), (-22, -38, 6)])
    depth, _ = scan.tube(outlet, np.linspace(24, 13, len(outlet)) * full)
    depth = np.maximum(depth, scan.oval((58, -25, 55), full * np.array([46, 44, 48]), angle=0.6))
    content = float(rng.choice([8, 35, 60, 180]))
    _hollow(scan, rng, hu, depth, content, rng.uniform(-52, -10), 0, 4.0)


def _hollow(scan, rng, hu, depth, content, level, label, wall):
    """Draw stomach or bowel: a wall of so many mm around contents in HU.

    The patient lies on the back, so gas fills what is in front of y = `level`.
    """
    depth = np.minimum(depth, -scan.solid)
    food = content + rng.uniform(0, 45) * scan.clouds(rng, 36)
    food += edge(level - scan.y, RIM) * (-940 - food)
    scan.put(depth, hu["wall"] + edge(depth - wall, RIM) * (food - hu["wall"]), label, rim=1)


def _bowel(scan, rng, hu):
    """The colon, which frames the loops of the small bowel.

    Each section of 12 points holds stool, fluid, contrast medium or gas.
    """
    colon = [(-88, 6, -125), (-94, 16, -80), (-96, 12, -42), (-74, -22, -30), (-40, -58, -44)]
    colon += [(0, -70, -56), (48, -62, -36), (84, -22, 6), (100, 4, 24), (104, 22, -14)]
    colon += [(102, 24, -70), (98, 18, -125)]
    loops = []
    for k, z in enumerate(range(-130, 0, 21)):
        for j, x in enumerate(np.linspace(-68, 68, 6)[:: 1 - 2 * (k % 2)]):
            depths = (-52, -4) if (j + k) % 2 else (-4, -52)
            loops += [(x, y, z) for y in depths]
    colon, loops = _path(rng.normal(colon, 5)), _path(rng.normal(loops, [8, 9, 6]), 7)
    radii_of_parts = rng.uniform([19, 16, 12, 10], [27, 23, 17, 15])
    wide = np.interp(np.linspace(0, 3, len(colon)), range(4), radii_of_parts)
    wide = wide * (1 + 0.13 * np.sin(1.3 * np.arange(len(colon))))  # haustra
    narrow = rng.uniform(9.5, 12) + 1.5 * np.sin(np.arange(len(loops)) / 3)
    brightest = rng.choice([75, 330], p=[0.65, 0.35])  # contrast medium was drunk
    for path, radii, gassy in ((colon, wide, 0.7), (loops, narrow, 0.2)):
        depth, nearest = scan.tube(path, radii)
        content, level = np.empty((2, len(path)), np.float32)
        for start in range(0, len(path), 12):
            part = slice(start, start + 12)
            content[part] = rng.uniform(8, brightest)
            level[part] = path[part, 1].mean() + radii[start] * rng.uniform(-0.6, 0.5)
            level[part] -= 999 * (rng.random() > gassy)
        _hollow(scan, rng, hu, depth, content[nearest], level[nearest], BOWEL, 2.5)
    # Small vessels in the fat that remains.
    scan.put(12 * (scan.clouds(rng, 44) - 0.6), 0.7 * hu["veins"])


def _expose(scan, rng, skin, noise, blur):
    """Values (S, H, W) in HU with couch, streaks from the spine, blur in pixels, noise in HU."""
    side = (np.arange(128) - 64) * scan.spacing[1]
    back = (scan.half[1] + scan.fat + scan.thick) * scan.scale + 3
    couch = edge(2.5 - np.abs(side[:, None] + 14 * (side / 160) ** 2 - back), RIM) * (skin < -3)
    values = scan.hu + couch * (30 - scan.hu)
    rays = rng.normal(0, rng.uniform(2, 7), (len(values), 260)).astype(np.float32)
    angle = np.int32(40 * (np.arctan2(scan.y[0] - 45, scan.x[0]) + np.pi))
    values += np.where(skin > 0, rays[:, angle], 0)
    grains = noise * rng.standard_normal(values.shape, np.float32)
    planes = zip(values.astype(np.float32), grains)
    return np.stack([soften(plane, blur) + soften(grain, 0.6) for plane, grain in planes])


def _series(rng, i, values, spacing, corner, phase):
    """The DICOM files of a series: number in the file name -> bytes, one a slice.

    Args:
        values: (S, H, W) in HU, from the feet upwards.
        spacing: mm of slices, rows and columns.
        corner: position of the first voxel, x, y and z in mm.
        phase: that of the contrast medium, for the description.
    """
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

    key, n, signed = rng.bytes(16).hex(), len(values), i % 2
    syntax = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)[i % 3]
    # Unsigned numbers clip the noise of air at -1024 HU, signed ones keep it.
    stored = np.clip(np.rint(values) + 1024, -2048 if signed else 0, 4095)
    stored = stored.astype(np.int16 if signed else np.uint16)
    tags = _tags(i, key, signed, spacing, phase)
    files = {}
    for k, plane in enumerate(stored):
        number = n - k if i % 4 in (1, 2) else k + 1  # some scanners count from the head down
        height = round(corner[2] + k * spacing[0], 2)
        place = {
            "InstanceNumber": number,
            "SliceLocation": height,
            "ImagePositionPatient": [*corner[:2], height],
            "SOPInstanceUID": generate_uid(entropy_srcs=[key, str(k)]),
            "PixelData": plane.tobytes(),
        }
        files[number] = _dicom_file({**tags, **place}, syntax)
    return files


def _tags(i, key, signed, spacing, phase):
    """The attributes that all files of a series share; `key` determines its UIDs."""
    from pydicom.uid import CTImageStorage, generate_uid

    study, series, frame = (
        generate_uid(entropy_srcs=[key, name]) for name in ("study", "series", "frame")
    )
    bits = 16 if signed else 12
    return dict.fromkeys(EMPTY_TAGS, None) | {
        "SOPClassUID": CTImageStorage,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": frame,
        "PatientID": f"PHANTOM-{i + 1:04d}",
        "PatientName": f"PHANTOM-{i + 1:04d}",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "synthetic, no patient",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesNumber": 2,
        "SeriesDescription": f"ABDOMEN {phase}",
        "PatientPosition": "HFS",
        "KVP": 120,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": list(spacing[1:]),
        "SliceThickness": spacing[0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 128,
        "Columns": 128,
        "PixelRepresentation": signed,
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
        "WindowCenter": 50,
        "WindowWidth": 400,
    }


def _dicom_file(tags, syntax):
    """The bytes of a DICOM file, compressed where the encoder of `syntax` is installed."""
    import pydicom
    from pydicom.pixels import get_encoder
    from pydicom.uid import ExplicitVRLittleEndian

    image, image.file_meta = pydicom.Dataset(), pydicom.dataset.FileMetaDataset()
    for name, value in tags.items():
        setattr(image, name, value)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax.is_compressed and get_encoder(syntax).is_available:
        image.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()
