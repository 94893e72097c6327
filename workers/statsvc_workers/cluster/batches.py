"""Stream samples through Dask: batches of about one second, with a bounded number of batches in flight."""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from statsvc.errors import JobFailed
from statsvc_workers.cluster.batch_task import SampleStuck
from statsvc_workers.cluster.preflight import PreflightFailed
from statsvc_workers.processes.stalls import NO_WORKER
from statsvc_workers.samples.members import sample_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

    Batch: TypeAlias = list[str | Member]

log = logging.getLogger(__name__)

AnySample = TypeVar("AnySample")

BATCH_SECONDS = 1.0
"""Target duration of a batch, which makes Dask's overhead of 2 to 3 ms per task negligible."""

BATCH_FILES = 2048
BATCH_BYTES = 1 << 27
"""Upper limits of a batch."""

FIRST_BATCH_FILES = 16
"""Files in a batch until the first result shows how long a file takes."""

NEWEST_WEIGHT = 0.3
"""Weight of the newest batch in the moving average of seconds per file."""

LEAST_BYTES = 1 << 20
"""Files of fewer bytes are not divided among workers: they take milliseconds."""

LEAST_SECONDS_PER_FILE = 1e-6

BATCHES_PER_WORKER = 3
"""Batches in flight per worker: one is running, the others start when it ends."""

POLL_SECONDS = 0.02
"""Interval at which `check` is called while batches run."""

MOST_STUCK = 10
"""Samples of one call that are given up before the disk or network share is considered unavailable."""

RESTARTS = 3
"""How often one scan restarts a failed cluster."""


