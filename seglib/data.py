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

from . import copy_paste, hosts, patches
from .errors import DataError
from .formats import channels, images
from .formats.images import IGNORE

PARTS = ("train", "val", "test")
# Loader processes pass batches through it; in a container it has only 64 MB by default.
SHARED_MEMORY = "/dev/shm"
# Pixels of the whole frames that are scored in one batch: one photograph of 16 megapixels.
PIXELS_AT_ONCE = 2**24


class SegmentationDataset(Dataset):
    """The images of one part of a store, normalised and, for training, augmented.

    An item is a dict: image (C, H, W) float32; mask uint8, (K, H, W), or (H, W) for multiclass,
    255 = ignored; annotated (classes,) bool; index, the row in `cases`. It is a whole frame, or a
    patch of one: for training with `cfg.patch_size` an image has `cfg.patches_per_image` items.
    `__getitem__` takes the number `epoch * len + item`, because the place of the patch and the
    augmentation depend on `cfg.seed`, epoch and item only, never on how many workers there are or
    on which of them loads the item.
    """

    def __init__(self, store, part: str, cfg, training: bool = False):
        self.store, self.part, self.task, self.seed = store, part, cfg.task, cfg.seed
        self.cases = store.cases[store.cases["split"] == part].reset_index(drop=True)
        self.rows = self.cases["row"].to_numpy(np.int64)
        self.class_names = tuple(cfg.class_names)
        self.annotated = _annotated(self.cases, cfg)
        self.channels = _channels(self.cases)
        self.resize, self.patch, self.region = cfg.resize, None, None
        self.items_per_image = 1
        self.tiles: list[patches.Tile] | None = None
        if training and cfg.patch_size:
            self.patch = cfg.patch_height_width
            self.region = patches.region(cfg.augment, self.patch, cfg.height_width)
            self.items_per_image = cfg.patches_per_image
        self.augment, self.copy_paste = None, None
        if training and "copy_paste" in cfg.augment:
            value = cfg.augment["copy_paste"]
            parameters = value if isinstance(value, dict) else {"p": value}
            self.copy_paste = copy_paste.CopyPaste(**{"p": 1.0, **parameters})
        if training and cfg.augment:
            from . import augmentations  # slow to load: when a training starts

            self.augment = augmentations.pipeline(cfg.augment, self.patch)
        self.table = normalisation_table(cfg.mean, cfg.std, cfg.input_channels)
        self.arrays: tuple[np.ndarray, np.ndarray] | None = None
        self.positions: dict[int, dict[int, np.ndarray]] = {}

    def plain(self) -> "SegmentationDataset":
        """The same images as whole frames without augmentation, as they are needed for scores."""
        twin = copy.copy(self)
        twin.augment = twin.copy_paste = twin.patch = twin.region = twin.tiles = None
        twin.items_per_image = 1
        return twin

    def tiled(self, sides: tuple[int, int], n_tiles: int) -> "SegmentationDataset":
        """The same images as tiles without augmentation; `index` tells the image of each tile.

        The tiles of an image count every pixel once: where two overlap, the mask of the second is
        255. Where these are more than about `n_tiles` in all, every image has as many tiles, half
        of them with a structure, but at least one.
        """
        twin = self.plain()
        twin.patch, twin.tiles = sides, []
        n_of_image = max(1, n_tiles // max(1, len(self.cases)))
        for index in range(len(self.cases)):
            frame = twin.frame
            candidates = patches.tiles(index, twin.box(index), frame, sides)
            if len(candidates) > n_of_image:
                of_classes = twin.class_positions(index)
                candidates = patches.choose(candidates, n_of_image, of_classes, frame, sides)
            twin.tiles += candidates
        return twin

    def class_shares(self, n: int = 200) -> np.ndarray:
        """(classes,) float64: the share of each class in the pixels that are not ignored.

        It is estimated from up to `n` masks, spread evenly over the part; NaN for a class without
        any mask.
        """
        n_structure, n_valid = np.zeros((2, len(self.class_names)))
        # Compared with a mask (H, W, K): the class numbers with K = 1, or 1 with each plane.
        structure = np.arange(len(self.class_names)) if self.task == "multiclass" else 1
        for index in np.unique(np.linspace(0, len(self.cases) - 1, n).round().astype(int)):
            mask = self.pixels(index)[1]  # (H, W, K)
            n_structure += (mask == structure).sum((0, 1))
            n_valid += (mask != IGNORE).sum((0, 1))  # a single plane counts for every class
        shares = np.full(len(self.class_names), np.nan)
        return np.divide(n_structure, n_valid, out=shares, where=n_valid > 0)

    def __len__(self) -> int:
        if self.tiles is not None:
            return len(self.tiles)
        return len(self.cases) * self.items_per_image

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker maps the files itself.
        return {**self.__dict__, "arrays": None, "positions": {}}

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, item = divmod(int(number), len(self))
        index, image, mask = self.part_of_image(item, epoch)
        if self.copy_paste is not None:
            self._paste(index, image, mask, np.random.default_rng([self.seed, epoch, item, 1]))
        if self.augment is not None:
            seed = np.random.SeedSequence([self.seed, epoch, item]).generate_state(1)[0].item()
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

    def part_of_image(self, item: int, epoch: int = 0) -> tuple[int, np.ndarray, np.ndarray]:
        """The row in `cases`, image (H, W, C) and mask (H, W, K) of an item before augmentation.

        For a patch, what its augmentation needs around it is still there.
        """
        if self.tiles is not None:
            tile = self.tiles[item]
            image, mask = self._cut(tile.index, tile.top, tile.left, self.patch)
            mask[: tile.rows] = mask[:, : tile.columns] = IGNORE
            return tile.index, image, mask
        index = item % len(self.cases)
        if self.patch is None:
            return index, *self.pixels(index)
        rng = np.random.default_rng([self.seed, epoch, item])
        of_classes = self.class_positions(index)
        corner = patches.draw(of_classes, self.box(index), self.frame, self.patch, rng)
        margins = [(outer - inner) // 2 for outer, inner in zip(self.region, self.patch)]
        top, left = (start - margin for start, margin in zip(corner, margins))
        return index, *self._cut(index, top, left, self.region)

    def _paste(
        self, index: int, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Paste structures of another image of this part, by `cfg.augment["copy_paste"]`."""
        settings = self.copy_paste
        if rng.random() >= settings.p or len(self.cases) < 2:
            return
        other = (index + 1 + int(rng.integers(len(self.cases) - 1))) % len(self.cases)
        of_classes = self.class_positions(other)
        classes = [k for k in sorted(of_classes) if self.annotated[index][k]]
        if not classes:
            return
        sides = image.shape[0] // 2, image.shape[1] // 2
        for _ in range(rng.integers(1, int(settings.structures) + 1)):
            k = classes[rng.integers(len(classes))]
            row, column = divmod(int(rng.choice(of_classes[k])), self.frame[1])
            donor = self._cut(other, row - sides[0] // 2, column - sides[1] // 2, sides)
            copy_paste.paste(image, mask, donor, k, self.task, settings.softness, rng)

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The stored image (H, W, C) and mask (H, W, K), uint8, without augmentation."""
        pictures, masks = self._open()
        return np.array(pictures[self.rows[index]]), np.array(masks[self.rows[index]])

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of the stored images."""
        return self._open()[0].shape[1:3]

    @property
    def n_channels(self) -> int:
        """Channels of the stored images."""
        return self._open()[0].shape[3]

    @property
    def n_planes(self) -> int:
        """Planes of a stored mask: one for each class, or one in all for multiclass."""
        return self._open()[1].shape[3]

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Where an image lies in its frame: top, left, height, width; the rest is padding."""
        case = self.cases.iloc[index]
        return images.fit_box((int(case["height"]), int(case["width"])), self.frame, self.resize)

    def class_positions(self, index: int) -> dict[int, np.ndarray]:
        """`patches.positions` of an image; they are remembered."""
        if index not in self.positions:
            mask = self._open()[1][self.rows[index]]
            self.positions[index] = patches.positions(mask, self.task, index)
        return self.positions[index]

    def _open(self) -> tuple[np.ndarray, np.ndarray]:
        if self.arrays is None:
            self.arrays = self.store.open()
        return self.arrays

    def _cut(
        self, index: int, top: int, left: int, sides: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        pictures, masks = self._open()
        row = self.rows[index]
        image = patches.cut(pictures[row], top, left, sides, fill=0)
        return image, patches.cut(masks[row], top, left, sides, fill=IGNORE)


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
    return {
        part: _loader(SegmentationDataset(store, part, cfg, part == "train"), cfg, part == "train")
        for part in PARTS
    }


def _loader(dataset: SegmentationDataset, cfg, training: bool) -> DataLoader:
    n = len(dataset)
    workers = n_workers(cfg, dataset.patch) if n else 0
    # Batch norm cannot train on one image: a last batch of one is left out.
    drop_last = training and n > 1 and n % cfg.batch_size == 1
    return DataLoader(
        dataset,
        batch_size=cfg.batch_size,
        sampler=EpochSampler(n, cfg.seed, shuffle=training),
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=hosts.choose_device(cfg.device) == "cuda",
        worker_init_fn=_start_worker if workers else None,
        persistent_workers=workers > 0,
    )


def for_validation(batches: dict[str, DataLoader], cfg) -> DataLoader:
    """The loader by which training validates: `batches["val"]`, or tiles of its images.

    A network that is trained by patches sees tiles of that size. They are at most as many as cost
    half of an epoch's training, as a step that also computes gradients takes three times as long.
    """
    loader = batches["val"]
    if cfg.patch_size is None or not len(loader.dataset):
        return loader
    n_tiles = math.ceil(1.5 * len(batches["train"].dataset))
    return _loader(loader.dataset.tiled(cfg.patch_height_width, n_tiles), cfg, training=False)


def whole_frames(dataset: SegmentationDataset, loader: DataLoader, order: list[int]) -> DataLoader:
    """Batches of whole frames for scores, in this order; fewer images each where they are large.

    Args:
        dataset: that of `loader` without augmentation, `SegmentationDataset.plain`.
    """
    n_pixels = math.prod(dataset.frame)
    batch_size = max(1, min(loader.batch_size, PIXELS_AT_ONCE // n_pixels))
    n_bytes = batch_size * n_pixels * _bytes_per_pixel(len(dataset.table), dataset.n_planes)
    workers = int(min(loader.num_workers, _workers_that_fit(n_bytes)))
    return DataLoader(dataset, batch_size, sampler=order, num_workers=workers)


def n_workers(cfg, sides: tuple[int, int] | None = None) -> int:
    """The number of loader processes: `cfg.num_workers`, as far as cores and shared memory allow.

    "auto" takes all cores but one beside a GPU, and one core in eight where the CPU trains; at most
    8, and none where there are only two cores, which the network itself needs.

    Args:
        sides: (height, width) of the images of a batch, by default whole frames.
    """
    cores = hosts.n_cores()
    workers = cfg.num_workers
    if workers == "auto":
        spare = cores // 8 if hosts.choose_device(cfg.device) == "cpu" else cores - 1
        workers = 0 if cores <= 2 else min(8, spare)
    planes = 1 if cfg.task == "multiclass" else cfg.n_classes
    n_pixels = cfg.batch_size * math.prod(sides or cfg.height_width)
    n_bytes = n_pixels * _bytes_per_pixel(cfg.input_channels, planes)
    return min(workers, cores, _workers_that_fit(n_bytes))


def _bytes_per_pixel(channels: int, planes: int) -> int:
    """Bytes of a pixel of a float32 image and its uint8 masks."""
    return 4 * channels + planes


def _workers_that_fit(batch_bytes: int) -> float:
    """How many loader processes the shared memory has room for, with batches of so many bytes.

    When it is full, the system kills them.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # Windows and macOS pass batches in other ways
        return math.inf
    # Each process has up to four batches: two wait, one is in use, one is on its way.
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


def _channels(cases) -> tuple[str, ...]:
    """The names of the channels of all cases, see `prepare.build`; () where they have none."""
    cells = cases["channels"] if "channels" in cases else []
    return channels.names_of(cells[0]) if len(cells) else ()


# ---- normalisation


def normalisation_table(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> np.ndarray:
    """(channels, 256) float32: the normalised value of every byte, (byte / 255 - mean) / std."""
    # A single number stands for all channels, and the numbers of an image for each of its slices.
    mean = np.tile(np.array(mean, np.float32), channels // len(mean))[:, None]
    std = np.tile(np.array(std, np.float32), channels // len(std))[:, None]
    return ((np.arange(256, dtype=np.float32) / 255 - mean) / std).astype(np.float32)


def normalise(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (C, H, W) float32; every byte is looked up in a `normalisation_table`."""
    return np.stack([cv2.LUT(plane, values) for plane, values in zip(cv2.split(image), table)])
