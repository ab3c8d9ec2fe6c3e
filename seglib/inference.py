"""`Predictor`: trained weights to masks, in the size of the input. Taught in `04_lung_segmentation`."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from . import config, data, grids, hosts, images, metrics, niftis, plots, runs, volumes
from .errors import DataError


class Prediction(NamedTuple):
    """`prob` (C, H, W) float32; `mask` uint8, (H, W) of 0/1 or class numbers, or (C, H, W) of 0/1 for multilabel."""

    prob: np.ndarray
    mask: np.ndarray


class VolumePrediction(NamedTuple):
    """`mask` uint8 as displayed, (S, H, W), or (C, S, H, W) for multilabel; `grid` lays it back into the file's axes;
    `millilitres` class -> volume, NaN where the spacing is unknown."""

    mask: np.ndarray
    grid: grids.Grid
    millilitres: dict[str, float]


class Predictor:
    """A trained network with everything it needs to go from pixels to a mask.

    `Predictor.load(run.best).predict(array)`; the result has the size of the input: the resize to the network's size
    and back happens inside. Set `tta`, `smallest` or `fill_holes` on it, and every prediction and every evaluation
    follows: `evaluation.compare` tells whether they are a gain.
    """

    tta = False  # test-time augmentation: the mean over the flips that the network was trained with
    smallest = 0  # connected pieces of fewer pixels are removed from every class
    fill_holes = False  # background enclosed by a class becomes that class
    temperature = 1.0  # logits are divided by it
    thresholds: tuple[float, ...] | None = None  # one a class instead of the config's; see `evaluation.tuned`
    chosen: dict[str, str] = {}  # what was chosen, and on what
    trained_on: list[str] | None = None  # beginnings of the hashes of the images that the weights were made with

    def __init__(self, model: torch.nn.Module, cfg, device: str = "auto", precision: str = "auto"):
        self.config = cfg
        self.device = hosts.choose_device(device)
        self.precision = hosts.choose_precision(self.device, precision)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.table = data.normalisation_table(cfg.mean, cfg.std, cfg.in_channels)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "auto") -> "Predictor":
        """From a weights file and the `.json` beside it; nothing in either is executed.

        Raises:
            DataError: a file is missing, torn, tries to run code, or the weights are of another network.
        """
        about = runs.describe_weights(path)
        values = dict(about["config"])
        cfg = config.preset(values.pop("preset"), values.pop("size"), **values)
        predictor = cls(runs.load_weights(path, runs.network(cfg, pretrained=False)), cfg, device, precision)
        predictor.trained_on = about.get("trained_on")
        return predictor

    @torch.inference_mode()
    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> logits (N, classes, H, W) float32 on the network's device."""
        batch = batch.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(self.device, half or torch.bfloat16, enabled=half is not None):
            return self.model(batch).float()

    def probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> probabilities (N, classes, H, W) float32.

        Where the GPU's memory is too small for the batch, its halves are computed one after the other.
        """
        try:
            prob = metrics.probabilities(self.logits(batch) / self.temperature, self.config.task)
            for axes in self._flips():
                turned = metrics.probabilities(self.logits(batch.flip(axes)) / self.temperature, self.config.task)
                prob = prob + turned.flip(axes)
            return prob / (1 + len(self._flips()))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            return torch.cat([self.probabilities(half) for half in batch.split(-(-len(batch) // 2))])

    def _flips(self) -> list[tuple[int, ...]]:
        trained = [axis for axis, name in ((3, "hflip"), (2, "vflip")) if name in self.config.augment]
        return [(axis,) for axis in trained] + ([(2, 3)] if len(trained) == 2 else []) if self.tta else []

    def predict(self, image: np.ndarray) -> Prediction:
        """An image (H, W) or (H, W, C), RGB, of any size and number type, to a `Prediction` of its height and width.

        Raises:
            DataError: not an image array, or a number of channels that cannot be brought to the network's.
        """
        pixels, cfg = self._pixels(image), self.config
        fitted = images.fit_image(pixels, cfg.height_width, cfg.resize)
        batch = torch.from_numpy(data.normalise(fitted, self.table))[None]
        prob = images.unfit(self.probabilities(batch)[0].cpu().numpy(), pixels.shape[:2], cfg.resize)
        return Prediction(prob, self.mask(prob))

    def predict_tiled(self, image: np.ndarray, overlap: float = 0.5, batch_size: int = 8) -> Prediction:
        """The same at the image's own resolution: tiles of the network's size, blended smoothly.

        For images much larger than the network's input, and networks that were trained at that scale. The outer eighth
        of a tile, where the network sees padding, does not count except at the image's edge: where the network sees
        no farther than that, the result equals the one of the whole image.

        Args:
            overlap: share of a tile that the next one covers too, 0.3 to 0.9.
        """
        if not 0.3 <= overlap <= 0.9:
            raise DataError(f"overlap: {overlap} is not allowed; expected 0.3 to 0.9")
        cfg, pixels = self.config, self._pixels(image)
        height, width = cfg.height_width
        whole = data.normalise(pixels, self.table)
        lacking = [max(0, side - n) for side, n in zip((height, width), pixels.shape[:2])]
        whole = np.pad(whole, ((0, 0), (0, lacking[0]), (0, lacking[1])))
        places = [
            (row, column)
            for row in _starts(whole.shape[1], height, overlap)
            for column in _starts(whole.shape[2], width, overlap)
        ]
        total, weights = np.zeros((cfg.n_classes, *whole.shape[1:]), np.float32), np.zeros(whole.shape[1:], np.float32)
        for start in hosts.progress(range(0, len(places), batch_size), desc="tiles", leave=False):
            some = [(slice(r, r + height), slice(c, c + width)) for r, c in places[start : start + batch_size]]
            batch = torch.from_numpy(np.stack([whole[:, rows, columns] for rows, columns in some]))
            for (rows, columns), prob in zip(some, self.probabilities(batch).cpu().numpy()):
                weight = np.outer(_fade(rows, whole.shape[1]), _fade(columns, whole.shape[2]))
                total[:, rows, columns] += weight * prob
                weights[rows, columns] += weight
        prob = (total / weights)[:, : pixels.shape[0], : pixels.shape[1]]
        return Prediction(prob, self.mask(prob))

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, channels of the network) uint8 of an array as `predict` takes it."""
        image = np.asarray(image)
        if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "buif":
            raise DataError(
                f"predict: found an array {image.shape} of {image.dtype}; expected (H, W) or (H, W, C) numbers"
            )
        cfg = self.config
        image = image.astype(np.uint8) * 255 if image.dtype == bool else image
        if image.ndim == 3 and image.shape[2] in (2, 4) and image.shape[2] != cfg.in_channels:
            image = image[..., :-1]  # transparency must not take part in the stretch to 8 bits
        return images.as_channels(images.to_uint8(image, cfg.percentiles), cfg.in_channels)

    def mask(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) to the mask of a `Prediction`, by the config's task and the thresholds."""
        return metrics.as_mask(torch.from_numpy(self.decide(prob)), self.config.task)

    def decide(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) to bool of the same shape: the likeliest class, or all from their thresholds; then
        cleaned, where `smallest` or `fill_holes` are set."""
        thresholds = torch.tensor(self.thresholds or [self.config.threshold])[:, None, None]
        chosen = metrics.decide(torch.from_numpy(prob)[None], self.config.task, thresholds)[0].numpy()
        if not (self.smallest or self.fill_holes):
            return chosen
        if self.config.task != "multiclass":
            return np.stack([clean(plane, self.smallest, self.fill_holes) for plane in chosen])
        labels = np.zeros(chosen.shape[1:], np.int64)
        for k in range(1, len(chosen)):
            labels[clean(chosen[k], self.smallest, self.fill_holes) & (chosen[k] | chosen[0])] = k
        return labels == np.arange(len(chosen))[:, None, None]

    def predict_file(
        self,
        path: str | Path,
        output: str | Path | None = None,
        overlay: bool = False,
        name: str | None = None,
        tiled: bool = False,
    ) -> Prediction:
        """An image file to a `Prediction`; `<name>_mask.png` (and `<name>_overlay.png`) go to the folder `output`.

        `name` is the file's own, without its suffix, unless another is given; `tiled`: by `predict_tiled`.
        """
        cfg = self.config
        image = images.read_image(path, cfg.in_channels, cfg.percentiles)
        prediction = (self.predict_tiled if tiled else self.predict)(image)
        if output is not None:
            stem = Path(output) / (name or Path(path).stem)
            mask = prediction.mask
            parts = [f"_{part}" for part in cfg.class_names] if cfg.task == "multilabel" else [""]
            for part, plane in zip(parts, mask if cfg.task == "multilabel" else [mask]):
                pixels = plane if cfg.task == "multiclass" else plane * 255
                images.write_png(stem.with_name(f"{stem.name}{part}_mask.png"), pixels)
            if overlay:
                images.write_png(stem.with_name(f"{stem.name}_overlay.png"), plots.overlay(image, mask))
        return prediction

    def predict_folder(
        self, folder: str | Path, output: str | Path = "predictions", overlay: bool = False
    ) -> dict[str, Any]:
        """Every picture of a folder; returns {"done": [names], "failed": {name: reason}}. A bad file stops nothing."""
        files = (
            sorted(f for f in Path(folder).glob("*") if f.suffix.lower() in images.SUFFIXES)
            if Path(folder).is_dir()
            else []
        )
        if not files:
            raise DataError(
                f"{folder}: no picture here; expected a folder with files ending in {', '.join(images.SUFFIXES)}"
            )
        twice = Counter(file.stem for file in files)  # a.png and a.jpg become a_png and a_jpg
        done, failed = [], {}
        for file in hosts.progress(files, desc="predict", leave=False):
            try:
                name = file.stem if twice[file.stem] == 1 else file.name.replace(".", "_")
                self.predict_file(file, output, overlay, name)
                done.append(file.name)
            except DataError as error:
                failed[file.name] = str(error)
        return {"done": done, "failed": failed}

    def predict_volume(
        self, path: str | Path, output: str | Path | None = None, batch_size: int = 8
    ) -> VolumePrediction:
        """A NIfTI file or the folder of a DICOM series, slice by slice, to a `VolumePrediction`.

        Args:
            output: a NIfTI file, or a folder that receives `<name>_mask.nii.gz` (multilabel: a file a class). It has
                the axes, affine and unit of the input, so that a viewer lays it exactly over the image.

        Raises:
            DataError: no such volume, a damaged one, or one that the network cannot be given.
        """
        cfg = self.config
        cut = volumes.options(cfg)
        shown = volumes.bytes_of(str(path), cfg.window_level, cfg.window_width, cfg.percentiles, **cut)
        grid = volumes.read_grid(path, **cut)
        masks = []
        for start in hosts.progress(range(0, len(shown), batch_size), desc="predict", leave=False):
            slices = [images.as_channels(plane, cfg.in_channels) for plane in shown[start : start + batch_size]]
            fitted = [data.normalise(images.fit_image(s, cfg.height_width, cfg.resize), self.table) for s in slices]
            for prob in self.probabilities(torch.from_numpy(np.stack(fitted))).cpu().numpy():
                masks.append(self.mask(images.unfit(prob, shown.shape[1:], cfg.resize)))
        mask = np.moveaxis(np.stack(masks), 0, -3)
        several = cfg.task == "multilabel"
        names = cfg.class_names[cfg.task == "multiclass" :]  # class k of them has the number k + 1
        planes = mask if several else [mask == k + 1 for k in range(len(names))]
        voxel = float(np.prod(grid.spacing_mm)) / 1000 if grid.spacing_mm else float("nan")
        found = VolumePrediction(mask, grid, {name: int(p.sum()) * voxel for name, p in zip(names, planes)})
        if output is not None:
            output, name = Path(output), niftis.stem(path)
            is_file = output.name.lower().endswith(volumes.SUFFIXES)
            for part, plane in zip(names, mask) if several else [("", mask)]:
                target = output if is_file else output / f"{name}_mask.nii.gz"
                if part:
                    target = target.with_name(f"{niftis.stem(target)}_{part}.nii.gz")
                niftis.write(target, grid.restore(plane), grid, path)
        return found


def clean(plane: np.ndarray, smallest: int = 0, fill_holes: bool = False) -> np.ndarray:
    """A bool mask (2-D or 3-D) without connected pieces of fewer than `smallest` pixels, and with its holes filled.

    Pieces touch by an edge (2-D: 4 neighbours).
    """
    if smallest > 1:
        pieces, _ = ndimage.label(plane)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        plane = sizes[pieces] >= smallest
    return ndimage.binary_fill_holes(plane) if fill_holes else plane


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin, so that they cover a side evenly."""
    n = 1 + math.ceil((length - tile) / (tile * (1 - overlap)))
    return np.linspace(0, length - tile, n).round().astype(int).tolist()


def _fade(place: slice, length: int) -> np.ndarray:
    """Weights along one side of a tile: none in the outer eighth, then rising; full up to the image's own edge."""
    n = place.stop - place.start
    ramp = np.clip(np.arange(n) + 1 - n // 8, 0, None).astype(np.float32)
    before = ramp if place.start else np.full(n, ramp.max())
    after = ramp[::-1] if place.stop < length else np.full(n, ramp.max())
    return np.minimum(before, after)
