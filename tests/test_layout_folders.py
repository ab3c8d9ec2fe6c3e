"""Folders of images and masks: pairs by name, parts of the split, names that are refused."""

import nibabel
import numpy as np
import pytest

from seglib import config, layouts, prepare
from seglib.errors import DataError
from tests.helpers import (
    binary_config,
    file_names,
    labels_like,
    notes_of,
    numbered_volume,
    plant_pictures,
    rsna_config,
    save_nifti,
    truth_of,
)


def test_suffixes_in_capitals(tmp_path):
    plant_pictures(
        tmp_path,
        "images/a.PNG",
        "images/b.JPG",
        "images/c.Tiff",
        "masks/a.png",
        "masks/b.PNG",
        "masks/c.GIF",
    )
    cases = layouts.scan(binary_config(tmp_path))
    assert list(cases["case"]) == ["a", "b", "c"]
    assert (cases["structure"] != "").all()


def test_an_images_folder_without_pictures(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text("nothing yet")
    with pytest.raises(DataError, match=r"no image found.*\.png"):
        layouts.scan(binary_config(tmp_path))


def test_two_files_of_one_stem_are_refused(tmp_path):
    plant_pictures(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    with pytest.raises(DataError, match=r"a\.png: a\.jpg has the same name"):
        layouts.scan(binary_config(tmp_path))


def test_the_separator_of_unions_in_a_name_is_refused(tmp_path):
    plant_pictures(tmp_path, "images/a|b.png", "masks/a|b.png")
    with pytest.raises(DataError, match=r"a\|b\.png.*rename"):
        layouts.scan(binary_config(tmp_path))


@pytest.mark.parametrize("suffix", ["", "_mask", "_segmentation", "_masks", "_seg", "-mask"])
@pytest.mark.parametrize("kind", ["png", "gif", "tif", "bmp"])
def test_masks_match_by_stem_and_suffix(tmp_path, suffix, kind):
    plant_pictures(
        tmp_path,
        "images/a 1.jpg",
        "images/b.jpg",
        f"masks/a 1{suffix}.{kind}",
        f"masks/b{suffix}.{kind}",
    )
    cases = layouts.scan(binary_config(tmp_path))
    assert [file_names(cell) for cell in cases["structure"]] == [
        [f"masks/a 1{suffix}.{kind}"],
        [f"masks/b{suffix}.{kind}"],
    ]
    assert list(cases["case"]) == list(cases["patient"]) == ["a 1", "b"]
    assert cases.attrs["notes"] == []


def test_an_image_without_a_mask_stays_in_the_table(tmp_path):
    plant_pictures(tmp_path, "images/a.png", "images/b.png", "masks/b.png", "masks/c.png")
    cases = layouts.scan(binary_config(tmp_path))
    assert [file_names(cell) for cell in cases["structure"]] == [[], ["masks/b.png"]]
    assert cases.attrs["notes"] == [
        "images/a.png: image without a mask",
        "masks/c.png: mask without an image",
    ]


def test_train_val_test(tmp_path):
    for part, stem in (("train", "a"), ("Validation", "b"), ("test", "c"), ("other", "d")):
        plant_pictures(tmp_path, f"{part}/images/{stem}.png", f"{part}/masks/{stem}_mask.png")
    cases = layouts.scan(binary_config(tmp_path))
    assert dict(zip(cases["case"], cases["split"])) == {"a": "train", "b": "val", "c": "test"}


def test_parts_that_number_their_cases_alike(tmp_path):
    for part in ("train", "val", "test"):
        plant_pictures(tmp_path, f"{part}/images/1.png", f"{part}/masks/1.png")
    cases = layouts.scan(binary_config(tmp_path))
    assert sorted(cases["split"]) == ["test", "train", "val"]
    assert cases["case"].is_unique, "prepare.build refuses names that occur twice"
    assert cases["patient"].is_unique, "these are three images, not three of one patient"


def test_real_busi_and_spleen(real):
    for name, n in (("busi", 22), ("msd_spleen_ct", 13)):
        cases = layouts.scan(binary_config(real(name)))
        assert len(cases) == n
        assert (cases["structure"] != "").all()
        assert cases.attrs["notes"] == []


def test_one_of_many_folders_of_an_image_each_is_told_to_be_united(tmp_path):
    for name in ("3f", "a1"):
        plant_pictures(tmp_path / name, f"images/{name}.png", "masks/n1.png", "masks/n2.png")
    with pytest.raises(DataError, match=rf"one of 2 folders.*--source_images {tmp_path} --output"):
        layouts.scan(binary_config(tmp_path))


# ---- volumes and labels whose names differ in a word

ORGANS = ("background", "liver", "right_kidney", "left_kidney", "spleen")


def plant_volumes(root, *names):
    """Volumes and labels of one small grid: labels where a name has one of their words."""
    volume = numbered_volume()
    for name in names:
        is_label = any(word in name.lower() for word in ("label", "mask", "seg", "gt"))
        numbers = np.arange(volume.shape[0]).reshape(-1, 1, 1) % 5
        image = labels_like(volume, np.broadcast_to(numbers, volume.shape)) if is_label else volume
        save_nifti(image, root / f"{name}.nii.gz")
    return root


def organs_config(root, tmp_path, **changes):
    return rsna_config(root, tmp_path, class_names=ORGANS, label_map={}, **changes)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("image_{}", "label_{}"),
        ("image_{}", "mask_{}"),
        ("img_000{}", "seg_000{}"),
        ("img000{}", "label000{}"),
        ("img_{}", "label{}"),
        ("volume-{}", "segmentation-{}"),
        ("case{}_image", "case{}_label"),
        ("IMG{}", "Label{}"),
        ("p{}_img_late", "p{}_gt_late"),
        ("{}_img", "{}_mask"),
    ],
)
@pytest.mark.parametrize("preset", ["rsna", "cardiac", "binary"])
def test_volumes_and_labels_in_one_folder(tmp_path, preset, image, labels):
    root = tmp_path / "data"
    names = [text.format(n) for text in (image, labels) for n in (1, 2, 10)]
    plant_volumes(root / "set", *names)
    cfg = config.preset(
        preset,
        "smoke",
        data_root=str(root),
        task="multiclass",
        loss="cross_entropy",
        class_names=ORGANS,
        label_map={},
    )
    cases = layouts.scan(cfg)
    pairs = cases.groupby("volume")[["image", "labels"]].first()
    assert len(cases) == 15 and sorted(pairs.index) == sorted(names[:3])
    assert cases["patient"].nunique() == 3
    for n in (1, 2, 10):
        row = pairs.loc[image.format(n)]
        assert row["image"].endswith(f"{image.format(n)}.nii.gz")
        assert row["labels"].endswith(f"{labels.format(n)}.nii.gz")
    assert "without" not in notes_of(cases)


