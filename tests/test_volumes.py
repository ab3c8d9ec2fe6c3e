"""Volumes: NIfTI and DICOM are shown alike whatever their axes, labels land on their voxels, slices fill a store."""

import gzip
import itertools
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from seglib import case_io as case_pixels
from seglib import config, layouts, prepare, presets
from seglib.errors import DataError
from seglib.formats import dicom, orientation, volumes
from seglib.layouts import pairing
from seglib.layouts import volumes as volume_layouts

ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(order, signs)], float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SPACING = (0.8, 1.5, 4.0)  # right-left, back-front, foot-head
CLASSES = ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel")
TABLE = {"255,0,255": 1, "255,255,0": 2, "0,255,255": 3}


def patient(shape=(7, 9, 5)):
    """A NIfTI image in R-A-S axes; every voxel has a number of its own."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 1000
    return nibabel.Nifti1Image(
        array, nibabel.affines.from_matvec(np.diag(SPACING), (-30, 12, -400))
    )


def shown(array):
    """R-A-S (x, y, z) as a radiologist sees it: slices from the feet, anterior up, right at the left."""
    return array[::-1, ::-1].transpose(2, 1, 0)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def labels_of(image, array, dtype=np.uint8):
    return nibabel.Nifti1Image(np.asarray(array, dtype), image.affine)


def write_series(
    folder,
    stored,
    *,
    bits=12,
    signed=False,
    syntax=ExplicitVRLittleEndian,
    number=None,
    name=None,
    **tags,
):
    """A CT series: `stored` (S, H, W) are the stored numbers, slice k at z = 10 + 2.5 k; SliceThickness lies."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, paths = tags.pop("series", generate_uid()), []
    for k, plane in enumerate(stored):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", CTImageStorage)
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / (name or "{}.dcm").format(k)
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = (
            meta.MediaStorageSOPClassUID,
            meta.MediaStorageSOPInstanceUID,
        )
        data.SeriesInstanceUID, data.Modality, data.SeriesDescription = uid, "CT", "portal venous"
        data.ImagePositionPatient, data.ImageOrientationPatient = (
            [-20, -30, 10 + 2.5 * k],
            [1, 0, 0, 0, 1, 0],
        )
        data.PixelSpacing, data.SliceThickness = [0.5, 0.7], 5
        data.InstanceNumber = k + 1 if number is None else number(k)
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = (
            16,
            bits,
            bits - 1,
            int(signed),
        )
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = plane.astype(np.int16 if signed else np.uint16).tobytes()
        for tag, value in tags.items():
            setattr(data, tag, value(k) if callable(value) else value)
        if syntax == ImplicitVRLittleEndian:
            meta.TransferSyntaxUID = syntax
        elif syntax != ExplicitVRLittleEndian:
            data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
        paths.append(path)
    return paths


def edit(path, **tags):
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.save_as(path)
    return path


@pytest.fixture
def stack():
    """Stored numbers (S, H, W) of 12 bits, all different slices."""
    return np.random.default_rng(0).integers(0, 4096, (5, 8, 6))


@pytest.fixture
def large():
    """The same, large enough for the encoder of JPEG 2000."""
    return np.random.default_rng(1).integers(0, 4096, (4, 64, 56))


# ---- NIfTI: axes


@pytest.mark.parametrize(
    "orientation", ORIENTATIONS, ids=lambda o: "".join(nibabel.orientations.ornt2axcodes(o))
)
def test_every_orientation_is_shown_alike_and_restored(tmp_path, orientation):
    image = patient().as_reoriented(orientation)
    path = save(image, tmp_path / "ct.nii.gz")
    volume = volumes.read_nifti(path)
    np.testing.assert_array_equal(volume.voxels, shown(np.asarray(patient().dataobj)))
    assert volume.voxels.dtype == np.int16 and volume.voxels.shape == (5, 9, 7)
    assert volume.spacing_mm == pytest.approx((4.0, 1.5, 0.8))
    back = volume.restore(volume.voxels)
    np.testing.assert_array_equal(back, np.asarray(image.dataobj))
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    # What was written with it lies, for any other reader, where it was.
    again = nibabel.as_closest_canonical(nibabel.Nifti1Image(back, volume.affine))
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(patient().dataobj))
    np.testing.assert_allclose(again.affine, patient().affine, rtol=1e-6)
    grid = volumes.read_grid(path)
    assert (grid.shape, grid.axes, grid.flips) == (
        volume.grid.shape,
        volume.grid.axes,
        volume.grid.flips,
    )


@pytest.mark.parametrize(
    "orientation", ORIENTATIONS[::5], ids=lambda o: "".join(nibabel.orientations.ornt2axcodes(o))
)
def test_labels_may_be_stored_in_any_orientation(tmp_path, orientation):
    image = patient()
    truth = (np.asarray(image.dataobj) % 7).astype(np.uint8)
    volume = volumes.read_nifti(save(image.as_reoriented(ORIENTATIONS[11]), tmp_path / "ct.nii"))
    path = save(labels_of(image, truth).as_reoriented(orientation), tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(volumes.read_labels_like(volume, path), shown(truth))


def test_the_displayed_affine_names_the_same_points(tmp_path):
    image = patient().as_reoriented(ORIENTATIONS[29])
    volume = volumes.read_nifti(save(image, tmp_path / "ct.nii"))
    for index in [(0, 0, 0), (4, 8, 6), (2, 3, 5)]:
        place = volume.grid.displayed_affine @ [*index, 1]
        own = np.argwhere(np.asarray(image.dataobj) == volume.voxels[index])[0]
        np.testing.assert_allclose(image.affine @ [*own, 1], place, atol=1e-4)


def test_oblique_axes_go_to_the_nearest(tmp_path):
    turn = nibabel.eulerangles.euler2mat(0.2, -0.1, 0.15)
    affine = nibabel.affines.from_matvec(turn @ np.diag(SPACING), (1, 2, 3))
    array = np.asarray(patient().dataobj)
    volume = volumes.read_nifti(
        save(nibabel.Nifti1Image(array[::-1], affine @ np.diag([-1, 1, 1, 1])), tmp_path / "a.nii")
    )
    np.testing.assert_array_equal(volume.voxels, shown(array))
    assert volume.spacing_mm == pytest.approx((4.0, 1.5, 0.8), rel=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_slice_axis_overrides(tmp_path, orientation):
    """Coronal: from back to front, head up, right at the left; sagittal: head up, front at the left."""
    path = save(patient().as_reoriented(orientation), tmp_path / "ct.nii")
    array = np.asarray(patient().dataobj)
    axis = {
        int(way): i for i, way in enumerate(nibabel.io_orientation(nibabel.load(path).affine)[:, 0])
    }
    coronal, sagittal = (volumes.read_nifti(path, slice_axis=axis[way]) for way in (1, 0))
    np.testing.assert_array_equal(coronal.voxels, array[::-1, :, ::-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(sagittal.voxels, array[:, ::-1, ::-1].transpose(0, 2, 1))
    assert coronal.spacing_mm == pytest.approx(
        (1.5, 4.0, 0.8)
    ) and sagittal.spacing_mm == pytest.approx((0.8, 4.0, 1.5))
    np.testing.assert_array_equal(
        coronal.restore(coronal.voxels), np.asarray(nibabel.load(path).dataobj)
    )


@pytest.mark.parametrize(
    ("spacing", "slice_axis", "expected"),
    [
        ((1.4, 1.4, 10.0), None, (2, 1, 0)),
        ((10.0, 1.4, 1.4), None, (0, 2, 1)),
        ((1.4, 8.0, 1.2), None, (1, 2, 0)),
        ((2.0, 2.0, 2.0), None, (2, 1, 0)),
        ((5.0, 5.0, 1.0), None, (1, 2, 0)),
        ((1.4, 1.4, 10.0), 0, (0, 2, 1)),
    ],
)
def test_mri_is_never_turned(tmp_path, spacing, slice_axis, expected):
    array = np.asarray(patient().dataobj)
    affine = nibabel.affines.from_matvec(np.diag(spacing) * [-1, -1, 1], (3, 4, 5))
    path = save(nibabel.Nifti1Image(array, affine), tmp_path / "mr.nii.gz")
    volume = volumes.read_nifti(path, slice_axis, canonical=False)
    np.testing.assert_array_equal(volume.voxels, array.transpose(expected))
    np.testing.assert_array_equal(volume.restore(volume.voxels), array)
    assert volume.spacing_mm == pytest.approx([spacing[axis] for axis in expected])


def test_restore_takes_only_its_own_size(tmp_path):
    volume = volumes.read_nifti(save(patient(), tmp_path / "ct.nii"))
    with pytest.raises(DataError, match=r"ct\.nii.*\(5, 9, 7\).*must agree"):
        volume.restore(volume.voxels[:-1])


# ---- NIfTI: headers and damage


def header(path, affine, zooms, codes):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header.set_zooms(zooms)
    image.header["qform_code"], image.header["sform_code"] = codes
    if affine is not None:
        image.header.set_sform(affine, code=codes[1])
    return save(
        nibabel.Nifti1Image(image.dataobj, affine if codes[1] else None, image.header), path
    )


def test_unknown_spacing_is_unknown(tmp_path):
    identity = save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.nii"
    )
    volume = volumes.read_nifti(identity, canonical=False)
    assert (
        volume.spacing_mm is None
        and "spacing unknown" in volume.notes[0]
        and not volume.grid.oriented
    )
    assert (
        volumes.read_nifti(header(tmp_path / "b.nii", None, (1, 1, 1), (0, 0))).spacing_mm is None
    )
    # One millimetre with a place in space is a measurement; sizes without a geometry are, too.
    moved = nibabel.affines.from_matvec(np.eye(3), (5, 0, 0))
    known = save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), moved), tmp_path / "c.nii")
    assert volumes.read_nifti(known).spacing_mm == (1, 1, 1)
    bare = header(tmp_path / "d.nii", None, (1.5, 1.5, 10), (0, 0))
    assert volumes.read_nifti(bare, canonical=False).spacing_mm == pytest.approx((10, 1.5, 1.5))


