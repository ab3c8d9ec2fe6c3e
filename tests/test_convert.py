"""Folders of other people's pictures, brought into images/ + masks/ by `prepare`."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglib import config, data, layouts, prepare
from seglib.errors import DataError
from seglib.formats import images
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
        (
            "busi",
            "images",
            ["--source_masks", "masks", "--mask_encoding", '{"0,255,0": 1, "255,0,0": 1}'],
            "masks/{}.png",
            22,
        ),
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


# Classes

COLOURS = {"0,0,0": 0, "255,0,0": 1, "0,255,0": 2}
NAMES = ("background", "kidney", "liver")


def write_classes(folder, draw, n=6):
    """Pictures and masks of 0, 1 and 2 in squares, drawn by `draw`; name -> label map."""
    maps = {}
    for number in range(n):
        labels = np.zeros((24, 30), np.uint8)
        labels[2:9, 3 + number : 14] = 1
        labels[12:20, 10 : 22 + number] = 2
        name = f"case_{number}"
        noise = np.random.default_rng(number).integers(0, 256, (24, 30))
        write_picture(folder / "in" / f"{name}.png", noise)
        draw(folder / "truth" / f"{name}.png", labels)
        maps[name] = labels
    return maps


def paint(path, labels):
    palette = np.array([[int(part) for part in colour.split(",")] for colour in COLOURS], np.uint8)
    write_picture(path, palette[labels])


def paint_one(number):
    """A painter of files that hold a single class each: the first in even cases, else the other."""

    def draw(path, labels):
        k = int(path.stem[-1]) % 2 + 1
        paint(path, np.where(labels == k, k, 0)) if number is None else write_picture(
            path, np.where(labels == k, k * number, 0)
        )

    return draw


def trained_classes(line, output):
    """The label maps that `train` reads with the options of the printed command."""
    words = shlex.split(line.split("seglib train ")[1])
    options = dict(zip(words[::2], words[1::2]))
    assert options.pop("--data_dir") == str(output)
    preset = options.pop("--preset", "binary")
    names = [name.strip("-") for name in options]
    fields = {name: config.parse(name, options[f"--{name}"]) for name in names}
    more = {"image_size": (24, 30), "patch_size": None, "val_split": 0, "test_split": 0}
    cfg = config.preset(
        preset, "smoke", **more, **fields, data_root=str(output), work_dir=str(output / "work")
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    data.loaders(store, cfg)  # nothing is undecided
    masks = store.open()[1][..., 0]
    return cfg, {Path(row.image).stem: masks[row.row] for row in store.cases.itertuples()}


@pytest.mark.parametrize("preset", [None, "cardiac", "rsna", "lung"])
def test_classes_of_a_colour_table_are_kept(tmp_path, capsys, preset):
    maps = write_classes(tmp_path, paint)
    options = ["--preset", preset] if preset else []
    options += ["--class_names", ",".join(NAMES), "--mask_encoding", json.dumps(COLOURS)]
    output = tmp_path / "the output"
    assert command(*arguments(tmp_path / "in", tmp_path / "truth", output, *options)) == 0
    printed = capsys.readouterr().out
    assert "masks written as label maps: 0 background, 1 kidney, 2 liver" in printed
    for name, labels in maps.items():
        np.testing.assert_array_equal(read_picture(output / "masks" / f"{name}.png"), labels)
    cfg, masks = trained_classes(printed.splitlines()[-1], output)
    assert cfg.class_names == NAMES
    assert cfg.preset == (preset if preset in ("cardiac", "rsna") else "cardiac")
    for name, labels in maps.items():
        np.testing.assert_array_equal(masks[name], labels)


def test_classes_without_names_get_some(tmp_path):
    maps = write_classes(tmp_path, paint)
    result = convert.to_images_and_masks(
        tmp_path / "in", tmp_path / "truth", tmp_path / "out", encoding=COLOURS
    )
    assert result.class_names == ("background", "class_1", "class_2")
    written = read_picture(tmp_path / "out" / "masks" / "case_3.png")
    np.testing.assert_array_equal(written, maps["case_3"])


@pytest.mark.parametrize("number", [None, 1, 100], ids=["colours", "1 and 2", "100 and 200"])
def test_two_classes_in_different_files_are_not_merged(tmp_path, capsys, number):
    write_classes(tmp_path, paint_one(number))
    line = arguments(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    message = error_of(capsys, *line)
    assert "different values" in message and "case_0.png" in message and "case_1.png" in message
    assert not (tmp_path / "out" / "masks").exists()
    assert command(*line, "--mask_encoding", "index") == 0


def test_label_maps_are_copied_by_their_numbers(tmp_path, capsys):
    maps = write_classes(tmp_path, lambda path, labels: write_picture(path, labels * 100))
    line = arguments(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    assert "2 classes: --class_names background,class_100,class_200" in error_of(capsys, *line)
    line += ["--class_names", ",".join(NAMES), "--label_map", '{"100": 1, "200": 2}']
    assert command(*line) == 0
    written = read_picture(tmp_path / "out" / "masks" / "case_1.png")
    np.testing.assert_array_equal(written, maps["case_1"])


@pytest.mark.parametrize("ignored", [False, True])
def test_classes_named_beside_the_masks_are_written_by_themselves(tmp_path, capsys, ignored):
    numbers = np.array([0, 7, 3], np.uint8)  # of background, kidney and liver
    names = {"liver": 3, "background": 0, "kidney": 7, "spleen": 9}
    if ignored:
        names["ignore"] = 255
    border = np.uint8(255 if ignored else 0)

    def write(path, labels):
        labels = numbers[labels]
        labels[0] = border
        write_picture(path, labels)

    maps = write_classes(tmp_path, write)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    line = arguments(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    assert command(*line) == 0
    labels = {"background": 0, "liver": 1, "kidney": 2}
    listed = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert listed == (labels | {"ignore": 255} if ignored else labels)
    for name, expected in maps.items():
        written = read_picture(tmp_path / "out" / "masks" / f"{name}.png")
        np.testing.assert_array_equal(written[1:], np.array([0, 2, 1])[expected][1:])
        assert (written[0] == border).all()
    cfg = config.preset("binary", "smoke", data_root=str(tmp_path / "out"))
    layouts.scan(cfg)
    assert cfg.class_names == ("background", "liver", "kidney")
    # Names that the list lacks cannot be matched, so that nothing is written as background.
    line[line.index(tmp_path / "out")] = tmp_path / "other"
    message = error_of(capsys, *line, "--class_names", "background,liver,lung")
    assert "class_names: lung, which" in message and "dataset.json does not have" in message
    assert not (tmp_path / "other").exists()


def test_classes_named_by_colour_beside_the_masks(tmp_path):
    maps = write_classes(tmp_path, paint)
    (tmp_path / "labelmap.txt").write_text("liver:0,255,0::\nkidney:255,0,0::\n")
    result = convert.to_images_and_masks(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    assert result.class_names == ("background", "liver", "kidney") and result.pairs == len(maps)
    for name, labels in maps.items():
        written = read_picture(tmp_path / "out" / "masks" / f"{name}.png")
        np.testing.assert_array_equal(written, np.array([0, 2, 1])[labels])


def test_ignored_pixels_stay_ignored(tmp_path, capsys):
    maps = write_classes(tmp_path, paint)
    table = {"255,0,0": 1, "0,255,0": 255}
    line = arguments(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    line += ["--class_names", "background,kidney", "--mask_encoding", json.dumps(table)]
    assert command(*line) == 0
    _, masks = trained_classes(capsys.readouterr().out.splitlines()[-1], tmp_path / "out")
    expected = np.where(maps["case_1"] == 2, 255, maps["case_1"])
    np.testing.assert_array_equal(masks["case_1"], expected)
    # Masks of 0 and 255 have no number for them.
    line[line.index("background,kidney")] = "kidney"
    line[line.index(tmp_path / "out")] = tmp_path / "binary"
    assert "cannot say that pixels are ignored" in error_of(capsys, *line)


def test_settings_that_do_not_fit_together(tmp_path, capsys):
    write_classes(tmp_path, paint)
    line = arguments(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    names = ["--class_names", "background,kidney"]
    message = error_of(capsys, *line, *names, "--mask_encoding", json.dumps(COLOURS))
    assert "2 of '0,255,0' is no class" in message
    names = ["--class_names", ",".join(NAMES), "--mask_inverted"]
    message = error_of(capsys, *line, *names, "--mask_encoding", json.dumps(COLOURS))
    assert "mask_inverted" in message


def test_real_colours_become_classes(real, tmp_path):
    """CURVAS, against the colours themselves."""
    table = {"0,255,255": 1, "255,255,0": 2, "255,0,255": 3}
    source = real("curvas_ct") / "annotation_1"
    result = convert.to_images_and_masks(
        source / "images", source / "masks", tmp_path / "out", encoding=table
    )
    assert result.problems == [] and result.pairs == len(list((source / "masks").iterdir()))
    for file in sorted((source / "masks").iterdir())[:6]:
        colours = read_picture(file)[..., :3]
        written = read_picture(tmp_path / "out" / "masks" / file.name)
        for colour, number in table.items():
            painted = (colours == [int(part) for part in colour.split(",")]).all(axis=-1)
            np.testing.assert_array_equal(written == number, painted)


def test_orientation_tags_are_kept_and_noted(tmp_path):
    """A WebP becomes a PNG of the same pixels, with the tag by which viewers turn it."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 5:30] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a.webp", "b.jpg"):
        Image.fromarray(pixels).save(tmp_path / "images" / name, exif=exif, lossless=True)
    for name in ("a.png", "b.tif"):
        Image.fromarray(mask).save(tmp_path / "masks" / name, exif=exif)
    folders = (tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    for _ in range(2):  # a second time, nothing differs
        done = convert.to_images_and_masks(*folders)
        assert done.pairs == 2 and not done.problems
    assert "orientation 3: viewers turn this picture" in done.text()
    for file in sorted((tmp_path / "out").rglob("*.*")):
        assert images.exif_orientation(file) == 3, file
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/images/a.png")[0], pixels)
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/masks" / name)[0], mask)


def test_pictures_of_16_bits_become_png_of_16_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (30, 40, 3), np.uint16)
    (tmp_path / "in").mkdir()
    head = b"P6 40 30 4095\n"
    (tmp_path / "in/a.ppm").write_bytes(head + pixels.astype(">u2").tobytes())
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 5:30] = 255
    Image.fromarray(mask).save(tmp_path / "in/a_mask.png")
    done = convert.to_images_and_masks(tmp_path / "in", None, tmp_path / "out")
    assert done.pairs == 1, done
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/images/a.png")[0], pixels)
    # Floats do not fit into PNG.
    (tmp_path / "in/a.ppm").write_bytes(b"Pf 40 30 -1.0\n" + bytes(4 * 40 * 30))
    done = convert.to_images_and_masks(tmp_path / "in", None, tmp_path / "out2")
    assert done.pairs == 0 and "float32" in done.problems[0]


