"""Convert a data set to the folders `images` and `masks` that `folders.scan_images_masks` reads.

Masks become 0 and 255. `data/README.md` names the data sets that need this.
"""

import filecmp
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import files, hosts
from ..errors import DataError
from ..formats import images
from . import pairing

# Formats that only this module reads: such images are written anew as PNG.
FOREIGN_SUFFIXES = (".webp", ".ppm", ".pgm", ".tga", ".jp2")


class Pairing(NamedTuple):
    """Which masks belong to which image.

    Attributes:
        pairs: name -> the image and the files of its mask.
        without_mask: file names of images without a mask.
        left_out: file names of masks without an image or with another suffix.
    """

    pairs: dict[str, tuple[Path, list[Path]]]
    without_mask: list[str]
    left_out: list[str]

    @property
    def united(self) -> list[str]:
        """The names of images with several mask files."""
        return [name for name, (_, mask_files) in self.pairs.items() if len(mask_files) > 1]


class Conversion(NamedTuple):
    """What `to_images_and_masks` did.

    Attributes:
        pairs: the number of pairs that are in the output now.
        without_mask, left_out, united: as in `Pairing`.
        decoded: how their masks were decoded -> how many of them.
        inverted: the number of masks that look inverted.
        problems: a message for each pair that was left out.
    """

    pairs: int
    without_mask: list[str]
    left_out: list[str]
    united: list[str]
    decoded: dict[str, int]
    inverted: int
    problems: list[str]

    def text(self) -> str:
        """The summary in a few lines."""
        decoded = "; ".join(f"{decoding} ({n})" for decoding, n in self.decoded.items()) or "none"
        lines = [
            f"images with mask: {self.pairs}",
            f"images without mask, left out: {_examples(self.without_mask)}",
            f"masks without image, or of another suffix, left out: {_examples(self.left_out)}",
            f"images with several mask files, which were united: {_examples(self.united)}",
            f"masks decoded by: {decoded}",
        ]
        if self.inverted:
            lines.append(
                f"masks with a foreground border: {self.inverted}; if 0 is the structure, set "
                "mask_inverted"
            )
        return "\n".join(lines)


def to_images_and_masks(
    source_images: str | Path,
    source_masks: str | Path | None,
    output: str | Path,
    image_suffix: str = "",
    mask_suffix: str | None = None,
    encoding: str | dict[str, int] = "auto",
    inverted: bool = False,
) -> Conversion:
    """Write `output/images/<name>` (copied unchanged) and `output/masks/<name>.png` (0 / 255).

    A pair that cannot be read, or whose target already has another content, is left out and named
    in `problems`; nothing is ever overwritten.

    Args:
        source_images: folder of the images, or of folders `<name>/images` with one image each.
        source_masks: folder of the masks; None: that of the images. For folders `<name>/images`,
            the mask is the union of all files in `<name>/masks` below it.
        image_suffix: what follows the name in image files: "_image", or ".jpg" to take files of
            one format.
        mask_suffix: the same for masks; None: what the names of all masks share. Masks that differ
            only in a number behind it are united.
        encoding, inverted: how masks are read, see `images.read_mask`.

    Raises:
        DataError: a folder is missing, or which mask belongs to which image is not clear.
    """
    output = Path(output)
    paired = _pair(
        Path(source_images), Path(source_masks or source_images), image_suffix, mask_suffix
    )
    # An earlier image of the same name may have another suffix: it would become a second case.
    earlier = {file.stem: file.name for file in (output / "images").glob("*")}

    def convert(name: str) -> tuple[str, bool] | str:
        """How the mask was decoded and whether it looks inverted, or an error message."""
        image, mask_files = paired.pairs[name]
        try:
            mask = images.read_mask(images.UNION.join(map(str, mask_files)), encoding, inverted)
            _write_image(image, output / "images", name, earlier.get(name))
            _write_png(output / "masks" / f"{name}.png", mask.pixels * 255)
        except DataError as error:
            return str(error)
        return mask.decoding, mask.looks_inverted

    with ThreadPoolExecutor(hosts.n_cores()) as pool:  # decoding releases the interpreter lock
        converted = pool.map(convert, paired.pairs)
        n_pairs = len(paired.pairs)
        results = list(hosts.progress(converted, total=n_pairs, desc="prepare", leave=False))
    problems = [result for result in results if isinstance(result, str)]
    masks = [result for result in results if not isinstance(result, str)]
    return Conversion(
        pairs=len(masks),
        without_mask=paired.without_mask,
        left_out=paired.left_out,
        united=paired.united,
        decoded=dict(Counter(decoding for decoding, _ in masks)),
        inverted=sum(looks_inverted for _, looks_inverted in masks),
        problems=problems,
    )


