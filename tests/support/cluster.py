"""A distributed installation on this machine, with a separate process for each role.

The roles: PostgreSQL, an S3 server, a Dask scheduler and workers, runners, and API servers behind HAProxy.
The processes listen on loopback and write their output to files.
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

import dask
from distributed import Security

from statsvc.store import home as homes
from statsvc.store.catalog.engine import upgrade_url
from support.object_store import BUCKET, S3Server, s3_environment, s3_server
from support.postgres import CRASH_SAFE_SETTINGS, PostgresServer, postgres_server
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from statsvc.store.home import Home

PROJECT = Path(__file__).parents[2]
HAPROXY = PROJECT / "deploy" / "haproxy.cfg"
VERSIONS, LABELS = "versions", "labels"
"""Prefixes in the bucket: of the version store, and of the label maps that requests may register."""


@dataclass
class Role:
    """A process of the cluster, which can be killed and restarted."""

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
                start_new_session=True,  # Ctrl-C reaches the parent only, which then stops the roles
            )

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after 3 s: a Dask worker tries long to reach a stopped scheduler."""
        self.terminate()
        if self.process is not None:
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass(kw_only=True)
class Roles:
    """Processes that run.

    folder       contains their logs, and files that tests write
    environment  environment variables of all processes
    dask         the address of the Dask scheduler
    roles        by name: scheduler, worker1, …, runner1, …, api1, …, proxy
    """

    folder: Path
    environment: dict[str, str]
    dask: str = ""
    roles: dict[str, Role] = field(default_factory=dict)

    def add(self, name: str, *command: str | int | Path, **environment: str) -> Role:
        """Start a role and return it."""
        role = Role(
            name, [str(part) for part in command], self.environment | environment, self.folder / f"{name}.log"
        )
        self.roles[name] = role
        role.start()
        return role

    def add_scheduler(self, name: str = "scheduler", protocol: str = "tls", **environment: str) -> str:
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
        nanny: bool = False,
        **environment: str,
    ) -> Role:
        """Start a Dask worker with one thread: one process or, with a nanny, the nanny and its child."""
        return self.add(
            *(name, *prefix, sys.executable, "-m", "distributed.cli.dask_worker", dask or self.dask),
            *(
                "--host",
                "127.0.0.1",
                "--nthreads",
                1,
                "--nanny" if nanny else "--no-nanny",
                "--no-dashboard",
                "--memory-limit",
                memory,
            ),
            *("--local-directory", self.folder / "dask"),
            **environment,
        )

    def output(self, name: str) -> str:
        """Return the log of a role."""
        return self.roles[name].log.read_text(errors="replace")

    def stop(self) -> None:
        """Stop all processes."""
        for role in self.roles.values():
            role.terminate()
        for role in reversed(self.roles.values()):
            role.stop()

    def kill(self) -> None:
        """Kill all processes."""
        for role in self.roles.values():
            role.kill()


