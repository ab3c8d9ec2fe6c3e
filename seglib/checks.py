"""Conclude from the facts of decoded cases: problems, notes, inverted masks, equal images.

`prepare` decodes every file once and keeps its facts beside the pixels: sizes, hashes, how each
mask was decoded, what was odd. This module computes from the facts alone what only several cases
together can show; it reads no file. Taught in `01_data_preparation`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import meanings, presets
from .case_io import EXACT_DECODING, TURNS
from .errors import DataError, grouped, listed
from .formats import channels, volumes

# A mask that fits its image this many times better after it was mirrored or turned gets a warning,
# where the gain is also so many standard errors: a small mask may fit another place by chance. More
# are asked for in volumes, as neighbouring slices resemble each other. Of 321 real pictures and 33
# volumes without such an error, none gets it; mirrored or turned, half of the pictures and 87 % of
# the volumes do.
MAX_EDGE_RATIO = 1.1
MIN_EDGE_ERRORS = {"picture": 3, "volume": 4.5}
PROBLEM_COLUMNS = {"case": str, "file": str, "problem": str, "action": str, "set_aside": bool}


@dataclass(repr=False)
class DataReport:
    """The result of all checks.

    Attributes:
        facts: one row for each image: height, width and, for each mask column, how it was decoded
            and its share of foreground pixels.
        problems: one row for each problem: case, file, problem, action, and whether the image was
            set aside.
        notes: sentences about the data as a whole.
        undecided: those of the notes that ask what masks mean, because two settings would read
            them differently, or whether volumes are CT. The store holds one of both readings, but
            `data.loaders` refuses it until the config says which one is meant.
    """

    facts: pd.DataFrame
    problems: pd.DataFrame
    notes: list[str]
    undecided: list[str] = field(default_factory=list)

    @property
    def set_aside(self) -> list[str]:
        """The cases that were left out of the store."""
        return sorted(set(self.problems.loc[self.problems["set_aside"], "case"]))

    def summary(self) -> pd.DataFrame:
        """The report in about ten lines: what was checked, and what was found."""
        facts = self.facts
        sizes = facts.groupby(["height", "width"]).size().sort_values(ascending=False)
        shapes = listed(f"{height}x{width} ({n})" for (height, width), n in sizes.items())
        rows = [("images read", len(facts)), ("sizes (height x width)", shapes)]
        for column in facts:
            if column.startswith("share "):
                rows += self._summary_of(column.removeprefix("share "))
        rows += [("problems", len(self.problems)), ("images set aside", len(self.set_aside))]
        rows += [("undecided", question) for question in self.undecided]
        notes = [note for note in self.notes if note not in self.undecided]
        rows += [("note", note) for note in _shortened(notes)]
        return pd.DataFrame(rows, columns=["checked", "found"])

    def _summary_of(self, column: str) -> list[tuple[str, str]]:
        """The lines of the summary about the masks of one column."""
        share, decoding = self.facts[f"share {column}"], self.facts[f"how {column}"]
        n_masks, n_empty = share.notna().sum(), (share == 0).sum()
        counts = f"{n_masks} there, {len(share) - n_masks} missing, {n_empty} empty"
        lines = [(f"{column}: masks", counts)]
        if n_masks:
            decoded = "; ".join(
                f"{text} ({n})" for text, n in decoding[decoding != ""].value_counts().items()
            )
            shares = f"{share.mean():.1%} (from {share.min():.1%} to {share.max():.1%})"
            lines.append((f"{column}: decoded by", decoded))
            lines.append((f"{column}: share of pixels", shares))
        return lines

    def __repr__(self) -> str:
        rows = self.summary()
        width = rows["checked"].str.len().max()
        return "\n".join(f"{row.checked:>{width}}  {row.found}" for row in rows.itertuples())

    def _repr_html_(self) -> str:
        html = self.summary().to_html(index=False)
        if len(self.problems):
            html += self.problems[["case", "problem", "action"]].to_html(index=False)
        return html


@dataclass
class Checked:
    """Cases whose pixels can be used, before they are split, and the report on all of them.

    Attributes:
        cases: the case table with height, width, sha256 and `row`, the row in the store's arrays;
            `split` is that of the tree.
        pixel_hashes: one for each row of `cases`; the same for equal images.
        inverted: class -> whether 0 is its structure in the files.
        class_names: the classes, without a background.
        classes: one set for each row of `cases`: the classes that its masks contain.
    """

    cases: pd.DataFrame
    pixel_hashes: pd.Series
    report: DataReport
    inverted: dict[str, bool]
    class_names: tuple[str, ...]
    classes: list[set[str]]

    def without_duplicates(self) -> tuple[pd.DataFrame, DataReport]:
        """The cases with one image of each group of equal ones; the report names the others.

        Of each group the image stays whose part is most harmed by a leak: test, then val, then
        train.
        """
        rank = self.cases["split"].map({"test": 0, "val": 1}).fillna(2)
        order = pd.DataFrame({"rank": rank, "row": self.cases["row"]}).sort_values(["rank", "row"])
        hashes = self.pixel_hashes[order.index]
        first = hashes.drop_duplicates()
        first_with = dict(zip(first, first.index))
        problems = []
        for index in hashes.index[hashes.duplicated()]:
            copy, original = self.cases.loc[index], self.cases.loc[first_with[hashes[index]]]
            part = f" in {original['split']}" if original["split"] else ""
            name = Path(channels.first_file(original["image"])).name
            text = f"{copy['image']}: same content as {name}{part}; it would leak between parts"
            problems.append(_problem(copy["case"], copy["image"], text, "set aside; remove one"))
        cases = self.cases.loc[sorted(first.index)].reset_index(drop=True)
        table = pd.concat([self.report.problems, problem_table(problems)], ignore_index=True)
        return cases, replace(self.report, problems=table)

    def classes_of(self, cases: pd.DataFrame) -> list[set[str]]:
        """The classes that the masks of each of these rows of `cases` contain."""
        return pd.Series(self.classes, index=self.cases["case"])[cases["case"]].tolist()

    def classes_without_masks(self, cases: pd.DataFrame, parts: pd.Series) -> list[str]:
        """Notes on the classes that occur in no mask, in all cases and in single parts of the
        split: nothing is learned about them there, or nothing is scored.

        Args:
            cases: rows of `cases`; parts: train, val or test for each of them.
        """
        present = self.classes_of(cases)
        everywhere = set().union(*present)
        missing = [name for name in self.class_names if name not in everywhere]
        notes = []
        if missing and everywhere:
            notes.append(
                f"no mask contains {', '.join(missing)}: nothing can be learned about "
                f"{'it' if len(missing) == 1 else 'them'}; if masks should, their numbers or "
                "colours mean something else"
            )
        for part in ("train", "val", "test"):
            of_part = [names for names, name in zip(present, parts) if name == part]
            lacking = [n for n in self.class_names if n in everywhere - set().union(*of_part)]
            if of_part and lacking:
                notes.append(f"{part}: no mask of this part contains {', '.join(lacking)}")
        return notes


def check(cases: pd.DataFrame, facts: list[dict[str, Any]], cfg) -> Checked:
    """Conclude from the facts of all cases which of them can be used.

    Args:
        cases: the case table; `attrs["notes"]` are the notes of the scan.
        facts: one dict for each row of `cases`, as `prepare` saves them.
        cfg: its task, class_names and mask_inverted are used.

    Raises:
        DataError: no case can be used; names the first problem.
    """
    facts = _spread_over_volumes(cases["image"], _with_problems(cases, facts))
    readable = np.array(["problem" not in fact for fact in facts])
    problems = [
        _problem(fact["case"], fact["file"], fact["problem"], "set aside")
        for fact in facts
        if "problem" in fact
    ]
    if not readable.any():
        raise first_problem(problem_table(problems))
    decoded = [fact for fact in facts if "problem" not in fact]
    inverted = polarity(decoded, cfg)
    files = cases["image"][readable]
    scan_notes = cases.attrs.get("notes", [])
    # A scan has put the notes on headers among its own; a table that was made by hand has no notes.
    notes = [*scan_notes, *_notes_of_files(files, decoded, with_headers=not scan_notes)]
    notes += _warnings(files, decoded) + _empty_classes(decoded, inverted, cfg)
    notes += _without_background(cases[readable], cfg)
    meaning = meanings.judge(cases, facts, cfg)
    undecided = [*_question_on_window(files, decoded, cfg), *meaning.undecided]
    notes = [*undecided, *notes, *meaning.notes]
    problems += [
        _problem(case, path, text, "set aside; correct the file, or set what the message says")
        for case, path, text in meaning.set_aside
    ]
    if cfg.mask_inverted == "auto" and cfg.task != "multiclass":
        notes += _inverted_classes(decoded, inverted)
        problems += _odd_polarity(cases[readable], decoded, inverted)
    # Masks of odd polarity or meaning are problems too.
    usable = readable & ~cases["case"].isin([problem["case"] for problem in problems])
    if not usable.any():
        raise first_problem(problem_table(problems))
    chosen = [fact for fact, use in zip(facts, usable) if use]
    columns = {
        name: [fact[name] for fact in chosen] for name in ("height", "width", "sha256", "row")
    }
    table = cases[usable].drop(columns="problem", errors="ignore")
    table = table.assign(**columns).reset_index(drop=True)
    hashes = pd.Series([fact["pixels"] for fact in chosen], dtype=object)
    report = DataReport(
        fact_table(decoded, cfg.mask_columns),
        problem_table(problems),
        notes,
        undecided,
    )
    names = tuple(cfg.structures.values())
    classes = [_classes_in(fact, cfg) for fact in chosen]
    return Checked(table, hashes, report, inverted, names, classes)


def _classes_in(fact: dict[str, Any], cfg) -> set[str]:
    """The names of the classes that the masks of a case contain, without the background."""
    masks = fact["masks"]
    if cfg.task == "multiclass":
        return {cfg.class_names[number] for number in masks[0]["classes"]}
    return {name for name, mask in zip(cfg.class_names, masks) if 1 in mask["classes"]}


def polarity(facts: list[dict[str, Any]], cfg) -> dict[str, bool]:
    """Class -> whether 0 is its structure: as the config says, or by a majority of its masks."""
    if cfg.mask_inverted != "auto" or cfg.task == "multiclass":
        return dict.fromkeys(cfg.class_names, cfg.mask_inverted is True)
    result = {}
    for name, flags in _inverted_flags(facts, cfg.class_names).items():
        result[name] = bool(flags.size and flags[:, 0].mean() > 0.5)
    return result


def fact_table(facts: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """The table `DataReport.facts`: those facts that a reader is shown."""
    rows = []
    for fact in facts:
        row = {name: fact[name] for name in ("case", "height", "width")}
        for column, mask in zip(columns, fact["masks"]):
            row[f"how {column}"], row[f"share {column}"] = mask["decoding"], mask["share"]
        rows.append(row)
    return pd.DataFrame(rows)


def problem_table(problems: list[dict[str, Any]]) -> pd.DataFrame:
    """The table `DataReport.problems`; its columns have their types even where it is empty."""
    return pd.DataFrame(problems, columns=list(PROBLEM_COLUMNS)).astype(PROBLEM_COLUMNS)


def first_problem(problems: pd.DataFrame) -> DataError:
    """The error that names the first problem and counts the others."""
    text = problems["problem"].iloc[0]
    if len(problems) > 1:
        text += f" ({len(problems) - 1} more problems of this kind or another)"
    return DataError(text)


def _problem(case: str, file: str, text: str, action: str) -> dict[str, Any]:
    return {"case": case, "file": file, "problem": text, "action": action, "set_aside": True}


def _with_problems(cases: pd.DataFrame, facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The facts, with the problems that the scan found, in the column `problem` of the cases."""
    if "problem" not in cases:
        return facts
    return [
        {"case": case, "file": image, "problem": f"{image}: {text}"} if text else fact
        for case, image, text, fact in zip(cases["case"], cases["image"], cases["problem"], facts)
    ]


