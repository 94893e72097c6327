"""Commands of statsvc on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CTRL_C = b"\x03"


@contextmanager
def on_terminal(*arguments: str | Path, columns: int = 80) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command on a terminal that controls it; yield the process and the terminal's descriptor."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, columns))
    command = [sys.executable, "-m", "statsvc", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    # A child inherits an ignored SIGINT, and a background job of a shell ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread is running
        )
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, end: bytes | None) -> bytes:
    """Read what the command prints until it has printed `end`; None reads until it exits."""
    output = b""
    while end is None or end not in output:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux: no process has the terminal open
            break
        if not piece:
            break
        output += piece
    return output


def read_to_end(terminal: int) -> str:
    """Read what the command prints until it exits. Ctrl-C may cut a character, which is replaced."""
    return read_until(terminal, None).decode(errors="replace")
