"""Shared code of the benchmarks: table rows, each of which compares two measurements of the same run."""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One comparison.

    name     what is measured: the peer
    theirs   the peer's measurement, in `unit`
    ours     statsvc's measurement, in `unit`
    ratio    how many times better statsvc is; ours / theirs if `goal` is an upper bound
    goal     as text, for example "≥ 10"; empty without a goal
    met      whether `ratio` reaches the goal; None without a goal
    """

    name: str
    theirs: float
    ours: float
    unit: str
    ratio: float
    goal: str = ""
    met: bool | None = None


def faster(name: str, theirs: float, ours: float, least: float | None = None, unit: str = "ms") -> Row:
    """Compare two durations. The goal, if any: theirs / ours is at least `least`."""
    ratio = theirs / ours
    goal = "" if least is None else f"≥ {least:g}"
    return Row(name, theirs, ours, unit, ratio, goal, None if least is None else ratio >= least)


def at_most(name: str, theirs: float, ours: float, most: float, unit: str = "s") -> Row:
    """Compare two costs. The goal: ours / theirs is at most `most`."""
    return Row(name, theirs, ours, unit, ours / theirs, f"≤ {most:g}", ours / theirs <= most)


def within(name: str, ours: float, most: float, unit: str = "s") -> Row:
    """Compare a measurement with a fixed limit; `ratio` is ours / limit."""
    return Row(name, most, ours, unit, ours / most, "≤ 1", ours <= most)


def medians_ms(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the median CPU times in milliseconds of two functions that run alternately.

    CPU time of all threads of this process, so that other load on the machine does not distort the result.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, measured in ((theirs, times[0]), (ours, times[1])):
            start = time.process_time()
            run()
            measured.append(time.process_time() - start)
    return 1000 * statistics.median(times[0]), 1000 * statistics.median(times[1])


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def not_installed(peers: dict[str, str]) -> list[str]:
    """Return a remark for each peer that is not installed.

    peers  {package: name of the peer}
    """
    return [f"{name}, which is not installed" for package, name in peers.items() if not installed(package)]


def report(
    title: str, rows: Sequence[Row], json_file: Path | None = None, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Print the rows as a table, write it as JSON if there is a file for it, and return it.

    missing  comparisons that were not possible
    """
    width = max((len(row.name) for row in rows), default=0)
    print(title)
    if rows:
        print(f"{'':{width}}      theirs       ours         ratio  goal")
    for row in rows:
        mark = {None: "", True: "met", False: "NOT met"}[row.met]
        print(
            f"{row.name:{width}}  {row.theirs:10.2f} {row.ours:10.2f} {row.unit:<4} {row.ratio:8.2f}  "
            f"{row.goal:<7} {mark}".rstrip()
        )
    for what in missing:
        print(f"not measured: {what}")
    table = {"title": title, "rows": [asdict(row) for row in rows], "missing": list(missing)}
    if json_file is not None:
        json_file.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return table
