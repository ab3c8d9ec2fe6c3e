"""Freed memory that stays with the process."""

import ctypes
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seglib import memory

glibc = pytest.mark.skipif(memory._glibc() is None, reason="not glibc")


def fetched_pages(n=20):
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
    """Pages before, while memory is kept, and after an error has ended that; what is in memory while and after."""
    found = {"before": fetched_pages()}
    try:
        with memory.kept():
            fetched_pages(3)
            found |= {"kept": fetched_pages(), "held": resident()}
            raise ValueError
    except ValueError:
        found |= {"given_back": resident(), "after": fetched_pages()}
    return found


@glibc
def test_memory_is_kept_and_given_back():
    """In a process of its own: what other tests have left in the heap is another story."""
    code = "import json; from tests import test_memory; print(json.dumps(test_memory.measure()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["kept"] < found["before"] / 20
    assert found["given_back"] < found["held"] - (32 << 20)
    assert found["after"] > found["before"] / 2  # as it was


def test_systems_without_glibc(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with memory.kept():
        assert torch.ones(1).item() == 1
    monkeypatch.setattr(ctypes, "CDLL", lambda name: sys)  # another libc of that name, without these functions
    with memory.kept():
        assert torch.ones(1).item() == 1
