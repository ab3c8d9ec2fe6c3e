"""Train on the real data and write every figure that the README quotes: `make results`, or one of them by name.

    python -m tests.results [lung] [precision]

Each writes `tests/results/<name>.json` (figures with date, machine, n, interval and seconds) and renews the table in
the README. The real data is found by `SEGLIB_TEST_DATA`, default `../shared/data`.
"""

import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from seglib import config, data, evaluation, hosts, layouts, phantoms, prepare, training

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "results"
REAL = Path(os.environ.get("SEGLIB_TEST_DATA", ROOT.parent / "shared" / "data"))
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"


def lung(work_dir: str) -> list[dict]:
    """The lung system, small setting: trained and tested on Montgomery for two seeds (each its own split), the first
    also tested on Shenzhen, another hospital that it never saw."""
    rows = []
    for seed in (0, 1):
        cfg = config.preset("lung", "small", data_root=str(REAL / "montgomery"), work_dir=work_dir, seed=seed)
        batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
        run = training.fit(cfg, batches)
        about = {
            "training": f"{run.info['images']['train']} Montgomery, seed {seed}",
            "train_seconds": run.info["seconds"],
        }
        tests = {"Montgomery, test": batches["test"]}
        if seed == 0:
            other = cfg.replace(data_root=str(REAL / "shenzhen"), test_split=1.0, val_split=0.0)
            tests["Shenzhen, all (other hospital)"] = data.loaders(prepare.build(layouts.scan(other), other), other)[
                "test"
            ]
        for name, loader in tests.items():
            report = evaluation.evaluate(run, loader, grid="original")
            rows += [{"system": "lung", "data": name, **about, **row} for row in _scores(report, seed)]
    return rows


def _scores(report, seed: int) -> list[dict]:
    metrics = ("dice", "accuracy", "bce", "hd95") if seed == 0 else ("dice",)
    table = report.table(*metrics)
    return table[["metric", "value", "low", "high", "n"]].to_dict("records")


def precision(work_dir: str) -> list[dict]:
    """Training images a second of the 31 M U-Net at 256x256 in float32 and in what the probe chooses, by turns."""
    size = {
        "image_size": 256,
        "base_channels": 64,
        "batch_size": 4,
        "epochs": 1,
        "test_split": 0.0,
        "val_split": 1 / 13,
    }
    cfg = config.preset("lung", "full", work_dir=work_dir, **size)
    cfg.data_root = str(phantoms.write("lung", Path(work_dir) / "phantoms", n=13))
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    speeds: dict[str, list[float]] = {}
    for setting in ("fp32", "auto") * 3:
        run = training.fit(cfg.replace(precision=setting), batches)
        speeds.setdefault(run.info["precision"], []).append(run.history["images_per_second"].iloc[0])
    seconds = {name: 1 / statistics.median(values) for name, values in speeds.items()}
    common = {
        "system": "31 M U-Net, 256x256",
        "data": "training step",
        "training": "batch 4, 3 rounds by turns",
        "n": 3,
    }
    rows = [{**common, "metric": f"s an image, {name}", "value": value} for name, value in seconds.items()]
    if len(seconds) == 2:
        chosen = next(name for name in seconds if name != "fp32")
        rows.append({**common, "metric": f"{chosen} / fp32", "value": seconds[chosen] / seconds["fp32"]})
    return rows


RESULTS = {"lung": lung, "precision": precision}


def measure(name: str) -> None:
    """Run one of `RESULTS` in a temporary work folder and write its JSON."""
    with tempfile.TemporaryDirectory() as work_dir:
        rows = RESULTS[name](work_dir)
    about = {
        "command": f"python -m tests.results {name}",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """What the figures were measured on, in one line."""
    found = hosts.describe()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    where = found["gpu"] or f"{found['cores']} cores of {cpu}"
    return f"{where}, {found['memory_gb']:.0f} GB, torch {found['torch']}"


def table() -> str:
    """The README's table, made from the JSON files alone."""
    lines = [
        "| system | scored on | figure | value (95 % interval) | n | trained on | training |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name in RESULTS:
        path = FOLDER / f"{name}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found["rows"]:
            value = f"{row['value']:.3f}" + (f" ({row['low']:.3f}–{row['high']:.3f})" if "low" in row else "")
            seconds = f"{row['train_seconds']:.0f} s" if "train_seconds" in row else ""
            cells = (row["system"], row["data"], row["metric"], value, row["n"], row["training"], seconds)
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        notes.append(f"`{found['command']}`, {found['date']}, {found['machine']}.")
    return "\n".join([*lines, "", "Measured by: " + " ".join(dict.fromkeys(notes))])


def write_readme() -> None:
    """Put `table()` between its markers in the README."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in RESULTS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; choose from {', '.join(RESULTS)}")
    if not REAL.is_dir():
        sys.exit(f"{REAL}: no real data here; set SEGLIB_TEST_DATA to a folder with montgomery/ and shenzhen/")
    for chosen in sys.argv[1:] or RESULTS:
        measure(chosen)
        write_readme()
    print(table())
