"""Grids: volumes are displayed alike whatever the axes of their file, and restored to them."""

import subprocess

import dcm2niix
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage

from seglib.errors import DataError
from seglib.formats import nifti, orientation, volumes
from tests.helpers import (
    ORIENTATIONS,
    SPACING_XYZ,
    displayed,
    numbered_volume,
    save_nifti,
    write_series,
)


def axcodes(ornt):
    return "".join(nibabel.orientations.ornt2axcodes(ornt))


@pytest.mark.parametrize("ornt", ORIENTATIONS, ids=axcodes)
def test_every_orientation_is_displayed_alike_and_restored(tmp_path, ornt):
    image = numbered_volume().as_reoriented(ornt)
    path = save_nifti(image, tmp_path / "ct.nii.gz")
    volume = volumes.read_nifti(path)
    np.testing.assert_array_equal(volume.voxels, displayed(np.asarray(numbered_volume().dataobj)))
    assert volume.voxels.dtype == np.int16 and volume.voxels.shape == (5, 9, 7)
    assert volume.spacing_mm == pytest.approx((4.0, 1.5, 0.8))
    restored = volume.restore(volume.voxels)
    np.testing.assert_array_equal(restored, np.asarray(image.dataobj))
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    # What was written with it lies, for any other reader, where it was.
    again = nibabel.as_closest_canonical(nibabel.Nifti1Image(restored, volume.affine))
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(numbered_volume().dataobj))
    np.testing.assert_allclose(again.affine, numbered_volume().affine, rtol=1e-6)
    grid = volumes.read_grid(path)
    assert grid.shape == volume.grid.shape
    np.testing.assert_array_equal(grid.orientation, volume.grid.orientation)


@st.composite
def images(draw):
    """A NIfTI image in memory with any invertible affine: rotated, sheared, with any spacing."""
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shear = np.eye(3) + draw(st.sampled_from((0, 0.2))) * np.triu(rng.normal(size=(3, 3)), 1)
    matrix = rotation @ shear @ np.diag(rng.uniform(0.3, 8, 3))
    array = rng.permutation(np.prod(shape)).reshape(shape).astype(np.int16)
    affine = nibabel.affines.from_matvec(matrix, rng.uniform(-300, 300, 3))
    return nibabel.Nifti1Image(array, affine)


@given(images())
def test_any_affine_is_displayed_as_nibabel_reorients_it(image):
    grid = nifti.read_grid("ct.nii", image)
    array = np.asarray(image.dataobj)
    canonical = nibabel.as_closest_canonical(image)
    np.testing.assert_array_equal(grid.display(array), displayed(np.asarray(canonical.dataobj)))
    np.testing.assert_array_equal(grid.restore(grid.display(array)), array)
    assert grid.file_shape == array.shape and grid.shape == grid.display(array).shape
    sizes = nibabel.affines.voxel_sizes(canonical.affine)[::-1]
    assert grid.spacing_mm[1:] == pytest.approx(tuple(sizes[1:]))
    # The slice distance is that of the planes, which a step along oblique axes exceeds.
    assert grid.spacing_mm[0] <= sizes[0] * (1 + 1e-6)
    volume = abs(np.linalg.det(image.affine[:3, :3]))
    assert np.prod(grid.spacing_mm) == pytest.approx(volume, rel=1e-4)
    assert grid.voxel_ml == pytest.approx(volume / 1000, rel=1e-4)
    # Whatever reordering was chosen, each displayed voxel keeps its place in the patient.
    for index in np.ndindex(*grid.shape):
        (own,) = np.argwhere(array == grid.display(array)[index])
        np.testing.assert_allclose(
            grid.displayed_affine @ [*index, 1], image.affine @ [*own, 1], atol=1e-6
        )


@given(images(), st.sampled_from((0, 1, 2)))
def test_slices_are_cut_along_any_axis_of_the_file(image, slice_axis):
    for canonical in (True, False):
        grid = nifti.read_grid("ct.nii", image, slice_axis, canonical)
        array = np.asarray(image.dataobj)
        assert grid.shape[0] == array.shape[slice_axis]
        first = np.sort(grid.display(array)[0], axis=None)
        ends = [array.take(end, axis=slice_axis) for end in (0, -1)]
        assert any(np.array_equal(first, np.sort(end, axis=None)) for end in ends)
        np.testing.assert_array_equal(grid.restore(grid.display(array)), array)


