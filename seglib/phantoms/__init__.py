"""Small synthetic data sets, written in the raw trees and file formats of the real ones. See `00_start_here`."""

import difflib
import pathlib
import tempfile

import numpy as np
from PIL import Image

from .. import hosts, presets, tables
from ..errors import ConfigError, DataError


def write(name, folder, n=24, seed=0):
    """Write the synthetic data set `name` into `folder` and return that folder, the data root.

    "lung" forms the Montgomery tree: `MontgomerySet/CXR_png/MCUCXR_0001_0.png` (8-bit grey, sides of 320 to
    400 pixels; stems end in `_0` normal and `_1` tuberculosis by turns) and 0 / 255 masks of the same name in
    `MontgomerySet/ManualMask/{leftMask,rightMask}`; the patient's right lung is at the image's left.
    "palm" forms the PALM tree: `PALM/{Training,Validation}/Images/P0001.jpg` (names begin with N, H or P) and
    inverted masks (0 = structure), `Lesion Masks/{Atrophy,Detachment}/P0001.bmp` and `Disc Masks/P0001.bmp`, any of
    which may be missing.
    "binary" forms `images/lesion_0001.jpg` (skin, sides of 240 to 320 pixels) and 0 / 255 masks
    `masks/lesion_0001_mask.png`.
    "rsna" forms the DICOM tree: one CT series a patient, `train_images/10004/21057/1.dcm` (17 to 20 axial slices of
    128 x 128 pixels of 2.5 to 3.2 mm, 8 to 12 mm apart; plain, RLE and JPEG 2000 files by turns), and its label map
    `segmentations/21057.nii` (1 liver, 2 spleen, 3 left and 4 right kidney, 5 bowel).
    "cardiac" forms ACDC's tree: `training/patient001/patient001_frame01.nii.gz` (short-axis MRI, 8 to 10 slices of 140
    to 170 pixels of about 1.6 mm, 8 to 10 mm apart) and a frame at end systole, each with its labels `_gt.nii.gz` (1
    right ventricle, 2 myocardium, 3 left ventricle), and `Info.cfg`; the groups NOR, DCM, HCM, MINF, RV by turns.

    Image i depends on `seed` and i, not on `n`. The tree appears complete or not at all; `PHANTOM.txt` in it
    says what it is. A folder that holds these very phantoms is returned as it is, others are replaced.
    Raises `ConfigError` (unknown name, n below 1, negative seed) and `DataError` (the folder holds files that
    no phantom wrote; they are left alone). Every notebook calls this when there is no real data.
    """
    if name not in presets.PRESETS:
        known = ", ".join(presets.PRESETS)
        near = difflib.get_close_matches(str(name), presets.PRESETS, n=1, cutoff=0)[0]
        raise ConfigError(f"phantom {name!r} is unknown; did you mean {near!r}? Known: {known}")
    draw = tables.load(presets.PRESETS[name].phantom)
    if n < 1 or seed < 0:
        raise ConfigError(f"n={n}, seed={seed}: expected n of 1 or more and seed of 0 or more")
    folder = pathlib.Path(folder).expanduser().absolute()
    line = f"Synthetic images, no patients: phantom={name} n={n} seed={seed}"
    if _is_written(folder, line):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent, so that the rename stays on one disk; a killed call leaves only this hidden folder.
    with tempfile.TemporaryDirectory(prefix=".phantom_", dir=folder.parent) as scratch:
        tree = pathlib.Path(scratch, "new")
        for i in range(n):
            for path, content in draw(i, np.random.default_rng([seed, i])).items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):  # a whole file: DICOM, NIfTI, JPEG, BMP
                    (tree / path).write_bytes(content)
                else:
                    Image.fromarray(content).save(tree / path, compress_level=3)
        (tree / hosts.PHANTOM).write_text(f"{line} files={_count(tree)}\n", encoding="utf-8")
        # Asked again: another process may have written it meanwhile.
        if not _is_written(folder, line):
            if folder.exists():
                folder.rename(pathlib.Path(scratch, "old"))
            tree.rename(folder)
    return folder


def _count(folder):
    """Number of files below `folder`, without the marker and what file browsers drop."""
    return sum(
        p.is_file() and p.name not in (hosts.PHANTOM, ".DS_Store", "Thumbs.db")
        for p in folder.rglob("*")
    )


def _is_written(folder, line):
    """True if `folder` holds the phantoms of `line`, False if it may be (re)written, else `DataError`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / hosts.PHANTOM).is_file():
        raise DataError(
            f"{folder}: holds something else than phantoms (no {hosts.PHANTOM}); choose another folder"
        )
    line_found, _, files = (
        (folder / hosts.PHANTOM).read_text(encoding="utf-8").strip().rpartition(" files=")
    )
    found, expected = _count(folder), int(files) if files.isdigit() else -1
    if line_found == line and found >= expected >= 0:
        return True
    # A wrong count means that somebody put real data there or lost a file: never replace such a folder.
    if found != expected:
        raise DataError(
            f"{folder}: {found} files, but {hosts.PHANTOM} says {files}; move that folder away yourself"
        )
    return False


def data_or_phantoms(cfg, n: int = 48, seed: int = 0) -> bool:
    """Set `cfg.data_root` to real data where some is found, else to phantoms written below `cfg.work_dir`.

    Prints which of the two it is; returns True for real data. On Kaggle and Colab (`cfg.local` is False) it waits up
    to 30 s for a slow mount.
    """
    try:
        found = hosts.find_data(cfg) if cfg.local else hosts.wait_for_data(cfg, timeout=30)
    except DataError:
        found = None
    if found is None:
        cfg.data_root = str(
            write(cfg.preset, pathlib.Path(hosts.run_root(cfg)) / "phantoms" / cfg.preset, n, seed)
        )
        print(f"PHANTOMS: no {cfg.preset} data was found, so {n} synthetic images are used.")
        print("The scores below show that the code works; they say nothing about patients.")
        return False
    cfg.data_root = str(found)
    synthetic = (found / hosts.PHANTOM).is_file() or (found.parent / hosts.PHANTOM).is_file()
    print(
        f"{'PHANTOMS (synthetic images)' if synthetic else 'REAL DATA'}: {cfg.preset}, from the folder {found.name}"
    )
    return not synthetic
