"""Killed processes and full disks: what was made stays, and a resumed run ends with the same bits."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seglib import files
from seglib.errors import DataError

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


def test_a_file_is_whole_or_not_there(tmp_path):
    path, before = tmp_path / "deep" / "a.txt", tmp_path / "deep" / "before.txt"
    files.write_text(path, "first")
    with pytest.raises(KeyError), files.replacing(path) as partial:
        partial.write_text("half")
        raise KeyError("in the middle")
    assert path.read_text() == "first\n" and os.listdir(path.parent) == ["a.txt"]
    with files.replacing(path, before) as partial:
        partial.write_text("second")
    assert (path.read_text(), before.read_text()) == ("second", "first\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named(tmp_path, number):
    with pytest.raises(DataError, match=r"a\.txt: not written, the disk is full .* MB free"):
        with files.replacing(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError(number, os.strerror(number))
    assert not os.listdir(tmp_path)
    with pytest.raises(PermissionError), files.replacing(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "another reason stays what it is")
