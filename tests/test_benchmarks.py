"""The training benchmark: every contestant runs, at a tiny size; nothing is said about times."""

import importlib.metadata
import importlib.util
import math
import subprocess
import sys

import pytest

from tests.benchmarks import children, gpu, limits, training

PLAIN = [
    name
    for name in [*training.NETWORKS, *training.PEERS]
    if not name.startswith(("Lightning", "fastai"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `prepared` lays for the contestants: four phantoms of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("benchmark")
    training.prepared(folder, images=4, side=32, base_channels=2)
    return folder


@pytest.mark.parametrize("contestant", PLAIN)
def test_contestant_gives_a_time(contestant, folder):
    found = training.measure(contestant, folder)
    assert math.isfinite(found["seconds"]) and found["seconds"] > 0
    assert set(found) == (
        {"seconds", "precision", "work"} if contestant in training.NETWORKS else {"seconds"}
    )


@pytest.mark.parametrize(
    "package, contestant",
    [
        ("lightning", "Lightning {lightning} Trainer, float32"),
        pytest.param("fastai", "fastai {fastai} unet_learner, float32", marks=pytest.mark.slow),
        pytest.param("fastai", "fastai U-Net resnet34", marks=pytest.mark.slow),
    ],
)
def test_contestant_of_an_extra_package_gives_a_time(package, contestant, folder):
    """In a process of its own: these packages change torch and others for the whole process."""
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed: tests/benchmarks/requirements.txt")
    assert math.isfinite(
        children.call("training", "measure", contestant=contestant, folder=str(folder))["seconds"]
    )


def test_process_of_its_own_prints_what_was_measured(folder):
    assert math.isfinite(
        children.call(
            "training", "measure", contestant="textbook loop, float32, NCHW", folder=str(folder)
        )["seconds"]
    )


def test_rows_have_medians_and_say_the_precision(folder, monkeypatch):
    peers = {
        "textbook": ("31 M U-Net", None),
        "other": ("another", None),
        "autocast": ("31 M U-Net", None),
    }
    measured = {
        "31 M U-Net": [
            {"seconds": s, "precision": p, "work": 8.0}
            for s, p in [(1, "bf16"), (5, "bf16"), (2, "bf16")]
        ],
        "textbook": [{"seconds": seconds} for seconds in (9, 6, 7)],
        "autocast": [{"seconds": seconds} for seconds in (3, 3, 4)],
    }
    monkeypatch.setattr(training, "PEERS", peers)
    monkeypatch.setattr(
        children, "call", lambda *names, contestant, folder: measured[contestant].pop(0)
    )
    about = {
        "task": "training an image, 31 M U-Net, 32x32, batch 4, bf16",
        "seconds": 2,
        "rounds": 3,
        "work": 8.0,
        "limit": "bf16",
    }
    assert training.of_network("31 M U-Net", folder, rounds=3) == [
        {**about, "peer": "textbook", "peer_seconds": 7},
        {**about, "peer": "autocast", "peer_seconds": 3},
    ]


def test_work_of_a_network_of_known_size(folder):
    cfg = training.config.load(folder / "config.json")
    convolution = training.nn.Conv2d(1, 1, 3, padding=1)
    assert limits.forward_work(convolution, cfg) == 2 * 9 * 32 * 32


def test_missing_package_is_named(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(
        SystemExit, match=r"is not installed: pip install -r tests/benchmarks/requirements\.txt"
    ):
        training.rows()


@pytest.mark.slow
def test_gpu_rows_at_a_tiny_size_on_the_cpu(monkeypatch):
    """What a GPU would run, as far as a CPU can: the figures mean nothing."""
    fewer = {name: (preset, side, 3) for name, (preset, side, _) in gpu.NETWORKS.items()}
    monkeypatch.setattr(gpu, "NETWORKS", fewer)
    tiny = {
        "image_size": 32,
        "batch_size": 2,
        "base_channels": 2,
        "depth": 2,
        "num_workers": 0,
        "architecture": "unet",
    }
    timings = gpu.rows("cpu", rounds=1, **tiny)
    assert len(timings) == 4 and {row["limit"] for row in timings} <= {"fp32", "bf16"}
    assert all(
        math.isfinite(row["seconds"]) and row["peer_seconds"] > 0 and row["work"] > 0
        for row in timings
    )


def test_the_gpu_group_needs_a_gpu_and_no_package_beside_those_of_seglib():
    """A rented machine has the package's own requirements, but neither peers nor test tools."""
    others = "fastai hypothesis lightning monai onnx onnxruntime pytest torchmetrics".split()
    code = f"""
import runpy, sys
import torch
sys.modules.update(dict.fromkeys({others!r}))
torch.cuda.is_available = lambda: False
sys.argv = ["benchmarks", "gpu"]
runpy.run_module("tests.benchmarks", run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=children.ROOT, capture_output=True, text=True)
    assert result.stderr.strip() == "no GPU here: nothing was measured"
