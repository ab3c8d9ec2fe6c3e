"""Detection, saved reports and comparisons, computed a second way by scikit-learn."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from PIL import Image

from seglib import bootstrap, data, evaluation
from seglib.errors import DataError
from tests.evaluations import report_of
from tests.helpers import PALM_CLASSES, FakePredictor, blurred

pytestmark = pytest.mark.usefixtures("no_warnings")
PICTURES = [
    "confusion_matrix",
    "roc_curves",
    "pr_curves",
    "calibration",
    "metrics_distribution",
    "metrics_summary",
    "sample_predictions",
    "worst_cases",
]


# ---- detection


def test_detection_counts_images(palm):
    report = report_of(palm)
    for row in report.detection().itertuples():
        rows = report.per_image[
            (report.per_image["class"] == row[1]) & report.per_image["annotated"]
        ]
        tn, fp, fn, tp = sk.confusion_matrix(
            rows["n_true"] > 0, rows["n_pred"] > 0, labels=[False, True]
        ).ravel()
        assert (row.tp, row.fp, row.fn, row.tn) == (tp, fp, fn, tn)


# ---- files


class Page(HTMLParser):
    """Tags and sources of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_save_writes_all_and_one_page_that_stands_alone(palm, tmp_path):
    palm[1].cases.loc[0, "case"] = "<script>alert(1)</script>"
    report = report_of(palm)
    history = {
        "epoch": [1, 2],
        "train_loss": [1, 0.5],
        "val_loss": [1, 0.6],
        "val_dice": [0.1, 0.4],
    }
    report.history = pd.DataFrame({**history, "val_accuracy": [0.8, 0.9], "best": [False, True]})
    folder = report.save(tmp_path / "results")
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{name}.png" for name in [*PICTURES, "training_curves"]} | {
        "evaluation_report.txt",
        "evaluation_report.json",
        "per_image.csv",
        "report.html",
    }
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("img") == len(PICTURES) + 1 and "script" not in page.tags
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://", text) and "&lt;script&gt;" in text
    assert "(rows)" in (folder / "evaluation_report.txt").read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed here")
