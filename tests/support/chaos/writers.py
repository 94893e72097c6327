"""Clients that write: they change label maps, scan, tag, cancel, import, and run gc."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.chaos.http import send
from support.chaos.readers import WEIGHTS
from support.chaos.record import Request, Sighting, Tag
from support.commands import statsvc

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from support.chaos.changing_folder import ChangingFolder
    from support.chaos.record import Record

WATCHED = "watched"
"""The dataset whose changes nobody reports: the runners watch its source."""
IMPORTED = "imported"
"""The dataset that clients import counts into."""
TAG = "paper"
GRACE = "30s"
"""Grace period of gc: longer than any request of a client."""
KEEP_JOBS = 200
CANCELLED = 0.15
"""How often a client that could cancel a job does: on a busy machine, few jobs would end otherwise."""
GC_SECONDS = 8.0
"""Least time between two runs of gc."""


@dataclass
class Submitter:
    """Changes folders and requests scans: of a whole source, or of the paths that changed.

    Requests without an answer are sent again with the same key, and some of the others too.
    """

    url: str
    folders: Mapping[str, ChangingFolder]
    record: Record
    seed: int

    def run(self, stop: threading.Event) -> None:
        rng = random.Random(self.seed)
        while not stop.wait(rng.uniform(0.1, 0.6)):
            name = rng.choice(list(self.folders))
            changed = self.folders[name].change()
            if name != WATCHED:
                self._request(rng, name, changed)
            if self.record.requests and rng.random() < 0.4:
                unanswered = [request for request in self.record.requests if request.job is None]
                self.send(rng.choice(unanswered or self.record.requests), self.url)
            if self.record.jobs:
                self._follow(rng.choice(list(self.record.jobs)))

    def _request(self, rng: random.Random, name: str, changed: Sequence[str]) -> None:
        key = f"{self.seed}-{len(self.record.requests)}"
        if rng.random() < 0.4:
            request = Request(name, f"datasets/{name}/changed", {"paths": changed, "max_removed": 1}, key)
        else:
            body = {"dataset": name, "full": rng.random() < 0.2, "max_removed": 1}
            request = Request(name, "jobs", body, key)
        self.record.requests.append(request)
        self.send(request, self.url)

    def send(self, request: Request, url: str) -> bool:
        """Send a request, possibly again; return whether it was accepted."""
        try:
            response = send(f"{url}/{request.path}", request.body, headers={"Idempotency-Key": request.key})
        except OSError as error:
            self.record.no_answer(error)
            return False
        if not self.record.is_expected(f"POST {request.path}", response, 202):
            return False
        job: str = response.json()["id"]
        if request.job is None:
            request.job = job
            self.record.jobs[job] = request.dataset
        elif request.job == job:
            self.record.repeated += 1
        else:
            self.record.violate(f"key {request.key} gave job {request.job}, and later job {job}")
        if "paths" in request.body:
            self.record.named.setdefault(job, set()).update(request.body["paths"])
        return True

    def _follow(self, job_id: str) -> None:
        """Read a job; the version that it published is one that readers must get from now on."""
        sent = time.monotonic()
        try:
            response = send(f"{self.url}/jobs/{job_id}")
        except OSError as error:
            self.record.no_answer(error)
            return
        if self.record.is_expected(f"GET /jobs/{job_id}", response, 200):
            job = response.json()
            if job["version"] is not None:
                self.record.see(Sighting(None, job["dataset"], job["version"], sent, time.monotonic()))


@dataclass
class Operator:
    """Sets tags, cancels jobs, imports counts, and runs gc."""

    url: str
    datasets: Sequence[str]
    environment: Mapping[str, str]
    record: Record
    seed: int
    next_gc: float = 0.0

    def run(self, stop: threading.Event) -> None:
        rng = random.Random(self.seed)
        while not stop.wait(rng.uniform(0.2, 0.6)):
            act = rng.choice((self._tag, self._tag, self._read_tag, self._cancel, self._import, self._gc))
            try:
                act(rng)
            except OSError as error:
                self.record.no_answer(error)

    def _tag(self, rng: random.Random) -> None:
        dataset = rng.choice(self.datasets)
        if not (seen := self.record.seen_versions(dataset)):
            return
        number = rng.choice(seen[-3:])
        tag = self.record.tags.setdefault(dataset, Tag())
        was_uncertain = number in tag.uncertain
        tag.uncertain.add(number)
        path = f"datasets/{dataset}/tags/{TAG}"
        response = send(f"{self.url}/{path}", {"version": number}, method="PUT")
        if self.record.is_expected(f"PUT {path}", response, 200):
            tag.acknowledged = number
            if not was_uncertain:
                tag.uncertain.discard(number)

    def _read_tag(self, rng: random.Random) -> None:
        dataset = rng.choice(self.datasets)
        if (tag := self.record.tags.get(dataset)) is None:
            return
        path = WEIGHTS.format(dataset) + f"&version={TAG}"
        response = send(f"{self.url}/{path}")
        # 404: if no request for the tag was acknowledged, it does not have to exist.
        allowed = (200,) if tag.acknowledged is not None else (200, 404)
        is_current = response.headers["Age"] is None
        if (
            self.record.is_expected(f"GET {path}", response, *allowed)
            and response.status == 200
            and is_current
        ):
            version = int(response.json()["version"])
            if version in tag.possible:
                self.record.tagged += 1
            else:
                self.record.violate(f"GET {path}: version {version}, but the tag is {tag}")

    def _cancel(self, rng: random.Random) -> None:
        if not self.record.jobs or rng.random() > CANCELLED:
            return
        job_id = rng.choice(list(self.record.jobs)[-3:])
        self.record.cancelled.add(job_id)
        response = send(f"{self.url}/jobs/{job_id}/cancel", {})
        self.record.is_expected(f"POST /jobs/{job_id}/cancel", response, 200, 409)

    def _import(self, rng: random.Random) -> None:
        counts = {str(number): rng.randrange(1, 10**12) for number in range(3)}
        self.record.imports.append(counts)
        path = f"datasets/{IMPORTED}/versions/import"
        response = send(f"{self.url}/{path}", {"counts": counts})
        if self.record.is_expected(f"POST {path}", response, 201):
            self.record.imported[int(response.json()["number"])] = counts

    def _gc(self, _rng: random.Random) -> None:
        if time.monotonic() < self.next_gc:
            return
        self.next_gc = time.monotonic() + GC_SECONDS
        self.collect(GRACE)

    def collect(self, grace: str) -> bool:
        """Run gc; return whether it succeeded."""
        options = ("--grace", grace, "--keep-jobs", KEEP_JOBS, "--json")
        process = statsvc("gc", *options, code=None, env=self.environment)
        if process.returncode != 0 and not process.stdout:
            self.record.gc["failed"] += 1
            if not process.stderr.strip():
                self.record.violate(f"gc ended with code {process.returncode} and without a reason")
            return False
        result = json.loads(process.stdout)
        self.record.gc["succeeded"] += 1
        self.record.orphans += len(result["orphans"])
        self.record.expired += len(result["expired"])
        if result["damaged"] or result["unknown"]:
            self.record.violate(f"gc found damage: {result['damaged']}, unknown: {result['unknown']}")
        return True
