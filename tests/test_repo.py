"""The repository itself: files that must agree with each other, and the rules of the package's layout."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "seglib").rglob("*.py"))
PRESETS = ("palm", "rsna", "cardiac", "lung", "binary")

# The house of seglib, from the ground up: a module imports from the rows above its own only.
FLOORS = [
    ["__init__", "errors"],
    ["files", "fields", "tables", "presets"],
    ["formats", "formats.images", "formats.dicom", "formats.nifti"],
    ["formats.orientation"],
    ["formats.volumes", "formats.dicom_seg"],
    ["config", "hosts", "memory"],
    ["layouts.pairing", "encoders", "curves", "updates"],
    ["phantoms.abdomen", "phantoms.chest", "phantoms.fundus", "phantoms.heart", "phantoms.skin"],
    ["phantoms", "layouts.volumes", "layouts.convert"],
    ["layouts", "case_io", "models", "losses", "metrics"],
    ["prepare", "data", "plots", "runs", "bootstrap", "measurements", "lungs"],
    ["training", "inference", "report"],
    ["evaluation", "export", "explorer", "two_step"],
    ["__main__"],
]
FLOOR_OF = {module: number for number, row in enumerate(FLOORS) for module in row}


def text(name):
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text(encoding="utf-8")


def requirements():
    """Name -> pinned version, from requirements.txt."""
    lines = [line.split("#")[0].strip() for line in text("requirements.txt").splitlines()]
    pins = {}
    for line in filter(None, lines):
        name, equals, version = line.partition("==")
        assert equals and not line.startswith("-"), (
            f"requirements.txt: {line!r} is not an exact pin"
        )
        assert "+cpu" not in version, f"requirements.txt: {line!r} is a CPU-only build"
        pins[canonicalize_name(name)] = version
    return pins


def project():
    return tomllib.loads(text("pyproject.toml"))["project"]


def ranges(extras=()):
    """The requirements of pyproject.toml that apply to this Python."""
    lines = list(project()["dependencies"])
    for extra in extras:
        lines += project()["optional-dependencies"][extra]
    parsed = map(Requirement, lines)
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path):
    """The module of a file as `FLOORS` writes it: `layouts` for seglib/layouts/__init__.py."""
    parts = path.relative_to(ROOT / "seglib").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path):
    """(our modules, top names of others) that a file of seglib imports, wherever in the file."""
    ours, others = set(), set()
    package = ["seglib", *path.relative_to(ROOT / "seglib").parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "seglib":
                ours.add(rest if rest in FLOOR_OF else rest.rpartition(".")[0])
            else:
                others.add(top)
    return ours - {""}, others


def tagged(notebook, tag):
    return [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]


# --- environment ---


def test_environment_is_the_requirements():
    environment = yaml.safe_load(text("environment.yml"))
    assert environment["name"] == "seglib"
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.txt"]}]


def test_pins_lie_in_the_ranges():
    pins = requirements()
    wanted = ranges(["lab", "export", "test"])
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"requirements.txt lacks {name}"
        assert requirement.specifier.contains(pins[name]), (
            f"{name}=={pins[name]} is outside {requirement}"
        )
    unexplained = set(pins) - {canonicalize_name(r.name) for r in wanted}
    assert not unexplained, f"pyproject.toml lacks {sorted(unexplained)}"


@pytest.mark.parametrize(
    "name", ["requirements.txt", "environment.yml", "pyproject.toml", "Makefile"]
)
def test_unwanted_builds_are_nowhere(name):
    assert not re.search(r"opencv(-contrib)?-python(?!-headless)", text(name)), (
        "only the headless OpenCV"
    )
    assert "albumentationsx" not in text(name).lower(), "AGPL"
    assert "index-url" not in text(name), "another index would bring another torch"


def test_package_imports_are_declared():
    optional = project()["optional-dependencies"]
    lines = project()["dependencies"] + optional["lab"] + optional["export"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    packages = importlib.metadata.packages_distributions()
    # IPython comes with any notebook, google.colab with Colab; both are imported inside functions.
    hosts_own = {*sys.stdlib_module_names, "tomllib", "IPython", "google"}
    for path in MODULES:
        for top in imports(path)[1] - hosts_own:
            names = {canonicalize_name(name) for name in packages.get(top, [top])}
            assert names & declared, (
                f"{path.name} imports {top}; pyproject.toml does not ask for {sorted(names)}"
            )


# --- files that must agree ---


@pytest.mark.parametrize("preset", PRESETS)
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


def test_git_ignores_data_but_its_readme():
    names = [
        "data/README.md",
        "seglib/data.py",
        "data/PALM/a.jpg",
        "runs/lung/best.pth",
        ".venv/bin/python",
    ]
    command = ["git", "check-ignore", "--no-index", *names]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no git")
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == names[2:]


def test_ci_does_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK), ".ci/run is not executable"
    commands = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in commands
    assert commands.index("make env") < commands.index("make test") == len(commands) - 1


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize("apt, status", [("exit 0", 0), ("exit 100", 0), (None, 0), ("exit 0", 7)])
def test_ci_goes_on_without_a_browser_and_fails_with_the_tests(tmp_path, apt, status):
    """The script on a fake machine: a few tools, an apt-get that works, fails or is missing, a make that may fail."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "id", "rm", "timeout"):
        (tools / name).symlink_to(shutil.which(name))
    scripts = {
        "apt-get": apt,
        "sudo": 'shift; "$@"',
        "make": f'[ "$1" = test ] && exit {status}; exit 0',
    }
    for name, lines in scripts.items():
        if lines:
            (tools / name).write_text(
                f"#!{shutil.which('bash')}\necho {name} $* >> {tmp_path}/calls\n{lines}\n"
            )
            (tools / name).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    done = subprocess.run(
        [tools / "bash", script], env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-2:] == ["make env", "make test"]
    assert ("apt-get -qq install -y chromium" in calls) == (apt == "exit 0")
    assert ("tests that need one are skipped" in done.stderr) == (apt == "exit 100")