@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_a_browser_shows_every_figure_and_has_no_complaint(palm, tmp_path):
    folder = report_of(palm).save(tmp_path / "results")
    page = folder / "report.html"
    size = "i.complete && i.naturalWidth > 200"
    loop = f"for (const i of document.images) console.log('shown', {size})"
    probe = f"<script>onload = () => {{ {loop} }}</script>"
    (tmp_path / "probed.html").write_text(page.read_text().replace("</body>", probe + "</body>"))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    options = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    done = subprocess.run(
        [*browser, *options, f"file://{tmp_path / 'probed.html'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == len(PICTURES) and all('"shown true"' in line for line in said), said
    assert np.asarray(Image.open(tmp_path / "page.png").convert("L")).std() > 10


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_a_report_of_nothing_can_be_saved(palm, tmp_path):
    cfg, store, _ = palm
    store.cases[list(PALM_CLASSES)] = ""
    store.cases = store.cases.assign(split="test")
    report = evaluation.evaluate(FakePredictor(cfg, blurred), data.loaders(store, cfg)["test"])
    folder = report.save(tmp_path / "results")
    found = json.loads((folder / "evaluation_report.json").read_text())
    assert found["images"] == 9 and (folder / "report.html").is_file()


# ---- comparisons


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")  # seaborn 0.13 with matplotlib 3.11
def test_two_reports_are_compared_image_by_image(palm, tmp_path):
    a, b = report_of(palm), report_of(palm, lambda pixels: np.roll(blurred(pixels), -3, axis=-1))
    table = evaluation.compare(a, b).set_index("class")
    assert list(table.index) == [*PALM_CLASSES, "mean"]
    for name in PALM_CLASSES:
        rows = [
            r.per_image[(r.per_image["class"] == name) & r.per_image["annotated"]] for r in (a, b)
        ]
        expected = bootstrap.paired(rows[0]["dice"], rows[1]["dice"], rows[0]["patient"])
        found = table.loc[name]
        assert found["difference"] == pytest.approx(rows[1]["dice"].mean() - rows[0]["dice"].mean())
        assert [found[key] for key in ("low", "high", "better", "n")] == pytest.approx(
            [expected[key] for key in ("low", "high", "better", "n")], nan_ok=True
        )
    saved = evaluation.compare(
        a.save(tmp_path / "a"), b.save(tmp_path / "b") / "evaluation_report.json"
    )
    pd.testing.assert_frame_equal(saved, table.reset_index(), check_exact=False)
    same = evaluation.compare(a, a)
    assert (same["difference"] == 0).all() and (same["better"][same["n"] >= 5] == 0.5).all()
    by_distance = evaluation.compare(a, b, "hd95").set_index("class").loc["mean"]
    assert by_distance["difference"] == pytest.approx(by_distance["b"] - by_distance["a"])
    assert by_distance["low"] <= by_distance["difference"] <= by_distance["high"]
    assert by_distance["difference"] < 0 and by_distance["better"] > 0.5


@pytest.mark.filterwarnings("ignore:vert. bool was deprecated")
def test_a_difference_of_distances_is_no_longer_than_the_diagonal(palm):
    near = report_of(palm)
    diagonal = near.about["longest_possible_distance"]
    assert diagonal == np.hypot(48, 64)  # of the frame without its padding
    distances = np.full(len(near.per_image), diagonal)
    distances[:3] /= 10  # those of one image
    far = dataclasses.replace(near, per_image=near.per_image.assign(hd95=distances))
    near = dataclasses.replace(near, per_image=near.per_image.assign(hd95=0.0))
    row = evaluation.compare(near, far, "hd95").set_index("class").loc["mean"]
    assert row["low"] < row["difference"] < row["high"] == diagonal
    back = evaluation.compare(far, near, "hd95").set_index("class").loc["mean"]
    assert (back["low"], back["high"]) == (-row["high"], -row["low"])
    # Reports of older versions do not tell the diagonal: no limit is known.
    older = [dataclasses.replace(r, about={"grid": r.about["grid"]}) for r in (near, far)]
    assert evaluation.compare(*older, "hd95")["high"].max() > diagonal


def test_what_cannot_be_compared_is_said(palm, tmp_path):
    report = report_of(palm)
    with pytest.raises(DataError, match="not in both reports"):
        evaluation.compare(report, report, "beauty")
    with pytest.raises(DataError, match="no report here"):
        evaluation.compare(report, tmp_path / "nowhere")
    (tmp_path / "evaluation_report.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="not a report"):
        evaluation.compare(tmp_path, report)
    other = report_of(palm)
    other.per_image = other.per_image.assign(case="x")
    with pytest.raises(DataError, match="no image .* in common"):
        evaluation.compare(report, other)
    other = report_of(palm)
    other.about = {**other.about, "grid": "original"}
    with pytest.raises(DataError, match="evaluate both alike"):
        evaluation.compare(report, other)


def test_another_truth_is_refused(palm, tmp_path):
    """In memory and from files; a report of before, which does not hold the size of the truth, is
    compared.
    """
    report, other = report_of(palm), report_of(palm)
    rows = other.per_image["annotated"] & (other.per_image["case"] == "case4")
    other.per_image.loc[rows & (other.per_image["class"] == "disc"), "n_true"] = 999
    message = (
        r"case4, class disc: the truth has \d+ pixels in one report and 999 in the other \(1 of"
    )
    with pytest.raises(DataError, match=message):
        evaluation.compare(report, other)
    first, second = report.save(tmp_path / "a"), other.save(tmp_path / "b")
    with pytest.raises(DataError, match=message):
        evaluation.compare(first, second)
    path = second / "evaluation_report.json"
    saved = json.loads(path.read_text())
    place = saved["per_image"]["columns"].index("n_true")
    for row in (saved["per_image"]["columns"], *saved["per_image"]["data"]):
        del row[place]
    path.write_text(json.dumps(saved))
    assert (evaluation.compare(first, second)["difference"] == 0).all()


def test_masks_of_one_report_only_are_left_out_and_counted(palm):
    report, other = report_of(palm), report_of(palm)
    plain = evaluation.compare(report, other).set_index("class")
    row = (other.per_image["case"] == "case4") & (other.per_image["class"] == "disc")
    other.per_image.loc[row, "annotated"] = False
    table = evaluation.compare(report, other).set_index("class")
    assert table["n_left_out"].tolist() == (plain["n_left_out"] + [0, 0, 1, 0]).tolist()
    assert table.loc["disc", "n"] == plain.loc["disc", "n"] - 1
    other.per_image = other.per_image[other.per_image["case"] != "case3"]
    assert evaluation.compare(report, other)["n_left_out"].min() == 1
