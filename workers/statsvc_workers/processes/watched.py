"""Call a function in a thread that is given up when it does not get on.

A network share or a FUSE file system that does not answer blocks the thread that reads from it, and nothing
can interrupt a thread. So each thread that counts has a helper, and waits only as long as the helper gets on.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from msgspec import Struct

from statsvc_workers.processes.stalls import BLOCKED, CHECKS, ENDLESS, not_read_in

if TYPE_CHECKING:
    from collections.abc import Callable

    Calls: TypeAlias = queue.SimpleQueue[Callable[[], None] | None]

T = TypeVar("T")


class Marks(Struct):
    """How far a function has got.

    sample     index of the current sample; −1 before the first one
    begun      number of samples and blocks that were begun
    given_up   whether nobody waits for the function any longer: it stops when it can
    """

    sample: int = -1
    begun: int = 0
    given_up: bool = False

    def next(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function to call before each sample; it returns whether to stop."""

        def next_sample() -> bool:
            self.sample += 1
            self.begun += 1
            return self.given_up or should_stop()

        return next_sample


class Stuck(Exception):
    """A function did not get on. The message is the reason, in the form of an error of its file.

    thread  the thread that was given up; it ends if the function returns after all
    """

    def __init__(self, reason: str, thread: threading.Thread) -> None:
        super().__init__(reason)
        self.thread = thread


class _Helper:
    """A daemon thread that calls functions, and ends with this object.

    Unlike a thread of a pool, it never delays the end of the process.
    """

    def __init__(self) -> None:
        self._calls: Calls = queue.SimpleQueue()
        self.thread = threading.Thread(target=_run, args=(self._calls,), name="reading", daemon=True)
        self.thread.start()
        # macOS has no clock of another thread. There, a thread counts as using the processor.
        self._clock = (
            time.pthread_getcpuclockid(self.thread.ident or 0)
            if hasattr(time, "pthread_getcpuclockid")
            else time.CLOCK_PROCESS_CPUTIME_ID
        )

    def __del__(self) -> None:
        self._calls.put(None)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Call a function; return the future of its result."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - for the thread that waits
                future.set_exception(error)

        self._calls.put(call)
        return future

    def processor_seconds(self) -> float:
        """Return the processor time that the thread has used."""
        return time.clock_gettime(self._clock)


def _run(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # it refers to the result


_own = threading.local()
"""The helper of each thread that counts. It is kept, because decoders keep buffers for each thread."""


def watched(function: Callable[[], T], marks: Marks, timeout: float) -> T:
    """Return the result of a function that updates `marks`, called in the helper of this thread.

    timeout  stall timeout in seconds

    Raises `Stuck` where the function does not get on, and what the function raises.
    """
    helper: _Helper | None = getattr(_own, "helper", None)
    if helper is None or not helper.thread.is_alive():  # a forked process has no other threads
        helper = _own.helper = _Helper()
    context = copy_context()
    future = helper.call(lambda: context.run(function))
    interval = timeout / CHECKS
    blocked, begun = 0.0, marks.begun
    used = used_at_mark = helper.processor_seconds()
    while not wait([future], interval).done:
        before, used = used, helper.processor_seconds()
        # Intervals are counted instead of measured, because this process may be paused, too.
        blocked = blocked + interval if used == before else 0.0
        if marks.begun != begun:
            begun, used_at_mark = marks.begun, used
        if blocked > BLOCKED * timeout:
            reason = not_read_in(blocked)
        elif used - used_at_mark > ENDLESS * timeout:
            seconds = used - used_at_mark
            reason = f"could not be decoded within {seconds:.0f} s of processor time; check the file"
        else:
            continue
        marks.given_up = True
        del _own.helper
        raise Stuck(reason, helper.thread)
    return future.result()


_given_up: dict[tuple[str, str], tuple[str, threading.Thread]] = {}
"""Why files were given up whose threads have not ended, and these threads, by root and path."""

_lock = threading.Lock()


def give_up(root: str, path: str, stuck: Stuck) -> None:
    """Record that a file was given up."""
    with _lock:
        _given_up[root, path] = str(stuck), stuck.thread


def given_up(root: str, path: str) -> str | None:
    """Return why a file was given up, if the read has not returned since: another one would block, too."""
    if not _given_up:
        return None
    with _lock:
        for key in [key for key, (_, thread) in _given_up.items() if not thread.is_alive()]:
            del _given_up[key]
        reason, _ = _given_up.get((root, path), (None, None))
    return reason
