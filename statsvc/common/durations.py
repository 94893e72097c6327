"""Durations as people write them: 90s, 10m, 1h, 2d."""

from __future__ import annotations

from statsvc.errors import InvalidParameter

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(name: str, text: str, least: int = 0, most: int = 366 * 86400) -> float:
    """Return the seconds in a duration. Raises `InvalidParameter` for the parameter `name`."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) < 12) or unit not in UNITS:
        raise InvalidParameter((name, f"{text!r}: write a number and a unit, as 90s, 10m, 1h or 2d"))
    length = int(number) * UNITS[unit]
    if not least <= length <= most:
        raise InvalidParameter((name, f"{text!r} is out of range: from {written(least)} to {written(most)}"))
    return float(length)


def schedule(text: str | None) -> float | None:
    """Return the seconds between scheduled scans; None for none. Raises `InvalidParameter`."""
    return None if text in (None, "none") else seconds("every", str(text), least=1)


def written(length: float) -> str:
    """Return a duration in the largest unit that divides it."""
    whole = int(length)
    unit = next(unit for unit, size in UNITS.items() if whole % size == 0 and (whole or unit == "s"))
    return f"{whole // UNITS[unit]}{unit}"
