"""Evaluation: AUC of many pixels, distances of masks, and whole reports."""

import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import sklearn.metrics
import torch
import torchmetrics.classification
from monai.metrics import compute_hausdorff_distance

from seglib import config, data, evaluation, metrics
from seglib.inference import Predictor
from tests.benchmarks.timing import by_turns
from tests.helpers import hand_store

BATCH = 1 << 20  # pixels of sixteen images of 256 x 256


def rows() -> list[dict]:
    """All timings of this group."""
    return [*auc(), *distances(), whole_report()]


def auc(millions: int = 100, rounds: int = 1) -> list[dict]:
    """The area under the ROC curve of scores as a network gives them, batch by batch where the peer
    can.
    """
    rng = np.random.default_rng(0)
    n = millions * 1_000_000
    truth = rng.random(n, np.float32) < 0.1
    logits = rng.standard_normal(n, np.float32) * 2 - 2 + np.float32(2.5) * truth
    prob = 1 / (1 + np.exp(-logits))
    del logits
    batches = [slice(start, start + BATCH) for start in range(0, n, BATCH)]
    areas = {}

    def ours():
        roc = metrics.HistogramROC()
        for part in batches:
            roc.update(prob[part], truth[part])
        areas["ours"] = roc.auc()

    def binned(thresholds):
        metric = torchmetrics.classification.BinaryAUROC(thresholds=thresholds)
        for part in batches:
            metric.update(torch.from_numpy(prob[part]), torch.from_numpy(truth[part]).int())
        areas[f"torchmetrics, {thresholds} thresholds"] = float(metric.compute())

    def scikit_learn():
        areas["scikit-learn"] = sklearn.metrics.roc_auc_score(truth, prob)

    peers = {"scikit-learn": scikit_learn}
    peers |= {f"torchmetrics, {n} thresholds": partial(binned, n) for n in (200, 1000)}
    rows = []
    for (
        peer,
        its,
    ) in (
        peers.items()
    ):  # ours anew beside each: they take minutes, in which the machine's speed changes
        seconds = by_turns({"ours": ours, peer: its}, rounds)
        error = {name: abs(areas[name] - areas["scikit-learn"]) for name in ("ours", peer)}
        task = f"AUC of {millions} million scores ({error['ours']:.0e} from the exact one)"
        rows.append(
            {
                "task": task,
                "seconds": seconds["ours"],
                "peer": peer,
                "peer_seconds": seconds[peer],
                "rounds": rounds,
                "peer_error": error[peer],
                "work": n * (prob.itemsize + truth.itemsize),
                "limit": "copy",
            }
        )
    return rows


def blobs(n: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truths and predictions (n, side, side) bool: smooth blobs, and the same displaced and
    deformed.
    """
    rng, pairs = np.random.default_rng(seed), []
    rows, columns = np.mgrid[:side, :side] / side
    for _ in range(n):
        centre, radius, waves = (
            rng.uniform(0.35, 0.65, 2),
            rng.uniform(0.1, 0.3),
            rng.uniform(0.01, 0.05, (2, 4)),
        )
        pair = []
        for wave in waves:
            angle = np.arctan2(rows - centre[0], columns - centre[1])
            edge = radius + sum(w * np.cos((k + 2) * angle + k) for k, w in enumerate(wave))
            pair.append(np.hypot(rows - centre[0], columns - centre[1]) < edge)
        pairs.append(pair)
    truth, pred = np.moveaxis(np.array(pairs), 1, 0)
    return truth, pred


def distances(rounds: int = 3) -> list[dict]:
    """HD95 of pairs of masks, by their side; MONAI gets what it wants, one-hot tensors (N, 1, H,
    W).
    """
    timings = []
    for side, n in ((256, 20), (512, 20), (1024, 5)):
        truth, pred = blobs(n, side)
        tensors = [torch.from_numpy(mask[:, None].astype(np.uint8)) for mask in (pred, truth)]
        values = {}

        def ours(truth=truth, pred=pred, values=values):
            values["ours"] = [metrics.surface_distances(p, t)["hd95"] for p, t in zip(pred, truth)]

        def monai(tensors=tensors, values=values):
            values["monai"] = compute_hausdorff_distance(
                *tensors, include_background=True, percentile=95
            )[:, 0]

        seconds = by_turns({"ours": ours, "monai": monai}, rounds)
        np.testing.assert_allclose(values["ours"], values["monai"], atol=1e-4)
        task = f"HD95 (ours: with average distance and NSD) of a pair of {side}x{side} masks"
        timings.append(
            {
                "task": task,
                "seconds": seconds["ours"] / n,
                "peer": "MONAI (HD95 alone)",
                "peer_seconds": seconds["monai"] / n,
                "rounds": rounds,
                "work": 2 * side * side,
                "limit": "copy",
            }
        )
    return timings


class OnePixel(torch.nn.Module):
    """A network that costs nearly nothing: three classes from the channels of the picture."""

    def forward(self, image):
        return 6 * image


def whole_report(n: int = 400, side: int = 512) -> dict:
    """Every score, curve and distance of `n` images with three classes, beyond the network's own
    time.
    """
    cfg = config.preset(
        "palm",
        "full",
        image_size=side,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        batch_size=8,
        num_workers=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = blob_store(Path(folder), cfg, n, side)
        loader = data.loaders(store, cfg)["test"]
        predictor = Predictor(OnePixel(), cfg, "cpu", "fp32")
        begun = time.perf_counter()
        for batch in torch.utils.data.DataLoader(loader.dataset.plain(), 8):
            predictor.probabilities(batch["image"])
        network = time.perf_counter() - begun
        begun = time.perf_counter()
        evaluation.evaluate(predictor, loader)
        seconds = time.perf_counter() - begun - network
    task = f"report of {n} images of {side}x{side}, 3 classes, with distances, curves and intervals"
    task += ", beyond the network"
    read = n * side * side * (3 * 4 + 3)  # probabilities and truths of three classes
    return {
        "task": task,
        "seconds": seconds,
        "rounds": 1,
        "network_and_loading_seconds": network,
        "work": read,
        "limit": "copy",
    }


def blob_store(folder: Path, cfg, n: int, side: int):
    """A store whose pictures show, in each channel, a noisy and displaced form of one class."""
    truth, pred = blobs(3 * 20, side)
    rng = np.random.default_rng(1)
    images, masks = np.empty((n, side, side, 3), np.uint8), np.empty((n, side, side, 3), np.uint8)
    noise = rng.normal(0, 25, (side, side)).astype(np.float32)
    for number in range(n):
        for k in range(3):
            which = (3 * number + k) % len(truth)
            smooth = cv2.GaussianBlur(pred[which].astype(np.float32) * 150 + 50, (0, 0), 3)
            images[number, ..., k] = np.clip(smooth + np.roll(noise, number, axis=0), 0, 255)
            masks[number, ..., k] = truth[which]
    return hand_store(folder, images, masks, ["test"] * n, cfg.class_names)
