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
    "--preset lung --size smoke --test_split 0 --val_split 4 --epochs 5 --batch_size 2 --device cpu --precision fp32 "
    "--scheduler onecycle --loss combined --base_channels 4 --num_workers 0 --lr 0.01 --save_every 1"
).split()
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29653", "-m"],
    "accelerate": [
        "accelerate.commands.launch",
        "--cpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
    ],  # on CPUs it begins one process
}


def train(folder, tree, launcher=None, *more):
    words = [sys.executable, "-m", *LAUNCHERS.get(launcher, []), "seglib", "train", *COMMON]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "SEGLIB_PROGRESS": "0",
        "PYTHONPATH": str(ROOT),
    }
    words += ["--data_dir", str(tree), "--work_dir", str(folder), *more]
    return subprocess.run(
        words, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder, tree and history of one process that accumulates two micro-batches, for twenty updates."""
    folder = tmp_path_factory.mktemp("processes")
    tree = phantoms.write("lung", folder / "tree", n=20, seed=0)
    done = train(folder / "alone", tree, None, "--accumulate", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, tree, pd.read_csv(folder / "alone" / "lung" / "history.csv")


@pytest.mark.parametrize(("launcher", "accumulate"), [("torchrun", "1"), ("accelerate", "2")])
def test_two_processes_are_one_that_accumulates(alone, launcher, accumulate):
    folder, tree, history = alone
    done = train(folder / launcher, tree, launcher, "--accumulate", accumulate)
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / launcher / "lung"
    found = pd.read_csv(run / "history.csv")
    for name in ("train_loss", "grad_norm", "lr"):
        assert found[name].tolist() == pytest.approx(history[name].tolist(), rel=1e-5), name
    one, other = (torch.load(path / "final_model.pth") for path in (folder / "alone" / "lung", run))
    for name, tensor in one.items():
        if not name.endswith(
            ("running_mean", "running_var", "num_batches_tracked")
        ):  # averaged, not seen in turn
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)
    assert (
        done.stdout.count("best weights:") == done.stdout.count("images read") == 1
    )  # one process speaks
    assert sorted(p.name for p in run.parent.iterdir()) == ["lung", "stores"] and not list(
        run.glob(".*")
    )
    assert len(list((run.parent / "stores").iterdir())) == 1
    assert json.loads((run / "run.json").read_text())["images"] == {
        "train": 16,
        "val": 4,
        "test": 0,
    }


def test_two_processes_resume(alone):
    folder, tree, _ = alone
    straight = folder / "torchrun" / "lung"
    assert straight.is_dir()
    whole = torch.load(straight / "last.ckpt")
    cut = folder / "cut" / "lung"
    cut.mkdir(parents=True)
    torch.save(
        torch.load(straight / "before.ckpt"), cut / "last.ckpt"
    )  # as killed after the last epoch but one
    done = train(folder / "cut", tree, "torchrun", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    again = torch.load(cut / "last.ckpt")
    assert again["state"]["epoch"] == whole["state"]["epoch"] == 5
    assert all(torch.equal(again["model"][name], whole["model"][name]) for name in whole["model"])


def test_a_loss_that_is_no_number_stops_all_and_only_its_process_names_cases(alone, tmp_path):
    folder, tree, _ = alone
    script = tmp_path / "poisoned.py"
    script.write_text(
        "import os, sys\n"
        "from seglib import losses\n"
        "from seglib.__main__ import main\n"
        "original, steps = losses.build, []\n"
        "def build(*fields):\n"
        "    loss = original(*fields)\n"
        "    forward = loss.forward\n"
        "    def poison(*given):\n"
        "        steps.append(1)\n"
        "        return forward(*given) * (float('nan') if os.environ['RANK'] == '1' and len(steps) == 2 else 1)\n"
        "    loss.forward = poison\n"
        "    return loss\n"
        "losses.build = build\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    words = [sys.executable, "-m", *LAUNCHERS["torchrun"][:-1], str(script), *COMMON]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "SEGLIB_PROGRESS": "0",
        "PYTHONPATH": str(ROOT),
    }
    words += ["--data_dir", str(tree), "--work_dir", str(tmp_path / "runs")]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0
    assert done.stderr.count("the loss is nan in epoch 1, step 2, cases ") == 1, done.stderr[-2000:]
    assert done.stderr.count("epoch 1, step 2; another process names the cases") == 1
