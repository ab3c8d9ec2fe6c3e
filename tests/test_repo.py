"""The repository itself: its environment, its wheel, and the rules that its source files keep."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sources import MODULES, ROOT, imports, tree

# The house of seglib, from the ground up: a module imports from the rows above its own only.
FLOORS = [
    ["__init__", "errors"],
    ["files", "fields", "tables", "presets"],
    ["exercises.answers", "exercises.classroom"],
    ["annotations.rle", "annotations.shapes", "annotations.sources"],
    ["annotations.drawing", "annotations.labelme", "annotations.outlines"],
    ["annotations.coco", "annotations.cvat", "annotations.via", "annotations.yolo"],
    ["annotations.geojson", "annotations.imagej"],
    ["formats", "formats.signatures", "formats.orientation"],
    ["formats.tiff", "formats.dicom_headers", "formats.slicer", "formats.simpleitk"],
    ["formats.dicom_values"],
    ["formats.dicom_pictures"],
    ["formats.codecs", "formats.legends"],
    ["formats.images", "formats.channels", "formats.mask_names"],
    ["formats.mask_pixels", "annotations.roboflow", "annotations.writers"],
    ["annotations"],
    ["formats.dicom", "formats.nifti"],
    ["formats.rtstruct", "formats.dicom_seg_labels"],
    ["formats.segments"],
    ["formats.dicom_folders"],
    ["formats.volumes", "formats.dicom_seg"],
    ["formats.mask_values"],
    ["formats.stacks", "formats.sequences"],
    ["hosts.mounts"],
    ["hosts.devices", "hosts.search"],
    ["hosts.precision", "hosts.finding"],
    ["config", "hosts", "memory", "formats.inputs"],
    ["layouts.sequences"],
    [
        "effects",
        "layouts.pairing",
        "layouts.patients",
        "layouts.numbers",
        "meanings",
        "layouts.classes",
        "layouts.remembered",
    ],
    ["augmentations", "copy_paste", "patches", "tiles", "encoders", "measurements", "curves"],
    ["regions", "phantoms.drawing"],
    ["phantoms.abdomen", "phantoms.chest", "phantoms.fundus", "phantoms.heart", "phantoms.skin"],
    ["phantoms", "layouts.volumes", "layouts.pictures", "layouts.named"],
    ["layouts.class_values", "layouts.class_files", "layouts.stacks"],
    ["layouts.cases", "layouts.convert"],
    ["layouts.folders", "layouts.annotated", "layouts.dicom"],
    ["layouts", "case_io", "models", "losses", "metrics"],
    ["checks", "stores", "updates", "corrections", "mask_editor"],
    ["prepare", "data", "plots", "runs", "bootstrap", "lungs"],
    ["zoo", "transfer", "drawings.page", "drawings.passages"],
    ["drawings.plans", "drawings.dilations", "drawings.ideas"],
    ["drawings.u_shaped"],
    ["drawings"],
    ["training.state", "training.checks", "training.machine"],
    ["training.validation", "training.epoch_loss", "training.saving"],
    ["training.optimizer"],
    ["training.info", "training.loop"],
    ["training.setup"],
    ["inference.frames", "inference.loading", "inference.masks", "inference.views"],
    ["inference.batches", "inference.folders", "inference.measuring", "inference.writing"],
    ["training", "inference", "summary"],
    ["report"],
    ["evaluation.networks", "evaluation.image", "evaluation.distances"],
    ["evaluation.pixels", "evaluation.header", "evaluation.examples"],
    ["evaluation.scorer", "evaluation.choices"],
    ["evaluation", "export", "labelling", "explorer", "two_step", "annotate"],
    ["folds"],
    ["nnunet"],
    ["commands", "commands.parts"],
    ["commands.data", "commands.training", "commands.prediction", "commands.networks"],
    ["commands.table"],
    ["commands.arguments"],
    [f"exercises.lesson_{number:02}" for number in range(10)],
    ["exercises", "__main__"],
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
    hosts_own = {*sys.stdlib_module_names, "IPython", "google"}
    for path in MODULES.values():
        for top in imports(path)[1] - hosts_own:
            names = {canonicalize_name(name) for name in packages.get(top, [top])}
            assert names & declared, (
                f"{path.name} imports {top}; pyproject.toml does not ask for {sorted(names)}"
            )


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
    """The two steps of the README end the script, and each of them can fail it."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK), ".ci/run is not executable"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    commands = [line for line in script.read_text().splitlines() if not line.startswith((" ", "#"))]
    assert commands[0] == "set -euo pipefail" and commands[-2:] == ["make env", "make test"]


