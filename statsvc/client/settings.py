"""Validation of the client's settings."""

from __future__ import annotations

from urllib.parse import urlsplit

from statsvc.errors import InvalidParameter

TIMEOUT = 10.0
"""Default time limit of one attempt in seconds, from connecting to the last byte."""


def checked_url(url: str) -> str:
    """Return a server's URL without a trailing slash. Raises `InvalidParameter` if it is malformed."""
    if not url:
        raise InvalidParameter(
            ("url", "give the server's URL, for instance http://127.0.0.1:8000, or set STATSVC_URL")
        )
    parts = urlsplit(url)
    try:
        valid_port = parts.port != 0
    except ValueError:
        valid_port = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not valid_port:
        raise InvalidParameter(
            ("url", f"{url!r} is not a server's URL; give one such as http://127.0.0.1:8000")
        )
    if "@" in parts.netloc:
        raise InvalidParameter(
            ("url", "must not contain a user or a password; give token= or STATSVC_TOKEN instead")
        )
    if parts.query or parts.fragment:
        raise InvalidParameter(
            ("url", f"{url!r} has a query or a fragment; remove it and give parameters as arguments")
        )
    return url.rstrip("/")


def checked_token(token: str | None) -> str | None:
    """Return the token. Raises `InvalidParameter`, without showing the token, if it is malformed."""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidParameter(
            ("token", "must be printable ASCII without spaces; check it for a line break at the end")
        )
    return token


def checked_timeout(value: float | str | None) -> float:
    """Return a timeout in seconds, the default for None or "".

    Raises `InvalidParameter` unless it is a finite number above 0.
    """
    if value is None or value == "":
        return TIMEOUT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidParameter(("timeout", f"{value!r} is invalid; give a number of seconds above 0"))
    return seconds


def checked_offline(value: str) -> bool:
    """Return whether STATSVC_OFFLINE is on. Raises `InvalidParameter` for an unknown value."""
    if value.lower() in ("", "0", "false", "no", "off"):
        return False
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    raise InvalidParameter(("offline", f"STATSVC_OFFLINE is {value!r}: set it to 1 or 0"))
