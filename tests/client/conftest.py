"""Fixtures of the tests of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.http_server import serving, weights_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.http_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that responds with the weights of a small table."""
    with serving(weights_reply) as running:
        yield running
