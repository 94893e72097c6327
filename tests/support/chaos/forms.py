"""Start the two forms of an installation: a cluster, and a single machine with SQLite."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from statsvc.store import home as homes
from support.chaos.installation import Children, Installation, Service, command_line, mounted_disk, spawned
from support.cluster import Backends, Role, balancer, haproxy, running_cluster
from support.moved_clock import MovedClock
from support.object_store import s3_server
from support.postgres import CRASH_SAFE_SETTINGS, postgres_server
from support.processes import children
from support.servers import free_port
from support.silent_proxy import silent_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.chaos.installation import Disk

POSTGRES_SETTINGS = (*CRASH_SAFE_SETTINGS, "min_wal_size=32MB", "max_wal_size=64MB", "wal_recycle=off")
POSTGRES_MEGABYTES, HOME_MEGABYTES = 400, 96

GATEWAY = """
# Forwards connections to a server whose process keeps its data in memory, so that a fault must not kill it.
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen gateway
    bind "$BIND"
    server target "$TARGET"
"""


@contextlib.contextmanager
def cluster(folder: Path, labels: Path) -> Iterator[Installation]:
    """Run every role of a cluster: two API servers, two runners, a Dask scheduler and two workers.

    Roles reach PostgreSQL through a proxy that can become silent. moto loses its objects when it ends, so
    faults hit a gateway in front of it: for clients this is the same as a crash of a server with a disk.
    """
    folder.mkdir(parents=True)
    clocks: list[MovedClock] = []
    disks: list[Disk | None] = []

    @contextlib.contextmanager
    def prepare(data: Path) -> Iterator[Mapping[str, str]]:
        """Give PostgreSQL its own disk and its own clock."""
        clocks.append(MovedClock(data / "clock"))
        with mounted_disk(data / "data", POSTGRES_MEGABYTES, "postgres") as disk:
            disks.append(disk)
            yield clocks[-1].environment

    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(postgres_server(POSTGRES_SETTINGS, prepare))
        network = stack.enter_context(silent_proxy(str(postgres.folder / ".s.PGSQL.5432")))
        database = f"postgresql+psycopg://postgres@127.0.0.1:{network.port}/{postgres.database()}"
        moto = stack.enter_context(s3_server())
        port = free_port()
        (folder / "gateway.cfg").write_text(GATEWAY)
        gateway = haproxy(
            *("s3", folder / "gateway.cfg", folder),
            BIND=f"127.0.0.1:{port}",
            TARGET=moto.url.removeprefix("http://"),
        )
        gateway.start()
        stack.callback(gateway.kill)
        objects = replace(moto, url=f"http://127.0.0.1:{port}")
        backends = Backends(postgres, database, objects)
        roles = stack.enter_context(running_cluster(folder, [labels], backends=backends, runners=2))
        victims: dict[str, Service | Children] = {name: Service(role) for name, role in roles.roles.items()}
        victims |= {"postgresql": Service(postgres), "s3": Service(gateway)}
        runners = [victims["runner1"], victims["runner2"]]
        victims["executor"] = Children(lambda: spawned([pid for runner in runners for pid in runner.pids()]))
        yield Installation(
            form="cluster",
            home=roles.home,
            environment=roles.environment,
            proxy=roles.url,
            apis=roles.apis,
            victims=victims,
            stored=lambda: {"/".join(path.split("/")[:2]) for path in roles.stored()},
            clock=clocks[0],
            disk=disks[0],
            network=network,
        )


@contextlib.contextmanager
def sqlite(folder: Path, labels: Path) -> Iterator[Installation]:
    """Run a server with its runner, and a second server with the same home, behind HAProxy."""
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounted_disk(folder / "home", HOME_MEGABYTES))
        clock = MovedClock(folder / "clock")
        home = homes.resolve(str(folder / "home"))
        environment = {**os.environ, **clock.environment, "STATSVC_HOME": str(home.folder)}
        roles, apis = {}, []
        for name, options in (("api1", ("--workers", "2")), ("api2", ("--no-runner",))):
            port = free_port()
            apis.append(f"http://127.0.0.1:{port}")
            command = [sys.executable, "-m", "statsvc", "serve", "--port", str(port), "--root", str(labels)]
            roles[name] = Role(name, [*command, *options], environment, folder / f"{name}.log")
        port = free_port()
        roles["proxy"] = balancer("proxy", port, apis, folder)
        for role in roles.values():
            role.start()
            stack.callback(role.stop)
        victims: dict[str, Service | Children] = {name: Service(role) for name, role in roles.items()}

        def runner() -> list[int]:
            found = [pid for parent in victims["api1"].pids() for pid in children(parent)]
            return [pid for pid in found if b"\0runner\0" in command_line(pid)]

        victims["runner"] = Children(runner)
        victims["executor"] = Children(lambda: spawned(runner()))
        victims["worker"] = Children(lambda: spawned(spawned(runner())))
        installation = Installation(
            form="sqlite",
            home=home,
            environment=environment,
            proxy=f"http://127.0.0.1:{port}",
            apis=apis,
            victims=victims,
            stored=lambda: {
                f"{group.parent.name}/{group.name}"
                for group in (home.folder / "versions").glob("*/*")
                if group.is_dir()
            },
            clock=clock,
            disk=disk,
        )
        installation.heal()
        yield installation


FORMS: dict[str, Callable[[Path, Path], AbstractContextManager[Installation]]] = {
    "cluster": cluster,
    "sqlite": sqlite,
}
