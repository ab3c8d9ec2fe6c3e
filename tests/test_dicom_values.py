"""Values of DICOM slices, compared with SimpleITK, dcm2niix and pydicom."""

import subprocess

import dcm2niix
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut
from pydicom.uid import MRImageStorage, generate_uid

from seglib import config
from seglib.errors import DataError
from seglib.formats import dicom_values, volumes
from tests.helpers import edit_dicom, write_series


def by_simpleitk(volume):
    """The series as SimpleITK reads it: values (S, H, W), and index (slice, row, column) -> mm."""
    image = SimpleITK.ImageSeriesReader()
    image.SetFileNames(volume.grid.files)
    image = image.Execute()
    # SimpleITK counts columns first, and to the left and to the back.
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes[:, ::-1], image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    ("signed", "tags"),
    [
        (False, {}),
        (True, {}),
        (False, {"RescaleSlope": lambda k: 1 + k, "RescaleIntercept": lambda k: -10 * k}),
        (True, {"RescaleSlope": "0.25", "RescaleIntercept": "-3.5"}),
        (False, {"ImageOrientationPatient": [0.8, 0.6, 0, 0, 0, -1]}),
        (False, {"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}),
        (False, {"ImagePositionPatient": lambda k: [3, 4, 10 - 3 * k]}),
        (False, {"ImagePositionPatient": lambda k: [0, 0, (0, 2, 4, 6.2, 8)[k]]}),
    ],
)
def test_values_and_places_are_those_of_simpleitk(tmp_path, stack, signed, tags):
    stored = stack - 2048 if signed else stack
    if "ImageOrientationPatient" in tags:
        normal = np.cross(*np.reshape(tags["ImageOrientationPatient"], (2, 3)))
        tags = {**tags, "ImagePositionPatient": lambda k: list(5 + 2.5 * k * normal)}
    write_series(tmp_path / "s", stored, signed=signed, **tags)
    volume = volumes.read(tmp_path / "s", canonical=False)
    values, affine = by_simpleitk(volume)
    np.testing.assert_allclose(volume.voxels, values, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(volume.spacing_mm, lengths, rtol=1e-6)


@pytest.mark.parametrize(
    "directions", [[1, 0, 0, 0, 1, 0], [0.8, 0.6, 0, 0, 0, -1], [-1, 0, 0, 0, 1, 0]]
)
def test_voxels_lie_where_dcm2niix_puts_them(tmp_path, directions):
    stored = np.random.default_rng(0).integers(0, 4096, (5, 8, 6))
    normal = np.cross(*np.reshape(directions, (2, 3)))
    study = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    write_series(
        tmp_path / "s",
        stored,
        ImageOrientationPatient=directions,
        ImagePositionPatient=lambda k: [float(x) for x in 5 + 2.5 * k * normal],
        ImageType=["ORIGINAL", "PRIMARY", "M"],
        SOPClassUID=MRImageStorage,
        Modality="MR",
        Manufacturer="nobody",
        **study,
    )
    command = [dcm2niix.bin, "-b", "n", "-o", tmp_path, "-f", "out", tmp_path / "s"]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(tmp_path / "out.nii")
    volume = volumes.read(tmp_path / "s", canonical=False)
    index = np.array(list(np.ndindex(volume.voxels.shape)))
    theirs = nibabel.affines.apply_affine(np.linalg.inv(image.affine) @ volume.affine, index)
    np.testing.assert_allclose(theirs, np.rint(theirs), atol=1e-3)
    values = image.get_fdata()[tuple(np.rint(theirs).astype(int).T)]
    np.testing.assert_allclose(volume.voxels.ravel(), values)


# ---- other bits and other tables


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_in_high_bits_are_removed_as_pydicom_removes_them(tmp_path, signed):
    numbers = np.random.default_rng(0).integers(-2048, 2048, (3, 8, 6)) + 2048 * (not signed)
    overlay = np.random.default_rng(1).integers(0, 2, numbers.shape) << 14
    stored = (numbers & 0xFFF) | overlay
    files = write_series(tmp_path / "s", stored, signed=signed, RescaleIntercept=0)
    for file in files:
        data = pydicom.dcmread(file)
        data.add_new((0x6000, 0x0100), "US", 16)
        data.add_new((0x6000, 0x0102), "US", 14)
        data.save_as(file)
    volume = volumes.read(tmp_path / "s", canonical=False)
    np.testing.assert_array_equal(volume.voxels, numbers)
    expected = np.stack([pydicom.dcmread(file).pixel_array for file in files])
    np.testing.assert_array_equal(volume.voxels, expected)
    assert "overlay in the bits above the 12 removed" in volume.notes


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.uint8), (8, np.int8), (32, np.uint32), (32, np.int32)]
)
def test_pixels_of_8_and_32_bits(tmp_path, bits, dtype):
    limits = np.iinfo(dtype)
    numbers = np.random.default_rng(0).integers(limits.min, limits.max, (2, 8, 6), dtype)
    files = write_series(tmp_path / "s", numbers, Modality="MR", RescaleIntercept=0)
    for file, plane in zip(files, numbers):
        signed = int(dtype(0).dtype.kind == "i")
        tags = dict(BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        edit_dicom(file, PixelData=plane.tobytes(), PixelRepresentation=signed, **tags)
    volume = volumes.read(tmp_path / "s", canonical=False)
    np.testing.assert_array_equal(volume.voxels, numbers.astype(volume.voxels.dtype))
    np.testing.assert_allclose(volume.voxels, by_simpleitk(volume)[0], rtol=1e-6)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_modality_lut_is_applied(tmp_path, stack, interpretation):
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [256, 10, 16])
    table.add_new("ModalityLUTType", "LO", "US")
    table.add_new("LUTData", "US", [int(x) for x in np.sqrt(np.arange(256)) * 4000])
    files = write_series(
        tmp_path / "s", stack, Modality="CR", PhotometricInterpretation=interpretation
    )
    for file in files:
        edit_dicom(file, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=[table])
    data = pydicom.dcmread(files[0])
    expected = apply_modality_lut(data.pixel_array, data).astype(int)
    if interpretation == "MONOCHROME1":
        expected = 65535 - expected
    np.testing.assert_array_equal(volumes.read(tmp_path / "s").voxels[0], expected)


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({}, None),
        ({"RescaleType": "HU"}, None),
        ({"RescaleType": "US"}, "RescaleType US: the values may be no Hounsfield units"),
        ({"RescaleType": "MGML"}, "RescaleType MGML"),
        ({"RescaleSlope": None}, "CT without RescaleSlope: the values may be no Hounsfield"),
        (
            {"RescaleSlope": None, "RescaleIntercept": None},
            "CT without RescaleSlope and RescaleIntercept",
        ),
        ({"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None}, None),
        ({"VOILUTSequence": [pydicom.Dataset()]}, "VOI LUT (a setting of the display) not"),
        (
            {"Modality": "PT", "RealWorldValueMappingSequence": [pydicom.Dataset()]},
            "RealWorldValueMappingSequence (such as SUV) not applied",
        ),
    ],
)
def test_what_the_values_mean_is_noted(tmp_path, stack, tags, note):
    for file in write_series(tmp_path / "s", stack):
        edit_dicom(file, **tags)
    notes = volumes.read(tmp_path / "s").notes
    assert len(notes) == 1 and notes[0].startswith(note) if note else notes == ()


