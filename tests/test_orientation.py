"""Grids: volumes are displayed alike whatever the axes of their file, and restored to them."""

import nibabel
import numpy as np
import pydicom
import pytest

from seglib.errors import DataError
from seglib.formats import volumes
from tests.helpers import (
    ORIENTATIONS,
    SPACING_XYZ,
    displayed,
    numbered_volume,
    save_nifti,
    write_series,
)


@pytest.mark.parametrize(
    "orientation", ORIENTATIONS, ids=lambda o: "".join(nibabel.orientations.ornt2axcodes(o))
)
def test_every_orientation_is_shown_alike_and_restored(tmp_path, orientation):
    image = numbered_volume().as_reoriented(orientation)
    path = save_nifti(image, tmp_path / "ct.nii.gz")
    volume = volumes.read_nifti(path)
    np.testing.assert_array_equal(volume.voxels, displayed(np.asarray(numbered_volume().dataobj)))
    assert volume.voxels.dtype == np.int16 and volume.voxels.shape == (5, 9, 7)
    assert volume.spacing_mm == pytest.approx((4.0, 1.5, 0.8))
    back = volume.restore(volume.voxels)
    np.testing.assert_array_equal(back, np.asarray(image.dataobj))
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    # What was written with it lies, for any other reader, where it was.
    again = nibabel.as_closest_canonical(nibabel.Nifti1Image(back, volume.affine))
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(numbered_volume().dataobj))
    np.testing.assert_allclose(again.affine, numbered_volume().affine, rtol=1e-6)
    grid = volumes.read_grid(path)
    assert grid.shape == volume.grid.shape
    np.testing.assert_array_equal(grid.orientation, volume.grid.orientation)


def test_the_displayed_affine_names_the_same_points(tmp_path):
    image = numbered_volume().as_reoriented(ORIENTATIONS[29])
    volume = volumes.read_nifti(save_nifti(image, tmp_path / "ct.nii"))
    for index in [(0, 0, 0), (4, 8, 6), (2, 3, 5)]:
        place = volume.grid.displayed_affine @ [*index, 1]
        own = np.argwhere(np.asarray(image.dataobj) == volume.voxels[index])[0]
        np.testing.assert_allclose(image.affine @ [*own, 1], place, atol=1e-4)


def test_oblique_axes_go_to_the_nearest(tmp_path):
    turn = nibabel.eulerangles.euler2mat(0.2, -0.1, 0.15)
    affine = nibabel.affines.from_matvec(turn @ np.diag(SPACING_XYZ), (1, 2, 3))
    array = np.asarray(numbered_volume().dataobj)
    volume = volumes.read_nifti(
        save_nifti(
            nibabel.Nifti1Image(array[::-1], affine @ np.diag([-1, 1, 1, 1])), tmp_path / "a.nii"
        )
    )
    np.testing.assert_array_equal(volume.voxels, displayed(array))
    assert volume.spacing_mm == pytest.approx((4.0, 1.5, 0.8), rel=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_slice_axis_overrides(tmp_path, orientation):
    """Coronal: from back to front, head up, right at the left; sagittal: head up, front at the left."""
    path = save_nifti(numbered_volume().as_reoriented(orientation), tmp_path / "ct.nii")
    array = np.asarray(numbered_volume().dataobj)
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
    array = np.asarray(numbered_volume().dataobj)
    affine = nibabel.affines.from_matvec(np.diag(spacing) * [-1, -1, 1], (3, 4, 5))
    path = save_nifti(nibabel.Nifti1Image(array, affine), tmp_path / "mr.nii.gz")
    volume = volumes.read_nifti(path, slice_axis, canonical=False)
    np.testing.assert_array_equal(volume.voxels, array.transpose(expected))
    np.testing.assert_array_equal(volume.restore(volume.voxels), array)
    assert volume.spacing_mm == pytest.approx([spacing[axis] for axis in expected])


def test_restore_takes_only_its_own_size(tmp_path):
    volume = volumes.read_nifti(save_nifti(numbered_volume(), tmp_path / "ct.nii"))
    with pytest.raises(DataError, match=r"ct\.nii.*\(5, 9, 7\).*must agree"):
        volume.restore(volume.voxels[:-1])


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
