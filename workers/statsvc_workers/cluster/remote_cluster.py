"""A Dask cluster that somebody else runs: a scheduler at an address, workers on any host."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from statsvc.errors import InvalidParameter, JobFailed
from statsvc_workers.cluster import preflight
from statsvc_workers.cluster.cluster import quiet_dask

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from statsvc_workers.cluster.tasks import CountOptions
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long one try to reach the scheduler, or to ask the workers, may take."""

WAIT_SECONDS = 30.0
"""How long an attempt of a job waits for the scheduler, and then for a worker."""

LOOK_SECONDS = 1.0
"""How old the number of workers may be that batches in flight are measured by."""


class ClusterAway(Exception):
    """No scheduler answers, or it has no worker: the job goes back to the queue and is tried again later."""


class RemoteCluster:
    """The workers of a running scheduler. They may come and go; none of them is started or ended here.

    address  of the scheduler, `tcp://host:8786`, or `tls://host:8786` with the certificates that Dask's
             own configuration names
    """

    task = staticmethod(preflight.count_batch_if_fit)

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        self._client: Any = None
        self._threads: tuple[float, int] = (0.0, 0)

    def client(self) -> Client:
        """Return a client of the scheduler, connected within `ANSWER_SECONDS`.

        Raises `ClusterAway` where no scheduler answers.
        """
        if self._client is not None and self._client.status != "running":
            self.close()  # the scheduler went away while there was nothing to do
        if self._client is None:
            quiet_dask()
            import distributed

            try:
                with warnings.catch_warnings():
                    # Which versions matter, `prepare` says in its own words.
                    warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
                    self._client = distributed.Client(
                        self.address, timeout=ANSWER_SECONDS, name="statsvc", set_as_default=False
                    )
            except Exception as error:
                raise ClusterAway(
                    f"no Dask scheduler answers at {self.address} ({_cause(error)}); is it running, and "
                    f"reached from here?{_tls(self.address)}"
                ) from error
        return self._client

    def prepare(self, reading: CountOptions, sample: str | Member, check: Callable[[], None]) -> Client:
        """Return a client once the scheduler and a worker are there and all of them can count the source.

        Raises `ClusterAway` where nobody comes within `WAIT_SECONDS`, `JobFailed` for what waiting does
        not mend: other versions, a worker that cannot read the source, no CUDA.
        """
        end = time.monotonic() + WAIT_SECONDS
        told = False
        while True:
            check()
            try:
                client = self._with_workers()
                preflight.check(client, self.address, reading, sample)
            except ClusterAway as away:
                if time.monotonic() > end:
                    raise
                if not told:
                    log.warning("%s; waiting", away)
                told = True
            except (OSError, TimeoutError) as error:
                log.info("a worker or the scheduler went away while it was asked: %s", error)
                if time.monotonic() > end:
                    raise ClusterAway(
                        f"the Dask cluster at {self.address} does not stay up: {error}"
                    ) from error
                self.close()
            except JobFailed:
                self.close()  # the next job looks again
                raise
            else:
                return client
            time.sleep(0.2)

    def _with_workers(self) -> Client:
        client = self.client()
        if not self.connected():
            raise ClusterAway(
                f"the Dask scheduler at {self.address} has no worker that takes work; start some: "
                f"dask worker {self.address} (one that pauses for want of memory needs more of it)"
            )
        return client

    @property
    def workers(self) -> int:
        """How many batches the workers can count at once."""
        looked, threads = self._threads
        if time.monotonic() - looked > LOOK_SECONDS:
            threads = sum(self._connection().nthreads().values())
            self._threads = time.monotonic(), threads
        return max(1, threads)

    @property
    def running(self) -> bool:
        """Whether a scheduler has answered, and not gone away since."""
        return self._client is not None

    def connected(self) -> int:
        """Return how many workers take work: those that are paused for want of memory do not."""
        return len(self._taking_work())

    def stalled(self) -> bool:
        """Whether no batch runs: each waits for a worker, or at one that is paused and may stay so."""
        processing = self._connection().processing()
        return not any(processing.get(worker) for worker in self._taking_work())

    def _taking_work(self) -> list[str]:
        workers = self._connection().scheduler_info(n_workers=-1)["workers"]
        return [address for address, worker in workers.items() if worker["status"] == "running"]

    def _connection(self) -> Client:
        """Return the client that batches were sent with. Raises `OSError` where its scheduler is gone."""
        if self._client is None or self._client.status != "running":
            raise ConnectionError(f"the Dask scheduler at {self.address} went away")
        client: Client = self._client
        return client

    def close(self) -> None:
        """Leave the scheduler; the next `client` connects anew."""
        client, self._client, self._threads = self._client, None, (0.0, 0)
        if client is not None:
            # One whose scheduler died cannot say goodbye.
            with contextlib.suppress(Exception):
                client.close(timeout=5)


def checked_address(address: str) -> str:
    """Return a scheduler's address as it is. Raises `InvalidParameter` for another kind of text."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        good = False
    if not good:
        raise InvalidParameter(
            ("dask", f"{address!r} is no scheduler's address; write tcp://HOST:8786 or tls://HOST:8786")
        )
    return address.rstrip("/")


def _cause(error: Exception) -> str:
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(error) or type(error).__name__


def _tls(address: str) -> str:
    if not address.startswith("tls:"):
        return ""
    return " Certificates: distributed.comm.tls in Dask's configuration, see docs/cluster.md"
