"""TIFF files: which of the pictures in a file is meant, and its pixels without loss.

A TIFF file may hold any number type, several pages, thumbnails and channels of unknown meaning.
Pillow reads 8 bits of it rightly; everything deeper is read by tifffile, and by OpenCV where
tifffile lacks the decoder of a compression. What none of them reads is refused by name.
"""

import itertools
import logging
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

from ..errors import DataError
from . import orientation

MAX_PAGES = 1000  # of which the tags are read
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # values of the tag SampleFormat
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)  # of PhotometricInterpretation
_CHANNELS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1}
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType: a smaller copy, a transparency mask
_ASSOCIATED_ALPHA = 1  # a value of ExtraSamples: colours are multiplied by the transparency
_ALPHA = (_ASSOCIATED_ALPHA, 2, 999)  # 999: written by an old CorelDRAW
# Units of length in OME-TIFF and ImageJ, in mm.
UNITS_MM = {"nm": 1e-6, "mm": 1.0, "cm": 10.0}
UNITS_MM |= dict.fromkeys(("µm", "\u03bcm", "\\u00B5m", "um", "micron", "microns"), 1e-3)
# The note on a channel of transparency.
TRANSPARENCY = "it has transparency, which an image is read without"


class Layout(NamedTuple):
    """How the picture of a TIFF file is stored.

    Attributes:
        page: its number among the pages of the file; None where it lies in a sub-directory.
        bits: bits a channel.
        deep: whether Pillow would lose something of it, so that `read` must decode it.
        photometric: the tag PhotometricInterpretation; 0 is white in number 0.
        orientation: the tag Orientation, 1 where it is missing.
        palette: (N, 3) uint8, or None.
        notes: what was left out of the file.
    """

    page: int | None
    bits: int
    deep: bool
    photometric: int
    orientation: int
    palette: np.ndarray | None
    notes: tuple[str, ...]


def layout(path: str | Path) -> Layout:
    """How the picture of a TIFF file is stored; no pixels are read.

    Raises:
        DataError: cut short, damaged, several pictures, or number types that are not read.
    """
    with _opened(path) as tiff:
        page, notes = _the_picture(path, tiff)
        _check(path, page)
        notes = (*notes, *_left_out_channels(path, page))
        deep = _is_deep(page, tiff)
        if deep and _has_alpha(page):
            notes = (*notes, TRANSPARENCY)
        tag = page.tags.get(274)
        return Layout(
            page=page.index if isinstance(page.index, int) else None,
            bits=int(page.bitspersample),
            deep=deep,
            photometric=int(page.photometric),
            orientation=int(tag.value) if tag and isinstance(tag.value, int) else 1,
            palette=None if page.colormap is None else colour_map(page.colormap),
            notes=notes,
        )


def read(path: str | Path) -> tuple[np.ndarray, str]:
    """The pixels of a picture that is `deep`, as they are stored, with black in number 0.

    Returns:
        (H, W) or (H, W, C), and the mode: "L", "LA", "RGB", "RGBA" or "P" (palette).

    Raises:
        DataError: as `layout`, or a compression that is not read.
    """
    with _opened(path) as tiff:
        page, _ = _the_picture(path, tiff)
        _check(path, page)
        pixels = _decoded(path, page)  # (H, W, C)
        n_colours = _CHANNELS[int(page.photometric)]
        if page.photometric == _WHITE_IS_ZERO:
            pixels = pixels.copy()
            pixels[..., 0] = _inverted(pixels[..., 0], int(page.bitspersample))
        colours = pixels[..., :n_colours]
        if _has_alpha(page):
            alpha = pixels[..., n_colours]
            if page.extrasamples and page.extrasamples[0] == _ASSOCIATED_ALPHA:
                colours = _divided_by_alpha(colours, alpha)
            return np.dstack([colours, alpha]), "LA" if n_colours == 1 else "RGBA"
        if n_colours == 3:
            return colours, "RGB"
        return colours[..., 0], "P" if page.photometric == _PALETTE else "L"


