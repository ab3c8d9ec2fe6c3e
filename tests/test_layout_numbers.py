"""What label numbers mean: by names beside the data, by the config, or asked for."""

import json

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from PIL import Image

from seglib import config, data, layouts, prepare
from seglib.errors import DataError
from tests.helpers import labels_like, numbered_volume, save_nifti, write_picture

SHAPE = (16, 16, 4)
RSNA = ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel")


def label_volume(*numbers):
    """(16, 16, 4): a block of four rows for each number."""
    labels = np.zeros(SHAPE, int)
    for k, number in enumerate(numbers):
        labels[4 * (k % 4) : 4 * (k % 4) + 3, 8 * (k // 4) : 8 * (k // 4) + 6] = number
    return labels


def tree(root, numbers, folders=("imagesTr", "labelsTr"), dataset=None, n=3, extension=None):
    """A data set of volumes whose labels hold these numbers, with a dataset.json."""
    for i in range(n):
        volume = numbered_volume(SHAPE)
        noise = np.random.default_rng(i).integers(-900, 300, SHAPE).astype(np.int16)
        image = nibabel.Nifti1Image(noise, volume.affine)
        save_nifti(image, root / folders[0] / f"case_{i}.nii.gz")
        labels = labels_like(volume, label_volume(*numbers))
        if extension:
            labels.header.extensions.append(Nifti1Extension(0, extension.encode()))
        save_nifti(labels, root / folders[1] / f"case_{i}.nii.gz")
    if dataset is not None:
        text = dataset if isinstance(dataset, str) else json.dumps({"labels": dataset})
        (root / "dataset.json").write_text(text)
    return root


def build(root, preset="rsna", **changes):
    values = {"image_size": 16, "patch_size": None, "augment": {}, "val_split": 0, "test_split": 0}
    values |= {"data_root": str(root), "work_dir": str(root.parent / "work"), **changes}
    cfg = config.preset(preset, "smoke", **values)
    return cfg, prepare.build(layouts.scan(cfg), cfg)


def counts(root, preset="rsna", **changes):
    """Class -> how many pixels of the store have it."""
    cfg, store = build(root, preset, **changes)
    data.loaders(store, cfg)
    masks = store.open()[1]
    return {name: int((masks == k).sum()) for k, name in enumerate(cfg.class_names) if k}


SPLEEN = {
    "Decathlon": {"0": "background", "1": "spleen"},
    "nnU-Net 2": {"background": 0, "spleen": 1},
    "other words": {"background": 0, "Spleen": 1},
    "a list": {"background": 0, "spleen": [1]},
}


@pytest.mark.parametrize("name", SPLEEN)
def test_spleen_of_the_decathlon_is_never_liver(tmp_path, name):
    root = tree(tmp_path / "Task09_Spleen", [1], dataset=SPLEEN[name])
    with pytest.raises(DataError, match=r"dataset\.json.*class_names has liver.*'spleen'"):
        build(root)
    names = ("background", "spleen")
    assert counts(root, class_names=names) == {"spleen": 3 * 4 * 3 * 6}
    cfg, store = build(root, label_map={"1": 2})
    assert counts(root, label_map={"1": 2})["spleen"] == 216
    assert any("no mask contains liver, left_kidney" in note for note in store.report.notes)


def test_names_decide_whatever_the_numbers_are(tmp_path):
    """Also for numbers that all could be class numbers, and for words in another order."""
    labels = {
        "background": 0,
        "kidney_right": 1,
        "liver": 2,
        "Left Kidney": 3,
        "colon": 4,
        "small_bowel": 5,
        "duodenum": 6,
        "spleen": 7,
        "stomach": 8,
    }
    root = tree(tmp_path / "t", [1, 2, 3, 4, 6, 7, 8], dataset=labels)
    block = 3 * 4 * 3 * 6
    expected = dict.fromkeys(RSNA[1:], block) | {"bowel": 2 * block}
    assert counts(root) == expected
    assert any("2 liver" in note for note in build(root)[1].report.notes)


def test_hearts_of_nnunet_have_short_names(tmp_path):
    labels = {"background": 0, "LVC": 1, "MYO": 2, "RV": 3}
    root = tree(tmp_path / "t", [1, 1, 2, 3, 3, 3], dataset=labels)
    n = counts(root, "cardiac")
    assert (
        n["left_ventricle"] == 2 * n["myocardium"] and n["right_ventricle"] == 3 * n["myocardium"]
    )


def test_names_of_other_structures_are_not_contradicted(tmp_path):
    root = tree(tmp_path / "t", [1, 2], dataset={"background": 0, "atrium": 1, "aorta": 2})
    with pytest.raises(DataError, match=r"1 atrium, 2 aorta.*class_names=\('background', 'atrium'"):
        build(root, "cardiac")
    assert counts(root, "cardiac", label_map={"1": 1, "2": 2})["right_ventricle"] == 216


def test_regions_and_ignored_labels_of_nnunet(tmp_path):
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    root = tree(tmp_path / "t", [1, 2, 3], dataset=regions)
    names = ("background", "whole", "core")
    with pytest.raises(DataError, match="label 2 belongs to whole and core, which overlap"):
        build(root, "cardiac", class_names=names)
    assert counts(root, "cardiac", class_names=("background", "core")) == {"core": 216}
    _, store = build(root, "cardiac", class_names=("background", "whole"))
    assert (store.open()[1] == 255).sum() == 216 and (store.open()[1] == 1).sum() == 432


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON.*label_map"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"labels": {"spleen": "one"}}', "'spleen': 'one'"),
        ('{"labels": {"spleen": -1}}', "'spleen': -1"),
        ('{"labels": {"spleen": true}}', "'spleen': True"),
        ('{"labels": {"spleen": [[1]]}}', r"'spleen': \[\[1\]\]"),
    ],
)
def test_a_damaged_list_of_labels_is_named(tmp_path, text, message):
    root = tree(tmp_path / "t", [1], dataset=text)
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        build(root, "cardiac", class_names=("background", "spleen"))


