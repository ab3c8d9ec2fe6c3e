"""`make address`: one address of the repository in badges, set-up cells and pyproject.toml."""

import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.sources import ROOT

FILES = ["README.md", "pyproject.toml", ".ci/address.py", "Makefile"]
LESSONS = sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted(
    f"notebooks/solutions/{path.name}" for path in ROOT.glob("notebooks/solutions/*.ipynb")
)
FILES += LESSONS + SOLUTIONS
BADGE = re.compile(r"\]\((https://(?:colab\.research\.google\.com|kaggle\.com/kernels)[^)]*)\)")
ADDRESS = re.compile(r'^address = os.environ.get\("SEGLIB_REPO", "(.*?)"\)', re.MULTILINE)


def addresses(root):
    """What the files below `root` name: pyproject's address, those of set-up cells, all badges."""
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]
    badges = BADGE.findall((root / "README.md").read_text(encoding="utf-8"))
    cloned = set()
    for name in LESSONS + SOLUTIONS:
        cells = json.loads((root / name).read_text(encoding="utf-8"))["cells"]
        badges += BADGE.findall("".join(cells[0]["source"]))
        cloned |= set(ADDRESS.findall("".join(cells[2]["source"])))
    return urls.get("Repository", ""), cloned, badges


def contents(root):
    return {name: (root / name).read_bytes() for name in FILES}


@pytest.fixture
def copy(tmp_path):
    """The repository's files that name its address, without one."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    assert write(tmp_path, "").returncode == 0
    return tmp_path


def write(root, *address):
    command = [sys.executable, str(root / ".ci" / "address.py"), *address]
    return subprocess.run(command, capture_output=True, text=True)


def test_this_repository_names_one_address_or_none():
    address, cloned, badges = addresses(ROOT)
    assert cloned == {address}
    owner_and_name = address.removeprefix("https://github.com/")
    # A badge for each host, in the README and in the notebook itself.
    assert len(badges) == (4 * len(LESSONS) if owner_and_name != address else 0)
    assert all(f"/{owner_and_name}/blob/main/notebooks/" in badge for badge in badges)


def test_one_address_replaces_another(copy):
    without = contents(copy)
    assert addresses(copy) == ("", {""}, [])
    for address in ("https://github.com/ada/lungs", "https://github.com/grace/hearts"):
        assert write(copy, address + ".git").returncode == 0
        project, cloned, badges = addresses(copy)
        assert project == address and cloned == {address}
        path = address.removeprefix("https://github.com/")
        for name in LESSONS:
            page = f"{path}/blob/main/{name}"
            pages = [
                f"https://colab.research.google.com/github/{page}",
                f"https://kaggle.com/kernels/welcome?src=https://github.com/{page}",
            ]
            assert [badges.count(page) for page in pages] == [2, 2]
    assert b"ada/lungs" not in b"".join(contents(copy).values())
    assert write(copy, "").returncode == 0
    assert contents(copy) == without


def test_an_address_elsewhere_has_no_badges(copy):
    result = write(copy, "https://gitlab.com/ada/lungs/")
    assert "no badges" in result.stdout
    assert addresses(copy) == ("https://gitlab.com/ada/lungs", {"https://gitlab.com/ada/lungs"}, [])


@pytest.mark.parametrize("arguments", [(), ("two", "words"), ('https://x.org/"; quoted',)])
def test_what_is_no_address_changes_nothing(copy, arguments):
    before = contents(copy)
    result = write(copy, *arguments)
    assert result.returncode == 1 and "https://github.com/YOU/FORK" in result.stderr
    assert contents(copy) == before


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_address(copy):
    command = ["make", "-C", str(copy), f"PYTHON={sys.executable}", "address"]
    assert subprocess.run(command, capture_output=True).returncode != 0
    command.append("REPO=https://github.com/ada/lungs")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert addresses(copy)[0] == "https://github.com/ada/lungs"
