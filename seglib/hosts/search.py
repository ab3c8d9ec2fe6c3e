"""Walking through folders and matching names in them, within limits of size."""

import contextlib
import fnmatch
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from . import mounts

PHANTOM = "PHANTOM.txt"  # marks a synthetic tree, see `phantoms.write`
MAX_FOLDERS = 5000  # how many folders are searched below one root
MAX_SUBFOLDERS = 2000  # more subfolders than this must be cases: they are not searched
MAX_ENTRIES = 10_000  # how many entries of one folder are read, files included


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    """Visible entries of a folder, read lazily, `MAX_ENTRIES` at most; none if unreadable."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        # Zip files from a Mac hold a folder __MACOSX that repeats the tree with useless files.
        visible = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        yield from itertools.islice(visible, MAX_ENTRIES)


def _is_dir(entry: os.DirEntry) -> bool:
    """Like `entry.is_dir()`, but False instead of an error for a link that may not be followed."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def walk(root: Path, depth: int, phantoms: bool) -> Iterator[Path]:
    """`root` and the folders down to `depth` levels below it, by level, then by name.

    At most `MAX_FOLDERS`; synthetic trees are skipped unless `phantoms`.
    """
    seen, level = set(), [root]
    for levels_left in range(depth, -1, -1):
        below = []
        for folder in level:
            real = os.path.realpath(folder)  # links may lead round in circles
            synthetic = not phantoms and os.path.exists(folder / PHANTOM)
            if real in seen or synthetic or not os.path.isdir(real):
                continue
            if len(seen) == MAX_FOLDERS:
                return
            seen.add(real)
            yield folder
            if levels_left:
                below += _subfolders(folder)
        level = below


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; none where there are so many that they must be cases."""
    entries = list(_entries(folder))
    names = sorted(entry.name for entry in entries if _is_dir(entry))
    # The order of a folder's entries is arbitrary, so the first `MAX_ENTRIES` would be as well.
    if len(entries) == MAX_ENTRIES or len(names) > MAX_SUBFOLDERS:
        return []
    # Drive is slow to list, and it is one of the places itself.
    return [folder / name for name in names if folder / name != mounts.COLAB_DRIVE.parent]


def matches(folder: Path, pattern: str, phantoms: bool) -> Iterator[Path]:
    """Paths below `folder` that match a relative pattern such as "train/patient*".

    Upper and lower case do not matter for names with a wildcard, since data sets mix them.
    """
    head, _, rest = pattern.partition("/")
    if any(character in head for character in "*?["):
        names = (entry.name for entry in _entries(folder))
        wildcards = head.lower()
        paths = (folder / name for name in names if fnmatch.fnmatchcase(_as_nifti(name), wildcards))
    else:
        paths = (path for path in [folder / head] if os.path.exists(path))
    for path in paths:
        if not phantoms and os.path.exists(path / PHANTOM):
            continue
        if rest:
            yield from matches(path, rest, phantoms)
        else:
            yield path


def _as_nifti(name: str) -> str:
    """A name in lower case; that of a volume in another format as if it were NIfTI.

    So a marker such as `ct.nii*` stands for a volume in any format.
    """
    from ..formats import nifti, simpleitk  # slow to import, and help needs neither

    name = name.lower()
    return f"{nifti.stem(name)}.nii" if name.endswith(simpleitk.SUFFIXES) else name


def holds(folder: Path, pattern: str, phantoms: bool) -> bool:
    """True if a file matches, or a folder that is not empty.

    An empty folder does not count, because data that is still being mounted looks like one.
    """
    return any(
        os.path.isfile(path) or any(_entries(path)) for path in matches(folder, pattern, phantoms)
    )


def contents(root: Path, depth: int, most: int = 20) -> str:
    """What a folder holds, for messages: its entries, then deeper folders, `most` in all."""
    if not os.path.isdir(root):
        return "is a file, not a folder" if os.path.exists(root) else "does not exist"
    names = sorted(entry.name + "/" * _is_dir(entry) for entry in _entries(root))[: most + 1]
    # Folders directly below `root` are among its entries already.
    deeper = (
        f"{path.relative_to(root)}/"
        for path in walk(root, depth, phantoms=True)
        if root in path.parents[1:]
    )
    names += itertools.islice(deeper, most + 1 - len(names))
    marked = [
        f"{name} (synthetic)" if os.path.exists(root / name / PHANTOM) else name
        for name in names[:most]
    ]
    if len(names) > most:
        marked.append("...")
    return ", ".join(marked) or "empty, or not readable"
