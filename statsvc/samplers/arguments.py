"""Checks of the arguments of samplers."""

from __future__ import annotations

from typing import Any

from statsvc.common.plain_values import plain
from statsvc.errors import InvalidParameter


def checked_integer(name: str, value: Any, minimum: int) -> int:
    """Return an integer. Raises `InvalidParameter` for anything else, and below the minimum."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < minimum:
        raise InvalidParameter((name, f"must be an integer of at least {minimum}, not {value!r}"))
    return number


def checked_rank(rank: int | None, num_replicas: int | None) -> tuple[int, int] | None:
    """Return both, or None without them. Raises `InvalidParameter` for others."""
    rank, num_replicas = plain(rank), plain(num_replicas)
    if rank is None and num_replicas is None:
        return None
    if rank is None or num_replicas is None or not 0 <= rank < num_replicas:
        raise InvalidParameter(
            (
                "rank",
                f"is {rank} and num_replicas is {num_replicas}; give both, rank in 0 … num_replicas - 1, "
                "or neither",
            )
        )
    return rank, num_replicas