@pytest.mark.parametrize("folders", [("img", "label"), ("img", "labels"), ("imagesTr", "labelsTr")])
def test_volumes_and_labels_in_two_folders_whose_names_differ_in_a_word(tmp_path, folders):
    root = tmp_path / "data"
    plant_volumes(root / folders[0], "img0001", "img0002", "img0003")
    plant_volumes(root / folders[1], "label0001", "label0002", "label0004")
    cfg = organs_config(root, tmp_path)
    cases = layouts.scan(cfg)
    assert sorted(set(cases["patient"])) == ["img0001", "img0002"]
    assert (cases["image"].str[-11:-7] == cases["labels"].str[-11:-7]).all()
    notes = notes_of(cases)
    assert f"{folders[0]}/img0003.nii.gz: volume without labels" in notes
    assert f"{folders[1]}/label0004.nii.gz: labels without a volume" in notes
    store = prepare.build(cases, cfg)
    for image, labels in truth_of(store, cfg).values():
        assert set(np.unique(labels)) == {0, 1, 2, 3, 4} and image.shape[:2] == labels.shape


def test_a_folder_for_each_case_with_image_and_label(tmp_path):
    for name in ("P01", "P02"):
        plant_volumes(tmp_path / "data" / name, "image", "label")
    plant_volumes(tmp_path / "data" / "other", "image_7", "label_7")  # not read with the others
    cases = layouts.scan(organs_config(tmp_path / "data", tmp_path))
    assert sorted(set(cases["patient"])) == sorted(set(cases["volume"])) == ["P01", "P02"]


def test_halves_of_pairs_by_words_are_named(tmp_path):
    root = plant_volumes(tmp_path / "d", "image_1", "label_1", "image_2", "label_3", "notes")
    notes = notes_of(layouts.scan(organs_config(root, tmp_path)))
    assert "d/image_2.nii.gz, d/notes.nii.gz: 2 volumes without labels" in notes
    assert "d/label_3.nii.gz: labels without a volume" in notes
    for path in root.glob("label_[13]*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no data found.*im\*g\*\.nii\* \+ label"):
        layouts.scan(organs_config(root, tmp_path))


def test_numbers_with_other_zeros_are_no_pairs(tmp_path):
    root = plant_volumes(tmp_path / "d", "img_1", "img_2", "label_001", "label_002")
    with pytest.raises(DataError, match=r"no volume has labels.*found img_1.*label_002.*rename"):
        layouts.scan(organs_config(root, tmp_path))


def test_two_label_files_of_one_volume_are_asked_about(tmp_path):
    names = ("image_1", "label_1", "mask_1", "image_2", "label_2")
    cfg = organs_config(plant_volumes(tmp_path / "d", *names), tmp_path)
    store = prepare.build(layouts.scan(cfg), cfg)
    assert set(store.cases["volume"]) == {"image_2"}
    (problem,) = set(store.report.problems["problem"])
    assert "not clear: label_1.nii.gz, mask_1.nii.gz" in problem


def test_real_chaos(real, tmp_path):
    root = real("chaos_mr_t2")
    values = {"window_level": None, "window_width": None, "percentiles": (0.5, 99.5)}
    cfg = organs_config(root, tmp_path, **values)
    cases = layouts.scan(cfg)
    assert len(cases) == 359 and cases["patient"].nunique() == 12
    assert "annotated" not in cases and (cases["spacing_slice_mm"] == 7.7).all()
    two = cases[cases["patient"].isin(["image_1", "image_36"])]
    store = prepare.build(two, cfg)
    assert store.report.problems.empty and not store.report.undecided
    pictures, _ = store.open()
    assert 20 < pictures.mean() < 128, "neither dark nor saturated"
    truths = truth_of(store, cfg)
    for name, rows in store.cases.groupby("patient"):
        shown = np.stack([truths[case][1] for case in rows["case"]])
        stored = nibabel.load(rows["labels"].iloc[0])
        voxels = np.asarray(stored.dataobj)
        np.testing.assert_array_equal(np.bincount(shown.ravel()), np.bincount(voxels.ravel()))
        # The true sides, in mm to the right of the patient, and how they are shown.
        right, left = (
            nibabel.affines.apply_affine(stored.affine, np.argwhere(voxels == number)).mean(axis=0)
            for number in (2, 3)
        )
        assert right[0] > left[0], name
        centres = {number: np.argwhere(shown == number).mean(axis=0) for number in (1, 2, 3, 4)}
        assert centres[1][2] < 128 < centres[4][2], "the liver at the image's left"
        assert centres[2][2] < centres[3][2], "the right kidney at the image's left"
        assert min(centres[2][1], centres[3][1]) > centres[1][1], "the back at the bottom"
