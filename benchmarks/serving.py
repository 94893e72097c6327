"""Response times: `GET /weights`, compared with a FastAPI endpoint that sends constant bytes; start-up times.

    python benchmarks/serving.py [--seconds 3] [--rounds 5] [--json FILE]

Both servers run in separate processes under uvicorn. This process sends requests to them alternately, over
four keep-alive connections on loopback. The latency during a scan is measured at a fifth of the maximum rate
of the idle server, from the time at which a request is due. The scanned label maps are kept in build/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import Row, at_most, report, within

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CONNECTIONS = 4
WEIGHTS_PATH = "/weights?method=sqrt_inv_freq&dataset=bench"

CONSTANT = """
import sys
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

body = open(sys.argv[1], "rb").read()
app = FastAPI()

@app.get("/weights")
async def constant() -> Response:
    return Response(body, media_type="application/json")

uvicorn.run(
    app, port=int(sys.argv[2]), http=sys.argv[3], loop=sys.argv[4], log_level="warning", access_log=False
)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Connection:
    """A keep-alive connection that repeats one request."""

    def __init__(self, port: int, etag: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        condition = "" if etag is None else f"If-None-Match: {etag}\r\n"
        self.request = f"GET {WEIGHTS_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{condition}\r\n".encode()

    def send(self) -> None:
        self.socket.sendall(self.request)

    def receive(self) -> tuple[bytes, bytes]:
        """Return the head and the body of a response."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._read()
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            body += self._read()
        return head, body

    def _read(self) -> bytes:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(port: int, process: int, seconds: float, etag: str | None = None, status: bytes = b"200") -> float:
    """Return the responses per second of the server's CPU time.

    Over `CONNECTIONS` connections that send requests without a pause.
    """
    connections = [Connection(port, etag) for _ in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()
    responses, start, used = 0, time.perf_counter(), cpu_seconds(process)
    while time.perf_counter() - start < seconds:
        for key, _ in selector.select(1):
            head, _ = key.data.receive()
            assert head.split(b" ", 2)[1] == status, head
            responses += 1
            key.data.send()
    used = cpu_seconds(process) - used
    for connection in connections:
        connection.receive()
        connection.socket.close()
    return responses / used


def latency_p99(port: int, per_second: float, seconds: float) -> float:
    """Return the 99th percentile of the time from when a request is due to its response, in ms."""
    connection = Connection(port)
    times = []
    start = time.perf_counter()
    for number in range(int(per_second * seconds)):
        due = start + number / per_second
        if (pause := due - time.perf_counter()) > 0:
            time.sleep(pause)
        connection.send()
        connection.receive()
        times.append(1000 * (time.perf_counter() - due))
    connection.socket.close()
    return sorted(times)[int(0.99 * len(times))]


@contextlib.contextmanager
def running(
    command: list[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[tuple[float, int]]:
    """Context manager that runs a server; yields the seconds until it accepted a connection, and its id."""
    start = time.perf_counter()
    variables = os.environ | (environment or {})
    with subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if process.poll() is not None:
                    raise SystemExit(f"{command} exited with code {process.returncode}")
                time.sleep(0.005)
            yield time.perf_counter() - start, process.pid
        finally:
            process.terminate()


def statsvc(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "statsvc", *map(str, arguments)]


def labels(images: int, size: str) -> Path:
    """Return a folder of demo label maps, which is generated at the first call."""
    folder = ROOT / "build" / f"demo-{images}-{size}"
    if not (folder / "classes.txt").exists():
        subprocess.run(statsvc("demo", folder, "--images", images, "--size", size), check=True)
    return folder


def command_seconds(command: list[str], repeats: int = 7) -> float:
    """Return the median seconds that a command takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def whole_run() -> float:
    """Return the seconds in which `make run` draws label maps, counts them and starts to serve them."""
    with tempfile.TemporaryDirectory() as state:
        port = free_port()
        command = Path(sys.executable).with_name("statsvc")
        variables = {"STATSVC": str(command), "STATE": state, "PORT": str(port)}
        with running([sys.executable, str(ROOT / "scripts" / "run.py")], port, variables) as (seconds, _):
            return seconds


def response_rows(home: str, seconds: float, rounds: int) -> list[Row]:
    """Compare the responses per second, and the latency during a scan."""
    port = free_port()
    serve = statsvc("serve", "--home", home, "--port", port, "--root", ROOT / "build")
    with running(serve, port) as (_, server):
        first = Connection(port)
        first.send()
        head, body = first.receive()
        etag = next(
            line.split(b":", 1)[1].strip().decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"etag:")
        )
        rates: dict[str, list[float]] = {}
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(body)
            file.flush()
            peers = {}
            for name, settings in (("h11", ("h11", "asyncio")), ("same", ("httptools", "uvloop"))):
                peer = free_port()
                command = [sys.executable, "-c", CONSTANT, file.name, str(peer), *settings]
                peers[name] = peer, stack.enter_context(running(command, peer))[1]
            for _ in range(rounds):
                for name, (peer, process) in peers.items():
                    rates.setdefault(name, []).append(rate(peer, process, seconds))
                rates.setdefault("weights", []).append(rate(port, server, seconds))
                rates.setdefault("304", []).append(rate(port, server, seconds, etag, b"304"))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        weights = medians["weights"]

        def row(name: str, theirs: float, ours: float, least: float) -> Row:
            return Row(name, theirs, ours, "/s", ours / theirs, f"≥ {least:g}", ours >= least * theirs)

        rows = [
            row("GET /weights per core: a constant FastAPI Response, h11", medians["h11"], weights, 1.5),
            row("GET /weights per core: the same with httptools and uvloop", medians["same"], weights, 0.8),
            row("GET /weights, 304: the response with a body", weights, medians["304"], 1),
        ]
        idle = latency_p99(port, 0.2 * weights, 2 * seconds)
        source = labels(3000, "2048x1024")
        new = json.dumps({"name": "busy", "source": str(source)}).encode()
        with socket.create_connection(("127.0.0.1", port)) as registration:
            registration.sendall(
                b"POST /datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(new), new)
            )
            assert b" 201 " in registration.recv(100)
        time.sleep(2)  # until the workers are counting
        busy = latency_p99(port, 0.2 * weights, 2 * seconds)
        rows.append(at_most("p99 at a fifth of that rate while a scan runs: idle", idle, busy, 3, "ms"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = [
        within(
            "import statsvc",
            command_seconds([sys.executable, "-c", "import statsvc"])
            - command_seconds([sys.executable, "-c", "pass"]),
            0.15,
        ),
        within("statsvc --help", command_seconds(statsvc("--help")), 0.5),
    ]
    with tempfile.TemporaryDirectory() as home:
        small = labels(60, "512x256")
        subprocess.run(
            statsvc("scan", small, "--name", "bench", "--home", home), check=True, capture_output=True
        )
        times = []
        for _ in range(3):
            port = free_port()
            with running(statsvc("serve", "--home", home, "--port", port), port) as (seconds, _):
                times.append(seconds)
        rows.append(within("statsvc serve, until it accepts", statistics.median(times), 3))
        rows.append(within("make run with installed packages, until it accepts", whole_run(), 15))
        rows += response_rows(home, options.seconds, options.rounds)
    report("serving, and start-up times compared with limits", rows, options.json)


if __name__ == "__main__":
    main()
