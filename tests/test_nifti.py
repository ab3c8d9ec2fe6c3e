"""NIfTI files: spacing, scaling, and files that are damaged or hold something else."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from seglib.errors import DataError
from seglib.formats import nifti, orientation, volumes
from tests.helpers import displayed, numbered_volume, save_nifti


def simpleitk(path):
    """The image of a file as SimpleITK reads it, without its messages."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK.ReadImage(str(path))


def edit_header(path, header=nibabel.Nifti1Header, **fields):
    """Change fields of the header in a file as they are, without nibabel's corrections."""
    content = bytearray(path.read_bytes())
    block = np.frombuffer(content[: header.template_dtype.itemsize], header.template_dtype).copy()
    for name, value in fields.items():
        block[0][name] = value
    content[: block.nbytes] = block.tobytes()
    path.write_bytes(content)
    return path


def _plain():
    """The bytes of a small NIfTI file that is not compressed."""
    return nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2, 2, 5, 1])).to_bytes()


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
        assert volume.notes == (orientation.NO_ORIENTATION, nifti.NO_SPACING)
    # One millimetre with a place in space is a measurement; sizes without a geometry are, too.
    moved = nibabel.affines.from_matvec(np.eye(3), (5, 0, 0))
    volume = volumes.read_nifti(save_nifti(image_of(moved), path))
    assert volume.spacing_mm == (1, 1, 1) and volume.notes == ()
    save_nifti(image_of(None, (1.5, 1.5, 10)), path)
    volume = volumes.read_nifti(path, canonical=False)
    assert volume.spacing_mm == pytest.approx((10, 1.5, 1.5))


@pytest.mark.parametrize("unit", ["meter", "micron", "mm", "unknown"])
def test_the_unit_of_the_header_counts(tmp_path, unit):
    mm = {"meter": 1000, "micron": 0.001}.get(unit, 1)
    affine = nibabel.affines.from_matvec(np.diag([2, 3, 4]) / mm, np.array([5, 6, 7]) / mm)
    image = image_of(affine)
    image.header.set_xyzt_units(unit)
    path = save_nifti(image, tmp_path / "a.nii")
    grid = volumes.read_grid(path)
    itk = simpleitk(path)
    assert grid.spacing_mm == pytest.approx(itk.GetSpacing()[::-1], rel=1e-5)
    assert grid.spacing_mm == pytest.approx((4, 3, 2), rel=1e-5)
    # Labels in another unit lie on it all the same.
    labels = image_of(np.diag([1, 1, 1, 1 / mm]) @ affine * mm)
    labels.header.set_xyzt_units("mm")
    volumes.align(grid, save_nifti(labels, tmp_path / "seg.nii"))


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_unit_that_cannot_be_true(unit):
    """0.8 mm that are called metres; the sizes of a picture from a microscope are none of a scan,
    but possible."""
    image = image_of(np.diag([0.8, 0.8, 3, 1]))
    image.header.set_xyzt_units(unit)
    grid = nifti.read_grid("a.nii", image)
    assert (grid.spacing_mm is None) == (unit == "meter") == np.isnan(grid.voxel_ml)
    if unit == "meter":
        assert "800 x 800 x 3000 mm; expected 0.0001 to 100 mm" in grid.spacing_note


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


# ---- sizes that a header does not state


BAD_SIZES = [0, -3, np.nan, np.inf, -np.inf, 1e30]


@pytest.mark.parametrize("size", BAD_SIZES)
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (1, 2), (0, 2)], ids=str)
def test_a_size_that_is_none_gives_no_millilitres(tmp_path, size, codes):
    """A bad `pixdim` counts where the sform does not state the size."""
    path = save_nifti(image_of(np.diag([0.8, 0.8, 3, 1])), tmp_path / "a.nii")
    pixdim = [1, 0.8, 0.8, size, 0, 0, 0, 0]
    edit_header(path, pixdim=pixdim, qform_code=codes[0], sform_code=codes[1])
    try:
        grid = volumes.read_grid(path)
    except DataError as error:
        assert str(path) in str(error) and "correct" in str(error)
        return
    if codes[1] and size != 1e30:  # that one is a number, which contradicts the sform
        assert grid.spacing_mm == pytest.approx((3, 0.8, 0.8))
    else:
        assert grid.spacing_mm is None and np.isnan(grid.voxel_ml)
        assert "spacing unknown" in grid.spacing_note


