"""Stores, predictors and reports that the tests of `evaluation` share."""

import numpy as np
from scipy import ndimage

from seglib import config, data, evaluation
from tests.helpers import FakePredictor, all_in, blurred, hand_store

COLUMNS = "case patient volume slice class annotated n_true n_pred tp fp fn tn".split()
COLUMNS += "dice iou precision recall f1 specificity accuracy bce hd95 assd nsd".split()
COLUMNS += ["distance_unit"]


def rare_store(folder, n=12, n_present=6, **columns):
    """One structure, bright in the picture, in `n_present` of n pictures."""
    masks = np.zeros((n, 64, 64, 1), np.uint8)
    masks[:n_present, 20:40, 20:40] = 1
    pictures = np.where(masks == 1, 200, 40).astype(np.uint8)
    return hand_store(folder, pictures, masks, ["test"] * n, ("lung",), **columns)


def report_on(store, say, **options):
    cfg = config.preset("lung", "smoke", augment={})
    return evaluation.evaluate(FakePredictor(cfg, say), data.loaders(store, cfg)["test"], **options)


def nothing(pixels):
    return 0 * pixels


def greys(pixels):
    """Softmax of the class whose grey value is nearest, of a smoothed slice: with many specks."""
    smooth = ndimage.gaussian_filter(pixels, (0, 0, 1, 1))
    likelihood = np.exp(-np.abs(smooth - 70 * np.arange(4).reshape(-1, 1, 1)) / 8)
    return likelihood / likelihood.sum(axis=1, keepdims=True)


def loaders_of(lung_run):
    run, store = lung_run
    return data.loaders(store, run.config)


def report_of(palm, say=blurred, **changes):
    cfg, store, _ = palm
    return evaluation.evaluate(
        FakePredictor(cfg.replace(**changes), say), data.loaders(all_in(store, "test"), cfg)["test"]
    )


def pixels_of(palm, k, say=blurred):
    """Scores, truth and patient of every pixel that counts, of class k."""
    _, store, _ = palm
    pictures, masks = store.open()
    prob = np.stack([say(p.transpose(2, 0, 1)[None].astype(float))[0, k] for p in pictures]).astype(
        np.float32
    )
    valid = masks[..., k] != 255
    patients = np.broadcast_to(store.cases["patient"].to_numpy()[:, None, None], valid.shape)
    return prob[valid], masks[..., k][valid] == 1, patients[valid]
