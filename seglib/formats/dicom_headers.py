"""Headers of DICOM files: which files hold a slice of grey values, and which series they form.

Stored numbers are grey values only where the header says so. Colours, palettes, multi-frame images,
mosaics and masks are refused by their name; reports, plans and other objects beside the slices are
skipped and named. `dicom` orders and places the slices, `dicom_values` decodes their values.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from . import signatures

# Files that may lie beside the slices: skipped where they are not DICOM. Any other file that is
# not DICOM counts as a damaged slice.
OTHER_SUFFIXES = """.txt .csv .json .xml .html .md .pdf .png .jpg .jpeg .gif .nii .gz .zip .db .ini
    .log .py .npy .yaml .xlsx""".split()
MAX_FILES = 100  # how many files of a folder inside that of a series are looked at
OTHER_NAMES = ("DICOMDIR", "LICENSE", "README")
# Numeric attribute -> how many numbers it must hold where it is present.
NUMBERS = {
    "PixelSpacing": 2,
    "ImagerPixelSpacing": 2,
    "NominalScannedPixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    **dict.fromkeys(
        """Rows Columns NumberOfFrames SamplesPerPixel InstanceNumber SliceThickness
        SpacingBetweenSlices RescaleSlope RescaleIntercept BitsAllocated BitsStored HighBit
        PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit""".split(),
        1,
    ),
}
# Other attributes that are asked for. pydicom converts a value when it is first asked for it, and
# fails on a damaged one.
TEXTS = """SOPClassUID ImageType SeriesInstanceUID SeriesDescription Modality RescaleType
    PhotometricInterpretation PresentationLUTShape ModalityLUTSequence VOILUTSequence
    RealWorldValueMappingSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence""".split()
# Name in messages -> tag of an attribute that only one manufacturer writes.
PRIVATE = {
    "b-value (Siemens)": (0x0019, 0x100C),
    "b-value (GE)": (0x0043, 0x1039),
    "b-value (Philips)": (0x2001, 0x1003),
}
# Attribute that all slices of a series share -> what it may mean where they differ.
IDENTITIES = {
    "PatientID": "slices of two patients may have been mixed",
    "StudyInstanceUID": "slices of two examinations may have been mixed",
    "FrameOfReferenceUID": "their positions may not be those of one space",
}
# Words in ImageType of pictures that are no slices of their series, and what such pictures are.
NO_SLICES = {
    "LOCALIZER": "localizer",
    "PROJECTION IMAGE": "projection",
    "MIP": "projection",
    "MINIP": "projection",
    "SCREEN SAVE": "screen shot",
}


class SliceFile(NamedTuple):
    """The path and the header of one image file."""

    path: Path
    header: Any

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def pixel_spacing(self) -> np.ndarray:
        """Distance between rows and between columns in mm; empty where it is not known."""
        spacing = floats(self.header.get("PixelSpacing"))
        return spacing if (spacing > 0).all() else spacing[:0]

    @property
    def position(self) -> np.ndarray:
        """(x, y, z) in mm of the centre of the first pixel; empty where the header has none."""
        return floats(self.header.get("ImagePositionPatient"))

    @property
    def directions(self) -> np.ndarray:
        """Vectors along a row and along a column, (6,); empty where the header has none."""
        return floats(self.header.get("ImageOrientationPatient"))

    @property
    def is_placed(self) -> bool:
        return len(self.position) == 3 and len(self.directions) == 6


def split_series(path: str | Path) -> tuple[Path, str | None]:
    """`FOLDER#UID`, one of several series in a folder -> the folder and the SeriesInstanceUID.

    The UID of any other path is None.
    """
    folder, mark, uid = str(path).rpartition("#")
    if mark and re.fullmatch(r"[\d.]+", uid) and not Path(path).exists():
        return Path(folder), uid
    return Path(path), None


def paths_of(source: Any) -> list[Path]:
    """The visible files of a folder, sorted by name; a file or a list of files as it is.

    Raises:
        DataError: nothing exists at the path.
    """
    if not isinstance(source, str | Path):
        return [Path(file) for file in source]
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such folder of DICOM files; check the path")
    files = [source] if source.is_file() else sorted(source.iterdir())
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def read(where: Any, paths: list[Path], series: str | None, notes: list[str]) -> list[SliceFile]:
    """The slices of one series among these files; what is left out is named in `notes`.

    Args:
        where: what error messages name.
        series: SeriesInstanceUID to read where there are several.

    Raises:
        DataError: no image, a damaged file, several series, or images that are no grey slices of
            one size.
    """
    slices, skipped = [], []
    for path in paths:
        header = _header(path)
        if isinstance(header, str):
            skipped.append(f"{path.name} ({header})")
        else:
            slices.append(SliceFile(path, header))
    listed = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
    if not slices:
        kinds = f": {listed}" if listed else ""
        raise DataError(
            f"{where}: no DICOM image among {len(paths)} files{kinds}; expected the files of one "
            "series"
        )
    if skipped:
        notes.append(f"{len(skipped)} files are no images and were skipped: {listed}")
    _note_sub_folders(where, notes)
    slices = _without_pictures(slices, notes)
    slices = _choose_series(where, slices, series)
    for file in slices:
        _check_grey(file)
    _check_alike(slices)
    _note_image_types(slices, notes)
    _note_identities(slices, notes)
    return slices


def patient_id(source: Any) -> str:
    """The PatientID of the first file of a series that is DICOM; "" where it has none."""
    import pydicom

    uid = None
    if isinstance(source, str | Path):
        source, uid = split_series(source)
    tags = ["PatientID", "SeriesInstanceUID"]
    for path in paths_of(source):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        except Exception:  # pydicom raises many kinds on damaged files, which `read` reports
            continue
        if uid is None or header.get("SeriesInstanceUID") == uid:
            return str(header.get("PatientID") or "").strip()
    return ""


def modality(path: str | Path) -> str:
    """The Modality of a readable DICOM file, such as CT; "" where it has none."""
    return text_of(path, "Modality")


def text_of(path: str | Path, name: str) -> str:
    """One attribute of a readable DICOM file as text; "" where it has none."""
    import pydicom

    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[name])
    return str(header.get(name) or "").strip()


def sop_class(path: str | Path) -> str:
    """The UID that says what a DICOM file is; "" where it cannot be read."""
    import pydicom

    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True
        )
        return str(header.get("SOPClassUID") or "")
    except Exception:  # pydicom raises many kinds on damaged files, which their readers report
        return ""


def floats(value: Any) -> np.ndarray:
    """The numbers of an attribute as an array; empty where it is absent or empty."""
    if value is None or value == "":
        return np.array([])
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return np.array([float(number) for number in (value if is_list else [value])])


def check_numbers(path: Path, header: Any) -> None:
    """Refuse attributes that are not finite numbers, or not as many as the standard says."""
    for name, expected in NUMBERS.items():
        try:
            value = header.get(name)
            numbers = floats(value)
            valid = len(numbers) in (0, expected) and np.isfinite(numbers).all()
        except Exception:  # the conversion of a damaged value fails in many ways
            value, valid = "no number", False
        if not valid:
            remedy = advice(path, "the header is damaged: correct it, or take the file out")
            raise DataError(f"{path}: {name} is {value}; expected {expected} finite; {remedy}")


def advice(path: Path, otherwise: str) -> str:
    """What to do with a file that is not readable: to copy it again helps only where it ends early.

    Args:
        otherwise: what to do with a file that is whole.
    """
    return "the file is cut short: copy it again" if _is_cut_short(path) else otherwise


def _is_cut_short(path: Path) -> bool:
    """Whether a file ends inside an element, so that a part of it must be missing."""
    import pydicom

    try:
        data = pydicom.dcmread(path)
    except (EOFError, struct.error):
        return True
    except Exception:  # damaged otherwise
        return False
    # pydicom returns an empty data set where a file ends inside compressed pixels.
    if not len(data):
        return True
    last = data.get_item(max(data.keys()))
    length = getattr(last, "length", 0xFFFFFFFF)  # elements that were converted have none
    if length == 0xFFFFFFFF:  # the length is not given, but ends with a mark
        return False
    # Bytes behind the last element are a beginning of the next one.
    return last.value_tell + length != path.stat().st_size


def difference(slices: Sequence[SliceFile], names: Iterable[str]) -> str:
    """The first attribute whose value differs between two files, with its values; "" if none.

    Args:
        names: keywords of DICOM, or names of `PRIVATE`.
    """
    for name in names:
        try:
            one, other = [_text(file.header, name) for file in slices]
        except Exception:  # a damaged value proves nothing
            continue
        if one != other:
            return f"{name} {one} and {other}"
    return ""


def _text(header: Any, name: str) -> str:
    """The value of an attribute as DICOM writes it."""
    value = header.get(PRIVATE.get(name, name))
    # A private attribute comes with its tag and type.
    value = getattr(value, "value", value)
    if value is None:
        return "missing"
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return "\\".join(map(str, value)) if is_list else str(value)


def read_header(path: Path) -> Any:
    """The header of a file that holds an image.

    Raises:
        DataError: it is damaged, or holds no image.
    """
    header = _header(path)
    if isinstance(header, str):
        raise DataError(f"{path}: {header}; expected an image")
    return header


# ---- one file


def _header(path: Path) -> Any:
    """The header of an image file; what else the file is, in words, where it holds no image.

    Raises:
        DataError: the file is damaged.
    """
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        sop_class = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
        for name in TEXTS:
            header.get(name)
    except pydicom.errors.InvalidDicomError as error:
        if path.suffix.lower() in OTHER_SUFFIXES or path.name.upper() in OTHER_NAMES:
            return "not DICOM"
        raise DataError(f"{path}: not a DICOM file: {_why_not_dicom(path)}") from error
    except Exception as error:  # on damaged headers pydicom raises errors of many kinds
        problem = f"damaged DICOM header ({type(error).__name__}: {error})"
        remedy = advice(path, "correct it, or take the file out of the folder")
        raise DataError(f"{path}: {problem}; {remedy}") from error
    kind = getattr(sop_class, "name", "")  # a damaged UID may be a list, which has no name
    # Reports and presentation states are stored as "... Storage" as well.
    if kind.endswith("Storage") and "Image" not in kind:
        return kind
    check_numbers(path, header)
    if not header.get("Rows") or not header.get("Columns"):
        remedy = advice(path, "take it out of the folder, or export it again from its archive")
        raise DataError(
            f"{path}: {kind or 'a DICOM file'} without rows or columns, so without an image; "
            f"{remedy}"
        )
    return header


def _why_not_dicom(path: Path) -> str:
    """What a file is that pydicom does not take for DICOM, and what to do."""
    kind, size = signatures.kind_of(path), path.stat().st_size
    if kind == "a DICOM file":
        return (
            "it looks like DICOM without its meta information and the mark DICM, so how it is "
            "encoded is not told; open it in a DICOM program and save it from there"
        )
    if kind and ("pointer" in kind or "HTML" in kind or "zeros" in kind):
        return f"it is {kind}; {signatures.advice_for(kind)}"
    if kind:
        return f"it is {kind}; take it out of the folder"
    if size < 132:
        return f"it has {size} bytes, fewer than any DICOM file; copy it again"
    return "the mark DICM at byte 128 is missing; take it out of the folder, or correct it"


def _check_grey(file: SliceFile) -> None:
    """Refuse an image whose stored numbers are not the grey values of one slice.

    Raises:
        DataError: says what the image is instead, and what to do.
    """
    problem = unlike_a_slice(file.header) or _unlike_values(file.header)
    if problem:
        # Where the header ends early, the attribute that is missed may stand in the lost part.
        raise DataError(f"{file.path}: {advice(file.path, problem)}")


def unlike_a_slice(header: Any) -> str:
    """Why an image is not one slice, and what to do; "" where it is."""
    to_nifti = "convert it to NIfTI, for example with dcm2niix"
    n_frames = int(floats(header.get("NumberOfFrames")).sum() or 1)
    if "MOSAIC" in _image_type(header):
        return f"a Siemens mosaic, whose tiles are the slices of a volume; {to_nifti}"
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    if any(header.get(name) is not None for name in groups):
        kind = f"an enhanced multi-frame image ({n_frames} frames)"
        return f"{kind}, whose positions and rescaling stand in functional groups; {to_nifti}"
    if n_frames > 1:
        return (
            f"a multi-frame image ({n_frames} frames: a film or a stack); expected one grey slice "
            "a file: save its frames as single files or pictures"
        )
    return ""


def _unlike_values(header: Any) -> str:
    """Why the stored numbers of an image are not grey values, and what to do; "" where they are."""
    to_pictures = "save it as PNG to use it as a picture"
    interpretation = header.get("PhotometricInterpretation") or "missing"
    n_samples = int(floats(header.get("SamplesPerPixel")).sum() or 1)
    if interpretation == "PALETTE COLOR":
        return (
            "PALETTE COLOR: its numbers are places in a table of colours, not grey values; "
            f"{to_pictures}"
        )
    if n_samples > 1 or str(interpretation).startswith(("RGB", "YBR", "HSV", "ARGB", "CMYK")):
        return f"a colour image ({interpretation}); expected grey values; {to_pictures}"
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return (
            f"PhotometricInterpretation is {interpretation}; expected MONOCHROME1 or MONOCHROME2, "
            "which say what its numbers mean: correct the header"
        )
    if interpretation == "MONOCHROME2" and header.get("PresentationLUTShape") == "INVERSE":
        return (
            "MONOCHROME2 says that high numbers are bright, PresentationLUTShape INVERSE that they "
            "are dark: correct one of the two"
        )
    bits = int(floats(header.get("BitsAllocated")).sum())
    if bits not in (8, 16, 32):
        kind = " (a mask)" if bits == 1 else ""
        return f"{bits} bits for each pixel{kind}; expected 8, 16 or 32: convert it to NIfTI"
    if header.get("PixelRepresentation") is None:
        return (
            "no PixelRepresentation: whether its numbers have signs is unknown; correct the header"
        )
    if header.get("RescaleSlope") == 0:
        return "RescaleSlope is 0, which would make all values equal; correct the header"
    return ""


# ---- several files


def _without_pictures(slices: list[SliceFile], notes: list[str]) -> list[SliceFile]:
    """The images without localizers, projections and screen shots, unless all of them are such."""
    kinds = [picture_kind(file.header) for file in slices]
    if all(kinds) or not any(kinds):
        return slices
    for kind, number in Counter(filter(None, kinds)).items():
        notes.append(f"{number} {kind} images were skipped")
    return [file for file, kind in zip(slices, kinds) if not kind]


def _note_sub_folders(where: Any, notes: list[str]) -> None:
    """Name the folders inside that of a series whose DICOM files are not read."""
    if not isinstance(where, str | Path) or not Path(where).is_dir():
        return
    for folder in sorted(Path(where).glob("[!.]*/")):
        paths = (path for _, path in zip(range(MAX_FILES), folder.rglob("[!.]*")))
        if any(path.is_file() and signatures.kind_of(path) == "a DICOM file" for path in paths):
            notes.append(
                f"the folder {folder.name} in it also holds DICOM files, which are not read; "
                "put them beside the others if they belong to the series"
            )


def picture_kind(header: Any) -> str:
    """What an image is that lies beside the slices but is none of them; "" for a slice."""
    image_type = _image_type(header)
    for word, kind in NO_SLICES.items():
        if word in image_type:
            return kind
    if "Secondary Capture" in getattr(header.get("SOPClassUID"), "name", ""):
        return "secondary capture"
    return ""


def _image_type(header: Any) -> list[str]:
    """The words of ImageType; pydicom returns a single one as a string."""
    image_type = header.get("ImageType") or ()
    return [image_type] if isinstance(image_type, str) else [str(word) for word in image_type]


def _choose_series(where: Any, slices: list[SliceFile], series: str | None) -> list[SliceFile]:
    """The slices of the one series there is, or of the series that was asked for by its UID."""
    groups: dict[str, list[SliceFile]] = {}
    for file in slices:
        groups.setdefault(str(file.header.get("SeriesInstanceUID") or ""), []).append(file)
    if series is None and len(groups) == 1:
        return slices
    if series in groups:
        return groups[series]
    listed = "; ".join(
        f"{uid or '(no number)'}: {len(members)} files, "
        f"{members[0].header.get('SeriesDescription') or 'no description'}"
        for uid, members in groups.items()
    )
    if series is not None:
        raise DataError(f"{where}: no series {series!r}; found {listed}")
    raise DataError(
        f"{where}: {len(groups)} series, expected one; name one by series=, or give each its "
        f"folder: {listed}"
    )


def _check_alike(slices: list[SliceFile]) -> None:
    """Refuse slices that cannot form one array of one kind of values."""
    reference = slices[0]
    for file in slices:
        _check_like(file, reference)
    for name in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"):
        without = [file for file in slices if file.header.get(name) in (None, "")]
        if 0 < len(without) < len(slices):
            raise DataError(
                f"{without[0].path}: no {name}, as in {len(without)} of {len(slices)} slices; the "
                "values of one series must have one scale: restore it, or take the files out"
            )


def _check_like(file: SliceFile, reference: SliceFile) -> None:
    """Refuse a slice of another size, pixel spacing or modality than the first one."""
    size = f"{file.header.Rows}x{file.header.Columns}"
    usual_size = f"{reference.header.Rows}x{reference.header.Columns}"
    if size != usual_size:
        raise DataError(
            f"{file.path}: {size} pixels but {reference.name} has {usual_size}; one series must "
            "have one size: take the other slices out of the folder"
        )
    own, usual = file.pixel_spacing, reference.pixel_spacing
    if len(own) != len(usual) or not np.allclose(own, usual, rtol=0.01):
        raise DataError(
            f"{file.path}: PixelSpacing {own.tolist() or 'missing'} but {reference.name} has "
            f"{usual.tolist() or 'none'}; one series must have one: correct the header, or "
            "take the file out of the folder"
        )
    if file.header.get("Modality") != reference.header.get("Modality"):
        raise DataError(
            f"{file.path}: Modality {file.header.get('Modality')} but {reference.name} has "
            f"{reference.header.get('Modality')}; take the files of one of the two out"
        )


def _note_image_types(slices: list[SliceFile], notes: list[str]) -> None:
    """Name the images whose first words of ImageType differ from those of most slices."""
    image_types = ["\\".join(_image_type(file.header)[:3]) for file in slices]
    usual = Counter(image_types).most_common(1)[0][0]
    for i, image_type in enumerate(image_types):
        if image_type != usual:
            n_others = len(image_types) - image_types.count(usual)
            notes.append(
                f"{n_others} images are of another ImageType than the rest, such as "
                f"{slices[i].name} ({image_type or 'none'}, else {usual or 'none'}); look whether "
                "they belong to the series"
            )
            return


def _note_identities(slices: list[SliceFile], notes: list[str]) -> None:
    """Name attributes of the patient and of the space that must be the same in one series."""
    for name, meaning in IDENTITIES.items():
        for file in slices[1:]:
            # The values are those of a patient, and do not belong into a report.
            if difference((slices[0], file), [name]):
                notes.append(f"{name} of {file.name} is not that of {slices[0].name}: {meaning}")
                break