def test_scaling_and_numbers(tmp_path):
    image = patient()
    image.header.set_slope_inter(2, -10)
    save(image, tmp_path / "scaled.nii")
    raw = nibabel.load(tmp_path / "scaled.nii")
    volume = volumes.read_nifti(tmp_path / "scaled.nii")
    np.testing.assert_allclose(volume.voxels, shown(raw.get_fdata()), atol=1e-3)
    wide = nibabel.Nifti1Image(
        np.asarray(patient().dataobj).astype(np.int32) * 100, patient().affine
    )
    assert volumes.read_nifti(save(wide, tmp_path / "wide.nii")).voxels.dtype == np.float32


def test_voxels_that_are_no_numbers(tmp_path):
    array = np.asarray(patient().dataobj).astype(np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -np.inf
    volume = volumes.read_nifti(
        save(nibabel.Nifti1Image(array, patient().affine), tmp_path / "ct.nii")
    )
    assert np.isfinite(volume.voxels).all() and (volume.voxels == np.float32(-999)).sum() == 4
    assert "3 voxels are not finite" in volume.notes[0]
    empty = nibabel.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4))
    with pytest.raises(DataError, match=r"empty\.nii.*no voxel"):
        volumes.read_nifti(save(empty, tmp_path / "empty.nii"))


def test_files_that_are_no_volume(tmp_path):
    save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.eye(4)), tmp_path / "cine.nii")
    with pytest.raises(DataError, match=r"cine\.nii: 4-D image of 4x5x6x3"):
        volumes.read_nifti(tmp_path / "cine.nii")
    save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.int16), patient().affine),
        tmp_path / "one.nii",
    )
    assert volumes.read_nifti(tmp_path / "one.nii").voxels.shape == (6, 5, 4)
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(DataError, match=r"rgb\.nii.*one number a voxel"):
        volumes.read_nifti(tmp_path / "rgb.nii")
    with pytest.raises(DataError, match="no such file"):
        volumes.read_nifti(tmp_path / "nothing.nii")
    for content in (b"", b"no volume at all", b"\x1f\x8b\x08\x00junk"):
        (tmp_path / "bad.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.nii\.gz"):
            volumes.read_nifti(tmp_path / "bad.nii.gz")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_cut_file_is_named(tmp_path, share):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 20)).astype(np.int16)
    path = save(nibabel.Nifti1Image(noise, patient().affine), tmp_path / "cut.nii.gz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"cut\.nii\.gz.*(cut short|damaged)"):
        volumes.read_nifti(path)


def test_damage_inside_a_file_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 20)).astype(np.int16)
    path = save(nibabel.Nifti1Image(noise, patient().affine), tmp_path / "bad.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.nii\.gz.*(cut short|damaged)"):
        volumes.read_nifti(path)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(noise, np.eye(4))
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    raw = bytearray(gzip.decompress(save(image, tmp_path / "flat.nii.gz").read_bytes()))
    raw[280:328] = b"\0" * 48
    (tmp_path / "flat.nii").write_bytes(raw)
    with pytest.raises(DataError, match=r"flat\.nii.*(no geometry|damaged)"):
        volumes.read_nifti(tmp_path / "flat.nii")


# ---- DICOM


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
    assert volume.spacing_mm == pytest.approx(
        (2.5, 0.5, 0.7)
    )  # of the positions, not SliceThickness
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


@pytest.mark.parametrize(
    ("turn", "view"),
    [
        ([1, 0, 0, 0, 1, 0], lambda a: a),
        ([-1, 0, 0, 0, 1, 0], lambda a: a[:, :, ::-1]),  # the normal points to the feet
        ([-1, 0, 0, 0, -1, 0], lambda a: a[:, ::-1, ::-1]),  # prone
        ([0, 1, 0, 1, 0, 0], lambda a: a.transpose(0, 2, 1)),
    ],
)
def test_orientation_of_slices(tmp_path, stack, turn, view):
    """Whatever the rows and columns point to, the slices are shown from the feet, right at the left."""
    write_series(tmp_path / "s", view(stack), ImageOrientationPatient=turn)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    for plane, file in zip(volume.restore(volume.voxels), volume.grid.files):
        np.testing.assert_array_equal(plane, pydicom.dcmread(file).pixel_array.astype(int) - 1024)


def test_slices_of_mri_stay_as_they_are(tmp_path, stack):
    places = {
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "ImagePositionPatient": lambda k: [-7.0 * k, 0, 0],
    }
    write_series(tmp_path / "s", stack, Modality="MR", **places)
    volume = volumes.read_dicom(tmp_path / "s", canonical=False)
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    assert volume.spacing_mm == pytest.approx((7.0, 0.5, 0.7))


