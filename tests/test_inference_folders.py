"""Folders: every picture and volume is predicted, whatever lies beside it."""

import os

import nibabel
import numpy as np
import pytest
from PIL import Image

from seglib.errors import DataError
from seglib.formats import images
from tests.predictors import GREY, ellipse, load


def test_a_corrupt_file_stops_nothing(bright_weights, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png", "d.png"):
        images.write_png(folder / name, GREY)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "c.JPG").write_text("no picture")
    (folder / "notes.txt").write_text("left alone")
    result = load(bright_weights()).predict_folder(folder, out, overlay=True)
    assert result["done"] == ["a.png", "d.png"] and sorted(result["failed"]) == ["b.png", "c.JPG"]
    assert all(str(folder / name) in reason for name, reason in result["failed"].items())
    assert sorted(p.name for p in out.iterdir()) == [
        f"{s}_{k}.png" for s in "ad" for k in ("mask", "overlay")
    ]


def test_pictures_of_one_stem_do_not_overwrite_one_another(bright_weights, tmp_path):
    """a.png and a.bmp are two pictures: two masks, or one of them is reported."""
    images.write_png(tmp_path / "in" / "a.png", ellipse(40, 40)[0])
    Image.fromarray(ellipse(50, 50)[0]).save(tmp_path / "in" / "a.bmp")
    result = load(bright_weights()).predict_folder(tmp_path / "in", tmp_path / "out")
    assert len(result["done"]) + len(result["failed"]) == 2
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(result["done"])


def test_a_folder_is_predicted_as_its_files_are(bright_weights, tmp_path):
    """More pictures than are read ahead, a volume, panels and overlays: as file by file."""
    rng, folder = np.random.default_rng(5), tmp_path / "in"
    for number in range(12):
        images.write_png(
            folder / f"{number:02d}.png", rng.integers(0, 256, (40, 30 + number), np.uint8)
        )
    volume = rng.integers(0, 900, (30, 28, 5), np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2, 2, 8, 1])), folder / "05b.nii.gz")
    predictor = load(bright_weights())
    result = predictor.predict_folder(
        folder, tmp_path / "all", overlay=True, panels=True, probability=True
    )
    assert not result["failed"] and result["done"] == sorted(os.listdir(folder))
    assert result["millilitres"] == {
        "05b.nii.gz": predictor.predict_volume(folder / "05b.nii.gz", tmp_path / "one").millilitres
    }
    for file in folder.glob("*.png"):
        predictor.predict_file(file, tmp_path / "one", overlay=True, panels=True, probability=True)
    assert (
        sorted(os.listdir(tmp_path / "all")) == sorted(os.listdir(tmp_path / "one"))
        and len(result["done"]) == 13
    )
    for name in os.listdir(tmp_path / "one"):
        if not name.endswith(".gz"):
            assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_folder_that_cannot_be_written_stops_with_its_name(bright_weights, tmp_path):
    for number in range(9):
        images.write_png(tmp_path / "in" / f"{number}.png", GREY)
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="out"):
        load(bright_weights()).predict_folder(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_pictures_is_an_error(bright_weights, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match=rf"{name}: no picture or volume here.*\.png"):
        load(bright_weights()).predict_folder(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
