"""Run a function in a process of its own: what it returns, and the memory that this process took at most."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def call(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """The dict that `tests.benchmarks.<module>.<function>(**arguments)` returns in a new process, and "peak_gb".

    Everything passes as JSON. The child's errors go to our error stream, its printed lines nowhere.
    """
    command = [sys.executable, "-m", "tests.benchmarks.children", module, function, json.dumps(arguments)]
    environment = {**os.environ, "SEGLIB_PROGRESS": "0", "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_gb() -> float:
    """The most memory that this process had so far. The kernel's ru_maxrss would count the parent's memory too: a new
    process inherits it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


if __name__ == "__main__":
    module, function, arguments = sys.argv[1:]
    found = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(**json.loads(arguments))
    print("\n" + json.dumps({"peak_gb": peak_gb(), **found}))
