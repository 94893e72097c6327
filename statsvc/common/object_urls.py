"""Object stores: places named by a URL, such as s3://bucket/prefix, with the environment's credentials.

What each service reads from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …) is what obstore documents for it:
https://developmentseed.org/obstore
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
RETRY_SECONDS = 60.0
"""How long a request is tried again, with growing pauses, after errors 5xx, 429 and lost connections."""

TIMEOUT_SECONDS = 30.0
"""How long one request may take."""

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def is_url(location: str) -> bool:
    """Whether a location is one in an object store, not a path on this machine."""
    return urlsplit(location).scheme in SCHEMES and "://" in location


def normalized(url: str) -> str:
    """Return the URL of a place in one form: no escapes but %25, %3F and %23, no "/" at its end.

    Raises `SourceError` where it names no place, holds a secret, or could mean another place than it shows.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if not url.isprintable() or "\\" in url:
        raise SourceError(f"{url!r} holds characters that no URL has; write it as s3://bucket/prefix")
    if not parts.hostname:
        raise SourceError(f"{url!r} names no bucket or host; write it as s3://bucket/prefix")
    if parts.username or parts.password:
        raise SourceError(
            f"{shown} holds a user name or password; "
            "credentials belong in the environment (AWS_ACCESS_KEY_ID, …)"
        )
    if parts.query or parts.fragment:
        raise SourceError(
            f"{shown}: what follows the '?' or '#' would be kept with the dataset, and may be a secret such "
            "as a signature; leave it out, and write %3F or %23 where the name itself holds one"
        )
    path = unquote(parts.path).rstrip("/")
    if any(part in ("", ".", "..") for part in path.split("/")[1:]):
        raise SourceError(f"{url}: its path holds an empty part, '.' or '..'; write the path as it is")
    return f"{parts.scheme}://{parts.netloc}{_escaped(path)}"


def below(root: str, path: str) -> str:
    """Return the URL of what lies at `path` (not escaped) below a URL as `normalized` returns it."""
    return f"{root}/{_escaped(path)}"


def parent(url: str) -> tuple[str, str]:
    """Return the URL that holds what `url` names, and its name in it, not escaped. Raises `SourceError`."""
    above, _, name = url.rpartition("/")
    if above.endswith(":/"):
        raise SourceError(f"{url} is a whole bucket or host; name what lies in it")
    return above, unquote(name)


def is_below(url: str, root: str) -> bool:
    """Whether a URL is `root` or lies below it, both as `normalized` returns them."""
    return url == root or url.startswith(root + "/")


def lists(url: str) -> bool:
    """Whether what lies below a URL can be listed: a plain web server has no list."""
    return urlsplit(url).scheme not in ("https", "http")


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def open_prefix(url: str, *, retries: int = RETRIES, timeout: float = TIMEOUT_SECONDS) -> Any:
    """Return obstore's store of everything below a URL; names in it are relative to that; nothing is read.

    Raises `SourceError` where the URL names no place, plain http leads beyond this machine, the environment
    lacks what the service needs, or obstore is not installed.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore, from_url
    except ModuleNotFoundError as error:
        raise SourceError(f"{url}: object stores need obstore: pip install 'statsvc[s3]'") from error

    url = normalized(url)
    # Also for hosts of a cloud, whose own protocol would look for credentials that a web page does not need.
    make = from_url if lists(url) else HTTPStore.from_url
    plain = _plain_http(url)
    try:
        return make(
            url,
            client_options={"timeout": timedelta(seconds=timeout), "allow_http": plain},
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )
    except (BaseError, ValueError) as error:  # what the environment says is incomplete, or no such thing
        raise SourceError(f"{explain(url, error)}; check the credentials in the environment") from error


def explain(url: str, error: BaseException) -> str:
    """Return one line on what an object store said and what to do."""
    text = re.sub(r"\s+", " ", str(error).partition("Debug source:")[0]).strip()
    code = re.search(r"<Code>(\w+)</Code>", text)
    name = type(error).__name__
    if code is not None and code[1] == "NoSuchBucket":
        return f"{url}: there is no such bucket; check the URL and AWS_ENDPOINT_URL"
    refused = re.search(r"status code: 40[13]\b", text)  # which a listing gives without a class of its own
    if refused or name in ("PermissionDeniedError", "UnauthenticatedError"):
        return f"{url}: access was refused; check the credentials in the environment and their rights"
    if isinstance(error, FileNotFoundError):
        return f"{url}: is not there"
    if "error sending request" in text or "Connect" in text:
        endpoint = " and the endpoint (AWS_ENDPOINT_URL)" if url.startswith("s3:") else ""
        return f"{url}: cannot be reached; check the network{endpoint}"
    text = re.sub(r"<[^>]*>", " ", text)
    return f"{url}: {text[:300]}"


def _plain_http(url: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether requests may go without TLS: where the URL, or the endpoint that was set, says so."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        if parts.hostname not in _LOOPBACK:
            raise SourceError(f"{url}: plain http is read from this machine only; write https://")
        return True
    keys = _ENDPOINTS.get(parts.scheme, ())
    key, endpoint = next(((key, environment[key]) for key in keys if environment.get(key)), ("", ""))
    if key and not endpoint.startswith(("http://", "https://")):
        raise SourceError(f"{key} is {endpoint!r}, which is no URL; write http://… or https://…")
    return endpoint.startswith("http://")
