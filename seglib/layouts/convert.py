"""Other people's layouts -> folders `images` and `masks`, as `layouts.scan_binary` reads them. See `data/README.md`."""

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

OTHER = (
    ".webp",
    ".ppm",
    ".pgm",
    ".tga",
    ".jp2",
)  # read here only: such images are rewritten as PNG

Pairs = dict[str, tuple[Path, list[Path]]]  # name -> its image and the files of its mask


class Imported(NamedTuple):
    """What `bring` did: `pairs` that lie in the output now, names of what has no partner, how masks were decoded (with
    counts), how many look inverted, and what went wrong."""

    pairs: int
    without_mask: list[str]
    left_out: list[str]
    decoded: dict[str, int]
    inverted: int
    problems: list[str]

    def text(self) -> str:
        """The summary in a few lines."""
        lines = [
            f"images with mask: {self.pairs}",
            f"images without mask, left out: {_some(self.without_mask)}",
        ]
        lines += [f"masks without image, or of another suffix, left out: {_some(self.left_out)}"]
        lines += [
            "masks decoded by: "
            + ("; ".join(f"{how} ({n})" for how, n in self.decoded.items()) or "none")
        ]
        if self.inverted:
            lines.append(
                f"masks with a foreground border: {self.inverted}; if 0 is the structure, set mask_inverted"
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
) -> Imported:
    """Write `output/images/<name>` (copied unchanged) and `output/masks/<name>.png` (0 / 255) from another layout.

    Args:
        source_images: folder of the images; or of folders `<name>/images` with one image each.
        source_masks: folder of the masks, which may be the same; None: the same. For folders `<name>/images`, the
            masks are all files of `<name>/masks` below it, united.
        image_suffix: what follows the name in image files: "_image", or ".jpg" to take files of one format.
        mask_suffix: the same for masks; None: found out.
        encoding, inverted: how masks are read, see `images.read_mask`.

    A pair that cannot be read, or whose target holds something else already, is left out and named in `problems`;
    nothing is ever overwritten.

    Raises:
        DataError: a folder is missing, or which mask belongs to which image is not clear.
    """
    source, truths, output = Path(source_images), Path(source_masks or source_images), Path(output)
    for folder in (source, truths):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; expected one with {'images' if folder == source else 'masks'}"
            )
    if not _pictures(source) and any(source.glob("*/images")):
        pairs, without_mask, left_out = _instances(source, truths)
    else:
        pairs, without_mask, left_out = _by_name(source, truths, image_suffix, mask_suffix)
    there = {file.stem: file.name for file in (output / "images").glob("*")}

    def one(name: str) -> tuple[str, bool, str]:
        image, parts = pairs[name]
        target = (
            output / "images" / f"{name}{'.png' if image.suffix.lower() in OTHER else image.suffix}"
        )
        try:
            mask = images.read_mask(images.UNION.join(map(str, parts)), encoding, inverted)
            if there.get(name, target.name) != target.name:
                raise DataError(
                    f"{target.with_name(there[name])}: there already, and {image.name} has the same name"
                )
            if image.suffix.lower() in OTHER:
                _write(target, _plain(image))
            else:
                _copy(image, target)
            _write(output / "masks" / f"{name}.png", mask.pixels * 255)
            return mask.decoding, mask.looks_inverted, ""
        except DataError as error:
            return "", False, str(error)

    with ThreadPoolExecutor(hosts.n_cores()) as pool:  # decoding releases the interpreter lock
        done = list(
            hosts.progress(pool.map(one, pairs), total=len(pairs), desc="prepare", leave=False)
        )
    problems = [problem for _, _, problem in done if problem]
    decoded = Counter(how for how, _, problem in done if not problem)
    inverted_ones = sum(looks for _, looks, _ in done)
    return Imported(
        len(done) - len(problems), without_mask, left_out, dict(decoded), inverted_ones, problems
    )


def _instances(source: Path, truths: Path) -> tuple[Pairs, list[str], list[str]]:
    """Folders `<name>/images` with one image and `<name>/masks` with a file an instance (Data Science Bowl 2018)."""
    pairs, without_mask = {}, []
    for folder in sorted(f.parent for f in source.glob("*/images")):
        found, parts = _pictures(folder / "images"), truths / folder.name / "masks"
        masks = _pictures(parts) if parts.is_dir() else []
        if len(found) != 1:
            raise DataError(
                f"{folder / 'images'}: {len(found)} images; expected one, with its masks in {parts}"
            )
        if masks:
            pairs[folder.name] = (found[0], masks)
        else:
            without_mask.append(folder.name)
    if not pairs:
        raise DataError(
            f"{truths}: no <name>/masks with a picture in it; found {pairing.contents(truths)}"
        )
    return pairs, without_mask, []


