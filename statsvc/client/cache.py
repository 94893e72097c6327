"""The client's cache on disk: the last response of each URL, with its ETag for conditional requests.

A missing, corrupt or foreign entry is a cache miss. Every writer writes a uniquely named temporary file and
renames it, so any number of processes share a folder without a lock: the last writer wins, and each wrote a
response of the server. The umask decides who can read the files, because the cache of a container image is
often filled by root and read by other users. Entries never contain a token.

Responses with weights are kept forever. The pages of samplers are large, so a page is deleted when nobody has
read it for `PAGE_DAYS`. Temporary files of writers that died are deleted after a day.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

_log = logging.getLogger("statsvc.client")
_cleaned: set[Path] = set()

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
PAGE_DAYS = 90
"""Days that a sampler's page stays in the cache without being read."""
TEMPORARY_DAYS = 1
"""Days after which the temporary file of a writer that died is deleted."""


class Entry(Struct, frozen=True):
    """A cached response.

    etag       strong or weak, with its quotes
    body       the response body, byte for byte
    immutable  whether the server declared that this response never changes
    confirmed  when the server last sent or confirmed it, in seconds since 1970
    """

    etag: str
    body: bytes
    immutable: bool
    confirmed: float

    def age(self) -> str:
        """Return the entry's age for messages, such as `confirmed by the server 3 days ago`."""
        age = max(0.0, time.time() - self.confirmed)
        for unit, seconds in (("days", DAY), ("hours", HOUR), ("minutes", MINUTE)):
            if age >= 2 * seconds:
                return f"confirmed by the server {age / seconds:.0f} {unit} ago"
        return f"confirmed by the server {age:.0f} s ago"


def default_folder() -> Path:
    """Return STATSVC_CACHE, else `statsvc` in XDG_CACHE_HOME or in `~/.cache`."""
    if chosen := os.environ.get("STATSVC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "statsvc"


def load(folder: Path, url: str) -> Entry | None:
    """Return the entry of a URL, or None if the entry is missing or corrupt.

    Raises `OSError` if the file exists but cannot be read.
    """
    path = _path(folder, url)
    try:
        header, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    try:
        metadata = json.loads(header)
        valid = metadata["url"] == url and metadata["sha256"] == _digest(body)
        entry = Entry(metadata["etag"], body, metadata["immutable"] is True, float(metadata["confirmed"]))
        valid = valid and entry.etag.isascii() and entry.etag.isprintable()
    except (ValueError, LookupError, TypeError, AttributeError):
        valid = False
    if not valid:
        _log.debug("cache entry %s is corrupt and is ignored", path)
        return None
    # `remove_stale` goes by the modification time. A read-only folder is not cleaned either.
    with suppress(OSError):
        if path.stat().st_mtime < time.time() - DAY:
            os.utime(path)
    return entry


def store(folder: Path, url: str, entry: Entry) -> Path:
    """Write an entry atomically, so that no reader sees an incomplete one, and return its path.

    Raises `OSError` if the entry cannot be written. The previous entry then stays, and the temporary file is
    deleted.
    """
    metadata = {
        "url": url,
        "etag": entry.etag,
        "immutable": entry.immutable,
        "confirmed": entry.confirmed,
        "sha256": _digest(entry.body),
    }
    path = _path(folder, url)
    folder.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: only the owner could read its files.
    temporary = folder / f".part-{os.urandom(8).hex()}"
    try:
        with temporary.open("xb") as file:
            file.write(json.dumps(metadata).encode() + b"\n" + entry.body)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_stale(folder)
    return path


def remove_stale(folder: Path) -> None:
    """Delete sampler pages that nobody has read for `PAGE_DAYS`, and abandoned temporary files."""
    now = time.time()
    for file in folder.iterdir():
        with suppress(OSError):  # another process deletes it too, or another user owns it
            age = (now - file.stat().st_mtime) / DAY
            abandoned = file.name.startswith(".part-") and age > TEMPORARY_DAYS
            if abandoned or (file.suffix == ".answer" and age > PAGE_DAYS and _is_page(file)):
                file.unlink()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.readline()
    return b"/sampling?" in header


def _path(folder: Path, url: str) -> Path:
    return folder / f"{_digest(url.encode())[:40]}.answer"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
