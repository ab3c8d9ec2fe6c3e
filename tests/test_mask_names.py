"""Which file is the mask of which image, by their names."""

import pytest

from seglib.formats import mask_names


def test_owner_of_a_file():
    owners = mask_names.Owners(["case1", "case10", "a", "a_b", "01"])
    owned = {
        "case1_mask": ("case1", "_mask"),
        "case10": ("case10", ""),
        "case100": (None, ""),
        "a_b_seg": ("a_b", "_seg"),
        "a.ah": ("a", ".ah"),
        "abc": (None, ""),
        "01mask": ("01", "mask"),
        "01L": (None, ""),
    }
    assert {name: owners.of(name) for name in owned} == owned


@pytest.mark.parametrize(
    "names, masks",
    [
        (["image_1", "label_1", "image_2", "label_2"], {"label_1", "label_2"}),
        (["case7_img", "case7_gt"], {"case7_gt"}),
        (["image", "label"], {"label"}),
        (["x", "x_mask", "x_mask_1", "x_1"], {"x_mask", "x_mask_1"}),
        (["p1_frame01", "p1_frame01_gt"], {"p1_frame01_gt"}),
        (["01", "01mask", "02", "02-truth", "03", "03_seg2"], {"01mask", "02-truth", "03_seg2"}),
        (["a", "a_segmentation", "b_segmentation"], {"a_segmentation", "b_segmentation"}),
        (["gt_001", "gt_001_mask"], {"gt_001_mask"}),
        # No word for masks behind the image's name, and no image of a mask.
        (["x", "x_flair", "x_left", "x_2"], set()),
        (["x", "y_mask"], set()),
        (["label_1", "label_2"], set()),
        (["case_1", "case_10_seg"], set()),
    ],
)
def test_masks_among_the_names_of_a_folder(names, masks):
    assert mask_names.masks_among(names) == masks
