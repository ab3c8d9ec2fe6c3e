"""The set-up of a notebook, progress bars, and the facts about a machine.

Hosts are imitated by folders; no test of `hosts` needs Kaggle, Colab, a GPU or the network.
"""

import json
import subprocess
import sys
import types
from pathlib import Path

import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell

import seglib
from seglib import hosts

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("machine")


def test_in_notebook(monkeypatch):
    assert not hosts.in_notebook()

    class ZMQInteractiveShell:
        pass

    class Shell(ZMQInteractiveShell):
        """Colab's."""

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=Shell))
    assert hosts.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not hosts.in_notebook()


def test_setup_installs_reloads_and_offers_drive(monkeypatch, capsys):
    """Called twice: an extension that is loaded already says nothing, `autoreload` is on."""
    shell = InteractiveShell()
    calls = []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(hosts, "install_missing", lambda: calls.append("install"))
    monkeypatch.setattr(hosts, "offer_drive", lambda: calls.append("drive"))
    with matplotlib.rc_context():
        for _ in range(2):
            hosts.setup()
        settings = dict(matplotlib.rcParams)
    width = settings["figure.figsize"][0] * settings["figure.dpi"]
    assert width >= 1000 and settings["figure.autolayout"]
    assert calls == ["install", "drive"] * 2
    reloader = shell.magics_manager.registry["AutoreloadMagics"]._reloader
    assert reloader.enabled and reloader.check_all
    assert not capsys.readouterr().out


def test_setup_in_a_script(monkeypatch):
    """Without IPython, and with IPython imported but no shell running."""
    monkeypatch.setattr(hosts, "install_missing", lambda: None)
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    hosts.setup()
    monkeypatch.delitem(sys.modules, "IPython")
    hosts.setup()


def test_describe(torch, monkeypatch):
    table = hosts.describe()
    assert (
        table["host"] == "local"
        and table["device"] == "cpu"
        and table["torch"] == torch.__version__
    )
    assert table["seglib"] == seglib.__version__
    assert table["cores"] >= 1 and table["threads"] >= 1
    assert all(value is None or type(value) in (str, int, float) for value in table.values())
    json.dumps(table)


def test_describe_survives_missing_and_broken_packages(monkeypatch):
    def missing(name):
        raise hosts.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(hosts.importlib.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "torch", None)
    table = hosts.describe()
    assert table["numpy"] is None and table["torch"] is None
    assert "ModuleNotFoundError" in table["device"]


def test_progress_without_ipywidgets(monkeypatch, capsys):
    import tqdm

    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bar = hosts.progress(range(3), desc="epoch")
    assert type(bar) is tqdm.tqdm and list(bar) == [0, 1, 2]
    assert "epoch: 100%" in capsys.readouterr().err


def test_progress_can_be_turned_off(monkeypatch, capsys):
    monkeypatch.setenv("SEGLIB_PROGRESS", "0")
    with hosts.progress(total=2) as bar:
        bar.update(2)
    assert list(hosts.progress([1])) == [1]
    assert not capsys.readouterr().err


def test_import_is_light():
    heavy = ("torch", "numpy", "tqdm")
    code = f"import seglib.hosts, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
