"""Killed processes and full disks: files stay whole, and a resumed run ends with the same bits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "SEGLIB_PROGRESS": "0", "OMP_NUM_THREADS": "1"}


def run(*words):
    """Output of a command in the repository, which must succeed."""
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


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
    own = ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o size=40m tmpfs '{tmp_path / 'disk'}'"
    if (
        not shutil.which("unshare")
        or subprocess.run([*own, "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip(
            "a small file system cannot be mounted here (needs unshare and user name spaces)"
        )
    (tmp_path / "elsewhere").mkdir()
    words = (
        f"'{sys.executable}' -m tests.full_disk '{tmp_path / 'disk'}' '{tmp_path / 'elsewhere'}'"
    )
    assert run(*own, "sh", "-c", f"{mount} && exec {words}").count("nothing lost") == 4
