"""The input pipeline: the prepared store beside decoding in every epoch and beside MONAI's cache,
what augmentation costs, and the share of an epoch that training waits for its batches.
"""

import math
import tempfile
from functools import partial
from pathlib import Path

import cv2
import monai.data
import monai.transforms as mt
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from seglib import config, data, layouts, phantoms, prepare, training
from seglib.formats import images
from tests.benchmarks.timing import by_turns

SIDE = 256


def rows() -> list[dict]:
    """All timings of this group."""
    return [*reading(), normalising(), *augmenting("lung"), *augmenting("binary"), *waiting()]


# ---- reading


def reading(n: int = 64, side: int = 1024, rounds: int = 5) -> list[dict]:
    """Seconds an image of one pass over the training loader, without augmentation and without
    loader processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = enlarged(Path(folder), n + 1, side)
        cfg = config.preset(
            "lung",
            "full",
            image_size=SIDE,
            augment={},
            test_split=0.0,
            val_split=1 / (n + 1),
            num_workers=0,
            device="cpu",
            data_root=str(tree),
            work_dir=folder,
        )
        loader = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)["train"]
        cases = loader.dataset.cases
        jpegs = [str(Path(folder, "jpeg", f"{case}.jpg")) for case in cases["case"]]
        passes = {"ours": loader, **peers(cfg, cases["image"], jpegs, cases["lung"])}
        seconds = by_turns(
            {name: partial(each_batch, batches) for name, batches in passes.items()}, rounds
        )
    stored, written = (
        SIDE * SIDE * 2,
        SIDE * SIDE * (4 + 1),
    )  # image and mask in bytes; image in float32, mask in bytes
    task = f"input pipeline: an image of {SIDE}x{SIDE} from the store, batch {cfg.batch_size}"
    return [
        {
            "task": task,
            "seconds": seconds["ours"] / n,
            "peer": peer,
            "peer_seconds": seconds[peer] / n,
            "rounds": rounds,
            "work": stored + written,
            "limit": "copy",
        }
        for peer in passes
        if peer != "ours"
    ]


def enlarged(folder: Path, n: int, side: int) -> Path:
    """X-rays of `side` pixels with the grain of a detector, one mask each, as PNG; and the pictures
    as JPEG beside.
    """
    source = phantoms.write("lung", folder / "phantoms", n=n) / "MontgomerySet"
    (folder / "jpeg").mkdir()
    rng = np.random.default_rng(0)
    for path in sorted((source / "CXR_png").glob("*.png")):
        picture = cv2.resize(
            cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (side, side), interpolation=cv2.INTER_CUBIC
        )
        picture = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        masks = [
            cv2.imread(str(source / "ManualMask" / half / path.name), 0)
            for half in ("leftMask", "rightMask")
        ]
        mask = cv2.resize(np.maximum(*masks), (side, side), interpolation=cv2.INTER_NEAREST)
        images.write_png(folder / "tree" / "CXR_png" / path.name, picture)
        images.write_png(folder / "tree" / "masks" / path.name, mask)
        cv2.imwrite(str(folder / "jpeg" / f"{path.stem}.jpg"), picture)
    return folder / "tree"


def peers(cfg, pictures, jpegs, masks) -> dict[str, DataLoader]:
    """The same images through the usual data sets, in the same batches."""
    keys = ("image", "mask")
    loaded = mt.Compose(
        [
            mt.LoadImaged(keys),
            mt.EnsureChannelFirstd(keys),
            mt.Resized(keys, (SIDE, SIDE), mode=("area", "nearest")),
            mt.ScaleIntensityd(keys),
        ]
    )
    items = [{"image": picture, "mask": mask} for picture, mask in zip(pictures, masks)]
    cached = monai.data.CacheDataset(items, loaded, cache_rate=1.0, num_workers=1, progress=False)
    return {
        "decoding PNG in every epoch": DataLoader(
            Decoded(cfg, pictures, masks), cfg.batch_size, shuffle=True
        ),
        "decoding JPEG in every epoch": DataLoader(
            Decoded(cfg, jpegs, masks), cfg.batch_size, shuffle=True
        ),
        "MONAI CacheDataset": monai.data.DataLoader(
            cached, batch_size=cfg.batch_size, shuffle=True
        ),
    }


class Decoded(Dataset):
    """The usual data set: files are decoded, resized and normalised whenever they are asked for."""

    def __init__(self, cfg, pictures, masks):
        self.pairs, self.mean, self.std = list(zip(pictures, masks)), cfg.mean[0], cfg.std[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        picture, mask = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in self.pairs[index])
        picture = (
            cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        )
        mask = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 127
        return {
            "image": torch.from_numpy((picture - self.mean) / self.std)[None],
            "mask": torch.from_numpy(mask.astype(np.uint8))[None],
        }


def each_batch(batches) -> None:
    """One pass."""
    for _ in batches:
        pass


def normalising(n: int = 16, rounds: int = 9) -> dict:
    """Bytes to a normalised batch: looked up image by image, as the loader does it, beside a batch
    of bytes that torch normalises where the network is. It decides where normalisation belongs.
    """
    cfg = config.preset("binary", "full", image_size=SIDE)
    table = data.normalisation_table(cfg.mean, cfg.std, cfg.in_channels)
    pictures = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, cfg.in_channels), np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.mean, cfg.std))
    normalised = {}

    def looked_up():
        normalised["ours"] = torch.stack(
            [torch.from_numpy(data.normalise(picture, table)) for picture in pictures]
        )

    def on_device():
        normalised["peer"] = (
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - mean
        ) / std

    seconds = by_turns({"ours": looked_up, "peer": on_device}, rounds)
    torch.testing.assert_close(normalised["ours"], normalised["peer"])
    work = SIDE * SIDE * cfg.in_channels * (1 + 4)
    return {
        "task": f"normalising in the loader, an image of {SIDE}x{SIDE}, {cfg.in_channels} channels",
        "seconds": seconds["ours"] / n,
        "peer": "a batch of bytes, normalised by torch on the device",
        "peer_seconds": seconds["peer"] / n,
        "rounds": rounds,
        "work": work,
        "limit": "copy",
    }


# ---- augmentation


def augmenting(name: str, n: int = 64, rounds: int = 5) -> list[dict]:
    """Seconds that the augmentation of a preset adds to an image, beside MONAI's nearest
    transforms.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = config.preset(
            name,
            "full",
            image_size=SIDE,
            test_split=0.0,
            val_split=1 / (n + 1),
            num_workers=0,
            device="cpu",
            work_dir=folder,
            data_root=str(phantoms.write(name, Path(folder) / "phantoms", n=n + 1)),
        )
        dataset = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)["train"].dataset
        plain, transform = dataset.plain(), nearest(name)
        transform.set_random_state(0)
        items = [
            {key: plain[index][key].float() for key in ("image", "mask")} for index in range(n)
        ]
        seconds = by_turns(
            {
                "augmented": lambda: [dataset[index] for index in range(n)],
                "plain": lambda: [plain[index] for index in range(n)],
                "monai": lambda: [transform(item) for item in items],
            },
            rounds,
        )
    frame = f"{SIDE}x{SIDE}, {cfg.in_channels} channels"
    task = f"augmentation of {name}, {frame}: what it adds to an image"
    return [
        {
            "task": task,
            "seconds": (seconds["augmented"] - seconds["plain"]) / n,
            "peer": "MONAI's nearest transforms",
            "peer_seconds": seconds["monai"] / n,
            "rounds": rounds,
            "work": 2 * SIDE * SIDE * (cfg.in_channels + 1),
            "limit": "copy",
        }
    ]


