"""Volumes in a store: decoded once, set aside as a whole, labelled as their table says."""

import shutil

import nibabel
import numpy as np
import pytest

from seglib import config, data, layouts, prepare
from seglib.errors import DataError
from seglib.formats import volumes
from tests.helpers import (
    edit_dicom,
    error_of,
    labels_like,
    numbered_volume,
    rsna_config,
    save_nifti,
    truth_of,
    write_picture,
    write_series_and_labels,
)


def test_the_key_of_a_store_follows_every_file_of_a_series(tmp_path, stack):
    root = tmp_path / "rsna"
    truth = write_series_and_labels(root / "x", stack)
    shutil.move(root / "x" / "ct", root / "train_images" / "1" / "2")
    (root / "segmentations").mkdir()
    shutil.move(root / "x" / "seg.nii.gz", root / "segmentations" / "2.nii.gz")
    cfg = rsna_config(root, tmp_path)
    first = prepare.build(layouts.scan(cfg), cfg)
    assert prepare.build(layouts.scan(cfg), cfg).folder == first.folder
    file = root / "train_images" / "1" / "2" / "3.dcm"
    edit_dicom(file, PixelData=np.zeros_like(stack[3], np.uint16).tobytes(), InstanceNumber=77)
    changed = prepare.build(layouts.scan(cfg), cfg)
    assert changed.folder != first.folder
    images, labels = truth_of(changed, cfg)["1_2_003"]
    assert (images == 0).all() and (labels == truth[3]).all()
    other_window = rsna_config(root, tmp_path, window_level=40)
    assert prepare.build(layouts.scan(cfg), other_window).folder != changed.folder


def test_a_bad_volume_is_set_aside_and_a_copy_found(tmp_path):
    root = tmp_path / "own"
    truth = np.asarray(numbered_volume().dataobj) % 6
    blank = np.full((7, 9, 5), -1000, np.int16)
    for name, array in (
        ("a", np.asarray(numbered_volume().dataobj)),
        ("b", np.asarray(numbered_volume().dataobj)),
        ("c", blank),
        ("d", blank + 1),
    ):
        save_nifti(nibabel.Nifti1Image(array, numbered_volume().affine), root / f"{name}_ct.nii.gz")
        save_nifti(labels_like(numbered_volume(), truth), root / f"{name}_seg.nii.gz")
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 20)).astype(np.int16)
    path = save_nifti(nibabel.Nifti1Image(noise, numbered_volume().affine), root / "d_ct.nii.gz")
    path.write_bytes(path.read_bytes()[:-60])
    save_nifti(labels_like(numbered_volume(), noise % 6), root / "d_seg.nii.gz")
    (root / "e_ct.nii.gz").write_bytes(b"junk")
    shutil.copy(root / "c_seg.nii.gz", root / "e_seg.nii.gz")
    cfg = rsna_config(root, tmp_path, label_map={})
    cases = layouts.scan(cfg)
    assert any("left out" in note and "e_ct.nii.gz" in note for note in cases.attrs["notes"])
    store = prepare.build(cases, cfg)
    assert sorted(set(store.cases["volume"])) == ["a_ct", "c_ct"] and len(store.cases) == 10
    problems = store.report.problems
    # b is a copy of a; the empty slices of c are no copies of each other.
    assert problems["problem"].str.contains("same content").sum() == 5
    assert problems["problem"].str.contains(r"d_ct\.nii\.gz.*cut short").sum() == 20


def test_rows_in_any_order_decode_each_volume_once(tmp_path, monkeypatch):
    root = tmp_path / "own"
    for i in range(8):
        array = np.random.default_rng(i).integers(-900, 0, (7, 9, 5)).astype(np.int16)
        save_nifti(nibabel.Nifti1Image(array, numbered_volume().affine), root / f"v{i}_ct.nii")
        labels = np.full(array.shape, i % 6)
        save_nifti(labels_like(numbered_volume(), labels), root / f"v{i}_seg.nii")
    cfg = rsna_config(root, tmp_path, label_map={})
    cases = layouts.scan(cfg).sample(frac=1, random_state=0).reset_index(drop=True)
    calls = []
    real = volumes.read
    monkeypatch.setattr(volumes, "read", lambda path, **k: calls.append(path) or real(path, **k))
    store = prepare.build(cases, cfg)
    assert len(calls) == 8 and list(store.cases["case"]) == list(cases["case"])
    for row in store.cases.itertuples():
        number = int(row.volume[1]) % 6
        assert set(np.unique(store.open()[1][row.row])) == {number, 255}  # 255: the letterbox


