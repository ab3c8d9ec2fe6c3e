"""Files of strangers: nothing in them is run, and reading them raises no other errors than ours."""

import ast
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from seglib import annotations
from seglib.errors import DataError
from seglib.files import write_text
from seglib.formats import images, mask_pixels, volumes
from tests.helpers import error_of, write_picture, write_series

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
ALLOWED = {"hosts/__init__.py": {"subprocess"}}


def test_no_code_path_runs_what_a_file_says():
    for path in sorted((ROOT / "seglib").rglob("*.py")):
        name = path.relative_to(ROOT / "seglib").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                check_call(node, f"{name}:{node.lineno}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                forbidden = FORBIDDEN_MODULES - ALLOWED.get(name, set())
                assert not modules & forbidden, f"{name} imports {modules}"


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
    for read in (images.read_image, lambda path: mask_pixels.read_mask(str(path))):
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


def coco_file(folder, *outlines, image="a.png", sides=(40, 50)):
    """A COCO file with one image and an annotation for each segmentation."""
    document = {
        "images": [{"id": 1, "file_name": image, "height": sides[0], "width": sides[1]}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "segmentation": outline}
            for number, outline in enumerate(outlines)
        ],
    }
    return write_text(folder / "annotations.json", json.dumps(document))


def drawn(path, sides=(40, 50)):
    (image,) = annotations.read(path).images
    return annotations.draw(image, *sides, ("cell",), "binary")


@pytest.mark.parametrize("runs", [[2**62] * 4 + [2000], [2**62] * 4 + [1000, 1000], [2**40, 5]])
def test_run_lengths_whose_sum_overflows_are_refused(tmp_path, runs):
    """Four times 2**62 is 0 in 64 bits, so that the sum is right."""
    path = coco_file(tmp_path, {"size": [40, 50], "counts": runs})
    with pytest.raises(DataError, match=rf"annotations.json: .*runs of {sum(runs)} pixels"):
        drawn(path)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1e16", "2.5", "true"])
def test_sizes_that_are_no_whole_numbers_are_refused(tmp_path, number):
    """Found by the random damages of `tests.fuzz`: Python reads 1e999 as infinity."""
    path = coco_file(tmp_path, [[5, 5, 20, 5, 20, 20]])
    path.write_text(path.read_text().replace('"height": 40', f'"height": {number}'))
    with pytest.raises(DataError, match=r"annotations.json.*height.*expected a whole number"):
        drawn(path)


def test_outlines_take_memory_of_the_image_and_not_of_their_size(tmp_path):
    """One outline a million pixels wide, one of 20000 corners, and 2000 small ones."""
    rng = np.random.default_rng(0)
    around = [-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6]
    tangled = rng.uniform(0, 40, 40_000).tolist()
    small = [[rng.uniform(0, 40, 6).round(1).tolist()] for _ in range(2000)]
    assert drawn(coco_file(tmp_path, [around])).all()
    path = coco_file(tmp_path, [tangled], *small)
    tracemalloc.start()
    assert drawn(path).any()
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()


def test_names_in_annotation_files_lead_to_no_other_folder(tmp_path, capsys):
    """What a file calls its image is compared with the images there are, and never opened."""
    write_picture(tmp_path / "secret.png", np.full((40, 50), 9))
    write_picture(tmp_path / "in" / "b.png", np.full((40, 50), 9))
    square = [[5, 5, 20, 5, 20, 20, 5, 20]]
    for image in ("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png"):
        path = coco_file(tmp_path, square, image=image)
        line = f"prepare --source_images {tmp_path}/in --annotations {path} --output {tmp_path}/out"
        assert "secret.png" in error_of(capsys, line)
        written = [file.name for file in tmp_path.rglob("*.png")]
        assert written.count("secret.png") == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_random_damages_end_in_our_errors(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGLIB_PROGRESS": "0"}
    command = [sys.executable, "-m", "tests.fuzz", "8", "3"]
    fuzz = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert fuzz.returncode == 0 and "'refused'" in fuzz.stdout, (
        fuzz.stdout[-3000:] + fuzz.stderr[-2000:]
    )
