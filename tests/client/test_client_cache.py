"""The client's cache on disk."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from statsvc.client import cache
from statsvc.client.client import Client
from statsvc.errors import ServerError
from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from support.http_server import TABLE, Reply, Server, cache_files, serving, weights_reply
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_cached_response_is_revalidated_with_its_etag(server: Server) -> None:
    first = Client(server.url).weights()
    second = Client(server.url).weights()
    assert "if-none-match" not in server.requests[0][1]
    assert server.requests[1][1]["if-none-match"].startswith('"')
    assert first.to_dict() == second.to_dict()


def test_a_changed_response_replaces_the_cached_one(server: Server) -> None:
    client = Client(server.url)
    client.weights()
    changed = table_of([{0: 1, 1: 1, 2: 1}])
    body = weights_response(changed, WeightSpec())
    server.reply = lambda *_: Reply(body=body, headers={"ETag": '"new"'})
    assert client.weights().to_list() == [1, 1, 1]
    client.weights()
    assert server.requests[2][1]["if-none-match"] == '"new"'
    assert len(cache_files()) == 1


def test_every_request_and_every_server_has_a_separate_cache_entry(server: Server) -> None:
    client = Client(server.url)
    client.weights()
    client.weights(method="uniform")
    assert client.weights(method="uniform").to_list() == [1, 1, 1]
    with serving(weights_reply) as other:
        Client(other.url).weights()
        assert "if-none-match" not in other.requests[0][1]
    assert len(cache_files()) == 3


def test_the_cache_has_no_token_and_the_permissions_of_the_umask(server: Server, tmp_path: Path) -> None:
    for umask, folder, mode in ((0o022, 0o755, 0o644), (0o077, 0o700, 0o600)):
        client = Client(server.url, token="s3cret", cache=tmp_path / f"{umask:o}" / "cache")
        before = os.umask(umask)
        try:
            client.weights()
        finally:
            os.umask(before)
        (entry,) = client.cache.iterdir()
        assert b"s3cret" not in entry.read_bytes()
        assert [path.stat().st_mode & 0o777 for path in (client.cache, entry)] == [folder, mode]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    position = len(data) - 10
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flipped,
        lambda _: b"",
        lambda _: b"\0" * 100,
        lambda _: b"[1]\n{}",
        lambda _: b'{"url": 1}\n{}',
        lambda data: b"\xff" + data,
        lambda data: data.replace(b'"etag": "', b'"etag": "\\n', 1),
    ],
)
def test_a_corrupt_entry_is_a_cache_miss(server: Server, damage: Callable[[bytes], bytes]) -> None:
    expected = Client(server.url).weights().to_dict()
    (entry,) = cache_files()
    entry.write_bytes(damage(entry.read_bytes()))
    assert Client(server.url).weights().to_dict() == expected
    assert "if-none-match" not in server.requests[1][1]
    Client(server.url).weights()
    assert "if-none-match" in server.requests[2][1]


def test_an_entry_of_another_url_is_a_cache_miss(server: Server) -> None:
    Client(server.url).weights()
    (first,) = cache_files()
    Client(server.url).weights(method="uniform")
    (second,) = set(cache_files()) - {first}
    first.write_bytes(second.read_bytes())
    assert Client(server.url).weights().method == "sqrt_inv_freq"


def test_an_entry_in_another_format_is_a_cache_miss(server: Server) -> None:
    client = Client(server.url)
    expected = client.weights().to_dict()
    url = f"{server.url}/weights"
    entry = cache.load(client.cache, url)
    assert entry is not None
    cache.store(client.cache, url, replace(entry, body=b'{"older": 1}'))
    assert client.weights().to_dict() == expected
    assert [("if-none-match" in headers) for _, headers in server.requests] == [False, False]


def test_an_unwritable_cache_causes_a_single_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    client = Client(server.url, cache=blocked / "cache")
    assert client.weights().to_list() == client.weights().to_list()
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert str(blocked) in warned[0].getMessage()
    assert blocked.read_text() == "in the way"


def test_unread_pages_and_abandoned_temporary_files_are_removed_and_weights_are_kept(tmp_path: Path) -> None:
    entry = cache.Entry('"a"', b"{}", immutable=True, confirmed=0.0)
    urls = [f"http://a/{path}" for path in ("weights?version=1", "datasets/a/sampling?version=1", "datasets")]
    old = [cache.store(tmp_path, url, entry) for url in urls]
    read = cache.store(tmp_path, "http://a/datasets/a/sampling?version=2", entry)
    abandoned, active = (tmp_path / f".part-{name}" for name in ("abandoned", "active"))
    for temporary in (abandoned, active):
        temporary.write_bytes(b"")
    for path in (*old, read, abandoned):
        os.utime(path, (0, 0))
    assert cache.load(tmp_path, "http://a/datasets/a/sampling?version=2") == entry
    cache.remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {old[0], old[2], read, active}


def test_the_cache_contains_only_entries(server: Server) -> None:
    for method in ("uniform", "enet", "linear"):
        Client(server.url).weights(method=method)
    assert {path.suffix for path in cache_files()} == {".answer"}


@pytest.mark.parametrize("headers", [{}, {"ETag": '"x"', "Cache-Control": "no-store"}])
def test_a_response_without_etag_or_with_no_store_is_not_cache_files(headers: dict[str, str]) -> None:
    with serving(lambda *_: Reply(body=weights_response(TABLE, WeightSpec()), headers=headers)) as server:
        Client(server.url).weights()
    assert cache_files() == []


def test_errors_are_not_cache_files(server: Server) -> None:
    client = Client(server.url)
    server.reply = lambda *_: Reply(404, {}, {"ETag": '"x"'})
    with pytest.raises(ServerError):
        client.weights()
    assert cache_files() == []


def test_the_description_of_a_dataset_is_cached_like_any_other_response(
    server: Server, caplog: pytest.LogCaptureFixture, quick_retries: None
) -> None:
    server.reply = lambda *_: Reply(body={"name": "demo", "version": 3}, headers={"ETag": '"x"'})
    client = Client(server.url, timeout=60)
    description = client.dataset("demo")
    server.reply = lambda *_: Reply(503)
    assert client.dataset("demo") == description
    assert "using the cached response (dataset demo, confirmed by the server" in caplog.text
