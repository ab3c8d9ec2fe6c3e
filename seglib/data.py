"""Store -> dataset with augmentation -> loaders. Taught in `04_lung_segmentation`."""

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
from .errors import DataError
from .formats.images import IGNORE

PARTS = ("train", "val", "test")
# Loader processes pass batches through it; in a container it has only 64 MB by default.
SHARED_MEMORY = "/dev/shm"


class SegmentationDataset(Dataset):
    """The images of one part of a store, normalised and, for training, augmented.

    An item is a dict: image (C, H, W) float32; mask uint8, (K, H, W), or (H, W) for multiclass,
    255 = ignored; annotated (classes,) bool; index, the row in `cases`. `__getitem__` takes the
    number `epoch * len + index`, because the augmentation depends on `cfg.seed`, epoch and index
    only, never on how many workers there are or on which of them loads the item.
    """

    def __init__(self, store, part: str, cfg, training: bool = False):
        self.store, self.part, self.task, self.seed = store, part, cfg.task, cfg.seed
        self.cases = store.cases[store.cases["split"] == part].reset_index(drop=True)
        self.rows = self.cases["row"].to_numpy(np.int64)
        self.class_names = tuple(cfg.class_names)
        self.annotated = _annotated(self.cases, cfg)
        self.augment = None
        if training and (cfg.augment or cfg.patch_size):
            from . import augmentations  # slow to load: when a training starts

            self.augment = augmentations.pipeline(cfg.augment, cfg.patch_height_width)
        self.table = normalisation_table(cfg.mean, cfg.std, cfg.in_channels)
        self.arrays: tuple[np.ndarray, np.ndarray] | None = None

    def plain(self) -> "SegmentationDataset":
        """The same images without augmentation, as they are needed for scores."""
        twin = copy.copy(self)
        twin.augment = None
        return twin

    def class_shares(self, n: int = 200) -> np.ndarray:
        """(classes,) float64: the share of each class in the pixels that are not ignored.

        It is estimated from up to `n` masks, spread evenly over the part; NaN for a class without
        any mask.
        """
        n_structure, n_valid = np.zeros((2, len(self.class_names)))
        # Compared with a mask (H, W, K): the class numbers with K = 1, or 1 with each plane.
        structure = np.arange(len(self.class_names)) if self.task == "multiclass" else 1
        for index in np.unique(np.linspace(0, len(self) - 1, n).round().astype(int)):
            mask = self.pixels(index)[1]  # (H, W, K)
            n_structure += (mask == structure).sum((0, 1))
            n_valid += (mask != IGNORE).sum((0, 1))  # a single plane counts for every class
        shares = np.full(len(self.class_names), np.nan)
        return np.divide(n_structure, n_valid, out=shares, where=n_valid > 0)

    def __len__(self) -> int:
        return len(self.cases)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": None}  # a spawned worker maps the files itself

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, index = divmod(int(number), len(self))
        image, mask = self.pixels(index)
        if self.augment is not None:
            seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0].item()
            self.augment.set_random_seed(seed)
            # As separate (H, W) masks: albumentations fills only those with 255 at the border.
            planes = list(mask.transpose(2, 0, 1))
            augmented = self.augment(image=image, masks=planes)
            image, mask = augmented["image"], np.stack(augmented["masks"], axis=-1)
        mask = torch.from_numpy(np.ascontiguousarray(mask.transpose(2, 0, 1)))  # (K, H, W)
        return {
            "image": torch.from_numpy(normalise(image, self.table)),
            "mask": mask[0] if self.task == "multiclass" else mask,
            "annotated": torch.from_numpy(self.annotated[index]),
            "index": index,
        }

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The stored image (H, W, C) and mask (H, W, K), uint8, without augmentation."""
        if self.arrays is None:
            self.arrays = self.store.open()
        images, masks = self.arrays
        return np.array(images[self.rows[index]]), np.array(masks[self.rows[index]])


class EpochSampler(Sampler):
    """All indices of a dataset, each plus `epoch * n`, as `SegmentationDataset` takes them.

    The order depends on seed and epoch only, so that a resumed run continues exactly like an
    uninterrupted one.
    """

    def __init__(self, n: int, seed: int, shuffle: bool):
        self.n, self.seed, self.shuffle, self.epoch = n, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.n)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        return iter((self.epoch * self.n + order).tolist())


def loaders(store, cfg) -> dict[str, DataLoader]:
    """{"train", "val", "test"} -> DataLoader of batches {image, mask, annotated, index}.

    A part may be empty. Only the training part is shuffled and augmented, both by `cfg.seed`. After
    an edit of this module make new loaders: running workers keep the code that they started with.

    Raises:
        DataError: what masks or voxels mean is undecided, see `DataReport.undecided`.
    """
    if store.report.undecided:
        raise DataError("\n".join(store.report.undecided))
    # Threads of OpenCV can deadlock in forked workers, and they take cores from the network.
    cv2.setNumThreads(0)
    result = {}
    for part in PARTS:
        training = part == "train"
        dataset = SegmentationDataset(store, part, cfg, training)
        n = len(dataset)
        workers = n_workers(cfg) if n else 0
        # Batch norm cannot train on one image: a last batch of one is left out.
        drop_last = training and n > 1 and n % cfg.batch_size == 1
        result[part] = DataLoader(
            dataset,
            batch_size=cfg.batch_size,
            sampler=EpochSampler(n, cfg.seed, shuffle=training),
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=hosts.choose_device(cfg.device) == "cuda",
            worker_init_fn=_start_worker if workers else None,
            persistent_workers=workers > 0,
        )
    return result


def n_workers(cfg) -> int:
    """The number of loader processes: `cfg.num_workers`, as far as cores and shared memory allow.

    "auto" takes all cores but one beside a GPU, and one core in eight where the CPU trains; at most
    8, and none where there are only two cores, which the network itself needs.
    """
    cores = hosts.n_cores()
    workers = cfg.num_workers
    if workers == "auto":
        spare = cores // 8 if hosts.choose_device(cfg.device) == "cpu" else cores - 1
        workers = 0 if cores <= 2 else min(8, spare)
    return min(workers, cores, _workers_that_fit(cfg))


def _workers_that_fit(cfg) -> float:
    """How many loader processes the shared memory has room for.

    When it is full, the system kills them.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # Windows and macOS pass batches in other ways
        return math.inf
    planes = 1 if cfg.task == "multiclass" else cfg.n_classes
    batch_bytes = cfg.batch_size * math.prod(cfg.height_width) * (4 * cfg.in_channels + planes)
    # Bytes of a float32 image and its uint8 masks. Each process has up to four batches: two wait,
    # one is in use, one is on its way.
    return free // (4 * batch_bytes)


