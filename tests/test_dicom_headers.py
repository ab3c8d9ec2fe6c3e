"""Which DICOM files are read as slices of grey values, and by what name the others are refused."""

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    EnhancedMRImageStorage,
    KeyObjectSelectionDocumentStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from seglib.errors import DataError
from seglib.formats import volumes
from tests.helpers import edit_dicom, write_series

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"


# ---- every file that pydicom ships


def true_kind(path):
    """What a file is, by pydicom's own reading of its header and pixels."""
    try:
        data = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError:
        return "not DICOM"
    kind = data.file_meta.get("MediaStorageSOPClassUID", "")
    if kind and "Image" not in kind.name:
        return "no image"
    if "PixelData" not in data or "Rows" not in data:
        return "no pixels"
    if data.get("NumberOfFrames", 1) > 1:
        return "several frames"
    if data.get("SamplesPerPixel", 1) > 1:
        return "colours"
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return "palette"
    try:
        pixels = data.pixel_array
    except ValueError:
        return "cut short"
    except RuntimeError:
        return "no decoder"
    return "grey" if pixels.ndim == 2 else "several frames"


# Kind -> what its refusal says, and how many files of it pydicom ships
KINDS = {
    "not DICOM": (r"not a DICOM file|not DICOM", 13),
    "no image": (r"no DICOM image among 1 files: \S+ \(.* Storage\)", 23),
    "no pixels": (r"without rows or columns, so without an image", 56),
    "several frames": (r"a multi-frame image \(\d+ frames", 4),
    "colours": (r"a colour image \((RGB|YBR_\w+)\)", 28),
    "palette": (r"PALETTE COLOR: its numbers are places in a table of colours", 1),
    "cut short": (r"pixels not readable .*cut short: copy it again", 1),
    "no decoder": (r"pixels not readable .*else install pylibjpeg", 3),
    "grey": ("", 47),
}


def reference(data):
    """The values of a grey image as pydicom computes them; padding takes no part."""
    stored = data.pixel_array
    if data.PhotometricInterpretation == "MONOCHROME1":
        stored = (1 << data.BitsStored) - 1 - stored
    return apply_modality_lut(stored, data)


