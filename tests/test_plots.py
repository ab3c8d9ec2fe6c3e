"""Figures: what an overlay shows, pixel by pixel, and that all draw without a warning."""

import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from seglib import config, data, plots, tables
from seglib.curves import HistogramROC
from tests.helpers import multilabel_store

# The first colours of the palette.
FIRST, SECOND, THIRD = np.array([(86, 180, 233), (230, 159, 0), (0, 158, 115)])
WHITE, RED = [255, 255, 255], [255, 0, 51]  # missed, too much

pytestmark = pytest.mark.usefixtures("no_warnings")


def pixels_of(axis):
    return np.asarray(axis.get_images()[0].get_array())


def at_image_size(pixels, shape):
    """The middle pixel of each square that stands for a pixel of the image."""
    factor = pixels.shape[0] // shape[0]
    return pixels[factor // 2 :: factor, factor // 2 :: factor]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


# ---- overlays


def test_rgb():
    assert plots.rgb("#56B4E9").tolist() == FIRST.tolist()
    assert plots.rgb("#000000").dtype == np.uint8


def test_overlay_by_hand():
    """0.6 of 100 and 0.4 of the colour: 60 + 34.4 -> 94, 60 + 72 = 132, 60 + 93.2 -> 153."""
    image = np.full((2, 2), 100, np.uint8)
    shown = plots.overlay(image, np.array([[1, 0], [255, 2]], np.uint8))
    assert shown.dtype == np.uint8 and shown.shape == (2, 2, 3)
    assert shown[0, 0].tolist() == [94, 132, 153]
    assert shown[0, 1].tolist() == [100, 100, 100]
    assert shown[1, 0].tolist() == [100, 100, 100]  # an ignored pixel is shown as it is
    assert shown[1, 1].tolist() == np.rint(60 + 0.4 * SECOND).tolist()
    ones = np.ones((2, 2), np.uint8)
    assert plots.overlay(image, ones, opacity=1)[0, 0].tolist() == FIRST.tolist()
    assert (plots.overlay(image, ones, opacity=0) == 100).all()


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])])
def test_pictures_of_any_number_of_channels_are_shown(channels, shown):
    """Up to two channels: the first one as grey; more: the first three as red, green and blue."""
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    expected = picture[..., shown]
    np.testing.assert_array_equal(plots.as_rgb(picture), expected)
    np.testing.assert_array_equal(plots.overlay(picture, np.zeros((5, 7), np.uint8)), expected)
    figure = plots.grid([picture])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), expected)


def test_overlay_takes_grey_colour_and_planes():
    rng = np.random.default_rng(0)
    grey, mask = rng.integers(0, 256, (5, 7), np.uint8), rng.integers(0, 2, (5, 7), np.uint8)
    once = plots.overlay(grey, mask)
    np.testing.assert_array_equal(once, plots.overlay(grey[..., None], mask))
    np.testing.assert_array_equal(once, plots.overlay(np.stack([grey] * 3, -1), mask))
    np.testing.assert_array_equal(once, plots.overlay(grey, mask[None]))  # (K, H, W) of one class
    planes = np.zeros((3, 1, 4), np.uint8)
    planes[0, 0, :2] = planes[2, 0, 1] = 1
    planes[1] = 255  # no mask of that class
    shown = plots.overlay(np.zeros((1, 4), np.uint8), planes, opacity=0.5)[0]
    assert shown[0].tolist() == np.rint(0.5 * FIRST).tolist()
    # Both classes are visible where they overlap.
    assert shown[1].tolist() == np.rint(0.25 * FIRST + 0.5 * THIRD).tolist()
    assert shown[2].tolist() == [0, 0, 0]


def test_a_class_has_one_colour_as_label_and_as_plane():
    labels = np.array([[0, 1, 2, 3]], np.uint8)
    planes = (labels[None] == np.array([1, 2, 3]).reshape(-1, 1, 1)).astype(np.uint8)
    black = np.zeros((1, 4), np.uint8)
    np.testing.assert_array_equal(plots.overlay(black, labels), plots.overlay(black, planes))
    np.testing.assert_array_equal(plots.overlay(black, labels, 1)[0, 1:], [FIRST, SECOND, THIRD])
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) >= 7


