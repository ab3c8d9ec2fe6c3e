"""Awkward disks: links in circles, folders that are hidden, locked or too full."""

import os
from pathlib import Path

import pytest

from seglib import hosts
from tests.machines import montgomery, plant, settings

pytestmark = pytest.mark.usefixtures("machine")


def test_hidden_and_macosx_folders_are_not_searched(tmp_path):
    montgomery(tmp_path / "set/__MACOSX")
    montgomery(tmp_path / "set/.trash")
    assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) is None


def test_symlink_loop_ends(tmp_path):
    root = tmp_path / "set"
    (root / "a/b").mkdir(parents=True)
    try:
        (root / "a/b/loop").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    assert len(list(hosts.search.walk(root, 50, False))) == 3
    tree = montgomery(tmp_path / "elsewhere")
    (root / "link").symlink_to(tree, target_is_directory=True)
    assert hosts.find_data(settings(data_root=str(root))) == root / "link"


def test_unreadable_folder_is_skipped(tmp_path, monkeypatch):
    tree = montgomery(tmp_path / "set/b")
    locked = montgomery(tmp_path / "set/a")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).is_relative_to(locked):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) == tree
    assert hosts.search.contents(locked, 3) == "empty, or not readable"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_folder_without_permission_is_skipped(tmp_path):
    tree = montgomery(tmp_path / "set/b")
    locked = montgomery(tmp_path / "set/a")
    locked.chmod(0)
    try:
        assert hosts.find_data(settings(data_root=str(tmp_path / "set"))) == tree
    finally:
        locked.chmod(0o700)


def test_folders_of_very_many_entries_are_not_descended(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts.search, "MAX_SUBFOLDERS", 3)
    monkeypatch.setattr(hosts.search, "MAX_ENTRIES", 6)
    cases = tmp_path / "set/cases"
    for i in range(3):
        montgomery(cases / f"{i}")
    assert hosts.find_data(settings(data_root=str(tmp_path))) == cases / "0"
    montgomery(cases / "3")
    assert hosts.find_data(settings(data_root=str(tmp_path))) is None
    files = plant(tmp_path / "set/files", *[f"{i}.png" for i in range(6)])
    montgomery(files / "0")
    assert hosts.find_data(settings(data_root=str(files))) is None


def test_number_of_folders_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts.search, "MAX_FOLDERS", 4)
    for i in range(9):
        (tmp_path / f"set/{i}").mkdir(parents=True)
    assert [path.name for path in hosts.search.walk(tmp_path / "set", 3, False)] == [
        "set",
        "0",
        "1",
        "2",
    ]
