"""Export a trained network: ONNX, `torch.export`, a Kaggle data set. Taught in `08`."""

import copy
import json
import math
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import config, files, metrics, runs, tables, zoo
from . import report as reports
from .errors import ConfigError, DataError
from .formats import stacks
from .inference import Predictor

USE = """```python
from seglib import hosts, inference

predictor = inference.Predictor.load({weights}{model})
mask = predictor.predict(image).mask  # image (H, W) or (H, W, C), RGB
```"""
LIMITS = """For research and teaching, not for diagnosis. Other scanners, protocols, ages and
diseases than those of the training data were not tested unless the scores say so; check on
annotated images of your own first."""
LIMIT = 1e-4  # largest difference of a probability from PyTorch's that an export may have


class Exported(NamedTuple):
    """An exported file, checked and timed.

    `difference` is the largest from PyTorch's probabilities; `torch_ms` and `ms` are the median
    milliseconds for one image on this CPU, by PyTorch in float32 and by the exported form.
    """

    path: Path
    megabytes: float
    difference: float
    torch_ms: float
    ms: float


class Deployed(nn.Module):
    """A copy of a predictor's network that includes normalisation, temperature and activation.

    Images (N, C, H, W) float32 from 0 to 1 -> probabilities (N, classes, H, W) float32.
    """

    def __init__(self, predictor: Predictor):
        super().__init__()
        cfg = predictor.config
        self.network = copy.deepcopy(predictor.model).float().cpu()
        self.config, self.task = cfg, cfg.task
        self.temperature = predictor.temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(cfg, name))
            values = values.repeat(cfg.input_channels // len(values))
            self.register_buffer(name, values.reshape(1, -1, 1, 1))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network((image - self.mean) / self.std)
        return metrics.probabilities(logits / self.temperature, self.task)


def to_onnx(
    weights: str | Path | Predictor, path: str | Path, model: nn.Module | None = None
) -> Exported:
    """Write an ONNX file, checked against PyTorch with onnxruntime.

    Its input is `image` (batch, C, H, W) float32 from 0 to 1, RGB, in the size that the network
    sees: `patch_size`, or `image_size` where it was trained on whole frames. Its output is
    `probability` (batch, classes, H, W). It takes batches of any size. It computes in float32,
    whatever the precision of the training. Its metadata tell the order of the channels, which are
    sequences and neighbouring slices for some networks, and the classes.

    Args:
        weights: a weights file, or a `Predictor`, whose temperature is then used as well.
        model: a network of the class that was passed to `fit`, if one was.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is missing.
        DataError: the results differ by more than `LIMIT`, or the weights cannot be loaded.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise ConfigError(
            f"export: {error.name} is missing; run  pip install onnx onnxscript onnxruntime"
        ) from error
    deployed, example = _deployed(weights, model)
    metadata = {"channels": _channels(deployed.config)}
    metadata["classes"] = ", ".join(deployed.config.class_names)

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
        model = onnx.load(target)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, target)

    def load(target: Path) -> Callable[[Tensor], np.ndarray]:
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        return lambda image: session.run(["probability"], {"image": image.numpy()})[0]

    return _checked(deployed, example, Path(path), write, load)


def to_program(
    weights: str | Path | Predictor, path: str | Path, model: nn.Module | None = None
) -> Exported:
    """Write a `.pt2` file of `torch.export`, with the arguments, input and output of `to_onnx`.

    `torch.export.load(path).module()` is the network; it does not need this package. Load such
    files only from people whom you trust.
    """
    deployed, example = _deployed(weights, model)

    def write(target: Path) -> None:
        shapes = {"image": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(deployed, (example,), dynamic_shapes=shapes), target)

    def load(target: Path) -> Callable[[Tensor], np.ndarray]:
        module = torch.export.load(target).module()
        return lambda image: module(image).detach().numpy()

    return _checked(deployed, example, Path(path), write, load)


def _deployed(weights: str | Path | Predictor, model: nn.Module | None) -> tuple[Deployed, Tensor]:
    """The network to export, and an example batch of its input."""
    predictor = weights
    if not hasattr(weights, "probabilities"):
        predictor = Predictor.load(weights, device="cpu", precision="fp32", model=model)
    cfg = predictor.config
    deployed = Deployed(predictor).to(memory_format=torch.contiguous_format)
    # Seeded, because `torch.export` stores it: the same weights give the same file.
    generator = torch.Generator().manual_seed(0)
    return deployed, torch.rand(
        2, cfg.input_channels, *cfg.network_height_width, generator=generator
    )


@torch.inference_mode(False)
@torch.no_grad()
def _checked(deployed: Deployed, example: Tensor, path: Path, write, load) -> Exported:
    """Write under a temporary name, compare with PyTorch on batches of 1 and 3, time, rename.

    Args:
        write: called with the path to write.
        load: called with that path; returns the exported network as a function.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=path.parent) as scratch:
        partial = Path(scratch) / path.name
        write(partial)
        run = load(partial)
        difference = 0.0
        generator = torch.Generator().manual_seed(0)
        for n in (1, 3):
            image = torch.rand(n, *example.shape[1:], generator=generator)
            difference = max(difference, float(np.abs(run(image) - deployed(image).numpy()).max()))
        if not difference <= LIMIT:  # also true for NaN
            raise DataError(
                f"{path}: its probabilities differ from PyTorch's by {difference:.1e}; "
                f"expected {LIMIT:.0e}"
            )
        times = [_milliseconds(call, image[:1]) for call in (deployed, run)]
        partial.replace(path)
    torch_ms, ms = times
    return Exported(path, path.stat().st_size / 1e6, difference, torch_ms, ms)


