"""Raw trees become case tables: what is found, what is paired, what is said about the rest."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import __main__ as command_line
from seglib import (
    config,
    data,
    evaluation,
    hosts,
    layouts,
    phantoms,
    prepare,
    presets,
    tables,
    training,
)
from seglib.errors import ConfigError, DataError, SeglibError
from seglib.layouts import folders, pictures
from tests.helpers import (
    labels_like,
    numbered_volume,
    save_nifti,
    write_organs,
    write_picture,
)


def plant(root, *names):
    """Small pictures under `root`; a name ends in its suffix."""
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    return Path(root)


def montgomery(root, *stems):
    folders = ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask")
    return plant(
        root, *[f"MontgomerySet/{folder}/{stem}.png" for folder in folders for stem in stems]
    )


def shenzhen(root, *stems):
    return plant(
        root, *[f"img/{stem}.png" for stem in stems], *[f"mask/{stem}_mask.png" for stem in stems]
    )


def notes(cases):
    return "\n".join(cases.attrs["notes"])


def names_of(cell):
    """The file names of a mask cell, with their folder."""
    return (
        [f"{Path(path).parent.name}/{Path(path).name}" for path in cell.split("|")] if cell else []
    )


def lung(root, **changes):
    return config.preset("lung", "smoke", data_root=str(root), **changes)


def binary(root, **changes):
    return config.preset("binary", "smoke", data_root=str(root), **changes)


def scan_chest(root):
    return pictures.scan_chest(root)


def scan_images_masks(root):
    return folders.scan_images_masks(root, binary(root))


# Chest X-rays


def test_montgomery_unites_left_and_right(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    cases = layouts.scan(lung(tmp_path))
    assert list(cases["case"]) == ["MCUCXR_0001_0", "MCUCXR_0002_1"]
    assert list(cases["patient"]) == ["MCUCXR_0001", "MCUCXR_0002"]
    assert list(cases["finding"]) == ["normal", "tuberculosis"]
    assert list(cases["split"]) == ["", ""]
    assert names_of(cases["lung"][0]) == [
        "leftMask/MCUCXR_0001_0.png",
        "rightMask/MCUCXR_0001_0.png",
    ]
    for row in cases.itertuples():
        for path in (row.image, *row.lung.split("|")):
            assert Path(path).is_absolute() and Path(path).is_file()
    assert cases.attrs["notes"] == []


@pytest.mark.parametrize("above", ["", "a", "a/b", "a/b/c"])
def test_montgomery_at_any_depth(tmp_path, above):
    montgomery(tmp_path / above, "MCUCXR_0001_0")
    assert list(layouts.scan(lung(tmp_path))["case"]) == ["MCUCXR_0001_0"]


def test_the_montgomery_folder_itself(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0")
    assert len(layouts.scan(lung(tmp_path / "MontgomerySet"))) == 1


def test_shenzhen(tmp_path):
    shenzhen(tmp_path, "CHNCXR_0001_0", "CHNCXR_0400_1")
    cases = layouts.scan(lung(tmp_path))
    assert list(cases["patient"]) == ["CHNCXR_0001", "CHNCXR_0400"]
    assert list(cases["finding"]) == ["normal", "tuberculosis"]
    assert names_of(cases["lung"][1]) == ["mask/CHNCXR_0400_1_mask.png"]


def test_both_sets_below_one_root(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0")
    shenzhen(tmp_path / "ShenzhenSet", "CHNCXR_0001_1")
    cases = layouts.scan(lung(tmp_path))
    assert set(cases["case"]) == {"MCUCXR_0001_0", "CHNCXR_0001_1"}
    assert list(cases.index) == [0, 1]
    assert (cases["lung"] != "").all()


def test_both_sets_in_folders_of_their_own(tmp_path):
    montgomery(tmp_path / "one", "MCUCXR_0001_0")
    shenzhen(tmp_path / "two", "CHNCXR_0001_1")
    assert set(pictures.scan_chest(tmp_path)["case"]) == {"MCUCXR_0001_0", "CHNCXR_0001_1"}
    # The root was named; a part of what lies there must not be left out without a word.
    cases = layouts.scan(lung(tmp_path))
    assert len(cases) == 2 or "two" in notes(cases)


@pytest.mark.parametrize("masks", ["masks", "mask"])
def test_the_bundle_of_kaggle(tmp_path, masks):
    """Both sets in CXR_png: masks of Shenzhen end in _mask, those of Montgomery do not."""
    stems = ["CHNCXR_0001_0", "CHNCXR_0002_0", "MCUCXR_0001_1"]
    plant(tmp_path / "Lung Segmentation", *[f"CXR_png/{stem}.png" for stem in stems])
    plant(tmp_path / "Lung Segmentation" / masks, "CHNCXR_0001_0_mask.png", "MCUCXR_0001_1.png")
    cases = layouts.scan(lung(tmp_path)).set_index("case")
    assert list(cases.index) == stems
    assert names_of(cases["lung"]["CHNCXR_0001_0"]) == [f"{masks}/CHNCXR_0001_0_mask.png"]
    assert names_of(cases["lung"]["MCUCXR_0001_1"]) == [f"{masks}/MCUCXR_0001_1.png"]
    assert cases["lung"]["CHNCXR_0002_0"] == ""


def test_sides_beside_the_images(tmp_path):
    """The tree of the COVID set: images, leftMask, rightMask, and JPEG beside PNG."""
    plant(
        tmp_path,
        "images/a.jpg",
        "images/b.png",
        *[f"{side}Mask/{n}.png" for side in ("left", "right") for n in "ab"],
    )
    cases = layouts.scan(lung(tmp_path))
    assert list(cases["case"]) == ["a", "b"]
    assert names_of(cases["lung"][0]) == ["leftMask/a.png", "rightMask/a.png"]
    assert list(cases["finding"]) == ["", ""], "a name without _0 or _1 says nothing"


def test_half_of_a_union_is_noted_and_cleared(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    (tmp_path / "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_1.png").unlink()
    cases = layouts.scan(lung(tmp_path))
    assert cases["lung"][0] != ""
    assert cases["lung"][1] == "", "half a lung would teach a wrong truth"
    assert "MCUCXR_0002_1.png: only 1 of its 2 masks exist (leftMask)" in notes(cases)
    assert len(cases.attrs["notes"]) == 1


def test_masks_without_an_image_are_noted(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    (tmp_path / "MontgomerySet/CXR_png/MCUCXR_0001_0.png").unlink()
    cases = layouts.scan(lung(tmp_path))
    assert list(cases["case"]) == ["MCUCXR_0002_1"]
    assert cases.attrs["notes"] == [
        f"{side}Mask/MCUCXR_0001_0.png: mask without an image" for side in ("left", "right")
    ]


def test_names_in_natural_order_and_no_hidden_files(tmp_path):
    stems = ["x10", "x9", "x100", "x1"]
    shenzhen(tmp_path, *stems)
    plant(tmp_path, "img/.x5.png", ".hidden/img/x6.png", ".hidden/mask/x6_mask.png")
    (tmp_path / "img/Thumbs.db").write_bytes(b"")
    (tmp_path / "img/readme.txt").write_text("no picture")
    assert list(pictures.scan_chest(tmp_path)["case"]) == ["x1", "x9", "x10", "x100"]


def test_suffixes_in_capitals(tmp_path):
    plant(
        tmp_path,
        "images/a.PNG",
        "images/b.JPG",
        "images/c.Tiff",
        "masks/a.png",
        "masks/b.PNG",
        "masks/c.GIF",
    )
    cases = layouts.scan(binary(tmp_path))
    assert list(cases["case"]) == ["a", "b", "c"]
    assert (cases["structure"] != "").all()


def test_the_class_name_names_the_mask_column(tmp_path):
    montgomery(tmp_path, "MCUCXR_0001_0")
    assert "lungs" in layouts.scan(lung(tmp_path, class_names=("lungs",)))


@pytest.mark.parametrize("scan", [scan_chest, scan_images_masks])
def test_the_wrong_tree_says_what_is_needed_and_what_is_there(tmp_path, scan):
    with pytest.raises(DataError, match="an empty folder"):
        scan(tmp_path)
    plant(tmp_path, "pictures/a.png", "labels/a.png")
    with pytest.raises(DataError, match="found labels/, pictures/") as error:
        scan(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert ("CXR_png" if scan is scan_chest else "images and masks") in str(error.value)


def test_no_data_says_where_it_looked(tmp_path):
    for make in (lung, binary):
        with pytest.raises(DataError, match="no data found") as error:
            layouts.scan(make(tmp_path / "missing"))
        assert str(tmp_path / "missing") in str(error.value)


@pytest.mark.parametrize("scan", [scan_chest, scan_images_masks])
def test_a_root_that_does_not_exist(tmp_path, scan):
    with pytest.raises(SeglibError, match="missing"):
        scan(tmp_path / "missing")


def test_an_images_folder_without_pictures(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text("nothing yet")
    with pytest.raises(DataError, match=r"no image found.*\.png"):
        layouts.scan(binary(tmp_path))


def test_two_files_of_one_stem_are_refused(tmp_path):
    plant(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    with pytest.raises(DataError, match=r"a\.png: a\.jpg has the same name"):
        layouts.scan(binary(tmp_path))


def test_the_separator_of_unions_in_a_name_is_refused(tmp_path):
    plant(tmp_path, "images/a|b.png", "masks/a|b.png")
    with pytest.raises(DataError, match=r"a\|b\.png.*rename"):
        layouts.scan(binary(tmp_path))


@pytest.mark.parametrize("name", ["palm", "rsna", "cardiac"])
def test_presets_without_a_scan_say_so_or_look_for_data(tmp_path, name):
    with pytest.raises((ConfigError, DataError), match=name):
        layouts.scan(config.preset(name, data_root=str(tmp_path)))


# Images with masks


@pytest.mark.parametrize("suffix", ["", "_mask", "_segmentation", "_masks", "_seg", "-mask"])
@pytest.mark.parametrize("kind", ["png", "gif", "tif", "bmp"])
def test_masks_match_by_stem_and_suffix(tmp_path, suffix, kind):
    plant(
        tmp_path,
        "images/a 1.jpg",
        "images/b.jpg",
        f"masks/a 1{suffix}.{kind}",
        f"masks/b{suffix}.{kind}",
    )
    cases = layouts.scan(binary(tmp_path))
    assert [names_of(cell) for cell in cases["structure"]] == [
        [f"masks/a 1{suffix}.{kind}"],
        [f"masks/b{suffix}.{kind}"],
    ]
    assert list(cases["case"]) == list(cases["patient"]) == ["a 1", "b"]
    assert cases.attrs["notes"] == []


def test_an_image_without_a_mask_stays_in_the_table(tmp_path):
    plant(tmp_path, "images/a.png", "images/b.png", "masks/b.png", "masks/c.png")
    cases = layouts.scan(binary(tmp_path))
    assert [names_of(cell) for cell in cases["structure"]] == [[], ["masks/b.png"]]
    assert cases.attrs["notes"] == ["masks/c.png: mask without an image"]


def test_the_exact_name_wins_and_the_other_is_noted(tmp_path):
    plant(tmp_path, "images/a.png", "masks/a.png", "masks/a_mask.png")
    cases = layouts.scan(binary(tmp_path))
    assert names_of(cases["structure"][0]) == ["masks/a.png"]
    assert "a_mask.png" in notes(cases)


def test_train_val_test(tmp_path):
    for part, stem in (("train", "a"), ("Validation", "b"), ("test", "c"), ("other", "d")):
        plant(tmp_path, f"{part}/images/{stem}.png", f"{part}/masks/{stem}_mask.png")
    cases = layouts.scan(binary(tmp_path))
    assert dict(zip(cases["case"], cases["split"])) == {"a": "train", "b": "val", "c": "test"}


def test_parts_that_number_their_cases_alike(tmp_path):
    for part in ("train", "val", "test"):
        plant(tmp_path, f"{part}/images/1.png", f"{part}/masks/1.png")
    cases = layouts.scan(binary(tmp_path))
    assert sorted(cases["split"]) == ["test", "train", "val"]
    assert cases["case"].is_unique, "prepare.build refuses names that occur twice"
    assert cases["patient"].is_unique, "these are three images, not three of one patient"


def test_carvana(tmp_path):
    plant(
        tmp_path,
        "train/car_01.jpg",
        "train/car_02.jpg",
        "train_masks/car_01_mask.gif",
        "train_masks/car_02_mask.gif",
    )
    cases = layouts.scan(binary(tmp_path))
    assert list(cases["case"]) == ["car_01", "car_02"]
    assert names_of(cases["structure"][1]) == ["train_masks/car_02_mask.gif"]


def test_isic(tmp_path):
    plant(tmp_path / "ISIC2018_Task1-2_Training_Input", "ISIC_1.jpg", "ISIC_2.jpg")
    plant(
        tmp_path / "ISIC2018_Task1_Training_GroundTruth",
        "ISIC_1_segmentation.png",
        "ISIC_2_segmentation.png",
    )
    (tmp_path / "ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt").write_text("CC-0")
    cases = layouts.scan(binary(tmp_path))
    assert list(cases["case"]) == ["ISIC_1", "ISIC_2"]
    assert names_of(cases["structure"][0]) == [
        "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png"
    ]


def test_all_parts_of_isic_are_read(tmp_path):
    for part, name in (("Training", "ISIC_1"), ("Validation", "ISIC_2"), ("Test", "ISIC_3")):
        plant(tmp_path / f"ISIC2018_Task1-2_{part}_Input", f"{name}.jpg")
        plant(tmp_path / f"ISIC2018_Task1_{part}_GroundTruth", f"{name}_segmentation.png")
    cases = layouts.scan(binary(tmp_path))
    assert dict(zip(cases["case"], cases["structure"] != "")) == {
        "ISIC_1": True,
        "ISIC_2": True,
        "ISIC_3": True,
    }


def test_phantoms_are_read_as_the_real_tree(lung_tree):
    cases = layouts.scan(lung(lung_tree))
    assert len(cases) == 16
    assert (cases["finding"] == ["normal", "tuberculosis"] * 8).all()
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert (lung_tree / hosts.PHANTOM).is_file(), "else find_data takes it for real data"


# Any preset reads any layout


THREE = {
    "task": "multiclass",
    "class_names": ("background", "a", "b"),
    "loss": "cross_entropy",
}
ONE = {"task": "binary", "class_names": ("structure",), "loss": "bce", "label_map": {}}


def build(name, root, tmp_path, **changes):
    """The store of a preset in its smoke size, 16 pixels."""
    values = {"image_size": 16, "patch_size": None, "resize": "stretch", "mask_inverted": False}
    cfg = config.preset(
        name,
        "smoke",
        data_root=str(root),
        work_dir=str(tmp_path / "work"),
        **{**values, **changes},
    )
    return prepare.build(layouts.scan(cfg), cfg)


def number_pictures(root, *numbers, folder="masks", names="abcdef"):
    """Pictures with masks that hold these numbers in stripes, and an image of noise each."""
    for name in names:
        rng = np.random.default_rng(ord(name[-1]))
        write_picture(root / "images" / f"{name}.png", rng.integers(0, 255, (16, 16)))
        write_picture(root / folder / f"{name}.png", np.resize(numbers, (16, 16)))
    return root


def number_volumes(root, *numbers, names=("p1", "p2", "p3", "p4")):
    """NIfTI volumes in images/ with labels of these numbers in masks/."""
    for i, name in enumerate(names):
        volume = numbered_volume((16, 16, 5))
        noise = np.random.default_rng(i).integers(0, 200, (16, 16, 5)).astype(np.int16)
        image = nibabel.Nifti1Image(noise, volume.affine)
        save_nifti(image, root / "images" / f"{name}.nii.gz")
        labels = np.resize(numbers, (16, 16, 5))
        save_nifti(labels_like(volume, labels), root / "masks" / f"{name}.nii.gz")
    return root


def values_in(store):
    return set(np.unique(store.open()[1]).tolist())


@pytest.mark.parametrize("name", ["palm", "rsna", "cardiac", "lung", "binary"])
def test_three_classes_of_ones_own_pictures_with_any_preset(tmp_path, name):
    root = number_pictures(tmp_path / "own", 0, 1, 2)
    store = build(name, root, tmp_path, **THREE)
    assert len(store.cases) == 6 and store.report.problems.empty
    assert values_in(store) == {0, 1, 2}


@pytest.mark.parametrize("name", ["palm", "rsna", "cardiac", "lung", "binary"])
def test_one_structure_in_volumes_with_any_preset(tmp_path, name):
    root = number_volumes(tmp_path / "own" / "nested" / "set", 0, 0, 1)
    store = build(name, root.parents[1], tmp_path, **ONE)
    assert len(store.cases) == 20 and store.report.problems.empty
    assert sorted(set(store.cases["patient"])) == ["p1", "p2", "p3", "p4"]
    assert values_in(store) == {0, 1}
    assert store.cases.groupby("volume")["split"].nunique().max() == 1


def test_several_numbers_are_no_mask_of_one_class(tmp_path):
    root = number_volumes(tmp_path / "own", 0, 1, 3, names=("p1", "p2"))
    with pytest.raises(DataError, match=r"several label numbers up to 3.*label_map.*'3': 1"):
        build("binary", root, tmp_path)
    share = build("binary", root, tmp_path, label_map={"3": 1}).open()[1].mean()
    assert share == pytest.approx(1 / 3, abs=0.02)
    share = build("binary", root, tmp_path, mask_encoding="index").open()[1].mean()
    assert share == pytest.approx(2 / 3, abs=0.02)
    # Two numbers in different slices are two numbers.
    labels = np.zeros((16, 16, 5))
    labels[..., 1], labels[..., 3] = 1, 2
    for name in ("p1", "p2"):
        save_nifti(labels_like(numbered_volume((16, 16, 5)), labels), root / f"masks/{name}.nii.gz")
    with pytest.raises(DataError, match="several label numbers up to 2"):
        build("binary", root, tmp_path)


def test_other_presets_on_published_trees(tmp_path):
    """The network's classes and its task say what is read, whichever tree it comes from."""
    acdc = phantoms.write("cardiac", tmp_path / "acdc", n=3)
    heart = config.preset("cardiac").class_names
    store = build("rsna", acdc, tmp_path, class_names=heart)
    assert values_in(store) == {0, 1, 2, 3} and set(store.cases["phase"]) == {"ED", "ES"}
    ventricle = build("lung", acdc, tmp_path, label_map={"3": 1}).open()[1].sum()
    assert 0 < ventricle < build("lung", acdc, tmp_path, mask_encoding="index").open()[1].sum()
    palm = phantoms.write("palm", tmp_path / "palm", n=8)
    store = build("binary", palm, tmp_path, class_names=("disc",), mask_inverted=True)
    assert values_in(store) == {0, 1} and set(store.cases["finding"]) > {"normal"}
    lung = phantoms.write("lung", tmp_path / "lung", n=4)
    assert len(build("cardiac", lung, tmp_path, **ONE).cases) == 4
    skin = phantoms.write("binary", tmp_path / "skin", n=4)
    assert len(build("cardiac", skin, tmp_path, **ONE).cases) == 4


