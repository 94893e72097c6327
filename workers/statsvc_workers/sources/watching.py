"""Watching one source for changes: the file system's events, or looking through it where there are none."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import watchfiles

from statsvc.common.object_urls import is_url
from statsvc.store.catalog.engine import UNSAFE_FILE_SYSTEMS, file_system

if TYPE_CHECKING:
    from collections.abc import Generator

    from watchfiles.main import FileChange

log = logging.getLogger(__name__)

QUIET_SECONDS = 3.0
"""How long nothing must change before a source is scanned, by default: a copy in progress makes one job."""

PATIENCE_SECONDS = 60.0
"""How long a source that never is quiet waits for its scan."""

POLLING_SECONDS = 30.0
"""How often a source is looked through where the file system tells of no changes."""

LISTING_SECONDS = 60.0
"""How often a source in an object store is listed, where it has no schedule."""

CHECK_SECONDS = 2.0
"""How often a missing source is looked for, and one that is watched is compared with what was opened."""


class SourceWatcher:
    """One watched source. Used from one thread; times are of the monotonic clock.

    source    what the dataset's `source` and `pattern` are
    since     when the last change was seen that no job was made for; None for none
    """

    def __init__(self, name: str, source: tuple[str, str | None], quiet: float = QUIET_SECONDS) -> None:
        self.source = source
        self.since: float | None = None
        self._name, self._quiet, self._target = name, quiet, _target(*source)
        self._began = 0.0
        self._check_at = 0.0
        self._events: Generator[set[FileChange], None, None] | None = None
        self._identity: tuple[int, int] | None = None
        self._polling = self._missing = False

    def poll(self) -> None:
        """Take up what has changed since the last call, without waiting."""
        now = time.monotonic()
        if is_url(self.source[0]):
            if now >= self._check_at:
                self._check_at = now + LISTING_SECONDS
                self._seen(now)
            return
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            self._check(now)
        if self._events is None:
            return
        try:
            found = next(self._events)
        except (OSError, RuntimeError, StopIteration) as error:
            self._fall_back(error)
            return
        if any(self._means_something(path) for _, path in found):
            self._seen(time.monotonic())
            self._check_at = 0.0  # it may be the source itself that went

    def ready(self) -> bool:
        """Whether something has changed and nothing more did for the quiet period, or for too long."""
        if self.since is None:
            return False
        if is_url(self.source[0]):
            return True
        now = time.monotonic()
        quiet = max(self._quiet, 1.5 * POLLING_SECONDS) if self._polling else self._quiet
        return now - self.since >= quiet or now - self._began >= PATIENCE_SECONDS

    def close(self) -> None:
        """Stop watching."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _seen(self, now: float) -> None:
        self._began = now if self.since is None else self._began
        self.since = now

    def _means_something(self, path: str) -> bool:
        """Whether a scan would look at a path: names that begin with a dot are left out."""
        return not any(part.startswith(".") for part in path.removeprefix(self._target).split("/"))

    def _check(self, now: float) -> None:
        """Watch a source that is there, anew where it was replaced; what changed before is unknown."""
        try:
            status = os.stat(self._target)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
        except OSError as error:
            if self._events is not None:
                # An unmounted disk: the job that this makes says so.
                self._seen(now)
                self.close()
            if not self._missing:
                log.warning(
                    "%s: %s cannot be watched (%s); is the disk mounted? Watching begins when it is there",
                    *(self._name, self._target, error.strerror),
                )
            self._missing = True
            return
        if self._events is not None and identity == self._identity:
            return
        self.close()
        self._identity, self._missing = identity, False
        self._open()
        self._seen(now)

    def _open(self) -> None:
        kind = _kind(self._target)
        if not self._polling and (kind in UNSAFE_FILE_SYSTEMS or kind.startswith("fuse")):
            log.warning(
                "%s: %s lies on %s, which does not tell of every change; it is looked through every %.0f s "
                "instead. A schedule costs less where it is large: statsvc datasets %s --no-watch --every 1h",
                *(self._name, self._target, kind, POLLING_SECONDS, self._name),
            )
            self._polling = True
        events = self._generator()
        try:
            next(events)  # only now are the folders gone through
        except (OSError, RuntimeError, StopIteration) as error:
            self._fall_back(error)
        else:
            self._events = events
            log.info("%s: watching %s", self._name, self._target)

    def _generator(self) -> Generator[set[FileChange], None, None]:
        return watchfiles.watch(
            self._target,
            watch_filter=None,
            # What has come is taken at once: whether it is quiet is told from when it came.
            debounce=50,
            step=1,
            rust_timeout=1,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=self._polling,
            poll_delay_ms=int(POLLING_SECONDS * 1000),
            ignore_permission_denied=True,
        )

    def _fall_back(self, error: BaseException) -> None:
        """Look through a source that cannot be watched, for instance for want of inotify watches."""
        self.close()
        if self._polling:
            log.warning("%s: %s cannot be watched (%s)", self._name, self._target, error)
            return
        self._polling = True
        log.warning(
            "%s: the system does not watch %s (%s); it is looked through every %.0f s instead. "
            "If its limit is reached, raise it: sysctl fs.inotify.max_user_watches=1048576 "
            "fs.inotify.max_user_instances=1024, and start the runner again",
            *(self._name, self._target, error, POLLING_SECONDS),
        )
        self._check_at = 0.0


def _target(root: str, pattern: str | None) -> str:
    """Return what is watched: the folder, or the only file or Zarr folder in it that is meant."""
    if pattern is None or not pattern.startswith("/"):
        return root
    name = pattern[1:].replace("\\", "")
    alone = os.path.join(root, name)  # noqa: PTH118
    return alone if "/" not in name and os.path.exists(alone) else root  # noqa: PTH110


def _kind(path: str) -> str:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # not Linux
    return file_system(Path(path).resolve(), mounts)
