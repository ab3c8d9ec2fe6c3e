"""How many masks must be drawn? A simulated annotator corrects nuclei in the order of the queue,
another one in a random order.

    python -m tests.annotator [--seeds 5] [--rounds 8]

Of the 60 images of the Data Science Bowl, a quarter is the test. A network is trained on five
masks and predicts the others; then five more are "corrected": their masks are taken from the truth.
This is repeated, and each training goes on from the weights of the one before. One annotator takes
the first five of `annotate.queue`, the other one any five. `tests/results/annotator.json` receives
the Dice of the test after each round, and the table in `docs/correct_masks.md` is renewed. A run
that was stopped goes on with the next round. The real data is found as in `tests.results`.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib import annotate, config, data, evaluation, files, layouts, prepare, training
from seglib.inference import Predictor
from tests.results import FOLDER, REAL, ROOT, STUDIES, WORK, machine, write_between

ROUND = 5  # masks that are corrected between two trainings, and masks of the first training
TARGET = 0.88  # the Dice that is asked for
UPDATES = 150  # of each training
ORDERS = ("queue", "random")
OUTPUT = FOLDER / "annotator.json"
PAGE = ROOT / "docs" / "correct_masks.md"
BEGIN, END = (
    "<!-- annotator: written by python -m tests.annotator -->",
    "<!-- end of annotator -->",
)


def measure(seeds: int, rounds: int, output: Path, work: Path, **changes: Any) -> dict[str, Any]:
    """Run what `output` lacks; returns its content."""
    result: dict[str, Any] = {"curves": {}}
    if output.is_file():
        result = json.loads(output.read_text(encoding="utf-8"))
    settings = STUDIES["nuclei"].fields(work / "nuclei_data") | changes
    cfg = config.preset("binary", "small", work_dir=str(work), **settings)
    cases = layouts.scan(cfg)
    for seed in range(seeds):
        for order in ORDERS:
            curve = result["curves"].setdefault(f"{order} {seed}", [])
            for n_masks, dice in rounds_of(cases, cfg, seed, order, curve, rounds):
                curve.append({"masks": n_masks, "dice": round(dice, 4)})
                result |= {"date": datetime.date.today().isoformat(), "machine": machine()}
                files.write_text(output, json.dumps(result, indent=1) + "\n")
    return result


def rounds_of(cases: pd.DataFrame, cfg, seed: int, order: str, curve: list[dict], rounds: int):
    """Train, score and correct by turns; yields the number of masks and the Dice of the test.

    Args:
        curve: the rounds that have been done; their trainings are loaded.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(cases["case"].to_numpy())
    test, pool = names[: len(names) // 4], names[len(names) // 4 :]
    corrected, waiting = list(pool[:ROUND]), list(pool[ROUND:])
    weights = ""
    for number in range(rounds):
        folder = Path(cfg.work_dir) / f"annotator_{order}_{seed}_{number}"
        predictor, weights = _trained(cases, corrected, test, cfg, weights, folder, seed)
        if number >= len(curve):
            yield len(corrected), _dice(cases, test, cfg, predictor)
        if order == "queue":
            table = cases[cases["case"].isin(waiting)]
            waiting = annotate.queue(predictor, table, folder / "corrected").table["case"].tolist()
        corrected, waiting = corrected + waiting[:ROUND], waiting[ROUND:]


def _trained(cases, corrected, test, cfg, weights: str, folder: Path, seed: int):
    """The network of one round, and the path of its weights."""
    best = folder / cfg.checkpoint_name
    if not (folder / "done").is_file():
        epochs = max(1, round(UPDATES * cfg.batch_size / len(corrected)))
        settings = {"epochs": epochs, "seed": seed, "init_from": weights or None}
        settings |= {"val_split": 0.0, "keep_split": True}
        training_cfg = cfg.replace(**settings)
        parts = np.where(cases["case"].isin(corrected), "train", "")
        table = cases.assign(split=parts)[parts == "train"]
        batches = data.loaders(prepare.build(table, training_cfg), training_cfg)
        run = training.fit(training_cfg, batches, resume=True, folder=folder)
        best = run.best
        (folder / "done").touch()
    return Predictor.load(best), str(best)


def _dice(cases, test, cfg, predictor: Predictor) -> float:
    """The mean Dice of the test images at the size of their files."""
    table = cases[cases["case"].isin(test)]
    test_cfg = cfg.replace(test_split=1.0, val_split=0.0)
    loader = data.loaders(prepare.build(table, test_cfg), test_cfg)["test"]
    report = evaluation.evaluate(predictor, loader, grid="original", distances=False)
    return float(report.per_image["dice"].mean())


def table(result: dict[str, Any]) -> str:
    """The mean Dice after each round in both orders, and how many masks the target needs."""
    scores = pd.DataFrame(
        [
            {"order": name.split()[0], "seed": int(name.split()[1]), **point}
            for name, curve in result["curves"].items()
            for point in curve
        ]
    )
    means = scores.pivot_table(index="masks", columns="order", values="dice")[list(ORDERS)]
    lines = [
        "| masks | Dice, in the order of the queue | Dice, in a random order |",
        "|---|---|---|",
    ]
    lines += [f"| {n} | {queue:.3f} | {rest:.3f} |" for n, queue, rest in means.itertuples()]
    needed = scores.groupby(["seed", "order"]).apply(masks_needed).unstack()[list(ORDERS)]
    n_seeds = scores["seed"].nunique()
    lines += [
        "",
        f"Means of {n_seeds} seeds, each with another test of a quarter of the images. A Dice of "
        f"{TARGET} was reached with {needed['queue'].mean():.1f} masks in the order of the queue "
        f"and with {needed['random'].mean():.1f} in a random order (where it was not reached, one "
        f"round more than were trained counts). Measured by `python -m tests.annotator`, "
        f"{result['date']}, {result['machine']}.",
    ]
    return "\n".join(lines)


def masks_needed(curve: pd.DataFrame) -> int:
    """The number of masks with which a curve first reaches the target."""
    reached = curve.loc[curve["dice"] >= TARGET, "masks"]
    return int(reached.min()) if len(reached) else int(curve["masks"].max()) + ROUND


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--work_dir", type=Path, default=WORK)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table to renew")
    args = parser.parse_args(argv)
    if not REAL.is_dir():
        raise SystemExit(f"{REAL}: no real data here; set SEGLIB_TEST_DATA to its folder")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    result = measure(args.seeds, args.rounds, args.output, args.work_dir)
    write_between(args.page, BEGIN, END, table(result))


if __name__ == "__main__":
    main()
