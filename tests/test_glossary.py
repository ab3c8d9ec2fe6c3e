"""The glossary: alphabetical, two sentences a term, each with the lesson that introduces it."""

import re

import nbformat
import pytest

from tests.sources import ROOT

FOLDER = ROOT / "notebooks"
TEXT = (FOLDER / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^## (.+)\n\n(.+) \[Lesson (\d\d)\]\((\S+)\)$", re.MULTILINE)
ENTRIES = {match[1]: match.groups()[1:] for match in ENTRY.finditer(TEXT)}

entries = pytest.mark.parametrize("term", ENTRIES)


def words(term):
    """The names of a term: "True positive (TP)" is also called TP."""
    return [name.strip(" )") for name in term.split("(")]


def test_every_heading_is_an_entry_of_this_form():
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == list(ENTRIES)
    assert len(ENTRIES) >= 70


def test_terms_are_alphabetical():
    keys = [re.sub(r"[^a-z0-9 ]", " ", term.lower()) for term in ENTRIES]
    assert keys == sorted(keys)


@entries
def test_an_entry_has_two_sentences_and_a_lesson(term):
    text, number, link = ENTRIES[term]
    sentences = re.findall(r"[^.!?]+[.!?](?:\s|$)", re.sub(r"`[^`]*`|\d\.\d", "x", text) + " ")
    assert len(sentences) == 2, sentences
    assert (FOLDER / link).is_file() and link.startswith(number)


@entries
def test_the_lesson_uses_the_term(term):
    _, number, link = ENTRIES[term]
    cells = nbformat.read(FOLDER / link, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"[-–\s]+", " ", text).lower()
    names = [re.sub(r"[-–\s]+", " ", name).lower() for name in words(term)]
    assert any(re.search(rf"\b{re.escape(name)}", text) for name in names), (
        f"lesson {number} does not say {' or '.join(words(term))}; use the term there, or let the "
        "glossary point to the lesson that introduces it"
    )
