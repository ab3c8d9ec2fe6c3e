"""Files and folders of annotations: which tool wrote them, and which of them are meant."""

import json
import zipfile

import numpy as np
import pytest
import roifile

from seglib import annotations
from seglib.annotations import sources
from seglib.errors import DataError
from tests.helpers import plant_pictures, write_picture

POINTS = [[0, 0], [3, 0], [3, 3], [0, 3]]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def labelme(path, label="disc"):
    shape = {"label": label, "points": POINTS, "shape_type": "polygon"}
    size = {"imageHeight": 4, "imageWidth": 5}
    return write_json(path, {"shapes": [shape], "imagePath": f"{path.stem}.png", **size})


def coco(path, *names):
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    outline = [coordinate for point in POINTS for coordinate in point]
    entries = [
        {"image_id": k, "category_id": 1, "segmentation": [outline]} for k in range(len(names))
    ]
    categories = [{"id": 1, "name": "disc"}]
    return write_json(path, {"images": images, "annotations": entries, "categories": categories})


def test_a_folder_of_files_of_one_tool(tmp_path):
    labelme(tmp_path / "b.json", "disc")
    labelme(tmp_path / "deep" / "a.json", "cup")
    write_json(tmp_path / "dataset.json", {"labels": {"1": "disc"}})
    (tmp_path / "notes.txt").write_text("who drew what")
    (tmp_path / "voc.xml").write_text("<annotation></annotation>")
    result = annotations.read(tmp_path)
    assert result.format == "LabelMe" and result.class_names == ("cup", "disc")
    assert [image.image for image in result.images] == ["b.png", "a.png"]


def test_files_of_several_tools_are_not_mixed(tmp_path):
    labelme(tmp_path / "a.json")
    coco(tmp_path / "instances.json", "a.png")
    with pytest.raises(DataError, match=r"several tools: LabelMe \(a.json\), COCO \(instances"):
        annotations.read(tmp_path)


def test_no_annotations(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        annotations.read(tmp_path / "a.json")
    write_json(tmp_path / "dataset.json", {"labels": {}})
    with pytest.raises(DataError, match="no annotation files in it; .* found dataset.json"):
        annotations.read(tmp_path)
    with pytest.raises(DataError, match="none of the annotation files that are read: LabelMe"):
        annotations.read(tmp_path / "dataset.json")
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2")
    with pytest.raises(DataError, match="of YOLO, give the folder"):
        annotations.read(tmp_path / "a.txt")


def test_parts_of_the_split_come_from_folders_and_names(tmp_path):
    for part in ("train", "valid", "test"):
        coco(tmp_path / part / "_annotations.coco.json", f"{part}.png")
    assert [image.split for image in annotations.read(tmp_path).images] == ["test", "train", "val"]
    coco(tmp_path / "other" / "instances_val2017.json", "a.png")
    assert [image.split for image in annotations.read(tmp_path / "other").images] == ["val"]


def test_roboflow_masks(tmp_path):
    labels = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    write_picture(tmp_path / "train" / "eye_jpg.rf.1_mask.png", labels)
    write_picture(tmp_path / "train" / "eye_jpg.rf.1.jpg", np.zeros((2, 3, 3)))
    legend = tmp_path / "train" / "_classes.csv"
    legend.write_text("Pixel Value, Class\n0, background\n1, disc\n2, cup\n")
    result = annotations.read(tmp_path)
    (image,) = result.images
    assert result.class_names == ("disc", "cup")
    assert (image.image, image.split) == ("eye_jpg.rf.1", "train")
    mask = annotations.draw(image, 2, 3, ("background", *result.class_names), "multiclass")
    np.testing.assert_array_equal(mask, labels)
    legend.write_text("Pixel Value, Class\n0, background\n1, disc\n")
    with pytest.raises(DataError, match="the number 2, which _classes.csv does not name"):
        annotations.read(tmp_path)
    legend.write_text("Pixel Value, Class\n")
    with pytest.raises(DataError, match="no class in it"):
        annotations.read(tmp_path)


def test_annotations_are_found_beside_the_images(tmp_path):
    images = tmp_path / "images"
    plant_pictures(images, "a.png", "b.png")
    (tmp_path / "README.txt").write_text("0 of 1")
    assert annotations.find(images) is None
    instances = coco(tmp_path / "instances.json", "a.png")
    assert annotations.find(images) == instances
    coco(tmp_path / "others.json", "a.png")
    with pytest.raises(DataError, match="several annotation files .*--annotations"):
        annotations.find(images)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2")
    assert annotations.find(images) == tmp_path / "labels"
    labelme(images / "a.json")
    assert annotations.find(images) == images


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"empty \(0 bytes\)"),
        (b'{"shapes": [', "not readable as JSON"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"shapes": [' + b"9" * 5000 + b"]}", "not readable as JSON"),
    ],
)
def test_damaged_json(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=f"a.json: .*{message}"):
        annotations.read(tmp_path / "a.json")


def test_json_that_would_take_too_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_MEMORY", 1_000_000)
    (tmp_path / "a.json").write_text('{"shapes": [' + "[]," * 20_000 + "[]]}")
    with pytest.raises(DataError, match="20003 lists and objects, which would take 0.0 GB"):
        annotations.read(tmp_path / "a.json")
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="expected an annotation file of at most"):
        annotations.read(tmp_path / "a.json")
    monkeypatch.setattr(sources, "MOST_FILES", 3)
    for k in range(4):
        labelme(tmp_path / "many" / f"{k}.json")
    with pytest.raises(DataError, match="more than 3 files"):
        annotations.read(tmp_path / "many")


def test_a_folder_of_rois(tmp_path):
    for name in ("a", "b"):
        with zipfile.ZipFile(tmp_path / f"{name}_RoiSet.zip", "w") as archive:
            archive.writestr("0001.roi", roifile.ImagejRoi.frompoints(POINTS).tobytes())
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"")
    result = annotations.read(tmp_path)
    assert [image.image for image in result.images] == ["a", "b"]
    assert result.class_names == ("structure",)
