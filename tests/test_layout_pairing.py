"""Images and masks are paired by whole names, and every file without its other half is told."""

import nibabel
import numpy as np
import pytest

from seglib import config, layouts, prepare
from seglib.errors import DataError
from seglib.formats import channels
from seglib.layouts import convert
from tests.helpers import (
    binary_config,
    command,
    file_names,
    labels_like,
    notes_of,
    numbered_volume,
    plant_pictures,
    rsna_config,
    save_nifti,
    write_picture,
)


def folders_of(root, images, masks):
    return plant_pictures(root, *(f"images/{n}" for n in images), *(f"masks/{n}" for n in masks))


def pairs_of(cases, column="structure"):
    """Case -> names of its mask files."""
    return {
        row["case"]: sorted(name.split("/")[1] for name in file_names(row[column]))
        for row in cases.to_dict("records")
    }


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        # An image's name never ends inside a number or a word.
        (["case1.png", "case10.png"], ["case10_mask.png"], {"case10": ["case10_mask.png"]}),
        (["case1.png"], ["case10.png"], {}),
        (["1.png"], ["10_mask.png"], {}),
        (["a.png"], ["ab.png"], {}),
        (["image2.png", "image21.png"], ["image21.png"], {"image21": ["image21.png"]}),
        # Upper and lower case, the form of accents, spaces at the end.
        (["A.PNG"], ["a_MASK.png"], {"A": ["a_MASK.png"]}),
        (["Case_1.jpg"], ["case_1.Png"], {"Case_1": ["case_1.Png"]}),
        (["caf\u00e9.png"], ["cafe\u0301_mask.png"], {"caf\u00e9": ["cafe\u0301_mask.png"]}),
        (["a .png", "b.png"], ["a_mask.png", "b _mask.png"], None),
        # Numbered files are parts of one mask.
        (["x.png"], ["x_mask.png", "x_mask_1.png"], {"x": ["x_mask.png", "x_mask_1.png"]}),
        (["x.png"], ["x_mask.png", "x_mask2.png"], {"x": ["x_mask.png", "x_mask2.png"]}),
        (["x.png"], ["x.png", "x_1.png", "x_2.png"], {"x": ["x.png", "x_1.png", "x_2.png"]}),
        (["b (2).png"], ["b (2).png", "b (2)_1.png"], {"b (2)": ["b (2).png", "b (2)_1.png"]}),
        (["x.png"], ["x_seg (1).png", "x_seg (2).png"], {"x": ["x_seg (1).png", "x_seg (2).png"]}),
        # A numbered file alone, or beside images that are called so, is that of another image.
        (["x.png"], ["x_1.png"], {}),
        (
            ["x.png", "x_2.png"],
            ["x.png", "x_1.png", "x_2.png"],
            {"x": ["x.png"], "x_2": ["x_2.png"]},
        ),
    ],
)
def test_pairs_by_whole_names(tmp_path, images, masks, expected):
    folders_of(tmp_path, images, masks)
    cases = layouts.scan(binary_config(tmp_path))
    if expected is None:
        assert all(pairs_of(cases).values()), pairs_of(cases)
        return
    pairs = {case: files for case, files in pairs_of(cases).items() if files}
    assert pairs == expected
    notes = notes_of(cases)
    n_unused = len(masks) - sum(map(len, pairs.values()))
    assert ("mask without an image" in notes) == (n_unused == 1)
    n_bare = len(images) - len(pairs)
    assert ("image without a mask" in notes) == (n_bare == 1)
    assert ("which are united" in notes) == any(len(files) > 1 for files in pairs.values())


def test_names_that_differ_in_case_only(tmp_path):
    folders_of(tmp_path, ["a.png", "A.png"], ["a.png", "A.png"])
    assert pairs_of(layouts.scan(binary_config(tmp_path))) == {"a": ["a.png"], "A": ["A.png"]}


