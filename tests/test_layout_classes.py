"""What the masks of a folder show where nobody has named the classes: `layouts.complete`."""

import contextlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import config, layouts, prepare
from seglib.__main__ import main
from seglib.errors import DataError
from seglib.layouts import class_files, class_values, classes
from tests.helpers import binary_config, labels_like, numbered_volume, save_nifti

BLUE, TEAL = (0, 0, 255), (0, 128, 128)


def label_map(*numbers, shift=0):
    """(32, 40): a stripe of 4 rows for each number, on 0."""
    labels = np.zeros((32, 40), np.uint8)
    for k, number in enumerate(numbers):
        labels[1 + 5 * k : 5 + 5 * k, 3 + shift : 20 + shift] = number
    return labels


def coloured(*colours, shift=0):
    labels = label_map(*range(1, len(colours) + 1), shift=shift)
    return np.array([(0, 0, 0), *colours], np.uint8)[labels]


def disc(radius):
    rows, columns = np.indices((32, 40))
    return (((rows - 16) ** 2 + (columns - 20) ** 2 < radius**2) * 255).astype(np.uint8)


def tree(root, **masks):
    """Images of noise `c0.png` ... and masks: path of the folder -> one mask an image.

    A path with a star, such as masks/*_disc, names the files.
    """
    for path, arrays in masks.items():
        pattern = path if "*" in path else f"{path}/*"
        for i, array in enumerate(arrays):
            noise = np.random.default_rng(i).integers(0, 256, (32, 40), np.uint8)
            for name, pixels in ((f"images/c{i}", noise), (pattern.replace("*", f"c{i}"), array)):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / f"{name}.png")
    return root


def config_of(root, **fields):
    """The config and its store after a scan."""
    cfg = binary_config(root, work_dir=str(root.parent / "work"), **fields)
    store = prepare.build(layouts.scan(cfg), cfg)
    return cfg, store


# ---- classes that exclude each other


def test_numbers_are_classes(tmp_path, capsys):
    cfg, store = config_of(tree(tmp_path / "t", masks=[label_map(1, 3, shift=i) for i in range(4)]))
    assert cfg.task == "multiclass" and cfg.loss == "dice_focal"
    assert cfg.class_names == ("background", "class_1", "class_3")
    assert cfg.label_map == {"1": 1, "3": 2}
    assert set(np.unique(store.open()[1])) == {0, 1, 2, 255}
    share = f"{4 * 17 / (32 * 40):.2%}"
    printed = capsys.readouterr().out
    assert re.search(rf"class_3 +3 +4 +{share}", printed)
    assert "2 classes that exclude each other, by number; 4 mask files read" in printed


def test_the_printed_lines_say_the_same(tmp_path, capsys):
    root = tree(tmp_path / "t", masks=[coloured(BLUE, TEAL, shift=i) for i in range(4)])
    cfg, store = config_of(root)
    printed = capsys.readouterr().out
    line = re.search(r"cfg = (config\.preset\(.*\))", printed)[1]
    again = eval(line, {"config": config})
    for name in (*config.OF_CLASSES, "loss"):
        assert getattr(again, name) == getattr(cfg, name)
    options = shlex.split(re.search(r"command line: (.*)", printed)[1])
    options += ["--data_dir", str(root), "--work_dir", cfg.work_dir, "--size", "smoke"]
    assert main(["prepare", *options]) == 0
    assert f"store: {store.folder}" in capsys.readouterr().out, "the same settings: the same store"


def test_names_of_dataset_json(tmp_path):
    root = tree(tmp_path / "t", masks=[label_map(1, 3, shift=i) for i in range(4)])
    labels = {"background": 0, "spleen": 1, "liver": 2, "left kidney": 3}
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    cfg, store = config_of(root)
    assert cfg.class_names == ("background", "spleen", "left kidney"), "no mask shows the liver"
    assert set(np.unique(store.open()[1])) == {0, 1, 2, 255}
    assert not {"hflip", "vflip"} & cfg.augment.keys(), "a mirrored left kidney is a right one"