def test_sizes_that_are_stated_without_a_position_count(tmp_path):
    """The way to state a known spacing: `image.header.set_zooms`."""
    image = image_of(np.eye(4))
    image.header.set_zooms((0.8, 0.8, 3))
    grid = volumes.read_grid(save_nifti(image, tmp_path / "a.nii"))
    assert grid.spacing_mm == pytest.approx((3, 0.8, 0.8)) and not grid.oriented
    assert grid.notes == (orientation.NO_ORIENTATION,)
    assert grid.spacing_mm == pytest.approx(simpleitk(tmp_path / "a.nii").GetSpacing()[::-1])


def test_an_array_that_simpleitk_wrote_without_geometry(tmp_path):
    import SimpleITK

    array = np.zeros((6, 5, 4), np.int16)
    image = SimpleITK.GetImageFromArray(array)
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    assert volumes.read_grid(tmp_path / "a.nii.gz").spacing_mm is None
    image.SetOrigin((3, 0, 0))  # now it has a place
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    assert volumes.read_grid(tmp_path / "a.nii.gz").spacing_mm == (1, 1, 1)


# ---- two affines in one file


def forms(sform, qform, codes=(2, 1)):
    image = image_of(np.eye(4), shape=(24, 20, 11))
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    return image


SFORM = np.array([[0.8, 0, 0, -9], [0, 0.8, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def test_affines_that_agree_are_not_noted(tmp_path):
    for codes in ((2, 1), (2, 0), (0, 1), (4, 1)):
        path = save_nifti(forms(SFORM, SFORM, codes), tmp_path / "a.nii")
        grid = volumes.read_grid(path)
        assert grid.notes == () and grid.spacing_mm == pytest.approx((3, 0.8, 0.8))
    shifted = SFORM + np.array([[0, 0, 0, 0.3]] + [[0, 0, 0, 0]] * 3)  # less than half a voxel
    assert volumes.read_grid(save_nifti(forms(SFORM, shifted), tmp_path / "a.nii")).notes == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (np.diag([1, 1, 1, 1.0]) + np.eye(4, k=3) * 40, "up to 40 apart;"),
        (np.diag([-1, -1, 1, 1.0]), "left and right may be swapped"),
        (np.diag([-1, 1, 1, 1.0]), "MIRROR IMAGES"),
    ],
)
def test_affines_that_differ_are_noted(tmp_path, change, word):
    path = save_nifti(forms(SFORM, change @ SFORM), tmp_path / "a.nii")
    grid = volumes.read_grid(path)
    (note,) = grid.notes
    assert word in note and "sform counts here" in note
    np.testing.assert_allclose(grid.affine, SFORM)
    assert grid.spacing_mm == pytest.approx((3, 0.8, 0.8))  # both say so


def test_affines_of_different_size_leave_it_unknown(tmp_path):
    """Such as the scan in mm, and the same stretched to a template's space."""
    stretched = SFORM @ np.diag([1.2, 1.2, 1, 1])
    path = save_nifti(forms(stretched, SFORM, (4, 1)), tmp_path / "a.nii")
    grid = volumes.read_grid(path)
    assert grid.spacing_mm is None and np.isnan(grid.voxel_ml)
    assert "0.96 x 0.96 x 3 by the sform and 0.8 x 0.8 x 3 by pixdim" in grid.spacing_note


# ---- masks


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_mask_has_the_header_of_its_image(tmp_path, suffix, image_class):
    qform = np.diag([-1, -1, 1, 1]) @ SFORM
    image = image_class(np.zeros((24, 20, 11, 1), np.int16), SFORM)
    image.set_sform(SFORM, 2)
    image.set_qform(qform, 1)
    header = image.header
    header.set_xyzt_units("mm", "sec")
    header["descrip"], header["intent_name"], header["intent_code"] = b"x" * 80, b"z score", 5
    header["cal_max"], header["aux_file"] = 900, b"hot"
    header.set_slope_inter(2, -10)
    source = save_nifti(image, tmp_path / f"image{suffix}")
    grid = volumes.read_grid(source)
    mask = np.zeros((24, 20, 11), np.uint8)
    mask[3, 4, 5] = 7
    nifti.write(tmp_path / f"mask{suffix}", mask, grid, source)
    saved = nibabel.load(tmp_path / f"mask{suffix}")
    original = nibabel.load(source)
    assert type(saved) is image_class and saved.get_data_dtype() == np.uint8
    assert saved.shape == (24, 20, 11)
    for form in ("get_qform", "get_sform"):
        np.testing.assert_array_equal(getattr(saved, form)(), getattr(original, form)())
        assert getattr(saved, form)(coded=True)[1] == getattr(original, form)(coded=True)[1]
    np.testing.assert_array_equal(saved.header["pixdim"][:4], original.header["pixdim"][:4])
    assert saved.header["descrip"] == b"x" * 80
    assert saved.header.get_xyzt_units() == ("mm", "sec")
    assert saved.header.get_intent()[0] == "none"
    assert (saved.header["cal_max"], saved.header["aux_file"]) == (0, b"")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), mask)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 2), (2, 1)], ids=str)
