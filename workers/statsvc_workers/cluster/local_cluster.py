"""A Dask cluster of local processes, started on first use, which listens on no port."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from statsvc.errors import JobFailed
from statsvc_workers.cluster.away import ClusterAway, root_cause
from statsvc_workers.cluster.batch_task import count_batch
from statsvc_workers.cluster.dask_settings import quiet_dask
from statsvc_workers.cluster.liveness import Liveness
from statsvc_workers.cluster.machine import cores, memory
from statsvc_workers.cluster.private_folder import PrivateFolder
from statsvc_workers.processes.stalls import STALL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

    from statsvc_workers.cluster.tasks import CountOptions
    from statsvc_workers.processes.forked import Template
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

WORKER_MEMORY = 512 << 20
"""Minimum memory of a worker process; Python with Dask and the compiled loops alone takes 170 MiB."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 32 << 20, 64 << 20
"""glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of worker processes, in bytes."""

CONNECT_SECONDS = 120
"""Timeout of connections between the processes: on a busy machine, Dask's 30 s are too short to start one."""

CLOSE_SECONDS = 5


class LocalCluster:
    """A local Dask cluster with one process per core, which only processes of the same user can reach.

    Scheduler and workers talk over Unix sockets in a private folder.

    workers        number of processes; default: the cores this process may use, or fewer where each would
                   have less memory than `WORKER_MEMORY`
    memory_limit   bytes at which a worker process is ended; default: an equal share of the memory of this
                   machine or container, at least `WORKER_MEMORY`
    template       from which processes are forked that count while no worker process runs; its creator closes
                   it
    stall_timeout  seconds after which a worker process without a sign of life is replaced
    """

    task = staticmethod(count_batch)

    def __init__(
        self,
        workers: int | None = None,
        memory_limit: int | None = None,
        template: Template | None = None,
        stall_timeout: float = STALL_TIMEOUT,
    ) -> None:
        self._template = template
        self._requested_workers, self._requested_memory = workers, memory_limit
        self._stall_timeout = stall_timeout
        self._client: Any = None
        self._liveness: Liveness | None = None
        self._cluster: Any = None
        self._folder: PrivateFolder | None = None

    def client(self) -> Client:
        """Return a client of the running cluster, starting the cluster if necessary.

        Raises `ClusterAway` where its processes cannot be started, which may be due to a busy machine, and
        `JobFailed` where there is no folder for their sockets.
        """
        if self._client is None:
            _configure_dask()
            try:
                with _interrupts_blocked():
                    self._start()
            except Exception as error:
                self.close()
                if isinstance(error, JobFailed):
                    raise
                raise ClusterAway(
                    f"the {self.workers} worker processes could not be started ({root_cause(error)}). Use "
                    "fewer processes with --workers, or check memory, the limits on processes (ulimit -u) "
                    "and open files (ulimit -n), and the free space of the temporary folder"
                ) from error
            except BaseException:
                self.close()
                raise
        return self._client

    def _start(self) -> None:
        import dask
        import distributed

        from statsvc_workers.cluster.local_nodes import PROTOCOL, LocalNanny, LocalScheduler

        self._folder = PrivateFolder()
        # Dask imports modules from this folder. The default is in /tmp; another user may have created it.
        dask.config.set({"temporary-directory": str(self._folder.path)})
        address = {"host": str(self._folder.path), "port": 0, "protocol": PROTOCOL, "dashboard": False}
        worker = {
            "cls": LocalNanny,
            "options": address
            | {
                "nthreads": 1,
                "memory_limit": self._requested_memory or max(WORKER_MEMORY, memory() // self.workers),
                "silence_logs": logging.CRITICAL,
            },
        }
        self._cluster = distributed.SpecCluster(
            workers=dict.fromkeys(range(self.workers), worker),
            scheduler={"cls": LocalScheduler, "options": address},
            worker=worker,
            silence_logs=logging.CRITICAL,
        )
        self._client = distributed.Client(self._cluster, set_as_default=False)

    def prepare(
        self,
        _options: CountOptions,
        _sample: str | Member,
        _check: Callable[[], None],
        _report: Callable[[str], None],
    ) -> Client:
        """Return a client; needs no preflight check, because processes of this machine see the same files."""
        return self.client()

    def check_alive(self, report: Callable[[str], None]) -> None:
        """Replace worker processes without a sign of life; called often while batches run."""
        if self._liveness is None:
            self._liveness = Liveness(self.client(), self._stall_timeout, self._pids)
        self._liveness.step(report)

    def _pids(self) -> dict[str, int]:
        """Return the process ids of the workers by their addresses."""
        nannies = [] if self._cluster is None else list(self._cluster.workers.values())
        return {nanny.worker_address: nanny.pid for nanny in nannies if nanny.pid is not None}

    @functools.cached_property
    def workers(self) -> int:
        """The number of worker processes that the cluster has, or will have once started."""
        # Computed on first use, because it imports distributed and a scan may find nothing to count.
        return self._requested_workers or max(1, min(cores(), memory() // WORKER_MEMORY))

    @property
    def threads(self) -> int:
        """The number of threads, or forked processes, that may count while no worker process runs."""
        return self._requested_workers or cores()

    @property
    def template(self) -> Template | None:
        """The template of processes that count while no worker process runs; None where there is none."""
        return self._template if self._template is not None and self._template.available else None

    @property
    def running(self) -> bool:
        """Whether the cluster's processes are running."""
        return self._client is not None

    def stalled(self) -> bool:
        """Whether the scheduler currently has no worker."""
        return not self.client().nthreads()

    def abandon(self, _futures: Sequence[Any]) -> None:
        """End the processes immediately, because nobody waits for their results any longer.

        A cancelled batch would run until its current sample is counted, and a decoder cannot be interrupted.
        """
        nannies = [] if self._cluster is None else list(self._cluster.workers.values())
        for nanny in nannies:
            pid = nanny.pid
            nanny.close_gracefully()  # or it would start another process
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End the cluster's processes; the next `client` starts new ones."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        self._liveness = None
        for resource in (client, cluster):
            if resource is not None:
                # Closing fails where the scheduler has died; nothing is left to close then.
                with contextlib.suppress(Exception):
                    resource.close(timeout=CLOSE_SECONDS)
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _configure_dask() -> None:
    import dask

    quiet_dask()
    dask.config.set({"distributed.comm.timeouts.connect": CONNECT_SECONDS})
    # A batch that kills its worker twice is retried sample by sample, so further attempts are useless.
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    # Batches leave no results on workers, so a worker that pauses until memory is freed would wait forever.
    dask.config.set({f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")})
    # With Dask's settings, glibc would return every block of more than 64 kB to the system, and the next
    # label map would cause page faults for the same memory.
    dask.config.set(
        {
            f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": threshold
            for name, threshold in (("MMAP", MMAP_THRESHOLD), ("TRIM", TRIM_THRESHOLD))
        }
    )
    dask.config.set({"distributed.worker.profile.enabled": False})
    # No HTTP server is started, so its pages need not be imported.
    dask.config.set({f"distributed.{node}.http.routes": [] for node in ("scheduler", "worker")})


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C for processes and threads that are started inside; this process stops them itself.

    They inherit the blocked signal. A signal that arrives meanwhile is delivered to this thread afterwards.
    """
    from multiprocessing import resource_tracker

    # If the first process started the resource tracker, the tracker would unblock the signal in this thread.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
