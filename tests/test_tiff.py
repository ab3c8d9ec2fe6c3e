"""TIFF files of every number type and layout: the pixels as they were written, or a refusal."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from seglib.errors import DataError
from seglib.formats import codecs, images, mask_pixels, tiff

INTEGERS = [np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32]
FLOATS = [np.float16, np.float32, np.float64]
# How tifffile writes colours (H, W, 3) and grey (H, W).
LAYOUTS = {
    "strips": {},
    "deflate": {"compression": "zlib"},
    "deflate, predictor": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "big": {"bigtiff": True},
    "big, big-endian, tiles": {"bigtiff": True, "byteorder": ">", "tile": (16, 32)},
}


def noise(shape, dtype):
    """Numbers over the whole range of the type; floats in 0..1."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_numbers_are_read_as_they_were_written(tmp_path, dtype, layout):
    options = LAYOUTS[layout]
    if np.dtype(dtype).kind == "f" and "predictor" in options:
        pytest.skip("writing the predictor of floats needs imagecodecs")
    for name, shape in (("L", (21, 34)), ("RGB", (21, 34, 3)), ("RGBA", (21, 34, 4))):
        pixels = noise(shape, dtype)
        colours = {} if name == "L" else {"photometric": "rgb"}
        tifffile.imwrite(tmp_path / "a.tif", pixels, **options, **colours)
        stored, mode, palette = images.read_pixels(tmp_path / "a.tif")
        assert (mode, stored.dtype, palette) == (name, dtype, None)
        np.testing.assert_array_equal(stored, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colours_in_planes(tmp_path, dtype):
    planes = noise((3, 21, 34), dtype)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    stored, mode, _ = images.read_pixels(tmp_path / "a.tif")
    np.testing.assert_array_equal(stored, np.moveaxis(planes, 0, -1))
    assert mode == "RGB"


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_lzw_of_opencv(tmp_path, dtype, channels):
    """OpenCV writes LZW, which tifffile alone does not read."""
    pixels = noise((21, 34, channels), dtype)
    if np.dtype(dtype).kind == "f" and channels == 3:
        pytest.skip("OpenCV writes such colours with a loss")
    assert cv2.imwrite(
        str(tmp_path / "a.tif"),
        pixels[..., ::-1],
        [cv2.IMWRITE_TIFF_COMPRESSION, 5],
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].compression == 5
    stored, _, _ = images.read_pixels(tmp_path / "a.tif")
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "16 bits, LZW"])
def test_no_orientation_tag_turns_the_pixels(tmp_path, orientation, kind):
    pixels = noise((21, 34, 3), np.uint8 if kind == "8 bits" else np.uint16)
    tag = (274, 3, 1, orientation, True)
    path = tmp_path / "a.tif"
    if kind == "16 bits, LZW":
        assert cv2.imwrite(str(path), pixels[..., ::-1])
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as file:
            # The orientation in the place of a tag that readers do not need: SampleFormat 1.
            entry = file.pages[0].tags[339].offset
        content[entry : entry + 12] = np.array([274, 3, 1, 0, orientation, 0], "<u2").tobytes()
        path.write_bytes(content)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=[tag])
    np.testing.assert_array_equal(images.read_pixels(path)[0], pixels)
    assert images.exif_orientation(path) == orientation
    notes = [note for note in images.notes_of(path) if f"TIFF orientation {orientation}" in note]
    assert len(notes) == (orientation > 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_white_is_zero(tmp_path, dtype):
    grey = noise((21, 34), dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey, photometric="miniswhite")
    stored, _, _ = images.read_pixels(path)
    np.testing.assert_array_equal(stored, np.iinfo(dtype).max - grey)
    assert any("WhiteIsZero" in note for note in images.notes_of(path))


def test_white_is_zero_of_one_bit(tmp_path):
    mask = noise((21, 34), np.uint8) > 200
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite")
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.tif")[0], ~mask)
    # Faxes are stored so: nothing to note.
    assert images.notes_of(tmp_path / "a.tif") == ()


def test_transparency(tmp_path):
    path = tmp_path / "a.tif"
    for dtype in (np.uint8, np.uint16):
        pixels = noise((21, 34, 2), dtype)
        tifffile.imwrite(
            path,
            pixels,
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        )
        stored, mode, _ = images.read_pixels(path)
        assert mode == "LA"
        np.testing.assert_array_equal(stored, pixels)
        assert any("transparency" in note for note in images.notes_of(path)), dtype


def test_colours_multiplied_by_their_transparency_are_divided(tmp_path):
    colours = np.full((4, 3, 3), (60000, 30000, 6000), np.uint16)
    alpha = np.array([65535, 32768, 13107, 0], np.uint16)[:, None, None]
    multiplied = np.rint(colours * (alpha / 65535)).astype(np.uint16)
    pixels = np.dstack([multiplied, np.broadcast_to(alpha, (4, 3, 1))])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    stored, mode, _ = images.read_pixels(tmp_path / "a.tif")
    assert mode == "RGBA"
    assert np.abs(stored[:3, :, :3].astype(int) - colours[:3]).max() <= 3
    assert not stored[3, :, :3].any()


@pytest.mark.parametrize("factor", [257, 1])
def test_palettes_of_16_and_of_8_bits(tmp_path, factor):
    """Colour maps have 16 bits; some programs write numbers of 8 bits into them."""
    colours = np.zeros((256, 3), np.uint16)
    colours[:3] = (10, 20, 30), (250, 5, 6), (7, 200, 9)
    numbers = np.repeat([[0, 1, 2]], 4, axis=0).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers, photometric="palette", colormap=(colours * factor).T)
    stored, mode, palette = images.read_pixels(path)
    assert mode == "P"
    np.testing.assert_array_equal(stored, numbers)
    np.testing.assert_array_equal(palette, colours)
    np.testing.assert_array_equal(images.read_image(path)[0], colours[:3])


