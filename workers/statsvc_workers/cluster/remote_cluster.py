"""A Dask cluster that is already running: a scheduler at an address, with workers on any host."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from statsvc.errors import InvalidParameter, JobFailed
from statsvc_workers.cluster import preflight
from statsvc_workers.cluster.away import ClusterAway, root_cause
from statsvc_workers.cluster.dask_settings import quiet_dask
from statsvc_workers.cluster.liveness import Liveness
from statsvc_workers.processes.stalls import BLOCKED, STALL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client

    from statsvc_workers.cluster.tasks import CountOptions
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""Timeout of one attempt to connect to the scheduler, and of a request for its state."""

WAIT_SECONDS = 30.0
"""How long an attempt of a job waits for the scheduler and a worker."""

RETRY_SECONDS = 0.2
"""Pause between attempts to connect."""

POLL_SECONDS = 0.02
"""Interval at which a preflight check is polled that runs in a thread."""

CALL_SECONDS = 5.0
"""Time that a call of the scheduler has in addition to the stall timeout or the check of a worker."""

CLOSE_SECONDS = 5


class RemoteCluster:
    """The workers of a running scheduler. They may join and leave; this class never starts or ends them.

    address         address of the scheduler: `tls://host:8786` with the certificates of Dask's configuration,
                    or `tcp://127.0.0.1:8786`
    allow_insecure  whether `tcp://` is accepted beyond loopback
    stall_timeout   seconds after which a worker, or the scheduler, counts as hung without a sign of life
    """

    task = staticmethod(preflight.check_and_count_batch)

    def __init__(
        self, address: str, *, allow_insecure: bool = False, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        self.address = checked_address(address, allow_insecure=allow_insecure)
        self._stall_timeout = stall_timeout
        self._client: Any = None
        self._liveness: Any = None

    def client(self) -> Client:
        """Return a client of the scheduler, connected within `CONNECT_SECONDS`.

        Raises `ClusterAway` where no scheduler answers.
        """
        if self._client is not None and self._client.status != "running":
            self.close()  # the scheduler ended while no batch was running
        if self._client is None:
            quiet_dask()
            import distributed

            from statsvc_workers.cluster.timed_client import TimedClient

            try:
                with warnings.catch_warnings():
                    # The preflight check reports the versions that matter.
                    warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
                    self._client = TimedClient(
                        self.address,
                        timeout=CONNECT_SECONDS,
                        name="statsvc",
                        set_as_default=False,
                        limit=CALL_SECONDS + max(self._stall_timeout, preflight.CHECK_SECONDS),
                    )
            except Exception as error:
                raise self._no_scheduler(error) from error
            self._liveness = Liveness(self._client, self._stall_timeout)
        client: Client = self._client
        return client

    def prepare(
        self,
        options: CountOptions,
        sample: str | Member,
        check: Callable[[], None],
        report: Callable[[str], None],
    ) -> Client:
        """Return a client once a scheduler and a worker exist and all workers pass the preflight check.

        Raises `ClusterAway` after `WAIT_SECONDS` without scheduler or worker, and `JobFailed` for a problem
        that waiting does not solve: different versions, a worker that cannot read the source, no CUDA device.
        """
        end = time.monotonic() + WAIT_SECONDS
        warned = False
        while True:
            check()
            replaced = 0 if self._liveness is None else self._liveness.replaced
            try:
                client = self._client_with_workers()
                self._preflight(client, options, sample, check, report)
            except ClusterAway as away:
                if time.monotonic() > end:
                    raise
                if not warned:
                    log.warning("%s. Waiting for it", away)
                warned = True
            except (OSError, TimeoutError) as error:
                log.info("A worker or the scheduler disconnected during the preflight check: %s", error)
                if self._liveness is not None and self._liveness.replaced > replaced:
                    end = time.monotonic() + WAIT_SECONDS  # the next check is without the worker that hung
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

    def _preflight(
        self,
        client: Client,
        options: CountOptions,
        sample: str | Member,
        check: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """Check all workers, and replace those that give no sign of life.

        Raises as `preflight.check` does, and `ClusterAway` where this host does not read the source in time.
        """
        pool = ThreadPoolExecutor(1, "preflight")
        try:
            checking = pool.submit(preflight.check, client, self.address, options, sample)
            limit = BLOCKED * self._stall_timeout
            end = time.monotonic() + limit
            while not checking.done():
                check()
                self.check_alive(report)
                if time.monotonic() > end:
                    raise ClusterAway(
                        f"the workers could not be checked within {limit:.0f} s; check whether this host can "
                        f"read {options.root}"
                    )
                time.sleep(POLL_SECONDS)
            checking.result()
        finally:
            pool.shutdown(wait=False)

    def check_alive(self, report: Callable[[str], None]) -> None:
        """Replace workers without a sign of life; called often while batches run.

        Raises `TimeoutError` or `OSError` where the scheduler gives none.
        """
        self._connection()
        self._liveness.step(report)

    def _no_scheduler(self, error: Exception) -> ClusterAway:
        return ClusterAway(
            f"no Dask scheduler answers at {self.address} ({root_cause(error)}); check that it is "
            f"running and reachable from this host{_tls_advice(self.address)}"
        )

    def _client_with_workers(self) -> Client:
        client = self.client()
        try:
            connected = self.connected()
        except TimeoutError as error:
            self.close()  # the scheduler hung while no batch was running
            raise self._no_scheduler(error) from error
        if not connected:
            raise ClusterAway(
                f"the Dask scheduler at {self.address} has no worker that accepts work. Start workers with "
                f"dask worker {self.address}; give more memory to workers that have paused for lack of it"
            )
        return client

    @property
    def workers(self) -> int:
        """The number of batches that the workers can count concurrently, at least 1."""
        threads: int | None = None if self._liveness is None else self._liveness.threads
        return max(1, sum(self._connection().nthreads().values()) if threads is None else threads)

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
        client = self._connection()
        state = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=CONNECT_SECONDS)
        workers = state["workers"]
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
        client, self._client, self._liveness = self._client, None, None
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
