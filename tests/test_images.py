"""Pictures: every reader, resizing and back, writing."""

import math
import os

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from seglib.errors import DataError
from seglib.formats import images, mask_pixels
from seglib.formats.images import IGNORE
from tests.helpers import BLUE, GREEN, RED, dice, disc, read_picture, save_picture


def flag(dtype=np.uint8):
    """(20, 30, 3): red above, green below left, blue below right: no two channels or axes alike."""
    picture = np.zeros((20, 30, 3), dtype)
    picture[:10], picture[10:, :15], picture[10:, 15:] = RED, GREEN, BLUE
    return picture


# Reading images


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_colour_is_rgb(tmp_path, suffix):
    path = save_picture(tmp_path / f"a.{suffix}", flag())
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
        save_picture(path, flag(), quality=95, subsampling=0)
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
    path = save_picture(tmp_path / "a.png", disc().astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], disc() * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_cut_off(tmp_path, suffix):
    rgba = np.dstack([flag(), np.full((20, 30), 77, np.uint8)])
    rgba[0, 0, 3] = 0
    np.testing.assert_array_equal(
        images.read_image(save_picture(tmp_path / f"a.{suffix}", rgba)), flag()
    )
    la = np.dstack([flag()[..., 0], rgba[..., 3]])
    image = images.read_image(save_picture(tmp_path / f"b.{suffix}", la), 1)
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
    path = save_picture(tmp_path / f"a.{suffix}", flag(), "CMYK", **options)
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
        save_picture(path, values)
    else:
        Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes()).save(path)
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], [[0, 64], [128, 255]])
    assert images.read_image(path, 3).shape == (2, 2, 3)


def test_sixteen_bit_colour_keeps_its_order(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), flag(np.uint16)[..., ::-1] * 257)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), flag())


def test_floats_are_stretched(tmp_path):
    path = save_picture(tmp_path / "a.tif", np.array([[-1, 0], [1, 3]], np.float32))
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], [[0, 64], [128, 255]])


def test_grey_and_colour_channels(tmp_path):
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    path = save_picture(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(images.read_image(path, 3), np.dstack([grey] * 3))
    image = images.read_image(save_picture(tmp_path / "colour.png", flag()), 1)
    assert image.shape == (20, 30, 1)
    # Luma weights 0.299, 0.587, 0.114 of red, green and blue.
    assert (image[0, 0, 0], image[15, 0, 0], image[15, 20, 0]) == (76, 150, 29)
    with pytest.raises(DataError, match="3 channels.*takes 5.*in_channels=3"):
        images.read_image(tmp_path / "colour.png", 5)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_files_cut_short_are_refused_by_name(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save_picture(tmp_path / name, noise)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=rf"{name}: not readable as an image"):
        images.read_image(tmp_path / name)
    with pytest.raises(DataError, match=name):
        mask_pixels.read_mask(str(tmp_path / name))


def test_files_cut_short_are_refused_after_a_library_allowed_them(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save_picture(tmp_path / "a.jpg", noise)
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
    for read in (images.read_image, lambda path: mask_pixels.read_mask(str(path))):
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
    _, _, h, w = images.fit_box((height, width), (rows, cols), resize)
    # A pixel of the frame, or one of the image where that is larger: the tip of a blob may be one.
    reach = [math.ceil(max(1, scale)) for scale in (h / height, w / width)]
    near = np.ones([2 * n + 1 for n in reach], np.uint8)
    for inner, outer in ((as_image, as_mask), (as_mask, as_image)):
        outside = inner & ~(cv2.dilate(outer.astype(np.uint8), near) > 0)
        assert not outside.any(), "more than a pixel apart"
    # A thin sliver of a blob has no pixel whose neighbours all belong to it.
    if blob[2] * min(height, width) * min(h / height, w / width) >= 3:
        assert cv2.erode(as_mask.astype(np.uint8), np.ones((3, 3), np.uint8)).any()


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


def test_real_palm_photographs(real):
    files = sorted((real("palm_images_only") / "PALM/Training/Images").iterdir())
    assert len(files) == 45
    for file in files[::5]:
        np.testing.assert_array_equal(images.read_image(file), read_picture(file))
        assert images.read_image(file).shape == (224, 224, 3)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_large_numbers_keep_their_differences(dtype):
    top = np.iinfo(dtype).max
    image = top - np.array([[300, 200], [100, 0]], dtype)
    np.testing.assert_array_equal(images.to_uint8(image), [[0, 85], [170, 255]])
    half = np.array([[0, 1000], [30000, 60000]], np.float16)
    assert images.to_uint8(half)[1].tolist() == [128, 255]
