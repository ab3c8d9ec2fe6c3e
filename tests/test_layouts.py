"""Raw trees become case tables: what is found, what is paired, what is said about the rest."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import config, hosts, layouts
from seglib.errors import ConfigError, DataError, SeglibError
from seglib.layouts import folders, pictures


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
    """Both sets in CXR_png; the masks of Shenzhen end in _mask, those of Montgomery do not, and some are missing."""
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
