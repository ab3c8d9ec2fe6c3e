"""From segmented lungs to a finding: masks of all patients, then two classifiers.

Masks and scores of a patient come from models that were trained without this patient.
Taught in `09_tb_two_step`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from . import data, hosts, prepare, training
from .errors import DataError
from .formats import images, mask_pixels
from .inference import Predictor


def patient_folds(labels, patients, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """`prepare.patient_folds` by finding, for classifiers: every fold must have both findings.

    Args:
        labels: the finding of each row.
        patients: the patient of each row.

    Raises:
        DataError: there is only one finding, or one that has fewer patients than there are folds.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    table = pd.DataFrame({"label": labels, "patient": patients})
    n_patients = table.groupby("label")["patient"].nunique()
    if len(n_patients) < 2 or n_patients.min() < n_folds:
        raise DataError(
            f"folds: found patients by finding {n_patients.to_dict()}; "
            f"expected two findings, {n_folds} of each"
        )
    return prepare.patient_folds(labels, patients, n_folds, seed)


def segment_unseen(cases: pd.DataFrame, cfg, fold: np.ndarray, folder: str | Path) -> pd.DataFrame:
    """Masks of all images, each by a network that was trained without its fold.

    Args:
        cases: the table of `layouts.scan`.
        cfg: its settings; the share `val_split` of each training set chooses the best epoch.
        fold: a number for each row, as of `patient_folds`.
        folder: receives `segmenter_<fold>/` (runs) and `masks/<case>_mask.png`, each of the size of
            its image.

    Returns:
        The cases with the column `segmented`, the path of each mask. Images that could not be read
        are left out and named in `attrs["notes"]`.
    """
    folder = Path(folder)
    segmented: list[pd.DataFrame] = []
    notes = list(cases.attrs.get("notes", []))
    cfg = cfg.replace(keep_split=True, test_split=0)
    for number in sorted(set(fold)):
        held_out = fold == number
        store = prepare.build(cases.assign(split=np.where(held_out, "test", "")), cfg)
        run = training.fit(cfg, data.loaders(store, cfg), folder=folder / f"segmenter_{number}")
        predictor = Predictor.load(run.best, cfg.device)
        segmented.append(segment(cases[held_out], predictor, folder / "masks"))
        notes += segmented[-1].attrs["notes"]
    result = pd.concat(segmented).sort_index()
    result.attrs["notes"] = notes
    return result


def segment(cases: pd.DataFrame, predictor: Predictor, folder: str | Path) -> pd.DataFrame:
    """Masks of all images by one network, `<folder>/<case>_mask.png`; as in `segment_unseen`.

    `attrs["notes"]` also say what is odd about a picture file, such as an orientation tag.
    """
    paths: dict[Any, str] = {}
    notes: list[str] = []
    for row in hosts.progress(cases.itertuples(), total=len(cases), desc="segment", leave=False):
        try:
            mask = predictor.predict_file(row.image).mask
        except DataError as error:
            notes.append(f"left out: {error}")
            continue
        notes += [f"{Path(row.image).name}: {note}" for note in images.notes_of(row.image)]
        path = images.write_png(Path(folder) / f"{row.case}_mask.png", mask * 255)
        paths[row.Index] = str(path)
    result = cases.loc[list(paths)].assign(segmented=pd.Series(paths, dtype=object))
    result.attrs["notes"] = notes
    return result


def open_case(
    case: Any, side: int = 512, column: str = "segmented"
) -> tuple[np.ndarray, np.ndarray]:
    """X-ray (H, W) uint8 and mask (H, W) bool of one case, the longer side reduced to `side`.

    Args:
        case: a row of `segment_unseen`, from `itertuples()`.
        column: holds the path of the mask; true masks are in the column of their class.

    Raises:
        DataError: a file cannot be read, or the mask has another size than its image.
    """
    image = images.read_image(case.image, 1)[..., 0]
    mask = mask_pixels.read_mask(getattr(case, column)).pixels
    if image.shape != mask.shape:
        raise DataError(
            f"{case.case}: {column} is {mask.shape}, its image {image.shape}; segment it again"
        )
    scale = min(1.0, side / max(image.shape))
    size = tuple(max(1, round(n * scale)) for n in image.shape)
    small_image = images.fit_image(image[..., None], size, "stretch")[..., 0]
    return small_image, images.fit_mask(mask, size, "stretch") == 1