def pixel_mm(path: str | Path) -> tuple[float, float] | None:
    """Height and width of a pixel in mm as OME-TIFF and ImageJ write them; None where unknown.

    The resolution of other files is not used, as it is that of a printer or a screen.
    """
    with _opened(path) as tiff:
        if tiff.ome_metadata:
            sizes = [ome_size(tiff.ome_metadata, axis) for axis in "YX"]
        elif tiff.is_imagej:
            unit_mm = UNITS_MM.get(str((tiff.imagej_metadata or {}).get("unit")), 0)
            tags = [tiff.pages[0].tags.get(name) for name in ("YResolution", "XResolution")]
            sizes = [_imagej_size(tag.value) * unit_mm if tag else 0 for tag in tags]
        else:
            return None
    spacing = orientation.known_spacing([1, *sizes])
    return spacing and spacing[1:]


def ome_size(metadata: str, axis: str) -> float:
    """The size of a pixel along "X" or "Y" in mm by the XML of an OME-TIFF; 0 where unknown."""
    size = re.search(rf'\bPhysicalSize{axis}="(\d+\.?\d*(?:[eE][+-]?\d+)?)"', metadata)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', metadata)
    unit_mm = UNITS_MM.get(unit[1] if unit else "µm", 0)  # the default of the standard
    return float(size[1]) * unit_mm if size else 0


def _imagej_size(resolution: object) -> float:
    """The size of a pixel in the unit of the file; 0 where the tag has no fraction.

    Args:
        resolution: the value of the tag, pixels in a unit as (numerator, denominator).
    """
    if not isinstance(resolution, tuple) or len(resolution) != 2 or not resolution[0]:
        return 0
    return resolution[1] / resolution[0]


def colour_map(table: np.ndarray) -> np.ndarray:
    """A TIFF colour map (3, N) of 16 bits as (N, 3) uint8.

    Some programs write 8-bit numbers into it. As libtiff does, they are taken for what they are
    where no number of the map needs more.
    """
    table = np.asarray(table).T
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)


def _opened(path: str | Path) -> tifffile.TiffFile:
    # tifffile logs what is odd about a file to the screen; what matters is refused or noted here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile.TiffFile(path)


def _the_picture(
    path: str | Path, tiff: tifffile.TiffFile
) -> tuple[tifffile.TiffPage, tuple[str, ...]]:
    """The one picture of a file that is neither a smaller copy nor a mask, and a note on others."""
    # A damaged file may seem to have pages without end.
    pages = [page.aspage() for page in itertools.islice(tiff.pages, MAX_PAGES)]
    whole = [page for page in pages if not _subfile(page) & (_REDUCED | _MASK)]
    if not whole:  # raw files of cameras begin with a preview and keep the picture below it
        below = [sub.aspage() for page in pages for sub in (page.pages or ())]
        whole = [page for page in below if not _subfile(page) & (_REDUCED | _MASK)] or pages[:1]
    n_pictures = len(whole)
    if n_pictures == 1 and tiff.is_imagej:
        # ImageJ writes large stacks as one page, which the other slices follow without tags.
        n_pictures = int((tiff.imagej_metadata or {}).get("images", 1))
    if n_pictures == 1:
        n_pictures = int(whole[0].imagedepth)
    if n_pictures != 1:
        raise DataError(f"{path}: {_several(tiff, whole, n_pictures)}")
    n_others = len(pages) - len(whole) + sum(len(page.pages or ()) for page in pages)
    notes = ()
    if n_others > 0:
        what = "a smaller copy or mask" if n_others == 1 else f"{n_others} smaller copies or masks"
        notes = (f"the file also holds {what} of the picture; the picture in full size is used",)
    return whole[0], notes


def _subfile(page: tifffile.TiffPage) -> int:
    return int(page.subfiletype or 0)


