"""`seglib.annotations.writers`: files that pycocotools and our readers read as the same masks."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from seglib import annotations, tables
from seglib.annotations import writers
from seglib.errors import ConfigError, DataError

CLASSES = ("disc", "cup")


def nested_planes(shape=(40, 60)):
    """A disc with two holes and a second component, and a cup inside it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (x - 25) ** 2 + (y - 20) ** 2 < 300
    disc &= (x - 20) ** 2 + (y - 20) ** 2 > 20
    disc &= (x - 31) ** 2 + (y - 21) ** 2 > 12
    disc |= (x > 50) & (y > 30)
    return {"disc": disc, "cup": (x - 25) ** 2 + (y - 12) ** 2 < 30}


@pytest.fixture
def coco(capsys):
    """A function: the `COCO` object of pycocotools for a file."""
    return lambda path: COCO(str(path))


@pytest.mark.parametrize("segmentation", writers.SEGMENTATIONS)
def test_coco_files_hold_the_masks_for_pycocotools(tmp_path, coco, segmentation):
    planes = nested_planes()
    writer = writers.Coco(tmp_path, CLASSES, segmentation, root=tmp_path / "pictures")
    writer.add(tmp_path / "pictures" / "b" / "2.png", planes)
    writer.add(
        tmp_path / "pictures" / "a" / "1.png", {"disc": np.zeros((7, 5), bool), "cup": np.eye(7, 5)}
    )
    path = writer.save()
    assert path == tmp_path / "annotations.json"
    file = coco(path)
    assert [entry["name"] for entry in file.loadCats([1, 2])] == ["disc", "cup"]
    first, second = file.loadImgs([1, 2])
    assert (first["file_name"], first["height"], first["width"]) == ("a/1.png", 7, 5)
    assert second["file_name"] == "b/2.png"
    assert len(file.getAnnIds(imgIds=1)) == 5  # pixels that share a corner only are components
    for number, name in enumerate(CLASSES, 1):
        entries = file.loadAnns(file.getAnnIds(imgIds=2, catIds=number))
        masks = np.array([file.annToMask(entry) for entry in entries])
        np.testing.assert_array_equal(masks.sum(axis=0), planes[name])
        for entry, mask in zip(entries, masks):
            assert entry["area"] == mask.sum() and entry["iscrowd"] == 0
            rows, columns = np.nonzero(mask)
            left, top, width, height = entry["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_of_the_picture_as_viewers_turn_it(tmp_path, coco, orientation):
    planes = nested_planes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(planes["disc"]).convert("L").save(tmp_path / "mask.png", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "mask.png"))) > 0
    writer = writers.Coco(tmp_path, CLASSES, "rle")
    writer.add("mask.png", planes, orientation)
    file = coco(writer.save())
    masks = [file.annToMask(entry) for entry in file.loadAnns(file.getAnnIds(catIds=1))]
    np.testing.assert_array_equal(np.sum(masks, axis=0), shown)
    document = json.loads(
        writers.LabelMe(tmp_path).add(tmp_path / "mask.png", planes, orientation).read_text()
    )
    assert (document["imageHeight"], document["imageWidth"]) == shown.shape


def test_labelme_files_hold_the_masks(tmp_path):
    planes = nested_planes()
    path = writers.LabelMe(tmp_path / "out").add(tmp_path / "pictures" / "x.y.png", planes)
    assert path == tmp_path / "out" / "x.y.json"
    document = json.loads(path.read_text())
    assert document["imagePath"] == "../pictures/x.y.png" and document["imageData"] is None
    assert [shape["label"] for shape in document["shapes"]] == ["disc", "disc", "cup"]
    (image,) = annotations.read(path).images
    mask = annotations.draw(image, 40, 60, CLASSES, "multilabel")
    np.testing.assert_array_equal(mask, np.stack([planes["disc"], planes["cup"]], -1))


def test_ignored_pixels_have_the_label_of_labelme(tmp_path):
    planes = {"disc": np.eye(6, dtype=bool), "ignore": np.eye(6)[::-1]}
    path = writers.LabelMe(tmp_path).add("x.png", planes)
    (image,) = annotations.read(path).images
    mask = annotations.draw(image, 6, 6, ("disc",), "binary")
    np.testing.assert_array_equal(mask, np.where(planes["ignore"], 255, planes["disc"]))


def test_the_form_names_the_writer(tmp_path):
    assert isinstance(writers.writer("labelme", tmp_path, CLASSES), writers.LabelMe)
    for form, segmentation in zip(tables.ANNOTATION_FORMS, writers.SEGMENTATIONS):
        assert writers.writer(form, tmp_path / "a.json", CLASSES, 2).segmentation == segmentation
    with pytest.raises(ConfigError, match="annotations: 'voc' .* expected coco, coco_rle"):
        writers.writer("voc", tmp_path, CLASSES)
    with pytest.raises(ConfigError, match="segmentation: 'png' .* expected polygons, rle"):
        writers.Coco(tmp_path, CLASSES, "png")
    with pytest.raises(ConfigError, match="tolerance: -1 "):
        writers.writer("coco", tmp_path, CLASSES, -1)


def test_what_contradicts_itself_is_refused(tmp_path):
    writer = writers.Coco(tmp_path, CLASSES)
    with pytest.raises(DataError, match=r"x\.png: masks of \[\(3, 4\), \(4, 3\)\] pixels"):
        writer.add("x.png", {"disc": np.ones((3, 4)), "cup": np.ones((4, 3))})
    with pytest.raises(DataError, match=r"x\.png: masks of \[\] pixels"):
        writer.add("x.png", {})
    writer.add("x.png", {"disc": np.ones((3, 4))})
    with pytest.raises(DataError, match=r"x\.png: added twice"):
        writer.add("x.png", {"disc": np.ones((3, 4))})


def test_files_that_may_be_corrected_are_not_overwritten(tmp_path):
    for form in ("coco", "labelme"):
        for attempt in range(2):
            with pytest.raises(DataError, match="corrections") if attempt else nullcontext():
                writer = writers.writer(form, tmp_path, CLASSES)
                writer.add("x.png", {"disc": np.ones((3, 4))})
                writer.save()


def test_ignored_pixels_are_a_category_of_their_own_in_coco(tmp_path):
    writer = writers.Coco(tmp_path, CLASSES, "rle")
    writer.add("x.png", {"disc": np.ones((3, 4)), "ignore": np.eye(3, 4)})
    document = json.loads(writer.save().read_text())
    assert [entry["name"] for entry in document["categories"]] == ["disc", "cup", "ignore"]
