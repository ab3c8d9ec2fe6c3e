"""Masks of a data set and of predictions as files of labelling tools, read back pixel by pixel."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from seglib import annotations, case_io, config, labelling, layouts, phantoms, prepare
from seglib.annotations import writers
from seglib.errors import ConfigError, DataError
from tests.helpers import (
    FakePredictor,
    command,
    error_of,
    perfect,
    read_picture,
    write_picture,
)


def built(cfg):
    """The store of a config's data, and the truth of each case: its image's name -> (H, W, K)."""
    store = prepare.build(layouts.scan(cfg), cfg)
    truths = {}
    for case in store.cases.to_dict("records"):
        shape = (case["height"], case["width"])
        truth = case_io.read_truth(case, cfg, store.info["inverted"], shape)[0]
        truths[case["image"].rpartition("/")[2]] = truth
    return store, truths


def config_of(preset, tmp_path, **changes):
    return config.preset(preset, "smoke", work_dir=str(tmp_path / "work"), **changes)


@pytest.fixture
def palm_cfg(tmp_path):
    tree = phantoms.write("palm", tmp_path / "palm", n=4, seed=1)
    return config_of("palm", tmp_path, data_root=str(tree))


@pytest.fixture
def organs_cfg(tmp_path):
    """Label maps with two classes and ignored pixels, two images of the same stem."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a/s1", "a/s2", "b/s1")):
        labels = rng.choice(np.array([0, 0, 1, 2, 255], np.uint8), (6, 5)).repeat(8, 0).repeat(8, 1)
        write_picture(tmp_path / "d" / "images" / f"{name.replace('/', '_')}.png", labels + number)
        write_picture(tmp_path / "d" / "masks" / f"{name.replace('/', '_')}.png", labels)
    changes = dict(class_names=("background", "liver", "spleen"), label_map={})
    return config_of("cardiac", tmp_path, data_root=str(tmp_path / "d"), **changes)


def test_overlapping_classes_come_back_from_labelme(palm_cfg, tmp_path):
    store, truths = built(palm_cfg)
    exported = labelling.export(store, tmp_path / "out", "labelme")
    assert exported.path == tmp_path / "out" and exported.n_images == len(truths)
    assert any("detachment: " in note and "have no mask of it" in note for note in exported.notes)
    for name, truth in truths.items():
        (image,) = annotations.read(tmp_path / "out" / f"{name.partition('.')[0]}.json").images
        mask = annotations.draw(image, *truth.shape[:2], palm_cfg.class_names, "multilabel")
        np.testing.assert_array_equal(mask, np.where(truth == 255, 0, truth))


@pytest.mark.parametrize("form", ["coco", "coco_rle", "coco_uncompressed_rle"])
def test_label_maps_come_back_from_coco(organs_cfg, tmp_path, form, capsys):
    store, truths = built(organs_cfg)
    assert (np.stack(list(truths.values())) == 255).any()
    exported = labelling.export(store, tmp_path / "out", form)
    assert exported.path == tmp_path / "out" / "annotations.json" and not exported.notes
    file = COCO(str(exported.path))
    names = {category["id"]: category["name"] for category in file.loadCats(file.getCatIds())}
    numbers = {"liver": 1, "spleen": 2, "ignore": 255}
    for image in file.loadImgs(file.getImgIds()):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for entry in file.loadAnns(file.getAnnIds(imgIds=image["id"])):
            mask[file.annToMask(entry) > 0] = numbers[names[entry["category_id"]]]
        np.testing.assert_array_equal(mask, truths[image["file_name"]][..., 0])


