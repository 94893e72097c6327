"""Samples in an object store: read ahead with many requests in flight, every byte of one ETag.

A small object takes one GET. Of a large one, and of a container, ranges are read, each with If-Match, so
that an object that is replaced meanwhile is noticed as a file that changes is.
"""

from __future__ import annotations

import errno
import io
import os
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import xxhash

from statsvc.common import object_urls
from statsvc.errors import UnreadableSample
from statsvc_workers.samples.open_sample import Opened, SampleChanged, Stamp, combined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from statsvc_workers.samples.members import Member

IN_FLIGHT = 32
"""Requests at a time of one batch."""

WAITING_SAMPLES = 2 * IN_FLIGHT
WAITING_BYTES = 1 << 26
"""Most that is read ahead of the sample that is counted; what is in flight comes on top."""

WHOLE_BYTES = 1 << 22
"""A larger object is read by ranges."""

LEAST_RANGE, MOST_RANGE = 1 << 18, 1 << 22
"""Bytes of a range: the least where a reader jumps, twice as many each time that it goes on."""

RANGES_KEPT = 4


class Unreachable(OSError):
    """A request failed, also when tried again; `strerror` is one line with the URL and the next step."""


class Bucket:
    """Everything below a URL."""

    def __init__(self, root: str) -> None:
        self.root, self.store = root, object_urls.open_prefix(root)

    def get(self, path: str, start: int = 0, stop: int | None = None, etag: str = "") -> tuple[Stamp, bytes]:
        """Return the stamp and bytes of an object, from `start` to `stop`; without `stop` all of them.

        An object over `WHOLE_BYTES` is not read as a whole: its bytes are then empty. With `etag`, it must
        have that one still: raises `SampleChanged`, else `FileNotFoundError`, `Unreachable`.
        """
        import obstore

        options: dict[str, Any] = {} if stop is None else {"range": (start, stop)}
        if etag and not etag.startswith("W/"):  # which If-Match never matches
            options["if_match"] = etag
        try:
            result = obstore.get(self.store, path, options=cast("Any", options))
            stamp = stamp_of(result.meta)
            if etag and stamp.etag != etag:
                raise SampleChanged(path)
            whole = stop is None and stamp.size > WHOLE_BYTES
            return stamp, b"" if whole else result.bytes().to_bytes()
        except obstore.exceptions.PreconditionError as error:
            raise SampleChanged(path) from error
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self.failed(error, path) from error

    def head(self, path: str) -> Stamp:
        """Return the stamp of an object. Raises `FileNotFoundError`, `Unreachable`."""
        import obstore

        try:
            return stamp_of(obstore.head(self.store, path))
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self.failed(error, path) from error

    def heads(self, paths: Sequence[str]) -> list[tuple[str, Stamp]]:
        """Return those of some objects that are there. Raises `Unreachable`."""

        def found(path: str) -> Stamp | None:
            try:
                return self.head(path)
            except FileNotFoundError:
                return None

        if len(paths) == 1:
            stamps: Iterable[Stamp | None] = [found(paths[0])]
        else:
            with ThreadPoolExecutor(IN_FLIGHT, "statsvc-head") as pool:
                stamps = list(pool.map(found, paths))
        return [(path, stamp) for path, stamp in zip(paths, stamps, strict=True) if stamp is not None]

    def list(self, folder: str = "") -> Iterator[tuple[str, Stamp]]:
        """Yield path and stamp of every object below a folder. Raises `Unreachable`."""
        import obstore

        try:
            for page in obstore.list(self.store, folder or None):
                for meta in page:
                    yield meta["path"], stamp_of(meta)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self.failed(error, folder) from error

    def failed(self, error: Exception, path: str) -> OSError:
        """Return what a failed request means."""
        if isinstance(error, (SampleChanged, Unreachable)):
            return error
        url = object_urls.join(self.root, path) if path else self.root
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        return Unreachable(errno.EIO, object_urls.explain(url, error), url)


