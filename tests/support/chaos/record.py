"""What clients of an installation saw, and what was wrong with it. Any thread may add to it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from support.chaos.http import Response, documented_problems

ALWAYS_WRONG = {"internal-error", "damaged-version"}
"""Documented problems that no fault of a run may cause."""


Answer: TypeAlias = tuple[str, bytes]
"""ETag and body."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A client saw the number of a version. Times are of the monotonic clock.

    client   name of the reader that asked for the current version; None: a job said that it published it
    sent     when it sent the request
    age      the answer's `Age`: how old it is, in seconds; None: current
    """

    client: str | None
    dataset: str
    version: int
    sent: float
    received: float
    age: int | None = None


@dataclass
class Request:
    """A request for a job, with an idempotency key. `job` is the id of its job, once an answer arrived."""

    dataset: str
    path: str
    body: dict[str, Any]
    key: str
    job: str | None = None


@dataclass
class Tag:
    """The versions that a tag may name.

    acknowledged  the version to which a client set it last
    uncertain     versions to which requests without an answer may set it, also later
    """

    acknowledged: int | None = None
    uncertain: set[int] = field(default_factory=set)

    @property
    def possible(self) -> set[int]:
        return self.uncertain | ({self.acknowledged} if self.acknowledged is not None else set())


@dataclass
class Record:
    """What clients saw.

    sightings   versions that clients saw
    weights     {(dataset, version): ETag and body of its weights}
    histograms  {(dataset, version): ETag and body of its histogram}
    samples     {(dataset, version): {path: counts, or None if unreadable}}
    answered    {client: times at which an answer with content arrived}
    requests    requests for jobs
    jobs        {job id: dataset} of jobs that a server accepted
    named       {job id: changed paths that clients named}
    cancelled   ids of jobs that a client asked to cancel
    imports     counts that a client sent, by class id, in order
    imported    {version: counts} of imports that a server acknowledged
    tags        {dataset: what its tag may name}
    tagged      number of answers for a tag that had the right version
    unanswered  number of requests without an answer, by reason
    rejected    number of answers with a problem, by type
    gc          number of runs of gc, by result
    orphans     number of orphans that gc removed
    expired     number of versions whose rows gc marked
    repeated    number of requests for jobs that were sent again and gave the same job
    violations  what contradicts the documentation
    """

    sightings: list[Sighting] = field(default_factory=list)
    weights: dict[tuple[str, int], Answer] = field(default_factory=dict)
    histograms: dict[tuple[str, int], Answer] = field(default_factory=dict)
    samples: dict[tuple[str, int], dict[str, dict[int, int] | None]] = field(default_factory=dict)
    answered: dict[str, list[float]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    named: dict[str, set[str]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    imports: list[dict[str, int]] = field(default_factory=list)
    imported: dict[int, dict[str, int]] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)
    tagged: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    gc: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    expired: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list)
    _documented: dict[str, int] = field(default_factory=documented_problems)

    def is_expected(self, what: str, response: Response, *expected: int) -> bool:
        """Whether a response has one of the expected statuses; count any other one.

        A response that the documentation does not permit during a fault is a violation.
        """
        if response.status in expected:
            return True
        if response.is_of_proxy:
            self.rejected[f"{response.status} of the proxy"] += 1
            return False
        problem = response.problem
        self.rejected[problem or str(response.status)] += 1
        documented = problem is not None and self._documented.get(problem) == response.status
        if not documented or response.status < 500 or problem in ALWAYS_WRONG:
            self.violate(f"{what}: {response.status} {response.body[:500]!r}")
        return False

    def no_answer(self, error: OSError) -> None:
        """Count a request that got no answer."""
        self.unanswered[type(error).__name__] += 1

    def violate(self, text: str) -> None:
        """Record what contradicts the documentation, with the time at which it was noticed."""
        self.violations.append(f"{time.strftime('%H:%M:%S')} {text}")

    def see(self, sighting: Sighting) -> None:
        """Record that a client saw a version."""
        self.sightings.append(sighting)

    def seen_versions(self, dataset: str) -> list[int]:
        """Return the versions of a dataset whose weights a client has received, in ascending order."""
        return sorted(number for name, number in list(self.weights) if name == dataset)

    def compare(self, answers: dict[tuple[str, int], Answer], key: tuple[str, int], answer: Answer) -> None:
        """Record the answer for a version; it must not differ from an earlier one."""
        before = answers.setdefault(key, answer)
        if before != answer:
            self.violate(f"{key[0]} version {key[1]} has two answers: {before} and {answer}")
