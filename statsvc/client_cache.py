"""The client's cache on disk: the last answer to each URL, with the ETag to ask whether it still holds.

Nothing depends on it: an entry that is missing, damaged or of another form is no entry, and a folder
that cannot be written costs the cache and one warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("statsvc.client")
_warned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer as it came: its strong or weak ETag, quotes included, and its body."""

    etag: str
    body: bytes


def default_folder() -> Path:
    """Return STATSVC_CACHE, else `statsvc` in XDG_CACHE_HOME or in `~/.cache`."""
    if chosen := os.environ.get("STATSVC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "statsvc"


def load(folder: Path, url: str) -> Entry | None:
    """Return the entry of a URL, or None where there is none that is whole."""
    path = _path(folder, url)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as problem:
        _warn_once(folder, "read", problem)
        return None
    try:
        about = json.loads(head)
        etag, whole = about["etag"], about["url"] == url and about["sha256"] == _digest(body)
    except (ValueError, LookupError, TypeError):
        etag, whole = None, False
    if not whole or not isinstance(etag, str) or not etag.isascii() or not etag.isprintable():
        _log.debug("cache entry %s is damaged: asking without it", path)
        return None
    return Entry(etag, body)


def store(folder: Path, url: str, entry: Entry) -> None:
    """Keep an entry: written to a name of its own and renamed, so that no reader sees a part of it."""
    about = json.dumps({"url": url, "etag": entry.etag, "sha256": _digest(entry.body)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # mkstemp makes the file readable by its owner only: an answer may have needed a token.
        handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(about.encode() + b"\n" + entry.body)
            Path(name).replace(_path(folder, url))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as problem:
        _warn_once(folder, "written", problem)


def _path(folder: Path, url: str) -> Path:
    return folder / f"{_digest(url.encode())[:40]}.answer"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _warn_once(folder: Path, done: str, problem: OSError) -> None:
    level = logging.DEBUG if folder in _warned else logging.WARNING
    _warned.add(folder)
    _log.log(level, "the cache folder %s cannot be %s, going on without it: %s", folder, done, problem)
