"""What a file is, by its first bytes. Its name is not asked: names are often wrong.

Readers use this for their error messages: a volume that was named like a picture is no damaged
picture, and copying it again would not help.
"""

import mmap
import re
import zipfile
import zlib
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path

N_BYTES = 1024  # how much of a file is looked at

PNG = b"\x89PNG\r\n\x1a\n"
JPEG_PIXELS = 0xDA  # the marker behind which the pixels of a JPEG file begin
# (offset, bytes there) -> what the file is. The formats that can only be told by more than that
# follow in the functions below. DICOM comes first: its first 128 bytes may be a TIFF header.
_SIGNATURES = {
    (128, b"DICM"): "a DICOM file",
    (0, PNG): "a PNG picture",
    (0, b"\xff\xd8\xff\xf7"): "a JPEG-LS picture",
    (0, b"\xff\xd8\xff"): "a JPEG picture",
    (0, b"GIF87a"): "a GIF picture",
    (0, b"GIF89a"): "a GIF picture",
    (0, b"II*\0"): "a TIFF picture",
    (0, b"MM\0*"): "a TIFF picture",
    (0, b"II+\0"): "a TIFF picture",  # BigTIFF, as in the next line
    (0, b"MM\0+"): "a TIFF picture",
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"): "a JPEG 2000 picture",
    (0, b"\xff\x4f\xff\x51"): "a JPEG 2000 picture",
    (0, b"\0\0\0\x0cJXL \r\n\x87\n"): "a JPEG XL picture",
    (0, b"\xff\x0a"): "a JPEG XL picture",
    (8, b"WEBP"): "a WebP picture",
    (0, b"8BPS"): "a Photoshop document (.psd)",
    (0, b"\x76\x2f\x31\x01"): "an OpenEXR picture",
    (0, b"#?RADIANCE"): "a Radiance HDR picture",
    (0, b"\0\0\1\0"): "an icon (.ico)",
    (0, b"SIMPLE  ="): "a FITS file",
    (0, b"NRRD000"): "an NRRD volume",
    (0, b"\x89HDF\r\n\x1a\n"): "an HDF5 file",
    (0, b"CDF\x01"): "a netCDF file",
    (0, b"MATLAB 5.0 MAT-file"): "a MATLAB file (.mat)",
    (0, b"\x93NUMPY"): "a NumPy array (.npy)",
    (0, b"\x80\x02c"): "a Python pickle",
    (0, b"\x80\x04\x95"): "a Python pickle",
    (0, b"ZISRAWFILE"): "a Zeiss microscope file (.czi)",
    (0, b"\xda\xce\xbe\x0a"): "a Nikon microscope file (.nd2)",
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"): "an OLE file (Olympus .oib, or an old Word document)",
    (0, b"TRACK\0"): "a file of streamlines (TrackVis, .trk)",
    (0, b"mrtrix tracks"): "a file of streamlines (MRtrix, .tck)",
    (0, b"MATRIX72"): "an ECAT volume (.v)",
    (0, b"%PDF"): "a PDF document",
    (0, b"%!PS"): "a PostScript file",
    (0, b"{\\rtf"): "an RTF document",
    (8, b"AVI "): "a video",
    (0, b"\x1a\x45\xdf\xa3"): "a video",
    (0, b"BZh"): "a bzip2 archive",
    (0, b"\xfd7zXZ\0"): "an xz archive",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7-Zip archive",
    (0, b"Rar!\x1a\x07"): "a RAR archive",
    (0, b"\x28\xb5\x2f\xfd"): "a Zstandard archive",
    (257, b"ustar"): "a tar archive",
    (0, b"\x4c\0\0\0\x01\x14\x02\0"): "a Windows shortcut",
    (0, b"book\0\0\0\0mark"): "a macOS alias",
    (0, b"\0\x05\x16\x07"): "an AppleDouble file, in which macOS keeps attributes of another file",
    (0, b"SQLite format 3\0"): "an SQLite database",
    (0, b"MZ"): "a Windows program",
    (0, b"\x7fELF"): "a program",
}
# Signature of a text file, in lower case and without leading white space -> what the file is.
_TEXTS = {
    rb"version https://git-lfs": "a Git LFS pointer",
    rb".{0,200}/annex/objects/": "a git-annex pointer",
    rb"outs:\s|md5: |wdir: ": "a DVC pointer",
    rb"<!doctype html|<html|<head": "an HTML page",
    rb"(<\?xml.*?)?(<!--.*?-->\s*|<!doctype svg.*?>\s*)*<svg": "an SVG drawing",
    rb"<\?xml.*?<html": "an HTML page",
    rb"<\?xml.*?<ome": "OME metadata (XML) without the picture",
    rb"<\?xml.*?<gifti": "a file of surfaces (GIFTI)",
    rb"<\?xml|<error>": "an XML file",
    rb"# === data description file": "the header of a Philips volume (.PAR)",
    rb"type\s*=\s*(string|integer|float)-attribute": "the header of an AFNI volume (.HEAD)",
    rb"[\[{]\s*[\"\[{\d]": "a JSON file",
}
TWICE = "a gzip archive within a gzip archive, so it was compressed twice"
_ISO_MEDIA = {
    "a HEIC picture": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "an AVIF picture": (b"avif", b"avis"),
}
# Suffix of a file that holds nothing but voxels -> suffix of its header, and what it is then.
_VOXELS = {
    ".img": (".hdr", "the voxels of a NIfTI or Analyze volume, whose header is the .hdr beside it"),
    ".rec": (".PAR", "the voxels of a Philips volume, whose header is the .PAR beside it"),
    ".brik": (".HEAD", "the voxels of an AFNI volume, whose header is the .HEAD beside it"),
}
# The pictures that are read -> Pillow's name of the format.
PICTURES = {
    "a PNG picture": "PNG",
    "a JPEG picture": "JPEG",
    "a TIFF picture": "TIFF",
    "a BMP picture": "BMP",
    "a GIF picture": "GIF",
    "a WebP picture": "WEBP",
    "a JPEG 2000 picture": "JPEG2000",
    "a PGM or PPM picture": "PPM",
}
# Version 1 and four numbers of voxels below 65536, all big-endian.
_FREESURFER = rb"\x00\x00\x00\x01(\x00\x00..){4}"
# The first element of a DICOM file without a preamble: group 2 or 8 and a small element number,
# then two capital letters (the value representation) or a length below 256.
_DICOM = (
    rb"[\x02\x08]\x00[\x00-\x64]\x00([A-Z][A-Z]|.\x00\x00\x00)"
    rb"|\x00[\x02\x08]\x00[\x00-\x64]([A-Z][A-Z]|\x00\x00\x00)"
)


