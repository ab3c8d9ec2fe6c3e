"""Train on the real data and write every figure that the README quotes: `make results`, or one of
them by name.

    python -m tests.results [lung] [cardiac] [palm] [binary] [rsna] [options] [tb] [precision]

Each writes `tests/results/<name>.json` (figures with date, machine, n, interval and seconds) and
renews the table in the README. The real data is found by `SEGLIB_TEST_DATA`, default
`../shared/data`.
"""

import datetime
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

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
    presets,
    training,
    two_step,
)
from seglib.formats import images
from seglib.layouts import convert
from seglib.report import compare

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "results"
REAL = Path(os.environ.get("SEGLIB_TEST_DATA", ROOT.parent / "shared" / "data"))
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"

# How the cardiac network is used: two views more, turned by half of the training's widest angle; a
# piece a class.
USED = {"tta_rotation": 22.5, "keep_largest_component": True}
# The small lung setting with flips, and the epochs that they take: for the segmenter of `tb`, and
# for test-time flips.
LONGER = {"epochs": 40, "augment": presets.PRESETS["lung"].full["augment"]}


def lung(work_dir: str) -> list[dict]:
    """The lung system, small setting: trained and tested on Montgomery for two seeds (each its own
    split), the first also tested on Shenzhen, another hospital that it never saw.
    """
    rows = []
    for seed in (0, 1):
        cfg = config.preset(
            "lung", "small", data_root=str(REAL / "montgomery"), work_dir=work_dir, **_seeds(seed)
        )
        run, batches = _train(cfg)
        tests = {"Montgomery, test": batches["test"]}
        if seed == 0:
            other = cfg.replace(data_root=str(REAL / "shenzhen"), test_split=1.0, val_split=0.0)
            tests["Shenzhen, all (other hospital)"] = data.loaders(
                prepare.build(layouts.scan(other), other), other
            )["test"]
        for name, loader in tests.items():
            report = evaluation.evaluate(run, loader, grid="original")
            rows += [
                {**_about("lung", name, run, "Montgomery"), **row} for row in _scores(report, seed)
            ]
    return rows


def _seeds(seed: int) -> dict:
    """A split and a training of their own for each seed."""
    return {"split_seed": seed, "seed": seed}


def _scores(report, seed: int) -> list[dict]:
    metrics = ("dice", "accuracy", "bce", "hd95") if seed == 0 else ("dice",)
    table = report.table(*metrics)
    return table[["metric", "value", "low", "high", "n"]].to_dict("records")


def cardiac(work_dir: str) -> list[dict]:
    """The cardiac system, small setting, on 50 patients of ACDC, five splits: Dice by volume as the
    network is trained and as it is used (`USED`, chosen by the validation Dice), and the ejection
    fraction; the means of the splits.
    """
    rows, by_split = [], []
    for seed in range(5):
        cfg = config.preset(
            "cardiac", "small", data_root=str(REAL / "acdc"), work_dir=work_dir, **_seeds(seed)
        )
        run, batches = _train(cfg)
        name = f"ACDC, test of seed {seed}"
        trained = _rows(
            "cardiac", f"{name}, as trained", run, "ACDC slices", _scored(run, batches["test"])
        )[-1]
        report = _scored(run, batches["test"], **USED)
        used = _rows("cardiac", name, run, "ACDC slices", report)
        by_split.append([trained, *used])
        rows += [trained, used[-1]]
        beats = measurements.ejection_fractions(
            measurements.organ_volumes(report, batches["test"].dataset.cases)
        )
        agreement = measurements.bland_altman(beats["ef_true"], beats["ef_predicted"])
        about = _about("cardiac", name, run, "ACDC slices")
        for key, words in (("mae", "mean absolute error"), ("bias", "mean error")):
            rows.append(
                {
                    **about,
                    "metric": f"ejection fraction, {words}, points",
                    "value": agreement[key],
                    "n": agreement["n"],
                }
            )
    return [*rows, *(_mean(splits) for splits in zip(*by_split))]


