"""Measurements on masks, against voxels counted by hand and scipy."""

import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seglib import measurements


def report(per_volume, grid="original"):
    table = pd.DataFrame(per_volume, columns=["volume", "patient", "class", "n_true", "n_pred"])
    return types.SimpleNamespace(per_volume=table, about={"grid": grid})


def cases(names, spacing=(1.5, 1.5, 10.0), phases=None, patients="p"):
    """Three slices a volume, as in a case table."""
    table = pd.DataFrame({"volume": names, "patient": patients}).assign(
        **dict(zip(measurements.SPACING, spacing))
    )
    if phases:
        table["phase"] = phases
    return table.loc[table.index.repeat(3)]


def test_millilitres_come_from_the_spacing():
    rows = [("a", "p", "liver", 1000, 800), ("a", "p", "spleen", 10, 0)]
    table = measurements.organ_volumes(report(rows), cases(["a"]))
    assert table["true_ml"].tolist() == pytest.approx([22.5, 0.225])
    assert table["error_ml"].tolist() == pytest.approx([-4.5, -0.225])
    assert list(table["class"]) == ["liver", "spleen"]
    assert not set(measurements.SPACING) & set(table)


def test_volumes_of_one_name_have_the_spacing_of_their_own_patient():
    thick, thin = cases(["scan"]), cases(["scan"], (1.5, 1.5, 1.0), patients="q")
    rows = [("scan", "p", "liver", 1000, 1000), ("scan", "q", "liver", 1000, 1000)]
    table = measurements.organ_volumes(report(rows), pd.concat([thick, thin]))
    assert table["true_ml"].tolist() == pytest.approx([22.5, 2.25])


@pytest.mark.parametrize(
    "spacing",
    [
        ("", "", ""),
        (1.5, 1.5, ""),
        (1.5, 1.5, 0),
        (1.5, 1.5, -10),
        (1.5, np.nan, 10),
        (1.5, 1.5, 1e9),
    ],
)
def test_an_unknown_spacing_gives_voxels_only(spacing):
    rows = [("a", "p", "liver", 1000, 800)]
    table = measurements.organ_volumes(report(rows), cases(["a"], spacing))
    assert np.isnan(table["true_ml"]).all() and table["predicted_voxels"].tolist() == [800]


def test_a_report_on_the_store_grid_is_refused():
    with pytest.raises(ValueError, match="grid='original'"):
        measurements.organ_volumes(report([("a", "p", "liver", 1, 1)], "store"), cases(["a"]))


@pytest.mark.parametrize("phases", [("ES", "ED"), ("", ""), None])
def test_ejection_fraction(phases):
    name = "left_ventricle"
    rows = [("s", "p", name, 40, 50), ("d", "p", name, 100, 90), ("s", "p", "myocardium", 7, 7)]
    volumes = measurements.organ_volumes(report(rows), cases(["s", "d"], phases=phases))
    row = measurements.ejection_fractions(volumes).iloc[0]
    assert (row["ed"], row["es"]) == ("d", "s")
    assert row["ef_true"] == 60 and row["ef_predicted"] == pytest.approx(100 * 40 / 90)
    assert row["error"] == pytest.approx(100 * 40 / 90 - 60)
    assert row["edv_true_ml"] == pytest.approx(2.25)


def test_two_phases_of_different_voxels():
    """Their fraction is that of the millilitres; it is unknown where one of the sizes is."""
    cavity = "left_ventricle"
    rows = [("a", "p", cavity, 100, 100), ("b", "p", cavity, 120, 120)]
    table = pd.concat([cases(["a"]), cases(["b"], (1.5, 1.5, 5.0))])
    row = measurements.ejection_fractions(measurements.organ_volumes(report(rows), table)).iloc[0]
    assert (row["ed"], row["es"]) == ("a", "b") and row["ef_true"] == pytest.approx(40)
    table = pd.concat([cases(["a"]), cases(["b"], ("", "", ""))])
    row = measurements.ejection_fractions(measurements.organ_volumes(report(rows), table)).iloc[0]
    assert np.isnan(row["ef_true"]) and np.isnan(row["error"])


def test_the_phase_outweighs_the_size():
    rows = [("a", "p", "left_ventricle", 40, 40), ("b", "p", "left_ventricle", 100, 100)]
    volumes = measurements.organ_volumes(report(rows), cases(["a", "b"], phases=("ED", "ES")))
    assert measurements.ejection_fractions(volumes)["ef_true"].item() == -150


def test_patients_without_two_phases_and_empty_cavities():
    cavity = "left_ventricle"
    rows = [("a", "p", cavity, 40, 0), ("b", "q", cavity, 9, 0), ("c", "q", cavity, 5, 0)]
    volumes = measurements.organ_volumes(
        report(rows), cases(["a", "b", "c"], patients=["p", "q", "q"])
    )
    table = measurements.ejection_fractions(volumes)
    assert list(table["patient"]) == ["q"] and np.isnan(table["ef_predicted"].item())


def test_bland_altman_against_scipy():
    rng = np.random.default_rng(0)
    true = pd.Series(rng.uniform(20, 80, 30))
    predicted = true + rng.normal(2, 5, 30)
    predicted.iloc[3] = np.nan
    complete = true.index != 3
    result = measurements.bland_altman(true, predicted)
    expected = stats.pearsonr(true[complete], predicted[complete]).statistic
    assert result["n"] == 29 and result["r"] == pytest.approx(expected)
    error = (predicted - true)[complete]
    assert result["bias"] == pytest.approx(error.mean())
    assert result["mae"] == pytest.approx(error.abs().mean())
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * stats.tstd(error))
    single = measurements.bland_altman(true[:1], predicted[:1])
    assert np.isnan(single["bias"]) and single["n"] == 1
    equal = measurements.bland_altman(pd.Series([5.0, 5.0]), pd.Series([4.0, 6.0]))
    assert np.isnan(equal["r"]) and equal["mae"] == 1


def test_limits_of_agreement_need_five_pairs():
    true = pd.Series([50.0, 60, 55, 40, 62])
    four = measurements.bland_altman(true[:4], true[:4] + [1, 2, 0, 3])
    assert four["n"] == 4 and four["bias"] == 1.5
    assert np.isnan(four["low"]) and np.isnan(four["high"])
    assert np.isfinite(measurements.bland_altman(true, true + [1, 2, 0, 3, 1])["low"])
