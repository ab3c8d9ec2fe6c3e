"""Pictures: every reader, masks that are decoded or refused, resizing and back, writing."""

import os

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from seglib.errors import DataError
from seglib.formats import images
from seglib.formats.images import IGNORE
from tests.helpers import read_picture

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, array, mode=None, **options):
    """Write an array with Pillow, in `mode` if given; returns the path as text."""
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return str(path)


def flag(dtype=np.uint8):
    """(20, 30, 3): red above, green below left, blue below right: no two channels or axes alike."""
    picture = np.zeros((20, 30, 3), dtype)
    picture[:10], picture[10:, :15], picture[10:, 15:] = RED, GREEN, BLUE
    return picture


def disc(height=60, width=80, row=0.45, col=0.55, radius=0.3):
    """(height, width) bool: a disc, by shares of the sides."""
    rows, cols = np.ogrid[:height, :width]
    return np.hypot(rows - row * height, cols - col * width) <= radius * min(height, width)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def paint(labels, colours):
    """(H, W) numbers -> (H, W, 3) uint8."""
    return np.array(colours, np.uint8)[labels]


# Reading images


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_colour_is_rgb(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", flag())
    image = images.read_image(path)
    assert (image.shape, image.dtype) == ((20, 30, 3), np.uint8)
    np.testing.assert_array_equal(image, flag())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_files_of_opencv_are_rgb_too(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), flag()[..., ::-1])  # OpenCV takes blue first
    np.testing.assert_array_equal(images.read_image(path), flag())


@pytest.mark.parametrize("writer", ["pillow", "opencv"])
def test_jpeg_is_rgb_within_its_losses(tmp_path, writer):
    path = str(tmp_path / "a.jpg")
    if writer == "pillow":
        save(path, flag(), quality=95, subsampling=0)
    else:
        assert cv2.imwrite(path, flag()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    image = images.read_image(path).astype(int)
    for row, col, colour in ((4, 15, RED), (15, 4, GREEN), (15, 25, BLUE)):
        assert np.abs(image[row, col] - colour).max() <= 12, (row, col)


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_palettes_become_colours(tmp_path, suffix):
    picture = Image.fromarray(np.repeat([[0, 1, 2]], 4, axis=0).astype(np.uint8), "L")
    picture = picture.copy()
    picture.putpalette([10, 20, 30, 250, 5, 6, 7, 200, 9])
    assert picture.mode == "P"
    picture.save(tmp_path / f"a.{suffix}")
    image = images.read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image[0], [[10, 20, 30], [250, 5, 6], [7, 200, 9]])
    assert image.shape == (4, 3, 3)


def test_one_bit(tmp_path):
    path = save(tmp_path / "a.png", disc().astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], disc() * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_cut_off(tmp_path, suffix):
    rgba = np.dstack([flag(), np.full((20, 30), 77, np.uint8)])
    rgba[0, 0, 3] = 0
    np.testing.assert_array_equal(images.read_image(save(tmp_path / f"a.{suffix}", rgba)), flag())
    la = np.dstack([flag()[..., 0], rgba[..., 3]])
    image = images.read_image(save(tmp_path / f"b.{suffix}", la), 1)
    np.testing.assert_array_equal(image[..., 0], flag()[..., 0])


def test_transparent_palette(tmp_path):
    picture = Image.fromarray(flag()).convert("P")
    picture.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(
        images.read_image(tmp_path / "a.png"), np.asarray(picture.convert("RGB"))
    )


@pytest.mark.parametrize(
    ("suffix", "options"), [("tif", {}), ("jpg", {"quality": 100, "subsampling": 0})]
)
def test_cmyk(tmp_path, suffix, options):
    path = save(tmp_path / f"a.{suffix}", flag(), "CMYK", **options)
    image = images.read_image(path).astype(int)
    assert np.abs(image - flag()).max() <= (0 if suffix == "tif" else 12)


@pytest.mark.parametrize(
    "writer", ["pillow png", "opencv png", "pillow tif", "opencv tif", "big-endian tif"]
)
def test_sixteen_bits_are_stretched(tmp_path, writer):
    values = np.array([[100, 1100], [2100, 4100]], np.uint16)
    by, suffix = writer.split()
    path = str(tmp_path / f"a.{suffix}")
    if by == "opencv":
        assert cv2.imwrite(path, values)
    elif by == "pillow":
        save(path, values)
    else:
        Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes()).save(path)
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], [[0, 64], [128, 255]])
    assert images.read_image(path, 3).shape == (2, 2, 3)


def test_sixteen_bit_colour_keeps_its_order(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), flag(np.uint16)[..., ::-1] * 257)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), flag())


def test_floats_are_stretched(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[-1, 0], [1, 3]], np.float32))
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], [[0, 64], [128, 255]])


def test_grey_and_colour_channels(tmp_path):
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    path = save(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(images.read_image(path, 3), np.dstack([grey] * 3))
    image = images.read_image(save(tmp_path / "colour.png", flag()), 1)
    assert image.shape == (20, 30, 1)
    # Luma weights 0.299, 0.587, 0.114 of red, green and blue.
    assert (image[0, 0, 0], image[15, 0, 0], image[15, 20, 0]) == (76, 150, 29)
    with pytest.raises(DataError, match="3 channels.*takes 5.*in_channels=3"):
        images.read_image(tmp_path / "colour.png", 5)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_files_cut_short_are_refused_by_name(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save(tmp_path / name, noise)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=rf"{name}: not readable as an image"):
        images.read_image(tmp_path / name)
    with pytest.raises(DataError, match=name):
        images.read_mask(str(tmp_path / name))


def test_files_cut_short_are_refused_after_a_library_allowed_them(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / "a.jpg", noise)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match=r"a\.jpg"):
        images.read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", r"empty \(0 bytes\)"), (b"<html>404</html>", "not readable")],
)
@pytest.mark.parametrize("name", ["scan 1.png", "scan.jpg", "scan.tif"])
def test_what_is_no_image_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (images.read_image, lambda path: images.read_mask(str(path))):
        with pytest.raises(DataError, match=message) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


