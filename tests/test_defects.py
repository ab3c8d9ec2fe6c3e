"""Every defect of `tests/defects.py` is found, named and explained, or handled; the last test counts."""

import re
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from seglib import config, layouts, phantoms, prepare
from seglib.errors import DataError
from tests.defects import DEFECTS, victim

N = {"lung": 5, "binary": 8, "palm": 8, "rsna": 3, "cardiac": 3}
OUTCOMES: dict[str, str] = {}  # name of a defect -> what became of it
ASIDE = [defect for defect in DEFECTS if defect.expect == "set aside"]


def settings(tree, work, preset):
    return config.preset(preset, "smoke", data_root=str(tree), work_dir=str(work))


def pixels(store):
    """Case -> (image, mask) of a store."""
    images, masks = store.open()
    return {case.case: (images[case.row], masks[case.row]) for case in store.cases.itertuples()}


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Preset -> (tree, the pixels of its store) without any damage; each is made when first asked for."""
    made = {}

    def get(preset):
        if preset not in made:
            tree = phantoms.write(preset, tmp_path_factory.mktemp(preset) / "tree", n=N[preset])
            cfg = settings(tree, tree.parent / "work", preset)
            store = prepare.build(layouts.scan(cfg), cfg)
            assert store.report.problems.empty
            made[preset] = tree, pixels(store)
        return made[preset]

    return get


def planted(defect, tree, folder):
    """A copy of the tree with the defect in it: (its config, the case table, the damaged file, the victim's name)."""
    copy = Path(shutil.copytree(tree, folder / "tree"))
    name, cfg = victim(defect.preset, copy), settings(copy, folder / "work", defect.preset)
    if defect.after_scan:
        cases = layouts.scan(cfg)
        return cfg, cases, defect.plant(copy), name
    file = defect.plant(copy)
    return cfg, layouts.scan(cfg), file, name


def check(defect, tree, before, folder):
    """The outcome in words; an assertion fails where the defect is neither found nor handled."""
    if defect.expect == "refused":
        with pytest.raises(DataError, match=f"(?s){defect.words}") as error:
            planted(defect, tree, folder)
        return f"refused: {str(error.value).replace(str(folder), '')}"
    cfg, cases, file, name = planted(defect, tree, folder)
    store = prepare.build(cases, cfg)
    report, after = store.report, pixels(store)
    hit = [case for case in after if case.startswith(name)]
    was = [case for case in before if case.startswith(name)]
    for case in set(before) - set(was):  # nobody else is harmed
        if defect.pixels in ("same", "gone") or callable(defect.pixels):
            same = defect.name.startswith("all masks") or all(map(np.array_equal, after[case], before[case]))
            assert same, f"{case} has changed"
    if defect.expect == "set aside":
        assert report.set_aside == sorted(set(report.problems["case"])) != []
        for problem in report.problems.itertuples():
            assert problem.case.startswith(name) and problem.action.startswith("set aside")
            assert Path(problem.file).name == file.name or file.name in problem.problem
            assert re.search(defect.words, problem.problem, re.DOTALL), problem.problem
        assert not hit or defect.pixels == "same" and hit == was
        found = report.problems["problem"].iloc[0]
    else:
        assert report.problems.empty, report.problems.to_string()
        said = [note for note in report.notes if file.name in note and re.search(defect.words, note, re.DOTALL)]
        assert said or defect.expect == "handled", f"no note on {file.name}: {report.notes}"
        assert re.search(defect.words, repr(report))
        found = said[0] if defect.expect == "noted" else ""
    if defect.expect != "set aside" and defect.pixels is not None:
        assert hit == ([] if defect.pixels == "gone" else was)
        arrays = [np.stack([pair[i] for pair in map(side.get, hit)]) for side in (after, before) for i in (0, 1) if hit]
        if defect.pixels == "same":
            assert np.abs(arrays[0].astype(int) - arrays[2]).max() <= 1
            np.testing.assert_array_equal(arrays[1], arrays[3])
        elif defect.pixels != "gone":
            defect.pixels(*arrays)
    return f"{defect.expect}: {found}".replace(str(folder), "")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect(defect, clean, tmp_path):
    OUTCOMES[defect.name] = "MISSED"
    start = time.monotonic()
    OUTCOMES[defect.name] = check(defect, *clean(defect.preset), tmp_path)
    assert time.monotonic() - start < 30, "the report must not hang"


@pytest.mark.parametrize("defect", ASIDE, ids=lambda defect: defect.name)
def test_strict_stops(defect, clean, tmp_path):
    cfg, cases, file, _ = planted(defect, clean(defect.preset)[0], tmp_path)
    with pytest.raises(DataError, match=f"(?s){defect.words}") as error:
        prepare.build(cases, cfg, strict=True)
    assert file.name in str(error.value)


def test_the_corpus_is_found_or_handled():
    """Reads what the tests above wrote down; `pytest -rP` shows the table."""
    if set(OUTCOMES) != {defect.name for defect in DEFECTS}:
        pytest.skip("only a part of the corpus was planted")
    for defect in DEFECTS:
        print(f"{defect.preset:8} {defect.name:50} {OUTCOMES[defect.name][:140]}")
    counts = {kind: sum(d.expect == kind for d in DEFECTS) for kind in ("set aside", "noted", "refused", "handled")}
    print(f"{len(DEFECTS)} kinds: {counts}")
    kinds = {defect.name for defect in DEFECTS}
    assert len(kinds) == len(DEFECTS) >= 40
    assert "MISSED" not in OUTCOMES.values()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3e6, "KiB: no defect may cost gigabytes"
