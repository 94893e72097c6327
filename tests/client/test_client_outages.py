"""The client while the server is unavailable, misbehaves or rejects requests, and after it has recovered."""

from __future__ import annotations

import email.utils
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from statsvc.client import cache as client_cache
from statsvc.client import retry
from statsvc.client.client import Client
from statsvc.errors import NotFound, ServerError, StatsvcError
from statsvc.store import home as homes
from support.outages import Behavior, Front, drips, front_of, hangs, in_turn, response, sends
from support.publishing import label_maps, publish
from support.servers import serving
from support.waiting import wait_for_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.client.cache import Entry

QUERY: dict[str, Any] = {"dataset": "street", "method": "inverse_freq"}
BUSY_MARGIN = 60.0
SHORT_TIMEOUT = 4.0
"""Long enough for a second attempt within three timeouts, also if a busy machine delays the first one."""

PAGE = b"<html>Please sign in</html>"
PROBLEM = b'{"type": "/problems/%s", "title": "", "status": 0, "detail": "the very reason", "errors": []}'
JSON: dict[str, Any] = {"content_type": "application/json"}
AS_PROBLEM: dict[str, Any] = {"content_type": "application/problem+json"}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("outages") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url:
        yield url


@pytest.fixture
def front(upstream: str) -> Iterator[Front]:
    with front_of(upstream) as running:
        yield running


@dataclass(frozen=True)
class Outage:
    """A failure of the server and the expected behavior of the client.

    behavior    of the server; None: it refuses connections
    retried     whether the client makes several attempts
    falls_back  whether the client uses a cached response
    raises      the exception if nothing is cached
    message     part of its message
    times_out   whether the attempts end by the timeout
    """

    name: str
    behavior: Behavior | None
    retried: bool
    falls_back: bool
    raises: type[StatsvcError] = ServerError
    message: str = ""
    times_out: bool = False

    @property
    def timeout(self) -> float:
        """Short if the attempts time out; else long, so that a busy machine can respond in time."""
        return SHORT_TIMEOUT if self.times_out else 60.0


CASES = [
    Outage("connection refused", None, True, True, message="Check that `statsvc serve` is running there"),
    Outage("accepts, never answers", hangs, True, True, message="did not respond within 4 s", times_out=True),
    Outage(
        "headers byte by byte",
        drips(response(200, b"{}", **JSON)),
        True,
        True,
        message="did not respond",
        times_out=True,
    ),
    Outage("body byte by byte", drips(response(200, b" " * 99, **JSON), 60), True, True, times_out=True),
    Outage("closes the connection", lambda *_: None, True, True, message="closed the connection"),
    Outage(
        "truncated body", sends(200, b'{"weights": [1, 2', 4000, **JSON), True, True, message="closed the"
    ),
    Outage(
        "not HTTP", lambda c, *_: c.sendall(b"SSH-2.0-OpenSSH_9\r\n"), True, True, message="malformed HTTP"
    ),
    Outage(
        "500", sends(500, PROBLEM % b"internal-error", **AS_PROBLEM), True, True, message="the very reason"
    ),
    Outage("502 from a proxy", sends(502, PAGE, content_type="text/html"), True, True, message="502"),
    Outage("503, Retry-After: 1", sends(503, PAGE, retry_after="1"), True, True, message="503"),
    Outage("503, Retry-After: 600", sends(503, PAGE, retry_after="600"), False, True, message="503"),
    Outage("408", sends(408), True, True, message="408"),
    Outage("429", sends(429, PROBLEM % b"too-many", **AS_PROBLEM), True, True, message="the very reason"),
    Outage(
        "200, a page",
        sends(200, PAGE, content_type="text/html"),
        False,
        True,
        message="content type is text/html",
    ),
    Outage(
        "200, cut JSON",
        sends(200, b'{"weights": [1, 2', **JSON),
        False,
        True,
        message="did not send a statsvc response",
    ),
    Outage("200, other JSON", sends(200, b'{"status": "ok"}', **JSON), False, True, message="is missing"),
    Outage("204", sends(204), False, True, message="204"),
    Outage(
        "redirect", sends(302, location="http://sign.in/"), False, False, message="redirects to http://sign"
    ),
    Outage(
        "moved", sends(301, location="https://stats/"), False, False, message="redirects to https://stats/"
    ),
    Outage(
        "400", sends(400, PROBLEM % b"malformed-request", **AS_PROBLEM), False, False, message="very reason"
    ),
    Outage("401", sends(401, PROBLEM % b"unauthorized", **AS_PROBLEM), False, False, message="STATSVC_TOKEN"),
    Outage("403", sends(403, PROBLEM % b"forbidden", **AS_PROBLEM), False, False, message="STATSVC_TOKEN"),
    Outage("404", sends(404, PROBLEM % b"not-found", **AS_PROBLEM), False, False, NotFound, "very reason"),
    Outage("404, a page", sends(404, PAGE, content_type="text/html"), False, False, message="404"),
    Outage("409", sends(409, PROBLEM % b"other", **AS_PROBLEM), False, False, message="the very reason"),
    Outage("422", sends(422, PROBLEM % b"other", **AS_PROBLEM), False, False, message="the very reason"),
]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@dataclass
class Outcome:
    """The outcome of one call.

    result    weights as a dict, or the error
    attempts  attempts that the client logged
    requests  requests that the server received completely
    duration  seconds
    """

    result: object
    attempts: int
    requests: int
    duration: float
    warnings: list[str]


