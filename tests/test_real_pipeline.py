"""From raw tree to scores at the size of the files, on a few real X-rays; skipped without them."""

import numpy as np
import pytest

from seglib import config, data, evaluation, inference, layouts, prepare, training


@pytest.mark.parametrize("name", ["montgomery", "shenzhen"])
def test_from_real_xrays_to_scores(real, tmp_path, name):
    cfg = config.preset(
        "lung", "smoke", data_root=str(real(name)), work_dir=str(tmp_path), epochs=8, test_split=4
    )
    cases = layouts.scan(cfg).head(20)
    store = prepare.build(cases, cfg)
    assert len(store.cases) == 20 and not len(store.report.problems)
    batches = data.loaders(store, cfg)
    run = training.fit(cfg, batches)
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    report = evaluation.evaluate(run, batches["test"], grid="original")
    assert report.table("dice")["n"].item() == 4
    pixels = report.per_image[["tp", "fp", "fn", "tn"]].sum(axis=1)
    assert (pixels == 512 * 512).all()  # scored at the size of the files, not of the network
    prediction = inference.Predictor.load(run.best).predict_file(cases["image"].iloc[0])
    assert prediction.mask.shape == (512, 512) and np.isfinite(prediction.prob).all()
