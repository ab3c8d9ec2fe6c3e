"""Which layout a folder of raw data has, and that every preset reads every layout."""

import re
import shlex
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
from seglib.layouts import convert, folders, pictures
from tests.helpers import (
    binary_config,
    file_names,
    labels_like,
    lung_config,
    montgomery_tree,
    notes_of,
    numbered_volume,
    plant_pictures,
    save_nifti,
    write_organs,
    write_picture,
)


def scan_chest(root):
    return pictures.scan_chest(root)


def scan_images_masks(root):
    return folders.scan_images_masks(root, binary_config(root))


@pytest.mark.parametrize("scan", [scan_chest, scan_images_masks])
def test_the_wrong_tree_says_what_is_needed_and_what_is_there(tmp_path, scan):
    with pytest.raises(DataError, match="an empty folder"):
        scan(tmp_path)
    plant_pictures(tmp_path, "pictures/a.png", "labels/a.png")
    with pytest.raises(DataError, match="found labels/, pictures/") as error:
        scan(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert ("CXR_png" if scan is scan_chest else "images and masks") in str(error.value)


@pytest.mark.parametrize("name", ["palm", "rsna", "cardiac", "lung", "binary"])
def test_no_data_says_where_it_looked(tmp_path, name):
    for root in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=f"{name}: no data found") as error:
            layouts.scan(config.preset(name, data_root=str(root)))
        assert str(root) in str(error.value)


@pytest.mark.parametrize("readers", [("_1stHO", "_2ndHO"), ("_vessels",)])
def test_images_and_masks_in_one_folder_are_told_how_to_part(tmp_path, readers):
    """The preset binary reads them, see `test_layout_named`; the systems' presets do not."""
    root, output = tmp_path / "two readers", tmp_path / "out"
    for name in ("Image_01L", "Image_01R", "Image_02L", "Image_02R"):
        plant_pictures(root, f"{name}.jpg", *(f"{name}{reader}.png" for reader in readers))
    with pytest.raises(DataError, match="two readers: images and masks share") as error:
        layouts.scan(config.preset("lung", data_root=str(root)))
    line = re.search(r"python -m seglib (.*) --output OUTPUT", str(error.value))[1]
    assert all(f"{reader} (4 files)" in str(error.value) for reader in readers)
    assert command_line.main([*shlex.split(line), "--output", str(output)]) == 0
    cases = layouts.scan(binary_config(output))
    assert list(cases["patient"]) == ["Image_01", "Image_01", "Image_02", "Image_02"]
    assert (cases["structure"] != "").all()


def test_pictures_that_are_numbered_are_no_masks(tmp_path):
    plant_pictures(tmp_path, *(f"{case}_{k}.png" for case in "abc" for k in (1, 2)), "a.png")
    with pytest.raises(DataError, match="no data found"):
        layouts.scan(binary_config(tmp_path))


def test_real_chase_by_either_reader(real, tmp_path):
    with pytest.raises(DataError, match=r"_1stHO \(20 files\), _2ndHO \(20 files\)"):
        layouts.scan(config.preset("lung", data_root=str(real("chase_db1"))))
    for reader in ("_1stHO", "_2ndHO"):
        output = tmp_path / reader
        done = convert.to_images_and_masks(real("chase_db1"), None, output, mask_suffix=reader)
        assert done.pairs == 20 and not done.without_mask and len(done.left_out) == 20
        cases = layouts.scan(binary_config(output))
        assert len(cases) == 20 and cases["patient"].nunique() == 10
        drawn = np.array(Image.open(real("chase_db1") / f"Image_07L{reader}.png"))
        written = np.array(Image.open(output / "masks" / "Image_07L.png"))
        np.testing.assert_array_equal(written > 0, drawn)


@pytest.mark.parametrize("scan", [scan_chest, scan_images_masks])
def test_a_root_that_does_not_exist(tmp_path, scan):
    with pytest.raises(SeglibError, match="missing"):
        scan(tmp_path / "missing")


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
    one = {"class_names": ("structure",)}  # named, so that the numbers are not taken for classes
    with pytest.raises(DataError, match=r"several label numbers up to 3.*label_map.*'3': 1"):
        build("binary", root, tmp_path, **one)
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
        build("binary", root, tmp_path, **one)


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
    cases = layouts.scan(binary_config(root, **own)).set_index("case")
    assert file_names(cases["disc"]["a"]) == ["Disc/a.png"]
    assert file_names(cases["cup"]["a"]) == ["cup/a.png"] and cases["cup"]["f"] == ""
    assert "disc" in layouts.scan(lung_config(root, class_names=("disc",)))


def test_a_task_that_the_masks_do_not_fit_is_refused(tmp_path):
    two = {"task": "multilabel", "class_names": ("a", "b"), "loss": "bce"}
    root = number_pictures(tmp_path / "own", 0, 1)
    with pytest.raises(DataError, match=r"multilabel network needs a mask file a.*masks/a"):
        layouts.scan(binary_config(root, **two))
    with pytest.raises(DataError, match="one label map, but a multilabel network"):
        layouts.scan(binary_config(number_volumes(tmp_path / "volumes", 0, 1), **two))
    with pytest.raises(DataError, match="may overlap, but a multiclass network needs one label"):
        layouts.scan(binary_config(phantoms.write("palm", tmp_path / "palm", n=2), **THREE))
    with pytest.raises(DataError, match="several mask files an image.*multiclass network"):
        layouts.scan(binary_config(montgomery_tree(tmp_path / "chest", "MCUCXR_0001_0"), **THREE))


# Trees that fit several layouts


def test_a_tree_that_can_be_read_in_two_ways_is_refused(tmp_path):
    """Five slices of one patient, or five pictures: the split by patient depends on it."""
    plant_pictures(
        tmp_path, *[f"{part}/case_{i}.png" for part in ("images", "masks") for i in range(5)]
    )
    with pytest.raises(DataError) as error:
        layouts.scan(lung_config(tmp_path))
    assert 'layout = "images_masks" or layout = "slices"' in str(error.value)
    assert layouts.scan(lung_config(tmp_path, layout="images_masks"))["patient"].nunique() == 5
    assert layouts.scan(lung_config(tmp_path, layout="slices"))["patient"].nunique() == 1
    # A preset that usually has one of the layouts means that one.
    assert layouts.scan(binary_config(tmp_path))["patient"].nunique() == 5
    rsna = config.preset("rsna", "smoke", data_root=str(tmp_path))
    assert layouts.scan(rsna)["patient"].nunique() == 1


def test_two_layouts_that_say_the_same_are_no_choice(tmp_path):
    plant_pictures(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    cases = layouts.scan(lung_config(tmp_path))
    assert list(cases["patient"]) == ["a", "b"]
    assert 'was read as "images_masks", which is not usual for the preset lung' in notes_of(cases)
    assert notes_of(layouts.scan(binary_config(tmp_path))) == ""


def test_a_named_layout_says_what_it_expects(tmp_path):
    plant_pictures(tmp_path, "pictures/a.png")
    with pytest.raises(DataError, match="no ACDC tree; expected patient001.*found pictures/"):
        layouts.scan(binary_config(tmp_path, layout="acdc"))
    with pytest.raises(DataError, match=r"(?s)no data found.*No other layout fits.*acdc"):
        layouts.scan(binary_config(tmp_path))


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
        lung_config(tmp_path, layout="blob")


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
