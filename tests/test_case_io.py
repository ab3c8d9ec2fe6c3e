"""The pixels of one row of the case table: what is read, hashed, and found odd."""

import numpy as np
import pytest
from PIL import Image

from seglib import case_io, config
from seglib.errors import DataError
from seglib.formats import images
from seglib.formats.images import IGNORE
from tests.helpers import labels_like, numbered_volume, save_nifti, write_picture

HEIGHT, WIDTH = 40, 56


def ellipse(height=HEIGHT, width=WIDTH):
    """(height, width) uint8 of 0 and 1, not symmetric in any way."""
    rows, columns = np.ogrid[:height, :width]
    shape = np.hypot((rows - 0.3 * height) / 9, (columns - 0.4 * width) / 14) <= 1
    shape[int(0.3 * height) :, : int(0.4 * width)] = False
    return shape.astype(np.uint8)


@pytest.fixture
def palm(tmp_path):
    """(config, case) of three classes, of which only the disc has a mask."""
    write_picture(
        tmp_path / "image.png", np.full((HEIGHT, WIDTH, 3), 90) + 50 * ellipse()[..., None]
    )
    write_picture(tmp_path / "disc.png", 255 * ellipse())
    case = {"case": "c0", "image": str(tmp_path / "image.png"), "atrophy": "", "detachment": ""}
    return config.preset("palm", "smoke"), {**case, "disc": str(tmp_path / "disc.png")}


def test_columns_of_masks():
    assert config.preset("palm").mask_columns == ["atrophy", "detachment", "disc"]
    assert config.preset("cardiac").mask_columns == ["labels"]


def test_a_class_without_a_mask_is_ignored(palm):
    cfg, case = palm
    masks, annotated, decodings, inverted = case_io.read_truth(case, cfg, {}, (HEIGHT, WIDTH))
    assert masks.shape == (HEIGHT, WIDTH, 3) and masks.dtype == np.uint8
    assert annotated == [False, False, True] and decodings == ["", "", "values 0/255"]
    assert inverted == [(False, False), (False, False), (False, True)]
    assert (masks[..., :2] == IGNORE).all()
    np.testing.assert_array_equal(masks[..., 2], ellipse())


def test_without_any_mask_the_shape_is_the_one_asked_for(palm):
    cfg, case = palm
    masks, annotated, _, _ = case_io.read_truth({**case, "disc": ""}, cfg, {}, (7, 9))
    assert masks.shape == (7, 9, 3) and (masks == IGNORE).all() and annotated == [False] * 3


def test_an_inverted_class_is_turned(palm):
    cfg, case = palm
    masks, _, _, _ = case_io.read_truth(case, cfg, {"disc": True}, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks[..., 2], 1 - ellipse())


def test_masks_of_different_sizes_are_refused(palm, tmp_path):
    cfg, case = palm
    write_picture(tmp_path / "other.png", np.zeros((5, 5)))
    case["atrophy"] = str(tmp_path / "other.png")
    with pytest.raises(DataError, match=r"c0: its masks have different sizes.*\(5, 5\).*5x5"):
        case_io.read_truth(case, cfg, {}, (HEIGHT, WIDTH))


def test_classes_that_are_not_annotated_are_ignored(tmp_path):
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4
    write_picture(tmp_path / "labels.png", labels)
    cfg = config.preset("cardiac", "smoke")
    case = {"case": "a", "image": "a.png", "labels": str(tmp_path / "labels.png")}
    masks, annotated, _, _ = case_io.read_truth(case, cfg, {}, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks[..., 0], labels)
    assert annotated == [True] * 4
    case["annotated"] = "background,myocardium"
    masks, annotated, _, _ = case_io.read_truth(case, cfg, {}, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks[..., 0], np.where(np.isin(labels, (0, 2)), labels, IGNORE))
    assert annotated == [True, False, True, False]


def test_a_label_map_is_needed():
    with pytest.raises(DataError, match="a: no label map; a multiclass image"):
        case_io.read_truth({"case": "a", "labels": ""}, config.preset("cardiac"), {}, (4, 4))


@pytest.fixture
def volume_case(tmp_path):
    """(config, case) of slice 2 of a volume whose voxels are numbered."""
    image = numbered_volume()
    save_nifti(image, tmp_path / "ct.nii.gz")
    save_nifti(labels_like(image, image.get_fdata() % 6), tmp_path / "seg.nii.gz")
    cfg = config.preset("rsna", "smoke", window_level=-500, window_width=1000)
    names = {"image": str(tmp_path / "ct.nii.gz"), "labels": str(tmp_path / "seg.nii.gz")}
    return cfg, {"case": "ct_002", **names, "slice": 2, "label_numbers": "class"}


def test_a_slice_of_a_volume(volume_case):
    cfg, case = volume_case
    pixels = case_io.read_image(case, cfg)
    assert pixels.shape == (9, 7, 3) and pixels.dtype == np.uint8
    masks, _, _, _ = case_io.read_truth(case, cfg, {}, (9, 7))
    assert masks.shape == (9, 7, 1) and set(np.unique(masks)) == set(range(6))
    assert not np.array_equal(pixels, case_io.read_image({**case, "slice": 3}, cfg))


