"""Named segments of `.seg.nrrd`, DICOM SEG and RTSTRUCT, against highdicom, OpenCV and rt-utils."""

import json

import cv2
import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from seglib import case_io, config, layouts, prepare
from seglib.errors import DataError
from seglib.formats import dicom_seg, segments, volumes
from tests.helpers import (
    ORIENTATIONS,
    edit_dicom,
    numbered_volume,
    save_nifti,
    save_simpleitk,
    truth_of,
    write_series,
)

NAMES = ("liver", "left kidney", "tumour")


def blobs(shape, seed=0):
    """Three masks (S, H, W): smooth ones with holes, of which the third overlaps the first two."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(3, *shape)).astype(np.float32)
    smooth = [[cv2.GaussianBlur(plane, (9, 9), 3) for plane in one] for one in noise]
    return dict(zip(NAMES, np.array(smooth) > 0.02))


@pytest.fixture
def series(tmp_path):
    """The folder of a DICOM series of 6 slices, and its grid."""
    space, study = generate_uid(), generate_uid()
    stack = np.random.default_rng(1).integers(900, 1200, (6, 40, 30))
    folder = tmp_path / "ct"
    write_series(folder, stack, FrameOfReferenceUID=space, StudyInstanceUID=study, PatientID="p1")
    return folder


def classes(path):
    return {segment.number: k for k, segment in enumerate(segments.segments(path), start=1)}


def masks_of(grid, path):
    """Name -> mask, of all segments."""
    planes = segments.read(grid, path, classes(path))
    names = [segment.name for segment in segments.segments(path)]
    return {name: (planes.bits >> k & 1).astype(bool) for k, name in enumerate(names)}


def assert_same(result, expected):
    assert list(result) == list(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(result[name], mask, err_msg=name)


# ---- DICOM Segmentations


def test_a_segmentation_that_we_write_reads_back(series, tmp_path):
    grid = volumes.read_grid(series)
    expected = blobs(grid.shape)
    expected["left kidney"][2:] = False  # frames without a pixel are left out
    expected["empty"] = np.zeros(grid.shape, bool)
    path = dicom_seg.write(tmp_path / "seg.dcm", expected, grid)
    assert segments.kind_of(path) == segments.SEG
    assert_same(masks_of(grid, path), expected)
    assert segments.referenced_series(path) == [
        pydicom.dcmread(next(series.iterdir())).SeriesInstanceUID
    ]


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_segmentations_of_other_kinds(series, tmp_path, kind):
    grid = volumes.read_grid(series)
    headers = [pydicom.dcmread(file) for file in grid.files]
    dicom_seg._complete(headers, grid)
    mask = blobs(grid.shape)["liver"]
    pixels = grid.restore(mask)[..., None]
    pixels = pixels * 0.9 + 0.05 * (1 - pixels) if kind == "FRACTIONAL" else pixels[..., 0]
    more = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    written = highdicom.seg.Segmentation(
        headers,
        pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        kind,
        [dicom_seg._segment(1, "liver")],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="a",
        manufacturer_model_name="b",
        software_versions="c",
        device_serial_number="d",
        **more,
    )
    written.save_as(tmp_path / "seg.dcm")
    assert_same(masks_of(grid, tmp_path / "seg.dcm"), {"liver": mask})


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5], ids=str)
def test_a_segmentation_lies_on_the_series_as_nifti(series, tmp_path, orientation):
    grid = volumes.read_grid(series)
    expected = blobs(grid.shape)
    path = dicom_seg.write(tmp_path / "seg.dcm", expected, grid)
    turned = nibabel.Nifti1Image(np.zeros(grid.file_shape, np.int16), grid.affine)
    turned = save_nifti(turned.as_reoriented(orientation), tmp_path / "ct.nii.gz")
    assert_same(masks_of(volumes.read_grid(turned), path), expected)


def test_a_segmentation_of_another_series_is_refused(series, tmp_path):
    grid = volumes.read_grid(series)
    path = dicom_seg.write(tmp_path / "seg.dcm", blobs(grid.shape), grid)
    for file in series.iterdir():
        edit_dicom(file, FrameOfReferenceUID="1.2.3")
    with pytest.raises(DataError, match="drawn in another space"):
        masks_of(volumes.read_grid(series), path)
    for file in series.iterdir():
        edit_dicom(file, FrameOfReferenceUID=None, PixelSpacing=[0.5, 0.9])
    with pytest.raises(DataError, match="voxels beside those of its volume"):
        masks_of(volumes.read_grid(series), path)


@pytest.mark.parametrize(
    "tags, message",
    [
        ({"PixelData": b"\0\0"}, "cut short or compressed"),
        ({"NumberOfFrames": 9999}, "9999 frames of 40x30 pixels, but"),
        ({"Rows": 60000, "Columns": 60000}, "cut short or compressed"),
        ({"SegmentSequence": None}, "without segments"),
        ({"SharedFunctionalGroupsSequence": None}, "frame 1 does not say"),
        ({"SegmentationType": "OTHER"}, "SegmentationType 'OTHER'"),
    ],
)
def test_damaged_segmentations_are_named(series, tmp_path, tags, message):
    grid = volumes.read_grid(series)
    path = dicom_seg.write(tmp_path / "seg.dcm", blobs(grid.shape), grid)
    with pytest.raises(DataError, match=f"seg.dcm: .*{message}"):
        masks_of(grid, edit_dicom(path, **tags))


# ---- structures of radiotherapy


def write_rtstruct(path, series, contours, kind="CLOSED_PLANAR", **tags):
    """A structure set: name -> list of points (n, 3) in mm."""
    header = pydicom.dcmread(sorted(series.iterdir())[0])
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.Modality = meta.MediaStorageSOPClassUID, "RTSTRUCT"
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.PatientID, data.SeriesInstanceUID = header.PatientID, generate_uid()
    one = Dataset()
    one.SeriesInstanceUID = header.SeriesInstanceUID
    study = Dataset()
    study.RTReferencedSeriesSequence = Sequence([one])
    frame = Dataset()
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    data.ReferencedFrameOfReferenceSequence = Sequence([frame])
    data.StructureSetROISequence, data.ROIContourSequence = Sequence(), Sequence()
    for number, (name, lines) in enumerate(contours.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, number, 0]
        drawn.ContourSequence = Sequence()
        for points in lines:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.6g}" for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(drawn)
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(path)
    return path


def traced(mask):
    """The contours of a mask (S, H, W), slices as stored, through the centres of pixels in mm."""
    lines = []
    for k, plane in enumerate(mask):
        found, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
        for contour in found:
            column, row = contour[:, 0].T
            lines.append(
                np.column_stack([-20 + 0.7 * column, -30 + 0.5 * row, 10 + 2.5 * k + 0 * row])
            )
    return lines


def filled(lines, shape):
    """What OpenCV draws of contours whose corners are centres of pixels."""
    mask = np.zeros(shape, np.uint8)
    for k in range(shape[0]):
        corners = [
            np.rint((points[:, :2] - (-20, -30)) / (0.7, 0.5)).astype(np.int32)
            for points in lines
            if round((points[0, 2] - 10) / 2.5) == k
        ]
        cv2.fillPoly(mask[k], corners, 1)
    return mask.astype(bool)


def test_contours_of_a_mask_give_the_mask_back(series, tmp_path):
    grid = volumes.read_grid(series)
    expected = blobs(grid.shape)
    lines = {name: traced(grid.restore(mask)) for name, mask in expected.items()}
    path = write_rtstruct(tmp_path / "rs.dcm", series, lines)
    assert segments.kind_of(path) == segments.RTSTRUCT
    assert [segment.colour for segment in segments.segments(path)][1] == (255, 2, 0)
    for name, lines_of in lines.items():
        drawn = filled(lines_of, grid.file_shape)
        np.testing.assert_array_equal(drawn, grid.restore(expected[name]))
    assert_same(masks_of(grid, path), expected)


def test_contours_between_pixels_are_those_of_their_centres(series, tmp_path):
    grid = volumes.read_grid(series)
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radius = rng.uniform(4, 8, 40)
    outer = np.column_stack([radius * np.cos(angles), radius * np.sin(angles)]) + (-9, -20)
    inner = np.array([[-10, -21], [-8, -21], [-8.1, -19], [-10, -19]])
    lines = [np.column_stack([ring, np.full(len(ring), 12.5)]) for ring in (outer, inner)]
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"ring": lines})
    mask = grid.restore(masks_of(grid, path)["ring"])
    rows, columns = np.indices(grid.file_shape[1:])
    centres = np.column_stack([-20 + 0.7 * columns.ravel(), -30 + 0.5 * rows.ravel()])
    inside, near = np.zeros(len(centres), bool), np.zeros(len(centres), bool)
    for ring in (outer, inner):
        wide, narrow = (Outline(ring).contains_points(centres, radius=r) for r in (0.02, -0.02))
        near |= wide != narrow  # on the line, where the pixel belongs to the structure
        inside ^= Outline(ring).contains_points(centres)
    assert near.sum() < 8
    np.testing.assert_array_equal(mask[1].ravel()[~near], inside[~near])
    assert mask[1].any() and not mask[[0, 2, 3, 4, 5]].any()


def sample_series(folder):
    """Slices under the contours of pydicom's RTSTRUCT, with corners at centres of pixels."""
    space = pydicom.dcmread(get_testdata_file("rtstruct.dcm"), force=True)
    space = space.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    write_series(
        folder,
        np.zeros((3, 90, 110), np.int16),
        ImagePositionPatient=lambda k: [-275, -225, -200 + 10 * k],
        PixelSpacing=[5, 5],
        FrameOfReferenceUID=space,
        PatientID="p",
    )
    return folder


