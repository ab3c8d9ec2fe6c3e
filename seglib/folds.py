"""Cross-validation: every patient is scored by networks that were trained without them.

`training.cross_validate` is its name for notebooks; docs/folds.md has the rules.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import config, data, evaluation, files, hosts, models, prepare, runs, training, transfer, zoo
from .errors import ConfigError, DataError, listed
from .inference import OPTIONS, Predictor
from .layouts import patients
from .report import Report
from .runs import Run

CASES, TABLE = "folds.csv", "table.csv"
# Settings that neither the split nor the weights of a fold depend on, or that the folds replace.
# Other values of them continue a cross-validation; other values of all others are refused.
FREE = {"size", "data_root", "layout", "work_dir", "local", "num_workers", "device", "bootstrap"}
FREE |= {"test_split", "seed", "patient_pattern", "patient_table"}


@dataclass
class CrossValidation:
    """The networks of all folds, and the scores of all patients.

    Attributes:
        folder: holds a run folder for each fold and seed, `fold_0_seed_0` and so on.
        config: the settings of all runs, except for their seed.
        store: all cases that take part, in the part `test`.
        fold: the fold of each row of `store.cases`.
        seeds: the seeds with which every fold was trained.
        runs: all folds of the first seed, then of the next.
        table: one row for each run: fold, seed, patients and images of the fold, its `dice` (mean
            over images, for volumes over volumes: column `average`), best_epoch, epochs, seconds.
        notes: what a reader of the scores must know, such as a class that a fold cannot learn.
    """

    folder: Path
    config: config.Config
    store: prepare.Store
    fold: np.ndarray
    seeds: tuple[int, ...]
    runs: list[Run]
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def n_folds(self) -> int:
        """The number of folds."""
        return int(self.fold.max()) + 1

    @cached_property
    def report(self) -> Report:
        """The scores of all cases, each out-of-fold, on the grid of the store; see `evaluate`."""
        return self.evaluate()

    @cached_property
    def predictor(self) -> Predictor:
        """The mean of all networks, for new patients: those of this data are in its training."""
        return self._load(self.runs)

    def evaluate(self, grid: str = "store", distances: bool = True, **options: Any) -> Report:
        """A report on all cases, each scored by the networks that never saw its patient.

        With several seeds the networks of a fold are averaged.

        Args:
            grid, distances: as for `evaluation.evaluate`.
            options: of `inference.OPTIONS`, such as `tta=True`.

        Raises:
            ConfigError: there is no such option.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ConfigError(
                f"{unknown[0]}: no option of a predictor; it has {', '.join(OPTIONS)}"
            )
        numbers = range(self.n_folds)
        predictors = [self._load(self.runs[number :: self.n_folds]) for number in numbers]
        for predictor in predictors:
            for name, value in options.items():
                setattr(predictor, name, value)
        loader = data.loaders(self.store, self.config)["test"]
        report = evaluation.out_of_fold(predictors, loader, self.fold, grid, distances)
        if len(self.seeds) > 1:
            report.about["seeds"] = ", ".join(map(str, self.seeds))
        report.notes = [*self.notes, *report.notes]
        return report

    def save(self, folder: str | Path | None = None, report: Report | None = None) -> Path:
        """Write `table.csv` and the files of `report.save`, by default beside the runs.

        Args:
            report: one of `evaluate`, instead of `self.report`.
        """
        folder = (report or self.report).save(folder or self.folder)
        files.write_text(folder / TABLE, self.table.to_csv(index=False))
        return folder

    def _load(self, of_runs: list[Run]) -> Predictor:
        paths = [run.best for run in of_runs]
        predictor = Predictor.load(paths, self.config.device, self.config.precision)
        use = {name: getattr(self.config, name) for name in config.fields_that("use")}
        predictor.config = predictor.config.replace(**use)
        return predictor


