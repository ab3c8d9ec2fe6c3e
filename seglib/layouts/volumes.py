"""Trees of CT and MRI volumes as case tables: RSNA, pairs of CT and labels, ACDC.

There is one row for each slice. Columns beside those of `layouts`: volume, slice (from 0 in the
displayed order), phase, finding, height, width, spacing_row_mm, spacing_col_mm, spacing_slice_mm
("" where unknown). For the task multiclass, `labels` names a label map or a folder with one mask
file for each organ, and there are two more columns where they differ from their default:
`annotated` names the classes that are labelled (by default all), and `label_numbers` says what the
numbers in the file mean, where it is not `cfg.label_map` that says so, see `numbers`.

Only headers are read, and the numbers of a few label files.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from .. import hosts
from ..errors import DataError, grouped
from ..files import folded
from ..formats import (
    channels,
    dicom_headers,
    mask_names,
    mask_pixels,
    nifti,
    segments,
    volumes,
)
from . import numbers, pairing, patients

SPACING = ("spacing_slice_mm", "spacing_row_mm", "spacing_col_mm")
# Columns that follow the masks in a table of volumes; a table of pictures has the first two.
COLUMNS = (
    "volume",
    "slice",
    "phase",
    "finding",
    "height",
    "width",
    "spacing_row_mm",
    "spacing_col_mm",
    "spacing_slice_mm",
)
# File name of labels without suffix: a_seg, a_seg_arterial, seg, segmentation, segmentations.
_LABELS = re.compile(r".*_seg(_.*)?|seg|segmentations?")
_VOLUME = re.compile(r"(.*_)?ct(_.*)?")

Row = dict[str, Any]


def scan_rsna_dicom(root: str | Path, cfg: Any) -> pd.DataFrame:
    """RSNA: `train_images/<patient>/<series>/<n>.dcm` with `segmentations/<series>.nii[.gz]`.

    Series without a segmentation are left out. The numbers in the files are class numbers, as in
    the competition (1 liver, 2 spleen ...), see `numbers`.

    Raises:
        DataError: no such tree, or a task that needs other masks.
    """
    root = Path(root)
    images_folder, labels_folder = root / "train_images", root / "segmentations"
    if not images_folder.is_dir() or not labels_folder.is_dir():
        raise DataError(
            f"{root}: no RSNA tree; expected train_images with segmentations; "
            f"found {pairing.contents(root)}"
        )
    folders = pairing.subfolders(images_folder)
    series = {path.name: path for folder in folders for path in pairing.subfolders(folder)}
    labels = nifti_files(labels_folder)
    label_numbers = numbers.of_files(labels.values(), cfg, documented=True)
    rows, notes = [], []
    for name, path in hosts.progress(labels.items(), desc="scan", leave=False):
        if name not in series:
            continue
        patient = series[name].parent.name
        volume = f"{patient}_{name}"
        rows += volume_rows(
            volume, patient, series[name], path, cfg, notes, label_numbers=label_numbers
        )
    notes += half_pairs(
        [path for name, path in series.items() if name not in labels],
        [path for name, path in labels.items() if name not in series],
    )
    return patients.stated(case_table(rows, notes, cfg), "by their folders in train_images")


def scan_ct_seg(root: str | Path, cfg: Any) -> pd.DataFrame:
    """Volumes and labels side by side, at the root or up to two levels below.

    - `<name>_ct.nii.gz`, or a DICOM folder, with `<name>_seg.nii.gz`, or with one mask file for
      each organ, or a DICOM series of labels, in `<name>_seg/`;
    - TotalSegmentator's `<case>/ct.nii.gz` with `<case>/segmentations/<organ>.nii.gz`.

    Labels are paired by name, and where a name fits several volumes, by their grids.

    Raises:
        DataError: no such tree, two volumes of one name, or a task that needs other masks.
    """
    root = Path(root)
    rows, notes = [], []
    for folder in pairing.folders(root, depth=2):
        rows += _named_pairs(folder, root, cfg, notes)
    if not rows:
        raise DataError(
            f"{root}: no CT with labels; expected *_ct.nii.gz with *_seg.nii.gz, or "
            f"<case>/ct.nii.gz with <case>/segmentations; found {pairing.contents(root)}"
            + "".join(f"; {note}" for note in notes[:3])
        )
    return with_patients(case_table(rows, notes, cfg))


def scan_acdc(root: str | Path, cfg: Any) -> pd.DataFrame:
    """ACDC: `patientNNN/patientNNN_frameFF.nii.gz` with `_gt`, with or without `training` above.

    The phase (ED or ES) and the finding (NOR, DCM, HCM, MINF, RV) come from `Info.cfg`; without
    that file they are "". The split is that of the tree where it has `testing` beside `training`.

    Raises:
        DataError: no such tree, or a task that needs other masks.
    """
    root = Path(root)
    folders = pairing.folders(root, depth=3)
    patient_folders = [folder for folder in folders if re.fullmatch(r"patient\d+", folder.name)]
    if not patient_folders:
        raise DataError(
            f"{root}: no ACDC tree; expected patient001/patient001_frame01.nii.gz with _gt; "
            f"found {pairing.contents(root)}"
        )
    patient_folders.sort(key=lambda folder: folder.name)
    parts = {"training": "train", "testing": "test"}
    has_test = any(folder.parent.name == "testing" for folder in patient_folders)
    rows, notes = [], []
    for folder in hosts.progress(patient_folders, desc="scan", leave=False):
        split = parts.get(folder.parent.name, "") if has_test else ""
        rows += _acdc_patient(folder, split, cfg, notes)
    return patients.stated(case_table(rows, notes, cfg), "by their folders")


# ---- rows and the table


def volume_rows(
    volume: str,
    patient: str,
    image: str | Path,
    labels: str | Path,
    cfg: Any,
    notes: list[str],
    grid: volumes.Grid | None = None,
    **more: str,
) -> list[Row]:
    """One row for each slice of a volume, in the displayed order.

    A volume that cannot be read gets one row: preparation sets it aside and says why.

    Args:
        volume: its name.
        patient: who it shows, or the name by which `patients.judged` finds out.
        image: a NIfTI file or the folder of a DICOM series; or the cell of several channels.
        labels: a label map, also as a DICOM series, or a folder with one mask file for each organ;
            or files of named segments, joined as channels are.
        notes: what is odd about the headers is appended to it.
        grid: that of the volume, where it has been read before.
        more: further columns, the same for all slices.
    """
    shared: Row = {
        "patient": patient,
        "image": channels.join(channels.split(image)),  # a link keeps its own path and suffix
        "volume": volume,
        "annotated": ",".join(cfg.class_names),
    }
    if segments.kind_of(labels):
        table = numbers.of_segments(labels, cfg)
        shared |= _segment_cells(labels, table, cfg)
        more = {**more, "label_numbers": table.cell}
        if table.problem:
            more.setdefault("problem", table.problem)
        notes += [f"{volume}: {table.note}"] if table.note else []
    else:
        labels = Path(labels)
        shared |= _mask_cells(labels, cfg)
    try:
        grid = grid or volumes.read_grid(channels.split(image)[0], **volumes.options(cfg))
    except DataError:
        return [{"case": volume, **shared, **more}]
    notes += [f"{volume}: {note}" for note in grid.notes]
    if grid.spacing_mm is None:
        shared |= dict.fromkeys(SPACING, "")
    else:
        shared |= {name: round(side, 6) for name, side in zip(SPACING, grid.spacing_mm)}
    if cfg.task == "multiclass" and volumes.is_organ_folder(labels):
        organs = volumes.organ_files(labels, cfg.class_names)
        # Where an organ's mask is missing, the pixels outside all masks may belong to that organ:
        # they are not annotated as background.
        if not set(cfg.class_names[1:]) <= set(organs):
            shared["annotated"] = ",".join(organs)
    depth, height, width = grid.shape
    shared |= {"height": height, "width": width, **more}
    return [{"case": f"{volume}_{k:03d}", "slice": k, **shared} for k in range(depth)]


def case_table(rows: list[Row], notes: list[str], cfg: Any) -> pd.DataFrame:
    """The case table of rows, with the mask columns of the task.

    Raises:
        DataError: two rows of one case.
    """
    columns = ["case", "patient", "split", "image", *cfg.mask_columns]
    has_volumes = any("volume" in row for row in rows)
    columns += COLUMNS if has_volumes else COLUMNS[:2]
    optional = {"annotated": ",".join(cfg.class_names), "label_numbers": "", "channels": ""}
    if cfg.task != "multiclass":
        del optional["annotated"]
    columns += optional
    cases = pd.DataFrame([{**dict.fromkeys(columns, ""), **row} for row in rows], columns=columns)
    problems = [row.get("problem", "") for row in rows]
    if any(problems):
        cases["problem"] = problems
    duplicates = cases[cases["case"].duplicated(keep=False)].sort_values("case")
    if len(duplicates):
        first, second = duplicates["image"].iloc[:2]
        raise DataError(
            f"{second}: the same case {duplicates['case'].iloc[0]!r} as {first}; rename one, or "
            "scan them one by one"
        )
    # A column that holds only its default says nothing.
    defaults = [name for name, value in optional.items() if (cases[name] == value).all()]
    cases = cases.drop(columns=defaults)
    if "label_numbers" in cases:
        notes += numbers.notes(cases["label_numbers"], cfg)
    cases.attrs["notes"] = grouped(notes)
    return cases


def with_patients(cases: pd.DataFrame) -> pd.DataFrame:
    """The case table with patients by the names, and by the PatientID of DICOM series."""
    cases = patients.judged(cases)
    if "volume" not in cases:
        return cases
    image_of = dict(zip(cases["volume"], map(channels.first_file, cases["image"])))
    ids = {
        volume: dicom_headers.patient_id(image)
        for volume, image in image_of.items()
        if volume and volumes.is_series(image)
    }
    return patients.identified(cases, ids)


def half_pairs(volumes_alone: list[Path], labels_alone: list[Path]) -> list[str]:
    """Notes on volumes without labels and on labels without a volume, which are left out."""
    return [
        *pairing.halves(volumes_alone, "volume without labels", "volumes without labels"),
        *pairing.halves(labels_alone, "labels without a volume", "labels without a volume"),
    ]


def nifti_files(folder: Path, whole_name: bool = False) -> dict[str, Path]:
    """The visible NIfTI files of a folder by name, without `.nii.gz` or as the whole name."""
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(volumes.SUFFIXES)
        # A broken link is taken up, so that preparation says what is wrong with it.
        and (file.is_file() or file.is_symlink())
        and not file.name.startswith(".")
    ]
    return {file.name if whole_name else nifti.stem(file.name): file for file in files}


def segment_files(folder: Path) -> dict[str, Path]:
    """The DICOM files of named segments (SEG, RTSTRUCT) in a folder, by their names without suffix.

    Below it, a folder that holds only one such file stands for it.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        is_hidden = path.name.startswith(".")
        if path.is_dir() and not is_hidden:
            inside = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
            if len(inside) == 1 and segments.kind_of(inside[0]):
                files[path.name] = inside[0]
        elif not is_hidden and segments.kind_of(path) in (segments.SEG, segments.RTSTRUCT):
            files[path.stem] = path
    return files


