"""Look through the cases of a report with sliders, the worst first. Used in `08_inference_and_deployment`."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from . import hosts, metrics, plots
from .report import Report


def explore(report: Report, metric: str = "dice") -> Any:
    """Widgets: a case (or a volume and its slice), the threshold, masks on or off; below them input, truth, prediction
    and difference.

    Returns an ipywidgets box. Where ipywidgets is missing, or outside of a notebook, it returns the figure of the
    worst cases instead.

    Args:
        report: of `evaluation.evaluate`.
        metric: what "worst" means, a column of `per_image`.
    """
    try:
        import ipywidgets
    except ImportError:
        ipywidgets = None
    if ipywidgets is None or not hosts.in_notebook():
        return report.show(report.worst(4, metric))

    scored = report.per_image[report.per_image["annotated"]]
    means = scored.groupby("case", sort=False)[metric].mean()
    unit = "volume" if (scored["volume"] != "").all() else "case"
    order = (
        scored.groupby(unit, sort=False)[metric]
        .mean()
        .sort_values(ascending=not metrics.less_is_better(metric))
    )
    slices = {
        name: list(dict.fromkeys(scored.loc[scored[unit] == name, "case"])) for name in order.index
    }

    wide = {"layout": {"width": "420px"}}
    names = [(f"{name}: {metric} {value:.3f}", name) for name, value in order.items()]
    which = ipywidgets.Dropdown(options=names, description=unit, **wide)
    number = ipywidgets.IntSlider(0, 0, len(slices[which.value]) - 1, description="slice", **wide)
    level = ipywidgets.FloatSlider(
        0.5, min=0.01, max=0.99, step=0.01, description="threshold", **wide
    )
    masks = ipywidgets.Checkbox(True, description="masks")

    def restart(change: Any) -> None:
        number.value, number.max = 0, len(slices[which.value]) - 1

    which.observe(restart, "value")

    def draw(which: str, number: int, level: float, masks: bool) -> None:
        case = slices[which][min(number, len(slices[which]) - 1)]
        show(report, case, f"{case}\n{metric} {means[case]:.3f}", level, masks)
        plt.show()

    shown = ipywidgets.interactive_output(
        draw, {"which": which, "number": number, "level": level, "masks": masks}
    )
    controls = [which, *([number] if unit == "volume" else []), level, masks]
    return ipywidgets.VBox([*controls, shown])


def show(report: Report, case: str, title: str, threshold: float, masks: bool = True) -> Figure:
    """Input, truth, prediction at a threshold and difference of one case; or the input alone.

    For multiclass a pixel belongs to the likeliest class if that is above the threshold, else to the background.
    """
    image, truth, prob = report.examples.scores(case)
    if not masks:
        return plots.grid([image], [title], side=4)
    if report.examples.predictor.config.task == "multiclass":
        pred = np.where(prob.max(axis=0) >= threshold, prob.argmax(axis=0), 0).astype(np.uint8)
    else:
        pred = (prob >= threshold).astype(np.uint8)
    return plots.predictions(
        [(title, image, truth, pred if len(pred.shape) == 2 or len(pred) > 1 else pred[0])], side=3
    )