def cross_validate(
    cfg,
    store: prepare.Store,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    resume: bool = True,
) -> CrossValidation:
    """Train on all folds but one, in turn, and score each patient by networks that never saw them.

    The patients are divided into folds of the same size with the same share of each finding (or,
    where no finding is known, of patients with the same classes). Each fold is the test part once;
    of the others, `val_split` chooses the epoch and the rest is trained on. `test_split` has no
    effect. The test part of a tree with a split of its own (`keep_split`) takes no part.

    A call with the same settings and cases goes on where an earlier one was stopped, and returns at
    once where all is trained; the weights are those of an uninterrupted training. More `seeds` can
    be added later.

    Args:
        store: of `prepare.build`. Its pixels serve all folds; its split is not used.
        folds: their number, at most the number of patients.
        seeds: every fold is trained with each of them.
        folder: by default `work_dir/<preset>_folds`.
        resume: False begins anew, and renames the folder of an earlier cross-validation aside.

    Raises:
        ConfigError: a cross-validation with other settings or cases is in the folder.
        DataError: fewer than two folds, or more than patients.
    """
    plan = _plan(cfg, store, folds, seeds, folder)
    _begin(plan, resume)
    print(_before(plan))
    runs_of: list[Run] = []
    rows: list[dict[str, Any]] = []
    seconds: list[float] = []  # of the trainings of this call
    try:
        for position, job in enumerate(plan.jobs, start=1):
            is_new = not _is_finished(plan, job)
            run, row = _train(plan, *job) if is_new else _finished(plan, *job)
            runs_of.append(run)
            rows.append(row)
            seconds += [row["seconds"]] if is_new else []
            print(_after(row, is_new, seconds, n_left=_n_missing(plan, plan.jobs[position:])))
    except KeyboardInterrupt:
        print(f"cross_validate, called again, goes on in {plan.folder} (command line: --resume)")
        raise
    return _result(plan, runs_of, rows)


def load(folder: str | Path, store: prepare.Store, **changes: Any) -> CrossValidation:
    """A finished cross-validation from its folder, for example to evaluate it in another notebook.

    Args:
        store: of `prepare.build`, with the cases of the cross-validation.
        changes: settings of use and place, such as `threshold=0.4`.

    Raises:
        ConfigError: the store has other cases, or a change would need another training.
        DataError: there is no cross-validation in the folder, or it is not finished.
    """
    folder = Path(folder)
    fixed = sorted(set(changes) - set(config.fields_that("use") + config.fields_that("place")))
    if fixed:
        raise ConfigError(f"{fixed[0]}: cannot be changed after the training; leave it out")
    before = _read(folder)
    runs.weights_files(folder)  # refuses what is not finished
    seeds = before[0]["seeds"]
    plan = _plan(config_of(folder), store, before[0]["folds"], seeds, folder)
    _refuse(folder, _differences(before, (_description(plan), _case_table(plan))))
    finished = [_finished(plan, *job) for job in plan.jobs]
    crossed = _result(plan, [run for run, _ in finished], [row for _, row in finished])
    crossed.config = crossed.config.replace(**changes)
    return crossed


def config_of(folder: str | Path) -> config.Config:
    """The settings of the cross-validation in a folder; its seed is the first one."""
    return config.from_dict(_read(Path(folder))[0]["config"])


def _result(plan: "_Plan", of_runs: list[Run], rows: list[dict[str, Any]]) -> CrossValidation:
    return CrossValidation(
        folder=plan.folder,
        config=plan.cfg,
        store=plan.store,
        fold=plan.fold,
        seeds=plan.seeds,
        runs=of_runs,
        table=pd.DataFrame(rows),
        notes=plan.notes,
    )


# ---- the plan


@dataclass
class _Plan:
    """What is to be trained; `store` has all cases that take part, in the part `test`."""

    cfg: config.Config
    store: prepare.Store
    fold: np.ndarray
    n_folds: int
    seeds: tuple[int, ...]
    folder: Path
    notes: list[str]

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """Fold and seed of every training, in their order."""
        return [(number, seed) for seed in self.seeds for number in range(self.n_folds)]

    def parts(self, number: int) -> tuple[pd.Series, list[str]]:
        """train, val or test for each row where one fold is the test part, and notes on them."""
        return prepare.fold_parts(self.store.cases["patient"], self.fold, number, self.cfg)

    def store_of(self, number: int) -> prepare.Store:
        """The store with the parts of one fold."""
        parts, _ = self.parts(number)
        return replace(self.store, cases=self.store.cases.assign(split=parts))


