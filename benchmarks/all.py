"""Every benchmark one after the other: what `make bench` runs.

    python benchmarks/all.py [--output build/bench.json] [--plot docs/images/bench.png]

Each prints its table as it goes; together they are written as JSON and, where matplotlib is installed, drawn.
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
PARTS = ("counting", "gpu", "scanning", "dask_workers", "object_store", "serving", "losses")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw how many times as fast statsvc is, a bar for each comparison with a peer, goals as lines."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    left_out = ("304", "inflate alone")
    rated = [row for row in rows if not row["goal"].startswith("≤")]
    shown = [row for row in rated if not any(part in row["name"] for part in left_out)]
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(shown) + 1), layout="constrained")
    places = range(len(shown), 0, -1)
    axes.barh(places, [row["ratio"] for row in shown], color="#3b75af", height=0.7)
    for place, row in zip(places, shown, strict=True):
        if row["goal"]:
            goal = float(row["goal"].removeprefix("≥"))
            axes.plot([goal, goal], [place - 0.45, place + 0.45], color="black", linewidth=2)
        end = max([row["ratio"], *([float(row["goal"].removeprefix("≥"))] if row["goal"] else [])])
        axes.text(end * 1.06, place, f"{row['ratio']:.1f}×", va="center", fontsize=8)
    axes.set_yticks(list(places), [row["name"] for row in shown], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.6)
    axes.set_xlabel("times as fast as the peer (line: goal)")
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
    for part in PARTS:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            command = [sys.executable, str(ROOT / "benchmarks" / f"{part}.py"), "--json", str(found)]
            if subprocess.run(command, check=False).returncode:
                failed.append(part)  # what the others found is not lost
            else:
                tables.append(json.loads(found.read_text(encoding="utf-8")))
        print(flush=True)
    rows = [row for table in tables for row in table["rows"]]
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "tables": tables}, indent=2, ensure_ascii=False)
    options.output.write_text(text + "\n", encoding="utf-8")
    goals = [row for row in rows if row["met"] is not None]
    missed = [row["name"] for row in goals if not row["met"]]
    print(f"{len(goals) - len(missed)} of {len(goals)} goals met; {options.output} has every figure")
    for name in missed:
        print(f"not met: {name}")
    for part in failed:
        print(f"failed, and missing from all of this: benchmarks/{part}.py")
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plot")
    else:
        draw(rows, options.plot)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