def test_a_folder_is_no_image(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png"):
        images.read_image(tmp_path / "a.png")


# 8 bits


def test_to_uint8():
    same = flag()
    assert images.to_uint8(same) is same
    np.testing.assert_array_equal(
        images.to_uint8(np.array([0, 1, 2, 4], np.int32)), [0, 64, 128, 255]
    )
    np.testing.assert_array_equal(images.to_uint8(np.full(5, 700, np.uint16)), 0)
    np.testing.assert_array_equal(
        images.to_uint8(np.array([0.0, 1.0, np.nan, np.inf, -np.inf])), [0, 255, 0, 255, 0]
    )
    with pytest.raises(DataError, match="no finite number"):
        images.to_uint8(np.full((2, 2), np.nan))


def test_percentiles_cut_the_ends_of_any_depth():
    for dtype in (np.uint8, np.uint16, np.float32):
        values = np.arange(101).astype(dtype)
        scaled = images.to_uint8(values, (10, 90))
        assert (scaled[:11] == 0).all() and (scaled[90:] == 255).all()
        np.testing.assert_array_equal(scaled[10:91], np.rint((np.arange(10, 91) - 10) / 80 * 255))


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=50))
def test_to_uint8_uses_the_whole_range_and_keeps_the_order(values):
    values = np.sort(np.array(values, np.uint16))
    scaled = images.to_uint8(values)
    assert scaled.dtype == np.uint8
    assert (np.diff(scaled.astype(int)) >= 0).all()
    if values[0] != values[-1]:
        assert (scaled[0], scaled[-1]) == (0, 255)


# Masks that `auto` decodes


def two_values(low, high, dtype=np.uint8):
    return np.where(disc(), high, low).astype(dtype)


UNAMBIGUOUS = {
    "0/1": (two_values(0, 1), "values 0/1"),
    "0/255": (two_values(0, 255), "values 0/255"),
    "0/128": (two_values(0, 128), "values 0/128"),
    "two greys": (two_values(60, 200), "values 60/200"),
    "bool": (disc(), "1 bit"),
    "16 bit": (two_values(0, 65535, np.uint16), "values 0/65535"),
    "16 bit 0/1": (two_values(0, 1, np.uint16), "values 0/1"),
    "colour file, grey": (np.dstack([two_values(0, 255)] * 3), "values 0/255"),
    "red on black": (paint(disc() * 1, [(0, 0, 0), RED]), "one colour on black"),
    "yellow on black": (paint(disc() * 1, [(0, 0, 0), (255, 255, 0)]), "one colour on black"),
    "dark red on black": (paint(disc() * 1, [(0, 0, 0), (128, 0, 0)]), "one colour on black"),
    "darker red on black": (paint(disc() * 1, [(0, 0, 0), (100, 0, 0)]), "colour"),
    "alpha constant": (
        np.dstack([two_values(0, 255)] * 3 + [np.full((60, 80), 255, np.uint8)]),
        "values 0/255",
    ),
    "alpha is the mask": (
        np.dstack([np.zeros((60, 80, 3), np.uint8), two_values(0, 255)]),
        "transparency",
    ),
    "alpha is the mask, grey": (
        np.dstack([np.full((60, 80), 9, np.uint8), two_values(0, 255)]),
        "transparency",
    ),
}


@pytest.mark.parametrize("name", UNAMBIGUOUS)
def test_auto_decodes(tmp_path, name):
    array, decoding = UNAMBIGUOUS[name]
    mask = images.read_mask(save(tmp_path / "m.png", array))
    assert (mask.pixels.dtype, mask.pixels.shape) == (np.uint8, (60, 80))
    np.testing.assert_array_equal(mask.pixels, disc())
    assert decoding in mask.decoding
    assert mask.looks_inverted is False


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif"])
def test_auto_decodes_in_other_formats(tmp_path, suffix):
    mask = images.read_mask(save(tmp_path / f"m.{suffix}", two_values(0, 255)))
    np.testing.assert_array_equal(mask.pixels, disc())


def test_auto_decodes_floats(tmp_path):
    mask = images.read_mask(save(tmp_path / "m.tif", two_values(0, 1, np.float32)))
    np.testing.assert_array_equal(mask.pixels, disc())


@pytest.mark.parametrize("value", [0, 1, 255])
def test_auto_decodes_empty_and_full(tmp_path, value):
    mask = images.read_mask(save(tmp_path / "m.png", np.full((20, 30), value, np.uint8)))
    assert set(np.unique(mask.pixels)) == {int(value > 0)}


@pytest.mark.parametrize("size", [(31, 47), (45, 70), (143, 211), (240, 320)])
def test_auto_cuts_the_grey_edges_of_a_resized_mask(tmp_path, size):
    grey = cv2.resize(two_values(0, 255), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert len(np.unique(grey)) > 10
    mask = images.read_mask(save(tmp_path / "m.png", grey))
    np.testing.assert_array_equal(mask.pixels, grey > 127)
    assert "grey edges" in mask.decoding


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("colour", [(255, 255, 255), (254, 0, 0)])
def test_auto_sees_through_the_ringing_of_jpeg(tmp_path, quality, colour):
    truth = disc(120, 160)
    path = save(tmp_path / "m.jpg", paint(truth * 1, [(0, 0, 0), colour]), quality=quality)
    assert len(np.unique(images.read_pixels(path)[0])) > 10
    mask = images.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, images.read_pixels(path)[0].max(axis=2) > 127)
    assert dice(mask.pixels == 1, truth) > 0.97
    assert "grey edges, cut at 127" in mask.decoding


