"""Upgrade an installation from earlier releases to this one, while clients read (`make upgrade-test`).

Two API servers behind HAProxy, two runners, PostgreSQL, and versions in a folder. Earlier releases come from
the history of this checkout and run with the installed dependencies. The steps are those of "Upgrade" in
docs/how-to/operate.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import psycopg

from statsvc.store.catalog.engine import COMPATIBLE_FROM, SCHEMA
from support.checked_reads import QUERY, Labels, Reads, reading
from support.cluster import PROJECT
from support.installation import (
    JOB_SECONDS,
    Installation,
    expect,
    extract,
    release_environment,
    run,
    stop_all,
)
from support.postgres import CRASH_SAFE_SETTINGS, postgres_server
from support.servers import free_port, responds
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

EARLIER = ("82eb282", "f85c47b")
"""Earlier releases: the last one before today's layout, whose servers need exactly schema 0003, and the last
one with schema 0004, whose servers can use newer schemas that only add."""

DATASETS = ("street", "garden")
STARTED = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def schema(installation: Installation) -> str:
    """Return the schema of the catalog."""
    with psycopg.connect(installation.postgres.conninfo(installation.database)) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(revision)


def back_up(it: Installation) -> None:
    """Copy catalog and versions with the old release, as "Back up" describes."""
    it.command(it.old, "gc", "--pause")
    url = it.postgres.url(it.database).replace("+psycopg", "")
    run("pg_dump", "--format=custom", f"--file={it.folder / 'catalog.dump'}", url)
    run("cp", "-a", str(it.folder / "versions"), str(it.folder / "backup"))
    it.command(it.old, "gc", "--resume")


def newest(labels: Mapping[str, Labels]) -> dict[str, tuple[int, list[float]]]:
    """Return the newest version of each dataset and its weights."""
    return {name: max(each.weights.items()) for name, each in labels.items()}


def check_answers(port: int, wanted: Mapping[str, tuple[int, list[float]]]) -> None:
    """Check version and weights of each dataset at one server."""
    for name, (version, weights) in wanted.items():
        body = httpx2.get(f"http://127.0.0.1:{port}/weights", params=QUERY | {"dataset": name}).json()
        expect(f"the version of {name}", body["version"], version)
        expect(f"the weights of {name}", bool(np.allclose(body["weights"], weights, rtol=1e-12)), True)


def restore(it: Installation, wanted: Mapping[str, tuple[int, list[float]]]) -> None:
    """Restore the backup into an empty database, and check what the old release answers from it."""
    database = it.postgres.database()
    url = it.postgres.url(database).replace("+psycopg", "")
    run("pg_restore", f"--dbname={url}", str(it.folder / "catalog.dump"))
    settings = {"database": database, "store": "backup"}
    it.command(it.old, "gc", "--resume", **settings)
    it.command(it.old, "verify", **settings)
    port = free_port()
    it.start("restored", it.old, "serve", "--no-runner", "--port", port, **settings)
    wait_for(lambda: it.is_running("restored") and responds(f"http://127.0.0.1:{port}/readyz"))
    check_answers(port, wanted)
    it.stop("restored")


def start_old_server(it: Installation, wanted: Mapping[str, tuple[int, list[float]]] | None) -> str:
    """Start a server of the old release with the new schema; return what happens.

    wanted  what it must answer; None if it must not start
    """
    port = free_port()
    role = it.start("downgrade", it.old, "serve", "--no-runner", "--port", port)
    process = role.process
    assert process is not None
    wait_for(lambda: process.poll() is not None or responds(f"http://127.0.0.1:{port}/readyz"))
    expect("a server of the old release runs with the new schema", process.poll() is None, wanted is not None)
    if wanted is None:
        reasons = [line.strip() for line in role.log.read_text().splitlines() if "schema" in line]
        return f"is refused: {reasons[-1]}"
    check_answers(port, wanted)
    it.stop("downgrade")
    return "starts, and answers the newest versions"


def upgrade(it: Installation, labels: dict[str, Labels]) -> None:
    """Go through the documented steps, and count changed label maps before, during and after each."""
    is_compatible = it.old_schema >= COMPATIBLE_FROM
    it.count(labels, *DATASETS)
    say(f"   schema {it.old_schema}; the label maps of both datasets were changed and counted again")
    it.reload_proxy()
    it.count(labels, "street")
    say("1. the proxy has the configuration of the new release")
    back_up(it)
    backup = newest(labels)
    say("2. catalog and versions are backed up")

    it.count(labels, "street", while_running=lambda: it.command(it.new, "upgrade"))
    expect("the schema", schema(it), SCHEMA)
    statuses = {name: it.status(name) for name in ("api1", "api2")}
    say(f"3. statsvc upgrade during a job: schema {SCHEMA}; /readyz of the old servers: {statuses}")
    expect("/readyz of the old servers", set(statuses.values()), {200 if is_compatible else 503})
    started = start_old_server(it, newest(labels) if is_compatible else None)
    say(f"   another server of the old release {started}")
    it.count(labels, *DATASETS)
    say("   old servers and runners have counted both datasets again with the new schema")

    for name in ("api1", "api2"):
        it.stop(name)
        it.start_api(name, it.new)
        it.gets_reads(name)
        it.count(labels, *DATASETS)
        say(f"4. {name} has the new release and gets requests; both datasets were counted again")
    for name in ("runner1", "runner2"):
        # With both runners busy, the one that stops requeues its job, and the other one finishes it.
        it.count(labels, *DATASETS, while_running=partial(it.stop, name))
        it.start_runner(name, it.new)
        say(f"5. {name} was stopped during two jobs, which succeeded, and has the new release")
    it.count(labels, *DATASETS)
    say("   both datasets were counted again")
    if is_compatible:
        say(f"   going back: a server of the old release {start_old_server(it, newest(labels))}")
    restore(it, backup)
    say("   the backup, restored into another database, is served by the old release")


def check_the_end(it: Installation, labels: dict[str, Labels], reads: Reads) -> None:
    """Check every job, every version ever published, and every answer."""
    states = Counter(it.job(job)["state"] for job in it.jobs)
    expect("jobs", states, Counter(succeeded=len(it.jobs)))
    it.command(it.new, "verify")
    with httpx2.Client(base_url=it.url) as client:
        for name in DATASETS:
            for version in labels[name].weights:
                reads.read(client, name, labels[name], version)
    versions = sum(len(each.weights) for each in labels.values())
    say(f"   {states.total()} jobs succeeded; {versions} versions of both releases equal np.bincount")
    say(f"   reads: {dict(reads.answers)}; failed or wrong: {len(reads.wrong)}")
    say(f"   answers with an older version than an earlier one: {dict(+reads.went_back)}")
    if reads.wrong:
        sys.exit("\n".join(reads.wrong[:20]))
    # Servers before schema 0004 polled for new versions, so one could be ahead of the other.
    releases = ("old", "new") if it.old_schema >= COMPATIBLE_FROM else ("new",)
    expect("answers with an older version", sum(reads.went_back[release] for release in releases), 0)


def rolling_upgrade(commit: str) -> None:
    """Upgrade from one release; exit with 1 and the reason if something differs from what is documented."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="statsvc-upgrade-")))
        extract(commit, folder / "old")
        postgres = stack.enter_context(postgres_server(CRASH_SAFE_SETTINGS))
        old, new = release_environment(folder / "old"), release_environment(PROJECT)
        it = Installation(folder, postgres, postgres.database(), old, new)
        stack.callback(stop_all, it)
        labels = {name: Labels(folder / name, seed) for seed, name in enumerate(DATASETS)}
        it.command(it.old, "upgrade")
        it.old_schema = schema(it)
        for name in ("api1", "api2"):
            it.start_api(name, it.old)
        for name in ("runner1", "runner2"):
            it.start_runner(name, it.old)
        it.start_proxy()
        wait_for(lambda: responds(f"{it.url}/readyz"))
        for name in DATASETS:
            answer = httpx2.post(f"{it.url}/datasets", json={"name": name, "source": str(folder / name)})
            it.jobs.append(answer.raise_for_status().json()["job"]["id"])
        known = [(server, f"/weights?dataset={name}") for server in it.ports for name in DATASETS]
        wait_for(lambda: all(it.status(*request) == 200 for request in known), JOB_SECONDS)
        say(f"two servers and two runners of {commit} behind HAProxy; two datasets are counted")
        with reading(it.url, labels) as reads:
            upgrade(it, labels)
        check_the_end(it, labels, reads)


def main() -> None:
    """Upgrade from each of the named commits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commits", nargs="*", default=EARLIER, help="earlier releases")
    for commit in parser.parse_args().commits:
        rolling_upgrade(commit)


if __name__ == "__main__":
    main()
