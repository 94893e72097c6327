"""Build the image, start docker-compose.yml, use it, break it, update it and stop it (`make compose-test`).

No registry of images is needed: the base is a minimal Debian, and the images of PostgreSQL and HAProxy are
replaced by stand-ins from Debian's packages (deploy/stand-ins).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import yaml
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
BASE = "localhost/statsvc-base"
PACKAGES = "python3,python3-venv,ca-certificates,wget,postgresql,haproxy"
INSTALL = (
    "apt-get install podman podman-compose buildah runc netavark aardvark-dns iptables catatonit debootstrap"
)
STARTED = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def run(*command: str, check: bool = True, merge: bool = False, **options: Any) -> str:
    """Run a command and return what it prints; exit with its output if it fails.

    merge  with its standard error
    """
    stderr = subprocess.STDOUT if merge else subprocess.PIPE
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, **options)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return str(done.stdout)


def build_base(suite: str) -> None:
    """Import a minimal Debian as the base image, unless it exists."""
    if run("podman", "images", "--quiet", BASE):
        return
    with tempfile.TemporaryDirectory() as folder:
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, folder)
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
            run("podman", "import", "-", BASE, stdin=tar.stdout)


def pip_mounts() -> list[str]:
    """Return the options that show pip's configuration of this machine, and what it refers to, to a build."""
    debug = run(sys.executable, "-m", "pip", "config", "debug")
    values = run(sys.executable, "-m", "pip", "config", "list")
    files = re.findall(r"^\s*(\S+), exists: True", debug, re.MULTILINE)
    files += re.findall(r"(?<=['\s])/[^\s']+", values)
    # The links of an index in a folder lead to files next to that folder.
    files += [str(Path(index).parent) for index in re.findall(r"file://(/[^\s']+)", values)]
    return [f"--volume={path}:{path}:ro" for path in dict.fromkeys(files) if Path(path).exists()]


def build_images() -> None:
    """Build the image of all roles with the Dockerfile as it is, and the stand-ins."""
    context, stand_ins = str(PROJECT), str(PROJECT / "deploy" / "stand-ins")
    common = ("podman", "build", "--network=host", f"--build-arg=BASE={BASE}")
    run(*common, *pip_mounts(), "--tag=localhost/statsvc", context)
    for name in ("postgres", "proxy"):
        run(*common, f"--target={name}", f"--tag=localhost/statsvc-{name}", stand_ins)


class Composition:
    """The services of docker-compose.yml in a folder with an .env of its own.

    labels  folder of label maps
    port    port of loopback that the proxy publishes
    """

    def __init__(self, folder: Path, labels: Path, port: int) -> None:
        shutil.copy(PROJECT / "docker-compose.yml", folder)
        shutil.copytree(PROJECT / "deploy", folder / "deploy")
        values = {"LABELS": labels, "PUBLISH": f"127.0.0.1:{port}", "WORKERS": 1}
        for name in ("POSTGRES_PASSWORD", "STATSVC_PASSWORD", "STATSVC_API_PASSWORD"):
            values[name] = secrets.token_hex(24)
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.services = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run podman-compose."""
        files = ("-f", "docker-compose.yml", "-f", "deploy/stand-ins/compose.yml")
        return run("podman-compose", "-p", "statsvc", *files, *arguments, check=check, cwd=self.folder)

    def start(self, *services: str) -> None:
        """Create and start containers, in place of earlier ones of the same services."""
        self.compose("up", "--detach", "--no-deps", "--force-recreate", *services)

    def healthy(self, service: str, seconds: float = 300) -> None:
        """Wait until the command of a service's health check succeeds in its container."""
        check = self.services[service]["healthcheck"]["test"][1:]
        until = time.monotonic() + seconds
        while (done := self.inside(service, *check)).returncode:
            if time.monotonic() > until:
                log = run("podman", "logs", "--tail=30", self.name(service), check=False, merge=True)
                sys.exit(f"{service} is not healthy after {seconds:g} s: {done.stderr}\n{log}")
            time.sleep(0.5)

    def gets_reads(self, server: str, seconds: float = 60) -> None:
        """Wait until the proxy has sent a request for weights to an API server that has just started."""
        read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
        until = time.monotonic() + seconds
        while not re.search(
            r'^statsvc_http_requests_total{.*route="/weights".*} [1-9]',
            self.inside(server, "python3", "-c", read).stdout,
            re.MULTILINE,
        ):
            if time.monotonic() > until:
                sys.exit(f"the proxy has sent no request to {server} for {seconds:g} s")
            time.sleep(0.2)

    @staticmethod
    def name(service: str) -> str:
        """Return the name of a service's container."""
        return f"statsvc_{service}_1"

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a running container."""
        return subprocess.run(
            ["podman", "exec", self.name(service), *command], capture_output=True, text=True
        )


@contextlib.contextmanager
def reading(url: str, token: str) -> Iterator[Counter[str]]:
    """Read `GET /weights` ten times a second; yield the count of each status and version."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def read() -> None:
        with httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
            while not stop.wait(0.1):
                try:
                    answer = client.get(f"{url}/weights")
                    seen[str(answer.status_code)] += 1
                except httpx2.TransportError as error:
                    seen[type(error).__name__] += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def counts_of(folder: Path) -> dict[int, int]:
    """Return pixels by id of the label maps below a folder, counted with Pillow and NumPy."""
    total = np.zeros(256, np.int64)
    for path in folder.rglob("*.png"):
        total += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
    return {int(i): int(total[i]) for i in np.flatnonzero(total)}