def out_of_fold(
    fit: Callable, inputs: np.ndarray, labels: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Scores (n,) of all rows, each by a model that was fitted on the other folds.

    `fit(inputs, labels)` returns a function from inputs to scores, as `logistic` and `network` do.
    """
    scores = np.full(len(labels), np.nan)
    for number in hosts.progress(sorted(set(fold)), desc="folds", leave=False):
        held_out = fold == number
        score = fit(inputs[~held_out], labels[~held_out])
        scores[held_out] = score(inputs[held_out])
    return scores


def logistic(
    inputs: np.ndarray, labels: np.ndarray, C: float = 0.1
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on measures (n, features); a NaN is replaced by the training median.

    Returns:
        A function from measures to the probability of label 1. Its attribute `model` is the
        scikit-learn pipeline.
    """
    model: Pipeline = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=C, class_weight="balanced", max_iter=2000),
    )
    model.fit(inputs, labels)

    def score(inputs: np.ndarray) -> np.ndarray:
        return model.predict_proba(inputs)[:, 1]

    score.model = model
    return score


class SmallNet(nn.Module):
    """Four convolutions with batch norm and pooling; then mean and maximum, and a linear layer.

    (N, 1, H, W) float32 -> logits (N,), for images of any size from 16 pixels.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        channels = [1, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(channels, channels[1:]):
            layers.append(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * channels[-1], 1))

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(image)  # (N, 4 * width, H/16, W/16)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return self.head(pooled)[:, 0]


AUGMENT = {
    "hflip": 0.5,
    "affine": {"scale": [0.9, 1.1], "translate": 0.05, "rotate": 10, "p": 0.8},
    "brightness_contrast": 0.5,
}


def network(
    inputs: np.ndarray,
    labels: np.ndarray,
    epochs: int = 40,
    batch_size: int = 16,
    lr: float = 3e-3,
    seed: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Train a `SmallNet` on images (n, H, W) uint8 of one size: AdamW and a one-cycle schedule.

    The number of epochs is fixed, as early stopping would need further patients to choose the
    epoch.

    Returns:
        A function from images to the probability of label 1, the mean over image and mirror image.
        Its attribute `model` is the network.
    """
    training.seed_everything(seed)
    from . import augmentations  # slow to load

    rng, augment = np.random.default_rng(seed), augmentations.pipeline(AUGMENT)
    model = SmallNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    steps = math.ceil(len(inputs) / batch_size)  # of one epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    n_positive = labels.sum()
    weight = torch.tensor((len(labels) - n_positive) / max(n_positive, 1), dtype=torch.float32)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=weight)
    augment.set_random_seed(seed)
    for _ in hosts.progress(range(epochs), desc="network", leave=False):
        for rows in np.array_split(rng.permutation(len(inputs)), steps):
            batch = np.stack([augment(image=inputs[i][..., None])["image"][..., 0] for i in rows])
            loss = loss_of(model(_standardised(batch)), torch.from_numpy(labels[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()

    @torch.inference_mode()
    def score(inputs: np.ndarray) -> np.ndarray:
        probabilities = []
        for start in range(0, len(inputs), 64):
            batch = _standardised(inputs[start : start + 64])
            probabilities.append((model(batch).sigmoid() + model(batch.flip(3)).sigmoid()) / 2)
        return torch.cat(probabilities).numpy().astype(np.float64)

    score.model = model
    return score


def _standardised(batch: np.ndarray) -> Tensor:
    """(N, H, W) uint8 -> (N, 1, H, W) float32, each image with mean 0 and standard deviation 1."""
    pixels = torch.from_numpy(batch[:, None].astype(np.float32))
    mean = pixels.mean((2, 3), keepdim=True)
    std = pixels.std((2, 3), keepdim=True).clamp_min(1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def frame(pictures: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Images (H, W) uint8 of any size -> (n, *size) uint8, fitted in without being stretched."""
    fitted = [images.fit_image(picture[..., None], size, "letterbox") for picture in pictures]
    return np.stack(fitted)[..., 0]


def frame_size(pictures: list[np.ndarray], scale: float) -> tuple[int, int]:
    """The median height and width of the images times `scale`, rounded to multiples of 16.

    Multiples of 16, because `SmallNet` halves its input four times.
    """
    median = np.median([picture.shape for picture in pictures], axis=0) * scale
    return tuple(int(max(16, round(side / 16) * 16)) for side in median)
