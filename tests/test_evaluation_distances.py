"""Distances: their units, and the diagonal that no distance exceeds."""

import numpy as np
import pandas as pd
import pytest

from seglib import config, evaluation, metrics, plots, summary
from seglib.errors import DataError
from seglib.evaluation.distances import distance_scores
from seglib.formats import images
from tests.evaluations import COLUMNS, loaders_of, rare_store, report_on
from tests.helpers import FakePredictor, blurred, perfect


def test_the_diagonal_is_that_of_the_image_not_of_its_frame(palm):
    """An empty prediction is as far away as the image is large: 48 x 64 pixels here, the padding is
    none of it.
    """
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, lambda pixels: 0 * pixels), batches["test"])
    scored = report.per_image[report.per_image["annotated"]]
    assert (scored["n_pred"] == 0).all() and (scored["n_true"] > 0).all()
    assert scored["hd95"].to_numpy() == pytest.approx(80.0) and scored[
        "assd"
    ].to_numpy() == pytest.approx(80.0)


def test_the_diagonal_is_computed_once_for_an_image(monkeypatch):
    calls = []
    diagonal = metrics.diagonal
    monkeypatch.setattr(metrics, "diagonal", lambda *a: calls.append(a) or diagonal(*a))
    truth, nothing = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    scores = distance_scores(nothing, truth, np.ones((3, 4), bool), (2.0, 2.0))
    assert scores["hd95"] == scores["assd"] == 10 and len(calls) == 1


def test_intervals_of_distances_end_at_the_diagonal():
    """Six patients, of whom one is missed: on a logarithmic scale the interval would be endless."""
    distances = [3.0, 4.0, 2.5, 5.0, 3.5, 181.0]
    table = pd.DataFrame({"case": list("abcdef"), "patient": list("abcdef"), "class": "disc"})
    table = table.assign(
        annotated=True, hd95=distances, assd=distances, nsd=0.7, n_true=9, dice=0.5
    )
    table = table.assign(**dict.fromkeys(("tp", "fp", "fn", "tn"), 9), distance_unit="mm")
    table = table.assign(**metrics.ratios(9, 9, 9, 9))
    cfg = config.Config(bootstrap=500)
    ends = {}
    for longest in ({"mm": 181.0}, {"pixels": 9.0}, None):
        rows = summary.of_table(table, "per image", cfg, longest=longest)
        rows = rows[rows["class"] == "disc"].set_index("metric")
        ends[str(longest)] = rows.loc["hd95", ["low", "high"]].tolist()
        assert rows.loc["nsd", "high"] <= 1  # it has a limit of its own
    limited, of_other_unit, unlimited = ends.values()
    assert 0 < limited[0] < 33 < limited[1] <= 181
    assert unlimited[1] > 181 and of_other_unit == unlimited


def test_distances_may_be_left_out(palm):
    cfg, _, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, blurred), batches["test"], distances=False)
    assert list(report.per_image) == COLUMNS and report.per_image[
        ["hd95", "assd", "nsd"]
    ].isna().all(axis=None)
    assert not set(report.summary["metric"]) & {"hd95", "assd", "nsd"} and "dice" in set(
        report.summary["metric"]
    )


# ---- units


def test_distances_are_millimetres_where_the_spacing_is_known(lung_run):
    run, store = lung_run
    loader = loaders_of(lung_run)["test"]
    pixels = evaluation.evaluate(run, loader, grid="original")
    loader.dataset.cases = loader.dataset.cases.assign(spacing_row_mm=0.25, spacing_col_mm=0.25)
    in_mm = evaluation.evaluate(run, loader, grid="original")
    assert in_mm.about["distances_in"] == "mm"
    for metric in ("hd95", "assd"):
        assert in_mm.per_image[metric].to_numpy() == pytest.approx(
            0.25 * pixels.per_image[metric].to_numpy()
        )
    pd.testing.assert_frame_equal(in_mm.per_image[COLUMNS[:20]], pixels.per_image[COLUMNS[:20]])
    assert "pixels" in evaluation.evaluate(run, loader, grid="store").about["distances_in"]


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_millimetres_and_pixels_are_never_averaged_together(tmp_path):
    """Pictures whose spacing is unknown keep their pixels, and are left out of the mean in mm."""
    n = 12
    spacing = ["0.5"] * 7 + ["", "0", "-1", "nan", "inf"]
    columns = {"spacing_row_mm": spacing, "spacing_col_mm": spacing}
    tree = tmp_path / "tree"
    store = rare_store(tmp_path / "store", n, n, **columns)
    for k, case in enumerate(store.cases.index):
        path = tree / f"{k}.png"
        images.write_png(path, store.open()[1][k, ..., 0] * np.uint8(255))
        store.cases.loc[case, "lung"] = str(path)

    def shifted(pixels):
        return np.roll(perfect(pixels), 4, axis=-1)

    report = report_on(store, shifted, grid="original")
    rows = report.per_image
    assert list(rows["distance_unit"]) == ["mm"] * 7 + ["pixels"] * 5
    assert (rows["hd95"][:7] == 2).all() and (rows["hd95"][7:] == 4).all()
    rows_of = report.summary.set_index(["metric", "average", "class"])
    for name in ("lung", "mean"):
        row = rows_of.loc[("hd95", "per image", name)]
        assert (row["value"], row["n"], row["unit"]) == (2, 7, "mm")
        assert rows_of.loc[("dice", "per image", name), ["n", "unit"]].tolist() == [12, ""]
    assert report.about["distances_in"].startswith("mm; 5 of 12 images have no known spacing")
    figure = plots.scores_by_image(rows, "hd95")
    assert figure.axes[0].get_xlabel() == "HD95 of an image, mm"
    assert "n=7" in figure.axes[0].get_yticklabels()[0].get_text()

    store.cases = store.cases.assign(spacing_row_mm="", spacing_col_mm="")
    in_pixels = report_on(store, shifted, grid="original")
    assert in_pixels.about["distances_in"] == "pixels of the original grid"
    with pytest.raises(DataError, match="hd95 is in mm in one report and in pixels in the other"):
        evaluation.compare(report, in_pixels, "hd95")
    compared = evaluation.compare(report, report, "hd95").set_index("class")
    assert compared.loc["lung", ["a", "n"]].tolist() == [2, 7]


def test_a_class_whose_distances_are_in_pixels_is_not_said_to_be_in_mm():
    rows = [
        {"case": str(k), "patient": str(k), "class": name, "annotated": True, "n_true": 5}
        | {"tp": 4, "fp": k, "fn": 1, "tn": 90, "hd95": 1.0 + k, "distance_unit": unit}
        for name, unit in (("lung", "mm"), ("heart", "pixels"))
        for k in range(6)
    ]
    cfg, table = config.preset("lung", "smoke"), pd.DataFrame(rows).assign(dice=0.8)
    found = summary.of_table(table, "per image", cfg, longest={"mm": 7.0, "pixels": 90.0})
    found = found[found["metric"] == "hd95"].set_index("class")
    assert found["unit"].to_dict() == {"lung": "mm", "heart": "pixels", "mean": "mm"}
