"""The store: what is written, how it is split, when it is reused, and what happens to bad input."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seglib import checks, config, layouts, prepare
from seglib.errors import ConfigError, DataError
from seglib.formats import images
from seglib.formats.images import IGNORE
from tests.helpers import binary_config, write_picture

HEIGHT, WIDTH = 40, 56
N = 10


def blob(i, height=HEIGHT, width=WIDTH):
    """(height, width) bool: an ellipse of its own for each case, which leaves the border free."""
    rows, cols = np.ogrid[:height, :width]
    return np.hypot((rows - 18 - i % 3) / (8 + i % 5), (cols - 24 - i) / (10 + i % 4)) <= 1


def picture(i, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pixels(path):
    with Image.open(path) as file:
        return np.array(file)


@pytest.fixture
def tree(tmp_path):
    """Ten images with 0 / 255 masks in the generic layout; each test has its own."""
    for i in range(N):
        save(tmp_path / f"tree/images/c{i}.png", picture(i))
        save(tmp_path / f"tree/masks/c{i}.png", blob(i) * np.uint8(255))
    return tmp_path / "tree"


def settings(tree, name="binary", **changes):
    return config.preset(
        name, "smoke", data_root=str(tree), work_dir=str(tree.parent / "work"), **changes
    )


def build(tree, **changes):
    cfg = settings(tree, **changes)
    return prepare.build(layouts.scan(cfg), cfg)


def stores(tree):
    folder = tree.parent / "work/stores"
    return sorted(os.listdir(folder)) if folder.exists() else []


def row_of(store, case):
    """(image, mask) of a case in the store."""
    row = store.cases.set_index("case")["row"][case]
    return tuple(array[row] for array in store.open())


def resized(mask):
    """A mask (HEIGHT, WIDTH) in the letterbox of a smoke store, (64, 64, 1)."""
    top, left, height, width = images.fit_box((HEIGHT, WIDTH), (64, 64), "letterbox")
    small = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    framed = np.zeros((64, 64, 1), bool)
    framed[top : top + height, left : left + width, 0] = np.array(small)
    return framed


def summary(store):
    return store.report.summary().set_index("checked")["found"]


# What is written


def test_lung_store(lung_cfg, lung_tree):
    store = prepare.build(layouts.scan(lung_cfg), lung_cfg)
    pictures, masks = store.open()
    assert (pictures.shape, pictures.dtype) == ((16, 64, 64, 1), np.uint8)
    assert (masks.shape, masks.dtype) == ((16, 64, 64, 1), np.uint8)
    assert set(np.unique(masks)) == {0, 1}, "a stretched image has no padding"
    assert (
        len(store.cases) == 16 and len(store.report.problems) == 0 and store.report.set_aside == []
    )
    assert store.folder.parent == Path(lung_cfg.work_dir) / "stores"
    for case in store.cases.itertuples():
        with Image.open(case.image) as file:
            assert (case.height, case.width) == file.size[::-1]
            np.testing.assert_array_equal(
                pictures[case.row][..., 0],
                np.array(file.resize((64, 64), Image.Resampling.BILINEAR)),
            )
        left, right = (pixels(path) for path in case.lung.split("|"))
        union = Image.fromarray(np.maximum(left, right)).resize((64, 64), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(masks[case.row][..., 0] * 255, np.array(union))


def test_a_letterbox_pads_with_ignore(tree):
    store = build(tree, image_size=64)
    pictures, masks = store.open()
    assert pictures.shape == (N, 64, 64, 3)
    assert set(np.unique(masks)) == {0, 1, IGNORE}
    top, left, height, width = images.fit_box((HEIGHT, WIDTH), (64, 64), "letterbox")
    assert (left, width) == (0, 64) and 0 < height < 64
    outside = np.ones((64, 64), bool)
    outside[top : top + height] = False
    assert (masks[:, outside] == IGNORE).all() and (masks[:, ~outside] < 2).all()
    assert (pictures[:, outside] == 0).all()


@pytest.mark.parametrize(("size", "channels"), [((48, 96), 1), (32, 3), ((40, 56), 3)])
def test_size_and_channels(tree, size, channels):
    normal = {"mean": (0.5,), "std": (0.25,), "augment": {}}
    store = build(tree, image_size=size, in_channels=channels, **normal)
    height, width = (size, size) if isinstance(size, int) else size
    assert store.open()[0].shape == (N, height, width, channels)
    assert store.open()[1].shape == (N, height, width, 1)
    if size == (HEIGHT, WIDTH):
        image, mask = row_of(store, "c3")
        np.testing.assert_array_equal(image, picture(3))
        np.testing.assert_array_equal(mask[..., 0], blob(3))


def test_the_arrays_cannot_be_written(tree):
    pictures, masks = build(tree).open()
    for array in (pictures, masks):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_facts_and_summary(tree):
    save(tree / "masks/c4.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    save(tree / "images/c5.png", picture(5, 60, 30))
    save(tree / "masks/c5.png", blob(2, 60, 30) * np.uint8(1))
    store = build(tree)
    facts = store.report.facts.set_index("case")
    assert list(facts.index) == [f"c{i}" for i in range(N)]
    assert (facts.loc["c5", "height"], facts.loc["c5", "width"]) == (60, 30)
    assert facts.loc["c3", "share structure"] == pytest.approx(blob(3).mean())
    assert (facts.loc["c3", "how structure"], facts.loc["c5", "how structure"]) == (
        "values 0/255",
        "values 0/1",
    )
    shown = summary(store)
    assert shown["images read"] == N
    assert shown["sizes (height x width)"] == "40x56 (9), 60x30 (1)"
    assert shown["structure: masks"] == "10 there, 0 missing, 1 empty"
    assert "values 0/255 (8)" in shown["structure: decoded by"]
    assert shown["problems"] == 0 and shown["images set aside"] == 0
    assert "c4" in set(store.cases["case"]), "an empty mask is a truth like any other"
    assert (row_of(store, "c4")[1] != 1).all()
    assert "images read" in repr(store.report) and "images read" in store.report._repr_html_()


def test_notes_of_the_scan_are_in_the_report(tree):
    save(tree / "masks/orphan.png", np.zeros((4, 4), np.uint8))
    store = build(tree)
    assert any("orphan.png: mask without an image" in note for note in store.report.notes)
    assert "orphan.png" in store.report._repr_html_()


def palm_table(tree):
    """A multilabel case table, at first without any mask."""
    cases = pd.DataFrame({"case": [f"c{i}" for i in range(N)]}).assign(
        split="", atrophy="", detachment="", disc=""
    )
    return cases.assign(
        patient=cases["case"], image=[str(tree / f"images/c{i}.png") for i in range(N)]
    )


def test_multilabel_store_with_missing_masks(tree):
    cfg = settings(tree, "palm", mask_inverted=False)
    cases = palm_table(tree)
    cases.loc[0, "disc"] = cases.loc[1, "disc"] = str(tree / "masks/c0.png")
    cases.loc[0, "atrophy"] = str(tree / "masks/c1.png")
    store = prepare.build(cases, cfg)
    assert len(store.report.problems) == 0
    assert store.open()[1].shape == (N, 64, 64, 3)
    for case, there in (
        ("c0", (True, False, True)),
        ("c1", (False, False, True)),
        ("c2", (False, False, False)),
    ):
        mask = row_of(store, case)[1]
        assert tuple((mask[..., k] != IGNORE).any() for k in range(3)) == there
    box = (slice(9, 55), slice(None))
    assert images.fit_box((HEIGHT, WIDTH), (64, 64), "letterbox") == (9, 0, 46, 64)
    expected = Image.fromarray(blob(1).astype(np.uint8)).resize((64, 46), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(row_of(store, "c0")[1][..., 0][box], expected)
    assert summary(store)["disc: masks"] == "2 there, 8 missing, 0 empty"
    assert summary(store)["detachment: masks"] == "0 there, 10 missing, 0 empty"


def labels_table(tree):
    """A multiclass case table: label maps 0..3 in bands, image c0 with an ignored corner."""
    for i in range(N):
        labels = np.repeat((np.arange(WIDTH) * 4 // WIDTH)[None], HEIGHT, axis=0).astype(np.uint8)
        labels[: i + 1, :3] = IGNORE if i == 0 else 0
        save(tree / f"labels/c{i}.png", labels)
    cases = palm_table(tree).drop(columns=["atrophy", "detachment", "disc"])
    labels = [str(tree / f"labels/c{i}.png") for i in range(N)]
    return cases.assign(patient=[f"p{i // 2}" for i in range(N)], labels=labels)


def test_multiclass_store(tree):
    store = prepare.build(labels_table(tree), settings(tree, "cardiac"))
    assert len(store.report.problems) == 0
    masks = store.open()[1]
    assert masks.shape == (N, 64, 64, 1)
    assert set(np.unique(masks)) == {0, 1, 2, 3, IGNORE}
    assert (row_of(store, "c0")[1][9, :3] == IGNORE).all(), "ignored pixels stay ignored"
    assert (row_of(store, "c1")[1][10, :3] == 0).all()
    assert len(set(store.cases.groupby("patient")["split"].nunique())) == 1


# The split


def table(n_rows, start=0):
    """A case table with so many rows for each patient."""
    patients = np.repeat([f"p{start + i}" for i in range(len(n_rows))], n_rows)
    return pd.DataFrame(
        {"case": [f"c{i}" for i in range(len(patients))], "patient": patients, "split": ""}
    )


def split_settings(test, val, **changes):
    cfg = config.preset("lung", **changes)
    cfg.test_split, cfg.val_split = test, val
    return cfg


def sizes(cases, parts):
    """Number of patients in train, val, test."""
    return tuple(cases["patient"][parts == part].nunique() for part in ("train", "val", "test"))


SHARES = st.floats(0, 0.9) | st.integers(2, 30)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=60),
    SHARES,
    SHARES,
    st.integers(0, 99),
    st.randoms(),
)
def test_split_of_any_table(n_rows, test, val, seed, random):
    cases, n = table(n_rows), len(n_rows)
    cfg = split_settings(test, val, split_seed=seed)
    parts, notes = prepare.split(cases, cfg)
    assert set(parts) <= {"train", "val", "test"} and len(parts) == len(cases)
    assert parts.groupby(cases["patient"]).nunique().max() == 1, "a patient is in two parts"
    _, n_val, n_test = sizes(cases, parts)
    too_many = test > 1 and test > n / 3
    assert any("more than a third" in note for note in notes) == too_many
    test = 0.2 if too_many else test
    for count, wanted, of in ((n_test, test, n), (n_val, val, n - n_test)):
        if wanted == 0:
            assert count == 0
        elif wanted > 1:
            assert count == min(wanted, of)
        elif round(wanted * of) < of:  # else see test_a_share_leaves_something_to_train_on
            assert count == min(1, of) or abs(count - wanted * of) <= 0.5
    again, _ = prepare.split(cases, cfg)
    assert (again == parts).all()
    order = random.sample(range(len(cases)), len(cases))
    shuffled, _ = prepare.split(cases.iloc[order], cfg)
    assert (shuffled.sort_index() == parts).all(), "the order of the rows decides"


@pytest.mark.parametrize(
    ("n", "test", "val", "expected"),
    [
        (200, 50, 0.2, (120, 30, 50)),
        (151, 50, 0.2, (81, 20, 50)),
        (150, 50, 0.2, (80, 20, 50)),
        (149, 50, 0.2, (95, 24, 30)),
        (102, 50, 0.2, (66, 16, 20)),
        (400, 100, 0.2, (240, 60, 100)),
        (100, 0.2, 0.25, (60, 20, 20)),
        (100, 0, 0.1, (90, 10, 0)),
        (10, 0, 0, (10, 0, 0)),
        (10, 1, 0.2, (0, 0, 10)),
        (30, 4, 5, (21, 5, 4)),
        (3, 0.2, 0.25, (1, 1, 1)),
    ],
)
def test_sizes_of_the_parts(n, test, val, expected):
    cases = table([2] * n)
    parts, notes = prepare.split(cases, split_settings(test, val))
    assert sizes(cases, parts) == expected
    assert any("more than a third" in note for note in notes) == (n in (102, 149))


@pytest.mark.parametrize(("n", "val"), [(1, 0.2), (2, 0.8), (3, 0.9)])
def test_a_share_leaves_something_to_train_on(n, val):
    cases = table([2] * n)
    parts, notes = prepare.split(cases, split_settings(0, val))
    assert sizes(cases, parts)[0] >= 1 or notes, "an empty training part is at least worth a note"


@pytest.mark.parametrize(
    ("test", "val", "expected", "words"),
    [
        (0, 3, (0, 3, 0), "split: val_split=3 takes all 3 patients that are left; none stays"),
        (0, 99, (0, 3, 0), "split: val_split=99 takes all 3 patients that are left; none stays"),
        (1, 0.2, (0, 0, 3), "split: no patient is left for the val part"),
    ],
)
def test_a_split_without_a_training_part_is_noted(test, val, expected, words):
    cases = table([2] * 3)
    parts, notes = prepare.split(cases, split_settings(test, val))
    assert sizes(cases, parts) == expected
    assert any(words in note for note in notes), notes


def test_the_split_seed_decides_and_nothing_else():
    cases = table([1] * 60)
    parts, _ = prepare.split(cases, split_settings(0.2, 0.25, split_seed=1))
    other, _ = prepare.split(cases, split_settings(0.2, 0.25, split_seed=2))
    assert (parts != other).any()
    same, _ = prepare.split(
        cases.assign(extra=1), split_settings(0.2, 0.25, split_seed=1, seed=9, image_size=64)
    )
    assert (parts == same).all()


def test_the_test_part_does_not_depend_on_the_size_of_the_validation_part():
    cases = table([1] * 60)
    tests = [
        set(cases["case"][prepare.split(cases, split_settings(0.2, val))[0] == "test"])
        for val in (0, 0.2, 9)
    ]
    assert tests[0] == tests[1] == tests[2]


def test_the_split_of_the_tree_is_kept():
    cases = table([2] * 40)
    cases["split"] = ["train"] * 40 + ["val"] * 20 + ["test"] * 20
    parts, notes = prepare.split(cases, split_settings(0.5, 0.5))
    assert (parts == cases["split"]).all()
    assert notes == ["split: the tree's own parts are kept (test, train, val)"]


@pytest.mark.parametrize("missing", ["val", "test"])
def test_only_what_is_missing_is_cut_from_training(missing):
    cases = table([2] * 40)
    other = "test" if missing == "val" else "val"
    cases["split"] = ["train"] * 60 + [other] * 20
    parts, _ = prepare.split(cases, split_settings(0.2, 0.2))
    assert (parts[60:] == other).all()
    assert cases["patient"][:60][parts[:60] == missing].nunique() == 6
    assert (parts[:60] == "train").sum() == 48


def test_rows_without_a_part_count_as_training():
    cases = table([1] * 20)
    cases["split"] = [""] * 10 + ["val"] * 10
    parts, _ = prepare.split(cases, split_settings(0, 0.5))
    assert list(parts) == ["train"] * 10 + ["val"] * 10


def test_the_split_of_the_tree_can_be_given_up():
    cases = table([1] * 40)
    cases["split"] = ["train"] * 10 + ["test"] * 30
    parts, _ = prepare.split(cases, split_settings(0.25, 0, keep_split=False))
    assert sizes(cases, parts) == (30, 0, 10)


def test_a_patient_in_two_parts_of_the_tree_is_named():
    cases = table([2] * 4)
    cases["split"] = ["train", "val"] + ["train"] * 6
    _, notes = prepare.split(cases, split_settings(0, 0))
    assert any("p0" in note and "two parts" in note for note in notes)


def test_the_store_is_split_by_patient(lung_tree, lung_cfg):
    cases = layouts.scan(lung_cfg)
    cases["patient"] = [f"p{i // 2}" for i in range(16)]
    store = prepare.build(cases, lung_cfg)
    assert (store.cases.groupby("patient")["split"].nunique() == 1).all()
    assert sizes(store.cases, store.cases["split"]) == (5, 1, 2)
    assert any("20 %" in note for note in store.report.notes)


# Reuse

# Named, so that `scan` need not look at the masks.
ONE = {"class_names": ("structure",)}


@pytest.fixture
def decoded(monkeypatch):
    """The paths of all files whose pixels are read, in order."""
    paths, read_pixels = [], images.read_pixels

    def counting(path):
        paths.append(Path(path).name)
        return read_pixels(path)

    monkeypatch.setattr(images, "read_pixels", counting)
    return paths


def test_an_equal_store_is_reused(tree, decoded):
    store = build(tree, **ONE)
    stamp = (store.folder / "store.json").stat().st_mtime_ns
    assert len(decoded) == 2 * N
    again = build(tree, epochs=9, lr=0.5, batch_size=2, augment={}, mean=(0.1,), std=(0.1,), **ONE)
    assert len(decoded) == 2 * N
    assert again.folder == store.folder
    assert (store.folder / "store.json").stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(again.cases, store.cases)
    assert len(stores(tree)) == 1


SPLITS = [
    {"split_seed": 1},
    {"val_split": 0.5},
    {"test_split": 0.3},
    {"keep_split": False},
    {"seed": 1},
]


@pytest.mark.parametrize("changes", SPLITS, ids=str)
def test_another_split_reads_no_file(tree, decoded, changes):
    """It gives what a store that is built for this split alone gives."""
    changes = changes | ONE
    first = build(tree, **ONE)
    decoded.clear()
    second = build(tree, **changes)
    assert decoded == [] and second.folder == first.folder and len(stores(tree)) == 1
    cfg = settings(tree, **changes).replace(work_dir=str(tree.parent / "alone"))
    alone = prepare.build(layouts.scan(cfg), cfg)
    for store in (second, first.split(settings(tree, **changes))):
        pd.testing.assert_frame_equal(store.cases, alone.cases)
        assert store.report.notes == alone.report.notes
        assert store.report.set_aside == alone.report.set_aside


def test_five_splits_and_three_seeds_decode_every_file_once(lung_cfg, decoded):
    cases = layouts.scan(lung_cfg)
    tests = set()
    for split_seed in range(5):
        for seed in range(3):
            cfg = lung_cfg.replace(split_seed=split_seed, seed=seed)
            store = prepare.build(cases, cfg)
            tests.add(frozenset(store.cases.query("split == 'test'")["case"]))
    assert len(decoded) == 3 * 16, "an image and the masks of two lungs a case"
    assert len(tests) == 5, "split_seed decides who is tested, seed does not"
    for fold in range(5):  # parts that are given in the table, as folds are
        parts = ["test" if i % 5 == fold else "" for i in range(16)]
        store = prepare.build(cases.assign(split=parts), lung_cfg)
        held_out = store.cases.query("split == 'test'")["case"]
        assert list(held_out) == list(cases["case"][fold::5])
    assert len(decoded) == 3 * 16


def test_runs_of_two_seeds_are_on_the_same_images(lung_cfg):
    for split_seed in (0, 1):
        one, other = (
            prepare.build(layouts.scan(lung_cfg), lung_cfg.replace(split_seed=split_seed, seed=n))
            for n in (0, 7)
        )
        pd.testing.assert_frame_equal(one.cases, other.cases)


def test_the_store_of_open_store_can_be_split_too(tree):
    store = build(tree, test_split=0.3)
    again = prepare.open_store(store.folder)
    pd.testing.assert_frame_equal(again.cases, store.cases)
    other = settings(tree, split_seed=4)
    pd.testing.assert_frame_equal(again.split(other).cases, build(tree, split_seed=4).cases)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 32},
        {"resize": "stretch"},
        {"mask_inverted": False},
        {"mask_encoding": "threshold"},
        {"percentiles": (1, 99)},
    ],
    ids=str,
)
def test_a_changed_setting_makes_another_store(tree, changes):
    first = build(tree)
    second = build(tree, **changes)
    assert second.folder != first.folder
    assert len(stores(tree)) == 2


@pytest.mark.parametrize("name", ["images/c3.png", "masks/c3.png"])
def test_a_changed_file_makes_another_store(tree, name):
    first = build(tree, image_size=(HEIGHT, WIDTH), augment={})
    save(tree / name, picture(77) if "images" in name else blob(77) * np.uint8(255))
    second = build(tree, image_size=(HEIGHT, WIDTH), augment={})
    assert second.folder != first.folder
    image, mask = row_of(second, "c3")
    np.testing.assert_array_equal(image, picture(77 if "images" in name else 3))
    np.testing.assert_array_equal(mask[..., 0], blob(77 if "masks" in name else 3))


def test_other_patients_and_columns_share_the_pixels(tree, decoded):
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    first = prepare.build(cases, cfg)
    decoded.clear()
    second = prepare.build(cases.assign(patient="one", finding="normal"), cfg)
    assert decoded == [] and second.folder == first.folder
    assert set(second.cases["patient"]) == {"one"} and set(second.cases["finding"]) == {"normal"}
    assert set(first.cases["patient"]) != {"one"}


def test_a_filtered_table_shares_the_pixels(tree, decoded):
    """So does a sorted one; the report is about the cases of the table."""
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    save(tree / "images/c7.png", picture(2))  # the same as c2
    first = prepare.build(cases, cfg)
    assert first.report.set_aside == ["c7"]
    decoded.clear()
    part = prepare.build(cases.query("case != 'c2'").iloc[::-1], cfg)
    assert decoded == [] and part.folder == first.folder
    assert list(part.cases["case"]) == [f"c{i}" for i in range(N - 1, -1, -1) if i != 2]
    assert part.report.set_aside == [] and len(part.report.facts) == N - 1
    for case in part.cases["case"]:
        np.testing.assert_array_equal(row_of(part, case)[1] == 1, resized(blob(int(case[1]))))


def test_a_filtered_table_whose_masks_vote_otherwise_has_pixels_of_its_own(tree):
    invert(tree, range(4))
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    whole = prepare.build(cases, cfg)
    assert whole.info["inverted"] == {"structure": False}
    part = prepare.build(cases.head(4), cfg)
    assert part.info["inverted"] == {"structure": True} and part.report.set_aside == []
    np.testing.assert_array_equal(row_of(part, "c2")[1] == 1, resized(blob(2)))
    assert prepare.build(cases, cfg).folder == whole.folder != part.folder


def test_two_builders_at_once_end_with_one_store(tree, monkeypatch):
    """The second one finishes while the first is still decoding; the first takes its store."""
    whole, folders = images.fit_mask, []

    def other_builder(*args):
        if not folders:
            folders.append("")
            folders[0] = build(tree).folder
            (folders[0] / "mark").touch()
        return whole(*args)

    monkeypatch.setattr(images, "fit_mask", other_builder)
    monkeypatch.setattr(prepare.hosts, "n_cores", lambda: 1)
    store = build(tree)
    assert store.folder == folders[0] and (store.folder / "mark").exists()
    assert stores(tree) == [store.folder.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_a_killed_build_leaves_no_store(tree, monkeypatch, error):
    whole, calls = images.fit_mask, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 5:
            raise error("in the middle")
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(images, "fit_mask", killed)
        with pytest.raises(error, match="in the middle"):
            build(tree)
    assert stores(tree) == []
    assert len(build(tree).cases) == N
    assert len(stores(tree)) == 1


def test_a_half_store_under_the_final_name_is_replaced(tree):
    store = build(tree)
    (store.folder / "store.json").unlink()
    (store.folder / "masks.npy").write_bytes(b"half")
    with pytest.raises(DataError, match="not a store"):
        prepare.open_store(store.folder)
    again = build(tree)
    assert again.folder == store.folder
    assert again.open()[1].shape == (N, 64, 64, 1)


def test_a_store_of_an_older_version_is_left_alone(tree):
    store = build(tree)
    info = json.loads((store.folder / "store.json").read_text())
    (store.folder / "store.json").write_text(json.dumps({**info, "version": 2}))
    with pytest.raises(DataError, match="version 2.*prepare.build"):
        prepare.open_store(store.folder)


def test_a_store_with_half_its_pixels_is_built_again(tree):
    store = build(tree)
    whole = (store.folder / "masks.npy").read_bytes()
    cut(store.folder / "masks.npy")
    with pytest.raises(DataError, match="cannot be read"):
        prepare.open_store(store.folder)
    again = build(tree)
    assert again.folder == store.folder and (store.folder / "masks.npy").read_bytes() == whole


def test_open_store_gives_what_build_gave(tree):
    save(tree / "images/c1.png", picture(2))  # the same as c2, so that there is a problem to keep
    Path(tree / "masks/c3.png").rename(tree / "masks/c3_mask.png")
    store = build(tree)
    again = prepare.open_store(store.folder)
    pd.testing.assert_frame_equal(again.cases, store.cases)
    pd.testing.assert_frame_equal(again.report.facts, store.report.facts)
    pd.testing.assert_frame_equal(again.report.problems, store.report.problems)
    assert again.report.notes == store.report.notes and again.info == store.info
    for one, other in zip(again.open(), store.open()):
        np.testing.assert_array_equal(one, other)
    assert set(again.cases["split"]) == {"train", "val"}
    assert len(again.report.problems) == 1
    assert json.loads((store.folder / "store.json").read_text())["class_names"] == ["structure"]


def test_names_that_look_like_numbers_stay_names(tree):
    names = ["001", "NA", "1e5", "null", "2020-01-01", "True", "1", "nan", "ö ä", "a,b"]
    for i, name in enumerate(names):
        for folder in ("images", "masks"):
            (tree / folder / f"c{i}.png").rename(tree / folder / f"{name}.png")
    store = prepare.open_store(build(tree).folder)
    assert set(store.cases["case"]) == set(store.cases["patient"]) == set(names)
    assert set(store.report.facts["case"]) == set(names)


@pytest.mark.parametrize("content", [None, "{half"])
def test_what_is_no_store_is_refused(tmp_path, content):
    if content:
        (tmp_path / "store.json").write_text(content)
    with pytest.raises(DataError, match="not a store.*prepare.build"):
        prepare.open_store(tmp_path)


# Bad tables


def test_tables_that_cannot_be_used(tree):
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    with pytest.raises(DataError, match="no rows"):
        prepare.build(cases.iloc[:0], cfg)
    for column in ("case", "patient", "split", "image"):
        with pytest.raises(DataError, match=f"no column '{column}'"):
            prepare.build(cases.drop(columns=column), cfg)
    with pytest.raises(DataError, match="'c3' occurs twice"):
        prepare.build(pd.concat([cases, cases.iloc[[3]]]), cfg)
    assert stores(tree) == []


def test_a_table_without_the_mask_column_says_what_to_do(tree):
    cases = layouts.scan(settings(tree))
    with pytest.raises(DataError, match="'polyp'.*set class_names to those.*'structure'"):
        prepare.build(cases, settings(tree, class_names=("polyp",)))
    several = settings(tree, "palm", class_names=("structure", "disc"))
    with pytest.raises(DataError, match="'disc'.*rename or add the column"):
        prepare.build(cases, several)
    with pytest.raises(DataError, match="'labels'.*label map.*task='multilabel'"):
        prepare.build(cases, settings(tree, "cardiac"))


@pytest.mark.parametrize("name", ["pixels", "looks", "share x", "how x", "optic atrophy", "class"])
def test_a_class_may_have_any_name_that_is_no_column(tree, name):
    cfg = settings(tree, "palm", class_names=(name, "x", "rank"), mask_inverted=False)
    cases = layouts.scan(settings(tree)).rename(columns={"structure": name})
    cases = cases.assign(x="", rank=cases[name])
    store = prepare.build(cases, cfg)
    assert len(store.cases) == N and store.report.set_aside == []
    assert summary(store)[f"{name}: masks"] == "10 there, 0 missing, 0 empty"
    assert summary(store)["x: masks"] == "0 there, 10 missing, 0 empty"
    assert list(store.cases[name]) == list(cases[name])
    assert prepare.open_store(store.folder).cases.equals(store.cases)


@pytest.mark.parametrize("name", ["row", "sha256", "label_numbers", "spacing_row_mm"])
def test_a_class_that_is_called_like_a_column_is_refused(tree, name):
    with pytest.raises(ConfigError, match=f"class_names.*{name}.*column of the case table"):
        settings(tree, class_names=(name,))


@pytest.mark.parametrize("empty", [np.nan, None])
def test_a_cell_that_pandas_made_empty_is_empty(tree, empty):
    cfg = settings(tree, "palm", mask_inverted=False)
    cases = layouts.scan(settings(tree)).rename(columns={"structure": "disc"})
    cases = cases.assign(atrophy=empty, detachment="")
    store = prepare.build(cases, cfg)
    assert len(store.report.problems) == 0
    assert summary(store)["atrophy: masks"] == "0 there, 10 missing, 0 empty"


def test_the_table_of_a_store_can_be_filtered_and_prepared_again(tree):
    store = build(tree, val_split=0.2)
    part = store.cases.query("case != 'c3'")
    again = prepare.build(part, settings(tree))
    assert list(again.cases["case"]) == list(part["case"])
    assert list(again.cases["split"]) == list(part["split"])
    for case in part["case"]:
        np.testing.assert_array_equal(row_of(again, case)[0], row_of(store, case)[0])


def test_columns_of_ones_own_are_kept(tree):
    cfg = settings(tree)
    cases = layouts.scan(cfg).assign(
        spacing_row_mm=0.5, finding="normal", hospital=[f"h{i}" for i in range(N)]
    )
    store = prepare.build(cases, cfg)
    assert (store.cases["spacing_row_mm"] == 0.5).all()
    assert list(store.cases["hospital"]) == list(cases["hospital"])


def test_a_column_of_ones_own_may_have_gaps(tree):
    cfg = settings(tree)
    cases = layouts.scan(cfg).assign(spacing_row_mm=[0.5] * (N - 1) + [np.nan])
    store = prepare.build(cases, cfg)
    assert len(store.cases) == N
    assert prepare.build(cases, cfg).folder == store.folder


# Bad files: set aside with a message that names the file, or refused at once


def cut(path, share=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def two_colours(path):
    labels = np.repeat((np.arange(WIDTH) * 3 // WIDTH)[None], HEIGHT, axis=0)
    save(path, np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[labels])


# what happens to which file -> (damage, message)
DAMAGE = {
    "image cut short": ("images/c3.png", cut, "not readable as an image"),
    "mask cut short": ("masks/c3.png", cut, "not readable as an image"),
    "image empty": ("images/c3.png", lambda p: p.write_bytes(b""), r"empty \(0 bytes\)"),
    "image is text": (
        "images/c3.png",
        lambda p: p.write_text("<html>"),
        "not readable as an image",
    ),
    "image missing": ("images/c3.png", lambda p: p.unlink(), "no such file"),
    "mask missing": ("masks/c3.png", lambda p: p.unlink(), "no such file"),
    "mask transposed": (
        "masks/c3.png",
        lambda p: save(p, blob(3).T * np.uint8(255)),
        r"mask is 56x40 but its image is 40x56 \(height x width\); it looks transposed",
    ),
    "mask of another size": (
        "masks/c3.png",
        lambda p: save(p, blob(3, 80, 112) * np.uint8(255)),
        r"mask is 80x112 but its image is 40x56",
    ),
    "mask of several colours": (
        "masks/c3.png",
        two_colours,
        r"ambiguous mask.*several colours.*mask_encoding",
    ),
    "mask inverted": (
        "masks/c3.png",
        lambda p: save(p, ~blob(3) * np.uint8(255)),
        "looks inverted",
    ),
    "image twice": ("images/c3.png", lambda p: save(p, picture(1)), r"same content as c1\.png"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_file_is_set_aside_and_named(tree, name):
    file, damage, message = DAMAGE[name]
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    good = prepare.build(cases, cfg)
    damage(tree / file)
    store = prepare.build(cases, cfg)
    assert store.report.set_aside == ["c3"]
    assert list(store.cases["case"]) == [f"c{i}" for i in range(N) if i != 3]
    [problem] = store.report.problems.to_dict("records")
    assert (problem["case"], problem["file"]) == ("c3", str((tree / file).resolve()))
    assert str((tree / file).resolve()) in problem["problem"]
    assert re.search(message, problem["problem"]), problem["problem"]
    assert problem["set_aside"]
    assert summary(store)["images set aside"] == 1
    for case in store.cases["case"]:
        for one, other in zip(row_of(store, case), row_of(good, case)):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match=message):
        prepare.build(cases, cfg, strict=True)


@pytest.mark.parametrize("name", DAMAGE)
def test_strict_stops_at_the_first_problem_and_writes_nothing(tree, name):
    file, damage, message = DAMAGE[name]
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    damage(tree / file)
    with pytest.raises(DataError, match=message):
        prepare.build(cases, cfg, strict=True)
    assert stores(tree) == []


def test_strict_accepts_good_data(tree):
    cfg = settings(tree)
    assert len(prepare.build(layouts.scan(cfg), cfg, strict=True).cases) == N


def test_an_image_without_a_mask(tree):
    (tree / "masks/c3.png").unlink()
    store = build(tree)
    assert store.report.set_aside == ["c3"]
    assert store.report.problems["problem"][0].startswith(
        f"{tree / 'images/c3.png'}: no mask exists for this image"
    )
    whole = build(tree, missing_weight=0.5)
    assert whole.report.set_aside == [], "a missing mask counts there"
    assert (row_of(whole, "c3")[1] == IGNORE).all()


def test_several_bad_files_are_all_listed(tree):
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    for case, (file, damage, _) in zip(
        "c1 c2 c4".split(), [DAMAGE["image cut short"], DAMAGE["mask missing"]]
    ):
        damage(tree / file.replace("c3", case))
    store = prepare.build(cases, cfg)
    assert store.report.set_aside == ["c1", "c2"]
    with pytest.raises(DataError, match="1 more problem"):
        prepare.build(cases, cfg, strict=True)


def test_nothing_usable_is_an_error_and_leaves_no_store(tree):
    cfg = settings(tree)
    cases = layouts.scan(cfg)
    for i in range(N):
        (tree / f"images/c{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"c0\.png: the file is empty.*9 more problems"):
        prepare.build(cases, cfg)
    assert stores(tree) == []


def test_half_of_a_union_in_the_tree(lung_tree, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(lung_tree, tree)
    name = sorted(os.listdir(tree / "MontgomerySet/CXR_png"))[5]
    (tree / "MontgomerySet/ManualMask/leftMask" / name).unlink()
    store = build(tree, name="lung")
    assert store.report.set_aside == [Path(name).stem]
    assert "no mask exists" in store.report.problems["problem"][0]
    assert any(f"{name}: only 1 of its 2 masks" in note for note in store.report.notes)


def test_a_palette_mask_is_decoded_and_reported(tree):
    mask = Image.fromarray(blob(3).astype(np.uint8))
    mask.putpalette([0, 0, 0, 200, 30, 30])
    mask.save(tree / "masks/c3.png")
    store = build(tree, image_size=(HEIGHT, WIDTH), augment={})
    np.testing.assert_array_equal(row_of(store, "c3")[1][..., 0], blob(3))
    assert store.report.facts.set_index("case")["how structure"]["c3"] == "palette index"
    assert "palette index (1)" in summary(store)["structure: decoded by"]
    assert store.report.set_aside == []


def test_a_grey_edged_mask_is_decoded_and_reported(tree):
    grey = Image.fromarray(blob(3, 20, 28) * np.uint8(255)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BILINEAR
    )
    grey.save(tree / "masks/c3.png")
    assert len(np.unique(np.array(grey))) > 5
    store = build(tree, image_size=(HEIGHT, WIDTH), augment={})
    np.testing.assert_array_equal(row_of(store, "c3")[1][..., 0], np.array(grey) > 127)
    assert "grey edges, cut at 127 (1)" in summary(store)["structure: decoded by"]


def test_one_error_of_many_does_not_hide_a_wrong_setting(tree):
    """Every mask has several colours; the setting that the message names resolves it."""
    for i in range(N):
        two_colours(tree / f"masks/c{i}.png")
    with pytest.raises(DataError, match="mask_encoding"):
        build(tree, **ONE)
    store = build(
        tree, mask_encoding={"255,0,0": 1, "0,255,0": 0}, image_size=(HEIGHT, WIDTH), augment={}
    )
    assert len(store.cases) == N
    np.testing.assert_array_equal(
        row_of(store, "c3")[1][0, :, 0], np.arange(WIDTH) * 3 // WIDTH == 1
    )


# Polarity


def invert(tree, cases):
    for i in cases:
        save(tree / f"masks/c{i}.png", ~blob(i) * np.uint8(255))


def test_a_class_that_is_inverted_is_turned_and_noted(tree):
    good = build(tree)
    invert(tree, range(N))
    store = build(tree)
    np.testing.assert_array_equal(store.open()[1], good.open()[1])
    assert store.report.set_aside == []
    [note] = [note for note in store.report.notes if "0 is the structure" in note]
    assert note.startswith("structure: 10 of 10 masks")
    assert store.info["inverted"] == {"structure": True} and good.info["inverted"] == {
        "structure": False
    }
    pd.testing.assert_series_equal(
        store.report.facts["share structure"], good.report.facts["share structure"]
    )
    case = store.cases.iloc[3]
    truth, _, _, _ = prepare.read_truth(
        case, settings(tree), store.info["inverted"], (case.height, case.width)
    )
    np.testing.assert_array_equal(truth[..., 0], blob(3))


def test_polarity_can_be_set(tree):
    good = build(tree)
    invert(tree, range(N))
    np.testing.assert_array_equal(build(tree, mask_inverted=True).open()[1], good.open()[1])
    as_they_are = build(tree, mask_inverted=False).open()[1]
    inside = good.open()[1] != IGNORE
    np.testing.assert_array_equal(as_they_are[inside], 1 - good.open()[1][inside])
    np.testing.assert_array_equal(as_they_are[~inside], IGNORE)


def test_one_normal_mask_in_an_inverted_class_is_set_aside(tree):
    invert(tree, [i for i in range(N) if i != 3])
    store = build(tree)
    assert store.report.set_aside == ["c3"]
    assert "inverted" in store.report.problems["problem"][0]
    assert store.info["inverted"] == {"structure": True}


def test_an_empty_mask_in_an_inverted_class(tree):
    invert(tree, range(N))
    save(tree / "masks/c3.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    store = build(tree)
    assert store.report.set_aside == []
    assert summary(store)["structure: masks"] == "10 there, 0 missing, 1 empty"
    assert set(np.unique(row_of(store, "c3")[1])) == {0, IGNORE}


def test_polarity_is_settled_for_each_class(tree):
    invert(tree, range(5))
    cfg = settings(tree, "palm")
    cases = palm_table(tree)
    masks = [str(tree / f"masks/c{i}.png") for i in range(N)]
    cases.loc[:4, "disc"], cases.loc[5:, "atrophy"] = masks[:5], masks[5:]
    store = prepare.build(cases, cfg)
    assert store.info["inverted"] == {"atrophy": False, "detachment": False, "disc": True}
    assert store.report.set_aside == []
    for i, k in ((2, 2), (7, 0)):
        plane = Image.fromarray(blob(i).astype(np.uint8)).resize((64, 46), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(row_of(store, f"c{i}")[1][9:55, :, k], plane)


@pytest.mark.parametrize("inverted", ["auto", True])
def test_a_union_of_inverted_masks_is_turned(lung_tree, tmp_path, inverted):
    trees = tmp_path / "good", tmp_path / "inverted"
    for tree in trees:
        for name in sorted(os.listdir(lung_tree / "MontgomerySet/CXR_png"))[:4]:
            for folder in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
                array = pixels(lung_tree / "MontgomerySet" / folder / name)
                inverting = tree.name == "inverted" and "Mask" in folder
                save(tree / "MontgomerySet" / folder / name, 255 - array if inverting else array)
    good, store = build(trees[0], name="lung"), build(trees[1], name="lung", mask_inverted=inverted)
    np.testing.assert_array_equal(store.open()[1], good.open()[1])


# Duplicates


def test_of_equal_images_the_one_in_the_test_part_stays(tmp_path):
    tree = tmp_path / "tree"
    for part, numbers in (("train", (0, 1, 2, 3)), ("val", (10, 11)), ("test", (20, 21))):
        for i in numbers:
            save(tree / part / f"images/c{i}.png", picture({1: 10, 2: 20, 11: 20}.get(i, i)))
            save(tree / part / f"masks/c{i}.png", blob(i) * np.uint8(255))
    store = build(tree)
    assert dict(zip(store.cases["case"], store.cases["split"])) == {
        "c0": "train",
        "c3": "train",
        "c10": "val",
        "c20": "test",
        "c21": "test",
    }
    assert store.report.set_aside == ["c1", "c11", "c2"]
    problems = store.report.problems.set_index("case")["problem"]
    assert "same content as c10.png in val" in problems["c1"]
    assert "same content as c20.png in test" in problems["c2"]
    assert "same content as c20.png in test" in problems["c11"]


def test_equal_images_under_one_root(tree):
    for i in (6, 8):
        shutil.copy(tree / "images/c2.png", tree / f"images/c{i}.png")
    store = build(tree)
    assert store.report.set_aside == ["c6", "c8"]
    assert "c2" in set(store.cases["case"])


# Export


def test_export_png(tree, tmp_path):
    store = build(tree, test_split=0.2)
    folder = store.export_png(tmp_path / "out")
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))
    expected = [
        f"{c.split}/{kind}/{c.case}.png"
        for c in store.cases.itertuples()
        for kind in ("images", "masks")
    ]
    assert written == sorted(expected)
    assert {name.split("/")[0] for name in written} == {"train", "val", "test"}
    for case in store.cases.itertuples():
        image, mask = row_of(store, case.case)
        np.testing.assert_array_equal(
            pixels(folder / case.split / "images" / f"{case.case}.png"), image
        )
        written = pixels(folder / case.split / "masks" / f"{case.case}.png")
        assert written.shape == (64, 64) and set(np.unique(written)) == {0, 255}
        np.testing.assert_array_equal(written == 255, mask[..., 0] == 1)


def test_exports_of_two_splits_are_not_mixed(tree, tmp_path):
    store = build(tree, test_split=0.2)
    folder = store.export_png(tmp_path / "out")
    before = sorted(folder.rglob("*"))
    assert store.export_png(folder) == folder and sorted(folder.rglob("*")) == before
    other = store.split(settings(tree, test_split=0.2, split_seed=1))
    assert (other.cases["split"] != store.cases["split"]).any()
    with pytest.raises(DataError, match="of another export, such as .*choose another folder"):
        other.export_png(folder)
    assert sorted(folder.rglob("*")) == before


def test_what_was_exported_can_be_read_again(tree, tmp_path):
    store = build(tree, test_split=0.2, resize="stretch")
    folder = store.export_png(tmp_path / "out")
    again = prepare.build(layouts.scan(settings(folder)), settings(folder))
    assert dict(zip(again.cases["case"], again.cases["split"])) == dict(
        zip(store.cases["case"], store.cases["split"])
    )
    for case in store.cases["case"]:
        for one, other in zip(row_of(store, case), row_of(again, case)):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["atrophy", "optic atrophy"])
def test_export_of_several_classes(tree, tmp_path, name):
    classes = (name, "detachment", "disc")
    cfg = settings(tree, "palm", mask_inverted=False, class_names=classes)
    cases = layouts.scan(settings(tree)).rename(columns={"structure": "disc"})
    cases = cases.assign(**{name: "", "detachment": ""})
    cases.loc[0, name] = cases.loc[1, "disc"]
    store = prepare.build(cases, cfg)
    folder = store.export_png(tmp_path / "out")
    parts = store.cases.set_index("case")["split"]
    for k, column in enumerate(classes):
        written = folder / parts["c0"] / "masks" / column / "c0.png"
        if column != "detachment":
            mask = row_of(store, "c0")[1][..., k]
            np.testing.assert_array_equal(pixels(written) == 255, mask == 1)
        # An empty mask where none exists would say that nothing is there.
        exported = {file.stem for file in folder.glob(f"*/masks/{column}/*.png")}
        assert exported == set(cases.loc[cases[column] != "", "case"])


def test_export_of_label_maps(tree, tmp_path):
    store = prepare.build(labels_table(tree), settings(tree, "cardiac"))
    folder = store.export_png(tmp_path / "out")
    for case in store.cases.itertuples():
        written = pixels(folder / case.split / "masks" / f"{case.case}.png")
        np.testing.assert_array_equal(written, row_of(store, case.case)[1][..., 0])


# Real data


@pytest.fixture(scope="module")
def montgomery(real, tmp_path_factory):
    root, work = real("montgomery"), tmp_path_factory.mktemp("montgomery")
    cfg = config.preset("lung", "smoke", data_root=str(root), work_dir=str(work))
    return prepare.build(layouts.scan(cfg), cfg), cfg


def test_real_montgomery(montgomery):
    store, _ = montgomery
    assert len(store.cases) == 102
    assert store.report.problems.empty and store.report.set_aside == []
    assert summary(store)["images read"] == 102
    assert summary(store)["lung: masks"] == "102 there, 0 missing, 0 empty"
    assert sizes(store.cases, store.cases["split"]) == (66, 16, 20)
    assert set(np.unique(store.open()[1])) == {0, 1}


def test_real_montgomery_truth_at_original_size(montgomery, real):
    store, cfg = montgomery
    unions = real("montgomery") / "masks_union_original"
    facts = store.report.facts.set_index("case")["share lung"]
    for case in store.cases.to_dict("records"):
        truth, annotated, _, _ = prepare.read_truth(
            case, cfg, store.info["inverted"], (case["height"], case["width"])
        )
        union = pixels(unions / f"{case['case']}.png") > 127
        np.testing.assert_array_equal(truth[..., 0], union)
        assert annotated == [True]
        assert facts[case["case"]] == pytest.approx(union.mean(), abs=1e-9)


def test_real_covid_busi_and_spleen(real, tmp_path):
    """Mixed sizes, modes and formats: everything is decoded, nothing is set aside."""
    sets = {
        "covid_cxr_leftright": ("lung", 23),
        "busi": ("binary", 22),
        "msd_spleen_ct": ("binary", 13),
    }
    for name, (preset, n) in sets.items():
        cfg = config.preset(
            preset, "smoke", data_root=str(real(name)), work_dir=str(tmp_path / name)
        )
        if name == "busi":  # green is benign, red malignant
            with pytest.raises(DataError, match=r"14 masks of \(0, 255, 0\).*8 masks of \(255"):
                prepare.build(layouts.scan(cfg), cfg)
            cfg.mask_encoding = {"0,255,0": 1, "255,0,0": 1}
        store = prepare.build(layouts.scan(cfg), cfg)
        assert (len(store.cases), store.report.set_aside) == (n, []), (
            store.report.problems.to_string()
        )
        masks = store.open()[1]
        assert ((masks == 1).any(axis=(1, 2, 3))).all(), name


# Images without scaling, and room for the store


def test_without_scaling_an_image_is_padded(tree):
    store = build(tree, resize="none", image_size=(64, 80), augment={})
    pictures, masks = store.open()
    inside = (slice(None), slice(12, 52), slice(12, 68))
    for row in store.cases.itertuples():
        number = int(row.case[1:])
        np.testing.assert_array_equal(pictures[row.row][inside[1:]], picture(number))
        np.testing.assert_array_equal(masks[row.row][inside[1:]][..., 0], blob(number))
    assert (masks == IGNORE).sum() == N * (64 * 80 - HEIGHT * WIDTH)
    masks = masks.copy()
    masks[inside] = IGNORE
    assert (masks == IGNORE).all()


def test_an_image_larger_than_the_frame_is_an_error_with_the_size_that_would_do(tree):
    save(tree / "images/c3.png", picture(3, 50, 30))
    save(tree / "masks/c3.png", blob(3, 50, 30) * np.uint8(255))
    message = r"c0\.png: its 40x56 pixels are more than image_size 48x48.*10 of 10.*\(50, 56\)"
    with pytest.raises(DataError, match=message):
        build(tree, resize="none", image_size=48)
    assert stores(tree) == []
    assert build(tree, resize="none", image_size=(50, 56), augment={}).report.problems.empty


def test_a_store_that_does_not_fit_is_refused_before_anything_is_read(tree, monkeypatch):
    monkeypatch.setattr(prepare, "_decode", None)
    full = SimpleNamespace(free=0)
    monkeypatch.setattr(prepare.stores.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(DataError, match="no room for the store: it takes 0 MB, 0 MB are free"):
        build(tree)
    monkeypatch.undo()
    monkeypatch.setattr(prepare, "_decode", None)
    monkeypatch.setattr(prepare.hosts, "memory_bytes", lambda: 2**30)
    with pytest.raises(DataError, match="image_size: a frame of 16000x16000 takes .* this machine"):
        build(tree, image_size=16000)
    assert stores(tree) == []


def test_a_large_store_says_what_it_will_take(tree, monkeypatch, capsys):
    build(tree)
    assert "store:" not in capsys.readouterr().out
    monkeypatch.setattr(prepare.stores, "LARGE", 1000)
    build(tree, image_size=96)
    line = capsys.readouterr().out
    assert "10 images of 96x96 take 0.0 GB of disk" in line and "GB of memory" in line


@pytest.mark.parametrize("size, is_noted", [(5, False), (26, True)])
def test_a_mask_is_called_turned_where_more_than_one_place_of_its_edge_says_so(
    tmp_path, size, is_noted
):
    rows, columns = np.ogrid[:128, :128]
    mask = np.hypot(rows - 35, columns - 40) < size  # upside down: at row 92
    rng = np.random.default_rng(0)
    image = rng.integers(0, 30, (128, 128))
    if is_noted:
        image[mask[::-1]] += 60
    else:  # by chance, something of high contrast lies there
        image[82:103, 30:51] = rng.integers(0, 255, (21, 21))
    write_picture(tmp_path / "images" / "x.png", image)
    write_picture(tmp_path / "masks" / "x.png", mask * 255)
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"))
    notes = prepare.build(layouts.scan(cfg), cfg).report.notes
    assert any("would fit it better" in note for note in notes) == is_noted


@pytest.mark.parametrize("n_slices, is_noted", [(1, True), (11, False)])
def test_slices_of_a_volume_are_no_independent_evidence(n_slices, is_noted):
    """A gain of 3.6 standard errors, as that of a real volume of 11 slices with correct labels."""
    name = "v.nii.gz" if n_slices > 1 else "x.png"
    edges, variances = np.ones(8), np.full(8, ((0.14 / 3.6) ** 2) * n_slices)
    edges[2] = 1.14
    fact = {"edges": edges, "edge_variances": variances, "warnings": {}}
    notes = checks._warnings([name] * n_slices, [fact] * n_slices)
    assert bool(notes) == is_noted
