"""What runs inside a Dask worker: a batch of samples becomes rows and failures."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import xxhash

from statsvc.errors import UnreadableSample
from workers.device import Engine
from workers.labelmaps import Mode, open_label_map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from workers.bincount import Counter

COUNTED, UNREADABLE = 0, 1

ATTEMPTS = 3
"""How often a file that changes while it is read is read again before it is reported."""

RACY_NS = 2_000_000_000
"""A file changed this shortly before it was read may change again within the same time stamp."""

BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """How samples are read.

    root        folder that the samples' paths are relative to
    max_pixels  a larger label map is refused before it is decoded
    device      where pixels are counted: "cpu", "cuda", or "auto", which takes CUDA only where there is
                one and the first batch, counted both ways, was faster there
    """

    root: str
    max_pixels: int
    device: str


@dataclass(slots=True)
class Rows:
    """The rows of one batch: n samples in the order asked for.

    path                      n relative paths
    size, mtime_ns, ctime_ns  int64 [n], fingerprint by `fstat` of the file that was counted; zeros where
                              it could not be opened; `ctime_ns` is −1 where the file had changed less than
                              2 s before, so that it compares unequal and is counted again next time
    content                   uint64 [n], xxh3 of the bytes; 0 for a failed sample
    height, width, pixels     int64 [n], pixels = height · width = the row's sum; 0 for a failed sample
    mode                      uint8 [n], `workers.labelmaps.Mode`
    status                    uint8 [n], 0 counted, 1 unreadable
    error                     n texts: why and what to do; empty where counted
    offsets                   int64 [n + 1], sample i has `ids[offsets[i]:offsets[i + 1]]`
    ids, counts               int64 [nnz], raw ids, ascending in each sample, and their pixels
    seconds, bytes_read       what the batch took
    """

    path: list[str]
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    ctime_ns: NDArray[np.int64]
    content: NDArray[np.uint64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    pixels: NDArray[np.int64]
    mode: NDArray[np.uint8]
    status: NDArray[np.uint8]
    error: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    seconds: float
    bytes_read: int


@dataclass(slots=True)
class _Sample:
    """One row in the making."""

    path: str
    fingerprint: tuple[int, int, int] = (0, 0, 0)
    content: int = 0
    height: int = 0
    width: int = 0
    mode: int = Mode.UNKNOWN
    error: str = ""
    counter: Counter | None = None
    bytes_read: int = 0
    histogram: tuple[NDArray[np.int64], NDArray[np.int64]] = field(
        default_factory=lambda: (np.empty(0, np.int64), np.empty(0, np.int64))
    )


class _Changed(Exception):
    """The file changed while it was read."""


def count_samples(
    reading: Reading, paths: Sequence[str], should_stop: Callable[[], bool] | None = None
) -> Rows:
    """Read and count the samples at these paths; what fails is a row that says why.

    `should_stop` is asked before each sample; once true, the rows of the samples before are returned,
    so there are fewer of them than paths.

    Raises nothing but `MemoryError`, `KeyboardInterrupt`, and `InvalidParameter` for device "cuda"
    without a CUDA device.
    """
    started = time.perf_counter()
    engine = Engine(reading.device)
    samples: list[_Sample] = []
    for path in paths:
        if should_stop is not None and should_stop():
            break
        sample = _Sample(path)
        samples.append(sample)
        try:
            _read(reading, sample, engine)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            sample.error = _explain(error)
    engine.flush()
    for sample in samples:
        if not sample.error:
            _finish(sample, engine)
    return _rows(samples, time.perf_counter() - started)


def count_batch(reading: Reading, paths: Sequence[str]) -> Rows:
    """Run `count_samples` as a Dask task that ends before its next sample once it is cancelled.

    Dask does not interrupt a thread: it forgets the task, and so marks it, and lets the thread go on.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return count_samples(reading, paths, cancelled)


def _read(reading: Reading, sample: _Sample, engine: Engine) -> None:
    """Read one sample into `engine`, again where it changed meanwhile."""
    for _ in range(ATTEMPTS):
        try:
            _read_once(reading, sample, engine)
        except _Changed:
            continue
        return
    raise UnreadableSample(f"changed while it was read, {ATTEMPTS} times; scan again when it is complete")