def test_gantry_tilt_keeps_the_distance_of_the_planes(tmp_path, stack):
    write_series(tmp_path / "s", stack, ImagePositionPatient=lambda k: [0, 1.0 * k, 4.0 * k])
    volume = volumes.read_dicom(tmp_path / "s")
    assert volume.spacing_mm[0] == pytest.approx(4.0)
    np.testing.assert_allclose(volume.grid.displayed_affine @ [3, 0, 0, 1], [0, -3, 12, 1])


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
def test_monochrome1_is_turned(tmp_path, stack, signed):
    stored = stack - 2048 if signed else stack
    inverted = -1 - stored if signed else 4095 - stored
    write_series(tmp_path / "s", inverted, signed=signed, PhotometricInterpretation="MONOCHROME1")
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stored - 1024)
    assert any("MONOCHROME1" in note for note in volume.notes)


def test_missing_signs_are_added_only_where_the_series_shows_none(tmp_path):
    true = np.array([[[-1000, -1, 0, 1200]], [[5, 60, -700, 2047]]])
    bare = true & 0xFFF  # twelve bits, the sign in bit 11, nothing above
    write_series(tmp_path / "bare", bare, signed=True, RescaleIntercept=0)
    volume = volumes.read_dicom(tmp_path / "bare")
    np.testing.assert_array_equal(volume.voxels, true)
    assert "signs of 12-bit numbers added" in volume.notes[0]
    # 3000 HU of metal and negative numbers with all their bits: BitsStored is wrong, the numbers are right.
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
    assert (
        volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, -3024]
        and "read as signed" in volume.notes[-1]
    )
    overlay = np.array([[[0, 24, 4095, 0x8000 + 1024]]])
    write_series(tmp_path / "overlay", overlay)
    volume = volumes.read_dicom(tmp_path / "overlay")
    assert (
        volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, 0]
        and "bits above the 12" in volume.notes[-1]
    )
    write_series(tmp_path / "left", np.array([[[0, 24, 4095, 1000]]]) << 4, HighBit=15)
    volume = volumes.read_dicom(tmp_path / "left")
    assert (
        volume.voxels[0, 0].tolist() == [-1024, -1000, 3071, -24]
        and "4 bits too high" in volume.notes[-1]
    )


def test_several_series_are_refused_and_can_be_named(tmp_path, stack):
    write_series(tmp_path / "s", stack, series="1.2.3", name="a{}")
    write_series(
        tmp_path / "s", stack[:2] // 2, series="1.2.4", name="b{}", SeriesDescription="arterial"
    )
    with pytest.raises(
        DataError, match=r"2 series.*1\.2\.3: 5 files, portal venous; 1\.2\.4: 2 files, arterial"
    ):
        volumes.read_dicom(tmp_path / "s")
    assert len(volumes.read_dicom(tmp_path / "s", series="1.2.4").voxels) == 2
    with pytest.raises(DataError, match=r"no series '1\.9'.*1\.2\.3"):
        volumes.read_dicom(tmp_path / "s", series="1.9")


def test_missing_and_second_slices(tmp_path, stack):
    files = write_series(tmp_path / "s", stack)
    files[2].unlink()
    volume = volumes.read_dicom(tmp_path / "s")
    assert len(volume.voxels) == 4 and volume.spacing_mm[0] == pytest.approx(2.5)
    assert "1 slices are missing between 1.dcm and 3.dcm (5 mm, else 2.5)" in volume.notes[0]
    shutil.copy(files[1], tmp_path / "s" / "copy.dcm")
    volume = volumes.read_dicom(tmp_path / "s")
    assert len(volume.voxels) == 4 and "copy" in volume.notes[0] and "dropped" in volume.notes[0]
    edit(tmp_path / "s" / "copy.dcm", PixelData=stack[0].astype(np.uint16).tobytes())
    with pytest.raises(
        DataError,
        match=r"(copy|1)\.dcm: another image at the position of (copy|1)\.dcm \(12\.50 mm\)",
    ):
        volumes.read_dicom(tmp_path / "s")


def test_without_positions_the_numbers_count(tmp_path, stack):
    files = write_series(tmp_path / "s", stack, number=lambda k: 5 - k)
    edit(files[3], ImagePositionPatient=None)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack[::-1] - 1024)
    assert (
        volume.spacing_mm is None
        and "InstanceNumber" in volume.notes[0]
        and not volume.grid.oriented
    )
    for file in files:
        edit(file, SpacingBetweenSlices=3)
    assert volumes.read_dicom(tmp_path / "s").spacing_mm == pytest.approx((3, 0.5, 0.7))


def test_one_slice(tmp_path, stack):
    write_series(tmp_path / "s", stack[:1])
    volume = volumes.read_dicom(tmp_path / "s")
    assert volume.spacing_mm == pytest.approx((5, 0.5, 0.7)) and "thickness" in volume.notes[0]
    files = write_series(tmp_path / "t", stack)
    for file in files:
        edit(file, PixelSpacing=None)
    volume = volumes.read_dicom(tmp_path / "t")
    assert volume.spacing_mm is None and "PixelSpacing" in volume.notes[0]


