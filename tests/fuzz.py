"""Randomly damaged files of every kind that is read: a result or an error of ours, nothing else.

    python -m tests.fuzz SECONDS [SEED] [NAME ...]

Valid files are cut, overwritten, spliced and stretched, words and numbers of text files replaced,
and given to the reader of their kind in child processes with limited memory; with NAME only files
whose names hold one of these, such as `labelmap .json`. A failure is an exception that is not a
`SeglibError`, more than 20 seconds, or a crash; memory beyond 2 GB raises an error that the readers
have to turn into theirs. The input of a failure is kept in the folder `fuzz_failures`, and the exit
status is 1.
"""

import contextlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import roifile
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from seglib import annotations, config, files, layouts, phantoms, runs
from seglib.annotations import writers
from seglib.errors import SeglibError
from seglib.files import load_safely
from seglib.formats import (
    channels,
    dicom_pictures,
    dicom_seg,
    images,
    legends,
    mask_pixels,
    segments,
    slicer,
    volumes,
)
from seglib.tables import ANNOTATION_FORMS

BATCH, LIMIT_S, LIMIT_BYTES = 100, 20, 2 << 30
LABELLED = {  # files of labelling tools that we do not write
    "cvat.xml": """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<meta><task><labels><label><name>cell</name><color>#ff0080</color></label></labels></task></meta>
<image id="0" name="grey.png" width="50" height="40"><polygon label="cell" points="2,2;12,2;12,12"
 z_order="0"/><mask label="cell" rle="3, 4, 5" left="11" top="4" width="4" height="3"/>
<ellipse label="cell" cx="24" cy="14" rx="4" ry="2" rotation="30"/></image></annotations>""",
    "qupath.geojson": """{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry":
{"type": "Polygon", "coordinates": [[[1, 1], [30, 1], [30, 30], [1, 30], [1, 1]],
[[5, 5], [9, 5], [9, 9], [5, 5]]]}, "properties": {"objectType": "annotation",
"classification": {"name": "cell", "color": [200, 0, 0]}}}]}""",
    "via.json": """{"grey.png100": {"filename": "grey.png", "size": 100, "regions": [
{"shape_attributes": {"name": "polygon", "all_points_x": [1, 30, 30], "all_points_y": [2, 2, 20]},
"region_attributes": {"class": "cell"}}, {"shape_attributes": {"name": "circle", "cx": 20,
"cy": 20, "r": 6}, "region_attributes": {"class": "rim"}}], "file_attributes": {}}}""",
}

WORD = re.compile(rb'"[^"\n]{0,60}"|-?\d[\d.eE+-]*|\w+')  # of a text file
ODD_WORDS = (  # valid as a value of JSON, or as a word elsewhere
    b"null true [] {} 0 -1 1.5 1e999 -1e308 NaN Infinity 9007199254740993 255 256 [[]] [null]"
    b' "" "a" "0" "\\u0000" "../x" {"a":1} [1,2] ' + b"9" * 400 + b" " + b"[" * 2000
).split()

