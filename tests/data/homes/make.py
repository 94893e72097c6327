"""Create the homes of `tests/store/test_old_homes.py`, with the release whose homes must stay readable.

Run it with that release, not with the present code. The archives in this folder were made with the last
commit before the packages were rearranged (catalog schema 0003), checked out in OLD:

    PYTHONPATH=OLD python tests/data/homes/make.py

For each kind of source it writes KIND.tar.gz, with

    home/    the home directory: catalog.sqlite, and the version store in versions/
    labels/  the label maps; their modification times are whole seconds, which a tar archive keeps exactly
    cache/   a client's cache, filled from a server on CLIENT_PORT

and KIND.json with the responses of the HTTP API to QUERIES, and other facts that the test compares.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from PIL import Image

HERE = Path(__file__).parent
CLIENT_PORT = 29431
"""The port in the URLs of the cached responses; nothing may listen on it during the test."""

MODIFIED = 1_700_000_000
"""Modification time of all label maps, in seconds since 1970."""

QUERIES = (
    "weights?dataset={name}&method=sqrt_inv_freq",
    "weights?dataset={name}&method=median_freq",
    "weights?dataset={name}&method=effective_num&beta=0.999&ignore_index=none",
    "datasets/{name}/histogram",
    "datasets/{name}/versions",
    "datasets/{name}/samples",
)

FIELDS = frozenset(
    {
        "classes",
        "counts",
        "current",
        "dataset",
        "error",
        "exact",
        "expected_weight",
        "failed",
        "frequency",
        "height",
        "id",
        "ignore_index",
        "images",
        "kind",
        "loss_share",
        "name",
        "num_classes",
        "number",
        "path",
        "pixels",
        "rows",
        "samples",
        "share",
        "tags",
        "version",
        "versions",
        "weight",
        "weights",
        "width",
    }
)
"""Fields of a response that must not change. Texts, times and absolute paths may."""

# Kills a scan after its first checkpoint. The names of modules and functions are those of the old release.
KILLED_SCAN = """
import os, signal, sys
import statsvc.store.parts as checkpoints
import workers.remaining
from statsvc.cli import main

workers.remaining.PART_SECONDS = 0
write = checkpoints.write_part

