"""Which files of a folder are predicted, and what is said of all others."""

import zipfile

import nibabel
import numpy as np
import pytest
import scipy.io
from PIL import Image

from seglib.errors import DataError
from seglib.formats import inputs, volumes
from tests.helpers import write_picture, write_series

GREY = np.random.default_rng(0).integers(0, 255, (20, 24), np.uint8)
# Name -> a word that must be in the reason; written by `write_file`.
IMAGES = {
    "v.raw": "without a header",
    "pair.hdr": ".hdr",
    "pair.img": ".hdr",
    "array.npy": "NumPy",
    "array.npz": "NumPy",
    "matlab.mat": "MATLAB",
    "brain.mgz": "FreeSurfer",
    "slide.svs": "whole-slide",
    "photo.heic": "HEIC",
    "no_suffix_png": "PNG",
    "picture.dat": "PNG",
}
NO_IMAGES = ("README.md", "table.csv", "Thumbs.db", ".DS_Store", "._a.png", "masks.zip", "DICOMDIR")
PREDICTED = (
    *("a.png", "b.JPG", "c.tif", "d.webp", "e.jp2", "f.ppm", "g.nii", "h.NII.GZ"),
    *("v.mha", "v.mhd", "v.nrrd"),
)


VOLUME = np.repeat(GREY[None], 3, axis=0)
META = b"ObjectType = Image\nNDims = 3\nDimSize = 24 20 3\nElementType = MET_UCHAR\n"
CONTENTS = {
    "v.mha": META + b"ElementDataFile = LOCAL\n" + VOLUME.tobytes(),
    "v.mhd": META + b"ElementDataFile = v.raw\n",
    "v.raw": VOLUME.tobytes(),
    "v.nrrd": b"NRRD0004\ntype: uchar\ndimension: 3\n\n" + VOLUME.tobytes(),
    "photo.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000),
    "README.md": b"no image",
    "table.csv": b"case,patient",
    ".DS_Store": b"no image",
}
FORMATS = {"slide.svs": "TIFF", "no_suffix_png": "PNG", "picture.dat": "PNG", "._a.png": "PNG"}


def write_file(path, dicom):
    """A small file of the kind that its name says."""
    name = path.name
    if name in CONTENTS:
        path.write_bytes(CONTENTS[name])
    elif name in ("slice.dcm", "slice_without_suffix", "IM000001", "DICOMDIR"):
        path.write_bytes(dicom.read_bytes())
    elif name.endswith((".hdr", ".img")):
        nibabel.save(nibabel.Nifti1Pair(VOLUME, np.eye(4)), path)
    elif name == "brain.mgz":
        nibabel.save(nibabel.MGHImage(VOLUME, np.eye(4)), path)
    elif name.lower().endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)
    elif name == "array.npz":
        np.savez(path, GREY)
    elif name == "array.npy":
        np.save(path, GREY)
    elif name == "matlab.mat":
        scipy.io.savemat(path, {"a": GREY})
    elif name == "masks.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", b"")
    else:
        Image.fromarray(GREY).save(path, FORMATS.get(name))


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    """One slice of a series."""
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, np.zeros((2, 8, 6), np.int16))
    return sorted(folder.iterdir())[0]


def test_every_file_is_predicted_left_out_with_its_kind_or_no_image(tmp_path, dicom):
    for name in (*IMAGES, *NO_IMAGES, *PREDICTED):
        write_file(tmp_path / name, dicom)
    content = inputs.read(tmp_path)
    assert sorted(path.name for path in content.files) == sorted(PREDICTED)
    assert sorted(content.no_image) == sorted(NO_IMAGES)
    assert set(content.left_out) == set(IMAGES)
    for name, word in IMAGES.items():
        assert word in content.left_out[name], name
        assert "copy it again" not in content.left_out[name]


def test_sub_folders_are_named_by_what_they_hold(tmp_path, dicom):
    write_picture(tmp_path / "a.png", GREY)
    write_picture(tmp_path / "pictures" / "deep" / "a.png", GREY)
    write_picture(tmp_path / "results" / "a_mask.png", GREY)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1").write_bytes(dicom.read_bytes())
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("nothing")
    content = inputs.read(tmp_path, tmp_path / "results")
    assert set(content.left_out) == {"pictures"}
    assert [path.name for path in content.files] == ["a.png", "series"]
    assert "--image_dir" in content.left_out["pictures"]
    assert content.no_image == ["texts"]