def _mask_cells(labels: Path, cfg: Any) -> dict[str, str]:
    """The mask columns of the task for one volume.

    Raises:
        DataError: a multilabel network cannot use a label map.
    """
    if cfg.task == "multiclass":
        return {"labels": os.path.abspath(labels)}
    if volumes.is_organ_folder(labels):
        organs = volumes.organ_files(labels, cfg.class_names)
        return {
            name: mask_pixels.UNION.join(os.path.abspath(file) for file in organs.get(name, ()))
            for name in cfg.class_names
        }
    if cfg.task == "multilabel":
        raise DataError(
            f"{labels}: one label map, but a multilabel network needs a mask file a class; set "
            "task='multiclass' with the background as first class"
        )
    return {cfg.class_names[0]: os.path.abspath(labels)}


def _segment_cells(labels: Path, table: numbers.OfSegments, cfg: Any) -> Row:
    """The mask columns and `annotated` of a volume whose labels are a file of named segments."""
    path = channels.join(channels.files(labels))
    if cfg.task == "multiclass":
        # A class that the file does not name may be anywhere outside its segments.
        complete = set(cfg.class_names[1:]) <= set(table.classes)
        names = cfg.class_names if complete else table.classes
        return {"labels": path, "annotated": ",".join(names)}
    return {name: path if name in table.classes else "" for name in cfg.class_names}


