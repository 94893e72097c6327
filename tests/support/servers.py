"""API servers as separate processes, and free ports of the loopback interface."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from statsvc.store.home import Home

SERVER_PROGRAM = """
import resource, sys
from pathlib import Path
from statsvc.api.serve import run
from statsvc.store.versions.open_location import open_location
from statsvc.store.home import Home

files, reads_need_token, folder, database, store, port, *roots = sys.argv[1:]
if int(files):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
home = Home(Path(folder), database, open_location(store))
run(
    home,
    "127.0.0.1",
    int(port),
    [Path(root) for root in roots],
    reads_need_token=bool(int(reads_need_token)),
    ready=lambda _port: print("ready", flush=True),
)
"""


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def responds(url: str) -> bool:
    """Whether a GET request returns 200."""
    try:
        return httpx2.get(url, timeout=20).status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def serving(
    home: Home,
    roots: Sequence[Path] = (),
    *,
    files: int = 0,
    log: Path | None = None,
    reads_need_token: bool = False,
) -> Iterator[str]:
    """Run a server for a home directory in a separate process; yield its URL when it is ready.

    files  limit of open files, 0 for that of this process
    log    file for its log; None for the standard error of this process
    reads_need_token  whether every request needs a token
    """
    port = free_port()
    arguments = [
        str(files),
        str(int(reads_need_token)),
        str(home.folder),
        home.database,
        str(home.store),
        str(port),
        *map(str, roots),
    ]
    with nullcontext() if log is None else log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER_PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=Path(__file__).parents[2],
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