def test_the_sample_of_pydicom_agrees_with_rt_utils(tmp_path):
    # Installed with  pip install --no-deps rt-utils, as it asks for a second build of OpenCV.
    helper = pytest.importorskip("rt_utils.image_helper")
    folder = sample_series(tmp_path / "ct")
    path = get_testdata_file("rtstruct.dcm")
    grid = volumes.read_grid(folder)
    mask = grid.restore(masks_of(grid, path)["patient"])
    slices = helper.load_sorted_image_series(str(folder))
    matrix = helper.get_patient_to_pixel_transformation_matrix(slices)
    contours = pydicom.dcmread(path, force=True).ROIContourSequence[0].ContourSequence
    assert len(contours) == 3
    for k, contour in enumerate(contours):
        data = [list(map(float, contour.ContourData))]
        drawn = helper.get_slice_mask_from_slice_contour_data(slices[k], data, matrix)
        # rt-utils makes masks of columns x rows, which fits only square slices.
        size = drawn.shape
        np.testing.assert_array_equal(mask[k][: size[0], : size[1]], drawn[:90, :110].astype(bool))


def test_a_file_of_rt_utils_agrees_with_its_own_masks(tmp_path):
    rt_utils = pytest.importorskip("rt_utils")
    folder = tmp_path / "ct"
    stack = np.zeros((5, 48, 48), np.int16)
    more = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), "")
    more |= dict.fromkeys(("StudyDate", "StudyTime", "AccessionNumber", "StudyDescription"), "")
    more |= {"FrameOfReferenceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    # rt-utils takes the distance of rows for that of columns: they must be equal.
    write_series(folder, stack, StudyID="", SeriesNumber=1, PixelSpacing=[0.5, 0.5], **more)
    grid = volumes.read_grid(folder)
    struct = rt_utils.RTStructBuilder.create_new(dicom_series_path=str(folder))
    expected = blobs(grid.shape, seed=7)
    for name, mask in expected.items():
        array = np.moveaxis(grid.restore(mask), 0, -1)
        struct.add_roi(array, name=name, approximate_contours=name == "liver")
    struct.save(str(tmp_path / "rs.dcm"))
    again = rt_utils.RTStructBuilder.create_from(str(folder), str(tmp_path / "rs.dcm"))
    result = masks_of(grid, tmp_path / "rs.dcm")
    for name in NAMES:
        own = np.moveaxis(again.get_roi_mask_by_name(name), -1, 0)
        np.testing.assert_array_equal(grid.restore(result[name]), own)
        np.testing.assert_array_equal(result[name], expected[name])


SQUARE = np.array([[-15, -25], [-10, -25], [-10, -20], [-15, -20]])


def square(z):
    return np.column_stack([SQUARE, np.full(4, z)])


@pytest.mark.parametrize(
    "lines, message",
    [
        ([square(11.3)], "liver: a contour lies 0.48 slices beside slice 1|beside slice 0"),
        ([square(900)], "liver: all its contours lie outside"),
        ([square(10) * np.nan], "liver: contour 1 has 4 points, not all at finite"),
        ([np.zeros((1, 2))], "liver: contour 1 is not a list of points in space"),
        ([square(10) + np.outer([0, 0, 5, 5], [0, 0, 1])], "slices beside slice"),
    ],
)
def test_contours_that_fit_no_slice_are_named(series, tmp_path, lines, message):
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"liver": lines})
    with pytest.raises(DataError, match=message):
        masks_of(volumes.read_grid(series), path)


