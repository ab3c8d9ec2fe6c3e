"""`%autoreload 2` in a real kernel: an edit, or a `git pull`, takes effect while objects of before go on working.

That is how the notebooks on Kaggle and Colab are updated while their kernel lives. Every test runs twice: IPython 9
patches only the definitions that changed; with `--full` it loads a changed file again as a whole, as the older IPython
of Colab and Kaggle always does.
"""

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
from seglib import config, data, errors, layouts, losses, metrics, models, plots, prepare, runs
from seglib.config import Config, preset
from seglib.formats import images
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
        """Run a cell; returns what the expression `value` is after it. An error in the cell fails the test."""
        expression = f"__import__('json').dumps({value})"
        reply = self.client.execute_interactive(
            code,
            user_expressions={"value": expression},
            output_hook=lambda message: None,
            timeout=60,
        )["content"]
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        found = reply["user_expressions"]["value"]
        assert found["status"] == "ok", "\n".join(found.get("traceback", []))
        return json.loads(eval(found["data"]["text/plain"]))

    def edit(self, name, old, new):
        """Change the source of a module on disk, as an editor or `git pull` does."""
        path = self.package / f"{name}.py"
        text = path.read_text()
        assert text.count(old) == 1, f"{name}.py: {old!r} is there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def touch(self, *names):
        """An edit that changes no behaviour."""
        for name in names:
            with open(self.package / f"{name}.py", "a") as file:
                file.write("\n\ndef _edited():\n    return 1\n")


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
    made = Notebook(folder)
    try:
        assert made.run(SETUP, "seglib.__file__") == str(folder / "seglib" / "__init__.py")
        yield made
    finally:
        made.client.stop_channels()
        made.manager.shutdown_kernel(now=True)


@pytest.fixture(autouse=True, params=["", "--full"], ids=["patched", "full"])
def mode(request, notebook):
    notebook.run(f"%autoreload 2 {request.param}")
    return request.param


def test_an_edited_function_behaves_anew(notebook):
    both = "[float(metrics.ratios(1, 1, 1, 1)['dice']), float(ratios(1, 1, 1, 1)['dice'])]"
    assert notebook.run("pass", both) == [0.5, 0.5]
    notebook.edit("metrics", '"dice": dice,', '"dice": 100 * dice,')
    assert notebook.run("pass", both) == [50.0, 50.0]  # also where the function itself was imported
    notebook.edit("metrics", '"dice": 100 * dice,', '"dice": dice,')
    assert notebook.run("pass", both) == [0.5, 0.5]


def test_an_object_made_before_gets_the_new_method(notebook):
    assert notebook.run("pass", "run.best.name") == "best_model.pth"
    notebook.edit(
        "runs",
        "return self.folder / self.config.checkpoint_name",
        "return self.folder / 'edited.pth'",
    )
    assert notebook.run("pass", "run.best.name") == "edited.pth"
    notebook.edit(
        "runs",
        "return self.folder / 'edited.pth'",
        "return self.folder / self.config.checkpoint_name",
    )
    assert notebook.run("pass", "run.best.name") == "best_model.pth"


def test_a_network_made_before_and_classes_imported_before_work(notebook):
    notebook.touch("models")
    shapes = "[list(net(torch.zeros(1, 1, 64, 64)).shape) for net in (network, UNet(1, 1, 4, 2), runs.network(cfg))]"
    assert notebook.run("pass", shapes) == [[1, 1, 64, 64]] * 3
    notebook.touch("losses")
    sums = "[float(f(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))) > 0 for f in (loss, losses.build('combined'))]"
    assert notebook.run("pass", sums) == [True, True]


def test_a_config_made_before_works_after_a_field_is_added(notebook, mode):
    name = "extra_full" if mode else "extra"
    last = 'bootstrap: int = _setting(2000, "resamples of the 95 % intervals", 10)'
    notebook.edit("config", last, f'{last}\n    {name}: int = _setting(7, "made by a test", 0)')
    found = notebook.run(
        "cfg.epochs = 3", f"[cfg.epochs, cfg.{name}, cfg.replace({name}=9).{name}]"
    )
    assert found == [3, 7, 9]
    assert notebook.run("pass", f"[preset('lung', {name}=8).{name}, cfg.to_dict()['{name}']]") == [
        8,
        7,
    ]
    assert notebook.run(
        "pass", "isinstance(cfg, config.Config) and isinstance(config.preset('lung'), type(cfg))"
    )


BAD = "refused(lambda: setattr(cfg, 'epochs', 'many'))"


def test_wrong_values_are_still_refused_after_config_was_edited(notebook):
    notebook.touch("config")
    assert notebook.run("pass", BAD).startswith("epochs: 'many' is not allowed")
    assert "did you mean 'epochs'" in notebook.run(
        "pass", "refused(lambda: config.preset('lung', epoch=3))"
    )


def test_wrong_values_are_still_refused_after_fields_was_edited(notebook):
    notebook.touch("fields")
    assert notebook.run("pass", BAD).startswith("epochs: 'many' is not allowed")
    assert notebook.run("pass", "cfg.epochs") == 3


def test_a_pull_that_changes_nearly_every_file(notebook):
    """The next cell checks, prepares, loads and trains a step; a damaged file is still set aside and no crash.

    Without errors.py: a class that was loaded anew is another class to an `except` in a cell that imported it before.
    """
    picture = next((notebook.package.parent / "tree" / "MontgomerySet" / "CXR_png").iterdir())
    picture.write_bytes(picture.read_bytes()[:500])
    notebook.touch(
        *sorted(
            str(path.relative_to(notebook.package).with_suffix(""))
            for path in notebook.package.rglob("*.py")
            if path.stem != "errors"
        )
    )
    assert notebook.run("pass", BAD).startswith("epochs: 'many' is not allowed")
    cell = """
store = prepare.build(layouts.scan(cfg), cfg)
batch = next(iter(data.loaders(store, cfg)["train"]))
fresh = runs.network(cfg)
value = losses.build(cfg.loss, cfg.task)(fresh(batch["image"]), batch["mask"], batch["annotated"])
value.backward()
figure = plots.batch_samples(batch, cfg.mean, cfg.std)
"""
    found = notebook.run(
        cell, "[len(store.cases), store.report.set_aside, bool(value.isfinite()), len(figure.axes)]"
    )
    assert found == [3, [picture.stem], True, 3]
    assert "no such file" in notebook.run("pass", "refused(lambda: images.read_image('none.png'))")


def test_a_predictor_made_before_gets_every_edit_of_predict_folder(notebook, mode):
    """A decorator would keep the function as it was: nothing arrives from the second edit on."""
    notebook.run(
        "from seglib import inference\npredictor = inference.Predictor(network, cfg, 'cpu', 'fp32')"
    )
    folder = notebook.package.parent / "pictures"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"no picture")
    keys = "sorted(predictor.predict_folder('pictures', 'masks'))"
    original = '{"done": [], "failed": {}, "millilitres": {}}'
    before = original
    for name in ("first", "second"):
        after = original.replace('"done": []', f'"done": [], "{name}{mode}": True')
        notebook.edit("inference", before, after)
        assert f"{name}{mode}" in notebook.run("pass", keys)
        before = after
    notebook.edit("inference", before, original)