@pytest.mark.parametrize("other", ["x_2ndHO.png", "x_mask_old.png", "x_annotator2.png", "x.png"])
def test_a_second_kind_of_mask_sets_the_image_aside(tmp_path, other):
    rng = np.random.default_rng(0)
    for name in ("x", "y", "z"):
        write_picture(tmp_path / "images" / f"{name}.png", rng.integers(0, 255, (8, 9, 3)))
        write_picture(tmp_path / "masks" / f"{name}_mask.png", rng.integers(0, 2, (8, 9)) * 255)
    write_picture(tmp_path / "masks" / other, np.zeros((8, 9)))
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"), mask_inverted=False)
    cases = layouts.scan(cfg)
    assert pairs_of(cases) == {"x": [], "y": ["y_mask.png"], "z": ["z_mask.png"]}
    report = prepare.build(cases, cfg).report
    assert report.set_aside == ["x"]
    text = report.problems["problem"][0]
    assert other in text and "x_mask.png" in text and "--mask_suffix" in text
    assert prepare.open_store(prepare.build(cases, cfg).folder).report.set_aside == ["x"]


def test_a_numbered_part_is_no_label_map(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x", "y", "z"):
        write_picture(tmp_path / "images" / f"{name}.png", rng.integers(0, 255, (8, 9)))
        write_picture(tmp_path / "masks" / f"{name}.png", rng.integers(0, 4, (8, 9)))
    write_picture(tmp_path / "masks" / "x_1.png", rng.integers(0, 4, (8, 9)))
    cfg = config.preset(
        "cardiac", "smoke", data_root=str(tmp_path), work_dir=str(tmp_path / "work")
    )
    report = prepare.build(layouts.scan(cfg), cfg).report
    assert report.set_aside == ["x"] and "x.png, x_1.png" in report.problems["problem"][0]


def test_the_union_is_that_of_all_parts(tmp_path):
    """The share of the foreground is that of the maximum of both files."""
    rng = np.random.default_rng(0)
    masks = [np.zeros((40, 50), np.uint8) for _ in range(2)]
    masks[0][5:15, 5:20], masks[1][20:35, 30:45] = 255, 255
    for name in ("x", "y"):
        write_picture(tmp_path / "images" / f"{name}.png", rng.integers(0, 255, (40, 50, 3)))
        write_picture(tmp_path / "masks" / f"{name}_mask.png", masks[0])
    write_picture(tmp_path / "masks" / "x_mask_1.png", masks[1])
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"))
    share = prepare.build(layouts.scan(cfg), cfg).report.facts.set_index("case")["share structure"]
    assert share["x"] == pytest.approx(np.maximum(*masks).mean() / 255)
    assert share["y"] == pytest.approx(masks[0].mean() / 255)


def test_masks_of_an_unusual_name_are_told(tmp_path):
    folders_of(tmp_path, ["x1.png", "x2.png"], ["x1_OD.png", "x2_OD.png"])
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"), class_names=("structure",))
    with pytest.raises(
        DataError, match=r"no mask of its name; found x1_OD\.png.*--mask_suffix _OD"
    ):
        prepare.build(layouts.scan(cfg), cfg)


def test_other_zeros_in_front_are_told(tmp_path):
    folders_of(tmp_path, ["1.png", "2.png"], ["001_mask.png", "2.png"])
    notes = notes_of(layouts.scan(binary_config(tmp_path)))
    assert "001_mask.png was not taken for the mask of 1.png" in notes
    assert "masks/001_mask.png: mask without an image" in notes
    assert "images/1.png: image without a mask" in notes


def test_halves_are_counted(tmp_path):
    folders_of(
        tmp_path,
        ["ok.png", *[f"i{k}x.png" for k in range(5)]],
        ["ok.png", "m1x.png", "m2x.png"],
    )
    assert layouts.scan(binary_config(tmp_path)).attrs["notes"] == [
        "images/i0x.png, images/i1x.png, images/i2x.png and 2 more: 5 images without a mask",
        "masks/m1x.png, masks/m2x.png: 2 masks without an image",
    ]


# ---- volumes


def write_volumes(root, names, affine=None):
    """Volumes and label maps of one grid; labels are those whose path says so."""
    image = numbered_volume()
    if affine is not None:
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    truth = np.indices(image.shape)[0] % 2
    for name in names:
        is_label = "seg" in name or "label" in name or "_gt" in name
        save_nifti(labels_like(image, truth) if is_label else image, root / f"{name}.nii.gz")


def volume_pairs(cases):
    pairs = {row["image"]: row["labels"] for row in cases.to_dict("records")}
    return {a.rsplit("/")[-1]: b.rsplit("/")[-1] for a, b in pairs.items()}


@pytest.mark.parametrize("affine", [None, np.eye(4)], ids=["geometry", "no geometry"])
@pytest.mark.parametrize(
    ("volume", "label"),
    [("case10_ct", "case1_seg"), ("ab_ct", "a_seg"), ("p12_ct", "p1_seg"), ("ct2", "seg")],
)
def test_labels_of_another_volume(tmp_path, affine, volume, label):
    write_volumes(tmp_path / "t", [volume, label, "ok_ct", "ok_seg"], affine)
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    assert volume_pairs(cases) == {"ok_ct.nii.gz": "ok_seg.nii.gz"}
    assert f"t/{label}.nii.gz: labels without a volume" in notes_of(cases)
    assert f"t/{volume}.nii.gz: volume without labels" in notes_of(cases)


def test_a_grid_that_several_volumes_have_decides_nothing(tmp_path):
    write_volumes(tmp_path / "t", ["a_ct_1", "a_ct_2", "a_seg", "b_ct", "b_seg"])
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    assert volume_pairs(cases) == {"b_ct.nii.gz": "b_seg.nii.gz"}
    assert "a_seg.nii.gz: not paired, as it has the grid of several volumes" in notes_of(cases)


def test_a_second_label_file_sets_the_volume_aside(tmp_path):
    write_volumes(tmp_path / "t", ["a_ct", "a_seg", "a_seg_2", "b_ct", "b_seg"])
    cfg = rsna_config(tmp_path / "t", tmp_path)
    report = prepare.build(layouts.scan(cfg), cfg).report
    assert {case[0] for case in report.set_aside} == {"a"}
    assert "a_seg_2.nii.gz" in report.problems["problem"][0]
    write_volumes(tmp_path / "u", ["images/a", "labels/a", "labels/a_1", "images/b", "labels/b"])
    cfg = rsna_config(tmp_path / "u", tmp_path)
    report = prepare.build(layouts.scan(cfg), cfg).report
    assert {case[0] for case in report.set_aside} == {"a"}


def test_channels_of_nnunet(tmp_path):
    names = [f"imagesTr/case{p}_000{c}" for p in (1, 10) for c in (0, 1)]
    write_volumes(tmp_path / "t", [*names, "labelsTr/case1", "labelsTr/case10"])
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    first_files = cases.assign(image=cases["image"].map(channels.first_file))
    assert volume_pairs(first_files) == {
        "case1_0000.nii.gz": "case1.nii.gz",
        "case10_0000.nii.gz": "case10.nii.gz",
    }
    assert set(cases["channels"]) == {"0::1"}
    assert "without" not in notes_of(cases)


def test_volumes_that_are_numbered_like_channels(tmp_path):
    names = [f"{part}/case_000{k}" for part in ("images", "labels") for k in (0, 1)]
    write_volumes(tmp_path / "t", [*names, "images/case_0002", "labels/case_0003"])
    cases = layouts.scan(rsna_config(tmp_path / "t", tmp_path))
    assert set(volume_pairs(cases)) == {"case_0000.nii.gz", "case_0001.nii.gz"}
    assert "images/case_0002.nii.gz: volume without labels" in notes_of(cases)
    assert "labels/case_0003.nii.gz: labels without a volume" in notes_of(cases)


def test_volumes_of_which_none_has_labels(tmp_path):
    write_volumes(tmp_path / "t", ["images/a1", "labels/a10"])
    with pytest.raises(DataError, match=r"images/a1\.nii\.gz: volume without labels; labels/a10"):
        layouts.scan(rsna_config(tmp_path / "t", tmp_path))


def test_halves_of_acdc(tmp_path):
    heart = "patient001/patient001_frame"
    write_volumes(tmp_path / "t", [f"{heart}01", f"{heart}01_gt", f"{heart}12", f"{heart}13_gt"])
    cfg = config.preset("cardiac", "smoke", data_root=str(tmp_path / "t"))
    notes = notes_of(layouts.scan(cfg))
    assert "patient001/patient001_frame12.nii.gz: volume without labels" in notes
    assert "patient001/patient001_frame13_gt.nii.gz: labels without a volume" in notes


def test_a_case_folder_without_labels_is_told(tmp_path):
    write_volumes(tmp_path / "t", ["s1/ct", "s1/seg", "s2/ct"])
    notes = notes_of(layouts.scan(rsna_config(tmp_path / "t", tmp_path)))
    assert "s2/ct.nii.gz: volume without labels" in notes


# ---- prepare --source_images


def write_one_folder(folder, names):
    rng = np.random.default_rng(0)
    for name in names:
        is_mask = "mask" in name or "HO" in name
        pixels = rng.integers(0, 2, (9, 12)) * 255 if is_mask else rng.integers(0, 255, (9, 12, 3))
        write_picture(folder / name, pixels)


@pytest.mark.parametrize("suffix", ["_mask", None, "_MASK", "_mask.png"])
def test_conversion_unites_numbered_masks(tmp_path, suffix):
    names = ["b (1).png", "b (2).png", "b (1)_mask.png", "b (2)_mask.png", "b (2)_mask_1.png"]
    write_one_folder(tmp_path / "in", names)
    result = convert.to_images_and_masks(
        tmp_path / "in", None, tmp_path / "out", mask_suffix=suffix
    )
    assert (result.pairs, result.united, result.left_out) == (2, ["b (2)"], [])
    assert "which were united: 1 (b (2))" in result.text()


def test_conversion_leaves_other_readers_out(tmp_path, capsys):
    names = [f"{n:02}{s}.png" for n in range(1, 4) for s in ("L", "L_1stHO", "L_2ndHO")]
    write_one_folder(tmp_path / "in", names)
    with pytest.raises(DataError, match="which files are the masks is not clear.*'_1stHO' \\(3\\)"):
        convert.to_images_and_masks(tmp_path / "in", None, tmp_path / "out")
    options = ["--source_images", tmp_path / "in", "--output", tmp_path / "out"]
    assert command("prepare --mask_suffix _1stHO", *options) == 0
    output = capsys.readouterr().out
    assert "images with mask: 3" in output and "left out: 3 (01L_2ndHO.png" in output


def test_conversion_pairs_whole_names_only(tmp_path):
    plant_pictures(tmp_path / "in", "case1.png", "case2.png")
    plant_pictures(tmp_path / "truth", "case10_mask.png", "case2_mask.png")
    result = convert.to_images_and_masks(tmp_path / "in", tmp_path / "truth", tmp_path / "out")
    assert (result.pairs, result.without_mask) == (1, ["case1.png"])
    assert result.left_out == ["case10_mask.png"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (["mask_1.png", "mask_2.png"], "found masks/mask_1.png, masks/mask_2.png: 2 masks"),
        (["lesion/1.png", "vessel/1.png"], "found the folders masks/lesion, masks/vessel; set"),
    ],
)
def test_masks_that_are_there_are_named_where_no_image_has_one(tmp_path, masks, message):
    folders_of(tmp_path, ["image_1.png", "image_2.png"], masks)
    cfg = binary_config(tmp_path, work_dir=str(tmp_path / "work"))
    with pytest.raises(DataError, match="image_1.png: no.*" + message):
        prepare.build(layouts.scan(cfg), cfg)


def test_pictures_of_other_kinds_are_told(tmp_path):
    folders_of(tmp_path, ["1.png", "2.png"], ["1.png", "2.png"])
    for folder in ("images", "masks"):
        write_picture(tmp_path / folder / "3.webp", np.zeros((4, 5)))
        (tmp_path / folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (tmp_path / folder / "notes.txt").write_text("none")
    notes = notes_of(layouts.scan(binary_config(tmp_path)))
    assert "images/3.webp, masks/3.webp: left out, a WebP picture: " in notes
    assert "Thumbs" not in notes and "notes.txt" not in notes
