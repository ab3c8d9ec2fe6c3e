"""The commands that list and publish networks: zoo, export."""

import argparse
from pathlib import Path

from . import parts


def zoo(args: argparse.Namespace) -> None:
    """List the networks that --model takes by a name; with NAME the model card of one."""
    from .. import export, zoo

    if args.name:
        print(export.card_of(args.name))
        return
    networks = zoo.listing()
    if networks.empty:
        print(f"no networks in {' or '.join(map(str, zoo.folders()))}; make zoo trains some")
        return
    print(networks.to_string(index=False))
    print("next: python -m seglib predict --model NAME --image_path FILE")
    print("model card of a network: python -m seglib zoo NAME")


def export(args: argparse.Namespace) -> None:
    """Write weights as ONNX and torch.export, each checked against PyTorch; a folder for Kaggle."""
    from .. import export, inference

    predictor = inference.Predictor.load(
        args.model_path or parts.find_weights("best*.pth"), device="cpu", precision="fp32"
    )
    folder = Path(args.output_dir)
    print(f"weights: {', '.join(map(str, predictor.files))}")
    if args.kaggle:
        export.file_of(predictor)  # refuses the mean of several networks at once
    name = predictor.weights.stem if predictor.weights else "ensemble"
    for write, suffix in ((export.to_onnx, ".onnx"), (export.to_program, ".pt2")):
        exported = write(predictor, folder / f"{name}{suffix}")
        print(
            f"{exported.path}: {exported.megabytes:.1f} MB, "
            f"{exported.ms:.1f} ms an image (PyTorch {exported.torch_ms:.1f} ms), "
            f"differs by at most {exported.difference:.1e}"
        )
    if args.kaggle:
        weights = export.file_of(predictor)
        title = args.title or f"seglib {weights.parent.name}"
        report = args.report or export.report_of(weights)
        data_set = export.kaggle_folder(weights, folder / "kaggle", args.kaggle, title, report)
        none = "none, as no report of evaluate on these weights was found; --report DIR names one"
        print(f"scores on the model card: {report or none}")
        print(f"{data_set}: next  kaggle datasets create -p {data_set}")