def test_organ_files_are_masks_of_a_class_each(tmp_path):
    truth = (np.asarray(numbered_volume().dataobj) % 6).astype(np.uint8)
    for i, name in enumerate(("s1", "s2", "s3")):
        volume = numbered_volume()
        noise = np.random.default_rng(i).integers(0, 200, truth.shape).astype(np.int16)
        image = nibabel.Nifti1Image(noise, volume.affine)
        save_nifti(image, tmp_path / "ts" / name / "ct.nii.gz")
        write_organs(tmp_path / "ts" / name / "segmentations", volume, truth)
    own = {"task": "multilabel", "class_names": ("bowel", "liver"), "loss": "bce"}
    store = build("palm", tmp_path / "ts", tmp_path, **own)
    masks = store.open()[1]
    shares = [(masks[..., k] == 1).sum() for k in range(2)]
    assert shares[0] == pytest.approx(shares[1], rel=0.1) and min(shares) > 0
    assert not ((masks == 1).sum(axis=-1) > 1).any()
    store = build("binary", tmp_path / "ts", tmp_path, class_names=("bowel",))
    assert (store.open()[1] == 1).sum() == shares[0]
    with pytest.raises(DataError, match="no mask file of heart.*liver.nii.gz"):
        build("binary", tmp_path / "ts", tmp_path, class_names=("heart",))