# ---- which mask belongs to which image


def _pair(
    image_folder: Path, mask_folder: Path, image_suffix: str, mask_suffix: str | None
) -> Pairing:
    """The pairs, found by a folder for each case or by the names of files."""
    for folder, contents in ((image_folder, "images"), (mask_folder, "masks")):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected one with {contents}")
    if not _pictures(image_folder) and any(image_folder.glob("*/images")):
        return _pair_instances(image_folder, mask_folder)
    return _pair_by_name(image_folder, mask_folder, image_suffix, mask_suffix)


def _pair_instances(image_folder: Path, mask_folder: Path) -> Pairing:
    """Folders `<name>/images` with one image and `<name>/masks` with a file for each instance.

    This is the layout of the Data Science Bowl 2018.
    """
    pairs, without_mask = {}, []
    for folder in sorted(images_folder.parent for images_folder in image_folder.glob("*/images")):
        pictures = _pictures(folder / "images")
        masks_of_case = mask_folder / folder.name / "masks"
        masks = _pictures(masks_of_case) if masks_of_case.is_dir() else []
        if len(pictures) != 1:
            raise DataError(
                f"{folder / 'images'}: {len(pictures)} images; expected one, with its masks in "
                f"{masks_of_case}"
            )
        if masks:
            pairs[folder.name] = (pictures[0], masks)
        else:
            without_mask.append(folder.name)
    if not pairs:
        raise DataError(
            f"{mask_folder}: no <name>/masks with a picture in it; "
            f"found {pairing.contents(mask_folder)}"
        )
    return Pairing(pairs, without_mask, [])


def _pair_by_name(
    image_folder: Path, mask_folder: Path, image_suffix: str, mask_suffix: str | None
) -> Pairing:
    """Pairs of files with the same name once their suffixes are cut off.

    Where images and masks share a folder, a file that belongs to no pair is an image without a
    mask, unless its name begins with that of a pair.
    """
    same_folder = image_folder.resolve() == mask_folder.resolve()
    pictures, masks = _pictures(image_folder), _pictures(mask_folder)
    for folder, content in ((image_folder, pictures), (mask_folder, masks)):
        if not content:
            raise DataError(f"{folder}: no picture here; found {pairing.contents(folder)}")
    if mask_suffix is None:
        mask_suffix = _common_suffix(_by_name(pictures, image_suffix), masks, same_folder)
    ending, _, _ = mask_suffix.partition(".")
    masks_by_name = _masks_by_name(masks, mask_suffix)
    if same_folder:
        # Without an image suffix, the masks would otherwise count as images too.
        pictures = [file for file in pictures if file not in set(masks_by_name.values())]
    images_by_name = _by_name(pictures, image_suffix)
    matched = pairing.masks_by_image(
        images_by_name, masks_by_name, suffixes=[ending], others_matter=False
    )
    pairs = {
        name: (image, matched.of_image[name])
        for name, image in images_by_name.items()
        if name in matched.of_image
    }
    if not pairs:
        example = pictures[0].name if pictures else "none"
        raise DataError(
            f"{image_folder}: no image has a mask in {mask_folder}; expected masks called <name of "
            f"the image>{mask_suffix}, found images such as {example} and masks such as "
            f"{masks[0].name}; set image_suffix and mask_suffix to what follows the common name"
        )
    used = {file for image, mask_files in pairs.values() for file in (image, *mask_files)}
    unused_masks = [file.name for file in masks if file not in used]
    without_mask = [image.name for name, image in images_by_name.items() if name not in pairs]
    if same_folder:  # Image_01L_2ndHO.png is another mask of Image_01L, not an image
        owners = pairing.Owners(pairs)
        without_mask = [name for name in without_mask if owners.of(Path(name).stem)[0] is None]
    left_out = [name for name in unused_masks if name not in without_mask]
    return Pairing(pairs, without_mask, left_out)


