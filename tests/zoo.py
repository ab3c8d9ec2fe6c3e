"""Train the networks that come with the package, on real data: `make zoo`, or one by its name.

    python -m tests.zoo [lung] [nuclei] [--epochs N] [--output DIR]

Each is trained in the small setting of its system with the robust augmentation, on all patients and
for a fixed number of epochs. Its scores are those of networks of the same setting on patients that
they never saw, out of `tests/results/<name>.json` (`make results` writes it), and its own on other
hospitals. Weights, description and model card go into `seglib/weights`. A stopped training goes on
where it was. `--epochs` rehearses it in `runs/zoo/rehearsal`.
"""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from seglib import config, data, export, files, layouts, prepare, training, zoo
from seglib.inference import Predictor
from tests.results import FOLDER, HOSPITALS, REAL, ROOT, STUDIES, report_on

WORK = ROOT / "runs" / "zoo"
MOST_BYTES = 4_000_000
PICTURES = 16  # images on which the stored weights are compared with the network


class Recipe(NamedTuple):
    """One network; its data and its system are those of the study of this name in `tests.results`.

    Attributes:
        about: what the model card tells, without the scores.
        hospitals: those whose images are only scored.
    """

    about: zoo.About
    hospitals: tuple[str, ...] = ()


RECIPES = {
    "lung": Recipe(
        about=zoo.About(
            purpose="Both lungs in frontal chest X-rays.",
            data="102 chest X-rays, normal and with signs of tuberculosis, of the screening of "
            "Montgomery County, squeezed to 512x512 pixels and 8 bits. S. Jaeger et al., Two "
            "public chest X-ray datasets for computer-aided screening of pulmonary diseases, "
            "Quant. Imaging Med. Surg. 4(6), 2014; S. Candemir et al., IEEE TMI 33(2), 2014.",
            terms="Terms of the data: free for research, with credit to the U.S. National Library "
            "of Medicine and the Department of Health and Human Services of Montgomery County, "
            "Maryland. The images are de-identified.",
            limits="All training images come from one hospital system. Lateral views, children "
            "and lungs that are largely opaque or were removed were not tested apart.",
        ),
        hospitals=tuple(HOSPITALS),
    ),
    "nuclei": Recipe(
        about=zoo.About(
            purpose="Cell nuclei, as one mask, in fluorescence and stained microscopy.",
            data="60 images of stage 1 of the Data Science Bowl 2018 (BBBC038), of at most 60 "
            "nuclei each, with masks that the community has corrected. J. C. Caicedo et al., "
            "Nature Methods 16, 2019.",
            terms="Licence of the data: CC0.",
            limits="Nuclei that touch are not separated. The images of one experiment look alike, "
            "and nothing tells which of them belong together: on other microscopes expect less "
            "than the scores above. Other magnifications were not tested.",
        ),
    ),
}


def make(name: str, output: Path, work: Path, epochs: int | None = None, **changes: Any) -> Path:
    """Train a network, or go on, score it, and write its three files.

    Args:
        epochs: of a rehearsal, whose card may lack the scores of folds.
        changes: settings to change.
    """
    recipe, study = RECIPES[name], STUDIES[name]
    tests = out_of_fold(name)
    if not tests and not epochs:
        raise SystemExit(
            f"{FOLDER / name}.json has no out-of-fold Dice; run  python -m tests.results {name}  "
            "first, as a network without scores is not shipped"
        )
    fields = study.fields(work / f"{name}_data") | changes
    folder = work / name
    if epochs:
        fields["epochs"] = epochs
        folder = work / f"{name}_{epochs}_epochs"
    run, store = train(study.system, folder, work_dir=str(work), **fields)
    step = max(1, len(store.cases) // PICTURES)
    pictures = store.cases["image"].tolist()[::step]

    # What is scored is what is shipped: the stored weights.
    scored = Predictor.load(zoo.save(run, name, work / "stored", pictures))
    tests += other_hospitals(recipe, scored, work)
    command = f"python -m tests.zoo {name}"
    if epochs:
        command += f" --epochs {epochs}"
    about = dataclasses.replace(recipe.about, tests=tests, command=command)
    path = zoo.save(run, name, output, pictures, about)
    if path.stat().st_size > MOST_BYTES:
        path.unlink()
        path.with_suffix(".json").unlink()
        raise SystemExit(f"{name}: more than {MOST_BYTES / 1e6:g} MB; choose a smaller network")
    return files.write_text(path.with_suffix(".md"), export.card_of(path, called_by_name=True))


def train(system: str, folder: Path, **fields: Any):
    """Run and store of a training on all patients, which goes on where it was stopped."""
    parts = {"val_split": 0.0, "test_split": 0.0}
    fields = {"augment": "robust", "early_stopping": False, **fields, **parts}
    cfg = config.preset(system, "small", **fields)
    store = prepare.build(layouts.scan(cfg), cfg)
    return training.fit(cfg, data.loaders(store, cfg), resume=True, folder=folder), store


def out_of_fold(name: str) -> list[dict[str, Any]]:
    """The Dice of networks of the same setting on patients that they never saw."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return []
    measured = json.loads(path.read_text(encoding="utf-8"))
    pattern = rf"{re.escape(STUDIES[name].data)}, \d+ folds of \d+ patients"
    return [
        {
            "data": f"{row['data']}, other networks of this setting ({measured['date']})",
            **{key: row.get(key) for key in ("metric", "value", "low", "high", "n")},
        }
        for row in measured["rows"]
        if row["metric"] == "dice" and re.fullmatch(pattern, row["data"])
    ]


def other_hospitals(recipe: Recipe, predictor: Predictor, work: Path) -> list[dict[str, Any]]:
    """The Dice of this network on images of hospitals that it never saw."""
    rows = []
    for hospital in recipe.hospitals:
        row = report_on(hospital, predictor, work).table("dice").iloc[0]
        scores = {key: float(row[key]) for key in ("value", "low", "high")}
        about = {"data": f"{hospital}, another hospital", "metric": "dice"}
        rows.append({**about, **scores, "n": int(row["n"])})
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--epochs", type=int, help="a rehearsal of so many epochs")
    parser.add_argument("--output", type=Path, help="receives the files (default seglib/weights)")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in RECIPES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    if not REAL.is_dir():
        parser.error(f"{REAL}: no real data here; set SEGLIB_TEST_DATA to their folder")
    output = args.output or (WORK / "rehearsal" if args.epochs else zoo.FOLDER)
    for name in args.names or RECIPES:
        print(make(name, output, WORK, args.epochs))


if __name__ == "__main__":
    main(sys.argv[1:])
