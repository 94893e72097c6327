"""Choosing a representation of weights, by `format` or by `Accept`."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from statsvc.errors import InvalidParameter, nearest

MEDIA_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "npy": "application/x-npy",
}
"""Media type of each format, the preferred one first."""


def chosen(name: str | None, accept: str | None) -> str:
    """Return the format to answer in; `format` goes before `Accept`.

    Raises `InvalidParameter`, or 406 where nothing that is offered is accepted.
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
    if accept is None or not accept.strip():
        return "json"
    ranges = _ranges(accept)
    quality = {form: _quality(media.partition(";")[0], ranges) for form, media in MEDIA_TYPES.items()}
    best = max(quality, key=lambda form: quality[form])
    if quality[best] <= 0:
        offered = ", ".join(media.partition(";")[0] for media in MEDIA_TYPES.values())
        raise HTTPException(406, f"weights come as {offered}; Accept was {accept!r}", {"Vary": "Accept"})
    return best


def _ranges(accept: str) -> dict[str, float]:
    """Return each media range with its q-value (RFC 9110, 12.5.1); what cannot be read is passed over."""
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
    """Return the q-value of the most specific range that the media type falls in."""
    for media_range in (media, f"{media.partition('/')[0]}/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
