"""A lesson as a deck of slides: `make slides`.

nbconvert's exporter, which gives figures no alt text, and leaves links to notebooks, which are not
beside the decks.
"""

import copy
import posixpath
import re
from typing import Any

import build  # beside this file
from nbconvert import SlidesExporter

LESSON = re.compile(r"(\d\d_\w+)\.ipynb$")
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
"""


class Deck(SlidesExporter):
    """Slides with the alt texts of the notebook's figures; links lead to decks or the repository.

    An alt text lies in the metadata of an output: `{"image/png": {"alt": "..."}}`.
    """

    raw_template = TEMPLATE

    def from_notebook_node(self, nb: Any, resources: Any = None, **options: Any) -> tuple[str, Any]:
        nb = copy.deepcopy(nb)
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = build.LINK.sub(_link, cell.source)
        return super().from_notebook_node(nb, resources, **options)


def _link(match: re.Match) -> str:
    """A Markdown link of a lesson: to the other lesson's deck, else to the file in the repository,
    or only its text where no address is set.
    """
    image, label, target = match.groups()
    file, hash_sign, anchor = target.partition("#")
    if image or not file or re.match(r"[a-z][a-z+.-]*:", target):
        return match[0]
    if lesson := LESSON.match(file):
        return f"[{label}]({lesson[1]}.slides.html)"
    home = build.address()
    path = posixpath.normpath(f"notebooks/{file}")
    return f"[{label}]({home}/blob/main/{path}{hash_sign}{anchor})" if home else label
