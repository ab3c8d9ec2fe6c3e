"""ROI files and ROI sets of ImageJ, as roifile writes them."""

import zipfile

import numpy as np
import pytest
import roifile

from seglib import annotations
from seglib.annotations import sources
from seglib.errors import DataError

SQUARE = np.array([[2, 2], [12, 2], [12, 12], [2, 12]])


def polygon(points=SQUARE, **fields):
    roi = roifile.ImagejRoi.frompoints(points)
    for name, value in fields.items():
        setattr(roi, name, value)
    return roi


def box(kind, left, top, right, bottom, **fields):
    return roifile.ImagejRoi(
        roitype=kind, left=left, top=top, right=right, bottom=bottom, version=228, **fields
    )


def write_set(path, *rois):
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number:04d}-0007.roi", roi.tobytes())
    return path


def mask_of(result, names=("nucleus",)):
    return annotations.draw(result.images[0], 20, 30, names, "binary")


def test_areas_of_all_kinds(tmp_path):
    rois = [
        polygon(name="nucleus-1"),
        box(roifile.ROI_TYPE.RECT, 14, 2, 18, 7, name="nucleus 2"),
        box(roifile.ROI_TYPE.OVAL, 20, 4, 28, 8, name="nucleus_03"),
    ]
    result = annotations.read(write_set(tmp_path / "RoiSet_cell.zip", *rois))
    mask = mask_of(result).astype(bool)
    assert mask[2:12, 2:12].all() and mask[2:7, 14:18].all()
    rows, columns = np.mgrid[:20, 19:30] + 0.5
    oval = ((columns - 24) / 4) ** 2 + ((rows - 6) / 2) ** 2 < 1
    np.testing.assert_array_equal(mask[:, 19:], oval)
    assert mask.sum() == 100 + 20 + oval.sum()
    image = result.images[0]
    assert image.image == "cell" and image.turned is False
    assert result.class_names == ("nucleus",) and result.format == "ImageJ"


def test_points_between_pixels(tmp_path):
    roi = polygon(SQUARE + 0.6)
    roi.tofile(tmp_path / "cell.roi")
    mask = mask_of(annotations.read(tmp_path / "cell.roi"), ("structure",))
    assert mask[3:13, 3:13].all() and mask.sum() == 100


def test_composite_rois_have_holes(tmp_path):
    """A path as ImageJ's ShapeRoi stores it: move, lines and close, ring after ring."""
    path = []
    for ring in (SQUARE, SQUARE // 2 + 3, SQUARE // 2 + [15, 0]):
        path += [0, *ring[0]]
        for corner in ring[1:]:
            path += [1, *corner]
        path += [4]
    path = np.array(path, np.float32)
    roi = box(roifile.ROI_TYPE.RECT, 2, 1, 21, 12, name="nucleus")
    roi.shape_roi_size, roi.multi_coordinates = len(path), path
    result = annotations.read(write_set(tmp_path / "cell.zip", roi))
    mask = mask_of(result)
    assert mask.sum() == 100 - 25 + 25 and not mask[4:9, 4:9].any() and mask[2, 17] == 1


@pytest.mark.parametrize(
    "fields, class_name",
    [
        ({"name": "0012-0034"}, "structure"),
        ({"name": "0012-0034", "group": 3}, "group 3"),
        ({"name": "golgi body (2)"}, "golgi body"),
        ({"name": "", "group": 0}, "structure"),
        ({"name": "CD8-positive"}, "CD8-positive"),
    ],
)
def test_the_class_is_the_name_without_its_number(tmp_path, fields, class_name):
    result = annotations.read(write_set(tmp_path / "a.zip", polygon(**fields)))
    assert result.class_names == (class_name,)


def test_lines_are_left_out(tmp_path):
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, x1=1, y1=1, x2=5, y2=5, version=228)
    result = annotations.read(write_set(tmp_path / "a.zip", line, polygon()))
    assert len(result.images[0].shapes) == 1 and "left out: line (1)" in result.notes[0]


def test_slices_of_a_stack_are_refused(tmp_path):
    rois = [polygon(position=1), polygon(position=2)]
    with pytest.raises(DataError, match="different slices"):
        annotations.read(write_set(tmp_path / "a.zip", *rois))


def test_damaged_rois_are_named(tmp_path):
    whole = polygon(name="nucleus").tobytes()
    for wrong in (
        whole[:20],
        whole[:70],
        b"Jout" + whole[4:],
        whole[:16] + b"\x7f\xff" + whole[18:],
    ):
        (tmp_path / "a.roi").write_bytes(wrong)
        with pytest.raises(DataError, match="a.roi: .*not readable as a ROI of ImageJ"):
            annotations.read(tmp_path / "a.roi")


def test_archives_that_grow_are_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(30_000_000))
    with pytest.raises(DataError, match="bomb.zip: its entry 'a.roi' grows to more than 20 MB"):
        annotations.read(tmp_path / "bomb.zip")
    monkeypatch.setattr(sources, "MOST_UNPACKED", 1000)
    with pytest.raises(DataError, match="or all to more than"):
        annotations.read(write_set(tmp_path / "many.zip", *[polygon()] * 20))


def test_archives_that_are_damaged_or_of_something_else(tmp_path):
    path = write_set(tmp_path / "a.zip", polygon())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not readable as a ZIP file"):
        annotations.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.txt", "x")
    with pytest.raises(DataError, match="none of the annotation files that are read"):
        annotations.read(path)
