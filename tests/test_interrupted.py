"""Killed processes and full disks: files stay whole, and a resumed run ends with the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "SEGLIB_PROGRESS": "0", "OMP_NUM_THREADS": "1"}


def run(*command):
    """Output of a command in the repository, which must succeed."""
    finished = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout + finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, workers):
    out = run(sys.executable, "-m", "tests.killed_training", str(tmp_path), "3", str(workers))
    assert out.count("identical") == 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills(tmp_path, workers):
    out = run(sys.executable, "-m", "tests.killed_training", str(tmp_path), "20", str(workers))
    assert out.count("identical") == 20 and out.count("epochs kept") >= 10


def test_a_full_disk(tmp_path):
    """On a real file system of 40 MB, mounted in a name space of its own."""
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o size=40m tmpfs '{tmp_path / 'disk'}'"
    try:
        subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("a small file system cannot be mounted here (needs unshare, user name spaces)")
    (tmp_path / "elsewhere").mkdir()
    folders = f"'{tmp_path / 'disk'}' '{tmp_path / 'elsewhere'}'"
    scenes = f"exec '{sys.executable}' -m tests.full_disk {folders}"
    assert run(*namespace, "sh", "-c", f"{mount} && {scenes}").count("nothing lost") == 4