def palette_mask(path, index, colours):
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
    assert picture.mode == "P"
    picture.save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [(255, 255, 255), RED, (0, 0, 60), (1, 1, 1)])
def test_auto_decodes_the_index_of_a_palette(tmp_path, suffix, colour):
    path = palette_mask(tmp_path / f"m.{suffix}", disc(), [(0, 0, 0), colour])
    mask = images.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, disc())
    assert mask.decoding == "palette index"


def test_auto_decodes_a_palette_of_greys(tmp_path):
    grey = cv2.resize(two_values(0, 255), (200, 150), interpolation=cv2.INTER_LINEAR)
    mask = images.read_mask(palette_mask(tmp_path / "m.png", grey, [(v, v, v) for v in range(256)]))
    np.testing.assert_array_equal(mask.pixels, grey > 127)
    assert "grey" in mask.decoding


# Masks that `auto` must refuse


def bands(*values):
    """(60, 80): thick vertical bands of these values."""
    return np.repeat(np.array(values)[np.arange(80) * len(values) // 80][None], 60, axis=0)


def with_speck(labels, value):
    """The labels with a small area (0.2 % of the foreground) of one more value."""
    labels = labels.copy()
    labels[30:32, 40:41] = value
    return labels


AMBIGUOUS = {
    "label map 0..3": bands(0, 1, 2, 3).astype(np.uint8),
    "label map 0..2": bands(0, 1, 2).astype(np.uint8),
    "label map 0 85 170 255": bands(0, 85, 170, 255).astype(np.uint8),
    "label map 0 100 200": bands(0, 100, 200).astype(np.uint8),
    "structure 1, void 255": bands(0, 1, 255).astype(np.uint8),
    "label map 0 20 255": bands(0, 20, 255).astype(np.uint8),
    "16-bit label map": bands(0, 205, 420, 500).astype(np.uint16),
    "soft map": np.uint8(255 * np.exp(-((np.arange(80)[None] - 40) ** 2) / 300) * np.ones((60, 1))),
    "five votes": bands(0, 64, 128, 191, 255).astype(np.uint8),
    "several colours": paint(bands(0, 1, 2), [(0, 0, 0), RED, GREEN]),
    "several colours, no black": paint(bands(0, 1), [RED, BLUE]),
    "red on white": paint(disc() * 1, [(255, 255, 255), RED]),
    "a photograph": np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8),
    "a second colour, small": paint(with_speck(disc() * 1, 2), [(0, 0, 0), RED, GREEN]),
    "colour and transparency": np.dstack([paint(bands(0, 1), [RED, BLUE]), two_values(0, 255)]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_auto_refuses(tmp_path, name):
    path = save(tmp_path / "m.png", AMBIGUOUS[name])
    with pytest.raises(DataError, match="ambiguous mask") as error:
        images.read_mask(path)
    assert path in str(error.value)
    assert "mask_encoding" in str(error.value) or name == "colour and transparency", (
        "it must say what resolves it"
    )


@pytest.mark.parametrize(
    "colours",
    [[(255, 255, 255), (0, 0, 0)], [(0, 0, 0), RED, GREEN], [(255, 255, 255), RED]],
    ids=["white and black", "three", "white and red"],
)
def test_auto_refuses_palettes(tmp_path, colours):
    index = disc() * 1 if len(colours) == 2 else bands(0, 1, 2)
    path = palette_mask(tmp_path / "m.png", index, colours)
    with pytest.raises(DataError, match="ambiguous mask.*palette.*mask_encoding='index'"):
        images.read_mask(path)
    np.testing.assert_array_equal(images.read_mask(path, "index").pixels, index > 0)


def test_masks_of_floats_that_are_no_numbers(tmp_path):
    values = two_values(0, 1, np.float32)
    values[0, 0] = np.nan
    with pytest.raises(DataError, match=r"m\.tif.*NaN"):
        images.read_mask(save(tmp_path / "m.tif", values))


# Masks by a setting


@pytest.mark.parametrize(
    ("encoding", "array", "truth"),
    [
        ("threshold", bands(0, 64, 128, 191, 255).astype(np.uint8), bands(0, 0, 1, 1, 1)),
        ("threshold", bands(0, 127, 128).astype(np.uint8), bands(0, 0, 1)),
        ("threshold", bands(0, 1).astype(np.uint8), bands(0, 1)),
        ("threshold", bands(0, 65535).astype(np.uint16), bands(0, 1)),
        ("threshold", bands(0, 20000, 40000, 65535).astype(np.uint16), bands(0, 0, 1, 1)),
        (
            "threshold",
            paint(bands(0, 1, 2, 3), [(0, 0, 0), RED, (0, 200, 0), (90, 90, 90)]),
            bands(0, 1, 1, 0),
        ),
        ("index", bands(0, 1, 2, 3).astype(np.uint8), bands(0, 1, 1, 1)),
        ("index", bands(0, 1, 255).astype(np.uint8), bands(0, 1, 1)),
        ("index", paint(bands(0, 1), [(0, 0, 0), (0, 3, 0)]), bands(0, 1)),
        ({"255,0,0": 1}, paint(bands(0, 1), [(0, 0, 0), RED]), bands(0, 1)),
        (
            {"255,0,0": 1, "0,255,0": 0},
            paint(bands(0, 1, 2), [(0, 0, 0), RED, GREEN]),
            bands(0, 1, 0),
        ),
        ({"0,0,0": 1, "255,255,255": 0}, paint(bands(0, 1), [(0, 0, 0), (255,) * 3]), bands(1, 0)),
        ({"255,255,255": 1}, bands(0, 255).astype(np.uint8), bands(0, 1)),
        ({"255,255,255": 1}, bands(0, 1).astype(bool), bands(0, 1)),
    ],
)
def test_masks_by_a_setting(tmp_path, encoding, array, truth):
    mask = images.read_mask(save(tmp_path / "m.png", array), encoding)
    np.testing.assert_array_equal(mask.pixels, truth)


def test_alpha_is_no_colour_of_a_threshold(tmp_path):
    opaque = np.dstack([two_values(0, 255)] * 3 + [np.full((60, 80), 255, np.uint8)])
    np.testing.assert_array_equal(
        images.read_mask(save(tmp_path / "m.png", opaque), "threshold").pixels, disc()
    )
    opaque = opaque[..., 2:]
    np.testing.assert_array_equal(
        images.read_mask(save(tmp_path / "la.png", opaque), "index").pixels, disc()
    )


def test_a_threshold_on_a_palette_cuts_the_colours_shown(tmp_path):
    path = palette_mask(tmp_path / "m.png", bands(0, 1, 2), [(0, 0, 0), (90, 90, 90), RED])
    np.testing.assert_array_equal(images.read_mask(path, "threshold").pixels, bands(0, 0, 1))


def test_a_threshold_on_probabilities_cuts_in_the_middle(tmp_path):
    path = save(tmp_path / "m.tif", bands(0.0, 0.2, 0.7, 1.0).astype(np.float32))
    np.testing.assert_array_equal(images.read_mask(path, "threshold").pixels, bands(0, 0, 1, 1))


def test_an_unknown_colour_is_named(tmp_path):
    path = save(tmp_path / "m.png", paint(bands(0, 1, 2), [(0, 0, 0), RED, (0, 7, 9)]))
    with pytest.raises(DataError, match=r"m\.png.*\(0, 7, 9\)"):
        images.read_mask(path, {"255,0,0": 1})


# Polarity and unions


def test_inverted(tmp_path):
    path = save(tmp_path / "m.png", two_values(255, 0))
    mask = images.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, ~disc())
    assert mask.looks_inverted
    mask = images.read_mask(path, inverted=True)
    np.testing.assert_array_equal(mask.pixels, disc())
    assert not mask.looks_inverted
    assert "inverted" in mask.decoding


def test_looks_inverted():
    assert images.looks_inverted(1 - disc().astype(np.uint8))
    assert images.looks_inverted(np.ones((20, 30), np.uint8))
    assert not images.looks_inverted(disc().astype(np.uint8))
    assert not images.looks_inverted(np.zeros((20, 30), np.uint8))
    large = np.ones((40, 40), np.uint8)
    large[0] = large[-1] = large[:, 0] = large[:, -1] = 0
    assert not images.looks_inverted(large), "a large structure that leaves the border free"
    assert images.looks_inverted(1 - large), (
        "the border decides, also where the structure fills most of the frame"
    )


def halves():
    left, right = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    left[5:30, 5:20], right[8:35, 35:55] = True, True
    return left, right


def test_the_union_of_two_files(tmp_path):
    left, right = halves()
    left_file = save(tmp_path / "l.png", left * np.uint8(255))
    right_file = save(tmp_path / "r.png", right * np.uint8(1))
    mask = images.read_mask(f"{left_file}|{right_file}")
    np.testing.assert_array_equal(mask.pixels, left | right)
    assert "0/255" in mask.decoding and "0/1" in mask.decoding


def test_the_union_of_two_inverted_files(tmp_path):
    left, right = halves()
    left_file = save(tmp_path / "l.png", ~left * np.uint8(255))
    right_file = save(tmp_path / "r.png", ~right * np.uint8(255))
    mask = images.read_mask(f"{left_file}|{right_file}", inverted=True)
    np.testing.assert_array_equal(mask.pixels, left | right)


def test_an_empty_part_of_a_union(tmp_path):
    left, right = halves()
    left_file = save(tmp_path / "l.png", left * np.uint8(255))
    right_file = save(tmp_path / "r.png", right * np.uint8(0))
    np.testing.assert_array_equal(images.read_mask(f"{left_file}|{right_file}").pixels, left)


def test_parts_of_different_size(tmp_path):
    left, right = halves()
    cell = "|".join([save(tmp_path / "l.png", left), save(tmp_path / "r.png", right.T)])
    with pytest.raises(
        DataError, match=r"(?s)l\.png.*r\.png.*different sizes.*\(40, 60\).*\(60, 40\)"
    ):
        images.read_mask(cell)


# Label maps


@pytest.mark.parametrize("encoding", ["auto", "index"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_as_they_are(tmp_path, encoding, dtype):
    labels = bands(0, 1, 2, 3, 255).astype(dtype)
    mask = images.read_labels(save(tmp_path / "m.png", labels), encoding, 4, {})
    assert mask.pixels.dtype == np.uint8
    np.testing.assert_array_equal(mask.pixels, bands(0, 1, 2, 3, IGNORE))


def test_labels_by_a_map(tmp_path):
    path = save(tmp_path / "m.png", bands(0, 5, 1, 300, 7, 255).astype(np.uint16))
    mask = images.read_labels(path, "index", 4, {"5": 1, "1": 2, "300": 3})
    np.testing.assert_array_equal(mask.pixels, bands(0, 1, 2, 3, 0, IGNORE))
    assert "label_map" in mask.decoding
    mask = images.read_labels(path, "index", 4, {"255": 1})
    np.testing.assert_array_equal(mask.pixels, bands(0, 0, 0, 0, 0, 1))


def test_labels_of_a_palette_are_its_numbers(tmp_path):
    path = palette_mask(tmp_path / "m.png", bands(0, 1, 2), [(0, 0, 0), RED, GREEN])
    np.testing.assert_array_equal(images.read_labels(path, "index", 3, {}).pixels, bands(0, 1, 2))


def test_labels_by_colour(tmp_path):
    path = save(tmp_path / "m.png", paint(bands(0, 1, 2, 3), [(0, 0, 0), RED, GREEN, BLUE]))
    table = {"255,0,0": 2, "0,255,0": 1, "0,0,255": 255}
    np.testing.assert_array_equal(
        images.read_labels(path, table, 3, {}).pixels, bands(0, 2, 1, IGNORE)
    )
    with pytest.raises(DataError, match=r"m\.png.*\(0, 0, 255\)"):
        images.read_labels(path, {"255,0,0": 2, "0,255,0": 1}, 3, {})


def test_a_colour_table_may_not_name_a_class_that_there_is_not(tmp_path):
    path = save(tmp_path / "m.png", paint(bands(0, 1), [(0, 0, 0), RED]))
    with pytest.raises(DataError, match=r"m\.png"):
        images.read_labels(path, {"255,0,0": 7}, 3, {})


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_labels_with_an_opaque_alpha_channel_are_read_and_others_refused(tmp_path, mode):
    labels = bands(0, 1, 2)
    picture = Image.fromarray(labels.astype(np.uint8)).convert(mode)
    path = save(tmp_path / "m.png", np.array(picture))
    np.testing.assert_array_equal(images.read_labels(path, "index", 3, {}).pixels, labels)
    picture.putalpha(Image.fromarray((labels * 100).astype(np.uint8)))
    path = save(tmp_path / "m.png", np.array(picture))
    with pytest.raises(DataError, match=r"m\.png: the transparency of the labels varies"):
        images.read_labels(path, "index", 3, {})


def test_wrong_labels_are_refused(tmp_path):
    path = save(tmp_path / "m.png", bands(0, 1, 200).astype(np.uint8))
    with pytest.raises(DataError, match=r"m\.png: label numbers \[200\].*0\.\.2.*label_map"):
        images.read_labels(path, "index", 3, {})
    path = save(tmp_path / "c.png", paint(bands(0, 1), [(0, 0, 0), RED]))
    with pytest.raises(
        DataError, match=r"c\.png: the labels are colours.*\(255, 0, 0\).*mask_encoding"
    ):
        images.read_labels(path, "index", 3, {})


# Geometry

SIDES = st.integers(1, 900)
FRAMES = st.tuples(st.integers(8, 300), st.integers(8, 300))
RESIZE = st.sampled_from(["letterbox", "stretch"])


@given(SIDES, SIDES, FRAMES)
def test_the_box_of_a_letterbox(height, width, size):
    top, left, h, w = images.fit_box((height, width), size, "letterbox")
    assert 0 <= top and 0 <= left and h >= 1 and w >= 1
    assert top + h <= size[0] and left + w <= size[1]
    assert h == size[0] or w == size[1], "it fills the frame in one direction"
    scale = min(size[0] / height, size[1] / width)
    assert abs(h - max(1, height * scale)) <= 0.5 + 1e-9
    assert abs(w - max(1, width * scale)) <= 0.5 + 1e-9
    assert abs(2 * top + h - size[0]) <= 1 and abs(2 * left + w - size[1]) <= 1, "centred"
    assert images.fit_box((height, width), size, "stretch") == (0, 0, *size)


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    FRAMES,
    RESIZE,
    st.integers(0, 255),
    st.sampled_from([1, 3]),
)
def test_a_constant_image_stays_constant(height, width, size, resize, value, channels):
    image = np.full((height, width, channels), value, np.uint8)
    frame = images.fit_image(image, size, resize)
    assert (frame.shape, frame.dtype) == ((*size, channels), np.uint8)
    top, left, h, w = images.fit_box((height, width), size, resize)
    inside = np.zeros(size, bool)
    inside[top : top + h, left : left + w] = True
    assert (frame[inside] == value).all()
    assert (frame[~inside] == 0).all()


@given(st.integers(1, 200), st.integers(1, 200), FRAMES, RESIZE, st.data())
def test_a_mask_keeps_its_values_and_pads_with_ignore(height, width, size, resize, data):
    values = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    mask = np.random.default_rng(0).choice(np.array(values, np.uint8), (height, width))
    frame = images.fit_mask(mask, size, resize)
    assert (frame.shape, frame.dtype) == (size, np.uint8)
    top, left, h, w = images.fit_box((height, width), size, resize)
    assert set(np.unique(frame[top : top + h, left : left + w])) <= set(values)
    frame[top : top + h, left : left + w] = IGNORE
    assert (frame == IGNORE).all()
    if resize == "stretch":
        assert (top, left, h, w) == (0, 0, *size)


@given(st.integers(1, 200), st.integers(1, 200), FRAMES, RESIZE, st.integers(1, 3))
def test_unfit_returns_the_original_shape(height, width, size, resize, classes):
    prob = np.random.default_rng(0).random((classes, *size), np.float32)
    restored = images.unfit(prob, (height, width), resize)
    assert (restored.shape, restored.dtype) == ((classes, height, width), np.float32)
    assert prob.min() - 1e-6 <= restored.min() and restored.max() <= prob.max() + 1e-6
    constant = images.unfit(np.full_like(prob, 0.3), (height, width), resize)
    np.testing.assert_allclose(constant, 0.3, rtol=1e-6)


def test_unfit_cuts_the_padding_off():
    prob = np.ones((1, 64, 64), np.float32)
    top, left, h, w = images.fit_box((40, 80), (64, 64), "letterbox")
    prob[:, top : top + h, left : left + w] = 0
    assert (images.unfit(prob, (40, 80), "letterbox") == 0).all()


@given(st.integers(1, 60), st.integers(1, 60), RESIZE)
def test_nothing_changes_where_the_size_fits(height, width, resize):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.integers(0, 4, (height, width), np.uint8)
    prob = rng.random((2, height, width), np.float32)
    np.testing.assert_array_equal(images.fit_image(image, (height, width), resize), image)
    np.testing.assert_array_equal(images.fit_mask(mask, (height, width), resize), mask)
    np.testing.assert_array_equal(images.unfit(prob, (height, width), resize), prob)


BLOBS = st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65), st.floats(0.2, 0.3))


@given(
    st.integers(60, 500),
    st.integers(60, 500),
    st.integers(64, 160),
    st.integers(64, 160),
    RESIZE,
    BLOBS,
)
def test_image_and_mask_land_at_the_same_place(height, width, rows, cols, resize, blob):
    truth = disc(height, width, *blob).astype(np.uint8)
    as_image = images.fit_image(truth[..., None] * 255, (rows, cols), resize)[..., 0] > 127
    as_mask = images.fit_mask(truth, (rows, cols), resize) == 1
    ring = np.ones((3, 3), np.uint8)
    for inner, outer in ((as_image, as_mask), (as_mask, as_image)):
        outside = inner & ~(cv2.dilate(outer.astype(np.uint8), ring) > 0)
        assert not outside.any(), "more than a pixel apart"
    # A thin sliver of a blob has no pixel whose neighbours all belong to it.
    _, _, h, w = images.fit_box((height, width), (rows, cols), resize)
    if blob[2] * min(height, width) * min(h / height, w / width) >= 3:
        assert cv2.erode(as_mask.astype(np.uint8), ring).any()


@given(
    st.integers(60, 500),
    st.integers(60, 500),
    st.integers(96, 160),
    st.integers(96, 160),
    RESIZE,
    BLOBS,
)
def test_into_the_frame_and_back_again(height, width, rows, cols, resize, blob):
    _, _, h, w = images.fit_box((height, width), (rows, cols), resize)
    # The smaller radius in pixels of the frame: a smaller blob loses more to its coarse edge.
    radius = blob[2] * min(height, width) * min(h / height, w / width)
    assume(radius >= 14)
    truth = disc(height, width, *blob)
    frame = images.fit_mask(truth.astype(np.uint8), (rows, cols), resize)
    restored = images.unfit(np.float32(frame == 1)[None], (height, width), resize)[0]
    assert dice(restored >= 0.5, truth) > 0.97


# Writing


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_write_png(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = images.write_png(tmp_path / "new" / "folder" / "a.png", pixels)
    np.testing.assert_array_equal(
        images.read_image(path, shape[2] if len(shape) == 3 else 1).squeeze(), pixels.squeeze()
    )
    assert os.listdir(path.parent) == ["a.png"]


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    path = images.write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    before = path.read_bytes()

    def full_disk(self, target, **options):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(DataError, match="a.png: not written, the disk is full"):
        images.write_png(path, np.ones((4, 4), np.uint8))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_sha256_tells_content_not_name(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (images.sha256(tmp_path / name) for name in "abc")
    assert a == b
    assert c == "a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa"


# The real sets: every mask folder decodes as its README says


@pytest.mark.parametrize("side", ["leftMask", "rightMask"])
def test_real_montgomery_sides(real, side):
    files = sorted((real("montgomery") / "MontgomerySet/ManualMask" / side).glob("*.png"))
    assert len(files) == 102
    for file in files:
        mask = images.read_mask(str(file))
        assert mask.decoding == "values 0/255" and not mask.looks_inverted, file
        np.testing.assert_array_equal(mask.pixels, read_picture(file) == 255)


@pytest.mark.parametrize(
    ("name", "pattern", "n"),
    [("montgomery", "masks_union_original/*.png", 102), ("shenzhen", "mask/*.png", 200)],
)
def test_real_grey_edges(real, name, pattern, n):
    files = sorted(real(name).glob(pattern))
    assert len(files) == n
    for file in files[::2]:
        mask = images.read_mask(str(file))
        assert "grey edges" in mask.decoding and not mask.looks_inverted, file
        np.testing.assert_array_equal(mask.pixels, read_picture(file) > 127)


def test_real_covid_sides_are_united(real):
    root = real("covid_cxr_leftright")
    names = sorted(file.name for file in (root / "leftMask").iterdir())
    assert len(names) == 23
    for name in names[::2]:
        left, right = (str(root / side / name) for side in ("leftMask", "rightMask"))
        mask = images.read_mask(f"{left}|{right}")
        assert mask.decoding == "values 0/255"
        np.testing.assert_array_equal(
            mask.pixels, (read_picture(left) == 255) | (read_picture(right) == 255)
        )


def test_real_idrid_discs_are_palette_numbers(real):
    files = sorted(
        real("idrid").glob("A. Segmentation/2. *Groundtruths/a. */5. Optic Disc/*_OD.tif")
    )
    assert len(files) == 15
    for file in files[::5]:
        mask = images.read_mask(str(file))
        assert mask.decoding == "palette index"
        np.testing.assert_array_equal(mask.pixels, read_picture(file))
        assert 0.005 < mask.pixels.mean() < 0.05


def test_real_idrid_lesions_are_red_jpegs(real):
    files = sorted(
        real("idrid").glob("A. Segmentation/2. *Groundtruths/a. */3. Hard Exudates/*_EX.jpg")
    )
    assert len(files) == 15
    for file in files[:1]:  # a second each
        mask = images.read_mask(str(file))
        assert "one colour on black, grey edges" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, read_picture(file)[..., 0] > 127)


def test_real_busi_is_one_colour_on_black(real):
    files = sorted((real("busi") / "masks").iterdir())
    assert len(files) == 22
    for file in files:
        mask = images.read_mask(str(file))
        assert "one colour on black" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, (read_picture(file) > 127).any(axis=2))
        table = images.read_mask(str(file), {"0,255,0": 1, "255,0,0": 1})
        np.testing.assert_array_equal(mask.pixels, table.pixels)


def test_real_chase_is_one_bit(real):
    files = sorted(real("chase_db1").glob("*HO.png"))
    assert len(files) == 40
    for file in files:
        mask = images.read_mask(str(file))
        assert mask.decoding == "1 bit"
        np.testing.assert_array_equal(mask.pixels, read_picture(file))


def test_real_spleen_is_grey_jpeg(real):
    files = sorted((real("msd_spleen_ct") / "masks").iterdir())
    assert len(files) == 13
    for file in files:
        mask = images.read_mask(str(file))
        assert "grey edges" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, read_picture(file)[..., 0] > 127)


