"""DICOM Segmentations, read back with highdicom and pydicom and laid over their slices."""

import shutil
import sys
import warnings

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import JPEG2000Lossless, SegmentationStorage, generate_uid

from seglib import phantoms
from seglib.errors import SeglibError
from seglib.formats import dicom_seg, volumes
from tests.helpers import edit_dicom, write_series

highdicom = pytest.importorskip("highdicom")

SHAPE = (5, 6, 9)  # of the files: slices, rows, columns
# What a Segmentation refers to.
STUDY = {"StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}
# Name -> ImageOrientationPatient, step from slice to slice in mm, slice_axis of the display
WAYS = {
    "axial": ([1, 0, 0, 0, 1, 0], (0, 0, 2.5), None),
    "axial, numbered downwards": ([1, 0, 0, 0, 1, 0], (0, 0, -2.5), None),
    "prone": ([-1, 0, 0, 0, -1, 0], (0, 0, 2.5), None),
    "sagittal": ([0, 1, 0, 0, 0, -1], (2.5, 0, 0), None),
    "oblique": ([0.8, 0.6, 0, 0, 0, -1], (1.5, -2, 0), None),
    "axial, shown as coronal": ([1, 0, 0, 0, 1, 0], (0, 0, 2.5), 1),
}


def series(folder, shape=SHAPE, **tags):
    """A CT series without patient attributes; a tag of None is taken out. Returns its folder."""
    stored = np.arange(np.prod(shape)).reshape(shape)
    added = {name: value for name, value in tags.items() if value is not None}
    removed = {name: None for name, value in tags.items() if value is None}
    for file in write_series(folder, stored, **{**STUDY, **added}):
        edit_dicom(file, **removed)
    return folder


def random_masks(grid, *names):
    rng = np.random.default_rng(0)
    return {name: rng.random(grid.shape) < 0.4 for name in names}


def planes(seg, headers):
    """(slice, row, column, segment) of a Segmentation, by the UIDs of its source slices."""
    uids = [header.SOPInstanceUID for header in headers]
    return seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)


