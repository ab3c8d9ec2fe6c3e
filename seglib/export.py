"""A trained network for use elsewhere: ONNX, `torch.export`, and a folder that becomes a Kaggle data set."""

import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import config, files, metrics, runs, tables
from .errors import ConfigError, DataError
from .inference import Predictor
from .report import Report

USE = """```python
from seglib import hosts, inference

model = inference.Predictor.load(hosts.find_model("{name}"))
mask = model.predict(image).mask  # image (H, W) or (H, W, C), RGB
```"""
LIMITS = """For research and teaching, not for diagnosis. Other scanners, protocols, ages and diseases than those of the
training data were not tested unless the scores say so; check on annotated images of your own first."""
LIMIT = 1e-4  # largest difference of a probability from PyTorch's that an export may have


class Exported(NamedTuple):
    """`path`; its size in `megabytes`; `difference`, the largest from PyTorch's probabilities; milliseconds an image
    on this CPU, batch 1, median: `torch_ms` in float32 and `ms` of the exported form."""

    path: Path
    megabytes: float
    difference: float
    torch_ms: float
    ms: float


class Deployed(nn.Module):
    """The network with its normalisation and activation: images (N, C, H, W) float32 from 0 to 1 -> probabilities."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        cfg = predictor.config
        self.network, self.task = predictor.model.float().cpu().eval(), cfg.task
        self.temperature = predictor.temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(cfg, name)).expand(cfg.in_channels).reshape(1, -1, 1, 1)
            self.register_buffer(name, values.clone())
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network((image - self.mean) / self.std)
        return metrics.probabilities(logits / self.temperature, self.task)


def to_onnx(weights: str | Path, path: str | Path, model: nn.Module | None = None) -> Exported:
    """Write an ONNX file: input `image` (batch, C, H, W) float32 from 0 to 1, RGB, in the size of the config; output
    `probability` (batch, classes, H, W). Any batch. Checked against PyTorch with onnxruntime.

    Args:
        model: a network of the class that was passed to `fit`, if one was.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is missing. DataError: the results differ by more than `LIMIT`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise ConfigError(
            f"export: {error.name} is missing; run  pip install onnx onnxscript onnxruntime"
        ) from error
    deployed, example = _deployed(weights, model)

    def write(target: Path) -> None:
        torch.onnx.export(
            deployed,
            (example,),
            target,
            input_names=["image"],
            output_names=["probability"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )

    def load(target: Path) -> Callable[[Tensor], np.ndarray]:
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        return lambda image: session.run(["probability"], {"image": image.numpy()})[0]

    return _checked(deployed, example, Path(path), write, load)


def to_program(weights: str | Path, path: str | Path, model: nn.Module | None = None) -> Exported:
    """Write a `.pt2` file of `torch.export`, with the input and output of `to_onnx`; `torch.export.load(path).module()`
    is the network, without this package. Load such files from people you trust only."""
    deployed, example = _deployed(weights, model)

    def write(target: Path) -> None:
        shapes = {"image": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(deployed, (example,), dynamic_shapes=shapes), target)

    def load(target: Path) -> Callable[[Tensor], np.ndarray]:
        module = torch.export.load(target).module()
        return lambda image: module(image).detach().numpy()

    return _checked(deployed, example, Path(path), write, load)


def _deployed(weights: str | Path, model: nn.Module | None) -> tuple[Deployed, Tensor]:
    predictor = Predictor.load(weights, "cpu", "fp32", model)
    cfg = predictor.config
    return Deployed(predictor).to(memory_format=torch.contiguous_format), torch.rand(
        2, cfg.in_channels, *cfg.height_width
    )


@torch.inference_mode(False)
@torch.no_grad()
def _checked(deployed: Deployed, example: Tensor, path: Path, write, load) -> Exported:
    """Write under a temporary name, compare with PyTorch on batches of 1 and 3, time both, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=path.parent) as scratch:
        partial = Path(scratch) / path.name
        write(partial)
        run, difference = load(partial), 0.0
        generator = torch.Generator().manual_seed(0)
        for n in (1, 3):
            image = torch.rand(n, *example.shape[1:], generator=generator)
            difference = max(difference, float(np.abs(run(image) - deployed(image).numpy()).max()))
        if not difference <= LIMIT:
            raise DataError(
                f"{path}: its probabilities differ from PyTorch's by {difference:.1e}; expected {LIMIT:.0e}"
            )
        times = [_milliseconds(call, image[:1]) for call in (deployed, run)]
        partial.replace(path)
    return Exported(path, path.stat().st_size / 1e6, difference, *times)


def _milliseconds(call: Callable[[Tensor], object], image: Tensor, rounds: int = 5) -> float:
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        call(image)
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[1:])


def kaggle_folder(
    weights: str | Path,
    folder: str | Path,
    owner: str,
    title: str,
    report: Report | None = None,
    licence: str = "other",
) -> Path:
    """A folder for `kaggle datasets create -p FOLDER`: weights, their JSON, a model card with scores and limits, and
    `dataset-metadata.json`. A notebook that attaches it finds the weights by `hosts.find_model("best_model.pth")`.

    Args:
        owner: your Kaggle user name.
        title: 6 to 50 characters; the address is made of it.
        report: of `evaluation.evaluate`, for the card; without it the card says that no test was made.
        licence: one of Kaggle's names, for example "CC0-1.0"; weights inherit limits from their data.

    Raises:
        ConfigError: a title or user name that Kaggle refuses. DataError: no such weights, or the folder exists.
    """
    about = runs.describe_weights(weights)
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if not 6 <= len(title) <= 50 or len(slug) < 3 or not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        raise ConfigError(
            f"kaggle: title {title!r} and owner {owner!r}; Kaggle wants a title of 6 to 50 letters, and your user name"
        )
    weights, folder = Path(weights), Path(folder)
    if folder.exists():
        raise DataError(
            f"{folder}: exists already; choose a new folder, so that nothing is overwritten"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kaggle_", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for file in (weights, weights.with_suffix(".json")):
            shutil.copy(file, made)
        metadata = {"title": title, "id": f"{owner}/{slug}", "licenses": [{"name": licence}]}
        files.write_text(made / "dataset-metadata.json", json.dumps(metadata, indent=2))
        files.write_text(made / "README.md", model_card(weights, about, title, report))
        made.rename(folder)
    return folder


def _describe_network(about: dict) -> str:
    """The architecture and the settings that it takes, or the name of a network of one's own."""
    if about.get("network"):
        return f"{about['network']}, of the notebook that trained it"
    settings = config.from_dict(about["config"]).to_dict()
    architecture = settings["architecture"]
    parameters = tables.parameters(tables.ARCHITECTURES[architecture].build)
    details = [
        f"{name} {settings[name]}"
        for name in config.fields_that("network")
        if name in parameters and name != "in_channels"  # stands in the line of the input
    ]
    return ", ".join([architecture, *details])


def model_card(weights: Path, about: dict, title: str, report: Report | None = None) -> str:
    """Markdown: what the network does, how it was trained, its scores, how to load it, and what it is not for."""
    cfg, scores = about["config"], about.get("scores", {})
    facts = {
        "system": f"{cfg['preset']} ({cfg['task']}), size {cfg['size']}",
        "classes": ", ".join(cfg["class_names"]),
        "input": f"{cfg['in_channels']} channels, {cfg['image_size']} pixels ({cfg['resize']})",
        "network": _describe_network(about),
        "trained on": f"{len(about['trained_on'])} images (training and validation)"
        if "trained_on" in about
        else "unknown",
        "validation Dice of the epoch kept": scores.get("val_dice", "unknown"),
        "weights": f"{weights.name}, sha256 {about.get('weights_sha256', 'unknown')}",
        "versions": ", ".join(
            f"{k} {v}" for k, v in about.get("versions", {}).items() if k in ("torch", "seglib")
        ),
    }
    lines = [
        f"# {title}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    lines += ["", "## Scores", ""]
    if report is None:
        lines += [
            "No test was made. The validation Dice above chose the weights, so it is too good."
        ]
    else:
        rows = report.summary[report.summary["metric"].isin(["dice", "iou", "hd95"])]
        lines += [
            f"{report.title}, grid {report.about['grid']}; interval: 95 % bootstrap over patients.",
            "",
        ]
        lines += [
            "| class | metric | average | value | interval | n |",
            "|---|---|---|---|---|---|",
        ]
        for _, r in rows.iterrows():
            interval = f"{r['low']:.3f} to {r['high']:.3f}"
            lines += [
                f"| {r['class']} | {r['metric']} | {r['average']} | {r['value']:.3f} | {interval} | {r['n']} |"
            ]
    lines += ["", "## Use", "", USE.format(name=weights.name), "", "## Limits", "", LIMITS]
    return "\n".join(lines) + "\n"
