"""One scan a system of volumes: CT and MRI trees become the case table, one row a slice. `layouts.scan` calls them.

Beside the columns of `layouts`: labels (a label map, or a folder with one mask file an organ), volume, slice (from 0 in
the displayed order for volumes; the number in the name for pictures), phase, height, width, spacing_row_mm,
spacing_col_mm, spacing_slice_mm ("" where unknown). Where some sets label only some classes, `annotated` names them.
`label_numbers` is "class" where the numbers in the file are class numbers already and `cfg.label_map` must not be
applied. Only headers are read, and the numbers of a few label files.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import hosts, presets
from ..errors import DataError
from ..formats import images, nifti, volumes
from . import pairing

COLUMNS = """case patient split image labels volume slice phase finding height width spacing_row_mm spacing_col_mm
    spacing_slice_mm annotated label_numbers""".split()
# Names of single slices. MSD copies put the running number of the slice first and the volume last.
SLICE_NAMES = (
    r"(?P<slice>\d+)_(?P<volume>[a-z]+_\d+)",  # 10019_spleen_3: slice 10019 of volume spleen_3
    r"(?P<volume>(?P<patient>[A-Za-z]*\d+)_[A-Za-z]*\d+)_(?P<slice>\d+)",  # patient_series_slice of the RSNA set
    r"(?P<volume>.+)_(?P<slice>\d+)",  # 10002_425: slice 425 of case 10002
)
_FOLDERS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"))


def scan_rsna(root: str | Path, cfg) -> pd.DataFrame:
    """Abdominal CT in any of these trees:

    - `train_images/<patient>/<series>/<n>.dcm` with `segmentations/<series>.nii[.gz]`; other series are left out;
    - `images` with `labels` (or `masks`), at the root or one level below: slices `<patient>_<series>_<slice>.png`,
      `<case>_<slice>.png` or `<slice>_<organ>_<case>.jpg` (see `SLICE_NAMES`), or NIfTI volumes, of equal names;
    - `<name>_ct.nii.gz`, or a DICOM folder, with `<name>_seg.nii.gz` or one mask file an organ in `<name>_seg/`; and
      TotalSegmentator's `<case>/ct.nii.gz` with `<case>/segmentations/<organ>.nii.gz`.

    Labels are paired by name, and where a name fits several volumes, by their grids. In the first two trees the numbers
    are class numbers, as the RSNA competition has them (1 liver, 2 spleen …), unless larger ones occur: the `label_map`
    of the preset, which is TotalSegmentator's, is then applied, as is one that differs from the preset's.

    Raises:
        DataError: no such tree, or two slices of one name.
    """
    root, rows, notes = Path(root), [], []
    if (root / "train_images").is_dir() and (root / "segmentations").is_dir():
        rows = _rsna_dicom(root, cfg, notes)
    else:
        for folder in pairing.folders(root, depth=2) if root.is_dir() else ():
            rows += _slices_and_volumes(
                folder, cfg, notes, "", folder.parent == root or folder == root
            )
            rows += _paired_by_name(folder, cfg, notes)
    if not rows:
        found = pairing.contents(root)
        raise DataError(
            f"{root}: no CT of the rsna system; expected train_images with segmentations, images with labels, "
            f"*_ct.nii.gz with *_seg.nii.gz, or <case>/ct.nii.gz with <case>/segmentations; found {found}"
        )
    return _table(rows, notes, cfg)


def scan_cardiac(root: str | Path, cfg) -> pd.DataFrame:
    """Short-axis MRI: ACDC, `patientNNN/patientNNN_frameFF.nii.gz` with `_gt`, with or without `training` above; or
    label-map images (or NIfTI) in `images` and `masks`, also below `train`, `val` and `test`.

    The phase (ED or ES) and the finding (NOR, DCM, HCM, MINF, RV) come from `Info.cfg`, "" without one. The split is
    the tree's own only where it has more than `training`. Names that begin with `patientNNN` share that patient; other
    pictures are one each.

    Raises:
        DataError: no such tree.
    """
    root, rows, notes = Path(root), [], []
    below = pairing.folders(root, depth=3) if root.is_dir() else []
    patients = [folder for folder in below if re.fullmatch(r"patient\d+", folder.name)]
    patients.sort(key=lambda folder: folder.name)
    tested = any(folder.parent.name == "testing" for folder in patients)
    for folder in hosts.progress(patients, desc="scan", leave=False):
        split = (
            {"training": "train", "testing": "test"}.get(folder.parent.name, "") if tested else ""
        )
        rows += _acdc_patient(folder, split, cfg, notes)
    if not patients:
        for folder in (
            [root, *(f for f in below if f.parent == root and f.name.lower() in pairing.SPLITS)]
            if below
            else ()
        ):
            rows += _slices_and_volumes(
                folder, cfg, notes, pairing.SPLITS.get(folder.name.lower(), ""), True, plain=True
            )
        if len({row["case"] for row in rows}) < len(
            rows
        ):  # train and val number their images alike
            for row in rows:
                row |= {name: f"{row['split']}_{row[name]}" for name in ("case", "patient")}
        for row in rows:
            row["patient"] = (re.match(r"patient\d+", row["patient"]) or [row["patient"]])[0]
    if not rows:
        found = pairing.contents(root)
        raise DataError(
            f"{root}: no MRI of the cardiac system; expected patient001/patient001_frame01.nii.gz with _gt, or "
            f"train/images with train/masks; found {found}"
        )
    return _table(rows, notes, cfg)


def _table(rows: list[dict[str, Any]], notes: list[str], cfg) -> pd.DataFrame:
    cases = pd.DataFrame([{**dict.fromkeys(COLUMNS, ""), **row} for row in rows])[COLUMNS]
    twice = cases[cases["case"].duplicated(keep=False)].sort_values("case")
    if len(twice):
        one, other = twice["image"].iloc[:2]
        raise DataError(
            f"{other}: the same case {twice['case'].iloc[0]!r} as {one}; rename one, or scan them one by one"
        )
    for column, usual in (("annotated", ",".join(cfg.class_names)), ("label_numbers", "")):
        if (cases[column] == usual).all():
            cases = cases.drop(columns=column)
    if "label_numbers" in cases:
        numbers = f"0 to {cfg.n_classes - 1}"
        notes.append(
            f"labels: numbers {numbers} are taken as class numbers, not as TotalSegmentator's (label_map)"
        )
    cases.attrs["notes"] = notes
    return cases


# ---- the trees


def _rsna_dicom(root: Path, cfg, notes: list[str]) -> list[dict[str, Any]]:
    series = {
        f.name: f
        for patient in pairing.folders(root / "train_images", depth=1)[1:]
        for f in _subfolders(patient)
    }
    labels = _nifti_files(root / "segmentations")
    rows, direct = [], _are_classes(labels.values(), cfg)
    for name, path in hosts.progress(labels.items(), desc="scan", leave=False):
        if name not in series:
            notes.append(f"segmentations/{path.name}: no series of that number in train_images")
            continue
        patient = series[name].parent.name
        rows += _volume_rows(
            f"{patient}_{name}", patient, series[name], path, cfg, notes, label_numbers=direct
        )
    if left := [name for name in series if name not in labels]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        notes.append(
            f"{len(left)} series without a segmentation were left out: {', '.join(left[:3])}{more}"
        )
    return rows


def _slices_and_volumes(
    folder: Path, cfg, notes: list[str], split: str, near: bool, plain: bool = False
) -> list[dict[str, Any]]:
    """Pairs of equal names in `images` and `labels` (or `masks`); `plain`: a picture is its own patient and case."""
    pairs = [(folder / one, folder / other) for one, other in _FOLDERS]
    pairs = [pair for pair in pairs if near and all(part.is_dir() for part in pair)][:1]
    rows = []
    for pictures, labels in pairs:
        table = pairing.pair(pictures, [labels], "labels")
        notes += table.attrs["notes"]
        maps = _nifti_files(labels)
        direct = _are_classes([path for path in [*table["labels"], *maps.values()] if path], cfg)
        for case in table.to_dict("records"):
            found = (
                None
                if plain
                else next(filter(None, (re.fullmatch(n, case["case"]) for n in SLICE_NAMES)), None)
            )
            if found:
                parts = found.groupdict()
                case |= {"volume": parts["volume"], "slice": int(parts["slice"])}
                case |= {"case": f"{parts['volume']}_{case['slice']:03d}"}
                case["patient"] = parts.get("patient") or parts["volume"]
            rows.append(
                {
                    **case,
                    "split": split,
                    "label_numbers": direct,
                    "annotated": ",".join(cfg.class_names),
                }
            )
        for name, path in _nifti_files(pictures).items():
            label = maps.get(name) or maps.get(
                name.removesuffix("_0000")
            )  # nnU-Net numbers its channels
            if label is None:
                notes.append(f"{path.name}: no label map of that name in {labels.name}")
                continue
            maps = {key: file for key, file in maps.items() if file != label}
            rows += _volume_rows(
                name, name, path, label, cfg, notes, split=split, label_numbers=direct
            )
        notes += [
            f"{label.name}: labels with no volume of that name in {pictures.name}"
            for label in maps.values()
        ]
    return rows


def _paired_by_name(folder: Path, cfg, notes: list[str]) -> list[dict[str, Any]]:
    """Volumes with `_ct` in their name (or called `ct`) and their labels with `_seg`, in one folder."""
    there = {**{f.name: f for f in _subfolders(folder)}, **_nifti_files(folder, whole=True)}
    stems = {name: nifti.stem(name) for name in there}
    is_label = re.compile(r".*_seg(_.*)?|seg|segmentations?").fullmatch
    labels = [name for name, stem in stems.items() if is_label(stem)]
    grids: dict[str, volumes.Grid | None] = {}
    taken: dict[str, str] = {}
    for exact in (
        True,
        False,
    ):  # by its name first; else by its grid, among volumes that share its beginning
        for label in labels:
            stem = stems[label]
            wanted = (
                ["ct"]
                if "_seg" not in stem
                else [stem.replace("_seg", "_ct"), stem.replace("_seg", "")]
            )
            begin = stem.split("_seg")[0] if "_seg" in stem else "ct"
            for name, other in stems.items():
                if name in taken or label in taken.values() or name in labels:
                    continue
                if (other in wanted) if exact else other.startswith(begin):
                    if name not in grids:
                        grids[name] = _grid(there[name], cfg, notes)
                    unread = (
                        exact and grids[name] is None and there[name].is_file()
                    )  # preparation will say why
                    if unread or (grids[name] and _fits(grids[name], there[label], cfg)):
                        taken[name] = label
                        notes += (
                            [] if exact else [f"{label}: paired with {name}, whose grid it has"]
                        )
    for label in labels:
        if label not in taken.values():
            notes.append(f"{label}: no volume with its name and its grid")
    rows = []
    for name, label in taken.items():
        own = stems[name] == "ct"
        volume = folder.name if own else stems[name]
        patient = folder.name if own else re.split(r"_ct(?=_|$)", volume)[0]
        rows += _volume_rows(
            volume, patient, there[name], there[label], cfg, notes, grid=grids[name]
        )
    return rows


def _acdc_patient(folder: Path, split: str, cfg, notes: list[str]) -> list[dict[str, Any]]:
    about = folder / "Info.cfg"
    said = about.read_text(encoding="utf-8", errors="replace") if about.is_file() else ""
    phases = {
        int(n): phase for phase, n in re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)", said, re.MULTILINE)
    }
    group = (re.findall(r"^\s*Group\s*:\s*(\w+)", said, re.MULTILINE) or [""])[0]
    files, rows = _nifti_files(folder), []
    for name, path in files.items():
        frame = re.fullmatch(r".*_frame(\d+)", name)
        if not frame:
            continue
        if f"{name}_gt" not in files:
            notes.append(f"{path.name}: no labels ({name}_gt.nii.gz); left out")
            continue
        phase = phases.get(int(frame[1]), "")
        known = {"split": split, "phase": phase, "finding": group}
        rows += _volume_rows(name, folder.name, path, files[f"{name}_gt"], cfg, notes, **known)
    alone = [
        path for name, path in files.items() if name.endswith("_gt") and name[:-3] not in files
    ]
    notes += [
        f"{path.name}: labels with no volume {path.name.replace('_gt', '')} beside them"
        for path in alone
    ]
    return rows


# ---- their parts


def _volume_rows(
    volume: str,
    patient: str,
    image: Path,
    labels: Path,
    cfg,
    notes: list[str],
    grid: Any = None,
    **more: str,
) -> list[dict[str, Any]]:
    """A row a slice, in the displayed order; one row for a volume that cannot be read: preparation sets it aside."""
    same = {
        "patient": patient,
        "image": str(image.resolve()),
        "labels": str(labels.resolve()),
        "volume": volume,
    }
    try:
        grid = grid or volumes.read_grid(image, **volumes.options(cfg))
    except DataError:
        return [{"case": volume, **same, "annotated": ",".join(cfg.class_names), **more}]
    notes += [f"{volume}: {note}" for note in grid.notes]
    sides = [""] * 3 if grid.spacing_mm is None else [round(side, 6) for side in grid.spacing_mm]
    names = list(cfg.class_names)
    if labels.is_dir():
        found = volumes.organ_files(labels, names)
        # With an organ missing, a pixel outside the others is not known to be background.
        names = names if set(names[1:]) <= set(found) else list(found)
    same |= {"height": grid.shape[1], "width": grid.shape[2]}
    same |= dict(zip(("spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"), sides))
    same |= {"annotated": ",".join(names), "label_numbers": "", **more}
    return [{"case": f"{volume}_{k:03d}", "slice": k, **same} for k in range(grid.shape[0])]


def _are_classes(labels: Iterable[str | Path], cfg, most: int = 8) -> str:
    """ "class" where the numbers in label files are class numbers, although the preset's label_map is set."""
    labels, usual = (
        [str(path) for path in labels],
        presets.PRESETS[cfg.preset].full.get("label_map"),
    )
    if (
        not usual
        or cfg.label_map != usual
        or cfg.mask_encoding not in ("auto", "index")
        or not labels
    ):
        return ""
    chosen = [labels[i] for i in np.unique(np.linspace(0, len(labels) - 1, most).astype(int))]
    larger = labelled = 0
    if volumes.is_volume(labels[0]):
        chosen = chosen[:1]  # a whole volume tells enough, and takes a second
    for path in chosen:
        try:
            numbers = (
                volumes.read_numbers(path)
                if volumes.is_volume(path)
                else images.read_pixels(path)[0]
            )
        except DataError:
            continue  # preparation will name it
        if numbers.ndim > 3:
            return ""
        labelled += int(((numbers > 0) & (numbers != images.IGNORE)).sum())
        larger += int(((numbers >= cfg.n_classes) & (numbers != images.IGNORE)).sum())
    # A stray number must not turn the meaning of all others round; its own file will be set aside.
    return "" if larger > labelled / 100 else "class"


def _grid(path: Path, cfg, notes: list[str]) -> Any:
    """The grid of a volume; None where it cannot be read, with a note if it is a file (a folder may be anything)."""
    try:
        return volumes.read_grid(path, **volumes.options(cfg))
    except DataError as error:
        notes += [f"left out: {error}"] if path.is_file() else []
        return None


def _fits(grid: Any, labels: Path, cfg) -> bool:
    """Whether labels lie on a grid: a label map, or the first of the organ masks in a folder."""
    if labels.is_dir():
        files = [
            file
            for files in volumes.organ_files(labels, cfg.class_names).values()
            for file in files
        ]
        if not files:
            return False
        labels = files[0]
    try:
        volumes.align(grid, labels)
    except DataError:
        return False
    return True


def _nifti_files(folder: Path, whole: bool = False) -> dict[str, Path]:
    """Name without `.nii.gz` (or the `whole` name) -> file."""
    files = [
        f
        for f in sorted(folder.iterdir())
        if f.name.lower().endswith(volumes.SUFFIXES) and f.is_file()
    ]
    return {f.name if whole else nifti.stem(f.name): f for f in files if not f.name.startswith(".")}


def _subfolders(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith(".")]
