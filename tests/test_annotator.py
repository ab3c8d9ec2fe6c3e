"""The simulated annotator on phantoms: rounds, orders, going on, and the table."""

import json

import pytest

from seglib import config, layouts, phantoms
from tests import annotator

CURVES = {
    "queue 0": [{"masks": 5, "dice": 0.5}, {"masks": 10, "dice": 0.9}],
    "random 0": [{"masks": 5, "dice": 0.5}, {"masks": 10, "dice": 0.7}],
}


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """Two rounds in both orders on twenty phantoms, and the settings."""
    folder = tmp_path_factory.mktemp("annotator")
    root = phantoms.write("binary", folder / "phantoms", n=20)
    cfg = config.preset("binary", "smoke", data_root=str(root), work_dir=str(folder))
    cases = layouts.scan(cfg)
    rounds = {
        order: list(annotator.rounds_of(cases, cfg, 0, order, [], 2)) for order in annotator.ORDERS
    }
    return rounds, cases, cfg


def test_each_round_adds_five_masks(curves):
    rounds, _, _ = curves
    for curve in rounds.values():
        assert [n_masks for n_masks, _ in curve] == [5, 10]
        assert all(0 <= dice <= 1 for _, dice in curve)


def test_both_orders_begin_with_the_same_network(curves):
    rounds, _, _ = curves
    assert rounds["queue"][0] == rounds["random"][0]


def test_a_stopped_run_goes_on(curves):
    rounds, cases, cfg = curves
    done = [{"masks": 5, "dice": rounds["queue"][0][1]}]
    again = list(annotator.rounds_of(cases, cfg, 0, "queue", done, 2))
    assert again == rounds["queue"][1:]


def test_table_counts_the_masks_that_the_target_needs():
    result = {"curves": CURVES, "date": "2026-01-01", "machine": "a machine"}
    text = annotator.table(json.loads(json.dumps(result)))
    assert "| 10 | 0.900 | 0.700 |" in text
    assert "with 10.0 masks in the order of the queue and with 15.0 in a random order" in text


def test_the_page_has_the_place_of_the_table():
    page = annotator.PAGE.read_text(encoding="utf-8")
    order = page.split("## The order")[1].split("\n## ")[0]
    assert order.index(annotator.BEGIN) < order.index(annotator.END)