def nearest(name: str) -> mt.Compose:
    """What comes nearest to `cfg.augment` of a preset in MONAI, with the same probabilities."""
    keys, modes = ("image", "mask"), {"mode": ("bilinear", "nearest"), "padding_mode": "zeros"}
    across = mt.RandFlipd(keys, prob=0.5, spatial_axis=1)
    if name == "lung":
        return mt.Compose(
            [across, mt.RandRotated(keys, range_x=math.radians(10), prob=0.5, **modes)]
        )
    affine = {"rotate_range": math.radians(15), "scale_range": 0.1, "translate_range": 0.05 * SIDE}
    return mt.Compose(
        [
            across,
            mt.RandFlipd(keys, prob=0.5, spatial_axis=0),
            mt.RandRotate90d(keys, prob=0.5),
            mt.RandAffined(keys, prob=0.5, **affine, **modes),
            mt.RandAdjustContrastd("image", prob=0.3),
            mt.RandGaussianNoised("image", prob=0.2, std=0.05),
        ]
    )


# ---- waiting


def waiting() -> list[dict]:
    """The share of the training part of an epoch that `fit` waits for batches, with a large and a
    small network.
    """
    large = {"base_channels": 64, "batch_size": 4, "epochs": 2}
    return [
        waited("31 M U-Net", "full", 12, **large),
        waited("small network", "small", 24, epochs=3),
    ]


def waited(network: str, size: str, n: int, **overrides) -> dict:
    """Of the last epoch of a training with the lung preset at 256x256."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = config.preset(
            "lung",
            size,
            image_size=SIDE,
            test_split=0.0,
            val_split=1 / (n + 1),
            device="cpu",
            work_dir=folder,
            data_root=str(phantoms.write("lung", Path(folder) / "phantoms", n=n + 1)),
            **overrides,
        )
        last = training.fit(
            cfg, data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
        ).history.iloc[-1]
    share, seconds = float(last["waiting"]), 1 / last["images_per_second"]
    frame = f"{SIDE}x{SIDE}, batch {cfg.batch_size}"
    task = f"waiting for data, {share:.1%} of an epoch, {network}, {frame}, an image"
    return {"task": task, "seconds": share * seconds, "rounds": 1, "waiting": share}
