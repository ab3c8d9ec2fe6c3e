"""Annotation files and their images become images/ + masks/ by `prepare --annotations`."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image, ImageOps

from seglib import annotations, config, layouts, prepare
from seglib.annotations import shapes
from seglib.errors import ConfigError, DataError
from seglib.formats import images
from seglib.layouts import annotated
from tests.helpers import command, error_of, read_picture, write_picture

HEIGHT, WIDTH = 24, 32


def square(left, top, side):
    return shapes.rectangle(left, top, side, side).tolist()


DISC, CUP, VESSEL = square(4, 4, 12), square(7, 7, 4), square(20, 10, 8)


def write_image(path, seed=0, size=(HEIGHT, WIDTH), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def labelme(path, *shapes_of_image, size=(HEIGHT, WIDTH), image=None):
    entries = [
        {"label": label, "points": points, "shape_type": "polygon"}
        for label, points in shapes_of_image
    ]
    content = {"shapes": entries, "imagePath": image or f"{path.stem}.png"}
    if size:
        content |= {"imageHeight": size[0], "imageWidth": size[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def tree(root, *shapes_of_image, n=3, beside=False):
    """Images and LabelMe files; returns the folder of the images, and that of the files."""
    pictures, files = root / "in", root / "in" if beside else root / "json"
    for number in range(n):
        write_image(pictures / f"eye {number}.png", number)
        labelme(files / f"eye {number}.json", *shapes_of_image)
    return pictures, files


def mask(output, name="eye 0", folder="masks"):
    return read_picture(output / folder / f"{name}.png")


def labels_of(output):
    return json.loads((output / "dataset.json").read_text())["labels"]


def test_one_structure(tmp_path, capsys):
    pictures, files = tree(tmp_path, ("disc", DISC), ("disc", VESSEL))
    output = tmp_path / "the output"
    line = ["prepare", "--source_images", pictures, "--annotations", files, "--output", output]
    assert command(*line) == 0
    printed = capsys.readouterr().out
    assert "LabelMe: 3 images written; one structure" in printed
    assert "disc: in 3 images, 27.08% of the pixels" in printed
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:16, 4:16] = expected[10:18, 20:28] = 255
    np.testing.assert_array_equal(mask(output), expected)
    copy = output / "images" / "eye 0.png"
    assert copy.read_bytes() == (pictures / "eye 0.png").read_bytes()
    assert labels_of(output) == {"background": 0, "disc": 255}
    assert command(*line) == 0, "the same again changes nothing"
    options = shlex.split(printed.splitlines()[-1])
    assert options[-2:] == ["--data_dir", str(output)]
    size = {"image_size": (HEIGHT, WIDTH), "augment": {}, "val_split": 0, "test_split": 0}
    cfg = config.preset(
        "binary", "smoke", data_root=str(output), work_dir=str(tmp_path / "work"), **size
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    np.testing.assert_array_equal(store.open()[1][0, ..., 0], expected // 255)


def test_classes_that_exclude_each_other(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), ("vessel", VESSEL))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert (result.task, result.class_names) == ("multiclass", ("background", "disc", "vessel"))
    written = mask(tmp_path / "out")
    assert (written[4:16, 4:16] == 1).all() and (written[10:18, 20:28] == 2).all()
    assert labels_of(tmp_path / "out") == {"background": 0, "disc": 1, "vessel": 2}


def test_classes_that_overlap(tmp_path, capsys):
    pictures, files = tree(tmp_path, ("disc", DISC), ("cup", CUP))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert (result.task, result.class_names) == ("multilabel", ("cup", "disc"))
    assert (mask(tmp_path / "out", folder="masks/disc") == 255).sum() == 144
    assert (mask(tmp_path / "out", folder="masks/cup") == 255).sum() == 16
    notes = "\n".join(result.notes)
    assert "cup and disc overlap in 48 pixels (100.0% of the smaller one)" in notes
    assert "--task multiclass" in notes
    assert result.table == (
        "  cup: in 3 images, 2.08% of the pixels",
        "  disc: in 3 images, 18.75% of the pixels",
    )
    # As one label map, where the order in the file decides.
    line = ["prepare", "--source_images", pictures, "--annotations", files]
    options = ["--task", "multiclass", "--class_names", "background,disc,cup"]
    assert command(*line, "--output", tmp_path / "map", *options) == 0
    printed = capsys.readouterr().out
    assert "the shape that comes later in the file lies above" in printed
    written = mask(tmp_path / "map")
    assert [(written == k).sum() for k in (1, 2)] == [144 - 16, 16]


def test_a_small_overlap_of_neighbours_is_none(tmp_path):
    left, right = [[4, 2], [16, 2], [16, 22], [4, 22]], [[16, 2], [30, 2], [30, 22], [16, 22]]
    right[3] = [15, 22]  # a slope, so that a few pixels at the lower end belong to both
    pictures, files = tree(tmp_path, ("disc", left), ("vessel", right))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert result.task == "multilabel" and "overlap in 30 pixels (4.2%" in result.notes[0]
    right[3] = [15.4, 22]
    pictures, files = tree(tmp_path / "b", ("disc", left), ("vessel", right))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "b" / "out")
    assert result.task == "multiclass" and "overlap in 9 pixels" in result.notes[0]


def test_chosen_and_united_classes(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), ("cup", CUP), ("vessel", VESSEL))

    def result(name, *arguments, **options):
        return annotated.to_images_and_masks(
            pictures, files, tmp_path / name, *arguments, **options
        )

    chosen = result("a", ("background", "vessel", "disc"))
    assert chosen.class_names == ("background", "vessel", "disc")
    assert "classes not asked for, left out: cup" in chosen.notes
    assert (mask(tmp_path / "a") == 2).sum() == 144
    united = result("b", task="binary")
    assert united.class_names == ("structure",)
    assert (mask(tmp_path / "b") == 255).sum() == 144 + 64
    assert result("c", ("anything",), task="binary").class_names == ("anything",)
    with pytest.raises(DataError, match="class_names: disk, .* they have cup, disc, vessel"):
        result("d", ("disk",))
    with pytest.raises(DataError, match="multiclass needs two or more classes"):
        result("e", ("disc",), task="multiclass")


def test_names_of_classes_are_made_safe(tmp_path):
    names = ("../../disc", "Disc/left", "disc left", "Cup", "cup ", "image", "_background_")
    pictures, files = tree(tmp_path, *((name, DISC) for name in names))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert set(result.class_names) == {"_.._disc", "Disc_left", "disc left", "Cup", "image_class"}
    assert "classes: 'cup' is written as 'Cup'" in result.notes
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "images",
        "masks",
        "dataset.json",
    }
    for name in result.class_names:
        assert not mask(tmp_path / "out", folder=f"masks/{name}").any(), "the background is above"


def test_ignored_pixels(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), ("__ignore__", CUP))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert result.task == "binary" and "255, ignored" in "".join(result.notes)
    written = mask(tmp_path / "out")
    assert (written == 255).sum() == 16 and (written == 1).sum() == 128
    assert labels_of(tmp_path / "out") == {"background": 0, "disc": 1, "ignore": 255}
    size = {"image_size": (HEIGHT, WIDTH), "augment": {}, "val_split": 0, "test_split": 0}
    folders = {"data_root": str(tmp_path / "out"), "work_dir": str(tmp_path / "work")}
    cfg = config.preset("binary", "smoke", **size, **folders, label_map=result.label_map)
    store = prepare.build(layouts.scan(cfg), cfg)
    np.testing.assert_array_equal(store.open()[1][0, ..., 0], written)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("says_size", [True, False])
def test_the_mask_lies_on_the_pixels_as_they_are_stored(tmp_path, orientation, says_size):
    """A viewer turns the picture; the shape is drawn where the viewer shows the bright square."""
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[2:9, 3:14] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "in" / "eye.png"
    path.parent.mkdir()
    Image.fromarray(stored).save(path, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path))) > 0
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    points = [[int(x), int(y)] for x, y in points]
    labelme(tmp_path / "eye.json", ("disc", points), size=shown.shape if says_size else None)
    annotated.to_images_and_masks(tmp_path / "in", tmp_path / "eye.json", tmp_path / "out")
    written = tmp_path / "out" / "masks" / "eye.png"
    np.testing.assert_array_equal(images.read_pixels(written)[0] > 0, stored > 0)
    assert images.exif_orientation(written) == orientation


def test_annotations_of_stored_pixels_stay_there(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "in" / "eye.png", exif=exif)
    labelme(tmp_path / "eye.json", ("disc", DISC))  # it says 24x32, as stored
    annotated.to_images_and_masks(tmp_path / "in", tmp_path / "eye.json", tmp_path / "out")
    assert (images.read_pixels(tmp_path / "out" / "masks" / "eye.png")[0][4:16, 4:16] == 255).all()


def test_images_that_do_not_fit_are_left_out_and_named(tmp_path, capsys):
    pictures, files = tree(tmp_path, ("disc", DISC))
    labelme(files / "eye 0.json", ("disc", DISC), size=(48, 64))
    (pictures / "eye 1.png").write_bytes(b"no picture")
    labelme(files / "gone.json", ("disc", DISC))
    write_image(pictures / "bare.png")
    line = ["prepare", "--source_images", pictures, "--annotations", files]
    message = error_of(capsys, *line, "--output", tmp_path / "out")
    assert "2 images were left out" in message
    assert "eye 0.png: annotated at 48x64, but the image is 24x32" in message
    assert "eye 1.png: not readable as an image" in message
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"eye 2.png"}
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert "annotated images that are not in in: 1 (gone.png)" in result.notes
    assert "images without annotations, left out: 1 (bare.png)" in result.notes


def test_shapes_of_another_image(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), n=1)
    far = [[x + 100, y] for x, y in DISC]
    labelme(files / "eye 0.json", ("disc", far), ("disc", DISC), ("disc", far), size=None)
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert "2 of 3 shapes lie outside its 24x32 pixels" in result.problems[0]
    labelme(files / "eye 0.json", ("disc", far), ("disc", DISC), ("disc", DISC[:2]))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "again")
    notes = "\n".join(result.notes)
    assert "1 shapes in 1 images lie wholly outside" in notes
    assert "1 shapes in 1 images are too thin" in notes
    labelme(files / "eye 0.json")
    labelme(files / "eye 1.json", ("disc", DISC))
    write_image(pictures / "eye 1.png")
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "third")
    assert "1 images are listed without a shape" in "\n".join(result.notes)
    assert not mask(tmp_path / "third").any()


def test_names_lead_nowhere_else(tmp_path):
    """A name with a path is looked up among the images only."""
    secret = write_image(tmp_path / "secret" / "eye.png", 5)
    pictures, files = tree(tmp_path, ("disc", DISC), n=1)
    for name in (str(secret), "../secret/eye.png", "..\\secret\\eye.png"):
        labelme(files / "a.json", ("disc", DISC), image=name)
        result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
        assert "annotated images that are not in in: 1" in "\n".join(result.notes)
    labelme(files / "a.json", ("disc", DISC), image="/home/someone/eye 0.png")
    result = annotated.to_images_and_masks(pictures, files / "a.json", tmp_path / "out2")
    assert result.n_images == 1, "the folder is that of another machine"


def test_an_image_is_annotated_once(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), n=2)
    labelme(files / "second reader" / "eye 0.json", ("disc", CUP))
    result = annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert "eye 0.png: annotated twice" in result.problems[0] and result.n_images == 1


def test_equal_names_in_several_folders(tmp_path):
    pictures, files = tmp_path / "in", tmp_path / "json"
    for number, place in enumerate(("patient 1", "patient 2")):
        write_image(pictures / place / "1.png", number)
        labelme(files / place / "1.json", ("disc", (DISC, VESSEL)[number]), image=f"{place}/1.png")
    annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    assert (mask(tmp_path / "out", "patient 1_1") > 0).sum() == 144
    assert (mask(tmp_path / "out", "patient 2_1") > 0).sum() == 64
    labelme(files / "1.json", ("disc", DISC), image="1.png")
    result = annotated.to_images_and_masks(pictures, files / "1.json", tmp_path / "b")
    assert "several images have that name: patient 1/1.png, patient 2/1.png" in result.problems[0]


def coco(path, names, size=(HEIGHT, WIDTH)):
    outline = [float(number) for point in DISC for number in point]
    content = {
        "images": [
            {"id": k, "file_name": name, "height": size[0], "width": size[1]}
            for k, name in enumerate(names)
        ],
        "categories": [
            {"id": 0, "name": "eyes", "supercategory": "none"},
            {"id": 1, "name": "disc", "supercategory": "eyes"},
        ],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "segmentation": [outline]}
            for k in range(len(names))
        ],
    }
    path.write_text(json.dumps(content))


def test_a_tree_of_roboflow_keeps_its_parts(tmp_path, capsys):
    root = tmp_path / "in"
    for number, part in enumerate(("train", "valid", "test")):
        write_image(root / part / "1.jpg", number)
        coco(root / part / "_annotations.coco.json", ["1.jpg"])
    output = tmp_path / "out"
    assert command("prepare", "--source_images", root, "--output", output) == 0
    printed = capsys.readouterr().out
    assert f"annotations: {root}" in printed and "without a shape, left out: eyes" in printed
    for part in ("train", "val", "test"):
        assert (read_picture(output / part / "masks" / "1.png") == 255).sum() == 144
    size = {"image_size": (HEIGHT, WIDTH), "augment": {}, "keep_split": True}
    cfg = config.preset(
        "binary", "smoke", data_root=str(output), work_dir=str(tmp_path / "work"), **size
    )
    assert set(layouts.scan(cfg)["split"]) == {"train", "val", "test"}


def test_annotations_beside_the_images(tmp_path, capsys):
    pictures, _ = tree(tmp_path, ("disc", DISC), beside=True)
    line = ["prepare", "--source_images", pictures, "--output", tmp_path / "out"]
    assert command(*line) == 0
    assert f"annotations: {pictures}" in capsys.readouterr().out
    for number in range(3):  # masks as well: which of both is meant?
        write_picture(pictures / f"eye {number}_mask.png", np.zeros((HEIGHT, WIDTH)))
    message = error_of(capsys, *line)
    assert "--source_masks" in message and "--annotations" in message


def test_yolo_shares_of_the_image(tmp_path):
    write_image(tmp_path / "images" / "eye.v1.png")
    (tmp_path / "labels").mkdir()
    outline = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in DISC)
    (tmp_path / "labels" / "eye.v1.txt").write_text(f"0 {outline}")
    (tmp_path / "labels" / "eye.v2.txt").write_text(f"0 {outline}")
    (tmp_path / "data.yaml").write_text("names: [disc]")
    result = annotated.to_images_and_masks(tmp_path / "images", tmp_path, tmp_path / "out")
    assert result.n_images == 1 and (mask(tmp_path / "out", "eye.v1") == 255).sum() == 144
    assert annotations.find(tmp_path / "images") == tmp_path / "labels"


def test_options_that_do_not_act_are_refused(tmp_path, capsys):
    pictures, files = tree(tmp_path, ("disc", DISC), n=1)
    line = ["prepare", "--source_images", pictures, "--annotations", files, "--output", "x"]
    for option in (["--nested", "holes"], ["--class_attribute", "x"]):
        assert f"{option[0][2:]}: acts on files of" in error_of(capsys, *line, *option)
    for option in (
        ["--source_masks", files],
        ["--mask_suffix", "_x"],
        ["--mask_inverted"],
        ["--preset", "lung"],
    ):
        assert f"{option[0][2:]}: " in error_of(capsys, *line, *option)
    assert "annotations: converts" in error_of(capsys, "prepare", "--annotations", files)
    with pytest.raises(ConfigError):
        annotated.to_images_and_masks(pictures, files, tmp_path / "out", nested="holes")


def test_nothing_is_overwritten(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), n=1)
    output = tmp_path / "out"
    annotated.to_images_and_masks(pictures, files, output)
    labelme(files / "eye 0.json", ("disc", CUP))
    result = annotated.to_images_and_masks(pictures, files, output)
    assert "there already" in result.problems[0]
    assert (mask(output) == 255).sum() == 144
    labelme(files / "eye 0.json", ("disc", DISC), ("vessel", VESSEL))
    with pytest.raises(DataError, match="dataset.json: there already, and it names other classes"):
        annotated.to_images_and_masks(pictures, files, output)


def test_no_image_fits(tmp_path):
    pictures, files = tree(tmp_path, ("disc", DISC), n=1)
    labelme(files / "eye 0.json", ("disc", DISC), image="b.png")
    (files / "eye 0.json").rename(files / "b.json")
    with pytest.raises(DataError, match="none of its 1 images is annotated; .* of b.png"):
        annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    labelme(files / "b.json")
    with pytest.raises(DataError, match="none of the 1 annotated images has a shape"):
        annotated.to_images_and_masks(pictures, files, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder; expected one with images"):
        annotated.to_images_and_masks(tmp_path / "x", files, tmp_path / "out")
