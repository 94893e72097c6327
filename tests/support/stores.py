"""Empty version stores in a folder and in a bucket, and direct access to the files in them."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statsvc.store.versions.open_location import open_location
from support.object_store import BUCKET, S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.versions.location import Location

_serial = itertools.count()


@dataclass(frozen=True)
class StoredFiles:
    """Reads and writes the files of a version store through pathlib or boto3, independently of statsvc.

    boto  client for a store in a bucket; None for a store in a folder
    """

    store: Location
    boto: Any = None

    @property
    def prefix(self) -> str:
        return str(self.store).partition(f"{BUCKET}/")[2]

    def names(self) -> list[str]:
        if self.boto is None:
            root = Path(str(self.store))
            return sorted(f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
        pages = self.boto.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(key.removeprefix(f"{self.prefix}/") for key in keys)

    def get(self, name: str) -> bytes:
        if self.boto is None:
            return (Path(str(self.store)) / name).read_bytes()
        data: bytes = self.boto.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")["Body"].read()
        return data

    def put(self, name: str, data: bytes) -> None:
        if self.boto is None:
            file = Path(str(self.store)) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        else:
            self.boto.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data)

    def delete(self, *names: str) -> None:
        for name in names:
            if self.boto is None:
                (Path(str(self.store)) / name).unlink()
            else:
                self.boto.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def clear(self) -> None:
        if self.boto is None:
            shutil.rmtree(str(self.store), ignore_errors=True)
        else:
            self.delete(*self.names())


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> StoredFiles:
    """An empty store in a bucket. The environment variables for access to it are set."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return StoredFiles(open_location(f"s3://{BUCKET}/{next(_serial)}/versions"), s3.boto())


@pytest.fixture(params=["folder", "bucket"])
def stored_files(request: pytest.FixtureRequest, tmp_path: Path) -> StoredFiles:
    """An empty store of each kind."""
    if request.param == "folder":
        return StoredFiles(open_location(str(tmp_path / "versions")))
    in_bucket: StoredFiles = request.getfixturevalue("bucket")
    return in_bucket
