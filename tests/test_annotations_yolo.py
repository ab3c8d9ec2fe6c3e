"""Label files of YOLO segmentation."""

import pytest

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "disc", "cup")
SQUARE = "0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6"


def write(root, files, yaml="names: [disc, cup]\n"):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


@pytest.mark.parametrize(
    "yaml, names",
    [
        ("names: [disc, cup]\nnc: 2\n", ("disc", "cup")),
        ("names:\n  1: cup\n  0: disc\n", ("disc", "cup")),
        (None, ("class_0", "class_1")),
    ],
)
def test_names_and_shares_of_the_image(tmp_path, yaml, names):
    lines = f"1 {SQUARE}\n\n0 0.5 0 1 0 1 1 0.5 1\n"
    root = write(tmp_path, {"labels/eye.v1.txt": lines, "labels/none.txt": ""}, yaml)
    result = annotations.read(root)
    assert result.class_names == names and result.format == "YOLO"
    eye, none = result.images
    assert (eye.image, none.image) == ("images/eye.v1", "images/none")
    assert not none.shapes
    mask = annotations.draw(eye, 20, 30, ("background", *names), "multiclass")
    assert (mask[2:12, 3:12] == 2).all() and (mask == 2).sum() == 90
    assert (mask[:, 15:] == 1).all()
    assert any("no data.yaml" in note for note in result.notes) == (yaml is None)
    # The names lie above the folder that is given.
    assert annotations.read(root / "labels").class_names == names


def test_parts_of_the_split(tmp_path):
    line = f"0 {SQUARE}\n"
    root = write(tmp_path, {"train/labels/a.txt": line, "valid/labels/b.txt": line})
    images = {image.image: image.split for image in annotations.read(root).images}
    assert images == {"train/images/a": "train", "valid/images/b": "val"}


def test_other_text_files_are_no_labels(tmp_path):
    line = f"0 {SQUARE}\n"
    files = {"labels/a.txt": line, "README.roboflow.txt": "This is a data set\n"}
    root = write(tmp_path, files)
    assert [image.image for image in annotations.read(root).images] == ["images/a"]
    write(tmp_path, {"labels/b.txt": "hello\n"})
    with pytest.raises(DataError, match="b.txt: line 1: 'hello'"):
        annotations.read(root)


def test_boxes_are_no_outlines(tmp_path):
    box = "0 0.5 0.5 0.1 0.1\n"
    root = write(tmp_path, {"labels/a.txt": f"{box}0 {SQUARE}\n"})
    result = annotations.read(root)
    assert len(result.images[0].shapes) == 1 and "1 boxes" in result.notes[0]
    write(tmp_path, {"labels/a.txt": box})
    with pytest.raises(DataError, match="all 1 lines are boxes"):
        annotations.read(root)


@pytest.mark.parametrize(
    "line, message",
    [
        (f"2 {SQUARE}", "class 2, which .*data.yaml does not name; it names 0, 1"),
        (f"0 {SQUARE} 0.5", "pairs of coordinates"),
        (f"-1 {SQUARE}", "expected a class number"),
        (f"0.5 {SQUARE}", "expected a class number"),
        ("0 1 1 100 1 100 50", "coordinates from 1 to 100; expected shares"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "coordinates from"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    root = write(tmp_path, {"labels/a.txt": f"0 {SQUARE}\n", "labels/b.txt": line})
    with pytest.raises(DataError, match=f"b.txt: line 1: .*{message}"):
        annotations.read(root)


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("names: &a [disc]\nother: [*a, *a]\n", "aliases"),
        ("names: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("names: {0: [disc]}\n", "class 0: its name is"),
        ("names: {a: disc}\n", "a class number is 'a'"),
        ("[" * 5000, "not readable as YAML"),
    ],
)
def test_a_hostile_list_of_names_is_refused(tmp_path, yaml, message):
    root = write(tmp_path, {"labels/a.txt": f"0 {SQUARE}\n"}, yaml)
    with pytest.raises(DataError, match=message):
        annotations.read(root)
