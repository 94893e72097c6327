"""Dask's scheduler and workers for a local cluster: no HTTP server, and no worker without its parent."""

from __future__ import annotations

from typing import Any

from distributed import Nanny, Scheduler, Worker

from statsvc_workers.cluster import unix_sockets
from statsvc_workers.processes.parent_death import end_with_parent

PROTOCOL = unix_sockets.SCHEME


class _NoHttpServer:
    """Scheduler and workers start an HTTP server even without a dashboard."""

    def start_http_server(self, *_arguments: Any, **_options: Any) -> None:
        pass


class LocalScheduler(_NoHttpServer, Scheduler):
    """A scheduler without an HTTP server."""


class LocalWorker(_NoHttpServer, Worker):
    """A worker without an HTTP server that the kernel kills when the process that started it dies.

    Dask's own watch over the parent is a thread, which does not run while a decoder holds Python's lock.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        end_with_parent()
        super().__init__(*arguments, **options)


class LocalNanny(Nanny):
    """A nanny of a `LocalWorker`. The worker's process imports this module, and with it the transport."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, worker_class=LocalWorker, **options)