def _plan(
    cfg, store: prepare.Store, folds: int, seeds: Sequence[int], folder: str | Path | None
) -> _Plan:
    """Check the arguments, and draw the folds."""
    seeds = _checked_seeds(seeds)
    if isinstance(folds, bool) or not isinstance(folds, int):
        raise ConfigError(f"folds: {folds!r} is not allowed; expected a number of 2 or more")
    cfg = cfg.replace(test_split=0.0, seed=seeds[0])
    if training.processes(hosts.choose_device(cfg.device)).num_processes > 1:
        raise ConfigError("cross_validate runs in one process; start it without torchrun")
    cases, fold, notes = _drawn(cfg, store, folds)
    report = replace(store.checked.without_duplicates()[1], notes=store.checked.report.notes)
    plan = _Plan(
        cfg=cfg,
        store=replace(store, cases=cases.assign(split="test"), report=report),
        fold=fold,
        n_folds=folds,
        seeds=seeds,
        folder=Path(folder) if folder else runs.folds_folder(runs.folder_of(cfg)),
        notes=notes,
    )
    _check_parts(plan)
    notes_of_parts = [text for number in range(folds) for text in plan.parts(number)[1]]
    plan.notes[:0] = [*_notes_of_first_weights(plan), *_notes_of_classes(plan)]
    plan.notes += dict.fromkeys(notes_of_parts)  # folds of one size have the same notes
    return plan


