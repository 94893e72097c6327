"""Homes of an earlier release stay usable: catalog, versions, checkpoints and client cache.

tests/data/homes/make.py created them with that release, and recorded its responses next to them.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import pytest
import zarr
from starlette.testclient import TestClient

import statsvc as library
from statsvc.api.app import build_app
from statsvc.store import home as homes
from statsvc.store.catalog import jobs, tags, tokens, triggers
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import SCHEMA, schema_of
from statsvc.store.verifying import verify
from statsvc.store.versions import checked_npz
from statsvc.store.versions.arrays import digest
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source
from support.commands import scan_json, statsvc

if TYPE_CHECKING:
    from statsvc.store.home import Home

ARCHIVES = Path(__file__).parents[1] / "data" / "homes"
KINDS = ("folder", "arrays", "containers", "imported")
CLIENT_URL = "http://127.0.0.1:29431"
"""The URL in the client's cache; nothing listens there during the test."""


@dataclass
class OldHome:
    """A copy of a home, its label maps and a client's cache, and what the old release said about it."""

    folder: Path
    facts: dict[str, Any]

    @property
    def home(self) -> Home:
        return homes.resolve(str(self.folder / "home"))

    def catalog(self) -> Catalog:
        return Catalog.open(self.home.database)


def unpack(kind: str, folder: Path) -> OldHome:
    with tarfile.open(ARCHIVES / f"{kind}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    move_sources(folder)
    return OldHome(folder, json.loads((ARCHIVES / f"{kind}.json").read_text()))


@pytest.fixture(params=KINDS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> OldHome:
    return unpack(request.param, tmp_path)


@pytest.fixture
def old_folder(tmp_path: Path) -> OldHome:
    return unpack("folder", tmp_path)


def move_sources(folder: Path) -> None:
    """Replace the path of the label maps, which the catalog and the groups contain, by the present one."""
    with sqlite3.connect(folder / "home" / "catalog.sqlite") as connection:
        sources = connection.execute("SELECT source FROM datasets WHERE source IS NOT NULL").fetchall()
        for old in {f"{source}/".partition("/labels/")[0] for (source,) in sources}:
            connection.execute("UPDATE datasets SET source = replace(source, ?, ?)", (old, str(folder)))
            for file in (folder / "home" / "versions").glob("*/*/zarr.json"):
                file.write_text(file.read_text().replace(f'"{old}/', f'"{folder}/'))
    connection.close()


def accept_change_times(old: OldHome) -> None:
    """Replace the recorded ctime of every sample by that of its unpacked file.

    A ctime cannot be set, so unpacking a file always changes it; the archive preserves size, content and
    mtime. Without this step, every scan would count every sample again.
    """
    catalog = old.catalog()
    for dataset in catalog.datasets():
        if dataset.source is None:
            continue
        listing = list_samples(open_source(dataset.source, dataset.pattern), dataset.configuration.counting)
        ctime_ns = dict(zip(listing.path, listing.ctime_ns.tolist(), strict=True))
        for record in catalog.versions(dataset):
            if record.number == dataset.current_number:
                _replace_ctime(old, record.arrays_uri, ctime_ns)
        for file in (old.folder / "home" / "versions" / dataset.uid).glob("parts/*/*.part"):
            arrays = checked_npz.decode(file.read_bytes())
            paths = arrays["path"].tobytes().decode().split("\0")
            arrays["ctime_ns"] = np.array([ctime_ns[path] for path in paths], np.int64)
            file.write_bytes(checked_npz.encode(arrays))
    catalog.close()


def _replace_ctime(old: OldHome, arrays_uri: str, ctime_ns: dict[str, int]) -> None:
    versions = old.folder / "home" / "versions"
    group = zarr.open_group(versions / arrays_uri, mode="r+")
    paths, stored = group["path"], group["ctime_ns"]
    assert isinstance(paths, zarr.Array)
    assert isinstance(stored, zarr.Array)
    values = np.array([ctime_ns.get(str(path), 0) for path in np.asarray(paths[...]).tolist()], np.int64)
    before, after = digest(np.asarray(stored[...])), digest(values)
    stored[...] = values
    with sqlite3.connect(old.folder / "home" / "catalog.sqlite") as connection:
        connection.execute("UPDATE versions SET digests = replace(digests, ?, ?)", (before, after))
    connection.close()
    for file in versions.glob("*/*/zarr.json"):
        file.write_text(file.read_text().replace(before, after))


def numbers(value: Any, fields: frozenset[str]) -> Any:
    """Return the fields of a response that must not change, as make.py recorded them."""
    if isinstance(value, float):
        # NumPy computes powers and logarithms by different instructions on different processors, which
        # round the last digit differently.
        return pytest.approx(value, rel=1e-12)
    if isinstance(value, list):
        return [numbers(item, fields) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: value[name] for name in value if name in fields}
    return {
        # The keys of `counts` and `tags` are ids and names. The text of an error may change.
        name: item
        if name in ("counts", "tags")
        else item is None
        if name == "error"
        else numbers(item, fields)
        for name, item in kept.items()
    }


def test_an_old_home_opens_and_every_version_passes_verification(old: OldHome) -> None:
    catalog = old.catalog()
    assert schema_of(catalog.engine) == SCHEMA
    checked = [
        (dataset.name, record.number, damage)
        for dataset in catalog.datasets()
        for record, damage in verify(catalog, old.home.store, dataset)
    ]
    assert checked
    assert [(name, number) for name, number, damage in checked if damage is not None] == []
    catalog.close()


def test_an_old_home_answers_with_the_numbers_of_the_old_release(old: OldHome) -> None:
    fields = frozenset(old.facts["fields"])
    with TestClient(build_app(old.home), base_url="http://127.0.0.1") as client:
        for query, expected in old.facts["responses"].items():
            response = client.get(f"/{query}")
            assert response.status_code == 200, query
            assert numbers(response.json(), fields) == expected, query


@pytest.mark.parametrize("kind", ["folder", "arrays", "containers"])
def test_a_scan_of_an_unchanged_old_home_counts_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = unpack(kind, tmp_path)
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path / "home"))
    accept_change_times(old)
    catalog = old.catalog()
    before = {dataset.name: dataset.current_number for dataset in catalog.datasets()}
    for name, number in before.items():
        if number is None:
            continue
        progress = scan_json("--name", name, "--workers", "1")["scan"]
        assert (progress["counted"], progress["reused"] > 0) == (0, True), name
        assert catalog.dataset(name).current_number == number
    catalog.close()


