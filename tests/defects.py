"""A corpus of defects: what is wrong in real downloads, planted one by one into trees.

`DEFECTS` is the table. A defect changes one victim of a tree and leaves the others alone: the third
picture, or the first volume. `plant(tree)` does the damage and returns the file (or folder) that
the report must name. Expected is:

- "set aside": the case is in `report.set_aside`; its problem names the file and matches `message`;
- "noted": the case is usable or was never one; a note names the file and matches `message`;
- "refused": names that cannot be told apart stop the scan; the error names the file and matches
  `message`;
- "handled": nothing to complain of; the summary of the report matches `message`.

`pixels` says what the store must hold of the victim then: "same" as without the damage (but one
grey value), "gone", or a function (image, mask, image before, mask before) that asserts; its
arrays are (n, H, W, channels).
"""

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import RTStructureSetStorage

from tests.helpers import edit_dicom


class Defect(NamedTuple):
    name: str
    preset: str
    plant: Callable[[Path], Path]
    expect: str
    message: str = ""  # a regular expression
    pixels: Any = "same"
    after_scan: bool = False  # the damage comes between scan and build
    all_cases: bool = False  # every case is a victim


# ---- where the victim lies


def picture(tree: Path) -> Path:
    """The third picture of a tree of pictures."""
    folders = ("MontgomerySet/CXR_png", "images", "PALM/Training/Images")
    folder = next(tree / name for name in folders if (tree / name).is_dir())
    return sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg", ".bmp"))[2]


def mask(tree: Path, folder: str = "") -> Path:
    """Its mask: the left lung, the disc, or the only one."""
    if (tree / "MontgomerySet").is_dir():
        return tree / "MontgomerySet/ManualMask" / (folder or "leftMask") / picture(tree).name
    if (tree / "PALM").is_dir():
        return tree / "PALM/Training" / (folder or "Disc Masks") / f"{picture(tree).stem}.bmp"
    return next(
        file
        for file in sorted((tree / "masks").iterdir())
        if file.stem.startswith(picture(tree).stem)
    )


def frame(tree: Path) -> Path:
    """The first volume of an ACDC tree; its labels: `labels(tree)`."""
    return next(f for f in sorted(tree.rglob("*_frame*.nii.gz")) if "_gt" not in f.name)


def series(tree: Path) -> Path:
    """The folder of the first DICOM series."""
    return next(folder for folder in sorted((tree / "train_images").glob("*/*")) if folder.is_dir())


def slices(tree: Path) -> list[Path]:
    return sorted(series(tree).glob("*.dcm"), key=lambda file: int(file.stem))


def labels(tree: Path) -> Path:
    """The label map of the first volume."""
    if (tree / "train_images").is_dir():
        return tree / "segmentations" / f"{series(tree).name}.nii"
    return frame(tree).with_name(frame(tree).name.replace(".nii", "_gt.nii"))


SIDES = ("leftMask", "rightMask")


def victim(preset: str, tree: Path) -> str:
    """How the names of the victim's cases begin."""
    if preset == "rsna":
        return f"{series(tree).parent.name}_{series(tree).name}"
    return frame(tree).name.removesuffix(".nii.gz") if preset == "cardiac" else picture(tree).stem


# ---- damage to files of any kind


def cut(path: Path, share: float = 0.5) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def flip_byte(path: Path, share: float = 0.9) -> Path:
    whole = bytearray(path.read_bytes())
    whole[int(len(whole) * share)] ^= 0xFF
    path.write_bytes(whole)
    return path


