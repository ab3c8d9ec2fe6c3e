"""Files of strangers: nothing in them is run, and reading them raises no other errors than ours."""

import ast
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from seglib.errors import DataError
from seglib.formats import images, volumes
from tests.helpers import write_series

ROOT = Path(__file__).resolve().parents[1]
# Calls that run code or a shell, or that unpack archives to where their entries say.
FORBIDDEN = {
    "eval",
    "exec",
    "os.system",
    "popen",
    "Popen",
    "check_output",
    "extractall",
    "unpack_archive",
    "unsafe_load",
}
FORBIDDEN_MODULES = {"pickle", "subprocess", "shelve", "marshal"}
# The set-up of a host calls pip with fixed names; it reads no file of a data set.
ALLOWED = {"hosts.py": {"subprocess"}}


def test_no_code_path_runs_what_a_file_says():
    for path in sorted((ROOT / "seglib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                check_call(node, f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                forbidden = FORBIDDEN_MODULES - ALLOWED.get(path.name, set())
                assert not modules & forbidden, f"{path.name} imports {modules}"


def check_call(node, where):
    """Fail where a call can run code that stands in a file."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    owner = getattr(getattr(node.func, "value", None), "id", "")
    arguments = {keyword.arg: keyword.value for keyword in node.keywords}
    if name == "eval":  # a network's evaluation mode takes no argument
        assert not node.args, f"{where} evaluates a text"
    else:
        assert not {name, f"{owner}.{name}"} & FORBIDDEN, f"{where} calls {name}"
    if (owner, name) == ("torch", "load"):
        assert getattr(arguments.get("weights_only"), "value", False) is True, where
    if (owner, name) == ("np", "load"):
        assert "allow_pickle" not in arguments, where


def test_image_bombs_are_refused_before_they_take_memory(tmp_path):
    """A few hundred bytes that promise 60000 x 60000 pixels."""

    def chunk(kind, content):
        return (
            len(content).to_bytes(4, "big")
            + kind
            + content
            + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    header = (60000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert (tmp_path / "bomb.png").stat().st_size < 500
    for read in (images.read_image, lambda path: images.read_mask(str(path))):
        with pytest.raises(DataError, match=r"bomb\.png.*pixels"):
            read(tmp_path / "bomb.png")
    # An X-ray may be large.
    Image.fromarray(np.zeros((4000, 5000), np.uint8)).save(tmp_path / "large.png")
    assert images.read_image(tmp_path / "large.png", 1).shape == (4000, 5000, 1)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("RescaleSlope", "1.x"),
        ("PixelSpacing", ["1"]),
        ("ImagePositionPatient", ["1", "nan", "2"]),
        ("InstanceNumber", "one"),
        ("SOPClassUID", None),
    ],
)
def test_headers_of_a_series_that_hold_no_numbers_are_named(tmp_path, tag, value):
    """Found by the random damages of `tests.fuzz`."""
    files = write_series(tmp_path / "s", np.arange(4 * 5 * 6).reshape(4, 5, 6))
    with pydicom.config.disable_value_validation():
        header = pydicom.dcmread(files[2])
        if value is None:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = ["1.2", "1.3"]
            header.file_meta.MediaStorageSOPInstanceUID = "1.2"
            header.save_as(files[2], enforce_file_format=False)
            assert volumes.read(tmp_path / "s").voxels.shape == (4, 5, 6)
            return
        header.add(pydicom.DataElement(tag, "LO", value))
        header.save_as(files[2])
    with pytest.raises(DataError, match=rf"{Path(files[2]).name}: {tag} is"):
        volumes.read(tmp_path / "s")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_random_damages_end_in_our_errors(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGLIB_PROGRESS": "0"}
    command = [sys.executable, "-m", "tests.fuzz", "8", "3"]
    fuzz = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert fuzz.returncode == 0 and "'refused'" in fuzz.stdout, (
        fuzz.stdout[-3000:] + fuzz.stderr[-2000:]
    )
