"""Masks of a data set as files of labelling tools, to be corrected there and read back.

`Predictor.outline` does the same with predictions.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import case_io, config
from .annotations import outlines, shapes, writers
from .errors import DataError, listed
from .formats import images, volumes
from .tables import IGNORE


class Export(NamedTuple):
    """What `export` has written.

    Attributes:
        path: the COCO file, or the folder of the LabelMe files.
        root: the folder to which the names of images in a COCO file are relative.
        n_images: how many images are described.
        notes: what the files do not say.
    """

    path: Path
    root: Path
    n_images: int
    notes: tuple[str, ...]


def export(
    store, folder: str | Path, form: str = "coco", tolerance: float = outlines.EXACT
) -> Export:
    """Write the masks of a store in the original size of their images.

    Pixels that are ignored become shapes of the class "ignore" (in LabelMe `__ignore__`), as which
    they are read back.

    Args:
        store: of `prepare.build`; images that it has set aside are left out.
        form: one of `tables.ANNOTATION_FORMS`.
        tolerance: by how many pixels outlines may move; up to 0.1 no pixel changes.

    Raises:
        DataError: there are only volumes, which these tools do not open, or a file exists already.
        ConfigError: no such form, or a tolerance that is negative or no number.
    """
    cfg = config.from_dict(store.info["config"])
    structures = tuple(cfg.structures.values())
    records = store.cases.to_dict("records")
    cases = [case for case in records if not volumes.is_volume(case["image"])]
    if not cases:
        raise DataError(
            "only slices of volumes, and COCO and LabelMe describe pictures; correct volumes in "
            "3D Slicer or ITK-SNAP, which open them as they are"
        )
    root = Path(os.path.commonpath([os.path.dirname(case["image"]) for case in cases]))
    writer = writers.writer(form, folder, structures, tolerance, root)
    names = _file_names(cases)
    missing: dict[str, list[str]] = {}  # class -> images without a mask of it
    partly_ignored, n_images = [], 0
    for case in cases:
        truth, annotated = _truth(case, cfg, store.info["inverted"])
        for name in structures:
            if name not in annotated:
                missing.setdefault(name, []).append(case["case"])
        if not set(annotated) & set(structures):
            continue
        planes, is_complete = _planes(truth, annotated, cfg)
        if not is_complete:
            partly_ignored.append(case["case"])
        orientation = images.exif_orientation(case["image"])
        writer.add(case["image"], planes, orientation, names[case["case"]])
        n_images += 1
    notes = [
        f"{name}: {len(names)} images have no mask of it ({listed(names)}); no file can say that, "
        "and they are read back as images without this structure"
        for name, names in missing.items()
    ]
    if partly_ignored:
        notes.append(
            f"{listed(partly_ignored)}: pixels that are ignored in some classes only are written "
            "as background of these"
        )
    n_volumes = len(records) - len(cases)
    if n_volumes:
        notes.append(f"{n_volumes} slices of volumes are left out")
    return Export(writer.save(), root, n_images, tuple(notes))


def _truth(
    case: dict[str, Any], cfg: Any, inverted: dict[str, bool]
) -> tuple[np.ndarray, list[str]]:
    """The masks of a case, (H, W, K) uint8 in the size of its image, and its annotated classes."""
    shape = (int(case["height"]), int(case["width"]))
    truth, annotated, _, _ = case_io.read_truth(case, cfg, inverted, shape)
    return truth, [name for name, is_annotated in zip(cfg.class_names, annotated) if is_annotated]


def _planes(
    truth: np.ndarray, annotated: Sequence[str], cfg: Any
) -> tuple[dict[str, np.ndarray], bool]:
    """Class -> where it is, with the ignored pixels last; and whether nothing else is ignored."""
    if cfg.task == "multiclass":
        labels = truth[..., 0]
        planes = {
            name: labels == number
            for number, name in enumerate(cfg.class_names)
            if number and name in annotated
        }
        everywhere, is_complete = labels == IGNORE, True
    else:
        planes = {
            name: truth[..., k] == 1 for k, name in enumerate(cfg.class_names) if name in annotated
        }
        ignored = truth[..., [name in annotated for name in cfg.class_names]] == IGNORE
        everywhere = ignored.all(axis=-1)
        is_complete = bool((ignored.any(axis=-1) == everywhere).all())
    if everywhere.any():
        planes[shapes.IGNORED] = everywhere
    return planes, is_complete


def _file_names(cases: list[dict[str, Any]]) -> dict[str, str]:
    """Case -> name of its LabelMe file: that of its image, as LabelMe expects, where that differs
    from all others."""
    stems = {case["case"]: Path(case["image"]).stem for case in cases}
    n_cases = Counter(stems.values())
    return {
        name: stem if n_cases[stem] == 1 else name.replace("/", "_") for name, stem in stems.items()
    }
