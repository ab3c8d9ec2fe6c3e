"""What is each augmentation worth? The robust set, each of its members left out, and none at all.

    python -m tests.ablation lung [--folds 3] [--size small] [--epochs N] [--image_size N]
    python -m tests.ablation pictures

Every arm is cross-validated by patient on Montgomery; the mean of its networks is also scored on
Shenzhen, a hospital that takes no part in training. `tests/results/ablation.json` receives the Dice
of every image, arm by arm, and the table in `docs/augmentation.md` is renewed. A run that was
stopped goes on with the next fold; an arm is trained anew only if its augmentation has changed.
The time is that of a training times folds times arms, eleven for the set of X-rays. `pictures`
renews the figures of the page. The real data is found as in `tests.results`.
"""

import argparse
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib import (
    bootstrap,
    config,
    data,
    evaluation,
    files,
    layouts,
    phantoms,
    plots,
    prepare,
    tables,
    training,
)
from seglib.config import FIELDS, fields_that
from seglib.errors import SeglibError
from tests.results import FOLDER, REAL, ROOT, machine, write_between

PAGE = ROOT / "docs" / "augmentation.md"
BEGIN, END = (
    "<!-- ablation: written by python -m tests.ablation lung -->",
    "<!-- end of ablation -->",
)
WHOLE, NONE = "the whole set", "no augmentation"
HELD_OUT, OTHER = "Montgomery, held out", "Shenzhen, other hospital"