def draw(cfg, store: prepare.Store, folds: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The cases that take part in a cross-validation, and the fold of each of them.

    Raises:
        DataError: as `training.cross_validate`.
    """
    return _drawn(cfg, store, folds)[:2]


def _drawn(cfg, store: prepare.Store, folds: int) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """`draw`, with notes on what was decided."""
    cases, notes = _cases(cfg, store)
    labels, note = _labels(store, cases)
    fold = prepare.patient_folds(labels, cases["patient"], folds, cfg.split_seed)
    return cases, fold, [*notes, note]


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds as a tuple of different numbers."""
    if isinstance(seeds, (str, int)) or not len(seeds):
        raise ConfigError(f"seeds: {seeds!r} is not allowed; expected numbers such as (0, 1)")
    seeds = tuple(config.check("seed", seed) for seed in seeds)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: {seeds} repeat a seed, which would train the same twice")
    return seeds


def _cases(cfg, store: prepare.Store) -> tuple[pd.DataFrame, list[str]]:
    """The cases that take part, without equal images, and notes on those that do not."""
    if getattr(store, "checked", None) is None:
        raise DataError(
            f"store: found {type(store).__name__} without the checks of its cases; cross_validate "
            "needs the store that prepare.build returns"
        )
    cases = patients.of(store.checked.without_duplicates()[0], cfg)
    if set(store.cases["case"]) != set(cases["case"]):
        raise DataError(
            f"store.cases was changed: it has {len(store.cases)} cases, its pixels are of "
            f"{len(cases)}; to leave out cases, filter the case table and call prepare.build"
        )
    is_test = (cases["split"] == "test") & cfg.keep_split
    if not is_test.any():
        return cases, []
    n = cases.loc[is_test, "patient"].nunique()
    if is_test.all():
        raise DataError(
            "keep_split: all cases are in the test part of the tree, which takes no part in folds; "
            "set keep_split=False"
        )
    note = (
        f"the tree's own test part ({is_test.sum()} images of {n} patients) takes no part in the "
        "folds, so that crossed.predictor can be scored on it; keep_split=False includes it"
    )
    both = sorted(set(cases.loc[is_test, "patient"]) & set(cases.loc[~is_test, "patient"]))
    notes = [note]
    if both:
        notes.append(f"patients in the folds and in the tree's own test part: {listed(both)}")
    return cases[~is_test].reset_index(drop=True), notes


def _labels(store: prepare.Store, cases: pd.DataFrame) -> tuple[list[str], str]:
    """What is spread evenly over the folds, for each row, and a note that says so."""
    if "finding" in cases and cases["finding"].replace("", np.nan).nunique() > 1:
        label = "finding"
        labels = cases["finding"].replace("", "unknown").tolist()
    else:
        label = "the classes of their masks"
        labels = [",".join(sorted(names)) for names in store.checked.classes_of(cases)]
    if len(set(labels)) == 1:
        return labels, "folds: patients were drawn at random"
    return labels, f"folds: patients were drawn so that {label} is spread evenly over the folds"


def _check_parts(plan: _Plan) -> None:
    """Refuse folds without a patient to train on."""
    for number in range(plan.n_folds):
        parts, _ = plan.parts(number)
        if not (parts == "train").any():
            n = plan.store.cases.loc[parts == "val", "patient"].nunique()
            raise DataError(
                f"val_split: {plan.cfg.val_split:g} takes all {n} patients outside fold {number}, "
                "and none is left for training; set a smaller val_split"
            )


def _check_network(plan: _Plan) -> None:
    """Refuse a network that cannot be built, and first weights that do not fit it."""
    network = runs.network(plan.cfg, pretrained=False)
    if plan.cfg.init_from:
        transfer.start_from(zoo.resolve(plan.cfg.init_from), network, plan.cfg)


def _notes_of_first_weights(plan: _Plan) -> list[str]:
    """Whether the weights that all trainings start from have seen cases that are to be scored."""
    if not plan.cfg.init_from:
        return []
    hashes = plan.store.cases["sha256"].str.slice(0, 16)
    try:
        first_weights = zoo.resolve(plan.cfg.init_from)
    except (ConfigError, DataError):
        return []  # a finished cross-validation can be scored without them; a training refuses them
    n_seen = int(hashes.isin(runs.trained_on(first_weights)).sum())
    if not n_seen:
        return []
    return [
        f"init_from: {n_seen} of {len(hashes)} images were in the training of these weights, so "
        "that every network has seen them: their scores are too good"
    ]


def _notes_of_classes(plan: _Plan) -> list[str]:
    """For each class that is missing in a training or a test part: which folds that concerns."""
    cases, numbers = plan.store.cases, range(plan.n_folds)
    has_class = plan.store.checked.classes_of(cases)
    parts = [plan.parts(number)[0].to_numpy() for number in numbers]
    notes = []
    for name in plan.store.checked.class_names:
        present = np.array([name in names for names in has_class])
        untrained = [k for k in numbers if not (present & (parts[k] == "train")).any()]
        unscored = [k for k in numbers if not (present & (parts[k] == "test")).any()]
        if not untrained and not unscored:
            continue
        names = sorted(set(cases.loc[present, "patient"]))
        n_patients = "one patient" if len(names) == 1 else f"{len(names)} patients"
        text = f"{name}: in the masks of {n_patients}"
        text += f" ({listed(names)})" if names else ""
        if untrained:
            text += (
                f"; no training mask contains it in {_of_folds(untrained)}, which cannot learn it"
            )
        if unscored:
            text += f"; no test mask contains it in {_of_folds(unscored)}, which cannot score it"
        notes.append(text)
    return notes


def _of_folds(numbers: list[int]) -> str:
    return ("fold " if len(numbers) == 1 else "folds ") + ", ".join(map(str, numbers))


# ---- begin, or go on


def _begin(plan: _Plan, resume: bool) -> None:
    """Make the folder and write down settings and folds; refuse what other settings have begun."""
    description, table = _description(plan), _case_table(plan)
    is_ours = (plan.folder / runs.FOLDS).is_file()
    has_begun = any(plan.folder.glob("fold_*_seed_*"))
    if is_ours and not has_begun:
        pass  # stopped before its first training: nothing is lost
    elif is_ours and resume:
        before = _read(plan.folder)
        _refuse(plan.folder, _differences(before, (description, table)))
        description["seeds"] = list(dict.fromkeys([*before[0]["seeds"], *plan.seeds]))
    else:
        _check_network(plan)  # what is refused must leave an earlier one in its place
        moved = runs.move_aside(plan.folder)
        if moved:
            print(f"{plan.folder} is now {moved}; a new cross-validation begins")
    plan.folder.mkdir(parents=True, exist_ok=True)
    files.write_text(plan.folder / CASES, table.to_csv(index=False))
    files.write_text(plan.folder / runs.FOLDS, json.dumps(description, indent=2))


def _refuse(folder: Path, differences: list[str]) -> None:
    if differences:
        raise ConfigError(
            f"{folder}: this cross-validation was begun with {'; '.join(differences)}. Go on with "
            "what it was begun with, give another folder, or begin anew with resume=False (on the "
            "command line without --resume), which renames the old one"
        )


def _description(plan: _Plan) -> dict[str, Any]:
    return {"folds": plan.n_folds, "seeds": list(plan.seeds), "config": plan.cfg.to_dict()}


def _case_table(plan: _Plan) -> pd.DataFrame:
    """Case, patient, fold, and checksums of image and masks: what must be the same to go on."""
    cases, masks = plan.store.cases, plan.store.open()[1]
    checksums = [hashlib.sha256(masks[row].tobytes()).hexdigest()[:16] for row in cases["row"]]
    table = cases[["case", "patient"]].assign(fold=plan.fold)
    return table.assign(image=cases["sha256"].str.slice(0, 16), masks=checksums)


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The description and the case table of an earlier call."""
    if not (folder / runs.FOLDS).is_file():
        raise DataError(
            f"{folder}: no cross-validation here ({runs.FOLDS} is missing); "
            "training.cross_validate makes one in work_dir/<preset>_folds"
        )
    try:
        description = json.loads((folder / runs.FOLDS).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / CASES, dtype=str, keep_default_na=False)
        config.from_dict(description["config"])
        if not {"folds", "seeds"} <= set(description):
            raise ValueError("its number of folds or its seeds are missing")
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(
            f"{folder}: its cross-validation cannot be continued ({error}); begin anew with "
            "resume=False, which renames it"
        ) from error
    return description, table


def _differences(before: tuple[dict, pd.DataFrame], now: tuple[dict, pd.DataFrame]) -> list[str]:
    """How the settings and cases of an earlier call differ from those of this one."""
    texts = []
    if before[0]["folds"] != now[0]["folds"]:
        texts.append(f"folds={before[0]['folds']}, now {now[0]['folds']}")
    old = config.from_dict(before[0]["config"]).to_dict()
    for name, value in now[0]["config"].items():
        if name not in FREE and old[name] != value:
            texts.append(f"{name}={old[name]!r}, now {value!r}")
    if texts:
        return texts
    first, second = (table.astype(str).set_index("case") for table in (before[1], now[1]))
    gone, new = first.index.difference(second.index), second.index.difference(first.index)
    if len(gone) or len(new):
        texts.append(
            f"other cases: {len(gone)} are gone and {len(new)} new, such as {listed([*gone, *new])}"
        )
        return texts
    second = second.loc[first.index]
    for column, text in (
        ("image", "images"),
        ("masks", "masks"),
        ("patient", "patients"),
        ("fold", "folds"),
    ):
        changed = first.index[first[column] != second[column]]
        if len(changed):
            texts.append(f"other {text} of {len(changed)} cases, such as {listed(changed)}")
    return texts


# ---- one fold


def _is_finished(plan: _Plan, job: tuple[int, int]) -> bool:
    return (runs.fold_folder(plan.folder, *job) / runs.FOLD).is_file()


def _finished(plan: _Plan, number: int, seed: int) -> tuple[Run, dict[str, Any]]:
    """A run that was trained earlier, and its row of the table."""
    folder = runs.fold_folder(plan.folder, number, seed)
    try:
        row = json.loads((folder / runs.FOLD).read_text(encoding="utf-8"))
        dice = math.nan if row["dice"] is None else row["dice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / runs.FOLD}: not the score of a fold ({error}); remove the folder of this "
            "fold, and it is trained again"
        ) from error
    return Run.load(folder), {**row, "dice": dice}


def _train(plan: _Plan, number: int, seed: int) -> tuple[Run, dict[str, Any]]:
    """Train one fold with one seed, or go on with it; the run, and its row of the table."""
    folder = runs.fold_folder(plan.folder, number, seed)
    store = plan.store_of(number)
    cfg = plan.cfg.replace(seed=seed)
    batches = data.loaders(store, cfg)
    run = training.fit(cfg, batches, resume=True, folder=folder)
    row = {"fold": number, "seed": seed, **_score(run, batches["test"])}
    value = row["dice"] if math.isfinite(row["dice"]) else None
    files.write_text(folder / runs.FOLD, json.dumps({**row, "dice": value}, indent=2))
    for name in (runs.LAST, runs.BEFORE):  # a finished fold never goes on
        (folder / name).unlink(missing_ok=True)
    return run, row


def _score(run: Run, loader) -> dict[str, Any]:
    """A row of `CrossValidation.table`, from the test part of a fold."""
    predictor = Predictor.load(run.best, run.config.device, run.config.precision)
    report = evaluation.evaluate(predictor, loader, distances=False)
    average = "per volume" if len(report.per_volume) else "per image"
    rows = report.summary.set_index(["class", "metric", "average"])["value"]
    best = run.history[run.history["best"].astype(bool)].iloc[-1]
    return {
        "patients": report.about["patients"],
        "images": report.about["images"],
        "dice": float(rows["mean", "dice", average]),
        "average": average,
        "best_epoch": int(best["epoch"]),
        "epochs": len(run.history),
        "seconds": round(run.info["seconds"], 1),
    }


# ---- what is said


def _n_missing(plan: _Plan, jobs: list[tuple[int, int]]) -> int:
    """How many of these trainings are not finished yet."""
    return sum(not _is_finished(plan, job) for job in jobs)


def _before(plan: _Plan) -> str:
    """What the trainings will be, and what they need."""
    n_parameters = models.n_parameters(runs.network(plan.cfg, pretrained=False, strict=False))
    megabytes = 4e-6 * n_parameters
    cases = plan.store.cases
    n_jobs, n_missing = len(plan.jobs), _n_missing(plan, plan.jobs)
    begun = "" if n_missing == n_jobs else f", {n_jobs - n_missing} of them trained already"
    lines = [
        f"cross-validation in {plan.folder}: {cases['patient'].nunique()} patients ({len(cases)} "
        f"images) in {plan.n_folds} folds",
        f"{n_jobs} trainings{begun}, {plan.cfg.epochs} epochs each, one after the other in the "
        f"memory of one; {n_parameters:,} parameters, {megabytes:.1f} MB of weights each, "
        f"{megabytes * n_jobs:.1f} MB for the mean of all networks",
        *(f"NOTE: {note}" for note in plan.notes),
    ]
    free = shutil.disk_usage(plan.folder).free / 1e6
    # Best and final weights of each run; the one in training also has two states to resume from.
    needed = megabytes * (2 * n_missing + 6)
    if free < needed:
        lines.append(
            f"NOTE: about {needed:.0f} MB are needed in {plan.folder}, {free:.0f} MB are free"
        )
    return "\n".join(lines)


def _after(row: dict[str, Any], is_new: bool, seconds: list[float], n_left: int) -> str:
    """The result of one fold, and how long the others will take."""
    text = f"fold {row['fold']}, seed {row['seed']}: Dice {row['dice']:.4f} ({row['average']}, "
    text += f"{row['patients']} patients), epoch {row['best_epoch']} of {row['epochs']}"
    if not is_new:
        return f"{text}, trained already"
    text += f", {row['seconds']:.0f} s"
    if n_left:
        rest = _duration(n_left * float(np.mean(seconds)))
        text += f"; {n_left} left, about {rest}"
    return text


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
