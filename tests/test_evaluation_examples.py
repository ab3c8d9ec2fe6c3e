"""Images of a report, with the masks that were scored."""

import numpy as np

from seglib import data, evaluation
from tests.evaluations import greys
from tests.helpers import FakePredictor, perfect


def test_examples_of_a_volume_are_cleaned_with_it(heart_store):
    """A figure shows the mask that was scored."""
    cfg, store = heart_store
    predictor = FakePredictor(cfg, greys)
    predictor.keep_largest_component = True
    report = evaluation.evaluate(predictor, data.loaders(store, cfg)["test"])
    for _, row in report.per_image.iloc[6:12].iterrows():
        _, truth, pred = report.examples(row["case"])
        k = cfg.class_names.index(row["class"])
        assert ((pred == k) & (truth != 255)).sum() == row["n_pred"]


def test_show_draws_input_truth_prediction_and_difference(palm):
    cfg, store, batches = palm
    report = evaluation.evaluate(FakePredictor(cfg, perfect), batches["test"])
    image, truth, pred = report.examples("case7")
    np.testing.assert_array_equal(image, store.open()[0][7])
    np.testing.assert_array_equal(truth, store.open()[1][7].transpose(2, 0, 1))
    np.testing.assert_array_equal(pred[truth != 255], truth[truth != 255])
    figure = report.show(report.per_image)
    assert len(figure.axes) == 2 * 4  # two images, not six rows
    assert figure.axes[0].get_ylabel().startswith("case7\natrophy: Dice 1.000")