def test_overlay_leaves_its_arguments_alone():
    image, mask = np.full((3, 3, 3), 9, np.uint8), np.ones((3, 3), np.uint8)
    image.setflags(write=False)
    mask.setflags(write=False)
    assert not np.shares_memory(plots.overlay(image, mask), image)


def test_more_classes_than_colours():
    shown = plots.overlay(np.zeros((1, 9), np.uint8), np.arange(9, dtype=np.uint8)[None], opacity=1)
    assert shown[0, 8].tolist() == shown[0, 1].tolist() == FIRST.tolist()


def test_outline_by_hand():
    """Seen from the middle outwards: a tinted inside, a dark line, the colour, a dark line."""
    image, mask = np.full((500, 600), 100, np.uint8), np.zeros((500, 600), np.uint8)
    mask[100:400, 200:500] = 1
    line = plots.outline(image, mask)[250, 195:210].tolist()
    tinted, grey, black = np.rint(85 + 0.15 * FIRST).tolist(), [100] * 3, [0] * 3
    expected = [*[grey] * 4, black, *[FIRST.tolist()] * 2, black, *[tinted] * 7]
    assert line == expected
    untouched = np.repeat(image[..., None], 3, axis=2)
    np.testing.assert_array_equal(plots.outline(image, 0 * mask), untouched)
    np.testing.assert_array_equal(plots.outline(image, np.full_like(mask, 255)), untouched)
    small = plots.outline(image[:100, :120], mask[50:150, 150:270])
    assert small.shape == (400, 480, 3)


def test_errors_have_colours_that_no_class_has():
    others = np.array([plots.rgb(colour).astype(int) for colour in plots.COLOURS])
    for colour in (plots.MISSED, plots.EXTRA):
        assert np.abs(others - plots.rgb(colour)).max(axis=1).min() > 60


# ---- figures of data


def test_figures_are_wide_enough_for_a_notebook(tmp_path):
    """Also those of one small picture or table, after white margins are cut off."""
    curves, table = scored_curves(500), pd.DataFrame([[9, 1], [1, 9]], list("ab"), list("ab"))
    image, mask = np.full((8, 8), 90, np.uint8), np.eye(8, dtype=np.uint8)
    figures = [
        plots.grid([image]),
        plots.grid([image] * 2, side=1.5),
        plots.grid([image] * 5, list("abcde"), columns=5, classes=["disc"]),
        plots.predictions([("a", image, mask, mask)], side=1.8),
        plots.training_curves(history()),
        plots.scores_by_image(per_image()),
        plots.metrics_summary(summary_of(["liver", "mean"], ["dice"])),
        plots.confusion({"pixels": table}),
        plots.roc_curves(curves, {}),
        plots.pr_curves(curves, {}),
        plots.calibration(curves, {}),
        plots.bland_altman(pd.Series([1.0, 2, 3]), pd.Series([1.0, 2, 4]), "mL"),
    ]
    for number, figure in enumerate(figures):
        with Image.open(plots.save(figure, tmp_path / f"{number}.png")) as picture:
            assert picture.width >= 1000, number


def test_titles_are_broken_where_they_would_overlap():
    image = np.zeros((5, 5), np.uint8)
    words = "patient001_frame01_000 of the second hospital, without any mask of the disc"
    figure = plots.grid([image] * 4, [words] * 4)
    figure.canvas.draw()
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:]))
    assert min(box.x0 for box in boxes) >= 0
    assert titles(figure)[0].replace("\n", " ") == words


def test_grid_has_a_panel_a_picture():
    pictures = [np.zeros(shape, np.uint8) for shape in ((5, 4), (5, 4, 1), (5, 4, 3))]
    figure = plots.grid(pictures, ["a", "b"], columns=2)
    assert isinstance(figure, Figure) and titles(figure) == ["a", "b", "", ""]
    assert [len(axis.get_images()) for axis in figure.axes] == [1, 1, 1, 0]
    assert not any(axis.axison for axis in figure.axes)
    # grey is not stretched: a dark picture looks dark
    assert figure.axes[0].get_images()[0].get_clim() == (0, 255)
    assert len(plots.grid(pictures[:1]).axes) == 1