def test_real_drishti_soft_maps_need_a_setting(real):
    files = sorted(real("drishti_gs1").glob("Drishti-GS1_files/*/GT/*/SoftMap/*Softmap.png"))
    assert len(files) == 60
    for file in files:  # five votes are not two values
        with pytest.raises(DataError, match="ambiguous.*mask_encoding='threshold'"):
            images.read_mask(str(file))
    for file in files[::6]:
        np.testing.assert_array_equal(
            images.read_mask(str(file), "threshold").pixels, read_picture(file) >= 128
        )


def test_real_curvas_colours_need_a_table(real):
    table = {"0,255,255": 1, "255,255,0": 2, "255,0,255": 3}
    files = sorted(real("curvas_ct").glob("annotation_*/masks/*.png"))
    assert len(files) == 74
    several_organs = 0
    for file in files[::9]:
        labels = images.read_labels(str(file), table, 4, {}).pixels
        pixels = read_picture(file)
        for colour, number in table.items():
            red, green, blue = (int(c) for c in colour.split(","))
            same = (pixels[..., 0] == red) & (pixels[..., 1] == green) & (pixels[..., 2] == blue)
            np.testing.assert_array_equal(labels == number, same)
        if len(set(np.unique(labels)) - {0}) > 1:
            several_organs += 1
            with pytest.raises(DataError, match="several colours.*mask_encoding"):
                images.read_mask(str(file))
    assert several_organs >= 3, "the sample must hold slices with several organs"