def test_itk_lays_the_mask_over_its_image(tmp_path, codes):
    turned = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3)) @ SFORM
    source = save_nifti(forms(SFORM, turned, codes), tmp_path / "image.nii.gz")
    nifti.write(tmp_path / "mask.nii.gz", np.zeros((24, 20, 11)), volumes.read_grid(source), source)
    image, mask = simpleitk(source), simpleitk(tmp_path / "mask.nii.gz")
    for name in ("GetOrigin", "GetDirection", "GetSpacing", "GetSize"):
        assert getattr(mask, name)() == getattr(image, name)()


# ---- what a file is, by its content


def test_a_wrong_suffix_does_not_matter(tmp_path):
    plain = save_nifti(numbered_volume(), tmp_path / "plain.nii")
    packed = save_nifti(numbered_volume(), tmp_path / "packed.nii.gz")
    expected = volumes.read_nifti(plain)
    copies = {"a.nii.gz": plain, "b.nii": packed, "blob": plain, "packed_blob": packed}
    for name, source in copies.items():
        path = tmp_path / name
        path.write_bytes(source.read_bytes())
        volume = volumes.read_nifti(path)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        wrong = name != "blob"
        assert any("against its suffix" in note for note in volume.notes) == wrong
        nifti.write(tmp_path / "mask.nii.gz", np.zeros((7, 9, 5)), volume.grid, path)


def test_files_that_stand_for_others(tmp_path):
    link = tmp_path / "link.nii.gz"
    link.symlink_to(tmp_path / "annex" / "SHA256E-s1--0")
    with pytest.raises(DataError, match=r"link\.nii\.gz: a link to .*SHA256E-s1--0.*git annex get"):
        volumes.read_nifti(link)
    pointer = tmp_path / "lfs.nii.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match=r"lfs\.nii\.gz: it is a Git LFS pointer.*git lfs pull"):
        volumes.read_nifti(pointer)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "cut short"),
        (b"\x1f\x8b\x08\x00junk", "cut short"),
        (b"<html>404</html>" * 50, "an HTML page"),
        (b"PK\x03\x04" + bytes(500), "a ZIP archive"),
        (gzip.compress(gzip.compress(bytes(1000))), "compressed twice.*unpack it once"),
        (gzip.compress(_plain()) + b"junk", "other bytes follow its compressed content"),
        (gzip.compress(_plain())[:-8] + bytes(8), "damaged.*get it anew"),
        (gzip.compress(_plain())[:-3], "cut short"),
        (gzip.compress(_plain()[:-9]), "cut short"),
    ],
    # Named, as the contents hold the time at which they were compressed.
    ids="nothing junk page archive twice bytes_after damaged file_short content_short".split(),
)
def test_only_a_file_cut_short_is_to_be_copied_again(tmp_path, content, word):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=word) as error:
        volumes.read_nifti(path)
    assert ("copy it again" in str(error.value)) == (word == "cut short")