NAMED = ("background", "cell", "rim")
DATASET = """{"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0,
"cell": 1, "rim": [2, 3], "ignore": 4}, "numTraining": 2, "file_ending": ".png"}"""
LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
cell:255,0,0::
rim:0,255,0:inner,outer:move"""
CLASSES = """Pixel Value, Class
0, background
1, cell
2, rim"""


def readers(folder: Path) -> list[tuple[Path, Callable[[Path], object]]]:
    """Valid files, each with a reader of its kind."""
    cfg = config.preset("lung", "smoke")
    weights = runs.save_weights(folder / "weights.pth", runs.network(cfg), cfg)
    described = weights.with_suffix(".json")
    return [
        *_pictures(folder),
        *_volumes(folder),
        *_settings(folder),
        *_annotations(folder / "annotations"),
        *_lists(folder / "lists"),
        (weights, load_safely),
        (weights, lambda path: runs.load_weights(path, runs.network(cfg))),
        (described, lambda path: runs.describe_weights(path.with_suffix(".pth"))),
    ]


def _pictures(folder: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 50), np.uint8)
    colour = rng.integers(0, 256, (40, 50, 3), np.uint8)
    pictures = {
        "grey.png": Image.fromarray(grey),
        "colour.png": Image.fromarray(colour),
        "photo.jpg": Image.fromarray(colour),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "scan.tif": Image.fromarray(grey),
        "palette.gif": Image.fromarray(colour).quantize(9),
        "mask.bmp": Image.fromarray(grey // 128 * 255),
        "palette.png": Image.fromarray(colour).quantize(5),
        "float.tif": Image.fromarray(grey.astype(np.float32)),
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
        yield folder / name, images.read_image
        yield folder / name, lambda path: mask_pixels.read_mask(str(path))
    calibrated = {"imagej": True, "resolution": (4, 2), "metadata": {"unit": "micron"}}
    tifffile.imwrite(folder / "cells.tif", grey, **calibrated)
    yield folder / "cells.tif", images.pixel_mm


def _volumes(folder: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    heart = phantoms.write("cardiac", folder / "heart", n=1)
    compressed = next(heart.rglob("*.nii.gz"))
    nibabel.save(nibabel.load(compressed), folder / "plain.nii")
    for path in (compressed, folder / "plain.nii"):
        yield path, volumes.read
        yield path, volumes.read_grid
    body = phantoms.write("rsna", folder / "body", n=3)
    for series in sorted({path.parent for path in body.rglob("*.dcm")}):
        yield sorted(series.glob("*.dcm"))[1], lambda path: volumes.read(path.parent)
    yield from _of_slicer_and_dicom(folder, series)


def _of_slicer_and_dicom(
    folder: Path, series: Path
) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """NRRD and MetaImage, a DICOM Segmentation, an RTSTRUCT, and an X-ray."""
    grid = volumes.read_grid(series)
    mask = np.random.default_rng(0).random(grid.shape) > 0.5
    named = [slicer.Segment(1, "liver", (255, 0, 0))]
    for name in ("a.seg.nrrd", "a.mha"):
        path = volumes.write_mask(folder / name, mask.astype(np.uint8), grid, "", named)
        yield path, volumes.read
    yield folder / "a.seg.nrrd", lambda path: segments.read(grid, path, {1: 1})
    seg = dicom_seg.write(folder / "seg.dcm", {"liver": mask}, grid)
    yield seg, lambda path: segments.read(grid, path, {1: 1})
    sample = folder / "rtstruct.dcm"
    sample.write_bytes(Path(get_testdata_file("rtstruct.dcm")).read_bytes())
    yield sample, segments.segments
    yield sample, lambda path: segments.read(grid, path, {1: 1})
    xray = pydicom.dcmread(grid.files[0])
    xray.Modality = "DX"
    xray.save_as(folder / "xray.dcm")
    yield folder / "xray.dcm", dicom_pictures.read


def _settings(folder: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    for suffix in (".json", ".toml", ".cfg"):
        yield config.preset("palm", "small").save(folder / f"config{suffix}"), config.load


def _lists(folder: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """The lists beside masks that name classes and channels, read by a scan of their tree."""
    numbers = np.arange(1200, dtype=np.uint8).reshape(30, 40) % 3
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[numbers]
    for name, (content, mask) in {
        "dataset.json": (DATASET, numbers),
        "labelmap.txt": (LABELMAP, colours),
        "_classes.csv": (CLASSES, numbers),
    }.items():
        root = folder / name.strip("_").split(".")[0]
        for case in ("a", "b"):
            images.write_png(root / "images" / f"{case}.png", colours)
            images.write_png(root / "masks" / f"{case}.png", mask)
        files.write_text(root / name, content)
        yield root / name, _named_by_list


def _named_by_list(path: Path) -> None:
    """Everything that reads a list: the scan, and the messages that quote it."""
    labels = path.parent / "masks" / "a.png"
    work = str(path.parent / "work")
    with contextlib.redirect_stdout(None):
        for preset, classes in (("binary", {}), ("rsna", {"class_names": NAMED})):
            cfg = config.preset(preset, "smoke", data_root=str(path.parent), work_dir=work)
            with contextlib.suppress(SeglibError):
                layouts.scan(cfg.replace(**classes))
    for read in (channels.names_beside, legends.of_data_set, legends.colour_advice):
        read(labels)
    legends.numbers_advice(labels)


def _annotations(folder: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """A file of each labelling tool; what is read is drawn as well."""
    mask = np.hypot(*np.mgrid[-20:20, -25:25]) % 9 < 6
    for form in ANNOTATION_FORMS:
        writer = writers.writer(form, folder / form, ("cell", "rim"))
        writer.add("grey.png", {"cell": mask, "rim": ~mask})
        writer.save()
        yield next((folder / form).iterdir()), _draw
    for name, content in LABELLED.items():
        files.write_text(folder / name, content)
        yield folder / name, _draw
    outline = np.array([[3, 3], [20, 5], [11, 30]])
    roifile.ImagejRoi.frompoints(outline, name="cell-1").tofile(folder / "cell.roi")
    yield folder / "cell.roi", _draw
    with zipfile.ZipFile(folder / "rois.zip", "w") as archive:
        archive.write(folder / "cell.roi", "cell-1.roi")
    yield folder / "rois.zip", _draw
    yolo = folder / "yolo"
    files.write_text(yolo / "labels" / "grey.txt", "0 0.1 0.1 0.5 0.2 0.3 0.9")
    files.write_text(yolo / "data.yaml", "names: {0: cell, 1: rim}")
    yield yolo / "labels" / "grey.txt", lambda path: _draw(path.parents[1])
    yield yolo / "data.yaml", lambda path: _draw(path.parent)


def _draw(path: Path) -> None:
    result = annotations.read(path)
    for image in result.images[:20]:
        annotations.draw(image, 40, 50, ("cell", "rim"), "multilabel")


def reworded(content: bytes, rng: random.Random) -> bytes:
    """One to three words or numbers of a text replaced, so that most of its syntax stays valid."""
    for _ in range(rng.randint(1, 3)):
        words = list(WORD.finditer(content))
        if words:
            word = rng.choice(words)
            other = rng.choice([rng.choice(ODD_WORDS), rng.choice(words).group()])
            content = content[: word.start()] + other + content[word.end() :]
    return content


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three damages, most of them in the header, where they matter most."""
    if b"\0" not in content and rng.random() < 0.5:
        return reworded(content, rng)
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        reach = len(data) if rng.random() < 0.4 else min(len(data), 600)
        at = rng.randrange(reach)
        kind = rng.choice(["flip", "bytes", "number", "cut", "drop", "repeat", "splice"])
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            data[at : at + rng.randint(1, 16)] = rng.randbytes(rng.randint(1, 16))
        elif kind == "number":  # lengths and sizes that are too large, zero or negative
            data[at : at + 4] = rng.choice(
                [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff\x7f\0\0"]
            )
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + rng.randint(1, 64)]
        elif kind == "repeat":
            data[at:at] = data[at : at + rng.randint(1, 64)] * rng.randint(1, 50)
        else:
            other = rng.randrange(len(data))
            data[at : at + 32] = data[other : other + 32]
    return bytes(data)


