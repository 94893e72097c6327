"""Tokens: kept as digests, shown once when they are made."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import InvalidParameter, NotFound, nearest
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.schema import now, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statsvc.store.catalog.catalog import Catalog

SCOPES = ("read", "write", "admin")
"""Each allows what those before it allow: asking; registering, recomputing, configuring; deleting."""

PREFIX = "statsvc_"
"""What every token begins with, so that scanners for leaked secrets can know one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the catalog knows it: not the secret, only what it hashes to."""

    id: str
    name: str
    scope: str
    digest: str
    created_at: float
    revoked_at: float | None

    def allows(self, scope: str) -> bool:
        """Whether the token's scope is at least this one."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def create(catalog: Catalog, scope: str, name: str) -> tuple[Token, str]:
    """Make a token; return it and the secret, which nobody can show again. Raises `InvalidParameter`."""
    if scope not in SCOPES:
        raise InvalidParameter(("scope", f"{scope!r} is none of {', '.join(SCOPES)}{nearest(scope, SCOPES)}"))
    if not _NAME.fullmatch(name):
        raise InvalidParameter(("name", f"{name!r}: use letters, digits, '-', '_', '.' and '@', at most 100"))
    secret = PREFIX + secrets.token_urlsafe(32)
    token_id = uuid.uuid4().hex[:8]
    with write(catalog.engine) as connection:
        connection.execute(
            tokens.insert().values(
                id=token_id, name=name, scope=scope, digest=_digest(secret.encode()), created_at=now()
            )
        )
        row = connection.execute(sa.select(tokens).where(tokens.c.id == token_id)).one()
    return Token(**row._mapping), secret


def every(catalog: Catalog) -> list[Token]:
    """Return all tokens, oldest first, the revoked ones too."""
    with catalog.engine.begin() as connection:
        rows = connection.execute(sa.select(tokens).order_by(tokens.c.created_at, tokens.c.id))
        return [Token(**row._mapping) for row in rows]


def revoke(catalog: Catalog, token_id: str) -> Token:
    """End a token for ever; every server forgets it at its next look. Raises `NotFound`."""
    with write(catalog.engine) as connection:
        connection.execute(
            tokens.update()
            .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=now())
        )
        row = connection.execute(sa.select(tokens).where(tokens.c.id == token_id)).first()
    if row is None:
        raise NotFound(f"there is no token {token_id!r}; list them with: statsvc token list")
    return Token(**row._mapping)


def recognised(known: Iterable[Token], secret: bytes) -> Token | None:
    """Return the token that a secret is, if any; how long it takes says nothing of how near it was."""
    digest = _digest(secret).encode("ascii")
    found = None
    for token in known:
        if token.revoked_at is None and hmac.compare_digest(token.digest.encode("ascii"), digest):
            found = token
    return found


def _digest(secret: bytes) -> str:
    # 256 random bits cannot be guessed, so a slow hash as for passwords would protect nothing more.
    return hashlib.sha256(secret).hexdigest()
