"""One scan a system: a raw tree becomes the case table, one row an image. Taught in `01_data_preparation`.

Columns: case, patient, split ("" where the tree has none), image, one mask column a class (files joined by `|` are
united, empty = no mask exists) and finding. `cases.attrs["notes"]` lists what the scan could not place.
CT and MRI volumes: see `volume_layouts`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .. import hosts, presets, tables
from ..errors import DataError
from ..formats.images import SUFFIXES
from . import pairing


def scan(cfg) -> pd.DataFrame:
    """The case table of the data that `cfg` names, or that `hosts.find_data` finds for it.

    Raises:
        DataError: no tree of this system found (says where it looked and what is there), or no image in it.
    """
    root = hosts.find_data(cfg) if cfg.local else hosts.wait_for_data(cfg)
    if (
        root is None
        and cfg.data_root
        and cfg.preset in ("rsna", "cardiac")
        and Path(cfg.data_root).is_dir()
    ):
        root = Path(
            cfg.data_root
        )  # the forms of NIfTI trees are too many for markers; their scan says what it expects
    if root is None:
        raise DataError(hosts.explain_missing(cfg))
    name = presets.PRESETS[cfg.preset].layouts[0] if cfg.layout == "auto" else cfg.layout
    settings = {**cfg.settings, "root": root, "cfg": cfg, "class_name": cfg.class_names[0]}
    cases = tables.call(tables.LAYOUTS[name].scan, settings)
    if cfg.data_root and Path(cfg.data_root).resolve() != root.resolve():
        beside = [
            f for f in sorted(root.parent.iterdir()) if f.is_dir() and f.resolve() != root.resolve()
        ]
        others = [f.name for f in beside if hosts.find_data(cfg.replace(data_root=str(f)))]
        if others:
            note = f"{root.name} was read, {', '.join(others)} beside it was not: set data_root to the one that you mean"
            cases.attrs["notes"] = [*cases.attrs["notes"], note]
    if cases.empty:
        raise DataError(f"{root}: no image found; expected files ending in {', '.join(SUFFIXES)}")
    return cases


def scan_lung(root: str | Path, class_name: str = "lung") -> pd.DataFrame:
    """Chest X-rays: the Montgomery tree, the Shenzhen tree, or both below one root, as one table.

    The finding is the last character of the stem: `_0` normal, `_1` tuberculosis. Left and right masks are united.
    """
    root, tables, notes = Path(root), [], []
    for folder in pairing.folders(root, depth=3):
        for images, masks in (
            ("CXR_png", "ManualMask"),
            ("images", "."),
            ("img", "mask"),
            ("CXR_png", "masks"),
            ("CXR_png", "mask"),
        ):
            sides = [folder / masks / side for side in ("leftMask", "rightMask")]
            if not (folder / images).is_dir():
                continue
            if all(side.is_dir() for side in sides):
                tables.append(pairing.pair(folder / images, sides, class_name))
                break
            if masks in ("mask", "masks") and (folder / masks).is_dir():
                tables.append(pairing.pair(folder / images, [folder / masks], class_name))
                break
    if not tables:
        raise DataError(
            f"{root}: no chest X-rays; expected MontgomerySet/CXR_png with ManualMask/leftMask and rightMask, or img "
            f"with mask (Shenzhen); found {pairing.contents(root)}"
        )
    for table in tables:
        notes += table.attrs["notes"]
    cases = pd.concat(tables, ignore_index=True)
    ending = cases["case"].str.extract(r"_([01])$")[0]
    cases["finding"] = ending.map({"0": "normal", "1": "tuberculosis"}).fillna("")
    cases["patient"] = cases["case"].str.replace(r"_[01]$", "", regex=True)
    cases["patient"] = cases["patient"].str.replace(
        r"-(day-?\d+|admission|\d+-(hours|days))(-PA)?$", "", regex=True
    )
    cases.attrs["notes"] = notes
    return cases


def scan_binary(root: str | Path, class_name: str = "structure") -> pd.DataFrame:
    """Any images with masks: `images` + `masks`, the same below train / val / test, Carvana or ISIC, by folder name.

    Masks match by stem, also with a suffix such as `_mask` or `_segmentation`. Every image counts as a patient of its
    own; where several show one patient, set `cases["patient"]` before the split.
    """
    root, tables = Path(root), []
    for folder in [
        root,
        *(f for f in pairing.folders(root, depth=1)[1:] if f.name.lower() in pairing.SPLITS),
    ]:
        for images, masks in (
            ("images", "masks"),
            ("train", "train_masks"),
            ("ISIC*_Input", "ISIC*_GroundTruth"),
        ):
            found = [sorted(f for f in folder.glob(name) if f.is_dir()) for name in (images, masks)]
            for source, target in zip(*found):
                table = pairing.pair(source, [target], class_name)
                words = (
                    [folder.name.lower()]
                    if folder != root
                    else re.split("[-_]", source.name.lower())[1:]
                )
                table["split"] = next(
                    (pairing.SPLITS[word] for word in words if word in pairing.SPLITS), ""
                )
                tables.append(table)
            if all(found):
                break
    if not tables:
        raise DataError(
            f"{root}: no pair of folders images and masks; found {pairing.contents(root)}"
        )
    cases = pd.concat(tables, ignore_index=True)
    if cases["case"].duplicated().any():
        cases["case"] = cases["patient"] = cases["split"] + "_" + cases["case"]
    cases.attrs["notes"] = [note for table in tables for note in table.attrs["notes"]]
    return cases


def scan_palm(
    root: str | Path, class_names: Iterable[str] = ("atrophy", "detachment", "disc")
) -> pd.DataFrame:
    """PALM: `Training` and `Validation`, or `PALM` with them; in each `Images` and the masks, a folder a class.

    A class lies in `Lesion Masks/<Class>` or `<Class> Masks`, upper or lower case. An empty cell only says that there
    is no file: PALM has none where a lesion is absent, nor where nobody drew it. Training and Validation become train
    and val. The finding is the first letter of the name: N, H (high myopia) or P (pathological). The tree does not say
    which photographs show one patient, so every photograph counts as a patient of its own.

    Raises:
        DataError: no such tree, or some class has masks but one of `class_names` has no folder.
    """
    root, class_names, tables, notes = Path(root), list(class_names), [], []
    folders = [
        f for base in (root, root / "PALM") if base.is_dir() for f in pairing.folders(base, depth=1)
    ]
    parts = {
        f: _mask_folders(f)
        for f in folders
        if f.name.lower() in pairing.SPLITS and (f / "Images").is_dir()
    }
    if not parts:
        found = pairing.contents(root)
        raise DataError(
            f"{root}: no PALM tree; expected Training/Images and Validation/Images; found {found}"
        )
    known = sorted({name for masks in parts.values() for name in masks})
    for name in class_names:
        if known and name.lower() not in known:
            raise DataError(
                f"{root}: no masks for the class {name!r}; expected a folder 'Lesion Masks/{name}' or '{name} Masks', "
                f"found those of {', '.join(known)}; rename the folder or set class_names"
            )
    for part, masks in parts.items():
        notes += [
            f"{part.name}: no folder with masks of {name}"
            for name in class_names
            if name.lower() not in masks
        ]
        pairs = {
            n: pairing.pair(part / "Images", [masks[n.lower()]] if n.lower() in masks else [], n)
            for n in class_names
        }
        notes += [note for table in pairs.values() for note in table.attrs["notes"]]
        columns = {name: table[name] for name, table in pairs.items()}
        tables.append(
            pairs[class_names[0]].assign(split=pairing.SPLITS[part.name.lower()], **columns)
        )
    cases = pd.concat(tables, ignore_index=True)
    letter = cases["case"].str.extract(r"^([NHP])\d")[0]
    cases["finding"] = letter.map(
        {"N": "normal", "H": "high myopia", "P": "pathological myopia"}
    ).fillna("")
    cases.attrs["notes"] = notes
    return cases


def _mask_folders(part: Path) -> dict[str, Path]:
    """Class in lower case -> its folder `Lesion Masks/<Class>` or `<Class> Masks` in one part of PALM."""
    found: dict[str, Path] = {}
    for folder in pairing.folders(part, depth=1)[1:]:
        name = folder.name.lower()
        if name == "lesion masks":
            found |= {f.name.lower(): f for f in pairing.folders(folder, depth=1)[1:]}
        elif name.endswith(" masks"):
            found[name.removesuffix(" masks")] = folder
    return found
