"""The script behind `docs/augmentation.md`: arms, going on, and the table."""

import inspect
import json
import re

import numpy as np
import pytest

from seglib import config, phantoms, tables
from tests import ablation
from tests.sources import ROOT

SET = {"gamma": 0.3}  # of one member: without it, the networks are those without augmentation


def test_the_arms_leave_out_one_member_each():
    chosen = ablation.arms(tables.AUGMENTATION_SETS["xray"])
    whole = tables.AUGMENTATION_SETS["xray"]
    assert chosen.pop(ablation.WHOLE) == whole and chosen.pop(ablation.NONE) == {}
    assert [set(whole) - set(arm) for arm in chosen.values()] == [{name} for name in whole]


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """Two data sets of phantoms, and a small set."""
    for n, name in ((6, "montgomery"), (5, "shenzhen")):
        phantoms.write("lung", tmp_path / "data" / name, n=n, seed=n)
    monkeypatch.setattr(ablation, "REAL", tmp_path / "data")
    monkeypatch.setitem(tables.AUGMENTATION_SETS, "xray", SET)
    page = tmp_path / "page.md"
    page.write_text(
        f"Before.\n{ablation.BEGIN}\nPREVIOUS\n{ablation.END}\nAfter.\n", encoding="utf-8"
    )
    return tmp_path


def test_a_tiny_ablation_is_written_and_goes_on(hospitals, monkeypatch, without_figures):
    output, page = hospitals / "ablation.json", hospitals / "page.md"
    line = ["lung", "--size", "smoke", "--epochs", "1", "--image_size", "32", "--folds", "2"]
    line += ["--work_dir", str(hospitals / "work"), "--output", str(output), "--page", str(page)]
    ablation.main(line)
    saved = json.loads(output.read_text())
    names = ["the whole set", "without gamma", "no augmentation"]
    assert list(saved["arms"]) == names
    assert [arm["augment"] for arm in saved["arms"].values()] == [SET, {}, {}]
    for arm in saved["arms"].values():
        assert [len(rows) for rows in arm["scores"].values()] == [6, 5]
    text = page.read_text()
    assert text.startswith("Before.\n") and text.endswith("After.\n") and "PREVIOUS" not in text
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert len(rows) == 4 and "Mean Dice of 6 and 5 images" in text

    trained = []
    scores = ablation._scores
    monkeypatch.setattr(
        ablation, "_scores", lambda cfg, *rest: trained.append(cfg.augment) or scores(cfg, *rest)
    )
    ablation.main(line)
    assert not trained and page.read_text() == text
    del saved["arms"]["without gamma"]  # as if the run had been stopped there
    saved["arms"]["no augmentation"]["augment"] = {"vflip": 0.5}  # as if it were of an older set
    output.write_text(json.dumps(saved))
    ablation.main(line)
    assert trained == [{}, {}] and list(json.loads(output.read_text())["arms"]) == names

    with pytest.raises(SystemExit, match="other settings .epochs 1, now 2."):
        ablation.main([*line, "--epochs", "2"])


@pytest.mark.parametrize("options, words", [("--folds 1", "folds"), ("--epochs 0", "epochs: 0")])
def test_bad_options_are_one_line(hospitals, options, words):
    line = ["lung", "--size", "smoke", "--image_size", "32", "--work_dir", str(hospitals / "work")]
    with pytest.raises(SystemExit, match=words):
        ablation.main([*line, "--output", str(hospitals / "a.json"), *options.split()])
    assert not (hospitals / "a.json").exists()


def test_differences_are_paired_and_of_the_right_sign():
    cases, rng = [f"c{i}" for i in range(20)], np.random.default_rng(0)
    noise = rng.normal(0, 0.001, 20)
    noise -= noise.mean()

    def arm(gain):
        dice = 0.9 + 0.003 * np.arange(20) + gain + (noise if gain else 0)
        return [{"case": c, "patient": c, "dice": d} for c, d in zip(cases, dice)]

    scores = {ablation.HELD_OUT: arm(0), ablation.OTHER: arm(0)}
    worse = {ablation.HELD_OUT: arm(-0.01)[::-1], ablation.OTHER: arm(0.02)}
    result = {
        "arms": {
            ablation.WHOLE: {"scores": scores, "augment": SET},
            "without hflip": {"scores": worse, "augment": {}},
        },
        "settings": {"folds": 2, "epochs": 1},
        "date": "2000-01-01",
        "machine": "none",
    }
    lines = ablation.table(result).splitlines()
    assert lines[2] == f"| {ablation.WHOLE} | 0.9285 |  | 0.9285 |  |"
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[:2] == ["without hflip", "0.9185"] and cells[3] == "0.9485"
    # Much narrower than the spread of the patients, 0.018.
    assert re.fullmatch(r"-0\.0100 \(-0\.010\d to -0\.009\d\)", cells[2])
    assert re.fullmatch(r"\+0\.0200 \(\+0\.019\d to \+0\.020\d\)", cells[4])


def test_a_page_without_its_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="expected the markers"):
        ablation.write_between(page, ablation.BEGIN, ablation.END, "| |")


# ---- the page


def page():
    return ablation.PAGE.read_text(encoding="utf-8")


def rows_of(section):
    """First cell -> row, of the table below a heading."""
    text = page().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}


def test_the_page_names_every_augmentation_and_set():
    rows = rows_of("The changes")
    assert set(rows) == set(tables.AUGMENTATIONS)
    assert set(rows_of("The sets")) == set(tables.AUGMENTATION_SETS)
    for picture in ("augmentation.jpg", "augmentation_xray.jpg"):
        assert picture in page() and (ROOT / "docs" / picture).is_file()


def test_the_code_of_the_page_runs(monkeypatch):
    monkeypatch.setattr(tables, "AUGMENTATIONS", dict(tables.AUGMENTATIONS))
    monkeypatch.setattr(tables, "AUGMENTATION_SETS", dict(tables.AUGMENTATION_SETS))
    names = {"config": config}
    for block in page().split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert set(names["cfg"].augment) == {"hflip", "jpeg", "posterise"}


def test_the_table_on_the_page_is_that_of_the_json_file():
    """`python -m tests.ablation lung` renews both."""
    shown = page().partition(ablation.BEGIN)[2].partition(ablation.END)[0].strip()
    path = ablation.FOLDER / "ablation.json"
    if not path.is_file():
        assert shown.startswith("Not measured yet")
        return
    assert shown == ablation.table(json.loads(path.read_text(encoding="utf-8")))


def test_the_parameters_and_defaults_on_the_page_are_those_of_the_code():
    for name, entry in tables.AUGMENTATIONS.items():
        cell = rows_of("The changes")[name].rstrip(" |").rpartition(" | ")[2]
        defaults = inspect.signature(tables.load(entry.build)).parameters
        for parameter in entry.parameters:
            told = cell.partition(f"`{parameter}`")[2].partition("`")[0]
            default = defaults[parameter].default
            for number in default if isinstance(default, tuple) else (default,):
                assert f"{number:g}" in told, f"{name}: {parameter} {told!r}, {number}"
