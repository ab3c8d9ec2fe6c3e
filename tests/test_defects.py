"""Every defect of `tests/defects.py` is named and explained, or handled; the last test counts."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from seglib import case_io, config, layouts, phantoms, prepare
from seglib.errors import DataError
from tests.defects import DEFECTS, victim

N = {"lung": 5, "binary": 8, "palm": 8, "rsna": 3, "cardiac": 3}
REAL = {"lung": "montgomery", "binary": "busi", "cardiac": "acdc"}
ASIDE = [defect for defect in DEFECTS if defect.expect == "set aside"]
OUTCOMES: dict[str, str] = {}  # name of a defect -> what became of it
MEMORY: list[int] = []  # KiB that the process had taken before each defect


def settings(tree, work, preset):
    return config.preset(preset, "smoke", data_root=str(tree), work_dir=str(work))


def pixels(store):
    """Case -> (image, mask) of a store."""
    images, masks = store.open()
    return {case.case: (images[case.row], masks[case.row]) for case in store.cases.itertuples()}


def peak():
    """The most memory that this process has ever held, KiB."""
    return pytest.importorskip("resource").getrusage(0).ru_maxrss


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """A function: preset -> (tree of phantoms, the pixels of its store), without any damage."""
    trees = {}

    def get(preset):
        if preset not in trees:
            tree = phantoms.write(preset, tmp_path_factory.mktemp(preset) / "tree", n=N[preset])
            trees[preset] = tree, prepared(tree, preset)
        return trees[preset]

    return get


@pytest.fixture(scope="session")
def clean_real(real, tmp_path_factory):
    """The same of the first pictures or patients of a real set."""
    trees = {}

    def get(preset):
        if preset not in trees:
            source, tree = real(REAL[preset]), tmp_path_factory.mktemp(preset) / "tree"
            folder = {"lung": "MontgomerySet/CXR_png", "binary": "images", "cardiac": "training"}[
                preset
            ]
            names = sorted(file.stem for file in (source / folder).iterdir())[: N[preset]]
            for file in source.rglob("*"):
                of = file.parent.name if preset == "cardiac" else file.stem
                if file.is_file() and of in names and "masks_union_original" not in file.parts:
                    target = tree / file.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
            trees[preset] = tree, prepared(tree, preset)
        return trees[preset]

    return get


def prepared(tree, preset):
    cfg = settings(tree, tree.parent / "work", preset)
    store = prepare.build(layouts.scan(cfg), cfg)
    assert store.report.problems.empty
    return pixels(store)


def planted(defect, tree, folder):
    """A copy of the tree with the defect: (config, case table, damaged file, victim's name)."""
    copy = Path(shutil.copytree(tree, folder / "tree"))
    name, cfg = victim(defect.preset, copy), settings(copy, folder / "work", defect.preset)
    if defect.after_scan:
        cases = layouts.scan(cfg)
        return cfg, cases, defect.plant(copy), name
    file = defect.plant(copy)
    return cfg, layouts.scan(cfg), file, "" if defect.all_cases else name


def check(defect, tree, before, folder):
    """The outcome in words; an assertion fails where the defect is neither found nor handled."""
    if defect.expect == "refused":
        with pytest.raises(DataError, match=f"(?s){defect.message}") as error:
            planted(defect, tree, folder)
        return f"refused: {error.value}"
    cfg, cases, file, name = planted(defect, tree, folder)
    store = prepare.build(cases, cfg)
    report, after = store.report, pixels(store)
    was = sorted(case for case in before if case.startswith(name))
    hit = sorted(case for case in after if case.startswith(name)) or sorted(
        set(after) - set(before)
    )  # or renamed
    for case in set(before) - set(was):
        assert all(map(np.array_equal, after[case], before[case])), (
            f"{case}, which nobody damaged, has changed"
        )
    if defect.expect == "set aside":
        assert report.set_aside == sorted(set(report.problems["case"])) != []
        for problem in report.problems.itertuples():
            assert problem.case.startswith(name) and problem.set_aside
            assert file.name in problem.problem
            assert re.search(defect.message, problem.problem, re.DOTALL), problem.problem
        assert hit == ([] if "two names" not in defect.name and "anew" not in defect.name else was)
        return f"set aside: {report.problems['problem'].iloc[0]}"
    assert report.problems.empty, report.problems.to_string()
    prepare.build(cases, cfg, strict=True)  # what is usable does not stop it
    if defect.expect == "noted":
        notes = [
            note
            for note in report.notes
            if file.name in note and re.search(defect.message, note, re.DOTALL)
        ]
        assert notes, f"no note on {file.name} with {defect.message!r}: {report.notes}"
    else:
        assert re.search(defect.message, report.summary().to_string())
    if defect.pixels == "gone":
        assert hit == []
        return f"noted: {notes[0]}"
    assert len(hit) == len(was)
    now, then = (
        [np.stack([side[case][i] for case in names]) for i in (0, 1)]
        for side, names in ((after, hit), (before, was))
    )
    if defect.pixels == "same":
        assert np.abs(now[0].astype(int) - then[0]).max() <= 1
        np.testing.assert_array_equal(now[1], then[1])
    else:
        defect.pixels(*now, *then)
    return f"noted: {notes[0]}" if defect.expect == "noted" else "handled"


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect(defect, clean, tmp_path):
    tree, before = clean(defect.preset)
    MEMORY.append(peak())
    OUTCOMES[defect.name] = "MISSED"
    start = time.monotonic()
    OUTCOMES[defect.name] = check(defect, tree, before, tmp_path).replace(str(tmp_path), "")
    assert time.monotonic() - start < 30, "no defect may make it hang"


@pytest.mark.parametrize("defect", ASIDE, ids=lambda defect: defect.name)
def test_strict_stops(defect, clean, tmp_path):
    cfg, cases, file, _ = planted(defect, clean(defect.preset)[0], tmp_path)
    with pytest.raises(DataError, match=f"(?s){defect.message}") as error:
        prepare.build(cases, cfg, strict=True)
    assert file.name in str(error.value)


def test_the_corpus_is_found_or_handled():
    """Reads what the tests above wrote down; `pytest -rP` shows the table."""
    if set(OUTCOMES) != {defect.name for defect in DEFECTS}:
        pytest.skip("only a part of the corpus was planted")
    for defect in DEFECTS:
        print(f"{defect.preset:8} {defect.name:55} {OUTCOMES[defect.name][:150]}")
    kinds = [outcome.split(":")[0] for outcome in OUTCOMES.values()]
    print(
        f"{len(kinds)} defects:",
        ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
    )
    print(f"memory: {(peak() - MEMORY[0]) / 1024:.0f} MiB more than before the first")
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 40
    assert "MISSED" not in kinds
    assert peak() - MEMORY[0] < 500 * 1024, "no defect may cost gigabytes"


def test_a_file_that_vanishes_while_it_is_read(clean, tmp_path, monkeypatch):
    """The picture is decoded, and gone when it is hashed."""
    tree = Path(shutil.copytree(clean("lung")[0], tmp_path / "tree"))
    cfg, case = settings(tree, tmp_path / "work", "lung"), victim("lung", tree)
    whole = case_io.images.sha256

    def hashed(path):
        if case in str(path):
            Path(path).unlink()
        return whole(path)

    monkeypatch.setattr(case_io.images, "sha256", hashed)
    report = prepare.build(layouts.scan(cfg), cfg).report
    assert report.set_aside == [case] and case in report.problems["problem"][0]


# The real MRI has no affines, so nothing can be wrong with them.
IN_REAL = [defect for defect in DEFECTS if defect.preset in REAL and "affine" not in defect.name]


@pytest.mark.slow
@pytest.mark.parametrize("defect", IN_REAL, ids=lambda defect: defect.name)
def test_defect_in_real_data(defect, clean_real, tmp_path):
    check(defect, *clean_real(defect.preset), tmp_path)
