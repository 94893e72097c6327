"""Why a source cannot be listed or counted, in words for a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_url
from statsvc.errors import AmbiguousSource, SourceError

if TYPE_CHECKING:
    from statsvc_workers.sources.detection import FileKind

EXAMPLES = 3
"""How many names a message gives."""


def listing_failed(root: str, error: OSError) -> SourceError:
    """Return the error that fails a job whose source cannot be listed."""
    where = error.filename or root
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"{root} cannot be listed: {where} is gone; is the disk mounted? If so, scan again"
        )
    return SourceError(
        f"{root} cannot be listed: {where}: {error.strerror or error}; "
        "nothing was changed, mend it and scan again"
    )


def no_match(root: str, pattern: str, names: list[str]) -> SourceError:
    """Return the error of a source in which no name fits the pattern."""
    if not names:
        return _empty(root)
    there = ", ".join(shown(name) for name in sorted(names)[:EXAMPLES])
    return SourceError(f"no file in {root} matches the pattern {pattern!r}; there are, for instance: {there}")


def nothing_readable(root: str, names: list[str]) -> SourceError:
    """Return the error of a source in which no name is a label map's."""
    if not names:
        return _empty(root)
    counts = Counter(Path(name).suffix.lower() for name in names)
    there = ", ".join(
        f"{count} {shown(extension) or 'files without an extension'}{' files' if extension else ''}"
        for extension, count in counts.most_common(EXAMPLES)
    )
    lossy = "; JPEG is lossy, so it cannot hold labels" if counts.keys() & {".jpg", ".jpeg"} else ""
    return SourceError(
        f"{root} holds no label maps that can be read, only {there}{lossy}; name the folder of the label maps"
    )


def ambiguous(root: str, found: list[FileKind]) -> AmbiguousSource:
    """Return the error of a source with several kinds of label map: a --pattern for each."""
    width = max(len(kind.pattern) for kind in found) + 2
    lines = [f"  --pattern {kind.pattern!r:<{width}}  {kind.text}" for kind in found]
    return AmbiguousSource(
        f"{root} holds several kinds of label map; choose one:\n" + "\n".join(lines),
        [kind.pattern for kind in found],
    )


def shown(name: str) -> str:
    """Return a file's name as text, bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _empty(root: str) -> SourceError:
    return SourceError(f"{root} is empty; {'check the URL' if is_url(root) else 'is the disk mounted?'}")
