"""What the readers of objects and of files on a web server share."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from statsvc.common import object_urls
from statsvc_workers.samples import roots
from statsvc_workers.samples.stamps import SampleChanged, Stamp

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Sequence

IN_FLIGHT = 32
"""Concurrent requests of one batch."""

WHOLE_BYTES = 1 << 22
"""An object larger than this is read in ranges, not with one request."""


class Unreachable(OSError):
    """A request failed even after retries; `strerror` is one line with the URL and the next step."""


class ObjectReader:
    """The objects below a URL. Thread-safe."""

    def __init__(self, root: str) -> None:
        self.root = root

    def get(self, path: str, start: int = 0, stop: int | None = None, etag: str = "") -> tuple[Stamp, bytes]:
        """Return the stamp of an object and its bytes from `start` to `stop`, or all of them.

        An object larger than `WHOLE_BYTES` is not read as a whole: the returned bytes are then empty.

        Raises `SampleChanged` where `etag` is given and the object has another one now,
        `FileNotFoundError`, `Unreachable`, and `OutsideRoots`.
        """
        raise NotImplementedError

    def head(self, path: str) -> Stamp:
        """Return the stamp of an object. Raises `FileNotFoundError`, `Unreachable`, and `OutsideRoots`."""
        raise NotImplementedError

    def list(self, folder: str = "") -> Iterator[tuple[str, Stamp]]:
        """Yield (path, stamp) of every object below a folder. Raises `Unreachable`, and `OutsideRoots`."""
        raise NotImplementedError

    def heads(self, paths: Sequence[str]) -> builtins.list[tuple[str, Stamp]]:
        """Return (path, stamp) of those of `paths` that exist. Raises `Unreachable`."""

        def head_or_none(path: str) -> Stamp | None:
            try:
                return self.head(path)
            except FileNotFoundError:
                return None

        if len(paths) == 1:
            stamps: Iterable[Stamp | None] = [head_or_none(paths[0])]
        else:
            for path in paths:
                self.check_url(path)  # here, because the restriction does not apply to other threads
            with ThreadPoolExecutor(IN_FLIGHT, "statsvc-head") as pool:
                stamps = list(pool.map(head_or_none, paths))
        return [(path, stamp) for path, stamp in zip(paths, stamps, strict=True) if stamp is not None]

    def check_url(self, path: str) -> None:
        """Raise `OutsideRoots` for an object outside the roots."""
        roots.check_url(object_urls.join(self.root, path) if path else self.root)

    def request_error(self, error: Exception, path: str) -> OSError:
        """Return the error to raise for a failed request."""
        if isinstance(error, (SampleChanged, Unreachable)):
            return error
        url = object_urls.join(self.root, path) if path else self.root
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        return Unreachable(errno.EIO, object_urls.explain(url, error), url)
