"""Errors of the catalog's database, the same for SQLite and PostgreSQL."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database reported an error, or it cannot be reached.

    orig             the driver's error; None if the driver reported none
    connection_lost  whether the connection was lost, so that a COMMIT may have taken effect
    """

    def __init__(
        self, message: str, orig: BaseException | None = None, *, connection_lost: bool = False
    ) -> None:
        self.orig, self.connection_lost = orig, connection_lost
        super().__init__(message)


class IntegrityError(DatabaseError):
    """A statement violates a constraint, for example a unique index."""