def test_store_samples_show_the_part_that_is_asked_for(tmp_path):
    store = multilabel_store(tmp_path / "store")
    figure = plots.store_samples(store, "train", n=3)
    assert isinstance(figure, Figure) and titles(figure) == [
        "case0\nno mask of detachment",
        "case1\nno mask of atrophy",
        "case2\nno mask of detachment",
    ]
    assert legend(figure) == ["atrophy", "detachment", "disc"]
    images, masks = store.open()
    expected = plots.outline(images[1], masks[1].transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels_of(figure.axes[1]), expected)
    assert titles(plots.store_samples(store, "test")) == [
        "case7",
        "case8\nno mask of detachment",
    ]


@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(1, (0.5,), (0.25,)), (3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))]
)
def test_batch_samples_undo_the_normalisation(channels, mean, std):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (2, 8, 6, channels), np.uint8)
    mask = rng.integers(0, 2, (2, 1, 8, 6), np.uint8)
    mask[1, :, 2:5, 3:] = 255
    table = data.normalisation_table(mean, std, channels)
    normalised = np.stack([data.normalise(image, table) for image in raw])
    batch = {"image": torch.from_numpy(normalised), "mask": torch.tensor(mask)}
    figure = plots.batch_samples(batch, mean, std)
    assert isinstance(figure, Figure) and len(figure.axes) == 2
    expected = plots.outline(raw[0], mask[0, 0])
    assert np.abs(pixels_of(figure.axes[0]).astype(int) - expected).max() <= 1
    dark_red = (at_image_size(pixels_of(figure.axes[1]), (8, 6)) == (120, 0, 0)).all(-1)
    np.testing.assert_array_equal(dark_red, mask[1, 0] == 255)
    assert legend(figure) == ["ignored"]


def test_batch_samples_of_many_classes_and_of_label_maps(tmp_path):
    cfg = config.preset("palm", "smoke", augment={})
    batch = next(iter(data.loaders(multilabel_store(tmp_path / "store"), cfg)["train"]))
    figure = plots.batch_samples(batch, cfg.mean, cfg.std, classes=cfg.class_names)
    assert legend(figure) == [*cfg.class_names, "ignored"]
    for number, axis in enumerate(figure.axes):
        shape = batch["mask"].shape[-2:]
        dark_red = (at_image_size(pixels_of(axis), shape) == (120, 0, 0)).all(-1)
        ignored_by_all = (batch["mask"][number] == 255).all(0).numpy()
        np.testing.assert_array_equal(dark_red, ignored_by_all)
    labels = torch.tensor([[[0, 1, 2, 255]] * 3]).to(torch.uint8)
    batch = {"image": torch.zeros(1, 1, 3, 4), "mask": labels}
    pixels = pixels_of(plots.batch_samples(batch, (0.0,), (1.0,)).axes[0])
    pixels = at_image_size(pixels, (3, 4))
    assert pixels[1, 3].tolist() == [120, 0, 0]
    assert pixels[1, 2].tolist() == np.rint(0.15 * SECOND).tolist()


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 3)])
def test_augmentation_samples_show_image_and_mask_after_each_change(shape):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, shape, np.uint8), rng.integers(0, 2, shape[:2], np.uint8)
    mask[:5] = 255
    augment = {"hflip": 0.1, "rotate": {"limit": 30, "p": 0.1}}
    figure = plots.augmentation_samples(image, mask, augment, n=2)
    assert titles(figure) == [t for n in (*augment, "together") for t in ("as it is", n, "")]
    expected = plots.outline(image, mask)
    factor = len(expected) // 20
    expected[plots.enlarged(mask == 255, factor)] = (120, 0, 0)
    for axis in (figure.axes[0], figure.axes[3]):
        np.testing.assert_array_equal(pixels_of(axis), expected)
    np.testing.assert_array_equal(pixels_of(figure.axes[1]), expected[:, ::-1])
    assert not np.array_equal(pixels_of(figure.axes[4]), pixels_of(figure.axes[5]))


# ---- figures of runs and reports


