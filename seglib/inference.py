"""`Predictor`: from trained weights to masks in the size of the input. Taught in `04` and `08`."""

import copy
import functools
import math
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from . import (
    case_io,
    config,
    data,
    hosts,
    memory,
    metrics,
    models,
    plots,
    regions,
    runs,
    tiles,
    zoo,
)
from .errors import ConfigError, DataError
from .formats import (
    channels,
    dicom_seg,
    images,
    inputs,
    nifti,
    orientation,
    sequences,
    slicer,
    stacks,
    volumes,
)
from .layouts import stacks as stacks_of_pages

# The attributes of a predictor that change its masks; all are off by default.
OPTIONS = ("tta", "tta_rotation", "min_component_size", "keep_largest_component", "fill_holes")
FLIP_AXES = {"hflip": 3, "vflip": 2}  # augmentation -> axis of a batch (N, C, H, W)
NO_FLIPS = (
    "tta has no effect: the network was trained without flips, so that there is nothing to "
    "average. Where a mirrored image of your data is as plausible as the original, name the flips: "
    "hflip, vflip or hflip,vflip"
)
READ_AHEAD = 4  # pictures of a folder that are read before the network needs them


class Prediction(NamedTuple):
    """The result for one image.

    `prob` (C, H, W) float32. `mask` uint8: (H, W) of 0 and 1 (binary) or of class numbers
    (multiclass), (C, H, W) of 0 and 1 (multilabel).
    """

    prob: np.ndarray
    mask: np.ndarray


class VolumePrediction(NamedTuple):
    """The result for one volume.

    `mask` uint8 as displayed, (S, H, W), or (C, S, H, W) for multilabel. `grid` brings it back into
    the file's axes. `millilitres` maps a class to its volume, NaN where the spacing is unknown.
    `notes` say what is odd about the file, and what was done about it.
    """

    mask: np.ndarray
    grid: orientation.Grid
    millilitres: dict[str, float]
    notes: tuple[str, ...] = ()


