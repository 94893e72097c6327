"""What a trainer gets while the server is away, misbehaves, refuses, and when it comes back."""

from __future__ import annotations

import email.utils
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from statsvc.client import cache as client_cache
from statsvc.client.client import Client
from statsvc.errors import NotFound, ServerError, StatsvcError
from statsvc.store import home as homes
from support.outages import Behave, Front, drips, front_of, hangs, in_turn, response, sends
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.client.cache import Entry

QUESTION = {"dataset": "street", "method": "inverse_freq"}
PAGE = b"<html>Please sign in</html>"
PROBLEM = b'{"type": "/problems/%s", "title": "", "status": 0, "detail": "the very reason", "errors": []}'
JSON = {"content_type": "application/json"}
AS_PROBLEM = {"content_type": "application/problem+json"}


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
    """`again`: whether the client asks more than once; `raises`: what it raises where nothing is cached."""

    name: str
    behave: Behave | None
    again: bool
    falls_back: bool
    raises: type[StatsvcError] = ServerError
    says: str = ""

    @property
    def timeout(self) -> float:
        """Short where it is waited for, long where an answer comes at once, on a busy machine too."""
        return 1.5 if self.again else 20.0


CASES = [
    Outage("connection refused", None, True, True, says="is `statsvc serve` running there"),
    Outage("accepts, never answers", hangs, True, True, says="did not answer within 1.5 s"),
    Outage("headers byte by byte", drips(response(200, b"{}", **JSON)), True, True, says="did"),
    Outage("body byte by byte", drips(response(200, b" " * 99, **JSON), 60), True, True),
    Outage("closes without a word", lambda *_: None, True, True, says="broke off"),
    Outage("truncated body", sends(200, b'{"weights": [1, 2', 4000, **JSON), True, True, says="broke off"),
    Outage("not HTTP", lambda c, *_: c.sendall(b"SSH-2.0-OpenSSH_9\r\n"), True, True, says="malformed HTTP"),
    Outage("500", sends(500, PROBLEM % b"internal-error", **AS_PROBLEM), True, True, says="the very reason"),
    Outage("502 from a proxy", sends(502, PAGE, content_type="text/html"), True, True, says="502"),
    Outage("503, Retry-After: 1", sends(503, PAGE, retry_after="1"), True, True, says="503"),
    Outage("503, Retry-After: 600", sends(503, PAGE, retry_after="600"), False, True, says="503"),
    Outage("408", sends(408), True, True, says="408"),
    Outage("429", sends(429, PROBLEM % b"too-many", **AS_PROBLEM), True, True, says="the very reason"),
    Outage("200, a page", sends(200, PAGE, content_type="text/html"), False, True, says="is text/html"),
    Outage("200, cut JSON", sends(200, b'{"weights": [1, 2', **JSON), False, True, says="not as statsvc"),
    Outage("200, other JSON", sends(200, b'{"status": "ok"}', **JSON), False, True, says="is missing"),
    Outage("204", sends(204), False, True, says="204"),
    Outage("redirect", sends(302, location="http://sign.in/"), False, False, says="redirects to http://sign"),
    Outage("moved", sends(301, location="https://stats/"), False, False, says="redirects to https://stats/"),
    Outage("400", sends(400, PROBLEM % b"malformed-request", **AS_PROBLEM), False, False, says="very reason"),
    Outage("401", sends(401, PROBLEM % b"unauthorized", **AS_PROBLEM), False, False, says="STATSVC_TOKEN"),
    Outage("403", sends(403, PROBLEM % b"forbidden", **AS_PROBLEM), False, False, says="STATSVC_TOKEN"),
    Outage("404", sends(404, PROBLEM % b"not-found", **AS_PROBLEM), False, False, NotFound, "very reason"),
    Outage("404, a page", sends(404, PAGE, content_type="text/html"), False, False, says="404"),
    Outage("409", sends(409, PROBLEM % b"other", **AS_PROBLEM), False, False, says="the very reason"),
    Outage("422", sends(422, PROBLEM % b"other", **AS_PROBLEM), False, False, says="the very reason"),
]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@dataclass
class Outcome:
    """What one call gave: weights or an error, in how many attempts and seconds, with which warnings."""

    got: object
    attempts: int
    asked: int
    took: float
    warnings: list[str]


