"""The Dask cluster that counts: local processes, started when there is something to count."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, TypeAlias

from statsvc.errors import JobFailed
from statsvc_workers.cluster.machine import cores, memory
from statsvc_workers.cluster.tasks import count_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from statsvc_workers.cluster.remote_cluster import RemoteCluster
    from statsvc_workers.cluster.tasks import CountOptions
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

Cluster: TypeAlias = "LocalCluster | RemoteCluster"
"""Where batches are counted: both have the same methods."""

WORKER_MEMORY = 512 << 20
"""The least a worker process is given: Python with Dask and the compiled loops takes 170 MiB by itself."""


class LocalCluster:
    """A local Dask cluster of one process a core, started on first use, on loopback only.

    workers       number of processes; default: the cores this process may run on, fewer where memory is
                  short of `WORKER_MEMORY` for each
    memory_limit  bytes at which a worker process is ended; default: its share of the memory that this
                  machine or container has, `WORKER_MEMORY` at least
    """

    task = staticmethod(count_batch)

    def __init__(self, workers: int | None = None, memory_limit: int | None = None) -> None:
        self._asked_workers, self._asked_memory = workers, memory_limit
        self._client: Any = None
        self._cluster: Any = None

    def client(self) -> Client:
        """Return a client of the running cluster, starting it where needed.

        Raises `JobFailed` where its processes cannot be started.
        """
        if self._client is None:
            import dask

            quiet_dask()
            # A batch that kills its worker twice is tried sample by sample, so more tries tell nothing.
            dask.config.set({"distributed.scheduler.allowed-failures": 1})
            # Batches leave no results behind, so a worker that pauses until memory is free waits for ever.
            dask.config.set(
                {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
            )
            # No pages given back that the next label map would have to touch anew: glibc's own limits, where
            # Dask's would have it return every piece of more than 64 kB.
            dask.config.set(
                {
                    f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": bytes_
                    for name, bytes_ in (("MMAP", 32 << 20), ("TRIM", 64 << 20))
                }
            )
            dask.config.set({"distributed.worker.profile.enabled": False})
            import distributed

            try:
                with _without_interrupts():
                    self._cluster = distributed.LocalCluster(
                        n_workers=self.workers,
                        threads_per_worker=1,
                        memory_limit=self._asked_memory or max(WORKER_MEMORY, memory() // self.workers),
                        processes=True,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",
                        silence_logs=logging.CRITICAL,
                    )
                    self._client = distributed.Client(self._cluster)
            except Exception as error:
                self.close()
                raise JobFailed(
                    f"the {self.workers} worker processes could not be started "
                    f"({type(error).__name__}: {error}); give fewer with --workers, or see what is short: "
                    "memory, processes (ulimit -u), open files (ulimit -n), room in the temporary folder"
                ) from error
            except BaseException:
                self.close()
                raise
        return self._client

    def prepare(self, _reading: CountOptions, _sample: str | Member, _check: Callable[[], None]) -> Client:
        """Return a client: processes of this machine can read what this one can list."""
        return self.client()

    @functools.cached_property
    def workers(self) -> int:
        """How many worker processes it has, once started."""
        # Asked late: the answer takes the import of distributed, and a scan may find nothing to count.
        return self._asked_workers or max(1, min(cores(), memory() // WORKER_MEMORY))

    @property
    def running(self) -> bool:
        """Whether the cluster's processes are up."""
        return self._client is not None

    def stalled(self) -> bool:
        """Whether the scheduler can reach no worker now."""
        return not self.client().nthreads()

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return sorted(self.client().run(os.getpid).values())

    def close(self) -> None:
        """End the cluster's processes, dead or alive; the next `client` starts new ones."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        for part in (client, cluster):
            if part is not None:
                # A cluster whose scheduler died cannot be closed in an orderly way, and need not be.
                with contextlib.suppress(Exception):
                    part.close(timeout=5)


def quiet_dask() -> None:
    """Let Dask be silent of what the scan says in its own words, such as a broken worker.

    Read when distributed is imported, here and in processes that it starts.
    """
    import dask

    dask.config.set({"logging.distributed": "critical"})


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes and threads that Ctrl-C does not reach: it is this process that stops the others.

    A blocked signal is inherited. One that comes meanwhile reaches this thread when it is unblocked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Started with the first process, it would unblock the signal in the thread that starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
