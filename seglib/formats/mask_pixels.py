"""Mask files as numbers of classes. Taught in `01_data_preparation`.

A mask may hold 0/1, 0/255, colours or transparency, have 0 as the structure, or have grey edges
from JPEG or resizing. The numbers of a palette image are not the colours that one sees. A mask is
decoded where its meaning is unambiguous and refused where it is not.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, listed
from ..tables import IGNORE
from . import codecs, images, legends

# Numbers up to this one are those of classes, not the bright side of a grey mask.
LARGEST_NUMBER = 40
UNION = "|"  # a mask cell "left.png|right.png" means the union of both files
# How the decoding of a label map begins in which 255 is the second class, and what errors call a
# mask that can be read in several ways: `meanings` looks for both.
WHITES_ARE_A_CLASS = "label numbers 0/255"
AMBIGUOUS = "ambiguous mask"
MANY_NUMBERS = 16  # a label map with more is asked whether they are edges of a grey picture

# What a mask file holds at a pixel: a number, or (red, green, blue).
Value = float | tuple[float, ...]


class Mask(NamedTuple):
    """A decoded mask.

    Attributes:
        pixels: (H, W) uint8, 0 and 1, or class numbers; 255 = ignored.
        decoding: how the file was understood, for the report, such as "values 0/255".
        looks_inverted: whether 0 and 1 look swapped, because the border is foreground.
        numbers: of a label map, the numbers in the file and how many pixels have each.
        drawn: of a mask that "auto" decoded, for each of its files (name of its folder, value of
            the background, value of the structure); see `normal`. Without files that are empty.
    """

    pixels: np.ndarray
    decoding: str
    looks_inverted: bool = False
    numbers: dict[int, int] | None = None
    drawn: tuple[tuple[str, Value, Value], ...] = ()


class NumbersError(DataError):
    """A label map holds numbers that are no classes; `numbers` is that of `Mask`."""

    def __init__(self, message: str, numbers: dict[int, int]):
        super().__init__(message)
        self.numbers = numbers


def read_mask(
    paths: str,
    encoding: str | dict[str, int] = "auto",
    inverted: bool = False,
    label_map: dict[str, int] | None = None,
    complete: bool = False,
) -> Mask:
    """The mask of one class, (H, W) uint8 of 0 and 1; several files joined by `|` are united.

    Args:
        paths: one path, or several joined by `|`.
        encoding: "auto" decodes what is unambiguous; "threshold" takes what is above half of the
            range (127 of 255); "index" takes what is above 0; a table of colours
            `{"255,0,0": 1}` takes the colours whose number is 1, and ignores those of 255.
        inverted: True where 0 is the structure.
        label_map: number in the file -> 0 or 1, or 255 = ignored; it counts before "auto" and
            "index".
        complete: see `map_numbers`.

    Raises:
        DataError: unreadable, ambiguous, or parts of different sizes.
    """
    parts = []
    for path in paths.split(UNION):
        if label_map and encoding in ("auto", "index"):
            parts.append(read_labels(path, encoding, 2, label_map, complete))
        else:
            parts.append(_read_part(path, encoding))
    shapes = {part.pixels.shape for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"{paths}: the parts of one mask have different sizes {sorted(shapes)}; they must agree"
        )
    if _are_complements([part.pixels for part in parts]):
        names = ", ".join(Path(path).name for path in paths.split(UNION))
        raise DataError(
            f"{paths}: the files {names} divide the whole image among them, so that one of them "
            "shows the background; expected parts of one structure: move the background's away, or "
            "for several classes write one label map an image and set task='multiclass'"
        )
    decoding = " + ".join(dict.fromkeys(part.decoding for part in parts))
    if inverted:
        decoding += ", inverted"
    pixels = unite([part.pixels for part in parts], inverted)
    drawn = tuple(dict.fromkeys(value for part in parts for value in part.drawn))
    return Mask(pixels, decoding, looks_inverted(pixels), drawn=drawn)


def unite(planes: list[np.ndarray], inverted: bool = False) -> np.ndarray:
    """The union of the masks (H, W) of one class; a pixel that one part knows is not ignored.

    Args:
        inverted: whether 0 is the structure in each of them. They are inverted before the union:
            the structures are united, not the backgrounds.
    """
    if inverted:
        planes = [np.where(plane == IGNORE, plane, plane == 0).astype(np.uint8) for plane in planes]
    if len(planes) == 1:
        return planes[0]
    structure = np.any([plane == 1 for plane in planes], axis=0)
    unknown = np.any([plane == IGNORE for plane in planes], axis=0)
    return np.where(structure, 1, np.where(unknown, IGNORE, 0)).astype(np.uint8)


def _are_complements(planes: list[np.ndarray]) -> bool:
    """Whether every pixel belongs to just one of several masks (H, W), two of them not empty."""
    if sum(bool(plane.any()) for plane in planes) < 2:
        return False
    return bool((np.sum(planes, axis=0, dtype=np.int64) == 1).all())


def looks_inverted(pixels: np.ndarray) -> bool:
    """Whether most of the border of a 0/1 mask is foreground, as it is where 0 is the structure.

    A true structure may fill most of the image, but rarely touches all of its border.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((border == 1).mean() > 0.8)


