"""Where raw data and weights lie, and the messages where there are none.

Data is found by the files and folders that mark its layout, because Kaggle has moved its mounts
before.
"""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from .. import presets, tables
from ..errors import DataError
from . import mounts, search


class Tree(NamedTuple):
    """A folder of raw data, and the names in `tables.LAYOUTS` of the layouts that it may have."""

    folder: Path
    layouts: tuple[str, ...]


class Place(NamedTuple):
    """A folder that is searched down to `depth` levels; `named` says that the user set it."""

    folder: Path
    depth: int
    named: bool = False


def find_data(cfg: Any) -> Path | None:
    """The folder of a config's raw data, found by the markers of its layouts; None without one.

    If `cfg.data_root` is set, only that place is searched. Else, in this order: the environment
    variable `SEGLIB_DATA`; `data/` in the current folder, in the two above it and in the
    repository; Kaggle's inputs; Colab's /content and Drive. The tree is such a place or lies up to
    three levels below it (five on Kaggle). The shallowest wins, then the first by name. Synthetic
    trees count only in `cfg.data_root` and `SEGLIB_DATA`, and only where no real one lies there.

    `cfg.layout` names a layout of `tables.LAYOUTS`. With "auto" the usual layouts of the preset are
    looked for, and then, only in `cfg.data_root`, all others. Taught in `00_start_here`.
    """
    tree = find_tree(cfg)
    return tree and tree.folder


def find_tree(cfg: Any) -> Tree | None:
    """As `find_data`, but returns a `Tree`: the folder and the layouts that it may have.

    A layout that the config names, or that is usual for its preset, is the only one. Otherwise all
    layouts whose markers fit are returned.
    """
    preferred = _preferred(cfg)
    for names, kinds in _searches(cfg):
        for folder, depth, named in _data_places(cfg):
            for phantoms in (False, True) if named else (False,):
                tree = _search(folder, depth, names, kinds, phantoms)
                if tree and tree.layouts[0] in preferred:
                    return tree._replace(layouts=tree.layouts[:1])
                if tree:
                    return tree
    return None


def wait_for_data(cfg: Any, timeout: float = 120, every: float = 2.0) -> Path:
    """`find_data` for data that is mounted late: tries again every few seconds.

    Args:
        timeout: seconds to wait; 0: look only once.
        every: seconds between two tries.

    Raises:
        DataError: the time is over; the text is that of `explain_missing`.
    """
    return wait_for_tree(cfg, timeout, every).folder


def wait_for_tree(cfg: Any, timeout: float = 120, every: float = 2.0) -> Tree:
    """As `wait_for_data`, but returns a `Tree`."""
    deadline = time.monotonic() + timeout
    announced = False
    while (tree := find_tree(cfg)) is None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DataError(f"{explain_missing(cfg)} Waited {timeout:g} s.")
        if not announced:
            print(
                f"{cfg.preset}: no data yet; waiting up to {timeout:g} s for it to be mounted",
                flush=True,
            )
            announced = True
        time.sleep(min(max(every, 0.05), remaining))
    return tree


def explain_missing(cfg: Any) -> str:
    """Text for a `DataError`: what the config needs, where `find_data` looks, and what is there."""
    names = _preferred(cfg)
    kinds = ("markers", "shared_markers") if cfg.data_root else ("markers",)
    markers = [group for name in names for group in _markers(name, kinds)]
    alternatives = dict.fromkeys(" + ".join(group) for group in markers)
    lines = [
        f"{cfg.preset}: no data found. Expected a folder that holds {', or '.join(alternatives)}. "
        "Looked in:"
    ]
    lines += [
        f"  {folder.absolute()} ({depth} levels): {search.contents(folder, depth)}"
        for folder, depth, _ in _data_places(cfg)
    ]
    if cfg.data_root and cfg.layout == "auto":
        others = ", ".join(name for name in tables.LAYOUTS if name not in names)
        lines.append(f"No other layout fits either ({others}).")
    advice = {
        "kaggle": "Attach the data set (Add Input, right of the notebook), or set cfg.data_root.",
        "colab": "Unpack the data below /content, mount Drive (hosts.offer_drive()), or set "
        "cfg.data_root.",
        "local": "Set cfg.data_root (--data_dir) or the environment variable SEGLIB_DATA to the "
        "tree or a folder above.",
    }[mounts.host()]
    lines.append(f"{advice} data/README.md says where the data comes from.")
    lines.append(
        "Pictures in another form, such as images and masks in one folder: python -m seglib "
        "prepare --source_images DIR --source_masks DIR --output DIR brings them into images + "
        "masks."
    )
    return "\n".join(lines)


