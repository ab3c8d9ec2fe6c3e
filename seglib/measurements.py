"""What is measured on masks: organ volumes and the ejection fraction."""

import numpy as np
import pandas as pd

SPACING = ["spacing_row_mm", "spacing_col_mm", "spacing_slice_mm"]


def organ_volumes(report, cases: pd.DataFrame) -> pd.DataFrame:
    """Volume of every class in every scanned volume, true and predicted, from the counts of a report.

    Args:
        report: of `evaluation.evaluate(..., grid="original")`: voxels of the files have a known size.
        cases: the case table with the columns of `SPACING`.

    Returns:
        A row a volume and class: volume, patient, phase, class, true_ml, predicted_ml, error_ml. Millilitres are NaN
        where the spacing is unknown; true_voxels and predicted_voxels are always there.

    Raises:
        ValueError: the report was made on another grid.
    """
    if report.about["grid"] != "original":
        raise ValueError(
            f"the report's grid is {report.about['grid']!r}; evaluate with grid='original' to measure mL"
        )
    columns = ["volume", *(name for name in ("phase", *SPACING) if name in cases)]
    about = cases[columns].drop_duplicates("volume").set_index("volume")
    table = report.per_volume[["volume", "patient", "class", "n_true", "n_pred"]].join(
        about, on="volume"
    )
    table = table.rename(columns={"n_true": "true_voxels", "n_pred": "predicted_voxels"})
    spacing = table.reindex(columns=SPACING).apply(pd.to_numeric, errors="coerce")
    millilitres = spacing.prod(axis=1, skipna=False) / 1000
    table["true_ml"], table["predicted_ml"] = (
        table["true_voxels"] * millilitres,
        table["predicted_voxels"] * millilitres,
    )
    table["error_ml"] = table["predicted_ml"] - table["true_ml"]
    return table.drop(columns=[name for name in SPACING if name in table]).reset_index(drop=True)


def ejection_fractions(volumes: pd.DataFrame, cavity: str = "left_ventricle") -> pd.DataFrame:
    """Ejection fraction (EDV - ESV) / EDV of each patient in percent, true and predicted.

    End diastole and end systole are told by the column `phase` (ED, ES) where it is filled, else by the true volume:
    the larger one is diastole. The fraction needs no spacing, as both phases are cut alike; the volumes in mL do.

    Args:
        volumes: of `organ_volumes`, with two phases a patient; patients with one or more than two are left out.

    Returns:
        A row a patient: patient, ed, es (names of the volumes), edv_true_ml, esv_true_ml, edv_predicted_ml,
        esv_predicted_ml, ef_true, ef_predicted, error (predicted - true, percentage points).
    """
    rows = []
    for patient, pair in volumes[volumes["class"] == cavity].groupby("patient", sort=False):
        if len(pair) != 2:
            continue
        told = "phase" in pair and set(pair["phase"]) == {"ED", "ES"}
        ed, es = pair.sort_values("phase" if told else "true_voxels", ascending=told).to_dict(
            "records"
        )
        row = {"patient": patient, "ed": ed["volume"], "es": es["volume"]}
        for who in ("true", "predicted"):
            row |= {f"edv_{who}_ml": ed[f"{who}_ml"], f"esv_{who}_ml": es[f"{who}_ml"]}
            full, left = ed[f"{who}_voxels"], es[f"{who}_voxels"]
            row[f"ef_{who}"] = 100 * (full - left) / full if full else np.nan
        rows.append({**row, "error": row["ef_predicted"] - row["ef_true"]})
    names = [
        "patient",
        "ed",
        "es",
        *(f"{v}_{who}_ml" for who in ("true", "predicted") for v in ("edv", "esv")),
    ]
    return pd.DataFrame(rows, columns=[*names, "ef_true", "ef_predicted", "error"])


def agreement(true: pd.Series, predicted: pd.Series) -> dict[str, float]:
    """Bias (mean of predicted - true), 95 % limits of agreement (Bland and Altman, Lancet 1986), mean absolute error
    and Pearson's r of two measurements; pairs with a NaN are left out, `n` counts the others."""
    pairs = pd.concat([true, predicted], axis=1).dropna().to_numpy(float)
    if len(pairs) < 2:
        return {
            "bias": np.nan,
            "low": np.nan,
            "high": np.nan,
            "mae": np.nan,
            "r": np.nan,
            "n": len(pairs),
        }
    error = pairs[:, 1] - pairs[:, 0]
    spread = 1.96 * error.std(ddof=1)
    r = float(np.corrcoef(pairs.T)[0, 1]) if (pairs.std(axis=0) > 0).all() else np.nan
    bias = float(error.mean())
    found = {
        "bias": bias,
        "low": bias - spread,
        "high": bias + spread,
        "mae": float(np.abs(error).mean()),
        "r": r,
    }
    return {**{name: float(value) for name, value in found.items()}, "n": len(pairs)}