@pytest.mark.parametrize("n_classes", [1, 2])
def test_pixels_that_nnunet_ignores_are_no_class(tmp_path, n_classes):
    root, volume = tmp_path / "Dataset001_A", numbered_volume((16, 16, 4))
    truth = np.random.default_rng(0).integers(0, n_classes + 2, (3, 16, 16, 4))
    for i, labels in enumerate(truth):
        save_nifti(volume, root / f"imagesTr/a{i}_0000.nii.gz")
        save_nifti(labels_like(volume, labels), root / f"labelsTr/a{i}.nii.gz")
    names = ("liver", "spleen")[:n_classes]
    table = {name: number for number, name in enumerate(("background", *names, "ignore"))}
    content = {"channel_names": {"0": "CT"}, "labels": table, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    cfg, store = config_of(root, image_size=16)
    assert cfg.class_names == (names if n_classes == 1 else ("background", *names))
    masks = store.open()[1]
    assert (masks == 255).sum() == (truth == n_classes + 1).sum()
    for number in range(n_classes + 1):
        assert (masks == number).sum() == (truth == number).sum()


def test_names_in_other_writings_than_latin(tmp_path):
    root = tree(tmp_path / "t", masks=[label_map(1, 2, shift=i) for i in range(4)])
    labels = {"0": "background", "1": "肝臓", "2": "../脾臓"}
    (root / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    cfg, store = config_of(root)
    assert cfg.class_names == ("background", "肝臓", "_脾臓")
    assert set(np.unique(store.open()[1])) == {0, 1, 2, 255}


def test_names_of_labelmap_txt(tmp_path):
    """CVAT: also where no mask shows two of the colours."""
    masks = [coloured(BLUE), coloured(TEAL)] * 2
    root = tree(tmp_path / "t", masks=masks)
    text = (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncyst:0,128,128::\npolyp:0,0,255::\n"
    )
    (root / "labelmap.txt").write_text(text)
    cfg, _ = config_of(root)
    assert cfg.class_names == ("background", "cyst", "polyp")
    assert cfg.mask_encoding == {"0,128,128": 1, "0,0,255": 2}
    tree(root, masks=[coloured(BLUE, TEAL)] * 4)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncyst:0,128,128::\n")
    with pytest.raises(DataError, match=r"labelmap\.txt: it does not name the colours 0,0,255"):
        config_of(root)


def test_msd_says_spleen(tmp_path):
    """Task09_Spleen: 1 is the spleen; no class is one of the preset of CT, the liver."""
    root, volume = tmp_path / "Task09_Spleen", numbered_volume((16, 16, 4))
    for i in range(4):
        labels = np.zeros((16, 16, 4))
        labels[3:9, 4 + i : 12] = 1
        save_nifti(volume, root / f"imagesTr/spleen_{i}.nii.gz")
        save_nifti(labels_like(volume, labels), root / f"labelsTr/spleen_{i}.nii.gz")
    dataset = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
    (root / "dataset.json").write_text(json.dumps(dataset))
    cfg, store = config_of(root)
    assert (cfg.task, cfg.class_names) == ("binary", ("spleen",))
    assert (store.cases["spleen"] != "").all() and (store.open()[1] == 1).any()
    rsna = config.preset("rsna", "smoke", data_root=str(root), work_dir=str(tmp_path / "work"))
    with pytest.raises(
        DataError, match="its labels are 0 background, 1 spleen|its labels are 1 sp"
    ):
        prepare.build(layouts.scan(rsna), rsna)


# ---- classes that may overlap


@pytest.mark.parametrize("paths", [("masks/disc", "masks/cup"), ("masks/*_disc", "masks/*_cup")])
def test_nested_classes(tmp_path, capsys, paths):
    masks = dict(zip(paths, ([disc(12)] * 4, [disc(6)] * 4)))
    cfg, store = config_of(tree(tmp_path / "t", **masks))
    assert cfg.task == "multilabel" and cfg.loss == "combined"
    assert set(cfg.class_names) == {"disc", "cup"}
    assert "cup lies inside disc" in capsys.readouterr().out
    pixels = store.open()[1]
    in_disc, in_cup = (pixels[..., cfg.class_names.index(name)] == 1 for name in ("disc", "cup"))
    assert in_cup.any() and in_disc[in_cup].all() and in_disc.sum() > 2 * in_cup.sum()


def test_one_folder_or_suffix_is_one_structure_of_its_name(tmp_path):
    for name, path in (("a", "masks/disc"), ("b", "masks/*_disc")):
        cfg, store = config_of(tree(tmp_path / name / "t", **{path: [disc(12)] * 3}))
        assert (cfg.task, cfg.class_names) == ("binary", ("disc",))
        assert store.report.problems.empty


def test_two_readers_are_asked_for(tmp_path):
    masks = {"masks/first": [disc(12)] * 4, "masks/second": [np.roll(disc(12), 3, 1)] * 4}
    root = tree(tmp_path / "t", **masks)
    with pytest.raises(DataError, match="first and second are alike") as error:
        config_of(root)
    assert "class_names=('first', 'second')" in str(error.value)
    assert "--class_names first" in str(error.value)
    cfg, store = config_of(root, class_names=("first",))
    assert cfg.task == "binary" and (store.cases["first"] != "").all()


# ---- two readings


def random_instances(n, seed):
    return label_map(*range(1, n + 1), shift=seed)


ASKED = {
    "instances": ([random_instances(n, n) for n in (3, 5, 4, 6)], "count the objects"),
    "grey levels": ([label_map(85, 170, 255, shift=i) for i in range(4)], "grey values"),
    "255 beside 1": ([label_map(1, 255, shift=i) for i in range(4)], "255 beside 1"),
}


@pytest.mark.parametrize("name", ASKED)
def test_two_readings_are_asked_for(tmp_path, name, capsys):
    masks, reason = ASKED[name]
    root = tree(tmp_path / "t", masks=masks)
    line = [
        "prepare",
        "--data_dir",
        str(root),
        "--work_dir",
        str(tmp_path / "w"),
        "--size",
        "smoke",
    ]
    assert main(line) == 2
    message = capsys.readouterr().err
    assert "can be read in 2 ways" in message and reason in message
    answers = message.partition("on the command line:\n")[2].strip().splitlines()
    assert len(answers) == 2
    results = []
    for answer in answers:
        options = shlex.split(answer.partition(": ")[2])
        assert main([*line, *options]) == 0, capsys.readouterr().err
        results.append(re.search(r"store: \S+/(\S+) ", capsys.readouterr().out)[1])
    assert results[0] != results[1]


def test_what_the_user_named_stays(tmp_path, capsys):
    root = tree(tmp_path / "t", masks=[label_map(1, 2, shift=i) for i in range(4)])
    for names in (("cyst", "polyp"), ("background", "cyst", "polyp")):
        cfg, _ = config_of(root, class_names=names)
        assert cfg.task == "multiclass" and cfg.class_names == ("background", "cyst", "polyp")
    one = binary_config(root, class_names=("tumour",))
    layouts.scan(one)
    assert (one.task, one.class_names) == ("binary", ("tumour",))
    chosen = binary_config(root, mask_encoding="index")
    layouts.scan(chosen)
    assert (chosen.task, chosen.class_names) == ("binary", ("structure",))


def test_which_name_has_which_colour_is_asked_for(tmp_path):
    root = tree(tmp_path / "t", masks=[coloured(BLUE, TEAL, shift=i) for i in range(4)])
    with pytest.raises(DataError, match="say which is which") as error:
        config_of(root, class_names=("background", "cyst", "polyp"))
    table = re.search(r"mask_encoding=({.*?})", str(error.value))[1]
    cfg, _ = config_of(
        root, class_names=("background", "cyst", "polyp"), mask_encoding=json.loads(table)
    )
    assert cfg.task == "multiclass"


def test_a_network_keeps_its_classes_on_other_data(tmp_path):
    """A saved config has decided its classes, even where they are those of the preset."""
    root = tree(tmp_path / "t", masks=[label_map(1, 2, shift=i) for i in range(4)])
    trained = config.from_dict(binary_config(root).to_dict())
    layouts.scan(trained)
    assert (trained.task, trained.class_names) == ("binary", ("structure",))
    assert not classes.are_open(config.load(binary_config(root).save(tmp_path / "run.json")))
    assert not classes.are_open(config.preset("lung", data_root=str(root)))


def test_plain_masks_change_nothing(tmp_path, capsys):
    before = binary_config(tmp_path / "t").to_dict()
    cfg, _ = config_of(tree(tmp_path / "t", masks=[disc(9)] * 3))
    assert {**cfg.to_dict(), "work_dir": ""} == {**before, "work_dir": ""}
    assert re.search(r"structure +255 +3 +", capsys.readouterr().out)


def test_numbers_that_a_list_lacks_are_refused(tmp_path):
    """Else the images without them would be left, as those of one structure."""
    root = tree(tmp_path / "d", masks=[label_map(1)] * 4 + [label_map(1, 2)] * 6)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    with pytest.raises(DataError, match=r"dataset\.json: it does not name the numbers 2 of the"):
        layouts.complete(binary_config(root))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 3, "b": 4}}))
    with pytest.raises(DataError, match="does not name the numbers 1, 2 of"):
        layouts.complete(binary_config(root))


