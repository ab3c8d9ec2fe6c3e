"""The README and data/README: links, commands, tables and examples say what the files say."""

import re

import pytest

from seglib import presets
from tests import results
from tests.benchmarks import __main__ as benchmarks
from tests.sources import ROOT


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_data_readme_names_preset(preset):
    assert f"`{preset}`" in text("data/README.md")


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", text("README.md")))
    named |= set(re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", text("README.md"), re.MULTILINE))
    assert {"run", "test"} <= named, "the README names the two commands of the set-up"
    assert named <= targets, f"Makefile lacks {sorted(named - targets)}"


@pytest.mark.parametrize("name", ["README.md", "data/README.md"])
def test_links_lead_somewhere(name):
    page = text(name)
    # As GitHub makes them: lower case, punctuation dropped, spaces to hyphens.
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE
    )
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }
    links = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", page) + re.findall(
        r'(?:src|href)="([^"]+)"', page
    )
    for link in links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        assert not target or ((ROOT / name).parent / target).exists(), (
            f"{name}: {link} leads nowhere"
        )
        assert target or anchor in anchors, f"{name}: there is no heading for #{anchor}"


def test_the_results_in_the_readme_are_those_of_the_json_files():
    readme = text("README.md")
    shown = readme.split(results.BEGIN)[1].split(results.END)[0].strip()
    assert shown == results.table().strip(), "make results renews it"
    assert set(results.RESULTS) <= {path.stem for path in results.FOLDER.glob("*.json")}


def test_the_timings_in_the_readme_are_those_of_the_json_files():
    shown = text("README.md").split(benchmarks.BEGIN)[1].split(benchmarks.END)[0].strip()
    assert shown == benchmarks.table().strip(), "make bench renews it"
    assert set(benchmarks.GROUPS) <= {path.stem for path in benchmarks.FOLDER.glob("*.json")}
