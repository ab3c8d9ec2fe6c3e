"""Picture files as they are stored: their pixels without loss, their tags, and what is odd.

Pillow reads nearly all pictures, but it changes some without a word: of 16 bits a channel in colour
it keeps 8, numbers of PGM files are stretched, and TIFF pictures are turned by their tag. So the
header is read first, and what Pillow would change is decoded by OpenCV or tifffile, or refused.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile

from ..errors import DataError
from . import dicom_pictures, signatures, tiff

_PILLOW_FORMATS = signatures.PICTURES | {"a TGA picture": "TGA"}
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
}
SCALED = "an image is scaled to 8 bits"
# Ends of the notes on what is true of images, but not of masks.
OF_IMAGES = (SCALED, tiff.TRANSPARENCY)
_PNG_MODES = {2: "RGB", 4: "LA", 6: "RGBA"}  # colour type in the header -> mode
_CONVERTED = ("PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "RGBX")
# Pillow turns TIFF pictures by their tag. What undoes that, by the number in the tag.
TURN_BACK = {
    1: lambda pixels: pixels,
    2: lambda turned: turned[:, ::-1],
    3: lambda turned: turned[::-1, ::-1],
    4: lambda turned: turned[::-1],
    5: lambda turned: turned.swapaxes(0, 1),
    6: np.rot90,
    7: lambda turned: turned[::-1, ::-1].swapaxes(0, 1),
    8: lambda turned: np.rot90(turned, -1),
}
# How viewers turn the stored pixels. Only 6 and 8 are not undone by themselves.
TURN = {**TURN_BACK, 6: TURN_BACK[8], 8: TURN_BACK[6]}


class Header(NamedTuple):
    """What a picture file says of itself.

    Attributes:
        bits: bits a channel as stored, such as 1, 2, 8 or 16.
        orientation: how viewers turn it, by its EXIF or TIFF tag, 1 to 8; 1: not at all.
        white_is_zero: whether number 0 is white in the file; `read` inverts such pictures.
        is_jpeg: whether it is compressed as JPEG, which changes its numbers.
        notes: what is odd about the file, and what is done about it.
    """

    bits: int
    orientation: int
    white_is_zero: bool
    is_jpeg: bool
    notes: tuple[str, ...]


def header(path: str | Path) -> Header:
    """What a picture file says of itself; its pixels are not decoded.

    Raises:
        DataError: as `read`.
    """
    path = Path(path)
    if dicom_pictures.is_picture(path):
        array, _, notes = dicom_pictures.read(path)
        return Header(8 * array.dtype.itemsize, 1, False, False, notes)
    with _reading(path) as (kind, layout, picture):
        bits = layout.bits if layout else _bits(path, kind, picture)
        return _header(path, kind, picture, layout, bits)


def read(path: str | Path) -> tuple[np.ndarray, str, np.ndarray | None]:
    """The pixels as they are stored, but black is 0, and 2 and 4 bits are stretched to 0..255.

    Returns:
        (H, W) or (H, W, C) of any number type; the mode: "1", "L" (or another of grey), "LA",
        "RGB", "RGBA", or "P" for numbers of a palette; (N, 3) uint8 for a palette, else None.

    Raises:
        DataError: no such file, empty, not an image, cut short, several pictures, a variant that
            is not read, or too many pixels to be one.
    """
    path = Path(path)
    if dicom_pictures.is_picture(path):
        return *dicom_pictures.read(path)[:2], None
    with _reading(path) as (kind, layout, picture):
        if picture is None:
            return *tiff.read(path), layout.palette
        if not layout and _bits(path, kind, picture) > 8 and picture.mode not in ("I;16", "F"):
            picture.load()  # it finds damages that OpenCV does not
            return *_read_16_bits(path, kind), None
        return _read_8_bits(picture, layout)


def pixel_mm(path: str | Path) -> tuple[float, float] | None:
    """Height and width of a pixel of a picture file in mm; None where the file does not tell.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = Path(path)
    if dicom_pictures.is_picture(path):
        return dicom_pictures.pixel_mm(path)
    kind = _kind(path)
    if kind != "a TIFF picture":
        return None
    with _named_errors(path, kind):
        return tiff.pixel_mm(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[str, tiff.Layout | None, Image.Image | None]]:
    """What a picture file is, the layout of a TIFF file, and the picture opened by Pillow.

    The picture is None where the file is a TIFF of numbers that Pillow does not keep.

    Raises:
        DataError: as `read`, also for errors of libraries while the file is read.
    """
    kind = _kind(path)
    with _named_errors(path, kind):
        layout = tiff.layout(path) if kind == "a TIFF picture" else None
        if layout and layout.deep:
            yield kind, layout, None
            return
        with _opened(path, kind, layout) as picture:
            yield kind, layout, picture


