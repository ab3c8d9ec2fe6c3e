"""Case table -> data report, split by patient, and a resized store on disk. Taught in `01_data_preparation`."""

import hashlib
import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import config, hosts
from .case_io import TURNS, agreement, content, notes_of, read_image, read_truth, warnings_of
from .errors import DataError
from .formats import images, volumes

VERSION = 2  # raise it when the pixels that `build` writes change, so that old stores are rebuilt


@dataclass(repr=False)
class DataReport:
    """What was checked and found.

    `facts`: a row an image (size, how its masks were decoded, foreground share). `problems`: a row a finding with the
    file, what was found and what was done; rows whose action starts with "set aside" name images that were left out.
    """

    facts: pd.DataFrame
    problems: pd.DataFrame
    notes: list[str]

    @property
    def set_aside(self) -> list[str]:
        """The cases that were left out of the store."""
        return sorted(
            set(self.problems.loc[self.problems["action"].str.startswith("set aside"), "case"])
        )

    def summary(self) -> pd.DataFrame:
        """The report in about ten lines: what was checked, what was found."""
        facts = self.facts
        sizes = facts.groupby(["height", "width"]).size().sort_values(ascending=False)
        shown = ", ".join(f"{h}x{w} ({n})" for (h, w), n in sizes.head(3).items())
        rows = [
            ("images read", len(facts)),
            (
                "sizes (height x width)",
                shown + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""),
            ),
        ]
        for column in [c for c in facts if c.startswith("share ")]:
            name, share = column[6:], facts[column]
            how = facts.loc[facts[f"how {name}"] != "", f"how {name}"].value_counts()
            counts = f"{share.notna().sum()} there, {share.isna().sum()} missing, {(share == 0).sum()} empty"
            rows.append((f"{name}: masks", counts))
            if not share.notna().any():
                continue
            rows.append((f"{name}: decoded by", "; ".join(f"{k} ({n})" for k, n in how.items())))
            rows.append(
                (
                    f"{name}: share of pixels",
                    f"{share.mean():.1%} (from {share.min():.1%} to {share.max():.1%})",
                )
            )
        rows += [("problems", len(self.problems)), ("images set aside", len(self.set_aside))]
        rows += [("note", note) for note in self.notes]
        return pd.DataFrame(rows, columns=["checked", "found"])

    def __repr__(self) -> str:
        return self.summary().to_string(index=False)

    def _repr_html_(self) -> str:
        problems = (
            self.problems.drop(columns="file").to_html(index=False) if len(self.problems) else ""
        )
        return self.summary().to_html(index=False) + problems