def stamp_of(meta: Any) -> Stamp:
    """Return the stamp that a store's answer gives; the ETag tells contents, so there is no change time."""
    modified = round(meta["last_modified"].timestamp() * 1000) * 1_000_000
    return Stamp(meta["size"], modified, 0, 0, meta["e_tag"] or "")


def together(stamps: Sequence[tuple[str, Stamp]]) -> Stamp:
    """Return the stamp of several objects; its ETag is a digest of names and ETags where all have one."""
    if len(stamps) == 1:
        return stamps[0][1]
    whole = combined(stamp for _, stamp in stamps)
    digest = xxhash.xxh3_128()
    for name, stamp in sorted(stamps):
        digest.update(f"{name}\0{stamp.etag}\0".encode())
    known = bool(stamps) and all(stamp.etag for _, stamp in stamps)
    return whole._replace(etag=digest.hexdigest() if known else "")


def bucket(root: str) -> Bucket:
    """Return the bucket at a URL, with its kept connections, by the environment's credentials of now."""
    names = ("AWS_", "GOOGLE_", "AZURE_")
    return _bucket(root, hash(tuple((k, v) for k, v in sorted(os.environ.items()) if k.startswith(names))))


@lru_cache(maxsize=8)
def _bucket(root: str, _environment: int) -> Bucket:
    return Bucket(root)


