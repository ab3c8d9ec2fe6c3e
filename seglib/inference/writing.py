"""Predictions as files: masks, overlays and panels of pictures; masks of volumes on their grid."""

from pathlib import Path

import numpy as np

from .. import plots
from ..formats import channels, dicom_seg, images, sequences, slicer, volumes
from . import masks
from .masks import Prediction, VolumePrediction


def picture(
    prediction: Prediction,
    image: np.ndarray,
    output: Path,
    name: str,
    cfg,
    overlay: bool = False,
    panels: bool = False,
    probability: bool = False,
    truth: np.ndarray | None = None,
) -> None:
    """The files of `Predictor.write`; arguments as there."""
    _mask(prediction.mask, output, name, cfg)
    if overlay:
        images.write_png(output / f"{name}_overlay.png", plots.overlay(image, prediction.mask))
    if panels:
        pictures = {"image": image, "prediction": plots.outline(image, prediction.mask)}
        if truth is not None:
            pictures["truth"] = plots.outline(image, truth)
        if probability:
            pictures["probability"] = _probability_of_any(prediction.prob, cfg.task)
        names = cfg.class_names
        figure = plots.grid(list(pictures.values()), list(pictures), side=3.5, classes=names)
        plots.save(figure, output / f"{name}_visualization.png")


def _mask(mask: np.ndarray, output: Path, name: str, cfg) -> None:
    if cfg.task == "multilabel":
        for class_name, plane in zip(cfg.class_names, mask):
            images.write_png(output / f"{name}_{class_name}_mask.png", plane * 255)
    elif cfg.task == "multiclass":
        images.write_png(output / f"{name}_mask.png", mask)
    else:
        images.write_png(output / f"{name}_mask.png", mask * 255)


def _probability_of_any(prob: np.ndarray, task: str) -> np.ndarray:
    """(H, W) uint8: the probability of any structure, times 255."""
    any_structure = 1 - prob[0] if task == "multiclass" else prob.max(axis=0)
    return (any_structure * 255).round().astype(np.uint8)


def volume(prediction: VolumePrediction, cell: str, output: Path, cfg, dicom: bool) -> None:
    """The files of `Predictor.predict_volume` for the volume of a cell; arguments as there."""
    mask, grid = prediction.mask, prediction.grid
    name = sequences.name_of(cell, cfg).replace("#", "_")
    source = channels.split(cell)[0]
    is_file = output.name.lower().endswith(volumes.SUFFIXES)
    target = output if is_file else output / (name + volumes.mask_suffix(source))
    if dicom:  # first, because it refuses series that it cannot refer to
        planes = dict(masks.by_class(mask, cfg))
        dicom_seg.write(target.parent / f"{name}_mask.dcm", planes, grid)
    colours = [tuple(plots.rgb(colour).tolist()) for colour in plots.COLOURS]
    segments = [
        slicer.Segment(number, class_name, colours[(number - 1) % len(colours)])
        for number, class_name in enumerate(cfg.structures.values(), start=1)
    ]
    if cfg.task != "multilabel":
        volumes.write_mask(target, mask, grid, source, segments)
        return
    for segment, plane in zip(segments, mask):
        part = volumes.with_ending(target, f"_{segment.name}")
        volumes.write_mask(part, plane, grid, source, [segment._replace(number=1)])