def kind_of(path: str | Path) -> str | None:
    """What a file is by its content, with its article: "a NIfTI volume", "an HTML page".

    None where that cannot be told: the file is unknown, empty, a folder or not readable.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(N_BYTES)
    except OSError:
        return None
    if len(start) < 4:
        return None
    if Path(path).suffix.lower() == ".mnc" and start.startswith((b"CDF\1", b"\x89HDF")):
        return "a MINC volume (.mnc)"
    for (offset, signature), kind in _SIGNATURES.items():
        if start[offset:].startswith(signature):
            return kind
    return (
        _volume(Path(path), start)
        or _picture(start)
        or _archive(path, start)
        or _text(start)
        or ("a file of zeros, of which nothing was written" if not any(start) else None)
    )


def advice_for(kind: str) -> str:
    """What to do with a file of this kind where a picture is expected."""
    if "pointer" in kind:
        tool = {"a Git LFS pointer": "git lfs pull", "a git-annex pointer": "git annex get"}
        return f"fetch the file itself: {tool.get(kind, 'dvc pull')}"
    if "DICOM" in kind and "archive" not in kind:
        return "give the folder of its series, or save it as PNG to use it as a picture"
    if "header" in kind:
        return (
            "save the volume as one file in NIfTI (.nii.gz), for example with 3D Slicer or nibabel"
        )
    if kind.startswith("a NIfTI"):
        return "name it .nii or .nii.gz, so that it is read as a volume"
    if "volume" in kind:
        return "save it as NIfTI (.nii.gz), for example with 3D Slicer or SimpleITK"
    if "HTML" in kind or "XML" in kind or "zeros" in kind:
        return "the download failed; open the address in a browser, and download the file again"
    if kind == TWICE:
        return "unpack it once, and keep its name"
    if "archive" in kind:
        return "unpack it"
    if kind in ("a Windows shortcut", "a macOS alias"):
        return "put the file to which it leads in its place"
    if "AppleDouble" in kind or "program" in kind:
        return "remove it"
    return "open it in the program that it comes from, and save it as PNG or TIFF"


def is_cut_short(path: str | Path) -> bool:
    """Whether the end of a picture file is missing, by what its format says of its length.

    False also where the format does not tell.
    """
    kind, size = kind_of(path), Path(path).stat().st_size
    if kind not in ("a PNG picture", "a JPEG picture", "a GIF picture") and size < 30:
        return kind in PICTURES
    if not size:
        return False
    if kind == "a PNG picture":
        return b"IEND" not in png_chunks(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if kind == "a JPEG picture":
            return _jpeg_ends_early(content)
        if kind == "a GIF picture":
            return content.rfind(b"\x3b", max(0, size - 64)) < 0
        if kind == "a BMP picture":
            # Programs that write 0 for the size of the file are common.
            return size < int.from_bytes(content[2:6], "little")
        if kind == "a WebP picture":
            ends_in_zeros = not any(content[-32:])
            return ends_in_zeros or size < int.from_bytes(content[4:8], "little") + 8
        if kind == "a JPEG 2000 picture":
            return content.rfind(b"\xff\xd9", max(0, size - 64)) < 0
    return False


def png_chunks(path: str | Path) -> set[bytes]:
    """The names of the chunks of a PNG file, such as b"IDAT"; without b"IEND" it is cut short."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names, position = set(), len(PNG)
        while position + 12 <= len(content) and b"IEND" not in names:
            length = int.from_bytes(content[position : position + 4], "big")
            names.add(content[position + 4 : position + 8])
            position += length + 12
    return names


