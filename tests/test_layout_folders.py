"""Folders of images and masks: pairs by name, parts of the split, names that are refused."""

import pytest

from seglib import layouts
from seglib.errors import DataError
from tests.helpers import binary_config, file_names, plant_pictures


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