def test_masks_in_a_folder_a_class(tmp_path):
    root = number_pictures(tmp_path / "own", 0, 255, folder="masks/Disc")
    number_pictures(tmp_path / "own", 0, 0, 255, folder="masks/cup", names="abc")
    own = {"task": "multilabel", "class_names": ("disc", "cup"), "loss": "bce"}
    cases = layouts.scan(binary(root, **own)).set_index("case")
    assert names_of(cases["disc"]["a"]) == ["Disc/a.png"]
    assert names_of(cases["cup"]["a"]) == ["cup/a.png"] and cases["cup"]["f"] == ""
    assert "disc" in layouts.scan(lung(root, class_names=("disc",)))


def test_a_task_that_the_masks_do_not_fit_is_refused(tmp_path):
    two = {"task": "multilabel", "class_names": ("a", "b"), "loss": "bce"}
    root = number_pictures(tmp_path / "own", 0, 1)
    with pytest.raises(DataError, match=r"multilabel network needs a mask file a.*masks/a"):
        layouts.scan(binary(root, **two))
    with pytest.raises(DataError, match="one label map, but a multilabel network"):
        layouts.scan(binary(number_volumes(tmp_path / "volumes", 0, 1), **two))
    with pytest.raises(DataError, match="may overlap, but a multiclass network needs one label"):
        layouts.scan(binary(phantoms.write("palm", tmp_path / "palm", n=2), **THREE))
    with pytest.raises(DataError, match="several mask files an image.*multiclass network"):
        layouts.scan(binary(montgomery(tmp_path / "chest", "MCUCXR_0001_0"), **THREE))