def history(epochs=4, **columns):
    rows = np.arange(epochs, dtype=float)
    table = {"epoch": np.arange(1, epochs + 1), "train_loss": 1 / (rows + 1)}
    table |= {"val_loss": 1.1 / (rows + 1), "val_dice": rows / epochs}
    table |= {"val_accuracy": 0.5 + rows / (2 * epochs)}
    return pd.DataFrame({**table, "best": [True, True, False, True][:epochs], **columns})


def test_training_curves_show_the_history():
    figure = plots.training_curves(history(best=[True, False, True, False]))
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "epoch" and left.get_ylabel() == "loss"
    lines = {line.get_label(): line for line in [*left.get_lines(), *right.get_lines()]}
    assert {"train", "val", "Dice", "pixel accuracy", "best: epoch 3"} == set(lines)
    np.testing.assert_allclose(lines["val"].get_ydata(), history()["val_loss"])
    np.testing.assert_allclose(lines["Dice"].get_ydata(), history()["val_dice"])
    assert list(lines["best: epoch 3"].get_xdata()) == [3, 3]


@pytest.mark.parametrize("epochs", [1, 4])
def test_training_curves_without_validation(epochs):
    nothing = dict.fromkeys(("val_loss", "val_dice", "val_accuracy"), np.nan)
    figure = plots.training_curves(history(epochs, **nothing))
    assert len(figure.axes) == 2
    assert "train" in [line.get_label() for line in figure.axes[0].get_lines()]


def per_image(missing=()):
    rng = np.random.default_rng(0)
    rows = [
        (f"c{i}", name, (i, name) not in missing) for i in range(6) for name in ("atrophy", "disc")
    ]
    table = pd.DataFrame(rows, columns=["case", "class", "annotated"])
    return table.assign(
        dice=np.where(table["annotated"], rng.random(12), np.nan),
        hd95=np.where(table["annotated"], 5.0, np.nan),
    )


def test_scores_by_image_name_their_n():
    figure = plots.scores_by_image(per_image(missing=[(0, "disc"), (3, "disc")]))
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["atrophy (n=6)", "disc (n=4)"]
    points = sum(len(collection.get_offsets()) for collection in axis.collections)
    assert points == 10 and axis.get_xlabel() == "Dice of an image"
    (axis,) = plots.scores_by_image(per_image(), metric="hd95").axes
    assert axis.get_xlabel() == "HD95 of an image"


def test_scores_by_image_is_the_same_file_each_time(tmp_path):
    """Its points are scattered by the generator of numpy, whose state others use."""
    np.random.seed(5)
    following = np.random.random(3)
    np.random.seed(5)
    first = plots.save(plots.scores_by_image(per_image()), tmp_path / "a.png").read_bytes()
    assert np.array_equal(np.random.random(3), following)
    again = plots.save(plots.scores_by_image(per_image()), tmp_path / "b.png").read_bytes()
    assert first == again


def test_scores_by_image_where_nothing_is_annotated():
    everything = [(i, name) for i in range(6) for name in ("atrophy", "disc")]
    assert isinstance(plots.scores_by_image(per_image(missing=everything)), Figure)


