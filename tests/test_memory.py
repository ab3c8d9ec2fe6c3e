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
    """Pages that are fetched before and during the context; bytes in memory during and after it."""
    measured = {"before": fetched_pages()}
    with memory.keep_freed_memory():
        fetched_pages()
        measured |= {"during": fetched_pages(), "held": resident()}
    return measured | {"given_back": resident()}


@glibc
def test_memory_is_kept_and_given_back():
    """In a process of its own: what other tests have left in the heap is another story."""
    code = "import json; from tests import test_memory; print(json.dumps(test_memory.measure()))"
    output = subprocess.check_output(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], text=True
    )
    measured = json.loads(output)
    # Seldom, something small comes to lie in the gap of a large array, which then needs new pages.
    assert measured["during"] < measured["before"] / 2
    assert measured["given_back"] < measured["held"] - (32 << 20)


@pytest.fixture
def calls(monkeypatch):
    """What is asked of glibc, in the order of the calls."""
    record = []
    libc = types.SimpleNamespace(
        mallopt=lambda *call: record.append(call), malloc_trim=lambda pad: record.append("trim")
    )
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    return record


def test_settings_end_with_an_error_too(calls):
    with pytest.raises(ValueError), memory.keep_freed_memory():
        assert calls == list(memory.KEEP.items())
        raise ValueError
    assert calls == [*memory.KEEP.items(), *memory.DEFAULTS.items(), "trim"]


def test_the_outermost_context_sets_and_ends_it(calls):
    """An evaluation inside a training must not end what the training has asked for."""
    for _ in range(2):
        calls.clear()
        with memory.keep_freed_memory():
            with memory.keep_freed_memory():
                pass
            assert calls == list(memory.KEEP.items())
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
