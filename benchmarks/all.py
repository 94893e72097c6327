"""Run all benchmarks, one after the other (`make bench`).

    python benchmarks/all.py [--output build/bench.json] [--plot docs/images/bench.png]

Each benchmark prints its table. All tables are written as JSON, and plotted if matplotlib is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ("scanning", "counting", "gpu", "dask_workers", "object_store", "serving", "losses")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the speed of statsvc relative to each peer: a bar per comparison, the goal as a line."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    excluded = ("304", "inflate alone", "first scan of a user")
    for row in rows:
        if "small files" in row["name"]:  # costs: as speed, like the others
            limit = float(row["goal"].removeprefix("≤"))
            row.update(ratio=1 / row["ratio"], goal=f"≥ {1 / limit:g}")
    rated = [row for row in rows if not row["goal"].startswith("≤")]
    shown = [row for row in rated if not any(text in row["name"] for text in excluded)]
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(shown) + 1), layout="constrained")
    positions = range(len(shown), 0, -1)
    axes.barh(positions, [row["ratio"] for row in shown], color="#3b75af", height=0.7)
    for y, row in zip(positions, shown, strict=True):
        if row["goal"]:
            goal = float(row["goal"].removeprefix("≥"))
            axes.plot([goal, goal], [y - 0.45, y + 0.45], color="black", linewidth=2)
        end = max([row["ratio"], *([float(row["goal"].removeprefix("≥"))] if row["goal"] else [])])
        axes.text(end * 1.06, y, f"{row['ratio']:.1f}×", va="center", fontsize=8)
    axes.set_yticks(list(positions), [row["name"] for row in shown], fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(y=0.01)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.6)
    axes.set_xlabel("speed relative to the peer (line: goal)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "bench.png")
    options = parser.parse_args()
    tables: list[dict[str, Any]] = []
    failed: list[str] = []
    for benchmark in BENCHMARKS:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [sys.executable, str(ROOT / "benchmarks" / f"{benchmark}.py"), "--json", str(result)]
            if subprocess.run(command, check=False).returncode:
                failed.append(benchmark)  # and run the others
            else:
                tables.append(json.loads(result.read_text(encoding="utf-8")))
        print(flush=True)
    rows = [row for table in tables for row in table["rows"]]
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "tables": tables}, indent=2, ensure_ascii=False)
    options.output.write_text(text + "\n", encoding="utf-8")
    goals = [row for row in rows if row["met"] is not None]
    missed = [row["name"] for row in goals if not row["met"]]
    print(f"{len(goals) - len(missed)} of {len(goals)} goals met; all results are in {options.output}")
    for name in missed:
        print(f"goal not met: {name}")
    for benchmark in failed:
        print(f"failed, results are missing: benchmarks/{benchmark}.py")
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plot")
    else:
        draw(rows, options.plot)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
