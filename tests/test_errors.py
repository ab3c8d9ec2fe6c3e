"""How messages and notes list what they are about."""

import pytest

from seglib import errors


@pytest.mark.parametrize(
    "names, most, text",
    [
        ([], 3, ""),
        (["a.png"], 3, "a.png"),
        (["a", "b", "c"], 3, "a, b, c"),
        (iter(range(5)), 3, "0, 1, 2 and 2 more"),
        (range(9), 8, "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
    ],
)
def test_the_first_names_are_listed(names, most, text):
    assert errors.listed(names, most) == text


def test_notes_of_one_text_are_one_note():
    notes = ["a: dark", "all is well", "b: dark", "c: bright: by 3", "all is well", "d: dark"]
    expected = ["a, b, d: dark", "all is well", "c: bright: by 3"]
    assert errors.grouped(notes) == expected
    assert errors.grouped(expected) == expected


def test_the_first_line_of_an_error_is_never_empty():
    assert errors.first_line(ValueError("one\ntwo")) == "one"
    assert errors.first_line(KeyError()) == "KeyError"
