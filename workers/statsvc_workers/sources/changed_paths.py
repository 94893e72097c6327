"""Looking at changed paths only: all other samples are the current version's, and nothing is listed."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.object_urls import is_url
from statsvc.errors import SourceError
from statsvc_workers.formats.zarr_arrays import MARKS
from statsvc_workers.sources.diff import fingerprint
from statsvc_workers.sources.errors import listing_failed
from statsvc_workers.sources.sources import Listing, list_samples, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting
    from statsvc.store.versions.version import Version
    from statsvc_workers.sources.sources import Entry, Paths, Source


BLOCK = 1 << 16
"""Rows that are copied at a time."""


@dataclass(frozen=True, slots=True)
class Named:
    """A file or folder as `os.DirEntry`, of which only the path is known."""

    path: str

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return its status as it is now. Raises `OSError`."""
        return os.stat(self.path, follow_symlinks=follow_symlinks)  # noqa: PTH116

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return os.path.islink(self.path)  # noqa: PTH114


@dataclass(frozen=True, slots=True)
class ChangedPaths:
    """A version's samples with some looked at anew.

    listing  all samples there are then; fingerprints of those that were not looked at are the version's
    kept     bool [n], samples that were not looked at
    ignored  the paths that mean no sample, neither before nor now
    """

    listing: Listing
    kept: NDArray[np.bool_]
    ignored: list[str]


def look_at(source: Source, counting: Counting, base: Version, named: Sequence[str]) -> ChangedPaths | None:
    """Look at changed files, folders and containers; None where they do not tell what changed.

    A path inside a container or a Zarr folder means that one; a path that is gone removes its samples.

    named  paths relative to the source

    Raises `SourceError` where a path cannot be looked at, or the whole source is away; `DamagedVersion`.
    """
    if is_url(source.root) or _may_mean_json(source.pattern):
        # Pictures beside a panoptic JSON are samples by what it says, whatever they are called.
        return None
    known = base.read("path")
    places = _Places(source.root)
    units: dict[str, list[str]] = {}
    ignored = []
    for path in named:
        unit = places.unit(path, known)
        if unit is None:
            ignored.append(path)
        else:
            units.setdefault(unit, []).append(path)
    chosen = [unit for unit in sorted(units) if not any(above in units for above in _above(unit))]
    found = list_samples(source, counting, places.entries(chosen))
    if places.gone and _is_empty(source.root):
        raise SourceError(f"{source.root} is empty; is the disk mounted?")

    looked_at = np.zeros(len(known), bool)
    for unit in chosen:
        before = [*_places_of(known, unit)]
        looked_at[before] = True
        if not before and not _places_of(found.path, unit):
            ignored.extend(units[unit])
    if any(path not in units and not any(above in units for above in _above(path)) for path in found.path):
        return None
    return ChangedPaths(*_merged(base, known, ~looked_at, found), ignored)


def _merged(
    base: Version, known: np.ndarray[Any, Any], keep: NDArray[np.bool_], found: Listing
) -> tuple[Listing, NDArray[np.bool_]]:
    """Return the listing of the base rows to keep and of what was found, and which of its rows are kept."""
    row = np.array([bisect_left(known, path) for path in found.path], np.int64)
    before = np.concatenate(([0], np.cumsum(keep)))
    place = before[row] + np.arange(len(row))
    kept = np.ones(int(np.count_nonzero(keep)) + len(place), bool)
    kept[place] = False

    def merged(values: np.ndarray[Any, Any], new: Paths) -> np.ndarray[Any, Any]:
        whole = np.empty(len(kept), values.dtype)
        begin = 0
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK][keep[start : start + BLOCK]]
            # Block by block: a copy of all paths beside the two would be the largest thing there is.
            whole[targets[begin : begin + len(block)]] = block
            begin += len(block)
        whole[place] = np.asarray(new, values.dtype)
        return whole

    targets = np.flatnonzero(kept)
    unmoved = np.array_equal(kept, keep) and known[~keep].tolist() == found.path
    path = known if unmoved else merged(known, found.path)
    size, mtime_ns, ctime_ns = (merged(base.read(name), getattr(found, name)) for name in fingerprint(found))
    others = (found.unreadable, found.members, found.class_names)
    return Listing(path, size, mtime_ns, ctime_ns, *others), kept


def _may_mean_json(pattern: str) -> bool:
    """Whether a pattern may match a JSON file: not where its end is spelled out, and is another."""
    found = re.search(r"\{([\w.,]+)\}$|[\w.]+$", pattern.lower())
    ends = [""] if found is None else (found[1] or found[0]).split(",")
    return any(end.endswith(".json") or ".json".endswith(end) for end in ends)


def _places_of(paths: Paths, unit: str) -> list[int]:
    """Return the places in ascending `paths` of a file or folder and of all in it."""
    at = bisect_left(paths, unit)
    own = [at] if at < len(paths) and paths[at] == unit else []
    # "0" is the character that follows "/".
    return [*own, *range(bisect_left(paths, unit + "/"), bisect_left(paths, unit + "0"))]


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class _Places:
    """What changed paths of one source are now: folders, files, or gone."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.gone = False
        self._folders: dict[str, tuple[int, int] | None] = {"": self._folder("")}
        if self._folders[""] is None:
            raise SourceError(f"{root} is not a folder any more; is the disk mounted?")

    def unit(self, path: str, known: np.ndarray[Any, Any]) -> str | None:
        """Return what to look at because of a path; None where a listing would not come there either.

        That is the path itself, or the file, Zarr folder or sample of the version that it lies in, or where
        that is gone, the first folder that is.
        """
        parts = path.split("/")
        above = {self._folders[""]}
        for depth in range(1, len(parts) + 1):
            unit = "/".join(parts[:depth])
            if parts[depth - 1].startswith("."):
                return None
            at = bisect_left(known, unit)
            if depth == len(parts) or (at < len(known) and known[at] == unit):
                return unit
            if unit not in self._folders:
                self._folders[unit] = self._folder(unit)
            identity = self._folders[unit]
            if identity is None:
                return unit
            if identity in above:
                return None  # a link back up
            above.add(identity)
        return path

    def entries(self, units: Sequence[str]) -> Iterator[tuple[str, Entry]]:
        """Yield what is there of some files and folders as `walk` does."""
        for unit in units:
            entry = Named(os.path.join(self.root, unit))  # noqa: PTH118
            if not self._is_there(unit):
                self.gone = True
            elif os.path.isdir(entry.path):  # noqa: PTH112
                yield from walk(self.root, unit, entry)
            else:
                yield unit, entry

    def _folder(self, path: str) -> tuple[int, int] | None:
        """Return the identity of a folder to go into; None for a Zarr folder, a file, or nothing."""
        full = Path(self.root, path)
        try:
            if not full.is_dir() or any((full / mark).is_file() for mark in MARKS):
                return None
            status = full.stat()
        except OSError as error:
            raise listing_failed(self.root, error) from error
        return status.st_dev, status.st_ino

    def _is_there(self, path: str) -> bool:
        try:
            os.lstat(os.path.join(self.root, path))  # noqa: PTH118
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise listing_failed(self.root, error) from error
        return True


def _is_empty(root: str) -> bool:
    try:
        return not any(Path(root).iterdir())
    except OSError:
        return True