def read_labels(
    path: str,
    encoding: str | dict[str, int],
    n_classes: int,
    label_map: dict[str, int],
    complete: bool = False,
) -> Mask:
    """A label map, (H, W) uint8 of class numbers; 255 = ignored.

    Args:
        encoding: "auto" and "index" take the numbers in the file; a table of colours such as
            `{"255,0,255": 3}` takes those of the table; "threshold", with one class beside the
            background, takes what is above half of the range (127 of 255).
        label_map, complete: see `map_numbers`.

    Raises:
        DataError: unreadable, colours without a table, or numbers that are no classes.
    """
    if encoding == "threshold":
        if n_classes != 2:
            raise DataError(
                f"{path}: mask_encoding='threshold' tells two classes apart, and there are "
                f"{n_classes}; set 'index' or a table of colours"
            )
        return Mask(_read_part(path, encoding).pixels, "threshold")
    pixels, mode, palette = _read_numbers(path)
    if isinstance(encoding, dict):
        labels = _by_colour(path, pixels, palette, encoding)
        _check_numbers(path, _counted(labels)[1], n_classes, {})
        return Mask(labels, "table of colours")
    if mode in ("LA", "RGBA"):
        alpha, pixels = pixels[..., -1], pixels[..., :-1]
        if alpha.min() != alpha.max():
            raise DataError(
                f"{path}: the transparency of the labels varies, and their numbers cannot be told "
                "from it; save the file without transparency"
            )
    if pixels.ndim == 3:
        if not (pixels[..., :3] == pixels[..., :1]).all():
            advice = legends.colour_advice(path, _frequent_colours(pixels))
            raise DataError(f"{path}: the labels are colours ({_colours(pixels)}); {advice}")
        pixels = pixels[..., 0]
    _refuse_jpeg(path, pixels, exact=True)
    bits = _grey_bits(path, mode)
    numbers = _stored_numbers(path, pixels, bits, label_map)
    if not complete:
        _refuse_grey_edges(path, numbers)
    mask = map_numbers(path, numbers, n_classes, label_map, complete)
    if bits == 8:
        return mask
    return mask._replace(decoding=f"{mask.decoding}, {bits} bit{'s' if bits > 1 else ''} a pixel")


def _refuse_grey_edges(path: str, numbers: np.ndarray) -> None:
    """Raise `DataError` for a label map (H, W) whose numbers interpolation has made.

    Such numbers would be taken for classes, one by one along the edges of the true ones.
    """
    values = np.unique(numbers)
    if len(values) <= MANY_NUMBERS or _share_with_area(numbers, values) > 0.25:
        return
    raise DataError(
        f"{path}: a label map of {len(values)} different numbers, most of them only along edges, "
        "so that they are not class numbers; expected a map saved without interpolation; if it "
        "shows one structure, bright on dark, use the preset binary"
    )