def _mean(splits) -> dict:
    """The same figure of all splits as one row, their mean."""
    means = {key: statistics.mean(row[key] for row in splits) for key in ("value", "train_seconds")}
    name = splits[0]["data"].replace("test of seed 0", "mean of the five tests")
    about = {"data": name, "training": "the five trainings", "n": len(splits)}
    return {"system": "cardiac", **about, "metric": splits[0]["metric"], **means}


def palm(work_dir: str) -> list[dict]:
    """The PALM system, small setting, on a PALM tree made of IDRiD (disc and exudates) and
    Drishti-GS1 (disc only).
    """
    rows = []
    for seed in (0, 1):
        tree = palm_tree(Path(work_dir) / "tree")
        cfg = config.preset(
            "palm",
            "small",
            data_root=str(tree),
            work_dir=work_dir,
            class_names=("exudates", "disc"),
            test_split=0.3,
            **_seeds(seed),
        )
        run, batches = _train(cfg)
        report = evaluation.evaluate(run, batches["test"], grid="original")
        data_name = f"IDRiD + Drishti-GS1, test of seed {seed}"
        rows += _rows("palm", data_name, run, "photographs", report, mean=False)
    return rows


def palm_tree(folder: Path) -> Path:
    """A PALM tree: 15 photographs of IDRiD at a quarter of their sides with disc and exudates, 30
    with disc alone.
    """
    if (folder / "PALM").is_dir():
        return folder
    part = folder / "PALM" / "Training"
    idrid, drishti = REAL / "idrid" / "A. Segmentation", REAL / "drishti_gs1" / "Drishti-GS1_files"
    truths = idrid / "2. All Segmentation Groundtruths" / "a. Training Set"
    for image in sorted((idrid / "1. Original Images" / "a. Training Set").glob("*.jpg")):
        small = images.read_image(image, 3)[::4, ::4]
        images.write_png(part / "Images" / f"{image.stem}.png", small)
        kinds = (
            ("5. Optic Disc", "OD.tif", "Disc Masks"),
            ("3. Hard Exudates", "EX.jpg", "Lesion Masks/Exudates"),
        )
        for source, ending, target in kinds:
            mask = images.read_mask(str(truths / source / f"{image.stem}_{ending}"), "auto").pixels
            shrunk = images.fit_mask(mask, small.shape[:2], "stretch")
            images.write_png(
                part / target / f"{image.stem}.png", np.where(shrunk == 1, 255, 0).astype(np.uint8)
            )
    for image in sorted(drishti.glob("*/Images/*/*.png")):
        shutil.copy(image, part / "Images")
        soft = image.parents[2] / "GT" / image.stem / "SoftMap" / f"{image.stem}_ODsegSoftmap.png"
        agreed = images.read_image(soft, 1)[..., 0] >= 128  # at least two of the four experts
        images.write_png(
            part / "Disc Masks" / image.name, np.where(agreed, 255, 0).astype(np.uint8)
        )
    return folder


def binary(work_dir: str) -> list[dict]:
    """The binary system, small setting: nuclei (one file a nucleus, united by the prepare command)
    and breast ultrasound (22 images: only reported).
    """
    rows = []
    nuclei = Path(work_dir) / "nuclei"
    convert.to_images_and_masks(REAL / "dsb2018_nuclei" / "stage1_train", None, nuclei)
    for name, root in (("DSB 2018 nuclei", nuclei), ("BUSI ultrasound", REAL / "busi")):
        mask_encoding = {"0,0,0": 0, "0,255,0": 1, "255,0,0": 1} if "BUSI" in name else "auto"
        cfg = config.preset(
            "binary",
            "small",
            data_root=str(root),
            work_dir=work_dir,
            test_split=0.25,
            mask_encoding=mask_encoding,
        )
        run, batches = _train(cfg)
        report = evaluation.evaluate(run, batches["test"], grid="original")
        rows += _rows("binary", f"{name}, test", run, "pictures", report)
    return rows


ORGANS = {"0,0,0": 0, "0,255,255": 1, "255,255,0": 2, "255,0,255": 3}  # the colours of curvas_ct