@pytest.mark.parametrize("ornt", ORIENTATIONS[::7], ids=axcodes)
def test_coronal_and_sagittal_slices(tmp_path, ornt):
    """Coronal: from back to front, head up, right at the left. Sagittal: head up, front left."""
    path = save_nifti(numbered_volume().as_reoriented(ornt), tmp_path / "ct.nii")
    array = np.asarray(numbered_volume().dataobj)
    patient_axes = nibabel.io_orientation(nibabel.load(path).affine)[:, 0].tolist()
    coronal = volumes.read_nifti(path, slice_axis=patient_axes.index(1))
    sagittal = volumes.read_nifti(path, slice_axis=patient_axes.index(0))
    np.testing.assert_array_equal(coronal.voxels, array[::-1, :, ::-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(sagittal.voxels, array[:, ::-1, ::-1].transpose(0, 2, 1))
    assert coronal.spacing_mm == pytest.approx((1.5, 4.0, 0.8))
    assert sagittal.spacing_mm == pytest.approx((0.8, 4.0, 1.5))
    stored = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(coronal.restore(coronal.voxels), stored)


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
def test_mri_is_never_reoriented(tmp_path, spacing, slice_axis, expected):
    array = np.asarray(numbered_volume().dataobj)
    affine = nibabel.affines.from_matvec(np.diag(spacing) * [-1, -1, 1], (3, 4, 5))
    path = save_nifti(nibabel.Nifti1Image(array, affine), tmp_path / "mr.nii.gz")
    volume = volumes.read_nifti(path, slice_axis, canonical=False)
    np.testing.assert_array_equal(volume.voxels, array.transpose(expected))
    np.testing.assert_array_equal(volume.restore(volume.voxels), array)
    assert volume.spacing_mm == pytest.approx([spacing[axis] for axis in expected])


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.diag([1, 1, 0]), np.ones((3, 3)), np.diag([1, 1, np.nan])],
    ids=["zero", "flat", "parallel axes", "nan"],
)
def test_affines_that_are_no_geometry_are_refused(matrix, canonical):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag(SPACING_XYZ + (1,)))
    image._affine = nibabel.affines.from_matvec(matrix, (1, 2, 3))
    with pytest.raises(DataError, match=r"ct\.nii: the affine is no geometry.*correct header"):
        nifti.read_grid("ct.nii", image, canonical=canonical)


def test_restore_takes_only_its_own_size(tmp_path):
    volume = volumes.read_nifti(save_nifti(numbered_volume(), tmp_path / "ct.nii"))
    with pytest.raises(DataError, match=r"ct\.nii.*\(5, 9, 7\).*must agree"):
        volume.restore(volume.voxels[:-1])


# ---- spacing


@pytest.mark.parametrize(
    ("distances", "stated", "expected"),
    [
        ((4.0, 0.5, 0.5), True, (4.0, 0.5, 0.5)),
        ((1, 1, 1), True, (1.0, 1.0, 1.0)),
        ((1, 1, 1), False, None),  # what converters write that know none
        ((1, 1, 2), False, (1.0, 1.0, 2.0)),
        ((4.0, 0.5, 0.0), True, None),
        ((4.0,), True, None),  # DICOM without PixelSpacing
        ((-5.0, 0.5, 0.5), True, None),
        ((np.nan, 0.5, 0.5), True, None),
        ((np.inf, 0.5, 0.5), True, None),
        ((None, 0.5, 0.5), True, None),
        (("", "", ""), True, None),  # cells of a case table
        (("4.0", "0.5", "0.5"), True, (4.0, 0.5, 0.5)),
        ((3000, 800, 800), True, None),  # mm that were called metres
        ((1e-9, 1e-9, 1e-9), True, None),
    ],
)
def test_where_a_spacing_is_known(distances, stated, expected):
    assert orientation.known_spacing(distances, stated) == expected
    millilitres = orientation.voxel_ml(distances) if stated else 0
    if stated and expected is None:
        assert np.isnan(millilitres)
    elif stated:
        assert millilitres == pytest.approx(np.prod(expected) / 1000)


