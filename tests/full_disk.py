"""What a full disk does to each kind of writing; run inside a small file system by
`test_interrupted.py`.

    python -m tests.full_disk DISK ELSEWHERE

DISK is an empty folder on a file system of about 40 MB.

Each scene leaves a little room on DISK, runs until it fails, and checks that the error says so,
that nothing made before is lost, and that every file under a final name is whole. Prints a line a
scene.
"""

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import torch
from PIL import Image

matplotlib.use("agg")
from seglib import config, data, evaluation, layouts, phantoms, prepare, runs, training
from seglib.errors import DataError
from seglib.formats import images
from seglib.inference import Predictor
from tests.helpers import same_weights


@contextmanager
def nearly_full(disk: Path, left: int):
    """Ballast on the disk, so that about `left` bytes are free."""
    with open(disk / "ballast", "wb") as ballast:
        ballast.write(bytes(max(0, shutil.disk_usage(disk).free - left)))
    try:
        yield
    finally:
        (disk / "ballast").unlink()


def fails(action) -> str:
    try:
        action()
    except DataError as error:
        return str(error)
    raise AssertionError("there was room enough: the scene shows nothing")


def whole(folder: Path) -> list[str]:
    """Names of the files below a folder, each opened to its end; none of them is temporary."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        assert not path.name.startswith("."), path
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".pth", ".ckpt"):
            torch.load(path)
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        elif path.suffix == ".gz":
            np.asarray(nibabel.load(path).dataobj)
    return [path.name for path in paths]


def store(disk: Path, cfg) -> None:
    large = cfg.replace(work_dir=str(disk / "stores_here"), image_size=512)
    with nearly_full(disk, 3_000_000):
        assert "no room for the store" in fails(lambda: prepare.build(layouts.scan(large), large))
        assert not whole(disk / "stores_here")
    assert len(prepare.build(layouts.scan(large), large).cases) == 16
    shutil.rmtree(disk / "stores_here")


def checkpoint(disk: Path, cfg, batches, straight) -> None:
    save = training.saving.save

    def save_on_a_full_disk(session) -> None:
        if session.state.epoch < 3:
            return save(session)
        with nearly_full(disk, 60_000):
            save(session)

    training.saving.save = save_on_a_full_disk
    message = fails(lambda: training.fit(cfg, batches, folder=disk / "run"))
    training.saving.save = save
    assert "the disk is full" in message
    assert {"best_model.pth", "last.ckpt", "history.csv"} <= set(whole(disk / "run"))
    run = training.fit(cfg, batches, folder=disk / "run", resume=True)
    assert same_weights(*(torch.load(r.folder / "final_model.pth") for r in (run, straight)))


def report(disk: Path, batches, straight) -> None:
    scores = evaluation.evaluate(straight, batches["val"])
    with nearly_full(disk, 100_000):
        assert "the disk is full" in fails(lambda: scores.save(disk / "report"))
        written = whole(disk / "report")
        assert "evaluation_report.txt" in written and "report.html" not in written
    scores.save(disk / "report")
    assert "report.html" in whole(disk / "report")


def predictions(disk: Path, elsewhere: Path, straight) -> None:
    predictor, rng = Predictor.load(straight.best, "cpu", "fp32"), np.random.default_rng(0)
    for number in range(12):
        noise = rng.integers(0, 256, (200, 200, 3), np.uint8)
        images.write_png(elsewhere / "pictures" / f"{number:02d}.png", noise)
    scan = nibabel.Nifti1Image(rng.integers(0, 900, (64, 64, 40), np.int16), np.diag([1, 1, 3, 1]))
    nibabel.save(scan, elsewhere / "scan.nii")
    with nearly_full(disk, 400_000):
        pictures, masks = elsewhere / "pictures", disk / "masks"
        message = fails(lambda: predictor.predict_folder(pictures, masks, overlay=True))
        assert "the disk is full" in message and 0 < len(whole(disk / "masks")) < 24
    with nearly_full(disk, 100):
        message = fails(lambda: predictor.predict_volume(elsewhere / "scan.nii", disk / "volume"))
        assert "the disk is full" in message and not whole(disk / "volume")


def main(disk: Path, elsewhere: Path) -> None:
    tree = phantoms.write("lung", elsewhere / "tree", n=16, seed=0)
    cfg = config.preset(
        "lung",
        "smoke",
        data_root=str(tree),
        work_dir=str(elsewhere),
        test_split=0,
        epochs=4,
        base_channels=8,
        precision="fp32",
        device="cpu",
        save_every=1,
        num_workers=0,
    )
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    straight = training.fit(cfg, batches)
    for scene, arguments in (
        (store, (cfg,)),
        (checkpoint, (cfg, batches, straight)),
        (report, (batches, straight)),
        (predictions, (elsewhere, straight)),
    ):
        scene(disk, *arguments)
        print(f"{scene.__name__}: nothing lost, nothing half written")
    assert runs.Run.load(disk / "run").best.is_file()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
