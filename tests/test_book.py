"""The site: every page is on it, its links lead somewhere, and a browser shows it without errors.

The quick tests need no Sphinx; the slow one builds the site and opens each of its pages.
"""

import base64
import functools
import html.parser
import http.server
import importlib.util
import re
import threading
import tomllib
import urllib.parse

import nbformat
import pytest
import yaml
from nbconvert import HTMLExporter
from packaging.requirements import Requirement

from tests.browser import CHROMIUM, NO_CHROMIUM, browser
from tests.sources import MODULES, ROOT

BOOK = ROOT / "docs" / "book"
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What GitHub and nbviewer show of an output.
SHOWN = {"text/plain", "text/html", "text/markdown", "text/latex"}
PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}

lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def build():
    """docs/book/build.py as a module."""
    spec = importlib.util.spec_from_file_location("book_build", BOOK / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(build, tmp_path_factory):
    """The source tree of the site."""
    folder = tmp_path_factory.mktemp("book") / "source"
    build.stage(folder)
    return folder


# ---- the pages


def test_the_contents_name_every_lesson_and_every_page_of_docs(build, source):
    named = [path for paths in build.pages().values() for path in paths]
    assert len(named) == len(set(named))
    expected = [*LESSONS, ROOT / "notebooks" / "glossary.md", ROOT / "data" / "README.md"]
    expected += [*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks/solutions").glob("*.ipynb")]
    assert set(named) == {path.relative_to(ROOT).as_posix() for path in expected}
    start = (source / "index.md").read_text(encoding="utf-8")
    trees = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)```", start, re.MULTILINE | re.DOTALL))
    for path in named:
        assert f"\n{path.rpartition('.')[0]}\n" in trees, f"{path} is in no table of contents"
        assert (source / path).is_file()


def test_the_start_page_begins_as_the_readme_does(source):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start = (source / "index.md").read_text(encoding="utf-8")
    assert start.splitlines()[0] == readme.splitlines()[0]


def test_every_public_module_has_a_page_of_the_api(build, source):
    public = {name for name in MODULES if "." not in name and not name.startswith("_")}
    assert set(build.modules()) == public
    contents = (source / "api" / "index.md").read_text(encoding="utf-8")
    for name in public:
        page = (source / "api" / f"{name}.md").read_text(encoding="utf-8")
        assert f".. automodule:: seglib.{name}" in page and f"\n{name}\n" in contents
    assert all(build.modules().values()), "a module without a docstring"


def targets(path):
    """The links and pictures of a page or of the text cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(<?([^)\s>]+)>?\)", text)
    found += re.findall(r'<(?:img|source|a)\b[^>]*?(?:src|srcset|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z][a-z+.-]*:|#", target)]


def test_links_between_pages_lead_to_pages_of_the_site(source):
    for path in [*source.rglob("*.md"), *source.rglob("*.ipynb")]:
        for target in targets(path):
            file = path.parent / urllib.parse.unquote(target.partition("#")[0])
            assert file.is_file(), f"{path.relative_to(source)}: {target} is not on the site"


@pytest.mark.parametrize("home", ["", "https://github.com/somebody/fork"])
def test_links_to_other_files_lead_to_the_repository(build, monkeypatch, home):
    monkeypatch.setattr(build, "address", lambda root: home)
    text = "[code](../seglib/models.py#L3), [start](../README.md#start), [folds](folds.md)"
    staged = {"docs/folds.md", "README.md"}
    changed = build.with_links(text, "docs/volumes.md", staged, ROOT)
    code = f"[code]({home}/blob/main/seglib/models.py#L3)" if home else "code"
    expected = f"{code}, [start](../index.md#start), [folds](folds.md)"
    assert changed == expected


@pytest.mark.parametrize("home", ["", "https://github.com/somebody/fork"])
def test_links_of_a_deck_lead_to_decks_or_to_the_repository(monkeypatch, home):
    monkeypatch.syspath_prepend(BOOK)
    import build
    import decks

    monkeypatch.setattr(build, "address", lambda root: home)
    text = "[a](04_lung_segmentation.ipynb#loss) [b](#x) [c](../README.md#start) [d](glossary.md)"
    blob = f"{home}/blob/main"
    repository = "[c]({0}/README.md#start) [d]({0}/notebooks/glossary.md)" if home else "c d"
    expected = f"[a](04_lung_segmentation.slides.html) [b](#x) {repository.format(blob)}"
    assert decks.links_to_decks(text) == expected
    solution = "[e](solutions/04_lung_segmentation.ipynb)"
    expected = f"[e]({blob}/notebooks/solutions/04_lung_segmentation.ipynb)" if home else "e"
    assert decks.links_to_decks(solution) == expected


# ---- requirements and the workflow


def test_the_pins_of_the_book_lie_in_its_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {r.name: r for r in map(Requirement, project["optional-dependencies"]["book"])}
    lines = (BOOK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {pin.name for pin in pins} == set(ranges)
    for pin in pins:
        (version,) = pin.specifier
        assert version.operator == "==" and ranges[pin.name].specifier.contains(version.version)


def test_lessons_are_shown_as_committed():
    settings = (BOOK / "conf.py").read_text(encoding="utf-8")
    assert re.search(r'^nb_execution_mode = "off"$', settings, re.MULTILINE)


def test_the_workflow_builds_what_make_book_builds_and_publishes_it():
    text = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    for file in re.findall(r"(?<=[ =])[\w./-]+\.(?:py|txt)\b", commands):
        assert (ROOT / file).is_file(), file
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "python docs/book/build.py" in commands and "python docs/book/build.py" in makefile
    (upload,) = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "runs/book/html"
    assert any("actions/deploy-pages" in step.get("uses", "") for step in steps)
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}


# ---- notebooks on GitHub and nbviewer


@lessons
def test_a_lesson_is_shown_with_figures_and_formulas_elsewhere(path):
    notebook = nbformat.read(path, as_version=4)
    bundles = [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    for data in bundles:
        assert set(data) & (SHOWN | PICTURES), f"nothing of {sorted(data)} is shown"
        for kind in set(data) & {"image/png", "image/jpeg"}:
            assert base64.b64decode(data[kind])[:2] in (b"\x89P", b"\xff\xd8"), kind
        if set(data) & PICTURES == set():
            assert "<script" not in data.get("text/html", ""), "GitHub runs no script"
    page, _ = HTMLExporter().from_notebook_node(notebook)
    n_pictures = sum(bool(set(data) & PICTURES) for data in bundles)
    shown = page.count('src="data:image/') + page.count("jp-RenderedSVG")
    assert n_pictures <= shown
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    plain = re.sub(r"```.*?```|`[^`\n]*`", "", "\n\n".join(texts), flags=re.DOTALL)
    formulas = re.findall(r"\$\$(.+?)\$\$", plain, re.DOTALL)
    assert "MathJax" in page
    for formula in formulas:
        assert formula.count("{") == formula.count("}"), formula
        beginning = max(re.findall(r"\\[A-Za-z]+", formula), key=len, default="")
        assert beginning in page, f"the formula {formula[:40]} is lost"


# ---- the site in a browser


class Links(html.parser.HTMLParser):
    """The targets of the links of a page, and the anchors that it offers."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """The folder of the built site; every warning of Sphinx is an error."""
    pytest.importorskip("sphinx", reason="pip install -r docs/book/requirements.txt")
    folder = tmp_path_factory.mktemp("site")
    assert build.build(folder, ["-W", "--keep-going"]) == 0
    return folder / "html"


def pages_of(site):
    """The pages, without the templates that the theme leaves among its styles."""
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


@pytest.mark.slow
def test_internal_links_lead_to_pages_and_anchors(site):
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in pages_of(site)}
    assert len(pages) > 70
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if re.match(r"[a-z][a-z+.-]*:|//", target):
                continue
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.relative_to(site)}: {link}"
            if anchor and file in pages:
                assert anchor in pages[file].anchors, f"{path.relative_to(site)}: {link}"


@pytest.fixture
def served(site):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_browser_shows_every_page_without_errors(site, served, tmp_path):
    if not CHROMIUM:
        pytest.skip(NO_CHROMIUM)
    with browser(tmp_path, size="1280,900") as page:
        for path in pages_of(site):
            name = path.relative_to(site).as_posix()
            page.send("Page.navigate", url=f"{served}/{name}")
            page.wait(f"location.pathname == '/{name}' && document.readyState == 'complete'")
            page("window.MathJax?.startup?.promise?.then(() => true)")
            broken = page("[...document.images].filter(i => i.complete && !i.naturalWidth).length")
            assert broken == 0, f"{name}: {broken} pictures"
            assert page("document.querySelectorAll('mjx-merror').length") == 0, name
            elsewhere = page(
                "performance.getEntriesByType('resource').map(e => e.name)"
                f".filter(u => !u.startsWith('{served}') && !u.startsWith('data:'))"
            )
            assert elsewhere == [], f"{name} loads {elsewhere}"
            assert page.complaints == [], f"{name}: {page.complaints}"
        page.send("Page.navigate", url=f"{served}/search.html?q=dilation")
        assert page.wait("document.querySelectorAll('#search-results li').length") > 0
        page.send("Page.navigate", url=f"{served}/index.html")
        page.wait("document.readyState == 'complete'")
        for theme, dark in (("dark", True), ("light", False)):
            page(f"document.documentElement.dataset.theme = '{theme}'")
            colour = page("getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
            assert (brightness < 60) == dark, colour
