"""Mask files that are decoded or refused."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from seglib.errors import DataError
from seglib.formats import images, mask_pixels
from seglib.formats.images import IGNORE
from tests.helpers import BLUE, GREEN, RED, dice, disc, read_picture, save_picture


def paint(labels, colours):
    """(H, W) numbers -> (H, W, 3) uint8."""
    return np.array(colours, np.uint8)[labels]


# Masks that `auto` decodes


def two_values(low, high, dtype=np.uint8):
    return np.where(disc(), high, low).astype(dtype)


UNAMBIGUOUS = {
    "0/1": (two_values(0, 1), "values 0/1"),
    "0/255": (two_values(0, 255), "values 0/255"),
    "0/128": (two_values(0, 128), "values 0/128"),
    "two greys": (two_values(60, 200), "values 60/200"),
    "bool": (disc(), "1 bit"),
    "16 bit": (two_values(0, 65535, np.uint16), "values 0/65535"),
    "16 bit 0/1": (two_values(0, 1, np.uint16), "values 0/1"),
    "colour file, grey": (np.dstack([two_values(0, 255)] * 3), "values 0/255"),
    "red on black": (paint(disc() * 1, [(0, 0, 0), RED]), "one colour on black"),
    "yellow on black": (paint(disc() * 1, [(0, 0, 0), (255, 255, 0)]), "one colour on black"),
    "dark red on black": (paint(disc() * 1, [(0, 0, 0), (128, 0, 0)]), "one colour on black"),
    "darker red on black": (paint(disc() * 1, [(0, 0, 0), (100, 0, 0)]), "colour"),
    "alpha constant": (
        np.dstack([two_values(0, 255)] * 3 + [np.full((60, 80), 255, np.uint8)]),
        "values 0/255",
    ),
    "alpha is the mask": (
        np.dstack([np.zeros((60, 80, 3), np.uint8), two_values(0, 255)]),
        "transparency",
    ),
    "alpha is the mask, grey": (
        np.dstack([np.full((60, 80), 9, np.uint8), two_values(0, 255)]),
        "transparency",
    ),
}


@pytest.mark.parametrize("name", UNAMBIGUOUS)
def test_auto_decodes(tmp_path, name):
    array, decoding = UNAMBIGUOUS[name]
    mask = mask_pixels.read_mask(save_picture(tmp_path / "m.png", array))
    assert (mask.pixels.dtype, mask.pixels.shape) == (np.uint8, (60, 80))
    np.testing.assert_array_equal(mask.pixels, disc())
    assert decoding in mask.decoding
    assert mask.looks_inverted is False


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif"])
def test_auto_decodes_in_other_formats(tmp_path, suffix):
    mask = mask_pixels.read_mask(save_picture(tmp_path / f"m.{suffix}", two_values(0, 255)))
    np.testing.assert_array_equal(mask.pixels, disc())


def test_auto_decodes_floats(tmp_path):
    mask = mask_pixels.read_mask(save_picture(tmp_path / "m.tif", two_values(0, 1, np.float32)))
    np.testing.assert_array_equal(mask.pixels, disc())


@pytest.mark.parametrize("value", [0, 1, 255])
def test_auto_decodes_empty_and_full(tmp_path, value):
    mask = mask_pixels.read_mask(
        save_picture(tmp_path / "m.png", np.full((20, 30), value, np.uint8))
    )
    assert set(np.unique(mask.pixels)) == {int(value > 0)}


@pytest.mark.parametrize("size", [(31, 47), (45, 70), (143, 211), (240, 320)])
def test_auto_cuts_the_grey_edges_of_a_resized_mask(tmp_path, size):
    grey = cv2.resize(two_values(0, 255), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert len(np.unique(grey)) > 10
    mask = mask_pixels.read_mask(save_picture(tmp_path / "m.png", grey))
    np.testing.assert_array_equal(mask.pixels, grey > 127)
    assert "grey edges" in mask.decoding


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("colour", [(255, 255, 255), (254, 0, 0)])
def test_auto_sees_through_the_ringing_of_jpeg(tmp_path, quality, colour):
    truth = disc(120, 160)
    path = save_picture(tmp_path / "m.jpg", paint(truth * 1, [(0, 0, 0), colour]), quality=quality)
    assert len(np.unique(images.read_pixels(path)[0])) > 10
    mask = mask_pixels.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, images.read_pixels(path)[0].max(axis=2) > 127)
    assert dice(mask.pixels == 1, truth) > 0.97
    assert "grey edges, cut at 127" in mask.decoding


def palette_mask(path, index, colours):
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
    assert picture.mode == "P"
    picture.save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [(255, 255, 255), RED, (0, 0, 60), (1, 1, 1)])
def test_auto_decodes_the_index_of_a_palette(tmp_path, suffix, colour):
    path = palette_mask(tmp_path / f"m.{suffix}", disc(), [(0, 0, 0), colour])
    mask = mask_pixels.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, disc())
    assert mask.decoding == "palette index"


def test_auto_decodes_a_palette_of_greys(tmp_path):
    grey = cv2.resize(two_values(0, 255), (200, 150), interpolation=cv2.INTER_LINEAR)
    mask = mask_pixels.read_mask(
        palette_mask(tmp_path / "m.png", grey, [(v, v, v) for v in range(256)])
    )
    np.testing.assert_array_equal(mask.pixels, grey > 127)
    assert "grey" in mask.decoding


# Masks that `auto` must refuse


def bands(*values):
    """(60, 80): thick vertical bands of these values."""
    return np.repeat(np.array(values)[np.arange(80) * len(values) // 80][None], 60, axis=0)


def with_speck(labels, value):
    """The labels with a small area (0.2 % of the foreground) of one more value."""
    labels = labels.copy()
    labels[30:32, 40:41] = value
    return labels


AMBIGUOUS = {
    "label map 0..3": bands(0, 1, 2, 3).astype(np.uint8),
    "label map 0..2": bands(0, 1, 2).astype(np.uint8),
    "label map 0 85 170 255": bands(0, 85, 170, 255).astype(np.uint8),
    "label map 0 100 200": bands(0, 100, 200).astype(np.uint8),
    "structure 1, void 255": bands(0, 1, 255).astype(np.uint8),
    "label map 0 20 255": bands(0, 20, 255).astype(np.uint8),
    "16-bit label map": bands(0, 205, 420, 500).astype(np.uint16),
    "soft map": np.uint8(255 * np.exp(-((np.arange(80)[None] - 40) ** 2) / 300) * np.ones((60, 1))),
    "five votes": bands(0, 64, 128, 191, 255).astype(np.uint8),
    "several colours": paint(bands(0, 1, 2), [(0, 0, 0), RED, GREEN]),
    "several colours, no black": paint(bands(0, 1), [RED, BLUE]),
    "red on white": paint(disc() * 1, [(255, 255, 255), RED]),
    "a photograph": np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8),
    "a second colour, small": paint(with_speck(disc() * 1, 2), [(0, 0, 0), RED, GREEN]),
    "colour and transparency": np.dstack([paint(bands(0, 1), [RED, BLUE]), two_values(0, 255)]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_auto_refuses(tmp_path, name):
    path = save_picture(tmp_path / "m.png", AMBIGUOUS[name])
    with pytest.raises(DataError, match="ambiguous mask") as error:
        mask_pixels.read_mask(path)
    assert path in str(error.value)
    assert "mask_encoding" in str(error.value) or name == "colour and transparency", (
        "it must say what resolves it"
    )


@pytest.mark.parametrize(
    "colours",
    [[(255, 255, 255), (0, 0, 0)], [(0, 0, 0), RED, GREEN], [(255, 255, 255), RED]],
    ids=["white and black", "three", "white and red"],
)
def test_auto_refuses_palettes(tmp_path, colours):
    index = disc() * 1 if len(colours) == 2 else bands(0, 1, 2)
    path = palette_mask(tmp_path / "m.png", index, colours)
    with pytest.raises(DataError, match="ambiguous mask.*palette.*mask_encoding='index'"):
        mask_pixels.read_mask(path)
    np.testing.assert_array_equal(mask_pixels.read_mask(path, "index").pixels, index > 0)


def test_masks_of_floats_that_are_no_numbers(tmp_path):
    values = two_values(0, 1, np.float32)
    values[0, 0] = np.nan
    with pytest.raises(DataError, match=r"m\.tif.*NaN"):
        mask_pixels.read_mask(save_picture(tmp_path / "m.tif", values))


# Masks by a setting


@pytest.mark.parametrize(
    ("encoding", "array", "truth"),
    [
        ("threshold", bands(0, 64, 128, 191, 255).astype(np.uint8), bands(0, 0, 1, 1, 1)),
        ("threshold", bands(0, 127, 128).astype(np.uint8), bands(0, 0, 1)),
        ("threshold", bands(0, 1).astype(np.uint8), bands(0, 1)),
        ("threshold", bands(0, 65535).astype(np.uint16), bands(0, 1)),
        ("threshold", bands(0, 20000, 40000, 65535).astype(np.uint16), bands(0, 0, 1, 1)),
        (
            "threshold",
            paint(bands(0, 1, 2, 3), [(0, 0, 0), RED, (0, 200, 0), (90, 90, 90)]),
            bands(0, 1, 1, 0),
        ),
        ("index", bands(0, 1, 2, 3).astype(np.uint8), bands(0, 1, 1, 1)),
        ("index", bands(0, 1, 255).astype(np.uint8), bands(0, 1, 1)),
        ("index", paint(bands(0, 1), [(0, 0, 0), (0, 3, 0)]), bands(0, 1)),
        ({"255,0,0": 1}, paint(bands(0, 1), [(0, 0, 0), RED]), bands(0, 1)),
        (
            {"255,0,0": 1, "0,255,0": 0},
            paint(bands(0, 1, 2), [(0, 0, 0), RED, GREEN]),
            bands(0, 1, 0),
        ),
        ({"0,0,0": 1, "255,255,255": 0}, paint(bands(0, 1), [(0, 0, 0), (255,) * 3]), bands(1, 0)),
        ({"255,255,255": 1}, bands(0, 255).astype(np.uint8), bands(0, 1)),
        ({"255,255,255": 1}, bands(0, 1).astype(bool), bands(0, 1)),
    ],
)
def test_masks_by_a_setting(tmp_path, encoding, array, truth):
    mask = mask_pixels.read_mask(save_picture(tmp_path / "m.png", array), encoding)
    np.testing.assert_array_equal(mask.pixels, truth)


def test_alpha_is_no_colour_of_a_threshold(tmp_path):
    opaque = np.dstack([two_values(0, 255)] * 3 + [np.full((60, 80), 255, np.uint8)])
    np.testing.assert_array_equal(
        mask_pixels.read_mask(save_picture(tmp_path / "m.png", opaque), "threshold").pixels, disc()
    )
    opaque = opaque[..., 2:]
    np.testing.assert_array_equal(
        mask_pixels.read_mask(save_picture(tmp_path / "la.png", opaque), "index").pixels, disc()
    )


def test_a_threshold_on_a_palette_cuts_the_colours_shown(tmp_path):
    path = palette_mask(tmp_path / "m.png", bands(0, 1, 2), [(0, 0, 0), (90, 90, 90), RED])
    np.testing.assert_array_equal(mask_pixels.read_mask(path, "threshold").pixels, bands(0, 0, 1))


def test_a_threshold_on_probabilities_cuts_in_the_middle(tmp_path):
    path = save_picture(tmp_path / "m.tif", bands(0.0, 0.2, 0.7, 1.0).astype(np.float32))
    np.testing.assert_array_equal(
        mask_pixels.read_mask(path, "threshold").pixels, bands(0, 0, 1, 1)
    )


def test_an_unknown_colour_is_named(tmp_path):
    path = save_picture(tmp_path / "m.png", paint(bands(0, 1, 2), [(0, 0, 0), RED, (0, 7, 9)]))
    with pytest.raises(DataError, match=r"m\.png.*\(0, 7, 9\)"):
        mask_pixels.read_mask(path, {"255,0,0": 1})


# Polarity and unions


def test_inverted(tmp_path):
    path = save_picture(tmp_path / "m.png", two_values(255, 0))
    mask = mask_pixels.read_mask(path)
    np.testing.assert_array_equal(mask.pixels, ~disc())
    assert mask.looks_inverted
    mask = mask_pixels.read_mask(path, inverted=True)
    np.testing.assert_array_equal(mask.pixels, disc())
    assert not mask.looks_inverted
    assert "inverted" in mask.decoding


def test_looks_inverted():
    assert mask_pixels.looks_inverted(1 - disc().astype(np.uint8))
    assert mask_pixels.looks_inverted(np.ones((20, 30), np.uint8))
    assert not mask_pixels.looks_inverted(disc().astype(np.uint8))
    assert not mask_pixels.looks_inverted(np.zeros((20, 30), np.uint8))
    large = np.ones((40, 40), np.uint8)
    large[0] = large[-1] = large[:, 0] = large[:, -1] = 0
    assert not mask_pixels.looks_inverted(large), "a large structure that leaves the border free"
    assert mask_pixels.looks_inverted(1 - large), (
        "the border decides, also where the structure fills most of the frame"
    )


def halves():
    left, right = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    left[5:30, 5:20], right[8:35, 35:55] = True, True
    return left, right


def test_the_union_of_two_files(tmp_path):
    left, right = halves()
    left_file = save_picture(tmp_path / "l.png", left * np.uint8(255))
    right_file = save_picture(tmp_path / "r.png", right * np.uint8(1))
    mask = mask_pixels.read_mask(f"{left_file}|{right_file}")
    np.testing.assert_array_equal(mask.pixels, left | right)
    assert "0/255" in mask.decoding and "0/1" in mask.decoding


def test_the_union_of_two_inverted_files(tmp_path):
    left, right = halves()
    left_file = save_picture(tmp_path / "l.png", ~left * np.uint8(255))
    right_file = save_picture(tmp_path / "r.png", ~right * np.uint8(255))
    mask = mask_pixels.read_mask(f"{left_file}|{right_file}", inverted=True)
    np.testing.assert_array_equal(mask.pixels, left | right)


def test_an_empty_part_of_a_union(tmp_path):
    left, right = halves()
    left_file = save_picture(tmp_path / "l.png", left * np.uint8(255))
    right_file = save_picture(tmp_path / "r.png", right * np.uint8(0))
    np.testing.assert_array_equal(mask_pixels.read_mask(f"{left_file}|{right_file}").pixels, left)


def test_parts_of_different_size(tmp_path):
    left, right = halves()
    cell = "|".join(
        [save_picture(tmp_path / "l.png", left), save_picture(tmp_path / "r.png", right.T)]
    )
    with pytest.raises(
        DataError, match=r"(?s)l\.png.*r\.png.*different sizes.*\(40, 60\).*\(60, 40\)"
    ):
        mask_pixels.read_mask(cell)


# Label maps


@pytest.mark.parametrize("encoding", ["auto", "index"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_as_they_are(tmp_path, encoding, dtype):
    labels = bands(0, 1, 2, 3, 255).astype(dtype)
    mask = mask_pixels.read_labels(save_picture(tmp_path / "m.png", labels), encoding, 4, {})
    assert mask.pixels.dtype == np.uint8
    np.testing.assert_array_equal(mask.pixels, bands(0, 1, 2, 3, IGNORE))


def test_labels_by_a_map(tmp_path):
    path = save_picture(tmp_path / "m.png", bands(0, 5, 1, 300, 7, 255).astype(np.uint16))
    mask = mask_pixels.read_labels(path, "index", 4, {"5": 1, "1": 2, "300": 3})
    np.testing.assert_array_equal(mask.pixels, bands(0, 1, 2, 3, 0, IGNORE))
    assert "label_map" in mask.decoding
    mask = mask_pixels.read_labels(path, "index", 4, {"255": 1})
    np.testing.assert_array_equal(mask.pixels, bands(0, 0, 0, 0, 0, 1))


def test_labels_of_a_palette_are_its_numbers(tmp_path):
    path = palette_mask(tmp_path / "m.png", bands(0, 1, 2), [(0, 0, 0), RED, GREEN])
    np.testing.assert_array_equal(
        mask_pixels.read_labels(path, "index", 3, {}).pixels, bands(0, 1, 2)
    )


def test_labels_by_colour(tmp_path):
    path = save_picture(tmp_path / "m.png", paint(bands(0, 1, 2, 3), [(0, 0, 0), RED, GREEN, BLUE]))
    table = {"255,0,0": 2, "0,255,0": 1, "0,0,255": 255}
    np.testing.assert_array_equal(
        mask_pixels.read_labels(path, table, 3, {}).pixels, bands(0, 2, 1, IGNORE)
    )
    with pytest.raises(DataError, match=r"m\.png.*\(0, 0, 255\)"):
        mask_pixels.read_labels(path, {"255,0,0": 2, "0,255,0": 1}, 3, {})


def test_a_colour_table_may_not_name_a_class_that_there_is_not(tmp_path):
    path = save_picture(tmp_path / "m.png", paint(bands(0, 1), [(0, 0, 0), RED]))
    with pytest.raises(DataError, match=r"m\.png"):
        mask_pixels.read_labels(path, {"255,0,0": 7}, 3, {})


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_labels_with_an_opaque_alpha_channel_are_read_and_others_refused(tmp_path, mode):
    labels = bands(0, 1, 2)
    picture = Image.fromarray(labels.astype(np.uint8)).convert(mode)
    path = save_picture(tmp_path / "m.png", np.array(picture))
    np.testing.assert_array_equal(mask_pixels.read_labels(path, "index", 3, {}).pixels, labels)
    picture.putalpha(Image.fromarray((labels * 100).astype(np.uint8)))
    path = save_picture(tmp_path / "m.png", np.array(picture))
    with pytest.raises(DataError, match=r"m\.png: the transparency of the labels varies"):
        mask_pixels.read_labels(path, "index", 3, {})


def test_wrong_labels_are_refused(tmp_path):
    path = save_picture(tmp_path / "m.png", bands(0, 1, 200).astype(np.uint8))
    with pytest.raises(DataError, match=r"m\.png: label numbers \[200\].*0\.\.2.*label_map"):
        mask_pixels.read_labels(path, "index", 3, {})
    path = save_picture(tmp_path / "c.png", paint(bands(0, 1), [(0, 0, 0), RED]))
    with pytest.raises(
        DataError, match=r"c\.png: the labels are colours.*\(255, 0, 0\).*mask_encoding"
    ):
        mask_pixels.read_labels(path, "index", 3, {})


# The real sets: every mask folder decodes as its README says


@pytest.mark.parametrize("side", ["leftMask", "rightMask"])
def test_real_montgomery_sides(real, side):
    files = sorted((real("montgomery") / "MontgomerySet/ManualMask" / side).glob("*.png"))
    assert len(files) == 102
    for file in files:
        mask = mask_pixels.read_mask(str(file))
        assert mask.decoding == "values 0/255" and not mask.looks_inverted, file
        np.testing.assert_array_equal(mask.pixels, read_picture(file) == 255)


@pytest.mark.parametrize(
    ("name", "pattern", "n"),
    [("montgomery", "masks_union_original/*.png", 102), ("shenzhen", "mask/*.png", 200)],
)
def test_real_grey_edges(real, name, pattern, n):
    files = sorted(real(name).glob(pattern))
    assert len(files) == n
    for file in files[::2]:
        mask = mask_pixels.read_mask(str(file))
        assert "grey edges" in mask.decoding and not mask.looks_inverted, file
        np.testing.assert_array_equal(mask.pixels, read_picture(file) > 127)


def test_real_covid_sides_are_united(real):
    root = real("covid_cxr_leftright")
    names = sorted(file.name for file in (root / "leftMask").iterdir())
    assert len(names) == 23
    for name in names[::2]:
        left, right = (str(root / side / name) for side in ("leftMask", "rightMask"))
        mask = mask_pixels.read_mask(f"{left}|{right}")
        assert mask.decoding == "values 0/255"
        np.testing.assert_array_equal(
            mask.pixels, (read_picture(left) == 255) | (read_picture(right) == 255)
        )


def test_real_idrid_discs_are_palette_numbers(real):
    files = sorted(
        real("idrid").glob("A. Segmentation/2. *Groundtruths/a. */5. Optic Disc/*_OD.tif")
    )
    assert len(files) == 15
    for file in files[::5]:
        mask = mask_pixels.read_mask(str(file))
        assert mask.decoding == "palette index"
        np.testing.assert_array_equal(mask.pixels, read_picture(file))
        assert 0.005 < mask.pixels.mean() < 0.05


def test_real_idrid_lesions_are_red_jpegs(real):
    files = sorted(
        real("idrid").glob("A. Segmentation/2. *Groundtruths/a. */3. Hard Exudates/*_EX.jpg")
    )
    assert len(files) == 15
    for file in files[:1]:  # a second each
        mask = mask_pixels.read_mask(str(file))
        assert "one colour on black, grey edges" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, read_picture(file)[..., 0] > 127)


def test_real_busi_is_one_colour_on_black(real):
    files = sorted((real("busi") / "masks").iterdir())
    assert len(files) == 22
    for file in files:
        mask = mask_pixels.read_mask(str(file))
        assert "one colour on black" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, (read_picture(file) > 127).any(axis=2))
        table = mask_pixels.read_mask(str(file), {"0,255,0": 1, "255,0,0": 1})
        np.testing.assert_array_equal(mask.pixels, table.pixels)


def test_real_chase_is_one_bit(real):
    files = sorted(real("chase_db1").glob("*HO.png"))
    assert len(files) == 40
    for file in files:
        mask = mask_pixels.read_mask(str(file))
        assert mask.decoding == "1 bit"
        np.testing.assert_array_equal(mask.pixels, read_picture(file))


def test_real_spleen_is_grey_jpeg(real):
    files = sorted((real("msd_spleen_ct") / "masks").iterdir())
    assert len(files) == 13
    for file in files:
        mask = mask_pixels.read_mask(str(file))
        assert "grey edges" in mask.decoding
        np.testing.assert_array_equal(mask.pixels, read_picture(file)[..., 0] > 127)


def test_real_drishti_soft_maps_need_a_setting(real):
    files = sorted(real("drishti_gs1").glob("Drishti-GS1_files/*/GT/*/SoftMap/*Softmap.png"))
    assert len(files) == 60
    for file in files:  # five votes are not two values
        with pytest.raises(DataError, match="ambiguous.*mask_encoding='threshold'"):
            mask_pixels.read_mask(str(file))
    for file in files[::6]:
        np.testing.assert_array_equal(
            mask_pixels.read_mask(str(file), "threshold").pixels, read_picture(file) >= 128
        )


def test_real_curvas_colours_need_a_table(real):
    table = {"0,255,255": 1, "255,255,0": 2, "255,0,255": 3}
    files = sorted(real("curvas_ct").glob("annotation_*/masks/*.png"))
    assert len(files) == 74
    several_organs = 0
    for file in files[::9]:
        labels = mask_pixels.read_labels(str(file), table, 4, {}).pixels
        pixels = read_picture(file)
        for colour, number in table.items():
            red, green, blue = (int(c) for c in colour.split(","))
            same = (pixels[..., 0] == red) & (pixels[..., 1] == green) & (pixels[..., 2] == blue)
            np.testing.assert_array_equal(labels == number, same)
        if len(set(np.unique(labels)) - {0}) > 1:
            several_organs += 1
            with pytest.raises(DataError, match="several colours.*mask_encoding"):
                mask_pixels.read_mask(str(file))
    assert several_organs >= 3, "the sample must hold slices with several organs"


def test_real_curvas_slice_with_eight_pixels_of_a_second_organ(real):
    file = real("curvas_ct") / "annotation_3/masks/10010_546.png"
    assert (read_picture(file) == (0, 255, 255)).all(axis=2).sum() == 8
    with pytest.raises(DataError, match="several colours"):
        mask_pixels.read_mask(str(file))


def test_real_nuclei_are_united(real):
    case = sorted((real("dsb2018_nuclei") / "stage1_train").iterdir())[0]
    files = sorted((case / "masks").glob("*.png"))
    assert len(files) > 1
    mask = mask_pixels.read_mask("|".join(map(str, files)))
    np.testing.assert_array_equal(
        mask.pixels, np.max([read_picture(file) for file in files], axis=0) == 255
    )
    picture = next((case / "images").iterdir())
    assert read_picture(picture).shape[2] == 4
    np.testing.assert_array_equal(images.read_image(picture), read_picture(picture)[..., :3])


# Numbers of masks in deep files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_in_which_number_0_is_white(tmp_path, dtype):
    """Black and white as shown are clear; 0 and 1 of 8 bits are not."""
    path, top = str(tmp_path / "m.tif"), np.iinfo(dtype).max
    truth = disc().astype(dtype)
    tifffile.imwrite(path, (1 - truth) * top, photometric="miniswhite")
    np.testing.assert_array_equal(mask_pixels.read_mask(path).pixels, truth)
    np.testing.assert_array_equal(mask_pixels.read_mask(path, "index").pixels, truth)
    tifffile.imwrite(path, truth, photometric="miniswhite")
    for read in (mask_pixels.read_mask, lambda path: mask_pixels.read_labels(path, "index", 3, {})):
        with pytest.raises(DataError, match=r"m\.tif: number 0 is white.*MINISBLACK"):
            read(path)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_negative_numbers_in_a_mask_are_not_the_background(tmp_path, dtype):
    path = str(tmp_path / "m.tif")
    tifffile.imwrite(path, -disc().astype(dtype))
    with pytest.raises(DataError, match=r"m\.tif: ambiguous mask: found negative numbers"):
        mask_pixels.read_mask(path)
    tifffile.imwrite(path, disc().astype(dtype))
    np.testing.assert_array_equal(mask_pixels.read_mask(path).pixels, disc())


def test_numbers_that_jpeg_changed_are_refused(tmp_path):
    truth = disc(60, 80).astype(np.uint8)
    faint = save_picture(tmp_path / "faint.jpg", truth, quality=75)
    tiff_file = save_picture(tmp_path / "faint.tif", truth, compression="jpeg", quality=75)
    labels = save_picture(tmp_path / "labels.jpg", truth * 3, quality=90)
    drawn = save_picture(tmp_path / "drawn.jpg", truth * 255, quality=75)
    for path in (faint, tiff_file):
        assert (np.asarray(Image.open(path)) != truth).any(), "JPEG changed the numbers"
        with pytest.raises(DataError, match="JPEG file, which changes the numbers.*as PNG"):
            mask_pixels.read_mask(path)
    for read in (
        lambda: mask_pixels.read_labels(labels, "index", 9, {}),
        lambda: mask_pixels.read_labels(drawn, "index", 2, {"255": 1}),
        lambda: mask_pixels.read_mask(drawn, "index"),
    ):
        with pytest.raises(DataError, match="JPEG file, which changes the numbers.*preset binary"):
            read()
    for encoding in ("auto", "threshold"):
        np.testing.assert_array_equal(mask_pixels.read_mask(drawn, encoding).pixels, truth)
    nothing = save_picture(tmp_path / "empty.jpg", truth * 0)
    assert not mask_pixels.read_mask(nothing, "index").pixels.any()


def test_parts_that_divide_the_image_hold_its_background(tmp_path):
    truth = two_values(0, 255)
    structure = save_picture(tmp_path / "a_mask_1.png", truth)
    background = save_picture(tmp_path / "a_mask_0.png", 255 - truth)
    with pytest.raises(DataError, match=r"a_mask_0\.png, a_mask_1\.png divide the whole image"):
        mask_pixels.read_mask(f"{background}|{structure}")
    nothing = save_picture(tmp_path / "a_mask_2.png", truth * 0)
    united = mask_pixels.read_mask(f"{structure}|{nothing}").pixels
    np.testing.assert_array_equal(united, disc())


def test_advice_on_a_mask_of_numbers_fits_them(tmp_path):
    border = disc() * 1
    border[:2] = 255
    grey = save_picture(tmp_path / "grey.png", border.astype(np.uint8))
    colours = [(k, k, 0) for k in range(256)]
    palette = palette_mask(tmp_path / "palette.png", border, colours)
    for path in (grey, palette):
        with pytest.raises(DataError, match=r"label_map=\{'1': 1, '255': 255\}.*255 too"):
            mask_pixels.read_mask(path)
        ignored = mask_pixels.read_mask(path, label_map={"1": 1, "255": 255}).pixels
        np.testing.assert_array_equal(ignored, border)
    soft = cv2.GaussianBlur(disc().astype(np.float32), (9, 9), 3)
    path = save_picture(tmp_path / "soft.tif", soft)
    with pytest.raises(DataError, match="soft mask.*'threshold' cuts at 0.5"):
        mask_pixels.read_mask(path)
    np.testing.assert_array_equal(mask_pixels.read_mask(path, "threshold").pixels, soft > 0.5)


def test_a_label_map_of_interpolated_edges_is_refused(tmp_path):
    grey = cv2.resize(two_values(0, 255), (211, 143), interpolation=cv2.INTER_LINEAR)
    path = save_picture(tmp_path / "m.png", grey)
    with pytest.raises(DataError, match=r"m\.png.*only along edges.*without interpolation"):
        mask_pixels.read_labels(path, "index", 6, {"5": 1, "1": 2, "3": 3, "2": 4})


def test_a_label_map_of_many_small_areas_is_read(tmp_path):
    numbers = np.kron(np.arange(64).reshape(8, 8), np.ones((3, 3))).astype(np.uint8)
    mask = mask_pixels.read_labels(
        save_picture(tmp_path / "m.png", numbers), "index", 3, {"7": 1, "9": 2}
    )
    np.testing.assert_array_equal(mask.pixels, (numbers == 7) + 2 * (numbers == 9))


def test_the_colours_of_a_label_map_are_in_the_advised_table(tmp_path):
    path = save_picture(tmp_path / "m.png", paint(two_values(0, 1) * 1, [(0, 0, 0), (255, 255, 0)]))
    with pytest.raises(DataError, match=r'set mask_encoding=\{"255,255,0": 1\}, with the number'):
        mask_pixels.read_labels(path, "index", 3, {})


@pytest.mark.parametrize(("value", "number"), [(255, 0), (0, 1)])
def test_a_palette_of_one_number_is_not_guessed(tmp_path, value, number):
    colours = [(255, 255, 255), (0, 0, 0)]
    path = palette_mask(tmp_path / "m.png", np.full((20, 30), number), colours)
    shown = np.asarray(Image.open(path).convert("L"))
    assert (shown == value).all()
    with pytest.raises(DataError, match=f"only number {number} of a palette.*empty or full"):
        mask_pixels.read_mask(path)
    assert (mask_pixels.read_mask(path, "threshold").pixels == (value > 127)).all()
    assert (mask_pixels.read_mask(path, "index").pixels == number).all()


def test_a_full_mask_as_gif_is_never_read_as_empty(tmp_path):
    full, empty = (np.full((20, 30), value, np.uint8) for value in (255, 0))
    path = save_picture(tmp_path / "full.gif", full)
    with pytest.raises(DataError, match="only number 0 of a palette.*empty or full"):
        mask_pixels.read_mask(path)
    assert mask_pixels.read_mask(path, "threshold").pixels.all()
    assert not mask_pixels.read_mask(save_picture(tmp_path / "empty.gif", empty)).pixels.any()