def main() -> None:
    """Run all steps, and exit with 1 and the reason at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", nargs="?", type=Path, help="folder of label maps; default: a generated demo"
    )
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--suite", default="bookworm", help="release of Debian for the base image")
    options = parser.parse_args()
    missing = [name for name in ("podman", "podman-compose", "runc", "debootstrap") if not shutil.which(name)]
    if missing or os.geteuid():
        sys.exit(f"run it as root, after: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="statsvc-compose-") as name:
        folder = Path(name)
        configure_podman(folder)
        labels = folder / "labels"
        if options.source is None:
            run(sys.executable, "-m", "statsvc", "demo", str(labels))
        else:
            shutil.copytree(options.source, labels)
        labels.chmod(0o755)
        build_base(options.suite)
        say("the base image is there")
        build_images()
        say("the images of statsvc, PostgreSQL and the proxy are built")
        (folder / "project").mkdir()
        composition = Composition(folder / "project", labels, options.port)
        try:
            use(composition, labels)
        finally:
            composition.compose("down", "--volumes", "--timeout=30", check=False)
        left = run("podman", "ps", "--all", "--quiet", "--filter=name=statsvc_")
        say("stopped; no container is left" if not left else f"containers are left: {left}")
        sys.exit(bool(left))


def configure_podman(folder: Path) -> None:
    """Make podman work without systemd and as a user whose limits cannot be raised."""
    (folder / "containers.conf").write_text(
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    )
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")


def use(composition: Composition, labels: Path) -> None:
    """Start every role, count, try what is forbidden, kill, update."""
    composition.start("postgres")
    composition.healthy("postgres")
    say("PostgreSQL runs")
    composition.compose("run", "--rm", "upgrade")
    create = ("statsvc", "token", "create", "--json", "--scope", "write", "--name", "me")
    created = re.search(r'"token": "([^"]+)"', composition.compose("run", "--rm", "upgrade", *create))
    if created is None:
        sys.exit("no token was created")
    token = created[1]
    for service in ("scheduler", "worker", "runner", "api1", "api2", "proxy"):
        composition.start(service)
    for service in ("scheduler", "worker", "runner", "api1", "api2", "proxy"):
        composition.healthy(service)
    say("every role is healthy")

    with httpx2.Client(
        base_url=composition.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as api:
        body = {"name": "street", "source": "/labels"}
        expect(
            "a request without a token",
            httpx2.post(f"{composition.url}/datasets", json=body).status_code,
            401,
        )
        answer = api.post("/datasets", json=body)
        expect("the registration", answer.status_code, 201)
        wait_for_job(api, answer.json()["job"]["id"])
        histogram = api.get("/datasets/street/histogram").json()["classes"]
        pixels = {row["id"]: row["pixels"] for row in histogram if row["pixels"]}
        expect("the counts through the published port", pixels, counts_of(labels))
        forbidden(composition, api)
        with reading(composition.url, token) as seen:
            run("podman", "kill", composition.name("api1"))
            job = api.post("/jobs", json={"dataset": "street", "full": True}).json()
            run("podman", "kill", composition.name("worker"))
            wait_for_reads(seen)
            composition.start("worker")
            wait_for_job(api, job["id"])
            composition.start("api1")
            composition.healthy("api1")
        say(f"a killed API server and a killed worker: the job succeeded; reads {dict(seen)}")
        expect(
            "reads while containers are killed", set(seen) <= {"200", "502", "503"} and seen["200"] > 20, True
        )
        with reading(composition.url, token) as seen:
            composition.compose("run", "--rm", "upgrade")
            for service in ("api1", "api2"):
                composition.start(service)
                composition.healthy(service)
                composition.gets_reads(service)
            for service in ("runner", "scheduler", "worker"):
                composition.start(service)
            for service in ("runner", "scheduler", "worker"):
                composition.healthy(service)
        say(f"updated one container after the other; reads {dict(seen)}")
        if set(seen) != {"200"}:
            sys.exit(run("podman", "logs", composition.name("proxy"), merge=True))
        wait_for_job(api, api.post("/jobs", json={"dataset": "street", "full": True}).json()["id"])
        say("a scan after the update succeeded")


def forbidden(composition: Composition, api: httpx2.Client) -> None:
    """Try from an API server what its role must not do."""
    name = "import socket; socket.create_connection(('{}', {}), 3)"
    expect(
        "PostgreSQL from an API server",
        composition.inside("api1", "python3", "-c", name.format("postgres", 5432)).returncode,
        0,
    )
    for service, host, port in (
        ("api1", "scheduler", 8786),
        ("worker", "postgres", 5432),
        ("worker", "api1", 8000),
    ):
        refused = composition.inside(service, "python3", "-c", name.format(host, port))
        expect(f"{host} from {service}", refused.returncode, 1)
    expect("writing a version from api1", composition.inside("api1", "touch", "/versions/x").returncode, 1)
    imported = api.post("/datasets/other/versions/import", json={"counts": {"0": 5}, "images": {"0": 1}})
    expect("an import", (imported.status_code, imported.json()["type"]), (403, "/problems/read-only-store"))
    limits = json.loads(run("podman", "inspect", composition.name("api1")))[0]["HostConfig"]
    expect("the memory limit of api1", limits["Memory"], 2**30)  # podman-compose leaves out pids_limit
    say("an API server reaches neither Dask nor the files of versions, and a worker not the catalog")


def wait_for_reads(seen: Counter[str], number: int = 20, seconds: float = 60) -> None:
    """Wait until more reads are answered with 200: here, while containers are stopped."""
    wanted, until = seen["200"] + number, time.monotonic() + seconds
    while seen["200"] < wanted:
        if time.monotonic() > until:
            sys.exit(f"reads are not answered: {dict(seen)}")
        time.sleep(0.1)


def wait_for_job(api: httpx2.Client, job: str) -> None:
    """Wait until a job has succeeded."""
    until = time.monotonic() + 600
    while (state := api.get(f"/jobs/{job}").json())["state"] in ("queued", "running"):
        if time.monotonic() > until:
            sys.exit(f"the job did not end: {state}")
        time.sleep(0.3)
    expect(f"job {job}", (state["state"], state["error"]), ("succeeded", None))


def expect(what: str, found: object, wanted: object) -> None:
    """Exit unless two values are equal."""
    if found != wanted:
        sys.exit(f"{what}: got {found}, expected {wanted}")


if __name__ == "__main__":
    main()
