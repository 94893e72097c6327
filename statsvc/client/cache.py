"""The client's cache on disk: the last answer to each URL, with the ETag to ask whether it still holds.

An entry that is missing, damaged or of another form is no entry. Every writer writes a file of its own and
renames it, so any number of processes share a folder without a lock: the last one wins, and each wrote an
answer of the server. Files and folders are as readable as the umask lets them be, for an image's cache is
filled by root and read by others; there is no token in them.

Answers of weights stay. Pages of samplers are large, and those of old versions are asked for no more: they go
once nobody has read them for a while, and so do temporary files of writers that died.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("statsvc.client")
_tidied: set[Path] = set()

DAY = 86400.0
PAGE_DAYS = 90
"""How long a sampler's pages stay in the cache without being read."""


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
    # So that `tidy` sees what is read; the folder of an image cannot be written, and is not tidied either.
    with suppress(OSError):
        if path.stat().st_mtime < time.time() - DAY:
            os.utime(path)
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
    # Not mkstemp: its files are readable by their owner alone.
    part = folder / f".part-{os.urandom(8).hex()}"
    try:
        with part.open("xb") as file:
            file.write(json.dumps(about).encode() + b"\n" + entry.body)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if folder not in _tidied:
        _tidied.add(folder)
        tidy(folder)
    return path


def tidy(folder: Path) -> None:
    """Remove a sampler's pages that nobody has read for `PAGE_DAYS`, and temporary files a day old."""
    now = time.time()
    for file in folder.iterdir():
        with suppress(OSError):  # another process tidies too, or the file is another user's
            age = (now - file.stat().st_mtime) / DAY
            left = file.name.startswith(".part-") and age > 1
            if left or (file.suffix == ".answer" and age > PAGE_DAYS and _is_page(file)):
                file.unlink()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        about = file.readline()
    return b"/sampling?" in about


def _path(folder: Path, url: str) -> Path:
    return folder / f"{_digest(url.encode())[:40]}.answer"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
