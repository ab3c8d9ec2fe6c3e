"""The picture at the top of the README: `python -m tests.picture`.

For each of the five systems a small network is trained on phantoms for a few epochs; the test image
with the median Dice is drawn above the same image with the outlines of the predicted masks. Writes
`docs/systems.jpg`. About twenty minutes of one CPU core; finished trainings in `runs/picture` are
kept.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from seglib import (
    case_io,
    config,
    data,
    evaluation,
    inference,
    layouts,
    phantoms,
    plots,
    prepare,
    training,
)
from seglib.inference import masks

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "systems.jpg"
WORK = ROOT / "runs" / "picture"
WIDTH = 1500  # pixels

# Quick to train, and enough for images that all come from one painter.
QUICK = {"augment": {"hflip": 0.5}, "batch_size": 8}
# Preset -> title, number of phantoms, epochs, other settings.
SYSTEMS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "binary": (
        "skin: photograph",
        150,
        60,
        {"stem": "full", "loss": "combined", "class_names": ("lesion",)} | QUICK,
    ),
    "lung": ("lungs: chest X-ray", 40, 30, {}),
    "cardiac": ("heart: MRI", 20, 40, {"stem": "full"}),
    "rsna": ("abdomen: CT", 16, 60, {"architecture": "unet", "base_channels": 16, **QUICK}),
    "palm": ("eye: fundus photograph", 60, 150, QUICK | {"augment": {"rot90": 0.5, "hflip": 0.5}}),
}


def median_case(name: str, n: int, epochs: int, work: Path, **changes):
    """The image and the predicted planes (class name -> (H, W) bool) of one test case.

    It is the one with the median Dice of those whose predicted mask shows most of the classes.
    """
    settings = {"image_size": 128, "base_channels": 8, "depth": 4, "epochs": epochs, "lr": 3e-3}
    # Of few images none is spared to choose an epoch: the last one is kept.
    settings |= {"patch_size": None, "patches_per_image": 1, "test_split": 0.2, "val_split": 0.0}
    settings |= changes
    root = phantoms.write(name, work / f"{name}_phantoms", n=n)
    cfg = config.preset(name, "smoke", data_root=str(root), work_dir=str(work), **settings)
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    run = training.fit(cfg, batches, resume=True, folder=work / name)
    predictor = inference.Predictor.load(run.best)
    report = evaluation.evaluate(predictor, batches["test"], distances=False)
    scores = report.per_image.groupby("case", sort=False)["dice"].mean().sort_values()
    print(f"{name}: mean Dice of {len(scores)} test images {scores.mean():.3f}", flush=True)
    cases = batches["test"].dataset.cases.set_index("case", drop=False)
    drawn = []
    for _, case in cases.loc[scores.index].iterrows():
        image = case_io.read_image(case, cfg)
        drawn.append((image, dict(masks.by_class(predictor.predict(image).mask, cfg))))
    shown = [sum(plane.any() for plane in planes.values()) for _, planes in drawn]
    full = [item for item, n_classes in zip(drawn, shown) if n_classes == max(shown)]
    return full[len(full) // 2]


def draw(examples: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]) -> Figure:
    """A column a system: the image, and below it the image with the outlines of its classes."""
    figure = Figure(figsize=(3 * len(examples), 6.9), layout="constrained")
    axes = figure.subplots(2, len(examples), squeeze=False)
    for column, (title, (image, planes)) in zip(axes.T, examples.items()):
        for axis in column:
            axis.imshow(plots.as_rgb(image), interpolation="bicubic")
            axis.set_axis_off()
        column[0].set_title(title, fontsize=15)
        for number, (name, plane) in enumerate(planes.items()):
            colour = plots.COLOURS[number % len(plots.COLOURS)]
            if plane.any():
                column[1].contour(plane.astype(float), [0.5], colors=[colour], linewidths=2.2)
            column[1].text(
                0.5,
                -0.02 - 0.075 * number,
                name.replace("_", " "),
                color=colour,
                fontsize=12,
                weight="bold",
                ha="center",
                va="top",
                transform=column[1].transAxes,
            )
    return figure


def main() -> None:
    examples = {}
    for name, (title, n, epochs, changes) in SYSTEMS.items():
        examples[title] = median_case(name, n, epochs, WORK, **changes)
    rendered = io.BytesIO()
    draw(examples).savefig(rendered, dpi=150, facecolor="white")
    picture = Image.open(rendered).convert("RGB")
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)))
    picture.save(PICTURE, quality=85, optimize=True)
    print(f"{PICTURE}: {picture.size}, {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