def _read_once(reading: Reading, sample: _Sample, engine: Engine) -> None:
    started = time.time_ns()
    full = os.path.join(reading.root, sample.path)  # noqa: PTH118 - a million of them
    with open(full, "rb", opener=_open_nonblocking) as file:
        before = os.fstat(file.fileno())
        sample.fingerprint = (before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableSample("is a device or pipe, not a file; leave it out with --pattern")
        hashed = _Hashed(file)
        failure: Exception | None = None
        sample.counter = engine.counter()
        try:
            label_map = open_label_map(sample.path, cast("BinaryIO", hashed), reading.max_pixels)
            sample.height, sample.width, sample.mode = label_map.height, label_map.width, label_map.mode
            if label_map.histogram is not None and engine.device != "cuda":
                sample.counter.merge(*label_map.histogram())
            else:
                for chunk in label_map.chunks:
                    engine.add(sample.counter, chunk)
            sample.content = hashed.finish()
        except UnreadableSample as error:
            failure = error
        sample.bytes_read += hashed.bytes_read
        after = os.fstat(file.fileno())
    if _identity(before) != _identity(after):
        raise _Changed
    if failure is not None:
        raise failure
    # An mtime far ahead of the clock was set on purpose; a ctime ahead of it is another machine's clock.
    if started - before.st_ctime_ns < RACY_NS or abs(started - before.st_mtime_ns) < RACY_NS:
        sample.fingerprint = (before.st_size, before.st_mtime_ns, -1)


def _finish(sample: _Sample, engine: Engine) -> None:
    """Take the sample's histogram and check it against its shape."""
    assert sample.counter is not None
    try:
        histogram = engine.result(sample.counter)
    except UnreadableSample as error:
        sample.error = str(error)
        return
    counted = int(histogram[1].sum())
    if counted != sample.height * sample.width:
        sample.error = (
            f"gave {counted} pixels where its header has {sample.width} x {sample.height}; "
            "copy or export it again from where it came"
        )
        return
    sample.histogram = histogram


def _open_nonblocking(path: str, flags: int) -> int:
    # A pipe that took a sample's place would otherwise be waited for without end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _explain(error: Exception) -> str:
    """Return what a failure to read means for the person who owns the file."""
    if isinstance(error, UnreadableSample):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "vanished during the scan; scan again when the folder is at rest"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file; leave it out with --pattern"
    if isinstance(error, PermissionError):
        return "cannot be opened: permission denied; make it readable (chmod +r) or scan as its owner"
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE, errno.ENOTCONN):
        return f"cannot be read: {error.strerror}; check the disk or network share, then scan again"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}; check the file, then scan again"
    return f"cannot be counted ({type(error).__name__}: {error}); please report it with the file"


def _rows(samples: list[_Sample], seconds: float) -> Rows:
    good = [not sample.error for sample in samples]
    lengths = [len(sample.histogram[0]) for sample in samples]
    empty = [np.empty(0, np.int64)]

    def column(values: list[int], dtype: type[np.generic] = np.int64) -> NDArray[np.int64]:
        return np.array(values, dtype)

    return Rows(
        path=[sample.path for sample in samples],
        size=column([sample.fingerprint[0] for sample in samples]),
        mtime_ns=column([sample.fingerprint[1] for sample in samples]),
        ctime_ns=column([sample.fingerprint[2] for sample in samples]),
        content=np.array([s.content * ok for s, ok in zip(samples, good, strict=True)], np.uint64),
        height=column([s.height * ok for s, ok in zip(samples, good, strict=True)]),
        width=column([s.width * ok for s, ok in zip(samples, good, strict=True)]),
        pixels=column([s.height * s.width * ok for s, ok in zip(samples, good, strict=True)]),
        mode=np.array([s.mode * ok for s, ok in zip(samples, good, strict=True)], np.uint8),
        status=np.array([COUNTED if ok else UNREADABLE for ok in good], np.uint8),
        error=[sample.error for sample in samples],
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        ids=np.concatenate(empty + [sample.histogram[0] for sample in samples]),
        counts=np.concatenate(empty + [sample.histogram[1] for sample in samples]),
        seconds=seconds,
        bytes_read=sum(sample.bytes_read for sample in samples),
    )


class _Hashed:
    """A file that hashes its bytes as they are first read, in whatever order the reader takes them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = xxhash.xxh3_64()
        self.hashed = 0  # bytes from the start that are in the hash
        self.bytes_read = 0

    def read(self, count: int = -1) -> bytes:
        position = self.file.tell()
        data = self.file.read(count)
        self.bytes_read += len(data)
        if position <= self.hashed < position + len(data):
            self.hash.update(memoryview(data)[self.hashed - position :])
            self.hashed = position + len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def finish(self) -> int:
        """Hash what the reader did not take, and return the digest of the whole file."""
        self.seek(self.hashed)
        while self.read(BLOCK):
            pass
        return self.hash.intdigest()