def _common_suffix(names: Iterable[str], masks: list[Path], same_folder: bool) -> str:
    """What follows the image's name in the names of all masks: "", "_mask", "_OD".

    Raises:
        DataError: there is none, or more than one.
    """
    owners, counts = pairing.Owners(names), Counter()
    if same_folder:  # x_mask_1 belongs to x, not to x_mask
        owners = pairing.Owners(name for name in names if not owners.of(name, whole=False)[0])
    for mask in masks:
        # In a shared folder the image of exactly that name is the file itself.
        owner, suffix = owners.of(mask.stem, whole=not same_folder)
        if owner is not None:
            counts[suffix] += 1
    # Where an image has several mask files, they are numbered.
    unnumbered = {pairing.without_number(suffix) for suffix in counts}
    for candidates in (set(counts), unnumbered):
        if len(candidates) == 1 and (candidates != {""} or not same_folder):
            return candidates.pop()
    suffixes = ", ".join(f"{suffix!r} ({n})" for suffix, n in counts.most_common(5))
    suffixes = suffixes or f"names such as {masks[0].name}"
    raise DataError(
        f"{masks[0].parent}: which files are the masks is not clear: found {suffixes} behind the "
        "names of images; set mask_suffix, for example '_mask', or '.png' where only the format "
        "differs (image_suffix, if images have one)"
    )


def _masks_by_name(masks: list[Path], suffix: str) -> dict[str, Path]:
    """Name without the suffix of the format -> file, of masks that end in `suffix` or a number
    behind it.
    """
    ending, dot, kind = suffix.partition(".")
    by_name: dict[str, Path] = {}
    for path in masks:
        endings = (path.stem, pairing.without_number(path.stem))
        has_ending = any(pairing.folded(e).endswith(pairing.folded(ending)) for e in endings)
        if not has_ending or (dot and path.suffix.lower() != f".{kind}".lower()):
            continue
        if path.stem in by_name:
            raise _same_name(path, by_name[path.stem])
        by_name[path.stem] = path
    return by_name


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    """Name -> file, for the files whose name ends in `suffix`, which is cut off.

    A suffix with a dot, such as "_mask.png", includes the suffix of the file format.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        full_name = path.name if "." in suffix else path.stem
        name = full_name.removesuffix(suffix)
        if not full_name.endswith(suffix) or not name:
            continue
        if name in by_name:
            raise _same_name(path, by_name[name])
        by_name[name] = path
    return by_name


def _same_name(path: Path, other: Path) -> DataError:
    return DataError(
        f"{path}: {other.name} has the same name before the suffix; name the files "
        f"to take by image_suffix and mask_suffix, for example {path.suffix!r}"
    )


def _pictures(folder: Path) -> list[Path]:
    """The visible pictures in a folder, by name."""
    suffixes = (*images.SUFFIXES, *FOREIGN_SUFFIXES)
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )


# ---- writing, without overwriting anything


def _write_image(image: Path, folder: Path, name: str, earlier: str | None) -> None:
    """Copy an image, or write it as PNG where its format is foreign.

    `earlier` is the file with the same stem that is already in the folder.
    """
    foreign = image.suffix.lower() in FOREIGN_SUFFIXES
    target = folder / f"{name}{'.png' if foreign else image.suffix}"
    if earlier is not None and earlier != target.name:
        raise DataError(
            f"{target.with_name(earlier)}: there already, and {image.name} has the same name"
        )
    if foreign:
        _write_png(target, _lossless_pixels(image))
    elif not target.exists():
        with files.replacing(target) as partial:
            shutil.copyfile(image, partial)
    elif not filecmp.cmp(image, target, shallow=False):  # by content, not by size and time
        raise _is_taken(target, image.name)


def _write_png(target: Path, pixels: np.ndarray) -> None:
    if not target.exists():
        images.write_png(target, pixels)
    elif not np.array_equal(images.read_pixels(target)[0], pixels):
        raise _is_taken(target, "what would be written")


def _is_taken(target: Path, other: str) -> DataError:
    return DataError(
        f"{target}: there already, and it differs from {other}; move it away or choose another "
        "output"
    )


def _lossless_pixels(path: Path) -> np.ndarray:
    """Pixels in a form that PNG can hold: palettes as colours, whole numbers of 8 or 16 bits."""
    pixels, _, palette = images.read_pixels(path)
    if palette is not None:
        pixels = palette[pixels]
    return pixels if pixels.dtype in (np.uint8, bool) else pixels.astype(np.uint16)


def _examples(names: list[str]) -> str:
    """The number of names, and the first three of them."""
    if not names:
        return "0"
    more = ", …" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"