def test_an_unfinished_job_of_an_old_home_continues_from_its_checkpoint(
    old_folder: OldHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path / "home"))
    accept_change_times(old_folder)
    catalog = old_folder.catalog()
    unfinished = jobs.recent(catalog, catalog.dataset("interrupted"))[0][0]
    assert (unfinished.state, unfinished.attempt) == ("running", 1)
    progress = scan_json("--name", "interrupted", "--workers", "1")["scan"]
    assert progress["recovered"] > 0
    finished = jobs.get(catalog, unfinished.id)
    assert (finished.state, finished.attempt, finished.version_number) == ("succeeded", 2, 1)
    assert catalog.version(catalog.dataset("interrupted")).samples == 120
    catalog.close()


def test_jobs_tags_triggers_tokens_and_retention_of_an_old_home_are_kept(old_folder: OldHome) -> None:
    catalog = old_folder.catalog()
    recorded = {job["id"]: (job["state"], job["dataset"], job["attempt"]) for job in old_folder.facts["jobs"]}
    assert {
        job.id: (job.state, name, job.attempt) for job, name in jobs.recent(catalog, limit=100)
    } == recorded
    assert {state for state, _, _ in recorded.values()} == {"succeeded", "failed", "running"}
    dataset = catalog.dataset("streets")
    assert tags.of(catalog, dataset) == {"paper": 2}
    trigger = triggers.of(catalog, [dataset])[dataset.uid]
    assert (trigger.every, trigger.watch, dataset.keep) == (12 * 3600.0, True, 2)
    assert {record.number for record in catalog.versions(dataset) if record.expired_at is not None} == {
        1,
        3,
        4,
    }
    token = tokens.find_token(tokens.all_tokens(catalog), old_folder.facts["token"].encode())
    assert token is not None
    assert (token.name, token.scope) == ("ci", "write")
    assert [token.name for token in tokens.all_tokens(catalog) if token.revoked_at is not None] == ["old"]
    catalog.close()


def test_gc_and_the_next_version_work_in_an_old_home(old_folder: OldHome, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    statsvc("gc", "--grace", "0s", *home)
    changed = json.loads(
        statsvc(
            "scan", "--name", "streets", "--class-names", "a,b,c", "--json", "--workers", "1", *home
        ).stdout
    )
    assert changed["weights"]["version"] > 6
    assert "0 damaged" in statsvc("verify", "streets", *home).stderr


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the URL of every HTTP request that this process sends."""
    sent: list[str] = []
    real = httpx2.HTTPTransport.handle_request

    def record(self: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        sent.append(str(request.url))
        return real(self, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", record)
    return sent


def test_an_old_client_cache_is_used(
    old_folder: OldHome,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pinned version needs no request; otherwise the cache is the fallback while the server is away."""
    monkeypatch.setenv("STATSVC_CACHE", str(old_folder.folder / "cache"))
    monkeypatch.setenv("STATSVC_TIMEOUT", "1")
    pinned, current = old_folder.facts["client"]
    client = library.Client(CLIENT_URL)
    weights = client.weights(**pinned["call"])
    assert requests == []
    assert (weights.version, weights.to_list()) == (pinned["version"], pinned["weights"])
    weights = client.weights(**current["call"])
    assert requests
    assert (weights.version, weights.to_list()) == (current["version"], current["weights"])
    assert any("version 6" in record.getMessage() for record in caplog.records)