def test_one_of_several_named_classes_is_shown_as_it_is_stored(tmp_path):
    root = tree(tmp_path / "d", masks=[label_map(1)] * 4)
    (root / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "a", "2": "b"}})
    )
    understood = layouts.complete(binary_config(root))
    assert understood.table["in the files"].tolist() == ["1"]
    assert understood.notes == ("left out, as no mask shows it: b",)
    white = tree(tmp_path / "w", masks=[label_map(255)] * 4)
    (white / "dataset.json").write_text((root / "dataset.json").read_text())
    assert "names a, b" in layouts.complete(binary_config(white)).notes[0]


def test_colours_with_names_of_the_user_are_asked_for_one_by_one(tmp_path):
    masks = [coloured(BLUE)] * 3 + [coloured(TEAL)] * 3
    root = tree(tmp_path / "d", masks=masks)
    with pytest.raises(
        DataError, match=r"say which is which: class_names=\('background', 'a', 'b'"
    ):
        layouts.complete(binary_config(root, class_names=("background", "a", "b")))


def test_folders_of_classes_are_named_in_the_table(tmp_path):
    masks = {"disc": [disc(12)] * 4, "cup": [disc(5)] * 4}
    understood = layouts.complete(binary_config(tree(tmp_path / "d", **masks)))
    assert sorted(understood.table["in the files"]) == ["cup", "disc"]