@dataclass
class Store:
    """Resized images and masks on disk: `images.npy` (N, H, W, C) uint8, `masks.npy` (N, H, W, K) uint8 with 255 =
    ignored; K is the number of classes for multilabel, else 1. `cases` is the table of what can be used; its column
    `row` points into the arrays."""

    folder: Path
    cases: pd.DataFrame
    report: DataReport
    info: dict[str, Any]

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks, memory-mapped read-only: nothing is read until a row is touched."""
        return tuple(
            np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")
        )

    def export_png(self, folder: str | Path) -> Path:
        """Write `<folder>/{train,val,test}/{images,masks}/<case>.png`; one mask folder a class where they overlap."""
        pictures, masks = self.open()
        binary = len(self.info["class_names"]) == 1
        for case in self.cases.itertuples():
            target = Path(folder) / case.split
            images.write_png(target / "images" / f"{case.case}.png", pictures[case.row])
            for k in range(masks.shape[-1]):
                if masks.shape[-1] > 1 and not getattr(case, self.info["class_names"][k], "x"):
                    continue
                sub = Path("masks") / (self.info["class_names"][k] if masks.shape[-1] > 1 else "")
                mask = masks[case.row][..., k]
                scaled = (
                    np.where(mask == 1, 255, 0).astype(np.uint8)
                    if binary or masks.shape[-1] > 1
                    else mask
                )
                images.write_png(target / sub / f"{case.case}.png", scaled)
        return Path(folder)


def build(cases: pd.DataFrame, cfg, strict: bool = False) -> Store:
    """Check every file, split by patient, resize, and keep the result under `work_dir/stores`.

    A store with the same files and settings is reused. Images with a problem are set aside and listed in the report
    (`strict=True`: stop at once instead).

    Args:
        cases: table of `layouts.scan`; it may be filtered or edited before.
        cfg: uses image_size, resize, in_channels, percentiles, mask_*, label_map, class_names, the split and seed.

    Raises:
        DataError: nothing usable is left, a column is missing, or (strict) the first problem.
    """
    for column in ("case", "patient", "split", "image"):
        if column not in cases:
            raise DataError(f"case table: no column {column!r}; found {list(cases.columns)}")
    if cases.empty:
        raise DataError("case table: no rows; nothing to prepare")
    if cases["case"].duplicated().any():
        raise DataError(
            f"case table: {cases['case'][cases['case'].duplicated()].iloc[0]!r} occurs twice; names must differ"
        )
    cfg.validate()
    columns = ["labels"] if cfg.task == "multiclass" else list(cfg.class_names)
    for column in columns:
        if column not in cases:
            raise DataError(f"case table: no mask column {column!r}; found {list(cases.columns)}")
    notes = cases.attrs.get("notes", [])
    cases = cases.drop(columns=["height", "width", "sha256", "row"], errors="ignore")
    cases[[*columns, "split"]] = cases[[*columns, "split"]].astype(object).fillna("")
    if (
        "annotated" in cases
    ):  # tables put together: where one says nothing, all classes are annotated
        cases["annotated"] = cases["annotated"].fillna(",".join(cfg.class_names))
    cases.attrs["notes"] = notes
    settings = _settings(cfg)
    key = _key(cases, settings)
    folder = Path(hosts.run_root(cfg)) / "stores" / f"{cfg.preset}-{key[:12]}"
    if not (folder / "store.json").is_file():
        _write(cases.reset_index(drop=True), cfg, folder, {**settings, "key": key}, strict)
    store = open_store(folder)
    if strict and len(store.report.problems):
        raise _first(store.report.problems)
    return store


def open_store(folder: str | Path) -> Store:
    """A store that `build` wrote before."""
    folder = Path(folder)
    try:
        info = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a store ({error}); prepare.build makes one") from error
    tables = {n: pd.read_json(folder / f"{n}.json", orient="table") for n in ("facts", "problems")}
    cases = pd.read_csv(
        folder / "cases.csv",
        keep_default_na=False,
        dtype=dict.fromkeys(("case", "patient", "volume", "finding"), str),
    )
    return Store(folder, cases, DataReport(**tables, notes=info["notes"]), info)


def split(cases: pd.DataFrame, cfg) -> tuple[pd.Series, list[str]]:
    """train / val / test for each row, and notes on what was decided. No patient is in two parts.

    The test part is taken first, `val_split` is a share of the rest. Up to 1 a number is a share of the patients,
    above 1 a count; a test count of more than a third of the patients becomes a share of 0.2. The split that the tree
    has is kept where `keep_split`, and only what is missing is cut from its training part.
    """
    notes: list[str] = []
    result = cases["split"].copy() if cfg.keep_split else pd.Series("", index=cases.index)
    kept = set(result) - {""}
    if kept:
        notes.append(f"split: the tree's own parts are kept ({', '.join(sorted(kept))})")
        result = result.replace("", "train")
    open_rows = result.isin(["train", ""])
    patients = np.array(sorted(set(cases.loc[open_rows, "patient"])), dtype=object)
    order = np.random.default_rng(cfg.split_seed).permutation(len(patients))
    taken = 0
    for part, wanted in (("test", cfg.test_split), ("val", cfg.val_split)):
        if part in kept or wanted == 0:
            continue
        left = len(patients) - taken
        if wanted > 1 and part == "test" and wanted > len(patients) / 3:
            notes.append(
                f"split: {wanted:g} test patients of {len(patients)} are more than a third; 20 % are set aside instead"
            )
            wanted = 0.2
        count = min(left, max(1, round(wanted * left)) if wanted <= 1 else int(wanted))
        if wanted < 1 and count == left:
            notes.append(
                f"split: {part} would take all {left} patients that are left; one stays for training"
            )
            count = left - 1
        chosen = set(patients[order[taken : taken + count]])
        result[open_rows & cases["patient"].isin(chosen)] = part
        taken += count
    result = result.replace("", "train")
    crossing = cases.assign(split=result).groupby("patient")["split"].nunique()
    if (crossing > 1).any():
        notes.append(
            f"split: patients in two parts of the tree: {', '.join(map(str, crossing[crossing > 1].index[:5]))}; "
            "scores would be too good: move them to one part, or set keep_split=False"
        )
    return result, notes


def _settings(cfg) -> dict[str, Any]:
    """The fields that decide what a store holds."""
    values = cfg.to_dict()
    names = (*config.fields_that("store"), *config.fields_that("split"))
    return {"version": VERSION, **{name: values[name] for name in names}}


def _key(cases: pd.DataFrame, settings: dict[str, Any]) -> str:
    """Changes with any file (name, size, time), any cell of the table, and any setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    stamps: dict[str, bytes] = {}  # all slices of a volume name the same files
    for row in cases.itertuples(index=False):
        for cell in map(str, row):
            digest.update(cell.encode() + b"\0")
            for path in cell.split(images.UNION) if os.sep in cell else ():
                if path not in stamps:
                    stamps[path] = repr(volumes.stamp(path)).encode()
                digest.update(stamps[path])
    return digest.hexdigest()