def test_a_slope_that_float32_cannot_hold_is_refused(tmp_path, stack):
    write_series(tmp_path / "s", stack, RescaleSlope="1e300")
    with pytest.raises(DataError, match=r"0\.dcm: RescaleSlope 1e\+?300.*more than float32 holds"):
        volumes.read(tmp_path / "s")


# ---- padding


@pytest.fixture
def patient():
    """Stored numbers (S, H, W) of a patient from 100 to 999, and where padding goes."""
    rng = np.random.default_rng(0)
    return rng.integers(100, 1000, (4, 40, 40)), np.arange(40) < 4


@pytest.mark.parametrize(
    ("signed", "stored", "tags"),
    [
        (True, -32768, {"PixelPaddingValue": -32768}),
        (True, -2000, {"PixelPaddingValue": -2000}),
        (True, 32767, {"PixelPaddingValue": 32767}),
        (False, 0, {"PixelPaddingValue": 0}),
        (False, 65535, {"PixelPaddingValue": 65535}),
        # More bits than the 12 of the header
        (False, 63536, {"PixelPaddingValue": 63536}),
        # The other sign than that of the pixels
        (True, -2000, {"PixelPaddingValue": pydicom.DataElement(0x00280120, "US", 63536)}),
        (False, 63536, {"PixelPaddingValue": pydicom.DataElement(0x00280120, "SS", -2000)}),
        # A missing sign: 2096 is -2000 in 12 bits
        (True, 2096, {"PixelPaddingValue": -2000}),
        (True, -1500, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1000}),
        (False, 3000, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 2000}),
    ],
)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_padding_takes_no_part_in_the_stretch(tmp_path, patient, modality, signed, stored, tags):
    numbers, at = patient
    common = dict(signed=signed, Modality=modality, RescaleIntercept=0)
    write_series(tmp_path / "clean", numbers, **common)
    padded = np.where(at, stored, numbers)
    for file in write_series(tmp_path / "padded", padded, **common):
        data = pydicom.dcmread(file)
        for name, value in tags.items():
            element = isinstance(value, pydicom.DataElement)
            vr = "SS" if signed else "US"
            data.add(value) if element else data.add_new(name, vr, value)
        data.save_as(file)
    volume = volumes.read(tmp_path / "padded")
    np.testing.assert_array_equal(volume.voxels[..., 4:], numbers[..., 4:])
    assert (volume.voxels[..., :4] == numbers[..., 4:].min()).all()
    assert "(10.0% of the pixels) is no part of the patient: set to the" in volume.notes[-1]
    cfg = config.preset("cardiac", "smoke", percentiles=(0, 100))
    clean, other = [volumes.read_8_bit(tmp_path / name, cfg) for name in ("clean", "padded")]
    inside = clean.voxels[..., 4:].astype(int) - other.voxels[..., 4:]
    assert np.abs(inside).max() <= 1


