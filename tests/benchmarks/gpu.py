"""Training and prediction on a GPU: `fit` and `Predictor` beside a textbook loop with autocast,
same network and data.

Not among the groups that run without a name: `python -m tests.benchmarks gpu` where there is a GPU.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from seglib import config, data, layouts, phantoms, prepare, runs, training
from seglib.inference import Predictor
from tests.benchmarks import limits
from tests.benchmarks.timing import by_turns
from tests.benchmarks.training import Pairs, loop

NETWORKS = {
    "31 M U-Net": ("binary", 256, 128),
    "RSNA network": ("rsna", 512, 8),
}  # preset, side, pictures or volumes
EPOCHS = 3  # in the first ones cuDNN chooses its algorithms


def rows(device: str = "cuda", rounds: int = 3, **changes) -> list[dict]:
    """Seconds an image in the last epoch of training, and in prediction.

    The peak memory of the GPU stands in the task. `torch.compile` is left out: compiling these
    networks anew in every round takes longer than everything else together.
    """
    timings = []
    for name, (preset, side, n) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            fields = {
                "image_size": side,
                "batch_size": 32,
                "accumulate": 1,
                "encoder_weights": "none",
                **changes,
            }
            cfg = config.preset(
                preset, "full", device=device, epochs=EPOCHS, work_dir=folder, **fields
            )
            cfg.data_root = str(phantoms.write(preset, Path(folder) / "phantoms", n=n))
            batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
            about = f"{name}, {cfg.height_width[0]}x{cfg.height_width[1]}, batch {cfg.batch_size}"
            flop = limits.forward_work(runs.network(cfg, pretrained=False), cfg)
            timings.append(_training(cfg, batches, about, 3 * flop, rounds))
            timings.append(_prediction(cfg, about, flop, rounds))
    return timings


def _training(cfg, batches, about: str, flop: float, rounds: int) -> dict:
    train = batches["train"]
    loader = DataLoader(
        Pairs(train.dataset),
        cfg.batch_size,
        shuffle=True,
        num_workers=train.num_workers,
        persistent_workers=train.num_workers > 0,
        pin_memory=cfg.device == "cuda",
    )
    loss = nn.BCEWithLogitsLoss() if cfg.task == "binary" else _cross_entropy
    ours, textbook, memory, peer_memory = [], [], [], []
    for _ in range(rounds):
        _forget_peak(cfg.device)
        run = training.fit(cfg, batches)
        ours.append(1 / run.history["images_per_second"].iloc[-1])
        memory.append(_peak(cfg.device))

        _forget_peak(cfg.device)
        network = runs.network(cfg, pretrained=False)
        seconds = loop(network, loader, loss, cfg.lr, True, device=cfg.device, epochs=EPOCHS)
        textbook.append(seconds)
        peer_memory.append(_peak(cfg.device))
    precision = run.info["precision"]
    return {
        "task": f"training an image, {about}, {precision}, {max(memory):.1f} GB",
        "seconds": statistics.median(ours),
        "rounds": rounds,
        "peer": f"textbook loop, autocast, {max(peer_memory):.1f} GB",
        "peer_seconds": statistics.median(textbook),
        "work": flop,
        "limit": _limit(precision),
    }


def _cross_entropy(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, mask.long())


def _prediction(cfg, about: str, flop: float, rounds: int) -> dict:
    predictor = Predictor(runs.network(cfg, pretrained=False), cfg, cfg.device)
    bare = runs.network(cfg, pretrained=False).to(cfg.device).eval()
    batch = torch.rand(cfg.batch_size, cfg.in_channels, *cfg.height_width)

    @torch.inference_mode()
    def usual():
        with torch.autocast(cfg.device, torch.bfloat16):
            bare(batch.to(cfg.device))
        limits.wait(cfg.device)

    def ours():
        predictor.probabilities(batch)
        limits.wait(cfg.device)

    ours(), usual()
    seconds = by_turns({"ours": ours, "usual": usual}, rounds)
    each = {name: value / cfg.batch_size for name, value in seconds.items()}
    return {
        "task": f"predicting an image, {about}, {predictor.precision}",
        "seconds": each["ours"],
        "rounds": rounds,
        "peer": "the network in NCHW with autocast",
        "peer_seconds": each["usual"],
        "work": flop,
        "limit": _limit(predictor.precision),
    }


def _limit(precision: str) -> str:
    return "fp32" if precision == "fp32" else "bf16"  # fp16 has the rate of bf16


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float:
    """GB that this process had reserved on the GPU at most."""
    return torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else 0.0
