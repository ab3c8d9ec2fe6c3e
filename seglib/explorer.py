"""Browse the cases of a report with sliders, the worst first. Taught in `08`."""

import html
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import hosts, metrics, plots
from .report import Report


def explore(report: Report, metric: str = "dice") -> Any:
    """Widgets to browse the cases: input, truth, prediction and difference, the worst first.

    They choose the case (or a volume and its slice), the threshold, and whether masks are shown.
    The notes of the report stand below.

    Args:
        report: of `evaluation.evaluate`.
        metric: what "worst" means, a column of `per_image`.

    Returns:
        An ipywidgets box. Where ipywidgets is missing, or outside of a notebook, the figure of the
        worst cases.
    """
    try:
        import ipywidgets
    except ImportError:
        ipywidgets = None
    if ipywidgets is None or not hosts.in_notebook():
        return report.show(report.worst(4, metric))

    scored = report.per_image[report.per_image["annotated"]]
    score_of = scored.groupby("case", sort=False)[metric].mean()
    unit = "volume" if (scored["volume"] != "").all() else "case"
    cases_of = _cases_by_unit(scored, unit, metric)
    units = [(f"{name}: {metric} {value:.3f}", name) for name, value in cases_of["score"].items()]
    wide = {"layout": {"width": "420px"}}
    chosen = ipywidgets.Dropdown(options=units, description=unit, **wide)
    n_slices = len(cases_of.loc[chosen.value, "cases"])
    number = ipywidgets.IntSlider(0, 0, n_slices - 1, description="slice", **wide)
    level = ipywidgets.FloatSlider(
        0.5, min=0.01, max=0.99, step=0.01, description="threshold", **wide
    )
    masks = ipywidgets.Checkbox(True, description="masks")

    def restart(change: Any) -> None:
        number.value, number.max = 0, len(cases_of.loc[chosen.value, "cases"]) - 1

    chosen.observe(restart, "value")

    def draw(chosen: str, number: int, level: float, masks: bool) -> None:
        cases = cases_of.loc[chosen, "cases"]
        # The slice number is still that of the last volume, which may have had more slices.
        case = cases[min(number, len(cases) - 1)]
        show(report, case, f"{case}\n{metric} {score_of[case]:.3f}", level, masks)
        plt.show()

    inputs = {"chosen": chosen, "number": number, "level": level, "masks": masks}
    figure = ipywidgets.interactive_output(draw, inputs)
    sliders = [number] if unit == "volume" else []
    paragraphs = [f"<p>{html.escape(note)}</p>" for note in report.notes]
    notes = [ipywidgets.HTML("".join(paragraphs))] if paragraphs else []
    return ipywidgets.VBox([chosen, *sliders, level, masks, figure, *notes])


def _cases_by_unit(scored: pd.DataFrame, unit: str, metric: str) -> pd.DataFrame:
    """One row per case or volume, the worst first: its mean score, and the names of its cases."""
    groups = scored.groupby(unit, sort=False)
    table = pd.DataFrame({"score": groups[metric].mean(), "cases": groups["case"].unique()})
    return table.sort_values("score", ascending=not metrics.less_is_better(metric))


def show(report: Report, case: str, title: str, threshold: float, masks: bool = True) -> Figure:
    """Input, truth, prediction at a threshold and difference of one case; or the input alone.

    For multiclass, a pixel belongs to the likeliest class if its probability reaches the threshold,
    else to the background.
    """
    image, truth, prob = report.examples.probabilities(case)
    if not masks:
        return plots.grid([image], [title], side=4)
    task = report.examples.task
    if task == "multiclass":
        pred = np.where(prob.max(axis=0) >= threshold, prob.argmax(axis=0), 0)
    elif task == "multilabel":
        pred = prob >= threshold
    else:
        pred = prob[0] >= threshold
    classes = list(report.per_image["class"].unique())
    return plots.predictions([(title, image, truth, pred.astype(np.uint8))], classes=classes)