def test_annotated_names_what_is_known(tmp_path):
    root = tmp_path / "png"
    truth = np.array([[0, 1, 2], [3, 4, 5], [5, 1, 0]])
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (3, 3))
        write_picture(root / "images" / f"{i}_1_1.png", noise)
        write_picture(root / "labels" / f"{i}_1_1.png", truth)
    cfg = rsna_config(root, tmp_path, image_size=(9, 9))
    cases = layouts.scan(cfg)
    # None means all classes, as where tables are put together.
    cases["annotated"] = ["background,liver", "", None]
    store = prepare.build(cases, cfg)
    partly, nothing, all_classes = (labels for _, labels in truth_of(store, cfg).values())
    assert partly.tolist() == [[0, 1, 255], [255, 255, 255], [255, 1, 0]]
    assert (nothing == 255).all()
    np.testing.assert_array_equal(all_classes, truth)


def test_what_decoding_corrects_stands_in_the_report(tmp_path):
    array = np.asarray(numbered_volume().dataobj).astype(np.float32)
    array[0, 0, 0] = np.nan
    save_nifti(nibabel.Nifti1Image(array, numbered_volume().affine), tmp_path / "own" / "a_ct.nii")
    save_nifti(labels_like(numbered_volume(), np.zeros((7, 9, 5))), tmp_path / "own" / "a_seg.nii")
    cfg = rsna_config(tmp_path / "own", tmp_path)
    note = "a_ct.nii: 1 voxels are not finite numbers; set to the minimum, -999"
    assert note in prepare.build(layouts.scan(cfg), cfg).report.notes


def test_notes_on_headers_are_told_once_also_for_a_table_made_by_hand(tmp_path, stack):
    root = tmp_path / "rsna"
    write_series_and_labels(root / "x", stack)
    (root / "segmentations").mkdir()
    shutil.move(root / "x" / "seg.nii.gz", root / "segmentations" / "2.nii.gz")
    shutil.move(root / "x" / "ct", root / "train_images" / "1" / "2")
    shutil.copy(root / "train_images/1/2/0.dcm", root / "train_images/1/2/copy.dcm")
    cfg = rsna_config(root, tmp_path)
    cases = layouts.scan(cfg)
    by_hand = cases.assign(patient="another")
    by_hand.attrs = {}
    for table in (cases, by_hand):
        notes = prepare.build(table, cfg).report.notes
        assert sum("a second copy of" in note for note in notes) == 1


def test_threshold_for_two_classes(tmp_path):
    grey = np.array([[0, 20, 120], [130, 250, 255]])
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 255, (2, 3))
        write_picture(tmp_path / "t" / "images" / f"{i}_1.png", noise)
        write_picture(tmp_path / "t" / "masks" / f"{i}_1.png", grey)
    cfg = rsna_config(
        tmp_path / "t", tmp_path, class_names=("background", "spleen"), mask_encoding="threshold"
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    for _, labels in truth_of(store, cfg).values():
        np.testing.assert_array_equal(labels, grey > 127)
    cfg = rsna_config(tmp_path / "t", tmp_path, mask_encoding="threshold")
    with pytest.raises(DataError, match="tells two classes apart, and there are 6"):
        prepare.build(layouts.scan(cfg), cfg)


@pytest.mark.parametrize("place", ["of the volume", "none", "two", "volume has none"])
def test_notes_on_the_place_of_labels_reach_the_report(tmp_path, place):
    """Labels without a geometry are laid on their volume by a guess, which must be told."""
    root = tmp_path / "own"
    image = numbered_volume()
    labels = labels_like(image, np.asarray(image.dataobj) % 6)
    expected = ""
    if place == "none":
        labels = nibabel.Nifti1Image(np.asarray(labels.dataobj), None)
        expected = "a_seg.nii.gz: labels without a geometry in their header"
    elif place == "two":
        labels.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), 1)
        expected = "a_seg.nii.gz: sform and qform put its voxels up to"
    elif place == "volume has none":
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
        expected = "a_seg.nii.gz: only the labels say where their voxels lie"
    save_nifti(image, root / "a_ct.nii.gz")
    save_nifti(labels, root / "a_seg.nii.gz")
    cfg = rsna_config(root, tmp_path, label_map={})
    notes = prepare.build(layouts.scan(cfg), cfg).report.notes
    about_labels = [note for note in notes if "a_seg.nii.gz: " in note]
    assert [note.startswith(expected) for note in about_labels] == [True] * bool(expected), notes