def test_files_that_are_no_slices_are_skipped(tmp_path, stack):
    write_series(tmp_path / "s", stack)
    report = write_series(
        tmp_path / "s", stack[:1], name="report{}", SOPClassUID=EnhancedSRStorage, series="9"
    )[0]
    edit(report, Rows=None, Columns=None, PixelData=None)
    (tmp_path / "s" / "notes.txt").write_text("hello")
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"nothing")
    (tmp_path / "s" / ".hidden").write_bytes(b"nothing")
    write_series(
        tmp_path / "s",
        stack[:1] // 2,
        name="scout{}",
        series="8",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
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
    kept = {
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "header": content[:600],
        "pixels": content[:-4000],
        "last bytes": content[:-2],
        "compressed": content[:-3000],
    }[damage]
    file.write_bytes(kept)
    with pytest.raises(DataError, match=r"2\.dcm"):
        volumes.read_dicom(tmp_path / "s")


def test_other_refusals(tmp_path, stack):
    files = write_series(tmp_path / "size", stack)
    edit(files[1], Rows=4, PixelData=stack[0, :4].astype(np.uint16).tobytes())
    with pytest.raises(DataError, match=r"1\.dcm: 4x6 pixels but 0\.dcm has 8x6"):
        volumes.read_dicom(tmp_path / "size")
    files = write_series(tmp_path / "turn", stack)
    edit(files[1], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    with pytest.raises(DataError, match=r"1\.dcm: oriented differently"):
        volumes.read_dicom(tmp_path / "turn")
    edit(write_series(tmp_path / "frames", stack[:1])[0], NumberOfFrames=3)
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
    from pydicom.pixels import decoders

    monkeypatch.setattr(decoders.JPEG2000LosslessDecoder, "_available", {})
    write_series(tmp_path / "t", large, syntax=JPEG2000Lossless)
    with pytest.raises(DataError, match=r"\.dcm.*install pylibjpeg-openjpeg"):
        volumes.read_dicom(tmp_path / "t")


# ---- labels


def dicom_and_labels(folder, stack, codes="LAS"):
    """A DICOM series and, in `codes` axes, labels 0 to 5 of its voxels; returns the labels as displayed."""
    write_series(folder / "ct", stack)
    truth = (stack % 6).astype(np.uint8)
    affine = volumes.read_grid(folder / "ct").affine  # of (slice, row, column)
    image = nibabel.Nifti1Image(truth, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    save(image.as_reoriented(turn), folder / "seg.nii.gz")
    return truth


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPS", "SPL", "ASR"])
def test_dicom_and_nifti_labels_meet(tmp_path, stack, codes):
    truth = dicom_and_labels(tmp_path, stack, codes)
    volume = volumes.read(tmp_path / "ct")
    np.testing.assert_array_equal(volumes.read_labels_like(volume, tmp_path / "seg.nii.gz"), truth)
    if codes == "LAS":  # the way the README of the test data lays them over each other
        stored = np.asarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj)
        for k, plane in enumerate(truth):
            np.testing.assert_array_equal(stored[:, :, k].T[::-1], plane)


def test_labels_beside_their_volume_are_refused(tmp_path):
    image = patient()
    volume = volumes.read_nifti(save(image, tmp_path / "ct.nii"))
    truth = (np.asarray(image.dataobj) % 5).astype(np.uint8)

    def moved(voxels, name, array=truth):
        affine = image.affine @ nibabel.affines.from_matvec(np.eye(3), voxels)
        return save(nibabel.Nifti1Image(array, affine), tmp_path / name)

    np.testing.assert_array_equal(
        volumes.read_labels_like(volume, moved((0.4, 0, 0), "near.nii")), shown(truth)
    )
    with pytest.raises(
        DataError, match=r"far\.nii: lies up to 0\.6 voxels beside its volume ct\.nii"
    ):
        volumes.read_labels_like(volume, moved((0, 0.6, 0), "far.nii"))
    with pytest.raises(
        DataError, match=r"short\.nii: labels of 4x9x7.*volume of 5x9x7 \(ct\.nii\)"
    ):
        volumes.read_labels_like(volume, moved((0, 0, 0), "short.nii", truth[..., 1:]))
    wide = save(
        nibabel.Nifti1Image(truth, image.affine @ np.diag([1.2, 1, 1, 1])), tmp_path / "wide.nii"
    )
    with pytest.raises(DataError, match=r"wide\.nii: lies up to"):
        volumes.read_labels_like(volume, wide)


def test_labels_without_orientation(tmp_path, stack):
    image = patient().as_reoriented(ORIENTATIONS[13])
    truth = (np.asarray(image.dataobj) % 5).astype(np.uint8)
    volume = volumes.read_nifti(save(image, tmp_path / "ct.nii"))
    path = save(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "seg.nii")
    np.testing.assert_array_equal(
        volumes.read_labels_like(volume, path), volume.grid.display(truth)
    )
    assert "no orientation" in volumes.align(volume.grid, path)[2]
    save(nibabel.Nifti1Image(truth[:-1], np.eye(4)), path)
    with pytest.raises(DataError, match=r"seg\.nii.*without orientation.*its volume is"):
        volumes.read_labels_like(volume, path)
    dicom_and_labels(tmp_path / "d", stack)
    save(nibabel.Nifti1Image(np.zeros((6, 8, 5), np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match=r"seg\.nii.*DICOM series cannot be matched"):
        volumes.read_labels_like(volumes.read_grid(tmp_path / "d" / "ct"), path)


def test_labels_must_be_whole_numbers(tmp_path):
    image = patient()
    volume = volumes.read_nifti(save(image, tmp_path / "ct.nii"))
    numbers = np.asarray(image.dataobj) % 400
    read = volumes.read_labels_like(
        volume, save(labels_of(image, numbers, np.float64), tmp_path / "f.nii")
    )
    np.testing.assert_array_equal(read, shown(numbers))
    assert read.dtype == np.int32
    for name, array in (("half", numbers + 0.5), ("nan", np.where(numbers == 3, np.nan, numbers))):
        with pytest.raises(DataError, match=rf"{name}\.nii: labels are not whole"):
            volumes.read_labels_like(
                volume, save(labels_of(image, array, np.float32), tmp_path / f"{name}.nii")
            )
    with pytest.raises(DataError, match=r"minus\.nii: label -1 is negative"):
        volumes.read_labels_like(
            volume, save(labels_of(image, numbers - 1, np.int16), tmp_path / "minus.nii")
        )


def organs(folder, image, truth, leave=()):
    """One mask file an organ as TotalSegmentator writes them, float64; bowel is spread over three files."""
    parts = {
        "liver": truth == 1,
        "spleen": truth == 2,
        "kidney_left": truth == 3,
        "kidney_right": truth == 4,
    }
    row = np.indices(truth.shape)[0]
    parts |= {
        n: (truth == 5) & (row % 3 == i) for i, n in enumerate(("colon", "small_bowel", "duodenum"))
    }
    parts["stomach"] = truth == 0
    for name in set(parts) - set(leave):
        save(labels_of(image, parts[name], np.float64), folder / f"{name}.nii.gz")
    return folder


def test_one_mask_file_an_organ(tmp_path):
    image = patient()
    truth = (np.asarray(image.dataobj) % 6).astype(np.uint8)
    volume = volumes.read_nifti(save(image, tmp_path / "ct.nii"))
    folder = organs(tmp_path / "seg", image, truth)
    np.testing.assert_array_equal(volumes.read_labels_like(volume, folder), shown(truth))
    two = volumes.read_labels_like(volume, folder, ("background", "spleen", "liver"))
    np.testing.assert_array_equal(two, shown(np.select([truth == 1, truth == 2], [2, 1], 0)))
    named = {
        "kidneys": [folder / "kidney_left.nii.gz", folder / "kidney_right.nii.gz"],
        "liver": folder / "liver.nii.gz",
    }
    expected = np.select([(truth == 3) | (truth == 4), truth == 1], [1, 2], 0)
    np.testing.assert_array_equal(volumes.read_labels_like(volume, named), shown(expected))
    (folder / "duodenum.nii.gz").unlink()
    assert list(volumes.organ_files(folder, CLASSES)) == [
        "liver",
        "spleen",
        "left_kidney",
        "right_kidney",
    ]
    with pytest.raises(DataError, match="no mask file of heart"):
        volumes.read_labels_like(volume, folder, ("background", "heart"))


# ---- eight bits, and the memory


def test_window():
    voxels = np.array([[[-2000, -150, 50, 250, 3000]]], np.int16)
    assert volumes.window(voxels, 50, 400).ravel().tolist() == [0, 0, 128, 255, 255]
    ramp = np.linspace(-150, 250, 1001, dtype=np.float32).reshape(1, 1, -1)
    np.testing.assert_array_equal(
        volumes.window(ramp, 50, 400)[0, 0], np.rint((ramp[0, 0] + 150) / 400 * 255)
    )


def test_percentiles_are_those_of_the_volume():
    voxels = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    shown = volumes.clip_percentiles(voxels, 10, 90)
    assert shown.dtype == np.uint8 and (shown[:1] == 0).all() and (shown[-1:] == 255).all()
    assert np.diff(shown.ravel().astype(int)).max() == 1
    assert (volumes.clip_percentiles(np.full((2, 3, 3), 7), 1, 99) <= 128).all()


def test_a_volume_is_decoded_once(tmp_path, monkeypatch):
    calls = []
    real = volumes.read
    monkeypatch.setattr(volumes, "read", lambda path, **k: calls.append(path) or real(path, **k))
    paths = [str(save(patient(), tmp_path / f"{i}.nii")) for i in range(2)]
    cut = {"slice_axis": None, "canonical": True}
    for _ in range(3):
        for path in paths:
            assert volumes.bytes_of(path, 50, 400, None, **cut).shape == (5, 9, 7)
    assert calls == paths
    image = patient()
    image = nibabel.Nifti1Image(np.asarray(image.dataobj) * 0 + 50, image.affine)
    save(image, Path(paths[0])).touch()
    assert (
        volumes.bytes_of(paths[0], 50, 400, None, **cut) == 128
    ).all()  # the file is another one now
    (tmp_path / "bad.nii").write_bytes(b"junk")
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.nii"):
            volumes.bytes_of(str(tmp_path / "bad.nii"), 50, 400, None, **cut)
    assert len(calls) == 4 and len(volumes._memory.known) <= 4


# ---- trees


def rsna(root, tmp_path, **changes):
    values = {"image_size": 16, "window_level": -500, "window_width": 1000, **changes}
    return config.preset(
        "rsna", "smoke", data_root=str(root), work_dir=str(tmp_path / "work"), **values
    )


def truth_of(store, cfg):
    """Case -> (image, labels) in the size of the files."""
    rows = [row for _, row in store.cases.iterrows()]
    sizes = [(int(row["height"]), int(row["width"])) for row in rows]
    return {
        row["case"]: (
            case_pixels.read_image(row, cfg),
            prepare.read_truth(row, cfg, {}, size)[0][..., 0],
        )
        for row, size in zip(rows, sizes)
    }


def test_dicom_tree(tmp_path, stack):
    root, truths = tmp_path / "rsna", {}
    for i, (person, series) in enumerate([("100", "7"), ("100", "8"), ("200", "9")]):
        voxels = np.roll(stack, i, axis=2)
        truths[f"{person}_{series}"] = dicom_and_labels(root / "x", voxels)
        shutil.move(root / "x" / "ct", root / "train_images" / person / series)
        (root / "segmentations").mkdir(exist_ok=True)
        shutil.move(root / "x" / "seg.nii.gz", root / "segmentations" / f"{series}.nii.gz")
    write_series(root / "train_images" / "300" / "11", stack)
    shutil.copy(root / "segmentations" / "7.nii.gz", root / "segmentations" / "77.nii.gz")
    cfg = rsna(root, tmp_path)
    cases = layouts.scan(cfg)
    assert (
        len(cases) == 15
        and cases["case"].iloc[0] == "100_7_000"
        and cases["case"].iloc[-1] == "200_9_004"
    )
    assert sorted(set(cases["patient"])) == ["100", "200"] and (cases["split"] == "").all()
    assert list(cases["slice"][:6]) == [0, 1, 2, 3, 4, 0]
    assert (cases[["height", "width"]].iloc[0] == [8, 6]).all()
    spacing = cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]].iloc[0].tolist()
    assert spacing == pytest.approx([2.5, 0.5, 0.7])
    notes = "\n".join(cases.attrs["notes"])
    assert "77.nii.gz: no series" in notes and "1 series without a segmentation" in notes
    assert "taken as class numbers" in notes and (cases["label_numbers"] == "class").all()
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 15 and store.report.problems.empty
    for case, (image, labels) in truth_of(store, cfg).items():
        volume, k = case.rsplit("_", 1)
        np.testing.assert_array_equal(labels, truths[volume][int(k)])
        assert image.shape == (8, 6, 3) and image.dtype == np.uint8
    assert (
        len(set(store.cases.groupby("patient")["split"].first())) == 2
    )  # the two series of 100 stay together


def test_the_key_of_a_store_follows_every_file_of_a_series(tmp_path, stack):
    root = tmp_path / "rsna"
    truth = dicom_and_labels(root / "x", stack)
    shutil.move(root / "x" / "ct", root / "train_images" / "1" / "2")
    (root / "segmentations").mkdir()
    shutil.move(root / "x" / "seg.nii.gz", root / "segmentations" / "2.nii.gz")
    cfg = rsna(root, tmp_path)
    first = prepare.build(layouts.scan(cfg), cfg)
    assert prepare.build(layouts.scan(cfg), cfg).folder == first.folder
    file = root / "train_images" / "1" / "2" / "3.dcm"
    edit(file, PixelData=np.zeros_like(stack[3], np.uint16).tobytes(), InstanceNumber=77)
    changed = prepare.build(layouts.scan(cfg), cfg)
    assert changed.folder != first.folder
    images, labels = truth_of(changed, cfg)["1_2_003"]
    assert (images == 0).all() and (labels == truth[3]).all()
    assert (
        prepare.build(layouts.scan(cfg), rsna(root, tmp_path, window_level=40)).folder
        != changed.folder
    )


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.mark.parametrize("masks", ["labels", "masks"])
def test_png_tree(tmp_path, masks):
    root, rng = tmp_path / "png", np.random.default_rng(0)
    for name in ("100_7_12", "100_7_13", "200_9_3", "300_5_1"):
        picture(root / "images" / f"{name}.png", rng.integers(0, 255, (20, 24)))
        picture(root / masks / f"{name}.png", rng.integers(0, 6, (20, 24)))
    cfg = rsna(root, tmp_path, image_size=(20, 24), augment={})
    cases = layouts.scan(cfg)
    assert list(cases["case"]) == ["100_7_012", "100_7_013", "200_9_003", "300_5_001"]
    assert list(cases["patient"]) == ["100", "100", "200", "300"]
    assert list(cases["volume"]) == ["100_7", "100_7", "200_9", "300_5"] and list(
        cases["slice"]
    ) == [12, 13, 3, 1]
    assert (
        cases["label_numbers"] == "class"
    ).all()  # and not TotalSegmentator's, where 1 is the spleen
    store = prepare.build(cases, cfg)
    _, stored = store.open()
    for row in store.cases.itertuples():
        np.testing.assert_array_equal(stored[row.row][..., 0], np.array(Image.open(row.labels)))


def test_numbers_of_totalsegmentator_are_translated(tmp_path):
    root = tmp_path / "png"
    for name, numbers in (("1_1_1", [0, 5, 1, 3]), ("2_1_1", [2, 18, 20, 90])):
        picture(root / "images" / f"{name}.png", np.arange(64).reshape(8, 8))
        picture(root / "labels" / f"{name}.png", np.repeat([numbers], 4, axis=0))
        picture(
            root / "images" / f"{name}.png",
            np.random.default_rng(len(numbers)).integers(0, 9, (4, 4)) + int(name[0]),
        )
    cfg = rsna(root, tmp_path)
    store = prepare.build(layouts.scan(cfg), cfg)
    found = [labels[0].tolist() for _, labels in truth_of(store, cfg).values()]
    assert found == [[0, 1, 2, 3], [4, 5, 5, 0]]
    own = rsna(
        root, tmp_path, label_map={"5": 1, "90": 2}
    )  # a table of one's own is always applied
    assert "label_numbers" not in layouts.scan(own)
    found = [
        labels[0].tolist()
        for _, labels in truth_of(prepare.build(layouts.scan(own), own), own).values()
    ]
    assert found == [[0, 1, 0, 0], [0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("name", "volume", "person", "number"),
    [
        ("10004_21057_0007", "10004_21057", "10004", 7),
        ("10002_425", "10002", "10002", 425),
        ("10019_spleen_3", "spleen_3", "spleen_3", 10019),
        ("patient_012_44", "patient_012", "patient_012", 44),
        ("case01_ct2_5", "case01_ct2", "case01", 5),
        ("liver", "", "liver", ""),
    ],
)
def test_names_of_slices(tmp_path, name, volume, person, number):
    for folder in ("images", "labels"):
        picture(tmp_path / folder / f"{name}.png", np.zeros((4, 4)))
    row = volume_layouts.scan_rsna(tmp_path, rsna(tmp_path, tmp_path)).iloc[0]
    assert (row["volume"], row["patient"], row["slice"]) == (volume, person, number)
    assert row["case"] == (f"{volume}_{number:03d}" if volume else name)


def test_totalsegmentator_tree_with_a_missing_organ(tmp_path):
    root = tmp_path / "ts"
    truth = (np.asarray(patient().dataobj) % 6).astype(np.uint8)
    for i, name in enumerate(("s0001", "s0002", "s0003")):
        voxels = np.asarray(patient().dataobj) + i
        save(nibabel.Nifti1Image(voxels, patient().affine), root / name / "ct.nii.gz")
        organs(
            root / name / "segmentations",
            patient(),
            truth,
            leave=["spleen", "duodenum"] if i == 1 else [],
        )
    cfg = rsna(root, tmp_path)
    cases = layouts.scan(cfg)
    assert len(cases) == 15 and sorted(set(cases["volume"])) == sorted(set(cases["patient"])) == [
        "s0001",
        "s0002",
        "s0003",
    ]
    annotated = cases.groupby("volume")["annotated"].first()
    assert (
        annotated["s0001"] == ",".join(CLASSES)
        and annotated["s0002"] == "liver,left_kidney,right_kidney"
    )
    store = prepare.build(cases, cfg)
    for case, (_, labels) in truth_of(store, cfg).items():
        expected = shown(truth)[int(case[-3:])]
        if case.startswith("s0002"):  # nothing else is known: it may be spleen, bowel or background
            expected = np.where(np.isin(expected, (1, 3, 4)), expected, 255)
        np.testing.assert_array_equal(labels, expected)
    row = store.cases[store.cases["volume"] == "s0002"].iloc[0]
    assert prepare.read_truth(row, cfg, {}, (9, 7))[1] == [False, True, False, True, True, False]


def test_pairs_by_name_and_by_grid(tmp_path):
    root = tmp_path / "own"
    image, zeros = patient(), np.zeros((7, 9, 5))
    short = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., :3], image.affine)
    save(image, root / "a_ct.nii.gz"), save(labels_of(image, zeros), root / "a_seg.nii.gz")
    save(image, root / "b.nii"), save(labels_of(image, zeros), root / "b_seg.nii.gz")
    (
        save(image, root / "c_ct_arterial.nii"),
        save(labels_of(image, zeros), root / "c_seg_arterial.nii"),
    )
    (
        save(image, root / "d_ct.nii"),
        save(short, root / "d_ct_low.nii"),
        save(labels_of(short, zeros[..., :3]), root / "d_seg.nii"),
    )
    save(labels_of(image, zeros), root / "e_seg.nii")
    cases = volume_layouts.scan_rsna(root, rsna(root, tmp_path))
    pairs = {(Path(r.image).name, Path(r.labels).name, r.patient) for r in cases.itertuples()}
    assert pairs == {
        ("a_ct.nii.gz", "a_seg.nii.gz", "a"),
        ("b.nii", "b_seg.nii.gz", "b"),
        ("d_ct_low.nii", "d_seg.nii", "d"),
        ("c_ct_arterial.nii", "c_seg_arterial.nii", "c"),
    }
    notes = "\n".join(cases.attrs["notes"])
    assert "d_seg.nii: paired with d_ct_low.nii" in notes and "e_seg.nii: no volume" in notes


def test_nifti_in_images_and_labels(tmp_path):
    truth = np.asarray(patient().dataobj) % 6
    (
        save(patient(), tmp_path / "t" / "images" / "p1_0000.nii.gz"),
        save(patient(), tmp_path / "t" / "images" / "p2.nii.gz"),
    )
    save(labels_of(patient(), truth), tmp_path / "t" / "labels" / "p1.nii.gz")
    cfg = rsna(tmp_path / "t", tmp_path)
    cases = layouts.scan(cfg)
    assert len(cases) == 5 and "p2.nii.gz: no label map" in "\n".join(cases.attrs["notes"])
    for case, (_, labels) in truth_of(prepare.build(cases, cfg), cfg).items():
        np.testing.assert_array_equal(labels, shown(truth)[int(case[-3:])])


def test_trees_that_are_none(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"no CT of the rsna system.*train_images.*found a/"):
        layouts.scan(rsna(tmp_path, tmp_path))
    with pytest.raises(DataError, match=r"no MRI of the cardiac system.*patient001.*found a/"):
        layouts.scan(config.preset("cardiac", "smoke", data_root=str(tmp_path)))
    for folder in ("a/images", "b/images", "a/labels", "b/labels"):
        picture(tmp_path / folder / "1_2.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"1_2\.png: the same case '1_002'"):
        volume_layouts.scan_rsna(tmp_path, rsna(tmp_path, tmp_path))


def heart(root, name, frame, seed=0, spacing=(1.5, 1.5, 9.0)):
    affine = nibabel.affines.from_matvec(np.diag(spacing) * [-1, -1, 1], (1, 2, 3))
    rng = np.random.default_rng(seed)
    save(
        nibabel.Nifti1Image(rng.integers(0, 900, (12, 10, 4)).astype(np.int16), affine),
        root / name / f"{name}_{frame}.nii.gz",
    )
    truth = rng.integers(0, 4, (12, 10, 4)).astype(np.uint8)
    save(nibabel.Nifti1Image(truth, affine), root / name / f"{name}_{frame}_gt.nii.gz")
    return truth


def test_acdc_tree(tmp_path):
    truths = {}
    for i, (part, name) in enumerate(
        [("training", "patient001"), ("training", "patient002"), ("testing", "patient101")]
    ):
        root = tmp_path / "acdc" / part
        truths |= {
            f"{name}_{f}": heart(root, name, f, seed=10 * i + j)
            for j, f in enumerate(("frame01", "frame12"))
        }
        if i != 1:
            (root / name / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\n")
        save(
            nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)),
            root / name / f"{name}_4d.nii.gz",
        )
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tmp_path / "acdc"), work_dir=str(tmp_path / "work")
    )
    cases = layouts.scan(cfg)
    assert len(cases) == 24 and list(cases["slice"][:5]) == [0, 1, 2, 3, 0]
    assert cases.groupby("volume")["phase"].first().tolist() == ["ED", "ES", "", "", "ED", "ES"]
    assert cases.groupby("patient")["split"].first().tolist() == ["train", "train", "test"]
    assert cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]].iloc[0].tolist() == [
        9.0,
        1.5,
        1.5,
    ]
    store = prepare.build(cases, cfg)
    for case, (image, labels) in truth_of(store, cfg).items():
        volume, k = case.rsplit("_", 1)
        np.testing.assert_array_equal(labels, truths[volume][:, :, int(k)].T)
        assert image.shape == (10, 12, 1)
    whole = volumes.read(cases["image"][0], canonical=False).voxels
    low, high = np.percentile(whole, cfg.percentiles)
    expected = np.rint(np.clip((whole[2] - low) / (high - low), 0, 1) * 255)
    got = truth_of(store, cfg)["patient001_frame01_002"][0][..., 0]
    assert np.abs(got - expected).max() <= 1
    shutil.rmtree(tmp_path / "acdc" / "testing")
    assert (layouts.scan(cfg)["split"] == "").all()


