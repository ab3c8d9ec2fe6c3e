"""The widget of `annotate.edit`: the page paints, and this side owns the pixels.

The page (`mask_editor.js`) shows each change at once and sends it as a rectangle of runs, so that
pixels travel exactly, whatever the zoom. Here the change is applied, remembered for undo, stored,
and sent back to all views. After a reload, the page asks for everything again.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import anywidget
import cv2
import numpy as np
import traitlets

from .errors import DataError
from .tables import IGNORE

HERE = Path(__file__).parent
MAX_PIXELS = 100_000_000  # of all planes of a mask: what a page can hold
MAX_SHOWN = 4096  # pixels of the longer side of the image as it is shown; the mask has all
LOSSLESS = 4_000_000  # pixels up to which the image is shown as PNG, above as JPEG
HISTORY_BYTES = 64_000_000  # of compressed changes that can be undone


class Source(Protocol):
    """Where cases come from and masks go to: `annotate.Sheets`."""

    classes: list[dict[str, Any]]
    largest: int
    saved: set[int]
    first: int

    def __len__(self) -> int: ...
    def name(self, number: int) -> str: ...
    def open(self, number: int) -> tuple[np.ndarray, np.ndarray, str]: ...
    def keep(self, number: int, mask: np.ndarray) -> None: ...
    def save(self, number: int, mask: np.ndarray) -> Path: ...


class Box(NamedTuple):
    """A rectangle of one plane of a mask, in pixels."""

    plane: int
    top: int
    left: int
    height: int
    width: int

    def of(self, mask: np.ndarray) -> np.ndarray:
        """The pixels (height, width) of a mask (K, H, W), as a view of it."""
        rows = slice(self.top, self.top + self.height)
        return mask[self.plane, rows, self.left : self.left + self.width]


class Change(NamedTuple):
    """A rectangle before and after it was painted on, compressed."""

    box: Box
    before: bytes
    after: bytes

    @property
    def n_bytes(self) -> int:
        return len(self.before) + len(self.after)


def encode_runs(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """uint8 pixels of any shape as runs of equal values, row by row.

    Returns:
        The lengths, uint32 little-endian, and the values, uint8.
    """
    flat = np.ascontiguousarray(pixels).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] ^ 1)) if flat.size else np.empty(0, int)
    lengths = np.diff(starts, append=flat.size).astype("<u4")
    return lengths.tobytes(), flat[starts].tobytes()


def decode_runs(lengths: bytes, values: bytes, n_pixels: int) -> np.ndarray:
    """The reverse of `encode_runs`: (n_pixels,) uint8.

    Raises:
        DataError: the runs stand for another number of pixels.
    """
    if len(lengths) != 4 * len(values):
        raise DataError(f"runs: {len(lengths)} bytes of lengths for {len(values)} values")
    counts = np.frombuffer(lengths, "<u4")
    if int(counts.sum(dtype=np.int64)) != n_pixels:
        raise DataError(f"runs: {counts.sum(dtype=np.int64)} pixels, expected {n_pixels}")
    return np.repeat(np.frombuffer(values, np.uint8), counts)


class Session:
    """The mask of the case that is open, with its history.

    Attributes:
        number: of the case in the source.
        mask: (K, H, W) uint8.
        origin: where the mask comes from, in words.
        undos, redos: changes that can be undone, and done again; the newest is the last.
    """

    def __init__(self, source: Source):
        self.source = source
        self.number = source.first
        self.mask: np.ndarray | None = None

    def open(self, number: int) -> np.ndarray:
        """Open a case; returns its image (H, W, 3) uint8.

        Raises:
            DataError: no such case, it cannot be read, or its mask is too large for a page.
        """
        if not 0 <= number < len(self.source):
            raise DataError(f"case {number + 1} of {len(self.source)}: no such case")
        self.number, self.mask = number, None
        image, mask, self.origin = self.source.open(number)
        if mask.size > MAX_PIXELS:
            raise DataError(
                f"{self.name}: a mask of {' x '.join(map(str, mask.shape))} pixels is too large "
                f"for the editor (at most {MAX_PIXELS:,}); cut the image into parts"
            )
        self.mask = mask
        self.undos: list[Change] = []
        self.redos: list[Change] = []
        return image

    @property
    def name(self) -> str:
        return self.source.name(self.number)

    def edit(self, box: Box, pixels: np.ndarray) -> None:
        """Replace the pixels of a rectangle, and store the mask.

        Raises:
            DataError: the rectangle is not inside the mask, or a number is of no class.
        """
        self._check(box, pixels)
        region = box.of(self.mask)
        before = zlib.compress(region.tobytes(), 1)
        region[:] = pixels
        self.undos.append(Change(box, before, zlib.compress(pixels.tobytes(), 1)))
        self.redos = []
        while len(self.undos) > 1 and sum(change.n_bytes for change in self.undos) > HISTORY_BYTES:
            del self.undos[0]
        self._keep()

    def undo(self) -> Box | None:
        """Take back the newest change; returns its rectangle, None where there is no change."""
        return self._move(self.undos, self.redos, "before")

    def redo(self) -> Box | None:
        """Do the change again that was undone last; returns its rectangle."""
        return self._move(self.redos, self.undos, "after")

    def save(self) -> Path:
        folder = self.source.save(self.number, self.mask)
        self.origin = "saved"
        return folder

    def _move(self, changes: list[Change], others: list[Change], which: str) -> Box | None:
        if not changes:
            return None
        change = changes.pop()
        others.append(change)
        region = change.box.of(self.mask)
        pixels = np.frombuffer(zlib.decompress(getattr(change, which)), np.uint8)
        region[:] = pixels.reshape(region.shape)
        self._keep()
        return change.box

    def _keep(self) -> None:
        self.origin = "draft, not saved"
        self.source.keep(self.number, self.mask)

    def _check(self, box: Box, pixels: np.ndarray) -> None:
        planes, height, width = self.mask.shape
        inside = (
            0 <= box.plane < planes
            and box.top >= 0
            and box.left >= 0
            and 0 < box.height <= height - box.top
            and 0 < box.width <= width - box.left
        )
        if not inside:
            raise DataError(f"{self.name}: {box} is not inside the mask {self.mask.shape}")
        wrong = pixels[(pixels > self.source.largest) & (pixels != IGNORE)]
        if wrong.size:
            raise DataError(f"{self.name}: {wrong[0]} is the number of no class")


class MaskEditor(anywidget.AnyWidget):
    """The widget: messages of the page in, changes and cases out.

    The traits are what a reload of the page must not lose besides the pixels.
    """

    _esm = HERE / "mask_editor.js"
    _css = HERE / "mask_editor.css"
    classes = traitlets.List().tag(sync=True)
    height = traitlets.Int(560).tag(sync=True)
    tool = traitlets.Unicode("brush").tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)  # position in `classes`
    size = traitlets.Int(15).tag(sync=True)  # of the brush, in pixels of the mask
    opacity = traitlets.Float(0.5).tag(sync=True)

    def __init__(self, source: Source, **traits: Any):
        super().__init__(classes=source.classes, **traits)
        self.session = Session(source)
        self._actions: dict[str, Callable] = {
            "open": self._open,
            "edit": self._edit,
            "undo": self._undo,
            "redo": self._redo,
            "save": self._save,
        }
        self.on_msg(self._receive)

    def _receive(self, _: Any, message: dict[str, Any], buffers: list) -> None:
        """Answer a message of the page; the reason where that fails goes to the page too, since
        nobody sees the error of a callback."""
        try:
            self._actions[message["kind"]](message, buffers)
        except Exception as error:
            text = str(error) if isinstance(error, DataError | OSError) else repr(error)
            # After a refused change, the page asks for what is really there.
            again = message.get("kind") != "open"
            place = {"number": self.session.number, "n": len(self.session.source)}
            self.send({"kind": "error", "text": text, "again": again, **place})

    def _open(self, message: dict[str, Any], buffers: list) -> None:
        number = message.get("number")
        same = number is None or number == self.session.number
        if same and self.session.mask is not None:  # the page was loaded again: history stays
            image = self.session.source.open(self.session.number)[0]
        else:
            image = self.session.open(self.session.number if number is None else int(number))
        planes, height, width = self.session.mask.shape
        about = {"kind": "case", "height": height, "width": width, "planes": planes}
        picture, form = _picture(image)
        runs = encode_runs(self.session.mask)
        self.send({**about, "form": form, **self._state()}, [picture, *runs])

    def _edit(self, message: dict[str, Any], buffers: list) -> None:
        self._check_case(message)
        box = Box(*(int(message[name]) for name in Box._fields))
        n_pixels = max(box.height, 0) * max(box.width, 0)
        if n_pixels > self.session.mask.size:
            raise DataError(f"{self.session.name}: {box} is larger than the mask")
        lengths, values = map(bytes, buffers)
        pixels = decode_runs(lengths, values, n_pixels).reshape(box.height, box.width)
        self.session.edit(box, pixels)
        self._send_region(box, view=message["view"])

    def _undo(self, message: dict[str, Any], buffers: list) -> None:
        self._check_case(message)
        self._send_region(self.session.undo())

    def _redo(self, message: dict[str, Any], buffers: list) -> None:
        self._check_case(message)
        self._send_region(self.session.redo())

    def _save(self, message: dict[str, Any], buffers: list) -> None:
        self._check_case(message)
        folder = self.session.save()
        # The page takes over what was saved, so that it never shows anything else.
        runs = encode_runs(self.session.mask)
        self.send({"kind": "saved", "folder": str(folder), **self._state()}, list(runs))

    def _check_case(self, message: dict[str, Any]) -> None:
        """Refuse a message about a case that is not open any more, of a second view."""
        if self.session.mask is None or message["number"] != self.session.number:
            raise DataError("this view showed another case than the kernel: it was loaded again")

    def _send_region(self, box: Box | None, **about: Any) -> None:
        """Send a rectangle of the mask to all views; None: only the state."""
        box = box or Box(0, 0, 0, 0, 0)
        runs = encode_runs(box.of(self.session.mask))
        self.send({"kind": "region", **box._asdict(), **about, **self._state()}, list(runs))

    def _state(self) -> dict[str, Any]:
        """What the page shows beside the pixels."""
        session = self.session
        return {
            "number": session.number,
            "n": len(session.source),
            "name": session.name,
            "origin": session.origin,
            "saved": len(session.source.saved),
            "undos": len(session.undos),
            "redos": len(session.redos),
        }


def _picture(image: np.ndarray) -> tuple[bytes, str]:
    """An image (H, W, 3) as the bytes of a picture file, at most `MAX_SHOWN` pixels long."""
    height, width = image.shape[:2]
    scale = MAX_SHOWN / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    lossless = image.shape[0] * image.shape[1] <= LOSSLESS
    suffix, form = (".png", "image/png") if lossless else (".jpg", "image/jpeg")
    options = [] if lossless else [cv2.IMWRITE_JPEG_QUALITY, 95]
    _, encoded = cv2.imencode(suffix, image[..., ::-1], options)
    return encoded.tobytes(), form
