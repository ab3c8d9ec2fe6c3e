"""The explorer: worst first, sliders that change what is drawn, and figures where there are no
widgets.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from seglib import data, evaluation, explorer, hosts, plots
from tests.helpers import FakePredictor, all_in, blurred, cardiac_config, label_store, labelled


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def report_of(palm, **changes):
    cfg, store, _ = palm
    return evaluation.evaluate(
        FakePredictor(cfg.replace(**changes), blurred),
        data.loaders(all_in(store, "test"), cfg)["test"],
    )


def test_the_worst_case_comes_first_and_sliders_redraw(palm, monkeypatch):
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    drawn = []
    monkeypatch.setattr(
        explorer,
        "show",
        lambda report, case, title, level, masks: drawn.append((case, level, masks)),
    )
    report = report_of(palm)
    scored = report.per_image[report.per_image["annotated"]]
    order = scored.groupby("case")["dice"].mean().sort_values().index.tolist()
    box = explorer.explore(report)
    case, level, masks, *_ = box.children
    assert [value for _, value in case.options] == order and case.value == order[0]
    assert drawn[-1] == (order[0], 0.5, True)
    level.value, masks.value, case.value = 0.3, False, order[1]
    assert drawn[-1] == (order[1], 0.3, False)


def test_the_notes_of_the_report_stand_below(palm, monkeypatch):
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    report = report_of(palm)
    report.notes[:] = []
    n_widgets = len(explorer.explore(report).children)
    report.notes[:] = ["1 < 2 images", "seen in training"]
    *widgets, notes = explorer.explore(report).children
    assert notes.value == "<p>1 &lt; 2 images</p><p>seen in training</p>"
    assert len(widgets) == n_widgets


def test_volumes_have_a_slice_slider(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    drawn = []
    monkeypatch.setattr(
        explorer, "show", lambda report, case, title, level, masks: drawn.append(case)
    )
    cfg = cardiac_config()
    store = all_in(label_store(tmp_path / "hearts", cfg), "test")
    store.cases["volume"] = ["a", "a", "b"] + ["c"] * (len(store.cases) - 3)
    store.cases["slice"] = range(len(store.cases))
    report = evaluation.evaluate(
        FakePredictor(cfg, lambda p: np.roll(labelled(p), 3, -1)), data.loaders(store, cfg)["test"]
    )
    volume, number, *_ = explorer.explore(report).children
    volume.value = "a"
    assert number.max == 1
    number.value = 1
    assert drawn[-1] == store.cases["case"].iloc[1]
    volume.value = "b"
    assert number.max == 0 and drawn[-1] == store.cases["case"].iloc[2]


def test_the_threshold_decides_what_is_drawn(palm):
    report = report_of(palm)
    case = report.per_image["case"].iloc[0]
    shown = [explorer.show(report, case, "x", level) for level in (0.05, 0.9)]
    low, high = (np.asarray(figure.axes[2].get_images()[0].get_array()) for figure in shown)
    plain = np.asarray(
        explorer.show(report, case, "x", 0.5, masks=False).axes[0].get_images()[0].get_array()
    )
    plain = plots.enlarged(plain, len(low) // len(plain))
    assert (low != plain).any(axis=-1).sum() > (high != plain).any(axis=-1).sum() > 0


def test_without_widgets_it_is_a_figure(palm, monkeypatch):
    report = report_of(palm)
    assert isinstance(explorer.explore(report), Figure)  # no notebook
    monkeypatch.setattr(hosts, "in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it fails
    assert isinstance(explorer.explore(report), Figure)
