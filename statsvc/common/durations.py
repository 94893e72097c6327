"""Durations written as a number and a unit: 90s, 10m, 1h, 2d."""

from __future__ import annotations

from statsvc.errors import InvalidParameter

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Seconds per unit."""

_MAX_DIGITS = 11
_MAX_SECONDS = 366 * 86400


def parse_duration(name: str, text: str, least: int = 0, most: int = _MAX_SECONDS) -> float:
    """Return a duration in seconds. Raises `InvalidParameter` for the parameter `name`."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS) or unit not in UNITS:
        raise InvalidParameter(
            (name, f"{text!r} is not a duration; write a number and a unit, such as 90s, 10m, 1h or 2d")
        )
    duration = int(number) * UNITS[unit]
    if not least <= duration <= most:
        raise InvalidParameter(
            (
                name,
                f"{text!r} is out of range; give a duration from {format_duration(least)} to "
                f"{format_duration(most)}",
            )
        )
    return float(duration)


def parse_schedule(text: str | None) -> float | None:
    """Return the interval between scheduled scans in seconds; None for None and "none" (no schedule).

    Raises `InvalidParameter`.
    """
    return None if text in (None, "none") else parse_duration("every", str(text), least=1)


def format_duration(seconds: float) -> str:
    """Return a duration as a number and the largest unit that divides it, such as `2h` for 7200."""
    whole = int(seconds)
    unit = next(unit for unit, size in UNITS.items() if whole % size == 0 and (whole or unit == "s"))
    return f"{whole // UNITS[unit]}{unit}"


def rounded_duration(seconds: float) -> str:
    """Return a duration in the largest unit of which there are two: `90 s`, `5 min`, `9 h` or `3 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
