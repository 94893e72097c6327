"""`statsvc serve`: the HTTP API, and a runner as a child process."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options, missing_extra
from statsvc.cli._options import counting_options, quiet_option, root_option
from statsvc.common.durations import parse_duration
from statsvc.common.private_folder import create_private_folder
from statsvc.dataset.splits import advised_split
from statsvc.errors import StatsvcError

if TYPE_CHECKING:
    from types import FrameType

    from statsvc.store.home import Home

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

log = logging.getLogger(__name__)

RESTART_SECONDS = 2.0
"""Least time between two starts of the runner, so that one that cannot start does not use up a core."""

STOP_SECONDS = 10.0
"""Time that the runner has to stop before it is killed: more than the runner gives its jobs."""


def _parse_proxies(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(
            f"{error}. Give an address or network such as 10.0.0.7 or 10.0.0.0/24."
        ) from None


@click.command(short_help="Serve class weights over HTTP.")
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    help="Address to listen on. Beyond loopback, writing requires a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8000,
    help="Port to listen on, or 0 for any.",
)
@root_option("Folder or URL below which requests may register, and jobs may read. Can be repeated.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="Additional host name accepted in requests. Can be repeated.",
)
@click.option(
    "--require-token-for-reads", "reads_need_token", is_flag=True, help="Require a token for reads, too."
)
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    callback=_parse_proxies,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-For is used. Can be repeated.",
)
@click.option("--access-log", is_flag=True, help="Log every request to stderr, without its query.")
@click.option("--runner/--no-runner", "with_runner", default=True, help="Run queued jobs in a child process.")
@counting_options
@quiet_option
@home_options
def serve(
    host: str,
    port: int,
    roots: tuple[Path | str, ...],
    names: tuple[str, ...],
    reads_need_token: bool,
    proxies: tuple[Network, ...],
    access_log: bool,
    with_runner: bool,
    device: str,
    workers: int | None,
    max_pixels: int | None,
    quiet: str,
    options: HomeOptions,
) -> None:
    """Serve class weights over HTTP, and run queued jobs in a child process."""
    child = None
    try:
        try:
            from statsvc.api.serve import run
        except ModuleNotFoundError as error:
            raise missing_extra("service", error) from error
        home = options.resolve()
        parse_duration("quiet", quiet)
        create_private_folder(home.folder)
        home.store.check(writing=with_runner)
        arguments = ["--device", device, "--quiet", quiet]
        arguments += [] if workers is None else ["--workers", str(workers)]
        arguments += [] if max_pixels is None else ["--max-pixels", str(max_pixels)]
        arguments += [part for root in roots for part in ("--root", str(root))]
        child = _RunnerProcess(home, arguments) if with_runner else None

        def ready(bound_port: int) -> None:
            if child is not None:
                child.start()
            _announce(home, host, bound_port)

        run(
            home,
            host,
            port,
            roots or (Path.cwd(),),
            names=names,
            reads_need_token=reads_need_token,
            proxies=proxies,
            access_log=access_log,
            ready=ready,
            stopping=None if child is None else child.handle_signal,
        )
    except KeyboardInterrupt:
        pass  # Ctrl-C during startup
    finally:
        if child is not None:
            child.stop()


def _announce(home: Home, host: str, port: int) -> None:
    """Print the URL of the service, and a request to try."""
    from statsvc.store.catalog.database_errors import DatabaseError

    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    echo(f"Serving on {address} (API: {address}/docs). Press Ctrl-C to stop.", err=True)
    try:
        echo(_advice(home, address), err=True)
    except (StatsvcError, DatabaseError) as error:
        # The catalog became unavailable after the server had opened it. The server waits for it.
        log.warning("the catalog is unavailable: %s", error)


def _advice(home: Home, address: str) -> str:
    """Return a request to try, or how to add a dataset. Raises if the catalog is unavailable."""
    catalog = home.open_catalog()
    try:
        published = [dataset for dataset in catalog.datasets() if dataset.current_number is not None]
        split = advised_split(catalog.version(published[0]).configuration.splits) if published else None
    finally:
        catalog.close()
    if not published:
        return f"There is no dataset yet. Add one with: statsvc scan SOURCE --home {home.folder}"
    query = "method=sqrt_inv_freq" + (f"&dataset={published[0].name}" if len(published) > 1 else "")
    query += "" if split is None else f"&split={split}"
    return f"Try:  curl '{address}/weights?{query}'"


class _RunnerProcess:
    """The runner as a child process that is restarted when it dies."""

    def __init__(self, home: Home, arguments: list[str]) -> None:
        self._command = [
            *(sys.executable, "-m", "statsvc", "-v", "runner", "--parent", str(os.getpid())),
            *("--home", str(home.folder), "--store", str(home.store)),
            *arguments,
        ]
        # The URL may contain a password, and every user of the machine can read arguments.
        self._environment = os.environ | {"STATSVC_DATABASE": home.database}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._starting = threading.RLock()  # a signal handler may interrupt the thread that holds it
        self._watcher = threading.Thread(target=self._watch, name="runner", daemon=True)

    def start(self) -> None:
        self._watcher.start()

    def _watch(self) -> None:
        while True:
            started = time.monotonic()
            with self._starting:
                if self._stopping.is_set():
                    return
                process = self._process = subprocess.Popen(  # noqa: S603 - our own command
                    self._command, stdin=subprocess.DEVNULL, env=self._environment
                )
            # This thread started the process, so it must not end before the process: the kernel would
            # report the death of the parent to it.
            code = process.wait()
            if self._stopping.is_set():
                return
            log.warning("the runner exited with code %d; restarting it", code)
            self._stopping.wait(max(0.0, RESTART_SECONDS - (time.monotonic() - started)))

    def handle_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """Ask the runner to stop, while the server finishes its requests; at the second signal, end both."""
        if not self._stopping.is_set():
            self._terminate()
            return
        if self._process is not None:
            self._process.kill()
        os._exit(128 + number)

    def _terminate(self) -> None:
        """Ask the runner to stop. Only once: at the second request it would not requeue its jobs."""
        with self._starting:
            if not self._stopping.is_set():
                self._stopping.set()
                if self._process is not None:
                    self._process.terminate()

    def stop(self) -> None:
        """Stop the runner, and wait for its end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_signal)
        self._terminate()
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