def test_predictions_colour_what_was_missed_and_what_is_too_much():
    image = np.full((2, 4, 1), 50, np.uint8)
    truth = np.array([[1, 1, 0, 255], [0, 0, 0, 255]], np.uint8)
    pred = np.array([[1, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    rows = [("case a", image, truth, pred), ("case b", image, truth, truth % 255)]
    figure = plots.predictions(rows)
    assert isinstance(figure, Figure) and len(figure.axes) == 8
    assert titles(figure)[:4] == ["input", "truth", "prediction", "errors"]
    assert not any(titles(figure)[4:])
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["case a", "case b"]
    shown = [pixels_of(axis) for axis in figure.axes]
    np.testing.assert_array_equal(shown[0], np.full((2, 4, 3), 50))
    np.testing.assert_array_equal(shown[1], plots.outline(image, truth))
    np.testing.assert_array_equal(shown[2], plots.outline(image, pred))
    difference = shown[3]
    assert difference[0, 1].tolist() == WHITE and difference[0, 2].tolist() == RED
    untouched = [(0, 0), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]  # right, ignored, background
    assert all(difference[place].tolist() == [22, 22, 22] for place in untouched)  # 0.45 of 50
    assert (shown[7] == 22).all()
    assert legend(figure) == ["missed", "too much"]
    named = plots.predictions(rows, classes=["background", "liver", "spleen"])
    assert legend(named) == ["liver", "spleen", "missed", "too much"]
    colours = [patch.get_facecolor()[:3] for patch in named.legends[0].get_patches()]
    assert np.rint(255 * np.array(colours)).tolist() == [
        *np.stack([FIRST, SECOND]).tolist(),
        WHITE,
        RED,
    ]


def test_predictions_of_label_maps_and_planes():
    image = np.zeros((1, 4, 3), np.uint8)
    labels, guess = np.array([[1, 2, 0, 2]], np.uint8), np.array([[2, 2, 1, 0]], np.uint8)
    difference = pixels_of(plots.predictions([("a", image, labels, guess)]).axes[3])
    assert difference[0, 0].any()  # another class is a difference
    assert difference[0, 1].tolist() == [0, 0, 0]
    assert difference[0, 2].tolist() == RED
    assert difference[0, 3].tolist() == WHITE
    truth, pred = np.zeros((2, 3, 1, 4), np.uint8)
    truth[0, 0, 0] = pred[2, 0, 1] = 1
    truth[1] = 255
    pred[1, 0, 3] = 1  # a class without a mask is not judged
    difference = pixels_of(plots.predictions([("a", image, truth, pred)]).axes[3])
    assert difference[0].tolist() == [WHITE, RED, [0, 0, 0], [0, 0, 0]]


def test_save_writes_a_png_and_closes_the_figure(tmp_path):
    figure = plots.training_curves(history())
    before = set(plt.get_fignums())
    path = plots.save(figure, tmp_path / "deep" / "curves.png")
    assert path == tmp_path / "deep" / "curves.png" and not plt.fignum_exists(figure.number)
    assert len(set(plt.get_fignums())) == len(before) - 1
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size[0] > 600


# ---- live curves


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, thing):
        self.shown.append(thing)


def test_live_curves_are_redrawn_in_place_in_a_notebook(monkeypatch):
    handle, displayed = Handle(), []
    module = types.ModuleType("IPython.display")
    module.display = lambda thing, display_id: displayed.append((thing, display_id)) or handle
    module.Markdown = lambda text: text
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    live = plots.LiveCurves(True)
    for epochs in (1, 2, 3):
        live.update(history(epochs))
    assert len(displayed) == 1 and displayed[0][1] is True and isinstance(displayed[0][0], Figure)
    assert len(handle.shown) == 2 and all(isinstance(figure, Figure) for figure in handle.shown)
    assert plt.get_fignums() == []  # none is left open, or the notebook shows it twice
    live.close()
    assert len(handle.shown) == 3 and "finished" in handle.shown[-1]


def test_live_curves_do_nothing_outside_a_notebook(monkeypatch):
    def never(*args):
        raise AssertionError("drawn")

    monkeypatch.setattr(plots, "training_curves", never)
    monkeypatch.setitem(sys.modules, "IPython.display", None)  # importing it would fail
    live = plots.LiveCurves(False)
    live.update(history())
    live.close()
    assert live.handle is None and plt.get_fignums() == []


# ---- evaluation


def scored_curves(n=4000):
    """Curves of a good class, a useless one, and one that is never there."""
    rng = np.random.default_rng(0)
    curves = {}
    for name, gain, share in (("liver", 3, 0.2), ("noise", 0, 0.1), ("absent", 0, 0)):
        truth = rng.random(n) < share
        logits = rng.normal(-1, 1, n) + gain * truth
        curves[name] = HistogramROC().update(1 / (1 + np.exp(-logits)), truth)
    return curves


def test_curves_are_drawn_to_scale():
    curves = scored_curves()
    labels = {"liver": "0.98 (0.97–0.99)"}
    left, right = plots.roc_curves(curves, labels).axes
    drawn = {line.get_label(): line.get_xydata() for line in left.get_lines()}
    assert "liver: 0.98 (0.97–0.99)" in drawn and not any("absent" in name for name in drawn)
    points = drawn["liver: 0.98 (0.97–0.99)"]
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1] and len(points) <= 1000
    area = np.trapezoid(points[:, 1], points[:, 0])
    assert area == pytest.approx(curves["liver"].auc(), abs=1e-3)
    assert right.get_xlim() == (0, 0.01)
    for line in right.get_lines():  # no wall at 1 %
        x, y = line.get_xydata().T
        assert (x[:-1] <= 0.01).all() and np.interp(0.005, x, y) < 1
    (axis,) = plots.pr_curves(curves, labels).axes
    chance = [line.get_ydata()[0] for line in axis.get_lines() if line.get_linestyle() == ":"]
    assert chance[0] == pytest.approx(0.2, abs=0.02)  # the class's share of the pixels
    left, right = plots.calibration(curves, labels).axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("predicted probability", "observed frequency")
    line = next(line for line in left.get_lines() if line.get_label().startswith("liver"))
    np.testing.assert_allclose(line.get_xydata()[:, 0], curves["liver"].reliability()["predicted"])
    assert right.patches[0].get_data().values.sum() == 4000


def test_confusion_shows_shares_and_numbers():
    names = ["background", "left_kidney"]
    table = pd.DataFrame([[90, 10], [5, 15]], names, names)
    (axis,) = plots.confusion({"pixels": table}).axes
    assert [t.get_text() for t in axis.texts] == ["90.0%\n90", "10.0%\n10", "25.0%\n5", "75.0%\n15"]
    with_empty_rows = plots.confusion({"a": table, "b": 0 * table})
    assert len(with_empty_rows.axes) == 2


def summary_of(classes, metrics):
    """A long summary in which every score is 0.8 (0.7 to 0.9) of 12 images."""
    table = pd.MultiIndex.from_product([classes, metrics], names=["class", "metric"]).to_frame()
    values = {"average": "per image", "value": 0.8, "low": 0.7, "high": 0.9, "n": 12}
    return table.reset_index(drop=True).assign(**values)


def test_metrics_summary_draws_every_interval():
    classes = ["liver", "spleen", "mean"]
    (axis,) = plots.metrics_summary(summary_of(classes, ["dice", "iou", "recall"])).axes
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == [f"{name} (n=12)" for name in classes]
    segments = [s for lines in axis.collections for s in lines.get_segments() if len(s)]
    assert [tuple(segment[:, 0]) for segment in segments] == [(0.7, 0.9)] * 9


def test_metrics_summary_shows_the_metrics_of_the_table(monkeypatch):
    expected = ["dice", "iou", "precision", "recall", "specificity", "accuracy"]
    assert metric_labels() == expected  # and not F1, the Dice under another name
    monkeypatch.setitem(tables.METRICS, "mine", tables.Metric(lambda tp, fp, fn, tn: tp, "counts"))
    assert metric_labels() == [*expected, "mine"]


def metric_labels():
    (axis,) = plots.metrics_summary(summary_of(["liver", "mean"], ["dice"])).axes
    return [label.get_text() for label in axis.get_yticklabels()]


def test_bland_altman_shows_pairs_bias_and_limits():
    true = pd.Series([10.0, 20, 30, 40, 50, np.nan])
    predicted = true + [2, 1, 3, 2, 2, 0]
    left, right = plots.bland_altman(true, predicted, "mL").axes
    assert left.get_title() == "n=5" and left.get_xlabel() == "true, mL"
    pairs = [[10, 12], [20, 21], [30, 33], [40, 42], [50, 52]]
    assert left.collections[0].get_offsets().tolist() == pairs
    levels = sorted(line.get_ydata()[0] for line in right.get_lines())
    half = 1.96 * np.sqrt(0.5)  # errors 2, 1, 3, 2, 2
    assert levels == pytest.approx([2 - half, 2, 2 + half])
    few = plots.bland_altman(true[:3], predicted[:3], "mL").axes[1]
    assert [line.get_ydata()[0] for line in few.get_lines()] == [2]  # three pairs have no limits
    plots.bland_altman(true[:0], predicted[:0], "mL")