@pytest.mark.parametrize("text", ["[]", "{}", '{"labels": []}', '{"name": "x", "labels": null}'])
def test_a_file_of_that_name_of_another_program_is_passed_over(tmp_path, text):
    root = tree(tmp_path / "t", [1], dataset=text)
    assert counts(root, "cardiac", class_names=("background", "spleen")) == {"spleen": 216}


def test_a_number_that_the_list_does_not_name_is_set_aside(tmp_path):
    root = tree(tmp_path / "t", [1], dataset={"0": "background", "1": "spleen"})
    labels = labels_like(numbered_volume(SHAPE), label_volume(1, 7))
    save_nifti(labels, root / "labelsTr" / "case_1.nii.gz")
    _, store = build(root, "cardiac", class_names=("background", "spleen"))
    assert set(store.report.problems["case"].str[:6]) == {"case_1"}
    assert "[7] have no name" in store.report.problems["problem"][0]


def test_the_class_of_a_binary_network_is_found_by_its_name(tmp_path):
    root = tree(tmp_path / "t", [1, 2, 2], dataset={"0": "background", "1": "liver", "2": "tumour"})
    _, store = build(root, "binary", class_names=("tumor",))
    assert (store.open()[1] == 1).sum() == 2 * 216


# The numbers of TotalSegmentator


def test_numbers_that_can_mean_two_things_are_asked_for(tmp_path):
    folders = ("images", "labels")
    root = tree(tmp_path / "gap", [1, 2, 3, 5], folders)
    cfg, store = build(root)
    with pytest.raises(DataError, match=r"1 liver, 2 spleen.*label_map={}.*1 spleen") as error:
        data.loaders(store, cfg)
    table = json.loads(str(error.value).split("label_map=")[-1])
    n = counts(root, label_map=table)
    assert n["liver"] == n["spleen"] == 216 and n["bowel"] == 0
    n = counts(root, label_map={})
    assert n["liver"] == n["bowel"] == 216 and n["right_kidney"] == 0
    # 4 is in no table of the preset, so none of both can be taken for now.
    root = tree(tmp_path / "all", [1, 2, 3, 4, 5], folders)
    with pytest.raises(DataError, match=r"can mean two things.*label_map={}.*label_map={\"1\": 2"):
        build(root)
    assert counts(root, label_map={}) == dict.fromkeys(RSNA[1:], 216)