def _several(tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], n_pictures: int) -> str:
    """The message for a file of several pictures: how many of which kind and size."""
    kinds = {
        "slices of a whole-slide image (Aperio)": tiff.is_svs,
        "parts of a whole-slide image (Hamamatsu)": tiff.is_ndpi,
        "parts of a whole-slide image (Leica)": tiff.is_scn,
        "slices or channels of an ImageJ stack": tiff.is_imagej,
        "slices or channels of an OME-TIFF": tiff.is_ome,
        "pictures of a Zeiss LSM file": tiff.is_lsm,
    }
    kind = next((kind for kind, applies in kinds.items() if applies), "pages of a TIFF")
    sizes = [f"{page.imagelength}x{page.imagewidth}" for page in pages]
    sizes = list(dict.fromkeys(sizes))
    listed = ", ".join(sizes[:3]) + (", …" if len(sizes) > 3 else "")
    count = f"{n_pictures} or more" if n_pictures >= MAX_PAGES else str(n_pictures)
    return (
        f"a file of {count} pictures ({kind}, {listed}); expected one: split it, by python -m "
        "seglib prepare --source_images DIR --output DIR --tiff_pages volume (slices of a volume) "
        "or --tiff_pages pictures (a file each); predict --image_path FILE takes --tiff_pages too"
    )


def _check(path: str | Path, page: tifffile.TiffPage) -> None:
    """Refuse what is cut short, too large, or of a number type or meaning that is not read."""
    size = Path(path).stat().st_size
    segments = zip(page.dataoffsets, page.databytecounts)
    if any(offset + n_bytes > size for offset, n_bytes in segments):
        raise DataError(
            f"{path}: not readable as an image: a TIFF picture that is cut short (its end is "
            "missing); copy it again"
        )
    n_pixels = int(page.imagelength) * int(page.imagewidth)
    if n_pixels > 2 * (Image.MAX_IMAGE_PIXELS or n_pixels):
        raise DataError(
            f"{path}: {n_pixels} pixels, more than a picture has; cut it into parts, or save a "
            "smaller copy"
        )
    if not n_pixels or not page.dataoffsets:
        raise DataError(f"{path}: a TIFF file without pixels; export it again")
    sample_format, photometric = int(page.sampleformat), int(page.photometric)
    names = {4: "undefined", 5: "complex integers", 6: "complex numbers"}
    numbers = names.get(sample_format)
    if numbers is None and page.dtype is None:
        numbers = f"of {page.bitspersample} bits a channel"
    if numbers is None and sample_format == _FLOAT and photometric == _WHITE_IS_ZERO:
        numbers = "floats of which small ones are white (WhiteIsZero)"
    if numbers is None and photometric not in _CHANNELS and not _is_byte(page):
        numbers = f"of {page.bitspersample} bits in the colours {page.photometric.name}"
    if numbers:
        raise DataError(
            f"{path}: a TIFF picture whose numbers are {numbers}; expected integers or floats in "
            "grey or RGB: open it in the program that it comes from, and save it as such"
        )


def _is_byte(page: tifffile.TiffPage) -> bool:
    return page.bitspersample <= 8 and page.sampleformat == _UNSIGNED


def _is_deep(page: tifffile.TiffPage, tiff: tifffile.TiffFile) -> bool:
    """Whether Pillow would change or refuse the pixels."""
    if page.bitspersample == 12:  # grey of 12 bits, which tifffile alone does not unpack
        return not (tiff.byteorder == "<" and page.photometric == _BLACK_IS_ZERO)
    if not _is_byte(page) or not isinstance(page.index, int):
        return True
    # Pillow does not open big TIFF files of this byte order.
    return tiff.is_bigtiff and tiff.byteorder == ">"


def _has_alpha(page: tifffile.TiffPage) -> bool:
    n_extra = page.samplesperpixel - _CHANNELS[int(page.photometric)]
    if not page.extrasamples:  # RGB with a fourth channel that the file does not explain
        return n_extra == 1 and page.photometric == _RGB
    return n_extra > 0 and page.extrasamples[0] in _ALPHA


