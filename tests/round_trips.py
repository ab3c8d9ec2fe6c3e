"""Masks of real data sets written in each format and read back: what comes back is compared.

    python -m tests.round_trips DATA [SET ...]

compares all images of each set that show a structure, and writes the table of
`docs/labelling_tools.md`. DATA is the folder with the real sets. It takes a quarter of an hour on
one core. The result of each set is kept in `runs/round_trips`, from where a later call takes it;
delete the file of a set to compare it again.
"""

import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from seglib import annotations, case_io, config, files, layouts, nnunet, prepare
from seglib.annotations import outlines, writers
from seglib.formats import images, mask_pixels, simpleitk, volumes
from tests import results
from tests.sources import ROOT

PAGE = ROOT / "docs" / "labelling_tools.md"
BEGIN = "<!-- round trips: written by python -m tests.round_trips -->"
END = "<!-- end of round trips -->"
KEPT = ROOT / "runs" / "round_trips"
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
# The sets of many images and of large ones come last.
LATER = (
    "montgomery",
    "shenzhen",
    "acdc",
    "drishti_gs1",
    "chase_db1",
    "covid_cxr_leftright",
    "idrid",
)
SETS = [*sorted({*VOLUMES, *PICTURES} - {*LATER}), *LATER]


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
    with contextlib.redirect_stdout(None):
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
    read = mask_pixels.read_labels(str(path), "index", len(planes) + 1, {}).pixels
    return {name: read == k for k, name in enumerate(planes, 1)}


def by_colour_png(planes: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray] | None:
    labels = label_map(planes)
    if labels is None:
        return None
    path = images.write_png(folder / "colour.png", np.array(COLOURS, np.uint8)[labels])
    table = {",".join(map(str, COLOURS[k])): k for k in range(len(planes) + 1)}
    read = mask_pixels.read_labels(str(path), table, len(planes) + 1, {}).pixels
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


def of_image(planes: dict[str, np.ndarray]) -> Counter:
    """The figures of one image; those of a set are their sums."""
    with tempfile.TemporaryDirectory() as folder:
        differing = compare(planes, Path(folder))
        coarse = by_annotations("coco", COARSE)(planes, Path(folder))
    parts, holes, exact = corners(planes, outlines.EXACT)
    distance = max(boundary_distance(planes[name], coarse[name]) for name in planes)
    return Counter(
        {f"pixels changed: {name}": n for name, n in differing.items()},
        images=1,
        components=parts,
        holes=holes,
        corners=exact,
        **{"label maps": int("NRRD" in differing), "corners at 1": corners(planes, COARSE)[2]},
        **{"farther than 1": int(distance > COARSE)},
    )


def of_set(data: Path, name: str) -> dict[str, Any]:
    """The figures of all images of a set that show a structure."""
    total: Counter = Counter()
    for _, planes in masks_of(data, name):
        if any(map(np.any, planes.values())):
            total.update(of_image(planes))
    return dict(total)


# ---- through nnU-Net

LUNG = ("lung", {})
_CURVAS = {"0,0,0": 0, "0,255,255": 1, "255,255,0": 2, "255,0,255": 3}
_ORGANS = ("background", "liver", "right_kidney", "left_kidney", "spleen")
# Set -> preset and settings by which it is read; classes that overlap are no label map of nnU-Net.
STORES: dict[str, tuple[str, dict[str, Any]]] = {
    "acdc": ("cardiac", {}),
    "busi": (
        "binary",
        {
            "class_names": ("lesion",),
            "mask_encoding": {"0,0,0": 0, "0,255,0": 1, "255,0,0": 1},
        },
    ),
    "chaos_mr_t2": (
        "rsna",
        {
            "class_names": _ORGANS,
            "label_map": {},
            "window_level": None,
            "window_width": None,
            "percentiles": (0.5, 99.5),
        },
    ),
    "covid_cxr_leftright": LUNG,
    "curvas_ct": (
        "rsna",
        {"class_names": ("background", "pancreas", "kidney", "liver"), "mask_encoding": _CURVAS},
    ),
    "montgomery": LUNG,
    "msd_spleen_ct": (
        "rsna",
        {"class_names": ("background", "spleen"), "mask_encoding": "threshold"},
    ),
    "shenzhen": LUNG,
}