def test_larger_numbers_are_those_of_the_table(tmp_path):
    root = tree(tmp_path / "t", [1, 2, 3, 5, 18, 6], ("images", "labels"))
    assert counts(root) == dict.fromkeys(RSNA[1:], 216)
    notes = build(root)[1].report.notes
    assert "labels: the numbers 6 are not in label_map and become background" in notes


def test_the_label_table_in_the_header_decides(tmp_path):
    """As TotalSegmentator writes it, here with the first numbers of its version 1."""
    names = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver")
    entries = "".join(
        f'<Label Key="{k}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
        for k, name in enumerate(names, 1)
    )
    text = f"<CaretExtension><LabelTable>{entries}</LabelTable></CaretExtension>"
    root = tree(tmp_path / "t", [1, 2, 3, 4, 5], ("images", "labels"), extension=text)
    with pytest.raises(DataError, match="class_names has bowel, which it does not label"):
        build(root)
    classes = ("background", "liver", "spleen", "left_kidney", "right_kidney")
    assert counts(root, class_names=classes) == dict.fromkeys(classes[1:], 216)


@pytest.mark.parametrize(
    ("numbers", "is_asked"), [([1], True), ([1, 2], True), ([1, 2, 3, 4, 5], False)]
)
def test_pictures_are_documented_to_hold_class_numbers(tmp_path, numbers, is_asked):
    """As the RSNA slices do, where all classes occur."""
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16))
        write_picture(tmp_path / "t" / "images" / f"{i}_1_1.png", noise)
        labels = label_volume(*numbers)[..., 0]
        write_picture(tmp_path / "t" / "labels" / f"{i}_1_1.png", labels)
    cfg, store = build(tmp_path / "t")
    if is_asked:
        with pytest.raises(DataError, match="can mean two things"):
            data.loaders(store, cfg)
        data.loaders(build(tmp_path / "t", label_map={})[1], cfg)
    else:
        data.loaders(store, cfg)
        assert set(np.unique(store.open()[1])) == set(range(6))


# Colours with a list beside them


def test_the_list_of_cvat_gives_the_table(tmp_path):
    root = tmp_path / "t"
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[2:6, 2:9], colours[8:12, 4:12] = (250, 50, 83), (51, 221, 255)
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16))
        write_picture(root / "images" / f"c{i}.png", noise)
        write_picture(root / "masks" / f"c{i}.png", colours)
    with pytest.raises(DataError, match="the labels are colours.*set mask_encoding="):
        build(root, "cardiac")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        "liver:250,50,83::\nkidney:51,221,255::\n"
    )
    with pytest.raises(DataError, match=r"labelmap\.txt names them") as error:
        build(root, "cardiac")
    table = json.loads(str(error.value).split("mask_encoding=")[1].split("}")[0] + "}")
    names = ("background", "liver", "kidney")
    n = counts(root, "cardiac", class_names=names, mask_encoding=table)
    assert n == {"liver": 3 * 28, "kidney": 3 * 32}


def test_the_list_of_roboflow_names_the_numbers(tmp_path):
    for i in range(3):
        write_picture(tmp_path / "t" / "images" / f"c{i}.png", np.full((8, 8), i))
        (tmp_path / "t" / "masks").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (9, i, 200)).save(tmp_path / "t" / "masks" / f"c{i}.png")
    (tmp_path / "t" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, kidney\n")
    with pytest.raises(DataError, match=r"_classes\.csv names the numbers 0 background, 1 kidney"):
        build(tmp_path / "t", "cardiac")