def test_generic_tree_of_the_cardiac_system(tmp_path):
    for part, names in (("train", ["patient001_1", "patient001_2", "x"]), ("val", ["y"])):
        for i, name in enumerate(names):
            picture(
                tmp_path / part / "images" / f"{name}.png",
                np.random.default_rng(10 * len(part) + i).integers(0, 99, (6, 6)),
            )
            picture(tmp_path / part / "masks" / f"{name}_mask.png", np.arange(36).reshape(6, 6) % 4)
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tmp_path), work_dir=str(tmp_path / "work")
    )
    cases = layouts.scan(cfg)
    assert list(cases["patient"]) == ["patient001", "patient001", "x", "y"]
    assert list(cases["split"]) == ["train", "train", "train", "val"]
    assert (cases["volume"] == "").all() and (cases["slice"] == "").all()
    assert len(prepare.build(cases, cfg).cases) == 4
    shutil.copy(tmp_path / "train" / "images" / "x.png", tmp_path / "val" / "images" / "x.png")
    assert set(layouts.scan(cfg)["case"]) >= {"train_x", "val_x"}


# ---- preparation


def test_a_bad_volume_is_set_aside_and_a_copy_found(tmp_path):
    root = tmp_path / "own"
    truth = np.asarray(patient().dataobj) % 6
    blank = np.full((7, 9, 5), -1000, np.int16)
    for name, array in (
        ("a", np.asarray(patient().dataobj)),
        ("b", np.asarray(patient().dataobj)),
        ("c", blank),
        ("d", blank + 1),
    ):
        save(nibabel.Nifti1Image(array, patient().affine), root / f"{name}_ct.nii.gz")
        save(labels_of(patient(), truth), root / f"{name}_seg.nii.gz")
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 20)).astype(np.int16)
    path = save(nibabel.Nifti1Image(noise, patient().affine), root / "d_ct.nii.gz")
    path.write_bytes(path.read_bytes()[:-60])
    save(labels_of(patient(), noise % 6), root / "d_seg.nii.gz")
    (root / "e_ct.nii.gz").write_bytes(b"junk")
    shutil.copy(root / "c_seg.nii.gz", root / "e_seg.nii.gz")
    cfg = rsna(root, tmp_path)
    cases = layouts.scan(cfg)
    assert any("left out" in note and "e_ct.nii.gz" in note for note in cases.attrs["notes"])
    store = prepare.build(cases, cfg)
    assert sorted(set(store.cases["volume"])) == ["a_ct", "c_ct"] and len(store.cases) == 10
    problems = store.report.problems
    assert (
        problems["problem"].str.contains("same content").sum() == 5
    )  # b is a; the empty slices of c are no copies
    assert problems["problem"].str.contains(r"d_ct\.nii\.gz.*cut short").sum() == 20


