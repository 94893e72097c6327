"""Records that other processes may return as pickles."""

from __future__ import annotations

from msgspec import Struct


class Sealed(Struct, frozen=True):
    """A record whose pickle is a call of its constructor, so that unpickling can only create a new one."""

    def __setstate__(self, state: object) -> None:
        """Refuse: a pickle of another process must not set attributes of this class or its objects."""
        raise TypeError("a record has no state")