@pytest.fixture(scope="module")
def outcomes(
    upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[object, Outcome, Outcome]]:
    """For each outage the good answer, and what comes without and with that in the cache."""
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    folders = {outage.name: tmp_path_factory.mktemp("cache") for outage in CASES}

    def call(front: Front, cache: Path, timeout: float) -> Outcome:
        front.asked.clear()
        before = len(logged)
        client = Client(front.url, cache=cache, timeout=timeout)
        started = time.monotonic()
        try:
            got: object = client.weights(**QUESTION).to_dict()
        except StatsvcError as error:
            got = error
        took = time.monotonic() - started
        own = [record for record in logged[before:] if front.url in record.getMessage()]
        again = sum("; attempt " in record.getMessage() for record in own)
        warnings = [record.getMessage() for record in own if record.levelno >= logging.WARNING]
        return Outcome(got, again + 1, len(front.asked), took, warnings)

    def outcome(outage: Outage) -> tuple[object, Outcome, Outcome]:
        filled, empty = folders[outage.name] / "filled", folders[outage.name] / "empty"
        with front_of(upstream) as front:
            good = Client(front.url, cache=filled, timeout=60).weights(**QUESTION).to_dict()
            if outage.behave is None:
                front.down()
            else:
                front.behave = outage.behave
            without = call(front, empty, outage.timeout)
            return good, without, call(front, filled, outage.timeout / 2)

    logger = logging.getLogger("statsvc.client")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with ThreadPoolExecutor(6) as pool:  # nearly all of it is waiting
            return dict(zip((one.name for one in CASES), pool.map(outcome, CASES), strict=True))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("outage", CASES, ids=lambda outage: outage.name)
def test_an_outage_without_and_with_a_cached_entry(
    outage: Outage,
    outcomes: dict[str, tuple[object, Outcome, Outcome]],
    outage_table: list[tuple[str, ...]],
) -> None:
    good, without, held = outcomes[outage.name]
    assert type(without.got) is outage.raises
    assert outage.says in str(without.got)
    assert (without.attempts > 1) == outage.again
    assert without.warnings == []
    if outage.falls_back:
        assert held.got == good
        assert len(held.warnings) == 1
        assert "street version 1 (inverse_freq), confirmed by the server" in held.warnings[0]
    else:
        assert type(held.got) is outage.raises
        assert held.warnings == []
    if outage.behave is not None:
        # The last attempt may be given up before the server has read it.
        assert without.asked in (without.attempts - 1, without.attempts)
    # The bound is three times the timeout; the rest is what a busy machine may need to notice.
    assert without.took < 3 * outage.timeout + 3
    outage_table.append(
        (
            outage.name,
            str(without.attempts),
            f"{without.took:.1f} s of {3 * outage.timeout:.1f}",
            type(without.got).__name__,
            "last good answer, one warning" if outage.falls_back else type(held.got).__name__,
        )
    )


def test_an_unknown_host_name_is_an_outage(
    front: Front,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    outage_table: list[tuple[str, ...]],
) -> None:
    url = "http://stats.invalid:8000"
    with monkeypatch.context() as reachable:
        reachable.setenv("HTTP_PROXY", front.url)  # the proxy knows the way, this machine does not
        good = Client(url, cache=tmp_path / "filled").weights(**QUESTION).to_dict()
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"cannot connect to http://stats\.invalid:8000"):
        Client(url, cache=tmp_path / "empty", timeout=1).weights(**QUESTION)
    took = time.monotonic() - started
    assert Client(url, cache=tmp_path / "filled", timeout=1).weights(**QUESTION).to_dict() == good
    assert len(warned(caplog)) == 1
    outage_table.append(
        ("unknown host name", "", f"{took:.1f} s of 3.0", "ServerError", "last good answer, one warning")
    )


def test_a_server_that_comes_back_within_the_attempts_is_used(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, outage_table: list[tuple[str, ...]]
) -> None:
    caplog.set_level(logging.INFO, "statsvc.client")
    front.behave = in_turn(sends(503, PAGE), lambda *_: None, front.relay)
    got = Client(front.url).weights(**QUESTION)
    assert len(front.asked) == 3
    assert got.version == 1
    assert warned(caplog) == []
    assert [r.levelno for r in caplog.records if "; attempt " in r.getMessage()] == [logging.INFO] * 2
    outage_table.append(("comes back at the third attempt", "3", "", "its answer", "its answer"))


