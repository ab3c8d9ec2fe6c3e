"""Masks of real data sets written in each format and read back: what comes back is compared.

    python -m tests.round_trips DATA N [SET ...]

prints the table of `docs/labelling_tools.md` for the first N images of each set that show a
structure. DATA is the folder with the real sets.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from seglib import annotations
from seglib.annotations import outlines, writers
from seglib.formats import images, simpleitk, volumes

COARSE = 1.0  # pixels: the tolerance of the second kind of polygons
COLOURS = [(0, 0, 0), *((40 * k % 256, 255 - k, 90 * k % 256) for k in range(1, 255))]


def masks_of(data: Path, name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each image or slice of a set: its name, and class -> mask (H, W) bool."""
    folder = data / name
    if name in VOLUMES:
        for path in sorted(folder.glob(VOLUMES[name])):
            labels = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
            for number in range(labels.shape[2]):
                plane = labels[:, :, number].T
                numbers = [int(value) for value in np.unique(plane) if value]
                yield f"{path.name}_{number}", {f"label {k}": plane == k for k in numbers}
        return
    for path, planes in PICTURES[name](folder):
        yield path.name, planes


def grey(path: Path, threshold: int = 127) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L")) > threshold


def coloured(path: Path, classes: dict[str, tuple[int, int, int]]) -> dict[str, np.ndarray]:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return {name: (pixels == colour).all(axis=-1) for name, colour in classes.items()}


def idrid(folder: Path):
    truths = folder / "A. Segmentation" / "2. All Segmentation Groundtruths" / "a. Training Set"
    for path in sorted((truths / "5. Optic Disc").glob("*_OD.tif")):
        lesions = truths / "3. Hard Exudates" / path.name.replace("_OD.tif", "_EX.jpg")
        red = np.asarray(Image.open(lesions))[..., 0] > 127
        yield path, {"disc": np.asarray(Image.open(path)) > 0, "exudates": red}


def drishti(folder: Path):
    for path in sorted(folder.rglob("*_ODsegSoftmap.png")):
        cup = path.with_name(path.name.replace("ODseg", "cupseg"))
        yield path, {"disc": grey(path, 128), "cup": grey(cup, 128)}


def nuclei(folder: Path):
    for case in sorted((folder / "stage1_train").iterdir()):
        parts = [grey(path) for path in sorted((case / "masks").glob("*.png"))]
        yield case, {"nucleus": np.any(parts, axis=0)}


def two_lungs(folder: Path):
    for path in sorted((folder / "leftMask").glob("*.png")):
        yield path, {"left": grey(path), "right": grey(folder / "rightMask" / path.name)}


def curvas(folder: Path):
    classes = {"pancreas": (0, 255, 255), "kidney": (255, 255, 0), "liver": (255, 0, 255)}
    for path in sorted(folder.glob("annotation_*/masks/*.png")):
        yield path, coloured(path, classes)


def busi(folder: Path):
    for path in sorted((folder / "masks").glob("*.png")):
        yield path, coloured(path, {"benign": (0, 255, 0), "malignant": (255, 0, 0)})


def of_one_class(pattern: str, class_name: str):
    def read(folder: Path):
        for path in sorted(folder.glob(pattern)):
            yield path, {class_name: grey(path)}

    return read


VOLUMES = {
    "acdc": "training/*/*_gt.nii.gz",
    "amos_ct": "segmentations/*.nii.gz",
    "chaos_mr_t2": "chaos_MR_T2_normalized/label_*.nii.gz",
    "totalsegmentator_ct": "example_seg*.nii.gz",
}
PICTURES = {
    "busi": busi,
    "chase_db1": of_one_class("*_1stHO.png", "vessel"),
    "covid_cxr_leftright": two_lungs,
    "curvas_ct": curvas,
    "drishti_gs1": drishti,
    "dsb2018_nuclei": nuclei,
    "idrid": idrid,
    "montgomery": lambda folder: two_lungs(folder / "MontgomerySet" / "ManualMask"),
    "msd_spleen_ct": of_one_class("masks/*.jpg", "spleen"),
    "shenzhen": of_one_class("mask/*.png", "lung"),
}
SETS = sorted([*VOLUMES, *PICTURES])


# ---- formats: each function returns the masks that come back


