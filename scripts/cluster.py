"""Run every role of a distributed installation on this machine until Ctrl-C (`make cluster`)."""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.cluster import LABELS, Cluster, running_cluster
from support.object_store import BUCKET


def main() -> None:
    """Start the roles, count a folder, print what to try, and stop the roles on Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", nargs="?", type=Path, help="folder of label maps; default: a generated demo"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="statsvc-cluster-") as name:
        folder = Path(name)
        source = (options.source or folder / "demo").resolve()
        try:
            if options.source is None:
                statsvc("demo", str(source))
            print(
                "starting PostgreSQL, an S3 server, Dask, a runner, two API servers and HAProxy …", flush=True
            )
            with running_cluster(
                folder / "roles", [source], port=options.port, workers=options.workers
            ) as cluster:
                try:
                    count(cluster, source)
                    signal.pause()
                finally:
                    # A second Ctrl-C must not interrupt this, or processes would be left running.
                    for number in (signal.SIGINT, signal.SIGTERM):
                        signal.signal(number, signal.SIG_IGN)
                    print("\nstopping …", flush=True)
        except KeyboardInterrupt:
            pass


def count(cluster: Cluster, source: Path) -> None:
    """Count a folder through HAProxy, and print the addresses of the roles and what to try."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", source.name).strip("-._") or "labels"
    response = httpx2.post(f"{cluster.url}/datasets", json={"name": name, "source": str(source)})
    response.raise_for_status()
    statsvc("jobs", response.json()["job"]["id"], "--follow", environment=cluster.environment)
    print(
        f"""
HAProxy     {cluster.url}  (documentation: {cluster.url}/docs)
API         {"  ".join(cluster.apis)}
catalog     {cluster.home.database}
store       {cluster.home.store}
S3          {cluster.objects.url}  (label maps below s3://{BUCKET}/{LABELS} can be registered)
Dask        {cluster.dask}
roles       {"  ".join(f"{role.name}={role.pid}" for role in cluster.roles.values())}
logs        {cluster.folder}/*.log

try:  curl '{cluster.url}/weights?method=sqrt_inv_freq&dataset={name}'
      curl -H 'Content-Type: application/json' -d '{{"dataset": "{name}", "full": true}}' {cluster.url}/jobs
      kill -9 {cluster.roles["worker1"].pid}        # during a job: the job still succeeds
Ctrl-C stops all processes and deletes their data.""",
        flush=True,
    )


def statsvc(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run a command of statsvc, which prints its output."""
    subprocess.run([sys.executable, "-m", "statsvc", *arguments], env=environment, check=False)  # noqa: S603 - fixed program


if __name__ == "__main__":
    main()