def test_every_file_that_pydicom_ships_is_read_as_pydicom_reads_it_or_refused_by_name():
    counts = Counter()
    for path in sorted(f for f in SHIPPED.rglob("*") if f.is_file() and f.suffix != ".py"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # many files are odd on purpose
            kind = true_kind(path)
            counts[kind] += 1
            if kind == "grey":
                volume = volumes.read_dicom(path, canonical=False)
                expected = reference(pydicom.dcmread(path))
                np.testing.assert_array_equal(
                    volume.voxels[0], expected.astype(volume.voxels.dtype), path.name
                )
            else:
                with pytest.raises(
                    DataError, match=rf"{re.escape(path.name)}: .*{KINDS[kind][0]}"
                ) as error:
                    volumes.read_dicom(path, canonical=False)
                assert ("copy it again" in str(error.value)) == (kind == "cut short"), path.name
    assert counts == {kind: number for kind, (_, number) in KINDS.items()}


# ---- images that are no grey slices


@pytest.mark.parametrize(
    ("tags", "refusal"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR: its numbers are places"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, r"a colour image \(RGB\)"),
        ({"PhotometricInterpretation": "YBR_FULL"}, r"a colour image \(YBR_FULL\)"),
        ({"PhotometricInterpretation": "HSV"}, r"a colour image \(HSV\)"),
        ({"PhotometricInterpretation": ""}, "PhotometricInterpretation is missing; expected"),
        ({"PhotometricInterpretation": "GREY"}, "PhotometricInterpretation is GREY; expected MONO"),
        ({"PresentationLUTShape": "INVERSE"}, "MONOCHROME2 says that high numbers are bright"),
        ({"NumberOfFrames": 30}, r"a multi-frame image \(30 frames"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "a Siemens mosaic.*dcm2niix"),
        ({"BitsAllocated": 1}, r"1 bits for each pixel \(a mask\); expected 8, 16 or 32"),
        ({"BitsAllocated": 64}, "64 bits for each pixel"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    ],
)
def test_numbers_that_are_no_grey_values_are_refused(tmp_path, stack, tags, refusal):
    write_series(tmp_path / "s", stack, **tags)
    for read in (volumes.read, volumes.read_grid):
        with pytest.raises(DataError, match=rf"0\.dcm: {refusal}"):
            read(tmp_path / "s")


def test_an_enhanced_image_of_one_frame_is_refused(tmp_path, stack):
    """Its position and rescaling stand in functional groups, its NumberOfFrames is 1."""
    (file,) = write_series(tmp_path / "s", stack[:1], SOPClassUID=EnhancedMRImageStorage)
    edit_dicom(file, NumberOfFrames=1, PerFrameFunctionalGroupsSequence=[pydicom.Dataset()])
    with pytest.raises(DataError, match=r"0\.dcm: an enhanced multi-frame image \(1 frames\)"):
        volumes.read(tmp_path / "s")


def test_pixels_of_floating_point_numbers_are_refused(tmp_path, stack):
    file = write_series(tmp_path / "s", stack[:1])[0]
    numbers = stack[0].astype(np.float32).tobytes()
    edit_dicom(file, PixelData=None, BitsAllocated=32, FloatPixelData=numbers)
    with pytest.raises(DataError, match=r"0\.dcm: FloatPixelData, pixels of floating-point"):
        volumes.read(tmp_path / "s")


# ---- files beside the slices


@pytest.mark.parametrize(
    "kind", [RTDoseStorage, SegmentationStorage, KeyObjectSelectionDocumentStorage]
)
def test_other_objects_are_skipped_and_named(tmp_path, stack, kind):
    write_series(tmp_path / "s", stack)
    write_series(tmp_path / "s", stack[:1], name="other.dcm", series="9", SOPClassUID=kind)
    volume = volumes.read(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert volume.notes == (f"1 files are no images and were skipped: other.dcm ({kind.name})",)
    with pytest.raises(DataError, match=rf"among 1 files: other.dcm \({kind.name}\)"):
        volumes.read(tmp_path / "s" / "other.dcm")


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "projection"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MIP"]}, "projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen shot"),
        ({"ImageType": "LOCALIZER"}, "localizer"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary capture"),
    ],
)
def test_pictures_in_the_series_are_skipped_and_named(tmp_path, stack, tags, kind):
    write_series(tmp_path / "s", stack, series="9")
    write_series(tmp_path / "s", stack[:2] // 2, name="other{}.dcm", series="9", **tags)
    volume = volumes.read(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert volume.notes == (f"2 {kind} images were skipped",)
    # A series of nothing else is read: it may be what is wanted.
    write_series(tmp_path / "alone", stack, **tags)
    np.testing.assert_array_equal(volumes.read(tmp_path / "alone").voxels, stack - 1024)


def test_slices_of_another_image_type_are_noted(tmp_path, stack):
    image_type = ["ORIGINAL", "PRIMARY", "AXIAL"]
    files = write_series(tmp_path / "s", stack, ImageType=image_type)
    assert volumes.read(tmp_path / "s").notes == ()
    edit_dicom(files[2], ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    (note,) = volumes.read(tmp_path / "s").notes
    assert r"such as 2.dcm (DERIVED\PRIMARY\AXIAL, else ORIGINAL\PRIMARY\AXIAL)" in note


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it has 0 bytes.*copy it again"),
        (b"\2\3\0" * 30, "it has 90 bytes.*copy it again"),
        (b"\0" * 600, "it is a file of zeros.*download the file again"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 600, "it is a PNG picture; take it out"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 600, "it is a JPEG picture; take it out"),
        (b"<html>404</html>", "it is an HTML page; the download failed"),
        (b"Contours of the liver", "it is a text file; take it out"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a Git LFS pointer; fetch the file",
        ),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\0" * 600, "it looks like DICOM without its meta"),
        (b"\2\3\0" * 200, "the mark DICM at byte 128 is missing"),
    ],
)
def test_files_of_other_kinds_are_called_by_their_kind(tmp_path, stack, content, kind):
    write_series(tmp_path / "s", stack)
    (tmp_path / "s" / "other.dcm").write_bytes(content)
    with pytest.raises(DataError, match=rf"other\.dcm: not a DICOM file: {kind}"):
        volumes.read(tmp_path / "s")


def test_only_files_that_are_cut_short_are_to_be_copied_again(tmp_path, stack):
    """Cut at every byte behind the mark; elements end between some of them."""
    file = write_series(tmp_path / "s", stack[:1])[0]
    content, messages = file.read_bytes(), Counter()
    for n_bytes in range(132, len(content), 5):
        file.write_bytes(content[:n_bytes])
        with pytest.raises(DataError, match=r"0\.dcm: ") as error:
            volumes.read(tmp_path / "s")
        messages["copy it again" in str(error.value)] += 1
    assert messages[True] > 10 * messages[False]
    file.write_bytes(content)
    edit_dicom(file, BitsStored=77)
    with pytest.raises(DataError, match=r"0\.dcm: pixels not readable") as error:
        volumes.read(tmp_path / "s")
    assert "copy it again" not in str(error.value)


# ---- slices of one series that differ


@pytest.mark.parametrize(
    ("tags", "refusal"),
    [
        ({"RescaleSlope": None}, "no RescaleSlope, as in 1 of 5 slices"),
        ({"RescaleIntercept": ""}, "no RescaleIntercept, as in 1 of 5 slices"),
        ({"Modality": "PT"}, "Modality PT but 0.dcm has CT"),
    ],
)
def test_slices_of_another_scale_are_refused(tmp_path, stack, tags, refusal):
    files = write_series(tmp_path / "s", stack)
    edit_dicom(files[3], **tags)
    with pytest.raises(DataError, match=rf"3\.dcm: {refusal}"):
        volumes.read(tmp_path / "s")


def test_slices_in_a_folder_inside_are_named(tmp_path, stack):
    """They may be a part of the series, which is short without any gap then."""
    files = write_series(tmp_path / "s", stack)
    (tmp_path / "s" / "thumbs").mkdir()
    (tmp_path / "s" / "thumbs" / "a.txt").write_text("no DICOM")
    assert volumes.read(tmp_path / "s").notes == ()
    (tmp_path / "s" / "rest").mkdir()
    files[0].rename(tmp_path / "s" / "rest" / "0.dcm")
    (note,) = volumes.read(tmp_path / "s").notes
    assert note.startswith("the folder rest in it also holds DICOM files")


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_of_two_identities_are_named_without_their_values(tmp_path, stack, name):
    files = write_series(tmp_path / "s", stack, **{name: "1.2.3"})
    assert volumes.read(tmp_path / "s").notes == ()
    edit_dicom(files[3], **{name: "9.8.7"})
    (note,) = volumes.read(tmp_path / "s").notes
    assert note.startswith(f"{name} of 3.dcm is not that of 0.dcm") and "9.8.7" not in note
