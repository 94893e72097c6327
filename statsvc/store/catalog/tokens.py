"""API tokens: stored as digests; the secret is shown only once, when a token is created."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.errors import InvalidParameter, NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statsvc.store.catalog.database import Database

SCOPES = ("read", "write", "admin")
"""Each scope includes those before it.

read: every GET request. write: register, configure and recompute datasets. admin: delete datasets.
"""

PREFIX = "statsvc_"
"""Prefix of every token, by which secret scanners recognize a leaked one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")

_OF_ID = """
    SELECT id, name, scope, digest, created_at, revoked_at
    FROM tokens
    WHERE id = :id
"""


class Token(Struct, frozen=True):
    """A token as stored in the catalog: the SHA-256 digest of the secret, not the secret."""

    id: str
    name: str
    scope: str
    digest: str
    created_at: float
    revoked_at: float | None

    def allows(self, scope: str) -> bool:
        """Whether the token's scope includes this one."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def create(database: Database, scope: str, name: str) -> tuple[Token, str]:
    """Create a token; return it and its secret, which cannot be shown again. Raises `InvalidParameter`."""
    if scope not in SCOPES:
        raise InvalidParameter(
            ("scope", f"{scope!r} must be one of {', '.join(SCOPES)}{nearest(scope, SCOPES)}")
        )
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            (
                "name",
                f"{name!r} must consist of at most 100 letters, digits, '-', '_', '.' and '@', "
                "starting with a letter or digit",
            )
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    token_id = uuid.uuid4().hex[:8]
    with database.write() as connection:
        connection.execute(
            """
            INSERT INTO tokens (id, name, scope, digest, created_at)
            VALUES (:id, :name, :scope, :digest, clock())
            """,
            id=token_id,
            name=name,
            scope=scope,
            digest=_digest(secret.encode()),
        )
        row = connection.one(_OF_ID, id=token_id)
    return Token(**vars(row)), secret


def all_tokens(database: Database) -> list[Token]:
    """Return all tokens, oldest first, including revoked ones."""
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT id, name, scope, digest, created_at, revoked_at
            FROM tokens
            ORDER BY created_at, id
            """
        )
    return [Token(**vars(row)) for row in rows]


def revoke(database: Database, token_id: str) -> Token:
    """Revoke a token; every server rejects it from its next poll of the catalog on. Raises `NotFound`."""
    with database.write() as connection:
        connection.execute(
            """
            UPDATE tokens
            SET revoked_at = clock()
            WHERE id = :id AND revoked_at IS NULL
            """,
            id=token_id,
        )
        row = connection.first(_OF_ID, id=token_id)
    if row is None:
        raise NotFound(f"there is no token {token_id!r}; list the tokens with: statsvc token list")
    return Token(**vars(row))


def find_token(tokens: Iterable[Token], secret: bytes) -> Token | None:
    """Return the unrevoked token with this secret, if any; its duration does not depend on the digests."""
    digest = _digest(secret).encode("ascii")
    match = None
    for token in tokens:
        if token.revoked_at is None and hmac.compare_digest(token.digest.encode("ascii"), digest):
            match = token
    return match


def _digest(secret: bytes) -> str:
    # A secret of 256 random bits cannot be guessed, so a slow password hash would add no protection.
    return hashlib.sha256(secret).hexdigest()