def _left_out_channels(path: str | Path, page: tifffile.TiffPage) -> tuple[str, ...]:
    """A note on channels that are neither colour nor transparency.

    Raises:
        DataError: grey with several such channels, each of which may be the picture.
    """
    if int(page.photometric) not in _CHANNELS:
        return ()
    n_colours = _CHANNELS[int(page.photometric)]
    n_unknown = page.samplesperpixel - n_colours - _has_alpha(page)
    if n_unknown < 0:
        raise DataError(
            f"{path}: {page.samplesperpixel} channels, but its colours need {n_colours}; "
            "export it again"
        )
    if not n_unknown:
        return ()
    if n_colours == 1 and page.samplesperpixel > 1 and not _has_alpha(page):
        raise DataError(
            f"{path}: {page.samplesperpixel} channels of which the file does not say what they "
            "are; expected grey or RGB: save the channel that is meant, or the picture as RGB"
        )
    return (f"{n_unknown} channels beside the colours are left out",)


def _decoded(path: str | Path, page: tifffile.TiffPage) -> np.ndarray:
    """The numbers of a page as they are stored, (H, W, C)."""
    try:
        stored = page.asarray(squeeze=False)  # (planes, depth, H, W, channels of a plane)
    except (ValueError, NotImplementedError, ImportError) as error:
        # tifffile has no decoder for the compression or the number of bits.
        pixels = _decoded_by_opencv(path, page)
        if pixels is None:
            raise DataError(
                f"{path}: a TIFF picture of {page.bitspersample} bits a channel, "
                f"{page.samplesperpixel} channels and the compression {page.compression.name}, "
                "which is not read; save it without compression, or install imagecodecs "
                "(pip install imagecodecs)"
            ) from error
        return pixels
    planes, _, height, width, channels = stored.shape
    return np.moveaxis(stored[:, 0], 0, -2).reshape(height, width, planes * channels)


def _decoded_by_opencv(path: str | Path, page: tifffile.TiffPage) -> np.ndarray | None:
    """The same, or None where OpenCV does not read such files without a change."""
    in_one_plane = page.planarconfig == 1 or page.samplesperpixel == 1
    # Numbers of 10 and 14 bits are stretched by OpenCV.
    whole_bytes = page.bitspersample == 8 * page.dtype.itemsize
    if not (in_one_plane and whole_bytes) or page.samplesperpixel not in (1, 3, 4) or page.index:
        return None
    content = np.fromfile(path, np.uint8)
    tag = page.tags.get(274)
    if tag:
        # OpenCV would turn the pixels by their tag: here it reads 1, in the file's byte order.
        one = np.array([1], f"{page.parent.byteorder}u2").view(np.uint8)
        content[tag.valueoffset : tag.valueoffset + 2] = one
    try:
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    expected = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if pixels is None or pixels.dtype != page.dtype or pixels.size != np.prod(expected):
        return None
    pixels = pixels.reshape(expected)
    return pixels if pixels.shape[2] == 1 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _inverted(grey: np.ndarray, bits: int) -> np.ndarray:
    """Grey of which number 0 is white, so that 0 is black."""
    if grey.dtype.kind == "i":
        return ~grey  # -1 minus the number: the smallest and the largest change places
    return np.array(2**bits - 1, grey.dtype) - grey


def _divided_by_alpha(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (H, W, C) that were multiplied by the transparency (H, W), as they were before.

    Black where a pixel is wholly transparent, since its colour is lost.
    """
    if colours.dtype.kind == "f":
        largest = 1.0
    else:
        largest = np.iinfo(colours.dtype).max
    share = np.where(alpha > 0, alpha, 1)[..., None] / largest
    divided = np.where(alpha[..., None] > 0, colours / share, 0)
    if colours.dtype.kind != "f":
        divided = np.rint(np.clip(divided, 0, largest))
    return divided.astype(colours.dtype)