def _share_with_area(numbers: np.ndarray, values: np.ndarray) -> float:
    """Which share of the numbers in (H, W) some pixel and its four neighbours have alike."""
    inner = numbers[1:-1, 1:-1]
    alike = np.ones(inner.shape, bool)
    for neighbour in (numbers[:-2, 1:-1], numbers[2:, 1:-1], numbers[1:-1, :-2], numbers[1:-1, 2:]):
        alike &= neighbour == inner
    return len(np.unique(inner[alike])) / len(values)


def map_numbers(
    path: str,
    numbers: np.ndarray,
    n_classes: int,
    label_map: dict[str, int],
    complete: bool = False,
    of_volume: np.ndarray | None = None,
) -> Mask:
    """The numbers of a label map -> class numbers; 255 = ignored.

    255 is what `label_map` says. Where that is silent, 255 is ignored, as most programs mean it,
    except in a map of 0 and 255 without any other number where there are two classes: 255 is the
    second one then. Several files together may show that this is wrong: see `checks`.

    Args:
        path: names the file in errors.
        numbers: (H, W), whole numbers.
        label_map: number in the file -> class; numbers that it lacks become background. Where it
            is empty, the numbers are the classes.
        complete: True: a number that `label_map` lacks is an error.
        of_volume: for a slice, the numbers of its whole volume, which decide about 255.

    Raises:
        DataError: numbers that are no whole numbers, or no classes.
    """
    numbers = whole_numbers(path, numbers)
    present, count_of = _counted(numbers)
    others = count_of.keys() - {0, IGNORE}
    if of_volume is not None:
        others = set(np.unique(of_volume).tolist()) - {0, IGNORE}
    is_class = n_classes == 2 and not label_map and not others
    table = {IGNORE: 1 if is_class else IGNORE}
    table |= {int(number): label for number, label in label_map.items()}
    if complete:
        unnamed = sorted(set(count_of) - {0} - {int(number) for number in label_map})
        if unnamed:
            raise NumbersError(
                f"{path}: label numbers {unnamed[:8]} have no name in the list of labels beside "
                "the data; correct the file or that list, or set label_map",
                count_of,
            )
    classes = [table.get(number, 0 if label_map else number) for number in count_of]
    _check_numbers(path, classes, n_classes, count_of)
    # Translate the few different numbers instead of every pixel.
    labels = np.array(classes, np.uint8)[np.searchsorted(present, numbers)]
    decoding = "label numbers by label_map" if label_map else "label numbers"
    if is_class and IGNORE in count_of:
        decoding = WHITES_ARE_A_CLASS
    return Mask(labels, decoding, numbers=count_of)


