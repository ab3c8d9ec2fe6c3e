"""Grids: volumes are displayed alike whatever the axes of their file, and restored to them."""

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    sizes = nibabel.affines.voxel_sizes(canonical.affine)
    assert grid.spacing_mm == pytest.approx(tuple(sizes[::-1]))
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
    ],
)
def test_where_a_spacing_is_known(distances, stated, expected):
    assert orientation.known_spacing(distances, stated) == expected


def test_nifti_and_dicom_ask_the_same_function(tmp_path, stack, monkeypatch):
    save_nifti(numbered_volume(), tmp_path / "ct.nii")
    write_series(tmp_path / "s", stack)
    monkeypatch.setattr(orientation, "known_spacing", lambda distances, stated=True: None)
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
