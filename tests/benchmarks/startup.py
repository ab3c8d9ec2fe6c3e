"""From the start of Python: `import seglib`, the seven calls, the first batch and the first
training step.

Each figure is the time of a new process, from its start to the moment that it names.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seglib import config, layouts, phantoms, prepare
from tests.benchmarks.children import ROOT

SEVEN = "from seglib import config, layouts, prepare, data, training, evaluation, inference"
FIRST_BATCH = """
from seglib import config, data, prepare
cfg = config.load({config!r})
batches = data.loaders(prepare.open_store({store!r}), cfg)
next(iter(batches["train"]))
"""
FIRST_STEP = """
from seglib import config, data, prepare, training
cfg = config.load({config!r})
training.fit(cfg, data.loaders(prepare.open_store({store!r}), cfg))
"""
TORCH_STEP = """
import torch
layer = torch.nn.Conv2d(1, 1, 3)
optimizer = torch.optim.Adam(layer.parameters(), fused=True)
layer(torch.zeros(1, 1, 8, 8)).sum().backward()
optimizer.step()
"""
REACHED = "\nimport time; print(time.time())"


def rows(rounds: int = 5) -> list[dict]:
    """All timings of this group."""
    return [*imports(rounds), *[row for size in ("smoke", "small") for row in firsts(size, rounds)]]


def imports(rounds: int) -> list[dict]:
    """Importing the package, and the seven modules of docs/calls.md, beside PyTorch alone."""
    codes = {"import seglib": "import seglib", "import of the seven modules": SEVEN}
    seconds = by_turns({**codes, "torch": "import torch"}, rounds)
    return [
        {
            "task": f"start of Python and {name}",
            "seconds": seconds[name],
            "peer": "import torch alone",
            "peer_seconds": seconds["torch"],
            "rounds": rounds,
        }
        for name in codes
    ]


def firsts(size: str, rounds: int) -> list[dict]:
    """From a prepared store of the lung preset to its first batch, and to the end of a training of
    one step.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = config.preset(
            "lung", size, epochs=1, test_split=0.0, device="cpu", work_dir=folder, num_workers=0
        )
        cfg.val_split = 1 / (cfg.batch_size + 1)
        cfg.data_root = str(phantoms.write("lung", Path(folder) / "phantoms", n=cfg.batch_size + 1))
        store = prepare.build(layouts.scan(cfg), cfg)
        paths = {"config": str(cfg.save(Path(folder) / "lung.json")), "store": str(store.folder)}
        steps = {
            "the first batch": FIRST_BATCH,
            "the end of fit with one step and one validation": FIRST_STEP,
        }
        codes = {what: code.format(**paths) for what, code in steps.items()}
        alone = {
            "import torch alone": "import torch",
            "one step of Adam in PyTorch alone": TORCH_STEP,
        }
        seconds = by_turns({**codes, **alone}, rounds)
    about = f"lung {size}, {cfg.image_size}x{cfg.image_size}, batch {cfg.batch_size}"
    return [
        {
            "task": f"from the start of Python to {what}, {about}",
            "seconds": seconds[what],
            "peer": peer,
            "peer_seconds": seconds[peer],
            "rounds": rounds,
        }
        for what, peer in zip(codes, alone)
    ]


def by_turns(codes: dict[str, str], rounds: int) -> dict[str, float]:
    """Median seconds of each program, after one run that fills the caches of bytecode and files."""
    times: dict[str, list[float]] = {name: [] for name in codes}
    for number in range(rounds + 1):
        for name, code in codes.items():
            seconds = reached(code)
            times[name] += [seconds] if number else []
    return {name: statistics.median(values) for name, values in times.items()}


def reached(code: str) -> float:
    """Seconds from the start of a process to the end of its code; what it does after that is not
    counted.
    """
    environment = {
        **os.environ,
        "SEGLIB_PROGRESS": "0",
        "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code + REACHED],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1]) - begun
