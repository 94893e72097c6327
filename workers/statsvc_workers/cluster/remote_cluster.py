"""A Dask cluster that is already running: a scheduler at an address, with workers on any host."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import time
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from statsvc.errors import InvalidParameter, JobFailed
from statsvc_workers.cluster import preflight
from statsvc_workers.cluster.away import ClusterAway, root_cause
from statsvc_workers.cluster.dask_settings import quiet_dask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client

    from statsvc_workers.cluster.tasks import CountOptions
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Timeout of one attempt to connect to the scheduler."""

WAIT_SECONDS = 30.0
"""How long an attempt of a job waits for the scheduler and a worker."""

RETRY_SECONDS = 0.2
"""Pause between attempts to connect."""

THREADS_CACHE_SECONDS = 1.0
"""How long the number of worker threads is cached; it limits the batches in flight."""

CLOSE_SECONDS = 5


class RemoteCluster:
    """The workers of a running scheduler. They may join and leave; this class never starts or ends them.

    address         address of the scheduler: `tls://host:8786` with the certificates of Dask's configuration,
                    or `tcp://127.0.0.1:8786`
    allow_insecure  whether `tcp://` is accepted beyond loopback
    """

    task = staticmethod(preflight.check_and_count_batch)

    def __init__(self, address: str, *, allow_insecure: bool = False) -> None:
        self.address = checked_address(address, allow_insecure=allow_insecure)
        self._client: Any = None
        self._threads: tuple[float, int] = (0.0, 0)

    def client(self) -> Client:
        """Return a client of the scheduler, connected within `CONNECT_SECONDS`.

        Raises `ClusterAway` where no scheduler answers.
        """
        if self._client is not None and self._client.status != "running":
            self.close()  # the scheduler ended while no batch was running
        if self._client is None:
            quiet_dask()
            import distributed

            try:
                with warnings.catch_warnings():
                    # The preflight check reports the versions that matter.
                    warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
                    self._client = distributed.Client(
                        self.address, timeout=CONNECT_SECONDS, name="statsvc", set_as_default=False
                    )
            except Exception as error:
                raise ClusterAway(
                    f"no Dask scheduler answers at {self.address} ({root_cause(error)}); check that it is "
                    f"running and reachable from this host{_tls_advice(self.address)}"
                ) from error
        return self._client

    def prepare(self, options: CountOptions, sample: str | Member, check: Callable[[], None]) -> Client:
        """Return a client once a scheduler and a worker exist and all workers pass the preflight check.

        Raises `ClusterAway` after `WAIT_SECONDS` without scheduler or worker, and `JobFailed` for a problem
        that waiting does not solve: different versions, a worker that cannot read the source, no CUDA device.
        """
        end = time.monotonic() + WAIT_SECONDS
        warned = False
        while True:
            check()
            try:
                client = self._client_with_workers()
                preflight.check(client, self.address, options, sample)
            except ClusterAway as away:
                if time.monotonic() > end:
                    raise
                if not warned:
                    log.warning("%s. Waiting for it", away)
                warned = True
            except (OSError, TimeoutError) as error:
                log.info("A worker or the scheduler disconnected during the preflight check: %s", error)
                if time.monotonic() > end:
                    raise ClusterAway(
                        f"the Dask cluster at {self.address} keeps disconnecting: {error}"
                    ) from error
                self.close()
            except JobFailed:
                self.close()  # the next job runs the check again
                raise
            else:
                return client
            time.sleep(RETRY_SECONDS)

    def _client_with_workers(self) -> Client:
        client = self.client()
        if not self.connected():
            raise ClusterAway(
                f"the Dask scheduler at {self.address} has no worker that accepts work. Start workers with "
                f"dask worker {self.address}; give more memory to workers that have paused for lack of it"
            )
        return client

    @property
    def workers(self) -> int:
        """The number of batches that the workers can count concurrently, at least 1."""
        updated, threads = self._threads
        if time.monotonic() - updated > THREADS_CACHE_SECONDS:
            threads = sum(self._connection().nthreads().values())
            self._threads = time.monotonic(), threads
        return max(1, threads)

    @property
    def running(self) -> bool:
        """Whether a client is connected."""
        return self._client is not None

    def connected(self) -> int:
        """Return the number of workers that accept work; workers paused for lack of memory do not."""
        return len(self._accepting_workers())

    def stalled(self) -> bool:
        """Whether no batch is running: all batches wait for a worker, or are assigned to a paused one."""
        processing = self._connection().processing()
        return not any(processing.get(worker) for worker in self._accepting_workers())

    def _accepting_workers(self) -> list[str]:
        workers = self._connection().scheduler_info(n_workers=-1)["workers"]
        return [address for address, worker in workers.items() if worker["status"] == "running"]

    def _connection(self) -> Client:
        """Return the connected client. Raises `OSError` where the scheduler has disconnected."""
        if self._client is None or self._client.status != "running":
            raise ConnectionError(f"the Dask scheduler at {self.address} disconnected")
        client: Client = self._client
        return client

    def abandon(self, futures: Sequence[Any]) -> None:
        """Cancel batches; each worker stops at its next sample, or at the next block of its current one."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.cancel(list(futures))

    def close(self) -> None:
        """Disconnect from the scheduler; the next `client` connects again."""
        client, self._client, self._threads = self._client, None, (0.0, 0)
        if client is not None:
            # Closing fails where the scheduler has died; the connection is gone anyway.
            with contextlib.suppress(Exception):
                client.close(timeout=CLOSE_SECONDS)


def checked_address(address: str, *, allow_insecure: bool = False) -> str:
    """Return the address of a scheduler without a final "/".

    Raises `InvalidParameter` if it is invalid, and for `tcp://` beyond loopback without `allow_insecure`:
    anyone on the network could run code on the workers and, with results that Dask unpickles, in the runner.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        valid = False
    if not valid:
        raise InvalidParameter(
            ("dask", f"{address!r} is not a scheduler address; it must have the form tls://HOST:8786")
        )
    if parts.scheme == "tcp" and not allow_insecure and not _is_loopback(str(parts.hostname)):
        raise InvalidParameter(
            (
                "dask",
                f"{address} is not encrypted, and Dask runs any code that it receives; use tls:// with "
                "certificates (see docs/how-to/run-a-cluster.md), or allow it on a private network with "
                "--allow-insecure-dask",
            )
        )
    return address.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls_advice(address: str) -> str:
    if not address.startswith("tls:"):
        return ""
    return (
        ", and that distributed.comm.tls in Dask's configuration names the certificates "
        "(see docs/how-to/run-a-cluster.md)"
    )