def write_and_die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.write_part = write_and_die
main()
"""


class Kind:
    """One home under construction."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.home, self.labels, self.cache = (folder / part for part in ("home", "labels", "cache"))
        self.labels.mkdir(parents=True)
        self.queries: list[str] = []
        self.facts: dict[str, Any] = {}
        self.client_calls: list[dict[str, Any]] = []

    def statsvc(self, *arguments: object, code: int = 0, program: str | None = None) -> str:
        """Run a command; `code` is the expected exit code."""
        start = [sys.executable, "-m", "statsvc"] if program is None else [sys.executable, "-c", program]
        command = [*start, *map(str, arguments), "--home", str(self.home)]
        environment = os.environ | {"STATSVC_CACHE": str(self.cache)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def scan(self, *arguments: object, code: int = 0) -> None:
        """Scan after setting all modification times, and after the files are old enough for their rows."""
        self.age()
        self.statsvc("scan", *arguments, "--workers", 1, code=code)

    def age(self) -> None:
        """Set all modification times, and wait until no change of a file is recent."""
        for file in self.labels.rglob("*"):
            os.utime(file, (MODIFIED, MODIFIED))
        time.sleep(2.2)

    def query(self, name: str, *more: str) -> None:
        """Record the responses to `QUERIES` for a dataset, and to others."""
        self.queries += [query.format(name=name) for query in (*QUERIES, *more)]


def labels(seed: int, shape: tuple[int, ...] = (12, 16), classes: int = 4) -> np.ndarray[Any, Any]:
    """Return a label map, uint8, with geometrically distributed classes and some 255."""
    rng = np.random.default_rng(seed)
    array = np.minimum(rng.geometric(0.4, shape) - 1, classes - 1).astype(np.uint8)
    array[..., 0, : 3 + seed % 5] = 255
    return array


def png(array: np.ndarray[Any, Any]) -> bytes:
    """Return a label map as PNG."""
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def write(file: Path, data: bytes) -> None:
    """Write a file and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def folder(kind: Kind) -> None:
    """PNG files with splits, class map and names; versions, tags, retention; jobs, triggers and tokens."""
    streets, interrupted, lost = (kind.labels / name for name in ("streets", "interrupted", "lost"))
    for number in range(6):
        part = "val" if number % 3 == 2 else "train"
        write(streets / part / f"{number:02}.png", png(labels(number)))
    class_map = kind.labels / "map.json"
    class_map.write_text(json.dumps({"0": 0, "1": 1, "2": 1, "3": 2, "255": "ignore"}))
    options = ("--name", "streets", "--class-map", class_map, "--class-names", "road,car,sky")
    kind.scan(streets, *options)
    write(streets / "train" / "06.png", png(labels(60)))
    write(streets / "train" / "07.png", b"not a PNG file")
    kind.scan("--name", "streets", code=1)
    kind.scan("--name", "streets", "--class-names", "street,car,sky", code=1)
    write(streets / "val" / "08.png", png(labels(80)))
    kind.scan("--name", "streets", code=1)
    (streets / "train" / "07.png").unlink()
    kind.scan("--name", "streets", "--max-removed", 1)
    kind.statsvc("versions", "streets", "--tag", "2=paper")
    kind.statsvc("datasets", "streets", "--keep", 2)
    kind.statsvc("gc", "--grace", "0s")
    versions = [
        f"weights?dataset=streets&version={version}&split={split}&method=median_freq"
        for version in (1, 2, 3, 4, 5, "paper")
        for split in ("train", "val")
    ]
    kind.query("streets", *versions)
    kind.statsvc("datasets", "streets", "--every", "12h", "--watch")
    token = kind.statsvc("token", "create", "--scope", "write", "--name", "ci", "--json")
    revoked = json.loads(kind.statsvc("token", "create", "--scope", "read", "--name", "old", "--json"))
    kind.statsvc("token", "revoke", revoked["id"])
    kind.facts["token"] = next(word for word in token.split('"') if word.startswith("statsvc_"))

    write(lost / "0.png", png(labels(1)))
    kind.scan(lost, "--name", "lost")
    shutil.move(lost, kind.labels / "away")
    kind.statsvc("scan", "--name", "lost", code=1)
    shutil.move(kind.labels / "away", lost)

    for number in range(120):
        write(interrupted / f"{number:03}.png", png(labels(number, (4, 4))))
    kind.age()
    kind.statsvc("scan", interrupted, "--name", "interrupted", "--workers", 1, program=KILLED_SCAN, code=-9)
    assert list(kind.home.glob("versions/*/parts/*/*.part"))
    kind.client_calls = [
        {"dataset": "streets", "version": 2, "method": "median_freq"},
        {"dataset": "streets", "method": "sqrt_inv_freq"},
    ]


def arrays(kind: Kind) -> None:
    """Arrays whose chunks are rows, and a volume as one row."""
    chunked, volume = kind.labels / "chunked", kind.labels / "volume"
    chunked.mkdir()
    volume.mkdir()
    stored = zarr.create_array(chunked / "a.zarr", shape=(6, 8, 10), dtype=np.uint8, chunks=(2, 8, 10))
    stored[:] = labels(3, (6, 8, 10))
    np.save(volume / "v.npy", labels(4, (5, 8, 10)))
    kind.scan(chunked, "--name", "chunked", "--rows", "chunk")
    kind.scan(volume, "--name", "volume")
    kind.query("chunked")
    kind.query("volume")


def containers(kind: Kind) -> None:
    """A tar file and a Parquet file of PNG files."""
    with tarfile.open(kind.labels / "shard.tar", "w") as archive:
        for number in range(4):
            data = png(labels(number))
            member = tarfile.TarInfo(f"{'val' if number == 3 else 'train'}/{number}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    cells = [{"bytes": png(labels(10 + number)), "path": f"{number}.png"} for number in range(3)]
    pq.write_table(pa.table({"mask": cells}), kind.labels / "masks.parquet")
    kind.scan(kind.labels / "shard.tar", "--name", "shard")
    kind.scan(kind.labels / "masks.parquet", "--name", "masks", "--key", "mask")
    kind.query("shard")
    kind.query("masks")


def imported(kind: Kind) -> None:
    """Imported counts: totals, totals with image counts, and counts of each sample."""
    totals, images, samples = (kind.labels / name for name in ("totals.json", "images.csv", "samples.json"))
    totals.write_text(json.dumps({"0": 900, "1": 90, "2": 9, "255": 30}))
    images.write_text("id,pixels,images\n0,500,5\n1,50,4\n2,5,1\n")
    samples.write_text(
        json.dumps([{"file": "train/a.png", "0": 70, "1": 30}, {"file": "val/b.png", "0": 10, "2": 5}])
    )
    for file in (totals, images, samples):
        kind.statsvc("import", file, "--name", file.stem)
        kind.query(file.stem)


def fetch(kind: Kind) -> None:
    """Serve the home, record the responses, and fill the client's cache."""
    url = f"http://127.0.0.1:{CLIENT_PORT}"
    command = [sys.executable, "-m", "statsvc", "serve", "--no-runner", "--port", str(CLIENT_PORT)]
    server = subprocess.Popen([*command, "--home", str(kind.home)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        responses = {query: httpx2.get(f"{url}/{query}") for query in kind.queries}
        kind.facts["fields"] = sorted(FIELDS)
        # Imported totals cannot answer every query.
        kind.facts["responses"] = {
            query: numbers(response.json())
            for query, response in responses.items()
            if response.status_code == 200
        }
        kind.facts["jobs"] = [
            {name: job[name] for name in ("id", "dataset", "state", "attempt")}
            for job in httpx2.get(f"{url}/jobs?limit=100").json()["jobs"]
        ]
        if kind.client_calls:
            import statsvc

            os.environ["STATSVC_CACHE"] = str(kind.cache)
            calls = [(call, statsvc.Client(url).weights(**call)) for call in kind.client_calls]
            kind.facts["client"] = [
                {"call": call, "version": weights.version, "weights": weights.to_list()}
                for call, weights in calls
            ]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def numbers(value: Any) -> Any:
    """Return the fields of a response that must not change."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: value[name] for name in value if name in FIELDS}
    return {
        # The keys of `counts` and `tags` are ids and names. The text of an error may change.
        name: item if name in ("counts", "tags") else item is None if name == "error" else numbers(item)
        for name, item in kept.items()
    }


def pack(kind: Kind, target: Path) -> None:
    """Write KIND.tar.gz without owners, and KIND.json."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    connection = sqlite3.connect(kind.home / "catalog.sqlite")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with tarfile.open(target / f"{kind.name}.tar.gz", "w:gz") as archive:
        for part in (kind.home, kind.labels, kind.cache):
            if part.exists():
                archive.add(part, part.name, filter=anonymous)
    text = json.dumps(kind.facts, indent=1, sort_keys=True, ensure_ascii=False)
    (target / f"{kind.name}.json").write_text(text + "\n")


def main() -> None:
    """Create every home."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for create in (folder, arrays, containers, imported):
        with tempfile.TemporaryDirectory() as temporary:
            kind = Kind(create.__name__, Path(temporary))
            create(kind)
            fetch(kind)
            pack(kind, target)


if __name__ == "__main__":
    main()
