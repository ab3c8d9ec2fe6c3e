"""The picture of the README: what is drawn, and where."""

import numpy as np

from seglib import plots
from tests import picture


def test_classes_are_outlined_and_named_in_their_colours_below_the_image():
    image = np.full((40, 40), 90, np.uint8)
    square, nothing = np.zeros((2, 40, 40), bool)
    square[10:30, 5:35] = True
    planes = {"left_kidney": square, "spleen": nothing}
    figure = picture.draw({"abdomen": (image, planes), "lungs": (image, {"lung": square})})
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axis.get_title() for axis in above] == ["abdomen", "lungs"]
    assert [len(axis.collections) for axis in above] == [0, 0]
    # An empty mask has no outline, but its class is named.
    assert [len(axis.collections) for axis in below] == [1, 1]
    words = {text.get_text(): text.get_color() for text in below[0].texts}
    assert words == {"left kidney": plots.COLOURS[0], "spleen": plots.COLOURS[1]}
    (path,) = below[0].collections[0].get_paths()
    assert np.allclose(path.vertices.min(axis=0), (4.5, 9.5))
    assert np.allclose(path.vertices.max(axis=0), (34.5, 29.5))
