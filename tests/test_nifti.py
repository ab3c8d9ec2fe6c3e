"""NIfTI files: spacing, scaling, and files that are damaged or hold something else."""

import gzip

import nibabel
import numpy as np
import pytest

from seglib.errors import DataError
from seglib.formats import volumes
from tests.helpers import displayed, numbered_volume, save_nifti


def header(path, affine, zooms, codes):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header.set_zooms(zooms)
    image.header["qform_code"], image.header["sform_code"] = codes
    if affine is not None:
        image.header.set_sform(affine, code=codes[1])
    return save_nifti(
        nibabel.Nifti1Image(image.dataobj, affine if codes[1] else None, image.header), path
    )


def test_unknown_spacing_is_unknown(tmp_path):
    identity = save_nifti(
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
    known = save_nifti(
        nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), moved), tmp_path / "c.nii"
    )
    assert volumes.read_nifti(known).spacing_mm == (1, 1, 1)
    bare = header(tmp_path / "d.nii", None, (1.5, 1.5, 10), (0, 0))
    assert volumes.read_nifti(bare, canonical=False).spacing_mm == pytest.approx((10, 1.5, 1.5))


def test_scaling_and_numbers(tmp_path):
    image = numbered_volume()
    image.header.set_slope_inter(2, -10)
    save_nifti(image, tmp_path / "scaled.nii")
    raw = nibabel.load(tmp_path / "scaled.nii")
    volume = volumes.read_nifti(tmp_path / "scaled.nii")
    np.testing.assert_allclose(volume.voxels, displayed(raw.get_fdata()), atol=1e-3)
    wide = nibabel.Nifti1Image(
        np.asarray(numbered_volume().dataobj).astype(np.int32) * 100, numbered_volume().affine
    )
    assert volumes.read_nifti(save_nifti(wide, tmp_path / "wide.nii")).voxels.dtype == np.float32


def test_voxels_that_are_no_numbers(tmp_path):
    array = np.asarray(numbered_volume().dataobj).astype(np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -np.inf
    volume = volumes.read_nifti(
        save_nifti(nibabel.Nifti1Image(array, numbered_volume().affine), tmp_path / "ct.nii")
    )
    assert np.isfinite(volume.voxels).all() and (volume.voxels == np.float32(-999)).sum() == 4
    assert "3 voxels are not finite" in volume.notes[0]
    empty = nibabel.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4))
    with pytest.raises(DataError, match=r"empty\.nii.*no voxel"):
        volumes.read_nifti(save_nifti(empty, tmp_path / "empty.nii"))


def test_files_that_are_no_volume(tmp_path):
    save_nifti(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.eye(4)), tmp_path / "cine.nii"
    )
    with pytest.raises(DataError, match=r"cine\.nii: 4-D image of 4x5x6x3"):
        volumes.read_nifti(tmp_path / "cine.nii")
    save_nifti(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.int16), numbered_volume().affine),
        tmp_path / "one.nii",
    )
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
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(noise, np.eye(4))
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    raw = bytearray(gzip.decompress(save_nifti(image, tmp_path / "flat.nii.gz").read_bytes()))
    raw[280:328] = b"\0" * 48
    (tmp_path / "flat.nii").write_bytes(raw)
    with pytest.raises(DataError, match=r"flat\.nii.*(no geometry|damaged)"):
        volumes.read_nifti(tmp_path / "flat.nii")
