"""Time our code beside its peers: `make bench`, or `python -m tests.benchmarks [GROUP]`.

Each group writes `tests/benchmarks/results/<group>.json` (seconds, limits, date, machine). Then, or
by `python -m tests.benchmarks tables` alone, the pages are renewed from those files:
`docs/timings.md` with all rows, and the README with those of `PEERS`. Ratios of medians are what
counts; seconds are of the machine that is named.

A row is a dict: task, seconds, rounds; with a peer its name and, if it got there, peer_seconds;
with a limit ("fp32", "bf16" or "copy", see `limits`) the work in floating-point operations or bytes
that the seconds are for.
"""

import datetime
import importlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

from tests import results
from tests.benchmarks import limits

# Each is a module with a function `rows`. It is loaded when it runs, as it may need more packages.
GROUPS = ("training", "quality", "pipeline", "epochs", "startup", "inference", "evaluation")
ASKED_FOR = ("gpu",)  # by name only, as it needs one
BEGIN, END = "<!-- timings: written by make bench -->", "<!-- end of timings -->"
BEGIN_PEERS, END_PEERS = "<!-- peers: written by make bench -->", "<!-- end of peers -->"
FOLDER = Path(__file__).parent / "results"
PAGE = results.ROOT / "docs" / "timings.md"
UNITS = {
    "fp32": "the float32 matrix rate",
    "bf16": "the bfloat16 matrix rate",
    "copy": "the copy rate",
}


class Peer(NamedTuple):
    """A row of the timings that the README shows.

    Attributes:
        group: of the row.
        task: how the row's `task` begins.
        peer: how the row's `peer` begins.
        words: what is compared, for the README.
    """

    group: str
    task: str
    peer: str
    words: str


STEP, U_NET = "training an image, ", "31 M U-Net"
PEERS = (
    Peer("training", STEP + U_NET, "Lightning", "training, an image, U-Net of 31 M parameters"),
    Peer("training", STEP + U_NET, "textbook loop, bf16 autocast, ch", "the same network"),
    Peer("training", STEP + "MONAI", "MONAI", "training, an image, MONAI's BasicUNet"),
    Peer("training", STEP + "smp", "segm", "training, an image, smp's ResNet-34 U-Net"),
    Peer("training", STEP + "fastai", "fastai", "training, an image, fastai's ResNet-34 U-Net"),
    Peer("gpu", STEP + U_NET, "textbook", "training on a GPU, an image, 31 M U-Net"),
    Peer("pipeline", "input", "decoding PNG", "loading, an image of 256x256 from the store"),
    Peer("pipeline", "input", "MONAI", "the same"),
    Peer("pipeline", "augmentation of lung", "MONAI", "augmentation, an X-ray of 256x256"),
    Peer("inference", "a batch of 1 in PyTorch, bf16", "ONNX", "prediction, an image, 31 M U-Net"),
    Peer("evaluation", "HD95", "MONAI", "distances, a pair of 256x256 masks"),
    Peer("evaluation", "AUC", "scikit", "AUC of 100 million scores"),
)


def table() -> str:
    """All rows, made from the JSON files alone."""
    lines = [
        "| task | ours | of the machine's limit | peer | ratio | rounds |",
        "|---|---|---|---|---|---|",
    ]
    groups = list(results.saved(FOLDER, [*GROUPS, *ASKED_FOR]).values())
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


def peers() -> str:
    """The rows of `PEERS` that are measured, as a table for the README."""
    lines = ["| task | seglib | other library | ratio |", "|---|---|---|---|"]
    groups = results.saved(FOLDER, [*GROUPS, *ASKED_FOR])
    for peer in PEERS:
        for row in groups.get(peer.group, {"rows": []})["rows"]:
            if row["task"].startswith(peer.task) and row.get("peer", "").startswith(peer.peer):
                ours, theirs = row["seconds"], row["peer_seconds"]
                cells = (_time(ours), f"{row['peer']}: {_time(theirs)}", f"{theirs / ours:.2g}")
                lines.append(f"| {' | '.join([peer.words, *cells])} |")
                break
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def write_tables() -> None:
    """Renew `docs/timings.md` and the README's table of peers from the JSON files."""
    results.write_between(PAGE, BEGIN, END, table())
    results.write_between(results.README, BEGIN_PEERS, END_PEERS, peers())


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
    unknown = [name for name in sys.argv[1:] if name not in [*GROUPS, *ASKED_FOR, "tables"]]
    if unknown:
        names = ", ".join([*GROUPS, *ASKED_FOR, "tables"])
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {names}")
    for chosen in sys.argv[1:] or GROUPS:
        if chosen != "tables":
            record(chosen)
        write_tables()
    print(table())
