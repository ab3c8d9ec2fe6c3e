"""Store -> dataset, augmentation and loaders. The only importer of albumentations. Taught in `04_lung_segmentation`."""

import copy
import math
import shutil
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from . import hosts
from .errors import ConfigError, DataError
from .formats.images import IGNORE

PARTS = ("train", "val", "test")
FOREGROUND = 0.7  # share of the cropped pieces that are laid about a pixel of a structure
SHARED_MEMORY = (
    "/dev/shm"  # loader processes hand batches over in it; 64 MB in a container by default
)


class SegmentationDataset(Dataset):
    """The images of one part of a store, normalised and, for training, augmented.

    An item is a dict: image (C, H, W) float32; mask uint8, (K, H, W) or (H, W) for multiclass, 255 = ignored; annotated
    (classes,) bool; index, the row in `cases`. The number that `__getitem__` takes is `epoch * len + index`: the
    augmentation depends only on seed, epoch and index, never on how many workers there are or which one works.
    """

    def __init__(self, store, part: str, cfg, training: bool = False):
        self.store, self.part, self.task, self.seed = store, part, cfg.task, cfg.seed
        self.cases = store.cases[store.cases["split"] == part].reset_index(drop=True)
        self.rows = (
            self.cases["row"].to_numpy(np.int64) if len(self.cases) else np.zeros(0, np.int64)
        )
        self.class_names = tuple(cfg.class_names)
        self.annotated = _annotated(self.cases, cfg)
        self.augment = (
            augmentation(cfg.augment, cfg.patch_height_width)
            if training and (cfg.augment or cfg.patch_size)
            else None
        )
        self.table = normalisation_table(cfg.mean, cfg.std, cfg.in_channels)
        self.arrays: tuple[np.ndarray, np.ndarray] | None = None

    def plain(self) -> "SegmentationDataset":
        """The same images without augmentation, as scores need them."""
        twin = copy.copy(self)
        twin.augment = None
        return twin

    def class_shares(self, n: int = 200) -> np.ndarray:
        """(classes,) float64: the share of the known pixels that each class has in up to `n` masks, spread evenly over
        the part; not a number for a class without any mask."""
        found = np.zeros((2, len(self.class_names)))
        structure = np.arange(len(self.class_names)) if self.task == "multiclass" else 1
        for index in np.unique(np.linspace(0, len(self) - 1, n).round().astype(int)):
            mask = self.pixels(index)[1]
            found[0] += (mask == structure).sum((0, 1))
            found[1] += (mask != IGNORE).sum((0, 1))  # one plane of class numbers counts for all
        return np.divide(found[0], found[1], out=np.full(len(found[0]), np.nan), where=found[1] > 0)

    def __len__(self) -> int:
        return len(self.cases)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": None}  # a spawned worker maps the files itself

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, index = divmod(int(number), len(self))
        image, mask = self.pixels(index)
        if self.augment is not None:
            self.augment.set_random_seed(
                np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0].item()
            )
            changed = self.augment(
                image=image, masks=list(mask.transpose(2, 0, 1))
            )  # a fill of 255 needs 2-D masks
            image, mask = changed["image"], np.stack(changed["masks"], axis=-1)
        mask = torch.from_numpy(np.ascontiguousarray(mask.transpose(2, 0, 1)))
        return {
            "image": torch.from_numpy(normalise(image, self.table)),
            "mask": mask[0] if self.task == "multiclass" else mask,
            "annotated": torch.from_numpy(self.annotated[index]),
            "index": index,
        }

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The stored image (H, W, C) and mask (H, W, K), uint8, before augmentation and normalisation."""
        if self.arrays is None:
            self.arrays = self.store.open()
        images, masks = self.arrays
        return np.array(images[self.rows[index]]), np.array(masks[self.rows[index]])


class EpochSampler(Sampler):
    """All indices of a dataset, each plus `epoch * n`; shuffled from seed and epoch, so that a resumed run goes on as
    an uninterrupted one would."""

    def __init__(self, n: int, seed: int, shuffle: bool):
        self.n, self.seed, self.shuffle, self.epoch = n, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.n)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        return iter((self.epoch * self.n + order).tolist())


def loaders(store, cfg) -> dict[str, DataLoader]:
    """{"train", "val", "test"} -> DataLoader of batches {image, mask, annotated, index}; a part may be empty.

    Only the training part is shuffled and augmented. Made anew after an edit of this module: running workers keep the
    code that they were started with.
    """
    cv2.setNumThreads(
        0
    )  # OpenCV threads in forked workers deadlock, and fight for the cores of the network
    result = {}
    for part in PARTS:
        train = part == "train"
        dataset = SegmentationDataset(store, part, cfg, training=train)
        workers = n_workers(cfg) if len(dataset) else 0
        result[part] = DataLoader(
            dataset,
            batch_size=cfg.batch_size,
            sampler=EpochSampler(len(dataset), cfg.seed, shuffle=train),
            num_workers=workers,
            drop_last=train
            and len(dataset) % cfg.batch_size == 1
            and len(dataset) > 1,  # batch norm needs two values
            pin_memory=hosts.choose_device(cfg.device) == "cuda",
            worker_init_fn=_start_worker if workers else None,
            persistent_workers=workers > 0,
        )
    return result


def n_workers(cfg) -> int:
    """Loader processes: what `cfg.num_workers` asks for, never more than the machine has cores or shared memory for.
    `auto` takes one core less than there are beside a GPU, and one of eight where the CPU trains; at most 8, and none
    of two cores, which the network needs itself."""
    cores = hosts.n_cores()
    workers = cfg.num_workers
    if workers == "auto":
        spare = cores // 8 if hosts.choose_device(cfg.device) == "cpu" else cores - 1
        workers = 0 if cores <= 2 else min(8, spare)
    return min(workers, cores, _workers_that_fit(cfg))


def _workers_that_fit(cfg) -> float:
    """How many loader processes the shared memory can serve: where it is full, the system kills them."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # Windows and macOS pass batches on in other ways
        return math.inf
    pixels = cfg.batch_size * math.prod(cfg.height_width)
    batch = pixels * (4 * cfg.in_channels + (1 if cfg.task == "multiclass" else cfg.n_classes))
    return free // (4 * batch)  # two batches wait in every process, one is used, one is on its way


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _annotated(cases, cfg) -> np.ndarray:
    """(n, classes) bool: which classes have a mask, from the mask columns or the column `annotated`."""
    if cfg.task == "multiclass":
        if "annotated" not in cases:
            return np.ones((len(cases), cfg.n_classes), bool)
        named = [set(str(cell).split(",")) for cell in cases["annotated"]]
        return np.array(
            [[name in names for name in cfg.class_names] for names in named], bool
        ).reshape(-1, cfg.n_classes)
    columns = []
    for name in cfg.class_names:
        if name not in cases:
            raise DataError(
                f"store: no mask column {name!r} for that class; found {list(cases.columns)}; build the store anew"
            )
        columns.append((cases[name] != "").to_numpy())
    return np.stack(columns, axis=1)


