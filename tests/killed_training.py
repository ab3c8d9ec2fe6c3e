"""Kills trainings at random moments with SIGKILL, resumes them, and compares them with one that
was never stopped.

    python -m tests.killed_training FOLDER KILLS WORKERS

Used by `test_interrupted.py`. Trainings are children of one process that has imported everything:
no kill is wasted on importing. Prints a line a kill, and exits with 1 where a weight, a history or
a file differs.
"""

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import matplotlib
import pandas as pd
import torch

matplotlib.use("agg")

from seglib import config, data, layouts, phantoms, prepare, runs, training
from seglib.formats import images
from tests.helpers import same_weights


def train(folder: Path, store, cfg) -> None:
    cfg = cfg.replace(work_dir=str(folder))
    training.fit(cfg, data.loaders(store, cfg), resume=True, folder=folder)


def child(folder: Path, store, cfg, seconds: float | None = None) -> bool:
    """Train in a child process; with `seconds`, kill it then. True where it came to its end."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            train(folder, store, cfg)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"{folder}: the training failed by itself")
    return os.WIFEXITED(status)


def state_of(folder: Path) -> tuple[dict, pd.DataFrame]:
    """Weights of all files of a finished run, and its history without times."""
    weights = {path.name: torch.load(path) for path in sorted(folder.glob("*.pth"))}
    history = pd.read_csv(folder / "history.csv")
    history = history.drop(columns=["seconds", "images_per_second", "waiting"])
    assert not list(folder.glob(".*")), f"{folder}: half files {list(folder.glob('.*'))}"
    for path in folder.glob("*.pth"):  # each with the description that belongs to it
        assert runs.describe_weights(path)["weights_sha256"] == images.sha256(path)
    return weights, history


def is_same(first, second) -> bool:
    """Whether two results of `state_of` are equal to the last bit."""
    (weights, history), (other_weights, other_history) = first, second
    if weights.keys() != other_weights.keys() or not history.equals(other_history):
        return False
    return all(same_weights(weights[name], other_weights[name]) for name in weights)


def main(root: Path, kills: int, workers: int) -> int:
    # Before anything is computed: a forked child must not wait for threads of its parent.
    torch.set_num_threads(1)
    importlib.import_module("albumentations")  # which a training imports late
    tree = phantoms.write("lung", root / "tree", n=20, seed=0)
    cfg = config.preset(
        "lung",
        "smoke",
        data_root=str(tree),
        work_dir=str(root),
        test_split=0,
        epochs=20,
        batch_size=4,
        save_every=5,
        scheduler="onecycle",
        augment={"hflip": 0.5, "rotate": {"limit": 20, "p": 0.8}},
        num_workers=workers,
        precision="fp32",
        device="cpu",
        optimizer="adamw",
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    for name in ("warm", "straight"):  # the first one is slower
        begun = time.perf_counter()
        child(root / name, store, cfg)
        duration = time.perf_counter() - begun
    expected = state_of(root / "straight")
    n_different, rng = 0, random.Random(workers)
    for number in range(kills):
        folder = root / f"run{number}"
        moment = 0.9 * duration * (number + rng.random()) / kills
        ended = child(folder, store, cfg, moment)
        last = folder / runs.LAST
        epoch = torch.load(last)["state"]["epoch"] if last.is_file() else 0
        child(folder, store, cfg)
        identical = is_same(expected, state_of(folder))
        n_different += not identical
        print(
            f"killed after {moment:.2f} of {duration:.2f} s, "
            f"{'ended' if ended else f'{epoch} epochs kept'}: "
            f"{'identical' if identical else 'DIFFERENT'}"
        )
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