def find_model(name: str, roots: Any = None) -> Path | None:
    """The newest weights file of this name or pattern; None without one.

    Args:
        name: such as "best_model.pth" or "lung*/*.pth". The path of an existing file, with its
            folder, is returned at once.
        roots: a folder or several, searched six levels deep. By default runs/, checkpoints/,
            checkpoints_folds/ and notebooks/runs/ (where `find_data` looks for data/), Kaggle's
            working and input folders, and Drive (three levels).
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute()
    pattern = str(name).replace(os.sep, "/")
    candidates = []
    for root, depth, _ in _model_places(roots):
        for folder in search.walk(root, depth, phantoms=True):
            matches = search.matches(folder, pattern, phantoms=True)
            candidates += [path for path in matches if os.path.isfile(path)]
    newest = max(candidates, key=os.path.getmtime, default=None)
    return newest and newest.absolute()


def explain_missing_model(name: str, roots: Any = None) -> str:
    """Text for a `DataError`: which weights `find_model` did not find, and where it looked."""
    folders = dict.fromkeys(str(place.folder.absolute()) for place in _model_places(roots))
    return f"no weights {name} found; looked in {', '.join(folders)}"


def _preferred(cfg: Any) -> tuple[str, ...]:
    """The layout that the config names, or those that are usual for its preset."""
    return presets.PRESETS[cfg.preset].layouts if cfg.layout == "auto" else (cfg.layout,)


def _searches(cfg: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The searches in their order, each by names of layouts and the kinds of markers that count."""
    preferred = _preferred(cfg)
    if not cfg.data_root:
        return [(preferred, ("markers",))]
    searches = [(preferred, ("markers",)), (preferred, ("shared_markers", "nested_markers"))]
    if cfg.layout == "auto":
        others = tuple(name for name in tables.LAYOUTS if name not in preferred)
        searches.append((others, ("markers", "shared_markers")))
    return searches


def _markers(name: str, kinds: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The alternative sets of markers of a layout, of the kinds that count."""
    return [names for kind in kinds for names in getattr(tables.LAYOUTS[name], kind)]


def _search(
    root: Path, depth: int, names: tuple[str, ...], kinds: tuple[str, ...], phantoms: bool
) -> Tree | None:
    """The shallowest folder from `root` down that fits one of the layouts, with all that fit."""
    for folder in search.walk(root, depth, phantoms):
        fitting = [name for name in names if _has_layout(folder, name, kinds, phantoms)]
        if fitting:
            return Tree(folder.absolute(), tuple(fitting))
    return None


def _has_layout(folder: Path, name: str, kinds: tuple[str, ...], phantoms: bool) -> bool:
    """Whether a folder holds every marker of at least one alternative."""
    return any(
        all(search.holds(folder, marker, phantoms) for marker in markers)
        for markers in _markers(name, kinds)
    )


def _homes() -> list[Path]:
    """The current folder, two above it (notebooks run in notebooks/), and the repository."""
    here = Path.cwd()
    return list(dict.fromkeys([here, *list(here.parents)[:2], Path(__file__).resolve().parents[2]]))


def _data_places(cfg: Any) -> list[Place]:
    """The places where raw data is looked for, in their order."""
    user_folder = cfg.data_root or os.environ.get("SEGLIB_DATA")
    places = []
    if user_folder:
        places.append(
            Place(Path(user_folder).expanduser(), 5 if mounts.host() == "kaggle" else 3, True)
        )
    if cfg.data_root:
        return places
    places += [Place(home / "data", 3) for home in _homes()]
    for name, mount in (
        ("kaggle", Place(mounts.KAGGLE_INPUT, 5)),
        ("colab", Place(mounts.COLAB_CONTENT, 3)),
        ("colab", Place(mounts.COLAB_DRIVE, 3)),
    ):
        if mount.folder.is_dir() or mounts.host() == name:
            places.append(mount)
    return places


def _model_places(roots: Any) -> list[Place]:
    """The places where weights are looked for."""
    if roots is not None:
        folders = [roots] if isinstance(roots, str | Path) else roots
        return [Place(Path(folder).expanduser(), 6) for folder in folders]
    folders = ("runs", "checkpoints", "checkpoints_folds", "notebooks/runs")
    places = [Place(home / folder, 6) for home in _homes() for folder in folders]
    places += [Place(mounts.KAGGLE_WORKING, 6), Place(mounts.KAGGLE_INPUT, 6)]
    return [*places, Place(mounts.COLAB_DRIVE / "seglib", 6), Place(mounts.COLAB_DRIVE, 3)]
