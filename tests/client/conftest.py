"""Fixtures of the tests of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.client import retry
from support.http_server import serving, weights_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.http_server import Server


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client retry without waiting."""
    monkeypatch.setattr(retry, "BACKOFF", (0.0, 0.0, 0.0))


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that responds with the weights of a small table."""
    with serving(weights_reply) as running:
        yield running
