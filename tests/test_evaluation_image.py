"""Images on the grid of a report: padding never counts, and slices find their volume."""

import copy

import pandas as pd

from seglib import data, evaluation
from tests.evaluations import greys
from tests.helpers import FakePredictor, all_in, blurred


def test_padding_never_counts(palm):
    """A prediction in the padding of the letterbox changes no count, score or distance."""
    cfg, store, _ = palm

    def spilled(pixels):
        prob = blurred(pixels)
        prob[..., :8, :] = prob[..., -8:, :] = 0.97
        return prob

    loader = data.loaders(all_in(store, "test"), cfg)["test"]
    clean, other = (
        evaluation.evaluate(FakePredictor(cfg, say), loader) for say in (blurred, spilled)
    )
    pd.testing.assert_frame_equal(clean.per_image, other.per_image)
    pd.testing.assert_frame_equal(clean.summary, other.summary)


def test_slices_in_any_order_are_put_together(heart_store):
    """The case table may be filtered and sorted by a reader: scores by image keep its order."""
    cfg, store = heart_store
    predictor = FakePredictor(cfg, greys)
    predictor.keep_largest_component = True
    loader = data.loaders(store, cfg)["test"]
    plain = evaluation.evaluate(predictor, loader)
    shuffled = copy.copy(store)
    shuffled.cases = store.cases.sample(frac=1, random_state=0).reset_index(drop=True)
    other = evaluation.evaluate(predictor, data.loaders(shuffled, cfg)["test"])
    assert list(dict.fromkeys(other.per_image["case"])) == list(shuffled.cases["case"])
    keys = ["case", "class"]
    pd.testing.assert_frame_equal(
        plain.per_image.sort_values(keys, ignore_index=True),
        other.per_image.sort_values(keys, ignore_index=True),
    )
    keys = ["volume", "class"]
    pd.testing.assert_frame_equal(
        plain.per_volume.sort_values(keys, ignore_index=True),
        other.per_volume.sort_values(keys, ignore_index=True),
    )
    assert plain.about["distances_of_volumes_in"] == "voxels of the store grid"