@pytest.mark.parametrize("extra", [False, True], ids=["folders alone", "a mask beside them"])
def test_a_mask_folder_for_each_class_is_refused_with_the_lines_that_read_it(tmp_path, extra):
    square = np.zeros((8, 9), np.uint8)
    square[2:5, 3:6] = 255
    for name in ("cup", "disc"):
        write_picture(tmp_path / "d" / "masks" / name / "x.png", square)
    write_picture(tmp_path / "d" / "images" / "x.png", square)
    if extra:
        write_picture(tmp_path / "d" / "masks" / "x.png", square)
    folders = (tmp_path / "d" / "images", tmp_path / "d" / "masks")
    with pytest.raises(DataError) as error:
        convert.to_images_and_masks(*folders, tmp_path / "out")
    text = str(error.value)
    assert "masks in folders (cup, disc)" in text and not (tmp_path / "out").exists()
    assert f"python -m seglib train --data_dir {tmp_path / 'd'}" in text
    assert f"--source_masks {tmp_path / 'd' / 'masks' / 'cup'}" in text
    done = convert.to_images_and_masks(folders[0], folders[1] / "cup", tmp_path / "out")
    assert done.pairs == 1
    (tmp_path / "d" / "images").rename(tmp_path / "photos")
    with pytest.raises(DataError, match="put the images into D/images and these folders into D/m"):
        convert.to_images_and_masks(tmp_path / "photos", folders[1], tmp_path / "other")
