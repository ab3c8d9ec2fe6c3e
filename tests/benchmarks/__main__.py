"""Time our code beside its peers, by turns in one process: `make bench`, or `python -m tests.benchmarks [GROUP]`.

Each group writes `tests/benchmarks/<group>.json` (seconds, ratios, date, machine), and the README's table of timings is
renewed from those files. Ratios of medians are what counts; seconds are of the machine that is named.
"""

import datetime
import json
import sys
from pathlib import Path

from tests import results
from tests.benchmarks import evaluation, inference, training

GROUPS = {"evaluation": evaluation.rows, "inference": inference.rows, "training": training.rows}
BEGIN, END = "<!-- timings: written by make bench -->", "<!-- end of timings -->"
FOLDER = Path(__file__).parent


def table() -> str:
    """The README's table, made from the JSON files alone."""
    lines = ["| task | ours | peer | ratio | rounds |", "|---|---|---|---|---|"]
    found_all = results.saved(FOLDER, GROUPS)
    for found in found_all:
        for row in found["rows"]:
            peer = f"{row['peer']}: {row['peer_seconds']:.3g} s" if "peer" in row else ""
            ratio = f"{row['peer_seconds'] / row['seconds']:.3g}" if "peer" in row else ""
            lines.append(f"| {row['task']} | {row['seconds']:.3g} s | {peer} | {ratio} | {row['rounds']} |")
    return "\n".join([*lines, "", results.measured_by(found_all)])


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in GROUPS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    for chosen in sys.argv[1:] or GROUPS:
        about = {"command": f"python -m tests.benchmarks {chosen}", "date": datetime.date.today().isoformat()}
        found = {**about, "machine": results.machine(), "rows": GROUPS[chosen]()}
        (FOLDER / f"{chosen}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        results.write_readme(BEGIN, END, table())
    print(table())
