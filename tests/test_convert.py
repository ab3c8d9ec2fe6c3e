"""Folders of other people's pictures, brought into images/ + masks/ by `prepare`."""

import numpy as np
import pytest

from seglib.errors import DataError
from seglib.layouts import convert
from tests.helpers import command, error_of, read_picture, write_picture


def write_pairs(folder, mask_name="{}.png", n=4, masks_beside=False):
    """(folder of images, folder of masks, name -> mask) of `n` random pictures, 9 x 12.

    `mask_name` makes a mask's file name of the name of its image.
    """
    random, masks = np.random.default_rng(0), {}
    images_folder = folder / "in"
    masks_folder = images_folder if masks_beside else folder / "truth"
    for number in range(1, n + 1):
        name = f"case_{number}"
        write_picture(images_folder / f"{name}.jpg", random.integers(0, 256, (9, 12, 3)))
        masks[name] = random.random((9, 12)) < 0.4
        write_picture(masks_folder / mask_name.format(name), masks[name] * 255)
    return images_folder, masks_folder, masks


def arguments(images, masks, output, *options):
    """The documented command line."""
    folders = ["--source_images", images, "--source_masks", masks, "--output", output]
    return ["prepare", *folders, *options]


def check_output(output, masks):
    """The output holds exactly these masks, as 0 / 255, and an image of each name."""
    assert {path.name for path in (output / "masks").iterdir()} == {f"{n}.png" for n in masks}
    assert {path.stem for path in (output / "images").iterdir()} == set(masks)
    for name, mask in masks.items():
        assert np.array_equal(read_picture(output / "masks" / f"{name}.png"), mask * np.uint8(255))


@pytest.mark.parametrize("ending", ["", "_mask", "_OD", "-gt", " seg"])
def test_the_suffix_of_masks_is_detected(tmp_path, ending):
    # Up to case_12, as the mask of case_12 is none of case_1.
    source, truth, masks = write_pairs(tmp_path, "{}" + ending + ".tif", n=12)
    assert command(*arguments(source, truth, tmp_path / "out")) == 0
    check_output(tmp_path / "out", masks)
    for image in source.iterdir():  # copied byte for byte
        assert (tmp_path / "out" / "images" / image.name).read_bytes() == image.read_bytes()


def test_images_and_masks_in_one_folder(tmp_path, capsys):
    source, _, masks = write_pairs(tmp_path, "{}_1stHO.png", masks_beside=True)
    line = arguments(source, source, tmp_path / "out")
    assert command(*line) == 0
    check_output(tmp_path / "out", masks)
    for name in masks:  # a second observer makes it ambiguous
        write_picture(source / f"{name}_2ndHO.png", np.zeros((9, 12)))
    message = error_of(capsys, *line)
    assert "'_1stHO' (4)" in message
    assert "'_2ndHO' (4)" in message
    assert "mask_suffix" in message
    write_picture(source / "alone.jpg", np.zeros((9, 12)))
    result = convert.to_images_and_masks(source, None, tmp_path / "out", mask_suffix="_1stHO")
    assert (result.pairs, result.without_mask, len(result.left_out)) == (4, ["alone.jpg"], 4)
    check_output(tmp_path / "out", masks)


def test_names_that_differ_in_format_only(tmp_path):
    source, _, masks = write_pairs(tmp_path, masks_beside=True)
    with pytest.raises(DataError, match="same name"):
        convert.to_images_and_masks(source, source, tmp_path / "out")
    result = convert.to_images_and_masks(source, source, tmp_path / "out", ".jpg", ".png")
    assert result.pairs == 4
    check_output(tmp_path / "out", masks)


def test_names_with_an_image_suffix(tmp_path):
    source, truth, masks = write_pairs(tmp_path, "{}_label.png")
    for image in list(source.iterdir()):
        image.rename(image.with_name(f"{image.stem}_image.jpg"))
    output = tmp_path / "out"
    assert convert.to_images_and_masks(source, truth, output, image_suffix="_image").pairs == 4
    check_output(output, masks)


