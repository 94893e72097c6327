"""Progress of a scan: updated by the scan; read by terminals, logs and the catalog."""

from __future__ import annotations

import logging
import time
from typing import Any

from msgspec import Struct, field

log = logging.getLogger(__name__)

LISTED_FAILURES = 20
"""Unreadable samples that a job lists; the version lists all of them."""

LISTED_WARNINGS = 20
"""The newest warnings that a job lists; the log of its runner contains all of them."""


class Progress(Struct):
    """Progress of one attempt, in numbers of samples.

    stage      current step, for display
    total      samples in the listing
    reused     rows copied from the current version
    counted    samples counted by this or an earlier attempt
    recovered  those of `counted` that come from checkpoints of unfinished attempts
    failed     samples that cannot be read
    removed    samples of the current version that no longer exist
    ignored    paths reported as changed that are not samples
    pixels     pixels counted by this attempt
    selection  which files are counted and which are skipped, as text; empty if unknown
    failures   (path, error) of the first unreadable samples
    warnings   what failed and was replaced, such as a worker, in sentences
    reasons    error → number of samples, for the first different errors
    progressed_at  when the progress changed last, in seconds since 1970 by the catalog's clock; set by the
                   thread that writes it to the catalog
    started    start time, in seconds of the monotonic clock
    seconds    duration of counting in this attempt
    """

    stage: str = "listing"
    total: int = 0
    reused: int = 0
    counted: int = 0
    recovered: int = 0
    failed: int = 0
    removed: int = 0
    ignored: int = 0
    pixels: int = 0
    selection: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    progressed_at: float | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Finished samples."""
        return self.reused + self.counted + self.failed

    def fail(self, path: str, error: str) -> None:
        """Record a sample that cannot be read."""
        self.failed += 1
        if error in self.reasons or len(self.reasons) < LISTED_FAILURES:
            self.reasons[error] = self.reasons.get(error, 0) + 1
        if len(self.failures) < LISTED_FAILURES:
            self.failures.append((path, error))

    def warn(self, text: str) -> None:
        """Record and log what failed and was replaced."""
        log.warning("%s", text)
        self.warnings = [*self.warnings, text][-LISTED_WARNINGS:]

    def restart(self) -> None:
        """Reset the numbers of samples before every sample is counted again."""
        self.reused = self.counted = self.failed = self.recovered = self.pixels = self.ignored = 0
        self.failures.clear()
        self.reasons.clear()

    def rate(self) -> float:
        """Return pixels per second since counting began."""
        return self.pixels / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that a job stores."""
        selection = {"selection": self.selection} if self.selection else {}
        return selection | {
            "stage": self.stage,
            "total": self.total,
            "done": self.done,
            "reused": self.reused,
            "counted": self.counted,
            "recovered": self.recovered,
            "failed": self.failed,
            "removed": self.removed,
            "ignored": self.ignored,
            "pixels": self.pixels,
            "pixels_per_second": round(self.rate()),
            "failures": [{"path": path, "error": error} for path, error in list(self.failures)],
            "warnings": self.warnings,
            "progressed_at": self.progressed_at,
        }