def test_what_is_left_out_of_structures_is_said(series, tmp_path):
    lines = [square(10), square(17.5), square(900)]
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"liver": lines, "nothing": []})
    planes = segments.read(volumes.read_grid(series), path, classes(path))
    assert [segment.name for segment in segments.segments(path)] == ["liver"]
    assert sorted(planes.notes) == [
        "liver: contours on 1 planes outside the volume are left out",
        "liver: no contour on 2 slices between its first and its last one: empty there",
        "structures without an area are left out: nothing",
    ]


# ---- segmentations of 3D Slicer


def slicer_fields(names, layers=None, values=None, with_values=True):
    fields = {}
    for k, name in enumerate(names):
        fields |= {f"Segment{k}_ID": f"Segment_{k}", f"Segment{k}_Name": name}
        fields[f"Segment{k}_Color"] = "0.5 0.25 1"
        if with_values:
            fields[f"Segment{k}_Layer"] = str(layers[k])
            fields[f"Segment{k}_LabelValue"] = str(values[k])
    return fields


def test_layers_of_slicer_that_overlap(tmp_path):
    image = numbered_volume((12, 10, 6))
    grid = volumes.read_grid(save_nifti(image, tmp_path / "ct.nii.gz"))
    expected = blobs(grid.shape)
    arrays = [grid.restore(mask) for mask in expected.values()]
    lower = np.where(arrays[1] & ~arrays[0], 2, arrays[0]).astype(np.uint8)
    expected["left kidney"] &= ~expected["liver"]
    stack = np.stack([lower, arrays[2].astype(np.uint8)], axis=-1)
    path = save_simpleitk(
        stack, tmp_path / "a.seg.nrrd", image.affine, **slicer_fields(NAMES, (0, 0, 1), (1, 2, 1))
    )
    assert segments.kind_of(path) == segments.SLICER
    assert [(s.number, s.colour) for s in segments.segments(path)] == [
        (n, (128, 64, 255)) for n in (1, 2, 3)
    ]
    assert_same(masks_of(grid, path), expected)
    # Before version 4.11 each segment was a layer of its own.
    stack = np.stack([grid.restore(mask) for mask in expected.values()], axis=-1).astype(np.uint8)
    path = save_simpleitk(
        stack, tmp_path / "old.nrrd", image.affine, **slicer_fields(NAMES, with_values=False)
    )
    assert_same(masks_of(grid, path), expected)
    planes = segments.read(grid, path, classes(path))
    both = int((expected["liver"] & expected["tumour"]).sum())
    assert f"{both} voxels belong to liver and tumour" in planes.notes
    assert (planes.labels[expected["tumour"]] == 3).all()  # the later one lies above


