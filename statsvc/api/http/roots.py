"""Which folders and URLs a request may name as a source."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from statsvc.common.globs import check_groups, check_length
from statsvc.common.object_urls import is_below, is_url, normalized
from statsvc.errors import Inapplicable, InvalidParameter, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ForbiddenSource(SourceError):
    """The source is outside the folders and URLs that the server may read."""


def allowed_source(source: str, roots: Sequence[Path | str]) -> str:
    """Return the source as an absolute path without symbolic links, or as a normalized URL.

    A URL is not accessed: the first job reports whether it exists.

    Raises `InvalidParameter` if the source is neither an absolute path nor a URL, `ForbiddenSource` if it is
    outside the roots (whether or not it exists), `SourceError` if it is not a folder.
    """
    if is_url(source):
        try:
            url = normalized(source)
        except SourceError as error:
            raise Inapplicable(("source", str(error))) from error  # no schema describes all of a URL
        if not any(isinstance(root, str) and is_below(url, root) for root in roots):
            raise _forbidden(url, roots, "URL")
        return url
    if "\0" in source or not source.startswith("/"):
        raise InvalidParameter(
            (
                "source",
                f"{source!r} is neither an absolute path on the server, such as /data/camvid, "
                "nor a URL, such as s3://bucket/prefix",
            )
        )
    folder = Path(source).resolve()
    if not any(isinstance(root, Path) and folder.is_relative_to(root.resolve()) for root in roots):
        raise _forbidden(source, roots, "FOLDER")
    if folder.is_file():
        raise SourceError(
            f"{source} is a file, and a server counts folders; send the folder as source, and the name of "
            "the file as pattern"
        )
    if not folder.is_dir():
        raise SourceError(f"the folder {source} does not exist on the server; check the path and the mount")
    return str(folder)


def _forbidden(source: str, roots: Sequence[Path | str], metavar: str) -> ForbiddenSource:
    allowed = ", ".join(map(str, roots)) or "none"
    return ForbiddenSource(
        f"{source} is outside the folders that this server may read ({allowed}); "
        f"allow another one with: statsvc serve --root {metavar}"
    )


def checked_pattern(pattern: str) -> str:
    """Return a glob relative to the source. Raises `InvalidParameter` if it can match outside the source.

    Also for a pattern that is too long, or whose matching could take too long.
    """
    parts = PurePosixPath(pattern).parts
    if not parts or "\0" in pattern or pattern.startswith("/") or ".." in parts:
        raise InvalidParameter(
            ("pattern", f"{pattern!r} is not a glob relative to the source, such as **/*_labelIds.png")
        )
    check_length("pattern", pattern)
    check_groups("pattern", pattern)
    return pattern