class Ranges:
    """The bytes of one object, read by ranges of one ETag; the last few are kept."""

    def __init__(self, place: Bucket, path: str, stamp: Stamp, start: int = 0, data: bytes = b"") -> None:
        self.place, self.path, self.stamp = place, path, stamp
        self.failure: OSError | None = None
        self.first_bytes = len(data)
        self._kept: OrderedDict[int, bytes] = OrderedDict({start: data})
        self._next, self._length = -1, LEAST_RANGE

    def read(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes; none only at the end. Raises `OSError`, and keeps it as `failure`."""
        if position >= self.stamp.size or count <= 0:
            return b""
        for start, data in self._kept.items():
            if start <= position < start + len(data):
                self._kept.move_to_end(start)
                return data[position - start : position - start + count]
        self._length = min(MOST_RANGE, 2 * self._length) if position == self._next else LEAST_RANGE
        stop = min(self.stamp.size, position + max(self._length, min(count, MOST_RANGE)))
        try:
            found, data = self.place.get(self.path, position, stop, self.stamp.etag)
            if found != self.stamp or len(data) != stop - position:
                raise SampleChanged(self.path)
        except OSError as error:
            self.failure = error
            raise
        self._next = stop
        self._kept[position] = data
        if len(self._kept) > RANGES_KEPT:
            self._kept.popitem(last=False)
        return data[:count]


class RemoteFile(io.RawIOBase):
    """An object as a seekable file."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self.ranges, self._position = ranges, 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the place in the object."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the object; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.ranges.stamp.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        """Return `count` bytes, fewer only at the end; all that is left without `count`."""
        left = max(0, self.ranges.stamp.size - self._position)
        wanted = left if count is None or count < 0 else min(count, left)
        parts = []
        while wanted:
            data = self.ranges.read(self._position, wanted)
            parts.append(data)
            self._position += len(data)
            wanted -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, all of it but at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class OpenedObject(Opened):
    """An open object or, without `ranges`, a folder; its `path` is a URL."""

    __slots__ = ("_ahead", "_first", "_name", "_ranges")

    def __init__(
        self, ahead: ReadAhead, name: str, files: tuple[str, ...], ranges: Ranges | None, first: Stamp | None
    ) -> None:
        file = None if ranges is None else RemoteFile(ranges)
        super().__init__(object_urls.join(ahead.place.root, name), cast("Any", file), files)
        self._ahead, self._name, self._ranges, self._first = ahead, name, ranges, first

    def stamp(self) -> Stamp:
        """Return the stamp of what was read; of a folder, as it is now. Raises `OSError`."""
        if self._ranges is None:
            first, self._first = self._first, None
            return first or self._ahead.folder(self._name, self.files)
        if self._ranges.failure is not None:
            # Not what a decoder makes of bytes that did not come.
            raise self._ranges.failure
        own = (self._name, self._ranges.stamp)
        return together([own, *((file, self._ahead.known(file)) for file in self.files)])


class ReadAhead:
    """The samples of one batch, read ahead in their order while those before are counted."""

    def __init__(self, root: str, samples: Sequence[str | Member]) -> None:
        self.place = bucket(root)
        self._left = iter(samples)
        self._waiting: dict[str, Future[Any]] = {}
        self._held, self._arrived = 0, deque[int]()
        self._known: dict[str, Ranges] = {}
        self._pool = ThreadPoolExecutor(IN_FLIGHT, "statsvc-read")

    def __enter__(self) -> ReadAhead:
        self._fill()
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def open(self, sample: str | Member) -> OpenedObject:
        """Open a sample. Raises `OSError`, `UnreadableSample` where its container was replaced."""
        name, file, files = (sample, sample, ()) if isinstance(sample, str) else _parts(sample)
        future = self._waiting.pop(name, None)
        found = self._request(sample)() if future is None else future.result()
        if future is not None and isinstance(found, Ranges):
            self._held -= found.first_bytes
        self._fill()
        if isinstance(found, Stamp):
            return OpenedObject(self, file, files, None, found)
        ranges = found or self._shared(file)
        ranges.failure = None  # of the sample before, where they share a file
        if not isinstance(sample, str) and sample.etag:
            container = self.known(files[0]) if sample.kind == "panoptic" else ranges.stamp
            if container.etag != sample.etag:
                raise UnreadableSample("lies in a file that was replaced after it was listed; scan again")
        return OpenedObject(self, file, files, ranges, None)

    def forget(self, sample: str | Member) -> None:
        """Let what is known of a sample's files be asked for again."""
        _, file, files = (sample, sample, ()) if isinstance(sample, str) else _parts(sample)
        for name in (file, *files):
            self._known.pop(name, None)

    def known(self, path: str) -> Stamp:
        """Return the stamp of an object that several samples share, as it was first seen in this batch."""
        return self._shared(path).stamp

    def folder(self, path: str, files: Sequence[str]) -> Stamp:
        """Return the stamp of a folder, or of those of its `files` that are there, as they are now."""
        stamps = self.place.heads(files) if files else list(self.place.list(path))
        if not stamps:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return together(stamps)

    def _shared(self, path: str) -> Ranges:
        if path not in self._known:
            self._known[path] = Ranges(self.place, path, self.place.head(path))
        return self._known[path]

    def _fill(self) -> None:
        while self._arrived:
            self._held += self._arrived.popleft()
        while len(self._waiting) < WAITING_SAMPLES and self._held < WAITING_BYTES:
            sample = next(self._left, None)
            if sample is None:
                return
            name = sample if isinstance(sample, str) else sample.path
            future = self._pool.submit(self._request(sample))
            future.add_done_callback(self._hold)
            self._waiting[name] = future

    def _hold(self, future: Future[Any]) -> None:
        found = None if future.cancelled() or future.exception() else future.result()
        if isinstance(found, Ranges):
            self._arrived.append(found.first_bytes)

    def _request(self, sample: str | Member) -> Callable[[], Ranges | Stamp | None]:
        """Return what fetches a sample: bytes, or the stamp of a folder; None where samples share a file."""
        if isinstance(sample, str) or sample.kind == "panoptic":
            file = sample if isinstance(sample, str) else sample.file
            return lambda: Ranges(self.place, file, *_in_front(self.place.get(file)))
        if sample.in_folder:
            return lambda: self.folder(sample.file, sample.files)
        if sample.kind in ("range", "npy part") and 0 < sample.where[1] <= WHOLE_BYTES:
            start, stop = sample.where[0], sample.where[0] + sample.where[1]
            return lambda: Ranges(
                self.place, sample.file, *_in_front(self.place.get(sample.file, start, stop), start)
            )
        return lambda: None


def _parts(member: Member) -> tuple[str, str, tuple[str, ...]]:
    return member.path, member.file, member.files


def _in_front(got: tuple[Stamp, bytes], start: int = 0) -> tuple[Stamp, int, bytes]:
    return got[0], start, got[1]