def test_first_notebook_has_scores():
    first = re.search(r"^FIRST := (\S+)", text("Makefile"), re.MULTILINE).group(1)
    notebook = json.loads(text(f"notebooks/{first}.ipynb"))
    assert tagged(notebook, "scores"), (
        f"{first}: `make run` prints the cells tagged `scores`; there is none"
    )


# --- the package ---


def test_the_wheel_holds_every_module(tmp_path):
    """Built without a network, installed into an empty folder and imported there, without CUDA."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(
        ROOT / "seglib", source / "seglib", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 12e6
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if not name.endswith(".py")}
        packed = {name for name in names if name.startswith("seglib/")}
    shipped = {*(ROOT / "seglib/weights").iterdir(), *ROOT.glob("seglib/mask_editor.[jc]s*")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in shipped}
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    names = ["seglib", *(f"seglib.{name}" for name in MODULES if name != "__init__")]
    code = f"""
import importlib, pathlib, torch
for name in {names!r}:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to({str(site)!r}), module
assert not torch.cuda.is_initialized(), "an import initialised CUDA"
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    assert name in FLOOR_OF, f"{name} has no floor: give it one in FLOORS, and in docs/house.md"
    for other in imports(MODULES[name])[0]:
        assert FLOOR_OF.get(other, 99) < FLOOR_OF[name], (
            f"{name} imports {other}, which is no lower"
        )


def test_floors_name_modules_only():
    assert set(FLOOR_OF) == set(MODULES)


def test_no_star_imports_and_one_importer_of_albumentations():
    for name, path in MODULES.items():
        froms = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
        stars = [node for node in froms if any(alias.name == "*" for alias in node.names)]
        assert not stars, f"{name}: star import"
        assert name == "augmentations" or not {"albumentations", "albucore"} & imports(path)[1], (
            name
        )


# --- the rules of the source ---

PYTHON_FILES = sorted([*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *ROOT.glob(".ci/*.py")])
MAX_LINES = 60
# Function -> why it is longer than MAX_LINES.
LONG = {}
# Names that say nothing of what they hold, and how often a module of seglib may still assign them.
EMPTY_NAMES = ("found", "known", "there", "kept", "given", "made", "done", "words", "told", "turn")


def test_lines_have_at_most_100_characters():
    for path in PYTHON_FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [number for number, line in enumerate(lines, 1) if len(line) > 100]
        assert not long, f"{path.relative_to(ROOT)}: lines {long}"


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def test_functions_are_short():
    lengths = {
        f"{name}.{function.name}": function.end_lineno - function.lineno + 1
        for name, path in MODULES.items()
        for function in functions(path)
    }
    too_long = {name for name, length in lengths.items() if length > MAX_LINES}
    assert too_long == set(LONG), "shorten it, or give the reason in LONG"


def test_names_say_what_they_hold():
    for name, path in MODULES.items():
        assigned = [
            node.id
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        empty = sorted(set(assigned) & set(EMPTY_NAMES))
        assert not empty, f"{name}: {empty} says nothing of what it holds"


def test_no_test_imports_another():
    """What several test files need stands in conftest.py or in a module that is no test."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            tests = [name for name in names if re.search(r"(^|\.)test_", name)]
            assert not tests, f"{path.name} imports {tests}"