# ---- normalisation


def normalisation_table(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> np.ndarray:
    """(channels, 256) float32: the normalised value of every byte, (byte / 255 - mean) / std."""
    mean, std = (np.broadcast_to(np.array(v, np.float32), channels)[:, None] for v in (mean, std))
    return ((np.arange(256, dtype=np.float32) / 255 - mean) / std).astype(np.float32)


def normalise(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (C, H, W) float32 by looking every byte up."""
    return np.stack([cv2.LUT(plane, values) for plane, values in zip(cv2.split(image), table)])


# ---- augmentation


def augmentation(augment: dict[str, Any], patch_size: tuple[int, int] | None = None):
    """The albumentations pipeline of `cfg.augment`; works on uint8 images (H, W, C) and lists of masks (H, W).

    New pixels at the border are black in the image and `IGNORE` in the mask. Masks keep their values (nearest
    neighbour).

    Args:
        patch_size: (height, width) of what is cut out at the end: `FOREGROUND` of the pieces hold a pixel of a structure
            (as nnU-Net forces it, Isensee et al., Nature Methods 2021), the others lie anywhere.
    """
    import albumentations as A  # heavy: loaded when training starts, not with the package

    pipeline = []
    for name, value in augment.items():
        options = dict(value) if isinstance(value, dict) else {"p": value}
        pipeline.append(_transform(A, name, options.pop("p", 1.0), options))
    if patch_size is not None:
        about = A.CropNonEmptyMaskIfExists(*patch_size, ignore_values=[IGNORE], p=1.0)
        pipeline.append(A.OneOrOther(about, A.RandomCrop(*patch_size, p=1.0), p=FOREGROUND))
    return A.Compose(pipeline)


def _transform(A, name: str, p: float, options: dict[str, Any]):
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE}
    if name == "hflip":
        return A.HorizontalFlip(p=p)
    if name == "vflip":
        return A.VerticalFlip(p=p)
    if name == "rot90":
        return A.RandomRotate90(p=p)
    if name == "rotate":
        limit = options.get("limit", 45)
        return A.Rotate(limit=(-limit, limit), p=p, **border)
    if name == "affine":
        shift, turn = options.get("translate", 0.05), options.get("rotate", 15)
        scale = tuple(options.get("scale", (0.9, 1.1)))
        return A.Affine(
            scale=scale, translate_percent=(-shift, shift), rotate=(-turn, turn), p=p, **border
        )
    if name == "brightness_contrast":
        brightness, contrast = options.get("brightness", 0.2), options.get("contrast", 0.2)
        return A.RandomBrightnessContrast((-brightness, brightness), (-contrast, contrast), p=p)
    if name == "gauss_noise":
        return A.GaussNoise(std_range=(0.0, options.get("std", 0.05)), p=p)
    if name == "grid_distortion":
        limit = options.get("limit", 0.3)
        return A.GridDistortion(distort_limit=(-limit, limit), p=p, **border)
    if name != "coarse_dropout":
        raise ConfigError(f"augment: {name!r} is unknown")
    side = options.get("size", 0.1)
    size = {"hole_height_range": (side / 2, side), "hole_width_range": (side / 2, side)}
    holes = {"num_holes_range": (1, int(options.get("holes", 4))), "fill": options.get("fill", 0)}
    return A.CoarseDropout(
        fill_mask=None, p=p, **holes, **size
    )  # the mask stays: the organ is still there