def by_annotations(form: str, tolerance: float = outlines.EXACT):
    def there_and_back(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
        shape = next(iter(planes.values())).shape
        writer = writers.writer(form, folder / form / str(tolerance), tuple(planes), tolerance)
        writer.add("x.png", planes)
        (image,) = annotations.read(writer.save()).images
        drawn = annotations.draw(image, *shape, tuple(planes), "multilabel")
        return {name: drawn[..., k] == 1 for k, name in enumerate(planes)}

    return there_and_back


def by_pycocotools(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """The polygons of the COCO file, drawn by the COCO API."""
    file = COCO(str(folder / "coco" / str(outlines.EXACT) / writers.COCO_FILE))
    drawn = {name: np.zeros(plane.shape, bool) for name, plane in planes.items()}
    for entry in file.loadAnns(file.getAnnIds()):
        drawn[file.cats[entry["category_id"]]["name"]] |= file.annToMask(entry) > 0
    return drawn


def label_map(planes: dict[str, np.ndarray]) -> np.ndarray | None:
    """Class numbers, (H, W) uint8; None where classes overlap."""
    if np.sum(list(planes.values()), axis=0).max() > 1:
        return None
    return np.sum([plane * k for k, plane in enumerate(planes.values(), 1)], axis=0, dtype=np.uint8)


def by_index_png(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray] | None:
    labels = label_map(planes)
    if labels is None:
        return None
    path = images.write_png(folder / "index.png", labels)
    read = images.read_labels(str(path), "index", len(planes) + 1, {}).pixels
    return {name: read == k for k, name in enumerate(planes, 1)}


def by_colour_png(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray] | None:
    labels = label_map(planes)
    if labels is None:
        return None
    path = images.write_png(folder / "colour.png", np.array(COLOURS, np.uint8)[labels])
    table = {",".join(map(str, COLOURS[k])): k for k in range(len(planes) + 1)}
    read = images.read_labels(str(path), table, len(planes) + 1, {}).pixels
    return {name: read == k for k, name in enumerate(planes, 1)}


def by_nrrd(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray] | None:
    """As a volume of one slice."""
    labels = label_map(planes)
    if labels is None:
        return None
    nibabel.save(nibabel.Nifti1Image(labels.T[..., None], np.eye(4)), folder / "image.nii")
    grid = volumes.read_grid(folder / "image.nii")
    simpleitk.write(folder / "labels.nrrd", labels.T[..., None], grid)
    read = volumes.read_numbers(folder / "labels.nrrd")[..., 0].T
    return {name: read == k for k, name in enumerate(planes, 1)}


EXACT_FORMATS = {
    "COCO polygons": by_annotations("coco"),
    "the same by pycocotools": by_pycocotools,
    "COCO RLE": by_annotations("coco_rle"),
    "COCO RLE, uncompressed": by_annotations("coco_uncompressed_rle"),
    "LabelMe": by_annotations("labelme"),
    "index PNG": by_index_png,
    "colour PNG": by_colour_png,
    "NRRD": by_nrrd,
}


# ---- comparison


def boundary_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance, in pixels, from a boundary pixel of one mask to those of the other.

    Both ways (Hausdorff); the boundary is the mask without its erosion by a cross.
    """
    if not first.any() or not second.any():
        return 0.0 if first.any() == second.any() else float("inf")
    rows, columns = np.nonzero(first | second)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first[box], second[box])]
    distances = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return max(distances[0][edges[1]].max(), distances[1][edges[0]].max())


def corners(planes: dict[str, np.ndarray], tolerance: float) -> tuple[int, int, int]:
    """The numbers of components, holes and corners of their outlines."""
    parts = [
        outlines.part_of(component, tolerance)
        for plane in planes.values()
        for component in outlines.components(plane)
    ]
    rings = [ring for part in parts for ring in part]
    return len(parts), len(rings) - len(parts), sum(map(len, rings))


def compare(planes: dict[str, np.ndarray], folder: Path) -> dict[str, int]:
    """Format -> number of pixels that came back as another class; None: it cannot hold them."""
    result = {}
    for name, there_and_back in EXACT_FORMATS.items():
        again = there_and_back(planes, folder)
        if again is not None:
            result[name] = sum(int((again[key] != planes[key]).sum()) for key in planes)
    return result


def row_of(data: Path, name: str, most: int) -> tuple[str, dict[str, int]]:
    """The line of one set in the table, and format -> pixels that differ in the whole set."""
    n_images = n_parts = n_holes = n_exact = n_coarse = 0
    furthest, differing = 0.0, dict.fromkeys(EXACT_FORMATS, 0)
    shown = (planes for _, planes in masks_of(data, name) if any(map(np.any, planes.values())))
    for planes in itertools.islice(shown, most):
        n_images += 1
        with tempfile.TemporaryDirectory() as folder:
            for form, n in compare(planes, Path(folder)).items():
                differing[form] += n
            coarse = by_annotations("coco", COARSE)(planes, Path(folder))
        counts = corners(planes, outlines.EXACT)
        n_parts, n_holes, n_exact = n_parts + counts[0], n_holes + counts[1], n_exact + counts[2]
        n_coarse += corners(planes, COARSE)[2]
        furthest = max(furthest, *(boundary_distance(planes[k], coarse[k]) for k in planes))
    worst = max(differing.values())
    line = (
        f"| {name} | {n_images} | {n_parts} | {n_holes} | {worst} | {n_exact} | {n_coarse} "
        f"| {furthest:.1f} |"
    )
    return line, differing


def main(data: Path, most: int, names: list[str]) -> int:
    failed = False
    for name in names or SETS:
        line, differing = row_of(data, name, most)
        print(line, flush=True)
        if any(differing.values()):
            failed = True
            print(f"{name}: {differing}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
