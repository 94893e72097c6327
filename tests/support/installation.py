"""Two API servers behind HAProxy, two runners and PostgreSQL, each role with a release of its own."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import psycopg

from support.cluster import HAPROXY, PROJECT, Role
from support.servers import free_port, responds
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.checked_reads import Labels
    from support.postgres import PostgresServer


JOB_SECONDS = 600
"""How long a job may take on a busy machine; a release may pause between its attempts."""


def expect(what: str, found: object, wanted: object) -> None:
    """Exit unless two values are equal."""
    if found != wanted:
        sys.exit(f"{what}: got {found}, expected {wanted}")


def run(*command: str, **options: Any) -> str:
    """Run a command and return its output; exit with it if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return str(done.stdout)


def extract(commit: str, folder: Path) -> None:
    """Write a commit's packages and proxy to a folder. Exit if this checkout does not contain the commit."""
    archive = subprocess.run(
        ["git", "-C", str(PROJECT), "archive", commit, "deploy", "statsvc", "workers"], capture_output=True
    )
    if archive.returncode:
        reason = archive.stderr.decode().strip()
        sys.exit(
            f"the earlier release {commit} is not available ({reason}); nothing was tested. "
            "Run this in a clone with its history: git fetch --unshallow"
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def release_environment(tree: Path) -> dict[str, str]:
    """Return the variables with which Python imports statsvc from a source tree only."""
    # The first milestone's workers are the package `workers`, later ones are in the folder `workers`.
    folders = [tree, tree / "workers"] if (tree / "workers" / "statsvc_workers").exists() else [tree]
    return {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONSAFEPATH": "1"}


@dataclass
class Installation:
    """The roles of one installation, whose release can change role by role.

    old, new  variables of the earlier release and of this one
    ports     of the API servers
    jobs      ids of all jobs that were queued
    """

    folder: Path
    postgres: PostgresServer
    database: str
    old: dict[str, str]
    new: dict[str, str]
    roles: dict[str, Role] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: {"api1": free_port(), "api2": free_port()})
    old_schema: str = ""
    proxy_port: int = field(default_factory=free_port)
    jobs: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    def environment(self, release: dict[str, str], database: str = "", store: str = "") -> dict[str, str]:
        """Return the variables of a process of a release."""
        return {
            **os.environ,
            "STATSVC_HOME": str(self.folder / "home"),
            "STATSVC_DATABASE": self.postgres.url(database or self.database),
            "STATSVC_STORE": str(self.folder / (store or "versions")),
            **release,
        }

    def start(self, name: str, release: dict[str, str], *arguments: str | int, **settings: str) -> Role:
        """Start a role as `statsvc ARGUMENTS`."""
        command = [sys.executable, "-m", "statsvc", "-v", *map(str, arguments)]
        role = Role(name, command, self.environment(release, **settings), self.folder / f"{name}.log")
        self.roles[name] = role
        role.start()
        return role

    def start_api(self, name: str, release: dict[str, str]) -> None:
        """Start an API server and wait until it can be used."""
        port = self.ports[name]
        self.start(name, release, "serve", "--no-runner", "--port", port, "--root", str(self.folder))
        wait_for(lambda: self.is_running(name) and responds(f"http://127.0.0.1:{port}/readyz"))

    def start_runner(self, name: str, release: dict[str, str]) -> None:
        """Start a runner; one of this release has reported when it returns."""
        before = self._reported_runners()
        self.start(name, release, "runner", "--workers", 1)
        if release is self.new:
            wait_for(lambda: self.is_running(name) and self._reported_runners() - before)

    def _reported_runners(self) -> set[str]:
        """Return the runners in the catalog; releases before schema 0004 have no list of them."""
        with psycopg.connect(self.postgres.conninfo(self.database)) as connection:
            if connection.execute("SELECT to_regclass('runners')").fetchone() == (None,):
                return set()
            return {str(owner) for (owner,) in connection.execute("SELECT owner FROM runners")}

    def start_proxy(self) -> None:
        """Start HAProxy with the configuration of the old release."""
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            sys.exit("HAProxy is not installed. Run: apt-get install haproxy")
        configuration = self.folder / "haproxy.cfg"
        shutil.copy(self.folder / "old" / "deploy" / "haproxy.cfg", configuration)
        addresses = {name.upper(): f"127.0.0.1:{port}" for name, port in self.ports.items()}
        environment = {**os.environ, "BIND": f"127.0.0.1:{self.proxy_port}", **addresses}
        # -W: a parent process that replaces its child to reload, as the units and images of HAProxy use it.
        command = [program, "-W", "-f", str(configuration)]
        self.roles["proxy"] = Role("proxy", command, environment, self.folder / "proxy.log")
        self.roles["proxy"].start()

    def reload_proxy(self) -> None:
        """Replace the configuration of HAProxy by that of this release, and reload it."""
        log = self.roles["proxy"].log
        reloaded = log.read_text().count("Loading success")
        shutil.copy(HAPROXY, self.folder / "haproxy.cfg")
        os.kill(self.roles["proxy"].pid, signal.SIGUSR2)
        wait_for(lambda: log.read_text().count("Loading success") > reloaded)

    def is_running(self, name: str) -> bool:
        """Whether a role runs; exit with the end of its log if it has ended by itself."""
        role = self.roles[name]
        if role.process is None or role.process.poll() is not None:
            sys.exit(f"{name} has ended:\n{role.log.read_text(errors='replace')[-2000:]}")
        return True

    def stop(self, name: str) -> None:
        """Send SIGTERM, as systemd and Docker do, and wait until the process has ended."""
        process = self.roles[name].process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def command(self, release: dict[str, str], *arguments: str, **settings: str) -> str:
        """Run a command of a release; exit with its output if it fails."""
        return run(*(sys.executable, "-m", "statsvc", *arguments), env=self.environment(release, **settings))

    def status(self, name: str, path: str = "/readyz") -> int:
        """Return the status of a request to one server."""
        return httpx2.get(f"http://127.0.0.1:{self.ports[name]}{path}").status_code

    def gets_reads(self, name: str) -> None:
        """Wait until the proxy has sent a request for weights to a server of this release."""
        url = f"http://127.0.0.1:{self.ports[name]}/metrics"
        served = 'statsvc_http_requests_total{method="GET",route="/weights",status="200"}'
        wait_for(lambda: any(line.startswith(served) for line in httpx2.get(url).text.splitlines()))

    def submit(self, name: str) -> str:
        """Queue a scan through the proxy; return the id of the job."""
        answer = httpx2.post(f"{self.url}/jobs", json={"dataset": name})
        expect(f"POST /jobs for {name}: {answer.text}", answer.status_code, 202)
        self.jobs.append(answer.json()["id"])
        return self.jobs[-1]

    def job(self, job: str) -> dict[str, Any]:
        """Return a job."""
        answer: dict[str, Any] = httpx2.get(f"{self.url}/jobs/{job}").raise_for_status().json()
        return answer

    def count(
        self, labels: dict[str, Labels], *names: str, while_running: Callable[[], object] | None = None
    ) -> None:
        """Change the label maps of datasets, count them, and check that each job publishes its version."""
        versions = {name: labels[name].change() for name in names}
        jobs = {name: self.submit(name) for name in names}
        if while_running is not None:
            wait_for(lambda: all(self.job(job)["state"] == "running" for job in jobs.values()))
            while_running()
        for name, job in jobs.items():
            wait_for(partial(self._has_ended, job), JOB_SECONDS)
            ended = self.job(job)
            found = (ended["state"], ended["error"], ended["version"])
            expect(f"the job of {name}", found, ("succeeded", None, versions[name]))

    def _has_ended(self, job: str) -> bool:
        return self.job(job)["finished_at"] is not None


def stop_all(it: Installation) -> None:
    """Stop every role; HAProxy ends its child process only if it is stopped in order."""
    for role in it.roles.values():
        role.terminate()
    for role in it.roles.values():
        role.stop()