def rsna(work_dir: str) -> list[dict]:
    """The RSNA system on CT slices of CURVAS (pancreas, kidney, liver), with an EfficientNet-Lite0
    encoder begun from ImageNet weights and from random ones, split by case; and on the slices of
    MSD spleen.
    """
    weights = REAL.parent / "weights" / "efficientnet-lite0-57934424.pth"
    sets = {
        "CURVAS": dict(
            data_root=str(REAL / "curvas_ct"),
            class_names=("background", "pancreas", "kidney", "liver"),
            mask_encoding=ORGANS,
        ),
        "MSD spleen": dict(
            data_root=str(REAL / "msd_spleen_ct"),
            class_names=("background", "spleen"),
            mask_encoding="threshold",
        ),
    }
    rows = []
    for name, fields in sets.items():
        for begun, start in (("ImageNet", str(weights)), ("random", "none")):
            cfg = config.preset(
                "rsna",
                "small",
                **fields,
                label_map={},
                work_dir=work_dir,
                test_split=0.3,
                epochs=60,
                batch_size=4,
                accumulate=1,
                encoder="tu-tf_efficientnet_lite0",
                encoder_weights=start,
            )
            run, batches = _train(cfg)
            report = evaluation.evaluate(run, batches["test"], grid="original", distances=False)
            rows += _rows("rsna", f"{name}, test", run, f"slices, encoder {begun}", report)
    return rows


