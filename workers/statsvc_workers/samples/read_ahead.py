"""Samples of an object store, read ahead with many requests in flight; all bytes come from one ETag.

A small object takes one GET. A large object, or a container, is read in ranges.
"""

from __future__ import annotations

import errno
import io
import os
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from statsvc.common import object_urls
from statsvc.errors import UnreadableSample
from statsvc_workers.samples.members import sample_name
from statsvc_workers.samples.object_reader import IN_FLIGHT, WHOLE_BYTES
from statsvc_workers.samples.object_store import bucket, combined_objects
from statsvc_workers.samples.open_file import OpenSample
from statsvc_workers.samples.stamps import SampleChanged, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from statsvc_workers.samples.members import Member
    from statsvc_workers.samples.object_reader import ObjectReader

WAITING_SAMPLES = 2 * IN_FLIGHT
WAITING_BYTES = 1 << 26
"""Limits of what is read ahead of the sample being counted; requests in flight come on top."""

LEAST_RANGE, MOST_RANGE = 1 << 18, 1 << 22
"""Bytes of a range request: the minimum after a seek, doubled by every sequential read up to the maximum."""

RANGES_CACHED = 4
"""Most recent ranges of an object that stay in memory."""


class ObjectRanges:
    """The bytes of one object, read in ranges that all have the same ETag; the latest ranges are cached."""

    def __init__(
        self, source: ObjectReader, path: str, stamp: Stamp, start: int = 0, data: bytes = b""
    ) -> None:
        self.source, self.path, self.stamp = source, path, stamp
        self.failure: OSError | None = None
        self.first_bytes = len(data)
        self._cached: OrderedDict[int, bytes] = OrderedDict({start: data})
        self._next, self._length = -1, LEAST_RANGE

    def read(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes; none only at the end of the object.

        Raises `OSError`, and stores it as `failure`.
        """
        if position >= self.stamp.size or count <= 0:
            return b""
        for start, data in self._cached.items():
            if start <= position < start + len(data):
                self._cached.move_to_end(start)
                return data[position - start : position - start + count]
        self._length = min(MOST_RANGE, 2 * self._length) if position == self._next else LEAST_RANGE
        stop = min(self.stamp.size, position + max(self._length, min(count, MOST_RANGE)))
        try:
            stamp, data = self.source.get(self.path, position, stop, self.stamp.etag)
            if stamp != self.stamp or len(data) != stop - position:
                raise SampleChanged(self.path)
        except OSError as error:
            self.failure = error
            raise
        self._next = stop
        self._cached[position] = data
        if len(self._cached) > RANGES_CACHED:
            self._cached.popitem(last=False)
        return data[:count]


class RemoteFile(io.RawIOBase):
    """An object presented as a seekable file."""

    def __init__(self, ranges: ObjectRanges) -> None:
        super().__init__()
        self.ranges, self._position = ranges, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the object."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the object and return it; sends no request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.ranges.stamp.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        """Return the next `count` bytes, fewer only at the end; all remaining bytes by default."""
        remaining = max(0, self.ranges.stamp.size - self._position)
        missing = remaining if count is None or count < 0 else min(count, remaining)
        pieces = []
        while missing:
            data = self.ranges.read(self._position, missing)
            pieces.append(data)
            self._position += len(data)
            missing -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, completely except at the end of the object; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class OpenObject(OpenSample):
    """An open object or, without `ranges`, a folder of objects; its `path` is a URL."""

    __slots__ = ("_ahead", "_first_stamp", "_name", "_ranges")

    def __init__(
        self,
        ahead: ReadAhead,
        name: str,
        files: tuple[str, ...],
        ranges: ObjectRanges | None,
        first_stamp: Stamp | None,
    ) -> None:
        file = None if ranges is None else RemoteFile(ranges)
        super().__init__(object_urls.join(ahead.source.root, name), cast("Any", file), files)
        self._ahead, self._name, self._ranges, self._first_stamp = ahead, name, ranges, first_stamp

    def stamp(self) -> Stamp:
        """Return the stamp of the bytes that were read; for a folder, its current stamp. Raises `OSError`."""
        if self._ranges is None:
            first_stamp, self._first_stamp = self._first_stamp, None
            return first_stamp or self._ahead.folder_stamp(self._name, self.files)
        if self._ranges.failure is not None:
            # Report the failed request, not the decoder's error about the bytes that did not arrive.
            raise self._ranges.failure
        own_stamp = (self._name, self._ranges.stamp)
        return combined_objects([own_stamp, *((file, self._ahead.shared_stamp(file)) for file in self.files)])


class ReadAhead:
    """The samples of one batch, read ahead in their order while earlier samples are counted."""

    def __init__(self, root: str, samples: Sequence[str | Member]) -> None:
        self.source = bucket(root)
        self._unrequested: Iterator[str | Member] = iter(samples)
        self._waiting: dict[str, Future[Any]] = {}
        self._waiting_bytes, self._arrived = 0, deque[int]()
        self._shared: dict[str, ObjectRanges] = {}
        self._pool = ThreadPoolExecutor(IN_FLIGHT, "statsvc-read")

    def __enter__(self) -> ReadAhead:
        self._submit_requests()
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def open(self, sample: str | Member) -> OpenObject:
        """Open a sample.

        Raises `OSError`, and `UnreadableSample` where its container was replaced after the listing.
        """
        file, files = _files_of(sample)
        future = self._waiting.pop(sample_name(sample), None)
        response = self._request(sample)() if future is None else future.result()
        if future is not None and isinstance(response, ObjectRanges):
            self._waiting_bytes -= response.first_bytes
        self._submit_requests()
        if isinstance(response, Stamp):
            return OpenObject(self, file, files, None, response)
        ranges = response or self._shared_ranges(file)
        ranges.failure = None  # of an earlier sample in the same file
        if not isinstance(sample, str) and sample.etag:
            container = self.shared_stamp(files[0]) if sample.kind == "panoptic" else ranges.stamp
            if container.etag != sample.etag:
                raise UnreadableSample("is in a file that was replaced after it was listed; scan again")
        return OpenObject(self, file, files, ranges, None)

    def forget(self, sample: str | Member) -> None:
        """Discard what is cached of a sample's files, so that the next `open` requests them again."""
        file, files = _files_of(sample)
        for name in (file, *files):
            self._shared.pop(name, None)

    def shared_stamp(self, path: str) -> Stamp:
        """Return the stamp that an object shared by several samples had when this batch first read it."""
        return self._shared_ranges(path).stamp

    def folder_stamp(self, path: str, files: Sequence[str]) -> Stamp:
        """Return the current stamp of a folder or, where `files` is not empty, of those that exist."""
        stamps = self.source.heads(files) if files else list(self.source.list(path))
        if not stamps:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return combined_objects(stamps)

    def _shared_ranges(self, path: str) -> ObjectRanges:
        if path not in self._shared:
            self._shared[path] = ObjectRanges(self.source, path, self.source.head(path))
        return self._shared[path]

    def _submit_requests(self) -> None:
        while self._arrived:
            self._waiting_bytes += self._arrived.popleft()
        while len(self._waiting) < WAITING_SAMPLES and self._waiting_bytes < WAITING_BYTES:
            sample = next(self._unrequested, None)
            if sample is None:
                return
            future = self._pool.submit(copy_context().run, self._request(sample))
            future.add_done_callback(self._record_arrival)
            self._waiting[sample_name(sample)] = future

    def _record_arrival(self, future: Future[Any]) -> None:
        # Runs in a pool thread: the deque passes the number of bytes to the counting thread.
        response = None if future.cancelled() or future.exception() else future.result()
        if isinstance(response, ObjectRanges):
            self._arrived.append(response.first_bytes)

    def _request(self, sample: str | Member) -> Callable[[], ObjectRanges | Stamp | None]:
        """Return the function that requests a sample.

        It returns the bytes, or the stamp of a folder, or None for a sample that shares its file with others.
        """
        if isinstance(sample, str) or sample.kind == "panoptic":
            file, _ = _files_of(sample)
            return lambda: self._ranges(file)
        if sample.in_folder:
            return lambda: self.folder_stamp(sample.file, sample.files)
        if sample.kind in ("range", "npy part") and 0 < sample.where[1] <= WHOLE_BYTES:
            start, stop = sample.where[0], sample.where[0] + sample.where[1]
            return lambda: self._ranges(sample.file, start, stop)
        return lambda: None

    def _ranges(self, path: str, start: int = 0, stop: int | None = None) -> ObjectRanges:
        stamp, data = self.source.get(path, start, stop)
        return ObjectRanges(self.source, path, stamp, start, data)


def _files_of(sample: str | Member) -> tuple[str, tuple[str, ...]]:
    """Return the file that contains a sample, and the further files of its fingerprint."""
    return (sample, ()) if isinstance(sample, str) else (sample.file, sample.files)