def through_nnunet(data: Path, name: str) -> dict[str, int]:
    """A set as it is read, exported to nnU-Net's raw layout, and read again from there.

    Returns:
        The numbers of images (slices of volumes) and of pixels whose class or value changed; of
        images without an annotated pixel too.
    """
    preset, settings = STORES[name]
    with tempfile.TemporaryDirectory() as folder:
        fixed = {"work_dir": folder, "image_size": 32, "patch_size": None, "test_split": 0.0}
        cfg = config.preset(preset, "smoke", data_root=str(data / name), **settings, **fixed)
        store = prepare.build(layouts.scan(cfg), cfg)
        target = nnunet.export(store, Path(folder) / "raw", cfg)
        # The number behind the name of a chest X-ray is its finding, no slice.
        layout = "images_masks" if preset == "lung" else "auto"
        of_export = {"mask_encoding": "auto", "label_map": {}, "layout": layout}
        again = cfg.replace(data_root=str(target), **of_export)
        rows = {_key(row): row for row in layouts.scan(again).to_dict("records")}
        n_changed = 0
        for row in store.cases.to_dict("records"):
            copy = rows.pop(_key(row))
            first, second = _pixels(row, cfg, store.info["inverted"]), _pixels(copy, again, {})
            n_changed += sum(int((one != two).sum()) for one, two in zip(first, second))
    if rows:
        raise SystemExit(f"{name}: {len(rows)} images came back that were not exported")
    return {"images": len(store.cases), "pixels changed": n_changed}


def _key(row: dict[str, Any]) -> tuple[str, str]:
    """What tells apart the cases of an export and of its source: volume and slice, or the name."""
    if volumes.is_volume(row["image"]):
        return str(row["volume"]), str(row["slice"])
    return str(row["case"]), ""


def _pixels(row: dict[str, Any], cfg: Any, inverted: dict[str, bool]) -> list[np.ndarray]:
    """The image and the masks of a case, in the size of its files."""
    image = case_io.read_image(row, cfg)
    flags = inverted or dict.fromkeys(cfg.class_names, False)
    return [image, case_io.read_masks(row, cfg, flags, image.shape[:2])[1]]


# ---- the table


def kept(name: str, measure: Callable, *arguments: Any) -> dict[str, Any]:
    """The result of a measurement, from its file where it was made before."""
    path = KEPT / f"{name}.json"
    if not path.is_file():
        files.write_text(path, json.dumps(measure(*arguments), indent=1))
    return json.loads(path.read_text(encoding="utf-8"))


def row(name: str, figures: dict[str, Any], raw: dict[str, Any]) -> str:
    """The line of one set."""
    changed = sum(n for key, n in figures.items() if key.startswith("pixels changed"))
    cells = [
        name,
        figures["images"],
        figures["label maps"] or "overlap",
        raw["images"] if raw else "-",
        figures["components"],
        figures["holes"],
        changed + (raw["pixels changed"] if raw else 0),
        figures["corners"],
        figures["corners at 1"],
        figures["farther than 1"],
    ]
    return f"| {' | '.join(map(str, cells))} |"


ABOUT = """All {n} images of these sets that show a structure. *As label maps*: how many of them \
also went through PNG of
class numbers, PNG of colours and NRRD, which cannot hold classes that overlap. *Through nnU-Net*: \
pictures and slices, also
those without a structure, whose image and mask were exported to nnU-Net's raw layout and read back
(-: not tried).
*Pixels changed* is the sum over all formats: COCO (polygons, drawn by us and by pycocotools, and \
both kinds of RLE), LabelMe,
and those above. The last two columns are of `--outline_tolerance 1`: its corners, and the images \
in which a boundary pixel lies
more than one pixel from the other boundary, as where a thin vessel or tip is lost.
"""
HEADINGS = (
    "set",
    "images",
    "as label maps",
    "through nnU-Net",
    "components",
    "holes",
    "pixels changed",
    "corners",
    "corners at 1",
    "images beyond 1 pixel",
)


def main(data: Path, names: list[str]) -> int:
    rows, failed = [], False
    for name in names or SETS:
        figures = kept(name, of_set, data, name)
        raw = kept(f"{name}_nnunet", through_nnunet, data, name) if name in STORES else {}
        rows.append(row(name, figures, raw))
        print(rows[-1], flush=True)
        differing = {key: n for key, n in {**figures, **raw}.items() if n and "changed" in key}
        if differing:
            failed = True
            print(f"{name}: {differing}", file=sys.stderr)
    if not names:
        rules = "|---" * len(HEADINGS) + "|"
        n_images = sum(kept(name, of_set, data, name)["images"] for name in SETS)
        head = [ABOUT.format(n=n_images), f"| {' | '.join(HEADINGS)} |", rules]
        text = "\n".join([*head, *sorted(rows)])
        results.write_between(PAGE, BEGIN, END, text)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
