"""Trees of volumes: which files form a case, in which order, with which labels."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from seglib import config, data, layouts, phantoms, plots, prepare
from seglib.errors import DataError
from seglib.formats import volumes
from seglib.layouts import folders
from seglib.layouts import volumes as volume_layouts
from tests.helpers import (
    displayed,
    edit_dicom,
    labels_like,
    numbered_volume,
    rsna_config,
    save_nifti,
    truth_of,
    write_organs,
    write_picture,
    write_series,
    write_series_and_labels,
)

CLASSES = ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel")
TABLE = {"255,0,255": 1, "255,255,0": 2, "0,255,255": 3}


def test_dicom_tree(tmp_path, stack):
    root, truths = tmp_path / "rsna", {}
    for i, (person, series) in enumerate([("100", "7"), ("100", "8"), ("200", "9")]):
        voxels = np.roll(stack, i, axis=2)
        truths[f"{person}_{series}"] = write_series_and_labels(root / "x", voxels)
        shutil.move(root / "x" / "ct", root / "train_images" / person / series)
        (root / "segmentations").mkdir(exist_ok=True)
        shutil.move(root / "x" / "seg.nii.gz", root / "segmentations" / f"{series}.nii.gz")
    write_series(root / "train_images" / "300" / "11", stack)
    shutil.copy(root / "segmentations" / "7.nii.gz", root / "segmentations" / "77.nii.gz")
    cfg = rsna_config(root, tmp_path)
    cases = layouts.scan(cfg)
    assert len(cases) == 15
    assert list(cases["case"].iloc[[0, -1]]) == ["100_7_000", "200_9_004"]
    assert sorted(set(cases["patient"])) == ["100", "200"] and (cases["split"] == "").all()
    assert list(cases["slice"][:6]) == [0, 1, 2, 3, 4, 0]
    assert (cases[["height", "width"]].iloc[0] == [8, 6]).all()
    spacing = cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]].iloc[0].tolist()
    assert spacing == pytest.approx([2.5, 0.5, 0.7])
    notes = "\n".join(cases.attrs["notes"])
    assert "segmentations/77.nii.gz: labels without a volume" in notes
    assert "300/11: volume without labels" in notes
    assert "taken as class numbers" in notes and (cases["label_numbers"] == "class").all()
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 15 and store.report.problems.empty
    for case, (image, labels) in truth_of(store, cfg).items():
        volume, k = case.rsplit("_", 1)
        np.testing.assert_array_equal(labels, truths[volume][int(k)])
        assert image.shape == (8, 6, 3) and image.dtype == np.uint8
    # The two series of patient 100 stay together.
    assert store.cases.groupby("patient")["split"].nunique().tolist() == [1, 1]


@pytest.mark.parametrize("masks", ["labels", "masks"])
def test_png_tree(tmp_path, masks):
    root, rng = tmp_path / "png", np.random.default_rng(0)
    for name in ("100_7_12", "100_7_13", "200_9_3", "300_5_1"):
        write_picture(root / "images" / f"{name}.png", rng.integers(0, 255, (20, 24)))
        write_picture(root / masks / f"{name}.png", rng.integers(0, 6, (20, 24)))
    cfg = rsna_config(root, tmp_path, image_size=(20, 24), augment={})
    cases = layouts.scan(cfg)
    assert list(cases["case"]) == ["100_7_012", "100_7_013", "200_9_003", "300_5_001"]
    assert list(cases["patient"]) == ["100", "100", "200", "300"]
    assert list(cases["volume"]) == ["100_7", "100_7", "200_9", "300_5"]
    assert list(cases["slice"]) == [12, 13, 3, 1]
    # They are not the numbers of TotalSegmentator, where 1 is the spleen.
    assert (cases["label_numbers"] == "class").all()
    store = prepare.build(cases, cfg)
    _, stored = store.open()
    for row in store.cases.itertuples():
        np.testing.assert_array_equal(stored[row.row][..., 0], np.array(Image.open(row.labels)))


def test_numbers_of_totalsegmentator_are_translated(tmp_path):
    root = tmp_path / "png"
    for name, numbers in (("1_1_1", [0, 5, 1, 3]), ("2_1_1", [2, 18, 20, 90])):
        noise = np.random.default_rng(0).integers(0, 9, (4, 4))
        write_picture(root / "images" / f"{name}.png", noise + int(name[0]))
        write_picture(root / "labels" / f"{name}.png", np.repeat([numbers], 4, axis=0))

    def first_rows(cfg):
        store = prepare.build(layouts.scan(cfg), cfg)
        return [labels[0].tolist() for _, labels in truth_of(store, cfg).values()]

    assert first_rows(rsna_config(root, tmp_path)) == [[0, 1, 2, 3], [4, 5, 5, 0]]
    # A table of one's own is always applied.
    own = rsna_config(root, tmp_path, label_map={"5": 1, "90": 2})
    assert "label_numbers" not in layouts.scan(own)
    assert first_rows(own) == [[0, 1, 0, 0], [0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("name", "volume", "person", "number"),
    [
        ("10004_21057_0007", "10004_21057", "10004", 7),
        ("10002_425", "10002", "10002", 425),
        ("10019_spleen_3", "spleen_3", "spleen_3", 10019),
        ("patient_012_44", "patient_012", "patient_012", 44),
        ("case01_ct2_5", "case01_ct2", "case01", 5),
        ("liver", "", "liver", ""),
    ],
)
def test_names_of_slices(tmp_path, name, volume, person, number):
    for folder in ("images", "labels"):
        write_picture(tmp_path / folder / f"{name}.png", np.zeros((4, 4)))
    row = folders.scan_slices(tmp_path, rsna_config(tmp_path, tmp_path)).iloc[0]
    assert (row["volume"], row["patient"], row["slice"]) == (volume, person, number)
    assert row["case"] == (f"{volume}_{number:03d}" if volume else name)


def test_totalsegmentator_tree_with_a_missing_organ(tmp_path):
    root = tmp_path / "ts"
    truth = (np.asarray(numbered_volume().dataobj) % 6).astype(np.uint8)
    for i, name in enumerate(("s0001", "s0002", "s0003")):
        voxels = np.asarray(numbered_volume().dataobj) + i
        save_nifti(nibabel.Nifti1Image(voxels, numbered_volume().affine), root / name / "ct.nii.gz")
        leave_out = ["spleen", "duodenum"] if name == "s0002" else []
        write_organs(root / name / "segmentations", numbered_volume(), truth, leave_out)
    cfg = rsna_config(root, tmp_path)
    cases = layouts.scan(cfg)
    assert len(cases) == 15 and sorted(set(cases["volume"])) == ["s0001", "s0002", "s0003"]
    assert (cases["patient"] == cases["volume"]).all()
    annotated = cases.groupby("volume")["annotated"].first()
    assert annotated["s0001"] == ",".join(CLASSES)
    assert annotated["s0002"] == "liver,left_kidney,right_kidney"
    store = prepare.build(cases, cfg)
    for case, (_, labels) in truth_of(store, cfg).items():
        expected = displayed(truth)[int(case[-3:])]
        if case.startswith("s0002"):  # nothing else is known: it may be spleen, bowel or background
            expected = np.where(np.isin(expected, (1, 3, 4)), expected, 255)
        np.testing.assert_array_equal(labels, expected)
    row = store.cases[store.cases["volume"] == "s0002"].iloc[0]
    assert prepare.read_truth(row, cfg, {}, (9, 7))[1] == [False, True, False, True, True, False]


def test_pairs_by_name_and_by_grid(tmp_path):
    root = tmp_path / "own"
    image, zeros = numbered_volume(), np.zeros((7, 9, 5))
    short = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., :3], image.affine)
    for name in ("a_ct.nii.gz", "b.nii", "c_ct_arterial.nii", "d_ct.nii"):
        save_nifti(image, root / name)
    for name in ("a_seg.nii.gz", "b_seg.nii.gz", "c_seg_arterial.nii", "e_seg.nii"):
        save_nifti(labels_like(image, zeros), root / name)
    save_nifti(short, root / "d_ct_low.nii")
    save_nifti(labels_like(short, zeros[..., :3]), root / "d_seg.nii")
    cases = volume_layouts.scan_ct_seg(root, rsna_config(root, tmp_path))
    pairs = {(Path(r.image).name, Path(r.labels).name, r.patient) for r in cases.itertuples()}
    assert pairs == {
        ("a_ct.nii.gz", "a_seg.nii.gz", "a"),
        ("b.nii", "b_seg.nii.gz", "b"),
        ("d_ct_low.nii", "d_seg.nii", "d"),
        ("c_ct_arterial.nii", "c_seg_arterial.nii", "c"),
    }
    notes = "\n".join(cases.attrs["notes"])
    assert "d_seg.nii: paired with d_ct_low.nii" in notes
    assert "own/e_seg.nii: labels without a volume" in notes
    assert "own/d_ct.nii: volume without labels" in notes


def test_nifti_in_images_and_labels(tmp_path):
    truth = np.asarray(numbered_volume().dataobj) % 6
    for name in ("p1_0000.nii.gz", "p2.nii.gz"):
        save_nifti(numbered_volume(), tmp_path / "t" / "images" / name)
    save_nifti(labels_like(numbered_volume(), truth), tmp_path / "t" / "labels" / "p1.nii.gz")
    cfg = rsna_config(tmp_path / "t", tmp_path, label_map={})
    cases = layouts.scan(cfg)
    assert len(cases) == 5 and "images/p2.nii.gz: volume without labels" in cases.attrs["notes"]
    for case, (_, labels) in truth_of(prepare.build(cases, cfg), cfg).items():
        np.testing.assert_array_equal(labels, displayed(truth)[int(case[-3:])])


def test_trees_that_are_none(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"(?s)rsna: no data found.*train_images.*: a/"):
        layouts.scan(rsna_config(tmp_path, tmp_path))
    with pytest.raises(DataError, match=r"(?s)cardiac: no data found.*patient.*: a/"):
        layouts.scan(config.preset("cardiac", "smoke", data_root=str(tmp_path)))
    for folder in ("a/images", "b/images", "a/labels", "b/labels"):
        write_picture(tmp_path / folder / "1_2.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"1_2\.png: the same case '1_002'"):
        folders.scan_slices(tmp_path, rsna_config(tmp_path, tmp_path))


def write_heart(root, name, frame, seed=0, spacing=(1.5, 1.5, 9.0)):
    """A frame of a patient of ACDC with its labels; returns these."""
    affine = nibabel.affines.from_matvec(np.diag(spacing) * [-1, -1, 1], (1, 2, 3))
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 900, (12, 10, 4)).astype(np.int16)
    save_nifti(nibabel.Nifti1Image(voxels, affine), root / name / f"{name}_{frame}.nii.gz")
    truth = rng.integers(0, 4, (12, 10, 4)).astype(np.uint8)
    save_nifti(nibabel.Nifti1Image(truth, affine), root / name / f"{name}_{frame}_gt.nii.gz")
    return truth


def test_acdc_tree(tmp_path):
    truths = {}
    parts = {"patient001": "training", "patient002": "training", "patient101": "testing"}
    cine = nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4))
    for name, part in parts.items():
        root = tmp_path / "acdc" / part
        for frame in ("frame01", "frame12"):
            truths[f"{name}_{frame}"] = write_heart(root, name, frame, seed=len(truths))
        if name != "patient002":
            (root / name / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\n")
        save_nifti(cine, root / name / f"{name}_4d.nii.gz")
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tmp_path / "acdc"), work_dir=str(tmp_path / "work")
    )
    cases = layouts.scan(cfg)
    assert len(cases) == 24 and list(cases["slice"][:5]) == [0, 1, 2, 3, 0]
    assert cases.groupby("volume")["phase"].first().tolist() == ["ED", "ES", "", "", "ED", "ES"]
    assert cases.groupby("patient")["split"].first().tolist() == ["train", "train", "test"]
    spacing = cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]].iloc[0]
    assert spacing.tolist() == [9.0, 1.5, 1.5]
    store = prepare.build(cases, cfg)
    for case, (image, labels) in truth_of(store, cfg).items():
        volume, k = case.rsplit("_", 1)
        np.testing.assert_array_equal(labels, truths[volume][:, :, int(k)].T)
        assert image.shape == (10, 12, 1)
    whole = volumes.read(cases["image"][0], canonical=False).voxels
    low, high = np.percentile(whole, cfg.percentiles)
    expected = np.rint(np.clip((whole[2] - low) / (high - low), 0, 1) * 255)
    image = truth_of(store, cfg)["patient001_frame01_002"][0][..., 0]
    assert np.abs(image - expected).max() <= 1
    shutil.rmtree(tmp_path / "acdc" / "testing")
    assert (layouts.scan(cfg)["split"] == "").all()


def test_generic_tree_of_the_cardiac_system(tmp_path):
    for part, names in (("train", ["patient001_1", "patient001_2", "x"]), ("val", ["y"])):
        for i, name in enumerate(names):
            noise = np.random.default_rng(10 * len(part) + i).integers(0, 99, (6, 6))
            labels = np.arange(36).reshape(6, 6) % 4
            write_picture(tmp_path / part / "images" / f"{name}.png", noise)
            write_picture(tmp_path / part / "masks" / f"{name}_mask.png", labels)
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tmp_path), work_dir=str(tmp_path / "work")
    )
    cases = layouts.scan(cfg)
    assert list(cases["patient"]) == ["patient001", "patient001", "x", "y"]
    assert list(cases["split"]) == ["train", "train", "train", "val"]
    assert (cases["volume"] == "").all() and (cases["slice"] == "").all()
    assert len(prepare.build(cases, cfg).cases) == 4
    shutil.copy(tmp_path / "train" / "images" / "x.png", tmp_path / "val" / "images" / "x.png")
    assert set(layouts.scan(cfg)["case"]) >= {"train_x", "val_x"}


# ---- files that are links into a store by content


def move_into_store(tree, blobs, absolute=False):
    """Move every file to a name by its content, without suffix, and leave a link to it."""
    blobs.mkdir()
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.move(path, blob)
        path.symlink_to(blob if absolute else os.path.relpath(blob, path.parent))


def stored_pixels(cfg):
    store = prepare.build(layouts.scan(cfg), cfg)
    assert not store.report.set_aside
    return [np.asarray(array) for array in store.open()]


@pytest.mark.parametrize(
    ("preset", "absolute"),
    [("cardiac", True), ("cardiac", False), ("rsna", False), ("lung", True), ("binary", False)],
)
def test_files_may_be_links_into_a_store(tmp_path, preset, absolute):
    tree = phantoms.write(preset, tmp_path / "tree", n=2)
    changes = {"encoder_weights": "none"} if preset == "rsna" else {}
    cfg = config.preset(
        preset, "smoke", data_root=str(tree), work_dir=str(tmp_path / "before"), **changes
    )
    cases, expected = layouts.scan(cfg), stored_pixels(cfg)
    move_into_store(tree, tmp_path / "blobs", absolute)
    cfg = cfg.replace(work_dir=str(tmp_path / "after"))
    linked = layouts.scan(cfg)
    assert linked.equals(cases)  # the paths are those of the links
    for before, after in zip(expected, stored_pixels(cfg)):
        np.testing.assert_array_equal(before, after)


def test_folders_may_be_links(tmp_path):
    """The folder of a DICOM series, of a patient, and of the whole tree."""
    tree = phantoms.write("rsna", tmp_path / "tree", n=2)
    heart = phantoms.write("cardiac", tmp_path / "heart", n=2)
    changes = {"work_dir": str(tmp_path / "work")}
    ct = config.preset("rsna", "smoke", data_root=str(tree), encoder_weights="none", **changes)
    mri = config.preset("cardiac", "smoke", data_root=str(heart), **changes)
    expected = layouts.scan(ct), layouts.scan(mri)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    series = sorted(path for path in (tree / "train_images").glob("*/*") if path.is_dir())
    patients = sorted(path for path in heart.rglob("patient*") if path.is_dir())
    for i, folder in enumerate([*series, *patients]):
        shutil.move(folder, elsewhere / str(i))
        folder.symlink_to(elsewhere / str(i), target_is_directory=True)
    for cfg, table in zip((ct, mri), expected):
        assert layouts.scan(cfg).equals(table)
        assert not prepare.build(table, cfg).report.set_aside
    whole = tmp_path / "whole"
    whole.symlink_to(heart, target_is_directory=True)
    linked = layouts.scan(mri.replace(data_root=str(whole)))
    assert linked["case"].tolist() == expected[1]["case"].tolist()


def test_links_to_nothing_are_set_aside_by_name(tmp_path):
    tree = phantoms.write("cardiac", tmp_path / "tree", n=3)
    move_into_store(tree, tmp_path / "blobs")
    image, *_, labels = sorted(tree.rglob("*_frame*.nii.gz"))
    for link in (image, labels):
        os.unlink(os.path.realpath(link))
    cfg = config.preset("cardiac", "smoke", data_root=str(tree), work_dir=str(tmp_path))
    problems = prepare.build(layouts.scan(cfg), cfg).report.problems
    for link in (image, labels):
        text = "\n".join(problems["problem"])
        assert f"{link}: a link to " in text and "fetch the data" in text
    assert "copy it again" not in text


def test_notes_of_one_text_are_one_note(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((12, 10, 4), np.uint8), np.eye(4))
    for i in range(5):
        for part in ("", "_gt"):
            name = f"patient00{i}"
            save_nifti(image, tmp_path / name / f"{name}_frame01{part}.nii.gz")
    cfg = config.preset("cardiac", "smoke", data_root=str(tmp_path))
    notes = [note for note in layouts.scan(cfg).attrs["notes"] if "orientation unknown" in note]
    (note,) = notes
    assert note.startswith("patient000_frame01, patient001_frame01, patient002_frame01 and 2 more:")


def test_real_ct_to_store(ct, tmp_path):
    cfg = config.preset("rsna", "smoke", data_root=str(ct), work_dir=str(tmp_path))
    cases = layouts.scan(cfg)
    assert cases["volume"].value_counts().to_dict() == {
        "example_ct": 112,
        "example_ct_sm": 30,
        "example_ct_dicom": 20,
    }
    assert "annotated" not in cases
    # The tool itself wrote the names of its 117 numbers into the headers.
    cells = cases.groupby("volume")["label_numbers"].first()
    assert cells["example_ct"] == ""  # a mask file an organ
    for name in ("example_ct_sm", "example_ct_dicom"):
        table = json.loads(cells[name])
        assert len(table) == 118
        assert {int(number): label for number, label in table.items() if label} == {
            5: 1,
            1: 2,
            3: 3,
            2: 4,
            18: 5,
            19: 5,
            20: 5,
        }
    pair = cases.groupby("volume")["labels"].first().map(lambda p: Path(p).name).to_dict()
    assert pair == {
        "example_ct": "example_seg",
        "example_ct_sm": "example_seg.nii.gz",
        "example_ct_dicom": "example_seg_dicom.nii.gz",
    }
    store = prepare.build(cases, cfg)
    # The small volume is a part of the large one, byte for byte: its slices would leak.
    copies = cases.loc[cases["volume"] == "example_ct_sm", "case"]
    assert sorted(store.report.set_aside) == sorted(copies)
    images, masks = store.open()
    whole = store.cases[store.cases["volume"] == "example_ct"]
    counts = np.bincount(masks[whole["row"]].ravel(), minlength=256)
    assert counts[1] > counts[2] > counts[3:5].min() > 0 and counts[5] > 0
    assert counts[255] > 0  # the letterbox
    assert images[whole["row"]].min() == 0 and images[whole["row"]].max() == 255


# ---- DICOM series whose labels are DICOM series too


def plant_series(root, voxels, truth, name="case_1", **tags):
    """img/*.dcm with msk/*.dcm of the same names; `tags` are those of the masks."""
    write_series(root / "img", voxels, name=f"{name}_slice{{:04d}}.dcm")
    values = {"RescaleIntercept": 0, **tags}
    write_series(root / "msk", truth, name=f"{name}_slice{{:04d}}.dcm", **values)
    return root


@pytest.mark.parametrize("preset", ["rsna", "cardiac"])
@pytest.mark.parametrize(
    ("change", "tags"),
    [
        (0, {}),
        (0, {"PixelPaddingValue": 0, "WindowCenter": 3, "WindowWidth": 2}),
        (1024, {"RescaleIntercept": -1024}),  # written as values of CT
        (0, {"RescaleIntercept": -1024}),  # the header of the image, copied
        (0, {"PhotometricInterpretation": "MONOCHROME1", "Modality": "SEG"}),
        (0, {"InstanceNumber": lambda k: 9 - k}),
    ],
    ids=["plain", "padding", "as CT", "copied header", "inverted display", "other numbers"],
)
def test_masks_in_dicom_are_labels_and_never_windowed(tmp_path, stack, preset, change, tags):
    truth = stack % 6
    root = plant_series(tmp_path / "data" / "train", stack, truth + change, **tags)
    cfg = config.preset(
        preset,
        "smoke",
        data_root=str(root.parent),
        work_dir=str(tmp_path / "work"),
        class_names=CLASSES,
        label_map={},
    )
    cases = layouts.scan(cfg)
    assert list(cases["case"]) == [f"case_1_{k:03d}" for k in range(5)]
    assert set(cases["split"]) == {"train"} and set(cases["patient"]) == {"case_1"}
    assert (cases["spacing_slice_mm"] == 2.5).all()
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 5 and store.report.problems.empty
    for k, (image, labels) in enumerate(truth_of(store, cfg).values()):
        np.testing.assert_array_equal(labels, truth[k])
        assert image.shape[:2] == labels.shape


def test_masks_in_dicom_lie_by_their_position_and_not_by_their_names(tmp_path, stack):
    """The image is stored upside down and from the head; the masks are stored the usual way."""
    root, truth = tmp_path / "data", stack % 6
    height = stack.shape[1]
    write_series(
        root / "img",
        stack[:, ::-1],
        name="a{}.dcm",
        ImageOrientationPatient=[1, 0, 0, 0, -1, 0],
        ImagePositionPatient=lambda k: [-20, -30 + 0.5 * (height - 1), 10 + 2.5 * k],
    )
    write_series(root / "msk", truth[::-1], name="b{}.dcm", RescaleIntercept=0)
    for path in (root / "msk").iterdir():
        k = len(stack) - 1 - int(path.stem[1:])
        edit_dicom(path, ImagePositionPatient=[-20, -30, 10 + 2.5 * k])
    cfg = rsna_config(root, tmp_path, label_map={})
    store = prepare.build(layouts.scan(cfg), cfg)
    for k, (_, labels) in enumerate(truth_of(store, cfg).values()):
        np.testing.assert_array_equal(labels, truth[k])


def test_a_folder_for_each_series_with_dicom_or_nifti_labels(tmp_path, stack):
    root, truths = tmp_path / "data", {}
    for i, name in enumerate(("p1", "p2")):
        truths[name] = write_series_and_labels(root / name, np.roll(stack, i, axis=2))
        shutil.move(root / name / "ct", root / "images" / name)
        (root / "labels").mkdir(exist_ok=True)
        shutil.move(root / name / "seg.nii.gz", root / "labels" / f"{name}.nii.gz")
    third = np.roll(stack, 2, axis=2)
    truths["p3"] = third % 6
    write_series(root / "images" / "p3", third)
    write_series(root / "labels" / "p3", truths["p3"], RescaleIntercept=0)
    cfg = rsna_config(root, tmp_path, class_names=CLASSES, label_map={})
    store = prepare.build(layouts.scan(cfg), cfg)
    assert sorted(set(store.cases["patient"])) == ["p1", "p2", "p3"]
    assert store.report.problems.empty
    for case, (_, labels) in truth_of(store, cfg).items():
        np.testing.assert_array_equal(labels, truths[case[:2]][int(case[-3:])])


def test_series_of_one_patient_by_their_id_stay_together(tmp_path, stack):
    root = tmp_path / "data"
    for name, person in (("1.2.840.1", "A"), ("1.2.840.2", "A"), ("1.2.840.3", "B")):
        write_series(root / "img" / name, stack, PatientID=person)
        write_series(root / "msk" / name, stack % 6, PatientID=person, RescaleIntercept=0)
    cases = layouts.scan(rsna_config(root, tmp_path, label_map={}))
    assert sorted(set(zip(cases["volume"], cases["patient"]))) == [
        ("1.2.840.1", "A"),
        ("1.2.840.2", "A"),
        ("1.2.840.3", "B"),
    ]


def test_bad_masks_in_dicom_are_named(tmp_path, stack):
    def problem(root):
        cfg = rsna_config(root, tmp_path, label_map={})
        with pytest.raises(DataError) as error:
            prepare.build(layouts.scan(cfg), cfg)
        return str(error.value)

    fewer = plant_series(tmp_path / "fewer", stack, stack % 6)
    (fewer / "msk" / "case_1_slice0004.dcm").unlink()
    assert "labels of 4x8x6" in problem(fewer) and "make both on one grid" in problem(fewer)
    beside = plant_series(
        tmp_path / "beside",
        stack,
        stack % 6,
        ImagePositionPatient=lambda k: [-9, -30, 10 + 2.5 * k],
    )
    assert "voxels beside its volume" in problem(beside)
    unplaced = plant_series(tmp_path / "unplaced", stack, stack % 6)
    for path in (unplaced / "msk").iterdir():
        edit_dicom(path, ImagePositionPatient=None)
    assert "a DICOM series cannot be matched without it" in problem(unplaced)
    two = plant_series(tmp_path / "two", stack, stack % 6)
    plant_series(two, stack, stack % 6, name="case_2")
    assert "2 series" in problem(two) and "give each its folder" in problem(two)


def slice_position(path):
    return pydicom.dcmread(path).ImagePositionPatient[2]


AMOS = {"1": 2, "2": 4, "3": 3, "6": 1, "13": 5}


@pytest.mark.parametrize("labels", ["dicom", "nifti"])
def test_real_amos_from_dicom_to_overlay(real, tmp_path, labels):
    root = real("amos_ct")
    if labels == "nifti":  # as RSNA 2023 lays its data out
        series = tmp_path / "rsna" / "train_images" / "1" / "amos_0001"
        series.parent.mkdir(parents=True)
        series.symlink_to(root / "data" / "train" / "img", target_is_directory=True)
        (tmp_path / "rsna" / "segmentations").symlink_to(root / "segmentations")
        root = tmp_path / "rsna"
    cfg = config.preset(
        "rsna",
        "smoke",
        data_root=str(root),
        work_dir=str(tmp_path / "work"),
        label_map=AMOS,
        image_size=192,
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    assert len(store.cases) == 11 and store.report.problems.empty and not store.report.undecided
    folder = real("amos_ct") / "data" / "train"
    files = sorted((folder / "img").iterdir(), key=slice_position)
    for path, (image, truth) in zip(files, truth_of(store, cfg).values()):
        slice_file, mask = pydicom.dcmread(path), pydicom.dcmread(folder / "msk" / path.name)
        # Rows are stored from the back to the front, and shown with the front at the top.
        numbers = mask.pixel_array[::-1]
        expected = sum(label * (numbers == int(number)) for number, label in AMOS.items())
        np.testing.assert_array_equal(truth, expected)
        grey = np.clip((slice_file.pixel_array[::-1] + 150) / 400, 0, 1) * 255
        assert np.abs(image[..., 0] - grey).max() <= 0.5
    check_sides(store, slice_file, mask)


def check_sides(store, slice_file, mask):
    """Left and right of the patient, by the DICOM geometry and in the overlay."""
    # DICOM counts x to the patient's left. The number of the right kidney is 2, of the left one 3.
    step = slice_file.ImageOrientationPatient[0] * slice_file.PixelSpacing[1]
    x_mm = {n: np.argwhere(mask.pixel_array == n)[:, 1].mean() * step for n in (2, 3)}
    assert x_mm[2] < x_mm[3]
    pictures, masks = store.open()
    picture, labels = pictures[-1], masks[-1, ..., 0]
    shown = plots.overlay(picture, labels)
    assert ((shown != picture).any(axis=-1) <= np.isin(labels, range(1, 6))).all()
    centres = {k: np.argwhere(labels == k).mean(axis=0) for k in (1, 2, 3, 4)}
    liver, spleen, left_kidney, right_kidney = centres.values()
    assert right_kidney[1] < 96 < left_kidney[1], "the patient's right is at the image's left"
    assert liver[1] < 96 < spleen[1]
    bone = np.argwhere(picture[..., 0] == 255).mean(axis=0)
    assert bone[0] > liver[0], "the spine is below the liver"


def curvas_config(real, tmp_path):
    return config.preset(
        "rsna",
        "smoke",
        data_root=str(real("curvas_ct")),
        work_dir=str(tmp_path),
        mask_encoding=TABLE,
        class_names=("background", "liver", "kidney", "pancreas"),
    )


def test_real_curvas(real, tmp_path):
    cfg = curvas_config(real, tmp_path)
    cases = layouts.scan(cfg)
    assert len(cases) == 74 and cases["patient"].str.fullmatch(r"1\d{4}").all()
    annotators = cases["image"].str.extract(r"(annotation_\d)")[0]
    assert annotators.value_counts().sort_index().tolist() == [26, 24, 24]
    # Slices of three annotators, of the same ten patients: each stays in one part.
    assert (
        cases["patient"].nunique() == 10
        and annotators.groupby(cases["patient"]).nunique().max() > 1
    )
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 74 and store.report.problems.empty
    row = store.cases.iloc[5]
    colours = np.array(Image.open(row["labels"]).convert("RGB"))
    truth = prepare.read_truth(row, cfg, {}, (512, 512))[0][..., 0]
    for colour, number in TABLE.items():
        painted = (colours == [int(part) for part in colour.split(",")]).all(axis=-1)
        np.testing.assert_array_equal(truth == number, painted)
    assert store.cases.groupby("patient")["split"].nunique().max() == 1


def test_real_curvas_with_an_annotator_of_one_organ_only(real, tmp_path):
    cfg = curvas_config(real, tmp_path)
    cases = layouts.scan(cfg)
    is_third = cases["image"].str.contains("annotation_3")
    cases["annotated"] = np.where(is_third, "liver", ",".join(cfg.class_names))
    store = prepare.build(cases, cfg)
    _, masks = store.open()
    third = store.cases["image"].str.contains("annotation_3")
    assert set(np.unique(masks[store.cases.loc[third, "row"]])) == {1, 255}
    assert set(np.unique(masks[store.cases.loc[~third, "row"]])) == {0, 1, 2, 3}
    batches = data.loaders(store, cfg.replace(batch_size=74, augment={}))["train"]
    batch = next(iter(batches))
    in_third = store.cases[store.cases["split"] == "train"].reset_index(drop=True)
    liver_only = batch["annotated"].numpy().sum(axis=1) == 1
    assert liver_only.sum() == in_third["image"].str.contains("annotation_3").sum() > 0


def test_real_spleen(real, tmp_path):
    cfg = config.preset(
        "rsna",
        "smoke",
        data_root=str(real("msd_spleen_ct")),
        work_dir=str(tmp_path),
        mask_encoding="threshold",
        class_names=("background", "spleen"),
    )
    cases = layouts.scan(cfg)
    assert len(cases) == 13 and cases.loc[cases["slice"] == 10003, "volume"].item() == "spleen_26"
    store = prepare.build(cases, cfg)
    assert set(np.unique(store.open()[1])) == {0, 1}
    assert store.report.facts["share labels"].between(0.001, 0.05).all()


def test_real_acdc(real, tmp_path):
    cfg = config.preset("cardiac", "smoke", data_root=str(real("acdc")), work_dir=str(tmp_path))
    cases = layouts.scan(cfg)
    assert cases["patient"].nunique() == 50 and cases["volume"].nunique() == 100
    sizes = [nibabel.load(path).shape[2] for path in cases.groupby("volume")["image"].first()]
    assert len(cases) == sum(sizes)
    first = cases["volume"].str.endswith("frame01").groupby(cases["patient"]).any()
    # The one whose end diastole is not its first frame.
    assert first[~first].index.tolist() == ["patient090"]
    # The published copy has lost its spacing.
    spacing = cases[["spacing_slice_mm", "spacing_row_mm", "spacing_col_mm"]]
    assert (spacing == "").all(axis=None)
    four = cases[cases["patient"].isin(sorted(set(cases["patient"]))[:4])]
    store = prepare.build(four, cfg)
    assert len(store.cases) == len(four) and store.report.problems.empty
    assert set(np.unique(store.open()[1])) <= {0, 1, 2, 3, 255}
    row = store.cases.iloc[3]
    gt = np.asarray(nibabel.load(row["labels"]).dataobj)[:, :, row["slice"]].T
    np.testing.assert_array_equal(prepare.read_truth(row, cfg, {}, gt.shape)[0][..., 0], gt)