def test_rows_in_any_order_decode_each_volume_once(tmp_path, monkeypatch):
    root = tmp_path / "own"
    for i in range(8):
        array = np.random.default_rng(i).integers(-900, 0, (7, 9, 5)).astype(np.int16)
        save(nibabel.Nifti1Image(array, patient().affine), root / f"v{i}_ct.nii")
        save(labels_of(patient(), array % 6 * 0 + i % 6), root / f"v{i}_seg.nii")
    cfg = rsna(root, tmp_path, label_map={})
    cases = layouts.scan(cfg).sample(frac=1, random_state=0).reset_index(drop=True)
    calls = []
    real = volumes.read
    monkeypatch.setattr(volumes, "read", lambda path, **k: calls.append(path) or real(path, **k))
    store = prepare.build(cases, cfg)
    assert len(calls) == 8 and list(store.cases["case"]) == list(cases["case"])
    for row in store.cases.itertuples():
        assert set(np.unique(store.open()[1][row.row])) == {
            int(row.volume[1]) % 6,
            255,
        }  # 255: the letterbox


def test_annotated_names_what_is_known(tmp_path):
    root = tmp_path / "png"
    truth = np.array([[0, 1, 2], [3, 4, 5], [5, 1, 0]])
    for i in range(3):
        picture(root / "images" / f"{i}_1_1.png", np.random.default_rng(i).integers(0, 255, (3, 3)))
        picture(root / "labels" / f"{i}_1_1.png", truth)
    cfg = rsna(root, tmp_path, image_size=(9, 9))
    cases = layouts.scan(cfg)
    cases["annotated"] = [
        "background,liver",
        "",
        None,
    ]  # None: all, as where tables are put together
    store = prepare.build(cases, cfg)
    found = [labels.tolist() for _, labels in truth_of(store, cfg).values()]
    assert found == [[[0, 1, 255], [255, 255, 255], [255, 1, 0]], [[255] * 3] * 3, truth.tolist()]


