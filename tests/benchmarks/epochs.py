"""Whole epochs of the five presets on the CPU, and what happens as the pictures become more: time
and peak memory.

Each figure is taken in a process of its own, so that the memory is that of its work alone.
"""

import math
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from seglib import config, data, layouts, phantoms, prepare, presets, runs, training
from tests.benchmarks import children, limits

# Micro-batches that fit into 24 GB; all other numbers are those of the published systems.
FULL = {"batch_size": 4, "accumulate": 2}
VOLUMES = ("rsna", "cardiac")  # a phantom is a volume of at least eight slices


def rows() -> list[dict]:
    """All figures of this group."""
    small = [whole_epoch(name, "small", 24, 6) for name in presets.PRESETS]
    full = [whole_epoch(name, "full", 8, 2, **FULL) for name in presets.PRESETS]
    frugal = whole_epoch("lung", "full", 8, 2, **FULL, checkpointing=True)
    return [*small, *full, frugal, *growth()]


# ---- the five presets


def whole_epoch(name: str, size: str, n_train: int, n_val: int, **overrides) -> dict:
    """One epoch of a preset, validation included, by training image."""
    with tempfile.TemporaryDirectory() as folder:
        amounts = {"n_train": n_train, "n_val": n_val}
        epoch = children.call(
            "epochs",
            "train",
            name=name,
            size=size,
            work_dir=folder,
            overrides=overrides,
            **amounts,
        )
    sides = [epoch["height_width"], epoch["patch"]]
    frame = " in patches of ".join("x".join(map(str, side)) for side in sides if side)
    checkpointing = ", checkpointing" if overrides.get("checkpointing") else ""
    task = (
        f"a whole epoch, {name} {size}, {epoch['parameters'] / 1e6:.1f} M parameters, {frame}, "
        f"batch {epoch['batch']}, {epoch['precision']}{checkpointing}, "
        f"{epoch['peak_gb']:.1f} GB at most: a training image"
    )
    return {
        "task": task,
        "seconds": epoch["seconds"] / n_train,
        "rounds": 1,
        "peak_gb": epoch["peak_gb"],
        "work": epoch["work"] / n_train,
        "limit": epoch["precision"],
    }


def train(name: str, size: str, n_train: int, n_val: int, work_dir: str, overrides: dict) -> dict:
    """In the child: one epoch on phantoms, its seconds and floating-point operations."""
    cfg = config.preset(
        name,
        size,
        epochs=1,
        test_split=0.0,
        encoder_weights="none",
        num_workers=0,
        device="cpu",
        work_dir=work_dir,
        **overrides,
    )
    n = max(2, math.ceil((n_train + n_val) / 8)) if name in VOLUMES else n_train + n_val
    cfg.data_root = str(phantoms.write(name, Path(work_dir) / "phantoms", n=n))
    store = prepare.build(parts(layouts.scan(cfg), n_train, n_val), cfg)
    run = training.fit(cfg, data.loaders(store, cfg))
    peak = children.memory_gb("VmHWM")
    batch = f"{cfg.batch_size}"
    if cfg.accumulate > 1:
        batch += f" x {cfg.accumulate}"
    network = runs.network(cfg)
    patch_work, frame_work = (
        limits.forward_work(network, cfg, sides) for sides in (cfg.patch_height_width, None)
    )
    return {
        "seconds": run.history["seconds"].iloc[0],
        "precision": run.info["precision"],
        "peak_gb": peak,
        "parameters": run.info["parameters"],
        "height_width": cfg.height_width,
        "patch": cfg.patch_height_width,
        "batch": batch,
        "work": 3 * n_train * patch_work + n_val * frame_work,
    }


