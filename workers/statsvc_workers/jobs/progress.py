"""How far a scan is: one object that the scan fills and that terminals, logs and the catalog read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

LISTED_FAILURES = 20
"""Failed samples that a job names; the version names all of them."""


@dataclass(slots=True)
class Progress:
    """Counts of samples: `total` listed, of which `reused`, `counted` and `failed` are done with.

    `removed` were in the version before and are gone; `ignored` are changed paths, of a job that names
    some, which mean no sample; `recovered`, a part of `counted`, come from an
    attempt that did not finish. `pixels` and `seconds` speak of the samples counted by this attempt.
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
    failures: list[tuple[str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Samples that need no more work."""
        return self.reused + self.counted + self.failed

    def fail(self, path: str, error: str) -> None:
        """Record a sample that cannot be read."""
        self.failed += 1
        if len(self.failures) < LISTED_FAILURES:
            self.failures.append((path, error))

    def rate(self) -> float:
        """Return pixels counted a second since counting began."""
        return self.pixels / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that a job carries."""
        return {
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
        }