def arms(augment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The value of `cfg.augment` in each arm."""
    without = {
        f"without {left_out}": {name: value for name, value in augment.items() if name != left_out}
        for left_out in augment
    }
    return {WHOLE: augment, **without, NONE: {}}


def measure(cfg, folds: int, output: Path) -> dict[str, Any]:
    """Train and score the arms that `output` lacks; returns its content."""
    settings = _settings(cfg, folds)
    result: dict[str, Any] = {"settings": settings, "arms": {}}
    if output.is_file():
        result = json.loads(output.read_text(encoding="utf-8"))
        _check_same(result["settings"], settings, output)
    store = prepare.build(layouts.scan(cfg), cfg)
    other = cfg.replace(data_root=str(REAL / "shenzhen"), test_split=1.0, val_split=0.0)
    unseen = data.loaders(prepare.build(layouts.scan(other), other), other)["test"]
    chosen = arms(cfg.augment)
    for name, augment in chosen.items():
        if result["arms"].get(name, {}).get("augment") == augment:
            continue
        print(f"{name}: {augment}")
        arm = _scores(cfg.replace(augment=augment), store, unseen, folds)
        result["arms"][name] = {"augment": augment, **arm}
        ordered = {key: result["arms"][key] for key in chosen if key in result["arms"]}
        result |= {"arms": ordered, "date": datetime.date.today().isoformat(), "machine": machine()}
        files.write_text(output, json.dumps(result, indent=1) + "\n")  # whole, or as it was before
    return result


def _settings(cfg, folds: int) -> dict[str, Any]:
    """What all arms have in common, and what a score depends on."""
    names = {name for kind in ("store", "split", "network", "run") for name in fields_that(kind)}
    values = cfg.to_dict()
    return {
        "folds": folds,
        **{name: values[name] for name in FIELDS if name in names - {"augment"}},
    }


def _check_same(saved: dict[str, Any], settings: dict[str, Any], output: Path) -> None:
    """Stop where the arms in `output` are of other settings: the arms would not be comparable."""
    names = [name for name in settings | saved if saved.get(name) != settings.get(name)]
    if names:
        changes = ", ".join(f"{n} {saved.get(n)!r}, now {settings.get(n)!r}" for n in names)
        raise SystemExit(
            f"{output}: its arms were trained with other settings ({changes}); give the same, or "
            "another --output"
        )


def _scores(cfg, store, unseen, folds: int) -> dict[str, Any]:
    """The Dice of every image of both hospitals, and the seconds of all trainings of one arm."""
    text = json.dumps([_settings(cfg, folds), cfg.augment], sort_keys=True)
    folder = Path(cfg.work_dir) / f"arm_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    crossed = training.cross_validate(cfg, store, folds, folder=folder)
    options = {"grid": "original", "distances": False}
    reports = {
        HELD_OUT: crossed.evaluate(**options),
        OTHER: evaluation.evaluate(crossed.predictor, unseen, **options),
    }
    scores = {
        name: [
            {"case": row.case, "patient": str(row.patient), "dice": round(row.dice, 5)}
            for row in report.per_image.itertuples()
        ]
        for name, report in reports.items()
    }
    return {"seconds": round(crossed.table["seconds"].sum()), "scores": scores}


def table(result: dict[str, Any]) -> str:
    """The mean Dice of each arm, and its paired difference from the whole set."""
    lines = [
        f"| | {HELD_OUT} | difference | {OTHER} | difference |",
        "|---|---|---|---|---|",
    ]
    whole = result["arms"][WHOLE]["scores"]
    for name, arm in result["arms"].items():
        cells = [name]
        for data_set, rows in arm["scores"].items():
            scores, reference = pd.DataFrame(rows), pd.DataFrame(whole[data_set])
            pairs = reference.merge(scores, on=["case", "patient"], validate="one_to_one")
            cells.append(f"{scores['dice'].mean():.4f}")
            cells.append("" if name == WHOLE else _difference(pairs))
        lines.append("| " + " | ".join(cells) + " |")
    n = {name: len(rows) for name, rows in whole.items()}
    settings = result["settings"]
    lines += [
        "",
        f"Mean Dice of {n[HELD_OUT]} and {n[OTHER]} images. Measured by `python -m tests.ablation "
        f"lung`, {settings['folds']} folds, {settings['epochs']} epochs, {result['date']}, "
        f"{result['machine']}.",
    ]
    return "\n".join(lines)


def _difference(pairs: pd.DataFrame) -> str:
    """Arm minus whole set on the same images, with its 95 % interval over patients."""
    estimate = bootstrap.paired(pairs["dice_x"], pairs["dice_y"], pairs["patient"])
    text = f"{estimate['value']:+.4f}"
    if np.isfinite(estimate["low"]):
        text += f" ({estimate['low']:+.4f} to {estimate['high']:+.4f})"
    return text


def pictures(folder: Path, work_dir: str) -> None:
    """The figures of the page: each augmentation on a phantom, and the X-ray set in training."""
    from seglib import augmentations

    image, mask = _phantom("palm", work_dir)
    names = [name for name, entry in tables.AUGMENTATIONS.items() if not entry.second_image]
    every = augmentations.examples(image, mask, dict.fromkeys(names, 1.0), 1, seed=5)
    del every["together"]
    shown = {"as it is": (image, mask), **{name: pair for name, (pair,) in every.items()}}
    figure = plots.grid(
        [plots.as_rgb(picture) for picture, _ in shown.values()], list(shown), columns=5, side=2
    )
    figure.savefig(folder / "augmentation.jpg", dpi=75)
    image, mask = _phantom("lung", work_dir)
    together = augmentations.examples(image, mask, tables.AUGMENTATION_SETS["xray"], 9, seed=1)
    pairs = [(image, mask), *together["together"]]
    figure = plots.grid([plots.overlay(*pair) for pair in pairs], ["as it is"], columns=5, side=2)
    figure.savefig(folder / "augmentation_xray.jpg", dpi=75)


def _phantom(name: str, work_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a synthetic case."""
    root = phantoms.write(name, Path(work_dir) / f"phantoms_{name}", n=2)
    changes = {"image_size": 256, "val_split": 0, "test_split": 0, "work_dir": work_dir}
    cfg = config.preset(name, "full", data_root=str(root), **changes)
    images, masks = prepare.build(layouts.scan(cfg), cfg).open()
    return np.array(images[1]), plots.flat(np.array(masks[1]))


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["lung", "pictures"])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--size", default="small", choices=config.choices_of("size"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--work_dir", default=str(ROOT / "runs" / "ablation"))
    parser.add_argument("--output", type=Path, default=FOLDER / "ablation.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table or pictures to renew")
    args = parser.parse_args(argv)
    if args.what == "pictures":
        return pictures(args.page.parent, args.work_dir)
    if not REAL.is_dir():
        raise SystemExit(f"{REAL}: no real data here; set SEGLIB_TEST_DATA to its folder")
    changes = {
        name: getattr(args, name)
        for name in ("epochs", "image_size", "work_dir")
        if getattr(args, name) is not None
    }
    root = str(REAL / "montgomery")
    try:
        cfg = config.preset("lung", args.size, augment="robust", data_root=root, **changes)
        result = measure(cfg, args.folds, args.output)
    except SeglibError as error:
        raise SystemExit(str(error)) from error
    write_between(args.page, BEGIN, END, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
