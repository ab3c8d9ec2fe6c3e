"""Keep the memory that a training or prediction on a CPU frees, for its next step."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator

# Names and numbers of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
# The number of mappings is glibc's default. The thresholds are those that glibc's own adaptation
# reaches in a process that has freed large arrays: 32 MiB on 64-bit systems, and twice that.
DEFAULTS = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, MMAP_MAX: 65536}

_lock = threading.Lock()
_depth = 0  # contexts that are active now; the settings belong to the process, not to one of them


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Stop glibc from returning freed memory to the operating system while the context is active.

    Each step of a training, and each batch of a prediction, allocates the same large arrays;
    getting them back as zeroed pages costs 10 to 25 % of a step on a CPU. No effect outside Linux
    with glibc. Contexts may be nested; the outermost one decides.

    At the end glibc gets `DEFAULTS`, not its earlier values, as no call of glibc reads those. A
    program that tunes malloc itself must do so again afterwards.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _enter(libc)
    try:
        yield
    finally:
        _leave(libc)


def _enter(libc) -> None:
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            for option, value in KEEP.items():
                libc.mallopt(option, value)


def _leave(libc) -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0:
            for option, value in DEFAULTS.items():
                libc.mallopt(option, value)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # Windows, macOS
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