def test_real_curvas_slice_with_eight_pixels_of_a_second_organ(real):
    file = real("curvas_ct") / "annotation_3/masks/10010_546.png"
    assert (read_picture(file) == (0, 255, 255)).all(axis=2).sum() == 8
    with pytest.raises(DataError, match="several colours"):
        images.read_mask(str(file))


def test_real_nuclei_are_united(real):
    case = sorted((real("dsb2018_nuclei") / "stage1_train").iterdir())[0]
    files = sorted((case / "masks").glob("*.png"))
    assert len(files) > 1
    mask = images.read_mask("|".join(map(str, files)))
    np.testing.assert_array_equal(
        mask.pixels, np.max([read_picture(file) for file in files], axis=0) == 255
    )
    picture = next((case / "images").iterdir())
    assert read_picture(picture).shape[2] == 4
    np.testing.assert_array_equal(images.read_image(picture), read_picture(picture)[..., :3])


def test_real_palm_photographs(real):
    files = sorted((real("palm_images_only") / "PALM/Training/Images").iterdir())
    assert len(files) == 45
    for file in files[::5]:
        np.testing.assert_array_equal(images.read_image(file), read_picture(file))
        assert images.read_image(file).shape == (224, 224, 3)


# Numbers of masks in deep files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_in_which_number_0_is_white(tmp_path, dtype):
    """Black and white as shown are clear; 0 and 1 of 8 bits are not."""
    path, top = str(tmp_path / "m.tif"), np.iinfo(dtype).max
    truth = disc().astype(dtype)
    tifffile.imwrite(path, (1 - truth) * top, photometric="miniswhite")
    np.testing.assert_array_equal(images.read_mask(path).pixels, truth)
    np.testing.assert_array_equal(images.read_mask(path, "index").pixels, truth)
    tifffile.imwrite(path, truth, photometric="miniswhite")
    for read in (images.read_mask, lambda path: images.read_labels(path, "index", 3, {})):
        with pytest.raises(DataError, match=r"m\.tif: number 0 is white.*MINISBLACK"):
            read(path)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_negative_numbers_in_a_mask_are_not_the_background(tmp_path, dtype):
    path = str(tmp_path / "m.tif")
    tifffile.imwrite(path, -disc().astype(dtype))
    with pytest.raises(DataError, match=r"m\.tif: ambiguous mask: found negative numbers"):
        images.read_mask(path)
    tifffile.imwrite(path, disc().astype(dtype))
    np.testing.assert_array_equal(images.read_mask(path).pixels, disc())


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_large_numbers_keep_their_differences(dtype):
    top = np.iinfo(dtype).max
    image = top - np.array([[300, 200], [100, 0]], dtype)
    np.testing.assert_array_equal(images.to_uint8(image), [[0, 85], [170, 255]])
    half = np.array([[0, 1000], [30000, 60000]], np.float16)
    assert images.to_uint8(half)[1].tolist() == [128, 255]


