"""The folders of prepared pixels: what is listed, what is pruned, and what never is."""

import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pandas as pd
import pytest

from seglib import __main__ as command_line
from seglib import layouts, prepare, stores


@pytest.fixture
def lung(lung_cfg):
    """(config, case table) of the lung phantoms; the stores of each test are its own."""
    return lung_cfg, layouts.scan(lung_cfg)


def states(work_dir):
    """Folder name -> state."""
    table = stores.listing(work_dir)
    return {Path(folder).name: state for folder, state in zip(table["folder"], table["state"])}


def older(store):
    """A copy of a store as version 2 wrote them."""
    folder = Path(shutil.copytree(store.folder, store.folder.with_name("lung-0123456789ab")))
    info = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**info, "version": 2}))
    (folder / "facts.json").unlink()
    return folder


def partial(store, writer):
    """What a build leaves while it runs, or when it was killed."""
    folder = store.folder.with_name(f".{store.folder.name}.{uuid.uuid4().hex[:8]}.partial")
    folder.mkdir()
    shutil.copy(store.folder / "images.npy", folder)
    (folder / "writer").write_text(writer)
    return folder


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_store_is_listed(lung):
    cfg, cases = lung
    store = prepare.build(cases, cfg)
    [row] = stores.listing(cfg.work_dir).to_dict("records")
    assert row["folder"] == str(store.folder) and row["state"] == ""
    assert (row["preset"], row["classes"], row["image_size"]) == ("lung", "lung", "64x64")
    assert row["n_images"] == 16
    assert row["mb"] == sum(f.stat().st_size for f in store.folder.iterdir()) / 1e6
    assert row["last_used"][:4].isdigit()


def test_the_one_used_last_comes_first(lung):
    cfg, cases = lung
    first = prepare.build(cases, cfg)
    prepare.build(cases, cfg.replace(image_size=32))
    for folder in first.folder.parent.iterdir():
        for file in folder.iterdir():
            os.utime(file, (1e9, 1e9))
    assert set(stores.listing(cfg.work_dir)["last_used"].str[:4]) == {"2001"}
    prepare.build(cases, cfg.replace(split_seed=3))
    table = stores.listing(cfg.work_dir)
    assert table["folder"][0] == str(first.folder) and table["last_used"][0] > "2002"
    assert table["last_used"][1] < "2002"


def test_only_what_is_of_no_use_is_pruned(lung, tmp_path):
    cfg, cases = lung
    store = prepare.build(cases, cfg)
    copy = cases.assign(image=[shutil.copy(path, tmp_path) for path in cases["image"]])
    gone = prepare.build(copy, cfg)
    for path in copy["image"]:
        os.unlink(path)
    broken = Path(shutil.copytree(store.folder, store.folder.with_name("lung-broken")))
    (broken / "store.json").write_text("{half")
    own = store.folder.with_name("notes")
    own.mkdir()
    (own / "mine.txt").write_text("not a store")
    node = platform.node()
    expected = {
        store.folder.name: "",
        gone.folder.name: "sources gone",
        older(store).name: "older version",
        broken.name: "broken",
        own.name: "not a store",
        partial(store, f"{node} {os.getpid()}").name: "being written",
        partial(store, f"{node} {ended_process()}").name: "partial",
        partial(store, "").name: "partial",
        partial(store, f"another machine {os.getpid()}").name: "being written",
    }
    assert states(cfg.work_dir) == expected
    size = stores.listing(cfg.work_dir).set_index("state")["mb"]
    removed = stores.prune(cfg.work_dir)
    useless = ["broken", "older version", "partial", "partial", "sources gone"]
    assert sorted(removed["state"]) == useless
    assert removed["mb"].sum() == pytest.approx(size[sorted(set(useless))].sum())
    left = {name: state for name, state in expected.items() if state not in useless}
    assert states(cfg.work_dir) == left
    pd.testing.assert_frame_equal(prepare.build(cases, cfg).cases, store.cases)


def test_a_store_with_one_image_left_is_kept(lung, tmp_path):
    """The cases of the others may come back; filtered to the one, the table can still use it."""
    cfg, cases = lung
    copy = cases.assign(image=[shutil.copy(path, tmp_path) for path in cases["image"]])
    store = prepare.build(copy, cfg)
    for path in copy["image"][1:]:
        os.unlink(path)
    assert states(cfg.work_dir) == {store.folder.name: ""}
    assert prepare.build(copy.head(1), cfg).folder == store.folder


def test_a_build_that_was_killed_leaves_a_partial_store(lung, tmp_path):
    cfg, _ = lung
    script = (
        "import os, signal\n"
        "from seglib import config, layouts, prepare\n"
        "from seglib.formats import images\n"
        f"cfg = config.load({str(cfg.save(tmp_path / 'lung.json'))!r})\n"
        "images.fit_mask = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare.build(layouts.scan(cfg), cfg)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, timeout=120)
    assert done.returncode < 0
    assert list(states(cfg.work_dir).values()) == ["partial"]
    assert len(stores.prune(cfg.work_dir)) == 1 and states(cfg.work_dir) == {}


def test_the_command(lung, capsys):
    cfg, cases = lung
    words = ["stores", "--work_dir", cfg.work_dir]
    assert command_line.main(words) == 0
    assert "0 stores in" in capsys.readouterr().out
    store = prepare.build(cases, cfg)
    folder = older(store)
    assert command_line.main(words) == 0
    listed = capsys.readouterr().out
    assert store.folder.name in listed and "2 stores in" in listed
    assert "1 of them" in listed and "--prune" in listed and folder.is_dir()
    assert command_line.main([*words, "--prune"]) == 0
    pruned = capsys.readouterr().out
    assert f"removed {folder} (older version, " in pruned and "1 store removed, " in pruned
    assert "1 store in" in pruned and store.folder.is_dir() and not folder.exists()