def _read_8_bits(
    picture: Image.Image, layout: tiff.Layout | None
) -> tuple[np.ndarray, str, np.ndarray | None]:
    """`read` by Pillow."""
    turn_back = TURN_BACK[_orientation(picture) if layout else 1]
    picture.load()
    palette = None
    if picture.mode == "P":
        palette = _palette(picture, layout)
    elif picture.mode in _CONVERTED:
        picture = picture.convert("LA" if picture.mode == "La" else "RGB")
    return turn_back(np.asarray(picture)), picture.mode, palette


def _read_16_bits(path: Path, kind: str) -> tuple[np.ndarray, str]:
    """`read` by OpenCV, for colours and grey with transparency."""
    content = np.fromfile(path, np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise DataError(
            f"{path}: {kind} of more than 8 bits a channel, which is not read; save it as PNG or "
            "TIFF of 16 bits"
        )
    if pixels.ndim == 2:
        return pixels, "L"
    mode = "RGB" if pixels.shape[2] == 3 else "RGBA"
    if kind == "a PNG picture":
        # OpenCV makes a channel of the one colour that a PNG file may call transparent.
        mode = _PNG_MODES[int(content[25])]
    channels = {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[mode]
    return pixels[..., channels], mode


def _header(
    path: Path, kind: str, picture: Image.Image | None, layout: tiff.Layout | None, bits: int
) -> Header:
    """The header of a file; `picture` is None where Pillow is not asked."""
    turned = _orientation(picture) if picture else layout.orientation
    turned = turned if turned in TURN_BACK else 1
    white_is_zero = layout is not None and layout.photometric == 0
    notes = list(layout.notes) if layout else []
    if turned > 1:
        source = "TIFF" if layout else "EXIF"
        notes.append(
            f"{source} orientation {turned}: viewers turn this picture, here its pixels are used "
            "as they are stored; an image and its mask must be stored alike: save both without "
            "the tag where they are not"
        )
    # All faxes and many scans of 1 bit are stored so, and their meaning is clear.
    if white_is_zero and bits > 1:
        notes.append("number 0 is white in it (WhiteIsZero); it is inverted, so that black is 0")
    suffixes = _SUFFIXES.get(_PILLOW_FORMATS[kind])
    known_suffixes = {suffix for names in _SUFFIXES.values() for suffix in names}
    suffix = path.suffix.lower()
    if suffixes and suffix in known_suffixes - set(suffixes):
        notes.append(f"its name ends in {suffix}, but it is {kind}; it is read as that")
    if bits > 8:
        notes.append(f"{bits} bits a channel; {SCALED}")
    if picture is not None:
        notes += _notes_of_colours(picture)
    compression = str(picture.info.get("compression", "")) if picture else ""
    is_jpeg = kind == "a JPEG picture" or "jpeg" in compression
    return Header(bits, turned, white_is_zero, is_jpeg, tuple(notes))


def _notes_of_colours(picture: Image.Image) -> list[str]:
    """Notes on colours that are converted, and on what is left out."""
    notes = []
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") and picture.format != "JPEG":
        notes.append(f"its colours are {picture.mode}; they are converted to RGB")
    if picture.mode == "CMYK" and picture.format == "JPEG":
        notes.append("its colours are CMYK, for printing; they are converted to RGB")
    if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info:
        notes.append(tiff.TRANSPARENCY)
    profile = picture.info.get("icc_profile") or b""
    # The name of a profile is ASCII, or has two bytes a letter.
    if profile and not any(name in profile for name in (b"sRGB", b"s\0R\0G\0B", b"IEC61966-2")):
        notes.append("its colour profile (ICC) is not sRGB; it is not applied")
    if picture.format == "MPO":
        notes.append(f"it holds {picture.n_frames} pictures, as phones write; the first is used")
    return notes


def _bits(path: Path, kind: str, picture: Image.Image) -> int:
    """Bits a channel of a picture that is no TIFF file.

    Raises:
        DataError: a variant of JPEG that is not read.
    """
    with open(path, "rb") as file:
        start = file.read(signatures.N_BYTES)
    if kind == "a PNG picture":
        return start[24]
    if kind == "a JPEG 2000 picture":
        # Behind the marks of the code stream and of its sizes: 38 bytes, then the bits minus 1.
        codestream = start.find(b"\xff\x4f\xff\x51")
        return (start[codestream + 42] & 127) + 1 if codestream >= 0 else 8
    if kind == "a PGM or PPM picture" and picture.mode not in ("1", "F"):
        tokens = b" ".join(line.split(b"#")[0] for line in start.split(b"\n")[:8]).split()
        return 16 if len(tokens) > 3 and tokens[3].isdigit() and int(tokens[3]) > 255 else 8
    return 1 if picture.mode == "1" else 8


def _check_jpeg(path: Path) -> None:
    """Refuse JPEG files of more than 8 bits and the lossless kind, which Pillow calls damaged."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        frames = [
            (marker, content[position + 4])
            for marker, position in signatures.jpeg_markers(content)
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        ]
    for marker, bits in frames[:1]:
        lossless = marker in (0xC3, 0xC7, 0xCB, 0xCF)
        if bits != 8 or lossless:
            raise DataError(
                f"{path}: a {'lossless ' if lossless else ''}JPEG picture of {bits} bits a "
                "channel; expected a lossy one of 8 bits: save it as PNG or TIFF"
            )


def _kind(path: Path) -> str:
    """What the file is, one of `_PILLOW_FORMATS`.

    Raises:
        DataError: no such file, empty, no picture, or cut short where decoders do not notice.
    """
    if not path.is_file():
        raise DataError(f"{path}: {_why_no_file(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
    kind = signatures.kind_of(path)
    if kind is None and path.suffix.lower() == ".tga":  # a format without a signature
        kind = "a TGA picture"
    if kind is None:
        raise DataError(
            f"{path}: not readable as an image: its first bytes are those of no known format; "
            "expected PNG, JPEG, TIFF, BMP or GIF: open it in the program that it comes from, and "
            "save it as PNG"
        )
    if kind not in _PILLOW_FORMATS:
        raise DataError(
            f"{path}: not readable as an image: it is {kind}; {signatures.advice_for(kind)}"
        )
    # Without their ends, these are decoded all the same where zeros stand in place of the rest.
    if kind in ("a JPEG picture", "a WebP picture") and signatures.is_cut_short(path):
        raise DataError(_why_unreadable(path, kind))
    if kind == "a JPEG picture":
        _check_jpeg(path)
    return kind


@contextlib.contextmanager
def _opened(path: Path, kind: str, layout: tiff.Layout | None) -> Iterator[Image.Image]:
    """The open picture of a file, whose pixels are not decoded yet."""
    # Another library may have switched this on; Pillow would then fill truncated files with grey.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    with Image.open(path, formats=[_PILLOW_FORMATS[kind]]) as picture:
        if layout:
            picture.seek(layout.page)
        else:
            _check_single(path, picture)
        yield picture


@contextlib.contextmanager
def _named_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of decoders, which are of a dozen kinds, into errors that name the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(_why_unreadable(path, kind, error)) from error


def _orientation(picture: Image.Image) -> int:
    """The orientation tag of an open picture, 1 where it has none or a senseless one."""
    if picture.format == "PNG":
        # Its tags may follow the pixels, and Pillow would decode those to look for them.
        chunks = signatures.png_chunks(picture.filename)
        if not chunks & {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}:
            return 1
    value = picture.getexif().get(0x0112, 1)
    return value if value in TURN_BACK else 1


def _why_unreadable(path: Path, kind: str, error: Exception | None = None) -> str:
    """The message for a picture that cannot be decoded."""
    start = f"{path}: not readable as an image: {kind} that"
    if error is None or signatures.is_cut_short(path):
        return f"{start} is cut short (its end is missing); copy it again"
    return (
        f"{start} cannot be decoded ({type(error).__name__}: {error}); it is damaged, or of a "
        "variant that is not supported: open it in another program, and save it as PNG"
    )


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file; rename it, or put the file in its place"
    if path.is_symlink():
        return "a link that leads nowhere; copy the file itself"
    if os.path.lexists(path):
        return "not a plain file; copy the file itself"
    return "no such file; check the path and the spelling of its suffix"


def _check_single(path: Path, picture: Image.Image) -> None:
    """Refuse files of several frames or pages."""
    # Phones write MPO files: the photograph, and behind it a preview or a second view.
    n_pictures = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if n_pictures > 1:
        raise DataError(
            f"{path}: a file of {n_pictures} pictures (frames or pages); expected one: split it, "
            "a file each"
        )


def _palette(picture: Image.Image, layout: tiff.Layout | None) -> np.ndarray:
    """The colours (256, 3) uint8 of a palette image; black where the palette is shorter."""
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if layout and layout.palette is not None:
        colours = layout.palette
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    return palette
