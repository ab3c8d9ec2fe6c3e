"""From segmented lungs to a finding: masks by networks that never saw the patient, then two classifiers.

Taught in `09_tb_two_step`. Every score is made by a model that was fitted without the scored patient.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from . import data, hosts, prepare, training
from .errors import DataError
from .formats import images
from .inference import Predictor


def patient_folds(labels, patients, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """A fold number for each row; no patient in two folds, findings spread evenly (`StratifiedGroupKFold`).

    Raises:
        DataError: one of the labels has fewer patients than there are folds.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    fewest = (
        pd.DataFrame({"label": labels, "patient": patients}).groupby("label")["patient"].nunique()
    )
    if len(fewest) < 2 or fewest.min() < n_folds:
        raise DataError(
            f"folds: found patients by finding {fewest.to_dict()}; expected two findings, {n_folds} of each"
        )
    fold = np.zeros(len(labels), int)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(
        labels, labels, patients
    )
    for number, (_, held_out) in enumerate(split):
        fold[held_out] = number
    return fold


def segment_unseen(cases: pd.DataFrame, cfg, fold: np.ndarray, folder: str | Path) -> pd.DataFrame:
    """Masks of all images, each by a network that was trained without its fold.

    Args:
        cases: table of `layouts.scan`; cfg: its preset, with a part `val_split` of each training set to choose by.
        fold: a number a row, as of `patient_folds`.
        folder: receives `segmenter_<fold>/` (runs) and `masks/<case>_mask.png` in the size of the images.

    Returns:
        The cases with the column `segmented`, the path of each mask; images that could not be read are left out and
        named in `attrs["notes"]`.
    """
    folder, parts, notes = Path(folder), [], list(cases.attrs.get("notes", []))
    cfg = cfg.replace(keep_split=True, test_split=0)
    for number in sorted(set(fold)):
        held_out = fold == number
        store = prepare.build(cases.assign(split=np.where(held_out, "test", "")), cfg)
        run = training.fit(cfg, data.loaders(store, cfg), folder=folder / f"segmenter_{number}")
        parts.append(
            segment(cases[held_out], Predictor.load(run.best, cfg.device), folder / "masks")
        )
        notes += parts[-1].attrs["notes"]
    result = pd.concat(parts).sort_index()
    result.attrs["notes"] = notes
    return result


def segment(cases: pd.DataFrame, predictor: Predictor, folder: str | Path) -> pd.DataFrame:
    """Masks of all images by one network; folder, result and notes as in `segment_unseen`."""
    done, notes = {}, []
    for row in hosts.progress(cases.itertuples(), total=len(cases), desc="segment", leave=False):
        try:
            mask = predictor.predict_file(row.image).mask
        except DataError as error:
            notes.append(f"left out: {error}")
            continue
        done[row.Index] = str(images.write_png(Path(folder) / f"{row.case}_mask.png", mask * 255))
    result = cases.loc[list(done)].assign(segmented=pd.Series(done, dtype=object))
    result.attrs["notes"] = notes
    return result


def open_case(
    case: Any, side: int = 512, column: str = "segmented"
) -> tuple[np.ndarray, np.ndarray]:
    """X-ray (H, W) uint8 and mask (H, W) bool of a row of `segment_unseen`, the longer side reduced to `side`; the mask
    of another column with its files, such as the drawn one, by name.

    Raises:
        DataError: a file cannot be read, or the mask has another size than its image.
    """
    image = images.read_image(case.image, 1)[..., 0]
    mask = images.read_mask(getattr(case, column)).pixels
    if image.shape != mask.shape:
        raise DataError(
            f"{case.case}: {column} is {mask.shape}, its image {image.shape}; segment it again"
        )
    scale = min(1.0, side / max(image.shape))
    size = tuple(max(1, round(n * scale)) for n in image.shape)
    return images.fit_image(image[..., None], size, "stretch")[..., 0], images.fit_mask(
        mask, size, "stretch"
    ) == 1


def out_of_fold(
    fit: Callable, inputs: np.ndarray, labels: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Scores (n,) of all rows, those of a fold by `fit(inputs, labels)` on the others. `fit` returns a function from
    inputs to scores."""
    scores = np.full(len(labels), np.nan)
    for number in hosts.progress(sorted(set(fold)), desc="folds", leave=False):
        held_out = fold == number
        scores[held_out] = fit(inputs[~held_out], labels[~held_out])(inputs[held_out])
    return scores


def logistic(
    inputs: np.ndarray, labels: np.ndarray, C: float = 0.1
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on measures (n, features); what could not be measured (NaN) becomes the training median.

    Returns:
        Measures -> probability of label 1. Its `model` is the scikit-learn pipeline.
    """
    model: Pipeline = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=C, class_weight="balanced", max_iter=2000),
    )
    model.fit(inputs, labels)

    def scores(given: np.ndarray) -> np.ndarray:
        return model.predict_proba(given)[:, 1]

    scores.model = model
    return scores


class SmallNet(nn.Module):
    """Four convolutions with batch norm, each halving the image, then mean and maximum over it and one linear layer.

    (N, 1, H, W) float32 -> logits (N,), for images of any size from 16 pixels.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        channels = [1, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:]):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            layers.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * channels[-1], 1))

    def forward(self, image: Tensor) -> Tensor:
        found = self.blocks(image)
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], dim=1))[:, 0]


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
    """Train a `SmallNet` on images (n, H, W) uint8 of one size: AdamW, one cycle, a fixed number of epochs.

    There is no early stopping: it would need patients to choose by, and the folds are scored as they are.

    Returns:
        Images -> probability of label 1, the mean over the image and its mirror image. Its `model` is the network.
    """
    training.seed_everything(seed)
    rng, augment = np.random.default_rng(seed), data.augmentation(AUGMENT)
    model = SmallNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    steps = -(-len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    weight = torch.tensor((len(labels) - labels.sum()) / max(labels.sum(), 1), dtype=torch.float32)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=weight)
    augment.set_random_seed(seed)
    for _ in hosts.progress(range(epochs), desc="network", leave=False):
        for rows in np.array_split(rng.permutation(len(inputs)), steps):
            batch = np.stack([augment(image=inputs[i][..., None])["image"][..., 0] for i in rows])
            loss = loss_of(model(_tensor(batch)), torch.from_numpy(labels[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()

    @torch.inference_mode()
    def scores(given: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(given), 64):
            batch = _tensor(given[start : start + 64])
            found.append((model(batch).sigmoid() + model(batch.flip(3)).sigmoid()) / 2)
        return torch.cat(found).numpy().astype(np.float64)

    scores.model = model
    return scores


def _tensor(batch: np.ndarray) -> Tensor:
    """(N, H, W) uint8 -> (N, 1, H, W) float32, each image with mean 0 and standard deviation 1: films differ."""
    found = torch.from_numpy(batch[:, None].astype(np.float32))
    spread = found.std((2, 3), keepdim=True).clamp_min(1)
    return ((found - found.mean((2, 3), keepdim=True)) / spread).contiguous(
        memory_format=torch.channels_last
    )


def frame(pictures: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pictures (H, W) uint8 of any size -> (n, *size), fitted without changing their aspect ratio, black around."""
    return np.stack(
        [images.fit_image(picture[..., None], size, "letterbox")[..., 0] for picture in pictures]
    )


def frame_size(pictures: list[np.ndarray], scale: float) -> tuple[int, int]:
    """The median height and width of pictures times `scale`, in multiples of 16 as `SmallNet` halves four times."""
    middle = np.median([picture.shape for picture in pictures], axis=0) * scale
    return tuple(int(max(16, round(n / 16) * 16)) for n in middle)