def _write(cases: pd.DataFrame, cfg, folder: Path, info: dict[str, Any], strict: bool) -> None:
    """Build under a temporary name and rename, so that a killed run leaves no half store."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        height, width = cfg.height_width
        planes = cfg.n_classes if cfg.task == "multilabel" else 1
        shapes = {
            "images": (len(cases), height, width, cfg.in_channels),
            "masks": (len(cases), height, width, planes),
        }
        arrays = {name: _reserved(partial / f"{name}.npy", shape) for name, shape in shapes.items()}
        polarity = {name: cfg.mask_inverted is True for name in cfg.class_names}

        def one(index: int) -> dict[str, Any]:
            case = cases.loc[index].to_dict()
            try:
                return _prepare_case(
                    case, cfg, polarity, arrays["images"][index], arrays["masks"][index]
                )
            except (
                DataError,
                FileNotFoundError,
            ) as error:  # a file may vanish after its pixels were read
                return {
                    "case": case["case"],
                    "file": _named_file(case, str(error)),
                    "problem": str(error),
                }

        def all_of(rows: list[int]) -> list[tuple[int, dict[str, Any]]]:
            """The cases of one file; a volume with a slice that cannot be used is set aside as a whole."""
            facts = [one(index) for index in rows]
            broken = next((fact for fact in facts if "problem" in fact), None)
            if broken and volumes.is_volume(cases["image"][rows[0]]):
                facts = [
                    fact if "problem" in fact else {**broken, "case": fact["case"]}
                    for fact in facts
                ]
            return list(zip(rows, facts))

        # A thread takes all slices of a volume, which is decoded once; decoding releases the interpreter lock.
        files = [rows.index.tolist() for _, rows in cases.groupby("image", sort=False)]
        slices = max(map(len, files)) > 1
        with ThreadPoolExecutor(min(hosts.n_cores(), 4) if slices else hosts.n_cores()) as pool:
            done = pool.map(all_of, files)
            shown = hosts.progress(done, total=len(files), desc="prepare", leave=False)
            found = [
                fact
                for _, fact in sorted(
                    (pair for pairs in shown for pair in pairs), key=lambda pair: pair[0]
                )
            ]
        problems = [{**f, "action": "set aside"} for f in found if "problem" in f]
        facts = pd.DataFrame([f for f in found if "problem" not in f])
        if facts.empty:
            raise _first(pd.DataFrame(problems))
        notes = list(cases.attrs.get("notes", []))
        for path, rows in facts.groupby(
            facts["case"].map(cases.set_index("case")["image"]), sort=False
        ):
            header_notes, decoding_notes = rows["notes"].iloc[0]
            # The scan has read the headers already, unless the table was made by hand.
            new = decoding_notes if cases.attrs.get("notes") else header_notes + decoding_notes
            notes += [f"{Path(path).name}: {note}" for note in new]
        notes += _collect_warnings(cases, facts)
        if cfg.mask_inverted == "auto" and cfg.task != "multiclass":
            polarity = _settle_polarity(cfg, cases, facts, arrays["masks"], problems, notes)
        kept = cases.merge(
            facts[["case", "height", "width", "sha256", "pixels"]], on="case"
        ).assign(row=lambda t: t["case"].map({case: i for i, case in enumerate(cases["case"])}))
        kept = kept[~kept["case"].isin([p["case"] for p in problems])]
        kept = _drop_duplicates(kept, problems)
        if strict and problems:
            raise _first(pd.DataFrame(problems))
        if kept.empty:
            raise _first(pd.DataFrame(problems))
        kept["split"], split_notes = split(kept, cfg)
        for array in arrays.values():
            array.flush()
        facts = facts.drop(columns=["sha256", "pixels", "inverted_flags", "odd", "edges", "notes"])
        problems = pd.DataFrame(problems, columns=["case", "file", "problem", "action"])
        kept.to_csv(partial / "cases.csv", index=False)
        facts.to_json(partial / "facts.json", orient="table", index=False)
        problems.to_json(partial / "problems.json", orient="table", index=False)
        info = {**info, "inverted": polarity, "notes": notes + split_notes}
        (partial / "store.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)  # without a store.json it is not a store
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reserved(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped array of zeros whose space on the disk is taken at once: a mapped file that finds the disk full
    later kills the process without an error."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    try:
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise DataError(
            f"{path.parent.parent}: no room for the store: {path.name} takes {array.nbytes / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free ({error}); free some, lower image_size, or set work_dir to another disk"
        ) from error
    return array


def _prepare_case(
    case: dict, cfg, inverted: dict[str, bool], image_out: np.ndarray, mask_out: np.ndarray
) -> dict[str, Any]:
    """Read, check and resize one case into its rows; returns its facts."""
    image = read_image(case, cfg)
    columns = ["labels"] if cfg.task == "multiclass" else list(cfg.class_names)
    if not any(case.get(column) for column in columns) and not (
        cfg.task == "multilabel" or cfg.missing_weight > 0
    ):
        raise DataError(
            f"{case['image']}: no mask exists for this image; it can be neither learned from nor scored"
        )
    masks, _, hows, inverted_flags = read_truth(case, cfg, inverted, image.shape[:2])
    if masks.shape[:2] != image.shape[:2]:
        turned = "; it looks transposed" if masks.shape[:2] == image.shape[1::-1] else ""
        if (
            turned
            and not volumes.is_volume(case["image"])
            and images.exif_orientation(case["image"]) > 4
        ):
            turned += " (the image has an EXIF tag by which viewers turn it: save it turned, without the tag)"
        raise DataError(
            f"{case[columns[0]] or case['case']}: mask is {masks.shape[0]}x{masks.shape[1]} but its image is "
            f"{image.shape[0]}x{image.shape[1]} (height x width){turned}; export both from the same source"
        )
    size = cfg.height_width
    image_out[:] = images.fit_image(image, size, cfg.resize)
    facts: dict[str, Any] = {
        "case": case["case"],
        "height": image.shape[0],
        "width": image.shape[1],
    }
    for k, (column, how) in enumerate(zip(columns, hows)):
        mask_out[..., k] = images.fit_mask(masks[..., k], size, cfg.resize)
        known = masks[..., k] != images.IGNORE
        facts[f"how {column}"] = how
        facts[f"share {column}"] = (
            float((masks[..., k][known] > 0).mean()) if known.any() else np.nan
        )
    file, pixels = content(case, image)
    odd, edges = warnings_of(case, cfg, image, masks), agreement(image, masks)
    return {
        **facts,
        "sha256": file,
        "pixels": pixels,
        "inverted_flags": inverted_flags,
        "odd": odd,
        "edges": edges,
        "notes": notes_of(case, cfg),
    }


def _collect_warnings(cases: pd.DataFrame, facts: pd.DataFrame) -> list[str]:
    """Notes on what is kept but inverted_flags wrong: the sentences of `warnings_of` with the names of their files, and classes
    whose masks are all empty."""
    notes, names = [], {}
    for path, rows in facts.groupby(
        facts["case"].map(cases.set_index("case")["image"]), sort=False
    ):
        # On 460 real cases that are right the largest ratio was 1.02 for volumes and 1.48 for single pictures.
        fit, enough = sum(rows["edges"]), 1.1 if volumes.is_volume(path) else 1.5
        if fit.max() > enough * fit[0]:
            how = list(TURNS)[fit.argmax()]
            text = f"by its edges, its mask would fit it better {how}: look at both, and correct the mask"
            names.setdefault(text, []).append(Path(path).name)
        for text, name in rows["odd"].iloc[0].items():
            if all(text in odd for odd in rows["odd"]):
                names.setdefault(text, []).append(name)
    for text, found in names.items():
        notes.append(
            f"{', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}: {text}"
        )
    for column in [column for column in facts if column.startswith("share ")]:
        share = facts[column].dropna()
        if len(share) and not share.any():
            notes.append(
                f"{column[6:]}: all {len(share)} masks are empty, so nothing can be learned; are they the right ones?"
            )
    return notes


def _settle_polarity(
    cfg, cases, facts, masks: np.ndarray, problems: list, notes: list[str]
) -> dict[str, bool]:
    """A class whose masks mostly look inverted is turned round; single masks that disagree with it are set aside."""
    polarity = {}
    rows = {case: i for i, case in enumerate(cases["case"])}
    for k, name in enumerate(cfg.class_names):
        there = facts[facts[f"how {name}"] != ""]
        inverted_flags = np.array([look[k] for look in there["inverted_flags"]]).reshape(-1, 2)
        polarity[name] = bool(len(there)) and bool(inverted_flags[:, 0].mean() > 0.5)
        if polarity[name]:
            notes.append(
                f"{name}: {inverted_flags[:, 0].sum()} of {len(inverted_flags)} masks have a foreground border: 0 is the structure"
            )
            for index, case in there["case"].items():
                mask = images.read_mask(cases.loc[rows[case], name], cfg.mask_encoding, True).pixels
                masks[rows[case], ..., k] = images.fit_mask(mask, cfg.height_width, cfg.resize)
                facts.loc[index, f"share {name}"] = mask.mean()
        for case in there["case"][inverted_flags[:, 1 if polarity[name] else 0]]:
            path = cases.loc[rows[case], name]
            problem = (
                f"{path}: mask looks inverted beside the others of its class (its border is 1)"
            )
            do = "set aside; correct the file, or set mask_inverted=False to take all masks as they are"
            problems.append({"case": case, "file": path, "problem": problem, "action": do})
    return polarity


def _drop_duplicates(kept: pd.DataFrame, problems: list) -> pd.DataFrame:
    """Of images with equal content one stays, in the part where a leak would hurt most: test, then val, then train."""
    rank = kept["split"].map({"test": 0, "val": 1}).fillna(2)
    ordered = kept.assign(rank=rank).sort_values(["rank", "row"])
    first = ordered.drop_duplicates("pixels").set_index("pixels")
    for case in ordered[ordered["pixels"].duplicated()].itertuples():
        same = first.loc[case.pixels]
        where = f" in {same['split']}" if same["split"] else ""
        problem = f"{case.image}: same content as {Path(same['image']).name}{where}; it would leak between parts"
        problems.append(
            {
                "case": case.case,
                "file": case.image,
                "problem": problem,
                "action": "set aside; remove one",
            }
        )
    return kept[kept["case"].isin(first["case"])].drop(columns="pixels").reset_index(drop=True)


def _named_file(case: dict, message: str) -> str:
    """The file of the case that the message is about."""
    paths = [
        p
        for cell in case.values()
        if isinstance(cell, str)
        for p in cell.split(images.UNION)
        if os.sep in p
    ]
    return next((p for p in paths if p in message), case["image"])


def _first(problems: pd.DataFrame) -> DataError:
    first = problems.iloc[0]
    more = (
        f" ({len(problems) - 1} more problems of this kind or another)" if len(problems) > 1 else ""
    )
    return DataError(f"{first['problem']}{more}")
