"""Any allowed config through the whole chain: what comes out is a result or an error of seglib."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seglib import config, data, evaluation, inference, tables, training
from seglib.errors import SeglibError
from tests.helpers import hand_store

pytestmark = pytest.mark.usefixtures("without_figures")

CLASSES = {"binary": ["a"], "multilabel": ["a", "b"], "multiclass": ["background", "a"]}


@st.composite
def allowed(draw):
    """Values of settings that `config` allows one by one, for a network of a few channels."""
    task = draw(st.sampled_from(list(CLASSES)))
    fitting = [name for name, loss in tables.LOSSES.items() if task in loss.tasks]
    side = st.sampled_from([8, 9, 16, 17, 32])
    values = {
        "task": task,
        "class_names": CLASSES[task],
        "loss": draw(st.sampled_from(fitting)),
        "image_size": draw(st.tuples(side, side)),
        "in_channels": draw(st.integers(1, 5)),
        "architecture": draw(st.sampled_from(["unet", "aspp"])),
        "depth": draw(st.integers(1, 6)),
        "attention": draw(st.booleans()),
        "deep_supervision": draw(st.booleans()),
        "stem": draw(st.sampled_from(config.choices_of("stem"))),
        "augment": draw(st.sampled_from([{}, "robust", *tables.AUGMENTATION_SETS])),
        "checkpointing": draw(st.booleans()),
        "epochs": draw(st.integers(1, 2)),
        "batch_size": draw(st.sampled_from([1, 2, 3, 4096])),
        "accumulate": draw(st.sampled_from([1, 3, 4096])),
        "clip": draw(st.sampled_from([0, 1e-9])),
        "lr": draw(st.sampled_from([1e-8, 1e-3, 10])),
        "threshold": draw(st.sampled_from([0, 0.5, 1])),
        "bootstrap": 10,
    }
    for name in ("optimizer", "scheduler", "monitor", "resize"):
        values[name] = draw(st.sampled_from(config.choices_of(name)))
    return values


def store_of(folder, cfg, splits):
    """Five images of noise; in the last ones no pixel has a structure."""
    rng = np.random.default_rng(0)
    shape = (len(splits), *cfg.height_width)
    n_planes = cfg.n_classes if cfg.task == "multilabel" else 1
    pictures = rng.integers(0, 256, (*shape, cfg.in_channels), np.uint8)
    masks = rng.integers(0, 2, (*shape, n_planes), np.uint8)
    masks[3:] = 0
    names = ["labels"] if cfg.task == "multiclass" else list(cfg.class_names)
    return hand_store(folder, pictures, masks, splits, names)


@settings(max_examples=12)
@given(allowed(), st.sampled_from([["train"] * 3 + ["val"] * 2, ["train"] + ["test"] * 4]))
@example({"batch_size": 1, "depth": 5, "image_size": 32}, ["train"] * 4 + ["val"])
@example({"batch_size": 4, "depth": 3, "in_channels": 5}, ["val"] * 4 + ["test"])
def test_only_errors_that_name_a_setting_come_out(tmp_path_factory, values, splits):
    folder = tmp_path_factory.mktemp("any")
    fixed = {"mean": [0.5], "std": [0.5], "augment": {}, "base_channels": 1, "device": "cpu"}
    fixed |= {"precision": "fp32", "num_workers": 0, "work_dir": str(folder)}
    try:
        cfg = config.preset("binary", "smoke", **{"class_names": ["a"], **fixed, **values})
        batches = data.loaders(store_of(folder / "store", cfg, splits), cfg)
        run = training.fit(cfg, batches)
        report = evaluation.evaluate(run, batches["train"], distances=False)
        prediction = inference.Predictor.load(run.best).predict(np.zeros((7, 50, 3), np.uint8))
    except SeglibError as error:
        assert any(name in str(error) for name in config.FIELDS), error
        return
    assert np.isfinite(run.history["train_loss"]).all() and len(report.per_image)
    assert prediction.mask.shape[-2:] == (7, 50)
