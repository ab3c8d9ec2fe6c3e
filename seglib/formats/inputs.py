"""Which files of a folder can be predicted, and what the others are: no image is left out silently.

An image of another format, or one in a sub folder, is left out with a reason. Masks of images in
the same folder, told by their names, or by their names and values, and what is clearly no image (a
README, a table, hidden files), are only named.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError, listed
from . import (
    codecs,
    dicom,
    dicom_folders,
    dicom_pictures,
    images,
    mask_names,
    mask_pixels,
    mask_values,
    nifti,
    signatures,
    volumes,
)

# Suffixes of pictures that are read, although data sets rarely have them.
RARE_SUFFIXES = (".webp", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe", ".dib")
# Words in the kinds of `signatures` that are images.
IMAGE_WORDS = re.compile("picture|volume|DICOM|microscope|FITS|HDF5|netCDF|MATLAB|NumPy|Photoshop")
BY_SUFFIX = "by its suffix"
# Suffixes of images whose kind the first bytes may not tell (`BY_SUFFIX`), or tell wrongly.
IMAGE_SUFFIXES = {
    ".dcm": f"DICOM {BY_SUFFIX}",
    ".mgz": "a FreeSurfer volume",
    ".mgh": "a FreeSurfer volume",
    ".mnc": "a MINC volume",
    ".img": f"a volume {BY_SUFFIX}",
    ".hdr": f"the header of a volume {BY_SUFFIX}",
    ".raw": "voxels or pixels without a header",
    ".zraw": "voxels or pixels without a header",
    ".svs": "a whole-slide image",
    ".ndpi": "a whole-slide image",
    ".mrxs": "a whole-slide image",
    ".scn": "a whole-slide image",
    ".vsi": "a whole-slide image",
    ".lif": "microscope pictures",
    ".oib": "a microscope picture",
    ".heic": f"a HEIC picture {BY_SUFFIX}",
}
DICOM_FILE = "a DICOM file"
MAX_FILES = 1000  # how many files of a sub folder are looked at


class Inputs(NamedTuple):
    """The content of a folder.

    Attributes:
        files: the pictures and the files of volumes, sorted, and DICOM series, see
            `dicom_folders`.
        left_out: name -> reason, of images that are not predicted.
        no_image: the names of all others.
        masks: the names of those that are masks, see `_masks`.
    """

    files: list[Path]
    left_out: dict[str, str]
    no_image: list[str]
    masks: list[str]


def read(folder: str | Path, output: str | Path | None = None) -> Inputs:
    """Sort the content of a folder by what it is.

    Args:
        output: a sub folder that receives results, which is not looked into.

    Raises:
        DataError: there is no picture and no volume, or only masks; says what there is instead.
    """
    folder = Path(folder)
    inputs = Inputs([], {}, [], [])
    if folder.is_dir():  # DICOM slices in the folder itself
        inputs.files.extend(
            series.path for series in dicom_folders.read(folder, below=False).series
        )
    has_slices = bool(inputs.files)
    for path in sorted(folder.glob("*")):
        if output is not None and path.resolve() == Path(output).resolve():
            continue
        if path.name.startswith("."):
            inputs.no_image.append(path.name)
        elif can_be_predicted(path):
            inputs.files.append(path)
        elif has_slices and dicom_pictures.is_slice(path):
            continue
        elif path.is_dir() and _series_below(path):
            inputs.files.extend(_series_below(path))
        else:
            reason = _reason_of_folder(path) if path.is_dir() else _reason_of_file(path)
            if reason:
                inputs.left_out[path.name] = reason
            else:
                inputs.no_image.append(path.name)
    if not inputs.files:
        raise DataError(f"{folder}: {_why_nothing(folder, inputs)}")
    masks = _masks(inputs.files)
    if len(masks) == len(inputs.files):
        raise DataError(
            f"{folder}: only masks here, by their names ({listed(masks)}); give the folder of "
            "their images, or rename the files where they are images"
        )
    files = [path for path in inputs.files if path.name not in masks]
    return Inputs(files, inputs.left_out, inputs.no_image, masks)


def _masks(paths: list[Path]) -> list[str]:
    """The files that are masks of others, or all of them where each name says so.

    A mask has a word for masks in its name. Or it is called as an image beside it, with or without
    more words, and holds the values of a mask where the image does not: Image_01L_1stHO.png.
    """
    names = {
        path: nifti.stem(path) if volumes.is_volume(path) else path.stem
        for path in paths
        if path.is_file()
    }
    by_name = mask_names.masks_among(names.values())
    if len(names) == len(paths) and all(map(mask_names.names_labels, names.values())):
        by_name = by_name or set(names.values())
    by_values = _masks_by_values({p: name for p, name in names.items() if name not in by_name})
    return [path.name for path, name in names.items() if name in by_name or path in by_values]


def _masks_by_values(names: dict[Path, str]) -> set[Path]:
    """The files that are called as an image beside them and hold values of masks.

    Args:
        names: path -> its name without the suffix of its format.
    """
    files: dict[str, list[Path]] = {}
    for path, name in names.items():
        files.setdefault(name, []).append(path)
    owners, holds_mask = mask_names.Owners(files), functools.cache(_holds_mask)
    masks = set()
    for path, name in names.items():
        others = [other for other in files[name] if other != path]
        image, rest = owners.of(name, whole=False)
        if image is not None and mask_names.without_number(rest):
            others += files[image]
        if others and holds_mask(path) and not all(map(holds_mask, others)):
            masks.add(path)
    return masks


def _holds_mask(path: Path) -> bool:
    """Whether a file holds a background of 0 with one other value or class numbers, or colours."""
    try:
        if not volumes.is_volume(path) and codecs.header(path).is_jpeg:
            return False
        values = mask_values.read(path).counts
    except DataError:
        return False
    numbers = [value for value in values if isinstance(value, int)]
    if not numbers:
        return bool(values)
    return 0 in numbers and (len(numbers) <= 2 or max(numbers) <= mask_pixels.LARGEST_NUMBER)


def holds_several_series(path: str | Path | None) -> bool:
    """Whether a path is a folder of a patient or a study, with DICOM series in or below it."""
    if not path or not Path(path).is_dir():
        return False
    series = dicom_folders.read(path).series
    return len(series) > 1 or (len(series) == 1 and series[0].path != Path(path))


def label(file: Path, folder: str | Path) -> str:
    """What messages call a file or a series of a folder: its path from there on."""
    folder = Path(folder)
    return file.relative_to(folder).as_posix() if folder in file.parents else file.name


def _series_below(folder: Path) -> list[Path]:
    """The DICOM series in a folder that holds no pictures or volumes besides."""
    paths = [path for _, path in zip(range(MAX_FILES), folder.rglob("[!.]*"))]
    if any(can_be_predicted(path) for path in paths if path.is_file()):
        return []
    return [series.path for series in dicom_folders.read(folder).series]


def refuse_pictures(path: str | Path) -> None:
    """Raise `DataError` for a folder that was given as a DICOM series and holds no DICOM file."""
    folder = Path(path)
    if not folder.is_dir():
        return
    files = [file for file in sorted(folder.glob("[!.]*")) if file.is_file()]
    if any(kind_of_image(file) == DICOM_FILE for file in files):
        return
    n_images = sum(map(can_be_predicted, files))
    if n_images:
        raise DataError(
            f"{folder}: a folder with pictures or volumes ({n_images}), not a DICOM series: give "
            "it as --image_dir"
        )
    contents = [_described(path) for path in sorted(folder.glob("*")) if path.is_dir()]
    contents = list(filter(None, contents))
    if contents:
        raise DataError(f"{folder}: no DICOM series here; there is {'; '.join(contents[:3])}")


def _described(folder: Path) -> str:
    """The name of a sub folder with what it holds; "" where it holds no image."""
    reason = _reason_of_folder(folder)
    return f"{folder.name}, {reason}" if reason else ""


def can_be_predicted(path: Path) -> bool:
    """Whether a file is a picture or a volume."""
    name = path.name.lower()
    if name.endswith((*images.SUFFIXES, *volumes.SUFFIXES)):
        return True
    if dicom_pictures.is_picture(path):
        return True
    is_picture = name.endswith(RARE_SUFFIXES) and path.is_file()
    return is_picture and signatures.kind_of(path) in signatures.PICTURES


def kind_of_image(path: Path) -> str:
    """What an image file is, as its content says, or else its suffix; "" where it is no image."""
    kind = signatures.kind_of(path) or ""
    by_suffix = IMAGE_SUFFIXES.get(path.suffix.lower(), "")
    if path.name.upper() == "DICOMDIR":  # only a list of the DICOM files beside it
        return ""
    if by_suffix.endswith(BY_SUFFIX):
        return kind or by_suffix
    return by_suffix or (kind if IMAGE_WORDS.search(kind) else "")


def _reason_of_file(path: Path) -> str:
    """Why an image file is not predicted; "" where it is no image."""
    kind = kind_of_image(path)
    if kind in signatures.PICTURES:
        return f"{kind} by its content, under a name of another kind: rename it"
    return f"{kind}: {_advice(kind)}" if kind else ""


def _advice(kind: str) -> str:
    if kind == DICOM_FILE:
        return "give the folder of its series as --image_path, or save it as PNG"
    return signatures.advice_for(kind)


def _reason_of_folder(folder: Path) -> str:
    """Why a sub folder with images is not predicted; "" where it holds none."""
    paths = [path for _, path in zip(range(MAX_FILES), folder.rglob("[!.]*"))]
    files = [path for path in paths if path.is_file()]
    n_images = sum(map(can_be_predicted, files))
    n_dicom = sum(kind_of_image(path) == DICOM_FILE for path in files)
    if n_images:
        return f"a folder with pictures or volumes ({n_images}): give it as --image_dir"
    if n_dicom:
        return f"a folder with DICOM files ({n_dicom}): give each series as --image_path"
    reasons = list(filter(None, map(_reason_of_file, files)))
    return f"a folder with {_counted(reasons)}" if reasons else ""


def _why_nothing(folder: Path, inputs: Inputs) -> str:
    """What a folder without pictures and volumes holds instead, and what to do."""
    suffixes = ", ".join((*images.SUFFIXES, *volumes.SUFFIXES))
    if not folder.is_dir():
        what = "a file; give it as --image_path" if folder.exists() else "no such folder"
        return f"no picture or volume here ({what}); expected a folder of files in {suffixes}"
    n_dicom = sum(reason.startswith(DICOM_FILE) for reason in inputs.left_out.values())
    if n_dicom:
        return _about_dicom(folder, n_dicom)
    text = f"no picture or volume here; expected files ending in {suffixes}"
    return f"{text}; there is {_counted(inputs.left_out.values())}" if inputs.left_out else text


def _about_dicom(folder: Path, n_files: int) -> str:
    """What to do with a folder of DICOM files."""
    try:
        n_slices = len(dicom.open_series(folder).files)
    except DataError as error:
        return (
            f"{n_files} DICOM files, but not one series ({error}); give each series a folder of "
            "its own, and that folder as --image_path"
        )
    return (
        f"the slices of one DICOM series ({n_slices}), which are one volume; give the folder as "
        "--image_path (in Python: predict_volume)"
    )


def _counted(reasons: Iterable[str]) -> str:
    """The most frequent reasons, with how many files each has."""
    return "; ".join(f"{n} x {reason}" for reason, n in Counter(reasons).most_common(3))