def test_a_palette_of_65536_colours(tmp_path):
    colours = noise((3, 65536), np.uint16)
    numbers = noise((21, 34), np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(images.read_image(path), colours.T[numbers] >> 8)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(tmp_path, bits):
    """A file written by hand: grey of 1, 2 and 4 bits, white in the largest number."""
    numbers = np.arange(32, dtype=np.uint8).reshape(4, 8) % 2**bits
    packed = np.packbits(np.unpackbits(numbers[..., None], axis=2)[..., 8 - bits :])
    write_tiff(tmp_path / "a.tif", packed.tobytes(), 8, 4, bits)
    stored, _, _ = images.read_pixels(tmp_path / "a.tif")
    assert codecs.header(tmp_path / "a.tif").bits == bits
    np.testing.assert_array_equal(stored, numbers * (255 // (2**bits - 1)) if bits > 1 else numbers)


def write_tiff(path, data, width, height, bits, sample_format=1):
    """A grey TIFF file of one strip, written by hand: little-endian, no compression."""
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, height),
        (279, len(data)),
        (339, sample_format),
    ]
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, value in entries:
        header += tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    path.write_bytes(header.ljust(200, b"\0") + data)


def test_twelve_bits(tmp_path):
    """Two numbers in three bytes, as cameras and detectors write them."""
    numbers = np.arange(0, 4096, 17, dtype=np.uint16)[:240].reshape(12, 20)
    bits = np.unpackbits(numbers.astype(">u2").view(np.uint8).reshape(240, 2), axis=1)[:, 4:]
    write_tiff(tmp_path / "a.tif", np.packbits(bits).tobytes(), 20, 12, 12)
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.tif")[0], numbers)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_compressions_of_pillow(tmp_path, compression):
    colours = np.kron(noise((3, 4, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    Image.fromarray(colours).save(tmp_path / "a.tif", compression=compression)
    stored, mode, _ = images.read_pixels(tmp_path / "a.tif")
    assert mode == "RGB"
    assert np.abs(stored.astype(int) - colours).mean() <= (4 if compression == "jpeg" else 0)


def test_thumbnails_and_pyramids_are_not_the_picture(tmp_path):
    full, small = noise((64, 80, 3), np.uint16), noise((32, 40, 3), np.uint16)
    path = tmp_path / "a.tif"
    for order in ("thumbnail first", "full first", "pyramid below"):
        with tifffile.TiffWriter(path) as file:
            if order == "thumbnail first":
                file.write(small, photometric="rgb", subfiletype=1)
            subifds = 1 if order == "pyramid below" else None
            file.write(full, photometric="rgb", subifds=subifds)
            if order != "thumbnail first":
                file.write(small, photometric="rgb", subfiletype=1)
        np.testing.assert_array_equal(images.read_pixels(path)[0], full)
        assert any("picture in full size is used" in note for note in images.notes_of(path)), order


STACKS = {
    "pages of a TIFF, 21x34": {"metadata": None},
    "ImageJ stack": {"imagej": True},
    "OME-TIFF": {"ome": True},
}


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stacks_are_refused_with_what_they_hold(tmp_path, kind, dtype):
    stack = noise((5, 21, 34), dtype)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **STACKS[kind])
    for read in (images.read_image, images.notes_of, lambda path: mask_pixels.read_mask(str(path))):
        with pytest.raises(DataError, match=rf"a\.tif: a file of 5 pictures.*{kind}.*split it"):
            read(tmp_path / "a.tif")


def test_an_imagej_stack_behind_one_page(tmp_path):
    """Stacks beyond 4 GB have tags for their first slice only."""
    tifffile.imwrite(tmp_path / "a.tif", noise((5, 21, 34), np.uint16), imagej=True)
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, second = file.pages[0].offset, file.pages[1].offset
    n_tags = int.from_bytes(content[first : first + 2], "little" if content[:1] == b"I" else "big")
    end = first + 2 + 12 * n_tags
    assert int.from_bytes(content[end : end + 4], "little" if content[:1] == b"I" else "big") == (
        second
    )
    (tmp_path / "a.tif").write_bytes(content[:end] + bytes(4) + content[end + 4 :])
    with pytest.raises(DataError, match="a file of 5 pictures.*ImageJ"):
        images.read_image(tmp_path / "a.tif")


def test_what_is_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    refused = {
        "complex": lambda: tifffile.imwrite(path, np.zeros((9, 9), np.complex64)),
        "WhiteIsZero": lambda: tifffile.imwrite(
            path, np.zeros((9, 9), np.float32), photometric="miniswhite"
        ),
        "of 16 bits in the colours SEPARATED": lambda: tifffile.imwrite(
            path, np.zeros((9, 9, 4), np.uint16), photometric="separated"
        ),
        "5 channels of which": lambda: tifffile.imwrite(
            path, np.zeros((9, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig"
        ),
        "picture of 10 bits a channel": lambda: write_tiff(path, bytes(200), 8, 10, 10),
        "undefined": lambda: write_tiff(path, bytes(200), 8, 10, 16, sample_format=4),
    }
    for message, write in refused.items():
        write()
        with pytest.raises(DataError, match=rf"a\.tif.*{message}"):
            images.read_image(path)


def test_cut_short_at_every_place(tmp_path):
    path = tmp_path / "a.tif"
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16), "bigtiff": True}):
        tifffile.imwrite(path, noise((40, 50, 3), np.uint16), photometric="rgb", **options)
        whole = path.read_bytes()
        for share in (0.05, 0.5, 0.9, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(DataError, match=r"a\.tif.*cut short.*copy it again"):
                images.read_image(path)


def test_layout_names_the_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise((4, 4), np.uint8), subfiletype=1)
        file.write(noise((8, 8), np.uint8))
    layout = tiff.layout(tmp_path / "a.tif")
    assert (layout.page, layout.bits, layout.deep) == (1, 8, False)
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.tif")[0], noise((8, 8), "u1"))


def test_pages_without_end(tmp_path):
    """A damaged file whose page is followed by itself."""
    write_tiff(tmp_path / "a.tif", bytes(80), 8, 10, 8)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    end = 8 + 2 + 12 * int.from_bytes(content[8:10], "little")
    page = (end + 8).to_bytes(4, "little")
    content[end : end + 4] = page
    content[end + 8 : end + 14] = b"\0\0" + page  # no tags, and the next page is this one
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: a file of 1000 or more pictures"):
        images.read_image(tmp_path / "a.tif")


# ---- the size of a pixel


def stated_pixel(path, **options):
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), **options)
    return tiff.pixel_mm(path)


