"""Freed memory that stays with the process."""

import ctypes
import resource
import sys

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


@glibc
def test_memory_is_kept_and_given_back():
    before = fetched_pages()
    with memory.kept():
        fetched_pages()  # a heap in pieces takes some rounds to settle
        assert fetched_pages() < before / 20
        held = resident()
    assert resident() < held - (32 << 20)
    assert fetched_pages() > before / 2  # as it was


@glibc
def test_memory_is_given_back_after_an_error():
    with pytest.raises(ValueError), memory.kept():
        raise ValueError
    assert fetched_pages(2) > 2000


def test_systems_without_glibc(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with memory.kept():
        assert torch.ones(1).item() == 1
    monkeypatch.setattr(ctypes, "CDLL", lambda name: sys)  # another libc of that name, without these functions
    with memory.kept():
        assert torch.ones(1).item() == 1