def test_numbers_that_jpeg_changed_are_refused(tmp_path):
    truth = disc(60, 80).astype(np.uint8)
    faint = save(tmp_path / "faint.jpg", truth, quality=75)
    tiff_file = save(tmp_path / "faint.tif", truth, compression="jpeg", quality=75)
    labels = save(tmp_path / "labels.jpg", truth * 3, quality=90)
    drawn = save(tmp_path / "drawn.jpg", truth * 255, quality=75)
    for path in (faint, tiff_file):
        assert (np.asarray(Image.open(path)) != truth).any(), "JPEG changed the numbers"
        with pytest.raises(DataError, match="JPEG file, which changes the numbers.*as PNG"):
            images.read_mask(path)
    for read in (
        lambda: images.read_labels(labels, "index", 9, {}),
        lambda: images.read_labels(drawn, "index", 2, {"255": 1}),
        lambda: images.read_mask(drawn, "index"),
    ):
        with pytest.raises(DataError, match="JPEG file, which changes the numbers.*preset binary"):
            read()
    for encoding in ("auto", "threshold"):
        np.testing.assert_array_equal(images.read_mask(drawn, encoding).pixels, truth)
    nothing = save(tmp_path / "empty.jpg", truth * 0)
    assert not images.read_mask(nothing, "index").pixels.any()


