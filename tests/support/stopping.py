"""Cancel jobs and stop servers at random moments of every kind of work, and tally how long it takes.

`make stops` runs it for a long time: `PYTHONPATH=tests python -m support.stopping ROUNDS [SEED]`. Each round
cancels one job, and ends one server, of each kind of work.
"""

from __future__ import annotations

import http.server
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from support.commands import serve
from support.label_maps import write_folder, write_huge_arrays
from support.processes import descendants, is_alive
from support.waiting import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PATTERN = "**/" + "*a" * 20 + "*b.{png,tif}"
"""A pattern that is matched with every path, in linear time."""


def write_endless_sample(folder: Path) -> Path:
    """Write one sample that takes longer to count than any test: millions of chunks, all of them missing."""
    array = folder / "a.zarr"
    array.mkdir(parents=True)
    layout = {"zarr_format": 2, "shape": [200, 100_000], "chunks": [1, 8], "order": "C"}
    values = {"dtype": "|u1", "fill_value": 0, "compressor": None, "filters": None}
    (array / ".zarray").write_text(json.dumps(layout | values))
    return folder


def write_endless_folder(folder: Path) -> Path:
    """Write a file that has 2^40 names: links to links to its folder."""
    for depth in range(40):
        (folder / f"d{depth}").mkdir(parents=True)
        for name in ("a", "b"):
            (folder / f"d{depth}" / name).symlink_to(folder / f"d{depth + 1}")
    write_folder(folder / "d40", files=1)
    return folder


def write_large_container(folder: Path) -> Path:
    """Write a JSON file whose parser holds the interpreter's lock for seconds, in a process of its own."""
    folder.mkdir()
    with (folder / "a.json").open("w") as file:
        file.write('{"images": [' + '{"id": 1},' * 8_000_000 + "0]}")
    return folder


@contextmanager
def slow_store() -> Iterator[str]:
    """Serve a file that is never sent; yield its URL."""
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            stop.wait()

        do_GET = do_HEAD  # noqa: N815 - the name of the method

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


def sources(folder: Path, store: str) -> dict[str, dict[str, str]]:
    """Write the source of each kind of work; return the fields of its registration, by kind."""
    many = write_folder(folder / "many", files=3000)
    endless = str(write_endless_folder(folder / "endless"))
    return {
        "listing": {"source": endless},
        "matching": {"source": endless, "pattern": PATTERN},
        "listing a container": {
            "source": str(write_large_container(folder / "container")),
            "pattern": "*.json",
        },
        "waiting for a store": {"source": f"{store}/labels/a.tar"},
        "one huge sample": {"source": str(write_endless_sample(folder / "sample"))},
        "counting": {"source": str(write_huge_arrays(folder / "arrays"))},
        # At random moments, which are those of listing, counting, merging and publishing.
        "any stage": {"source": str(many)},
    }


def start_job(url: str, name: str, fields: dict[str, str]) -> str:
    """Register a dataset; return the id of its job once a runner executes it."""
    response = httpx2.post(f"{url}/datasets", json={"name": name, **fields})
    assert response.status_code == 201, response.text
    job: str = response.json()["job"]["id"]
    wait_for(lambda: httpx2.get(f"{url}/jobs/{job}").json()["state"] != "queued")
    return job


def cancel_seconds(url: str, name: str, fields: dict[str, str], other: str, delay: float) -> float:
    """Cancel a job after a delay; return the seconds until its runner starts another one."""
    job = start_job(url, name, fields)
    time.sleep(delay)
    httpx2.post(f"{url}/datasets", json={"name": f"{name}-other", "source": other}).raise_for_status()
    [waiting] = httpx2.get(f"{url}/jobs", params={"dataset": f"{name}-other"}).json()["jobs"]
    start = time.monotonic()
    response = httpx2.post(f"{url}/jobs/{job}/cancel")
    assert response.status_code in (200, 409), response.text  # 409: it has ended by itself
    wait_for(lambda: httpx2.get(f"{url}/jobs/{waiting['id']}").json()["started_at"])
    return time.monotonic() - start


def stop_seconds(url: str, process: subprocess.Popen[bytes], fields: dict[str, str], delay: float) -> float:
    """End a server during a job; return the seconds until none of its processes is left."""
    start_job(url, "x", fields)
    time.sleep(delay)
    processes = descendants(process.pid)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    wait_for(lambda: not any(map(is_alive, processes)))
    assert process.returncode == 0
    return time.monotonic() - start


def stops(folder: Path, rounds: int, seed: int = 0) -> Iterator[tuple[str, str, float]]:
    """Yield (kind of work, "cancel" or "stop", seconds) of each cancellation and termination."""
    rng = random.Random(seed)
    with slow_store() as store:
        kinds = sources(folder, store)
        other = str(write_folder(folder / "other", files=2))
        options = ("--root", folder, "--root", store, "--workers", "1")
        for number in range(rounds):
            for kind, fields in kinds.items():
                name = f"{number}-{kind.replace(' ', '-')}"
                with serve(folder / f"home-{name}", *options) as (url, process):
                    yield kind, "cancel", cancel_seconds(url, name, fields, other, rng.uniform(0, 2))
                    yield kind, "stop", stop_seconds(url, process, fields, rng.uniform(0, 2))


def main(rounds: int = 8, seed: int = 0) -> None:
    """Run and print a table; Ctrl-C ends it early."""
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for kind, what, seconds in stops(Path(folder).resolve(), rounds, seed):
                results[kind, what].append(seconds)
    except KeyboardInterrupt:
        print("interrupted")
    print("| work | what | times | median | worst |\n|---|---|---|---|---|")
    for (kind, what), times in results.items():
        median = sorted(times)[len(times) // 2]
        print(f"| {kind} | {what} | {len(times)} | {median:.1f} s | {max(times):.1f} s |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