def _milliseconds(call: Callable[[Tensor], object], image: Tensor, rounds: int = 5) -> float:
    """Median time of a call; the first call, which also prepares the others, does not count."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call(image)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:])


def kaggle_folder(
    weights: str | Path | Predictor,
    folder: str | Path,
    owner: str,
    title: str,
    report: Any = None,
    licence: str = "other",
) -> Path:
    """A folder for `kaggle datasets create -p FOLDER`: weights, JSON, model card, metadata.

    A notebook that attaches the data set finds the weights by `hosts.find_model("best_model.pth")`.

    Args:
        weights: a weights file, or a `Predictor` that was loaded from one.
        owner: your Kaggle user name.
        title: 6 to 50 characters; the address of the data set is derived from it.
        report: of `evaluation.evaluate`, or the folder where it was saved, for the scores on the
            card; by default a folder `evaluation` or `evaluation_results` beside the weights or in
            the current folder, if it is of these weights.
        licence: one of Kaggle's names, for example "CC0-1.0"; the licence of the training data may
            restrict the choice.

    Raises:
        ConfigError: a title or user name that Kaggle refuses.
        DataError: no such weights, no such report, or the folder exists.
    """
    weights, folder = file_of(weights), Path(folder)
    description = runs.describe_weights(weights)
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if not 6 <= len(title) <= 50 or len(slug) < 3 or not re.fullmatch(r"[A-Za-z0-9][\w-]*", owner):
        raise ConfigError(
            f"kaggle: title {title!r} and owner {owner!r}; "
            "Kaggle wants a title of 6 to 50 letters, and your user name"
        )
    if folder.exists():
        raise DataError(
            f"{folder}: exists already; choose a new folder, so that nothing is overwritten"
        )
    card = model_card(weights, description, title, report or report_of(weights))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kaggle_", dir=folder.parent) as scratch:
        partial = Path(scratch) / "data_set"
        partial.mkdir()
        for file in (weights, weights.with_suffix(".json")):
            shutil.copy(file, partial)
        metadata = {"title": title, "id": f"{owner}/{slug}", "licenses": [{"name": licence}]}
        files.write_text(partial / "dataset-metadata.json", json.dumps(metadata, indent=2))
        files.write_text(partial / "README.md", card)
        partial.rename(folder)
    return folder


def file_of(weights: str | Path | Predictor) -> Path:
    """The weights file, also of a `Predictor`.

    Raises:
        DataError: the predictor was made in memory, or is the mean of several networks.
    """
    if not hasattr(weights, "probabilities"):
        return zoo.resolve(weights)
    if len(weights.files) > 1:
        raise DataError(
            f"this predictor is the mean of {len(weights.files)} networks, and a model card "
            f"describes one; give one of its files, such as {weights.files[0]}"
        )
    if weights.weights is None:
        raise DataError(
            "this predictor was made in memory; save its network with runs.save_weights and give "
            "that file"
        )
    return weights.weights


def report_of(weights: str | Path) -> Path | None:
    """The report of a weights file, beside it or in the current folder; None without one.

    It lies in a folder `evaluation` or `evaluation_results`. Of several, a test comes first, that
    is, images that training has not seen; then the newest.
    """
    weights = Path(weights)
    sha256 = runs.describe_weights(weights).get("weights_sha256")
    folders = [weights.parent, Path()]
    paths = [
        folder / name / reports.JSON
        for folder in folders
        for name in ("evaluation", "evaluation_results")
    ]
    fitting = [path for path in paths if path.is_file() and _is_of(path, weights, sha256)]

    def rank(path: Path) -> tuple[bool, float]:
        return not _limits_of_the_test(reports.read(path)), path.stat().st_mtime

    return max(fitting, key=rank, default=None)


def _is_of(report: Path, weights: Path, sha256: str | None) -> bool:
    """Whether a saved report is of these weights.

    Reports of older versions do not have the checksum of their weights. They must name the file,
    lie beside it and be newer: an older report is of weights that a resumed run has replaced.
    """
    about = reports.read(report).about
    if about.get("weights_sha256") and sha256:
        return sha256.startswith(about["weights_sha256"])
    same_name = Path(str(about.get("weights"))).name == weights.name
    is_beside = report.parent.parent == weights.parent
    return same_name and is_beside and report.stat().st_mtime >= weights.stat().st_mtime


# ---- the model card


def model_card(
    weights: Path,
    description: dict,
    title: str,
    report: Any = None,
    expression: str | None = None,
) -> str:
    """Markdown: what the network does, how it was trained, its scores, its use and its limits.

    Args:
        weights: the weights file.
        description: the JSON beside it, as of `runs.describe_weights`.
        report: as `report.read` takes it.
        expression: Python that `Predictor.load` takes for these weights, by default a search for
            the file.
    """
    about = zoo.about_of(description)
    expression = expression or f'hosts.find_model("{weights.name}")'
    own_network = description.get("network")
    model = f", model={own_network}(...)" if own_network else ""
    lines = [f"# {title}", ""]
    if about.purpose:
        lines += [about.purpose, ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(weights, description).items()]
    if about.data or about.terms:
        lines += ["", "## Data", "", *filter(None, [about.data, about.terms])]
    lines += ["", "## Scores", "", *_scores_of_tests(about.tests)]
    if report is not None or not about.tests:
        lines += _scores(report)
    lines += ["", "## Use", "", USE.format(weights=expression, model=model)]
    lines += ["", "## Limits", "", *filter(None, [about.limits, LIMITS])]
    if about.command:
        lines += ["", "## Made by", "", f"    {about.command}"]
    return "\n".join(lines) + "\n"


def card_of(weights: str | Path, called_by_name: bool = False) -> str:
    """The model card of a network of the zoo, by its name, or of any other weights file.

    Args:
        called_by_name: the card shows how the network is loaded by its name, as for a name.
    """
    path = zoo.resolve(weights)
    by_name = called_by_name or zoo.is_name(weights)
    expression = f'"{path.stem}"' if by_name else None
    return model_card(path, runs.describe_weights(path), path.stem, expression=expression)


def _scores_of_tests(tests: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of `zoo.About.tests`."""
    if not tests:
        return []
    lines = ["| images | metric | value | 95 % interval | n |", "|---|---|---|---|---|"]
    for row in tests:
        low, high = row.get("low"), row.get("high")
        interval = "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        value = "–" if row["value"] is None else f"{row['value']:.3f}"
        cells = [row["data"], row["metric"], value, interval, row["n"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _facts(weights: Path, description: dict) -> dict[str, str]:
    cfg = config.from_dict(description["config"])
    val_dice = description.get("scores", {}).get("val_dice")
    trained_on = description.get("trained_on")
    n_images = f"{len(trained_on or ())} images (training and validation)"
    network = _network(cfg)
    if description.get("network"):
        network = f"{description['network']}, of the notebook that trained it"
    tiles = f", by tiles of {cfg.patch_size}" if cfg.patch_size else ""
    versions = description.get("versions", {})
    shown = [f"{name} {versions[name]}" for name in ("torch", "seglib") if name in versions]
    facts = {
        "system": f"{cfg.preset} ({cfg.task}), size {cfg.size}",
        "classes": ", ".join(cfg.class_names),
        "input": f"{_channels(cfg)}, {cfg.image_size} pixels ({cfg.resize}){tiles}",
        "network": network,
        "trained on": "unknown" if trained_on is None else n_images,
        "arithmetic of the training": description.get("precision") or "unknown",
        "validation Dice of the epoch kept": "unknown" if val_dice is None else f"{val_dice:.3f}",
        "weights": f"{weights.name}, sha256 {description.get('weights_sha256', 'unknown')}",
        "versions": ", ".join(shown),
    }
    if val_dice is None and description.get("about"):  # trained on all images, without validation
        del facts["validation Dice of the epoch kept"]
    return facts


def _channels(cfg) -> str:
    """The channels of the input, with their order where that is not the one of colours."""
    text = f"{cfg.input_channels} channels"
    if cfg.context_slices or cfg.channels:
        text += f" ({stacks.description(cfg)})"
    return text


def _network(cfg) -> str:
    """The architecture with the settings that it takes, such as `unet, base_channels 64, depth 4`.

    The input channels are left out, as they have a row of their own.
    """
    parameters = tables.parameters(tables.ARCHITECTURES[cfg.architecture].build)
    names = [name for name in config.fields_that("network") if name in parameters]
    values = cfg.to_dict()
    settings = [f"{name} {values[name]}" for name in names if name != "in_channels"]
    return ", ".join([cfg.architecture, *settings])


def _scores(source: Any) -> list[str]:
    """Lines with the headline scores of a report, except those of pixels."""
    if source is None:
        return ["No test is reported. The validation Dice above chose the weights: it is too good."]
    report = reports.read(source)
    headlines = [name for name, metric in tables.METRICS.items() if metric.headline]
    rows = report.summary[report.summary["metric"].isin(headlines)]
    numbers = ["value", "low", "high"]
    rows = rows.astype(dict.fromkeys(numbers, float))  # a saved report has null for NaN
    lines = [
        f"{report.about['title']}, grid {report.about['grid']}; "
        "interval: 95 % bootstrap over patients.",
        *_limits_of_the_test(report),
        "",
        "| class | metric | average | value | interval | n |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in rows[rows["average"] != "pixels"].iterrows():
        value = "–" if math.isnan(row["value"]) else f"{row['value']:.3f}"
        interval = "–"
        if not (math.isnan(row["low"]) or math.isnan(row["high"])):
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
        cells = [row["class"], row["metric"], row["average"], value, interval, row["n"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _limits_of_the_test(report: reports.SavedReport) -> list[str]:
    """Sentences on what makes the scores of a report better than those of a test would be."""
    if str(report.about.get("part")).startswith("validation"):
        return ["", "These images chose the weights: the scores are too good, and are no test."]
    if "seen" not in report.per_image:
        return ["", "It is not known whether the network was trained on some of these images."]
    by_case = report.per_image.groupby("case")["seen"].any()
    n_seen = int(by_case.sum())
    if not n_seen:
        return []
    return [
        "",
        f"The network was trained on {n_seen} of these {len(by_case)} images: the scores are too "
        "good, and are no test.",
    ]