def test_padding_among_the_values_of_the_patient_is_left(tmp_path):
    """0 HU is water: a header that calls it padding must not make a hole of it."""
    numbers = np.random.default_rng(0).integers(-1000, 1000, (3, 20, 20))
    numbers[:, 5:9, 5:9] = 0
    write_series(tmp_path / "s", numbers, signed=True, RescaleIntercept=0, PixelPaddingValue=0)
    volume = volumes.read(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, numbers)
    assert volume.notes == ("PixelPaddingValue 0 lies among the values of the patient: left there",)


def test_an_image_of_padding_alone_stays_as_it_is(tmp_path):
    numbers = np.full((2, 8, 6), 7)
    write_series(tmp_path / "s", numbers, PixelPaddingValue=7)
    np.testing.assert_array_equal(volumes.read(tmp_path / "s").voxels, numbers - 1024)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(9, 16),
    signed=st.booleans(),
    slope=st.sampled_from([1, 2, 0.5]),
    data=st.data(),
)
def test_numbers_that_fit_their_header_are_never_changed(bits, signed, slope, data):
    """Whatever the corrections are, they leave a series alone that agrees with its header."""
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    if not signed and bits == 16:
        high = 0xEFFF  # numbers above may be negative ones of a CT
    drawn = data.draw(st.lists(st.integers(low, high), min_size=6, max_size=6))
    raw = np.array(drawn, np.int16 if signed else np.uint16).reshape(1, 2, 3)
    header = pydicom.Dataset()
    header.Modality, header.PhotometricInterpretation = "CT", "MONOCHROME2"
    header.RescaleSlope, header.RescaleIntercept = slope, -1024
    pixel_format = dicom_values._PixelFormat(int(signed), 16, bits, bits - 1)
    numbers, padding, notes = dicom_values._numbers(raw, [header], pixel_format)
    values = dicom_values._rescaled("a.dcm", numbers[0], header, bits)
    np.testing.assert_allclose(values, apply_modality_lut(raw[0], header))
    assert not padding.any() and notes == []


@pytest.mark.parametrize(("modality", "n_notes"), [("CT", 1), ("PT", 0)])
def test_a_scale_that_changes_inside_a_ct_is_noted(tmp_path, modality, n_notes):
    """In PET each slice usually has a slope of its own."""
    stack = np.full((4, 5, 6), 1000)
    write_series(
        tmp_path / "s", stack, Modality=modality, RescaleIntercept=lambda k: -1024 * (k < 2)
    )
    notes = volumes.read(tmp_path / "s").notes
    assert sum("RescaleIntercept differs between the slices" in note for note in notes) == n_notes
