"""`statsvc runner`: run queued jobs."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options, missing_extra
from statsvc.cli._options import counting_options, quiet_option, root_option
from statsvc.common.durations import parse_duration

NICENESS = 19
"""Niceness of the runner of a server: requests take a millisecond and must not wait for counting."""


@click.command(short_help="Run queued jobs until stopped.")
@counting_options
@quiet_option
@click.option(
    "--dask",
    metavar="ADDRESS",
    envvar="STATSVC_DASK",
    show_envvar=True,
    help="Dask scheduler whose workers count, for example tls://HOST:8786.",
)
@click.option(
    "--allow-insecure-dask",
    is_flag=True,
    help="Accept tcp:// beyond loopback. Anyone who can reach Dask can run code there.",
)
@click.option(
    "--stall-timeout",
    metavar="TIME",
    default="30s",
    help="Time without a sign of life after which a worker or the Dask scheduler is replaced or reported.",
)
@root_option("Folder or URL below which sources are read. Can be repeated.")
@click.option("--parent", type=int, hidden=True, help="Stop when this process ends.")
@home_options
def runner(
    device: str,
    workers: int | None,
    max_pixels: int | None,
    quiet: str,
    dask: str | None,
    allow_insecure_dask: bool,
    stall_timeout: str,
    roots: tuple[Path | str, ...],
    parent: int | None,
    options: HomeOptions,
) -> None:
    """Run queued jobs until stopped, on this machine or on the workers of a Dask scheduler.

    Only files below the roots are opened, whatever symbolic links exist there. Without --root, each dataset
    is read below the current folder or its own source folder.
    """
    try:
        from statsvc_workers.cluster.remote_cluster import checked_address
        from statsvc_workers.jobs.attempt import MAX_PIXELS, Settings
        from statsvc_workers.jobs.runner import run
        from statsvc_workers.kernels.device import require
        from statsvc_workers.processes.parent_death import end_with_parent
    except ModuleNotFoundError as error:
        raise missing_extra("workers", error) from error
    if dask is None:
        require(device)
    else:
        checked_address(dask, allow_insecure=allow_insecure_dask)
        if workers is not None:
            raise click.UsageError(
                "--workers starts processes on this machine, but --dask uses the workers of its scheduler. "
                "Omit one of them."
            )
    if parent is not None:
        os.nice(NICENESS)  # inherited by the worker processes
    with options.open() as (home, _catalog):
        # Report an unusable catalog or version store now instead of in the first job.
        home.store.check(writing=True)
    stopping = threading.Event()

    def stop(number: int, _frame: Any) -> None:
        # Under `serve`, which kills it, a second signal says nothing: the kernel sends one for each thread of
        # a server that was killed.
        if stopping.is_set() and parent is None:
            os._exit(128 + number)  # the kernel kills the processes that count, and their jobs are requeued
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    # The terminal sends Ctrl-C to the whole process group; under `serve` the parent decides when to stop.
    signal.signal(signal.SIGINT, stop if parent is None else signal.SIG_IGN)
    if parent is not None:
        end_with_parent(signal.SIGTERM, parent)
    else:
        echo("The runner is waiting for jobs. Press Ctrl-C to stop it.", err=True)
    run(
        home,
        Settings(
            device,
            max_pixels or MAX_PIXELS,
            roots=tuple(map(str, roots or (Path.cwd(),))),
            only_roots=bool(roots),
            stall_timeout=parse_duration("stall-timeout", stall_timeout, least=1),
        ),
        workers=workers,
        quiet=parse_duration("quiet", quiet),
        dask=dask,
        allow_insecure_dask=allow_insecure_dask,
        parent=parent,
        stop=stopping.is_set,
    )
