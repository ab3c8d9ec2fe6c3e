"""`%autoreload 2` in a real kernel: an edit, or a `git pull`, reaches a kernel that goes on living.

That is how the notebooks on Kaggle and Colab are updated. Every test runs twice: IPython 9 patches
only the definitions that changed; with `--full` it loads a changed file again as a whole, as the
older IPython of Colab and Kaggle always does.
"""

import ast
import contextlib
import json
import os
import shutil
from pathlib import Path

import jupyter_client
import pytest

import seglib

SETUP = """
%load_ext autoreload
%autoreload 2
import json, pathlib
import numpy as np, pandas as pd, torch
torch.set_num_threads(1)
import seglib
from seglib import config, data, errors, inference, layouts, losses, metrics, models, phantoms
from seglib import drawings, plots, prepare, runs, tables
from seglib.config import Config, preset
from seglib.formats import images, volumes
from seglib.layouts import pairing, scan
from seglib.errors import ConfigError, DataError
from seglib.metrics import ratios
from seglib.models import UNet

def refused(change):
    try:
        change()
    except (ConfigError, DataError) as error:
        return str(error)
    return "nothing was raised"

cfg = config.preset("lung", "smoke", data_root="tree", val_split=0, test_split=0, augment={})
run = runs.Run(pathlib.Path("runs/lung"), cfg, pd.DataFrame({"epoch": [1]}), {"device": "cpu"})
network = runs.network(cfg).eval()
loss = losses.build("combined")
predictor = inference.Predictor(network, cfg, "cpu")
"""


