"""The second step: models never score patients they saw, and the numbers are scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seglib import data, inference, layouts, lungs, prepare, training, two_step
from seglib.errors import DataError
from seglib.formats import images


def test_folds_keep_patients_together_and_findings_apart():
    patients = np.repeat(np.arange(30), 2)
    labels = (patients % 3 == 0).astype(int)
    fold = two_step.patient_folds(labels, patients, 5)
    assert set(fold) == set(range(5))
    assert pd.Series(fold).groupby(patients).nunique().max() == 1
    assert {labels[fold == number].sum() for number in range(5)} == {4}
    np.testing.assert_array_equal(fold, two_step.patient_folds(labels, patients, 5))
    assert (fold != two_step.patient_folds(labels, patients, 5, seed=1)).any()


def test_too_few_patients_for_the_folds_is_an_error():
    with pytest.raises(DataError, match="0: 8, 1: 2.*3 of each"):
        two_step.patient_folds([0] * 8 + [1] * 2, range(10), 3)
    with pytest.raises(DataError, match="two findings"):
        two_step.patient_folds([1] * 8, range(8), 2)


def test_out_of_fold_scores_are_by_models_that_did_not_see_them():
    rows = np.arange(12)
    trained_on = []

    def fit(inputs, labels):
        trained_on.append(set(inputs[:, 0]))
        return lambda inputs: inputs[:, 0] + 100.0 * len(trained_on)

    scores = two_step.out_of_fold(fit, rows[:, None], np.zeros(12, int), fold=rows % 3)
    assert scores.tolist() == [row + 100 * (row % 3 + 1) for row in rows]
    for number in range(3):
        assert trained_on[number] == set(rows) - set(rows[number::3])


def test_logistic_regression_is_scikit_learns_and_fills_gaps():
    rng = np.random.default_rng(0)
    inputs = rng.normal(3, 2, (60, 4))
    labels = (inputs[:, 0] + rng.normal(0, 1, 60) > 3).astype(int)
    scaled = (inputs - inputs.mean(0)) / inputs.std(0)
    expected = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit(scaled, labels)
    scores = two_step.logistic(inputs, labels)
    np.testing.assert_allclose(scores(inputs), expected.predict_proba(scaled)[:, 1], atol=1e-6)
    gaps = inputs.copy()
    gaps[::5, 1] = np.nan
    gaps[:, 3] = np.nan  # could not be measured in anybody
    scores = two_step.logistic(gaps, labels)(gaps)
    assert np.isfinite(scores).all() and roc_auc_score(labels, scores) > 0.85


def spots(n=48, side=32):
    rng = np.random.default_rng(0)
    pictures, labels = rng.normal(100, 10, (n, side, side)), np.arange(n) % 2
    for picture, label in zip(pictures, labels):
        if label:
            row, column = rng.integers(4, side - 8, 2)
            picture[row : row + 4, column : column + 4] += 90
    return pictures.clip(0, 255).astype(np.uint8), labels


def test_the_network_learns_spots_and_repeats_itself():
    pictures, labels = spots()
    new = pictures[32:]
    score = two_step.network(pictures[:32], labels[:32], epochs=12)
    scores = score(new)
    assert roc_auc_score(labels[32:], scores) > 0.95 and ((scores > 0) & (scores < 1)).all()
    again = two_step.network(pictures[:32], labels[:32], epochs=12)
    np.testing.assert_array_equal(scores, again(new))
    mirrored, brighter = new[:, :, ::-1].copy(), np.clip(new, 0, 254) + 1
    np.testing.assert_allclose(scores, score(mirrored), atol=1e-5)
    np.testing.assert_allclose(scores, score(brighter), atol=0.02)


def test_the_network_takes_any_size():
    assert two_step.SmallNet()(torch.zeros(2, 1, 16, 23)).shape == (2,)


def test_frames_keep_the_scale():
    pictures = [np.full(shape, 9, np.uint8) for shape in ((40, 60), (50, 70), (90, 64))]
    size = two_step.frame_size(pictures, 0.5)
    assert size == (32, 32)
    framed = two_step.frame(pictures, size)
    assert framed.shape == (3, 32, 32) and framed.dtype == np.uint8
    assert (framed[2] == 9).mean() < 0.8  # narrower than the frame


@pytest.fixture
def halves(lung_tree, lung_cfg):
    cfg = lung_cfg.replace(data_root=str(lung_tree), test_split=0, epochs=1, image_size=32)
    cases = layouts.scan(cfg)
    labels = (cases["finding"] == "tuberculosis").to_numpy().astype(int)
    return cases, cfg, two_step.patient_folds(labels, cases["patient"], 2)


def test_every_mask_is_by_a_network_that_never_saw_the_patient(halves, tmp_path, monkeypatch):
    cases, cfg, fold = halves
    trained_on, predicted = [], []
    real_fit, real_predict = training.fit, inference.Predictor.predict_file

    def fit(cfg, batches, **options):
        parts = [set(batches[part].dataset.cases["patient"]) for part in ("train", "val")]
        trained_on.append(parts[0] | parts[1])
        return real_fit(cfg, batches, **options)

    def predict_file(self, path):
        patient = cases.set_index("image").loc[path, "patient"]
        assert patient not in trained_on[-1]
        predicted.append(patient)
        return real_predict(self, path)

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(inference.Predictor, "predict_file", predict_file)
    segmented = two_step.segment_unseen(cases, cfg, fold, tmp_path / "out")
    assert sorted(predicted) == sorted(cases["patient"]) and len(cases) == 16
    assert [len(patients) for patients in trained_on] == [8, 8]
    assert not trained_on[0] & trained_on[1]
    assert list(segmented["case"]) == list(cases["case"])
    for case in segmented.itertuples():
        with Image.open(case.image) as picture, Image.open(case.segmented) as mask:
            assert picture.size == mask.size


def test_a_picture_that_cannot_be_read_is_left_out_and_named(halves, tmp_path):
    cases, cfg, fold = halves
    batches = data.loaders(prepare.build(cases, cfg), cfg)
    run = training.fit(cfg, batches, folder=tmp_path / "run")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    cases.loc[3, "image"] = str(bad)
    predictor = inference.Predictor.load(run.best, "cpu")
    segmented = two_step.segment(cases, predictor, tmp_path / "masks")
    assert len(segmented) == 15 and 3 not in segmented.index
    assert any("bad.png" in note for note in segmented.attrs["notes"])


def test_a_case_is_opened_at_the_working_size(halves, tmp_path):
    case = next(halves[0].itertuples())
    picture, mask = two_step.open_case(case, side=100, column="lung")
    assert max(picture.shape) == 100 and picture.shape == mask.shape and mask.dtype == bool
    beside = ndimage.binary_dilation(mask, iterations=3) & ~mask  # mostly ribs, heart and liver
    assert 0.1 < mask.mean() < 0.5 and picture[mask].mean() < picture[beside].mean()
    assert np.isfinite(list(lungs.measures(picture, mask).values())).all()
    images.write_png(tmp_path / "small.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=rf"{case.case}: lung is \(9, 9\)"):
        two_step.open_case(case._replace(lung=str(tmp_path / "small.png")), column="lung")
