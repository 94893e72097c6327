"""A question to a server as text: the query string, which also names its cache entry, and a command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from pathlib import Path


def query(params: Mapping[str, Any]) -> str:
    """Return `?…` in the order of names, so that one question has one URL and one cache entry."""
    pairs = sorted((name, text(value)) for name, value in params.items() if value is not None)
    return f"?{urlencode(pairs, safe=',:')}" if pairs else ""


def text(value: Any) -> str:
    """Return a parameter's Python value as the text that the server reads."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{text(item)}" for key, item in value.items())
    if isinstance(value, Iterable) and getattr(value, "shape", None) != ():
        return ",".join(text(item) for item in value) or "none"
    # item() makes a Python number of a NumPy or Torch scalar, whose own text may name its type.
    number = value.item() if hasattr(value, "item") else value
    # 10.0 and 10 are one question, on the command line too.
    return str(number).removesuffix(".0")


def is_number(version: Any) -> bool:
    """Whether a version is a number, which always means the same counts, and not a tag, which may move."""
    return version is not None and text(version).isdecimal()


def prefetch_command(url: str, folder: Path | None, params: Mapping[str, Any]) -> str:
    """Return the `statsvc prefetch` that fetches the answer to a question; `folder` where not the default."""
    given = {name: text(value) for name, value in params.items() if value is not None}
    words = ["statsvc", "prefetch"]
    if "dataset" in given:
        words.append(given.pop("dataset"))
    words += ["--url", url]
    if folder is not None:
        words += ["--cache", str(folder)]
    for name, value in given.items():
        # With =, a value such as -1 is not taken for an option.
        words.append(f"--{name.replace('_', '-')}={value}")
    return shlex.join(words)
