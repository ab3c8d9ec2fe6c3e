"""Cores, memory, and the device that computes; no test needs a GPU."""

import os
import warnings

import pytest

from seglib import hosts
from seglib.errors import ConfigError
from tests.machines import gpu

pytestmark = pytest.mark.usefixtures("machine")


def no_kernel_image(device):
    if device != "cpu":
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCompile with"
        )


def test_cpu_runs_the_kernel(torch):
    hosts.devices._kernel("cpu")
    assert hosts.choose_device() == "cpu" == hosts.choose_device("cpu")


def test_device_that_works(torch, monkeypatch):
    gpu(monkeypatch, torch)
    monkeypatch.setattr(hosts.devices, "_kernel", lambda device: None)
    assert hosts.choose_device() == "cuda" == hosts.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hosts.choose_device() == "cuda"  # remembered
    assert hosts.choose_device(again=True) == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hosts.choose_device(again=True) == "mps"


def test_p100_on_kaggle_falls_back(torch, kaggle, monkeypatch):
    gpu(monkeypatch, torch, "Tesla P100-PCIE-16GB", (6, 0))
    monkeypatch.setattr(hosts.devices, "_kernel", no_kernel_image)
    with pytest.warns(
        UserWarning, match=r"P100-PCIE-16GB, compute capability 6\.0.*no kernel image.*T4 x2"
    ):
        assert hosts.choose_device() == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hosts.choose_device() == "cpu"  # said once


def test_explicit_device_that_does_not_work(torch, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"device='cuda': torch \S+ finds no such device; set device='auto'"
    ):
        hosts.choose_device("cuda")
    gpu(monkeypatch, torch)
    monkeypatch.setattr(hosts.devices, "_kernel", no_kernel_image)
    with pytest.raises(
        ConfigError, match=r"Tesla T4, compute capability 7\.5, 16\.0 GB is there, but a small"
    ):
        hosts.choose_device("cuda")
    with pytest.raises(ConfigError, match="'gpu' is unknown; choose 'auto'"):
        hosts.choose_device("gpu")


def test_wrong_arithmetic_is_a_failure(torch, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda image, weight, padding: image)
    with pytest.raises(RuntimeError, match="gave 2.0, expected 73"):
        hosts.devices._kernel("cpu")


@pytest.mark.parametrize(
    "quota, cores", [("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), (None, 8)]
)
def test_n_cores(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(hosts.devices, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert hosts.n_cores() == cores


@pytest.mark.parametrize(
    "limit, expected", [("4000", 4000), ("9" * 19, 2**20), ("max", 2**20), (None, 2**20)]
)
def test_the_memory_is_at_most_the_containers(tmp_path, monkeypatch, limit, expected):
    sizes = {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**8}
    monkeypatch.setattr(os, "sysconf", sizes.get, raising=False)
    monkeypatch.setattr(hosts.devices, "MEMORY_LIMIT", tmp_path / "memory.max")
    if limit:
        (tmp_path / "memory.max").write_text(limit + "\n")
    assert hosts.memory_bytes() == expected