def _counted(numbers: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """The different numbers, rising, and how many pixels have each."""
    if numbers.dtype == np.uint8:  # faster than sorting all pixels
        totals = np.bincount(numbers.ravel(), minlength=256)
        present = np.flatnonzero(totals)
        counts = totals[present]
    else:
        present, counts = np.unique(numbers, return_counts=True)
    return present, dict(zip(present.tolist(), counts.tolist()))


def whole_numbers(path: str | Path, numbers: np.ndarray) -> np.ndarray:
    """Labels as integers; floats may differ from whole numbers by at most 0.001.

    Raises:
        DataError: they differ by more, or are not finite.
    """
    if numbers.dtype.kind != "f":
        return numbers
    whole = np.empty(numbers.shape, np.int32)
    for i, plane in enumerate(numbers):  # plane by plane, to save memory
        rounded = np.rint(plane)
        if not np.isfinite(plane).all() or np.abs(rounded - plane).max() > 1e-3:
            raise DataError(
                f"{path}: labels are not whole numbers; were they resampled with interpolation?"
            )
        whole[i] = rounded
    return whole


def _check_numbers(
    path: str, classes: Iterable[int], n_classes: int, numbers: dict[int, int]
) -> None:
    """Raise `NumbersError` where one of the numbers in a label map is no class."""
    wrong = sorted(set(classes) - {*range(n_classes), IGNORE})
    if wrong:
        raise NumbersError(
            f"{path}: label numbers {wrong[:8]} are not among the classes 0..{n_classes - 1}; "
            f"set label_map, for example {{'{wrong[0]}': 1}}, or class_names",
            numbers,
        )


def _read_numbers(path: str) -> tuple[np.ndarray, str, np.ndarray | None]:
    """`read_pixels` for masks and label maps, whose numbers matter, not only their brightness.

    Raises:
        DataError: white is number 0 in the file, and it is not drawn in black and white alone.
    """
    pixels, mode, palette = images.read_pixels(path)
    # Inverted, 0 and 1 of 8 bits would be 255 and 254: as drawn, or as counted, is not told.
    if mode == "L" and codecs.header(path).white_is_zero:
        values = np.unique(pixels)
        black_white = {0, int(np.iinfo(pixels.dtype).max)}
        if not set(values.tolist()) <= black_white:
            shown = ", ".join(str(value) for value in (np.iinfo(pixels.dtype).max - values)[:5])
            raise DataError(
                f"{path}: number 0 is white in this TIFF file (WhiteIsZero), and its numbers "
                f"({shown}) are not only black and white, so their meaning is not clear; save it "
                "with black as 0 (MINISBLACK)"
            )
    return pixels, mode, palette


def _grey_bits(path: str, mode: str) -> int:
    """The bits of a grey pixel where the file stores less than 8, which are shown as 0..255."""
    if mode == "1":
        return 1
    bits = codecs.header(path).bits if mode == "L" else 8
    return bits if bits < 8 else 8


def stored_numbers(path: str, pixels: np.ndarray, mode: str) -> np.ndarray:
    """The numbers (H, W) of a grey picture or a palette image as a label map holds them.

    Args:
        pixels, mode: as `read_pixels` returns them.

    Raises:
        DataError: fractions.
    """
    return whole_numbers(path, _stored_numbers(path, pixels, _grey_bits(path, mode), {}))


def _stored_numbers(
    path: str, pixels: np.ndarray, bits: int, label_map: dict[str, int]
) -> np.ndarray:
    """The numbers of a label map of less than 8 bits, which readers stretch to 0..255.

    Class 3 of 2 bits is shown as 255. But programs that make files smaller also store an 8-bit map
    of 0, 85, 170 and 255 in 2 bits: where `label_map` names these numbers, they are meant.
    """
    if bits == 8:
        return pixels
    factor = 255 // (2**bits - 1)
    stored = pixels.astype(np.uint8) // (1 if bits == 1 else factor)
    present = set(np.unique(stored).tolist()) - {0}
    named = {int(number) for number in label_map}
    as_stored = present <= named or not named
    as_shown = {number * factor for number in present} <= named
    if as_stored and as_shown and named and present:
        raise DataError(
            f"{path}: {bits} bits a pixel: label_map names both the numbers stored in the file, "
            f"{sorted(present)}, and those that viewers show, "
            f"{sorted(number * factor for number in present)}; take one of them out"
        )
    return stored * np.uint8(factor) if as_shown and named else stored


def _read_part(path: str, encoding: str | dict[str, int]) -> Mask:
    """The mask in one file, (H, W) uint8 of 0 and 1."""
    pixels, mode, palette = _read_numbers(path)
    if isinstance(encoding, dict):
        labels = _by_colour(path, pixels, palette, encoding)
        if not np.isin(labels, (0, 1, IGNORE)).all():
            raise DataError(
                f"{path}: its colours have several class numbers in the mask_encoding table "
                f"{encoding}, but the mask of one class takes 0, 1 and 255 = ignored; set "
                "task='multiclass' with the background as first class, or give every colour of "
                "the structure the number 1"
            )
        return Mask(labels, "table of colours")
    if mode == "1":
        return _drawn(path, Mask(pixels.astype(np.uint8), "1 bit"), 0, 255)
    if encoding in ("auto", "index"):
        _refuse_jpeg(path, _brightest(pixels), exact=encoding == "index")
    if encoding == "index":
        return Mask((_brightest(pixels) > 0).astype(np.uint8), encoding)
    if encoding == "threshold":
        return _threshold(palette[pixels] if mode == "P" else pixels)
    if mode == "P":
        return _auto_palette(path, pixels, palette)
    if mode in ("LA", "RGBA"):
        # A mask may be drawn as transparency over a single colour.
        alpha, pixels = pixels[..., -1], pixels[..., :-1]
        if alpha.min() != alpha.max():
            if (pixels != pixels[:1, :1]).any():
                raise _ambiguous(
                    path,
                    "both its colours and its transparency vary",
                    "save it without transparency",
                )
            return _auto_grey(path, alpha, "transparency, ")
    if pixels.ndim == 3:
        if (pixels == pixels[..., :1]).all():
            return _auto_grey(path, pixels[..., 0])
        return _auto_colour(path, pixels)
    return _auto_grey(path, pixels)


def _refuse_jpeg(path: str, grey: np.ndarray, exact: bool) -> None:
    """Raise `DataError` where JPEG has changed the numbers of a mask, (H, W).

    Args:
        exact: whether every number counts; else only those that are as small as its errors do.
    """
    top = grey.max()
    is_small = 0 < top <= LARGEST_NUMBER
    has_others = exact and np.logical_and(grey > 0, grey < top).any()
    if (is_small or has_others) and codecs.header(path).is_jpeg:
        shown = ", ".join(f"{number}" for number in np.unique(grey)[:6])
        raise DataError(
            f"{path}: a JPEG file, which changes the numbers of a mask: found {shown}; expected a "
            "format that keeps them: write the mask anew from its source as PNG; what is drawn in "
            "black and white alone can be read with mask_encoding='threshold', as one structure "
            "(preset binary)"
        )


def _drawn(path: str, mask: Mask, background: Value, structure: Value) -> Mask:
    """The mask with the values that the file has at its background and at its structure."""
    if not mask.pixels.any():
        return mask
    return mask._replace(drawn=((Path(path).parent.name, background, structure),))


def normal(value: np.ndarray | np.generic | float, dtype: np.dtype | None = None) -> Value:
    """A value in a mask file as `Mask.drawn` has it.

    Grey is a number, a colour (red, green, blue). White is 255, which is also the largest number
    of other integer types. Numbers are ints; a float is an estimate, as of a JPEG, or a fraction.
    """
    if np.ndim(value) == 1:
        colour = tuple(np.asarray(value).tolist())
        return colour[0] if len(set(colour)) == 1 else colour
    number = np.asarray(value).item()
    if dtype is not None and dtype.kind in "iu" and number == np.iinfo(dtype).max:
        return 255
    return int(number) if number == int(number) else number


def _brightest(pixels: np.ndarray) -> np.ndarray:
    """(H, W): the largest colour channel of each pixel, without transparency."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4):  # the last channel is transparency
        pixels = pixels[..., :-1]
    return pixels.max(axis=2)


def _threshold(pixels: np.ndarray) -> Mask:
    """What is brighter than half of the range.

    The range is guessed from the brightest pixel: 0..1, 0..255, or up to that pixel.
    """
    grey = _brightest(pixels)
    top = grey.max()
    if top > 255:
        limit = top / 2
    elif top > 1:
        limit = 127
    else:
        limit = 0.5
    return Mask((grey > limit).astype(np.uint8), "threshold")


def _auto_palette(path: str, pixels: np.ndarray, palette: np.ndarray) -> Mask:
    """A mask of two palette colours, of which the larger number must not be the darker one."""
    present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    if len(present) > 2:
        if (palette[present] == palette[present][:, :1]).all():
            return _auto_grey(path, palette[pixels][..., 0], "grey palette, ")
        raise _ambiguous(
            path,
            f"a palette image of {len(present)} numbers ({listed(present, most=8)})",
            _advice_on_numbers(present),
        )
    if len(present) == 1:  # an empty or a full mask
        _check_one_number(path, present[0], palette)
        mask = Mask((pixels > 0).astype(np.uint8), "palette index")
        return _drawn(path, mask, 0, _shown(palette, present[0], 0))
    background, structure = present
    brightness = palette[present].astype(int).sum(axis=1)
    if brightness[0] > brightness[1]:
        raise _ambiguous(
            path,
            f"its palette shows number {structure} darker than number {background}",
            "mask_encoding='index'",
        )
    mask = Mask((pixels > background).astype(np.uint8), "palette index")
    return _drawn(path, mask, normal(palette[background]), _shown(palette, structure, background))


def _check_one_number(path: str, number: int, palette: np.ndarray) -> None:
    """Raise `DataError` where a mask's only number and its colour differ on what is empty.

    Programs that drop unused colours, as most writers of GIF do, give a full white mask number 0.
    """
    colour = palette[number].astype(int)
    if (number == 0 and colour.max() > 127) or (number > 0 and colour.max() == 0):
        raise _ambiguous(
            path,
            f"only number {number} of a palette, shown as {tuple(colour.tolist())}: empty or full",
            "mask_encoding='threshold' goes by the colours, and 'index' by the numbers",
        )


def _shown(palette: np.ndarray, structure: int, background: int) -> Value:
    """The colour of a palette's number; the number itself where the background has that colour."""
    if (palette[structure] == palette[background]).all():
        return int(structure)
    return normal(palette[structure])


def _auto_grey(path: str, grey: np.ndarray, prefix: str = "") -> Mask:
    """A mask of two values, or of dark and bright areas with thin grey edges between them."""
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise DataError(f"{path}: the mask holds values that are not numbers (NaN or infinite)")
    values = np.unique(grey)
    if values[0] < 0:
        raise _ambiguous(
            path,
            f"negative numbers ({values[0]:g} to {values[-1]:g})",
            "mask_encoding='index' takes all above 0",
        )
    if len(values) <= 2:
        background = values[0] if len(values) == 2 else 0
        shown = "/".join(f"{value:g}" for value in values)
        mask = Mask((grey > background).astype(np.uint8), f"{prefix}values {shown}")
        structure = normal(values[-1], grey.dtype)
        return _drawn(path, mask, normal(background), structure)
    top = float(values[-1])
    if top <= 1:
        raise _ambiguous(
            path,
            f"{len(values)} different values up to {top:g} (soft mask)",
            "mask_encoding='threshold' cuts at 0.5",
        )
    if top <= LARGEST_NUMBER:
        raise _ambiguous(
            path,
            f"{len(values)} different values ({listed(values, most=8)}), as in a label map",
            _advice_on_numbers(values),
        )
    scaled = grey.astype(np.float32) * (255 / top)
    # Edges that JPEG or resizing left are thin: eroding what is neither dark nor bright leaves
    # nothing of them, but most of a soft mask or of a label map.
    between = (scaled >= 32) & (scaled < 224)
    share_thick = _eroded(between).sum() / max(between.sum(), 1)
    if share_thick > 0.002:
        raise _ambiguous(
            path,
            f"{between.mean():.0%} of its pixels are neither dark nor bright "
            "(soft mask or label map)",
            "mask_encoding='threshold' cuts at 127",
        )
    # A label map may pass this test, where its few numbers happen to be dark or bright.
    # Beside thin edges there is one dark and one bright area: 1 beside 0 is a class, even where 255
    # is only a thin border.
    areas = [value for value in values if len(values) <= 8 and _eroded(grey == value).any()]
    are_bright = [value * (255 / top) > 127 for value in areas]
    if len(areas) > 2 or len(set(are_bright)) < len(areas):
        raise _ambiguous(
            path,
            f"areas of {len(values)} values ({listed(values, most=8)})",
            _advice_on_numbers(values),
        )
    mask = Mask((scaled > 127).astype(np.uint8), f"{prefix}grey edges, cut at 127")
    level = np.median(grey[scaled > 127]) * (1 if top <= 255 else 255 / top)
    return _drawn(path, mask, 0, float(np.rint(level)))


def _auto_colour(path: str, pixels: np.ndarray) -> Mask:
    """A mask of one colour on black."""
    brightest = pixels.max(axis=2)
    # The hue is judged only where the colour is strong: near black it is mostly noise.
    strong = pixels[brightest > brightest.max() / 2].astype(np.float32)
    hues = strong / strong.max(axis=1, keepdims=True)
    one_hue = bool((np.abs(hues - np.median(hues, axis=0)) < 0.5).all())
    if one_hue and (brightest < brightest.max() / 8).any():
        mask = _auto_grey(path, brightest, "one colour on black, ")
        exact = len(np.unique(strong, axis=0)) == 1
        colour = np.median(strong, axis=0).round().astype(int if exact else float)
        return _drawn(path, mask, 0, normal(colour))
    raise _ambiguous(
        path,
        f"several colours ({_colours(pixels)})",
        'mask_encoding={"255,0,0": 1} names the structure\'s',
    )


def _ambiguous(path: str, content: str, advice: str) -> DataError:
    return DataError(
        f"{path}: {AMBIGUOUS}: found {content}; expected two values, or dark and bright with "
        f"thin grey edges; {advice}"
    )


def _advice_on_numbers(values: np.ndarray) -> str:
    """The setting that says which of the rising numbers in a mask are the structure."""
    if values[-1] != IGNORE:
        return "mask_encoding='index' takes all above 0"
    table = {f"{value:g}": 1 for value in values[:4] if 0 < value < IGNORE}
    return (
        f"label_map={table | {str(IGNORE): IGNORE}} ignores 255, as the border of VOC and labelme "
        "is; mask_encoding='index' takes all above 0, 255 too"
    )


def _eroded(mask: np.ndarray) -> np.ndarray:
    """What is left of a mask after removing 2 pixels along its edge."""
    for axis in (0, 1):
        mask = mask & np.roll(mask, 2, axis) & np.roll(mask, -2, axis)
    return mask


def _colours(pixels: np.ndarray) -> str:
    """The five most frequent colours, for messages."""
    colours = _frequent_colours(pixels)
    shown = ", ".join(str(tuple(colour)) for colour in colours[:5])
    return f"{shown}…" if len(colours) > 5 else shown


def _frequent_colours(pixels: np.ndarray) -> list[list[int]]:
    """The colours of a picture, the most frequent first."""
    # One number for each colour, since sorting rows takes seconds.
    codes = pixels[..., :3].astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
    codes, counts = np.unique(codes, return_counts=True)
    codes = codes[np.argsort(-counts)]
    return np.stack([codes >> 32, codes >> 16 & 0xFFFF, codes & 0xFFFF], axis=-1).tolist()


def _by_colour(
    path: str, pixels: np.ndarray, palette: np.ndarray | None, table: dict[str, int]
) -> np.ndarray:
    """(H, W) uint8: the numbers that a table gives to the colours of a picture."""
    if palette is not None:
        pixels = palette[pixels]
    elif pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    pixels = images.as_channels(images.to_uint8(pixels), 3)
    # One number for each colour, 0xRRGGBB, so that a whole picture is compared at once.
    code = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    labels = np.full(code.shape, -1, np.int16)  # -1: a colour without a number
    labels[code == 0] = 0  # black is background unless the table says otherwise
    for colour, number in table.items():
        red, green, blue = (int(part) for part in colour.split(","))
        labels[code == red * 65536 + green * 256 + blue] = number
    if (labels < 0).any():
        unknown = _colours(pixels[labels < 0][None])
        raise DataError(
            f"{path}: colours {unknown} are not in the mask_encoding table {list(table)}; add them"
        )
    return labels.astype(np.uint8)