# Trees that fit several layouts


def test_a_tree_that_can_be_read_in_two_ways_is_refused(tmp_path):
    """Five slices of one patient, or five pictures: the split by patient depends on it."""
    plant(tmp_path, *[f"{part}/case_{i}.png" for part in ("images", "masks") for i in range(5)])
    with pytest.raises(DataError) as error:
        layouts.scan(lung(tmp_path))
    assert 'layout = "images_masks" or layout = "slices"' in str(error.value)
    assert layouts.scan(lung(tmp_path, layout="images_masks"))["patient"].nunique() == 5
    assert layouts.scan(lung(tmp_path, layout="slices"))["patient"].nunique() == 1
    # A preset that usually has one of the layouts means that one.
    assert layouts.scan(binary(tmp_path))["patient"].nunique() == 5
    rsna = config.preset("rsna", "smoke", data_root=str(tmp_path))
    assert layouts.scan(rsna)["patient"].nunique() == 1


def test_two_layouts_that_say_the_same_are_no_choice(tmp_path):
    plant(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    assert list(layouts.scan(lung(tmp_path))["patient"]) == ["a", "b"]


def test_a_named_layout_says_what_it_expects(tmp_path):
    plant(tmp_path, "pictures/a.png")
    with pytest.raises(DataError, match="no ACDC tree; expected patient001.*found pictures/"):
        layouts.scan(binary(tmp_path, layout="acdc"))
    with pytest.raises(DataError, match=r"(?s)no data found.*No other layout fits.*acdc"):
        layouts.scan(binary(tmp_path))


# Additions


def scan_blobs(root, class_name):
    """A layout as a notebook cell may define it: `x.raw.png` with `x.truth.png`."""
    rows = []
    for image in sorted((Path(root) / "blobs").glob("*.raw.png")):
        stem = image.name.removesuffix(".raw.png")
        mask = image.with_name(f"{stem}.truth.png")
        row = {"case": stem, "patient": stem, "split": "", "image": str(image)}
        rows.append({**row, class_name: str(mask)})
    return pd.DataFrame(rows)


def blob_case(i, rng):
    """A painter as a notebook cell may define it: bright squares, in the layout above."""
    mask = np.zeros((24, 24), np.uint8)
    top, left = rng.integers(2, 12, 2)
    mask[top : top + 8, left : left + 8] = 255
    image = rng.integers(0, 100, mask.shape, np.uint8) + mask // 2
    return {f"blobs/{i}.raw.png": image, f"blobs/{i}.truth.png": mask}


def test_a_layout_is_added_by_one_entry(tmp_path, monkeypatch):
    entry = tables.Layout(scan_blobs, markers=(("blobs",),))
    monkeypatch.setitem(tables.LAYOUTS, "blobs", entry)
    for i in range(6):
        for name, pixels in blob_case(i, np.random.default_rng(i)).items():
            write_picture(tmp_path / "own" / "set" / name, pixels)
    for changes in ({}, {"layout": "blobs"}):
        store = build("lung", tmp_path / "own", tmp_path, **changes)
        assert len(store.cases) == 6 and values_in(store) == {0, 1}
    with pytest.raises(ConfigError, match="layout: 'blob' is not allowed.*'blobs'"):
        lung(tmp_path, layout="blob")


def test_a_sixth_preset_is_one_entry(tmp_path, monkeypatch):
    """Its phantoms are written, found, prepared, trained on and scored like those of the others."""
    monkeypatch.setitem(tables.LAYOUTS, "blobs", tables.Layout(scan_blobs, (("blobs",),)))
    entry = presets.Preset(
        full={"task": "binary", "class_names": ("blob",), "image_size": 32, "in_channels": 1}
        | {"mean": (0.5,), "std": (0.25,), "test_split": 0.2},
        small={},
        layouts=("blobs",),
        phantom=blob_case,
        smoke={"image_size": 32, "epochs": 1},
    )
    monkeypatch.setitem(presets.PRESETS, "blobs", entry)
    monkeypatch.chdir(tmp_path)
    cfg = config.preset("blobs", "smoke", work_dir=str(tmp_path / "work"))
    assert cfg.epochs == 1 and cfg.image_size == 32
    assert phantoms.data_or_phantoms(cfg, n=12) is False
    assert hosts.find_data(cfg) == tmp_path / "work" / "phantoms" / "blobs"
    cases = layouts.scan(cfg)
    assert len(cases) == 12 and "blob" in cases
    batches = data.loaders(prepare.build(cases, cfg), cfg)
    run = training.fit(cfg, batches)
    assert run.folder == tmp_path / "work" / "blobs"
    report = evaluation.evaluate(run, batches["test"])
    assert set(report.per_image["class"]) == {"blob"}
    assert config.from_dict(cfg.to_dict()) == cfg
    assert (
        command_line.main(["phantoms", "blobs", "--output", str(tmp_path / "set"), "--n", "2"]) == 0
    )
    options = ["--data_dir", str(tmp_path / "set"), "--work_dir", str(tmp_path / "work")]
    assert command_line.main(["prepare", "--preset", "blobs", "--size", "smoke", *options]) == 0


# Real trees


def test_real_montgomery(real):
    cases = layouts.scan(lung(real("montgomery")))
    assert len(cases) == 102
    assert cases["patient"].nunique() == 102
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert (
        cases["finding"].isin(["normal", "tuberculosis"]).all() and cases["finding"].nunique() == 2
    )
    assert cases.attrs["notes"] == []


def test_real_shenzhen(real):
    cases = layouts.scan(lung(real("shenzhen")))
    assert cases["finding"].value_counts().to_dict() == {"normal": 96, "tuberculosis": 104}
    assert (cases["lung"] != "").all()
    assert cases.attrs["notes"] == []


def test_real_covid(real):
    cases = layouts.scan(lung(real("covid_cxr_leftright")))
    assert len(cases) == 23
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert set(cases["image"].map(lambda path: Path(path).suffix)) == {".jpg", ".png"}
    assert cases.attrs["notes"] == []


def test_real_covid_days_of_one_patient_belong_together(real):
    """data/README.md: some names are several days of one patient; split by patient."""
    patients = layouts.scan(lung(real("covid_cxr_leftright"))).set_index("case")["patient"]
    assert len({patients[f"pneumococcal-pneumonia-day{day}"] for day in (0, 7, 35)}) == 1
    assert patients["pneumococcal-pneumonia-day0"] != patients["klebsiella-pneumonia-1"]


def test_real_busi_and_spleen(real):
    for name, n in (("busi", 22), ("msd_spleen_ct", 13)):
        cases = layouts.scan(binary(real(name)))
        assert len(cases) == n
        assert (cases["structure"] != "").all()
        assert cases.attrs["notes"] == []


def test_real_montgomery_and_shenzhen_together(real, tmp_path):
    (tmp_path / "MontgomerySet").symlink_to(
        real("montgomery") / "MontgomerySet", target_is_directory=True
    )
    (tmp_path / "ShenzhenSet").symlink_to(real("shenzhen"), target_is_directory=True)
    cases = layouts.scan(lung(tmp_path))
    assert cases["case"].str[:6].value_counts().to_dict() == {"CHNCXR": 200, "MCUCXR": 102}
    assert isinstance(cases, pd.DataFrame) and cases["case"].is_unique


def test_a_tree_can_be_copied_and_moved(lung_tree, tmp_path):
    shutil.copytree(lung_tree, tmp_path / "moved tree")
    cases = layouts.scan(lung(tmp_path / "moved tree"))
    assert len(cases) == 16
    assert cases["image"].str.startswith(str((tmp_path / "moved tree").resolve())).all()
