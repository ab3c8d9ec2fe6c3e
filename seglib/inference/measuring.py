"""Measures of the structures that are predicted, on the original grid of an image."""

from pathlib import Path

import pandas as pd

from .. import regions
from ..formats import channels, sequences, volumes
from . import masks
from .masks import Prediction, VolumePrediction


def of_original(
    prediction: Prediction | VolumePrediction,
    original: regions.Original,
    options: regions.Options,
    cfg,
) -> pd.DataFrame:
    """The measures of every class of a prediction, or of its objects."""
    return regions.measure(masks.by_class(prediction.mask, cfg), original, options)


def of_file(
    source: str, prediction: Prediction | VolumePrediction, options: regions.Options, cfg
) -> pd.DataFrame:
    """The measures of a file, or of the first channel of a cell, with a prediction.

    `options.pixel_mm` is that of pictures alone.
    """
    file = Path(channels.first_file(source))
    is_volume = volumes.is_volume(source)
    if is_volume:
        source = sequences.cell_of(source, cfg)
        original = regions.of_volume(channels.split(source)[0], cfg)
    else:
        original = regions.of_picture(file, options.pixel_mm)
    is_case = is_volume or len(channels.files(source)) > 1
    name = sequences.name_of(source, cfg) if is_case else file.stem
    table = of_original(prediction, original, options, cfg)
    return table.assign(case=name.replace("#", "_"), file=file.name)