def test_a_picture_with_an_orientation_tag_is_described_as_viewers_show_it(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 10:20] = 255
    for name, pixels in (("images", 255 - mask // 2), ("masks", mask)):
        (tmp_path / "d" / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "d" / name / "x.png", exif=exif)
    cfg = config_of("binary", tmp_path, data_root=str(tmp_path / "d"), test_split=0, val_split=0)
    store, _ = built(cfg)
    document = json.loads((labelling.export(store, tmp_path / "out").path).read_text())
    assert (document["images"][0]["height"], document["images"][0]["width"]) == (60, 40)
    # Turned by 90 degrees to the right: rows 5 to 30 from the top are columns from the right.
    assert document["annotations"][0]["bbox"] == [10, 10, 25, 10]


def test_volumes_and_unknown_forms_are_refused(tmp_path):
    heart = phantoms.write("cardiac", tmp_path / "heart", n=1)
    cfg = config_of("cardiac", tmp_path, data_root=str(heart), test_split=0, val_split=0)
    store = prepare.build(layouts.scan(cfg), cfg)
    with pytest.raises(DataError, match="only slices of volumes, .* 3D Slicer"):
        labelling.export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_and_does_not_overwrite(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phantoms.write("binary", tmp_path / "d", n=3)
    line = "prepare --data_dir d --size smoke --export out --form labelme --outline_tolerance 1"
    assert command(line) == 0
    out = capsys.readouterr().out
    assert "masks of 3 images exported to out" in out and "/d/images" in out
    assert len(list((tmp_path / "out").glob("*.json"))) == 3
    assert "exists already, and may hold corrections" in error_of(capsys, line)
    assert "invalid choice: 'voc'" in error_of(capsys, line.replace("labelme", "voc"))
    line = line.replace("--outline_tolerance 1", "--outline_tolerance -1")
    assert "tolerance: -1.0 is not allowed" in error_of(capsys, line)


def test_corrections_in_labelme_are_read_back(palm_cfg, tmp_path):
    """A point moved by hand arrives in the mask."""
    store, _ = built(palm_cfg)
    labelling.export(store, tmp_path / "out", "labelme", tolerance=1)
    path = next(
        path for path in sorted((tmp_path / "out").iterdir()) if '"disc"' in path.read_text()
    )
    document = json.loads(path.read_text())
    (shape,) = [shape for shape in document["shapes"] if shape["label"] == "disc"]
    shape["points"] = [[10, 20], [30, 20], [30, 25], [10, 25]]
    path.write_text(json.dumps(document))
    (image,) = annotations.read(path).images
    mask = annotations.draw(image, image.height, image.width, ("disc",), "binary")
    assert mask.sum() == 100 and mask[20:25, 10:30].all()


def test_predictions_are_written_where_they_can_be_corrected(tmp_path):
    fields = dict(class_names=("cell",), image_size=64, in_channels=1, mean=(0,), std=(1,))
    predictor = FakePredictor(config.preset("binary", "smoke", **fields), perfect)
    pictures = {}
    for name, offset in (("a.png", 0), ("a.jpg", 3), ("b.png", 9)):
        y, x = np.mgrid[:50, :70]
        distance = np.hypot(x - 30 - offset, y - 25)
        pictures[name] = np.where((distance < 18) & (distance > 6), 230, 10).astype(np.uint8)
        write_picture(tmp_path / "in" / name, pictures[name])
    for form in ("coco_rle", "labelme"):
        writer = writers.writer(form, tmp_path / form, ("cell",), root=tmp_path / "in")
        result = predictor.predict_folder(tmp_path / "in", tmp_path / "masks", writer=writer)
        assert len(result["done"]) == 3 and not result["failed"]
        writer.save()
    file = COCO(str(tmp_path / "coco_rle" / "annotations.json"))
    assert [image["file_name"] for image in file.imgs.values()] == sorted(pictures)
    for image in file.imgs.values():
        stem = image["file_name"].replace(".", "_") if "a." in image["file_name"] else "b"
        predicted = np.asarray(Image.open(tmp_path / "masks" / f"{stem}_mask.png")) > 0
        entries = file.loadAnns(file.getAnnIds(imgIds=image["id"]))
        assert predicted.any()
        np.testing.assert_array_equal(sum(map(file.annToMask, entries)), predicted)
        (labelme,) = annotations.read(tmp_path / "labelme" / f"{stem}.json").images
        assert labelme.image == f"../in/{image['file_name']}"
        mask = annotations.draw(labelme, 50, 70, ("cell",), "binary")
        np.testing.assert_array_equal(mask, predicted)
    again = writers.writer("labelme", tmp_path / "labelme", ("cell",))
    shutil.rmtree(tmp_path / "masks")
    result = predictor.predict_folder(tmp_path / "in", tmp_path / "masks", writer=again)
    assert set(result["failed"]) == set(pictures)


def test_impossible_settings_are_refused(palm_cfg, tmp_path):
    store, _ = built(palm_cfg)
    with pytest.raises(ConfigError, match="annotations: 'yolo' is not allowed"):
        labelling.export(store, tmp_path / "out", "yolo")


@pytest.mark.parametrize("form", ["labelme", "coco", "coco_rle"])
def test_exported_masks_are_read_back_by_prepare(tmp_path, monkeypatch, form):
    """The way of the documentation: export, correct (here nothing), prepare, train."""
    monkeypatch.chdir(tmp_path)
    phantoms.write("binary", tmp_path / "d", n=2)
    assert command(f"prepare --data_dir d --size smoke --export out --form {form}") == 0
    line = "prepare --source_images d/images --annotations out --output back"
    assert command(line) == 0
    for path in sorted((tmp_path / "back" / "masks").rglob("*.png")):
        before = next((tmp_path / "d" / "masks").glob(f"{path.stem}*"))
        np.testing.assert_array_equal(read_picture(path) > 0, read_picture(before) > 127)
    assert len(list((tmp_path / "back" / "masks").rglob("*.png"))) == 2
