"""What the values in all mask files together mean: classes are never merged, 255 never lost."""

import json
import struct
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image

from seglib import config, data, layouts, prepare
from seglib.errors import ConfigError, DataError
from seglib.formats.images import IGNORE
from tests.helpers import labels_like, numbered_volume, save_nifti, write_picture

RED, GREEN, DARK_RED = (255, 0, 0), (0, 255, 0), (128, 0, 0)
SQUARE = np.zeros((32, 40), bool)
SQUARE[8:20, 10:30] = True


def tree(root, masks, name="masks"):
    """A folder of random images with these masks, arrays or functions that save one."""
    for i, mask in enumerate(masks):
        noise = np.random.default_rng(i).integers(0, 256, (32, 40))
        write_picture(root / "images" / f"c{i}.png", noise)
        path = root / name / f"c{i}.png"
        path.parent.mkdir(exist_ok=True)
        if callable(mask):
            mask(path)
        else:
            Image.fromarray(mask).save(path)
    return root


def settings(root, preset="binary", **changes):
    values = {"image_size": (32, 40), "augment": {}, "val_split": 0, **changes}
    values |= {"data_root": str(root), "work_dir": str(root.parent / "work")}
    return config.preset(preset, "smoke", **{"patch_size": None, "test_split": 0, **values})


def build(root, preset="binary", **changes):
    cfg = settings(root, preset, **changes)
    return prepare.build(layouts.scan(cfg), cfg)


def grey(value, dtype=np.uint8, where=SQUARE):
    return where.astype(dtype) * dtype(value)


def colour(rgb, where=SQUARE):
    return np.where(where[..., None], np.uint8(rgb), np.uint8(0))


def palette(index, *colours):
    """A function that saves a mask of one palette index."""

    def save(path):
        picture = Image.fromarray(SQUARE.astype(np.uint8) * np.uint8(index))
        picture.putpalette([part for entry in colours for part in entry])
        picture.save(path)

    return save


def jpeg(rgb, quality=80):
    def save(path):
        Image.fromarray(colour(rgb)).save(path, "JPEG", quality=quality)

    return save


