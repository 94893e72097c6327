"""A clock that faults move, for the processes that load moved_clock.c, and a record of its changes."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = shutil.which("cc")
"""libfaketime 0.9.10 cannot be used: with it, `time.sleep` of Python 3.11 fails with EINVAL."""

TOLERANCE = 0.1
"""Seconds by which time stamps of other processes and of this one may differ, although they share a clock."""


class MovedClock:
    """The clock of the processes that are started with `environment`; that of this process is the true one.

    folder  an empty folder, for a library and for the offset
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file, self._library = folder / "offset", folder / "moved_clock.so"
        self._file.write_bytes(bytes(8))
        self._changes = [(0.0, 0.0)]
        """(true time, offset since then in seconds)"""
        if COMPILER is not None:
            command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE)]
            subprocess.run(command, check=True)

    @property
    def can_move(self) -> bool:
        """Whether there is a C compiler."""
        return COMPILER is not None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the processes."""
        return {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._file)} if self.can_move else {}

    def move(self, seconds: float) -> None:
        """Set the clock to this offset from the true time."""
        self._changes.append((time.time(), seconds))
        with self._file.open("r+b") as file:  # in place: the processes have mapped it
            file.write(int(seconds).to_bytes(8, "little", signed=True))

    def true_times(self, moment: float) -> list[float]:
        """Return the true times at which the clock showed a time: more than one if it was set back."""
        ends = [begin for begin, _ in self._changes[1:]] + [float("inf")]
        return [
            moment - offset
            for (begin, offset), end in zip(self._changes, ends, strict=True)
            if begin - TOLERANCE <= moment - offset <= end + TOLERANCE
        ]