def mri_or_ct(folder, *kinds):
    """A tree of volumes with labels; "ct" has air at -1000, "mri" no number below 0."""
    rng = np.random.default_rng(0)
    for n, kind in enumerate(kinds):
        body = np.indices((24, 24, 3))[0] % 12 > 3
        voxels = np.where(body, 60, -1000) if kind == "ct" else np.where(body, 500, 4)
        voxels = (voxels + rng.uniform(0, 4, voxels.shape)).astype(np.int16)
        image = nibabel.Nifti1Image(voxels, np.diag([-1.2, -1.2, 5, 1]))
        save_nifti(image, folder / f"image_{n}.nii.gz")
        save_nifti(labels_like(image, body), folder / f"label_{n}.nii.gz")
    return folder


def two_classes(folder, tmp_path, **changes):
    values = {"class_names": ("background", "body"), "label_map": {}, "val_split": 0, **changes}
    return config.preset(
        "rsna", "smoke", data_root=str(folder), work_dir=str(tmp_path / "work"), **values
    )


def test_mri_in_the_window_of_the_preset_is_no_training(tmp_path):
    cfg = two_classes(mri_or_ct(tmp_path / "tree", "mri", "mri", "ct"), tmp_path)
    store = prepare.build(layouts.scan(cfg), cfg)
    (question,) = store.report.undecided
    assert question.startswith("window: 2 of 3 volumes (image_0.nii.gz, image_1.nii.gz) are not CT")
    with pytest.raises(DataError, match="window_level=None, window_width=None, percentiles"):
        data.loaders(store, cfg)
    # What the message says is the way out; a window of one's own is taken as meant.
    values = {"window_level": None, "window_width": None, "percentiles": (0.5, 99.5)}
    for changes in (values, {"window_level": 300, "window_width": 600}):
        answered = cfg.replace(**changes)
        store = prepare.build(layouts.scan(answered), answered)
        assert store.report.undecided == []
        batch = next(iter(data.loaders(store, answered)["train"]))
        assert batch["image"].std() > 0.2


def test_the_command_line_says_how_to_read_mri(tmp_path, capsys):
    tree = mri_or_ct(tmp_path / "tree", "mri", "mri")
    options = ["--data_dir", tree, "--work_dir", tmp_path / "work", "--label_map", "{}"]
    message = error_of(
        capsys,
        "train --preset rsna --size smoke --class_names background,body",
        *options,
    )
    assert "2 of 2 volumes" in message
    options = message.split("on the command line: ")[1].strip()
    assert options == "--window_level none, --window_width none, --percentiles '[0.5, 99.5]'"


def test_one_odd_volume_among_ct_is_noted_only(tmp_path):
    cfg = two_classes(mri_or_ct(tmp_path / "tree", "ct", "mri", "ct"), tmp_path)
    report = prepare.build(layouts.scan(cfg), cfg).report
    assert report.undecided == []
    assert any(note.startswith("image_1.nii.gz: not in Hounsfield") for note in report.notes)


def test_a_dicom_series_of_mri_is_asked_about(tmp_path, stack):
    root = tmp_path / "tree"
    write_series_and_labels(root, stack)
    for path in (root / "ct").iterdir():
        edit_dicom(path, Modality="MR", RescaleIntercept=0)
    cfg = two_classes(root, tmp_path, class_names=tuple("012345"))
    (question,) = prepare.build(layouts.scan(cfg), cfg).report.undecided
    assert "1 of 1 volumes (ct) are not CT" in question
