"""`Predictor`: trained weights to masks, in the size of the input. Taught in `04_lung_segmentation`."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from . import config, data, hosts, memory, metrics, plots, runs
from .errors import DataError
from .formats import dicom_seg, images, nifti, orientation, volumes

OPTIONS = (
    "tta",
    "tta_rotation",
    "min_component_size",
    "keep_largest_component",
    "fill_holes",
)  # of a predictor; all off by default
AHEAD = 4  # pictures of a folder that are read before the network needs them


class Prediction(NamedTuple):
    """`prob` (C, H, W) float32; `mask` uint8, (H, W) of 0/1 or class numbers, or (C, H, W) of 0/1 for multilabel."""

    prob: np.ndarray
    mask: np.ndarray


class VolumePrediction(NamedTuple):
    """`mask` uint8 as displayed, (S, H, W), or (C, S, H, W) for multilabel; `grid` lays it back into the file's axes;
    `millilitres` class -> volume, NaN where the spacing is unknown."""

    mask: np.ndarray
    grid: orientation.Grid
    millilitres: dict[str, float]


class Predictor:
    """A trained network with everything it needs to go from pixels to a mask.

    `Predictor.load(run.best).predict(array)`; the result has the size of the input: the resize to the network's size
    and back happens inside. Set `tta`, `tta_rotation`, `min_component_size`, `keep_largest_component` or `fill_holes` on it, and every prediction and
    every evaluation follows: `evaluation.compare` tells whether they are a gain.
    """

    tta = False  # test-time augmentation: the mean over the flips that the network was trained with
    tta_rotation = (
        0.0  # the mean with two views more, turned by so many degrees to the left and to the right
    )
    min_component_size = 0  # connected pieces of fewer pixels are removed from every class
    keep_largest_component = (
        False  # of every class only the largest connected piece of a picture or slice stays
    )
    fill_holes = False  # background enclosed by a class becomes that class
    temperature = 1.0  # logits are divided by it
    thresholds: tuple[float, ...] | None = (
        None  # one a class instead of the config's; see `evaluation.tuned`
    )
    chosen: dict[str, str] = {}  # what was chosen, and on what
    trained_on: list[str] | None = (
        None  # beginnings of the hashes of the images that the weights were made with
    )

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
        cfg = config.from_dict(about["config"])
        predictor = cls(
            runs.load_weights(path, runs.network(cfg, pretrained=False)), cfg, device, precision
        )
        predictor.trained_on = about.get("trained_on")
        return predictor

    @torch.inference_mode()
    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> logits (N, classes, H, W) float32 on the network's device."""
        batch = batch.to(self.device, non_blocking=True).contiguous(
            memory_format=torch.channels_last
        )
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(self.device, half or torch.bfloat16, enabled=half is not None):
            return self.model(batch).float()

    def probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, C, H, W) float32 -> probabilities (N, classes, H, W) float32.

        Where the GPU's memory is too small for the batch, its halves are computed one after the other.
        """
        try:
            return self._probabilities(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        halves = batch.split(
            -(-len(batch) // 2)
        )  # here the error no longer holds what the attempt has computed
        return torch.cat([self.probabilities(half) for half in halves])

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        prob, views = (
            self._view(batch),
            1,
        )  # a number, or (N, 1, H, W) where not every view saw every pixel
        for axes in self._flips():
            prob, views = prob + self._view(batch.flip(axes)).flip(axes), views + 1
        for degrees in (self.tta_rotation, -self.tta_rotation) if self.tta_rotation else ():
            turned, seen = self._turned(batch, degrees)
            prob, views = prob + turned, views + seen
        return prob / views

    def _view(self, batch: torch.Tensor) -> torch.Tensor:
        return metrics.probabilities(self.logits(batch) / self.temperature, self.config.task)

    def _turned(self, batch: torch.Tensor, degrees: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of the turned batch, turned back, and what share of each pixel it saw (N, 1, H, W): corners
        leave the frame. The probabilities are times this share."""
        from torchvision.transforms.v2 import InterpolationMode, functional  # heavy

        how = {"interpolation": InterpolationMode.BILINEAR}
        black = self.table[:, 0].tolist()
        prob = self._view(functional.rotate(batch, degrees, **how, fill=black))
        both = torch.cat([prob, torch.ones_like(prob[:, :1])], dim=1)
        back = functional.rotate(both, -degrees, **how, fill=0)
        return back[:, :-1], back[:, -1:]

    def _flips(self) -> list[tuple[int, ...]]:
        trained = [
            axis for axis, name in ((3, "hflip"), (2, "vflip")) if name in self.config.augment
        ]
        return (
            [(axis,) for axis in trained] + ([(2, 3)] if len(trained) == 2 else [])
            if self.tta
            else []
        )

    def predict(self, image: np.ndarray) -> Prediction:
        """An image (H, W) or (H, W, C), RGB, of any size and number type, to a `Prediction` of its height and width.

        Raises:
            DataError: not an image array, or a number of channels that cannot be brought to the network's.
        """
        pixels, cfg = self._pixels(image), self.config
        fitted = images.fit_image(pixels, cfg.height_width, cfg.resize)
        batch = torch.from_numpy(data.normalise(fitted, self.table))[None]
        prob = images.unfit(
            self.probabilities(batch)[0].cpu().numpy(), pixels.shape[:2], cfg.resize
        )
        return Prediction(prob, self.mask(prob))

    def predict_tiled(
        self, image: np.ndarray, overlap: float = 0.5, batch_size: int = 8
    ) -> Prediction:
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
        total, weights = (
            np.zeros((cfg.n_classes, *whole.shape[1:]), np.float32),
            np.zeros(whole.shape[1:], np.float32),
        )
        for start in hosts.progress(range(0, len(places), batch_size), desc="tiles", leave=False):
            some = [
                (slice(r, r + height), slice(c, c + width))
                for r, c in places[start : start + batch_size]
            ]
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
        return metrics.to_label_map(torch.from_numpy(self.decide(prob)), self.config.task)

    def decide(self, prob: np.ndarray) -> np.ndarray:
        """Probabilities (C, H, W) to bool of the same shape: the likeliest class, or all from their thresholds; then
        cleaned, where `min_component_size`, `keep_largest_component` or `fill_holes` are set."""
        thresholds = torch.tensor(self.thresholds or [self.config.threshold])[:, None, None]
        chosen = metrics.to_one_hot(torch.from_numpy(prob)[None], self.config.task, thresholds)[
            0
        ].numpy()
        if not (self.min_component_size or self.keep_largest_component or self.fill_holes):
            return chosen
        first = int(self.config.task == "multiclass")  # the background is what the classes leave
        cleaned = [
            clean(plane, self.min_component_size, self.fill_holes, self.keep_largest_component)
            for plane in chosen[first:]
        ]
        if not first:
            return np.stack(cleaned)
        labels = np.zeros(chosen.shape[1:], np.int64)
        for k, plane in enumerate(cleaned, start=1):
            labels[plane & (chosen[k] | chosen[0])] = k
        return labels == np.arange(len(chosen))[:, None, None]

    def read(self, path: str | Path) -> np.ndarray:
        """An image file as the network was trained to see it: (H, W, channels of the network) uint8."""
        return images.read_image(path, self.config.in_channels, self.config.percentiles)

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
        """`<name>_mask.png` of a prediction into a folder: 0 and 255, or class numbers; multilabel: a file a class.

        Args:
            image: (H, W, C) uint8, as `read` gives it.
            overlay: also `<name>_overlay.png`, the mask in colour on the image.
            panels: also `<name>_visualization.png`: image, prediction, the truth (H, W) where it is given and, with
                `probability`, the probability of any structure.
        """
        cfg, mask, stem = self.config, prediction.mask, Path(output) / name
        parts = [f"_{part}" for part in cfg.class_names] if cfg.task == "multilabel" else [""]
        for part, plane in zip(parts, mask if cfg.task == "multilabel" else [mask]):
            pixels = plane if cfg.task == "multiclass" else plane * 255
            images.write_png(stem.with_name(f"{name}{part}_mask.png"), pixels)
        if not (overlay or panels):
            return
        coloured = plots.overlay(image, mask)
        if overlay:
            images.write_png(stem.with_name(f"{name}_overlay.png"), coloured)
        if panels:
            shown = {"image": image, "prediction": coloured}
            if truth is not None:
                shown["truth"] = plots.overlay(image, truth)
            if probability:
                prob = prediction.prob
                any_of = 1 - prob[0] if cfg.task == "multiclass" else prob.max(axis=0)
                shown["probability"] = (any_of * 255).round().astype(np.uint8)
            figure = plots.grid(list(shown.values()), list(shown), side=3.5)
            plots.save(figure, stem.with_name(f"{name}_visualization.png"))

    def predict_file(
        self,
        path: str | Path,
        output: str | Path | None = None,
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
    ) -> Prediction:
        """An image file to a `Prediction`; with `output`, files go there as `write` says, named as the image."""
        image = self.read(path)
        prediction = (self.predict_tiled if tiled else self.predict)(image)
        if output is not None:
            self.write(prediction, image, output, Path(path).stem, overlay, panels, probability)
        return prediction

    @memory.keep_freed_memory()
    def predict_folder(
        self,
        folder: str | Path,
        output: str | Path = "predictions",
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
    ) -> dict[str, Any]:
        """Every picture and NIfTI volume of a folder, by `predict_file` and `predict_volume`. A bad file stops nothing.

        Pictures are read ahead in another thread, and those without panels are written in it, so that the network
        does not wait for files.

        Returns:
            {"done": [file names], "failed": {name: reason}, "millilitres": {name of a volume: {class: mL}}}
        """
        known = (*images.SUFFIXES, *volumes.SUFFIXES)
        files = sorted(f for f in Path(folder).glob("[!.]*") if f.name.lower().endswith(known))
        if not files:
            raise DataError(
                f"{folder}: no picture or volume here; expected files ending in {', '.join(known)}"
            )
        twice = Counter(_stem(file) for file in files)  # a.png and a.jpg become a_png and a_jpg
        found: dict[str, Any] = {"done": [], "failed": {}, "millilitres": {}}
        progress = hosts.progress(files, desc="predict", leave=False)
        with ThreadPoolExecutor(2) as pool:
            writes: deque[Future] = deque()
            for file, image in _ahead(
                pool, lambda f: None if volumes.is_volume(f) else self.read(f), progress
            ):
                try:
                    name = _stem(file) if twice[_stem(file)] == 1 else file.name.replace(".", "_")
                    if volumes.is_volume(file):
                        target = Path(output) / f"{name}_mask.nii.gz"
                        found["millilitres"][file.name] = self.predict_volume(
                            file, target
                        ).millilitres
                    else:
                        pixels = image.result()
                        prediction = (self.predict_tiled if tiled else self.predict)(pixels)
                        arguments = (prediction, pixels, output, name, overlay, panels, probability)
                        if panels:  # matplotlib draws in one thread only
                            self.write(*arguments)
                        else:
                            writes.append(pool.submit(self.write, *arguments))
                    found["done"].append(file.name)
                except DataError as error:
                    found["failed"][file.name] = str(error)
                while len(writes) > AHEAD:
                    writes.popleft().result()  # a full disk stops here
            for write in writes:
                write.result()
        return found

    def predict_volume(
        self,
        path: str | Path,
        output: str | Path | None = None,
        batch_size: int = 8,
        dicom: bool = False,
    ) -> VolumePrediction:
        """A NIfTI file or the folder of a DICOM series, slice by slice, to a `VolumePrediction`.

        Args:
            output: a NIfTI file, or a folder that receives `<name>_mask.nii.gz` (multilabel: a file a class). It has
                the axes, affine and unit of the input, so that a viewer lays it exactly over the image.
            dicom: also `<name>_mask.dcm`, a DICOM Segmentation over the series; only for a series, needs highdicom.

        Raises:
            DataError: no such volume, a damaged one, or one that the network cannot be given.
        """
        cfg = self.config
        cut = volumes.options(cfg)
        shown = volumes.bytes_of(
            str(path), cfg.window_level, cfg.window_width, cfg.percentiles, **cut
        )
        grid = volumes.read_grid(path, **cut)
        masks = []
        for start in hosts.progress(range(0, len(shown), batch_size), desc="predict", leave=False):
            slices = [
                images.as_channels(plane, cfg.in_channels)
                for plane in shown[start : start + batch_size]
            ]
            fitted = [
                data.normalise(images.fit_image(s, cfg.height_width, cfg.resize), self.table)
                for s in slices
            ]
            for prob in self.probabilities(torch.from_numpy(np.stack(fitted))).cpu().numpy():
                masks.append(self.mask(images.unfit(prob, shown.shape[1:], cfg.resize)))
        mask = np.moveaxis(np.stack(masks), 0, -3)
        several = cfg.task == "multilabel"
        names = cfg.class_names[cfg.task == "multiclass" :]  # class k of them has the number k + 1
        planes = mask if several else [mask == k + 1 for k in range(len(names))]
        voxel = float(np.prod(grid.spacing_mm)) / 1000 if grid.spacing_mm else float("nan")
        found = VolumePrediction(
            mask, grid, {name: int(p.sum()) * voxel for name, p in zip(names, planes)}
        )
        if output is not None:
            output, name = Path(output), nifti.stem(path)
            is_file = output.name.lower().endswith(volumes.SUFFIXES)
            for part, plane in zip(names, mask) if several else [("", mask)]:
                target = output if is_file else output / f"{name}_mask.nii.gz"
                if part:
                    target = target.with_name(f"{nifti.stem(target)}_{part}.nii.gz")
                nifti.write(target, grid.restore(plane), grid, path)
            if dicom:
                folder = output.parent if is_file else output
                masks = {part: plane.astype(bool) for part, plane in zip(names, planes)}
                dicom_seg.write(folder / f"{name}_mask.dcm", masks, grid)
        return found


def _stem(file: Path) -> str:
    return nifti.stem(file) if volumes.is_volume(file) else file.stem


def _ahead(
    pool: ThreadPoolExecutor, function: Callable, items: Iterable
) -> Iterator[tuple[Any, Future]]:
    """Each item with the future of `function(item)`, which was begun a few items before."""
    begun: deque[tuple[Any, Future]] = deque()
    for item in items:
        begun.append((item, pool.submit(function, item)))
        if len(begun) > AHEAD:
            yield begun.popleft()
    yield from begun


def clean(
    plane: np.ndarray,
    min_component_size: int = 0,
    fill_holes: bool = False,
    keep_largest_component: bool = False,
) -> np.ndarray:
    """A bool mask (2-D or 3-D) without connected pieces of fewer than `min_component_size` pixels, with `keep_largest_component` without any but
    the largest (of equals the first), and with its holes filled.

    Pieces touch by an edge (2-D: 4 neighbours).
    """
    if min_component_size > 1 or keep_largest_component:
        pieces, _ = ndimage.label(plane)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        kept = sizes >= max(min_component_size, 1)
        if keep_largest_component:
            kept &= np.arange(len(sizes)) == sizes.argmax()
        plane = kept[pieces]
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