def test_what_decoding_corrects_stands_in_the_report(tmp_path):
    array = np.asarray(patient().dataobj).astype(np.float32)
    array[0, 0, 0] = np.nan
    save(nibabel.Nifti1Image(array, patient().affine), tmp_path / "own" / "a_ct.nii")
    save(labels_of(patient(), np.zeros((7, 9, 5))), tmp_path / "own" / "a_seg.nii")
    cfg = rsna(tmp_path / "own", tmp_path)
    assert (
        "a_ct.nii: 1 voxels are not finite numbers; set to the minimum, -999"
        in prepare.build(layouts.scan(cfg), cfg).report.notes
    )


def test_threshold_for_two_classes(tmp_path):
    grey = np.array([[0, 20, 120], [130, 250, 255]])
    for i in range(2):
        picture(
            tmp_path / "t" / "images" / f"{i}_1.png",
            np.random.default_rng(i).integers(0, 255, (2, 3)),
        )
        picture(tmp_path / "t" / "masks" / f"{i}_1.png", grey)
    cfg = rsna(
        tmp_path / "t", tmp_path, class_names=("background", "spleen"), mask_encoding="threshold"
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    assert [labels.tolist() for _, labels in truth_of(store, cfg).values()] == [
        (grey > 127).astype(int).tolist()
    ] * 2
    cfg = rsna(tmp_path / "t", tmp_path, mask_encoding="threshold")
    with pytest.raises(DataError, match="tells two classes apart, and there are 6"):
        prepare.build(layouts.scan(cfg), cfg)


# ---- real data


@pytest.fixture(scope="module")
def ct(real):
    return real("totalsegmentator_ct")


@pytest.fixture(scope="module")
def real_series(ct):
    """The real DICOM series, whose JPEG 2000 takes a second to decode."""
    return volumes.read_dicom(ct / "example_ct_dicom")


def centre(labels, number):
    """Mean (slice, row, column) of a class, in 0 to 1."""
    return np.argwhere(labels == number).mean(axis=0) / labels.shape


def translated(numbers):
    table = {int(k): v for k, v in presets.PRESETS["rsna"].full["label_map"].items()}
    return np.vectorize(lambda n: table.get(n, 0), otypes=[np.uint8])(numbers)


@pytest.mark.parametrize(
    ("name", "labels", "shape", "spacing", "limits"),
    [
        ("example_ct.nii.gz", "example_seg", (112, 101, 122), (3, 3, 3), (-1207, 3382)),
        ("example_ct_sm.nii.gz", "example_seg.nii.gz", (30, 101, 122), (3, 3, 3), (-1207, 3382)),
        (
            "example_ct_dicom",
            "example_seg_dicom.nii.gz",
            (20, 512, 512),
            (2, 0.9765625, 0.9765625),
            (-1024, 3071),
        ),
    ],
)
def test_real_ct(ct, real_series, name, labels, shape, spacing, limits):
    volume = real_series if name == "example_ct_dicom" else volumes.read(ct / name)
    assert (
        volume.voxels.shape == shape
        and volume.spacing_mm == pytest.approx(spacing)
        and volume.notes == ()
    )
    assert limits[0] <= volume.voxels.min() <= -1000 and 800 <= volume.voxels.max() <= limits[1]
    truth = volumes.read_labels_like(volume, ct / labels)
    truth = truth if (ct / labels).is_dir() else translated(truth)
    liver, spleen = centre(truth, 1), centre(truth, 2)
    assert liver[2] < 0.45 and spleen[2] > 0.6, (
        "the liver lies on the patient's right, the image's left"
    )
    spine = np.argwhere(volume.voxels > 400).mean(axis=0)[1] / shape[1]
    assert liver[1] < spine + 0.05, "the spine is at the bottom"
    tissue = volume.voxels[truth == 1]
    assert 20 < np.median(tissue) < 180, "liver has the HU of liver: the labels lie on it"
    if (truth == 3).any():
        left, right = centre(truth, 3), centre(truth, 4)
        assert left[2] > 0.5 > right[2]
        assert liver[0] > max(left[0], right[0]), (
            "the liver lies above the kidneys, towards the head"
        )
    np.testing.assert_array_equal(
        volume.restore(volume.voxels).shape, np.array(shape)[np.argsort(volume.grid.axes)]
    )


def test_real_dicom(ct, real_series):
    volume = real_series
    heights = [
        float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2])
        for f in volume.grid.files
    ]
    assert heights == sorted(heights) and heights[0] == -804.5 and heights[-1] == -766.5
    seg = np.asarray(nibabel.load(ct / "example_seg_dicom.nii.gz").dataobj)
    truth = volumes.read_labels_like(volume, ct / "example_seg_dicom.nii.gz")
    for k in range(20):
        np.testing.assert_array_equal(truth[k], seg[:, :, k].T[::-1])
    for k in (0, 7, 19):
        plane = pydicom.dcmread(volume.grid.files[k]).pixel_array.astype(int)
        np.testing.assert_array_equal(volume.voxels[k], plane - 1024)


