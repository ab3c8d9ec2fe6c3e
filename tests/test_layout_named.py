"""Pictures and masks that only their names bring together: layout `named`."""

import numpy as np
import pytest
from PIL import Image

from seglib import layouts, prepare
from seglib.errors import DataError
from tests.helpers import binary_config

SIZE = (32, 40)


def write(path, *boxes, numbers=None):
    """Noise, or a mask with boxes (top, left, bottom, right) of 255, or of 1, 2 ... ."""
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, SIZE, np.uint8)
    if boxes:
        pixels = np.zeros(SIZE, np.uint8)
        for k, (top, left, bottom, right) in enumerate(boxes, start=1):
            pixels[top:bottom, left:right] = k if numbers else 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scanned(root, **fields):
    cfg = binary_config(root, work_dir=str(root.parent / "work"), **fields)
    return cfg, layouts.scan(cfg)


def test_roboflow(tmp_path):
    """Images and masks share a folder; copies of one source picture are one patient."""
    root = tmp_path / "set"
    for part, names in (("train", "abcd"), ("valid", "ef"), ("test", "g")):
        for k, name in enumerate(names):
            for copy in range(2):
                stem = root / part / f"{name}_jpg.rf.{copy}{k}0f3a9b7c{ord(name):x}"
                write(stem.with_name(f"{stem.name}.jpg"))
                boxes = ((2, 3, 12, 15 + k), (15, 5, 30, 20 + copy))
                write(stem.with_name(f"{stem.name}_mask.png"), *boxes, numbers=True)
        (root / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, a\n2, b\n")
    cfg, cases = scanned(root)
    assert cfg.task == "multiclass" and cfg.class_names == ("background", "a", "b")
    assert cases["split"].value_counts().to_dict() == {"train": 8, "val": 4, "test": 2}
    assert sorted(set(cases["patient"])) == list("abcdefg")
    store = prepare.build(cases, cfg)
    assert store.report.problems.empty and set(np.unique(store.open()[1])) == {0, 1, 2, 255}


def test_a_folder_a_case(tmp_path):
    """Drishti-GS1: the masks of a case lie in a folder of its own."""
    root = tmp_path / "set"
    for part in ("Training", "Test"):
        for k in range(3):
            name = f"eye_{part[:2]}{k}"
            write(root / part / "Images" / f"{name}.png")
            maps = root / part / "GT" / name / "SoftMap"
            write(maps / f"{name}_ODsegSoftmap.png", (4, 4, 28, 30))
            write(maps / f"{name}_cupsegSoftmap.png", (10, 10, 20, 20))
    cfg, cases = scanned(root)
    assert cfg.task == "multilabel" and set(cfg.class_names) == {"OD", "cup"}
    assert cases["split"].value_counts().to_dict() == {"train": 3, "test": 3}
    assert cases["cup"].str.contains("cupsegSoftmap").all()


def test_a_folder_a_class_beside_the_images(tmp_path):
    root = tmp_path / "set"
    for k in range(3):
        write(root / "image" / f"c{k}.png")
        write(root / "disc" / f"c{k}.png", (4, 4, 28, 30))
        write(root / "cup" / f"c{k}.png", (10, 10, 20, 20 + k))
    cfg, cases = scanned(root)
    assert cfg.task == "multilabel" and set(cfg.class_names) == {"disc", "cup"}
    assert prepare.build(cases, cfg).report.problems.empty


def test_one_folder_for_images_and_masks_of_one_structure(tmp_path):
    root = tmp_path / "set"
    for k in range(3):
        write(root / f"c{k}.png")
        write(root / f"c{k}_vessels.png", (4, 4, 28, 30))
    cfg, cases = scanned(root)
    assert (cfg.task, cfg.class_names) == ("binary", ("vessels",))
    assert (cases["vessels"] != "").all()


def test_two_pictures_of_one_name_are_not_guessed(tmp_path):
    root = tmp_path / "set"
    for folder in ("images/a", "images/b", "labels_a"):
        write(root / folder / "c0.png", *([(4, 4, 9, 9)] if folder == "labels_a" else []))
    with pytest.raises(DataError, match="no data found"):
        scanned(root)


def test_real_trees(real, tmp_path):
    cfg, cases = scanned(real("drishti_gs1"), mask_encoding="threshold")
    assert set(cfg.class_names) == {"OD", "cup"} and len(cases) == 30
    assert cases["split"].value_counts().to_dict() == {"test": 18, "train": 12}
    with pytest.raises(DataError, match="1stHO and 2ndHO are alike"):
        scanned(real("chase_db1"))