def _by_name(
    source: Path, truths: Path, image_suffix: str, mask_suffix: str | None
) -> tuple[Pairs, list[str], list[str]]:
    """Pairs by name; in one folder, what is neither of a pair nor begins with the name of one is an image alone."""
    one_folder = source.resolve() == truths.resolve()
    pictures, masks = _pictures(source), _pictures(truths)
    for folder, found in ((source, pictures), (truths, masks)):
        if not found:
            raise DataError(f"{folder}: no picture here; found {pairing.contents(folder)}")
    if mask_suffix is None:
        mask_suffix = _common_suffix(_named(pictures, image_suffix), masks, one_folder)
    named_masks = _named(masks, mask_suffix)
    if one_folder:
        pictures = [file for file in pictures if file not in set(named_masks.values())]
    named = _named(pictures, image_suffix)
    pairs = {
        name: (image, [named_masks[name]]) for name, image in named.items() if name in named_masks
    }
    if not pairs:
        raise DataError(
            f"{source}: no image has a mask in {truths}; expected masks called <name of the image>{mask_suffix}, found "
            f"images such as {pictures[0].name if pictures else 'none'} and masks such as {masks[0].name}; set "
            "image_suffix and mask_suffix to what follows the common name"
        )
    used = {file for image, parts in pairs.values() for file in (image, *parts)}
    rest = [file for file in masks if file not in used]
    alone = [image.name for name, image in named.items() if name not in pairs]
    if one_folder:  # Image_01L_2ndHO.png is another mask of Image_01L, not an image
        alone = [name for name in alone if _owner(Path(name).stem, pairs) is None]
    return pairs, alone, [file.name for file in rest if file.name not in alone]


def _common_suffix(names: Iterable[str], masks: list[Path], one_folder: bool) -> str:
    """What the masks have behind the names of their images: "", "_mask", "_OD"; `DataError` unless it is one only."""
    names, counts = set(names), Counter()
    for mask in masks:
        owner = _owner(mask.stem, names, whole=not one_folder)
        if owner is not None:
            counts[mask.stem[len(owner) :]] += 1
    if len(counts) == 1:
        return next(iter(counts))
    found = (
        ", ".join(f"{suffix!r} ({n})" for suffix, n in counts.most_common(5))
        or f"names such as {masks[0].name}"
    )
    raise DataError(
        f"{masks[0].parent}: which files are the masks is not clear: found {found} behind the names of images; set "
        "mask_suffix, for example '_mask', or '.png' where only the format differs (image_suffix, if images have one)"
    )


def _owner(stem: str, names: Iterable[str], whole: bool = False) -> str | None:
    """The longest of `names` that `stem` begins with, not followed by a digit (10 is no mask of 1)."""
    for end in range(len(stem) - (not whole), 0, -1):
        if stem[:end] in names:
            return None if stem[end : end + 1].isdigit() else stem[:end]
    return None


def _named(files: list[Path], suffix: str) -> dict[str, Path]:
    """Name -> file of those that end in `suffix`, which is cut off; a suffix with a dot includes the file's own."""
    found: dict[str, Path] = {}
    for file in files:
        whole = file.name if "." in suffix else file.stem
        name = whole.removesuffix(suffix)
        if not whole.endswith(suffix) or not name:
            continue
        if name in found:
            raise DataError(
                f"{file}: {found[name].name} has the same name before the suffix; name the files to take by "
                f"image_suffix and mask_suffix, for example {file.suffix!r}"
            )
        found[name] = file
    return found


def _pictures(folder: Path) -> list[Path]:
    suffixes = (*images.SUFFIXES, *OTHER)
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith(".")
    )


def _plain(path: Path) -> np.ndarray:
    """Pixels that PNG can hold without loss: palettes as colours, whole numbers of 8 or 16 bits."""
    pixels, _, palette = images.read_pixels(path)
    pixels = palette[pixels] if palette is not None else pixels
    return pixels if pixels.dtype in (np.uint8, bool) else pixels.astype(np.uint16)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise _taken(target, source.name)
        return
    with files.replacing(target) as partial:
        shutil.copyfile(source, partial)


def _write(target: Path, pixels: np.ndarray) -> None:
    if not target.exists():
        images.write_png(target, pixels)
    elif not np.array_equal(images.read_pixels(target)[0], pixels):
        raise _taken(target, "what would be written")


def _taken(target: Path, other: str) -> DataError:
    return DataError(
        f"{target}: there already, and it differs from {other}; move it away or choose another output"
    )


def _some(names: list[str]) -> str:
    return f"{len(names)}" + (
        f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    )
