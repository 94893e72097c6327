"""Translates the statements of this package into the SQL of SQLite and PostgreSQL.

clock()         the database's time in seconds since 1970, so that all hosts that share it use one clock
IN :name        any element of a list
FOR UPDATE      locks rows on PostgreSQL; a writing transaction of SQLite has already locked the database
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# julianday keeps milliseconds on every SQLite; unixepoch('subsec') needs 3.42.
_SQLITE_CLOCK = "((julianday('now') - 2440587.5) * 86400.0)"
_POSTGRESQL_CLOCK = "extract(epoch from clock_timestamp())::double precision"


@functools.cache
def sqlite_statement(statement: str) -> str:
    """Translate a statement for SQLite, which has no lists: they become JSON arrays."""
    statement = statement.replace("FOR UPDATE SKIP LOCKED", "").replace("FOR UPDATE", "")
    statement = statement.replace("clock()", _SQLITE_CLOCK)
    return _lists_replaced(statement, r"IN (SELECT value FROM json_each(:\1))")


def sqlite_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Translate the values of a statement for SQLite."""
    if any(isinstance(value, list) for value in values.values()):
        return {
            name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()
        }
    return values


@functools.cache
def postgresql_statement(statement: str) -> str:
    """Translate a statement for PostgreSQL, whose driver passes a list as an array."""
    return _lists_replaced(statement.replace("clock()", _POSTGRESQL_CLOCK), r"= ANY(:\1)")


def _lists_replaced(statement: str, replacement: str) -> str:
    return re.sub(r"\bIN :(\w+)", replacement, statement) if "IN :" in statement else statement