def _start_worker(worker: int) -> None:
    """Keep each loader process to one core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _annotated(cases, cfg) -> np.ndarray:
    """(n, classes) bool: which classes have a mask, from the mask columns or from `annotated`."""
    annotated = np.ones((len(cases), cfg.n_classes), bool)
    if cfg.task == "multiclass":
        if "annotated" in cases:
            cells = [set(str(cell).split(",")) for cell in cases["annotated"]]
            for k, name in enumerate(cfg.class_names):
                annotated[:, k] = [name in names for names in cells]
        return annotated
    for k, name in enumerate(cfg.class_names):
        if name not in cases:
            raise DataError(
                f"store: no mask column {name!r} for that class; found {list(cases.columns)}; "
                "build the store anew"
            )
        annotated[:, k] = cases[name] != ""
    return annotated


# ---- normalisation


def normalisation_table(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> np.ndarray:
    """(channels, 256) float32: the normalised value of every byte, (byte / 255 - mean) / std."""
    # A single number stands for all channels.
    mean = np.broadcast_to(np.array(mean, np.float32), channels)[:, None]
    std = np.broadcast_to(np.array(std, np.float32), channels)[:, None]
    return ((np.arange(256, dtype=np.float32) / 255 - mean) / std).astype(np.float32)


def normalise(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (C, H, W) float32; every byte is looked up in a `normalisation_table`."""
    return np.stack([cv2.LUT(plane, values) for plane, values in zip(cv2.split(image), table)])