def test_a_segmentation_of_slicer_may_cover_only_a_box(tmp_path):
    image = numbered_volume((12, 10, 6))
    grid = volumes.read_grid(save_nifti(image, tmp_path / "ct.nii.gz"))
    array = np.zeros((12, 10, 6), np.uint8)
    array[3:8, 2:7, 1:4] = np.random.default_rng(0).integers(0, 2, (5, 5, 3))
    fields = slicer_fields(("liver",), (0,), (1,))
    box = image.affine.copy()
    box[:3, 3] = (image.affine @ [3, 2, 1, 1])[:3]
    path = save_simpleitk(array[3:8, 2:7, 1:4], tmp_path / "a.seg.nrrd", box, **fields)
    assert_same(masks_of(grid, path), {"liver": grid.display(array).astype(bool)})
    box[0, 3] += 0.4 * image.affine[0, 0]  # up to half a voxel is rounding
    path = save_simpleitk(array[3:8, 2:7, 1:4], tmp_path / "b.seg.nrrd", box, **fields)
    assert_same(masks_of(grid, path), {"liver": grid.display(array).astype(bool)})
    box[0, 3] += 30
    path = save_simpleitk(np.ones((5, 5, 3), np.uint8), tmp_path / "c.seg.nrrd", box, **fields)
    with pytest.raises(DataError, match="c.seg.nrrd: .* voxels of liver lie outside the volume"):
        masks_of(grid, path)