@pytest.fixture(scope="module")
def outcomes(
    upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[object, Outcome, Outcome]]:
    """For each outage: the correct weights, the outcome with an empty cache, and with them in the cache."""
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign,assignment]
    folders = {outage.name: tmp_path_factory.mktemp("cache") for outage in CASES}

    def call(front: Front, cache: Path, timeout: float) -> Outcome:
        front.requests.clear()
        before = len(logged)
        client = Client(front.url, cache=cache, timeout=timeout)
        started = time.monotonic()
        try:
            result: object = client.weights(**QUERY).to_dict()
        except StatsvcError as error:
            result = error
        duration = time.monotonic() - started
        records = [record for record in logged[before:] if front.url in record.getMessage()]
        retries = sum("; attempt " in record.getMessage() for record in records)
        warnings = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
        return Outcome(result, retries + 1, len(front.requests), duration, warnings)

    def outcome(outage: Outage) -> tuple[object, Outcome, Outcome]:
        filled, empty = folders[outage.name] / "filled", folders[outage.name] / "empty"
        with front_of(upstream) as front:
            correct = Client(front.url, cache=filled, timeout=60).weights(**QUERY).to_dict()
            if outage.behavior is None:
                front.down()
            else:
                front.behavior = outage.behavior
            uncached = call(front, empty, outage.timeout)
            return correct, uncached, call(front, filled, outage.timeout / 2)

    logger = logging.getLogger("statsvc.client")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(6) as pool:
            patch.setattr(retry, "BACKOFF", (0.1, 0.1, 0.1))
            return dict(zip((outage.name for outage in CASES), pool.map(outcome, CASES), strict=True))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("outage", CASES, ids=lambda outage: outage.name)
def test_the_client_during_an_outage(
    outage: Outage,
    outcomes: dict[str, tuple[object, Outcome, Outcome]],
    outage_table: list[tuple[str, ...]],
) -> None:
    correct, uncached, cached = outcomes[outage.name]
    assert type(uncached.result) is outage.raises
    assert outage.message in str(uncached.result)
    assert (uncached.attempts > 1) == outage.retried
    assert uncached.warnings == []
    if outage.falls_back:
        assert cached.result == correct
        assert len(cached.warnings) == 1
        assert "street version 1 (inverse_freq), confirmed by the server" in cached.warnings[0]
    else:
        assert type(cached.result) is outage.raises
        assert cached.warnings == []
    if outage.behavior is not None:
        # The last attempt may time out before the server has read its request.
        assert uncached.requests in (uncached.attempts - 1, uncached.attempts)
    # The limit is three timeouts. The rest is a margin for a busy machine.
    assert uncached.duration < 3 * outage.timeout + BUSY_MARGIN
    outage_table.append(
        (
            outage.name,
            str(uncached.attempts),
            f"{uncached.duration:.1f} s of {3 * outage.timeout:.1f}",
            type(uncached.result).__name__,
            "cached response, one warning" if outage.falls_back else type(cached.result).__name__,
        )
    )


def test_an_unknown_host_name_counts_as_an_outage(
    front: Front,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    outage_table: list[tuple[str, ...]],
) -> None:
    url = "http://stats.invalid:8000"
    with monkeypatch.context() as reachable:
        reachable.setenv("HTTP_PROXY", front.url)  # only the proxy can resolve the name
        correct = Client(url, cache=tmp_path / "filled").weights(**QUERY).to_dict()
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"cannot connect to http://stats\.invalid:8000"):
        Client(url, cache=tmp_path / "empty", timeout=1).weights(**QUERY)
    duration = time.monotonic() - started
    assert Client(url, cache=tmp_path / "filled", timeout=1).weights(**QUERY).to_dict() == correct
    assert len(warned(caplog)) == 1
    outage_table.append(
        ("unknown host name", "", f"{duration:.1f} s of 3.0", "ServerError", "cached response, one warning")
    )


def test_a_server_that_recovers_during_the_attempts_is_used(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, outage_table: list[tuple[str, ...]]
) -> None:
    caplog.set_level(logging.INFO, "statsvc.client")
    front.behavior = in_turn(sends(503, PAGE), lambda *_: None, front.relay)
    weights = Client(front.url, timeout=60).weights(**QUERY)
    assert len(front.requests) == 3
    assert weights.version == 1
    assert warned(caplog) == []
    assert [r.levelno for r in caplog.records if "; attempt " in r.getMessage()] == [logging.INFO] * 2
    outage_table.append(("recovers at the third attempt", "3", "", "its response", "its response"))


