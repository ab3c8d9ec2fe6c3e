"""Freed memory that stays with the process."""

import ctypes
import json
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from seglib import memory

glibc = pytest.mark.skipif(memory._glibc() is None, reason="not glibc")


def fetched_pages(n=50):
    """Pages that the system hands out while arrays of 64 MB come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure():
    """Pages before and while memory is kept; what is in memory while and after."""
    found = {"before": fetched_pages()}
    with memory.keep_freed_memory():
        fetched_pages()
        found |= {"kept": fetched_pages(), "held": resident()}
    return {**found, "given_back": resident()}


@glibc
def test_memory_is_kept_and_given_back():
    """In a process of its own: what other tests have left in the heap is another story."""
    code = "import json; from tests import test_memory; print(json.dumps(test_memory.measure()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    # Something small may come to lie in the gap of a large array, which then needs a new one: seldom, not every time.
    assert found["kept"] < found["before"] / 2
    assert found["given_back"] < found["held"] - (32 << 20)


def test_settings_end_with_an_error_too(monkeypatch):
    calls = []
    libc = types.SimpleNamespace(
        mallopt=lambda *call: calls.append(call), malloc_trim=lambda pad: calls.append("trim")
    )
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    with pytest.raises(ValueError), memory.keep_freed_memory():
        assert calls == list(memory.KEEP.items())
        raise ValueError
    assert calls == [*memory.KEEP.items(), *memory.DEFAULTS.items(), "trim"]


def test_systems_without_glibc(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with memory.keep_freed_memory():
        assert torch.ones(1).item() == 1
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: sys
    )  # another libc of that name, without these functions
    with memory.keep_freed_memory():
        assert torch.ones(1).item() == 1
