"""What runs inside a Dask worker: a batch of samples becomes rows and failures."""

from __future__ import annotations

import errno
import io
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import xxhash

from statsvc.common.object_urls import is_listable, is_url
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster import rules
from statsvc_workers.formats import Mode, open_label_map
from statsvc_workers.kernels.device import Engine
from statsvc_workers.kernels.histogram import TooManyIds
from statsvc_workers.samples import members
from statsvc_workers.samples.members import Member, name_of
from statsvc_workers.samples.open_sample import SampleChanged, opened, reading_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.formats import LabelMap
    from statsvc_workers.kernels.histogram import Counter
    from statsvc_workers.samples.object_store import ReadAhead
    from statsvc_workers.samples.open_sample import Opened

COUNTED, UNREADABLE = 0, 1

ATTEMPTS = 3
"""How often a file that changes while it is read is read again before it is reported."""

RACY_NS = 2_000_000_000
"""A file changed this shortly before it was read may change again within the same time stamp."""

BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class CountOptions:
    """How samples are read.

    root        folder that the samples' paths are relative to
    max_pixels  a larger label map is refused before it is decoded
    device      where pixels are counted: "cpu", "cuda", or "auto", which takes CUDA only where there is
                one and the first batch, counted both ways, was faster there
    counting    what a raw id is
    """

    root: str
    max_pixels: int
    device: str
    counting: Counting = field(default_factory=Counting)


@dataclass(slots=True)
class BatchResult:
    """The rows of one batch: n samples in the order asked for.

    path                      n relative paths
    size, mtime_ns, ctime_ns  int64 [n], fingerprint by `fstat` of the file that was counted; zeros where
                              it could not be opened; `ctime_ns` is −1 where the file had changed less than
                              2 s before, so that it compares unequal and is counted again next time
    etag                      n texts, of the object that was counted; empty for a file, and where `ctime_ns`
                              is −1
    content                   uint64 [n], xxh3 of the bytes; 0 for a failed sample
    height, width, pixels     int64 [n], pixels = height · width = the row's sum; 0 for a failed sample
    mode                      uint8 [n], `statsvc_workers.formats.Mode`
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
    etag: list[str]
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
    member: Member | None = None
    fingerprint: tuple[int, int, int] = (0, 0, 0)
    etag: str = ""
    content: int = 0
    height: int = 0
    width: int = 0
    mode: int = Mode.UNKNOWN
    error: str = ""
    counter: Counter | None = None
    meaning: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    bytes_read: int = 0
    histogram: tuple[NDArray[np.int64], NDArray[np.int64]] = field(
        default_factory=lambda: (np.empty(0, np.int64), np.empty(0, np.int64))
    )


def count_samples(
    reading: CountOptions, paths: Sequence[str | Member], should_stop: Callable[[], bool] | None = None
) -> BatchResult:
    """Read and count these samples, files by their path; what fails is a row that says why.

    `should_stop` is asked before each sample; once true, the rows of the samples before are returned,
    so there are fewer of them than paths.

    Raises nothing but `MemoryError`, `KeyboardInterrupt`, and `InvalidParameter` for device "cuda"
    without a CUDA device.
    """
    started = time.perf_counter()
    engine = Engine(reading.device)
    samples: list[_Sample] = []
    with reading_ahead(reading.root, paths) as ahead:
        for path in paths:
            if should_stop is not None and should_stop():
                break
            sample = _Sample(name_of(path), path if isinstance(path, Member) else None)
            samples.append(sample)
            try:
                _read(reading, sample, engine, ahead)
            except Exception as error:
                if isinstance(error, MemoryError):
                    raise
                many = isinstance(error, TooManyIds) and reading.counting.palette is not None
                sample.error = _explain(rules.too_many_colours() if many else error)
    engine.flush()
    for sample in samples:
        if not sample.error:
            _finish(reading, sample, engine)
    return _rows(samples, time.perf_counter() - started)


def count_batch(reading: CountOptions, paths: Sequence[str | Member]) -> BatchResult:
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


def _read(reading: CountOptions, sample: _Sample, engine: Engine, ahead: ReadAhead | None) -> None:
    """Read one sample into `engine`, again where it changed meanwhile."""
    for _ in range(ATTEMPTS):
        try:
            _read_once(reading, sample, engine, ahead)
        except SampleChanged:
            if ahead is not None:
                ahead.forget(sample.member or sample.path)
            continue
        return
    raise UnreadableSample(f"changed while it was read, {ATTEMPTS} times; scan again when it is complete")


def _read_once(reading: CountOptions, sample: _Sample, engine: Engine, ahead: ReadAhead | None) -> None:
    started = time.time_ns()
    with _opened(reading.root, sample, ahead) as source:
        before = source.stamp()
        sample.fingerprint, sample.etag = before.fingerprint, before.etag
        member = sample.member
        if member is not None and member.listed not in (None, before.fingerprint):
            raise UnreadableSample(f"{member.file} changed after it was listed; {members.AGAIN}")
        failure: Exception | None = None
        sample.counter = engine.counter()
        try:
            _count(reading, sample, source, engine)
        except UnreadableSample as error:
            failure = error
        after = source.stamp()
    if before != after:
        raise SampleChanged(sample.path)
    if failure is not None:
        raise failure
    if before.etag and is_listable(reading.root):
        return  # which tells contents, whatever the clock; a web server makes it of seconds and bytes
    # An mtime far ahead of the clock was set on purpose; a ctime ahead of it is another machine's clock.
    if started - before.ctime_ns < RACY_NS or abs(started - before.mtime_ns) < RACY_NS:
        sample.fingerprint, sample.etag = (before.size, before.mtime_ns, -1), ""


def _opened(root: str, sample: _Sample, ahead: ReadAhead | None) -> Opened:
    member = sample.member
    if ahead is not None:
        return ahead.open(member or sample.path)
    if member is None:
        return opened(root, sample.path)
    return opened(root, member.file, member.files, folder=member.in_folder)


def _count(reading: CountOptions, sample: _Sample, source: Opened, engine: Engine) -> None:
    """Read an open sample into its counter. Raises `UnreadableSample`."""
    assert sample.counter is not None
    member, counting = sample.member, reading.counting
    data = source.file if member is None else members.bytes_of(member, source)
    hashed = _Hashed(data)
    file = cast("BinaryIO", hashed)
    try:
        label_map: LabelMap
        if member is None:
            colours = counting.palette is not None
            label_map = open_label_map(
                sample.path, file, reading.max_pixels, key=counting.key, colours=colours
            )
        else:
            label_map = members.opener(member, source, counting)(file, reading.max_pixels)
        sample.height, sample.width, sample.mode = label_map.height, label_map.width, label_map.mode
        sample.meaning = label_map.meaning
        if label_map.histogram is not None and engine.device != "cuda":
            sample.counter.merge(*label_map.histogram())
        else:
            for chunk in label_map.chunks:
                if data is None:
                    hashed.add(chunk)
                engine.add(sample.counter, chunk)
        sample.content = hashed.finish()
    finally:
        sample.bytes_read += hashed.bytes_read


def _finish(reading: CountOptions, sample: _Sample, engine: Engine) -> None:
    """Take the sample's histogram, by the rule, and check it against its shape."""
    assert sample.counter is not None
    try:
        ids, counts = engine.result(sample.counter)
        if sample.meaning is not None:
            ids, counts = rules.merged(sample.meaning(ids), counts)
        if sample.member is not None and sample.member.kind == "panoptic":
            ids, counts = rules.by_segments(sample.member.where, ids, counts)
        else:
            ids, counts = rules.applied(reading.counting, ids, counts)
    except UnreadableSample as error:
        sample.error = str(error)
        return
    counted = int(counts.sum())
    if counted != sample.height * sample.width:
        sample.error = (
            f"gave {counted} pixels where its header has {sample.width} x {sample.height}; "
            "copy or export it again from where it came"
        )
        return
    sample.histogram = ids, counts


