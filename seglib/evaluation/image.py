"""Pictures and slices on the grid of the report, and which slices form a volume."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..inference import Predictor, class_plane
from ..tables import IGNORE


@dataclass
class Image:
    """A picture or a slice on the grid of the report.

    `truth` uint8 (H, W) or (K, H, W), 255 where it is unknown or padding; `mask` as in
    `Prediction`.
    """

    dataset: Any
    number: int
    truth: np.ndarray
    mask: np.ndarray | None

    @property
    def case(self) -> pd.Series:
        """The row of the case table."""
        return self.dataset.cases.iloc[self.number]

    @property
    def annotated(self) -> np.ndarray:
        """(K,) bool: the classes whose truth is known."""
        return self.dataset.annotated[self.number]

    @property
    def volume(self) -> tuple[str, str] | None:
        """Volume and patient, which name the volume that this is a slice of; None for a picture."""
        return volume_of(self.case)


def volume_of(case: Any) -> tuple[str, str] | None:
    """Volume and patient of a row of the case table; None for a picture."""
    volume = case.get("volume", "")
    return (volume, case["patient"]) if volume else None


def volumes_of(cases: pd.DataFrame) -> list[tuple[str, str] | None]:
    """`volume_of` of every row."""
    return [volume_of(case) for _, case in cases.iterrows()]


def order_of(cases: pd.DataFrame) -> list[int]:
    """Positions of the cases in the order of the table, but with the slices of each volume together
    and in their own order."""
    groups: dict[Any, int] = {}
    keys = [volume or number for number, volume in enumerate(volumes_of(cases))]
    group = [groups.setdefault(key, len(groups)) for key in keys]
    place = pd.to_numeric(cases.get("slice", pd.Series("", cases.index)), errors="coerce")
    return np.lexsort((place, group)).tolist()


def clean_volume(predictor: Predictor, slices: list[Image]) -> None:
    """Remove the components and fill the holes of a volume, as the predictor is set."""
    if not same_size(slices):  # picture files of different sizes cannot be stacked to a volume
        for image in slices:
            image.mask = predictor.cleaned(image.mask)
        return
    volume = predictor.cleaned(np.stack([image.mask for image in slices], axis=-3))
    for place, image in enumerate(slices):
        image.mask = volume[..., place, :, :]


def same_size(slices: list[Image]) -> bool:
    """Whether the masks of slices can be stacked."""
    return len({image.mask.shape for image in slices}) == 1


def valid_pixels(image: Image, k: int, task: str) -> np.ndarray:
    """(H, W) bool: where the truth of a class is known."""
    return class_plane(image.truth, k, task) != IGNORE
