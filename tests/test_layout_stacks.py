"""Multi-page TIFF files as volumes, or as a picture for each page."""

import nibabel
import numpy as np
import pytest
import tifffile

from seglib import config, layouts
from seglib.errors import DataError
from seglib.formats import images, volumes
from seglib.layouts import stacks
from tests.helpers import command, error_of, read_picture, truth_of

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (5, 20, 24), np.uint16)
LABELS = RNG.integers(0, 3, STACK.shape, np.uint8)


def sources(root, **metadata):
    (root / "in").mkdir(parents=True)
    (root / "masks").mkdir()
    for name in ("a", "b"):
        stack = STACK if name == "a" else STACK[:3]
        tifffile.imwrite(root / f"in/{name}.tif", stack, photometric="minisblack", **metadata)
        labels = LABELS[: len(stack)]
        tifffile.imwrite(root / f"masks/{name}_mask.tif", labels, photometric="minisblack")
    return root / "in", root / "masks"


def test_pages_as_slices_of_a_volume_train(tmp_path, capsys):
    source, masks = sources(tmp_path)
    line = f"prepare --source_images {source} --source_masks {masks} --output {tmp_path}/d"
    assert command(f"{line} --tiff_pages volume") == 0
    assert "2 TIFF files read, 4 files written" in capsys.readouterr().out
    saved = nibabel.load(tmp_path / "d/images/a.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), STACK.T)
    assert volumes.read_grid(tmp_path / "d/images/a.nii.gz").spacing_mm is None
    cfg = config.preset("cardiac", "smoke", data_root=str(tmp_path / "d"), slice_axis=2)
    cases = layouts.scan(cfg)
    assert len(cases) == 8
    shown = truth_of(type("Store", (), {"cases": cases}), cfg)
    of_a = [shown[case][1] for case in cases[cases["volume"] == "a"]["case"]]
    np.testing.assert_array_equal(np.stack(of_a), LABELS)
    assert "holds files already" in error_of(capsys, f"{line} --tiff_pages volume")
    assert "mask_suffix: has no effect" in error_of(
        capsys, f"{line}2 --tiff_pages volume --mask_suffix _m"
    )


def test_pages_as_pictures(tmp_path):
    source, masks = sources(tmp_path)
    written = stacks.split(source, masks, tmp_path / "d", "pictures")
    assert (written.n_stacks, written.n_written, written.notes) == (2, 16, [])
    for number in range(5):
        page = tmp_path / f"d/images/a_{number + 1:04d}.tif"
        np.testing.assert_array_equal(images.read_pixels(page)[0], STACK[number])
        mask = read_picture(tmp_path / f"d/masks/a_{number + 1:04d}.tif")
        np.testing.assert_array_equal(mask, LABELS[number])
    names = {path.name for path in (tmp_path / "d/images").iterdir()}
    assert names == {path.name for path in (tmp_path / "d/masks").iterdir()}


def test_the_size_of_voxels_is_that_of_imagej(tmp_path):
    source, _ = sources(
        tmp_path,
        imagej=True,
        resolution=(2000, 1000),
        metadata={"axes": "ZYX", "spacing": 0.002, "unit": "mm"},
    )
    stacks.split(source, None, tmp_path / "d", "volume")
    grid = volumes.read_grid(tmp_path / "d/images/a.nii.gz", canonical=False)
    assert grid.spacing_mm == pytest.approx((0.002, 0.001, 0.0005))


def test_colours_and_white_zero(tmp_path):
    (tmp_path / "in").mkdir()
    colours = RNG.integers(0, 256, (3, 20, 24, 3), np.uint8)
    tifffile.imwrite(tmp_path / "in/c.tif", colours, photometric="rgb")
    grey = RNG.integers(0, 256, (3, 20, 24), np.uint8)
    tifffile.imwrite(tmp_path / "in/w.tif", grey, photometric="miniswhite")
    stacks.split(tmp_path / "in", None, tmp_path / "d", "pictures")
    np.testing.assert_array_equal(read_picture(tmp_path / "d/images/c_0002.tif"), colours[1])
    np.testing.assert_array_equal(read_picture(tmp_path / "d/images/w_0003.tif"), 255 - grey[2])
    with pytest.raises(DataError, match="a stack in colour is no volume"):
        stacks.split(tmp_path / "in", None, tmp_path / "e", "volume")


def test_what_is_no_stack_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((2, 3, 8, 8), np.uint8), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(DataError, match=r"a\.tif: axes ZCYX .*several channels"):
        stacks.read(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8), np.uint8))
        writer.write(np.zeros((9, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.tif: its pages differ \(8x8, 9x8\)"):
        stacks.read(path)
    tifffile.imwrite(path, STACK, photometric="minisblack")
    content = path.read_bytes()
    for length in (4, 100, 3000, len(content) - 500):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.tif: "):
            stacks.read(path)


def test_masks_need_the_size_of_their_images(tmp_path):
    source, masks = sources(tmp_path)
    tifffile.imwrite(masks / "a_mask.tif", LABELS[:4], photometric="minisblack")
    with pytest.raises(DataError, match="4x20x24, but 5x20x24"):
        stacks.split(source, masks, tmp_path / "d", "volume")
    (masks / "a_mask.tif").unlink()
    written = stacks.split(source, masks, tmp_path / "e", "volume")
    assert written.notes == ["a.tif: no mask of its name"]