def test_parts_that_divide_the_image_hold_its_background(tmp_path):
    truth = two_values(0, 255)
    structure = save(tmp_path / "a_mask_1.png", truth)
    background = save(tmp_path / "a_mask_0.png", 255 - truth)
    with pytest.raises(DataError, match=r"a_mask_0\.png, a_mask_1\.png divide the whole image"):
        images.read_mask(f"{background}|{structure}")
    nothing = save(tmp_path / "a_mask_2.png", truth * 0)
    united = images.read_mask(f"{structure}|{nothing}").pixels
    np.testing.assert_array_equal(united, disc())


def test_advice_on_a_mask_of_numbers_fits_them(tmp_path):
    border = disc() * 1
    border[:2] = 255
    grey = save(tmp_path / "grey.png", border.astype(np.uint8))
    colours = [(k, k, 0) for k in range(256)]
    palette = palette_mask(tmp_path / "palette.png", border, colours)
    for path in (grey, palette):
        with pytest.raises(DataError, match=r"label_map=\{'1': 1, '255': 255\}.*255 too"):
            images.read_mask(path)
        ignored = images.read_mask(path, label_map={"1": 1, "255": 255}).pixels
        np.testing.assert_array_equal(ignored, border)
    soft = cv2.GaussianBlur(disc().astype(np.float32), (9, 9), 3)
    path = save(tmp_path / "soft.tif", soft)
    with pytest.raises(DataError, match="soft mask.*'threshold' cuts at 0.5"):
        images.read_mask(path)
    np.testing.assert_array_equal(images.read_mask(path, "threshold").pixels, soft > 0.5)