def _spread_over_volumes(paths: Iterable[str], facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The facts, where one unusable slice makes its whole volume unusable.

    Volumes and distances in mm would be wrong without that slice.
    """
    broken: dict[str, dict[str, Any]] = {}
    for path, fact in zip(paths, facts):
        if "problem" in fact:
            broken.setdefault(path, fact)
    broken = {path: fact for path, fact in broken.items() if volumes.is_volume(path)}
    result = []
    for path, fact in zip(paths, facts):
        if "problem" not in fact and path in broken:
            fact = {**broken[path], "case": fact["case"]}
        result.append(fact)
    return result


def _by_file(paths: Iterable[str], facts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """File -> the facts of its slices, in the order of the cases."""
    result: dict[str, list[dict[str, Any]]] = {}
    for path, fact in zip(paths, facts):
        result.setdefault(path, []).append(fact)
    return result


def _notes_of_files(
    paths: Iterable[str], facts: list[dict[str, Any]], with_headers: bool
) -> list[str]:
    """Notes on what is odd about the values of volumes and, `with_headers`, their headers."""
    names: dict[str, list[str]] = {}  # note -> files
    for path, slices in _by_file(paths, facts).items():
        texts = slices[0]["header_notes"] if with_headers else []
        for text in [*texts, *slices[0]["decoding_notes"]]:
            names.setdefault(text, []).append(Path(channels.first_file(path)).name)
    return [f"{listed(files)}: {text}" for text, files in names.items()]


def _question_on_window(paths: Iterable[str], facts: list[dict[str, Any]], cfg) -> list[str]:
    """What the config must answer where the preset's window of CT meets MRI, else [].

    The window would turn most of the image white. One that the user chose is taken as meant.
    """
    default = presets.PRESETS[cfg.preset].full
    window = (default.get("window_level"), default.get("window_width"))
    if cfg.window_level is None or (cfg.window_level, cfg.window_width) != window:
        return []
    first_slices = {
        path: slices[0]
        for path, slices in _by_file(paths, facts).items()
        if volumes.is_volume(path)
    }
    reasons = (volumes.NOT_IN_HU, volumes.OTHER_MODALITY)
    odd = [
        Path(channels.first_file(path)).name
        for path, fact in first_slices.items()
        if any(note.startswith(reasons) for note in fact["decoding_notes"])
    ]
    if 2 * len(odd) <= len(first_slices):
        return []
    return [
        f"window: {len(odd)} of {len(first_slices)} volumes ({listed(odd)}) are not CT in "
        f"Hounsfield units, but the window is the preset's one of CT (level {cfg.window_level:g}, "
        f"width {cfg.window_width:g}): for MRI set {volumes.FOR_MRI}; "
        "for CT in other numbers convert the files, or set a window that fits them"
    ]


def _warnings(paths: Iterable[str], facts: list[dict[str, Any]]) -> list[str]:
    """Notes on cases that can be used but look wrong, each with the names of the first files.

    A warning on a volume counts where all of its slices have it.
    """
    names: dict[str, list[str]] = {}  # warning -> files
    for path, slices in _by_file(paths, facts).items():
        # How well the masks lie on edges: as they are, and turned in each of the other `TURNS`.
        fit = np.sum([fact["edges"] for fact in slices], axis=0)
        # Stores of older versions lack the variances, and the question stays open.
        unknown = [np.inf] * len(TURNS)
        variances = np.sum([fact.get("edge_variances", unknown) for fact in slices], axis=0)
        best = fit.argmax()
        n_errors = MIN_EDGE_ERRORS["volume" if len(slices) > 1 else "picture"]
        is_sure = fit[best] - fit[0] > n_errors * np.sqrt(variances[best])
        if is_sure and fit[best] > MAX_EDGE_RATIO * fit[0]:
            text = (
                f"by its edges, its mask would fit it better {list(TURNS)[best]}: "
                "look at both, and correct the mask"
            )
            names.setdefault(text, []).append(Path(channels.first_file(path)).name)
        for text, name in slices[0]["warnings"].items():
            if all(text in fact["warnings"] for fact in slices):
                names.setdefault(text, []).append(name)
    return [f"{listed(files)}: {text}" for text, files in names.items()]


def _shortened(notes: list[str], most: int = 12) -> list[str]:
    """At most `most` notes for the summary: those that differ only in the file become one."""
    notes = grouped(notes)
    if len(notes) <= most:
        return notes
    n_more = len(notes) - most + 1
    return [*notes[: most - 1], f"and {n_more} more; all are in report.notes"]


def _empty_classes(facts: list[dict[str, Any]], inverted: dict[str, bool], cfg) -> list[str]:
    """Notes on classes whose masks are all empty."""
    notes = []
    for k, column in enumerate(cfg.mask_columns):
        shares = [fact["masks"][k]["share"] for fact in facts if fact["masks"][k]["decoding"]]
        shares = [share for share in shares if not np.isnan(share)]
        if shares and not any(shares) and not inverted.get(column):
            notes.append(
                f"{column}: all {len(shares)} masks are empty, so nothing can be learned; "
                "are they the right ones?"
            )
    return notes


def _without_background(cases: pd.DataFrame, cfg) -> list[str]:
    """A note where no pixel of any case is annotated as background."""
    if cfg.task != "multiclass" or "annotated" not in cases:
        return []
    annotated = [str(cell).split(",") for cell in cases["annotated"]]
    if any(cfg.class_names[0] in names for names in annotated):
        return []
    present = {name for names in annotated for name in names}
    names = ", ".join(name for name in cfg.class_names[1:] if name in present)
    return [
        f"{cfg.class_names[0]}: no pixel is annotated as such, because the labels of each case "
        "lack a class, which may be anywhere outside the others; a network cannot learn what is no "
        f"structure: add the missing labels, or set class_names to those that cases have ({names})"
    ]


def _inverted_flags(facts: list[dict[str, Any]], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Class -> (masks, 2) bool: whether each mask looks inverted, and whether its negative does."""
    result = {}
    for k, name in enumerate(names):
        masks = [fact["masks"][k] for fact in facts if fact["masks"][k]["decoding"]]
        masks = [mask for mask in masks if mask["decoding"] != EXACT_DECODING]
        flags = [mask["looks_inverted"] for mask in masks]
        result[name] = np.array(flags, dtype=bool).reshape(-1, 2)
    return result


def _inverted_classes(facts: list[dict[str, Any]], inverted: dict[str, bool]) -> list[str]:
    """Notes on the classes whose masks were found to be inverted."""
    flags = _inverted_flags(facts, inverted)
    return [
        f"{name}: {flags[name][:, 0].sum()} of {len(flags[name])} masks have a foreground border: "
        "0 is the structure"
        for name in inverted
        if inverted[name]
    ]


def _odd_polarity(
    cases: pd.DataFrame, facts: list[dict[str, Any]], inverted: dict[str, bool]
) -> list[dict[str, Any]]:
    """Problems of single masks that look inverted although most of their class do not."""
    problems = []
    action = "set aside; correct the file, or set mask_inverted=False to take all masks as they are"
    for k, name in enumerate(inverted):
        for case, path, fact in zip(cases["case"], cases[name], facts):
            mask = fact["masks"][k]
            # In an inverted class it is the negative of the file that must not look inverted.
            if mask["decoding"] and mask["looks_inverted"][1 if inverted[name] else 0]:
                text = (
                    f"{path}: mask looks inverted beside the others of its class (its border is 1)"
                )
                problems.append(_problem(case, path, text, action))
    return problems
