"""Case table -> data report, resized store on disk, split by patient.

`build` decodes every file once and keeps its pixels under a key made of the files and of the
settings on which the pixels depend. The split is not part of that: it is a column that is computed
anew at every call, so that all seeds, shares and folds use one store. Taught in
`01_data_preparation`.
"""

import dataclasses
import io
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from . import checks, config, hosts, meanings, stores
from .case_io import (
    check_table,
    content,
    edge_agreement,
    inverted_flags,
    notes_of,
    read_image,
    read_mask,
    read_masks,
    warnings_of,
)
from .case_io import read_truth as read_truth  # notebooks read the truth of single cases
from .checks import DataReport
from .errors import DataError
from .formats import channels, images, mask_pixels, stacks, volumes
from .layouts import patients

# The columns on which the pixels of a case depend, besides those of its masks.
PIXEL_COLUMNS = ("case", "image", "slice", "label_numbers", "annotated")


@dataclass
class Store:
    """Resized images and masks on disk, and which part each case is in.

    Attributes:
        folder: holds `images.npy` (N, H, W, C) uint8 and `masks.npy` (N, H, W, K) uint8, 255 =
            ignored; K is the number of classes for multilabel, else 1.
        cases: the case table of what can be used; `split` is train, val or test, and `row` is the
            row in the arrays, which may hold more cases than the table.
        report: what was checked and found, and what the split decided.
        info: how the pixels were made, with `class_names` and `inverted` (class -> bool).
        checked: the cases before they were split; None in a store that was made by hand.
    """

    folder: Path
    cases: pd.DataFrame
    report: DataReport
    info: dict[str, Any] = dataclasses.field(repr=False)
    checked: checks.Checked | None = dataclasses.field(default=None, repr=False)

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks, memory-mapped read-only: nothing is read until a row is touched."""
        return stores.open_arrays(self.folder)

    def split(self, cfg) -> "Store":
        """The same pixels with the split of another config; no file is read or written.

        Equal images are set aside first, so that none is in two parts. Changes to `cases` are lost:
        to leave out cases, filter the case table and call `build`.
        """
        if self.checked is None:
            raise DataError(f"{self.folder}: a store made by hand; set its column 'split' by hand")
        cases, report = self.checked.without_duplicates()
        cases = patients.of(cases, cfg)
        parts, notes = split(cases, cfg)
        notes += self.checked.classes_without_masks(cases, parts)
        about = f"patients: {patients.sentence(cases)}"
        report = dataclasses.replace(report, notes=[*report.notes, about, *notes])
        return dataclasses.replace(self, cases=cases.assign(split=parts), report=report)

    def export_png(self, folder: str | Path) -> Path:
        """Write `<folder>/{train,val,test}/{images,masks}/<case>.png`.

        Where classes may overlap there is a folder of masks for each class, without a file for a
        case that has no mask of that class. Masks of a single class hold 0 and 255, label maps
        class numbers.

        Raises:
            DataError: the folder holds PNG files that this export does not write, such as those of
                another split: an image could lie in two parts. Nothing is written then.
        """
        pictures, masks = self.open()
        n_planes = masks.shape[-1]
        is_label_map = n_planes < len(self.info["class_names"])
        files: dict[Path, tuple[int, int | None]] = {}
        for case in self.cases.to_dict("records"):
            files |= self._png_files(case, n_planes)
        _refuse_other_files(Path(folder), set(files))
        for path, (row, k) in files.items():
            if k is None:
                pixels = pictures[row]
            else:
                plane = masks[row][..., k]
                pixels = plane if is_label_map else _black_white(plane)
            images.write_png(Path(folder) / path, pixels)
        return Path(folder)

    def _png_files(self, case: dict[str, Any], n_planes: int) -> dict[Path, tuple[int, int | None]]:
        """The files that `export_png` writes for a case: path -> row of the arrays, and plane of
        the mask (None: the image)."""
        row, part, name = case["row"], Path(case["split"]), f"{case['case']}.png"
        files: dict[Path, tuple[int, int | None]] = {part / "images" / name: (row, None)}
        if n_planes == 1:
            files[part / "masks" / name] = row, 0
            return files
        for k, class_name in enumerate(self.info["class_names"]):
            if case[class_name]:
                files[part / "masks" / class_name / name] = row, k
        return files


def build(cases: pd.DataFrame, cfg, strict: bool = False) -> Store:
    """Check every file, resize, keep the result under `work_dir/stores`, and split by patient.

    Pixels that were made earlier from the same files with the same settings are used again,
    whatever the split, and even where the table now holds fewer cases. Images with a problem are
    set aside and listed in the report (`strict=True`: an error instead).

    Args:
        cases: table of `layouts.scan`; it may be filtered or edited before.
        cfg: the pixels depend on the fields of `config.fields_that("store")`, the split on those
            of `config.fields_that("split")`.

    Raises:
        DataError: nothing usable is left, a column is missing, or (strict) the first problem.
    """
    cfg.validate()
    cases = _complete(cases, cfg)
    keys = _keys(cases, cfg)
    root = Path(hosts.run_root(cfg)) / "stores"
    store = _stored(root, cases, keys, cfg)
    if store is None:
        _write(root, cases, keys, cfg, strict)
        store = _stored(root, cases, keys, cfg)
    stores.mark_used(store.folder)
    store = store.split(cfg)
    if strict and len(store.report.problems):
        raise checks.first_problem(store.report.problems)
    return store


def open_store(folder: str | Path) -> Store:
    """A store that `build` has written, with the cases and the split of that first call.

    Raises:
        DataError: the folder holds no whole store of this version.
    """
    folder = Path(folder)
    saved = stores.read(folder)
    cases = _parse_cases(folder / "cases.csv")
    cases.attrs = {name: saved.info[name] for name in ("notes", "patients") if name in saved.info}
    cfg = config.from_dict(saved.info["config"])
    return _store(folder, cases, list(saved.facts.values()), saved.info, cfg).split(cfg)


def split(cases: pd.DataFrame, cfg) -> tuple[pd.Series, list[str]]:
    """train, val or test for each row, and notes on what was decided. No patient is in two parts.

    The test part is drawn first, the val part from the rest. `test_split` and `val_split` are a
    share of the patients up to 1, and a number of patients above 1; more test patients than a third
    of all become a share of 0.2. With `keep_split` the split of the tree stays, and only a part
    that it lacks is drawn from its training part. `split_seed` decides which patients are drawn.
    """
    notes: list[str] = []
    parts = cases["split"].copy() if cfg.keep_split else pd.Series("", index=cases.index)
    tree_parts = set(parts) - {""}
    if tree_parts:
        notes.append(f"split: the tree's own parts are kept ({', '.join(sorted(tree_parts))})")
        parts = parts.replace("", "train")
    shares = {"test": cfg.test_split, "val": cfg.val_split}
    shares = {part: share for part, share in shares.items() if part not in tree_parts}
    notes += _draw(parts, cases["patient"], shares, cfg.split_seed)
    # Patients are drawn as a whole, so only the tree's own parts can divide one.
    n_parts = cases.assign(split=parts).groupby("patient")["split"].nunique()
    crossing = n_parts.index[n_parts > 1]
    if len(crossing):
        notes.append(
            f"split: patients in two parts of the tree: {', '.join(map(str, crossing[:5]))}; "
            "scores would be too good: move them to one part, or set keep_split=False"
        )
    return parts, notes


def _draw(parts: pd.Series, patients: pd.Series, shares: dict[str, float], seed: int) -> list[str]:
    """Draw parts from the rows that are "train" or "" in `parts`, which is changed: what is left
    becomes "train". Returns notes on what was decided."""
    notes: list[str] = []
    open_rows = parts.isin(["train", ""])
    names = np.array(sorted(set(patients[open_rows])), dtype=object)
    order = np.random.default_rng(seed).permutation(len(names))
    n_taken = 0
    for part, wanted in shares.items():
        if wanted == 0:
            continue
        count, more_notes = _part_size(part, wanted, len(names), len(names) - n_taken)
        notes += more_notes
        drawn = set(names[order[n_taken : n_taken + count]])
        parts[open_rows & patients.isin(drawn)] = part
        n_taken += count
    parts[parts == ""] = "train"
    return notes


def patient_folds(labels, patients, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """A fold number for each row: no patient is in two folds, and labels are spread evenly.

    The folds have nearly equal numbers of patients. The result does not depend on the order of the
    rows.

    Args:
        labels: of each row, such as its finding. A patient with several has them all together.
        patients: the patient of each row.

    Raises:
        DataError: fewer than two folds, or more folds than patients.
    """
    table = pd.DataFrame({"patient": np.asarray(patients), "label": np.asarray(labels)})
    label_of = table.groupby("patient")["label"].agg(_united)
    if not 2 <= n_folds <= len(label_of):
        raise DataError(
            f"folds: {n_folds} is not allowed for {len(label_of)} patients; expected at least 2, "
            "and at most as many as there are patients"
        )
    if label_of.value_counts().max() < n_folds:
        label_of[:] = ""  # scikit-learn takes no labels of which none has enough patients
    names = label_of.index.to_numpy()
    fold_of: dict[Any, int] = {}
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels with fewer patients than folds
        for number, (_, held_out) in enumerate(splitter.split(names, label_of, names)):
            fold_of |= dict.fromkeys(names[held_out], number)
    return table["patient"].map(fold_of).to_numpy()


def _united(labels: pd.Series) -> str:
    """The labels of one patient as one label."""
    return "+".join(sorted(set(map(str, labels))))


def fold_parts(
    patients: pd.Series, fold: np.ndarray, number: int, cfg
) -> tuple[pd.Series, list[str]]:
    """train, val or test for each row where one fold is the test part; and notes as of `split`.

    The val part is drawn from the other folds, by `val_split` and `split_seed`.
    """
    parts = pd.Series(np.where(fold == number, "test", ""), index=patients.index)
    return parts, _draw(parts, patients, {"val": cfg.val_split}, cfg.split_seed)


def test_split_for(store: Store, cfg) -> tuple[float, str]:
    """The `test_split` that suits a store for which nobody has chosen one, and a sentence on it.

    A fifth of the patients, and up to five of them where that is at most a quarter: from five
    patients on a report has intervals. 0 for fewer than six patients, and where the tree has a test
    part of its own.
    """
    cases = store.checked.without_duplicates()[0]
    tree_parts = set(cases["split"]) - {""} if cfg.keep_split else set()
    if "test" in tree_parts:
        return 0.0, ""
    drawn_from = cases["split"].isin(["train", ""]) if cfg.keep_split else cases["split"].notna()
    n_patients = cases.loc[drawn_from, "patient"].nunique()
    n_test = max(round(n_patients / 5), min(5, n_patients // 4))
    n_val = 0 if "val" in tree_parts or cfg.val_split <= 1 else int(cfg.val_split)
    if n_patients < 6 or n_patients - n_test - n_val < 1:
        return 0.0, (
            f"split: {n_patients} patients are too few for a test part. The score of validation "
            "chose the weights, so it is no test: score other images before you trust it"
        )
    note = (
        f"split: {n_test} of {n_patients} patients are the test part, which training never sees; "
        "`evaluate` without --data_dir scores it (--test_split 0 trains on all)"
    )
    # A number up to 1 means a share.
    return (n_test if n_test > 1 else n_test / n_patients), note


def _part_size(part: str, wanted: float, n_patients: int, n_left: int) -> tuple[int, list[str]]:
    """The number of patients for a part, and notes where that is not what was `wanted`."""
    notes = []
    if wanted > 1 and part == "test" and wanted > n_patients / 3:
        notes.append(
            f"split: {wanted:g} test patients of {n_patients} are more than a third; "
            "20 % are set aside instead"
        )
        wanted = 0.2
    if not n_left:
        notes.append(f"split: no patient is left for the {part} part")
        return 0, notes
    if wanted > 1:
        count = min(n_left, int(wanted))
        if count == n_left:
            notes.append(
                f"split: {part}_split={wanted:g} takes all {n_left} patients that are left; none "
                "stays for training"
            )
        return count, notes
    count = min(n_left, max(1, round(wanted * n_left)))
    if wanted < 1 and count == n_left:
        notes.append(
            f"split: {part} would take all {n_left} patients that are left; one stays for training"
        )
        count = n_left - 1
    return count, notes


def _complete(cases: pd.DataFrame, cfg) -> pd.DataFrame:
    """The case table without missing cells and without the columns that `build` itself adds.

    Raises:
        DataError: a column is missing, there are no rows, or a name occurs twice.
    """
    check_table(cases, ("case", "patient", "split", "image"), "to prepare")
    columns = cfg.mask_columns
    for column in columns:
        if column not in cases:
            raise DataError(_no_mask_column(column, cases, cfg))
    _check_channels(cases, cfg)
    notes = cases.attrs.get("notes", [])
    cases = cases.drop(columns=["height", "width", "sha256", "row"], errors="ignore")
    cases[[*columns, "split"]] = cases[[*columns, "split"]].astype(object).fillna("")
    if "annotated" in cases:
        # In concatenated tables, rows of one without this column have all classes annotated.
        cases["annotated"] = cases["annotated"].fillna(",".join(cfg.class_names))
    for column in ("problem", "label_numbers"):
        if column in cases:
            cases[column] = cases[column].fillna("")
    cases.attrs["notes"] = notes  # a table that was made by hand has none, and `_write` reads them
    return cases.reset_index(drop=True)


def _check_channels(cases: pd.DataFrame, cfg) -> None:
    """Refuse cases with other channels than the network takes, or than each other.

    Raises:
        DataError: says which channels there are.
    """
    cells = cases["channels"] if "channels" in cases else pd.Series("", cases.index)
    usable = cells[cases["problem"] == ""] if "problem" in cases else cells
    forms = usable.fillna("").value_counts()
    if len(forms) > 1:
        texts = [f"{n} with {_channel_text(cell)}" for cell, n in forms.items()]
        odd = cases["case"][usable.index[usable == forms.index[-1]][0]]
        raise DataError(
            f"channels: the cases differ: {'; '.join(texts)}, such as {odd}; give all of them the "
            "same channels, or move the others away"
        )
    names = channels.names_of(forms.index[0]) if len(forms) else ()
    if len(names) > 1 and len(names) != cfg.in_channels:
        raise DataError(
            f"channels: a case has {len(names)} ({', '.join(names)}), and "
            f"in_channels={cfg.in_channels}; set channel_names={names}, or to those that are meant"
        )
    if len(cfg.channels) > 1 and len(names) < 2 and len(forms):
        raise DataError(
            f"channels: the network takes {len(cfg.channels)} ({', '.join(cfg.channels)}), and "
            "a case of this data has one volume; give the others as well, or train another network"
        )


def _channel_text(cell: str) -> str:
    return ", ".join(channels.names_of(cell)) or "one volume"


def _no_mask_column(column: str, cases: pd.DataFrame, cfg) -> str:
    """The error message for a mask column that the case table lacks."""
    if cfg.task == "multiclass":
        advice = (
            "the task 'multiclass' reads a label map (class numbers as pixels) from this column; "
            "add it, or set task='multilabel' (class_names: one mask column a class) or 'binary'"
        )
    else:
        advice = (
            f"class_names={cfg.class_names} must name columns of mask files (an empty cell: no "
            "mask); rename or add the column, or set class_names to those of the table"
        )
        others = [name for name in cases if name not in config.RESERVED]
        if others:
            advice += f", such as {', '.join(map(repr, others[:3]))}"
    return f"case table: no mask column {column!r}; found {list(cases.columns)}; {advice}"


def _store_settings(cfg) -> dict[str, Any]:
    """The settings on which the pixels of a store depend."""
    values = cfg.to_dict()
    settings = {name: values[name] for name in config.fields_that("store")}
    # Left out at its default, so that stores that were made before it existed keep their name.
    if not cfg.context_slices:
        del settings["context_slices"]
    return settings


def _store_name(cfg) -> str:
    """The beginning of the folder names of all stores with these settings."""
    settings = json.dumps([stores.VERSION, _store_settings(cfg)], sort_keys=True)
    return f"{cfg.preset}-{stores.digest(settings)[:8]}"


def _keys(cases: pd.DataFrame, cfg) -> list[str]:
    """A key for each case, of the cells and files (name, size, time) that its pixels depend on."""
    masks = cfg.mask_columns
    columns = [name for name in (*PIXEL_COLUMNS, *masks) if name in cases]
    stamps: dict[str, str] = {}  # all slices of a volume name the same files
    keys = []
    for cells in zip(*(cases[name] for name in columns)):
        texts = [f"{name}={cell}" for name, cell in zip(columns, cells)]
        for name, cell in zip(columns, cells):
            if name == "image":
                texts.append(_stamp(str(cell), stamps))
            elif name in masks:
                texts += [
                    _stamp(path, stamps) for path in str(cell).split(mask_pixels.UNION) if path
                ]
        keys.append(stores.digest(*texts)[:32])
    return keys


def _stamp(path: str, stamps: dict[str, str]) -> str:
    """`volumes.stamp` as text; `stamps` remembers it, so that every file is asked only once."""
    if path not in stamps:
        stamps[path] = repr(volumes.stamp(path))
    return stamps[path]


def _stored(root: Path, cases: pd.DataFrame, keys: list[str], cfg) -> Store | None:
    """The store with the pixels of these cases, before its split; None where there is none."""
    for folder, info, facts in stores.holding(root, _store_name(cfg), keys):
        store = _store(folder, cases, [facts[key] for key in keys], info, cfg)
        # Whether 0 is the structure is decided by the majority of the masks. Where the table holds
        # fewer cases than the store, the majority and so the pixels may differ.
        if store.checked.inverted == info["inverted"]:
            return store
    return None


def _store(folder: Path, cases: pd.DataFrame, facts: list[dict], info: dict, cfg) -> Store:
    """A store before its split.

    Its columns have the types that a CSV file gives them, so that a store is the same whether it
    was built or opened.
    """
    checked = checks.check(cases, facts, cfg)
    attrs = checked.cases.attrs
    checked.cases = _parse_cases(io.StringIO(checked.cases.to_csv(index=False)))
    checked.cases.attrs = attrs
    return Store(folder, checked.cases, checked.report, info, checked)


def _parse_cases(source: Path | io.StringIO) -> pd.DataFrame:
    """A case table from its CSV file; names that consist of digits stay texts."""
    texts = dict.fromkeys(("case", "patient", "volume", "finding"), str)
    return pd.read_csv(source, keep_default_na=False, dtype=texts)


# ---- from files to pixels


def _write(root: Path, cases: pd.DataFrame, keys: list[str], cfg, strict: bool) -> None:
    """Decode all cases into a new store.

    Raises:
        DataError: no case can be used, or (strict) the first problem; no store is written then.
    """
    height, width = cfg.height_width
    planes = cfg.n_classes if cfg.task == "multilabel" else 1
    _check_room(root, len(cases), planes, cfg)
    with stores.writing(stores.folder_for(root, _store_name(cfg), keys)) as folder:
        pictures = stores.allocate(
            folder / "images.npy", (len(cases), height, width, cfg.input_channels)
        )
        masks = stores.allocate(folder / "masks.npy", (len(cases), height, width, planes))
        facts = _decode(cases, cfg, pictures, masks)
        _refuse_larger(cases, facts, cfg)
        checked = checks.check(cases, facts, cfg)
        problems = checked.without_duplicates()[1].problems
        if strict and len(problems):
            raise checks.first_problem(problems)
        # Only now is it known which classes are inverted.
        if cfg.mask_inverted == "auto":
            _invert_masks(cases, cfg, facts, checked.inverted, masks)
        pictures.flush()
        masks.flush()
        del pictures, masks  # Windows does not rename a folder that holds open files
        cases.to_csv(folder / "cases.csv", index=False)
        (folder / "facts.json").write_text(json.dumps(dict(zip(keys, facts))), encoding="utf-8")
        info = {
            "version": stores.VERSION,
            "preset": cfg.preset,
            **_store_settings(cfg),
            "n_images": len(cases),
            "inverted": checked.inverted,
            "notes": cases.attrs["notes"],
            "patients": cases.attrs.get("patients", {}),
            "config": cfg.to_dict(),
        }
        (folder / "store.json").write_text(json.dumps(info, indent=1), encoding="utf-8")


def _check_room(root: Path, n_images: int, planes: int, cfg) -> None:
    """Say what a large store will take, before it is written.

    Raises:
        DataError: the disk has no room for the store, or the memory none for a single frame.
    """
    height, width = cfg.height_width
    frame = f"a frame of {height}x{width}"
    n_bytes = stores.frame_bytes(cfg.height_width, cfg.input_channels, planes)
    memory = hosts.memory_bytes()
    if memory and n_bytes.memory > memory:
        raise DataError(
            f"image_size: {frame} takes {n_bytes.memory / 1e9:.1f} GB of memory when it is scored, "
            f"this machine has {memory / 1e9:.1f} GB; lower image_size"
        )
    free = stores.check_room(root, n_images * n_bytes.disk)
    if n_images * n_bytes.disk >= stores.LARGE:
        print(
            f"store: {n_images} images of {height}x{width} take {n_images * n_bytes.disk / 1e9:.1f}"
            f" GB of disk ({free / 1e9:.1f} GB are free in {root}); scoring {frame} takes about "
            f"{n_bytes.memory / 1e9:.1f} GB of memory"
        )


def _refuse_larger(cases: pd.DataFrame, facts: list[dict[str, Any]], cfg) -> None:
    """Raise `DataError` where images without scaling do not fit into their frame."""
    larger = [fact for fact in facts if "larger" in fact]
    if not larger:
        return
    sizes = [fact.get("larger") or (fact.get("height", 0), fact.get("width", 0)) for fact in facts]
    height, width = (max(side) for side in zip(*sizes))
    frame = "x".join(map(str, cfg.height_width))
    first = "x".join(map(str, larger[0]["larger"]))
    image = Path(channels.first_file(cases["image"].iloc[larger[0]["row"]])).name
    raise DataError(
        f"{image}: its {first} pixels are more than image_size {frame}, and resize='none' does not "
        f"scale ({len(larger)} of {len(cases)} images); set image_size to ({height}, {width}), "
        "which holds all of them, or resize='letterbox'"
    )


def _decode(
    cases: pd.DataFrame, cfg, pictures: np.ndarray, masks: np.ndarray
) -> list[dict[str, Any]]:
    """Decode every case into its row of the arrays; returns the facts of each.

    One thread takes all slices of a volume, so that it is decoded only once. Threads help because
    decoding releases the interpreter lock.
    """
    records = cases.to_dict("records")
    inverted = dict.fromkeys(cfg.class_names, cfg.mask_inverted is True)

    def decode_file(rows: list[int]) -> list[dict[str, Any]]:
        return [
            {**_decode_case(records[row], cfg, inverted, pictures[row], masks[row]), "row": row}
            for row in rows
        ]

    files = [group.index.tolist() for _, group in cases.groupby("image", sort=False)]
    # Volumes need much memory: at most four at a time.
    n_threads = min(hosts.n_cores(), 4) if len(files) < len(cases) else hosts.n_cores()
    with ThreadPoolExecutor(n_threads) as pool:
        results = pool.map(decode_file, files)
        progress = hosts.progress(results, total=len(files), desc="prepare", leave=False)
        facts = [fact for of_file in progress for fact in of_file]
    return sorted(facts, key=lambda fact: fact["row"])


def _decode_case(
    case: dict, cfg, inverted: dict[str, bool], picture_out: np.ndarray, mask_out: np.ndarray
) -> dict[str, Any]:
    """The facts of one case, or its `problem` and the `file` that the problem is about."""
    try:
        facts = _read_case(case, cfg, inverted, picture_out, mask_out)
    except (DataError, FileNotFoundError) as error:  # a file may vanish after it was read
        facts = {"problem": str(error), "file": _named_file(case, str(error))}
        if isinstance(error, images.FrameError):
            facts["larger"] = error.size
        if isinstance(error, mask_pixels.NumbersError):
            facts["numbers"] = {str(number): count for number, count in error.numbers.items()}
    return {"case": case["case"], **facts}


def _read_case(
    case: dict, cfg, inverted: dict[str, bool], picture_out: np.ndarray, mask_out: np.ndarray
) -> dict[str, Any]:
    """Read, check and resize one case into its rows of the arrays; returns its facts.

    Raises:
        DataError: a file cannot be read, there is no mask, or it has another size than the image.
    """
    image = read_image(case, cfg)
    columns = cfg.mask_columns
    needs_mask = cfg.task != "multilabel" and cfg.missing_weight == 0
    if needs_mask and not any(case.get(column) for column in columns):
        raise DataError(
            f"{case['image']}: no mask exists for this image; "
            "it can be neither learned from nor scored"
        )
    decoded, masks = read_masks(case, cfg, inverted, image.shape[:2])
    if masks.shape[:2] != image.shape[:2]:
        raise DataError(_sizes_differ(case, case[columns[0]], image.shape, masks.shape))
    picture_out[:] = images.fit_image(image, cfg.height_width, cfg.resize)
    mask_facts = []
    for k, mask in enumerate(decoded):
        plane = masks[..., k]  # (H, W)
        mask_out[..., k] = images.fit_mask(plane, cfg.height_width, cfg.resize)
        shares = {"share": _foreground_share(plane), "looks_inverted": inverted_flags(mask)}
        mask_facts.append({**meanings.facts_of(mask, plane), **shares})
    image = stacks.centre(image, cfg)
    sha256, pixels = content(case, image)
    header_notes, decoding_notes = notes_of(case, cfg)
    edges, edge_variances = edge_agreement(image, masks)
    return {
        "height": image.shape[0],
        "width": image.shape[1],
        "masks": mask_facts,
        "sha256": sha256,
        "pixels": pixels,
        "warnings": warnings_of(case, cfg, image, masks),
        "edges": edges.tolist(),
        "edge_variances": edge_variances.tolist(),
        "header_notes": header_notes,
        "decoding_notes": decoding_notes,
    }


def _sizes_differ(case: dict, mask_file: str, image_shape: tuple, mask_shape: tuple) -> str:
    """The error message for a mask that has another size than its image."""
    hint = ""
    if mask_shape[:2] == image_shape[1::-1]:
        hint = "; it looks transposed"
        is_picture = not volumes.is_volume(case["image"])
        # 5 to 8: viewers turn the picture on its side, and the mask may have been drawn over that.
        if is_picture and images.exif_orientation(channels.first_file(case["image"])) > 4:
            hint += (
                " (the image has an orientation tag, by which viewers turn it: "
                "save it turned, without the tag)"
            )
    return (
        f"{mask_file or case['case']}: mask is {mask_shape[0]}x{mask_shape[1]} but its image is "
        f"{image_shape[0]}x{image_shape[1]} (height x width){hint}; "
        "export both from the same source"
    )


def _foreground_share(mask: np.ndarray) -> float:
    """The foreground's share of the pixels that count; NaN where all of them are ignored."""
    valid = mask != images.IGNORE
    return float((mask[valid] > 0).mean()) if valid.any() else float("nan")