def test_a_label_map_of_interpolated_edges_is_refused(tmp_path):
    grey = cv2.resize(two_values(0, 255), (211, 143), interpolation=cv2.INTER_LINEAR)
    path = save(tmp_path / "m.png", grey)
    with pytest.raises(DataError, match=r"m\.png.*only along edges.*without interpolation"):
        images.read_labels(path, "index", 6, {"5": 1, "1": 2, "3": 3, "2": 4})


def test_a_label_map_of_many_small_areas_is_read(tmp_path):
    numbers = np.kron(np.arange(64).reshape(8, 8), np.ones((3, 3))).astype(np.uint8)
    mask = images.read_labels(save(tmp_path / "m.png", numbers), "index", 3, {"7": 1, "9": 2})
    np.testing.assert_array_equal(mask.pixels, (numbers == 7) + 2 * (numbers == 9))


def test_the_colours_of_a_label_map_are_in_the_advised_table(tmp_path):
    path = save(tmp_path / "m.png", paint(two_values(0, 1) * 1, [(0, 0, 0), (255, 255, 0)]))
    with pytest.raises(DataError, match=r'set mask_encoding=\{"255,255,0": 1\}, with the number'):
        images.read_labels(path, "index", 3, {})


@pytest.mark.parametrize(("value", "number"), [(255, 0), (0, 1)])
def test_a_palette_of_one_number_is_not_guessed(tmp_path, value, number):
    colours = [(255, 255, 255), (0, 0, 0)]
    path = palette_mask(tmp_path / "m.png", np.full((20, 30), number), colours)
    shown = np.asarray(Image.open(path).convert("L"))
    assert (shown == value).all()
    with pytest.raises(DataError, match=f"only number {number} of a palette.*empty or full"):
        images.read_mask(path)
    assert (images.read_mask(path, "threshold").pixels == (value > 127)).all()
    assert (images.read_mask(path, "index").pixels == number).all()


def test_a_full_mask_as_gif_is_never_read_as_empty(tmp_path):
    full, empty = (np.full((20, 30), value, np.uint8) for value in (255, 0))
    path = save(tmp_path / "full.gif", full)
    with pytest.raises(DataError, match="only number 0 of a palette.*empty or full"):
        images.read_mask(path)
    assert images.read_mask(path, "threshold").pixels.all()
    assert not images.read_mask(save(tmp_path / "empty.gif", empty)).pixels.any()
