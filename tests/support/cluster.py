"""Every role of statsvc as a process of its own on this machine, as several hosts would have them.

PostgreSQL, an S3 server, a Dask scheduler and workers, runners, and API servers behind one port. Processes
listen on loopback, write their output to files, and are ended by their ids.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.store import home as homes
from statsvc.store.catalog.engine import upgrade_url
from support.object_store import BUCKET, S3Server, s3_server
from support.object_store import environment as in_environment
from support.postgres import KILLED, Server, server
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from statsvc.store.home import Home

PROJECT = Path(__file__).parents[2]
HAPROXY = PROJECT / "deploy" / "haproxy.cfg"
VERSIONS, LABELS = "versions", "labels"
"""Prefixes of the bucket: the store's, and the one below which requests may register label maps."""


@dataclass
class Role:
    """One process of the cluster, which can be killed and started again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                cwd=PROJECT,
                start_new_session=True,  # Ctrl-C reaches whoever runs the cluster, which then ends the roles
            )

    def kill(self) -> None:
        """End it as a crash does, SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Ask it to end; insist after 3 s: a Dask worker looks long for a scheduler that ends as well."""
        self.end()
        if self.process is not None:
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class Cluster:
    """A running cluster.

    folder   logs, and what tests put there
    home     how this process opens the same catalog and store
    url      the one port in front of the API servers
    apis     the URL of each API server
    dask     the scheduler's address
    roles    by name: scheduler, worker1, …, runner1, …, api1, …, proxy
    """

    folder: Path
    home: Home
    postgres: Server
    objects: S3Server
    environment: dict[str, str]
    dask: str = ""
    url: str = ""
    apis: list[str] = field(default_factory=list)
    roles: dict[str, Role] = field(default_factory=dict)

    def add(self, name: str, *command: str | int | Path, **environment: str) -> Role:
        """Start a role and return it."""
        role = Role(
            name, [str(part) for part in command], self.environment | environment, self.folder / f"{name}.log"
        )
        self.roles[name] = role
        role.start()
        return role

    def add_scheduler(self, name: str = "scheduler", protocol: str = "tcp", **environment: str) -> str:
        """Start a Dask scheduler; return its address."""
        port = free_port()
        self.add(
            *(name, sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
            *("--port", port, "--protocol", protocol, "--no-dashboard", "--no-jupyter"),
            **environment,
        )
        return f"{protocol}://127.0.0.1:{port}"

    def add_worker(
        self,
        name: str,
        dask: str | None = None,
        *,
        prefix: Sequence[str] = (),
        memory: str = "0",
        **environment: str,
    ) -> Role:
        """Start a Dask worker, one process with one thread, as its nanny would have it."""
        return self.add(
            *(name, *prefix, sys.executable, "-m", "distributed.cli.dask_worker", dask or self.dask),
            *(
                "--host",
                "127.0.0.1",
                "--nthreads",
                1,
                "--no-nanny",
                "--no-dashboard",
                "--memory-limit",
                memory,
            ),
            *("--local-directory", self.folder / "dask"),
            **environment,
        )

    def add_runner(self, name: str, *options: str, dask: str | None = None, **environment: str) -> Role:
        """Start a runner on the scheduler's workers."""
        arguments = ("-m", "statsvc", "-v", "runner", "--dask", dask or self.dask, *options)
        return self.add(name, sys.executable, *arguments, **environment)

    def add_api(self, name: str, roots: Sequence[Path]) -> str:
        """Start an API server; return its URL."""
        port = free_port()
        options = [part for root in (*roots, f"s3://{BUCKET}/{LABELS}") for part in ("--root", str(root))]
        self.add(name, sys.executable, "-m", "statsvc", "serve", "--no-runner", "--port", port, *options)
        self.apis.append(f"http://127.0.0.1:{port}")
        return self.apis[-1]

    def stored(self) -> list[str]:
        """Return the path in the store of every object that lies there."""
        pages = (
            self.objects.boto()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=BUCKET, Prefix=f"{VERSIONS}/")
        )
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return [key.removeprefix(f"{VERSIONS}/") for key in keys]

    def upload(self, folder: Path, name: str) -> str:
        """Put the files of a folder into the bucket; return the URL under which they can be registered."""
        client = self.objects.boto()
        for file in folder.rglob("*"):
            if file.is_file():
                key = f"{LABELS}/{name}/{file.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        return f"s3://{BUCKET}/{LABELS}/{name}"

    def output(self, name: str) -> str:
        """Return what a role has said."""
        return self.roles[name].log.read_text(errors="replace")

    def wait_for(self, url: str, seconds: float = 60) -> None:
        """Wait until a URL answers with 200, or fail with what the roles that ended said."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
            dead = [r.name for r in self.roles.values() if r.process and r.process.poll() is not None]
            if dead or time.monotonic() > end:
                said = "\n".join(f"{name}: {self.output(name)[-2000:]}" for name in dead)
                raise AssertionError(f"{url} did not answer; {said or 'all roles run'}")
            time.sleep(0.05)


@contextlib.contextmanager
def running(
    folder: Path,
    roots: Sequence[Path],
    *,
    port: int | None = None,
    workers: int = 2,
    runners: int = 1,
    apis: int = 2,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Run the roles over a folder of their own, and end them all, whatever happened.

    roots  folders below which requests may register label maps, beside the bucket's `LABELS`
    port   of the front; default: a free one
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(server(KILLED))
        url = database.url(database.database())
        upgrade_url(url)
        objects = stack.enter_context(s3_server())
        stack.enter_context(in_environment(objects))
        store = f"s3://{BUCKET}/{VERSIONS}"
        home = homes.resolve(str(folder / "home"), url, store)
        places = {"HOME": str(home.folder), "DATABASE": url, "STORE": store}
        given = {f"STATSVC_{name}": place for name, place in places.items()} | dict(environment or {})
        cluster = Cluster(folder, home, database, objects, {**os.environ, **given})
        stack.callback(lambda: [role.kill() for role in cluster.roles.values()])
        stack.callback(lambda: [role.stop() for role in reversed(cluster.roles.values())])
        stack.callback(lambda: [role.end() for role in cluster.roles.values()])
        cluster.dask = cluster.add_scheduler()
        for number in range(workers):
            cluster.add_worker(f"worker{number + 1}")
        for number in range(runners):
            cluster.add_runner(f"runner{number + 1}")
        for number in range(apis):
            cluster.add_api(f"api{number + 1}", roots)
        cluster.url = _front(cluster, port or free_port())
        for api in [*cluster.apis, cluster.url]:
            cluster.wait_for(f"{api}/readyz")
        yield cluster


def _front(cluster: Cluster, port: int) -> str:
    """Start HAProxy with the configuration that the composition of containers uses."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "this needs HAProxy: apt-get install haproxy"
    addresses = {f"API{n + 1}": api.removeprefix("http://") for n, api in enumerate(cluster.apis)}
    cluster.add("proxy", program, "-f", HAPROXY, "-db", BIND=f"127.0.0.1:{port}", **addresses)
    return f"http://127.0.0.1:{port}"