@pytest.mark.parametrize(
    "unit, expected",
    [("micron", (0.0005, 0.00025)), ("um", (0.0005, 0.00025)), ("mm", (0.5, 0.25))]
    + [(r"\u00B5m", (0.0005, 0.00025)), ("cm", (5, 2.5)), ("inch", None), ("pixel", None)],
)
def test_imagej_states_the_size_of_a_pixel_in_its_unit(tmp_path, unit, expected):
    pixel = stated_pixel(
        tmp_path / "a.tif", imagej=True, resolution=(4, 2), metadata={"unit": unit}
    )
    assert pixel == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    "unit, expected",
    [({}, (0.0005, 0.00025)), ("µm", (0.0005, 0.00025)), ("mm", (0.5, 0.25)), ("pixel", None)],
)
def test_ome_states_the_size_of_a_pixel(tmp_path, unit, expected):
    metadata = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    pixel = stated_pixel(tmp_path / "a.ome.tif", metadata=metadata)
    assert pixel == (expected and pytest.approx(expected))


def test_the_resolution_of_a_printer_is_no_size_of_a_pixel(tmp_path):
    options = {"resolution": (300, 300), "resolutionunit": "INCH"}
    assert stated_pixel(tmp_path / "a.tif", **options) is None
    assert stated_pixel(tmp_path / "b.tif", imagej=True) is None
    assert stated_pixel(tmp_path / "c.ome.tif", metadata={"PhysicalSizeX": 0.25}) is None