def batch(numbers: range, sources, seed: int, results: Path) -> None:
    """In the child process: read damaged files and write a line for each into `results`.

    After a crash the last line is incomplete.
    """
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, used + LIMIT_BYTES))

    def too_long(*_):
        raise TimeoutError(f"longer than {LIMIT_S} s")

    signal.signal(signal.SIGALRM, too_long)
    with open(results, "w") as lines:
        for number in numbers:
            path, read = sources[number % len(sources)]
            whole = path.read_bytes()
            path.write_bytes(damaged(whole, random.Random(f"{seed} {number}")))
            print(number, end=" ", file=lines, flush=True)
            print(outcome_of(path, read), file=lines, flush=True)
            path.write_bytes(whole)


def outcome_of(path: Path, read: Callable[[Path], object]) -> str:
    """What reading a damaged file ends in: "read", "refused...", or "FAILED..."."""
    signal.alarm(LIMIT_S)
    begun = time.monotonic()
    try:
        read(path)
        outcome = "read"
    except SeglibError as error:
        named = path.name.split(".")[0] in str(error)
        outcome = "refused" if named else "refused without a name"
    except BaseException as error:
        trace = traceback.format_exc()[-300:]
        outcome = f"FAILED {type(error).__name__}: {str(error)[:200]!r} {trace!r}"
    signal.alarm(0)
    seconds = time.monotonic() - begun
    if seconds >= LIMIT_S:  # a reader may have taken the alarm for an error of the file
        outcome = f"FAILED {seconds:.0f} s"
    return outcome


def in_child(numbers: range, sources, seed: int, results: Path) -> list[str]:
    """The lines of `batch`, run in a child process; a crash becomes a failure of its last line."""
    pid = os.fork()
    if not pid:
        try:
            batch(numbers, sources, seed, results)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    lines = results.read_text().splitlines()
    if os.WIFSIGNALED(status):
        lines[-1] += f"FAILED crash by signal {os.WTERMSIG(status)}"
    return lines


def main(seconds: float, seed: int, names: list[str]) -> int:
    begun, outcomes, failures, number = time.monotonic(), Counter(), [], 0
    failure_folder = Path("fuzz_failures")
    with tempfile.TemporaryDirectory() as folder:
        sources = [
            (path, read)
            for path, read in readers(Path(folder))
            if not names or any(name in path.name for name in names)
        ]
        originals = {path: path.read_bytes() for path, _ in sources}
        while time.monotonic() - begun < seconds:
            numbers = range(number, number + BATCH)
            lines = in_child(numbers, sources, seed, Path(folder) / "results.txt")
            for line in lines:
                which, _, outcome = line.partition(" ")
                if not outcome.startswith("FAILED"):
                    outcomes[outcome] += 1
                    continue
                outcomes[outcome.split()[0]] += 1
                path = sources[int(which) % len(sources)][0]
                failures.append(f"{path.name}, number {which}, seed {seed}: {outcome}")
                failure_folder.mkdir(exist_ok=True)
                content = damaged(originals[path], random.Random(f"{seed} {which}"))
                (failure_folder / f"{which}_{path.name}").write_bytes(content)
            for path, content in originals.items():  # a crash leaves the damaged one
                path.write_bytes(content)
            number += len(lines)
    passed = time.monotonic() - begun
    print(f"{number} damaged files of {len(sources)} kinds in {passed:.0f} s: {dict(outcomes)}")
    print("\n".join(failures[:12]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int((sys.argv[2:] or [0])[0]), sys.argv[3:]))
