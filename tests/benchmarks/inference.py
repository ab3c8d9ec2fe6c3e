"""Prediction: what `Predictor` adds to the bare network, PyTorch beside ONNX Runtime, and whole
folders.
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

from seglib import config, export, hosts, runs
from seglib.formats import images
from seglib.inference import Predictor
from tests.benchmarks import limits
from tests.benchmarks.timing import by_turns

SIDE = 256


def rows() -> list[dict]:
    """All timings of this group, with the 31 M U-Net at 256x256 of the full `binary` preset."""
    cfg = config.preset("binary", "full")
    with tempfile.TemporaryDirectory() as folder:
        weights = runs.save_weights(Path(folder) / "unet.pth", runs.network(cfg), cfg)
        export.to_onnx(weights, Path(folder) / "unet.onnx")
        predictor, flop = (
            Predictor.load(weights, "cpu"),
            limits.forward_work(runs.network(cfg), cfg),
        )
        return [
            *overhead(predictor, flop),
            *engines(weights, Path(folder) / "unet.onnx", flop),
            folder_row(predictor, Path(folder) / "pictures", flop),
        ]


def overhead(predictor: Predictor, flop: float, rounds: int = 9) -> list[dict]:
    """`predict` of one picture, and `probabilities` of eight, against the network alone in the same
    precision.
    """
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(predictor.precision)
    timings = []
    for n in (1, 8):
        batch = torch.randn(n, 3, SIDE, SIDE)
        laid = batch.contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def bare(laid=laid):
            with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
                predictor.model(laid)

        def whole(n=n, batch=batch):
            predictor.predict(picture) if n == 1 else predictor.probabilities(batch)

        bare(), whole()
        seconds = by_turns({"ours": whole, "bare": bare}, rounds)
        call = "predict, one picture" if n == 1 else "probabilities, a batch of 8"
        timings.append(
            {
                "task": f"Predictor.{call} of {SIDE}x{SIDE}, 31 M U-Net, {predictor.precision}",
                "seconds": seconds["ours"],
                "peer": "the network alone",
                "peer_seconds": seconds["bare"],
                "rounds": rounds,
                "work": n * flop,
                "limit": predictor.precision,
            }
        )
    return timings


def engines(weights: Path, onnx: Path, flop: float, rounds: int = 5) -> list[dict]:
    """Float32 and what `auto` chooses in PyTorch, each beside ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    timings = []
    for n in (1, 8):
        batch = torch.rand(n, 3, SIDE, SIDE)
        models = {name: Predictor.load(weights, "cpu", name) for name in ("fp32", "auto")}
        ways = {
            m.precision: lambda m=m, batch=batch: m.probabilities(batch) for m in models.values()
        }
        ways["onnx"] = lambda batch=batch: session.run(None, {"image": batch.numpy()})
        for way in ways.values():
            way()
        seconds = by_turns(ways, rounds)
        for name in [name for name in ways if name != "onnx"]:
            timings.append(
                {
                    "task": f"a batch of {n} in PyTorch, {name}, 31 M U-Net, {SIDE}x{SIDE}",
                    "seconds": seconds[name],
                    "peer": "ONNX Runtime, fp32",
                    "peer_seconds": seconds["onnx"],
                    "rounds": rounds,
                    "work": n * flop,
                    "limit": name,
                }
            )
    return timings


def folder_row(predictor: Predictor, folder: Path, flop: float, n: int = 40) -> dict:
    """A folder of pictures of 1024x1024: seconds a picture, and how many cores worked."""
    rng = np.random.default_rng(0)
    for number in range(n):
        smooth = cv2.resize(
            rng.integers(0, 256, (32, 32, 3), np.uint8), (1024, 1024), interpolation=cv2.INTER_CUBIC
        )
        images.write_png(folder / f"{number:03d}.png", smooth)
    begun, worked = time.perf_counter(), time.process_time()
    predictor.predict_folder(folder, folder / "out")
    seconds, worked = time.perf_counter() - begun, time.process_time() - worked
    busy = f"{worked / seconds:.2f} of {hosts.n_cores()} cores busy"
    task = f"predict_folder, {n} PNG of 1024x1024, {busy}, a picture"
    return {
        "task": task,
        "seconds": seconds / n,
        "rounds": 1,
        "cores_busy": worked / seconds,
        "work": flop,
        "limit": predictor.precision,
    }
