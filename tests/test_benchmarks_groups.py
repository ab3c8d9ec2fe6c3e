"""The benchmark groups at a tiny size: each gives rows that the table can show. Times are never
judged here.
"""

import math
import time

import pytest

from seglib import phantoms
from tests.benchmarks import children, epochs, pipeline, quality, startup

GROUPS = {
    "reading": lambda: pipeline.reading(n=4, side=128, rounds=1),
    "normalising": lambda: [pipeline.normalising(n=2, rounds=1)],
    "augmentation": lambda: pipeline.augmenting("binary", n=4, rounds=1),
    "waiting": lambda: [pipeline.waited("small network", "smoke", 4, epochs=1)],
    "a whole epoch": lambda: [epochs.whole_epoch("cardiac", "smoke", 4, 2)],
    "growth": lambda: epochs.growth((8, 12)),
    "imports": lambda: startup.imports(1),
    "first batch and step": lambda: startup.firsts("smoke", 1),
}


@pytest.fixture
def no_children(monkeypatch):
    """What belongs into new processes is done in this one: every new one would import PyTorch
    first.
    """

    def reached(code):
        begun = time.perf_counter()
        exec(code, {})
        return time.perf_counter() - begun

    monkeypatch.setattr(
        children,
        "call",
        lambda module, function, **arguments: children.run(module, function, arguments),
    )
    monkeypatch.setattr(startup, "reached", reached)


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_gives_rows(name, no_children):
    rows = GROUPS[name]()
    assert rows
    for row in rows:
        assert row["task"] and row["rounds"] >= 1
        assert ("peer" in row) == ("peer_seconds" in row) and ("work" in row) == ("limit" in row)
        for key in ("seconds", "peer_seconds", "work", "peak_gb"):
            value = row.get(key, 1)
            # What augmentation adds is a difference: of a few pictures it may come out below zero.
            assert math.isfinite(value) and (value > 0 or name == "augmentation"), f"{key}: {row}"


def test_time_to_quality_says_what_was_not_reached(tmp_path):
    tree = phantoms.write("lung", tmp_path / "tree", n=12)
    rows = quality.rows(
        tree, limit=1e-6, epochs=1, image_size=32, base_channels=2, depth=2, test_split=2
    )
    assert [row["task"].endswith("not reached") for row in rows] == [True, True, False]
    assert all(row["seconds"] > 0 and "peer_seconds" not in row for row in rows)
    assert rows[0]["peer"].endswith("not in 0 s") and "2 test X-rays" in rows[2]["task"]


def test_a_child_tells_its_own_memory(tmp_path):
    epochs.write_pictures(tmp_path / "tree", 8)
    ballast = bytearray(b"1") * 1_500_000_000  # the parent's memory is not the child's
    found = children.call("epochs", "built", folder=str(tmp_path))
    assert len(ballast) and found["images"] == 8 and 0.1 < found["peak_gb"] < 1.5


def test_a_new_process_reaches_the_end_of_its_code():
    assert 0 < startup.reached("import seglib") < 600
