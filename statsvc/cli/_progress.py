"""How far a scan is: a bar on a terminal, plain lines elsewhere; always on stderr."""

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
LINE_SECONDS = 5.0


@contextmanager
def shown(read: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Show what `read` returns, a job's progress, until the block ends."""
    ended = threading.Event()
    # A terminal that cannot go back in a line, such as an editor's, gets lines too.
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    target = _bar if sys.stderr.isatty() and not dumb else _lines
    thread = threading.Thread(target=target, args=(read, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def speed(progress: dict[str, Any]) -> str:
    """Return files, failures and pixels a second as text."""
    failed = progress.get("failed", 0)
    text = f"{progress.get('done', 0)}/{progress.get('total', 0)} files"
    text += f", {failed} failed" if failed else ""
    rate = progress.get("pixels_per_second", 0)
    return text + (f", {pixel_rate(rate)}" if rate else "")


def pixel_rate(rate: float) -> str:
    """Return pixels a second as text: 1.28 Gpx/s, 64.2 Mpx/s or 0.3 Mpx/s."""
    return f"{rate / 1e9:.2f} Gpx/s" if rate >= 1e9 else f"{rate / 1e6:.1f} Mpx/s"


def _lines(read: Callable[[], dict[str, Any]], ended: threading.Event) -> None:
    began: float | None = None
    while not ended.wait(LINE_SECONDS):
        progress = read()
        done, total = progress.get("done", 0), progress.get("total", 0)
        # Rows taken over cost nothing, so they say nothing of the time left.
        fresh = done - progress.get("reused", 0) - progress.get("recovered", 0)
        if began is None and fresh > 0:
            began, fresh_then = time.monotonic(), fresh
        line = progress.get("stage", "waiting")
        if progress.get("total"):
            line += f": {speed(progress)}"
        if began is not None and fresh > fresh_then and done < total:
            left = (total - done) * (time.monotonic() - began) / (fresh - fresh_then)
            line += f", {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _quiet_keys() -> Iterator[None]:
    """Keep the terminal from showing Ctrl-C as ^C: it would push the bar away from where it is erased."""
    import termios

    terminal = sys.stderr.fileno()
    try:
        # Only from the foreground: a job in the background is stopped by the kernel when it sets this.
        before = termios.tcgetattr(terminal) if os.tcgetpgrp(terminal) == os.getpgrp() else None
    except OSError:
        before = None  # not the terminal that controls this process
    if before is None:
        yield
        return
    quiet = list(before)
    quiet[3] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _bar(read: Callable[[], dict[str, Any]], ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with _quiet_keys(), bar:
        task = bar.add_task("listing", total=None, speed="")
        while True:
            last = ended.wait(REFRESH_SECONDS)
            progress = read()
            bar.update(
                task,
                description=progress.get("stage", "waiting"),
                total=progress.get("total") or None,
                completed=progress.get("done", 0),
                speed=speed(progress),
            )
            if last:
                return
