"""Corrected masks on disk: the folder that `annotate.edit` writes and `annotate.merge` reads.

- `masks/<case>.png` holds class numbers; where classes may overlap, `masks/<class>/<case>.png`
  holds 0 and 1. 255 = ignored.
- `records/<case>.json` is written last. It names the image, the classes and the checksums of the
  mask files; files without a record that fits them do not count as saved.
- `drafts/<case>.png` is what was painted but not saved yet: the planes one below the other, and the
  same facts as in a record in the text of the file.

Every file is whole or not there, and nothing outside this folder is written.
"""

import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from . import case_io, files
from .errors import DataError
from .formats import channels, images, volumes

VERSION = 1
ABOUT = "seglib"  # key of the facts in the text of a draft
# Characters that no file name may hold on some system, and the sign that stands for them.
MAX_BYTES = 230  # of a file name: with a suffix and ".partial_", 255 are allowed
UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^\.|[. ]$')


class Corrections:
    """The corrected masks of one data set.

    Masks are (K, H, W) uint8: one plane of class numbers, or a plane of 0 and 1 for each class
    where classes may overlap; 255 = ignored.

    Attributes:
        folder: holds the files; it is made when the first mask is stored.
    """

    def __init__(self, folder: str | Path, cfg: Any):
        self.folder = Path(folder)
        self.task = cfg.task
        self.class_names = list(cfg.class_names)

    @property
    def n_planes(self) -> int:
        return len(self.class_names) if self.task == "multilabel" else 1

    @property
    def largest(self) -> int:
        """The largest number that a plane may hold, besides 255."""
        return len(self.class_names) - 1 if self.task == "multiclass" else 1

    def is_saved(self, case: Any) -> bool:
        """Whether there is a whole saved mask of this case.

        Raises:
            DataError: the record is of another image or of other classes, or it is damaged; or the
                mask was changed by another program.
        """
        record = self._record(case)
        if record is None:
            return False
        paths = list(self.mask_files(case).values())
        checksums = [images.sha256(path) if path.is_file() else "" for path in paths]
        if checksums == record.get("sha256"):
            return True
        # Where saving was interrupted, the draft is still there, and holds what was to be saved.
        if self.has_draft(case):
            return False
        raise DataError(
            f"{paths[0]}: changed after it was saved (or removed); move it and "
            f"{self._path('records', case, '.json')} away, and save it in the editor again"
        )

    def has_draft(self, case: Any) -> bool:
        """Whether something was painted that is not saved."""
        return self._path("drafts", case, ".png").is_file()

    def mask_files(self, case: Any) -> dict[str, Path]:
        """Column of the case table -> file of the saved mask, whether it exists or not."""
        if self.task == "multilabel":
            folders = {name: f"masks/{file_name(name)}" for name in self.class_names}
            return {name: self._path(part, case, ".png") for name, part in folders.items()}
        column = "labels" if self.task == "multiclass" else self.class_names[0]
        return {column: self._path("masks", case, ".png")}

    def read(self, case: Any, shape: tuple[int, int]) -> np.ndarray | None:
        """The draft of a case, else its saved mask, (K, H, W) uint8; None where there is neither.

        Args:
            shape: (height, width) of the image.

        Raises:
            DataError: a file is damaged, or is of another image, other classes or another size.
        """
        if self.has_draft(case):
            mask = self._read_draft(case)
        elif self.is_saved(case):
            paths = self.mask_files(case).values()
            mask = np.stack([case_io.read_exact(path, self.largest) for path in paths])
        else:
            return None
        if mask.shape != (self.n_planes, *shape):
            raise DataError(
                f"{self.folder}: the mask of {case['case']} is {mask.shape[1]}x{mask.shape[2]} with"
                f" {len(mask)} planes, its image is {shape[0]}x{shape[1]} with {self.n_planes}; "
                "give another folder"
            )
        return mask

    def keep(self, case: Any, mask: np.ndarray) -> None:
        """Store an unsaved state of the mask."""
        info = PngImagePlugin.PngInfo()
        info.add_text(ABOUT, json.dumps(self._about(case)))
        # A draft is written after each stroke: the least compression is the fastest.
        options = {"format": "PNG", "pnginfo": info, "compress_level": 1}
        with files.replacing(self._path("drafts", case, ".png")) as partial:
            Image.fromarray(mask.reshape(-1, mask.shape[2])).save(partial, **options)

    def save(self, case: Any, mask: np.ndarray) -> list[Path]:
        """Write the mask files, then the record that makes them count; returns the mask files."""
        paths = list(self.mask_files(case).values())
        for path, plane in zip(paths, mask):
            images.write_png(path, plane)
        record = {**self._about(case), "sha256": [images.sha256(path) for path in paths]}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        files.write_text(self._path("records", case, ".json"), text)
        self._path("drafts", case, ".png").unlink(missing_ok=True)
        return paths

    def _path(self, part: str, case: Any, suffix: str) -> Path:
        return self.folder / part / f"{file_name(case['case'])}{suffix}"

    def _about(self, case: Any) -> dict[str, Any]:
        """What has to be the same when a mask is used again."""
        return {
            "version": VERSION,
            "case": str(case["case"]),
            "image": image_key(case),
            "task": self.task,
            "class_names": self.class_names,
        }

    def _record(self, case: Any) -> dict[str, Any] | None:
        path = self._path("records", case, ".json")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: a damaged record ({error}); delete it") from error
        self._check(path, record, case)
        return record

    def _read_draft(self, case: Any) -> np.ndarray:
        path = self._path("drafts", case, ".png")
        try:
            with Image.open(path) as picture:
                about = json.loads(picture.text[ABOUT])
        except (OSError, ValueError, KeyError, AttributeError, Image.DecompressionBombError) as err:
            raise DataError(f"{path}: a damaged draft ({err!r}); delete it") from err
        self._check(path, about, case)
        stacked = case_io.read_exact(path, self.largest)
        if len(stacked) % self.n_planes:
            raise DataError(f"{path}: a draft without whole planes; delete it")
        return stacked.reshape(self.n_planes, -1, stacked.shape[1])

    def _check(self, path: Path, about: Any, case: Any) -> None:
        """Raise `DataError` where a stored mask is of another image or of other classes."""
        expected = self._about(case)
        if not isinstance(about, dict):
            raise DataError(f"{path}: no record of a mask; delete it")
        for name in expected:
            if about.get(name) != expected[name]:
                raise DataError(
                    f"{path}: a mask of another {name}: found {about.get(name)!r}, expected "
                    f"{expected[name]!r}; give another folder, or move this file away"
                )


