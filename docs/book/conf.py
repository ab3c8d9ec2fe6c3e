"""Settings of Sphinx for the site of lessons, how-tos, results and API. See `build.py`."""

import importlib.util
import json
import shutil
import tomllib
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"].get("Repository", "") if "urls" in PROJECT else ""

project = "Medical image segmentation, notebook by notebook"
version = release = PROJECT["version"]
copyright = "the authors of seglib, MIT licence"
language = "en"
root_doc = "index"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]

# Lessons are shown as they were executed and committed; nothing runs while the site is built.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "colon_fence"]
myst_heading_anchors = 4  # the anchors that GitHub gives to headings
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "myst.header"]

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "literal"  # docstrings write code in single backticks
python_use_unqualified_type_names = True

# One file of MathJax with its fonts inside, so that formulas need no network.
MATHJAX = "tex-svg-full.js"
mathjax_path = f"mathjax/{MATHJAX}"
mathjax3_config = {"options": {"enableMenu": False}}

templates_path = []
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["seglib.css"]
html_favicon = str(Path(__file__).parent / "static" / "favicon.svg")
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "navbar_persistent": [],  # the search stands in the side bar already
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if ADDRESS:
    html_theme_options |= {
        "repository_url": ADDRESS,
        "use_repository_button": True,
        "use_issues_button": True,
    }


def copy_mathjax(app, _error):
    """Only the one file that is used, of the 24 MB that the package holds."""
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "static" / "mathjax" / MATHJAX, target)


def keep_alt_texts(_app, doctree):
    """Give the figures of a cell the alt texts that its metadata holds, in their order."""
    for cell in doctree.findall(nodes.container):
        texts = (cell.get("cell_metadata") or {}).get("alt")
        if cell.get("nb_element") != "cell_code" or not texts:
            continue
        texts = [texts] if isinstance(texts, str) else texts
        for image, text in zip(cell.findall(nodes.image), texts):
            image["alt"] = text


def escape_stars(_app, _what, _name, _obj, _options, lines):
    """Docstrings are plain text, in which a star is a star, also in `**settings`."""
    for number, line in enumerate(lines):
        parts = line.split("`")  # every second part is code
        parts[::2] = [part.replace("*", r"\*").replace("|", r"\|") for part in parts[::2]]
        lines[number] = "`".join(parts)


def skip_field_aliases(_app, _what, _name, member, skip, _options):
    """Fields of a NamedTuple are explained by their class; Python's own text says nothing."""
    is_alias = str(getattr(member, "__doc__", "")).startswith("Alias for field number")
    return True if is_alias else skip


def setup(app):
    app.connect("autodoc-skip-member", skip_field_aliases)
    app.connect("build-finished", copy_mathjax)
    app.connect("doctree-read", keep_alt_texts)
    # After napoleon (priority 500) has turned sections into fields, of which some use stars.
    app.connect("autodoc-process-docstring", escape_stars, priority=400)
    return {"parallel_read_safe": True, "version": json.dumps(version)}
