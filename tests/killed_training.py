"""Kills trainings at random moments with SIGKILL, resumes them, and compares with one that was
never stopped.

    python -m tests.killed_training FOLDER KILLS WORKERS

Used by `test_interrupted.py`. Trainings are children of one process that has imported everything:
no kill is wasted on importing. Prints a line a kill, and exits with 1 where a weight, a history or
a file differs.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import albumentations
import matplotlib
import pandas as pd
import torch

matplotlib.use("agg")
torch.set_num_threads(
    1
)  # before anything is computed: a forked child must not wait for threads of its parent

from seglib import config, data, layouts, phantoms, prepare, runs, training
from seglib.formats import images


def train(folder: Path, store, cfg) -> None:
    training.fit(
        cfg.replace(work_dir=str(folder)), data.loaders(store, cfg), resume=True, folder=folder
    )


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
    found = {path.name: torch.load(path) for path in sorted(folder.glob("*.pth"))}
    history = pd.read_csv(folder / "history.csv").drop(
        columns=["seconds", "images_per_second", "waiting"]
    )
    assert not list(folder.glob(".*")), f"{folder}: half files {list(folder.glob('.*'))}"
    for path in folder.glob("*.pth"):  # each with the description that belongs to it
        assert runs.describe_weights(path)["weights_sha256"] == images.sha256(path)
    return found, history


def same(first, second) -> bool:
    (one, history), (other, again) = first, second
    weights = one.keys() == other.keys() and all(
        one[name].keys() == other[name].keys()
        and all(torch.equal(one[name][k], other[name][k]) for k in one[name])
        for name in one
    )
    return weights and history.equals(again)


def main(root: Path, kills: int, workers: int) -> int:
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
    expected, wrong, rng = state_of(root / "straight"), 0, random.Random(workers)
    for number in range(kills):
        folder, moment = root / f"run{number}", 0.9 * duration * (number + rng.random()) / kills
        ended = child(folder, store, cfg, moment)
        epochs = 0
        if (folder / runs.LAST).is_file():
            epochs = torch.load(folder / runs.LAST)["state"]["epoch"]
        child(folder, store, cfg)
        alike = same(expected, state_of(folder))
        wrong += not alike
        state = "ended" if ended else f"{epochs} epochs kept"
        outcome = "identical" if alike else "DIFFERENT"
        print(f"killed after {moment:.2f} of {duration:.2f} s, {state}: {outcome}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
