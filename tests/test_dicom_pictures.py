"""Single DICOM files as pictures: decoded like pydicom, paired with masks, and predicted."""

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from seglib import config, layouts
from seglib.errors import DataError
from seglib.formats import dicom_pictures, images, inputs, volumes
from tests.helpers import truth_of, write_picture, write_series


def xray(path, pixels, **tags):
    """One X-ray as a file, without a position; returns the path."""
    more = {"Modality": "DX", "RescaleIntercept": 0, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}
    tags = {**more, **tags}
    written = write_series(path.parent, pixels[None], name=path.name, **tags)[0]
    data = pydicom.dcmread(written)
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(data, name)
    data.save_as(path)
    return path


PIXELS = np.random.default_rng(0).integers(0, 4000, (24, 20))


def test_grey_is_scaled_like_other_pictures_of_many_bits(tmp_path):
    path = xray(tmp_path / "a.dcm", PIXELS)
    shown = images.read_image(path, 1)[..., 0]
    expected = images.to_uint8(PIXELS.astype(np.uint16))
    np.testing.assert_array_equal(shown, expected)
    inverted = xray(tmp_path / "b.dcm", PIXELS, PhotometricInterpretation="MONOCHROME1")
    turned = images.read_image(inverted, 1)[..., 0]
    np.testing.assert_allclose(turned, 255.0 - expected, atol=1)  # halves round up
    assert any("MONOCHROME1" in note for note in images.notes_of(inverted))
    assert dicom_pictures.is_picture(path) and not volumes.is_volume(path)
    assert not volumes.is_series(tmp_path)  # a folder of X-rays is no volume


@pytest.mark.parametrize(
    "name", ["SC_rgb_rle.dcm", "SC_ybr_full_uncompressed.dcm", "examples_palette.dcm"]
)
def test_colours_are_those_of_pydicom(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not in this pydicom")
    data = pydicom.dcmread(path)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        expected = pydicom.pixels.apply_color_lut(data.pixel_array, data) >> 8
    else:
        expected = pydicom.pixels.pixel_array(data)
    pixels, mode, _ = dicom_pictures.read(path)
    np.testing.assert_array_equal(pixels, expected)
    assert (mode, pixels.dtype) == ("RGB", np.uint8)


def test_what_is_no_picture_is_named(tmp_path):
    ct = write_series(tmp_path / "ct", PIXELS[None])[0]
    with pytest.raises(DataError, match="Modality CT, which is a slice of a volume"):
        dicom_pictures.read(ct)
    film = xray(tmp_path / "film.dcm", PIXELS, NumberOfFrames=3)
    with pytest.raises(DataError, match=r"film\.dcm: .*3 frames"):
        images.read_image(film)
    whole = xray(tmp_path / "cut.dcm", PIXELS)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.dcm: .*cut short"):
        images.read_image(whole)


def test_a_single_slice_is_a_volume(tmp_path):
    path = write_series(tmp_path / "ct", PIXELS[None])[0]
    assert volumes.is_volume(path)
    volume = volumes.read(path)
    assert volume.voxels.shape == (1, 24, 20)


def test_x_rays_train_with_masks_of_their_names(tmp_path):
    masks = {}
    for number in range(3):
        xray(tmp_path / f"d/images/p{number}.dcm", np.roll(PIXELS, number))
        masks[f"p{number}"] = np.roll(PIXELS, number) > 2000
        write_picture(tmp_path / f"d/masks/p{number}.png", masks[f"p{number}"] * 255)
    cfg = config.preset("binary", "smoke", data_root=str(tmp_path / "d"))
    cases = layouts.scan(cfg)
    assert list(cases["case"]) == ["p0", "p1", "p2"]
    truth = truth_of(type("Store", (), {"cases": cases.assign(height=24, width=20)}), cfg)
    for name, (image, mask) in truth.items():
        np.testing.assert_array_equal(mask, masks[name])
        assert image.shape == (24, 20, cfg.in_channels)
    assert sorted(path.name for path in inputs.read(tmp_path / "d/images").files) == [
        f"p{number}.dcm" for number in range(3)
    ]
