"""Requests, settings and errors of the client, against a server whose responses the tests choose."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import statsvc
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
from statsvc.sampling.weights import weights_response
from statsvc.weighting import reference
from statsvc.weighting.parameters import WeightSpec
from support.http_server import TABLE, Reply, Server, cache_files, problem, serving

if TYPE_CHECKING:
    from pathlib import Path

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
    assert "1 of 4 classes has no pixels" in caplog.text


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
    with serving(lambda *_: Reply(body=weights_response(TABLE, WeightSpec()))) as server:
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
    expected = weights_response(TABLE, WeightSpec.from_params(params))
    assert Client(server.url).weights(**params).to_dict() == expected


def test_the_order_of_arguments_does_not_change_the_cache_entry(server: Server) -> None:
    client = Client(server.url)
    client.weights(method="power", alpha=0.5)
    client.weights(alpha=0.5, method="power")
    assert len(cache_files()) == 1


def test_datasets_and_methods_are_returned_as_lists() -> None:
    bodies = {
        "/datasets": {"datasets": [{"name": "demo"}]},
        "/methods": {"methods": reference.describe_methods()},
    }
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
    assert len(cache_files(tmp_path / "elsewhere")) == 1


def test_arguments_override_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATSVC_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("STATSVC_TOKEN", "theirs")
    Client(server.url, token="mine", cache=tmp_path / "mine").weights()
    assert server.requests[0][1]["authorization"] == "Bearer mine"
    assert len(cache_files(tmp_path / "mine")) == 1


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
    assert len(cache_files()) == 1


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
    kind: str, status: int, error: type[StatsvcError], quick_retries: None
) -> None:
    with (
        serving(lambda *_: problem(kind, status, "the very reason")) as server,
        pytest.raises(StatsvcError, match="the very reason") as caught,
    ):
        Client(server.url, timeout=60).weights()
    assert type(caught.value) is error


def test_the_error_for_a_missing_token_says_how_to_give_one() -> None:
    with (
        serving(lambda *_: problem("unauthorized", 401, "reads need a token")) as server,
        pytest.raises(ServerError, match=r"reads need a token\. Give token= or set STATSVC_TOKEN"),
    ):
        Client(server.url).weights()


GOOD = weights_response(TABLE, WeightSpec())


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
def test_the_error_for_a_response_of_another_server_names_the_url(reply: Reply, quick_retries: None) -> None:
    with serving(lambda *_: reply) as server, pytest.raises(ServerError) as caught:
        Client(server.url, timeout=60).weights()
    assert f"{server.url}/weights" in str(caught.value)
    assert "Check that the URL is that of a statsvc server" in str(caught.value)
    assert cache_files() == []


def test_a_body_with_a_wrong_content_encoding_raises_an_error(quick_retries: None) -> None:
    reply = Reply(200, b"not gzip", {"Content-Encoding": "gzip"})
    with serving(lambda *_: reply) as server, pytest.raises(ServerError, match="malformed HTTP"):
        Client(server.url, timeout=60).weights()


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
