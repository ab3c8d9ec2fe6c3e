"""Picture files of every depth: their numbers as they were written, tags, notes, and refusals."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from seglib.errors import DataError
from seglib.formats import codecs, images, mask_pixels


def noise(shape, top=65535):
    return np.random.default_rng(0).integers(0, top, shape, np.uint16, endpoint=True)


def chunk(kind, content):
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


def rows_of(pixels, bits):
    """The rows (H, W) or (H, W, C) as PNG packs them, each behind its filter byte."""
    rows = []
    for row in pixels:
        if bits == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
        else:
            digits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)
            rows.append(b"\0" + np.packbits(digits[:, 8 - bits :]).tobytes())
    return b"".join(rows)


def write_png(path, pixels, bits, colour_type, extra=b"", interlaced=False):
    """A PNG file written by hand, so that no library decides what lies in it."""
    height, width = pixels.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first row and column, and their steps
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[row::down, column::across] for row, column, down, across in passes]
    body = b"".join(rows_of(part, bits) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, int(interlaced))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )
    return path


PNG_KINDS = {"L": (0, 1), "RGB": (2, 3), "LA": (4, 2), "RGBA": (6, 4)}


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", PNG_KINDS)
def test_png_of_16_bits(tmp_path, mode, interlaced):
    colour_type, channels = PNG_KINDS[mode]
    pixels = noise((13, 17, channels))
    path = write_png(tmp_path / "a.png", pixels, 16, colour_type, interlaced=interlaced)
    stored, stored_mode, _ = images.read_pixels(path)
    assert stored.dtype == np.uint16 and stored_mode == ("I;16" if mode == "L" else mode)
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)
    assert codecs.header(path).bits == 16
    # The rule of `to_uint8`, over all colours together and without the transparency.
    colours = pixels[..., : 3 if channels > 2 else 1].astype(float)
    low, high = colours.min(), colours.max()
    expected = np.rint((colours - low) / (high - low) * 255)
    difference = images.read_image(path, colours.shape[2]) - expected
    assert np.abs(difference).max() <= 1 and (difference == 0).mean() > 0.99


@pytest.mark.parametrize("colour_type", [0, 2])
def test_a_transparent_colour_is_no_channel(tmp_path, colour_type):
    pixels = noise((13, 17, 3 if colour_type else 1))
    transparent = chunk(b"tRNS", pixels[0, 0].astype(">u2").tobytes())
    path = write_png(tmp_path / "a.png", pixels, 16, colour_type, transparent)
    stored, mode, _ = images.read_pixels(path)
    assert mode == ("RGB" if colour_type else "I;16")
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)
    assert any("transparency" in note for note in images.notes_of(path))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_few_bits(tmp_path, bits, interlaced):
    numbers = noise((13, 16), 2**bits - 1)
    path = write_png(tmp_path / "a.png", numbers, bits, 0, interlaced=interlaced)
    assert codecs.header(path).bits == bits
    shown = numbers * (255 // (2**bits - 1))
    np.testing.assert_array_equal(images.read_image(path, 1)[..., 0], shown)
    colours = np.arange(3 * 2**bits, dtype=np.uint8).reshape(-1, 3)
    palette = chunk(b"PLTE", colours.tobytes())
    path = write_png(tmp_path / "p.png", numbers, bits, 3, palette, interlaced)
    np.testing.assert_array_equal(images.read_pixels(path)[0], numbers)
    np.testing.assert_array_equal(images.read_image(path), colours[numbers])


@pytest.mark.parametrize("value", [1, 255, 65535])
@pytest.mark.parametrize("mode", PNG_KINDS)
def test_masks_of_16_bits(tmp_path, mode, value):
    colour_type, channels = PNG_KINDS[mode]
    truth = np.zeros((40, 50), np.uint8)
    truth[10:30, 12:40] = 1
    pixels = np.repeat(truth[..., None].astype(np.uint16) * value, channels, axis=2)
    if mode in ("LA", "RGBA"):
        pixels[..., -1] = 65535
    path = str(write_png(tmp_path / "m.png", pixels, 16, colour_type))
    np.testing.assert_array_equal(mask_pixels.read_mask(path).pixels, truth)
    np.testing.assert_array_equal(mask_pixels.read_mask(path, "index").pixels, truth)
    labels = mask_pixels.read_labels(path, "index", 2, {} if value == 1 else {str(value): 1})
    np.testing.assert_array_equal(labels.pixels, truth)


def test_a_damaged_png_of_16_bits_is_refused(tmp_path):
    path = write_png(tmp_path / "a.png", noise((40, 50, 3)), 16, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png.*cannot be decoded"):
        images.read_pixels(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_2000_of_16_bits(tmp_path, channels):
    pixels = noise((40, 50, channels))
    path = tmp_path / "a.jp2"
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    assert cv2.imwrite(str(path), pixels[..., ::-1], lossless)
    stored, _, _ = images.read_pixels(path)
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)
    assert codecs.header(path).bits == 16


@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_formats_of_16_bits(tmp_path, channels, top):
    """Pillow stretches their numbers, so that labels would be other numbers."""
    pixels = noise((13, 17, channels), top)
    head = f"P{6 if channels == 3 else 5}\n# a comment\n17 13\n{top}\n".encode()
    (tmp_path / "a.ppm").write_bytes(head + pixels.astype(">u2").tobytes())
    stored, _, _ = images.read_pixels(tmp_path / "a.ppm")
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)


@pytest.mark.parametrize(
    ("marker", "bits", "message"), [(0xC1, 12, "of 12 bits"), (0xC3, 8, "a lossless JPEG")]
)
def test_jpeg_that_is_not_of_8_bits_is_refused(tmp_path, marker, bits, message):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 1], content[frame + 4] = marker, bits
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg.*{message}.*save it as"):
        images.read_image(tmp_path / "a.jpg")


def test_half_of_a_jpeg_and_zeros_is_cut_short(tmp_path):
    """Downloads that broke off may have their full size. Pillow reads such files without a word."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.jpg", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))
        with pytest.raises(DataError, match=rf"{name}.*cut short.*copy it again"):
            images.read_image(tmp_path / name)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_no_orientation_tag_turns_the_pixels(tmp_path, name, tag):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    stored = images.read_pixels(tmp_path / name)[0]
    if name == "a.jpg":
        Image.fromarray(pixels).save(tmp_path / "plain.jpg")
        pixels = images.read_pixels(tmp_path / "plain.jpg")[0]
    np.testing.assert_array_equal(stored, pixels)
    assert images.exif_orientation(tmp_path / name) == tag
    assert len([n for n in images.notes_of(tmp_path / name) if "orientation" in n]) == (tag > 1)