@dataclass(kw_only=True)
class Cluster(Roles):
    """A running cluster.

    home     the home directory, with which this process opens the cluster's catalog and version store
    url      the URL of HAProxy in front of the API servers
    apis     the URL of each API server
    """

    home: Home
    postgres: PostgresServer
    objects: S3Server
    url: str = ""
    apis: list[str] = field(default_factory=list)

    def add_runner(self, name: str, *options: str, dask: str | None = None, **environment: str) -> Role:
        """Start a runner that counts on the workers of a Dask scheduler."""
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
        """Return the path of every object in the version store, relative to the store."""
        pages = (
            self.objects.boto()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=BUCKET, Prefix=f"{VERSIONS}/")
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key.removeprefix(f"{VERSIONS}/") for key in keys]

    def upload(self, folder: Path, name: str) -> str:
        """Upload the files of a folder to the bucket; return their URL, which requests may register."""
        client = self.objects.boto()
        for file in folder.rglob("*"):
            if file.is_file():
                key = f"{LABELS}/{name}/{file.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        return f"s3://{BUCKET}/{LABELS}/{name}"

    def wait_for(self, url: str, seconds: float = 180) -> None:
        """Wait until a URL responds with 200. Fail with the logs of the roles that exited."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=20) as response:
                if response.status == 200:
                    return
            exited = [r.name for r in self.roles.values() if r.process and r.process.poll() is not None]
            if exited or time.monotonic() > deadline:
                logs = "\n".join(f"{name}: {self.output(name)[-2000:]}" for name in exited)
                raise AssertionError(f"{url} does not respond; {logs or 'all roles are running'}")
            time.sleep(0.05)


@dataclass(frozen=True)
class Backends:
    """The servers that keep the state of a cluster.

    database  URL of an empty database, as the roles reach it
    objects   the S3 server, as the roles reach it
    """

    postgres: PostgresServer
    database: str
    objects: S3Server


@contextlib.contextmanager
def running_backends() -> Iterator[Backends]:
    """Run PostgreSQL and an S3 server."""
    with postgres_server(CRASH_SAFE_SETTINGS) as postgres, s3_server() as objects:
        yield Backends(postgres, postgres.url(postgres.database()), objects)


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    roots: Sequence[Path],
    *,
    backends: Backends | None = None,
    port: int | None = None,
    workers: int = 2,
    runners: int = 1,
    apis: int = 2,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Run a cluster with its files in a folder, and stop all of its processes at the end.

    roots     folders below which requests may register label maps, in addition to `LABELS` in the bucket
    backends  default: those of `running_backends`
    port      port of HAProxy; default: a free port
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        backends = backends or stack.enter_context(running_backends())
        url, objects = backends.database, backends.objects
        upgrade_url(url)
        stack.enter_context(s3_environment(objects))
        store = f"s3://{BUCKET}/{VERSIONS}"
        home = homes.resolve(str(folder / "home"), url, store)
        tls = tls_settings(folder / "tls")
        stack.enter_context(dask.config.set(tls))  # for clients in this process
        settings = {"STATSVC_HOME": str(home.folder), "STATSVC_DATABASE": url, "STATSVC_STORE": store}
        cluster = Cluster(
            folder=folder,
            home=home,
            postgres=backends.postgres,
            objects=objects,
            environment={**os.environ, **settings, **_as_environment(tls), **(environment or {})},
        )
        stack.callback(cluster.kill)  # also if Ctrl-C interrupts the orderly stop
        stack.callback(cluster.stop)
        cluster.dask = cluster.add_scheduler()
        for number in range(workers):
            cluster.add_worker(f"worker{number + 1}")
        for number in range(runners):
            cluster.add_runner(f"runner{number + 1}")
        for number in range(apis):
            cluster.add_api(f"api{number + 1}", roots)
        port = port or free_port()
        cluster.roles["proxy"] = balancer("proxy", port, cluster.apis, folder)
        cluster.roles["proxy"].start()
        cluster.url = f"http://127.0.0.1:{port}"
        for api in [*cluster.apis, cluster.url]:
            cluster.wait_for(f"{api}/readyz")
        yield cluster


def tls_settings(folder: Path) -> dict[str, str | bool]:
    """Create a certificate authority with one key; return the settings with which Dask uses them.

    The files can be read by their owner only: whoever has them can run code as the cluster's user.
    """
    folder.mkdir(mode=0o700, parents=True)
    security = Security.temporary()
    files = {"ca-file": security.tls_ca_file}
    for role in ("scheduler", "worker", "client"):
        files[f"{role}.cert"] = getattr(security, f"tls_{role}_cert")
        files[f"{role}.key"] = getattr(security, f"tls_{role}_key")
    settings: dict[str, str | bool] = {"distributed.comm.require-encryption": True}
    for name, text in files.items():
        file = folder / f"{name}.pem"
        file.touch(0o600)
        file.write_text(text)
        settings[f"distributed.comm.tls.{name}"] = str(file)
    return settings


def _as_environment(settings: Mapping[str, str | bool]) -> dict[str, str]:
    """Return the environment variables of settings of Dask."""
    return {
        f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value)
        for name, value in settings.items()
    }


def balancer(name: str, port: int, apis: Sequence[str], folder: Path) -> Role:
    """Return HAProxy in front of two API servers, with the configuration that docker-compose.yml uses."""
    variables = {f"API{number + 1}": api.removeprefix("http://") for number, api in enumerate(apis)}
    return haproxy(name, HAPROXY, folder, BIND=f"127.0.0.1:{port}", **variables)


def haproxy(name: str, configuration: Path, folder: Path, **variables: str) -> Role:
    """Return HAProxy with a configuration, as a role that writes its log to a folder.

    variables  environment variables that the configuration uses
    """
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "HAProxy is not installed. Run: apt-get install haproxy"
    command = [program, "-f", str(configuration), "-db"]
    return Role(name, command, os.environ | variables, folder / f"{name}.log")
