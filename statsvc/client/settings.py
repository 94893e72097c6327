"""Settings of the client, checked where they are given."""

from __future__ import annotations

from urllib.parse import urlsplit

from statsvc.errors import InvalidParameter

TIMEOUT = 10.0
"""Seconds for one attempt, from connecting to the last byte, unless told otherwise."""


def checked_url(url: str) -> str:
    """Return the URL without a slash at its end. Raises `InvalidParameter` for what is no server's."""
    if not url:
        raise InvalidParameter(
            ("url", "give the server's URL, for instance http://127.0.0.1:8000, or set STATSVC_URL")
        )
    parts = urlsplit(url)
    try:
        port_is_one = parts.port != 0
    except ValueError:
        port_is_one = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        raise InvalidParameter(("url", f"{url!r} is not a URL like http://127.0.0.1:8000"))
    if "@" in parts.netloc:
        raise InvalidParameter(
            ("url", "leave user and password out of the URL; give token= or STATSVC_TOKEN")
        )
    if parts.query or parts.fragment:
        raise InvalidParameter(("url", f"{url!r}: leave out what follows ? or #; parameters are arguments"))
    return url.rstrip("/")


def checked_token(token: str | None) -> str | None:
    """Return the token. Raises `InvalidParameter`, never showing it, where no header can hold it."""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidParameter(
            ("token", "a token is printable ASCII without spaces; is there a line break in it?")
        )
    return token


def checked_timeout(value: float | str | None) -> float:
    """Return a number of seconds, the default for None. Raises `InvalidParameter` for others."""
    if value is None or value == "":
        return TIMEOUT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidParameter(("timeout", f"{value!r} is not a number of seconds above 0"))
    return seconds


def checked_offline(value: str) -> bool:
    """Return what STATSVC_OFFLINE means. Raises `InvalidParameter` where that is unclear."""
    if value.lower() in ("", "0", "false", "no", "off"):
        return False
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    raise InvalidParameter(("offline", f"STATSVC_OFFLINE is {value!r}: set it to 1 or 0"))
