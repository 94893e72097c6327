"""Requests to an object store: read, stat and list the objects below a URL.

Every read after the first carries If-Match, so that an object replaced in the meantime is noticed in the same
way as a file that changes.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import xxhash

from statsvc.common import object_urls
from statsvc_workers.samples.stamps import SampleChanged, Stamp, combined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

IN_FLIGHT = 32
"""Concurrent requests of one batch."""

WHOLE_BYTES = 1 << 22
"""An object larger than this is read in ranges, not with one request."""


class Unreachable(OSError):
    """A request failed even after retries; `strerror` is one line with the URL and the next step."""


class Bucket:
    """All objects below a URL."""

    def __init__(self, root: str) -> None:
        self.root, self.store = root, object_urls.open_prefix(root)

    def get(self, path: str, start: int = 0, stop: int | None = None, etag: str = "") -> tuple[Stamp, bytes]:
        """Return the stamp of an object and its bytes from `start` to `stop`, or all of them.

        An object larger than `WHOLE_BYTES` is not read as a whole: the returned bytes are then empty.

        Raises `SampleChanged` where `etag` is given and the object has another one now,
        `FileNotFoundError`, and `Unreachable`.
        """
        import obstore

        options: dict[str, Any] = {} if stop is None else {"range": (start, stop)}
        if etag and not etag.startswith("W/"):  # If-Match never matches a weak ETag
            options["if_match"] = etag
        try:
            result = obstore.get(self.store, path, options=cast("Any", options))
            stamp = stamp_of_object(result.meta)
            if etag and stamp.etag != etag:
                raise SampleChanged(path)
            too_large = stop is None and stamp.size > WHOLE_BYTES
            return stamp, b"" if too_large else result.bytes().to_bytes()
        except obstore.exceptions.PreconditionError as error:
            raise SampleChanged(path) from error
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._request_error(error, path) from error

    def head(self, path: str) -> Stamp:
        """Return the stamp of an object. Raises `FileNotFoundError`, `Unreachable`."""
        import obstore

        try:
            return stamp_of_object(obstore.head(self.store, path))
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._request_error(error, path) from error

    def heads(self, paths: Sequence[str]) -> list[tuple[str, Stamp]]:
        """Return (path, stamp) of those of `paths` that exist. Raises `Unreachable`."""

        def head_or_none(path: str) -> Stamp | None:
            try:
                return self.head(path)
            except FileNotFoundError:
                return None

        if len(paths) == 1:
            stamps: Iterable[Stamp | None] = [head_or_none(paths[0])]
        else:
            with ThreadPoolExecutor(IN_FLIGHT, "statsvc-head") as pool:
                stamps = list(pool.map(head_or_none, paths))
        return [(path, stamp) for path, stamp in zip(paths, stamps, strict=True) if stamp is not None]

    def list(self, folder: str = "") -> Iterator[tuple[str, Stamp]]:
        """Yield (path, stamp) of every object below a folder. Raises `Unreachable`."""
        import obstore

        try:
            for page in obstore.list(self.store, folder or None):
                for meta in page:
                    yield meta["path"], stamp_of_object(meta)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._request_error(error, folder) from error

    def _request_error(self, error: Exception, path: str) -> OSError:
        """Return the error to raise for a failed request."""
        if isinstance(error, (SampleChanged, Unreachable)):
            return error
        url = object_urls.join(self.root, path) if path else self.root
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        return Unreachable(errno.EIO, object_urls.explain(url, error), url)


def bucket(root: str) -> Bucket:
    """Return the bucket at a URL; its connections are cached for as long as the credentials stay the same."""
    names = ("AWS_", "GOOGLE_", "AZURE_")
    return _bucket(root, hash(tuple((k, v) for k, v in sorted(os.environ.items()) if k.startswith(names))))


@lru_cache(maxsize=8)
def _bucket(root: str, _environment: int) -> Bucket:
    return Bucket(root)


def stamp_of_object(meta: Any) -> Stamp:
    """Return the stamp of an object from the store's metadata.

    The ETag identifies the contents, so an object needs no change time.
    """
    modified = round(meta["last_modified"].timestamp() * 1000) * 1_000_000
    return Stamp(meta["size"], modified, 0, 0, meta["e_tag"] or "")


def combined_objects(stamps: Sequence[tuple[str, Stamp]]) -> Stamp:
    """Return one stamp for several objects, given as (path, stamp).

    Its ETag is a digest of all paths and ETags, or "" where an object has none.
    """
    if len(stamps) == 1:
        return stamps[0][1]
    total = combined(stamp for _, stamp in stamps)
    digest = xxhash.xxh3_128()
    for path, stamp in sorted(stamps):
        digest.update(f"{path}\0{stamp.etag}\0".encode())
    all_have_etags = bool(stamps) and all(stamp.etag for _, stamp in stamps)
    return total._replace(etag=digest.hexdigest() if all_have_etags else "")