def _invert_masks(
    cases: pd.DataFrame, cfg, facts: list[dict], inverted: dict[str, bool], masks: np.ndarray
) -> None:
    """Read the masks of inverted classes again, now inverted, and correct their facts."""
    classes = [(k, name) for k, name in enumerate(cfg.class_names) if inverted[name]]
    for case, fact in zip(cases.to_dict("records"), facts):
        for k, name in classes:
            if "problem" in fact or not case[name]:
                continue
            mask = read_mask(case, name, cfg, True).pixels
            masks[fact["row"], ..., k] = images.fit_mask(mask, cfg.height_width, cfg.resize)
            fact["masks"][k] |= {
                "share": _foreground_share(mask),
                "classes": [1] if (mask == 1).any() else [],
            }


def _named_file(case: dict, message: str) -> str:
    """The file of the case that an error message names; the image where it names none."""
    cells = [cell for cell in case.values() if isinstance(cell, str)]
    paths = [
        path
        for cell in cells
        for text in cell.split(mask_pixels.UNION)
        for path in channels.files(text)
    ]
    for path in paths:
        # Cells without a separator are names of cases or classes, not paths.
        if os.sep in path and path in message:
            return path
    return channels.first_file(case["image"])


def _refuse_other_files(folder: Path, paths: set[Path]) -> None:
    """Raise a DataError where the parts in a folder hold PNG files besides these, which are below
    the folder."""
    parts = [folder / part for part in ("train", "val", "test")]
    png_files = (file.relative_to(folder) for part in parts for file in part.rglob("*.png"))
    others = sorted(set(png_files) - paths)
    if others:
        raise DataError(
            f"{folder}: holds {len(others)} PNG files of another export, such as {others[0]}; an "
            "image could lie in two parts: choose another folder, or delete this one"
        )


def _black_white(mask: np.ndarray) -> np.ndarray:
    """255 where a mask is 1, 0 elsewhere."""
    return np.where(mask == 1, 255, 0).astype(np.uint8)
