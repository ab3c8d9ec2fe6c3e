"""Correct masks in a notebook: predict, correct, retrain.

    queue = annotate.queue(run, cases)       # the cases that need a look first
    annotate.edit(queue)                     # brush, eraser, polygon, fill; saves beside the images
    cases = annotate.merge(queue)            # the case table with corrected masks

`prepare.build(cases, cfg)` and `training.fit` go on from there. Files of the original data are
never changed: corrected masks lie in a folder of their own, see `corrections`.
"""

import dataclasses
import importlib.util
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from . import case_io, checks, config, corrections, hosts, inference, plots
from .annotations import writers
from .annotations.shapes import IGNORED
from .corrections import Corrections
from .errors import DataError, listed
from .formats import channels, images, inputs, mask_pixels, nifti, sequences, volumes
from .layouts import patients
from .tables import IGNORE

FAILURE = "failure"  # the column of a case table that says which predictions have failed
BAND = 3  # pixels: how far from the boundary of a predicted mask its entropy counts
# Words that a table saved as text may have for yes and no.
YES, NO = ("true", "yes"), ("false", "no", "", "nan")


@dataclass
class Queue:
    """Cases in the order in which they should be looked at.

    Attributes:
        table: the case table, hardest case first, with the column `doubt` where a network predicts.
        order: what they are ordered by, in words.
        folder: where corrected masks are saved.
        config: classes and settings.
        predictor: the network whose masks are the start for cases without a mask; None for none.
        inverted: class -> whether 0 is the structure in the original mask files.
        notes: what was left out, and what else has to be known.
    """

    table: pd.DataFrame
    order: str
    folder: Path
    config: Any
    predictor: inference.Predictor | None = None
    inverted: dict[str, bool] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        lines = [f"{len(self)} cases, {self.order}", f"corrected masks: {self.folder}"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def queue(
    run: Any,
    cases: pd.DataFrame | str | Path,
    folder: str | Path | None = None,
    cfg: Any = None,
    flag: str = FAILURE,
    doubt: Callable[[np.ndarray, str], float] | None = None,
) -> Queue:
    """The cases to look at, hardest first; `Queue.order` says by what.

    Flagged cases come first, where the table has the column `flag`. Otherwise, and among cases of
    one flag, the network's doubt decides (`boundary_entropy`): the larger, the earlier.

    Args:
        run: a `Run`, whose best weights are used, a `Predictor`, the path of weights, or the name
            of a network of the zoo. A `Config` where there is no network yet: the cases stay in
            their order then, and masks are drawn from nothing.
        cases: a case table, of which masks may be missing; or a folder of images without masks.
        folder: for corrected masks; by default `<folder of the images>_corrected` beside that
            folder, or in `work_dir` where that cannot be written.
        cfg: the settings by which these cases are read; by default those of the network.
        flag: column of the case table: yes or no, or numbers of which larger means worse.
        doubt: of probabilities (C, H, W) and the task; `boundary_entropy` by default.

    Raises:
        DataError: no image can be read, a flag is no number, the masks are of other classes than
            those of the network, or it cannot take the images.
    """
    predictor = _predictor(run)
    network = predictor.config if predictor else run
    cfg = cfg or network
    for name in ("task", "class_names", "in_channels", "channel_names", "context_slices"):
        if getattr(cfg, name) != getattr(network, name):
            raise DataError(
                f"cfg: {name} is {getattr(cfg, name)!r}, that of the network "
                f"{getattr(network, name)!r}; they must agree"
            )
    table = cases if isinstance(cases, pd.DataFrame) else table_of_folder(cases, cfg)
    table = _complete(table, cfg)
    columns, notes = _look_at(table, predictor, cfg, doubt or boundary_entropy)
    inverted = checks.polarity(columns.pop("facts"), cfg)
    table = table.assign(**columns)
    readable = table.pop("unreadable") == ""
    if not readable.any():
        raise DataError(f"no image can be read: {columns['unreadable'][0]}")
    table, order = _sorted(table[readable], flag, doubt)
    if predictor:
        notes += _notes_on_training(table, predictor)
    target = Path(folder) if folder else default_folder(table["image"], cfg)
    return Queue(table, order, target, cfg, predictor, inverted, notes)


def boundary_entropy(prob: np.ndarray, task: str) -> float:
    """The doubt of a network about one image, 0 (certain) to 1.

    The mean entropy of its probabilities within 3 pixels of the boundary of its mask, relative to
    the largest possible. Where it predicts nothing, of the hundredth of the pixels that are most
    uncertain: no structure, or one that was missed. With several overlapping classes, the mean of
    all classes.

    Args:
        prob: (C, H, W) probabilities.
    """
    prob = np.clip(prob.astype(np.float64), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        entropy = -(prob * np.log(prob)).sum(axis=0) / np.log(len(prob))
        return _mean_near_boundary(entropy, prob.argmax(axis=0))
    entropy = -(prob * np.log2(prob) + (1 - prob) * np.log2(1 - prob))
    pairs = zip(entropy, prob >= 0.5)
    return float(np.mean([_mean_near_boundary(plane, mask) for plane, mask in pairs]))


def _mean_near_boundary(entropy: np.ndarray, mask: np.ndarray) -> float:
    """The mean of (H, W) near where the mask (H, W) changes; of its largest 1 % where none is."""
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge = np.zeros(mask.shape, bool)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        n_pixels = max(1, entropy.size // 100)
        return float(np.partition(entropy, -n_pixels, axis=None)[-n_pixels:].mean())
    band = ndimage.binary_dilation(edge, iterations=BAND - 1) if BAND > 1 else edge
    return float(entropy[band].mean())


def edit(queue: Queue, height: int = 560) -> Any:
    """The editor, as a widget of the notebook: the first case that is not saved yet is open.

    Every stroke is stored at once as a draft; "save" makes it a corrected mask. A reload of the
    page or a restart of the kernel loses nothing: run the cell again.

    Args:
        queue: of `queue`. For a part of it: `dataclasses.replace(q, table=q.table.head(20))`.
        height: of the drawing area, in pixels of the screen.

    Returns:
        The widget. Where widgets are missing, None, and it is printed how to go on in LabelMe or
        3D Slicer.

    Raises:
        DataError: masks in `queue.folder` are of other images or classes, or damaged.
    """
    if not _has_widgets():
        print(without_widgets(queue))
        return None
    from . import mask_editor  # needs anywidget, which is optional

    for note in queue.notes:
        print("note:", note)
    print(f"{len(queue)} cases, {queue.order}; corrected masks go to {queue.folder}")
    return mask_editor.MaskEditor(Sheets(queue), height=height)


def merge(queue: Queue, cases: pd.DataFrame | None = None) -> pd.DataFrame:
    """A case table with the corrected masks in place of the originals, for `prepare.build`.

    No file is written or changed: cells of the table name the corrected files, and the column
    `label_numbers` says that these hold class numbers. Cases without any mask are left out. What
    was done is printed, and stands in `attrs["notes"]`.

    Args:
        cases: the table to correct; by default that of the queue. Corrected cases that it lacks are
            appended.

    Raises:
        DataError: nothing is saved yet, or a saved mask is damaged or of another image.
    """
    cfg, store = queue.config, Corrections(queue.folder, queue.config)
    table = queue.table if cases is None else _complete(cases, cfg)
    if cases is not None:
        missing = ~queue.table["case"].isin(table["case"])
        table = pd.concat([table, queue.table[missing]], ignore_index=True)
    table = table.drop(columns=["doubt", FAILURE], errors="ignore")
    rows, n_saved, drafts = [], 0, []
    for row in table.to_dict("records"):
        if store.is_saved(row):
            row |= _corrected_cells(row, store, cfg)
            n_saved += 1
        if store.has_draft(row):
            drafts.append(str(row["case"]))
        rows.append(row)
    if not n_saved:
        unsaved = f" ({len(drafts)} drafts are not saved)" if drafts else ""
        raise DataError(
            f"{queue.folder}: no corrected mask is saved{unsaved}; save one in annotate.edit first"
        )
    return _merged(table, rows, n_saved, drafts, cfg)


def _merged(
    table: pd.DataFrame, rows: list[dict], n_saved: int, drafts: list[str], cfg: Any
) -> pd.DataFrame:
    """The table of `merge` from its rows; prints what was done."""
    merged = pd.DataFrame(rows)
    for column, value in (("label_numbers", ""), ("annotated", ",".join(cfg.class_names))):
        if column in merged:
            merged[column] = merged[column].fillna(value)
    has_mask = (merged[cfg.mask_columns] != "").any(axis=1)
    notes = [
        f"case table with {n_saved} corrected masks in place of the originals, "
        f"{has_mask.sum() - n_saved} other cases as they were"
    ]
    if not has_mask.all():
        notes.append(f"{(~has_mask).sum()} cases without a mask are left out")
    if drafts:
        notes.append(
            f"{len(drafts)} drafts are not saved and not used ({listed(drafts)}): open them in "
            "annotate.edit and save"
        )
    for note in notes:
        print("merge:", note)
    merged = merged[has_mask].reset_index(drop=True)
    merged.attrs = {**table.attrs, "notes": [*table.attrs.get("notes", []), *notes]}
    return merged


def _corrected_cells(row: dict, store: Corrections, cfg: Any) -> dict[str, str]:
    """The cells of a case table by which its corrected mask is read."""
    cells = {column: os.path.abspath(path) for column, path in store.mask_files(row).items()}
    cells["label_numbers"] = case_io.EXACT
    if "annotated" in row:
        cells["annotated"] = ",".join(cfg.class_names)
    if "problem" in row:
        cells["problem"] = ""  # it was one of the original mask
    return cells


# ---- cases


def table_of_folder(folder: str | Path, cfg: Any) -> pd.DataFrame:
    """The case table of a folder of images without masks: pictures and volumes.

    Raises:
        DataError: no such folder, or no image in it.
    """
    folder = Path(folder)
    content = inputs.read(folder)
    cells = [(_name_of(path), str(path)) for path in content.files]
    left_out = content.left_out
    if len(cfg.channels) > 1:
        by_name, incomplete = sequences.of_files(content.files, cfg)
        cells, left_out = list(by_name.items()), left_out | incomplete
    rows = []
    for name, cell in cells:
        parts = [os.path.abspath(part) for part in channels.split(cell)]
        shared = {"case": name, "patient": name, "split": "", "image": channels.join(parts)}
        shared |= dict.fromkeys(cfg.mask_columns, "") | {"volume": "", "slice": ""}
        if len(cfg.channels) > 1:
            shared["channels"] = channels.SEPARATOR.join(cfg.channels)
        if not volumes.is_volume(cell):
            rows.append(shared)
            continue
        n_slices = volumes.read_grid(channels.first_file(cell), **volumes.options(cfg)).shape[0]
        of_slices = [{"case": f"{name}_{k:03d}", "slice": k} for k in range(n_slices)]
        rows += [{**shared, "volume": name, **of_slice} for of_slice in of_slices]
    if not rows:
        raise DataError(f"{folder}: no whole case; {next(iter(left_out.values()))}")
    table = pd.DataFrame(rows)
    table.attrs["notes"] = [f"{name}: {why}" for name, why in left_out.items()]
    if content.masks:
        table.attrs["notes"].append(f"masks that are not opened: {listed(content.masks)}")
    return patients.of(patients.judged(table), cfg)


def _name_of(path: Path) -> str:
    return nifti.stem(path) if volumes.is_volume(path) else path.stem


def default_folder(paths: Iterable[str], cfg: Any) -> Path:
    """`<folder of all images>_corrected` beside it, or in `work_dir` where that is read-only."""
    files = map(channels.first_file, paths)
    parents = {os.path.dirname(os.path.abspath(file)) for file in files}
    common = Path(os.path.commonpath(parents))
    name = f"{common.name or 'images'}_corrected"
    beside = common.parent / name
    if os.access(beside if beside.exists() else common.parent, os.W_OK):
        return beside
    return Path(hosts.run_root(cfg)) / name


def _predictor(run: Any) -> inference.Predictor | None:
    """The predictor of a run, of weights, or of itself; None for a config."""
    if hasattr(run, "predict_pixels"):
        return run
    if isinstance(run, str | Path):
        return inference.Predictor.load(run)
    if hasattr(run, "best"):
        return inference.Predictor.load(run.best, model=getattr(run, "model", None))
    if hasattr(run, "class_names"):
        return None
    if hasattr(run, "predictor"):  # a cross-validation
        return run.predictor
    raise DataError(
        f"queue: found {type(run).__name__} as the first argument; expected a run, a predictor, "
        "the path of weights, or a config where there is no network yet"
    )


def _complete(table: pd.DataFrame, cfg: Any) -> pd.DataFrame:
    """A case table with all columns that are needed here, and without missing cells."""
    case_io.check_table(table, ("case", "image"), "to correct")
    attrs = table.attrs
    table = table.copy()
    if "patient" not in table:
        table["patient"] = table["case"]
    mask_columns = cfg.mask_columns
    if not set(mask_columns) & set(table):
        _refuse_other_masks(table, mask_columns)
    for column in ("split", *mask_columns):
        table[column] = table[column].astype(object).fillna("") if column in table else ""
    if "label_numbers" in table:
        table["label_numbers"] = table["label_numbers"].fillna("")
    table.attrs = attrs
    return table.reset_index(drop=True)


def _refuse_other_masks(table: pd.DataFrame, mask_columns: list[str]) -> None:
    """Raise `DataError` where a column that is not known here names mask files: they would be
    replaced by predictions without a word."""
    for name in set(table) - (config.RESERVED - {"labels"}):
        cells = [str(cell).split(mask_pixels.UNION)[0] for cell in table[name]]
        if any(os.path.isfile(cell) for cell in cells):
            raise DataError(
                f"case table: masks in the column {name!r}, but those of the network are "
                f"{', '.join(map(repr, mask_columns))}; rename the column, or drop it to start "
                "without these masks"
            )


def _look_at(
    table: pd.DataFrame, predictor: inference.Predictor | None, cfg: Any, doubt: Callable
) -> tuple[dict[str, list], list[str]]:
    """Read every case once: columns `doubt` and `unreadable`, the `facts` of original masks that
    tell whether 0 is their structure, and notes."""
    columns: dict[str, list] = {"unreadable": [], "facts": []}
    doubts, bad_masks = [], []
    for row in hosts.progress(table.to_dict("records"), desc="queue", leave=False):
        value, problem = float("nan"), ""
        try:
            pixels = case_io.read_image(row, cfg)
            if predictor:
                value = doubt(predictor.predict_pixels(pixels).prob, cfg.task)
        except DataError as error:
            problem = str(error)
        doubts.append(value)
        columns["unreadable"].append(problem)
        if cfg.mask_inverted == "auto" and cfg.task != "multiclass":
            try:
                columns["facts"].append(_facts_of_masks(row, cfg))
            except DataError as error:
                bad_masks.append(str(error))
    if predictor:
        columns["doubt"] = doubts
    problems = [text for text in columns["unreadable"] if text]
    notes = [f"{len(problems)} cases are left out: {problems[0]}"] if problems else []
    if bad_masks:
        notes.append(f"{len(bad_masks)} masks cannot be read, such as {bad_masks[0]}")
    return columns, notes


def _facts_of_masks(row: dict, cfg: Any) -> dict[str, list]:
    """What `checks.polarity` needs of the original masks of a case."""
    facts = []
    for name in cfg.class_names:
        mask = case_io.read_mask(row, name, cfg, False) if row[name] else None
        flags = case_io.inverted_flags(mask)
        facts.append({"decoding": mask.decoding if mask else "", "looks_inverted": flags})
    return {"masks": facts}


def _sorted(table: pd.DataFrame, flag: str, doubt: Callable | None) -> tuple[pd.DataFrame, str]:
    """The table with the hardest case first, and what it is ordered by."""
    keys, reasons = [], []
    if flag in table:
        table = table.assign(**{flag: _flags(table[flag], flag)})
        keys.append(flag)
        reasons.append(f"those flagged in the column {flag!r} first")
    if "doubt" in table:
        keys.append("doubt")
        name = getattr(doubt, "__name__", "doubt") if doubt else "mean entropy near the boundary"
        reasons.append(f"by the doubt of the network ({name}), the largest first")
    if not keys:
        return table.reset_index(drop=True), "in the order of the table (no network, no flags)"
    attrs = table.attrs
    table = table.sort_values(keys, ascending=False, kind="stable").reset_index(drop=True)
    table.attrs = attrs
    return table, ", then ".join(reasons)


def _flags(column: pd.Series, name: str) -> pd.Series:
    """A column of flags as numbers, larger = worse; an empty cell is 0."""
    texts = column.astype(object).fillna("").astype(str).str.strip().str.lower()
    digit_of = dict.fromkeys(NO, "0") | dict.fromkeys(YES, "1")
    numbers = pd.to_numeric(texts.replace(digit_of), errors="coerce")
    wrong = column[numbers.isna()]
    if len(wrong):
        raise DataError(
            f"case table: {wrong.iloc[0]!r} in the column {name!r} is no flag; expected yes or no, "
            "or numbers of which larger means worse"
        )
    return numbers.astype(float)


def _notes_on_training(table: pd.DataFrame, predictor: inference.Predictor) -> list[str]:
    """A note where the network has seen some of the cases in its training."""
    trained_on = set(predictor.trained_on or ())
    pictures = [path for path in table["image"] if os.path.isfile(path)] if trained_on else []
    n_seen = sum(images.sha256(path)[:16] in trained_on for path in pictures)
    if not n_seen:
        return []
    return [
        f"the network was trained on {n_seen} of {len(table)} cases: of those its doubt is too "
        "small, and their place in the order says little"
    ]


class Sheets:
    """The cases of a queue as `mask_editor` shows them: what is drawn on, and where it goes."""

    def __init__(self, queue: Queue):
        self.queue = queue
        self.store = Corrections(queue.folder, queue.config)
        self.rows = queue.table.to_dict("records")
        self.saved = {number for number, row in enumerate(self.rows) if self.store.is_saved(row)}
        self.largest = self.store.largest
        self.classes = _classes(queue.config)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> int:
        """The first case that is not saved; 0 where all are."""
        numbers = (number for number in range(len(self)) if number not in self.saved)
        return next(numbers, 0)

    def name(self, number: int) -> str:
        return str(self.rows[number]["case"])

    def open(self, number: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Image (H, W, 3) uint8, mask (K, H, W) uint8, and where the mask comes from."""
        row = self.rows[number]
        pixels = case_io.read_image(row, self.queue.config)
        mask = self.store.read(row, pixels.shape[:2])
        if mask is None:
            mask, origin = self._start(row, pixels)
        else:
            origin = "draft, not saved" if self.store.has_draft(row) else "saved"
        return _shown(pixels, self.queue.config), mask, origin

    def keep(self, number: int, mask: np.ndarray) -> None:
        self.store.keep(self.rows[number], mask)

    def save(self, number: int, mask: np.ndarray) -> Path:
        """Save a corrected mask; returns the folder of its files."""
        self.store.save(self.rows[number], mask)
        self.saved.add(number)
        return self.store.folder / "masks"

    def _start(self, row: dict, pixels: np.ndarray) -> tuple[np.ndarray, str]:
        """The mask of the data set, the prediction for classes that have none, or an empty mask."""
        cfg, shape = self.queue.config, pixels.shape[:2]
        has_mask = [bool(row[column]) for column in cfg.mask_columns]
        mask = np.zeros((len(has_mask), *shape), np.uint8)
        if any(has_mask):
            original = case_io.read_masks(row, cfg, self.queue.inverted, shape)[1]
            if original.shape[:2] != shape:
                raise DataError(
                    f"{row['case']}: its mask is {original.shape[0]}x{original.shape[1]}, its image"
                    f" {shape[0]}x{shape[1]}; remove the mask from the table to start without it"
                )
            mask = original.transpose(2, 0, 1).copy()
        origins = ["mask of the data set"] if any(has_mask) else []
        missing = [k for k, exists in enumerate(has_mask) if not exists]
        if missing and self.queue.predictor:
            prediction = self.queue.predictor.predict_pixels(pixels).mask
            mask[missing] = prediction.reshape(-1, *shape)[missing]
            origins.append("prediction")
        elif missing:
            mask[missing] = 0
            origins.append("empty")
        return mask, " and ".join(origins)


def _shown(pixels: np.ndarray, cfg: Any) -> np.ndarray:
    """What the page shows of an image (H, W, C): (H, W, 3) of the slice itself without those beside
    it, and of several sequences the first one."""
    first = cfg.context_slices * cfg.in_channels
    own = pixels[..., first : first + cfg.in_channels]
    return plots.as_rgb(own[..., :1] if len(cfg.channels) > 1 else own)


def _classes(cfg: Any) -> list[dict[str, Any]]:
    """What can be drawn: name, plane and number in the mask, and colour of each structure."""
    return [
        {
            "name": name,
            "plane": k if cfg.task == "multilabel" else 0,
            "value": k + 1 if cfg.task == "multiclass" else 1,
            "colour": plots.COLOURS[k % len(plots.COLOURS)],
        }
        for k, name in enumerate(cfg.structures.values())
    ]


# ---- without widgets


def _has_widgets() -> bool:
    """Whether this is a notebook that can show widgets."""
    return hosts.in_notebook() and importlib.util.find_spec("anywidget") is not None


def without_widgets(queue: Queue) -> str:
    """How to go on where the editor cannot be shown."""
    reason = "this is no notebook"
    if hosts.in_notebook():
        reason = "anywidget is missing: pip install anywidget, then restart the kernel"
    return (
        f"The editor cannot be shown ({reason}).\n"
        "Correct the masks in another program instead: annotate.export(queue, DIR) writes them for "
        "LabelMe (pictures) and 3D Slicer (volumes), and says what to do then."
    )


def export(queue: Queue, output: str | Path) -> Path:
    """Write the masks that the editor would start with for another program; prints what to do then.

    Pictures get a LabelMe file each, with polygons that change no pixel. A volume gets the mask
    that the network predicts, in the geometry and, where it can be written, the format of the
    volume: 3D Slicer opens it as a segmentation over the image.

    Raises:
        DataError: the folder holds something already, a case cannot be read, or there is no network
            for a volume.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise DataError(f"{output}: not empty; give a new folder, since corrections may lie in it")
    sheets, names = Sheets(queue), [item["name"] for item in _classes(queue.config)]
    labelme = writers.writer("labelme", output, names)
    is_volume = [volumes.is_volume(row["image"]) for row in sheets.rows]
    for number, row in enumerate(sheets.rows):
        if not is_volume[number]:
            planes = _by_class(sheets.open(number)[1], queue.config)
            orientation = images.exif_orientation(row["image"])
            labelme.add(row["image"], planes, orientation, corrections.file_name(row["case"]))
    paths = dict.fromkeys(row["image"] for row, it_is in zip(sheets.rows, is_volume) if it_is)
    for path in paths:
        if queue.predictor is None:
            raise DataError(
                f"{path}: a volume without a predicted mask, as there is no network; open it in 3D "
                "Slicer as it is"
            )
        queue.predictor.predict_volume(path, output)
    print(_what_then(queue, output, pictures=not all(is_volume), any_volume=any(is_volume)))
    return output


def _by_class(mask: np.ndarray, cfg: Any) -> dict[str, np.ndarray]:
    """Class -> bool (H, W) of a mask (K, H, W); pixels of 255 as a class of their own."""
    planes = {item["name"]: mask[item["plane"]] == item["value"] for item in _classes(cfg)}
    ignored = (mask == IGNORE).any(axis=0)
    return {**planes, IGNORED: ignored} if ignored.any() else planes


def _what_then(queue: Queue, output: Path, pictures: bool, any_volume: bool) -> str:
    lines = [f"{output}: masks of {len(queue)} cases, {queue.order}"]
    folder = shlex.quote(os.path.dirname(queue.table["image"].iloc[0]))
    if pictures:
        lines += [
            f"pictures: labelme {shlex.quote(str(output))}",
            "  correct the polygons, save, then make a data set of them:",
            f"  python -m seglib prepare --source_images {folder} --annotations "
            f"{shlex.quote(str(output))} --output DIR",
        ]
    if any_volume:
        lines += [
            "volumes: in 3D Slicer, add the image and its _mask file as segmentation; correct it",
            "  in the Segment Editor and save it; put images and masks of equal names into",
            "  DIR/images and DIR/labels",
        ]
    lines.append("then: python -m seglib train --data_dir DIR")
    return "\n".join(lines)
