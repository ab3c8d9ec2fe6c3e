"""Distances between truth and prediction, their units, and the longest that are possible."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import metrics
from ..formats import orientation
from ..measurements import UNIT

SPACING = ("spacing_slice_mm", "spacing_row_mm", "spacing_col_mm")
_DIAGONAL = "diagonal"  # of the frame of an image: a score that is in no table


def distance_scores(
    pred: np.ndarray, truth: np.ndarray, valid: np.ndarray, spacing: tuple[float, ...] | None
) -> dict[str, float]:
    """Metrics of distances in the box of the valid pixels, as padding would lengthen the diagonal
    that stands for a missing mask."""
    box = metrics.box_of(valid) if valid.any() else (slice(None),) * valid.ndim
    pred, truth = (pred & valid)[box], (truth & valid)[box]
    longest = metrics.diagonal(pred.shape, spacing)
    scores = metrics.surface_distances(pred, truth, spacing, longest=longest)
    return {**scores, _DIAGONAL: longest}


def longest_distances(scores: Mapping[tuple, Mapping[str, Any]]) -> dict[str, float]:
    """Unit -> the longest diagonal of the frames that were scored in it."""
    longest: dict[str, float] = {}
    for score in scores.values():
        if _DIAGONAL in score:
            unit = score[UNIT]
            longest[unit] = max(longest.get(unit, 0.0), score[_DIAGONAL])
    return longest


def spacing_of(case: Any, columns: tuple[str, ...]) -> tuple[float, ...] | None:
    """Size of a pixel or voxel along its axes in mm; None where one of them is unknown."""
    values = [case.get(column, "") for column in columns]
    # A picture has no distance between slices: one of its own stands for it.
    spacing = orientation.known_spacing(values if len(values) == 3 else [values[0], *values])
    return spacing and spacing[-len(columns) :]