def test_first_notebook_has_scores():
    first = re.search(r"^FIRST := (\S+)", text("Makefile"), re.MULTILINE).group(1)
    notebook = json.loads(text(f"notebooks/{first}.ipynb"))
    assert tagged(notebook, "scores"), (
        f"{first}: `make run` prints the cells tagged `scores`; there is none"
    )


# --- the package ---


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    name = name_of(path)
    assert name in FLOOR_OF, f"{name} has no floor: give it one in FLOORS, and in the README's map"
    for other in imports(path)[0]:
        assert FLOOR_OF.get(other, 99) < FLOOR_OF[name], (
            f"{name} imports {other}, which is no lower"
        )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_star_imports_and_one_importer_of_albumentations(path):
    froms = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    assert not any(alias.name == "*" for node in froms for alias in node.names), (
        f"{path.name}: star import"
    )
    assert path.stem == "data" or not {"albumentations", "albucore"} & imports(path)[1], (
        f"{path.name}"
    )


def test_import_leaves_cuda_alone():
    names = [f"seglib.{name_of(path)}" for path in MODULES if name_of(path) != "__init__"]
    code = f"import importlib, torch\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "assert not torch.cuda.is_initialized(), 'an import initialised CUDA'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_results_in_the_readme_are_those_of_the_json_files():
    from tests import results

    readme = text("README.md")
    shown = readme.split(results.BEGIN)[1].split(results.END)[0].strip()
    assert shown == results.table().strip(), "make results renews it"
    assert set(results.RESULTS) <= {path.stem for path in results.FOLDER.glob("*.json")}


def test_the_timings_in_the_readme_are_those_of_the_json_files():
    from tests.benchmarks import __main__ as benchmarks

    shown = text("README.md").split(benchmarks.BEGIN)[1].split(benchmarks.END)[0].strip()
    assert shown == benchmarks.table().strip(), "make bench renews it"
    assert set(benchmarks.GROUPS) <= {path.stem for path in benchmarks.FOLDER.glob("*.json")}
