"""Signs of life of a Dask scheduler and its workers; a worker without any is replaced.

A process that is stopped, or whose host is frozen, keeps its connections open. Dask replaces such a worker
after the scheduler's `worker-ttl`, by default five to ten minutes; a runner cannot set it on a scheduler of
others, and nothing in Dask watches the scheduler. So a scan requests the state of the cluster at intervals.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc_workers.processes.processor_time import processor_seconds
from statsvc_workers.processes.stalls import CHECKS, ENDLESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from distributed import Client

log = logging.getLogger(__name__)

RESTART_SECONDS = 15.0
"""How long the scheduler waits for a nanny to end its worker before it removes the worker."""


class SchedulerSilent(TimeoutError):
    """The scheduler has given no sign of life for a stall timeout."""


class _Worker(Struct):
    """What is known of a worker.

    last_seen   time of its last heartbeat by the scheduler's clock
    used        processor time of its process in seconds; 0 if unknown
    no_beat     seconds since its last heartbeat
    silent      seconds since its last heartbeat or use of the processor: a decoder that holds the
                interpreter's lock stops the thread that sends heartbeats
    """

    last_seen: float
    used: float
    no_beat: float = 0.0
    silent: float = 0.0


class Liveness:
    """Watches the scheduler of a client, and its workers, while `step` is called often.

    timeout   stall timeout in seconds
    pids      returns the processes of those workers that run on this machine, by their addresses
    replaced  number of workers that were replaced
    threads   number of threads of all workers; None until the scheduler has answered
    """

    def __init__(
        self, client: Client, timeout: float, pids: Callable[[], Mapping[str, int]] = dict[str, int]
    ) -> None:
        self.replaced = 0
        self.threads: int | None = None
        self._client, self._timeout, self._pids = client, timeout, pids
        self._interval = timeout / CHECKS
        self._answer: Future[Any] | None = None
        self._stepped = time.monotonic()
        self._silent = 0.0  # seconds since the scheduler's last answer
        self._workers: dict[str, _Worker] = {}

    def step(self, report: Callable[[str], None]) -> None:
        """Replace workers without a sign of life, and report each in one sentence.

        Raises `SchedulerSilent`, and `OSError` where the scheduler has disconnected.
        """
        now = time.monotonic()
        # A pause of this process counts as one interval only: the others may have been paused with it.
        self._silent += min(now - self._stepped, self._interval)
        self._stepped = now
        if self._answer is None:
            if self._silent >= self._interval:
                self._answer = self._call(self._client.scheduler.identity, n_workers=-1)
        elif self._answer.done():
            answer, self._answer = self._answer, None
            # While the scheduler is paused, it receives no heartbeat.
            self._observe(answer.result()["workers"], min(self._silent, 2 * self._interval), report)
            self._silent = 0.0
        elif self._silent > self._timeout:
            address = self._client.scheduler.address
            raise SchedulerSilent(f"the scheduler at {address} gave no sign of life for {self._silent:.0f} s")

    def _call(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Send a request to the scheduler, and do not wait for the answer."""
        import asyncio  # 13 ms, and most scans have no scheduler

        async def call() -> Any:
            return await function(**arguments)

        loop = self._client.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(call(), loop)

    def _observe(
        self, workers: Mapping[str, Mapping[str, Any]], passed: float, report: Callable[[str], None]
    ) -> None:
        """Update what is known of the workers, and replace those that are silent.

        passed  seconds since the previous update
        """
        self.threads = sum(worker["nthreads"] for worker in workers.values())
        pids = self._pids()
        known, self._workers = self._workers, {}
        for address, worker in workers.items():
            used = processor_seconds(pids[address]) if address in pids else None
            now = _Worker(worker["last_seen"], used or 0.0)
            before = known.get(address)
            if before is not None and now.last_seen == before.last_seen:
                now.no_beat = before.no_beat + passed
                now.silent = 0.0 if now.used > before.used else before.silent + passed
            self._workers[address] = now
            if now.silent > self._timeout or now.no_beat > ENDLESS * self._timeout:
                if now.silent > self._timeout:
                    symptom = f"gave no sign of life for {now.silent:.0f} s"
                else:
                    symptom = f"did not react for {now.no_beat:.0f} s"
                report(_describe(address, worker, pids.get(address), symptom))
                self._replace(address)
                now.silent = now.no_beat = -RESTART_SECONDS

    def _replace(self, address: str) -> None:
        """Restart a worker through its nanny; one without a nanny is removed from the scheduler.

        The scheduler's `worker-ttl` does the same. Batches of the worker go to other workers, and a late
        result of a removed worker is ignored.
        """
        self.replaced += 1
        self._call(
            self._client.scheduler.restart_workers,
            workers=[address],
            timeout=RESTART_SECONDS,
            wait_for_workers=False,
            on_error="return",
            stimulus_id=f"statsvc-{uuid.uuid4().hex}",
        ).add_done_callback(_log_failure)


def _log_failure(answer: Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        log.info("A worker could not be replaced", exc_info=error)


def _describe(address: str, worker: Mapping[str, Any], pid: int | None, symptom: str) -> str:
    name = f"the Dask worker {address} on {worker['host']}" if pid is None else f"the worker process {pid}"
    end = "was removed, because it has no nanny that restarts it" if not worker["nanny"] else "is restarted"
    return f"{name} {symptom} and {end}; its label maps are counted again by the next free worker"