def test_plain_pictures_have_no_notes(tmp_path):
    for mode in ("1", "L", "P", "RGB"):
        for suffix in ("png", "tif", "bmp", "gif", "jpg"):
            if suffix == "jpg" and mode in ("1", "P"):
                continue
            picture = Image.fromarray(noise((13, 17, 3), 255).astype(np.uint8)).convert(mode)
            picture.save(tmp_path / f"a.{suffix}")
            assert images.notes_of(tmp_path / f"a.{suffix}") == (), (mode, suffix)


def test_notes(tmp_path):
    picture = Image.fromarray(noise((13, 17, 3), 255).astype(np.uint8))
    picture.save(tmp_path / "a.png", "JPEG")
    picture.convert("CMYK").save(tmp_path / "b.jpg")
    picture.convert("RGBA").save(tmp_path / "c.png")
    picture.save(tmp_path / "d.png", icc_profile=b"\0" * 36 + b"acsp" + b"Display P3")
    picture.save(tmp_path / "e.jpg", "MPO", save_all=True, append_images=[picture])
    expected = {
        "a.png": "its name ends in .png, but it is a JPEG picture",
        "b.jpg": "its colours are CMYK",
        "c.png": "it has transparency",
        "d.png": "its colour profile (ICC) is not sRGB",
        "e.jpg": "it holds 2 pictures, as phones write; the first is used",
    }
    for name, text in expected.items():
        [note] = images.notes_of(tmp_path / name)
        assert note.startswith(text), name
        images.read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise((13, 17), 255).astype(np.uint8) // n) for n in (1, 2, 3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"a\.{suffix}: a file of 3 pictures.*split it"):
        images.read_image(tmp_path / f"a.{suffix}")


def test_inverted_cmyk_of_adobe_is_read_as_colours(tmp_path):
    """Adobe writes CMYK inverted; OpenCV, which knows that too, is the reference."""
    colours = np.kron([[[200, 30, 40], [20, 180, 60]]], np.ones((24, 24, 1))).astype(np.uint8)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    content = (tmp_path / "a.jpg").read_bytes()
    assert b"Adobe" in content
    expected = cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1].astype(int)
    assert np.abs(images.read_image(tmp_path / "a.jpg") - expected).max() <= 4


def test_errors_name_what_the_file_is(tmp_path):
    contents = {
        b"8BPS\0\1" + bytes(50): "a Photoshop document.*save it as PNG",
        b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer; .*git lfs pull",
        b"<!doctype html><html>": "an HTML page; the download failed",
        b"NRRD0004\n": "an NRRD volume; save it as NIfTI",
        b"\x07\x91\x83\xfe" * 20: "no known format; expected PNG",
    }
    for content, message in contents.items():
        (tmp_path / "a.png").write_bytes(content)
        for read in (
            images.read_image,
            images.notes_of,
            lambda path: mask_pixels.read_mask(str(path)),
        ):
            with pytest.raises(DataError, match=rf"a\.png: not readable.*{message}") as error:
                read(tmp_path / "a.png")
            assert "copy it again" not in str(error.value)
