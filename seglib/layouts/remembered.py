"""What was read in many mask files, kept in `work_dir/stores`, where the next scan finds it."""

import ast
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import files, hosts
from ..formats import mask_pixels, volumes

KEPT_FROM, MOST_KEPT = 100, 20_000  # results are kept from how many on, of how many
Kept = dict[Any, tuple[str, Any]]  # key -> what the files looked like from outside, result


def results(
    masks_of: Mapping[Any, str],
    read: Callable[[Any], Any],
    cfg: Any,
    name: str,
    form: str,
    keep: bool | None = None,
) -> dict[Any, Any]:
    """`read(key)` for each key, in threads; that of files which have not changed is not read anew.

    Args:
        masks_of: key, a text or a tuple -> the mask files that its result depends on, joined by
            `|`. What else it depends on belongs into the key.
        read: returns numbers, texts, tuples and dicts; None is not kept.
        name: of the file that keeps them.
        form: its first line; a file with another one is not used.
        keep: whether results are kept; by default from `KEPT_FROM` on.
    """
    if not (len(masks_of) >= KEPT_FROM if keep is None else keep):
        return _in_threads(read, list(masks_of))
    file = Path(hosts.run_root(cfg)) / "stores" / name
    earlier = _kept(file, form)
    stamps = {key: _stamp(masks) for key, masks in masks_of.items()}
    changed = [key for key in stamps if earlier.get(key, ("",))[0] != stamps[key]]
    new = _in_threads(read, changed)
    current = {key: new[key] if key in new else earlier[key][1] for key in stamps}
    if new:
        others = [entry for entry in earlier.items() if entry[0] not in stamps]
        own = [(key, (stamps[key], result)) for key, result in current.items() if result]
        lines = [repr((key, *entry)) for key, entry in [*others, *own][-MOST_KEPT:]]
        with contextlib.suppress(OSError):  # a full or read-only disk: then it stays slow
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(file, "\n".join([form, *lines]))
    return current


def _stamp(masks: str) -> str:
    """Names, sizes and times of mask files, as text."""
    stamps = [volumes.stamp(path) for path in masks.split(mask_pixels.UNION)]
    return repr(stamps[0] if len(stamps) == 1 else stamps)


def _kept(file: Path, form: str) -> Kept:
    """The results of earlier scans; {} where there are none, or damaged ones."""
    try:
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        entries = [ast.literal_eval(line) for line in lines if first == form]
        return {key: (stamp, result) for key, stamp, result in entries}
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {}


def _in_threads(read: Callable[[Any], Any], keys: list[Any]) -> dict[Any, Any]:
    with ThreadPoolExecutor(min(hosts.n_cores(), 4)) as pool:
        progress = hosts.progress(
            pool.map(read, keys), total=len(keys), desc="classes", leave=False
        )
        return dict(zip(keys, progress))