# ---- ACDC


def _acdc_patient(folder: Path, split: str, cfg: Any, notes: list[str]) -> list[Row]:
    """The rows of one patient, who has a volume for each labelled frame."""
    phases, group = _acdc_info(folder / "Info.cfg")
    files, rows, unlabelled = nifti_files(folder), [], []
    for name, path in files.items():
        frame = re.fullmatch(r".*_frame(\d+)", name)
        if not frame:
            continue
        if f"{name}_gt" not in files:
            unlabelled.append(path)
            continue
        labels = files[f"{name}_gt"]
        rows += volume_rows(
            name,
            folder.name,
            path,
            labels,
            cfg,
            notes,
            split=split,
            phase=phases.get(int(frame[1]), ""),
            finding=group,
            label_numbers=numbers.of_files([labels], cfg),
        )
    labels_alone = [
        path
        for name, path in files.items()
        if name.endswith("_gt") and name.removesuffix("_gt") not in files
    ]
    notes += half_pairs(unlabelled, labels_alone)
    return rows


def _acdc_info(path: Path) -> tuple[dict[int, str], str]:
    """From `Info.cfg`: number of the frame -> its phase, and the patient's group (finding)."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    frames = re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)", text, re.MULTILINE)
    group = re.search(r"^\s*Group\s*:\s*(\w+)", text, re.MULTILINE)
    return {int(frame): phase for phase, frame in frames}, group[1] if group else ""


# ---- volumes and labels side by side


def _named_pairs(folder: Path, root: Path, cfg: Any, notes: list[str]) -> list[Row]:
    """The rows of volumes called `*_ct*` or `ct` in a folder that have labels called `*_seg*`."""
    paths = {path.name: path for path in pairing.subfolders(folder)}
    paths |= nifti_files(folder, whole_name=True)
    labels = [name for name in paths if _LABELS.fullmatch(nifti.stem(name))]
    pairs, grids = _pair_labels(labels, paths, cfg, notes)
    labels_alone, unclear = [], {}
    for label in labels:
        if label in pairs.values():
            continue
        owner = next((n for n in _candidates(label, pairs, by_name=False)), None)
        organs = volumes.is_organ_folder(paths[label])
        if organs and not volumes.organ_files(paths[label], cfg.class_names):
            classes = ", ".join(cfg.class_names)
            notes.append(f"{label}: no mask file of {classes}; expected such as liver.nii.gz")
        elif owner and _fits(grids[owner], paths[label], cfg):
            unclear[owner] = (
                f"which labels are its own is not clear: {pairs[owner]} or {label}; move one away"
            )
        else:
            labels_alone.append(paths[label])
    others = [name for name in paths if name not in pairs and name not in labels]
    volumes_alone = [
        paths[name]
        for name in others
        if _VOLUME.fullmatch(nifti.stem(name)) or (labels and paths[name].is_file())
    ]
    notes += half_pairs(volumes_alone, labels_alone)
    rows = []
    for name, label in pairs.items():
        volume = nifti.stem(name)
        case = re.split(r"_ct(?=_|$)", volume)[0]
        if volume == "ct":  # all cases call it so: only their folders tell them apart
            volume, case = folder.name, ""
        # A patient may have a folder with several volumes.
        patient = (folder.relative_to(root) / case).as_posix()
        if patient == ".":
            patient = folder.name
        columns = {"problem": unclear[name]} if name in unclear else {}
        if not volumes.is_organ_folder(paths[label]):
            columns["label_numbers"] = numbers.of_files([paths[label]], cfg)
        rows += volume_rows(
            volume, patient, paths[name], paths[label], cfg, notes, grids[name], **columns
        )
    return rows


def _pair_labels(
    labels: list[str], paths: dict[str, Path], cfg: Any, notes: list[str]
) -> tuple[dict[str, str], dict[str, volumes.Grid | None]]:
    """Name of a volume -> name of its labels; and the grids of all volumes that were looked at.

    Labels are paired by name first. Those that are left are paired by their grid, with a volume
    whose name begins in the same way.
    """
    grids: dict[str, volumes.Grid | None] = {}
    pairs: dict[str, str] = {}
    for by_name in (True, False):
        for label in labels:
            if label in pairs.values():
                continue
            fitting = []
            for name in _candidates(label, paths, by_name):
                if name in pairs or name in labels:
                    continue
                if name not in grids:
                    grids[name] = _grid(paths[name], cfg, notes)
                # A volume that has the right name but cannot be read is kept: preparation says why.
                unreadable = by_name and grids[name] is None and paths[name].is_file()
                if unreadable or _fits(grids[name], paths[label], cfg):
                    fitting.append(name)
            if fitting and (by_name or len(fitting) == 1):
                pairs[fitting[0]] = label
            if fitting and not by_name:
                if len(fitting) > 1:
                    notes.append(
                        f"{label}: not paired, as it has the grid of several volumes "
                        f"({', '.join(fitting)}); name it after one of them"
                    )
                else:
                    notes.append(f"{label}: paired with {fitting[0]}, whose grid it has")
    return pairs, grids


def _candidates(label: str, names: Iterable[str], by_name: bool) -> list[str]:
    """The names of the volumes to which labels may belong, by the whole name or its beginning."""
    stem = folded(nifti.stem(label))
    stems = {name: folded(nifti.stem(name)) for name in names}
    if by_name and "_seg" in stem:
        wanted = (stem.replace("_seg", "_ct"), stem.replace("_seg", ""))
        return [name for name, other in stems.items() if other in wanted]
    if by_name:
        return [name for name, other in stems.items() if other == "ct"]
    beginning = stem.split("_seg")[0] if "_seg" in stem else "ct"
    return [name for name, other in stems.items() if mask_names.begins_with(other, beginning)]


def _grid(path: Path, cfg: Any, notes: list[str]) -> volumes.Grid | None:
    """The grid of a volume; None where it cannot be read.

    A file that cannot be read gets a note; a folder gets none, because it need not hold a volume.
    """
    try:
        return volumes.read_grid(path, **volumes.options(cfg))
    except DataError as error:
        if not path.is_dir():
            notes.append(f"left out: {error}")
        return None


def _fits(grid: volumes.Grid | None, labels: Path, cfg: Any) -> bool:
    """Whether a label map, or the first organ mask in a folder, has this grid."""
    if grid is None:
        return False
    if volumes.is_organ_folder(labels):
        organs = volumes.organ_files(labels, cfg.class_names)
        files = [file for files in organs.values() for file in files]
        if not files:
            return False
        labels = files[0]
    return volumes.lies_on(grid, labels)
