"""How often do the 95 % intervals of `seglib.bootstrap` hold the truth? `python -m tests.coverage`

Draws data sets whose true value is known, counts the intervals that hold it, and writes the tables
of `docs/intervals.md`; a test tells which of its sentences no longer fit. A few minutes on one
core; every data set has a seed of its own.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

from seglib import bootstrap

PAGE = Path(__file__).resolve().parents[1] / "docs" / "intervals.md"
SIZES = (5, 8, 10, 20, 50, 100)
SETS, RESAMPLES = 1000, 500


class Population(NamedTuple):
    """Patients to draw from.

    `draw(rng, n)` returns the arguments of `estimate` for n patients, before resamples and seed;
    `truth` is the value that an interval should hold. `estimate` returns value, low, high, n.
    """

    draw: Callable
    truth: float
    estimate: Callable = bootstrap.interval


def beta(a: float, b: float, zeros: float = 0.0, ones: float = 0.0) -> Population:
    """A score a patient: 0 or 1 with these chances, else Beta(a, b)."""

    def draw(rng, n):
        kind, scores = rng.random(n), rng.beta(a, b, n)
        scores[kind < zeros] = 0
        scores[kind > 1 - ones] = 1
        return scores, np.arange(n)

    return Population(draw, ones + (1 - zeros - ones) * a / (a + b))


def grouped(sizes: Callable, falls: float = 0.0) -> Population:
    """`sizes(rng, n)` images a patient; patients with more than 6 score lower by `falls`."""

    def draw(rng, n):
        size = sizes(rng, n).astype(int)
        score = rng.beta(10, 2, n) * (1 - falls * (size > 6))
        groups = np.repeat(np.arange(n), size)
        return rng.beta(20 * score[groups] + 0.1, 20 * (1 - score[groups]) + 0.1), groups

    values, _ = draw(np.random.default_rng(0), 500_000)
    return Population(draw, values.mean())


LONGEST = 181.0  # mm, the diagonal of a frame of 128 x 128 mm


def distances(missed: float = 0.0) -> Population:
    """A distance a patient, such as HD95: median e mm, some far away.

    With the chance `missed`, the predicted mask is empty: the distance is the diagonal.
    """

    def estimate(values, groups, **settings):
        return bootstrap.interval(values, groups, limits=(0.0, LONGEST), **settings)

    def draw(rng, n):
        values = rng.lognormal(1, 0.8, n).clip(max=LONGEST)
        values[rng.random(n) < missed] = LONGEST
        return values, np.arange(n)

    mean = float(np.exp(1 + 0.8**2 / 2))  # one value in 500 is above 29 mm, none near the diagonal
    return Population(draw, (1 - missed) * mean + missed * LONGEST, estimate)


def differences(heavy: bool) -> Population:
    """The difference of two networks on each patient: normal, or Student's t with 3 degrees."""

    def draw(rng, n):
        gain = 0.02 + (0.03 * rng.standard_t(3, n) if heavy else rng.normal(0, 0.05, n))
        return np.zeros(n), gain, np.arange(n)

    def estimate(*columns, **settings):
        result = bootstrap.paired(*columns, **settings)
        return result["value"], result["low"], result["high"], result["n"]

    return Population(draw, 0.02, estimate)


def pooled(spread: float) -> Population:
    """Counts of an image a patient, structures of lognormal size: the pooled Dice."""

    def draw(rng, n):
        size = np.ceil(rng.lognormal(6, spread, n)).astype(int)
        tp = rng.binomial(size, rng.beta(8, 2, n))
        fp = rng.poisson(0.1 * size)
        return np.stack([tp, fp, size - tp, 9 * size], axis=1), np.arange(n), "dice"

    return Population(draw, 2 * 0.8 / (2 * 0.8 + 0.1 + 0.2), bootstrap.pooled_interval)


def ranking(distance: float, share: float = 0.4) -> Population:
    """A score and a label a patient: the AUC of two normals."""

    def draw(rng, n):
        labels = rng.random(n) < share
        return rng.normal(0, 1, n) + distance * labels, labels, np.arange(n)

    truth = scipy.stats.norm.cdf(distance / np.sqrt(2))
    return Population(draw, float(truth), bootstrap.auc_interval)


