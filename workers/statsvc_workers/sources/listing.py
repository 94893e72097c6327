"""A source of label maps, and the listing of its samples with their fingerprints."""

from __future__ import annotations

from array import array
from itertools import chain, islice, pairwise
from operator import eq
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.dataset.selection import Selection
    from statsvc.dataset.splits import Split
    from statsvc_workers.samples.members import Member

Paths: TypeAlias = "list[str] | np.ndarray[Any, Any]"

Fingerprint: TypeAlias = tuple[int, int, int]
"""size in bytes, mtime_ns, ctime_ns."""

MAX_LIST_PATHS = 1 << 20
"""Most paths in a list of str, which is faster than a NumPy array, but three times as large."""


class Source(Struct, frozen=True):
    """The files below `root`, an absolute path or URL, whose relative path matches `pattern`.

    A pattern is a glob with `**`, `{a,b}` and `!(a|b)`. Without "/" it matches the file name at any depth;
    with a leading "/" it starts at the root. Names that begin with a dot never match.

    selection  what was found when the source was inspected; None if it was not
    splits     splits that files of the source or its layout define
    """

    root: str
    pattern: str
    selection: Selection | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)


class Listing(Struct, frozen=True):
    """The samples of a source, as columns strictly ascending by path (code-point order).

    path         n relative paths, separated by "/", as a list or of StringDType; bytes that are not UTF-8 are
                 shown as `\\xff`
    size         int64 [n], bytes
    mtime_ns     int64 [n], time of the last modification
    ctime_ns     int64 [n], time of the last change of the inode; 0 for an object
    unreadable   path → why the sample cannot be opened, and what to do; such samples are in the columns, too
    members      path → how to find the sample, for samples that are not a whole file
    class_names  class names of the ids 0 … n−1, where the source contains them
    notes        container → what was left out of it
    etag         StringDType [n], ETags of objects, "" where the server sends none; None for files
    """

    path: Paths
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    ctime_ns: NDArray[np.int64]
    unreadable: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    etag: np.ndarray[Any, Any] | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def sample(self, path: str) -> str | Member:
        """Return what a worker needs to find a sample."""
        return self.members.get(path, path)

    def take(self, rows: NDArray[np.int64]) -> Listing:
        """Return the listing of these samples, int64 [k], ascending."""
        path = [self.path[row] for row in rows] if isinstance(self.path, list) else self.path[rows]
        kept = set(path) if self.unreadable or self.members else set()
        return replace(
            self,
            path=path,
            size=self.size[rows],
            mtime_ns=self.mtime_ns[rows],
            ctime_ns=self.ctime_ns[rows],
            unreadable={each: error for each, error in self.unreadable.items() if each in kept},
            members={each: member for each, member in self.members.items() if each in kept},
            etag=None if self.etag is None else self.etag[rows],
        )

    def lengths(self, rows: NDArray[np.int64]) -> list[int]:
        """Return the approximate number of bytes that a worker reads for each of these samples."""
        sizes: list[int] = self.size[rows].tolist()
        if not self.members:
            return sizes
        members = (self.members.get(self.path[row]) for row in rows)
        return [
            size if member is None or not member.length else member.length
            for size, member in zip(sizes, members, strict=True)
        ]


class SortedColumns(Struct, frozen=True):
    """The columns of a `Listing` without NumPy: paths, and three arrays of n integers."""

    path: list[str]
    size: array[int]
    mtime_ns: array[int]
    ctime_ns: array[int]


class ListingColumns:
    """Samples collected column by column: one object per sample would take three times the memory."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._values = array("q")
        self._sorted: SortedColumns | None = None

    def add(self, path: str, fingerprint: Fingerprint) -> None:
        """Add a sample; a later sample of the same path replaces an earlier one."""
        self.paths.append(path)
        self._values.extend(fingerprint)

    def in_order(self) -> SortedColumns | None:
        """Return the columns, ascending by path; None for more than `MAX_LIST_PATHS` samples."""
        if self._sorted is None and len(self.paths) <= MAX_LIST_PATHS:
            rows = sorted(range(len(self.paths)), key=self.paths.__getitem__)
            paths = [self.paths[row] for row in rows]
            if any(map(eq, paths, islice(paths, 1, None))):
                rows = list(dict(zip(paths, rows, strict=True)).values())  # the last of each path
                paths = [self.paths[row] for row in rows]
            columns = (self._values[column::3] for column in range(3))
            self._sorted = SortedColumns(
                paths, *(array("q", map(column.__getitem__, rows)) for column in columns)
            )
        return self._sorted

    def take_sorted(self) -> tuple[Paths, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return path, size, mtime_ns and ctime_ns, ascending by path, and clear the paths."""
        import numpy as np  # an unchanged folder is recognized without it

        columns = self.in_order()
        listed, self.paths = self.paths, []
        if columns is not None:
            size, mtime_ns, ctime_ns = (
                np.frombuffer(column, np.int64)
                for column in (columns.size, columns.mtime_ns, columns.ctime_ns)
            )
            return columns.path, size, mtime_ns, ctime_ns
        paths = np.array(listed, np.dtypes.StringDType())
        del listed
        order = np.argsort(paths, kind="stable")
        is_last = (paths[row] != paths[following] for row, following in pairwise(order))
        order = order[np.fromiter(chain(is_last, (True,)), bool, len(order))]
        table = np.frombuffer(self._values, np.int64).reshape(-1, 3)
        size, mtime_ns, ctime_ns = (table[order, column] for column in range(3))
        return paths[order], size, mtime_ns, ctime_ns