def test_damaged_lists_of_segments_are_named(tmp_path):
    array = np.zeros((4, 5, 6), np.uint8)
    grid = volumes.read_grid(save_simpleitk(array, tmp_path / "ct.nrrd"))
    wrong = slicer_fields(("liver",), (7,), (1,))
    with pytest.raises(DataError, match="liver is in layer 7, but there are 1"):
        masks_of(grid, save_simpleitk(array, tmp_path / "a.seg.nrrd", **wrong))
    wrong = slicer_fields(("liver",), (0,), ("one",))
    with pytest.raises(DataError, match="damaged list of segments"):
        masks_of(grid, save_simpleitk(array, tmp_path / "b.seg.nrrd", **wrong))
    with pytest.raises(DataError, match="without any segment"):
        masks_of(grid, save_simpleitk(array, tmp_path / "c.seg.nrrd"))


# ---- as labels of a data set


def tree(tmp_path, series, kind, expected):
    """`images/p1` with labels of one kind in `labels`."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    series = series.rename(root / "images" / "p1")
    grid = volumes.read_grid(series)
    if kind == "seg":
        dicom_seg.write(root / "labels" / "p1.dcm", expected, grid)
    elif kind == "rtstruct":
        lines = {name: traced(grid.restore(mask)) for name, mask in expected.items()}
        write_rtstruct(root / "labels" / "p1.dcm", series, lines)
    else:
        stack = np.stack([grid.restore(mask) for mask in expected.values()], axis=-1)
        fields = slicer_fields(expected, range(3), (1, 1, 1))
        save_simpleitk(
            stack.astype(np.uint8), root / "labels" / "p1.seg.nrrd", grid.affine, **fields
        )
    return root, grid


@pytest.mark.parametrize("kind", ["seg", "rtstruct", "slicer"])
def test_labels_with_names_become_classes(series, tmp_path, kind):
    expected = blobs((6, 40, 30))
    root, grid = tree(tmp_path, series, kind, expected)

    def truth(preset, **changes):
        cfg = config.preset(preset, "smoke", data_root=str(root), image_size=16, **changes)
        cases = layouts.scan(cfg)
        store = type("Store", (), {"cases": cases})
        result = truth_of(store, cfg)
        return cases, np.stack([result[name][1] for name in sorted(result)])

    hu = {"window_level": 40, "window_width": 400}
    names = ("background", "tumour", "liver")
    cases, labels = truth("rsna", class_names=names, label_map={})
    assert len(cases) == 6
    both = np.where(expected["tumour"], 1, np.where(expected["liver"], 2, 0))
    np.testing.assert_array_equal(labels, both)  # the later segment, the tumour, lies above
    _, labels = truth("binary", class_names=("kidney_left",), **hu)
    np.testing.assert_array_equal(labels, expected["left kidney"])
    cases, _ = truth("binary", class_names=("tumour", "liver"), task="multilabel", loss="bce", **hu)
    planes = [
        np.stack([_mask(row, name, cases) for _, row in cases.iterrows()])
        for name in ("tumour", "liver")
    ]
    np.testing.assert_array_equal(planes[0], expected["tumour"])
    np.testing.assert_array_equal(planes[1], expected["liver"])


def _mask(row, name, cases):
    cfg = config.preset(
        "binary",
        "smoke",
        class_names=("tumour", "liver"),
        task="multilabel",
        loss="bce",
        window_level=40,
        window_width=400,
    )
    return case_io.read_mask(row, name, cfg, False).pixels


def test_classes_without_a_segment_are_not_annotated(series, tmp_path):
    root, _ = tree(tmp_path, series, "seg", blobs((6, 40, 30)))
    names = ("background", "liver", "spleen")
    cfg = config.preset("rsna", "smoke", data_root=str(root), class_names=names, label_map={})
    cases = layouts.scan(cfg)
    assert set(cases["annotated"]) == {"liver"}
    assert any("spleen not among its segments" in note for note in cases.attrs["notes"])
    cfg.work_dir = str(tmp_path / "work")
    notes = prepare.build(cases, cfg).report.notes
    assert any("background: no pixel is annotated as such" in note for note in notes)
    assert any("set class_names to those that cases have (liver)" in note for note in notes)
    cases.loc[0, "annotated"] = ",".join(names)
    notes = prepare.build(cases, cfg).report.notes
    assert not any("no pixel is annotated" in note for note in notes)
    cfg = cfg.replace(class_names=("background", "spleen"))
    problem = layouts.scan(cfg)["problem"].iloc[0]
    assert "its segments are liver, left kidney, tumour; none is spleen" in problem


@pytest.mark.parametrize("kind", ["seg", "rtstruct", "slicer"])
def test_segments_name_the_classes_where_nobody_did(series, tmp_path, kind, capsys):
    """Classes that overlap each keep all of their voxels."""
    expected = blobs((6, 40, 30))
    root, _ = tree(tmp_path, series, kind, expected)
    hu = {"window_level": 40, "window_width": 400}
    cfg = config.preset("binary", "smoke", data_root=str(root), image_size=16, **hu)
    cases = layouts.scan(cfg)
    assert (cfg.task, cfg.class_names) == ("multilabel", ("liver", "left kidney", "tumour"))
    for name, mask in expected.items():
        planes = [case_io.read_mask(row, name, cfg, False).pixels for _, row in cases.iterrows()]
        np.testing.assert_array_equal(np.stack(planes), mask, err_msg=name)
    printed = capsys.readouterr().out
    assert f"{expected['tumour'].mean():.2%}" in printed
    assert "3 classes that overlap, named segments" in printed


def test_spellings_of_one_name_are_one_class(tmp_path, capsys):
    spellings = [("Left Kidney", "background", "liver"), ("Liver", "none", "kidney_left")]
    for k, names in enumerate(spellings):
        labels = np.random.default_rng(k).integers(0, 4, (12, 10, 6)).astype(np.uint8)
        fields = slicer_fields(names, (0, 0, 0), (1, 2, 3))
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        save_simpleitk(100 * labels.astype(np.int16), tmp_path / f"data/images/{k}.nrrd")
        save_simpleitk(labels, tmp_path / f"data/labels/{k}.seg.nrrd", **fields)
    cfg = config.preset("binary", "smoke", data_root=str(tmp_path / "data"), image_size=16)
    tables = layouts.scan(cfg).groupby("volume")["label_numbers"].first()
    assert cfg.class_names == ("background", "Left Kidney", "liver", "none")
    assert list(map(json.loads, tables)) == [{"1": 1, "2": 0, "3": 2}, {"1": 2, "2": 3, "3": 1}]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[-2] for row in rows if "segment" in row] == ["2", "2", "1"]


def test_labels_with_and_without_names_are_not_mixed(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (12, 10, 6)).astype(np.uint8)
    fields = slicer_fields(("spleen", "liver"), (0, 0), (1, 2))
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in ("a", "b"):
        save_simpleitk(100 * labels.astype(np.int16), tmp_path / f"data/images/{name}.nrrd")
    save_simpleitk(labels, tmp_path / "data/labels/a.seg.nrrd", **fields)
    save_simpleitk(labels, tmp_path / "data/labels/b.nrrd")
    root = {"data_root": str(tmp_path / "data"), "image_size": 16}
    with pytest.raises(DataError, match="a.seg.nrrd names its segments, b.nrrd has numbers"):
        layouts.scan(config.preset("binary", "smoke", **root))
    names = {"class_names": ("background", "liver", "spleen"), "task": "multiclass"}
    cases = layouts.scan(config.preset("binary", "smoke", **root, **names))
    tables = cases.groupby("volume")["label_numbers"].first()
    assert json.loads(tables["a"]) == {"1": 2, "2": 1} and tables["b"] == ""
