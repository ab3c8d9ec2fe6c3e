"""Organ volumes and ejection fractions from masks, and the agreement of two measurements.

Taught in `03_rsna_finetuning` (volumes) and `05_cardiac_aspp` (ejection fraction).
"""

from typing import Any

import numpy as np
import pandas as pd

from . import tables
from .formats import orientation
from .tables import MIN_PATIENTS

UNIT = "distance_unit"  # column of `Report.per_image` and `Report.per_volume`
SPACING = ["spacing_row_mm", "spacing_col_mm", "spacing_slice_mm"]


def organ_volumes(report, cases: pd.DataFrame) -> pd.DataFrame:
    """Volume of every class in every scanned volume, true and predicted, from a report's counts.

    Args:
        report: of `evaluation.evaluate(..., grid="original")`, as only the voxels of the files have
            a known size.
        cases: the case table, with `volume`, `patient` and the columns of `SPACING`.

    Returns:
        A row for each volume and class: volume, patient, phase, class, true_voxels,
        predicted_voxels, true_ml, predicted_ml, error_ml. Millilitres are NaN where the spacing is
        unknown.

    Raises:
        ValueError: the report was made on another grid.
    """
    if report.about["grid"] != "original":
        raise ValueError(
            f"the report's grid is {report.about['grid']!r}; "
            "evaluate with grid='original' to measure mL"
        )
    keys = ["volume", "patient"]  # two patients may have volumes of the same name
    columns = [*keys, *(name for name in ("phase", *SPACING) if name in cases)]
    volumes = cases[columns].drop_duplicates(keys).set_index(keys)
    counts = report.per_volume[[*keys, "class", "n_true", "n_pred"]]
    table = counts.join(volumes, on=keys)
    table = table.rename(columns={"n_true": "true_voxels", "n_pred": "predicted_voxels"})
    spacing = table.reindex(columns=SPACING).itertuples(index=False)
    ml_per_voxel = np.array([orientation.voxel_ml(sides) for sides in spacing])
    table["true_ml"] = table["true_voxels"] * ml_per_voxel
    table["predicted_ml"] = table["predicted_voxels"] * ml_per_voxel
    table["error_ml"] = table["predicted_ml"] - table["true_ml"]
    return table.drop(columns=[name for name in SPACING if name in table]).reset_index(drop=True)


def ejection_fractions(volumes: pd.DataFrame, cavity: str = "left_ventricle") -> pd.DataFrame:
    """Ejection fraction (EDV - ESV) / EDV of each patient in percent, true and predicted.

    The column `phase` says which volume is end diastole (ED) and which end systole (ES); where it
    is empty, the larger true volume is diastole. Where both spacings are unknown, they are taken to
    be equal, so that the fraction of voxels counts; where one of them is known, it is NaN.

    Args:
        volumes: of `organ_volumes`. Patients with other than two volumes are left out.

    Returns:
        A row for each patient: patient, ed, es (names of the volumes), edv_true_ml, esv_true_ml,
        edv_predicted_ml, esv_predicted_ml, ef_true, ef_predicted, error (predicted - true, in
        percentage points).
    """
    rows = []
    for patient, pair in volumes[volumes["class"] == cavity].groupby("patient", sort=False):
        if len(pair) != 2:
            continue
        if "phase" in pair and set(pair["phase"]) == {"ED", "ES"}:
            pair = pair.sort_values("phase")  # ED comes before ES
        else:
            pair = pair.sort_values("true_voxels", ascending=False)
            if pair["true_ml"].notna().all():
                pair = pair.sort_values("true_ml", ascending=False, kind="stable")
        ed, es = pair.to_dict("records")
        row = {"patient": patient, "ed": ed["volume"], "es": es["volume"]}
        for source in ("true", "predicted"):
            row[f"edv_{source}_ml"] = ed[f"{source}_ml"]
            row[f"esv_{source}_ml"] = es[f"{source}_ml"]
        for source in ("true", "predicted"):
            edv, esv = _in_one_unit(ed, es, source)
            row[f"ef_{source}"] = 100 * (edv - esv) / edv if edv else np.nan
        row["error"] = row["ef_predicted"] - row["ef_true"]
        rows.append(row)
    columns = "patient ed es edv_true_ml esv_true_ml edv_predicted_ml esv_predicted_ml".split()
    return pd.DataFrame(rows, columns=[*columns, "ef_true", "ef_predicted", "error"])


def _in_one_unit(ed: dict[str, Any], es: dict[str, Any], source: str) -> tuple[float, float]:
    """Both volumes in voxels where a voxel has one size, else in mL; NaN where neither is sure."""
    voxels = ed[f"{source}_voxels"], es[f"{source}_voxels"]
    ml = ed[f"{source}_ml"], es[f"{source}_ml"]
    same_size = np.isclose(ml[0] * voxels[1], ml[1] * voxels[0])
    if same_size or np.isnan(ml).all():
        return voxels
    return ml


def bland_altman(true: pd.Series, predicted: pd.Series) -> dict[str, float]:
    """Agreement of two measurements of the same quantities (Bland and Altman, Lancet 1986).

    Returns:
        bias (mean of predicted - true), low and high (95 % limits of agreement), mae (mean absolute
        error), r (Pearson's correlation) and n. Pairs with a NaN are left out; fewer than two pairs
        give NaN, and fewer than five have no limits.
    """
    pairs = pd.concat([true, predicted], axis=1).dropna().to_numpy(float)
    result = dict.fromkeys(("bias", "low", "high", "mae", "r"), np.nan)
    if len(pairs) >= 2:
        error = pairs[:, 1] - pairs[:, 0]
        bias, half_width = error.mean(), 1.96 * error.std(ddof=1)
        result["bias"] = bias
        if len(pairs) >= MIN_PATIENTS:
            result |= {"low": bias - half_width, "high": bias + half_width}
        result["mae"] = np.abs(error).mean()
        if (pairs.std(axis=0) > 0).all():
            result["r"] = np.corrcoef(pairs.T)[0, 1]
    return {**{name: float(value) for name, value in result.items()}, "n": len(pairs)}


# ---- the unit of distances in a report


def is_distance(name: str) -> bool:
    """Whether a column of a table of scores is a metric of distances."""
    return name in tables.METRICS and tables.METRICS[name].source == "distances"


def unit_of(scores: pd.DataFrame) -> str:
    """The unit in which the distances of a table of scores are averaged: mm if any row has it.

    Distances of pictures whose spacing is unknown are in pixels, those of volumes in voxels; the
    column `UNIT` says it for each row.
    """
    units = [unit for unit in dict.fromkeys(scores.get(UNIT, ())) if unit]
    return "mm" if "mm" in units else next(iter(units), "")


def rows_in_unit(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows whose value of a metric is in the unit of the mean; all if it is no distance."""
    if not is_distance(name) or UNIT not in scores:
        return scores
    return scores[scores[UNIT].isin(["", unit_of(scores)])]
