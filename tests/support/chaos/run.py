"""A run: an installation, its clients, faults, and the checks afterwards."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from support.chaos import checks
from support.chaos.changing_folder import ChangingFolder
from support.chaos.faults import HANG_SECONDS, LONGEST_SECONDS, Planned, schedule, table
from support.chaos.forms import FORMS
from support.chaos.http import send
from support.chaos.readers import read, read_samples
from support.chaos.record import Record, Request
from support.chaos.resources import INTERVAL
from support.chaos.tally import Tally
from support.chaos.writers import WATCHED, Operator, Submitter
from support.threads import running
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from support.chaos.installation import Installation

FORMATS = {"north": ".png", "south": ".npy", WATCHED: ".png"}
"""The datasets, and the format of their files. On one machine, PNG files are counted without workers."""
KEEP = {"north": 20, "south": 4, WATCHED: 20}
"""How many versions of each dataset keep their rows."""
START_SECONDS = 600.0
"""Time in which the installation starts and publishes the first versions, also on a busy machine."""
PATIENCE_SECONDS = 5.0
"""How long to wait for a new version before the next fault: on a busy machine, no job would end otherwise."""
JOB_SECONDS = 600.0
"""Time in which every job must end after the last fault. The longest pause between two attempts is 125 s."""
WATCH_SECONDS = 300.0
"""Time in which a change in a watched folder must be in a version."""
FINAL_STATES = ("succeeded", "failed", "cancelled")


class Violation(AssertionError):
    """A check failed. The text says how to repeat the run."""


def chaos(
    folder: Path,
    form: str,
    faults: int,
    seed: int,
    *,
    hang: float = HANG_SECONDS,
    longest: float = LONGEST_SECONDS,
    report: Callable[[str], None] = lambda _line: None,
) -> Tally:
    """Break an installation while clients use it. Raises `Violation` if anything was lost or wrong.

    folder   empty folder for label maps, logs and state
    form     "cluster" or "sqlite"
    faults   number of faults
    hang     longest time for which Dask's scheduler and workers stop, in seconds
    longest  faults that last longer, in seconds, are left out
    report   called with a line for each fault
    """
    log = (folder / "faults.log").open("w", buffering=1)
    tally, record = Tally(form, seed), Record()

    def note(line: str) -> None:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        report(line)

    try:
        with log:
            start, labels = time.monotonic(), folder / "labels"
            labels.mkdir()
            with FORMS[form](folder / form, labels) as installation:
                planned = schedule(table(installation, hang, longest), faults, seed)
                _run(installation, labels, planned, tally, record, note)
            tally.seconds = time.monotonic() - start
            return tally
    except Exception as error:
        before = [text for text in record.violations if text not in str(error)]
        options = f"FORM={form} FAULTS={faults} SEED={seed} HANG={hang:g} LONGEST={longest:g}"
        raise Violation(
            "\n".join([str(error), *before])
            + f"\n\nRepeat it with: make chaos {options}\nLogs, faults.log and label maps: {folder}"
        ) from error


def _run(
    installation: Installation,
    labels: Path,
    planned: Iterable[Planned],
    tally: Tally,
    record: Record,
    note: Callable[[str], None],
) -> None:
    """Run the clients and the faults, then the checks."""
    folders = {
        # A scan that nobody asked for must not remove many files.
        name: ChangingFolder(labels / name, suffix, tally.seed + n, shrinks=name != WATCHED)
        for n, (name, suffix) in enumerate(FORMATS.items())
    }
    operator = Operator(installation.proxy, list(folders), installation.environment, record, tally.seed)
    submitter = Submitter(installation.proxy, folders, record, tally.seed)
    _register(installation, folders, record)
    with _clients(installation, folders, record, submitter, operator, tally.seed):
        wait_for(
            lambda: len(record.seen_versions(WATCHED)) > 0 and min(map(len, record.answered.values())) > 5,
            START_SECONDS,
        )
        tally.resources.first = tally.resources.sample(installation.victims)
        with _measuring(installation, tally):
            for each in planned:
                _wait_for_version(record, PATIENCE_SECONDS)
                time.sleep(each.pause)
                note(str(each))
                _inflict(installation, each, tally)
        note("no more faults")
        installation.heal()
        note("every service is ready")
        wait_for(partial(_all_answered, record, time.monotonic()))
    _finish(installation, folders, record, submitter)
    tally.resources.last = tally.resources.sample(installation.victims)
    checks.check(installation, folders, record, operator, tally)


def _register(installation: Installation, folders: dict[str, ChangingFolder], record: Record) -> None:
    """Register the datasets, and wait for their first versions."""
    for name, changing in folders.items():
        body = {
            "name": name,
            "source": str(changing.path),
            "pattern": f"*{changing.suffix}",
            "watch": name == WATCHED,
        }
        response = send(f"{installation.proxy}/datasets", body)
        assert response.status == 201, response.body
        record.jobs[response.json()["job"]["id"]] = name
        response = send(f"{installation.proxy}/datasets/{name}", {"keep": KEEP[name]}, method="PATCH")
        assert response.status == 200, response.body
    for url in [f"{installation.proxy}/datasets/{name}" for name in folders]:
        wait_for(partial(_has_version, url), START_SECONDS)


def _wait_for_version(record: Record, seconds: float) -> None:
    """Wait until a reader gets a version that none has got before, at most for these seconds."""
    known, deadline = len(record.weights), time.monotonic() + seconds
    while len(record.weights) == known and time.monotonic() < deadline:
        time.sleep(0.05)


def _all_answered(record: Record, since: float) -> bool:
    """Whether every reader has received an answer after a time."""
    return all(times[-1] > since for times in record.answered.values())


def _has_version(url: str) -> bool:
    return send(url).json()["version"] is not None


@contextlib.contextmanager
def _clients(
    installation: Installation,
    folders: dict[str, ChangingFolder],
    record: Record,
    submitter: Submitter,
    operator: Operator,
    seed: int,
) -> Iterator[None]:
    """Run the clients in threads; an error of a client is a violation."""
    stop = threading.Event()
    urls = {"proxy": installation.proxy} | {f"server {n + 1}": url for n, url in enumerate(installation.apis)}

    def run(client: Callable[..., None], *arguments: object) -> None:
        try:
            client(*arguments)
        except Exception as error:
            record.violate(f"{client.__qualname__} failed: {error!r}")
            raise

    readers = [
        partial(read, name, url, list(folders), record, stop, seed + n)
        for n, (name, url) in enumerate(urls.items())
    ]
    apis = [installation.proxy, *installation.apis]
    samples = partial(read_samples, apis, list(folders), record, stop, seed)
    with running(*readers, samples, partial(submitter.run, stop), partial(operator.run, stop), stop=stop):
        yield


@contextlib.contextmanager
def _measuring(installation: Installation, tally: Tally) -> Iterator[None]:
    """Measure memory and open files every few seconds."""
    stop = threading.Event()

    def measure() -> None:
        while not stop.wait(INTERVAL):
            tally.resources.sample(installation.victims)

    with running(measure, stop=stop):
        yield


def _inflict(installation: Installation, planned: Planned, tally: Tally) -> None:
    """Begin faults together, and end each one after its duration."""
    begin = time.monotonic()
    for fault, _ in planned.faults:
        fault.begin()
        tally.faults[fault.kind] += 1
        tally.targets[fault.target] += 1
    tally.pairs += len(planned.faults) - 1
    try:
        for fault, duration in sorted(planned.faults, key=lambda each: each[1]):
            time.sleep(max(0.0, begin + duration - time.monotonic()))
            fault.end()
            installation.revive()
            tally.periods.append((fault.kind, begin, time.monotonic()))
    finally:
        for fault, _ in planned.faults:
            fault.end()


def _finish(
    installation: Installation, folders: dict[str, ChangingFolder], record: Record, submitter: Submitter
) -> None:
    """Repeat every request for a job, and wait for the end of all jobs and a final scan of each folder."""
    for request in list(record.requests):
        for url in installation.apis:
            wait_for(partial(submitter.send, request, url))
    _wait_for_jobs(installation, record)
    for name in folders:
        if name != WATCHED:
            request = Request(name, "jobs", {"dataset": name, "max_removed": 1}, f"final-{name}")
            record.requests.append(request)
            wait_for(partial(submitter.send, request, installation.proxy))
    _wait_for_jobs(installation, record)
    # Nobody asks for a scan of this dataset, so its version shows that runners noticed every change.
    wait_for(lambda: checks.is_current(installation, folders[WATCHED], WATCHED), WATCH_SECONDS)


def _wait_for_jobs(installation: Installation, record: Record) -> None:
    deadline = time.monotonic() + JOB_SECONDS
    running = set(record.jobs)
    while running:
        for job_id in sorted(running):
            response = send(f"{installation.proxy}/jobs/{job_id}")
            assert response.status != 404, f"job {job_id} was accepted but does not exist"
            if response.status == 200 and response.json()["state"] in FINAL_STATES:
                running.discard(job_id)
        assert time.monotonic() < deadline, f"these jobs do not end: {running}"
        time.sleep(0.2)
