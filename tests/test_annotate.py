"""Predict, correct, retrain: the order of the queue, the masks that are saved, and the case table
that training reads.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from seglib import annotate, config, corrections, hosts, prepare, training
from seglib.annotate import Sheets
from seglib.corrections import Corrections
from seglib.errors import DataError
from seglib.formats import images
from tests.helpers import (
    TINY,
    FakePredictor,
    command,
    labels_like,
    numbered_volume,
    read_picture,
    save_nifti,
    write_picture,
)

SIDE = 24


def disc(radius, row=12, column=12):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.uint8)


def binary(tmp_path, **changes):
    fields = {"image_size": SIDE, "test_split": 0, "val_split": 0, "in_channels": 1, "augment": {}}
    fields |= {"mean": (0.5,), "std": (0.5,), "work_dir": str(tmp_path / "work")}
    return config.preset("binary", "smoke", **{**fields, **changes})


def written(tmp_path, masks, column="structure", **cells):
    """A case table of pictures in `images` with the masks (H, W) in `masks`; None: no mask."""
    rows = []
    for number, mask in enumerate(masks):
        image, path = (tmp_path / "data" / kind / f"c{number}.png" for kind in ("images", "masks"))
        # No two pictures of a test are alike.
        seed = [number, *tmp_path.name.encode()]
        grey = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE))
        write_picture(image, grey)
        if mask is not None:
            write_picture(path, mask)
        row = {"case": f"c{number}", "patient": f"c{number}", "split": "", "image": str(image)}
        rows.append({**row, column: str(path) if mask is not None else "", **cells})
    return pd.DataFrame(rows)


def painted(queue, number, mask, save=True):
    """Store a mask (K, H, W) of one case, as the editor does."""
    sheets = Sheets(queue)
    sheets.open(number)
    sheets.keep(number, mask)
    if save:
        sheets.save(number, mask)


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stored(cases, cfg):
    """Case -> mask (H, W, K) as training reads it."""
    store = prepare.build(cases, cfg)
    assert not len(store.report.problems), store.report.problems
    masks = store.open()[1]
    return {
        case: np.array(masks[row]) for case, row in zip(store.cases["case"], store.cases["row"])
    }


# ---- the order


def test_doubt_is_the_mean_entropy_near_the_boundary():
    prob = np.random.default_rng(0).uniform(0, 1, (1, SIDE, SIDE)) * 0.4
    prob[0][disc(6) == 1] += 0.6
    bits = entropy([prob[0], 1 - prob[0]], base=2, axis=0)
    mask = np.pad(prob[0] >= 0.5, 1, mode="edge")
    here = mask[1:-1, 1:-1]
    sides = (mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:])
    edges = np.argwhere(np.any([side != here for side in sides], axis=0))
    pixels = np.argwhere(np.ones_like(here))
    # Two steps to neighbours by an edge, besides the two pixels that the boundary divides.
    steps = np.abs(pixels[:, None] - edges[None]).sum(axis=2).min(axis=1).reshape(here.shape)
    assert annotate.boundary_entropy(prob, "binary") == pytest.approx(bits[steps <= 2].mean())


@given(st.floats(0, 1), st.sampled_from(["binary", "multilabel", "multiclass"]))
def test_doubt_lies_between_certain_and_even(value, task):
    n_classes = {"binary": 1, "multilabel": 3, "multiclass": 3}[task]
    even = 1 / 3 if task == "multiclass" else 0.5
    certain = np.zeros((n_classes, 9, 9), np.float32)
    certain[0] = 1
    undecided = np.full_like(certain, even)
    mixed = value * certain + (1 - value) * undecided
    low, middle, high = (annotate.boundary_entropy(p, task) for p in (certain, mixed, undecided))
    assert -1e-9 <= low <= middle + 1e-6 and middle <= high + 1e-6
    assert low == pytest.approx(0, abs=1e-4) and high == pytest.approx(1)


def test_a_structure_that_was_almost_found_is_doubted_more_than_a_sure_absence():
    nearly = np.full((1, SIDE, SIDE), 0.01)
    nearly[0][disc(4) == 1] = 0.4
    sure = np.full((1, SIDE, SIDE), 0.01)
    assert annotate.boundary_entropy(nearly, "binary") > annotate.boundary_entropy(sure, "binary")


def blurry(widths):
    """A predictor whose disc is the blurrier, the larger the width of the case is; the cases are
    told apart by their grey of one value."""

    def respond(pixels):
        greys = pixels.mean(axis=(1, 2, 3)).round().astype(int)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        distance = 6 - np.hypot(rows - 12, columns - 12)
        return np.stack([[1 / (1 + np.exp(-distance / widths[grey]))] for grey in greys])

    return respond


def even_cases(tmp_path, greys):
    rows = []
    for grey in greys:
        path = tmp_path / "data" / "images" / f"c{grey}.png"
        write_picture(path, np.full((SIDE, SIDE), grey))
        rows.append({"case": f"c{grey}", "image": str(path)})
    return pd.DataFrame(rows)


def test_the_most_doubtful_case_comes_first(tmp_path):
    widths = {10: 0.2, 20: 3.0, 30: 1.0}
    predictor = FakePredictor(binary(tmp_path), blurry(widths))
    queue = annotate.queue(predictor, even_cases(tmp_path, widths))
    assert queue.table["case"].tolist() == ["c20", "c30", "c10"]
    assert queue.table["doubt"].is_monotonic_decreasing
    assert "mean entropy near the boundary" in queue.order


def test_flagged_cases_come_before_doubtful_ones(tmp_path):
    widths = {10: 0.2, 20: 3.0, 30: 1.0}
    predictor = FakePredictor(binary(tmp_path), blurry(widths))
    cases = even_cases(tmp_path, widths)
    for flags in ([True, False, False], ["yes", "no", ""], [0.7, 0.1, 0.1], ["1", "0", np.nan]):
        queue = annotate.queue(predictor, cases.assign(failure=flags))
        assert queue.table["case"].tolist() == ["c10", "c20", "c30"], flags
        assert queue.order.startswith("those flagged in the column 'failure' first, then")
    with pytest.raises(DataError, match="'perhaps' in the column 'failure' is no flag"):
        annotate.queue(predictor, cases.assign(failure=["yes", "perhaps", "no"]))


def test_another_measure_of_doubt(tmp_path):
    def size(prob, task):
        return float(prob.sum())

    widths = {10: 0.2, 20: 3.0, 30: 1.0}
    predictor = FakePredictor(binary(tmp_path), blurry(widths))
    queue = annotate.queue(predictor, even_cases(tmp_path, widths), doubt=size)
    assert queue.table["doubt"].is_monotonic_decreasing and "(size)" in queue.order


def test_without_a_network_the_cases_stay_in_their_order(tmp_path):
    cases = written(tmp_path, [disc(4), None])
    queue = annotate.queue(binary(tmp_path), cases)
    assert queue.table["case"].tolist() == ["c0", "c1"] and "doubt" not in queue.table
    assert not Sheets(queue).open(1)[1].any()


def test_cases_of_the_training_are_noted(tmp_path):
    cases = even_cases(tmp_path, (10, 20))
    predictor = FakePredictor(binary(tmp_path), blurry({10: 1.0, 20: 1.0}))
    predictor.trained_on = [images.sha256(cases["image"][0])[:16]]
    assert "trained on 1 of 2 cases" in annotate.queue(predictor, cases).notes[0]
    predictor.trained_on = ["0" * 16]
    assert not annotate.queue(predictor, cases).notes


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path):
    cases = written(tmp_path, [disc(4), disc(5)])
    (tmp_path / "data" / "images" / "c0.png").write_bytes(b"no picture")
    queue = annotate.queue(binary(tmp_path), cases)
    assert queue.table["case"].tolist() == ["c1"]
    assert "1 cases are left out" in queue.notes[0] and "c0.png" in queue.notes[0]
    with pytest.raises(DataError, match="no image can be read"):
        annotate.queue(binary(tmp_path), cases.head(1))


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        (pd.DataFrame({"case": ["a"]}), "no column 'image'"),
        (pd.DataFrame({"case": [], "image": []}), "no rows"),
        (pd.DataFrame({"case": ["a", "a"], "image": ["x", "y"]}), "'a' occurs twice"),
    ],
)
def test_tables_that_lack_something_are_refused(tmp_path, cases, text):
    with pytest.raises(DataError, match=text):
        annotate.queue(binary(tmp_path), cases)


def test_a_folder_of_images_without_masks(tmp_path):
    write_picture(tmp_path / "photos" / "b.png", np.full((SIDE, SIDE), 20))
    save_nifti(numbered_volume((5, 6, 3)), tmp_path / "photos" / "scan.nii.gz")
    cfg = binary(tmp_path, window_level=-900, window_width=300)
    queue = annotate.queue(cfg, tmp_path / "photos")
    assert queue.table["case"].tolist() == ["b", "scan_000", "scan_001", "scan_002"]
    assert (queue.table["structure"] == "").all()
    assert queue.folder == tmp_path / "photos_corrected"
    with pytest.raises(DataError, match="no such folder"):
        annotate.queue(cfg, tmp_path / "nowhere")


def test_several_sequences_and_neighbouring_slices(tmp_path):
    """The page shows the slice itself in its first sequence, and the mask is that of the slice."""
    t2 = numbered_volume((SIDE, SIDE, 3))
    adc = labels_like(t2, np.zeros((SIDE, SIDE, 3)), np.int16)
    for number, image in enumerate((t2, adc)):
        save_nifti(image, tmp_path / "scans" / f"v_000{number}.nii.gz")
    save_nifti(t2, tmp_path / "scans" / "alone_0000.nii.gz")
    several = {"in_channels": 2, "channel_names": ("T2", "ADC"), "mean": (0.5,), "std": (0.5,)}
    cfg = binary(tmp_path, **several, context_slices=1, percentiles=(0, 100))
    queue = annotate.queue(cfg, tmp_path / "scans")
    assert queue.table["case"].tolist() == ["v_000", "v_001", "v_002"]
    assert queue.folder == tmp_path / "scans_corrected"
    image, mask, _ = Sheets(queue).open(1)
    assert mask.shape == (1, SIDE, SIDE)
    # As the file has it, since this is no CT; scaled from the whole volume to 8 bits.
    voxels = t2.get_fdata()
    grey = np.rint((voxels[..., 1].T - voxels.min()) / np.ptp(voxels) * 255)
    assert np.array_equal(image, np.repeat(grey[..., None], 3, axis=2))
    painted(queue, 1, disc(5)[None])
    masks = stored(annotate.merge(queue), cfg)
    assert list(masks) == ["v_001"] and np.array_equal(masks["v_001"][..., 0], disc(5))
    # The files of all channels decide whether it is the same image.
    save_nifti(
        labels_like(t2, np.ones((SIDE, SIDE, 3)), np.int16), tmp_path / "scans/v_0001.nii.gz"
    )
    with pytest.raises(DataError, match="of another image"):
        annotate.merge(queue)


# ---- where masks lie, and that nothing else changes


def test_corrected_masks_lie_beside_the_images(tmp_path, monkeypatch):
    cfg = binary(tmp_path)
    cases = written(tmp_path, [disc(4)])
    assert annotate.queue(cfg, cases).folder == tmp_path / "data" / "images_corrected"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as on Kaggle
    assert annotate.queue(cfg, cases).folder == tmp_path / "work" / "images_corrected"
    assert annotate.queue(cfg, cases, folder=tmp_path / "x").folder == tmp_path / "x"


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "..", ".hidden", "a/b", "a\\b", "nul\0"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    cases = written(tmp_path, [disc(4)]).assign(case=[name])
    queue = annotate.queue(binary(tmp_path), cases, folder=tmp_path / "out" / "corrected")
    painted(queue, 0, disc(5)[None])
    mask = tmp_path / "out" / "corrected" / "masks"
    assert len(list(mask.iterdir())) == 1 and len(list((tmp_path / "out").iterdir())) == 1
    assert len(annotate.merge(queue)) == 1


def test_names_that_no_file_can_have_are_refused():
    with pytest.raises(DataError, match="rename the case"):
        corrections.file_name("x" * 300)
    assert corrections.file_name("Fälle 1_a-b.c") == "Fälle 1_a-b.c"


def test_the_original_files_stay_as_they_are(tmp_path):
    cases = written(tmp_path, [disc(4), disc(5)])
    before = hashes(tmp_path / "data")
    queue = annotate.queue(binary(tmp_path), cases)
    painted(queue, 0, disc(6)[None])
    after = hashes(tmp_path / "data")
    assert {path: after[path] for path in before} == before and len(after) == len(before) + 2
    merged = annotate.merge(queue)
    assert stored(merged, binary(tmp_path))["c0"].sum() == disc(6).sum()


# ---- saved whole or not at all, and read again


def test_a_draft_is_there_again_after_a_restart(tmp_path):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4), disc(5)]))
    painted(queue, 0, disc(7)[None], save=False)
    again = Sheets(annotate.queue(binary(tmp_path), queue.table))
    _, mask, origin = again.open(0)
    assert np.array_equal(mask[0], disc(7)) and "draft" in origin and again.first == 0
    again.save(0, mask)
    third = Sheets(queue)
    assert np.array_equal(third.open(0)[1][0], disc(7)) and third.open(0)[2] == "saved"
    assert third.first == 1 and third.saved == {0}


def test_a_failed_save_leaves_the_earlier_mask(tmp_path, monkeypatch):
    cfg = config.preset("palm", "smoke", work_dir=str(tmp_path))
    cases = written(tmp_path, [None], "disc")
    queue = annotate.queue(cfg, cases, folder=tmp_path / "corrected")
    store, row = Corrections(queue.folder, cfg), queue.table.iloc[0]
    first, second = (np.stack([disc(r)] * 3) for r in (4, 6))
    painted(queue, 0, first)
    assert np.array_equal(store.read(row, (SIDE, SIDE)), first)
    write, calls = images.write_png, []

    def fail_at_the_second(path, pixels):
        calls.append(path)
        if len(calls) == 2:
            raise DataError("the disk is full")
        return write(path, pixels)

    monkeypatch.setattr(images, "write_png", fail_at_the_second)
    with pytest.raises(DataError, match="full"):
        painted(queue, 0, second)
    # One of three planes is new: such a mixture is no mask, and nothing of the work is lost.
    assert not store.is_saved(row) and store.has_draft(row)
    assert np.array_equal(store.read(row, (SIDE, SIDE)), second)
    with pytest.raises(DataError, match=r"no corrected mask is saved \(1 drafts"):
        annotate.merge(queue)


def test_a_mask_that_another_program_changed_does_not_count(tmp_path):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4), disc(5)]))
    painted(queue, 0, disc(6)[None])
    painted(queue, 1, disc(6)[None])
    write_picture(queue.folder / "masks" / "c0.png", disc(7))
    with pytest.raises(DataError, match=r"c0.png.*changed after it was saved"):
        annotate.merge(queue)


def test_masks_of_other_images_or_classes_are_refused(tmp_path):
    cfg = binary(tmp_path)
    queue = annotate.queue(cfg, written(tmp_path, [disc(4)]))
    painted(queue, 0, disc(6)[None])
    table = queue.table.rename(columns={"structure": "tumour"})
    other = annotate.queue(cfg.replace(class_names=("tumour",)), table, folder=queue.folder)
    with pytest.raises(DataError, match="of another class_names"):
        annotate.merge(other)
    write_picture(tmp_path / "data" / "images" / "c0.png", np.full((SIDE, SIDE), 7))
    with pytest.raises(DataError, match="of another image"):
        annotate.merge(queue)


def test_a_data_set_may_be_moved(tmp_path):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4)]))
    painted(queue, 0, disc(6)[None])
    (tmp_path / "data").rename(tmp_path / "moved")
    table = queue.table.replace(str(tmp_path / "data"), str(tmp_path / "moved"), regex=True)
    merged = annotate.merge(annotate.queue(binary(tmp_path), table))
    assert stored(merged, binary(tmp_path))["c0"].sum() == disc(6).sum()


@pytest.mark.parametrize("content", [b"", b"no picture", b"{}"])
def test_damaged_files_are_named(tmp_path, content):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4)]))
    painted(queue, 0, disc(6)[None], save=False)
    draft = queue.folder / "drafts" / "c0.png"
    draft.write_bytes(content)
    with pytest.raises(DataError, match=r"drafts.c0.png: a damaged draft"):
        Sheets(queue).open(0)
    draft.unlink()
    painted(queue, 0, disc(6)[None])
    (queue.folder / "records" / "c0.json").write_bytes(content)
    with pytest.raises(DataError, match=r"records.c0.json: "):
        Sheets(queue)


def test_numbers_of_no_class_are_refused_at_every_reading(tmp_path):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4)]))
    painted(queue, 0, disc(6)[None])
    path, record = queue.folder / "masks" / "c0.png", queue.folder / "records" / "c0.json"
    merged = annotate.merge(queue)
    write_picture(path, disc(6) * 2)
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, "sha256": [images.sha256(path)]}))
    with pytest.raises(DataError, match=r"numbers \[2\] of no class"):
        Sheets(queue).open(0)
    with pytest.raises(DataError, match=r"numbers \[2\] of no class"):
        prepare.build(merged, binary(tmp_path))


# ---- what training reads


def test_corrected_masks_are_read_beside_originals_of_any_encoding(tmp_path):
    """Whatever the settings say about the original files, a corrected mask is what was painted."""
    colours = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours[disc(4) == 1] = (255, 0, 0)
    originals = {
        "plain": (disc(4) * 255, {}),
        "index": (disc(4) * 7, {"mask_encoding": "index"}),
        "inverted": (255 - disc(4) * 255, {}),
        "set inverted": (255 - disc(4) * 255, {"mask_inverted": True}),
        "threshold": (disc(4) * 200 + 10, {"mask_encoding": "threshold"}),
        "colours": (colours, {"mask_encoding": {"255,0,0": 1, "0,0,0": 0}}),
        "numbers": (disc(4) * 9, {"label_map": {"9": 1}}),
    }
    for name, (original, changes) in originals.items():
        cfg = binary(tmp_path / name, **changes)
        queue = annotate.queue(cfg, written(tmp_path / name, [original] * 3))
        start = Sheets(queue).open(0)[1]
        assert np.array_equal(start[0], disc(4)), name
        painted(queue, 1, disc(7)[None])
        painted(queue, 2, disc(8)[None])
        masks = stored(annotate.merge(queue), cfg)
        for case, radius in (("c0", 4), ("c1", 7), ("c2", 8)):
            assert np.array_equal(masks[case][..., 0], disc(radius)), (name, case)


def multiclass(tmp_path, **changes):
    names = ("background", "disc", "cup")
    fields = {"task": "multiclass", "class_names": names, "loss": "cross_entropy"}
    return binary(tmp_path, **{**fields, **changes})


@pytest.mark.parametrize("how", ["numbers", "label_map", "colours", "annotated"])
def test_corrected_label_maps_are_read_beside_originals(tmp_path, how):
    labels = disc(8) + disc(4)
    cells, changes, original = {}, {}, labels
    if how == "label_map":
        original, changes = labels * 10, {"label_map": {"10": 1, "20": 2}}
    elif how == "colours":
        original = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[labels]
        changes = {"mask_encoding": {"0,0,0": 0, "255,0,0": 1, "0,255,0": 2}}
    elif how == "annotated":
        cells = {"annotated": "background,disc"}
    cfg = multiclass(tmp_path, **changes)
    queue = annotate.queue(cfg, written(tmp_path, [original] * 2, "labels", **cells))
    start = Sheets(queue).open(0)[1][0]
    expected = np.where(labels == 2, 255, labels) if how == "annotated" else labels
    assert np.array_equal(start, expected)
    new = disc(9) + disc(3)
    new[0, :5] = 255
    painted(queue, 1, new[None])
    merged = annotate.merge(queue)
    masks = stored(merged, cfg)
    assert np.array_equal(masks["c1"][..., 0], new)
    assert np.array_equal(masks["c0"][..., 0], expected)
    if how == "annotated":
        assert merged["annotated"].tolist() == ["background,disc", "background,disc,cup"]


def test_overlapping_classes_have_a_file_each(tmp_path):
    names = ("disc", "optic cup")
    cfg = binary(tmp_path, task="multilabel", class_names=names, loss="combined")
    cases = written(tmp_path, [disc(8) * 255] * 2, "disc").assign(**{"optic cup": ""})
    predictor = FakePredictor(cfg, lambda p: np.stack([[disc(2) * 0.9, disc(5) * 0.9]] * len(p)))
    queue = annotate.queue(predictor, cases)
    _, start, origin = Sheets(queue).open(0)
    # The class without a mask starts with the prediction.
    assert np.array_equal(start, [disc(8), disc(5)])
    assert origin == "mask of the data set and prediction"
    new = np.stack([disc(7), disc(3, 10)])
    new[1, 0, 0] = 255
    painted(queue, 0, new)
    merged = annotate.merge(queue)
    masks = stored(merged, cfg)
    assert np.array_equal(masks["c0"], new.transpose(1, 2, 0))
    assert np.array_equal(masks["c1"][..., 0], disc(8)) and (masks["c1"][..., 1] == 255).all()
    assert read_picture(queue.folder / "masks" / "optic cup" / "c0.png").max() == 255


def test_slices_of_volumes_are_corrected_one_by_one(tmp_path):
    image = numbered_volume((SIDE, SIDE, 3))
    path = save_nifti(image, tmp_path / "data" / "images" / "v.nii.gz")
    labels = np.zeros((SIDE, SIDE, 3), np.uint8)
    labels[4:9, 5:12, 1] = 1
    labels_path = save_nifti(labels_like(image, labels), tmp_path / "data" / "labels" / "v.nii.gz")
    window = {"window_level": 0, "window_width": 2000}
    cfg = multiclass(tmp_path, **window, data_root=str(tmp_path / "data"))
    shared = {"patient": "v", "split": "", "image": str(path), "labels": str(labels_path)}
    rows = [{"case": f"v_{k}", **shared, "volume": "v", "slice": k} for k in range(3)]
    queue = annotate.queue(cfg, pd.DataFrame(rows))
    start = Sheets(queue).open(1)[1][0]
    # Up is anterior and left is the patient's right.
    assert np.array_equal(start, labels[::-1, ::-1, 1].T)
    new = disc(5) + disc(2)
    painted(queue, 2, new[None])
    masks = stored(annotate.merge(queue), cfg)
    assert np.array_equal(masks["v_2"][..., 0], new)
    assert np.array_equal(masks["v_1"][..., 0], start)


def test_drafts_and_cases_without_a_mask_are_left_out_and_named(tmp_path, capsys):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4), None, None, None]))
    painted(queue, 1, disc(6)[None])
    painted(queue, 2, disc(6)[None], save=False)
    merged = annotate.merge(queue)
    assert merged["case"].tolist() == ["c0", "c1"]
    text = capsys.readouterr().out
    assert "case table with 1 corrected masks in place of the originals, 1 other cases" in text
    assert "2 cases without a mask are left out" in text
    assert "1 drafts are not saved and not used (c2)" in text
    assert set(text.splitlines()) == {f"merge: {note}" for note in merged.attrs["notes"]}


def test_corrected_cases_join_the_table_of_the_training(tmp_path):
    cfg = binary(tmp_path)
    train = written(tmp_path / "train", [disc(4)] * 2).replace({"case": {"c0": "t0", "c1": "t1"}})
    new = annotate.queue(cfg, written(tmp_path / "new", [None, None]))
    painted(new, 1, disc(6)[None])
    merged = annotate.merge(new, train)
    assert merged["case"].tolist() == ["t0", "t1", "c1"]
    masks = stored(merged, cfg)
    assert {case: int(mask.sum()) for case, mask in masks.items()} == {
        "t0": disc(4).sum(),
        "t1": disc(4).sum(),
        "c1": disc(6).sum(),
    }
    # Tables that were joined by hand have empty cells in the column of the other one.
    joined = pd.concat([train, annotate.merge(new)], ignore_index=True)
    assert joined["label_numbers"].isna().sum() == 2 and stored(joined, cfg).keys() == masks.keys()


def test_a_merged_table_may_be_saved_as_csv(tmp_path):
    cfg = binary(tmp_path)
    queue = annotate.queue(cfg, written(tmp_path, [disc(4), disc(5)]))
    painted(queue, 0, disc(7)[None])
    annotate.merge(queue).to_csv(tmp_path / "cases.csv", index=False)
    masks = stored(pd.read_csv(tmp_path / "cases.csv"), cfg)
    assert np.array_equal(masks["c0"][..., 0], disc(7))


def test_a_corrected_mask_gives_another_store(tmp_path):
    cfg = binary(tmp_path)
    queue = annotate.queue(cfg, written(tmp_path, [disc(4)]))
    before = prepare.build(queue.table, cfg)
    painted(queue, 0, disc(7)[None])
    after = prepare.build(annotate.merge(queue), cfg)
    assert after.folder != before.folder
    painted(queue, 0, disc(8)[None])
    assert stored(annotate.merge(queue), cfg)["c0"].sum() == disc(8).sum()


def test_predict_correct_retrain(tmp_path, without_figures):
    """The three calls between two trainings."""
    from seglib import data, layouts

    cfg = binary(tmp_path, data_root=str(tmp_path / "data"), val_split=2, **TINY | {"epochs": 1})
    written(tmp_path, [disc(4) * 255] * 6)
    cases = layouts.scan(cfg)
    run = training.fit(cfg, data.loaders(prepare.build(cases, cfg), cfg))

    queue = annotate.queue(run, cases)
    painted(queue, 0, disc(9)[None])
    cases = annotate.merge(queue)

    again = training.fit(cfg, data.loaders(prepare.build(cases, cfg), cfg))
    assert len(again.history) == 1 and len(cases) == 6
    assert "trained on 6 of 6" in queue.notes[0]


# ---- without widgets


def test_without_widgets_it_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4)]))
    assert annotate.edit(queue) is None
    assert "this is no notebook" in capsys.readouterr().out
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    monkeypatch.setattr(annotate.importlib.util, "find_spec", lambda name: None)
    assert annotate.edit(queue) is None
    text = capsys.readouterr().out
    assert "pip install anywidget" in text and "LabelMe" in text and "3D Slicer" in text


def test_the_editor_opens_the_first_case_that_is_not_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    queue = annotate.queue(binary(tmp_path), written(tmp_path, [disc(4), disc(5), disc(6)]))
    painted(queue, 0, disc(9)[None])
    editor = annotate.edit(queue)
    assert editor.session.number == 1 and [c["name"] for c in editor.classes] == ["structure"]
    assert str(queue.folder) in capsys.readouterr().out
    part = dataclasses.replace(queue, table=queue.table.head(1))
    assert annotate.edit(part).session.number == 0


def test_importing_the_package_needs_no_widgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "seglib.annotate")
    import seglib.annotate  # noqa: F401


# ---- other programs


def test_exported_masks_are_read_back_as_they_were(tmp_path, capsys):
    """LabelMe's files hold the masks that the editor would start with, pixel by pixel."""
    cfg = multiclass(tmp_path)
    label_maps = [disc(8) + disc(4), disc(5)]
    queue = annotate.queue(cfg, written(tmp_path, label_maps, "labels"))
    output = annotate.export(queue, tmp_path / "to correct")
    text = capsys.readouterr().out
    assert f"labelme '{output}'" in text
    # The command that it prints, with a folder for DIR.
    line = next(line for line in text.splitlines() if "prepare --source_images" in line)
    assert command("", *shlex.split(line.replace("DIR", str(tmp_path / "D")))[3:]) == 0
    names = json.loads((tmp_path / "D" / "dataset.json").read_text())["labels"]
    for number, labels in enumerate(label_maps):
        mask = read_picture(tmp_path / "D" / "masks" / f"c{number}.png")
        for value, name in enumerate(cfg.class_names):
            assert np.array_equal(mask == int(names[name]), labels == value), name
    with pytest.raises(DataError, match="not empty"):
        annotate.export(queue, output)


