"""Who may do what: bearer tokens, checked against the snapshot, and a line in the log for each write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders

from statsvc.api import index
from statsvc.api.http.problems import FORBIDDEN, UNAUTHORIZED, problem
from statsvc.store.catalog.tokens import find_token

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from statsvc.api.state.snapshot import CatalogWatcher
    from statsvc.store.catalog.tokens import Token

audit = logging.getLogger("statsvc.audit")

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""The page, which asks for the token, and what load balancers ask for: neither tells of the data."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = b"bearer "


@dataclass(frozen=True, slots=True)
class Policy:
    """Which requests need a token; `reads` implies `writes`."""

    writes: bool = False
    reads: bool = False

    def scope(self, method: str, path: str) -> str | None:
        """Return the scope that a request needs, None where it needs no token."""
        if method in _READS:
            is_open = path in OPEN_PATHS or path.startswith(index.ASSETS)
            return "read" if self.reads and not is_open else None
        if not (self.writes or self.reads):
            return None
        return "admin" if method == "DELETE" else "write"


OPEN = Policy()
"""No request needs a token: a server on loopback."""


class Access:
    """Refuses what needs a token and has none that allows it; writes an audit line for every write.

    Tokens come from the process's snapshot: no request waits for the catalog, and a revoked one is
    forgotten at the next look, a quarter of a second later.
    """

    def __init__(self, app: ASGIApp, watch: CatalogWatcher, policy: Policy) -> None:
        self._app, self._watch, self._policy = app, watch, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        token = self._token(given)
        refused = self._refusal(self._policy.scope(method, scope["path"]), given, token)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self._policy.reads:
                    _keep_private(message)
                if method not in _READS:
                    _note(scope, message["status"], token)
            await send(message)

        await (self._app if refused is None else refused)(scope, receive, noted)

    def _token(self, given: list[bytes]) -> Token | None:
        if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
            return None
        return find_token(self._watch.snapshot.tokens, given[0][len(_BEARER) :].strip())

    def _refusal(self, needed: str | None, given: list[bytes], token: Token | None) -> Response | None:
        if needed is None or (token is not None and token.allows(needed)):
            return None
        if token is not None:
            detail = f"token {token.id} has scope {token.scope}; this needs {needed}"
            challenge = f'Bearer realm="statsvc", error="insufficient_scope", scope="{needed}"'
            return problem(FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        if not given:
            detail = f"send a token of scope {needed} in the header: Authorization: Bearer TOKEN"
            return problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="statsvc"'})
        detail = "the Authorization header holds no token that is known here; it may have been revoked"
        challenge = 'Bearer realm="statsvc", error="invalid_token"'
        return problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


def _keep_private(message: Message) -> None:
    """Let no shared cache keep an answer for which somebody showed a token."""
    headers = MutableHeaders(scope=message)
    caching = headers.get("cache-control", "")
    if caching.startswith("public"):
        headers["cache-control"] = "private" + caching.removeprefix("public")


def _note(scope: Scope, status: int, token: Token | None) -> None:
    # Neither the query nor any header: what is secret must not get into a log.
    path = scope.get("raw_path", scope["path"].encode()).decode("ascii", "backslashreplace")
    client = scope["client"][0] if scope.get("client") else "-"
    who = "-" if token is None else f"{token.id} ({token.name})"
    audit.info("%s %s %d token=%s client=%s", scope["method"], path, status, who, client)


def document(app: FastAPI, policy: Policy) -> None:
    """Add the tokens to the application's OpenAPI description."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "made with: statsvc token create --scope read|write|admin",
        }
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                if policy.scope(method.upper(), path) is not None:
                    operation["security"] = [{"token": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