def tb(work_dir: str) -> list[dict]:
    """Tuberculosis or not, on the lungs and on the whole X-ray: by patient folds inside each
    hospital, and from one hospital to the other. Masks are by segmenters that never saw the scored
    patient, nor the scored hospital.
    """
    hospitals = {
        name: _lungs_of(name.lower(), Path(work_dir) / name) for name in ("Montgomery", "Shenzhen")
    }
    rows, side, working = [], 160, 512
    for name, (cases, labels, segmenter) in hospitals.items():
        inputs = _tb_inputs(cases, side, working)
        fold = two_step.patient_folds(labels, cases["patient"], 5)
        scores, seconds = {}, {}
        for way, (fit, given) in inputs.items():
            begun = time.perf_counter()
            scores[way] = two_step.out_of_fold(fit, given, labels, fold)
            seconds[way] = time.perf_counter() - begun
        about = {
            "system": "tb",
            "data": f"{name}, 5 folds",
            "training": f"folds of {len(cases)} {name}",
        }
        rows += _tb_rows(about, scores, labels, cases["patient"])
        pixels = {way: given[0].size for way, (_, given) in inputs.items()}
        for what, of in (("pixels", pixels), ("seconds", seconds)):
            saved = 1 - of["network on the lungs"] / of["network on the whole"]
            rows.append(
                {**about, "metric": f"{what} saved by the region", "value": saved, "n": len(cases)}
            )

        other, (there, truth, _) = next(
            (key, value) for key, value in hospitals.items() if key != name
        )
        seen = two_step.segment(
            there.drop(columns="segmented"), segmenter, Path(work_dir) / f"{other} by {name}"
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
        "lung", "small", data_root=str(REAL / name), work_dir=str(folder), test_split=0.0, **LONGER
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


def options(work_dir: str) -> list[dict]:
    """Are test-time flips, dropping small pieces and filling holes a gain? On the test parts of
    lung and nuclei; the size limits, 0.1 % and 0.01 % of the first picture, were set beforehand.
    """
    nuclei = Path(work_dir) / "nuclei"
    convert.to_images_and_masks(REAL / "dsb2018_nuclei" / "stage1_train", None, nuclei)
    rows = []
    for preset, root, words, part in (
        ("lung", REAL / "montgomery", "Montgomery, test", 0.001),
        ("binary", nuclei, "DSB 2018 nuclei, test", 0.0001),
    ):
        longer = LONGER if preset == "lung" else {}
        cfg = config.preset(
            preset, "small", data_root=str(root), work_dir=work_dir, test_split=0.25, **longer
        )
        run, batches = _train(cfg)
        first = batches["test"].dataset.cases.iloc[0]
        smallest = round(part * first["height"] * first["width"])
        ways = {
            "flips": {"tta": True},
            f"pieces below {smallest} pixels dropped": {"min_component_size": smallest},
            "holes filled": {"fill_holes": True},
        }
        plain = _scored(run, batches["test"])
        for name, choice in ways.items():
            table = compare(plain, _scored(run, batches["test"], **choice))
            gain = table[table["class"] == "mean"].iloc[0]
            about = _about(preset, words, run, "pictures")
            ends = {
                "value": gain["difference"],
                "low": gain["low"],
                "high": gain["high"],
                "n": int(gain["n"]),
            }
            rows.append({**about, "metric": f"Dice gained: {name}", **ends})
    return rows


def _scored(run, loader, **choice):
    predictor = inference.Predictor.load(run.best)
    for name, value in choice.items():
        setattr(predictor, name, value)
    return evaluation.evaluate(predictor, loader, grid="original", distances=False)


def _train(cfg):
    """Run and loaders of one training."""
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    return training.fit(cfg, batches), batches


def _about(system: str, name: str, run, what: str) -> dict:
    trained = f"{run.info['images']['train']} {what}, seed {run.config.seed}"
    return {
        "system": system,
        "data": name,
        "training": trained,
        "train_seconds": run.info["seconds"],
    }


def _rows(system: str, name: str, run, what: str, report, mean: bool = True) -> list[dict]:
    """The Dice of every class and, where there are several, of their mean: by volume where there
    are volumes.
    """
    average = "per volume" if len(report.per_volume) else "per image"
    table = report.summary[
        (report.summary["metric"] == "dice") & (report.summary["average"] == average)
    ]
    classes = list(dict.fromkeys(table["class"]))
    wanted = ["mean"] if len(classes) == 2 else classes if mean else classes[:-1]
    table = table[table["class"].isin(wanted)]
    table = table.assign(
        metric=["dice" if name == "mean" else f"dice, {name}" for name in table["class"]]
    )
    scores = table[["metric", "value", "low", "high", "n"]].to_dict("records")
    return [{**_about(system, name, run, what), **row} for row in scores]


def precision(work_dir: str) -> list[dict]:
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
    cfg.data_root = str(phantoms.write("lung", Path(work_dir) / "phantoms", n=13))
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


RESULTS = {
    "lung": lung,
    "cardiac": cardiac,
    "palm": palm,
    "binary": binary,
    "rsna": rsna,
    "options": options,
    "tb": tb,
    "precision": precision,
}


def measure(name: str) -> None:
    """Run one of `RESULTS` in a temporary work folder and write its JSON."""
    with tempfile.TemporaryDirectory() as work_dir:
        rows = RESULTS[name](work_dir)
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
    where = about["gpu"] or f"{about['cores']} cores of {cpu}"
    return f"{where}, {about['memory_gb']:.0f} GB, torch {about['torch']}"


def table() -> str:
    """The README's table, made from the JSON files alone."""
    lines = [
        "| system | scored on | figure | value (95 % interval) | n | trained on | training |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = saved(FOLDER, RESULTS)
    for group in groups:
        for row in group["rows"]:
            value = f"{row['value']:.3f}"
            if math.isfinite(row.get("low", math.nan)):  # few patients have no interval
                value += f" ({row['low']:.3f}–{row['high']:.3f})"
            seconds = f"{row['train_seconds']:.0f} s" if "train_seconds" in row else ""
            cells = (
                row["system"],
                row["data"],
                row["metric"],
                value,
                row["n"],
                row["training"],
                seconds,
            )
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", measured_by(groups)])


def saved(folder: Path, names: Iterable[str]) -> list[dict]:
    """The JSON files of a folder that there are for these names, in that order."""
    paths = [folder / f"{name}.json" for name in names]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def measured_by(groups: list[dict]) -> str:
    """The line below a table: command, date and machine of each of its files."""
    return "Measured by: " + " ".join(
        f"`{f['command']}`, {f['date']}, {f['machine']}." for f in groups
    )


def write_readme(begin: str, end: str, lines: str) -> None:
    """Put `lines` between two markers of the README."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    path.write_text(f"{before}{begin}\n{lines}\n{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in RESULTS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {', '.join(RESULTS)}")
    if not REAL.is_dir():
        sys.exit(
            f"{REAL}: no real data here; "
            "set SEGLIB_TEST_DATA to a folder with montgomery/ and shenzhen/"
        )
    for chosen in sys.argv[1:] or RESULTS:
        measure(chosen)
        write_readme(BEGIN, END, table())
    print(table())