VOC = ((0, 0, 0), DARK_RED, (0, 128, 0))
DIFFERENT = {
    "red and green": [colour(RED), colour(GREEN)],
    "two reds": [colour(RED), colour(DARK_RED)],
    "0/128 and 0/255": [grey(128), grey(255)],
    "1 and 2": [grey(1), grey(2)],
    "2 and 3": [grey(2), grey(3)],
    "palette 1 and 2": [palette(1, *VOC), palette(2, *VOC)],
    "palette of blacks": [palette(1, *[(0, 0, 0)] * 3), palette(2, *[(0, 0, 0)] * 3)],
    "16 bits, 205 and 420": [grey(205, np.uint16), grey(420, np.uint16)],
    "JPEG in red and in green": [jpeg(RED), jpeg(GREEN)],
    "red and grey": [colour(RED), grey(128)],
    "128 as background": [grey(255), np.where(SQUARE, np.uint8(255), np.uint8(128))],
}
SAME = {
    "0/1 and 0/255": [grey(1), grey(255)],
    "8 and 16 bits": [grey(255), grey(65535, np.uint16)],
    "1 bit": [grey(255), SQUARE],
    "PNG and JPEG": [grey(255), jpeg((255, 255, 255))],
    "red as PNG and as JPEG": [colour(RED), jpeg(RED, 95)],
    "white and one colour": [grey(255), colour(RED)],
    "one number that is none of the usual": [grey(128), grey(128)],
    "two numbers of a palette with the same colour": [
        palette(1, (0, 0, 0), RED, RED),
        palette(2, (0, 0, 0), RED, RED),
    ],
    "empty ones": [grey(255), grey(0), colour((0, 0, 0))],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_values_that_differ_between_files_are_never_merged(tmp_path, name):
    first, second = DIFFERENT[name]
    with pytest.raises(DataError, match=r"different values.*merged.*mask_encoding") as error:
        build(tree(tmp_path / "t", [first, second] * 4))
    assert "such as c0.png" in str(error.value) and "such as c1.png" in str(error.value)
    # A single one among many is set aside.
    store = build(tree(tmp_path / "single", [first] * 12 + [second]))
    assert store.report.set_aside == ["c12"]
    assert "another class?" in store.report.problems["problem"][0]
    masks = store.open()[1][store.cases["row"]]
    assert (masks[..., 0] == SQUARE).all()


@pytest.mark.parametrize("name", SAME)
def test_other_ways_to_draw_the_same_are_read_alike(tmp_path, name):
    store = build(tree(tmp_path / "t", SAME[name] * 3))
    assert store.report.problems.empty
    rows = np.flatnonzero(store.report.facts["share structure"] > 0)
    assert (store.open()[1][rows][..., 0] == SQUARE).mean() > 0.99
    told = any("read as the same structure" in note for note in store.report.notes)
    assert told == (name == "white and one colour")


def test_the_settings_that_the_message_names(tmp_path):
    root = tree(tmp_path / "t", [colour(RED), colour(GREEN)] * 2)
    one = {"255,0,0": 1, "0,255,0": 0}
    with pytest.raises(DataError, match='mask_encoding={"255, ?0, ?0": 1') as error:
        build(root)
    both = {"255,0,0": 1, "0,255,0": 1}
    assert json.loads(str(error.value).split("mask_encoding=")[1].split(" if all")[0]) == both
    shares = build(root, mask_encoding=one).report.facts["share structure"]
    assert (shares > 0).tolist() == [True, False, True, False]
    assert (build(root, mask_encoding=both).open()[1][..., 0] == SQUARE).all()
    root = tree(tmp_path / "numbers", [grey(1), grey(2)] * 2)
    assert (build(root, mask_encoding="index").open()[1][..., 0] == SQUARE).all()
    shares = build(root, label_map={"2": 1}).report.facts["share structure"]
    assert (shares > 0).tolist() == [False, True, False, True]


def test_a_class_of_several_is_judged_alone(tmp_path):
    root = tmp_path / "t"
    (root / "masks").mkdir(parents=True)
    for name, masks in {"disc": [grey(255)] * 4, "cup": [grey(255), grey(128)] * 2}.items():
        tree(root, masks, f"masks/{name}")
    fields = dict(task="multilabel", class_names=("disc", "cup"))
    with pytest.raises(DataError, match="masks of 'cup'"):
        build(root, **fields)


def test_the_two_halves_of_a_union_may_differ(tmp_path):
    half = np.zeros_like(SQUARE)
    half[:, :20] = True
    root = tmp_path / "t"
    for side, value, where in (("left", 255, half), ("right", 128, ~half)):
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, 256, (32, 40))
            write_picture(root / "images" / f"c{i}.png", noise)
            write_picture(root / f"{side}Mask" / f"c{i}.png", grey(value, where=where & SQUARE))
    store = build(root, "lung")
    assert store.report.problems.empty and (store.open()[1][..., 0] == SQUARE).all()


def write_volume(root, i, labels):
    """Volume `p<i>` of noise with these labels, in images and masks."""
    grid = numbered_volume(labels.shape)
    noise = np.random.default_rng(i).integers(0, 99, labels.shape).astype(np.int16)
    save_nifti(nibabel.Nifti1Image(noise, grid.affine), root / "images" / f"p{i}.nii")
    save_nifti(labels_like(grid, labels), root / "masks" / f"p{i}.nii")


def test_numbers_of_volumes_that_differ_are_never_merged(tmp_path):
    root = tmp_path / "t"
    for i in range(4):
        labels = np.zeros((16, 16, 4))
        labels[3:9, 4:12] = i % 2 + 1
        write_volume(root, i, labels)
    with pytest.raises(DataError, match=r"such as p0\.nii.*such as p1\.nii.*label_map={'"):
        build(root)
    masks = build(root, label_map={"2": 1}).open()[1]
    assert [int((masks[4 * i : 4 * i + 4] == 1).any()) for i in range(4)] == [0, 1, 0, 1]


# 255 as a class


THREE = ("background", "organ", "lesion")


def organ_and(value, shift=0):
    labels = np.zeros((32, 40), np.uint8)
    labels[4:10, 4:12], labels[18:28, 20 + shift : 32] = 1, value
    return labels


def questions(store):
    with pytest.raises(DataError) as error:
        data.loaders(store, settings(store.folder.parent))
    assert str(error.value) in "\n".join(store.report.notes)
    return str(error.value)


def test_maps_of_0_and_255_hold_the_second_class(tmp_path):
    root = tree(tmp_path / "t", [grey(255)] * 4 + [grey(0)])
    store = build(root, "cardiac", class_names=("background", "lesion"))
    assert (store.open()[1][:4, ..., 0] == SQUARE).all()
    assert any("255 is read as lesion" in note for note in store.report.notes)
    data.loaders(store, settings(root, "cardiac", class_names=("background", "lesion")))
    row = store.cases.iloc[0]
    cfg = settings(root, "cardiac", class_names=("background", "lesion"))
    assert (prepare.read_truth(row, cfg, {}, SQUARE.shape)[0][..., 0] == SQUARE).all()


