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
from urllib.parse import urlsplit

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
    """Return the URL of a place without "/" at its end. Raises `SourceError` where it names none."""
    parts = urlsplit(url)
    if not parts.netloc:
        raise SourceError(f"{url!r} names no bucket or host; write it as s3://bucket/prefix")
    if parts.username or parts.password:
        raise SourceError(
            f"{parts.scheme}://{parts.hostname}{parts.path} holds a user name or password; "
            "credentials belong in the environment (AWS_ACCESS_KEY_ID, …)"
        )
    return url.rstrip("/")


def open_prefix(url: str, *, retries: int = RETRIES, timeout: float = TIMEOUT_SECONDS) -> Any:
    """Return obstore's store of everything below a URL; names in it are relative to that; nothing is read.

    Raises `SourceError` where the URL names no place or plain http leads beyond this machine,
    `ModuleNotFoundError` without obstore.
    """
    from obstore.store import from_url

    url = normalized(url)
    return from_url(
        url,
        client_options={"timeout": timedelta(seconds=timeout), "allow_http": _plain_http(url)},
        retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def explain(url: str, error: BaseException) -> str:
    """Return one line on what an object store said and what to do."""
    text = re.sub(r"\s+", " ", str(error).partition("Debug source:")[0]).strip()
    code = re.search(r"<Code>(\w+)</Code>", text)
    name = type(error).__name__
    if code is not None and code[1] == "NoSuchBucket":
        return f"{url}: there is no such bucket; check the URL and AWS_ENDPOINT_URL"
    if name in ("PermissionDeniedError", "UnauthenticatedError") or isinstance(error, PermissionError):
        return f"{url}: access was refused; check the credentials in the environment and their rights"
    if isinstance(error, FileNotFoundError):
        return f"{url}: is not there"
    if "error sending request" in text or "Connect" in text:
        return f"{url}: cannot be reached; check the network and the endpoint (AWS_ENDPOINT_URL)"
    text = re.sub(r"<[^>]*>", " ", text)
    return f"{url}: {text[:300]}"


def _plain_http(url: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether requests may go without TLS: where the URL, or the endpoint that was set, says so."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        if parts.hostname not in _LOOPBACK:
            raise SourceError(f"{url}: plain http is read from this machine only; write https://")
        return True
    endpoint = next(
        (environment[key] for key in _ENDPOINTS.get(parts.scheme, ()) if environment.get(key)), ""
    )
    return endpoint.startswith("http://")
