"""Find the label maps at a location: return the source, with a pattern that selects one kind of label map."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.common import object_urls
from statsvc.common.object_urls import SCHEMES, is_url
from statsvc.errors import SourceError
from statsvc_workers import containers
from statsvc_workers.formats import extension
from statsvc_workers.sources import remote_listing
from statsvc_workers.sources.detection import FileKind, candidates, kinds
from statsvc_workers.sources.errors import ambiguous, no_match, nothing_readable
from statsvc_workers.sources.folders import is_zarr_folder, walk
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.patterns import matcher, pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterable


def open_source(location: str, pattern: str | None, *, masks: bool = False) -> Source:
    """Return the source at `location`, a folder, file or URL; without `pattern`, detect the label maps.

    With `masks`, all files of a folder with the most frequent extension are masks of the classes of pictures.

    Raises `SourceError` where nothing can be counted, and `AmbiguousSource`, with one pattern for each kind,
    where the location contains several kinds of label map.
    """
    if is_url(location):
        return _open_url(location, pattern)
    path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - `absolute` keeps ".."
    mode = _mode(location, path)
    if not stat.S_ISDIR(mode):
        if pattern is not None:
            raise SourceError(f"{path} is a single file; omit --pattern, or pass its folder")
        return Source(str(path.parent), pattern_of(path.name))
    if _is_zarr(path):
        if pattern is not None:
            raise SourceError(f"{path} is a single Zarr folder; omit --pattern, or pass its parent folder")
        return Source(str(path.parent), pattern_of(path.name))
    root = str(path)
    names = (name for name, _ in walk(root))
    if masks and pattern is None:
        extensions = Counter(map(extension, candidates(names)))
        if not extensions:
            raise nothing_readable(root, [name for name, _ in walk(root)])
        return Source(root, f"*{extensions.most_common(1)[0][0]}")
    return _detect(root, list(names)) if pattern is None else _matching(root, pattern, names)


def single_file_source(url: str) -> Source | None:
    """Return the source of a URL of one file or Zarr array; None for a folder.

    Raises `SourceError` where the URL does not exist.
    """
    root, name = remote_listing.split_location(object_urls.normalized(url))
    return Source(root, pattern_of(name)) if name else None


def _open_url(location: str, pattern: str | None) -> Source:
    root = object_urls.normalized(location)
    if (single_file := single_file_source(root)) is not None:
        if pattern is not None:
            raise SourceError(f"{root} is a single file or Zarr array; omit --pattern, or pass its folder")
        return single_file
    names = remote_listing.walk_objects(root)
    return _detect(root, names) if pattern is None else _matching(root, pattern, names)


def _mode(location: str, path: Path) -> int:
    """Return the mode of a file or folder. Raises `SourceError`."""
    try:
        return path.stat().st_mode
    except FileNotFoundError as error:
        if re.match(r"\w+://", location):
            raise SourceError(
                f"{location!r} has an unsupported URL scheme; pass a folder, a file, or a URL with one of "
                f"the schemes {', '.join(SCHEMES)}"
            ) from error
        raise SourceError(f"{path} does not exist; is the disk mounted?") from error
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened: {error.strerror}; check the path and its permissions"
        ) from error


def _is_zarr(path: Path) -> bool:
    try:
        return is_zarr_folder(path)
    except OSError:
        return False


def _matching(root: str, pattern: str, names: Iterable[str]) -> Source:
    """Return the source of a pattern. Raises `SourceError` where no path matches; Zarr folders end in "/"."""
    matches = matcher(pattern)
    paths = [path.rstrip("/") for path in names]
    if not any(matches(path) for path in paths):
        raise no_match(root, pattern, paths)
    return Source(root, pattern)


def _detect(root: str, names: list[str]) -> Source:
    """Return the source of the only kind of label map among these paths; Zarr folders end in "/".

    Raises `SourceError`.
    """
    readable = candidates(path for path in names if not path.endswith("/"))
    if not readable:
        return Source(root, _container_pattern(root, names))
    detected = kinds(root, readable)
    if len(detected) > 1:
        raise ambiguous(root, detected)
    return Source(root, detected[0].pattern)


def _container_pattern(root: str, names: list[str]) -> str:
    """Return the pattern of the Zarr folders or containers of a source without single label map files.

    Raises `SourceError`, also where the source contains several kinds of them.
    """
    patterns: Counter[str] = Counter()
    for name in names:
        suffix = Path(name).suffix
        if name.endswith("/"):
            patterns[f"*{suffix}" if suffix else name.rstrip("/").rpartition("/")[2]] += 1
        elif containers.is_container(name, containers.DETECTED):
            patterns[f"*{suffix}"] += 1
    if not patterns:
        raise nothing_readable(root, names)
    if len(patterns) > 1:
        raise ambiguous(
            root,
            [
                FileKind(pattern, f"{count} {'file or folder' if count == 1 else 'files or folders'}")
                for pattern, count in patterns.items()
            ],
        )
    return next(iter(patterns))
