"""What a file is by its first bytes, whatever its name says, and whether its end is missing."""

import gzip
import io
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image

from seglib.formats.signatures import PICTURES, advice_for, is_cut_short, kind_of


def picture(format):
    """A file of noise, written by Pillow."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


@pytest.mark.parametrize(("kind", "format"), PICTURES.items())
def test_pictures_are_named_and_the_missing_end_is_noticed(tmp_path, format, kind):
    path, content = tmp_path / "no.suffix", picture(format)
    path.write_bytes(content)
    assert kind_of(path) == kind
    assert not is_cut_short(path)
    if format in ("TIFF", "PPM"):  # their readers notice it
        return
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(content[: int(len(content) * share)])
        assert is_cut_short(path), share


@pytest.mark.parametrize("format", ["AVIF", "PDF", "EPS", "ICO"])
def test_formats_that_are_not_read(tmp_path, format):
    path = tmp_path / "a.png"
    path.write_bytes(picture(format))
    kinds = {"AVIF": "an AVIF picture", "PDF": "a PDF document", "EPS": "a PostScript file"}
    assert kind_of(path) == kinds.get(format, "an icon (.ico)")
    assert kind_of(path) not in PICTURES and not is_cut_short(path)


@pytest.mark.parametrize(
    ("suffix", "image_class", "kind"),
    [
        (".nii", nibabel.Nifti1Image, "a NIfTI volume"),
        (".nii", nibabel.Nifti2Image, "a NIfTI volume"),
        (".nii.gz", nibabel.Nifti1Image, "a NIfTI volume (.nii.gz)"),
        (".hdr", nibabel.Nifti1Pair, "the header of a NIfTI volume (.hdr)"),
        (".hdr", nibabel.AnalyzeImage, "the header of an Analyze volume (.hdr)"),
        (".mgh", nibabel.MGHImage, "a FreeSurfer volume (.mgh)"),
    ],
)
def test_volumes(tmp_path, suffix, image_class, kind):
    path = tmp_path / f"v{suffix}"
    nibabel.save(image_class(np.zeros((20, 24, 5), np.int16), np.eye(4)), path)
    renamed = path.rename(tmp_path / "renamed.png")
    assert kind_of(renamed) == kind
    if suffix == ".hdr":
        renamed.rename(path)
        assert kind_of(path.with_suffix(".img")).startswith("the voxels of a NIfTI or Analyze")


def test_every_dicom_file_that_pydicom_ships():
    folder = Path(pydicom.data.__file__).parent / "test_files"
    names = sorted(folder.rglob("*.dcm"))
    assert len(names) > 60
    # One file begins with a stray byte.
    assert {file.name for file in names if kind_of(file) != "a DICOM file"} == {"no_meta.dcm"}


OTHERS = [
    (b"NRRD0004\ntype: short\n", "an NRRD volume"),
    (b"ObjectType = Image\nNDims = 3\n", "a MetaImage volume (.mha)"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF picture"),
    (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
    (b"\xff\x0a\xfa\x7f\0\0", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"8BPS\0\1", "a Photoshop document (.psd)"),
    (b"ZISRAWFILE\0\0", "a Zeiss microscope file (.czi)"),
    (b"<!DOCTYPE html>\n<html>", "an HTML page"),
    (b"\xef\xbb\xbf\n <html lang='en'>", "an HTML page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML file"),
    (b"<?xml version='1.0'?>\n<!-- x -->\n<svg width='3'>", "an SVG drawing"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'>", "an SVG drawing"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    (b"/annex/objects/SHA256E-s3--00.png\n", "a git-annex pointer"),
    (b"outs:\n- md5: 00\n  path: a.png\n", "a DVC pointer"),
    (b'{"message": "Not Found"}', "a JSON file"),
    (b"404: Not Found", "a text file"),
    (b"\0" * 5000, "a file of zeros, of which nothing was written"),
    (b"\0\x05\x16\x07\0\2", "an AppleDouble file, in which macOS keeps attributes of another file"),
    (b"\x07\x91\x83\xfe\x10\x99", None),
    (b"", None),
]


@pytest.mark.parametrize(("content", "kind"), OTHERS)
def test_what_is_no_picture(tmp_path, content, kind):
    (tmp_path / "a.png").write_bytes(content)
    assert kind_of(tmp_path / "a.png") == kind
    assert kind not in PICTURES and not is_cut_short(tmp_path / "a.png")
    if kind:
        assert len(advice_for(kind)) > 5


def test_archives_and_arrays(tmp_path):
    path = tmp_path / "a.tif"
    np.savez(tmp_path / "a.npz", np.zeros(3))
    assert kind_of(tmp_path / "a.npz") == "NumPy arrays (.npz)"
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert kind_of(tmp_path / "a.npy") == "a NumPy array (.npy)"
    torch.save({}, tmp_path / "a.pth")
    assert kind_of(tmp_path / "a.pth") == "weights or tensors of PyTorch"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
    assert kind_of(path) == "a ZIP archive"
    path.write_bytes(path.read_bytes()[:20])
    assert kind_of(path) == "a ZIP archive"
    path.write_bytes(gzip.compress(picture("PNG")))
    assert kind_of(path) == "a gzip archive"


def test_no_file_has_no_kind(tmp_path):
    assert kind_of(tmp_path) is None and kind_of(tmp_path / "none") is None


def test_what_follows_the_end_of_a_jpeg_does_not_make_it_short(tmp_path):
    """Phones append previews and data of their own."""
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("JPEG") + b"\0" * 5000)
    assert not is_cut_short(path)
    # The thumbnail's end mark is not that of the picture.
    thumbnail = picture("JPEG")
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    content = picture("JPEG")
    path.write_bytes(content[:2] + block + content[2:-300])
    assert is_cut_short(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a" * 1023 + "é".encode() + b"b", "a text file"),  # 1024 bytes end inside of the letter
        (b"\xff" * 2000, None),  # white pixels without a header
        ("caf\xe9".encode("latin-1"), None),
    ],
)
def test_text_is_utf8_to_the_last_byte(tmp_path, content, kind):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert kind_of(path) == kind