def replaced(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def folder_instead(path: Path) -> Path:
    """What root, who may read everything, cannot read either."""
    path.unlink()
    path.mkdir()
    return path


def link(path: Path, target: str | Path) -> Path:
    path.unlink()
    path.symlink_to(target)
    return path


def moved(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def copied(path: Path, name: str | Path) -> Path:
    return Path(shutil.copy(path, path.with_name(str(name))))


def removed(path: Path) -> Path:
    path.unlink()
    return path


def every(tree: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Change all masks of the binary tree; the report names the class."""
    for path in (tree / "masks").iterdir():
        remask(path, change)
    return Path("structure")


# ---- damage to pictures


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Written over `path`, without loss where the suffix allows it."""
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path


def redraw(path: Path, change: Callable[[np.ndarray], np.ndarray], **options: Any) -> Path:
    return save(path, change(pixels_of(path)), **options)


def remask(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Another mask in its place, without loss; `change` gets it as (H, W) of 0 and 255."""
    return save(path, change(truth_of(path)))


def truth_of(path: Path) -> np.ndarray:
    array = pixels_of(path)
    return (array.reshape(*array.shape[:2], -1).max(axis=2) > array.max() / 2) * np.uint8(255)


def converted(path: Path, mode: str, **options: Any) -> Path:
    with Image.open(path) as file:
        file.convert(mode).save(path, **options)
    return path


def renamed_suffix(path: Path, suffix: str, mode: str = "", **options: Any) -> Path:
    """Saved in another format, under its suffix."""
    with Image.open(path) as file:
        picture = file.convert(mode or file.mode)
    path.unlink()
    picture.save(path.with_suffix(suffix), **options)
    return path.with_suffix(suffix)


def other_format(path: Path, format: str) -> Path:
    """Saved in another format, under the old suffix."""
    with Image.open(path) as file:
        file.load()
        file.save(path, format=format)
    return path


def turned_by_tag(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as file:
        file.load()
        file.save(path, exif=exif, quality=95)
    return path


def frames(path: Path, suffix: str) -> Path:
    """A file of three pictures instead of one."""
    with Image.open(path) as file:
        first = file.convert("L")
        others = [first.point(lambda v, k=k: v // k) for k in (2, 3)]
        path.unlink()
        path = path.with_suffix(suffix)
        first.save(path, save_all=True, append_images=others)
    return path


def bomb(path: Path, side: int = 60000) -> Path:
    """A PNG of some hundred bytes whose header declares side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(1000))),
        chunk(b"IEND", b""),
    ]
    return replaced(path, b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def palette_mask(path: Path) -> Path:
    mask = Image.fromarray(truth_of(path) // 255)
    mask.putpalette([0, 0, 0, 200, 30, 30])
    mask.save(path)
    return path


def two_colours(path: Path) -> Path:
    array = truth_of(path)
    colours = np.zeros((*array.shape, 3), np.uint8)
    colours[array > 127] = (255, 0, 0)
    colours[: len(colours) // 2, :5] = (0, 255, 0)
    return save(path, colours)


def in_alpha(path: Path) -> Path:
    array = truth_of(path)
    return save(path, np.dstack([np.full((*array.shape, 3), 255, np.uint8), array]))


def soft(path: Path) -> Path:
    rows = np.linspace(0, 1, len(truth_of(path)))[:, None]
    return remask(path, lambda array: (array * rows).astype(np.uint8))


def lossy_mask(path: Path) -> Path:
    truth = truth_of(path)
    path.unlink()
    return save(path.with_suffix(".jpg"), truth, quality=85)


def saved_anew(path: Path) -> Path:
    """The same pixels in another file: another level of compression."""
    again = path.with_name(f"{path.stem}a.png")
    with Image.open(path) as file:
        file.save(again, compress_level=1)
    for side in SIDES:
        masks = path.parents[1] / "ManualMask" / side
        shutil.copy(masks / path.name, masks / again.name)
    return again


def under_two_names(path: Path, masks: Path) -> Path:
    copied(masks, f"{path.stem}a_mask.png")
    return copied(path, f"{path.stem}a{path.suffix}")


def grey_float(path: Path, value: float, share: float) -> Path:
    """A TIFF of floats, the first rows of which are `value`."""
    array = pixels_of(path).astype(np.float32)
    array[: int(len(array) * share)] = value
    path.unlink()
    return save(path.with_suffix(".tif"), array)


def drop_copies(tree: Path) -> Path:
    """What file browsers and archives leave behind."""
    for folder in [f for f in tree.rglob("*") if f.is_dir()]:
        file = next((f for f in sorted(folder.iterdir()) if f.is_file()), None)
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (folder / "desktop.ini").write_bytes(b"[.ShellClassInfo]")
        if file:
            (folder / f"._{file.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    return tree


def macosx_folder(tree: Path) -> Path:
    """The folder that archives of macOS bring along: the same tree with a stub for every file."""
    for file in [f for f in tree.rglob("*") if f.is_file()]:
        stub = tree / "__MACOSX" / file.relative_to(tree).with_name(f"._{file.name}")
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    return tree


def clash(tree: Path) -> Path:
    """Two more cases, flipped and turned, whose names differ in upper and lower case only."""
    image, truth = picture(tree), mask(tree)
    for name, way in (
        ("extra", Image.Transpose.FLIP_LEFT_RIGHT),
        ("Extra", Image.Transpose.ROTATE_180),
    ):
        for path, new in ((image, name + image.suffix), (truth, f"{name}_mask{truth.suffix}")):
            with Image.open(path) as file:
                file.transpose(way).save(path.with_name(new))
    return image


def bytes_in_name(path: Path) -> Path:
    """A name in Latin-1, as old archives unpack: no valid UTF-8."""
    name = os.fsdecode(b"caf\xe9" + os.fsencode(path.suffix))
    return moved(path, name)


def unicode_name(tree: Path) -> Path:
    name = picture(tree).name
    new = f"Röntgen, Nr. 3 – 肺 {name}"
    for folder in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
        moved(tree / "MontgomerySet" / folder / name, new)
    return tree / "MontgomerySet/CXR_png" / new


def line_break(tree: Path) -> Path:
    truth = mask(tree)
    stem = "les\nion"
    image = moved(picture(tree), f"{stem}{picture(tree).suffix}")
    moved(truth, f"{stem}_mask{truth.suffix}")
    return image


def image_missing(tree: Path) -> Path:
    truth = mask(tree)
    picture(tree).unlink()
    return truth


def unknown_suffix(tree: Path) -> Path:
    truth = mask(tree)
    moved(picture(tree), f"{picture(tree).stem}.dat")
    return truth


def other_suffix(path: Path) -> Path:
    """Another image of the same name before the suffix."""
    with Image.open(path) as file:
        file.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_suffix(".tif"))
    return path.with_suffix(".tif")


# ---- damage to NIfTI files


def rewrite(
    path: Path,
    change: Callable[[np.ndarray], np.ndarray] = lambda a: a,
    affine: Any = None,
    **header: Any,
):
    """The file with other voxels, another affine or another type of number."""
    image = nibabel.load(path)
    array = change(np.array(np.asanyarray(image.dataobj)))  # a copy: the file is overwritten below
    affine = image.affine if affine is None else affine(image.affine.copy())
    new = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    new.header.set_xyzt_units("mm")
    if "slope" in header:  # stored numbers are (value - inter) / slope
        new = nibabel.Nifti1Image(np.rint(array / header["slope"]).astype(np.int16), affine)
        new.header.set_slope_inter(header["slope"], 0)
    nibabel.save(new, path)
    return path


def shift(mm: float) -> Callable[[np.ndarray], np.ndarray]:
    def move(affine: np.ndarray) -> np.ndarray:
        affine[0, 3] += mm
        return affine

    return move


def backwards(path: Path) -> Path:
    """The same labels stored from the other side, with an affine that says so: a valid file."""
    image = nibabel.load(path)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = image.shape[0] - 1
    return rewrite(path, lambda a: a[::-1], lambda affine: affine @ flip)


def header_claims(path: Path, shape: tuple[int, ...]) -> Path:
    """A NIfTI file whose header declares many more voxels than it holds."""
    raw = bytearray(
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    )
    raw[40:56] = struct.pack("<8h", len(shape), *shape, *[1] * (7 - len(shape)))
    return replaced(path, gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))


def long_tail(path: Path, megabytes: int = 600) -> Path:
    """A gzip file of under a megabyte that unpacks to so many megabytes behind its voxels."""
    block = gzip.compress(bytes(1 << 20), 9)
    with open(path, "ab") as file:
        for _ in range(megabytes):  # members of one gzip file follow each other
            file.write(block)
    return path


def with_value(array: np.ndarray, value: float, n: int = 100) -> np.ndarray:
    """A copy as floats with `n` voxels of its middle slice set to `value`."""
    array = array.astype(np.float32)
    array[array.shape[0] // 2].flat[:n] = value
    return array


def one_voxel(array: np.ndarray, value: int) -> np.ndarray:
    array = array.copy()
    array[tuple(side // 2 for side in array.shape)] = value
    return array


def bad_affine(path: Path, first: float, others: float) -> Path:
    """An affine (12 numbers at byte 280) that nibabel would refuse to write."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[252:256] = struct.pack("<2h", 0, 1)  # no qform
    raw[280:328] = struct.pack("<12f", first, *[others] * 11)
    return replaced(path, gzip.compress(bytes(raw)))


def in_two_parts(tree: Path) -> Path:
    """The second frame of the first patient lies in `testing`."""
    other = sorted(
        f
        for f in frame(tree).parent.glob("*.nii.gz")
        if not f.name.startswith(frame(tree).name[:-7])
    )
    folder = tree / "testing" / frame(tree).parent.name
    folder.mkdir(parents=True)
    for file in other:
        file.rename(folder / file.name)
    return folder


def labels_alone(tree: Path) -> Path:
    truth = labels(tree)
    frame(tree).unlink()
    return truth


# ---- damage to DICOM series


def edit_all(tree: Path, tags: Callable[[int], dict[str, Any]]) -> Path:
    for k, path in enumerate(slices(tree)):
        edit_dicom(path, **tags(k))
    return series(tree)


def second_version(path: Path) -> Path:
    """Another image at the position of `path`, as of a second reconstruction."""
    other = copied(path, "900.dcm")
    data = pydicom.dcmread(other)
    data.PixelData = bytes(len(data.PixelData))
    data.SOPInstanceUID = f"{data.SOPInstanceUID}.9"
    data.save_as(other)
    return path


def structure_set(folder: Path) -> Path:
    """An RT structure set among the slices."""
    data = pydicom.dcmread(sorted(folder.glob("*.dcm"))[0], stop_before_pixels=True)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = RTStructureSetStorage
    del data.Rows, data.Columns
    data.save_as(folder / "RS.dcm")
    return folder / "RS.dcm"


def tree_of_nested_links(tree: Path) -> Path:
    """A folder that holds itself."""
    (tree / "images" / "again").symlink_to(tree, target_is_directory=True)
    return tree


# ---- what the store must hold where the damage is harmless


def near(image, mask, image_before, mask_before):
    """The same mask but for some pixels of its edge; the image within the losses of a format."""
    assert np.abs(image.astype(int) - image_before).mean() < 8
    assert (mask != mask_before).mean() < 0.01 and (mask == 1).any()


def same_mask(image, mask, image_before, mask_before):
    np.testing.assert_array_equal(mask, mask_before)


def same_image(image, mask, image_before, mask_before):
    np.testing.assert_array_equal(image, image_before)


def stretched(image, mask, image_before, mask_before):
    """More than 8 bits: the same picture, its values drawn over 0..255."""
    same_mask(image, mask, image_before, mask_before)
    assert np.corrcoef(image.ravel(), image_before.ravel())[0, 1] > 0.999 and image.max() > 200


def empty(image, mask, image_before, mask_before):
    same_image(image, mask, image_before, mask_before)
    assert not (mask == 1).any() and (mask == 0).any()


def black(image, mask, image_before, mask_before):
    same_mask(image, mask, image_before, mask_before)
    assert image.min() == image.max()


CUT_SHORT = r"not readable as an image.*cut short.*copy it again"

OTHER_GRID = (
    "labels of .* for a volume of .*make both on one grid|"
    "without orientation.*write the volume's affine"
)

DEFECTS = [
    # sizes
    Defect(
        "masks of left and right differ in size",
        "lung",
        lambda t: remask(mask(t), lambda a: a[::2, ::2]),
        "set aside",
        "different sizes.*must agree",
    ),
    Defect(
        "mask and image differ in size",
        "binary",
        lambda t: remask(mask(t), lambda a: a[::2, ::2]),
        "set aside",
        r"mask is .* but its image is .*export both",
    ),
    Defect(
        "mask transposed",
        "binary",
        lambda t: remask(mask(t), np.transpose),
        "set aside",
        "looks transposed",
    ),
    Defect(
        "mask upside down",
        "lung",
        lambda t: [remask(mask(t, side), np.flipud) for side in SIDES] and picture(t),
        "noted",
        "better upside down: look",
        pixels=same_image,
    ),
    Defect(
        "mask of one class of another size",
        "palm",
        lambda t: remask(mask(t), lambda a: a[:-9]),
        "set aside",
        "different sizes.*expected one for all.*Disc Masks",
    ),
    Defect(
        "label volume of another shape",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a[:, :-1]),
        "set aside",
        OTHER_GRID,
    ),
    # channels, depth, colours
    Defect(
        "16-bit X-ray",
        "lung",
        lambda t: redraw(picture(t), lambda a: a.astype(np.uint16) * 200 + 3),
        "handled",
        pixels=stretched,
    ),
    Defect(
        "16-bit mask",
        "lung",
        lambda t: remask(mask(t), lambda a: a.astype(np.uint16) * 257),
        "handled",
    ),
    Defect("mask of 0 and 1", "lung", lambda t: remask(mask(t), lambda a: a // 255), "handled"),
    Defect("mask of 1 bit", "binary", lambda t: remask(mask(t), lambda a: a > 0), "handled"),
    Defect("X-ray in RGB", "lung", lambda t: converted(picture(t), "RGB"), "handled"),
    Defect("X-ray with transparency", "lung", lambda t: converted(picture(t), "LA"), "handled"),
    Defect(
        "image as palette", "lung", lambda t: converted(picture(t), "P"), "handled", pixels=near
    ),
    Defect(
        "CMYK JPEG",
        "binary",
        lambda t: renamed_suffix(picture(t), ".jpg", "CMYK", quality=95),
        "handled",
        pixels=near,
    ),
    Defect("mask as palette", "binary", lambda t: palette_mask(mask(t)), "handled"),
    Defect(
        "mask red on black",
        "binary",
        lambda t: remask(
            mask(t), lambda a: a[..., None] // np.uint8([1, 255, 255]) * np.uint8([1, 0, 0])
        ),
        "handled",
    ),
    Defect("mask in the alpha channel", "binary", lambda t: in_alpha(mask(t)), "handled"),
    Defect(
        "mask of two colours",
        "binary",
        lambda t: two_colours(mask(t)),
        "set aside",
        "several colours.*mask_encoding",
    ),
    Defect(
        "photograph in place of the mask",
        "binary",
        lambda t: save(mask(t), pixels_of(picture(t))),
        "set aside",
        "ambiguous mask.*mask_encoding",
    ),
    # polarity, lossy and soft masks
    Defect(
        "one mask inverted",
        "binary",
        lambda t: remask(mask(t), lambda a: 255 - a),
        "set aside",
        "looks inverted beside the others",
    ),
    Defect(
        "one mask not inverted in an inverted class",
        "palm",
        lambda t: remask(mask(t), lambda a: 255 - a),
        "set aside",
        "looks inverted beside the others",
    ),
    Defect(
        "all masks inverted",
        "binary",
        lambda t: every(t, lambda a: 255 - a),
        "noted",
        "0 is the structure",
        all_cases=True,
    ),
    Defect("mask as JPEG", "binary", lambda t: lossy_mask(mask(t)), "handled", pixels=near),
    Defect(
        "soft mask",
        "binary",
        lambda t: soft(mask(t)),
        "set aside",
        "soft mask or label map.*mask_encoding",
    ),
    Defect(
        "empty mask",
        "binary",
        lambda t: remask(mask(t), np.zeros_like),
        "handled",
        "there, 0 missing, 1 empty",
        pixels=empty,
    ),
    Defect(
        "all masks empty",
        "binary",
        lambda t: every(t, np.zeros_like),
        "noted",
        "empty.*nothing",
        pixels=empty,
        all_cases=True,
    ),
    Defect(
        "mask full",
        "binary",
        lambda t: remask(mask(t), lambda a: np.full_like(a, 255)),
        "set aside",
        "inverted",
    ),
    # damaged files
    Defect("PNG cut short", "lung", lambda t: cut(picture(t)), "set aside", CUT_SHORT),
    Defect("mask cut short", "lung", lambda t: cut(mask(t)), "set aside", CUT_SHORT),
    Defect("JPEG cut short", "binary", lambda t: cut(picture(t), 0.9), "set aside", CUT_SHORT),
    Defect("BMP cut short", "palm", lambda t: cut(mask(t)), "set aside", CUT_SHORT),
    Defect(
        "one byte of a PNG changed",
        "lung",
        lambda t: flip_byte(picture(t)),
        "set aside",
        "a PNG picture that cannot be decoded.*damaged",
    ),
    Defect(
        "image of zero bytes",
        "lung",
        lambda t: replaced(picture(t), b""),
        "set aside",
        "empty.*again",
    ),
    Defect(
        "mask of zero bytes", "palm", lambda t: replaced(mask(t), b""), "set aside", "empty.*again"
    ),
    Defect(
        "web page saved as PNG",
        "lung",
        lambda t: replaced(picture(t), b"<html>404 not found</html>"),
        "set aside",
        "it is an HTML page; the download failed",
    ),
    Defect(
        "60000 x 60000 pixels in a tiny file",
        "lung",
        lambda t: bomb(picture(t)),
        "set aside",
        "[Bb]omb.*save it",
    ),
    Defect(
        "mask of 60000 x 60000 pixels",
        "lung",
        lambda t: bomb(mask(t)),
        "set aside",
        "[Bb]omb.*save it",
    ),
    Defect(
        "a folder with the name of an image",
        "lung",
        lambda t: folder_instead(picture(t)),
        "set aside",
        "a folder, not a file",
    ),
    Defect(
        "a folder with the name of a mask",
        "lung",
        lambda t: folder_instead(mask(t)),
        "set aside",
        "a folder, not a file",
    ),
    Defect(
        "link that leads to itself",
        "lung",
        lambda t: link(picture(t), picture(t).name),
        "set aside",
        "link.*leads nowhere.*copy",
    ),
    Defect(
        "link to a file that is gone",
        "binary",
        lambda t: link(mask(t), "gone.png"),
        "set aside",
        "link.*leads nowhere.*copy",
    ),
    Defect("folder that holds itself", "binary", tree_of_nested_links, "handled"),
    Defect(
        "image vanishes after the scan",
        "lung",
        lambda t: removed(picture(t)),
        "set aside",
        "no such file",
        after_scan=True,
    ),
    Defect(
        "mask vanishes after the scan",
        "lung",
        lambda t: removed(mask(t)),
        "set aside",
        "no such file",
        after_scan=True,
    ),
    Defect(
        "volume vanishes after the scan",
        "cardiac",
        lambda t: removed(frame(t)),
        "set aside",
        "no such file",
        after_scan=True,
    ),
    # formats
    Defect(
        "JPEG called .png",
        "lung",
        lambda t: other_format(picture(t), "JPEG"),
        "handled",
        pixels=near,
    ),
    Defect("PNG called .jpg", "binary", lambda t: other_format(picture(t), "PNG"), "handled"),
    Defect(
        "suffix in capitals", "binary", lambda t: moved(mask(t), f"{mask(t).stem}.PNG"), "handled"
    ),
    Defect(
        "suffix that no picture has",
        "binary",
        unknown_suffix,
        "noted",
        "mask without an image",
        pixels="gone",
    ),
    Defect(
        "JPEG stored upside down by EXIF",
        "binary",
        lambda t: turned_by_tag(picture(t), 3),
        "noted",
        "EXIF orientation.*save",
        pixels=near,
    ),
    Defect(
        "JPEG stored on its side by EXIF",
        "binary",
        lambda t: turned_by_tag(picture(t), 6),
        "noted",
        "EXIF orientation.*save",
        pixels=near,
    ),
    Defect(
        "JPEG stored on its side by EXIF, its mask is not",
        "binary",
        lambda t: remask(mask(t), np.transpose) and turned_by_tag(picture(t), 6) and mask(t),
        "set aside",
        "looks transposed.*orientation tag.*save it turned",
    ),
    Defect(
        "animated GIF",
        "binary",
        lambda t: frames(picture(t), ".gif"),
        "set aside",
        "3 pictures.*expected one",
    ),
    Defect(
        "TIFF of several pages",
        "lung",
        lambda t: frames(picture(t), ".tif"),
        "set aside",
        "3 pictures.*expected one",
    ),
    Defect(
        "mask as TIFF of several pages",
        "binary",
        lambda t: frames(mask(t), ".tif"),
        "set aside",
        "3 pictures.*expected one",
    ),
    Defect(
        "constant image",
        "lung",
        lambda t: redraw(picture(t), np.zeros_like),
        "noted",
        "every pixel is 0: .*export it again",
        pixels=black,
    ),
    Defect(
        "float TIFF with NaN",
        "lung",
        lambda t: grey_float(picture(t), np.nan, 0.05),
        "handled",
        pixels=same_mask,
    ),
    Defect(
        "float TIFF of NaN only",
        "lung",
        lambda t: grey_float(picture(t), np.nan, 1),
        "set aside",
        "no finite number",
    ),
    # names and pairs
    Defect(
        "mask missing",
        "binary",
        lambda t: removed(mask(t)) and picture(t),
        "set aside",
        "no mask exists",
    ),
    Defect(
        "mask of one lung missing",
        "lung",
        lambda t: removed(mask(t)) and picture(t),
        "set aside",
        "no mask exists",
    ),
    Defect(
        "image missing", "binary", image_missing, "noted", "mask without an image", pixels="gone"
    ),
    Defect(
        "mask without an image",
        "binary",
        lambda t: copied(mask(t), "other_mask.png"),
        "noted",
        "mask without an image",
    ),
    Defect("unicode, spaces and commas in a name", "lung", unicode_name, "handled"),
    Defect(
        "name that is no valid UTF-8",
        "binary",
        lambda t: bytes_in_name(picture(t)),
        "refused",
        "UTF-8.*rename",
    ),
    Defect("line break in a name", "binary", line_break, "handled"),
    Defect(
        "two images of one name",
        "binary",
        lambda t: other_suffix(picture(t)),
        "refused",
        "same name.*keep one",
    ),
    Defect(
        "names that differ in upper and lower case only",
        "binary",
        clash,
        "handled",
        "images read .*10",
    ),
    Defect(
        "one image under two names",
        "binary",
        lambda t: under_two_names(picture(t), mask(t)),
        "set aside",
        "same content as.*leak",
        pixels="same",
    ),
    Defect(
        "one image saved anew under another name",
        "lung",
        lambda t: saved_anew(picture(t)),
        "set aside",
        "same content as.*leak",
        pixels="same",
    ),
    Defect("files of file browsers", "lung", drop_copies, "handled"),
    Defect("files of file browsers among volumes", "cardiac", drop_copies, "handled"),
    Defect("folder __MACOSX", "lung", macosx_folder, "handled"),
    Defect("folder __MACOSX beside pictures", "binary", macosx_folder, "handled"),
    Defect("one patient in two parts", "cardiac", in_two_parts, "noted", "two parts.*move"),
    # numbers of label maps
    Defect(
        "labels one too high",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a + 1),
        "set aside",
        r"label numbers \[4\] are not among.*label_map",
    ),
    Defect(
        "labels one too high, the last class absent",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: np.minimum(a, 2) + 1),
        "noted",
        "no background.*shifted",
        pixels=same_image,
    ),
    Defect(
        "labels one too low",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a - np.uint8(1)),
        "noted",
        "255.*ignored",
        pixels=same_image,
    ),
    Defect(
        "one voxel of an unknown label",
        "rsna",
        lambda t: rewrite(labels(t), lambda a: one_voxel(a, 77)),
        "set aside",
        "label numbers .*77",
    ),
    Defect(
        "negative label",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: one_voxel(a.astype(np.int16), -1)),
        "set aside",
        "negative",
    ),
    Defect(
        "labels resampled with interpolation",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: (a[:] + np.roll(a, 1, 0)) / np.float32(2)),
        "set aside",
        "not whole numbers",
    ),
    Defect(
        "labels as floats",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a.astype(np.float32)),
        "handled",
    ),
    # geometry of volumes
    Defect(
        "labels transposed",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a.transpose(1, 0, 2)),
        "set aside",
        OTHER_GRID,
    ),
    Defect(
        "labels stored backwards, with their affine",
        "cardiac",
        lambda t: backwards(labels(t)),
        "handled",
    ),
    Defect(
        "labels backwards in the affine only",
        "cardiac",
        lambda t: rewrite(labels(t), affine=lambda m: m @ np.diag([-1.0, 1, 1, 1])),
        "set aside",
        "voxels beside its volume.*make both on one grid",
    ),
    Defect(
        "labels shifted by 20 mm",
        "rsna",
        lambda t: rewrite(labels(t), affine=shift(20)),
        "set aside",
        "voxels beside its volume.*make both on one grid",
    ),
    Defect(
        "labels mirrored, the header unchanged",
        "cardiac",
        lambda t: rewrite(labels(t), lambda a: a[::-1]) and frame(t),
        "noted",
        "better mirrored left to right: look",
        pixels=same_image,
    ),
    Defect(
        "labels upside down, the header unchanged",
        "rsna",
        lambda t: rewrite(labels(t), lambda a: a[:, ::-1]) and series(t),
        "noted",
        "better upside down: look",
        pixels=same_image,
    ),
    Defect(
        "square labels transposed, the header unchanged",
        "rsna",
        lambda t: rewrite(labels(t), lambda a: a.transpose(1, 0, 2)) and series(t),
        "noted",
        "better transposed.*: look",
        pixels=same_image,
    ),
    Defect(
        "affine of NaN",
        "cardiac",
        lambda t: bad_affine(frame(t), np.nan, 1),
        "set aside",
        "affine is no geometry.*write a correct header",
    ),
    Defect(
        "affine of zeros",
        "cardiac",
        lambda t: bad_affine(labels(t), 0, 0),
        "set aside",
        "affine is no geometry.*write a correct header",
    ),
    Defect(
        "four axes",
        "cardiac",
        lambda t: rewrite(frame(t), lambda a: np.stack([a, a], -1)),
        "set aside",
        "4-D.*split it first",
    ),
    Defect(
        "one axis too many, of one voxel",
        "cardiac",
        lambda t: rewrite(frame(t), lambda a: a[..., None]),
        "handled",
    ),
    # voxels of volumes
    Defect(
        "NaN voxels",
        "cardiac",
        lambda t: rewrite(frame(t), lambda a: with_value(a, np.nan)),
        "noted",
        "not finite numbers; set to the minimum",
        pixels=same_mask,
    ),
    Defect(
        "NaN only",
        "cardiac",
        lambda t: rewrite(frame(t), lambda a: a * np.float32(np.nan)),
        "set aside",
        "no voxel is a finite number",
    ),
    Defect(
        "voxels scaled by the header", "cardiac", lambda t: rewrite(frame(t), slope=0.5), "handled"
    ),
    Defect(
        "constant volume",
        "cardiac",
        lambda t: rewrite(frame(t), np.zeros_like),
        "noted",
        "all voxels are alike: .*export it again",
        pixels=same_mask,
    ),
    # damaged volumes
    Defect(
        "gzip cut short",
        "cardiac",
        lambda t: cut(frame(t)),
        "set aside",
        "cut short.*copy it again",
    ),
    Defect(
        "gzip of labels cut short",
        "cardiac",
        lambda t: cut(labels(t)),
        "set aside",
        "cut short.*copy it again",
    ),
    Defect(
        "gzip cut in the header", "cardiac", lambda t: cut(frame(t), 0.001), "set aside", "damaged"
    ),
    Defect(
        "one byte of a gzip changed",
        "cardiac",
        lambda t: flip_byte(frame(t)),
        "set aside",
        "cut short or damaged",
    ),
    Defect(
        "volume of zero bytes", "cardiac", lambda t: replaced(frame(t), b""), "set aside", "damaged"
    ),
    Defect(
        "labels of zero bytes", "rsna", lambda t: replaced(labels(t), b""), "set aside", "damaged"
    ),
    Defect(
        "NIfTI that is not compressed, called .gz",
        "cardiac",
        lambda t: replaced(frame(t), gzip.decompress(frame(t).read_bytes())),
        "noted",
        "is not compressed, against its suffix",
    ),
    Defect(
        "header that declares a huge volume",
        "cardiac",
        lambda t: header_claims(frame(t), (30000, 30000, 30000)),
        "set aside",
        "declares",
    ),
    Defect(
        "header of labels that declares a huge volume",
        "rsna",
        lambda t: header_claims(labels(t), (30000, 30000, 30000)),
        "set aside",
        "declares",
    ),
    Defect(
        "gzip that unpacks to 600 MB",
        "cardiac",
        lambda t: long_tail(frame(t)),
        "set aside",
        "declares",
    ),
    Defect(
        "labels missing",
        "cardiac",
        lambda t: removed(labels(t)) and frame(t),
        "noted",
        "volume without labels",
        pixels="gone",
    ),
    Defect(
        "labels without a volume",
        "cardiac",
        labels_alone,
        "noted",
        "labels without a volume",
        pixels="gone",
    ),
    Defect(
        "series without labels",
        "rsna",
        lambda t: removed(labels(t)) and series(t),
        "noted",
        "volume without labels",
        pixels="gone",
    ),
    # DICOM
    Defect(
        "missing slice",
        "rsna",
        lambda t: removed(slices(t)[7]) and labels(t),
        "set aside",
        "labels of .* for a volume of .*make both on one grid",
    ),
    Defect(
        "slice twice", "rsna", lambda t: copied(slices(t)[7], "900.dcm"), "noted", "second copy of"
    ),
    Defect(
        "two images at one position",
        "rsna",
        lambda t: second_version(slices(t)[7]),
        "set aside",
        "another image at the position.*separate them",
    ),
    Defect(
        "InstanceNumber shuffled",
        "rsna",
        lambda t: edit_all(t, lambda k: {"InstanceNumber": k * 7 % 5}),
        "handled",
    ),
    Defect(
        "two series in a folder",
        "rsna",
        lambda t: edit_dicom(slices(t)[7], SeriesInstanceUID="1.2.3").parent,
        "set aside",
        "2 series, expected one",
    ),
    Defect(
        "no PixelSpacing",
        "rsna",
        lambda t: edit_all(t, lambda k: {"PixelSpacing": None}) and labels(t),
        "set aside",
        "voxels beside its volume.*no PixelSpacing: correct",
    ),
    Defect(
        "no PixelSpacing in one slice",
        "rsna",
        lambda t: edit_dicom(slices(t)[0], PixelSpacing=None),
        "set aside",
        "PixelSpacing",
    ),
    Defect(
        "another PixelSpacing in one slice",
        "rsna",
        lambda t: edit_dicom(slices(t)[7], PixelSpacing=[1, 1]),
        "set aside",
        "PixelSpacing",
    ),
    Defect(
        "RT structure set in the folder",
        "rsna",
        lambda t: structure_set(series(t)),
        "noted",
        "no images and were skipped",
    ),
    Defect(
        "text among the slices",
        "rsna",
        lambda t: replaced(series(t) / "notes.txt", b"portal venous"),
        "noted",
        "no images and were skipped",
    ),
    Defect(
        "text called .dcm",
        "rsna",
        lambda t: replaced(slices(t)[7], b"<html>404</html>"),
        "set aside",
        "not a DICOM file: it is an HTML page; the download failed",
    ),
    Defect("DICOM cut short", "rsna", lambda t: cut(slices(t)[7]), "set aside", "copy it again"),
    Defect(
        "DICOM cut in the header",
        "rsna",
        lambda t: cut(slices(t)[7], 0.01),
        "set aside",
        "copy it again",
    ),
    Defect(
        "DICOM of zero bytes",
        "rsna",
        lambda t: replaced(slices(t)[7], b""),
        "set aside",
        "copy it again",
    ),
    Defect(
        "slice of another size",
        "rsna",
        lambda t: edit_dicom(slices(t)[7], Rows=64, Columns=256),
        "set aside",
        "one series must have one size",
    ),
]