def test_the_volume_of_a_voxel_without_spacing_is_unknown():
    assert np.isnan(orientation.voxel_ml(None))


@pytest.mark.parametrize("ornt", ORIENTATIONS, ids=axcodes)
@pytest.mark.parametrize("corner", ["first", "middle"])
def test_a_default_grid_in_any_orientation_tells_nothing(ornt, corner):
    """Programs may turn an image after another one wrote it without geometry."""
    shape = (7, 9, 5)
    affine = np.eye(4)
    if corner == "middle":  # as nibabel itself fills in an affine
        affine = nibabel.Nifti1Header()
        affine.set_data_shape(shape)
        affine = affine.get_base_affine()
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), affine).as_reoriented(ornt)
    assert orientation.is_default_grid(image.affine, image.shape)
    grid = nifti.read_grid("ct.nii", image)
    assert grid.spacing_mm is None and np.isnan(grid.voxel_ml) and not grid.oriented
    for real in (
        nibabel.affines.from_matvec(np.eye(3), (2.25, 0, 0)) @ image.affine,
        nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1)) @ image.affine,
        nibabel.affines.from_matvec(np.diag((1, 1, 1.01))) @ image.affine,
    ):
        assert not orientation.is_default_grid(real, image.shape)
        image = nibabel.Nifti1Image(np.zeros(image.shape, np.int16), real)
        assert nifti.read_grid("ct.nii", image).spacing_mm is not None


def test_nifti_and_dicom_ask_the_same_function(tmp_path, stack, monkeypatch):
    save_nifti(numbered_volume(), tmp_path / "ct.nii")
    write_series(tmp_path / "s", stack)
    monkeypatch.setattr(orientation, "known_spacing", lambda *_, **__: None)
    for path in (tmp_path / "ct.nii", tmp_path / "s"):
        assert volumes.read_grid(path).spacing_mm is None


# ---- DICOM


@pytest.mark.parametrize(
    ("directions", "view"),
    [
        ([1, 0, 0, 0, 1, 0], lambda a: a),
        ([-1, 0, 0, 0, 1, 0], lambda a: a[:, :, ::-1]),  # the normal points to the feet
        ([-1, 0, 0, 0, -1, 0], lambda a: a[:, ::-1, ::-1]),  # prone
        ([0, 1, 0, 1, 0, 0], lambda a: a.transpose(0, 2, 1)),
    ],
)
def test_orientation_of_dicom_slices(tmp_path, stack, directions, view):
    """Wherever rows and columns point, slices are seen from the feet, right at the left."""
    write_series(tmp_path / "s", view(stack), ImageOrientationPatient=directions)
    volume = volumes.read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, stack - 1024)
    for plane, file in zip(volume.restore(volume.voxels), volume.grid.files):
        np.testing.assert_array_equal(plane, pydicom.dcmread(file).pixel_array.astype(int) - 1024)


def test_dicom_slices_of_mri_stay_as_they_are(tmp_path, stack):
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


# ---- one exam as DICOM, by dcm2niix, and by SimpleITK


AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
UPSIDE_DOWN, PRONE = [1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, -1, 0]
SHORT_AXIS = [0.8, 0.6, 0, -0.36, 0.48, -0.8]


def exam(folder, stack, directions):
    """An MRI series, numbered against its positions, and what two programs make of it."""
    import SimpleITK

    normal = np.cross(directions[:3], directions[3:])
    write_series(
        folder / "s",
        stack,
        number=lambda k: len(stack) - k,
        Modality="MR",
        SOPClassUID=MRImageStorage,
        StudyInstanceUID="1.2.3",
        MRAcquisitionType="2D",
        SliceThickness=8,
        PixelSpacing=[1.4, 1.4],
        ImageOrientationPatient=directions,
        ImagePositionPatient=lambda k: [float(v) for v in np.round([9, 8, 7] + 8 * k * normal, 6)],
    )
    subprocess.run(
        [dcm2niix.bin, "-f", "dcm2niix", "-b", "n", "-o", folder, folder / "s"],
        check=True,
        capture_output=True,
    )
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "s")))
    SimpleITK.WriteImage(reader.Execute(), str(folder / "simpleitk.nii"))
    return folder / "s", folder / "dcm2niix.nii", folder / "simpleitk.nii"


