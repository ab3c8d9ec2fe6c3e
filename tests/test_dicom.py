"""DICOM series: order, values, missing slices, and files that are damaged or do not belong."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import decoders
from pydicom.uid import (
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from seglib.errors import DataError
from seglib.formats import volumes
from tests.helpers import edit_dicom, write_series


@pytest.fixture
def large():
    """Stored numbers (S, H, W) of 12 bits, large enough for the encoder of JPEG 2000."""
    return np.random.default_rng(1).integers(0, 4096, (4, 64, 56))


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless],
)
@pytest.mark.parametrize("signed", [False, True])
def test_compressions(tmp_path, large, syntax, signed):
    stored = large - 2048 if signed else large
    files = write_series(
        tmp_path / "s", stored, syntax=syntax, signed=signed, name="IM{}", number=lambda k: 99 - k
    )
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stored - 1024)
    assert volume.voxels.dtype == np.int16
    # The slice distance is that of the positions, not SliceThickness.
    assert volume.spacing_mm == pytest.approx((2.5, 0.5, 0.7))
    assert volume.grid.files == tuple(str(f) for f in files) and volume.notes == ()
    np.testing.assert_array_equal(volume.restore(volume.voxels), volume.voxels)


def test_order_is_that_of_the_positions(tmp_path, stack):
    numbers = [3, 1, 5, 2, 4]
    files = write_series(tmp_path / "s", stack, number=lambda k: numbers[k])
    for k, name in enumerate("dbeca"):
        files[k].rename(tmp_path / "s" / name)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert [Path(f).name for f in volume.grid.files] == list("dbeca")
    files = sorted((tmp_path / "s").iterdir())
    np.testing.assert_array_equal(volumes.read_dicom(files[::-1]).voxels, stack - 1024)


def test_values(tmp_path, stack):
    write_series(tmp_path / "slope", stack, RescaleSlope=lambda k: 1 + k, RescaleIntercept=-8)
    expected = stack * np.arange(1, 6)[:, None, None] - 8
    np.testing.assert_array_equal(volumes.read_dicom(tmp_path / "slope").voxels, expected)
    write_series(tmp_path / "half", stack, RescaleSlope="0.5")
    volume = volumes.read_dicom(tmp_path / "half")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, stack / 2 - 1024)
    write_series(tmp_path / "none", stack, RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(volumes.read_dicom(tmp_path / "none").voxels, stack)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted(tmp_path, stack, signed):
    stored = stack - 2048 if signed else stack
    inverted = -1 - stored if signed else 4095 - stored
    tags = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "DX"}
    write_series(tmp_path / "s", inverted, signed=signed, **tags)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stored - 1024)
    assert any("MONOCHROME1: values inverted" in note for note in volume.notes)


def test_monochrome1_does_not_turn_hounsfield_units_round(tmp_path, stack):
    write_series(tmp_path / "s", stack, PhotometricInterpretation="MONOCHROME1")
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert "MONOCHROME1 (a setting of the display) not applied" in volume.notes[0]


def test_missing_signs_are_added_only_where_the_series_shows_none(tmp_path):
    true = np.array([[[-1000, -1, 0, 1200]], [[5, 60, -700, 2047]]])
    bare = true & 0xFFF  # twelve bits, the sign in bit 11, nothing above
    write_series(tmp_path / "bare", bare, signed=True, RescaleIntercept=0)
    volume = volumes.read_dicom(tmp_path / "bare")
    np.testing.assert_array_equal(volume.voxels, true)
    assert "signs of 12-bit numbers added" in volume.notes[0]
    # 3000 HU of metal and negative numbers with all their bits: BitsStored is wrong.
    metal = np.array([[[-1000, -1, 0, 1200]], [[5, 60, -700, 3000]]])
    write_series(tmp_path / "metal", metal, signed=True, RescaleIntercept=0)
    volume = volumes.read_dicom(tmp_path / "metal")
    np.testing.assert_array_equal(volume.voxels, metal)
    assert "taken as they are" in volume.notes[0]
    # The fix that is copied from notebook to notebook breaks it.
    assert ((metal.astype(np.int16) << 4).astype(np.int16) >> 4)[1, 0, 3] == -1096


def test_other_numbers_that_contradict_their_header(tmp_path):
    unsigned = np.array([[[0, 24, 4095, 63536]]])  # -2000, the padding of some scanners
    write_series(tmp_path / "padding", unsigned)
    volume = volumes.read_dicom(tmp_path / "padding")
    assert volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, -3024]
    assert "read as signed" in volume.notes[-1]
    overlay = np.array([[[0, 24, 4095, 0x8000 + 1024]]])
    write_series(tmp_path / "overlay", overlay)
    volume = volumes.read_dicom(tmp_path / "overlay")
    assert volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, 0]
    assert "bits above the 12" in volume.notes[-1]
    write_series(tmp_path / "left", np.array([[[0, 24, 4095, 1000]]]) << 4, HighBit=15)
    volume = volumes.read_dicom(tmp_path / "left")
    assert volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, -24]
    assert "4 bits too high" in volume.notes[-1]


def test_several_series_are_refused_and_can_be_named(tmp_path, stack):
    write_series(tmp_path / "s", stack, series="1.2.3", name="a{}")
    tags = {"series": "1.2.4", "SeriesDescription": "arterial"}
    write_series(tmp_path / "s", stack[:2] // 2, name="b{}", **tags)
    listed = r"2 series.*1\.2\.3: 5 files, portal venous; 1\.2\.4: 2 files, arterial"
    with pytest.raises(DataError, match=listed):
        volumes.read_dicom(tmp_path / "s")
    assert len(volumes.read_dicom(tmp_path / "s", series="1.2.4").voxels) == 2
    with pytest.raises(DataError, match=r"no series '1\.9'.*1\.2\.3"):
        volumes.read_dicom(tmp_path / "s", series="1.9")


@pytest.mark.parametrize(
    ("heights", "spacing_mm", "note"),
    [
        ([0, 2, 4, 6, 8], 2, None),
        ([0, 2.01, 3.99, 6, 8], 2, None),  # rounded
        ([0, 2, 4, 6.2, 8], 2, "slice distances vary: 1.8 to 2.2 mm; their mean, 2, is used"),
        ([0, 2, 4, 6, 7], None, "uneven slice distances: 1 to 2 mm; volumes in mL are unknown"),
        ([0, 2, 4, 8, 10], None, "uneven slice distances: 2 to 4 mm"),
        # Each distance is close to the one before, but the last slices lie far from an even grid.
        ([0, 2, 4.1, 6.6, 9.6], None, "uneven slice distances: 2 to 3 mm"),
        ([8, 6, 4, 2, 0], 2, None),
    ],
)
def test_one_slice_distance_or_none(tmp_path, stack, heights, spacing_mm, note):
    write_series(tmp_path / "s", stack, ImagePositionPatient=lambda k: [0, 0, heights[k]])
    volume = volumes.read_dicom(tmp_path / "s")
    assert any(n.startswith(note) for n in volume.notes) if note else volume.notes == ()
    if spacing_mm is None:
        assert volume.spacing_mm is None
    else:
        # The spacing is that of the affine, which places the mask: their volumes agree.
        voxel_mm3 = abs(np.linalg.det(volume.affine[:3, :3]))
        assert np.prod(volume.spacing_mm) == pytest.approx(voxel_mm3)
        assert volume.spacing_mm[0] == pytest.approx(spacing_mm)


def test_missing_and_second_slices(tmp_path, stack):
    files = write_series(tmp_path / "s", stack)
    files[2].unlink()
    volume = volumes.read_dicom(tmp_path / "s")
    assert len(volume.voxels) == 4 and volume.spacing_mm is None
    assert "1 slice is missing between 1.dcm and 3.dcm (5 mm, else 2.5)" in volume.notes[0]
    shutil.copy(files[1], tmp_path / "s" / "copy.dcm")
    volume = volumes.read_dicom(tmp_path / "s")
    assert len(volume.voxels) == 4 and "copy" in volume.notes[0] and "dropped" in volume.notes[0]
    edit_dicom(tmp_path / "s" / "copy.dcm", PixelData=stack[0].astype(np.uint16).tobytes())
    refusal = r"(copy|1)\.dcm: another image at the position of (copy|1)\.dcm \(12\.50 mm\)"
    with pytest.raises(DataError, match=refusal):
        volumes.read_dicom(tmp_path / "s")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"EchoTime": ("10", "20")}, "EchoTime 10 and 20"),
        ({"DiffusionBValue": (0.0, 1000.0)}, r"DiffusionBValue 0\.0 and 1000\.0"),
        ({"TemporalPositionIdentifier": (1, 2)}, "TemporalPositionIdentifier 1 and 2"),
        ({"AcquisitionNumber": (1, 2), "TriggerTime": ("0", "40")}, "TriggerTime 0 and 40"),
        ({"ImageType": (["ORIGINAL", "M"], ["ORIGINAL", "P"])}, r"ImageType ORIGINAL.M and ORIGI"),
        ({"ConvolutionKernel": ("B30f", "B70f")}, "ConvolutionKernel B30f and B70f"),
        ({}, "only their pixels differ"),
    ],
)
def test_what_tells_two_images_at_one_position_apart_is_named(tmp_path, stack, values, reason):
    for i in (0, 1):
        tags = {name: pair[i] for name, pair in values.items()}
        write_series(tmp_path / "s", stack[:: 1 - 2 * i], series="9", name=f"{i}-{{}}", **tags)
    refusal = rf"1-0: another image at the position of 0-0 .*\({reason}.*\): separate them"
    with pytest.raises(DataError, match=refusal):
        volumes.read_dicom(tmp_path / "s")


def test_private_b_values_tell_images_apart(tmp_path, stack):
    for i in (0, 1):
        for file in write_series(tmp_path / "s", stack // (i + 1), series="9", name=f"{i}-{{}}"):
            data = pydicom.dcmread(file)
            data.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
            data.add_new((0x0019, 0x100C), "IS", str(800 * i))
            data.save_as(file)
    with pytest.raises(DataError, match=r"\(b-value \(Siemens\) 0 and 800\): separate them"):
        volumes.read_dicom(tmp_path / "s")


def test_equal_pixels_of_another_scale_are_no_copy(tmp_path, stack):
    files = write_series(tmp_path / "s", stack)
    shutil.copy(files[1], tmp_path / "s" / "copy.dcm")
    edit_dicom(tmp_path / "s" / "copy.dcm", RescaleIntercept=0)
    with pytest.raises(DataError, match=r"\(RescaleIntercept .*\): separate them"):
        volumes.read_dicom(tmp_path / "s")


@pytest.mark.parametrize("directions", [[0] * 6, [1, 0, 0, 1, 0, 0], [1, 0, 0, 0.5, 0.8, 0]])
def test_directions_that_span_no_plane_are_refused(tmp_path, stack, directions):
    write_series(tmp_path / "s", stack, ImageOrientationPatient=directions)
    with pytest.raises(DataError, match=r"0\.dcm: ImageOrientationPatient is .*at right angles"):
        volumes.read_dicom(tmp_path / "s")


def test_directions_that_are_no_unit_vectors_count_as_directions(tmp_path, stack):
    write_series(tmp_path / "s", stack)
    write_series(tmp_path / "long", stack, ImageOrientationPatient=[2, 0, 0, 0, 2, 0])
    volume, other = volumes.read(tmp_path / "s"), volumes.read(tmp_path / "long")
    np.testing.assert_allclose(other.affine, volume.affine)
    assert other.spacing_mm == volume.spacing_mm
    assert "vectors of length 2 and 2; only their directions" in other.notes[0]


def test_sheared_and_shifted_stacks_are_noted(tmp_path, stack):
    tilt = np.tan(np.radians(20))
    write_series(tmp_path / "s", stack, ImagePositionPatient=lambda k: [0, 4 * k * tilt, 4 * k])
    (note,) = volumes.read(tmp_path / "s").notes
    assert note.startswith("the stack is sheared by 20.0 degrees (a tilted gantry)")
    write_series(tmp_path / "t", stack, ImagePositionPatient=lambda k: [5 * (k % 2), 0, 4 * k])
    (note,) = volumes.read(tmp_path / "t").notes
    assert "shifted against each other in their plane by up to 5.0 mm" in note


def test_without_positions_the_numbers_count(tmp_path, stack):
    files = write_series(tmp_path / "s", stack, number=lambda k: 15 - k, name="{}")
    for file in files:
        edit_dicom(file, ImagePositionPatient=None)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack[::-1] - 1024)
    assert "ordered by InstanceNumber" in volume.notes[0]
    assert volume.spacing_mm is None and not volume.grid.oriented
    for file in files:
        edit_dicom(file, SpacingBetweenSlices=3)
    assert volumes.read_dicom(tmp_path / "s").spacing_mm == pytest.approx((3, 0.5, 0.7))
    for file in files:
        edit_dicom(file, SpacingBetweenSlices=-3)
    volume = volumes.read_dicom(tmp_path / "s")
    assert volume.spacing_mm is None and "SpacingBetweenSlices is -3" in volume.notes[1]
    edit_dicom(files[2], InstanceNumber=99)
    assert "84 numbers between InstanceNumber 11 and 99" in volumes.read(tmp_path / "s").notes[1]


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (lambda k: None, "order of the slices is not told.*5 of 5 files, such as 0.dcm, have no"),
        (lambda k: k or None, "order of the slices is not told.*1 of 5 files, such as 0.dcm"),
        (lambda k: k // 2, r"0.dcm, 1.dcm have the same InstanceNumber 0; restore them"),
    ],
)
def test_an_order_that_is_not_told_is_refused(tmp_path, stack, number, refusal):
    files = write_series(tmp_path / "s", stack, ImageOrientationPatient="")
    for k, file in enumerate(files):
        edit_dicom(file, ImagePositionPatient=None, InstanceNumber=number(k))
    with pytest.raises(DataError, match=refusal):
        volumes.read_dicom(tmp_path / "s")


def test_a_slice_without_a_position_is_named(tmp_path, stack):
    files = write_series(tmp_path / "s", stack)
    edit_dicom(files[3], ImagePositionPatient=None)
    with pytest.raises(DataError, match=r"3\.dcm: no ImagePositionPatient, as in 1 of 5 slices"):
        volumes.read_dicom(tmp_path / "s")


def test_one_slice(tmp_path, stack):
    write_series(tmp_path / "s", stack[:1])
    volume = volumes.read_dicom(tmp_path / "s")
    assert volume.spacing_mm == pytest.approx((5, 0.5, 0.7)) and "thickness" in volume.notes[0]
    for k, thickness in enumerate((None, "", 0, -5)):
        write_series(tmp_path / f"{k}", stack[:1], SliceThickness=thickness)
        volume = volumes.read_dicom(tmp_path / f"{k}")
        assert volume.spacing_mm is None
        assert "one slice without SliceThickness: sizes in mm are unknown" in volume.notes


def test_without_pixel_spacing_sizes_are_unknown(tmp_path, stack):
    files = write_series(tmp_path / "t", stack)
    for file in files:
        edit_dicom(file, PixelSpacing=None)
    volume = volumes.read_dicom(tmp_path / "t")
    assert volume.spacing_mm is None
    assert volume.notes == ("no PixelSpacing: sizes in mm are unknown",)


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"PixelSpacing": [0, 0]}, r"PixelSpacing is [0.0, 0.0]: sizes in mm are unknown"),
        ({"PixelSpacing": [-1, 1]}, r"PixelSpacing is [-1.0, 1.0]: sizes in mm are unknown"),
        ({"PixelSpacing": [1e6, 1e6]}, "voxels of 2.5 x 1e+06 x 1e+06 mm cannot be"),
        (
            {"PixelSpacing": [], "ImagerPixelSpacing": [0.1, 0.1]},
            "unknown (ImagerPixelSpacing, 0.1 x 0.1 mm, is measured at the detector",
        ),
        (
            {"PixelSpacing": [], "NominalScannedPixelSpacing": [0.2, 0.2]},
            "unknown (NominalScannedPixelSpacing, 0.2 x 0.2 mm, is measured on the scanned film",
        ),
    ],
)
def test_a_spacing_that_is_not_that_of_the_patient_is_unknown(tmp_path, stack, tags, note):
    write_series(tmp_path / "s", stack, **tags)
    volume = volumes.read(tmp_path / "s")
    assert volume.spacing_mm is None and note in volume.notes[0]
    places = {"ImagePositionPatient": "", "ImageOrientationPatient": ""}
    write_series(tmp_path / "xray", stack[:1], **tags, **places)
    volume = volumes.read(tmp_path / "xray")
    assert volume.spacing_mm is None
    assert volume.grid.spacing_note.startswith("an image without a position: sizes in mm are unkn")


def test_files_that_are_no_slices_are_skipped(tmp_path, stack):
    write_series(tmp_path / "s", stack)
    tags = {"SOPClassUID": EnhancedSRStorage, "series": "9"}
    (report,) = write_series(tmp_path / "s", stack[:1], name="report{}", **tags)
    edit_dicom(report, Rows=None, Columns=None, PixelData=None)
    (tmp_path / "s" / "notes.txt").write_text("hello")
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"nothing")
    (tmp_path / "s" / ".hidden").write_bytes(b"nothing")
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "series": "8"}
    write_series(tmp_path / "s", stack[:1] // 2, name="scout{}", **tags)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert "3 files are no images" in volume.notes[0] and "1 localizer" in volume.notes[1]


@pytest.mark.parametrize(
    "damage", ["empty", "noise", "header", "pixels", "last bytes", "compressed"]
)
def test_a_damaged_file_in_a_good_series_is_named(tmp_path, large, damage):
    syntax = JPEG2000Lossless if damage == "compressed" else ExplicitVRLittleEndian
    file = write_series(tmp_path / "s", large, syntax=syntax)[2]
    content = file.read_bytes()
    damaged = {
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "header": content[:600],
        "pixels": content[:-4000],
        "last bytes": content[:-2],
        "compressed": content[:-3000],
    }[damage]
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"2\.dcm"):
        volumes.read_dicom(tmp_path / "s")


def test_other_refusals(tmp_path, stack):
    files = write_series(tmp_path / "size", stack)
    edit_dicom(files[1], Rows=4, PixelData=stack[0, :4].astype(np.uint16).tobytes())
    with pytest.raises(DataError, match=r"1\.dcm: 4x6 pixels but 0\.dcm has 8x6"):
        volumes.read_dicom(tmp_path / "size")
    files = write_series(tmp_path / "turn", stack)
    edit_dicom(files[1], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    with pytest.raises(DataError, match=r"1\.dcm: oriented differently"):
        volumes.read_dicom(tmp_path / "turn")
    files = write_series(tmp_path / "spacing", stack)
    edit_dicom(files[1], PixelSpacing=[0.5, 0.9])
    with pytest.raises(DataError, match=r"1\.dcm: PixelSpacing \[0\.5, 0\.9\] but 0\.dcm has"):
        volumes.read_dicom(tmp_path / "spacing")
    edit_dicom(write_series(tmp_path / "frames", stack[:1])[0], NumberOfFrames=3)
    with pytest.raises(DataError, match=r"0\.dcm: a multi-frame"):
        volumes.read_dicom(tmp_path / "frames")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM image among 0 files"):
        volumes.read_dicom(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        volumes.read_dicom(tmp_path / "nothing")


def test_a_missing_decoder_names_its_package(tmp_path, stack, large, monkeypatch):
    file = write_series(tmp_path / "s", stack, syntax=RLELossless)[3]
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(file)
    with pytest.raises(DataError, match=r"3\.dcm.*install.*pylibjpeg-libjpeg \(GPL"):
        volumes.read_dicom(tmp_path / "s")
    monkeypatch.setattr(decoders.JPEG2000LosslessDecoder, "_available", {})
    write_series(tmp_path / "t", large, syntax=JPEG2000Lossless)
    with pytest.raises(DataError, match=r"\.dcm.*install pylibjpeg-openjpeg"):
        volumes.read_dicom(tmp_path / "t")
