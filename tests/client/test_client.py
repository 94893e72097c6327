from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import pickle
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch

import statsvc
from statsvc.client import cache
from statsvc.client.client import Client
from statsvc.errors import (
    Conflict,
    DamagedVersion,
    InvalidParameter,
    NotFound,
    ServerError,
    SourceError,
    StatsvcError,
    Unanswerable,
)
from statsvc.weighting import methods
from statsvc.weighting.answers import answer
from statsvc.weighting.spec import WeightSpec
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLE = table_of(
    [{0: 100, 1: 30, 2: 7, 255: 4}, {0: 90, 2: 1}], class_names=("road", "person", "pole"), num_classes=3
)


@dataclass
class Reply:
    """A response of the server. A `body` of bytes is sent as it is, anything else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass
class Server:
    """A real HTTP server on loopback.

    requests  (path, headers) of every request, header names in lower case
    """

    url: str
    reply: Callable[[str, dict[str, str]], Reply]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def weights_reply(path: str, headers: dict[str, str]) -> Reply:
    """Answer GET /weights from `TABLE`, with a strong ETag and conditional requests."""
    params = dict(parse_qsl(urlsplit(path).query))
    params.pop("dataset", None)
    params.pop("version", None)
    body = json.dumps(answer(TABLE, WeightSpec.from_params(params))).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    if headers.get("if-none-match") == etag:
        return Reply(304, b"", {"ETag": etag})
    return Reply(200, body, {"ETag": etag})


@contextmanager
def serving(reply: Callable[[str, dict[str, str]], Reply]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.path, headers))
            reply = server.reply(self.path, headers)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            sent = {"Content-Type": reply.content_type, "Content-Length": str(len(body))} | reply.headers
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}", reply)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(weights_reply) as running:
        yield running


def problem(kind: str, status: int, detail: str = "", errors: Any = ()) -> Reply:
    body = {"type": f"/problems/{kind}", "title": kind, "status": status, "detail": detail, "errors": errors}
    return Reply(status, body, content_type="application/problem+json")


def cached(folder: Path | None = None) -> list[Path]:
    return sorted((folder or Path(os.environ["STATSVC_CACHE"])).glob("*"))


# Requests


def test_weights_equal_those_of_the_server(server: Server) -> None:
    weights = Client(server.url).weights(method="inverse_freq")
    # N/(C n) over counted pixels, normalized to mean 1.
    raw = 228 / (3 * np.array([190, 30, 8]))
    np.testing.assert_allclose(weights.to_list(), raw / raw.mean(), rtol=1e-12)
    assert (weights.dataset, weights.exact, weights.method) == ("demo", True, "inverse_freq")
    assert [row["name"] for row in weights.classes] == ["road", "person", "pole"]


def test_class_weights_is_a_float32_tensor(server: Server) -> None:
    weights = statsvc.class_weights(server.url, dataset="demo", device="cpu", method="uniform")
    assert weights.dtype == torch.float32
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert server.requests[0][0] == "/weights?dataset=demo&method=uniform"


def test_class_weights_logs_the_warnings_of_the_response(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    statsvc.class_weights(server.url, num_classes=4)
    assert [record.levelno for record in caplog.records if record.name == "statsvc.client"] == [
        logging.WARNING
    ]
    assert "1 of 4 classes have no pixel" in caplog.text


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"ignore_index": [255]}, "ignore_index=255"),
        ({"ignore_index": (255, 254)}, "ignore_index=255,254"),
        ({"ignore_index": []}, "ignore_index=none"),
        ({"ignore_index": -1}, "ignore_index=-1"),
        ({"clip": (0.1, 10)}, "clip=0.1,10"),
        ({"clip": (0.1, 10.0)}, "clip=0.1,10"),
        ({"multiply": {"person": 2, "11": 1.5}}, "multiply=person:2,11:1.5"),
        ({"multiply": {"traffic light & co": 2}}, "multiply=traffic+light+%26+co:2"),
        ({"beta": 1 - 1e-7}, "beta=0.9999999"),
        ({"beta": "1-1e-20"}, "beta=1-1e-20"),
        ({"num_classes": np.int64(19)}, "num_classes=19"),
        ({"alpha": np.float64(0.5), "method": "power"}, "alpha=0.5&method=power"),
        ({"num_classes": torch.tensor(19)}, "num_classes=19"),
        ({"ignore_index": np.array([3, 4])}, "ignore_index=3,4"),
        ({"version": 3, "dataset": "b", "split": None}, "dataset=b&version=3"),
    ],
)
def test_python_values_are_sent_as_text(params: dict[str, Any], query: str) -> None:
    with serving(lambda *_: Reply(body=answer(TABLE, WeightSpec()))) as server:
        Client(server.url).weights(**params)
    assert server.requests[0][0] == f"/weights?{query}"


@pytest.mark.parametrize(
    "params",
    [
        {"ignore_index": [255, 2], "clip": (0.1, 10.0), "multiply": {"road": 2.0, "1": 0.25}},
        {"method": "effective_num", "beta": 1 - 1e-7, "unit": "images"},
        {"method": "power", "alpha": 1 / 3, "normalize": "none", "ignore_index": []},
    ],
)
def test_the_server_interprets_python_values_as_the_caller_does(
    server: Server, params: dict[str, Any]
) -> None:
    expected = answer(TABLE, WeightSpec.from_params(params))
    assert Client(server.url).weights(**params).to_dict() == expected


def test_the_order_of_arguments_does_not_change_the_cache_entry(server: Server) -> None:
    client = Client(server.url)
    client.weights(method="power", alpha=0.5)
    client.weights(alpha=0.5, method="power")
    assert len(cached()) == 1


def test_datasets_and_methods_are_returned_as_lists() -> None:
    bodies = {"/datasets": {"datasets": [{"name": "demo"}]}, "/methods": {"methods": methods.describe()}}
    with serving(lambda path, _: Reply(body=bodies[path])) as server:
        assert Client(server.url).datasets() == [{"name": "demo"}]
        assert "sqrt_inv_freq" in [method["name"] for method in Client(server.url).methods()]


def test_datasets_returns_every_page() -> None:
    pages = {
        "/datasets": {"datasets": [{"name": "a"}], "next": "a"},
        "/datasets?after=a": {"datasets": [{"name": "b"}], "next": None},
    }
    with serving(lambda path, _: Reply(body=pages[path])) as server:
        assert Client(server.url).datasets() == [{"name": "a"}, {"name": "b"}]


def test_other_formats_than_json_are_rejected() -> None:
    with pytest.raises(InvalidParameter, match="format"):
        Client("http://127.0.0.1:1").weights(format="csv")


# Settings


def test_settings_are_read_from_the_environment_when_the_client_is_created(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATSVC_URL", server.url + "/")
    monkeypatch.setenv("STATSVC_TOKEN", "s3cret")
    monkeypatch.setenv("STATSVC_TIMEOUT", "7.5")
    monkeypatch.setenv("STATSVC_CACHE", str(tmp_path / "elsewhere"))
    client = Client()
    client.weights()
    assert client.timeout == 7.5
    assert server.requests[0][0] == "/weights"
    assert server.requests[0][1]["authorization"] == "Bearer s3cret"
    assert len(cached(tmp_path / "elsewhere")) == 1


def test_arguments_override_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATSVC_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("STATSVC_TOKEN", "theirs")
    Client(server.url, token="mine", cache=tmp_path / "mine").weights()
    assert server.requests[0][1]["authorization"] == "Bearer mine"
    assert len(cached(tmp_path / "mine")) == 1


def test_the_default_cache_is_in_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STATSVC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Client("http://a").cache == tmp_path / "xdg" / "statsvc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Client("http://a").cache == tmp_path / "me" / ".cache" / "statsvc"


def test_the_error_for_a_missing_or_malformed_url_says_what_to_give() -> None:
    with pytest.raises(InvalidParameter, match="STATSVC_URL"):
        Client()
    for url in ("stats:8000", "ftp://stats", "http://", "stats", "http://stats:port", "http://stats:99999"):
        with pytest.raises(InvalidParameter, match="is not a server's URL; give one such as"):
            Client(url)
    with pytest.raises(InvalidParameter, match="give parameters as arguments"):
        Client("http://stats/weights?method=uniform")
    with pytest.raises(InvalidParameter, match="STATSVC_TOKEN") as caught:
        Client("http://me:s3cret@stats")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "soon"])
def test_an_invalid_timeout_is_rejected(timeout: Any) -> None:
    with pytest.raises(InvalidParameter, match="timeout"):
        Client("http://a", timeout=timeout)


def test_a_token_with_a_line_break_is_rejected_without_showing_it() -> None:
    with pytest.raises(InvalidParameter, match="line break") as caught:
        Client("http://a", token="s3cret\n")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Client("http://a", token="s3cret"))


def test_a_client_can_be_pickled_and_shared_by_threads(server: Server) -> None:
    client = pickle.loads(pickle.dumps(Client(server.url)))
    results: list[list[float]] = []
    threads = [threading.Thread(target=lambda: results.append(client.weights().to_list())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result == results[0] for result in results)
    assert len(cached()) == 1


# The cache


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
    body = answer(changed, WeightSpec())
    server.reply = lambda *_: Reply(body=body, headers={"ETag": '"new"'})
    assert client.weights().to_list() == [1, 1, 1]
    client.weights()
    assert server.requests[2][1]["if-none-match"] == '"new"'
    assert len(cached()) == 1


def test_every_request_and_every_server_has_a_separate_cache_entry(server: Server) -> None:
    client = Client(server.url)
    client.weights()
    client.weights(method="uniform")
    assert client.weights(method="uniform").to_list() == [1, 1, 1]
    with serving(weights_reply) as other:
        Client(other.url).weights()
        assert "if-none-match" not in other.requests[0][1]
    assert len(cached()) == 3


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
    (entry,) = cached()
    entry.write_bytes(damage(entry.read_bytes()))
    assert Client(server.url).weights().to_dict() == expected
    assert "if-none-match" not in server.requests[1][1]
    Client(server.url).weights()
    assert "if-none-match" in server.requests[2][1]


def test_an_entry_of_another_url_is_a_cache_miss(server: Server) -> None:
    Client(server.url).weights()
    (first,) = cached()
    Client(server.url).weights(method="uniform")
    (second,) = set(cached()) - {first}
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
    assert {path.suffix for path in cached()} == {".answer"}


@pytest.mark.parametrize("headers", [{}, {"ETag": '"x"', "Cache-Control": "no-store"}])
def test_a_response_without_etag_or_with_no_store_is_not_cached(headers: dict[str, str]) -> None:
    with serving(lambda *_: Reply(body=answer(TABLE, WeightSpec()), headers=headers)) as server:
        Client(server.url).weights()
    assert cached() == []


def test_errors_are_not_cached(server: Server) -> None:
    client = Client(server.url)
    server.reply = lambda *_: Reply(404, {}, {"ETag": '"x"'})
    with pytest.raises(ServerError):
        client.weights()
    assert cached() == []


# Errors


def test_the_error_for_an_invalid_parameter_has_its_name_and_message() -> None:
    errors = [
        {"parameter": "beta", "message": "2 is out of range: beta is in [0, 1)"},
        {"parameter": "metod", "message": "unknown parameter (did you mean 'method'?)"},
    ]
    with (
        serving(lambda *_: problem("invalid-parameter", 422, "", errors)) as server,
        pytest.raises(InvalidParameter) as caught,
    ):
        Client(server.url).weights(beta=2, metod="enet")
    assert caught.value.errors == tuple((item["parameter"], item["message"]) for item in errors)


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("not-found", 404, NotFound),
        ("conflict", 409, Conflict),
        ("unanswerable", 422, Unanswerable),
        ("source", 422, SourceError),
        ("damaged-version", 500, DamagedVersion),
        ("catalog-unavailable", 503, ServerError),
        ("not-yet-known", 418, ServerError),
    ],
)
def test_a_problem_response_raises_the_exception_of_its_type(
    kind: str, status: int, error: type[StatsvcError]
) -> None:
    with (
        serving(lambda *_: problem(kind, status, "the very reason")) as server,
        pytest.raises(StatsvcError, match="the very reason") as caught,
    ):
        Client(server.url, timeout=0.5).weights()
    assert type(caught.value) is error


def test_the_error_for_a_missing_token_says_how_to_give_one() -> None:
    with (
        serving(lambda *_: problem("unauthorized", 401, "reads need a token")) as server,
        pytest.raises(ServerError, match=r"reads need a token\. Give token= or set STATSVC_TOKEN"),
    ):
        Client(server.url).weights()


GOOD = answer(TABLE, WeightSpec())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>Welcome to nginx</html>", content_type="text/html"),
        Reply(200, json.dumps(GOOD).encode(), content_type="text/plain"),
        Reply(200, json.dumps(GOOD).encode()[:-20]),
        Reply(200, b""),
        Reply(200, b"\xff\xfe"),
        Reply(200, None),
        Reply(200, [1, 2]),
        Reply(200, "weights"),
        Reply(200, {key: value for key, value in GOOD.items() if key != "weights"}),
        Reply(200, GOOD | {"weights": GOOD["weights"][:2]}),
        Reply(200, GOOD | {"weights": [None, 1, 2]}),
        Reply(200, GOOD | {"weights": [float("nan"), 1, 2]}),
        Reply(200, GOOD | {"weights": 3}),
        Reply(404, b"not found", content_type="text/plain"),
        Reply(404, {"detail": "Not Found"}),
        Reply(502, b"<html>Bad Gateway</html>", content_type="text/html"),
        Reply(422, b"{", content_type="application/problem+json"),
        Reply(422, {"type": "/problems/invalid-parameter", "detail": "", "errors": [1]}),
        Reply(204, b""),
        Reply(304, b""),
    ],
)
def test_the_error_for_a_response_of_another_server_names_the_url(reply: Reply) -> None:
    with serving(lambda *_: reply) as server, pytest.raises(ServerError) as caught:
        Client(server.url, timeout=0.5).weights()
    assert f"{server.url}/weights" in str(caught.value)
    assert "Check that the URL is that of a statsvc server" in str(caught.value)
    assert cached() == []


def test_a_body_with_a_wrong_content_encoding_raises_an_error() -> None:
    reply = Reply(200, b"not gzip", {"Content-Encoding": "gzip"})
    with serving(lambda *_: reply) as server, pytest.raises(ServerError, match="malformed HTTP"):
        Client(server.url, timeout=0.5).weights()


def test_a_compressed_response_is_decoded() -> None:
    small = Reply(
        200, gzip.compress(json.dumps(GOOD).encode()), {"Content-Encoding": "gzip", "ETag": 'W/"z"'}
    )
    with serving(lambda *_: small) as server:
        assert Client(server.url).weights().to_dict() == GOOD
        server.reply = lambda *_: Reply(304, b"")
        assert Client(server.url).weights().to_dict() == GOOD
    assert server.requests[1][1]["if-none-match"] == 'W/"z"'


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_reported_and_not_followed(status: int, server: Server) -> None:
    elsewhere = Reply(status, b"", {"Location": f"{server.url}/weights"})
    with serving(lambda *_: elsewhere) as redirecting, pytest.raises(ServerError) as caught:
        Client(redirecting.url, token="s3cret").weights()
    assert f"redirects to {server.url}/weights" in str(caught.value)
    assert server.requests == []


def test_the_description_of_a_dataset_is_cached_like_any_other_response(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply = lambda *_: Reply(body={"name": "demo", "version": 3}, headers={"ETag": '"x"'})
    client = Client(server.url, timeout=0.5)
    description = client.dataset("demo")
    server.reply = lambda *_: Reply(503)
    assert client.dataset("demo") == description
    assert "using the cached response (dataset demo, confirmed by the server" in caplog.text