@pytest.mark.parametrize("number", [5, "", "-1", 1.5])
def test_a_slice_that_the_volume_does_not_have(volume_case, number):
    cfg, case = volume_case
    with pytest.raises(DataError, match=f"ct_002: no slice {number!r} in .*, which has 5; scan"):
        case_io.read_image({**case, "slice": number}, cfg)


def test_equal_pixels_have_one_hash_in_any_format(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    hashes = []
    for name in ("a.png", "b.bmp", "c.tif"):
        write_picture(tmp_path / name, pixels)
        case = {"case": name, "image": str(tmp_path / name)}
        hashes.append(case_io.content(case, pixels))
    assert len({of_file for of_file, _ in hashes}) == 3
    assert len({of_pixels for _, of_pixels in hashes}) == 1
    other_shape = pixels.reshape(8, 9, 3)
    assert case_io.content(case, other_shape)[1] != hashes[0][1]


def test_empty_slices_are_no_copies_of_each_other(volume_case):
    _, case = volume_case
    blank, full = np.zeros((4, 4, 1), np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    names = [{**case, "case": name} for name in "ab"]
    of_blank = [case_io.content(named, blank)[1] for named in names]
    of_full = [case_io.content(named, full)[1] for named in names]
    assert of_blank[0] != of_blank[1] and of_full[0] == of_full[1]


@pytest.mark.parametrize("name", case_io.TURNS)
def test_edges_tell_how_a_mask_was_turned(name):
    """An image whose mask was turned back: the turn that brings it over its image fits best."""
    mask = ellipse(64, 64)
    noise = np.random.default_rng(0).integers(0, 40, mask.shape)
    image = (60 + 120 * mask + noise)[..., None].astype(np.uint8)
    undone = next(
        candidate(mask)
        for candidate in case_io.TURNS.values()
        if np.array_equal(case_io.TURNS[name](candidate(mask)), mask)
    )
    sums, variances = case_io.edge_agreement(image, undone[..., None])
    assert list(case_io.TURNS)[sums.argmax()] == name
    assert name == "as they are" or sums.max() - sums[0] > 4 * np.sqrt(variances[sums.argmax()])
    assert sums.max() > 1.5 * np.sort(sums)[-2]


def test_edges_of_too_little_say_nothing():
    image, dot = np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64, 1), np.uint8)
    dot[30, 30] = 1
    assert not case_io.edge_agreement(image, dot).any()
    assert not case_io.edge_agreement(image[:7], dot[:7]).any()


def test_warnings_name_the_file(palm, tmp_path):
    cfg, case = palm
    image = case_io.read_image(case, cfg)
    masks, _, _, _ = case_io.read_truth(case, cfg, {}, image.shape[:2])
    assert case_io.warnings_of(case, cfg, image, masks) == {}
    [(text, file)] = case_io.warnings_of(case, cfg, image * 0, masks).items()
    assert text.startswith("every pixel is 0: nothing can be seen") and file == "image.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "turned.jpg", exif=exif)
    turned = {**case, "image": str(tmp_path / "turned.jpg")}
    (text, file), *others = case_io.warnings_of(turned, cfg, image, masks).items()
    assert text.startswith("EXIF orientation 6") and file == "turned.jpg"
    # The masks lack the tag that the image has.
    assert [
        text.startswith("its orientation tag is 1 and that of its image is 6") for text, _ in others
    ] == [True]


def test_label_numbers_that_are_shifted_by_one(tmp_path):
    cfg = config.preset("cardiac", "smoke")
    write_picture(tmp_path / "a.png", np.arange(64).reshape(8, 8))
    case = {"case": "a", "image": str(tmp_path / "a.png"), "labels": "/x/labels.png"}
    image = images.read_image(case["image"], 1)
    mostly_ignored = np.full((8, 8, 1), IGNORE, np.uint8)
    [(text, file)] = case_io.warnings_of(case, cfg, image, mostly_ignored).items()
    assert "more than half of it is 255" in text and file == "labels.png"
    partly = {**case, "annotated": "background"}
    assert case_io.warnings_of(partly, cfg, image, mostly_ignored) == {}


def test_a_tag_of_the_mask_alone_is_noted(palm, tmp_path):
    cfg, case = palm
    image = case_io.read_image(case, cfg)
    masks, _, _, _ = case_io.read_truth(case, cfg, {}, image.shape[:2])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(masks[..., 0] * 255).save(tmp_path / "turned.png", exif=exif)
    turned = {**case, cfg.class_names[0]: str(tmp_path / "turned.png")}
    texts = case_io.warnings_of(turned, cfg, image, masks)
    assert set(texts.values()) == {"turned.png"}
    assert any(text.startswith("EXIF orientation 8") for text in texts)
    assert any("its orientation tag is 8 and that of its image is 1" in text for text in texts)