def test_real_organ_volumes(ct):
    volume = volumes.read(ct / "example_ct.nii.gz")
    truth = volumes.read_labels_like(volume, ct / "example_seg")
    for number, names in enumerate(
        [
            ["liver"],
            ["spleen"],
            ["kidney_left"],
            ["kidney_right"],
            ["colon", "small_bowel", "duodenum"],
        ],
        1,
    ):
        own = np.any(
            [
                np.asarray(nibabel.load(ct / "example_seg" / f"{n}.nii.gz").dataobj) > 0
                for n in names
            ],
            axis=0,
        )
        millilitres = (truth == number).sum() * np.prod(volume.spacing_mm) / 1000
        assert millilitres == pytest.approx(own.sum() * 27 / 1000) and millilitres > 10
    seg = volumes.read_labels_like(
        volumes.read_grid(ct / "example_ct_dicom"), ct / "example_seg_dicom.nii.gz"
    )
    stored = nibabel.load(ct / "example_seg_dicom.nii.gz")
    assert (seg == 5).sum() == (np.asarray(stored.dataobj) == 5).sum()


def test_real_ct_to_store(ct, tmp_path):
    cfg = config.preset("rsna", "smoke", data_root=str(ct), work_dir=str(tmp_path))
    cases = layouts.scan(cfg)
    assert cases["volume"].value_counts().to_dict() == {
        "example_ct": 112,
        "example_ct_sm": 30,
        "example_ct_dicom": 20,
    }
    assert "annotated" not in cases and "label_numbers" not in cases
    pair = cases.groupby("volume")["labels"].first().map(lambda p: Path(p).name).to_dict()
    assert pair == {
        "example_ct": "example_seg",
        "example_ct_sm": "example_seg.nii.gz",
        "example_ct_dicom": "example_seg_dicom.nii.gz",
    }
    store = prepare.build(cases, cfg)
    # The small volume is a part of the large one, byte for byte: its slices would leak.
    assert sorted(store.report.set_aside) == sorted(
        cases.loc[cases["volume"] == "example_ct_sm", "case"]
    )
    images, masks = store.open()
    whole = store.cases[store.cases["volume"] == "example_ct"]
    counts = np.bincount(masks[whole["row"]].ravel(), minlength=256)
    assert (
        counts[1] > counts[2] > counts[3:5].min() > 0 and counts[5] > 0 and counts[255] > 0
    )  # 255: letterbox
    assert images[whole["row"]].min() == 0 and images[whole["row"]].max() == 255


def test_real_curvas(real, tmp_path):
    cfg = config.preset(
        "rsna",
        "smoke",
        data_root=str(real("curvas_ct")),
        work_dir=str(tmp_path),
        mask_encoding=TABLE,
        class_names=("background", "liver", "kidney", "pancreas"),
    )
    cases = layouts.scan(cfg)
    assert len(cases) == 74 and cases["patient"].str.fullmatch(r"1\d{4}").all()
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 74 and store.report.problems.empty
    row = store.cases.iloc[5]
    colours = np.array(Image.open(row["labels"]).convert("RGB"))
    truth = prepare.read_truth(row, cfg, {}, (512, 512))[0][..., 0]
    for colour, number in TABLE.items():
        np.testing.assert_array_equal(
            truth == number, (colours == [int(c) for c in colour.split(",")]).all(axis=-1)
        )
    assert store.cases.groupby("patient")["split"].nunique().max() == 1


def test_real_spleen(real, tmp_path):
    cfg = config.preset(
        "rsna",
        "smoke",
        data_root=str(real("msd_spleen_ct")),
        work_dir=str(tmp_path),
        mask_encoding="threshold",
        class_names=("background", "spleen"),
    )
    cases = layouts.scan(cfg)
    assert len(cases) == 13 and cases.loc[cases["slice"] == 10003, "volume"].item() == "spleen_26"
    store = prepare.build(cases, cfg)
    assert (
        set(np.unique(store.open()[1])) == {0, 1}
        and store.report.facts["share labels"].between(0.001, 0.05).all()
    )


def test_real_acdc(real, tmp_path):
    cfg = config.preset("cardiac", "smoke", data_root=str(real("acdc")), work_dir=str(tmp_path))
    cases = layouts.scan(cfg)
    assert cases["patient"].nunique() == 50 and cases["volume"].nunique() == 100
    sizes = [nibabel.load(path).shape[2] for path in cases.groupby("volume")["image"].first()]
    assert len(cases) == sum(sizes)
    first = cases["volume"].str.endswith("frame01").groupby(cases["patient"]).any()
    assert first[~first].index.tolist() == [
        "patient090"
    ]  # the one whose end diastole is not its first frame
    assert (cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]] == "").all(axis=None), (
        "it was lost"
    )
    four = cases[cases["patient"].isin(sorted(set(cases["patient"]))[:4])]
    store = prepare.build(four, cfg)
    assert len(store.cases) == len(four) and store.report.problems.empty
    assert set(np.unique(store.open()[1])) <= {0, 1, 2, 3, 255}
    row = store.cases.iloc[3]
    gt = np.asarray(nibabel.load(row["labels"]).dataobj)[:, :, row["slice"]].T
    np.testing.assert_array_equal(prepare.read_truth(row, cfg, {}, gt.shape)[0][..., 0], gt)


# ---- what the modules promise each other


def test_modules_say_where_things_are():
    assert (
        volumes.Grid is orientation.Grid
        and dicom.DECODERS
        and pairing.SPLITS["training"] == "train"
    )
    assert json.dumps(volumes.ORGANS)
    assert (
        set(volumes.ORGANS.values())
        == set(CLASSES[1:])
        == set(presets.PRESETS["rsna"].full["class_names"][1:])
    )
