"""The kernel's side of the mask editor, with a front end of a few lines in place of the page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib import mask_editor
from seglib.errors import DataError
from seglib.mask_editor import Box, Session, decode_runs, encode_runs
from tests.helpers import same_pixels_of_bytes

SHAPE = (2, 7, 9)  # planes, height, width


class Masks:
    """Three cases in memory, as `annotate.Sheets` has them on disk."""

    classes = [
        {"name": "disc", "plane": 0, "value": 1, "colour": "#E69F00"},
        {"name": "cup", "plane": 1, "value": 1, "colour": "#56B4E9"},
    ]
    largest, first = 1, 0

    def __init__(self):
        self.masks = [np.zeros(SHAPE, np.uint8) for _ in range(3)]
        self.image = np.random.default_rng(0).integers(0, 256, (*SHAPE[1:], 3)).astype(np.uint8)
        self.drafts, self.saved_masks, self.saved = {}, {}, set()

    def __len__(self):
        return len(self.masks)

    def name(self, number):
        return f"case{number}"

    def open(self, number):
        if number == 2:
            raise DataError("case2: damaged")
        return self.image, self.masks[number].copy(), "mask of the data set"

    def keep(self, number, mask):
        self.drafts[number] = mask.copy()

    def save(self, number, mask):
        self.saved_masks[number] = mask.copy()
        self.saved.add(number)
        return "corrected/masks"


class FrontEnd:
    """Sends what the page sends, and keeps what the kernel answers."""

    def __init__(self, editor, monkeypatch):
        self.editor, self.answers = editor, []
        monkeypatch.setattr(editor, "send", lambda message, buffers=(): self.take(message, buffers))

    def take(self, message, buffers):
        self.answers.append((message, [memoryview(buffer) for buffer in buffers]))

    def __call__(self, kind, buffers=(), **message):
        """Send a message; returns the answer and its buffers."""
        n = len(self.answers)
        self.editor._handle_custom_msg({"kind": kind, **message}, list(buffers))
        assert len(self.answers) == n + 1
        return self.answers[-1]

    def paint(self, pixels, top=0, left=0, plane=0, number=0, **changes):
        height, width = pixels.shape
        place = {"plane": plane, "top": top, "left": left, "height": height, "width": width}
        about = {**place, "number": number, "view": "me", **changes}
        return self("edit", map(memoryview, encode_runs(pixels)), **about)


@pytest.fixture
def source():
    return Masks()


@pytest.fixture
def page(source, monkeypatch):
    return FrontEnd(mask_editor.MaskEditor(source), monkeypatch)


@given(st.lists(st.integers(0, 255), max_size=300), st.integers(1, 4))
def test_runs_keep_every_pixel(numbers, repeats):
    pixels = np.repeat(np.array(numbers, np.uint8), repeats)
    lengths, values = encode_runs(pixels)
    assert np.array_equal(decode_runs(lengths, values, pixels.size), pixels)
    steps = np.count_nonzero(np.diff(pixels.astype(int))) + 1 if pixels.size else 0
    assert len(values) == steps  # as few runs as there can be


@pytest.mark.parametrize("lengths", [b"\1\0\0", b"\5\0\0\0", b"\xff\xff\xff\xff"])
def test_runs_of_another_number_of_pixels_are_refused(lengths):
    with pytest.raises(DataError, match="runs"):
        decode_runs(lengths, b"\1", 4)


# A change: plane, corners of a rectangle, and the seed of its pixels; or undo, or redo.
CHANGES = st.one_of(
    st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 8), st.integers(0, 99)),
    st.sampled_from(["undo", "redo"]),
)


@given(st.lists(CHANGES, max_size=25))
def test_undo_and_redo_are_those_of_a_list_of_masks(actions):
    source = Masks()
    session = Session(source)
    session.open(0)
    states, position = [session.mask.copy()], 0
    for action in actions:
        if action == "undo":
            session.undo()
            position = max(0, position - 1)
        elif action == "redo":
            session.redo()
            position = min(len(states) - 1, position + 1)
        else:
            plane, top, left, seed = action
            pixels = (
                np.random.default_rng(seed).integers(0, 2, (7 - top, 9 - left)).astype(np.uint8)
            )
            session.edit(Box(plane, top, left, *pixels.shape), pixels)
            after = states[position].copy()
            after[plane, top:, left:] = pixels
            states, position = [*states[: position + 1], after], position + 1
        assert np.array_equal(session.mask, states[position])
        assert np.array_equal(source.drafts.get(0, states[0]), session.mask)
    assert (len(session.undos), len(session.redos)) == (position, len(states) - 1 - position)


def test_the_history_forgets_the_oldest_changes_first(monkeypatch):
    monkeypatch.setattr(mask_editor, "HISTORY_BYTES", 100)
    session = Session(Masks())
    session.open(0)
    for k in range(50):
        session.edit(Box(0, 0, 0, 7, 9), np.full((7, 9), k % 2, np.uint8))
    assert 1 <= len(session.undos) < 10
    session.undo()
    assert not session.mask[0].any()


@pytest.mark.parametrize(
    "box", [(2, 0, 0, 1, 1), (-1, 0, 0, 1, 1), (0, 7, 0, 1, 1), (0, -1, 0, 2, 2), (0, 0, 8, 1, 2)]
)
def test_rectangles_outside_of_the_mask_are_refused(box):
    session = Session(Masks())
    session.open(0)
    with pytest.raises(DataError, match="not inside"):
        session.edit(Box(*box), np.ones(box[3:], np.uint8))
    assert not session.mask.any() and not session.undos


def test_what_is_painted_arrives_and_is_stored_at_once(page, source):
    about, (picture, lengths, values) = page("open")
    assert (about["kind"], about["height"], about["width"], about["planes"]) == ("case", 7, 9, 2)
    assert (about["number"], about["n"], about["name"]) == (0, 3, "case0")
    assert same_pixels_of_bytes(picture, source.image)
    assert not decode_runs(bytes(lengths), bytes(values), 126).any()
    stroke = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    about, (lengths, values) = page.paint(stroke, top=3, left=4, plane=1)
    assert (about["kind"], about["view"], about["undos"]) == ("region", "me", 1)
    expected = np.zeros(SHAPE, np.uint8)
    expected[1, 3:5, 4:7] = stroke
    assert np.array_equal(source.drafts[0], expected) and not source.saved_masks
    about, (lengths, values) = page("save", number=0)
    assert (about["kind"], about["saved"], about["origin"]) == ("saved", 1, "saved")
    assert np.array_equal(source.saved_masks[0], expected)
    # The page shows what was saved.
    assert np.array_equal(decode_runs(bytes(lengths), bytes(values), 126), expected.ravel())


def test_undo_is_sent_to_all_views(page, source):
    page("open")
    page.paint(np.ones((2, 3), np.uint8), top=1, left=1)
    about, (lengths, values) = page("undo", number=0)
    assert "view" not in about
    assert [about[name] for name in Box._fields] == [0, 1, 1, 2, 3]
    assert decode_runs(bytes(lengths), bytes(values), 6).tolist() == [0] * 6
    assert (about["undos"], about["redos"]) == (0, 1)
    about, (lengths, values) = page("redo", number=0)
    assert decode_runs(bytes(lengths), bytes(values), 6).tolist() == [1] * 6
    # Nothing is left to be done again: only the state is sent.
    about, (lengths, values) = page("redo", number=0)
    assert about["height"] == about["width"] == 0 and not len(lengths)


def test_a_reload_of_the_page_keeps_mask_and_history(page, source):
    page("open")
    page.paint(np.ones((2, 3), np.uint8))
    about, (_, lengths, values) = page("open")
    mask = decode_runs(bytes(lengths), bytes(values), 126).reshape(SHAPE)
    assert mask.sum() == 6 and about["undos"] == 1
    page("undo", number=0)
    assert not source.drafts[0].any()


def test_a_view_of_another_case_changes_nothing(page, source):
    page("open")
    page("open", number=1)
    about, _ = page.paint(np.ones((2, 3), np.uint8), number=0)
    assert about["kind"] == "error" and about["again"] and about["number"] == 1
    assert not source.drafts


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"height": 10**9}, "larger than the mask"),
        ({"top": 6}, "not inside"),
        ({"plane": "x"}, "ValueError"),
        ({"width": 4}, "runs"),
    ],
)
def test_messages_that_make_no_sense_are_answered(page, source, changes, text):
    page("open")
    about, _ = page.paint(np.ones((2, 3), np.uint8), **changes)
    assert about["kind"] == "error" and text in about["text"]
    assert not source.drafts


def test_numbers_of_no_class_are_refused_and_ignored_pixels_are_not(page, source):
    page("open")
    assert page.paint(np.full((2, 3), 2, np.uint8))[0]["kind"] == "error"
    assert page.paint(np.full((2, 3), 255, np.uint8))[0]["kind"] == "region"


def test_a_damaged_case_is_named_and_the_next_can_be_opened(page):
    about, _ = page("open", number=2)
    assert about["kind"] == "error" and "damaged" in about["text"] and not about["again"]
    assert (about["number"], about["n"]) == (2, 3)
    assert page.paint(np.ones((2, 3), np.uint8), number=2)[0]["kind"] == "error"
    assert page("open", number=1)[0]["kind"] == "case"


def test_what_cannot_be_stored_is_said(page, source, monkeypatch):
    page("open")

    def fail(number, mask):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source, "keep", fail)
    about, _ = page.paint(np.ones((2, 3), np.uint8))
    assert about["kind"] == "error" and "No space left" in about["text"]


def test_masks_that_no_page_can_hold_are_refused(page, monkeypatch):
    monkeypatch.setattr(mask_editor, "MAX_PIXELS", 100)
    about, _ = page("open")
    assert about["kind"] == "error" and "too large" in about["text"]


def test_large_images_are_shown_smaller_and_the_mask_stays_as_it_is(page, source, monkeypatch):
    monkeypatch.setattr(mask_editor, "MAX_SHOWN", 5)
    source.image = np.full((7, 9, 3), 90, np.uint8)
    about, (picture, _, _) = page("open")
    assert (about["height"], about["width"]) == (7, 9)
    assert same_pixels_of_bytes(picture, np.full((4, 5, 3), 90, np.uint8))