@pytest.mark.parametrize(
    "directions", [AXIAL, CORONAL, SAGITTAL, UPSIDE_DOWN, PRONE, SHORT_AXIS], ids=str
)
def test_one_exam_is_shown_alike_from_every_file(tmp_path, stack, directions):
    series, by_dcm2niix, by_simpleitk = exam(tmp_path, stack, directions)
    for slice_axis in (None, 2, 1):
        own_axis = None if slice_axis is None else 2 - slice_axis  # a series counts from the slice
        expected = volumes.read(series, own_axis, canonical=False)
        for path in (by_dcm2niix, by_simpleitk):
            volume = volumes.read(path, slice_axis, canonical=False)
            np.testing.assert_array_equal(volume.voxels, expected.voxels)
            assert volume.spacing_mm == pytest.approx(expected.spacing_mm, rel=1e-4)
            turned = path == by_dcm2niix
            assert volume.notes == ((orientation.ROWS_TURNED,) if turned else ())
            np.testing.assert_array_equal(
                volume.restore(volume.voxels), np.asarray(nibabel.load(path).dataobj)
            )
            np.testing.assert_allclose(
                volume.grid.displayed_affine, expected.grid.displayed_affine, atol=1e-3
            )
    usual = [volumes.read(path).voxels for path in (series, by_dcm2niix, by_simpleitk)]
    np.testing.assert_array_equal(usual[0], usual[1])
    np.testing.assert_array_equal(usual[0], usual[2])


def test_labels_of_one_program_lie_on_the_image_of_another(tmp_path, stack):
    series, by_dcm2niix, by_simpleitk = exam(tmp_path, stack, SHORT_AXIS)
    for image in (series, by_dcm2niix, by_simpleitk):
        volume = volumes.read(image, canonical=False)
        for labels in (by_dcm2niix, by_simpleitk):
            numbers = nibabel.load(labels)
            numbers = nibabel.Nifti1Image(np.asarray(numbers.dataobj) + 1024, numbers.affine)
            save_nifti(numbers, tmp_path / "labels.nii")
            drawn = volumes.read_labels_like(volume, tmp_path / "labels.nii")
            np.testing.assert_array_equal(drawn, volume.voxels.astype(int) + 1024)


def test_axes_of_unknown_place_are_not_turned(tmp_path):
    """Where the header tells nothing, its affine is a guess of nibabel, and left-handed."""
    array = np.asarray(numbered_volume().dataobj)
    path = save_nifti(nibabel.Nifti1Image(array, None), tmp_path / "a.nii")
    assert np.linalg.det(nibabel.load(path).affine) < 0
    volume = volumes.read(path, canonical=False)
    np.testing.assert_array_equal(volume.voxels, array.transpose(2, 1, 0))
    assert orientation.NO_ORIENTATION in volume.notes


def test_a_tilted_gantry_gives_one_volume_in_every_file(tmp_path, stack):
    """The step from slice to slice is longer than the distance of their planes."""
    write_series(tmp_path / "s", stack, ImagePositionPatient=lambda k: [0, 3.0 * k, 4.0 * k])
    series = volumes.read_grid(tmp_path / "s")
    affine = np.array([[-0.7, 0, 0, 0], [0, -0.5, -3, 0], [0, 0, 4, 0], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(stack.transpose(2, 1, 0).astype(np.int16), affine)
    grid = volumes.read_grid(save_nifti(image, tmp_path / "a.nii"))
    assert grid.spacing_mm == pytest.approx((4, 0.5, 0.7)) == series.spacing_mm
    determinant = abs(np.linalg.det(affine[:3, :3]))
    assert grid.voxel_ml == pytest.approx(determinant / 1000) == series.voxel_ml
