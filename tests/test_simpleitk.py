"""NRRD and MetaImage: voxels, geometry and masks as SimpleITK has them, and damaged files."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK

from seglib.errors import DataError
from seglib.formats import orientation, simpleitk, slicer, volumes
from tests.helpers import ITK_AFFINE, displayed, numbered_volume, save_simpleitk


def geometry(path):
    image = SimpleITK.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def edited(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize("compress", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("suffix", simpleitk.SUFFIXES)
def test_a_volume_is_the_one_of_nifti(tmp_path, suffix, compress):
    image = numbered_volume()
    nibabel.save(image, tmp_path / "same.nii")
    array = np.asarray(image.dataobj)
    path = save_simpleitk(array, tmp_path / f"a{suffix}", image.affine, compress)
    for canonical in (True, False):
        volume = volumes.read(path, canonical=canonical)
        expected = volumes.read(tmp_path / "same.nii", canonical=canonical)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        assert volume.voxels.dtype == np.int16 and volume.notes == ()
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
        assert volume.spacing_mm == pytest.approx(expected.spacing_mm)
    np.testing.assert_array_equal(volumes.read(path).voxels, displayed(array))
    assert volumes.is_volume(path)


@pytest.mark.parametrize("space", ["right-anterior-superior", "LAS"])
def test_other_spaces_of_nrrd_are_those_of_simpleitk(tmp_path, space):
    path = save_simpleitk(np.zeros((4, 5, 6), np.uint8), tmp_path / "a.nrrd")
    edited(path, b"space: left-posterior-superior", f"space: {space}".encode())
    header = simpleitk.read_header(path)
    affine, oriented = simpleitk.affine_mm(path, header)
    signs = (1, 1) if space.startswith("r") else (-1, 1)
    expected = np.diag([*signs, 1, 1]) @ (
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ ITK_AFFINE
    )  # the numbers of the file, in its space
    np.testing.assert_allclose(affine, expected, atol=1e-6)
    assert oriented


@pytest.mark.parametrize(
    "number_type", "int8 uint8 int16 uint16 int32 uint32 int64 float32 float64".split()
)
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_number_types(tmp_path, suffix, number_type):
    array = np.arange(60).reshape(3, 4, 5).astype(number_type)
    path = save_simpleitk(array, tmp_path / f"a{suffix}", compress=True)
    np.testing.assert_array_equal(volumes.read_numbers(path), array)


def test_without_a_geometry_nothing_is_measured(tmp_path):
    array = np.zeros((4, 5, 6), np.int16)
    for suffix in (".nrrd", ".mha"):
        path = save_simpleitk(array, tmp_path / f"a{suffix}", np.diag([-1.0, -1, 1, 1]))
        grid = volumes.read_grid(path)
        assert grid.spacing_mm is None and not grid.oriented
        assert (grid.notes, grid.spacing_note) == (
            (orientation.NO_ORIENTATION,),
            simpleitk.NO_SPACING,
        )
    plain = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 5 6\nencoding: raw\n"
    path = tmp_path / "plain.nrrd"
    path.write_bytes(plain + b"\n" + bytes(120))
    assert volumes.read_grid(path).spacing_mm is None
    path.write_bytes(plain + b"spacings: 1 2 3\n\n" + bytes(120))
    grid = volumes.read_grid(path)
    assert grid.spacing_mm == (3, 2, 1) and not grid.oriented


def test_units_of_the_header_count(tmp_path):
    path = save_simpleitk(np.zeros((4, 5, 6), np.uint8), tmp_path / "a.nrrd")
    edited(path, b"kinds:", b'space units: "cm" "cm" "cm"\nkinds:')
    assert volumes.read_grid(path).spacing_mm == pytest.approx((40, 15, 8))
    edited(path, b'"cm" "cm" "cm"', b'"cm" "mm" "cm"')
    with pytest.raises(DataError, match="unit of its distances is 'cm, mm'"):
        volumes.read_grid(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_mask_has_the_geometry_of_its_volume(tmp_path, suffix):
    source = save_simpleitk(np.zeros((7, 9, 5), np.int16), tmp_path / f"ct{suffix}")
    grid = volumes.read_grid(source)
    mask = np.random.default_rng(0).integers(0, 3, grid.shape, np.uint8)
    named = [slicer.Segment(1, "liver", (230, 159, 0)), slicer.Segment(2, "left kidney")]
    path = tmp_path / f"out/ct{volumes.mask_suffix(source)}"
    volumes.write_mask(path, mask, grid, source, named)
    assert geometry(path) == geometry(source)
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    np.testing.assert_array_equal(array, grid.restore(mask))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(volumes.read_labels_like(grid, path), mask)
    if suffix == ".nrrd":
        again = slicer.segments(simpleitk.read_header(path).fields)
        assert [(s.number, s.name, s.colour) for s in again] == [
            (1, "liver", (230, 159, 0)),
            (2, "left kidney", (128, 128, 128)),
        ]


@pytest.mark.parametrize("to", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_in_another_format_lies_on_its_volume(tmp_path, to):
    array = np.zeros((7, 9, 5), np.int16)
    nibabel.save(nibabel.Nifti1Image(array, ITK_AFFINE), tmp_path / "a.nii.gz")
    for source in (tmp_path / "a.nii.gz", save_simpleitk(array, tmp_path / "b.nrrd")):
        grid = volumes.read_grid(source)
        mask = np.random.default_rng(1).integers(0, 2, grid.shape, np.uint8)
        path = volumes.write_mask(tmp_path / f"mask{to}", mask, grid, source, [])
        np.testing.assert_array_equal(volumes.read_labels_like(grid, path), mask)
        assert volumes.align(grid, path) is not None


def test_headers_with_their_voxels_beside_them(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    for suffix in (".nhdr", ".mhd"):
        path = save_simpleitk(array, tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(volumes.read_numbers(path), array)
        (tmp_path / "a.raw").unlink()
        with pytest.raises(DataError, match=f"a{suffix}: a.raw, which holds its voxels, is not"):
            volumes.read(path)


# ---- damaged and hostile files


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True], ids=["raw", "compressed"])
def test_a_file_that_was_cut_short_says_so(tmp_path, suffix, compress):
    path = save_simpleitk(numbered_volume().get_fdata(), tmp_path / f"a{suffix}", compress=compress)
    content = path.read_bytes()
    for length in (3, 20, 200, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cut short|damaged header"):
            volumes.read(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_one_wrong_byte_of_compressed_voxels_is_noticed(tmp_path, suffix):
    path = save_simpleitk(numbered_volume().get_fdata(), tmp_path / f"a{suffix}", compress=True)
    content = bytearray(path.read_bytes())
    content[-30] ^= 255  # SimpleITK itself reads both formats on, with wrong numbers
    path.write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged"):
        volumes.read(path)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../x.raw", "sub/x.raw", "LIST", "a%03d.raw 1 9 1"]
)
def test_voxels_elsewhere_are_not_opened(tmp_path, name):
    for suffix, key in ((".nhdr", "data file: "), (".mhd", "ElementDataFile = ")):
        path = save_simpleitk(np.zeros((4, 5, 6), np.uint8), tmp_path / f"a{suffix}")
        edited(path, f"{key}a.raw".encode(), f"{key}{name}".encode())
        with pytest.raises(DataError, match="expected one file beside it"):
            volumes.read(path)


def test_a_header_cannot_ask_for_any_memory(tmp_path):
    for suffix, old, new in (
        (".nrrd", b"sizes: 4 5 6", b"sizes: 99999 99999 99999"),
        (".mha", b"DimSize = 4 5 6", b"DimSize = 99999 99999 99999"),
        (".mha", b"DimSize = 4 5 6", b"DimSize = 4 5 6\nElementNumberOfChannels = 99999999999"),
    ):
        for compress in (False, True):
            path = save_simpleitk(
                np.zeros((4, 5, 6), np.uint8), tmp_path / f"a{suffix}", compress=compress
            )
            with pytest.raises(DataError, match="cannot hold them"):
                volumes.read(edited(path, old, new))
    # Compressed zeros can be a thousand times larger than their file.
    path = save_simpleitk(np.zeros((4, 5, 6), np.uint8), tmp_path / "a.nrrd", compress=True)
    head = path.read_bytes().split(b"\n\n")[0]
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(10**7)))
    with pytest.raises(DataError, match="bytes unpacked, its header declares 120"):
        volumes.read(path)


@pytest.mark.parametrize(
    "shape, message",
    [((4, 5), "2-D image of 4x5.*save it as a picture"), ((2, 3, 4, 5), "4-D image.*split it")],
)
def test_other_numbers_of_axes_are_refused(tmp_path, shape, message):
    for suffix in (".nrrd", ".mha"):
        image = SimpleITK.GetImageFromArray(np.zeros(shape[::-1], np.uint8), isVector=False)
        SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
        with pytest.raises(DataError, match=message):
            volumes.read(tmp_path / f"a{suffix}")


def test_colours_are_no_volume(tmp_path):
    path = save_simpleitk(np.zeros((4, 5, 6, 3), np.uint8), tmp_path / "a.nrrd")
    with pytest.raises(DataError, match="3 numbers for each voxel; expected one"):
        volumes.read(path)


@pytest.mark.parametrize(
    "old, new",
    [
        (b"type: unsigned char", b"type: block"),
        (b"encoding: raw", b"encoding: hex"),
        (b"dimension: 3", b"dimension: 7"),
        (b"sizes: 4 5 6", b"sizes: 4 5 six"),
        (b"sizes: 4 5 6", b"sizes: 4 5 -6"),
        (b"encoding: raw", b"encoding: raw\nbyte skip: -1"),
        (b"(0,0,-400)", b"(0,0,nan)"),
    ],
)
def test_wrong_headers_of_nrrd_are_named(tmp_path, old, new):
    affine = nibabel.affines.from_matvec(np.diag([-1, -1, 2.0]), (0, 0, -400))
    path = save_simpleitk(np.zeros((4, 5, 6), np.uint8), tmp_path / "a.nrrd", affine)
    with pytest.raises(DataError, match=r"a\.nrrd: "):
        volumes.read(edited(path, old, new))
