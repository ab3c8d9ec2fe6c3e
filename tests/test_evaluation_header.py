"""What a reader must know before the numbers: the part, images seen in training, odd files."""

import json

import pytest

from seglib import config, data, evaluation
from tests.evaluations import loaders_of, rare_store, report_on
from tests.helpers import FakePredictor, perfect


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("test", "test, 5 images of 5 patients"),
        ("val", "validation, used for model choice, 3 images"),
    ],
)
def test_title_names_the_part(lung_run, part, words):
    run, _ = lung_run
    report = evaluation.evaluate(run, loaders_of(lung_run)[part])
    assert report.title.startswith(f"lung: {words}") and report.text().startswith(report.title)
    assert report.about["part"] == words.rsplit(",", 1)[0]


@pytest.mark.usefixtures("without_report_figures")
def test_images_seen_in_training_are_the_first_line(tmp_path):
    store = rare_store(tmp_path, n_present=12)
    cfg = config.preset("lung", "smoke", augment={})
    predictor = FakePredictor(cfg, perfect)
    hashes = [f"{k:016x}" for k in range(12)]
    store.cases["sha256"] = [text + 48 * "0" for text in hashes]
    for trained_on, words in ((hashes, "ALL 12 IMAGES"), (hashes[:3], "3 OF 12 IMAGES")):
        predictor.trained_on = trained_on
        report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"])
        assert report.notes[0].startswith(f"{words} WERE SEEN IN TRAINING")
        assert report.text().splitlines()[3] == f"! {report.notes[0]}"
        folder = report.save(tmp_path / words.split()[0])
        assert "WERE SEEN IN TRAINING" in (folder / "report.html").read_text()
        assert json.loads((folder / "evaluation_report.json").read_text())["notes"] == report.notes
    predictor.trained_on = ["f" * 16]
    assert not evaluation.evaluate(predictor, data.loaders(store, cfg)["test"]).notes


def test_notes_on_scored_files_reach_the_report(tmp_path):
    store = rare_store(tmp_path, n_present=12)
    store.report.notes += [
        "3.png: turned by its EXIF orientation",
        "11.png: 16 bits were reduced to 8",
        "split: 12 patients to test",
        "the CT is not in HU",
    ]
    train = store.cases["case"].isin(["case11", "case10"])
    store.cases.loc[train, "split"] = "train"
    report = report_on(store, perfect)
    expected = ["data: 3.png: turned by its EXIF orientation", "data: the CT is not in HU"]
    assert report.notes == expected
    store.report.notes += [f"{k}.png: is odd" for k in range(9)]
    notes = report_on(store, perfect).notes
    assert len(notes) == 6 and notes[-1].startswith("data: 6 more notes")
