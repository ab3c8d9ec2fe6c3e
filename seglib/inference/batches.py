"""A network with its settings: from normalised batches to probabilities, from those to masks."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .. import data, hosts, metrics, models, tiles
from . import frames, masks, views

# The attributes of a predictor that change its masks; all are off by default.
OPTIONS = ("tta", "tta_rotation", "min_component_size", "keep_largest_component", "fill_holes")


class BatchPredictor:
    """The part of a `Predictor` that knows no files: a network, its settings, and batches.

    `Predictor` describes the attributes.
    """

    tta_rotation = 0.0
    min_component_size = 0
    keep_largest_component = False
    fill_holes = False
    temperature = 1.0
    thresholds: tuple[float, ...] | None = None
    chosen: dict[str, str] = {}
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

    @property
    def tta(self) -> bool | str:
        """Test-time augmentation: False, True (the flips of the training), or names of flips."""
        return self._tta

    @tta.setter
    def tta(self, flips: bool | str) -> None:
        self._tta = flips if isinstance(flips, bool) else views.flip_names(flips)
        if flips and not self.flips:
            warnings.warn(views.NO_FLIPS, stacklevel=2)

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """Axes of a batch that each view of `tta` flips."""
        names = self.tta.split(",") if isinstance(self.tta, str) else self.config.augment
        return views.flipped_axes(names)

    @property
    def cleans(self) -> bool:
        """Whether `cleaned` can change a mask."""
        return bool(self.min_component_size or self.keep_largest_component or self.fill_holes)

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
        if frames.exceeds_patch(batch.shape[-2:], self.config):
            return self._blended(batch, tiles.OVERLAP, self.config.batch_size)
        return self._mean_of_views(batch)

    def log_odds(self, batch: torch.Tensor) -> torch.Tensor:
        """What a temperature divides: the logits of one view, those of the mean of several views
        or tiles.

        Shapes, and memory, as for `probabilities`.
        """
        in_tiles = frames.exceeds_patch(batch.shape[-2:], self.config)
        if not (self.tta or self.tta_rotation or in_tiles):
            return views.in_halves(self.logits, batch, self.device)
        prob = self.probabilities(batch)
        return prob.log() if self.config.task == "multiclass" else prob.logit(1e-7)

    def _blended(
        self, batch: torch.Tensor, overlap: float, batch_size: int, progress: Callable = iter
    ) -> torch.Tensor:
        """Probabilities of a batch by tiles of what the network sees at once."""
        sides = self.config.network_height_width
        return tiles.blend(batch, sides, self._mean_of_views, overlap, batch_size, progress)

    def _mean_of_views(self, batch: torch.Tensor) -> torch.Tensor:
        """Probabilities of a batch of which the network sees each image as a whole."""
        black = self.table[:, 0].tolist()

        def mean(part: torch.Tensor) -> torch.Tensor:
            flips = self.flips if self.tta else []
            return views.mean(self._view, part, flips, self.tta_rotation, black)

        return views.in_halves(mean, batch, self.device)

    def _view(self, batch: torch.Tensor) -> torch.Tensor:
        return metrics.probabilities(self.logits(batch) / self.temperature, self.config.task)

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
        return masks.cleaned(
            mask,
            self.config,
            min_component_size=self.min_component_size,
            fill_holes=self.fill_holes,
            keep_largest_component=self.keep_largest_component,
        )
