"""Values of settings: coerced or refused, from texts of a command line and from config files."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib import fields
from seglib.errors import ConfigError

HINTS = {
    "number": int,
    "rate": float,
    "name": str,
    "path": str | None,
    "switch": bool,
    "side": int | tuple[int, int],
    "names": tuple[str, ...],
    "pair": tuple[float, float] | None,
    "coding": Literal["auto", "index"] | dict[str, int],
    "detected": bool | Literal["auto"],
    "table": dict[str, Any],
}


@pytest.mark.parametrize(
    "hint, value, coerced",
    [
        ("number", np.int64(3), 3),
        ("rate", 1, 1.0),
        ("rate", np.float32(0.5), 0.5),
        ("path", Path("some") / "where", str(Path("some/where"))),
        ("path", None, None),
        ("side", [64, 96], (64, 96)),
        ("names", ["a", "b"], ("a", "b")),
        ("pair", (1, 99), (1.0, 99.0)),
        ("coding", {(255, 0, 0): 1}, {"255,0,0": 1}),
        ("coding", {5: 1}, {"5": 1}),
        ("detected", True, True),
        ("detected", "auto", "auto"),
    ],
)
def test_a_value_gets_its_standard_form(hint, value, coerced):
    result = fields.coerce(value, HINTS[hint])
    assert result == coerced
    assert type(result) is type(coerced)


@pytest.mark.parametrize(
    "hint, value",
    [
        ("number", 5.0),
        ("number", "5"),
        ("number", True),
        ("number", None),
        ("number", [5]),
        ("rate", "fast"),
        ("rate", True),
        ("name", 5),
        ("switch", 1),
        ("switch", "yes"),
        ("detected", "yes"),
        ("side", 256.0),
        ("side", (256,)),
        ("side", (1, 2, 3)),
        ("side", ()),
        ("names", "lung"),
        ("names", ()),
        ("names", (1, 2)),
        ("pair", (0.5,)),
        ("coding", "other"),
        ("coding", {"255,0,0": "one"}),
        ("table", [("p", 1)]),
    ],
)
def test_a_value_of_another_type_is_invalid(hint, value):
    assert fields.coerce(value, HINTS[hint]) is fields.INVALID


def test_a_whole_number_beyond_all_floats_is_infinite():
    assert fields.coerce(10**400, float) == math.inf
    assert fields.coerce(-(10**400), float) == -math.inf


def test_a_table_is_copied_to_its_depth():
    table = {"rotate": {"limit": 10}}
    coerced = fields.coerce(table, HINTS["table"])
    table["rotate"]["limit"] = 90
    assert coerced == {"rotate": {"limit": 10}}


@pytest.mark.parametrize(
    "hint, text, value",
    [
        ("number", " 20 ", 20),
        ("rate", "1e-4", 1e-4),
        ("side", "256", 256),
        ("side", "256,128", (256, 128)),
        ("side", "[256, 128]", [256, 128]),
        ("names", "lung", ("lung",)),
        ("names", "a, b", ("a", "b")),
        ("names", '["a b", "c"]', ["a b", "c"]),
        ("switch", "True", True),
        ("switch", "off", False),
        ("detected", "auto", "auto"),
        ("detected", "yes", True),
        ("path", "none", None),
        ("path", "", None),
        ("path", "123", "123"),
        ("path", "true", "true"),
        ("pair", "0.5, 99.5", (0.5, 99.5)),
        ("pair", "None", None),
        ("coding", "index", "index"),
        ("coding", "{(255, 0, 0): 1}", {(255, 0, 0): 1}),
        ("table", "{}", {}),
    ],
)
def test_texts(hint, text, value):
    result = fields.from_text(text, HINTS[hint])
    assert result == value
    assert type(result) is type(value)


@given(st.sampled_from(sorted(HINTS)), st.text() | st.sampled_from(["{[1]: 2}", "[" * 9999, "²"]))
def test_any_text_is_a_value_or_invalid(hint, text):
    fields.coerce(fields.from_text(text, HINTS[hint]), HINTS[hint])


@pytest.mark.parametrize(
    "hint, words",
    [
        ("side", "int or 2 numbers"),
        ("pair", "2 numbers or none"),
        ("names", "a list of str"),
        ("coding", "'auto' | 'index' or a table"),
    ],
)
def test_types_in_words(hint, words):
    assert fields.describe_type(HINTS[hint]) == words


def test_the_nearest_name():
    assert fields.nearest("epoch", ["epochs", "lr"]) == "; did you mean 'epochs'?"
    assert fields.nearest("learning_rate", ["epochs", "lr"]) == ""


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
def test_values_survive_a_file(tmp_path, suffix):
    values = {
        "number": 3,
        "path": None,
        "name": 'C:\\new "half" #1; größe 🫁',
        "switch": False,
        "names": ["a b", "it's", "größe"],
        "coding": {"255,0,0": 1},
        "table": {"rotate": {"limit": 10, "p": 0.5}},
    }
    path = tmp_path / f"settings{suffix}"
    path.write_text(fields.dump(values, suffix), encoding="utf-8")
    assert fields.read(path, HINTS) == values


def test_sections_of_toml_and_ini(tmp_path):
    (tmp_path / "a.toml").write_text('number = 3\n[data]\npath = "none"\n[training]\nrate = 0.1\n')
    values = fields.read(tmp_path / "a.toml", HINTS)
    assert values == {"number": 3, "path": None, "rate": 0.1}
    (tmp_path / "a.cfg").write_text("[data]\nnumber = 3\n[model]\n; a comment\nswitch = no\n")
    assert fields.read(tmp_path / "a.cfg", HINTS) == {"number": 3, "switch": False}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.cfg", b"[optimizer]\nlr = 1\n", r"unknown section \[optimizer\]; expected \[data\]"),
        ("a.cfg", b"lr = 1\n", "not readable as a config"),
        ("a.cfg", b"[data]\nlr = 1\nlr = 2\n", "not readable as a config"),
        ("a.json", b"{broken", "not readable as a config"),
        ("a.json", b"[1, 2]", "found a list; expected an object"),
        ("a.toml", b"name = lung", "not readable as a config"),
        ("a.toml", b"\xff\xfe\x00\x80", "not readable as a config"),
        ("a.yaml", b"name: lung", r"a config is a \.json, \.toml or \.cfg file, not '\.yaml'"),
        ("a.json", None, "no such config file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}: {message}"):
        fields.read(tmp_path / name, HINTS)