def _explain(error: Exception) -> str:
    """Return what a failure to read means for the person who owns the file."""
    if isinstance(error, UnreadableSample):
        return str(error)
    if (
        isinstance(error, OSError)
        and is_url(str(error.filename))
        and not isinstance(error, FileNotFoundError)
    ):
        return f"cannot be read: {error.strerror}"
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


def _rows(samples: list[_Sample], seconds: float) -> BatchResult:
    good = [not sample.error for sample in samples]
    lengths = [len(sample.histogram[0]) for sample in samples]
    empty = [np.empty(0, np.int64)]

    def column(values: list[int], dtype: type[np.generic] = np.int64) -> NDArray[np.int64]:
        return np.array(values, dtype)

    return BatchResult(
        path=[sample.path for sample in samples],
        size=column([sample.fingerprint[0] for sample in samples]),
        mtime_ns=column([sample.fingerprint[1] for sample in samples]),
        ctime_ns=column([sample.fingerprint[2] for sample in samples]),
        etag=[sample.etag for sample in samples],
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
    """A file that hashes its bytes as they are first read, in whatever order the reader takes them.

    A folder has no bytes of its own (`file` is None): what was decoded is hashed instead.
    """

    def __init__(self, file: BinaryIO | None) -> None:
        self.file: Any = file
        self.hash = xxhash.xxh3_64()
        self.hashed = 0  # bytes from the start that are in the hash
        self.bytes_read = 0

    def read(self, count: int = -1) -> bytes:
        position = self.file.tell()
        data: bytes = self.file.read(count)
        self.bytes_read += len(data)
        if position <= self.hashed < position + len(data):
            self.hash.update(memoryview(data)[self.hashed - position :])
            self.hashed = position + len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place: int = self.file.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self.file.tell()
        return place

    def seekable(self) -> bool:
        return True

    def add(self, chunk: NDArray[Any]) -> None:
        """Hash what a folder's reader decoded."""
        self.hash.update(f"{chunk.dtype.str} {chunk.shape}".encode())
        self.hash.update(np.ascontiguousarray(chunk).view(np.uint8).data)
        self.bytes_read += chunk.nbytes

    def finish(self) -> int:
        """Hash what the reader did not take, and return the digest of the whole file."""
        if self.file is not None:
            self.seek(self.hashed)
            while self.read(BLOCK):
                pass
        return self.hash.intdigest()
