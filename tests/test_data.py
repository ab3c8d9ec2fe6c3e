"""Batches: their form and normalisation; augmentation depends on seed, epoch and image only."""

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as tv

from seglib import config, data, hosts, layouts, prepare
from seglib.errors import DataError
from tests.helpers import PALM_CLASSES, hand_store, multilabel_store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def lung(lung_tree, tmp_path_factory):
    """(store, cfg) of the lung phantoms: 9 training, 3 validation and 4 test images."""
    work = tmp_path_factory.mktemp("work")
    cfg = config.preset(
        "lung", "smoke", data_root=str(lung_tree), work_dir=str(work), test_split=4, val_split=3
    )
    return prepare.build(layouts.scan(cfg), cfg), cfg


def palm(**overrides):
    return config.preset("palm", "smoke", **{"batch_size": 2, "augment": {}, **overrides})


# ---- the form of a batch


def test_binary_batch(lung):
    store, cfg = lung
    batches = data.loaders(store, cfg)
    assert list(batches) == ["train", "val", "test"]
    assert [len(loader.dataset) for loader in batches.values()] == [9, 3, 4]
    batch = next(iter(batches["test"]))
    assert list(batch) == ["image", "mask", "annotated", "index"]
    assert batch["image"].shape == (4, 1, 64, 64) and batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (4, 1, 64, 64) and batch["mask"].dtype == torch.uint8
    assert set(batch["mask"].unique().tolist()) == {0, 1}  # stretched: no padding
    assert batch["annotated"].tolist() == [[True]] * 4 and batch["annotated"].dtype == torch.bool
    assert batch["index"].tolist() == [0, 1, 2, 3] and batch["index"].dtype == torch.int64


def test_multilabel_batch_knows_which_masks_are_missing(tmp_path):
    store = multilabel_store(tmp_path / "store")
    batch = next(iter(data.loaders(store, palm(batch_size=4))["test"]))
    assert batch["image"].shape == (2, 3, 64, 64) and batch["mask"].shape == (2, 3, 64, 64)
    assert batch["annotated"].tolist() == [[True, True, True], [True, False, True]]  # cases 7 and 8
    missing = batch["mask"][~batch["annotated"]]
    assert missing.shape == (1, 64, 64) and (missing == 255).all()
    planes = batch["mask"][batch["annotated"]]
    assert (planes[:, :8] == 255).all() and (planes[:, -8:] == 255).all()
    assert set(planes[:, 8:-8].unique().tolist()) == {0, 1}
    assert data.loaders(store, palm())["val"].dataset.annotated.tolist() == [
        [False] * 3,
        [True, False, True],
    ]


def test_multiclass_batch_is_a_label_map(tmp_path):
    rng = np.random.default_rng(0)
    images, masks = (
        rng.integers(0, 256, (4, 64, 64, 1), np.uint8),
        rng.integers(0, 4, (4, 64, 64, 1), np.uint8),
    )
    masks[:, :5] = 255
    store = hand_store(tmp_path / "store", images, masks, ["train"] * 4, ("labels",))
    cfg = config.preset("cardiac", "smoke", architecture="unet", augment={}, patch_size=None)
    loader = data.loaders(store, cfg)["train"]
    batch = next(iter(loader))
    assert batch["mask"].shape == (4, 64, 64) and batch["mask"].dtype == torch.uint8
    assert batch["annotated"].tolist() == [[True] * 4] * 4
    assert torch.equal(batch["mask"], torch.from_numpy(masks[batch["index"].numpy(), ..., 0]))

    store.cases["annotated"] = [
        "background,myocardium",
        "background",
        "",
        ",".join(cfg.class_names),
    ]
    expected = [[True, False, True, False], [True, False, False, False], [False] * 4, [True] * 4]
    assert data.loaders(store, cfg)["train"].dataset.annotated.tolist() == expected


