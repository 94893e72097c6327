"""The format of a response, from the `format` parameter or the Accept header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from statsvc.errors import InvalidParameter, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "npy": "application/x-npy",
}
"""Media type of each format; the first one is the default."""


def chosen(name: str | None, accept: str | None) -> str:
    """Return the format of a response; `format` takes precedence over `Accept`.

    Raises `InvalidParameter` for an unknown format, and `HTTPException` (406) if no format is acceptable.
    """
    if name is not None:
        if name not in MEDIA_TYPES:
            raise InvalidParameter(
                (
                    "format",
                    f"expected one of {', '.join(MEDIA_TYPES)}, not {name!r}{nearest(name, MEDIA_TYPES)}",
                )
            )
        return name
    best = preferred(MEDIA_TYPES, accept)
    if best is None:
        offered = ", ".join(media.partition(";")[0] for media in MEDIA_TYPES.values())
        raise HTTPException(
            406, f"the Accept header {accept!r} matches none of {offered}", {"Vary": "Accept"}
        )
    return best


def preferred(media_types: Mapping[str, str], accept: str | None) -> str | None:
    """Return the format that `Accept` prefers, the first of equals; None if it accepts none."""
    if accept is None or not accept.strip():
        return next(iter(media_types))
    ranges = _ranges(accept)
    quality = {form: _quality(media.partition(";")[0], ranges) for form, media in media_types.items()}
    best = max(quality, key=lambda form: quality[form])
    return best if quality[best] > 0 else None


def _ranges(accept: str) -> dict[str, float]:
    """Return the q-value of each media range (RFC 9110, 12.5.1); malformed items are skipped."""
    ranges: dict[str, float] = {}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = -1.0
        if "/" in media and 0 <= quality <= 1:
            ranges[media] = max(quality, ranges.get(media, 0.0))
    return ranges


def _quality(media: str, ranges: dict[str, float]) -> float:
    """Return the q-value of the most specific range that matches the media type."""
    for media_range in (media, f"{media.partition('/')[0]}/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