def file_name(name: str) -> str:
    """A name of a case or class as the name of a file: no separators, and no hidden file.

    Raises:
        DataError: the name is too long for a file.
    """
    safe = UNSAFE.sub(lambda sign: f"%{ord(sign[0]):02X}", str(name))
    if len(safe.encode()) > MAX_BYTES or not safe:
        raise DataError(f"case {str(name)[:60]!r}: no file can have this name; rename the case")
    return safe


def image_key(case: Any) -> str:
    """What tells the image of a case from that of another case of the same name.

    The checksum of its files, so that a data set may be moved; of a folder of slices, their names
    and sizes. A slice of a volume has its number too.
    """
    cell = str(case["image"])
    return f"{_file_key(cell, volumes.stamp(cell))}{_slice_suffix(case)}"


def _slice_suffix(case: Any) -> str:
    number = str(case.get("slice", ""))
    return f":{number}" if number not in ("", "nan") else ""


@functools.lru_cache(maxsize=4096)
def _file_key(cell: str, stamp: tuple) -> str:
    """The checksum of the files, or of names and sizes in a folder; `stamp` makes it a new question
    where they have changed."""
    paths = channels.files(cell)
    if all(map(os.path.isfile, paths)):
        checksums = [images.sha256(path) for path in paths]
        if len(checksums) == 1:
            return checksums[0]
        return hashlib.sha256("".join(checksums).encode()).hexdigest()
    content = [(os.path.basename(name), size) for name, size, _ in stamp]
    return hashlib.sha256(repr(content or os.path.basename(cell)).encode()).hexdigest()
