"""Small synthetic data sets (phantoms) in the folders and file formats of the real ones.

Every preset names its painter in `presets.PRESETS`: a function that returns the files of one case,
`painter(i, rng) -> {path below the data root: bytes or pixels (H, W) or (H, W, 3) uint8}`. One
that also takes `hospital` draws what another hospital sees. Taught in `00_start_here`.
"""

import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import fields, hosts, presets, tables
from ..errors import ConfigError, DataError

# Files that Finder and Windows Explorer leave behind; they do not count as files of a data set.
_STRAY_FILES = (".DS_Store", "Thumbs.db")
HOSPITALS = ("first", "second")
# Raised when painters draw other pixels, so that phantoms of an older version are drawn again.
_VERSION = 3


def write(
    name: str, folder: str | Path, n: int = 24, seed: int = 0, hospital: str = "first"
) -> Path:
    """Write the synthetic data set of a preset into `folder`; returns that folder, the data root.

    The painters' docstrings say which folders and files appear: `chest.lung_case`,
    `fundus.palm_case`, `skin.binary_case`, `abdomen.rsna_case`, `heart.cardiac_case`.

    The tree appears complete or not at all; `PHANTOM.txt` in it says what it is. A folder that
    already holds exactly these phantoms is returned unchanged; other phantoms are replaced.

    Args:
        name: a preset.
        n: number of cases.
        seed: case i depends on `seed` and i, not on `n`.
        hospital: "first", or "second": other patients, and images with another exposure, contrast,
            noise and sharpness, in the same folders and formats. What a network loses there is the
            effect of a *domain shift*.

    Raises:
        ConfigError: unknown name or hospital, n below 1, or negative seed.
        DataError: the folder holds files that no phantom wrote; they are left alone.
    """
    if name not in presets.PRESETS:
        near = fields.nearest(name, presets.PRESETS)
        names = ", ".join(presets.PRESETS)
        raise ConfigError(f"phantom {name!r} is unknown{near}; expected one of {names}")
    if n < 1 or seed < 0:
        raise ConfigError(f"n={n}, seed={seed}: expected n of 1 or more and seed of 0 or more")
    painter, place = _painter(name, hospital)
    folder = Path(folder).expanduser().absolute()
    line = f"Synthetic images, no patients: phantom={name} n={n} seed={seed}"
    line += f" hospital={hospital} version={_VERSION}"
    if _is_written(folder, line):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays on one disk. A call that is killed leaves only
    # this hidden folder behind.
    with tempfile.TemporaryDirectory(prefix=".phantom_", dir=folder.parent) as scratch:
        tree = Path(scratch, "new")
        for i in range(n):
            for path, content in painter(i, np.random.default_rng([seed, i, *place])).items():
                _write_file(tree / path, content)
        marker = f"{line} files={_count_files(tree)}\n"
        (tree / hosts.PHANTOM).write_text(marker, encoding="utf-8")
        # Asked again, because another process may have written it meanwhile.
        if not _is_written(folder, line):
            if folder.exists():
                folder.rename(Path(scratch, "old"))
            tree.rename(folder)
    return folder


def data_or_phantoms(cfg: Any, n: int = 48, seed: int = 0) -> bool:
    """Set `cfg.data_root` to real data if there is some, else to phantoms below `cfg.work_dir`.

    Prints which of the two it is; returns True for real data. On Kaggle and Colab (`cfg.local` is
    False) it waits up to 30 s for a slow mount.
    """
    try:
        data = hosts.find_data(cfg) if cfg.local else hosts.wait_for_data(cfg, timeout=30)
    except DataError:
        data = None
    if data is None:
        folder = Path(hosts.run_root(cfg)) / "phantoms" / cfg.preset
        cfg.data_root = str(write(cfg.preset, folder, n, seed))
        print(f"PHANTOMS: no {cfg.preset} data was found, so {n} synthetic cases are used.")
        print("The scores below show that the code works; they say nothing about patients.")
        return False
    cfg.data_root = str(data)
    synthetic = any((folder / hosts.PHANTOM).is_file() for folder in (data, data.parent))
    kind = "PHANTOMS (synthetic images)" if synthetic else "REAL DATA"
    print(f"{kind}: {cfg.preset}, from the folder {data.name}")
    return not synthetic


def _painter(name: str, hospital: str) -> tuple[Callable[..., dict[str, Any]], list[int]]:
    """The painter of a preset for one hospital, and what its seed has in addition.

    Raises:
        ConfigError: unknown hospital, or the painter draws the first one only.
    """
    painter = tables.load(presets.PRESETS[name].phantom)
    if hospital not in HOSPITALS:
        near = fields.nearest(hospital, HOSPITALS)
        raise ConfigError(
            f"hospital {hospital!r} is unknown{near}; expected one of {', '.join(HOSPITALS)}"
        )
    if hospital == "first":
        return painter, []
    if "hospital" not in inspect.signature(painter).parameters:
        raise ConfigError(f"the phantoms of {name!r} know one hospital; leave out hospital")
    # Another seed, because another hospital has other patients.
    return partial(painter, hospital=hospital), [HOSPITALS.index(hospital)]


def _write_file(path: Path, content: bytes | np.ndarray) -> None:
    """Write a whole file, or pixels as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path, compress_level=3)


def _count_files(folder: Path) -> int:
    """Number of files below `folder`, without the marker and stray files."""
    ignored = (hosts.PHANTOM, *_STRAY_FILES)
    return sum(path.is_file() and path.name not in ignored for path in folder.rglob("*"))


def _is_written(folder: Path, line: str) -> bool:
    """True if `folder` holds exactly the phantoms of `line`; False if it may be written.

    It may be written where it is empty, missing, or holds other phantoms that nobody has changed.

    Raises:
        DataError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / hosts.PHANTOM
    if not marker.is_file():
        raise DataError(
            f"{folder}: holds something else than phantoms (no {hosts.PHANTOM}); choose another "
            "folder"
        )
    written, _, count = marker.read_text(encoding="utf-8").strip().rpartition(" files=")
    n_files, n_expected = _count_files(folder), int(count) if count.isdigit() else -1
    if written == line and n_files >= n_expected >= 0:
        return True
    # A wrong count means that somebody added files, perhaps real data, or lost some. Such a folder
    # is never replaced.
    if n_files != n_expected:
        raise DataError(
            f"{folder}: {n_files} files, but {hosts.PHANTOM} says {count}; move that folder away "
            "yourself"
        )
    return False
