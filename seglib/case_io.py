"""The pixels of one row of the case table: its image and its truth, from picture files and from slices of volumes."""

import hashlib
import os
from typing import Any

import numpy as np

from .errors import DataError
from .formats import images, volumes


def read_image(case: Any, cfg) -> np.ndarray:
    """The image of a case, (H, W, in_channels) uint8, in the size of its file. A slice of a volume is windowed by
    `window_level` and `window_width`, or clipped to `percentiles` of its whole volume."""
    if not volumes.is_volume(case["image"]):
        return images.read_image(case["image"], cfg.in_channels, cfg.percentiles)
    volume = volumes.read_8_bit(case["image"], cfg)
    return images.as_channels(_slice(case, volume.voxels), cfg.in_channels)


def notes_of(case: Any, cfg) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was odd about the volume of a case: in its headers, and in its values. Pictures: nothing."""
    if not volumes.is_volume(case["image"]):
        return (), ()
    volume = volumes.read_8_bit(case["image"], cfg)
    return volume.grid.notes, volume.decoding_notes


def read_truth(
    case: Any, cfg, inverted: dict[str, bool], shape: tuple[int, int]
) -> tuple[np.ndarray, list[bool], list[str], list[tuple[bool, bool]]]:
    """The masks of a case in the size of their files; `shape` (height, width) is used where there is no mask.

    Returns:
        (H, W, K) uint8; annotated, a bool a class; how each was decoded; for each column whether the mask, and its
        negative, look inverted. A class without a mask is all `IGNORE`.
    """
    if cfg.task == "multiclass":
        if not case["labels"]:
            raise DataError(
                f"{case['case']}: no label map; a multiclass image without labels cannot be used"
            )
        mask = _read_labels(case, cfg)
        annotated = [True] * cfg.n_classes
        if "annotated" in case:
            names = str(case["annotated"]).split(",")
            annotated = [name in names for name in cfg.class_names]
            # A pixel of no annotated class may belong to any of the others: nothing is known about it.
            mask.pixels[~np.isin(mask.pixels, np.flatnonzero(annotated))] = images.IGNORE
        return mask.pixels[..., None], annotated, [mask.decoding], [(False, False)]
    planes, hows, inverted_flags = [], [], []
    for name in cfg.class_names:
        mask = (
            images.read_mask(case[name], cfg.mask_encoding, inverted.get(name, False))
            if case[name]
            else None
        )
        planes.append(mask and mask.pixels)
        hows.append(mask.decoding if mask else "")
        inverted_flags.append(
            (mask.looks_inverted, images.looks_inverted(1 - mask.pixels))
            if mask
            else (False, False)
        )
    shapes = {plane.shape for plane in planes if plane is not None}
    if len(shapes) > 1:
        sizes = ", ".join(
            f"{case[name]} {'x'.join(map(str, plane.shape))}"
            for name, plane in zip(cfg.class_names, planes)
            if plane is not None
        )
        raise DataError(
            f"{case['case']}: its masks have different sizes {sorted(shapes)}; expected one for all classes: {sizes}"
        )
    blank = np.full(shapes.pop() if shapes else shape, images.IGNORE, np.uint8)
    annotated = [plane is not None for plane in planes]
    return (
        np.stack([blank if p is None else p for p in planes], axis=-1),
        annotated,
        hows,
        inverted_flags,
    )


def _read_labels(case: Any, cfg) -> images.Mask:
    label_map = {} if case.get("label_numbers") == "class" else cfg.label_map
    if not volumes.is_volume(case["image"]):
        return images.read_labels(case["labels"], cfg.mask_encoding, cfg.n_classes, label_map)
    labels = volumes.read_labels(case["image"], case["labels"], cfg)
    plane = _slice(case, labels)
    if os.path.isdir(case["labels"]):
        return images.Mask(plane.copy(), "a mask file an organ")
    if cfg.mask_encoding == "threshold" and cfg.n_classes == 2:
        return images.Mask((plane > 0).astype(np.uint8), "above 0")
    return images.map_numbers(case["labels"], plane, cfg.n_classes, label_map)


def _slice(case: Any, volume: np.ndarray) -> np.ndarray:
    if not str(case["slice"]).isdigit() or int(case["slice"]) >= len(volume):
        raise DataError(
            f"{case['case']}: no slice {case['slice']!r} in {case['image']}, which has {len(volume)}; scan it again"
        )
    return volume[int(case["slice"])]


def content(case: dict, image: np.ndarray) -> tuple[str, str]:
    """The hash of the file (of the slice's pixels where the file holds many), and one that equal images share, also
    where they were saved anew in another format."""
    whole = volumes.is_volume(case["image"])
    blank = (
        case["case"] if whole and image.min() == image.max() else ""
    )  # an empty slice is no copy of another
    pixels = hashlib.sha256(f"{image.shape}{blank}".encode() + image.tobytes()).hexdigest()
    return pixels if whole else images.sha256(case["image"]), pixels


# How masks go astray between programs: name -> what was done to them. The last ones fit square images only.
TURNS = {
    "as they are": lambda a: a,
    "mirrored left to right": lambda a: a[:, ::-1],
    "upside down": lambda a: a[::-1],
    "turned by 180 degrees": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "turned by 90 degrees": np.rot90,
    "turned by -90 degrees": lambda a: np.rot90(a, -1),
    "transposed and turned by 180 degrees": lambda a: a[::-1, ::-1].T,
}


def agreement(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How well the edges of the masks (H, W, K) lie on edges of the image (H, W, C), for each of `TURNS`: sums of
    gradients, which can be added over the slices of a volume. Zeros where there is too little to tell."""
    step = max(1, min(image.shape[:2]) // 128)  # edges of organs are seen on a coarse grid too
    grey, planes = image[::step, ::step].mean(axis=2, dtype=np.float32), masks[::step, ::step]
    result = np.zeros(len(TURNS))
    if min(grey.shape) < 8:
        return result
    down, across = planes[1:, :-1] != planes[:-1, :-1], planes[:-1, 1:] != planes[:-1, :-1]
    edge = (down | across).any(axis=2)
    if edge.sum() < 20:
        return result
    steps = np.hypot(*np.gradient(grey))
    steps = np.minimum(steps, np.percentile(steps, 95))[:-1, :-1]  # no single bright rim decides
    for k, turn in enumerate(TURNS.values()):
        turned = turn(edge)
        if turned.shape == steps.shape:
            result[k] = steps[turned].sum()
    return result


def warnings_of(case: dict, cfg, image: np.ndarray, masks: np.ndarray) -> dict[str, str]:
    """What the pixels (H, W, C) and the masks (H, W, K) of a case show that may be right but mostly is not: sentence ->
    the file that it is about. Of a volume it counts only where all of its slices show it."""
    found = {}
    whole = volumes.is_volume(case["image"])
    if image.min() == image.max():
        alike = (
            "all voxels are alike" if whole else f"every pixel is {image.min()}"
        )  # a volume is windowed by now
        found[f"{alike}: nothing can be seen; export it again"] = "image"
    turn = 1 if whole else images.exif_orientation(case["image"])
    if turn > 1:
        found[
            f"EXIF orientation {turn}: viewers turn this picture, here its pixels are used as they are stored, and its "
            "mask must lie over those; save both without the tag if it does not"
        ] = "image"
    annotated = str(case.get("annotated", ",".join(cfg.class_names))).split(",")
    if cfg.task == "multiclass" and set(annotated) >= set(cfg.class_names):
        known = masks != images.IGNORE
        if known.mean() < 0.5:
            found[
                "more than half of it is 255, which is ignored; if that is the background, are its numbers shifted by "
                "one? Correct them, or set label_map"
            ] = "labels"
        elif whole and (masks[known] > 0).all():
            found[
                "no background (0) anywhere; are its numbers shifted by one? Correct them, or set label_map"
            ] = "labels"
    return {text: os.path.basename(case[column]) for text, column in found.items()}
