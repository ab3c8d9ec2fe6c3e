"""A lesson as a deck of slides: `make slides`.

nbconvert's exporter, which gives figures no alt text, lets them be higher than the slide, and
leaves links to notebooks and pictures, which are not beside the decks.
"""

import base64
import copy
import functools
import mimetypes
import posixpath
import re
from pathlib import Path
from typing import Any

import build  # beside this file
from nbconvert import SlidesExporter

TEMPLATE = """{%- extends 'index.html.j2' -%}
{%- macro described(figure, text) -%}
{{ figure | replace('<img ', '<img alt="' ~ (text | escape_html) ~ '" ', 1) if text else figure }}
{%- endmacro -%}
{%- block data_png scoped -%}
{{ described(super(), output | get_metadata('alt', 'image/png')) }}
{%- endblock -%}
{%- block data_jpg scoped -%}
{{ described(super(), output | get_metadata('alt', 'image/jpeg')) }}
{%- endblock -%}
{%- block html_head_js_mathjax -%}
{{ super() }}
<script type="text/x-mathjax-config">
MathJax.Hub.Config({CommonHTML: {linebreaks: {automatic: false}}});
</script>
{%- endblock -%}
{%- block html_head_css -%}
<style>.reveal .jp-OutputArea-output img { max-height: 560px; width: auto; margin: 0; }</style>
{%- endblock -%}
"""


class Deck(SlidesExporter):
    """Slides with the alt texts of the notebook's figures; pictures of its text are in the file,
    links lead to decks or the repository.

    Formulas are not broken into lines: MathJax sets them while their slide is hidden and narrow.
    A figure takes at most 560 of a slide's 800 pixels, so that it is seen whole, below its text.

    An alt text lies in the metadata of an output: `{"image/png": {"alt": "..."}}`.
    """

    raw_template = TEMPLATE

    def from_notebook_node(self, nb: Any, resources: Any = None, **options: Any) -> tuple[str, Any]:
        nb = copy.deepcopy(nb)
        folder = Path(((resources or {}).get("metadata") or {}).get("path") or ".")
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                text = links_to_decks(cell.source)
                cell.source = build.LINK.sub(functools.partial(_with_pixels, folder=folder), text)
        return super().from_notebook_node(nb, resources, **options)


def links_to_decks(text: str) -> str:
    """A text of a lesson whose links lead to the decks of lessons, or to the repository.

    A link to a heading of a lesson leads to the deck's first slide, because the headings of a deck
    have other anchors than those of a page.
    """
    lessons = set(build.pages()["Lessons"])
    text = build.with_links(text, "notebooks/deck.ipynb", lessons)
    return build.LINK.sub(_to_deck, text)


def _to_deck(match: re.Match) -> str:
    """A Markdown link, to the lesson's deck if it leads to a lesson."""
    image, label, target = match.groups()
    file = target.partition("#")[0]
    if image or ":" in file or not file.endswith(".ipynb"):
        return match[0]
    deck = posixpath.basename(file).replace(".ipynb", ".slides.html")
    return f"[{label}]({deck})"


def _with_pixels(match: re.Match, folder: Path) -> str:
    """A Markdown picture with its file inside, if it lies at its place as seen from `folder`.

    nbconvert's own option embeds no file outside of the notebook's folder.
    """
    image, label, target = match.groups()
    if not image or ":" in target or not (folder / target).is_file():
        return match[0]
    pixels = base64.b64encode((folder / target).read_bytes()).decode()
    return f"![{label}](data:{mimetypes.guess_type(target)[0]};base64,{pixels})"
