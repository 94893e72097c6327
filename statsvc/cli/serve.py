"""`statsvc serve` and `runner`: the API in one process, the runner in another."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import home_options, needs, opened
from statsvc.common.durations import parse_duration
from statsvc.common.object_urls import is_url, normalized
from statsvc.store import home as homes

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.store.home import Home

log = logging.getLogger(__name__)

NICENESS = 19
"""How far the runner beside a server stands behind it: answering a request takes a millisecond."""


def runner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a runner."""
    for option in (
        click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger label maps."),
        click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Dask processes."),
        click.option(
            "--quiet",
            metavar="TIME",
            default="3s",
            show_default=True,
            help="How long a watched source must not change before it is scanned.",
        ),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
    ):
        command = option(command)
    return command


def _root(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> tuple[Path | str, ...]:
    """Return roots as folders that are there, and URLs."""
    roots: list[Path | str] = []
    for root in given:
        if is_url(root):
            roots.append(normalized(root))
        elif Path(root).is_dir():
            roots.append(Path(root))
        else:
            raise click.BadParameter(f"{root!r} is no folder and no URL such as s3://bucket/prefix")
    return tuple(roots)


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="An address of this machine; beyond loopback writes need a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--root",
    "roots",
    multiple=True,
    callback=_root,
    metavar="FOLDER|URL",
    help="Folder or URL below which requests may register sources.  [default: the current folder]",
)
@click.option(
    "--allow-host", "names", multiple=True, metavar="NAME", help="A further host name that it answers to."
)
@click.option(
    "--require-token-for-reads",
    "reads_need_token",
    is_flag=True,
    help="Ask for a token also where one reads.",
)
@click.option("--runner/--no-runner", "with_runner", default=True, help="Run jobs too.  [default: yes]")
@runner_options
@home_options
def serve(
    host: str,
    port: int,
    roots: tuple[Path | str, ...],
    names: tuple[str, ...],
    reads_need_token: bool,
    with_runner: bool,
    device: str,
    workers: int | None,
    quiet: str,
    max_pixels: int | None,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """Serve weights over HTTP, and run recompute jobs in a process beside."""
    child = None
    try:
        try:
            from statsvc.api.serve import run
        except ModuleNotFoundError as error:
            raise needs("service", error) from error
        place = homes.resolve(home, database, store)
        parse_duration("quiet", quiet)
        place.store.check(writing=with_runner)
        arguments = ["--device", device, "--quiet", quiet]
        arguments += [] if workers is None else ["--workers", str(workers)]
        arguments += [] if max_pixels is None else ["--max-pixels", str(max_pixels)]
        child = _Runner(place, arguments) if with_runner else None

        def ready(bound: int) -> None:
            if child is not None:
                child.start()
            _announce(place, host, bound)

        run(
            place,
            host,
            port,
            roots or (Path.cwd(),),
            names=names,
            reads_need_token=reads_need_token,
            ready=ready,
        )
    except KeyboardInterrupt:
        pass  # the way to end it, also while it starts; uvicorn finished its requests first
    finally:
        if child is not None:
            child.stop()


def _announce(place: Home, host: str, port: int) -> None:
    """Say where the service is, and a request that it answers now."""
    from statsvc.store.catalog.catalog import Catalog

    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    catalog = Catalog.open(place.database)
    ready = [dataset.name for dataset in catalog.datasets() if dataset.current_number is not None]
    catalog.close()
    click.echo(f"statsvc serves on {address} (API: {address}/docs); Ctrl-C stops it", err=True)
    if ready:
        query = "method=sqrt_inv_freq" + (f"&dataset={ready[0]}" if len(ready) > 1 else "")
        click.echo(f"try:  curl '{address}/weights?{query}'", err=True)
    else:
        click.echo(f"no dataset yet; add one with: statsvc scan SOURCE --home {place.folder}", err=True)


class _Runner:
    """The runner as a child process, started again where it dies."""

    def __init__(self, place: Home, arguments: list[str]) -> None:
        self._command = [
            *(sys.executable, "-m", "statsvc", "-v", "runner", "--parent", str(os.getpid())),
            *("--home", str(place.folder), "--store", str(place.store)),
            *arguments,
        ]
        # Not among the arguments, which every user of the machine can read: it may hold a password.
        self._environment = os.environ | {"STATSVC_DATABASE": place.database}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="runner", daemon=True)

    def start(self) -> None:
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command, stdin=subprocess.DEVNULL, env=self._environment
            )
            code = self._process.wait()
            if self._stopping.is_set():
                return
            log.warning("the runner ended with code %d; starting it again", code)
            # One that cannot start must not be started a hundred times a second.
            self._stopping.wait(max(0.0, 2.0 - (time.monotonic() - began)))

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


@click.command()
@runner_options
@click.option(
    "--dask",
    metavar="ADDRESS",
    envvar="STATSVC_DASK",
    show_envvar=True,
    help="A running Dask scheduler, tcp://HOST:8786 or tls://HOST:8786, whose workers count.",
)
@click.option("--parent", type=int, hidden=True, help="End with this process.")
@home_options
def runner(
    device: str,
    workers: int | None,
    quiet: str,
    max_pixels: int | None,
    dask: str | None,
    parent: int | None,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """Run recompute jobs as they come, until stopped: on this machine, or on the workers of --dask."""
    try:
        from statsvc_workers.cluster.remote_cluster import checked_address
        from statsvc_workers.jobs.attempt import MAX_PIXELS, Settings
        from statsvc_workers.jobs.runner import run
        from statsvc_workers.kernels.device import require
    except ModuleNotFoundError as error:
        raise needs("workers", error) from error
    if dask is not None:
        checked_address(dask)
        if workers is not None:
            raise click.UsageError(
                "--workers are processes of this machine; with --dask the scheduler has its own"
            )
    else:
        require(device)
    if parent is not None:
        os.nice(NICENESS)  # inherited by the worker processes, which count in what is left of the cores
    with opened(home, database, store) as (place, _catalog):
        # What cannot be used is an error now, not a line in a loop or the end of the first job.
        place.store.check(writing=True)
    stopping = threading.Event()

    def stop(_signal: int, _frame: Any) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C reaches the whole group; under `serve` the parent says when to stop.
    signal.signal(signal.SIGINT, stop)
    if parent is None:
        click.echo("statsvc runs jobs as they come; Ctrl-C stops it", err=True)
    run(
        place,
        Settings(device, max_pixels or MAX_PIXELS),
        workers=workers,
        quiet=parse_duration("quiet", quiet),
        dask=dask,
        parent=parent,
        stop=stopping.is_set,
    )
