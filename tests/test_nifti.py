"""NIfTI files: spacing, scaling, and files that are damaged or hold something else."""

import gzip

import nibabel
import numpy as np
import pytest

from seglib.errors import DataError
from seglib.formats import nifti, volumes
from tests.helpers import displayed, numbered_volume, save_nifti


def image_of(affine, zooms=None, shape=(4, 5, 6)):
    """An image of zeros; without an affine its header says nothing about a place in space."""
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), affine)
    if zooms is not None:
        image.header.set_zooms(zooms)
    return image


def test_unknown_spacing_is_unknown(tmp_path):
    path = tmp_path / "a.nii"
    for image in (image_of(np.eye(4)), image_of(None, (1, 1, 1))):
        volume = volumes.read_nifti(save_nifti(image, path), canonical=False)
        assert volume.spacing_mm is None and not volume.grid.oriented
        assert volume.notes == ("spacing unknown: 1 x 1 x 1 without a geometry in the header",)
    # One millimetre with a place in space is a measurement; sizes without a geometry are, too.
    moved = nibabel.affines.from_matvec(np.eye(3), (5, 0, 0))
    volume = volumes.read_nifti(save_nifti(image_of(moved), path))
    assert volume.spacing_mm == (1, 1, 1) and volume.notes == ()
    save_nifti(image_of(None, (1.5, 1.5, 10)), path)
    volume = volumes.read_nifti(path, canonical=False)
    assert volume.spacing_mm == pytest.approx((10, 1.5, 1.5))


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000), ("micron", 0.001), ("mm", 1)])
def test_the_unit_of_the_header_counts(unit, mm):
    image = image_of(np.diag([2, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    spacing = nifti.read_grid("a.nii", image).spacing_mm
    assert spacing == pytest.approx((4 * mm, 3 * mm, 2 * mm))


def test_scaling_and_numbers(tmp_path):
    image = numbered_volume()
    image.header.set_slope_inter(2, -10)
    save_nifti(image, tmp_path / "scaled.nii")
    raw = nibabel.load(tmp_path / "scaled.nii")
    volume = volumes.read_nifti(tmp_path / "scaled.nii")
    np.testing.assert_allclose(volume.voxels, displayed(raw.get_fdata()), atol=1e-3)
    numbers = np.asarray(numbered_volume().dataobj).astype(np.int32) * 100
    wide = nibabel.Nifti1Image(numbers, numbered_volume().affine)
    assert volumes.read_nifti(save_nifti(wide, tmp_path / "wide.nii")).voxels.dtype == np.float32


def test_voxels_that_are_no_numbers(tmp_path):
    array = np.asarray(numbered_volume().dataobj).astype(np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -np.inf
    path = save_nifti(nibabel.Nifti1Image(array, numbered_volume().affine), tmp_path / "ct.nii")
    volume = volumes.read_nifti(path)
    assert np.isfinite(volume.voxels).all() and (volume.voxels == np.float32(-999)).sum() == 4
    assert "3 voxels are not finite" in volume.notes[0]
    empty = nibabel.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4))
    with pytest.raises(DataError, match=r"empty\.nii.*no voxel"):
        volumes.read_nifti(save_nifti(empty, tmp_path / "empty.nii"))


def test_files_that_are_no_volume(tmp_path):
    save_nifti(image_of(np.eye(4), shape=(4, 5, 6, 3)), tmp_path / "cine.nii")
    with pytest.raises(DataError, match=r"cine\.nii: 4-D image of 4x5x6x3"):
        volumes.read_nifti(tmp_path / "cine.nii")
    save_nifti(image_of(numbered_volume().affine, shape=(4, 5, 6, 1)), tmp_path / "one.nii")
    assert volumes.read_nifti(tmp_path / "one.nii").voxels.shape == (6, 5, 4)
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save_nifti(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
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
    path = save_nifti(nibabel.Nifti1Image(noise, numbered_volume().affine), tmp_path / "cut.nii.gz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"cut\.nii\.gz.*(cut short|damaged)"):
        volumes.read_nifti(path)


def test_damage_inside_a_file_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 20)).astype(np.int16)
    path = save_nifti(nibabel.Nifti1Image(noise, numbered_volume().affine), tmp_path / "bad.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.nii\.gz.*(cut short|damaged)"):
        volumes.read_nifti(path)


def test_an_affine_of_zeros_is_refused(tmp_path):
    path = save_nifti(image_of(np.eye(4)), tmp_path / "flat.nii")
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y and srow_z of the header
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"flat\.nii.*(no geometry|damaged)"):
        volumes.read_nifti(path)


def test_a_header_that_declares_more_than_the_file_holds(tmp_path):
    """It is refused before the memory is asked for."""
    path = save_nifti(image_of(np.eye(4)), tmp_path / "huge.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = (20000).to_bytes(2, "little") * 3  # dim[1..3]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"huge\.nii: cut short or damaged: its header declares"):
        volumes.read_nifti(path)


def test_a_file_that_unpacks_to_more_than_it_declares(tmp_path):
    path = save_nifti(image_of(np.diag([2, 2, 2, 1])), tmp_path / "long.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(3 << 20)))
    with pytest.raises(DataError, match=r"long\.nii\.gz: goes on behind the voxels"):
        volumes.read_nifti(path)