class Predictor:
    """A trained network with everything it needs to go from pixels to a mask.

    `Predictor.load(run.best).predict(array)` resizes the array to the network's size and the result
    back to the size of the array. One of `OPTIONS` that is set on a predictor holds for all of its
    predictions and evaluations; `evaluation.compare` tells whether it improves them.

    Attributes:
        tta: test-time augmentation, the mean over flipped views. True: the flips that the network
            was trained with; "hflip", "vflip" or "hflip,vflip": these, where you know that a
            mirrored image of your data is as plausible as the original.
        tta_rotation: degrees; the mean also includes two views, turned by this angle to the left
            and to the right.
        min_component_size: connected components of fewer pixels (volumes: voxels) are removed from
            every class.
        keep_largest_component: of every class only the largest connected component of a picture or
            volume is kept.
        fill_holes: background that a class encloses becomes that class.
        temperature: logits are divided by it.
        thresholds: one for each class, instead of the config's; see `evaluation.tuned`.
        chosen: temperature and thresholds as text, with the data they were chosen on.
        models: the networks; of several, the mean of their probabilities is used.
        trained_on: first 16 characters of the hashes of the images that the weights were trained
            with, those of all networks together; None if one of them does not tell.
        files: the weights files that the networks were loaded from, empty for one in memory.
        checksums: the SHA-256 of each file, None where the JSON beside it has none.
    """

    tta_rotation = 0.0
    min_component_size = 0
    keep_largest_component = False
    fill_holes = False
    temperature = 1.0
    thresholds: tuple[float, ...] | None = None
    chosen: dict[str, str] = {}
    trained_on: list[str] | None = None
    files: tuple[Path, ...] = ()
    checksums: tuple[str | None, ...] = ()
    _tta: bool | str = False

    def __init__(
        self,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        cfg,
        device: str = "auto",
        precision: str = "auto",
        trained_in: str | None = None,
    ):
        """A predictor of a network in memory; `load` makes one from a weights file.

        Args:
            model: a network, or several, whose mean is used.
            trained_in: the precision of the training, which `precision="auto"` then takes where
                the device computes in it.
        """
        self.config = cfg
        self.device = hosts.choose_device(device)
        self.precision = hosts.choose_precision(self.device, precision, trained_in)
        self.models = [model] if isinstance(model, torch.nn.Module) else list(model)
        model = self.models[0]
        if len(self.models) > 1:
            model = models.Ensemble(self.models, cfg.task)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.table = data.normalisation_table(cfg.mean, cfg.std, cfg.input_channels)

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str = "auto",
        precision: str = "auto",
        model: torch.nn.Module | None = None,
    ) -> "Predictor":
        """From a weights file and the `.json` beside it; nothing in either is executed.

        Args:
            path: a file, or the name of a network of the zoo, such as "lung", see `zoo.resolve`;
                several of them, or the folder of a cross-validation: the mean of the probabilities
                of these networks.
            precision: "auto" computes as in training, if the device can; see
                `hosts.choose_precision`.
            model: the network, where `training.fit` was given one of your own. The weights go into
                a copy of it.

        Raises:
            DataError: a file is missing, torn, tries to run code, or the weights are of another
                network; they are of a network of your own and `model` is not given; or several
                networks differ in their classes or their input.
        """
        parts = [path] if isinstance(path, str | Path) else path
        paths = runs.weights_files([zoo.resolve(part) for part in parts])
        descriptions = [runs.describe_weights(file) for file in paths]
        configs = [config.from_dict(description["config"]) for description in descriptions]
        _check_alike(paths, configs)
        networks = [
            _network(file, description, cfg, model)
            for file, description, cfg in zip(paths, descriptions, configs)
        ]
        precisions = {description.get("precision") for description in descriptions}
        trained_in = precisions.pop() if len(precisions) == 1 else None
        predictor = cls(networks, configs[0], device, precision, trained_in)
        hashes = [description.get("trained_on") for description in descriptions]
        if None not in hashes:
            predictor.trained_on = sorted(set().union(*hashes))
        predictor.files = tuple(paths)
        predictor.checksums = tuple(item.get("weights_sha256") for item in descriptions)
        return predictor

    @property
    def weights(self) -> Path | None:
        """The file of the weights; None for a network in memory, and for several files."""
        return self.files[0] if len(self.files) == 1 else None

    @property
    def tta(self) -> bool | str:
        """Test-time augmentation: False, True (the flips of the training), or names of flips."""
        return self._tta

    @tta.setter
    def tta(self, flips: bool | str) -> None:
        self._tta = flips if isinstance(flips, bool) else _flip_names(flips)
        if flips and not self.flips:
            warnings.warn(NO_FLIPS, stacklevel=2)

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """Axes of a batch that each view of `tta` flips."""
        names = self.tta.split(",") if isinstance(self.tta, str) else self.config.augment
        axes = [axis for name, axis in FLIP_AXES.items() if name in names]
        flips = [(axis,) for axis in axes]
        if len(axes) == 2:
            flips.append((2, 3))
        return flips

    @property
    def cleans(self) -> bool:
        """Whether `cleaned` can change a mask."""
        return bool(self.min_component_size or self.keep_largest_component or self.fill_holes)

    @property
    def structures(self) -> dict[int, str]:
        """Index of a class in `prob` -> its name, without the background of a multiclass task."""
        names = dict(enumerate(self.config.class_names))
        if self.config.task == "multiclass":
            del names[0]
        return names

    # ---- batches

    @torch.inference_mode()
    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> logits (N, classes, H, W) float32."""
        batch = batch.to(self.device, non_blocking=True)
        batch = batch.contiguous(memory_format=torch.channels_last)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(self.device, half or torch.bfloat16, enabled=half is not None):
            return self.model(batch).float()

    def probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> probabilities (N, classes, H, W) float32.

        A network that was trained by patches sees tiles of that size, which overlap and are blended
        smoothly (`tiles.blend`). Where the GPU's memory is too small for the batch, its halves are
        computed one after the other.

        Raises:
            DataError: it is too small for a single image.
        """
        if self._exceeds_patch(batch):
            return self._blended(batch, tiles.OVERLAP, self.config.batch_size)
        return self._in_halves(self._mean_of_views, batch)

    def log_odds(self, batch: torch.Tensor) -> torch.Tensor:
        """What a temperature divides: the logits of one view, those of the mean of several views
        or tiles.

        Shapes, and memory, as for `probabilities`.
        """
        if not (self.tta or self.tta_rotation or self._exceeds_patch(batch)):
            return self._in_halves(self.logits, batch)
        prob = self.probabilities(batch)
        return prob.log() if self.config.task == "multiclass" else prob.logit(1e-7)

    def _exceeds_patch(self, batch: torch.Tensor) -> bool:
        """Whether images are larger than the patches that the network was trained with."""
        patch = self.config.patch_height_width
        return patch is not None and any(n > side for n, side in zip(batch.shape[-2:], patch))

    def _blended(
        self, batch: torch.Tensor, overlap: float, batch_size: int, progress: Callable = iter
    ) -> torch.Tensor:
        """Probabilities of a batch by tiles of what the network sees at once."""

        def compute(part: torch.Tensor) -> torch.Tensor:
            return self._in_halves(self._mean_of_views, part)

        sides = self.config.network_height_width
        return tiles.blend(batch, sides, compute, overlap, batch_size, progress)

    def _in_halves(
        self, compute: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor
    ) -> torch.Tensor:
        try:
            return compute(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                height, width = batch.shape[-2:]
                raise DataError(
                    f"out of memory with one image of {height}x{width} pixels; end what else uses "
                    f"the {self.device}, or set device='cpu'"
                ) from error
        # Outside `except`, so that the error no longer holds the tensors of the failed attempt.
        halves = batch.split(math.ceil(len(batch) / 2))
        return torch.cat([self._in_halves(compute, half) for half in halves])

    def _mean_of_views(self, batch: torch.Tensor) -> torch.Tensor:
        total = self._view(batch)
        n_views: Any = 1  # a number, or (N, 1, H, W) where not every view saw every pixel
        if self.tta:
            for axes in self.flips:
                total = total + self._view(batch.flip(axes)).flip(axes)
                n_views += 1
        if self.tta_rotation:
            for degrees in (self.tta_rotation, -self.tta_rotation):
                prob, coverage = self._rotated_view(batch, degrees)
                total, n_views = total + prob, n_views + coverage
        return total / n_views

    def _view(self, batch: torch.Tensor) -> torch.Tensor:
        return metrics.probabilities(self.logits(batch) / self.temperature, self.config.task)

    def _rotated_view(
        self, batch: torch.Tensor, degrees: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of the rotated batch, rotated back; and their coverage (N, 1, H, W).

        Coverage is 0 to 1: corners leave the frame, so that a view covers some pixels partly or not
        at all. The probabilities are already multiplied by it.
        """
        from torchvision.transforms.v2 import InterpolationMode, functional  # heavy

        bilinear = InterpolationMode.BILINEAR
        black = self.table[:, 0].tolist()
        prob = self._view(functional.rotate(batch, degrees, bilinear, fill=black))
        with_coverage = torch.cat([prob, torch.ones_like(prob[:, :1])], dim=1)
        back = functional.rotate(with_coverage, -degrees, bilinear, fill=0)
        return back[:, :-1], back[:, -1:]

    # ---- arrays

    def predict(self, image: np.ndarray) -> Prediction:
        """An image of any size and number type -> a `Prediction` of its height and width.

        Args:
            image: (H, W) or (H, W, C), RGB.

        Raises:
            DataError: not an image array, a number of channels that cannot be brought to the
                network's, or an image larger than the frame of a network that was trained on whole
                frames without scaling (`resize="none"`).
        """
        return self.predict_pixels(self._pixels(image))

    def predict_pixels(self, pixels: np.ndarray) -> Prediction:
        """The same for an image in the form of the training images, as `read` returns it.

        Args:
            pixels: (H, W, in_channels) uint8, which is not scaled once more.
        """
        cfg = self.config
        self._check_memory(pixels.shape[:2], self._frame(pixels.shape[:2]))
        batch = torch.from_numpy(data.normalise(self._fitted(pixels), self.table))[None]
        prob = self.probabilities(batch)[0].cpu().numpy()
        prob = images.unfit(prob, pixels.shape[:2], cfg.resize)
        return Prediction(prob, self.mask(prob))

    def predict_tiled(
        self, image: np.ndarray, overlap: float = 0.5, batch_size: int = 8
    ) -> Prediction:
        """The same at the image's own resolution: tiles of the network's size, blended smoothly.

        For images much larger than the network's input, if the network was trained at their scale.
        See `tiles.blend`. With `resize="none"` and `patch_size`, `predict` does the same.

        Args:
            overlap: share of a tile that the next tile also covers, 0.3 to 0.9.
            batch_size: number of tiles that are computed at once.
        """
        if not 0.3 <= overlap <= 0.9:
            raise DataError(f"overlap: {overlap} is not allowed; expected 0.3 to 0.9")
        pixels = self._pixels(image)
        frame = _at_least(pixels.shape[:2], self.config.network_height_width)
        self._check_memory(pixels.shape[:2], frame)
        padded = data.normalise(images.fit_image(pixels, frame, "none"), self.table)  # (C, H, W)
        progress = functools.partial(hosts.progress, desc="tiles", leave=False)
        prob = self._blended(torch.from_numpy(padded)[None], overlap, batch_size, progress)
        prob = images.unfit(prob[0].numpy(), pixels.shape[:2], "none")
        return Prediction(prob, self.mask(prob))

    def _frame(self, sides: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the frame in which the network sees an image, as in training.

        A network that was trained by patches without scaling takes an image as it is, padded where
        it is smaller than a patch.
        """
        cfg = self.config
        if cfg.resize == "none" and cfg.patch_size:
            return _at_least(sides, cfg.patch_height_width)
        return cfg.height_width

    def _check_memory(self, sides: tuple[int, int], frame: tuple[int, int]) -> None:
        """Refuse an image that this machine cannot hold: the system would end this process.

        Args:
            sides, frame: (height, width) of the image, and of the frame that the network sees.
        """
        n_channels, classes = self.config.input_channels, self.config.n_classes
        # The normalised image and its probabilities, and those at the image's own size, float32.
        n_bytes = 4 * (math.prod(frame) * (n_channels + classes) + math.prod(sides) * classes)
        available = hosts.memory_bytes()
        if available and n_bytes > available:
            raise DataError(
                f"an image of {sides[0]}x{sides[1]} takes at least {n_bytes / 1e9:.1f} GB of "
                f"memory to predict, this machine has {available / 1e9:.1f} GB; cut it into parts"
            )

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """An image (H, W, C) in its `_frame`."""
        cfg = self.config
        height, width = pixels.shape[:2]
        frame = self._frame((height, width))
        try:
            return images.fit_image(pixels, frame, cfg.resize)
        except images.FrameError as error:
            raise DataError(
                f"an image of {height}x{width} is larger than the frame of this network, which was "
                f"trained on whole images of image_size {frame[0]}x{frame[1]} without scaling; "
                "predict it by tiles (predict_tiled, --tiled), or train with patch_size"
            ) from error

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, channels of the network) uint8 of an array as `predict` takes it."""
        image = np.asarray(image)
        if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "buif":
            raise DataError(
                f"predict: found an array {image.shape} of {image.dtype}; "
                "expected (H, W) or (H, W, C) numbers"
            )
        cfg = self.config
        if image.dtype == bool:
            image = image.astype(np.uint8) * 255
        if cfg.context_slices or len(cfg.channels) > 1:
            return self._sequences(image)
        if image.ndim == 3 and image.shape[2] in (2, 4) and image.shape[2] != cfg.in_channels:
            image = image[..., :-1]  # transparency must not influence the scaling to 8 bits
        return images.as_channels(images.to_uint8(image, cfg.percentiles), cfg.in_channels)

    def _sequences(self, image: np.ndarray) -> np.ndarray:
        """(H, W, `input_channels`) uint8 of an array with the channels of a volume's slice.

        Each sequence is scaled to 8 bits on its own, where it has more.
        """
        cfg = self.config
        if image.ndim != 3 or image.shape[2] != cfg.input_channels:
            raise DataError(
                f"predict: found an array {image.shape}; this network takes (H, W, "
                f"{cfg.input_channels}): {stacks.description(cfg)}; predict_volume reads them from "
                "files"
            )
        pixels = np.empty(image.shape, np.uint8)
        for number in range(cfg.in_channels):
            own = np.s_[..., number :: cfg.in_channels]
            pixels[own] = images.to_uint8(image[own], cfg.percentiles)
        return pixels

    # ---- from probabilities to masks

    def to_one_hot(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) -> bool of the same shape, by `metrics.to_one_hot`.

        True for the likeliest class (multiclass), or for every class whose probability reaches its
        threshold. Nothing is cleaned.
        """
        thresholds = torch.tensor(self.thresholds or [self.config.threshold])[:, None, None]
        batch = torch.from_numpy(prob)[None]
        return metrics.to_one_hot(batch, self.config.task, thresholds)[0].numpy()

    def raw_mask(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) -> mask, not cleaned; slices are cleaned with their volume."""
        return metrics.to_label_map(torch.from_numpy(self.to_one_hot(prob)), self.config.task)

    def mask(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) of a picture -> the mask of its `Prediction`, cleaned."""
        return self.cleaned(self.raw_mask(prob))

    def cleaned(self, mask: np.ndarray) -> np.ndarray:
        """A mask without small components and with its holes filled, as this predictor is set.

        See `min_component_size`, `keep_largest_component` and `fill_holes`. A volume is cleaned as
        a whole: components are connected across its slices. In a multiclass mask, removed pixels
        become background, and only background is filled.

        Args:
            mask: uint8 as in `Prediction` or `VolumePrediction`.
        """
        if not self.cleans:
            return mask
        options = {
            "min_component_size": self.min_component_size,
            "fill_holes": self.fill_holes,
            "keep_largest_component": self.keep_largest_component,
        }
        if self.config.task == "multilabel":
            return np.stack([clean(plane == 1, **options) for plane in mask]).astype(np.uint8)
        result = np.zeros_like(mask)
        for number in range(1, len(self.structures) + 1):
            plane = mask == number
            result[clean(plane, **options) & (plane | (mask == 0))] = number
        return result

    # ---- files

    def read(self, path: str | Path) -> np.ndarray:
        """An image file in the form of the training images: (H, W, in_channels) uint8."""
        return case_io.read_picture(path, self.config)

    def write(
        self,
        prediction: Prediction,
        image: np.ndarray,
        output: str | Path,
        name: str,
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        truth: np.ndarray | None = None,
    ) -> None:
        """Write `<name>_mask.png` of a prediction into a folder: 0 and 255, or class numbers.

        A multilabel prediction has a file for each class, `<name>_<class>_mask.png`.

        Args:
            image: (H, W, C) uint8, as `read` returns it.
            overlay: also `<name>_overlay.png`, the mask in colour on the image.
            panels: also `<name>_visualization.png`: image, prediction, the truth (H, W) where it is
                given and, with `probability`, the probability of any structure.
        """
        output = Path(output)
        self._write_mask(prediction.mask, output, name)
        if overlay:
            images.write_png(output / f"{name}_overlay.png", plots.overlay(image, prediction.mask))
        if panels:
            pictures = {"image": image, "prediction": plots.outline(image, prediction.mask)}
            if truth is not None:
                pictures["truth"] = plots.outline(image, truth)
            if probability:
                pictures["probability"] = self._probability_of_any(prediction.prob)
            names = self.config.class_names
            figure = plots.grid(list(pictures.values()), list(pictures), side=3.5, classes=names)
            plots.save(figure, output / f"{name}_visualization.png")

    def _write_mask(self, mask: np.ndarray, output: Path, name: str) -> None:
        if self.config.task == "multilabel":
            for class_name, plane in zip(self.config.class_names, mask):
                images.write_png(output / f"{name}_{class_name}_mask.png", plane * 255)
        elif self.config.task == "multiclass":
            images.write_png(output / f"{name}_mask.png", mask)
        else:
            images.write_png(output / f"{name}_mask.png", mask * 255)

    def _probability_of_any(self, prob: np.ndarray) -> np.ndarray:
        """(H, W) uint8: the probability of any structure, times 255."""
        any_structure = 1 - prob[0] if self.config.task == "multiclass" else prob.max(axis=0)
        return (any_structure * 255).round().astype(np.uint8)

    def outline(
        self, writer: Any, path: str | Path, prediction: Prediction, name: str = ""
    ) -> None:
        """Add a predicted mask to a file of a labelling tool, where it can be corrected.

        Args:
            writer: of `annotations.writers`; its `save` comes after the last image.
            path: the picture file of which the prediction is.
            name: of the file of LabelMe, by default that of the picture.

        Raises:
            DataError: the file exists already.
        """
        task = self.config.task
        planes = {
            class_name: class_mask(prediction.mask, k, task)
            for k, class_name in self.structures.items()
        }
        writer.add(path, planes, images.exif_orientation(path), name)

    def predict_file(
        self,
        path: str | Path,
        output: str | Path | None = None,
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
        tiff_pages: stacks_of_pages.Pages | None = None,
    ) -> Any:
        """An image file -> a `Prediction`; with `output`, also the files of `write`.

        Args:
            tiff_pages: what the pages of a multi-page TIFF are, as in `prepare --tiff_pages`:
                "volume", whose `VolumePrediction` is returned, or "pictures", of which a list is
                returned. None: such a file is refused.
        """
        if tiff_pages is not None:
            with stacks_of_pages.unfolded(path, tiff_pages) as volume_or_folder:
                if tiff_pages == "volume":
                    return self.predict_volume(volume_or_folder, output)
                return [
                    self.predict_file(page, output, overlay, panels, probability, tiled)
                    for page in sorted(volume_or_folder.iterdir())
                ]
        image = self.read(path)
        prediction = self.predict_tiled(image) if tiled else self.predict(image)
        if output is not None:
            self.write(
                prediction,
                image,
                output,
                name=Path(path).stem,
                overlay=overlay,
                panels=panels,
                probability=probability,
            )
        return prediction

    def predict_folder(
        self,
        folder: str | Path,
        output: str | Path = "predictions",
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
        table: str | Path | None = None,
        objects: bool = False,
        neck: float = regions.NECK,
        pixel_mm: float | Sequence[float] | None = None,
        writer: Any = None,
    ) -> dict[str, Any]:
        """Every picture and NIfTI volume of a folder, by `predict_file` and `predict_volume`.

        A network with several channels predicts cases, whose files `sequences.of_files` tells
        apart; their names stand for those of files below.

        A file that cannot be read is reported under "failed"; the others are still predicted. Other
        threads read and write pictures, so that the network does not wait for files.

        Args:
            table: a CSV file that receives the measures of all images, see `measure`.
            writer: of `annotations.writers`, receives the masks of all pictures: see `outline`.

        Returns:
            A dict: `done`, a list of file names; `failed`, name -> reason; `millilitres`, name of a
            volume -> {class: mL}; `notes`, name -> what is odd about the file; `left_out`, name ->
            reason, of images of other kinds and of sub folders with images; `no_image`, the names
            of all other files; with `table`, also `measures`, a DataFrame.

        Raises:
            DataError: no such folder, or there is nothing in it that can be predicted.
        """
        options = regions.options(objects, neck, pixel_mm)
        regions.check_table(table, options)
        content = inputs.read(folder, output)
        tables: list[pd.DataFrame] = []
        result: dict[str, Any] = {"done": [], "failed": {}, "millilitres": {}, "notes": {}}
        result |= {"left_out": content.left_out, "no_image": content.no_image}
        drawing = (overlay, panels, probability)
        for item, predict in self._jobs(self._items(content, folder), Path(output), drawing, tiled):
            try:
                prediction, notes = predict()
                if writer and isinstance(prediction, Prediction):
                    self.outline(writer, Path(item.source), prediction, item.name)
                if table is not None:
                    measures = self._measures(item.source, prediction, options)
                    tables.append(measures.assign(case=item.name, file=item.label))
                if isinstance(prediction, VolumePrediction):
                    result["millilitres"][item.label] = prediction.millilitres
                result["done"].append(item.label)
                result["notes"] |= {item.label: notes} if notes else {}
            except DataError as error:
                result["failed"][item.label] = str(error)
        if table is not None:
            result["measures"] = regions.table_of(tables, objects)
            regions.save(result["measures"], table)
        return result

    def _jobs(
        self, items: list["_Item"], output: Path, drawing: tuple[bool, bool, bool], tiled: bool
    ) -> Iterator[tuple["_Item", Callable]]:
        """Each case of `predict_folder`, with a function that predicts it and writes its mask.

        The function returns the prediction and the notes on the file.

        Args:
            items: of `_items`.
            drawing: `overlay`, `panels` and `probability` of `write`.
        """
        predict = self.predict_tiled if tiled else self.predict

        def predict_volume(item: _Item) -> tuple[VolumePrediction, tuple[str, ...]]:
            suffix = volumes.mask_suffix(channels.first_file(item.source))
            prediction = self.predict_volume(item.source, output / (item.name + suffix))
            return prediction, prediction.notes

        def predict_picture(item: _Item, picture: Future) -> tuple[Prediction, tuple[str, ...]]:
            image, notes = picture.result()
            prediction = predict(image)
            write = functools.partial(self.write, prediction, image, output, item.name, *drawing)
            if drawing[1]:  # matplotlib must draw in this thread
                write()
            else:
                writes.append(pool.submit(write))
            return prediction, notes

        with memory.keep_freed_memory(), ThreadPoolExecutor(2) as pool:
            writes: deque[Future] = deque()
            progress = hosts.progress(items, desc="predict", leave=False)
            for item, picture in _read_ahead(pool, self._read_picture, progress):
                if volumes.is_volume(item.source):
                    yield item, functools.partial(predict_volume, item)
                else:
                    yield item, functools.partial(predict_picture, item, picture)
                while len(writes) > READ_AHEAD:
                    writes.popleft().result()  # raises here if the disk is full
            for future in writes:
                future.result()

    # ---- measures

    def measure(
        self,
        source: str | Path | np.ndarray,
        prediction: Prediction | VolumePrediction | None = None,
        objects: bool = False,
        neck: float = regions.NECK,
        pixel_mm: float | Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Size, place and mean intensity of each structure that is predicted in an image.

        Measured on the original grid, and in the values of the file: HU for CT. `regions.COLUMNS`
        names the columns; pixel (0, 0) or voxel (0, 0, 0) is the first one of the file.

        Args:
            source: an array as for `predict`, a picture file, or a volume as for `predict_volume`.
            prediction: that of `source`, where there is one already; None predicts it.
            objects: one row for each object, such as a nucleus, instead of one for each class;
                objects that touch are split by a watershed, see `regions.split`.
            neck: objects are split where the neck between them is narrower than this share of the
                narrower one; 0 splits only what does not touch.
            pixel_mm: height and width of a pixel in mm, or one number for both, where the file of
                a picture does not tell it, and for arrays.

        Returns:
            A row for each class or object. Where a pixel has no known size, values in mm are
            missing.

        Raises:
            DataError: as `predict`, `predict_volume`; a folder of pictures; the shape of
                `prediction` is another one.
            ConfigError: `neck` or `pixel_mm` out of range, or `pixel_mm` for a volume.
        """
        options = regions.options(objects, neck, pixel_mm)
        if not isinstance(source, str | Path):
            prediction = prediction or self.predict(source)
            return self._regions(prediction, regions.of_array(source, options.pixel_mm), options)
        if not volumes.is_volume(source):
            prediction = prediction or self.predict(self.read(source))
        elif pixel_mm is not None:
            raise ConfigError(f"pixel_mm: {source} is a volume, whose file tells it; leave it out")
        else:
            inputs.refuse_pictures(source)
            prediction = prediction or self.predict_volume(source)
        return self._measures(str(source), prediction, options)

    def _measures(
        self, source: str, prediction: Prediction | VolumePrediction, options: regions.Options
    ) -> pd.DataFrame:
        """The measures of a file, or of the first channel of a cell, with a prediction.

        `pixel_mm` is that of pictures alone.
        """
        file = Path(channels.first_file(source))
        if volumes.is_volume(source):
            source = sequences.cell_of(source, self.config)
            original = regions.of_volume(channels.split(source)[0], self.config)
        else:
            original = regions.of_picture(file, options.pixel_mm)
        name = _output_names([file], file.parent)[file]
        if volumes.is_volume(source) or len(channels.files(source)) > 1:
            name = sequences.name_of(source, self.config).replace("#", "_")
        table = self._regions(prediction, original, options)
        return table.assign(case=name, file=file.name)

    def _regions(
        self,
        prediction: Prediction | VolumePrediction,
        original: regions.Original,
        options: regions.Options,
    ) -> pd.DataFrame:
        """The measures of every class of a prediction, or of its objects."""
        task = self.config.task
        masks = (
            (name, class_mask(prediction.mask, k, task)) for k, name in self.structures.items()
        )
        return regions.measure(masks, original, options)

    def _read_picture(self, item: "_Item") -> tuple[np.ndarray, tuple[str, ...]] | None:
        """A picture of a folder, and what is odd about it; None for a volume."""
        if volumes.is_volume(item.source):
            return None
        return self.read(item.source), images.notes_of(channels.first_file(item.source))

    def _items(self, content: inputs.Inputs, folder: str | Path) -> list["_Item"]:
        """What a folder has to predict: its files, or its cases of several channels.

        Files that are in no case are added to `content.left_out`.
        """
        if not self.config.channels:
            names = _output_names(content.files, folder)
            return [
                _Item(inputs.label(file, folder), names[file], str(file)) for file in content.files
            ]
        cells, left_out = sequences.of_files(content.files, self.config)
        content.left_out.update(left_out)
        return [
            _Item(case if len(channels.files(cell)) > 1 else Path(cell).name, case, cell)
            for case, cell in cells.items()
        ]

    # ---- volumes

    def predict_volume(
        self,
        path: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        output: str | Path | None = None,
        batch_size: int = 8,
        dicom: bool = False,
    ) -> VolumePrediction:
        """The file of a volume or the folder of a DICOM series to a `VolumePrediction`.

        The network sees slice by slice; `min_component_size`, `keep_largest_component` and
        `fill_holes` act on the whole volume.

        Args:
            path: a file or folder. For a network with several channels: the files in the order of
                `config.channel_names`, a dict name -> file, or one file or folder from which the
                others are found: see `sequences.cell_of`.
            output: a file whose suffix names its format (.nii.gz, .nrrd, .mha), or a folder that
                receives `<name>_mask` in the format of the input: `.nii.gz` of NIfTI and DICOM,
                `.seg.nrrd` with the names of the classes of NRRD, `.mha` of MetaImage (multilabel:
                one file per class). It has the axes, geometry and unit of the input, so that a
                viewer lays it exactly over the image.
            dicom: also `<name>_mask.dcm`, a DICOM Segmentation over the series; only for a series,
                needs highdicom.

        Raises:
            DataError: no such volume, or one that is damaged or unsuitable for the network.
        """
        cell = sequences.cell_of(path, self.config)
        volume = stacks.read_8_bit(cell, self.config)
        grid = volume.grid
        masks = self._predict_slices(volume.voxels, batch_size)
        mask = self.cleaned(np.moveaxis(np.stack(masks), 0, -3))
        notes = volume.notes
        if volume.voxels.min() == volume.voxels.max():
            notes += ("all voxels are alike: nothing can be seen; export it again",)
        prediction = VolumePrediction(mask, grid, self._millilitres(mask, grid), notes)
        if output is not None:
            self._write_volume(prediction, cell, Path(output), dicom)
        return prediction

    def _predict_slices(self, slices: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """The mask of every slice of a volume, of `stacks.read_8_bit`, before it is cleaned."""
        cfg, masks = self.config, []
        starts = range(0, len(slices), batch_size)
        for start in hosts.progress(starts, desc="predict", leave=False):
            batch = []
            for number in range(start, min(start + batch_size, len(slices))):
                image = stacks.image(slices, number, cfg)
                batch.append(data.normalise(self._fitted(image), self.table))
            for prob in self.probabilities(torch.from_numpy(np.stack(batch))).cpu().numpy():
                masks.append(self.raw_mask(images.unfit(prob, slices.shape[1:3], cfg.resize)))
        return masks

    def _millilitres(self, mask: np.ndarray, grid: orientation.Grid) -> dict[str, float]:
        task = self.config.task
        return {
            name: np.count_nonzero(class_mask(mask, k, task)) * grid.voxel_ml
            for k, name in self.structures.items()
        }

    def _write_volume(
        self, prediction: VolumePrediction, source: str, output: Path, dicom: bool
    ) -> None:
        mask, grid = prediction.mask, prediction.grid
        name = sequences.name_of(source, self.config).replace("#", "_")
        source = channels.split(source)[0]
        is_file = output.name.lower().endswith(volumes.SUFFIXES)
        target = output if is_file else output / (name + volumes.mask_suffix(source))
        if dicom:  # first, because it refuses series that it cannot refer to
            task = self.config.task
            segments = {n: class_mask(mask, k, task) for k, n in self.structures.items()}
            dicom_seg.write(target.parent / f"{name}_mask.dcm", segments, grid)
        colours = [tuple(plots.rgb(colour).tolist()) for colour in plots.COLOURS]
        segments = [
            slicer.Segment(number, class_name, colours[(number - 1) % len(colours)])
            for number, class_name in enumerate(self.structures.values(), start=1)
        ]
        if self.config.task != "multilabel":
            volumes.write_mask(target, mask, grid, source, segments)
            return
        for segment, plane in zip(segments, mask):
            part = volumes.with_ending(target, f"_{segment.name}")
            volumes.write_mask(part, plane, grid, source, [segment._replace(number=1)])


class _Item(NamedTuple):
    """A picture or volume of a folder.

    `label` tells it in the results, `name` begins the names of its files; `source` is a path, or
    the cell of several channels.
    """

    label: str
    name: str
    source: str


# What networks must have in common to be averaged: their classes, and the images they take.
ALIKE = (
    *("task", "class_names", "image_size", "resize", "in_channels", "mean", "std", "patch_size"),
    *("window_level", "window_width", "percentiles", "slice_axis", "threshold"),
    *("channel_names", "context_slices"),
)


def _check_alike(paths: Sequence[Path], configs: Sequence[Any]) -> None:
    """Refuse the mean of networks that have other classes, or take their images in another form,
    and a file that would count twice."""
    twice = [path for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: given twice, so that it would count twice in the mean")
    for path, cfg in zip(paths[1:], configs[1:]):
        for name in ALIKE:
            first, other = getattr(configs[0], name), getattr(cfg, name)
            if first != other:
                raise DataError(
                    f"{path}: {name} is {other!r}, but {first!r} in {paths[0]}; the networks of a "
                    f"mean must have the same {name}: leave one of them out"
                )


def _network(path: Path, description: dict[str, Any], cfg, model: torch.nn.Module | None):
    """The network of a weights file, with its weights; `model` as for `Predictor.load`."""
    own_network = description.get("network")
    if model is not None:
        model = copy.deepcopy(model)
    elif own_network:
        raise DataError(
            f"{path}: weights of the network {own_network}, which is not part of seglib; "
            f"define the class {own_network} and pass an instance built as for the training: "
            f"Predictor.load({path.name!r}, model={own_network}(...))"
        )
    else:
        model = runs.network(cfg, pretrained=False, strict=False)
    return runs.load_weights(path, model)


def _flip_names(text: str) -> str:
    """Names of flips, checked and in one form: "hflip", "vflip" or "hflip,vflip"."""
    names = {name.strip() for name in text.split(",")} - {""}
    unknown = sorted(names - set(FLIP_AXES))
    if unknown or not names:
        raise ConfigError(
            f"tta: {text!r} is not allowed; expected True, or flips: hflip, vflip or hflip,vflip"
        )
    return ",".join(name for name in FLIP_AXES if name in names)


def class_plane(mask: np.ndarray, index: int, task: str) -> np.ndarray:
    """The plane of a mask that holds a class: its own if classes may overlap (multilabel)."""
    return mask[index] if task == "multilabel" else mask


def class_mask(mask: np.ndarray, index: int, task: str) -> np.ndarray:
    """Where the mask of a picture or a volume holds one class: bool (H, W) or (S, H, W).

    Args:
        mask: uint8 as in `Prediction` or `VolumePrediction`; 255 (ignored) is no class.
        index: position of the class in `class_names`.
    """
    return class_plane(mask, index, task) == (index if task == "multiclass" else 1)


def clean(
    mask: np.ndarray,
    min_component_size: int = 0,
    fill_holes: bool = False,
    keep_largest_component: bool = False,
) -> np.ndarray:
    """A bool mask (2-D or 3-D) without its small connected components, and with its holes filled.

    Pixels are connected by an edge, voxels by a face (4 and 6 neighbours).

    Args:
        min_component_size: components of fewer pixels or voxels are removed.
        fill_holes: what remains is filled after components were removed.
        keep_largest_component: only the largest component is kept; of equally large ones, the
            first.
    """
    if min_component_size > 1 or keep_largest_component:
        components, _ = ndimage.label(mask)
        sizes = np.bincount(components.ravel())
        sizes[0] = 0  # the background is not a component
        keep = sizes >= max(min_component_size, 1)
        if keep_largest_component:
            keep &= np.arange(len(sizes)) == sizes.argmax()
        mask = keep[components]
    return ndimage.binary_fill_holes(mask) if fill_holes else mask


def _output_names(files: list[Path], folder: str | Path) -> dict[Path, str]:
    """File -> name of its results: its stem, or `a_png` and `a_jpg` where two share a stem.

    That of a series below the folder has its path, such as `patient1_ct`.
    """
    labels = {file: re.sub("[/#]", "_", inputs.label(file, folder)) for file in files}
    stems = {
        file: nifti.stem(label) if volumes.is_volume(file) else Path(label).stem
        for file, label in labels.items()
    }
    n_files = Counter(stems.values())
    return {
        file: stem if n_files[stem] == 1 else labels[file].replace(".", "_")
        for file, stem in stems.items()
    }


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable, files: Iterable
) -> Iterator[tuple[Any, Future]]:
    """Each file with the future of `read(file)`, which was started `READ_AHEAD` files earlier."""
    started: deque[tuple[Any, Future]] = deque()
    for file in files:
        started.append((file, pool.submit(read, file)))
        if len(started) > READ_AHEAD:
            yield started.popleft()
    yield from started


def _at_least(shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int]:
    """(height, width), each at least that of `sides`."""
    return max(shape[0], sides[0]), max(shape[1], sides[1])
