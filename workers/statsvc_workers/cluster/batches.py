"""Streaming samples through Dask: batches worth about a second, a bounded number of them in flight."""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

from statsvc_workers.cluster.preflight import Unfit
from statsvc_workers.samples.members import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""What a batch aims at: Dask's own cost of 2–3 ms a task is then lost in it."""

BATCH_FILES = 2048
BATCH_BYTES = 1 << 27
"""Upper bounds of a batch."""

FIRST_BATCH_FILES = 16
"""Files in a batch until the first one tells how long a file takes."""

BATCHES_PER_WORKER = 3
"""Batches in flight for each worker: one runs, the next are there when it ends."""

POLL_SECONDS = 0.02
"""How often a wish to stop is looked for while batches run."""

STALL_SECONDS = 60.0
"""How long nothing may come back while no worker is at it, until the cluster is started anew."""

RESTARTS = 3
"""How often a cluster that breaks down is started anew in one scan."""


class _Sizer:
    """Cuts the next batch so that it takes about `BATCH_SECONDS`, and less towards the end.

    A batch is at most half of a worker's share of what is left, so that all workers end together.
    """

    def __init__(self, paths: Sequence[str | Member], sizes: Sequence[int], workers: int) -> None:
        self._paths, self._sizes, self._next, self._workers = paths, sizes, 0, workers
        self._seconds_per_file: float | None = None

    def learn(self, rows: BatchResult) -> None:
        measured = rows.seconds / max(1, len(rows.path))
        before = self._seconds_per_file
        # A worker's first batch also loads, or compiles, the loops: what is faster is taken at its word.
        self._seconds_per_file = measured if before is None else min(measured, 0.7 * before + 0.3 * measured)

    def cut(self) -> list[str | Member]:
        """Return the next batch, empty at the end."""
        limit = FIRST_BATCH_FILES
        if self._seconds_per_file is not None:
            share = (len(self._paths) - self._next) // (2 * self._workers)
            limit = int(min(BATCH_FILES, BATCH_SECONDS / max(self._seconds_per_file, 1e-6)))
            limit = max(1, min(limit, max(share, FIRST_BATCH_FILES)))
        start, size = self._next, 0
        while self._next < len(self._paths) and self._next - start < limit:
            size += int(self._sizes[self._next])
            if size > BATCH_BYTES and self._next > start:
                break
            self._next += 1
        return list(self._paths[start : self._next])


def stream(
    cluster: Cluster,
    reading: CountOptions,
    paths: Sequence[str | Member],
    sizes: Sequence[int],
    key: str,
    check: Callable[[], None],
) -> Iterator[BatchResult | tuple[str, str]]:
    """Count samples on the cluster; yield the rows of each batch as it ends, in any order.

    A sample whose reading kills its worker process, also with no other beside it, is yielded as
    (path, reason): Dask blames whatever waited at a worker that died, not only what ran.
    `key` must be new for every scan, for Dask takes results for equal keys from memory. `check` is
    called often and may raise to stop.
    """
    sizer: _Sizer | None = None
    serial = itertools.count()
    waiting: list[list[str | Member]] = []
    suspects: list[list[str | Member]] = []
    restarts = 0
    while True:
        client = cluster.prepare(reading, paths[0], check)
        # Not before: how many workers there are is known once they were asked for.
        sizer = sizer or _Sizer(paths, sizes, cluster.workers)
        flying: dict[Any, list[str | Member]] = {}
        alone = False
        try:
            from distributed import KilledWorker, as_completed

            completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
            while True:
                while not alone and len(flying) < BATCHES_PER_WORKER * cluster.workers:
                    batch = waiting.pop() if waiting else sizer.cut()
                    if not batch:
                        if flying or not suspects:
                            break
                        batch, alone = suspects.pop(), True
                    future = client.submit(
                        cluster.task, reading, batch, key=f"count-{key}-{next(serial)}", pure=False
                    )
                    flying[future] = batch
                    completed.add(future)
                if not flying:
                    return
                _wait(completed, cluster, check)
                future, result = next(completed)
                batch = flying.pop(future)
                status = future.status
                future.release()
                tried_alone, alone = alone, False
                if status == "finished":
                    sizer.learn(result)
                    if rest := batch[len(result.path) :]:
                        waiting.append(rest)  # the worker was told to stop between two samples
                    yield result
                elif status != "error":
                    waiting.append(batch)  # cancelled or lost with the scheduler
                    raise ConnectionError(f"a batch came back as {status}")
                elif isinstance(_error(result), Unfit):
                    waiting.append(batch)
                    cluster.prepare(reading, paths[0], check)  # names a worker that joined and is no use
                    raise ConnectionError(_error(result))
                elif not tried_alone:
                    if not isinstance(_error(result), KilledWorker):
                        cluster.prepare(reading, paths[0], check)  # a worker that joined may lack statsvc
                    suspects.extend([path] for path in batch)
                else:
                    yield name_of(batch[0]), _cause(result)
        except (OSError, TimeoutError, StopIteration) as error:
            # Dask's CommClosedError is an OSError: the scheduler is gone, and its client with it.
            waiting.extend(flying.values())
            restarts += 1
            if restarts > RESTARTS:
                raise
            log.warning("the Dask cluster broke down (%s); starting another", error)
            cluster.close()
        finally:
            if flying and cluster.running:
                client.cancel(list(flying))


def _wait(completed: Any, cluster: Cluster, check: Callable[[], None]) -> None:
    """Return when a batch has come back; `TimeoutError` where there is no worker left to send one."""
    quiet_since = time.monotonic()
    while not completed.has_ready():
        check()
        time.sleep(POLL_SECONDS)
        if time.monotonic() - quiet_since > STALL_SECONDS:
            if cluster.stalled():
                raise TimeoutError(f"no worker process took a batch for {STALL_SECONDS:.0f} s")
            quiet_since = time.monotonic()


def _error(result: Any) -> BaseException:
    """Return what a batch ended with: Dask gives it alone, or as `sys.exc_info` does."""
    error: BaseException = result[1] if isinstance(result, tuple) else result
    return error


def _cause(result: Any) -> str:
    """Say why a batch of one sample failed as a whole."""
    from distributed import KilledWorker

    error = _error(result)
    if isinstance(error, KilledWorker):
        return (
            "the worker process that read it was killed, probably for want of memory; "
            "lower --max-pixels to refuse it, or give the workers more memory"
        )
    return f"reading it failed ({type(error).__name__}: {error}); check the file with another program"
