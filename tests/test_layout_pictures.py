"""Published sets of pictures: which files form a case, and what is said about the rest."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from seglib import hosts, layouts
from seglib.layouts import pictures
from tests.helpers import (
    binary_config,
    file_names,
    lung_config,
    montgomery_tree,
    notes_of,
    plant_pictures,
    shenzhen_tree,
)


def test_montgomery_unites_left_and_right(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    cases = layouts.scan(lung_config(tmp_path))
    assert list(cases["case"]) == ["MCUCXR_0001_0", "MCUCXR_0002_1"]
    assert list(cases["patient"]) == ["MCUCXR_0001", "MCUCXR_0002"]
    assert list(cases["finding"]) == ["normal", "tuberculosis"]
    assert list(cases["split"]) == ["", ""]
    assert file_names(cases["lung"][0]) == [
        "leftMask/MCUCXR_0001_0.png",
        "rightMask/MCUCXR_0001_0.png",
    ]
    for row in cases.itertuples():
        for path in (row.image, *row.lung.split("|")):
            assert Path(path).is_absolute() and Path(path).is_file()
    assert cases.attrs["notes"] == []


@pytest.mark.parametrize("above", ["", "a", "a/b", "a/b/c"])
def test_montgomery_at_any_depth(tmp_path, above):
    montgomery_tree(tmp_path / above, "MCUCXR_0001_0")
    assert list(layouts.scan(lung_config(tmp_path))["case"]) == ["MCUCXR_0001_0"]


def test_the_montgomery_folder_itself(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0")
    assert len(layouts.scan(lung_config(tmp_path / "MontgomerySet"))) == 1


def test_shenzhen(tmp_path):
    shenzhen_tree(tmp_path, "CHNCXR_0001_0", "CHNCXR_0400_1")
    cases = layouts.scan(lung_config(tmp_path))
    assert list(cases["patient"]) == ["CHNCXR_0001", "CHNCXR_0400"]
    assert list(cases["finding"]) == ["normal", "tuberculosis"]
    assert file_names(cases["lung"][1]) == ["mask/CHNCXR_0400_1_mask.png"]


def test_both_sets_below_one_root(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0")
    shenzhen_tree(tmp_path / "ShenzhenSet", "CHNCXR_0001_1")
    cases = layouts.scan(lung_config(tmp_path))
    assert set(cases["case"]) == {"MCUCXR_0001_0", "CHNCXR_0001_1"}
    assert list(cases.index) == [0, 1]
    assert (cases["lung"] != "").all()


def test_both_sets_in_folders_of_their_own(tmp_path):
    montgomery_tree(tmp_path / "one", "MCUCXR_0001_0")
    shenzhen_tree(tmp_path / "two", "CHNCXR_0001_1")
    assert set(pictures.scan_chest(tmp_path)["case"]) == {"MCUCXR_0001_0", "CHNCXR_0001_1"}
    # The root was named; a part of what lies there must not be left out without a word.
    cases = layouts.scan(lung_config(tmp_path))
    assert len(cases) == 2 or "two" in notes_of(cases)


@pytest.mark.parametrize("masks", ["masks", "mask"])
def test_the_bundle_of_kaggle(tmp_path, masks):
    """Both sets in CXR_png: masks of Shenzhen end in _mask, those of Montgomery do not."""
    stems = ["CHNCXR_0001_0", "CHNCXR_0002_0", "MCUCXR_0001_1"]
    plant_pictures(tmp_path / "Lung Segmentation", *[f"CXR_png/{stem}.png" for stem in stems])
    plant_pictures(
        tmp_path / "Lung Segmentation" / masks, "CHNCXR_0001_0_mask.png", "MCUCXR_0001_1.png"
    )
    cases = layouts.scan(lung_config(tmp_path)).set_index("case")
    assert list(cases.index) == stems
    assert file_names(cases["lung"]["CHNCXR_0001_0"]) == [f"{masks}/CHNCXR_0001_0_mask.png"]
    assert file_names(cases["lung"]["MCUCXR_0001_1"]) == [f"{masks}/MCUCXR_0001_1.png"]
    assert cases["lung"]["CHNCXR_0002_0"] == ""


def test_sides_beside_the_images(tmp_path):
    """The tree of the COVID set: images, leftMask, rightMask, and JPEG beside PNG."""
    plant_pictures(
        tmp_path,
        "images/a.jpg",
        "images/b.png",
        *[f"{side}Mask/{n}.png" for side in ("left", "right") for n in "ab"],
    )
    cases = layouts.scan(lung_config(tmp_path))
    assert list(cases["case"]) == ["a", "b"]
    assert file_names(cases["lung"][0]) == ["leftMask/a.png", "rightMask/a.png"]
    assert list(cases["finding"]) == ["", ""], "a name without _0 or _1 says nothing"


def test_half_of_a_union_is_noted_and_cleared(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    (tmp_path / "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_1.png").unlink()
    cases = layouts.scan(lung_config(tmp_path))
    assert cases["lung"][0] != ""
    assert cases["lung"][1] == "", "half a lung would teach a wrong truth"
    assert "MCUCXR_0002_1.png: only 1 of its 2 masks exist (leftMask)" in notes_of(cases)
    assert len(cases.attrs["notes"]) == 1


def test_masks_without_an_image_are_noted(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0", "MCUCXR_0002_1")
    (tmp_path / "MontgomerySet/CXR_png/MCUCXR_0001_0.png").unlink()
    cases = layouts.scan(lung_config(tmp_path))
    assert list(cases["case"]) == ["MCUCXR_0002_1"]
    assert cases.attrs["notes"] == [
        f"{side}Mask/MCUCXR_0001_0.png: mask without an image" for side in ("left", "right")
    ]


def test_names_in_natural_order_and_no_hidden_files(tmp_path):
    stems = ["x10", "x9", "x100", "x1"]
    shenzhen_tree(tmp_path, *stems)
    plant_pictures(tmp_path, "img/.x5.png", ".hidden/img/x6.png", ".hidden/mask/x6_mask.png")
    (tmp_path / "img/Thumbs.db").write_bytes(b"")
    (tmp_path / "img/readme.txt").write_text("no picture")
    assert list(pictures.scan_chest(tmp_path)["case"]) == ["x1", "x9", "x10", "x100"]


def test_the_class_name_names_the_mask_column(tmp_path):
    montgomery_tree(tmp_path, "MCUCXR_0001_0")
    assert "lungs" in layouts.scan(lung_config(tmp_path, class_names=("lungs",)))


def test_carvana(tmp_path):
    plant_pictures(
        tmp_path,
        "train/car_01.jpg",
        "train/car_02.jpg",
        "train_masks/car_01_mask.gif",
        "train_masks/car_02_mask.gif",
    )
    cases = layouts.scan(binary_config(tmp_path))
    assert list(cases["case"]) == ["car_01", "car_02"]
    assert file_names(cases["structure"][1]) == ["train_masks/car_02_mask.gif"]


def test_isic(tmp_path):
    plant_pictures(tmp_path / "ISIC2018_Task1-2_Training_Input", "ISIC_1.jpg", "ISIC_2.jpg")
    plant_pictures(
        tmp_path / "ISIC2018_Task1_Training_GroundTruth",
        "ISIC_1_segmentation.png",
        "ISIC_2_segmentation.png",
    )
    (tmp_path / "ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt").write_text("CC-0")
    cases = layouts.scan(binary_config(tmp_path))
    assert list(cases["case"]) == ["ISIC_1", "ISIC_2"]
    assert file_names(cases["structure"][0]) == [
        "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png"
    ]


def test_all_parts_of_isic_are_read(tmp_path):
    for part, name in (("Training", "ISIC_1"), ("Validation", "ISIC_2"), ("Test", "ISIC_3")):
        plant_pictures(tmp_path / f"ISIC2018_Task1-2_{part}_Input", f"{name}.jpg")
        plant_pictures(tmp_path / f"ISIC2018_Task1_{part}_GroundTruth", f"{name}_segmentation.png")
    cases = layouts.scan(binary_config(tmp_path))
    assert dict(zip(cases["case"], cases["structure"] != "")) == {
        "ISIC_1": True,
        "ISIC_2": True,
        "ISIC_3": True,
    }


def test_phantoms_are_read_as_the_real_tree(lung_tree):
    cases = layouts.scan(lung_config(lung_tree))
    assert len(cases) == 16
    assert (cases["finding"] == ["normal", "tuberculosis"] * 8).all()
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert (lung_tree / hosts.PHANTOM).is_file(), "else find_data takes it for real data"


def test_real_montgomery(real):
    cases = layouts.scan(lung_config(real("montgomery")))
    assert len(cases) == 102
    assert cases["patient"].nunique() == 102
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert (
        cases["finding"].isin(["normal", "tuberculosis"]).all() and cases["finding"].nunique() == 2
    )
    assert cases.attrs["notes"] == []


def test_real_shenzhen(real):
    cases = layouts.scan(lung_config(real("shenzhen")))
    assert cases["finding"].value_counts().to_dict() == {"normal": 96, "tuberculosis": 104}
    assert (cases["lung"] != "").all()
    assert cases.attrs["notes"] == []


def test_real_covid(real):
    cases = layouts.scan(lung_config(real("covid_cxr_leftright")))
    assert len(cases) == 23
    assert cases["lung"].str.count(r"\|").eq(1).all()
    assert set(cases["image"].map(lambda path: Path(path).suffix)) == {".jpg", ".png"}
    assert cases.attrs["notes"] == []


def test_real_covid_days_of_one_patient_belong_together(real):
    """data/README.md: some names are several days of one patient; split by patient."""
    patients = layouts.scan(lung_config(real("covid_cxr_leftright"))).set_index("case")["patient"]
    assert len({patients[f"pneumococcal-pneumonia-day{day}"] for day in (0, 7, 35)}) == 1
    assert patients["pneumococcal-pneumonia-day0"] != patients["klebsiella-pneumonia-1"]


def test_real_montgomery_and_shenzhen_together(real, tmp_path):
    (tmp_path / "MontgomerySet").symlink_to(
        real("montgomery") / "MontgomerySet", target_is_directory=True
    )
    (tmp_path / "ShenzhenSet").symlink_to(real("shenzhen"), target_is_directory=True)
    cases = layouts.scan(lung_config(tmp_path))
    assert cases["case"].str[:6].value_counts().to_dict() == {"CHNCXR": 200, "MCUCXR": 102}
    assert isinstance(cases, pd.DataFrame) and cases["case"].is_unique


def test_a_tree_can_be_copied_and_moved(lung_tree, tmp_path):
    shutil.copytree(lung_tree, tmp_path / "moved tree")
    cases = layouts.scan(lung_config(tmp_path / "moved tree"))
    assert len(cases) == 16
    assert cases["image"].str.startswith(str((tmp_path / "moved tree").resolve())).all()


def test_the_classes_of_a_palm_tree_are_those_with_masks(tmp_path):
    plant_pictures(tmp_path / "PALM/Training/Images", "a.png")
    plant_pictures(tmp_path / "PALM/Training/Lesion Masks/Exudates", "a.png")
    plant_pictures(tmp_path / "PALM/Training/Disc Masks", "a.png")
    assert pictures.palm_classes(tmp_path) == ("disc", "exudates")
    assert pictures.palm_classes(tmp_path / "PALM/Training/Images") == ()