def parts(cases, n_train: int, n_val: int):
    """So many rows of the first patients as training part, and so many of the others as validation
    part.
    """
    patients = cases["patient"].unique()
    first = cases["patient"].isin(patients[: len(patients) * n_train // (n_train + n_val)])
    chosen = {"train": cases.index[first][:n_train], "val": cases.index[~first][:n_val]}
    for part, index in chosen.items():
        cases.loc[index, "split"] = part
    kept = cases.loc[chosen["train"].union(chosen["val"])]
    assert len(kept) == n_train + n_val, f"{len(kept)} phantoms of {n_train + n_val}"
    return kept


# ---- more and more pictures


def growth(counts: tuple[int, ...] = (100, 1000, 10_000)) -> list[dict]:
    """Preparing, reading and learning from so many pictures: seconds a picture, beside those of the
    fewest.

    The store's files are mapped by each part's data set, and count in its peak as far as their
    pages were touched; the system takes such pages back when it needs them. So the memory of the
    process itself is told too.
    """
    kinds = {
        "built": "prepare.build with scan",
        "read": "a pass over the training loader",
        "learnt": "the second epoch of fit",
    }
    figures: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for n in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder) / "tree", n)
            for kind in kinds:
                figures[kind].append(children.call("epochs", kind, folder=folder))
    result = []
    for kind, what in kinds.items():
        first = figures[kind][0]
        for n, now in zip(counts, figures[kind]):
            times = now["seconds"] / now["images"] / (first["seconds"] / first["images"])
            beside = f"{times:.2f} of the time with {counts[0]}, " if n > counts[0] else ""
            memory = f"{now['peak_gb']:.2f} GB at most, "
            memory += f"{now['own_gb']:.2f} GB without mapped files at the end"
            task = f"{what}, {n} pictures, 64x64, smoke network: {beside}{memory}, a picture"
            result.append(
                {
                    "task": task,
                    "seconds": now["seconds"] / now["images"],
                    "rounds": 1,
                    "peak_gb": now["peak_gb"],
                    "own_gb": now["own_gb"],
                }
            )
    return result


def write_pictures(folder: Path, n: int, side: int = 96) -> None:
    """Coloured pictures with a bright ellipse each, no two alike, and their masks, as the tree of
    `binary`.
    """
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(n):
        rng, mask = np.random.default_rng(number), np.zeros((side, side), np.uint8)
        centre, axes = (
            rng.integers(side // 3, 2 * side // 3, 2),
            rng.integers(side // 8, side // 4, 2),
        )
        cv2.ellipse(
            mask, centre.tolist(), axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 255, -1
        )
        ground = cv2.resize(
            rng.integers(0, 120, (8, 8, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(folder / "images" / f"{number:05d}.png"), ground + mask[..., None] // 2)
        cv2.imwrite(str(folder / "masks" / f"{number:05d}.png"), mask)


def settings(folder: str):
    """The smoke network on the tree in that folder, for two epochs: the first warms up."""
    return config.preset(
        "binary",
        "smoke",
        image_size=64,
        epochs=2,
        device="cpu",
        work_dir=folder,
        data_root=f"{folder}/tree",
    )


def built(folder: str) -> dict:
    """In the child: seconds of preparing the tree."""
    cfg = settings(folder)
    begun = time.perf_counter()
    store = prepare.build(layouts.scan(cfg), cfg)
    return {"seconds": time.perf_counter() - begun, "images": len(store.cases)}


def read(folder: str) -> dict:
    """In the child: seconds of all training batches, after one that warms up."""
    cfg = settings(folder)
    store = prepare.build(layouts.scan(cfg), cfg)
    loader = data.loaders(store, cfg)["train"]
    next(iter(loader))
    begun = time.perf_counter()
    n = sum(len(batch["index"]) for batch in loader)
    return {"seconds": time.perf_counter() - begun, "images": n}


def learnt(folder: str) -> dict:
    """In the child: seconds of the second epoch, validation included."""
    cfg = settings(folder)
    store = prepare.build(layouts.scan(cfg), cfg)
    batches = data.loaders(store, cfg)
    seconds = training.fit(cfg, batches).history["seconds"].iloc[-1]
    return {"seconds": seconds, "images": len(batches["train"].dataset)}
