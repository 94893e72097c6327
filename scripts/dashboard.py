"""Draw docs/images/dashboard.png: every panel of deploy/grafana/statsvc.json, with values of a real run.

python scripts/dashboard.py     needs Prometheus (apt-get install prometheus) and the `plot` extra

Prometheus scrapes a server that clients read, whose runner counts label maps that change. The source of one
dataset is removed. The runner is stopped until the alert for it fires, and started again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import yaml
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.commands import serve, statsvc
from support.servers import free_port, responds
from support.threads import running
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "statsvc.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
IMAGE = ROOT / "docs" / "images" / "dashboard.png"
SCRAPE_SECONDS = 5
VARIABLES = {"$instance": ".*", "$__rate_interval": f"{4 * SCRAPE_SECONDS}s"}
"""Variables of Grafana in expressions, with the values that it would use."""

EXPECTED = {"StatsvcRunnerMissing", "StatsvcScansFail", "StatsvcUnreadableSamples"}
WORK_SECONDS = 150
"""How long the runner works before it is stopped; half as long after it has been started again."""

ALERT_SECONDS = 600
"""How long the alerts may take: the rule for a missing runner waits two minutes."""

UNITS = {"reqps": "/s", "s": "s", "bytes": "B", "none": ""}
"""Grafana's units of panels, as they are drawn with SI prefixes."""


@contextlib.contextmanager
def prometheus(folder: Path, server: str) -> Iterator[str]:
    """Run Prometheus with the alert rules; yield its URL."""
    port = free_port()
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "statsvc", "static_configs": [{"targets": [server.removeprefix("http://")]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: responds(f"http://127.0.0.1:{port}/-/ready"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def runner(home: Path, folder: Path) -> Iterator[None]:
    """Run a runner; stop it in order."""
    command = ["runner", "--home", str(home), "--root", str(folder), "--workers", "1"]
    with subprocess.Popen([sys.executable, "-m", "statsvc", *command], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def requests(url: str, labels: Path, variant: Path) -> Iterator[None]:
    """Read, make mistakes, and exchange and count label maps until the block ends."""
    stop = threading.Event()
    paths = ["/weights?dataset=street"] * 6
    paths += ["/weights?dataset=street&beta=2", "/datasets", "/datasets/street/histogram", "/datasets/none"]

    def read() -> None:
        with httpx2.Client(base_url=url, timeout=60) as client:
            for path in itertools.cycle(paths):
                if stop.wait(0.03):
                    return
                client.get(path)

    def change() -> None:
        files = sorted(variant.rglob("*.png"))
        for turn in itertools.count():
            for file in files[turn % 5 :: 5]:
                target = labels / file.relative_to(variant)
                changed = target.read_bytes()
                shutil.copyfile(file, target)
                file.write_bytes(changed)
            if turn == 5:
                (labels / "train" / "damaged.png").write_bytes(b"no image")
            httpx2.post(f"{url}/jobs", json={"dataset": "street"}).raise_for_status()
            if stop.wait(8):
                return

    with running(read, read, change, stop=stop):
        yield


def firing(url: str) -> dict[str, str]:
    """Return the summary of each alert that fires."""
    alerts = httpx2.get(f"{url}/api/v1/alerts").json()["data"]["alerts"]
    return {a["labels"]["alertname"]: a["annotations"]["summary"] for a in alerts if a["state"] == "firing"}


def print_alerts(url: str) -> None:
    """Print each alert when it fires, until the expected ones have fired."""
    printed: set[str] = set()
    deadline = time.monotonic() + ALERT_SECONDS
    while not printed >= EXPECTED:
        for name, summary in firing(url).items():
            if name not in printed:
                print(f"{name}: {summary}", flush=True)
                printed.add(name)
        if time.monotonic() > deadline:
            sys.exit(f"alerts that did not fire: {', '.join(sorted(EXPECTED - printed))}")
        time.sleep(1)


def series(url: str, panel: dict[str, Any], start: int, end: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield the legend and the points of every series of a panel."""
    for target in panel["targets"]:
        expression = target["expr"]
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        query = {"query": expression, "start": start, "end": end, "step": SCRAPE_SECONDS}
        response = httpx2.get(f"{url}/api/v1/query_range", params=query).raise_for_status().json()
        for result in response["data"]["result"]:
            labels = result["metric"]
            legend = re.sub(
                r"{{(\w+)}}", lambda m, labels=labels: labels.get(m[1], ""), target["legendFormat"]
            )
            yield legend, result["values"]


def draw_panel(axes: Axes, url: str, panel: dict[str, Any], start: int, end: int) -> None:
    """Draw a panel; exit if it has no value."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    steps = range(start, end, SCRAPE_SECONDS)
    times = [datetime.fromtimestamp(at, UTC) for at in steps]
    lines = 0
    for legend, points in series(url, panel, start, end):
        values = {float(at): float(value) for at, value in points}
        axes.plot(times, [values.get(at, nan) for at in steps], label=legend, linewidth=1.3)
        lines += not all(map(isnan, values.values()))
    if not lines:
        sys.exit(f"the panel {panel['title']!r} shows nothing")
    axes.set_title(panel["title"], loc="left", fontsize=10, fontweight="bold")
    axes.set_xlim(times[0], times[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(UNITS[unit]))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=unit == "none"))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", ncols=2 if lines > 4 else 1, framealpha=0.6)


def draw(url: str, start: int, end: int) -> None:
    """Draw all panels in the order of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    figure = Figure(figsize=(12, 16), layout="constrained")
    grid = figure.subplots(len(panels) // 2, 2)
    for panel in panels:
        row, column = panel["gridPos"]["y"] // panel["gridPos"]["h"], panel["gridPos"]["x"] // 12
        draw_panel(grid[row, column], url, panel, start, end)
    figure.savefig(IMAGE, dpi=80)


def main() -> None:
    """Work for some minutes, stop the runner until alerts fire, start it again, and draw."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="statsvc-dashboard-")))
        labels, variant, removed, home = (folder / name for name in ("street", "variant", "removed", "home"))
        for seed, source in enumerate((labels, variant, removed)):
            statsvc("demo", source, "--images", "200", "--size", "1024x512", "--seed", seed)
        url, _ = stack.enter_context(serve(home, "--no-runner", "--root", folder))
        monitor = stack.enter_context(prometheus(folder, url))
        started = int(time.time())
        with runner(home, folder):
            for source in (labels, removed):
                body = {"name": source.name, "source": str(source), "every": "10s"}
                httpx2.post(f"{url}/datasets", json=body).raise_for_status()
            for source in (labels, removed):
                wait_for(lambda source=source: responds(f"{url}/weights?dataset={source.name}"))
            removed.rename(folder / "elsewhere")
            stack.enter_context(requests(url, labels, variant))
            time.sleep(WORK_SECONDS)
        print_alerts(monitor)
        with runner(home, folder):
            time.sleep(WORK_SECONDS / 2)
            draw(monitor, started, int(time.time()))


if __name__ == "__main__":
    main()