def test_instances_are_united(tmp_path, capsys):
    random, masks = np.random.default_rng(1), {}
    source = tmp_path / "in"
    for name in ("one", "two"):
        instances = random.random((3, 8, 10)) < 0.2
        write_picture(source / name / "images" / f"{name}.png", random.integers(0, 256, (8, 10, 4)))
        for number, instance in enumerate(instances):
            write_picture(source / name / "masks" / f"{number}.png", instance * 255)
        masks[name] = instances.any(axis=0)
    write_picture(source / "bare" / "images" / "bare.png", np.zeros((8, 10)))
    assert command("prepare", "--source_images", source, "--output", tmp_path / "out") == 0
    assert "images without mask, left out: 1 (bare)" in capsys.readouterr().out
    check_output(tmp_path / "out", masks)


def test_nothing_is_overwritten(tmp_path, capsys):
    source, truth, _ = write_pairs(tmp_path)
    line = arguments(source, truth, tmp_path / "out")
    assert command(*line) == command(*line) == 0, "the same again changes nothing"
    mask = tmp_path / "out" / "masks" / "case_1.png"
    image = tmp_path / "out" / "images" / "case_2.jpg"
    write_picture(mask, np.zeros((9, 12)))
    image.write_bytes(b"something else")
    image.with_name("case_3.jpg").rename(image.with_name("case_3.bmp"))
    message = error_of(capsys, *line)
    for words in (str(mask), str(image), "case_3.bmp", "3 images"):
        assert words in message
    assert not read_picture(mask).any()
    assert image.read_bytes() == b"something else"


def test_formats_that_training_does_not_read_become_png_without_loss(tmp_path):
    source, truth, output = (tmp_path / name for name in ("in", "truth", "out"))
    deep = np.arange(108, dtype=np.uint16).reshape(9, 12) * 600
    source.mkdir()
    (source / "deep.pgm").write_bytes(b"P5 12 9 65535\n" + deep.astype(">u2").tobytes())
    colour = np.random.default_rng(0).integers(0, 256, (9, 12, 3))
    write_picture(source / "colour.ppm", colour)
    for name in ("deep", "colour"):
        write_picture(truth / f"{name}.gif", (colour[..., 0] > 90) * 255)
    assert convert.to_images_and_masks(source, truth, output).pairs == 2
    assert np.array_equal(read_picture(output / "images" / "deep.png"), deep)
    assert np.array_equal(read_picture(output / "images" / "colour.png"), colour)


def test_masks_are_decoded_as_asked(tmp_path, capsys):
    source, truth, masks = write_pairs(tmp_path)
    assert command(*arguments(source, truth, tmp_path / "out", "--mask_inverted")) == 0
    check_output(tmp_path / "out", {name: ~mask for name, mask in masks.items()})
    write_picture(truth / "case_1.png", np.arange(108).reshape(9, 12))
    line = arguments(source, truth, tmp_path / "again", "--mask_inverted")
    assert "case_1.png: ambiguous mask" in error_of(capsys, *line)
    assert len(list((tmp_path / "again" / "masks").iterdir())) == 3, "the others are written"
    line = arguments(source, truth, tmp_path / "third", "--mask_encoding", "threshold")
    assert command(*line) == 0


@pytest.mark.parametrize(
    "name, images, options, masks, n",
    [
        ("chase_db1", "", ["--mask_suffix", "_1stHO"], "{}_1stHO.png", 20),
        ("dsb2018_nuclei", "stage1_train", [], "stage1_train/{}/masks/*", 60),
        ("busi", "images", ["--source_masks", "masks"], "masks/{}.png", 22),
    ],
)
def test_real_layouts(real, monkeypatch, tmp_path, name, images, options, masks, n):
    monkeypatch.chdir(real(name))
    source = real(name) / images
    line = ["prepare", "--source_images", source, "--output", tmp_path / "out", *options]
    assert command(*line) == 0
    written = sorted((tmp_path / "out" / "masks").iterdir())
    assert len(written) == n
    for mask in written[:5]:
        files = real(name).glob(masks.format(mask.stem))
        parts = [np.atleast_3d(read_picture(file)).max(axis=2) > 0 for file in files]
        assert np.array_equal(read_picture(mask), np.any(parts, axis=0) * np.uint8(255))