def test_volumes_are_exported_for_slicer(tmp_path, capsys):
    image = numbered_volume((SIDE, SIDE, 3))
    path = save_nifti(image, tmp_path / "scans" / "v.nii.gz")
    cfg = binary(tmp_path, window_level=0, window_width=2000)
    predictor = FakePredictor(cfg, lambda pixels: np.stack([[disc(5) * 0.9]] * len(pixels)))
    queue = annotate.queue(predictor, tmp_path / "scans")
    output = annotate.export(queue, tmp_path / "out")
    assert [file.name for file in output.iterdir()] == ["v_mask.nii.gz"]
    mask = nibabel.load(output / "v_mask.nii.gz")
    assert np.allclose(mask.affine, image.affine) and mask.shape == image.shape
    assert "3D Slicer" in capsys.readouterr().out
    with pytest.raises(DataError, match=f"{path.name}: a volume without a predicted mask"):
        annotate.export(annotate.queue(cfg, tmp_path / "scans"), tmp_path / "other")


# ---- settings that do not fit


def test_masks_of_another_class_are_not_dropped_silently(tmp_path):
    cases = written(tmp_path, [disc(4)], "tumour")
    with pytest.raises(DataError, match="masks in the column 'tumour', but those of the network"):
        annotate.queue(binary(tmp_path), cases)
    assert len(annotate.queue(binary(tmp_path), cases.drop(columns="tumour"))) == 1


def test_cases_are_read_by_their_own_settings(tmp_path):
    original = np.zeros((SIDE, SIDE, 3), np.uint8)
    original[disc(4) == 1] = (0, 0, 255)
    predictor = FakePredictor(binary(tmp_path), lambda pixels: pixels * 0)
    own = binary(tmp_path, mask_encoding={"0,0,255": 1, "0,0,0": 0})
    queue = annotate.queue(predictor, written(tmp_path, [original]), cfg=own)
    assert np.array_equal(Sheets(queue).open(0)[1][0], disc(4))
    with pytest.raises(DataError, match="cfg: class_names is"):
        annotate.queue(predictor, queue.table, cfg=own.replace(class_names=("tumour",)))
    with pytest.raises(DataError, match="found int as the first argument"):
        annotate.queue(3, queue.table)
