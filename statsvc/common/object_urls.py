"""URLs of object stores, such as s3://bucket/prefix, opened with the credentials in the environment.

obstore documents the environment variables of each service (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …): https://developmentseed.org/obstore
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from statsvc.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES = ("s3", "gs", "az", "https", "http")

RETRIES = 4
"""Maximum number of retries of a request after status 5xx or 429, or a lost connection."""

RETRY_SECONDS = 60.0
"""Maximum total time of those retries, which back off exponentially."""

TIMEOUT_SECONDS = 30.0
"""Timeout of a single request."""

MAX_ERROR_LENGTH = 300
"""Characters of an unrecognized error that a message quotes."""

_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def is_url(location: str) -> bool:
    """Return whether a location is a URL of an object store, as opposed to a local path."""
    return urlsplit(location).scheme in SCHEMES and "://" in location


def normalized(url: str) -> str:
    """Return the canonical form of a URL: no escapes except %25, %3F and %23, and no trailing "/".

    Raises `SourceError` for a URL without a host, with credentials, or with ambiguous parts.
    """
    parts = urlsplit(url)
    # Messages about credentials show the URL without them.
    without_secrets = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if not url.isprintable() or "\\" in url:
        raise SourceError(
            f"{url!r} contains characters that are invalid in a URL; write it as s3://bucket/prefix"
        )
    if not parts.hostname:
        raise SourceError(f"{url!r} names no bucket or host; write it as s3://bucket/prefix")
    if parts.username or parts.password:
        raise SourceError(
            f"{without_secrets} was given with a user name or password; "
            "credentials belong in the environment (AWS_ACCESS_KEY_ID, …)"
        )
    if parts.query or parts.fragment:
        raise SourceError(
            f"{without_secrets} is followed by a query ('?') or fragment ('#'). The catalog would store it, "
            "and it can contain a secret such as a signature. Remove it, or write %3F or %23 for a "
            "character of the name"
        )
    path = unquote(parts.path).rstrip("/")
    if any(part in ("", ".", "..") for part in path.split("/")[1:]):
        raise SourceError(f"{url} contains an empty path component, '.' or '..'; write the path without them")
    return f"{parts.scheme}://{parts.netloc}{escaped(path)}"


def join(root: str, path: str) -> str:
    """Return the URL of the unescaped relative `path` below `root`, a URL as `normalized` returns it."""
    return f"{root}/{escaped(path)}"


def parent(url: str) -> tuple[str, str]:
    """Return the parent URL and the unescaped last path component.

    Raises `SourceError` for the URL of a whole bucket or host, which has no parent.
    """
    parent_url, _, name = url.rpartition("/")
    if parent_url.endswith(":/"):
        raise SourceError(f"{url} is a whole bucket or host; add the path of a file or folder in it")
    return parent_url, unquote(name)


def is_below(url: str, root: str) -> bool:
    """Return whether a URL equals `root` or is below it, both as `normalized` returns them."""
    return url == root or url.startswith(root + "/")


def is_listable(url: str) -> bool:
    """Return whether the objects below a URL can be listed; a plain web server has no listing."""
    return urlsplit(url).scheme not in ("https", "http")


def escaped(path: str) -> str:
    """Return a path with only %, ? and # escaped, as `normalized` returns it."""
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def open_prefix(url: str, *, retries: int = RETRIES, timeout: float = TIMEOUT_SECONDS) -> Any:
    """Return the obstore store of a listable URL, with object names relative to it. Sends no request.

    Raises `SourceError` for an invalid URL, plain HTTP to another machine, incomplete credentials in the
    environment, or a missing obstore.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise SourceError(f"{url}: obstore is not installed. Run: pip install 'statsvc[s3]'") from error

    url = normalized(url)
    allow_http = allows_plain_http(url)
    try:
        return from_url(
            url,
            client_options={"timeout": timedelta(seconds=timeout), "allow_http": allow_http},
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )
    except (BaseError, ValueError) as error:  # incomplete or invalid settings in the environment
        raise SourceError(f"{explain(url, error)}; check the credentials in the environment") from error


def explain(url: str, error: BaseException) -> str:
    """Return one line that says what an object store reported and what to check."""
    text = re.sub(r"\s+", " ", str(error).partition("Debug source:")[0]).strip()
    code = re.search(r"<Code>(\w+)</Code>", text)
    if code is not None and code[1] == "NoSuchBucket":
        return f"{url}: there is no such bucket; check the URL and AWS_ENDPOINT_URL"
    # Listing raises a generic error for 401 and 403, other requests a class of their own.
    denied = re.search(r"status code: 40[13]\b", text)
    if denied or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return f"{url}: access was denied; check the credentials in the environment and their permissions"
    if isinstance(error, FileNotFoundError):
        return f"{url}: not found; check the URL"
    if "error sending request" in text or "Connect" in text:
        endpoint = " and the endpoint (AWS_ENDPOINT_URL)" if url.startswith("s3:") else ""
        return f"{url}: cannot be reached; check the network{endpoint}"
    text = re.sub(r"<[^>]*>", " ", text)
    return f"{url}: {text[:MAX_ERROR_LENGTH]}"


def allows_plain_http(url: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether requests may be sent without TLS, because the URL or the configured endpoint is http.

    Raises `SourceError` for an http URL of another machine, and for an endpoint that is not a URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "http":
        if parts.hostname not in _LOOPBACK:
            raise SourceError(f"{url}: plain http is allowed for this machine only; write https://")
        return True
    variables = _ENDPOINT_VARIABLES.get(parts.scheme, ())
    name = next((name for name in variables if environment.get(name)), None)
    if name is None:
        return False
    endpoint = environment[name]
    if not endpoint.startswith(("http://", "https://")):
        raise SourceError(f"{name} is {endpoint!r}, which is not a URL; write http://… or https://…")
    return endpoint.startswith("http://")