def test_pixels_of_classes_that_are_not_annotated_are_ignored(tmp_path):
    """So one network can learn from data sets that label only some of its organs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, 64, 64), np.uint8)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"image{i}.png")
        Image.fromarray(labels[i]).save(tmp_path / f"labels{i}.png")
    table = {"case": ["a", "b"], "patient": ["a", "b"], "split": "test"}
    table |= {
        name: [str(tmp_path / f"{name}{i}.png") for i in range(2)] for name in ("image", "labels")
    }
    cfg = config.preset(
        "cardiac", "smoke", architecture="unet", work_dir=str(tmp_path / "work"), batch_size=2
    )
    partly = ["background,myocardium", ",".join(cfg.class_names)]
    store = prepare.build(pd.DataFrame({**table, "annotated": partly}), cfg)
    mask = next(iter(data.loaders(store, cfg)["test"]))["mask"].numpy()
    np.testing.assert_array_equal(mask[1], labels[1])
    np.testing.assert_array_equal(mask[0], np.where(np.isin(labels[0], (0, 2)), labels[0], 255))


def test_a_store_without_the_class_is_an_error(tmp_path):
    store = multilabel_store(tmp_path / "store")
    with pytest.raises(DataError, match="'fovea'.*disc"):
        data.loaders(store, palm(class_names=("atrophy", "fovea", "disc")))


def test_an_empty_part_is_an_empty_loader(tmp_path):
    store = multilabel_store(tmp_path / "store")
    store.cases["split"] = "train"
    for workers in (0, 2):
        batches = data.loaders(store, palm(num_workers=workers))
        assert [len(loader.dataset) for loader in batches.values()] == [9, 0, 0]
        assert [len(loader) for loader in batches.values()][1:] == [0, 0]
        assert list(batches["val"]) == list(batches["test"]) == []


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(9, 4, [4, 4]), (8, 4, [4, 4]), (7, 4, [4, 3]), (1, 4, [1])]
)
def test_no_training_batch_of_one(tmp_path, n, batch_size, sizes):
    """Batch norm takes no mean of one value; nothing is dropped from the other parts."""
    store = multilabel_store(tmp_path / "store")
    store.cases = store.cases.head(n).assign(split="train")
    loader = data.loaders(store, palm(batch_size=batch_size))["train"]
    assert [len(batch["index"]) for batch in loader] == sizes and len(loader) == len(sizes)
    store.cases = store.cases.assign(split="test")
    seen = [
        batch["index"].tolist()
        for batch in data.loaders(store, palm(batch_size=batch_size))["test"]
    ]
    assert sum(seen, []) == list(range(n))


# ---- normalisation


@pytest.mark.parametrize(
    ("mean", "std", "channels"),
    [((0.5,), (0.25,), 1), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3), ((0.1,), (2.0,), 3)],
)
def test_normalisation_is_torchvisions(mean, std, channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    normalised = data.normalise(image, data.normalisation_table(mean, std, channels))
    wide = [list(np.broadcast_to(v, channels)) for v in (mean, std)]
    expected = tv.normalize(tv.to_dtype(tv.to_image(image), torch.float32, scale=True), *wide)
    assert normalised.dtype == np.float32 and normalised.shape == (channels, 9, 7)
    np.testing.assert_allclose(normalised, expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalisation_of_any_view_is_the_table(channels):
    rng = np.random.default_rng(0)
    image, table = (
        rng.integers(0, 256, (9, 8, channels), np.uint8),
        rng.random((channels, 256), np.float32),
    )
    for view in (image, image[::-1], image[:, ::-2], image[2:7, 1:4], image.transpose(1, 0, 2)):
        expected = [table[c][view[..., c]] for c in range(channels)]
        np.testing.assert_array_equal(data.normalise(view, table), expected)


def test_batches_hold_the_normalised_store(lung):
    store, cfg = lung
    images, masks = store.open()
    for batch in data.loaders(store, cfg)["val"]:
        rows = store.cases[store.cases["split"] == "val"]["row"].to_numpy()[batch["index"].numpy()]
        expected = (images[rows].transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(batch["image"].numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(batch["mask"].numpy(), masks[rows].transpose(0, 3, 1, 2))


# ---- the same items however many processes load them

AUGMENT = {
    "hflip": 0.5,
    "rotate": {"limit": 40, "p": 0.9},
    "gauss_noise": 0.9,
    "coarse_dropout": 0.5,
}


def passes(loader, epochs=(0, 1)):
    """What a loader gives in these epochs: a list of batches for each."""
    batches = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        batches.append(list(loader))
    return batches


def same(first, second):
    return all(
        torch.equal(a[key], b[key])
        for one, two in zip(first, second)
        for a, b in zip(one, two)
        for key in a
    )


@pytest.fixture(scope="module")
def without_workers(lung):
    store, cfg = lung
    return passes(data.loaders(store, cfg.replace(augment=AUGMENT, num_workers=0))["train"])


@pytest.mark.parametrize("workers", [1, 2])
def test_items_do_not_depend_on_the_number_of_workers(lung, without_workers, workers, monkeypatch):
    monkeypatch.setattr(hosts, "n_cores", lambda: 4)
    store, cfg = lung
    loader = data.loaders(store, cfg.replace(augment=AUGMENT, num_workers=workers))["train"]
    assert loader.num_workers == workers
    np.random.seed(123)  # nothing global may leak in
    torch.manual_seed(123)
    epochs = passes(loader)
    assert [len(batches) for batches in epochs] == [2, 2] and same(epochs, without_workers)


def test_items_are_the_same_in_spawned_workers(lung, without_workers):
    store, cfg = lung
    cfg = cfg.replace(augment=AUGMENT)
    train = data.loaders(store, cfg)["train"]
    train.dataset[0]  # its arrays are open now and must not travel
    loader = DataLoader(
        train.dataset,
        batch_size=4,
        sampler=train.sampler,
        drop_last=True,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert same(passes(loader, epochs=(1,)), without_workers[1:])


def test_an_item_depends_on_seed_epoch_and_index_only(lung, without_workers):
    store, cfg = lung
    dataset = data.loaders(store, cfg.replace(augment=AUGMENT, batch_size=2))["train"].dataset
    for epoch in (1, 0):
        for batch in reversed(without_workers[epoch]):
            for k, index in enumerate(batch["index"].tolist()):
                item = dataset[epoch * len(dataset) + index]
                assert item["index"] == index and torch.equal(item["image"], batch["image"][k])
                assert torch.equal(item["mask"], batch["mask"][k])
    other = data.loaders(store, cfg.replace(augment=AUGMENT, seed=cfg.seed + 1))["train"].dataset
    different = [
        not torch.equal(other[i]["image"], dataset[i]["image"]) for i in range(len(dataset))
    ]
    assert sum(different) >= 8


def test_epochs_differ_in_order_and_augmentation(lung, without_workers):
    store, cfg = lung
    dataset = data.loaders(store, cfg.replace(augment=AUGMENT))["train"].dataset
    n = len(dataset)
    different = [not torch.equal(dataset[i]["image"], dataset[n + i]["image"]) for i in range(n)]
    assert sum(different) >= 8
    orders = [
        [i for batch in batches for i in batch["index"].tolist()] for batches in without_workers
    ]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_training_sees_every_image_once_an_epoch():
    sampler = data.EpochSampler(9, seed=3, shuffle=True)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        numbers = list(sampler)
        assert len(sampler) == 9 and {divmod(k, 9)[0] for k in numbers} == {epoch}
        assert sorted(k % 9 for k in numbers) == list(range(9))
        again = data.EpochSampler(9, seed=3, shuffle=True)
        again.set_epoch(epoch)
        assert list(again) == numbers


# ---- patches


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        (128, 1.0, None),
        ([128, 128], 0.75, (96, 96)),
        (64, 0.75, (32, 32)),
        ((256, 320), 0.5, (128, 160)),
        (100, 0.99, (96, 96)),
        (48, 0.3, (32, 32)),
        (20, 0.5, (20, 20)),
    ],
)
def test_older_configs_say_the_patch_as_a_share(size, crop, expected):
    saved = {"preset": "lung", "size": "small", "image_size": size, "crop": crop, "seed": 3}
    cfg = config.from_dict(saved)
    assert cfg.patch_height_width == expected and cfg.split_seed == 3


# ---- shares of the classes


def test_class_shares_are_those_of_pixels_that_are_not_ignored(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.choice(4, (5, 64, 64, 1), p=[0.7, 0.2, 0.1, 0.0]).astype(np.uint8)
    masks[:, :20] = 255
    store = hand_store(tmp_path / "a", masks, masks, ["train"] * 4 + ["val"], ("labels",))
    dataset = data.loaders(store, config.preset("cardiac", "smoke"))["train"].dataset
    valid = masks[:4, 20:]
    assert dataset.class_shares() == pytest.approx([(valid == k).mean() for k in range(4)])
    dots = masks[..., :1] == 1
    assert dataset.class_shares(1) == pytest.approx([(masks[0, 20:] == k).mean() for k in range(4)])

    planes = np.concatenate([dots, masks == 2, masks == 0], axis=-1).astype(np.uint8)
    missing = [(i, "detachment") for i in range(4)] + [(0, "atrophy")]
    store = hand_store(
        tmp_path / "b",
        np.repeat(masks, 3, -1),
        planes,
        ["train"] * 4 + ["val"],
        PALM_CLASSES,
        missing,
    )
    shares = data.loaders(store, palm())["train"].dataset.class_shares()
    assert np.isnan(shares[1])
    assert shares[[0, 2]] == pytest.approx([planes[1:4, ..., 0].mean(), planes[:4, ..., 2].mean()])


@pytest.mark.parametrize("part", ["val", "test"])
def test_only_training_is_shuffled_and_augmented(lung, part):
    store, cfg = lung
    loader = data.loaders(store, cfg.replace(augment={**AUGMENT, "vflip": 1.0}))[part]
    assert loader.dataset.augment is None
    images, _ = store.open()
    table = data.normalisation_table(cfg.mean, cfg.std, 1)
    for batches in passes(loader, epochs=(0, 5)):
        assert [i for batch in batches for i in batch["index"].tolist()] == list(
            range(len(loader.dataset))
        )
        rows = loader.dataset.rows
        expected = np.stack([data.normalise(images[row], table) for row in rows])
        np.testing.assert_array_equal(
            torch.cat([batch["image"] for batch in batches]).numpy(), expected
        )


def test_a_dataset_travels_small(tmp_path):
    """A spawned worker gets paths, not pixels."""
    n = 500
    images, masks = np.zeros((n, 64, 64, 3), np.uint8), np.zeros((n, 64, 64, 3), np.uint8)
    store = hand_store(tmp_path / "store", images, masks, ["train"] * n, PALM_CLASSES)
    dataset = data.loaders(store, palm(augment=AUGMENT))["train"].dataset
    first = dataset[3]
    assert images.nbytes > 6e6
    packed = pickle.dumps(dataset)
    assert len(packed) < 1e6
    copy = pickle.loads(packed)
    assert torch.equal(copy[3]["image"], first["image"]) and len(copy) == n


# ---- workers


def test_number_of_workers(monkeypatch):
    cfg = config.preset("lung", "smoke", num_workers=16, device="cpu")
    monkeypatch.setattr(hosts, "n_cores", lambda: 6)
    assert data.n_workers(cfg) == 6
    assert data.n_workers(cfg.replace(num_workers=2)) == 2
    assert data.n_workers(cfg.replace(num_workers="auto")) == 0  # the network needs the cores
    monkeypatch.setattr(hosts, "choose_device", lambda asked: "cpu" if asked == "cpu" else "cuda")
    assert data.n_workers(cfg.replace(num_workers="auto", device="auto")) == 5
    monkeypatch.setattr(hosts, "n_cores", lambda: 64)
    assert data.n_workers(cfg.replace(num_workers="auto", device="auto")) == 8
    assert data.n_workers(cfg.replace(num_workers="auto")) == 8  # one of eight
    monkeypatch.setattr(hosts, "n_cores", lambda: 2)
    assert data.n_workers(cfg.replace(num_workers="auto", device="auto")) == 0


def test_a_gpu_that_fails_gets_neither_workers_nor_pinned_memory(lung, monkeypatch):
    store, cfg = lung
    monkeypatch.setattr(hosts, "n_cores", lambda: 6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hosts, "choose_device", lambda asked: "cpu")
    loader = data.loaders(store, cfg.replace(num_workers="auto", device="auto"))["train"]
    assert loader.num_workers == 0 and not loader.pin_memory
    monkeypatch.setattr(hosts, "choose_device", lambda asked: "cuda")
    loader = data.loaders(store, cfg.replace(num_workers="auto", device="auto"))["train"]
    assert loader.num_workers == 5 and loader.pin_memory


@pytest.mark.parametrize("free, workers", [(1e12, 4), (64e6, 0), (300e6, 2), (None, 4)])
def test_small_shared_memory_leaves_room_for_few_workers(monkeypatch, free, workers):
    """A container has 64 MB by default; None: a system without such a folder."""

    def disk_usage(folder):
        assert folder == "/dev/shm"
        if free is None:
            raise FileNotFoundError(folder)
        return SimpleNamespace(free=int(free))

    monkeypatch.setattr(hosts, "n_cores", lambda: 16)
    monkeypatch.setattr(data.shutil, "disk_usage", disk_usage)
    cfg = config.preset("palm", "full", image_size=512, batch_size=8, num_workers=4)
    assert data.n_workers(cfg) == workers


def test_batches_come_with_hardly_any_shared_memory(lung, tmp_path):
    """A real /dev/shm of 64 kB, in its own mount namespace: two workers would be killed there."""
    store, cfg = lung
    script = f"""
import pickle, sys
from seglib import data
store, cfg = pickle.load(open({str(tmp_path / "lung.pickle")!r}, "rb"))
print(sum(len(batch["image"]) for batch in data.loaders(store, cfg)["train"]))
"""
    (tmp_path / "lung.pickle").write_bytes(pickle.dumps((store, cfg.replace(num_workers=2))))
    mount = "mount -t tmpfs -o size=64k shm /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no right to a mount namespace here")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, script]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0 and int(process.stdout) > 0, process.stderr


def test_opencv_keeps_to_one_thread(lung):
    cv2.setNumThreads(4)
    data.loaders(*lung)
    assert cv2.getNumThreads() <= 1