class Notebook:
    """A live kernel whose `seglib` is the copy in `folder`."""

    def __init__(self, folder):
        self.package = folder / "seglib"
        self.manager, self.client = jupyter_client.manager.start_new_kernel(
            kernel_name="python3",
            cwd=str(folder),
            env={**os.environ, "PYTHONPATH": str(folder)},
            startup_timeout=60,
        )

    def run(self, code, value="None"):
        """Run a cell; returns what the expression `value` is then. Its errors fail the test."""
        expression = f"__import__('json').dumps({value})"
        reply = self.client.execute_interactive(
            code,
            user_expressions={"value": expression},
            output_hook=lambda message: None,
            timeout=60,
        )["content"]
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        result = reply["user_expressions"]["value"]
        assert result["status"] == "ok", "\n".join(result.get("traceback", []))
        return json.loads(eval(result["data"]["text/plain"]))

    def value(self, expression):
        return self.run("pass", expression)

    def path(self, module):
        return self.package / f"{module}.py"

    def insert(self, module, line_number, line):
        lines = self.path(module).read_text().splitlines(keepends=True)
        lines.insert(line_number, line + "\n")
        self.path(module).write_text("".join(lines))

    def append(self, module, code):
        """An edit at the end of a module, such as one more entry of its table."""
        with open(self.path(module), "a") as file:
            file.write(f"\n\n{code}\n")

    @contextlib.contextmanager
    def edited(self, module, name, statement):
        """A function, or "Class.method", that begins with `statement`; undone at the end."""
        text = self.path(module).read_text()
        node = ast.parse(text)
        for part in name.split("."):
            node = next(child for child in node.body if getattr(child, "name", None) == part)
        first = node.body[1 if ast.get_docstring(node) else 0]
        self.insert(module, first.lineno - 1, " " * first.col_offset + statement)
        try:
            yield
        finally:
            self.path(module).write_text(text)

    def touch(self, *modules):
        """An edit that changes no behaviour."""
        for module in modules:
            self.append(module, "def _edited():\n    return 1")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, lung_tree):
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(
        Path(seglib.__file__).parent,
        folder / "seglib",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for file in sorted(lung_tree.rglob("MCUCXR_000[1-4]_?.png")):
        target = folder / "tree" / file.relative_to(lung_tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    living = Notebook(folder)
    try:
        assert living.run(SETUP, "seglib.__file__") == str(folder / "seglib" / "__init__.py")
        yield living
    finally:
        living.client.stop_channels()
        living.manager.shutdown_kernel(now=True)


@pytest.fixture(autouse=True, params=["", "--full"], ids=["patched", "full"])
def mode(request, notebook):
    notebook.run(f"%autoreload 2 {request.param}")
    return request.param


# Module, function, the expression that a cell evaluates. Modules, functions and objects of the
# notebook were imported and made before the edit.
EDITS = [
    ("drawings/ideas", "data_flow", "drawings.data_flow()"),
    ("formats/images", "read_image", "images.read_image('none.png')"),
    ("inference/__init__", "Predictor.predict_folder", "predictor.predict_folder('none')"),
    ("inference/batches", "BatchPredictor.mask", "predictor.mask(np.zeros((1, 4, 4), 'f4'))"),
    ("inference/masks", "clean", "inference.clean(np.ones((4, 4), bool))"),
    ("layouts/__init__", "scan", "layouts.scan(cfg)"),
    ("layouts/__init__", "scan", "scan(cfg)"),
    ("layouts/pairing", "contents", "pairing.contents(pathlib.Path('.'))"),
    ("metrics", "ratios", "metrics.ratios(1, 1, 1, 1)"),
    ("metrics", "ratios", "ratios(1, 1, 1, 1)"),
    ("models", "UNet.forward", "network(torch.zeros(1, 1, 64, 64))"),
    ("phantoms/__init__", "write", "phantoms.write('lung', 'none')"),
    ("runs", "Run.best", "run.best"),
]


@pytest.mark.parametrize("module, function, expression", EDITS, ids=[edit[2] for edit in EDITS])
def test_an_edit_reaches_what_was_imported_and_made_before(notebook, module, function, expression):
    before = "try:\n    result = str({0})\nexcept Exception as error:\n    result = str(error)"
    cell = before.format(expression)
    assert notebook.run(cell, "result") != "edited"
    with notebook.edited(module, function, "return 'edited'"):
        assert notebook.run(cell, "result") == "edited"
    assert notebook.run(cell, "result") != "edited"


# What the tables name as text is loaded where it is used.
STOP = "from ..errors import DataError; raise DataError('edited')"
NAMED = [
    ("layouts/pictures", "scan_chest", "layouts.scan(cfg)"),
    ("phantoms/chest", "lung_case", "phantoms.write('lung', 'none', n=1)"),
]


@pytest.mark.parametrize("module, function, call", NAMED, ids=[named[0] for named in NAMED])
def test_an_edit_reaches_what_a_table_names(notebook, module, function, call):
    with notebook.edited(module, function, STOP):
        assert notebook.value(f"refused(lambda: {call})") == "edited"


def test_an_entry_added_to_a_table_is_used(notebook, mode):
    name = f"added{mode.strip('-')}"
    notebook.append("tables", f"LOSSES['{name}'] = LOSSES['bce']")
    assert notebook.value(f"cfg.replace(loss='{name}').loss") == name
    notebook.append("tables", f"METRICS['{name}'] = METRICS['dice']")
    assert notebook.value(f"'{name}' in metrics.names() and '{name}' in ratios(1, 1, 1, 1)") is True
    notebook.append("presets", f"PRESETS['{name}'] = PRESETS['lung']")
    assert notebook.value(f"preset('{name}', 'smoke').preset") == name


def test_a_network_made_before_and_classes_imported_before_work(notebook):
    notebook.touch("models")
    networks = "(network, UNet(1, 1, 4, 2), runs.network(cfg))"
    shapes = f"[list(net(torch.zeros(1, 1, 64, 64)).shape) for net in {networks}]"
    assert notebook.value(shapes) == [[1, 1, 64, 64]] * 3
    notebook.touch("losses")
    arguments = "torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)"
    sums = f"[float(f({arguments})) > 0 for f in (loss, losses.build('combined'))]"
    assert notebook.value(sums) == [True, True]


def test_a_config_made_before_works_after_a_field_is_added(notebook, mode):
    name = "extra_full" if mode else "extra"
    body = ast.parse(notebook.path("config").read_text()).body
    fields = next(node for node in body if getattr(node, "name", None) == "Config").body
    last = [node for node in fields if isinstance(node, ast.AnnAssign)][-1]
    field = f'    {name}: int = _setting(7, "made by a test", "use", 0)'
    notebook.insert("config", last.end_lineno, field)
    values = f"[cfg.epochs, cfg.{name}, cfg.replace({name}=9).{name}]"
    assert notebook.run("cfg.epochs = 3", values) == [3, 7, 9]
    assert notebook.value(f"[preset('lung', {name}=8).{name}, cfg.to_dict()['{name}']]") == [8, 7]
    assert notebook.value("isinstance(cfg, config.Config)") is True
    assert notebook.value("isinstance(config.preset('lung'), type(cfg))") is True


BAD = "refused(lambda: setattr(cfg, 'epochs', 'many'))"


def test_wrong_values_are_still_refused_after_config_was_edited(notebook):
    notebook.touch("config")
    assert notebook.value(BAD).startswith("epochs: 'many' is not allowed")
    nearest = notebook.value("refused(lambda: config.preset('lung', epoch=3))")
    assert "did you mean 'epochs'" in nearest


def test_wrong_values_are_still_refused_after_fields_was_edited(notebook):
    notebook.touch("fields")
    assert notebook.value(BAD).startswith("epochs: 'many' is not allowed")
    assert notebook.run("cfg.epochs = 3", "cfg.epochs") == 3


def test_a_pull_that_changes_nearly_every_file(notebook):
    """The next cell checks, prepares, loads and trains a step; a damaged file is still set aside.

    Without errors.py: a class that was loaded anew is another class to an `except` in a cell that
    imported it before.
    """
    picture = next((notebook.package.parent / "tree" / "MontgomerySet" / "CXR_png").iterdir())
    picture.write_bytes(picture.read_bytes()[:500])
    modules = [path.relative_to(notebook.package) for path in notebook.package.rglob("*.py")]
    notebook.touch(*sorted(str(m.with_suffix("")) for m in modules if m.stem != "errors"))
    assert notebook.value(BAD).startswith("epochs: 'many' is not allowed")
    cell = """
store = prepare.build(layouts.scan(cfg), cfg)
batch = next(iter(data.loaders(store, cfg)["train"]))
fresh = runs.network(cfg)
value = losses.build(cfg.loss, cfg.task)(fresh(batch["image"]), batch["mask"], batch["annotated"])
value.backward()
figure = plots.batch_samples(batch, cfg.mean, cfg.std)
"""
    outcome = "[len(store.cases), store.report.set_aside, bool(value.isfinite()), len(figure.axes)]"
    assert notebook.run(cell, outcome) == [3, [picture.stem], True, 3]
    assert "no such file" in notebook.value("refused(lambda: images.read_image('none.png'))")
