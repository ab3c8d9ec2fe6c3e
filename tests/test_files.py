"""Files are whole or not there, a full disk is named, and no weights file runs code."""

import errno
import os

import pytest
import torch

from seglib import files
from seglib.errors import DataError


def test_a_file_is_whole_or_not_there(tmp_path):
    path, before = tmp_path / "deep" / "a.txt", tmp_path / "deep" / "before.txt"
    files.write_text(path, "first")
    with pytest.raises(KeyError), files.replacing(path) as partial:
        partial.write_text("half")
        raise KeyError("in the middle")
    assert path.read_text() == "first\n"
    assert os.listdir(path.parent) == ["a.txt"]
    with files.replacing(path, before) as partial:
        partial.write_text("second")
    assert (path.read_text(), before.read_text()) == ("second", "first\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named(tmp_path, number):
    message = r"a\.txt: not written, the disk is full .* MB free"
    with pytest.raises(DataError, match=message), files.replacing(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    assert not os.listdir(tmp_path)


def test_another_error_of_a_write_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), files.replacing(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "not allowed")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_tensors_and_plain_values_are_loaded(tmp_path):
    torch.save({"weight": torch.arange(3), "epoch": 2}, tmp_path / "a.pth")
    loaded = files.load_safely(tmp_path / "a.pth")
    assert loaded["weight"].tolist() == [0, 1, 2]
    assert loaded["epoch"] == 2


def test_a_file_that_cannot_be_loaded_says_why(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(DataError, match=r"a\.pth: no such file"):
        files.load_safely(path)
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"a\.pth: refused to load: .*; expected a complete file"):
        files.load_safely(path)
    torch.save(Evil(tmp_path / "evil"), path)
    with pytest.raises(DataError, match=r"it asks for \w+\.mkdir, which could run code"):
        files.load_safely(path)
    assert not (tmp_path / "evil").exists()
