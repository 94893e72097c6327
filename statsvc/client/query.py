"""Request parameters as text: as a query string, which also identifies the cache entry, and as a command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from pathlib import Path


def query_string(params: Mapping[str, Any]) -> str:
    """Return `?…` with the parameters sorted by name, so that equal requests share one cache entry."""
    pairs = sorted((name, as_text(value)) for name, value in params.items() if value is not None)
    return f"?{urlencode(pairs, safe=',:')}" if pairs else ""


def as_text(value: Any) -> str:
    """Return a parameter's Python value as the text that the server parses."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{as_text(item)}" for key, item in value.items())
    if isinstance(value, Iterable) and getattr(value, "shape", None) != ():
        return ",".join(as_text(item) for item in value) or "none"
    # The text of a NumPy or Torch scalar may contain its type; item() returns a Python number.
    number = value.item() if hasattr(value, "item") else value
    # 10.0 and 10 are the same request.
    return str(number).removesuffix(".0")


def is_version_number(version: Any) -> bool:
    """Return whether a version is a number, whose meaning never changes, and not a tag, which can move."""
    return version is not None and as_text(version).isdecimal()


def prefetch_command(url: str, folder: Path | None, params: Mapping[str, Any]) -> str:
    """Return the `statsvc prefetch` command that caches the response to a request.

    folder  cache folder, or None for the default folder
    """
    texts = {name: as_text(value) for name, value in params.items() if value is not None}
    words = ["statsvc", "prefetch"]
    if "dataset" in texts:
        words.append(texts.pop("dataset"))
    words += ["--url", url]
    if folder is not None:
        words += ["--cache", str(folder)]
    for name, value in texts.items():
        # With "=", a value such as -1 is not parsed as an option.
        words.append(f"--{name.replace('_', '-')}={value}")
    return shlex.join(words)
