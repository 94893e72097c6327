"""Requests to an object store: read, stat and list the objects below a URL.

Every read after the first carries If-Match, so that an object replaced in the meantime is noticed in the same
way as a file that changes.
"""

from __future__ import annotations

import os
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import xxhash

from statsvc.common import object_urls
from statsvc_workers.samples import roots
from statsvc_workers.samples.object_reader import WHOLE_BYTES, ObjectReader
from statsvc_workers.samples.stamps import SampleChanged, Stamp, combined
from statsvc_workers.samples.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Bucket(ObjectReader):
    """All objects below a URL."""

    @cached_property
    def store(self) -> Any:
        """The store of obstore, with object names relative to the URL."""
        return object_urls.open_prefix(self.root)

    def get(self, path: str, start: int = 0, stop: int | None = None, etag: str = "") -> tuple[Stamp, bytes]:
        """Return the stamp of an object and its bytes."""
        import obstore

        self.check_url(path)
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
            raise self.request_error(error, path) from error

    def head(self, path: str) -> Stamp:
        """Return the stamp of an object."""
        import obstore

        self.check_url(path)
        try:
            return stamp_of_object(obstore.head(self.store, path))
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self.request_error(error, path) from error

    def list(self, folder: str = "") -> Iterator[tuple[str, Stamp]]:
        """Yield (path, stamp) of every object below a folder."""
        import obstore

        url = object_urls.join(self.root, folder) if folder else self.root
        roots_below = roots.urls_below(url)
        if not roots_below:
            self.check_url(folder)
        try:
            for root in roots_below:
                # The source of a single object is the folder that contains it, which may be above the root.
                path = unquote(root.removeprefix(self.root + "/"))
                yield from self.heads([path])
                yield from self.list(path)
            if roots_below:
                return
            for page in obstore.list(self.store, folder or None):
                for meta in page:
                    yield meta["path"], stamp_of_object(meta)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self.request_error(error, folder) from error


def bucket(root: str) -> ObjectReader:
    """Return the bucket at a URL; its connections are cached for as long as the credentials stay the same."""
    names = ("AWS_", "GOOGLE_", "AZURE_")
    return _bucket(root, hash(tuple((k, v) for k, v in sorted(os.environ.items()) if k.startswith(names))))


@lru_cache(maxsize=8)
def _bucket(root: str, _environment: int) -> ObjectReader:
    if object_urls.is_listable(root):
        opened = Bucket(root)
        _ = opened.store  # reports invalid credentials in the environment
        return opened
    return WebServer(root)


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