def test_255_beside_maps_of_1_is_asked_for(tmp_path):
    fields = dict(class_names=("background", "lesion"))
    root = tree(tmp_path / "t", [grey(255), grey(1)] * 3)
    with pytest.raises(DataError, match="hold 0 and 255.*hold 1.*label_map="):
        build(root, "cardiac", **fields)
    masks = build(root, "cardiac", label_map={"1": 1, "255": 1}, **fields).open()[1]
    assert (masks[..., 0] == SQUARE).all()
    masks = build(root, "cardiac", label_map={"1": 1, "255": 255}, **fields).open()[1]
    assert set(np.unique(masks[0])) == {0, IGNORE} and set(np.unique(masks[1])) == {0, 1}
    root = tree(tmp_path / "one", [grey(255)] + [grey(1)] * 12)
    assert build(root, "cardiac", **fields).report.set_aside == ["c0"]


def test_255_where_a_class_is_missing_is_asked_for(tmp_path):
    root = tree(tmp_path / "t", [organ_and(255, i) for i in range(4)])
    store = build(root, "cardiac", class_names=THREE)
    text = questions(store)
    assert "ignored" in text and "lesion, which no mask contains" in text
    lines = [part.split("}")[0] + "}" for part in text.split("label_map=")[1:]]
    as_class, ignored = map(json.loads, lines)
    masks = build(root, "cardiac", class_names=THREE, label_map=as_class).open()[1]
    assert (masks[0, ..., 0] == organ_and(2)).all()
    store = build(root, "cardiac", class_names=THREE, label_map=ignored)
    assert (store.open()[1][0, ..., 0] == organ_and(255)).all()
    data.loaders(store, settings(root, "cardiac", class_names=THREE))


def test_a_few_ignored_pixels_are_noted_with_their_share(tmp_path):
    maps = [organ_and(2, i) for i in range(4)]
    maps[1][:2, :16] = 255
    store = build(tree(tmp_path / "t", maps), "cardiac", class_names=THREE)
    assert store.report.undecided == []
    [note] = [note for note in store.report.notes if "255" in note]
    assert note == "c1.png: 255 is ignored (in 1 of 4 label maps, 0.62% of all pixels)"