class BatchCutter(Generic[AnySample]):
    """Cuts batches that take about `BATCH_SECONDS`, and shorter ones towards the end.

    A batch is at most half of a worker's share of the remaining samples, so that all workers finish together,
    except for small files.
    """

    def __init__(self, paths: Sequence[AnySample], sizes: Sequence[int], workers: int) -> None:
        self._paths, self._sizes, self._next, self._workers = paths, sizes, 0, workers
        self._seconds_per_file: float | None = None

    def learn(self, rows: BatchResult) -> None:
        """Update the estimate of seconds per file."""
        measured = rows.seconds / max(1, len(rows.path))
        previous = self._seconds_per_file
        if previous is None:
            self._seconds_per_file = measured
        else:
            # A worker's first batch also loads, or compiles, the loops, so a faster batch counts fully.
            average = (1 - NEWEST_WEIGHT) * previous + NEWEST_WEIGHT * measured
            self._seconds_per_file = min(measured, average)

    def rest(self) -> Sequence[AnySample]:
        """Return the samples that are in no batch yet."""
        return self._paths[self._next :]

    def cut(self) -> list[AnySample]:
        """Return the next batch, or an empty one at the end."""
        share = max(1, (len(self._paths) - self._next) // (2 * self._workers))
        limit = FIRST_BATCH_FILES
        if self._seconds_per_file is not None:
            seconds_per_file = max(self._seconds_per_file, LEAST_SECONDS_PER_FILE)
            limit = int(min(BATCH_FILES, BATCH_SECONDS / seconds_per_file))
            limit = max(1, min(limit, max(share, FIRST_BATCH_FILES)))
        start, size = self._next, 0
        while self._next < len(self._paths) and self._next - start < limit:
            if self._next - start >= share and size >= LEAST_BYTES:
                break
            size += int(self._sizes[self._next])
            if size > BATCH_BYTES and self._next > start:
                break
            self._next += 1
        return list(self._paths[start : self._next])


def stream(
    cluster: Cluster,
    options: CountOptions,
    paths: Sequence[str | Member],
    sizes: Sequence[int],
    key: str,
    check: Callable[[], None],
    report: Callable[[str], None],
) -> Iterator[BatchResult | tuple[str, str]]:
    """Count samples on the cluster; yield the rows of each batch when it ends, in any order.

    A sample that cannot be read in time, or that kills its worker process even without other samples in its
    batch, is yielded as (path, error). (Dask reports every task that was assigned to a killed worker, not
    only the running one.)

    paths   at least one sample
    sizes   approximate bytes of each sample
    key     unique for each call, because Dask reuses results of equal keys
    check   called often; may raise to stop
    report  called with a sentence where a part of the cluster failed and was replaced

    Raises `JobFailed` after `MOST_STUCK` samples that cannot be read in time, and `ClusterAway`.
    """
    scan: _Scan | None = None
    restarts = 0
    while True:
        client = cluster.prepare(options, paths[0], check, report)
        # Created after `prepare`, because the number of workers is unknown before.
        scan = scan or _Scan(
            cluster, options, BatchCutter(paths, sizes, cluster.workers), paths[0], key, check, report
        )
        in_flight: dict[Any, Batch] = {}
        try:
            yield from scan.results(client, in_flight)
        except (OSError, TimeoutError) as error:
            # Dask's CommClosedError is an OSError: the scheduler has died, so its client is useless.
            scan.waiting.extend(in_flight.values())
            restarts += 1
            if restarts > RESTARTS:
                raise
            report(f"the Dask cluster failed ({error}); trying to connect again")
            cluster.close()
        else:
            return
        finally:
            if in_flight and cluster.running:
                cluster.abandon(list(in_flight))


class _Scan:
    """The batches of one call of `stream` that are not counted yet.

    waiting   batches that have to be submitted again
    suspects  batches of one sample, cut from batches that failed; each runs without any other batch, so
              that a failure identifies its sample
    """

    def __init__(
        self,
        cluster: Cluster,
        options: CountOptions,
        sizer: BatchCutter[str | Member],
        first_sample: str | Member,
        key: str,
        check: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.waiting: list[Batch] = []
        self.suspects: list[Batch] = []
        self._cluster, self._options, self._sizer, self._check = cluster, options, sizer, check
        self._report, self._stuck = report, 0
        self._first_sample, self._key, self._serial = first_sample, key, itertools.count()
        self._alone = False  # whether the only batch in flight is a suspect

    def results(self, client: Any, in_flight: dict[Any, Batch]) -> Iterator[BatchResult | tuple[str, str]]:
        """Yield results until all batches are counted; `in_flight` is updated to future → batch.

        Raises `OSError` or `TimeoutError` where the cluster failed.
        """
        from distributed import as_completed

        self._alone = False
        completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        while True:
            self._submit(client, completed, in_flight)
            if not in_flight:
                return
            self._wait(completed)
            try:
                future, result = next(completed)
            except StopIteration:
                raise ConnectionError("Dask returned no result") from None
            batch = in_flight.pop(future)
            status = future.status
            future.release()
            was_alone, self._alone = self._alone, False
            if status == "finished":
                self._sizer.learn(result)
                if remaining := batch[len(result.path) :]:
                    self.waiting.append(remaining)  # the task was cancelled between two samples
                yield result
            elif status == "error":
                failed_sample = self._handle_error(batch, _error(result), was_alone=was_alone)
                if failed_sample is not None:
                    yield failed_sample
            else:
                self.waiting.append(batch)  # cancelled, or lost with the scheduler
                raise ConnectionError(f"a batch came back with the status {status}")

    def _wait(self, completed: Any) -> None:
        """Wait for a result. Raises `TimeoutError` where no worker is left to produce one."""
        timeout = NO_WORKER * self._options.stall_timeout
        quiet_since = time.monotonic()
        self._cluster.check_alive(self._report)
        while not completed.has_ready():
            self._check()
            self._cluster.check_alive(self._report)
            time.sleep(POLL_SECONDS)
            if time.monotonic() - quiet_since > timeout:
                if self._cluster.stalled():
                    raise TimeoutError(f"no worker process accepted a batch for {timeout:.0f} s")
                quiet_since = time.monotonic()

    def _submit(self, client: Any, completed: Any, in_flight: dict[Any, Batch]) -> None:
        """Submit batches up to the limit; a suspect only if nothing else is left to run."""
        while not self._alone and len(in_flight) < BATCHES_PER_WORKER * self._cluster.workers:
            batch = self.waiting.pop() if self.waiting else self._sizer.cut()
            if not batch:
                if in_flight or not self.suspects:
                    break
                batch, self._alone = self.suspects.pop(), True
            task_key = f"count-{self._key}-{next(self._serial)}"
            future = client.submit(self._cluster.task, self._options, batch, key=task_key, pure=False)
            in_flight[future] = batch
            completed.add(future)

    def _handle_error(self, batch: Batch, error: BaseException, *, was_alone: bool) -> tuple[str, str] | None:
        """Queue the samples of a failed batch again, or return the sample that caused it: (path, error)."""
        from distributed import KilledWorker

        if isinstance(error, PreflightFailed):
            self.waiting.append(batch)
            self._prepare()  # raises `JobFailed` with the name of the worker, if it is still connected
            raise ConnectionError(error)
        if isinstance(error, SampleStuck):
            return self._give_up(batch, *error.args)
        if was_alone:
            return sample_name(batch[0]), _describe_failure(error)
        # Before `prepare`, which raises where a worker disconnects: no sample must be lost then.
        self.suspects.extend([sample] for sample in batch)
        if not isinstance(error, KilledWorker):
            self._prepare()  # a worker that has joined may lack statsvc
        return None

    def _give_up(self, batch: Batch, path: str, reason: str) -> tuple[str, str]:
        """Queue the other samples of a batch again; return the sample that cannot be read: (path, error)."""
        if rest := [sample for sample in batch if sample_name(sample) != path]:
            self.waiting.append(rest)
        self._stuck += 1
        if self._stuck >= MOST_STUCK:
            raise JobFailed(
                f"{self._stuck} label maps could not be read in time, the last one is {path}; check the disk "
                f"or network share of {self._options.root}, then scan again"
            )
        return path, reason

    def _prepare(self) -> None:
        self._cluster.prepare(self._options, self._first_sample, self._check, self._report)


def _error(result: Any) -> BaseException:
    """Return the exception of a failed batch; Dask returns it alone, or in the form of `sys.exc_info`."""
    error: BaseException = result[1] if isinstance(result, tuple) else result
    return error


def _describe_failure(error: BaseException) -> str:
    """Return why a batch of one sample failed, and what to do next."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            "the worker process that read it was killed, probably because it ran out of memory; lower "
            "--max-pixels to reject the file, or give the workers more memory"
        )
    return f"reading it failed ({type(error).__name__}: {error}); check the file with another program"