def test_a_server_that_comes_back_later_is_asked_whether_the_answer_still_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outage_table: list[tuple[str, ...]]
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url, front_of(url) as front:
        client = Client(front.url, timeout=20)
        first = client.weights("street")
        front.down()
        assert Client(front.url, timeout=0.3).weights("street").to_dict() == first.to_dict()
        publish(home, "street", label_maps(seed=1), num_classes=4)
        front.up()
        end = time.monotonic() + 10
        while (second := client.weights("street")).version == 1 and time.monotonic() < end:
            time.sleep(0.1)  # the server looks at its catalog now and then
        front.down()
        assert (first.version, second.version) == (1, 2)
        assert second.to_list() != first.to_list()
        assert Client(front.url, timeout=0.3).weights("street").to_dict() == second.to_dict()
    assert ["version 1" in text for text in warned(caplog)] == [True, False]
    outage_table.append(("comes back later", "1", "", "its answer", "its answer, kept from then on"))


# Waiting


def test_retry_after_is_waited_for(front: Front) -> None:
    front.behave = in_turn(sends(503, PAGE, retry_after="2"), front.relay)
    started = time.monotonic()
    Client(front.url).weights(**QUESTION)
    assert time.monotonic() - started >= 2


def test_retry_after_can_be_a_date_and_nonsense_in_it_is_ignored(front: Front) -> None:
    far = email.utils.format_datetime(email.utils.localtime().replace(year=2199))
    front.behave = in_turn(sends(503, PAGE, retry_after=far), front.relay)
    with pytest.raises(ServerError, match="503"):
        Client(front.url).weights(**QUESTION)
    past = email.utils.format_datetime(email.utils.localtime().replace(year=1999))
    front.behave = in_turn(*(sends(503, PAGE, retry_after=value) for value in ("soon", past)), front.relay)
    assert Client(front.url).weights(**QUESTION).version == 1


def test_damage_on_the_server_is_not_asked_for_again(front: Front) -> None:
    from statsvc.errors import DamagedVersion

    front.behave = sends(500, PROBLEM % b"damaged-version", **AS_PROBLEM)
    with pytest.raises(DamagedVersion, match="the very reason"):
        Client(front.url).weights(**QUESTION)
    assert len(front.asked) == 1


def test_the_waits_leave_a_trainers_seeded_numbers_alone(front: Front) -> None:
    import random

    random.seed(0)
    before = random.getstate()
    front.behave = in_turn(sends(503, PAGE), front.relay)
    Client(front.url).weights(**QUESTION)
    assert random.getstate() == before


# The age of an entry


def aged(client: Client, seconds: float, **changes: object) -> Entry:
    """Make the cached answer to QUESTION as old as if it had been stored then."""
    url = f"{client.url}/weights?dataset=street&method=inverse_freq"
    entry = client_cache.load(client.cache, url)
    assert entry is not None
    older = replace(entry, confirmed=entry.confirmed - seconds, **changes)  # type: ignore[arg-type]
    client_cache.store(client.cache, url, older)
    return older


@pytest.mark.parametrize(
    ("seconds", "text"), [(3 * 86400, "3 days"), (5 * 3600, "5 hours"), (600, "10 minutes"), (-9999, "0 s")]
)
def test_the_warning_names_the_age(
    front: Front, caplog: pytest.LogCaptureFixture, seconds: float, text: str
) -> None:
    client = Client(front.url)
    client.weights(**QUESTION)
    aged(client, seconds)
    front.behave = sends(204)
    client.weights(**QUESTION)
    assert f"confirmed by the server {text} ago" in warned(caplog)[0]


def test_a_confirmed_answer_is_young_again(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(front.url)
    client.weights(**QUESTION)
    aged(client, 86400)
    client.weights(**QUESTION)
    front.behave = sends(204)
    client.weights(**QUESTION)
    assert " s ago" in warned(caplog)[0]


def test_an_entry_that_is_no_answer_does_not_stand_in(front: Front) -> None:
    client = Client(front.url)
    client.weights(**QUESTION)
    aged(client, 0, body=b'{"older": 1}')
    front.behave = sends(204)
    with pytest.raises(ServerError, match="204"):
        client.weights(**QUESTION)


# A version by its number


def test_a_numbered_version_is_asked_for_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(front.url, timeout=20)
    first = client.weights("street", version=1)
    assert client.weights("street", version=1).to_dict() == first.to_dict()
    assert client.weights("street", version="1").to_dict() == first.to_dict()
    assert front.asked == ["/weights?dataset=street&version=1"]
    front.down()
    assert client.weights("street", version=1).to_dict() == first.to_dict()
    assert warned(caplog) == []


def test_without_a_number_every_start_asks(front: Front) -> None:
    for _ in range(3):
        Client(front.url).weights("street")
    assert len(front.asked) == 3