def test_the_header_alone_reads_no_voxel(tmp_path, monkeypatch):
    """Also where a last axis of length 1 is dropped."""
    path = save_nifti(image_of(SFORM, shape=(4, 5, 6, 1, 1)), tmp_path / "one.nii")
    from nibabel.arrayproxy import ArrayProxy

    def refuse(*_):
        raise AssertionError("voxels were read")

    with monkeypatch.context() as patch:
        patch.setattr(ArrayProxy, "_get_scaled", refuse)
        assert volumes.read_grid(path).shape == (6, 5, 4)
    assert volumes.read_nifti(path).voxels.shape == (6, 5, 4)


# ---- every file that nibabel brings with it

# Suffix -> what is said of such a file. Those of NIfTI and DICOM follow by name.
SHIPPED = {
    ".nc": "a netCDF file",
    ".gii": "a file of surfaces",
    ".gii.bz2": "a bzip2 archive",
    ".gii.gz": "a gzip archive",
    ".dat": "neither NIfTI nor DICOM",
    ".bin": "neither NIfTI nor DICOM",
    ".bin.gz": "a gzip archive",
    ".dcm.gz": "a compressed DICOM file",
    ".PAR": "the header of a Philips volume",
    ".REC": "the voxels of a Philips volume",
    ".HEAD": "the header of an AFNI volume",
    ".BRIK": "the voxels of an AFNI volume",
    ".BRIK.gz": "the voxels of an AFNI volume",
    ".hdr": "the header of a",
    ".trk": "a file of streamlines",
    ".tck": "a file of streamlines",
    ".mnc": "a MINC volume",
    ".mgz": "a FreeSurfer volume",
    ".v": "an ECAT volume",
}
SHIPPED_BY_NAME = {
    "0.dcm": "a Siemens mosaic",
    "1.dcm": "a Siemens mosaic",
    "csa_slice_norm.dcm": "a Siemens mosaic",
    "example4d.nii.gz": "4-D image of 128x96x24x2",
    "example_nifti2.nii.gz": "4-D image of 32x20x12x2",
    "functional.nii": "4-D image of 17x21x3x20",
    "row_major.dconn.nii": "values on a surface",
    "no_magic_number.tck": "neither NIfTI nor DICOM",
}


def shipped_files():
    root = Path(nibabel.__file__).parent
    folders = [folder for folder in root.rglob("data") if folder.parent.name == "tests"]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    others = (".py", ".pyc", ".txt", ".m", ".rst", ".gitignore")
    return [file for file in files if not file.name.endswith(others)]


def test_every_file_that_nibabel_ships_is_read_or_refused_by_name():
    n_read = n_refused = 0
    for path in shipped_files():
        try:
            volume = volumes.read(path)
        except DataError as error:
            suffixes = "".join(path.suffixes[-2:])
            suffix = suffixes if suffixes in SHIPPED else path.suffix
            reason = SHIPPED_BY_NAME.get(path.name) or SHIPPED[suffix]
            assert str(path) in str(error) and reason in str(error), error
            assert "copy it again" not in str(error), error
            n_refused += 1
            continue
        n_read += 1
        if path.suffix == ".dcm":
            header = pydicom.dcmread(path)
            plane = pydicom.pixels.apply_modality_lut(header.pixel_array, header)
            np.testing.assert_allclose(volume.restore(volume.voxels)[0], plane, rtol=1e-6)
        else:
            equals_the_references(volume, path)
    assert (n_read, n_refused) == (6, 101)


def equals_the_references(volume, path):
    """The values are those of nibabel and of SimpleITK, and every voxel is where they put it."""
    image = nibabel.load(path)
    finite = np.isfinite(image.get_fdata())  # ITK reads others as 0
    values = nibabel.as_closest_canonical(image).get_fdata()
    values = np.where(np.isfinite(values), values, np.nanmin(values))
    np.testing.assert_allclose(volume.voxels, displayed(values), rtol=1e-5)
    itk = simpleitk(path)
    size = np.array(itk.GetSize()) - 1
    stored = volume.restore(volume.voxels)
    for corner in np.ndindex(2, 2, 2):
        index = [int(n) for n in size * corner]
        place = np.array(itk.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(volume.affine @ [*index, 1], [*place, 1], atol=1e-3)
        if finite[tuple(index)]:
            assert stored[tuple(index)] == pytest.approx(itk[index], rel=1e-5)