def jpeg_markers(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG file before its pixels, and where each stands.

    The last one is `JPEG_PIXELS`, or 0 where the file ends or is damaged before its pixels.
    """
    position = 2
    while position + 5 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        yield marker, position
        if marker == JPEG_PIXELS:
            return
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    yield 0, position


def _jpeg_ends_early(content: mmap.mmap) -> bool:
    """Whether a JPEG file has no end-of-image mark behind the start of its pixels.

    In front of them, a thumbnail has such a mark too.
    """
    *_, (_, position) = jpeg_markers(content)
    return content.rfind(b"\xff\xd9", min(position, len(content))) < 0


def _volume(path: Path, start: bytes) -> str | None:
    """NIfTI, Analyze and MetaImage volumes, and DICOM files without the mark DICM."""
    if start[:2] == b"\x1f\x8b":
        inner = _unpacked(start)
        if re.match(_FREESURFER, inner, re.DOTALL):
            return "a FreeSurfer volume (.mgz)"
        if inner[128:132] == b"DICM":
            return "a compressed DICOM file (.dcm.gz), an archive"
        if _nifti(inner) == "a NIfTI volume":
            return "a NIfTI volume (.nii.gz)"
        start = b""  # what follows looks at files as they are
    if re.match(rb"(ObjectType|NDims|Comment|DimSize) *=", start):
        if path.suffix.lower() == ".mhd":
            return "the header of a MetaImage volume (.mhd)"
        return "a MetaImage volume (.mha)"
    if re.match(_DICOM, start, re.DOTALL):
        return "a DICOM file"
    if re.match(_FREESURFER, start, re.DOTALL) and any(start[4:20]):
        return "a FreeSurfer volume (.mgh)"
    return _nifti(start) or _voxels(path)


def _unpacked(start: bytes) -> bytes:
    """The first bytes of a gzip archive unpacked; fewer, or none, where it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(start, N_BYTES)
    except zlib.error:
        return b""


def _voxels(path: Path) -> str | None:
    """The half of a volume in two files that holds its voxels, which have no signature."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix, kind = _VOXELS.get(name.suffix.lower(), ("", ""))
    headers = [name.with_suffix(form) for form in (suffix, suffix.lower())] if suffix else []
    return kind if any(header.is_file() for header in headers) else None


def _nifti(start: bytes) -> str | None:
    """NIfTI and Analyze by the size of their header, 348 or 540 bytes, in either byte order."""
    size = start[:4]
    if size in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        magic = start[344:348]
    elif size in (b"\x1c\2\0\0", b"\0\0\2\x1c"):
        magic = start[4:8]
    else:
        return None
    if magic[:3] in (b"n+1", b"n+2"):
        return "a NIfTI volume"
    if magic[:3] in (b"ni1", b"ni2"):
        return "the header of a NIfTI volume (.hdr)"
    return "the header of an Analyze volume (.hdr)"


def _picture(start: bytes) -> str | None:
    """BMP, the portable formats PBM, PGM and PPM, and the pictures and videos of ISO media."""
    # The size of the header that follows the 14 bytes of the file header.
    if start[:2] == b"BM" and start[14:18] in {
        bytes([n, 0, 0, 0]) for n in (12, 40, 52, 56, 64, 108, 124)
    }:
        return "a BMP picture"
    if re.match(rb"P[1-7fF]\s", start):
        return "a PGM or PPM picture"
    if start[4:8] != b"ftyp":
        return None
    brands = start[8:64]
    for kind, names in _ISO_MEDIA.items():
        if start[8:12] in names or (start[8:12] in (b"mif1", b"miaf") and names[0] in brands):
            # AVIF files may name the general brand first.
            return "an AVIF picture" if b"avif" in brands else kind
    return "a video"


def _archive(path: str | Path, start: bytes) -> str | None:
    """ZIP files by what they hold, and gzip."""
    if start[:2] == b"\x1f\x8b":
        return TWICE if _unpacked(start)[:2] == b"\x1f\x8b" else "a gzip archive"
    if start[:4] not in (b"PK\3\4", b"PK\5\6"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)"
    for part, kind in (("word/", "a Word document"), ("xl/", "an Excel table")):
        if any(name.startswith(part) for name in names):
            return kind
    if any(name.endswith("/data.pkl") for name in names):
        return "weights or tensors of PyTorch"
    return "a ZIP archive"


def _text(start: bytes) -> str | None:
    """Text files: pages, pointers and descriptions."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, kind in _TEXTS.items():
        if re.match(signature, text, re.DOTALL):
            return kind
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return None
    is_whole = len(start) < N_BYTES  # else the last character may be cut in two
    try:
        getincrementaldecoder("utf-8")().decode(start, final=is_whole)
    except UnicodeDecodeError:
        return None
    return "a text file"
