"""Authorization by bearer token, refusal of writes to an unknown schema, and an audit log line for each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec import Struct
from starlette.datastructures import MutableHeaders

from statsvc.api.http.log_fields import log_fields
from statsvc.api.http.problems import CATALOG_UNAVAILABLE, FORBIDDEN, UNAUTHORIZED, problem
from statsvc.common.one_line import one_line
from statsvc.store.catalog.tokens import find_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from statsvc.store.catalog.tokens import Token

audit = logging.getLogger("statsvc.audit")

CALLER = "statsvc.caller"
"""Key in the ASGI scope: id of the request's valid token, or None."""

PAGE_FILES = "/page/"
"""Path prefix of the page's style sheet and scripts."""

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""The page, which prompts for the token, and the probes of load balancers. None of them exposes data."""

_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = b"bearer "
_UNCHECKED = (
    "the catalog does not answer, so the server cannot check whether the token was revoked; "
    "try again in a moment"
)


class Policy(Struct, frozen=True):
    """Which requests require a token; `reads` implies `writes`."""

    writes: bool = False
    reads: bool = False

    def scope(self, method: str, path: str) -> str | None:
        """Return the scope that a request requires, or None if it requires no token."""
        if method in _READ_METHODS:
            is_open = path in OPEN_PATHS or path.startswith(PAGE_FILES)
            return "read" if self.reads and not is_open else None
        if not (self.writes or self.reads):
            return None
        return "admin" if method == "DELETE" else "write"


OPEN = Policy()
"""No request requires a token: a server on loopback."""


class Access:
    """Rejects requests that lack the required token, and writes an audit line for every write.

    tokens  returns the valid tokens from memory, so that reads need no catalog. A revoked token is rejected
            after the next poll of the catalog, a quarter of a second later.
    fresh   waits until the tokens in memory are those of the catalog; False if the catalog does not answer.
            Writes need it: they are rejected rather than permitted to a token that may have been revoked
    wrong_schema  returns why this release cannot use the catalog's schema, or None. Reads are still answered
            from memory; a write could damage the tables of the other release
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Callable[[], Sequence[Token]],
        fresh: Callable[[], Awaitable[bool]],
        wrong_schema: Callable[[], str | None],
        policy: Policy,
    ) -> None:
        self._app, self._tokens, self._fresh, self._policy = app, tokens, fresh, policy
        self._wrong_schema = wrong_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it with 401, 403 or 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        credentials = [value for name, value in scope["headers"] if name == b"authorization"]
        required = self._policy.scope(method, scope["path"])
        is_current = required is None or method in _READ_METHODS or await self._fresh()
        token = self._token(credentials)
        scope[CALLER] = None if token is None else token.id
        rejection = self._rejection(required, credentials, token)
        if rejection is None and not is_current:
            rejection = problem(CATALOG_UNAVAILABLE, _UNCHECKED)
        if rejection is None and method not in _READ_METHODS and (reason := self._wrong_schema()) is not None:
            rejection = problem(CATALOG_UNAVAILABLE, reason)

        app = self._app if rejection is None else rejection
        if method in _READ_METHODS and not self._policy.reads:  # the most frequent requests
            await app(scope, receive, send)
            return

        async def send_audited(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self._policy.reads:
                    _make_private(message)
                if method not in _READ_METHODS:
                    _log_write(scope, message["status"], token)
            await send(message)

        await app(scope, receive, send_audited)

    def _token(self, credentials: list[bytes]) -> Token | None:
        if len(credentials) != 1 or credentials[0][: len(_BEARER)].lower() != _BEARER:
            return None
        return find_token(self._tokens(), credentials[0][len(_BEARER) :].strip())

    def _rejection(
        self, required: str | None, credentials: list[bytes], token: Token | None
    ) -> Response | None:
        if required is None or (token is not None and token.allows(required)):
            return None
        if token is not None:
            detail = f"token {token.id} has scope {token.scope}; this request requires scope {required}"
            challenge = f'Bearer realm="statsvc", error="insufficient_scope", scope="{required}"'
            return problem(FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        if not credentials:
            detail = (
                f"this request requires a token of scope {required}; send it as: Authorization: Bearer TOKEN"
            )
            return problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="statsvc"'})
        detail = (
            "the Authorization header does not contain a valid token: it may be mistyped or revoked; "
            f"create a new one with: statsvc token create --scope {required}"
        )
        challenge = 'Bearer realm="statsvc", error="invalid_token"'
        return problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


def _make_private(message: Message) -> None:
    """Keep shared caches from storing a response that required a token."""
    headers = MutableHeaders(scope=message)
    caching = headers.get("cache-control", "")
    if caching.startswith("public"):
        headers["cache-control"] = "private" + caching.removeprefix("public")


def _log_write(scope: Scope, status: int, token: Token | None) -> None:
    fields = log_fields(scope, status)
    label = "-" if token is None else f"{token.id} ({one_line(token.name)})"
    audit.info(
        "%s %s %d token=%s client=%s",
        *(fields["method"], fields["path"], status, label, fields["client"]),
        extra={"fields": {**fields, "token": label}},
    )
