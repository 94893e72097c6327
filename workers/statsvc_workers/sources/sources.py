"""Where label maps are: a folder tree and a pattern, listed with the fingerprint of every file."""

from __future__ import annotations

import os
import re
import stat
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from wcmatch import glob

from statsvc.common import object_urls
from statsvc.common.object_urls import SCHEMES, is_url
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import SourceError, UnreadableSample
from statsvc_workers import containers
from statsvc_workers.formats.zarr_arrays import MARKS
from statsvc_workers.samples.members import AGAIN, Member
from statsvc_workers.samples.open_sample import folder_stamp
from statsvc_workers.sources import remote_listing
from statsvc_workers.sources.detection import FileKind, candidates, kinds
from statsvc_workers.sources.errors import (
    EXAMPLES,
    ambiguous,
    listing_failed,
    no_match,
    nothing_readable,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    from statsvc_workers.sources.changed_paths import Named

    Entry: TypeAlias = os.DirEntry[str] | Named
    Paths: TypeAlias = list[str] | np.ndarray[Any, Any]

AS_LIST = 1 << 20
"""Most paths that are kept as Python's strings, which are quicker to go through, and three times as large."""

GLOB = glob.GLOBSTAR | glob.BRACE | glob.EXTGLOB | glob.FORCEUNIX


@dataclass(frozen=True, slots=True)
class Source:
    """Files to count: those below `root`, an absolute path or URL, whose relative path matches `pattern`.

    A pattern is a glob with `**`, `{a,b}` and `!(a|b)`; without "/" it matches the file name at any
    depth, with a leading "/" it starts at the root. Names that begin with a dot are left out.
    """

    root: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of a source, as columns strictly ascending by path (code-point order).

    path        n relative paths, as a list or of StringDType, separated by "/"; bytes that are not UTF-8
                are shown as `\\xff`
    size        int64 [n], bytes
    mtime_ns    int64 [n], last modification
    ctime_ns    int64 [n], last change of the inode; 0 of an object
    etag        StringDType [n], ETags of objects, empty where the server gives none; None for files
    unreadable  path → why it cannot be opened and what to do; such samples are in the columns, too
    members     path → how to find it, of samples that are not a file by themselves
    class_names  names of the ids 0 … n−1, where the source gives them
    """

    path: Paths
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    ctime_ns: NDArray[np.int64]
    unreadable: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    etag: np.ndarray[Any, Any] | None = None

    def sample(self, path: str) -> str | Member:
        """Return what a worker needs to find a sample."""
        return self.members.get(path, path)

    def lengths(self, rows: NDArray[np.int64]) -> list[int]:
        """Return about how many bytes are read for each of some samples."""
        sizes: list[int] = self.size[rows].tolist()
        if not self.members:
            return sizes
        found = (self.members.get(self.path[row]) for row in rows)
        return [
            size if one is None or not one.length else one.length
            for size, one in zip(sizes, found, strict=True)
        ]


def open_source(location: str, pattern: str | None) -> Source:
    """Return the source at `location`, a folder, file or URL; without `pattern`, look what is there.

    Raises `SourceError` where nothing can be counted, `AmbiguousSource` with a pattern for each kind of
    label map where there are several.
    """
    if is_url(location):
        return _open_url(location, pattern)
    place = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - `absolute` keeps ".."
    try:
        mode = place.stat().st_mode
    except FileNotFoundError as error:
        if re.match(r"\w+://", location):
            raise SourceError(
                f"{location!r} has a scheme that is not read; give a folder or file, or {', '.join(SCHEMES)}://…"
            ) from error
        raise SourceError(f"{place} does not exist; is the disk mounted?") from error
    except OSError as error:
        raise SourceError(
            f"{place} cannot be opened: {error.strerror}; check the path and its rights"
        ) from error
    if not stat.S_ISDIR(mode):
        if pattern is not None:
            raise SourceError(f"{place} is one file; leave --pattern out, or name its folder")
        return Source(str(place.parent), "/" + glob.escape(place.name, unix=True))
    if _is_zarr(place):
        if pattern is not None:
            raise SourceError(f"{place} is one Zarr folder; leave --pattern out, or name the folder it is in")
        return Source(str(place.parent), "/" + glob.escape(place.name, unix=True))
    root = str(place)
    if pattern is not None:
        matches = _matcher(pattern)
        names = [path.rstrip("/") for path, _ in walk(root)]
        if not any(matches(path) for path in names):
            raise no_match(root, pattern, names)
        return Source(root, pattern)
    return _detected(root, [path for path, _ in walk(root)])


def one_file(url: str) -> Source | None:
    """Return the source of one file or Zarr at a URL, None for a folder. Raises `SourceError` for nothing."""
    root, name = remote_listing.location(object_urls.normalized(url))
    return Source(root, "/" + glob.escape(name, unix=True)) if name else None


def _open_url(location: str, pattern: str | None) -> Source:
    root = object_urls.normalized(location)
    if (one := one_file(root)) is not None:
        if pattern is not None:
            raise SourceError(f"{root} is one file or Zarr; leave --pattern out, or name what it is in")
        return one
    names = list(remote_listing.walked(root))
    if pattern is None:
        return _detected(root, names)
    matches = _matcher(pattern)
    names = [path.rstrip("/") for path in names]
    if not any(matches(path) for path in names):
        raise no_match(root, pattern, names)
    return Source(root, pattern)


def _detected(root: str, names: list[str]) -> Source:
    """Return the source of the one kind of label map among these paths; Zarr folders end in "/"."""
    readable = candidates(path for path in names if not path.endswith("/"))
    if not readable:
        return Source(root, _one_pattern(root, names))
    found = kinds(root, readable)
    if len(found) > 1:
        raise ambiguous(root, found)
    return Source(root, found[0].pattern)


def _is_zarr(folder: Path) -> bool:
    try:
        return any((folder / mark).is_file() for mark in MARKS)
    except OSError:
        return False


def _one_pattern(root: str, names: list[str]) -> str:
    """Return the pattern of the Zarr folders or containers of a source without label maps in files.

    Raises `SourceError`, also where there are both.
    """
    found: dict[str, int] = Counter()
    for name in names:
        suffix = Path(name).suffix
        if name.endswith("/"):
            found[f"*{suffix}" if suffix else name.rstrip("/").rpartition("/")[2]] += 1
        elif containers.is_container(name, containers.DETECTED):
            found[f"*{suffix}"] += 1
    if not found:
        raise nothing_readable(root, names)
    if len(found) > 1:
        raise ambiguous(root, [FileKind(pattern, f"{count} of them") for pattern, count in found.items()])
    return next(iter(found))


def list_samples(
    source: Source, counting: Counting | None = None, entries: Iterable[tuple[str, Entry]] | None = None
) -> Listing:
    """List the source's samples with size and times, by `stat`; containers are opened and listed.

    `counting` chooses among the members of a container, and says what a row of an array is. `entries`
    are all that is looked at, as `walk` yields them, and may mean no sample; by itself the whole source.

    Raises `SourceError` for any error while listing, so that a share that goes away in the midst cannot
    pass for files that were removed; and where no file matches.
    """
    counting = counting or Counting()
    matches = _matcher(source.pattern)
    if is_url(source.root):
        return _list_url(source, matches, counting)
    rows = _Rows()
    unreadable: dict[str, str] = {}
    unnameable: list[tuple[str, tuple[int, int, int]]] = []
    others: list[str] = []
    members: dict[str, Member] = {}
    class_names: tuple[str, ...] = ()
    for found, entry in walk(source.root) if entries is None else entries:
        path = found.rstrip("/")
        if not matches(path):
            if len(others) < EXAMPLES:
                others.append(path)
            continue
        if not path.isascii() and shown(path) != path:
            unnameable.append((shown(path), _fingerprint(source.root, entry)[0]))
            continue
        if counting.rows != "array" and not containers.is_container(path):
            try:
                for member in containers.parts(source.root, path, counting):
                    listed = containers.fingerprint(source.root, member)
                    rows.add(member.path, listed)
                    members[member.path] = replace(member, listed=listed)
            except UnreadableSample as error:
                rows.add(path, _fingerprint(source.root, entry)[0])
                unreadable[path] = str(error)
            except OSError as error:
                raise listing_failed(source.root, error) from error
            continue
        if found.endswith("/"):
            try:
                rows.add(path, folder_stamp(entry.path).fingerprint)
            except OSError as error:
                raise listing_failed(source.root, error) from error
            members[path] = Member(path, path, "zarr")
            continue
        fingerprint, reason = _fingerprint(source.root, entry)
        if not reason and containers.is_container(path):
            try:
                contents = containers.listed(source.root, path, counting.key)
            except UnreadableSample as error:
                rows.add(path, fingerprint)
                unreadable[path] = str(error)
                continue
            except OSError as error:
                raise listing_failed(source.root, error) from error
            class_names = class_names or contents.class_names
            now = os.stat(entry.path)  # noqa: PTH116 - the entry remembers what it was
            steady = (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == fingerprint
            for member in contents.members:
                listed = fingerprint
                if member.file != path:
                    try:
                        listed = containers.fingerprint(source.root, member)
                    except OSError:
                        unreadable[member.path] = f"is named in {path}, but is not there; complete the folder"
                if not steady:
                    unreadable[member.path] = f"{path} changed while it was listed; {AGAIN}"
                rows.add(member.path, listed)
                members[member.path] = replace(member, listed=listed)
            continue
        rows.add(path, fingerprint)
        if reason:
            unreadable[path] = reason
    taken = set(rows.paths) if unnameable else set()
    for path, fingerprint in sorted(unnameable):
        while path in taken:
            path += "?"  # noqa: PLW2901 - a file whose name is that text, or another like it
        taken.add(path)
        rows.add(path, fingerprint)
        unreadable[path] = "has a name that is not UTF-8; rename it"
    if not rows.paths and entries is None:
        raise no_match(source.root, source.pattern, others)
    return Listing(*rows.in_order(), unreadable, members, class_names)


class _Rows:
    """Samples as they are found, column by column: objects for each would take three times the memory."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._values = array("q")

    def add(self, path: str, fingerprint: tuple[int, int, int]) -> None:
        """Add a sample; of one that is added again the later counts."""
        self.paths.append(path)
        self._values.extend(fingerprint)

    def in_order(self) -> tuple[Paths, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return path, size, mtime_ns and ctime_ns, ascending by path; what was added is gone then."""
        paths: Paths = self.paths
        self.paths = []
        order: NDArray[np.int64]
        if len(paths) > AS_LIST:
            paths = np.array(paths, np.dtypes.StringDType())
            order = np.argsort(paths, kind="stable")
        else:
            order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int64)
        ahead = (paths[at] != paths[then] for at, then in pairwise(order))
        order = order[np.fromiter(chain(ahead, (True,)), bool, len(order))]
        found = paths[order] if isinstance(paths, np.ndarray) else [paths[at] for at in order]
        table = np.frombuffer(self._values, np.int64).reshape(-1, 3)
        size, mtime_ns, ctime_ns = (table[order, column] for column in range(3))
        return found, size, mtime_ns, ctime_ns


def _list_url(source: Source, matches: Callable[[str], bool], counting: Counting) -> Listing:
    found = remote_listing.listed(source.root, source.pattern, matches, counting)
    if not found.stamps:
        raise no_match(source.root, source.pattern, found.others)
    paths = sorted(found.stamps)
    table = np.array([found.stamps[path][:3] for path in paths], np.int64).reshape(-1, 3)
    size, mtime_ns, ctime_ns = (np.ascontiguousarray(table[:, column]) for column in range(3))
    etag = np.array([found.stamps[path].etag for path in paths], np.dtypes.StringDType())
    return Listing(paths, size, mtime_ns, ctime_ns, found.unreadable, found.members, found.class_names, etag)


def _fingerprint(root: str, entry: Entry) -> tuple[tuple[int, int, int], str]:
    """Return (size, mtime, ctime), and why the file cannot be opened, if so."""
    reason = ""
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            reason = "is a device or pipe, not a file; leave it out with --pattern"
    except OSError as error:
        if not entry.is_symlink():
            raise listing_failed(root, error) from error
        status = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path)  # noqa: PTH115 - Path would normalise it
        reason = f"is a symbolic link to {shown(target)}, which cannot be opened ({error.strerror}); mend it"
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns), reason


def walk(root: str, start: str = "", itself: Entry | None = None) -> Iterator[tuple[str, Entry]]:
    """Yield (relative path, entry) of every file below `root`, following links, without dot-names.

    `start` is a folder below `root`, given with its entry, to look at that one only. A Zarr folder is
    yielded as one, its path with a "/" at the end, and not gone into. Any error is raised as `SourceError`.
    """
    # Each folder with the (device, inode) of those above it: a link back up is a loop, and is not
    # followed; a folder reached by two names is listed under both, whatever the order of the walk.
    waiting: list[tuple[str, frozenset[tuple[int, int]], Entry | None]] = [(start, frozenset(), itself)]
    while waiting:
        folder, above, itself = waiting.pop()
        full = os.path.join(root, folder)  # noqa: PTH118 - a million of them
        try:
            status = os.stat(full)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(full) as scanned:
                entries = list(scanned)
            if itself is not None and any(entry.name in MARKS for entry in entries):
                yield folder + "/", itself
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_folder(entry):
                    waiting.append((path, above | {identity}, entry))
                else:
                    yield path, entry
        except SourceError:
            raise
        except OSError as error:
            raise listing_failed(root, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():
            return False  # a link to itself; reported as a sample if it matches
        raise


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a relative path matches. Raises `SourceError`."""
    if not pattern.strip("/"):
        raise SourceError(f"the pattern {pattern!r} names no file; give one such as '*_labelIds.png'")
    whole = "/" in pattern
    try:
        included, _ = glob.translate(pattern.lstrip("/"), flags=GLOB)
        # All alternatives as one: it is asked of every file.
        fits = re.compile("|".join(f"(?:{expression})" for expression in included)).fullmatch
    except Exception as error:
        raise SourceError(
            f"the pattern {pattern!r} cannot be read: {error}; see --help for its form"
        ) from error

    def matches(path: str) -> bool:
        return fits(path if whole else path.rpartition("/")[2]) is not None

    return matches