def test_evenly_spread_greys_with_a_map(tmp_path):
    labels = np.repeat(np.repeat(np.uint8([[0, 80], [170, 255]]), 16, 0), 20, 1)
    root = tree(tmp_path / "t", [labels, labels])
    names = ("background", "a", "b", "c")
    table = {"80": 1, "170": 2, "255": 3}
    masks = build(root, "cardiac", class_names=names, label_map=table).open()[1]
    assert set(np.unique(masks)) == {0, 1, 2, 3}
    with pytest.raises(DataError, match=r"label numbers \[80, 170\].*label_map"):
        build(root, "cardiac", class_names=names)
    table.pop("255")
    store = build(root, "cardiac", class_names=names, label_map=table)
    assert '"255": 3' in questions(store)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_maps_of_few_bits_hold_the_numbers_that_are_stored(tmp_path, bits):
    """Written by hand, so that the numbers in the file are certain."""
    top = 2**bits - 1
    labels = np.arange(32 * 40).reshape(32, 40) * (top + 1) // (32 * 40)
    names = ("background", *(f"class_{k}" for k in range(1, top + 1)))

    def save(path):
        places = (labels[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(places.reshape(32, 40 * bits).astype(np.uint8), axis=1)
        lines = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">IIBBBBB", 40, 32, bits, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
        content = b"\x89PNG\r\n\x1a\n"
        for kind, body in chunks:
            check = struct.pack(">I", zlib.crc32(kind + body))
            content += struct.pack(">I", len(body)) + kind + body + check
        path.write_bytes(content)

    root = tree(tmp_path / "t", [save] * 2)
    masks = build(root, "cardiac", class_names=names).open()[1]
    np.testing.assert_array_equal(masks[0, ..., 0], labels)
    # A program that makes files smaller wrote 0 to 255 in few bits.
    shown = {str(k * 255 // top): k for k in range(1, top + 1)}
    masks = build(root, "cardiac", class_names=names, label_map=shown).open()[1]
    np.testing.assert_array_equal(masks[0, ..., 0], labels)


def test_255_in_a_volume(tmp_path):
    root = tmp_path / "t"
    for i in range(3):
        labels = np.zeros((16, 16, 4))
        labels[3:9, 4:12, 1:3] = 255
        write_volume(root, i, labels)
    fields = dict(class_names=("background", "lesion"), image_size=16)
    assert set(np.unique(build(root, "cardiac", **fields).open()[1])) == {0, 1}
    # The whole volume decides: slices without 1 are no maps of 0 and 255.
    for i in range(3):
        labels[3:9, 4:12, 1] = 1
        write_volume(root, i, labels)
    masks = build(root, "cardiac", **fields).open()[1][..., 0]
    assert set(np.unique(masks[2])) == {0, IGNORE} and set(np.unique(masks[1])) == {0, 1}


def test_255_in_the_table_of_one_class_is_ignored(tmp_path):
    """Also where 0 is the structure, and in a union."""
    picture = colour(RED)
    picture[:4] = GREEN
    root = tree(tmp_path / "t", [picture] * 2)
    table = {"255,0,0": 1, "0,255,0": 255}
    masks = build(root, mask_encoding=table).open()[1][0, ..., 0]
    assert (masks[:4] == IGNORE).all() and (masks[4:] == SQUARE[4:]).all()
    masks = build(root, mask_encoding=table, mask_inverted=True).open()[1][0, ..., 0]
    assert (masks[:4] == IGNORE).all() and (masks[4:] != SQUARE[4:]).all()


def test_float_label_maps_must_be_whole_numbers(tmp_path):
    def save(path, value):
        Image.fromarray(np.float32(SQUARE) * value).save(path, "TIFF")

    names = ("background", "lesion")
    root = tree(tmp_path / "t", [lambda path: save(path, 1)] * 2)
    assert (build(root, "cardiac", class_names=names).open()[1][0, ..., 0] == SQUARE).all()
    root = tree(tmp_path / "u", [lambda path: save(path, 1.5)] * 2)
    with pytest.raises(DataError, match="not whole numbers"):
        build(root, "cardiac", class_names=names)


def test_more_classes_than_a_label_map_can_hold():
    names = ("background", *(f"c{k}" for k in range(1, 255)))
    assert config.preset("cardiac", class_names=names).n_classes == 255
    with pytest.raises(ConfigError, match="256 classes.*255 marks ignored pixels"):
        config.preset("cardiac", class_names=(*names, "c255"))


@pytest.mark.parametrize(
    "fields",
    [
        dict(mask_encoding={"255,0,0": 1, "0,255,0": 2}),
        dict(preset="cardiac", class_names=THREE, mask_encoding={"255,0,0": 3}),
        dict(preset="cardiac", class_names=THREE, label_map={"7": 3}),
        dict(label_map={"7": 2}),
    ],
)
def test_tables_may_only_name_classes(fields):
    with pytest.raises(ConfigError, match="is no class.*class_names"):
        config.preset(**{"name": fields.pop("preset", "binary"), **fields})


# Classes that no mask contains


def test_classes_that_no_mask_contains_are_named(tmp_path):
    maps = [organ_and(2, i) for i in range(6)]
    root = tree(tmp_path / "t", maps)
    names = (*THREE, "vessel", "nerve")
    store = build(root, "cardiac", class_names=names)
    [note] = [note for note in store.report.notes if note.startswith("no mask contains")]
    assert "vessel, nerve: nothing can be learned about them" in note


def test_a_part_of_the_split_that_lacks_a_class_is_named(tmp_path):
    for part, values in (("train", (2, 2, 2)), ("val", (1, 1))):
        tree(tmp_path / "t" / part, [organ_and(value, 3 * (part == "val")) for value in values])
        for path in (tmp_path / "t" / part / "images").iterdir():
            picture = np.array(Image.open(path))
            write_picture(path, picture // 2 if part == "val" else picture)
    store = build(tmp_path / "t", "cardiac", class_names=THREE)
    assert "val: no mask of this part contains lesion" in store.report.notes


def test_the_summary_has_at_most_a_dozen_notes(tmp_path):
    report = build(tree(tmp_path / "t", [grey(255)] * 3)).report
    report.notes[:] = [f"case{i}.nii: lies obliquely" for i in range(80)]
    report.notes += [f"note {i}" for i in range(30)]
    rows = report.summary().query("checked == 'note'")["found"].tolist()
    assert len(rows) == 12 and rows[0] == (
        "case0.nii, case1.nii, case2.nii and 77 more: lies obliquely"
    )
    assert rows[-1] == "and 20 more; all are in report.notes"
