"""COCO files: as the COCO API reads them, with holes, and what contradicts itself."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO

from seglib import annotations
from seglib.errors import DataError

CLASSES = ("background", "disc", "cup")
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
HOLE = [4, 4, 8, 4, 8, 8, 4, 8]


def document(*segmentations, **of_each):
    entries = [
        {"id": k, "image_id": 7, "category_id": 3, "segmentation": segmentation, **of_each}
        for k, segmentation in enumerate(segmentations)
    ]
    return {
        "images": [{"id": 7, "file_name": "eye.png", "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "disc", "color": "#ff0080"}, {"id": 9, "name": "cup"}],
        "annotations": entries,
    }


def read(tmp_path, content, **options):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return annotations.read(path, **options)


def mask_of(result):
    (image,) = result.images
    return annotations.draw(image, 20, 30, CLASSES, "multiclass")


def random_mask(seed):
    return np.random.default_rng(seed).random((20, 30)) < 0.4


def runs_of(mask):
    runs, pixels = [0], mask.ravel(order="F")
    for previous, value in zip([False, *pixels], pixels):
        if value == previous:
            runs[-1] += 1
        else:
            runs.append(1)
    return runs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("compressed", [True, False])
def test_rle_has_the_pixels_of_the_reference(tmp_path, seed, compressed):
    mask = random_mask(seed)
    encoded = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"].decode() if compressed else runs_of(mask)
    result = read(tmp_path, document({"size": [20, 30], "counts": counts}))
    np.testing.assert_array_equal(mask_of(result), reference.decode(encoded))


def test_polygons_have_the_pixels_of_the_reference(tmp_path):
    """Corners on pixel corners: there the reference has no rounding of its own."""
    random = np.random.default_rng(5)
    parts = []
    for _ in range(4):
        left, top = random.integers(0, (15, 10))
        right, bottom = (left, top) + random.integers(1, 9, 2)
        parts.append([left, top, right, top, right, bottom, left, bottom])
    parts = [[int(number) for number in part] for part in parts]
    content = document(parts, area=1)
    result = read(tmp_path, content, nested="filled")
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    np.testing.assert_array_equal(mask_of(result), coco.annToMask(coco.anns[0]))
    assert result.class_names == ("disc", "cup")
    assert result.colours == {"disc": (255, 0, 128)}


@pytest.mark.parametrize("area, pixels", [(84, 84), (81.5, 84), (100, 100), (98, 100)])
def test_area_says_whether_an_inner_polygon_is_a_hole(tmp_path, area, pixels):
    result = read(tmp_path, document([SQUARE, HOLE], area=area))
    assert mask_of(result).sum() == pixels
    assert "lies inside another one" in result.notes[0]


def test_what_other_annotations_say_holds_for_all(tmp_path):
    content = document([SQUARE, HOLE], [[x + 14 for x in SQUARE], [x + 14 for x in HOLE]])
    content["annotations"][0]["area"] = 84
    result = read(tmp_path, content)
    assert mask_of(result)[:12, :12].sum() == 84
    content["annotations"][1]["area"] = 100
    assert [len(shape.parts) for shape in read(tmp_path, content).images[0].shapes] == [1, 2]


def test_unclear_holes_are_asked_for(tmp_path):
    with pytest.raises(DataError, match="annotation 1, .*--nested holes.*--nested filled"):
        read(tmp_path, document([SQUARE, HOLE]))
    assert mask_of(read(tmp_path, document([SQUARE, HOLE]), nested="holes")).sum() == 84
    assert mask_of(read(tmp_path, document([SQUARE, HOLE]), nested="filled")).sum() == 100
    island = [5, 5, 7, 5, 7, 7, 5, 7]
    islands = document([island, HOLE, SQUARE], area=88)
    assert mask_of(read(tmp_path, islands)).sum() == 88
    # Side by side and touching in a corner is not inside.
    beside = [12, 12, 14, 12, 14, 14, 12, 14]
    assert mask_of(read(tmp_path, document([SQUARE, beside]))).sum() == 104


def test_too_many_polygons_inside_each_other_are_refused(tmp_path):
    rings = [[k, k, 900 - k, k, 900 - k, 900 - k, k, 900 - k] for k in range(449)]
    with pytest.raises(DataError, match="annotation 1: 449 polygons, too many of them inside"):
        read(tmp_path, document(rings), nested="holes")


def test_boxes_and_crowds(tmp_path):
    content = document([SQUARE], [], area=100)
    content["annotations"][0]["iscrowd"] = 1
    notes = "\n".join(read(tmp_path, content).notes)
    assert "1 boxes without an outline are left out" in notes and "1 crowds" in notes
    with pytest.raises(DataError, match="all 2 annotations are boxes"):
        read(tmp_path, document([], []))


def test_an_image_without_annotations_stays(tmp_path):
    result = read(tmp_path, document())
    assert not mask_of(result).any()


def changed(*path, value):
    """A function that sets a value in a document."""

    def change(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (changed("annotations", 0, "image_id", value=8), "image_id is 8, which no image .* has 7"),
        (changed("annotations", 0, "category_id", value=1), "category_id is 1, .* it has 3, 9"),
        (changed("annotations", 0, "category_id", value=None), "its id is None"),
        (changed("annotations", 0, "category_id", value={}), "its id is {}"),
        (changed("annotations", 0, "segmentation", value=[[1, 2, 3]]), "a polygon is .1, 2, 3"),
        (changed("annotations", 0, "segmentation", value=["ab"]), "a polygon is 'ab'"),
        (changed("annotations", 0, "segmentation", value=[[1, 2, "x", 4]]), "pairs of numbers"),
        (changed("annotations", 0, "segmentation", value=[[1, 2, 1e300, 4]]), "is 1e.300"),
        (changed("annotations", 0, "segmentation", value=[[1, 2, float("nan"), 4]]), "is nan"),
        (changed("annotations", 0, "segmentation", value=[[1, 2, None, 4]]), "is nan"),
        (changed("annotations", 0, "segmentation", value={"size": [20, 30]}), "segmentation is"),
        (
            changed("annotations", 0, "segmentation", value={"size": [30, 20], "counts": [600]}),
            "an RLE of 30x20, but its image is 20x30",
        ),
        (
            changed("annotations", 0, "segmentation", value={"size": [20, 30], "counts": [-1]}),
            "whole numbers from 0",
        ),
        (
            changed("annotations", 0, "segmentation", value={"size": [20, 30], "counts": ["1"]}),
            "whole numbers from 0",
        ),
        (
            changed("annotations", 0, "segmentation", value={"size": [20, 30], "counts": "\x7f"}),
            "compressed RLE: character 1",
        ),
        (changed("annotations", 0, value=3), "annotation 1 is 3"),
        (changed("images", value=None), "images: None; expected a list"),
        (changed("images", 0, "file_name", value=""), "its image is ''"),
        (changed("images", 0, "height", value=-1), "height is -1"),
        (changed("images", 0, "height", value=10**400), "height is 1000"),
        (changed("categories", 1, "id", value=3), "its id 3 is that of another category"),
        (changed("categories", 1, "name", value=" "), "its name is ' '"),
        (changed("categories", value={}), "expected a list of objects"),
    ],
)
def test_contradictions_are_named(tmp_path, change, message):
    content = copy.deepcopy(document([SQUARE]))
    change(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path / 'instances.json'}: ")


def test_an_image_twice_is_refused(tmp_path):
    content = document([SQUARE])
    content["images"] *= 2
    with pytest.raises(DataError, match="id 7 is that of another image"):
        read(tmp_path, content)
    content["images"][1] = {**content["images"][0], "id": 8}
    with pytest.raises(DataError, match="file_name 'eye.png' is that of another image"):
        read(tmp_path, content)


def test_runs_that_do_not_fill_the_image_are_refused_when_drawn(tmp_path):
    result = read(tmp_path, document({"size": [20, 30], "counts": [600, 10**15]}))
    with pytest.raises(DataError, match="eye.png: annotation 1: runs of 1000000000000600 pixels"):
        mask_of(result)