def check(path, masks, grid):
    """Reads a written file back and compares it with the series and the masks; returns it."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in grid.files]
    seg = highdicom.seg.segread(path)
    for segment, mask in enumerate(masks.values()):
        np.testing.assert_array_equal(planes(seg, headers)[..., segment], grid.restore(mask))
    numbers = list(seg.segment_numbers)
    assert numbers == list(range(1, len(masks) + 1))
    assert [seg.get_segment_description(n).segment_label for n in numbers] == list(masks)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == headers[0][name].value
    placed = {header.SOPInstanceUID: list(header.ImagePositionPatient) for header in headers}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == placed[source]
    return seg


@pytest.mark.parametrize("way", WAYS)
def test_masks_come_back_on_their_slices_however_they_are_displayed(tmp_path, way):
    directions, step, cut = WAYS[way]
    series(
        tmp_path / "ct",
        ImageOrientationPatient=directions,
        ImagePositionPatient=lambda k: [5 + k * step[0], -7 + k * step[1], 11 + k * step[2]],
    )
    grid = volumes.read_grid(tmp_path / "ct", slice_axis=cut)
    masks = random_masks(grid, "liver", "spleen")
    masks["liver"][2] = False
    written = dicom_seg.write(tmp_path / "out" / "seg.dcm", masks, grid)
    assert written == tmp_path / "out" / "seg.dcm"
    assert list(written.parent.iterdir()) == [written]
    seg = check(written, masks, grid)
    assert (seg.Rows, seg.Columns) == SHAPE[1:]
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == directions


def test_the_display_reorders_axes_in_the_cases_above(tmp_path):
    """Else equality with the restored mask would say little."""
    orders, orientations = set(), set()
    for k, (directions, step, cut) in enumerate(WAYS.values()):
        series(
            tmp_path / str(k),
            ImageOrientationPatient=directions,
            ImagePositionPatient=lambda k, step=step: [k * side for side in step],
        )
        grid = volumes.read_grid(tmp_path / str(k), slice_axis=cut)
        orders.add(tuple(grid.orientation[:, 0]))
        orientations.add(tuple(grid.orientation.ravel()))
    assert len(orientations) >= 4 and len(orders) >= 2


# Plain, RLE and JPEG 2000, numbered upwards and downwards.
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_phantom_with_its_label_map(tmp_path, number):
    tree = phantoms.write("rsna", tmp_path / "ct", n=3)
    folder = sorted((tree / "train_images").glob("*/*"))[number]
    grid = volumes.read_grid(folder)
    labels = volumes.read_labels_like(grid, tree / "segmentations" / f"{folder.name}.nii")
    names = ("liver", "spleen", "left_kidney", "right_kidney", "bowel")
    masks = {name: labels == k for k, name in enumerate(names, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # highdicom's warning would print the patient's name
        written = dicom_seg.write(tmp_path / "seg.dcm", masks, grid)
    seg = check(written, masks, grid)
    assert seg.SegmentsOverlap == "NO" and seg.PatientID == pydicom.dcmread(grid.files[0]).PatientID
    filled = sum(mask.any(axis=(1, 2)).sum() for mask in masks.values())
    assert seg.NumberOfFrames == filled < len(masks) * len(grid.files)  # empty frames are left out


def test_the_file_is_a_segmentation_with_names_codes_and_its_maker(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct", SeriesNumber=4))
    names = ("liver", "left_kidney", "kidney_right", "Left Ventricle", "left lesion")
    masks = random_masks(grid, *names, "Lungenflügel")
    data = pydicom.dcmread(dicom_seg.write(tmp_path / "seg.dcm", masks, grid, about="a network"))
    assert data.SOPClassUID == data.file_meta.MediaStorageSOPClassUID == SegmentationStorage
    assert (data.Modality, data.SegmentationType, data.BitsAllocated) == ("SEG", "BINARY", 1)
    assert data.SeriesDescription == data.ContentDescription == "a network"
    assert data.SeriesInstanceUID != pydicom.dcmread(grid.files[0]).SeriesInstanceUID
    assert data.SeriesNumber == 104
    segment_codes = []
    for item in data.SegmentSequence:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (item.SegmentAlgorithmType, algorithm.AlgorithmName) == ("AUTOMATIC", "seglib")
        category = item.SegmentedPropertyCategoryCodeSequence[0]
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence", ())
        assert kind.CodingSchemeDesignator == "SCT"
        side_codes = [side.CodeValue for side in sides]
        segment_codes.append((category.CodeValue, kind.CodeValue, side_codes))
    anatomy, tissue = codes.CID7150.AnatomicalStructure.value, codes.CID7150.Tissue.value
    kidney = codes.SCT.Kidney.value
    assert segment_codes == [
        (anatomy, codes.SCT.Liver.value, []),
        (anatomy, kidney, [codes.SCT.Left.value]),
        (anatomy, kidney, [codes.SCT.Right.value]),
        (anatomy, codes.SCT.LeftVentricle.value, []),
        (tissue, tissue, []),
        (tissue, tissue, []),
    ]
    check(tmp_path / "seg.dcm", masks, grid)


def test_the_codes_are_those_of_the_standard():
    standard = {
        "right ventricle": codes.SCT.RightVentricle,
        "lung": codes.SCT.Lung,
        "spleen": codes.SCT.Spleen,
        "pancreas": codes.SCT.Pancreas,
    }
    for name, code in standard.items():
        assert dicom_seg.SNOMED_CODES[name][0] == code.value


def test_classes_may_overlap(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct"))
    masks = random_masks(grid, "lung", "lesion")
    masks["lesion"] &= masks["lung"]
    assert masks["lesion"].any()
    seg = check(dicom_seg.write(tmp_path / "seg.dcm", masks, grid), masks, grid)
    assert seg.SegmentsOverlap == "YES"


def test_masks_without_a_pixel(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct"))
    nothing = np.zeros(grid.shape, bool)
    masks = {"liver": nothing, "spleen": nothing}
    seg = check(dicom_seg.write(tmp_path / "none.dcm", masks, grid), masks, grid)
    assert seg.NumberOfFrames == 2 * SHAPE[0]
    masks = {**random_masks(grid, "liver"), "spleen": nothing}
    seg = check(dicom_seg.write(tmp_path / "one.dcm", masks, grid), masks, grid)
    assert seg.NumberOfFrames == SHAPE[0] and seg.number_of_segments == 2


def test_one_slice(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct", shape=(1, 6, 9)))
    masks = random_masks(grid, "liver")
    check(dicom_seg.write(tmp_path / "seg.dcm", masks, grid), masks, grid)


def test_absent_and_empty_headers_are_filled_in_memory_only(tmp_path):
    tags = {"SliceThickness": None, "PatientSex": "", "StudyDate": "", "ReferringPhysicianName": ""}
    folder = series(tmp_path / "ct", **tags)
    # numbers rounded differently from slice to slice, as some converters write them
    data = pydicom.dcmread(folder / "3.dcm")
    data.ImageOrientationPatient = [1, 0.00001, 0, -0.00001, 1, 0]
    data.save_as(folder / "3.dcm")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    grid = volumes.read_grid(folder)
    masks = random_masks(grid, "liver")
    seg = check(dicom_seg.write(tmp_path / "seg.dcm", masks, grid), masks, grid)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 2.5  # the slice distance
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for name in dicom_seg.TYPE_2:
        assert name in seg and not seg[name].value


def test_patient_and_study_are_those_of_the_series(tmp_path):
    tags = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "PatientID": "7",
        "PatientSex": "M",
        "PatientBirthDate": "19600229",
        "StudyDate": "20240131",
        "StudyTime": "101112",
        "AccessionNumber": "A1",
    }
    grid = volumes.read_grid(series(tmp_path / "ct", **tags))
    masks = random_masks(grid, "печень")
    dicom_seg.write(tmp_path / "seg.dcm", masks, grid)
    seg = check(tmp_path / "seg.dcm", masks, grid)
    for name in tags.keys() - {"SpecificCharacterSet"}:
        assert str(seg[name].value) == tags[name], name


def refused(tmp_path, masks, grid, message, **options):
    """Nothing is written where `write` fails."""
    with pytest.raises(SeglibError, match=message):
        dicom_seg.write(tmp_path / "out" / "seg.dcm", masks, grid, **options)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_without_highdicom(tmp_path, monkeypatch):
    grid = volumes.read_grid(series(tmp_path / "ct"))
    monkeypatch.setitem(sys.modules, "highdicom", None)  # importing it fails
    message = r"seg\.dcm: highdicom is missing; run  pip install highdicom"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)


def test_volumes_that_no_segmentation_can_refer_to(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2, 2, 3, 1]))
    nibabel.save(image, tmp_path / "ct.nii.gz")
    grid = volumes.read_grid(tmp_path / "ct.nii.gz")
    message = "ct.nii.gz: not a DICOM series.*write NIfTI instead"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)
    grid = volumes.read_grid(series(tmp_path / "nowhere", ImagePositionPatient=None))
    message = "nowhere: a series without slice positions"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, ""])
def test_series_that_lack_what_is_referred_to(tmp_path, name, value):
    grid = volumes.read_grid(series(tmp_path / "ct", **{name: value}))
    message = rf"\.dcm: no {name}; .*write NIfTI instead"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)


def test_values_that_highdicom_refuses_are_told(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct", PatientSex="W"))
    message = "ct: cannot be described .*'W'.*correct that value"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)
    grid = volumes.read_grid(series(tmp_path / "good"))
    message = "good: cannot be described .*64"
    refused(tmp_path, random_masks(grid, "liver"), grid, message, about="x" * 65)
    refused(tmp_path, {"liver": 2 * np.ones(grid.shape, np.uint8)}, grid, "must be binary")
    tags = {"FrameOfReferenceUID": lambda k: f"1.2.{k + 1}"}
    grid = volumes.read_grid(series(tmp_path / "frames", **tags))
    message = "frames: cannot be described .*same series"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)


def test_uneven_slices_have_their_places_but_no_thickness_of_a_guess(tmp_path):
    heights = [0, 5, 10, 15, 25]
    places = {"ImagePositionPatient": lambda k: [0, 0, heights[k]]}
    grid = volumes.read_grid(series(tmp_path / "ct", **places))
    masks = random_masks(grid, "liver")
    check(dicom_seg.write(tmp_path / "seg.dcm", masks, grid), masks, grid)
    for thickness in (None, 0, -1):
        folder = tmp_path / f"thickness {thickness}"
        grid = volumes.read_grid(series(folder, SliceThickness=thickness, **places))
        message = "no SliceThickness, and the slice distance is unknown"
        with pytest.raises(SeglibError, match=message):
            dicom_seg.write(tmp_path / "other.dcm", masks, grid)
        assert not (tmp_path / "other.dcm").exists()


def test_masks_that_do_not_fit(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct"))
    refused(tmp_path, {}, grid, "seg.dcm: no masks; expected at least one class")
    transposed = {"liver": np.zeros((5, 9, 6), bool)}
    refused(tmp_path, transposed, grid, r"cannot lay an array \(5, 9, 6\)")


def test_a_slice_that_is_gone_or_damaged(tmp_path):
    folder = series(tmp_path / "ct")
    grid = volumes.read_grid(folder)
    (folder / "2.dcm").write_bytes(b"nothing")
    refused(tmp_path, random_masks(grid, "liver"), grid, r"2\.dcm: not readable .*put it back")
    (folder / "2.dcm").unlink()
    refused(tmp_path, random_masks(grid, "liver"), grid, r"2\.dcm: not readable .*put it back")


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch):
    grid = volumes.read_grid(series(tmp_path / "ct"))
    masks = random_masks(grid, "liver")
    path = dicom_seg.write(tmp_path / "out" / "seg.dcm", masks, grid)
    former = path.read_bytes()

    def full(self, file, *_, **__):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="disk full"):
        dicom_seg.write(path, masks, grid)
    assert path.read_bytes() == former and list(path.parent.iterdir()) == [path]


def test_a_real_ct(real, tmp_path):
    """JPEG 2000. The published copy has lost its UIDs: it is refused, and works with new ones."""
    folder = real("totalsegmentator_ct")
    grid = volumes.read_grid(folder / "example_ct_dicom")
    labels = volumes.read_labels_like(grid, folder / "example_seg_dicom.nii.gz")
    masks = {"liver": labels == 5, "body": labels > 0}
    refused(tmp_path, masks, grid, "no StudyInstanceUID, SeriesInstanceUID, FrameOfReferenceUID")
    shutil.copytree(folder / "example_ct_dicom", tmp_path / "ct")
    uids = [generate_uid() for _ in range(3)]
    for file in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(file)
        assert data.file_meta.TransferSyntaxUID == JPEG2000Lossless
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = uids
        data.save_as(file)
    grid = volumes.read_grid(tmp_path / "ct")
    seg = check(dicom_seg.write(tmp_path / "seg.dcm", masks, grid), masks, grid)
    assert seg.SegmentsOverlap == "YES" and masks["liver"].sum() > 100_000


def test_the_same_masks_are_the_same_object(tmp_path):
    """Its UIDs come from what it says: another mask, name or text is another object."""
    grid = volumes.read_grid(series(tmp_path / "ct"))
    masks = random_masks(grid, "liver")

    def uids(masks, about="seglib"):
        data = pydicom.dcmread(dicom_seg.write(tmp_path / "seg.dcm", masks, grid, about))
        organizations = {
            item.DimensionOrganizationUID
            for item in (*data.DimensionOrganizationSequence, *data.DimensionIndexSequence)
        }
        return (data.SOPInstanceUID, data.SeriesInstanceUID, *organizations)

    once = uids(masks)
    assert uids(masks) == once and len(set(once)) == 3
    others = [({"liver": ~masks["liver"]}, "seglib"), ({"spleen": masks["liver"]}, "seglib")]
    for other, about in (*others, (masks, "second reading")):
        assert not set(uids(other, about)) & set(once)


def test_a_pixel_spacing_of_zero_is_not_passed_on(tmp_path):
    grid = volumes.read_grid(series(tmp_path / "ct", PixelSpacing=[0, 0]))
    message = r"no valid PixelSpacing \(it is \[0\.0, 0\.0\]\).*write NIfTI instead"
    refused(tmp_path, random_masks(grid, "liver"), grid, message)
