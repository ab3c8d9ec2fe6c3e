"""What is measured on masks, against voxels counted by hand and scipy."""

import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seglib import measurements


def report(per_volume, grid="original"):
    table = pd.DataFrame(per_volume, columns=["volume", "patient", "class", "n_true", "n_pred"])
    return types.SimpleNamespace(per_volume=table, about={"grid": grid})


def cases(names, spacing=(1.5, 1.5, 10.0), phases=None):
    """Three slices a volume, as in a case table."""
    rows = [
        {
            "volume": name,
            **dict(zip(measurements.SPACING, spacing)),
            **({"phase": phases[i]} if phases else {}),
        }
        for i, name in enumerate(names)
        for _ in range(3)
    ]
    return pd.DataFrame(rows)


def test_millilitres_come_from_the_spacing():
    found = measurements.organ_volumes(
        report([("a", "p", "liver", 1000, 800), ("a", "p", "spleen", 10, 0)]), cases(["a"])
    )
    assert found["true_ml"].tolist() == pytest.approx([22.5, 0.225])
    assert found["error_ml"].tolist() == pytest.approx([-4.5, -0.225])
    assert list(found["class"]) == ["liver", "spleen"] and not set(measurements.SPACING) & set(
        found
    )


@pytest.mark.parametrize("spacing", [("", "", ""), (1.5, 1.5, "")])
def test_an_unknown_spacing_gives_voxels_only(spacing):
    found = measurements.organ_volumes(
        report([("a", "p", "liver", 1000, 800)]), cases(["a"], spacing)
    )
    assert np.isnan(found["true_ml"]).all() and found["predicted_voxels"].tolist() == [800]


def test_a_report_on_the_store_grid_is_refused():
    with pytest.raises(ValueError, match="grid='original'"):
        measurements.organ_volumes(report([("a", "p", "liver", 1, 1)], "store"), cases(["a"]))


@pytest.mark.parametrize("phases", [("ES", "ED"), ("", ""), None])
def test_ejection_fraction(phases):
    name = "left_ventricle"
    rows = [("s", "p", name, 40, 50), ("d", "p", name, 100, 90), ("s", "p", "myocardium", 7, 7)]
    volumes = measurements.organ_volumes(report(rows), cases(["s", "d"], phases=phases))
    found = measurements.ejection_fractions(volumes).iloc[0]
    assert (found["ed"], found["es"]) == ("d", "s")
    assert found["ef_true"] == 60 and found["ef_predicted"] == pytest.approx(100 * 40 / 90)
    assert found["error"] == pytest.approx(100 * 40 / 90 - 60) and found[
        "edv_true_ml"
    ] == pytest.approx(2.25)


def test_the_phase_outweighs_the_size():
    rows = [("a", "p", "left_ventricle", 40, 40), ("b", "p", "left_ventricle", 100, 100)]
    volumes = measurements.organ_volumes(report(rows), cases(["a", "b"], phases=("ED", "ES")))
    assert measurements.ejection_fractions(volumes)["ef_true"].item() == -150


def test_patients_without_two_phases_and_empty_cavities():
    rows = [
        (name, patient, "left_ventricle", n, 0)
        for name, patient, n in (("a", "p", 40), ("b", "q", 9), ("c", "q", 5))
    ]
    found = measurements.ejection_fractions(
        measurements.organ_volumes(report(rows), cases(["a", "b", "c"]))
    )
    assert list(found["patient"]) == ["q"] and np.isnan(found["ef_predicted"].item())


def test_agreement_against_scipy():
    rng = np.random.default_rng(0)
    true = pd.Series(rng.uniform(20, 80, 30))
    predicted = true + rng.normal(2, 5, 30)
    predicted.iloc[3] = np.nan
    kept = true.index != 3
    found = measurements.agreement(true, predicted)
    assert found["n"] == 29 and found["r"] == pytest.approx(
        stats.pearsonr(true[kept], predicted[kept])[0]
    )
    error = (predicted - true)[kept]
    assert found["bias"] == pytest.approx(error.mean()) and found["mae"] == pytest.approx(
        error.abs().mean()
    )
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * stats.tstd(error))
    assert np.isnan(measurements.agreement(true[:1], predicted[:1])["bias"])
