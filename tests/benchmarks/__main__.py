"""Time our code beside its peers: `make bench`, or `python -m tests.benchmarks [GROUP]`.

Each group writes `tests/benchmarks/results/<group>.json` (seconds, limits, date, machine), and the
README's table of timings is renewed from those files. Ratios of medians are what counts; seconds
are of the machine that is named.

A row is a dict: task, seconds, rounds; with a peer its name and, if it got there, peer_seconds;
with a limit ("fp32", "bf16" or "copy", see `limits`) the work in floating-point operations or bytes
that the seconds are for.
"""

import datetime
import importlib
import json
import sys
from pathlib import Path

from tests import results
from tests.benchmarks import limits

# Each is a module with a function `rows`. It is loaded when it runs, as it may need more packages.
GROUPS = ("training", "quality", "pipeline", "epochs", "startup", "inference", "evaluation")
ASKED_FOR = ("gpu",)  # by name only, as it needs one
BEGIN, END = "<!-- timings: written by make bench -->", "<!-- end of timings -->"
FOLDER = Path(__file__).parent / "results"
UNITS = {
    "fp32": "the float32 matrix rate",
    "bf16": "the bfloat16 matrix rate",
    "copy": "the copy rate",
}


def table() -> str:
    """The README's table, made from the JSON files alone."""
    lines = [
        "| task | ours | of the machine's limit | peer | ratio | rounds |",
        "|---|---|---|---|---|---|",
    ]
    groups = results.saved(FOLDER, [*GROUPS, *ASKED_FOR])
    for group in groups:
        for row in group["rows"]:
            share, peer, ratio = "", row.get("peer", ""), ""
            if "limit" in row:
                rate = row["work"] / row["seconds"]
                share = f"{rate / group['limits'][row['limit']]:.0%} of {UNITS[row['limit']]}"
            if "peer_seconds" in row:
                peer += f": {row['peer_seconds']:.3g} s"
                ratio = f"{row['peer_seconds'] / row['seconds']:.3g}"
            cells = [row["task"], f"{row['seconds']:.3g} s", share, peer, ratio, str(row["rounds"])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", results.measured_by(groups), *_limits(groups)])


def _limits(groups: list[dict]) -> list[str]:
    """The limits of each machine, as the groups measured them, in one line a machine."""
    by_machine: dict[str, list[dict]] = {}
    for group in groups:
        by_machine.setdefault(group["machine"], []).append(group.get("limits", {}))
    lines = []
    for machine, limits_of_groups in by_machine.items():
        phrases = []
        for name, unit in UNITS.items():
            rates = [rate[name] / 1e9 for rate in limits_of_groups if name in rate]
            if rates:
                per_second = "GB/s" if name == "copy" else "GFLOP/s"
                phrases.append(f"{unit} {min(rates):.0f} to {max(rates):.0f} {per_second}")
        if phrases:
            lines += ["", f"Limits of {machine}: {', '.join(phrases)}."]
    return lines


def record(name: str) -> None:
    """Run a group and write its JSON; the better of the limits before and after it counts."""
    device = "cuda" if name in ASKED_FOR else "cpu"
    before = limits.measure(device)
    rows = importlib.import_module(f"tests.benchmarks.{name}").rows()
    after = limits.measure(device)
    about = {
        "command": f"python -m tests.benchmarks {name}",
        "date": datetime.date.today().isoformat(),
    }
    best = {name: max(before[name], after[name]) for name in before}
    about |= {"machine": results.machine(), "limits": best}
    text = json.dumps({**about, "rows": rows}, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in [*GROUPS, *ASKED_FOR]]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {', '.join([*GROUPS, *ASKED_FOR])}")
    for chosen in sys.argv[1:] or GROUPS:
        record(chosen)
        results.write_between(results.README, BEGIN, END, table())
    print(table())