def test_series_are_predicted_wherever_they_lie(tmp_path):
    one = write_series(tmp_path / "one", np.zeros((3, 8, 6), np.int16))
    assert inputs.read(tmp_path / "one").files == [tmp_path / "one"]
    assert not inputs.holds_several_series(tmp_path / "one")
    assert inputs.read(tmp_path).files == [tmp_path / "one"]
    write_series(tmp_path / "other", np.ones((2, 8, 6), np.int16))
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "one" / f"other_{path.name}")
    files = inputs.read(tmp_path / "one").files
    assert len(files) == 2 and all(file.name.startswith("one#") for file in files)
    shapes = [volumes.read(file).voxels.shape for file in files]
    assert shapes == [(3, 8, 6), (2, 8, 6)] and len(one) == 3
    assert inputs.holds_several_series(tmp_path / "one")


def test_masks_beside_their_images_are_not_predicted(tmp_path):
    images = ("image_1.nii.gz", "p1_frame01.nii.gz", "case.nrrd", "x.png", "x_2.png")
    masks = ("case.seg.nrrd", "label_1.nii.gz", "p1_frame01_gt.nii.gz", "x_mask.png")
    for name in (*images, *masks, "README.md"):
        (tmp_path / name).touch()
    content = inputs.read(tmp_path)
    assert sorted(path.name for path in content.files) == sorted(images)
    assert content.masks == sorted(masks)
    assert content.no_image == ["README.md"]
    assert not content.left_out


TWO, NUMBERS = GREY // 128 * 255, GREY // 100
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)[NUMBERS]


@pytest.mark.parametrize(
    "name, pixels, is_mask",
    [
        ("Image_01L_1stHO.png", TWO, True),  # CHASE_DB1
        ("Image_01L_1stHO.bmp", TWO > 0, True),
        ("Image_01L_organs.png", NUMBERS, True),
        ("Image_01L_organs.png", COLOURS, True),
        ("Image_01L_empty.png", 0 * GREY, True),
        ("Image_01L.png", TWO, True),
        ("Image_01L_green.png", GREY, False),
        ("Image_01L_green.png", np.stack([GREY] * 3, axis=-1), False),
        ("Image_01L_dark.png", GREY // 4 + 100, False),
        ("Image_01L_two.png", TWO // 255 + 100, False),
        ("Image_01L_2.png", TWO, False),  # an image by its number
        ("Image_01R.png", TWO, False),
    ],
)
def test_a_mask_has_the_name_of_its_image_and_values_of_a_mask(tmp_path, name, pixels, is_mask):
    write_picture(tmp_path / "Image_01L.jpg", GREY)
    Image.fromarray(pixels).save(tmp_path / name)
    content = inputs.read(tmp_path)
    assert content.masks == [name] * is_mask
    assert len(content.files) == 2 - is_mask


def test_images_of_two_values_are_no_masks_of_each_other(tmp_path):
    for name in ("page.png", "page_b.png", "page.bmp"):
        write_picture(tmp_path / name, TWO)
    assert len(inputs.read(tmp_path).files) == 3


def test_a_volume_of_label_numbers_is_the_mask_of_its_image(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.int16)
    for name, voxels in (("a", 100 * numbers - 90), ("a_lesion", numbers), ("a_t2", 90 * numbers)):
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    assert inputs.read(tmp_path).masks == ["a_lesion.nii.gz"]


def test_a_folder_of_masks_is_refused(tmp_path):
    for name in ("label_1.nii.gz", "x_mask.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="only masks here.*label_1.nii.gz, x_mask.png.*images"):
        inputs.read(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "file.png"])
def test_no_folder_is_an_error(tmp_path, name):
    write_picture(tmp_path / "file.png", GREY)
    with pytest.raises(DataError, match=f"{name}: no picture or volume here"):
        inputs.read(tmp_path / name)
