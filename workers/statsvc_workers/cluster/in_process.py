"""Count files immediately, in processes that are forked or in threads, so that small scans start no cluster.

Worker processes exist because decoding a file may crash the process or use up its memory. So only files are
counted here that need nothing but our own loops and libdeflate or zlib-ng, and whose memory is limited in
advance: PNG files that are not interlaced, by their header, and NIfTI volumes, which are streamed. The
cluster counts all other files.

They are counted in processes forked from a template. Without a template, threads of this process count: the
loops release the GIL. Threads wait for each other between the loops, so worker processes start in parallel if
the remaining files would be counted earlier with them, including their start (`worth`), and take over when
they are ready. They also start, and take over, if other files need them.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, BinaryIO

from msgspec.structs import replace

from statsvc.common.plurals import plural
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster.batches import POLL_SECONDS, BatchCutter
from statsvc_workers.cluster.machine import cores
from statsvc_workers.cluster.worth import ThreadRate
from statsvc_workers.formats import extension, nifti, png
from statsvc_workers.processes.forked import call
from statsvc_workers.processes.watched import Marks, Stuck, given_up, watched
from statsvc_workers.samples.open_file import open_file
from statsvc_workers.samples.roots import restricted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.processes.forked import Forked
    from statsvc_workers.samples.members import Member

log = logging.getLogger(__name__)

MAX_DECOMPRESSED_BYTES = 1 << 24
"""Largest decompressed size of one file: 16 MB, a label map of 4096 × 4096."""

STREAMED = frozenset({".nii", ".nii.gz"})
"""Extensions of files that are decompressed and counted in pieces of a few megabytes."""

PIXELS_PER_BYTE = 8
"""Most pixels in a byte of PNG image data."""


class ImmediateCount:
    """Counts those samples that need no cluster.

    remaining  samples that were not counted, each with its size; complete after `results`

    cluster  a cluster that is not running
    samples  samples below `options.root`, a folder of this machine, each with its approximate size in bytes
    check    called often; may raise to stop
    """

    def __init__(
        self,
        cluster: LocalCluster,
        options: CountOptions,
        samples: Sequence[tuple[str | Member, int]],
        check: Callable[[], None],
    ) -> None:
        self._cluster, self._check, self._threads = cluster, check, cluster.threads
        # A file whose read did not return in time while files were listed would block this process again.
        paths = [
            (path, size)
            for path, size in samples
            if isinstance(path, str) and given_up(options.root, path) is None
        ]
        self._options = replace(options, device="cpu")
        self._sizes = {path: size for path, size in paths if extension(path) == ".png"}
        if self._sizes:
            # The limit also applies to a file that is overwritten after its header was checked.
            max_pixels = min(options.max_pixels, PIXELS_PER_BYTE * MAX_DECOMPRESSED_BYTES)
            self._options = replace(self._options, max_pixels=max_pixels)
        elif options.counting.axis is None:  # that rule needs all values of a volume at the same time
            self._sizes = {path: size for path, size in paths if extension(path) in STREAMED}
        self.remaining = [
            (sample, size)
            for sample, size in samples
            if not isinstance(sample, str) or sample not in self._sizes
        ]
        self._cutter = BatchCutter(list(self._sizes), list(self._sizes.values()), self._threads)
        self._template = cluster.template
        self._thread = threading.local()  # its `connection` leads to the process that counts for the thread
        self._decided = False  # whether a decision was logged
        self._ended = threading.Event()
        self._start: threading.Thread | None = None

    def results(self) -> Iterator[BatchResult]:
        """Yield the rows of each batch when it ends, until all is counted or the workers take over."""
        if self._sizes:
            kind = "threads" if self._template is None else "forked processes"
            number = plural(len(self._sizes), "sample")
            log.info("counting %s in up to %d %s, without workers", number, self._threads, kind)
        if self.remaining:
            self._start_workers()
        left = sum(self._sizes.values())
        rate = ThreadRate(self._threads, cores())
        running: set[Future[tuple[BatchResult | None, list[str]]]] = set()
        with ThreadPoolExecutor(self._threads, "counting") as pool:
            try:
                while self._submit(pool, running):
                    done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                    self._check()
                    for future in done:
                        rows, rest = future.result()
                        self._leave(rest)
                        if rows is not None:
                            self._cutter.learn(rows)
                            size = sum(self._sizes[path] for path in rows.path)
                            left -= size
                            rate.add(size, rows.seconds)
                            yield rows
                    if done and self._start is None:
                        self._decide(left, rate)
            finally:
                self._ended.set()  # the threads stop before their next sample
                if self._template is not None:
                    self._template.kill()
        self._leave(self._cutter.rest())

    def close(self) -> None:
        """Wait until workers that are being started have started."""
        if self._start is not None:
            self._start.join()

    def _submit(
        self, pool: ThreadPoolExecutor, running: set[Future[tuple[BatchResult | None, list[str]]]]
    ) -> bool:
        """Keep all threads busy until the workers are ready; return whether a batch is running."""
        while len(running) < self._threads and (self._start is None or self._start.is_alive()):
            if not (batch := self._cutter.cut()):
                break
            running.add(pool.submit(self._count, batch))
        return bool(running)

    def _leave(self, paths: Sequence[str]) -> None:
        self.remaining.extend((path, self._sizes[path]) for path in paths)

    def _decide(self, left: int, rate: ThreadRate) -> None:
        """Start workers if other files need them, or if they would end the scan earlier."""
        estimate = None if self._template is not None else rate.estimate(left)
        worth = estimate is not None and estimate.workers < estimate.threads
        if estimate is not None and (worth or not self._decided):
            self._decided = True
            text = "worker processes are started" if worth else "no worker processes are started"
            log.info("%s: the remaining %.1f MB take %s", text, left / 1e6, estimate)
        if worth or self.remaining:
            self._start_workers()

    def _start_workers(self) -> None:
        def start() -> None:
            # An error is raised again where the cluster is used.
            try:
                self._cluster.client()
            except Exception as error:
                log.debug("the worker processes did not start", exc_info=error)

        self._start = threading.Thread(target=start, name="start of workers")
        self._start.start()

    def _count(self, paths: list[str]) -> tuple[BatchResult | None, list[str]]:
        """Call `count_checked`, in the process that counts for this thread if there is a template."""
        if self._template is None:
            return count_checked(self._options, paths, self._ended.is_set)
        connection: Forked | None = getattr(self._thread, "connection", None)
        if self._ended.is_set():
            return None, paths
        try:
            if connection is None:
                self._template.prepare(load_loops, self._options, paths[0])
                connection = self._template.fork()
                self._thread.connection = connection
            result: tuple[BatchResult | None, list[str]] = call(
                connection, count_checked, self._options, paths, timeout=self._options.stall_timeout
            )
        except (EOFError, OSError) as error:  # the process was killed, for instance for lack of memory
            if isinstance(error, TimeoutError):
                log.warning("%s; a worker counts its label maps", error)
                if connection is not None and not connection.started:
                    self._template.end()  # it hangs, and would delay the next job, too
            elif not self._ended.is_set():
                log.info("a process that counted label maps ended; a worker counts them (%r)", error)
            self._thread.connection = None
            return None, paths
        return result


def load_loops(options: CountOptions, path: str) -> None:
    """Load, or compile, the loop that counts files like this one; processes that are forked then share it."""
    from statsvc_workers.kernels import loops

    try:
        with restricted(options.roots), open_file(options.root, path) as source:
            assert source.file is not None
            if extension(path) in STREAMED:
                loops.prepare_arrays(
                    nifti.counted_type(source.file), on_grid=options.counting.grid is not None
                )
            elif png.is_counted_by_row(source.file, source.stamp().size):
                loops.prepare_rows()
            else:
                loops.prepare_unfilter()
    except Exception as error:  # the file is reported when it is counted
        log.debug("no loop was loaded for %s", path, exc_info=error)


def load_stored_loops() -> None:
    """Load the loops that count the most frequent files, as far as they have been compiled."""
    from statsvc_workers.kernels import loops

    loops.load_stored()


def count_checked(
    options: CountOptions, paths: list[str], should_stop: Callable[[], bool] | None = None
) -> tuple[BatchResult | None, list[str]]:
    """Count those files that need no worker process; return their rows and the other files.

    If a read does not return, or too many files are open, no rows are returned.
    """
    marks = Marks()
    next_sample = marks.next(should_stop or (lambda: False))
    try:
        return watched(lambda: _count_checked(options, paths, next_sample), marks, options.stall_timeout)
    except Stuck as stuck:
        log.warning("A label map in %s %s", options.root, stuck)
        return None, paths


def _count_checked(
    options: CountOptions, paths: list[str], should_stop: Callable[[], bool]
) -> tuple[BatchResult | None, list[str]]:
    from statsvc_workers.cluster.tasks import count_samples

    try:
        rows = count_samples(options, paths, should_stop, admit=_needs_no_worker)
    except OSError:  # too many open files
        return None, paths
    counted = set(rows.path)
    return rows if counted else None, [path for path in paths if path not in counted]


def _needs_no_worker(path: str, file: BinaryIO, size: int) -> bool:
    """Whether an open file is streamed, or its header shows that this project's loops count it."""
    if extension(path) in STREAMED:
        return True
    try:
        needed = png.decompressed_bytes(file, size)
    except UnreadableSample:
        return True  # its header is invalid, so nothing will be decompressed
    file.seek(0)
    return needed is not None and needed <= MAX_DECOMPRESSED_BYTES
