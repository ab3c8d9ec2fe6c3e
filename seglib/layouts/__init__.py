"""Turn a folder of raw data into the case table, with one row for each image or slice.

`tables.LAYOUTS` lists the layouts. Each has a function that returns the columns case, patient,
split ("" where the tree has none), image and the masks: one column for each class for the tasks
binary and multilabel, `labels` for multiclass. Files in a mask cell are joined by `|` and united;
an empty cell says that no mask exists. Files in the cell `image` are joined by `::`: they are the
channels of the case in their order, and the column `channels` has their names, see
`formats.channels`. `cases.attrs["notes"]` lists what was odd or left out.
Taught in `01_data_preparation`.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from .. import config, hosts, presets, tables
from ..errors import DataError
from ..formats import segments
from ..formats.images import SUFFIXES
from . import class_files, class_values, classes, named, pairing, patients


def scan(cfg: Any) -> pd.DataFrame:
    """The case table of the data that `cfg` names, or that `hosts.find_data` finds for it.

    Where nobody has named the classes (preset binary), the masks and the lists beside them tell
    them: `cfg` receives task and class names, and how the masks are read, and a table is printed.

    Raises:
        DataError: no data (says where it looked and what is there), no image in it, masks that do
            not fit the task, a tree that can be read in several ways, or `patient_pattern` or
            `patient_table` names no patient of a case.
    """
    tree = _find(cfg)
    if classes.are_open(cfg):
        complete(cfg, tree)
    name, cases = _read(tree, cfg)
    if cases.empty:
        expected = ", ".join(SUFFIXES)
        notes = "".join(f"; {note}" for note in cases.attrs.get("notes", [])[:3])
        raise DataError(
            f"{tree.folder}: no image found; expected files ending in {expected}, or volumes with "
            f"labels{notes}"
        )
    notes = list(cases.attrs.get("notes", []))
    cases = patients.of(cases, cfg)
    warning = cases.attrs.get("patients", {}).get("warning")
    if warning:
        notes.append(f"patients: {warning}")
    others = _trees_beside(tree.folder, cfg.replace(layout=name)) if cfg.data_root else []
    if others:
        verb = "was" if len(others) == 1 else "were"
        notes.append(
            f"{tree.folder.name} was read, {', '.join(others)} beside it {verb} not: set data_root "
            "to the one that you mean"
        )
    if cfg.layout == "auto" and name not in presets.PRESETS[cfg.preset].layouts:
        notes.append(
            f'layout: {tree.folder.name} was read as "{name}", which is not usual for the preset '
            f"{cfg.preset}; set layout if another one is meant"
        )
    cases.attrs["notes"] = notes
    return cases


def complete(cfg: Any, tree: hosts.Tree | None = None) -> classes.Classes | None:
    """Set the classes of a config by what the masks of its data show, and print them as a table.

    `scan` does this for a config of the preset binary whose classes nobody has named. Fields that
    the user has set stay as they are.

    Args:
        tree: the folder of the data; None: it is found as `scan` finds it.

    Returns:
        What was understood; None where the classes are decided already, or where the masks cannot
        be understood, of which preparation says why.

    Raises:
        DataError: the masks can be read in two ways; the text shows the settings of both.
    """
    if not classes.are_open(cfg):
        return None
    tree = tree or _find(cfg)
    find = class_files.of_names if tree.layouts == ("named",) else class_files.of_files
    understood = find(tree.folder, cfg)
    if understood is None:
        understood = _of_masks(tree, cfg)
    if understood is None:
        return None
    print(understood.text(tree.folder))
    for name, value in understood.settings.items():
        if name not in cfg.chosen or name in ("task", "class_names"):
            setattr(cfg, name, value)
    flips = sorted({"hflip", "vflip"} & cfg.augment.keys())
    if flips and "augment" not in cfg.chosen and config.names_a_side(cfg.class_names):
        cfg.augment = {name: value for name, value in cfg.augment.items() if name not in flips}
        print(f"augment: {' and '.join(flips)} left out, as left and right are different classes")
    cfg.validate()
    return understood


def _of_masks(tree: hosts.Tree, cfg: Any) -> classes.Classes | None:
    """The classes in the masks that a layout finds where it looks for one structure."""
    if {"mask_encoding", "label_map"} & cfg.chosen:
        return None
    name = "structure"
    as_one = cfg.replace(task="binary", class_names=(name,), loss="combined")
    try:
        cases = _read(tree, as_one)[1]
    except DataError:
        cases = pd.DataFrame({"volume": []})  # such as folders without a file of that name
    cells = [cell for cell in cases.get(name, ()) if cell]
    if "volume" not in cases or (cells and not segments.kind_of(cells[0])):
        return class_values.of_masks(cells, cfg, tree.folder)
    # Folders with a file for each organ, and files of several segments, have none of that name.
    as_map = cfg.replace(
        task="multiclass",
        class_names=("background", name),
        loss="dice_focal",
        mask_encoding="threshold",  # names beside the labels are not compared
    )
    try:
        cases = _read(tree, as_map)[1]
    except DataError:
        return class_files.of_organs(_organ_folders(tree.folder), cfg)
    image_of = dict(zip(cases["labels"], cases["image"]))
    with_segments = {path: image for path, image in image_of.items() if segments.kind_of(path)}
    numbered = [path for path in image_of if path not in with_segments]
    if with_segments and numbered:
        raise DataError(
            f"{tree.folder}: {Path(next(iter(with_segments))).name} names its segments, "
            f"{Path(numbered[0]).name} has numbers without names; set class_names with the "
            "background first, in the order of these numbers"
        )
    if with_segments:
        return class_files.of_segments(with_segments, cfg)
    return class_files.of_organs([path for path in image_of if Path(path).is_dir()], cfg)


def _organ_folders(root: Path) -> list[str]:
    """The folders of labels below a root that hold volumes, as TotalSegmentator writes them."""
    names = ("seg", "segmentation", "segmentations")
    return [
        str(folder)
        for folder in pairing.folders(root, depth=2)
        if folder.name.lower().endswith(names) and any(folder.glob("*.nii*"))
    ]


def _find(cfg: Any) -> hosts.Tree:
    """The folder of the data, and the layouts that it may have."""
    # Hosted notebooks mount their data late.
    if not cfg.local:
        return hosts.wait_for_tree(cfg)
    tree = hosts.find_tree(cfg)
    if tree:
        return tree
    # Where the user named the layout, its own function explains best what is missing.
    if cfg.layout != "auto" and cfg.data_root and Path(cfg.data_root).expanduser().is_dir():
        return hosts.Tree(Path(cfg.data_root).expanduser().absolute(), (cfg.layout,))
    if cfg.data_root and Path(cfg.data_root).expanduser().is_dir():
        root = Path(cfg.data_root).expanduser().absolute()
        if "named" in presets.PRESETS[cfg.preset].layouts and named.parts(root):
            return hosts.Tree(root, ("named",))
        advice = pairing.advice_on_one_folder(root)
        if advice:
            raise DataError(advice)
    raise DataError(hosts.explain_missing(cfg))


def _read(tree: hosts.Tree, cfg: Any) -> tuple[str, pd.DataFrame]:
    """The name of the layout that a tree has, and its case table.

    Where the markers of several layouts fit, their tables are compared.

    Raises:
        DataError: the tables differ in patients, parts or masks, or no layout can read the tree.
    """
    # Of layouts that share a function only the first is read.
    first_by_function = {tables.LAYOUTS[name].scan: name for name in reversed(tree.layouts)}
    names = [name for name in tree.layouts if name in first_by_function.values()]
    results: dict[str, pd.DataFrame] = {}
    errors = []
    for name in names:
        try:
            results[name] = _scan_as(name, tree.folder, cfg)
        except DataError as error:
            errors.append(error)
    if not results:
        raise errors[0]
    first, *others = results
    different = [name for name in others if _meaning(results[name]) != _meaning(results[first])]
    if different:
        choices = " or ".join(f'layout = "{name}"' for name in (first, *different))
        raise DataError(
            f"{tree.folder}: this tree can be read in {len(different) + 1} ways, which differ in "
            f"patients, parts or masks; say which one is meant: {choices}"
        )
    return first, results[first]


def _scan_as(name: str, root: Path, cfg: Any) -> pd.DataFrame:
    """The case table of a folder by a named layout."""
    settings = {**cfg.settings, "cfg": cfg, "root": root, "class_name": cfg.class_names[0]}
    return tables.call(tables.LAYOUTS[name].scan, settings)


def _meaning(cases: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The rows of a case table in a form that can be compared between layouts.

    Names of cases and volumes are left out: each layout may choose its own.
    """
    ignored = {"case", "volume", "label_numbers"}
    columns = sorted(set(cases) - ignored)
    return sorted(tuple(map(str, row)) for row in cases[columns].itertuples(index=False))


def _trees_beside(folder: Path, cfg: Any) -> list[str]:
    """Names of the folders beside `folder` that hold a tree of the same layout as well."""
    # The user named this very folder, so its neighbours are not meant.
    if Path(cfg.data_root).expanduser().resolve() == folder.resolve():
        return []
    beside = [path for path in sorted(folder.parent.iterdir()) if path.is_dir()]
    return [
        path.name
        for path in beside
        if path.resolve() != folder.resolve() and hosts.find_data(cfg.replace(data_root=str(path)))
    ]
