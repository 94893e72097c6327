"""Whether the rows of a version may be read now, which may take long."""

from __future__ import annotations

from contextvars import ContextVar

may_read_rows: ContextVar[bool] = ContextVar("may_read_rows", default=True)
"""False while a request is answered quickly or not at all; then `RowsNeeded` is raised instead of reading."""


class RowsNeeded(Exception):
    """The answer needs the rows of a version, so it may take long."""


def check_may_read_rows() -> None:
    """Raise `RowsNeeded` where rows must not be read."""
    if not may_read_rows.get():
        raise RowsNeeded
