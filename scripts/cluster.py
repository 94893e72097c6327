"""`make cluster`: every role of statsvc on this machine, as plain processes, until Ctrl-C."""

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
    """Start the roles, count a folder, say what to try, and end everything with Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, help="folder of label maps; default: made ones")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="statsvc-cluster-") as name:
        folder = Path(name)
        source = (given.source or folder / "demo").resolve()
        try:
            if given.source is None:
                statsvc("demo", str(source))
            print(
                "starting PostgreSQL, an S3 server, Dask, a runner, two API servers and HAProxy …", flush=True
            )
            with running_cluster(
                folder / "roles", [source], port=given.port, workers=given.workers
            ) as cluster:
                try:
                    count(cluster, source)
                    signal.pause()
                finally:
                    # A second one, or one that reached the whole group twice, must leave nothing behind.
                    for asked in (signal.SIGINT, signal.SIGTERM):
                        signal.signal(asked, signal.SIG_IGN)
                    print("\nstopping …", flush=True)
        except KeyboardInterrupt:
            pass


def count(cluster: Cluster, source: Path) -> None:
    """Count a folder through the one port, and print what there is and what to try."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", source.name).strip("-._") or "labels"
    made = httpx2.post(f"{cluster.url}/datasets", json={"name": name, "source": str(source)})
    made.raise_for_status()
    statsvc("jobs", made.json()["job"]["id"], "--follow", environment=cluster.environment)
    print(
        f"""
one port    {cluster.url}  ({cluster.url}/docs)
behind it   {"  ".join(cluster.apis)}
catalog     {cluster.home.database}
store       {cluster.home.store}
objects     {cluster.objects.url}  (label maps below s3://{BUCKET}/{LABELS} can be registered)
Dask        {cluster.dask}
roles       {"  ".join(f"{role.name}={role.pid}" for role in cluster.roles.values())}
logs        {cluster.folder}/*.log

try:  curl '{cluster.url}/weights?method=sqrt_inv_freq&dataset={name}'
      curl -H 'Content-Type: application/json' -d '{{"dataset": "{name}", "full": true}}' {cluster.url}/jobs
      kill -9 {cluster.roles["worker1"].pid}        # during a job: it costs time only
State goes with Ctrl-C.""",
        flush=True,
    )


def statsvc(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run a command of statsvc; what it has to say is printed."""
    subprocess.run([sys.executable, "-m", "statsvc", *arguments], env=environment, check=False)  # noqa: S603 - our own


if __name__ == "__main__":
    main()
