"""README, data/README and docs/: links, commands, tables and examples say what the files say."""

import json
import re
import shutil
import tomllib

import pytest

from seglib import config, data, evaluation, layouts, phantoms, prepare, presets, tables, training
from tests import course, results
from tests.benchmarks import __main__ as benchmarks
from tests.sources import MODULES, ROOT, imports


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_data_readme_names_presets_and_layouts():
    for name in (*presets.PRESETS, *tables.LAYOUTS):
        assert f"`{name}`" in text("data/README.md"), name


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", text("README.md")))
    named |= set(re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", text("README.md"), re.MULTILINE))
    assert {"run", "test"} <= named, "the README names the two commands of the set-up"
    assert named <= targets, f"Makefile lacks {sorted(named - targets)}"


PAGES = ["README.md", "data/README.md", "seglib/weights/README.md"]
PAGES += sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("docs", "notebooks")
    for path in (ROOT / folder).glob("*.md")
)


def anchors(page):
    """The anchors of the headings of a Markdown page, as GitHub makes them: lower case,
    punctuation dropped, spaces to hyphens."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }


def links(page):
    """The targets of the links and pictures of a Markdown page, outside of code."""
    page = re.sub(r"```.*?```|`[^`\n]*`", "`code`", page, flags=re.DOTALL)
    return re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", page) + re.findall(
        r'(?:src|href)="([^"]+)"', page
    )


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in links(text(name)):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {link} leads nowhere"
        if anchor:
            there = anchors(path.read_text(encoding="utf-8"))
            assert anchor in there, f"{name}: {path.name} has no heading for #{anchor}"


def test_the_index_lists_every_page_once():
    listed = re.findall(r"^- \[(\w+\.md)\]\((\w+\.md)\): \S", text("docs/README.md"), re.MULTILINE)
    assert all(name == target for name, target in listed)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(target for _, target in listed) == sorted(pages)


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= 160


def test_the_readme_links_every_lesson_with_its_minutes():
    table = between("README.md", course.BEGIN, course.END).splitlines()
    assert "minutes" in table[0]
    stems = [re.search(r"notebooks/(\w+)\.ipynb", row)[1] for row in table[2:]]
    assert stems == [path.stem for path in course.lessons()]


def test_the_citation_has_the_version_of_the_package():
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert f"\nversion: {version}\n" in text("CITATION.cff")


def between(page, begin, end):
    """What stands between two markers of a page."""
    return text(page).split(begin)[1].split(end)[0].strip()


def test_the_results_are_those_of_the_json_files():
    renews = "python -m tests.results tables  renews it"
    shown = between("docs/results.md", results.BEGIN, results.END)
    assert shown == results.table().strip(), renews
    shown = between("README.md", results.BEGIN_HEADLINES, results.END_HEADLINES)
    assert shown == results.headlines().strip(), renews
    # Not all are measured yet; none is left of a study that is gone.
    known = {*results.RESULTS, "ablation", "annotator"}
    assert {path.stem for path in results.FOLDER.glob("*.json")} <= known
    assert set(results.TITLES) == set(results.RESULTS)


MINUS = "\N{MINUS SIGN}"
CORNERS = ("corners", "corners at 1")
# Page -> the measured figures in its text: results file, data, metric, how the text writes them.
QUOTES = {
    "docs/networks.md": [
        ("nuclei", "DSB 2018 nuclei", "Dice gained: pretrained encoder", "{interval}"),
        ("comparisons", "BUSI", "Dice gained: pretrained against random encoder", "{interval}"),
        (
            "lung_medium",
            "Shenzhen: pretrained encoder against own network",
            "Dice gained",
            "{interval}",
        ),
        ("stems", "Montgomery", "Dice gained", "{interval} for lungs"),
        ("stems", "DSB 2018 nuclei", "Dice gained", "{interval} for cell nuclei"),
        ("stems", "ACDC", "Dice gained: space-to-depth stem against", "{interval} for hearts"),
        ("stems", "ACDC", "Dice gained: space-to-depth stem, 40", "{interval} for hearts"),
        ("stems", "ACDC", "training time, space-to-depth stem against", "takes [{value:.1f} to"),
        ("stems", "DSB 2018 nuclei", "training time", "to {value:.1f} of the time"),
    ],
    "docs/patches.md": [
        ("comparisons", "IDRiD", "Dice gained: patches", "{interval}"),
        ("comparisons", "IDRiD", "training time, patches", "training took {value:.1f} times"),
    ],
}


@pytest.mark.parametrize("page", QUOTES)
def test_figures_in_the_text_are_those_of_the_json_files(page):
    written, quoted = " ".join(text(page).split()), set()
    for name, part, metric, form in QUOTES[page]:
        rows = json.loads((results.FOLDER / f"{name}.json").read_text(encoding="utf-8"))["rows"]
        (row,) = [r for r in rows if part in r["data"] and r["metric"].startswith(metric)]
        figure = form.format(interval=results.with_interval(row), value=row["value"])
        assert figure in written, f"{page} does not say {figure}"
        quoted.add(results.with_interval(row))
    number = rf"{MINUS}?\d\.\d+"
    shown = re.findall(rf"{number} \({number} to {number}\)", written)
    assert set(shown) <= quoted, "an interval that no results file holds"


def test_the_corners_that_a_tolerance_keeps_are_those_of_the_table():
    page = text("docs/labelling_tools.md")
    heads, *rows = [line.split("|")[1:-1] for line in page.splitlines() if line.count("|") == 11]
    exact, coarse = ([head.strip() for head in heads].index(name) for name in CORNERS)
    shares = sorted(int(row[coarse]) / int(row[exact]) for row in rows[1:])
    assert (round(shares[0], 1), round(shares[-1], 1)) == (0.1, 0.4)
    assert "a tenth to two fifths of the corners" in page


def test_the_lessons_whose_trainings_are_taken_up_are_those_of_the_page():
    taken, users = set(), set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        number, notebook = path.stem[:2], path.read_text(encoding="utf-8")
        others = set(re.findall(r"lesson_(\d\d)", notebook)) - {number}
        taken |= others
        users |= {number} if others else set()
    numbers = [f"{', '.join(sorted(n)[:-1])} and {max(n)}" for n in (users, taken)]
    said = "Lessons {} take up trainings of lessons {} from the folder".format(*numbers)
    assert said in text("docs/teaching.md")


def test_the_size_of_the_named_networks_is_that_of_their_files():
    (megabytes,) = re.findall(r"(\d+) MB each", text("docs/networks.md"))
    for path in (ROOT / "seglib" / "weights").glob("*.safetensors"):
        assert round(path.stat().st_size / 1e6) == int(megabytes), path.name


def test_headlines_show_one_row_each_with_its_interval():
    rows = results.headlines().splitlines()[2:]
    shown = [row.split("|")[1].strip() for row in rows]
    assert len(set(shown)) == len(shown) >= 4, "a headline fits several rows, or none"
    assert set(shown) <= {headline.words for headline in results.HEADLINES}
    for row in rows:
        assert re.search(r"\| 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) \| \d+ \|$", row), row


def test_results_keep_sign_interval_and_missing_interval():
    row = {"value": 0.0123, "low": -0.5, "high": 1.0}
    assert results.with_interval(row) == "0.012 (\N{MINUS SIGN}0.500 to 1.000)"
    assert results.with_interval({"value": -2.34}) == "\N{MINUS SIGN}2.340"
    assert results.with_interval({"value": -1e-5, "low": float("nan")}) == "0.000"


def test_the_timings_are_those_of_the_json_files():
    renews = "python -m tests.benchmarks tables  renews it"
    shown = between("docs/timings.md", benchmarks.BEGIN, benchmarks.END)
    assert shown == benchmarks.table().strip(), renews
    shown = between("README.md", benchmarks.BEGIN_PEERS, benchmarks.END_PEERS)
    assert shown == benchmarks.peers().strip(), renews
    assert len(shown.splitlines()) == 2 + len(benchmarks.PEERS), "a peer without a row"
    assert set(benchmarks.GROUPS) <= {path.stem for path in benchmarks.FOLDER.glob("*.json")}


def test_the_map_names_every_file_in_the_order_of_its_imports():
    rows = [line.split("|")[1] for line in text("docs/house.md").splitlines() if "|" in line]
    names = [re.findall(r"`([\w/]+?)(?:\.py|/)`", row) for row in rows]
    modules = [[name.replace("/", ".") for name in row] for row in names]
    # A bare package is only its docstring.
    bare = {"__init__", "formats", "commands"}
    listed = [name for row in modules for name in row]
    assert sorted(listed) == sorted(set(MODULES) - bare)
    above = set(bare)
    for row in modules:
        for name in row:
            below = imports(MODULES[name])[0] - above
            assert not below, f"the map shows {name} above {sorted(below)}, which it imports"
        above |= set(row)


@pytest.fixture
def own_tables(monkeypatch):
    """Tables in which a test may add entries."""
    for module in (tables, presets):
        for name in (
            "LAYOUTS",
            "LOSSES",
            "ARCHITECTURES",
            "METRICS",
            "AUGMENTATIONS",
            "AUGMENTATION_SETS",
            "PRESETS",
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, dict(getattr(module, name)))


def test_every_example_of_how_to_add_works(own_tables, tmp_path):
    """The code of docs/extend.md adds a loss, a layout, a metric, a network, an augmentation and a
    preset."""
    examples = re.findall(r"```python\n(.*?)```", text("docs/extend.md"), re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        assert len(re.findall(r"^.*\S", example, re.MULTILINE)) <= 12, "a short example"
        exec(example, {})

    lesions = phantoms.write("binary", tmp_path / "lesions", n=10)
    (tmp_path / "tree").mkdir()
    shutil.move(lesions / "images", tmp_path / "tree" / "photos")
    shutil.move(lesions / "masks", tmp_path / "tree" / "outlines")
    names = {"loss": "brier", "layout": "outlines", "architecture": "three_layers"}
    names["augment"] = "phone"
    places = {"data_root": str(tmp_path / "tree"), "work_dir": str(tmp_path / "work")}
    cfg = config.preset("moles", "smoke", epochs=1, test_split=0.2, **names, **places)
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    run = training.fit(cfg, batches)
    assert "posterise" in cfg.augment and "elastic" in cfg.replace(augment="robust").augment
    assert run.folder.name == "moles" and run.history["train_loss"].iloc[0] < 0.5
    scores = evaluation.evaluate(run, batches["test"]).per_image
    tp, fp, fn = (scores[name] for name in ("tp", "fp", "fn"))
    expected = 5 * tp / (5 * tp + 4 * fn + fp)
    assert scores["f2"].tolist() == pytest.approx(expected.tolist())