POPULATIONS: dict[str, Population] = {
    "Dice, Beta(8, 2)": beta(8, 2),
    "Dice near 1, Beta(30, 1.5)": beta(30, 1.5),
    "Dice near 1, very skewed, Beta(9, 0.5)": beta(9, 0.5),
    "Dice, 5 % are 0, else Beta(20, 2)": beta(20, 2, zeros=0.05),
    "Dice, 15 % are 0, else Beta(12, 1.5)": beta(12, 1.5, zeros=0.15),
    "rare, 80 % are 1, 10 % are 0": beta(5, 3, zeros=0.1, ones=0.8),
    "rare, 50 % are 1, 20 % are 0": beta(5, 3, zeros=0.2, ones=0.5),
    "1 in 10 patients, else 0": beta(1, 1, zeros=0.9, ones=0.1),
    "1 in half of the patients, else 0": beta(1, 1, zeros=0.5, ones=0.5),
    "1 to 4 images a patient": grouped(lambda rng, n: rng.integers(1, 5, n)),
    "1 to 40 images a patient": grouped(lambda rng, n: rng.geometric(0.15, n)),
    "more images, lower scores": grouped(lambda rng, n: np.ceil(rng.lognormal(1.5, 0.8, n)), 0.15),
    "distance, lognormal": distances(),
    "distance, 10 % are missed, else lognormal": distances(missed=0.1),
    "difference, normal": differences(heavy=False),
    "difference, heavy tails": differences(heavy=True),
    "pooled Dice, similar sizes": pooled(0.3),
    "pooled Dice, very different sizes": pooled(1.0),
    "AUC 0.76 of patients": ranking(1.0),
    "AUC 0.92 of patients": ranking(2.0),
}


def coverage(
    population: Population, n: int, sets: int = SETS, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Of data sets of n patients: the share of the intervals that hold the truth, their median
    width, and the share of the sets that have an interval."""
    rng = np.random.default_rng(n)
    ends = []
    for seed in range(sets):
        result = population.estimate(*population.draw(rng, n), resamples=resamples, seed=seed)
        ends.append(result[1:3])
    low, high = np.array(ends)[np.isfinite(ends).all(axis=1)].T
    covered = (low <= population.truth + 1e-12) & (population.truth - 1e-12 <= high)
    return float(covered.mean()), float(np.median(high - low)), len(low) / sets


def others(values: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """Intervals of a mean by methods that were not chosen, from SciPy."""
    rng = np.random.default_rng(seed)
    ends = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no spread, no interval
        for method in ("percentile", "BCa"):
            result = scipy.stats.bootstrap(
                (values,), np.mean, n_resamples=RESAMPLES, method=method, rng=rng
            )
            ends[method] = tuple(result.confidence_interval)
        error = scipy.stats.sem(values)
        ends["Student's t"] = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), error)
    ends["here"] = bootstrap.interval(values, np.arange(len(values)), RESAMPLES, seed)[1:3]
    return ends


def compared(population: Population, n: int, sets: int = 300) -> dict[str, float]:
    """Coverage of the methods of `others`; an interval without width or without ends misses."""
    rng = np.random.default_rng(n)
    held: dict[str, list[bool]] = {}
    for seed in range(sets):
        values, _ = population.draw(rng, n)
        for method, (low, high) in others(values, seed).items():
            held.setdefault(method, []).append(low <= population.truth <= high)
    return {method: float(np.mean(values)) for method, values in held.items()}


def measured_table() -> list[str]:
    """Lines of Markdown: every population at every size."""
    lines = [
        "| scores | truth | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|---|" + "---|" * len(SIZES),
    ]
    for name, population in POPULATIONS.items():
        cells = []
        for n in SIZES:
            share, width, with_interval = coverage(population, n)
            cells.append(f"{100 * share:.1f} ({width:.2f})")
            if with_interval < 0.995:
                cells[-1] += f", {100 * (1 - with_interval):.0f} % none"
        lines.append(f"| {name} | {population.truth:.3f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def compared_table() -> list[str]:
    """Lines of Markdown: the methods that were tried, at few patients."""
    names = ("percentile", "BCa", "Student's t", "here")
    lines = [
        "| scores | n | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for name in list(POPULATIONS)[:9]:
        for n in (8, 20):
            shares = compared(POPULATIONS[name], n)
            cells = [f"{100 * shares[method]:.0f}" for method in names]
            lines.append(f"| {name} | {n} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def write(page: Path = PAGE) -> None:
    """Renew the two tables of the page, each between its markers."""
    text = page.read_text(encoding="utf-8")
    for mark, lines in (("coverage", measured_table()), ("methods", compared_table())):
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        before, rest = text.split(begin)
        table = "\n".join(lines)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
