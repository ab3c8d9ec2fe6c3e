"""Which host it is, where runs go, and Drive."""

import sys
import types

import pytest

from seglib import hosts
from tests.machines import settings

pytestmark = pytest.mark.usefixtures("machine")


def test_host_local(machine):
    assert hosts.host() == "local"


def test_host_kaggle_by_variable_and_by_folder(machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_URL_BASE", "https://www.kaggle.com")
    assert hosts.host() == "kaggle"
    monkeypatch.delenv("KAGGLE_URL_BASE")
    hosts.mounts.KAGGLE_INPUT.mkdir(parents=True)
    assert hosts.host() == "kaggle"


def test_host_colab_even_with_a_kaggle_mount(colab, monkeypatch):
    assert hosts.host() == "colab"
    hosts.mounts.KAGGLE_INPUT.mkdir(parents=True)
    assert hosts.host() == "colab"
    # Kaggle's image is built on Colab's and may keep its variables.
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert hosts.host() == "kaggle"


def test_work_dir(machine, monkeypatch, capsys):
    assert hosts.work_dir() == "runs" and hosts.work_dir("elsewhere") == "elsewhere"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert hosts.work_dir() == str(hosts.mounts.KAGGLE_WORKING / "runs")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert not capsys.readouterr().out
    assert hosts.work_dir() == hosts.work_dir() == str(hosts.mounts.COLAB_CONTENT / "runs")
    assert capsys.readouterr().out.count("a disconnect loses them") == 1
    hosts.mounts.COLAB_DRIVE.mkdir(parents=True)
    assert (
        hosts.work_dir()
        == str(hosts.mounts.COLAB_DRIVE / "seglib/runs")
        == hosts.run_root(settings())
    )
    assert hosts.run_root(settings().replace(local=True)) == "runs"
    assert not capsys.readouterr().out


def fake_drive(monkeypatch, mount):
    drive = types.SimpleNamespace(mount=mount)
    google = types.SimpleNamespace(colab=types.SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)


def test_offer_drive(colab, monkeypatch, capsys):
    mounted = []

    def mount(folder):
        mounted.append(folder)
        hosts.mounts.COLAB_DRIVE.mkdir(parents=True)

    fake_drive(monkeypatch, mount)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert not hosts.offer_drive() and not mounted
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    monkeypatch.setenv("SEGLIB_DRIVE", "0")
    assert not hosts.offer_drive() and not mounted
    monkeypatch.setenv("SEGLIB_DRIVE", "1")
    assert hosts.offer_drive() and mounted == [str(hosts.mounts.COLAB_DRIVE.parent)]
    assert hosts.offer_drive() and len(mounted) == 1  # mounted already
    assert not capsys.readouterr().out


def test_offer_drive_says_why_not(colab, monkeypatch, capsys):
    def nobody(question):
        raise EOFError

    def broken(folder):
        raise ValueError("mount failed\nmore")

    fake_drive(monkeypatch, broken)
    monkeypatch.setattr("builtins.input", nobody)
    assert not hosts.offer_drive()
    assert "EOFError" in capsys.readouterr().out
    monkeypatch.setenv("SEGLIB_DRIVE", "1")
    assert not hosts.offer_drive()
    assert "ValueError: mount failed." in capsys.readouterr().out


def test_offer_drive_elsewhere_is_silent(kaggle, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    hosts.mounts.COLAB_DRIVE.mkdir(parents=True)
    assert not hosts.offer_drive()
    assert not capsys.readouterr().out