def test_the_cached_response_is_revalidated_when_the_server_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outage_table: list[tuple[str, ...]]
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url, front_of(url) as front:
        client = Client(front.url, timeout=20)
        first = client.weights("street")
        front.down()
        assert Client(front.url, timeout=5).weights("street").to_dict() == first.to_dict()
        publish(home, "street", label_maps(seed=1), num_classes=4)
        front.up()
        second = wait_for_version(2, lambda: client.weights("street"))
        front.down()
        assert (first.version, second.version) == (1, 2)
        assert second.to_list() != first.to_list()
        assert Client(front.url, timeout=5).weights("street").to_dict() == second.to_dict()
    assert ["version 1" in text for text in warned(caplog)] == [True, False]
    outage_table.append(("recovers later", "1", "", "its response", "its response, which is then cached"))


# Retry-After and waits


def test_the_client_waits_for_the_time_in_retry_after(front: Front) -> None:
    front.behavior = in_turn(sends(503, PAGE, retry_after="2"), front.relay)
    started = time.monotonic()
    Client(front.url, timeout=60).weights(**QUERY)
    assert time.monotonic() - started >= 2


def test_retry_after_can_be_a_date_and_a_malformed_value_is_ignored(front: Front) -> None:
    far = email.utils.format_datetime(email.utils.localtime().replace(year=2199))
    front.behavior = in_turn(sends(503, PAGE, retry_after=far), front.relay)
    with pytest.raises(ServerError, match="503"):
        Client(front.url, timeout=60).weights(**QUERY)
    past = email.utils.format_datetime(email.utils.localtime().replace(year=1999))
    front.behavior = in_turn(*(sends(503, PAGE, retry_after=value) for value in ("soon", past)), front.relay)
    assert Client(front.url, timeout=60).weights(**QUERY).version == 1


def test_a_damaged_version_is_not_requested_again(front: Front) -> None:
    from statsvc.errors import DamagedVersion

    front.behavior = sends(500, PROBLEM % b"damaged-version", **AS_PROBLEM)
    with pytest.raises(DamagedVersion, match="the very reason"):
        Client(front.url, timeout=60).weights(**QUERY)
    assert len(front.requests) == 1


def test_retries_do_not_advance_the_seeded_random_generator(front: Front) -> None:
    import random

    random.seed(0)
    before = random.getstate()
    front.behavior = in_turn(sends(503, PAGE), front.relay)
    Client(front.url, timeout=60).weights(**QUERY)
    assert random.getstate() == before


# The age of an entry


def aged(client: Client, seconds: float, **changes: object) -> Entry:
    """Make the cached response to `QUERY` older, or change it otherwise."""
    url = f"{client.url}/weights?dataset=street&method=inverse_freq"
    entry = client_cache.load(client.cache, url)
    assert entry is not None
    older = replace(entry, confirmed=entry.confirmed - seconds, **changes)
    client_cache.store(client.cache, url, older)
    return older


@pytest.mark.parametrize(
    ("seconds", "text"), [(3 * 86400, "3 days"), (5 * 3600, "5 hours"), (600, "10 minutes"), (-9999, "0 s")]
)
def test_the_warning_names_the_age(
    front: Front, caplog: pytest.LogCaptureFixture, seconds: float, text: str
) -> None:
    client = Client(front.url, timeout=60)
    client.weights(**QUERY)
    aged(client, seconds)
    front.behavior = sends(204)
    client.weights(**QUERY)
    assert f"confirmed by the server {text} ago" in warned(caplog)[0]


def test_a_revalidated_response_has_a_new_age(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(front.url, timeout=60)
    client.weights(**QUERY)
    aged(client, 86400)
    client.weights(**QUERY)
    front.behavior = sends(204)
    client.weights(**QUERY)
    assert " s ago" in warned(caplog)[0]


def test_an_entry_in_another_format_is_not_used_during_an_outage(front: Front) -> None:
    client = Client(front.url, timeout=60)
    client.weights(**QUERY)
    aged(client, 0, body=b'{"older": 1}')
    front.behavior = sends(204)
    with pytest.raises(ServerError, match="204"):
        client.weights(**QUERY)


# Version numbers


def test_a_numbered_version_is_requested_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(front.url, timeout=20)
    first = client.weights("street", version=1)
    assert client.weights("street", version=1).to_dict() == first.to_dict()
    assert client.weights("street", version="1").to_dict() == first.to_dict()
    assert front.requests == ["/weights?dataset=street&version=1"]
    front.down()
    assert client.weights("street", version=1).to_dict() == first.to_dict()
    assert warned(caplog) == []


def test_without_a_version_number_every_start_sends_a_request(front: Front) -> None:
    for _ in range(3):
        Client(front.url, timeout=60).weights("street")
    assert len(front.requests) == 3
