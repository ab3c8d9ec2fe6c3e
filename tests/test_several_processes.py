"""Training by several processes: as one that accumulates, written once, and stopped together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from seglib import phantoms

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "--preset lung --size smoke --test_split 0 --val_split 4 --epochs 5 --batch_size 2 "
    "--device cpu --precision fp32 --num_workers 0 --scheduler onecycle --lr 0.01 "
    "--loss combined --base_channels 4 --save_every 1"
).split()
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    # On CPUs it starts one process.
    "accelerate": (
        "accelerate.commands.launch --cpu --num_machines 1 --mixed_precision no "
        "--dynamo_backend no -m"
    ).split(),
}

# The command `train`, whose combined loss is NaN in one step of one process, or of `all`.
POISONED = """
import os, sys
from seglib import losses, tables
from seglib.__main__ import main

class Poisoned(losses.WeightedSum):
    step = 0

    def __init__(self):
        super().__init__(losses.MaskedBCE(), losses.DiceLoss())

    def forward(self, *batch, **options):
        self.step += 1
        rank, step = os.environ["POISON"].split()
        bad = rank in ("all", os.environ["RANK"]) and self.step == int(step)
        return super().forward(*batch, **options) * (float("nan") if bad else 1)

tables.LOSSES["combined"] = tables.Loss(Poisoned, ("binary",))
sys.exit(main(["train", *sys.argv[1:]]))
"""


def train(folder, tree, launcher=None, *options, poison=None):
    """Run `train` in a process of its own, or in those of a launcher.

    Args:
        poison: a process and a step, "1 2", in which the loss is NaN.
    """
    command = [sys.executable, "-m", *LAUNCHERS.get(launcher, []), "seglib", "train"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "SEGLIB_PROGRESS": "0",
        "PYTHONPATH": str(ROOT),
    }
    if poison:
        script = folder.parent / "poisoned.py"
        script.write_text(POISONED)
        command = [sys.executable, "-m", *LAUNCHERS[launcher][:-1], str(script)]
        environment["POISON"] = poison
    command += [*COMMON, "--data_dir", str(tree), "--work_dir", str(folder), *options]
    return subprocess.run(
        command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder, tree and history of one process that accumulates two micro-batches, in 20 updates."""
    folder = tmp_path_factory.mktemp("processes")
    tree = phantoms.write("lung", folder / "tree", n=20, seed=0)
    finished = train(folder / "alone", tree, None, "--accumulate", "2")
    assert finished.returncode == 0, finished.stderr[-2000:]
    return folder, tree, pd.read_csv(folder / "alone" / "lung" / "history.csv")


@pytest.fixture(scope="module")
def together(alone):
    """The finished `train` of two processes, and its run folder."""
    folder, tree, _ = alone
    finished = train(folder / "together", tree, "torchrun", "--accumulate", "1")
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished, folder / "together" / "lung"


def assert_is_alone(alone, run):
    """The run has the history and weights of the one process that accumulates."""
    folder, _, expected = alone
    history = pd.read_csv(run / "history.csv")
    for name in ("train_loss", "grad_norm", "lr"):
        assert history[name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-5), name
    one = torch.load(folder / "alone" / "lung" / "final_model.pth")
    other = torch.load(run / "final_model.pth")
    for name, tensor in one.items():
        # Running means are averaged over processes, not updated in turn.
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


def test_two_processes_are_one_that_accumulates(alone, together):
    finished, run = together
    assert_is_alone(alone, run)
    for line in ("best weights:", "images read"):
        assert finished.stdout.count(line) == 1  # one process speaks
    assert sorted(path.name for path in run.parent.iterdir()) == ["lung", "stores"]
    assert not list(run.glob(".*"))
    assert len(list((run.parent / "stores").iterdir())) == 1
    info = json.loads((run / "run.json").read_text())
    assert info["images"] == {"train": 16, "val": 4, "test": 0}


def test_accelerate_launch_trains_too(alone):
    folder, tree, _ = alone
    finished = train(folder / "launched", tree, "accelerate", "--accumulate", "2")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert_is_alone(alone, folder / "launched" / "lung")


def test_two_processes_resume(alone, together):
    """A run that fails in its fifth epoch; an epoch is four steps and one of validation."""
    folder, tree, _ = alone
    failed = train(folder / "cut", tree, "torchrun", poison="all 21")
    assert failed.returncode != 0 and "epoch 5, step 1" in failed.stderr
    resumed = train(folder / "cut", tree, "torchrun", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    straight = torch.load(together[1] / "last.ckpt")
    again = torch.load(folder / "cut" / "lung" / "last.ckpt")
    assert again["state"]["epoch"] == straight["state"]["epoch"] == 5
    for name, value in straight["model"].items():
        assert torch.equal(again["model"][name], value), name


def test_a_loss_that_is_no_number_stops_all_and_only_its_process_names_cases(alone, tmp_path):
    _, tree, _ = alone
    failed = train(tmp_path / "runs", tree, "torchrun", poison="1 2")
    assert failed.returncode != 0
    message = "the loss is nan in epoch 1, step 2, cases "
    assert failed.stderr.count(message) == 1, failed.stderr[-2000:]
    assert failed.stderr.count("epoch 1, step 2; another process names the cases") == 1