def test_colours_in_jpeg_files_are_not_trained_by_the_few_that_show_one(tmp_path):
    masks = [coloured(BLUE)] * 4 + [coloured(BLUE, TEAL)] * 6
    root = tree(tmp_path / "d", masks=masks)
    for file in (root / "masks").iterdir():
        Image.open(file).save(file.with_suffix(".jpg"), quality=90)
        file.unlink()
    with pytest.raises(DataError, match="one of 6 masks of 10 with too many values for classes"):
        layouts.complete(binary_config(root))


def test_the_folder_is_shown_from_the_working_directory_where_that_is_shorter(
    tmp_path, monkeypatch
):
    table = pd.DataFrame({classes.SHARE: [0.1]})
    shown = classes.Classes("one structure", {}, table, 1, 1)
    monkeypatch.chdir(tmp_path)
    assert "data_root='here/x'" in shown.text(tmp_path / "here" / "x")
    assert "data_root='here/x'" in shown.text("here/x")


@pytest.mark.parametrize(
    "masks",
    [
        [label_map(1, shift=k % 5) * np.uint8(255) for k in range(100)],
        [label_map(1, 2, shift=k % 5) for k in range(100)],
        [coloured(BLUE, TEAL, shift=k % 5) for k in range(100)],
    ],
    ids=["one structure", "numbers", "colours"],
)
def test_a_second_scan_reads_only_masks_that_changed(tmp_path, monkeypatch, masks):
    root = tree(tmp_path / "d", masks=masks)
    read = []
    original = class_values.mask_values.read
    monkeypatch.setattr(
        class_values.mask_values, "read", lambda path: read.append(path) or original(path)
    )

    def found():
        read.clear()
        cfg = binary_config(root, work_dir=str(tmp_path / "work"))
        layouts.scan(cfg)
        return cfg.class_names, cfg.mask_encoding

    first = found()
    assert len(read) == 100
    assert found() == first and read == []
    changed = root / "masks" / "c7.png"
    Image.fromarray(coloured(BLUE, TEAL, (255, 0, 0))).save(changed)
    with contextlib.suppress(DataError):  # a colour more, or colours among numbers
        found()
    assert read == [str(changed)]
    (tmp_path / "work" / "stores" / class_values._KEPT).write_text("damaged")
    with contextlib.suppress(DataError):
        found()
    assert len(read) == 100


def test_a_second_scan_reads_no_mask_of_a_folder_for_each_class(tmp_path, monkeypatch):
    root = tmp_path / "d"
    for name in ("images", "masks/cup", "masks/disc"):
        (root / name).mkdir(parents=True)
    for k in range(100):
        Image.fromarray(label_map(1, shift=k % 5)).save(root / "images" / f"c{k}.png")
        for number, name in enumerate(("cup", "disc"), start=1):
            plane = (label_map(1, 2, shift=k % 5) == number) * np.uint8(255)
            Image.fromarray(plane).save(root / "masks" / name / f"c{k}.png")
    read = []
    original = class_files.mask_pixels.read_mask
    monkeypatch.setattr(
        class_files.mask_pixels,
        "read_mask",
        lambda cell, *settings: read.append(Path(cell)) or original(cell, *settings),
    )

    def classes_of(**settings):
        read.clear()
        cfg = binary_config(root, work_dir=str(tmp_path / "work"), **settings)
        return layouts.complete(cfg).table

    first = classes_of()
    assert first["class"].tolist() == ["cup", "disc"] and len(set(read)) == 200
    assert len({mask for mask in read if read.count(mask) > 1}) == 16  # compared in pairs
    pd.testing.assert_frame_equal(classes_of(), first)
    assert not read
    changed = root / "masks" / "cup" / "c70.png"
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(changed)
    classes_of()
    assert read == [changed]
    classes_of(mask_encoding="threshold")
    assert len(set(read)) == 200


def test_few_masks_leave_nothing_in_the_work_folder(tmp_path):
    root = tree(tmp_path / "d", masks=[label_map(1, 2)] * 4)
    layouts.scan(binary_config(root, work_dir=str(tmp_path / "work")))
    assert not (tmp_path / "work").exists()
