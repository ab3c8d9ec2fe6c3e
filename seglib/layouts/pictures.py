"""Published sets of pictures as case tables: chest X-rays, PALM, Carvana, ISIC.

The columns are those of `layouts`, and `finding` where the names of the images tell it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .. import tables
from ..errors import DataError
from . import pairing, patients

# Folder of the X-rays and folder of the masks. The latter holds the masks, or the folders leftMask
# and rightMask. The order decides where several pairs exist.
_CHEST_FOLDERS = (
    ("CXR_png", "ManualMask"),  # Montgomery
    ("images", "."),  # the COVID set
    ("img", "mask"),  # Shenzhen
    ("CXR_png", "masks"),  # both sets in one folder, as on Kaggle
    ("CXR_png", "mask"),
)


def scan_chest(
    root: str | Path, task: str = "binary", class_names: Iterable[str] = ("lung",)
) -> pd.DataFrame:
    """Chest X-rays: the Montgomery tree, the Shenzhen tree, or several below one root.

    The end of the stem is the finding: `_0` normal, `_1` tuberculosis. Left and right masks are
    united. Patients are told apart by the names, see `patients.by_names`.

    Raises:
        DataError: no such tree, or a task that needs other masks.
    """
    root = Path(root)
    tables = [table for folder in pairing.folders(root, depth=3) for table in _chest_tables(folder)]
    if not tables:
        raise DataError(
            f"{root}: no chest X-rays; expected MontgomerySet/CXR_png with ManualMask/leftMask and "
            f"rightMask, or img with mask (Shenzhen); found {pairing.contents(root)}"
        )
    cases = _concatenate(tables)
    ending = cases["case"].str.extract(r"_([01])$")[0]
    cases["finding"] = ending.map({"0": "normal", "1": "tuberculosis"}).fillna("")
    cases["patient"] = cases["case"].str.replace(r"_[01]$", "", regex=True)
    return patients.judged(pairing.for_task(cases, "mask", task, class_names, root))


def scan_carvana(
    root: str | Path, task: str = "binary", class_names: Iterable[str] = ("structure",)
) -> pd.DataFrame:
    """Carvana: `train` with `train_masks`. The 16 pictures of a car count as those of a patient.

    Raises:
        DataError: no such tree, or a task that needs other masks.
    """
    root = Path(root)
    images, masks = root / "train", root / "train_masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(
            f"{root}: no Carvana tree; expected train and train_masks; "
            f"found {pairing.contents(root)}"
        )
    cases = pairing.pair(images, [masks], "mask")
    return patients.judged(pairing.for_task(cases, "mask", task, class_names, root))


def scan_isic(
    root: str | Path, task: str = "binary", class_names: Iterable[str] = ("structure",)
) -> pd.DataFrame:
    """ISIC: folders `ISIC…_Input` with `ISIC…_GroundTruth`, one or several parts.

    The split comes from the folder's name, such as Training. Patients are told apart by the names,
    see `patients.by_names`: the pictures of ISIC are each of a patient of its own.

    Raises:
        DataError: no such tree, or a task that needs other masks.
    """
    root = Path(root)
    inputs, truths = (
        {_isic_part(folder): folder for folder in sorted(root.glob(pattern)) if folder.is_dir()}
        for pattern in ("ISIC*_Input", "ISIC*_GroundTruth")
    )
    tables, notes = [], []
    for part, folder in inputs.items():
        if part not in truths:
            notes.append(f"{folder.name}: no folder with its ground truth; left out")
            continue
        table = pairing.pair(folder, [truths[part]], "mask")
        table["split"] = part[1]
        tables.append(table)
    if not tables:
        raise DataError(
            f"{root}: no ISIC tree; expected folders ISIC..._Input and ISIC..._GroundTruth; "
            f"found {pairing.contents(root)}"
        )
    cases = _concatenate(tables, notes)
    # Parts may number their pictures alike.
    if cases["case"].duplicated().any():
        cases["case"] = cases["patient"] = cases["split"] + "_" + cases["case"]
    return patients.judged(pairing.for_task(cases, "mask", task, class_names, root))


def scan_palm(
    root: str | Path,
    task: str = "multilabel",
    class_names: Iterable[str] = ("atrophy", "detachment", "disc"),
) -> pd.DataFrame:
    """PALM: `Training` and `Validation`, or `PALM` with them; in each `Images` and the masks.

    The masks of a class lie in `Lesion Masks/<Class>` or `<Class> Masks`, in upper or lower case.
    An empty cell only says that there is no file: PALM has none where a lesion is absent, and none
    where nobody drew it. Training and Validation become train and val. The finding is the first
    letter of the name: N (normal), H (high myopia) or P (pathological myopia). Patients are told
    apart by the names, see `patients.by_names`: those of PALM are each of a patient of its own.

    Raises:
        DataError: no such tree, one of `class_names` has no folder although others have, or the
            task is multiclass.
    """
    root, class_names = Path(root), list(class_names)
    parts = _palm_parts(root)
    if not parts:
        raise DataError(
            f"{root}: no PALM tree; expected Training/Images and Validation/Images; "
            f"found {pairing.contents(root)}"
        )
    if task == "multiclass":
        raise DataError(
            f"{root}: the masks are a file a class and may overlap, but a multiclass network needs "
            "one label map an image; set task='multilabel', or 'binary' with one class"
        )
    # A tree without any masks is allowed; one that lacks only those of some class is a mistake.
    existing = palm_classes(root)
    for name in class_names:
        if existing and name.lower() not in existing:
            raise DataError(
                f"{root}: no masks for the class {name!r}; expected a folder 'Lesion Masks/{name}' "
                f"or '{name} Masks', found those of {', '.join(existing)}; rename the folder or "
                "set class_names"
            )
    part_tables, notes = [], []
    for part, masks in parts.items():
        missing = [name for name in class_names if name.lower() not in masks]
        notes += [f"{part.name}: no folder with masks of {name}" for name in missing]
        by_class = {name: masks.get(name.lower()) for name in class_names}
        table = pairing.pair_classes(part / "Images", by_class)
        table["split"] = tables.SPLITS[part.name.lower()]
        part_tables.append(table)
    cases = _concatenate(part_tables, notes)
    letter = cases["case"].str.extract(r"^([NHP])\d")[0]
    findings = {"N": "normal", "H": "high myopia", "P": "pathological myopia"}
    cases["finding"] = letter.map(findings).fillna("")
    return patients.judged(cases)


def palm_classes(root: str | Path) -> tuple[str, ...]:
    """The classes in lower case, sorted, whose masks a PALM tree has; () where it is no such tree.

    Used in `02_palm_training`.
    """
    return tuple(sorted({name for masks in _palm_parts(Path(root)).values() for name in masks}))


def _chest_tables(folder: Path) -> list[pd.DataFrame]:
    """The table of the X-rays in a folder, by the first of `_CHEST_FOLDERS` that fits, as a list.

    The list is empty where none fits.
    """
    for images, masks in _CHEST_FOLDERS:
        if not (folder / images).is_dir():
            continue
        sides = [folder / masks / side for side in ("leftMask", "rightMask")]
        if all(side.is_dir() for side in sides):
            return [pairing.pair(folder / images, sides, "mask")]
        if masks in ("mask", "masks") and (folder / masks).is_dir():
            return [pairing.pair(folder / images, [folder / masks], "mask")]
    return []


def _isic_part(folder: Path) -> tuple[str, str]:
    """What the name of an ISIC folder says: ("isic2018", "train"), with "" for no part."""
    year, *parts = re.split("[-_]", folder.name.lower())
    return year, next((tables.SPLITS[part] for part in parts if part in tables.SPLITS), "")


def _palm_parts(root: Path) -> dict[Path, dict[str, Path]]:
    """Part of the split, below `root` or `root/PALM` -> its mask folders by class."""
    bases = [base for base in (root, root / "PALM") if base.is_dir()]
    folders = [folder for base in bases for folder in pairing.folders(base, depth=1)]
    return {
        folder: _palm_masks(folder)
        for folder in folders
        if folder.name.lower() in tables.SPLITS and (folder / "Images").is_dir()
    }


def _palm_masks(part: Path) -> dict[str, Path]:
    """Class in lower case -> its folder `Lesion Masks/<Class>` or `<Class> Masks`."""
    masks: dict[str, Path] = {}
    for folder in pairing.subfolders(part):
        name = folder.name.lower()
        if name == "lesion masks":
            masks |= {lesion.name.lower(): lesion for lesion in pairing.subfolders(folder)}
        elif name.endswith(" masks"):
            masks[name.removesuffix(" masks")] = folder
    return masks


def _concatenate(tables: list[pd.DataFrame], notes: Iterable[str] = ()) -> pd.DataFrame:
    """One table of several, with the notes of all."""
    cases = pd.concat(tables, ignore_index=True)
    cases.attrs["notes"] = [*notes, *(note for table in tables for note in table.attrs["notes"])]
    return cases
