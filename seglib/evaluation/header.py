"""The header of a report: its data, units and weights; and the notes on its files."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from .. import measurements, summary
from ..formats import channels, mask_pixels
from ..inference import OPTIONS, Predictor
from ..measurements import UNIT
from .networks import Networks

MAX_NOTES = 5  # of the data report, in a report of scores


def about_report(
    networks: Networks,
    dataset,
    scores: tuple[pd.DataFrame, pd.DataFrame],
    grid: str,
    part: str | None,
) -> dict[str, Any]:
    """Header of the report: data, grid and units, weights and how they were used.

    `scores` are `per_image` and `per_volume`.
    """
    per_image, per_volume = scores
    predictor = networks.predictors[0]  # the settings are those of all
    if part is None:
        part = "validation, used for model choice" if dataset.part == "val" else dataset.part
    about = {
        "part": part,
        "grid": grid,
        "threshold": predictor.config.threshold,
        **predictor.chosen,
        "distances_in": _unit_text(per_image, "case", grid, "images"),
    }
    if len(per_volume):
        about["distances_of_volumes_in"] = _unit_text(per_volume, "volume", grid, "volumes")
    about |= {
        "images": int(per_image["case"].nunique()),
        "patients": int(per_image["patient"].nunique()),
        "precision": predictor.precision,
        **_about_weights(networks.predictors),
    }
    if predictor.config.task == "multiclass":
        about["threshold"] = "none, the likeliest class"
    for option in OPTIONS:
        if getattr(predictor, option):
            about[option] = getattr(predictor, option)
    if predictor.tta and not predictor.flips:
        about["tta"] = "none, no flip in the training augmentation"
    about["seen_in_training"] = _seen_text(per_image)
    return about


def _about_weights(predictors: list[Predictor]) -> dict[str, str]:
    """Names and checksums of all weights files of a report."""
    paths = [path for predictor in predictors for path in predictor.files]
    checksums = [sha256 for predictor in predictors for sha256 in predictor.checksums]
    if not paths:
        return {"weights": "in memory"}
    names = [path.name for path in paths]
    if len(paths) > 1:  # of several, the name of the run tells them apart
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    about = {"weights": ", ".join(names)}
    if all(checksums):
        about["weights_sha256"] = ", ".join(sha256[:16] for sha256 in checksums)
    return about


def seen_in_training(per_image: pd.DataFrame, networks: Networks, dataset) -> pd.Series | None:
    """Whether the image of each row was in the training of the network that predicted it; None if
    that is unknown."""
    trained_on = [predictor.trained_on for predictor in networks.predictors]
    if None in trained_on:
        return None
    hash_sets = [set(hashes) for hashes in trained_on]
    hashes = dataset.cases["sha256"].str.slice(0, 16)
    seen = [sha256 in hash_sets[position] for sha256, position in zip(hashes, networks.of_row)]
    return per_image["case"].map(dict(zip(dataset.cases["case"], seen)))


def _seen_text(per_image: pd.DataFrame) -> str:
    seen = summary.seen_in_training(per_image)
    if seen is None:
        return "unknown, the weights do not say"
    if not seen.n_seen:
        return f"none of {seen.n_images} images"
    text = f"{seen.n_seen} of {seen.n_images} images (column seen of per_image.csv)"
    if seen.n_new:
        text += f"; Dice of the {seen.n_new} others {seen.dice_of_new:.4f}"
    return text


def _unit_text(table: pd.DataFrame, key: str, grid: str, things: str) -> str:
    """The unit of the mean distances, and what is left out of them because it has another unit."""
    scored = table[table[UNIT] != ""]
    if scored.empty:
        return "not computed"
    unit = measurements.unit_of(scored)
    others = scored[scored[UNIT] != unit]
    text = unit if unit == "mm" else f"{unit} of the {grid} grid"
    if others.empty:
        return text
    n, total = (len(rows.groupby([key, "patient"])) for rows in (others, scored))
    return (
        f"{text}; {n} of {total} {things} have no known spacing: their distances are in "
        f"{measurements.unit_of(others)} (column {UNIT}) and left out of the means"
    )


def notes_of_data(dataset) -> list[str]:
    """What the data report notes about the scored files, or about no file in particular."""
    scored, all_files = (_file_names(cases) for cases in (dataset.cases, dataset.store.cases))
    texts = []
    for text in dataset.store.report.notes:
        files = all_files.intersection(re.split(r": |, | and \d+ more", text))
        if files & scored or not (files or text.startswith("split:")):
            texts.append(f"data: {text}")
    if len(texts) > MAX_NOTES:
        more = len(texts) - MAX_NOTES
        texts = [*texts[:MAX_NOTES], f"data: {more} more notes in the data report (store.report)"]
    return texts


def _file_names(cases: pd.DataFrame) -> set[str]:
    """The names of all files in the cells of a case table."""
    cells = cases.select_dtypes(exclude="number").to_numpy().ravel()
    texts = [
        text for cell in cells if isinstance(cell, str) for text in cell.split(mask_pixels.UNION)
    ]
    return {Path(path).name for text in set(texts) for path in channels.files(text)}
