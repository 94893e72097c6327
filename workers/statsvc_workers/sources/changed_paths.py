"""Check only the paths that are reported as changed; all other samples come from the current version."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.object_urls import is_url
from statsvc.errors import SourceError
from statsvc_workers.samples import roots
from statsvc_workers.sources.diff import fingerprint
from statsvc_workers.sources.folders import OutsideEntry, PathEntry, is_zarr_folder, walk
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Listing
from statsvc_workers.sources.listing_errors import listing_failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting
    from statsvc.store.versions.version import Version
    from statsvc_workers.sources.folders import Entry
    from statsvc_workers.sources.listing import Paths, Source


BLOCK_ROWS = 1 << 16
"""Rows that are copied in one step."""

PAIRS = (".json", ".mhd")
"""Endings of files whose samples are also in other files."""


class ChangedPaths(Struct, frozen=True):
    """The samples of a version after some of them were checked again.

    listing    all samples; unchecked samples have the fingerprint that the version stores
    unchecked  bool [n], samples that were not checked
    ignored    reported paths that are not a sample, neither in the version nor now
    """

    listing: Listing
    unchecked: NDArray[np.bool_]
    ignored: list[str]


def check_changed_paths(
    source: Source, counting: Counting, base: Version, paths: Sequence[str]
) -> ChangedPaths | None:
    """Check changed files, folders and containers; return None where the whole source must be listed.

    A path inside a container or a Zarr folder means that container or folder. A path that no longer exists
    removes its samples.

    paths  relative to the source

    Raises `SourceError` where a path cannot be checked or the whole source is missing, and `DamagedVersion`.
    """
    if is_url(source.root) or _may_match_pairs(source.pattern) or counting.masks:
        # Samples of these files depend on others, whatever their names are: the PNG files of a panoptic JSON
        # file, the labels of labelme, the voxels of a MetaImage header.
        return None
    base_paths = base.read("path")
    tree = _SourceTree(source.root)
    units: dict[str, list[str]] = {}
    ignored = []
    for path in paths:
        unit = tree.unit_of(path, base_paths)
        if unit is None:
            ignored.append(path)
        else:
            units.setdefault(unit, []).append(path)
    # A unit inside another unit is checked with it.
    chosen = [unit for unit in sorted(units) if not any(folder in units for folder in _parents(unit))]
    checked = list_samples(source, counting, tree.entries(chosen))
    if tree.has_missing and _is_empty(source.root):
        raise SourceError(f"{source.root} is empty; is the disk mounted?")

    in_units = np.zeros(len(base_paths), bool)
    for unit in chosen:
        base_rows = _rows_below(base_paths, unit)
        in_units[base_rows] = True
        if not base_rows and not _rows_below(checked.path, unit):
            ignored.extend(units[unit])
    if any(
        path not in units and not any(folder in units for folder in _parents(path)) for path in checked.path
    ):
        return None
    return ChangedPaths(*_merge(base, base_paths, ~in_units, checked), ignored)


def _merge(
    base: Version, base_paths: np.ndarray[Any, Any], keep: NDArray[np.bool_], checked: Listing
) -> tuple[Listing, NDArray[np.bool_]]:
    """Merge the base rows to keep, bool [base rows], with the checked samples.

    Returns the merged listing, and which of its rows come from the base, bool [n].
    """
    insert_at = np.array([bisect_left(base_paths, path) for path in checked.path], np.int64)
    kept_before = np.concatenate(([0], np.cumsum(keep)))
    checked_rows = kept_before[insert_at] + np.arange(len(insert_at))
    from_base = np.ones(int(np.count_nonzero(keep)) + len(checked_rows), bool)
    from_base[checked_rows] = False
    base_rows = np.flatnonzero(from_base)

    def merged(values: np.ndarray[Any, Any], new: Paths) -> np.ndarray[Any, Any]:
        column = np.empty(len(from_base), values.dtype)
        begin = 0
        for start in range(0, len(values), BLOCK_ROWS):
            # In blocks, because a further copy of all paths would need more memory than anything else here.
            block = values[start : start + BLOCK_ROWS][keep[start : start + BLOCK_ROWS]]
            column[base_rows[begin : begin + len(block)]] = block
            begin += len(block)
        column[checked_rows] = np.asarray(new, values.dtype)
        return column

    same_paths = np.array_equal(from_base, keep) and base_paths[~keep].tolist() == checked.path
    path = base_paths if same_paths else merged(base_paths, checked.path)
    size, mtime_ns, ctime_ns = (
        merged(base.read(name), getattr(checked, name)) for name in fingerprint(checked)
    )
    listing = Listing(
        path, size, mtime_ns, ctime_ns, checked.unreadable, checked.members, checked.class_names
    )
    return listing, from_base


def _may_match_pairs(pattern: str) -> bool:
    """Whether a pattern may match a file of `PAIRS`: False only if its literal ending is another one."""
    ending = re.search(r"\{([\w.,]+)\}$|[\w.]+$", pattern.lower())
    endings = [""] if ending is None else (ending[1] or ending[0]).split(",")
    return any(text.endswith(pair) or pair.endswith(text) for text in endings for pair in PAIRS)


def _rows_below(paths: Paths, unit: str) -> list[int]:
    """Return the rows in ascending `paths` of a file or folder and of everything below it."""
    row = bisect_left(paths, unit)
    unit_row = [row] if row < len(paths) and paths[row] == unit else []
    # "0" is the character after "/".
    return [*unit_row, *range(bisect_left(paths, unit + "/"), bisect_left(paths, unit + "0"))]


def _parents(path: str) -> Iterator[str]:
    """Yield the folders that contain a path, the innermost first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class _SourceTree:
    """The current state of changed paths of one source: folder, file or missing."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.has_missing = False
        self._folders: dict[str, tuple[int, int] | None] = {"": self._folder_identity("")}
        if self._folders[""] is None:
            raise SourceError(f"{root} is no longer a folder; is the disk mounted?")

    def unit_of(self, path: str, base_paths: np.ndarray[Any, Any]) -> str | None:
        """Return the file or folder to check because of a path; None where a listing would not reach it.

        The unit is the path itself; or the file, Zarr folder or sample of the version that contains it; or
        the outermost folder on the way to it that no longer exists.
        """
        parts = path.split("/")
        above = {self._folders[""]}
        for depth in range(1, len(parts) + 1):
            unit = "/".join(parts[:depth])
            if parts[depth - 1].startswith("."):
                return None
            row = bisect_left(base_paths, unit)
            if depth == len(parts) or (row < len(base_paths) and base_paths[row] == unit):
                return unit
            if unit not in self._folders:
                self._folders[unit] = self._folder_identity(unit)
            identity = self._folders[unit]
            if identity is None:
                return unit
            if identity in above:
                return None  # a link to a folder above it
            above.add(identity)
        return path

    def entries(self, units: Sequence[str]) -> Iterator[tuple[str, Entry]]:
        """Yield the existing files of these units in the form of `walk`."""
        for unit in units:
            entry = PathEntry(os.path.join(self.root, unit))  # noqa: PTH118
            try:
                if not self._exists(unit):
                    self.has_missing = True
                elif _is_folder(entry):
                    yield from walk(self.root, unit, entry)
                else:
                    yield unit, entry
            except roots.OutsideRoots:
                yield unit, OutsideEntry(entry.path)

    def _folder_identity(self, path: str) -> tuple[int, int] | None:
        """Return (device, inode) of a folder; None for a Zarr folder, a file or a missing path."""
        full = Path(self.root, path)
        try:
            status = roots.status(str(full))
            if not S_ISDIR(status.st_mode) or is_zarr_folder(full):
                return None
        except (FileNotFoundError, NotADirectoryError, roots.OutsideRoots):
            return None
        except OSError as error:
            raise listing_failed(self.root, error) from error
        return status.st_dev, status.st_ino

    def _exists(self, path: str) -> bool:
        try:
            roots.status(os.path.join(self.root, path), follow_symlinks=False)  # noqa: PTH118
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise listing_failed(self.root, error) from error
        return True


def _is_folder(entry: PathEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_empty(root: str) -> bool:
    try:
        return not any(Path(root).iterdir())
    except OSError:
        return True
