"""Watch one source for changes: by file system events, or by polling where there are no events."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import watchfiles

from statsvc.common.object_urls import is_url
from statsvc.store.catalog.engine import UNSAFE_FILE_SYSTEMS, file_system
from statsvc_workers.samples import roots
from statsvc_workers.samples.roots import OutsideRoots, is_inside, restricted, source_roots

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from watchfiles.main import FileChange

log = logging.getLogger(__name__)

QUIET_SECONDS = 3.0
"""Default quiet period: time without changes before a scan, so that a copy in progress causes one job."""

PATIENCE_SECONDS = 60.0
"""Longest time that a source with continuous changes waits for its scan."""

POLLING_SECONDS = 30.0
"""Polling interval where the file system does not report changes."""

LISTING_SECONDS = 60.0
"""Scan interval of a watched source in an object store."""

CHECK_SECONDS = 2.0
"""Interval at which the source folder itself is checked: that it exists and is the same folder as before."""

POLLING_QUIET_FACTOR = 1.5
"""With polling, the quiet period is at least this many polling intervals."""

INOTIFY_ADVICE = (
    "If the inotify limit is reached, raise it with sysctl fs.inotify.max_user_watches=1048576 "
    "fs.inotify.max_user_instances=1024, and restart the runner"
)


class SourceWatcher:
    """Watches one source. Not thread-safe; times are in seconds of the monotonic clock.

    name    name of the dataset, for log messages
    source  the dataset's `source` and `pattern`
    quiet   quiet period in seconds
    allowed, only_roots  the arguments of `source_roots`: no change outside these roots counts
    since   time of the last change for which no job was queued; None if there is none
    """

    def __init__(
        self,
        name: str,
        source: tuple[str, str | None],
        quiet: float = QUIET_SECONDS,
        allowed: Sequence[str] | None = None,
        *,
        only_roots: bool = False,
    ) -> None:
        self.source = source
        self._roots, self._only_roots = allowed, only_roots
        self._allowed: tuple[str, ...] | None = ()
        self.since: float | None = None
        self._name, self._quiet, self._target = name, quiet, _target(*source)
        self._first_change = 0.0
        self._check_at = 0.0
        self._events: Generator[set[FileChange], None, None] | None = None
        self._identity: tuple[int, int] | None = None
        self._polling = self._missing = False

    def poll(self) -> None:
        """Record changes since the last call, without waiting."""
        now = time.monotonic()
        if is_url(self.source[0]):
            if now >= self._check_at:
                self._check_at = now + LISTING_SECONDS
                self._record_change(now)
            return
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            self._check(now)
        if self._events is None:
            return
        try:
            changes = next(self._events)
        except (OSError, RuntimeError, StopIteration) as error:
            self._fall_back_to_polling(error)
            return
        if any(self._is_relevant(path) for _, path in changes):
            self._record_change(time.monotonic())
            self._check_at = 0.0  # the source folder itself may have been removed

    def ready(self) -> bool:
        """Whether a change was followed by the quiet period, or changes have lasted too long."""
        if self.since is None:
            return False
        if is_url(self.source[0]):
            return True
        now = time.monotonic()
        quiet = max(self._quiet, POLLING_QUIET_FACTOR * POLLING_SECONDS) if self._polling else self._quiet
        return now - self.since >= quiet or now - self._first_change >= PATIENCE_SECONDS

    def close(self) -> None:
        """Stop watching."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _record_change(self, now: float) -> None:
        self._first_change = now if self.since is None else self._first_change
        self.since = now

    def _is_relevant(self, path: str) -> bool:
        """Whether a scan includes a path: not names that begin with a dot, nor links out of the roots."""
        if any(part.startswith(".") for part in path.removeprefix(self._target).split("/")):
            return False
        folder = path.rpartition("/")[0]
        return self._allowed is None or any(
            is_inside(os.path.realpath(folder), root) for root in self._allowed
        )

    def _check(self, now: float) -> None:
        """Start watching a source that exists, and again after it was replaced.

        Changes before that are unknown, so starting counts as a change.
        """
        try:
            self._allowed = source_roots(self.source[0], self._roots, only=self._only_roots)
            with restricted(self._allowed):
                status = roots.status(self._target)
            identity = (status.st_dev, status.st_ino)
        except (OSError, OutsideRoots) as error:
            if self._events is not None:
                # Probably an unmounted disk; the job queued for this change reports it.
                self._record_change(now)
                self.close()
            if not self._missing:
                log.warning(
                    "%s: %s cannot be watched (%s). Is the disk mounted? Watching starts once it exists",
                    *(self._name, self._target, getattr(error, "strerror", None) or error),
                )
            self._missing = True
            return
        if self._events is not None and identity == self._identity:
            return
        self.close()
        self._identity, self._missing = identity, False
        self._start_events()
        self._record_change(now)

    def _start_events(self) -> None:
        type_name = _file_system(self._target)
        if not self._polling and (type_name in UNSAFE_FILE_SYSTEMS or type_name.startswith("fuse")):
            log.warning(
                "%s: %s is on %s, which does not report every change, so it is polled every %.0f s. For a "
                "large source, a schedule is cheaper: statsvc datasets %s --no-watch --every 1h",
                *(self._name, self._target, type_name, POLLING_SECONDS, self._name),
            )
            self._polling = True
        events = self._generator()
        try:
            next(events)  # the generator registers the folders on its first step
        except (OSError, RuntimeError, StopIteration) as error:
            self._fall_back_to_polling(error)
        else:
            self._events = events
            log.info("%s: watching %s", self._name, self._target)

    def _generator(self) -> Generator[set[FileChange], None, None]:
        return watchfiles.watch(
            self._target,
            watch_filter=None,
            # Changes are returned immediately, because the quiet period is measured from their arrival.
            debounce=50,
            step=1,
            rust_timeout=1,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=self._polling,
            poll_delay_ms=int(POLLING_SECONDS * 1000),
            ignore_permission_denied=True,
        )

    def _fall_back_to_polling(self, error: BaseException) -> None:
        """Poll a source that cannot be watched, for example because the inotify watches are used up."""
        self.close()
        if self._polling:
            log.warning("%s: %s can be neither watched nor polled (%s)", self._name, self._target, error)
            return
        self._polling = True
        log.warning(
            "%s: %s cannot be watched (%s), so it is polled every %.0f s. %s",
            *(self._name, self._target, error, POLLING_SECONDS, INOTIFY_ADVICE),
        )
        self._check_at = 0.0


def _target(root: str, pattern: str | None) -> str:
    """Return the path to watch: the folder, or the only file or Zarr folder in it that matches."""
    if pattern is None or not pattern.startswith("/"):
        return root
    name = pattern[1:].replace("\\", "")
    single = os.path.join(root, name)  # noqa: PTH118
    return single if "/" not in name and os.path.exists(single) else root  # noqa: PTH110


def _file_system(path: str) -> str:
    """Return the type of the file system that contains a path; "" where it is unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # not Linux
    return file_system(Path(path).resolve(), mounts)
