"""Run a function in a process of its own: what it returns, and the memory that this process took at
most.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def call(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """The dict that `tests.benchmarks.<module>.<function>(**arguments)` returns in a new process,
    and the memory of that process: "peak_gb", and "own_gb" at its end without mapped files.

    Everything passes as JSON. The child's errors go to our error stream, its printed lines nowhere.
    """
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.children",
        module,
        function,
        json.dumps(arguments),
    ]
    environment = {**os.environ, "SEGLIB_PROGRESS": "0", "MPLBACKEND": "agg"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory_gb(field: str) -> float:
    """A figure of this process: "VmHWM" is the most memory that it had so far, "RssAnon" what it
    has now without mapped files. (The usual ru_maxrss would count the parent's memory too: a new
    process inherits it.)
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e9


def run(module: str, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a child does."""
    result = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(**arguments)
    return {"peak_gb": memory_gb("VmHWM"), "own_gb": memory_gb("RssAnon"), **result}


if __name__ == "__main__":
    print("\n" + json.dumps(run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
