"""Train on the real data and write every figure of `docs/results.md`: `make results`, or some of
them by name.

    python -m tests.results [lung] [lung_medium] [cardiac] [exudates] ... [tb] [precision]
    python -m tests.results tables

Each name writes `tests/results/<name>.json` (figures with date, machine, n, interval and seconds).
Then, or with `tables` alone, the pages are renewed from those files: `docs/results.md` with all of
them and the README with the few of `HEADLINES`. The real data is found by `SEGLIB_TEST_DATA`,
default `../shared/data`; pretrained encoders by `SEGLIB_TEST_WEIGHTS`, default `../shared/weights`.
Trainings lie in `runs/results`: called again, an interrupted measurement goes on with the fold in
which it was stopped.
"""

import dataclasses
import datetime
import functools
import json
import math
import os
import platform
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seglib import (
    bootstrap,
    config,
    data,
    evaluation,
    hosts,
    inference,
    layouts,
    lungs,
    measurements,
    phantoms,
    prepare,
    training,
    two_step,
)
from seglib.formats import images, mask_pixels
from seglib.layouts import convert
from seglib.report import compare

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "results"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
WORK = ROOT / "runs" / "results"
REAL = Path(os.environ.get("SEGLIB_TEST_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = Path(os.environ.get("SEGLIB_TEST_WEIGHTS", REAL.parent / "weights"))
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"
BEGIN_HEADLINES = "<!-- headlines: written by make results -->"
END_HEADLINES = "<!-- end of headlines -->"

# How the cardiac network is used: two views more, turned by half of the training's widest angle; a
# piece a class.
USED = {"tta_rotation": 22.5, "keep_largest_component": True}
LITE0 = {
    "encoder": "tu-tf_efficientnet_lite0",
    "encoder_weights": str(WEIGHTS / "efficientnet-lite0-57934424.pth"),
    "optimizer": "adamw",
    "lr": 1e-3,
    "scheduler": "linear",
}
NUCLEI_ENCODER = {**LITE0, "epochs": 30}
# Of few patients none is spared to choose an epoch: the last one is kept.
FEW = {"val_split": 0.0}


class Study(NamedTuple):
    """A data set on which every patient is scored by a network that never saw them.

    Attributes:
        system: the preset.
        data: what the data set is called in the table.
        fields: returns the settings that differ from the preset; it may first write the data in a
            form that the preset reads, into the folder that it is given.
        size: of the preset.
        folds: number of parts that the patients are divided into.
        metrics: reported besides the Dice of the classes and of their mean.
    """

    system: str
    data: str
    fields: Callable[[Path], dict[str, Any]]
    size: str = "small"
    folds: int = 5
    metrics: tuple[str, ...] = ()


# ---- the data sets


def _montgomery(folder: Path) -> dict[str, Any]:
    return {**FEW, "data_root": str(REAL / "montgomery"), "epochs": 130}


def _acdc(folder: Path) -> dict[str, Any]:
    return {"data_root": str(REAL / "acdc")}


def _acdc_encoder(folder: Path) -> dict[str, Any]:
    """Whole frames and a pretrained encoder, as for CHAOS."""
    return {**_acdc(folder), **LITE0, **FEW, "patch_size": None, "batch_size": 16, "epochs": 22}


def _idrid(folder: Path) -> dict[str, Any]:
    """Hard exudates, at three eighths of the sides of the photographs."""
    return {
        **LITE0,
        **FEW,
        "data_root": str(fundus_tree(folder, with_drishti=False)),
        "task": "binary",
        "class_names": ("exudates",),
        "image_size": (1072, 1608),
        "patch_size": 256,
        "patches_per_image": 8,
        "epochs": 25,
    }


def _discs(folder: Path) -> dict[str, Any]:
    tree = fundus_tree(folder, with_drishti=True)
    return {**FEW, "data_root": str(tree), "task": "binary", "class_names": ("disc",)}


def _nuclei(folder: Path) -> dict[str, Any]:
    """One file a nucleus, united by the prepare command."""
    if not folder.is_dir():
        convert.to_images_and_masks(REAL / "dsb2018_nuclei" / "stage1_train", None, folder)
    return {**FEW, "data_root": str(folder), "class_names": ("nucleus",)}


def _busi(folder: Path) -> dict[str, Any]:
    return {
        **LITE0,
        **FEW,
        "data_root": str(REAL / "busi"),
        "class_names": ("lesion",),
        "mask_encoding": {"0,0,0": 0, "0,255,0": 1, "255,0,0": 1},
        "augment": "ultrasound",
        "lr": 3e-4,
        "epochs": 100,
    }


def _chase(folder: Path) -> dict[str, Any]:
    """The first observer's vessels; left and right eye of a child are one patient."""
    if not folder.is_dir():
        convert.to_images_and_masks(REAL / "chase_db1", None, folder, mask_suffix="_1stHO")
    return {
        **FEW,
        "data_root": str(folder),
        "class_names": ("vessel",),
        "image_size": (960, 1000),
        "patch_size": 256,
        "patches_per_image": 8,
        "epochs": 80,
        "augment": "fundus",
    }


def _curvas(folder: Path) -> dict[str, Any]:
    return {
        **LITE0,
        **FEW,
        "data_root": str(REAL / "curvas_ct"),
        "class_names": ("background", "pancreas", "kidney", "liver"),
        "mask_encoding": {"0,0,0": 0, "0,255,255": 1, "255,255,0": 2, "255,0,255": 3},
    }


def _spleen(folder: Path) -> dict[str, Any]:
    return {
        **LITE0,
        **FEW,
        "patches_per_image": 4,
        "data_root": str(REAL / "msd_spleen_ct"),
        "class_names": ("background", "spleen"),
        "mask_encoding": "threshold",
    }


def _chaos(folder: Path) -> dict[str, Any]:
    """MR has no Hounsfield units, so percentiles stand in for the window."""
    return {
        **LITE0,
        **FEW,
        "image_size": 256,
        "epochs": 40,
        "data_root": str(REAL / "chaos_mr_t2"),
        "class_names": ("background", "liver", "right_kidney", "left_kidney", "spleen"),
        "label_map": {},
        "window_level": None,
        "window_width": None,
        "percentiles": (0.5, 99.5),
        "augment": "mr",
    }


def fundus_tree(folder: Path, with_drishti: bool) -> Path:
    """A PALM tree: 15 photographs of IDRiD with disc and hard exudates, and on request 30 of
    Drishti-GS1 with the disc alone.
    """
    if (folder / "PALM").is_dir():
        return folder
    part = folder / "PALM" / "Training"
    idrid, drishti = REAL / "idrid" / "A. Segmentation", REAL / "drishti_gs1" / "Drishti-GS1_files"
    truths = idrid / "2. All Segmentation Groundtruths" / "a. Training Set"
    (part / "Images").mkdir(parents=True)
    for image in sorted((idrid / "1. Original Images" / "a. Training Set").glob("*.jpg")):
        shutil.copy(image, part / "Images")
        kinds = (
            ("5. Optic Disc", "OD.tif", "Disc Masks"),
            ("3. Hard Exudates", "EX.jpg", "Lesion Masks/Exudates"),
        )
        for source, ending, target in kinds:
            mask = mask_pixels.read_mask(
                str(truths / source / f"{image.stem}_{ending}"), "auto"
            ).pixels
            _write_mask(part / target / f"{image.stem}.png", mask == 1)
    for image in sorted(drishti.glob("*/Images/*/*.png")) if with_drishti else ():
        shutil.copy(image, part / "Images")
        soft = image.parents[2] / "GT" / image.stem / "SoftMap" / f"{image.stem}_ODsegSoftmap.png"
        agreed = images.read_image(soft, 1)[..., 0] >= 128  # at least two of the four experts
        _write_mask(part / "Disc Masks" / image.name, agreed)
    return folder


def _write_mask(path: Path, mask: np.ndarray) -> None:
    images.write_png(path, np.where(mask, 255, 0).astype(np.uint8))


STUDIES = {
    "lung": Study("lung", "Montgomery", _montgomery, metrics=("accuracy", "bce", "hd95")),
    "cardiac": Study("cardiac", "ACDC", _acdc, size="medium"),
    "cardiac_encoder": Study("cardiac", "ACDC", _acdc_encoder, size="medium"),
    "exudates": Study("palm", "IDRiD hard exudates", _idrid, metrics=("average_precision",)),
    "discs": Study("palm", "IDRiD + Drishti-GS1 discs", _discs),
    "nuclei": Study("binary", "DSB 2018 nuclei", _nuclei),
    "ultrasound": Study("binary", "BUSI ultrasound", _busi),
    "vessels": Study("binary", "CHASE_DB1 vessels", _chase),
    "curvas": Study("rsna", "CURVAS CT", _curvas),
    "spleen": Study("rsna", "MSD spleen CT", _spleen, folds=4),
    "chaos": Study("rsna", "CHAOS MR", _chaos, size="medium", folds=4),
}


# ---- the measurements


def cross_validated(
    name: str,
    work_dir: Path,
    folds: int | None = None,
    size: str | None = None,
    seeds: tuple[int, ...] = (0,),
    **changes: Any,
):
    """The cross-validation of a study, with some settings changed, in a folder of its own.

    Called again, it goes on where it was stopped; more seeds are added to what is there.
    """
    study = STUDIES[name]
    size = size or study.size
    settings = study.fields(work_dir / f"{name}_data") | {"test_split": 0.0} | changes
    cfg = config.preset(study.system, size, work_dir=str(work_dir), **settings)
    plain = {key: value for key, value in changes.items() if not isinstance(value, dict)}
    words = [f"{key}_{Path(str(value)).name}" for key, value in plain.items()]
    folder = work_dir / "_".join([name, *words] if size == study.size else [name, size, *words])
    store = prepare.build(layouts.scan(cfg), cfg)
    return training.cross_validate(cfg, store, folds or study.folds, seeds, folder)


def study(name: str, work_dir: Path) -> list[dict]:
    """The out-of-fold scores of a study."""
    crossed = cross_validated(name, work_dir)
    distances = "hd95" in STUDIES[name].metrics
    return _rows(name, crossed, crossed.evaluate(grid="original", distances=distances))


def _rows(name: str, crossed, report, words: str = "") -> list[dict]:
    """Rows of the table: Dice of the classes, by volume where there are volumes, and the other
    metrics of the study."""
    wanted = STUDIES[name]
    average = "per volume" if len(report.per_volume) else "per image"
    table = report.summary
    averages = table["average"].isin([average, "pixels"])
    table = table[averages & table["metric"].isin(["dice", *wanted.metrics])]
    classes = list(dict.fromkeys(table["class"]))
    if len(classes) == 2:  # one class, and the mean of it alone
        table = table[table["class"] == classes[0]]
    about = _about(name, crossed, words)
    return [
        {
            **about,
            "metric": row["metric"] if len(classes) == 2 else f"{row['metric']}, {row['class']}",
            **{key: row[key] for key in ("value", "low", "high", "n")},
        }
        for row in table.to_dict("records")
    ]


def _about(name: str, crossed, words: str = "") -> dict:
    """The columns of a row that say what was scored, and how it was trained."""
    wanted = STUDIES[name]
    n_patients = crossed.store.cases["patient"].nunique()
    return {
        "system": wanted.system,
        "data": f"{wanted.data}, {crossed.n_folds} folds of {n_patients} patients{words}",
        "training": _trained(crossed.config.size, crossed.runs[0]),
        "train_seconds": float(crossed.table["seconds"].min()),  # the least disturbed one
    }


def _trained(size: str, run) -> str:
    """The size of a training, and that it ran on a GPU where it did."""
    return f"{size}, on a GPU" if run.info["device"] == "cuda" else size


def lung(work_dir: Path) -> list[dict]:
    """Montgomery out-of-fold; two other hospitals by the network of the first fold and by the mean
    of all five; test-time flips and the cleaning of masks.
    """
    crossed = cross_validated("lung", work_dir)
    plain = crossed.evaluate(grid="original")
    rows = _rows("lung", crossed, plain)
    predictors = {
        "network of the first fold": inference.Predictor.load(crossed.runs[0].best),
        "mean of the five networks": crossed.predictor,
    }
    rows += _other_hospitals(_about("lung", crossed), predictors, work_dir)
    return rows + _options("lung", crossed, plain)


HOSPITALS = {"Shenzhen": "shenzhen", "COVID-19 X-rays": "covid_cxr_leftright"}


def _other_hospitals(about: dict, predictors: dict, work_dir: Path) -> list[dict]:
    """Dice of each predictor on X-rays of hospitals that it never saw, and the second against the
    first."""
    rows = []
    for hospital in HOSPITALS:
        reports = {
            name: report_on(hospital, predictor, work_dir) for name, predictor in predictors.items()
        }
        for name, report in reports.items():
            score = report.table("dice").to_dict("records")[0]
            ends = {key: score[key] for key in ("value", "low", "high", "n")}
            rows.append(
                {**about, "data": f"{hospital} (other hospital), {name}", "metric": "dice", **ends}
            )
        if len(reports) == 2:
            words = f"{hospital}: {' against '.join(reversed(reports))}"
            rows.append(_gain({**about, "data": words}, *reports.values()))
    return rows


def report_on(hospital: str, predictor: inference.Predictor, work_dir: Path) -> evaluation.Report:
    """A report on all X-rays of one of `HOSPITALS`."""
    place = {"data_root": str(REAL / HOSPITALS[hospital]), "work_dir": str(work_dir)}
    cfg = predictor.config.replace(**place, test_split=1.0, val_split=0.0)
    loader = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)["test"]
    return evaluation.evaluate(predictor, loader, grid="original", distances=False)


def _gain(about: dict, before, after, metric: str = "Dice gained") -> dict:
    """The paired difference in Dice between two reports on the same images, or volumes."""
    table = compare(_by_volume(before), _by_volume(after))
    gain = table[table["class"] == "mean"].iloc[0]
    ends = {"value": gain["difference"], "low": gain["low"], "high": gain["high"]}
    return {**about, "metric": metric, **ends, "n": int(gain["n"])}


def _by_volume(report: evaluation.Report) -> evaluation.Report:
    """The report with a row for each volume instead of each slice, where there are volumes."""
    if report.per_volume.empty:
        return report
    rows = report.per_volume
    return dataclasses.replace(report, per_image=rows.assign(case=rows["volume"]))


def _options(name: str, crossed, plain) -> list[dict]:
    """What test-time flips and the cleaning of masks gain, out-of-fold.

    The size limits, 0.1 % (lungs) and 0.01 % (nuclei) of the first picture, were set beforehand.
    """
    part = {"lung": 0.001, "nuclei": 0.0001}[name]
    first = crossed.store.cases.iloc[0]
    smallest = round(part * first["height"] * first["width"])
    ways = {
        "flips": {"tta": True},
        f"pieces below {smallest} pixels dropped": {"min_component_size": smallest},
        "holes filled": {"fill_holes": True},
    }
    about = _about(name, crossed)
    rows = []
    for words, choice in ways.items():
        report = crossed.evaluate(grid="original", distances=False, **choice)
        rows.append(_gain(about, plain, report, f"Dice gained: {words}"))
    return rows


def lung_medium(work_dir: Path) -> list[dict]:
    """Two networks of the medium size on the other hospitals: the preset's own, and one with a
    pretrained encoder. All patients of Montgomery are trained on; folds would take 100 minutes.
    """
    ways = {"own network": {}, "pretrained encoder": {**LITE0, "epochs": 60}}
    predictors = {}
    for words, changes in ways.items():
        settings = _montgomery(work_dir) | {"test_split": 0.0, "epochs": 250} | changes
        cfg = config.preset("lung", "medium", work_dir=str(work_dir), **settings)
        batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
        folder = work_dir / f"lung_medium_{words.replace(' ', '_')}"
        run = training.fit(cfg, batches, resume=True, folder=folder)
        predictors[words] = inference.Predictor.load(run.best)
    about = {
        "system": "lung",
        "training": f"{_trained('medium', run)}, {run.info['images']['train']} Montgomery",
    }
    return _other_hospitals(about, predictors, work_dir)


def cardiac(work_dir: Path, name: str = "cardiac") -> list[dict]:
    """Dice by volume as the network is trained and as it is used (`USED`), and the ejection
    fraction."""
    crossed = cross_validated(name, work_dir)
    plain = crossed.evaluate(grid="original", distances=False)
    report = crossed.evaluate(grid="original", distances=False, **USED)
    rows = _rows(name, crossed, plain, ", as trained")[-1:]
    rows += _rows(name, crossed, report)
    volumes = measurements.organ_volumes(report, crossed.store.cases)
    beats = measurements.ejection_fractions(volumes)
    agreement = measurements.bland_altman(beats["ef_true"], beats["ef_predicted"])
    for key, words in (("mae", "mean absolute error"), ("bias", "mean error")):
        rows.append(
            {
                **_about(name, crossed),
                "metric": f"ejection fraction, {words}, points",
                "value": agreement[key],
                "n": agreement["n"],
            }
        )
    return rows


def nuclei(work_dir: Path) -> list[dict]:
    """Out-of-fold Dice, what flips and the cleaning of masks gain, and what a pretrained encoder
    does."""
    crossed = cross_validated("nuclei", work_dir)
    plain = crossed.evaluate(grid="original", distances=False)
    rows = _rows("nuclei", crossed, plain) + _options("nuclei", crossed, plain)
    pretrained = cross_validated("nuclei", work_dir, **NUCLEI_ENCODER)
    report = pretrained.evaluate(grid="original", distances=False)
    rows += _rows("nuclei", pretrained, report, ", pretrained encoder")
    about = _about("nuclei", pretrained, ", pretrained encoder")
    return [*rows, _gain(about, plain, report, "Dice gained: pretrained encoder")]


class Comparison(NamedTuple):
    """Two settings of a study on the same folds; `before` and `after` are changed settings."""

    name: str
    words: str
    before: dict[str, Any]
    after: dict[str, Any]
    folds: int | None = None
    size: str | None = None


# Fewer folds and epochs where both sides only serve the comparison.
COMPARISONS = (
    Comparison(
        "exudates",
        "patches against the whole frame at 256 pixels",
        {"image_size": 256, "patch_size": None, "patches_per_image": 1},
        {},
    ),
    Comparison("ultrasound", "pretrained against random encoder", {"encoder_weights": "none"}, {}),
)
# The full stem beside about as many parameters. The hearts' network has a fixed depth: there the
# dilations are doubled, so that they reach equally far in the image; and since it is the slowest
# beside its other stem, both are also compared after as many epochs as take the same time.
FULL_STEM = {
    "lung": {"stem": "full", "base_channels": 8, "depth": 5},
    "nuclei": {"stem": "full", "base_channels": 8, "depth": 5},
    "cardiac": {"stem": "full", "aspp_rates": (2, 4, 6)},
}


def _stems(name: str, epochs_of_full: int = 40) -> Comparison:
    words = "space-to-depth stem against full stem"
    if epochs_of_full != 40:
        words = f"space-to-depth stem, 40 epochs, against full stem, {epochs_of_full}"
    before = {**FULL_STEM[name], "epochs": epochs_of_full}
    return Comparison(name, words, before, {"epochs": 40}, folds=2, size="small")


STEMS = (*map(_stems, FULL_STEM), _stems("cardiac", epochs_of_full=15))


def comparisons(work_dir: Path, pairs: tuple[Comparison, ...] = COMPARISONS) -> list[dict]:
    """Paired differences in out-of-fold Dice."""
    rows = []
    for pair in pairs:
        before, after = (
            cross_validated(pair.name, work_dir, pair.folds, pair.size, **changes)
            for changes in (pair.before, pair.after)
        )
        reports = [
            crossed.evaluate(grid="original", distances=False) for crossed in (before, after)
        ]
        rows.append(_gain(_about(pair.name, after), *reports, f"Dice gained: {pair.words}"))
        seconds = [float(crossed.table["seconds"].mean()) for crossed in (before, after)]
        rows.append(
            {
                **_about(pair.name, after),
                "metric": f"training time, {pair.words}",
                "value": seconds[1] / seconds[0],
                "n": before.n_folds,
            }
        )
    return rows


# Trained with three seeds each; the settings are those of the sections of their own.
ENSEMBLES = {"nuclei": NUCLEI_ENCODER, "ultrasound": {}}


def ensembles(work_dir: Path) -> list[dict]:
    """The mean of three networks that differ in their seed, out-of-fold, against the first of them,
    and with flips."""
    rows = []
    for name, changes in ENSEMBLES.items():
        one, three = (
            cross_validated(name, work_dir, seeds=seeds, **changes) for seeds in ((0,), (0, 1, 2))
        )
        single, mean = (
            crossed.evaluate(grid="original", distances=False) for crossed in (one, three)
        )
        flipped = three.evaluate(grid="original", distances=False, tta=True)
        words = ", pretrained encoder, mean of three seeds"
        rows += _rows(name, three, mean, words)
        rows.append(_gain(_about(name, three, words), single, mean, "Dice gained against one seed"))
        rows += _rows(name, three, flipped, f"{words}, flips")
        rows.append(_gain(_about(name, three, words), mean, flipped, "Dice gained: flips"))
    return rows


def tb(work_dir: Path) -> list[dict]:
    """Tuberculosis or not, on the lungs and on the whole X-ray: by patient folds inside each
    hospital, and from one hospital to the other. Masks are by segmenters that never saw the scored
    patient, nor the scored hospital.
    """
    hospitals = {
        name: _lungs_of(name.lower(), work_dir / name) for name in ("Montgomery", "Shenzhen")
    }
    rows, side, working = [], 160, 512
    for name, (cases, labels, segmenter) in hospitals.items():
        inputs = _tb_inputs(cases, side, working)
        fold = two_step.patient_folds(labels, cases["patient"], 5)
        scores = {
            way: two_step.out_of_fold(fit, given, labels, fold)
            for way, (fit, given) in inputs.items()
        }
        about = {
            "system": "tb",
            "data": f"{name}, 5 folds",
            "training": f"folds of {len(cases)} {name}",
        }
        rows += _tb_rows(about, scores, labels, cases["patient"])
        pixels = {way: given[0].size for way, (_, given) in inputs.items()}
        saved = 1 - pixels["network on the lungs"] / pixels["network on the whole"]
        rows.append(
            {**about, "metric": "pixels saved by the region", "value": saved, "n": len(cases)}
        )

        other, (there, truth, _) = next(
            (key, value) for key, value in hospitals.items() if key != name
        )
        seen = two_step.segment(
            there.drop(columns="segmented"), segmenter, work_dir / f"{other} by {name}"
        )
        target = _tb_inputs(seen, side, working, like=inputs["network on the lungs"][1].shape[1:])
        scores = {way: fit(given, labels)(target[way][1]) for way, (fit, given) in inputs.items()}
        about = {
            "system": "tb",
            "data": f"{other} (other hospital)",
            "training": f"{len(cases)} {name}",
        }
        rows += _tb_rows(about, scores, truth, there["patient"])
    return rows


def _lungs_of(name: str, folder: Path):
    """Cases with cross-fitted masks, labels, and one of the two segmenters."""
    cfg = config.preset(
        "lung", "small", data_root=str(REAL / name), work_dir=str(folder), test_split=0.0, epochs=40
    )
    cases = layouts.scan(cfg)
    labels = (cases["finding"] == "tuberculosis").to_numpy().astype(int)
    cases = two_step.segment_unseen(
        cases, cfg, two_step.patient_folds(labels, cases["patient"], 2), folder
    )
    return cases, labels, inference.Predictor.load(folder / "segmenter_0" / "best_model.pth")


def _tb_inputs(cases, side: int, working: int, like: tuple[int, int] | None = None) -> dict:
    """Name -> (fit, inputs) of the four classifiers."""
    opened = [two_step.open_case(case, working) for case in cases.itertuples()]
    regions = [lungs.region(picture, mask) if mask.any() else picture for picture, mask in opened]
    size = like or two_step.frame_size(regions, side / working)
    tables = {
        "lungs": [lungs.measures(picture, mask) for picture, mask in opened],
        "whole": [lungs.measures(picture, np.ones_like(mask)) for picture, mask in opened],
    }
    framed = {
        "lungs": two_step.frame(regions, size),
        "whole": two_step.frame([p for p, _ in opened], (side, side)),
    }
    return {
        **{
            f"measures of the {of}": (two_step.logistic, pd.DataFrame(rows).to_numpy())
            for of, rows in tables.items()
        },
        **{f"network on the {of}": (two_step.network, pictures) for of, pictures in framed.items()},
    }


def _tb_rows(about: dict, scores: dict, labels, patients) -> list[dict]:
    rows = []
    for way, values in scores.items():
        value, low, high, n = bootstrap.auc_interval(values, labels, patients)
        rows.append(
            {**about, "metric": f"AUC, {way}", "value": value, "low": low, "high": high, "n": n}
        )
    for kind in ("measures of", "network on"):
        gain = bootstrap.paired_auc(
            scores[f"{kind} the whole"], scores[f"{kind} the lungs"], labels, patients
        )
        ends = {key: gain[key] for key in ("value", "low", "high", "n")}
        rows.append({**about, "metric": f"AUC gained by the lungs, {kind.split()[0]}", **ends})
    return rows


def precision(work_dir: Path) -> list[dict]:
    """Training images a second of the 31 M U-Net at 256x256 in float32 and in what `auto` chooses,
    by turns.
    """
    size = {
        "image_size": 256,
        "base_channels": 64,
        "batch_size": 4,
        "epochs": 1,
        "test_split": 0.0,
        "val_split": 1 / 13,
    }
    cfg = config.preset("lung", "full", work_dir=work_dir, **size)
    cfg.data_root = str(phantoms.write("lung", work_dir / "phantoms", n=13))
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    speeds: dict[str, list[float]] = {}
    for setting in ("fp32", "auto") * 3:
        run = training.fit(cfg.replace(precision=setting), batches)
        speeds.setdefault(run.info["precision"], []).append(
            run.history["images_per_second"].iloc[0]
        )
    seconds = {name: 1 / statistics.median(values) for name, values in speeds.items()}
    common = {
        "system": "31 M U-Net, 256x256",
        "data": "training step",
        "training": "batch 4, 3 rounds by turns",
        "n": 3,
    }
    rows = [
        {**common, "metric": f"s an image, {name}", "value": value}
        for name, value in seconds.items()
    ]
    if len(seconds) == 2:
        chosen = next(name for name in seconds if name != "fp32")
        rows.append(
            {**common, "metric": f"{chosen} / fp32", "value": seconds[chosen] / seconds["fp32"]}
        )
    return rows


RESULTS: dict[str, Callable[[Path], list[dict]]] = {
    **{name: functools.partial(study, name) for name in STUDIES},
    "lung": lung,
    "lung_medium": lung_medium,
    "cardiac": cardiac,
    "cardiac_encoder": functools.partial(cardiac, name="cardiac_encoder"),
    "nuclei": nuclei,
    "comparisons": comparisons,
    "stems": functools.partial(comparisons, pairs=STEMS),
    "ensembles": ensembles,
    "tb": tb,
    "precision": precision,
}


def measure(name: str) -> None:
    """Run one of `RESULTS` and write its JSON; its trainings stay in `WORK`."""
    WORK.mkdir(parents=True, exist_ok=True)
    rows = RESULTS[name](WORK)
    about = {
        "command": f"python -m tests.results {name}",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(
        json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


def machine() -> str:
    """What the figures were measured on, in one line."""
    about = hosts.describe()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next(
            (
                line.split(":")[1].strip()
                for line in info.read_text().splitlines()
                if "model name" in line
            ),
            cpu,
        )
    cores = "1 core" if about["cores"] == 1 else f"{about['cores']} cores"
    where = about["gpu"] or f"{cores} of {cpu}"
    return f"{where}, {about['memory_gb']:.0f} GB, torch {about['torch']}"


# Name of a results file -> its heading in docs/results.md.
TITLES = {
    "lung": "`lung`: lungs in chest X-rays",
    "lung_medium": "`lung`, medium size: own network and pretrained encoder",
    "cardiac": "`cardiac`: heart chambers in MRI",
    "cardiac_encoder": "`cardiac`: the same with a pretrained encoder",
    "exudates": "`palm`: hard exudates in fundus photographs",
    "discs": "`palm`: optic disc in fundus photographs",
    "nuclei": "`binary`: cell nuclei in microscopy",
    "ultrasound": "`binary`: breast lesions in ultrasound",
    "vessels": "`binary`: vessels in fundus photographs",
    "curvas": "`rsna`: pancreas, kidney and liver in CT",
    "spleen": "`rsna`: spleen in CT",
    "chaos": "`rsna`: abdominal organs in MRI",
    "comparisons": "Two settings on the same folds",
    "stems": "The space-to-depth stem against the full stem",
    "ensembles": "The mean of three networks against one",
    "tb": "Two steps: the lungs first, then tuberculosis",
    "precision": "float32 against the precision that `auto` chooses",
}


class Headline(NamedTuple):
    """A row of the results that the README shows.

    Attributes:
        name: of the results file.
        data: the row's `data`, as a regular expression.
        metric: of the row.
        words: what it is, for the README.
    """

    name: str
    data: str
    metric: str
    words: str


HEADLINES = (
    Headline("lung", r"Montgomery, .+ patients", "dice", "lungs in chest X-rays"),
    Headline(
        "lung", r"Shenzhen \(other hospital\), mean .+", "dice", "the same, in another hospital"
    ),
    Headline("cardiac_encoder", r"ACDC, .+ patients", "dice, mean", "heart chambers in MRI"),
    Headline("chaos", r"CHAOS MR, .+ patients", "dice, mean", "liver, kidneys, spleen in MRI"),
    Headline("exudates", r"IDRiD .+ patients", "dice", "hard exudates in fundus photographs"),
    Headline("ensembles", r"DSB 2018 .+ mean of three seeds", "dice", "cell nuclei in microscopy"),
)


def with_interval(row: dict) -> str:
    """The value of a row and, where it has one, its 95 % interval."""
    value = f"{row['value']:z.3f}"
    if math.isfinite(row.get("low", math.nan)):  # few patients have no interval
        value += f" ({row['low']:z.3f} to {row['high']:z.3f})"
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", value)


def table() -> str:
    """All figures as Markdown, a section a file, made from the JSON files alone."""
    sections = []
    for name, group in saved(FOLDER, TITLES).items():
        lines = [
            f"## {TITLES[name]}",
            "",
            "| scored on | figure | value (95 % interval) | n | trained with | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for row in group["rows"]:
            seconds = f"{row['train_seconds']:.0f}" if "train_seconds" in row else ""
            cells = (row["data"], row["metric"], with_interval(row), row["n"], row["training"])
            lines.append("| " + " | ".join(str(cell) for cell in (*cells, seconds)) + " |")
        note = [group["note"]] if "note" in group else []
        sections.append("\n".join([*lines, "", " ".join([measured_by([group]), *note])]))
    return "\n\n".join(sections)


def headlines() -> str:
    """The rows of `HEADLINES` that are measured, as a table for the README."""
    lines = ["| task | scored on | Dice (95 % interval) | n |", "|---|---|---|---|"]
    groups = saved(FOLDER, TITLES)
    for headline in HEADLINES:
        for row in groups.get(headline.name, {"rows": []})["rows"]:
            if re.fullmatch(headline.data, row["data"]) and row["metric"] == headline.metric:
                cells = (headline.words, row["data"], with_interval(row), row["n"])
                lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def write_tables() -> None:
    """Renew `docs/results.md` and the README's headlines from the JSON files."""
    write_between(PAGE, BEGIN, END, table())
    write_between(README, BEGIN_HEADLINES, END_HEADLINES, headlines())


def saved(folder: Path, names: Iterable[str]) -> dict[str, dict]:
    """Name -> content of the JSON files of a folder that there are for these names."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.is_file()
    }


def measured_by(groups: Iterable[dict]) -> str:
    """The line below a table: command, date and machine of each of its files."""
    return "Measured by: " + " ".join(
        f"`{f['command']}`, {f['date']}, {f['machine']}." for f in groups
    )


def write_between(page: Path, begin: str, end: str, lines: str) -> None:
    """Put `lines` between two markers of a page."""
    parts = re.split(f"{re.escape(begin)}|{re.escape(end)}", page.read_text(encoding="utf-8"))
    if len(parts) != 3:
        raise SystemExit(f"{page}: expected the markers {begin} and {end} once each")
    before, _, after = parts
    page.write_text(f"{before}{begin}\n{lines}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in [*RESULTS, "tables"]]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {', '.join(RESULTS)}, or tables")
    measured = [name for name in sys.argv[1:] or RESULTS if name != "tables"]
    if measured and not REAL.is_dir():
        sys.exit(
            f"{REAL}: no real data here; "
            "set SEGLIB_TEST_DATA to a folder with montgomery/ and shenzhen/"
        )
    for chosen in measured:
        measure(chosen)
        write_tables()
    write_tables()
    print(table())
