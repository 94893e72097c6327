"""The result of a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from support.chaos.resources import MEBIBYTE, Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class Tally:
    """What happened in a run, and what the checks found. Counts, unless something else is said.

    faults     of each kind
    targets    faults of each target
    pairs      how often two began together
    missed     faults that found no process to hit
    periods    (kind, begin, end) of each fault, by the monotonic clock
    reads      answers to each reader
    old_reads  answers from memory, with an `Age`
    oldest     the largest `Age`, in seconds
    gaps       {reader: {kind of fault: longest time without an answer, in seconds}}
    jobs       accepted jobs
    ended      jobs in each final state
    attempts   jobs with each number of attempts
    causes     failed and cancelled jobs with each reason
    versions   versions whose rows were compared with the files
    answers    different answers that clients received
    """

    form: str
    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    missed: int = 0
    periods: list[tuple[str, float, float]] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)
    old_reads: int = 0
    oldest: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    gaps: dict[str, dict[str, float]] = field(default_factory=dict)
    jobs: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    tagged: int = 0
    imports: int = 0
    cancelled: int = 0
    gc: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    expired: int = 0
    versions: int = 0
    rows: int = 0
    answers: int = 0
    resources: Resources = field(default_factory=Resources)

    def __str__(self) -> str:
        attempts = ", ".join(f"{n} after {k}" for k, n in sorted(self.attempts.items()))
        usage = (self.resources.first, self.resources.peak, self.resources.last)
        lines = [
            f"{self.form}, seed {self.seed}: {self.faults.total()} faults in {self.seconds:.0f} s, "
            f"{self.pairs} times two at a time, {self.missed} hit no process; {_listed(self.targets)}",
            f"reads: {_listed(self.reads)}, no version older than one seen before; "
            f"{self.old_reads} from memory, at most {self.oldest} s old",
            f"requests without an answer: {_listed(self.unanswered)}; rejected: {_listed(self.rejected)}",
            f"{self.answers} different answers and {self.versions} versions with {self.rows} rows equal "
            "np.bincount of the files at that time",
            f"jobs: {self.jobs} accepted, {_listed(self.ended)}; attempts: {attempts}",
            *(f"  {n} {cause} …" for cause, n in self.causes.most_common()),
            f"{self.repeated} repeated requests gave the same job; {self.tagged} reads of tags and "
            f"{self.imports} imports had the right result; {self.cancelled} jobs were to be cancelled",
            f"gc: {_listed(self.gc)}; {self.expired} versions marked, {self.orphans} orphans removed",
            *_table(
                ("fault", "times", *(f"{reader}, s" for reader in self.gaps)),
                (
                    (kind, str(n), *(f"{gaps.get(kind, 0.0):.1f}" for gaps in self.gaps.values()))
                    for kind, n in sorted(self.faults.items())
                ),
            ),
            *_table(
                ("memory (PSS) and open files", "before", "peak", "after"),
                ((name, *(_usage(at.get(name)) for at in usage)) for name in sorted(self.resources.peak)),
            ),
        ]
        return "\n".join(lines)

    def measure_gaps(self, answered: Mapping[str, Iterable[float]]) -> None:
        """Find the longest time without an answer of each reader during each kind of fault.

        answered  {reader: times of its answers}
        """
        for reader, times in answered.items():
            longest: dict[str, float] = defaultdict(float)
            ordered = sorted(times)
            gaps = [(b - a, a, b) for a, b in pairwise(ordered) if b - a > 0.2]
            for kind, begin, end in self.periods:
                overlapping = [length for length, a, b in gaps if a < end and b > begin]
                longest[kind] = max(longest[kind], *overlapping, 0.0)
            self.gaps[reader] = dict(longest)


def _usage(usage: tuple[int, int, int] | None) -> str:
    return "–" if usage is None else f"{usage[1] / MEBIBYTE:.0f} MiB, {usage[2]}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return aligned lines."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
