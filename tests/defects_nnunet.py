"""What nnU-Net's own check of a data set says to the defects that its format can express.

It is not a part of the tests:

    pip install nnunetv2            # in an environment of its own, beside seglib's requirements
    python -m tests.defects_nnunet

The frames of the cardiac tree become `imagesTr/<frame>_0000.nii.gz` and `labelsTr/<frame>.nii.gz`.
"""

import contextlib
import io
import json
import multiprocessing.dummy
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from seglib import phantoms
from tests.defects import DEFECTS

CLASSES = {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3}


def converted(tree: Path, folder: Path) -> Path:
    """An ACDC tree in the layout of nnU-Net: only names change."""
    files = sorted(f for f in (tree / "training").rglob("*.nii.gz") if not f.name.startswith("."))
    for part, name in (("imagesTr", "{}_0000.nii.gz"), ("labelsTr", "{}.nii.gz")):
        (folder / part).mkdir(parents=True)
        for file in files:
            if ("_gt" in file.name) == (part == "labelsTr"):
                shutil.copy(
                    file,
                    folder
                    / part
                    / name.format(file.name.removesuffix(".nii.gz").removesuffix("_gt")),
                )
    n = len(list((folder / "imagesTr").iterdir()))
    about = {
        "channel_names": {"0": "MRI"},
        "labels": CLASSES,
        "numTraining": n,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def verdict(folder: Path) -> tuple[str, str]:
    """("error", "warning" or "nothing", output) of `verify_dataset_integrity`.

    It runs in threads, because starting processes takes longer.
    """
    from nnunetv2.experiment_planning import verify_dataset_integrity as check

    check.multiprocessing = SimpleNamespace(get_context=lambda method: multiprocessing.dummy)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            check.verify_dataset_integrity(str(folder), 1)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error} {output.getvalue()}"
    return ("warning" if "Warning" in output.getvalue() else "nothing"), output.getvalue()


def main() -> None:
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", tempfile.gettempdir())
    rows = []
    defects = [d for d in DEFECTS if d.preset == "cardiac" and not d.after_scan]
    with tempfile.TemporaryDirectory() as scratch:
        tree = phantoms.write("cardiac", Path(scratch, "tree"), n=3)
        clean, output = verdict(converted(tree, Path(scratch, "clean")))
        assert clean == "nothing", output
        for i, defect in enumerate(defects):
            copy = Path(shutil.copytree(tree, Path(scratch, f"{i}")))
            file = defect.plant(copy)
            theirs, output = verdict(converted(copy, Path(scratch, f"{i}_raw")))
            stem = file.name.removesuffix(".nii.gz").removesuffix("_gt")
            naming = ", names the file" if stem in output else ""
            rows.append((defect.expect, theirs, naming))
            print(f"{defect.name:50} {defect.expect:10} nnU-Net: {theirs}{naming}", flush=True)
    for (ours, theirs, naming), n in sorted(Counter(rows).items()):
        print(f"{n:3} {ours} here, there {theirs}{naming}")


if __name__ == "__main__":
    main()
