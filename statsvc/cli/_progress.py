"""Progress of a job on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFRESH_SECONDS = 0.2
"""Time between two updates of the bar."""

BAR_SECONDS = 0.5
"""Time after which the bar appears; many scans end before, and do not load rich."""

LINE_SECONDS = 5.0
"""Time between two plain lines."""


@contextmanager
def show_progress(read: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Show the job progress that `read` returns until the block ends."""
    stopping = threading.Event()
    # Terminals without cursor movement, such as an editor's, get lines, too.
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    target = _show_bar if sys.stderr.isatty() and not dumb else _print_lines
    thread = threading.Thread(target=target, args=(read, stopping), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def summary(progress: dict[str, Any]) -> str:
    """Return `120/240 files, 2 failed, 64.2 Mpx/s`."""
    failed = progress.get("failed", 0)
    total = progress.get("total", 0)
    text = f"{progress.get('done', 0)}/{total} file{'' if total == 1 else 's'}"
    text += f", {failed} failed" if failed else ""
    rate = progress.get("pixels_per_second", 0)
    return text + (f", {pixel_rate(rate)}" if rate else "")


def pixel_rate(rate: float) -> str:
    """Return pixels per second as text: 1.28 Gpx/s, 64.2 Mpx/s or 0.3 Mpx/s."""
    return f"{rate / 1e9:.2f} Gpx/s" if rate >= 1e9 else f"{rate / 1e6:.1f} Mpx/s"


def _print_lines(read: Callable[[], dict[str, Any]], stopping: threading.Event) -> None:
    """Print a line when the stage or the number of files changes, at most once in `LINE_SECONDS`."""
    start: float | None = None
    counted_at_start = 0
    printed: tuple[str, int] | None = None
    while not stopping.wait(LINE_SECONDS):
        progress = read()
        done, total = progress.get("done", 0), progress.get("total", 0)
        stage = progress.get("stage", "waiting")
        if (stage, done) == printed:
            continue
        printed = stage, done
        # Reused and recovered rows take no time, so they must not shorten the estimate.
        counted = done - progress.get("reused", 0) - progress.get("recovered", 0)
        if start is None and counted > 0:
            start, counted_at_start = time.monotonic(), counted
        line = stage
        if total:
            line += f": {summary(progress)}"
        if start is not None and counted > counted_at_start and done < total:
            seconds_per_sample = (time.monotonic() - start) / (counted - counted_at_start)
            line += f", {(total - done) * seconds_per_sample:.0f} s left"
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _hidden_control_characters() -> Iterator[None]:
    """Keep the terminal from echoing Ctrl-C as ^C, which would shift the bar so that it is not erased."""
    import termios

    terminal = sys.stderr.fileno()
    try:
        # The kernel stops a background process that changes the terminal's settings.
        attributes = termios.tcgetattr(terminal) if os.tcgetpgrp(terminal) == os.getpgrp() else None
    except OSError:
        attributes = None  # not the controlling terminal of this process
    if attributes is None:
        yield
        return
    changed = list(attributes)
    changed[3] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def _show_bar(read: Callable[[], dict[str, Any]], stopping: threading.Event) -> None:
    with _hidden_control_characters():
        if not stopping.wait(BAR_SECONDS):
            _refresh_bar(read, stopping)


def _refresh_bar(read: Callable[[], dict[str, Any]], stopping: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[summary]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("listing", total=None, summary="")
        while True:
            progress = read()
            bar.update(
                task,
                description=progress.get("stage", "waiting"),
                total=progress.get("total") or None,
                completed=progress.get("done", 0),
                summary=summary(progress),
            )
            if stopping.wait(REFRESH_SECONDS):
                return
