"""The client's cache on disk: the last answer to each URL, with the ETag to ask whether it still holds.

An entry that is missing, damaged or of another form is no entry. Every writer writes a file of its own and
renames it, so any number of processes share a folder without a lock: the last one wins, and each wrote an
answer of the server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("statsvc.client")


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer as it came.

    etag       strong or weak, quotes included
    body       the bytes
    immutable  whether the server said that this answer never changes
    confirmed  when the server last gave it or said that it holds, in seconds since 1970
    """

    etag: str
    body: bytes
    immutable: bool
    confirmed: float

    def when(self) -> str:
        """Return when it was confirmed, for a person: `confirmed by the server 3 days ago`."""
        age = max(0.0, time.time() - self.confirmed)
        for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if age >= 2 * seconds:
                return f"confirmed by the server {age / seconds:.0f} {unit} ago"
        return f"confirmed by the server {age:.0f} s ago"


def default_folder() -> Path:
    """Return STATSVC_CACHE, else `statsvc` in XDG_CACHE_HOME or in `~/.cache`."""
    if chosen := os.environ.get("STATSVC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "statsvc"


def load(folder: Path, url: str) -> Entry | None:
    """Return the entry of a URL, or None where there is none that is whole.

    Raises `OSError` where there may be one that cannot be read.
    """
    path = _path(folder, url)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    try:
        about = json.loads(head)
        whole = about["url"] == url and about["sha256"] == _digest(body)
        entry = Entry(about["etag"], body, about["immutable"] is True, float(about["confirmed"]))
        whole = whole and entry.etag.isascii() and entry.etag.isprintable()
    except (ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        _log.debug("cache entry %s is damaged: going on without it", path)
        return None
    return entry


def store(folder: Path, url: str, entry: Entry) -> Path:
    """Keep an entry in a file that no reader ever sees a part of; return its path.

    Raises `OSError` where it cannot be written; the entry that was there stays, and nothing else is left.
    """
    about = {
        "url": url,
        "etag": entry.etag,
        "immutable": entry.immutable,
        "confirmed": entry.confirmed,
        "sha256": _digest(entry.body),
    }
    path = _path(folder, url)
    folder.mkdir(parents=True, exist_ok=True)
    # mkstemp makes the file readable by its owner only: an answer may have needed a token.
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(about).encode() + b"\n" + entry.body)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _path(folder: Path, url: str) -> Path:
    return folder / f"{_digest(url.encode())[:40]}.answer"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
